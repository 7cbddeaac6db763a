//! Looking for damage: `rbuild fsck`.
//!
//! Referrers are listed before what they refer to is looked for, and whoever adds to a store does it
//! the other way round: a build that goes on meanwhile is no damage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use rayon::prelude::*;
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::digest::{ChainId, DiffId, Digest, Hasher};
use crate::image::Descriptor;
use crate::image::manifest::MAX_INDEX_DEPTH;
use crate::layer::{LayerError, LayerIndex, LayerRecord, OnDiskIds, check_files, parse_index};
use crate::registry::origins;
use crate::store::{Collector, Edge, Fate, Item, Room, SnapshotId, Store, StoreError, damage_of_build};

use super::content::{self, Parts, References};

const READ_SIZE: usize = 256 * 1024;

/// How to check.
#[derive(Clone, Copy, Default, Debug)]
pub struct CheckOptions {
    /// Take away what is broken.
    pub repair: bool,
    /// Trust the content of blobs that have the right size.
    pub fast: bool,
    /// How long to wait for a collection to end.
    pub wait: Duration,
}

/// Something wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// In plain words.
    pub what: String,
    /// Where.
    pub path: PathBuf,
    /// It was put right.
    pub repaired: bool,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// How many things were looked at, by room.
    pub looked_at: BTreeMap<Room, usize>,
    /// Bytes of blobs that were read.
    pub bytes_read: u64,
}

impl CheckReport {
    /// Whether the store is whole, now.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired)
    }
}

/// Checks a whole store. Stops early, with what was found so far, when cancelled.
pub fn check(store: &Store, options: &CheckOptions, cancel: &Cancel) -> Result<CheckReport, StoreError> {
    let collector = store.collector(options.wait)?;
    let mut rooms = BTreeMap::new();
    let mut report = CheckReport::default();
    let mut strays = Vec::new();
    for room in Room::ALL {
        let listing = store.list(room)?;
        report.looked_at.insert(room, listing.items.len());
        strays.extend(listing.strays);
        rooms.insert(room, listing.items);
    }
    let mut check = Check {
        store,
        collector,
        options,
        cancel,
        rooms,
        bad: BTreeSet::new(),
        broken: BTreeSet::new(),
        bare: BTreeSet::new(),
        lists: BTreeMap::new(),
        chains: BTreeMap::new(),
        foreign: BTreeSet::new(),
        read: BTreeSet::new(),
        report,
    };
    check.permissions();
    check.blobs()?;
    check.layers()?;
    check.directories()?;
    check.records()?;
    check.names()?;
    check.builds()?;
    strays.extend(check.collector.leftovers()?);
    for stray in strays {
        check.stray(stray);
    }
    Ok(check.report)
}

struct Check<'a> {
    store: &'a Store,
    collector: Collector,
    options: &'a CheckOptions,
    cancel: &'a Cancel,
    rooms: BTreeMap<Room, Vec<Item>>,
    /// Blobs that are not what their names say.
    bad: BTreeSet<Digest>,
    /// Layers whose description is of no use.
    broken: BTreeSet<Digest>,
    /// Layers that have files and no blob.
    bare: BTreeSet<Digest>,
    /// The lists of the files of layers.
    lists: BTreeMap<Digest, Item>,
    /// Chains that lead to something: their notes, and where their files are.
    chains: BTreeMap<Digest, Vec<(PathBuf, SnapshotId)>>,
    /// Chains whose files have owners as another kind of user keeps them, who alone can read them all.
    foreign: BTreeSet<Digest>,
    /// Chains whose topmost layer has all its files.
    read: BTreeSet<Digest>,
    report: CheckReport,
}

