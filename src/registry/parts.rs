//! Tags, blobs and manifests one by one, for what is no image that is pushed or pulled whole.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use ureq::http::header::LINK;
use ureq::http::{Method, Uri};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::Descriptor;

use super::blob::BlobReader;
use super::client::{Call, Registry, refusal};
use super::content::Content;
use super::error::RegistryError;
use super::piece::with_query;
use super::pull::{MANIFEST_LIMIT, check_repository, manifest_path};
use super::push::{PushOptions, PushProgress, PushReport};
use super::referrers::{encoded, next_link, next_page};
use super::transport::Outgoing;
use super::upload::Uploads;

/// Pages of tags that are read.
const MOST_PAGES: usize = 1_000;

/// Tags on one page.
const PAGE: usize = 1_000;

/// One page of the tags of a repository.
struct Tags {
    names: Vec<String>,
    next: Option<Uri>,
}

impl Registry {
    /// The tags of a repository that begin with `prefix`, as the registry itself has them now. None where
    /// it does not know the repository.
    pub fn tags(
        &self,
        repository: &str,
        prefix: &str,
        cancel: &Cancel,
    ) -> Result<BTreeSet<String>, RegistryError> {
        check_repository(repository)?;
        match self.tags_behind(repository, prefix, Some(prefix), cancel) {
            Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
            // Some take `last` for something of their own.
            Err(error) if matches!(error.status(), Some(400 | 405 | 416)) => {
                self.tags_behind(repository, prefix, None, cancel)
            }
            found => found,
        }
    }

    /// `last` is the tag behind which a registry that sorts its tags begins.
    fn tags_behind(
        &self,
        repository: &str,
        prefix: &str,
        last: Option<&str>,
        cancel: &Cancel,
    ) -> Result<BTreeSet<String>, RegistryError> {
        let (mut found, mut place, mut seen) = (BTreeSet::new(), None, BTreeSet::new());
        for _ in 0..MOST_PAGES {
            let Tags { names, next } = self.tag_page(repository, last, place.as_ref(), cancel)?;
            let sorted = names.is_sorted();
            let behind = |name: &String| !name.starts_with(prefix) && name.as_str() > prefix;
            let past = sorted && last.is_some() && names.last().is_some_and(behind);
            found.extend(names.into_iter().filter(|name| name.starts_with(prefix)));
            let Some(next) = next.filter(|_| !past) else { return Ok(found) };
            if !seen.insert(next.to_string()) {
                break;
            }
            place = Some(next);
        }
        let name = format!("{}/{repository}", self.host());
        Err(RegistryError::invalid("list of tags", &name, "its pages do not end"))
    }

    fn tag_page(
        &self,
        repository: &str,
        last: Option<&str>,
        place: Option<&Uri>,
        cancel: &Cancel,
    ) -> Result<Tags, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        self.write(cancel, &|| false, |host, session| {
            let own = host.endpoint.repository(repository);
            let url = match place {
                Some(place) => place.clone(),
                None => {
                    let last = last.map(|last| format!("&last={}", encoded(last))).unwrap_or_default();
                    with_query(&host.url(&session, &format!("{own}/tags/list"))?, &format!("n={PAGE}{last}"))?
                }
            };
            let scope = format!("repository:{own}:pull");
            let mut outgoing = Outgoing::new(Method::GET, url.clone(), host.endpoint.lenient());
            let answer =
                host.exchange(&session, &mut outgoing, &scope, &mut |outgoing| session.send(outgoing))?;
            if answer.status != 200 {
                let call = Call { method: Method::GET, repository, path: "tags/list", accept: None, from: 0 };
                return Err(refusal(&session, answer, |refused| host.hint(&call, refused)));
            }
            let target = answer.target.clone();
            let strange = |reason: &str| RegistryError::protocol(&target, reason);
            let mut next = None;
            for link in answer.headers.get_all(LINK) {
                let Some(link) = link.to_str().ok().and_then(next_link) else { continue };
                let place = next_page(&url, link);
                next = Some(place.ok_or_else(|| strange("its next page is not at the same registry"))?);
            }
            let bytes = answer.read_up_to(&session, MANIFEST_LIMIT)?;
            let page: Page = serde_json::from_slice(&bytes).map_err(|_| strange("it is no list of tags"))?;
            Ok(Tags { names: page.tags.unwrap_or_default(), next })
        })
    }

    /// Whether a repository has a blob, as the registry itself says.
    pub fn has_blob(
        &self,
        repository: &str,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<bool, RegistryError> {
        check_repository(repository)?;
        let path = format!("blobs/{digest}");
        let call = Call { method: Method::HEAD, repository, path: &path, accept: None, from: 0 };
        let found = self.write(cancel, &|| false, |host, session| {
            host.call(&session, &call).map(|answer| answer.drain())
        });
        match found {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a blob of `size` bytes whole, verified; for blobs larger than [`Registry::blob`] reads.
    pub fn large_blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut reader = self.open_blob(repository, digest, size, cancel)?;
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(BlobReader::cause(error)
                .unwrap_or_else(|error| RegistryError::protocol(reader.target(), error.to_string()))),
        }
    }

    /// Makes sure that a repository has these blobs: sends or mounts what it lacks.
    pub fn push_blobs(
        &self,
        repository: &str,
        blobs: &[Descriptor],
        content: &dyn Content,
        progress: &(dyn Fn(PushProgress) + Sync),
        cancel: &Cancel,
    ) -> Result<PushReport, RegistryError> {
        check_repository(repository)?;
        let options = PushOptions::default();
        let uploads = Uploads::new(self, repository, content, &options, cancel);
        let mut report = PushReport::of(Digest::of(b""));
        report.count(&uploads.blobs(blobs, progress)?);
        report.sent_bytes = uploads.sent.load(Ordering::Relaxed);
        Ok(report)
    }

    /// Puts a manifest under a tag. All it refers to must be there.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
        content: &dyn Content,
        cancel: &Cancel,
    ) -> Result<(), RegistryError> {
        let options = PushOptions::default();
        Uploads::new(self, repository, content, &options, cancel).manifest(tag, media_type, bytes).map(drop)
    }

    /// Removes a manifest with all of its tags. Whether it was there.
    pub fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<bool, RegistryError> {
        let path = manifest_path(repository, &digest.to_string())?;
        let call = Call { method: Method::DELETE, repository, path: &path, accept: None, from: 0 };
        let gone = self.write(cancel, &|| false, |host, session| {
            let scope = format!("repository:{}:delete", host.endpoint.repository(repository));
            host.call_with(&session, &call, &scope).map(|answer| answer.drain())
        });
        match gone {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
