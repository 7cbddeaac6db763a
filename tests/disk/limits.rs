//! Too few open files, too little disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cases::{Case, Small, cases, command, digest, fsck, leftovers, unreachable_snapshots};
use crate::support::{Lab, Who, bases_or_skip, has, is_root, skip, user_of};
use crate::{ROWS, run, wanted_faults};

#[test]
fn few_open_files_are_a_message_and_no_harm() {
    let test = "few_open_files_are_a_message_and_no_harm";
    if !bases_or_skip(test) {
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
        // A descriptor whose number would be too high is an invalid argument to the kernel.
        let words = ["Too many open files", "a namespace could not be set up"];
        let told = words.iter().any(|words| done.err.contains(words)) && !done.err.contains("panicked");
        assert!(done.code == 0 || told, "{about}");
        let checked = fsck(&lab);
        assert!(checked.code == 0, "{}{} after {about}", checked.out, checked.err);
        assert_eq!(leftovers(&lab), Vec::<String>::new(), "{about}");
    }
    let next = run(command(&lab, &case, &lab.store(), 2));
    assert!(next.code == 0, "{}", next.err);
    assert_eq!(digest(&lab, &case, 2), case.digest);
    println!("{failed} of 8 builds had too few open files");
    assert!(failed > 0, "no limit was low enough");
}

#[test]
fn few_threads_are_a_message_or_a_slower_build() {
    let test = "few_threads_are_a_message_or_a_slower_build";
    if !bases_or_skip(test) {
        return;
    }
    // Nobody limits root.
    let Some((name, _)) = user_of(Who::Rootless).filter(|_| has("prlimit")) else {
        return skip(test, "there is no ordinary user with subordinate IDs, or no prlimit");
    };
    let lab = Lab::as_user(Who::Rootless);
    let files: Vec<(String, String)> = (0..40).map(|n| (format!("src/d{n}/f"), n.to_string())).collect();
    let mut files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let text = "FROM busybox AS a\nCOPY src /src\nFROM busybox AS b\nCOPY src/d1 /b\nFROM scratch\n\
                COPY --from=a /src /a\nCOPY --from=b /b /b\n";
    files.push(("Dockerfile", text));
    let context = lab.context(&files);
    let mut worked = 0;
    for limit in [1, 2, 3, 4, 6, 8, 12, 400] {
        let mut build = Command::new("setpriv");
        build.args(["--reuid", name, "--regid", name, "--init-groups", "--inh-caps=-all"]);
        build.args(["prlimit", &format!("--nproc={limit}")]);
        build.arg(lab.path().join("rbuild")).args(["build", "--no-cache"]).args(lab.bases()).arg(&context);
        build.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin").env("RBUILD_ROOT", lab.store());
        build.env("HOME", lab.path().join("home")).current_dir(lab.path());
        let done = run(build);
        worked += usize::from(done.code == 0);
        let told = done.err.contains("Resource temporarily unavailable") && !done.err.contains("panicked");
        assert!(done.code == 0 || told, "{limit} threads: {} {}", done.code, done.err);
        let checked = fsck(&lab);
        assert!(checked.code == 0, "{}{} after {limit} threads", checked.out, checked.err);
    }
    assert!(worked > 0, "no limit was high enough");
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
        assert_eq!(digest(lab, case, 1), case.digest, "{about}");
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
    assert_eq!(digest(lab, case, 2), case.digest, "{about}");
    assert_eq!(unreachable_snapshots(lab), Vec::<String>::new(), "{about}");
    Some(done.code != 0)
}

#[test]
fn a_full_disk_fails_the_build_and_harms_nothing() {
    let test = "a_full_disk_fails_the_build_and_harms_nothing";
    if !bases_or_skip(test) {
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
