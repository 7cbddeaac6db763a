//! The content of an OCI layout, and its two forms: a tar and a directory.
//!
//! The tar has BuildKit's order (names sorted, directories first) and modes; owners
//! are 0, times are 1970, so that the same images give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use ::tar::{Builder, EntryType, Header};

use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::fs::Root;
use crate::image::manifest::{DescriptorPlatform, MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE, canonical};
use crate::image::read::{IMAGE_NAME, REF_NAME, StoreBlobs, read_document};
use crate::image::{Descriptor, Document, Index, Manifest, Reference};
use crate::store::Store;

use super::dest::{Dest, Output, Partial, PartialDir};
use super::error::ExportError;
use super::hashing::Hashing;

/// Bytes written to an archive at once.
const PIECE: usize = 256 << 10;
const TAR_BLOCK: usize = 512;
const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const CREATED: &str = "org.opencontainers.image.created";

/// An image to be exported.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportImage {
    /// Its manifest or index, which must be in the store with all that it refers to.
    pub descriptor: Descriptor,
    /// Its names; there may be none.
    pub names: Vec<Reference>,
    /// RFC 3339 time for the annotation in the index.
    pub created: Option<String>,
}

/// All that goes into a layout.
pub(super) struct Layout {
    /// Blobs and their sizes.
    blobs: BTreeMap<Digest, u64>,
    /// Manifests of images, by digest.
    pub(super) manifests: BTreeMap<Digest, Manifest>,
    /// Entries of `index.json`.
    index: Vec<Descriptor>,
    /// Other files at the top, by name.
    pub(super) extra: BTreeMap<&'static str, Vec<u8>>,
}

impl Layout {
    /// Finds everything that the images refer to.
    pub(super) fn collect(store: &Store, images: &[ExportImage]) -> Result<Self, ExportError> {
        let mut layout = Layout {
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            index: Vec::new(),
            extra: BTreeMap::new(),
        };
        for image in images {
            layout.add(store, &image.descriptor, 0)?;
            layout.index.extend(index_entries(image));
        }
        Ok(layout)
    }

    fn add(&mut self, store: &Store, descriptor: &Descriptor, depth: u32) -> Result<(), ExportError> {
        let digest = descriptor.digest;
        if depth > MAX_INDEX_DEPTH {
            return Err(crate::image::ReadError::TooDeep { place: digest.to_string() }.into());
        }
        let bytes = match read_document(&StoreBlobs(store), &digest, Some(descriptor.size), MAX_MANIFEST_SIZE)
        {
            Err(crate::image::ReadError::MissingBlob { digest, .. }) => {
                return Err(ExportError::MissingBlob { digest });
            }
            Err(crate::image::ReadError::Mismatch { expected, actual, .. }) => {
                return Err(ExportError::Corrupt { expected, actual: actual.to_string() });
            }
            other => other?,
        };
        self.blobs.insert(digest, descriptor.size);
        match Document::parse(&bytes)? {
            Document::Index(index) => {
                for child in &index.manifests {
                    self.add(store, child, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    // What could not be marked as used may be there; opening says what is the matter.
                    if !store.has_blob(&blob.digest) && store.open_blob(&blob.digest)?.is_none() {
                        return Err(ExportError::MissingBlob { digest: blob.digest });
                    }
                    self.blobs.insert(blob.digest, blob.size);
                }
                self.manifests.insert(digest, *manifest);
            }
        }
        Ok(())
    }

    /// Writes the layout as a tar.
    pub(super) fn write_archive(
        &self,
        store: &Store,
        dest: &Dest,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let mut output = Output::create(dest)?;
        let path = output.path().to_owned();
        let write = |error: io::Error| ExportError::io("write", &path)(error);
        let mut tar = Builder::new(&mut output);
        for dir in ["blobs/", "blobs/sha256/"] {
            tar.append(&header(dir, 0, 0o755, EntryType::Directory).map_err(write)?, io::empty())
                .map_err(write)?;
        }
        for (digest, size) in &self.blobs {
            let name = format!("blobs/sha256/{}", digest.hex());
            let header = header(&name, *size, 0o444, EntryType::Regular).map_err(write)?;
            let mut blob = Verified::open(store, digest, *size, cancel)?;
            let copied = append(tar.get_mut(), &header, &mut blob, *size);
            blob.finish()?;
            copied.map_err(write)?;
        }
        for (name, content) in self.top_files()? {
            let mode = if name == "oci-layout" { 0o444 } else { 0o644 };
            let header = header(name, content.len() as u64, mode, EntryType::Regular).map_err(write)?;
            tar.append(&header, &content[..]).map_err(write)?;
        }
        tar.into_inner().map_err(write)?;
        output.finish()
    }

    fn top_files(&self) -> Result<BTreeMap<&'static str, Vec<u8>>, ExportError> {
        let mut files = self.extra.clone();
        files.insert("index.json", canonical(&Index::new(self.index.clone()))?);
        files.insert("oci-layout", LAYOUT_VERSION.to_vec());
        Ok(files)
    }

