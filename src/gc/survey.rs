//! The store as things and references between them.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::digest::{ChainId, Digest};
use crate::image::Descriptor;
use crate::registry::origins;
use crate::store::{Edge, Item, Room, Store, StoreError};

use super::content::{self, Parts, References};

/// A thing of the store and what refers to it.
#[derive(Clone, Debug)]
pub struct Thing {
    /// The thing.
    pub item: Item,
    /// Bytes on disk. 0 for directories that were not measured.
    pub size: u64,
    /// Whether an image name leads to it.
    pub named: bool,
    /// How many others refer to it.
    pub referrers: usize,
    /// What it is, in a few words: the step that made it, the name.
    pub note: String,
    /// What it refers to, by position.
    pub(super) uses: Vec<usize>,
}

/// Everything there is in a store.
#[derive(Debug)]
pub struct Survey {
    /// The things; names of images first.
    pub things: Vec<Thing>,
    /// What the store did not put there.
    pub strays: Vec<std::path::PathBuf>,
    by_name: HashMap<(Room, String), usize>,
    /// Notes for chains: one for each kind of user that used the store.
    by_chain: HashMap<Digest, Vec<usize>>,
}

impl Survey {
    /// Looks at everything. With `measure`, directories are walked for their sizes.
    pub fn take(store: &Store, measure: bool) -> Result<Self, StoreError> {
        let mut survey = Survey {
            things: Vec::new(),
            strays: Vec::new(),
            by_name: HashMap::new(),
            by_chain: HashMap::new(),
        };
        for room in Room::ALL {
            let listing = store.list(room)?;
            survey.strays.extend(listing.strays);
            for item in listing.items {
                survey.by_name.insert((room, item.name.clone()), survey.things.len());
                if let Some(chain) = item.digest().filter(|_| room == Room::Chains) {
                    survey.by_chain.entry(chain).or_default().push(survey.things.len());
                }
                survey.things.push(Thing {
                    size: item.size,
                    note: if room == Room::Refs { item.name.clone() } else { String::new() },
                    item,
                    named: false,
                    referrers: 0,
                    uses: Vec::new(),
                });
            }
        }
        if measure {
            crate::threads::prepare();
            survey.things.par_iter_mut().for_each(|thing| thing.size = thing.item.measure());
        }
        for at in 0..survey.things.len() {
            survey.read(store, at)?;
        }
        survey.describe_layers();
        survey.mark_named();
        for uses in survey.things.iter().map(|thing| thing.uses.clone()).collect::<Vec<_>>() {
            for at in uses {
                survey.things[at].referrers += 1;
            }
        }
        Ok(survey)
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.things.iter().fold(0, |sum, thing| sum.saturating_add(thing.size))
    }

    fn find(&self, room: Room, name: &Digest) -> Option<usize> {
        self.by_name.get(&(room, name.hex())).copied()
    }

    fn link(&mut self, from: usize, room: Room, name: &Digest) -> Option<usize> {
        let to = self.find(room, name)?;
        self.link_to(from, to);
        Some(to)
    }

    fn link_to(&mut self, from: usize, to: usize) {
        if !self.things[from].uses.contains(&to) {
            self.things[from].uses.push(to);
        }
    }

    fn link_chain(&mut self, from: usize, chain: &ChainId) {
        for to in self.by_chain.get(&chain.0).cloned().unwrap_or_default() {
            self.link_to(from, to);
        }
    }

    /// Reads what a thing refers to.
    fn read(&mut self, store: &Store, at: usize) -> Result<(), StoreError> {
        let item = self.things[at].item.clone();
        let reads = matches!(item.room, Room::Refs | Room::Records | Room::Chains | Room::Layers);
        if !reads {
            return Ok(());
        }
        let Some(bytes) = item.read()? else { return Ok(()) };
        match item.room {
            Room::Refs => {
                if let Ok(descriptor) = serde_json::from_slice::<Descriptor>(&bytes) {
                    self.link_document(store, at, &descriptor.digest)?;
                }
            }
            Room::Records => self.link_record(store, at, References::of(&bytes).unwrap_or_default())?,
            Room::Chains => {
                let name = String::from_utf8_lossy(&bytes).into_owned();
                let snapshot = self.by_name.get(&(Room::Snapshots, name)).copied();
                self.things[at].uses.extend(snapshot);
            }
            _ => {
                let blobs = content::layer(&bytes).map(|layer| layer.blobs).unwrap_or_default();
                for blob in blobs {
                    self.link(at, Room::Blobs, &blob.digest);
                }
                if let Some(digest) = item.digest() {
                    self.link(at, Room::Index, &digest);
                }
            }
        }
        Ok(())
    }

