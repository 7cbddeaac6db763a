//! What a step gave: found under its key, or written and recorded.

use std::sync::Arc;

use crate::cache::{Input, KeyInputs, Record};
use crate::compress::CompressionAlgorithm;
use crate::digest::{ChainId, DiffId, Digest};
use crate::event::Event;
use crate::layer::{self, ContentSource, Entry, LayerIndex, WriteOptions, content_size};
use crate::plan::Step;
use crate::snapshot::{Chain, Finished, LayerCell, Make, SnapshotError, Snapshots};
use crate::steps::recipe::recipe;

use super::error::StepError;
use super::witness::{Answered, Miss};
use super::{ResultKind, Run, StepState};

/// A step's key, where the layers below it are known already.
pub(super) struct Key {
    pub definition: serde_json::Value,
    pub inputs: Vec<Input>,
    pub parent: Option<ChainId>,
    /// The layers it depends on.
    pub base: Chain,
    /// Whether the result is recorded under it.
    pub keep: bool,
}

impl Run<'_> {
    /// The key's parts. The parent's identity is part of it only if it is known without waiting:
    /// a step on a layer that was just made cannot have a record in all but contrived cases, and
    /// waiting would keep it from running while that layer is compressed.
    pub(super) fn key(&self, step: &Step, base: &Chain, inputs: Vec<Input>) -> Result<Key, StepError> {
        let parent = base.known_id().transpose()?;
        let definition = match self.solver.write.clamp_mtime {
            None => step.definition(),
            Some(latest) if self.solver.same_times => {
                serde_json::json!({"step": step.definition(), "times": latest})
            }
            Some(latest) => serde_json::json!({"step": step.definition(), "clamp": latest}),
        };
        if self.solver.keep_keys {
            self.keep_key(step.id, &definition, &inputs, base);
        }
        Ok(Key { definition, inputs, parent, base: base.clone(), keep: true })
    }

    /// The result of a step, if there is one; otherwise the step is to be executed. While nothing may be
    /// executed, a miss is an error: nothing behind a look-up is reached.
    pub(super) fn look_up(
        &self,
        step: &Step,
        parent: &Chain,
        key: &Key,
    ) -> Result<Option<StepState>, StepError> {
        let miss = match self.look_for(step, parent, key)? {
            Ok(state) => return Ok(Some(state)),
            Err(miss) => miss,
        };
        self.tell(step, key, Answered::Missed(miss));
        if self.only_looks() {
            return Err(StepError::Missed(miss));
        }
        if let Some(vertex) = self.vertexes.get(step.id.0) {
            self.solver.events.send(Event::Executing { vertex: *vertex });
        }
        Ok(None)
    }

    /// As [`Run::look_up`], with a key that was found without looking at files: where that misses, a key made
    /// of the files themselves is looked up next, unless nobody would look at files.
    pub(super) fn look_early(
        &self,
        step: &Step,
        parent: &Chain,
        key: &Key,
    ) -> Result<Option<StepState>, StepError> {
        if self.only_looks() {
            return self.look_up(step, parent, key);
        }
        Ok(self.look_for(step, parent, key)?.ok())
    }

    fn look_for(&self, step: &Step, parent: &Chain, key: &Key) -> Result<Result<StepState, Miss>, StepError> {
        if (self.solver.no_cache)(step) {
            return Ok(Err(Miss::NotAsked));
        }
        let Some(parent_id) = key.parent else { return Ok(Err(Miss::NewParent)) };
        let inputs =
            KeyInputs { definition: key.definition.clone(), parent: parent_id, inputs: key.inputs.clone() };
        let young = |record: &Record| self.solver.oldest.is_none_or(|oldest| record.created >= oldest);
        let record = self.solver.records.get(&inputs.key())?.filter(young);
        if let Some(record) = &record
            && let Some(cell) = self.known_layer(&record.diff_id, Some(parent_id))?
        {
            let chain = self.found(step, parent, cell);
            self.tell(step, key, Answered::Store);
            return Ok(Ok(StepState { chain, cached: true, created: record.created }));
        }
        let hit =
            self.solver.elsewhere.as_ref().and_then(|elsewhere| elsewhere.find(&inputs, &self.solver.cancel));
        let Some(hit) = hit else {
            return Ok(Err(if record.is_some() { Miss::NoLayer } else { Miss::NoRecord }));
        };
        self.tell(step, key, Answered::Elsewhere(&hit.source));
        Ok(Ok(StepState { chain: parent.push(hit.cell), cached: true, created: hit.created }))
    }

    fn tell(&self, step: &Step, key: &Key, answer: Answered<'_>) {
        let Some(witness) = &self.solver.witness else { return };
        let vertex = self.vertexes.get(step.id.0).copied();
        let Key { definition, inputs, parent, .. } = key;
        witness.looked_up(
            &super::witness::Question { step, vertex, definition, inputs, parent: *parent },
            answer,
        );
    }

    /// Whether nothing is executed or written.
    pub(super) fn only_looks(&self) -> bool {
        self.solver.snapshots.store().only_looks()
    }

    /// The chain with a layer that the store has on top. Where an image needs it, it is packed.
    fn found(&self, step: &Step, parent: &Chain, cell: Arc<LayerCell>) -> Chain {
        let chain = parent.push(cell);
        if self.is_exported(step) && self.solver.result == ResultKind::Image && chain.is_bare() {
            let (snapshots, chain) = (self.solver.snapshots.clone(), chain.clone());
            let (options, cancel) = (self.solver.write.clone(), self.solver.cancel.clone());
            // Whoever makes the image asks again, and is told what failed.
            self.background.queue(move || {
                drop(snapshots.blob(&chain, chain.cells().len() - 1, &options, &cancel));
            });
        }
        chain
    }

    /// A layer of the store by its diff ID, if all of it is there: as a blob, or as the files of a layer
    /// on top of `parent`.
    fn known_layer(
        &self,
        diff_id: &DiffId,
        parent: Option<ChainId>,
    ) -> Result<Option<Arc<LayerCell>>, StepError> {
        let snapshots = &self.solver.snapshots;
        // Whoever makes the image compresses it as it was asked to.
        if let Some(blob) = snapshots.blob_here(diff_id, self.solver.write.compression)? {
            return Ok(Some(LayerCell::known(*diff_id, blob)));
        }
        let Some(layer) = layer::load_layer(snapshots.store(), diff_id)? else { return Ok(None) };
        let Some(parent) = parent.filter(|_| layer.blobs.is_empty()) else { return Ok(None) };
        let files = snapshots.files_here(diff_id, &parent.push(*diff_id))?;
        Ok(files.map(|(snapshot, index)| LayerCell::unpacked(*diff_id, snapshot, index)))
    }

    /// Whether the step's layer becomes part of an image.
    fn is_exported(&self, step: &Step) -> bool {
        self.exported.get(step.id.0).copied().unwrap_or(true)
    }

    /// Writes a layer made of a list of entries, or takes the one with the very same bytes.
    pub(super) fn write_entries(
        &self,
        step: &Step,
        parent: &Chain,
        mut entries: Vec<Entry>,
        content: impl ContentSource + Send + 'static,
        key: Key,
    ) -> Result<StepState, StepError> {
        refuse_reserved(&entries)?;
        // The recipe has to say what the layer will say.
        if let Some(latest) = self.solver.write.clamp_mtime {
            entries.iter_mut().for_each(|entry| entry.meta.mtime = entry.meta.mtime.min(latest));
        }
        let recipe = recipe(&entries);
        if let Some(recipe) = recipe.filter(|_| !(self.solver.no_cache)(step))
            && let Some(diff) = self.solver.records.recipe(&recipe)?
            && let Some(cell) = self.known_layer(&diff, key.parent)?
        {
            self.background.queue(self.record(step, cell.clone(), key, None));
            let chain = self.found(step, parent, cell);
            return Ok(StepState { chain, cached: false, created: self.solver.now });
        }
        let index = Arc::new(LayerIndex { entries: entries.clone() });
        let content = Arc::new(content);
        let (files, source) = (index.clone(), content.clone());
        let make: Make =
            Box::new(move |dir, ids| layer::write_files_checked(&files.entries, &*source, dir, ids));
        let cell = LayerCell::described(index, Some(make));
        self.write(step, parent, Unwritten { cell, entries, content, recipe }, key)
    }

    /// Queues the writing of a layer and gives the state that builds on it. What no image needs is not
    /// packed: its files stay in their directory.
    pub(super) fn write(
        &self,
        step: &Step,
        parent: &Chain,
        layer: Unwritten<impl ContentSource + Send + 'static>,
        key: Key,
    ) -> Result<StepState, StepError> {
        let cell = layer.cell.clone();
        let record = self.record(step, cell.clone(), key, layer.recipe);
        let (snapshots, options) = (self.solver.snapshots.clone(), self.solver.write.clone());
        let below = parent.clone();
        let form = self.form(step, &layer);
        let plain = WriteOptions { compression: CompressionAlgorithm::Uncompressed, ..options.clone() };
        self.background.queue(move || {
            let write = |options| {
                let layer =
                    layer::write_layer(snapshots.store(), layer.entries.clone(), &layer.content, options);
                layer.map(Finished::of).map_err(SnapshotError::from)
            };
            let written = match form {
                Form::Packed => write(&options),
                Form::Plain => write(&plain),
                Form::Files => leave(&snapshots, &below, &layer, &options),
            };
            layer.cell.finish(written);
            record();
        });
        Ok(StepState { chain: parent.push(cell), cached: false, created: self.solver.now })
    }

    /// In which form a new layer is kept.
    fn form<C>(&self, step: &Step, layer: &Unwritten<C>) -> Form {
        let exported = self.is_exported(step);
        let executes = self.solver.executor.executes();
        let opened = self.opened.get(step.id.0).copied().unwrap_or(true) && executes;
        match self.solver.result {
            _ if content_size(&layer.entries) < WORTH_LEAVING => Form::Packed,
            ResultKind::Image if exported => Form::Packed,
            ResultKind::Draft { .. } if exported && layer.cell.is_described() && !opened => Form::Plain,
            _ if !executes => Form::Packed,
            _ => Form::Files,
        }
    }

    /// Writes the record once the layer and all below it are in the store. Layers below were queued
    /// earlier, so waiting for them ends.
    fn record(
        &self,
        step: &Step,
        cell: Arc<LayerCell>,
        key: Key,
        recipe: Option<Digest>,
    ) -> impl FnOnce() + Send + 'static {
        let records = self.solver.records.clone();
        let snapshots = self.solver.snapshots.clone();
        let (name, created) = (step.name.clone(), self.solver.now);
        move || {
            // A layer that could not be written fails the build where its chain is asked for.
            let (Ok(parent_id), Ok(finished)) = (key.base.id(), cell.finished()) else { return };
            let inputs = KeyInputs { definition: key.definition, parent: parent_id, inputs: key.inputs };
            let record = Record { diff_id: finished.diff_id, inputs, step: name, created };
            // What a record leads to comes first.
            if let Some(id) = cell.snapshot()
                && snapshots.note(&parent_id.push(finished.diff_id), &id).is_err()
                && finished.blob.is_none()
            {
                return;
            }
            if key.keep {
                let _ = records.put(&record);
            }
            if let Some(recipe) = recipe {
                let _ = records.put_recipe(&recipe, &finished.diff_id);
            }
        }
    }
}

