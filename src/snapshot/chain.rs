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
        self.cells.iter().all(|cell| cell.is_finished()).then(|| self.id())
    }

    /// The chain's identity; waits for layers being written.
    pub fn id(&self) -> Result<ChainId, SnapshotError> {
        self.cells.iter().try_fold(ChainId::scratch(), |chain, cell| Ok(chain.push(cell.finished()?.diff_id)))
    }
}
