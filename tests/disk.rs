//! Disks that fail: single system calls of the real program answer with an error (`strace` injects it),
//! file systems run full in the middle of a write. Whatever happens, the store is whole, what it had is
//! still there, and the next command gives the right image.
//!
//! The ordinary run tries some sixty faults from a fixed seed; `RBUILD_DISK_FAULTS=400` tries so many,
//! `RBUILD_CRASH_SEED` others.

#[path = "support/cases.rs"]
mod cases;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cases::{
    Case, Random, Row, Small, cases, command, digest, fsck, leftovers, ready, unreachable_snapshots,
};
use support::{Done, Lab, Who, has, is_root, skip, user_of};

const FAULTS: usize = 60;
const SEED: u64 = 11;
const WORKERS: usize = 2;
const ORDINARY_TIME: Duration = Duration::from_secs(35);
/// A program that still runs by then waits for something that never comes.
const LIMIT: &str = "60";

/// The programs of `RUN` are hit too, so every one of them says when it failed (`seq` does not).
const ROWS: [Row; 5] = [
    (
        "run",
        "FROM busybox\nCOPY src /src\nRUN cat /src/d1/f8 /src/d1/f15 > /a\nRUN cp /a /b && rm /a\n\
         RUN mkdir -p /x/y && cp /b /x/y/c\n",
        None,
        &[],
    ),
    ("copy", "FROM scratch\nCOPY src /src\nCOPY src/d1 src/d2 /two/\nWORKDIR /w\n", None, &[]),
    (
        "stages",
        "FROM busybox AS a\nRUN cat /etc/passwd /bin/busybox > /a\nFROM busybox AS b\nCOPY src /s\nRUN cat /s/d1/f1 /s/d1/f8 > /b\n\
         FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN cat /a /b > /ab\n",
        Some("type=oci,compression=zstd,dest="),
        &["-t", "stages:1"],
    ),
    ("export", "FROM busybox\nCOPY src /src\nENV a=b\n", Some("type=docker,dest="), &["-t", "export:1"]),
    (
        "mounts",
        "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/s,source=src \
         cat /s/d2/f2 /s/d2/f9 > /c/x && cat /c/x > /all\nCOPY --link src /l\n",
        Some("type=local,dest="),
        &[],
    ),
];

/// System calls that fail, and how.
const CALLS: [(&str, &[&str]); 27] = [
    ("write", &["EIO", "ENOSPC", "EDQUOT"]),
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT"]),
    ("writev", &["EIO", "ENOSPC"]),
    ("copy_file_range", &["EIO", "ENOSPC"]),
    ("sendfile", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "ENOSPC"]),
    ("fallocate", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO"]),
    ("fdatasync", &["EIO"]),
    ("syncfs", &["EIO"]),
    ("rename", &["EIO", "ENOSPC", "EDQUOT"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("link", &["EIO", "ENOSPC"]),
    ("linkat", &["EIO", "ENOSPC"]),
    ("symlinkat", &["EIO", "ENOSPC"]),
    ("mkdir", &["EIO", "ENOSPC", "EDQUOT"]),
    ("mkdirat", &["EIO", "ENOSPC", "EDQUOT"]),
    ("openat", &["EIO", "EMFILE"]),
    ("openat2", &["EIO", "EMFILE"]),
    ("getdents64", &["EIO"]),
    ("read", &["EIO"]),
    ("pread64", &["EIO"]),
    ("statx", &["EIO"]),
    ("unlink", &["EIO"]),
    ("unlinkat", &["EIO"]),
    ("flock", &["EIO", "ENOLCK"]),
];

/// What the fault meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    /// A build in a store without results of steps.
    Build,
    /// A build whose steps are all in the store.
    Again,
    Prune,
    Repair,
}

#[derive(Clone, Debug)]
struct Fault {
    case: usize,
    verb: Verb,
    call: &'static str,
    error: &'static str,
    /// Of every thread, the call of this number fails.
    number: usize,
}

/// The same command, watched by `strace`.
fn watched(command: &Command, log: &Path, flags: &[&str]) -> Command {
    let mut strace = Command::new("timeout");
    strace.args(["-k", "5", LIMIT, "strace", "-f", "-qq", "-y", "-s", "16"]);
    // Faster, but then programs with the setuid bit get no privileges (`newuidmap` needs them).
    if command.get_program() != "setpriv" {
        strace.arg("--seccomp-bpf");
    }
    strace.arg("-o").arg(log).args(flags).arg(command.get_program()).args(command.get_args()).env_clear();
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.current_dir(command.get_current_dir().expect("a directory")).stdin(std::process::Stdio::null());
    strace
}

fn run(mut command: Command) -> Done {
    support::done(command.output().expect("the program starts"))
}

/// How often one thread makes each call, at most.
fn counts(log: &Path) -> BTreeMap<&'static str, usize> {
    let text = String::from_utf8_lossy(&fs::read(log).expect("log")).into_owned();
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        *seen.entry((pid, call)).or_default() += 1;
    }
    let most = |name: &str| seen.iter().filter(|((_, call), _)| *call == name).map(|(_, count)| *count).max();
    CALLS.iter().filter_map(|(name, _)| Some((*name, most(name)?))).collect()
}

