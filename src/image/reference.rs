//! Image names: `[domain/]path[:tag][@digest]`.
//!
//! The grammar is that of the `distribution/reference` specification, with Docker's defaults: no
//! domain means [`DEFAULT_DOMAIN`], a single path component there lies under `library/`, and no tag
//! means `latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The domain that names without one belong to.
pub const DEFAULT_DOMAIN: &str = "docker.io";

/// What a name without tag and digest means.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// How image IDs begin where they are written whole.
const ALGORITHM: &str = "sha256";
const OFFICIAL_PREFIX: &str = "library/";
const MAX_NAME_LENGTH: usize = 255;
const MAX_TAG_LENGTH: usize = 128;

/// A normalised image name: the domain is always present.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Reference {
    /// `host[:port]`.
    pub domain: String,
    /// The repository inside the domain, such as `library/alpine`.
    pub path: String,
    /// The tag, where one is given.
    pub tag: Option<String>,
    /// The digest, where one is given; it wins over the tag.
    pub digest: Option<Digest>,
}

/// Why a text is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("the image name is empty")]
    Empty,
    /// `https://host/app`.
    #[error("invalid image name {name:?}: write it without {scheme:?}")]
    Scheme {
        /// What was given.
        name: String,
        /// `https://` or the like.
        scheme: String,
    },
    /// 64 hex digits alone, which would be taken for an image ID.
    #[error("invalid image name {0:?}: 64 hex digits alone are an image ID, not a name")]
    LooksLikeId(String),
    /// The repository holds upper-case letters.
    #[error("invalid image name {name:?}: repository names are lower case, use {suggestion:?}")]
    UpperCase {
        /// What was given.
        name: String,
        /// The same in lower case.
        suggestion: String,
    },
    /// The host part is malformed.
    #[error("invalid image name {name:?}: {domain:?} is not a registry host (host[:port])")]
    Domain {
        /// What was given.
        name: String,
        /// The part that is wrong.
        domain: String,
    },
    /// A path component is malformed.
    #[error(
        "invalid image name {name:?}: {component:?} is not allowed between slashes (a-z, 0-9, and single \
         '.', '_', '__' or '-' inside)"
    )]
    Path {
        /// What was given.
        name: String,
        /// The part that is wrong.
        component: String,
    },
    /// The repository is too long.
    #[error("invalid image name {0:?}: longer than 255 characters")]
    TooLong(String),
    /// The tag is malformed.
    #[error(
        "invalid tag {tag:?} in image name {name:?}: a tag has 1 to 128 letters, digits, '_', '.' or '-' \
         and does not begin with '.' or '-'"
    )]
    Tag {
        /// What was given.
        name: String,
        /// The part that is wrong.
        tag: String,
    },
    /// The digest is malformed or of another algorithm than SHA-256.
    #[error("invalid digest {digest:?} in image name {name:?}: expected sha256:<64 lower-case hex digits>")]
    Digest {
        /// What was given.
        name: String,
        /// The part that is wrong.
        digest: String,
    },
    /// A repository called like the algorithm of a digest, which would be taken for an image ID.
    #[error("invalid image name {0:?}: sha256 is the beginning of an image ID, not the name of a repository")]
    Algorithm(String),
    /// A digest where a new name is given.
    #[error(
        "invalid image name {0:?}: the digest is known only after the build, so a name for the result \
         cannot hold one; use name:tag"
    )]
    DigestInName(String),
}

