//! What is known of a file without reading it, and the trait of everything that files come from.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::digest::FileState;
use super::error::ContextError;
use super::ignore::{PatternSet, RuleRef};

/// One entry of a file tree, as found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Context path.
    pub path: Vec<u8>,
    /// Type, with what only this type has.
    pub kind: FileKind,
    /// Permission bits, set-id and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since the epoch, nanoseconds.
    pub mtime: (i64, u32),
    /// Inode number.
    pub ino: u64,
    /// Device the inode lies on.
    pub dev: u64,
    /// Number of hard links.
    pub nlink: u64,
    /// Status change time: seconds since the epoch, nanoseconds.
    pub ctime: (i64, u32),
    /// `security.capability` and `user.*`, sorted; empty unless asked for.
    pub xattrs: Xattrs,
}

/// Extended attributes: names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The type of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// What it points to, verbatim.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A socket.
    Socket,
}

impl FileInfo {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }
}

impl FileKind {
    /// The type for messages, with its article.
    pub fn describe(&self) -> &'static str {
        match self {
            FileKind::File { .. } => "a file",
            FileKind::Dir => "a directory",
            FileKind::Symlink { .. } => "a symbolic link",
            FileKind::Fifo => "a fifo",
            FileKind::CharDev { .. } => "a character device",
            FileKind::BlockDev { .. } => "a block device",
            FileKind::Socket => "a socket",
        }
    }
}

/// An open file of a [`FileSource`].
pub enum Opened {
    /// A file on disk, for sources that can give one: it can be cloned or copied by the kernel.
    File(File),
    /// Any other stream.
    Stream(Box<dyn Read + Send>),
}

impl Read for Opened {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Opened::File(file) => file.read(buffer),
            Opened::Stream(stream) => stream.read(buffer),
        }
    }
}

/// Why a source's path leads to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// There is nothing there.
    NotThere {
        /// Existing paths with nearly that name, best first.
        nearest: Vec<Vec<u8>>,
    },
    /// It exists, but an ignore rule hides it.
    Ignored {
        /// The ignore file, as it was named when its rules were read.
        file: String,
        /// The rule.
        rule: RuleRef,
    },
}

/// A tree of files that COPY, ADD and bind mounts select from. Paths are context paths (see
/// [`super::paths`]); a text from a Dockerfile goes through [`super::paths::clean`] first.
pub trait FileSource: Send + Sync {
    /// Where the source lies, for messages.
    fn root(&self) -> &Path;

    /// What lies at `path`, following no symlink; `None` if nothing does or a rule hides it.
    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError>;

    /// What `path` leads to, following symlinks within the source: absolute targets count from its
    /// root, `..` stops there. The result's `path` is where it really lies, free of symlinks.
    fn resolve(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError>;

    /// Everything below the directory `path` (itself left out), or just the file `path`; sorted by
    /// components, parents before children, following no symlink. Patterns of `excluded` are relative
    /// to the directory; a file is excluded by its name. Sockets are left out.
    fn list(&self, path: &[u8], excluded: Option<&PatternSet>) -> Result<Vec<FileInfo>, ContextError>;

    /// What `wanted` matches below the directory `path`, with all below a matched directory and the
    /// directories above any match; otherwise as [`FileSource::list`]. This is the selection of
    /// `COPY --parents`. All patterns are relative to `path`, and only directories that can hold a
    /// match are read.
    fn select(
        &self,
        path: &[u8],
        wanted: &PatternSet,
        excluded: Option<&PatternSet>,
    ) -> Result<Vec<FileInfo>, ContextError>;

    /// The paths that a COPY wildcard selects, in the order of a walk. Components before the first
    /// wildcard are followed through symlinks and must exist; matches themselves are not followed.
    fn glob(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ContextError>;

    /// Opens a regular file for reading. `path` must be free of symlinks, as in listings.
    fn open(&self, path: &[u8]) -> Result<Opened, ContextError>;

    /// The same for a file in a known state; `None` if it is in another one by now, or if the source has no
    /// files on disk.
    fn open_in_state(&self, _path: &[u8], _state: &FileState) -> Result<Option<File>, ContextError> {
        Ok(None)
    }

    /// The same for a file that cannot change any more; `None` where files can.
    fn open_frozen(&self, _path: &[u8]) -> Result<Option<File>, ContextError> {
        Ok(None)
    }

    /// The directory of this machine that holds exactly what the source shows, if there is one: no
    /// rule hides anything in it.
    fn whole_directory(&self) -> Option<&Path> {
        None
    }

    /// Existing paths close to the missing `path`; those differing in case only come first.
    fn nearest(&self, path: &[u8]) -> Vec<Vec<u8>>;

    /// Why `path` leads to nothing, for the error text.
    fn why_missing(&self, path: &[u8]) -> Missing;
}
