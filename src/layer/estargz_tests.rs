//! A reader of eStargz that believes nothing, written from the specification.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _, Write as _};

use super::estargz::{NO_PREFETCH, TOC_DIGEST, TOC_NAME, Toc, TocEntry, UNCOMPRESSED_SIZE, to_estargz};
use super::{Entry, EntryKind, Metadata, WriteOptions, load_layer, read_index, recompress, write_layer};
use crate::compress::CompressionAlgorithm;
use crate::digest::{DiffId, Digest};
use crate::store::Store;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

struct Files(BTreeMap<Vec<u8>, Vec<u8>>);

impl super::ContentSource for Files {
    fn open(&self, _: usize, entry: &Entry) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        Ok(Box::new(Cursor::new(self.0.get(&entry.path).cloned().unwrap_or_default())))
    }
}

fn store() -> Outcome<(tempfile::TempDir, Store)> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    Ok((dir, store))
}

/// A layer of every kind of entry, with files of awkward sizes.
fn layer(store: &Store) -> Outcome<DiffId> {
    let mut files = BTreeMap::new();
    let mut entries = Vec::new();
    let mut add = |path: &str, kind: EntryKind, mode: u32, mtime: i64| {
        let xattrs = vec![(b"user.note".to_vec(), vec![0, 255])];
        let meta = Metadata { mode, uid: 3, gid: 4, mtime, xattrs };
        entries.push(Entry { path: path.into(), kind, meta, offset: 0 });
    };
    add("d", EntryKind::Dir, 0o755, 5);
    for (name, size) in [
        ("d/empty", 0),
        ("d/one", 1),
        ("d/block", 512),
        ("d/more", 513),
        ("d/big", (4 << 20) * 2),
        ("d/bigger", (4 << 20) + 7),
    ] {
        let content: Vec<u8> = (0..size).map(|at: usize| (at * 7 + at / 251) as u8).collect();
        add(name, EntryKind::File { size: size as u64, digest: None }, 0o4711, 1_700_000_000);
        files.insert(name.as_bytes().to_vec(), content);
    }
    add("d/hard", EntryKind::Hardlink(b"d/one".to_vec()), 0o644, 0);
    add("d/link", EntryKind::Symlink(b"../etc".to_vec()), 0o777, 0);
    add("d/null", EntryKind::CharDevice { major: 1, minor: 3 }, 0o666, 0);
    add("d/pipe", EntryKind::Fifo, 0o600, -1);
    add(&format!("d/{}", "long".repeat(40)), EntryKind::File { size: 0, digest: None }, 0o600, 0);
    entries.push(Entry {
        path: "gone".into(),
        kind: EntryKind::Whiteout,
        meta: Metadata::default(),
        offset: 0,
    });
    let options =
        WriteOptions { compression: CompressionAlgorithm::Gzip, level: None, threads: 2, clamp_mtime: None };
    Ok(write_layer(store, entries, &Files(files), &options)?.diff_id)
}

/// Offset of the table, from the footer.
fn footer(blob: &[u8]) -> Outcome<usize> {
    let footer = &blob[blob.len() - 51..];
    assert_eq!(&footer[..4], [0x1f, 0x8b, 8, 4]);
    assert_eq!(footer[10..16], [26, 0, b'S', b'G', 22, 0]);
    assert_eq!(&footer[32..38], b"STARGZ");
    assert_eq!(footer[38..43], [1, 0, 0, 255, 255]);
    assert_eq!(footer[43..], [0; 8]);
    Ok(usize::from_str_radix(std::str::from_utf8(&footer[16..32])?, 16)?)
}

fn member(blob: &[u8], at: u64) -> Outcome<Vec<u8>> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&blob[usize::try_from(at)?..]).read_to_end(&mut out)?;
    Ok(out)
}

fn read_toc(blob: &[u8], annotations: &BTreeMap<String, String>) -> Outcome<Toc> {
    let tar = member(blob, footer(blob)? as u64)?;
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entries = archive.entries()?;
    let mut entry = entries.next().ok_or("no table")??;
    assert_eq!(entry.path_bytes(), TOC_NAME.as_bytes());
    let mut json = Vec::new();
    entry.read_to_end(&mut json)?;
    assert_eq!(annotations.get(TOC_DIGEST), Some(&Digest::of(&json).to_string()));
    assert!(entries.next().is_none(), "the table is the last entry");
    Ok(serde_json::from_slice(&json)?)
}

/// The files of the table by their chunks, each verified.
fn files(blob: &[u8], toc: &Toc) -> Outcome<BTreeMap<String, Vec<u8>>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut open: Option<&TocEntry> = None;
    for (at, entry) in toc.entries.iter().enumerate() {
        let is_chunk = entry.kind == "chunk";
        if !is_chunk && entry.kind != "reg" {
            continue;
        }
        let content = files.entry(entry.name.clone()).or_default();
        if entry.kind == "reg" {
            assert!(content.is_empty());
            open = Some(entry);
            if entry.size == 0 {
                continue;
            }
        }
        let whole = open.ok_or("a chunk without a file")?;
        assert_eq!((entry.chunk_offset, &entry.name), (content.len() as u64, &whole.name));
        let next = toc.entries.get(at + 1).is_some_and(|next| next.kind == "chunk");
        assert_eq!(entry.chunk_size == 0, !next, "the last chunk has no size");
        let size = if next { entry.chunk_size } else { whole.size - content.len() as u64 };
        assert_eq!(&blob[entry.offset as usize..][..3], [0x1f, 0x8b, 8]);
        let chunk = member(blob, entry.offset)?[..usize::try_from(size)?].to_vec();
        assert_eq!(entry.chunk_digest, Digest::of(&chunk).to_string());
        content.extend(chunk);
        if !next {
            assert_eq!(whole.digest, Digest::of(content).to_string());
            assert_eq!(whole.size, content.len() as u64);
        }
    }
    Ok(files)
}

