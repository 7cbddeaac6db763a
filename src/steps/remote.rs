//! `ADD` from URLs and git repositories, and contexts that lie elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::cancel::Cancel;
use crate::context::ignore::{IgnoreRules, PatternSet};
use crate::context::{self, ContextError, LocalContext};
use crate::digest::{Digest, Hasher};
use crate::image::ReadError;
use crate::plan::RemoteSource;
use crate::registry::{ProxyOptions, Roots, SourceNetwork};
use crate::remote::{
    self, Checksum, Git, GitAuth, GitOptions, GitSource, GitUrl, HttpAuth, HttpClient, HttpFile, HttpOptions,
    HttpRequest, HttpUrl, RemoteError, Resolved, SourceKind, add_source,
};
use crate::sources::{self, Rules, WantedFile, WantedGit};
use crate::store::Store;

use super::copy::{self, CopyError, Selected};
use super::mount::Secret;

/// How things elsewhere are reached.
#[derive(Clone, Debug, Default)]
pub struct RemoteOptions {
    /// Proxies.
    pub proxy: Option<ProxyOptions>,
    /// The caller's `PATH`, to find git.
    pub search_path: Option<OsString>,
    /// Host keys that ssh accepts.
    pub known_hosts: Option<PathBuf>,
    /// The agent that ssh may ask.
    pub ssh_agent: Option<PathBuf>,
    /// Which addresses may be asked.
    pub network: SourceNetwork,
    /// Which certificate authorities downloads trust; git has its own.
    pub roots: Roots,
}

/// Downloads and check-outs of one build.
pub struct Remotes {
    store: Store,
    options: RemoteOptions,
    secrets: BTreeMap<String, Secret>,
    rules: Arc<Rules>,
    http: OnceLock<HttpClient>,
    git: OnceLock<Git>,
    fetched: Mutex<Vec<Fetched>>,
    looked_up: Mutex<Vec<LookedUp>>,
}

/// Something from elsewhere that a build looked up, as it can be had again.
#[derive(Clone, Debug)]
pub enum LookedUp {
    /// A download.
    File(HttpUrl, HttpFile),
    /// What is wanted of a repository, and the commit.
    Commit(Box<GitSource>, Resolved),
}

/// Something from elsewhere that a build looked up, without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// A download.
    File {
        /// Its address.
        url: String,
        /// Its content.
        digest: Digest,
    },
    /// A commit.
    Commit {
        /// The repository's address, with `#` and the ref that was asked for.
        url: String,
        /// The commit in hex.
        commit: String,
    },
}

impl Fetched {
    /// Its address.
    pub fn url(&self) -> &str {
        match self {
            Fetched::File { url, .. } | Fetched::Commit { url, .. } => url,
        }
    }

    /// The address under which a commit is listed.
    pub fn git_address(url: &GitUrl) -> String {
        match &url.reference {
            Some(reference) => format!("{url}#{reference}"),
            None => url.to_string(),
        }
    }
}

/// A remote source, looked up: enough for a cache key.
pub enum Found {
    /// A download.
    File {
        /// As written.
        url: String,
        /// The file.
        file: HttpFile,
    },
    /// A commit, not checked out yet.
    Commit {
        /// As written.
        url: String,
        /// What is wanted of it.
        source: Box<GitSource>,
        /// The commit.
        resolved: Resolved,
    },
}

impl Remotes {
    /// Nothing is contacted before it is asked for.
    pub fn new(
        store: Store,
        options: RemoteOptions,
        secrets: BTreeMap<String, Secret>,
        rules: Arc<Rules>,
    ) -> Self {
        let (http, git) = (OnceLock::new(), OnceLock::new());
        let (fetched, looked_up) = (Mutex::default(), Mutex::default());
        Remotes { store, options, secrets, rules, http, git, fetched, looked_up }
    }

