//! What users and their scripts hand over by accident, and what others hand over on purpose: empty values,
//! links and pipes as Dockerfiles, text that drives a terminal.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Lab, Who, done, has, is_root, skip, user_of};

const COPY: &[(&str, &str)] =
    &[("Dockerfile", "FROM scratch\nCOPY a /etc/passwd\n"), ("a", "of the image\n")];

#[test]
fn an_empty_value_of_an_option_is_as_good_as_none() {
    let lab = Lab::new();
    let context = lab.context(COPY);
    let here = lab.context(&[("etc/passwd", "mine\n")]);
    let build = |args: &[&str]| {
        let mut command = lab.rbuild();
        command.current_dir(&here).arg("build").args(args).arg(&context);
        done(command.output().expect("rbuild starts"))
    };
    let wanted = build(&["-q"]);
    assert_eq!(wanted.code, 0, "{}", wanted.err);
    for option in [
        "--output",
        "--file",
        "--progress",
        "--target",
        "--iidfile",
        "--metadata-file",
        "--platform",
        "--network",
        "--annotation",
        "--build-context",
        "--cache-from",
        "--cache-to",
        "--no-cache-filter",
        "--secret",
        "--ssh",
        "--allow",
        "--add-host",
        "--cgroup-parent",
        "--cpuset-cpus",
        "--cpuset-mems",
        "--isolation",
        "--runtime",
        "--call",
        "--builder",
        "--insecure-registry",
        "--root",
        "--registries",
    ] {
        for args in [vec!["-q", option, ""], vec!["-q", &format!("{option}=")]] {
            let ended = build(&args);
            assert_eq!((ended.code, &ended.out), (0, &wanted.out), "{args:?}: {}", ended.err);
        }
    }
    // Where Docker refuses it, so does rbuild.
    for option in ["--tag", "--build-arg", "--label", "--ulimit", "--memory", "--shm-size", "--timeout"] {
        let ended = build(&[option, ""]);
        assert!(ended.code == 2 && ended.err.contains("error:"), "{option}: {} {}", ended.code, ended.err);
    }
    let check =
        done(lab.rbuild().args(["check", "-f", "", "-o", ""]).arg(&context).output().expect("starts"));
    assert_eq!(check.code, 0, "{}", check.err);
    let plan =
        done(lab.rbuild().args(["plan", "-f", "", "--target="]).arg(&context).output().expect("starts"));
    assert_eq!(plan.code, 0, "{}", plan.err);
    assert_eq!(fs::read_to_string(here.join("etc/passwd")).expect("mine"), "mine\n");
    assert_eq!(fs::read_dir(&here).expect("list").count(), 1);
}

#[test]
fn an_empty_path_never_means_the_current_directory() {
    let lab = Lab::new();
    let context = lab.context(COPY).display().to_string();
    let here = lab.context(&[]);
    for args in [
        vec!["build", "-o", "type=local,dest=", &context],
        vec!["build", "-o", "type=oci,tar=false,dest=", &context],
        vec!["build", "-o", "type=tar,dest=", &context],
        vec!["build", "--build-context", "x=", &context],
        vec!["build", "--build-context", "x=oci-layout://", &context],
        vec!["build", "--build-context", "x=oci-layout://:tag", &context],
        vec!["build", ""],
        vec!["plan", ""],
        vec!["copy", "store:x", "oci:"],
        vec!["copy", "store:x", "oci::tag"],
        vec!["copy", "oci-archive::tag", "store:x"],
    ] {
        let ended = done(lab.rbuild().current_dir(&here).args(&args).output().expect("rbuild starts"));
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.err);
        assert_eq!(fs::read_dir(&here).expect("list").count(), 0, "{args:?}");
    }
}

