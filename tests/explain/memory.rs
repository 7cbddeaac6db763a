//! The builds that the store remembers: lists, records, logs, secrets, bounds, collection, damage.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Done, Lab, bases_or_skip};

const HELLO: &[(&str, &str)] = &[
    ("Dockerfile", "FROM busybox\nARG V=1\nCOPY a /a\nRUN echo hello $V; echo error >&2; cat /a\n"),
    ("a", "one\n"),
];

fn json(done: &Done) -> Value {
    assert_eq!(done.code, 0, "{}", done.err);
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}", done.out))
}

fn ids(lab: &Lab) -> Vec<String> {
    lab.run(["builds", "ls", "-q"]).out.lines().map(str::to_owned).collect()
}

/// The files of remembered builds.
fn files(lab: &Lab) -> Vec<PathBuf> {
    let dir = lab.store().join("builds");
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_build_is_remembered_with_all_that_it_was() {
    if !bases_or_skip("a_build_is_remembered_with_all_that_it_was") {
        return;
    }
    let lab = Lab::new();
    let empty = lab.run(["builds", "show"]);
    assert!(empty.code == 2 && empty.err.contains("remembers no build"), "{}", empty.err);
    let context = lab.context(HELLO);
    assert_eq!(lab.build(&context, &["-t", "hello:1", "--build-arg=V=2"]).code, 0);
    fs::write(context.join("a"), "two\n").expect("write");
    assert_eq!(lab.build(&context, &["--build-arg=V=2"]).code, 0);
    assert_eq!(lab.build(&context, &["--build-arg=V=2", "--target=nothing"]).code, 3);
    fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo before; exit 3\n").expect("write");
    assert_eq!(lab.build(&context, &[]).code, 1);

    let all = ids(&lab);
    assert_eq!(all.len(), 4, "{all:?}");
    let table = lab.run(["builds"]);
    let lines: Vec<&str> = table.out.lines().collect();
    assert!(lines[0].starts_with("BUILD ID") && lines.len() == 5, "{}", table.out);
    assert!(
        lines[1].contains("Error") && lines[4].contains("hello:1") && lines[4].contains("Completed"),
        "{}",
        table.out
    );
    assert_eq!(lab.run(["builds", "ls", "--format={{.Status}}"]).out, "Error\nError\nCompleted\nCompleted\n");
    assert_eq!(lab.run(["buildx", "history", "ls", "-q"]).out, all.join("\n") + "\n");

    let first = json(&lab.run(["builds", "show", "--format=json", &all[3]]));
    assert_eq!(first["id"], Value::from(all[3].as_str()));
    assert_eq!(first["buildArgs"][0]["value"], "2");
    assert_eq!(first["status"], "completed");
    assert!(first["text"].as_str().is_some_and(|text| text.starts_with("FROM busybox\nARG V")), "{first:#}");
    assert!(first["image"].as_str().is_some_and(|image| image.starts_with("sha256:")), "{first:#}");
    let steps = first["platforms"][0]["steps"].as_array().cloned().unwrap_or_default();
    let outcomes: Vec<_> = steps.iter().map(|step| step["outcome"].as_str().unwrap_or_default()).collect();
    assert_eq!(outcomes, ["base", "executed", "executed"]);
    let second = json(&lab.run(["explain", "--format=json", "--build", &all[2][..6], "3"]));
    let steps = second["platforms"][0]["steps"].as_array().cloned().unwrap_or_default();
    assert_eq!(steps.len(), 1, "{second:#}");
    assert_eq!(steps[0]["cause"]["text"], "a changed");
    let change = &steps[0]["cause"]["inputs"][0];
    assert!(
        change["old"] != change["new"] && change["files"][0]["what"][0]["change"] == "content",
        "{change:#}"
    );

    let logs = lab.run(["builds", "logs", "^2"]).out;
    let texts: Vec<&str> =
        logs.lines().map(|line| line.split_once(' ').map_or(line, |(_, text)| text)).collect();
    assert!(texts[0].contains("RUN echo hello") && texts[1..] == ["hello 2", "error", "two"], "{logs}");
    let lines = lab.run(["builds", "logs", "--format=json", "--step=3/3", "^2"]).out;
    assert_eq!(lines.lines().count(), 3, "{lines}");
    assert!(lab.run(["builds", "logs", "--step=2/3", "^2"]).out.is_empty());
    assert!(lab.run(["builds", "logs"]).out.contains(" before\n"));
    let shown = lab.run(["builds", "show"]).out;
    assert!(shown.contains("exit code: 3") && shown.contains("failed"), "{shown}");
    assert_eq!(lab.run(["builds", "show", "--dockerfile"]).out, "FROM busybox\nRUN echo before; exit 3\n");

    for (args, words) in [
        (&["builds", "show", "zzz"][..], "remembers no build"),
        (&["builds", "show", ""], "remembers no build"),
        (&["builds", "show", "^x"], "invalid build"),
        (&["builds", "show", "^99"], "remembers 4 builds"),
        (&["builds", "rm"], "--all"),
        (&["builds", "rm", "--all", "x"], "--all"),
        (&["explain", "7/9"], "there are 1/2, 2/2"),
        (&["explain", "nothing"], "there are 1/2, 2/2"),
        (&["builds", "forget"], "forget"),
    ] {
        let done = lab.run(args);
        assert!(done.code == 2 && done.err.contains(words), "{args:?}: {} {}", done.code, done.err);
    }
    assert_eq!(lab.run(["builds", "rm", "^0", &all[3]]).code, 0);
    assert_eq!(ids(&lab), all[1..3]);
    assert_eq!(lab.run(["builds", "rm", "--all"]).code, 0);
    assert!(ids(&lab).is_empty() && files(&lab).is_empty());
}

#[test]
fn secrets_are_in_no_record() {
    if !bases_or_skip("secrets_are_in_no_record") {
        return;
    }
    let lab = Lab::new();
    let key = lab.path().join("key");
    fs::write(&key, "hunter22-secret\n").expect("write");
    let dockerfile = "FROM busybox\nARG DB_PASSWORD\nARG URL=x\nENV COPY_OF=$DB_PASSWORD\nLABEL l=$URL\n\
         RUN --mount=type=secret,id=key cat /run/secrets/key; echo $DB_PASSWORD; env; base64 /run/secrets/key\n\
         RUN echo $URL\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let secret = format!("--secret=id=key,src={}", key.display());
    let flags = [
        secret.as_str(),
        "--build-arg=DB_PASSWORD=hunter33-argument",
        "--build-arg=URL=https://user:hunter77-address@host/",
    ];
    let raw = [&flags[..], &["--progress=rawjson"]].concat();
    for flags in [&flags[..], &raw] {
        let done = lab.build(&context, flags);
        assert_eq!(done.code, 0, "{}", done.err);
    }
    let again =
        lab.build(&context, &[flags[0], "--build-arg=DB_PASSWORD=hunter44-other", "--progress=rawjson"]);
    assert!(again.err.contains("build arg DB_PASSWORD changed"), "{}", again.err);
    // What is written in a Dockerfile is compared, whether or not it may be shown.
    let literal =
        lab.context(&[("Dockerfile", "FROM busybox\nARG DB_PASSWORD\nRUN echo hunter55-literal\n")]);
    for value in ["hunter55-literal", "hunter66-another"] {
        let done = lab.build(&literal, &[&format!("--build-arg=DB_PASSWORD={value}")]);
        assert_eq!(done.code, 0, "{}", done.err);
        let said = ["not cached: build arg DB_PASSWORD changed", "the instruction changed"]
            .map(|words| done.err.contains(words));
        assert_eq!(said, [value.contains("66"), false], "{}", done.err);
        if value.contains("66") {
            assert_eq!(lab.run(["builds", "rm", "^0"]).code, 0);
        }
    }
    let misses: String = again.err.lines().filter(|line| line.contains("rbuild.miss")).collect();
    assert!(!misses.is_empty() && !misses.contains("hunter"), "{misses}");
    for args in [
        &["builds", "show", "--format=json"][..],
        &["builds", "show", "^3"],
        &["builds", "show", "^1", "--format=json"],
        &["builds", "show", "--dockerfile", "^1"],
        &["builds", "logs", "^3"],
        &["builds", "logs", "--format=json"],
        &["explain", "--format=json"],
        &["explain", "--build=^2"],
        &["builds", "ls", "--format=json"],
    ] {
        let done = lab.run(args);
        assert!(done.code == 0 && !done.out.contains("hunter"), "{args:?}: {}", done.out);
        assert!(!done.out.contains("aHVudGVy"), "{args:?}: {}", done.out);
    }
    assert!(lab.run(["builds", "show", "^1"]).out.contains("DB_PASSWORD=****"));
    for file in files(&lab) {
        let bytes = fs::read(&file).expect("read");
        assert!(!bytes.windows(6).any(|part| part == b"hunter"), "{}", file.display());
        assert_eq!(fs::metadata(file.parent().expect("dir")).expect("stat").permissions().mode() & 0o77, 0);
    }
}

#[test]
fn remembered_builds_are_counted_collected_and_checked() {
    if !bases_or_skip("remembered_builds_are_counted_collected_and_checked") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(HELLO);
    for _ in 0..2 {
        assert_eq!(lab.build(&context, &[]).code, 0);
    }
    let du = json(&lab.run(["du", "--format=json"]));
    let row = du["Types"].as_array().into_iter().flatten().find(|row| row["Type"] == "build history");
    assert!(row.is_some_and(|row| row["Count"] == 2 && row["Size"].as_u64() > Some(0)), "{du:#}");
    assert_eq!(lab.run(["fsck"]).code, 0);

    let id = ids(&lab)[0].clone();
    let damaged =
        files(&lab).into_iter().find(|path| path.display().to_string().contains(&id)).expect("a file");
    let mut bytes = fs::read(&damaged).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&damaged, &bytes).expect("write");
    let done = lab.run(["builds", "show", &id]);
    assert!(done.code == 7 && done.err.contains("cannot be read"), "{} {}", done.code, done.err);
    // It is no reason for a build to fail, or to be explained wrong.
    fs::write(context.join("a"), "changed\n").expect("write");
    let built = lab.build(&context, &[]);
    assert!(built.code == 0 && built.err.contains("not cached: a changed"), "{}", built.err);
    let checked = lab.run(["fsck"]);
    assert!(
        checked.code == 7 && checked.out.contains(&format!("the record of build {id}")),
        "{}",
        checked.out
    );
    assert_eq!(lab.run(["fsck", "--repair"]).code, 0);
    assert_eq!(lab.run(["fsck"]).code, 0);
    assert_eq!(files(&lab).len(), 2);

    let other = ids(&lab)[1].clone();
    let pruned = lab.run(["prune", "--filter", &format!("id={other}")]);
    assert!(pruned.code == 0 && pruned.out.contains("build history"), "{}", pruned.out);
    assert_eq!(ids(&lab).len(), 1);
    assert_eq!(lab.run(["prune", "--filter=type=build.history"]).code, 0);
    assert!(ids(&lab).is_empty());
    // The cache itself stayed.
    assert!(lab.build(&context, &[]).err.contains("2 of 2 steps cached"));
    assert_eq!(lab.run(["prune", "-a"]).code, 0);
    assert!(ids(&lab).is_empty());
}

