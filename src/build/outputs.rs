//! `-o`: the image to files.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::event::{Event, Events, Outcome, Stream, VertexId, VertexKind};
use crate::export::local::{LocalOptions, LocalReport};
use crate::export::{self, Dest, ExportImage, Replaced, RootTree};
use crate::image::{Family, Platform, Reference};
use crate::layer::{Entry, EntryKind};
use crate::snapshot::{Chain, NodeKind, Snapshots, Tree, path_order};

use super::attestations::{self, WithFiles};
use super::engine::{Engine, parse_tags};
use super::failure::{Failure, FailureKind};
use super::permission;
use super::request::{BuildRequest, OutputKind, OutputSpec};
use super::result::{self, Built, Package};
use super::transfer::Transfer;

/// Refuses outputs that cannot work before anything is built.
pub(super) fn check(request: &BuildRequest) -> Result<(), Failure> {
    for output in request.outputs.iter().filter(|output| output.push) {
        if request.tags.is_empty() && output.names.is_empty() {
            return Err(Failure::new(FailureKind::Usage, "a push needs a name: give one with -t or name="));
        }
    }
    if request.outputs_on_stdout() > 1 {
        return Err(Failure::new(FailureKind::Usage, "only one output can go to standard output"));
    }
    attestations::check(request)?;
    for output in &request.outputs {
        let directory = matches!(output.kind, OutputKind::Local | OutputKind::OciDir);
        if directory && output.dest == "-" {
            return Err(Failure::new(
                FailureKind::Usage,
                "a directory output needs a path as its dest, not -",
            ));
        }
        let has_place =
            directory || matches!(output.kind, OutputKind::Oci | OutputKind::Docker | OutputKind::Tar);
        if has_place && output.dest != "-" {
            export::check_place(&request.cwd.join(&output.dest), directory)?;
        }
    }
    Ok(())
}

/// Refuses outputs that want the same layers with different times.
pub(super) fn check_times(request: &BuildRequest) -> Result<(), Failure> {
    let kept = |output: &OutputSpec| output.rewrite_timestamp == Some(false);
    let mut images = request.outputs.iter().filter(|output| output.makes_image());
    let some_kept = request.outputs.iter().any(kept);
    if request.source_date_epoch.is_none() || !some_kept || images.all(kept) {
        return Ok(());
    }
    let message = "rewrite-timestamp=false is given for some outputs only, but all have the same layers";
    Err(Failure::new(FailureKind::Usage, message)
        .help("give it for every output that is an image, or for none"))
}

/// What there is to write.
pub(super) struct Results<'a> {
    /// One image for each platform.
    pub built: &'a [Built],
    /// An index stands above them.
    pub with_index: bool,
    /// The tags.
    pub names: &'a [Reference],
    /// All blobs are in the store; without, some are only known to be in a registry.
    pub complete: bool,
}

/// Writes all outputs, in order.
pub(super) fn write_all(
    engine: &Engine,
    request: &BuildRequest,
    results: &Results<'_>,
    events: &Events,
    cancel: &Cancel,
) -> Result<(), Failure> {
    for spec in &request.outputs {
        if spec.kind == OutputKind::CacheOnly {
            continue;
        }
        let vertex = events.add(VertexKind::Export, title(spec));
        let output = Output { engine, request, spec, results, events, vertex, cancel };
        events.send(Event::Started { vertex });
        let begun = Instant::now();
        let result = output.write();
        let outcome = match &result {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure.message.clone()),
        };
        events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
        result?;
        if let Some(what) = output.delivered() {
            events.send(Event::Delivered(what));
        }
    }
    Ok(())
}

/// The repositories that a request pushes to, each once.
pub(super) fn pushed_to(request: &BuildRequest) -> Result<Vec<Reference>, Failure> {
    let mut all: Vec<Reference> = Vec::new();
    for spec in request.outputs.iter().filter(|spec| spec.push) {
        let names = parse_tags(if spec.names.is_empty() { &request.tags } else { &spec.names })?;
        for name in names {
            if !all.iter().any(|known| known.domain == name.domain && known.path == name.path) {
                all.push(name);
            }
        }
    }
    Ok(all)
}

