//! Builds that are remembered: a file for each, with what it was and what its steps printed.
//!
//! ```text
//! rbuild-build 1 LENGTH CRC CRC\n bytes of the head; CRC-32 of the head and of the log
//! HEAD                            what the build was, as `build/` gave it
//! LOG                             what its steps printed: one zstd frame with a checksum, or nothing
//! ```
//!
//! A file's name is `TIME-ID-KIND`: milliseconds since 1970 when the build began, the build's ID, and what builds are
//! compared by. So a list of names, in order, says which build is the last one of its kind. The number of builds and
//! their bytes are bounded; the oldest go. Whoever cannot write (a full disk, a store that is read-only) forgets.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::{Digest, Hasher};

use super::open::{Store, StoreError};
use super::private::{failed, open_file};

const MAGIC: &str = "rbuild-build 1 ";
/// So many are kept.
const MOST: usize = 200;
/// So many bytes may all of them take.
const MOST_BYTES: u64 = 256 << 20;
/// The longest head that is read.
const MOST_HEAD: usize = 64 << 20;
/// Digits of an ID.
const ID: usize = 12;
/// Digits of a kind.
const KIND: usize = 16;

/// A build that is remembered.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RememberedBuild {
    /// When it began, in milliseconds since 1970.
    pub begun: u64,
    /// Its ID: twelve hexadecimal digits.
    pub id: String,
    kind: String,
}

impl RememberedBuild {
    /// A new one, of builds that are compared by `kind`.
    pub fn new(store: &Store, begun: SystemTime, kind: &Digest) -> Self {
        let begun = begun.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut hasher = Hasher::new();
        let (process, number) = store.unique();
        hasher.field(&begun.as_nanos().to_le_bytes());
        hasher.field(format!("{process} {number} {}", store.scratch_path().display()).as_bytes());
        let begun = u64::try_from(begun.as_millis()).unwrap_or(u64::MAX);
        let mut id = hasher.finish().hex();
        id.truncate(ID);
        RememberedBuild { begun, id, kind: short(kind) }
    }

    /// Whether it is one of those that are compared by `kind`.
    pub fn is_of(&self, kind: &Digest) -> bool {
        self.kind == short(kind)
    }

    fn file(&self) -> String {
        format!("{:013}-{}-{}", self.begun, self.id, self.kind)
    }

    /// What a file's name says; `None` for what the store did not put there.
    pub(super) fn parse(file: &str) -> Option<Self> {
        let mut parts = file.split('-');
        let (begun, id, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        };
        let fits = parts.next().is_none() && begun.len() >= 13 && hex(id, ID) && hex(kind, KIND);
        let begun = begun.bytes().all(|c| c.is_ascii_digit()).then(|| begun.parse().ok()).flatten()?;
        fits.then(|| RememberedBuild { begun, id: id.to_owned(), kind: kind.to_owned() })
    }
}

fn short(kind: &Digest) -> String {
    let mut hex = kind.hex();
    hex.truncate(KIND);
    hex
}

impl Store {
    /// Where builds are remembered.
    fn builds_dir(&self) -> PathBuf {
        self.root().join("builds")
    }

