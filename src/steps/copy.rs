//! `COPY` and the local half of `ADD`: what is selected, its digest, and the layer it makes.

use std::io::Write as _;
use std::sync::Arc;

use crate::context::glob::has_wildcard;
use crate::context::ignore::{PatternError, PatternSet};
use crate::context::{
    ContextError, FileInfo, FileKind, FileSource, FileStatCache, FileState, Missing, paths,
};
use crate::digest::{Digest, Hasher};
use crate::fs::paths::join;
use crate::layer::{Entry, EntryKind};
use crate::snapshot::Tree;

use super::add::Content;
use super::copy_content::{Bytes, CopyContent};
use super::place::{Destination, Origin, PlaceError, Placer, Selection, effective_mode, effective_owner};

/// A source with everything it selected.
pub struct Selected {
    /// As in the Dockerfile, variables expanded.
    pub pattern: String,
    /// Where the files are.
    pub source: Arc<dyn FileSource>,
    /// What was selected.
    pub selections: Vec<Selection>,
    /// Content digests of each selection's files, in the same order; `None` for what is no file. Empty
    /// until [`Selected::read`].
    pub digests: Vec<Vec<Option<Digest>>>,
    /// Where the last selection really lies in the source.
    pub place: Vec<u8>,
    /// Whose `stat` tells that they are what was digested, where that is known of any.
    pub settled: Option<Arc<FileStatCache>>,
}

/// An inline file.
#[derive(Clone, Debug)]
pub struct Inline {
    /// Its name when it lands in a directory.
    pub name: Vec<u8>,
    /// Its bytes.
    pub content: Arc<[u8]>,
}

/// Why a copy cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A literal source is not there.
    #[error("{}", missing_text(.pattern, .origin, .missing))]
    Missing {
        /// The source as written.
        pattern: String,
        /// `the build context`, `stage build`...
        origin: String,
        /// What is known about it.
        missing: Missing,
    },
    /// A pattern of `--exclude` or `--parents`.
    #[error(transparent)]
    Pattern {
        /// What is wrong with it.
        #[from]
        source: PatternError,
    },
    /// The source of files failed.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The files have no place.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

fn missing_text(pattern: &str, origin: &str, missing: &Missing) -> String {
    let show = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    match missing {
        Missing::Ignored { file, rule } => {
            format!(
                "{pattern:?} is in {origin}, but {file} excludes it: line {}, {:?}",
                rule.line, rule.pattern
            )
        }
        Missing::NotThere { nearest } if nearest.is_empty() => format!("{pattern:?} not found in {origin}"),
        Missing::NotThere { nearest } => {
            let names: Vec<String> = nearest.iter().map(|path| format!("{:?}", show(path))).collect();
            format!("{pattern:?} not found in {origin}; did you mean {}?", names.join(" or "))
        }
    }
}

/// Finds what a source word selects. A pattern that matches nothing selects nothing; a literal path
/// that is missing is an error that names its neighbours.
pub fn select(
    pattern: &str,
    origin: &str,
    source: Arc<dyn FileSource>,
    excluded: Option<&PatternSet>,
) -> Result<Selected, CopyError> {
    let path = paths::clean(pattern.as_bytes());
    let matches = if has_wildcard(&path) { source.glob(&path)? } else { vec![path] };
    select_all(pattern, matches, origin, source, excluded)
}

/// As [`select`], for a path in which nothing is special.
pub fn select_path(
    path: &str,
    origin: &str,
    source: Arc<dyn FileSource>,
    excluded: Option<&PatternSet>,
) -> Result<Selected, CopyError> {
    select_all(path, vec![paths::clean(path.as_bytes())], origin, source, excluded)
}

fn select_all(
    pattern: &str,
    matches: Vec<Vec<u8>>,
    origin: &str,
    source: Arc<dyn FileSource>,
    excluded: Option<&PatternSet>,
) -> Result<Selected, CopyError> {
    let mut selections = Vec::with_capacity(matches.len());
    let mut place = Vec::new();
    for path in matches {
        let info = resolve(pattern, &path, origin, &*source)?;
        let is_dir = info.kind == FileKind::Dir;
        let strip = if info.path.is_empty() { 0 } else { info.path.len() + 1 };
        let dir_mtime = is_dir.then_some(info.mtime.0);
        place.clone_from(&info.path);
        let name = path.rsplit(|c| *c == b'/').next().unwrap_or_default().to_vec();
        // What a source word itself names is never excluded; only what lies in a directory can be.
        let files = if is_dir { source.list(&info.path, excluded)? } else { vec![info] };
        let implied = excluded.filter(|_| is_dir).map(|set| implied(&files, strip, None, Some(set)));
        let implied = implied.unwrap_or_default();
        selections.push(Selection { name, is_dir, files, strip, implied, dir_mtime });
    }
    Ok(Selected {
        pattern: pattern.to_owned(),
        source,
        selections,
        digests: Vec::new(),
        place,
        settled: None,
    })
}

