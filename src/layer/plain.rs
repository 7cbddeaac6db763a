//! The uncompressed stream of a blob: decompressed by one thread, digested by another, read by the
//! caller. A short stream needs none of them.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::cancel::Cancel;
use crate::digest::{DiffId, Digest, Hasher};

use super::error::LayerError;
use super::stream::no_thread;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Pieces under way at once.
const PIECES: usize = 12;

/// Gives `consume` the stream that `blob` is after decompression, and what it gives back together with
/// the digest of all of the stream. `consume` has to read to the end. More than `limit` bytes are an
/// error.
pub(super) fn read<T>(
    blob: impl Read + Send,
    limit: u64,
    cancel: Option<&Cancel>,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, LayerError>,
) -> Result<(T, DiffId), LayerError> {
    let (_, mut plain) = crate::compress::decompress(blob).map_err(LayerError::Stream)?;
    let mut first = vec![0; PIECE];
    let filled = fill(&mut plain, &mut first).map_err(LayerError::Stream)?;
    first.truncate(filled);
    if filled < PIECE {
        let digest = Digest::of(&first);
        let result = consume(&mut Limited { inner: io::Cursor::new(first), left: limit, cancel })?;
        return Ok((result, DiffId(digest)));
    }
    thread::scope(|scope| {
        let (to_hash, hashed) = bounded::<Arc<Piece>>(PIECES);
        let (to_read, pieces) = bounded::<io::Result<Arc<Piece>>>(PIECES);
        let (home, returned) = bounded::<Vec<u8>>(PIECES);
        let spawn = || thread::Builder::new().name("unpack".into());
        let failed = |error| LayerError::Stream(no_thread(error));
        let hasher = spawn()
            .spawn_scoped(scope, move || {
                let mut hasher = Hasher::new();
                hashed.iter().for_each(|piece| hasher.update(&piece.bytes));
                hasher.finish()
            })
            .map_err(failed)?;
        let source = Source { plain, to_hash, to_read, home, returned };
        spawn().spawn_scoped(scope, move || source.run(first)).map_err(failed)?;
        let mut reader = Pieces { pieces, current: None, at: 0 };
        let result = consume(&mut Limited { inner: &mut reader, left: limit, cancel });
        // A consumer that failed leaves pieces behind; nobody may wait for their turn.
        drop(reader);
        let digest = hasher.join().map_err(|_| LayerError::Stream(io::Error::other("a thread ended early")));
        Ok((result?, DiffId(digest?)))
    })
}

/// Part of the stream; its memory is used again.
struct Piece {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let _ = self.home.try_send(std::mem::take(&mut self.bytes));
    }
}

/// What decompresses.
struct Source<R> {
    plain: R,
    to_hash: Sender<Arc<Piece>>,
    to_read: Sender<io::Result<Arc<Piece>>>,
    home: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
}

impl<R: Read> Source<R> {
    fn run(mut self, first: Vec<u8>) {
        let mut next = Ok(first);
        loop {
            let bytes = match next {
                Ok(bytes) if bytes.is_empty() => return,
                Ok(bytes) => bytes,
                Err(error) => return drop(self.to_read.send(Err(error))),
            };
            let piece = Arc::new(Piece { bytes, home: self.home.clone() });
            if self.to_hash.send(piece.clone()).is_err() || self.to_read.send(Ok(piece)).is_err() {
                return;
            }
            next = self.next();
        }
    }

    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = self.returned.try_recv().unwrap_or_default();
        bytes.resize(PIECE, 0);
        let filled = fill(&mut self.plain, &mut bytes)?;
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// The pieces as one stream.
struct Pieces {
    pieces: Receiver<io::Result<Arc<Piece>>>,
    current: Option<Arc<Piece>>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.current.as_ref().and_then(|piece| piece.bytes.get(self.at..)).unwrap_or_default();
            if !rest.is_empty() || buffer.is_empty() {
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                return Ok(count);
            }
            (self.current, self.at) = match self.pieces.recv() {
                Ok(piece) => (Some(piece?), 0),
                Err(_) => return Ok(0),
            };
        }
    }
}

/// Refuses to read more than so many bytes, and anything once the work was canceled: each entry of an
/// archive begins with a read, however little is in it.
struct Limited<'a, R> {
    inner: R,
    left: u64,
    cancel: Option<&'a Cancel>,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            return Err(io::Error::other(LayerError::Canceled));
        }
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the layer is larger than the limit")
        })?;
        Ok(count)
    }
}

/// Fills a buffer; less only at the end of the stream.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at % 253) as u8 ^ (at >> 13) as u8).collect()
    }

    fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes)?;
        encoder.finish()
    }

    fn all(reader: &mut dyn Read) -> Result<Vec<u8>, LayerError> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(LayerError::Stream)?;
        Ok(bytes)
    }

    #[test]
    fn streams_of_every_length_come_out_whole_and_digested() -> Outcome {
        for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 20 * PIECE + 7] {
            let expected = bytes(size);
            for blob in [gzip(&expected)?, expected.clone()] {
                let (read, diff_id) = read(&blob[..], u64::MAX, None, all)?;
                assert!(read == expected, "{size}");
                assert_eq!(diff_id.0, Digest::of(&expected));
            }
        }
        Ok(())
    }

    #[test]
    fn a_damaged_stream_and_one_that_is_too_long_are_errors() -> Outcome {
        for size in [PIECE / 2, 20 * PIECE] {
            let mut blob = gzip(&bytes(size))?;
            assert!(read(&blob[..], size as u64 - 1, None, all).is_err());
            let middle = blob.len() - 6;
            blob[middle] ^= 1;
            assert!(read(&blob[..], u64::MAX, None, all).is_err());
            blob.truncate(middle);
            assert!(read(&blob[..], u64::MAX, None, all).is_err());
        }
        Ok(())
    }

    #[test]
    fn a_consumer_that_gives_up_early_is_not_waited_for() -> Outcome {
        let blob = gzip(&bytes(40 * PIECE))?;
        let refuse = |reader: &mut dyn Read| -> Result<(), LayerError> {
            reader.read_exact(&mut [0; 10]).map_err(LayerError::Stream)?;
            Err(LayerError::Invalid("no".into()))
        };
        assert!(matches!(read(&blob[..], u64::MAX, None, refuse), Err(LayerError::Invalid(_))));
        Ok(())
    }
}
