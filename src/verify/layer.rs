//! Rules for the tar of a layer (image-spec layer.md).

use std::collections::HashMap;

use crate::fs::paths::{join, split};
use crate::layer::{End, Scanned, TarHeader};

use super::report::Report;

/// As Linux: longest name of one file, longest path.
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;
/// Entries and bytes of one layer that importing accepts.
const MAX_ENTRIES: u64 = 10_000_000;
const MAX_BYTES: u64 = 1 << 40;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What stands at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Dir,
    Link,
    File,
}

/// The merged view of the layers read so far, as far as the rules need it.
#[derive(Debug, Default)]
pub(super) struct Below(HashMap<Vec<u8>, Kind>);

impl Below {
    fn get(&self, path: &[u8]) -> Option<Kind> {
        if path.is_empty() { Some(Kind::Dir) } else { self.0.get(path).copied() }
    }

    /// Puts a layer on top.
    pub fn apply(&mut self, layer: Changes) {
        for path in &layer.hidden {
            self.0.retain(|known, _| known != path && !is_below(known, path));
        }
        for path in &layer.opaque {
            self.0.retain(|known, _| !is_below(known, path));
        }
        for (path, kind) in layer.made {
            if kind != Kind::Dir && self.0.get(&path) == Some(&Kind::Dir) {
                self.0.retain(|known, _| !is_below(known, &path));
            }
            self.0.insert(path, kind);
        }
    }
}

/// What a layer does to those below.
pub(super) struct Changes {
    made: Vec<(Vec<u8>, Kind)>,
    hidden: Vec<Vec<u8>>,
    opaque: Vec<Vec<u8>>,
}

/// One layer being read.
pub(super) struct Layer<'a> {
    place: String,
    below: &'a Below,
    /// Path to position and kind.
    seen: HashMap<Vec<u8>, (u64, Kind)>,
    hidden: Vec<Vec<u8>>,
    opaque: Vec<Vec<u8>>,
    /// Directories that were needed and not listed before: with what needed them.
    wanted: HashMap<Vec<u8>, Vec<u8>>,
    /// Entries so far.
    pub count: u64,
}

impl<'a> Layer<'a> {
    /// A layer on top of `below`; `place` names it.
    pub fn new(place: &str, below: &'a Below) -> Self {
        Layer {
            place: place.to_owned(),
            below,
            seen: HashMap::new(),
            hidden: Vec::new(),
            opaque: Vec::new(),
            wanted: HashMap::new(),
            count: 0,
        }
    }

    fn problem(&self, path: &[u8], message: impl Into<String>, report: &mut Report) {
        report.add(format!("{}: {}", self.place, show(path)), message);
    }

    /// Looks at the next entry.
    pub fn entry(&mut self, header: &TarHeader, report: &mut Report) {
        self.count += 1;
        let Some(path) = self.name(&header.path, report) else { return };
        if path.is_empty() {
            if header.flag != b'5' {
                self.problem(b"./", "is the root and no directory", report);
            }
            return;
        }
        let (dir, name) = split(&path);
        self.parent(&path, dir, report);
        if name.starts_with(WHITEOUT) {
            return self.whiteout(header, &path, dir, name, report);
        }
        self.facts(header, &path, report);
        let kind = match header.flag {
            b'5' => Kind::Dir,
            b'2' => Kind::Link,
            _ => Kind::File,
        };
        if let Some((first, _)) = self.seen.get(&path) {
            let message = format!("comes twice: as entry {first} and as entry {}", self.count);
            self.problem(&path, message, report);
        }
        if kind == Kind::Dir
            && let Some(child) = self.wanted.remove(&path)
        {
            self.problem(&path, format!("comes after {}, which lies in it", show(&child)), report);
        }
        self.seen.insert(path, (self.count, kind));
    }

    /// The name without `./` and the slash of directories; `None` where it leads astray.
    fn name(&self, stored: &[u8], report: &mut Report) -> Option<Vec<u8>> {
        if stored.is_empty() {
            report.add(&self.place, format!("entry {} has no name", self.count));
            return None;
        }
        if stored.starts_with(b"/") {
            self.problem(stored, "is an absolute name", report);
        }
        let parts: Vec<&[u8]> =
            stored.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if parts.contains(&&b".."[..]) {
            self.problem(stored, "contains ..", report);
            return None;
        }
        if stored.contains(&0) {
            self.problem(stored, "contains NUL", report);
            return None;
        }
        if stored.len() > MAX_PATH || parts.iter().any(|part| part.len() > MAX_NAME) {
            self.problem(stored, "is longer than Linux allows (255 bytes a part, 4096 in all)", report);
        }
        Some(parts.join(&b'/'))
    }

    /// Every directory on the way has to be one, and to be known: from before in this layer, or below.
    fn parent(&mut self, path: &[u8], dir: &[u8], report: &mut Report) {
        if dir.is_empty() {
            return;
        }
        match (self.seen.get(dir).map(|(_, kind)| *kind), self.below.get(dir)) {
            (Some(Kind::Dir), _) | (None, Some(Kind::Dir)) => {}
            (Some(_), _) => {
                self.problem(path, format!("lies in {}, which is no directory", show(dir)), report);
            }
            (None, Some(kind)) => self.replaces(path, dir, kind, report),
            (None, None) => match self.obstacle(dir) {
                Some((ancestor, kind)) => self.replaces(path, ancestor, kind, report),
                None => {
                    self.wanted.entry(dir.to_vec()).or_insert_with(|| path.to_vec());
                }
            },
        }
    }

