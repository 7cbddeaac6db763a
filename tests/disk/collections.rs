//! Collections that meet a fault.

use crate::inject::{can_inject, watched};
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
