//! Compressed blocks of earlier layers, found by what was compressed.
//!
//! Blocks are not kept a second time: a table says where in which blob one lies. A blob that is gone,
//! or a row that does not fit what the blob has, means that the block is compressed again.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;
use crate::store::Store;

/// Digest of a block's bytes and of how they are compressed.
pub(super) type Key = [u8; 32];

const MAGIC: &[u8; 8] = b"rbblock1";
/// The magic, the number of rows, a checksum, the blob.
const HEAD: usize = 8 + 4 + 4 + 32;
const ROW: usize = 32 + 8 + 4 + 4;
/// Bytes of the table that make a writer drop its older half: rows for about 150 GB of layers.
const TABLE_LIMIT: usize = 8 << 20;

/// Where a compressed block lies in its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub key: Key,
    pub offset: u64,
    pub size: u32,
    /// CRC-32 of the compressed bytes.
    pub sum: u32,
}

/// The table as it was when this was made.
#[derive(Debug)]
pub(super) struct BlockCache {
    store: Store,
    places: HashMap<Key, (Digest, Row)>,
    blobs: Mutex<HashMap<Digest, Option<Arc<File>>>>,
}

impl BlockCache {
    /// Reads the table; one that cannot be read is empty.
    pub(super) fn load(store: &Store) -> Self {
        let table = store.block_table().ok().flatten().unwrap_or_default();
        let mut places = HashMap::with_capacity(table.len() / ROW);
        for (blob, rows) in frames(&table).0 {
            // Later rows replace earlier ones: the blob made last is the likeliest to stay.
            places.extend(rows.as_chunks::<ROW>().0.iter().map(|row| {
                let row = parse(row);
                (row.key, (blob, row))
            }));
        }
        BlockCache { store: store.clone(), places, blobs: Mutex::default() }
    }

    /// A block's compressed bytes, into `out`, and their checksum. `out` holds anything where there is none.
    pub(super) fn get(&self, key: &Key, out: &mut Vec<u8>) -> Option<u32> {
        let (blob, row) = self.places.get(key)?;
        let file = self.blob(blob)?;
        out.resize(row.size as usize, 0);
        file.read_exact_at(out, row.offset).ok()?;
        (crc32fast::hash(out) == row.sum).then_some(row.sum)
    }

    fn blob(&self, digest: &Digest) -> Option<Arc<File>> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || self.store.open_blob(digest).ok().flatten().map(Arc::new);
        blobs.entry(*digest).or_insert_with(open).clone()
    }
}

/// Adds the blocks of a blob. A failure costs time later and nothing else.
pub(super) fn remember(store: &Store, blob: &Digest, rows: &[Row]) {
    let frame = render(blob, rows);
    let table = store.block_table().ok().flatten().unwrap_or_default();
    let (known, whole) = frames(&table);
    if whole && table.len() + frame.len() <= TABLE_LIMIT {
        let _ = store.append_block_table(&frame);
        return;
    }
    let _ = store.put_block_table(&newest(store, &known, frame, TABLE_LIMIT / 2));
}

/// The newest frames of blobs that are still there, `last` behind them, `limit` bytes at most unless
/// `last` alone has more.
fn newest(store: &Store, known: &[(Digest, &[u8])], last: Vec<u8>, limit: usize) -> Vec<u8> {
    let mut kept = vec![last];
    let mut size = kept.iter().map(Vec::len).sum::<usize>();
    for (blob, rows) in known.iter().rev() {
        size += HEAD + rows.len();
        if size > limit {
            break;
        }
        if store.has_blob(blob) {
            kept.push(frame(blob, rows));
        }
    }
    kept.reverse();
    kept.concat()
}

fn render(blob: &Digest, rows: &[Row]) -> Vec<u8> {
    let mut body = Vec::with_capacity(rows.len() * ROW);
    for row in rows {
        body.extend_from_slice(&row.key);
        body.extend_from_slice(&row.offset.to_le_bytes());
        body.extend_from_slice(&row.size.to_le_bytes());
        body.extend_from_slice(&row.sum.to_le_bytes());
    }
    frame(blob, &body)
}

fn frame(blob: &Digest, rows: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + rows.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&((rows.len() / ROW) as u32).to_le_bytes());
    out.extend_from_slice(&checksum(blob.raw(), rows).to_le_bytes());
    out.extend_from_slice(blob.raw());
    out.extend_from_slice(rows);
    out
}

