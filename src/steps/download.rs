//! A downloaded file as a source of files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::context::ignore::PatternSet;
use crate::context::{ContextError, FileInfo, FileKind, FileSource, Missing, Opened};
use crate::remote::HttpFile;

use super::copy::Selected;
use super::place::Selection;

/// What a downloaded file gets (BuildKit's `llb.HTTP`).
const DOWNLOAD_MODE: u32 = 0o600;

/// A downloaded file, selected.
pub(super) fn download_selected(url: &str, file: &HttpFile) -> Selected {
    let info = FileInfo {
        path: file.name.clone().into_bytes(),
        kind: FileKind::File { size: file.size },
        mode: DOWNLOAD_MODE,
        uid: 0,
        gid: 0,
        mtime: (file.last_modified.unwrap_or(0), 0),
        ino: 0,
        dev: 0,
        nlink: 1,
        ctime: (0, 0),
        xattrs: Vec::new(),
    };
    let source = Arc::new(Download { path: file.path.clone(), info: info.clone() });
    let name = info.path.clone();
    Selected {
        pattern: url.to_owned(),
        source,
        selections: vec![Selection {
            name: name.clone(),
            is_dir: false,
            files: vec![info],
            strip: 0,
            implied: Vec::new(),
            dir_mtime: None,
        }],
        digests: vec![vec![Some(file.digest)]],
        place: name,
        settled: None,
    }
}

/// One downloaded file as a source of files.
struct Download {
    path: PathBuf,
    info: FileInfo,
}

impl Download {
    fn missing(&self, path: &[u8]) -> ContextError {
        ContextError::NotFound { root: self.path.clone(), path: path.to_vec() }
    }
}

impl FileSource for Download {
    fn root(&self) -> &Path {
        &self.path
    }

    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        Ok((path == self.info.path).then(|| self.info.clone()))
    }

    fn resolve(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        self.stat(path)
    }

    fn list(&self, path: &[u8], _: Option<&PatternSet>) -> Result<Vec<FileInfo>, ContextError> {
        Ok(self.stat(path)?.into_iter().collect())
    }

    fn select(
        &self,
        path: &[u8],
        _: &PatternSet,
        _: Option<&PatternSet>,
    ) -> Result<Vec<FileInfo>, ContextError> {
        Err(self.missing(path))
    }

    fn glob(&self, _: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
        Ok(Vec::new())
    }

    fn open(&self, path: &[u8]) -> Result<Opened, ContextError> {
        if path != self.info.path {
            return Err(self.missing(path));
        }
        let failed = |source| ContextError::Read { path: self.path.clone(), source };
        File::open(&self.path).map(Opened::File).map_err(failed)
    }

    fn nearest(&self, _: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }

    fn why_missing(&self, _: &[u8]) -> Missing {
        Missing::NotThere { nearest: Vec::new() }
    }
}
