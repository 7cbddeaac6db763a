//! Builds that are killed or meet collection, a store on a full disk: whatever happens, the store is whole and
//! the next build gives the right image.
//!
//! The ordinary run kills a few dozen builds; `RBUILD_CRASH_KILLS=300` kills so many. The moments come
//! from a seed that is printed; `RBUILD_CRASH_SEED` repeats a run as far as timing can be repeated.

#[path = "support/cases.rs"]
mod cases;
#[path = "crash/outlive.rs"]
mod outlive;
mod support;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cases::{Random, Row, Small, cases, command, digest, fsck, leftovers, unreachable_snapshots};
use support::{Lab, Who, bases_or_skip, compiled, has, is_root, skip, user_of};

const KILLS: usize = 25;
const ORDINARY_TIME: Duration = Duration::from_secs(30);

/// What the disasters here happen to.
const ROWS: [Row; 7] = [
    (
        "run",
        "FROM busybox\nRUN seq 1 60000 > /a\nRUN seq 1 90000 > /b && rm /a\nRUN mkdir -p /x/y && cp /b /x/y/c\n",
        None,
        &[],
    ),
    ("copy", "FROM scratch\nCOPY src /src\nCOPY src/d1 src/d2 /two/\nWORKDIR /w\n", None, &[]),
    (
        "stages",
        "FROM busybox AS a\nRUN seq 1 300000 > /a\nFROM busybox AS b\nCOPY src /s\nRUN cat /s/*/* > /b\n\
             FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN cat /a /b > /ab\n",
        None,
        &["-t", "stages:1"],
    ),
    // A stage of the last one, whose layers may be there as files only.
    (
        "packed",
        "FROM busybox AS a\nRUN seq 1 300000 > /a\nFROM busybox AS b\nCOPY src /s\nRUN cat /s/*/* > /b\n",
        Some("type=oci,dest="),
        &["--target", "b"],
    ),
    (
        "export",
        "FROM busybox\nCOPY src /src\nRUN find /src -type f | sort | xargs md5sum > /sums\n",
        Some("type=oci,compression=zstd,dest="),
        &["-t", "export:1"],
    ),
    ("pull", "FROM busybox\nENV a=b\n", Some("type=docker,dest="), &["-t", "pull:1"]),
    (
        "mounts",
        "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/s,source=src \
             cat /s/*/* > /c/x && cat /c/x > /all\nCOPY --link src /l\n",
        Some("type=local,dest="),
        &[],
    ),
];

/// On a machine too slow for more in the time, a few are still a test.
const LEAST: usize = 5;

/// Starts a build and kills it, with everything it started, after so long.
fn kill(mut command: Command, after: Duration) -> bool {
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child: Child = command.spawn().expect("rbuild starts");
    std::thread::sleep(after);
    let ended = child.try_wait().expect("wait").is_some();
    if !ended {
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-9", "--", &group]).stderr(Stdio::null()).status();
        let _ = child.wait();
    }
    !ended
}

fn survive_kills(who: Who, kills: usize, time: Option<Duration>) {
    let lab = Lab::as_user(who);
    let mut cases = cases(&lab, &ROWS);
    let mut random = Random::seeded();
    let begun = Instant::now();
    let (mut killed, mut too_late) = (0, 0);
    while killed < kills && (killed < LEAST || time.is_none_or(|time| begun.elapsed() < time)) {
        let chosen = random.below(cases.len() as u64) as usize;
        let case = &cases[chosen];
        // A quarter meets an empty store, a quarter an emptied one, the rest what the last one left.
        match random.below(4) {
            0 => drop(fs::remove_dir_all(lab.store())),
            1 => {
                lab.run(["rmi", "stages:1", "export:1", "pull:1"]);
                assert_eq!(lab.run(["prune", "-a"]).code, 0);
            }
            _ => {}
        }
        let after = Duration::from_micros(random.below(case.takes.as_micros() as u64));
        let was_killed = kill(command(&lab, case, &lab.store(), 1), after);
        match was_killed {
            true => killed += 1,
            false => too_late += 1,
        }
        let context = format!("{} killed after {after:?} (kill {killed})", case.name);
        let checked = fsck(&lab);
        assert!(checked.code == 0, "{context}: {}{}", checked.out, checked.err);
        let left = leftovers(&lab);
        assert!(left.is_empty(), "{context}: left {left:?}");
        let next = support::done(command(&lab, case, &lab.store(), 2).output().expect("rbuild"));
        assert!(next.code == 0, "{context}: the next build failed: {}", next.err);
        assert_eq!(digest(&lab, case, 2), case.digest, "{context}");
        let lost = unreachable_snapshots(&lab);
        assert!(lost.is_empty(), "{context}: nothing leads to {lost:?}");
        if !was_killed {
            // It takes less time by now than it took on a busier machine.
            cases[chosen].takes = (case.takes * 3 / 4).max(Duration::from_millis(2));
        }
    }
    let checked = fsck(&lab);
    assert!(checked.code == 0, "{}{}", checked.out, checked.err);
    println!("{killed} builds killed as {who:?}, {too_late} ended before, in {:?}", begun.elapsed());
    assert!(killed >= kills.min(LEAST), "only {killed} builds were killed");
}

fn wanted_kills() -> Option<usize> {
    std::env::var("RBUILD_CRASH_KILLS").ok()?.parse().ok()
}

