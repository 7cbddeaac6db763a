//! The merged view of a chain of layers, by their indexes alone.
//!
//! A [`Tree`] answers what `lstat`, `readdir` and path resolution would answer inside the root file
//! system, without that file system being unpacked or mounted. It is a large shared base and a small
//! delta of what later layers changed, so that a step's tree costs what the step changed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::digest::Digest;
use crate::fs::paths::join;
use crate::layer::{Entry, EntryKind, LayerIndex, Metadata, ParentKind, ParentNode, ParentView};

/// As Linux: more symbolic links than this in one resolution is a loop.
const MAX_LINKS: usize = 40;
/// A delta larger than this is merged into a new base.
const COMPACT_AT: usize = 1024;

/// What a path is in the merged view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its kind.
    pub kind: NodeKind,
    /// Its metadata.
    pub meta: Metadata,
    /// Position in the chain, from 0, of the layer that supplies it.
    pub layer: usize,
    /// For a file with several names in its layer: the first of them.
    pub link: Option<Arc<[u8]>>,
    /// Offset of the content in its layer's tar stream.
    pub offset: u64,
}

/// Kinds of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of the content; absent while its layer is still being written.
        digest: Option<Digest>,
    },
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Character device.
    CharDevice(u32, u32),
    /// Block device.
    BlockDevice(u32, u32),
    /// Named pipe.
    Fifo,
}

impl Node {
    /// Where its layer has the content: under the first name, where there are several. The name it is
    /// seen under may have been made by a layer above, as a hard link to this one.
    pub fn place<'a>(&'a self, path: &'a [u8]) -> &'a [u8] {
        self.link.as_deref().unwrap_or(path)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == NodeKind::Dir
    }
}

/// Why a path could not be resolved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveError {
    /// A component that should be a directory is something else.
    #[error("/{} is not a directory", String::from_utf8_lossy(.0))]
    NotADirectory(Vec<u8>),
    /// Links that lead in a circle.
    #[error("too many levels of symbolic links in /{}", String::from_utf8_lossy(.0))]
    TooManyLinks(Vec<u8>),
}

type Nodes = BTreeMap<Arc<[u8]>, Arc<Node>>;
/// Files of layers below that have other names in a layer: the node, and that of all those names.
type Linked = HashMap<Vec<u8>, (Arc<Node>, Arc<Node>)>;

/// The merged view. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    base: Arc<Nodes>,
    delta: Nodes,
    /// Paths whose node *in the base*, and all below it, is hidden.
    hidden: BTreeSet<Arc<[u8]>>,
}

/// Orders paths as a depth-first walk meets them: parents before children, siblings in byte order.
pub fn path_order(a: &[u8], b: &[u8]) -> Ordering {
    a.split(|c| *c == b'/').cmp(b.split(|c| *c == b'/'))
}

impl Tree {
    /// The view of no layers.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Puts a layer on top; `layer` is its position in the chain.
    pub fn apply(&mut self, index: &LayerIndex, layer: usize) {
        let mut linked = Linked::new();
        for entry in &index.entries {
            self.apply_entry(entry, layer, &mut linked);
        }
        if self.delta.len() + self.hidden.len() > COMPACT_AT {
            self.compact();
        }
    }

    fn apply_entry(&mut self, entry: &Entry, layer: usize, linked: &mut Linked) {
        let path = entry.path.as_slice();
        let kind = match &entry.kind {
            EntryKind::Whiteout => return self.remove(path),
            EntryKind::Opaque => return self.remove_children_below(path, layer),
            EntryKind::File { size, digest } => NodeKind::File { size: *size, digest: *digest },
            EntryKind::Dir => NodeKind::Dir,
            EntryKind::Symlink(target) => NodeKind::Symlink(target.clone()),
            EntryKind::CharDevice { major, minor } => NodeKind::CharDevice(*major, *minor),
            EntryKind::BlockDevice { major, minor } => NodeKind::BlockDevice(*major, *minor),
            EntryKind::Fifo => NodeKind::Fifo,
            EntryKind::Hardlink(target) => return self.apply_link(path, target, linked),
        };
        let keeps_children = kind == NodeKind::Dir && self.lookup(path).is_some_and(|node| node.is_dir());
        if !keeps_children {
            self.remove(path);
        }
        let node = Node { kind, meta: entry.meta.clone(), layer, link: None, offset: entry.offset };
        self.delta.insert(path.into(), Arc::new(node));
    }

