//! How two images differ: configs by field, layers by entry, files by content; and their merged files.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Serialize;
use serde_json::Value;

use crate::image::ResolvedImage;
use crate::image::draft::StoredLayer;
use crate::layer::{self, BlobInfo, Entry, EntryKind, LayerError, LayerIndex, Metadata};
use crate::snapshot::{Chain, LayerCell, Node, NodeKind, SnapshotError, Snapshots, Tree, path_order};
use crate::store::Store;

use super::content::{self, ContentDifference};

/// Entries of one layer that are told; more are counted.
const MAX_ENTRIES: usize = 200;
/// Files of one layer whose contents are compared: each may be read anew from the layer's beginning.
const MAX_CONTENTS: usize = 50;

/// All differences of two images. Nothing in it means that they are the same, byte by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Fields of the config.
    pub config: Vec<FieldDifference>,
    /// Fields of the manifest that are not explained by config and layers.
    pub manifest: Vec<FieldDifference>,
    /// Layers, lowest first.
    pub layers: Vec<LayerDifference>,
}

impl Comparison {
    /// Whether both are the same.
    pub fn is_same(&self) -> bool {
        self.config.is_empty() && self.manifest.is_empty() && self.layers.is_empty()
    }
}

/// Values of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Its name; in documents a JSON pointer (RFC 6901).
    pub field: String,
    /// What the first has; `None` where it has nothing.
    pub old: Option<String>,
    /// What the second has.
    pub new: Option<String>,
}

/// How a layer differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerDifference {
    /// Its position from 1.
    pub layer: usize,
    /// The instruction that made it, from the history.
    pub created_by: String,
    /// What differs as a whole.
    pub summary: LayerChange,
    /// Entries, in the order of their paths.
    pub entries: Vec<EntryDifference>,
    /// Entries beyond those listed.
    pub more: usize,
}

/// How a layer differs as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerChange {
    /// Only the first image has it.
    OnlyInFirst,
    /// Only the second image has it.
    OnlyInSecond,
    /// The tar is the same and compressed in another way.
    Compression,
    /// The entries are the same in another order or form.
    Order,
    /// Entries differ.
    Entries,
}

/// How an entry differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryDifference {
    /// Its path; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// Which of both has it.
    pub change: Change,
    /// What differs, where both have it.
    pub fields: Vec<FieldDifference>,
    /// Where the contents differ.
    pub content: Option<ContentDifference>,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The second has it.
    Added,
    /// The first has it.
    Deleted,
    /// Both have it.
    Modified,
}

/// A path of the merged files that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChange {
    /// What happened.
    pub change: Change,
    /// The path; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// Bytes it had, for a regular file.
    pub old_size: Option<u64>,
    /// Bytes it has.
    pub new_size: Option<u64>,
    /// Names of what differs, where both have it.
    pub fields: Vec<String>,
}

/// Compares two images of the store.
pub fn compare(store: &Store, old: &ResolvedImage, new: &ResolvedImage) -> Result<Comparison, SnapshotError> {
    let mut result = Comparison {
        config: config_difference(&old.config_bytes, &new.config_bytes),
        ..Comparison::default()
    };
    let (old_chain, new_chain) = (chain(store, old)?, chain(store, new)?);
    let count = old.layers.len().max(new.layers.len());
    for at in 0..count {
        let image = if at < new.layers.len() { new } else { old };
        let difference = |summary| LayerDifference {
            layer: at + 1,
            created_by: created_by(image, at),
            summary,
            entries: Vec::new(),
            more: 0,
        };
        let (Some(a), Some(b)) = (old.diff_ids.get(at), new.diff_ids.get(at)) else {
            let only = at < old.layers.len();
            let change = if only { LayerChange::OnlyInFirst } else { LayerChange::OnlyInSecond };
            result.layers.push(difference(change));
            continue;
        };
        if a == b {
            if old.layers.get(at).map(|l| l.digest) != new.layers.get(at).map(|l| l.digest) {
                result.layers.push(difference(LayerChange::Compression));
            }
            continue;
        }
        let entries = [&old_chain, &new_chain].map(|chain| match chain.cells().get(at) {
            Some(cell) => cell.ensure_blob(store).and_then(|()| cell.complete_entries(store)),
            None => Ok(Default::default()),
        });
        let [a_entries, b_entries] = entries;
        let mut found = difference(LayerChange::Entries);
        let streams = (Reader::new(store, *a), Reader::new(store, *b));
        compare_entries(&*a_entries?, &*b_entries?, streams, &mut found)?;
        if found.entries.is_empty() {
            found.summary = LayerChange::Order;
        }
        result.layers.push(found);
    }
    if result.is_same() && old.manifest_bytes != new.manifest_bytes {
        result.manifest = config_difference(&old.manifest_bytes, &new.manifest_bytes);
    }
    Ok(result)
}

