//! Reading manifests and blobs.

use std::cell::Cell;
use std::io::{Read as _, Write as _};

use ureq::http::Method;
use ureq::http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::store::{BlobWriter, Store};

use super::blob::{BlobReader, SizedBody};
use super::client::{Call, Host, Registry};
use super::error::RegistryError;
use super::transport::{Incoming, Session};

/// The largest manifest read, in bytes; registries refuse to take larger ones.
pub const MANIFEST_LIMIT: usize = 4 << 20;

/// Both families, lists first, so that a registry never converts.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// How much is read at once.
const CHUNK: usize = 128 << 10;

/// What a registry says of a manifest without sending it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestHead {
    /// Its digest, where the registry tells one that rbuild accepts. Not verified.
    pub digest: Option<Digest>,
    /// Its media type; empty where the registry does not tell.
    pub media_type: String,
    /// Its size in bytes, where told.
    pub size: Option<u64>,
}

/// A manifest or index, as the registry sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedManifest {
    /// The bytes the digest names.
    pub bytes: Vec<u8>,
    /// Its media type, without parameters; empty where neither registry nor document tells.
    pub media_type: String,
    /// The digest of `bytes`.
    pub digest: Digest,
}

impl Registry {
    /// What a tag or digest refers to; `None` where the registry knows no such thing. Registries
    /// count this less strictly than fetching.
    pub fn head_manifest(
        &self,
        repository: &str,
        reference: &str,
        cancel: &Cancel,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let path = manifest_path(repository, reference)?;
        let call = Call { method: Method::HEAD, repository, path: &path, accept: Some(ACCEPT), from: 0 };
        let by_digest = reference.contains(':');
        let head = self.read(by_digest, cancel, |host, session| {
            let incoming = host.call(&session, &call)?;
            let size = incoming.content_length();
            Ok(ManifestHead {
                digest: announced_digest(&incoming)?,
                media_type: content_type(&incoming),
                size,
            })
        });
        match head {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fetches a manifest or index by tag or digest. By digest, the bytes are verified against it;
    /// by tag, against the digest the registry announces, where it does.
    pub fn manifest(
        &self,
        repository: &str,
        reference: &str,
        cancel: &Cancel,
    ) -> Result<FetchedManifest, RegistryError> {
        let asked = Asked::new(repository, reference)?;
        self.read(asked.digest.is_some(), cancel, |host, session| asked.fetch(host, &session))
    }

    /// As [`Registry::manifest`], never from a mirror.
    pub(super) fn origin_manifest(
        &self,
        repository: &str,
        reference: &str,
        cancel: &Cancel,
    ) -> Result<FetchedManifest, RegistryError> {
        let asked = Asked::new(repository, reference)?;
        self.write(cancel, &|| false, |host, session| asked.fetch(host, &session))
    }

    /// Brings a blob of `size` bytes into the store, verified. Does nothing where it is already
    /// there. After a break only what is missing is asked for. `progress` is called with how many of the bytes
    /// have come; it falls back where a transfer has to begin anew.
    pub fn pull_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        store: &Store,
        progress: &dyn Fn(u64),
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        check_repository(repository)?;
        if store.has_blob(digest) {
            progress(size);
            return Ok(());
        }
        let begun = Cell::new(None);
        self.read(true, cancel, |host, session| {
            let before = begun.take();
            let resumed = before.is_some();
            let pull = Pull { host, session: &session, repository, digest, size, store, progress };
            match pull.run(before, &begun) {
                // What came first may have been the wrong part, so that says nothing about this answer.
                Err(RegistryError::Mismatch { .. }) if resumed => pull.run(None, &begun),
                result => result,
            }
        })
    }

    /// Opens a blob of `size` bytes for reading while it is transferred. Opening is retried, reading
    /// is not: a failure ends the reader, whose `io::Error` carries a [`RegistryError`] (get it back
    /// with [`BlobReader::cause`]). The end of the reader is reached only if size and digest are
    /// right, so nothing read may be relied upon before that.
    pub fn open_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        cancel: &Cancel,
    ) -> Result<BlobReader, RegistryError> {
        check_repository(repository)?;
        self.read(true, cancel, |host, session| {
            let body = SizedBody::new(open(host, &session, repository, digest)?, size)?;
            Ok(BlobReader::new(body, session, *digest))
        })
    }

    /// Reads a small blob (an image config) of `size` bytes whole, verified.
    pub fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, RegistryError> {
        if size > MANIFEST_LIMIT as u64 {
            let reason = format!("more than the {MANIFEST_LIMIT} bytes read into memory");
            return Err(RegistryError::invalid("blob size", &size.to_string(), reason));
        }
        check_repository(repository)?;
        self.read(true, cancel, |host, session| {
            let body = SizedBody::new(open(host, &session, repository, digest)?, size)?;
            let mut reader = BlobReader::new(body, session, *digest);
            let mut bytes = Vec::new();
            match reader.read_to_end(&mut bytes) {
                Ok(_) => Ok(bytes),
                Err(error) => Err(BlobReader::cause(error)
                    .unwrap_or_else(|other| RegistryError::protocol(reader.target(), other.to_string()))),
            }
        })
    }
}

