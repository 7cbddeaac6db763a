//! What a layer hides of those below it: the same by its entries as by its directory, wherever in the archive
//! a deletion stands.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::fs::Root;
use crate::snapshot::Tree;

/// Paths, and whether each is a directory.
type Files = BTreeMap<String, bool>;

const BELOW: [(&str, bool); 6] =
    [("a", true), ("a/b", true), ("a/b/c", false), ("a/f", false), ("g", false), ("l", true)];

fn below() -> Tree {
    let mut tree = Tree::empty();
    let entries = BELOW.iter().map(|(path, is_dir)| match is_dir {
        true => Entry { kind: EntryKind::Dir, ..file(path.as_bytes()) },
        false => file(path.as_bytes()),
    });
    tree.apply(&LayerIndex { entries: entries.collect() }, 0);
    tree
}

fn forget(files: &mut Files, path: &str, with_itself: bool) {
    let inside = format!("{path}/");
    files.retain(|name, _| !(name.starts_with(&inside) || with_itself && name == path));
}

/// A directory of a layer over [`BELOW`], as overlayfs shows them.
fn mounted(dir: &std::path::Path) -> io::Result<Files> {
    let root = Root::open(dir)?;
    let mut files: Files = BELOW.iter().map(|(path, is_dir)| ((*path).to_owned(), *is_dir)).collect();
    for entry in root.walk()? {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let is_dir = entry.file_type() == rustix::fs::FileType::Directory;
        if entry.is_whiteout() || !is_dir || root.is_opaque(&entry.path, &root.xattrs(&entry.path)?)? {
            forget(&mut files, &path, true);
        }
        if !entry.is_whiteout() {
            files.insert(path, is_dir);
        }
    }
    Ok(files)
}

/// What the layer over [`BELOW`] leaves, by its directory and by its entries.
fn both(rows: &[(&[u8], u8, &[u8])]) -> Result<(Files, Files), LayerError> {
    let tar = hostile(rows);
    let dir = tempfile::tempdir().map_err(LayerError::Stream)?;
    let mut tree = below();
    let options = UnpackOptions { ids: OnDiskIds::AllToSelf, ..UnpackOptions::default() };
    let unpacked = unpack(&tar[..], dir.path(), &tree, &options)?;
    tree.apply(&unpacked.index, 1);
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let by_entries = tree.below(b"").map(|(path, node)| (text(path), node.is_dir())).collect();
    let mut alone = below();
    alone.apply(&read_index(&tar[..], None)?.index, 1);
    let kinds: Files = alone.below(b"").map(|(path, node)| (text(path), node.is_dir())).collect();
    assert_eq!(kinds, by_entries, "read with and without the layers below");
    Ok((mounted(dir.path()).map_err(LayerError::Stream)?, by_entries))
}

#[test]
fn a_directory_that_takes_the_place_of_something_hides_what_is_below() -> Result<(), LayerError> {
    type Row = (&'static [u8], u8, &'static [u8]);
    let (dir, new): (Row, Row) = ((b"a", b'5', b""), (b"a/n", b'0', b""));
    let (gone, shut): (Row, Row) = ((b".wh.a", b'0', b""), (b"a/.wh..wh..opq", b'0', b""));
    let cases: [(&str, Vec<Row>, &[&str]); 10] = [
        ("nothing hidden", vec![dir, new], &["a", "a/b", "a/b/c", "a/f", "a/n", "g", "l"]),
        ("deleted first", vec![gone, dir, new], &["a", "a/n", "g", "l"]),
        ("deleted later", vec![dir, new, gone], &["a", "a/n", "g", "l"]),
        ("deleted between", vec![dir, gone, new], &["a", "a/n", "g", "l"]),
        ("implied", vec![gone, new], &["a", "a/n", "g", "l"]),
        ("implied before", vec![new, gone], &["a", "a/n", "g", "l"]),
        ("opaque and deleted", vec![shut, gone, dir, shut, new], &["a", "a/n", "g", "l"]),
        ("a file between", vec![dir, (b"a", b'0', b""), dir, new], &["a", "a/n", "g", "l"]),
        ("a link before", vec![(b"a", b'2', b"g"), dir, new], &["a", "a/n", "g", "l"]),
        (
            "below one that is hidden",
            vec![gone, (b"a/b/x", b'0', b""), (b"l/.wh.q", b'0', b"")],
            &["a", "a/b", "a/b/x", "g", "l"],
        ),
    ];
    for (what, rows, expected) in cases {
        let (on_disk, by_entries) = both(&rows)?;
        assert_eq!(on_disk.keys().collect::<Vec<_>>(), expected, "{what}");
        assert_eq!(by_entries, on_disk, "{what}");
    }
    Ok(())
}