/// Compares the merged files of two images of the store. Times count only where `times` says so.
pub fn compare_files(
    store: &Store,
    snapshots: &Snapshots,
    old: &ResolvedImage,
    new: &ResolvedImage,
    times: bool,
) -> Result<Vec<FileChange>, SnapshotError> {
    let (old, new) = (chain(store, old)?, chain(store, new)?);
    let (old, new) = (snapshots.complete_tree(&old)?, snapshots.complete_tree(&new)?);
    let mut paths: Vec<&[u8]> = old.below(b"").map(|(path, _)| path).collect();
    paths.extend(new.below(b"").map(|(path, _)| path).filter(|path| old.lookup(path).is_none()));
    paths.sort_by(|a, b| path_order(a, b));
    Ok(paths.into_iter().filter_map(|path| file_change(&old, &new, path, times)).collect())
}

fn file_change(old: &Tree, new: &Tree, path: &[u8], times: bool) -> Option<FileChange> {
    let size = |node: &Node| match node.kind {
        NodeKind::File { size, .. } => Some(size),
        _ => None,
    };
    let (a, b) = (old.lookup(path), new.lookup(path));
    let (change, fields) = match (a, b) {
        (Some(a), Some(b)) => (Change::Modified, node_fields(a, b, times)),
        (Some(_), None) => (Change::Deleted, Vec::new()),
        (None, _) => (Change::Added, Vec::new()),
    };
    if change == Change::Modified && fields.is_empty() {
        return None;
    }
    Some(FileChange {
        change,
        path: show(path),
        old_size: a.and_then(|node| size(node)),
        new_size: b.and_then(|node| size(node)),
        fields,
    })
}

fn node_fields(a: &Node, b: &Node, times: bool) -> Vec<String> {
    let mut fields = Vec::new();
    match (&a.kind, &b.kind) {
        (NodeKind::File { .. }, NodeKind::File { .. }) if a.kind != b.kind => {
            fields.push("content".to_owned())
        }
        (NodeKind::Symlink(old), NodeKind::Symlink(new)) if old != new => fields.push("link target".into()),
        (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => fields.push("type".into()),
        (a, b) if a != b => fields.push("device".into()),
        _ => {}
    }
    let meta = meta_fields(&a.meta, &b.meta).into_iter().map(|field| field.field);
    fields.extend(meta.filter(|field| times || field != "mtime"));
    fields
}

/// The layers of an image of the store.
pub(super) fn chain(store: &Store, image: &ResolvedImage) -> Result<Chain, SnapshotError> {
    let mut cells = Vec::new();
    for StoredLayer { layer, packing } in image.stored_layers() {
        let blob = BlobInfo { digest: layer.digest, size: layer.size, compression: layer.compression };
        // A plain tar need not be there; the list of its files is.
        if packing.is_none() {
            layer::add_blob(store, &layer.diff_id, 0, &blob)?;
        }
        cells.push(LayerCell::known(layer.diff_id, blob));
    }
    Ok(Chain::of(cells))
}

fn created_by(image: &ResolvedImage, layer: usize) -> String {
    let mut lines = image.config.history.iter().filter(|line| !line.empty_layer);
    lines.nth(layer).map(|line| line.created_by.clone()).unwrap_or_default()
}

fn config_difference(old: &[u8], new: &[u8]) -> Vec<FieldDifference> {
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let mut found = Vec::new();
    walk(&parse(old), &parse(new), "", &mut found);
    // Layers are told of by themselves.
    found.retain(|field| !field.field.starts_with("/rootfs/diff_ids"));
    found
}

fn walk(old: &Value, new: &Value, pointer: &str, found: &mut Vec<FieldDifference>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> =
                a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
            keys.sort();
            for key in keys {
                let null = Value::Null;
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                walk(a, b, &format!("{pointer}/{}", escape(key)), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                walk(a, b, &format!("{pointer}/{at}"), found);
            }
        }
        (a, b) if a != b => {
            let text = |value: &Value| (!value.is_null()).then(|| value.to_string());
            found.push(FieldDifference { field: pointer.to_owned(), old: text(a), new: text(b) });
        }
        _ => {}
    }
}

/// Whiteouts and opaque marks may have the path of an entry.
fn by_path(index: &LayerIndex) -> BTreeMap<(Vec<u8>, bool), &Entry> {
    let key = |entry: &Entry| (entry.path.clone(), matches!(entry.kind, EntryKind::Opaque));
    index.entries.iter().map(|entry| (key(entry), entry)).collect()
}

fn compare_entries(
    old: &LayerIndex,
    new: &LayerIndex,
    (mut old_stream, mut new_stream): (Reader<'_>, Reader<'_>),
    found: &mut LayerDifference,
) -> Result<(), SnapshotError> {
    let (old, new) = (by_path(old), by_path(new));
    let mut keys: Vec<_> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).collect();
    keys.sort_by(|a, b| path_order(&a.0, &b.0));
    let mut contents = 0;
    for key in keys {
        let (a, b) = (old.get(key), new.get(key));
        let mut difference = EntryDifference {
            path: show(&key.0),
            change: Change::Modified,
            fields: Vec::new(),
            content: None,
        };
        match (a, b) {
            (Some(a), Some(b)) => {
                difference.fields = entry_fields(a, b);
                if difference.fields.is_empty() {
                    continue;
                }
                let is_content = difference.fields.iter().any(|field| field.field == "content");
                if is_content && contents < MAX_CONTENTS && found.entries.len() < MAX_ENTRIES {
                    contents += 1;
                    difference.content = contents_differ(a, b, &mut old_stream, &mut new_stream)?;
                }
            }
            (Some(_), None) => difference.change = Change::Deleted,
            (None, _) => difference.change = Change::Added,
        }
        if found.entries.len() < MAX_ENTRIES {
            found.entries.push(difference);
        } else {
            found.more += 1;
        }
    }
    Ok(())
}