impl Reference {
    /// Parses a name as users write it and normalises it. The tag is not filled in; see
    /// [`Reference::with_default_tag`].
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let name = || text.to_owned();
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(at) = text.find("://") {
            return Err(ReferenceError::Scheme { name: name(), scheme: text[..at + 3].to_owned() });
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let parsed = Digest::parse(digest)
                    .map_err(|_| ReferenceError::Digest { name: name(), digest: digest.to_owned() })?;
                (rest, Some(parsed))
            }
        };
        let (repository, tag) = split_tag(rest);
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag { name: name(), tag: tag.to_owned() });
        }
        if Digest::from_hex(repository).is_some() {
            return Err(ReferenceError::LooksLikeId(name()));
        }
        let (domain, path) = split_domain(repository);
        check_path(text, repository.len() - path.len(), path)?;
        if !is_domain(&domain) {
            return Err(ReferenceError::Domain { name: name(), domain });
        }
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.to_owned()
        };
        if domain.len() + 1 + path.len() > MAX_NAME_LENGTH {
            return Err(ReferenceError::TooLong(name()));
        }
        Ok(Reference { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// Parses a name that a result is to get (`-t`): digests are refused, the tag defaults to
    /// [`DEFAULT_TAG`].
    pub fn parse_new_name(text: &str) -> Result<Self, ReferenceError> {
        let parsed = Self::parse(text)?;
        if parsed.digest.is_some() {
            return Err(ReferenceError::DigestInName(text.to_owned()));
        }
        if parsed.domain == DEFAULT_DOMAIN && parsed.path == format!("{OFFICIAL_PREFIX}{ALGORITHM}") {
            return Err(ReferenceError::Algorithm(text.to_owned()));
        }
        Ok(parsed.with_default_tag())
    }

    /// Adds the tag `latest` where there is neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Stands for an image that has a digest and no name.
    pub fn of_digest(digest: Digest) -> Self {
        Reference { domain: String::new(), path: String::new(), tag: None, digest: Some(digest) }
    }

    /// Whether it is one of [`Reference::of_digest`].
    pub fn stands_for_digest(&self) -> bool {
        self.path.is_empty()
    }

    /// Domain and path without tag and digest, normalised.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Domain and path as users write them: `app` for `docker.io/library/app`.
    pub fn familiar_repository(&self) -> String {
        if self.path.is_empty() {
            return "<none>".to_owned();
        }
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let short = match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(name) if !name.contains('/') => name,
            _ => self.path.as_str(),
        };
        // `docker.io/my.org/app` may not be shortened: `my.org/app` names another registry.
        match split_domain(short) {
            (domain, _) if domain == DEFAULT_DOMAIN && Digest::from_hex(short).is_none() => short.to_owned(),
            _ => self.repository(),
        }
    }

    /// The whole name as users write it: `app:1` for `docker.io/library/app:1`.
    pub fn familiar(&self) -> String {
        match self.digest {
            Some(digest) if self.path.is_empty() => digest.to_string(),
            _ => self.familiar_repository() + &self.suffix(),
        }
    }

    fn suffix(&self) -> String {
        let mut out = String::new();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
        out
    }
}

impl fmt::Display for Reference {
    /// The normalised form: `docker.io/library/app:1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Whether a text can be an image ID and nothing else: digits after `sha256:`, or 64 of them.
pub fn is_id_only(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    match text.strip_prefix(ALGORITHM).and_then(|rest| rest.strip_prefix(':')) {
        Some(digits) => is_hex(digits),
        None => text.len() == 64 && is_hex(text),
    }
}

/// Whether a text can mean an image: a name or an image ID.
pub fn check_image(text: &str) -> Result<(), ReferenceError> {
    if is_id_only(text) { Ok(()) } else { Reference::parse(text).map(drop) }
}

/// A colon begins a tag only after the last slash; before it, a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let last = text.rfind('/').map_or(0, |at| at + 1);
    match text[last..].rfind(':') {
        Some(at) => (&text[..last + at], Some(&text[last + at + 1..])),
        None => (text, None),
    }
}

/// The first component is a domain only if it cannot be a path component: it has a dot, a colon or
/// upper-case letters, or is `localhost`.
fn split_domain(repository: &str) -> (String, &str) {
    match repository.split_once('/') {
        Some((first, rest)) if looks_like_domain(first) => {
            let domain = if first == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { first };
            (domain.to_owned(), rest)
        }
        _ => (DEFAULT_DOMAIN.to_owned(), repository),
    }
}

