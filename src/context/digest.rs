//! Content digests of files, read in parallel and remembered by their `stat`.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

use rayon::prelude::*;
use rustix::fs::FileType;

use super::error::ContextError;
use super::file::{FileInfo, FileKind, FileSource, Opened};
use super::tree;
use crate::digest::{Digest, Hasher};

/// What identifies a file's content without reading it, as git's index does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatKey<'a> {
    /// Path in the source.
    pub path: &'a [u8],
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, u32),
    /// Status change time: seconds, nanoseconds.
    pub ctime: (i64, u32),
}

impl<'a> StatKey<'a> {
    /// The key of a regular file; `None` for anything else.
    pub fn of(info: &'a FileInfo) -> Option<Self> {
        let FileKind::File { size } = info.kind else { return None };
        let FileInfo { path, dev, ino, mtime, ctime, .. } = info;
        Some(StatKey { path, dev: *dev, ino: *ino, size, mtime: *mtime, ctime: *ctime })
    }
}

/// What a file's `stat` was when its content was digested: as long as it is that, the content is the same.
/// Holds only for files that [`FileStatCache::is_settled`](super::FileStatCache::is_settled) says are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl FileState {
    /// The state of a regular file; `None` for anything else.
    pub fn of(info: &FileInfo) -> Option<Self> {
        let StatKey { path: _, dev, ino, size, mtime, ctime } = StatKey::of(info)?;
        Some(FileState { dev, ino, size, mtime, ctime })
    }

    /// Whether an open file is in this state.
    pub fn is_that_of(&self, file: impl AsFd) -> io::Result<bool> {
        let stat = rustix::fs::fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(false);
        }
        let found = FileState {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: tree::mtime(&stat),
            ctime: tree::ctime(&stat),
        };
        Ok(found == *self)
    }
}

