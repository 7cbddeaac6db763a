//! Which manifests refer to another one (distribution specification 1.1, "Listing Referrers" and
//! "Referrers Tag Schema").
//!
//! A registry that knows the API lists them itself. Elsewhere the list is an index under a tag made of
//! the subject's digest, which clients keep.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ureq::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use ureq::http::{Method, Uri};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::manifest::canonical;
use crate::image::{Descriptor, Document, Family, Index};

use super::client::{Call, Host, Registry, refusal};
use super::error::{RegistryError, clean};
use super::piece::with_query;
use super::pull::{MANIFEST_LIMIT, check_repository};
use super::transport::{Outgoing, Session, resolve};
use super::upload::Uploads;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// What the API answers with.
const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");

/// Referrers of one manifest that are read; more than this is a loop of pages or an attack.
const MOST_REFERRERS: usize = 10_000;

/// Bytes of one list, all pages together: 10,000 entries with their annotations fit several times.
const MOST_BYTES: usize = 64 << 20;

/// Pages of one list.
const MOST_PAGES: usize = 1_000;

/// How often an entry is put into a list from which others' writing removes it.
const MOST_MERGES: u32 = 20;

/// How often a list is looked at that others write all the time.
const MOST_LOOKS: u32 = 40;

/// Between writing a list and looking whether the entry is still in it, at least and at most.
const SETTLE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// The manifests that refer to another one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Referrers {
    /// Their descriptors, with artifact type and annotations as the list has them. Not verified.
    pub manifests: Vec<Descriptor>,
    /// The registry does not know the API: the list is the one that clients keep under a tag.
    pub by_tag: bool,
}

/// One answer of the API.
struct Page {
    index: Index,
    size: usize,
    filtered: bool,
    next: Option<Uri>,
}