#[test]
fn killed_builds_leave_a_whole_store_and_the_next_build_is_right() {
    if bases_or_skip("killed_builds_leave_a_whole_store_and_the_next_build_is_right") {
        let full = wanted_kills();
        survive_kills(Who::Caller, full.unwrap_or(KILLS), full.is_none().then_some(ORDINARY_TIME));
    }
}

#[test]
fn killed_rootless_builds_leave_a_whole_store() {
    let test = "killed_rootless_builds_leave_a_whole_store";
    if !can_be_rootless(test) {
        return;
    }
    let full = wanted_kills();
    survive_kills(Who::Rootless, full.map_or(5, |kills| kills / 5), full.is_none().then_some(ORDINARY_TIME));
}

#[test]
fn a_store_on_a_full_disk_can_be_cleaned() {
    let test = "a_store_on_a_full_disk_can_be_cleaned";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() || !has("mkfs.ext4") {
        return skip(test, "only root with mkfs.ext4 can make a small disk");
    }
    let lab = Lab::new();
    let (image, disk) = (lab.path().join("disk.img"), lab.path().join("disk"));
    fs::create_dir(&disk).expect("mkdir");
    fs::File::create(&image).and_then(|file| file.set_len(24 << 20)).expect("image");
    support::tool("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()]);
    let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk).output();
    if !mounted.is_ok_and(|done| done.status.success()) {
        return skip(test, "this machine does not let tests mount a loop device");
    }
    let _small = Small(disk.clone());
    let case = cases(&lab, &ROWS).into_iter().find(|case| case.name == "stages").expect("case");
    let store = disk.join("store");
    let built = support::done(command(&lab, &case, &store, 1).output().expect("rbuild"));
    assert!(built.code == 0, "{}", built.err);
    fill(&disk);
    let run = |words: &[&str]| {
        support::done(lab.rbuild().env("RBUILD_ROOT", &store).args(words).output().expect("rbuild"))
    };
    let pruned = run(&["prune", "-a"]);
    assert!(pruned.code == 0, "{}", pruned.err);
    let checked = run(&["fsck"]);
    assert!(checked.code == 0, "{}{}", checked.out, checked.err);
    assert!(fs::write(disk.join("more"), vec![0; 100_000]).is_ok(), "nothing was freed");
}

/// Leaves not a block of a file system.
fn fill(disk: &Path) {
    for size in [1 << 20, 4096, 1] {
        let mut number = 0;
        while fs::write(disk.join(format!("fill-{size}-{number}")), vec![1; size]).is_ok() {
            number += 1;
        }
    }
}

/// Whether the rootless user can be played.
fn can_be_rootless(test: &str) -> bool {
    if !is_root() || user_of(Who::Rootless).is_none() || !has("newuidmap") {
        skip(test, "there is no user with subordinate IDs (tests/setup makes one)");
        return false;
    }
    bases_or_skip(test)
}

fn side_by_side(who: Who, rounds: usize) {
    const BUILDERS: usize = 16;
    let lab = Lab::as_user(who);
    let cases = cases(&lab, &ROWS);
    let stop = AtomicBool::new(false);
    let (lab, cases, stop) = (&lab, &cases, &stop);
    let prunes = std::thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|builder| {
                scope.spawn(move || {
                    for round in 0..rounds {
                        // Half of them build the same at the same time.
                        let case =
                            &cases[if builder % 2 == 0 { round } else { builder + round } % cases.len()];
                        let number = 10 + builder;
                        let mut build = command(lab, case, &lab.store(), number);
                        if builder % 4 == 3 {
                            build.arg("--no-cache");
                        }
                        let done = support::done(build.output().expect("rbuild"));
                        assert!(done.code == 0, "{}: {}", case.name, done.err);
                        assert_eq!(digest(lab, case, number), case.digest, "{}", case.name);
                    }
                })
            })
            .collect();
        let pruner = scope.spawn(move || {
            let mut count = 0usize;
            while !stop.load(Ordering::Relaxed) {
                let flags: &[&str] = match count % 4 {
                    0 => &["prune", "-a"],
                    1 => &["prune", "--filter", "until=1s"],
                    2 => &["prune", "-a", "--max-used-space", "1m"],
                    _ => &["rmi", "stages:1", "pull:1"],
                };
                let done = lab.run(flags);
                assert!(done.code == 0 || flags[0] == "rmi", "{flags:?}: {}", done.err);
                count += 1;
            }
            count
        });
        let results: Vec<_> = builders.into_iter().map(|builder| builder.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let prunes = pruner.join().expect("the pruner");
        for result in results {
            result.expect("a builder");
        }
        prunes
    });
    println!("{} builds, {BUILDERS} at once, beside {prunes} collections as {who:?}", BUILDERS * rounds);
    let checked = fsck(lab);
    assert!(checked.code == 0, "{}{}", checked.out, checked.err);
    assert_eq!(leftovers(lab), Vec::<String>::new());
}

#[test]
fn builds_and_collection_go_on_side_by_side() {
    if bases_or_skip("builds_and_collection_go_on_side_by_side") {
        side_by_side(Who::Caller, wanted_kills().map_or(1, |kills| (kills / 60).max(1)));
    }
}

#[test]
fn rootless_builds_and_collection_go_on_side_by_side() {
    if can_be_rootless("rootless_builds_and_collection_go_on_side_by_side") {
        side_by_side(Who::Rootless, wanted_kills().map_or(1, |kills| (kills / 60).max(1)));
    }
}