    /// Writes the layout as a directory: a new one, or into an existing layout, where entries of the
    /// same name are replaced.
    pub(super) fn write_directory(
        &self,
        store: &Store,
        dest: &Path,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        match fs::read_dir(dest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write_new(store, dest, cancel),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(ExportError::NotADirectory { path: dest.to_owned() })
            }
            Err(error) => Err(ExportError::io("read", dest)(error)),
            Ok(mut entries) => {
                let empty = entries.next().is_none();
                let is_layout = ["oci-layout", "index.json"].iter().all(|name| dest.join(name).is_file());
                if !empty && !is_layout {
                    return Err(ExportError::NotALayout { path: dest.to_owned() });
                }
                self.write_into(store, dest, empty, cancel)
            }
        }
    }

    fn write_new(&self, store: &Store, dest: &Path, cancel: &Cancel) -> Result<(), ExportError> {
        let partial = PartialDir::create(dest)?;
        self.write_into(store, partial.path(), true, cancel)?;
        partial.rename_to(dest)
    }

    /// Blobs first, the index last: readers of an existing layout never see a name without its
    /// blobs. On failure the blobs added so far are removed again.
    fn write_into(&self, store: &Store, dest: &Path, new: bool, cancel: &Cancel) -> Result<(), ExportError> {
        let mut added = Added(Vec::new());
        let blobs = dest.join("blobs/sha256");
        for dir in [dest.join("blobs"), blobs.clone()] {
            match fs::create_dir(&dir) {
                Ok(()) => added.0.push(dir),
                // Through a link, blobs would be written outside of the layout.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
                        return Err(ExportError::NotADirectory { path: dir });
                    }
                }
                Err(error) => return Err(ExportError::io("create", &dir)(error)),
            }
        }
        for (digest, size) in &self.blobs {
            let path = blobs.join(digest.hex());
            if !new && is_blob(&path, digest, *size) {
                continue;
            }
            copy_blob(store, digest, *size, &path, cancel)?;
            added.0.push(path);
        }
        let mut files = self.top_files()?;
        if !new {
            files.remove("oci-layout");
            files.insert("index.json", self.merged_index(dest)?);
        }
        // `index.json` sorts before `oci-layout`, which is what makes the directory a layout.
        for (name, content) in files {
            let path = dest.join(name);
            let (partial, mut file) = Partial::create(&path)?;
            file.write_all(&content).map_err(ExportError::io("write", &path))?;
            partial.rename_to(&path)?;
            if new {
                added.0.push(path);
            }
        }
        added.0.clear();
        Ok(())
    }

    fn merged_index(&self, dest: &Path) -> Result<Vec<u8>, ExportError> {
        let path = &dest.join("index.json");
        let file = Root::open(dest).and_then(|dir| dir.open_file_within(b"index.json"));
        let mut bytes = Vec::new();
        let read = file.and_then(|file| file.take(MAX_MANIFEST_SIZE + 1).read_to_end(&mut bytes));
        read.map_err(ExportError::io("read", path))?;
        let Document::Index(mut index) = Document::parse(&bytes)? else {
            return Err(ExportError::NotALayout { path: path.to_owned() });
        };
        let same = |old: &Descriptor, new: &Descriptor| {
            let [old_name, new_name] = [old, new].map(|entry| entry.annotations.get(IMAGE_NAME));
            let [old_tag, new_tag] = [old, new].map(|entry| entry.annotations.get(REF_NAME));
            match (old_name, new_name) {
                (Some(old_name), Some(new_name)) => old_name == new_name,
                _ if old_tag.is_none() && new_tag.is_none() => old.digest == new.digest,
                _ => old_tag == new_tag,
            }
        };
        index.manifests.retain(|old| !self.index.iter().any(|new| same(old, new)));
        index.manifests.extend(self.index.iter().cloned());
        Ok(canonical(&index)?)
    }
}

