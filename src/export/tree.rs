//! A root file system to be exported, as whoever built it presents it.

use std::io::{self, Read};

use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::layer::{Entry, EntryKind};

use super::error::ExportError;

/// The merged files of an image.
pub trait RootTree: Send + Sync {
    /// All entries: parents before children, everything below a directory directly after it,
    /// hardlinks after the entry they name, no whiteouts. The root itself has none.
    fn entries(&self) -> io::Result<Vec<Entry>>;

    /// Opens the content of a regular file, by the path of its entry.
    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send>>;
}

/// Refuses paths that could lead out of a destination, and entries that no file system holds.
pub(super) fn check(entry: &Entry) -> Result<(), ExportError> {
    if !is_plain(&entry.path) {
        return Err(ExportError::entry(
            &entry.path,
            "the path is empty, absolute, or has empty, . or .. parts",
        ));
    }
    match &entry.kind {
        EntryKind::Hardlink(target) if !is_plain(target) => {
            Err(ExportError::entry(&entry.path, "its hardlink leads out of the image"))
        }
        EntryKind::Whiteout | EntryKind::Opaque => {
            Err(ExportError::entry(&entry.path, "it is a mark of a layer, not a file"))
        }
        _ => Ok(()),
    }
}

fn is_plain(path: &[u8]) -> bool {
    path.split(|c| *c == b'/').all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}

/// The content of a file; fails unless it has the size, and the digest where one is known, of its
/// entry.
pub(super) struct Content<'a> {
    reader: Box<dyn Read + Send + 'a>,
    left: u64,
    check: Option<(Digest, Hasher)>,
    cancel: &'a Cancel,
}

impl<'a> Content<'a> {
    /// Opens the content of an entry.
    pub(super) fn open(
        tree: &'a dyn RootTree,
        path: &[u8],
        size: u64,
        digest: Option<Digest>,
        cancel: &'a Cancel,
    ) -> io::Result<Self> {
        let check = digest.map(|digest| (digest, Hasher::new()));
        Ok(Content { reader: tree.open(path)?, left: size, check, cancel })
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        let count = self.reader.read(buf)?;
        let changed = || io::Error::other("its content is not what it was when it was built");
        if count == 0 {
            let complete = match self.check.take() {
                Some((digest, hasher)) => hasher.finish() == digest,
                None => true,
            };
            return if self.left == 0 && complete { Ok(0) } else { Err(changed()) };
        }
        self.left = self.left.checked_sub(count as u64).ok_or_else(changed)?;
        if let Some((_, hasher)) = &mut self.check {
            hasher.update(&buf[..count]);
        }
        Ok(count)
    }
}
