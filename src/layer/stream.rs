//! The way of a layer's tar stream to its blob: read, digested, compressed and written at once; or
//! only digested.
//!
//! The caller's thread fills blocks. Threads of their own digest the stream, digest the files,
//! compress (several) and write, each in step with the slowest. A layer of one block needs none of
//! them. The number of blocks under way bounds the memory.

use std::io::{self, Read};
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::digest::{DiffId, Digest, Hasher};
use crate::store::BlobWriter;

use super::block_cache::Row;
use super::cut::Sizes;
use super::error::LayerError;
use super::pack::{Cache, Joiner, Method, Packed, Packer};

/// Bytes of blocks under way at once, about; less in a container with little memory, where several layers are
/// written at the same time all the same.
const MEMORY: usize = 40 << 20;

/// [`MEMORY`], or a sixteenth of what this process may have; four blocks at least.
fn memory(limit: Option<u64>, block: usize) -> usize {
    let share = limit.map_or(MEMORY, |limit| usize::try_from(limit / 16).unwrap_or(MEMORY));
    share.min(MEMORY).max(4 * block)
}

/// A piece of the stream. Gives its buffer back when nobody needs it any more.
pub(super) struct Block {
    buffer: Vec<u8>,
    filled: usize,
    files: Vec<Span>,
    home: Sender<Vec<u8>>,
}

/// A file's content, or part of it, in a block.
struct Span {
    file: usize,
    start: usize,
    end: usize,
    is_last: bool,
}

impl Block {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let _ = self.home.try_send(std::mem::take(&mut self.buffer));
    }
}

/// What is known when the whole stream went through.
pub(super) struct Written {
    /// Digest of the stream.
    pub diff_id: DiffId,
    /// Its bytes.
    pub size: u64,
    /// What was made of it, if anything was to be.
    pub blob: Option<WrittenBlob>,
    /// Digests of files by their numbers.
    pub files: Vec<(usize, Digest)>,
}

/// A blob with all its bytes.
pub(super) struct WrittenBlob {
    /// Not yet visible.
    pub blob: BlobWriter,
    /// Where its blocks lie.
    pub rows: Vec<Row>,
}

/// Digests of the files of a stream.
#[derive(Default)]
struct FileDigests {
    current: Hasher,
    done: Vec<(usize, Digest)>,
}

impl FileDigests {
    fn add(&mut self, block: &Block) {
        for span in &block.files {
            self.current.update(&block.buffer[span.start..span.end]);
            if span.is_last {
                self.done.push((span.file, std::mem::take(&mut self.current).finish()));
            }
        }
    }
}

/// Writes a blob from what `feed` puts into the stream; without one, only digests it.
pub(super) fn write(
    blob: Option<BlobWriter>,
    method: &Method,
    cache: &Cache,
    threads: usize,
    feed: impl FnOnce(&mut Stream<'_, '_>) -> Result<(), LayerError>,
) -> Result<Written, LayerError> {
    let joiner = blob.map(|blob| Joiner::new(blob, method)).transpose().map_err(LayerError::Stream)?;
    thread::scope(|scope| {
        let sizes = method.sizes();
        let slots = (threads + 3).min(memory(crate::memory::limit(), sizes.target) / sizes.target);
        let (home, returned) = bounded(slots);
        let mut stream = Stream {
            scope,
            method,
            cache,
            threads,
            sizes,
            slots,
            home,
            returned,
            made: 0,
            buffer: Vec::new(),
            filled: 0,
            files: Vec::new(),
            position: 0,
            stage: Stage::Alone(joiner),
        };
        let fed = stream.new_buffer().and_then(|()| feed(&mut stream));
        stream.finish(fed)
    })
}

/// The reading end.
pub(super) struct Stream<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    method: &'env Method,
    cache: &'env Cache,
    threads: usize,
    sizes: Sizes,
    slots: usize,
    home: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    made: usize,
    buffer: Vec<u8>,
    filled: usize,
    files: Vec<Span>,
    position: u64,
    stage: Stage<'scope>,
}

/// Compressed blocks that were written. New memory has to be cleared by the kernel, which takes longer
/// than to copy into it.
type Spare = (Sender<Vec<u8>>, Receiver<Vec<u8>>);

enum Stage<'scope> {
    /// There was no second block yet.
    Alone(Option<Joiner>),
    Crew(Crew<'scope>),
    Failed,
}

type Job = (Arc<Block>, Sender<io::Result<Packed>>);

struct Crew<'scope> {
    diff: Sender<Arc<Block>>,
    files: Sender<Arc<Block>>,
    diff_thread: ScopedJoinHandle<'scope, Digest>,
    files_thread: ScopedJoinHandle<'scope, Vec<(usize, Digest)>>,
    packing: Option<Packing<'scope>>,
}