    /// What every source passes.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// All that was looked up so far, in no order.
    pub fn fetched(&self) -> Vec<Fetched> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that was looked up so far, in no order and maybe more than once.
    pub fn looked_up(&self) -> Vec<LookedUp> {
        self.looked_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, found: Fetched, looked_up: LookedUp) {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner).push(found);
        self.looked_up.lock().unwrap_or_else(PoisonError::into_inner).push(looked_up);
    }

    /// A secret's text, by one of several names.
    fn secret(&self, names: &[String]) -> Option<String> {
        let secret = names.iter().find_map(|name| self.secrets.get(name))?;
        Some(String::from_utf8_lossy(&secret.value).trim().to_owned())
    }

    /// Downloads a file, or finds that the copy in the store still holds; offline, any copy in the store does. Who
    /// asks is told by the secrets `HTTP_AUTH_TOKEN_<host>` and `HTTP_AUTH_HEADER_<host>`.
    pub fn download(
        &self,
        url: &HttpUrl,
        checksum: Option<&str>,
        progress: &dyn Fn(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<HttpFile, RemoteError> {
        let found = self.ask(url, checksum, true, progress, cancel)?;
        found.ok_or_else(|| RemoteError::Unreachable { url: url.to_string(), reason: "nothing came".into() })
    }

    /// Without `keeps`, only what the store has and the server still stands by.
    fn ask(
        &self,
        url: &HttpUrl,
        checksum: Option<&str>,
        keeps: bool,
        progress: &dyn Fn(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<Option<HttpFile>, RemoteError> {
        let wanted = self.rules.file(url, checksum)?;
        let file = self.fetch(&wanted, keeps, progress, cancel).map_err(|error| match error {
            RemoteError::Mismatch { actual, .. } if checksum.is_none() && wanted.pin.is_some() => {
                self.rules.has_changed(&wanted, &actual).into()
            }
            error => error,
        })?;
        if let Some(file) = &file {
            self.rules.saw_file(&wanted, file.digest)?;
            let found = Fetched::File { url: wanted.url.to_string(), digest: file.digest };
            self.note(found, LookedUp::File(wanted.url.clone(), file.clone()));
        }
        Ok(file)
    }

    fn fetch(
        &self,
        wanted: &WantedFile,
        keeps: bool,
        progress: &dyn Fn(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<Option<HttpFile>, RemoteError> {
        let url = &wanted.url;
        if let Some(vendor) = self.rules.vendor()
            && let Some(file) = vendor.file(url, wanted.pin, &self.store).map_err(vendored)?
        {
            return self.checked(wanted, file).map(Some);
        }
        let host = url.host();
        let token = self.secret(&[format!("HTTP_AUTH_TOKEN_{host}")]).map(HttpAuth::Bearer);
        let auth = self.secret(&[format!("HTTP_AUTH_HEADER_{host}")]).map(HttpAuth::Header).or(token);
        let checksum = wanted.checksum.as_deref().map(Checksum::parse).transpose()?;
        let request = HttpRequest { url: url.clone(), checksum, auth };
        if self.rules.is_offline() {
            let kept = remote::kept(&self.store, &request)?;
            return match kept {
                None if keeps => Err(sources::offline(&url.to_string()).into()),
                kept => Ok(kept),
            };
        }
        let client = match self.http.get() {
            Some(client) => client,
            None => {
                let proxy = self.options.proxy.clone();
                let (network, roots) = (self.options.network, self.options.roots.clone());
                let client =
                    HttpClient::new(&HttpOptions { proxy, network, roots, ..HttpOptions::default() })?;
                self.http.get_or_init(|| client)
            }
        };
        match keeps {
            true => client.fetch(&self.store, &request, progress, cancel).map(Some),
            false => client.known(&self.store, &request, cancel),
        }
    }

    /// A file of the vendored layout, if it has the checksum that is asked for.
    fn checked(&self, wanted: &WantedFile, file: HttpFile) -> Result<HttpFile, RemoteError> {
        let Some(checksum) = wanted.checksum.as_deref().map(Checksum::parse).transpose()? else {
            return Ok(file);
        };
        let io = |source| RemoteError::Io { action: "read", path: file.path.clone(), source };
        let actual = checksum.of(File::open(&file.path).map_err(io)?).map_err(io)?;
        if actual != checksum {
            let (url, actual, expected) = (wanted.url.to_string(), actual.to_string(), checksum.to_string());
            return Err(RemoteError::Mismatch { url, actual, expected });
        }
        Ok(file)
    }

    fn git(&self) -> &Git {
        self.git.get_or_init(|| {
            Git::new(GitOptions {
                search_path: self.options.search_path.clone(),
                proxy: self.options.proxy.clone(),
                ssh_agent: self.options.ssh_agent.clone(),
                known_hosts: self.options.known_hosts.clone(),
                network: self.options.network,
                ..GitOptions::default()
            })
        })
    }

    /// A git source with whoever asks: `GIT_AUTH_TOKEN`, `GIT_AUTH_HEADER`, also with `.<host>`.
    fn git_source(&self, url: GitUrl, keep_git_dir: bool) -> GitSource {
        let names = |name: &str| [format!("{name}.{}", url.host()), name.to_owned()];
        let token = self.secret(&names("GIT_AUTH_TOKEN")).map(|token| GitAuth::Token { user: None, token });
        let auth = self.secret(&names("GIT_AUTH_HEADER")).map(GitAuth::Header).or(token);
        let keep_git_dir = url.keep_git_dir.unwrap_or(keep_git_dir);
        GitSource { url, keep_git_dir, auth }
    }

    /// Finds the commit that an address leads to.
    pub fn resolve(
        &self,
        written: &GitUrl,
        keep_git_dir: bool,
        cancel: &Cancel,
    ) -> Result<(GitSource, Resolved), RemoteError> {
        let WantedGit { named, url } = self.rules.git(written.clone())?;
        let source = self.git_source(url, keep_git_dir);
        let resolved = self.git().resolve(&self.store, &source, cancel).map_err(|error| {
            let what = match &written.reference {
                Some(reference) => format!("where {reference} of {written} leads"),
                None => format!("where {written} leads"),
            };
            self.or_offline(error, &what)
        })?;
        self.rules.saw_git(&named, &resolved);
        let url = Fetched::git_address(&named);
        let found = Fetched::Commit { url, commit: resolved.commit.clone() };
        self.note(found, LookedUp::Commit(Box::new(source.clone()), resolved.clone()));
        Ok((source, resolved))
    }

    /// What failed because nothing may be fetched says so in one way.
    fn or_offline(&self, error: RemoteError, what: &str) -> RemoteError {
        match error {
            RemoteError::Unreachable { .. } if self.rules.is_offline() => sources::offline(what).into(),
            error => error,
        }
    }

    /// Checks a commit out below the empty directory `dir`; gives the tree's directory and the
    /// commit's time.
    pub fn checkout(
        &self,
        source: &GitSource,
        resolved: &Resolved,
        dir: &Path,
        cancel: &Cancel,
    ) -> Result<(PathBuf, i64), RemoteError> {
        if let Some(vendor) = self.rules.vendor()
            && let Some((tar, time)) =
                vendor.tree(&source.cache_key(resolved), &self.store).map_err(vendored)?
        {
            return unpacked(&tar, time, dir);
        }
        let checkout = self.git().checkout(&self.store, source, resolved, dir, cancel).map_err(|error| {
            self.or_offline(error, &format!("commit {} of {}", resolved.commit, source.url))
        })?;
        Ok((checkout.tree, checkout.commit_time))
    }

    /// Whether the rules allow a source of `ADD`. Nothing is fetched.
    pub fn check(&self, wanted: &RemoteSource) -> Result<(), RemoteError> {
        match parsed(wanted)? {
            Parsed::Git(git) => drop(self.rules.git(*git)?),
            Parsed::File(url) => drop(self.rules.file(&url, wanted.checksum.as_deref())?),
        }
        Ok(())
    }

    /// Whether a lock says all there is to know of a source of `ADD` that is a file, so that a lock can be made
    /// without downloading it.
    pub fn is_pinned_file(&self, wanted: &RemoteSource) -> Result<bool, RemoteError> {
        let Parsed::File(url) = parsed(wanted)? else { return Ok(false) };
        let wanted = self.rules.file(&url, wanted.checksum.as_deref())?;
        let Some(pin) = wanted.pin else { return Ok(false) };
        self.rules.saw_file(&wanted, pin)?;
        Ok(true)
    }

    /// Looks a source of `ADD` up.
    pub fn find(
        &self,
        wanted: &RemoteSource,
        progress: &dyn Fn(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<Found, RemoteError> {
        let found = self.look_up(wanted, true, progress, cancel)?;
        let nothing = || RemoteError::Unreachable { url: wanted.url.clone(), reason: "nothing came".into() };
        found.ok_or_else(nothing)
    }

    /// As [`Remotes::find`] without downloading; `None` where the file is not in the store, or is another by now.
    pub fn find_known(&self, wanted: &RemoteSource, cancel: &Cancel) -> Result<Option<Found>, RemoteError> {
        self.look_up(wanted, false, &|_, _| {}, cancel)
    }

    fn look_up(
        &self,
        wanted: &RemoteSource,
        keeps: bool,
        progress: &dyn Fn(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<Option<Found>, RemoteError> {
        let url = wanted.url.clone();
        match parsed(wanted)? {
            Parsed::Git(git) => {
                let keep = wanted.keep_git_dir.unwrap_or(false);
                let (source, resolved) = self.resolve(&git, keep, cancel)?;
                Ok(Some(Found::Commit { url, source: Box::new(source), resolved }))
            }
            Parsed::File(http) => {
                let file = self.ask(&http, wanted.checksum.as_deref(), keeps, progress, cancel)?;
                Ok(file.map(|file| Found::File { url, file }))
            }
        }
    }
}

/// What is wrong with a vendored layout.
fn vendored(error: ReadError) -> RemoteError {
    match error {
        ReadError::Store(error) => error.into(),
        error => RemoteError::Setting(error.to_string()),
    }
}

/// Unpacks the tree of a commit as git would have checked it out.
fn unpacked(tar: &Path, time: i64, dir: &Path) -> Result<(PathBuf, i64), RemoteError> {
    let tree = dir.join("tree");
    let failed = |source| RemoteError::Io { action: "unpack", path: tar.to_owned(), source };
    let file = File::open(tar).map_err(failed)?;
    context::unpack_archive(file, &tree).map_err(|error| RemoteError::Setting(error.to_string()))?;
    std::fs::set_permissions(&tree, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    Ok((tree, time))
}

enum Parsed {
    Git(Box<GitUrl>),
    File(HttpUrl),
}

/// What a source of `ADD` is.
fn parsed(wanted: &RemoteSource) -> Result<Parsed, RemoteError> {
    Ok(match add_source(&wanted.url)? {
        SourceKind::Git(mut git) => {
            if let Some(checksum) = &wanted.checksum {
                git.checksum = Some(checksum.to_lowercase());
            }
            Parsed::Git(Box::new(git))
        }
        SourceKind::Http(http) => Parsed::File(http),
        SourceKind::None => Parsed::File(HttpUrl::parse(&wanted.url)?),
    })
}

impl Found {
    /// As written, for messages.
    pub fn url(&self) -> &str {
        match self {
            Found::File { url, .. } | Found::Commit { url, .. } => url,
        }
    }

    /// What it is, for the cache key: the content of a file and its name, or a commit and what is
    /// taken of it. Where it comes from does not count.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        match self {
            Found::File { file, .. } => {
                hasher.field(b"http");
                hasher.field(file.digest.raw());
                hasher.field(file.name.as_bytes());
                hasher.update(&file.last_modified.unwrap_or(0).to_le_bytes());
            }
            Found::Commit { source, resolved, .. } => {
                hasher.field(b"git");
                hasher.field(source.cache_key(resolved).as_bytes());
            }
        }
        hasher.finish()
    }

    /// Its files as something that was selected; a commit is checked out below `dir`, and `excluded`
    /// says what of it does not count.
    pub fn files(
        &self,
        remotes: &Remotes,
        dir: &Path,
        excluded: Option<&PatternSet>,
        cancel: &Cancel,
    ) -> Result<Selected, RemoteFilesError> {
        match self {
            Found::File { url, file } => Ok(super::download::download_selected(url, file)),
            Found::Commit { url, source, resolved } => {
                let (tree, _) = remotes.checkout(source, resolved, dir, cancel)?;
                let files = LocalContext::open(&tree, IgnoreRules::none())
                    .map_err(|source| ContextError::Read { path: tree, source })
                    .map_err(CopyError::from)?;
                Ok(copy::select_path("/", url, Arc::new(files), excluded)?)
            }
        }
    }
}

/// Why remote files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RemoteFilesError {
    /// Fetching.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Reading what was fetched.
    #[error(transparent)]
    Copy(#[from] CopyError),
}
