//! Dockerfiles and ignore files as bytes.
//!
//! Those found by their usual names may come from strangers, as the rest of a context does: links lead to
//! places in the context only, and nothing but a regular file is read. A file that the user names may be
//! anything that can be read, also a pipe.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::cancel::{Cancel, CancelRead};

use super::error::ContextError;
use super::file::FileKind;
use super::local::LocalContext;
use super::paths;

/// The largest Dockerfile or ignore file in bytes; the gRPC messages that carry them to BuildKit end here.
const LARGEST: u64 = 16 << 20;

/// Reads a file of a context; `None` if there is none. `shown` is its name for messages.
pub(super) fn read_inside(
    context: &LocalContext,
    path: &[u8],
    shown: &str,
) -> Result<Option<Vec<u8>>, ContextError> {
    let Some(info) = context.follow(path, |_| true)? else {
        return match context.stat_unfiltered(path)?.map(|info| info.kind) {
            Some(FileKind::Symlink { target }) => {
                Err(ContextError::LeadsOut { path: shown.to_owned(), target: paths::show(&target) })
            }
            _ => Ok(None),
        };
    };
    if !matches!(info.kind, FileKind::File { .. }) {
        return Err(ContextError::NotReadable { path: shown.to_owned(), kind: info.kind.describe() });
    }
    let file = context.open_unfiltered(&info.path)?;
    limited(file, shown).map(Some)
}

/// Reads a file that the user named. Links are followed, pipes (`-f <(...)`) are waited for until the
/// user gives up. `None` if there is none.
pub(super) fn read_named(file: &Path, shown: &str, cancel: &Cancel) -> Result<Option<Vec<u8>>, ContextError> {
    let failed = |errno: Errno| ContextError::Read { path: PathBuf::from(shown), source: errno.into() };
    let special = |kind| ContextError::NotReadable { path: shown.to_owned(), kind };
    // Without NONBLOCK, opening a pipe waits for a writer where nobody can interrupt it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(file, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::NXIO) => return Err(special("a socket")),
        Err(errno) => return Err(failed(errno)),
    };
    let stat = rustix::fs::fstat(&opened).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(special("a directory"));
    }
    let read = limited(CancelRead::new(opened, cancel), shown);
    if cancel.is_cancelled() {
        return Err(ContextError::Canceled);
    }
    read.map(Some)
}

/// Reads a Dockerfile or ignore file to its end, which must come before the limit. `shown` is its name for messages.
pub fn limited(file: impl Read, shown: &str) -> Result<Vec<u8>, ContextError> {
    let mut text = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut text);
    read.map_err(|source| ContextError::Read { path: PathBuf::from(shown), source })?;
    if text.len() as u64 > LARGEST {
        return Err(ContextError::TooLarge { path: shown.to_owned(), limit: LARGEST });
    }
    Ok(text)
}

/// Whether an error means that a file does not exist.
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
