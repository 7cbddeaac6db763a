//! Layers of many blocks: the same bytes from any number of threads and with or without a cache.

use std::io::{self, Cursor, Read, Write as _};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use crate::compress::CompressionAlgorithm;
use crate::digest::Digest;
use crate::store::Store;

use super::deflate::tests::sample;
use super::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Contents(Vec<Vec<u8>>);

impl ContentSource for Contents {
    fn open(&self, position: usize, _: &Entry) -> io::Result<Box<dyn Read + Send>> {
        let content = self.0.get(position).cloned();
        Ok(Box::new(Cursor::new(content.ok_or_else(|| io::Error::other("no such file"))?)))
    }
}

const COMPRESSIONS: [CompressionAlgorithm; 3] =
    [CompressionAlgorithm::Uncompressed, CompressionAlgorithm::Gzip, CompressionAlgorithm::Zstd];

fn options(compression: CompressionAlgorithm, threads: usize) -> WriteOptions {
    WriteOptions { compression, level: Some(1), threads, clamp_mtime: None }
}

fn entries(contents: &[Vec<u8>]) -> Vec<Entry> {
    let meta = Metadata { mode: 0o644, ..Metadata::default() };
    let entry = |(at, content): (usize, &Vec<u8>)| Entry {
        path: format!("file{at}").into_bytes(),
        kind: EntryKind::File { size: content.len() as u64, digest: None },
        meta: meta.clone(),
        offset: 0,
    };
    contents.iter().enumerate().map(entry).collect()
}

fn write(store: &Store, contents: &[Vec<u8>], options: &WriteOptions) -> Result<Layer> {
    Ok(write_layer(store, entries(contents), &Contents(contents.to_vec()), options)?)
}

fn fresh(contents: &[Vec<u8>], options: &WriteOptions) -> Result<Layer> {
    let dir = tempfile::tempdir()?;
    write(&Store::open(dir.path())?, contents, options)
}

/// About 12 MiB in files of many sizes, one of them large.
fn tree() -> Vec<Vec<u8>> {
    let mut files: Vec<_> = (0..60).map(|at| sample(at * 977 % 300_000 + 40_000, (at % 4) as u8)).collect();
    files.insert(20, sample(9_500_000, 3));
    files.insert(30, Vec::new());
    files
}

/// The bytes of a blob as another program reads them.
fn read_with(program: &str, store: &Store, blob: &Digest) -> Result<Vec<u8>> {
    let file = store.open_blob(blob)?.ok_or("no blob")?;
    let output = Command::new(program).arg("-dc").stdin(Stdio::from(file)).output()?;
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[test]
fn threads_and_cache_do_not_change_a_layer() -> Result<()> {
    let before = tree();
    let mut after = before.clone();
    after[7].push(b'x');
    after[20][5_000_000] ^= 1;
    for compression in COMPRESSIONS {
        let expected = fresh(&after, &options(compression, 1))?;
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        for threads in [2, 7] {
            assert_eq!(fresh(&after, &options(compression, threads))?.blob, expected.blob);
        }
        write(&store, &before, &options(compression, 3))?;
        let layer = write(&store, &after, &options(compression, 3))?;
        assert_eq!((layer.diff_id, &layer.blob), (expected.diff_id, &expected.blob));
        assert_eq!(*layer.index, *expected.index);
        for (entry, content) in layer.index.entries.iter().zip(&after) {
            assert!(
                matches!(entry.kind, EntryKind::File { digest, .. } if digest == Some(Digest::of(content)))
            );
        }
    }
    Ok(())
}

#[test]
fn the_blocks_of_unchanged_files_are_found_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path())?;
    let before = tree();
    let mut after = before.clone();
    after[40][0] ^= 1;
    let gzip = options(CompressionAlgorithm::Gzip, 2);
    write(&store, &before, &gzip)?;
    let rows = |store: &Store| -> Result<Vec<_>> {
        let table = store.block_table()?.ok_or("no table")?;
        Ok(block_cache::keys(&table))
    };
    let known = rows(&store)?;
    write(&store, &after, &gzip)?;
    let all = rows(&store)?;
    let (first, second) = all.split_at(known.len());
    let new = second.iter().filter(|key| !first.contains(key)).count();
    assert!(second.len() > 10 && new == 1, "{new} of {} blocks are new", second.len());
    Ok(())
}

