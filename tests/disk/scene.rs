//! A store with an image that must survive, and what is asked of it after a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cases::{Case, cases, command, digest, fsck, leftovers, unreachable_snapshots};
use crate::inject::{CALLS, counts, injected, watched};
use crate::support::{Done, Lab, Who};
use crate::{ROWS, run};

/// What the fault meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// A build in a store without results of steps.
    Build,
    /// A build whose steps are all in the store.
    Again,
    /// A build whose steps are all in the store, as files only.
    Pack,
    Prune,
    Repair,
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub case: usize,
    pub verb: Verb,
    pub call: &'static str,
    pub error: &'static str,
    /// Of every thread, the call of this number fails.
    pub number: usize,
}

/// A store that faults meet: with an image that must survive all of them.
pub struct Scene {
    pub lab: Lab,
    cases: Vec<Case>,
    keep: String,
}

const KEEP: &str = "keep:1";

impl Scene {
    pub fn new(who: Who) -> Self {
        let lab = Lab::as_user(who);
        let cases = cases(&lab, &ROWS);
        let context = lab.context(&[("Dockerfile", "FROM busybox\nCOPY Dockerfile /kept\nRUN echo > /x\n")]);
        let mut build = lab.rbuild();
        build.env("SOURCE_DATE_EPOCH", "1700000000").args(["build", "-t", KEEP]).args(lab.bases());
        let built = run({
            build.arg(&context);
            build
        });
        assert!(built.code == 0, "{}", built.err);
        let mut scene = Scene { lab, cases, keep: String::new() };
        scene.keep = scene.kept();
        scene
    }

    /// The digest of the image's archive: its name and all bytes that it leads to.
    fn kept(&self) -> String {
        let archive = self.lab.out("kept.tar");
        let saved = self.lab.run(["save", "-o", &archive.display().to_string(), KEEP]);
        assert!(saved.code == 0, "{KEEP} cannot be saved: {}", saved.err);
        sum(&archive)
    }

    fn digest(&self, case: usize, number: usize) -> String {
        digest(&self.lab, &self.cases[case], number)
    }

    fn build(&self, case: usize, number: usize) -> Command {
        let case = &self.cases[case];
        let _ = fs::remove_file(self.lab.out(&format!("metadata-{number}")));
        command(&self.lab, case, &self.lab.store(), number)
    }

    /// The build without an image.
    fn leave(&self, case: usize) -> Command {
        let mut build = self.lab.rbuild();
        build.env("SOURCE_DATE_EPOCH", "1700000000").args(["build", "-q", "-o", "type=cacheonly"]);
        build.args(self.lab.bases()).arg(&self.cases[case].context);
        build
    }

    pub fn verb(&self, fault: &Fault) -> Command {
        let words: &[&str] = match fault.verb {
            Verb::Build | Verb::Again | Verb::Pack => return self.build(fault.case, 1),
            Verb::Prune => &["prune", "-a"],
            Verb::Repair => &["fsck", "--repair"],
        };
        let mut command = self.lab.rbuild();
        command.args(words);
        command
    }

    pub fn prepare(&self, fault: &Fault) {
        if matches!(fault.verb, Verb::Build | Verb::Pack) {
            self.lab.run(["rmi", "stages:1", "export:1"]);
            let pruned = self.lab.run(["prune", "-a"]);
            assert!(pruned.code == 0, "{fault:?}: {}", pruned.err);
        }
        if fault.verb != Verb::Build {
            let built = run(if fault.verb == Verb::Pack {
                self.leave(fault.case)
            } else {
                self.build(fault.case, 1)
            });
            assert!(built.code == 0, "{fault:?}: {}", built.err);
        }
    }

