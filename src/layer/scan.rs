//! A layer's tar as it is, for those who judge it rather than use it.

use std::io::Read;

use crate::digest::{DiffId, Hasher};

use super::error::LayerError;
use super::tar_read::{End, Header, TarReader};

/// What a stream turned out to be.
#[derive(Debug)]
pub struct Scanned {
    /// Digest of the uncompressed stream; `None` where it could not be read to its end.
    pub diff_id: Option<DiffId>,
    /// Bytes of the uncompressed stream, as far as it was read.
    pub size: u64,
    /// How the archive ends; `None` where `error` says why nobody knows.
    pub end: Option<End>,
    /// Why it is no tar from some place on, or cannot be read.
    pub error: Option<LayerError>,
}

/// Hashes and counts what passes.
struct Counted<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.hasher.update(&buf[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

/// Reads an uncompressed tar and shows each of its headers to `visit`, names and all as stored. Where
/// the archive is malformed, the rest is read for its digest only.
pub fn scan_tar(plain: impl Read, mut visit: impl FnMut(&Header)) -> Scanned {
    let mut counted = Counted { inner: plain, hasher: Hasher::new(), size: 0 };
    let mut walk = || -> Result<End, LayerError> {
        let mut reader = TarReader::new(&mut counted);
        while let Some(header) = reader.next()? {
            visit(&header);
        }
        reader.check_end()
    };
    let result = walk();
    let rest = match &result {
        Ok(_) => Ok(0),
        Err(_) => std::io::copy(&mut counted, &mut std::io::sink()),
    };
    let size = counted.size;
    let diff_id = rest.is_ok().then(|| DiffId(counted.hasher.finish()));
    match result {
        Ok(end) => Scanned { diff_id, size, end: Some(end), error: None },
        Err(error) => Scanned { diff_id, size, end: None, error: Some(error) },
    }
}
