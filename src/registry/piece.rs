//! The bodies of uploads, and reading the answers to them.

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use ureq::http::Uri;
use ureq::http::header::RANGE;

use crate::digest::Digest;

use super::error::RegistryError;
use super::pull::announced_digest;
use super::transport::Incoming;
use super::upload::Uploads;

/// Gives exactly the promised number of bytes, or fails; reports on the way.
pub(super) struct Counted<'a> {
    pub(super) reader: Box<dyn Read + 'a>,
    pub(super) uploads: &'a Uploads<'a>,
    /// Where the reader is in the blob.
    pub(super) offset: u64,
    /// Bytes that are still promised.
    pub(super) left: u64,
    pub(super) progress: &'a dyn Fn(u64),
    /// Why it failed; the network's error says less.
    pub(super) failure: Option<io::Error>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let stopped = self.uploads.cancel.is_cancelled() || self.uploads.stop.load(Ordering::Relaxed);
        let result = match buffer.get_mut(..most) {
            _ if stopped => Err(io::Error::other(RegistryError::Cancelled)),
            Some(window) if !window.is_empty() => match self.reader.read(window) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            },
            _ => Ok(0),
        };
        match result {
            Ok(read) => {
                self.left -= read as u64;
                self.offset += read as u64;
                self.uploads.sent.fetch_add(read as u64, Ordering::Relaxed);
                (self.progress)(self.offset);
                Ok(read)
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// How many bytes the registry has of an upload: `Range: 0-N`, with `bytes=` before it or not. One
/// byte and none look alike; taken for none.
pub(super) fn received(answer: &Incoming) -> Option<u64> {
    received_range(answer.header(&RANGE)?)
}

/// [`received`] of the header's value.
pub(super) fn received_range(text: &str) -> Option<u64> {
    let text = text.trim();
    let (from, to) = text.strip_prefix("bytes=").unwrap_or(text).split_once('-')?;
    let (from, to): (u64, u64) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    (from == 0).then_some(if to == 0 { 0 } else { to.saturating_add(1) })
}

/// An address with one more thing in its query.
pub(super) fn with_query(url: &Uri, query: &str) -> Result<Uri, RegistryError> {
    let joint = if url.query().is_some() { '&' } else { '?' };
    let text = format!("{url}{joint}{query}");
    text.parse().map_err(|_| RegistryError::invalid("upload address", &text, "it is no valid URL"))
}

/// The error of an answer without a usable `Location`.
pub(super) fn no_place(answer: &Incoming) -> RegistryError {
    RegistryError::protocol(&answer.target, "it names no place for the upload")
}

/// What the registry says it stored must be what was sent.
pub(super) fn check_digest(answer: &Incoming, expected: &Digest) -> Result<(), RegistryError> {
    match announced_digest(answer)? {
        Some(actual) if actual != *expected => {
            Err(RegistryError::Mismatch { target: answer.target.clone(), expected: *expected, actual })
        }
        _ => Ok(()),
    }
}
