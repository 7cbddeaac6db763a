//! Going through an image: which files matter, what they say, and which layer each package came with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sha1::{Digest as _, Sha1};

use crate::cancel::Cancel;
use crate::context::{ContextError, FileKind, FileSource, Opened};
use crate::digest::{DiffId, Digest, Hasher};
use crate::layer::{Entry, EntryKind, LayerIndex, Metadata};
use crate::snapshot::{Chain, FileReader, NodeKind, SnapshotError, Snapshots, Tree, WantedFile};

use super::classify::{Class, classify};
use super::origin::Distribution;
use super::package::{Ecosystem, Package};
use super::read::{Parsed, read};
use super::text::Found;

/// Notes that are kept.
const MAX_NOTES: usize = 200;

/// A layer and what made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOrigin {
    /// Its diff ID.
    pub diff_id: DiffId,
    /// The instruction, from the history; empty where the history does not say.
    pub created_by: String,
}

/// A file of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// Its path, without a leading slash; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// Digest of its content.
    pub digest: Digest,
    /// SHA-1 of its content in hexadecimal, which SPDX 2.3 requires of every file.
    pub sha1: String,
    /// Bytes.
    pub size: u64,
    /// Position of its layer, from 0.
    pub layer: usize,
}

/// Something that could not be read as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The file, without a leading slash.
    pub path: String,
    /// What is wrong.
    pub text: String,
}

/// What an image holds.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The packages, sorted by ecosystem, name and version.
    pub packages: Vec<Package>,
    /// Its distribution.
    pub distribution: Option<Distribution>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerOrigin>,
    /// The files that packages were found in, sorted by path.
    pub files: Vec<FileRecord>,
    /// What could not be read; at most a few hundred.
    pub notes: Vec<Note>,
}

/// One file to read.
pub(super) struct Task {
    pub(super) path: Vec<u8>,
    /// Where its layer has it.
    place: Vec<u8>,
    offset: u64,
    size: u64,
    pub(super) class: Class,
    /// Whether a layer above replaces it.
    is_hidden: bool,
    /// Other files with the same content.
    same: Vec<Vec<u8>>,
}

impl Task {
    /// A file by itself.
    pub(super) fn of(path: &[u8], size: u64, class: Class) -> Self {
        let (path, place) = (path.to_vec(), path.to_vec());
        Task { path, place, offset: 0, size, class, is_hidden: false, same: Vec::new() }
    }
}

/// Lists what an image holds. `created_by` has the instruction of each layer.
pub fn scan(
    snapshots: &Snapshots,
    chain: &Chain,
    created_by: &[String],
    cancel: &Cancel,
) -> Result<Inventory, SnapshotError> {
    let tree = snapshots.complete_tree(chain)?;
    let mut work = Work::new(&tree);
    for (position, cell) in chain.cells().iter().enumerate() {
        let created_by = created_by.get(position).cloned().unwrap_or_default();
        work.inventory.layers.push(LayerOrigin { diff_id: cell.finished()?.diff_id, created_by });
    }
    let mut tasks = work.tasks(chain.cells().len());
    hidden_databases(snapshots, chain, &tree, &mut tasks)?;
    for (layer, tasks) in tasks.iter().enumerate() {
        let wanted: Vec<WantedFile<'_>> = tasks
            .iter()
            .map(|task| WantedFile { path: &task.place, offset: task.offset, size: task.size })
            .collect();
        let mut visit = |at: usize, file: &mut FileReader<'_>| {
            if !cancel.is_cancelled()
                && let Some(task) = tasks.get(at)
            {
                work.file(layer, task, file);
            }
        };
        snapshots.read_files(chain, layer, &wanted, &mut visit)?;
        if cancel.is_cancelled() {
            return Err(crate::layer::LayerError::Canceled.into());
        }
    }
    Ok(work.finish())
}

