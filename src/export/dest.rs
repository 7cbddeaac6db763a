//! Destinations, and the temporaries that become them.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::fs::{self, descriptor_of, inherited};

use super::error::ExportError;

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dest {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl Dest {
    /// `-` is standard output; anything else a path relative to `cwd`.
    pub fn parse(text: &str, cwd: &Path) -> Self {
        if text == "-" { Dest::Stdout } else { Dest::File(cwd.join(text)) }
    }
}

/// Refuses a place where an output cannot begin, before there is anything to write: an archive needs a directory to
/// be in, and is none itself; what is a `directory` needs no file in its way.
pub fn check_place(path: &Path, directory: bool) -> Result<(), ExportError> {
    match std::fs::metadata(path) {
        Ok(meta) if directory && !meta.is_dir() => Err(ExportError::NotADirectory { path: path.to_owned() }),
        Ok(meta) if !directory && meta.is_dir() => Err(ExportError::IsDirectory { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !directory => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            match parent.map(std::fs::metadata) {
                Some(Err(error)) => Err(no_place(path, error)),
                _ => Ok(()),
            }
        }
        // Whatever else is wrong is said when it is written.
        _ => Ok(()),
    }
}

/// An archive being written.
pub(super) struct Output {
    file: io::BufWriter<File>,
    path: PathBuf,
    partial: Option<Partial>,
}

impl Output {
    /// Begins an archive. What this process has open, a device or a pipe is written to directly, a file by way of
    /// a temporary, which takes the place of a link too.
    pub(super) fn create(dest: &Dest) -> Result<Self, ExportError> {
        let path = match dest {
            Dest::Stdout => return Self::stdout(),
            Dest::File(path) => path,
        };
        if let Some(number) = descriptor_of(path) {
            let file = inherited(number).map_err(ExportError::io("write", path))?;
            if rustix::termios::isatty(&file) {
                return Err(ExportError::Terminal);
            }
            return Ok(Output {
                file: io::BufWriter::with_capacity(1 << 18, file),
                path: path.clone(),
                partial: None,
            });
        }
        if std::fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            return Err(ExportError::IsDirectory { path: path.clone() });
        }
        let (file, path, partial) = match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                let flags = (OFlags::NOFOLLOW | OFlags::NOCTTY).bits().cast_signed();
                let opened = File::options().write(true).custom_flags(flags).open(path);
                (opened.map_err(ExportError::io("open", path))?, path.clone(), None)
            }
            Ok(_) => Self::beside(path.clone())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::beside(path.clone())?,
            Err(error) => return Err(ExportError::io("write", path)(error)),
        };
        Ok(Output { file: io::BufWriter::with_capacity(1 << 18, file), path, partial })
    }

    fn beside(path: PathBuf) -> Result<(File, PathBuf, Option<Partial>), ExportError> {
        let (partial, file) = Partial::create(&path)?;
        Ok((file, path, Some(partial)))
    }

    fn stdout() -> Result<Self, ExportError> {
        let path = PathBuf::from("standard output");
        // The archive must not mix with buffered text, and the standard library's
        // stream would scan it for line ends; a descriptor of our own does neither.
        let stdout = io::stdout();
        if rustix::termios::isatty(&stdout) {
            return Err(ExportError::Terminal);
        }
        let fd = rustix::io::fcntl_dupfd_cloexec(&stdout, 3).map_err(ExportError::io("open", &path))?;
        let file = io::BufWriter::with_capacity(1 << 18, File::from(fd));
        Ok(Output { file, path, partial: None })
    }

    /// The destination, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the archive visible under its name.
    pub(super) fn finish(mut self) -> Result<(), ExportError> {
        self.file.flush().map_err(ExportError::io("write", &self.path))?;
        match self.partial.take() {
            Some(partial) => partial.rename_to(&self.path),
            None => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A temporary file beside its destination; removed on drop unless it was renamed.
pub(super) struct Partial {
    path: tempfile::TempPath,
}

impl Partial {
    pub(super) fn create(target: &Path) -> Result<(Self, File), ExportError> {
        let made = fs::new_file_beside(target, 0o666).map_err(|error| no_place(target, error))?;
        let (file, path) = made.into_parts();
        Ok((Partial { path }, file))
    }

    /// Gives it its final name.
    pub(super) fn rename_to(self, target: &Path) -> Result<(), ExportError> {
        self.path.persist(target).map_err(|failed| ExportError::io("write", target)(failed.error))
    }
}

/// A directory being filled where nobody else can look, beside its destination; removed on drop unless
/// it was renamed.
pub(super) struct PartialDir {
    /// The directory that keeps others out. The one inside has the permissions of any new directory.
    around: PathBuf,
    path: PathBuf,
}

impl PartialDir {
    pub(super) fn create(target: &Path) -> Result<Self, ExportError> {
        let made = fs::make_beside(target, fs::make_private_dir).map_err(|error| no_place(target, error))?;
        let around = made.into_temp_path().keep().map_err(|failed| no_place(target, failed.error))?;
        let partial = PartialDir { path: around.join("files"), around };
        std::fs::create_dir(&partial.path).map_err(ExportError::io("write", target))?;
        Ok(partial)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name.
    pub(super) fn rename_to(self, target: &Path) -> Result<(), ExportError> {
        std::fs::rename(&self.path, target).map_err(ExportError::io("write", target))
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        let _ = fs::remove_tree(&self.around);
    }
}

fn no_place(target: &Path, error: io::Error) -> ExportError {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let parent = target.parent().unwrap_or(target).to_owned();
            ExportError::NoParent { path: target.to_owned(), parent }
        }
        _ => ExportError::io("write", target)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_is_filled_out_of_reach_and_then_like_any_new_one() -> Result<(), Box<dyn std::error::Error>>
    {
        let dir = tempfile::tempdir()?;
        let mode = |path: &Path| std::fs::metadata(path).map(|meta| meta.permissions().mode() & 0o7777);
        let (dest, plain) = (dir.path().join("dest"), dir.path().join("plain"));
        std::fs::create_dir(&plain)?;
        let partial = PartialDir::create(&dest)?;
        assert_eq!(mode(&partial.around)?, 0o700);
        partial.rename_to(&dest)?;
        assert_eq!(mode(&dest)?, mode(&plain)?);
        drop(PartialDir::create(&dest)?);
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 2);
        Ok(())
    }
}
