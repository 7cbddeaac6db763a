//! Moving whole images: push, pull, load, copy.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::event::{Event, Events, Outcome, VertexId, VertexKind};
use crate::export::{self, Dest, ExportImage};
use crate::image::choose::{Part, choose};
use crate::image::inspect::{name_in_store, stored};
use crate::image::manifest::{MAX_CONFIG_SIZE, MAX_INDEX_DEPTH};
use crate::image::read::REF_NAME;
use crate::image::{Descriptor, Document, Family, Platform, Reference, open_layout, read};
use crate::registry::origins::{self, Origin};
use crate::registry::{
    BlobState, Content, LayoutContent, PushOptions, PushReport, RegistryAccess, RegistryContent,
    RegistryError, StoreContent,
};
use crate::store::{Store, TempDir};

use super::containers::StorageTools;
use super::failure::{Failure, FailureKind};
use super::place::{Place, selector};
use super::request::EngineAddress;

/// Blobs of one image fetched at the same time.
const PARALLEL: usize = 4;

/// What transfers work with.
pub struct Transfer<'a> {
    /// The store: source, target, or the place where things are put together.
    pub store: &'a Store,
    /// How registries are reached.
    pub access: &'a RegistryAccess,
    /// Which image of an index is meant; `None` is all of them.
    pub platform: Option<Platform>,
    /// Where Docker's API may be.
    pub engines: Vec<EngineAddress>,
    /// How `containers-storage:` is reached.
    pub storage: StorageTools,
    /// Where progress goes.
    pub events: &'a Events,
    /// Ends all of it.
    pub cancel: &'a Cancel,
}

/// An image that was found.
pub(super) struct Source {
    pub content: Box<dyn Content>,
    /// Manifest or index.
    pub top: Descriptor,
    /// The registry it is in.
    pub origin: Option<Origin>,
    /// Where the content lies as long as it is needed.
    pub(super) _held: Option<TempDir>,
}

