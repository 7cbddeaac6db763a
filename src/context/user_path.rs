//! Paths as users write them.

use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A path or an address as the user wrote it. Paths may be any bytes; addresses, and what is shown, are text,
/// which this is as a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPath {
    path: PathBuf,
    text: String,
}

impl From<OsString> for UserPath {
    fn from(path: OsString) -> Self {
        UserPath { text: path.to_string_lossy().into_owned(), path: path.into() }
    }
}

impl From<PathBuf> for UserPath {
    fn from(path: PathBuf) -> Self {
        path.into_os_string().into()
    }
}

impl From<&str> for UserPath {
    fn from(text: &str) -> Self {
        UserPath { path: text.into(), text: text.to_owned() }
    }
}

impl From<String> for UserPath {
    fn from(text: String) -> Self {
        UserPath { path: text.clone().into(), text }
    }
}

impl Deref for UserPath {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl AsRef<Path> for UserPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for UserPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
