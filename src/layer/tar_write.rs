//! Entries to tar headers: deterministic, every field set, pax records only where ustar has no room.
//!
//! The choices are those that image tools agree on: no user or group names, whole seconds, octal
//! fields, directories with a trailing slash, whiteouts as empty files of mode 0 and time 0.

use std::io::{self, Write};

use super::entry::{Entry, EntryKind};

pub(super) const BLOCK: usize = 512;
const NAME: usize = 100;
const MAX_ID: u32 = 0o7_777_777;
const MAX_OCTAL: u64 = 0o77_777_777_777;
/// The smallest legal end: two blocks of zeroes.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// Prefix of names that mark deletions.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// Name of the file that makes a directory opaque.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Writes an entry's header (or headers) and gives the number of bytes.
pub(super) fn write_header(out: &mut impl Write, entry: &Entry) -> io::Result<u64> {
    let name = stored_name(entry);
    let size = match entry.kind {
        EntryKind::File { size, .. } => size,
        _ => 0,
    };
    let link: &[u8] = match &entry.kind {
        EntryKind::Symlink(target) | EntryKind::Hardlink(target) => target,
        _ => b"",
    };
    let records = pax_records(entry, &name, link, size);
    let mut written = 0;
    if !records.is_empty() {
        written += write_pax(out, &name, &records)?;
    }
    out.write_all(&header(entry, &name, link, size))?;
    Ok(written + BLOCK as u64)
}

/// Bytes of padding behind content of this size.
pub(super) fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

fn stored_name(entry: &Entry) -> Vec<u8> {
    let path = &entry.path;
    match entry.kind {
        EntryKind::Dir => [path, &b"/"[..]].concat(),
        EntryKind::Opaque => [path, &b"/"[..], OPAQUE].concat(),
        EntryKind::Whiteout => match path.iter().rposition(|c| *c == b'/') {
            Some(at) => [&path[..=at], WHITEOUT, &path[at + 1..]].concat(),
            None => [WHITEOUT, path].concat(),
        },
        _ => path.clone(),
    }
}

/// Whether ustar's field cannot hold a name. Bytes that are no UTF-8 have no pax form, so they stay
/// in the field as long as they fit.
fn needs_record(name: &[u8]) -> bool {
    name.len() > NAME || (!name.is_ascii() && std::str::from_utf8(name).is_ok())
}

fn pax_records(entry: &Entry, name: &[u8], link: &[u8], size: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
    let meta = &entry.meta;
    for (name, value) in &meta.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    if meta.gid > MAX_ID {
        add(b"gid", meta.gid.to_string().as_bytes());
    }
    if needs_record(link) {
        add(b"linkpath", link);
    }
    if meta.mtime < 0 || meta.mtime.cast_unsigned() > MAX_OCTAL {
        add(b"mtime", meta.mtime.to_string().as_bytes());
    }
    if needs_record(name) {
        add(b"path", name);
    }
    if size > MAX_OCTAL {
        add(b"size", size.to_string().as_bytes());
    }
    if meta.uid > MAX_ID {
        add(b"uid", meta.uid.to_string().as_bytes());
    }
    records
}

fn write_pax(out: &mut impl Write, name: &[u8], records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<u64> {
    let mut body = Vec::new();
    for (key, value) in records {
        // The length counts itself: one more digit may push it over a power of ten.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        if length.to_string().len() + rest != length {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(length.to_string().as_bytes());
        body.push(b' ');
        body.extend_from_slice(key);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    let trimmed = name.strip_suffix(b"/").unwrap_or(name);
    let base = trimmed.rsplit(|c| *c == b'/').next().unwrap_or_default();
    let shown = [&b"PaxHeaders.0/"[..], base].concat();
    let mut block = [0u8; BLOCK];
    put_text(&mut block[..NAME], &shown);
    put_octal(&mut block[100..108], 0o644);
    put_octal(&mut block[108..116], 0);
    put_octal(&mut block[116..124], 0);
    put_octal(&mut block[124..136], body.len() as u64);
    put_octal(&mut block[136..148], 0);
    finish(&mut block, b'x');
    out.write_all(&block)?;
    out.write_all(&body)?;
    out.write_all(&END[..padding(body.len() as u64)])?;
    Ok((BLOCK + body.len() + padding(body.len() as u64)) as u64)
}

fn header(entry: &Entry, name: &[u8], link: &[u8], size: u64) -> [u8; BLOCK] {
    let meta = &entry.meta;
    let mut block = [0u8; BLOCK];
    let plain = |id: u32| if id > MAX_ID { 0 } else { u64::from(id) };
    let mtime = u64::try_from(meta.mtime).ok().filter(|time| *time <= MAX_OCTAL).unwrap_or(0);
    put_text(&mut block[..NAME], name);
    put_octal(&mut block[100..108], u64::from(meta.mode & 0o7777));
    put_octal(&mut block[108..116], plain(meta.uid));
    put_octal(&mut block[116..124], plain(meta.gid));
    put_octal(&mut block[124..136], if size > MAX_OCTAL { 0 } else { size });
    put_octal(&mut block[136..148], mtime);
    put_text(&mut block[157..257], link);
    let flag = match entry.kind {
        EntryKind::File { .. } | EntryKind::Whiteout | EntryKind::Opaque => b'0',
        EntryKind::Hardlink(_) => b'1',
        EntryKind::Symlink(_) => b'2',
        EntryKind::CharDevice { .. } => b'3',
        EntryKind::BlockDevice { .. } => b'4',
        EntryKind::Dir => b'5',
        EntryKind::Fifo => b'6',
    };
    if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } = entry.kind {
        put_octal(&mut block[329..337], u64::from(major));
        put_octal(&mut block[337..345], u64::from(minor));
    }
    finish(&mut block, flag);
    block
}

fn finish(block: &mut [u8; BLOCK], flag: u8) {
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
}

/// As much of a name as fits; where a pax record holds the whole, bytes beyond ASCII are left out.
fn put_text(field: &mut [u8], text: &[u8]) {
    let valid = std::str::from_utf8(text).is_ok();
    let kept = text.iter().copied().filter(|byte| !valid || byte.is_ascii());
    for (slot, byte) in field.iter_mut().zip(kept) {
        *slot = byte;
    }
}

fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
}
