//! Caches elsewhere: what a build reads from them, and what it leaves there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{
    Answer, CacheDocument, CacheError, CachePlace, CacheSource, Entry, Export, Exported, INLINE_FIELD,
    Import, InlineEntry, InlineRecords, LayerBlob, SignRecord,
};
use crate::cancel::Cancel;
use crate::digest::{ChainId, Digest};
use crate::event::{Event, Events, Outcome, Stream, VertexKind};
use crate::image::{Family, Image};
use crate::layer::{self, WriteOptions};
use crate::plan::{Plan, StepId};
use crate::registry::RegistryAccess;
use crate::snapshot::{Chain, LayerCell};
use crate::solve::{Solved, StepKey, StepState};
use crate::store::Store;

use super::cache_content::ExportContent;
use super::cache_places::{self, Places};
use super::cache_spec::{CacheLocation, CacheMode, CacheTarget};
use super::engine::{Engine, now_seconds, oldest};
use super::failure::{Failure, FailureKind};
use super::request::{BuildRequest, CompressionChoice};

/// Refuses names that cannot be those of a cache before anything is built.
pub(super) fn check(request: &BuildRequest) -> Result<(), Failure> {
    let signs = request.cache_to.iter().any(|target| target.sign.is_some());
    let is_signed = |source: &CacheLocation| matches!(source, CacheLocation::Signed { .. });
    if let Some(source) = request.cache_from.iter().find(|source| signs && !is_signed(source)) {
        let message = format!("--cache-to: sign= would vouch for what comes from {source} unseen");
        return Err(Failure::new(FailureKind::Usage, message)
            .help("give each --cache-from of this build verify=KEY, or leave it out"));
    }
    request.cache_from.iter().try_for_each(|source| cache_places::check("--cache-from", source, false))?;
    request.cache_to.iter().try_for_each(|to| cache_places::check("--cache-to", &to.location, true))
}

/// Does work that stands on what caches give. Where a cache turns out not to have what it promised, the work
/// is done again without it: what it executed is in the store by then.
pub(super) fn with_import<T>(
    import: Option<&Import>,
    store: &Store,
    events: &Events,
    cancel: &Cancel,
    work: impl Fn(&Cancel) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(import) = import else { return work(cancel) };
    loop {
        // The first failure of a solve switches what it is given.
        let own = cancel
            .follower()
            .map_err(|error| Failure::new(FailureKind::Store, format!("cannot start a thread: {error}")))?;
        store.cancel_by(own.cancel());
        let result = work(own.cancel());
        store.cancel_by(cancel);
        let lost = import.take_lost();
        let again = result.is_err() && !lost.is_empty() && !cancel.is_cancelled();
        for message in lost.iter().filter(|_| !cancel.is_cancelled()) {
            let then = if again { "; the build starts again without it" } else { "" };
            events.warn(format!("{message}{then}"));
        }
        if !again {
            return result;
        }
    }
}

/// Results of one platform.
pub(super) struct Solution<'a> {
    pub plan: &'a Plan,
    pub solved: Solved,
}

impl Solution<'_> {
    /// The steps whose layers are in the image.
    fn image_steps(&self) -> BTreeSet<StepId> {
        let mut steps = BTreeSet::new();
        let mut next = self.plan.stages.get(self.plan.target).and_then(|stage| stage.last);
        while let Some(step) = next.filter(|step| steps.insert(*step)) {
            next = self.plan.steps.get(step.0).and_then(|step| step.parent);
        }
        steps
    }

    /// Steps that can be exported, with what the export needs.
    fn steps(&self, mode: CacheMode) -> impl Iterator<Item = (&str, &StepKey, &StepState)> {
        let wanted = match mode {
            CacheMode::Min => Some(self.image_steps()),
            CacheMode::Max => None,
        };
        let keys = self.solved.keys.iter().filter(move |(id, _)| match &wanted {
            Some(wanted) => wanted.contains(id),
            None => true,
        });
        keys.filter_map(|(id, key)| {
            let step = self.plan.steps.get(id.0)?;
            Some((step.name.as_str(), key, self.solved.states.get(id.0)?))
        })
    }
}

