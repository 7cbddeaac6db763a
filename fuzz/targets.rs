//! What the fuzz targets do with their bytes; `tests/fuzz.rs` does the same with the seeds and a few
//! thousand changes of them.

use std::io::{self, Cursor, Read, Write};

use rbuild::cache::{Bounds, CacheDocument, Record};
use rbuild::context::glob::{has_wildcard, match_path};
use rbuild::context::ignore::{IgnoreRules, PatternSet};
use rbuild::digest::Digest;
use rbuild::image::manifest::canonical;
use rbuild::image::{Document, Family, ImageConfig, Platform, Reference};
use rbuild::layer::{Limits, NoParent, OnDiskIds, UnpackOptions, read_index, scan_tar, unpack};
use rbuild::registry::answers::understand;
use rbuild::remote::{Checksum, GitUrl, HttpUrl, add_source, context_source, without_credentials};
use rbuild::sandbox::{Memory, Place, Request};
use rbuild::sbom::packages_of;
use rbuild::secrets;
use rbuild::sources::policy::json::SourcePolicy;
use rbuild::sources::policy::{Policies, Source};
use rbuild::sources::{Lock, lock};
use rbuild::steps::agent;

/// Any bytes as a layer: names stay inside, and nothing is put outside the directory.
pub fn layer(bytes: &[u8]) {
    let _ = scan_tar(bytes, |header| assert!(header.offset <= bytes.len() as u64 + 512));
    let Ok(dir) = tempfile::tempdir() else { return };
    let dest = dir.path().join("a/b/root");
    if std::fs::create_dir_all(&dest).is_err() {
        return;
    }
    for loose in [false, true] {
        let limits = Limits { entries: 1000, bytes: 1 << 20, ..Limits::default() };
        let options = UnpackOptions {
            ids: OnDiskIds::AllToSelf,
            limits,
            loose,
            sparse: loose,
            ..UnpackOptions::default()
        };
        if let Ok(unpacked) = unpack(Cursor::new(bytes.to_vec()), &dest, &NoParent, &options) {
            for entry in &unpacked.index.entries {
                assert!(is_inside(&entry.path), "{:?}", String::from_utf8_lossy(&entry.path));
            }
            assert!(unpacked.uncompressed_size <= limits.bytes);
        }
        for (outer, only) in [("", "a"), ("a", "b"), ("a/b", "root")] {
            let names = std::fs::read_dir(dir.path().join(outer)).into_iter().flatten().flatten();
            let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
            assert_eq!(names, [only], "something was put outside");
        }
    }
    // A few bytes of a compressed stream can stand for far more than is worth waiting for.
    if !bytes.starts_with(&[0x28, 0xb5]) && !bytes.starts_with(&[0x1f, 0x8b]) {
        let _ = read_index(Cursor::new(bytes.to_vec()), None);
    }
}

fn is_inside(path: &[u8]) -> bool {
    let whole = !path.is_empty() && !path.contains(&0);
    whole && path.split(|c| *c == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

/// Any bytes as a manifest, an index and a config: what is written again reads as the same.
pub fn image(bytes: &[u8]) {
    match Document::parse(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Document::Index(index)) => {
            let _ = (index.serving(&Platform::new("linux", "arm64", "v8")), index.platforms());
            let again = canonical(&index).map(|bytes| Document::parse(&bytes));
            assert!(matches!(again, Ok(Ok(Document::Index(again))) if again == index));
        }
        Ok(Document::Manifest(manifest)) => {
            let _ = manifest.check_foreign();
            for family in [Family::Oci, Family::Docker] {
                if let Ok(other) = manifest.retyped(family) {
                    assert_eq!(other.layers.len(), manifest.layers.len());
                }
            }
            let again = canonical(&manifest).map(|bytes| Document::parse(&bytes));
            assert!(matches!(again, Ok(Ok(Document::Manifest(again))) if again == manifest));
        }
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
        let again = canonical(&config).map(|bytes| serde_json::from_slice::<ImageConfig>(&bytes));
        assert!(matches!(again, Ok(Ok(again)) if again == config));
    }
}

/// Any bytes as a cache record: what is written again has the same key.
pub fn record(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let Ok(written) = serde_json::to_vec(&record) else { panic!("a record that cannot be written") };
    let again: Record = serde_json::from_slice(&written).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again.inputs.key(), record.inputs.key());
}

