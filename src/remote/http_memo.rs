//! What is known of an address that was downloaded before.

use serde::{Deserialize, Serialize};
use ureq::http::header::{HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH};

use crate::digest::{Digest, Hasher};
use crate::store::{Edge, RecordKind, RecordedAsJson, Store, StoreError};

use super::checksum::Checksum;
use super::http::HttpAuth;
use super::url::HttpUrl;

/// The dates that HTTP has put up with besides RFC 2822's (RFC 9110, 5.6.7).
const OLD_DATES: [&str; 2] = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// The last download of an address. Only ever a hint: the server is asked before it is used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Memo {
    pub(super) digest: Digest,
    pub(super) size: u64,
    etag: Option<String>,
    last_modified: Option<String>,
    /// Checksums the content is known to have.
    verified: Vec<String>,
}

/// Where the memo of an address is kept. Who asks may matter for what comes, but the secret itself
/// must not: a name in the store is no place for it, and the server has the last word anyway.
pub(super) fn key(url: &HttpUrl, auth: Option<&HttpAuth>) -> Digest {
    let scope: &[u8] = match (auth, url.credentials()) {
        (Some(HttpAuth::Bearer(_)), _) => b"bearer",
        (Some(HttpAuth::Header(_)), _) => b"header",
        (None, Some(_)) => b"basic",
        (None, None) => b"",
    };
    let mut hasher = Hasher::new();
    hasher.field(b"http source 1");
    hasher.field(url.to_string().as_bytes());
    hasher.field(scope);
    hasher.finish()
}

impl RecordedAsJson for Memo {
    const KIND: RecordKind = RecordKind::Download;

    fn edges(&self) -> Vec<Edge> {
        vec![Edge::Blob(self.digest)]
    }

    fn note(&self) -> String {
        "downloaded file".into()
    }
}

impl Memo {
    pub(super) fn new(
        digest: Digest,
        size: u64,
        etag: Option<String>,
        last_modified: Option<String>,
    ) -> Self {
        Memo { digest, size, etag, last_modified, verified: vec![digest.to_string()] }
    }

    /// The memo under `key`, if its content is still in the store.
    pub(super) fn load(store: &Store, key: &Digest) -> Result<Option<Self>, StoreError> {
        Ok(store.record::<Memo>(key)?.filter(|memo| store.has_blob(&memo.digest)))
    }

    pub(super) fn save(&self, store: &Store, key: &Digest) -> Result<(), StoreError> {
        store.put_record(key, self)
    }

    pub(super) fn is_verified(&self, checksum: &Checksum) -> bool {
        self.verified.contains(&checksum.to_string())
    }

    pub(super) fn verify(&mut self, checksum: &Checksum) {
        if !self.is_verified(checksum) {
            self.verified.push(checksum.to_string());
        }
    }

    /// Headers that ask for the content only if it is another.
    pub(super) fn conditions(&self) -> Vec<(HeaderName, HeaderValue)> {
        let header = |name, text: &Option<String>| {
            let value = text.as_deref().and_then(|text| HeaderValue::from_str(text).ok())?;
            Some((name, value))
        };
        let etag = header(IF_NONE_MATCH, &self.etag);
        etag.or_else(|| header(IF_MODIFIED_SINCE, &self.last_modified)).into_iter().collect()
    }

    /// Whether an answer's ETag promises the same bytes (RFC 9110, 8.8.3.2).
    pub(super) fn has_same_strong_etag(&self, etag: Option<&str>) -> bool {
        let strong = |tag: &&str| tag.starts_with('"');
        etag.filter(strong).is_some_and(|etag| self.etag.as_deref() == Some(etag))
    }

    pub(super) fn last_modified_seconds(&self) -> Option<i64> {
        let text = self.last_modified.as_deref()?;
        if let Ok(date) = jiff::fmt::rfc2822::parse(text) {
            return Some(date.timestamp().as_second());
        }
        let read = |form: &&str| jiff::fmt::strtime::parse(form, text).ok()?.to_datetime().ok();
        let date = OLD_DATES.iter().find_map(read)?;
        date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|date| date.timestamp().as_second())
    }
}
