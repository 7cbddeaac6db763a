//! Small named files: layer descriptions, indexes, cache records, references, stat caches.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest};

use crate::fs::make_private_dir;

use super::open::{Store, StoreError};
use super::private::{failed, open_file};

/// Removes a file; `false` where there is none.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("remove", path)(error)),
    }
}

impl Store {
    /// Reads a whole record, head and content; `None` where there is none.
    pub(crate) fn record_bytes(&self, key: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_used(&self.record_path(key))
    }

    /// Writes a whole record, replacing an earlier one.
    pub(crate) fn put_record_bytes(&self, key: &Digest, content: &[u8]) -> Result<(), StoreError> {
        self.write_atomically(&self.record_path(key), content)
    }

    /// As [`Store::put_record_bytes`], also while this process only looks.
    pub(super) fn put_source_bytes(&self, key: &Digest, content: &[u8]) -> Result<(), StoreError> {
        self.write_now(&self.record_path(key), content)
    }

    /// Removes a record; `false` where there is none.
    pub fn remove_record(&self, key: &Digest) -> Result<bool, StoreError> {
        remove(&self.record_path(key))
    }

    /// Notes that a record was used now (collection goes by last use).
    pub fn touch_record(&self, key: &Digest) {
        self.use_now(&self.record_path(key));
    }

    /// The description of a layer.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_used(&self.fan_out("layers", &diff_id.0, ".json"))
    }

    /// Writes the description of a layer.
    pub fn put_layer(&self, diff_id: &DiffId, content: &[u8]) -> Result<(), StoreError> {
        self.write_atomically(&self.fan_out("layers", &diff_id.0, ".json"), content)
    }

    /// Writes the description of a layer unless there is one by now; whether it did.
    pub fn put_new_layer(&self, diff_id: &DiffId, content: &[u8]) -> Result<bool, StoreError> {
        if self.only_looks() {
            return Ok(false);
        }
        let path = self.fan_out("layers", &diff_id.0, ".json");
        let temporary = self.temp_path();
        fs::write(&temporary, content).map_err(StoreError::io("write", &path))?;
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        let linked = fs::hard_link(&temporary, &path).is_ok();
        // Not every file system knows hard links.
        if !linked && self.layer(diff_id)?.is_none() {
            return self.rename_into_place(&temporary, &path).map(|()| true);
        }
        let _ = fs::remove_file(&temporary);
        Ok(linked)
    }

    /// The entries of a layer, in the form `layer/` gave them.
    pub fn layer_index(&self, diff_id: &DiffId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_used(&self.fan_out("index", &diff_id.0, ""))
    }

    /// Writes the entries of a layer.
    pub fn put_layer_index(&self, diff_id: &DiffId, content: &[u8]) -> Result<(), StoreError> {
        self.write_atomically(&self.fan_out("index", &diff_id.0, ""), content)
    }

    /// What an image name refers to: a descriptor in JSON. Names are full references with a tag.
    pub fn reference(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.reference_path(name))
    }

    /// Points an image name at a descriptor.
    pub fn put_reference(&self, name: &str, descriptor: &[u8]) -> Result<(), StoreError> {
        self.write_atomically(&self.reference_path(name), descriptor)
    }

    /// Removes an image name; `false` where it did not exist.
    pub fn remove_reference(&self, name: &str) -> Result<bool, StoreError> {
        remove(&self.reference_path(name))
    }

    /// All image names, sorted, each with the time it was last set.
    pub fn references(&self) -> Result<Vec<(String, std::time::SystemTime)>, StoreError> {
        let dir = self.root().join("refs");
        let mut names = Vec::new();
        for entry in entries(&dir)? {
            let Some(name) = entry.file_name().to_str().and_then(decode_name) else { continue };
            match entry.metadata().and_then(|meta| meta.modified()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                time => names.push((name, time.map_err(StoreError::io("read", &entry.path()))?)),
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where the stat cache of a context root is kept.
    pub fn stat_cache_path(&self, context_root: &Path) -> PathBuf {
        let digest = Digest::of(context_root.as_os_str().as_encoded_bytes());
        let path = self.root().join("stat").join(digest.hex());
        self.use_now(&path);
        path
    }

    /// Where the copy of a git repository is kept, by the digest of what identifies it. Its user locks
    /// it.
    pub fn git_cache_path(&self, key: &Digest) -> PathBuf {
        let path = self.root().join("git").join(key.hex());
        self.use_now(&path);
        path
    }

    fn record_path(&self, key: &Digest) -> PathBuf {
        self.fan_out("records", key, "")
    }

    fn reference_path(&self, name: &str) -> PathBuf {
        self.root().join("refs").join(encode_name(name))
    }

    pub(super) fn fan_out(&self, room: &str, key: &Digest, suffix: &str) -> PathBuf {
        let hex = key.hex();
        self.root().join(room).join(&hex[..2]).join(format!("{hex}{suffix}"))
    }

    /// Temporary file, then rename: readers see the old content or the new, never a part.
    pub(super) fn write_atomically(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        if self.only_looks() {
            return Ok(());
        }
        self.write_now(path, content)
    }

    pub(super) fn write_now(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temporary = self.temp_path();
        fs::write(&temporary, content).map_err(StoreError::io("write", path))?;
        self.rename_into_place(&temporary, path)
    }

    /// Renames, making the fan-out directory on the way if need be.
    pub(super) fn rename_into_place(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = to.parent().unwrap_or(to);
                make_dir(parent)?;
                fs::rename(from, to).map_err(StoreError::io("write", to))
            }
            other => other.map_err(StoreError::io("write", to)),
        }
    }
}

