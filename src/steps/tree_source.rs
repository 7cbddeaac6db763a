//! The files of a stage or image as a source of copies.

use std::io::Read;
use std::sync::Arc;

use crate::context::{
    ContextError, FileInfo, FileKind, FileSource, Missing, PatternSet, match_path,
};
use crate::snapshot::{Chain, Node, NodeKind, Snapshots, Tree, path_order};

use super::place::join;

/// Names offered for a path that is missing.
const SUGGESTIONS: usize = 3;

/// A chain's merged view as a [`FileSource`]. Listing needs no files on disk; reading a file unpacks
/// the layer that holds it, unless that was executed or unpacked here already.
pub struct TreeSource {
    snapshots: Snapshots,
    chain: Chain,
    tree: Arc<Tree>,
}

impl TreeSource {
    /// The files of `chain`; `tree` is its view with content digests.
    pub fn new(snapshots: Snapshots, chain: Chain, tree: Arc<Tree>) -> Self {
        TreeSource { snapshots, chain, tree }
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
    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        if path.is_empty() {
            return Ok(Some(root_info()));
        }
        Ok(self.tree.lookup(path).map(|node| self.info(path, node)))
    }

    fn resolve(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        match self.tree.resolve(path) {
            Ok(real) if real.is_empty() || self.tree.lookup(&real).is_some() => Ok(Some(real)),
            _ => Ok(None),
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
        Ok(files)
    }

    fn glob(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
        let parts: Vec<&[u8]> = pattern.split(|c| *c == b'/').collect();
        let literal: Vec<&[u8]> =
            parts.iter().copied().take_while(|part| !crate::context::has_wildcard(part)).collect();
        let prefix = literal.join(&b'/');
        let Some(real) = self.resolve(&prefix)? else { return Ok(Vec::new()) };
        let rest = parts.get(literal.len()..).unwrap_or_default().join(&b'/');
        let strip = if real.is_empty() { 0 } else { real.len() + 1 };
        let mut matches = Vec::new();
        for (path, _) in self.tree.below(&real) {
            let relative = path.get(strip..).unwrap_or_default();
            if match_path(&rest, relative).map_err(|_| ContextError::bad_pattern(pattern))? {
                matches.push(join(&prefix, relative));
            }
        }
        matches.sort_by(|a, b| path_order(a, b));
        Ok(matches)
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send>, ContextError> {
        let Some(node) = self.tree.lookup(path) else {
            return Err(ContextError::read(path, std::io::ErrorKind::NotFound.into()));
        };
        let dir = self
            .snapshots
            .layer_dir(&self.chain, node.layer)
            .map_err(|error| ContextError::read(path, std::io::Error::other(error.to_string())))?;
        let file = crate::fs::open_file_in(&dir, path).map_err(|error| ContextError::read(path, error))?;
        Ok(Box::new(file))
    }

    fn why_missing(&self, path: &[u8]) -> Result<Missing, ContextError> {
        let (parent, name) = match path.iter().rposition(|c| *c == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        let real = self.resolve(parent)?.unwrap_or_default();
        let strip = if real.is_empty() { 0 } else { real.len() + 1 };
        let siblings: Vec<Vec<u8>> = self
            .tree
            .below(&real)
            .filter_map(|(path, _)| path.get(strip..))
            .filter(|relative| !relative.contains(&b'/'))
            .map(<[u8]>::to_vec)
            .collect();
        let mut near: Vec<Vec<u8>> = crate::context::nearest_names(name, &siblings);
        near.truncate(SUGGESTIONS);
        Ok(Missing::NotThere { nearest: near.into_iter().map(|name| join(parent, &name)).collect() })
    }
}
