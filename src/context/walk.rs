//! Lists a directory tree under ignore rules, entering only directories that can hold something
//! selected and examining only what is selected.
//!
//! Directories of one depth are read by several threads where there are enough of them; what was found
//! is put in order afterwards.

use std::os::fd::AsFd;

use rayon::prelude::*;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::ContextError;
use super::file::{FileInfo, FileKind};
use super::ignore::PatternWalker;
use super::paths;
use super::tree::Tree;

/// What hides the entries of a directory: the context's rules, a COPY's `--exclude`, and, if only
/// some are wanted, everything else.
#[derive(Clone)]
pub(super) struct Filter<'a> {
    rules: PatternWalker<'a>,
    excluded: Option<PatternWalker<'a>>,
    wanted: Option<PatternWalker<'a>>,
}

impl<'a> Filter<'a> {
    /// `rules` as seen from the directory to begin at, `excluded` relative to it.
    pub(super) fn new(rules: PatternWalker<'a>, excluded: Option<PatternWalker<'a>>) -> Self {
        Filter { rules, excluded, wanted: None }
    }

    /// Shows only what `wanted`, relative to the directory to begin at, matches.
    pub(super) fn only(self, wanted: PatternWalker<'a>) -> Self {
        Filter { wanted: Some(wanted), ..self }
    }

    /// Whether the entry `name` is hidden.
    pub(super) fn hides(&self, name: &[u8]) -> bool {
        self.rules.matches(name)
            || self.excluded.as_ref().is_some_and(|excluded| excluded.matches(name))
            || self.wanted.as_ref().is_some_and(|wanted| !wanted.matches(name))
    }

    /// The filter of the subdirectory `name`.
    pub(super) fn enter(&self, name: &[u8]) -> Self {
        Filter {
            rules: self.rules.enter(name),
            excluded: self.excluded.as_ref().map(|excluded| excluded.enter(name)),
            wanted: self.wanted.as_ref().map(|wanted| wanted.enter(name)),
        }
    }

    /// Whether the directory itself is hidden; it still appears if something below does not.
    pub(super) fn hides_directory(&self) -> bool {
        self.rules.dir_matches()
            || self.excluded.as_ref().is_some_and(PatternWalker::dir_matches)
            || self.wanted.as_ref().is_some_and(|wanted| !wanted.dir_matches())
    }

    /// Whether nothing below can appear.
    pub(super) fn hides_everything_below(&self) -> bool {
        self.rules.can_prune()
            || self.excluded.as_ref().is_some_and(PatternWalker::can_prune)
            || self.wanted.as_ref().is_some_and(PatternWalker::nothing_matches_below)
    }
}

/// How much of the tree is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything selected.
    Whole,
    /// Only as much as is needed to know whether something is selected.
    First,
}

/// A directory being walked: its entries are examined, those before `next` are done.
struct Frame<'a> {
    entries: std::vec::IntoIter<Entry<'a>>,
    /// Where the result held this directory itself, if it is hidden and stays only for what is below.
    provisional: Option<usize>,
}

struct Entry<'a> {
    info: FileInfo,
    /// For directories to be entered.
    filter: Option<Filter<'a>>,
    /// Which of the directories that were read this is.
    below: Option<usize>,
}

/// So many directories of one depth are worth a second thread.
const WORTH_SHARING: usize = 8;

