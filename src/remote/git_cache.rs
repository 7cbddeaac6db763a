//! Copies of remote repositories in the store: bare, shallow where the server allows it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::digest::Hasher;
use crate::store::Store;

use super::error::RemoteError;
use super::git::Resolved;
use super::git_program::{Call, Program};
use super::git_url::is_commit;

/// What servers and git say where a single commit is not available, or not without its history.
const REFUSALS: &[&str] = &[
    "not our ref",
    "unadvertised object",
    "shallow",
    "--depth",
    "couldn't find remote ref",
    "not found in remote",
    "does not support",
];

/// A copy of a repository, locked against other processes while this lives.
pub(super) struct Repository {
    path: PathBuf,
    _lock: File,
}

impl Repository {
    /// Opens the copy of the program's repository, making an empty one if there is none. `digits` is
    /// the length of its object names.
    pub(super) fn open(program: &Program<'_>, store: &Store, digits: usize) -> Result<Self, RemoteError> {
        let format = object_format(digits);
        let mut key = Hasher::new();
        key.field(b"git repository 1");
        key.field(program.url.remote.as_bytes());
        key.field(format.as_bytes());
        let dir = store.git_cache_path(&key.finish());
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(RemoteError::io("create", &dir))?;
        let lock = lock(&dir.join("lock"), program.cancel)?;
        let path = dir.join("repository");
        if !path.is_dir() {
            let fresh = store.temp_dir()?;
            let made = fresh.path().join("repository");
            fs::create_dir(&made).map_err(RemoteError::io("create", &made))?;
            let format = format!("--object-format={format}");
            let init = Call::new(["init", "--quiet", "--bare", &format]).git_dir(&made);
            program.run("copy", init)?;
            fs::rename(&made, &path).map_err(RemoteError::io("create", &path))?;
        }
        // Left by a git that was killed; nobody else is here.
        for name in ["shallow.lock", "packed-refs.lock", "config.lock"] {
            let _ = fs::remove_file(path.join(name));
        }
        clear_locks(&path.join("refs/rbuild"));
        Ok(Repository { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The ref that marks an object as here with all that its files need.
    pub(super) fn mark(object: &str) -> String {
        format!("refs/rbuild/have/{object}")
    }

    /// Fetches an object unless it is here: alone, else with its ref, else with everything.
    pub(super) fn bring(&self, program: &Program<'_>, wanted: &Resolved) -> Result<(), RemoteError> {
        let mark = Self::mark(&wanted.object);
        if self.peel(program, &mark)?.is_some() {
            return Ok(());
        }
        let mut specs = vec![wanted.object.as_str()];
        specs.extend(wanted.reference.as_deref());
        for spec in specs {
            let spec = format!("+{spec}:refs/rbuild/tip");
            match program.attempt(&self.fetch(program, &["--depth=1"], &[&spec]))? {
                Ok(_) => {}
                Err(words) if REFUSALS.iter().any(|refusal| words.contains(refusal)) => continue,
                Err(words) => return Err(program.failure("fetch", &words)),
            }
            if self.keep(program, &wanted.object)? {
                return Ok(());
            }
        }
        self.bring_all(program)?;
        if let Some(reference) = &wanted.reference
            && self.peel(program, &wanted.object)?.is_none()
        {
            let spec = format!("+{reference}:refs/rbuild/tip");
            program.run("fetch", self.fetch(program, &[], &[&spec]))?;
        }
        if self.keep(program, &wanted.object)? {
            return Ok(());
        }
        let reference = wanted.reference.as_ref().unwrap_or(&wanted.object).clone();
        let hint = wanted.reference.is_some().then_some("it has moved since it was looked up");
        Err(RemoteError::NoReference { url: program.url.to_string(), reference, hint })
    }

    /// Fetches all branches and tags with their history.
    pub(super) fn bring_all(&self, program: &Program<'_>) -> Result<(), RemoteError> {
        let specs = ["+refs/heads/*:refs/rbuild/heads/*", "+refs/tags/*:refs/rbuild/tags/*"];
        let shallow = self.path.join("shallow").exists();
        let options: &[&str] = if shallow { &["--prune", "--unshallow"] } else { &["--prune"] };
        program.run("fetch", self.fetch(program, options, &specs)).map(drop)
    }

    /// The commit an abbreviation stands for, if it is one and the only one.
    pub(super) fn expand(&self, program: &Program<'_>, name: &str) -> Result<Option<String>, RemoteError> {
        let commit = self.peel(program, name)?;
        // A branch of this repository could have that name too.
        Ok(commit.filter(|commit| commit.starts_with(name)))
    }

    /// The commit an object or ref leads to; `None` where it is not here.
    pub(super) fn peel(&self, program: &Program<'_>, name: &str) -> Result<Option<String>, RemoteError> {
        let commit = format!("{name}^{{commit}}");
        let call = Call::new(["rev-parse", "--quiet", "--verify", "--end-of-options", &commit]);
        let output = program.attempt(&call.git_dir(&self.path))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&output).trim().to_owned();
        Ok(is_commit(&text).then_some(text))
    }

    /// Marks an object, if a fetch brought it.
    fn keep(&self, program: &Program<'_>, object: &str) -> Result<bool, RemoteError> {
        if self.peel(program, object)?.is_none() {
            return Ok(false);
        }
        let call = Call::new(["update-ref", &Self::mark(object), object]).git_dir(&self.path);
        program.run("keep what came from", call)?;
        Ok(true)
    }

    fn fetch(&self, program: &Program<'_>, options: &[&str], specs: &[&str]) -> Call {
        let common = ["fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"];
        let rest = ["--", program.url.remote.as_str()];
        let no_submodules = ["--no-recurse-submodules"];
        let all = common.iter().chain(&no_submodules).chain(options).chain(&rest).chain(specs);
        Call::new(all).git_dir(&self.path).remote()
    }
}

/// The name of the object format with names of so many digits.
pub(super) fn object_format(digits: usize) -> &'static str {
    if digits == 64 { "sha256" } else { "sha1" }
}

/// Takes a lock, waiting for other processes until the caller gives up.
fn lock(path: &Path, cancel: &Cancel) -> Result<File, RemoteError> {
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(path);
    let file = file.map_err(RemoteError::io("open", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return Err(RemoteError::Cancelled),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(25)),
            Err(TryLockError::Error(error)) => return Err(RemoteError::io("lock", path)(error)),
        }
    }
}

fn clear_locks(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            clear_locks(&entry.path());
        } else if entry.file_name().as_encoded_bytes().ends_with(b".lock") {
            let _ = fs::remove_file(entry.path());
        }
    }
}