#[test]
fn every_file_is_found_by_the_table() -> Outcome {
    let (_dir, store) = store()?;
    let diff_id = layer(&store)?;
    let converted = to_estargz(&store, &diff_id, None)?;
    assert_eq!(to_estargz(&store, &diff_id, None)?, converted);
    let blob = store.read_blob(&converted.blob.digest)?.ok_or("no blob")?;
    let toc = read_toc(&blob, &converted.annotations)?;
    assert_eq!(toc.version, 1);
    let found = files(&blob, &toc)?;

    // The same by plain gzip and tar.
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut plain)?;
    assert_eq!(DiffId(Digest::of(&plain)), converted.diff_id);
    assert_eq!(converted.annotations.get(UNCOMPRESSED_SIZE), Some(&plain.len().to_string()));
    let mut names = Vec::new();
    for entry in tar::Archive::new(&plain[..]).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8(entry.path_bytes().into_owned())?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if name != TOC_NAME && entry.header().entry_type().is_file() {
            assert_eq!(found.get(&name), Some(&content), "{name}");
        }
        names.push(name);
    }
    let listed: Vec<&String> =
        toc.entries.iter().filter(|entry| entry.kind != "chunk").map(|entry| &entry.name).collect();
    assert_eq!(names.first().map(String::as_str), Some(NO_PREFETCH));
    assert_eq!(names.last().map(String::as_str), Some(TOC_NAME));
    assert_eq!(names[..names.len() - 1].iter().collect::<Vec<_>>(), listed);
    assert_eq!(found.get(NO_PREFETCH), Some(&vec![0xf]));

    let by_name = |name: &str| toc.entries.iter().find(|entry| entry.name == name).ok_or("missing");
    let one = by_name("d/one")?;
    assert_eq!((one.mode, one.uid, one.gid, one.modtime.as_str()), (0o4711, 3, 4, "2023-11-14T22:13:20Z"));
    assert_eq!(one.xattrs.get("user.note").map(String::as_str), Some("AP8="));
    assert_eq!(by_name("d/")?.kind, "dir");
    let device = by_name("d/null")?;
    assert_eq!((device.kind.as_str(), device.dev_major, device.dev_minor), ("char", 1, 3));
    assert_eq!(by_name("d/hard")?.link_name, "d/one");
    assert_eq!(by_name("d/link")?.link_name, "../etc");
    assert_eq!(by_name("d/pipe")?.modtime, "1969-12-31T23:59:59Z");
    assert_eq!(by_name(".wh.gone")?.kind, "reg");
    assert_eq!(toc.entries.iter().filter(|entry| entry.kind == "chunk").count(), 2);
    Ok(())
}

#[test]
fn the_converted_layer_is_a_layer_like_others() -> Outcome {
    let (_dir, store) = store()?;
    let diff_id = layer(&store)?;
    let before = super::rebuild_index(&store, &diff_id)?.ok_or("no index")?;
    let converted = to_estargz(&store, &diff_id, Some(9))?;
    let unpacked = read_index(&store.read_blob(&converted.blob.digest)?.ok_or("no blob")?[..], None)?;
    assert_eq!(unpacked.diff_id, converted.diff_id);
    let own = |path: &[u8]| path == TOC_NAME.as_bytes() || path == NO_PREFETCH.as_bytes();
    let kept: Vec<_> = unpacked.index.entries.iter().filter(|entry| !own(&entry.path)).collect();
    assert_eq!(kept.len(), before.entries.len());
    for entry in &before.entries {
        let same = kept
            .iter()
            .any(|kept| (&kept.path, &kept.kind, &kept.meta) == (&entry.path, &entry.kind, &entry.meta));
        assert!(same, "{:?}", String::from_utf8_lossy(&entry.path));
    }

    // Converting again leaves out the entries of the first time; other compressions stay possible.
    let again = to_estargz(&store, &converted.diff_id, Some(9))?;
    assert_eq!((again.diff_id, again.blob.digest), (converted.diff_id, converted.blob.digest));
    let options =
        WriteOptions { compression: CompressionAlgorithm::Zstd, level: None, threads: 1, clamp_mtime: None };
    recompress(&store, &converted.diff_id, &options, &crate::cancel::Cancel::new()?)?;
    assert_eq!(load_layer(&store, &converted.diff_id)?.map(|record| record.blobs.len()), Some(2));
    Ok(())
}

#[test]
fn a_damaged_layer_is_not_converted() -> Outcome {
    let (_dir, store) = store()?;
    let diff_id = DiffId(Digest::of(b"something else"));
    let mut writer = store.blob_writer()?;
    writer.write_all(&[0; 1024])?;
    let (digest, size) = writer.finish()?;
    let blob = super::BlobInfo { digest, size, compression: CompressionAlgorithm::Uncompressed };
    super::add_blob(&store, &diff_id, 1024, &blob)?;
    let error = to_estargz(&store, &diff_id, None).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("damaged")));
    Ok(())
}
