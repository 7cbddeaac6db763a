//! A directory of the user's machine as a source of files.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::digest::Digest;

use super::glob::{Glob, has_wildcard};
use super::ignore::{IgnoreRules, RuleRef};
use super::source::ContextError;
use super::walk::{FileInfo, FileKind, Walker, os_path, stat_at};

/// More links than this in one path is a loop.
const MAX_LINKS: usize = 40;
/// Names offered for a path that is missing.
const SUGGESTIONS: usize = 3;

/// A set of patterns in ignore-file syntax, as `--exclude` takes them.
#[derive(Clone, Debug)]
pub struct PatternSet(IgnoreRules);

impl PatternSet {
    /// Compiles the patterns.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, super::IgnoreError> {
        IgnoreRules::from_patterns(patterns).map(PatternSet)
    }

    /// Whether a path, or a directory it lies in, is matched.
    pub fn matches(&self, path: &[u8]) -> bool {
        self.0.is_ignored(path)
    }
}

/// Why a named source is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An ignore rule hides it.
    Ignored {
        /// The rule.
        rule: RuleRef,
    },
    /// There is no such file.
    NotThere {
        /// Names close to it, the closest first.
        nearest: Vec<Vec<u8>>,
    },
}

/// Where copies take their files from. Paths are relative to the source's root, `""` is the root.
pub trait FileSource: Send + Sync {
    /// `lstat`; `None` where there is nothing, or nothing that may be seen.
    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError>;
    /// The path with its links followed, never leaving the root; `None` where it leads nowhere.
    fn resolve(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError>;
    /// Everything below a directory, in walk order.
    fn list(&self, path: &[u8], excluded: Option<&PatternSet>) -> Result<Vec<FileInfo>, ContextError>;
    /// Paths that match a wildcard pattern, in walk order.
    fn glob(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ContextError>;
    /// A regular file's content.
    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send>, ContextError>;
    /// Why a path is not there, for a message.
    fn why_missing(&self, path: &[u8]) -> Result<Missing, ContextError>;
    /// The content's digest, where the source knows it without reading.
    fn known_digest(&self, _path: &[u8]) -> Option<Digest> {
        None
    }
    /// Extended attributes of a regular file that belong into images.
    fn xattrs(&self, _path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ContextError> {
        Ok(Vec::new())
    }
}

/// A local directory seen through ignore rules.
#[derive(Debug)]
pub struct LocalContext {
    root: PathBuf,
    dir: OwnedFd,
    rules: IgnoreRules,
}

impl LocalContext {
    /// Opens a directory.
    pub fn open(root: &Path, rules: IgnoreRules) -> Result<Self, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|errno| ContextError::open_root(root, errno.into()))?;
        Ok(LocalContext { root: root.to_owned(), dir, rules })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens below the root; links are followed as if the root were `/`.
    fn open_in_root(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.dir, os_path(path), flags, Mode::empty(), resolve)
    }

    /// `lstat` without regard to ignore rules.
    fn raw_stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        let (parent, name) = split(path);
        let result = self.open_in_root(parent, OFlags::PATH | OFlags::DIRECTORY).and_then(|dir| {
            let name = std::ffi::CString::new(if name.is_empty() { b"." } else { name });
            stat_at(dir.as_fd(), &name.map_err(|_| Errno::INVAL)?, path.to_vec())
        });
        match result {
            Ok(info) => Ok(Some(info)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(ContextError::read(path, errno.into())),
        }
    }

    fn walk(&self, path: &[u8], wanted: &dyn Fn(&[u8]) -> bool) -> Result<Vec<FileInfo>, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = self.open_in_root(path, flags).map_err(|errno| ContextError::read(path, errno.into()))?;
        Walker::new(&self.rules, wanted).walk(dir, path)
    }

    /// Whether a directory's ignored state still lets something below it be seen.
    fn visible(&self, info: &FileInfo) -> Result<bool, ContextError> {
        if !self.rules.is_ignored(&info.path) {
            return Ok(true);
        }
        let dir = info.kind == FileKind::Dir && self.rules.has_exceptions();
        Ok(dir && !self.walk(&info.path, &|_| true)?.is_empty())
    }
}