/// One output being written.
struct Output<'a> {
    engine: &'a Engine,
    request: &'a BuildRequest,
    spec: &'a OutputSpec,
    results: &'a Results<'a>,
    events: &'a Events,
    vertex: VertexId,
    cancel: &'a Cancel,
}

fn title(spec: &OutputSpec) -> String {
    let what = match spec.kind {
        OutputKind::Oci | OutputKind::OciDir => "exporting to oci image format",
        OutputKind::Docker => "exporting to docker image format",
        OutputKind::Load => return "loading into the engine".into(),
        OutputKind::Image if spec.push => return "exporting to registries".into(),
        OutputKind::Image | OutputKind::CacheOnly => return "naming the image".into(),
        OutputKind::Local => "exporting files",
        OutputKind::Tar => "exporting files as a tarball",
    };
    format!("{what}: {}", if spec.dest == "-" { "standard output" } else { &spec.dest })
}

impl Output<'_> {
    /// The names of this output: its own, or the tags.
    fn names(&self) -> Result<Vec<Reference>, Failure> {
        if self.spec.names.is_empty() {
            return Ok(self.results.names.to_vec());
        }
        parse_tags(&self.spec.names)
    }

    /// Manifests as this output wants them.
    fn package(&self, default: Family) -> Result<Package, Failure> {
        let compression = self.spec.compression();
        // Annotations of layers are part of eStargz; Docker's own manifests have none.
        let images = self.results.built.iter().filter_map(|one| one.image(compression));
        let annotated = images.flat_map(|image| &image.layers);
        let annotated = annotated.map(|layer| &layer.annotations).any(|all| !all.is_empty());
        let names = self.names()?;
        let attaching = attestations::attaching(self.request, self.spec, self.results.built, &names);
        let default = if annotated || attaching.is_some() { Family::Oci } else { default };
        let family = match self.spec.oci_types {
            Some(true) => Family::Oci,
            Some(false) => Family::Docker,
            None => default,
        };
        let mut annotations = self.request.annotations.clone();
        annotations.extend(self.spec.annotations.iter().cloned());
        if family == Family::Docker {
            // Docker's own manifests know none.
            annotations.clear();
        }
        let Results { built, with_index, .. } = *self.results;
        let attaching = attaching.as_ref().filter(|_| family == Family::Oci);
        result::package(self.engine, built, compression, family, &annotations, with_index, attaching)
    }

    /// The files of an image, and what is claimed about them.
    fn tree(&self, one: &Built) -> Result<WithFiles, Failure> {
        let files = ImageFiles::new(&self.engine.snapshots, &one.chain)?;
        let several = self.results.with_index && self.spec.split == Some(false);
        let extra = attestations::files(self.spec, one, several, &files)?;
        let mtime = self.request.source_date_epoch.unwrap_or_else(super::engine::now_seconds);
        Ok(WithFiles { files: Box::new(files), extra, mtime })
    }

    /// The image as a layout has it: attestations that are referrers come along without names.
    fn exports(&self) -> Result<Vec<ExportImage>, Failure> {
        let package = self.package(Family::Oci)?;
        let more = package.referrers.iter().cloned();
        let more = more.map(|descriptor| ExportImage { descriptor, names: Vec::new(), created: None });
        Ok(std::iter::once(self.export(&package)?).chain(more).collect())
    }

    fn created(&self) -> Option<String> {
        self.results.built.first().and_then(|one| one.image(self.spec.compression())?.config.created.clone())
    }

    fn export(&self, package: &Package) -> Result<ExportImage, Failure> {
        Ok(ExportImage { descriptor: package.top.clone(), names: self.names()?, created: self.created() })
    }

    /// What was written outside the store, in a few words. A push has said so for each name.
    fn delivered(&self) -> Option<String> {
        let dest = &self.spec.dest;
        let kind = match self.spec.kind {
            OutputKind::Load => return Some("loaded into the engine".into()),
            _ if dest == "-" => return None,
            OutputKind::Oci => "OCI archive",
            OutputKind::OciDir => "OCI layout",
            OutputKind::Docker => "Docker archive",
            OutputKind::Local => "files",
            OutputKind::Tar => "tarball",
            OutputKind::Image | OutputKind::CacheOnly => return None,
        };
        let size = std::fs::metadata(self.request.cwd.join(dest)).ok().filter(std::fs::Metadata::is_file);
        let size = size.map(|file| format!(", {}", crate::fs::shown_size(file.len()))).unwrap_or_default();
        Some(format!("wrote {dest} ({kind}{size})"))
    }

    fn write(&self) -> Result<(), Failure> {
        let store = self.engine.store();
        let dest = Dest::parse(&self.spec.dest, &self.request.cwd);
        let path = self.request.cwd.join(&self.spec.dest);
        match self.spec.kind {
            OutputKind::Oci => {
                export::oci::write_archive(store, &self.exports()?, &dest, self.cancel)?;
            }
            OutputKind::OciDir => {
                export::oci::write_directory(store, &self.exports()?, &path, self.cancel)?;
            }
            OutputKind::Docker => self.docker_archive(&dest)?,
            OutputKind::Load => self.load()?,
            OutputKind::Image => self.image()?,
            OutputKind::Local => {
                for (one, below) in self.files()? {
                    self.local(one, &below)?;
                }
            }
            OutputKind::Tar => {
                let files = self.files()?;
                let mut trees = Vec::new();
                for (one, below) in &files {
                    trees.push((below.clone(), self.tree(one)?));
                }
                let all = Platforms { trees };
                export::tar::write(&all, &dest, self.request.source_date_epoch, self.cancel)?;
            }
            OutputKind::CacheOnly => {}
        }
        Ok(())
    }

    /// For several platforms the layout has all of them, and `manifest.json`, which knows none, the
    /// one that runs here.
    fn docker_archive(&self, dest: &Dest) -> Result<(), Failure> {
        let package = self.package(Family::Docker)?;
        let store = self.engine.store();
        let whole = self.export(&package)?;
        let here = self.here();
        let Some(chosen) = package.images.get(here) else { return Ok(()) };
        let chosen = ExportImage { descriptor: chosen.descriptor.clone(), ..whole.clone() };
        export::docker::write_platforms(store, &whole, &chosen, dest, self.cancel)?;
        Ok(())
    }

    /// Into the store, and to registries.
    fn image(&self) -> Result<(), Failure> {
        let package = self.package(Family::Oci)?;
        let names = self.names()?;
        if names.is_empty() && self.spec.push {
            return Err(Failure::new(FailureKind::Usage, "a push needs a name: give one with -t or name="));
        }
        let store = self.engine.store();
        if self.results.complete {
            for name in &names {
                crate::image::inspect::name_in_store(store, name, &package.top)?;
            }
        }
        if !self.spec.push {
            return Ok(());
        }
        let access = self.engine.access(self.request, self.events);
        let (events, cancel) = (self.events, self.cancel);
        let transfer = Transfer {
            store,
            access: &access,
            platform: None,
            engines: Vec::new(),
            storage: Default::default(),
            events,
            cancel,
        };
        for name in &names {
            let key = self.request.sign.as_ref();
            let sent =
                transfer.publish_with(name, &package.top, &package.referrers, key, self.spec.by_digest);
            let report = match sent {
                Err(failure)
                    if self.request.keep_immutable_tags && permission::is_immutable(&failure.message) =>
                {
                    let name = name.familiar();
                    self.events
                        .warn(format!("{name} is left as it is: its registry lets nobody move the tag"));
                    continue;
                }
                report => report?,
            };
            let sent = report.sent_bytes;
            self.events.send(Event::Delivered(format!(
                "pushed {}@{} ({} sent, {} of {} blobs were there)",
                if self.spec.by_digest { name.familiar_repository() } else { name.familiar() },
                report.digest,
                crate::fs::shown_size(sent),
                report.mounted + report.existed,
                report.uploaded + report.mounted + report.existed,
            )));
            let line = format!(
                "{}: {} ({sent} bytes sent; blobs: {} uploaded, {} mounted, {} there already)",
                name.familiar(),
                report.digest,
                report.uploaded,
                report.mounted,
                report.existed
            );
            let line = line.into_bytes();
            self.events.send(Event::Log { vertex: self.vertex, stream: Stream::Stdout, line });
        }
        Ok(())
    }

    /// Position of the image that runs on this machine; the first where none does.
    fn here(&self) -> usize {
        let host = Platform::host();
        host.select(self.results.built.iter().map(|one| Some(&one.platform))).unwrap_or(0)
    }

    fn load(&self) -> Result<(), Failure> {
        let dir = self.engine.store().temp_dir()?;
        let archive = dir.path().join("image.tar");
        self.docker_archive(&Dest::File(archive.clone()))?;
        let loaded = super::load::into_engine(&self.request.engines, &archive, self.cancel)?;
        for line in loaded.lines() {
            let line = line.as_bytes().to_vec();
            self.events.send(Event::Log { vertex: self.vertex, stream: Stream::Stdout, line });
        }
        Ok(())
    }

    /// Images and the directory each goes to below the destination.
    fn files(&self) -> Result<Vec<(&Built, String)>, Failure> {
        let built = self.results.built;
        if self.spec.split.unwrap_or(self.results.with_index) {
            return Ok(built.iter().map(|one| (one, one.platform.to_string().replace('/', "_"))).collect());
        }
        match built {
            [only] => Ok(vec![(only, String::new())]),
            _ => Err(Failure::new(
                FailureKind::Usage,
                "files of several platforms need a directory each: leave platform-split=false out",
            )),
        }
    }

    fn local(&self, one: &Built, below: &str) -> Result<(), Failure> {
        let mut shown = PathBuf::from(&self.spec.dest);
        shown.extend(Some(below).filter(|below| !below.is_empty()));
        let path = &self.request.cwd.join(&shown);
        let files = self.tree(one)?;
        if let Some(parent) = path.parent().filter(|_| !below.is_empty()) {
            std::fs::create_dir_all(parent).map_err(|error| {
                Failure::new(FailureKind::Output, format!("cannot create {}: {error}", parent.display()))
            })?;
        }
        let before_replacing = |replaced: &Replaced| self.events.warn(replacement(&shown, replaced));
        let options = LocalOptions {
            mtime: self.request.source_date_epoch,
            keep_special: self.spec.keep_special,
            before_replacing: &before_replacing,
        };
        let report = export::local::write(&files, path, &options, self.cancel)?;
        if let Some(notice) = left_out(&shown, &report, self.spec.keep_special) {
            self.events.warn(notice);
        }
        Ok(())
    }
}

