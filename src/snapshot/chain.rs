//! Chains of layers whose digests, files and blobs may each still be in the making.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::cancel::Cancel;
use crate::digest::{ChainId, DiffId};
use crate::layer::{
    self, BlobInfo, Layer, LayerError, LayerIndex, OnDiskIds, ParentNode, ParentView, UnpackOptions,
    WriteOptions,
};
use crate::store::{SnapshotId, Store, StoreError};

use super::tree::{Node, NodeKind, Tree};

/// Why a root file system could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotError {
    /// A layer could not be written or read.
    #[error(transparent)]
    Layer(Arc<LayerError>),
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The store lacks a blob it should have.
    #[error("the store has no content for layer {0}: run the build with --no-cache, or check the store")]
    Missing(DiffId),
    /// A layer that lies elsewhere could not be fetched.
    #[error("{0}")]
    Fetch(String),
    /// The unpacked bytes are not those the image promised.
    #[error("layer content does not match the image: expected diff ID {expected}, got {actual}")]
    WrongDiffId {
        /// As the image's config says.
        expected: DiffId,
        /// As unpacked.
        actual: DiffId,
    },
}

impl SnapshotError {
    /// Whether the file system is full.
    pub fn is_no_space(&self) -> bool {
        match self {
            SnapshotError::Layer(error) => error.is_no_space(),
            SnapshotError::Store(error) => error.is_no_space(),
            _ => false,
        }
    }
}

impl SnapshotError {
    /// Whether one file could not be handled, and not for want of space.
    pub fn is_of_a_file(&self) -> bool {
        let io = matches!(self, SnapshotError::Layer(error) if matches!(**error, LayerError::Io { .. }));
        io && !self.is_no_space()
    }

    /// Whether it only says that something else stopped the work.
    pub fn is_canceled(&self) -> bool {
        matches!(self, SnapshotError::Layer(error) if matches!(**error, LayerError::Canceled))
    }
}

impl From<LayerError> for SnapshotError {
    fn from(error: LayerError) -> Self {
        SnapshotError::Layer(Arc::new(error))
    }
}

impl From<StoreError> for SnapshotError {
    fn from(error: StoreError) -> Self {
        SnapshotError::Store(Arc::new(error))
    }
}

/// A layer's identity once it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The blob in the store. A layer that nobody wanted as a blob yet has only its directory.
    pub blob: Option<BlobInfo>,
}

impl Finished {
    /// What is known of a layer that was just written.
    pub fn of(layer: Layer) -> (Self, Arc<LayerIndex>) {
        (Finished { diff_id: layer.diff_id, blob: Some(layer.blob) }, layer.index)
    }
}

/// One layer: first perhaps only a directory a `RUN` left behind, later a digest and a blob.
pub struct LayerCell {
    state: Mutex<State>,
    changed: Condvar,
    fetch: Option<Arc<dyn Fetch>>,
    make: Mutex<Making>,
    is_described: bool,
    /// Held while the blob of a layer that has only its directory is made.
    packing: Mutex<()>,
}

/// Brings a layer's blob into the store; asked when something needs it, possibly more than once.
pub trait Fetch: Send + Sync {
    /// Begins, unless it was begun before, and does not wait. What comes can be read meanwhile; see
    /// [`Store::arriving`].
    fn begin(self: Arc<Self>);

    /// Begins if need be, and waits for the end.
    fn wait(self: Arc<Self>) -> Result<(), String>;

    /// Whether it has ended, well or not.
    fn has_ended(&self) -> bool;
}

/// Puts a layer's files into an empty directory, from where they were before they became a layer.
pub type Make = Box<dyn FnOnce(&Path, OnDiskIds) -> Result<(), LayerError> + Send>;

impl std::fmt::Debug for LayerCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerCell").field("state", &self.state).finish_non_exhaustive()
    }
}

/// How far the files of a layer are that can make its own.
#[derive(Default)]
enum Making {
    /// There is nothing to make, or it was made.
    #[default]
    Done,
    Ready(Make),
    /// Everybody who needs them is told the same.
    Failed(SnapshotError),
}

#[derive(Debug, Default)]
struct State {
    snapshot: Option<SnapshotId>,
    entries: Option<Arc<LayerIndex>>,
    complete: Option<Arc<LayerIndex>>,
    finished: Option<Result<Finished, SnapshotError>>,
}