#[test]
fn other_programs_read_many_blocks() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path())?;
    let plain = write(&store, &tree(), &options(CompressionAlgorithm::Uncompressed, 2))?;
    let expected = store.read_blob(&plain.blob.digest)?.ok_or("no blob")?;
    assert_eq!(plain.diff_id.0, Digest::of(&expected));
    for (program, compression) in [("gzip", CompressionAlgorithm::Gzip), ("zstd", CompressionAlgorithm::Zstd)]
    {
        let layer = write(&store, &tree(), &options(compression, 2))?;
        assert!(read_with(program, &store, &layer.blob.digest)? == expected, "{program}");
    }
    Ok(())
}

#[test]
fn a_layer_read_back_is_cut_where_it_was() -> Result<()> {
    for compression in [CompressionAlgorithm::Gzip, CompressionAlgorithm::Zstd] {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let plain = write(&store, &tree(), &options(CompressionAlgorithm::Uncompressed, 2))?;
        let again =
            recompress(&store, &plain.diff_id, &options(compression, 2), &crate::cancel::Cancel::new()?)?;
        assert_eq!(again, fresh(&tree(), &options(compression, 2))?.blob);
    }
    Ok(())
}

#[test]
fn a_blob_that_was_garbled_is_not_copied_from() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path())?;
    let gzip = options(CompressionAlgorithm::Gzip, 2);
    let layer = write(&store, &tree(), &gzip)?;
    let path = store.blob_path(&layer.blob.digest);
    let mut bytes = std::fs::read(&path)?;
    bytes[layer.blob.size as usize / 2] ^= 1;
    std::fs::remove_file(&path)?;
    std::fs::File::create(&path)?.write_all(&bytes)?;
    let mut after = tree();
    after[3].push(b'x');
    assert_eq!(write(&store, &after, &gzip)?.blob, fresh(&after, &gzip)?.blob);
    Ok(())
}

#[test]
fn files_that_change_while_they_are_read_fail_the_layer() -> Result<()> {
    let mut wrong = entries(&tree());
    if let EntryKind::File { digest, .. } = &mut wrong[20].kind {
        *digest = Some(Digest::of(b"other"));
    }
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path())?;
    let gzip = options(CompressionAlgorithm::Gzip, 2);
    let result = write_layer(&store, wrong, &Contents(tree()), &gzip);
    assert!(matches!(result, Err(LayerError::Changed { path, .. }) if path == "file20"));
    let mut short = tree();
    short[50].pop();
    let result = write_layer(&store, entries(&tree()), &Contents(short), &gzip);
    assert!(matches!(result, Err(LayerError::Changed { path, .. }) if path == "file50"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn a_cache_never_shows(
        sizes in proptest::collection::vec((0usize..400_000, 0u8..4), 1..30),
        large in 0usize..5_000_000,
        changed in any::<proptest::sample::Index>(),
        zstd in any::<bool>(),
    ) {
        let mut files: Vec<_> = sizes.iter().map(|(size, kind)| sample(*size, *kind)).collect();
        files.push(sample(large, 0));
        let compression = if zstd { CompressionAlgorithm::Zstd } else { CompressionAlgorithm::Gzip };
        let options = options(compression, 2);
        let run = |files: &mut Vec<Vec<u8>>| -> Result<(BlobInfo, BlobInfo)> {
            let dir = tempfile::tempdir()?;
            let store = Store::open(dir.path())?;
            write(&store, files, &options)?;
            let at = changed.index(files.len());
            files[at].extend_from_slice(b"changed");
            Ok((write(&store, files, &options)?.blob, fresh(files, &options)?.blob))
        };
        let (cached, plain) = run(&mut files).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(cached, plain);
    }
}

#[test]
fn files_written_in_place_are_those_of_the_entries() -> Result<()> {
    let contents = vec![sample(300_000, 1), b"small".to_vec(), Vec::new()];
    let mut list = entries(&contents);
    for (entry, content) in list.iter_mut().zip(&contents) {
        entry.kind = EntryKind::File { size: content.len() as u64, digest: Some(Digest::of(content)) };
    }
    let dir = tempfile::tempdir()?;
    write_files_checked(&list, &Contents(contents.clone()), dir.path(), OnDiskIds::AllToSelf)?;
    assert!(std::fs::read(dir.path().join("file0"))? == contents[0]);
    assert!(std::fs::read(dir.path().join("file2"))?.is_empty());
    let changed = vec![contents[0].clone(), b"smell".to_vec(), Vec::new()];
    let dir = tempfile::tempdir()?;
    let result = write_files_checked(&list, &Contents(changed), dir.path(), OnDiskIds::AllToSelf);
    assert!(matches!(result, Err(LayerError::Changed { path, .. }) if path == "file1"));
    Ok(())
}
