//! What is remembered of a build.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::Input;
use crate::digest::ChainId;

use super::cause::Cause;

/// A build as the store remembers it. Fields that an older version did not write have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BuildRecord {
    /// How keys were made: those of another generation have nothing in common with these.
    pub keys: String,
    /// When it began, in milliseconds since 1970.
    pub begun: i64,
    /// How long it took, in milliseconds.
    pub took: u64,
    /// How it ended.
    pub status: Status,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The build context as given.
    pub context: String,
    /// The Dockerfile's name.
    pub dockerfile: String,
    /// `--target`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The Dockerfile itself.
    pub text: String,
    /// Digest of the ignore file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore: Option<String>,
    /// `--build-arg`, each name once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub build_args: Vec<Variable>,
    /// `--no-cache`.
    #[serde(skip_serializing_if = "is_false")]
    pub no_cache: bool,
    /// Caches of `--cache-from`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache_from: Vec<String>,
    /// The steps of each platform.
    pub platforms: Vec<PlatformRecord>,
    /// Names the image got.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The image's ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Digest of its manifest, where it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Warnings, the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How a build ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Well.
    #[default]
    Completed,
    /// With an error.
    Error,
    /// Given up by the user.
    Canceled,
}

impl Status {
    /// As `docker buildx history ls` words it.
    pub fn title(self) -> &'static str {
        match self {
            Status::Completed => "Completed",
            Status::Error => "Error",
            Status::Canceled => "Canceled",
        }
    }
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// The name.
    pub name: String,
    /// The value, or what stands for it.
    pub value: Shown,
}

/// A value that may be shown, or what it can be told by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shown {
    /// The value.
    Plain(String),
    /// A digest of it under a key that never leaves the store.
    Hidden {
        /// The digest.
        hidden: String,
    },
}

/// The steps for one platform.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlatformRecord {
    /// The platform.
    pub platform: String,
    /// Its steps: each comes after all that it needs.
    pub steps: Vec<StepRecord>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It is a base.
    Base,
    /// Its result was there already.
    Cached,
    /// It was executed.
    Executed,
    /// It was executed and failed.
    Failed,
    /// The build ended before it had a result.
    #[default]
    NotReached,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StepRecord {
    /// As shown: `[build 2/4] RUN make`.
    pub name: String,
    /// The name of its stage, or its number.
    pub stage: String,
    /// The instruction as written, without what must not be shown.
    pub text: String,
    /// Where something of it is not shown: what all of it can be told by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_text: Option<String>,
    /// The file it is written in.
    pub file: String,
    /// Its lines there, from 1.
    pub lines: (usize, usize),
    /// Position of the step it builds on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    /// Positions of the steps whose files it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<usize>,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Where its result comes from, if it was there already: `store`, or the name of a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why its result was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Of a base: its name and the digest of its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<(String, String)>,
    /// What it does; null where it was not looked up.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub definition: Value,
    /// What it reads.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// The layers it stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<ChainId>,
    /// When it began, in milliseconds since the build did.
    pub began: u64,
    /// How long it took, in milliseconds.
    pub took: u64,
}

impl StepRecord {
    /// Whether it has a result.
    pub fn is_complete(&self) -> bool {
        matches!(self.outcome, StepOutcome::Base | StepOutcome::Cached | StepOutcome::Executed)
    }

    /// `build 2/4` of `[build 2/4] RUN make`.
    pub fn place(&self) -> &str {
        let end = self.name.find(']').filter(|_| self.name.starts_with('['));
        end.map_or("", |end| &self.name[1..end])
    }

    /// Whether it was looked up, so that what it does is known.
    pub(super) fn is_known(&self) -> bool {
        !self.definition.is_null()
    }
}
