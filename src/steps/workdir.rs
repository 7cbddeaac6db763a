//! `WORKDIR`: the directories that are missing.

use crate::layer::{Entry, EntryKind, LayerIndex, Metadata};
use crate::snapshot::{ResolveError, Tree};

use super::place::SETGID;

/// Why a working directory cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorkdirError {
    /// Something on the way is no directory.
    #[error("cannot make the working directory {path}: {source}")]
    Resolve {
        /// The path.
        path: String,
        /// Why.
        source: ResolveError,
    },
    /// The path itself is something else.
    #[error("cannot use {0} as the working directory: it is not a directory")]
    NotADirectory(String),
}

/// The entries that make `path` (absolute) a directory: every missing component 0755 and owned by
/// `owner`, or without one by root; nothing where it exists. In a setgid directory a new one has that bit
/// too, and its group unless there is an owner. Links are followed inside the root.
pub fn entries(
    tree: &Tree,
    path: &[u8],
    owner: Option<(u32, u32)>,
    mtime: i64,
) -> Result<LayerIndex, WorkdirError> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let real = tree.resolve(path).map_err(|source| WorkdirError::Resolve { path: shown(), source })?;
    if tree.is_dir(&real) {
        return Ok(LayerIndex::default());
    }
    let mut entries = Vec::new();
    let ends = real.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| at);
    for end in ends.chain(std::iter::once(real.len())) {
        let prefix = &real[..end];
        let meta = match tree.lookup(prefix) {
            Some(node) if node.is_dir() => node.meta.clone(),
            Some(_) => return Err(WorkdirError::NotADirectory(shown())),
            None => {
                let above = entries.last().map(|entry: &Entry| &entry.meta);
                let given = above.filter(|meta| meta.mode & SETGID != 0);
                let mode = 0o755 | given.map_or(0, |_| SETGID);
                let (uid, gid) = owner.unwrap_or((0, given.map_or(0, |meta| meta.gid)));
                Metadata { mode, uid, gid, mtime, xattrs: Vec::new() }
            }
        };
        entries.push(Entry { path: prefix.to_vec(), kind: EntryKind::Dir, meta, offset: 0 });
    }
    Ok(LayerIndex { entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let meta = Metadata { mode: 0o700, uid: 5, gid: 5, mtime: 9, xattrs: Vec::new() };
        let entry = |path: &str, kind| Entry { path: path.into(), kind, meta: meta.clone(), offset: 0 };
        let mut tree = Tree::empty();
        let entries = vec![
            entry("a", EntryKind::Dir),
            entry("f", EntryKind::File { size: 0, digest: None }),
            entry("l", EntryKind::Symlink(b"/a".to_vec())),
        ];
        tree.apply(&LayerIndex { entries }, 0);
        tree
    }

    #[test]
    fn missing_components_are_made_and_existing_ones_kept() -> Result<(), WorkdirError> {
        let made = entries(&tree(), b"/l/b/c", Some((1000, 1000)), 7)?.entries;
        let seen: Vec<_> = made.iter().map(|e| (e.path.as_slice(), e.meta.mode, e.meta.uid)).collect();
        assert_eq!(seen, [(&b"a"[..], 0o700, 5), (b"a/b", 0o755, 1000), (b"a/b/c", 0o755, 1000)]);
        assert_eq!(entries(&tree(), b"/l", None, 7)?, LayerIndex::default());
        assert_eq!(entries(&tree(), b"/", None, 7)?, LayerIndex::default());
        Ok(())
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        assert!(matches!(entries(&tree(), b"/f", None, 0), Err(WorkdirError::NotADirectory(_))));
        assert!(matches!(entries(&tree(), b"/f/x", None, 0), Err(WorkdirError::Resolve { .. })));
    }
}
