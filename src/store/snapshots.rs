//! Snapshots: one layer's directory in overlayfs form, and which chain it tops.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::digest::{ChainId, DiffId, Digest};

use super::open::{Store, StoreError};
use super::temp::TempDir;

/// Names a snapshot inside a store. Only ever made by the store: letters, digits and dashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Reads an ID back from a record; refuses what the store would not have made.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        (!text.is_empty() && text.len() < 128 && text.bytes().all(plain)).then(|| SnapshotId(text.to_owned()))
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How owners of images are kept on disk. Snapshots of one kind cannot be used as those of another: their
/// files would belong to somebody else.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SnapshotKind(String);

impl SnapshotKind {
    /// Owners on disk are those in images.
    pub fn plain() -> Self {
        Self::default()
    }

    /// The kind that a text identifies.
    pub fn of(text: &str) -> Self {
        SnapshotKind(Digest::of(text.as_bytes()).short())
    }

    /// What tells it from other kinds; empty for the plain one.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the name of a note for a chain ends with.
    fn suffix(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!(".{}", self.0) }
    }

    /// Splits the name of a note: the chain, and the kind of its snapshot.
    pub(super) fn split(name: &str) -> Option<(Digest, Self)> {
        let (hex, kind) = name.split_once('.').unwrap_or((name, ""));
        let kind = SnapshotKind(kind.to_owned());
        let plain = kind.0.bytes().all(|c| c.is_ascii_hexdigit());
        Digest::from_hex(hex).filter(|_| plain && !name.ends_with('.')).map(|chain| (chain, kind))
    }
}

impl Store {
    /// The name of the note for a chain.
    fn chain_note(chain: &ChainId, kind: &SnapshotKind) -> String {
        format!("{}{}", chain.0.hex(), kind.suffix())
    }

    fn chain_path(&self, chain: &ChainId, kind: &SnapshotKind) -> PathBuf {
        self.fan_out("chains", &chain.0, &kind.suffix())
    }

    /// The snapshot holding the topmost layer of a chain, if it was unpacked or executed here.
    pub fn chain_snapshot(
        &self,
        chain: &ChainId,
        kind: &SnapshotKind,
    ) -> Result<Option<SnapshotId>, StoreError> {
        let content = self.read_used(&self.chain_path(chain, kind))?;
        let id =
            content.and_then(|bytes| String::from_utf8(bytes).ok()).and_then(|text| SnapshotId::parse(&text));
        Ok(id.filter(|id| self.use_now(&self.root().join("snapshots").join(id.as_str()))))
    }

    /// The snapshots of a chain, of whatever kinds. Their files may belong to others than this user's.
    pub fn chain_snapshots(&self, chain: &ChainId) -> Result<Vec<SnapshotId>, StoreError> {
        let mut found = Vec::new();
        for kind in self.chain_kinds(chain)? {
            found.extend(self.chain_snapshot(chain, &kind)?);
        }
        Ok(found)
    }

    fn chain_kinds(&self, chain: &ChainId) -> Result<Vec<SnapshotKind>, StoreError> {
        let plain = self.chain_path(chain, &SnapshotKind::plain());
        let Some(dir) = plain.parent().filter(|dir| dir.is_dir()) else { return Ok(Vec::new()) };
        let names = super::files::entries(dir)?.into_iter();
        let names = names.filter_map(|entry| SnapshotKind::split(entry.file_name().to_str()?));
        Ok(names.filter(|(other, _)| *other == chain.0).map(|(_, kind)| kind).collect())
    }

    /// Marks a layer as used by this process, in every form in which it is here: its blobs are those that
    /// its description names.
    pub fn use_layer(&self, diff_id: &DiffId, chain: &ChainId) {
        self.use_now(&self.fan_out("layers", &diff_id.0, ".json"));
        self.use_now(&self.fan_out("index", &diff_id.0, ""));
        self.use_now(&self.blob_path(&diff_id.0));
        // What cannot be looked at counts as not there.
        drop(self.chain_snapshots(chain));
    }

    /// Notes that a snapshot holds the topmost layer of a chain; from then on it outlives this process.
    /// Where the chain has one already, that stays, since it has the same files, and this one goes with
    /// this process.
    pub fn put_chain_snapshot(
        &self,
        chain: &ChainId,
        kind: &SnapshotKind,
        id: &SnapshotId,
    ) -> Result<(), StoreError> {
        if self.chain_snapshot(chain, kind)?.is_some() {
            return Ok(());
        }
        // Should this process die on the way, the note leads to the chain that decides.
        let note = self.frozen_note(id.as_str());
        if note.exists() {
            fs::write(&note, Self::chain_note(chain, kind)).map_err(StoreError::io("write", &note))?;
        }
        self.put_chain(chain, kind, id)?;
        if self.chain_snapshot(chain, kind)?.as_ref() == Some(id) {
            let _ = fs::remove_file(&note);
        }
        Ok(())
    }

    /// Of several processes at once the first wins.
    fn put_chain(&self, chain: &ChainId, kind: &SnapshotKind, id: &SnapshotId) -> Result<(), StoreError> {
        let path = self.chain_path(chain, kind);
        let temporary = self.temp_path();
        fs::write(&temporary, id.as_str()).map_err(StoreError::io("write", &path))?;
        if let Some(parent) = path.parent() {
            super::files::make_dir(parent)?;
        }
        let linked = fs::hard_link(&temporary, &path).is_ok();
        // What is there may lead nowhere, and not every file system knows hard links.
        if !linked && self.chain_snapshot(chain, kind)?.is_none() {
            return self.rename_into_place(&temporary, &path);
        }
        let _ = fs::remove_file(&temporary);
        Ok(())
    }

    /// The layer directory of a snapshot.
    pub fn snapshot_dir(&self, id: &SnapshotId) -> PathBuf {
        self.root().join("snapshots").join(id.as_str()).join("fs")
    }

    /// Turns `dir/fs` into a snapshot by one rename of `dir`. From then on it is immutable. It goes with
    /// this process unless a chain is noted for it.
    pub fn freeze_snapshot(&self, dir: TempDir) -> Result<SnapshotId, StoreError> {
        let (pid, number) = self.unique();
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let id = SnapshotId(format!("{nanos:x}-{pid:x}-{number:x}"));
        let note = self.frozen_note(id.as_str());
        fs::write(&note, []).map_err(StoreError::io("write", &note))?;
        let target = self.root().join("snapshots").join(id.as_str());
        fs::rename(dir.path(), &target).map_err(StoreError::io("rename", &target))?;
        Ok(id)
    }

    /// Removes a private directory and all in it, whatever its modes.
    pub fn remove_dir(&self, path: &Path) -> Result<(), StoreError> {
        crate::fs::remove_tree(path).map_err(StoreError::io("remove", path))
    }
}
