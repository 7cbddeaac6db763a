//! Downloads into the store: conditional requests, redirects, retries, checksums.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use flate2::read::MultiGzDecoder;
use ureq::BodyReader;
use ureq::http::header::{CONTENT_ENCODING, ETAG, HeaderValue, LAST_MODIFIED};
use ureq::http::{Method, StatusCode};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::registry::{
    Clock, Incoming, Outgoing, ProxyOptions, RegistryError, RegistryOptions, RetryPolicy, Roots, Session,
    SourceNetwork, SystemClock, Target, Timeouts, Transport, Trust, refusal,
};
use crate::store::Store;

use super::checksum::{Checksum, ChecksumHasher};
use super::error::RemoteError;
use super::http_memo::{self, Memo};
use super::url::HttpUrl;

/// How much is read at once.
const CHUNK: usize = 128 << 10;

/// How to download.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// Limits on waiting; none bounds a whole transfer.
    pub timeouts: Timeouts,
    /// The proxies to go through. Loopback hosts are never reached through a proxy.
    pub proxy: Option<ProxyOptions>,
    /// Which certificate authorities are trusted.
    pub roots: Roots,
    /// How often and how patiently to try again.
    pub retry: RetryPolicy,
    /// Which addresses may be asked.
    pub network: SourceNetwork,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let RegistryOptions { user_agent, timeouts, proxy, roots, retry, network, .. } =
            RegistryOptions::default();
        HttpOptions { user_agent, timeouts, proxy, roots, retry, network }
    }
}

/// What a server is told about who asks. Sent to the address's own host only.
#[derive(Clone, PartialEq, Eq)]
pub enum HttpAuth {
    /// A token: `Authorization: Bearer TOKEN` (secret `HTTP_AUTH_TOKEN_<host>`).
    Bearer(String),
    /// The whole value of `Authorization` (secret `HTTP_AUTH_HEADER_<host>`).
    Header(String),
}

impl fmt::Debug for HttpAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HttpAuth::Bearer(_) => "Bearer(..)",
            HttpAuth::Header(_) => "Header(..)",
        })
    }
}

/// A file to download.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// Its address. Name and password in it are sent where `auth` is unset.
    pub url: HttpUrl,
    /// What it must hash to.
    pub checksum: Option<Checksum>,
    /// Who asks.
    pub auth: Option<HttpAuth>,
}

/// A file that lies in the store as a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpFile {
    /// SHA-256 of the content, by which the store knows it.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The last part of the address's path, or `__unnamed__`.
    pub name: String,
    /// `Last-Modified`, in seconds since 1970; `None` where the server told none.
    pub last_modified: Option<i64>,
    /// The blob, which must not be changed.
    pub path: PathBuf,
}

/// Downloads files, sharing connections among them.
pub struct HttpClient {
    transport: Transport,
    retry: RetryPolicy,
    clock: Arc<dyn Clock>,
}

/// What one attempt found.
enum Found {
    /// The copy in the store still holds.
    Unchanged,
    /// A new blob.
    New(Memo),
    /// Content that is not what was promised; it was not kept.
    Wrong(Checksum),
}

impl HttpClient {
    /// Makes a client. Fails on an unusable user agent or proxy.
    pub fn new(options: &HttpOptions) -> Result<Self, RemoteError> {
        Self::with_clock(options, Arc::new(SystemClock))
    }

    pub(super) fn with_clock(options: &HttpOptions, clock: Arc<dyn Clock>) -> Result<Self, RemoteError> {
        let HttpOptions { user_agent, timeouts, proxy, roots, retry, network } = options.clone();
        let options = RegistryOptions { user_agent, timeouts, proxy, network, ..RegistryOptions::default() };
        Ok(HttpClient { transport: Transport::new(&options, Trust::of(roots), None)?, retry, clock })
    }