/// How many names a notice lists.
const NAMED: usize = 5;

fn replacement(path: &Path, replaced: &Replaced) -> String {
    let mut parts = Vec::new();
    for (what, paths) in [("replacing", &replaced.files), ("changing the mode of", &replaced.modes)] {
        if paths.is_empty() {
            continue;
        }
        let named: Vec<_> = paths.iter().take(NAMED).map(|path| String::from_utf8_lossy(path)).collect();
        let more = match paths.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("{what} {}{more}", named.join(", ")));
    }
    format!("{} has files that rbuild did not write there: {}", path.display(), parts.join("; "))
}

/// One notice of everything that the image has and the directory has not.
fn left_out(path: &Path, report: &LocalReport, asked_for: bool) -> Option<String> {
    let count = |count: usize, one: &str, several: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {several}")),
    };
    let devices = count(report.skipped_devices.len(), "device node", "device nodes");
    let bits = count(
        report.without_set_id.len(),
        "set-user-ID or set-group-ID file",
        "set-user-ID or set-group-ID files",
    );
    let bits = bits.map(|files| format!("the special mode bits of {files}"));
    let parts: Vec<String> = devices.into_iter().chain(bits).collect();
    if parts.is_empty() {
        return None;
    }
    let advice = if asked_for { "only root can make them" } else { "keep-special=true keeps them" };
    Some(format!("left out of {}: {} ({advice})", path.display(), parts.join(" and ")))
}

