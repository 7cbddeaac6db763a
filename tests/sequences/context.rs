//! Random build contexts.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

use crate::random::Random;

/// Names that need quoting, that are patterns, hidden, or not ASCII among plain ones.
const NAMES: [&str; 12] = ["a", "b", "c", "a", "b", "d e", "f[1]", "g*", "h?", "é", "i.txt", ".k"];

#[derive(Clone, Debug)]
pub enum Kind {
    Directory,
    File(String),
    Link(String),
    /// Another name of the file at this path.
    Hard(String),
    Fifo,
    /// A tar archive of these entries; no archives within.
    Archive(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds since 1970. Every file has another one.
    pub mtime: i64,
}

#[derive(Clone, Debug, Default)]
pub struct Context {
    pub entries: Vec<Entry>,
    /// Lines of `.dockerignore`; without any there is no such file.
    pub ignored: Vec<String>,
}

impl Context {
    /// A context of some ten entries in a few directories.
    pub fn random(random: &mut Random, hard_links: bool) -> Self {
        let epoch = 1_000_000_000 + random.below(400_000_000) as i64;
        let mut context = Context::default();
        for number in 0..random.between(8, 16) {
            context.grow(random, hard_links, epoch + number as i64 * 3);
        }
        if random.chance(60) {
            context.add_archive(random, hard_links, epoch + 1000);
        }
        if random.chance(20) {
            context.ignored = (0..random.between(1, 3)).map(|_| context.pattern(random)).collect();
        }
        context
    }

    fn grow(&mut self, random: &mut Random, hard_links: bool, mtime: i64) {
        let directories: Vec<String> = self.paths(|kind| matches!(kind, Kind::Directory));
        let parent = if random.chance(30) {
            ""
        } else {
            directories.get(random.below(directories.len())).map_or("", |path| path)
        };
        let depth = parent.split('/').count();
        let path = join(parent, random.pick(&NAMES));
        if depth > 3 || self.entries.iter().any(|entry| entry.path == path) {
            return;
        }
        let files = self.paths(|kind| matches!(kind, Kind::File(_)));
        let (kind, mode) = match random.below(20) {
            0..8 => {
                (Kind::Directory, random.element(&[0o755, 0o755, 0o755, 0o700, 0o2755, 0o1777, 0o750, 0o555]))
            }
            8..10 => {
                let target = link_target(random, &self.entries);
                // BuildKit takes no context in which a link leads to itself.
                let is_loop = path.ends_with(target.trim_start_matches('/'));
                (Kind::Link(if is_loop { "nowhere".into() } else { target }), &0o777)
            }
            10 if hard_links && !files.is_empty() => (Kind::Hard(random.element(&files).clone()), &0),
            11 if random.chance(30) => (Kind::Fifo, &0o644),
            _ => {
                let text = format!("{}\n", random.below(1_000_000)).repeat(random.below(4));
                (
                    Kind::File(text),
                    random.element(&[0o644, 0o644, 0o644, 0o755, 0o600, 0o4755, 0o2755, 0o444, 0o777]),
                )
            }
        };
        self.entries.push(Entry { path, kind, mode: *mode, owner: (0, 0), mtime });
    }

    fn add_archive(&mut self, random: &mut Random, hard_links: bool, mtime: i64) {
        let mut inner = Context::default();
        for number in 0..random.between(2, 6) {
            inner.grow(random, hard_links, mtime + number as i64);
        }
        for entry in &mut inner.entries {
            entry.owner = *random.element(&[(0, 0), (5, 6), (1000, 1000)]);
        }
        let path = random.pick(&["t.tar", "a/t.tar", "t"]).to_owned();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let is_directory = |entry: &Entry| entry.path == parent && matches!(entry.kind, Kind::Directory);
        if parent.is_empty() || self.entries.iter().any(is_directory) {
            let kind = Kind::Archive(inner.entries);
            self.entries.push(Entry { path, kind, mode: 0o644, owner: (0, 0), mtime });
        }
    }

    fn pattern(&self, random: &mut Random) -> String {
        let path =
            if self.entries.is_empty() { "a".to_owned() } else { random.element(&self.entries).path.clone() };
        let name = path.rsplit('/').next().unwrap_or_default();
        match random.below(6) {
            0 => path,
            1 => format!("**/{name}"),
            2 => format!("!{path}"),
            3 => format!("{path}/*"),
            4 => "*/a".to_owned(),
            _ => "*.txt".to_owned(),
        }
    }

