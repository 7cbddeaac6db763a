//! Batches of stages built by rbuild and by a BuildKit, and what differs between the two images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::context::{Context, Kind};
use crate::dockerfile::{self, Kinds, Line, Stage};
use crate::flat;
use crate::modes::Builder;
use crate::random::Random;
use crate::support::{Done, base, done};

/// Files of a step have the time of the build; what a command or the context sets is older than this.
const NEW: i64 = 1_600_000_000;

/// `buildctl` with its daemon in the environment.
pub struct Peer {
    buildctl: PathBuf,
    bases: BTreeMap<&'static str, flat::Base>,
}

impl Peer {
    pub fn from_environment() -> Self {
        let buildctl = std::env::var_os("BUILDCTL").expect("BUILDCTL: the path of a buildctl");
        assert!(std::env::var_os("BUILDKIT_HOST").is_some(), "BUILDKIT_HOST: the address of a BuildKit");
        let mut bases = BTreeMap::from([("scratch", flat::Base::default())]);
        for name in ["busybox", "debian"] {
            let layout = base(name).expect("tests/setup makes the bases");
            bases.insert(name, flat::Base::read(&layout).expect("a readable base"));
        }
        Peer { buildctl: buildctl.into(), bases }
    }

    fn build(&self, context: &Path, out: &Path) -> Done {
        let _ = std::fs::remove_dir_all(out);
        let local = |name: &str| format!("{name}={}", context.display());
        let mut command = Command::new(&self.buildctl);
        command
            .args(["build", "--progress=plain", "--frontend", "dockerfile.v0", "--local"])
            .arg(local("context"));
        command.arg("--local").arg(local("dockerfile")).arg("--output");
        command.arg(format!("type=oci,tar=false,dest={}", out.display()));
        done(command.output().expect("buildctl starts"))
    }
}

/// Stages on one context.
#[derive(Clone)]
pub struct Batch {
    context: Context,
    stages: Vec<Stage>,
}

/// What building a batch showed.
#[derive(Default)]
pub struct Verdict {
    /// Stages that both build.
    compared: BTreeSet<String>,
    /// Stages that both refuse.
    pub refused: usize,
    /// Stages that differ only where rbuild means to (docs/conformance.md).
    deviating: BTreeSet<String>,
    /// By stage.
    pub differences: BTreeMap<String, Vec<String>>,
}

/// What several batches showed, in stages. A stage that differs on purpose is not one that agrees.
#[derive(Default)]
pub struct Counts {
    pub agreeing: usize,
    pub refused: usize,
    pub deviating: usize,
    pub different: usize,
}

impl Counts {
    pub fn add(&mut self, verdict: &Verdict) {
        let agrees = |stage: &&String| {
            !verdict.deviating.contains(*stage) && !verdict.differences.contains_key(*stage)
        };
        self.agreeing += verdict.compared.iter().filter(agrees).count();
        self.refused += verdict.refused;
        self.deviating += verdict.deviating.len();
        self.different += verdict.differences.len();
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { agreeing, refused, deviating, different } = self;
        write!(
            f,
            "{agreeing} agree, {refused} refused by both, {deviating} differ as meant, {different} differ"
        )
    }
}

/// How a build of one builder ended.
enum Ended {
    Image(Value),
    /// In this stage, with this message.
    Refused(Option<String>, String),
}

impl Batch {
    pub fn random(seed: u64, count: usize, kinds: Kinds) -> Self {
        let random = &mut Random::new(seed);
        let context = Context::random(random, kinds.hard_links);
        let stages = dockerfile::stages(random, &context, count, kinds, seed.is_multiple_of(4));
        Batch { context, stages }
    }

    /// Those of the stages that are wanted, and one that has the files of all: `0/w` for the first and so on, on
    /// the last of them. Its own layers are compared one by one.
    fn text(&self, without: &BTreeSet<String>) -> String {
        let stages: Vec<&Stage> = self.stages.iter().filter(|stage| !without.contains(&stage.name)).collect();
        let mut text: String = stages.iter().map(|stage| stage.text()).collect();
        let last = stages.last().expect("a stage");
        text += &format!("FROM {} AS all\nUSER 0\nWORKDIR /\n", last.name);
        for stage in stages {
            text += &format!("COPY --from={n} /t /{n}/\n", n = stage.name);
        }
        text
    }

    /// The stage that this line of the text is in.
    fn stage_at(&self, text: &str, line: usize) -> Option<String> {
        let stages = text.lines().take(line).filter(|line| line.starts_with("FROM "));
        let name = stages.last()?.rsplit(' ').next()?;
        self.stages.iter().find(|stage| stage.name == name).map(|stage| stage.name.clone())
    }

    /// The base image below all that the text builds last.
    fn base(&self, without: &BTreeSet<String>) -> &str {
        let mut name =
            &self.stages.iter().rfind(|stage| !without.contains(&stage.name)).expect("a stage").name;
        while let Some(stage) = self.stages.iter().find(|stage| stage.name == *name) {
            name = &stage.base;
        }
        name
    }