fn checksum(blob: &[u8; 32], rows: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(blob);
    sum.update(rows);
    sum.finalize()
}

/// The blobs of a table with their rows, and whether that is all there is.
fn frames(mut table: &[u8]) -> (Vec<(Digest, &[u8])>, bool) {
    let mut found = Vec::new();
    while !table.is_empty() {
        let Some((blob, rows, rest)) = first_frame(table) else { return (found, false) };
        found.push((blob, rows));
        table = rest;
    }
    (found, true)
}

fn first_frame(table: &[u8]) -> Option<(Digest, &[u8], &[u8])> {
    let rest = table.strip_prefix(MAGIC)?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let (blob, rest) = rest.split_first_chunk::<32>()?;
    let size = (u32::from_le_bytes(*count) as usize).checked_mul(ROW)?;
    let (rows, rest) = rest.split_at_checked(size)?;
    (checksum(blob, rows) == u32::from_le_bytes(*sum)).then_some((Digest::from_raw(*blob), rows, rest))
}

fn parse(row: &[u8; ROW]) -> Row {
    let mut parsed = Row { key: [0; 32], offset: 0, size: 0, sum: 0 };
    let (mut offset, mut size, mut sum) = ([0; 8], [0; 4], [0; 4]);
    parsed.key.copy_from_slice(&row[..32]);
    offset.copy_from_slice(&row[32..40]);
    size.copy_from_slice(&row[40..44]);
    sum.copy_from_slice(&row[44..]);
    parsed.offset = u64::from_le_bytes(offset);
    parsed.size = u32::from_le_bytes(size);
    parsed.sum = u32::from_le_bytes(sum);
    parsed
}

/// The keys of a table in its order.
#[cfg(test)]
pub(super) fn keys(table: &[u8]) -> Vec<Key> {
    let rows =
        |(_, rows): &(Digest, &[u8])| rows.as_chunks::<ROW>().0.iter().map(|row| parse(row).key).collect();
    frames(table).0.iter().flat_map(|frame| -> Vec<Key> { rows(frame) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u8, content: &[u8]) -> Row {
        let sum = crc32fast::hash(content);
        Row { key: [number; 32], offset: u64::from(number), size: content.len() as u32, sum }
    }

    #[test]
    fn a_block_is_found_unless_its_blob_is_gone_or_another() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let blob = store.put_blob(b"0123456789")?;
        remember(&store, &blob, &[row(2, b"234"), row(3, b"other"), row(9, b"9 and more")]);
        let cache = BlockCache::load(&store);
        let mut out = vec![7; 20];
        assert_eq!(cache.get(&[2; 32], &mut out), Some(crc32fast::hash(b"234")));
        assert_eq!(out, b"234");
        for absent in [3, 4, 9] {
            assert_eq!(cache.get(&[absent; 32], &mut out), None);
        }
        std::fs::remove_file(store.blob_path(&blob))?;
        assert_eq!(BlockCache::load(&store).get(&[2; 32], &mut out), None);
        Ok(())
    }

    #[test]
    fn a_table_cut_short_is_replaced_with_what_is_whole() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let blob = store.put_blob(b"0123456789")?;
        remember(&store, &blob, &[row(2, b"234")]);
        store.append_block_table(&render(&blob, &[row(3, b"345")])[..50])?;
        remember(&store, &blob, &[row(4, b"456")]);
        let table = store.block_table()?.unwrap_or_default();
        assert!(frames(&table).1);
        let cache = BlockCache::load(&store);
        assert!(
            cache.get(&[2; 32], &mut Vec::new()).is_some() && cache.get(&[4; 32], &mut Vec::new()).is_some()
        );
        Ok(())
    }

    #[test]
    fn the_oldest_rows_and_those_of_blobs_that_are_gone_go_first() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let (old, new) = (store.put_blob(b"old")?, store.put_blob(b"new")?);
        let rows = render(&old, &[row(1, b"")]);
        let rows = &rows[HEAD..];
        let known = [(old, rows), (Digest::of(b"gone"), rows), (new, rows)];
        let kept = newest(&store, &known, render(&new, &[row(2, b"")]), 3 * (HEAD + ROW));
        let blobs: Vec<Digest> = frames(&kept).0.iter().map(|frame| frame.0).collect();
        assert_eq!(blobs, [new, new]);
        Ok(())
    }
}