/// Puts the records of an image's layers into its config.
pub(super) fn add_inline(image: &mut Image, solution: &Solution<'_>) -> Result<(), Failure> {
    let mut entries = Vec::new();
    for (name, key, state) in solution.steps(CacheMode::Min) {
        let Some(cell) = state.chain.cells().last() else { continue };
        let diff_id = cell.finished()?.diff_id;
        // Layers of eStargz are others than those of the steps.
        if image.layers.iter().any(|layer| layer.diff_id == diff_id) {
            let StepKey { key, parent } = *key;
            entries.push(InlineEntry {
                key: key.0,
                parent,
                diff_id,
                created: state.created,
                step: name.to_owned(),
            });
        }
    }
    let records = serde_json::to_value(InlineRecords::new(entries))
        .map_err(|error| Failure::new(FailureKind::Output, error.to_string()))?;
    image.config.rest.insert(INLINE_FIELD.to_owned(), records);
    Ok(())
}

impl Engine {
    /// Begins to read the caches that the request names. None of them is needed.
    pub(super) fn import_caches(
        &self,
        request: &BuildRequest,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Option<Arc<Import>>, Failure> {
        if request.cache_from.is_empty() || request.no_cache {
            return Ok(None);
        }
        let mut places: Vec<CacheSource> = Vec::new();
        for location in &request.cache_from {
            match self.cache_place(location, request) {
                Ok(place) => places.push(CacheSource { place, verify: cache_places::verifier(location) }),
                Err(error) => events.warn(format!("a cache is not used: {error}")),
            }
        }
        let import = Import::start(places, oldest(request), &self.store, events, cancel)
            .map_err(|error| Failure::new(FailureKind::Store, format!("cannot read caches: {error}")))?;
        Ok(Some(Arc::new(import)))
    }

    fn cache_access(&self, request: &BuildRequest) -> RegistryAccess {
        let mut access = self.options.registries.clone();
        access.insecure.extend(request.insecure_registries.iter().cloned());
        access
    }

    fn cache_place(
        &self,
        location: &CacheLocation,
        request: &BuildRequest,
    ) -> Result<Arc<dyn CachePlace>, CacheError> {
        let (store, access) = (&self.store, &self.cache_access(request));
        Places { store, access, cwd: &request.cwd }.open(location)
    }

    /// Writes all caches that the request names, in order.
    pub(super) fn export_caches(
        &self,
        request: &BuildRequest,
        solutions: &[Solution<'_>],
        import: Option<&Import>,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let (bad, now) = (import.map(Import::bad_blobs).unwrap_or_default(), now_seconds());
        for target in &request.cache_to {
            let title = match &target.location {
                CacheLocation::Registry { .. } => "exporting cache to registry",
                CacheLocation::Local { .. } => "exporting cache to client directory",
                CacheLocation::Objects(spec) => spec.service.export_title(),
                // The one was made with the image, the other is only read.
                CacheLocation::Inline | CacheLocation::Signed { .. } => continue,
            };
            let vertex = events.add(VertexKind::Export, title);
            events.send(Event::Started { vertex });
            let begun = Instant::now();
            let progress = |part: &Digest, current: u64, total: u64| {
                let (item, total) = (part.short(), Some(total));
                events.send(Event::Progress { vertex, item, current, total });
            };
            let work = ExportWork { engine: self, request, target, solutions, bad: &bad, now, cancel };
            let result = work.run(&progress);
            let outcome = match &result {
                Ok(line) => {
                    let line = line.clone().into_bytes();
                    events.send(Event::Log { vertex, stream: Stream::Stdout, line });
                    Outcome::Done
                }
                Err(failure) => Outcome::Failed(failure.message.clone()),
            };
            events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
            match result {
                Err(failure) if target.ignore_error && failure.kind != FailureKind::Interrupted => {
                    events.warn(format!("the cache was not written: {}", failure.message));
                }
                result => result.map(drop)?,
            }
        }
        Ok(())
    }
}

/// One cache being written.
struct ExportWork<'a> {
    engine: &'a Engine,
    request: &'a BuildRequest,
    target: &'a CacheTarget,
    solutions: &'a [Solution<'a>],
    bad: &'a BTreeSet<Digest>,
    /// Seconds since 1970.
    now: i64,
    cancel: &'a Cancel,
}

