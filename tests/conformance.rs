//! Builds every case of testdata/conformance with the real program and compares the image with what a peer
//! made of the same Dockerfile. testdata/conformance/README.md explains the files of a case.
//!
//! `RBUILD_CONFORMANCE=TEXT` runs only the cases whose names contain TEXT, `RBUILD_CONFORMANCE_MODES=all` runs all of
//! them in every mode (see [`Mode`]), and `RBUILD_CONFORMANCE_MODES=NAME,...` in these.

#[path = "support/flat.rs"]
mod flat;
#[path = "support/overlay.rs"]
mod overlay;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use support::{Done, Lab, Who, base, done, done_in_time, has, is_root, skip, tool, user_of};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/conformance")
}

fn cases() -> Vec<String> {
    let entries = fs::read_dir(folder()).expect("cases").flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Cases that rbuild is known to fail, with the reason: lines `NAME: REASON` of `pending`, and `MODES NAME: REASON`
/// of `modes`, which are about this mode.
fn known_failures(mode: &str) -> BTreeMap<String, String> {
    let read = |file: &str| {
        fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    let is_line = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let parts = |line: &str| {
        let (name, reason) = line.split_once(": ").unwrap_or_else(|| panic!("no reason: {line:?}"));
        (name.to_owned(), reason.to_owned())
    };
    let mut known: BTreeMap<String, String> = read("pending").lines().filter(is_line).map(parts).collect();
    for line in read("modes").lines().filter(is_line) {
        let (modes, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no mode: {line:?}"));
        if modes.split(',').any(|name| name == mode) {
            known.extend([parts(rest)]);
        }
    }
    known
}

fn ready(test: &str) -> bool {
    let reason = if base("busybox").is_none() || base("debian").is_none() {
        "tests/setup has not made the base images"
    } else if !is_root() {
        "only root can give context files their owners"
    } else {
        return true;
    };
    skip(test, reason);
    false
}

/// Gives the lab's store images `busybox` and `debian`. A named context would not do: it would hide stages
/// of that name.
fn tag_bases(lab: &Lab) -> BTreeMap<&'static str, flat::Base> {
    let mut bases = BTreeMap::from([("scratch", flat::Base::default())]);
    for name in ["busybox", "debian"] {
        let context = lab.context(&[("Dockerfile", &format!("FROM {name}\n"))]);
        let mut args = vec!["build".into(), "-q".into(), "-t".into(), name.to_owned()];
        args.extend(lab.bases());
        args.push(context.display().to_string());
        let done = lab.run(&args);
        assert!(done.code == 0, "{name} cannot be tagged: {}", done.err);
        let layout = base(name).expect("a base");
        bases.insert(name, flat::Base::read(&layout).expect("a readable base"));
    }
    bases
}

/// The context as `regenerate` makes it for the peer.
fn context(lab: &Lab, case: &Path, work: &Path) -> PathBuf {
    let context = work.join("context");
    if case.join("context").is_dir() {
        tool("cp", &["-a".as_ref(), case.join("context").as_os_str(), context.as_os_str()]);
    } else {
        fs::create_dir(&context).expect("mkdir");
    }
    if case.join("Dockerfile").exists() {
        fs::copy(case.join("Dockerfile"), context.join("Dockerfile")).expect("copy");
    }
    // Neither the umask nor the owner of a checkout must decide what a case means.
    tool("chmod", &["-R".as_ref(), "u=rwX,go=rX".as_ref(), context.as_os_str()]);
    tool("chown", &["-R".as_ref(), "-h".as_ref(), "0:0".as_ref(), context.as_os_str()]);
    let prepare = case.join("prepare");
    if prepare.exists() {
        let script = done(
            Command::new("sh").arg("-eu").arg(&prepare).current_dir(&context).output().expect("sh starts"),
        );
        assert!(script.code == 0, "{}: {}", prepare.display(), script.err);
    }
    if let Some((_, id)) = user_of(lab.who) {
        give(&context, id);
    }
    context
}

/// Gives root's files to the user who builds: whoever it is, owners of a context are not those of an image.
fn give(path: &Path, id: u32) {
    let facts = fs::symlink_metadata(path).expect("a file");
    if facts.is_dir() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            give(&entry.path(), id);
        }
    }
    if facts.uid() == 0 {
        lchown(path, Some(id), Some(id)).expect("chown");
        if !facts.is_symlink() {
            fs::set_permissions(path, facts.permissions()).expect("chmod");
        }
    }
}

