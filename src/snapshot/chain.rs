//! Chains of layers.

use std::sync::{Arc, OnceLock};

use crate::digest::ChainId;
use crate::store::Store;

use super::cell::{Finished, LayerCell};
use super::error::SnapshotError;
use super::tree::Tree;

/// A stack of layers, lowest first.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    cells: Vec<Arc<LayerCell>>,
    pub(super) tree: OnceLock<Arc<Tree>>,
    /// The view of so many of the lowest layers, where somebody needed it before.
    pub(super) below: Option<(Arc<Tree>, usize)>,
    id: OnceLock<ChainId>,
    /// The identity of so many of the lowest layers: that of a chain of hundreds is not made anew for each step.
    id_below: Option<(ChainId, usize)>,
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
        let count = self.cells.len();
        let below = self.tree.get().map(|tree| (tree.clone(), count)).or_else(|| self.below.clone());
        let id_below = self.id.get().map(|id| (*id, count)).or(self.id_below);
        Chain { cells, below, id_below, ..Self::default() }
    }

    /// The layers.
    pub fn cells(&self) -> &[Arc<LayerCell>] {
        &self.cells
    }

    /// Sees to it that the blobs of all layers are in the store.
    pub fn ensure_blobs(&self, store: &Store) -> Result<(), SnapshotError> {
        self.cells.iter().try_for_each(|cell| cell.ensure_blob(store))
    }

    /// Whether the content of all layers is in the store.
    pub fn is_here(&self, store: &Store) -> bool {
        self.cells.iter().all(|cell| cell.is_here(store))
    }

    /// Whether its topmost layer is known and has no blob.
    pub fn is_bare(&self) -> bool {
        let bare =
            |cell: &Arc<LayerCell>| matches!(&cell.lock().finished, Some(Ok(Finished { blob: None, .. })));
        self.cells.last().is_some_and(bare)
    }

    /// The chain's identity, if every layer's digest is known already.
    pub fn known_id(&self) -> Option<Result<ChainId, SnapshotError>> {
        let (_, unknown) = self.start();
        unknown.iter().all(|cell| cell.is_finished()).then(|| self.id())
    }

    /// The chain's identity; waits for layers being written.
    pub fn id(&self) -> Result<ChainId, SnapshotError> {
        let (start, unknown) = self.start();
        let id = unknown
            .iter()
            .try_fold(start, |chain, cell| cell.finished().map(|finished| chain.push(finished.diff_id)))?;
        Ok(*self.id.get_or_init(|| id))
    }

    /// The identity of the lowest layers, as far as it is known, and the layers above them.
    fn start(&self) -> (ChainId, &[Arc<LayerCell>]) {
        match (self.id.get(), self.id_below) {
            (Some(id), _) => (*id, &[]),
            (None, Some((id, count))) => (id, self.cells.get(count..).unwrap_or_default()),
            (None, None) => (ChainId::scratch(), &self.cells),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::CompressionAlgorithm;
    use crate::digest::{DiffId, Digest};
    use crate::layer::BlobInfo;

    #[test]
    fn the_identity_is_the_same_however_much_of_it_was_known_before() {
        let diffs: Vec<DiffId> = (0..6).map(|n| DiffId(Digest::of(&[n]))).collect();
        let cell = |diff: &DiffId| {
            let compression = CompressionAlgorithm::Gzip;
            LayerCell::known(*diff, BlobInfo { digest: diff.0, size: 1, compression })
        };
        for asked in 0..=diffs.len() {
            let mut chain = Chain::scratch();
            for (at, diff) in diffs.iter().enumerate() {
                if at == asked {
                    assert_eq!(chain.id().ok(), Some(ChainId::of(&diffs[..at])));
                }
                chain = chain.clone().push(cell(diff));
            }
            assert_eq!(chain.id().ok(), Some(ChainId::of(&diffs)), "asked at {asked}");
            assert_eq!(chain.known_id().and_then(Result::ok), Some(ChainId::of(&diffs)));
        }
    }
}