#[test]
fn files_of_others_are_named_before_an_output_replaces_them() {
    let lab = Lab::new();
    let context = lab.context(COPY);
    let here = lab.context(&[("etc/passwd", "mine\n"), ("kept", "mine\n")]);
    let output = here.display().to_string();
    let first = lab.build(&context, &["-o", &output]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.err.contains("rbuild did not write there: replacing etc/passwd\n"), "{}", first.err);
    assert_eq!(fs::read_to_string(here.join("etc/passwd")).expect("new"), "of the image\n");
    assert_eq!(fs::read_to_string(here.join("kept")).expect("kept"), "mine\n");

    let new = lab.out("new").display().to_string();
    for _ in 0..2 {
        let quiet = lab.build(&context, &["-o", &new]);
        assert!(quiet.code == 0 && !quiet.err.contains("warning"), "{}", quiet.err);
    }
    let blocked = lab.context(&[("etc/passwd/", "")]);
    let refused = lab.build(&context, &["-o", &blocked.display().to_string()]);
    assert!(refused.code == 6 && refused.err.contains("a directory is in the way"), "{}", refused.err);
    assert!(blocked.join("etc/passwd").is_dir());
}

#[test]
fn programs_in_an_output_do_not_lend_the_rights_of_whoever_built_them() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY --chmod=4755 a /a\n"), ("a", "x")]);
    let mode = |out: &Path| fs::metadata(out.join("a")).expect("a").permissions().mode() & 0o7777;
    let plain = lab.out("plain");
    let ended = lab.build(&context, &["-o", &plain.display().to_string()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(mode(&plain), 0o755);
    assert!(
        ended.err.contains("1 set-user-ID or set-group-ID file (keep-special=true keeps them)"),
        "{}",
        ended.err
    );
    let kept = lab.out("kept");
    let ended =
        lab.build(&context, &["-o", &format!("type=local,dest={},keep-special=true", kept.display())]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(mode(&kept), 0o4755);
    assert!(!ended.err.contains("warning"), "{}", ended.err);
}

fn fifo(path: &Path) {
    support::tool("mkfifo", &[path.as_os_str()]);
}

/// Ends a program that hangs, so that the test fails and does not hang as well.
fn within_a_minute(mut child: Child) -> support::Done {
    let begun = Instant::now();
    while child.try_wait().expect("wait").is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().expect("kill");
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    done(child.wait_with_output().expect("output"))
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("rbuild starts")
}

#[test]
fn special_files_in_the_place_of_a_dockerfile_are_refused_and_never_waited_for() {
    let lab = Lab::new();
    for name in ["Dockerfile", "Dockerfile.dockerignore", ".dockerignore"] {
        for kind in ["a fifo", "a directory"] {
            let context = lab.context(&[("a", "x")]);
            if name != "Dockerfile" {
                fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY a /\n").expect("write");
            }
            match kind {
                "a fifo" => fifo(&context.join(name)),
                _ => fs::create_dir(context.join(name)).expect("mkdir"),
            }
            for verb in ["build", "check", "plan"] {
                let ended = within_a_minute(start(lab.rbuild().arg(verb).arg(&context)));
                assert_eq!(ended.code, 4, "{verb} {name} {kind}: {}", ended.err);
                assert!(ended.err.contains(&format!("{name}\" is {kind}, not a file")), "{}", ended.err);
            }
        }
    }
}

#[test]
fn a_dockerfile_without_end_is_refused_at_the_limit() {
    let lab = Lab::new();
    let context = lab.context(&[("a", "x")]);
    let zero = lab.rbuild().args(["check", "-f", "/dev/zero"]).arg(&context).output().expect("starts");
    let zero = done(zero);
    assert!(zero.code == 4 && zero.err.contains("larger than 16 MiB"), "{}", zero.err);
    for name in ["Dockerfile", ".dockerignore"] {
        fs::write(context.join("Dockerfile"), "FROM scratch\n").expect("write");
        let file = fs::File::options().create(true).append(true).open(context.join(name)).expect("open");
        file.set_len(17 << 20).expect("a sparse file");
        let ended = done(lab.rbuild().arg("check").arg(&context).output().expect("starts"));
        assert!(ended.code == 4 && ended.err.contains("larger than 16 MiB"), "{name}: {}", ended.err);
        fs::remove_file(context.join(name)).expect("remove");
    }
    let mut endless = lab.rbuild();
    endless.args(["build", "-"]).stdin(fs::File::open("/dev/zero").expect("zero"));
    let ended = within_a_minute(start(&mut endless));
    assert_eq!(ended.code, 4, "{}", ended.err);
}

#[test]
fn a_dockerfile_that_the_user_names_may_be_a_link_or_a_pipe() {
    let lab = Lab::new();
    let context = lab.context(&[("a", "x")]);
    let elsewhere = lab.context(&[("File", "FROM scratch\nCOPY a /\n")]);
    std::os::unix::fs::symlink(elsewhere.join("File"), elsewhere.join("link")).expect("link");
    let link = done(
        lab.rbuild()
            .args(["build", "-q", "-f"])
            .arg(elsewhere.join("link"))
            .arg(&context)
            .output()
            .expect("starts"),
    );
    assert_eq!(link.code, 0, "{}", link.err);
    let pipe = elsewhere.join("pipe");
    fifo(&pipe);
    let child = start(lab.rbuild().args(["build", "-q", "-f"]).arg(&pipe).arg(&context));
    // Opening waits for the reader; the pause between the two halves is one that a writer may make.
    let mut writer = fs::File::options().write(true).open(&pipe).expect("open");
    std::io::Write::write_all(&mut writer, b"FROM scratch\n").expect("write");
    std::thread::sleep(Duration::from_millis(50));
    std::io::Write::write_all(&mut writer, b"COPY a /\n").expect("write");
    drop(writer);
    let ended = within_a_minute(child);
    assert_eq!((ended.code, ended.out), (0, link.out), "{}", ended.err);
}

#[test]
fn waiting_for_input_that_does_not_come_ends_with_an_interruption() {
    let lab = Lab::new();
    let context = lab.context(&[("a", "x")]);
    let pipe = context.join("pipe");
    fifo(&pipe);
    // Somebody has to hold the other end of standard input, or it ends at once.
    let (reader, writer) = std::io::pipe().expect("pipe");
    let rows: [&[&str]; 4] = [
        &["build", "-f", "pipe", "."],
        &["check", "-f", "pipe", "."],
        &["build", "-"],
        &["build", "-f", "-", "."],
    ];
    for args in rows {
        let mut command = lab.rbuild();
        command.current_dir(&context).args(args).stdin(reader.try_clone().expect("pipe"));
        let child = start(&mut command);
        // Until it watches for signals, the default is to die of them.
        let watches = format!("/proc/{}/status", child.id());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(30) {
            let caught = fs::read_to_string(&watches).unwrap_or_default();
            let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
            if u64::from_str_radix(caught, 16).unwrap_or(0) & 2 != 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        support::tool("kill", &["-INT".as_ref(), child.id().to_string().as_ref()]);
        let ended = within_a_minute(child);
        assert_eq!(ended.code, 130, "{args:?}: {}", ended.err);
    }
    drop(writer);
}

/// What would set the clipboard, clear the screen, forge lines and turn the direction of text.
const EVIL: &str = "\x1b]52;c;eA==\x07\x1b[2J\u{9b}31m\u{202e}\u{200b}";

fn is_calm(what: &str, text: &str) {
    assert!(!text.contains(['\x07', '\x1b', '\u{9b}', '\u{202e}', '\u{200b}']), "{what}: {text:?}");
}

#[test]
fn text_of_dockerfiles_and_contexts_does_not_drive_the_terminal() {
    let lab = Lab::new();
    let dockerfile = format!(
        "FROM scratch AS a{EVIL}\n# {EVIL}\nARG X={EVIL}\nLABEL l=\"{EVIL}\"\nCOPY [\"a{EVIL}\", \"/b\"]\nfrom scratch as B\n"
    );
    let good = format!("FROM scratch\nLABEL l=\"{EVIL}\"\nCOPY . /n{EVIL}/\nMAINTAINER {EVIL}\n");
    let bad = lab.context(&[("Dockerfile", &dockerfile)]).display().to_string();
    let context = lab.context(&[("Dockerfile", &good), (&format!("n{EVIL}"), "x")]).display().to_string();
    let missing = lab
        .context(&[("Dockerfile", &format!("FROM scratch\nCOPY [\"m{EVIL}\", \"/\"]\n"))])
        .display()
        .to_string();
    let ignored = lab
        .context(&[("Dockerfile", "FROM scratch\n"), (".dockerignore", &format!("[{EVIL}\n"))])
        .display()
        .to_string();
    let second = format!("{good}COPY . /o/\n");
    let second = lab.context(&[("Dockerfile", &second), (&format!("n{EVIL}"), "y")]).display().to_string();
    let output = format!("type={EVIL}");
    let rows: Vec<Vec<&str>> = vec![
        vec!["build", "--progress=plain", "-t", "app:1", &context],
        vec!["build", "--progress=plain", "-t", "app:2", &second],
        vec!["build", &bad],
        vec!["build", "-q", &bad],
        vec!["build", "--progress=rawjson", &context],
        vec!["build", &missing],
        vec!["build", &ignored],
        vec!["build", "--target", EVIL, &context],
        vec!["build", "-f", EVIL, &context],
        vec!["build", "-t", EVIL, &context],
        vec!["build", "-o", &output, &context],
        vec!["build", EVIL],
        vec!["check", &bad],
        vec!["check", &context],
        vec!["check", "--format=json", &context],
        vec!["build", "--call=outline", &context],
        vec!["build", "--call=targets", &bad],
        vec!["build", "--call=targets,format=json", &context],
        vec!["plan", &context],
        vec!["plan", "--format=dot", &context],
        vec!["plan", "--format=json", &context],
        vec!["images"],
        vec!["images", "--json"],
        vec!["inspect", "app:1"],
        vec!["history", "app:1"],
        vec!["history", "--no-trunc", "app:1"],
        vec!["diff", "app:1", "app:2"],
        vec!["diff", "--format=json", "app:1", "app:2"],
        vec!["validate", "app:1"],
        vec!["du", "--verbose"],
        vec!["du", "--format=json"],
        vec!["prune", "--dry-run", "-a"],
        vec!["rmi", EVIL],
        vec!["inspect", EVIL],
        vec!["copy", EVIL, "store:x"],
    ];
    for args in rows {
        let ended = lab.run(&args);
        assert!(ended.code == 0 || !args.contains(&"app:2"), "{args:?}: {}", ended.err);
        is_calm(&format!("{args:?} out"), &ended.out);
        is_calm(&format!("{args:?} err"), &ended.err);
        if args.contains(&"--format=json") || args[0] == "inspect" && ended.code == 0 {
            serde_json::from_str::<serde_json::Value>(&ended.out)
                .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ended.out));
        }
    }
    let shown = lab.run(["history", "--no-trunc", "app:1"]).out;
    assert!(shown.contains("\\u{1b}]52;c;eA==\\u{7}"), "{shown}");
}

#[test]
fn output_of_a_failed_step_does_not_drive_the_terminal() {
    let test = "output_of_a_failed_step_does_not_drive_the_terminal";
    if !support::bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let run = "RUN printf '\\033]52;c;eA==\\007\\033[2J\\302\\233\\342\\200\\256'";
    let text = format!("FROM busybox\n{run}; : '{EVIL}'; exit 3\n");
    let context = lab.context(&[("Dockerfile", &text)]);
    let plain = lab.build(&context, &[]);
    assert!(plain.code == 1 && plain.err.contains("RUN failed: exit code: 3"), "{}", plain.err);
    is_calm("plain", &plain.err);
    let mut quiet = vec!["build".to_owned(), "-q".into()];
    quiet.extend(lab.bases());
    quiet.push(context.display().to_string());
    is_calm("quiet", &lab.run(&quiet).err);
    if !has("script") {
        return skip(test, "script, which gives a program a terminal, is not installed");
    }
    let words = [vec!["build".to_owned(), "--progress=tty".into()], quiet[2..].to_vec()].concat();
    let line = words.iter().fold(support::RBUILD.to_owned(), |line, word| format!("{line} '{word}'"));
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null());
    command.env("HOME", lab.path().join("home")).env("RBUILD_ROOT", lab.store());
    let tty = done(command.output().expect("script"));
    assert_eq!(tty.code, 1, "{}", tty.out);
    // rbuild moves the cursor and colours lines itself; these are not its words.
    for foreign in ["\x07", "\x1b]52", "\x1b[2J", "\u{9b}", "\u{202e}", "\u{200b}"] {
        assert!(!tty.out.contains(foreign), "{foreign:?}: {:?}", tty.out);
    }
}

