//! Where the bytes of a copy's entries come from.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use crate::context::{FileSource, FileState, Opened};
use crate::layer::{ContentSource, Entry, FrozenFile, KnownContent};
use crate::store::TempDir;

/// Content of a copy's entries.
pub struct CopyContent {
    origins: Vec<Bytes>,
    /// Where some of them lie.
    _scratch: Option<Arc<TempDir>>,
}

impl CopyContent {
    /// That of entries whose bytes come from these places, in their order.
    pub(super) fn new(origins: Vec<Bytes>) -> Self {
        CopyContent { origins, _scratch: None }
    }

    /// The same, which keeps a temporary directory that it reads from.
    pub fn holding(self, scratch: Arc<TempDir>) -> Self {
        CopyContent { _scratch: Some(scratch), ..self }
    }
}

/// Where one entry's bytes are.
pub(super) enum Bytes {
    /// Nowhere: it has none.
    None,
    /// At a path of a source; with the state in which the file was digested, where that is known.
    Source(Arc<dyn FileSource>, Vec<u8>, Option<FileState>),
    /// Here.
    Inline(Arc<[u8]>),
    /// In a file that rbuild made.
    Local(std::path::PathBuf),
}

impl ContentSource for CopyContent {
    fn open(&self, position: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        match self.origins.get(position) {
            Some(Bytes::Source(source, path, _)) => {
                Ok(Box::new(source.open(path).map_err(io::Error::other)?))
            }
            Some(Bytes::Inline(bytes)) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Some(Bytes::Local(path)) => Ok(Box::new(File::open(path)?)),
            _ => Err(io::Error::other(format!("no content for {}", String::from_utf8_lossy(&entry.path)))),
        }
    }

    fn open_known(&self, position: usize, _: &Entry) -> io::Result<Option<Box<dyn KnownContent>>> {
        match self.origins.get(position) {
            Some(Bytes::Source(source, path, Some(state))) => {
                let opened = source.open_in_state(path, state).map_err(io::Error::other)?;
                Ok(opened.map(|file| Box::new(Settled { file, state: *state }) as Box<dyn KnownContent>))
            }
            Some(Bytes::Source(source, path, None)) => {
                let opened = source.open_frozen(path).map_err(io::Error::other)?;
                Ok(opened.map(|file| Box::new(FrozenFile::of(file)) as Box<dyn KnownContent>))
            }
            _ => Ok(None),
        }
    }

    fn open_file(&self, position: usize, _: &Entry) -> io::Result<Option<File>> {
        match self.origins.get(position) {
            Some(Bytes::Source(source, path, _)) => match source.open(path).map_err(io::Error::other)? {
                Opened::File(file) => Ok(Some(file)),
                Opened::Stream(_) => Ok(None),
            },
            Some(Bytes::Local(path)) => Ok(Some(File::open(path)?)),
            _ => Ok(None),
        }
    }
}

/// A file that was in a known state when it was opened.
struct Settled {
    file: File,
    state: FileState,
}

impl Read for Settled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl KnownContent for Settled {
    fn is_unchanged(&self) -> io::Result<bool> {
        self.state.is_that_of(&self.file)
    }

    fn file(&self) -> &File {
        &self.file
    }
}
