//! Files that get the outcome of a build: `--iidfile`, `--metadata-file`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, OFlags, StatxAttributes, StatxFlags, accessat, statx};

use crate::build::{Failure, FailureKind};
use crate::fs::{descriptor_of, inherited, new_file_beside};

/// A place that is known to take a result.
pub(super) struct ResultFile {
    path: PathBuf,
    place: Place,
}

enum Place {
    /// A file, replaced as a whole.
    File,
    /// A file that cannot be replaced: something is mounted on it, as Kubernetes does with
    /// `/dev/termination-log`, or its directory takes no files.
    Mounted,
    /// A pipe or device.
    Special,
    /// What the caller left open, as process substitution does.
    Open(File),
}

impl ResultFile {
    /// Looks at the place before anything is built.
    pub(super) fn check(path: Option<&Path>) -> Result<Option<Self>, Failure> {
        let Some(path) = path else { return Ok(None) };
        let failed = |error| failure(path, &error);
        let place = match descriptor_of(path) {
            Some(number) => Place::Open(inherited(number).map_err(failed)?),
            None => place(path).map_err(failed)?,
        };
        Ok(Some(ResultFile { path: path.to_owned(), place }))
    }

    /// Removes what an earlier build left, so that it is not taken for the outcome of one that fails.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        match self.place {
            Place::File => {}
            Place::Mounted => {
                return opened(&self.path, true).map(drop).map_err(|error| failure(&self.path, &error));
            }
            Place::Special | Place::Open(_) => return Ok(()),
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure(&self.path, &error)),
            _ => Ok(()),
        }
    }

    /// Writes the result: a file appears whole or not at all, and never through a link.
    pub(super) fn write(self, content: &[u8]) -> Result<(), Failure> {
        let written = match self.place {
            Place::Open(mut file) => file.write_all(content),
            Place::Special => opened(&self.path, false).and_then(|mut file| file.write_all(content)),
            Place::Mounted => opened(&self.path, true).and_then(|mut file| file.write_all(content)),
            Place::File => new_file_beside(&self.path, 0o666).and_then(|mut file| {
                file.write_all(content)?;
                Ok(file.persist(&self.path).map(drop)?)
            }),
        };
        written.map_err(|error| failure(&self.path, &error))
    }
}

/// Opens what is there and no link.
fn opened(path: &Path, truncate: bool) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().write(true).truncate(truncate).custom_flags(flags).open(path)
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Output, format!("cannot write {}: {error}", path.display()))
}

fn place(path: &Path) -> io::Result<Place> {
    let writable = |path: &Path, access| Ok(accessat(CWD, path, access, AtFlags::EACCESS)?);
    match fs::symlink_metadata(path).map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(kind) if kind.is_socket() => return Err(io::Error::other("it is a socket")),
        Ok(kind) if kind.is_block_device() => return Err(io::Error::other("it is a block device")),
        Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
            return writable(path, Access::WRITE_OK).map(|()| Place::Special);
        }
        Ok(kind) if kind.is_file() && is_mount(path) => {
            return writable(path, Access::WRITE_OK).map(|()| Place::Mounted);
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if path.file_name().is_none() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(io::Error::other(format!("{} is not a directory", dir.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::other(format!("the directory {} does not exist", dir.display())))
        }
        Err(error) => Err(error),
        Ok(_) => match writable(dir, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(Place::File),
            Err(_) if path.is_file() && writable(path, Access::WRITE_OK).is_ok() => Ok(Place::Mounted),
            Err(error) => Err(error),
        },
    }
}

/// Whether something is mounted on a file. Kernels before 5.8 do not know.
fn is_mount(path: &Path) -> bool {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn check(path: &Path) -> Result<ResultFile, String> {
        match ResultFile::check(Some(path)) {
            Ok(file) => file.ok_or_else(String::new),
            Err(failure) => Err(failure.message),
        }
    }

    #[test]
    fn a_result_replaces_a_link_and_not_what_it_leads_to() -> Outcome {
        let dir = tempfile::tempdir()?;
        let (path, victim) = (dir.path().join("id"), dir.path().join("victim"));
        fs::write(&victim, "precious")?;
        symlink(&victim, &path)?;
        let file = check(&path)?;
        file.write(b"one").map_err(|failure| failure.message)?;
        assert_eq!(
            (fs::read_to_string(&victim)?.as_str(), fs::read_to_string(&path)?.as_str()),
            ("precious", "one")
        );
        let file = check(&path)?;
        file.clear().map_err(|failure| failure.message)?;
        assert!(!path.exists());
        drop(file);
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }

    #[test]
    fn places_that_take_no_result_are_named_before_the_build() -> Outcome {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("file"), "")?;
        for (path, why) in
            [("missing/id", "does not exist"), ("file/id", "ot a directory"), ("", "directory")]
        {
            let message = check(&dir.path().join(path)).err().ok_or("accepted")?;
            assert!(message.contains(why), "{path}: {message}");
        }
        // Open, but by this program: a file of the store, for instance.
        let open = File::options().write(true).open(dir.path().join("file"))?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        assert!(check(Path::new(&format!("/dev/fd/{number}"))).is_err());
        Ok(())
    }
}