impl Transfer<'_> {
    /// Pushes a manifest or index of the store, with everything below it, under `name`: under its tag,
    /// or with `by_digest` under no tag. This is what `build --push` wants. Layers that are not in the
    /// store come from the registry that they are known to be in.
    pub fn publish(
        &self,
        name: &Reference,
        descriptor: &Descriptor,
        by_digest: bool,
    ) -> Result<PushReport, Failure> {
        self.send(&StoreContent::new(self.store, self.access), descriptor, name, by_digest)
    }

    pub(super) fn send(
        &self,
        content: &dyn Content,
        descriptor: &Descriptor,
        name: &Reference,
        by_digest: bool,
    ) -> Result<PushReport, Failure> {
        let unnamed = by_digest && name.digest.is_none();
        let shown = if unnamed { name.familiar_repository() } else { name.familiar() };
        self.vertex(VertexKind::Export, format!("pushing {shown}"), |vertex| {
            let fail = |error: RegistryError| self.failure(FailureKind::Output, "push", &shown, &error);
            let registry = self.access.open(&name.domain, &name.path).map_err(fail)?;
            let origin = Origin { host: name.domain.clone(), repository: name.path.clone() };
            let progress = |news: crate::registry::PushProgress| {
                if news.state == BlobState::Sending {
                    let (item, total) = (news.digest.short(), Some(news.total));
                    self.events.send(Event::Progress { vertex, item, current: news.current, total });
                } else {
                    // A hint for the next push; without it that one asks instead.
                    let _ = origins::note(self.store, &news.digest, &origin);
                }
            };
            let tag = if by_digest { None } else { Some(name.tag.as_deref().unwrap_or("latest")) };
            let options = PushOptions::default();
            registry
                .push(&name.path, tag, descriptor, content, &options, &progress, self.cancel)
                .map_err(fail)
        })
    }

    /// Brings an image from its registry into the store and names it there.
    pub fn pull(&self, name: &Reference) -> Result<Descriptor, Failure> {
        self.copy(&Place::Registry(name.clone()), &Place::Store(name.clone()))
    }

    /// Copies an image. From registry to registry nothing touches the disk; into files it goes by way
    /// of the store. Returns the descriptor it has at its new place.
    pub fn copy(&self, from: &Place, to: &Place) -> Result<Descriptor, Failure> {
        let source = self.open(from)?;
        let top = self.select(&source)?;
        self.images_only(&*source.content, to, &top)?;
        match to {
            Place::Registry(name) => {
                self.send(&*source.content, &top, name, false)?;
                Ok(top)
            }
            Place::Store(name) => {
                self.fetch(&*source.content, &top, format!("copying to {}", name.familiar()))?;
                name_in_store(self.store, name, &bare(&top))?;
                Ok(top)
            }
            Place::Layout(path, _) | Place::OciArchive(path, _) | Place::DockerArchive(path, _) => {
                self.fetch(&*source.content, &top, format!("copying to {}", path.display()))?;
                let name = to.name().or_else(|| from.name());
                self.write(&top, &[], to, path, name)
            }
            Place::Engine(name) => {
                self.fetch(&*source.content, &top, format!("copying to {}", name.familiar()))?;
                let dir = self.store.temp_dir()?;
                let path = dir.path().join("image.tar");
                let archive = Place::DockerArchive(path.clone(), None);
                let descriptor = self.write(&top, &[], &archive, &path, Some(name.clone()))?;
                super::load::into_engine(&self.engines, &path, self.cancel)?;
                Ok(descriptor)
            }
            Place::Containers(name) => {
                self.fetch(&*source.content, &top, format!("copying to {}", name.familiar()))?;
                self.store_in_containers(&top, name)
            }
        }
    }

    /// Refuses what is no image, for places that take nothing else.
    fn images_only(&self, content: &dyn Content, to: &Place, top: &Descriptor) -> Result<(), Failure> {
        if !matches!(to, Place::DockerArchive(..) | Place::Engine(_) | Place::Containers(_)) {
            return Ok(());
        }
        let bytes = content
            .document(top, self.cancel)
            .map_err(|error| self.failure(FailureKind::Base, "read", &top.digest.to_string(), &error))?;
        let document = parse(&content.place(), &bytes)?;
        if !document.is_artifact() {
            return Ok(());
        }
        let kind = document.artifact_type().unwrap_or("unknown type");
        let message = format!("{}: holds images only; {} is {kind}", to.transport(), top.digest);
        Err(Failure::new(FailureKind::Unsupported, message)
            .help("artifacts can be in docker://NAME, store:NAME, oci:DIR and oci-archive:FILE"))
    }

    /// Writes what the store has as a layout or an archive. `more` comes along without names.
    pub(super) fn write(
        &self,
        top: &Descriptor,
        more: &[Descriptor],
        to: &Place,
        path: &Path,
        name: Option<Reference>,
    ) -> Result<Descriptor, Failure> {
        let family = if matches!(to, Place::DockerArchive(..)) { Family::Docker } else { Family::Oci };
        let mut descriptor = bare(top);
        if !top.is_index() && Family::of_manifest(&top.media_type) != Some(family) {
            descriptor = self.retyped(top, family)?;
        }
        let result = descriptor.clone();
        let mut names: Vec<Reference> = name.into_iter().collect();
        // A tag alone is a name in a layout, though none elsewhere.
        if let Place::Layout(_, Some(tag)) | Place::OciArchive(_, Some(tag)) = to
            && !tag.contains([':', '/'])
        {
            names.clear();
            descriptor.annotations.insert(REF_NAME.to_owned(), tag.clone());
        }
        let more = more.iter().map(|one| (one.clone(), Vec::new()));
        let images: Vec<ExportImage> = std::iter::once((descriptor, names))
            .chain(more)
            .map(|(descriptor, names)| ExportImage { descriptor, names, created: None })
            .collect();
        let dest = Dest::File(path.to_owned());
        match to {
            Place::Layout(..) => export::oci::write_directory(self.store, &images, path, self.cancel)?,
            Place::DockerArchive(..) => {
                export::docker::write_archive(self.store, &images, &dest, self.cancel)?;
            }
            _ => export::oci::write_archive(self.store, &images, &dest, self.cancel)?,
        }
        Ok(result)
    }

    fn retyped(&self, top: &Descriptor, family: Family) -> Result<Descriptor, Failure> {
        let bytes = self.store.read_blob(&top.digest)?.unwrap_or_default();
        let invalid = |error: crate::image::ManifestError| {
            Failure::new(FailureKind::Output, format!("{}: {error}", top.digest))
        };
        let manifest = crate::image::Manifest::parse(&bytes).map_err(invalid)?;
        let bytes = manifest
            .retyped(family)
            .and_then(|manifest| crate::image::manifest::canonical(&manifest))
            .map_err(invalid)?;
        self.store.put_blob(&bytes)?;
        Ok(Descriptor { platform: top.platform.clone(), ..Descriptor::of(family.manifest(), &bytes) })
    }

    /// Finds an image without fetching more than its manifest.
    pub(super) fn open(&self, place: &Place) -> Result<Source, Failure> {
        let archive = |path: &Path, name: Option<&String>| {
            let base = |error: read::ReadError| Failure::new(FailureKind::Base, error.to_string());
            let source = open_layout(path, self.store).map_err(base)?;
            let top = source.find(&selector(name)).map_err(base)?;
            Ok(Source { content: Box::new(LayoutContent::new(source)), top, origin: None, _held: None })
        };
        match place {
            Place::Layout(path, name) | Place::OciArchive(path, name) | Place::DockerArchive(path, name) => {
                archive(path, name.as_ref())
            }
            Place::Store(name) => {
                let top = self.stored(name)?;
                let content = Box::new(StoreContent::new(self.store, self.access));
                Ok(Source { content, top, origin: None, _held: None })
            }
            Place::Registry(name) => {
                let shown = name.familiar();
                let fail = |error: RegistryError| self.failure(FailureKind::Base, "get", &shown, &error);
                let registry = self.access.open(&name.domain, &name.path).map_err(fail)?;
                let wanted = match (&name.digest, &name.tag) {
                    (Some(digest), _) => digest.to_string(),
                    (None, tag) => tag.clone().unwrap_or_else(|| "latest".to_owned()),
                };
                let found = registry.manifest(&name.path, &wanted, self.cancel).map_err(fail)?;
                let document = parse(&shown, &found.bytes)?;
                let media_type = match found.media_type.as_str() {
                    "" => document.media_type(),
                    given => given,
                };
                let top = Descriptor::new(media_type, found.digest, found.bytes.len() as u64);
                let origin = Origin { host: name.domain.clone(), repository: name.path.clone() };
                let content = RegistryContent::new(&registry, &name.path).with_document(found.bytes);
                let content = Box::new(content);
                Ok(Source { content, top, origin: Some(origin), _held: None })
            }
            Place::Engine(name) => {
                let dir = self.store.temp_dir()?;
                let path = dir.path().join("image.tar");
                super::load::from_engine(&self.engines, &name.familiar(), &path, self.cancel)?;
                Ok(Source { _held: Some(dir), ..archive(&path, None)? })
            }
            Place::Containers(name) => self.open_containers(name),
        }
    }

    /// What a name means in the store. Layers that are not compressed yet are compressed now.
    pub fn stored(&self, name: &Reference) -> Result<Descriptor, Failure> {
        let pack = || Ok(export::pack(self.store, name, self.cancel)?);
        let digest = if export::is_draft(self.store, name)? {
            let title = format!("compressing the layers of {}", name.familiar());
            self.vertex(VertexKind::Transfer, title, |_| pack())?
        } else {
            pack()?
        };
        let missing = || {
            Failure::new(FailureKind::Usage, format!("no image {} in the store", name.familiar()))
                .help("`rbuild images` lists what is there")
        };
        let digest = digest.ok_or_else(missing)?;
        stored(self.store, &Reference::of_digest(digest))?.ok_or_else(missing)
    }

    pub(super) fn select(&self, source: &Source) -> Result<Descriptor, Failure> {
        match &self.platform {
            None => Ok(source.top.clone()),
            Some(platform) => self.choose(&*source.content, &source.top, platform),
        }
    }

    /// The image for a platform, where the descriptor is that of an index.
    pub(super) fn choose(
        &self,
        content: &dyn Content,
        top: &Descriptor,
        platform: &Platform,
    ) -> Result<Descriptor, Failure> {
        let read = |descriptor: &Descriptor, part| match part {
            Part::Manifest => content.document(descriptor, self.cancel).map_err(|error| {
                self.failure(FailureKind::Base, "read", &descriptor.digest.to_string(), &error)
            }),
            Part::Config => self.config(content, descriptor),
        };
        choose(top, platform, read).map(|chosen| chosen.descriptor).map_err(|error| {
            match error.explained(platform) {
                Ok(text) => Failure::new(FailureKind::Base, format!("{}: {text}", content.place())),
                Err(failure) => failure,
            }
        })
    }

    /// A config, verified. Registries have it among the blobs.
    pub(super) fn config(&self, content: &dyn Content, descriptor: &Descriptor) -> Result<Vec<u8>, Failure> {
        let fail = |reason: &str| {
            let message = format!("cannot read {} of {}: {reason}", descriptor.digest, content.place());
            Failure::new(FailureKind::Base, message)
        };
        let opened = content.open(descriptor, 0, self.cancel).map_err(|error| {
            self.failure(FailureKind::Base, "read", &descriptor.digest.to_string(), &error)
        })?;
        let mut bytes = Vec::new();
        opened.take(MAX_CONFIG_SIZE + 1).read_to_end(&mut bytes).map_err(|error| fail(&error.to_string()))?;
        if bytes.len() as u64 > MAX_CONFIG_SIZE || Digest::of(&bytes) != descriptor.digest {
            return Err(fail("it is not the config that its digest names"));
        }
        Ok(bytes)
    }

    /// Brings everything below a descriptor into the store.
    pub(super) fn fetch(
        &self,
        content: &dyn Content,
        top: &Descriptor,
        title: String,
    ) -> Result<(), Failure> {
        self.vertex(VertexKind::Transfer, title, |vertex| {
            let mut blobs = Vec::new();
            self.documents(content, top, &mut blobs, 0)?;
            let mut seen = BTreeSet::new();
            blobs.retain(|blob| seen.insert(blob.digest));
            self.blobs(content, &blobs, vertex)
        })
    }

    /// Puts manifests and indexes into the store and collects the blobs they refer to.
    pub(super) fn documents(
        &self,
        content: &dyn Content,
        descriptor: &Descriptor,
        blobs: &mut Vec<Descriptor>,
        depth: u32,
    ) -> Result<(), Failure> {
        if depth > MAX_INDEX_DEPTH {
            let message = format!("{}: indexes are nested too deeply", content.place());
            return Err(Failure::new(FailureKind::Base, message));
        }
        let bytes = content.document(descriptor, self.cancel).map_err(|error| {
            self.failure(FailureKind::Base, "read", &descriptor.digest.to_string(), &error)
        })?;
        match parse(&content.place(), &bytes)? {
            Document::Index(index) => {
                for child in &index.manifests {
                    self.documents(content, child, blobs, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                manifest.check_foreign().map_err(|error| {
                    Failure::new(FailureKind::Base, format!("{}: {error}", content.place()))
                })?;
                blobs.push(manifest.config);
                blobs.extend(manifest.layers);
            }
        }
        self.store.put_blob(&bytes)?;
        Ok(())
    }

    /// Brings these blobs into the store, as one line of the progress.
    pub(super) fn fetch_blobs(
        &self,
        content: &dyn Content,
        blobs: &[Descriptor],
        title: String,
    ) -> Result<(), Failure> {
        self.vertex(VertexKind::Transfer, title, |vertex| self.blobs(content, blobs, vertex))
    }

    /// Brings blobs into the store, a few at a time.
    pub(super) fn blobs(
        &self,
        content: &dyn Content,
        blobs: &[Descriptor],
        vertex: VertexId,
    ) -> Result<(), Failure> {
        let missing = blobs.iter().filter(|blob| !self.store.has_blob(&blob.digest));
        if let Some(message) = super::space::shortage(self.store, missing) {
            return Err(Failure::new(FailureKind::Store, message));
        }
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Failure>> = Mutex::default();
        let run = || {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let item = blob.digest.short();
                let progress = |current| {
                    let (item, total) = (item.clone(), Some(blob.size));
                    self.events.send(Event::Progress { vertex, item, current, total });
                };
                if let Err(error) = content.fetch(self.store, blob, &progress, self.cancel) {
                    let failure = self.failure(FailureKind::Base, "get", &blob.digest.to_string(), &error);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                    next.store(blobs.len(), Ordering::Relaxed);
                }
            }
        };
        crate::threads::crew(blobs.len().min(PARALLEL), run);
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn vertex<T>(
        &self,
        kind: VertexKind,
        title: String,
        work: impl FnOnce(VertexId) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let vertex = self.events.add(kind, title);
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

    pub(super) fn failure(
        &self,
        kind: FailureKind,
        verb: &str,
        name: &str,
        error: &RegistryError,
    ) -> Failure {
        if error.is_cancelled() || self.cancel.is_cancelled() {
            return Failure::new(FailureKind::Interrupted, "canceled");
        }
        match error {
            RegistryError::Store(_) => Failure::new(FailureKind::Store, error.to_string()),
            _ => Failure::new(kind, format!("cannot {verb} {name}: {error}")),
        }
    }
}

/// What a descriptor says of the thing itself, without what an index said about it.
pub(super) fn bare(descriptor: &Descriptor) -> Descriptor {
    Descriptor {
        platform: descriptor.platform.clone(),
        ..Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size)
    }
}

pub(super) fn parse(place: &str, bytes: &[u8]) -> Result<Document, Failure> {
    Document::parse(bytes).map_err(|error| Failure::new(FailureKind::Base, format!("{place}: {error}")))
}
