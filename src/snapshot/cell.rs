//! One layer whose digest, files and blob may each still be in the making.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::compress::Packing;
use crate::digest::DiffId;
use crate::layer::{self, BlobInfo, Layer, LayerError, LayerIndex, OnDiskIds};
use crate::store::{SnapshotId, Store};

use super::error::SnapshotError;

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
    pub(super) make: Mutex<Making>,
    is_described: bool,
    /// Held while the blob of a layer that has only its directory is made.
    pub(super) packing: Mutex<()>,
    /// How the image that it comes from wants it compressed, where that was not done yet.
    wanted: Option<Packing>,
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

    /// All of the blob was read, and its content has the layer's diff ID.
    fn is_right(&self) {}

    /// Whether the blob, once it is here, is known to have the layer's diff ID, or is believed to.
    fn is_trusted(&self) -> bool {
        true
    }

    /// Whether it comes from a registry that is known to have it, so that a push needs no copy here.
    fn is_at_a_registry(&self) -> bool {
        true
    }
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
pub(super) enum Making {
    /// There is nothing to make, or it was made.
    #[default]
    Done,
    Ready(Make),
    /// Everybody who needs them is told the same.
    Failed(SnapshotError),
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) snapshot: Option<SnapshotId>,
    pub(super) entries: Option<Arc<LayerIndex>>,
    pub(super) complete: Option<Arc<LayerIndex>>,
    pub(super) finished: Option<Result<Finished, SnapshotError>>,
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

    /// A layer of an image of the store, which is to be compressed as `wanted` says: as a blob of another
    /// form, or as files.
    pub fn stored(
        diff_id: DiffId,
        blob: Option<BlobInfo>,
        files: Option<(SnapshotId, Arc<LayerIndex>)>,
        wanted: Packing,
    ) -> Arc<Self> {
        let (snapshot, complete) = files.unzip();
        let finished = Some(Ok(Finished { diff_id, blob }));
        let state = State { finished, snapshot, complete, entries: None };
        Arc::new(LayerCell { wanted: Some(wanted), ..Self::plain(state, None, None) })
    }

    fn of(state: State, fetch: Option<Arc<dyn Fetch>>, make: Option<Make>) -> Arc<Self> {
        Arc::new(Self::plain(state, fetch, make))
    }

    fn plain(state: State, fetch: Option<Arc<dyn Fetch>>, make: Option<Make>) -> Self {
        let (state, changed, is_described) = (Mutex::new(state), Condvar::new(), make.is_some());
        let (make, packing) = (Mutex::new(make.map_or(Making::Done, Making::Ready)), Mutex::default());
        LayerCell { state, changed, fetch, make, is_described, packing, wanted: None }
    }

    /// How the image that it comes from wants it compressed, where that was not done yet.
    pub fn wanted(&self) -> Option<Packing> {
        self.wanted
    }

    /// Sees to it that the layer's blob is in the store.
    pub fn ensure_blob(&self, store: &Store) -> Result<(), SnapshotError> {
        let Some(fetch) = &self.fetch else { return Ok(()) };
        if self.has_blob(store)? && fetch.is_trusted() {
            return Ok(());
        }
        refuse_to_fetch(store)?;
        fetch.clone().wait().map_err(SnapshotError::Fetch)
    }

    /// The same for a push, which takes from a registry what lies there.
    pub fn ensure_blob_for_push(&self, store: &Store) -> Result<(), SnapshotError> {
        if self.fetch.as_ref().is_none_or(|fetch| fetch.is_at_a_registry()) {
            return Ok(());
        }
        self.ensure_blob(store)
    }

    /// Brings a layer that nobody has seen yet, to find out whether it is what it should be.
    pub fn ensure_proved(&self, store: &Store) -> Result<(), SnapshotError> {
        if self.fetch.as_ref().is_none_or(|fetch| fetch.is_trusted()) {
            return Ok(());
        }
        self.ensure_blob(store)
    }

    /// Does something with the layer's blob, which must find out whether it has the diff ID, while it comes where it is on its way. What fails then is
    /// tried again with the whole blob: nothing says that the failure was not the network's.
    pub(super) fn with_blob<T>(
        &self,
        store: &Store,
        work: impl Fn(Box<dyn Read + Send>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let Finished { diff_id, blob } = self.finished()?;
        let digest = blob.ok_or(SnapshotError::Missing(diff_id))?.digest;
        let is_needed = |fetch: &&Arc<dyn Fetch>| !store.has_blob(&digest) || !fetch.is_trusted();
        if let Some(fetch) = self.fetch.as_ref().filter(is_needed) {
            refuse_to_fetch(store)?;
            fetch.clone().begin();
            if let Some(coming) = store.arriving(&digest, || fetch.has_ended())
                && let Ok(done) = work(Box::new(coming))
            {
                fetch.is_right();
                return Ok(done);
            }
            self.ensure_blob(store)?;
        }
        work(Box::new(store.open_blob(&digest)?.ok_or(SnapshotError::Missing(diff_id))?))
    }

    /// The blob that would have to be fetched if something needed it, and whether it would come from a registry.
    pub fn lacking(&self, store: &Store) -> Option<(BlobInfo, bool)> {
        let fetch = self.fetch.as_ref()?;
        let state = self.lock();
        let Some(Ok(Finished { blob: Some(blob), .. })) = &state.finished else { return None };
        (!store.has_blob(&blob.digest)).then(|| (blob.clone(), fetch.is_at_a_registry()))
    }

    /// Whether its content is in the store, as a blob or as files.
    pub(super) fn is_here(&self, store: &Store) -> bool {
        self.finished().is_ok_and(|finished| match finished.blob {
            Some(blob) => store.has_blob(&blob.digest),
            None => self.snapshot().is_some(),
        })
    }

    pub(super) fn has_blob(&self, store: &Store) -> Result<bool, SnapshotError> {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What would be read is somewhere else, and whoever only looks brings nothing here.
fn refuse_to_fetch(store: &Store) -> Result<(), SnapshotError> {
    if store.refuses_to_fetch() { Err(SnapshotError::NotFetched) } else { Ok(()) }
}
