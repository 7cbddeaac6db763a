//! Blocks to compressed bytes, and those to a blob.

use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock};

use crate::compress::CompressionAlgorithm;
use crate::store::{BlobWriter, Store};

use super::block_cache::{BlockCache, Key, Row};
use super::cut::Sizes;
use super::deflate::{self, Deflater};
use super::stream::Block;

/// Names the versions of the compressors: another one where the same block and level give other
/// bytes. Keeps blocks of different versions out of one layer.
const GENERATION: &str = "libdeflate 1.26, zstd 1.5.7";
/// What `zstd` itself takes.
const ZSTD_LEVEL: u32 = 3;
/// Deflate, no name, no time, unknown system: nothing of this machine.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// A last block without content.
const GZIP_LAST_BLOCK: [u8; 2] = [3, 0];

/// How blocks are compressed.
#[derive(Debug)]
pub(super) struct Method {
    algorithm: CompressionAlgorithm,
    level: u32,
    cache_key: Key,
}

impl Method {
    /// `level` is the algorithm's own scale; `None` its default.
    pub(super) fn new(algorithm: CompressionAlgorithm, level: Option<u32>) -> Self {
        let level = match algorithm {
            CompressionAlgorithm::Uncompressed => 0,
            CompressionAlgorithm::Gzip => level.unwrap_or(deflate::DEFAULT_LEVEL),
            CompressionAlgorithm::Zstd => level.unwrap_or(ZSTD_LEVEL),
        };
        let name = format!("rbuild block, {GENERATION}, {algorithm:?} {level}");
        Method { algorithm, level, cache_key: *blake3::hash(name.as_bytes()).as_bytes() }
    }

    /// zstd looks back further than deflate and loses more where blocks are small.
    pub(super) fn sizes(&self) -> Sizes {
        match self.algorithm {
            CompressionAlgorithm::Gzip | CompressionAlgorithm::Uncompressed => Sizes { target: 1 << 20 },
            CompressionAlgorithm::Zstd => Sizes { target: 2 << 20 },
        }
    }
}

enum Codec {
    Plain,
    Gzip(Deflater),
    Zstd(zstd::bulk::Compressor<'static>),
}

/// What became of a block.
pub(super) struct Packed {
    bytes: PackedBytes,
    /// Of the block before compression, for gzip's trailer.
    sum: crc32fast::Hasher,
    cached_as: Option<(Key, u32)>,
}

impl Packed {
    /// The memory, to be used again.
    pub(super) fn into_buffer(self) -> Option<Vec<u8>> {
        match self.bytes {
            PackedBytes::Own(bytes) => Some(bytes),
            PackedBytes::Same(_) => None,
        }
    }
}

enum PackedBytes {
    Same(Arc<Block>),
    Own(Vec<u8>),
}

/// Compresses blocks; one for each thread.
pub(super) struct Packer<'a> {
    codec: Codec,
    method: &'a Method,
    cache: Option<&'a Cache>,
}

/// The cache of blocks, read when the first block asks.
pub(super) struct Cache {
    store: Store,
    table: OnceLock<BlockCache>,
}

impl Cache {
    /// That of a store.
    pub(super) fn of(store: &Store) -> Self {
        Cache { store: store.clone(), table: OnceLock::new() }
    }

    fn get(&self, key: &Key, out: &mut Vec<u8>) -> Option<u32> {
        self.table.get_or_init(|| BlockCache::load(&self.store)).get(key, out)
    }
}

impl<'a> Packer<'a> {
    /// With or without looking for blocks compressed before.
    pub(super) fn new(method: &'a Method, cache: Option<&'a Cache>) -> io::Result<Self> {
        let codec = match method.algorithm {
            CompressionAlgorithm::Uncompressed => Codec::Plain,
            CompressionAlgorithm::Gzip => Codec::Gzip(Deflater::new(method.level)?),
            CompressionAlgorithm::Zstd => {
                let level = i32::try_from(method.level).unwrap_or(i32::MAX);
                Codec::Zstd(zstd::bulk::Compressor::new(level)?)
            }
        };
        Ok(Packer { codec, method, cache })
    }

