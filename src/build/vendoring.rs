//! Everything that a locked build reads, gathered in an OCI layout.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::context;
use crate::digest::{Digest, Hasher};
use crate::event::{Event, Events, Outcome, VertexKind};
use crate::fs::{Root, new_file_beside};
use crate::image::manifest::{MAX_MANIFEST_SIZE, canonical};
use crate::image::read::{IMAGE_NAME, REF_NAME};
use crate::image::{Descriptor, Document, Family, Index, Manifest, Reference};
use crate::plan::Entitlements;
use crate::sources::{LockUse, Locking, SourceOptions, vendor};
use crate::steps::remote::LookedUp;

use super::bases::Bases;
use super::contexts;
use super::engine::Engine;
use super::epoch::Times;
use super::failure::{Failure, FailureKind};
use super::locking::remote_sources;
use super::prepare::Opened;
use super::request::BuildRequest;

/// The empty config of an artifact (OCI image-spec, "Guidance for an Empty Descriptor").
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const TREE_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const FILE_TYPE: &str = "application/octet-stream";

/// What was gathered.
#[derive(Clone, Debug, Default)]
pub struct Vendored {
    /// Names of images.
    pub images: usize,
    /// Trees of git repositories.
    pub trees: usize,
    /// Downloads.
    pub files: usize,
    /// Bytes of all blobs.
    pub bytes: u64,
}