/// The lines of the calls that failed.
fn injected(log: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    text.lines().filter(|line| line.ends_with("(INJECTED)")).map(str::to_owned).collect()
}

/// A store that faults meet: with an image that must survive all of them.
struct Scene {
    lab: Lab,
    cases: Vec<Case>,
    keep: String,
}

const KEEP: &str = "keep:1";

impl Scene {
    fn new(who: Who) -> Self {
        let lab = Lab::as_user(who);
        let cases = cases(&lab, &ROWS);
        let context = lab.context(&[("Dockerfile", "FROM busybox\nCOPY Dockerfile /kept\nRUN echo > /x\n")]);
        let mut build = lab.rbuild();
        build.env("SOURCE_DATE_EPOCH", "1700000000").args(["build", "-t", KEEP]).args(lab.bases());
        let built = run({
            build.arg(&context);
            build
        });
        assert!(built.code == 0, "{}", built.err);
        let mut scene = Scene { lab, cases, keep: String::new() };
        scene.keep = scene.kept();
        scene
    }

    /// The digest of the image's archive: its name and all bytes that it leads to.
    fn kept(&self) -> String {
        let archive = self.lab.out("kept.tar");
        let saved = self.lab.run(["save", "-o", &archive.display().to_string(), KEEP]);
        assert!(saved.code == 0, "{KEEP} cannot be saved: {}", saved.err);
        sum(&archive)
    }

    fn build(&self, case: usize, number: usize) -> Command {
        let case = &self.cases[case];
        let _ = fs::remove_file(self.lab.out(&format!("metadata-{number}")));
        command(&self.lab, case, &self.lab.store(), number)
    }

    fn verb(&self, fault: &Fault) -> Command {
        let words: &[&str] = match fault.verb {
            Verb::Build | Verb::Again => return self.build(fault.case, 1),
            Verb::Prune => &["prune", "-a"],
            Verb::Repair => &["fsck", "--repair"],
        };
        let mut command = self.lab.rbuild();
        command.args(words);
        command
    }

    fn prepare(&self, fault: &Fault) {
        if fault.verb == Verb::Build {
            self.lab.run(["rmi", "stages:1", "export:1"]);
            let pruned = self.lab.run(["prune", "-a"]);
            assert!(pruned.code == 0, "{fault:?}: {}", pruned.err);
        } else {
            let built = run(self.build(fault.case, 1));
            assert!(built.code == 0, "{fault:?}: {}", built.err);
        }
    }

