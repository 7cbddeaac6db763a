//! What is known of the files of a stage without looking at them: the same layers have the same files.
//!
//! The digest of what a step takes of a stage follows from the stage's chain and from what the step says. It
//! is remembered, so that a step whose record is found needs no list of the stage's files.

use crate::cache::Input;
use crate::digest::{ChainId, Digest, Hasher};
use crate::plan::{CopyOrigin, CopyStep, RunMount, RunMountKind, RunStep};
use crate::snapshot::Chain;
use crate::steps::place::Destination;

use super::Run;
use super::error::StepError;

/// What a step takes of a stage, whatever the stage holds.
pub(super) struct Taken(Digest);

impl Taken {
    /// What a copy takes with its source `pattern`.
    pub(super) fn by_copy(copy: &CopyStep, pattern: &str, dest: &Destination) -> Self {
        let Destination { path: _, directory: _, owner, keep_owner, chmod, made_up_time: _ } = dest;
        let (uid, gid) = owner.unwrap_or_default();
        let mut hasher = Hasher::new();
        hasher.field(b"copy");
        hasher.field(pattern.as_bytes());
        hasher.field(&[u8::from(copy.parents), u8::from(*keep_owner), u8::from(owner.is_some())]);
        hasher.field(&uid.to_le_bytes());
        hasher.field(&gid.to_le_bytes());
        hasher.field(chmod.as_ref().map(ToString::to_string).unwrap_or_default().as_bytes());
        copy.exclude.iter().for_each(|pattern| hasher.field(pattern.as_bytes()));
        Taken(hasher.finish())
    }

    /// What a mount of a RUN shows.
    pub(super) fn by_mount(source: &str, kind: &RunMountKind) -> Self {
        let mut hasher = Hasher::new();
        hasher.field(if matches!(kind, RunMountKind::Bind { .. }) { b"bind" } else { b"seed" });
        hasher.field(source.as_bytes());
        Taken(hasher.finish())
    }

    /// Where the digest is remembered.
    fn memo(&self, chain: &ChainId) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(b"files of a stage 1");
        hasher.field(chain.0.raw());
        hasher.field(self.0.raw());
        hasher.finish()
    }
}

impl Run<'_> {
    /// The digests of all that `copy` takes, where they are remembered. `None` as well where it takes files
    /// from elsewhere.
    pub(super) fn known_copy(
        &self,
        copy: &CopyStep,
        dest: &Destination,
    ) -> Result<Option<Vec<Input>>, StepError> {
        if !copy.inline.is_empty() || !copy.remote.is_empty() {
            return Ok(None);
        }
        let mut inputs = Vec::new();
        for pattern in &copy.sources {
            let taken = Taken::by_copy(copy, pattern, dest);
            let Some(digest) = self.remembered(&copy.origin, &taken)? else { return Ok(None) };
            inputs.push(Input { name: format!("{}: {pattern}", copy.origin), digest });
        }
        Ok((!inputs.is_empty()).then_some(inputs))
    }

    /// The digests of all that the mounts of a RUN show, where they are remembered. `None` as well where a
    /// mount shows files of a context.
    pub(super) fn known_mounts(&self, run: &RunStep) -> Result<Option<Vec<Input>>, StepError> {
        let (mut inputs, mut found) = (Vec::new(), false);
        for mount in &run.mounts {
            inputs.extend(self.secret_input(mount));
            let Some((origin, source)) = mount.origin() else { continue };
            let taken = Taken::by_mount(source, &mount.kind);
            let Some(digest) = self.remembered(origin, &taken)? else { return Ok(None) };
            inputs.push(mount_input(mount, origin, source, digest));
            found = true;
        }
        Ok(found.then_some(inputs))
    }

    fn remembered(&self, origin: &CopyOrigin, taken: &Taken) -> Result<Option<Digest>, StepError> {
        let Some(chain) = self.stage(origin)? else { return Ok(None) };
        let Some(chain) = chain.known_id().transpose()? else { return Ok(None) };
        Ok(self.solver.records.memo(&taken.memo(&chain))?)
    }

    /// Remembers the digest of what a step takes of a stage, once the stage's layers are known.
    pub(super) fn remember(
        &self,
        origin: &CopyOrigin,
        taken: Taken,
        digest: Digest,
    ) -> Result<(), StepError> {
        let Some(chain) = self.stage(origin)? else { return Ok(()) };
        let records = self.solver.records.clone();
        // Where it fails, the next build looks again.
        self.background.queue(move || {
            let Ok(chain) = chain.id() else { return };
            let memo = taken.memo(&chain);
            if !matches!(records.memo(&memo), Ok(Some(known)) if known == digest) {
                let _ = records.put_memo(&memo, &digest);
            }
        });
        Ok(())
    }

    fn stage(&self, origin: &CopyOrigin) -> Result<Option<Chain>, StepError> {
        let CopyOrigin::Step(id, _) = origin else { return Ok(None) };
        match self.wait(*id) {
            Some(state) => Ok(Some(state.chain)),
            None => Err(StepError::Canceled),
        }
    }
}

/// What a mount shows, as a key has it.
pub(super) fn mount_input(mount: &RunMount, origin: &CopyOrigin, source: &str, digest: Digest) -> Input {
    let target = mount.target.as_deref().unwrap_or_default();
    Input { name: format!("mount {target}: {origin}: {source}"), digest }
}
