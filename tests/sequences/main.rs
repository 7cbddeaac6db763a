//! Random sequences of instructions.
//!
//! `layers_are_what_the_last_run_saw_in_every_mode` needs no peer: the layers of each image, unpacked by a reader of
//! its own (`tests/support/flat.rs`), must be what a process saw that ran last, and the same in every mode.
//! `images_are_those_of_a_buildkit_beside` compares with a BuildKit, file by file. It runs only on request:
//!
//!     BUILDCTL=/path/to/buildctl BUILDKIT_HOST=unix:///... cargo test --test sequences -- --ignored --nocapture
//!
//! | variable | meaning |
//! | --- | --- |
//! | `RBUILD_SEQUENCES` | how many sequences |
//! | `RBUILD_SEQUENCES_SEED` | the first seed; every sequence (every batch beside BuildKit) takes the next |
//! | `RBUILD_SEQUENCES_MODES` | names of modes to try, with commas; beside BuildKit they take turns, and without it `root` is the only one |
//! | `RBUILD_SEQUENCES_MINUTES` | end after so many minutes |
//! | `RBUILD_SEQUENCES_ATTEMPTS` | how often a difference is built again to make its Dockerfile smaller |
//!
//! A difference is printed with its seed, its Dockerfile and its context, both as small as dropping lines makes them.

mod context;
mod dockerfile;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/flat.rs"]
mod flat;
mod listing;
mod modes;
#[path = "../support/overlay.rs"]
mod overlay;
mod peer;
mod random;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use context::Context;
use dockerfile::{Kinds, Stage};
use listing::Files;
use modes::{Builder, MODES, Mode};
use peer::{Batch, Counts, Peer};
use random::Random;
use support::{base, is_root, skip};

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Sequences on `busybox` that each mode builds where nothing else is asked for. Seeds are fixed: a test that fails
/// fails again.
const SEQUENCES: u64 = 6;

#[test]
fn layers_are_what_the_last_run_saw_in_every_mode() {
    let test = "layers_are_what_the_last_run_saw_in_every_mode";
    if base("busybox").is_none() {
        return skip(test, "tests/setup has not made the base images");
    }
    if !is_root() {
        return skip(test, "needs root");
    }
    let wanted = std::env::var("RBUILD_SEQUENCES_MODES").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|wanted| wanted == name);
    let builders: Vec<Builder> = MODES
        .iter()
        .filter(|mode| is_wanted(mode.name))
        .filter_map(|mode| Builder::new(test, mode))
        .collect();
    let first = number("RBUILD_SEQUENCES_SEED", 1);
    let count = number("RBUILD_SEQUENCES", SEQUENCES);
    let mut counts: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for seed in first..first + count {
        let sequence = Sequence::random(seed);
        for (mode, outcome) in sequence.try_all(&builders) {
            let count = counts.entry(mode).or_default();
            count.0 += 1;
            match outcome {
                Outcome::Same => {}
                Outcome::Refused => count.1 += 1,
                Outcome::Different(lines) => {
                    count.2 += 1;
                    println!("seed {seed}, mode {mode}:\n{}\n{}", lines.join("\n"), sequence.describe());
                }
            }
        }
    }
    for (mode, (tried, refused, different)) in &counts {
        println!(
            "sequences ({mode}): {tried} tried, {refused} refused in every mode, {different} with differences"
        );
    }
    assert!(counts.values().all(|(_, _, different)| *different == 0), "there are differences (see above)");
    assert!(counts.values().all(|(tried, refused, _)| refused * 2 < *tried), "most sequences were refused");
}

/// Stages of one batch: each is a sequence.
const BATCH: usize = 20;

#[test]
#[ignore = "needs BUILDCTL and BUILDKIT_HOST"]
fn images_are_those_of_a_buildkit_beside() {
    let test = "images_are_those_of_a_buildkit_beside";
    let peer = Peer::from_environment();
    let first = number("RBUILD_SEQUENCES_SEED", 1);
    let count = number("RBUILD_SEQUENCES", 200).div_ceil(BATCH as u64);
    let end = Duration::from_mins(number("RBUILD_SEQUENCES_MINUTES", 600));
    let attempts = number("RBUILD_SEQUENCES_ATTEMPTS", 60);
    let begun = Instant::now();
    let wanted = std::env::var("RBUILD_SEQUENCES_MODES").unwrap_or_else(|_| "root".into());
    let modes: Vec<&Mode> =
        MODES.iter().filter(|mode| wanted.split(',').any(|name| name == mode.name)).collect();
    assert!(!modes.is_empty(), "RBUILD_SEQUENCES_MODES={wanted}: no such mode");
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for seed in first..first + count {
        if begun.elapsed() > end {
            break;
        }
        // A fresh store each time, since nothing of it is used again.
        let mode = modes[(seed - first) as usize % modes.len()];
        let builder = Builder::new(test, mode).expect("a store");
        let batch = Batch::random(seed, BATCH, mode.kinds_beside_buildkit());
        let verdict = batch.judge(&peer, &builder);
        let counts = counts.entry(mode.name).or_default();
        counts.add(&verdict);
        println!("seed {seed}, mode {}: {counts}", mode.name);
        for (stage, lines) in &verdict.differences {
            println!("seed {seed}, mode {}, stage {stage}:\n{}", mode.name, lines.join("\n"));
            println!("{}", batch.reduced(stage, &peer, &builder, attempts).describe());
        }
    }
    for (mode, counts) in &counts {
        println!("sequences beside BuildKit ({mode}): {counts}");
    }
    let sum = |of: fn(&Counts) -> usize| counts.values().map(of).sum::<usize>();
    assert_eq!(sum(|counts| counts.different), 0, "there are differences (see above)");
    assert!(sum(|counts| counts.agreeing) > sum(|counts| counts.refused), "most sequences were refused");
}