    fn record(&self, fault: &Fault) -> BTreeMap<&'static str, usize> {
        self.prepare(fault);
        let names: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
        let log = self.lab.path().join("trace");
        let traced = format!("trace={}", names.join(","));
        let done = run(watched(&self.verb(fault), &log, &["-e", &traced]));
        assert!(done.code == 0, "{fault:?}: {} {}", done.code, done.err);
        counts(&log)
    }

    /// What a fault did; `None` where no call came so far.
    fn meet(&self, fault: &Fault) -> Option<bool> {
        self.prepare(fault);
        let log = self.lab.path().join("trace");
        let inject = format!("inject={}:error={}:when={}", fault.call, fault.error, fault.number);
        let done =
            run(watched(&self.verb(fault), &log, &["-e", &format!("trace={}", fault.call), "-e", &inject]));
        let hits = injected(&log);
        let about =
            || format!("{fault:?}\n{}\nexit code {}: {}{}", hits.join("\n"), done.code, done.out, done.err);
        assert!(hits.is_empty() || done.code != 124, "hangs: {}", about());
        if done.code == 0 {
            if matches!(fault.verb, Verb::Build | Verb::Again) {
                assert_eq!(digest(&self.lab, 1), self.cases[fault.case].digest, "{}", about());
                self.output(fault.case, 1, &about());
            }
        } else if let Some(wrong) = badly_told(fault, &done, &hits) {
            panic!("{wrong}: {}", about());
        }
        self.whole(&about());
        if fault.verb == Verb::Prune {
            // Collection takes referrers first: one that was stopped leaves things to the next.
            let pruned = self.lab.run(["prune"]);
            assert!(pruned.code == 0, "{} after {}", pruned.err, about());
        }
        let next = run(self.build(fault.case, 2));
        assert!(next.code == 0, "the next build failed: {} after {}", next.err, about());
        assert_eq!(digest(&self.lab, 2), self.cases[fault.case].digest, "{}", about());
        self.output(fault.case, 2, &about());
        assert_eq!(leftovers(&self.lab), Vec::<String>::new(), "{}", about());
        assert_eq!(unreachable_snapshots(&self.lab), Vec::<String>::new(), "{}", about());
        assert_eq!(self.strangers(), BTreeSet::new(), "{}", about());
        (!hits.is_empty()).then_some(done.code != 0)
    }

    fn whole(&self, about: &str) {
        let checked = fsck(&self.lab);
        assert!(checked.code == 0, "{}{} after {about}", checked.out, checked.err);
        assert_eq!(self.kept(), self.keep, "{KEEP} is another after {about}");
    }

    fn place(&self, case: usize, number: usize) -> PathBuf {
        self.lab.out(&format!("{}-{number}", self.cases[case].name))
    }

    /// What was written besides the store is whole.
    fn output(&self, case: usize, number: usize, about: &str) {
        let Some(kind) = self.cases[case].output else { return };
        // The reference build was number 0.
        let (right, found) = (self.place(case, 0), self.place(case, number));
        if kind.starts_with("type=local") {
            let same = run({
                let mut diff = Command::new("diff");
                diff.args(["-r", "--no-dereference"]).args([&right, &found]);
                diff
            });
            assert!(same.code == 0, "the output is another: {} after {about}", same.out);
            let _ = fs::remove_dir_all(found);
        } else {
            assert_eq!(sum(&right), sum(&found), "the output is another after {about}");
        }
    }

    /// Files beside the outputs that nobody asked for.
    fn strangers(&self) -> BTreeSet<String> {
        let known = |name: &str| {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
            name == "kept.tar"
                || stem == "metadata-"
                || self.cases.iter().any(|case| format!("{}-", case.name) == stem)
        };
        let entries = fs::read_dir(self.lab.path().join("out")).expect("out").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !known(name)).collect()
    }
}

fn sum(file: &Path) -> String {
    use sha2::{Digest as _, Sha256};
    format!("{:x?}", Sha256::digest(fs::read(file).expect("output")))
}

