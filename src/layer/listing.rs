//! The entries of a layer while its tar is read: what each name is so far, and which names share a file.
//!
//! Layers come from strangers, so every operation costs what it changes and never what was read before.
//! A name can be replaced as often as the archive likes, with any number of links to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use crate::fs::paths::join;

use super::entry::{Entry, EntryKind, LayerIndex};

/// The entries read so far.
#[derive(Default)]
pub(super) struct Listing {
    /// In stream order; what was replaced is `None`.
    entries: Vec<Option<Entry>>,
    by_path: BTreeMap<Vec<u8>, usize>,
    /// Directories with an opaque mark, and where the mark is.
    opaque: BTreeMap<Vec<u8>, usize>,
    /// The group of each entry that shares a file with others.
    group_of: HashMap<usize, usize>,
    /// Names of one file each, in stream order. The first that is still there is the file.
    groups: Vec<VecDeque<usize>>,
    held: u64,
    #[cfg(test)]
    pub(super) steps: u64,
}

impl Listing {
    /// Entries read, with those that were replaced.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of names, link targets and attributes of all entries read.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// What a path is so far.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.by_path.get(path).and_then(|at| self.entries.get(*at)).and_then(Option::as_ref)
    }

    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.by_path.contains_key(path)
    }

    /// Whether a directory hides what layers below have in it.
    pub(super) fn is_opaque(&self, dir: &[u8]) -> bool {
        self.opaque.contains_key(dir)
    }

    /// Whether a directory above a path is opaque.
    pub(super) fn hides_below(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, c)| **c == b'/');
        !self.opaque.is_empty() && slashes.map(|(at, _)| &path[..at]).any(|dir| self.is_opaque(dir))
    }

    /// Adds an entry, whose way was cleared before.
    pub(super) fn add(&mut self, entry: Entry) {
        let at = self.entries.len();
        self.held += cost(&entry);
        if entry.kind == EntryKind::Dir
            && let Some(slot @ None) = self.by_path.get(&entry.path).and_then(|at| self.entries.get_mut(*at))
        {
            *slot = Some(entry);
            // It counts for the limit of entries.
            return self.entries.push(None);
        }
        match &entry.kind {
            EntryKind::Opaque => drop(self.opaque.insert(entry.path.clone(), at)),
            EntryKind::Hardlink(target) => {
                if let Some(first) = self.by_path.get(target).copied() {
                    self.share(first, at);
                }
                self.by_path.insert(entry.path.clone(), at);
            }
            _ => drop(self.by_path.insert(entry.path.clone(), at)),
        }
        self.entries.push(Some(entry));
    }

    fn share(&mut self, first: usize, name: usize) {
        let group = *self.group_of.entry(first).or_insert_with(|| {
            self.groups.push(VecDeque::from([first]));
            self.groups.len() - 1
        });
        self.group_of.insert(name, group);
        if let Some(names) = self.groups.get_mut(group) {
            names.push_back(name);
        }
    }

    /// Takes a directory's entry out, for another one that comes next and takes its place in the order. What is
    /// below it stays.
    pub(super) fn forget_dir(&mut self, path: &[u8]) {
        if let Some(slot) = self.by_path.get(path).and_then(|at| self.entries.get_mut(*at)) {
            *slot = None;
        }
    }

    /// Takes a path out, with all below it.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let Some(at) = self.by_path.remove(path) else { return };
        let is_dir = self.get_at(at).is_some_and(|entry| entry.kind == EntryKind::Dir);
        self.take(at);
        if !is_dir {
            return;
        }
        for key in keys_below(&self.by_path, path) {
            if let Some(at) = self.by_path.remove(&key) {
                self.take(at);
            }
        }
        for key in std::iter::once(path.to_vec()).chain(keys_below(&self.opaque, path)) {
            if let Some(slot) = self.opaque.remove(&key).and_then(|at| self.entries.get_mut(at)) {
                *slot = None;
            }
        }
    }

    fn get_at(&self, at: usize) -> Option<&Entry> {
        self.entries.get(at).and_then(Option::as_ref)
    }

    /// A file that goes lives on under its other names: the first of them takes its place.
    fn take(&mut self, at: usize) {
        let gone = self.entries.get_mut(at).and_then(Option::take);
        let Some(group) = self.group_of.remove(&at) else { return };
        let (Some(gone), Some(names)) = (gone, self.groups.get_mut(group)) else { return };
        if names.front() != Some(&at) {
            return;
        }
        while let Some(first) = names.front() {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            if let Some(Some(heir)) = self.entries.get_mut(*first) {
                *heir = Entry { path: std::mem::take(&mut heir.path), ..gone };
                return;
            }
            names.pop_front();
        }
    }

    /// The entries in stream order, deletions first: those concern what lies below, wherever they stand
    /// in the stream.
    pub(super) fn finish(mut self) -> LayerIndex {
        for names in &self.groups {
            let mut living = names.iter().filter(|at| self.entries.get(**at).is_some_and(Option::is_some));
            let first = living.next().and_then(|at| self.entries.get(*at)).and_then(Option::as_ref);
            let Some(first) = first.map(|entry| entry.path.clone()) else { continue };
            let others: Vec<usize> = living.copied().collect();
            for at in others {
                if let Some(Some(entry)) = self.entries.get_mut(at) {
                    entry.kind = EntryKind::Hardlink(first.clone());
                }
            }
        }
        let (deletions, rest): (Vec<Entry>, Vec<Entry>) = self
            .entries
            .into_iter()
            .flatten()
            .partition(|entry| matches!(entry.kind, EntryKind::Whiteout | EntryKind::Opaque));
        LayerIndex { entries: deletions.into_iter().chain(rest).collect() }
    }
}

fn cost(entry: &Entry) -> u64 {
    let link = match &entry.kind {
        EntryKind::Symlink(target) | EntryKind::Hardlink(target) => target.len(),
        _ => 0,
    };
    let attributes: usize = entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    (entry.path.len() + link + attributes) as u64
}

fn keys_below(map: &BTreeMap<Vec<u8>, usize>, dir: &[u8]) -> Vec<Vec<u8>> {
    let start = join(dir, b"");
    map.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(&start))
        .map(|(key, _)| key.clone())
        .collect()
}