/// Whoever unpacks a layer with a file whose name begins as a whiteout's would lose another file.
pub(super) fn refuse_reserved(entries: &[Entry]) -> Result<(), StepError> {
    match entries.iter().find(|entry| entry.is_named_as_whiteout()) {
        Some(entry) => Err(StepError::Reserved(format!("/{}", String::from_utf8_lossy(&entry.path)))),
        None => Ok(()),
    }
}

/// The forms in which new layers are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Compressed.
    Packed,
    /// As a plain tar: where nothing reads the files, one large file is made faster than many small ones.
    Plain,
    /// As files.
    Files,
}

/// Bytes of content from which on a layer that no image needs is left unpacked. Less is compressed
/// faster than files are made.
const WORTH_LEAVING: u64 = 1 << 20;

/// A layer that is known by its entries.
pub(super) struct Unwritten<C> {
    pub cell: Arc<LayerCell>,
    pub entries: Vec<Entry>,
    pub content: C,
    /// What its bytes follow from.
    pub recipe: Option<Digest>,
}

/// Digests a layer whose files are in a directory; those of a copy are put there meanwhile.
fn leave<C: ContentSource>(
    snapshots: &Snapshots,
    below: &Chain,
    layer: &Unwritten<C>,
    options: &WriteOptions,
) -> Result<(Finished, Arc<LayerIndex>), SnapshotError> {
    let store = snapshots.store();
    let digest = || layer::digest_layer(store, layer.entries.clone(), &layer.content, options);
    if !layer.cell.is_described() {
        let (diff_id, index) = digest()?;
        return Ok((Finished { diff_id, blob: None }, index));
    }
    let (made, digested) = std::thread::scope(|scope| {
        let spawn = std::thread::Builder::new().name("files".into());
        let digesting = spawn.spawn_scoped(scope, digest);
        let made = snapshots.materialize(below, &layer.cell);
        let digested = digesting.map(|thread| thread.join());
        (made, digested)
    });
    match made {
        // A blob can have what this user or file system cannot.
        Err(error) if error.is_of_a_file() => {
            let entries = layer.entries.clone();
            return Ok(Finished::of(layer::write_layer(store, entries, &layer.content, options)?));
        }
        made => made?,
    };
    let (diff_id, index) = match digested {
        Ok(Ok(digested)) => digested?,
        // No thread could be had.
        _ => digest()?,
    };
    Ok((Finished { diff_id, blob: None }, index))
}
