//! Policies: rules about which sources a build may read (docs/policy.md).
//!
//! A source is what BuildKit calls one: an identifier such as `docker-image://docker.io/library/alpine:3`, and
//! attributes. Policies allow, deny and convert it before anything is fetched.

pub mod json;

use std::collections::BTreeMap;
use std::path::Path;

use crate::image::Reference;
use crate::remote::{Forbidden, ForbiddenBy, GitUrl, HttpUrl};

use json::SourcePolicy;

/// Attribute of a git source: the address of the repository.
pub const GIT_URL: &str = "git.fullurl";
/// Attribute of a git source: the commit that its ref must lead to.
pub const GIT_CHECKSUM: &str = "git.checksum";
/// Attribute of a download: its checksum.
pub const HTTP_CHECKSUM: &str = "http.checksum";

const IMAGE: &str = "docker-image://";

/// A source as policies see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// What it is and where: `docker-image://`, `git://`, `http://`, `https://`, `local://`, `oci-layout://`.
    pub identifier: String,
    /// Its attributes by BuildKit's names.
    pub attrs: BTreeMap<String, String>,
}

impl Source {
    /// A source without attributes.
    pub fn new(identifier: impl Into<String>) -> Self {
        Source { identifier: identifier.into(), attrs: BTreeMap::new() }
    }

    /// An image by its name.
    pub fn image(reference: &Reference) -> Self {
        Source::new(format!("{IMAGE}{reference}"))
    }

    /// A download.
    pub fn file(url: &HttpUrl, checksum: Option<&str>) -> Self {
        let mut source = Source::new(url.to_string());
        source.attrs.extend(checksum.map(|sum| (HTTP_CHECKSUM.to_owned(), sum.to_owned())));
        source
    }

    /// A repository. The identifier is the same for every way to reach it (`llb.Git` of moby/buildkit).
    pub fn git(url: &GitUrl) -> Self {
        let mut identifier = format!("git://{}", url.place());
        let reference = url.reference.as_deref().unwrap_or_default();
        if !reference.is_empty() || url.subdir.is_some() {
            identifier.push('#');
            identifier.push_str(reference);
        }
        if let Some(subdir) = &url.subdir {
            identifier.push(':');
            identifier.push_str(subdir);
        }
        let mut source = Source::new(identifier);
        source.attrs.insert(GIT_URL.to_owned(), url.to_string());
        source.attrs.extend(url.checksum.clone().map(|sum| (GIT_CHECKSUM.to_owned(), sum)));
        if url.keep_git_dir == Some(true) {
            source.attrs.insert("git.keepgitdir".to_owned(), "true".to_owned());
        }
        if url.submodules == Some(false) {
            source.attrs.insert("git.skipsubmodules".to_owned(), "true".to_owned());
        }
        source
    }

    /// The image that it is.
    pub fn to_image(&self) -> Option<Reference> {
        let name = self.identifier.strip_prefix(IMAGE)?;
        Reference::parse(name).ok().map(Reference::with_default_tag)
    }

    /// The download that it is, and its checksum.
    pub fn to_file(&self) -> Option<(HttpUrl, Option<String>)> {
        Some((HttpUrl::parse(&self.identifier).ok()?, self.attrs.get(HTTP_CHECKSUM).cloned()))
    }

    /// The repository that it is, as far as it differs from `before`, which was `from`. Another place in the
    /// identifier is reached by https, unless the attribute with the address changed too.
    pub fn to_git(&self, before: &GitUrl, from: &Source) -> Option<GitUrl> {
        let (place, fragment) = match self.identifier.strip_prefix("git://")?.split_once('#') {
            Some((place, fragment)) => (place, fragment),
            None => (self.identifier.strip_prefix("git://")?, ""),
        };
        let moved = self.attrs.get(GIT_URL).filter(|url| from.attrs.get(GIT_URL) != Some(url));
        let address = match moved {
            Some(url) => Some(url.clone()),
            None if place != before.place() => Some(format!("https://{place}")),
            None => None,
        };
        let mut url = match address {
            Some(address) => {
                let mut there = GitUrl::parse(&address).ok()?;
                (there.times, there.submodules) = (before.times, before.submodules);
                there.keep_git_dir = before.keep_git_dir;
                there
            }
            None => before.clone(),
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (url.reference, url.subdir) = (given(reference), given(subdir));
        url.checksum = self.attrs.get(GIT_CHECKSUM).map(|sum| sum.to_lowercase());
        Some(url)
    }
}

/// The policies of a build, in the order in which they are asked.
#[derive(Default)]
pub struct Policies {
    json: Vec<SourcePolicy>,
}

/// How often a source may be converted, as in BuildKit.
pub const MOST_CONVERSIONS: usize = 20;

/// Conversions without an end.
pub fn circle(first: &str) -> Forbidden {
    let message =
        format!("source policies convert {first} more than {MOST_CONVERSIONS} times: they go in a circle");
    Forbidden::new(ForbiddenBy::Policy, message).help("have each CONVERT rule match what no other one makes")
}

impl Policies {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Reads and adds a source policy in BuildKit's JSON form.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no policy; with its place.
    pub fn add_json(&mut self, name: &str, path: &Path) -> Result<(), String> {
        self.json.push(SourcePolicy::read(name, path)?);
        Ok(())
    }

    /// Adds a policy that was read already.
    pub fn add(&mut self, policy: SourcePolicy) {
        self.json.push(policy);
    }

    /// Asks all policies about a source. `None` is one that stays as it is. Each conversion is asked about again
    /// (`sourcepolicy.Engine` of moby/buildkit).
    pub fn evaluate(&self, source: &Source) -> Result<Option<Source>, Forbidden> {
        let mut now = source.clone();
        for _ in 0..=MOST_CONVERSIONS {
            let mut converted = false;
            for policy in &self.json {
                if policy.evaluate(&mut now)? {
                    converted = true;
                    break;
                }
            }
            if !converted {
                return Ok((now != *source).then_some(now));
            }
        }
        Err(circle(&source.identifier))
    }
}
