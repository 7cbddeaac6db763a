use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Appends an entry with exactly these bytes for names, which the tar crate's own setters refuse.
fn append(archive: &mut Vec<u8>, name: &str, kind: EntryType, link: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn archive(entries: &[(&str, EntryType, &str, u32, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, link, mode, data) in entries {
        append(&mut bytes, name, *kind, link, *mode, data.as_bytes());
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn unpacked(bytes: &[u8]) -> Result<TempDir, String> {
    let dir = TempDir::new().expect("temporary directory");
    let into = dir.path().join("in");
    fs::create_dir(&into).expect("mkdir");
    let outcome = unpack(bytes, &into).map_err(|error| error.to_string());
    let beside: Vec<_> =
        fs::read_dir(dir.path()).expect("lists").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(beside, ["in"], "nothing may be written beside the directory");
    outcome.map(|_| dir)
}

use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

#[test]
fn files_links_modes_and_times_are_unpacked() {
    let dir = unpacked(&archive(&[
        ("./", Directory, "", 0o700, ""),
        ("d/", Directory, "", 0o555, ""),
        ("d/f", Regular, "", 0o4750, "text"),
        ("d/hard", Link, "d/f", 0o644, ""),
        ("soft", Symlink, "/etc/passwd", 0o777, ""),
        ("implied/parent/f", Regular, "", 0o600, ""),
        ("pipe", Fifo, "", 0o622, ""),
    ]))
    .expect("unpacks");
    let at = |name: &str| fs::symlink_metadata(dir.path().join("in").join(name)).expect(name);
    assert_eq!((at("d/f").mode() & 0o7777, at("d/f").mtime(), at("d/f").nlink()), (0o4750, 1_000_000_000, 2));
    assert_eq!((at("d").permissions().mode() & 0o7777, at("d").mtime()), (0o555, 1_000_000_000));
    assert_eq!(at("soft").mtime(), 1_000_000_000);
    assert_eq!(fs::read_link(dir.path().join("in/soft")).expect("link"), Path::new("/etc/passwd"));
    assert!(at("pipe").file_type().is_fifo() && at("pipe").mode() & 0o777 == 0o622);
    assert_eq!(fs::read(dir.path().join("in/d/hard")).expect("reads"), b"text");
    assert!(at("implied/parent/f").is_file());
}

#[test]
fn entries_that_lead_out_are_refused() {
    for (entries, reason) in [
        (vec![("/abs", Regular, "", 0o644, "")], "absolute names"),
        (vec![("../out", Regular, "", 0o644, "")], "`..`"),
        (vec![("a/../../out", Regular, "", 0o644, "")], "`..`"),
        (vec![("h", Link, "../secret", 0o644, "")], "`..`"),
        (vec![("h", Link, "/etc/passwd", 0o644, "")], "absolute names"),
        (vec![("l", Symlink, "..", 0o777, ""), ("l/out", Regular, "", 0o644, "x")], "not a directory"),
        (vec![("l", Symlink, "/tmp", 0o777, ""), ("l/a/b", Regular, "", 0o644, "x")], "not a directory"),
        (vec![("l", Symlink, "..", 0o777, ""), ("l", Directory, "", 0o700, "")], "create the directory"),
        (vec![("l", Symlink, "/etc", 0o777, ""), ("h", Link, "l/passwd", 0o644, "")], "link it to"),
        (vec![("null", Char, "", 0o666, "")], "device nodes"),
        (vec![("sda", Block, "", 0o666, "")], "device nodes"),
        (vec![("odd", EntryType::new(b'Q'), "", 0o666, "")], "unknown entry type 'Q'"),
        (vec![("gone", Link, "nothing", 0o644, "")], "link it to nothing"),
        (vec![(".", Regular, "", 0o644, "")], "no name"),
    ] {
        let error = unpacked(&archive(&entries)).expect_err(reason);
        assert!(error.contains(reason), "{entries:?}: {error}");
    }
}

#[test]
fn a_later_entry_replaces_an_earlier_one_and_never_writes_through_it() {
    let dir = unpacked(&archive(&[
        ("target", Regular, "", 0o644, "old"),
        ("l", Symlink, "target", 0o777, ""),
        ("l", Regular, "", 0o644, "new"),
        ("h", Link, "target", 0o644, ""),
        ("h", Regular, "", 0o644, "other"),
        ("d", Directory, "", 0o755, ""),
        ("d", Regular, "", 0o644, "file now"),
    ]))
    .expect("unpacks");
    let read = |name: &str| fs::read_to_string(dir.path().join("in").join(name)).expect(name);
    assert_eq!((read("target").as_str(), read("l").as_str()), ("old", "new"));
    assert_eq!((read("h").as_str(), read("d").as_str()), ("other", "file now"));
    assert!(!fs::symlink_metadata(dir.path().join("in/l")).expect("stat").is_symlink());
}

#[test]
fn a_cut_archive_is_an_error() {
    let whole = archive(&[("f", Regular, "", 0o644, &"x".repeat(2000))]);
    assert!(unpacked(&whole[..1200]).is_err_and(|error| error.contains('f')));
    assert!(unpacked(&whole[..300]).is_err());
}

#[test]
fn sparse_files_of_every_form_are_expanded() {
    let dir = TempDir::new().expect("temporary directory");
    let content = [&[0; 100_000][..], b"text", &[0; 300_000]].concat();
    fs::write(dir.path().join("f"), &content[..100_004]).expect("write");
    File::options().write(true).open(dir.path().join("f")).expect("open").set_len(400_004).expect("size");
    let holes =
        std::process::Command::new("cp").args(["--sparse=always", "f", "g"]).current_dir(dir.path()).status();
    assert!(holes.expect("cp").success());
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let mut tar = std::process::Command::new("tar");
        tar.args(form).args(["-c", "--sparse", "g"]).current_dir(dir.path());
        let bytes = tar.output().expect("tar").stdout;
        assert!(bytes.len() < 100_000, "{form:?}: {} bytes", bytes.len());
        let dir = unpacked(&bytes).expect("unpacks");
        let out = dir.path().join("in");
        assert!(fs::read(out.join("g")).expect("read") == content, "{form:?}");
        assert_eq!(fs::read_dir(&out).expect("list").count(), 1);
        let cut = &bytes[..bytes.len().min(2048)];
        assert!(unpacked(cut).is_err(), "{form:?}");
    }
}

#[test]
fn archives_are_told_by_their_first_block() {
    let tar = archive(&[("f", Regular, "", 0o644, "x")]);
    assert!(is_tar(&tar) && is_tar(&[0; 512]));
    let mut damaged = tar.clone();
    damaged[0] = b'g';
    assert!(!is_tar(&damaged) && !is_tar(&tar[..511]) && !is_tar(b"FROM scratch"));
    assert!(!is_tar(&b"FROM scratch\n".repeat(100)));
}

#[test]
fn pax_times_have_fractions_and_signs() {
    let time = |text: &str| pax_time(text).map(|time| (time.tv_sec, time.tv_nsec));
    assert_eq!(time("12"), Some((12, 0)));
    assert_eq!(time("12.5"), Some((12, 500_000_000)));
    assert_eq!(time("12.1234567899"), Some((12, 123_456_789)));
    assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
    assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
    assert_eq!(time("12.x"), None);
    assert_eq!(time(""), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_archive_writes_outside_its_directory(
        entries in prop::collection::vec(
            (
                "(/|\\.\\./|\\./)?[ab](/[ab]|/\\.\\.){0,3}/?",
                prop::sample::select(vec![Regular, Directory, Symlink, Link, Fifo]),
                "(/|\\.\\./|\\.\\./\\.\\./)?[ab](/[ab]|/\\.\\.){0,2}|\\.\\.",
            ),
            1..10,
        ),
    ) {
        let rows: Vec<_> = entries.iter().map(|(name, kind, link)| {
            let link = if matches!(kind, Symlink | Link) { link.as_str() } else { "" };
            (name.as_str(), *kind, link, 0o755, if *kind == Regular { "data" } else { "" })
        }).collect();
        let _ = unpacked(&archive(&rows));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        is_tar(&bytes);
        let _ = unpacked(&bytes);
    }
}