/// Lists what the files of a build context say about packages.
pub fn scan_context(source: &dyn FileSource, cancel: &Cancel) -> Result<Inventory, ContextError> {
    let entries = source.list(b"", None)?.into_iter().filter_map(|info| {
        let kind = match info.kind {
            FileKind::File { size } => EntryKind::File { size, digest: None },
            FileKind::Dir => EntryKind::Dir,
            FileKind::Symlink { target } => EntryKind::Symlink(target),
            _ => return None,
        };
        let meta = Metadata { mode: info.mode & 0o7777, ..Metadata::default() };
        Some(Entry { path: info.path, kind, meta, offset: 0 })
    });
    let mut tree = Tree::empty();
    tree.apply(&LayerIndex { entries: entries.collect() }, 0);
    let mut work = Work::new(&tree);
    let tasks = work.tasks(1).pop().unwrap_or_default();
    for task in tasks.iter().take_while(|_| !cancel.is_cancelled()) {
        match source.open(&task.path)? {
            Opened::File(file) => work.file(0, task, &mut FileReader::of_file(file, task.size)),
            Opened::Stream(mut stream) => {
                work.file(0, task, &mut FileReader::of_stream(&mut *stream, task.size));
            }
        }
    }
    Ok(work.finish())
}

/// Lists of packages that layers above replace: they say which package was there before.
fn hidden_databases(
    snapshots: &Snapshots,
    chain: &Chain,
    tree: &Tree,
    tasks: &mut [Vec<Task>],
) -> Result<(), SnapshotError> {
    let databases: BTreeSet<Vec<u8>> = tasks
        .iter()
        .flatten()
        .filter(|task| task.class.is_database())
        .map(|task| task.path.clone())
        .collect();
    if databases.is_empty() {
        return Ok(());
    }
    for (layer, cell) in chain.cells().iter().enumerate() {
        for entry in &cell.complete_entries(snapshots.store())?.entries {
            let EntryKind::File { size, .. } = entry.kind else { continue };
            let is_seen = tree.lookup(&entry.path).is_some_and(|node| node.layer == layer);
            if is_seen || !databases.contains(&entry.path) {
                continue;
            }
            let Some(class) = classify(&entry.path, 0, size) else { continue };
            let path = entry.path.clone();
            tasks[layer].push(Task {
                place: path.clone(),
                path,
                offset: entry.offset,
                size,
                class,
                is_hidden: true,
                same: Vec::new(),
            });
        }
    }
    Ok(())
}

/// A list of packages as one layer has it.
struct Database {
    path: String,
    layer: usize,
    packages: Vec<Package>,
    is_hidden: bool,
}

