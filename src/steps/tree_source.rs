//! The files of a stage or image as a source of copies.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::context::glob::{has_wildcard, match_path};
use crate::context::ignore::PatternSet;
use crate::context::{ContextError, FileInfo, FileKind, FileSource, Missing, Opened};
use crate::digest::{Digest, Hasher};
use crate::fs::paths::join;
use crate::layer::content_size;
use crate::snapshot::{Chain, Node, NodeKind, SnapshotError, Snapshots, Tree, path_order};

/// A chain's merged view as a [`FileSource`]. Listing needs no files on disk; reading a file unpacks
/// the layer that holds it, unless that was executed or unpacked here already.
pub struct TreeSource {
    snapshots: Snapshots,
    chain: Chain,
    tree: Arc<Tree>,
}

impl TreeSource {
    /// The files of `chain`; `tree` is its view.
    pub fn new(snapshots: Snapshots, chain: Chain, tree: Arc<Tree>) -> Self {
        TreeSource { snapshots, chain, tree }
    }

    /// Content digests of listed files. The layers' indexes know them, except those of layers that are
    /// still being digested: of those, a few files are read now, and many are waited for.
    pub fn digests(&self, files: &[FileInfo]) -> Result<Vec<Option<Digest>>, ContextError> {
        let mut missing: BTreeMap<usize, Vec<Missed<'_>>> = BTreeMap::new();
        let mut digests = Vec::with_capacity(files.len());
        for file in files {
            let node = self.tree.lookup(&file.path);
            let Some(NodeKind::File { size, digest }) = node.map(|node| &node.kind) else {
                digests.push(None);
                continue;
            };
            if let (None, Some(node)) = (digest, node) {
                let missed = Missed { at: digests.len(), place: node.place(&file.path), size: *size };
                missing.entry(node.layer).or_default().push(missed);
            }
            digests.push(*digest);
        }
        for (layer, missed) in missing {
            for (at, digest) in self.digests_of_layer(layer, &missed).map_err(|error| {
                let path = missed.first().map(|one| one.place.to_vec()).unwrap_or_default();
                ContextError::Io { action: "read", root: "/".into(), path, source: error }
            })? {
                if let Some(place) = digests.get_mut(at) {
                    *place = digest;
                }
            }
        }
        Ok(digests)
    }

    fn digests_of_layer(
        &self,
        layer: usize,
        missed: &[Missed<'_>],
    ) -> io::Result<Vec<(usize, Option<Digest>)>> {
        let Some(cell) = self.chain.cells().get(layer) else { return Ok(Vec::new()) };
        let (store, failed) =
            (self.snapshots.store(), |error: SnapshotError| io::Error::other(error.to_string()));
        let wanted = missed.iter().fold(0, |sum: u64, one| sum.saturating_add(one.size));
        if !cell.is_finished()
            && wanted <= content_size(&cell.entries(store).map_err(failed)?.entries) / READ_AT_MOST
        {
            let dir = self.snapshots.layer_dir(&self.chain, layer).map_err(failed)?;
            let digest = |one: &Missed<'_>| {
                let mut hasher = Hasher::new();
                io::copy(&mut crate::fs::open_file_in(&dir, one.place)?, &mut hasher)?;
                Ok((one.at, Some(hasher.finish())))
            };
            return missed.iter().map(digest).collect();
        }
        let index = cell.complete_entries(store).map_err(failed)?;
        let known: HashMap<&[u8], Digest> = index.digests().collect();
        Ok(missed.iter().map(|one| (one.at, known.get(one.place).copied())).collect())
    }

    fn open_file(&self, path: &[u8]) -> Result<File, ContextError> {
        let failed =
            |source| ContextError::Io { action: "read", root: "/".into(), path: path.to_vec(), source };
        let Some(node) = self.tree.lookup(path) else {
            return Err(ContextError::NotFound { root: "/".into(), path: path.to_vec() });
        };
        let dir = self
            .snapshots
            .layer_dir(&self.chain, node.layer)
            .map_err(|error| failed(io::Error::other(error.to_string())))?;
        crate::fs::open_file_in(&dir, node.place(path)).map_err(failed)
    }

    fn info(&self, path: &[u8], node: &Node) -> FileInfo {
        let (dev, ino, nlink) = match &node.link {
            Some(first) => (node.layer as u64 + 1, link_number(first), 2),
            None => (0, 0, 1),
        };
        FileInfo {
            path: path.to_vec(),
            kind: file_kind(&node.kind),
            mode: node.meta.mode,
            uid: node.meta.uid,
            gid: node.meta.gid,
            mtime: (node.meta.mtime, 0),
            ino,
            dev,
            nlink,
            ctime: (0, 0),
            xattrs: node.meta.xattrs.clone(),
        }
    }
}

/// A file whose digest its layer did not know yet.
struct Missed<'a> {
    /// Its position in the list.
    at: usize,
    /// Where its layer has it.
    place: &'a [u8],
    size: u64,
}

/// More than one part in so many of a layer is not read twice.
const READ_AT_MOST: u64 = 4;

