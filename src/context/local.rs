//! A directory on this machine as a source of files, read in place.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

use super::digest::FileState;
use super::error::ContextError;
use super::file::{FileInfo, FileKind, FileSource, Missing, Opened};
use super::glob::{Fit, PathGlob, has_wildcard};
use super::ignore::{IgnoreRules, PatternSet, PatternWalker};
use super::nearest;
use super::paths;
use super::tree::Tree;
use super::walk::{Extent, Filter, walk};

/// How many symlinks one path may lead through, as in the kernel.
const LINK_LIMIT: usize = 40;

/// A local directory under ignore rules.
#[derive(Debug)]
pub struct LocalContext {
    tree: Tree,
    rules: IgnoreRules,
    xattrs: bool,
}

impl LocalContext {
    /// Opens the directory `root`. Its entries are read later, and only as asked for.
    pub fn open(root: &Path, rules: IgnoreRules) -> io::Result<Self> {
        Ok(LocalContext { tree: Tree::open(root)?, rules, xattrs: false })
    }

    /// The same, with `security.capability` and `user.*` attributes in listings.
    pub fn with_xattrs(self) -> Self {
        LocalContext { xattrs: true, ..self }
    }

    /// The same under other rules.
    pub(super) fn with_rules(self, rules: IgnoreRules) -> Self {
        LocalContext { rules, ..self }
    }

    /// The rules that hide part of it.
    pub fn rules(&self) -> &IgnoreRules {
        &self.rules
    }

    /// How many directories have been listed so far.
    pub fn directories_read(&self) -> u64 {
        self.tree.directories_read()
    }

    /// What lies at `path` whatever the rules say.
    pub(super) fn stat_unfiltered(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        self.tree.stat(path, self.xattrs)
    }

    /// Opens a regular file whatever the rules say; `path` must be free of symlinks.
    pub(super) fn open_unfiltered(&self, path: &[u8]) -> Result<File, ContextError> {
        self.tree.open_file(path)
    }

    /// The names in a directory that the rules show, sorted; empty if it cannot be listed.
    pub(super) fn visible_names(&self, dir: &[u8]) -> Vec<Vec<u8>> {
        let filter = self.filter_of(dir);
        let names = self.tree.list(dir).map(|(_, names)| names).unwrap_or_default();
        names.into_iter().map(|(name, _)| name).filter(|name| !filter.hides(name)).collect()
    }

