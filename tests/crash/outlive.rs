//! Steps that want to outlive the builder: deaf to every signal, without a death signal, as orphans in sessions
//! of their own, as a setuid program. No process of theirs is left after the builder, however it ended.

use super::*;

/// What tries it: a target of [`DOCKERFILE`] or, if it has none, `rbuild run`.
const WAYS: [&str; 3] = ["plain", "setuid", ""];

const DOCKERFILE: &str = "FROM busybox AS base\nCOPY --chmod=4755 survivor /survivor\nRUN seq 1 20000 > /numbers\n\
    RUN --mount=type=cache,target=/c chmod 777 /c; cat /numbers > /again\n\
    FROM base AS plain\nARG MARK OUTSIDE\nRUN --mount=type=cache,target=/c exec /survivor outlive $MARK $OUTSIDE\n\
    FROM base AS setuid\nUSER app\nARG MARK OUTSIDE\n\
    RUN --mount=type=cache,target=/c exec /survivor outlive $MARK $OUTSIDE\n";

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    /// The process that was started.
    Outer,
    /// The one that does the work, in a user namespace.
    Inner,
    /// All that were started with it.
    Group,
}

struct Process {
    pid: u32,
    parent: u32,
    command: Vec<u8>,
}

/// The living processes that were started with a word, the builder's own ones included.
fn with_word(word: &str) -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let process = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        Some(Process { pid, parent, command })
    };
    let has_word =
        |process: &Process| process.command.windows(word.len()).any(|window| window == word.as_bytes());
    entries.filter_map(process).filter(has_word).collect()
}

/// Waits until `done` says so, for longer than any machine may need.
fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

struct Scene {
    lab: Lab,
    context: std::path::PathBuf,
    outside: std::path::PathBuf,
    flags: Vec<&'static str>,
}

