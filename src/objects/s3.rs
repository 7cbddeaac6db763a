//! S3, and services that are compatible with it.

use ureq::http::Method;
use ureq::http::header::LAST_MODIFIED;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::registry::Secret;

use super::body::{OpenObject, Upload};
use super::encode::{basic_time, now, parse_time, path, query, split_url};
use super::error::ObjectError;
use super::http::{Answer, Ask, Http, HttpSettings, Sent, header, uri};
use super::sigv4::{Canonical, Signing};
use super::{ObjectHead, ObjectStore, Written, xml};

/// The largest object that one request can write, in bytes.
const MOST_BYTES: u64 = 5 << 30;
/// Requests for one list: each gives up to 1,000 names.
const MOST_PAGES: usize = 1000;

/// A bucket, and how to sign in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// The region, which is part of every signature.
    pub region: String,
    /// `https://HOST[:PORT][/PATH]` instead of Amazon's address.
    pub endpoint: Option<String>,
    /// The bucket is a part of the path and not of the host; only with `endpoint`.
    pub path_style: bool,
    /// Name and secret of a key; without, requests are not signed.
    pub key: Option<(String, Secret)>,
    /// Beside a key that counts for some time only.
    pub session_token: Option<Secret>,
}

/// A client of one bucket.
pub(super) struct S3 {
    http: Http,
    options: S3Options,
    scheme: String,
    authority: String,
    /// In front of keys.
    base: String,
}

/// A request, apart from what every request has.
struct Request<'a> {
    method: Method,
    key: Option<&'a str>,
    query: Vec<(&'a str, String)>,
    /// More headers, which are signed.
    headers: Vec<(&'static str, String)>,
    payload: Digest,
}

impl S3 {
    pub fn new(options: &S3Options, settings: &HttpSettings) -> Result<Self, ObjectError> {
        let invalid = |what: &str| ObjectError::Invalid(what.to_owned());
        let bucket = &options.bucket;
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        if bucket.is_empty() || !bucket.bytes().all(plain) {
            return Err(ObjectError::Invalid(format!("{bucket:?} is no name of a bucket")));
        }
        let usual = format!("https://s3.{}.amazonaws.com", options.region);
        let endpoint = options.endpoint.as_deref().unwrap_or(&usual);
        let (scheme, host, base) =
            split_url(endpoint).ok_or_else(|| invalid("endpoint_url is not https://HOST or http://HOST"))?;
        let in_path = options.path_style && options.endpoint.is_some();
        let (authority, base) = match in_path {
            true => (host, format!("{base}/{bucket}")),
            false => (format!("{bucket}.{host}"), base),
        };
        Ok(S3 { http: Http::new(settings)?, options: options.clone(), scheme, authority, base })
    }

    fn ask(&self, request: &Request<'_>) -> Result<Ask, ObjectError> {
        let time = now();
        let key = request.key.map_or_else(String::new, path);
        let path = format!("{}/{key}", self.base);
        let query = query(&request.query);
        let payload = request.payload.hex();
        let mut headers: Vec<(String, String)> =
            request.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        headers.push(("x-amz-content-sha256".into(), payload.clone()));
        headers.push(("x-amz-date".into(), basic_time(time)));
        if let Some(token) = self.options.session_token.as_ref().filter(|_| self.options.key.is_some()) {
            headers.push(("x-amz-security-token".into(), token.0.clone()));
        }
        let mut sent = Vec::new();
        for (name, value) in &headers {
            sent.push(header(name, value)?);
        }
        headers.push(("host".into(), self.authority.clone()));
        let authorization = match &self.options.key {
            None => None,
            Some((access_key, secret)) => {
                let region = &self.options.region;
                let signing = Signing { access_key, secret_key: &secret.0, region, service: "s3" };
                let method = request.method.as_str();
                let canonical =
                    Canonical { method, path: &path, query: &query, headers: &headers, payload: &payload };
                Some(header("authorization", &signing.authorization(&canonical, time))?.1)
            }
        };
        let mark = if query.is_empty() { "" } else { "?" };
        let url = uri(&format!("{}://{}{path}{mark}{query}", self.scheme, self.authority))?;
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
        let S3Options { bucket, region, key, .. } = &self.options;
        Some(match (status, code) {
            (301 | 307 | 308, _) | (400, Some("AuthorizationHeaderMalformed")) => {
                format!("is the bucket {bucket} in the region {region}?")
            }
            (_, Some("NoSuchBucket")) => format!("create the bucket {bucket}, or check its name and region"),
            (_, Some("RequestTimeTooSkewed")) => "set this machine's clock right".into(),
            (401 | 403, _) if key.is_none() => {
                "no key was found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials"
                    .into()
            }
            (401 | 403, _) => format!("check what this key may do in the bucket {bucket}"),
            _ => return None,
        })
    }

    /// Only `NoSuchKey` says that there is no object: a missing bucket is 404 too.
    fn refuse_missing_bucket(&self, answer: Answer) -> Result<(), ObjectError> {
        let target = answer.incoming.target.clone();
        let text = answer.text()?;
        match xml::text(&text, "Code").as_deref() {
            Some(code @ "NoSuchBucket") => {
                let hint = self.hint(404, Some(code)).unwrap_or_default();
                let text = format!("{target}: not found (status 404, {code}); {hint}");
                Err(ObjectError::Refused { status: 404, code: Some(code.to_owned()), text })
            }
            _ => Ok(()),
        }
    }
}

fn plain<'a>(method: Method, key: &'a str) -> Request<'a> {
    Request { method, key: Some(key), query: Vec::new(), headers: Vec::new(), payload: Digest::of(b"") }
}