    /// Follows `path` through symlinks. `visit` sees every component's info before it is followed or
    /// entered and says whether to go on.
    pub(super) fn follow(
        &self,
        path: &[u8],
        mut visit: impl FnMut(&FileInfo) -> bool,
    ) -> Result<Option<FileInfo>, ContextError> {
        let reversed = |path: &[u8]| paths::components(path).map(<[u8]>::to_vec).rev().collect::<Vec<_>>();
        let mut pending = reversed(path);
        let mut place: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    place = paths::split(&place).0.to_vec();
                    continue;
                }
                _ => {}
            }
            let next = paths::join(&place, &name);
            let Some(info) = self.stat_unfiltered(&next)? else { return Ok(None) };
            if !visit(&info) {
                return Ok(None);
            }
            match &info.kind {
                FileKind::Symlink { target } => {
                    links += 1;
                    if links > LINK_LIMIT {
                        let (root, path) = (self.root().to_owned(), path.to_vec());
                        return Err(ContextError::LinkLoop { root, path, limit: LINK_LIMIT });
                    }
                    if target.starts_with(b"/") {
                        place.clear();
                    }
                    pending.extend(reversed(target));
                }
                FileKind::Dir => place = next,
                _ if pending.is_empty() => return Ok(Some(info)),
                _ => return Ok(None),
            }
        }
        self.stat_unfiltered(&place)
    }

    /// The filter of what lies in the directory `dir`.
    fn filter_of(&self, dir: &[u8]) -> Filter<'_> {
        Filter::new(self.rules_at(dir), None)
    }

    /// The rules as seen from the directory `dir`.
    fn rules_at(&self, dir: &[u8]) -> PatternWalker<'_> {
        paths::components(dir).fold(self.rules.walker(), |walker, name| walker.enter(name))
    }

    /// Whether the rules show `info`; an ignored directory is shown for what is shown below it.
    fn shows(&self, info: &FileInfo) -> Result<bool, ContextError> {
        if info.path.is_empty() {
            return Ok(true);
        }
        if !info.is_dir() {
            let (dir, name) = paths::split(&info.path);
            return Ok(!self.filter_of(dir).hides(name));
        }
        self.shows_directory(&info.path, &self.filter_of(&info.path))
    }

    fn shows_directory(&self, path: &[u8], filter: &Filter<'_>) -> Result<bool, ContextError> {
        if !filter.hides_directory() {
            return Ok(true);
        }
        if filter.hides_everything_below() {
            return Ok(false);
        }
        Ok(!walk(&self.tree, path, filter, false, Extent::First)?.is_empty())
    }

    fn not_found(&self, path: &[u8]) -> ContextError {
        ContextError::NotFound { root: self.root().to_owned(), path: path.to_vec() }
    }

    /// Adds what `search` finds in the directory `dir`, `depth` levels below its base.
    fn glob_in(
        &self,
        search: &Search<'_>,
        dir: &[u8],
        depth: usize,
        filter: &Filter<'_>,
        matches: &mut Vec<Vec<u8>>,
    ) -> Result<(), ContextError> {
        for info in self.candidates(search, dir, depth, filter)? {
            let (_, name) = paths::split(&info.path);
            let relative = paths::relative(&info.path, search.base).unwrap_or(&info.path);
            let fit = search.glob.judge(relative, name, depth);
            if fit == Fit::No || (fit == Fit::MayHold && !info.is_dir()) {
                continue;
            }
            if !info.is_dir() {
                if !filter.hides(name) {
                    matches.push(info.path);
                }
                continue;
            }
            let below = filter.enter(name);
            match fit {
                Fit::Match if self.shows_directory(&info.path, &below)? => matches.push(info.path),
                Fit::MayHold if !below.hides_everything_below() => {
                    self.glob_in(search, &info.path, depth + 1, &below, matches)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The entries of `dir` that can match at `depth`. A level without a wildcard needs no listing.
    fn candidates(
        &self,
        search: &Search<'_>,
        dir: &[u8],
        depth: usize,
        filter: &Filter<'_>,
    ) -> Result<Vec<FileInfo>, ContextError> {
        if let Some(name) = search.glob.only_name(depth) {
            return Ok(self.tree.stat(&paths::join(dir, name), false)?.into_iter().collect());
        }
        let (handle, names) = match self.tree.list(dir) {
            Ok(listing) => listing,
            Err(Errno::ACCESS | Errno::PERM) if filter.hides_directory() => return Ok(Vec::new()),
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(self.tree.error("list the directory", dir, errno)),
        };
        let mut entries = Vec::new();
        for (name, _) in names {
            let path = paths::join(dir, &name);
            let relative = paths::relative(&path, search.base).unwrap_or(&path);
            if search.glob.judge(relative, &name, depth) == Fit::No {
                continue;
            }
            match self.tree.entry(handle.as_fd(), &path, &name, false) {
                Ok(info) if info.kind != FileKind::Socket => entries.push(info),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.tree.error("examine", &path, errno)),
            }
        }
        Ok(entries)
    }
}

/// A wildcard and the directory it starts from.
struct Search<'a> {
    glob: PathGlob,
    base: &'a [u8],
}

impl FileSource for LocalContext {
    fn root(&self) -> &Path {
        self.tree.path()
    }

    fn stat(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        match self.stat_unfiltered(path)? {
            Some(info) if self.shows(&info)? => Ok(Some(info)),
            _ => Ok(None),
        }
    }

    fn resolve(&self, path: &[u8]) -> Result<Option<FileInfo>, ContextError> {
        let mut hidden_link = false;
        let found = self.follow(path, |info| {
            hidden_link = matches!(info.kind, FileKind::Symlink { .. }) && {
                let (dir, name) = paths::split(&info.path);
                self.filter_of(dir).hides(name)
            };
            !hidden_link
        })?;
        match found {
            Some(info) if !hidden_link && self.shows(&info)? => Ok(Some(info)),
            _ => Ok(None),
        }
    }

    fn list(&self, path: &[u8], excluded: Option<&PatternSet>) -> Result<Vec<FileInfo>, ContextError> {
        let info = self.stat(path)?.ok_or_else(|| self.not_found(path))?;
        if !info.is_dir() {
            let (_, name) = paths::split(path);
            let excluded = excluded.is_some_and(|excluded| excluded.matches(name));
            return Ok(if excluded || info.kind == FileKind::Socket { Vec::new() } else { vec![info] });
        }
        let filter = Filter::new(self.rules_at(path), excluded.map(PatternSet::walker));
        walk(&self.tree, path, &filter, self.xattrs, Extent::Whole)
    }

    fn select(
        &self,
        path: &[u8],
        wanted: &PatternSet,
        excluded: Option<&PatternSet>,
    ) -> Result<Vec<FileInfo>, ContextError> {
        let info = self.stat(path)?.filter(FileInfo::is_dir).ok_or_else(|| self.not_found(path))?;
        let filter = Filter::new(self.rules_at(&info.path), excluded.map(PatternSet::walker));
        walk(&self.tree, path, &filter.only(wanted.walker()), self.xattrs, Extent::Whole)
    }

    fn glob(&self, pattern: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
        let cleaned = paths::clean(pattern);
        let parts: Vec<&[u8]> = paths::components(&cleaned).collect();
        let wild = parts.iter().position(|part| has_wildcard(part)).unwrap_or(parts.len());
        let (literal, wild) = parts.split_at(wild);
        let literal = literal.join(&b'/');
        let base = self.resolve(&literal)?.ok_or_else(|| self.not_found(&literal))?;
        if wild.is_empty() {
            return Ok(vec![literal]);
        }
        if !base.is_dir() {
            return Ok(Vec::new());
        }
        let glob = PathGlob::new(&wild.join(&b'/')).map_err(|source| ContextError::Wildcard {
            pattern: String::from_utf8_lossy(pattern).into_owned(),
            source,
        })?;
        let mut matches = Vec::new();
        let search = Search { glob, base: &base.path };
        self.glob_in(&search, &base.path, 0, &self.filter_of(&base.path), &mut matches)?;
        Ok(matches)
    }

    fn open(&self, path: &[u8]) -> Result<Opened, ContextError> {
        let (dir, name) = paths::split(path);
        if !path.is_empty() && self.filter_of(dir).hides(name) {
            return Err(self.not_found(path));
        }
        self.tree.open_file(path).map(Opened::File)
    }

    fn open_in_state(&self, path: &[u8], state: &FileState) -> Result<Option<File>, ContextError> {
        self.tree.open_in_state(path, state)
    }

    fn whole_directory(&self) -> Option<&Path> {
        self.rules.is_empty().then(|| self.tree.path())
    }

    fn nearest(&self, path: &[u8]) -> Vec<Vec<u8>> {
        nearest::nearest(self, path)
    }

    fn why_missing(&self, path: &[u8]) -> Missing {
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let end = self.follow(path, |info| {
            seen.push(info.path.clone());
            true
        });
        if let Ok(Some(end)) = end {
            seen.push(end.path);
            for place in seen.iter().rev() {
                let verdict = self.rules.matched(place);
                if let (true, Some(rule)) = (verdict.ignored, verdict.rule) {
                    return Missing::Ignored { file: self.rules.file_name().to_owned(), rule };
                }
            }
        }
        Missing::NotThere { nearest: self.nearest(path) }
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
