//! Taking things out of a store while others use it. What goes is for `gc/` to say.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::inventory::{Item, Room};
use super::open::{LATER_ROOMS, Store, StoreError, open_lock};
use super::private;
use super::temp::{self, TempDir};

/// Longer than a file system's clock takes to tick, on any kernel (100 Hz is the slowest).
const TICK: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(25);

/// What became of a thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was taken away.
    Removed,
    /// It stays: a living process has seen it or holds its lock.
    InUse,
    /// It was not there any more.
    Gone,
}

/// The right to collect or check: one process at a time has it. Builds go on meanwhile.
#[derive(Debug)]
pub struct Collector {
    store: Store,
    lock: File,
    /// What was used since then stays.
    cutoff: SystemTime,
    trash: TempDir,
}

impl Store {
    /// Waits for the right to collect, and fails with [`StoreError::Busy`] when it does not come.
    pub fn collector(&self, wait: Duration) -> Result<Collector, StoreError> {
        let path = self.root().join("collect");
        let lock = open_lock(&path)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begun.elapsed() < wait => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Busy { path: self.root().to_owned() });
                }
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
        }
        let cutoff = self.cutoff()?;
        Ok(Collector { store: self.clone(), lock, cutoff, trash: self.temp_dir()? })
    }

    /// When the last collection was, if ever.
    pub fn last_collection(&self) -> Option<SystemTime> {
        fs::metadata(self.root().join("collect")).and_then(|meta| meta.modified()).ok()
    }

    /// The time since which something may have been seen by a process that is still living. Whoever
    /// comes later marks what it sees with a later time.
    fn cutoff(&self) -> Result<SystemTime, StoreError> {
        let _gate = self.close_gate()?;
        let living = temp::living_since(self.root(), self.own_tmp())?;
        let now = SystemTime::now();
        // A clock that was set back says nothing about what came first: all of it stays.
        if living.iter().any(|begun| *begun > now) {
            return Ok(SystemTime::UNIX_EPOCH);
        }
        if let Some(oldest) = living.into_iter().min() {
            return Ok(oldest);
        }
        // Files get a time that may be a tick behind: nobody comes in before it has passed.
        std::thread::sleep(TICK);
        Ok(now)
    }
}

