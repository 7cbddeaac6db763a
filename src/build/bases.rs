//! Base images: from names to configs for the plan, and from configs to layers for the solve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::event::{Event, Events, Outcome, VertexId, VertexKind};
use crate::image::choose::{Part, choose};
use crate::image::draft::StoredLayer;
use crate::image::{
    Descriptor, ImageSource, Platform, ReadError, Reference, ResolvedImage, Selector, from_store, open_layout,
};
use crate::layer::{self, BlobInfo};
use crate::plan::{BaseConfigs, BaseId, ImageRequest};
use crate::registry::{Content as _, Registry, RegistryAccess, RegistryContent, RegistryError, origins};
use crate::snapshot::{Chain, Fetch, LayerCell, Snapshots};
use crate::sources::{LockedImage, Rules};
use crate::store::Store;

use super::base_help;
use super::download::Download;
use super::failure::{Failure, FailureKind};
use super::meant::{Meant, meant, no_image};
use super::pulled::Pulled;
use super::request::PullPolicy;

/// Blobs of one image fetched at the same time.
const PARALLEL: usize = 4;

/// Where a resolved image's blobs come from.
pub(super) enum Origin {
    Store,
    Layout(Arc<dyn ImageSource>),
    /// The client, the repository, and the registry's name in references.
    Registry(Registry, String, String),
}

pub(super) struct Resolved {
    pub(super) image: ResolvedImage,
    /// What the name means: an index, or else the manifest; of an image without one yet, its config.
    pub(super) top: Digest,
    pub(super) origin: Origin,
    /// The name that it was found by, which is not the name in the Dockerfile where a policy converts that. None for
    /// one that is not found by name.
    pub(super) named: Option<Reference>,
}

impl Resolved {
    pub(super) fn is_at_a_registry(&self) -> bool {
        matches!(self.origin, Origin::Registry(..))
    }
}

/// Resolves and fetches bases of one build.
pub(super) struct Bases {
    snapshots: Snapshots,
    pub(super) store: Store,
    pub(super) events: Events,
    pub(super) cancel: Cancel,
    pub(super) policy: PullPolicy,
    access: RegistryAccess,
    pub(super) rules: Arc<Rules>,
    /// Named contexts that are images: name to location.
    contexts: BTreeMap<String, String>,
    cwd: PathBuf,
    /// By their ids.
    resolved: Mutex<Vec<Arc<Resolved>>>,
    registries: Mutex<BTreeMap<String, Registry>>,
    pub(super) downloads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// By manifest, as long as a stage needs them: stages with the same base wait for the same download.
    shared: Mutex<BTreeMap<Digest, Weak<Download>>>,
}

/// The bases of a build: when it ends, no download of theirs goes on.
pub(super) struct BuildBases(Arc<Bases>);

impl BuildBases {
    pub fn new(bases: Bases) -> Self {
        BuildBases(Arc::new(bases))
    }

    pub fn share(&self) -> Arc<Bases> {
        self.0.clone()
    }
}

impl Drop for BuildBases {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Bases {
    pub fn new(
        snapshots: &Snapshots,
        events: &Events,
        cancel: &Cancel,
        policy: PullPolicy,
        access: RegistryAccess,
        rules: Arc<Rules>,
        contexts: BTreeMap<String, String>,
        cwd: &Path,
    ) -> Self {
        Bases {
            snapshots: snapshots.clone(),
            store: snapshots.store().clone(),
            events: events.clone(),
            cancel: cancel.clone(),
            policy,
            access,
            rules,
            contexts,
            cwd: cwd.to_owned(),
            resolved: Mutex::default(),
            registries: Mutex::default(),
            downloads: Mutex::default(),
            shared: Mutex::default(),
        }
    }

    /// Finds images side by side, and gives their configs to the plan.
    /// Finds all of them. `stages` are the names that a base may be a misspelling of.
    pub fn resolve_all(
        &self,
        requests: &[ImageRequest],
        configs: &mut BaseConfigs,
        stages: &[&str],
    ) -> Result<(), Failure> {
        let Some((name, failure)) = self.resolve_each(requests, configs).into_iter().next() else {
            return Ok(());
        };
        Err(match requests.iter().find(|request| request.name == name) {
            Some(request) => base_help::explained(failure, request, stages),
            None => failure,
        })
    }

