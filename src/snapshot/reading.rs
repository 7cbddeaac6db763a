//! Some files of a layer, read in one pass: from its directory where there is one, else from its tar.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use crate::digest::ChainId;
use crate::fs::Root;
use crate::layer::{self, LayerError};

use super::chain::Chain;
use super::error::SnapshotError;
use super::snapshots::Snapshots;

/// A file that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct WantedFile<'a> {
    /// Its path in its layer; see [`Node::place`](super::Node::place).
    pub path: &'a [u8],
    /// Where its content begins in the layer's tar.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// A file while it is read. What is read of a tar stays in memory until the next file.
pub struct FileReader<'a> {
    bytes: Bytes<'a>,
    size: u64,
}

enum Bytes<'a> {
    Disk(File),
    Tar(io::Take<&'a mut dyn Read>, Vec<u8>),
    Memory(&'a [u8]),
}

/// Bytes of a tar that are read at once.
const CHUNK: u64 = 256 << 10;

impl<'a> FileReader<'a> {
    /// Bytes in memory as a file.
    pub fn of(bytes: &'a [u8]) -> Self {
        FileReader { size: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    /// An open file.
    pub fn of_file(file: File, size: u64) -> Self {
        FileReader { bytes: Bytes::Disk(file), size }
    }

    /// A stream of `size` bytes.
    pub fn of_stream(stream: &'a mut dyn Read, size: u64) -> Self {
        FileReader { bytes: Bytes::Tar(stream.take(size), Vec::new()), size }
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Up to `length` bytes from `offset` on; fewer at the end of the file only.
    pub fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let left = self.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        let end = offset.saturating_add(length as u64);
        let slice = |bytes: &[u8]| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            bytes[from..(from + length).min(bytes.len())].to_vec()
        };
        match &mut self.bytes {
            Bytes::Memory(bytes) => Ok(slice(bytes)),
            Bytes::Tar(stream, seen) => {
                let missing = end.saturating_sub(seen.len() as u64);
                if missing > 0 {
                    stream.by_ref().take(missing.max(CHUNK)).read_to_end(seen)?;
                }
                Ok(slice(seen))
            }
            Bytes::Disk(file) => {
                let mut bytes = vec![0; length];
                let mut filled = 0;
                while filled < length {
                    match file.read_at(&mut bytes[filled..], offset + filled as u64) {
                        Ok(0) => break,
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                bytes.truncate(filled);
                Ok(bytes)
            }
        }
    }

    /// All of it; an error where it has more than `limit` bytes.
    pub fn read_all(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        if self.size > limit {
            return Err(io::Error::other(format!("it has {} bytes; at most {limit} are read", self.size)));
        }
        self.read_at(0, usize::try_from(self.size).unwrap_or(usize::MAX))
    }
}

impl Snapshots {
    /// Calls `visit` with the position in `wanted` and the content of each file, in the order in which the layer
    /// has them. A file under several names is visited once, under the first of them that is wanted. A layer that is
    /// packed is read no further than to the last file.
    pub fn read_files(
        &self,
        chain: &Chain,
        layer: usize,
        wanted: &[WantedFile<'_>],
        visit: &mut dyn FnMut(usize, &mut FileReader<'_>),
    ) -> Result<(), SnapshotError> {
        let Some(cell) = chain.cells().get(layer) else { return Ok(()) };
        if wanted.is_empty() {
            return Ok(());
        }
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|at| (wanted[*at].offset, *at));
        let diff_id = cell.finished()?.diff_id;
        let mut id = cell.snapshot();
        if id.is_none() {
            let parents = chain.cells()[..=layer].iter();
            let chain_id = parents
                .map(|cell| cell.finished())
                .try_fold(ChainId::scratch(), |chain, cell| cell.map(|cell| chain.push(cell.diff_id)))?;
            id = self.known(&chain_id)?;
        }
        if let Some(id) = id {
            let dir = self.store().snapshot_dir(&id);
            let root = Root::open(&dir).map_err(|error| LayerError::io("open", &dir, error))?;
            for at in order {
                let WantedFile { path, size, .. } = wanted[at];
                let file = root
                    .open_file(path)
                    .map_err(|error| LayerError::io("open", &dir.join(shown(path)), error))?;
                visit(at, &mut FileReader { bytes: Bytes::Disk(file), size });
            }
            return Ok(());
        }
        cell.ensure_blob(self.store())?;
        let mut plain = layer::open_plain(self.store(), &diff_id)?;
        let mut position = 0;
        for at in order {
            let WantedFile { offset, size, .. } = wanted[at];
            if offset < position {
                continue;
            }
            skip(&mut *plain, offset - position)?;
            let mut reader =
                FileReader { bytes: Bytes::Tar((&mut *plain as &mut dyn Read).take(size), Vec::new()), size };
            visit(at, &mut reader);
            let Bytes::Tar(rest, _) = &mut reader.bytes else { continue };
            let left = rest.limit();
            skip(&mut **rest.get_mut(), left)?;
            position = offset + size;
        }
        Ok(())
    }
}

fn skip(stream: &mut dyn Read, bytes: u64) -> Result<(), SnapshotError> {
    let skipped = io::copy(&mut stream.take(bytes), &mut io::sink()).map_err(LayerError::Stream)?;
    if skipped < bytes {
        return Err(LayerError::Invalid("it ends before the files that its index lists".into()).into());
    }
    Ok(())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
