//! Layers against independent tools and against themselves.

mod bare;
mod costs;
mod deletions;

use std::io::{self, Cursor, Read, Write as _};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use crate::compress::CompressionAlgorithm;
use crate::digest::DiffId;
use crate::store::Store;

use super::*;

struct Bytes;

impl ContentSource for Bytes {
    fn open(&self, _: usize, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(entry.path.clone())))
    }
}

fn options(compression: CompressionAlgorithm) -> WriteOptions {
    WriteOptions { compression, level: None, threads: 2, clamp_mtime: None }
}

fn meta(mode: u32) -> Metadata {
    Metadata { mode, uid: 1, gid: 2, mtime: 1_700_000_000, xattrs: Vec::new() }
}

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry { path: path.to_vec(), kind, meta: meta(0o755), offset: 0 }
}

/// A file whose content is its own path.
fn file(path: &[u8]) -> Entry {
    entry(path, EntryKind::File { size: path.len() as u64, digest: None })
}

fn whiteout(path: &[u8], kind: EntryKind) -> Entry {
    let meta = Metadata { mode: 0, uid: 0, gid: 0, mtime: 0, xattrs: Vec::new() };
    Entry { path: path.to_vec(), kind, meta, offset: 0 }
}

fn sample() -> Vec<Entry> {
    let long = [&[b'd'; 90][..], b"/", &[b'f'; 120][..]].concat();
    let mut special = file(b"special");
    special.meta.mode = 0o4711;
    special.meta.uid = 3_000_000;
    special.meta.mtime = -5;
    special.meta.xattrs = vec![(b"user.a".to_vec(), b"\x00b=\n".to_vec())];
    vec![
        entry(b"a", EntryKind::Dir),
        file(b"a/x"),
        entry(b"a/y", EntryKind::Hardlink(b"a/x".to_vec())),
        whiteout(b"a/gone", EntryKind::Whiteout),
        entry(&long[..90], EntryKind::Dir),
        file(&long),
        entry(b"l", EntryKind::Symlink([b'/', b't'].repeat(80))),
        entry(b"p", EntryKind::Fifo),
        special,
        file("\u{fc}mlaut".as_bytes()),
        file(b"raw\xff"),
        entry(b"z", EntryKind::CharDevice { major: 1, minor: 3 }),
    ]
}

fn plain_tar(entries: Vec<Entry>) -> Result<(Vec<u8>, Layer), LayerError> {
    let dir = tempfile::tempdir().map_err(LayerError::Stream)?;
    let store = Store::open(dir.path())?;
    let layer = write_layer(&store, entries, &Bytes, &options(CompressionAlgorithm::Uncompressed))?;
    let bytes = store.read_blob(&layer.blob.digest)?.unwrap_or_default();
    Ok((bytes, layer))
}

#[test]
fn no_entries_make_the_well_known_empty_layer() -> Result<(), LayerError> {
    let (bytes, layer) = plain_tar(Vec::new())?;
    assert_eq!((bytes.len(), layer.diff_id), (1024, DiffId::empty()));
    Ok(())
}

#[test]
fn gnu_tar_lists_what_was_written() -> Result<(), Box<dyn std::error::Error>> {
    let (bytes, _) = plain_tar(sample())?;
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--utc", "--full-time", "-tvf", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env("LC_ALL", "C.UTF-8")
        .spawn()?;
    tar.stdin.take().ok_or("no pipe")?.write_all(&bytes)?;
    let output = tar.wait_with_output()?;
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in [
        "drwxr-xr-x 1/2 ",
        " a/x\n",
        "a/y link to a/x",
        "a/.wh.gone",
        "-rws--x--x 3000000/2 ",
        "1969-12-31 23:59:55 special",
        "prwxr-xr-x 1/2",
        "1,3 ",
        "raw\\377",
    ] {
        assert!(text.contains(expected), "{expected:?} not in\n{text}");
    }
    assert_eq!(text.lines().count(), sample().len());
    Ok(())
}

#[test]
fn what_is_written_reads_back_the_same() -> Result<(), LayerError> {
    let (bytes, layer) = plain_tar(sample())?;
    let back = read_index(&bytes[..], None)?;
    assert_eq!(back.diff_id, layer.diff_id);
    let sorted = |entries: &[Entry]| {
        let mut entries = entries.to_vec();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    };
    assert_eq!(sorted(&back.index.entries), sorted(&layer.index.entries));
    Ok(())
}

