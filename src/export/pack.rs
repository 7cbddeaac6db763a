//! Images of the store made ready to leave it: layers compressed that are not yet, and the manifest written.

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::draft::{self, Draft, note_packed};
use crate::image::read::named;
use crate::image::{Descriptor, Family, LayerRef, Reference};
use crate::layer::OnDiskIds;
use crate::snapshot::Snapshots;
use crate::store::Store;

use super::error::ExportError;

/// Whether the image of a name has no manifest yet.
pub fn is_draft(store: &Store, name: &Reference) -> Result<bool, ExportError> {
    Ok(named(store, name)?.is_some_and(|named| named.is_draft))
}

/// Sees to it that the image of a name has all its blobs and its manifest; what was made once is found the
/// next time. Other images are left as they are. Killed or failed at any moment, it leaves the image as it was.
///
/// Gives the manifest or index that the name meant when it was looked up, which is once: the name may mean
/// another image by the time its layers are compressed. `None` where the name means nothing.
pub fn pack(store: &Store, name: &Reference, cancel: &Cancel) -> Result<Option<Digest>, ExportError> {
    let Some(named) = named(store, name)? else { return Ok(None) };
    if !named.is_draft {
        return Ok(Some(named.digest));
    }
    let Some(draft) = Draft::read(store, &named.digest)? else { return Ok(None) };
    let Some(image) = draft::resolve(store, &named.digest)? else { return Ok(None) };
    let snapshots = Snapshots::new(store.clone(), OnDiskIds::Keep);
    let stored = image.stored_layers();
    let chain = snapshots.stored_chain(&stored, cancel)?;
    let mut layers = Vec::new();
    for (position, stored) in stored.into_iter().enumerate() {
        layers.push(match stored.packing {
            None => stored.layer,
            Some(packing) => {
                let blob = snapshots.packed(&chain, position, packing, cancel)?;
                LayerRef {
                    digest: blob.digest,
                    size: blob.size,
                    compression: blob.compression,
                    ..stored.layer
                }
            }
        });
    }
    let manifest = draft.with_layers(&layers)?;
    store.put_blob(&manifest)?;
    let descriptor = Descriptor::of(Family::Oci.manifest(), &manifest);
    note_packed(store, &named.digest, &descriptor)?;
    Ok(Some(descriptor.digest))
}