/// Remembers digests of files whose `stat` did not change.
pub trait StatCache: Sync {
    /// The digest of the content the file had when it had exactly this `stat`.
    fn get(&self, key: &StatKey<'_>) -> Option<Digest>;

    /// Remembers a digest. The cache may decline, for files changed too recently to be told apart
    /// from a later change.
    fn put(&self, key: &StatKey<'_>, digest: Digest);
}

/// The SHA-256 of every regular file of `files`, `None` for other entries, in their order. Only
/// files that `stat_cache` does not know are opened and read.
///
/// A file that is not what it was when listed, or changes while it is read, is an error.
pub fn file_digests(
    source: &dyn FileSource,
    files: &[FileInfo],
    stat_cache: Option<&dyn StatCache>,
) -> Result<Vec<Option<Digest>>, ContextError> {
    let known = |info| stat_cache.and_then(|cache| cache.get(&StatKey::of(info)?));
    let mut digests: Vec<Option<Digest>> = files.iter().map(known).collect();
    crate::threads::prepare();
    digests.par_iter_mut().zip(files).try_for_each(|(digest, info)| -> Result<(), ContextError> {
        let Some(key) = StatKey::of(info).filter(|_| digest.is_none()) else { return Ok(()) };
        let (read, unchanged) = digest_file(source, &key)?;
        if let Some(cache) = stat_cache.filter(|_| unchanged) {
            cache.put(&key, read);
        }
        *digest = Some(read);
        Ok(())
    })?;
    Ok(digests)
}

/// Reads a file that was listed as `key`. Also tells whether its status is known to be still the
/// same (it may have gained a hard link, which changes no content).
fn digest_file(source: &dyn FileSource, key: &StatKey<'_>) -> Result<(Digest, bool), ContextError> {
    let failed = |action, source_error| ContextError::Io {
        action,
        root: source.root().to_owned(),
        path: key.path.to_vec(),
        source: source_error,
    };
    let mut opened = source.open(key.path)?;
    let mut hasher = Hasher::new();
    let mut length = 0u64;
    let mut buffer = vec![0; usize::try_from(key.size).unwrap_or(usize::MAX).clamp(1, 128 * 1024)];
    loop {
        match opened.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                length += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read", error)),
        }
    }
    let mut same_content = length == key.size;
    let mut same_status = false;
    if let Opened::File(file) = &opened {
        let stat = rustix::fs::fstat(file).map_err(|errno| failed("examine", errno.into()))?;
        same_content &= tree::mtime(&stat) == key.mtime && (stat.st_dev, stat.st_ino) == (key.dev, key.ino);
        same_status = tree::ctime(&stat) == key.ctime;
    }
    if !same_content {
        return Err(ContextError::Changed { root: source.root().to_owned(), path: key.path.to_vec() });
    }
    Ok((hasher.finish(), same_status))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::context::LocalContext;
    use crate::context::ignore::IgnoreRules;

    #[derive(Default)]
    struct Remembered {
        digests: Mutex<HashMap<Vec<u8>, Digest>>,
        hits: AtomicUsize,
    }

    impl StatCache for Remembered {
        fn get(&self, key: &StatKey<'_>) -> Option<Digest> {
            let found = self.digests.lock().expect("not poisoned").get(key.path).copied();
            self.hits.fetch_add(usize::from(found.is_some()), Ordering::Relaxed);
            found
        }

        fn put(&self, key: &StatKey<'_>, digest: Digest) {
            self.digests.lock().expect("not poisoned").insert(key.path.to_vec(), digest);
        }
    }

    fn context() -> (tempfile::TempDir, LocalContext) {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        let context = LocalContext::open(dir.path(), IgnoreRules::none()).expect("opens");
        (dir, context)
    }

    #[test]
    fn regular_files_have_the_digest_of_their_bytes_and_nothing_else_has_one() {
        let (dir, context) = context();
        let large = vec![7u8; 1_000_000];
        fs::write(dir.path().join("a"), b"").expect("write");
        fs::write(dir.path().join("b"), &large).expect("write");
        fs::create_dir(dir.path().join("d")).expect("mkdir");
        std::os::unix::fs::symlink("a", dir.path().join("l")).expect("symlink");
        let files = context.list(b"", None).expect("lists");
        let digests = file_digests(&context, &files, None).expect("digests");
        assert_eq!(digests, [Some(Digest::of(b"")), Some(Digest::of(&large)), None, None]);
    }

    #[test]
    fn known_files_are_not_opened() {
        let (dir, context) = context();
        fs::write(dir.path().join("a"), b"one").expect("write");
        let files = context.list(b"", None).expect("lists");
        let cache = Remembered::default();
        let first = file_digests(&context, &files, Some(&cache)).expect("digests");
        fs::remove_file(dir.path().join("a")).expect("remove");
        let second = file_digests(&context, &files, Some(&cache)).expect("needs no file");
        assert_eq!(first, second);
        assert_eq!(cache.hits.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_file_changed_since_it_was_listed_is_an_error_naming_it() {
        let (dir, context) = context();
        let path = dir.path().join("a");
        for change in ["longer", "thr"] {
            fs::write(&path, b"one").expect("write");
            let files = context.list(b"", None).expect("lists");
            fs::write(&path, change).expect("write");
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
            fs::File::options().append(true).open(&path).and_then(|f| f.set_modified(later)).expect("touch");
            let cache = Remembered::default();
            let error = file_digests(&context, &files, Some(&cache)).expect_err("changed").to_string();
            assert!(error.starts_with("a (in the build context ") && error.contains("changed"), "{error}");
            assert!(cache.digests.lock().expect("not poisoned").is_empty());
        }
    }

    #[test]
    fn another_file_in_the_same_place_is_a_change() {
        let (dir, context) = context();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, b"one").expect("write");
        let files = context.list(b"", None).expect("lists");
        fs::write(&other, b"two").expect("write");
        let time = fs::metadata(&path).and_then(|m| m.modified()).expect("mtime");
        fs::File::options().append(true).open(&other).and_then(|f| f.set_modified(time)).expect("touch");
        fs::rename(&other, &path).expect("rename");
        assert!(matches!(file_digests(&context, &files, None), Err(ContextError::Changed { .. })));
    }
}
