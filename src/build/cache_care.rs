//! Caches elsewhere without a build: looking at them, checking, moving and bounding them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{
    CacheDocument, CacheError, CachePlace, Export, Exported, LayerBlob, PlaceContent, ReadCache,
};
use crate::cancel::Cancel;
use crate::digest::{DiffId, Digest};
use crate::event::{Event, Events, Outcome, VertexId, VertexKind};
use crate::layer;
use crate::registry::RegistryAccess;
use crate::store::{Store, TempDir};

use super::cache_places::{self, Places};
use super::cache_spec::{CacheLocation, CacheTarget};
use super::engine::now_seconds;
use super::failure::{Failure, FailureKind};

/// What looking after caches needs.
pub struct CacheCare<'a> {
    /// Where layers are kept while they are checked or moved.
    pub store: &'a Store,
    /// How registries are reached.
    pub access: &'a RegistryAccess,
    /// What relative paths refer to.
    pub cwd: &'a Path,
    /// Where progress goes.
    pub events: &'a Events,
    /// Ends all of it.
    pub cancel: &'a Cancel,
}

/// A cache as it was found.
pub struct FoundCache {
    /// Its name for people.
    pub name: String,
    /// All records that could be read.
    pub document: CacheDocument,
    /// Why parts of it could not be read.
    pub failures: Vec<String>,
}

/// A layer that was fetched and compared with its records.
pub struct CheckedLayer {
    /// The blob.
    pub layer: LayerBlob,
    /// The diff ID that the records give it.
    pub diff_id: DiffId,
    /// Names of the steps that made it.
    pub steps: BTreeSet<String>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// What pruning left.
pub struct PrunedCache {
    /// The cache's name for people.
    pub name: String,
    /// Steps that it had.
    pub before: usize,
    /// What was written.
    pub exported: Exported,
}

impl CacheCare<'_> {
    /// Reads all records. A cache that does not exist is a failure, and so is one that cannot be read at all.
    pub fn read(&self, location: &CacheLocation) -> Result<FoundCache, Failure> {
        self.read_place(location).map(|(_, found)| found)
    }

    fn read_place(&self, location: &CacheLocation) -> Result<(Arc<dyn CachePlace>, FoundCache), Failure> {
        cache_places::check("the cache", location, false)?;
        let place = self.open(location).map_err(|error| unreadable(location, &error))?;
        let ReadCache { document, failures } =
            place.read(self.cancel).map_err(|error| unreadable(location, &error))?;
        let mut failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
        let mut document = document;
        if let Some(verify) = cache_places::verifier(location) {
            let dropped = document.keep_signed(&*verify);
            if dropped > 0 {
                failures.push(format!("{dropped} records are not signed by the key that verify= names"));
            }
        }
        let name = place.name().to_owned();
        Ok((place, FoundCache { name, document, failures }))
    }

    fn open(&self, location: &CacheLocation) -> Result<Arc<dyn CachePlace>, CacheError> {
        Places { store: self.store, access: self.access, cwd: self.cwd }.open(location)
    }

    /// Fetches every layer, one after another, and compares it with what its records say.
    pub fn verify(&self, location: &CacheLocation) -> Result<(FoundCache, Vec<CheckedLayer>), Failure> {
        let (place, found) = self.read_place(location)?;
        let mut layers: BTreeMap<(LayerBlob, DiffId), BTreeSet<String>> = BTreeMap::new();
        for entry in &found.document.entries {
            let steps = layers.entry((entry.layer.clone(), entry.diff_id)).or_default();
            steps.insert(entry.step.clone());
        }
        let temporary = Temporary::new(self.store)?;
        let mut checked = Vec::new();
        for ((layer, diff_id), steps) in layers {
            let problem = self.check_layer(&*place, &layer, &diff_id, &temporary.store)?;
            checked.push(CheckedLayer { layer, diff_id, steps, problem });
        }
        Ok((found, checked))
    }

