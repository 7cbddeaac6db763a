//! Digests remembered between builds in one small file a context.
//!
//! A digest may be reused only if any later change of the file must show in its `stat`. A file whose
//! times lie at or after the moment the cache was opened, before anything was read, could change
//! again without its times moving (clocks of file systems tick in milliseconds, some in seconds);
//! such files are read again next time. This is git's rule for racy entries, reckoned from the
//! beginning of the reads rather than from the writing of the file, which is stricter.
//!
//! The file: magic, the opening moment, a count, the entries, a CRC-32 of all before it; integers are
//! little-endian. Anything unexpected makes an empty cache, never an error.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::digest::{StatCache, StatKey};
use super::file::FileInfo;
use crate::digest::Digest;

const MAGIC: &[u8; 8] = b"rbstat\x00\x01";

/// Entries that no build asked for in so many rewritings are dropped.
const MOST_UNUSED: u8 = 20;

/// A [`StatCache`] kept in a file.
#[derive(Debug)]
pub struct FileStatCache {
    file: PathBuf,
    opened: Time,
    /// Read when first asked for: builds in which nothing changed never do.
    known: OnceLock<HashMap<Vec<u8>, Known>>,
    learnt: Mutex<HashMap<Vec<u8>, Entry>>,
}

type Time = (i64, u32);

/// The longest tick of any kernel, twice.
const TICK: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: Time,
    ctime: Time,
    digest: Digest,
}

#[derive(Debug)]
struct Known {
    entry: Entry,
    /// Rewritings of the file since the entry was last asked for.
    unused: u8,
    used_now: AtomicBool,
}

impl FileStatCache {
    /// Loads `file`; a missing, short or garbled one is an empty cache. Open it before listing the
    /// files it is to know.
    pub fn open(file: &Path) -> Self {
        // File systems take their times from a clock that lags behind this one by up to a tick.
        let now = SystemTime::now() - TICK;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::open_at(file, (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos()))
    }

    fn open_at(file: &Path, opened: Time) -> Self {
        FileStatCache { file: file.to_owned(), opened, known: OnceLock::new(), learnt: Mutex::default() }
    }

