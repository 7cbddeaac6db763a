//! eStargz: a gzip layer whose files can be fetched one by one (stargz-snapshotter, docs/estargz.md).
//!
//! A finished layer's tar is cut at every file into gzip members of their own, and a table of contents
//! with their places comes behind. The table and a landmark are entries of the tar, so the result is
//! another layer: with a diff ID of its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use base64::Engine as _;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};

use crate::compress::CompressionAlgorithm;
use crate::digest::{DiffId, Digest, Hasher};
use crate::store::{BlobWriter, Edge, RecordKind, Recorded, Store};

use super::entry::{Entry, EntryKind, Metadata};
use super::error::LayerError;
use super::tar_read::{Header, TarReader};
use super::tar_write::{END, padding, write_header};
use super::unpack::open_plain;
use super::write::{BlobInfo, add_blob};

/// Annotation of the layer's descriptor: digest of the table of contents.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of the layer's descriptor: bytes of the uncompressed tar.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// Name of the table of contents in the tar.
pub const TOC_NAME: &str = "stargz.index.json";
/// Says that nothing is to be fetched ahead.
pub const NO_PREFETCH: &str = ".no.prefetch.landmark";
/// Ends what is to be fetched ahead, in layers made by others.
const PREFETCH: &str = ".prefetch.landmark";
/// What landmarks hold.
const LANDMARK: [u8; 1] = [0xf];

/// Bytes of a file that are compressed together.
const CHUNK: u64 = 4 << 20;
/// What `docker build` takes for gzip.
const LEVEL: u32 = 6;

/// A layer converted to eStargz, in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// Digest of its tar.
    pub diff_id: DiffId,
    /// The blob; to who knows no eStargz it is gzip.
    pub blob: BlobInfo,
    /// Annotations for its descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// The table of contents.
#[derive(Debug, Serialize, Deserialize)]
pub struct Toc {
    /// Always 1.
    pub version: u32,
    /// All entries but the table itself, and further chunks of large files.
    pub entries: Vec<TocEntry>,
}

/// One entry, or one more chunk of one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TocEntry {
    /// Name as stored.
    pub name: String,
    /// `dir`, `reg`, `symlink`, `hardlink`, `char`, `block`, `fifo` or `chunk`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// RFC 3339; empty for 1970.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub modtime: String,
    /// Target of a link.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major number of a device.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub dev_major: u32,
    /// Minor number of a device.
    #[serde(default, skip_serializing_if = "is_zero32")]
    pub dev_minor: u32,
    /// Extended attributes, in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Digest of the whole file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Where the chunk's gzip member begins in the blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// Where the chunk begins in the file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunk_offset: u64,
    /// Bytes of the chunk; 0 for the last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub chunk_size: u64,
    /// Digest of the chunk.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_zero32(value: &u32) -> bool {
    *value == 0
}

/// Converts a layer of the store. What was converted before is not converted again.
pub fn to_estargz(store: &Store, diff_id: &DiffId, level: Option<u32>) -> Result<Converted, LayerError> {
    let level = level.unwrap_or(LEVEL).min(9);
    let key = record_key(diff_id, level);
    if let Some(known) = store.record::<Converted>(&key)?
        && store.has_blob(&known.blob.digest)
    {
        return Ok(known);
    }
    let mut source = Hashed { inner: open_plain(store, diff_id)?, hasher: Hasher::new(), kept: None };
    let mut out = Out::new(store.blob_writer()?, level);
    let toc = out.copy(&mut source)?;
    let seen = DiffId(source.hasher.finish());
    if seen != *diff_id {
        let message = format!("layer {diff_id} is damaged in the store: it reads as {seen}");
        return Err(LayerError::Invalid(message));
    }
    let (toc_digest, diff_id, uncompressed_size, blob) = out.finish(&toc)?;
    let (digest, size) = blob.finish()?;
    let blob = BlobInfo { digest, size, compression: CompressionAlgorithm::Gzip };
    add_blob(store, &diff_id, uncompressed_size, &blob)?;
    let annotations = BTreeMap::from([
        (TOC_DIGEST.to_owned(), toc_digest.to_string()),
        (UNCOMPRESSED_SIZE.to_owned(), uncompressed_size.to_string()),
    ]);
    let converted = Converted { diff_id, blob, annotations };
    store.put_record(&key, &converted)?;
    Ok(converted)
}

