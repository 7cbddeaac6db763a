//! Throughput of what a layer goes through: `cargo bench --bench layers`.
//!
//! The content is made up from a fixed seed and compresses about as text does; `RBUILD_BENCH_DATA`
//! names a file (a tar of a real tree, for instance) to be used instead.

use std::fs;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::OnceLock;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use rbuild::compress::CompressionAlgorithm;
use rbuild::digest::Digest;
use rbuild::layer::{
    ContentSource, Entry, EntryKind, Metadata, OnDiskIds, WriteOptions, write_files_checked, write_layer,
};
use rbuild::store::Store;

const SIZE: usize = 32 << 20;
const SMALL: usize = 8 << 10;

fn main() {
    divan::main();
}

/// Lines of numbers and words, from a generator of its own.
fn made_up() -> Vec<u8> {
    let mut state = 42u64;
    let mut next = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut text = String::with_capacity(SIZE + 100);
    let words = ["function", "return", "const", "value", "length", "import", "export", "module"];
    while text.len() < SIZE {
        let word = words[next(8) as usize];
        text.push_str(&format!(
            "{word} v{} = {}.{};\n",
            next(3000),
            words[next(8) as usize],
            next(1_000_000)
        ));
    }
    text.truncate(SIZE);
    text.into_bytes()
}

fn data() -> &'static [u8] {
    static DATA: OnceLock<Vec<u8>> = OnceLock::new();
    DATA.get_or_init(|| match std::env::var_os("RBUILD_BENCH_DATA") {
        Some(path) => fs::read(path).expect("RBUILD_BENCH_DATA names a file that can be read"),
        None => made_up(),
    })
}

/// The data as files of `size` bytes.
struct Files {
    size: usize,
}

impl Files {
    fn part(&self, position: usize) -> &'static [u8] {
        data().chunks(self.size).nth(position).unwrap_or_default()
    }

    fn entries(&self, with_digests: bool) -> Vec<Entry> {
        let meta = Metadata { mode: 0o644, ..Metadata::default() };
        let entry = |(at, content): (usize, &[u8])| {
            let digest = with_digests.then(|| Digest::of(content));
            let kind = EntryKind::File { size: content.len() as u64, digest };
            Entry { path: format!("f{at:06}").into_bytes(), kind, meta: meta.clone(), offset: 0 }
        };
        data().chunks(self.size).enumerate().map(entry).collect()
    }
}

impl ContentSource for Files {
    fn open(&self, position: usize, _: &Entry) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.part(position))))
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(dir.path()).expect("a store");
    (dir, store)
}

fn options(compression: CompressionAlgorithm) -> WriteOptions {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    WriteOptions { compression, level: None, threads, clamp_mtime: None }
}

/// A layer in a store that has none.
fn cold(bencher: Bencher<'_, '_>, compression: CompressionAlgorithm, size: usize) {
    let files = Files { size };
    bencher
        .counter(BytesCount::new(data().len()))
        .with_inputs(|| (store(), files.entries(true)))
        .bench_values(|((dir, store), entries)| {
            (write_layer(&store, entries, &files, &options(compression)).expect("a layer"), dir)
        });
}

#[divan::bench(args = [SMALL, 4 << 20])]
fn layer_uncompressed(bencher: Bencher<'_, '_>, size: usize) {
    cold(bencher, CompressionAlgorithm::Uncompressed, size);
}

#[divan::bench(args = [SMALL, 4 << 20])]
fn layer_gzip(bencher: Bencher<'_, '_>, size: usize) {
    cold(bencher, CompressionAlgorithm::Gzip, size);
}

#[divan::bench(args = [SMALL, 4 << 20])]
fn layer_zstd(bencher: Bencher<'_, '_>, size: usize) {
    cold(bencher, CompressionAlgorithm::Zstd, size);
}

/// A layer whose blocks the store has: reading, digests and copies are left.
#[divan::bench(args = [SMALL, 4 << 20])]
fn layer_gzip_known_blocks(bencher: Bencher<'_, '_>, size: usize) {
    let files = Files { size };
    let (_dir, store) = store();
    let options = options(CompressionAlgorithm::Gzip);
    write_layer(&store, files.entries(true), &files, &options).expect("a layer");
    bencher
        .counter(BytesCount::new(data().len()))
        .with_inputs(|| files.entries(true))
        .bench_values(|entries| write_layer(&store, entries, &files, &options).expect("a layer"));
}

/// Headers alone.
#[divan::bench]
fn layer_of_links(bencher: Bencher<'_, '_>) {
    let meta = Metadata { mode: 0o644, ..Metadata::default() };
    let kind = EntryKind::Symlink(b"target".to_vec());
    let entry =
        |at| Entry { path: format!("f{at}").into_bytes(), kind: kind.clone(), meta: meta.clone(), offset: 0 };
    let entries: Vec<Entry> = (0..10_000).map(entry).collect();
    let files = Files { size: 1 };
    let (_dir, store) = store();
    let options = options(CompressionAlgorithm::Uncompressed);
    bencher
        .counter(BytesCount::new(entries.len() * 512))
        .with_inputs(|| entries.clone())
        .bench_values(|entries| write_layer(&store, entries, &files, &options).expect("a layer"));
}

#[divan::bench]
fn files_in_place(bencher: Bencher<'_, '_>) {
    let files = Files { size: SMALL };
    let entries = files.entries(true);
    let ids = OnDiskIds::AllToSelf;
    bencher
        .counter(BytesCount::new(data().len()))
        .with_inputs(|| tempfile::tempdir().expect("a temporary directory"))
        .bench_refs(|dir| {
            let dest: &Path = dir.path();
            write_files_checked(&entries, &files, dest, ids).expect("files");
        });
}

#[divan::bench]
fn sha256(bencher: Bencher<'_, '_>) {
    bencher.counter(BytesCount::new(data().len())).bench(|| Digest::of(black_box(data())));
}

#[divan::bench]
fn blake3(bencher: Bencher<'_, '_>) {
    bencher.counter(BytesCount::new(data().len())).bench(|| ::blake3::hash(black_box(data())));
}