    /// Remembers a build: its head, and the file with its compressed log if it has any. Of too many builds, the oldest
    /// are forgotten.
    pub fn remember_build(
        &self,
        build: &RememberedBuild,
        head: &[u8],
        log: Option<&mut File>,
    ) -> Result<(), StoreError> {
        if self.only_looks() {
            return Ok(());
        }
        let (dir, temporary) = (self.builds_dir(), self.temp_path());
        let written = write(&temporary, head, log.is_some(), log);
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(StoreError::io("write", &dir)(error));
        }
        self.rename_into_place(&temporary, &dir.join(build.file()))?;
        // A build that printed something took its time: then there is some for this as well.
        self.forget_builds(&dir, build, written.is_ok_and(|long| long));
        Ok(())
    }

    /// Builds that are remembered, the newest first.
    pub fn builds(&self) -> Result<Vec<RememberedBuild>, StoreError> {
        let dir = self.builds_dir();
        let mut all = Vec::new();
        match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("read", &dir)(error)),
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(StoreError::io("read", &dir))?;
                    all.extend(entry.file_name().to_str().and_then(RememberedBuild::parse));
                }
            }
        }
        all.sort_by(|a, b| b.cmp(a));
        Ok(all)
    }

    /// What a build was; `None` where it is forgotten or damaged.
    pub fn build_head(&self, build: &RememberedBuild) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.open_build(build)?.map(|(head, _)| head))
    }

    /// What the steps of a build printed; `None` where it is forgotten or damaged. The end of it is an error where
    /// the log is damaged.
    pub fn build_log(&self, build: &RememberedBuild) -> Result<Option<Box<dyn Read>>, StoreError> {
        let Some((_, mut file)) = self.open_build(build)? else { return Ok(None) };
        let mut first = [0];
        let path = self.builds_dir().join(build.file());
        match file.read(&mut first).map_err(StoreError::io("read", &path))? {
            0 => Ok(Some(Box::new(io::empty()))),
            _ => {
                let rest = io::Cursor::new(first).chain(file);
                let decoder = zstd::Decoder::new(rest).map_err(StoreError::io("read", &path))?;
                Ok(Some(Box::new(decoder)))
            }
        }
    }

    /// Forgets a build; `false` where it was forgotten already.
    pub fn forget_build(&self, build: &RememberedBuild) -> Result<bool, StoreError> {
        let path = self.builds_dir().join(build.file());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", &path)(error)),
        }
    }

    fn open_build(&self, build: &RememberedBuild) -> Result<Option<(Vec<u8>, File)>, StoreError> {
        let path = self.builds_dir().join(build.file());
        match open_file(&path, File::options().read(true)) {
            Ok(mut file) => match read_head(&mut file) {
                Ok(head) => Ok(head.map(|(head, _)| (head, file))),
                Err(error) => Err(StoreError::io("read", &path)(error)),
            },
            // What is no file is no record either.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                Ok(None)
            }
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Forgets the oldest builds beyond the bounds, never the one just written. Sizes are looked at only where a
    /// `long` log was written: the others are small.
    fn forget_builds(&self, dir: &Path, last: &RememberedBuild, long: bool) {
        let Ok(mut all) = self.builds() else { return };
        all.retain(|build| build != last);
        let mut kept = all.len().min(MOST - 1);
        if long {
            let size =
                |build: &RememberedBuild| fs::metadata(dir.join(build.file())).map_or(0, |meta| meta.len());
            let mut sum = size(last);
            let fitting = all.iter().take_while(|build| {
                sum = sum.saturating_add(size(build));
                sum <= MOST_BYTES
            });
            kept = kept.min(fitting.count());
        }
        for build in all.get(kept..).unwrap_or_default() {
            let _ = self.forget_build(build);
        }
    }
}

/// Writes a whole file; gives back `long`.
fn write(path: &Path, head: &[u8], long: bool, log: Option<&mut File>) -> io::Result<bool> {
    let mut log = log;
    let mut sum = Sum(crc32fast::Hasher::new());
    if let Some(log) = &mut log {
        io::Seek::rewind(log)?;
        io::copy(log, &mut sum)?;
    }
    let sums = [crc32fast::hash(head), sum.0.finalize()];
    let line = format!("{MAGIC}{} {:08x} {:08x}\n", head.len(), sums[0], sums[1]);
    let mut bytes = line.into_bytes();
    bytes.extend_from_slice(head);
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(&bytes)?;
    if let Some(log) = log {
        io::Seek::rewind(log)?;
        io::copy(log, &mut file)?;
    }
    Ok(long)
}

/// Sums what is written to it.
struct Sum(crc32fast::Hasher);

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The head and the sum of the log, with the file left at the log; `None` where the head is damaged.
fn read_head(file: &mut File) -> io::Result<Option<(Vec<u8>, u32)>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < 64 && line.last() != Some(&b'\n') {
        match file.read(&mut byte)? {
            0 => return Ok(None),
            _ => line.push(byte[0]),
        }
    }
    let Some((length, sum, of_log)) = parse_line(&line).filter(|(length, ..)| *length <= MOST_HEAD) else {
        return Ok(None);
    };
    let mut head = Vec::new();
    file.take(length as u64).read_to_end(&mut head)?;
    Ok((head.len() == length && crc32fast::hash(&head) == sum).then_some((head, of_log)))
}

fn parse_line(line: &[u8]) -> Option<(usize, u32, u32)> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix(MAGIC)?.strip_suffix('\n')?;
    let mut words = text.split(' ');
    let length = words.next()?.parse().ok()?;
    let mut sum = || u32::from_str_radix(words.next().filter(|word| word.len() == 8)?, 16).ok();
    Some((length, sum()?, sum()?))
}

