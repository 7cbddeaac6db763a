//! Everything in a registry's answer that is parsed before anything is known of it, in one place for those
//! who try it with senseless bytes.

use std::time::{Duration, SystemTime};

use ureq::http::Uri;

use super::{challenge, error, piece, retry, transport};

/// What was understood of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Understood {
    /// Schemes of `WWW-Authenticate`, in lower case, with realm and scope.
    pub challenges: Vec<(String, Option<String>, Option<String>)>,
    /// How long `Retry-After` asks to wait.
    pub retry_after: Option<Duration>,
    /// Bytes that `Range` says an upload has.
    pub received: Option<u64>,
    /// Where `Location` leads from `https://registry.example/v2/a/`; `None` for anything but http and https.
    pub location: Option<String>,
    /// The code of a refusal, fit for a terminal.
    pub code: Option<String>,
    /// The message of a refusal, fit for a terminal.
    pub message: Option<String>,
}

/// Reads the same text as the value of each header, and the bytes as the body of a refusal.
pub fn understand(header: &str, body: &[u8]) -> Understood {
    let challenges = challenge::parse(header).into_iter().map(|challenge| {
        let param = |name| challenge.param(name).map(str::to_owned);
        (challenge.scheme.clone(), param("realm"), param("scope"))
    });
    let base = Uri::from_static("https://registry.example/v2/a/");
    let (code, message) = error::read_error_body(body);
    Understood {
        challenges: challenges.collect(),
        retry_after: retry::parse_retry_after(header, SystemTime::UNIX_EPOCH),
        received: piece::received_range(header),
        location: transport::resolve(&base, header).map(|uri| uri.to_string()),
        code,
        message,
    }
}
