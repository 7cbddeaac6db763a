//! What gets out of RUN: `testdata/probes/probes.c` in every mode, against `testdata/probes/expected.txt`.
//! The answers are kept in target/tmp for `testdata/probes/table`.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Lab, Who, bases_or_skip, compiled, is_root, lacks_mapped_owners, skip, user_of};

/// Errors that say that this kernel does not have what the table allows: ENOENT, ENOSYS, EPROTONOSUPPORT,
/// EAFNOSUPPORT.
const NOT_HERE: [&str; 4] = ["2", "38", "93", "97"];

#[test]
fn nothing_gets_out_as_root() {
    let test = "nothing_gets_out_as_root";
    if !is_root() {
        return skip(test, "needs root");
    }
    check(test, "root", Who::Caller, &["--userns=host"]);
}

#[test]
fn nothing_gets_out_as_a_private_user() {
    let test = "nothing_gets_out_as_a_private_user";
    if !is_root() {
        return skip(test, "needs root");
    }
    check(test, "private", Who::Caller, &["--userns=private"]);
}

#[test]
fn nothing_gets_out_with_subordinate_ids() {
    let test = "nothing_gets_out_with_subordinate_ids";
    if user_of(Who::Rootless).is_none() || !is_root() {
        return skip(test, "there is no ordinary user with subordinate IDs (tests/setup makes one)");
    }
    check(test, "rootless", Who::Rootless, &[]);
}

#[test]
fn nothing_gets_out_with_one_id() {
    let test = "nothing_gets_out_with_one_id";
    if user_of(Who::SingleId).is_none() || !is_root() {
        return skip(test, "there is no ordinary user without subordinate IDs (tests/setup makes one)");
    }
    check(test, "one", Who::SingleId, &[]);
}

/// A probe that always answers "denied" would guard nothing.
#[test]
fn the_probes_notice_what_is_open() {
    let test = "the_probes_notice_what_is_open";
    if !is_root() {
        return skip(test, "needs root");
    }
    let Some((answers, _)) = run(test, Who::Caller, "--security=insecure", &["--allow=security.insecure"])
    else {
        return;
    };
    for name in
        ["mount-tmpfs", "bind-mount", "new-mount-api", "unshare-mount", "open-by-handle", "reboot", "swapon"]
            .into_iter()
            .chain([
                "sethostname",
                "settimeofday",
                "no-filter",
                "more-capabilities-bounding",
                "write-kernel-knobs",
            ])
            .chain(["pidfd-getfd", "kcmp", "keyctl", "call-of-32-bits", "open-made-kmsg", "setuid-programs"])
    {
        let allowed = answers.contains(&format!("\n{name} allowed"));
        let not_here = answers.contains(&format!("\n{name} denied 38\n"));
        assert!(allowed || not_here, "{name} is not noticed in\n{answers}");
    }
}

/// Runs the probes in one mode and compares.
fn check(test: &str, mode: &str, who: Who, flags: &[&str]) {
    let Some((answers, shared)) = run(test, who, "", flags) else { return };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("probes-{mode}.txt"));
    fs::write(kept, format!("shared {shared} 0\n{answers}")).expect("write");
    let wrong = differences(&answers, mode, shared);
    assert!(wrong.is_empty(), "{mode}, shared network: {shared}\n{}", wrong.join("\n"));
}

