//! The files of a commit.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, FileTimes as Times, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FileType;

use crate::fs::{Root, TreeEntry, remove_tree};

use super::error::RemoteError;
use super::git::{GitSource, Resolved};
use super::git_cache::{Repository, object_format};
use super::git_program::{Call, Program};
use super::git_reach::Place;
use super::git_url::FileTimes;

/// What submodule updates say where a commit is not available without its history.
const NOT_ALONE: &[&str] = &["Direct fetching", "not our ref", "unadvertised object", "shallow", "--depth"];

/// What bringing submodules is called in messages.
const SUBMODULES: &str = "fetch the submodules of";

/// Submodules in submodules: more is a circle.
const DEEPEST: usize = 32;

/// Files of a commit on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkout {
    /// The commit, in full.
    pub commit: String,
    /// When it was committed, in seconds since 1970.
    pub commit_time: i64,
    /// The directory that holds the selected files.
    pub tree: PathBuf,
}

/// Where the parts of a checkout lie while it is made.
struct Places<'a> {
    source: &'a GitSource,
    /// Whose objects are read in place.
    repository: &'a Path,
    tree: PathBuf,
    work_tree: PathBuf,
    git_dir: PathBuf,
}

/// Checks out what `repository` has already. See [`super::Git::checkout`].
pub(super) fn checkout(
    program: &Program<'_>,
    repository: &Repository,
    source: &GitSource,
    resolved: &Resolved,
    dir: &Path,
) -> Result<Checkout, RemoteError> {
    let missing = || RemoteError::NoReference {
        url: source.url.to_string(),
        reference: resolved.object.clone(),
        hint: Some("it is no commit"),
    };
    let commit = repository.peel(program, &resolved.object)?.ok_or_else(missing)?;
    let time = Call::new(["log", "-1", "--format=%ct", &commit]).git_dir(repository.path());
    let commit_time = program.line("read", time)?.parse().map_err(|_| missing())?;

    let tree = dir.join("tree");
    let work_tree = if source.url.subdir.is_some() { dir.join("whole") } else { tree.clone() };
    let keep = source.keeps_git_dir();
    let git_dir = if keep { work_tree.join(".git") } else { dir.join("git") };
    let places = Places { source, repository: repository.path(), tree, work_tree, git_dir };
    fs::create_dir(&places.work_tree).map_err(RemoteError::io("create", &places.work_tree))?;
    let format = format!("--object-format={}", object_format(commit.len()));
    if keep {
        places.copy(program, repository, resolved, &format)?;
    } else {
        places.borrow(program, repository, &format)?;
    }
    let files = ["checkout", "--quiet", "--force", "--detach", &commit, "--"];
    program.run("check out", places.call(files))?;
    if source.with_submodules() && fs::symlink_metadata(places.work_tree.join(".gitmodules")).is_ok() {
        places.update_submodules(program)?;
    }
    let time = (source.url.times == FileTimes::Commit).then_some(commit_time);
    places.normalise(time).map_err(RemoteError::io("prepare", &places.work_tree))?;
    places.select()?;
    Ok(Checkout { commit, commit_time, tree: places.tree })
}