/// Those of the crew who make the blob.
struct Packing<'scope> {
    jobs: Sender<Job>,
    order: Sender<Receiver<io::Result<Packed>>>,
    writer_thread: ScopedJoinHandle<'scope, io::Result<Joiner>>,
}

fn gone() -> io::Error {
    io::Error::other("a thread that writes layers ended early")
}

impl<'scope, 'env> Stream<'scope, 'env> {
    /// Bytes so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Adds bytes that are no file's content.
    pub(super) fn raw(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            if self.filled == self.sizes.max() {
                self.cut()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.sizes.max() - self.filled));
            self.buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.advance(now.len());
            bytes = later;
        }
        Ok(())
    }

    /// Adds the bytes up to `position`, none of them a file's content, from a reader.
    pub(super) fn raw_from(&mut self, reader: &mut dyn Read, position: u64) -> Result<(), LayerError> {
        while self.position < position {
            if self.filled == self.sizes.max() {
                self.cut()?;
            }
            let room = self.sizes.max() - self.filled;
            let want = usize::try_from(position - self.position).map_or(room, |left| left.min(room));
            match self.read(reader, want).map_err(LayerError::Stream)? {
                0 => return Ok(()),
                count => self.advance(count),
            }
        }
        Ok(())
    }

    /// Adds a file's content, all that `reader` gives, which must be `size` bytes. Its digest
    /// comes out under the number `file`, if it has one.
    pub(super) fn content(
        &mut self,
        file: Option<usize>,
        path: &[u8],
        size: u64,
        reader: &mut dyn Read,
    ) -> Result<(), LayerError> {
        if self.sizes.before_content(self.filled, size) {
            self.cut()?;
        }
        if let (Some(file), 0) = (file, size) {
            self.span(file, 0, true);
        }
        let mut at = 0;
        while at < size {
            let mut room = self.sizes.room_in_content(self.filled, at, size);
            if room == 0 {
                self.cut()?;
                room = self.sizes.room_in_content(0, at, size);
            }
            let want = usize::try_from(size - at).map_or(room, |left| left.min(room));
            let count = self.read(reader, want).map_err(|error| LayerError::inside("read", path, error))?;
            if count == 0 {
                return Err(LayerError::changed(path, "it shrank"));
            }
            at += count as u64;
            if let Some(file) = file {
                self.span(file, count, at == size);
            }
            self.advance(count);
            if count == room {
                self.cut()?;
            }
        }
        // What is known already is asked whether it has the same length still.
        if file.is_some()
            && read_some(reader, &mut [0]).map_err(|error| LayerError::inside("read", path, error))? > 0
        {
            return Err(LayerError::changed(path, "it grew"));
        }
        Ok(())
    }

    /// To be called behind a file's content and its padding.
    pub(super) fn end_content(&mut self, path: &[u8], size: u64) -> Result<(), LayerError> {
        if self.sizes.after_content(self.filled, path, size) { self.cut() } else { Ok(()) }
    }

    fn read(&mut self, reader: &mut dyn Read, want: usize) -> io::Result<usize> {
        read_some(reader, &mut self.buffer[self.filled..self.filled + want])
    }

    fn advance(&mut self, count: usize) {
        self.filled += count;
        self.position += count as u64;
    }

    fn span(&mut self, file: usize, count: usize, is_last: bool) {
        let (start, end) = (self.filled, self.filled + count);
        match self.files.last_mut() {
            Some(span) if span.file == file => (span.end, span.is_last) = (end, is_last),
            _ => self.files.push(Span { file, start, end, is_last }),
        }
    }

    /// A buffer that is free, or a new one as long as there may be more.
    fn new_buffer(&mut self) -> Result<(), LayerError> {
        self.buffer = match self.returned.try_recv() {
            Ok(buffer) => buffer,
            Err(_) if self.made < self.slots => {
                self.made += 1;
                vec![0; self.sizes.max()]
            }
            Err(_) => self.returned.recv().map_err(|_| LayerError::Stream(gone()))?,
        };
        Ok(())
    }

    fn take_block(&mut self) -> Arc<Block> {
        Arc::new(Block {
            buffer: std::mem::take(&mut self.buffer),
            filled: std::mem::take(&mut self.filled),
            files: std::mem::take(&mut self.files),
            home: self.home.clone(),
        })
    }

    /// Ends the block.
    fn cut(&mut self) -> Result<(), LayerError> {
        self.send().map_err(LayerError::Stream)?;
        self.new_buffer()
    }

    fn send(&mut self) -> io::Result<()> {
        let block = self.take_block();
        self.stage = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Alone(joiner) => Stage::Crew(self.start(joiner)?),
            started => started,
        };
        let Stage::Crew(crew) = &self.stage else { return Err(gone()) };
        let packed = crew.packing.as_ref().map(|packing| {
            let (answer, packed) = bounded(1);
            packing.order.send(packed).map(|()| (packing, answer)).map_err(|_| gone())
        });
        crew.diff.send(block.clone()).map_err(|_| gone())?;
        crew.files.send(block.clone()).map_err(|_| gone())?;
        match packed.transpose()? {
            Some((packing, answer)) => packing.jobs.send((block, answer)).map_err(|_| gone()),
            None => Ok(()),
        }
    }

    fn start(&self, joiner: Option<Joiner>) -> io::Result<Crew<'scope>> {
        let (diff, diff_blocks) = bounded::<Arc<Block>>(self.slots);
        let (files, file_blocks) = bounded::<Arc<Block>>(self.slots);
        let diff_thread = spawn(self.scope, move || {
            let mut hasher = Hasher::new();
            diff_blocks.iter().for_each(|block| hasher.update(block.bytes()));
            hasher.finish()
        })?;
        let files_thread = spawn(self.scope, move || {
            let mut digests = FileDigests::default();
            file_blocks.iter().for_each(|block| digests.add(&block));
            digests.done
        })?;
        let packing = joiner.map(|joiner| self.start_packing(joiner)).transpose()?;
        Ok(Crew { diff, files, diff_thread, files_thread, packing })
    }

    fn start_packing(&self, mut joiner: Joiner) -> io::Result<Packing<'scope>> {
        let (jobs, job_queue) = bounded::<Job>(self.slots);
        let (order, packed) = bounded::<Receiver<io::Result<Packed>>>(self.slots);
        let (give, take): Spare = bounded(self.slots);
        let writer_thread = spawn(self.scope, move || {
            for packed in packed {
                let packed = packed.recv().map_err(|_| gone())??;
                joiner.add(&packed)?;
                if let Some(buffer) = packed.into_buffer() {
                    let _ = give.try_send(buffer);
                }
            }
            Ok(joiner)
        })?;
        for worker in 0..self.threads.clamp(1, self.slots) {
            let mut packer = Packer::new(self.method, Some(self.cache))?;
            let (job_queue, take) = (job_queue.clone(), take.clone());
            let started = spawn(self.scope, move || {
                for (block, answer) in job_queue {
                    let buffer = take.try_recv().unwrap_or_default();
                    let _ = answer.send(packer.pack(block, buffer));
                }
            });
            if worker == 0 {
                started?;
            }
        }
        Ok(Packing { jobs, order, writer_thread })
    }

    /// Ends the last block and waits for everything. What stopped a thread says more than that it
    /// was missed.
    fn finish(mut self, fed: Result<(), LayerError>) -> Result<Written, LayerError> {
        if let (Ok(()), Stage::Crew(_)) = (&fed, &self.stage)
            && self.filled > 0
        {
            // A thread that is gone has its say below.
            let _ = self.send();
        }
        let size = self.position;
        let block = self.take_block();
        match self.stage {
            Stage::Failed => Err(fed.err().unwrap_or_else(|| LayerError::Stream(gone()))),
            Stage::Alone(joiner) => {
                fed?;
                alone(self.method, joiner, block).map_err(LayerError::Stream)
            }
            Stage::Crew(Crew { diff, files, diff_thread, files_thread, packing }) => {
                drop((diff, files));
                let joiner = packing.map(Packing::finish).transpose().map_err(LayerError::Stream)?;
                fed?;
                let lost = |_| LayerError::Stream(gone());
                let (diff, files) = (diff_thread.join().map_err(lost)?, files_thread.join().map_err(lost)?);
                let blob = joiner.map(|joiner| end(joiner, size)).transpose().map_err(LayerError::Stream)?;
                Ok(Written { diff_id: DiffId(diff), size, blob, files })
            }
        }
    }
}