/// The tag under which clients keep the list where the registry does not: `sha256-HEX`.
pub fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Registry {
    /// The referrers of a manifest or index, also of one that the registry does not have; only those of
    /// `artifact_type` where given. Asks the registry itself, since a mirror may know fewer. Where
    /// the registry has no such API (404, 400, 405 or 501, or an answer that is no list), the
    /// list under [`fallback_tag`] counts, and without one there are none.
    pub fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Referrers, RegistryError> {
        check_repository(repository)?;
        let (mut manifests, by_tag) = match self.listed(repository, subject, artifact_type, cancel)? {
            Some(manifests) => (manifests, false),
            None => {
                let index = self.tagged_list(repository, subject, cancel)?.map(|(index, _)| index);
                let mut manifests = index.map(|index| index.manifests).unwrap_or_default();
                manifests.retain(|entry| is_of(entry, artifact_type));
                (manifests, true)
            }
        };
        // Pages overlap where something was added meanwhile.
        let mut seen = BTreeSet::new();
        manifests.retain(|entry| seen.insert(entry.digest));
        Ok(Referrers { manifests, by_tag })
    }

    /// What the API says; `None` where there is none.
    fn listed(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let (mut found, mut seen): (Vec<Descriptor>, BTreeSet<String>) = Default::default();
        let (mut place, mut size): (Option<Uri>, usize) = (None, 0);
        for _ in 0..MOST_PAGES {
            let page = self.page(repository, subject, artifact_type, place.as_ref(), cancel)?;
            let Some(page) = page else {
                let Some(place) = place else { return Ok(None) };
                let reason = format!("it goes on at {}, where there is no list", place.path());
                return Err(self.unusable(subject, reason));
            };
            let entries = page.index.manifests.into_iter();
            found.extend(entries.filter(|entry| page.filtered || is_of(entry, artifact_type)));
            size += page.size;
            if size > MOST_BYTES || found.len() > MOST_REFERRERS {
                let most = format!("{MOST_REFERRERS} referrers or {MOST_BYTES} bytes");
                return Err(self.unusable(subject, format!("it has more than {most}")));
            }
            let Some(next) = page.next else { return Ok(Some(found)) };
            if !seen.insert(next.to_string()) {
                break;
            }
            place = Some(next);
        }
        Err(self.unusable(subject, "its pages do not end".to_owned()))
    }

    /// The page at `place`, or the first one; `None` where there is no list.
    fn page(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
        place: Option<&Uri>,
        cancel: &Cancel,
    ) -> Result<Option<Page>, RegistryError> {
        let path = format!("referrers/{subject}");
        let query = artifact_type.map(|text| format!("artifactType={}", encoded(text)));
        self.write(cancel, &|| false, |host, session| {
            let url = match place {
                Some(place) => place.clone(),
                None => {
                    let path = format!("{}/{path}", host.endpoint.repository(repository));
                    let url = host.url(&session, &path)?;
                    query.as_ref().map_or(Ok(url.clone()), |query| with_query(&url, query))?
                }
            };
            page(host, &session, repository, &path, url)
        })
    }

    fn unusable(&self, subject: &Digest, reason: String) -> RegistryError {
        let name = format!("{}: referrers/{subject}", self.host());
        RegistryError::invalid("list of referrers", &name, clean(&reason))
    }

    /// The list that clients keep, and its digest; `None` where there is none.
    fn tagged_list(
        &self,
        repository: &str,
        subject: &Digest,
        cancel: &Cancel,
    ) -> Result<Option<(Index, Digest)>, RegistryError> {
        let tag = fallback_tag(subject);
        let fetched = match self.origin_manifest(repository, &tag, cancel) {
            Ok(fetched) => fetched,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let reason = match Document::parse(&fetched.bytes) {
            Ok(Document::Index(index)) => return Ok(Some((*index, fetched.digest))),
            Ok(Document::Manifest(_)) => "what is under the tag of the list is no index".to_owned(),
            Err(error) => format!("what is under the tag of the list is no index of use: {error}"),
        };
        let name = format!("{}/{repository}:{tag}", self.host());
        Err(RegistryError::invalid("list of referrers", &name, clean(&reason)))
    }
}

/// One page; `None` where the registry has no such API.
fn page(
    host: &Host,
    session: &Session,
    repository: &str,
    path: &str,
    url: Uri,
) -> Result<Option<Page>, RegistryError> {
    let scope = format!("repository:{}:pull", host.endpoint.repository(repository));
    let mut outgoing =
        Outgoing { accept: Some(INDEX), ..Outgoing::new(Method::GET, url.clone(), host.endpoint.lenient()) };
    let answer = host.exchange(session, &mut outgoing, &scope, &mut |outgoing| session.send(outgoing))?;
    match answer.status {
        200 => {}
        400 | 404 | 405 | 501 => {
            answer.drain();
            return Ok(None);
        }
        _ => {
            let call = Call { method: Method::GET, repository, path, accept: None, from: 0 };
            return Err(refusal(session, answer, |refused| host.hint(&call, refused)));
        }
    }
    let asked = answer.target.clone();
    let filtered = answer
        .header(&FILTERS_APPLIED)
        .is_some_and(|text| text.split(',').any(|filter| filter.trim().eq_ignore_ascii_case("artifactType")));
    let claimed = answer
        .header(&CONTENT_TYPE)
        .is_some_and(|text| text.split(';').next().is_some_and(|kind| kind.trim() == Family::Oci.index()));
    let mut next = None;
    for link in answer.headers.get_all(LINK) {
        // Passing over a link would give a part of the list for the whole.
        let strange =
            || RegistryError::protocol(&asked, "its next page is at no valid address of the same registry");
        let Some(link) = next_link(link.to_str().map_err(|_| strange())?) else { continue };
        next = Some(next_page(&url, link).ok_or_else(strange)?);
    }
    let bytes = answer.read_up_to(session, MANIFEST_LIMIT)?;
    match Document::parse(&bytes) {
        Ok(Document::Index(index)) => Ok(Some(Page { index: *index, size: bytes.len(), filtered, next })),
        _ if !claimed => Ok(None),
        Ok(Document::Manifest(_)) => Err(RegistryError::protocol(&asked, "it is a manifest, not a list")),
        Err(error) => Err(RegistryError::protocol(&asked, error.to_string())),
    }
}

/// Where a link leads from `page`: elsewhere on the same host. A registry behind a proxy that ends TLS may
/// write another scheme or port there; the ones it was asked at are kept.
pub(super) fn next_page(page: &Uri, link: &str) -> Option<Uri> {
    let (scheme, authority) = (page.scheme_str()?, page.authority()?);
    let next = resolve(page, link)?;
    if !next.host()?.eq_ignore_ascii_case(authority.host()) {
        return None;
    }
    format!("{scheme}://{authority}{}", next.path_and_query()?).parse().ok()
}

/// Whether an entry is of the type that is asked for.
pub(super) fn is_of(entry: &Descriptor, artifact_type: Option<&str>) -> bool {
    artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
}

/// The address of the next page: `<ADDRESS>; rel="next"` (RFC 8288).
pub(super) fn next_link(header: &str) -> Option<&str> {
    header.split(",<").flat_map(|part| part.split(", <")).find_map(|part| {
        let part = part.trim();
        let (address, parameters) = part.strip_prefix('<').unwrap_or(part).split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim().to_ascii_lowercase();
            parameter.strip_prefix("rel=").is_some_and(|rel| rel.trim_matches('"') == "next")
        });
        is_next.then_some(address)
    })
}

/// A value of a query.
pub(super) fn encoded(text: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~/".contains(&c);
    text.bytes().map(|c| if plain(c) { (c as char).to_string() } else { format!("%{c:02X}") }).collect()
}