fn lines(case: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(case.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn build(lab: &Lab, flags: &[&str], case: &Path, work: &Path, layout: &Path) -> Done {
    let mut command = lab.rbuild();
    for line in lines(case, "env") {
        let (name, value) = line.split_once('=').expect("NAME=VALUE");
        command.env(name, value);
    }
    command
        .current_dir(context(lab, case, work))
        .args(["build", "--progress=plain", "--pull=never"])
        .args(flags)
        .arg("-o");
    command.arg(format!("type=oci,tar=false,dest={}", layout.display()));
    done_in_time(command.args(lines(case, "args")).arg("."))
}

/// JSON merge patch (RFC 7396): what the patch does not name stays, null removes.
fn patch(target: &mut Value, change: &Value) {
    let Some(fields) = change.as_object() else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("an object").shift_remove(name);
        } else {
            patch(&mut target[name.as_str()], value);
        }
    }
}

fn expectation(case: &str) -> Value {
    let text = fs::read_to_string(folder().join(case).join("expect.json"));
    let text = text.unwrap_or_else(|error| panic!("{case}: expect.json: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// What is wrong with a case, one line each; nothing if it passes.
fn run(lab: &Lab, flags: &[&str], name: &str, bases: &BTreeMap<&str, flat::Base>) -> Vec<String> {
    let case = folder().join(name);
    let mut expected = expectation(name);
    if let Some(change) = expected.pointer("/deviation/expect").cloned() {
        patch(&mut expected, &change);
    }
    let work = tempfile::Builder::new().prefix("case-").tempdir_in(lab.path()).expect("tempdir");
    tool("chmod", &["755".as_ref(), work.path().as_os_str()]);
    let layout = lab.out(name);
    let result = build(lab, flags, &case, work.path(), &layout);
    if result.code < 0 || result.code == 101 || result.err.contains("panicked at") {
        return vec![format!("crashed ({}): {}", result.code, tail(&result.err))];
    }
    let wrong = match (expected["error"].as_str(), result.code) {
        (Some(error), 0) => vec![format!("was built, but must fail: {error}")],
        // "Not supported yet" is not the mistake that the case is about.
        (Some(error), 8) => vec![format!("not supported; must fail: {error}\n        {}", tail(&result.err))],
        (Some(_), _) => Vec::new(),
        (None, 0) => {
            let base = &bases[expected["base"].as_str().expect("base")];
            match flat::describe(&layout, base) {
                Ok(found) => differences(&expected, &found),
                Err(error) => vec![format!("unreadable image: {error}")],
            }
        }
        (None, code) => vec![format!("failed with {code}: {}", tail(&result.err))],
    };
    let _ = fs::remove_dir_all(&layout);
    wrong
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n        ")
}

fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for part in ["layers", "author", "removed"] {
        unequal(part, &expected[part], &found[part], &mut lines);
    }
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (left, right) = (rows(&expected["history"]), rows(&found["history"]));
    for number in 0..left.len().max(right.len()) {
        let row = |rows: &[Value]| rows.get(number).cloned().unwrap_or_default();
        unequal(&format!("history[{number}]"), &row(&left), &row(&right), &mut lines);
    }
    for part in ["config", "tree"] {
        for key in keys(&expected[part], &found[part]) {
            let (left, right) = (&expected[part][&key], &found[part][&key]);
            if part == "tree" && left.is_object() && right.is_object() {
                for fact in keys(left, right) {
                    // Times, contents and their digests count where the case gives them.
                    if left[&fact].is_null() && matches!(fact.as_str(), "mtime" | "text" | "size" | "sha256")
                    {
                        continue;
                    }
                    unequal(&format!("/{key}: {fact}"), &left[&fact], &right[&fact], &mut lines);
                }
            } else {
                unequal(&format!("{part} {key}"), left, right, &mut lines);
            }
        }
    }
    lines
}

fn keys(left: &Value, right: &Value) -> Vec<String> {
    let all = [left, right].into_iter().filter_map(Value::as_object).flat_map(|fields| fields.keys());
    let mut names: Vec<String> = all.cloned().collect();
    names.sort();
    names.dedup();
    names
}

fn unequal(what: &str, expected: &Value, found: &Value, lines: &mut Vec<String>) {
    if expected != found {
        lines.push(format!("{what}: expected {expected}, found {found}"));
    }
}

/// An expectation holds on every day and on every release of the bases' packages. Content that comes from a
/// package betrays one that does not; accounts of the small base are `tests/setup`'s.
#[test]
fn expectations_contain_nothing_of_the_packages_in_the_bases() {
    let test = "expectations_contain_nothing_of_the_packages_in_the_bases";
    if base("busybox").is_none() || base("debian").is_none() {
        return skip(test, "tests/setup has not made the base images");
    }
    let mut known = BTreeMap::new();
    for name in ["busybox", "debian"] {
        let base = flat::Base::read(&base(name).expect("a base")).expect("a readable base");
        let own = |path: &str| name == "busybox" && path.starts_with("etc/");
        known.extend(base.contents(64).into_iter().filter(|(_, path)| !own(path)));
    }
    assert!(known.len() > 1000, "only {} files in the bases", known.len());
    let mut problems = Vec::new();
    for case in cases() {
        for (path, facts) in expectation(&case)["tree"].as_object().into_iter().flatten() {
            if let Some(origin) = facts["sha256"].as_str().and_then(|digest| known.get(digest)) {
                problems.push(format!("{case}: {path} has the content of {origin} in a base"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn run_all(lab: &Lab, flags: &[&str], names: &[String]) -> BTreeMap<String, Vec<String>> {
    let bases = tag_bases(lab);
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = run(lab, flags, name, &bases);
                    results.lock().expect("lock").insert(name.clone(), wrong);
                }
            });
        }
    });
    results.into_inner().expect("lock")
}

#[test]
fn images_are_those_of_the_peer() {
    if !ready("images_are_those_of_the_peer") {
        return;
    }
    let names: Vec<String> = cases().into_iter().filter(|name| name.contains(&filter())).collect();
    assert!(names.len() >= 220 || !filter().is_empty(), "only {} cases", names.len());
    all_right(&compare(&Lab::new(), "root", &[], &names));
}

/// The other ways in which RUN is executed. Images must not depend on them.
const MODES: [Mode; 8] = [
    Mode { name: "host", who: Who::Caller, flags: &["--userns=host"], copies: false, sample: 20 },
    Mode { name: "copies", who: Who::Caller, flags: &[], copies: true, sample: 24 },
    Mode { name: "sub", who: Who::Rootless, flags: &[], copies: false, sample: 20 },
    Mode { name: "one", who: Who::SingleId, flags: &[], copies: false, sample: 20 },
    Mode {
        name: "crun",
        who: Who::Caller,
        flags: &["--isolation=oci", "--runtime=crun"],
        copies: false,
        sample: 24,
    },
    Mode {
        name: "runc",
        who: Who::Caller,
        flags: &["--isolation=oci", "--runtime=runc"],
        copies: false,
        sample: 0,
    },
    Mode {
        name: "sub-crun",
        who: Who::Rootless,
        flags: &["--isolation=oci", "--runtime=crun"],
        copies: false,
        sample: 48,
    },
    Mode { name: "chroot", who: Who::Caller, flags: &["--isolation=chroot"], copies: false, sample: 24 },
];

struct Mode {
    name: &'static str,
    who: Who,
    flags: &'static [&'static str],
    /// Whether the store lies on an overlay, as in a container without a volume: RUN works on copies.
    copies: bool,
    /// One in so many cases is built where nothing else is asked for; 0 is none.
    sample: u64,
}

/// Every mode builds a sample of the cases, each a different one, and on request all.
#[test]
fn images_are_those_of_the_peer_in_every_mode() {
    let test = "images_are_those_of_the_peer_in_every_mode";
    if !ready(test) {
        return;
    }
    let wanted = std::env::var("RBUILD_CONFORMANCE_MODES").unwrap_or_default();
    let asked_for = |mode: &Mode| wanted == "all" || wanted.split(',').any(|name| name == mode.name);
    let mut problems = Vec::new();
    for (number, mode) in MODES.iter().enumerate().filter(|(_, mode)| wanted.is_empty() || asked_for(mode)) {
        let is_in_sample = |name: &String| {
            !filter().is_empty()
                || asked_for(mode)
                || hash(name).checked_rem(mode.sample) == Some(number as u64 % mode.sample.max(1))
        };
        let names: Vec<String> =
            cases().into_iter().filter(|name| name.contains(&filter()) && is_in_sample(name)).collect();
        if !names.is_empty() {
            problems.extend(mode.compare(test, &names));
        }
    }
    all_right(&problems);
}

impl Mode {
    fn compare(&self, test: &str, names: &[String]) -> Vec<String> {
        if self.who != Who::Caller && user_of(self.who).is_none() {
            skip(test, &format!("there is no user for {:?} (see tests/setup)", self.who));
            return Vec::new();
        }
        if let Some(runtime) = self.flags.iter().find_map(|flag| flag.strip_prefix("--runtime="))
            && !has(runtime)
        {
            skip(test, &format!("{runtime} is not installed"));
            return Vec::new();
        }
        let lab = Lab::as_user(self.who);
        let overlay = self.copies.then(|| overlay::Mounted::overlay(&lab, &lab.store()));
        if let Some(None) = overlay {
            skip(test, "overlayfs cannot be mounted here");
            return Vec::new();
        }
        let problems = compare(&lab, self.name, self.flags, names);
        if self.copies {
            let info = lab.run(["info"]).out;
            assert!(info.contains("copies: every RUN copies"), "{info}");
        }
        problems
    }
}

/// FNV-1a: the same sample on every machine.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn filter() -> String {
    std::env::var("RBUILD_CONFORMANCE").unwrap_or_default()
}

