//! What a text means as a source: git, http, or something of this machine.

use ureq::http::Uri;

use super::error::RemoteError;
use super::git_url::GitUrl;

/// What a text names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceKind {
    /// A git repository.
    Git(GitUrl),
    /// A file to download.
    Http(HttpUrl),
    /// Neither: a path of this machine or of the build context.
    None,
}

/// What a source of `ADD` names (moby/buildkit, `dfgitutil.ParseGitRef` and `dispatchCopy`): git by
/// `git://`, `ssh://`, `user@host:path`, and by http(s) with a path that ends in `.git`; any other
/// http(s) address is a download. Fails on an address of one of these forms that is malformed.
pub fn add_source(text: &str) -> Result<SourceKind, RemoteError> {
    if text.starts_with("./") || text.starts_with("../") {
        return Ok(SourceKind::None);
    }
    let Some(parts) = Parts::split(text) else {
        return Ok(GitUrl::parse_scp(text)?.map_or(SourceKind::None, SourceKind::Git));
    };
    match parts.scheme.as_str() {
        "git" | "ssh" => Ok(SourceKind::Git(GitUrl::parse(text)?)),
        "http" | "https" if decode(parts.path).ends_with(b".git") => {
            Ok(SourceKind::Git(GitUrl::parse(text)?))
        }
        "http" | "https" => Ok(SourceKind::Http(HttpUrl::parse(text)?)),
        _ => Ok(SourceKind::None),
    }
}

/// What a build context, a named context or the value of `-f` names: as [`add_source`], and
/// `github.com/OWNER/NAME` without a scheme and `git+https://` are git too. An existing local directory goes first, which
/// is for the caller to find out.
pub fn context_source(text: &str) -> Result<SourceKind, RemoteError> {
    if text.starts_with("github.com/") {
        return Ok(SourceKind::Git(GitUrl::parse(&format!("https://{text}"))?));
    }
    // A repository whose path does not end in `.git`.
    if let Some(address) = text.strip_prefix("git+").filter(|rest| rest.starts_with("http")) {
        return Ok(SourceKind::Git(GitUrl::parse(address)?));
    }
    add_source(text)
}

/// The address without name and password, to be shown. Texts that are no addresses stay as they are.
pub fn without_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{tail}")
}

/// The parts of `scheme://authority/path?query#fragment`, as written.
pub(super) struct Parts<'a> {
    /// In lower case.
    pub(super) scheme: String,
    pub(super) userinfo: Option<&'a str>,
    /// `host[:port]`.
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub(super) fn split(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if scheme.is_empty() || !scheme.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        // An empty port is the scheme's own (RFC 3986, 3.2.3).
        let host = host.strip_suffix(':').unwrap_or(host);
        Some(Parts { scheme: scheme.to_ascii_lowercase(), userinfo, host, path, query, fragment })
    }

    /// Checks `host[:port]`: it becomes a part of command lines.
    pub(super) fn check_host(&self, whole: &str) -> Result<(), RemoteError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
        let fine =
            !self.host.is_empty() && !self.host.starts_with(['-', ':']) && self.host.bytes().all(plain);
        fine.then_some(()).ok_or_else(|| RemoteError::address(whole, "it has no valid host"))
    }

    /// Name and password, decoded.
    pub(super) fn credentials(&self) -> Option<String> {
        let userinfo = self.userinfo.filter(|userinfo| !userinfo.is_empty())?;
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let text = |part: &str| String::from_utf8_lossy(&decode(part)).into_owned();
        Some(format!("{}:{}", text(user), text(password)))
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(head, tail)| (head, Some(tail)))
}

/// Undoes percent-encoding; what is no valid escape stays.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let digit = |c: Option<&u8>| c.and_then(|c| char::from(*c).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// Percent-encodes what may not stand in an address: blanks, controls, quotes, everything but ASCII.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The address of a file to download. Name and password in it are kept apart and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    uri: Uri,
    credentials: Option<String>,
}

impl std::fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl std::fmt::Display for HttpUrl {
    /// Without name and password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl HttpUrl {
    /// Parses an `http://` or `https://` address. A fragment is dropped, as it is never sent.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let invalid = || RemoteError::address(text, "expected http://HOST/PATH or https://HOST/PATH");
        let parts = Parts::split(text).ok_or_else(invalid)?;
        if !matches!(parts.scheme.as_str(), "http" | "https") {
            return Err(invalid());
        }
        parts.check_host(text)?;
        let path = if parts.path.is_empty() { "/".to_owned() } else { encode(parts.path) };
        let query = parts.query.map(|query| format!("?{}", encode(query))).unwrap_or_default();
        let address = format!("{}://{}{path}{query}", parts.scheme, parts.host);
        let uri: Uri = address.parse().map_err(|_| invalid())?;
        let host = uri.host().unwrap_or_default();
        let port = uri.authority().and_then(|all| all.as_str().strip_prefix(host)).unwrap_or_default();
        let port_is_fine = port.is_empty() || uri.port_u16().is_some_and(|port| port != 0);
        if host.is_empty() || !port_is_fine || text.chars().any(char::is_control) {
            return Err(invalid());
        }
        Ok(HttpUrl { uri, credentials: parts.credentials() })
    }

    /// The host without port, by which secrets such as `HTTP_AUTH_TOKEN_<host>` are named.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The file's name: the last part of the path, `__unnamed__` where there is none (moby/buildkit,
    /// `dispatchCopy`, which therefore never looks at Content-Disposition).
    pub fn file_name(&self) -> String {
        let path = decode(self.uri.path());
        let path = String::from_utf8_lossy(&path);
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") || name.contains('\0') {
            return "__unnamed__".to_owned();
        }
        name.to_owned()
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// `user:password` as the address had it.
    pub(super) fn credentials(&self) -> Option<&str> {
        self.credentials.as_deref()
    }
}