    /// Compresses a block, or takes over what it was compressed to before; into `out` if possible.
    pub(super) fn pack(&mut self, block: Arc<Block>, mut out: Vec<u8>) -> io::Result<Packed> {
        let mut sum = crc32fast::Hasher::new();
        if matches!(self.codec, Codec::Plain) {
            return Ok(Packed { bytes: PackedBytes::Same(block), sum, cached_as: None });
        }
        if matches!(self.codec, Codec::Gzip(_)) {
            sum.update(block.bytes());
        }
        let Some(cache) = self.cache else {
            self.compress(block.bytes(), &mut out)?;
            return Ok(Packed { bytes: PackedBytes::Own(out), sum, cached_as: None });
        };
        let key = *blake3::keyed_hash(&self.method.cache_key, block.bytes()).as_bytes();
        let packed_sum = match cache.get(&key, &mut out) {
            Some(found) => found,
            None => {
                self.compress(block.bytes(), &mut out)?;
                crc32fast::hash(&out)
            }
        };
        Ok(Packed { bytes: PackedBytes::Own(out), sum, cached_as: Some((key, packed_sum)) })
    }

    fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.codec {
            Codec::Plain => block.clone_into(out),
            Codec::Gzip(deflater) => deflater.block(block, out)?,
            Codec::Zstd(compressor) => {
                out.clear();
                out.reserve(zstd::zstd_safe::compress_bound(block.len()));
                compressor.compress_to_buffer(block, out)?;
            }
        }
        Ok(())
    }
}

/// Puts packed blocks one behind another.
pub(super) struct Joiner {
    out: BlobWriter,
    gzip: bool,
    sum: crc32fast::Hasher,
    rows: Vec<Row>,
}

impl Joiner {
    /// Writes what comes before the first block.
    pub(super) fn new(mut out: BlobWriter, method: &Method) -> io::Result<Self> {
        let gzip = method.algorithm == CompressionAlgorithm::Gzip;
        if gzip {
            out.write_all(&GZIP_HEADER)?;
        }
        Ok(Joiner { out, gzip, sum: crc32fast::Hasher::new(), rows: Vec::new() })
    }

    /// Writes the next block.
    pub(super) fn add(&mut self, packed: &Packed) -> io::Result<()> {
        let bytes = match &packed.bytes {
            PackedBytes::Same(block) => block.bytes(),
            PackedBytes::Own(bytes) => bytes,
        };
        self.sum.combine(&packed.sum);
        if let Some((key, sum)) = packed.cached_as {
            self.rows.push(Row { key, offset: self.out.size(), size: bytes.len() as u32, sum });
        }
        self.out.write_all(bytes)
    }

    /// Writes what comes behind the last block, of `size` bytes in all before compression. Gives the
    /// blob and where its blocks lie.
    pub(super) fn finish(mut self, size: u64) -> io::Result<(BlobWriter, Vec<Row>)> {
        if self.gzip {
            self.out.write_all(&GZIP_LAST_BLOCK)?;
            self.out.write_all(&self.sum.finalize().to_le_bytes())?;
            // The format keeps the size modulo 2^32.
            self.out.write_all(&(size as u32).to_le_bytes())?;
        }
        Ok((self.out, self.rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::layer::deflate::tests::sample;

    /// As for gzip in `deflate`: when this fails, `GENERATION` needs another value.
    #[test]
    fn zstd_is_that_of_this_generation() -> io::Result<()> {
        let method = Method::new(CompressionAlgorithm::Zstd, None);
        let mut packed = vec![1; 10];
        Packer::new(&method, None)?.compress(&sample(300_000, 0), &mut packed)?;
        assert_eq!(Digest::of(&packed).short(), "f131331b1323");
        Ok(())
    }
}