    /// Another name of a file. All names share one node: a file can have very many, and large attributes.
    fn apply_link(&mut self, path: &[u8], target: &[u8], linked: &mut Linked) {
        let Some(node) = self.lookup(target).cloned() else { return };
        let shared = match (&node.link, linked.get(target)) {
            (Some(_), _) => node,
            (None, Some((of, shared))) if Arc::ptr_eq(of, &node) => shared.clone(),
            (None, _) => {
                let shared = Arc::new(Node { link: Some(target.into()), ..Node::clone(&node) });
                match self.delta.get_mut(target) {
                    Some(first) => *first = shared.clone(),
                    None => drop(linked.insert(target.to_vec(), (node, shared.clone()))),
                }
                shared
            }
        };
        self.remove(path);
        self.delta.insert(path.into(), shared);
    }

    fn remove(&mut self, path: &[u8]) {
        self.delta.remove(path);
        let below: Vec<_> = children_range(&self.delta, path).map(|(key, _)| key.clone()).collect();
        for key in below {
            self.delta.remove(&key);
        }
        if self.base.contains_key(path) || children_range(&self.base, path).next().is_some() {
            self.hidden.insert(path.into());
        }
    }

    /// Everything below `path` that comes from layers under `layer` disappears.
    fn remove_children_below(&mut self, path: &[u8], layer: usize) {
        let own: Vec<(Arc<[u8]>, Arc<Node>)> = self
            .delta
            .get_key_value(path)
            .into_iter()
            .chain(children_range(&self.delta, path))
            .filter(|(_, node)| node.layer == layer)
            .map(|(key, node)| (key.clone(), node.clone()))
            .collect();
        let directory = self.lookup(path).cloned();
        self.remove(path);
        if let Some(directory) = directory {
            self.delta.insert(path.into(), directory);
        }
        self.delta.extend(own);
    }

    /// Whether the base's node at `path` is hidden by a later layer.
    fn base_hidden(&self, path: &[u8]) -> bool {
        if self.hidden.is_empty() {
            return false;
        }
        let ancestors = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| &path[..at]);
        ancestors.chain(std::iter::once(path)).any(|prefix| self.hidden.contains(prefix))
    }

    /// What `lstat` would say of a path relative to the root; the root itself is `""`, always a
    /// directory, and has no node.
    pub fn lookup(&self, path: &[u8]) -> Option<&Arc<Node>> {
        if let Some(node) = self.delta.get(path) {
            return Some(node);
        }
        let node = self.base.get(path)?;
        (!self.base_hidden(path)).then_some(node)
    }

    /// Whether a path is there as a directory; the root always is.
    pub fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.lookup(path).is_some_and(|node| node.is_dir())
    }

    /// Everything below a directory (all of the tree for `""`), in no particular order of siblings
    /// but complete; sort with [`path_order`] where order matters.
    pub fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a Arc<Node>)> {
        let from_base = children_range(&self.base, path)
            .filter(|(key, _)| !self.delta.contains_key(*key) && !self.base_hidden(key));
        children_range(&self.delta, path).chain(from_base).map(|(key, node)| (&**key, node))
    }

    /// Resolves a path inside the root as the kernel would for a process living there: links are
    /// followed, absolute targets start at the root, `..` stops at the root. Components that do not
    /// exist are appended as they are, so the result names where a file *would* be created.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, ResolveError> {
        self.walk(path, true)
    }

    /// As [`Tree::resolve`], but a link in the last component is not followed.
    pub fn resolve_parent(&self, path: &[u8]) -> Result<Vec<u8>, ResolveError> {
        self.walk(path, false)
    }

    fn walk(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, ResolveError> {
        let mut pending: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            if component == b".." {
                at.truncate(at.iter().rposition(|c| *c == b'/').unwrap_or(0));
                continue;
            }
            let next = join(&at, &component);
            match self.lookup(&next).map(|node| &node.kind) {
                Some(NodeKind::Symlink(target)) if follow_last || !pending.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ResolveError::TooManyLinks(path.to_vec()));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    pending.extend(components(target).rev().map(<[u8]>::to_vec));
                }
                Some(NodeKind::Dir) | None => at = next,
                Some(_) if pending.is_empty() => at = next,
                Some(_) => return Err(ResolveError::NotADirectory(next)),
            }
        }
        Ok(at)
    }

    fn compact(&mut self) {
        let mut merged: Nodes = self
            .base
            .iter()
            .filter(|(key, _)| !self.base_hidden(key))
            .map(|(key, node)| (key.clone(), node.clone()))
            .collect();
        merged.append(&mut self.delta);
        self.hidden.clear();
        self.base = Arc::new(merged);
    }
}

