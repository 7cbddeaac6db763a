//! Making things that are new for certain, and that nobody else can reach before they are ready.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use tempfile::NamedTempFile;

/// Makes a directory that is its owner's alone from its first moment on.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes a new file beside `target`, under a name that cannot be guessed and that was not taken, not
/// even by a link. The caller writes and `persist`s it as `target`; dropped, it is removed. `mode` is
/// subject to the umask.
pub fn new_file_beside(target: &Path, mode: u32) -> io::Result<NamedTempFile> {
    make_beside(target, |path| File::options().write(true).create_new(true).mode(mode).open(path))
}

/// As [`new_file_beside`], with any kind of file: `make` must fail where the name is taken. To remove a
/// directory is the caller's.
pub fn make_beside<T>(
    target: &Path,
    make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<NamedTempFile<T>> {
    let mut name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".");
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(&name).suffix(".partial").rand_bytes(12).make_in(parent, make)
}