    fn known(&self) -> &HashMap<Vec<u8>, Known> {
        self.known.get_or_init(|| {
            std::fs::read(&self.file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default()
        })
    }

    /// Whether any change of the file from the moment on when this cache was opened must show in its
    /// `stat`.
    pub fn is_settled(&self, file: &FileInfo) -> bool {
        settled(file.mtime, self.opened) && settled(file.ctime, self.opened)
    }

    /// Whether [`save`](Self::save) has anything to write.
    pub fn learnt_something(&self) -> bool {
        !self.learnt.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Writes what was learnt, by a temporary file in `scratch`, a directory of the same file system,
    /// and a rename. Does nothing if nothing was learnt.
    pub fn save(&self, scratch: &Path) -> io::Result<()> {
        let learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        if learnt.is_empty() {
            return Ok(());
        }
        let mut entries: Vec<(&[u8], &Entry, u8)> =
            learnt.iter().map(|(path, entry)| (path.as_slice(), entry, 0)).collect();
        for (path, known) in self.known().iter().filter(|(path, _)| !learnt.contains_key(*path)) {
            let unused = if known.used_now.load(Ordering::Relaxed) { 0 } else { known.unused + 1 };
            if unused <= MOST_UNUSED {
                entries.push((path, &known.entry, unused));
            }
        }
        entries.sort_unstable_by_key(|(path, ..)| *path);
        let bytes = encode(self.opened, &entries);
        let mut temporary = tempfile::NamedTempFile::new_in(scratch)?;
        temporary.write_all(&bytes)?;
        temporary.persist(&self.file).map_err(|error| error.error)?;
        Ok(())
    }
}

impl StatCache for FileStatCache {
    fn get(&self, key: &StatKey<'_>) -> Option<Digest> {
        let known = self.known().get(key.path)?;
        let Entry { dev, ino, size, mtime, ctime, digest } = known.entry;
        let StatKey { path: _, dev: d, ino: i, size: s, mtime: m, ctime: c } = *key;
        if (dev, ino, size, mtime, ctime) != (d, i, s, m, c) {
            return None;
        }
        known.used_now.store(true, Ordering::Relaxed);
        Some(digest)
    }

    fn put(&self, key: &StatKey<'_>, digest: Digest) {
        let StatKey { path, dev, ino, size, mtime, ctime } = *key;
        if settled(mtime, self.opened) && settled(ctime, self.opened) {
            let entry = Entry { dev, ino, size, mtime, ctime, digest };
            self.learnt.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_vec(), entry);
        }
    }
}

/// Whether a change made at `opened` or later must give another time than `time`. Whole seconds may
/// come from a file system that knows no finer ones; the coarsest, FAT, counts by twos.
fn settled(time: Time, opened: Time) -> bool {
    match time {
        (seconds, 0) => seconds.saturating_add(2) <= opened.0,
        time => time < opened,
    }
}

fn encode(opened: Time, entries: &[(&[u8], &Entry, u8)]) -> Vec<u8> {
    fn put_time(out: &mut Vec<u8>, (seconds, nanoseconds): Time) {
        out.extend_from_slice(&seconds.to_le_bytes());
        out.extend_from_slice(&nanoseconds.to_le_bytes());
    }
    let mut out = MAGIC.to_vec();
    put_time(&mut out, opened);
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    for (path, entry, unused) in entries {
        out.extend_from_slice(&(path.len() as u32).to_le_bytes());
        out.extend_from_slice(path);
        out.push(*unused);
        for number in [entry.dev, entry.ino, entry.size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_time(&mut out, entry.mtime);
        put_time(&mut out, entry.ctime);
        out.extend_from_slice(entry.digest.raw());
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<HashMap<Vec<u8>, Known>> {
    let (content, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let mut reader = Reader(content.strip_prefix(MAGIC)?);
    let opened = reader.time()?;
    let count = reader.u64()?;
    let mut known = HashMap::new();
    for _ in 0..count {
        let length = u32::from_le_bytes(reader.array()?);
        let path = reader.bytes(usize::try_from(length).ok()?)?.to_vec();
        let [unused] = reader.array()?;
        let entry = Entry {
            dev: reader.u64()?,
            ino: reader.u64()?,
            size: reader.u64()?,
            mtime: reader.time()?,
            ctime: reader.time()?,
            digest: Digest::from_raw(reader.array()?),
        };
        if settled(entry.mtime, opened) && settled(entry.ctime, opened) {
            known.insert(path, Known { entry, unused, used_now: AtomicBool::new(false) });
        }
    }
    reader.0.is_empty().then_some(known)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Time> {
        Some((i64::from_le_bytes(self.array()?), u32::from_le_bytes(self.array()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::context::ignore::IgnoreRules;
    use crate::context::{FileSource, LocalContext, file_digests};

    fn key(path: &[u8], mtime: Time) -> StatKey<'_> {
        StatKey { path, dev: 1, ino: 2, size: 3, mtime, ctime: (50, 1) }
    }

    fn stored() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        let file = dir.path().join("stat");
        let cache = FileStatCache::open_at(&file, (100, 5));
        cache.put(&key(b"a", (99, 1)), Digest::of(b"a"));
        cache.put(&key(b"b\xff", (98, 1)), Digest::of(b"b"));
        cache.save(dir.path()).expect("saves");
        (dir, file)
    }

    #[test]
    fn what_was_learnt_is_known_next_time() {
        let (_dir, file) = stored();
        let cache = FileStatCache::open_at(&file, (200, 0));
        assert_eq!(cache.get(&key(b"a", (99, 1))), Some(Digest::of(b"a")));
        assert_eq!(cache.get(&key(b"b\xff", (98, 1))), Some(Digest::of(b"b")));
        assert_eq!(cache.get(&key(b"c", (99, 1))), None);
    }

    #[test]
    fn any_difference_in_the_stat_is_a_miss() {
        let (_dir, file) = stored();
        let cache = FileStatCache::open_at(&file, (200, 0));
        let same = key(b"a", (99, 1));
        for other in [
            StatKey { dev: 9, ..same },
            StatKey { ino: 9, ..same },
            StatKey { size: 9, ..same },
            StatKey { mtime: (99, 2), ..same },
            StatKey { ctime: (50, 2), ..same },
        ] {
            assert_eq!(cache.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn files_changed_since_the_cache_was_opened_are_not_remembered() {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        let file = dir.path().join("stat");
        let cache = FileStatCache::open_at(&file, (100, 5));
        let settled_key = key(b"old", (100, 4));
        cache.put(&settled_key, Digest::of(b""));
        for (path, mtime) in [(&b"same"[..], (100, 5)), (b"later", (101, 1)), (b"coarse", (99, 0))] {
            cache.put(&key(path, mtime), Digest::of(b""));
        }
        cache.put(&StatKey { path: b"ctime", ctime: (100, 5), ..settled_key }, Digest::of(b""));
        cache.save(dir.path()).expect("saves");
        let next = FileStatCache::open_at(&file, (200, 0));
        assert_eq!(next.known().keys().collect::<Vec<_>>(), [b"old"]);
    }

    #[test]
    fn a_file_changed_within_one_clock_tick_is_read_again() {
        let dir = tempfile::TempDir::new().expect("temporary directory");
        let (root, store) = (dir.path().join("context"), dir.path().join("stat"));
        fs::create_dir(&root).expect("mkdir");
        for round in 0..30 {
            let text = format!("{round:04}");
            fs::write(root.join("f"), &text).expect("write");
            let cache = FileStatCache::open(&store);
            let context = LocalContext::open(&root, IgnoreRules::none()).expect("opens");
            let files = context.list(b"", None).expect("lists");
            let digests = file_digests(&context, &files, Some(&cache)).expect("digests");
            assert_eq!(digests, [Some(Digest::of(text.as_bytes()))]);
            cache.save(dir.path()).expect("saves");
        }
    }

    #[test]
    fn damaged_files_are_empty_caches() {
        let (_dir, file) = stored();
        let whole = fs::read(&file).expect("reads");
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_none(), "cut to {length}");
        }
        for place in 0..whole.len() {
            let mut garbled = whole.clone();
            garbled[place] ^= 0x40;
            assert!(decode(&garbled).is_none(), "byte {place}");
        }
        fs::write(&file, b"garbage").expect("write");
        assert!(FileStatCache::open(&file).known().is_empty());
        assert!(FileStatCache::open(Path::new("/nonexistent/stat")).known().is_empty());
    }

    #[test]
    fn entries_nobody_asks_for_are_dropped_in_the_end() {
        let (dir, file) = stored();
        for round in 0..=i64::from(MOST_UNUSED) {
            let cache = FileStatCache::open_at(&file, (200 + round, 0));
            assert!(cache.get(&key(b"a", (99, 1))).is_some());
            cache.put(&key(b"new", (round, 1)), Digest::of(b""));
            cache.save(dir.path()).expect("saves");
        }
        let cache = FileStatCache::open_at(&file, (300, 0));
        assert!(cache.get(&key(b"a", (99, 1))).is_some());
        assert!(cache.get(&key(b"b\xff", (98, 1))).is_none());
    }

    #[test]
    fn saving_leaves_no_temporary_file() {
        let (dir, _file) = stored();
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 1);
    }

    proptest! {
        #[test]
        fn no_file_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0u64..4) {
            let mut file = MAGIC.to_vec();
            file.extend([0; 12]);
            file.extend(count.to_le_bytes());
            file.append(&mut bytes);
            file.extend(crc32fast::hash(&file).to_le_bytes());
            decode(&file);
        }
    }
}
