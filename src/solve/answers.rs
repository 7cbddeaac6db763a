//! What is known of layers without having their files, and what is kept for an export.
//!
//! The key of a `COPY --from` has the digest of the files it takes, for which all of the stage's layers would
//! have to be here. With a cache from elsewhere comes the answer: it was found out when those layers were
//! made. Answers belong to chains of layers, whose files never change.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cache::{Input, KeyInputs};
use crate::digest::{ChainId, Digest, Hasher};
use crate::plan::{CopyOrigin, CopyStep, RunMount, RunMountKind, RunStep, Step, StepId};
use crate::snapshot::Chain;
use crate::steps::accounts;
use crate::steps::place::Destination;

use super::error::StepError;
use super::{KnownAnswer, Run, StepKey, StepState};

/// Raised when the same question gets another answer than before.
const GENERATION: &[u8] = b"rbuild-answers-1";

/// A question about the files of a chain of layers, whatever the chain.
pub(super) struct Question(Digest);

impl Question {
    /// The digest of the files that a copy takes.
    pub fn of_copy(copy: &CopyStep, pattern: &str, dest: &Destination) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(GENERATION);
        hasher.field(if copy.parents { b"copy with parents" } else { b"copy" });
        hasher.field(pattern.as_bytes());
        // What of the destination enters the digest of the files.
        hasher.field(format!("{:?} {:?}", dest.owner, dest.keep_owner).as_bytes());
        hasher.field(format!("{:?}", copy.chmod.as_ref().map(ToString::to_string)).as_bytes());
        copy.exclude.iter().for_each(|pattern| hasher.field(pattern.as_bytes()));
        Question(hasher.finish())
    }

    /// The digest of the files that a mount shows.
    pub fn of_mount(mount: &RunMount, source: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(GENERATION);
        hasher.field(match mount.kind {
            RunMountKind::Bind { .. } => b"bind",
            _ => b"mount",
        });
        hasher.field(source.as_bytes());
        Question(hasher.finish())
    }

    /// The IDs that the value of `--chown` means.
    fn of_owner(chown: &str) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(GENERATION);
        hasher.field(b"owner");
        hasher.field(chown.as_bytes());
        Question(hasher.finish())
    }

    fn about(&self, chain: ChainId) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(self.0.raw());
        hasher.field(chain.0.raw());
        hasher.finish()
    }
}

/// What is kept for an export until all layers are written.
#[derive(Default)]
pub(super) struct Kept {
    keys: BTreeMap<StepId, (Value, Vec<Input>, Chain)>,
    answers: Vec<(Question, Chain, String)>,
}

impl Kept {
    /// With the identities of the layers, which are known by now.
    pub fn finish(self) -> (BTreeMap<StepId, StepKey>, BTreeMap<Digest, KnownAnswer>) {
        let key = |(id, (definition, inputs, base)): (StepId, (Value, Vec<Input>, Chain))| {
            let parent = base.id().ok()?;
            Some((id, StepKey { key: KeyInputs { definition, parent, inputs }.key(), parent }))
        };
        let answer = |(question, chain, value): (Question, Chain, String)| {
            let chain = chain.id().ok()?;
            Some((question.about(chain), KnownAnswer { chain, value }))
        };
        (
            self.keys.into_iter().filter_map(key).collect(),
            self.answers.into_iter().filter_map(answer).collect(),
        )
    }
}