fn contents_differ(
    a: &Entry,
    b: &Entry,
    old: &mut Reader<'_>,
    new: &mut Reader<'_>,
) -> Result<Option<ContentDifference>, SnapshotError> {
    let (EntryKind::File { size: old_size, .. }, EntryKind::File { size: new_size, .. }) = (&a.kind, &b.kind)
    else {
        return Ok(None);
    };
    let old = old.at(a.offset, *old_size)?;
    let new = new.at(b.offset, *new_size)?;
    content::compare(&a.path, old, new).map_err(|error| LayerError::Stream(error).into())
}

fn entry_fields(a: &Entry, b: &Entry) -> Vec<FieldDifference> {
    let mut fields = Vec::new();
    match (&a.kind, &b.kind) {
        (EntryKind::File { size, digest }, EntryKind::File { size: other_size, digest: other }) => {
            if size != other_size {
                fields.push(field("size", size, other_size));
            }
            if let (Some(a), Some(b)) = (digest, other)
                && a != b
            {
                fields.push(field("content", a, b));
            }
        }
        (EntryKind::Symlink(a), EntryKind::Symlink(b)) if a != b => {
            fields.push(field("link target", show(a), show(b)));
        }
        (EntryKind::Hardlink(a), EntryKind::Hardlink(b)) if a != b => {
            fields.push(field("hard link target", show(a), show(b)));
        }
        (a, b) if a != b => fields.push(field("type", kind_name(a), kind_name(b))),
        _ => {}
    }
    fields.extend(meta_fields(&a.meta, &b.meta));
    fields
}

fn meta_fields(a: &Metadata, b: &Metadata) -> Vec<FieldDifference> {
    let mut fields = Vec::new();
    if a.mode != b.mode {
        fields.push(field("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode)));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        let owner = |meta: &Metadata| format!("{}:{}", meta.uid, meta.gid);
        fields.push(field("owner", owner(a), owner(b)));
    }
    if a.mtime != b.mtime {
        let time = |meta: &Metadata| crate::time::rfc3339(meta.mtime, 0);
        fields.push(field("mtime", time(a), time(b)));
    }
    if a.xattrs != b.xattrs {
        let names = |meta: &Metadata| {
            let all =
                meta.xattrs.iter().map(|(name, value)| format!("{}={}", show(name), value.escape_ascii()));
            all.collect::<Vec<_>>().join(" ")
        };
        fields.push(field("xattrs", names(a), names(b)));
    }
    fields
}

fn field(name: &str, old: impl ToString, new: impl ToString) -> FieldDifference {
    FieldDifference { field: name.to_owned(), old: Some(old.to_string()), new: Some(new.to_string()) }
}

fn kind_name(kind: &EntryKind) -> String {
    match kind {
        EntryKind::File { .. } => "file".into(),
        EntryKind::Dir => "directory".into(),
        EntryKind::Symlink(_) => "symbolic link".into(),
        EntryKind::Hardlink(_) => "hard link".into(),
        EntryKind::CharDevice { major, minor } => format!("character device {major}:{minor}"),
        EntryKind::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
        EntryKind::Fifo => "named pipe".into(),
        EntryKind::Whiteout => "whiteout".into(),
        EntryKind::Opaque => "opaque mark".into(),
    }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// A layer's uncompressed stream, read forward and opened again only to go back.
struct Reader<'a> {
    store: &'a Store,
    diff_id: crate::digest::DiffId,
    stream: Option<Box<dyn Read + 'static>>,
    position: u64,
}

impl<'a> Reader<'a> {
    fn new(store: &'a Store, diff_id: crate::digest::DiffId) -> Self {
        Reader { store, diff_id, stream: None, position: 0 }
    }

    /// The content at an offset.
    fn at(&mut self, offset: u64, size: u64) -> Result<impl Read + use<'_, 'a>, LayerError> {
        if self.stream.is_none() || self.position > offset {
            self.stream = Some(layer::open_plain(self.store, &self.diff_id)?);
            self.position = 0;
        }
        let skipped = offset - self.position;
        io::copy(&mut self.by_ref().take(skipped), &mut io::sink()).map_err(LayerError::Stream)?;
        Ok(self.take(size))
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.stream {
            Some(stream) => stream.read(buf)?,
            None => 0,
        };
        self.position += count as u64;
        Ok(count)
    }
}
