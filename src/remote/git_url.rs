//! Addresses of git repositories, with what they select.

use std::fmt;

use super::error::RemoteError;
use super::url::{Parts, decode, encode};

/// How git reaches a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Http,
    Https,
    Ssh,
    Git,
    File,
}

/// Which times checked-out files get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FileTimes {
    /// The time of the checkout.
    #[default]
    Checkout,
    /// The commit's time.
    Commit,
}

/// The address of a repository, and what of it is wanted (docs/reference.md of moby/buildkit, "Add
/// files from a Git repository", and `dfgitutil`). `Display` and `Debug` show no credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct GitUrl {
    pub(super) transport: Transport,
    /// As git gets it: without credentials (the user of ssh stays), fragment and query.
    pub(super) remote: String,
    pub(super) host: String,
    pub(super) credentials: Option<String>,
    /// Branch, tag, commit or full name of a ref; `None` is the repository's default branch.
    pub reference: Option<String>,
    /// The commit that `reference` must lead to: a prefix in lower-case hex.
    pub checksum: Option<String>,
    /// The directory wanted, without leading and trailing slashes; `None` is the whole tree.
    pub subdir: Option<String>,
    /// Whether submodules are checked out; unset means yes.
    pub submodules: Option<bool>,
    /// Whether `.git` is kept; unset leaves it to `--keep-git-dir` or BUILDKIT_CONTEXT_KEEP_GIT_DIR.
    pub keep_git_dir: Option<bool>,
    /// Which times the files get.
    pub times: FileTimes,
    /// Fetch `checksum`, a full commit, without asking where `reference` is.
    pub fetch_by_commit: bool,
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.remote)
    }
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitUrl")
            .field("remote", &self.remote)
            .field("reference", &self.reference)
            .field("checksum", &self.checksum)
            .field("subdir", &self.subdir)
            .finish_non_exhaustive()
    }
}