impl Scene {
    fn new(test: &str, who: Who, flags: &[&'static str]) -> Option<Self> {
        if !bases_or_skip(test) {
            return None;
        }
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", DOCKERFILE)]);
        if !compiled(test, "survivor/survivor.c", &context.join("survivor")) {
            return None;
        }
        let outside = lab.context(&[("file", "text"), ("dir/file", "text")]);
        let scene = Scene { lab, context, outside, flags: flags.to_vec() };
        let done = scene.build_base();
        if support::lacks_mapped_owners(test, &done) {
            return None;
        }
        assert_eq!(done.code, 0, "{}", done.err);
        Some(scene)
    }

    fn build_base(&self) -> support::Done {
        let flags = [&self.flags[..], &["--target=base", "-t", "outlive:1"]].concat();
        self.lab.build(&self.context, &flags)
    }

    fn command(&self, way: &str, mark: &str) -> Command {
        let outside = self.outside.display();
        let mut command = self.lab.rbuild();
        if way.is_empty() {
            command.arg("run").args(&self.flags);
            command.args(["outlive:1", "/survivor", "outlive", mark]).arg(&self.outside);
        } else {
            command.arg("build").args(self.lab.bases()).args(&self.flags).args(["--target", way]);
            command.arg(format!("--build-arg=MARK={mark}")).arg(format!("--build-arg=OUTSIDE={outside}"));
            command.arg(&self.context);
        }
        let errors = fs::File::create(self.lab.path().join("errors")).expect("errors");
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        command
    }

    fn outside(&self) -> String {
        let facts = "find \"$1\" -printf '%p %y %m %U %s %T@\\n' | sort";
        support::tool("sh", &["-c".as_ref(), facts.as_ref(), "sh".as_ref(), self.outside.as_os_str()]).out
    }

    /// Kills one builder while its step lives in four processes.
    fn kill(&self, way: &str, victim: Victim, mark: &str) {
        let mut child = self.command(way, mark).spawn().expect("rbuild starts");
        let steps =
            || with_word(mark).iter().filter(|process| process.command.starts_with(b"/survivor")).count();
        let mut found = 0;
        wait_until(|| {
            found = steps();
            found >= 4 || child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        if found < 4 {
            let _ = child.kill();
            let errors = fs::read_to_string(self.lab.path().join("errors")).unwrap_or_default();
            panic!("{way}: {found} processes of the step start; {:?}: {errors}", child.wait());
        }
        let target = match victim {
            Victim::Outer => child.id().to_string(),
            Victim::Inner => {
                let inner = with_word(mark).into_iter().find(|process| process.parent == child.id());
                inner.map_or(child.id(), |process| process.pid).to_string()
            }
            Victim::Group => format!("-{}", child.id()),
        };
        support::tool("kill", &["-9".as_ref(), "--".as_ref(), target.as_ref()]);
        let ended = wait_until(|| child.try_wait().is_ok_and(|ended| ended.is_some()));
        assert!(ended, "{way}: {victim:?} was killed, and the builder lives on");
        let gone = wait_until(|| with_word(mark).is_empty());
        if !gone {
            for process in with_word(mark) {
                let _ = Command::new("kill").args(["-9", &process.pid.to_string()]).status();
            }
        }
        assert!(gone, "{way}, {victim:?} killed: processes of the step live on");
    }
}

fn nothing_outlives(test: &str, who: Who, flags: &[&'static str]) {
    let Some(scene) = Scene::new(test, who, flags) else { return };
    let before = scene.outside();
    let kills = wanted_kills().map_or(WAYS.len(), |kills| kills / 4);
    for number in 0..kills {
        let way = WAYS[number % WAYS.len()];
        // The last of them changes with every round, so that each way meets each victim.
        let inner = if who == Who::Caller { Victim::Outer } else { Victim::Inner };
        let victims = [inner, Victim::Group, Victim::Outer];
        let victim = victims[(number + number / WAYS.len()) % victims.len()];
        scene.kill(way, victim, &format!("mark-{}-{test}-{number}", std::process::id()));
        let context = format!("{way:?}, {victim:?} killed, kill {number}");
        let checked = fsck(&scene.lab);
        assert!(checked.code == 0, "{context}: {}{}", checked.out, checked.err);
        let left = leftovers(&scene.lab);
        assert!(left.is_empty(), "{context}: left {left:?}");
        let again = scene.build_base();
        assert!(
            again.code == 0 && again.err.matches("CACHED").count() == 3,
            "{context}: lost\n{}",
            again.err
        );
        assert_eq!(scene.outside(), before, "{context}");
    }
    println!("{kills} builds with surviving steps killed as {who:?} {flags:?}");
}

#[test]
fn nothing_outlives_a_builder_that_is_root() {
    if is_root() {
        nothing_outlives("nothing_outlives_a_builder_that_is_root", Who::Caller, &["--userns=host"]);
    } else {
        skip("nothing_outlives_a_builder_that_is_root", "needs root");
    }
}

#[test]
fn nothing_outlives_a_builder_with_private_users() {
    if is_root() {
        let flags = ["--userns=private", "--network=none"];
        nothing_outlives("nothing_outlives_a_builder_with_private_users", Who::Caller, &flags);
    } else {
        skip("nothing_outlives_a_builder_with_private_users", "needs root");
    }
}

#[test]
fn nothing_outlives_a_builder_with_subordinate_ids() {
    let test = "nothing_outlives_a_builder_with_subordinate_ids";
    if can_be_rootless(test) {
        nothing_outlives(test, Who::Rootless, &[]);
    }
}

#[test]
fn nothing_outlives_a_builder_with_one_id() {
    let test = "nothing_outlives_a_builder_with_one_id";
    if is_root() && user_of(Who::SingleId).is_some() {
        nothing_outlives(test, Who::SingleId, &[]);
    } else {
        skip(test, "there is no user with one ID (tests/setup makes one)");
    }
}

/// Filters of older container runtimes answer ENOSYS to `clone3`.
#[test]
fn steps_start_where_a_filter_does_not_know_clone3() {
    let test = "steps_start_where_a_filter_does_not_know_clone3";
    if !is_root() {
        return skip(test, "needs root for the filter");
    }
    for who in support::modes(test) {
        let Some(scene) = Scene::new(test, who, &[]) else { return };
        let rbuild = scene.lab.rbuild();
        let mut command = Command::new(scene.context.join("survivor"));
        command.arg("without-clone3").arg(rbuild.get_program()).args(rbuild.get_args());
        command.env_clear().envs(rbuild.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.args(["build", "--no-cache", "--target=base"]).args(scene.lab.bases()).arg(&scene.context);
        let done =
            support::done(command.current_dir(scene.lab.path()).output().expect("the filter's program"));
        assert_eq!(done.code, 0, "{who:?}: {}", done.err);
    }
}