/// One descriptor a name; one without annotation of a name where there is none.
fn index_entries(image: &ExportImage) -> Vec<Descriptor> {
    let mut bare = image.descriptor.clone();
    if let Some(platform) = &mut bare.platform {
        *platform = DescriptorPlatform { rest: Default::default(), ..platform.clone() };
    }
    if let Some(created) = &image.created {
        bare.annotations.insert(CREATED.to_owned(), created.clone());
    }
    if image.names.is_empty() {
        return vec![bare];
    }
    let named = |name: &Reference| {
        let name = Reference { digest: None, ..name.clone() }.with_default_tag();
        let mut entry = bare.clone();
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        entry.annotations.extend(name.tag.map(|tag| (REF_NAME.to_owned(), tag)));
        entry
    };
    image.names.iter().map(named).collect()
}

fn header(name: &str, size: u64, mode: u32, kind: EntryType) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

/// What [`Builder::append`] does, by larger pieces.
fn append(out: &mut impl Write, header: &Header, content: &mut impl Read, size: u64) -> io::Result<()> {
    out.write_all(header.as_bytes())?;
    let mut piece = vec![0; usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE)];
    loop {
        match content.read(&mut piece)? {
            0 => break,
            count => out.write_all(&piece[..count])?,
        }
    }
    let over = (size % TAR_BLOCK as u64) as usize;
    out.write_all(&[0; TAR_BLOCK][..(TAR_BLOCK - over) % TAR_BLOCK])
}

/// Whether an earlier export left this very blob here.
fn is_blob(path: &Path, digest: &Digest, size: u64) -> bool {
    let mut hasher = Hasher::new();
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size)
        && File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher)).is_ok()
        && hasher.finish() == *digest
}

/// A private copy, cloned where the file system can: a hard link would let a change of the exported
/// file reach into the store.
fn copy_blob(
    store: &Store,
    digest: &Digest,
    size: u64,
    path: &Path,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    use std::os::unix::fs::PermissionsExt as _;
    let write = |error: io::Error| ExportError::io("write", path)(error);
    let (partial, mut file) = Partial::create(path)?;
    let mut blob = Verified::open(store, digest, size, cancel)?;
    let copied = match rustix::fs::ioctl_ficlone(&file, &blob.file) {
        Ok(()) => io::copy(&mut blob, &mut io::sink()),
        Err(_) => io::copy(&mut blob, &mut file),
    };
    blob.finish()?;
    copied.map_err(write)?;
    file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(write)?;
    partial.rename_to(path)
}

/// A blob of the store that is hashed while it is read. Gives exactly the promised number of bytes,
/// or fails.
struct Verified<'a> {
    file: File,
    cancel: &'a Cancel,
    digest: Digest,
    hashing: Hashing,
    size: u64,
    left: u64,
    failure: Option<String>,
}

impl<'a> Verified<'a> {
    fn open(store: &Store, digest: &Digest, size: u64, cancel: &'a Cancel) -> Result<Self, ExportError> {
        let file = store.open_blob(digest)?.ok_or(ExportError::MissingBlob { digest: *digest })?;
        let actual = file.metadata().map_err(ExportError::io("read", &store.blob_path(digest)))?.len();
        if actual != size {
            let actual = format!("{actual} bytes instead of {size}");
            return Err(ExportError::Corrupt { expected: *digest, actual });
        }
        let hashing = Hashing::of_size(size);
        Ok(Verified { file, cancel, digest: *digest, hashing, size, left: size, failure: None })
    }

    /// To be called after copying and before looking at its result: the blob's own failure is the
    /// better message.
    fn finish(self) -> Result<(), ExportError> {
        if self.cancel.is_cancelled() {
            return Err(ExportError::Canceled);
        }
        if let Some(actual) = self.failure {
            return Err(ExportError::Corrupt { expected: self.digest, actual });
        }
        if self.left > 0 {
            // Writing failed before the blob was read to its end.
            return Ok(());
        }
        let actual = self.hashing.finish().map_err(ExportError::io("read", Path::new("a blob")))?;
        if actual != self.digest {
            let actual = format!("the content of {actual}");
            return Err(ExportError::Corrupt { expected: self.digest, actual });
        }
        Ok(())
    }
}

impl Read for Verified<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let count = match self.file.read(&mut buf[..wanted]) {
            Ok(count) => count,
            Err(error) => {
                self.failure = Some(format!("unreadable content ({error})"));
                return Err(error);
            }
        };
        if count == 0 && wanted > 0 {
            self.failure = Some(format!("{} bytes instead of {}", self.size - self.left, self.size));
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hashing.update(&buf[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

/// What was added to a directory; removed on drop, the newest first.
struct Added(Vec<std::path::PathBuf>);

impl Drop for Added {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            if fs::remove_file(path).is_err() {
                let _ = fs::remove_dir(path);
            }
        }
    }
}
