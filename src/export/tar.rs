//! The files of an image as one tar: `type=tar`.
//!
//! Owners, modes, times and extended attributes are kept. Headers are ustar; what does not fit goes
//! into a pax header before the entry.

use std::io;

use ::tar::{Builder, EntryType, Header};

use crate::cancel::Cancel;
use crate::layer::{Entry, EntryKind};

use super::dest::{Dest, Output};
use super::error::ExportError;
use super::tree::{Content, RootTree, check};

const MAX_NAME: usize = 100;
/// What seven octal digits hold: ids.
const MAX_OCTAL_7: u64 = 0o7_777_777;
/// What eleven octal digits hold: sizes and times.
const MAX_OCTAL_11: u64 = 0o77_777_777_777;

/// Writes the files of an image as a tar. With `mtime`, every entry gets that time, in seconds since
/// 1970.
pub fn write(
    tree: &dyn RootTree,
    dest: &Dest,
    mtime: Option<i64>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let mut output = Output::create(dest)?;
    let path = output.path().to_owned();
    let write = |error: io::Error| ExportError::io("write", &path)(error);
    let mut tar = Builder::new(&mut output);
    for mut entry in tree.entries().map_err(|source| ExportError::content(b"/", source))? {
        if cancel.is_cancelled() {
            return Err(ExportError::Canceled);
        }
        check(&entry)?;
        entry.meta.mtime = mtime.unwrap_or(entry.meta.mtime);
        let (header, pax) = headers(&entry);
        if !pax.is_empty() {
            tar.append(&pax_header(pax.len() as u64), &pax[..]).map_err(write)?;
        }
        let EntryKind::File { size, digest } = entry.kind else {
            tar.append(&header, io::empty()).map_err(write)?;
            continue;
        };
        let content = Content::open(tree, &entry.path, size, digest, cancel);
        let mut content =
            Blame { reader: content.map_err(|e| ExportError::content(&entry.path, e))?, failed: false };
        tar.append(&header, &mut content).map_err(|error| match content.failed {
            true if cancel.is_cancelled() => ExportError::Canceled,
            true => ExportError::content(&entry.path, error),
            false => write(error),
        })?;
    }
    tar.into_inner().map_err(write)?;
    output.finish()
}

/// Tells failures of reading from those of writing.
struct Blame<R> {
    reader: R,
    failed: bool,
}

impl<R: io::Read> io::Read for Blame<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.reader.read(buf);
        self.failed = result.is_err();
        result
    }
}

/// The ustar header of an entry, and the pax records for what it cannot say.
fn headers(entry: &Entry) -> (Header, Vec<u8>) {
    let mut header = Header::new_ustar();
    let mut pax = Vec::new();
    let meta = &entry.meta;
    let mut name = entry.path.clone();
    let (kind, link, size) = match &entry.kind {
        EntryKind::File { size, .. } => (EntryType::Regular, &[][..], *size),
        EntryKind::Dir => {
            name.push(b'/');
            (EntryType::Directory, &[][..], 0)
        }
        EntryKind::Symlink(target) => (EntryType::Symlink, &target[..], 0),
        EntryKind::Hardlink(target) => (EntryType::Link, &target[..], 0),
        EntryKind::CharDevice { .. } => (EntryType::Char, &[][..], 0),
        EntryKind::BlockDevice { .. } => (EntryType::Block, &[][..], 0),
        EntryKind::Fifo | EntryKind::Whiteout | EntryKind::Opaque => (EntryType::Fifo, &[][..], 0),
    };
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    text(&mut pax, "path", &name, &mut header.as_old_mut().name);
    text(&mut pax, "linkpath", link, &mut header.as_old_mut().linkname);
    header.set_uid(number(&mut pax, "uid", meta.uid.into(), MAX_OCTAL_7));
    header.set_gid(number(&mut pax, "gid", meta.gid.into(), MAX_OCTAL_7));
    header.set_size(number(&mut pax, "size", size.into(), MAX_OCTAL_11));
    header.set_mtime(number(&mut pax, "mtime", meta.mtime.into(), MAX_OCTAL_11));
    for (key, value) in &meta.xattrs {
        record(&mut pax, &[b"SCHILY.xattr.", &key[..]].concat(), value);
    }
    if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } = entry.kind
        && let Some(ustar) = header.as_ustar_mut()
    {
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
    }
    header.set_cksum();
    (header, pax)
}

/// Puts a name into its field, cut where need be, and into a record where the field alone would lose
/// bytes or leave the encoding open. Bytes that are no UTF-8 stay raw, as GNU tar leaves them.
fn text(pax: &mut Vec<u8>, key: &str, value: &[u8], field: &mut [u8; MAX_NAME]) {
    let cut = value.len().min(MAX_NAME);
    field[..cut].copy_from_slice(&value[..cut]);
    if value.len() > MAX_NAME || (!value.is_ascii() && std::str::from_utf8(value).is_ok()) {
        record(pax, key.as_bytes(), value);
    }
}

fn number(pax: &mut Vec<u8>, key: &str, value: i128, max: u64) -> u64 {
    match u64::try_from(value) {
        Ok(fits) if fits <= max => fits,
        _ => {
            record(pax, key.as_bytes(), value.to_string().as_bytes());
            0
        }
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(length.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn pax_header(size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..10].copy_from_slice(b"PaxHeaders");
    header.set_entry_type(EntryType::XHeader);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_count_their_own_digits() {
        for (value, expected) in
            [(&b"x"[..], &b"6 k=x\n"[..]), (b"12345", b"11 k=12345\n"), (b"1234", b"9 k=1234\n")]
        {
            let mut pax = Vec::new();
            record(&mut pax, b"k", value);
            assert_eq!(pax, expected);
        }
        let mut pax = Vec::new();
        record(&mut pax, b"k", &[b'v'; 93]);
        assert!(pax.starts_with(b"99 k="), "{}", String::from_utf8_lossy(&pax));
        assert_eq!(pax.len(), 99);
    }
}