    /// What is wrong with a layer. Only failures of this machine are failures.
    fn check_layer(
        &self,
        place: &dyn CachePlace,
        layer: &LayerBlob,
        diff_id: &DiffId,
        store: &Store,
    ) -> Result<Option<String>, Failure> {
        let name = format!("check {} of the cache at {}", layer.digest.short(), place.name());
        let problem = self.vertex(VertexKind::Transfer, name, |vertex| {
            let item = layer.digest.short();
            let progress = |current| {
                let (item, total) = (item.clone(), Some(layer.size));
                self.events.send(Event::Progress { vertex, item, current, total });
            };
            match place.fetch(layer, store, &progress, self.cancel) {
                Err(error) if error.is_cancelled() => Err(interrupted()),
                Err(CacheError::Store(error)) => Err(error.into()),
                Err(error) => Ok(Some(error.to_string())),
                Ok(()) => {
                    let Some(blob) = store.open_blob(&layer.digest)? else {
                        return Ok(Some("it vanished while it was read".to_owned()));
                    };
                    Ok(layer::make_index(store, diff_id, blob).err().map(|error| error.to_string()))
                }
            }
        })?;
        let _ = std::fs::remove_file(store.blob_path(&layer.digest));
        Ok(problem)
    }

    /// Adds everything that one cache has to another. Layers go through this machine, except inside one registry.
    pub fn copy(&self, from: &CacheLocation, to: &CacheTarget) -> Result<(String, Exported), Failure> {
        cache_places::check("the target", &to.location, true)?;
        let (source, found) = self.read_place(from)?;
        if let Some(failure) = found.failures.first() {
            let message = format!("a part of the cache at {} cannot be read: {failure}", found.name);
            return Err(Failure::new(FailureKind::Base, message));
        }
        let temporary = Temporary::new(self.store)?;
        let content = PlaceContent::new(&*source, &temporary.store);
        let (name, exported) = self.write(to, found.document, &content)?;
        Ok((name, exported))
    }

    /// Drops what is beyond the target's bounds.
    pub fn prune(&self, target: &CacheTarget) -> Result<PrunedCache, Failure> {
        cache_places::check("the cache", &target.location, true)?;
        let (source, found) = self.read_place(&target.location)?;
        let before = found.document.entries.len();
        let content = PlaceContent::new(&*source, self.store);
        let (name, exported) = self.write(target, CacheDocument::default(), &content)?;
        Ok(PrunedCache { name, before, exported })
    }

    fn write(
        &self,
        target: &CacheTarget,
        document: CacheDocument,
        content: &PlaceContent<'_>,
    ) -> Result<(String, Exported), Failure> {
        let failed = |error: CacheError| match error.is_cancelled() {
            true => interrupted(),
            false => Failure::new(FailureKind::Output, format!("cannot write the cache: {error}")),
        };
        let place = self.open(&target.location).map_err(failed)?;
        let name = place.name().to_owned();
        let exported = self.vertex(VertexKind::Export, format!("writing the cache at {name}"), |vertex| {
            let progress = |part: &Digest, current: u64, total: u64| {
                let (item, total) = (part.short(), Some(total));
                self.events.send(Event::Progress { vertex, item, current, total });
            };
            let export = Export {
                sign: None,
                document,
                content,
                bounds: target.bounds,
                reset: target.reset,
                bad: &BTreeSet::new(),
                now: now_seconds(),
                progress: &progress,
                cancel: self.cancel,
            };
            place.write(&export).map_err(failed)
        })?;
        Ok((name, exported))
    }

    fn vertex<T>(
        &self,
        kind: VertexKind,
        name: String,
        work: impl FnOnce(VertexId) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let vertex = self.events.add(kind, name);
        self.events.send(Event::Started { vertex });
        let begun = Instant::now();
        let result = work(vertex);
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure.message.clone()),
        };
        self.events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
        result
    }
}

/// A store that exists as long as layers are on their way.
struct Temporary {
    store: Store,
    _dir: TempDir,
}

impl Temporary {
    fn new(store: &Store) -> Result<Self, Failure> {
        let dir = store.temp_dir()?;
        let inner = Store::open(&dir.path().join("store"))?;
        Ok(Temporary { store: inner, _dir: dir })
    }
}

fn interrupted() -> Failure {
    Failure::new(FailureKind::Interrupted, "canceled")
}

fn unreadable(location: &CacheLocation, error: &CacheError) -> Failure {
    if error.is_cancelled() {
        return interrupted();
    }
    Failure::new(FailureKind::Base, format!("cannot read the cache at {location}: {error}"))
}