/// What is wrong with the message of a failure.
fn badly_told(fault: &Fault, done: &Done, hits: &[String]) -> Option<&'static str> {
    let text = done.err.to_lowercase() + &done.out.to_lowercase();
    if text.contains("panicked") || text.contains("internal error") || done.code == 101 {
        return Some("a panic");
    }
    if !(1..=127).contains(&done.code) {
        return Some("no exit code of rbuild");
    }
    // Nobody can say anything where the saying fails, and no disk makes a pipe fail.
    if hits.iter().any(|line| line.contains("(2<") || line.contains("<pipe:") || line.contains("<socket:")) {
        return None;
    }
    let words = match fault.error {
        "EIO" => ["input/output error", "i/o error", "os error 5"],
        "ENOSPC" => ["no space", "disk is full", "os error 28"],
        "EDQUOT" => ["quota", "disk is full", "os error 122"],
        "ENOLCK" => ["no locks", "no record locks", "os error 37"],
        _ => ["too many open files", "no file descriptors", "os error 24"],
    };
    (!words.iter().any(|word| text.contains(word))).then_some("the message does not say why")
}

fn choose(scene: &Scene, wanted: usize, random: &mut Random) -> Vec<Fault> {
    let mut universe = BTreeMap::new();
    let verbs = [Verb::Build, Verb::Build, Verb::Build, Verb::Again, Verb::Prune, Verb::Repair];
    let mut faults = Vec::new();
    while faults.len() < wanted {
        let case = random.below(ROWS.len() as u64) as usize;
        let verb = verbs[random.below(verbs.len() as u64) as usize];
        // The others make the same calls, more or less, whatever was built.
        let like = if verb == Verb::Build { case } else { 0 };
        let probe = Fault { case: like, verb, call: "", error: "", number: 0 };
        let counts = universe.entry(format!("{like}{verb:?}")).or_insert_with(|| scene.record(&probe));
        let calls: Vec<_> = CALLS.iter().filter(|(name, _)| counts.contains_key(name)).collect();
        let (call, errors) = *calls[random.below(calls.len() as u64) as usize];
        let error = errors[random.below(errors.len() as u64) as usize];
        let number = 1 + random.below(counts[call] as u64) as usize;
        faults.push(Fault { case, verb, call, error, number });
    }
    faults
}

fn survive_faults(who: Who, wanted: usize, time: Option<Duration>) {
    let mut random = Random(number_of("RBUILD_CRASH_SEED").unwrap_or(SEED));
    let begun = Instant::now();
    let first = Scene::new(who);
    let faults = choose(&first, wanted, &mut random);
    println!("{} faults chosen in {:?}", faults.len(), begun.elapsed());
    let (next, results, first) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Some(first)));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mine = first.lock().expect("scene").take();
                let mut scene = mine.unwrap_or_else(|| Scene::new(who));
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if time.is_some_and(|time| begun.elapsed() > time) {
                        break;
                    }
                    let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.meet(fault)));
                    if met.is_err() {
                        scene = Scene::new(who);
                    }
                    results.lock().expect("results").push((fault.call, met.ok()));
                }
            });
        }
    });
    let results = results.into_inner().expect("results");
    let count = |what: Option<Option<bool>>| results.iter().filter(|(_, met)| *met == what).count();
    let (failed, succeeded, none) = (count(Some(Some(true))), count(Some(Some(false))), count(Some(None)));
    let wanted = results.len();
    println!(
        "{wanted} faults as {who:?} in {:?}: {failed} commands failed, {succeeded} did without, {none} did not come so far",
        begun.elapsed()
    );
    let wrong: Vec<_> = results.iter().filter(|(_, met)| met.is_none()).map(|(call, _)| *call).collect();
    assert!(wrong.is_empty(), "{} of {wanted} faults did harm: {wrong:?}", wrong.len());
    assert!(none * 2 < wanted && failed > 0, "too few faults came");
}

fn wanted_faults() -> Option<usize> {
    number_of("RBUILD_DISK_FAULTS").map(|faults| faults as usize)
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn can_inject(test: &str) -> bool {
    if !has("strace") {
        skip(test, "strace is not installed");
        return false;
    }
    let probe = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|done| done.status.success()) {
        skip(test, "strace may not trace here");
        return false;
    }
    ready(test)
}