impl Store {
    /// Reads a small file and marks it as used.
    pub(super) fn read_used(&self, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        if self.use_now(path) { read(path) } else { Ok(None) }
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut content = Vec::new();
    let file = open_file(path, OpenOptions::new().read(true));
    match file.and_then(|mut file| file.read_to_end(&mut content)) {
        Ok(_) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// All entries of a directory or an error: what a list lacks would count as not needed.
pub(super) fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    fs::read_dir(dir).and_then(Iterator::collect).map_err(StoreError::io("read", dir))
}

/// Percent-encodes everything but letters, digits, `.`, `-` and `_`, so that a name is one file name.
pub(super) fn encode_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && at > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub(super) fn decode_name(encoded: &str) -> Option<String> {
    let mut out = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let text = std::str::from_utf8(&digits).ok()?;
        out.push(u8::from_str_radix(text, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Makes a directory unless something of that name is there; if that is none, whatever comes next says so.
pub(super) fn make_dir(path: &Path) -> Result<(), StoreError> {
    match make_private_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(StoreError::io("create", path))
        }
        made => made.map_err(StoreError::io("create", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_encoding_and_never_leave_the_directory() {
        for name in ["docker.io/library/app:1", "../../etc/passwd", ".", "ü:x", "a%2F"] {
            let encoded = encode_name(name);
            assert!(!encoded.contains('/') && !encoded.starts_with('.'), "{encoded}");
            assert_eq!(decode_name(&encoded).as_deref(), Some(name));
        }
    }

    #[test]
    fn records_and_references_are_found_again_and_replaced() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&dir.path().join("s"))?;
        let key = Digest::of(b"key");
        assert_eq!(store.record_bytes(&key)?, None);
        store.put_record_bytes(&key, b"one")?;
        store.put_record_bytes(&key, b"two")?;
        assert_eq!(store.record_bytes(&key)?.as_deref(), Some(&b"two"[..]));
        store.put_reference("docker.io/library/app:1", b"{}")?;
        assert_eq!(store.references()?.len(), 1);
        assert!(store.remove_reference("docker.io/library/app:1")?);
        assert!(!store.remove_reference("docker.io/library/app:1")?);
        Ok(())
    }

    #[test]
    fn a_description_of_a_layer_that_is_there_already_is_not_replaced()
    -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let layer = DiffId(Digest::of(b"layer"));
        assert!(store.put_new_layer(&layer, b"files")?);
        store.put_layer(&layer, b"blob")?;
        assert!(!store.put_new_layer(&layer, b"files")?);
        assert_eq!(store.layer(&layer)?.as_deref(), Some(&b"blob"[..]));
        Ok(())
    }

    #[test]
    fn a_foreign_directory_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("precious"), "x")?;
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Version { .. })));
        Ok(())
    }

    #[test]
    fn temporaries_of_dead_processes_are_cleared_and_those_of_living_ones_kept()
    -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let root = dir.path().join("s");
        let living = Store::open(&root)?;
        let kept = living.temp_dir()?;
        let dead = root.join("tmp/999-dead");
        fs::create_dir_all(dead.join("deep"))?;
        fs::write(dead.join("lock"), "")?;
        let _second = Store::open(&root)?;
        assert!(!dead.exists());
        assert!(kept.path().exists());
        Ok(())
    }
}
