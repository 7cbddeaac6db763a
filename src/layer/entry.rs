//! One change a layer makes, and the index of all of them.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

use super::tar_write::WHITEOUT;

/// What every entry but a whiteout carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Permission, setuid, setgid and sticky bits: at most `0o7777`, no file-type bits.
    pub mode: u32,
    /// Owner, in the image's own numbering.
    pub uid: u32,
    /// Group, in the image's own numbering.
    pub gid: u32,
    /// Modification time in whole seconds since 1970; may be negative.
    pub mtime: i64,
    /// Extended attributes that belong into the image, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of the content, once it was read.
        digest: Option<Digest>,
    },
    /// A directory.
    Dir,
    /// A symbolic link; the target's bytes as stored.
    Symlink(Vec<u8>),
    /// Another name of an earlier entry of the same layer; the path of that entry.
    Hardlink(Vec<u8>),
    /// Character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
    /// The path (and all below it) is gone: written as `.wh.NAME`.
    Whiteout,
    /// The directory at `path` hides everything that lower layers have in it: written as
    /// `.wh..wh..opq` inside it. Comes directly after the directory's own entry.
    Opaque,
}

/// One change of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path relative to the image's root: no leading or trailing slash, no `.` or `..`, any bytes
    /// but NUL. The root itself never has an entry. For a whiteout, the path that disappears.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its metadata; zeroes for whiteouts and opaque marks.
    pub meta: Metadata,
    /// Byte offset of the entry's content in the uncompressed tar stream; 0 where there is none.
    #[serde(default)]
    pub offset: u64,
}

impl Entry {
    /// Whether an archive of layers could not tell it from a deletion.
    pub fn is_named_as_whiteout(&self) -> bool {
        let name = self.path.rsplit(|c| *c == b'/').next().unwrap_or_default();
        name.starts_with(WHITEOUT) && !matches!(self.kind, EntryKind::Whiteout | EntryKind::Opaque)
    }
}

/// All entries of a layer in stream order: parents before children, siblings in byte order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerIndex {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl LayerIndex {
    /// Paths of files and the digests of their content, where known.
    pub fn digests(&self) -> impl Iterator<Item = (&[u8], Digest)> {
        self.entries.iter().filter_map(|entry| match entry.kind {
            EntryKind::File { digest: Some(digest), .. } => Some((entry.path.as_slice(), digest)),
            _ => None,
        })
    }
}

/// Bytes of the files of a list, together.
pub fn content_size(entries: &[Entry]) -> u64 {
    entries.iter().fold(0, |sum, entry| match entry.kind {
        EntryKind::File { size, .. } => sum.saturating_add(size),
        _ => sum,
    })
}