fn compare(lab: &Lab, mode: &str, flags: &[&str], names: &[String]) -> Vec<String> {
    let pending = known_failures(mode);
    let mut problems = Vec::new();
    for name in pending.keys().filter(|name| !folder().join(name).is_dir()) {
        problems.push(format!("{name} is known to fail, but there is no such case"));
    }
    let (mut agreeing, mut deviating, mut awaited) = (0, 0, 0);
    for (name, wrong) in run_all(lab, flags, names) {
        match (wrong.is_empty(), pending.get(&name)) {
            // What differs from the peer on purpose does not agree with it.
            (true, None) if expectation(&name)["deviation"].is_object() => deviating += 1,
            (true, None) => agreeing += 1,
            (false, Some(_)) => awaited += 1,
            (true, Some(reason)) => problems.push(format!(
                "{name} passes now: remove it from pending or modes in testdata/conformance ({reason})"
            )),
            (false, None) => problems.push(format!("{name}:\n      {}", wrong.join("\n      "))),
        }
    }
    println!(
        "conformance ({mode}): {} cases: {agreeing} agree with the peer, {deviating} differ as meant, {awaited} are \
         known to fail",
        names.len()
    );
    problems.into_iter().map(|problem| format!("{mode}: {problem}")).collect()
}

fn all_right(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