    fn paths(&self, which: impl Fn(&Kind) -> bool) -> Vec<String> {
        self.entries.iter().filter(|entry| which(&entry.kind)).map(|entry| entry.path.clone()).collect()
    }

    /// Makes the files below `root`, which exists, as files of `owner`.
    pub fn write(&self, root: &Path, owner: u32) {
        for entry in &self.entries {
            entry.write(root, owner);
        }
        if !self.ignored.is_empty() {
            fs::write(root.join(".dockerignore"), self.ignored.join("\n") + "\n").expect("ignore file");
        }
        // What was made in a directory changed its time.
        for entry in self.entries.iter().rev() {
            if matches!(entry.kind, Kind::Directory) {
                lchown(root.join(&entry.path), Some(owner), Some(owner)).expect("chown");
                fs::set_permissions(root.join(&entry.path), fs::Permissions::from_mode(entry.mode))
                    .expect("chmod");
            }
            if !matches!(entry.kind, Kind::Hard(_)) {
                set_mtime(&root.join(&entry.path), entry.mtime);
            }
        }
    }
}

impl Entry {
    fn write(&self, root: &Path, owner: u32) {
        let path = root.join(&self.path);
        match &self.kind {
            Kind::Directory => fs::create_dir(&path).expect("directory"),
            Kind::File(text) => fs::write(&path, text).expect("file"),
            Kind::Link(target) => symlink(target, &path).expect("link"),
            Kind::Hard(target) => fs::hard_link(root.join(target), &path).expect("hard link"),
            Kind::Fifo => {
                rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, 0o644.into(), 0).expect("fifo")
            }
            Kind::Archive(entries) => fs::write(&path, archive(entries)).expect("archive"),
        }
        if !matches!(self.kind, Kind::Directory) {
            lchown(&path, Some(owner), Some(owner)).expect("chown");
        }
        if matches!(self.kind, Kind::File(_) | Kind::Archive(_) | Kind::Fifo) {
            fs::set_permissions(&path, fs::Permissions::from_mode(self.mode)).expect("chmod");
        }
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0.into());
        header.set_gid(entry.owner.1.into());
        header.set_mtime(entry.mtime.cast_unsigned());
        header.set_size(0);
        let mut body = "";
        let result = match &entry.kind {
            Kind::Link(target) | Kind::Hard(target) => {
                let is_link = matches!(entry.kind, Kind::Link(_));
                header.set_entry_type(if is_link { tar::EntryType::Symlink } else { tar::EntryType::Link });
                builder.append_link(&mut header, &entry.path, target)
            }
            kind => {
                header.set_entry_type(match kind {
                    Kind::Directory => tar::EntryType::Directory,
                    Kind::Fifo => tar::EntryType::Fifo,
                    _ => tar::EntryType::Regular,
                });
                if let Kind::File(text) = kind {
                    body = text;
                }
                header.set_size(body.len() as u64);
                builder.append_data(&mut header, &entry.path, body.as_bytes())
            }
        };
        result.expect("entry");
    }
    builder.into_inner().expect("archive")
}

fn set_mtime(path: &Path, seconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("time");
}

/// A sibling, something elsewhere, or nothing.
fn link_target(random: &mut Random, entries: &[Entry]) -> String {
    match random.below(5) {
        0 => "nowhere".to_owned(),
        1 => "..".to_owned(),
        2 => "/t/w/a".to_owned(),
        3 if !entries.is_empty() => format!("/{}", random.element(entries).path),
        _ => random.pick(&NAMES).to_owned(),
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Entry { path, kind, mode, mtime, .. } in &self.entries {
            match kind {
                Kind::Archive(entries) => {
                    let inner = Context { entries: entries.clone(), ignored: Vec::new() }.to_string();
                    writeln!(
                        f,
                        "{path}: {mode:o} @{mtime} archive:\n    {}",
                        inner.trim_end().replace('\n', "\n    ")
                    )?;
                }
                kind => writeln!(f, "{path}: {mode:o} @{mtime} {kind:?}")?,
            }
        }
        Ok(())
    }
}