impl Collector {
    /// Takes a thing away unless it is in use.
    pub fn remove(&self, item: &Item) -> Result<Fate, StoreError> {
        let gate = self.store.close_gate()?;
        match fs::symlink_metadata(&item.path).and_then(|meta| meta.modified()) {
            Ok(used) if used >= self.cutoff => return Ok(Fate::InUse),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Fate::Gone),
            other => other.map_err(StoreError::io("read", &item.path))?,
        };
        let lock_path = match item.room {
            Room::Mounts => Some(item.path.with_file_name(format!("{}.lock", item.name))),
            Room::Git => Some(item.path.join("lock")),
            _ => None,
        };
        let mut held = None;
        if let Some(path) = &lock_path {
            let lock = open_lock(path)?;
            match lock.try_lock() {
                Ok(()) => held = Some(lock),
                Err(TryLockError::WouldBlock) => return Ok(Fate::InUse),
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
            }
        }
        let taken = self.take_away(&item.path)?;
        if let (Room::Mounts, Some(path)) = (item.room, &lock_path) {
            let _ = fs::remove_file(path);
        }
        drop((held, gate));
        self.destroy(taken)
    }

    /// Takes something away that is broken, whoever may be using it.
    pub fn remove_broken(&self, path: &Path) -> Result<Fate, StoreError> {
        let gate = self.store.close_gate()?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Fate::Gone),
            other => other.map_err(StoreError::io("read", path))?,
        };
        let taken = self.take_away(path)?;
        drop(gate);
        self.destroy(taken)
    }

    /// Takes a file away that the store did not put where it is, unless it is young: somebody may be
    /// making it.
    pub fn remove_stray(&self, path: &Path) -> Result<Fate, StoreError> {
        if self.is_young(path) { Ok(Fate::InUse) } else { self.remove_broken(path) }
    }

    /// Whether something may be the work of a living process; so is what cannot be looked at.
    pub fn is_young(&self, path: &Path) -> bool {
        let used = fs::symlink_metadata(path).and_then(|meta| meta.modified());
        used.map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |used| used >= self.cutoff)
    }

    /// What lies in `tmp` and belongs to no living process.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let _gate = self.store.close_gate()?;
        temp::leftovers(self.store.root())
    }

    /// Notes that the store was collected now.
    pub fn note_collection(&self) {
        let _ = self.lock.set_modified(SystemTime::now());
    }

    /// What is wrong with the store's own directories: each path with the reason. With `repair` it is
    /// put right where this user may do so.
    pub fn wrong_permissions(&self, repair: bool) -> Vec<(PathBuf, &'static str)> {
        let mut wrong = Vec::new();
        let rooms = Room::ALL.iter().map(|room| room.dir()).chain(["blobs", "tmp", ""]).chain(LATER_ROOMS);
        let mut seen = BTreeSet::new();
        for path in rooms.map(|dir| self.store.root().join(dir)) {
            if !seen.insert(path.clone()) {
                continue;
            }
            let Ok(dir) = private::open_dir(&path) else { continue };
            let Ok(mode) = dir.metadata().map(|meta| meta.permissions().mode()) else { continue };
            let reason = match (mode & 0o700, mode & 0o022, mode & 0o077) {
                (0o700, 0, 0) => continue,
                (0o700, 0, _) => "other users may enter it",
                (0o700, _, _) => "other users may write there",
                _ => "its owner may not use it",
            };
            if repair && dir.set_permissions(fs::Permissions::from_mode(0o700)).is_err() {
                wrong.push((path, "its permissions are wrong and cannot be changed"));
            } else {
                wrong.push((path, reason));
            }
        }
        wrong
    }

    /// One rename into the trash, where nobody finds it.
    fn take_away(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let (_, number) = self.store.unique();
        let taken = self.trash.path().join(number.to_string());
        fs::rename(path, &taken).map_err(StoreError::io("remove", path))?;
        Ok(taken)
    }

    fn destroy(&self, taken: PathBuf) -> Result<Fate, StoreError> {
        crate::fs::remove_tree(&taken).map_err(StoreError::io("remove", &taken))?;
        Ok(Fate::Removed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SnapshotKind;
    use super::*;
    use crate::digest::Digest;

    type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

    /// Makes everything look a day old.
    fn age(store: &Store, room: Room) -> Result {
        for item in store.list(room)?.items {
            File::open(&item.path)?.set_modified(SystemTime::now() - Duration::from_secs(86_400))?;
        }
        Ok(())
    }

    fn only(store: &Store, room: Room) -> Result<Item> {
        let mut items = store.list(room)?.items;
        assert_eq!(items.len(), 1);
        items.pop().ok_or_else(|| "nothing".into())
    }

    #[test]
    fn what_a_living_process_has_seen_stays_and_the_rest_goes() -> Result {
        let dir = tempfile::tempdir()?;
        let makes = Store::open(dir.path())?;
        let seen = makes.put_blob(b"seen")?;
        makes.put_blob(b"unseen")?;
        drop(makes);
        let builds = Store::open(dir.path())?;
        age(&builds, Room::Blobs)?;
        assert!(builds.has_blob(&seen));
        let prunes = Store::open(dir.path())?;
        let collector = prunes.collector(Duration::ZERO)?;
        for item in prunes.list(Room::Blobs)?.items {
            let expected = if item.digest() == Some(seen) { Fate::InUse } else { Fate::Removed };
            assert_eq!(collector.remove(&item)?, expected);
        }
        assert!(builds.has_blob(&seen) && !builds.has_blob(&Digest::of(b"unseen")));
        Ok(())
    }

    #[test]
    fn nothing_goes_while_a_living_process_seems_to_begin_in_the_future() -> Result {
        let dir = tempfile::tempdir()?;
        let build = Store::open(dir.path())?;
        build.put_blob(b"x")?;
        age(&build, Room::Blobs)?;
        let lock = File::options().write(true).open(build.own_tmp().join("lock"))?;
        lock.set_modified(SystemTime::now() + Duration::from_secs(3600))?;
        let prunes = Store::open(dir.path())?;
        let collector = prunes.collector(Duration::ZERO)?;
        assert_eq!(collector.remove(&only(&prunes, Room::Blobs)?)?, Fate::InUse);
        Ok(())
    }

    #[test]
    fn what_was_made_a_moment_ago_by_a_process_that_has_ended_goes() -> Result {
        let dir = tempfile::tempdir()?;
        let makes = Store::open(dir.path())?;
        makes.put_blob(b"x")?;
        drop(makes);
        let prunes = Store::open(dir.path())?;
        let collector = prunes.collector(Duration::ZERO)?;
        assert_eq!(collector.remove(&only(&prunes, Room::Blobs)?)?, Fate::Removed);
        Ok(())
    }

    #[test]
    fn a_locked_cache_mount_stays_and_an_unlocked_one_goes_with_its_lock() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let held = store.cache_dir::<StoreError>(&Digest::of(b"m"), 0, false, |_| Ok(()))?.ok_or("taken")?;
        age(&store, Room::Mounts)?;
        let item = only(&store, Room::Mounts)?;
        let collector = store.collector(Duration::ZERO)?;
        assert_eq!(collector.remove(&item)?, Fate::InUse);
        drop(held);
        assert_eq!(collector.remove(&item)?, Fate::Removed);
        assert_eq!(fs::read_dir(dir.path().join("mounts"))?.count(), 0);
        Ok(())
    }

    #[test]
    fn only_one_process_collects() -> Result {
        let dir = tempfile::tempdir()?;
        let (one, two) = (Store::open(dir.path())?, Store::open(dir.path())?);
        let first = one.collector(Duration::ZERO)?;
        assert!(matches!(two.collector(Duration::from_millis(30)), Err(StoreError::Busy { .. })));
        drop(first);
        two.collector(Duration::ZERO)?;
        Ok(())
    }

    #[test]
    fn a_snapshot_without_a_chain_goes_with_its_process() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let freeze = || -> Result<crate::store::SnapshotId> {
            let temporary = store.temp_dir()?;
            fs::create_dir(temporary.path().join("fs"))?;
            Ok(store.freeze_snapshot(temporary)?)
        };
        let (kept, lost) = (freeze()?, freeze()?);
        let chain = crate::digest::ChainId::scratch();
        store.put_chain_snapshot(&chain, &SnapshotKind::plain(), &kept)?;
        drop(store);
        let next = Store::open(dir.path())?;
        assert_eq!(next.chain_snapshot(&chain, &SnapshotKind::plain())?, Some(kept));
        assert!(!next.snapshot_dir(&lost).exists());
        Ok(())
    }

    #[test]
    fn of_two_snapshots_for_a_chain_the_first_stays_and_the_other_goes_with_its_process() -> Result {
        let dir = tempfile::tempdir()?;
        let chain = crate::digest::ChainId::scratch();
        let put = |store: &Store| -> Result<crate::store::SnapshotId> {
            let temporary = store.temp_dir()?;
            fs::create_dir(temporary.path().join("fs"))?;
            let id = store.freeze_snapshot(temporary)?;
            store.put_chain_snapshot(&chain, &SnapshotKind::plain(), &id)?;
            Ok(id)
        };
        let (one, two) = (Store::open(dir.path())?, Store::open(dir.path())?);
        let (first, second) = (put(&one)?, put(&two)?);
        assert!(two.snapshot_dir(&second).exists());
        drop((one, two));
        let next = Store::open(dir.path())?;
        assert_eq!(next.chain_snapshot(&chain, &SnapshotKind::plain())?, Some(first));
        assert!(!next.snapshot_dir(&second).exists());
        Ok(())
    }

    #[test]
    fn a_process_killed_while_noting_a_chain_loses_the_snapshot_only_if_the_chain_was_not_noted() -> Result {
        let dir = tempfile::tempdir()?;
        drop(Store::open(dir.path())?);
        let (dead, chain) = (dir.path().join("tmp/1-dead"), crate::digest::ChainId::scratch());
        let hex = chain.0.hex();
        let file = dir.path().join("chains").join(&hex[..2]).join(&hex);
        fs::create_dir_all(file.parent().ok_or("no parent")?)?;
        fs::create_dir_all(&dead)?;
        for id in ["noted", "unnoted"] {
            fs::create_dir_all(dir.path().join("snapshots").join(id).join("fs"))?;
            fs::write(dead.join(format!("frozen-{id}")), &hex)?;
        }
        fs::write(&file, "noted")?;
        let _next = Store::open(dir.path())?;
        assert!(
            dir.path().join("snapshots/noted").exists() && !dir.path().join("snapshots/unnoted").exists()
        );
        Ok(())
    }

    #[test]
    fn the_snapshots_of_a_killed_process_are_cleared_with_its_temporaries() -> Result {
        let dir = tempfile::tempdir()?;
        drop(Store::open(dir.path())?);
        let (dead, snapshot) = (dir.path().join("tmp/1-dead"), dir.path().join("snapshots/1-2-3"));
        fs::create_dir_all(dead.join("dead-0"))?;
        fs::write(dead.join("dead-0/frozen-1-2-3"), "")?;
        fs::create_dir_all(snapshot.join("fs"))?;
        let _next = Store::open(dir.path())?;
        assert!(!dead.exists() && !snapshot.exists());
        Ok(())
    }

    #[test]
    fn a_store_whose_maker_was_killed_is_made_by_the_next() -> Result {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("version.4711"), "")?;
        Store::open(dir.path())?;
        assert!(!dir.path().join("version.4711").exists());
        Ok(())
    }
}
