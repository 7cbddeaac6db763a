//! What a build would do and why it did what it did: dry runs, the causes of misses, and the builds that the store
//! remembers.

#[path = "explain/causes.rs"]
mod causes;
#[path = "explain/edits.rs"]
mod edits;
#[path = "explain/memory.rs"]
mod memory;
#[path = "support/registry.rs"]
mod registry;
#[path = "support/server.rs"]
mod server;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use support::{Done, Lab, bases_or_skip};

/// The lines that say why steps were executed, as `STEP: CAUSE`.
fn causes_of(done: &Done) -> Vec<String> {
    let (mut names, mut causes) = (BTreeMap::new(), Vec::new());
    for line in done.err.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if rest.starts_with('[') {
            names.insert(number.to_owned(), rest.to_owned());
        }
        if let Some(cause) = rest.strip_prefix("not cached: ") {
            causes.push(format!("{}: {cause}", names.get(number).map_or("?", String::as_str)));
        }
    }
    causes
}

/// Text without what differs from run to run: digests, dates, addresses, times.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        out.push_str(&rest[..at]);
        out.push_str("sha256:HEX");
        let behind = &rest[at + 7..];
        let digits = behind.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(behind.len());
        rest = &behind[digits..];
    }
    out.push_str(rest);
    let words = out.split(' ').map(|word| {
        let is_day = word.len() == 10 && word.bytes().filter(|c| *c == b'-').count() == 2;
        if is_day && word.starts_with("20") { "DAY" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Every file of a store with its content, but for what processes leave while they live and times of use.
fn content(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut open) = (BTreeMap::new(), vec![store.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().expect("file type");
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                all.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    all
}

fn dry_run(lab: &Lab, context: &Path, more: &[&str]) -> (Done, BTreeMap<String, (String, String)>) {
    let done = lab.build(context, &[&["--dry-run=json"], more].concat());
    let json: Value = serde_json::from_str(&done.out).unwrap_or_default();
    let steps = json["platforms"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|platform| platform["steps"].as_array().cloned().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = steps.map(|step| {
        let detail = if step["why"].is_null() { text(&step["from"]) } else { text(&step["why"]) };
        (text(&step["name"]), (text(&step["outcome"]), detail))
    });
    let rows = rows.collect();
    (done, rows)
}

/// Steps of a build by name, and whether each came from the cache, as the plain progress says.
fn outcomes(done: &Done) -> BTreeMap<String, bool> {
    let (mut names, mut ended) = (BTreeMap::new(), BTreeMap::new());
    for line in done.err.lines() {
        let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if rest.starts_with('[') {
            names.insert(number.to_owned(), rest.to_owned());
        }
        if (rest == "CACHED" || rest.starts_with("DONE "))
            && let Some(name) = names.get(number)
        {
            ended.insert(name.clone(), rest == "CACHED");
        }
    }
    ended
}

const STAGES: &str = "FROM busybox AS build\nARG V=1\nCOPY src /src\nRUN cat /src/* > /out\nFROM busybox\n\
     COPY --from=build /out /out\nCOPY --link top /top\nWORKDIR /w\nRUN echo $V > /v\n";

fn stages(lab: &Lab) -> PathBuf {
    lab.context(&[("Dockerfile", STAGES), ("src/a", "a\n"), ("src/b", "b\n"), ("top", "top\n")])
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_would_run() {
    if !bases_or_skip("a_dry_run_writes_nothing_and_says_what_would_run") {
        return;
    }
    let lab = Lab::new();
    let context = stages(&lab);
    // The store itself is made by whoever opens it first.
    assert_eq!(lab.run(["images"]).code, 0);
    let before = content(&lab.store());
    let (done, steps) = dry_run(&lab, &context, &[]);
    assert_eq!(done.code, 10, "{}", done.err);
    assert!(steps.len() > 6 && steps.values().all(|(outcome, _)| outcome != "cached"), "{steps:?}");
    assert_eq!(content(&lab.store()), before, "an empty store");

    assert_eq!(lab.build(&context, &[]).code, 0);
    let before = content(&lab.store());
    let (done, steps) = dry_run(&lab, &context, &["-t", "never:named", "--iidfile", "never-written"]);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let cached: Vec<_> = steps.values().filter(|(outcome, _)| outcome == "cached").collect();
    assert!(cached.len() == 6 && cached.iter().all(|(_, from)| from == "store"), "{steps:?}");
    assert_eq!(content(&lab.store()), before, "all is cached");
    assert!(!lab.path().join("never-written").exists());

    fs::write(context.join("src/a"), "another\n").expect("write");
    let (done, steps) = dry_run(&lab, &context, &[]);
    assert_eq!(done.code, 10, "{}", done.err);
    assert_eq!(content(&lab.store()), before, "something would run");
    let outcome = |name: &str| steps.iter().find(|(step, _)| step.contains(name)).map(|(_, row)| row.clone());
    assert_eq!(outcome("COPY src").map(|row| row.0).as_deref(), Some("would-run"), "{steps:?}");
    let after = outcome("RUN cat").expect("a step");
    assert!(after.0 == "would-run" && after.1.starts_with("after [build "), "{after:?}");
    // Its key does not depend on what is below.
    assert_eq!(outcome("--link").map(|row| row.0).as_deref(), Some("cached"), "{steps:?}");
    let text = lab.build(&context, &["--dry-run"]);
    assert!(text.code == 10 && text.out.contains("would run: after ["), "{}", text.out);
    assert!(text.out.contains("5 of 6 steps would run, 1 cached; nothing would be pulled"), "{}", text.out);
}

#[test]
fn a_dry_run_and_the_build_agree() {
    if !bases_or_skip("a_dry_run_and_the_build_agree") {
        return;
    }
    let lab = Lab::new();
    let context = stages(&lab);
    let edits: &[(&str, &str, &[&str])] = &[
        ("src/c", "new\n", &[]),
        ("top", "changed\n", &[]),
        ("unrelated", "x\n", &[]),
        ("top", "changed again\n", &["--build-arg=V=2"]),
        ("top", "changed again\n", &["--no-cache-filter=build"]),
        ("top", "changed again\n", &["--no-cache"]),
        ("Dockerfile", "FROM busybox\nRUN --mount=target=/c cat /c/top > /t\nADD top /two\n", &[]),
    ];
    assert_eq!(lab.build(&context, &[]).code, 0);
    for (path, text, flags) in edits {
        fs::write(context.join(path), text).expect("write");
        let (dry, would) = dry_run(&lab, &context, flags);
        let done = lab.build(&context, flags);
        assert_eq!(done.code, 0, "{}", done.err);
        let did = outcomes(&done);
        let mut ran = 0;
        for (step, (outcome, why)) in would.iter().filter(|(_, (outcome, _))| outcome != "base") {
            let cached = *did.get(step).unwrap_or_else(|| panic!("{step} is not in {did:?}: {}", done.err));
            ran += usize::from(!cached);
            // A step behind one that runs may turn out to be cached.
            let agrees = match outcome.as_str() {
                "cached" => cached,
                _ => !cached || why.starts_with("after "),
            };
            assert!(agrees, "{path} {flags:?}: {step} {outcome} ({why}), cached: {cached}\n{}", done.err);
        }
        assert!(ran == 0 || dry.code == 10, "{path} {flags:?}: exit code {} and {ran} ran", dry.code);
    }
}

#[test]
fn a_dry_run_fails_as_the_build_would_and_takes_no_part_of_it() {
    if !bases_or_skip("a_dry_run_fails_as_the_build_would_and_takes_no_part_of_it") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\nCOPY --link nothing /\n")]);
    for (flags, code, words) in [
        (&["--dry-run"][..], 1, "\"nothing\" not found"),
        (&["--dry-run=yaml"], 2, "json"),
        (&["--dry-run", "--push"], 2, "a push needs a name"),
        (&["--dry-run", "--target=x"], 3, "x"),
        (&["--dry-run", "-t", "Upper"], 2, "Upper"),
        (&["--dry-run", "--check"], 2, "--dry-run does not go with"),
        // A place that an output cannot have is found out before any step.
        (&["--dry-run", "-o", "type=tar,dest=no-such-dir/x"], 6, "no-such-dir does not exist"),
        (&["-o", "type=oci,dest=no-such-dir/x"], 6, "no-such-dir does not exist"),
        (&["-o", "type=docker,dest=."], 6, "it is a directory"),
        (&["--dry-run", "-o", "type=local,dest=/dev/null"], 6, "it is not a directory"),
        (&["--dry-run", "--iidfile=no-such-dir/id"], 6, "no-such-dir"),
        (&["--dry-run", "--metadata-file=no-such-dir/m"], 6, "no-such-dir"),
    ] {
        let done = lab.build(&context, flags);
        assert!(done.code == code && done.err.contains(words), "{flags:?}: {} {}", done.code, done.err);
    }
    let quiet = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let done = lab.build(&quiet, &["--dry-run", "-q"]);
    assert_eq!((done.code, done.out.as_str()), (10, ""), "{}", done.err);
}