/// A manifest that is asked for.
struct Asked<'a> {
    repository: &'a str,
    path: String,
    digest: Option<Digest>,
}

impl<'a> Asked<'a> {
    fn new(repository: &'a str, reference: &str) -> Result<Self, RegistryError> {
        let path = manifest_path(repository, reference)?;
        Ok(Asked { repository, path, digest: Digest::parse(reference).ok() })
    }

    fn fetch(&self, host: &Host, session: &Session) -> Result<FetchedManifest, RegistryError> {
        let Asked { repository, path, .. } = self;
        let incoming = host
            .call(session, &Call { method: Method::GET, repository, path, accept: Some(ACCEPT), from: 0 })?;
        let target = incoming.target.clone();
        let announced = announced_digest(&incoming)?;
        let header = content_type(&incoming);
        let too_large = || {
            let reason = format!("the manifest is larger than {MANIFEST_LIMIT} bytes");
            RegistryError::protocol(&target, reason)
        };
        if incoming.content_length().is_some_and(|length| length > MANIFEST_LIMIT as u64) {
            return Err(too_large());
        }
        let bytes = incoming.read_up_to(session, MANIFEST_LIMIT)?;
        if bytes.len() > MANIFEST_LIMIT {
            return Err(too_large());
        }
        let digest = Digest::of(&bytes);
        if let Some(expected) = self.digest.or(announced).filter(|expected| *expected != digest) {
            return Err(RegistryError::Mismatch { target, expected, actual: digest });
        }
        let media_type = agree_on_media_type(&header, &bytes)
            .map_err(|reason| RegistryError::protocol(&target, reason))?;
        Ok(FetchedManifest { bytes, media_type, digest })
    }
}

/// One try of bringing a blob into a store.
struct Pull<'a> {
    host: &'a Host,
    session: &'a Session,
    repository: &'a str,
    digest: &'a Digest,
    size: u64,
    store: &'a Store,
    progress: &'a dyn Fn(u64),
}

impl Pull<'_> {
    /// Goes on with `before` where the registry can. What came before the network failed is left in `begun`.
    fn run(&self, before: Option<BlobWriter>, begun: &Cell<Option<BlobWriter>>) -> Result<(), RegistryError> {
        let (incoming, before) = match before {
            Some(writer) => self.open_rest(writer, begun)?,
            None => (open(self.host, self.session, self.repository, self.digest)?, None),
        };
        let mut writer = match before {
            Some(writer) => writer,
            None => self.store.blob_writer_for(self.digest)?,
        };
        (self.progress)(writer.size());
        let mut body = SizedBody::rest(incoming, self.size, writer.size())?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match body.read(&mut chunk, self.session) {
                Ok(read) => read,
                Err(error) => {
                    begun.set(Some(writer).filter(|writer| writer.size() > 0 && error.is_transient()));
                    return Err(error);
                }
            };
            let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            writer
                .write_all(bytes)
                .map_err(|source| RegistryError::Write { path: writer.path().to_owned(), source })?;
            (self.progress)(writer.size());
        }
        writer.finish_verified(self.digest).map_err(|error| RegistryError::ingest(body.target(), error))?;
        Ok(())
    }

    /// The rest of the blob, or all of it from a registry that does not send parts.
    fn open_rest(
        &self,
        writer: BlobWriter,
        begun: &Cell<Option<BlobWriter>>,
    ) -> Result<(Incoming, Option<BlobWriter>), RegistryError> {
        let (from, path) = (writer.size(), format!("blobs/{}", self.digest));
        let repository = self.repository;
        let answer = self
            .host
            .call(self.session, &Call { method: Method::GET, repository, path: &path, accept: None, from });
        match answer {
            Ok(incoming) if incoming.status == 200 => return Ok((incoming, None)),
            Ok(incoming) if incoming.status == 206 && begins_at(&incoming, from) => {
                return Ok((incoming, Some(writer)));
            }
            Ok(incoming) => incoming.drain(),
            // Some refuse what they do not know.
            Err(error) if matches!(error.status(), Some(400 | 405 | 416 | 501)) => {}
            Err(error) => {
                begun.set(Some(writer).filter(|_| error.is_transient()));
                return Err(error);
            }
        }
        Ok((open(self.host, self.session, repository, self.digest)?, None))
    }
}

/// Whether a partial answer is the part that was asked for: `Content-Range: bytes FROM-...`.
fn begins_at(incoming: &Incoming, from: u64) -> bool {
    let range = incoming.header(&CONTENT_RANGE).and_then(|text| text.trim().strip_prefix("bytes"));
    let first = range.and_then(|range| range.trim_start().split('-').next()?.parse().ok());
    first == Some(from)
}

