//! Destinations, and the temporaries that become them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// An archive being written.
pub(super) struct Output {
    file: io::BufWriter<File>,
    path: PathBuf,
    partial: Option<Partial>,
}

impl Output {
    /// Begins an archive. A device or pipe is written to directly, a file by way of a temporary.
    pub(super) fn create(dest: &Dest) -> Result<Self, ExportError> {
        let path = match dest {
            Dest::Stdout => return Self::stdout(),
            Dest::File(path) => path,
        };
        let (file, path, partial) = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(ExportError::IsDirectory { path: path.clone() }),
            Ok(meta) if !meta.is_file() => {
                let file = File::options().write(true).open(path).map_err(ExportError::io("open", path))?;
                (file, path.clone(), None)
            }
            // Renaming over a link would replace the link, not the file it names.
            Ok(_) => Self::beside(fs::canonicalize(path).map_err(ExportError::io("resolve", path))?)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::beside(path.clone())?,
            Err(error) => return Err(ExportError::io("write", path)(error)),
        };
        Ok(Output { file: io::BufWriter::with_capacity(1 << 18, file), path, partial })
    }

    fn beside(path: PathBuf) -> Result<(File, PathBuf, Option<Partial>), ExportError> {
        let (partial, file) =
            Partial::create(&path, |temporary| File::options().write(true).create_new(true).open(temporary))?;
        Ok((file, path, Some(partial)))
    }

    fn stdout() -> Result<Self, ExportError> {
        let path = PathBuf::from("standard output");
        // The archive must not mix with buffered text, and the standard library.s
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

/// A temporary file or directory; removed on drop unless it was renamed.
pub(super) struct Partial {
    path: Option<PathBuf>,
}

impl Partial {
    /// Makes a temporary beside `target` with `make`, which must fail where the name is taken.
    pub(super) fn create<T>(
        target: &Path,
        make: impl Fn(&Path) -> io::Result<T>,
    ) -> Result<(Self, T), ExportError> {
        let write = |error| ExportError::io("write", target)(error);
        let name = target.file_name().ok_or_else(|| write(io::ErrorKind::InvalidInput.into()))?;
        for number in 0.. {
            let mut temporary = name.to_owned();
            temporary.push(format!(".partial-{}-{number}", std::process::id()));
            let path = target.with_file_name(temporary);
            match make(&path) {
                Ok(made) => return Ok((Partial { path: Some(path) }, made)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let parent = target.parent().unwrap_or(target).to_owned();
                    return Err(ExportError::NoParent { path: target.to_owned(), parent });
                }
                Err(error) => return Err(write(error)),
            }
        }
        Err(write(io::ErrorKind::AlreadyExists.into()))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives it its final name.
    pub(super) fn rename_to(mut self, target: &Path) -> Result<(), ExportError> {
        fs::rename(self.path(), target).map_err(ExportError::io("write", target))?;
        self.path = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if fs::remove_file(&path).is_err() && fs::remove_dir_all(&path).is_err() {
            // An image's directories may lack the permissions that removing them needs.
            open_up(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