impl LayerCell {
    /// A layer whose blob is in the store; its index and files are read when asked for.
    pub fn known(diff_id: DiffId, blob: BlobInfo) -> Arc<Self> {
        let finished = Some(Ok(Finished { diff_id, blob: Some(blob) }));
        Self::of(State { finished, ..State::default() }, None, None)
    }

    /// A layer that is in the store as a directory only, and its entries.
    pub fn unpacked(diff_id: DiffId, snapshot: SnapshotId, index: Arc<LayerIndex>) -> Arc<Self> {
        let finished = Some(Ok(Finished { diff_id, blob: None }));
        let state = State { finished, snapshot: Some(snapshot), complete: Some(index), entries: None };
        Self::of(state, None, None)
    }

    /// A layer known by its descriptor, whose blob is fetched when something needs it.
    pub fn remote(diff_id: DiffId, blob: BlobInfo, fetch: Arc<dyn Fetch>) -> Arc<Self> {
        let finished = Some(Ok(Finished { diff_id, blob: Some(blob) }));
        Self::of(State { finished, ..State::default() }, Some(fetch), None)
    }

    fn of(state: State, fetch: Option<Arc<dyn Fetch>>, make: Option<Make>) -> Arc<Self> {
        let (state, changed, is_described) = (Mutex::new(state), Condvar::new(), make.is_some());
        let (make, packing) = (Mutex::new(make.map_or(Making::Done, Making::Ready)), Mutex::default());
        Arc::new(LayerCell { state, changed, fetch, make, is_described, packing })
    }

    /// Sees to it that the layer's blob is in the store.
    pub fn ensure_blob(&self, store: &Store) -> Result<(), SnapshotError> {
        let Some(fetch) = &self.fetch else { return Ok(()) };
        if self.has_blob(store)? {
            return Ok(());
        }
        fetch.clone().wait().map_err(SnapshotError::Fetch)
    }

