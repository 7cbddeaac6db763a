//! Archives that make work: names that are replaced, links, deep paths; and stopping in the middle.

use super::*;
use crate::cancel::Cancel;
use crate::layer::listing::Listing;

fn dir(path: &str) -> Entry {
    Entry { path: path.into(), kind: EntryKind::Dir, meta: meta(0o755), offset: 0 }
}

fn link(path: &str, target: &str) -> Entry {
    Entry { kind: EntryKind::Hardlink(target.into()), ..file(path.as_bytes()) }
}

fn kinds(index: &LayerIndex) -> Vec<(String, Option<String>)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let target = |entry: &Entry| match &entry.kind {
        EntryKind::Hardlink(target) => Some(text(target)),
        _ => None,
    };
    index.entries.iter().map(|entry| (text(&entry.path), target(entry))).collect()
}

fn steps(names: usize) -> u64 {
    let mut listing = Listing::default();
    listing.add(file(b"n"));
    for number in 0..names {
        listing.add(link(&format!("l{number}"), "n"));
    }
    // Each is the file when it goes, and hands it on.
    listing.forget(b"n");
    for number in 0..names {
        listing.forget(format!("l{number}").as_bytes());
    }
    listing.steps
}

#[test]
fn replacing_a_name_costs_what_it_changes() {
    let (few, many) = (steps(200), steps(2000));
    assert!(few > 0 && many <= few * 11, "{few} {many}");
}

#[test]
fn a_file_lives_on_under_its_other_names_however_one_goes() {
    for gone in ["a", "d"] {
        let mut listing = Listing::default();
        listing.add(dir("d"));
        for entry in
            [file(b"a"), file(b"d/x"), link("b", "a"), link("c", "b"), link("y", "d/x"), link("z", "d/x")]
        {
            listing.add(entry);
        }
        listing.forget(gone.as_bytes());
        let expected: &[(&str, Option<&str>)] = match gone {
            "a" => &[
                ("d", None),
                ("d/x", None),
                ("b", None),
                ("c", Some("b")),
                ("y", Some("d/x")),
                ("z", Some("d/x")),
            ],
            _ => &[("a", None), ("b", Some("a")), ("c", Some("a")), ("y", None), ("z", Some("y"))],
        };
        let found = kinds(&listing.finish());
        let found: Vec<_> = found.iter().map(|(path, to)| (path.as_str(), to.as_deref())).collect();
        assert_eq!(found, expected, "without {gone}");
    }
}

/// `c` is a name of the file that `b` was, and stays one when `b` becomes another.
#[test]
fn a_link_to_a_link_keeps_the_file() -> Result<(), LayerError> {
    let rows: &[(&[u8], u8, &[u8])] =
        &[(b"a", b'0', b""), (b"b", b'1', b"a"), (b"c", b'1', b"b"), (b"b", b'5', b"")];
    let (root, unpacked) = unpack_bytes(&hostile(rows))?;
    assert!(root.path().join("c").is_file() && root.path().join("b").is_dir());
    let kinds = kinds(&unpacked.index);
    assert!(kinds.contains(&("c".into(), Some("a".into()))), "{kinds:?}");
    Ok(())
}