#[test]
fn a_signal_that_the_caller_ignores_stays_ignored() {
    let test = "a_signal_that_the_caller_ignores_stays_ignored";
    for who in support::modes(test) {
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "x")]);
        let pipe = context.join("pipe");
        fifo(&pipe);
        fs::set_permissions(&pipe, fs::Permissions::from_mode(0o666)).expect("chmod");
        for (signals, sent) in [("HUP", &["-HUP"][..]), ("HUP INT", &["-HUP", "-INT"])] {
            let inner = lab.rbuild();
            let mut command = Command::new("sh");
            command
                .arg("-c")
                .arg(format!("trap '' {signals}; exec \"$@\""))
                .arg("sh")
                .arg(inner.get_program());
            command.args(inner.get_args()).args(["build", "-q", "-f"]).arg(&pipe).arg(&context);
            command.env("HOME", lab.path().join("home")).env("RBUILD_ROOT", lab.store());
            let child = start(&mut command);
            // A reader is there, so signals are watched.
            let mut writer = fs::File::options().write(true).open(&pipe).expect("open");
            for signal in sent {
                support::tool("kill", &[signal.as_ref(), child.id().to_string().as_ref()]);
            }
            std::thread::sleep(Duration::from_millis(100));
            std::io::Write::write_all(&mut writer, b"FROM scratch\nCOPY a /\n").expect("write");
            drop(writer);
            let ended = within_a_minute(child);
            assert_eq!(ended.code, 0, "{who:?} {signals}: {}", ended.err);
        }
    }
}

