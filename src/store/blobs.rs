//! Blobs by digest: verified when they enter, immutable afterwards.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::{Digest, Hasher};

use super::arrivals::Arrival;
use super::open::{Store, StoreError};

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The bytes are not those the digest promised.
    #[error("content does not match its digest: expected {expected}, got {actual} ({size} bytes)")]
    Mismatch {
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
        /// How many bytes came.
        size: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Where a blob lies, whether or not it exists.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is here. If so, it stays while this process lives.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.use_now(&self.blob_path(digest))
    }

    /// Opens a blob; `None` where it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.blob_path(digest);
        self.use_now(&path);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Reads a small blob (a config or manifest) whole; `None` where it is not here.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_used(&self.blob_path(digest))
    }

    /// Stores bytes and gives their digest.
    pub fn put_blob(&self, content: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(content);
        if !self.has_blob(&digest) {
            self.write_atomically(&self.blob_path(&digest), content)?;
        }
        Ok(digest)
    }

    /// Begins a blob whose digest is not known yet.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let path = self.temp_path();
        let file = File::create(&path).map_err(StoreError::io("create", &path))?;
        let (store, hasher) = (self.clone(), Some(Hasher::new()));
        Ok(BlobWriter { store, path, file, hasher, size: 0, done: false, arrival: None })
    }

    /// Begins a blob whose bytes somebody else digests: it must end with [`BlobWriter::finish_as`].
    pub fn unhashed_blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let mut writer = self.blob_writer()?;
        writer.hasher = None;
        Ok(writer)
    }

    /// Begins a blob that must have this digest: [`Store::arriving`] finds it while it is written.
    pub fn blob_writer_for(&self, digest: &Digest) -> Result<BlobWriter, StoreError> {
        let mut writer = self.blob_writer()?;
        writer.arrival = Some(self.arrivals().begin(digest, writer.path.clone()));
        Ok(writer)
    }
}

/// Writes one blob, hashing on the way. Dropped without [`BlobWriter::finish`], it leaves nothing.
pub struct BlobWriter {
    store: Store,
    path: PathBuf,
    file: File,
    /// `None` where somebody else digests the bytes.
    hasher: Option<Hasher>,
    size: u64,
    done: bool,
    arrival: Option<Arc<Arrival>>,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob visible and gives its digest and size.
    pub fn finish(mut self) -> Result<(Digest, u64), StoreError> {
        let digest = self.digest()?;
        self.keep(&digest)?;
        Ok((digest, self.size))
    }

    /// As [`BlobWriter::finish`], for bytes that the caller has digested.
    pub fn finish_as(mut self, digest: &Digest) -> Result<(Digest, u64), StoreError> {
        self.keep(digest)?;
        Ok((*digest, self.size))
    }

    fn digest(&mut self) -> Result<Digest, StoreError> {
        let unhashed = || StoreError::io("digest", &self.path)(io::Error::other("nobody digested it"));
        Ok(self.hasher.take().ok_or_else(unhashed)?.finish())
    }

    /// As [`BlobWriter::finish`], but only if the bytes are those of `expected`.
    pub fn finish_verified(mut self, expected: &Digest) -> Result<u64, IngestError> {
        let actual = self.digest()?;
        if actual != *expected {
            return Err(IngestError::Mismatch { expected: *expected, actual, size: self.size });
        }
        self.keep(expected)?;
        if let Some(arrival) = &self.arrival {
            self.store.arrivals().end(arrival, true);
        }
        Ok(self.size)
    }

    fn keep(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let target = self.store.blob_path(digest);
        if self.store.use_now(&target) {
            return Ok(());
        }
        self.store.rename_into_place(&self.path, &target)?;
        self.done = true;
        Ok(())
    }

    /// The path bytes are being written to, for error messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..written]);
        }
        self.size += written as u64;
        if let Some(arrival) = &self.arrival {
            arrival.advance(self.size);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(arrival) = &self.arrival {
            self.store.arrivals().end(arrival, false);
        }
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_does_not_match_leaves_no_trace() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let promised = Digest::of(b"promised");
        let mut writer = store.blob_writer()?;
        writer.write_all(b"other")?;
        let temporary = writer.path().to_owned();
        assert!(matches!(writer.finish_verified(&promised), Err(IngestError::Mismatch { .. })));
        assert!(!store.has_blob(&promised) && !temporary.exists());
        Ok(())
    }

    #[test]
    fn a_blob_is_found_under_its_digest() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let mut writer = store.blob_writer()?;
        writer.write_all(b"hello")?;
        let (digest, size) = writer.finish()?;
        assert_eq!((digest, size), (Digest::of(b"hello"), 5));
        assert_eq!(store.read_blob(&digest)?.as_deref(), Some(&b"hello"[..]));
        Ok(())
    }
}
