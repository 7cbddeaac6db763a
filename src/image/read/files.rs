//! Layout directories and archives as blobs by digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::fs::Root;
use crate::image::manifest::{Document, Index, MAX_MANIFEST_SIZE, ManifestError};
use crate::store::{Store, TempDir};

use super::{BlobSource, ReadError};

/// An image archive has tens of entries; a tar with more than this is not one.
const MAX_ENTRIES: usize = 200_000;
const MAX_LINK_HOPS: usize = 8;

/// An OCI layout directory.
pub(super) struct Directory {
    root: PathBuf,
    dir: Root,
}

/// Opens a layout directory, after making sure that it is one.
pub(super) fn open_directory(path: &Path) -> Result<(Index, Directory), ReadError> {
    let dir = Root::open(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    let directory = Directory { root: path.to_owned(), dir };
    let mut documents = Vec::new();
    for name in ["oci-layout", "index.json"] {
        let Some(file) = directory.open_file(name)? else {
            return Err(ReadError::NotALayout { path: path.to_owned(), reason: format!("it has no {name}") });
        };
        documents.push(read_limited(file, &path.join(name))?);
    }
    let (version, index) = (&documents[0], &documents[1]);
    check_layout_version(path, version)?;
    Ok((parse_index(path, index)?, directory))
}

impl Directory {
    fn open_file(&self, name: &str) -> Result<Option<File>, ReadError> {
        // A layout may come from anybody: its links lead to files in it, or nowhere.
        match self.dir.open_file_within(name.as_bytes()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Io { path: self.root.join(name), source }),
        }
    }
}

impl BlobSource for Directory {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send>>, ReadError> {
        let file = self.open_file(&blob_name(digest))?;
        Ok(file.map(|file| Box::new(file) as Box<dyn Read + Send>))
    }
}

/// A tar of an image, read by position.
pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    entries: BTreeMap<String, Entry>,
    /// Holds the decompressed copy, where one had to be made.
    _unpacked: Option<TempDir>,
}

#[derive(Clone)]
enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    /// The target, relative to the root of the archive.
    Link(String),
}

/// Where a file lies inside an archive.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    offset: u64,
    pub(super) size: u64,
}

impl Archive {
    /// Opens a tar and reads its headers.
    pub(super) fn open(path: &Path, store: &Store) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let (file, unpacked) = match decompressor(&file).map_err(io)? {
            None => (file, None),
            Some(mut reader) => {
                let dir = store.temp_dir()?;
                let mut copy = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(dir.path().join("archive"))
                    .map_err(io)?;
                io::copy(&mut reader, &mut copy).map_err(io)?;
                io::Seek::rewind(&mut copy).map_err(io)?;
                (copy, Some(dir))
            }
        };
        let file = Arc::new(file);
        let entries = list(&file).map_err(|source| ReadError::NotALayout {
            path: path.to_owned(),
            reason: format!("it is not a readable tar ({source})"),
        })?;
        Ok(Archive { path: path.to_owned(), file, entries, _unpacked: unpacked })
    }

    /// Whether it has a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Where a file lies; links inside the archive are followed.
    pub(super) fn find(&self, name: &str) -> Option<Extent> {
        let mut name = normalize(name)?;
        for _ in 0..MAX_LINK_HOPS {
            match self.entries.get(&name)? {
                Entry::File { offset, size } => return Some(Extent { offset: *offset, size: *size }),
                Entry::Link(target) => name = target.clone(),
            }
        }
        None
    }

    /// Opens a part.
    pub(super) fn section(&self, extent: Extent) -> Section {
        Section { file: self.file.clone(), at: extent.offset, end: extent.offset.saturating_add(extent.size) }
    }

    /// Reads a small file whole; a missing one is an error.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, ReadError> {
        let extent = self.find(name).ok_or_else(|| self.broken(format!("it has no {name}")))?;
        read_limited(self.section(extent), &self.path)
    }

    /// Reads and checks `oci-layout` and `index.json`.
    pub(super) fn read_index(&self) -> Result<Index, ReadError> {
        check_layout_version(&self.path, &self.read("oci-layout")?)?;
        parse_index(&self.path, &self.read("index.json")?)
    }

    /// The error of an archive that is no image.
    pub(super) fn broken(&self, reason: String) -> ReadError {
        ReadError::NotALayout { path: self.path.clone(), reason }
    }

    /// The error of a failed read.
    pub(super) fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path.clone(), source }
    }
}