#[test]
fn commands_whose_system_calls_fail_lose_nothing() {
    if can_inject("commands_whose_system_calls_fail_lose_nothing") {
        let full = wanted_faults();
        survive_faults(Who::Caller, full.unwrap_or(FAULTS), full.is_none().then_some(ORDINARY_TIME));
    }
}

#[test]
fn rootless_commands_whose_system_calls_fail_lose_nothing() {
    let test = "rootless_commands_whose_system_calls_fail_lose_nothing";
    // What an ordinary user does runs through the same code: a few in a full run are enough.
    let Some(faults) = wanted_faults() else { return };
    if !is_root() || user_of(Who::Rootless).is_none() || !has("newuidmap") {
        return skip(test, "there is no user with subordinate IDs (tests/setup makes one)");
    }
    if can_inject(test) {
        survive_faults(Who::Rootless, faults / 5, None);
    }
}

#[test]
fn a_collection_that_cannot_list_everything_takes_nothing_that_has_a_name() {
    if !can_inject("a_collection_that_cannot_list_everything_takes_nothing_that_has_a_name") {
        return;
    }
    let scene = Scene::new(Who::Caller);
    let probe = Fault { case: 0, verb: Verb::Prune, call: "", error: "", number: 0 };
    let most = scene.record(&probe)["getdents64"];
    // Names are listed first.
    let last = if wanted_faults().is_some() { most } else { most.min(15) };
    let failed = (1..=last).filter(|number| {
        let fault = Fault { call: "getdents64", error: "EIO", number: *number, ..probe.clone() };
        let log = scene.lab.path().join("trace");
        let inject = format!("inject=getdents64:error=EIO:when={number}");
        let done = run(watched(&scene.verb(&fault), &log, &["-e", "trace=getdents64", "-e", &inject]));
        scene.whole(&format!("{fault:?}: {} {}", done.code, done.err));
        done.code != 0
    });
    let failed = failed.count();
    println!("{failed} of {last} collections failed");
    assert!(failed > 0, "no collection met its fault");
}

#[test]
fn a_living_build_whose_lock_cannot_be_asked_for_keeps_its_files() {
    if !can_inject("a_living_build_whose_lock_cannot_be_asked_for_keeps_its_files") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN sleep 3 && echo > /x\n")]);
    let mut build = lab.rbuild();
    build.arg("build").args(lab.bases()).arg(&context).stderr(std::process::Stdio::piped());
    let build = build.spawn().expect("rbuild starts");
    let begun = Instant::now();
    while fs::read_dir(lab.store().join("snapshots")).map_or(0, Iterator::count) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the build does not begin");
        std::thread::sleep(Duration::from_millis(50));
    }
    for number in 1..=4 {
        let mut images = lab.rbuild();
        images.arg("images");
        let log = lab.path().join("trace");
        let inject = format!("inject=flock:error=ENOLCK:when={number}");
        run(watched(&images, &log, &["-e", "trace=flock", "-e", &inject]));
        assert_eq!(injected(&log).len(), 1, "flock was not called {number} times");
    }
    let done = support::done(build.wait_with_output().expect("the build ends"));
    assert!(done.code == 0, "{}", done.err);
}

#[test]
fn few_open_files_are_a_message_and_no_harm() {
    let test = "few_open_files_are_a_message_and_no_harm";
    if !ready(test) {
        return;
    }
    let lab = Lab::new();
    let case = cases(&lab, &ROWS[2..3]).remove(0);
    let mut failed = 0;
    for limit in [8, 11, 14, 17, 20, 24, 30, 40] {
        let build = command(&lab, &case, &lab.store(), 1);
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"]).arg(build.get_program());
        limited.args(build.get_args()).env_clear().current_dir(lab.path());
        limited.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let done = run(limited);
        let about = format!("{limit} open files: {} {}", done.code, done.err);
        failed += usize::from(done.code != 0);
        let told = done.err.contains("Too many open files") && !done.err.contains("panicked");
        assert!(done.code == 0 || told, "{about}");
        let checked = fsck(&lab);
        assert!(checked.code == 0, "{}{} after {about}", checked.out, checked.err);
        assert_eq!(leftovers(&lab), Vec::<String>::new(), "{about}");
    }
    let next = run(command(&lab, &case, &lab.store(), 2));
    assert!(next.code == 0, "{}", next.err);
    assert_eq!(digest(&lab, 2), case.digest);
    println!("{failed} of 8 builds had too few open files");
    assert!(failed > 0, "no limit was low enough");
}