    /// Brings a file into the store. The server is asked whether an earlier download still holds; a
    /// file that came from this address with this checksum before needs no request. `progress` gets
    /// the bytes that have come and the number expected; it starts anew with every attempt.
    ///
    /// Follows up to ten redirects to http and https (moby/buildkit, `source/http`).
    pub fn fetch(
        &self,
        store: &Store,
        request: &HttpRequest,
        progress: &dyn Fn(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<HttpFile, RemoteError> {
        let key = http_memo::key(&request.url, request.auth.as_ref());
        let memo = Memo::load(store, &key)?;
        if let (Some(memo), Some(checksum)) = (&memo, &request.checksum)
            && memo.is_verified(checksum)
        {
            store.touch_record(&key);
            return Ok(file(store, request, memo));
        }
        let authorization = authorization(request)?;
        let found = self.retry.run(&*self.clock, cancel, || {
            let session = self.transport.session(cancel);
            attempt(store, &session, request, authorization.clone(), memo.as_ref(), progress)
        })?;
        let mut memo = match (found, memo) {
            (Found::New(memo), _) | (Found::Unchanged, Some(memo)) => memo,
            (Found::Wrong(actual), _) => return Err(mismatch(request, &actual)),
            (Found::Unchanged, None) => {
                let reason = "the server says \"not modified\" though nothing was known".to_owned();
                return Err(RemoteError::Unreachable { url: request.url.to_string(), reason });
            }
        };
        if let Some(checksum) = request.checksum.as_ref().filter(|checksum| !memo.is_verified(checksum)) {
            let path = store.blob_path(&memo.digest);
            let read = std::fs::File::open(&path).and_then(|blob| checksum.of(blob));
            let actual = read.map_err(RemoteError::io("read", path))?;
            if actual != *checksum {
                return Err(mismatch(request, &actual));
            }
            memo.verify(checksum);
        }
        memo.save(store, &key)?;
        Ok(file(store, request, &memo))
    }

    /// The file of an earlier download that still holds, without fetching anything: one whose checksum is
    /// known needs no request, of another one the server says so.
    pub fn known(
        &self,
        store: &Store,
        request: &HttpRequest,
        cancel: &Cancel,
    ) -> Result<Option<HttpFile>, RemoteError> {
        let key = http_memo::key(&request.url, request.auth.as_ref());
        let Some(memo) = Memo::load(store, &key)? else { return Ok(None) };
        let holds = match &request.checksum {
            Some(checksum) => memo.is_verified(checksum),
            None => {
                let authorization = authorization(request)?;
                self.retry.run(&*self.clock, cancel, || {
                    still_holds(&self.transport.session(cancel), request, authorization.clone(), &memo)
                })?
            }
        };
        Ok(holds.then(|| file(store, request, &memo)))
    }
}

/// Whether a server stands by what it gave before.
fn still_holds(
    session: &Session,
    request: &HttpRequest,
    authorization: Option<HeaderValue>,
    memo: &Memo,
) -> Result<bool, RegistryError> {
    let headers = memo.conditions();
    let outgoing =
        Outgoing { authorization, headers, ..Outgoing::new(Method::GET, request.url.uri().clone(), true) };
    let incoming = session.send(&outgoing)?;
    match StatusCode::from_u16(incoming.status) {
        Ok(StatusCode::NOT_MODIFIED) => {
            incoming.drain();
            Ok(true)
        }
        Ok(StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION) => {
            Ok(memo.has_same_strong_etag(incoming.header(&ETAG)))
        }
        _ => Err(refusal(session, incoming, |_| None)),
    }
}

/// The file that an earlier download from this address left in the store, without asking whether it still holds.
/// `None` where there is none, or where its content has not the request's checksum.
pub fn kept(store: &Store, request: &HttpRequest) -> Result<Option<HttpFile>, RemoteError> {
    let key = http_memo::key(&request.url, request.auth.as_ref());
    let Some(memo) = Memo::load(store, &key)? else { return Ok(None) };
    if let Some(checksum) = request.checksum.as_ref().filter(|checksum| !memo.is_verified(checksum)) {
        let path = store.blob_path(&memo.digest);
        let read = std::fs::File::open(&path).and_then(|blob| checksum.of(blob));
        if read.map_err(RemoteError::io("read", path))? != *checksum {
            return Ok(None);
        }
    }
    store.touch_record(&key);
    Ok(Some(file(store, request, &memo)))
}

fn file(store: &Store, request: &HttpRequest, memo: &Memo) -> HttpFile {
    HttpFile {
        digest: memo.digest,
        size: memo.size,
        name: request.url.file_name(),
        last_modified: memo.last_modified_seconds(),
        path: store.blob_path(&memo.digest),
    }
}

fn mismatch(request: &HttpRequest, actual: &Checksum) -> RemoteError {
    RemoteError::Mismatch {
        url: request.url.to_string(),
        actual: actual.to_string(),
        expected: request.checksum.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn authorization(request: &HttpRequest) -> Result<Option<HeaderValue>, RemoteError> {
    let text = match (&request.auth, request.url.credentials()) {
        (Some(HttpAuth::Bearer(token)), _) => format!("Bearer {}", token.trim()),
        (Some(HttpAuth::Header(value)), _) => value.trim().to_owned(),
        (None, Some(pair)) => format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)),
        (None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        let host = request.url.host();
        RemoteError::Setting(format!("the credential for {host} contains what no header may contain"))
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Sends one request and takes what comes.
fn attempt(
    store: &Store,
    session: &Session,
    request: &HttpRequest,
    authorization: Option<HeaderValue>,
    memo: Option<&Memo>,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<Found, RegistryError> {
    let outgoing = Outgoing {
        authorization,
        headers: memo.map(Memo::conditions).unwrap_or_default(),
        ..Outgoing::new(Method::GET, request.url.uri().clone(), true)
    };
    let incoming = session.send(&outgoing)?;
    match StatusCode::from_u16(incoming.status) {
        Ok(StatusCode::NOT_MODIFIED) => {
            incoming.drain();
            return Ok(Found::Unchanged);
        }
        Ok(StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION) => {}
        _ => return Err(refusal(session, incoming, |_| None)),
    }
    // Some servers send ETags but take no notice of If-None-Match.
    if memo.is_some_and(|memo| memo.has_same_strong_etag(incoming.header(&ETAG))) {
        return Ok(Found::Unchanged);
    }
    let etag = incoming.header(&ETAG).map(str::to_owned);
    let last_modified = incoming.header(&LAST_MODIFIED).map(str::to_owned);
    let taken = take(store, session, request.checksum.as_ref(), incoming, progress)?;
    let (digest, size) = match taken {
        Ok(kept) => kept,
        Err(actual) => return Ok(Found::Wrong(actual)),
    };
    let mut memo = Memo::new(digest, size, etag, last_modified);
    if let Some(checksum) = &request.checksum {
        memo.verify(checksum);
    }
    Ok(Found::New(memo))
}

/// Streams the body into the store; what does not have the checksum is dropped.
fn take(
    store: &Store,
    session: &Session,
    checksum: Option<&Checksum>,
    incoming: Incoming,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<Result<(Digest, u64), Checksum>, RegistryError> {
    let target = incoming.target.clone();
    let total = incoming.content_length();
    // The reference's client takes this one coding off, whoever asked for it.
    let gzip =
        incoming.header(&CONTENT_ENCODING).is_some_and(|coding| coding.trim().eq_ignore_ascii_case("gzip"));
    progress(0, total);
    let mut raw = Raw { reader: incoming.into_reader(), session, target: &target, total, read: 0, progress };
    let mut writer = store.blob_writer()?;
    let mut hasher = checksum.map(Checksum::hasher);
    let copied = if gzip {
        let mut decoder = MultiGzDecoder::new(&mut raw);
        copy(&mut decoder, &mut writer, hasher.as_mut())
    } else {
        copy(&mut raw, &mut writer, hasher.as_mut())
    };
    match copied {
        Ok(()) => {}
        Err(CopyError::Write(source)) => {
            return Err(RegistryError::Write { path: writer.path().to_owned(), source });
        }
        Err(CopyError::Read(error)) => {
            return Err(error.downcast::<RegistryError>().unwrap_or_else(|error| {
                RegistryError::protocol(&target, format!("its gzip coding is broken: {error}"))
            }));
        }
    }
    let actual = hasher.map(ChecksumHasher::finish);
    if let Some(actual) = actual.filter(|actual| checksum != Some(actual)) {
        return Ok(Err(actual));
    }
    Ok(Ok(writer.finish()?))
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    mut hasher: Option<&mut ChecksumHasher>,
) -> Result<(), CopyError> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).map_err(CopyError::Read)?;
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        to.write_all(bytes).map_err(CopyError::Write)?;
        if let Some(hasher) = &mut hasher {
            hasher.write_all(bytes).map_err(CopyError::Write)?;
        }
    }
}

/// The bytes of a body as they come. Its end is reached only if as many came as were announced; its
/// errors carry a [`RegistryError`].
struct Raw<'a> {
    reader: BodyReader<'static>,
    session: &'a Session,
    target: &'a Target,
    total: Option<u64>,
    read: u64,
    progress: &'a dyn Fn(u64, Option<u64>),
}

impl Raw<'_> {
    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        if self.session.cancel().is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        let read = self.reader.read(buffer);
        let read = read.map_err(|error| self.session.failure(self.target, error.into()))?;
        self.read += read as u64;
        if read > 0 {
            (self.progress)(self.read, self.total);
            return Ok(read);
        }
        // A connection we cut ourselves may look like the end of the body.
        if self.session.cancel().is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        match self.total.filter(|total| *total != self.read && !buffer.is_empty()) {
            Some(expected) => Err(RegistryError::Size {
                target: self.target.clone(),
                expected,
                found: format!("got {}", self.read),
                truncated: true,
            }),
            None => Ok(0),
        }
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.advance(buffer).map_err(io::Error::other)
    }
}
