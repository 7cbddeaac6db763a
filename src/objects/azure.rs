//! Azure's Blob Storage, and block blobs behind addresses that are signed already.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::Method;
use ureq::http::header::LAST_MODIFIED;

use crate::cancel::Cancel;
use crate::registry::Secret;

use super::azure_sign::{Canonical, SharedKey};
use super::body::{OpenObject, Upload};
use super::encode::{http_time, now, parse_time, path, query, split_url};
use super::error::ObjectError;
use super::http::{Answer, Ask, Http, HttpSettings, Sent, header, uri};
use super::{ObjectHead, ObjectStore, Written, xml};

/// The version of the protocol that requests are written for.
pub(super) const VERSION: &str = "2021-08-06";
/// Larger objects are sent in blocks of this size, in bytes: at most 50,000 of them.
const BLOCK: u64 = 64 << 20;
const MOST_PAGES: usize = 1000;

/// A container, and how to sign in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AzureOptions {
    /// `https://ACCOUNT.blob.core.windows.net`; the account may be in the path instead. May have the query of a
    /// shared access signature.
    pub account_url: Secret,
    /// The account.
    pub account: String,
    /// The container, which is made where it is missing.
    pub container: String,
    /// The account's key in base64; `None` with a shared access signature.
    pub key: Option<Secret>,
}

impl AzureOptions {
    /// The container without anything secret.
    pub(super) fn shown(&self) -> String {
        let address = self.account_url.0.split('?').next().unwrap_or_default().trim_end_matches('/');
        format!("{address}/{}", self.container)
    }
}

/// A client of one container.
pub(super) struct Azure {
    http: Http,
    options: AzureOptions,
    key: Option<Vec<u8>>,
    scheme: String,
    authority: String,
    /// In front of the container.
    base: String,
    /// Of a shared access signature.
    signature: Option<String>,
}

struct Request<'a> {
    method: Method,
    /// The container itself, without.
    key: Option<&'a str>,
    query: Vec<(&'a str, String)>,
    headers: Vec<(&'static str, String)>,
    range: String,
    length: u64,
}

fn plain(method: Method, key: Option<&str>) -> Request<'_> {
    Request { method, key, query: Vec::new(), headers: Vec::new(), range: String::new(), length: 0 }
}

impl Azure {
    pub fn new(options: &AzureOptions, settings: &HttpSettings) -> Result<Self, ObjectError> {
        let invalid = |what: &str| ObjectError::Invalid(what.to_owned());
        let (address, signature) = match options.account_url.0.split_once('?') {
            Some((address, query)) => (address, Some(query.to_owned())),
            None => (options.account_url.0.as_str(), None),
        };
        let (scheme, authority, base) =
            split_url(address).ok_or_else(|| invalid("account_url is not https://HOST or http://HOST"))?;
        let key = options.key.as_ref().map(|key| STANDARD.decode(key.0.trim()));
        let key = key.transpose().map_err(|_| invalid("secret_access_key is not base64"))?;
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if options.container.is_empty() || !options.container.bytes().all(plain) {
            return Err(ObjectError::Invalid(format!("{:?} is no name of a container", options.container)));
        }
        let http = Http::new(settings)?;
        Ok(Azure { http, options: options.clone(), key, scheme, authority, base, signature })
    }

    fn ask(&self, request: &Request<'_>) -> Result<Ask, ObjectError> {
        let key = request.key.map_or_else(String::new, |key| format!("/{}", path(key)));
        let path = format!("{}/{}{key}", self.base, self.options.container);
        let mut headers: Vec<(String, String)> =
            request.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        headers.push(("x-ms-date".into(), http_time(now())));
        headers.push(("x-ms-version".into(), VERSION.into()));
        let mut sent = Vec::new();
        for (name, value) in &headers {
            sent.push(header(name, value)?);
        }
        if !request.range.is_empty() {
            sent.push(header("range", &request.range)?);
        }
        let authorization = match &self.key {
            None => None,
            Some(key) => {
                let canonical = Canonical {
                    method: request.method.as_str(),
                    length: request.length,
                    content_type: "",
                    range: &request.range,
                    headers: &headers,
                    path: &path,
                    query: &request.query,
                };
                let shared = SharedKey { account: &self.options.account, key };
                Some(header("authorization", &shared.authorization(&canonical))?.1)
            }
        };
        let own = query(&request.query);
        let all: Vec<&str> = [own.as_str(), self.signature.as_deref().unwrap_or_default()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let mark = if all.is_empty() { "" } else { "?" };
        let url = uri(&format!("{}://{}{path}{mark}{}", self.scheme, self.authority, all.join("&")))?;
        Ok(Ask { method: request.method.clone(), url, headers: sent, authorization })
    }

    fn run(
        &self,
        request: &Request<'_>,
        sent: Sent<'_, '_>,
        also: &[u16],
        cancel: &Cancel,
    ) -> Result<Answer, ObjectError> {
        self.http.run(&|| self.ask(request), sent, also, &|status, code| self.hint(status, code), cancel)
    }

    fn hint(&self, status: u16, code: Option<&str>) -> Option<String> {
        let AzureOptions { container, account, key, .. } = &self.options;
        Some(match (status, code) {
            (404, Some("ContainerNotFound")) => format!("there is no container {container}"),
            (401 | 403, _) if key.is_none() && self.signature.is_none() => {
                "give secret_access_key=KEY, or an account_url with a shared access signature".into()
            }
            (401 | 403, _) => format!("check that the key is one of the account {account}"),
            _ => return None,
        })
    }

    fn make_container(&self, cancel: &Cancel) -> Result<(), ObjectError> {
        let query = vec![("restype", "container".to_owned())];
        // 409: somebody else made it meanwhile.
        self.run(&Request { query, ..plain(Method::PUT, None) }, Sent::Nothing, &[409], cancel)?.drain();
        Ok(())
    }

    fn put_once(&self, key: &str, upload: &Upload<'_>, cancel: &Cancel) -> Result<(), ObjectError> {
        let put = |part: &BlobPart<'_>, sent: Sent<'_, '_>| {
            let request = Request {
                query: part.query.clone(),
                headers: part.headers.clone(),
                length: part.length,
                ..plain(Method::PUT, Some(key))
            };
            self.run(&request, sent, &[], cancel).map(Answer::drain)
        };
        put_blob(upload, &put)
    }
}