/// Finds what a source word of `COPY --parents` selects: paths below the pivot `/./`, or below the
/// root, with the directories above them. A pattern may match nothing; a literal path must be there.
pub fn select_parents(
    pattern: &str,
    origin: &str,
    source: Arc<dyn FileSource>,
    excluded: Option<&PatternSet>,
) -> Result<Selected, CopyError> {
    let (above, below) = pattern.split_once("/./").unwrap_or(("", pattern));
    let (above, below) = (paths::clean(above.as_bytes()), paths::clean(below.as_bytes()));
    let bases = if has_wildcard(&above) { source.glob(&above)? } else { vec![above] };
    let everything = [b"**".to_vec()];
    let wanted = if below.is_empty() { &everything } else { std::slice::from_ref(&below) };
    let wanted = PatternSet::new(wanted)?;
    let mut all = Selected {
        pattern: pattern.to_owned(),
        source: source.clone(),
        selections: Vec::new(),
        digests: Vec::new(),
        place: Vec::new(),
        settled: None,
    };
    for base in bases {
        let info = resolve(pattern, &base, origin, &*source)?;
        if !info.is_dir() {
            continue;
        }
        if !has_wildcard(&below) && source.stat(&join(&info.path, &below))?.is_none() {
            let missing = source.why_missing(&join(&info.path, &below));
            let (pattern, origin) = (pattern.to_owned(), origin.to_owned());
            return Err(CopyError::Missing { pattern, origin, missing });
        }
        let files = source.select(&info.path, &wanted, excluded)?;
        let strip = if info.path.is_empty() { 0 } else { info.path.len() + 1 };
        let implied = implied(&files, strip, Some(&wanted), excluded);
        let name = Vec::new();
        all.selections.push(Selection { name, is_dir: true, files, strip, implied, dir_mtime: None });
    }
    Ok(all)
}

/// Which of the listed files are directories that no pattern selects.
fn implied(
    files: &[FileInfo],
    strip: usize,
    wanted: Option<&PatternSet>,
    excluded: Option<&PatternSet>,
) -> Vec<usize> {
    let selected = |path: &[u8]| {
        wanted.is_none_or(|set| set.matches(path)) && !excluded.is_some_and(|set| set.matches(path))
    };
    let relative = |file: &FileInfo| file.path.get(strip..).unwrap_or_default().to_vec();
    let numbered = files.iter().enumerate().filter(|(_, file)| file.is_dir());
    numbered.filter(|(_, file)| !selected(&relative(file))).map(|(at, _)| at).collect()
}

/// What a literal path leads to.
fn resolve(pattern: &str, path: &[u8], origin: &str, source: &dyn FileSource) -> Result<FileInfo, CopyError> {
    source.resolve(path)?.ok_or_else(|| CopyError::Missing {
        pattern: pattern.to_owned(),
        origin: origin.to_owned(),
        missing: source.why_missing(path),
    })
}

impl Selected {
    /// Finds the content digests, unless they are here already.
    pub fn read(
        &mut self,
        digest: &dyn Fn(&[FileInfo]) -> Result<Vec<Option<Digest>>, ContextError>,
    ) -> Result<(), ContextError> {
        if self.digests.is_empty() {
            self.digests =
                self.selections.iter().map(|selection| digest(&selection.files)).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// A digest of everything `stat` says of the files, and of how they will look in the image. Files
    /// whose times lie well in the past have the content they had when it was the same.
    pub fn stat_digest(&self, dest: &Destination) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(b"stat-1");
        let mut line = Vec::new();
        for selection in &self.selections {
            hasher.field(if selection.is_dir { b"dir" } else { b"file" });
            hasher.field(&selection.name_in_key());
            for (at, file) in selection.files.iter().enumerate() {
                line.clear();
                stat_line(&mut line, dest, selection, file);
                if selection.is_implied(at) {
                    line.extend_from_slice(&file.mode.to_le_bytes());
                }
                hasher.field(&line);
            }
        }
        hasher.finish()
    }

    /// The digest of what was selected, as it will look in the image, and the listing it is made
    /// of. Neither modification times nor the place of the source enter.
    pub fn digest(&self, dest: &Destination) -> (Digest, Vec<u8>) {
        let mut hasher = Hasher::new();
        let mut listing = LISTING.to_vec();
        for (selection, digests) in self.selections.iter().zip(&self.digests) {
            let is_pattern = selection.place() == paths::clean(self.pattern.as_bytes());
            listing.extend_from_slice(if is_pattern { b"=\t" } else { b"~\t" });
            escape(&mut listing, selection.place());
            listing.push(b'\n');
            hasher.field(if selection.is_dir { b"dir" } else { b"file" });
            hasher.field(&selection.name_in_key());
            for (at, (file, digest)) in selection.files.iter().zip(digests).enumerate() {
                hash_file(&mut hasher, &mut listing, dest, selection, file, digest.as_ref());
                if selection.is_implied(at) {
                    hasher.field(format!("implied {:o}", file.mode).as_bytes());
                }
            }
        }
        (hasher.finish(), listing)
    }
}

impl Selection {
    /// The path of what was selected, in its source.
    fn place(&self) -> &[u8] {
        let Some(first) = self.files.first() else { return &self.name };
        if self.is_dir {
            first.path.get(..self.strip.saturating_sub(1)).unwrap_or_default()
        } else {
            &first.path
        }
    }