impl Packing<'_> {
    /// Waits until everything is written.
    fn finish(self) -> io::Result<Joiner> {
        drop((self.jobs, self.order));
        self.writer_thread.join().unwrap_or_else(|_| Err(gone()))
    }
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name("layer".into()).spawn_scoped(scope, work).map_err(no_thread)
}

/// Says what failed where the system allows no more threads.
pub(super) fn no_thread(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot start a thread: {error}"))
}

fn end(joiner: Joiner, size: u64) -> io::Result<WrittenBlob> {
    let (blob, rows) = joiner.finish(size)?;
    Ok(WrittenBlob { blob, rows })
}

/// A layer of one block: not worth a thread, nor a place in the cache.
fn alone(method: &Method, joiner: Option<Joiner>, block: Arc<Block>) -> io::Result<Written> {
    let mut digests = FileDigests::default();
    digests.add(&block);
    let size = block.filled as u64;
    let diff_id = DiffId(Digest::of(block.bytes()));
    let mut blob = None;
    if let Some(mut joiner) = joiner {
        joiner.add(&Packer::new(method, None)?.pack(block, Vec::new())?)?;
        blob = Some(end(joiner, size)?);
    }
    Ok(Written { diff_id, size, blob, files: digests.done })
}

fn read_some(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
