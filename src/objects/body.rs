//! Bytes on their way to and from object stores.

use std::io::{self, Cursor, Read};

use crate::digest::Digest;
use crate::registry::{RegistryError, Session};

/// An object that is being read.
pub struct OpenObject {
    /// Bytes of the answer, where they were announced.
    pub length: Option<u64>,
    /// Where in the object the answer begins: a service may ignore that only a part was asked for.
    pub from: u64,
    pub(super) reader: Box<dyn Read + Send>,
    /// Cuts the connection when the user cancels.
    pub(super) _session: Session,
}

impl Read for OpenObject {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Makes a reader of what is to be written, from some byte on.
pub type OpenSource<'a> = dyn Fn(u64) -> Result<Box<dyn Read + Send + 'a>, RegistryError> + Sync + 'a;

/// An object that is to be written. It is read again where it has to be sent again.
pub struct Upload<'a> {
    /// Its bytes.
    pub size: u64,
    /// Their digest.
    pub digest: Digest,
    /// Opens them.
    pub open: &'a OpenSource<'a>,
    /// Called with the bytes that have gone out.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl Upload<'_> {
    /// Writes bytes at hand by `work`.
    pub fn of_bytes<T>(bytes: &[u8], work: impl FnOnce(&Upload<'_>) -> T) -> T {
        let open = |from: u64| {
            let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
            let rest: Box<dyn Read + Send> = Box::new(Cursor::new(bytes.get(start..).unwrap_or_default()));
            Ok(rest)
        };
        let size = bytes.len() as u64;
        work(&Upload { size, digest: Digest::of(bytes), open: &open, progress: &|_| {} })
    }
}

/// Reads exactly a part and counts it.
pub(super) struct Counted<'a> {
    pub reader: Box<dyn Read + Send + 'a>,
    pub left: u64,
    pub done: u64,
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(buffer.get_mut(..most).unwrap_or_default())?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "what is to be sent is too short"));
        }
        self.left -= read as u64;
        self.done += read as u64;
        (self.progress)(self.done);
        Ok(read)
    }
}
