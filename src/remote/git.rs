//! What a git source leads to: branches, tags and abbreviations to commits.

use std::path::Path;
use std::sync::OnceLock;

use crate::cancel::Cancel;
use crate::sandbox::Confinement;
use crate::store::Store;

use super::error::RemoteError;
use super::git_cache::Repository;
use super::git_checkout::{self, Checkout};
use super::git_program::{Call, DEFAULT_PATH, GitAuth, GitOptions, Program};
use super::git_reach::Place;
use super::git_url::{FileTimes, GitUrl, check_reference, is_commit};

/// An abbreviation shorter than this is more likely a name.
const SHORTEST: usize = 7;

/// A repository, and what is wanted of it.
#[derive(Clone, Debug)]
pub struct GitSource {
    /// Where it is and what is selected.
    pub url: GitUrl,
    /// Whether `.git` is kept: the address's own word or else that of a flag. Without effect where a
    /// subdirectory is selected.
    pub keep_git_dir: bool,
    /// Who asks. Name and password of the address are used where it is unset.
    pub auth: Option<GitAuth>,
}

/// Where a source leads at the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// The commit, in full. Where the source names an object by its full number, that number.
    pub commit: String,
    /// What the ref itself names: the commit, or an annotated tag.
    pub object: String,
    /// The full name of the ref (`refs/heads/main`); `None` where a commit was named.
    pub reference: Option<String>,
}

impl Resolved {
    fn commit(commit: &str) -> Self {
        Resolved { commit: commit.to_owned(), object: commit.to_owned(), reference: None }
    }
}

impl GitSource {
    /// Whether `.git` will be in the tree.
    pub(super) fn keeps_git_dir(&self) -> bool {
        self.keep_git_dir && self.url.subdir.is_none()
    }

    pub(super) fn with_submodules(&self) -> bool {
        self.url.submodules.unwrap_or(true)
    }

    /// Everything the files of a checkout depend on, for cache keys. Free of credentials and of the
    /// repository's address: the same commit is the same tree wherever it comes from. A kept `.git`
    /// names the address and the ref, so these count then.
    pub fn cache_key(&self, resolved: &Resolved) -> String {
        let mut key = format!("commit={}", resolved.commit);
        if let Some(subdir) = &self.url.subdir {
            key.push_str(&format!("\nsubdir={subdir}"));
        }
        if !self.with_submodules() {
            key.push_str("\nsubmodules=false");
        }
        if self.url.times == FileTimes::Commit {
            key.push_str("\nmtime=commit");
        }
        if self.keeps_git_dir() {
            let reference = resolved.reference.as_deref().unwrap_or_default();
            key.push_str(&format!("\ngit={} {} {reference}", resolved.object, self.url));
        }
        key
    }
}

/// Reads git repositories by the `git` program, 2.31 or newer.
pub struct Git {
    options: GitOptions,
    checked: OnceLock<()>,
    limits: OnceLock<Confinement>,
}

impl Git {
    /// A client with these settings. The program is looked for when first needed.
    pub fn new(options: GitOptions) -> Self {
        Git { options, checked: OnceLock::new(), limits: OnceLock::new() }
    }

    /// Finds the commit a source leads to, and checks it against the source's checksum. A full commit
    /// needs no request, a name one; an abbreviated commit makes the whole history be fetched, since
    /// servers do not know abbreviations. Branches go before tags of the same name, annotated tags
    /// lead to their commits (moby/buildkit, `source/git`).
    pub fn resolve(
        &self,
        store: &Store,
        source: &GitSource,
        cancel: &Cancel,
    ) -> Result<Resolved, RemoteError> {
        let url = &source.url;
        let direct = url
            .checksum
            .as_deref()
            .filter(|sum| is_commit(sum) && (url.fetch_by_commit || url.reference.is_none()));
        if let Some(commit) = direct {
            let reference = url.reference.clone().filter(|name| name.starts_with("refs/"));
            return Ok(Resolved { reference, ..Resolved::commit(commit) });
        }
        let found = match url.reference.as_deref() {
            Some(reference) if is_commit(reference) => Resolved::commit(reference),
            Some(reference) => {
                check_reference(reference).map_err(|reason| RemoteError::address(&url.remote, reason))?;
                self.with_program(store, source, cancel, |program| named(program, store, reference))?
            }
            None => self.with_program(store, source, cancel, default_branch)?,
        };
        if let Some(expected) = &url.checksum
            && !found.commit.starts_with(expected)
            && !found.object.starts_with(expected)
        {
            let mut actual = found.object.clone();
            if found.commit != found.object {
                actual.push_str(&format!(" or {}", found.commit));
            }
            return Err(RemoteError::Commit { url: url.to_string(), expected: expected.clone(), actual });
        }
        Ok(found)
    }