    /// As [`Bases::resolve_all`], with the names and failures of all that were not found.
    pub fn resolve_each(
        &self,
        requests: &[ImageRequest],
        configs: &mut BaseConfigs,
    ) -> Vec<(String, Failure)> {
        let results = crate::threads::each(requests, requests.len(), |request| self.resolve(request));
        let mut failures = Vec::new();
        for (request, result) in requests.iter().zip(results) {
            let found = match result {
                Ok(found) => found,
                Err(failure) => {
                    failures.push((request.name.clone(), failure));
                    continue;
                }
            };
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            let id = BaseId(resolved.len());
            configs.insert(&request.name, &request.platform, id, found.image.config.clone());
            resolved.push(found);
        }
        failures
    }

    fn resolve(&self, request: &ImageRequest) -> Result<Arc<Resolved>, Failure> {
        let vertex = self.events.add(VertexKind::Internal, format!("load metadata for {}", request.name));
        self.events.send(Event::Started { vertex });
        let begun = std::time::Instant::now();
        let result = self.find(request);
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure.message.clone()),
        };
        self.events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
        let found = result.map_err(|failure| failure.at(&request.source, request.span))?;
        Ok(Arc::new(found))
    }

    fn find(&self, request: &ImageRequest) -> Result<Resolved, Failure> {
        match self.contexts.get(&request.name) {
            Some(location) => match location.strip_prefix("docker-image://") {
                Some(name) => self.find_reference(name, &request.platform),
                None => self.find_layout(location, &request.platform),
            },
            None => self.find_reference(&request.name, &request.platform),
        }
    }

    /// `oci-layout://PATH[:TAG|@DIGEST]`, or the path of an archive.
    fn find_layout(&self, location: &str, platform: &Platform) -> Result<Resolved, Failure> {
        let path = location.strip_prefix("oci-layout://").unwrap_or(location);
        let whole = self.cwd.join(path);
        let (path, selector) = if whole.exists() {
            (whole, Selector::Only)
        } else {
            match path.rsplit_once('@').or_else(|| path.rsplit_once(':')) {
                Some((path, name)) => (self.cwd.join(path), Selector::parse(name)),
                None => (whole, Selector::Only),
            }
        };
        let source: Arc<dyn ImageSource> = Arc::from(open_layout(&path, &self.store)?);
        let image = source.resolve(&selector, platform)?;
        let top = source.find(&selector).map_or(image.manifest_digest, |found| found.digest);
        Ok(Resolved { image, top, origin: Origin::Layout(source), named: None })
    }

    /// What a name means, and by which name that was found.
    pub(super) fn find_once(
        &self,
        name: &str,
        platform: &Platform,
    ) -> Result<(Resolved, Reference), Failure> {
        let in_store = |reference: &Reference| -> Result<Option<Resolved>, Failure> {
            let Some(image) = from_store(&self.store, reference, platform)? else { return Ok(None) };
            let named = crate::image::read::named(&self.store, reference)?;
            let top = named.filter(|named| !named.is_draft).map(|named| named.digest);
            let top = top.unwrap_or(image.manifest.config.digest);
            Ok(Some(Resolved { image, top, origin: Origin::Store, named: None }))
        };
        let base = |failure: Failure| Failure { kind: FailureKind::Base, ..failure };
        let reference = match meant(&self.store, name, platform).map_err(base)? {
            // What was built or tagged here is meant, unless a fresh look was asked for or a lock says otherwise.
            Meant::Named(named) => {
                let allowed = self.allowed(&named)?;
                if let Some(pin) = &allowed.pin {
                    let found = self.find_pinned(&allowed.reference, pin, platform)?;
                    return Ok((found, allowed.reference));
                }
                let fresh = self.policy == PullPolicy::Always || self.rules.is_locking();
                if !fresh
                    && allowed.reference == named
                    && let Some(found) = in_store(&named)?
                {
                    return Ok((found, named));
                }
                allowed.reference
            }
            Meant::Elsewhere(named) => {
                let allowed = self.allowed(&named)?;
                if let Some(pin) = &allowed.pin {
                    let found = self.find_pinned(&allowed.reference, pin, platform)?;
                    return Ok((found, allowed.reference));
                }
                allowed.reference
            }
            Meant::Id(names) => {
                let first = names.first().map(|name| (name, in_store(name)));
                let Some((known, Some(found))) =
                    first.map(|(name, found)| found.map(|found| (name, found))).transpose()?
                else {
                    return Err(base(no_image(name)));
                };
                return Ok((found, known.clone()));
            }
            Meant::NoSuchId => return Err(base(no_image(name))),
        };
        Ok((self.find_elsewhere(&reference, platform)?, reference))
    }

    /// The image that a name means in the vendored layout or at its registry.
    fn find_elsewhere(&self, reference: &Reference, platform: &Platform) -> Result<Resolved, Failure> {
        let known = self.pulled(reference, platform)?;
        if let Some(found) = self.vendored(reference, None, platform)? {
            return Ok(found);
        }
        if self.rules.is_offline() {
            let Some((pulled, image)) = known else {
                return Err(self.would_be_fetched(reference, platform));
            };
            return self.in_registry(reference, (pulled.top, image));
        }
        if self.policy == PullPolicy::Never {
            let found = known.map(|(pulled, image)| (pulled.top, image)).ok_or_else(|| {
                Failure::new(FailureKind::OutOfReach, format!("{} is not in the store", reference.familiar()))
                    .help("build without --pull=never to fetch it")
            })?;
            return self.in_registry(reference, found);
        }
        let unchanged = known.as_ref().filter(|_| !self.rules.is_locking());
        match self.look_up(reference, platform, unchanged) {
            Ok(found) => self.in_registry(reference, found),
            Err(error) if self.cancel.is_cancelled() => {
                Err(Failure::new(FailureKind::Interrupted, error.message))
            }
            Err(error) => match known.filter(|_| self.policy == PullPolicy::Missing) {
                Some((pulled, image)) => {
                    let name = reference.familiar();
                    self.events.warn(format!("using the copy of {name} in the store: {}", error.message));
                    self.in_registry(reference, (pulled.top, image))
                }
                None => Err(error),
            },
        }
    }

    pub(super) fn in_registry(
        &self,
        reference: &Reference,
        (top, image): (Digest, ResolvedImage),
    ) -> Result<Resolved, Failure> {
        let complete = image.layers.iter().all(|layer| self.store.has_blob(&layer.digest));
        let origin = if complete {
            Origin::Store
        } else if self.rules.is_offline() {
            return Err(self.lacks_layers(reference, &image));
        } else {
            let registry = self.registry(&reference.domain, &reference.path)?;
            Origin::Registry(registry, reference.path.clone(), reference.domain.clone())
        };
        Ok(Resolved { image, top, origin, named: None })
    }

    /// One HEAD request where the name was pulled before and still means the same.
    pub(super) fn look_up(
        &self,
        reference: &Reference,
        platform: &Platform,
        known: Option<&(Pulled, ResolvedImage)>,
    ) -> Result<(Digest, ResolvedImage), Failure> {
        let registry = self.registry(&reference.domain, &reference.path)?;
        let repository = reference.path.as_str();
        let wanted = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        };
        let fail = |error: RegistryError| self.registry_failure(reference, &error);
        if let Some((pulled, image)) = known {
            let head = registry.head_manifest(repository, &wanted, &self.cancel).map_err(fail)?;
            if head.is_some_and(|head| head.digest == Some(pulled.top)) {
                return Ok((pulled.top, image.clone()));
            }
        }
        let top = registry.manifest(repository, &wanted, &self.cancel).map_err(fail)?;
        let bad = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Base, format!("{}: {error}", reference.familiar()))
        };
        let read = |descriptor: &Descriptor, part| match part {
            Part::Manifest if descriptor.digest == top.digest => Ok(top.bytes.clone()),
            Part::Manifest => {
                let digest = descriptor.digest.to_string();
                registry.manifest(repository, &digest, &self.cancel).map(|found| found.bytes)
            }
            Part::Config => registry.blob(repository, &descriptor.digest, descriptor.size, &self.cancel),
        };
        let descriptor = Descriptor::new(&top.media_type, top.digest, top.bytes.len() as u64);
        let chosen =
            choose(&descriptor, platform, read).map_err(|error| match error.explained(platform) {
                Ok(text) => bad(&text),
                Err(error) => fail(error),
            })?;
        self.rules.saw_image(reference, LockedImage::of(top.digest, &top.bytes));
        let (config, manifest_bytes) = (&chosen.manifest.config, chosen.bytes);
        let config_bytes =
            registry.blob(repository, &config.digest, config.size, &self.cancel).map_err(fail)?;
        self.store.put_blob(&manifest_bytes)?;
        self.store.put_blob(&config_bytes)?;
        let image = ResolvedImage::new(&reference.familiar(), manifest_bytes, config_bytes)?;
        self.note_pulled(reference, platform, top.digest, &image)?;
        Ok((top.digest, image))
    }

    pub(super) fn registry_failure(&self, reference: &Reference, error: &RegistryError) -> Failure {
        if error.is_cancelled() {
            return Failure::new(FailureKind::Interrupted, "canceled");
        }
        let kind = if error.is_not_found() { FailureKind::Base } else { FailureKind::OutOfReach };
        Failure::new(kind, format!("cannot get {}: {error}", reference.familiar()))
    }

    pub(super) fn registry(&self, host: &str, repository: &str) -> Result<Registry, Failure> {
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{host}/{repository}");
        if let Some(registry) = registries.get(&key) {
            return Ok(registry.clone());
        }
        let registry = self
            .access
            .open(host, repository)
            .map_err(|error| Failure::new(FailureKind::OutOfReach, error.to_string()))?;
        registries.insert(key, registry.clone());
        Ok(registry)
    }

    /// What a resolved image was found under: the digest that its name means.
    pub fn meaning(&self, id: BaseId) -> Option<Digest> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.get(id.0).map(|found| found.top)
    }

    /// The name that a resolved image was found by.
    pub fn found_as(&self, id: BaseId) -> Option<Reference> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.get(id.0).and_then(|found| found.named.clone())
    }

    /// All images that were found, in the order of their ids.
    pub(super) fn found(&self) -> Vec<Arc<Resolved>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The layers of a resolved image; their blobs are fetched when the first of them is needed.
    pub fn layers(self: &Arc<Self>, id: BaseId, name: &str) -> Result<Chain, String> {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        let found = resolved.get(id.0).cloned().ok_or_else(|| format!("{name} was not looked up"))?;
        drop(resolved);
        let fetch = self.fetch_later(name, &found);
        let other = |stored: &StoredLayer| {
            let layer = &stored.layer;
            let blob = BlobInfo { digest: layer.digest, size: layer.size, compression: layer.compression };
            layer::add_blob(&self.store, &layer.diff_id, 0, &blob)?;
            if let Origin::Registry(_, repository, host) = &found.origin
                && !self.store.has_blob(&layer.digest)
            {
                // A push can take it from there without it ever being here.
                let place = origins::Origin { host: host.clone(), repository: repository.clone() };
                let _ = origins::note(&self.store, &layer.digest, &place);
            }
            Ok(LayerCell::remote(layer.diff_id, blob, fetch.clone()))
        };
        let layers = found.image.stored_layers();
        self.snapshots.chain_of(&layers, &self.cancel, other).map_err(|error| error.to_string())
    }

    /// All layers are fetched together when one is asked for: who needs one usually needs all.
    fn fetch_later(self: &Arc<Self>, name: &str, found: &Arc<Resolved>) -> Arc<dyn Fetch> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let place = shared.entry(found.image.manifest_digest).or_default();
        // One that failed is done again for who asks next.
        if let Some(known) = place.upgrade().filter(|known| !known.has_failed()) {
            return known;
        }
        let download = Arc::new(Download::new(self.clone(), found.clone(), name.to_owned()));
        *place = Arc::downgrade(&download);
        download
    }

    /// Waits for downloads that nobody waited for.
    fn finish(&self) {
        let threads = std::mem::take(&mut *self.downloads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Missing blobs, a few at a time.
    pub(super) fn fetch(&self, found: &Resolved, vertex: VertexId) -> Result<(), String> {
        let missing: Vec<&Descriptor> = {
            let mut seen = std::collections::BTreeSet::new();
            let wanted = found.image.layers.iter().filter(|layer| !self.store.has_blob(&layer.digest));
            wanted.filter(|layer| seen.insert(layer.digest)).collect()
        };
        if let Origin::Registry(..) = &found.origin
            && let Some(message) = super::space::shortage(&self.store, missing.iter().copied())
        {
            return Err(message);
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        let failed: Mutex<Option<String>> = Mutex::default();
        let work = || {
            while let Some(blob) = missing.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                if let Err(error) = self.fetch_one(found, blob, vertex) {
                    let mut slot = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    slot.get_or_insert(error);
                    next.store(missing.len(), std::sync::atomic::Ordering::Relaxed);
                }
            }
        };
        crate::threads::crew(missing.len().min(PARALLEL), work);
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn fetch_one(&self, found: &Resolved, blob: &Descriptor, vertex: VertexId) -> Result<(), String> {
        let item = blob.digest.short();
        let report = |current: u64| {
            let total = Some(blob.size);
            self.events.send(Event::Progress { vertex, item: item.clone(), current, total });
        };
        match &found.origin {
            Origin::Store => Err(format!("the store has no blob {}", blob.digest)),
            Origin::Layout(source) => {
                source.copy_blob_into(&self.store, blob).map_err(|error: ReadError| error.to_string())?;
                report(blob.size);
                Ok(())
            }
            Origin::Registry(registry, repository, _) => RegistryContent::new(registry, repository)
                .fetch(&self.store, blob, &report, &self.cancel)
                .map_err(|error| error.to_string()),
        }
    }
}