    /// Does something with the layer's blob, while it comes where it is on its way. What fails then is
    /// tried again with the whole blob: nothing says that the failure was not the network's.
    fn with_blob<T>(
        &self,
        store: &Store,
        work: impl Fn(Box<dyn Read + Send>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let Finished { diff_id, blob } = self.finished()?;
        let digest = blob.ok_or(SnapshotError::Missing(diff_id))?.digest;
        if let Some(fetch) = self.fetch.as_ref().filter(|_| !store.has_blob(&digest)) {
            fetch.clone().begin();
            if let Some(coming) = store.arriving(&digest, || fetch.has_ended())
                && let Ok(done) = work(Box::new(coming))
            {
                return Ok(done);
            }
            self.ensure_blob(store)?;
        }
        work(Box::new(store.open_blob(&digest)?.ok_or(SnapshotError::Missing(diff_id))?))
    }

    fn has_blob(&self, store: &Store) -> Result<bool, SnapshotError> {
        Ok(self.finished()?.blob.is_some_and(|blob| store.has_blob(&blob.digest)))
    }

    /// A layer just made: its entries are known, its digest will be told by [`LayerCell::finish`].
    pub fn pending(entries: Arc<LayerIndex>, snapshot: Option<SnapshotId>) -> Arc<Self> {
        Self::of(State { snapshot, entries: Some(entries), ..State::default() }, None, None)
    }

    /// A layer just made of a list of entries. Its directory is made by `make` when something mounts
    /// it, without waiting for the blob.
    pub fn described(entries: Arc<LayerIndex>, make: Option<Make>) -> Arc<Self> {
        Self::of(State { entries: Some(entries), ..State::default() }, None, make)
    }

    /// Tells how writing the layer ended; wakes everybody who waits.
    pub fn finish(&self, result: Result<(Finished, Arc<LayerIndex>), SnapshotError>) {
        let mut state = self.lock();
        state.finished = Some(result.map(|(finished, index)| {
            state.complete = Some(index);
            finished
        }));
        self.changed.notify_all();
    }

    /// Whether it was made from a list of entries, and not by running something.
    pub fn is_described(&self) -> bool {
        self.is_described
    }

    /// Whether digest and blob are known, without waiting.
    pub fn is_finished(&self) -> bool {
        self.lock().finished.is_some()
    }

    /// Digest and blob; waits for them.
    pub fn finished(&self) -> Result<Finished, SnapshotError> {
        let mut state = self.lock();
        loop {
            if let Some(result) = &state.finished {
                return result.clone();
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The entries with at least their metadata; content digests may be missing.
    pub fn entries(&self, store: &Store) -> Result<Arc<LayerIndex>, SnapshotError> {
        let finished = {
            let state = self.lock();
            if let Some(entries) = state.complete.as_ref().or(state.entries.as_ref()) {
                return Ok(entries.clone());
            }
            state.finished.clone()
        };
        let Some(finished) = finished else { return Ok(Arc::default()) };
        let diff_id = finished?.diff_id;
        let index = match layer::load_index(store, &diff_id)? {
            Some(index) => index,
            None if self.fetch.is_some() => {
                self.with_blob(store, |blob| Ok(layer::make_index(store, &diff_id, blob)?))?
            }
            None => layer::rebuild_index(store, &diff_id)?.ok_or(SnapshotError::Missing(diff_id))?,
        };
        self.lock().complete = Some(index.clone());
        Ok(index)
    }

    /// The entries with content digests; waits for the layer to be written.
    pub fn complete_entries(&self, store: &Store) -> Result<Arc<LayerIndex>, SnapshotError> {
        self.finished()?;
        self.entries(store)
    }

    /// The directory holding its files, if it was executed or unpacked already.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.lock().snapshot.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stack of layers, lowest first.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    cells: Vec<Arc<LayerCell>>,
    tree: OnceLock<Arc<Tree>>,
    /// The view of so many of the lowest layers, where somebody needed it before.
    below: Option<(Arc<Tree>, usize)>,
}

impl Chain {
    /// No layers.
    pub fn scratch() -> Self {
        Self::default()
    }

    /// These layers.
    pub fn of(cells: Vec<Arc<LayerCell>>) -> Self {
        Chain { cells, ..Self::default() }
    }

    /// This chain with one more layer on top.
    pub fn push(&self, cell: Arc<LayerCell>) -> Self {
        let mut cells = self.cells.clone();
        cells.push(cell);
        let below = self.tree.get().map(|tree| (tree.clone(), self.cells.len()));
        Chain { cells, tree: OnceLock::new(), below: below.or_else(|| self.below.clone()) }
    }

    /// The layers.
    pub fn cells(&self) -> &[Arc<LayerCell>] {
        &self.cells
    }

    /// Sees to it that the blobs of all layers are in the store.
    pub fn ensure_blobs(&self, store: &Store) -> Result<(), SnapshotError> {
        self.cells.iter().try_for_each(|cell| cell.ensure_blob(store))
    }

    /// Whether the blobs of all layers are in the store.
    pub fn is_here(&self, store: &Store) -> bool {
        self.cells.iter().all(|cell| cell.has_blob(store).unwrap_or(false))
    }

    /// Whether its topmost layer is known and has no blob.
    pub fn is_bare(&self) -> bool {
        let bare =
            |cell: &Arc<LayerCell>| matches!(&cell.lock().finished, Some(Ok(Finished { blob: None, .. })));
        self.cells.last().is_some_and(bare)
    }

    /// The chain's identity, if every layer's digest is known already.
    pub fn known_id(&self) -> Option<Result<ChainId, SnapshotError>> {
        self.cells.iter().all(|cell| cell.is_finished()).then(|| self.id())
    }

    /// The chain's identity; waits for layers being written.
    pub fn id(&self) -> Result<ChainId, SnapshotError> {
        self.cells.iter().try_fold(ChainId::scratch(), |chain, cell| Ok(chain.push(cell.finished()?.diff_id)))
    }
}

/// Makes trees and mountable directories out of chains.
#[derive(Clone, Debug)]
pub struct Snapshots {
    store: Store,
    ids: OnDiskIds,
    unpacking: Arc<Mutex<()>>,
}

impl Snapshots {
    /// Works in `store`; `ids` says whether owners can be set on disk.
    pub fn new(store: Store, ids: OnDiskIds) -> Self {
        Snapshots { store, ids, unpacking: Arc::default() }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The owners policy on disk.
    pub fn ids(&self) -> OnDiskIds {
        self.ids
    }

    /// The merged view of a chain. Needs no files; content digests of layers still being written
    /// are missing.
    pub fn tree(&self, chain: &Chain) -> Result<Arc<Tree>, SnapshotError> {
        if let Some(tree) = chain.tree.get() {
            return Ok(tree.clone());
        }
        let (mut tree, known) = match &chain.below {
            Some((tree, layers)) => (Tree::clone(tree), *layers),
            None => (Tree::empty(), 0),
        };
        for (position, cell) in chain.cells.iter().enumerate().skip(known) {
            tree.apply(&*cell.entries(&self.store)?, position);
        }
        Ok(chain.tree.get_or_init(|| Arc::new(tree)).clone())
    }

    /// As [`Snapshots::tree`], with every content digest; waits for layers being written.
    pub fn complete_tree(&self, chain: &Chain) -> Result<Arc<Tree>, SnapshotError> {
        let mut tree = Tree::empty();
        for (position, cell) in chain.cells.iter().enumerate() {
            tree.apply(&*cell.complete_entries(&self.store)?, position);
        }
        Ok(Arc::new(tree))
    }

    /// The chain's directories for an overlay mount, topmost first; unpacks those not here yet.
    pub fn lowers(&self, chain: &Chain) -> Result<Vec<PathBuf>, SnapshotError> {
        // From the lowest: unpacking a layer asks what the layers below have, which theirs has told then.
        let dir = |position| Ok(self.store.snapshot_dir(&self.snapshot(chain, position)?));
        let mut dirs = (0..chain.cells.len()).map(dir).collect::<Result<Vec<_>, SnapshotError>>()?;
        dirs.reverse();
        Ok(dirs)
    }

    /// The directory of the layer at `position`.
    pub fn layer_dir(&self, chain: &Chain, position: usize) -> Result<PathBuf, SnapshotError> {
        Ok(self.store.snapshot_dir(&self.snapshot(chain, position)?))
    }

    /// The bytes of a file of the chain's view: from its layer's directory where there is one, else
    /// from the layer's blob.
    pub fn read_file(
        &self,
        chain: &Chain,
        node: &Node,
        path: &[u8],
        limit: u64,
    ) -> Result<Vec<u8>, SnapshotError> {
        let NodeKind::File { size, .. } = node.kind else { return Ok(Vec::new()) };
        let Some(cell) = chain.cells.get(node.layer) else { return Ok(Vec::new()) };
        let path = node.place(path);
        if let Some(id) = cell.snapshot() {
            let dir = self.store.snapshot_dir(&id);
            let mut bytes = Vec::new();
            let read =
                crate::fs::open_file_in(&dir, path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
            read.map_err(|source| LayerError::io("read", &dir, source))?;
            return Ok(bytes);
        }
        cell.ensure_blob(&self.store)?;
        let finished = cell.finished()?;
        let offset = match node.offset {
            // The index of a layer that was just written knows offsets only once it is complete.
            0 => cell
                .complete_entries(&self.store)?
                .entries
                .iter()
                .find(|e| e.path == path)
                .map_or(0, |e| e.offset),
            offset => offset,
        };
        Ok(layer::read_file(&self.store, &finished.diff_id, offset, size, limit)?)
    }

    /// Notes the directory of a layer that was made here.
    pub fn set_snapshot(&self, cell: &LayerCell, id: SnapshotId) {
        cell.lock().snapshot = Some(id);
    }

    /// The blob of the layer at `position`, made now where it was not wanted before. Where it lies
    /// elsewhere it is not fetched.
    pub fn blob(
        &self,
        chain: &Chain,
        position: usize,
        options: &WriteOptions,
        cancel: &Cancel,
    ) -> Result<BlobInfo, SnapshotError> {
        let Some(cell) = chain.cells.get(position) else {
            return Err(SnapshotError::Missing(DiffId::empty()));
        };
        let _guard = cell.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let Finished { diff_id, blob } = cell.finished()?;
        if let Some(blob) = blob {
            return Ok(blob);
        }
        let (index, dir) = (cell.entries(&self.store)?, self.layer_dir(chain, position)?);
        let blob = layer::pack_layer(&self.store, &diff_id, &index, &dir, options, cancel)?;
        cell.lock().finished = Some(Ok(Finished { diff_id, blob: Some(blob.clone()) }));
        Ok(blob)
    }

    /// The directory of a layer that was described, made now unless it was made already.
    pub fn materialize(&self, below: &Chain, cell: &LayerCell) -> Result<PathBuf, SnapshotError> {
        let Some(id) = self.make(below, cell)? else { return Err(SnapshotError::Missing(DiffId::empty())) };
        Ok(self.store.snapshot_dir(&id))
    }

    fn snapshot(&self, chain: &Chain, position: usize) -> Result<SnapshotId, SnapshotError> {
        let Some(cell) = chain.cells.get(position) else {
            return Err(SnapshotError::Missing(DiffId::empty()));
        };
        if let Some(id) = cell.snapshot() {
            return Ok(id);
        }
        let below = Chain::of(chain.cells[..position].to_vec());
        if let Some(id) = self.make(&below, cell)? {
            return Ok(id);
        }
        let finished = cell.finished()?;
        let chain_id = below.id()?.push(finished.diff_id);
        // One at a time in this process: two stages on the same base must not unpack it twice.
        let _guard = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = cell.snapshot() {
            return Ok(id);
        }
        let id = match self.store.chain_snapshot(&chain_id)? {
            Some(id) => id,
            None => {
                let id = self.unpack(&below, &finished, cell)?;
                self.store.put_chain_snapshot(&chain_id, &id)?;
                id
            }
        };
        cell.lock().snapshot = Some(id.clone());
        Ok(id)
    }

    /// The directory of a layer that can make its own, by now or already.
    fn make(&self, below: &Chain, cell: &LayerCell) -> Result<Option<SnapshotId>, SnapshotError> {
        let mut making = cell.make.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *making) {
            Making::Done => Ok(cell.snapshot()),
            Making::Failed(error) => {
                *making = Making::Failed(error.clone());
                Err(error)
            }
            Making::Ready(make) => {
                let made = self.make_now(make, below, cell);
                if let Err(error) = &made {
                    *making = Making::Failed(error.clone());
                }
                made.map(Some)
            }
        }
    }

    fn make_now(&self, make: Make, below: &Chain, cell: &LayerCell) -> Result<SnapshotId, SnapshotError> {
        let dir = self.store.temp_dir()?;
        let target = dir.path().join("fs");
        std::fs::create_dir(&target).map_err(|source| LayerError::io("create", &target, source))?;
        make(&target, self.ids)?;
        let id = self.store.freeze_snapshot(dir)?;
        cell.lock().snapshot = Some(id.clone());
        // Whoever finishes the layer later finds the directory in the cell.
        if cell.is_finished()
            && let (Some(Ok(below)), Ok(finished)) = (below.known_id(), cell.finished())
        {
            self.store.put_chain_snapshot(&below.push(finished.diff_id), &id)?;
        }
        Ok(id)
    }

    fn unpack(&self, below: &Chain, layer: &Finished, cell: &LayerCell) -> Result<SnapshotId, SnapshotError> {
        let tree = self.tree(below)?;
        let view = Below { snapshots: self, chain: below, tree: &tree };
        let options = UnpackOptions { ids: self.ids, ..UnpackOptions::default() };
        let (dir, unpacked) = cell.with_blob(&self.store, |blob| {
            let dir = self.store.temp_dir()?;
            let target = dir.path().join("fs");
            std::fs::create_dir(&target).map_err(|source| LayerError::io("create", &target, source))?;
            Ok((dir, layer::unpack(blob, &target, &view, &options)?))
        })?;
        if unpacked.diff_id != layer.diff_id {
            return Err(SnapshotError::WrongDiffId { expected: layer.diff_id, actual: unpacked.diff_id });
        }
        layer::store_index(&self.store, &layer.diff_id, &unpacked.index)?;
        cell.lock().complete = Some(Arc::new(unpacked.index));
        Ok(self.store.freeze_snapshot(dir)?)
    }
}

/// The layers below one that is unpacked, with the content of their files.
struct Below<'a> {
    snapshots: &'a Snapshots,
    chain: &'a Chain,
    tree: &'a Tree,
}

impl ParentView for Below<'_> {
    fn node(&self, path: &[u8]) -> Option<ParentNode> {
        self.tree.node(path)
    }

    fn content(&self, path: &[u8]) -> io::Result<Option<Box<dyn Read + '_>>> {
        let Some(node) = self.tree.lookup(path) else { return Ok(None) };
        let NodeKind::File { size, .. } = node.kind else { return Ok(None) };
        let Some(cell) = self.chain.cells.get(node.layer) else { return Ok(None) };
        let store = &self.snapshots.store;
        if let Some(id) = cell.snapshot() {
            let file = crate::fs::open_file_in(&store.snapshot_dir(&id), node.place(path))?;
            return Ok(Some(Box::new(file)));
        }
        let failed = |error: SnapshotError| io::Error::other(error.to_string());
        cell.ensure_blob(store).map_err(failed)?;
        let diff_id = cell.finished().map_err(failed)?.diff_id;
        let mut plain = layer::open_plain(store, &diff_id).map_err(|error| failed(error.into()))?;
        io::copy(&mut plain.by_ref().take(node.offset), &mut io::sink())?;
        Ok(Some(Box::new(plain.take(size))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Entry, EntryKind, Metadata, NoContent, write_layer};

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    fn ids() -> OnDiskIds {
        if rustix::process::geteuid().is_root() { OnDiskIds::Keep } else { OnDiskIds::AllToSelf }
    }

    fn described(made: bool) -> (Arc<LayerCell>, Vec<Entry>) {
        let meta = Metadata { mode: 0o555, ..Metadata::default() };
        let dir = Entry { path: b"d".to_vec(), kind: EntryKind::Dir, meta: meta.clone(), offset: 0 };
        let link = Entry { path: b"d/l".to_vec(), kind: EntryKind::Symlink(b"x".to_vec()), meta, offset: 0 };
        let index = Arc::new(LayerIndex { entries: vec![dir, link] });
        let entries = index.entries.clone();
        let files = index.clone();
        let make: Make = Box::new(move |dir, ids| {
            if !made {
                return Err(LayerError::Invalid("not made".into()));
            }
            layer::write_files_checked(&files.entries, &NoContent, dir, ids)
        });
        (LayerCell::described(index, Some(make)), entries)
    }

    fn written(store: &Store, entries: Vec<Entry>) -> Result<layer::Layer> {
        let compression = crate::build::CompressionAlgorithm::Gzip;
        let options = WriteOptions { compression, level: None, threads: 1, clamp_mtime: None };
        Ok(write_layer(store, entries, &NoContent, &options)?)
    }

    #[test]
    fn a_described_layer_is_mounted_before_it_is_written() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let snapshots = Snapshots::new(store.clone(), ids());
        let (cell, entries) = described(true);
        let chain = Chain::scratch().push(cell.clone());
        let place = snapshots.layer_dir(&chain, 0)?;
        assert_eq!(std::fs::read_link(place.join("d/l"))?, Path::new("x"));
        assert!(cell.snapshot().is_some() && !cell.is_finished());
        cell.finish(Ok(Finished::of(written(&store, entries)?)));
        assert_eq!(snapshots.layer_dir(&chain, 0)?, place);
        Ok(())
    }

    #[test]
    fn a_directory_made_after_the_layer_was_written_is_noted() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let snapshots = Snapshots::new(store.clone(), ids());
        let (cell, entries) = described(true);
        let chain = Chain::scratch().push(cell.clone());
        cell.finish(Ok(Finished::of(written(&store, entries)?)));
        snapshots.layer_dir(&chain, 0)?;
        assert_eq!(store.chain_snapshot(&chain.id()?)?, cell.snapshot());
        Ok(())
    }

    #[test]
    fn a_layer_that_cannot_make_its_directory_says_why() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let snapshots = Snapshots::new(Store::open(dir.path())?, ids());
        let chain = Chain::scratch().push(described(false).0);
        // Whoever comes second is told the same.
        for _ in 0..2 {
            let error = snapshots.layer_dir(&chain, 0).map(drop);
            assert!(matches!(error, Err(SnapshotError::Layer(_))), "{error:?}");
        }
        Ok(())
    }
}