    /// A directory's own name never shows in the image.
    fn name_in_key(&self) -> Vec<u8> {
        if self.is_dir { Vec::new() } else { self.name.clone() }
    }

    /// Whether a file is a directory that is there only for what was selected below it.
    pub(super) fn is_implied(&self, at: usize) -> bool {
        self.implied.binary_search(&at).is_ok()
    }
}

fn stat_line(line: &mut Vec<u8>, dest: &Destination, selection: &Selection, file: &FileInfo) {
    let (kind, detail): (u8, &[u8]) = match &file.kind {
        FileKind::File { .. } => (0, b""),
        FileKind::Dir => (1, b""),
        FileKind::Symlink { target } => (2, target),
        FileKind::CharDev { .. } => (3, b""),
        FileKind::BlockDev { .. } => (4, b""),
        FileKind::Fifo => (5, b""),
        FileKind::Socket => (6, b""),
    };
    let (major, minor) = match file.kind {
        FileKind::CharDev { major, minor } | FileKind::BlockDev { major, minor } => (major, minor),
        _ => (0, 0),
    };
    let size = if let FileKind::File { size } = file.kind { size } else { 0 };
    let (mode, (uid, gid)) = (effective_mode(dest, file), effective_owner(dest, file));
    line.push(kind);
    for number in [mode, uid, gid, major, minor, file.mtime.1, file.ctime.1] {
        line.extend_from_slice(&number.to_le_bytes());
    }
    for number in
        [size, file.ino, file.dev, file.nlink, file.mtime.0.cast_unsigned(), file.ctime.0.cast_unsigned()]
    {
        line.extend_from_slice(&number.to_le_bytes());
    }
    let relative = if selection.is_dir { file.path.get(selection.strip..).unwrap_or_default() } else { b"" };
    for text in [relative, detail].into_iter().chain(file.xattrs.iter().flat_map(|(a, b)| [&a[..], &b[..]])) {
        line.extend_from_slice(&(text.len() as u64).to_le_bytes());
        line.extend_from_slice(text);
    }
}

fn hash_file(
    hasher: &mut Hasher,
    listing: &mut Vec<u8>,
    dest: &Destination,
    selection: &Selection,
    file: &FileInfo,
    digest: Option<&Digest>,
) {
    let relative = if selection.is_dir { file.path.get(selection.strip..).unwrap_or_default() } else { b"" };
    let (kind, detail): (&str, Vec<u8>) = match &file.kind {
        FileKind::File { .. } => ("file", digest.map(|digest| digest.raw().to_vec()).unwrap_or_default()),
        FileKind::Dir => ("dir", Vec::new()),
        FileKind::Symlink { target } => ("link", target.clone()),
        FileKind::CharDev { major, minor } => ("char", format!("{major}:{minor}").into_bytes()),
        FileKind::BlockDev { major, minor } => ("block", format!("{major}:{minor}").into_bytes()),
        FileKind::Fifo => ("fifo", Vec::new()),
        FileKind::Socket => return,
    };
    let (mode, (uid, gid)) = (effective_mode(dest, file), effective_owner(dest, file));
    for field in [relative, kind.as_bytes(), &detail] {
        hasher.field(field);
    }
    for number in [mode, uid, gid] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&(file.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &file.xattrs {
        hasher.field(name);
        hasher.field(value);
    }
    // Writing to memory cannot fail.
    let _ = write!(listing, "{kind}\t{mode:o}\t{uid}:{gid}\t");
    match digest {
        Some(digest) => listing.extend_from_slice(digest.hex().as_bytes()),
        None => escape(listing, &detail),
    }
    listing.push(b'\t');
    if !file.xattrs.is_empty() {
        let mut attributes = Hasher::new();
        file.xattrs.iter().for_each(|(name, value)| {
            attributes.field(name);
            attributes.field(value);
        });
        listing.extend_from_slice(attributes.finish().short().as_bytes());
    }
    listing.push(b'\t');
    escape(listing, relative);
    listing.push(b'\n');
}

/// First line of a listing. A line `=<tab>PATH` for each thing that was selected by its path (`~` where its
/// path is another than what was written), and below it a line for each file:
/// kind, mode, owner, digest of the content or target of the link, digest of extended attributes, path below
/// what was selected; with tabs between them.
const LISTING: &[u8] = b"files 2\n";

/// Text without tabs and line ends.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.push(*other),
        }
    }
}

