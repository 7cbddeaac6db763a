//! A directory as a tar that [`super::unpack_archive`] reads.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::FileType;

use crate::fs::Root;

/// Packs the files below `dir`, sorted by name, with their modes, one time for all (seconds since 1970) and no
/// owners: the same tree gives the same bytes. The directory itself is left out. Fails on anything but files,
/// directories and links.
pub fn pack_tree(dir: &Path, time: i64, to: impl Write) -> io::Result<()> {
    let root = Root::open(dir)?;
    let mut entries = root.walk()?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut tar = tar::Builder::new(to);
    for entry in entries {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode());
        header.set_mtime(u64::try_from(time).unwrap_or(0));
        header.set_size(0);
        match entry.file_type() {
            FileType::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, path, io::empty())?;
            }
            FileType::RegularFile => {
                header.set_entry_type(tar::EntryType::Regular);
                let file = root.open_file(&entry.path)?;
                header.set_size(file.metadata()?.len());
                tar.append_data(&mut header, path, file)?;
            }
            FileType::Symlink => {
                header.set_entry_type(tar::EntryType::Symlink);
                let target = root.read_link(&entry.path)?;
                tar.append_link(&mut header, path, OsStr::from_bytes(&target))?;
            }
            other => {
                let message = format!("{} is neither file, directory nor link: {other:?}", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        }
    }
    tar.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn what_is_packed_unpacks_as_it_was() -> Result<(), Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let long = "l".repeat(150);
        fs::create_dir_all(from.join(&long).join("empty"))?;
        fs::write(from.join("run.sh"), "#!/bin/sh\n")?;
        fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o755))?;
        fs::write(from.join(&long).join("é"), vec![7; 3000])?;
        symlink("../run.sh", from.join(&long).join("link"))?;
        symlink(format!("a/{long}"), from.join("dangling"))?;
        let (mut one, mut two) = (Vec::new(), Vec::new());
        pack_tree(&from, 1_000_000, &mut one)?;
        crate::context::unpack_archive(&one[..], &to)?;
        pack_tree(&to, 1_000_000, &mut two)?;
        assert!(one == two);
        assert_eq!(fs::metadata(to.join("run.sh"))?.permissions().mode() & 0o777, 0o755);
        let time = fs::metadata(to.join("run.sh"))?.modified()?;
        assert_eq!(time.duration_since(std::time::UNIX_EPOCH)?.as_secs(), 1_000_000);
        assert_eq!(fs::read_link(to.join("dangling"))?, Path::new(&format!("a/{long}")));
        assert!(to.join(&long).join("empty").is_dir());
        Ok(())
    }
}