/// One request of an upload.
pub(super) struct BlobPart<'a> {
    pub query: Vec<(&'a str, String)>,
    pub headers: Vec<(&'static str, String)>,
    /// Bytes of its body.
    pub length: u64,
}

/// Sends one request of an upload.
pub(super) type PutPart<'a> = dyn Fn(&BlobPart<'_>, Sent<'_, '_>) -> Result<(), ObjectError> + 'a;

/// Writes a block blob: at once, or where it is large, block after block.
pub(super) fn put_blob(upload: &Upload<'_>, put: &PutPart<'_>) -> Result<(), ObjectError> {
    if upload.size <= BLOCK {
        let headers = vec![("x-ms-blob-type", "BlockBlob".to_owned())];
        let part = BlobPart { query: Vec::new(), headers, length: upload.size };
        return put(&part, Sent::Part { upload, from: 0, length: upload.size });
    }
    let mut list = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    let (mut from, mut number) = (0, 0_u32);
    while from < upload.size {
        let length = BLOCK.min(upload.size - from);
        let id = STANDARD.encode(format!("{number:08}"));
        list.push_str(&format!("<Latest>{id}</Latest>"));
        let query = vec![("comp", "block".to_owned()), ("blockid", id)];
        put(&BlobPart { query, headers: Vec::new(), length }, Sent::Part { upload, from, length })?;
        from += length;
        number += 1;
    }
    list.push_str("</BlockList>");
    let query = vec![("comp", "blocklist".to_owned())];
    let part = BlobPart { query, headers: Vec::new(), length: list.len() as u64 };
    put(&part, Sent::Bytes(list.as_bytes()))
}

impl ObjectStore for Azure {
    fn open(&self, key: &str, from: u64, cancel: &Cancel) -> Result<Option<OpenObject>, ObjectError> {
        let range = if from > 0 { format!("bytes={from}-") } else { String::new() };
        let answer =
            self.run(&Request { range, ..plain(Method::GET, Some(key)) }, Sent::Nothing, &[404], cancel)?;
        if answer.status() == 404 {
            answer.drain();
            return Ok(None);
        }
        Ok(Some(answer.open(from)))
    }

    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectHead>, ObjectError> {
        let answer = self.run(&plain(Method::HEAD, Some(key)), Sent::Nothing, &[404], cancel)?;
        let found = answer.status() != 404;
        let modified = answer.incoming.header(&LAST_MODIFIED).and_then(parse_time);
        answer.drain();
        Ok(found.then(|| ObjectHead { key: key.to_owned(), modified }))
    }

    fn put(&self, key: &str, upload: &Upload<'_>, cancel: &Cancel) -> Result<Written, ObjectError> {
        match self.put_once(key, upload, cancel) {
            Err(error) if error.status() == Some(404) => {
                self.make_container(cancel)?;
                self.put_once(key, upload, cancel)?;
            }
            put => put?,
        }
        Ok(Written::New)
    }

    fn touch(&self, _: &str, _: &Cancel) -> Result<(), ObjectError> {
        Ok(())
    }

    fn can_touch(&self) -> bool {
        false
    }

    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectHead>, ObjectError> {
        let (mut all, mut marker) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let mut query = vec![
                ("restype", "container".to_owned()),
                ("comp", "list".to_owned()),
                ("prefix", prefix.to_owned()),
            ];
            query.extend(marker.take().map(|marker| ("marker", marker)));
            let request = Request { query, ..plain(Method::GET, None) };
            let answer = self.run(&request, Sent::Nothing, &[404], cancel)?;
            if answer.status() == 404 {
                answer.drain();
                return Ok(Vec::new());
            }
            let target = answer.incoming.target.clone();
            let text = answer.text()?;
            if !text.contains("</EnumerationResults>") {
                return Err(ObjectError::NoAnswer(format!("{target}: the answer is no list of objects")));
            }
            for one in xml::elements(&text, "Blob") {
                let Some(key) = xml::text(one, "Name") else { continue };
                let modified = xml::text(one, "Last-Modified").and_then(|text| parse_time(&text));
                all.push(ObjectHead { key, modified });
            }
            marker = xml::text(&text, "NextMarker").filter(|marker| !marker.is_empty());
            if marker.is_none() {
                break;
            }
        }
        Ok(all)
    }

    fn lists_all(&self) -> bool {
        true
    }

    fn delete(&self, key: &str, cancel: &Cancel) -> Result<(), ObjectError> {
        self.run(&plain(Method::DELETE, Some(key)), Sent::Nothing, &[404], cancel)?.drain();
        Ok(())
    }
}