    /// The nearest directory above one that nothing lists, if it is none in the layers below.
    fn obstacle<'p>(&self, dir: &'p [u8]) -> Option<(&'p [u8], Kind)> {
        let mut ancestor = split(dir).0;
        while !ancestor.is_empty() {
            match (self.seen.contains_key(ancestor), self.below.get(ancestor)) {
                (false, None) => ancestor = split(ancestor).0,
                (false, Some(kind)) if kind != Kind::Dir => return Some((ancestor, kind)),
                _ => return None,
            }
        }
        None
    }

    /// Engines unpack each layer by itself, so nothing is put behind a link of a layer below.
    fn replaces(&self, path: &[u8], dir: &[u8], kind: Kind, report: &mut Report) {
        let kind = if kind == Kind::Link { "symbolic link" } else { "file" };
        let message = format!(
            "lies in {}, which is a {kind} in a layer below and becomes a directory: the {kind} is lost",
            show(dir)
        );
        self.problem(path, message, report);
    }

    fn whiteout(&mut self, header: &TarHeader, path: &[u8], dir: &[u8], name: &[u8], report: &mut Report) {
        if header.flag != b'0' || header.size != 0 {
            self.problem(path, "is a whiteout, but no empty regular file", report);
        }
        if name == OPAQUE {
            if dir.is_empty() {
                self.problem(path, "makes the whole root opaque", report);
            }
            if self.opaque.iter().any(|known| known == dir) {
                self.problem(path, "comes twice", report);
            }
            return self.opaque.push(dir.to_vec());
        }
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(hidden, b"" | b"." | b"..") {
            return self.problem(path, "is a whiteout that names nothing", report);
        }
        if hidden.starts_with(WHITEOUT) {
            return self.problem(path, "is a private note of AUFS, which layers must not have", report);
        }
        let target = join(dir, hidden);
        if self.hidden.contains(&target) {
            self.problem(path, "comes twice", report);
        }
        if self.below.get(&target).is_none() {
            self.problem(path, "removes what no layer below has", report);
        }
        self.hidden.push(target);
    }

    fn facts(&self, header: &TarHeader, path: &[u8], report: &mut Report) {
        match header.flag {
            b'1' => self.hard_link(header, path, report),
            b'2' if header.link.is_empty() => self.problem(path, "is a symbolic link to nothing", report),
            b'3' if header.major == 0 && header.minor == 0 => {
                self.problem(path, "is a character device 0:0, which overlays take for a deletion", report);
            }
            b'0' | b'2'..=b'7' => {}
            other => {
                self.problem(path, format!("has the unknown type {:?}", char::from(other)), report);
            }
        }
        for (name, _) in &header.xattrs {
            let private = [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|p| name.starts_with(p));
            if private {
                let message = format!("has the attribute {}, which is an overlay's own", show(name));
                self.problem(path, message, report);
            }
        }
    }

    fn hard_link(&self, header: &TarHeader, path: &[u8], report: &mut Report) {
        if header.link.starts_with(b"/") {
            self.problem(path, format!("is a hard link to the absolute name {}", show(&header.link)), report);
        }
        let target: Vec<&[u8]> =
            header.link.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        let target = target.join(&b'/');
        if target == path {
            return self.problem(path, "is a hard link to itself", report);
        }
        match self.seen.get(&target) {
            Some((_, Kind::Dir)) => self.problem(path, "is a hard link to a directory", report),
            Some(_) => {}
            None => {
                let message =
                    format!("is a hard link to {}, which is no earlier entry of this layer", show(&target));
                self.problem(path, message, report);
            }
        }
    }

    /// What it does to the layers below.
    pub fn changes(self) -> Changes {
        let made = self.seen.into_iter().map(|(path, (_, kind))| (path, kind)).collect();
        Changes { made, hidden: self.hidden, opaque: self.opaque }
    }

    /// What only the whole layer shows.
    pub fn finish(&self, scanned: &Scanned, report: &mut Report) {
        if let Some(error) = &scanned.error {
            report.add(&self.place, format!("entry {}: {error}", self.count + 1));
        }
        match scanned.end {
            Some(End::Missing) => report.add(&self.place, "the tar has no end (two blocks of zeroes)"),
            Some(End::Garbage) => report.add(&self.place, "something follows the end of the tar"),
            Some(End::Proper) | None => {}
        }
        let mut hidden: Vec<&Vec<u8>> =
            self.hidden.iter().filter(|path| self.seen.contains_key(*path)).collect();
        hidden.sort();
        for path in hidden {
            self.problem(path, "is both removed by a whiteout and made in the same layer", report);
        }
        let mut orphans: Vec<_> = self.wanted.iter().collect();
        orphans.sort();
        for (dir, child) in orphans {
            let message = format!("lies in {}, which no layer has", show(dir));
            self.problem(child, message, report);
        }
        if self.count > MAX_ENTRIES {
            report.add(&self.place, format!("has {} entries; at most {MAX_ENTRIES} are read", self.count));
        }
        if scanned.size > MAX_BYTES {
            report.add(&self.place, format!("has {} bytes; at most {MAX_BYTES} are read", scanned.size));
        }
    }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/'
}
