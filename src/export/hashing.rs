//! SHA-256 beside the work that the bytes are for.

use std::io;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::digest::{Digest, Hasher};

/// Bytes given to the thread at once.
const PIECE: usize = 256 << 10;
/// Pieces under way at once.
const PIECES: usize = 4;

/// A digest in the making: by a thread of its own where there is much to digest.
pub(super) enum Hashing {
    Here(Hasher),
    There(Worker),
}

pub(super) struct Worker {
    piece: Vec<u8>,
    pieces: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    thread: JoinHandle<Digest>,
}

impl Hashing {
    /// For about `size` bytes.
    pub(super) fn of_size(size: u64) -> Self {
        if size < 4 * PIECE as u64 {
            return Hashing::Here(Hasher::new());
        }
        let (pieces, queue) = bounded::<Vec<u8>>(PIECES);
        let (home, returned) = bounded(PIECES);
        let work = move || {
            let mut hasher = Hasher::new();
            for mut piece in queue {
                hasher.update(&piece);
                piece.clear();
                let _ = home.try_send(piece);
            }
            hasher.finish()
        };
        match thread::Builder::new().name("digest".into()).spawn(work) {
            Ok(thread) => Hashing::There(Worker { piece: Vec::new(), pieces, returned, thread }),
            Err(_) => Hashing::Here(Hasher::new()),
        }
    }

    /// Adds bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        let worker = match self {
            Hashing::Here(hasher) => return hasher.update(bytes),
            Hashing::There(worker) => worker,
        };
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - worker.piece.len()));
            worker.piece.extend_from_slice(now);
            bytes = later;
            if worker.piece.len() == PIECE {
                worker.send();
            }
        }
    }

    /// The digest; an error only where the thread died.
    pub(super) fn finish(self) -> io::Result<Digest> {
        match self {
            Hashing::Here(hasher) => Ok(hasher.finish()),
            Hashing::There(mut worker) => {
                worker.send();
                drop(worker.pieces);
                worker.thread.join().map_err(|_| io::Error::other("a thread that digests died"))
            }
        }
    }
}

impl Worker {
    fn send(&mut self) {
        let fresh = self.returned.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        // A thread that is gone is noticed at the end.
        let _ = self.pieces.send(std::mem::replace(&mut self.piece, fresh));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_same_wherever_they_are_made() -> io::Result<()> {
        for size in [0, 1, PIECE, 4 * PIECE, 9 * PIECE + 5] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for step in [7919, PIECE, 3 * PIECE + 1] {
                let mut hashing = Hashing::of_size(size as u64);
                bytes.chunks(step).for_each(|part| hashing.update(part));
                assert_eq!(hashing.finish()?, Digest::of(&bytes), "{size} by {step}");
            }
        }
        Ok(())
    }
}