/// Names of one file share this number; it is the first eight bytes of a digest of the first name.
fn link_number(first: &[u8]) -> u64 {
    let digest = crate::digest::Digest::of(first);
    digest.raw().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn file_kind(kind: &NodeKind) -> FileKind {
    match kind {
        NodeKind::File { size, .. } => FileKind::File { size: *size },
        NodeKind::Dir => FileKind::Dir,
        NodeKind::Symlink(target) => FileKind::Symlink { target: target.clone() },
        NodeKind::CharDevice(major, minor) => FileKind::CharDev { major: *major, minor: *minor },
        NodeKind::BlockDevice(major, minor) => FileKind::BlockDev { major: *major, minor: *minor },
        NodeKind::Fifo => FileKind::Fifo,
    }
}

fn root_info() -> FileInfo {
    FileInfo {
        path: Vec::new(),
        kind: FileKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        ino: 0,
        dev: 0,
        nlink: 1,
        ctime: (0, 0),
        xattrs: Vec::new(),
    }
}

impl FileSource for TreeSource {
    fn root(&self) -> &Path {
        Path::new("/")
    }

    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        if path.is_empty() {
            return Ok(Some(root_info()));
        }
        Ok(self.tree.lookup(path).map(|node| self.info(path, node)))
    }

    fn resolve(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        match self.tree.resolve(path) {
            Ok(real) => self.stat(&real),
            Err(_) => Ok(None),
        }
    }

    fn list(&self, path: &[u8], excluded: Option<&PatternSet>) -> Result<Vec<FileInfo>, ContextError> {
        let strip = if path.is_empty() { 0 } else { path.len() + 1 };
        let mut files: Vec<FileInfo> = self
            .tree
            .below(path)
            .filter(|(name, _)| {
                let relative = name.get(strip..).unwrap_or_default();
                excluded.is_none_or(|set| !set.matches(relative))
            })
            .map(|(name, node)| self.info(name, node))
            .collect();
        files.sort_by(|a, b| path_order(&a.path, &b.path));
        // An excluded directory is there for what a later pattern brings back below it.
        if excluded.is_some() {
            let known: std::collections::BTreeSet<Vec<u8>> =
                files.iter().map(|file| file.path.clone()).collect();
            let mut above: std::collections::BTreeSet<&[u8]> = std::collections::BTreeSet::new();
            for file in &known {
                let ends = file.iter().enumerate().skip(strip).filter(|(_, c)| **c == b'/');
                above.extend(ends.map(|(at, _)| &file[..at]).filter(|dir| !known.contains(*dir)));
            }
            let more = above.iter().filter_map(|dir| self.tree.lookup(dir).map(|node| self.info(dir, node)));
            let more: Vec<FileInfo> = more.collect();
            files.extend(more);
            files.sort_by(|a, b| path_order(&a.path, &b.path));
        }
        Ok(files)
    }

    fn select(
        &self,
        path: &[u8],
        wanted: &PatternSet,
        excluded: Option<&PatternSet>,
    ) -> Result<Vec<FileInfo>, ContextError> {
        let strip = if path.is_empty() { 0 } else { path.len() + 1 };
        let all = self.list(path, excluded)?;
        let relative = |file: &FileInfo| file.path.get(strip..).unwrap_or_default().to_vec();
        let matched: Vec<Vec<u8>> = all.iter().map(relative).filter(|name| wanted.matches(name)).collect();
        let above = |name: &[u8]| {
            let next = matched.partition_point(|other| path_order(other, name).is_lt());
            matched
                .get(next)
                .is_some_and(|other| other.starts_with(name) && other.get(name.len()) == Some(&b'/'))
        };
        Ok(all
            .into_iter()
            .filter(|file| {
                let name = relative(file);
                wanted.matches(&name) || (file.kind == FileKind::Dir && above(&name))
            })
            .collect())
    }

    fn glob(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
        let parts: Vec<&[u8]> = pattern.split(|c| *c == b'/').collect();
        let literal: Vec<&[u8]> = parts.iter().copied().take_while(|part| !has_wildcard(part)).collect();
        let prefix = literal.join(&b'/');
        let Some(base) = self.resolve(&prefix)? else {
            return Err(ContextError::NotFound { root: "/".into(), path: prefix });
        };
        let rest = parts.get(literal.len()..).unwrap_or_default().join(&b'/');
        let strip = if base.path.is_empty() { 0 } else { base.path.len() + 1 };
        let mut matches = Vec::new();
        for (path, _) in self.tree.below(&base.path) {
            let relative = path.get(strip..).unwrap_or_default();
            let fits = match_path(&rest, relative).map_err(|source| ContextError::Wildcard {
                pattern: String::from_utf8_lossy(pattern).into_owned(),
                source,
            })?;
            if fits {
                matches.push(join(&prefix, relative));
            }
        }
        matches.sort_by(|a, b| path_order(a, b));
        Ok(matches)
    }

    fn open(&self, path: &[u8]) -> Result<Opened, ContextError> {
        self.open_file(path).map(Opened::File)
    }

    fn open_frozen(&self, path: &[u8]) -> Result<Option<File>, ContextError> {
        self.open_file(path).map(Some)
    }

    fn nearest(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let (parent, name) = match path.iter().rposition(|c| *c == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        let Ok(real) = self.tree.resolve(parent) else { return Vec::new() };
        let strip = if real.is_empty() { 0 } else { real.len() + 1 };
        let siblings: Vec<String> = self
            .tree
            .below(&real)
            .filter_map(|(path, _)| path.get(strip..))
            .filter(|relative| !relative.contains(&b'/'))
            .map(|relative| String::from_utf8_lossy(relative).into_owned())
            .collect();
        let name = String::from_utf8_lossy(name);
        let near = crate::suggest::suggest(&name, siblings.iter().map(String::as_str));
        near.map(|near| join(parent, near.as_bytes())).into_iter().collect()
    }

    fn why_missing(&self, path: &[u8]) -> Missing {
        Missing::NotThere { nearest: self.nearest(path) }
    }
}
