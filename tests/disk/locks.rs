//! Locks that the system does not give.

use std::fs;
use std::time::{Duration, Instant};

use crate::inject::{can_inject, injected, watched};
use crate::run;
use crate::support::{self, Lab};

#[test]
fn a_living_build_whose_lock_cannot_be_asked_for_keeps_its_files() {
    if !can_inject("a_living_build_whose_lock_cannot_be_asked_for_keeps_its_files") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,target=/c while [ ! -e /c/end ]; do sleep 0.1; done\n",
    )]);
    let mut build = lab.rbuild();
    build.arg("build").args(lab.bases()).arg(&context).stderr(std::process::Stdio::piped());
    let build = build.spawn().expect("rbuild starts");
    let begun = Instant::now();
    let cache = loop {
        let mounts = fs::read_dir(lab.store().join("mounts")).into_iter().flatten().flatten();
        if let Some(cache) = mounts.map(|entry| entry.path().join("fs")).find(|path| path.is_dir()) {
            break cache;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "the step does not begin");
        std::thread::sleep(Duration::from_millis(50));
    };
    for number in 1..=4 {
        let mut images = lab.rbuild();
        images.arg("images");
        let log = lab.path().join("trace");
        let inject = format!("inject=flock:error=ENOLCK:when={number}");
        run(watched(&images, &log, &["-e", "trace=flock", "-e", &inject]));
        assert_eq!(injected(&log).len(), 1, "flock was not called {number} times");
    }
    fs::write(cache.join("end"), "").expect("write");
    let done = support::done(build.wait_with_output().expect("the build ends"));
    assert!(done.code == 0, "{}", done.err);
}