impl ExportWork<'_> {
    fn run(&self, progress: &(dyn Fn(&Digest, u64, u64) + Sync)) -> Result<String, Failure> {
        let request = self.request;
        let failed = |error: CacheError| match error.is_cancelled() {
            true => Failure::new(FailureKind::Interrupted, "canceled"),
            false => Failure::new(FailureKind::Output, format!("cannot write the cache: {error}"))
                .help("ignore-error=true makes this a warning"),
        };
        let place = self.engine.cache_place(&self.target.location, request).map_err(failed)?;
        let (document, cells) = self.document()?;
        let access = self.engine.cache_access(request);
        let content = ExportContent::new(&self.engine.store, &access, cells);
        let signer = self.target.sign.clone();
        let sign = signer.map(|key| move |text: &[u8]| key.0.sign(text));
        let export = Export {
            sign: sign.as_ref().map(|sign| sign as &SignRecord),
            document,
            content: &content,
            bounds: self.target.bounds,
            reset: self.target.reset,
            bad: self.bad,
            now: self.now,
            progress,
            cancel: self.cancel,
        };
        let Exported { entries, sent_bytes, sent, mounted, unchanged } =
            place.write(&export).map_err(failed)?;
        let name = place.name();
        Ok(match unchanged {
            true => format!("{name}: {entries} steps, nothing new"),
            false => format!(
                "{name}: {entries} steps ({sent_bytes} bytes sent; layers: {sent} new, {mounted} mounted)"
            ),
        })
    }

    /// The results of the build as records, with where the layers come from. Layers that nobody has packed yet are packed for it.
    fn document(&self) -> Result<(CacheDocument, BTreeMap<Digest, Arc<LayerCell>>), Failure> {
        let (mut entries, mut answers, mut cells) = (Vec::new(), Vec::new(), BTreeMap::new());
        let used = self.now;
        let mut parents: BTreeSet<ChainId> = BTreeSet::new();
        for solution in self.solutions {
            for (name, key, state) in solution.steps(self.target.mode) {
                let Some(cell) = state.chain.cells().last() else { continue };
                let layer = self.layer(&state.chain)?;
                cells.insert(layer.digest, cell.clone());
                parents.insert(key.parent);
                entries.push(Entry {
                    key: key.key.0,
                    parent: key.parent,
                    diff_id: cell.finished()?.diff_id,
                    layer,
                    created: state.created,
                    used,
                    step: name.to_owned(),
                    signature: None,
                });
            }
            for (key, answer) in &solution.solved.answers {
                // Without their results, nobody asks about the layers of other stages.
                if self.target.mode == CacheMode::Max || parents.contains(&answer.chain) {
                    answers.push(Answer { key: *key, value: answer.value.clone(), used, signature: None });
                }
            }
        }
        let mut document = CacheDocument::default();
        document.merge(CacheDocument::new(entries, answers));
        Ok((document, cells))
    }

    /// The blob of a chain's topmost layer.
    fn layer(&self, chain: &Chain) -> Result<LayerBlob, Failure> {
        let (engine, position) = (self.engine, chain.cells().len().saturating_sub(1));
        let choice = self.target.compression.unwrap_or(CompressionChoice {
            estargz: false,
            force: false,
            ..self.request.compression()
        });
        let options = WriteOptions::packing(choice.packing());
        let mut blob = engine.snapshots.blob(chain, position, &options, self.cancel)?;
        if let Some(cell) = chain.cells().get(position)
            && choice.force
            && blob.compression != choice.algorithm
        {
            cell.ensure_blob(&engine.store)?;
            blob = layer::recompress(&engine.store, &cell.finished()?.diff_id, &options, self.cancel)?;
        }
        let media_type = Family::Oci.layer(blob.compression).to_owned();
        Ok(LayerBlob { media_type, digest: blob.digest, size: blob.size })
    }
}