impl Engine {
    /// Gathers the sources of a request: of its target or of all stages, for its platforms. They are those that the
    /// lock pins, which must be there.
    ///
    /// # Errors
    /// As a build with `--locked`, up to its first step; a directory with other things in it.
    pub fn vendor(
        &self,
        request: &BuildRequest,
        dir: &Path,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Vendored, Failure> {
        let sources =
            SourceOptions { lock: LockUse::Required, locking: Locking::No, ..request.sources.clone() };
        let request = &BuildRequest { allow: Entitlements::all(), sources, ..request.clone() };
        self.store.cancel_by(cancel);
        let dir: PathBuf = request.cwd.join(dir).components().collect();
        // Before anything is fetched, and again when there is something to write.
        LayoutDir::is_free(&dir)?;
        let opened = self.open_request(request, Times::Unknown, stdin, events, cancel)?;
        let bases = self.bases(request, &opened, request.pull, events, cancel);
        for plan in self.plans_of_all(request, &opened, &bases, cancel)? {
            for (step, source) in remote_sources(&plan) {
                let here = |failure: Failure| failure.at(&step.source, step.span);
                opened.look_up(source, events, cancel).map_err(here)?;
            }
        }
        let mut layout = LayoutDir::begin(&dir)?;
        self.vendor_images(&opened, &bases, &mut layout, events, cancel)?;
        self.vendor_remotes(&opened, &mut layout, events, cancel)?;
        layout.finish()
    }

    fn vendor_images(
        &self,
        opened: &Opened,
        bases: &Bases,
        layout: &mut LayoutDir,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let mut tops: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for (name, image) in &opened.remotes.rules().seen().images {
            let Ok(reference) = Reference::parse(name) else { continue };
            let document = self.top_document(bases, opened, &reference, &image.digest, cancel)?;
            let family = match Document::parse(&document) {
                Ok(Document::Index(index)) => type_or(&index.media_type, Family::Oci.index()),
                Ok(Document::Manifest(manifest)) => type_or(&manifest.media_type, Family::Oci.manifest()),
                Err(error) => return Err(Failure::new(FailureKind::Base, format!("{name}: {error}"))),
            };
            layout.write(&image.digest, &mut &document[..])?;
            let mut entry = Descriptor::of(family, &document);
            entry.annotations.insert(IMAGE_NAME.into(), name.clone());
            if let Some(tag) = &reference.tag {
                entry.annotations.insert(REF_NAME.into(), tag.clone());
            }
            tops.insert(image.digest, entry.clone());
            layout.list(("image", name.clone()), entry);
            layout.done.images += 1;
        }
        for found in bases.found() {
            if !tops.contains_key(&found.top) {
                continue;
            }
            let vertex = events.add(VertexKind::Transfer, format!("vendor {}", found.top.short()));
            events.send(Event::Started { vertex });
            let begun = std::time::Instant::now();
            let fetched = bases.fetch(&found, vertex);
            let outcome = match &fetched {
                Ok(()) => Outcome::Done,
                Err(message) => Outcome::Failed(message.clone()),
            };
            events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
            fetched.map_err(|message| Failure::new(FailureKind::Base, message))?;
            let image = &found.image;
            layout.write(&image.manifest_digest, &mut &image.manifest_bytes[..])?;
            layout.write(&image.manifest.config.digest, &mut &image.config_bytes[..])?;
            for layer in &image.layers {
                let missing =
                    || Failure::new(FailureKind::Store, format!("the store has no blob {}", layer.digest));
                let mut blob = self.store.open_blob(&layer.digest)?.ok_or_else(missing)?;
                layout.write(&layer.digest, &mut blob)?;
            }
        }
        Ok(())
    }

    /// The index or manifest that a digest names.
    fn top_document(
        &self,
        bases: &Bases,
        opened: &Opened,
        reference: &Reference,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, Failure> {
        if let Some(bytes) = self.store.read_blob(digest)? {
            return Ok(bytes);
        }
        if let Some(vendor) = opened.remotes.rules().vendor()
            && let Ok(blob) = vendor.images().open_blob(digest)
        {
            let (mut blob, mut bytes) = (blob.take(MAX_MANIFEST_SIZE), Vec::new());
            if blob.read_to_end(&mut bytes).is_ok() && Digest::of(&bytes) == *digest {
                return Ok(bytes);
            }
        }
        let registry = bases.registry(&reference.domain, &reference.path)?;
        let found = registry.manifest(&reference.path, &digest.to_string(), cancel);
        found.map(|found| found.bytes).map_err(|error| bases.registry_failure(reference, &error))
    }

    fn vendor_remotes(
        &self,
        opened: &Opened,
        layout: &mut LayoutDir,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        for one in opened.remotes.looked_up() {
            match one {
                LookedUp::File(url, file) => {
                    let url = url.to_string();
                    if !seen.insert((url.clone(), file.digest.to_string())) {
                        continue;
                    }
                    let mut blob = fs::File::open(&file.path).map_err(|error| layout.failed(&error))?;
                    layout.write(&file.digest, &mut blob)?;
                    let annotations = [
                        (vendor::URL, Some(url.clone())),
                        (vendor::CHECKSUM, Some(file.digest.to_string())),
                        (vendor::TIME, file.last_modified.map(|time| time.to_string())),
                    ];
                    let blob = Descriptor::new(FILE_TYPE, file.digest, file.size);
                    layout.artifact(("http", url), vendor::FILE, blob, annotations)?;
                    layout.done.files += 1;
                }
                LookedUp::Commit(source, resolved) => {
                    let key = source.cache_key(&resolved);
                    if !seen.insert((key.clone(), String::new())) {
                        continue;
                    }
                    let scratch = self.store.temp_dir()?;
                    let url = source.url.to_string();
                    let (tree, time) = contexts::vertex(events, format!("vendor git source {url}"), |_| {
                        opened.remotes.checkout(&source, &resolved, scratch.path(), cancel)
                    })?;
                    let blob = layout.pack(&tree, time)?;
                    let annotations = [
                        (vendor::URL, Some(url.clone())),
                        (vendor::KEY, Some(key.clone())),
                        (vendor::TIME, Some(time.to_string())),
                    ];
                    layout.artifact(("git", format!("{url} {key}")), vendor::GIT, blob, annotations)?;
                    layout.done.trees += 1;
                }
            }
        }
        Ok(())
    }
}

fn type_or<'a>(given: &'a str, usual: &'a str) -> String {
    if given.is_empty() { usual.to_owned() } else { given.to_owned() }
}

/// A layout that is written. What it had before is replaced when it is complete, by one rename of its index.
struct LayoutDir {
    dir: PathBuf,
    blobs: PathBuf,
    written: BTreeMap<Digest, u64>,
    index: BTreeMap<(&'static str, String), Descriptor>,
    done: Vendored,
    /// The directory, locked: what another process gathers at the same time would be removed as nobody's.
    _lock: fs::File,
}

impl LayoutDir {
    /// Whether a directory is new, or empty, or was written by this before, be it in part; an error where it is not.
    fn is_free(dir: &Path) -> Result<bool, Failure> {
        let names: Vec<OsString> = match fs::read_dir(dir) {
            Ok(entries) => {
                let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
                names.collect::<io::Result<_>>().map_err(|error| cannot_write(dir, &error))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let message = format!("{} is a file, and the sources go into a directory", dir.display());
                return Err(Failure::new(FailureKind::Usage, message));
            }
            Err(error) => return Err(cannot_write(dir, &error)),
        };
        // A file that was being written when a process was killed.
        if names.iter().all(|name| is_partial(name)) {
            return Ok(true);
        }
        let index = Root::open(dir).and_then(|root| {
            let mut bytes = Vec::new();
            root.open_file(b"index.json")?.take(MAX_MANIFEST_SIZE).read_to_end(&mut bytes).map(|_| bytes)
        });
        let index = serde_json::from_slice::<Index>(&index.unwrap_or_default());
        if index.is_ok_and(|index| index.annotations.contains_key(vendor::MARK)) {
            return Ok(false);
        }
        let message = format!("{} has other things in it", dir.display());
        Err(Failure::new(FailureKind::Usage, message)
            .help("name a new directory, or one that `rbuild vendor` has written"))
    }