impl Run<'_> {
    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps a step's key for an export.
    pub(super) fn keep_key(&self, step: StepId, definition: &Value, inputs: &[Input], base: &Chain) {
        self.kept().keys.insert(step, (definition.clone(), inputs.to_vec(), base.clone()));
    }

    /// The step's result is not that of its key.
    pub(super) fn forget_key(&self, step: StepId) {
        self.kept().keys.remove(&step);
    }

    fn keep_answer(&self, question: Question, chain: &Chain, value: String) {
        if self.solver.keep_keys {
            self.kept().answers.push((question, chain.clone(), value));
        }
    }

    /// Keeps the digest of files that a step takes from another one.
    pub(super) fn keep_files(&self, origin: &CopyOrigin, question: &Question, digest: &Digest) {
        if !self.solver.keep_keys {
            return;
        }
        let CopyOrigin::Step(id, _) = origin else { return };
        if let Some(state) = self.wait(*id) {
            self.keep_answer(Question(question.0), &state.chain, digest.to_string());
        }
    }

    fn answer(&self, question: &Question, chain: &Chain) -> Result<Option<String>, StepError> {
        let Some(elsewhere) = &self.solver.elsewhere else { return Ok(None) };
        let Some(chain) = chain.known_id().transpose()? else { return Ok(None) };
        Ok(elsewhere.answer(&question.about(chain), &self.solver.cancel))
    }

    fn files_by_answer(&self, step: StepId, question: &Question) -> Result<Option<Digest>, StepError> {
        let Some(state) = self.wait(step) else { return Err(StepError::Canceled) };
        let answer = self.answer(question, &state.chain)?;
        let digest = answer.and_then(|answer| Digest::parse(&answer).ok());
        if let Some(digest) = &digest {
            self.keep_answer(Question(question.0), &state.chain, digest.to_string());
        }
        Ok(digest)
    }

    /// The IDs that `--chown` means on these layers.
    pub(super) fn owner(&self, base: &Chain, chown: &str) -> Result<(u32, u32), StepError> {
        let question = Question::of_owner(chown);
        let known = self.answer(&question, base)?;
        let parse = |text: String| {
            let (uid, gid) = text.split_once(':')?;
            Some((uid.parse().ok()?, gid.parse().ok()?))
        };
        let owner = match known.and_then(parse) {
            Some(owner) => owner,
            None => {
                let snapshots = &self.solver.snapshots;
                let tree = snapshots.tree(base)?;
                accounts(snapshots, base, &tree)?.owner(chown)?
            }
        };
        self.keep_answer(question, base, format!("{}:{}", owner.0, owner.1));
        Ok(owner)
    }

    /// The result of a copy from other layers, if it can be found without their files.
    pub(super) fn copy_by_answers(
        &self,
        step: &Step,
        copy: &CopyStep,
        parent: &Chain,
        base: &Chain,
        dest: &Destination,
    ) -> Result<Option<StepState>, StepError> {
        let CopyOrigin::Step(id, _) = &copy.origin else { return Ok(None) };
        if self.solver.elsewhere.is_none() || !copy.remote.is_empty() || !copy.inline.is_empty() {
            return Ok(None);
        }
        let mut inputs = Vec::new();
        for pattern in &copy.sources {
            let question = Question::of_copy(copy, pattern, dest);
            let Some(digest) = self.files_by_answer(*id, &question)? else { return Ok(None) };
            inputs.push(Input { name: format!("{}: {pattern}", copy.origin), digest });
        }
        let key = self.key(step, base, inputs)?;
        self.look_early(step, parent, &key)
    }

    /// The result of a RUN with mounts from other layers, if it can be found without their files.
    pub(super) fn run_by_answers(
        &self,
        step: &Step,
        run: &RunStep,
        parent: &Chain,
    ) -> Result<Option<StepState>, StepError> {
        let from_layers = |mount: &RunMount| matches!(mount.origin(), Some((CopyOrigin::Step(..), _)));
        if self.solver.elsewhere.is_none() || !run.mounts.iter().any(from_layers) {
            return Ok(None);
        }
        let mut inputs = Vec::new();
        for mount in &run.mounts {
            inputs.extend(self.secret_input(mount));
            let Some((origin, source)) = mount.origin() else { continue };
            let CopyOrigin::Step(id, _) = origin else { return Ok(None) };
            let question = Question::of_mount(mount, source);
            let Some(digest) = self.files_by_answer(*id, &question)? else { return Ok(None) };
            let target = mount.target.as_deref().unwrap_or_default();
            inputs.push(Input { name: format!("mount {target}: {origin}: {source}"), digest });
        }
        inputs.extend(self.solver.run.inputs());
        let key = self.key(step, parent, inputs)?;
        self.look_early(step, parent, &key)
    }

    /// Keeps the digests of files of stages that the store remembered.
    pub(super) fn keep_known_copy(&self, copy: &CopyStep, dest: &Destination, inputs: &[Input]) {
        for (pattern, input) in copy.sources.iter().zip(inputs) {
            self.keep_files(&copy.origin, &Question::of_copy(copy, pattern, dest), &input.digest);
        }
    }

    /// The same for the mounts of a RUN.
    pub(super) fn keep_known_mounts(&self, run: &RunStep, inputs: &[Input]) {
        let mounts = run.mounts.iter().filter_map(|mount| Some((mount, mount.origin()?)));
        let shown = inputs.iter().filter(|input| input.name.starts_with("mount "));
        for ((mount, (origin, source)), input) in mounts.zip(shown) {
            self.keep_files(origin, &Question::of_mount(mount, source), &input.digest);
        }
    }
}