/// Files of several images, each below a directory of its own.
struct Platforms {
    trees: Vec<(String, WithFiles)>,
}

impl RootTree for Platforms {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut all = Vec::new();
        for (below, tree) in &self.trees {
            let prefix = |path: &[u8]| match below.is_empty() {
                true => path.to_vec(),
                false => [below.as_bytes(), b"/", path].concat(),
            };
            if !below.is_empty() {
                let meta = crate::layer::Metadata { mode: 0o755, ..Default::default() };
                let path = below.clone().into_bytes();
                all.push(Entry { path, kind: EntryKind::Dir, meta, offset: 0 });
            }
            for entry in tree.entries()? {
                let kind = match entry.kind {
                    EntryKind::Hardlink(first) => EntryKind::Hardlink(prefix(&first)),
                    other => other,
                };
                all.push(Entry { path: prefix(&entry.path), kind, ..entry });
            }
        }
        Ok(all)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        for (below, tree) in &self.trees {
            let inside = match below.is_empty() {
                true => Some(path),
                false => path.strip_prefix(below.as_bytes()).and_then(|rest| rest.strip_prefix(b"/")),
            };
            if let Some(inside) = inside {
                return tree.open(inside);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The final root file system, read through layer directories.
pub(super) struct ImageFiles {
    snapshots: Snapshots,
    chain: Chain,
    pub tree: Arc<Tree>,
}

impl ImageFiles {
    pub fn new(snapshots: &Snapshots, chain: &Chain) -> Result<Self, Failure> {
        let tree = snapshots.complete_tree(chain)?;
        Ok(ImageFiles { snapshots: snapshots.clone(), chain: chain.clone(), tree })
    }
}

impl RootTree for ImageFiles {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut nodes: Vec<_> = self.tree.below(b"").collect();
        nodes.sort_by(|a, b| path_order(a.0, b.0));
        // The group's first name may have been deleted since: the first that is left takes its place.
        let mut first: HashMap<(usize, &[u8]), Vec<u8>> = HashMap::new();
        let mut entries = Vec::with_capacity(nodes.len());
        for (path, node) in nodes {
            let mut kind = match &node.kind {
                NodeKind::File { size, digest } => EntryKind::File { size: *size, digest: *digest },
                NodeKind::Dir => EntryKind::Dir,
                NodeKind::Symlink(target) => EntryKind::Symlink(target.clone()),
                NodeKind::CharDevice(major, minor) => EntryKind::CharDevice { major: *major, minor: *minor },
                NodeKind::BlockDevice(major, minor) => {
                    EntryKind::BlockDevice { major: *major, minor: *minor }
                }
                NodeKind::Fifo => EntryKind::Fifo,
            };
            if let Some(link) = &node.link {
                match first.get(&(node.layer, &**link)) {
                    Some(target) => kind = EntryKind::Hardlink(target.clone()),
                    None => {
                        first.insert((node.layer, link), path.to_vec());
                    }
                }
            }
            entries.push(Entry { path: path.to_vec(), kind, meta: node.meta.clone(), offset: 0 });
        }
        Ok(entries)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        let Some(node) = self.tree.lookup(path) else { return Err(io::ErrorKind::NotFound.into()) };
        let dir = self
            .snapshots
            .layer_dir(&self.chain, node.layer)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Box::new(crate::fs::open_file_in(&dir, node.place(path))?))
    }
}