impl FileSource for LocalContext {
    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        let Some(info) = self.raw_stat(path)? else { return Ok(None) };
        Ok(self.visible(&info)?.then_some(info))
    }

    fn resolve(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
        let mut pending: Vec<Vec<u8>> = path.split(|c| *c == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = pending.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.truncate(at.iter().rposition(|c| *c == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = if at.is_empty() { part } else { [&at[..], b"/", &part].concat() };
            match self.raw_stat(&next)?.map(|info| info.kind) {
                None => return Ok(None),
                Some(FileKind::Symlink { target }) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ContextError::read(path, Errno::LOOP.into()));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    pending.extend(target.split(|c| *c == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(_) => at = next,
            }
        }
        Ok(Some(at))
    }

    fn list(&self, path: &[u8], excluded: Option<&PatternSet>) -> Result<Vec<FileInfo>, ContextError> {
        let mut files = self.walk(path, &|_| true)?;
        if let Some(excluded) = excluded {
            let strip = if path.is_empty() { 0 } else { path.len() + 1 };
            files.retain(|file| !excluded.matches(file.path.get(strip..).unwrap_or_default()));
        }
        Ok(files)
    }

    fn glob(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
        let bad = |_| ContextError::bad_pattern(pattern);
        let parts: Vec<&[u8]> = pattern.split(|c| *c == b'/').collect();
        let literal = parts.iter().take_while(|part| !has_wildcard(part)).count();
        let base = parts[..literal].join(&b'/');
        let Some(real) = self.resolve(&base)? else {
            return Err(ContextError::MissingParent {
                pattern: String::from_utf8_lossy(pattern).into_owned(),
                parent: String::from_utf8_lossy(&base).into_owned(),
            });
        };
        let rest = &parts[literal..];
        let globs: Vec<Glob> =
            rest.iter().map(|part| Glob::path(part)).collect::<Result<_, _>>().map_err(bad)?;
        let strip = if real.is_empty() { 0 } else { real.len() + 1 };
        // Only directories whose names fit the pattern so far, and that are not too deep.
        let wanted = |dir: &[u8]| {
            let relative = dir.get(strip..).unwrap_or_default();
            let depth = relative.split(|c| *c == b'/').count();
            depth < globs.len()
                && relative.split(|c| *c == b'/').zip(&globs).all(|(part, glob)| glob.matches(part))
        };
        let mut matches = Vec::new();
        for file in self.walk(&real, &wanted)? {
            let relative = file.path.get(strip..).unwrap_or_default();
            let parts: Vec<&[u8]> = relative.split(|c| *c == b'/').collect();
            if parts.len() == globs.len() && parts.iter().zip(&globs).all(|(part, glob)| glob.matches(part)) {
                matches.push(if base.is_empty() {
                    relative.to_vec()
                } else {
                    [&base[..], b"/", relative].concat()
                });
            }
        }
        Ok(matches)
    }

    fn open(&self, path: &[u8]) -> Result<Box<dyn Read + Send>, ContextError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = self.open_in_root(path, flags).map_err(|errno| ContextError::read(path, errno.into()))?;
        Ok(Box::new(File::from(fd)))
    }

    fn why_missing(&self, path: &[u8]) -> Result<Missing, ContextError> {
        if self.raw_stat(path)?.is_some() {
            if let Some(rule) = self.rules.explain(path) {
                return Ok(Missing::Ignored { rule });
            }
        }
        let (parent, name) = split(path);
        let siblings: Vec<Vec<u8>> = match self.resolve(parent)? {
            Some(real) if self.raw_stat(&real)?.is_some_and(|info| info.kind == FileKind::Dir) => {
                let found = self.walk(&real, &|_| false)?;
                found.into_iter().map(|file| split(&file.path).1.to_vec()).collect()
            }
            _ => Vec::new(),
        };
        let mut nearest = nearest_names(name, &siblings);
        nearest.truncate(SUGGESTIONS);
        let whole = |name: Vec<u8>| if parent.is_empty() { name } else { [parent, b"/", &name].concat() };
        Ok(Missing::NotThere { nearest: nearest.into_iter().map(whole).collect() })
    }

    fn xattrs(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ContextError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let read = |errno: Errno| ContextError::read(path, errno.into());
        let fd = self.open_in_root(path, flags).map_err(read)?;
        let mut names = vec![0u8; 4096];
        let length = match rustix::fs::flistxattr(&fd, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::RANGE) => return Ok(Vec::new()),
            Err(errno) => return Err(read(errno)),
        };
        let mut found = Vec::new();
        for name in names[..length].split(|c| *c == 0).filter(|name| belongs_in_images(name)) {
            let mut value = vec![0u8; 65536];
            let Ok(size) = rustix::fs::fgetxattr(&fd, os_path(name), &mut value[..]) else { continue };
            value.truncate(size);
            found.push((name.to_vec(), value));
        }
        found.sort();
        Ok(found)
    }
}

/// File capabilities and what users set; nothing that belongs to this host.
fn belongs_in_images(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|c| *c == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Names close to `name`: the same but for case first, then by edit distance.
pub fn nearest_names(name: &[u8], candidates: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let limit = name.len().div_ceil(3).clamp(1, 4);
    let mut scored: Vec<(usize, &Vec<u8>)> = candidates
        .iter()
        .filter_map(|candidate| {
            if candidate.eq_ignore_ascii_case(name) {
                return Some((0, candidate));
            }
            let distance = edit_distance(name, candidate);
            (distance <= limit).then_some((distance, candidate))
        })
        .collect();
    scored.sort();
    scored.into_iter().map(|(_, candidate)| candidate.clone()).collect()
}

fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    if a.len().abs_diff(b.len()) > 4 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal } else { 1 + diagonal.min(above).min(row[j]) };
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or(0)
}
