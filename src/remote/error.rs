//! What can go wrong with files from elsewhere, in words a user can act on.

use std::io;
use std::path::PathBuf;

use crate::registry::{Refusal, RegistryError};
use crate::store::StoreError;

use super::url::without_credentials;

/// A source that must not be fetched, by the rules of the build itself.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Forbidden {
    /// Which rules.
    pub by: ForbiddenBy,
    /// What is forbidden and why. Contains no credentials.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// What forbids a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForbiddenBy {
    /// `Dockerfile.lock` lacks it, or has something else.
    Lock,
    /// A source policy.
    Policy,
    /// `--offline`: it would have to be fetched.
    Offline,
}

impl Forbidden {
    /// Forbids something.
    pub fn new(by: ForbiddenBy, message: impl Into<String>) -> Self {
        Forbidden { by, message: message.into(), help: None }
    }

    /// The same with advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A failure of fetching something. No text of it contains a credential.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address is malformed, or selects things that exclude each other.
    #[error("invalid address {shown}: {reason}")]
    Address {
        /// The address without credentials.
        shown: String,
        /// What is wrong.
        reason: String,
    },
    /// A text is no checksum.
    #[error(
        "invalid checksum {value:?}: expected sha256:, sha384: or sha512: and as many lower-case hex digits as it takes"
    )]
    Checksum {
        /// As given.
        value: String,
    },
    /// The content is not what the checksum promised.
    #[error("digest mismatch for {url}: {actual} (expected: {expected})")]
    Mismatch {
        /// The address without credentials.
        url: String,
        /// What came.
        actual: String,
        /// What was promised.
        expected: String,
    },
    /// No answer came, or it broke off.
    #[error("{url}: {reason}")]
    Unreachable {
        /// The address without credentials and query.
        url: String,
        /// What happened, with the system's words.
        reason: String,
    },
    /// The server answered with another status than success.
    #[error("{url}: {meaning} (status {status}){}", message.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Status {
        /// The address without credentials and query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the status means.
        meaning: &'static str,
        /// The first line of the answer, where it is text.
        message: Option<String>,
    },
    /// A setting of the caller is malformed or a file of his cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The caller gave up.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An operation on a file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no `git` program.
    #[error("git repositories need the program git, which is not installed (not found on PATH)")]
    NoGit,
    /// `git` failed.
    #[error("cannot {action} {url}: git: {output}")]
    Git {
        /// What it was to do.
        action: &'static str,
        /// The repository without credentials.
        url: String,
        /// Its last words, without credentials, or how it ended.
        output: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("repository {url} does not contain ref {reference}{}", hint.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    NoReference {
        /// The repository without credentials.
        url: String,
        /// What was looked for.
        reference: String,
        /// More about it.
        hint: Option<&'static str>,
    },
    /// The ref leads to another commit than the checksum says.
    #[error("{url}: expected checksum to match {expected}, got {actual}")]
    Commit {
        /// The repository without credentials.
        url: String,
        /// The prefix that was expected.
        expected: String,
        /// Where the ref leads.
        actual: String,
    },
    /// The rules of the build forbid it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The repository has no such directory.
    #[error("repository {url}: subdirectory {subdir:?} {reason}")]
    Subdir {
        /// The repository without credentials.
        url: String,
        /// The directory.
        subdir: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl RemoteError {
    pub(super) fn address(text: &str, reason: impl Into<String>) -> Self {
        let shown = without_credentials(text).chars().filter(|c| !c.is_control()).collect();
        RemoteError::Address { shown, reason: reason.into() }
    }

    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> RemoteError {
        let path = path.into();
        move |source| RemoteError::Io { action, path, source }
    }

    /// Whether the caller's cancellation ended the call.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, RemoteError::Cancelled)
    }
}

impl From<RegistryError> for RemoteError {
    /// Connections are shared with the registry client; its advice about registries is left out.
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unreachable(failed) => {
                let reason = format!("{} ({})", failed.fault.words(), failed.detail);
                RemoteError::Unreachable { url: failed.target.url, reason }
            }
            RegistryError::Rejected(rejected) => RemoteError::Status {
                meaning: meaning(rejected.refusal()),
                url: rejected.target.url,
                status: rejected.status,
                message: rejected.message,
            },
            RegistryError::Protocol { target, reason } => {
                RemoteError::Unreachable { url: target.url, reason }
            }
            RegistryError::Size { target, expected, found, .. } => {
                let reason = format!("the transfer broke off: expected {expected} bytes, {found}");
                RemoteError::Unreachable { url: target.url, reason }
            }
            RegistryError::Mismatch { target, expected, actual } => RemoteError::Mismatch {
                url: target.url,
                actual: actual.to_string(),
                expected: expected.to_string(),
            },
            RegistryError::Cancelled => RemoteError::Cancelled,
            RegistryError::Store(error) => RemoteError::Store(error),
            RegistryError::Write { path, source } => RemoteError::Io { action: "write", path, source },
            other @ (RegistryError::Invalid { .. }
            | RegistryError::File { .. }
            | RegistryError::Source { .. }
            | RegistryError::Helper { .. }
            | RegistryError::Blocked { .. }) => RemoteError::Setting(other.to_string()),
        }
    }
}

fn meaning(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "not found",
        Refusal::Unauthorized => "credentials are missing or were not accepted",
        Refusal::Denied => "access denied",
        Refusal::RateLimited => "too many requests",
        Refusal::Unavailable => "the server has a problem",
        Refusal::Other => "refused",
    }
}