impl GitUrl {
    /// Parses `http(s)://`, `ssh://`, `git://` or `user@host:path` with its fragment and query. Also
    /// `file:///PATH`, which no Dockerfile or context can name: [`super::add_source`] and
    /// [`super::context_source`] never give it.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let invalid = |reason: &str| RemoteError::address(text, reason);
        if text.chars().any(char::is_control) {
            return Err(invalid("it contains control characters"));
        }
        let Some(parts) = Parts::split(text) else {
            return Self::parse_scp(text)?.ok_or_else(|| invalid("expected a git repository's address"));
        };
        let transport = match parts.scheme.as_str() {
            "http" => Transport::Http,
            "https" => Transport::Https,
            "ssh" => Transport::Ssh,
            "git" => Transport::Git,
            "file" => Transport::File,
            _ => return Err(invalid("git is reached by http, https, ssh or git")),
        };
        let user = check_authority(&parts, transport, text)?;
        let remote = format!("{}://{user}{}{}", parts.scheme, parts.host, encode(parts.path));
        let credentials =
            parts.credentials().filter(|_| matches!(transport, Transport::Http | Transport::Https));
        let fragment = parts.fragment.map(|text| String::from_utf8_lossy(&decode(text)).into_owned());
        let host = parts.host.to_owned();
        GitUrl { credentials, ..Self::plain(transport, remote, host) }.select(
            text,
            fragment.as_deref(),
            parts.query,
        )
    }

    /// Parses `user@host:path` (moby/buildkit, `sshutil`); `None` where the text is nothing like it.
    pub(super) fn parse_scp(text: &str) -> Result<Option<Self>, RemoteError> {
        let Some((user, rest)) = text.split_once('@') else { return Ok(None) };
        let Some((host, rest)) = rest.split_once(':') else { return Ok(None) };
        let word = |text: &str, more: &[u8]| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.bytes().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        if !word(user, b"-_") || !word(host, b"-.") {
            return Ok(None);
        }
        let (rest, fragment) = rest.split_once('#').map_or((rest, None), |(path, tail)| (path, Some(tail)));
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, tail)| (path, Some(tail)));
        if path.is_empty() || path.starts_with([':', '-']) || text.chars().any(char::is_control) {
            return Err(RemoteError::address(text, "it has no valid path"));
        }
        let remote = format!("{user}@{host}:{path}");
        Self::plain(Transport::Ssh, remote, host.to_owned()).select(text, fragment, query).map(Some)
    }

    /// The host, with its port if it has one: secrets such as `GIT_AUTH_TOKEN.<host>` are named by it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Host and path of the repository, however it is reached: `github.com/OWNER/NAME.git`.
    pub fn place(&self) -> String {
        let rest = self.remote.split_once("://").map(|(_, rest)| rest);
        match rest {
            Some(rest) => {
                let host = rest.split('/').next().unwrap_or_default();
                rest.get(host.rfind('@').map_or(0, |at| at + 1)..).unwrap_or_default().to_owned()
            }
            None => {
                let path = self.remote.split_once(':').map_or("", |(_, path)| path);
                format!("{}/{}", self.host, path.trim_start_matches('/'))
            }
        }
    }

    /// Whether the repository is reached by ssh, so that an agent is of use.
    pub fn is_ssh(&self) -> bool {
        self.transport == Transport::Ssh
    }

    fn plain(transport: Transport, remote: String, host: String) -> Self {
        GitUrl {
            transport,
            remote,
            host,
            credentials: None,
            reference: None,
            checksum: None,
            subdir: None,
            submodules: None,
            keep_git_dir: None,
            times: FileTimes::Checkout,
            fetch_by_commit: false,
        }
    }

    /// Reads fragment and query.
    fn select(
        mut self,
        whole: &str,
        fragment: Option<&str>,
        query: Option<&str>,
    ) -> Result<Self, RemoteError> {
        let invalid = |reason: String| RemoteError::address(whole, reason);
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            (self.reference, self.subdir) = (given(reference), given(subdir));
        }
        self.read_query(query.unwrap_or_default()).map_err(invalid)?;
        if let Some(reference) = &self.reference {
            check_reference(reference).map_err(invalid)?;
        }
        self.subdir = match &self.subdir {
            Some(subdir) => clean_subdir(subdir).map_err(invalid)?,
            None => None,
        };
        Ok(self)
    }

    fn read_query(&mut self, query: &str) -> Result<(), String> {
        let mut seen: Vec<String> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |part: &str| String::from_utf8_lossy(&decode(&part.replace('+', " "))).into_owned();
            let (key, value) = (text(key), text(value));
            if seen.contains(&key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let flag = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !flag && KEYS.contains(&key.as_str()) {
                return Err(format!("query {key:?} has no value"));
            }
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "tag" => tag = Some(full_name("refs/tags/", &value)),
                "branch" => branch = Some(full_name("refs/heads/", &value)),
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => {
                    agree("checksum", &mut self.checksum, check_checksum(&value)?)?;
                }
                "submodules" => self.submodules = Some(parse_flag(&key, &value)?),
                "keep-git-dir" => self.keep_git_dir = Some(parse_flag(&key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = parse_flag(&key, &value)?,
                "mtime" => {
                    self.times = match value.as_str() {
                        "checkout" => FileTimes::Checkout,
                        "commit" => FileTimes::Commit,
                        _ => return Err(format!("invalid mtime value: {value:?} (checkout or commit)")),
                    }
                }
                _ => return Err(format!("unexpected query {key:?} (known: {})", KEYS.join(", "))),
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        if let Some(name) = tag.or(branch) {
            agree("ref", &mut self.reference, name)?;
        }
        if self.fetch_by_commit && !self.checksum.as_deref().is_some_and(is_commit) {
            return Err("fetch-by-commit needs commit= with a full commit".to_owned());
        }
        Ok(())
    }
}

const KEYS: &[&str] = &[
    "ref",
    "tag",
    "branch",
    "commit",
    "checksum",
    "subdir",
    "submodules",
    "keep-git-dir",
    "mtime",
    "fetch-by-commit",
];

/// Checks host and user; gives `user@` where git needs it.
fn check_authority(parts: &Parts<'_>, transport: Transport, whole: &str) -> Result<String, RemoteError> {
    let invalid = |reason: &str| RemoteError::address(whole, reason);
    if transport == Transport::File {
        let fine = parts.host.is_empty() && parts.userinfo.is_none() && parts.path.len() > 1;
        return fine.then(String::new).ok_or_else(|| invalid("expected file:///PATH"));
    }
    parts.check_host(whole)?;
    if matches!(parts.path, "" | "/") {
        return Err(invalid("it names no repository"));
    }
    match (transport, parts.userinfo) {
        (Transport::Ssh, Some(user)) => {
            let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.+".contains(&c);
            if user.contains(':') {
                return Err(invalid("ssh takes no password from an address"));
            }
            if user.is_empty() || user.starts_with('-') || !user.bytes().all(plain) {
                return Err(invalid("it has no valid user"));
            }
            Ok(format!("{user}@"))
        }
        (Transport::Git, Some(_)) => Err(invalid("git:// has no users")),
        _ => Ok(String::new()),
    }
}

fn agree(what: &str, field: &mut Option<String>, value: String) -> Result<(), String> {
    match field {
        Some(earlier) if *earlier != value => Err(format!("{what} conflicts: {earlier:?} vs {value:?}")),
        _ => {
            *field = Some(value);
            Ok(())
        }
    }
}

fn full_name(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Go's `strconv.ParseBool`, and nothing given is yes.
fn parse_flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: {value:?}")),
    }
}

/// Whether a text is a full commit of either object format, in lower case.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks a commit or the beginning of one, and gives it in lower case.
pub(super) fn check_checksum(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(format!("invalid checksum {text} for Git URL, expected hex commit hash"));
    }
    Ok(text.to_ascii_lowercase())
}

/// The rules of git-check-ref-format(1), of which the one about `-` keeps refs from being options.
pub(super) fn check_reference(name: &str) -> Result<(), String> {
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let refused = name.starts_with('-')
        || name == "@"
        || name.contains("..")
        || name.contains("@{")
        || name.ends_with('.')
        || name.contains(odd)
        || name.split('/').any(bad_part);
    if refused { Err(format!("invalid ref {name:?}")) } else { Ok(()) }
}

/// Checks the directory wanted and gives it without `.` and superfluous slashes; `None` is the whole
/// tree. A leading slash means the repository's root. Nothing may lead out of it (CVE-2026-33748).
pub(super) fn clean_subdir(text: &str) -> Result<Option<String>, String> {
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(format!("invalid subdir {text:?}: it must not contain \"..\""));
    }
    if text.chars().any(char::is_control) || parts.iter().any(|part| part.eq_ignore_ascii_case(".git")) {
        return Err(format!("invalid subdir {text:?}"));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}