/// Lists everything below the directory `start` that `filter` shows, in order. Hidden directories
/// appear when something below them is shown.
pub(super) fn walk(
    tree: &Tree,
    start: &[u8],
    filter: &Filter<'_>,
    xattrs: bool,
    extent: Extent,
) -> Result<Vec<FileInfo>, ContextError> {
    let mut read = Vec::new();
    let mut first = read_directory(tree, start, filter, xattrs)?;
    if extent == Extent::Whole {
        read = read_all(tree, &mut first, xattrs)?;
    }
    let mut found: Vec<FileInfo> = Vec::new();
    let mut frames = vec![Frame { entries: first.into_iter(), provisional: None }];
    while let Some(frame) = frames.last_mut() {
        let Some(Entry { info, filter, below }) = frame.entries.next() else {
            if let Some(own) = frame.provisional
                && found.len() == own + 1
            {
                found.pop();
            }
            frames.pop();
            continue;
        };
        let provisional = filter.as_ref().filter(|filter| filter.hides_directory()).map(|_| found.len());
        if extent == Extent::First && provisional.is_none() {
            return Ok(vec![info]);
        }
        let entries = match (below.and_then(|below| read.get_mut(below)), filter) {
            (Some(entries), _) => Some(std::mem::take(entries)),
            (None, Some(filter)) => Some(read_directory(tree, &info.path, &filter, xattrs)?),
            (None, None) => None,
        };
        found.push(info);
        frames.extend(entries.map(|entries| Frame { entries: entries.into_iter(), provisional }));
    }
    Ok(found)
}

/// Reads all directories below those of `first`, depth by depth, and notes in their entries which of the
/// result they are.
fn read_all<'a>(
    tree: &Tree,
    first: &mut [Entry<'a>],
    xattrs: bool,
) -> Result<Vec<Vec<Entry<'a>>>, ContextError> {
    let mut all: Vec<Vec<Entry<'a>>> = Vec::new();
    let mut depth = number_directories(first.iter_mut(), 0);
    while !depth.is_empty() {
        let read = |(path, filter): &(Vec<u8>, Filter<'a>)| read_directory(tree, path, filter, xattrs);
        let begin = all.len();
        if depth.len() < WORTH_SHARING {
            for directory in &depth {
                all.push(read(directory)?);
            }
        } else {
            crate::threads::prepare();
            let more: Result<Vec<_>, _> = depth.par_iter().with_min_len(2).map(read).collect();
            all.extend(more?);
        }
        let next = all.len();
        depth = number_directories(all[begin..].iter_mut().flatten(), next);
    }
    Ok(all)
}

/// Numbers the directories to be entered from `next` on, and gives them in that order.
fn number_directories<'a: 'e, 'e>(
    entries: impl Iterator<Item = &'e mut Entry<'a>>,
    next: usize,
) -> Vec<(Vec<u8>, Filter<'a>)> {
    let mut directories = Vec::new();
    for entry in entries {
        if let Some(filter) = &entry.filter {
            entry.below = Some(next + directories.len());
            directories.push((entry.info.path.clone(), filter.clone()));
        }
    }
    directories
}

/// Examines the entries of a directory that are shown or may lead to something shown. The handle is
/// closed at once, so that the depth of a tree does not cost handles.
fn read_directory<'a>(
    tree: &Tree,
    path: &[u8],
    filter: &Filter<'a>,
    xattrs: bool,
) -> Result<Vec<Entry<'a>>, ContextError> {
    let (dir, names) = match tree.list(path) {
        Ok(listing) => listing,
        Err(Errno::ACCESS | Errno::PERM) if filter.hides_directory() => return Ok(Vec::new()),
        Err(Errno::NOENT) if !path.is_empty() => return Ok(Vec::new()),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(ContextError::Changed { root: tree.path().to_owned(), path: path.to_vec() });
        }
        Err(errno) => return Err(tree.error("list the directory", path, errno)),
    };
    let mut entries = Vec::with_capacity(names.len());
    for (name, kind) in names {
        let hidden = filter.hides(&name);
        let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
        if hidden && !may_be_directory {
            continue;
        }
        let below = may_be_directory.then(|| filter.enter(&name));
        if hidden && below.as_ref().is_none_or(Filter::hides_everything_below) {
            continue;
        }
        let entry_path = paths::join(path, &name);
        let info = match tree.entry(dir.as_fd(), &entry_path, &name, xattrs) {
            Ok(info) => info,
            // Removed since the directory was read: not there, then.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(tree.error("examine", &entry_path, errno)),
        };
        if info.kind == FileKind::Socket || (hidden && !info.is_dir()) {
            continue;
        }
        let filter = if info.is_dir() { Some(below.unwrap_or_else(|| filter.enter(&name))) } else { None };
        entries.push(Entry { info, filter, below: None });
    }
    Ok(entries)
}