#[test]
fn a_store_that_takes_no_record_fails_no_build() {
    if !bases_or_skip("a_store_that_takes_no_record_fails_no_build") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(HELLO);
    assert_eq!(lab.build(&context, &[]).code, 0);
    // Something else lies in the place of the directory.
    let place = lab.store().join("builds");
    fs::remove_dir_all(&place).expect("rm");
    fs::write(&place, "").expect("write");
    for flags in [&[][..], &["--no-cache"]] {
        let done = lab.build(&context, flags);
        assert_eq!(done.code, 0, "{}", done.err);
    }
    fs::remove_file(&place).expect("rm");
    assert_eq!(lab.build(&context, &[]).code, 0);
    assert_eq!(ids(&lab).len(), 1);
}

#[test]
fn builds_at_once_are_remembered_each() {
    if !bases_or_skip("builds_at_once_are_remembered_each") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(HELLO);
    assert_eq!(lab.build(&context, &[]).code, 0);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (lab, context) = (&lab, &context);
            scope.spawn(move || {
                for _ in 0..3 {
                    let done = lab.build(context, &[&format!("--build-arg=V={number}")]);
                    assert_eq!(done.code, 0, "{}", done.err);
                }
            });
        }
    });
    let all = ids(&lab);
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 13, "{all:?}");
    assert_eq!(lab.run(["fsck"]).code, 0);
}
