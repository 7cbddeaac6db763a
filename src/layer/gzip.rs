//! Layer compression whose bytes depend on the input alone.
//!
//! gzip is written as independent deflate blocks on a fixed 1 MiB grid, each ended by a sync flush,
//! all in one member with one checksum: any number of threads gives the same bytes, and every reader
//! of gzip reads them. The blocks have no dictionary in common, which costs 0.2% of size and lets
//! an unchanged block be taken over as it is.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::{Compress, Compression, FlushCompress, Status};

/// Input bytes of one block.
pub const BLOCK: usize = 1 << 20;
/// The level of `docker build`'s gzip.
pub const DEFAULT_LEVEL: u32 = 6;
/// Deflate, no name, no time, unknown system: nothing of this machine.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block without content.
const LAST_BLOCK: [u8; 2] = [3, 0];

type Block = (Vec<u8>, Sender<io::Result<Vec<u8>>>);

/// A gzip encoder with worker threads, started only when there is a second block.
pub struct GzipWriter<W: Write> {
    out: W,
    level: u32,
    threads: usize,
    input: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u64,
    workers: Option<Workers>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
}

struct Workers {
    queue: Sender<Block>,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Write> GzipWriter<W> {
    /// Writes the header to `out`.
    pub fn new(mut out: W, level: u32, threads: usize) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(GzipWriter {
            out,
            level,
            threads: threads.max(1),
            input: Vec::new(),
            crc: crc32fast::Hasher::new(),
            size: 0,
            workers: None,
            pending: VecDeque::new(),
        })
    }

    fn full_block(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.input, Vec::with_capacity(BLOCK));
        if self.threads == 1 {
            return self.out.write_all(&deflate(&block, self.level)?);
        }
        let (sender, receiver) = bounded(1);
        let workers = self.workers.get_or_insert_with(|| Workers::start(self.threads, self.level));
        workers.queue.send((block, sender)).map_err(|_| io::Error::other("compression threads are gone"))?;
        self.pending.push_back(receiver);
        // Two blocks for each thread keep all busy and bound the memory.
        while self.pending.len() > self.threads * 2 {
            self.write_oldest()?;
        }
        Ok(())
    }

    fn write_oldest(&mut self) -> io::Result<()> {
        let Some(receiver) = self.pending.pop_front() else { return Ok(()) };
        let block = receiver.recv().map_err(|_| io::Error::other("compression threads are gone"))??;
        self.out.write_all(&block)
    }

    /// Writes what is left and the trailer; gives the inner writer back.
    pub fn finish(mut self) -> io::Result<W> {
        while !self.pending.is_empty() {
            self.write_oldest()?;
        }
        if !self.input.is_empty() {
            let block = std::mem::take(&mut self.input);
            self.out.write_all(&deflate(&block, self.level)?)?;
        }
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        // The format keeps the size modulo 2^32.
        self.out.write_all(&(self.size as u32).to_le_bytes())?;
        if let Some(workers) = self.workers {
            workers.stop();
        }
        Ok(self.out)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.input.len() == BLOCK {
            self.full_block()?;
        }
        let count = buf.len().min(BLOCK - self.input.len());
        self.input.extend_from_slice(&buf[..count]);
        self.crc.update(&buf[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Workers {
    fn start(threads: usize, level: u32) -> Self {
        let (queue, jobs) = bounded::<Block>(threads);
        let work = move |jobs: Receiver<Block>| {
            for (block, answer) in jobs {
                let _ = answer.send(deflate(&block, level));
            }
        };
        let threads = (0..threads)
            .filter_map(|_| {
                let jobs = jobs.clone();
                std::thread::Builder::new().name("gzip".into()).spawn(move || work(jobs)).ok()
            })
            .collect();
        Workers { queue, threads }
    }

    fn stop(self) {
        drop(self.queue);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// One block of raw deflate that ends on a byte boundary and is not the last.
fn deflate(block: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut state = Compress::new(Compression::new(level), false);
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let consumed = state.total_in() as usize;
        let rest = block.get(consumed..).unwrap_or_default();
        let status = state.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        let done = state.total_in() as usize == block.len() && out.len() < out.capacity();
        if done || status == Status::StreamEnd {
            return Ok(out);
        }
        out.reserve(out.capacity().max(4096));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn gzip(input: &[u8], threads: usize) -> io::Result<Vec<u8>> {
        let mut writer = GzipWriter::new(Vec::new(), DEFAULT_LEVEL, threads)?;
        writer.write_all(input)?;
        writer.finish()
    }

    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..length)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 7 < 4 { b'a' + (state >> 30) as u8 } else { (at >> 8) as u8 }
            })
            .collect()
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bytes_and_they_read_back() -> io::Result<()> {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77] {
            let input = sample(length);
            let one = gzip(&input, 1)?;
            assert_eq!(one, gzip(&input, 2)?, "{length}");
            assert_eq!(one, gzip(&input, 7)?, "{length}");
            let mut back = Vec::new();
            flate2::read::MultiGzDecoder::new(&one[..]).read_to_end(&mut back)?;
            assert!(back == input, "{length}");
        }
        Ok(())
    }

    #[test]
    fn incompressible_blocks_survive() -> io::Result<()> {
        let mut state = 88_172_645_463_325_252u64;
        let input: Vec<u8> = (0..3 * BLOCK)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&gzip(&input, 3)?[..]).read_to_end(&mut back)?;
        assert!(back == input);
        Ok(())
    }
}
