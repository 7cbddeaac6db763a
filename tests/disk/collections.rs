//! Collections that meet a fault.

use crate::inject::{can_inject, injected, watched};
use crate::scene::{Fault, Scene, Verb};
use crate::support::Who;
use crate::{run, wanted_faults};

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
fn a_collection_that_cannot_remove_one_thing_removes_the_others_and_fails() {
    if !can_inject("a_collection_that_cannot_remove_one_thing_removes_the_others_and_fails") {
        return;
    }
    let scene = Scene::new(Who::Caller);
    let probe = Fault { case: 0, verb: Verb::Prune, call: "rename", error: "EIO", number: 1 };
    scene.prepare(&probe);
    let things = || scene.lab.run(["prune", "-a", "--dry-run", "--verbose"]).out.lines().count();
    let (log, before) = (scene.lab.path().join("trace"), things());
    let inject = "inject=rename:error=EIO:when=1";
    let done = run(watched(&scene.verb(&probe), &log, &["-e", "trace=rename", "-e", inject]));
    assert_eq!(injected(&log).len(), 1);
    let store = scene.lab.store().display().to_string();
    let told =
        done.err.contains(&format!("cannot remove {store}/")) && done.err.contains("Input/output error");
    assert!(done.code == 7 && told && done.out.contains("Total: "), "{} {}{}", done.code, done.out, done.err);
    let after = things();
    assert!(before > 20 && after < before / 2, "of {before} lines {after} are left\n{}", done.out);
    scene.whole("a removal that failed");
}

#[test]
fn a_repair_that_cannot_remove_one_thing_removes_the_others_and_says_why() {
    if !can_inject("a_repair_that_cannot_remove_one_thing_removes_the_others_and_says_why") {
        return;
    }
    let scene = Scene::new(Who::Caller);
    let repair = Fault { case: 0, verb: Verb::Repair, call: "rename", error: "EIO", number: 1 };
    let strays = ["a", "b"].map(|name| scene.lab.store().join("records").join(name));
    for stray in &strays {
        std::fs::write(stray, "x").expect("write");
    }
    let log = scene.lab.path().join("trace");
    let inject = "inject=rename:error=EIO:when=1";
    let done = run(watched(&scene.verb(&repair), &log, &["-e", "trace=rename", "-e", inject]));
    assert_eq!(injected(&log).len(), 1);
    let told = done.out.contains("cannot remove") && done.out.contains("Input/output error");
    assert!(done.code == 7 && told, "{} {}{}", done.code, done.out, done.err);
    assert_eq!(strays.iter().filter(|stray| stray.exists()).count(), 1, "{}", done.out);
    assert_eq!(scene.lab.run(["fsck", "--repair"]).code, 0);
    scene.whole("a repair that failed");
}
