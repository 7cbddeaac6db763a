//! The entries of a layer as a compact file. What does not parse is treated as absent.

use crate::digest::Digest;

use super::entry::{Entry, EntryKind, LayerIndex, Metadata};

const FORMAT: &[u8; 8] = b"rbindex1";

/// Entries to bytes.
pub(super) fn render(index: &LayerIndex) -> Vec<u8> {
    let mut out = FORMAT.to_vec();
    for entry in &index.entries {
        put_bytes(&mut out, &entry.path);
        put_kind(&mut out, &entry.kind);
        let meta = &entry.meta;
        for number in [meta.mode, meta.uid, meta.gid] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&meta.mtime.to_le_bytes());
        out.extend_from_slice(&entry.offset.to_le_bytes());
        out.extend_from_slice(&(meta.xattrs.len() as u32).to_le_bytes());
        for (name, value) in &meta.xattrs {
            put_bytes(&mut out, name);
            put_bytes(&mut out, value);
        }
    }
    let sum = crc32fast::hash(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Bytes to entries.
pub(super) fn parse(bytes: &[u8]) -> Option<LayerIndex> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut rest = body.strip_prefix(FORMAT)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let path = get_bytes(&mut rest)?;
        let kind = get_kind(&mut rest)?;
        let (mode, uid, gid) = (get_u32(&mut rest)?, get_u32(&mut rest)?, get_u32(&mut rest)?);
        let mtime = i64::from_le_bytes(*take::<8>(&mut rest)?);
        let offset = u64::from_le_bytes(*take::<8>(&mut rest)?);
        let count = get_u32(&mut rest)?;
        let mut xattrs = Vec::new();
        for _ in 0..count {
            xattrs.push((get_bytes(&mut rest)?, get_bytes(&mut rest)?));
        }
        entries.push(Entry { path, kind, meta: Metadata { mode, uid, gid, mtime, xattrs }, offset });
    }
    Some(LayerIndex { entries })
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_kind(out: &mut Vec<u8>, kind: &EntryKind) {
    match kind {
        EntryKind::File { size, digest } => {
            out.push(if digest.is_some() { 1 } else { 0 });
            out.extend_from_slice(&size.to_le_bytes());
            if let Some(digest) = digest {
                out.extend_from_slice(digest.raw());
            }
        }
        EntryKind::Dir => out.push(2),
        EntryKind::Symlink(target) => {
            out.push(3);
            put_bytes(out, target);
        }
        EntryKind::Hardlink(target) => {
            out.push(4);
            put_bytes(out, target);
        }
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            out.push(if matches!(kind, EntryKind::CharDevice { .. }) { 5 } else { 6 });
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        EntryKind::Fifo => out.push(7),
        EntryKind::Whiteout => out.push(8),
        EntryKind::Opaque => out.push(9),
    }
}

fn get_kind(rest: &mut &[u8]) -> Option<EntryKind> {
    Some(match take::<1>(rest)?[0] {
        tag @ (0 | 1) => {
            let size = u64::from_le_bytes(*take::<8>(rest)?);
            let digest = if tag == 1 { Some(Digest::from_raw(*take::<32>(rest)?)) } else { None };
            EntryKind::File { size, digest }
        }
        2 => EntryKind::Dir,
        3 => EntryKind::Symlink(get_bytes(rest)?),
        4 => EntryKind::Hardlink(get_bytes(rest)?),
        5 => EntryKind::CharDevice { major: get_u32(rest)?, minor: get_u32(rest)? },
        6 => EntryKind::BlockDevice { major: get_u32(rest)?, minor: get_u32(rest)? },
        7 => EntryKind::Fifo,
        8 => EntryKind::Whiteout,
        9 => EntryKind::Opaque,
        _ => return None,
    })
}

fn get_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = get_u32(rest)? as usize;
    let bytes = rest.get(..length)?.to_vec();
    *rest = &rest[length..];
    Some(bytes)
}

fn get_u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(*take::<4>(rest)?))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}