#[test]
fn what_is_hidden_is_neither_followed_nor_linked_to() -> Result<(), LayerError> {
    struct Linked;
    impl ParentView for Linked {
        fn node(&self, path: &[u8]) -> Option<ParentNode> {
            let kind = match path {
                b"a" => ParentKind::Dir,
                b"a/l" | b"l" => ParentKind::Symlink(b"/real".to_vec()),
                b"a/f" => ParentKind::Other,
                _ => return None,
            };
            Some(ParentNode { kind, meta: meta(0o700) })
        }
    }
    let unpacked = |rows: &[(&[u8], u8, &[u8])]| {
        let dir = tempfile::tempdir().map_err(LayerError::Stream)?;
        let options = UnpackOptions { ids: OnDiskIds::AllToSelf, ..UnpackOptions::default() };
        unpack(&hostile(rows)[..], dir.path(), &Linked, &options).map(|unpacked| (dir, unpacked))
    };
    for hidden in [&b".wh.a"[..], b"a/.wh..wh..opq"] {
        let (dir, _) = unpacked(&[(hidden, b'0', b""), (b"a/l/x", b'0', b"")])?;
        assert!(dir.path().join("a/l/x").is_file() && !dir.path().join("real").exists());
        assert!(unpacked(&[(hidden, b'0', b""), (b"a/x", b'1', b"a/f")]).is_err());
        // What the layer itself put in the link's place stays.
        let (dir, _) = unpacked(&[(b"a/l/x", b'0', b""), (hidden, b'0', b""), (b"a/l/y", b'0', b"")])?;
        assert!(dir.path().join("a/l/x").is_file() && dir.path().join("a/l/y").is_file());
        assert!(!dir.path().join("real").exists());
    }
    let (dir, _) = unpacked(&[(b"l/x", b'0', b""), (b".wh.l", b'0', b""), (b"l/y", b'0', b"")])?;
    assert!(dir.path().join("l/x").is_file() && dir.path().join("l/y").is_file());
    Ok(())
}

/// What one row after the other does, in the simplest way.
fn modelled(rows: &[(&[u8], u8, &[u8])]) -> Files {
    let mut own = Files::new();
    let (mut gone, mut shut) = (BTreeSet::new(), BTreeSet::new());
    for (name, flag, _) in rows {
        let path = String::from_utf8_lossy(name).into_owned();
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        for (at, _) in dir.match_indices('/').chain([(dir.len(), "")]).filter(|(at, _)| *at > 0) {
            own.insert(dir[..at].to_owned(), true);
        }
        if name == ".wh..wh..opq" {
            shut.insert(dir.to_owned());
        } else if let Some(name) = name.strip_prefix(".wh.") {
            gone.insert(if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") });
        } else {
            let is_dir = *flag == b'5';
            if !is_dir {
                forget(&mut own, &path, true);
                gone.insert(path.clone());
            }
            own.insert(path, is_dir);
        }
    }
    let mut files: Files = BELOW.iter().map(|(path, is_dir)| ((*path).to_owned(), *is_dir)).collect();
    gone.iter().for_each(|path| forget(&mut files, path, true));
    shut.iter().for_each(|path| forget(&mut files, path, false));
    files.extend(own);
    files
}

proptest! {
    #[test]
    fn layers_hide_the_same_by_entries_as_on_disk(
        rows in proptest::collection::vec(
            (
                prop::sample::select(vec![
                    "a", ".wh.a", "a/b", "a/.wh.b", "a/.wh..wh..opq", "a/b/c", "a/b/d", "a/b/.wh.c",
                    "a/b/.wh..wh..opq", "a/n", "g", ".wh.g", "l", "l/x",
                ]),
                any::<bool>(),
            ),
            1..10,
        )
    ) {
        let deletes = |name: &str| name.contains(".wh.");
        let row = |(name, is_dir): &(&'static str, bool)| -> (&'static [u8], u8, &'static [u8]) {
            (name.as_bytes(), if *is_dir && !deletes(name) { b'5' } else { b'0' }, b"")
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        // Not those in which a file is used as a directory: they are refused.
        if let Ok((on_disk, by_entries)) = both(&rows) {
            prop_assert_eq!(&on_disk, &modelled(&rows));
            prop_assert_eq!(by_entries, on_disk);
        }
    }
}
