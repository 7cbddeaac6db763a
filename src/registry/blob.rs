//! The body of a blob: no more bytes than announced, and in the end the right ones.

use std::io::{self, Read};

use ureq::BodyReader;

use crate::digest::{Digest, Hasher};

use super::error::{RegistryError, Target};
use super::transport::{Incoming, Session};

/// A body that must have an exact size.
pub(super) struct SizedBody {
    target: Target,
    reader: BodyReader<'static>,
    expected: u64,
    read: u64,
}

impl SizedBody {
    /// Refuses at once where another length than `expected` is announced.
    pub(super) fn new(incoming: Incoming, expected: u64) -> Result<Self, RegistryError> {
        Self::rest(incoming, expected, 0)
    }

    /// As [`SizedBody::new`], where the first `read` bytes of `expected` have come before.
    pub(super) fn rest(incoming: Incoming, expected: u64, read: u64) -> Result<Self, RegistryError> {
        let target = incoming.target.clone();
        let length = incoming.content_length().map(|length| length.saturating_add(read));
        if let Some(length) = length.filter(|length| *length != expected) {
            let found = format!("got {length}");
            return Err(RegistryError::Size { target, expected, found, truncated: false });
        }
        Ok(SizedBody { target, reader: incoming.into_reader(), expected, read })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Reads some bytes; 0 at the end, which is reached only with the expected size.
    pub(super) fn read(&mut self, buffer: &mut [u8], session: &Session) -> Result<usize, RegistryError> {
        if session.cancel().is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        let left = self.expected - self.read;
        // One byte more than is left, to tell a longer body without taking it.
        let most = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let window = buffer.get_mut(..most).unwrap_or_default();
        let read = self.reader.read(window).map_err(|error| session.failure(&self.target, error.into()))?;
        let size = |found, truncated| RegistryError::Size {
            target: self.target.clone(),
            expected: self.expected,
            found,
            truncated,
        };
        if read as u64 > left {
            return Err(size("more came".to_owned(), false));
        }
        self.read += read as u64;
        if read == 0 && !window.is_empty() && self.read < self.expected {
            if session.cancel().is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
            return Err(size(format!("got {}", self.read), true));
        }
        Ok(read)
    }
}

/// A blob while it is transferred. Ends without an error only if size and digest were right.
pub struct BlobReader {
    body: SizedBody,
    session: Session,
    digest: Digest,
    hasher: Option<Hasher>,
}

impl BlobReader {
    pub(super) fn new(body: SizedBody, session: Session, digest: Digest) -> Self {
        BlobReader { body, session, digest, hasher: Some(Hasher::new()) }
    }

    pub(super) fn target(&self) -> &Target {
        self.body.target()
    }

    /// The failure behind an error a reader gave, even after it passed through other readers that hand
    /// errors on unchanged. Errors of other origin come back as they are.
    pub fn cause(error: io::Error) -> Result<RegistryError, io::Error> {
        error.downcast::<RegistryError>()
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        let Some(hasher) = self.hasher.as_mut().filter(|_| !buffer.is_empty()) else { return Ok(0) };
        let read = self.body.read(buffer, &self.session)?;
        if read > 0 {
            hasher.update(buffer.get(..read).unwrap_or_default());
            return Ok(read);
        }
        let actual = self.hasher.take().unwrap_or_default().finish();
        if actual == self.digest {
            return Ok(0);
        }
        Err(RegistryError::Mismatch { target: self.target().clone(), expected: self.digest, actual })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance(buffer).map_err(|error| {
            let kind = match &error {
                RegistryError::Mismatch { .. } => io::ErrorKind::InvalidData,
                RegistryError::Size { truncated: true, .. } => io::ErrorKind::UnexpectedEof,
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, error)
        })
    }
}