/// The answers, and whether RUN had the machine's network for want of a helper. `None`, saying why, where it
/// cannot be tried.
fn run(test: &str, who: Who, run_flag: &str, flags: &[&str]) -> Option<(String, bool)> {
    if !bases_or_skip(test) {
        return None;
    }
    let lab = Lab::as_user(who);
    let dockerfile = format!(
        "FROM busybox\nARG PROBE_PID PROBE_PORT PROBE_SOCKET\nCOPY probes /probes\n\
         RUN {run_flag} /probes > /answers\nFROM scratch\nCOPY --from=0 /answers /\n"
    );
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let program = context.join("probes");
    if !compiled(test, "probes/probes.c", &program) {
        return None;
    }
    let server = Server::start(&program);
    let out = lab.out("files");
    let output = format!("--output=type=local,dest={}", out.display());
    let facts: Vec<String> = server.facts.iter().map(|fact| format!("--build-arg={fact}")).collect();
    let mut args: Vec<&str> = facts.iter().map(String::as_str).collect();
    args.extend(flags);
    args.push(&output);
    let ended = lab.build(&context, &args);
    if lacks_mapped_owners(test, &ended) {
        return None;
    }
    assert_eq!(ended.code, 0, "{}", ended.err);
    let answers = fs::read_to_string(out.join("answers")).expect("the answers");
    Some((answers, ended.err.contains(SHARED)))
}

/// In the warning of a build that has the machine's network for want of a helper.
const SHARED: &str = "RUN uses this machine's network";

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/probes").join(name)
}

/// A process of this machine with sockets, for the probes to look for.
struct Server {
    child: Child,
    facts: Vec<String>,
}

impl Server {
    fn start(program: &Path) -> Self {
        let mut child =
            Command::new(program).arg("serve").stdout(Stdio::piped()).spawn().expect("the server");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its facts");
        let facts: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(facts.len(), 3, "{line}");
        Server { child, facts }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line for each answer that is not what the table says.
fn differences(answers: &str, mode: &str, shared: bool) -> Vec<String> {
    let table = table();
    let answers: BTreeMap<&str, (&str, &str)> = answers
        .lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            Some((words.next()?, (words.next()?, words.next()?)))
        })
        .collect();
    assert!(answers.len() > 100, "only {} probes answered", answers.len());
    let unknown = table.keys().filter(|name| !answers.contains_key(name.as_str()));
    let mut wrong: Vec<String> = unknown.map(|name| format!("{name}: no such probe")).collect();
    for (name, (answer, error)) in &answers {
        let expected = table.get(*name).map_or("denied", |row| row.answer(mode, shared));
        let not_here = expected == "allowed" && NOT_HERE.contains(error);
        let (wanted, by) = expected.split_once(':').unwrap_or((expected, error));
        if (*answer, *error) != (wanted, by) && !not_here {
            wrong.push(format!("{name}: {answer} ({error}), but the table says {expected}"));
        }
    }
    wrong
}

/// A line of the table.
struct Row {
    default: String,
    elsewhere: BTreeMap<String, String>,
}

impl Row {
    fn answer(&self, mode: &str, shared: bool) -> &str {
        let own = if shared { Some(format!("{mode}-shared")) } else { None };
        let places = [own.as_deref(), shared.then_some("shared"), Some(mode)];
        let found = places.into_iter().flatten().find_map(|place| self.elsewhere.get(place));
        found.unwrap_or(&self.default)
    }
}

fn table() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(source("expected.txt")).expect("the table");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(row).collect()
}

fn row(line: &str) -> (String, Row) {
    let (answers, reason) = line.split_once(" # ").unwrap_or((line, ""));
    assert!(!answers.contains("allowed") || !reason.trim().is_empty(), "{line:?} needs a reason");
    let mut words = answers.split_whitespace();
    let name = words.next().expect("a name").to_owned();
    let default = words.next().expect("an answer").to_owned();
    let elsewhere: BTreeMap<String, String> = words
        .map(|word| word.split_once('=').expect("WHERE=ANSWER"))
        .map(|(place, answer)| (place.to_owned(), answer.to_owned()))
        .collect();
    for answer in elsewhere.values().chain([&default]) {
        let errno = answer.strip_prefix("denied:").map(str::parse::<i32>);
        assert!(answer == "allowed" || answer == "denied" || matches!(errno, Some(Ok(_))), "{line:?}");
    }
    (name, Row { default, elsewhere })
}
