//! A store is for one user alone: it holds setuid programs, device nodes and secrets of images, which
//! nobody else may reach.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::fs::make_private_dir;

use super::open::{Store, StoreError};

/// Permissions of others.
const OTHERS: u32 = 0o077;

impl Store {
    /// Refuses a root that is there and belongs to another user. An ordinary user has to ask this before
    /// entering a user namespace, where all other users look the same.
    pub fn refuse_foreign(root: &Path) -> Result<(), StoreError> {
        match fs::metadata(root) {
            Ok(meta) => check_owner(root, meta.uid()),
            // Opening the store says what is wrong.
            Err(_) => Ok(()),
        }
    }
}

/// Makes the root, or makes sure that it is the caller's and closes it. Gives its real path, and the
/// permissions that others had.
pub(super) fn claim(root: &Path) -> Result<(PathBuf, Option<u32>), StoreError> {
    let root = match fs::canonicalize(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_root(root)?;
            fs::canonicalize(root)
        }
        other => other,
    }
    .map_err(StoreError::io("open", root))?;
    let meta = fs::symlink_metadata(&root).map_err(StoreError::io("open", &root))?;
    check_owner(&root, meta.uid())?;
    let narrowed = narrow(&root)?;
    Ok((root, narrowed))
}

fn make_root(root: &Path) -> Result<(), StoreError> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
    }
    match make_private_dir(root) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(StoreError::io("create", root)),
    }
}

fn check_owner(root: &Path, owner: u32) -> Result<(), StoreError> {
    let caller = rustix::process::geteuid().as_raw();
    if owner == caller {
        return Ok(());
    }
    Err(StoreError::Foreign { path: root.to_owned(), owner: named(owner), caller: named(caller) })
}

/// `NAME (uid N)`, by `/etc/passwd`.
fn named(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    match lines.find(|fields| fields.get(2) == Some(&number.as_str())) {
        Some(fields) => format!("{} (uid {uid})", fields[0]),
        None => format!("uid {uid}"),
    }
}

/// Takes the permissions of others on a directory away; gives those it had, if there were any.
pub(super) fn narrow(dir: &Path) -> Result<Option<u32>, StoreError> {
    let open = open_dir(dir)?;
    let mode = |file: &File| file.metadata().map(|meta| meta.permissions().mode() & 0o7777);
    let found = mode(&open).map_err(StoreError::io("open", dir))?;
    if found & OTHERS == 0 {
        return Ok(None);
    }
    let closed = open.set_permissions(Permissions::from_mode(0o700));
    // Some file systems accept any mode and have another.
    match closed.and_then(|()| mode(&open)) {
        Ok(now) if now & OTHERS == 0 => Ok(Some(found)),
        _ => Err(StoreError::Open { path: dir.to_owned(), mode: found }),
    }
}

pub(super) fn open_dir(dir: &Path) -> Result<File, StoreError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(dir)
        .map_err(failed("open", dir))
}

/// Makes a directory of the store unless there is one. A link is none.
pub(super) fn make_room(dir: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(dir) {
        // Whoever made it could change it as long as they have it open.
        Ok(meta) if meta.is_dir() => check_owner(dir, meta.uid()),
        Ok(meta) if meta.is_symlink() => Err(StoreError::Link { path: dir.to_owned() }),
        _ => super::files::make_dir(dir),
    }
}

/// Refuses a link, and a directory of somebody else, where the store has a directory or will have one.
pub(super) fn refuse_planted(dir: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_symlink() => Err(StoreError::Link { path: dir.to_owned() }),
        Ok(meta) => check_owner(dir, meta.uid()),
        Err(_) => Ok(()),
    }
}

/// Opens a file of the store, following no link and waiting for nobody: opening a pipe that nobody writes to would
/// last for ever, and no signal would end it. What is no regular file is an error.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.mode(0o600).custom_flags(flags.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file")),
    }
}

/// As [`StoreError::io`]; a link where the store has none is named as such.
pub(super) fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| {
        let link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP | Errno::NOTDIR) if link => StoreError::Link { path: path.to_owned() },
            _ => StoreError::Io { action, path: path.to_owned(), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn mode(path: &Path) -> io::Result<u32> {
        fs::metadata(path).map(|meta| meta.permissions().mode() & 0o7777)
    }

    #[test]
    fn a_store_and_all_its_directories_are_their_owners_alone() -> Outcome {
        let dir = tempfile::tempdir()?;
        let root = dir.path().join("a/b/store");
        let store = Store::open(&root)?;
        assert_eq!((mode(&root)?, store.narrowed()), (0o700, None));
        store.put_record_bytes(&crate::digest::Digest::of(b"key"), b"value")?;
        let temporary = store.temp_dir()?;
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            assert_eq!(mode(&dir)?, 0o700, "{}", dir.display());
            for entry in fs::read_dir(&dir)? {
                dirs.extend(Some(entry?.path()).filter(|path| path.is_dir()));
            }
        }
        drop(temporary);
        Ok(())
    }

    #[test]
    fn a_wide_store_is_closed_once_with_all_its_rooms() -> Outcome {
        let dir = tempfile::tempdir()?;
        drop(Store::open(dir.path())?);
        for path in [dir.path().to_owned(), dir.path().join("blobs"), dir.path().join("tmp")] {
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        assert_eq!(Store::open(dir.path())?.narrowed(), Some(0o755));
        assert_eq!(Store::open(dir.path())?.narrowed(), None);
        assert_eq!((mode(dir.path())?, mode(&dir.path().join("blobs"))?), (0o700, 0o700));
        Ok(())
    }

    #[test]
    fn links_with_the_names_of_the_store_are_not_followed() -> Outcome {
        let files = ["lock", "gate", "collect", "version", "blocks", "spare", "secret-key"];
        let later = ["git", "builds", "logs", "told"];
        for name in files.into_iter().chain(["tmp", "refs", "blobs"]).chain(later) {
            let dir = tempfile::tempdir()?;
            let (root, outside) = (dir.path().join("s"), dir.path().join("outside"));
            drop(Store::open(&root)?);
            let place = root.join(name);
            let was_dir = place.is_dir() || later.contains(&name);
            if place.exists() {
                crate::fs::remove_tree(&place)?;
            }
            if was_dir {
                fs::create_dir(&outside)?;
            }
            symlink(&outside, &place)?;
            let used = Store::open(&root).and_then(|store| {
                store.put_reference("name", b"{}")?;
                store.append_block_table(b"row")?;
                store.secret_key()?;
                store.collector(std::time::Duration::ZERO).map(drop)
            });
            let error = used.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(name == "spare" || error.contains("is a link"), "{name}: {error:?}");
            let made = if was_dir { fs::read_dir(&outside)?.count() } else { outside.exists().into() };
            assert_eq!(made, 0, "{name}");
        }
        Ok(())
    }
}
