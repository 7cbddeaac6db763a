//! Somebody changes directories while builds read and mount them.

use super::*;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long the attacks last.
const TIME: Duration = Duration::from_secs(18);

/// A directory and a link beside it that take each other's place.
struct Swap {
    dir: fs::File,
    name: String,
    other: String,
}

impl Swap {
    fn prepare(dir: &Path, name: &str, outside: &Path) -> Self {
        let other = format!(".{name}");
        symlink(outside, dir.join(&other)).expect("link");
        // By descriptor: by path, this would follow another swapper's link.
        Swap { dir: fs::File::open(dir).expect("directory"), name: name.to_owned(), other }
    }

    /// As fast as it goes.
    fn go(&self, stop: &AtomicBool, swaps: &AtomicUsize) {
        use rustix::fs::{RenameFlags, renameat_with};
        while !stop.load(Ordering::Relaxed) {
            let (name, other) = (self.name.as_str(), self.other.as_str());
            if renameat_with(&self.dir, name, &self.dir, other, RenameFlags::EXCHANGE).is_ok() {
                swaps.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
    }
}

const STEPS: [&str; 8] = [
    "COPY d /got/",
    "COPY d/e/canary /got/",
    "COPY d/e /got/\nCOPY d/*/can* /got/",
    "ADD d/a.tar /got/",
    "RUN --mount=target=/m,source=d/e cp /m/canary /got-e; cp /m/../canary /got-d; true",
    "RUN --mount=target=/m,source=d/e,rw echo evil > /m/canary; cp /m/canary /got; echo evil > /m/evil",
    "RUN --mount=target=/m cp -r /m/d /got; cat /m/d/canary /m/d/e/canary > /cat; true",
    "WORKDIR /got/d/e\nCOPY --parents d/e/canary .",
];

/// The context, seen by COPY, ADD and mounts, and the destination of exports.
#[test]
fn cve_2024_23651_cve_2024_11218_cve_2026_55686_swaps_in_a_context_lead_nowhere() {
    let test = "cve_2024_23651_cve_2024_11218_cve_2026_55686_swaps_in_a_context_lead_nowhere";
    for who in modes(test) {
        let range = Range::new(who);
        // What the attack wants to be read: `d/canary` and `d/e/canary` by way of the links.
        fs::create_dir(range.outside.join("e")).expect("e");
        fs::write(range.outside.join("e/canary"), CANARY).expect("canary");
        fs::write(range.outside.join("a.tar"), tar_of(&[("x", b'0', CANARY)])).expect("tar");
        let range = Range { before: tree(&range.outside), ..range };
        let context =
            range.lab.context(&[("d/canary", "harmless"), ("d/e/canary", "harmless"), ("d/f", "f")]);
        fs::write(context.join("d/a.tar"), tar_of(&[("x", b'0', "harmless")])).expect("tar");
        let dest = range.lab.context(&[("got/d/e/old", "old"), ("d/", "")]);
        if let Some((_, uid)) = user_of(who) {
            for path in ["", "got", "got/d", "got/d/e", "d"] {
                std::os::unix::fs::chown(dest.join(path), Some(uid), Some(uid)).expect("chown");
            }
        }
        let swappers = [
            Swap::prepare(&context.join("d"), "e", &range.outside.join("e")),
            Swap::prepare(&context, "d", &range.outside),
            Swap::prepare(&dest, "got", &range.outside),
        ];
        let (stop, swaps, builds, whole) =
            (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let (stop, swaps, range) = (&stop, &swaps, &range);
            let (context, dest) = (&context, &dest);
            for swapper in &swappers {
                scope.spawn(move || swapper.go(stop, swaps));
            }
            let end = Instant::now() + TIME / modes_count();
            for worker in 0..2 {
                let (builds, whole) = (&builds, &whole);
                scope.spawn(move || {
                    let mut number = worker * 4;
                    while Instant::now() < end {
                        let step = STEPS[number % STEPS.len()];
                        let file = range.lab.context(&[("Dockerfile", &format!("FROM busybox\n{step}\n"))]);
                        let file = file.join("Dockerfile").display().to_string();
                        let out = if number % 3 == 0 {
                            dest.clone()
                        } else {
                            range.lab.out(&format!("race-{worker}-{number}"))
                        };
                        let done = range.build(context, &["-f", &file, "-o", &out.display().to_string()]);
                        let printed = done.out.contains(CANARY) || done.err.contains(CANARY);
                        assert!(!printed && !done.err.contains("panicked"), "{step}: {}", done.err);
                        builds.fetch_add(1, Ordering::Relaxed);
                        whole.fetch_add(usize::from(done.code == 0), Ordering::Relaxed);
                        number += 1;
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            }
        });
        let (builds, whole, swaps) = (builds.into_inner(), whole.into_inner(), swaps.into_inner());
        println!("{who:?}: {builds} builds, {whole} of them to the end, {swaps} swaps");
        let after = tree(&range.outside);
        let show =
            |(path, facts): &(PathBuf, Vec<u8>)| format!("{path:?} {}", String::from_utf8_lossy(facts));
        let changed: Vec<_> = after.iter().filter(|row| !range.before.contains(row)).map(show).collect();
        assert!(after == range.before, "{who:?}: the outside changed: {changed:#?}");
        for place in [range.lab.store(), range.lab.out("")] {
            let found = holding(&place, CANARY.as_bytes());
            assert!(found.is_empty(), "{who:?}: the outside was read into {found:?}");
        }
        assert!(builds >= 4 && swaps > 1000, "{who:?}: too little happened: {builds} builds, {swaps} swaps");
    }
}

/// All modes together take [`TIME`].
fn modes_count() -> u32 {
    if is_root() { 3 } else { 1 }
}

/// A cache that two steps share: one swaps links in it while the other's mounts are put into it.
#[test]
fn cve_2021_30465_cve_2024_45310_swaps_in_a_shared_cache_lead_nowhere() {
    for who in modes("cve_2021_30465_cve_2024_45310_swaps_in_a_shared_cache_lead_nowhere") {
        let range = Range::new(who);
        let swapper = "i=0; while [ ! -e /c/stop ] && [ $i -lt 20000 ]; do i=$((i+1)); mkdir -p /c/p/q 2>/dev/null; \
                       mv /c/p /c/away$i 2>/dev/null; ln -s @ /c/p 2>/dev/null; rm -rf /c/p /c/away$i; done; true";
        let victims: String = (0..12)
            .map(|number| {
                format!(
                    "FROM busybox AS v{number}\nRUN --mount=type=cache,target=/c,id=k --mount=type=tmpfs,target=/c/p/q/n{number} \
                     --mount=type=bind,source=x,target=/c/p/x{number} touch /c/p/q/n{number}/evil; cat /c/p/canary /c/p/q/canary; \
                     echo v > /v{number}\n"
                )
            })
            .collect();
        let copies: String = (0..12).map(|number| format!("COPY --from=v{number} /v{number} /\n")).collect();
        let text = format!(
            "FROM busybox AS swapper\nRUN --mount=type=cache,target=/c,id=k {swapper}\nRUN touch /s\n{victims}\
             FROM busybox\n{copies}"
        );
        let end = Instant::now() + Duration::from_secs(6);
        let mut builds = 0;
        while Instant::now() < end {
            let stop = format!("--build-arg=ROUND={builds}");
            let text = text.replace("FROM busybox\nCOPY", "FROM busybox\nCOPY --from=swapper /s /s\nCOPY");
            let (done, out) = range.files(&text, &["--no-cache", &stop]);
            range.safe(&format!("{who:?} {builds}"), &done, &[&out]);
            builds += 1;
        }
        println!("{who:?}: {builds} builds");
        assert!(builds >= 1);
    }
}

/// A process that a dead rbuild left behind still has what was its root directory: it makes names and swaps
/// directories with links there, while others open, prune and check the store.
#[test]
fn cve_2024_23652_swaps_by_a_survivor_while_others_clear_the_store_change_nothing_outside() {
    let range = Range::new(Who::Caller);
    assert_eq!(range.lab.run(["images"]).code, 0);
    let end = Instant::now() + Duration::from_secs(6);
    let (mut rounds, swaps) = (0, AtomicUsize::new(0));
    while rounds < 2 || Instant::now() < end {
        let root = range.lab.store().join(format!("tmp/1-{rounds}/0/fs"));
        fs::create_dir_all(&root).expect("root");
        let inside = fs::File::open(&root).expect("root");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| survive(&inside, &range.outside, &stop, &swaps));
            for verb in [["images"].as_slice(), &["prune", "-a"], &["fsck"]] {
                let done = range.lab.run(verb);
                let printed = done.out.contains(CANARY) || done.err.contains("panicked");
                assert!(!printed, "{verb:?}: {}{}", done.out, done.err);
            }
            stop.store(true, Ordering::Relaxed);
        });
        rounds += 1;
        assert!(tree(&range.outside) == range.before, "round {rounds}: the outside changed");
    }
    println!("{rounds} rounds, {} swaps", swaps.into_inner());
    assert_eq!(range.lab.run(["images"]).code, 0);
    let left = fs::read_dir(range.lab.store().join("tmp")).expect("tmp").count();
    assert_eq!(left, 0, "directories of dead processes stay");
}

/// Each name is now a directory that may not be entered, now a link to `outside`. New ones come all the
/// time, so that a removal never finds the directory empty.
fn survive(dir: &fs::File, outside: &Path, stop: &AtomicBool, swaps: &AtomicUsize) {
    use rustix::fs::{Mode, RenameFlags, mkdirat, renameat_with, symlinkat};
    while !stop.load(Ordering::Relaxed) {
        for number in 0..60 {
            let (name, link) = (format!("d{number}"), format!("l{number}"));
            let _ = mkdirat(dir, &name, Mode::empty());
            let _ = symlinkat(outside, dir, &link);
            if renameat_with(dir, &name, dir, &link, RenameFlags::EXCHANGE).is_ok() {
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
