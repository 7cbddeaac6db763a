//! Random edits: what is named as the cause of a miss is among the edits made, and never something that did not
//! change. `RBUILD_EDITS=500` makes so many; `RBUILD_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{Lab, bases_or_skip};
use crate::{causes_of, dry_run, outcomes};

const EDITS: usize = 40;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

/// A Dockerfile as data.
#[derive(Clone, PartialEq)]
struct Model {
    /// Lines of the first stage and of the second.
    lines: [Vec<String>; 2],
    args: BTreeMap<String, String>,
    files: BTreeMap<String, (String, u32)>,
    ignored: Option<String>,
    next: usize,
}

impl Model {
    fn new() -> Self {
        let lines = |all: &[&str]| all.iter().map(|line| (*line).to_owned()).collect();
        let files = ["src/a", "src/b", "src/d/c", "lib/x", "lib/y", "top"];
        Model {
            lines: [
                lines(&["COPY src /src", "RUN cat /src/a > /a || true", "COPY lib /${DIR}"]),
                lines(&["COPY --from=first /src /from", "COPY top /", "RUN echo $V > /v", "WORKDIR /w"]),
            ],
            args: [("DIR", "one"), ("V", "1"), ("UNUSED", "1")].map(|(a, b)| (a.into(), b.into())).into(),
            files: files.into_iter().map(|name| (name.to_owned(), (name.to_owned(), 0o644))).collect(),
            ignored: None,
            next: 0,
        }
    }

    fn text(&self) -> String {
        let stage = |head: &str, lines: &[String]| {
            format!("{head}\nARG DIR\nARG V\nARG UNUSED\n{}\n", lines.join("\n"))
        };
        stage("FROM busybox AS first", &self.lines[0]) + &stage("FROM busybox", &self.lines[1])
    }