    pub fn record(&self, fault: &Fault) -> BTreeMap<&'static str, usize> {
        self.prepare(fault);
        let names: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
        let log = self.lab.path().join("trace");
        let traced = format!("trace={}", names.join(","));
        let done = run(watched(&self.verb(fault), &log, &["-e", &traced]));
        assert!(done.code == 0, "{fault:?}: {} {}", done.code, done.err);
        counts(&log)
    }

    /// What a fault did; `None` where no call came so far.
    pub fn meet(&self, fault: &Fault) -> Option<bool> {
        self.prepare(fault);
        let log = self.lab.path().join("trace");
        let inject = format!("inject={}:error={}:when={}", fault.call, fault.error, fault.number);
        let done =
            run(watched(&self.verb(fault), &log, &["-e", &format!("trace={}", fault.call), "-e", &inject]));
        let hits = injected(&log);
        let about =
            || format!("{fault:?}\n{}\nexit code {}: {}{}", hits.join("\n"), done.code, done.out, done.err);
        assert!(hits.is_empty() || done.code != 124, "hangs: {}", about());
        if done.code == 0 {
            if matches!(fault.verb, Verb::Build | Verb::Again | Verb::Pack) {
                assert_eq!(self.digest(fault.case, 1), self.cases[fault.case].digest, "{}", about());
                self.output(fault.case, 1, &about());
            }
        } else if let Some(wrong) = badly_told(fault, &done, &hits) {
            panic!("{wrong}: {}", about());
        }
        self.whole(&about());
        if fault.verb == Verb::Prune {
            // Collection takes referrers first: one that was stopped leaves things to the next.
            let pruned = self.lab.run(["prune"]);
            assert!(pruned.code == 0, "{} after {}", pruned.err, about());
        }
        let next = run(self.build(fault.case, 2));
        assert!(next.code == 0, "the next build failed: {} after {}", next.err, about());
        assert_eq!(self.digest(fault.case, 2), self.cases[fault.case].digest, "{}", about());
        self.output(fault.case, 2, &about());
        assert_eq!(leftovers(&self.lab), Vec::<String>::new(), "{}", about());
        assert_eq!(unreachable_snapshots(&self.lab), Vec::<String>::new(), "{}", about());
        assert_eq!(self.strangers(), BTreeSet::new(), "{}", about());
        (!hits.is_empty()).then_some(done.code != 0)
    }

    pub fn whole(&self, about: &str) {
        let checked = fsck(&self.lab);
        assert!(checked.code == 0, "{}{} after {about}", checked.out, checked.err);
        assert_eq!(self.kept(), self.keep, "{KEEP} is another after {about}");
    }

    fn place(&self, case: usize, number: usize) -> PathBuf {
        self.lab.out(&format!("{}-{number}", self.cases[case].name))
    }

    /// What was written besides the store is whole.
    fn output(&self, case: usize, number: usize, about: &str) {
        let Some(kind) = self.cases[case].output else { return };
        // The reference build was number 0.
        let (right, found) = (self.place(case, 0), self.place(case, number));
        if kind.starts_with("type=local") {
            let same = run({
                let mut diff = Command::new("diff");
                diff.args(["-r", "--no-dereference"]).args([&right, &found]);
                diff
            });
            assert!(same.code == 0, "the output is another: {} after {about}", same.out);
            let _ = fs::remove_dir_all(found);
        } else {
            assert_eq!(sum(&right), sum(&found), "the output is another after {about}");
        }
    }

    /// Files beside the outputs that nobody asked for.
    fn strangers(&self) -> BTreeSet<String> {
        let known = |name: &str| {
            let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
            name == "kept.tar"
                || stem == "metadata-"
                || self.cases.iter().any(|case| format!("{}-", case.name) == stem)
        };
        let entries = fs::read_dir(self.lab.path().join("out")).expect("out").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !known(name)).collect()
    }
}

fn sum(file: &Path) -> String {
    use sha2::{Digest as _, Sha256};
    format!("{:x?}", Sha256::digest(fs::read(file).expect("output")))
}

/// What is wrong with the message of a failure.
fn badly_told(fault: &Fault, done: &Done, hits: &[String]) -> Option<&'static str> {
    let text = done.err.to_lowercase() + &done.out.to_lowercase();
    if text.contains("panicked") || text.contains("internal error") || done.code == 101 {
        return Some("a panic");
    }
    if !(1..=127).contains(&done.code) {
        return Some("no exit code of rbuild");
    }
    // Nobody can say anything where the saying fails, and no disk makes a pipe fail.
    if hits.iter().any(|line| line.contains("(2<") || line.contains("<pipe:") || line.contains("<socket:")) {
        return None;
    }
    let words = match fault.error {
        "EIO" => ["input/output error", "i/o error", "os error 5"],
        "ENOSPC" => ["no space", "disk is full", "os error 28"],
        "EDQUOT" => ["quota", "disk is full", "os error 122"],
        "ENOLCK" => ["no locks", "no record locks", "os error 37"],
        _ => ["too many open files", "no file descriptors", "os error 24"],
    };
    (!words.iter().any(|word| text.contains(word))).then_some("the message does not say why")
}