    /// Chains are linked only where there is nothing else: a step in the cache can do without unpacked
    /// layers that have blobs, and those that are used are young by themselves.
    fn link_record(&mut self, store: &Store, at: usize, record: References) -> Result<(), StoreError> {
        for edge in &record.edges {
            match edge {
                Edge::Layer(diff_id, chain) => {
                    let layer = self.link(at, Room::Layers, &diff_id.0);
                    self.describe(layer, &record.note);
                    if let Some(chain) = chain
                        && self.is_bare(layer)?
                    {
                        self.link_chain(at, chain);
                    }
                }
                Edge::Blob(blob) => drop(self.link(at, Room::Blobs, blob)),
                Edge::Document(document) => self.link_document(store, at, document)?,
                Edge::Record(key) => drop(self.link(at, Room::Records, key)),
            }
        }
        self.things[at].note = record.note;
        Ok(())
    }

    /// Whether a layer is there as files only.
    fn is_bare(&self, layer: Option<usize>) -> Result<bool, StoreError> {
        let Some(thing) = layer.and_then(|at| self.things.get(at)) else { return Ok(false) };
        let bytes = thing.item.read()?.unwrap_or_default();
        Ok(content::layer(&bytes).is_some_and(|layer| layer.blobs.is_empty()))
    }

    fn describe(&mut self, at: Option<usize>, note: &str) {
        if let Some(thing) = at.and_then(|at| self.things.get_mut(at))
            && thing.note.is_empty()
        {
            note.clone_into(&mut thing.note);
        }
    }

    /// The files of a layer are called after the step that made it.
    fn describe_layers(&mut self) {
        for at in 0..self.things.len() {
            if self.things[at].item.room == Room::Layers && !self.things[at].note.is_empty() {
                let note = self.things[at].note.clone();
                for below in self.things[at].uses.clone() {
                    self.describe(Some(below), &note);
                }
            }
        }
    }

    /// Links a manifest or index and everything below it, once.
    fn link_document(&mut self, store: &Store, from: usize, digest: &Digest) -> Result<(), StoreError> {
        let mut open = vec![(from, *digest)];
        while let Some((from, digest)) = open.pop() {
            let Some(at) = self.link(from, Room::Blobs, &digest) else { continue };
            if !self.things[at].note.is_empty() {
                continue;
            }
            let Some(Ok(parts)) = Parts::read(store, &digest)? else { continue };
            let note = match (&parts.packed, &parts.config) {
                (Some(_), _) => "image whose layers are not compressed",
                (None, Some(_)) => "manifest",
                (None, None) => "index",
            };
            self.things[at].note = note.into();
            open.extend(parts.documents.iter().map(|child| (at, *child)));
            if let Some(config) = &parts.config {
                let config = self.link(at, Room::Blobs, config);
                self.describe(config, "config");
            }
            if let Some(record) = &parts.packed {
                self.link(at, Room::Records, record);
            }
            // Where a layer is not here, what is known of where it is stays.
            for blob in parts.layers.iter().map(|(digest, _)| digest).chain(&parts.config) {
                self.link(at, Room::Records, &origins::key(blob));
            }
            for (blob, _) in &parts.layers {
                self.link(at, Room::Blobs, blob);
            }
            for (diff_id, chain) in parts.diff_ids.iter().zip(parts.chains()) {
                self.link(at, Room::Layers, &diff_id.0);
                self.link_chain(at, &chain);
            }
        }
        Ok(())
    }

    fn mark_named(&mut self) {
        let is_name = |thing: &Thing| thing.item.room == Room::Refs;
        let mut open: Vec<usize> = (0..self.things.len()).filter(|at| is_name(&self.things[*at])).collect();
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut self.things[at].named, true) {
                open.extend(self.things[at].uses.clone());
            }
        }
    }
}