/// Any bytes as the document of a cache: what is written again is the same, and merging it with itself adds
/// nothing.
pub fn cache(bytes: &[u8]) {
    let Ok(document) = CacheDocument::parse("a cache", bytes) else { return };
    let again = CacheDocument::parse("a cache", &document.to_bytes());
    assert_eq!(again.ok().as_ref(), Some(&document));
    let mut tidy = CacheDocument::default();
    tidy.merge(document);
    tidy.tidy(Bounds::default(), 0);
    let mut twice = tidy.clone();
    twice.merge(tidy.clone());
    twice.tidy(Bounds::default(), 0);
    assert_eq!(twice, tidy);
}

/// The last line as a path, the lines before it as an ignore file and as wildcards: a walk from the
/// root and a look at the whole path agree.
pub fn ignore(bytes: &[u8]) {
    let at = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let (text, path) = (&bytes[..at], bytes[at..].strip_prefix(b"\n").unwrap_or_default());
    for pattern in text.split(|byte| *byte == b'\n') {
        let _ = (match_path(pattern, path), has_wildcard(pattern), PatternSet::new([pattern]));
    }
    let Ok(rules) = IgnoreRules::parse(".dockerignore", text) else { return };
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let Some((last, dirs)) = parts.split_last() else { return };
    if path.contains(&0) || parts.iter().any(|part| matches!(*part, b"" | b"." | b"..")) {
        let _ = rules.matched(path);
        return;
    }
    let walker = dirs.iter().fold(rules.walker(), |walker, dir| walker.enter(dir));
    assert_eq!(walker.matches(last), rules.matched(path).ignored);
}

/// The first line as the value of every header, the rest as the body: nothing that reaches a terminal
/// can drive it, and nothing leads to other schemes.
pub fn answer(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let header = String::from_utf8_lossy(&bytes[..at]);
    let understood = understand(&header, bytes.get(at + 1..).unwrap_or_default());
    for text in [&understood.code, &understood.message].into_iter().flatten() {
        assert!(!text.chars().any(char::is_control) && text.chars().count() <= 301, "{text:?}");
    }
    if let Some(location) = &understood.location {
        let lower = location.to_ascii_lowercase();
        assert!(lower.starts_with("http://") || lower.starts_with("https://"), "{location:?}");
    }
}

/// Any text as an address of sources, a git repository, an image, a platform and a digest: what is
/// understood of an image's name reads as the same.
pub fn source(text: &str) {
    let _ = (add_source(text), context_source(text), without_credentials(text), HttpUrl::parse(text));
    let _ = (Checksum::parse(text), Digest::parse(text));
    if let Ok(git) = GitUrl::parse(text) {
        // Where it goes to git, it must not look like an option.
        assert!(!git.host().starts_with('-') && !git.to_string().chars().any(char::is_control), "{git:?}");
        assert!(!git.reference.as_deref().unwrap_or_default().starts_with('-'), "{git:?}");
    }
    for reference in [Reference::parse(text), Reference::parse_new_name(text)].into_iter().flatten() {
        let written = reference.to_string();
        assert_eq!(Reference::parse(&written).as_ref(), Ok(&reference), "{written:?}");
        let familiar = reference.familiar();
        assert_eq!(Reference::parse(&familiar).as_ref(), Ok(&reference), "{familiar:?}");
    }
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(Platform::parse(&platform.to_string()).ok(), Some(platform));
    }
}

/// Two bytes as the number of a system call, 48 as its arguments, the rest as the memory of the process that
/// asks, from the second page on: what is read of it keeps the kernel's limits.
pub fn request(bytes: &[u8]) {
    let Some((head, memory)) = bytes.split_at_checked(50) else { return };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let mut args = [0u64; 6];
    for (arg, bytes) in args.iter_mut().zip(head[2..].chunks(8)) {
        *arg = number(bytes);
    }
    let call = u16::from_le_bytes([head[0], head[1]]);
    let (path, dir) = match Request::read(call.into(), &args, &View(memory)) {
        Err(errno) => return assert!(!io::Error::from(errno).to_string().is_empty()),
        Ok(Request::SetGroups(groups)) => {
            return assert!(groups.len() <= 65_536 && groups.len() * 4 <= memory.len());
        }
        Ok(Request::Chown { place: Place::Path { dir, path, .. }, .. } | Request::Node { dir, path, .. }) => {
            (path, dir)
        }
        Ok(_) => return,
    };
    let path = path.to_bytes();
    assert!(
        path.len() < 4096 && memory.windows(path.len().max(1)).any(|part| path.is_empty() || part == path)
    );
    assert!(!path.starts_with(b"/") || dir == -100, "a directory of an absolute path");
}

