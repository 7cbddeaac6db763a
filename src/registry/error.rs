//! What can go wrong between rbuild and a registry, in words a user can act on.

use std::fmt;
use std::time::Duration;

use crate::digest::Digest;
use crate::store::{IngestError, StoreError};

/// A request as it may be shown: never with a query, a name or a password in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `GET`, `HEAD`, `POST`, `PATCH`, `PUT`, `DELETE`.
    pub method: String,
    /// Scheme, host and path.
    pub url: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// A failure of talking to a registry. The text includes [`RegistryError::hint`].
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Something the caller gave is malformed.
    #[error("invalid {what} {value:?}: {reason}")]
    Invalid {
        /// What it should have been.
        what: &'static str,
        /// As given.
        value: String,
        /// Why it is not.
        reason: String,
    },
    /// No answer came.
    #[error("{0}")]
    Unreachable(Box<Unreachable>),
    /// The registry, its token service or the host it redirected to answered with a refusal.
    #[error("{0}")]
    Rejected(Box<Rejected>),
    /// The answer breaks the protocol.
    #[error("{target}: unusable answer: {reason}")]
    Protocol {
        /// The request.
        target: Target,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are not those that were asked for.
    #[error("{target}: content does not match its digest: expected {expected}, got {actual}")]
    Mismatch {
        /// The request.
        target: Target,
        /// What was asked for or announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// More or fewer bytes came than the descriptor says.
    #[error("{target}: wrong size: expected {expected} bytes, {found}")]
    Size {
        /// The request.
        target: Target,
        /// What the descriptor says.
        expected: u64,
        /// What came: "got 7" or "more came".
        found: String,
        /// Whether the transfer broke off, so that trying again may help.
        truncated: bool,
    },
    /// The caller gave up.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// A file the caller named cannot be used.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The path.
        path: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
    /// The store could not take or give the bytes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is to be pushed or copied cannot be read.
    #[error("cannot read {what} from {place}: {reason}")]
    Source {
        /// A blob or manifest.
        what: String,
        /// Where it should be.
        place: String,
        /// Why not.
        reason: String,
    },
    /// A program that keeps credentials failed.
    #[error("{program} failed: {reason}")]
    Helper {
        /// `docker-credential-...`.
        program: String,
        /// Its own words.
        reason: String,
    },
    /// The configuration forbids the registry.
    #[error("{name} is blocked by {}", path.display())]
    Blocked {
        /// What the configuration names.
        name: String,
        /// The configuration.
        path: std::path::PathBuf,
    },
    /// Writing into the store's temporary file failed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The temporary file.
        path: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Why no answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The host name has no address.
    UnknownHost,
    /// The name service did not answer.
    NameService,
    /// Nobody listens there.
    Refused,
    /// There is no way to the host.
    NoRoute,
    /// A time limit ran out.
    Timeout,
    /// The connection broke.
    Lost,
    /// The certificate is not trusted.
    Certificate,
    /// The TLS handshake failed; mostly the other side speaks plain http.
    Tls,
    /// The proxy did not let the request through.
    Proxy,
    /// No address of the host is one that it may have.
    OutOfReach,
    /// Anything else.
    Other,
}

impl Fault {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Fault::UnknownHost => "no such host",
            Fault::NameService => "cannot look up the host",
            Fault::Refused => "connection refused",
            Fault::NoRoute => "no route to the host",
            Fault::Timeout => "timed out",
            Fault::Lost => "the connection broke",
            Fault::Certificate => "the certificate is not trusted",
            Fault::Tls => "no TLS connection",
            Fault::Proxy => "the proxy failed",
            Fault::OutOfReach => "not allowed",
            Fault::Other => "the request failed",
        }
    }
}

/// A request that got no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreachable {
    /// The request.
    pub target: Target,
    /// The kind of failure.
    pub fault: Fault,
    /// The system's words.
    pub detail: String,
}

impl Unreachable {
    fn hint(&self) -> Option<&'static str> {
        Some(match self.fault {
            Fault::UnknownHost => "check the spelling of the registry's name",
            Fault::NameService => "check the network and the name service (/etc/resolv.conf)",
            Fault::Refused => "check that the registry is running and that the port is right",
            Fault::NoRoute => "check the network, or set a proxy",
            Fault::Timeout | Fault::Lost => "check the network, then try again",
            Fault::Certificate => {
                "add the registry's certificate authority to the system, name its file in registries.toml or SSL_CERT_FILE, or pass --insecure-registry for this host"
            }
            Fault::Tls => "if the registry speaks plain http, pass --insecure-registry for this host",
            Fault::Proxy => "check the proxy's address and credentials, or exempt the host from it",
            Fault::OutOfReach | Fault::Other => return None,
        })
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.target, self.fault.words(), self.detail)?;
        self.hint().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

/// What a refusal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// 404: no such repository, tag, manifest or blob.
    NotFound,
    /// 401: credentials are missing or were not accepted.
    Unauthorized,
    /// 403: known, but not allowed.
    Denied,
    /// 429.
    RateLimited,
    /// 408 and 5xx: the trouble is on the other side and may pass.
    Unavailable,
    /// Any other status.
    Other,
}

impl Refusal {
    /// The meaning of a status.
    pub fn of(status: u16) -> Self {
        match status {
            401 => Refusal::Unauthorized,
            403 => Refusal::Denied,
            404 => Refusal::NotFound,
            429 => Refusal::RateLimited,
            // 501 and 505 say "never", not "not now".
            501 | 505 => Refusal::Other,
            408 | 500..=599 => Refusal::Unavailable,
            _ => Refusal::Other,
        }
    }
}