    /// Begins in a new or empty directory, or in one that was written by this before.
    fn begin(dir: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| cannot_write(dir, &error);
        // A link that the user names is followed. What lies in the directory may be a stranger's.
        fs::create_dir_all(dir).map_err(failed)?;
        let dir = &dir.canonicalize().map_err(failed)?;
        let lock = fs::File::open(dir).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let message = format!("another `rbuild vendor` writes {}", dir.display());
                return Err(Failure::new(FailureKind::Output, message).help("wait until it has ended"));
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let is_new = Self::is_free(dir)?;
        let blobs = dir.join("blobs/sha256");
        for path in [&dir.join("blobs"), &blobs] {
            match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    let message = format!("{} is no directory", path.display());
                    return Err(Failure::new(FailureKind::Output, message)
                        .help("a link is none: what is removed behind it would be somebody else's"));
                }
                Err(_) => fs::create_dir(path).map_err(failed)?,
            }
        }
        let layout = LayoutDir {
            dir: dir.to_owned(),
            blobs,
            written: BTreeMap::new(),
            index: BTreeMap::new(),
            done: Vendored::default(),
            _lock: lock,
        };
        if is_new {
            layout.write_index(vendor::UNFINISHED)?;
        }
        layout.replace("oci-layout", LAYOUT)?;
        Ok(layout)
    }

    fn failed(&self, error: &io::Error) -> Failure {
        cannot_write(&self.dir, error)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.dir.join(name);
        let written = new_file_beside(&path, 0o644).and_then(|mut file| {
            file.write_all(bytes)?;
            Ok(file.persist(&path).map(drop)?)
        });
        written.map_err(|error| self.failed(&error))
    }

    /// Writes a blob, whose content must be what its digest says.
    fn write(&mut self, digest: &Digest, from: &mut dyn Read) -> Result<(), Failure> {
        if self.written.contains_key(digest) {
            return Ok(());
        }
        let (found, size) = self.take(from).map_err(|error| self.failed(&error))?;
        if found != *digest {
            let message = format!("blob {digest} is damaged: it is {found}");
            return Err(Failure::new(FailureKind::Store, message).help("`rbuild fsck` checks the store"));
        }
        self.written.insert(found, size);
        Ok(())
    }

    /// Writes a blob under the digest that it has.
    fn take(&self, from: &mut dyn Read) -> io::Result<(Digest, u64)> {
        let file = new_file_beside(&self.blobs.join("blob"), 0o644)?;
        let mut to = Counted { to: file, hasher: Hasher::new(), size: 0 };
        io::copy(from, &mut to)?;
        self.keep(to)
    }