/// A build on a disk of so many kilobytes: the store's, or that of the output.
fn run_full(lab: &Lab, case: &Case, place: &Path, kilobytes: u64) -> Option<bool> {
    let disk = Small::mount(place, &format!("{kilobytes}k"))?;
    let build = |number| {
        let mut build = command(lab, case, &lab.store(), number);
        if place != lab.store() {
            build.args(["-o", &format!("{}{}", case.output.unwrap_or_default(), place.join("o").display())]);
        }
        run(build)
    };
    let done = build(1);
    let about =
        format!("{} with {kilobytes} kB in {}: {} {}", case.name, place.display(), done.code, done.err);
    if done.code == 0 {
        assert_eq!(digest(lab, 1), case.digest, "{about}");
    } else {
        let text = done.err.to_lowercase();
        let told = text.contains("no space left on device");
        let with_place = done.err.contains(&place.display().to_string());
        assert!(matches!(done.code, 1 | 5 | 6 | 7) && told && with_place, "{about}");
    }
    if place != lab.store() {
        let names: Vec<_> =
            fs::read_dir(place).expect("disk").flatten().map(|entry| entry.file_name()).collect();
        assert!(done.code == 0 || names.is_empty(), "{about}: left {names:?}");
    }
    disk.grow("100m");
    let checked = fsck(lab);
    assert!(checked.code == 0, "{}{} after {about}", checked.out, checked.err);
    assert_eq!(leftovers(lab), Vec::<String>::new(), "{about}");
    let next = build(2);
    assert!(next.code == 0, "{} after {about}", next.err);
    assert_eq!(digest(lab, 2), case.digest, "{about}");
    assert_eq!(unreachable_snapshots(lab), Vec::<String>::new(), "{about}");
    Some(done.code != 0)
}

#[test]
fn a_full_disk_fails_the_build_and_harms_nothing() {
    let test = "a_full_disk_fails_the_build_and_harms_nothing";
    if !ready(test) {
        return;
    }
    if !is_root() {
        return skip(test, "only root can mount a small file system");
    }
    let lab = Lab::new();
    let cases = cases(&lab, &ROWS);
    let stores = [64, 256, 900, 1500, 2100, 2600, 3100, 3600, 4200, 5000, 6500];
    let outputs = [4, 300, 900];
    // In a full run every build meets every size, and all between.
    let more: Vec<u64> = (1..=20).map(|step| step * 170).collect();
    let full = wanted_faults().is_some();
    let (stores, outputs) = if full { (&more[..], &more[..]) } else { (&stores[..], &outputs[..]) };
    let mut failed = [0, 0];
    let mut tried = [0, 0];
    let places = [lab.store(), lab.path().join("disk")];
    for (which, sizes) in [stores, outputs].into_iter().enumerate() {
        for (at, kilobytes) in sizes.iter().enumerate() {
            let able = cases.iter().filter(|case| which == 0 || case.output.is_some());
            let able: Vec<&Case> = able.collect();
            let chosen = if full { &able[..] } else { &able[at % able.len()..][..1] };
            for case in chosen {
                let Some(harmed) = run_full(&lab, case, &places[which], *kilobytes) else {
                    return skip(test, "this machine does not let tests mount a tmpfs");
                };
                tried[which] += 1;
                failed[which] += usize::from(harmed);
            }
        }
    }
    println!(
        "of {} builds {} ran out of disk for the store; of {}, {} for the output",
        tried[0], failed[0], tried[1], failed[1]
    );
    assert!(failed[0] * 3 >= tried[0] && failed[1] > 0, "only {failed:?} builds ran out of disk");
}