#[test]
fn every_compression_has_the_same_diff_id_and_recompresses() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path())?;
    let gzip = write_layer(&store, sample(), &Bytes, &options(CompressionAlgorithm::Gzip))?;
    let zstd = recompress(
        &store,
        &gzip.diff_id,
        &options(CompressionAlgorithm::Zstd),
        &crate::cancel::Cancel::new()?,
    )?;
    let direct = write_layer(&store, sample(), &Bytes, &options(CompressionAlgorithm::Zstd))?;
    assert_eq!(direct.diff_id, gzip.diff_id);
    assert_eq!(direct.blob, zstd);
    assert_eq!(load_layer(&store, &gzip.diff_id)?.map(|record| record.blobs.len()), Some(2));
    let index = load_index(&store, &gzip.diff_id)?.ok_or("no index")?;
    assert_eq!(*index, *gzip.index);
    let x = index.entries.iter().find(|entry| entry.path == b"a/x").ok_or("no a/x")?;
    assert_eq!(read_file(&store, &gzip.diff_id, x.offset, 3, 10)?, b"a/x");
    Ok(())
}

#[test]
fn a_file_that_changes_its_size_is_an_error() {
    for size in [2, 9] {
        let mut grown = file(b"four");
        grown.kind = EntryKind::File { size, digest: None };
        assert!(matches!(plain_tar(vec![grown]), Err(LayerError::Changed { .. })));
    }
}

fn unpack_entries(entries: Vec<Entry>) -> Result<(tempfile::TempDir, Unpacked), LayerError> {
    let (bytes, _) = plain_tar(entries)?;
    unpack_bytes(&bytes)
}

fn unpack_bytes(bytes: &[u8]) -> Result<(tempfile::TempDir, Unpacked), LayerError> {
    let dir = tempfile::tempdir().map_err(LayerError::Stream)?;
    let ids = if rustix::process::geteuid().is_root() { OnDiskIds::Keep } else { OnDiskIds::AllToSelf };
    let options = UnpackOptions { ids, ..UnpackOptions::default() };
    let unpacked = unpack(bytes, dir.path(), &NoParent, &options)?;
    Ok((dir, unpacked))
}

/// A parent that has everything, so that deletions are kept.
struct Everything;

impl ParentView for Everything {
    fn node(&self, _: &[u8]) -> Option<ParentNode> {
        Some(ParentNode { kind: ParentKind::Dir, meta: meta(0) })
    }
}