#[test]
fn settings_in_the_home_of_somebody_else_count_as_absent() {
    let test = "settings_in_the_home_of_somebody_else_count_as_absent";
    let Some(who) = [Who::Rootless, Who::SingleId].into_iter().find(|who| user_of(*who).is_some()) else {
        return skip(test, "there is no ordinary user (see tests/setup)");
    };
    if !is_root() || !has("setpriv") {
        return skip(test, "only root can build as another user");
    }
    let lab = Lab::as_user(who);
    let context = lab.context(COPY);
    let foreign = lab.path().join("foreign");
    for name in
        [".config/rbuild/registries.toml", ".config/containers/registries.conf", ".docker/config.json"]
    {
        fs::create_dir_all(foreign.join(name).parent().expect("parent")).expect("mkdir");
        fs::write(foreign.join(name), "not for you").expect("write");
    }
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700)).expect("chmod");
    let ended =
        lab.rbuild().env("HOME", &foreign).args(["build", "-q"]).arg(&context).output().expect("starts");
    let ended = done(ended);
    assert_eq!(ended.code, 0, "{}", ended.err);
    // The store cannot be there; where it could be is for the user to say.
    for home in [foreign.as_path(), Path::new("/")] {
        let mut command = lab.rbuild();
        command.env("HOME", home).env_remove("RBUILD_ROOT").args(["build", "-q"]).arg(&context);
        let ended = done(command.output().expect("starts"));
        assert!(ended.code == 7 && ended.err.contains("--root"), "{}: {}", home.display(), ended.err);
    }
}