/// What is wrong with the file of a build, for checks; `None` is nothing, or that it has gone. Without `whole`, the log
/// is not read.
pub fn damage_of_build(path: &Path, whole: bool) -> io::Result<Option<&'static str>> {
    let mut file = match open_file(path, File::options().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Some("it is no regular file")),
        other => other?,
    };
    if file.metadata()?.len() > MOST_HEAD as u64 + MOST_BYTES {
        return Ok(Some("it is too large"));
    }
    let Some((_, of_log)) = read_head(&mut file)? else { return Ok(Some("its head is damaged")) };
    if !whole {
        return Ok(None);
    }
    let mut sum = Sum(crc32fast::Hasher::new());
    io::copy(&mut file, &mut sum)?;
    Ok((sum.0.finalize() != of_log).then_some("its log is damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

    fn compressed(text: &str) -> Result<File> {
        let mut file = tempfile::tempfile()?;
        let mut encoder = zstd::Encoder::new(&mut file, 1)?;
        encoder.include_checksum(true)?;
        encoder.write_all(text.as_bytes())?;
        encoder.finish()?;
        Ok(file)
    }

    fn at(store: &Store, seconds: u64, kind: &Digest) -> RememberedBuild {
        RememberedBuild::new(store, UNIX_EPOCH + std::time::Duration::from_secs(seconds), kind)
    }

    #[test]
    fn builds_come_back_newest_first_with_head_and_log() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        assert_eq!(store.builds()?, []);
        let (kind, other) = (Digest::of(b"kind"), Digest::of(b"other"));
        let (old, new) = (at(&store, 1_700_000_000, &kind), at(&store, 1_700_000_001, &other));
        store.remember_build(&new, b"new", Some(&mut compressed("printed\n")?))?;
        store.remember_build(&old, b"old", None)?;
        assert_eq!(store.builds()?, [new.clone(), old.clone()]);
        assert!(old.is_of(&kind) && !new.is_of(&kind));
        assert_eq!(store.build_head(&old)?.as_deref(), Some(&b"old"[..]));
        let read = |build: &RememberedBuild| -> Result<String> {
            let mut text = String::new();
            store.build_log(build)?.ok_or("forgotten")?.read_to_string(&mut text)?;
            Ok(text)
        };
        assert_eq!((read(&old)?.as_str(), read(&new)?.as_str()), ("", "printed\n"));
        assert!(store.forget_build(&old)? && !store.forget_build(&old)?);
        assert_eq!((store.build_head(&old)?, store.builds()?), (None, vec![new]));
        Ok(())
    }

    #[test]
    fn the_oldest_builds_are_forgotten() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let kind = Digest::of(b"kind");
        let first = at(&store, 1_700_000_000, &kind);
        store.remember_build(&first, b"x", None)?;
        for second in 1..=MOST as u64 {
            store.remember_build(&at(&store, 1_700_000_000 + second, &kind), b"x", None)?;
        }
        let left = store.builds()?;
        assert!(left.len() == MOST && !left.contains(&first));
        // A clock that was set back: the build itself stays.
        let early = at(&store, 1_600_000_000, &kind);
        store.remember_build(&early, b"x", None)?;
        let left = store.builds()?;
        assert!(left.len() == MOST && left.contains(&early));
        Ok(())
    }

    #[test]
    fn what_is_no_file_is_no_record_and_keeps_nobody_waiting() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let build = at(&store, 1_700_000_000, &Digest::of(b"kind"));
        store.remember_build(&build, b"head", None)?;
        let path = store.builds_dir().join(build.file());
        fs::remove_file(&path)?;
        // A pipe that nobody writes to.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )?;
        assert_eq!((store.builds()?.len(), store.build_head(&build)?), (1, None));
        assert!(store.build_log(&build)?.is_none() && damage_of_build(&path, true)?.is_some());
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        assert_eq!(store.build_head(&build)?, None);
        assert!(damage_of_build(&path, true)?.is_some());
        // Too large to be one: it is not read to its end.
        fs::remove_dir(&path)?;
        store.remember_build(&build, b"head", None)?;
        File::options().write(true).open(&path)?.set_len(1 << 40)?;
        assert_eq!(damage_of_build(&path, true)?, Some("it is too large"));
        Ok(())
    }

    #[test]
    fn damage_is_found_and_a_damaged_build_is_none() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let build = at(&store, 1_700_000_000, &Digest::of(b"kind"));
        let path = store.builds_dir().join(build.file());
        store.remember_build(&build, b"head", Some(&mut compressed(&"line\n".repeat(1000))?))?;
        let whole = fs::read(&path)?;
        assert_eq!(damage_of_build(&path, true)?, None);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes)?;
            assert!(damage_of_build(&path, true)?.is_some(), "byte {at}");
            drop(store.build_head(&build)?);
            if let Some(mut log) = store.build_log(&build).ok().flatten() {
                let _ = io::copy(&mut log, &mut io::sink());
            }
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length])?;
            assert!(damage_of_build(&path, true)?.is_some(), "{length} bytes");
        }
        Ok(())
    }

    #[test]
    fn names_that_are_none_of_a_build_are_strays() {
        let name = "1700000000000-0123456789ab-0123456789abcdef";
        assert_eq!(RememberedBuild::parse(name).map(|build| build.file()).as_deref(), Some(name));
        for wrong in [
            "",
            "x",
            "1700000000000-0123456789ab",
            "1700000000000-0123456789AB-0123456789abcdef",
            "17-0123456789ab-0123456789abcdef",
            "1700000000000-0123456789ab-0123456789abcdef-",
            "99999999999999999999999-0123456789ab-0123456789abcdef",
        ] {
            assert_eq!(RememberedBuild::parse(wrong), None, "{wrong}");
        }
    }
}