fn looks_like_domain(first: &str) -> bool {
    first == "localhost" || first.chars().any(|c| matches!(c, '.' | ':') || c.is_ascii_uppercase())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => (address, None),
            Some((address, port)) if port.starts_with(':') => (address, Some(&port[1..])),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|c| c.is_ascii_digit())) {
        return false;
    }
    if text.starts_with('[') {
        return host.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    })
}

fn check_path(name: &str, at: usize, path: &str) -> Result<(), ReferenceError> {
    if path.bytes().any(|c| c.is_ascii_uppercase()) {
        let suggestion = format!("{}{}{}", &name[..at], path.to_ascii_lowercase(), &name[at + path.len()..]);
        return Err(ReferenceError::UpperCase { name: name.to_owned(), suggestion });
    }
    match path.split('/').find(|component| !is_path_component(component)) {
        None => Ok(()),
        Some(bad) => Err(ReferenceError::Path { name: name.to_owned(), component: bad.to_owned() }),
    }
}

/// `[a-z0-9]+` runs joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !plain(*first) || !plain(*last) {
        return false;
    }
    bytes.split(|c| plain(*c)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= MAX_TAG_LENGTH
        && bytes.first().is_some_and(|c| word(*c))
        && bytes.iter().all(|c| word(*c) || matches!(c, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    #[test]
    fn names_are_normalised_and_shown_in_their_familiar_form() {
        let at = format!("@sha256:{HEX}");
        for (given, canonical, familiar) in [
            ("app", "docker.io/library/app", "app"),
            ("app:1", "docker.io/library/app:1", "app:1"),
            ("docker.io/app:1", "docker.io/library/app:1", "app:1"),
            ("index.docker.io/library/app", "docker.io/library/app", "app"),
            ("library/app", "docker.io/library/app", "app"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("me/app:v1.0-rc_1", "docker.io/me/app:v1.0-rc_1", "me/app:v1.0-rc_1"),
            ("docker.io/my.org/app", "docker.io/my.org/app", "docker.io/my.org/app"),
            ("docker.io/localhost/app", "docker.io/localhost/app", "docker.io/localhost/app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
            ("localhost:5000/app", "localhost:5000/app", "localhost:5000/app"),
            ("r.example:5000/a/b:c", "r.example:5000/a/b:c", "r.example:5000/a/b:c"),
            ("MyHost/app", "MyHost/app", "MyHost/app"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000/app:1"),
            ("[2001:db8::1]/app", "[2001:db8::1]/app", "[2001:db8::1]/app"),
            ("a--b/c__d/e.f_g", "docker.io/a--b/c__d/e.f_g", "a--b/c__d/e.f_g"),
            (&format!("app{at}"), &format!("docker.io/library/app{at}"), &format!("app{at}")),
            (&format!("app:1{at}"), &format!("docker.io/library/app:1{at}"), &format!("app:1{at}")),
        ] {
            match Reference::parse(given) {
                Ok(parsed) => {
                    assert_eq!(parsed.to_string(), canonical, "{given}");
                    assert_eq!(parsed.familiar(), familiar, "{given}");
                    assert_eq!(Reference::parse(familiar).as_ref(), Ok(&parsed), "{given}");
                }
                Err(error) => panic!("{given}: {error}"),
            }
        }
    }

    #[test]
    fn wrong_names_are_refused_with_the_reason() {
        use ReferenceError as E;
        let long = "a".repeat(250);
        let long_tag = format!("app:{}", "t".repeat(129));
        type Expected = fn(&E) -> bool;
        let cases: [(&str, Expected); 27] = [
            ("", |e| matches!(e, E::Empty)),
            ("https://r.example/app", |e| matches!(e, E::Scheme { scheme, .. } if scheme == "https://")),
            (HEX, |e| matches!(e, E::LooksLikeId(_))),
            ("App:1", |e| matches!(e, E::UpperCase { suggestion, .. } if suggestion == "app:1")),
            (
                "r.example/A/b",
                |e| matches!(e, E::UpperCase { suggestion, .. } if suggestion == "r.example/a/b"),
            ),
            ("MyHost/App", |e| matches!(e, E::UpperCase { suggestion, .. } if suggestion == "MyHost/app")),
            ("app:", |e| matches!(e, E::Tag { .. })),
            ("app:.1", |e| matches!(e, E::Tag { .. })),
            ("app:-1", |e| matches!(e, E::Tag { .. })),
            ("app:a b", |e| matches!(e, E::Tag { .. })),
            ("app:ü", |e| matches!(e, E::Tag { .. })),
            (&long_tag, |e| matches!(e, E::Tag { .. })),
            ("app@sha256:abc", |e| matches!(e, E::Digest { .. })),
            ("app@", |e| matches!(e, E::Digest { .. })),
            ("app@sha512:00", |e| matches!(e, E::Digest { .. })),
            (&long, |e| matches!(e, E::TooLong(_))),
            ("a//b", |e| matches!(e, E::Path { component, .. } if component.is_empty())),
            ("/app", |e| matches!(e, E::Path { .. })),
            ("app/", |e| matches!(e, E::Path { .. })),
            ("a___b", |e| matches!(e, E::Path { .. })),
            ("a..b", |e| matches!(e, E::Path { .. })),
            ("-app", |e| matches!(e, E::Path { .. })),
            ("app_", |e| matches!(e, E::Path { .. })),
            ("a b", |e| matches!(e, E::Path { .. })),
            ("../app", |e| matches!(e, E::Domain { domain, .. } if domain == "..")),
            ("r.example:port/app", |e| matches!(e, E::Domain { .. })),
            ("[::g]/app", |e| matches!(e, E::Domain { .. } | E::Path { .. })),
        ];
        for (given, expected) in cases {
            match Reference::parse(given) {
                Ok(parsed) => panic!("{given:?} parsed as {parsed}"),
                Err(error) => assert!(expected(&error), "{given:?}: {error:?}"),
            }
        }
    }

    #[test]
    fn a_new_name_gets_the_default_tag_and_cannot_hold_a_digest() {
        let named = Reference::parse_new_name("app").map(|name| name.familiar());
        assert_eq!(named.as_deref(), Ok("app:latest"));
        let with_digest = format!("app@sha256:{HEX}");
        assert!(matches!(Reference::parse_new_name(&with_digest), Err(ReferenceError::DigestInName(_))));
        let pulled = Reference::parse(&with_digest).map(Reference::with_default_tag);
        assert_eq!(pulled.map(|name| name.tag), Ok(None));
    }

    proptest! {
        #[test]
        fn what_the_grammar_allows_survives_both_forms(
            domain in "docker\\.io|([a-z0-9]{1,5}(-[a-z0-9]{1,3})?\\.){1,2}[a-z]{2,3}(:[0-9]{1,5})?",
            path in prop::collection::vec("[a-z0-9]{1,4}(([._]|__|-{1,3})[a-z0-9]{1,4}){0,2}", 1..4),
            tag in prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            digest in prop::option::of(any::<[u8; 32]>()),
        ) {
            let mut text = format!("{domain}/{}", path.join("/"));
            if let Some(tag) = &tag {
                text = format!("{text}:{tag}");
            }
            if let Some(raw) = digest {
                text = format!("{text}@{}", Digest::from_raw(raw));
            }
            let parsed = Reference::parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(&parsed.tag, &tag);
            prop_assert_eq!(Reference::parse(&parsed.to_string()), Ok(parsed.clone()));
            prop_assert_eq!(Reference::parse(&parsed.familiar()), Ok(parsed));
        }

        #[test]
        fn no_text_panics_and_what_parses_survives_both_forms(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,24}|\\PC{0,16}") {
            if let Ok(parsed) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&parsed.to_string()), Ok(parsed.clone()));
                prop_assert_eq!(Reference::parse(&parsed.familiar()), Ok(parsed));
            }
        }
    }
}
