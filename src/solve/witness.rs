//! Somebody who learns how steps were looked up: what keeps the history of builds, and what explains misses.

use std::sync::Arc;

use serde_json::Value;

use crate::cache::Input;
use crate::digest::{ChainId, Digest};
use crate::event::VertexId;
use crate::plan::Step;

/// What a step was looked up by.
pub struct Question<'a> {
    /// The step.
    pub step: &'a Step,
    /// As what its events are sent; `None` where nothing is built.
    pub vertex: Option<VertexId>,
    /// What the step does.
    pub definition: &'a Value,
    /// What it reads, in order of mention.
    pub inputs: &'a [Input],
    /// The layers that it stands on; `None` where they were made a moment ago and have no digest yet.
    pub parent: Option<ChainId>,
}

/// How a look-up ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered<'a> {
    /// The store has the result.
    Store,
    /// A cache elsewhere has it: as the user named that cache.
    Elsewhere(&'a str),
    /// There is none that may be used.
    Missed(Miss),
}

/// Why a look-up found nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    /// The step is to be executed whatever the cache has.
    NotAsked,
    /// What it stands on was executed just now.
    NewParent,
    /// There is no record of these inputs.
    NoRecord,
    /// There is a record, but its layer is gone.
    NoLayer,
}

/// Learns of look-ups while they happen, from the threads of several stages.
pub trait Witness: Send + Sync {
    /// A step was looked up for the last time: by all that it reads.
    fn looked_up(&self, question: &Question<'_>, answer: Answered<'_>);

    /// What the digest of an input was made of: a line for each file.
    fn listed(&self, digest: &Digest, listing: &Arc<Vec<u8>>);
}