impl Recorded for Converted {
    const KIND: RecordKind = RecordKind::Estargz;

    fn edges(&self) -> Vec<Edge> {
        vec![Edge::Layer(self.diff_id, None), Edge::Blob(self.blob.digest)]
    }

    fn note(&self) -> String {
        "eStargz form of a layer".into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

fn record_key(diff_id: &DiffId, level: u32) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(b"estargz-1");
    hasher.field(diff_id.to_string().as_bytes());
    hasher.field(level.to_string().as_bytes());
    hasher.finish()
}

/// Hashes what passes, and keeps it until it is taken: headers go into the result as they are.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    /// `None` where nothing is to be kept.
    kept: Option<Vec<u8>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.hasher.update(&buf[..count]);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&buf[..count]);
        }
        Ok(count)
    }
}

/// Counts the bytes of the blob.
struct Counted {
    blob: BlobWriter,
    position: u64,
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.blob.write(buf)?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The blob in the making: gzip members, one after the other.
struct Out {
    member: Option<GzEncoder<Counted>>,
    level: u32,
    hasher: Hasher,
    size: u64,
}

fn member(out: Counted, level: u32) -> GzEncoder<Counted> {
    // Nothing of this machine or moment, as in other layers.
    GzBuilder::new().mtime(0).operating_system(255).write(out, Compression::new(level))
}

fn failed(error: io::Error) -> LayerError {
    LayerError::Stream(error)
}

impl Out {
    fn new(blob: BlobWriter, level: u32) -> Self {
        let out = Counted { blob, position: 0 };
        Out { member: Some(member(out, level)), level, hasher: Hasher::new(), size: 0 }
    }

    /// Bytes of the tar.
    fn put(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        match &mut self.member {
            Some(member) => member.write_all(bytes).map_err(failed),
            None => Err(failed(io::Error::other("the blob was ended"))),
        }
    }

    /// Ends the current member; the next begins at the offset returned.
    fn cut(&mut self) -> Result<u64, LayerError> {
        let ended = self.member.take().map(GzEncoder::finish).transpose().map_err(failed)?;
        let out = ended.ok_or_else(|| failed(io::Error::other("the blob was ended")))?;
        let position = out.position;
        self.member = Some(member(out, self.level));
        Ok(position)
    }

    /// All entries of a tar, with the landmark before them.
    fn copy(&mut self, source: &mut Hashed<impl Read>) -> Result<Toc, LayerError> {
        let mut toc = Toc { version: 1, entries: Vec::new() };
        self.landmark(&mut toc)?;
        let mut reader = TarReader::new(source);
        // Padding of the file before, which the reader skips when it looks for the next header.
        let mut skipped = 0;
        loop {
            reader.get_mut().kept = Some(Vec::new());
            let next = reader.next()?;
            let kept = reader.get_mut().kept.take().unwrap_or_default();
            let Some(header) = next else { break };
            let raw = kept.get(skipped..).unwrap_or_default();
            let name = header.path.strip_prefix(b"./").unwrap_or(&header.path);
            let own = [TOC_NAME, NO_PREFETCH, PREFETCH].iter().any(|known| known.as_bytes() == name);
            if own {
                // Of a layer that was eStargz before.
                io::copy(&mut reader, &mut io::sink()).map_err(failed)?;
            } else {
                self.put(raw)?;
                self.file(&header, &mut reader, &mut toc)?;
            }
            skipped = padding(header.size);
        }
        reader.drain()?;
        Ok(toc)
    }

    fn landmark(&mut self, toc: &mut Toc) -> Result<(), LayerError> {
        self.small_file(NO_PREFETCH, &LANDMARK, Some(toc))
    }

    /// A file of our own, with its header.
    fn small_file(&mut self, name: &str, content: &[u8], toc: Option<&mut Toc>) -> Result<(), LayerError> {
        let size = content.len() as u64;
        let entry = Entry {
            path: name.into(),
            kind: EntryKind::File { size, digest: None },
            meta: Metadata { mode: 0o444, ..Metadata::default() },
            offset: 0,
        };
        let mut header = Vec::new();
        write_header(&mut header, &entry).map_err(failed)?;
        self.put(&header)?;
        if let Some(toc) = toc {
            let digest = Digest::of(content).to_string();
            toc.entries.push(TocEntry {
                name: name.to_owned(),
                kind: "reg".into(),
                size,
                mode: 0o444,
                offset: self.cut()?,
                digest: digest.clone(),
                chunk_digest: digest,
                ..TocEntry::default()
            });
        }
        self.put(content)?;
        self.put(&END[..padding(size)])
    }