struct View<'a>(&'a [u8]);

impl Memory for View<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let from = address.checked_sub(4096).and_then(|from| usize::try_from(from).ok());
        let there = from.and_then(|from| self.0.get(from..)).unwrap_or_default();
        let count = there.len().min(into.len());
        into[..count].copy_from_slice(&there[..count]);
        count
    }
}

/// Any bytes as what a step says to an ssh agent: the agent hears whole, harmless requests only, and each
/// request gets one answer.
pub fn ssh_agent(bytes: &[u8]) {
    let (mut answers, mut heard) = (Vec::new(), Heard::default());
    let _ = agent::carry(Pair(Cursor::new(bytes), &mut answers), &mut heard);
    let mut rest = heard.requests.as_slice();
    let mut requests = 0;
    while let Some((length, behind)) = rest.split_at_checked(4) {
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        assert!((1..=agent::LONGEST).contains(&length) && agent::is_harmless(&behind[..length]));
        assert!(matches!(behind[0], 11 | 13 | 27), "{}", behind[0]);
        rest = &behind[length..];
        requests += 1;
    }
    assert!(rest.is_empty() && answers.len() % 5 == 0 && answers.len() / 5 >= requests);
}

/// A client: what it says, and where its answers go.
struct Pair<'a>(Cursor<&'a [u8]>, &'a mut Vec<u8>);

impl Read for Pair<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Pair<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An agent that answers everything with a failure.
#[derive(Default)]
struct Heard {
    requests: Vec<u8>,
    answer: Cursor<Vec<u8>>,
}

impl Read for Heard {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.answer.read(into)
    }
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer = Cursor::new(vec![0, 0, 0, 1, 5]);
        self.requests.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Any bytes as a lock: mistakes lie inside the text, and what reads is written as the same.
pub fn lock_file(bytes: &[u8]) {
    let Ok(text) = lock::text(bytes.to_vec()) else { return };
    match Lock::parse(&text) {
        Ok(lock) => {
            let again = lock.render();
            assert_eq!(Lock::parse(&again).as_ref(), Ok(&lock), "{again}");
            assert_eq!(lock.changes(&lock), []);
        }
        Err(error) => {
            let inside = error.span.is_none_or(|span| span.start <= span.end && span.end <= text.len());
            assert!(inside, "{text}");
        }
    }
}

/// A path up to the first line end, and a file that lists packages: names and versions are bounded by the file.
pub fn packages(bytes: &[u8]) {
    let (path, content) = path_and_content(bytes);
    let (packages, problems) = packages_of(path, content);
    for package in &packages {
        assert!(!package.name.is_empty(), "{package:?}");
        assert!(package.purl().starts_with("pkg:"), "{package:?}");
    }
    assert!(problems.len() <= content.len() + 1, "{} problems", problems.len());
}

/// A path up to the first line end, and a file that may hold secrets: lines are those of the file, each once.
pub fn secrets_of(bytes: &[u8]) {
    let (path, content) = path_and_content(bytes);
    let lines = content.iter().filter(|byte| **byte == b'\n').count() + 1;
    let found = secrets::find(path, content);
    assert!(found.iter().all(|(line, _)| (1..=lines).contains(line)), "{found:?}");
    assert!(found.is_sorted_by(|one, next| one.0 < next.0), "{found:?}");
}

fn path_and_content(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

/// Any text as a source policy: a mistake is named with the file, and every source is decided about.
pub fn policy(text: &str) {
    match SourcePolicy::parse("policy.json", text) {
        Ok(policy) => {
            let mut policies = Policies::default();
            policies.add(policy);
            for identifier in
                ["docker-image://docker.io/library/a:1", "https://a.test/f", "local://context", ""]
            {
                if let Ok(Some(other)) = policies.evaluate(&Source::new(identifier)) {
                    let _ = (other.to_image(), other.to_file());
                }
            }
        }
        Err(error) => assert!(error.starts_with("policy.json"), "{error}"),
    }
}
