//! ndb, rpm's own format: a header of 32 bytes, pages of slots, and blobs that the slots refer to (`lib/backend/ndb/
//! rpmpkg.c` of rpm).

use super::{Visit, u32_le};

/// The first field, in little endian.
pub(super) const MAGIC: &[u8] = b"RpmP";
const SLOT_MAGIC: &[u8] = b"Slot";
const BLOB_MAGIC: &[u8] = b"BlbS";

/// Bytes of a page of slots, of a slot, and of the blocks that blobs are aligned to.
const PAGE: usize = 4096;
const SLOT: usize = 16;
const BLOCK: usize = 16;

pub(super) fn read(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), String> {
    if u32_le(bytes, 4) != Some(0) {
        return Err("its version is not 0".to_owned());
    }
    let pages = u32_le(bytes, 12).filter(|pages| *pages > 0).ok_or("it has no pages of slots")?;
    // The header takes the place of the first two slots.
    let slots =
        pages.checked_mul(PAGE).and_then(|end| bytes.get(2 * SLOT..end)).ok_or("its slots are cut off")?;
    for slot in slots.chunks_exact(SLOT) {
        if !slot.starts_with(SLOT_MAGIC) {
            return Err("a slot is damaged".to_owned());
        }
        let (Some(package), Some(block)) = (u32_le(slot, 4), u32_le(slot, 8)) else { continue };
        if package == 0 {
            continue;
        }
        let blob = blob(bytes, package, block);
        if !visit(blob.ok_or_else(|| format!("package {package} is cut off or damaged"))) {
            break;
        }
    }
    Ok(())
}

fn blob(bytes: &[u8], package: usize, block: usize) -> Option<&[u8]> {
    let blob = bytes.get(block.checked_mul(BLOCK)?..)?;
    if !blob.starts_with(BLOB_MAGIC) || u32_le(blob, 4) != Some(package) {
        return None;
    }
    let length = u32_le(blob, 12)?;
    blob.get(16..16usize.checked_add(length)?)
}
