//! The first cause of a miss.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

use super::files::FileChange;

/// What kind of change made a step run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CauseKind {
    /// `--no-cache`.
    NoCache,
    /// `--no-cache-filter`.
    NoCacheFilter,
    /// No earlier build got so far.
    FirstBuild,
    /// No cache had it either.
    NotInCaches,
    /// The instruction is new.
    NewInstruction,
    /// An instruction before it was removed.
    RemovedInstruction,
    /// The instructions have another order.
    Moved,
    /// The instruction is another.
    Instruction,
    /// A build argument has another value.
    BuildArg,
    /// A variable of ENV has another value.
    Env,
    /// The working directory, the user or the shell is another.
    Setting,
    /// A flag of the build is given otherwise: `--ulimit`, `--add-host`, `SOURCE_DATE_EPOCH`...
    Option,
    /// Files it reads are others.
    Files,
    /// What an address has is something else.
    Remote,
    /// The base is another image.
    Base,
    /// A secret with `invalidate=true` has another value.
    Secret,
    /// What it stands on is another, though nothing that is known of it changed.
    Parent,
    /// Nothing changed: its result was removed from the store.
    Pruned,
    /// Nothing changed: its result is there, and the layer is not.
    LostLayer,
    /// Keys are made otherwise by this version of rbuild.
    Generation,
}

/// Why a step was executed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// What kind of change it was.
    pub kind: CauseKind,
    /// The change in words: `src/a.rs changed`.
    pub text: String,
    /// The step in which it shows first, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What the step itself reads that is not what it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<InputChange>,
}

/// Something a step reads that is not what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputChange {
    /// What it is: `the build context: src`.
    pub name: String,
    /// Its digest before; `None` where it was not read.
    pub old: Option<Digest>,
    /// Its digest now; `None` where it is not read any more.
    pub new: Option<Digest>,
    /// Files of it, sorted by path; empty where they are not known or it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
    /// How many files more there are.
    #[serde(default)]
    pub more: usize,
}

impl Cause {
    pub(super) fn new(kind: CauseKind, text: impl Into<String>) -> Self {
        Cause { kind, text: text.into(), step: None, inputs: Vec::new() }
    }

    /// No earlier build is known, and the caches that were asked have nothing either: what each has instead.
    pub fn not_in_caches(closest: impl Iterator<Item = (String, &'static str)>) -> Self {
        let words: Vec<String> =
            closest.map(|(name, words)| format!("the cache at {name} {words}")).collect();
        Cause::new(CauseKind::NotInCaches, format!("never built here; {}", words.join("; ")))
    }

    /// As a consequence that another step has.
    pub(super) fn of_step(&self, step: &str) -> Self {
        let step = self.step.clone().unwrap_or_else(|| step.to_owned());
        Cause { kind: self.kind, text: self.text.clone(), step: Some(step), inputs: Vec::new() }
    }

    /// On one line.
    pub fn line(&self) -> String {
        match &self.step {
            None => self.text.clone(),
            Some(step) => format!("after {step}: {}", self.text),
        }
    }

    /// Whether an earlier build had a result, so that the miss is worth a word without being asked.
    pub fn is_news(&self) -> bool {
        self.kind != CauseKind::FirstBuild
    }
}