    fn fresh(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn some_file(&self, random: &mut Random) -> Option<String> {
        self.files.keys().nth(random.below(self.files.len())).cloned()
    }

    /// Makes one edit; gives what may be said of it.
    fn edit(&mut self, random: &mut Random) -> Vec<String> {
        let stage = random.below(2);
        let fresh = self.fresh();
        match random.below(11) {
            0 | 1 => {
                let Some(name) = self.some_file(random) else { return Vec::new() };
                if let Some(file) = self.files.get_mut(&name) {
                    file.0 = format!("content {fresh}");
                }
                vec![format!("{name} changed")]
            }
            2 => {
                let dir = ["src", "lib", "src/d"][random.below(3)];
                let name = format!("{dir}/new{fresh}");
                self.files.insert(name.clone(), (format!("new {fresh}"), 0o644));
                vec![format!("{name} is new"), format!("{dir} is new")]
            }
            3 if self.files.len() > 4 => {
                // These are copied by name, or may be the last of their directories.
                let Some(name) = self.some_file(random).filter(|name| name.contains("new")) else {
                    return Vec::new();
                };
                self.files.remove(&name);
                let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
                vec![format!("{name} is gone"), format!("{dir} is gone")]
            }
            4 => {
                let Some(name) = self.some_file(random) else { return Vec::new() };
                if let Some(file) = self.files.get_mut(&name) {
                    file.1 ^= 0o111;
                }
                vec![format!("mode of {name} ")]
            }
            5 => {
                let name = ["DIR", "V", "UNUSED"][random.below(3)];
                self.args.insert(name.into(), format!("value{fresh}"));
                vec![format!("build arg {name}")]
            }
            6 => {
                let line = random.below(self.lines[stage].len());
                let old = self.lines[stage][line].clone();
                self.lines[stage][line] = match old.split_once(' ') {
                    Some(("RUN", _)) => format!("RUN echo {fresh} > /run"),
                    Some(("WORKDIR", _)) => format!("WORKDIR /w{fresh}"),
                    // Another stage copies it.
                    _ if old == "COPY src /src" => return Vec::new(),
                    _ if old.starts_with("COPY --from") => format!("COPY --from=first /src /from{fresh}"),
                    _ => format!("COPY src /copied{fresh}"),
                };
                vec![
                    "the instruction changed: ".into(),
                    "the instruction is new: ".into(),
                    "an instruction moved: ".into(),
                    "an instruction was removed: ".into(),
                    "WORKDIR: ".into(),
                ]
            }
            7 => {
                let line = random.below(self.lines[stage].len() + 1);
                let new = if fresh.is_multiple_of(2) {
                    format!("RUN true {fresh}")
                } else {
                    format!("WORKDIR /new{fresh}")
                };
                self.lines[stage].insert(line, new);
                vec![
                    "the instruction is new: ".into(),
                    "an instruction moved: ".into(),
                    "the instruction changed: ".into(),
                    "WORKDIR: ".into(),
                    "WORKDIR is new: ".into(),
                ]
            }
            8 if self.lines[stage].len() > 2 => {
                let line = random.below(self.lines[stage].len());
                let removed = self.lines[stage].remove(line);
                if removed.starts_with("COPY src /src") || removed.starts_with("COPY src /copied") {
                    // Another stage copies it.
                    self.lines[stage].insert(line, removed);
                    return Vec::new();
                }
                vec![
                    "an instruction was removed: ".into(),
                    "the instruction changed: ".into(),
                    "WORKDIR: ".into(),
                    "WORKDIR is gone".into(),
                ]
            }
            9 => {
                let ignored = ["src/b", "lib/y"][random.below(2)];
                let was = self.ignored.replace(ignored.into());
                if was.as_deref() == Some(ignored) {
                    self.ignored = None;
                    return vec![format!("{ignored} is new")];
                }
                let back = was.map(|was| format!("{was} is new"));
                [format!("{ignored} is gone")].into_iter().chain(back).collect()
            }
            10 => {
                self.files.insert("unread".into(), (format!("{fresh}"), 0o644));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

fn write(context: &Path, model: &Model) {
    for dir in ["src", "lib"] {
        let _ = fs::remove_dir_all(context.join(dir));
    }
    let _ = fs::remove_file(context.join("top"));
    for (name, (text, mode)) in &model.files {
        let path = context.join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("chmod");
    }
    fs::write(context.join("Dockerfile"), model.text()).expect("write");
    fs::write(context.join(".dockerignore"), model.ignored.as_deref().unwrap_or_default()).expect("write");
}

#[test]
fn the_cause_that_is_named_is_among_the_edits() {
    if !bases_or_skip("the_cause_that_is_named_is_among_the_edits") {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let edits = number("RBUILD_EDITS").map_or(EDITS, |number: u64| number as usize);
    let seed = number("RBUILD_SEED").unwrap_or(20);
    println!("RBUILD_SEED={seed}");
    let mut random = Random(seed);
    let (lab, mut model) = (Lab::new(), Model::new());
    let context = lab.context(&[("Dockerfile", "")]);
    write(&context, &model);
    let flags = |model: &Model| -> Vec<String> {
        model.args.iter().map(|(name, value)| format!("--build-arg={name}={value}")).collect()
    };
    let build = |model: &Model, more: &[&str]| {
        let flags = flags(model);
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        lab.build(&context, &flags)
    };
    let first = build(&model, &[]);
    assert!(first.code == 0 && causes_of(&first).is_empty(), "{}", first.err);
    let (mut explained, mut executed) = (0, 0);
    for round in 0..edits {
        let before = model.clone();
        let mut may_be_said = BTreeSet::new();
        for _ in 0..=random.below(3) {
            may_be_said.extend(model.edit(&mut random));
        }
        write(&context, &model);
        let context_text = format!("round {round} of seed {seed}, edits: {may_be_said:?}\n{}", model.text());
        // A dry run says the same.
        let given = flags(&model);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let (dry, would) = dry_run(&lab, &context, &given);
        assert!(matches!(dry.code, 0 | 10), "{context_text}{}", dry.err);
        let done = build(&model, &[]);
        assert_eq!(done.code, 0, "{context_text}{}", done.err);
        let causes = causes_of(&done);
        for line in &causes {
            let cause = line.split_once("]").map_or(line.as_str(), |(_, rest)| rest);
            let fits = may_be_said
                .iter()
                .any(|words| [": ", "; "].iter().any(|before| cause.contains(&format!("{before}{words}"))));
            assert!(fits, "{context_text}{line}\n{}", done.err);
        }
        let did = outcomes(&done);
        let ran: Vec<&String> = did.iter().filter(|(_, cached)| !**cached).map(|(step, _)| step).collect();
        let ran: Vec<_> = ran.into_iter().filter(|step| !step.contains("] FROM ")).collect();
        assert_eq!(ran.len(), causes.len(), "{context_text}every step that ran is explained\n{}", done.err);
        for (step, (outcome, why)) in &would {
            let cached = did.get(step).copied().unwrap_or(true);
            let agrees = match outcome.as_str() {
                "cached" => cached,
                "would-run" => !cached || why.starts_with("after "),
                _ => true,
            };
            assert!(
                agrees,
                "{context_text}{step}: dry run says {outcome} ({why}), cached: {cached}\n{}",
                done.err
            );
            if outcome == "would-run" && !why.starts_with("after ") {
                assert!(
                    causes.contains(&format!("{step}: {why}")),
                    "{context_text}{step}: {why}\n{}",
                    done.err
                );
            }
        }
        assert!(model != before || causes.is_empty(), "{context_text}{}", done.err);
        explained += causes.len();
        executed += ran.len();
    }
    println!("{edits} rounds of edits, {executed} steps executed, {explained} explained");
    assert!(explained > edits / 2, "{explained} of {edits}");
}
