//! Steps and commands that meet a full disk say which disk is full, and what to do.

use std::process::Command;

use crate::cases::{Small, fsck, leftovers};
use crate::support::{Done, Lab, Who, bases_or_skip, is_root, skip, user_of};

const FILL: &str = "cat /dev/zero > /big 2>/dev/null";

fn small_store(test: &str, who: Who, options: &str) -> Option<(Lab, Small)> {
    if !bases_or_skip(test) {
        return None;
    }
    if !is_root() {
        skip(test, "only root can mount a small file system");
        return None;
    }
    let lab = Lab::as_user(who);
    let disk = Small::mount(&lab.store(), options);
    if disk.is_none() {
        skip(test, &format!("this machine does not let tests mount a tmpfs with {options}"));
    }
    if let Some((_, user)) = user_of(who) {
        std::os::unix::fs::chown(lab.store(), Some(user), Some(user)).expect("chown");
    }
    Some((lab, disk?))
}

fn build(lab: &Lab, run: &str) -> Done {
    let context = lab.context(&[("Dockerfile", &format!("FROM busybox\nRUN {run}\n"))]);
    lab.build(&context, &["-o", "type=cacheonly"])
}

fn prune(lab: &Lab) {
    let pruned = lab.run(["prune", "-a"]);
    assert!(pruned.code == 0, "{}", pruned.err);
}

/// What a failure of a step shows if the store's disk is its cause.
fn blames(lab: &Lab, done: &Done, what: &str) -> bool {
    let store = lab.store().display().to_string();
    let leads = what.replace("STORE", &format!("of the store {store}"));
    done.code == 7 && done.err.contains(&leads) && done.err.contains("rbuild prune -a")
}

#[test]
fn a_step_that_fills_the_disk_is_a_full_store_however_its_program_ends() {
    let test = "a_step_that_fills_the_disk_is_a_full_store_however_its_program_ends";
    for who in [Who::Caller, Who::Rootless] {
        if who != Who::Caller && user_of(who).is_none() {
            return skip(test, "there is no user with subordinate IDs (tests/setup makes one)");
        }
        let Some((lab, _disk)) = small_store(test, who, "8m") else { return };
        let rows = [
            ("cat /dev/zero > /big", "exit code: 1"),
            (&format!("{FILL}; exit 33"), "exit code: 33"),
            (&format!("{FILL}; (sh -c 'kill -9 $$'); exit $?"), "exit code: 137"),
            ("--mount=type=cache,target=/c cat /dev/zero > /c/big", "exit code: 1"),
        ];
        for (step, how) in rows {
            let done = build(&lab, step);
            let told = blames(&lab, &done, "the disk STORE is full (") && done.err.contains(how);
            assert!(told, "{who:?} {step}: {} {}", done.code, done.err);
            let checked = fsck(&lab);
            assert!(checked.code == 0, "{}{}", checked.out, checked.err);
            assert_eq!(leftovers(&lab), Vec::<String>::new());
            prune(&lab);
        }
    }
}

#[test]
fn other_failures_are_not_blamed_on_the_disk() {
    let test = "other_failures_are_not_blamed_on_the_disk";
    let Some((lab, _disk)) = small_store(test, Who::Caller, "8m") else { return };
    let failed = build(&lab, "echo 'all is well'; exit 5");
    assert!(failed.code == 1 && !failed.err.contains("space"), "{} {}", failed.code, failed.err);
    let command = build(&lab, "true 'No space left on device'; exit 5");
    assert!(command.code == 1 && !command.err.contains("rbuild prune"), "{} {}", command.code, command.err);
    // There is space again when the program has ended.
    let rows = ["cat /dev/zero > /big || { rm /big; exit 4; }", "cat /dev/zero > /dev/shm/big || exit 4"];
    for step in rows {
        let done = build(&lab, step);
        let store = lab.store().display().to_string();
        let told = ["exit code: 4", "ran out of space", "--shm-size", &store, "rbuild prune -a"];
        assert!(
            done.code == 1 && told.iter().all(|word| done.err.contains(word)),
            "{} {}",
            done.code,
            done.err
        );
    }
}

#[test]
fn a_store_without_inodes_is_named_as_such() {
    let test = "a_store_without_inodes_is_named_as_such";
    let Some((lab, _disk)) = small_store(test, Who::Caller, "64m,nr_inodes=1500") else { return };
    let done = build(&lab, "i=0; while echo > /$i; do i=$((i+1)); done 2>/dev/null; exit 6");
    let told =
        blames(&lab, &done, "the disk STORE has no inodes left (") && done.err.contains("exit code: 6");
    assert!(told, "{} {}", done.code, done.err);
}

/// Fills what is left of the store's disk.
fn fill(lab: &Lab) {
    let mut cat = Command::new("sh");
    cat.args(["-c", "cat /dev/zero > \"$1/filling\" 2>/dev/null", "sh"]).arg(lab.store());
    cat.status().expect("sh starts");
}

#[test]
fn commands_that_cannot_write_to_a_full_store_say_so() {
    let test = "commands_that_cannot_write_to_a_full_store_say_so";
    let Some((lab, _disk)) = small_store(test, Who::Caller, "24m") else { return };
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN echo > /x\n")]);
    let built = lab.build(&context, &["-t", "x"]);
    assert!(built.code == 0, "{}", built.err);
    let archive = lab.out("x.tar").display().to_string();
    assert_eq!(lab.run(["save", "-o", &archive, "x"]).code, 0);
    assert_eq!(lab.run(["rmi", "x"]).code, 0);
    prune(&lab);
    fill(&lab);
    let other = lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &"f".repeat(300_000))]);
    let copied = lab.build(&other, &[]);
    let piped = lab.run(["load", "-i", &archive]);
    let pulled = lab.build(&context, &[]);
    let tagged = lab.run(["copy", &format!("docker-archive:{archive}"), "store:y"]);
    for (what, done) in [("COPY", copied), ("load", piped), ("FROM", pulled), ("copy", tagged)] {
        let store = format!("the disk of the store {} ran full (", lab.store().display());
        let told = done.code == 7 && done.err.contains(&store) && done.err.contains("rbuild prune -a");
        assert!(told, "{what}: {} {}", done.code, done.err);
    }
}

#[test]
fn an_output_on_a_full_disk_is_named() {
    let test = "an_output_on_a_full_disk_is_named";
    let Some((lab, _disk)) = small_store(test, Who::Caller, "64m") else { return };
    let place = lab.path().join("disk");
    let Some(_output) = Small::mount(&place, "64k") else { return };
    let context = lab.context(&[("Dockerfile", "FROM busybox\n")]);
    for kind in ["oci", "docker", "local", "tar"] {
        let dest = place.join("o").display().to_string();
        let done = lab.build(&context, &["-o", &format!("type={kind},dest={dest}")]);
        let told = done.code == 6 && done.err.contains("place for the output") && done.err.contains(&dest);
        assert!(told, "{kind}: {} {}", done.code, done.err);
    }
}