impl ParentView for Tree {
    fn node(&self, path: &[u8]) -> Option<ParentNode> {
        let node = self.lookup(path)?;
        let kind = match &node.kind {
            NodeKind::Dir => ParentKind::Dir,
            NodeKind::Symlink(target) => ParentKind::Symlink(target.clone()),
            _ => ParentKind::Other,
        };
        Some(ParentNode { kind, meta: node.meta.clone() })
    }
}

/// Components without empty ones and `.`.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|c| *c == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && path.get(dir.len()) == Some(&b'/'))
}

/// All keys strictly below `dir`. Keys with the prefix `dir/` are neighbours in byte order.
fn children_range<'a>(
    nodes: &'a Nodes,
    dir: &'a [u8],
) -> impl Iterator<Item = (&'a Arc<[u8]>, &'a Arc<Node>)> {
    let start = if dir.is_empty() { Vec::new() } else { join(dir, b"") };
    nodes
        .range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded))
        .take_while(move |(key, _)| is_below(key, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(mode: u32) -> Metadata {
        Metadata { mode, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() }
    }

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { path: path.into(), kind, meta: meta(0o755), offset: 0 }
    }

    fn file(path: &str) -> Entry {
        entry(path, EntryKind::File { size: 1, digest: None })
    }

    fn dir(path: &str) -> Entry {
        entry(path, EntryKind::Dir)
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, EntryKind::Symlink(target.into()))
    }

    fn tree(layers: &[Vec<Entry>]) -> Tree {
        let mut tree = Tree::empty();
        for (position, entries) in layers.iter().enumerate() {
            tree.apply(&LayerIndex { entries: entries.clone() }, position);
        }
        tree
    }

    fn paths(tree: &Tree) -> Vec<String> {
        let mut all: Vec<&[u8]> = tree.below(b"").map(|(path, _)| path).collect();
        all.sort_by(|a, b| path_order(a, b));
        all.into_iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    #[test]
    fn a_whiteout_removes_a_directory_and_all_below_it_and_nothing_else() {
        let mut layers =
            vec![vec![dir("a"), file("a/x"), dir("a/d"), file("a/d/y"), file("a-b"), file("a.c")]];
        layers.push(vec![entry("a", EntryKind::Whiteout)]);
        assert_eq!(paths(&tree(&layers)), ["a-b", "a.c"]);
    }

    #[test]
    fn an_opaque_directory_hides_lower_children_and_keeps_its_own_layers() {
        let lower = vec![dir("a"), file("a/old"), dir("a/sub"), file("a/sub/old")];
        let upper = vec![dir("a"), entry("a", EntryKind::Opaque), file("a/new")];
        assert_eq!(paths(&tree(&[lower, upper])), ["a", "a/new"]);
    }

    #[test]
    fn what_comes_back_after_a_whiteout_is_seen_without_the_old_children() {
        let first = vec![dir("a"), file("a/x")];
        let second = vec![entry("a", EntryKind::Whiteout)];
        let third = vec![dir("a"), file("a/y")];
        assert_eq!(paths(&tree(&[first, second, third])), ["a", "a/y"]);
    }

    #[test]
    fn a_file_in_place_of_a_directory_removes_its_children() {
        assert_eq!(paths(&tree(&[vec![dir("a"), file("a/x")], vec![file("a")]])), ["a"]);
    }

    #[test]
    fn compaction_changes_nothing_that_can_be_seen() {
        let first: Vec<Entry> =
            std::iter::once(dir("d")).chain((0..1500).map(|n| file(&format!("d/{n:04}")))).collect();
        let second: Vec<Entry> =
            (0..1400).map(|n| entry(&format!("d/{n:04}"), EntryKind::Whiteout)).collect();
        let merged = tree(&[first, second]);
        assert_eq!(merged.below(b"d").count(), 100);
        assert!(merged.hidden.is_empty());
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let tree = tree(&[vec![
            dir("etc"),
            dir("run"),
            dir("var"),
            link("var/run", "/run"),
            link("up", "../../../etc"),
            link("loop", "loop"),
            file("etc/passwd"),
        ]]);
        assert_eq!(tree.resolve(b"/var/run/x"), Ok(b"run/x".to_vec()));
        assert_eq!(tree.resolve(b"up/passwd"), Ok(b"etc/passwd".to_vec()));
        assert_eq!(tree.resolve(b"../../etc/./passwd"), Ok(b"etc/passwd".to_vec()));
        assert_eq!(tree.resolve_parent(b"var/run"), Ok(b"var/run".to_vec()));
        assert_eq!(tree.resolve(b"loop"), Err(ResolveError::TooManyLinks(b"loop".to_vec())));
        assert_eq!(tree.resolve(b"etc/passwd/x"), Err(ResolveError::NotADirectory(b"etc/passwd".to_vec())));
    }

    #[test]
    fn hard_links_share_their_group() {
        let tree = tree(&[vec![file("a"), entry("b", EntryKind::Hardlink(b"a".to_vec()))]]);
        let link = |path: &[u8]| tree.lookup(path).and_then(|node| node.link.as_deref().map(<[u8]>::to_vec));
        assert_eq!(link(b"a"), Some(b"a".to_vec()));
        assert_eq!(link(b"b"), Some(b"a".to_vec()));
    }

    #[test]
    fn all_names_of_a_file_of_a_layer_below_share_one_node() {
        let names: Vec<Entry> =
            ["b", "c"].into_iter().map(|name| entry(name, EntryKind::Hardlink(b"a".to_vec()))).collect();
        let tree = tree(&[vec![file("a")], names]);
        let (b, c) = (tree.lookup(b"b"), tree.lookup(b"c"));
        assert!(b.zip(c).is_some_and(|(b, c)| Arc::ptr_eq(b, c) && b.link.as_deref() == Some(&b"a"[..])));
    }

    #[test]
    fn many_opaque_marks_leave_what_their_own_layer_has() {
        let lower = (0..3).flat_map(|n| [dir(&format!("d{n}")), file(&format!("d{n}/old"))]).collect();
        let upper = (0..3).flat_map(|n| {
            let path = format!("d{n}");
            [dir(&path), entry(&path, EntryKind::Opaque), file(&format!("d{n}/new"))]
        });
        let expected = ["d0", "d0/new", "d1", "d1/new", "d2", "d2/new"];
        assert_eq!(paths(&tree(&[lower, upper.collect()])), expected);
    }

    #[test]
    fn the_walk_order_puts_children_right_after_their_parent() {
        let mut names = vec!["a-b", "a/x", "a", "a.c"];
        names.sort_by(|x, y| path_order(x.as_bytes(), y.as_bytes()));
        assert_eq!(names, ["a", "a/x", "a-b", "a.c"]);
    }
}