/// A refusal, with the registry's own words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// The request.
    pub target: Target,
    /// The HTTP status.
    pub status: u16,
    /// `errors[0].code` of the answer, e.g. `MANIFEST_UNKNOWN`.
    pub code: Option<String>,
    /// The registry's message.
    pub message: Option<String>,
    /// How long it asked to wait.
    pub retry_after: Option<Duration>,
    /// What to do.
    pub hint: Option<String>,
}

impl Rejected {
    /// What the status means.
    pub fn refusal(&self) -> Refusal {
        Refusal::of(self.status)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.refusal() {
            Refusal::NotFound => "not found",
            Refusal::Unauthorized => "sign-in required",
            Refusal::Denied => "access denied",
            Refusal::RateLimited => "too many requests",
            Refusal::Unavailable => "the registry has a problem",
            Refusal::Other => "refused",
        };
        write!(f, "{}: {meaning} (status {}", self.target, self.status)?;
        if let Some(code) = &self.code {
            write!(f, ", {code}")?;
        }
        f.write_str(")")?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl RegistryError {
    pub(super) fn invalid(what: &'static str, value: &str, reason: impl Into<String>) -> Self {
        RegistryError::Invalid { what, value: value.to_owned(), reason: reason.into() }
    }

    pub(crate) fn protocol(target: &Target, reason: impl Into<String>) -> Self {
        RegistryError::Protocol { target: target.clone(), reason: reason.into() }
    }

    pub(super) fn ingest(target: &Target, error: IngestError) -> Self {
        match error {
            IngestError::Store(error) => RegistryError::Store(error),
            IngestError::Mismatch { expected, actual, .. } => {
                RegistryError::Mismatch { target: target.clone(), expected, actual }
            }
        }
    }

    /// What the user can do; part of the error's text already.
    pub fn hint(&self) -> Option<&str> {
        match self {
            RegistryError::Unreachable(unreachable) => unreachable.hint(),
            RegistryError::Rejected(rejected) => rejected.hint.as_deref(),
            _ => None,
        }
    }

    /// The HTTP status, where there was an answer that refused.
    pub fn status(&self) -> Option<u16> {
        match self {
            RegistryError::Rejected(rejected) => Some(rejected.status),
            _ => None,
        }
    }

    /// Whether the registry said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether the caller's cancellation ended the call.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, RegistryError::Cancelled)
    }

    /// Whether no connection came about at all.
    pub(super) fn is_connection_failure(&self) -> bool {
        match self {
            RegistryError::Unreachable(unreachable) => unreachable.fault != Fault::Lost,
            _ => false,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Unreachable(unreachable) => {
                matches!(unreachable.fault, Fault::Timeout | Fault::Lost | Fault::NameService)
            }
            RegistryError::Rejected(rejected) => {
                matches!(rejected.refusal(), Refusal::RateLimited | Refusal::Unavailable)
            }
            RegistryError::Size { truncated, .. } => *truncated,
            RegistryError::Mismatch { .. } => true,
            _ => false,
        }
    }
}

/// Code and message of a refusal's body, cleaned for a terminal. Understands the error list of the
/// distribution specification, the single objects other services send, and short plain text.
pub(crate) fn read_error_body(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let shown = !line.is_empty() && !line.starts_with('<');
        return (None, shown.then(|| clean(line)));
    };
    let first = json.get("errors").and_then(|errors| errors.get(0)).unwrap_or(&json);
    let text = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| first.get(key).and_then(serde_json::Value::as_str));
        found.filter(|text| !text.trim().is_empty()).map(clean)
    };
    let message = text(&["message", "error_description", "details", "error"]);
    (text(&["code"]), message)
}

/// Text of the other side, without control characters (which could drive a terminal) and not endless.
pub(super) fn clean(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> (Option<String>, Option<String>) {
        read_error_body(body.as_bytes())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_registrys_own_words_are_found_in_the_forms_in_use() {
        let specified =
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        assert_eq!(read(specified), (some("MANIFEST_UNKNOWN"), some("manifest unknown")));
        assert_eq!(
            read(r#"{"details":"incorrect username or password"}"#).1,
            some("incorrect username or password")
        );
        assert_eq!(read(r#"{"error":"invalid_grant","error_description":"expired"}"#).1, some("expired"));
        assert_eq!(read("\n  upstream is down \n more"), (None, some("upstream is down")));
        for silent in ["", "<html>", r#"{"errors":[]}"#, r#"{"errors":{}}"#, "[]", "null", r#"{"message":7}"#]
        {
            assert_eq!(read(silent), (None, None), "{silent}");
        }
    }

    #[test]
    fn words_of_others_cannot_drive_the_terminal_or_fill_it() {
        assert_eq!(read("{\"message\":\"\\u001b[2Jgone\\r\\n\"}").1, some("[2Jgone"));
        let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(5000));
        assert_eq!(read(&long).1.map(|text| text.chars().count()), Some(301));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let status = |status| {
            let target = Target { method: "GET".into(), url: "https://example.test/".into() };
            let rejected =
                Rejected { target, status, code: None, message: None, retry_after: None, hint: None };
            RegistryError::Rejected(Box::new(rejected)).is_transient()
        };
        for passing in [408, 429, 500, 502, 503, 504] {
            assert!(status(passing), "{passing}");
        }
        for lasting in [400, 401, 403, 404, 405, 501] {
            assert!(!status(lasting), "{lasting}");
        }
    }
}