impl Uploads<'_> {
    /// Makes sure that a manifest which is in the repository is listed among those of its subject, if it
    /// has one. `told` says that the registry answered that it does so itself (`OCI-Subject`).
    pub(super) fn list(&self, document: &Document, bytes: &[u8], told: bool) -> Result<(), RegistryError> {
        let Some(subject) = document.listed_under().filter(|_| !told) else { return Ok(()) };
        self.merge(&subject.digest, &document.listed(bytes))
    }

    /// As [`Uploads::list`], for a manifest that was there before: a push that broke off may not have
    /// come to the list.
    pub(super) fn list_present(&self, document: &Document, bytes: &[u8]) -> Result<(), RegistryError> {
        let Some(subject) = document.listed_under() else { return Ok(()) };
        let digest = &subject.digest;
        // One page says that the registry lists by itself, however long its list is.
        if self.registry.page(self.repository, digest, None, None, self.cancel)?.is_some() {
            return Ok(());
        }
        self.merge(digest, &document.listed(bytes))
    }

    /// Puts an entry into the list that clients keep. The protocol has no way to write only if nobody
    /// else did meanwhile, so the list is read again after those who read it before had time to write:
    /// until it has the entry and stays as it is. Who writes later than that may still undo it.
    fn merge(&self, subject: &Digest, entry: &Descriptor) -> Result<(), RegistryError> {
        let tag = fallback_tag(subject);
        let clock = self.registry.clock();
        let mut last = None;
        let mut lost = 0;
        for _ in 0..MOST_LOOKS {
            let begun = Instant::now();
            let list = self.registry.tagged_list(self.repository, subject, self.cancel)?;
            last = match list {
                // Nothing was written, or nobody wrote since.
                Some((index, digest)) if has(&index, entry) => {
                    if last.is_none_or(|last| last == digest) {
                        return Ok(());
                    }
                    Some(digest)
                }
                _ if lost == MOST_MERGES => break,
                list => {
                    lost += 1;
                    let mut index = list.map_or_else(|| Index::new(Vec::new()), |(index, _)| index);
                    index.manifests.push(entry.clone());
                    Some(self.write_list(&tag, index)?)
                }
            };
            // Whoever read the old list takes about as long to write as this did.
            let settle = (begun.elapsed() * 2).clamp(SETTLE.0, SETTLE.1);
            clock.sleep(settle.mul_f64(1.0 + clock.chance()), self.cancel);
            if self.cancel.is_cancelled() {
                return Err(RegistryError::Cancelled);
            }
        }
        if lost < MOST_MERGES {
            // Always there, in a list that others went on writing.
            return Ok(());
        }
        let host = self.registry.host();
        let reason = format!(
            "{host}/{}:{tag} lost the entry {} {MOST_MERGES} times: others write it all the time",
            self.repository, entry.digest
        );
        Err(RegistryError::invalid("list of referrers", &tag, reason))
    }

    /// Writes the list and gives its digest. A registry may refuse one that names what was deleted; that is then left out.
    fn write_list(&self, tag: &str, mut index: Index) -> Result<Digest, RegistryError> {
        if index.media_type.is_empty() {
            index.media_type = Family::Oci.index().to_owned();
        }
        let put = |index: &Index| {
            let invalid = |reason: String| RegistryError::invalid("list of referrers", tag, reason);
            let bytes = canonical(index).map_err(|error| invalid(error.to_string()))?;
            if bytes.len() > MANIFEST_LIMIT {
                return Err(invalid(format!("with one more it is larger than {MANIFEST_LIMIT} bytes")));
            }
            self.manifest(tag, &index.media_type, &bytes)?;
            Ok(Digest::of(&bytes))
        };
        let error = match put(&index) {
            Err(error) if matches!(error.status(), Some(400 | 404)) => error,
            result => return result,
        };
        let before = index.manifests.len();
        let mut there = Vec::new();
        for entry in index.manifests {
            if self.manifest_digest(&entry.digest.to_string())?.is_some() {
                there.push(entry);
            }
        }
        // None at all: the registry does not say what it has.
        if there.is_empty() || there.len() == before {
            return Err(error);
        }
        index.manifests = there;
        put(&index)
    }
}

fn has(index: &Index, entry: &Descriptor) -> bool {
    index.manifests.iter().any(|known| known.digest == entry.digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_link_panics_or_leads_to_another_host(header in "[<>;,= \"/:@a-z.]{0,40}|\\PC{0,40}") {
            let page = Uri::from_static("https://reg.example.test:5000/v2/a/referrers/x");
            let next = next_link(&header).and_then(|link| next_page(&page, link));
            prop_assert!(next.is_none_or(|next| next.authority() == page.authority()));
        }
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        for (header, expected) in [
            ("</v2/a/referrers/x?n=2>; rel=\"next\"", Some("/v2/a/referrers/x?n=2")),
            ("</b>; rel=prev, </a?x=1,2>; title=\"t\"; rel=next", Some("/a?x=1,2")),
            ("<https://h/a>;rel=\"NEXT\"", Some("https://h/a")),
            ("</b>; rel=\"prev\"", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }

    #[test]
    fn types_survive_a_query() {
        assert_eq!(encoded("application/a+json; v=\"1\""), "application/a%2Bjson%3B%20v%3D%221%22");
    }
}
