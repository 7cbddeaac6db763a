//! One step: its key, its record, or its execution.

use std::sync::Arc;

use crate::cache::{Input, KeyInputs, Record};
use crate::context::ignore::PatternSet;
use crate::context::{ContextError, FileInfo, FileSource, StatCache, file_digests};
use crate::digest::{ChainId, DiffId, Digest, Hasher};
use crate::event::{Event, VertexId};
use crate::layer::{
    self, ContentSource, Entry, FrozenContent, LayerIndex, NoContent, WriteOptions, content_size,
};
use crate::plan::{CopyOrigin, CopyStep, RunMountKind, RunStep, Step, StepKind, WorkdirStep};
use crate::remote::RemoteError;
use crate::snapshot::{Chain, Finished, LayerCell, Make, SnapshotError, Snapshots};
use crate::steps::accounts;
use crate::steps::add::AddError;
use crate::steps::copy::{self, CopyError, Inline, Selected};
use crate::steps::identity::{Accounts, IdentityError};
use crate::steps::mount::{MountInput, plain_destination};
use crate::steps::place::Destination;
use crate::steps::remote::{Found, RemoteFilesError};
use crate::steps::run::{Report, RunError};
use crate::steps::tree_source::TreeSource;
use crate::steps::workdir::{self, WorkdirError};
use crate::store::StoreError;

use super::{Run, StepState};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// `RUN`.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `COPY`, `ADD`.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A remote source of `ADD`.
    #[error(transparent)]
    Remote(RemoteError),
    /// An archive of `ADD`.
    #[error(transparent)]
    Add(#[from] AddError),
    /// `WORKDIR`.
    #[error(transparent)]
    Workdir(#[from] WorkdirError),
    /// An unknown user or group.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A base image.
    #[error("{0}")]
    Base(String),
    /// The system allows no more threads.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Stopped.
    #[error("canceled")]
    Canceled,
}

impl StepError {
    /// Whether it only says that something else stopped the step.
    pub fn is_canceled(&self) -> bool {
        matches!(self, StepError::Canceled | StepError::Run(RunError::Canceled))
    }

    /// Whether the file system is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            StepError::Snapshot(error) | StepError::Run(RunError::Snapshot(error)) => error.is_no_space(),
            _ => false,
        }
    }
}

impl From<RemoteError> for StepError {
    fn from(error: RemoteError) -> Self {
        if error.is_cancelled() { StepError::Canceled } else { StepError::Remote(error) }
    }
}

impl From<RemoteFilesError> for StepError {
    fn from(error: RemoteFilesError) -> Self {
        match error {
            RemoteFilesError::Remote(error) => error.into(),
            RemoteFilesError::Copy(error) => error.into(),
        }
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        StepError::Snapshot(error.into())
    }
}

impl From<layer::LayerError> for StepError {
    fn from(error: layer::LayerError) -> Self {
        StepError::Snapshot(error.into())
    }
}

/// What `--exclude` takes out.
fn excluded(copy: &CopyStep) -> Result<Option<PatternSet>, StepError> {
    // The reference compares with relative paths: a pattern with a leading slash matches nothing.
    let patterns = copy.exclude.iter().filter(|pattern| !pattern.trim_start_matches('!').starts_with('/'));
    let excluded = PatternSet::new(patterns).map_err(CopyError::from)?;
    Ok((!excluded.is_empty()).then_some(excluded))
}

/// What each source word of a copy selects.
fn select(copy: &CopyStep, source: &Arc<dyn FileSource>) -> Result<Vec<Selected>, StepError> {
    let origin = copy.origin.to_string();
    let excluded = excluded(copy)?;
    let excluded = excluded.as_ref();
    let select = |pattern: &String| {
        Ok(match copy.parents {
            true => copy::select_parents(pattern, &origin, source.clone(), excluded)?,
            false => copy::select(pattern, &origin, source.clone(), excluded)?,
        })
    };
    copy.sources.iter().map(select).collect()
}

type ReadDigests<'r> = &'r dyn Fn(&[FileInfo]) -> Result<Vec<Option<Digest>>, ContextError>;
type DigestFiles<'s> = Box<dyn Fn(&[FileInfo]) -> Result<Vec<Option<Digest>>, ContextError> + 's>;

/// Whether files that a step saw in place are no longer those its key speaks of.
fn changed(mount: &MountInput) -> bool {
    let MountInput::Files { selected, .. } = mount else { return false };
    let Some(selection) = selected.selections.first() else { return false };
    let now = match selection.is_dir {
        true => selected.source.list(&selected.place, None).ok(),
        false => selected.source.stat(&selected.place).ok().flatten().map(|file| vec![file]),
    };
    now.as_ref() != Some(&selection.files)
}