/// The layer's entries and where their bytes come from.
pub struct CopyLayer {
    /// Entries in layer order, content digests filled in.
    pub entries: Vec<Entry>,
    /// Their content.
    pub content: CopyContent,
}

/// An archive that `ADD` unpacks: its entries, relative to the destination, and where it was
/// unpacked to.
pub struct Unpacked {
    /// Entries of the archive.
    pub entries: Vec<Entry>,
    /// Directory holding the files.
    pub dir: std::path::PathBuf,
    /// Directories that only paths of other entries refer to.
    pub implied: std::collections::HashSet<Vec<u8>>,
    /// How many selections of all sources come before it.
    pub position: usize,
}

/// Places everything a copy selected, in the order of its sources: later ones win where they meet. Archives
/// may have links to files of `below`.
pub fn layer(
    tree: &Tree,
    dest: &Destination,
    selected: &[Selected],
    inline: &[Inline],
    archives: &[Unpacked],
    below: Option<&Arc<dyn FileSource>>,
) -> Result<CopyLayer, CopyError> {
    let mut selections: Vec<Selection> = selected.iter().flat_map(|s| s.selections.iter().cloned()).collect();
    let of_selected = selections.len();
    selections.extend(inline.iter().map(|file| inline_selection(file, dest.made_up_time)));
    let mut placer = Placer::new(tree, dest);
    let files = selections.iter().filter(|selection| !selection.is_dir).count();
    let to_one_name = selected.len() + inline.len() <= 1 || files <= 1;
    let (mut archived, mut unplaced) = (Vec::new(), archives.iter().peekable());
    for (position, selection) in selections.iter().enumerate() {
        while let Some(archive) = unplaced.next_if(|archive| archive.position <= position) {
            super::add::place(&mut placer, dest, archive, &mut archived)?;
        }
        placer.place(position, selection, to_one_name)?;
    }
    for archive in unplaced {
        super::add::place(&mut placer, dest, archive, &mut archived)?;
    }
    let flat: Vec<(&Selected, usize)> =
        selected.iter().flat_map(|s| (0..s.selections.len()).map(move |at| (s, at))).collect();
    let (mut entries, mut origins) = (Vec::new(), Vec::new());
    for (mut entry, origin) in placer.finish() {
        origins.push(match origin {
            _ if !matches!(entry.kind, EntryKind::File { .. }) => Bytes::None,
            None => Bytes::None,
            Some(Origin::Archived(at)) => match (archived.get(at), below) {
                (Some(Content::Unpacked(path)), _) => Bytes::Local(path.clone()),
                (Some(Content::Below(path)), Some(source)) => {
                    Bytes::Source(source.clone(), path.clone(), None)
                }
                _ => Bytes::None,
            },
            Some(Origin::Selected(selection, _)) if selection >= of_selected => inline
                .get(selection - of_selected)
                .map_or(Bytes::None, |file| Bytes::Inline(file.content.clone())),
            Some(Origin::Selected(selection, at)) => from_selection(&flat, selection, at, &mut entry),
        });
        entries.push(entry);
    }
    Ok(CopyLayer { entries, content: CopyContent::new(origins) })
}

fn from_selection(flat: &[(&Selected, usize)], selection: usize, at: usize, entry: &mut Entry) -> Bytes {
    let Some((selected, position)) = flat.get(selection) else { return Bytes::None };
    if let EntryKind::File { digest, .. } = &mut entry.kind {
        *digest = selected.digests.get(*position).and_then(|all| all.get(at)).copied().flatten();
    }
    let file = selected.selections.get(*position).and_then(|selection| selection.files.get(at));
    if file.is_some_and(|file| file.kind == FileKind::Socket) {
        return Bytes::Inline(Arc::from([]));
    }
    let settled = selected.settled.as_deref();
    let state = |file| settled.filter(|cache| cache.is_settled(file)).and_then(|_| FileState::of(file));
    file.map_or(Bytes::None, |file| Bytes::Source(selected.source.clone(), file.path.clone(), state(file)))
}

fn inline_selection(file: &Inline, mtime: i64) -> Selection {
    let info = FileInfo {
        path: file.name.clone(),
        kind: FileKind::File { size: file.content.len() as u64 },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (mtime, 0),
        ino: 0,
        dev: 0,
        nlink: 1,
        ctime: (0, 0),
        xattrs: Vec::new(),
    };
    let (name, files) = (file.name.clone(), vec![info]);
    Selection { name, is_dir: false, files, strip: 0, implied: Vec::new(), dir_mtime: None }
}