impl BlobSource for Archive {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send>>, ReadError> {
        let extent = self.find(&blob_name(digest));
        Ok(extent.map(|extent| Box::new(self.section(extent)) as Box<dyn Read + Send>))
    }
}

/// Reads a part of a file by position, so that several can be read at once.
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buf.len());
        let count = self.file.read_at(&mut buf[..wanted], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn read_limited(reader: impl Read, path: &Path) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_MANIFEST_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    if bytes.len() as u64 > MAX_MANIFEST_SIZE {
        let source = ManifestError::TooLarge(bytes.len() as u64);
        return Err(ReadError::Document { place: path.display().to_string(), what: "file".into(), source });
    }
    Ok(bytes)
}

fn check_layout_version(path: &Path, bytes: &[u8]) -> Result<(), ReadError> {
    let version = serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|value| value.get("imageLayoutVersion")?.as_str().map(str::to_owned));
    match version {
        Some(version) if version.starts_with("1.") => Ok(()),
        found => Err(ReadError::NotALayout {
            path: path.to_owned(),
            reason: format!("oci-layout states version {}, not 1.x", found.as_deref().unwrap_or("none")),
        }),
    }
}

fn parse_index(path: &Path, bytes: &[u8]) -> Result<Index, ReadError> {
    match Document::parse(bytes) {
        Ok(Document::Index(index)) => Ok(*index),
        Ok(Document::Manifest(_)) => Err(ReadError::NotALayout {
            path: path.to_owned(),
            reason: "index.json is a manifest instead of an index".to_owned(),
        }),
        Err(source) => Err(ReadError::Document {
            place: path.display().to_string(),
            what: "index.json".to_owned(),
            source,
        }),
    }
}

/// What decompresses the file, told by its first bytes; `None` for a plain one.
fn decompressor(file: &File) -> io::Result<Option<Box<dyn Read>>> {
    let mut magic = [0u8; 6];
    let got = file.read_at(&mut magic, 0)?;
    let reader = io::BufReader::with_capacity(1 << 16, file.try_clone()?);
    Ok(match &magic[..got] {
        [0x1f, 0x8b, ..] => Some(Box::new(flate2::bufread::MultiGzDecoder::new(reader))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Box::new(zstd::Decoder::with_buffer(reader)?)),
        [b'B', b'Z', b'h', ..] => Some(Box::new(bzip2::bufread::MultiBzDecoder::new(reader))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Box::new(lzma_rust2::XzReader::new(reader, true))),
        _ => None,
    })
}

fn list(file: &Arc<File>) -> io::Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(file.as_ref());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entries.len() >= MAX_ENTRIES {
            return Err(io::Error::other("too many entries for an image archive"));
        }
        let Some(name) = std::str::from_utf8(&entry.path_bytes()).ok().and_then(normalize) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_contiguous() {
            entries.insert(name, Entry::File { offset: entry.raw_file_position(), size: entry.size() });
            continue;
        }
        if !kind.is_symlink() && !kind.is_hard_link() {
            continue;
        }
        let Some(target) = entry.link_name_bytes() else { continue };
        let Ok(target) = std::str::from_utf8(&target) else { continue };
        let base = match name.rsplit_once('/') {
            Some((base, _)) if kind.is_symlink() => format!("{base}/{target}"),
            _ => target.to_owned(),
        };
        if let Some(target) = normalize(&base) {
            entries.insert(name, Entry::Link(target));
        }
    }
    Ok(entries)
}

/// A path without `.` and `..`; `None` where it leaves the archive.
fn normalize(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