impl Check<'_> {
    fn take(&mut self, room: Room) -> Vec<Item> {
        self.rooms.remove(&room).unwrap_or_default()
    }

    /// Notes something wrong, and takes it away if that was asked for. What cannot be removed says why.
    fn wrong(&mut self, path: PathBuf, mut what: String) {
        let mut repaired = false;
        if self.options.repair {
            match self.collector.remove_broken(&path) {
                Ok(fate) => repaired = fate != Fate::InUse,
                Err(error) => what = format!("{what} ({error})"),
            }
        }
        self.report.findings.push(Finding { what, path, repaired });
    }

    fn permissions(&mut self) {
        for (path, reason) in self.collector.wrong_permissions(self.options.repair) {
            let what = format!("the directory {}: {reason}", path.display());
            let repaired = self.options.repair && !reason.contains("cannot be changed");
            self.report.findings.push(Finding { what, path, repaired });
        }
    }

    /// Sizes that layers promise for their blobs.
    fn promised(&self) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let mut sizes = BTreeMap::new();
        for item in self.rooms.get(&Room::Layers).into_iter().flatten() {
            let layer = item.read()?.and_then(|bytes| content::layer(&bytes));
            for blob in layer.map(|layer| layer.blobs).unwrap_or_default() {
                sizes.insert(blob.digest, blob.size);
            }
        }
        Ok(sizes)
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        let promised = self.promised()?;
        let items = self.take(Room::Blobs);
        let (fast, cancel) = (self.options.fast, self.cancel);
        crate::threads::prepare();
        let results: Vec<(Item, io::Result<Result<u64, String>>)> = items
            .into_par_iter()
            .filter(|_| !cancel.is_cancelled())
            .map(|item| {
                let size = item.digest().and_then(|digest| promised.get(&digest).copied());
                // A disk may fail once; what fails again is damaged.
                let again = |error: io::Error| match Errno::from_io_error(&error) {
                    Some(Errno::IO) => check_blob(&item, size, fast, cancel),
                    _ => Err(error),
                };
                let result = check_blob(&item, size, fast, cancel).or_else(again);
                (item, result)
            })
            .collect();
        for (item, result) in results {
            let says_nothing =
                |error: &io::Error| !matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::ACCESS));
            let result = match result {
                // It says nothing of the blob: too many open files, say.
                Err(error) if says_nothing(&error) => return Err(unreadable(&item, error)),
                Err(error) => Err(format!("cannot be read: {error}")),
                Ok(result) => result,
            };
            match result {
                Ok(read) => self.report.bytes_read += read,
                Err(reason) => {
                    self.bad.extend(item.digest());
                    self.wrong(item.path, format!("blob sha256:{} {reason}", item.name));
                }
            }
        }
        Ok(())
    }

    fn has_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(!self.bad.contains(digest) && self.store.is_there(Room::Blobs, &digest.hex())?)
    }

    fn has_layer(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(!self.broken.contains(digest) && self.store.is_there(Room::Layers, &digest.hex())?)
    }

    fn layers(&mut self) -> Result<(), StoreError> {
        for item in self.take(Room::Layers) {
            let Some(bytes) = item.read()? else { continue };
            let reason = match content::layer(&bytes) {
                None => "its description cannot be read",
                Some(layer) if self.lacks_blob(&layer)? => "none of its blobs is in the store",
                Some(layer) => {
                    self.bare.extend(item.digest().filter(|_| layer.blobs.is_empty()));
                    continue;
                }
            };
            self.broken.extend(item.digest());
            self.wrong(item.path, format!("layer sha256:{}: {reason}", item.name));
        }
        for item in self.take(Room::Index) {
            let Some(bytes) = item.read()? else { continue };
            if parse_index(&bytes).is_none() {
                self.wrong(item.path, format!("the list of files of layer sha256:{} is damaged", item.name));
            } else if let Some(layer) = item.digest() {
                self.lists.insert(layer, item);
            }
        }
        Ok(())
    }

    /// Layers of base images are described before they are fetched; only of those written here the
    /// size of the tar is known. Those that no image needed have files only, which is for their records
    /// to know.
    fn lacks_blob(&self, layer: &LayerRecord) -> Result<bool, StoreError> {
        for blob in &layer.blobs {
            if self.has_blob(&blob.digest)? {
                return Ok(false);
            }
        }
        Ok(layer.uncompressed_size > 0 && !layer.blobs.is_empty())
    }

    /// What is wrong with a layer that is here as files only.
    fn lacks_content(&mut self, layer: DiffId, chain: ChainId) -> Result<Option<String>, StoreError> {
        if self.bare.contains(&layer.0) { self.lacks_files(layer, chain) } else { Ok(None) }
    }

    /// What is wrong with the files of a layer on top of a chain.
    fn lacks_files(&mut self, layer: DiffId, chain: ChainId) -> Result<Option<String>, StoreError> {
        let chain = chain.0;
        if self.read.contains(&chain) {
            return Ok(None);
        }
        let list = self.lists.get(&layer.0).map(Item::read).transpose()?.flatten();
        let index = list.and_then(|bytes| parse_index(&bytes));
        let places = self.chains.get(&chain).cloned().unwrap_or_default();
        let is_foreign = self.foreign.contains(&chain);
        let Some(index) = index.filter(|_| is_foreign || !places.is_empty()) else {
            return Ok(Some(format!("leads to layer {layer}, whose files are not in the store")));
        };
        if self.options.fast || self.cancel.is_cancelled() {
            return Ok(None);
        }
        let mut whole = usize::from(is_foreign);
        for (note, snapshot) in places {
            whole += usize::from(self.has_its_files(&layer, &chain, &index, note, &snapshot)?);
        }
        if whole > 0 {
            self.read.insert(chain);
            return Ok(None);
        }
        Ok(Some(format!("leads to layer {layer}, whose files are damaged")))
    }

    /// Whether a snapshot holds the files of a layer.
    fn has_its_files(
        &mut self,
        layer: &DiffId,
        chain: &Digest,
        index: &LayerIndex,
        note: PathBuf,
        snapshot: &SnapshotId,
    ) -> Result<bool, StoreError> {
        let dir = self.store.snapshot_dir(snapshot);
        let check = || check_files(self.store, layer, index, &dir, self.cancel);
        // A disk may fail once; what fails again is damaged.
        let checked = match check() {
            Err(LayerError::Damaged { .. }) => check(),
            checked => checked,
        };
        match checked {
            Ok(size) => self.report.bytes_read += size,
            Err(LayerError::Canceled) => {}
            Err(LayerError::Damaged { why, .. }) => {
                if let Some(places) = self.chains.get_mut(chain) {
                    places.retain(|(_, other)| other != snapshot);
                }
                let what = format!("the files of layer {layer} in {} are damaged: {why}", dir.display());
                self.wrong(note, what);
                // Nobody finds them any more.
                if let Some(snapshot) = dir.parent().filter(|_| self.options.repair) {
                    self.wrong(
                        snapshot.to_owned(),
                        format!("the unpacked layer {} is left over", snapshot.display()),
                    );
                }
                return Ok(false);
            }
            Err(error) => {
                let source = io::Error::other(error.to_string());
                return Err(StoreError::Io { action: "check", path: dir, source });
            }
        }
        Ok(true)
    }

    fn directories(&mut self) -> Result<(), StoreError> {
        let own = [OnDiskIds::Keep.kind(), OnDiskIds::AllToSelf.kind()];
        for item in self.take(Room::Chains) {
            let Some(bytes) = item.read()? else { continue };
            let id = String::from_utf8(bytes).ok().and_then(|text| SnapshotId::parse(&text));
            let reason = match id {
                None => "cannot be read".to_owned(),
                Some(id) if !self.store.is_there(Room::Snapshots, id.as_str())? => {
                    format!("leads to the unpacked layer {id}, which is not there")
                }
                Some(id) => {
                    let Some(chain) = item.digest() else { continue };
                    if item.kind().is_some_and(|kind| own.contains(&kind)) {
                        self.chains.entry(chain).or_default().push((item.path, id));
                    } else {
                        self.foreign.insert(chain);
                    }
                    continue;
                }
            };
            self.wrong(item.path, format!("the note for the layers sha256:{} {reason}", item.name));
        }
        for room in [Room::Snapshots, Room::Mounts] {
            let what = if room == Room::Snapshots { "unpacked layer" } else { "cache mount" };
            for item in self.take(room) {
                let there = item.path.try_exists().map_err(|error| unreadable(&item, error))?;
                if there && !self.store.is_there(room, &item.name)? {
                    self.wrong(item.path, format!("the {what} {} is empty", item.name));
                }
            }
        }
        Ok(())
    }

    fn records(&mut self) -> Result<(), StoreError> {
        for item in self.take(Room::Records) {
            let Some(bytes) = item.read()? else { continue };
            // An image without a name is one all the same, and is needed whole.
            if let Some(image) = content::unnamed(&bytes) {
                if let Some(reason) = self.lack(&image.manifest, 0)? {
                    self.wrong(item.path, format!("the image {} without a name: {reason}", image.id));
                }
                continue;
            }
            let reason = match References::of(&bytes) {
                None => Some("cannot be read".to_owned()),
                Some(record) => self.lacks_any(&record.edges)?,
            };
            if let Some(reason) = reason {
                self.wrong(item.path, format!("the cache record {} {reason}", &item.name[..12]));
            }
        }
        Ok(())
    }

    fn builds(&mut self) -> Result<(), StoreError> {
        for item in self.take(Room::Builds) {
            let damage = damage_of_build(&item.path, !self.options.fast);
            if let Some(damage) = damage.map_err(|error| unreadable(&item, error))? {
                self.wrong(item.path, format!("the record of build {}: {damage}", item.name));
            }
        }
        Ok(())
    }

    /// The first of these that is not there.
    fn lacks_any(&mut self, edges: &[Edge]) -> Result<Option<String>, StoreError> {
        for edge in edges {
            let lack = match edge {
                Edge::Layer(layer, _) if !self.has_layer(&layer.0)? => {
                    Some(format!("leads to layer {layer}, which the store does not know"))
                }
                Edge::Layer(layer, Some(chain)) => self.lacks_content(*layer, *chain)?,
                Edge::Blob(blob) | Edge::Document(blob) if !self.has_blob(blob)? => {
                    Some(format!("leads to blob {blob}, which is not in the store"))
                }
                Edge::Document(manifest) => self.without_config(manifest)?,
                Edge::Layer(_, None) | Edge::Blob(_) | Edge::Record(_) => None,
            };
            if lack.is_some() {
                return Ok(lack);
            }
        }
        Ok(None)
    }

    fn without_config(&self, manifest: &Digest) -> Result<Option<String>, StoreError> {
        let Some(Ok(parts)) = Parts::read(self.store, manifest)? else {
            return Ok(Some(format!("leads to {manifest}, which is no manifest")));
        };
        match parts.config {
            Some(config) if !self.has_blob(&config)? => {
                Ok(Some(format!("leads to config {config}, which is not in the store")))
            }
            _ => Ok(None),
        }
    }

    fn names(&mut self) -> Result<(), StoreError> {
        for item in self.take(Room::Refs) {
            let Some(bytes) = item.read()? else { continue };
            let reason = match serde_json::from_slice::<Descriptor>(&bytes) {
                Err(_) => Some("what it means cannot be read".to_owned()),
                Ok(descriptor) => self.lack(&descriptor.digest, 0)?,
            };
            if let Some(reason) = reason {
                self.wrong(item.path, format!("the image {}: {reason}", item.name));
            }
        }
        Ok(())
    }

    /// What an image lacks. Layers may be left in the registry they came from.
    fn lack(&mut self, digest: &Digest, depth: u32) -> Result<Option<String>, StoreError> {
        if !self.has_blob(digest)? {
            return Ok(Some(format!("its manifest {digest} is not in the store")));
        }
        let parts = match Parts::read(self.store, digest)? {
            Some(Ok(parts)) => parts,
            Some(Err(error)) => return Ok(Some(format!("{digest}: {error}"))),
            None => return Ok(None),
        };
        if depth < MAX_INDEX_DEPTH {
            for document in &parts.documents {
                if let Some(lack) = self.lack(document, depth + 1)? {
                    return Ok(Some(lack));
                }
            }
        }
        let blobs = parts.config.iter().chain(parts.layers.iter().map(|(layer, _)| layer));
        for blob in blobs {
            if !self.has_blob(blob)? && !self.is_elsewhere(blob)? {
                return Ok(Some(format!("its blob {blob} is not in the store")));
            }
        }
        let chains = parts.chains();
        for at in parts.plain {
            let (Some(layer), Some(chain)) = (parts.diff_ids.get(at), chains.get(at)) else {
                return Ok(Some("its config lists other layers".into()));
            };
            if !self.has_some_blob(layer)?
                && let Some(lack) = self.lacks_files(*layer, *chain)?
            {
                return Ok(Some(lack));
            }
        }
        Ok(None)
    }

    /// Whether a layer has a blob, in whatever compression.
    fn has_some_blob(&self, layer: &DiffId) -> Result<bool, StoreError> {
        let bytes = self.store.peek_layer(layer)?.unwrap_or_default();
        let blobs = content::layer(&bytes).map(|layer| layer.blobs).unwrap_or_default();
        for blob in &blobs {
            if self.has_blob(&blob.digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_elsewhere(&self, blob: &Digest) -> Result<bool, StoreError> {
        self.store.is_there(Room::Records, &origins::key(blob).hex())
    }

    fn stray(&mut self, path: PathBuf) {
        // It may have been a file on its way to its name.
        if self.collector.is_young(&path) || path.symlink_metadata().is_err() {
            return;
        }
        let what = format!("{} does not belong there", path.display());
        self.wrong(path, what);
    }
}

/// Bytes read of a blob, or what is wrong with it.
fn check_blob(
    item: &Item,
    promised: Option<u64>,
    fast: bool,
    cancel: &Cancel,
) -> io::Result<Result<u64, String>> {
    let mut file = match File::open(&item.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(0)),
        other => other?,
    };
    let size = file.metadata()?.len();
    if let Some(promised) = promised.filter(|promised| *promised != size) {
        return Ok(Err(format!("has {size} bytes instead of {promised}")));
    }
    if fast {
        return Ok(if size == 0 && promised != Some(0) { Err("is empty".into()) } else { Ok(0) });
    }
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ_SIZE];
    let mut sum = 0;
    while !cancel.is_cancelled() {
        let count = match file.read(&mut buffer) {
            Ok(0) => {
                let actual = hasher.finish();
                let right = item.digest() == Some(actual);
                return Ok(if right {
                    Ok(sum)
                } else {
                    Err(format!("is damaged: its content is that of {actual}"))
                });
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..count]);
        sum += count as u64;
    }
    Ok(Ok(sum))
}

fn unreadable(item: &Item, source: io::Error) -> StoreError {
    StoreError::Io { action: "read", path: item.path.clone(), source }
}