/// A step's key, where the layers below it are known already.
struct Key {
    definition: serde_json::Value,
    inputs: Vec<Input>,
    parent: Option<ChainId>,
    /// The layers it depends on.
    base: Chain,
    /// Whether the result is recorded under it.
    keep: bool,
}

impl Run<'_> {
    pub(super) fn do_step(&self, step: &Step, vertex: VertexId) -> Result<StepState, StepError> {
        let parent = self.parent(step);
        match &step.kind {
            StepKind::From(_) => {
                let chain = (self.solver.bases)(step)?;
                Ok(StepState { chain, cached: false, created: self.solver.now })
            }
            StepKind::Run(run) => self.run(step, run, &parent, vertex),
            StepKind::Copy(copy) => self.copy(step, copy, &parent, vertex),
            StepKind::Workdir(workdir) => self.workdir(step, workdir, &parent),
        }
    }

    fn run(
        &self,
        step: &Step,
        run: &RunStep,
        parent: &Chain,
        vertex: VertexId,
    ) -> Result<StepState, StepError> {
        let (mounts, inputs) = self.mount_inputs(run)?;
        let mut key = self.key(step, parent, inputs)?;
        if let Some(state) = self.look_up(step, parent, &key)? {
            return Ok(state);
        }
        let cancel = self.solver.cancel.clone();
        let report = Report::new(self.solver.events.clone(), vertex, cancel);
        let ran = self.solver.executor.run(run, &mounts, parent, &self.solver.run, &report)?;
        if mounts.iter().any(changed) {
            key.keep = false;
            self.solver.events.warn(format!(
                "files of the build context changed while {} was using them; its result is not kept in the cache",
                step.name
            ));
        }
        let entries = Arc::new(ran.entries);
        let cell = LayerCell::pending(entries.clone(), Some(ran.snapshot));
        let layer = Unwritten { cell, entries: entries.entries.clone(), content: ran.content, recipe: None };
        self.write(step, parent, layer, key)
    }

    /// What the mounts of a RUN show, and the digests of it. What a cache mount begins with counts
    /// for its identity, not for the step's.
    fn mount_inputs(&self, run: &RunStep) -> Result<(Vec<MountInput>, Vec<Input>), StepError> {
        let (mut mounts, mut inputs) = (Vec::new(), Vec::new());
        for mount in &run.mounts {
            if let RunMountKind::Secret { id, .. } = &mount.kind
                && let Some(digest) = self.solver.deciding_secrets.get(id)
            {
                inputs.push(Input { name: format!("secret {id}"), digest: *digest });
            }
            let Some((origin, source)) = mount.origin() else {
                mounts.push(MountInput::Nothing);
                continue;
            };
            let (files, read) = self.files_of(origin)?;
            let mut selected = copy::select_path(source, &origin.to_string(), files, None)?;
            let keep_owner = matches!(origin, CopyOrigin::Step(..));
            let digest = self.input_digest(origin, &mut selected, &plain_destination(keep_owner), &*read)?;
            if matches!(mount.kind, RunMountKind::Bind { .. }) {
                let target = mount.target.as_deref().unwrap_or_default();
                inputs.push(Input { name: format!("mount {target}: {origin}: {source}"), digest });
            }
            mounts.push(match origin {
                CopyOrigin::Context(_) => MountInput::Files { selected, digest },
                CopyOrigin::Step(id, _) => {
                    let Some(state) = self.wait(*id) else { return Err(StepError::Canceled) };
                    let place = selected.source.stat(&selected.place).map_err(CopyError::from)?;
                    let Some(place) = place else { return Err(StepError::Canceled) };
                    MountInput::Layers { chain: state.chain, place, digest }
                }
            });
        }
        Ok((mounts, inputs))
    }

    fn workdir(&self, step: &Step, workdir: &WorkdirStep, parent: &Chain) -> Result<StepState, StepError> {
        let key = self.key(step, parent, Vec::new())?;
        if let Some(state) = self.look_up(step, parent, &key)? {
            return Ok(state);
        }
        let snapshots = &self.solver.snapshots;
        let tree = snapshots.tree(parent)?;
        let owner = match workdir.user.as_str() {
            "" => None,
            "root" | "0" => Some((0, 0)),
            // Where nothing is built yet there is nothing to look a name up in.
            user if parent.cells().is_empty() => Some(Accounts::default().owner(user)?),
            user => Some(accounts(snapshots, parent, &tree)?.workdir_owner(user)),
        };
        let index = workdir::entries(&tree, workdir.path.as_bytes(), owner, self.solver.now)?;
        self.write_entries(step, parent, index.entries, NoContent, key)
    }

    /// With `--link` the files are placed on nothing: the layer, its key and its record are the same
    /// whatever lies below.
    fn copy(
        &self,
        step: &Step,
        copy: &CopyStep,
        parent: &Chain,
        vertex: VertexId,
    ) -> Result<StepState, StepError> {
        let snapshots = &self.solver.snapshots;
        let nothing = Chain::scratch();
        let base = if copy.link { &nothing } else { parent };
        let owner = match &copy.chown {
            None => None,
            Some(chown) => {
                let tree = snapshots.tree(base)?;
                Some(accounts(snapshots, base, &tree)?.owner(chown)?)
            }
        };
        let dest = Destination {
            path: copy.dest.clone().into_bytes(),
            directory: copy.dest_is_dir,
            owner,
            keep_owner: !matches!(copy.origin, CopyOrigin::Context(_)),
            chmod: copy.chmod.clone(),
            made_up_time: self.solver.now,
        };
        let (source, read) = self.files_of(&copy.origin)?;
        let mut selected = select(copy, &source)?;
        let mut inputs = Vec::new();
        for source in &mut selected {
            let digest = self.input_digest(&copy.origin, source, &dest, &*read)?;
            inputs.push(Input { name: format!("{}: {}", copy.origin, source.pattern), digest });
        }
        let remote = self.find_remote(copy, vertex)?;
        inputs.extend(
            remote.iter().map(|found| Input { name: found.url().to_owned(), digest: found.digest() }),
        );
        let inline = inline_files(copy);
        for file in &inline {
            let name = format!("heredoc: {}", String::from_utf8_lossy(&file.name));
            let mut hasher = Hasher::new();
            hasher.field(&file.name);
            hasher.field(&file.content);
            inputs.push(Input { name, digest: hasher.finish() });
        }
        let key = self.key(step, base, inputs)?;
        if let Some(state) = self.look_up(step, parent, &key)? {
            return Ok(state);
        }
        let main = matches!(&copy.origin, CopyOrigin::Context(name) if name.is_empty());
        for source in &mut selected {
            source.read(&*read).map_err(CopyError::from)?;
            source.settled = self.solver.stat_cache.clone().filter(|_| main);
        }
        if self.solver.same_times && matches!(copy.origin, CopyOrigin::Context(_)) {
            let files = selected.iter_mut().flat_map(|one| &mut one.selections).flat_map(|s| &mut s.files);
            files.for_each(|file| file.mtime = (self.solver.now, 0));
            let selections = selected.iter_mut().flat_map(|one| &mut one.selections);
            selections.for_each(|selection| selection.dir_mtime = None);
        }
        let scratch = Arc::new(snapshots.store().temp_dir()?);
        let mut archives = Vec::new();
        if copy.extract {
            for source in &mut selected {
                archives.extend(crate::steps::add::unpack_archives(source, scratch.path())?);
            }
        }
        let excluded = excluded(copy)?;
        for (number, found) in remote.iter().enumerate() {
            let dir = scratch.path().join(format!("remote{number}"));
            std::fs::create_dir(&dir).map_err(|source| layer::LayerError::io("create", &dir, source))?;
            let mut files =
                found.files(&self.solver.remotes, &dir, excluded.as_ref(), &self.solver.cancel)?;
            if copy.extract_remote {
                archives.extend(crate::steps::add::unpack_archives(&mut files, scratch.path())?);
            }
            selected.push(files);
        }
        let tree = snapshots.tree(base)?;
        let layer = copy::layer(&tree, &dest, &selected, &inline, &archives)?;
        self.write_entries(step, parent, layer.entries, layer.content.holding(scratch), key)
    }

    /// Looks the remote sources of an ADD up, showing the progress of downloads.
    fn find_remote(&self, copy: &CopyStep, vertex: VertexId) -> Result<Vec<Found>, StepError> {
        let mut all = Vec::new();
        for wanted in &copy.remote {
            let item = crate::remote::without_credentials(&wanted.url);
            let progress = |current, total| {
                self.solver.events.send(Event::Progress { vertex, item: item.clone(), current, total });
            };
            all.push(self.solver.remotes.find(wanted, &progress, &self.solver.cancel)?);
        }
        Ok(all)
    }

    /// The digest of what was selected. Where the very same files were digested before, told by their
    /// `stat` alone, nothing is read or looked up file by file.
    fn input_digest(
        &self,
        origin: &CopyOrigin,
        selected: &mut Selected,
        dest: &Destination,
        read: ReadDigests<'_>,
    ) -> Result<Digest, StepError> {
        let cache = match (origin, &self.solver.stat_cache) {
            (CopyOrigin::Context(name), Some(cache)) if name.is_empty() => Some(cache),
            _ => None,
        };
        let memo = cache.map(|_| selected.stat_digest(dest));
        if let Some(digest) = memo.map(|memo| self.solver.records.memo(&memo)).transpose()?.flatten() {
            return Ok(digest);
        }
        selected.read(read).map_err(CopyError::from)?;
        let (digest, listing) = selected.digest(dest);
        let records = self.solver.records.clone();
        // Only explanations read it.
        self.background.queue(move || drop(records.put_pre_image(&digest, &listing)));
        let mut files = selected.selections.iter().flat_map(|selection| &selection.files);
        if let (Some(memo), Some(cache)) = (memo, cache)
            && files.all(|file| cache.is_settled(file))
        {
            self.solver.records.put_memo(&memo, &digest)?;
        }
        Ok(digest)
    }

    /// Files of a context or step, and how their content digests are had.
    fn files_of(&self, origin: &CopyOrigin) -> Result<(Arc<dyn FileSource>, DigestFiles<'_>), StepError> {
        match origin {
            CopyOrigin::Context(name) => {
                let source = self.solver.contexts.get(name).cloned();
                let source =
                    source.ok_or_else(|| StepError::Base(format!("no build context named {name:?}")))?;
                let cache = self.solver.stat_cache.as_deref().filter(|_| name.is_empty());
                let files = source.clone();
                let digest = move |infos: &[FileInfo]| {
                    file_digests(&*files, infos, cache.map(|cache| cache as &dyn StatCache))
                };
                Ok((source, Box::new(digest)))
            }
            CopyOrigin::Step(id, _) => {
                let Some(state) = self.wait(*id) else { return Err(StepError::Canceled) };
                let tree = self.solver.snapshots.tree(&state.chain)?;
                let source = Arc::new(TreeSource::new(self.solver.snapshots.clone(), state.chain, tree));
                let files = source.clone();
                Ok((source, Box::new(move |infos: &[FileInfo]| files.digests(infos))))
            }
        }
    }

    /// The key's parts. The parent's identity is part of it only if it is known without waiting:
    /// a step on a layer that was just made cannot have a record in all but contrived cases, and
    /// waiting would keep it from running while that layer is compressed.
    fn key(&self, step: &Step, base: &Chain, inputs: Vec<Input>) -> Result<Key, StepError> {
        let parent = base.known_id().transpose()?;
        let definition = match self.solver.write.clamp_mtime {
            None => step.definition(),
            Some(latest) if self.solver.same_times => {
                serde_json::json!({"step": step.definition(), "times": latest})
            }
            Some(latest) => serde_json::json!({"step": step.definition(), "clamp": latest}),
        };
        Ok(Key { definition, inputs, parent, base: base.clone(), keep: true })
    }

    fn look_up(&self, step: &Step, parent: &Chain, key: &Key) -> Result<Option<StepState>, StepError> {
        let Some(parent_id) = key.parent else { return Ok(None) };
        if (self.solver.no_cache)(step) {
            return Ok(None);
        }
        let inputs =
            KeyInputs { definition: key.definition.clone(), parent: parent_id, inputs: key.inputs.clone() };
        let Some(record) = self.solver.records.get(&inputs.key())? else { return Ok(None) };
        let Some(cell) = self.known_layer(&record.diff_id, Some(parent_id))? else { return Ok(None) };
        let chain = self.found(step, parent, cell);
        Ok(Some(StepState { chain, cached: true, created: record.created }))
    }

    /// The chain with a layer that the store has on top. Where an image needs it, it is packed.
    fn found(&self, step: &Step, parent: &Chain, cell: Arc<LayerCell>) -> Chain {
        let chain = parent.push(cell);
        if self.is_exported(step) && chain.is_bare() {
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
        let store = self.solver.snapshots.store();
        let Some(layer) = layer::load_layer(store, diff_id)? else { return Ok(None) };
        let wanted = self.solver.write.compression;
        let mut blobs: Vec<_> = layer.blobs.iter().collect();
        // Whoever makes the image compresses it as it was asked to.
        blobs.sort_by_key(|blob| blob.compression != wanted);
        if let Some(blob) = blobs.into_iter().find(|blob| store.has_blob(&blob.digest)) {
            return Ok(Some(LayerCell::known(*diff_id, blob.clone())));
        }
        let Some(parent) = parent.filter(|_| layer.blobs.is_empty()) else { return Ok(None) };
        let Some(snapshot) = store.chain_snapshot(&parent.push(*diff_id))? else { return Ok(None) };
        // Without its list of files a directory says too little.
        let index = layer::load_index(store, diff_id)?;
        Ok(index.map(|index| LayerCell::unpacked(*diff_id, snapshot, index)))
    }

    /// Whether the step's layer becomes part of an image.
    fn is_exported(&self, step: &Step) -> bool {
        self.exported.get(step.id.0).copied().unwrap_or(true)
    }

    /// Writes a layer made of a list of entries, or takes the one with the very same bytes.
    fn write_entries(
        &self,
        step: &Step,
        parent: &Chain,
        mut entries: Vec<Entry>,
        content: impl ContentSource + Send + 'static,
        key: Key,
    ) -> Result<StepState, StepError> {
        // The recipe has to say what the layer will say.
        if let Some(latest) = self.solver.write.clamp_mtime {
            entries.iter_mut().for_each(|entry| entry.meta.mtime = entry.meta.mtime.min(latest));
        }
        let recipe = copy::recipe(&entries);
        if let Some(recipe) = recipe.filter(|_| !(self.solver.no_cache)(step))
            && let Some(diff) = self.solver.records.memo(&recipe)?
            && let Some(cell) = self.known_layer(&DiffId(diff), key.parent)?
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
    fn write(
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
        let packed = self.is_exported(step) || content_size(&layer.entries) < WORTH_LEAVING;
        self.background.queue(move || {
            let written = match packed {
                true => layer::write_layer(snapshots.store(), layer.entries, &layer.content, &options)
                    .map(Finished::of)
                    .map_err(SnapshotError::from),
                false => leave(&snapshots, &below, &layer, &options),
            };
            layer.cell.finish(written);
            record();
        });
        Ok(StepState { chain: parent.push(cell), cached: false, created: self.solver.now })
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
        let store = self.solver.snapshots.store().clone();
        let (name, created) = (step.name.clone(), self.solver.now);
        move || {
            // A layer that could not be written fails the build where its chain is asked for.
            let (Ok(parent_id), Ok(finished)) = (key.base.id(), cell.finished()) else { return };
            let inputs = KeyInputs { definition: key.definition, parent: parent_id, inputs: key.inputs };
            let record = Record { diff_id: finished.diff_id, inputs, step: name, created };
            // What a record leads to comes first.
            if let Some(id) = cell.snapshot()
                && store.put_chain_snapshot(&parent_id.push(finished.diff_id), &id).is_err()
                && finished.blob.is_none()
            {
                return;
            }
            if key.keep {
                let _ = records.put(&record);
            }
            if let Some(recipe) = recipe {
                let _ = records.put_memo(&recipe, &finished.diff_id.0);
            }
        }
    }
}

/// Bytes of content from which on a layer that no image needs is left unpacked. Less is compressed
/// faster than files are made.
const WORTH_LEAVING: u64 = 1 << 20;

/// A layer that is known by its entries.
struct Unwritten<C> {
    cell: Arc<LayerCell>,
    entries: Vec<Entry>,
    content: C,
    /// What its bytes follow from.
    recipe: Option<Digest>,
}

/// Digests a layer whose files are in a directory, where those of a copy are put first.
fn leave<C: ContentSource>(
    snapshots: &Snapshots,
    below: &Chain,
    layer: &Unwritten<C>,
    options: &WriteOptions,
) -> Result<(Finished, Arc<LayerIndex>), SnapshotError> {
    let (store, entries) = (snapshots.store(), layer.entries.clone());
    let (diff_id, index) = match layer.cell.is_described() {
        false => layer::digest_layer(store, entries, &layer.content, options)?,
        true => {
            let dir = match snapshots.materialize(below, &layer.cell) {
                Err(error) if error.is_of_a_file() => {
                    // A blob can have what this user or file system cannot: owners that are not mapped.
                    return Ok(Finished::of(layer::write_layer(store, entries, &layer.content, options)?));
                }
                made => made?,
            };
            layer::digest_layer(store, entries, &FrozenContent::open(&dir)?, options)?
        }
    };
    Ok((Finished { diff_id, blob: None }, index))
}

fn inline_files(copy: &CopyStep) -> Vec<Inline> {
    let inline = |file: &crate::plan::InlineFile| Inline {
        name: file.name.clone().into_bytes(),
        content: file.content.clone().into_bytes().into(),
    };
    copy.inline.iter().map(inline).collect()
}