    fn run(&self, without: &BTreeSet<String>, peer: &Peer, builder: &Builder, by_peer: bool) -> Ended {
        let text = self.text(without);
        let context = builder.context(&self.context, &text);
        let out = builder.lab.out(if by_peer { "peer" } else { "image" });
        let done = if by_peer { peer.build(&context, &out) } else { builder.build(&context, &out, &[]) };
        let _ = std::fs::remove_dir_all(&context);
        if done.code == 0 {
            return Ended::Image(
                flat::describe(&out, &peer.bases[self.base(without)]).expect("a readable image"),
            );
        }
        let line = done.err.lines().rev().find_map(|line| {
            let at = line.find("Dockerfile:")? + "Dockerfile:".len();
            let digits: String = line[at..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        let stage = line.and_then(|line| self.stage_at(&text, line));
        Ended::Refused(stage, done.err)
    }

    /// Builds until what one refuses is left out: its image, and the stages that were refused.
    fn build(
        &self,
        left_out: &BTreeSet<String>,
        peer: &Peer,
        builder: &Builder,
        by_peer: bool,
    ) -> Result<(Value, BTreeMap<String, String>), String> {
        let (mut without, mut refused) = (left_out.clone(), BTreeMap::new());
        loop {
            match self.run(&without, peer, builder, by_peer) {
                Ended::Image(image) => return Ok((image, refused)),
                Ended::Refused(Some(stage), message) => {
                    refused.insert(stage.clone(), message);
                    self.leave_out(&mut without, stage);
                    if without.len() == self.stages.len() {
                        return Ok((Value::Null, refused));
                    }
                }
                Ended::Refused(None, message) => return Err(message),
            }
        }
    }

    /// With those that need it.
    fn leave_out(&self, without: &mut BTreeSet<String>, stage: String) {
        without.insert(stage);
        for stage in &self.stages {
            if stage.needs(&self.stages).any(|needed| without.contains(&needed.name)) {
                without.insert(stage.name.clone());
            }
        }
    }

    pub fn judge(&self, peer: &Peer, builder: &Builder) -> Verdict {
        let mut verdict = self.compared(peer, builder);
        let Verdict { deviating, differences, .. } = &mut verdict;
        differences.retain(|stage, lines| {
            let text =
                self.stages.iter().find(|other| other.name == *stage).map(Stage::text).unwrap_or_default();
            lines.retain(|line| !is_meant(line, &text));
            if lines.is_empty() {
                deviating.insert(stage.clone());
            }
            !lines.is_empty()
        });
        verdict
    }

    fn compared(&self, peer: &Peer, builder: &Builder) -> Verdict {
        let mut verdict = Verdict::default();
        let (theirs, refused) = match self.build(&BTreeSet::new(), peer, builder, true) {
            Ok(result) => result,
            Err(message) => {
                verdict.differences.insert("all".into(), vec![format!("the peer fails: {message}")]);
                return verdict;
            }
        };
        let mut without = BTreeSet::new();
        for stage in refused.keys() {
            self.leave_out(&mut without, stage.clone());
        }
        for (stage, message) in &refused {
            let alone = self.only(stage);
            match alone.run(&BTreeSet::new(), peer, builder, false) {
                Ended::Image(_) => {
                    verdict
                        .differences
                        .insert(stage.clone(), vec![format!("only the peer refuses: {}", reason(message))]);
                }
                Ended::Refused(_, own) if own.contains("panicked") => {
                    verdict.differences.insert(stage.clone(), vec![own]);
                }
                Ended::Refused(..) => verdict.refused += 1,
            }
        }
        if theirs.is_null() {
            return verdict;
        }
        let is_built = |name: &&String| !without.contains(*name);
        verdict.compared = self.stages.iter().map(|stage| &stage.name).filter(is_built).cloned().collect();
        match self.build(&without, peer, builder, false) {
            Ok((ours, refused)) if refused.is_empty() => self.compare(&theirs, &ours, &mut verdict),
            Ok((_, refused)) => {
                let rows = refused
                    .into_iter()
                    .map(|(stage, own)| (stage, vec![format!("only rbuild refuses: {}", reason(&own))]));
                verdict.differences.extend(rows);
            }
            Err(message) => {
                verdict.differences.insert("all".into(), vec![format!("rbuild fails: {message}")]);
            }
        }
        verdict
    }

    fn compare(&self, theirs: &Value, ours: &Value, verdict: &mut Verdict) {
        let mut add =
            |stage: &str, line: String| verdict.differences.entry(stage.to_owned()).or_default().push(line);
        for part in ["layers", "history", "config", "removed"] {
            if theirs[part] != ours[part] {
                add("all", format!("{part}: {} and {}", theirs[part], ours[part]));
            }
        }
        let (theirs, ours) =
            (theirs["tree"].as_object().expect("a tree"), ours["tree"].as_object().expect("a tree"));
        let paths: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        // BuildKit leaves mount points in the layer of a RUN.
        for path in paths.into_iter().filter(|path| !["dev", "proc", "sys"].contains(&path.as_str())) {
            let first = path.split('/').next().unwrap_or_default();
            let stage = if self.stages.iter().any(|stage| stage.name == first) { first } else { "all" };
            let (Some(left), Some(right)) = (theirs.get(path), ours.get(path)) else {
                let who = if theirs.contains_key(path) { "the peer" } else { "rbuild" };
                add(stage, format!("/{path}: only by {who}"));
                continue;
            };
            for fact in ["type", "mode", "uid", "gid", "target", "sha256", "xattrs", "link", "device"] {
                if left[fact] != right[fact] {
                    add(stage, format!("/{path}: {fact}: peer {}, rbuild {}", left[fact], right[fact]));
                }
            }
            let time = |facts: &Value| facts["mtime"].as_i64().unwrap_or_default();
            if time(left) != time(right) && time(left).min(time(right)) < NEW && left["type"] != "dir" {
                add(stage, format!("/{path}: mtime: peer {}, rbuild {}", time(left), time(right)));
            }
        }
    }

    /// A stage and what it needs.
    fn only(&self, name: &str) -> Batch {
        let mut wanted = BTreeSet::from([name.to_owned()]);
        for stage in self.stages.iter().rev() {
            if wanted.contains(&stage.name) {
                wanted.extend(stage.needs(&self.stages).map(|needed| needed.name.clone()));
            }
        }
        let last =
            self.stages.iter().position(|stage| stage.name == name).map_or(self.stages.len(), |at| at + 1);
        let stages =
            self.stages[..last].iter().filter(|stage| wanted.contains(&stage.name)).cloned().collect();
        Batch { context: self.context.clone(), stages }
    }

    /// The smallest batch that is found to differ in this stage with so many builds of both.
    pub fn reduced(&self, stage: &str, peer: &Peer, builder: &Builder, limit: u64) -> Batch {
        let mut best = if stage == "all" { self.clone() } else { self.only(stage) };
        let mut attempts = 0;
        let mut differs = |batch: &Batch| {
            attempts += 1;
            attempts <= limit && batch.judge(peer, builder).differences.contains_key(stage)
        };
        if !differs(&best) {
            return best;
        }
        loop {
            let smaller = best.smaller().into_iter().find(|batch| differs(batch));
            match smaller {
                Some(batch) => best = batch,
                None => return best,
            }
        }
    }

    /// The same with one line, command or file less.
    fn smaller(&self) -> Vec<Batch> {
        let mut all = Vec::new();
        let is_start = |stage: &Stage| ["base", "dbase"].contains(&stage.name.as_str());
        for (at, stage) in self.stages.iter().enumerate().filter(|(_, stage)| !is_start(stage)) {
            let is_needed = self
                .stages
                .iter()
                .any(|other| other.needs(&self.stages).any(|needed| needed.name == stage.name));
            if !is_needed && self.stages.len() > 1 {
                all.push(self.changed(|batch| drop(batch.stages.remove(at))));
            }
            for (number, line) in stage.lines.iter().enumerate().rev() {
                all.push(self.changed(|batch| drop(batch.stages[at].lines.remove(number))));
                if let Line::Run(commands) = line
                    && commands.len() > 1
                {
                    all.extend((0..commands.len()).map(|command| {
                        self.changed(|batch| {
                            if let Line::Run(commands) = &mut batch.stages[at].lines[number] {
                                commands.remove(command);
                            }
                        })
                    }));
                }
            }
        }
        if !self.context.ignored.is_empty() {
            all.push(self.changed(|batch| batch.context.ignored.clear()));
        }
        for (at, entry) in self.context.entries.iter().enumerate().rev() {
            let is_needed = self.context.entries.iter().any(|other| {
                other.path.starts_with(&format!("{}/", entry.path))
                    || matches!(&other.kind, Kind::Hard(target) if *target == entry.path)
            });
            if !is_needed {
                all.push(self.changed(|batch| drop(batch.context.entries.remove(at))));
            }
        }
        all
    }

    fn changed(&self, change: impl FnOnce(&mut Batch)) -> Batch {
        let mut batch = self.clone();
        change(&mut batch);
        batch
    }

    pub fn describe(&self) -> String {
        format!("{}.dockerignore: {:?}\n{}", self.text(&BTreeSet::new()), self.context.ignored, self.context)
    }
}

/// Whether rbuild means to differ so.
fn is_meant(line: &str, stage: &str) -> bool {
    // A new name of a lower layer's file stays one file with the old name.
    line.contains(": link: peer null, rbuild")
        // A source that is named and excluded selects nothing.
        || line.starts_with("only the peer refuses") && line.contains("not found") && stage.contains("--exclude")
}

/// The line that says why.
fn reason(message: &str) -> &str {
    let lines = message.lines().rev();
    lines.into_iter().find(|line| line.to_lowercase().starts_with("error")).unwrap_or(message)
}
