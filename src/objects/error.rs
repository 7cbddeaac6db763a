//! What can go wrong with object stores, in words a user can act on.

use crate::registry::{Refusal, RegistryError, Rejected};
use crate::store::StoreError;

/// Why an object could not be read or written. No text contains a credential or a query.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The service answered, and refused.
    #[error("{text}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The service's own code, such as `NoSuchBucket`.
        code: Option<String>,
        /// The request, what the status means, the service's words, and what to do.
        text: String,
    },
    /// No answer came, or none that can be understood.
    #[error("{0}")]
    NoAnswer(String),
    /// An object is not there although something names it.
    #[error("{0} is not there")]
    Missing(String),
    /// An object's content is not what it should be.
    #[error("{0}")]
    Damaged(String),
    /// An option cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// What is to be written cannot be read.
    #[error("{0}")]
    Source(String),
    /// The caller gave up.
    #[error("the transfer was cancelled")]
    Cancelled,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ObjectError {
    /// The status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            ObjectError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The service's code of a refusal.
    pub fn code(&self) -> Option<&str> {
        match self {
            ObjectError::Refused { code, .. } => code.as_deref(),
            _ => None,
        }
    }
}

impl From<RegistryError> for ObjectError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled => ObjectError::Cancelled,
            RegistryError::Store(error) => ObjectError::Store(error),
            RegistryError::Rejected(rejected) => {
                let text = refusal(&rejected);
                let Rejected { status, code, .. } = *rejected;
                ObjectError::Refused { status, code, text }
            }
            RegistryError::Unreachable(one) => {
                ObjectError::NoAnswer(format!("{}: {} ({})", one.target, one.fault.words(), one.detail))
            }
            error @ (RegistryError::Source { .. } | RegistryError::Write { .. }) => {
                ObjectError::Source(error.to_string())
            }
            error => ObjectError::NoAnswer(error.to_string()),
        }
    }
}

fn refusal(rejected: &Rejected) -> String {
    let meaning = match rejected.refusal() {
        Refusal::NotFound => "not found",
        Refusal::Unauthorized => "the credentials are missing or not accepted",
        Refusal::Denied => "access denied",
        Refusal::RateLimited => "too many requests",
        Refusal::Unavailable => "the service has a problem",
        Refusal::Other => "refused",
    };
    let code = rejected.code.as_ref().map_or_else(String::new, |code| format!(", {code}"));
    let message = rejected.message.as_ref().map_or_else(String::new, |text| format!(": {text}"));
    let hint = rejected.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
    format!("{}: {meaning} (status {}{code}){message}{hint}", rejected.target, rejected.status)
}