#[test]
fn what_lies_below_a_link_of_another_layer_takes_its_place_as_a_directory() -> Result<(), LayerError> {
    struct Linked;
    impl ParentView for Linked {
        fn node(&self, path: &[u8]) -> Option<ParentNode> {
            let kind = match path {
                b"l" | b"m" => ParentKind::Symlink(b"real".to_vec()),
                b"real" => ParentKind::Dir,
                b"real/old" | b"f" => ParentKind::Other,
                _ => return None,
            };
            Some(ParentNode { kind, meta: meta(0o700) })
        }
    }
    let tar = hostile(&[
        (b"l/one", b'0', b""),
        (b"l", b'5', b""),
        (b"l/two", b'0', b""),
        (b"f/below-a-file", b'0', b""),
        (b"real/new", b'0', b""),
    ]);
    let dir = tempfile::tempdir().map_err(LayerError::Stream)?;
    let options = UnpackOptions { ids: OnDiskIds::AllToSelf, ..UnpackOptions::default() };
    let unpacked = unpack(&tar[..], dir.path(), &Linked, &options)?;
    for path in ["l/one", "l/two", "f/below-a-file", "real/new"] {
        assert!(dir.path().join(path).is_file(), "{path}");
        assert!(kinds(&unpacked.index).contains(&(path.into(), None)), "{path}");
    }
    let mode = |path: &str| unpacked.index.entries.iter().find(|entry| entry.path == path.as_bytes());
    let mode = |path: &str| mode(path).map(|entry| entry.meta.mode);
    // A directory below keeps its mode, what takes the place of something else has the usual one.
    assert_eq!((mode("real"), mode("f")), (Some(0o700), Some(0o755)));
    // The same entries are found where nothing is unpacked, but for the modes that only lower layers know.
    let read = read_index(&tar[..], None)?;
    assert_eq!(kinds(&read.index), kinds(&unpacked.index));
    Ok(())
}

fn long(name: &[u8], flag: u8, target: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut records: Vec<(&str, &[u8])> = vec![("path", name)];
    records.extend((!target.is_empty()).then_some(("linkpath", target)));
    let _ = builder.append_pax_extensions(records);
    let mut out = builder.into_inner().unwrap_or_default();
    out.truncate(out.len().saturating_sub(1024));
    out.extend(hostile(&[(b"x", flag, b"")]));
    out
}

#[test]
fn paths_and_links_longer_than_the_kernel_takes_are_refused() {
    let deep =
        |bytes: usize| [b"d/".repeat(bytes / 2), b"f".repeat(bytes % 2 + 2)].concat()[..bytes].to_vec();
    for (path, target, fits) in
        [(deep(4095), Vec::new(), true), (deep(4097), Vec::new(), false), (b"l".to_vec(), deep(4097), false)]
    {
        let flag = if target.is_empty() { b'0' } else { b'2' };
        let read = read_index(&long(&path, flag, &target)[..], None);
        assert_eq!(read.is_ok(), fits, "{} {}: {read:?}", path.len(), target.len());
    }
}

#[test]
fn names_take_no_more_memory_than_the_limit() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let limits = Limits { names: 100_000, ..Limits::default() };
    let options = UnpackOptions { ids: OnDiskIds::AllToSelf, limits, ..UnpackOptions::default() };
    // 1,000 directories that the path of one file implies.
    let tar = long(&[b"d/".repeat(1000), b"f".to_vec()].concat(), b'0', b"");
    let error = unpack(&tar[..], dir.path(), &NoParent, &options).err().ok_or("it was unpacked")?;
    assert!(error.to_string().contains("memory"), "{error}");
    Ok(())
}

/// Gives its bytes, and switches to "stop" when the last was read.
struct Stops<'a>(&'a [u8], Cancel);

impl Read for Stops<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        if self.0.is_empty() {
            self.1.cancel();
        }
        Ok(count)
    }
}

#[test]
fn unpacking_ends_between_two_entries_when_canceled() -> Result<(), Box<dyn std::error::Error>> {
    let tar = hostile(&[(b"a", b'0', b""), (b"b", b'0', b"")]);
    for on_disk in [true, false] {
        let (dir, cancel) = (tempfile::tempdir()?, Cancel::new()?);
        let options = UnpackOptions {
            ids: OnDiskIds::AllToSelf,
            cancel: Some(cancel.clone()),
            ..UnpackOptions::default()
        };
        let stream = Stops(&tar, cancel.clone());
        let result = match on_disk {
            true => unpack(stream, dir.path(), &NoParent, &options),
            false => read_index(stream, Some(cancel)),
        };
        assert!(matches!(result, Err(LayerError::Canceled)), "{result:?}");
        assert!(!dir.path().join("b").exists());
    }
    Ok(())
}
