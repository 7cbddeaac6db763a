//! What a chain looks like, and its layers' directories and blobs, made when something asks for them.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::{ChainId, DiffId};
use crate::layer::{self, LayerError, OnDiskIds, ParentNode, ParentView, UnpackOptions};
use crate::store::{SnapshotId, Store};

use super::cell::{Finished, LayerCell, Make, Making};
use super::chain::Chain;
use super::error::SnapshotError;
use super::tree::{Node, NodeKind, Tree};

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

    /// The snapshot of a chain, if it has one with owners as this policy keeps them.
    pub fn known(&self, chain: &ChainId) -> Result<Option<SnapshotId>, SnapshotError> {
        Ok(self.store.chain_snapshot(chain, &self.ids.kind())?)
    }

    /// Notes the snapshot of a chain.
    pub fn note(&self, chain: &ChainId, id: &SnapshotId) -> Result<(), SnapshotError> {
        Ok(self.store.put_chain_snapshot(chain, &self.ids.kind(), id)?)
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
        for (position, cell) in chain.cells().iter().enumerate().skip(known) {
            tree.apply(&*cell.entries(&self.store)?, position);
        }
        Ok(chain.tree.get_or_init(|| Arc::new(tree)).clone())
    }

    /// As [`Snapshots::tree`], with every content digest; waits for layers being written.
    pub fn complete_tree(&self, chain: &Chain) -> Result<Arc<Tree>, SnapshotError> {
        let mut tree = Tree::empty();
        for (position, cell) in chain.cells().iter().enumerate() {
            tree.apply(&*cell.complete_entries(&self.store)?, position);
        }
        Ok(Arc::new(tree))
    }

    /// The chain's directories for an overlay mount, topmost first; unpacks those not here yet.
    pub fn lowers(&self, chain: &Chain) -> Result<Vec<PathBuf>, SnapshotError> {
        // From the lowest: unpacking a layer asks what the layers below have, which theirs has told then.
        let dir = |position| Ok(self.store.snapshot_dir(&self.snapshot(chain, position)?));
        let mut dirs = (0..chain.cells().len()).map(dir).collect::<Result<Vec<_>, SnapshotError>>()?;
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
        let Some(cell) = chain.cells().get(node.layer) else { return Ok(Vec::new()) };
        let path = node.place(path);
        if let Some(dir) = self.dir_or_blob(cell)? {
            let mut bytes = Vec::new();
            let read =
                crate::fs::open_file_in(&dir, path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
            read.map_err(|source| LayerError::io("read", &dir, source))?;
            return Ok(bytes);
        }
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

    /// Where a layer's files can be read: its directory, or else its blob, which is here then. Waits for
    /// layers being written.
    fn dir_or_blob(&self, cell: &LayerCell) -> Result<Option<PathBuf>, SnapshotError> {
        let mut id = cell.snapshot();
        if id.is_none() {
            cell.ensure_blob(&self.store)?;
            let is_bare = cell.finished()?.blob.is_none();
            id = cell.snapshot().filter(|_| is_bare);
        }
        Ok(id.map(|id| self.store.snapshot_dir(&id)))
    }

    /// Notes the directory of a layer that was made here.
    pub fn set_snapshot(&self, cell: &LayerCell, id: SnapshotId) {
        cell.lock().snapshot = Some(id);
    }

    /// The directory of a layer that was described, made now unless it was made already.
    pub fn materialize(&self, below: &Chain, cell: &LayerCell) -> Result<PathBuf, SnapshotError> {
        let Some(id) = self.make(below, cell)? else { return Err(SnapshotError::Missing(DiffId::empty())) };
        Ok(self.store.snapshot_dir(&id))
    }

    fn snapshot(&self, chain: &Chain, position: usize) -> Result<SnapshotId, SnapshotError> {
        let Some(cell) = chain.cells().get(position) else {
            return Err(SnapshotError::Missing(DiffId::empty()));
        };
        if let Some(id) = cell.snapshot() {
            return Ok(id);
        }
        let below = Chain::of(chain.cells()[..position].to_vec());
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
        let id = match self.known(&chain_id)? {
            Some(id) => id,
            None => {
                let id = self.unpack(&below, &finished, cell)?;
                self.note(&chain_id, &id)?;
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
            self.note(&below.push(finished.diff_id), &id)?;
        }
        Ok(id)
    }

    /// The files of a chain, for a layer on top of it.
    pub fn below<'a>(&'a self, chain: &'a Chain, tree: &'a Tree) -> Below<'a> {
        Below { snapshots: self, chain, tree }
    }

    fn unpack(&self, below: &Chain, layer: &Finished, cell: &LayerCell) -> Result<SnapshotId, SnapshotError> {
        let tree = self.tree(below)?;
        let view = self.below(below, &tree);
        let cancel = self.store.canceled_by();
        let options = UnpackOptions { ids: self.ids, cancel, ..UnpackOptions::default() };
        let (dir, unpacked) = cell.with_blob(&self.store, |blob| {
            let dir = self.store.temp_dir()?;
            let target = dir.path().join("fs");
            std::fs::create_dir(&target).map_err(|source| LayerError::io("create", &target, source))?;
            let unpacked = layer::unpack(blob, &target, &view, &options)?;
            if unpacked.diff_id != layer.diff_id {
                let (expected, actual) = (layer.diff_id, unpacked.diff_id);
                return Err(SnapshotError::WrongDiffId { expected, actual });
            }
            Ok((dir, unpacked))
        })?;
        layer::store_index(&self.store, &layer.diff_id, &unpacked.index)?;
        cell.lock().complete = Some(Arc::new(unpacked.index));
        Ok(self.store.freeze_snapshot(dir)?)
    }
}

/// The layers below another one, with the content of their files.
pub struct Below<'a> {
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
        let Some(cell) = self.chain.cells().get(node.layer) else { return Ok(None) };
        let failed = |error: SnapshotError| io::Error::other(error.to_string());
        if let Some(dir) = self.snapshots.dir_or_blob(cell).map_err(failed)? {
            let file = crate::fs::open_file_in(&dir, node.place(path))?;
            return Ok(Some(Box::new(file)));
        }
        let store = &self.snapshots.store;
        let diff_id = cell.finished().map_err(failed)?.diff_id;
        let mut plain = layer::open_plain(store, &diff_id).map_err(|error| failed(error.into()))?;
        io::copy(&mut plain.by_ref().take(node.offset), &mut io::sink())?;
        Ok(Some(Box::new(plain.take(size))))
    }

    fn modified(&self, path: &[u8]) -> Option<i128> {
        let node = self.tree.lookup(path)?;
        let dir = self.snapshots.dir_or_blob(self.chain.cells().get(node.layer)?).ok()??;
        let file = crate::fs::Root::open(&dir).ok()?.stat(node.place(path)).ok()??;
        Some(layer::modified(&file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Entry, EntryKind, LayerIndex, Metadata, NoContent, WriteOptions, write_layer};

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
        let compression = crate::compress::CompressionAlgorithm::Gzip;
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
        assert_eq!(std::fs::read_link(place.join("d/l"))?, std::path::Path::new("x"));
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
        assert_eq!(snapshots.known(&chain.id()?)?, cell.snapshot());
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