/// Stages that end in a RUN which lists what it sees.
struct Sequence {
    kinds: Kinds,
    context: Context,
    stages: Vec<Stage>,
}

enum Outcome {
    Same,
    /// The build failed, as in all other modes.
    Refused,
    Different(Vec<String>),
}

impl Sequence {
    fn random(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let kinds = Kinds {
            mounts_of_context: false,
            hard_links: random.chance(50),
            subtle: random.chance(50),
            users: true,
        };
        let context = Context::random(random, kinds.hard_links);
        let stages = dockerfile::stages(random, &context, 2, kinds, false);
        Sequence { kinds, context, stages }
    }

    fn text(&self) -> String {
        let stages: String = self.stages.iter().map(Stage::text).collect();
        format!("{stages}USER 0\nRUN {}\n", listing::COMMAND)
    }

    fn describe(&self) -> String {
        format!("{}.dockerignore: {:?}\n{}", self.text(), self.context.ignored, self.context)
    }

    fn try_all(&self, builders: &[Builder]) -> Vec<(&'static str, Outcome)> {
        let mut results: Vec<(&'static str, Outcome)> = Vec::new();
        // What the first mode made: its files, or the exit code of its failure.
        let mut first: Option<Result<Files, i32>> = None;
        for builder in builders {
            let context = builder.context(&self.context, &self.text());
            let out = builder.lab.out("image");
            let done = builder.build(&context, &out, &[]);
            let _ = std::fs::remove_dir_all(&context);
            let found = if done.code == 0 { Ok(&out) } else { Err(done.code) }.map(|out| Found::read(out));
            let outcome = match (&found, &first) {
                (Ok(found), first) => self.judge(builder, found, first.as_ref()),
                (Err(code), None | Some(Err(_))) if is_refusal(*code) => {
                    if first.is_none() {
                        let why =
                            done.err.lines().find(|line| line.starts_with("error:")).unwrap_or_default();
                        println!("refused in mode {}: {why}", builder.mode.name);
                        if std::env::var_os("RBUILD_SEQUENCES_SHOW").is_some() {
                            println!("{}", self.describe());
                        }
                    }
                    Outcome::Refused
                }
                (Err(_), _) => Outcome::Different(vec![done.err.clone()]),
            };
            results.push((builder.mode.name, outcome));
            first.get_or_insert(found.map(|found| found.layers));
        }
        results
    }
}

/// Not a crash, and nothing that is not supported.
fn is_refusal(code: i32) -> bool {
    code > 0 && code != 8 && code != 101
}

impl Sequence {
    fn judge(&self, builder: &Builder, found: &Found, first: Option<&Result<Files, i32>>) -> Outcome {
        let one_id = builder.mode.name == "one";
        let mut lines = listing::differences(&found.layers, &found.seen, |_, fact| match fact {
            "xattrs" => false,
            // A process sees the one ID that there is; the layers have the owners.
            "uid" | "gid" => !one_id,
            _ => true,
        });
        // A name that was copied up and did not change is not in the layer: others see one file still. Copies part
        // all names.
        lines.retain(|line| !line.contains(": link: ") || !line.ends_with(" and none"));
        match first {
            None => {}
            // Copies have no names of one file that was there before, and rename a directory where an overlay refuses.
            Some(_) if builder.mode.name == "copies" && (self.kinds.hard_links || self.kinds.subtle) => {}
            Some(Ok(_)) if one_id && self.kinds.subtle => {}
            Some(Err(code)) => lines.push(format!("built here, but in the first mode it fails with {code}")),
            Some(Ok(files)) => {
                let more = listing::differences(files, &found.layers, |_, fact| fact != "mtime");
                lines.extend(more.into_iter().map(|line| format!("first mode and this one: {line}")));
            }
        }
        if lines.is_empty() { Outcome::Same } else { Outcome::Different(lines) }
    }
}

/// An image: what its layers contain, and what its last RUN saw.
struct Found {
    layers: Files,
    seen: Files,
}

impl Found {
    fn read(layout: &Path) -> Self {
        let layout = flat::Layout::read(layout).expect("a readable image");
        let mut tree = flat::Tree::default();
        tree.apply(&layout, 0).expect("readable layers");
        let mut layers: Files =
            tree.listing().into_iter().map(|(path, facts)| (path.to_owned(), facts)).collect();
        for changed in ["listing", "tmp"] {
            layers.remove(changed);
        }
        let last = layout.layer(layout.diff_ids().len() - 1).expect("the last layer");
        let text = member(&last, "listing").expect("the last RUN wrote its listing");
        Found { layers, seen: listing::read(&text) }
    }
}

fn member(tar: &[u8], name: &str) -> Option<String> {
    let mut archive = tar::Archive::new(tar);
    let mut entry =
        archive.entries().ok()?.flatten().find(|entry| entry.path_bytes().as_ref() == name.as_bytes())?;
    let mut text = String::new();
    entry.read_to_string(&mut text).ok()?;
    Some(text)
}
