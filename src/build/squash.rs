//! All layers that a build adds to its base, as one.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};

use crate::export::RootTree as _;
use crate::image::{History, LayerRef};
use crate::layer::{self, ContentSource, Entry, EntryKind, Metadata, WriteOptions};
use crate::snapshot::{Chain, NodeKind, path_order};

use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::outputs::ImageFiles;
use super::request::{BuildRequest, CompressionChoice};

/// Refuses what does not go with one layer.
pub(super) fn check(request: &BuildRequest) -> Result<(), Failure> {
    let estargz = request.outputs.iter().any(|output| output.compression().estargz);
    let unsupported = |with: &str| {
        let message = format!("one layer (--squash) does not go with {with}");
        Err(Failure::new(FailureKind::Unsupported, message).help("leave one of them out"))
    };
    match request.squash {
        true if estargz => unsupported("compression=estargz"),
        true if request.has_inline_cache() => {
            unsupported("an inline cache: it is read by the layers of the steps")
        }
        _ => Ok(()),
    }
}

/// What the layers above the first `base` make of those below, as one layer.
pub(super) fn layer(
    engine: &Engine,
    chain: &Chain,
    base: usize,
    compression: CompressionChoice,
) -> Result<LayerRef, Failure> {
    let failed =
        |error: io::Error| Failure::new(FailureKind::Store, format!("cannot make one layer: {error}"));
    let files = ImageFiles::new(&engine.snapshots, chain)?;
    let entries = changes(engine, &files, chain, base)?;
    let content = Squashed(files);
    let options = WriteOptions::packing(compression.packing());
    let written = layer::write_layer(&engine.store, entries, &content, &options);
    let written = written.map_err(|error| failed(io::Error::other(error.to_string())))?;
    Ok(LayerRef {
        diff_id: written.diff_id,
        digest: written.blob.digest,
        size: written.blob.size,
        compression: written.blob.compression,
        annotations: BTreeMap::new(),
    })
}

/// What differs from the base, in the order of paths.
fn changes(engine: &Engine, files: &ImageFiles, chain: &Chain, base: usize) -> Result<Vec<Entry>, Failure> {
    let lower = Chain::of(chain.cells().get(..base).unwrap_or_default().to_vec());
    let lower = engine.snapshots.complete_tree(&lower)?;
    let failed =
        |error: io::Error| Failure::new(FailureKind::Store, format!("cannot make one layer: {error}"));
    let mut entries = files.entries().map_err(failed)?;
    entries.retain(|entry| match files.tree.lookup(&entry.path) {
        // A name that a layer above gave to a file of the base is new.
        Some(node) => node.layer >= base || lower.lookup(&entry.path).is_none(),
        None => false,
    });
    let emitted: HashSet<Vec<u8>> = entries.iter().map(|entry| entry.path.clone()).collect();
    for entry in &mut entries {
        let EntryKind::Hardlink(target) = &entry.kind else { continue };
        // A link leads to an entry of the same layer; one to a file of the base becomes a file.
        if !emitted.contains(target)
            && let Some(NodeKind::File { size, digest }) =
                files.tree.lookup(&entry.path).map(|node| &node.kind)
        {
            entry.kind = EntryKind::File { size: *size, digest: *digest };
        }
    }
    let is_dir = |path: &[u8]| path.is_empty() || files.tree.is_dir(path);
    let gone = lower.below(b"").map(|(path, _)| path).filter(|path| {
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
        // What is below something that is gone, or is no directory any more, goes with it.
        files.tree.lookup(path).is_none() && is_dir(parent)
    });
    let whiteout = |path: &[u8]| Entry {
        path: path.to_vec(),
        kind: EntryKind::Whiteout,
        meta: Metadata::default(),
        offset: 0,
    };
    entries.extend(gone.map(whiteout));
    entries.sort_by(|a, b| path_order(&a.path, &b.path));
    Ok(entries)
}

/// Lines of the history, of which the last that made a layer has the only one.
pub(super) fn mark_history(lines: &mut [History]) {
    let last = lines.iter().rposition(|line| !line.empty_layer);
    for (at, line) in lines.iter_mut().enumerate() {
        line.empty_layer = Some(at) != last;
    }
}

struct Squashed(ImageFiles);

impl ContentSource for Squashed {
    fn open(&self, _: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        crate::export::RootTree::open(&self.0, &entry.path)
    }
}
