//! Records of builds meet kills, full disks and places that cannot be written to: the build is what it was, and
//! what is remembered is whole.

use std::fs;
use std::process::Command;

use crate::cases::{Small, fsck, leftovers};
use crate::inject::can_inject;
use crate::run;
use crate::support::{Lab, bases_or_skip, is_root, skip};

/// A build whose only step is cached from the second time on.
fn cached(lab: &Lab) -> std::path::PathBuf {
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /a\n"), ("a", "a")]);
    let first = lab.build(&context, &["-o", "type=cacheonly"]);
    assert_eq!(first.code, 0, "{}", first.err);
    context
}

/// Everything that is remembered can be shown, and nothing half written lies about.
fn whole(lab: &Lab, when: &str) -> usize {
    let ids = lab.run(["builds", "ls", "-q"]);
    assert_eq!(ids.code, 0, "{when}: {}", ids.err);
    for id in ids.out.lines() {
        let shown = lab.run(["builds", "show", id]);
        assert_eq!(shown.code, 0, "{when}: {}", shown.err);
    }
    let checked = fsck(lab);
    assert_eq!(checked.code, 0, "{when}: {}{}", checked.out, checked.err);
    assert_eq!(leftovers(lab), Vec::<String>::new(), "{when}");
    ids.out.lines().count()
}

#[test]
fn a_build_that_is_killed_while_it_writes_its_record_leaves_none_or_a_whole_one() {
    if !can_inject("a_build_that_is_killed_while_it_writes_its_record_leaves_none_or_a_whole_one") {
        return;
    }
    let lab = Lab::new();
    let context = cached(&lab);
    // Before each rename: the last of them gives the record its name. Before each write: among them is its content.
    for call in ["rename", "write"] {
        let (mut ended, mut number) = (false, 0);
        while !ended {
            number += 1;
            assert!(number < 200, "{call}: the build never ends");
            let before = whole(&lab, "before");
            // Not by seccomp-bpf: with it, this strace delivers no signals.
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            let mut strace = Command::new("strace");
            strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
            let build = lab.rbuild();
            strace.arg(build.get_program()).args(["build", "-q", "-o", "type=cacheonly"]).arg(&context);
            strace.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let done = run(strace);
            ended = done.code == 0;
            let after = whole(&lab, &format!("{call} {number}"));
            assert!(after == before || after == before + 1, "{call} {number}: {before} and then {after}");
            assert!(!ended || after == before + 1, "{call} {number}: a build that ended is remembered");
        }
        assert!(number > 1, "no {call} was met");
    }
}

#[test]
fn a_full_disk_remembers_no_build_and_loses_none() {
    let test = "a_full_disk_remembers_no_build_and_loses_none";
    if !is_root() {
        return skip(test, "only root can mount a small file system");
    }
    let lab = Lab::new();
    let Some(disk) = Small::mount(&lab.store(), "4m") else {
        return skip(test, "this machine does not let tests mount a tmpfs with 4m");
    };
    let context = cached(&lab);
    // All of it, up to the last page; a tmpfs has inodes left.
    let mut filling = fs::File::create(lab.store().join("logs-of-others")).expect("create");
    while std::io::Write::write(&mut filling, &[7; 4096]).is_ok() {}
    let before = lab.run(["builds", "ls", "-q"]).out.lines().count();
    let done = lab.build(&context, &["-o", "type=cacheonly"]);
    // Whether opening the store takes space is a matter of the file system.
    assert!([0, 7].contains(&done.code), "{} {}", done.code, done.err);
    assert_eq!(lab.run(["builds", "ls", "-q"]).out.lines().count(), before);
    drop(filling);
    fs::remove_file(lab.store().join("logs-of-others")).expect("remove");
    assert_eq!(whole(&lab, "with space again"), before);
    let done = lab.build(&context, &["-o", "type=cacheonly"]);
    assert_eq!((done.code, whole(&lab, "after it")), (0, before + 1), "{}", done.err);
    drop(disk);
}

#[test]
fn a_place_that_takes_no_records_fails_no_build() {
    if !bases_or_skip("a_place_that_takes_no_records_fails_no_build") {
        return;
    }
    let lab = Lab::new();
    let context = cached(&lab);
    let (builds, aside) = (lab.store().join("builds"), lab.path().join("aside"));
    fs::rename(&builds, &aside).expect("rename");
    // Nobody, root included, writes below a file.
    fs::write(&builds, "").expect("write");
    let done = lab.build(&context, &["-o", "type=cacheonly"]);
    assert!(done.code == 0 && !done.err.contains("cannot"), "{} {}", done.code, done.err);
    let shown = lab.run(["builds"]);
    assert!(shown.code == 7 && shown.err.contains("builds"), "{}", shown.err);
    fs::remove_file(&builds).expect("remove");
    fs::rename(&aside, &builds).expect("rename");
    assert_eq!(whole(&lab, "as before"), 1);
}