    /// Checks the files of a commit out into `dir/tree`. `dir` must be an empty directory; on failure
    /// it may be left with anything in it. The repository's objects are kept in the store, so that
    /// another commit of it takes only what is new.
    ///
    /// Files are 0644 or 0755 and directories 0755, whatever the umask; nothing is run that the
    /// repository names (hooks, filters), so LFS files are pointers.
    pub fn checkout(
        &self,
        store: &Store,
        source: &GitSource,
        resolved: &Resolved,
        dir: &Path,
        cancel: &Cancel,
    ) -> Result<Checkout, RemoteError> {
        self.with_program(store, source, cancel, |program| {
            let repository = Repository::open(program, store, resolved.object.len())?;
            repository.bring(program, resolved)?;
            git_checkout::checkout(program, &repository, source, resolved, dir)
        })
    }

    fn with_program<T>(
        &self,
        store: &Store,
        source: &GitSource,
        cancel: &Cancel,
        work: impl FnOnce(&Program<'_>) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        let home = store.temp_dir()?;
        let program = Program {
            options: &self.options,
            url: &source.url,
            auth: source.auth.as_ref(),
            place: Place::named(&source.url),
            home: home.path(),
            limits: self.limits.get_or_init(|| {
                let path = self.options.search_path.as_deref().unwrap_or(DEFAULT_PATH.as_ref());
                Confinement::of_program(path, &["git", "ssh"])
            }),
            cancel,
        };
        if self.checked.get().is_none() {
            program.check_version()?;
            let _ = self.checked.set(());
        }
        work(&program)
    }
}

/// The default branch: what `HEAD` points to.
fn default_branch(program: &Program<'_>) -> Result<Resolved, RemoteError> {
    let url = &program.url.remote;
    let output = program.run("read", Call::new(["ls-remote", "--symref", "--", url, "HEAD"]).remote())?;
    let output = String::from_utf8_lossy(&output);
    let mut reference = None;
    for line in output.lines() {
        match line.split_once('\t') {
            Some((target, "HEAD")) if target.starts_with("ref: ") => {
                reference = target.strip_prefix("ref: ").map(str::to_owned);
            }
            Some((commit, "HEAD")) if is_commit(commit) => {
                return Ok(Resolved { reference, ..Resolved::commit(commit) });
            }
            _ => {}
        }
    }
    let hint = Some("it has no default branch; name a branch, tag or commit");
    Err(RemoteError::NoReference { url: url.clone(), reference: "HEAD".into(), hint })
}

/// A branch, tag, other ref or abbreviated commit.
fn named(program: &Program<'_>, store: &Store, name: &str) -> Result<Resolved, RemoteError> {
    let url = &program.url.remote;
    let peeled = format!("{name}^{{}}");
    let output = program.run("read", Call::new(["ls-remote", "--", url, name, &peeled]).remote())?;
    let output = String::from_utf8_lossy(&output);
    let refs: Vec<(&str, &str)> = output.lines().filter_map(|line| line.split_once('\t')).collect();
    let find = |full: &str| refs.iter().find(|(_, found)| *found == full).map(|(object, _)| *object);
    let part = |prefix: &str| format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name));
    let candidates = [name.to_owned(), part("refs/"), part("refs/heads/"), part("refs/tags/")];
    for full in candidates.iter().filter(|full| full.starts_with("refs/") || *full == "HEAD") {
        let Some(object) = find(full) else { continue };
        let commit = find(&format!("{full}^{{}}")).unwrap_or(object);
        if !is_commit(object) || !is_commit(commit) {
            break;
        }
        let reference = full.starts_with("refs/").then(|| full.clone());
        return Ok(Resolved { commit: commit.to_owned(), object: object.to_owned(), reference });
    }
    let hex = name.bytes().all(|c| c.is_ascii_hexdigit()) && name.len() >= SHORTEST;
    if hex && name.len() < 40 {
        return abbreviated(program, store, &name.to_ascii_lowercase());
    }
    Err(RemoteError::NoReference { url: url.clone(), reference: name.to_owned(), hint: None })
}

/// Looks an abbreviated commit up in the whole history.
fn abbreviated(program: &Program<'_>, store: &Store, name: &str) -> Result<Resolved, RemoteError> {
    let repository = Repository::open(program, store, 40)?;
    repository.bring_all(program)?;
    match repository.expand(program, name)? {
        Some(commit) => Ok(Resolved::commit(&commit)),
        None => {
            let hint = Some("no ref has this name, and no single commit of its history begins so");
            let (url, reference) = (program.url.remote.clone(), name.to_owned());
            Err(RemoteError::NoReference { url, reference, hint })
        }
    }
}