impl ObjectStore for S3 {
    fn open(&self, key: &str, from: u64, cancel: &Cancel) -> Result<Option<OpenObject>, ObjectError> {
        let mut request = plain(Method::GET, key);
        if from > 0 {
            request.headers.push(("range", format!("bytes={from}-")));
        }
        let answer = self.run(&request, Sent::Nothing, &[404], cancel)?;
        if answer.status() == 404 {
            self.refuse_missing_bucket(answer)?;
            return Ok(None);
        }
        Ok(Some(answer.open(from)))
    }

    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectHead>, ObjectError> {
        let answer = self.run(&plain(Method::HEAD, key), Sent::Nothing, &[404], cancel)?;
        if answer.status() == 404 {
            answer.drain();
            return Ok(None);
        }
        let modified = answer.incoming.header(&LAST_MODIFIED).and_then(parse_time);
        answer.drain();
        Ok(Some(ObjectHead { key: key.to_owned(), modified }))
    }

    fn put(&self, key: &str, upload: &Upload<'_>, cancel: &Cancel) -> Result<Written, ObjectError> {
        if upload.size > MOST_BYTES {
            let text = format!("{} bytes are more than one upload to S3 can have (5 GiB)", upload.size);
            return Err(ObjectError::Invalid(text));
        }
        let request = Request { payload: upload.digest, ..plain(Method::PUT, key) };
        let sent = Sent::Part { upload, from: 0, length: upload.size };
        self.run(&request, sent, &[], cancel)?.drain();
        Ok(Written::New)
    }

    /// Copies the object onto itself.
    fn touch(&self, key: &str, cancel: &Cancel) -> Result<(), ObjectError> {
        let mut request = plain(Method::PUT, key);
        request.headers.push(("x-amz-copy-source", path(&format!("{}/{key}", self.options.bucket))));
        request.headers.push(("x-amz-metadata-directive", "REPLACE".to_owned()));
        // A copy that fails after it began answers 200 with an error inside.
        let answer = self.run(&request, Sent::Nothing, &[], cancel)?;
        let target = answer.incoming.target.clone();
        match xml::text(&answer.text()?, "Code") {
            Some(code) => Err(ObjectError::NoAnswer(format!("{target}: the copy failed: {code}"))),
            None => Ok(()),
        }
    }

    fn can_touch(&self) -> bool {
        true
    }

    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectHead>, ObjectError> {
        let (mut all, mut token) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let mut query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
            query.extend(token.take().map(|token| ("continuation-token", token)));
            let request = Request { key: None, query, ..plain(Method::GET, "") };
            let answer = self.run(&request, Sent::Nothing, &[], cancel)?;
            let target = answer.incoming.target.clone();
            let text = answer.text()?;
            if !text.contains("</ListBucketResult>") {
                return Err(ObjectError::NoAnswer(format!("{target}: the answer is no list of objects")));
            }
            for one in xml::elements(&text, "Contents") {
                let Some(key) = xml::text(one, "Key") else { continue };
                let modified = xml::text(one, "LastModified").and_then(|text| parse_time(&text));
                all.push(ObjectHead { key, modified });
            }
            let more = xml::text(&text, "IsTruncated").is_some_and(|text| text == "true");
            token = xml::text(&text, "NextContinuationToken").filter(|_| more);
            if token.is_none() {
                break;
            }
        }
        Ok(all)
    }

    fn lists_all(&self) -> bool {
        true
    }

    fn delete(&self, key: &str, cancel: &Cancel) -> Result<(), ObjectError> {
        self.run(&plain(Method::DELETE, key), Sent::Nothing, &[404], cancel)?.drain();
        Ok(())
    }
}