struct Work<'a> {
    tree: &'a Tree,
    inventory: Inventory,
    databases: Vec<Database>,
    /// Licenses by path of the copyright file.
    copyrights: BTreeMap<Vec<u8>, Vec<String>>,
    /// SHA-1 and digest of the files that packages were found in.
    sums: BTreeMap<String, (String, Digest)>,
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl<'a> Work<'a> {
    fn new(tree: &'a Tree) -> Self {
        Work {
            tree,
            inventory: Inventory::default(),
            databases: Vec::new(),
            copyrights: BTreeMap::new(),
            sums: BTreeMap::new(),
        }
    }

    /// The files to read, by layer.
    fn tasks(&self, layers: usize) -> Vec<Vec<Task>> {
        let mut tasks: Vec<Vec<Task>> = (0..layers).map(|_| Vec::new()).collect();
        let mut copies: BTreeMap<(Class, Digest), Vec<Vec<u8>>> = BTreeMap::new();
        for (path, node) in self.tree.below(b"") {
            let NodeKind::File { size, digest } = node.kind else { continue };
            let Some(class) = classify(path, node.meta.mode, size) else { continue };
            if matches!(class, Class::PackageLock | Class::YarnLock) && self.is_installed_beside(path) {
                continue;
            }
            if let (Class::Java | Class::Binary, Some(digest)) = (class, digest) {
                copies.entry((class, digest)).or_default().push(path.to_vec());
                continue;
            }
            self.add_task(path, class, Vec::new(), &mut tasks);
        }
        // Archives and programs often have several names: the lowest, and of one layer the first, is read.
        for ((class, _), mut paths) in copies {
            paths.sort_by(|a, b| (self.layer_of(a), a).cmp(&(self.layer_of(b), b)));
            let first = paths.remove(0);
            self.add_task(&first, class, paths, &mut tasks);
        }
        // The order of a tree is not defined.
        tasks.iter_mut().for_each(|tasks| tasks.sort_by(|a, b| a.path.cmp(&b.path)));
        tasks
    }

    fn layer_of(&self, path: &[u8]) -> Option<usize> {
        self.tree.lookup(path).map(|node| node.layer)
    }

    fn add_task(&self, path: &[u8], class: Class, same: Vec<Vec<u8>>, tasks: &mut [Vec<Task>]) {
        let Some(node) = self.tree.lookup(path) else { return };
        let (NodeKind::File { size, .. }, Some(tasks)) = (&node.kind, tasks.get_mut(node.layer)) else {
            return;
        };
        let (place, path, offset) = (node.place(path).to_vec(), path.to_vec(), node.offset);
        tasks.push(Task { path, place, offset, size: *size, class, is_hidden: false, same });
    }

    /// What is installed says more than a lock file.
    fn is_installed_beside(&self, path: &[u8]) -> bool {
        let (dir, _) = crate::fs::paths::split(path);
        self.tree.is_dir(&crate::fs::paths::join(dir, b"node_modules"))
    }

    fn file(&mut self, layer: usize, task: &Task, file: &mut FileReader<'_>) {
        let path = shown(&task.path);
        let found = match read(task, file) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => Parsed::Found(Found::problem(error.to_string())),
        };
        let says = match &found {
            Parsed::Found(found) => !found.packages.is_empty(),
            Parsed::Licenses(licenses) => !licenses.is_empty(),
            Parsed::Distribution(_) => false,
        };
        if says && !task.is_hidden {
            match sums(file) {
                Ok(sum) => {
                    let names = std::iter::once(&task.path).chain(&task.same);
                    self.sums.extend(names.map(|name| (shown(name), sum.clone())));
                }
                Err(error) => self.note(&path, error.to_string()),
            }
        }
        match found {
            Parsed::Found(found) => {
                found.problems.into_iter().for_each(|text| self.note(&path, text));
                if task.class.is_database() {
                    let (packages, is_hidden) = (found.packages, task.is_hidden);
                    self.databases.push(Database { path, layer, packages, is_hidden });
                } else {
                    for mut package in found.packages {
                        package.layer = layer;
                        package.found_in =
                            std::iter::once(&task.path).chain(&task.same).map(|name| shown(name)).collect();
                        self.inventory.packages.push(package);
                    }
                }
            }
            Parsed::Licenses(licenses) => drop(self.copyrights.insert(task.path.clone(), licenses)),
            Parsed::Distribution(distribution) => {
                // /etc/os-release is what counts where both are files.
                if self.inventory.distribution.is_none() || path == "etc/os-release" {
                    self.inventory.distribution = distribution;
                }
            }
        }
    }

    fn note(&mut self, path: &str, text: String) {
        if self.inventory.notes.len() < MAX_NOTES {
            self.inventory.notes.push(Note { path: path.to_owned(), text });
        }
    }

    fn finish(mut self) -> Inventory {
        self.attribute();
        self.name_distribution();
        self.merge();
        self.list_files();
        self.inventory.notes.sort_by(|a, b| (&a.path, &a.text).cmp(&(&b.path, &b.text)));
        self.inventory
    }

    /// The packages of each list that is seen, each with the lowest layer from which on all layers have it.
    fn attribute(&mut self) {
        let databases = std::mem::take(&mut self.databases);
        for top in databases.iter().filter(|database| !database.is_hidden) {
            let mut below: Vec<&Database> =
                databases.iter().filter(|other| other.path == top.path && other.layer < top.layer).collect();
            below.sort_by_key(|database| std::cmp::Reverse(database.layer));
            let known: Vec<(usize, BTreeSet<_>)> = below
                .iter()
                .map(|other| {
                    let keys = other.packages.iter().map(|p| (&p.name, &p.version, p.qualifiers.get("arch")));
                    (other.layer, keys.collect())
                })
                .collect();
            for package in &top.packages {
                let key = (&package.name, &package.version, package.qualifiers.get("arch"));
                let has = known.iter().take_while(|(_, keys)| keys.contains(&key));
                let layer = has.last().map_or(top.layer, |(layer, _)| *layer);
                let mut package = Package { layer, found_in: vec![top.path.clone()], ..package.clone() };
                self.add_copyright(&mut package);
                self.inventory.packages.push(package);
            }
        }
        // Those of status.d are lists of one.
        let mut packages = std::mem::take(&mut self.inventory.packages);
        for package in packages.iter_mut().filter(|p| p.ecosystem == Ecosystem::Deb && p.licenses.is_empty())
        {
            self.add_copyright(package);
        }
        self.inventory.packages = packages;
    }

    fn add_copyright(&self, package: &mut Package) {
        if package.ecosystem != Ecosystem::Deb {
            return;
        }
        // The directory is often a link to that of another package.
        let path = format!("usr/share/doc/{}/copyright", package.name);
        let Ok(path) = self.tree.resolve(path.as_bytes()) else { return };
        if let Some(licenses) = self.copyrights.get(&path).filter(|licenses| !licenses.is_empty()) {
            package.licenses.clone_from(licenses);
            package.found_in.push(shown(&path));
        }
    }

    fn name_distribution(&mut self) {
        let distribution = self.inventory.distribution.clone();
        let (id, qualifier) = match &distribution {
            Some(distribution) => (Some(distribution.id.clone()), Some(distribution.qualifier())),
            None => (None, None),
        };
        for package in &mut self.inventory.packages {
            let default = match package.ecosystem {
                Ecosystem::Deb => Some("debian"),
                Ecosystem::Apk => Some("alpine"),
                Ecosystem::Rpm => None,
                _ => continue,
            };
            // The vendor's name in package URLs, where it differs from the distribution's.
            let vendor = id.clone().map(|id| if id == "rhel" { "redhat".to_owned() } else { id });
            package.namespace = vendor.or(default.map(str::to_owned));
            if let Some(qualifier) = &qualifier {
                package.qualifiers.insert("distro", qualifier.clone());
            }
        }
    }

    /// A package that several files tell of is one package.
    fn merge(&mut self) {
        let mut merged: BTreeMap<(Ecosystem, String, String, String), Package> = BTreeMap::new();
        for package in std::mem::take(&mut self.inventory.packages) {
            let key = (package.ecosystem, package.full_name(), package.version.clone(), package.purl());
            match merged.get_mut(&key) {
                None => drop(merged.insert(key, package)),
                Some(known) => {
                    known.layer = known.layer.min(package.layer);
                    for path in package.found_in {
                        if !known.found_in.contains(&path) {
                            known.found_in.push(path);
                        }
                    }
                    for license in package.licenses {
                        known.license(&license);
                    }
                }
            }
        }
        self.inventory.packages = merged.into_values().collect();
        self.inventory.packages.iter_mut().for_each(|package| package.found_in.sort());
    }

    fn list_files(&mut self) {
        let found: BTreeSet<&String> =
            self.inventory.packages.iter().flat_map(|package| &package.found_in).collect();
        let sums = std::mem::take(&mut self.sums);
        let files = sums.into_iter().filter_map(|(path, (sha1, digest))| {
            let node = self.tree.lookup(path.as_bytes()).filter(|_| found.contains(&path))?;
            let NodeKind::File { size, .. } = node.kind else { return None };
            Some(FileRecord { path, digest, sha1, size, layer: node.layer })
        });
        self.inventory.files = files.collect();
    }
}

/// SHA-1 in hexadecimal, and the digest, of a whole file.
fn sums(file: &mut FileReader<'_>) -> std::io::Result<(String, Digest)> {
    let (mut sha1, mut sha256, mut at) = (Sha1::new(), Hasher::new(), 0);
    while at < file.size() {
        let chunk = file.read_at(at, 1 << 20)?;
        if chunk.is_empty() {
            break;
        }
        at += chunk.len() as u64;
        sha1.update(&chunk);
        sha256.update(&chunk);
    }
    let mut hex = String::with_capacity(40);
    for byte in sha1.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok((hex, sha256.finish()))
}