fn open(
    host: &Host,
    session: &Session,
    repository: &str,
    digest: &Digest,
) -> Result<Incoming, RegistryError> {
    let path = format!("blobs/{digest}");
    let incoming =
        host.call(session, &Call { method: Method::GET, repository, path: &path, accept: None, from: 0 })?;
    if incoming.status != 200 {
        let reason = format!("status {} instead of the whole blob", incoming.status);
        return Err(RegistryError::protocol(&incoming.target, reason));
    }
    Ok(incoming)
}

pub(super) fn manifest_path(repository: &str, reference: &str) -> Result<String, RegistryError> {
    check_repository(repository)?;
    let invalid = |reason: &str| RegistryError::invalid("tag or digest", reference, reason);
    if reference.contains(':') {
        Digest::parse(reference).map_err(|_| invalid("expected sha256:<64 lower-case hex digits>"))?;
    } else {
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        let tag = reference.bytes().next().is_some_and(word)
            && reference.bytes().all(|c| word(c) || c == b'.' || c == b'-')
            && reference.len() <= 128;
        if !tag {
            return Err(invalid("tags are up to 128 letters, digits, `_`, `.` and `-`"));
        }
    }
    Ok(format!("manifests/{reference}"))
}

/// Checks a repository path, which becomes a part of URLs (distribution specification, "Pulling
/// manifests").
pub(super) fn check_repository(repository: &str) -> Result<(), RegistryError> {
    let invalid = |reason: &str| Err(RegistryError::invalid("repository", repository, reason));
    if repository.len() > 255 {
        return invalid("longer than 255 characters");
    }
    let alphanumeric = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let component = |part: &str| {
        let bytes = part.as_bytes();
        alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes.iter().all(|c| alphanumeric(Some(c)) || b"._-".contains(c))
            && !part.contains("..")
    };
    if !repository.split('/').all(component) {
        return invalid(
            "expected lower-case letters, digits and single separators `.`, `_`, `-`, `/` between them",
        );
    }
    Ok(())
}

/// The digest a registry announces. One of another algorithm than SHA-256 counts as none.
pub(super) fn announced_digest(incoming: &Incoming) -> Result<Option<Digest>, RegistryError> {
    let Some(text) = incoming.header(&CONTENT_DIGEST).map(str::trim) else { return Ok(None) };
    if !text.starts_with("sha256:") {
        return Ok(None);
    }
    let malformed = |_| RegistryError::protocol(&incoming.target, "its Docker-Content-Digest is malformed");
    Digest::parse(text).map(Some).map_err(malformed)
}

fn content_type(incoming: &Incoming) -> String {
    let value = incoming.header(&CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The media type of a document from its header and its own `mediaType`. Where both speak they must
/// agree: one digest must not be read in two ways (CVE-2021-41190).
fn agree_on_media_type(header: &str, bytes: &[u8]) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let inner =
        serde_json::from_slice::<Typed>(bytes).ok().and_then(|typed| typed.media_type).unwrap_or_default();
    let vague = matches!(
        header,
        "" | "application/json" | "text/plain" | "application/octet-stream" | "binary/octet-stream"
    );
    if vague {
        return Ok(inner);
    }
    if !inner.is_empty() && inner != header {
        let inner = super::error::clean(&inner);
        return Err(format!("sent as {header}, but the document says it is {inner}"));
    }
    Ok(header.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repositories_and_references_that_could_change_the_address_are_refused() {
        for good in ["a", "library/alpine", "a/b/c", "a-b__c.d/e--f"] {
            assert!(check_repository(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "A", "a/../b", "..", "a?b", "a#b", "a b", "a%2e", "é", "-a", "a-"]
        {
            assert!(check_repository(bad).is_err(), "{bad}");
        }
        let digest = Digest::of(b"").to_string();
        for good in ["latest", "1.2-3_4", "V1", &digest] {
            assert!(manifest_path("a", good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a?b", "sha256:00", "sha512:00", &"a".repeat(129)] {
            assert!(manifest_path("a", bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_repository_is_its_own_path(repository in "[a-z0-9._/-]{0,40}") {
            if check_repository(&repository).is_ok() {
                let parsed: Result<ureq::http::Uri, _> = format!("http://example.test/v2/{repository}/x").parse();
                prop_assert_eq!(parsed.map(|uri| uri.path().to_owned()).ok(), Some(format!("/v2/{repository}/x")));
                prop_assert!(!repository.split('/').any(|part| part == "." || part == ".."));
            }
        }
    }

    #[test]
    fn a_document_cannot_be_two_things() {
        let index = "application/vnd.oci.image.index.v1+json";
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let document = |media_type: &str| format!(r#"{{"mediaType":"{media_type}"}}"#).into_bytes();
        assert_eq!(agree_on_media_type(index, &document(index)), Ok(index.to_owned()));
        assert_eq!(agree_on_media_type(index, b"{}"), Ok(index.to_owned()));
        assert_eq!(agree_on_media_type("application/json", &document(index)), Ok(index.to_owned()));
        assert_eq!(agree_on_media_type("", b"no json"), Ok(String::new()));
        assert!(agree_on_media_type(index, &document(manifest)).is_err());
    }
}
