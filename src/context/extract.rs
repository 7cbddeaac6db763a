//! Unpacking a context that came as a tar stream, confined to its directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// A file larger than this many entries is a bomb.
const MAX_ENTRIES: usize = 2_000_000;

/// Unpacks a tar into `dir`, which must be empty. Entries that would leave it are an error; links
/// are created but never written through; devices are refused.
pub fn extract(reader: impl Read, dir: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    let mut times = Vec::new();
    for (count, entry) in archive.entries()?.enumerate() {
        if count > MAX_ENTRIES {
            return Err(invalid("too many entries in the archive"));
        }
        let mut entry = entry?;
        let Some(relative) = confined(&entry.path_bytes())? else { continue };
        let target = dir.join(super::walk::os_path(&relative));
        make_parents(dir, &relative)?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o7777;
        let mtime = entry.header().mtime().unwrap_or(0);
        place(&mut entry, dir, &target, mode)?;
        if entry.header().entry_type().is_dir() {
            times.push((target, mtime));
        } else if entry.header().entry_type().is_file() {
            set_time(&target, mtime)?;
        }
    }
    for (path, mtime) in times.into_iter().rev() {
        set_time(&path, mtime)?;
    }
    Ok(())
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn confined(path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|c| *c == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(invalid(format!("{:?} leaves the archive", String::from_utf8_lossy(path)))),
            part => parts.push(part),
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join(&b'/')))
}

/// Every parent must be a real directory made here: a link among them is an error.
fn make_parents(dir: &Path, relative: &[u8]) -> io::Result<()> {
    let mut at: PathBuf = dir.to_owned();
    let mut parts: Vec<&[u8]> = relative.split(|c| *c == b'/').collect();
    parts.pop();
    for part in parts {
        at.push(super::walk::os_path(part));
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(invalid(format!("{} is not a directory in the archive", at.display()))),
            Err(_) => fs::create_dir(&at)?,
        }
    }
    Ok(())
}

fn place<R: Read>(entry: &mut tar::Entry<'_, R>, dir: &Path, target: &Path, mode: u32) -> io::Result<()> {
    use tar::EntryType;
    let kind = entry.header().entry_type();
    if kind == EntryType::Directory {
        if !fs::symlink_metadata(target).is_ok_and(|meta| meta.is_dir()) {
            let _ = fs::remove_file(target);
            fs::create_dir(target)?;
        }
        return fs::set_permissions(target, fs::Permissions::from_mode(mode | 0o700));
    }
    if fs::symlink_metadata(target).is_ok_and(|meta| !meta.is_dir()) {
        fs::remove_file(target)?;
    }
    match kind {
        EntryType::Regular | EntryType::Continuous => {
            let mut file = File::options().write(true).create_new(true).open(target)?;
            io::copy(entry, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        }
        EntryType::Symlink => {
            let link = entry.link_name_bytes().unwrap_or_default();
            symlink(super::walk::os_path(&link), target)
        }
        EntryType::Link => {
            let link = entry.link_name_bytes().unwrap_or_default();
            let Some(relative) = confined(&link)? else { return Err(invalid("hard link to nothing")) };
            make_parents(dir, &relative)?;
            fs::hard_link(dir.join(super::walk::os_path(&relative)), target)
        }
        EntryType::XGlobalHeader | EntryType::XHeader => Ok(()),
        other => Err(invalid(format!("{}: entries of type {other:?} are not supported", target.display()))),
    }
}

fn set_time(path: &Path, mtime: u64) -> io::Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime);
    File::open(path)?.set_modified(time).or(Ok(()))
}
