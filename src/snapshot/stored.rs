//! Layers that the store has: found, and compressed when somebody wants their bytes.

use std::sync::{Arc, PoisonError};

use crate::cancel::Cancel;
use crate::compress::{CompressionAlgorithm, Packing};
use crate::digest::{ChainId, DiffId};
use crate::image::draft::StoredLayer;
use crate::layer::{self, BlobInfo, LayerIndex, WriteOptions};
use crate::store::SnapshotId;

use super::cell::{Finished, LayerCell};
use super::chain::Chain;
use super::error::SnapshotError;
use super::snapshots::Snapshots;

impl Snapshots {
    /// The layers of an image of the store. `other` gives those that are listed as they are.
    pub fn chain_of(
        &self,
        layers: &[StoredLayer],
        cancel: &Cancel,
        mut other: impl FnMut(&StoredLayer) -> Result<Arc<LayerCell>, SnapshotError>,
    ) -> Result<Chain, SnapshotError> {
        let (mut cells, mut chain) = (Vec::new(), ChainId::scratch());
        for stored in layers {
            let parent = chain;
            chain = chain.push(stored.layer.diff_id);
            cells.push(match stored.packing {
                None => other(stored)?,
                Some(packing) => self.plain_layer(&stored.layer.diff_id, parent, packing, cancel)?,
            });
        }
        Ok(Chain::of(cells))
    }

    /// As [`Snapshots::chain_of`], for an image of which all blobs are here.
    pub fn stored_chain(&self, layers: &[StoredLayer], cancel: &Cancel) -> Result<Chain, SnapshotError> {
        self.chain_of(layers, cancel, |stored| {
            let layer = &stored.layer;
            let blob = BlobInfo { digest: layer.digest, size: layer.size, compression: layer.compression };
            layer::add_blob(self.store(), &layer.diff_id, 0, &blob)?;
            Ok(LayerCell::known(layer.diff_id, blob))
        })
    }

    /// A layer that its image lists as a plain tar.
    fn plain_layer(
        &self,
        diff_id: &DiffId,
        parent: ChainId,
        packing: Packing,
        cancel: &Cancel,
    ) -> Result<Arc<LayerCell>, SnapshotError> {
        if let Some(blob) = self.blob_here(diff_id, packing.compression)? {
            return Ok(LayerCell::stored(*diff_id, Some(blob), None, packing));
        }
        let chain = parent.push(*diff_id);
        if let Some(files) = self.files_here(diff_id, &chain)? {
            return Ok(LayerCell::stored(*diff_id, None, Some(files), packing));
        }
        if self.store().only_looks() {
            return Ok(LayerCell::stored(*diff_id, None, None, packing));
        }
        // Another kind of user has unpacked it: its files are of no use here, but their content is.
        let index = layer::load_index(self.store(), diff_id)?;
        let snapshot = self.store().chain_snapshots(&chain)?.into_iter().next();
        let (Some(index), Some(snapshot)) = (index, snapshot) else {
            return Err(SnapshotError::Missing(*diff_id));
        };
        let dir = self.store().snapshot_dir(&snapshot);
        let options = WriteOptions::packing(packing);
        let blob = layer::pack_layer(self.store(), diff_id, &index, &dir, &options, cancel)?;
        Ok(LayerCell::known(*diff_id, blob))
    }

    /// A blob of a layer that is in the store, in the wanted compression if there is one.
    pub fn blob_here(
        &self,
        diff_id: &DiffId,
        wanted: CompressionAlgorithm,
    ) -> Result<Option<BlobInfo>, SnapshotError> {
        let Some(layer) = layer::load_layer(self.store(), diff_id)? else { return Ok(None) };
        let mut blobs = layer.blobs;
        blobs.sort_by_key(|blob| blob.compression != wanted);
        Ok(blobs.into_iter().find(|blob| self.store().has_blob(&blob.digest)))
    }

    /// The files of a layer on top of a chain. Without its list of files a directory says too little.
    pub fn files_here(
        &self,
        diff_id: &DiffId,
        chain: &ChainId,
    ) -> Result<Option<(SnapshotId, Arc<LayerIndex>)>, SnapshotError> {
        let Some(snapshot) = self.known(chain)? else { return Ok(None) };
        Ok(layer::load_index(self.store(), diff_id)?.map(|index| (snapshot, index)))
    }

    /// The blob of the layer at `position`, compressed as `packing` says; made now where it is not here.
    pub fn packed(
        &self,
        chain: &Chain,
        position: usize,
        packing: Packing,
        cancel: &Cancel,
    ) -> Result<BlobInfo, SnapshotError> {
        let options = WriteOptions::packing(packing);
        let blob = self.blob(chain, position, &options, cancel)?;
        if blob.compression == packing.compression {
            return Ok(blob);
        }
        let Some(cell) = chain.cells().get(position) else {
            return Err(SnapshotError::Missing(DiffId::empty()));
        };
        Ok(layer::recompress(self.store(), &cell.finished()?.diff_id, &options, cancel)?)
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
        let Some(cell) = chain.cells().get(position) else {
            return Err(SnapshotError::Missing(DiffId::empty()));
        };
        let _guard = cell.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let Finished { diff_id, blob } = cell.finished()?;
        if let Some(blob) = blob {
            return Ok(blob);
        }
        let (index, dir) = (cell.entries(self.store())?, self.layer_dir(chain, position)?);
        let blob = layer::pack_layer(self.store(), &diff_id, &index, &dir, options, cancel)?;
        cell.lock().finished = Some(Ok(Finished { diff_id, blob: Some(blob.clone()) }));
        Ok(blob)
    }
}
