//! The cache service of GitHub's Actions, version 2: entries are written once, found by their key or as the newest of
//! those that begin with a prefix, and their bytes move by addresses that are signed for a short time.
//!
//! The calls are Twirp's (JSON by POST) to `github.actions.results.api.v1.CacheService`.

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::registry::Secret;

use super::azure::{BlobPart, VERSION, put_blob};
use super::body::{OpenObject, Upload};
use super::encode::{query, split_url};
use super::error::ObjectError;
use super::http::{Answer, Ask, Http, HttpSettings, Sent, header, uri};
use super::{ObjectHead, ObjectStore, Written};

const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
/// Entries are found only by who gives the same version; it keeps those of other programs apart.
const KIND: &[u8] = b"rbuild cache 1";

/// A repository's cache, as a job sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionsOptions {
    /// `ACTIONS_RESULTS_URL`.
    pub url: String,
    /// `ACTIONS_RUNTIME_TOKEN`.
    pub token: Secret,
}

/// A client of the service.
pub(super) struct Actions {
    http: Http,
    base: String,
    token: Secret,
    version: String,
}

#[derive(Deserialize)]
struct Created {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
}

#[derive(Deserialize)]
struct Finalized {
    #[serde(default)]
    ok: bool,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedDownloadUrl")]
    signed_download_url: String,
    #[serde(default, alias = "matchedKey")]
    matched_key: String,
}

impl Actions {
    pub fn new(options: &ActionsOptions, settings: &HttpSettings) -> Result<Self, ObjectError> {
        let (scheme, authority, path) = split_url(&options.url).ok_or_else(|| {
            ObjectError::Invalid("the address of the service is not https://HOST/ or http://HOST/".to_owned())
        })?;
        let base = format!("{scheme}://{authority}{path}/{SERVICE}");
        let (http, token) = (Http::new(settings)?, options.token.clone());
        Ok(Actions { http, base, token, version: Digest::of(KIND).hex() })
    }

    fn call(
        &self,
        method: &str,
        message: &Value,
        also: &[u16],
        cancel: &Cancel,
    ) -> Result<Answer, ObjectError> {
        let body = message.to_string();
        let ask = || {
            Ok(Ask {
                method: Method::POST,
                url: uri(&format!("{}/{method}", self.base))?,
                headers: vec![header("content-type", "application/json")?],
                authorization: Some(header("authorization", &format!("Bearer {}", self.token.0))?.1),
            })
        };
        self.http.run(&ask, Sent::Bytes(body.as_bytes()), also, &hint, cancel)
    }

    fn find(&self, key: &str, prefixes: &[&str], cancel: &Cancel) -> Result<Option<Found>, ObjectError> {
        let message = json!({ "key": key, "restore_keys": prefixes, "version": self.version });
        let answer = self.call("GetCacheEntryDownloadURL", &message, &[404], cancel)?;
        if answer.status() == 404 {
            answer.drain();
            return Ok(None);
        }
        let found: Found = parse(answer)?;
        let fits = match prefixes {
            [] => found.matched_key == key,
            prefixes => prefixes.iter().any(|prefix| found.matched_key.starts_with(prefix)),
        };
        Ok(Some(found).filter(|found| found.ok && fits))
    }

    /// Reads from a signed address.
    fn download(&self, url: &str, from: u64, cancel: &Cancel) -> Result<Option<OpenObject>, ObjectError> {
        let ask = || {
            let mut headers = Vec::new();
            if from > 0 {
                headers.push(header("range", &format!("bytes={from}-"))?);
            }
            Ok(Ask { method: Method::GET, url: uri(url)?, headers, authorization: None })
        };
        let answer = self.http.run(&ask, Sent::Nothing, &[404], &hint, cancel)?;
        if answer.status() == 404 {
            answer.drain();
            return Ok(None);
        }
        Ok(Some(answer.open(from)))
    }

    fn upload(&self, url: &str, upload: &Upload<'_>, cancel: &Cancel) -> Result<(), ObjectError> {
        let put = |part: &BlobPart<'_>, sent: Sent<'_, '_>| {
            let ask = || {
                let more = query(&part.query);
                let joined = match (more.is_empty(), url.contains('?')) {
                    (true, _) => url.to_owned(),
                    (false, true) => format!("{url}&{more}"),
                    (false, false) => format!("{url}?{more}"),
                };
                let mut headers = vec![header("x-ms-version", VERSION)?];
                for (name, value) in &part.headers {
                    headers.push(header(name, value)?);
                }
                Ok(Ask { method: Method::PUT, url: uri(&joined)?, headers, authorization: None })
            };
            self.http.run(&ask, sent, &[], &hint, cancel).map(Answer::drain)
        };
        put_blob(upload, &put)
    }
}

fn parse<T: for<'de> Deserialize<'de>>(answer: Answer) -> Result<T, ObjectError> {
    let target = answer.incoming.target.clone();
    let text = answer.text()?;
    serde_json::from_str(&text)
        .map_err(|error| ObjectError::NoAnswer(format!("{target}: the answer cannot be understood: {error}")))
}

fn hint(status: u16, _: Option<&str>) -> Option<String> {
    Some(match status {
        401 | 403 => {
            "ACTIONS_RUNTIME_TOKEN counts in its own job only, and for jobs of forks not for writing"
                .to_owned()
        }
        429 => "the service limits how much a repository asks of it; try again later".to_owned(),
        _ => return None,
    })
}

impl ObjectStore for Actions {
    fn open(&self, key: &str, from: u64, cancel: &Cancel) -> Result<Option<OpenObject>, ObjectError> {
        let Some(found) = self.find(key, &[], cancel)? else { return Ok(None) };
        match self.download(&found.signed_download_url, from, cancel) {
            // The signature ran out meanwhile.
            Err(error) if error.status() == Some(403) => match self.find(key, &[], cancel)? {
                Some(found) => self.download(&found.signed_download_url, from, cancel),
                None => Ok(None),
            },
            opened => opened,
        }
    }

    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectHead>, ObjectError> {
        let found = self.find(key, &[], cancel)?;
        Ok(found.map(|found| ObjectHead { key: found.matched_key, modified: None }))
    }

    fn put(&self, key: &str, upload: &Upload<'_>, cancel: &Cancel) -> Result<Written, ObjectError> {
        let message = json!({ "key": key, "version": self.version });
        let answer = self.call("CreateCacheEntry", &message, &[409], cancel)?;
        if answer.status() == 409 {
            answer.drain();
            return Ok(Written::Taken);
        }
        let created: Created = parse(answer)?;
        if !created.ok {
            return Ok(Written::Taken);
        }
        self.upload(&created.signed_upload_url, upload, cancel)?;
        let message = json!({ "key": key, "size_bytes": upload.size.to_string(), "version": self.version });
        let answer = self.call("FinalizeCacheEntryUpload", &message, &[], cancel)?;
        let target = answer.incoming.target.clone();
        if !parse::<Finalized>(answer)?.ok {
            return Err(ObjectError::NoAnswer(format!("{target}: the service did not take the entry {key}")));
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
        let found = self.find(prefix, &[prefix], cancel)?;
        Ok(found.into_iter().map(|found| ObjectHead { key: found.matched_key, modified: None }).collect())
    }

    fn lists_all(&self) -> bool {
        false
    }

    fn delete(&self, _: &str, _: &Cancel) -> Result<(), ObjectError> {
        Ok(())
    }
}