#[test]
fn unpacked_layers_give_their_entries_back() -> Result<(), LayerError> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: owners need root");
        return Ok(());
    }
    let (dir, unpacked) = unpack_entries(sample())?;
    let (again, content) = diff_upper(dir.path(), &Everything, super::diff::Owners::OnDisk)?;
    let strip = |entries: &[Entry]| {
        let mut all: Vec<_> = entries
            .iter()
            .map(|entry| {
                let kind = match &entry.kind {
                    EntryKind::File { size, .. } => EntryKind::File { size: *size, digest: None },
                    other => other.clone(),
                };
                (entry.path.clone(), kind, entry.meta.clone())
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let mut expected = strip(&unpacked.index.entries);
    for (_, kind, meta) in &mut expected {
        match kind {
            EntryKind::Symlink(_) => meta.mode = 0o777,
            EntryKind::Hardlink(_) | EntryKind::Whiteout => {}
            _ => {}
        }
    }
    let mut got = strip(&again);
    got.retain(|(_, kind, _)| !matches!(kind, EntryKind::Opaque));
    assert_eq!(got, expected);
    let mut text = Vec::new();
    content.open(0, &file(b"a/x")).and_then(|mut f| f.read_to_end(&mut text)).map_err(LayerError::Stream)?;
    assert_eq!(text, b"a/x");
    Ok(())
}

/// A hand-made archive: name, type, link.
fn hostile(rows: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, flag, link) in rows {
        let mut header = tar::Header::new_ustar();
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name);
        raw[157..157 + link.len()].copy_from_slice(link);
        raw[156] = *flag;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(if *flag == b'0' { 4 } else { 0 });
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        if *flag == b'0' {
            let mut block = [0u8; 512];
            block[..4].copy_from_slice(b"evil");
            out.extend_from_slice(&block);
        }
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

#[test]
fn archives_cannot_write_outside_their_directory() -> Result<(), Box<dyn std::error::Error>> {
    let outside = tempfile::tempdir()?;
    let target = outside.path().as_os_str().as_encoded_bytes();
    let attacks: Vec<Vec<(&[u8], u8, &[u8])>> = vec![
        vec![(b"../evil", b'0', b"")],
        vec![(b"a/../../evil", b'0', b"")],
        vec![(b"l", b'2', target), (b"l/evil", b'0', b"")],
        vec![(b"l", b'2', b"../../../../../../../../../../.."), (b"l/tmp/evil", b'0', b"")],
        vec![(b"h", b'1', b"/etc/passwd")],
        vec![(b"h", b'1', b"../../etc/passwd")],
        vec![(b"l", b'2', b"/etc/passwd"), (b"h", b'1', b"l"), (b"h", b'0', b"")],
        vec![(b"l", b'2', b"/etc/passwd"), (b"l", b'0', b"")],
        vec![(b"/etc/rbuild-evil", b'0', b"")],
        vec![(b"c", b'3', b"")],
        vec![(b".wh..", b'0', b"")],
        vec![(b".wh...", b'0', b"")],
        vec![(b"l", b'2', target), (b"l/.wh.x", b'0', b"")],
        vec![(b"l", b'2', b"l"), (b"l/x", b'0', b"")],
        vec![(b"x", b'V', b"")],
    ];
    std::fs::write(outside.path().join("x"), "precious")?;
    let before = std::fs::read("/etc/passwd")?;
    for attack in attacks {
        let _ = unpack_bytes(&hostile(&attack));
        assert_eq!(std::fs::read_dir(outside.path())?.count(), 1, "{attack:?}");
        assert_eq!(std::fs::read_to_string(outside.path().join("x"))?, "precious");
        assert!(std::fs::read("/etc/passwd")? == before);
        assert!(!std::path::Path::new("/etc/rbuild-evil").exists());
    }
    Ok(())
}

#[test]
fn a_file_below_a_link_lands_where_the_link_leads_inside() -> Result<(), LayerError> {
    let (dir, unpacked) =
        unpack_bytes(&hostile(&[(b"real", b'5', b""), (b"lib", b'2', b"/real"), (b"lib/f", b'0', b"")]))?;
    assert!(dir.path().join("real/f").is_file());
    assert!(unpacked.index.entries.iter().any(|entry| entry.path == b"real/f"));
    Ok(())
}

#[test]
fn the_last_of_two_entries_with_one_name_wins() -> Result<(), LayerError> {
    let (dir, unpacked) =
        unpack_bytes(&hostile(&[(b"a", b'5', b""), (b"a/x", b'0', b""), (b"a", b'0', b"")]))?;
    assert!(dir.path().join("a").is_file());
    assert_eq!(unpacked.index.entries.len(), 1);
    Ok(())
}

#[test]
fn truncated_and_garbled_archives_are_errors() {
    let whole = hostile(&[(b"a", b'0', b""), (b"b", b'0', b"")]);
    for cut in [100, 512, 700, 1500] {
        assert!(read_index(&whole[..cut], None).is_err() || cut == 512 * 2, "{cut}");
    }
    let mut bad = whole;
    bad[0] ^= 1;
    assert!(matches!(read_index(&bad[..], None), Err(LayerError::Invalid(_))));
}

#[test]
fn streams_larger_than_the_limit_are_refused() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let options = UnpackOptions {
        ids: OnDiskIds::AllToSelf,
        limits: Limits { entries: 10, bytes: 1000, ..Limits::default() },
        ..Default::default()
    };
    let tar = hostile(&[(b"a", b'0', b""), (b"b", b'0', b"")]);
    assert!(unpack(&tar[..], dir.path(), &NoParent, &options).is_err());
    Ok(())
}

fn unpack_archive(bytes: &[u8], limit: u64) -> Result<(tempfile::TempDir, Unpacked), LayerError> {
    let dir = tempfile::tempdir().map_err(LayerError::Stream)?;
    let limits = Limits { entries: 100, bytes: limit, ..Limits::default() };
    let options =
        UnpackOptions { ids: OnDiskIds::AllToSelf, limits, loose: true, sparse: true, cancel: None };
    let unpacked = unpack(Cursor::new(bytes.to_vec()), dir.path(), &NoParent, &options)?;
    Ok((dir, unpacked))
}

/// What GNU tar writes in each of its forms, with more parts than one header holds.
#[test]
fn sparse_files_are_unpacked_with_their_holes() -> Result<(), Box<dyn std::error::Error>> {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    const SIZE: u64 = 40 << 20;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("sparse");
    let original = std::fs::File::create_new(&path)?;
    for part in 0..60 {
        original.write_all_at(format!("part {part}\n").as_bytes(), part << 18)?;
    }
    original.set_len(SIZE)?;
    let content = std::fs::read(&path)?;
    std::fs::File::create_new(dir.path().join("hole"))?.set_len(SIZE)?;
    std::fs::write(dir.path().join("after"), "after\n")?;
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let mut tar = Command::new("tar");
        tar.args(form).args(["-c", "--sparse", "-C"]).arg(dir.path()).args(["sparse", "hole", "after"]);
        let archive = tar.output()?.stdout;
        assert!((1000..1 << 20).contains(&archive.len()), "{form:?}: {} bytes", archive.len());
        let (out, unpacked) = unpack_archive(&archive, 100 << 20)?;
        let at = |name: &str| out.path().join(name);
        assert!(std::fs::read(at("sparse"))? == content, "{form:?}");
        let (sparse, hole) = (std::fs::metadata(at("sparse"))?, std::fs::metadata(at("hole"))?);
        assert_eq!(
            (hole.len(), std::fs::read_to_string(at("after"))?.as_str()),
            (SIZE, "after\n"),
            "{form:?}"
        );
        assert!(sparse.blocks() < 10_000 && hole.blocks() < 100, "{form:?}: {} blocks", sparse.blocks());
        let digest = Some(crate::digest::Digest::of(&content));
        let expected = EntryKind::File { size: SIZE, digest };
        assert!(unpacked.index.entries.iter().any(|entry| entry.path == b"sparse" && entry.kind == expected));
        let refused = unpack_archive(&archive, 70 << 20).map_err(|error| error.to_string());
        assert!(refused.is_err_and(|error| error.contains("limit")), "{form:?}");
        let as_layer = unpack_bytes(&archive).map_err(|error| error.to_string());
        assert!(as_layer.is_err_and(|error| error.contains("sparse files are not supported")), "{form:?}");
    }
    Ok(())
}

