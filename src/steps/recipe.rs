//! Layers that are known before a byte of them is written: what a copy places says all of it.

use crate::digest::{Digest, Hasher};
use crate::layer::{Entry, EntryKind, Metadata};

/// All that an entry says, unambiguously; whether it says all of its content.
fn entry_line(line: &mut Vec<u8>, entry: &Entry) -> bool {
    let Entry { path, kind, meta, offset: _ } = entry;
    let (number, first, second, detail): (u8, u64, u64, &[u8]) = match kind {
        EntryKind::File { digest: None, .. } => return false,
        EntryKind::File { size, digest: Some(digest) } => (0, *size, 0, digest.raw()),
        EntryKind::Dir => (1, 0, 0, b""),
        EntryKind::Symlink(target) => (2, 0, 0, target),
        EntryKind::Hardlink(target) => (3, 0, 0, target),
        EntryKind::CharDevice { major, minor } => (4, u64::from(*major), u64::from(*minor), b""),
        EntryKind::BlockDevice { major, minor } => (5, u64::from(*major), u64::from(*minor), b""),
        EntryKind::Fifo => (6, 0, 0, b""),
        EntryKind::Whiteout => (7, 0, 0, b""),
        EntryKind::Opaque => (8, 0, 0, b""),
    };
    let Metadata { mode, uid, gid, mtime, xattrs } = meta;
    line.push(number);
    for number in [u64::from(*mode), u64::from(*uid), u64::from(*gid), mtime.cast_unsigned(), first, second] {
        line.extend_from_slice(&number.to_le_bytes());
    }
    for text in [&path[..], detail].into_iter().chain(xattrs.iter().flat_map(|(a, b)| [&a[..], &b[..]])) {
        line.extend_from_slice(&(text.len() as u64).to_le_bytes());
        line.extend_from_slice(text);
    }
    true
}

/// A digest of the very bytes a layer will have: two copies with the same recipe give the same
/// layer, whatever they stand on.
pub fn recipe(entries: &[Entry]) -> Option<Digest> {
    let mut hasher = Hasher::new();
    hasher.field(b"layer-recipe-2");
    let mut line = Vec::new();
    for entry in entries {
        line.clear();
        if !entry_line(&mut line, entry) {
            return None;
        }
        hasher.field(&line);
    }
    Some(hasher.finish())
}