    fn keep(&self, written: Counted) -> io::Result<(Digest, u64)> {
        let Counted { to, hasher, size } = written;
        let digest = hasher.finish();
        to.persist(self.blobs.join(digest.hex()))?;
        Ok((digest, size))
    }

    /// Packs the files of a commit. They get its time, also where a checkout would give them its own.
    fn pack(&mut self, tree: &Path, time: i64) -> Result<Descriptor, Failure> {
        let packed = new_file_beside(&self.blobs.join("blob"), 0o644).and_then(|file| {
            let mut to = Counted { to: file, hasher: Hasher::new(), size: 0 };
            context::pack_tree(tree, time, &mut to)?;
            self.keep(to)
        });
        let (digest, size) = packed.map_err(|error| self.failed(&error))?;
        self.written.insert(digest, size);
        Ok(Descriptor::new(TREE_TYPE, digest, size))
    }

    /// Lists something in the index.
    fn list(&mut self, key: (&'static str, String), entry: Descriptor) {
        self.index.insert(key, entry);
    }

    /// Adds a manifest for something that is no image.
    fn artifact<const N: usize>(
        &mut self,
        key: (&'static str, String),
        kind: &str,
        blob: Descriptor,
        annotations: [(&str, Option<String>); N],
    ) -> Result<(), Failure> {
        let annotations: BTreeMap<String, String> =
            annotations.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        self.write(&Digest::of(EMPTY), &mut &EMPTY[..])?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Family::Oci.manifest().to_owned(),
            artifact_type: Some(kind.to_owned()),
            config: Descriptor::of(EMPTY_TYPE, EMPTY),
            layers: vec![blob],
            subject: None,
            annotations: annotations.clone(),
            rest: serde_json::Map::new(),
        };
        let bytes = canonical(&manifest).map_err(|error| {
            Failure::new(FailureKind::Output, format!("cannot write a manifest: {error}"))
        })?;
        self.write(&Digest::of(&bytes), &mut &bytes[..])?;
        let mut entry = Descriptor::of(Family::Oci.manifest(), &bytes);
        entry.artifact_type = Some(kind.to_owned());
        entry.annotations = annotations;
        self.list(key, entry);
        Ok(())
    }

    /// Writes the index; `mark` says that this wrote it, and whether it is complete.
    fn write_index(&self, mark: &str) -> Result<(), Failure> {
        let mut index = Index::new(self.index.values().cloned().collect());
        index.annotations.insert(vendor::MARK.to_owned(), mark.to_owned());
        let bytes = canonical(&index)
            .map_err(|error| Failure::new(FailureKind::Output, format!("cannot write the index: {error}")))?;
        self.replace("index.json", &bytes)
    }

    /// Makes the new index count, and removes the blobs that it does not refer to.
    fn finish(mut self) -> Result<Vendored, Failure> {
        self.write_index(vendor::COMPLETE)?;
        self.sweep(&self.dir, |_| false).map_err(|error| self.failed(&error))?;
        let is_old =
            |name: &str| Digest::from_hex(name).is_some_and(|digest| !self.written.contains_key(&digest));
        self.sweep(&self.blobs, is_old).map_err(|error| self.failed(&error))?;
        self.done.bytes = self.written.values().sum();
        Ok(self.done)
    }

    /// Removes what a killed process left, and what `is_old`. Files that this did not name stay, whoever put them here.
    fn sweep(&self, dir: &Path, is_old: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_partial(&name) || name.to_str().is_some_and(&is_old) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

fn cannot_write(dir: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Output, format!("cannot write {}: {error}", dir.display()))
}

/// Whether a file is one of those that [`new_file_beside`] makes in a layout.
fn is_partial(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let ours = ["index.json.", "oci-layout.", "blob."].iter().any(|begin| name.starts_with(begin));
    ours && name.ends_with(".partial")
}

/// A file whose content is digested while it is written.
struct Counted {
    to: tempfile::NamedTempFile,
    hasher: Hasher,
    size: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        let written = bytes.get(..count).unwrap_or_default();
        self.hasher.update(written);
        self.size += written.len() as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
