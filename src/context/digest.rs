//! Content digests of files, and the memory that spares reading them again.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use crate::digest::{Digest, Hasher};

use super::local::FileSource;
use super::source::ContextError;
use super::walk::{FileInfo, FileKind};

/// Reads of this size keep both the page cache and the hash busy.
const READ_BUFFER: usize = 256 * 1024;

/// What is remembered of a file: its digest and whether it has extended attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Digest of the content.
    pub digest: Digest,
    /// Whether reading the attributes again is needed.
    pub has_xattrs: bool,
}

/// Remembers digests by what `lstat` says of a file.
pub trait StatCache: Send + Sync {
    /// What is known of a file that looks exactly like this.
    fn get(&self, file: &FileInfo) -> Option<Known>;
    /// Remembers a file.
    fn put(&self, file: &FileInfo, known: Known);
}

/// Digests the regular files among `files` (`None` for the others) and fills in their extended
/// attributes. Reads in parallel; what `cache` knows is not opened.
pub fn file_digests(
    source: &dyn FileSource,
    files: &mut [FileInfo],
    cache: Option<&dyn StatCache>,
) -> Result<Vec<Option<Digest>>, ContextError> {
    files.par_iter_mut().with_min_len(64).map(|file| digest_one(source, file, cache)).collect()
}

fn digest_one(
    source: &dyn FileSource,
    file: &mut FileInfo,
    cache: Option<&dyn StatCache>,
) -> Result<Option<Digest>, ContextError> {
    let FileKind::File { size } = file.kind else { return Ok(None) };
    if let Some(digest) = source.known_digest(&file.path) {
        return Ok(Some(digest));
    }
    if let Some(known) = cache.and_then(|cache| cache.get(file)) {
        if known.has_xattrs {
            file.xattrs = source.xattrs(&file.path)?;
        }
        return Ok(Some(known.digest));
    }
    let digest = read_digest(source, file, size)?;
    file.xattrs = source.xattrs(&file.path)?;
    if let Some(cache) = cache {
        cache.put(file, Known { digest, has_xattrs: !file.xattrs.is_empty() });
    }
    Ok(Some(digest))
}

fn read_digest(source: &dyn FileSource, file: &FileInfo, size: u64) -> Result<Digest, ContextError> {
    let read = |error| ContextError::read(&file.path, error);
    let mut reader = source.open(&file.path)?;
    let mut hasher = Hasher::new();
    let capacity = usize::try_from(size).unwrap_or(READ_BUFFER).saturating_add(1).min(READ_BUFFER);
    let mut buffer = vec![0; capacity];
    let mut total = 0u64;
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        hasher.update(&buffer[..count]);
        total += count as u64;
    }
    if total != size {
        return Err(ContextError::Changed(String::from_utf8_lossy(&file.path).into_owned()));
    }
    Ok(hasher.finish())
}

/// What must be the same for a file to count as unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Stamp {
    fn of(file: &FileInfo) -> Option<Self> {
        let FileKind::File { size } = file.kind else { return None };
        Some(Stamp { dev: file.dev, ino: file.ino, size, mtime: file.mtime, ctime: file.ctime })
    }
}

const FORMAT: &[u8; 8] = b"rbstat1\n";
/// dev, ino, size, two times, digest, flag.
const FIXED: usize = 8 * 3 + 12 * 2 + 32 + 1;

/// A [`StatCache`] in one file for each context root.
///
/// A file is trusted only if it was last changed well before the cache was written: one changed in
/// the same instant could have been changed again without its times telling (git's racy rule).
#[derive(Debug)]
pub struct FileStatCache {
    path: PathBuf,
    old: HashMap<Box<[u8]>, (Stamp, Known)>,
    new: Mutex<Vec<(Box<[u8]>, Stamp, Known)>>,
}

impl FileStatCache {
    /// Loads the cache at `path`; a missing, short or garbled file is an empty cache.
    pub fn load(path: PathBuf) -> Self {
        let old = std::fs::read(&path).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default();
        FileStatCache { path, old, new: Mutex::default() }
    }

    /// Writes what was learned, atomically; nothing is written if nothing was.
    pub fn save(&self) -> std::io::Result<()> {
        let new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        if new.is_empty() {
            return Ok(());
        }
        let mut all = self.old.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        for (path, stamp, known) in new.iter() {
            if is_settled(stamp, now) {
                all.insert(path.clone(), (*stamp, *known));
            }
        }
        let bytes = render(&all);
        let temporary = self.path.with_extension(format!("{}", std::process::id()));
        let mut file = std::fs::File::create(&temporary)?;
        let written = file.write_all(&bytes).and_then(|()| std::fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

/// Whether the file's last change lies far enough back; file systems stamp in steps of up to 10 ms.
fn is_settled(stamp: &Stamp, now: u128) -> bool {
    const STEP: u128 = 20_000_000;
    let nanos = |(secs, nanos): (i64, u32)| {
        u128::try_from(secs).map_or(0, |secs| secs * 1_000_000_000 + u128::from(nanos))
    };
    nanos(stamp.mtime).max(nanos(stamp.ctime)) + STEP < now
}

impl StatCache for FileStatCache {
    fn get(&self, file: &FileInfo) -> Option<Known> {
        let (stamp, known) = self.old.get(file.path.as_slice())?;
        (Stamp::of(file)? == *stamp).then_some(*known)
    }

    fn put(&self, file: &FileInfo, known: Known) {
        let Some(stamp) = Stamp::of(file) else { return };
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        new.push((file.path.clone().into_boxed_slice(), stamp, known));
    }
}

fn render(all: &HashMap<Box<[u8]>, (Stamp, Known)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(all.len() * (FIXED + 40));
    out.extend_from_slice(FORMAT);
    for (path, (stamp, known)) in all {
        out.extend_from_slice(&u32::try_from(path.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(path);
        for number in [stamp.dev, stamp.ino, stamp.size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (secs, nanos) in [stamp.mtime, stamp.ctime] {
            out.extend_from_slice(&secs.to_le_bytes());
            out.extend_from_slice(&nanos.to_le_bytes());
        }
        out.extend_from_slice(known.digest.raw());
        out.push(u8::from(known.has_xattrs));
    }
    let sum = crc32fast::hash(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn parse(bytes: &[u8]) -> Option<HashMap<Box<[u8]>, (Stamp, Known)>> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut rest = body.strip_prefix(FORMAT)?;
    let mut all = HashMap::with_capacity(rest.len() / (FIXED + 40));
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*take::<4>(&mut rest)?) as usize;
        let path = rest.get(..length)?;
        rest = &rest[length..];
        let mut number = || Some(u64::from_le_bytes(*take::<8>(&mut rest)?));
        let (dev, ino, size) = (number()?, number()?, number()?);
        let mut time = || {
            let secs = i64::from_le_bytes(*take::<8>(&mut rest)?);
            Some((secs, u32::from_le_bytes(*take::<4>(&mut rest)?)))
        };
        let (mtime, ctime) = (time()?, time()?);
        let digest = Digest::from_raw(*take::<32>(&mut rest)?);
        let has_xattrs = take::<1>(&mut rest)?[0] != 0;
        all.insert(path.into(), (Stamp { dev, ino, size, mtime, ctime }, Known { digest, has_xattrs }));
    }
    Some(all)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}
