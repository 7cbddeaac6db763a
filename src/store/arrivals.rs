//! Blobs on their way into the store: they can be read while they come.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::digest::Digest;

use super::open::Store;

/// How often somebody who waits for a blob to begin asks whether it still will.
const ASK: Duration = Duration::from_millis(5);

/// The blobs that this process is receiving.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    known: Mutex<HashMap<Digest, Arc<Arrival>>>,
    changed: Condvar,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Arrival {
    digest: Digest,
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// Whether it ended with the right digest.
    ended: Option<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arrivals {
    pub(super) fn begin(&self, digest: &Digest, path: PathBuf) -> Arc<Arrival> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let arrival = Arc::new(Arrival { digest: *digest, path, state, changed });
        lock(&self.known).insert(*digest, arrival.clone());
        self.changed.notify_all();
        arrival
    }

    /// Where it ended already, that stays.
    pub(super) fn end(&self, arrival: &Arc<Arrival>, right: bool) {
        let mut known = lock(&self.known);
        if known.get(&arrival.digest).is_some_and(|other| Arc::ptr_eq(other, arrival)) {
            known.remove(&arrival.digest);
        }
        drop(known);
        lock(&arrival.state).ended.get_or_insert(right);
        arrival.changed.notify_all();
    }
}

impl Arrival {
    pub(super) fn advance(&self, bytes: u64) {
        lock(&self.state).bytes = bytes;
        self.changed.notify_all();
    }
}

/// Reads a blob while it comes. Its end is reached only if the whole blob came and has its digest, so
/// nothing read may be relied upon before that.
#[derive(Debug)]
pub struct ArrivingBlob {
    arrival: Arc<Arrival>,
    file: File,
    at: u64,
}

impl Read for ArrivingBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = lock(&self.arrival.state);
        while state.bytes <= self.at {
            match state.ended {
                Some(true) => return Ok(0),
                Some(false) => return Err(io::Error::other("the blob did not come whole")),
                None => {
                    state = self.arrival.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let there = state.bytes - self.at;
        drop(state);
        let most = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Store {
    /// A blob that this process is receiving; waits for it to begin until `given_up`. `None` where it is
    /// not to be had so: it may be here by then.
    pub fn arriving(&self, digest: &Digest, given_up: impl Fn() -> bool) -> Option<ArrivingBlob> {
        let arrivals = self.arrivals();
        let mut known = lock(&arrivals.known);
        let arrival = loop {
            if let Some(arrival) = known.get(digest) {
                break arrival.clone();
            }
            if given_up() {
                return None;
            }
            let waited = arrivals.changed.wait_timeout(known, ASK);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(known);
        let file = File::open(&arrival.path).ok()?;
        Some(ArrivingBlob { arrival, file, at: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn read_all(mut blob: ArrivingBlob) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn a_blob_is_read_while_it_comes() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let digest = Digest::of(b"one two three");
        assert!(store.arriving(&digest, || true).is_none());
        let mut writer = store.blob_writer_for(&digest)?;
        let early = store.arriving(&digest, || false).ok_or("not arriving")?;
        let reads = std::thread::spawn(move || read_all(early));
        for part in [&b"one "[..], b"two ", b"three"] {
            writer.write_all(part)?;
            std::thread::yield_now();
        }
        let late = store.arriving(&digest, || false).ok_or("not arriving")?;
        writer.finish_verified(&digest)?;
        assert_eq!(reads.join().map_err(|_| "died")??, b"one two three");
        assert_eq!(read_all(late)?, b"one two three");
        assert!(store.arriving(&digest, || true).is_none());
        Ok(())
    }

    #[test]
    fn a_blob_that_is_not_what_was_promised_never_ends_well() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let digest = Digest::of(b"promised");
        let mut wrong = store.blob_writer_for(&digest)?;
        wrong.write_all(b"other")?;
        let reader = store.arriving(&digest, || false).ok_or("not arriving")?;
        assert!(wrong.finish_verified(&digest).is_err());
        assert!(read_all(reader).is_err());
        let broken = store.blob_writer_for(&digest)?;
        let reader = store.arriving(&digest, || false).ok_or("not arriving")?;
        drop(broken);
        assert!(read_all(reader).is_err());
        Ok(())
    }

    #[test]
    fn of_two_writers_of_a_blob_each_speaks_for_its_readers() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let digest = Digest::of(b"x");
        let (first, mut second) = (store.blob_writer_for(&digest)?, store.blob_writer_for(&digest)?);
        drop(first);
        let reader = store.arriving(&digest, || true).ok_or("forgotten")?;
        second.write_all(b"x")?;
        second.finish_verified(&digest)?;
        assert_eq!(read_all(reader)?, b"x");
        Ok(())
    }
}
