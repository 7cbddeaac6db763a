//! The fuzz targets without a fuzzer: their seeds, and changes of them that are the same every time. With
//! RBUILD_FUZZ_SECONDS in the environment, each goes on for so long, the changes building on each other.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Changed seeds for each target.
const CHANGES: usize = 2000;
/// A change on disk costs more than one in memory.
const CHANGES_ON_DISK: usize = 250;

/// xorshift64: enough to spread changes, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

/// Text that means something to one parser or another.
const WORDS: [&str; 16] = [
    "..",
    "/",
    "\0",
    "\n",
    "**",
    "[",
    "\"",
    "\\",
    "-1",
    "18446744073709551616",
    "null",
    "{}",
    "%00",
    "é",
    "#",
    "@",
];

fn change(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(20)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let to = (from + random.below(600)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())];
                drop(bytes.splice(at..end, word.bytes()));
            }
        }
    }
    bytes
}

fn smoke(name: &str, changes: usize, target: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(dir).expect("seeds").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    let mut seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("seed")).collect();
    assert!(!seeds.is_empty());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let check = |bytes: &[u8]| {
        let ended = std::panic::catch_unwind(|| target(bytes));
        assert!(ended.is_ok(), "{name} fails with {:?}", String::from_utf8_lossy(bytes));
    };
    seeds.iter().for_each(|seed| check(seed));
    for _ in 0..changes {
        check(&change(&mut random, &seeds));
    }
    let seconds = std::env::var("RBUILD_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (begun, first) = (Instant::now(), seeds.len());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let bytes = change(&mut random, &seeds);
        check(&bytes);
        if random.below(10) == 0 && bytes.len() < 1 << 14 {
            // The seeds themselves stay.
            let place = first + random.below(200);
            if place < seeds.len() { seeds[place] = bytes } else { seeds.push(bytes) }
        }
    }
}

#[test]
fn layers() {
    smoke("layer", CHANGES_ON_DISK, targets::layer);
}

#[test]
fn images() {
    smoke("image", CHANGES, targets::image);
}

#[test]
fn records() {
    smoke("record", CHANGES, targets::record);
}

#[test]
fn caches() {
    smoke("cache", CHANGES, targets::cache);
}

#[test]
fn ignore_files() {
    smoke("ignore", CHANGES, targets::ignore);
}

#[test]
fn answers() {
    smoke("answer", CHANGES, targets::answer);
}

#[test]
fn sources() {
    smoke("source", CHANGES, |bytes| targets::source(&String::from_utf8_lossy(bytes)));
}

#[test]
fn locks() {
    smoke("lock", CHANGES, targets::lock_file);
}

#[test]
fn requests_of_a_step() {
    smoke("request", CHANGES, targets::request);
}

#[test]
fn what_a_step_says_to_an_agent() {
    smoke("ssh_agent", CHANGES, targets::ssh_agent);
}

#[test]
fn lists_of_packages() {
    smoke("packages", CHANGES, targets::packages);
}

#[test]
fn files_with_secrets() {
    smoke("secrets_of", CHANGES, targets::secrets_of);
}

#[test]
fn source_policies() {
    smoke("policy", CHANGES, |bytes| targets::policy(&String::from_utf8_lossy(bytes)));
}