impl Places<'_> {
    fn call<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Call {
        let call = Call::new(arguments).git_dir(&self.git_dir).work_tree(&self.work_tree);
        call.reads(self.repository)
    }

    /// For a submodule's files, whose repository is inside that of the checkout.
    fn call_below(&self, files: &Path) -> Call {
        Call::new::<&str>([]).directory(files).writes(&self.git_dir).reads(self.repository)
    }

    /// A repository for the time of the checkout, which reads the store's objects in place.
    fn borrow(
        &self,
        program: &Program<'_>,
        repository: &Repository,
        format: &str,
    ) -> Result<(), RemoteError> {
        fs::create_dir(&self.git_dir).map_err(RemoteError::io("create", &self.git_dir))?;
        let init = ["init", "--quiet", "--bare", format];
        program.run("check out", Call::new(init).git_dir(&self.git_dir))?;
        let info = self.git_dir.join("objects/info");
        let mut objects = repository.path().join("objects").into_os_string().into_encoded_bytes();
        objects.push(b'\n');
        fs::create_dir_all(&info)
            .and_then(|()| fs::write(info.join("alternates"), objects))
            .map_err(RemoteError::io("write", info))?;
        // Addresses of submodules may be relative to it.
        self.set_origin(program)
    }

    /// A repository to be kept: whole in itself, with the ref that was asked for.
    fn copy(
        &self,
        program: &Program<'_>,
        repository: &Repository,
        resolved: &Resolved,
        format: &str,
    ) -> Result<(), RemoteError> {
        // Told the directory as an argument, init writes no absolute path into the configuration.
        let init = ["init", "--quiet", format, "."];
        program.run("check out", Call::new(init).directory(&self.work_tree))?;
        let from = repository.path().as_os_str().to_owned();
        let mark = Repository::mark(&resolved.object);
        let spec = match &resolved.reference {
            Some(reference) => format!("+{mark}:{reference}"),
            None => mark,
        };
        let options =
            ["fetch", "--quiet", "--no-tags", "--depth=1", "--update-head-ok", "--no-write-fetch-head"];
        let mut fetch: Vec<std::ffi::OsString> = options.iter().map(Into::into).collect();
        fetch.extend(["--".into(), from, spec.into()]);
        program.run("check out", self.call(fetch).local(repository.path()))?;
        self.set_origin(program)
    }

    fn set_origin(&self, program: &Program<'_>) -> Result<(), RemoteError> {
        let add = ["remote", "add", "origin", &program.url.remote];
        program.run("check out", self.call(add)).map(drop)
    }

    /// Brings the submodules, theirs too. One after the other: each is an address that the repository
    /// chose, and git is bound to what was found good of it.
    fn update_submodules(&self, program: &Program<'_>) -> Result<(), RemoteError> {
        let led = !program.place.is_local();
        let mut levels = vec![(self.call::<&str>([]), self.work_tree.clone(), 0)];
        while let Some((base, work_tree, depth)) = levels.pop() {
            if depth > DEEPEST {
                let reason = "its submodules lie too deep in each other".to_owned();
                return Err(RemoteError::Unreachable { url: self.source.url.to_string(), reason });
            }
            program.run(SUBMODULES, base.again(["submodule", "--quiet", "init"]))?;
            for (path, remote) in submodules(program, &base)? {
                let Some(remote) = remote else {
                    let path = String::from_utf8_lossy(&path);
                    let words = format!("no url found for submodule path '{path}' in .gitmodules");
                    return Err(program.failure(SUBMODULES, &words));
                };
                if let Some(place) = Place::submodule(&remote, led)? {
                    update(&program.at(place), &base, &path)?;
                } else {
                    update(program, &base, &path)?;
                }
                let below = work_tree.join(OsStr::from_bytes(&path));
                if fs::symlink_metadata(below.join(".gitmodules")).is_ok() {
                    levels.push((self.call_below(&below), below, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// Removes what submodules leave, and makes modes and times what they are to be.
    fn normalise(&self, time: Option<i64>) -> std::io::Result<()> {
        let root = Root::open(&self.work_tree)?;
        let entries = root.walk()?;
        let keep = self.source.keeps_git_dir();
        let (extra, entries): (Vec<TreeEntry>, Vec<TreeEntry>) =
            entries.into_iter().partition(|entry| !keep && is_git_dir(entry));
        for entry in extra {
            root.remove(&entry.path)?;
        }
        for entry in &entries {
            if let Some(mode) = mode(entry).filter(|mode| *mode != entry.mode()) {
                root.set_mode(&entry.path, mode)?;
            }
        }
        fs::set_permissions(&self.work_tree, Permissions::from_mode(0o755))?;
        let Some(time) = time else { return Ok(()) };
        // Children first: nothing may touch a directory after its time was set.
        for entry in entries.iter().rev() {
            root.set_mtime(&entry.path, time, 0)?;
        }
        let stamp = match u64::try_from(time) {
            Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(time.unsigned_abs()),
        };
        fs::File::open(&self.work_tree)?.set_times(Times::new().set_accessed(stamp).set_modified(stamp))
    }

    /// Puts the selected directory in its place and removes the rest.
    fn select(&self) -> Result<(), RemoteError> {
        if let Some(subdir) = &self.source.url.subdir {
            let refused = |reason| RemoteError::Subdir {
                url: self.source.url.to_string(),
                subdir: subdir.clone(),
                reason,
            };
            let mut wanted = self.work_tree.clone();
            for part in subdir.split('/') {
                wanted.push(part);
                // As moby/buildkit: not even links that stay in the repository are followed.
                let kind = fs::symlink_metadata(&wanted).map_err(|_| refused("does not exist"))?.file_type();
                if !kind.is_dir() {
                    let link = kind.is_symlink();
                    return Err(refused(if link { "leads through a link" } else { "is not a directory" }));
                }
            }
            fs::rename(&wanted, &self.tree).map_err(RemoteError::io("move", &wanted))?;
            remove_tree(&self.work_tree).map_err(RemoteError::io("remove", &self.work_tree))?;
        }
        if !self.source.keeps_git_dir() {
            remove_tree(&self.git_dir).map_err(RemoteError::io("remove", &self.git_dir))?;
        }
        Ok(())
    }
}

/// Brings one submodule.
fn update(program: &Program<'_>, base: &Call, path: &[u8]) -> Result<(), RemoteError> {
    let path = OsStr::from_bytes(path);
    let call = |options: &[&str]| {
        let start = ["submodule", "--quiet", "update"].iter().chain(options).map(OsStr::new);
        base.again(start.chain([OsStr::new("--"), path]))
    };
    match program.attempt(&call(&["--depth=1"]).remote())? {
        Ok(_) => Ok(()),
        Err(words) if NOT_ALONE.iter().any(|part| words.contains(part)) => {
            program.run(SUBMODULES, call(&[]).remote()).map(drop)
        }
        Err(words) => Err(program.failure(SUBMODULES, &words)),
    }
}

/// The submodules of a work tree whose repository `base` is in: their paths, which git has checked, and
/// their addresses, where they have one.
fn submodules(program: &Program<'_>, base: &Call) -> Result<Vec<(Vec<u8>, Option<String>)>, RemoteError> {
    let listed = program.run(SUBMODULES, base.again(["ls-files", "--stage", "-z"]))?;
    let of = |line: &[u8]| {
        let tab = line.iter().position(|c| *c == b'\t')?;
        line.starts_with(b"160000 ").then(|| line[tab + 1..].to_vec())
    };
    let paths: Vec<Vec<u8>> = listed.split(|c| *c == 0).filter_map(of).collect();
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let read = |call: Call| program.attempt(&call).map(Result::unwrap_or_default);
    let named = read(base.again([
        "config",
        "-z",
        "--file",
        ".gitmodules",
        "--get-regexp",
        r"^submodule\..*\.path$",
    ]))?;
    let urls = read(base.again(["config", "-z", "--get-regexp", r"^submodule\..*\.url$"]))?;
    let urls: HashMap<String, String> = values(&urls, ".url").into_iter().collect();
    let names = values(&named, ".path").into_iter().map(|(name, path)| (path, name));
    let names: HashMap<String, String> = names.collect();
    let address = |path: &[u8]| {
        let name = names.get(std::str::from_utf8(path).ok()?)?;
        urls.get(name).cloned()
    };
    Ok(paths.into_iter().map(|path| (path.clone(), address(&path))).collect())
}

/// Names of submodules and what a setting of each is, from `git config -z --get-regexp`.
fn values(output: &[u8], key: &str) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(output);
    let pair = |line: &str| {
        let (name, value) = line.split_once('\n')?;
        let name = name.strip_prefix("submodule.")?.strip_suffix(key)?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.split('\0').filter_map(pair).collect()
}

/// What a checked-out submodule has in place of a repository. No commit can contain the name.
fn is_git_dir(entry: &TreeEntry) -> bool {
    entry.path.split(|c| *c == b'/').any(|part| part == b".git")
}

/// The mode git itself would give with umask 022; what it made read-only stays so.
fn mode(entry: &TreeEntry) -> Option<u32> {
    let mode = entry.mode();
    match entry.file_type() {
        FileType::Directory => Some(0o755),
        FileType::RegularFile => {
            let bits = if mode & 0o100 != 0 { 0o755 } else { 0o644 };
            Some(if mode & 0o200 != 0 { bits } else { bits & 0o555 })
        }
        _ => None,
    }
}