/// A header of GNU's oldest form with this table, size of the file and mark for more blocks.
fn old_sparse(parts: &[(u64, u64)], size: u64, more: bool, stored: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let _ = header.set_path("s");
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(stored.len() as u64);
    let raw = header.as_mut_bytes();
    let rows = parts.iter().flat_map(|(offset, length)| [*offset, *length]).chain([size]);
    let places = (386..386 + parts.len() * 24).step_by(12).chain([483]);
    for (place, number) in places.zip(rows) {
        raw[place..place + 12].copy_from_slice(&[&[0x80, 0, 0, 0][..], &number.to_be_bytes()].concat());
    }
    raw[482] = u8::from(more);
    header.set_cksum();
    let mut out = [&header.as_bytes()[..], stored].concat();
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let read = unpack_archive(&old_sparse(&[(3, 2)], 9, false, b"ab"), 1 << 20);
    let content = read.map(|(dir, _)| std::fs::read(dir.path().join("s")).unwrap_or_default());
    assert_eq!(content.ok().as_deref(), Some(&b"\0\0\0ab\0\0\0\0"[..]));
    for (archive, reason) in [
        (old_sparse(&[(0, 2), (1, 2)], 9, false, b"abcd"), "overlap"),
        (old_sparse(&[(4, 2), (0, 2)], 9, false, b"abcd"), "order"),
        (old_sparse(&[(8, 2)], 9, false, b"ab"), "beyond"),
        (old_sparse(&[(i64::MAX as u64, 2)], i64::MAX as u64, false, b"ab"), "beyond"),
        (old_sparse(&[(0, 2)], 9, false, b"abcd"), "does not hold"),
        (old_sparse(&[(0, 2)], i64::MAX as u64, false, b"ab"), "limit"),
        (old_sparse(&[(0, 2)], 9, true, &[0xff; 512]), "header"),
    ] {
        let refused = unpack_archive(&archive, 1 << 20).map_err(|error| error.to_string());
        assert!(refused.as_ref().is_err_and(|error| error.contains(reason)), "{reason}: {:?}", refused.err());
    }
    let mut endless = old_sparse(&[], 9, true, b"");
    endless.resize(4 << 20, 0);
    for block in endless[512..].as_chunks_mut::<512>().0 {
        block[504] = 1;
    }
    assert!(unpack_archive(&endless, 1 << 30).is_err_and(|error| error.to_string().contains("does not end")));
}

fn arbitrary_entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = proptest::collection::vec(1u8..=255, 1..150)
        .prop_map(|bytes| bytes.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect::<Vec<u8>>())
        .prop_filter("no reserved names", |name| !name.starts_with(b".wh.") && name != b"." && name != b"..");
    let meta = (0u32..0o10000, any::<u32>(), any::<u32>(), -1_000_000i64..10_000_000_000);
    proptest::collection::btree_map(name, (meta, 0u8..4), 0..12).prop_map(|rows| {
        rows.into_iter()
            .map(|(path, ((mode, uid, gid, mtime), kind))| {
                let kind = match kind {
                    0 => EntryKind::Dir,
                    1 => EntryKind::Fifo,
                    2 => EntryKind::Symlink(b"t".to_vec()),
                    _ => EntryKind::File { size: path.len() as u64, digest: None },
                };
                Entry { path, kind, meta: Metadata { mode, uid, gid, mtime, xattrs: vec![] }, offset: 0 }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_list_of_entries_reads_back(entries in arbitrary_entries()) {
        let (bytes, layer) = plain_tar(entries).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let back = read_index(&bytes[..], None).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&back.index, &*layer.index);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = read_index(&bytes[..], None);
    }
}
