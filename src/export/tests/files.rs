use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use super::fixture::{Result, go_on, names_in};
use crate::digest::Digest;
use crate::export::local::LocalOptions;
use crate::export::{Dest, ExportError, Replaced, RootTree, local, tar};
use crate::layer::{Entry, EntryKind, Metadata};

/// A tree in memory.
#[derive(Default)]
struct Tree {
    entries: Vec<Entry>,
    content: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl RootTree for Tree {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        Ok(self.entries.clone())
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        match self.content.get(path) {
            Some(content) => Ok(Box::new(io::Cursor::new(content.clone()))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Tree {
    fn add(mut self, path: impl AsRef<[u8]>, mode: u32, kind: EntryKind) -> Self {
        let meta = Metadata { mode, uid: 0, gid: 0, mtime: 1_000_000_000, xattrs: Vec::new() };
        self.entries.push(Entry { path: path.as_ref().to_vec(), kind, meta, offset: 0 });
        self
    }

    fn file(mut self, path: impl AsRef<[u8]>, mode: u32, content: &[u8]) -> Self {
        self.content.insert(path.as_ref().to_vec(), content.to_vec());
        let digest = Some(Digest::of(content));
        self.add(path, mode, EntryKind::File { size: content.len() as u64, digest })
    }
}

fn tree() -> Tree {
    Tree::default()
        .add("bin", 0o755, EntryKind::Dir)
        .file("bin/su", 0o4755, b"su")
        .add("bin/sudo", 0o4755, EntryKind::Hardlink(b"bin/su".to_vec()))
        .add("etc", 0o555, EntryKind::Dir)
        .file("etc/passwd", 0o644, b"root")
        .add("lib", 0o777, EntryKind::Symlink(b"/usr/lib".to_vec()))
        .add("pipe", 0o600, EntryKind::Fifo)
        .add("tmp", 0o1777, EntryKind::Dir)
}

/// Everything of the image, in silence.
fn options(mtime: Option<i64>) -> LocalOptions<'static> {
    LocalOptions { mtime, keep_special: true, before_replacing: &|_| {} }
}

#[test]
fn a_directory_gets_modes_times_and_links() -> Result {
    let dir = tempfile::tempdir()?;
    let dest = dir.path().join("out");
    let report = local::write(&tree(), &dest, &options(None), &go_on()?)?;
    assert_eq!(report.written, 8);
    assert_eq!(names_in(dir.path())?, ["out"]);
    assert_eq!(names_in(&dest)?, ["bin", "etc", "lib", "pipe", "tmp"]);
    let meta = |path: &str| fs::symlink_metadata(dest.join(path));
    for (path, mode) in [("bin/su", 0o4755), ("etc", 0o555), ("tmp", 0o1777), ("pipe", 0o600)] {
        assert_eq!(meta(path)?.mode() & 0o7777, mode, "{path}");
    }
    for path in ["bin", "bin/su", "etc", "etc/passwd", "lib", "pipe", "tmp"] {
        assert_eq!(meta(path)?.mtime(), 1_000_000_000, "{path}");
    }
    assert_eq!(meta("bin/su")?.ino(), meta("bin/sudo")?.ino());
    assert_eq!(fs::read_link(dest.join("lib"))?, Path::new("/usr/lib"));

    local::write(&tree(), &dest, &options(Some(7)), &go_on()?)?;
    assert_eq!((meta("bin")?.mtime(), meta("etc/passwd")?.mtime()), (7, 7));
    assert_eq!(names_in(&dest)?, ["bin", "etc", "lib", "pipe", "tmp"]);
    Ok(())
}

#[test]
fn links_at_the_destination_never_lead_out_of_it() -> Result {
    let dir = tempfile::tempdir()?;
    let (dest, outside) = (dir.path().join("out"), dir.path().join("outside"));
    fs::create_dir_all(dest.join("keep"))?;
    fs::create_dir(&outside)?;
    fs::write(outside.join("passwd"), "precious")?;
    symlink(&outside, dest.join("etc"))?;
    symlink(outside.join("passwd"), dest.join("pipe"))?;
    fs::create_dir(dest.join("bin"))?;
    symlink(outside.join("passwd"), dest.join("bin/su"))?;
    local::write(&tree(), &dest, &options(None), &go_on()?)?;
    assert_eq!(names_in(&outside)?, ["passwd"]);
    assert_eq!(fs::read(outside.join("passwd"))?, b"precious");
    assert_eq!(fs::read(dest.join("etc/passwd"))?, b"root");
    assert_eq!(fs::read(dest.join("bin/su"))?, b"su");
    assert!(fs::symlink_metadata(dest.join("etc"))?.is_dir());
    assert_eq!(names_in(&dest)?, ["bin", "etc", "keep", "lib", "pipe", "tmp"]);
    Ok(())
}

#[test]
fn an_image_with_paths_that_lead_out_is_refused() -> Result {
    let dir = tempfile::tempdir()?;
    for bad in ["../x", "/x", "a/../../x", "", "a//b", "./x", "a\0b"] {
        let tree = Tree::default().file(bad, 0o644, b"x");
        let dest = dir.path().join("out");
        assert!(
            matches!(local::write(&tree, &dest, &options(None), &go_on()?), Err(ExportError::Entry { .. })),
            "{bad:?}"
        );
        let archive = Dest::File(dir.path().join("a.tar"));
        assert!(
            matches!(tar::write(&tree, &archive, None, &go_on()?), Err(ExportError::Entry { .. })),
            "{bad:?}"
        );
    }
    // A link of the image itself in the place of a directory.
    let tree = Tree::default()
        .add("a", 0o777, EntryKind::Symlink(dir.path().as_os_str().as_encoded_bytes().to_vec()))
        .file("a/x", 0o644, b"x");
    assert!(local::write(&tree, &dir.path().join("out"), &options(None), &go_on()?).is_err());
    assert!(names_in(dir.path())?.is_empty());
    Ok(())
}

#[test]
fn a_failure_leaves_the_destination_as_it_was() -> Result {
    let dir = tempfile::tempdir()?;
    let dest = dir.path().join("out");
    fs::create_dir_all(dest.join("etc/passwd"))?;
    let in_the_way = local::write(&tree(), &dest, &options(None), &go_on()?);
    assert!(matches!(&in_the_way, Err(ExportError::InTheWay { path }) if path.ends_with("etc/passwd")));
    assert_eq!(names_in(&dest)?, ["etc"]);

    let mut changed = tree();
    changed.content.insert(b"etc/passwd".to_vec(), b"evil".to_vec());
    let mut longer = tree();
    longer.content.insert(b"etc/passwd".to_vec(), b"rootroot".to_vec());
    let mut shorter = tree();
    shorter.content.insert(b"etc/passwd".to_vec(), b"r".to_vec());
    let mut missing = tree();
    missing.content.remove(&b"etc/passwd"[..]);
    for tree in [changed, longer, shorter, missing] {
        let new = dir.path().join("new");
        for result in [
            local::write(&tree, &dest, &options(None), &go_on()?).map(drop),
            local::write(&tree, &new, &options(None), &go_on()?).map(drop),
            tar::write(&tree, &Dest::File(new), None, &go_on()?),
        ] {
            let named = matches!(&result, Err(ExportError::Content { path, .. }) if path == "etc/passwd");
            assert!(named, "{result:?}");
        }
        assert_eq!(names_in(dir.path())?, ["out"]);
        assert_eq!(names_in(&dest)?, ["etc"]);
    }
    Ok(())
}

#[test]
fn a_tar_keeps_what_headers_cannot_say() -> Result {
    let dir = tempfile::tempdir()?;
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    let mut tree = Tree::default()
        .add("dev", 0o755, EntryKind::Dir)
        .add("dev/null", 0o666, EntryKind::CharDevice { major: 1, minor: 3 })
        .add("d".repeat(90), 0o755, EntryKind::Dir)
        .file(&long, 0o640, b"long")
        .add("hard", 0o640, EntryKind::Hardlink(long.clone().into_bytes()))
        .add("link", 0o777, EntryKind::Symlink("ü".repeat(80).into_bytes()))
        .file("raw-\u{ff}".as_bytes(), 0o644, b"")
        .file([b'n', 0xff], 0o644, b"raw");
    tree.entries[3].meta.uid = 3_000_000;
    tree.entries[3].meta.gid = u32::MAX - 1;
    tree.entries[3].meta.mtime = -5;
    tree.entries[3].meta.xattrs = vec![(b"user.a".to_vec(), vec![0, b'=', 255])];
    let path = dir.path().join("a.tar");
    tar::write(&tree, &Dest::File(path.clone()), None, &go_on()?)?;
    let again = dir.path().join("b.tar");
    tar::write(&tree, &Dest::File(again.clone()), None, &go_on()?)?;
    assert!(fs::read(&path)? == fs::read(again)?);

    let mut archive = ::tar::Archive::new(fs::File::open(&path)?);
    let mut seen = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path_bytes().into_owned();
        if name == long.as_bytes() {
            let pax: BTreeMap<String, Vec<u8>> = entry
                .pax_extensions()?
                .into_iter()
                .flatten()
                .flatten()
                .map(|record| (record.key().unwrap_or("?").to_owned(), record.value_bytes().to_vec()))
                .collect();
            assert_eq!(pax.get("uid").map(Vec::as_slice), Some(&b"3000000"[..]));
            assert_eq!(pax.get("gid").map(Vec::as_slice), Some(&b"4294967294"[..]));
            assert_eq!(pax.get("mtime").map(Vec::as_slice), Some(&b"-5"[..]));
            assert_eq!(pax.get("SCHILY.xattr.user.a").map(Vec::as_slice), Some(&[0, b'=', 255][..]));
            let mut content = String::new();
            entry.read_to_string(&mut content)?;
            assert_eq!(content, "long");
        }
        let link = entry.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        seen.push((name, link));
    }
    let slash = |name: &str| format!("{name}/").into_bytes();
    let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![
        (slash("dev"), vec![]),
        (b"dev/null".to_vec(), vec![]),
        (slash(&"d".repeat(90)), vec![]),
        (long.clone().into_bytes(), vec![]),
        (b"hard".to_vec(), long.into_bytes()),
        (b"link".to_vec(), "ü".repeat(80).into_bytes()),
        ("raw-ÿ".as_bytes().to_vec(), vec![]),
        (vec![b'n', 0xff], vec![]),
    ];
    assert_eq!(seen, expected);
    Ok(())
}

#[test]
fn cancelling_leaves_nothing() -> Result {
    let dir = tempfile::tempdir()?;
    let stop = go_on()?;
    stop.cancel();
    let out = dir.path().join("out");
    assert!(matches!(local::write(&tree(), &out, &options(None), &stop), Err(ExportError::Canceled)));
    assert!(matches!(tar::write(&tree(), &Dest::File(out), None, &stop), Err(ExportError::Canceled)));
    assert!(names_in(dir.path())?.is_empty());
    Ok(())
}

#[test]
fn device_nodes_are_made_or_reported() -> Result {
    let dir = tempfile::tempdir()?;
    let dest = dir.path().join("out");
    let tree = Tree::default()
        .add("null", 0o666, EntryKind::CharDevice { major: 1, minor: 3 })
        .add("null2", 0o666, EntryKind::Hardlink(b"null".to_vec()))
        .file("plain", 0o644, b"x");
    let report = local::write(&tree, &dest, &options(None), &go_on()?)?;
    let made = names_in(&dest)?;
    if report.skipped_devices.is_empty() {
        assert_eq!(made, ["null", "null2", "plain"]);
        assert_eq!(fs::metadata(dest.join("null"))?.rdev(), rustix::fs::makedev(1, 3));
    } else {
        assert_eq!(report.skipped_devices, [b"null".to_vec(), b"null2".to_vec()]);
        assert_eq!(made, ["plain"]);
    }
    assert_eq!(report.written, made.len());
    Ok(())
}

#[test]
fn nothing_lends_the_rights_of_the_builder_unless_asked_for() -> Result {
    let dir = tempfile::tempdir()?;
    let tree = Tree::default()
        .add("bin", 0o2755, EntryKind::Dir)
        .file("bin/both", 0o6755, b"x")
        .add("bin/name", 0o6755, EntryKind::Hardlink(b"bin/both".to_vec()))
        .file("bin/plain", 0o755, b"x")
        .add("null", 0o666, EntryKind::CharDevice { major: 1, minor: 3 })
        .add("null2", 0o666, EntryKind::Hardlink(b"null".to_vec()))
        .add("disk", 0o666, EntryKind::BlockDevice { major: 254, minor: 0 })
        .add("tmp", 0o1777, EntryKind::Dir);
    for exists in [false, true] {
        let dest = dir.path().join(format!("out-{exists}"));
        if exists {
            fs::create_dir(&dest)?;
        }
        let options = LocalOptions { keep_special: false, ..options(None) };
        let report = local::write(&tree, &dest, &options, &go_on()?)?;
        assert_eq!(names_in(&dest)?, ["bin", "tmp"]);
        for (path, mode) in [("bin", 0o755), ("bin/both", 0o755), ("bin/name", 0o755), ("tmp", 0o1777)] {
            assert_eq!(fs::symlink_metadata(dest.join(path))?.mode() & 0o7777, mode, "{path}");
        }
        assert_eq!(report.without_set_id, [b"bin".to_vec(), b"bin/both".to_vec()]);
        assert_eq!(report.skipped_devices, [b"null".to_vec(), b"null2".to_vec(), b"disk".to_vec()]);
    }
    Ok(())
}

#[test]
fn what_is_replaced_is_told_before_it_is_and_once() -> Result {
    let dir = tempfile::tempdir()?;
    let dest = dir.path().join("out");
    fs::create_dir_all(dest.join("bin"))?;
    fs::set_permissions(dest.join("bin"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    fs::write(dest.join("bin/su"), "mine")?;
    fs::write(dest.join("kept"), "mine")?;
    symlink("kept", dest.join("etc"))?;
    let told = std::cell::RefCell::new(Vec::new());
    let tell = |replaced: &Replaced| {
        assert_eq!(fs::read(dest.join("bin/su")).ok().as_deref(), Some(&b"mine"[..]));
        told.borrow_mut().push(replaced.clone());
    };
    let options = LocalOptions { before_replacing: &tell, ..options(None) };
    local::write(&tree(), &dest, &options, &go_on()?)?;
    let files = vec![b"bin/su".to_vec(), b"etc".to_vec()];
    assert_eq!(*told.borrow(), [Replaced { files, modes: vec![b"bin".to_vec()] }]);
    assert_eq!(fs::read(dest.join("kept"))?, b"mine");

    // The next image replaces files of the first, and where the mark cannot be kept that is told again.
    let marked = rustix::fs::getxattr(&dest, "user.rbuild.output", &mut [0u8; 8][..]).is_ok();
    let quiet = |_: &Replaced| assert!(!marked);
    let options = LocalOptions { before_replacing: &quiet, ..options };
    local::write(&tree().file("new", 0o644, b"x"), &dest, &options, &go_on()?)?;
    local::write(&Tree::default().file("new", 0o600, b"xyz"), &dest, &options, &go_on()?)?;
    Ok(())
}