    /// What follows a header, and its lines in the table.
    fn file(
        &mut self,
        header: &Header,
        reader: &mut TarReader<&mut Hashed<impl Read>>,
        toc: &mut Toc,
    ) -> Result<(), LayerError> {
        let mut entry = describe(header)?;
        if header.size == 0 {
            toc.entries.push(entry);
            return Ok(());
        }
        let first = toc.entries.len();
        let mut whole = Hasher::new();
        let mut done = 0;
        while done < header.size {
            let size = CHUNK.min(header.size - done);
            entry.offset = self.cut()?;
            entry.chunk_offset = done;
            entry.chunk_size = if done + size < header.size { size } else { 0 };
            entry.chunk_digest = self.chunk(reader, size, &mut whole)?.to_string();
            let name = entry.name.clone();
            toc.entries.push(std::mem::replace(
                &mut entry,
                TocEntry { name, kind: "chunk".into(), ..TocEntry::default() },
            ));
            done += size;
        }
        if let Some(entry) = toc.entries.get_mut(first) {
            entry.digest = whole.finish().to_string();
        }
        self.put(&END[..padding(header.size)])
    }

    fn chunk(
        &mut self,
        reader: &mut TarReader<&mut Hashed<impl Read>>,
        size: u64,
        whole: &mut Hasher,
    ) -> Result<Digest, LayerError> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = reader.read(&mut buffer[..most]).map_err(failed)?;
            if count == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            let bytes = &buffer[..count];
            hasher.update(bytes);
            whole.update(bytes);
            self.put(bytes)?;
            left -= count as u64;
        }
        Ok(hasher.finish())
    }

    /// The table, the tar's end, and the footer. Gives the digest of the table, the diff ID, the bytes of
    /// the tar, and the blob.
    fn finish(mut self, toc: &Toc) -> Result<(Digest, DiffId, u64, BlobWriter), LayerError> {
        let json = serde_json::to_vec(toc).map_err(|error| LayerError::Stream(error.into()))?;
        let place = self.cut()?;
        self.small_file(TOC_NAME, &json, None)?;
        self.put(&END)?;
        let ended = self.member.take().map(GzEncoder::finish).transpose().map_err(failed)?;
        let mut out = ended.ok_or_else(|| failed(io::Error::other("the blob was ended")))?;
        out.write_all(&footer(place)).map_err(failed)?;
        Ok((Digest::of(&json), DiffId(self.hasher.finish()), self.size, out.blob))
    }
}

/// An empty gzip member whose extra field says where the table's member begins.
fn footer(toc: u64) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0];
    out.extend_from_slice(format!("{toc:016x}STARGZ").as_bytes());
    // A last block, stored, of length 0; checksum and length of nothing.
    out.extend_from_slice(&[1, 0, 0, 255, 255]);
    out.extend_from_slice(&[0; 8]);
    out
}

fn describe(header: &Header) -> Result<TocEntry, LayerError> {
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| {
            let shown = String::from_utf8_lossy(bytes).into_owned();
            LayerError::Invalid(format!("{shown:?} is no UTF-8, which eStargz needs"))
        })
    };
    let kind = match header.flag {
        b'1' => "hardlink",
        b'2' => "symlink",
        b'3' => "char",
        b'4' => "block",
        b'5' => "dir",
        b'6' => "fifo",
        _ => "reg",
    };
    let is_device = matches!(header.flag, b'3' | b'4');
    let encode = |value: &[u8]| base64::engine::general_purpose::STANDARD.encode(value);
    let xattrs = header.xattrs.iter().map(|(name, value)| Ok((text(name)?, encode(value))));
    Ok(TocEntry {
        name: text(&header.path)?,
        kind: kind.into(),
        size: header.size,
        modtime: match header.mtime {
            0 => String::new(),
            time => crate::time::rfc3339(time, 0),
        },
        link_name: if matches!(header.flag, b'1' | b'2') { text(&header.link)? } else { String::new() },
        mode: header.mode,
        uid: header.uid,
        gid: header.gid,
        dev_major: if is_device { header.major } else { 0 },
        dev_minor: if is_device { header.minor } else { 0 },
        xattrs: xattrs.collect::<Result<_, LayerError>>()?,
        ..TocEntry::default()
    })
}
