//! Where the directories of a layer's entries really lie.

use crate::fs::paths::{join, split};

use super::diff::ParentKind;
use super::entry::{Entry, EntryKind, Metadata};
use super::error::LayerError;
use super::unpack_entry::{Work, implicit, invalid, show};

/// As Linux: more symbolic links than this on one way is a loop.
const MAX_LINKS: usize = 40;

/// Which links are followed on the way to a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Through {
    ThisLayer,
    /// Those of the layers below too.
    All,
}

enum Seen {
    Dir,
    Link(Vec<u8>),
    /// Not on disk yet; the metadata a directory made here takes.
    Nothing(Metadata),
    Other,
}

impl Work<'_> {
    /// Where a directory really lies, as [`Self::directory_of`] finds it. Engines unpack each layer by itself
    /// and find no links of those below. An archive that a build adds is unpacked onto them.
    pub(super) fn directory(&mut self, stored: &[u8]) -> Result<Vec<u8>, LayerError> {
        self.directory_of(stored, if self.loose { Through::All } else { Through::ThisLayer })
    }

    /// Where a directory really lies: links are followed as the kernel would inside the root. Missing
    /// directories are made.
    pub(super) fn directory_of(&mut self, stored: &[u8], through: Through) -> Result<Vec<u8>, LayerError> {
        if stored.is_empty() {
            return Ok(Vec::new());
        }
        let known = if through == Through::All { &self.resolved } else { &self.resolved_here };
        if let Some(known) = known.get(stored) {
            return Ok(known.clone());
        }
        let mut pending: Vec<Vec<u8>> = stored.split(|c| *c == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        // Length of the path of the first directory on the way that hides what layers below have in it.
        let mut hidden_from: Option<usize> = None;
        let mut links = 0;
        while let Some(part) = pending.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = split(&at).0.to_vec();
                    continue;
                }
                _ => {}
            }
            hidden_from = hidden_from.filter(|length| *length <= at.len());
            if hidden_from.is_none() && self.listing.is_opaque(&at) {
                hidden_from = Some(at.len());
            }
            let next = join(&at, &part);
            match self.look(&next, hidden_from.is_some(), through) {
                Seen::Dir => at = next,
                Seen::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(invalid(format!("too many links in {:?}", show(stored))));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    self.followed.insert(next);
                    pending.extend(target.split(|c| *c == b'/').rev().map(<[u8]>::to_vec));
                }
                Seen::Nothing(meta) => {
                    self.make_dir(&next, meta)?;
                    at = next;
                }
                Seen::Other => return Err(invalid(format!("{:?} is not a directory", show(&next)))),
            }
        }
        self.held += (stored.len() + at.len()) as u64;
        let known = if through == Through::All { &mut self.resolved } else { &mut self.resolved_here };
        known.insert(stored.to_vec(), at.clone());
        Ok(at)
    }

    fn look(&self, path: &[u8], is_hidden: bool, through: Through) -> Seen {
        if let Some(entry) = self.listing.get(path) {
            match &entry.kind {
                EntryKind::Dir => return Seen::Dir,
                EntryKind::Symlink(target) => return Seen::Link(target.clone()),
                EntryKind::Whiteout => return Seen::Nothing(implicit()),
                _ => return Seen::Other,
            }
        }
        match self.parent.node(path).filter(|_| !is_hidden) {
            Some(node) => match node.kind {
                ParentKind::Dir => Seen::Nothing(node.meta),
                // The new directory hides it.
                _ if through == Through::ThisLayer => Seen::Nothing(implicit()),
                ParentKind::Symlink(target) => Seen::Link(target),
                ParentKind::Other => Seen::Other,
            },
            None => Seen::Nothing(implicit()),
        }
    }

    /// A directory the archive does not list: it takes the metadata of the one below.
    fn make_dir(&mut self, path: &[u8], meta: Metadata) -> Result<(), LayerError> {
        let hides = self.replace(path, &EntryKind::Dir)?;
        if let Some(root) = self.root {
            root.make_dir(path).map_err(|error| LayerError::inside("create", path, error))?;
        }
        self.implied.insert(path.to_vec());
        self.listing.add(Entry { path: path.to_vec(), kind: EntryKind::Dir, meta, offset: 0 });
        if hides { self.opaque(path.to_vec()) } else { Ok(()) }
    }
}
