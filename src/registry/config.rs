//! What a caller chooses, and where a host name leads.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::uri::Authority;

use super::error::RegistryError;
use super::proxy::ProxyOptions;
use super::reach::SourceNetwork;
use super::retry::RetryPolicy;

/// Image names whose registry answers at another host than the name says.
///
/// Docker's own names begin with `docker.io`, which serves web pages; the registry protocol is
/// spoken elsewhere. Every other registry is reached at the host its name gives.
pub const ENDPOINTS: &[(&str, &str)] = &[("docker.io", "registry-1.docker.io")];

/// How to reach a registry.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Accept any certificate, and plain http where https is not answered. Loopback hosts are
    /// always treated so.
    pub insecure: bool,
    /// Asked before the registry itself, in order. A mirror that cannot be reached is left alone
    /// from then on. Nothing is ever sent to one.
    pub mirrors: Vec<Location>,
    /// Where there are mirrors, nobody else is asked: what they lack is not there.
    pub mirrors_only: bool,
    /// Where the registry is, if not at the host its name gives.
    pub location: Option<Location>,
    /// Where names and passwords come from.
    pub credentials: Credentials,
    /// The repository that is going to be spoken of, where credentials may differ between parts of a
    /// registry; may be empty.
    pub repository: String,
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// Limits on waiting.
    pub timeouts: Timeouts,
    /// The proxies to go through. Loopback hosts are never reached through a proxy.
    pub proxy: Option<ProxyOptions>,
    /// Which certificate authorities are trusted.
    pub roots: Roots,
    /// Directories that may hold, for a registry, a directory `host[:port]` with certificates: Docker's and
    /// containers' `certs.d`. The first that has one counts.
    pub certificates: Vec<PathBuf>,
    /// Certificates that were given for single registries; they come before those of [`Self::certificates`].
    pub given: Vec<GivenCertificates>,
    /// What another tool makes of this name, for the hint when the registry does not have it.
    pub alias: Option<String>,
    /// How often and how patiently to try again.
    pub retry: RetryPolicy,
    /// Which addresses may be asked.
    pub network: SourceNetwork,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            insecure: false,
            mirrors: Vec::new(),
            mirrors_only: false,
            location: None,
            credentials: Credentials::None,
            repository: String::new(),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeouts: Timeouts::default(),
            proxy: None,
            roots: Roots::default(),
            certificates: Vec::new(),
            given: Vec::new(),
            alias: None,
            retry: RetryPolicy::default(),
            network: SourceNetwork::default(),
        }
    }
}

/// A place that speaks the registry protocol, and how to speak to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// `host[:port][/prefix]`, optionally preceded by `https://` or `http://`. The prefix comes before
    /// the names of repositories.
    pub address: String,
    /// What repository names begin with elsewhere and not here, without slashes at its ends: the
    /// prefix takes its place.
    pub strip: String,
    /// Accept any certificate, and plain http where https is not answered.
    pub insecure: bool,
    /// Speak plain http only.
    pub http: bool,
    /// A PEM file with certificate authorities trusted besides the others.
    pub ca: Option<PathBuf>,
    /// Ask only by digest, never for what a tag means.
    pub digest_only: bool,
    /// Ask only for what a tag means, never by digest.
    pub tag_only: bool,
}

impl From<&str> for Location {
    fn from(address: &str) -> Self {
        Location { address: address.to_owned(), ..Location::default() }
    }
}

impl From<String> for Location {
    fn from(address: String) -> Self {
        Location { address, ..Location::default() }
    }
}

/// Certificates for one registry or mirror, as PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenCertificates {
    /// `host[:port]`, as names and mirrors have it.
    pub host: String,
    /// An authority trusted besides the others.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Text that is left out of debug output.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Where credentials come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nowhere: only what the registry gives to everybody.
    #[default]
    None,
    /// The `config.json` in this directory, with the credential helpers it names.
    DockerConfig(PathBuf),
    /// The first of these that has some.
    Sources(Vec<CredentialSource>),
    /// These.
    Given {
        /// Name.
        user: String,
        /// Password or token.
        password: Secret,
    },
}

/// One place with credentials, in the form of Docker's `config.json` or containers' `auth.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A file; it need not exist.
    File(PathBuf),
    /// Text.
    Text {
        /// Where the text is from, for messages.
        name: String,
        /// JSON.
        json: Secret,
    },
}

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// The bundle of the system, where one lies at a usual place, else the one compiled in.
    #[default]
    System,
    /// What the variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name, as programs in Go take them: the file
    /// instead of the system's bundle, the directories besides. With the file alone, the system's bundle
    /// stands for the usual directories. What does not exist adds nothing.
    Variables {
        /// A PEM file.
        file: Option<PathBuf>,
        /// Directories with PEM files.
        dirs: Vec<PathBuf>,
    },
    /// The bundle compiled in (Mozilla's).
    Bundled,
    /// The certificates of a PEM file and no others.
    File(PathBuf),
    /// Those and the certificates of PEM files.
    And(Box<Roots>, Vec<PathBuf>),
}

/// Limits on waiting. None of them bounds a whole transfer, so that slow links work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Looking up a host name.
    pub resolve: Duration,
    /// Connecting, with the TLS handshake.
    pub connect: Duration,
    /// From the end of a request to the end of the answer's headers.
    pub response: Duration,
    /// Silence in the middle of an answer.
    pub idle: Duration,
    /// From the last byte of an upload to the answer: registries copy and digest large blobs then.
    pub commit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            resolve: Duration::from_secs(15),
            connect: Duration::from_secs(20),
            response: Duration::from_secs(90),
            idle: Duration::from_secs(60),
            commit: Duration::from_secs(3600),
        }
    }
}

/// How to find out whether an endpoint speaks https.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SchemePolicy {
    /// https with a verified certificate.
    Https,
    /// http, because the caller wrote so.
    Http,
    /// https without a look at the certificate, else http.
    Either,
}

/// One place to ask: the registry itself or a mirror.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    /// As the user wrote it; credentials are looked up by it.
    pub(super) name: String,
    /// `host[:port]` to connect to.
    pub(super) authority: String,
    /// Path in front of `/v2/...` names: empty, or `prefix/`.
    pub(super) prefix: String,
    /// What the prefix replaces: empty, or `something/`.
    pub(super) strip: String,
    pub(super) policy: SchemePolicy,
    /// More certificate authorities.
    pub(super) ca: Option<PathBuf>,
    /// Whether anything else than verified https is spoken only because it is this machine.
    pub(super) nearby: bool,
    /// Not to be asked about tags.
    pub(super) digest_only: bool,
    /// Not to be asked by digest.
    pub(super) tag_only: bool,
}

impl Endpoint {
    /// The endpoint of a registry named in an image reference.
    pub(super) fn registry(host: &str, insecure: bool) -> Result<Self, RegistryError> {
        let target = ENDPOINTS.iter().find(|(name, _)| *name == host).map_or(host, |(_, at)| at);
        let bare = check_authority(target, host)?;
        let policy = if insecure || is_loopback(&bare) { SchemePolicy::Either } else { SchemePolicy::Https };
        Ok(Endpoint {
            name: host.to_owned(),
            authority: target.to_owned(),
            prefix: String::new(),
            strip: String::new(),
            policy,
            ca: None,
            nearby: !insecure && policy == SchemePolicy::Either,
            digest_only: false,
            tag_only: false,
        })
    }

    /// The endpoint of a mirror, or of a registry that is elsewhere than its name says.
    pub(super) fn at(location: &Location) -> Result<Self, RegistryError> {
        let text = location.address.as_str();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = ENDPOINTS.iter().find(|(name, _)| *name == host).map_or(host, |(_, at)| at);
        let bare = check_authority(authority, text)?;
        let policy = match scheme {
            _ if location.http => SchemePolicy::Http,
            Some("http") => SchemePolicy::Http,
            _ if location.insecure => SchemePolicy::Either,
            Some("https") => SchemePolicy::Https,
            // Whoever names an authority wants the certificate looked at, even on loopback.
            None if is_loopback(&bare) && location.ca.is_none() => SchemePolicy::Either,
            None => SchemePolicy::Https,
            Some(other) => {
                let reason = format!("{other}:// is not http or https");
                return Err(RegistryError::invalid("registry address", text, reason));
            }
        };
        let folder = |path: &str| {
            let path = path.trim_matches('/');
            if path.is_empty() {
                return Ok(String::new());
            }
            super::pull::check_repository(path)?;
            Ok::<_, RegistryError>(format!("{path}/"))
        };
        Ok(Endpoint {
            name: host.to_owned(),
            authority: authority.to_owned(),
            prefix: folder(path)?,
            strip: folder(&location.strip)?,
            policy,
            ca: location.ca.clone(),
            nearby: scheme.is_none() && !location.insecure && policy == SchemePolicy::Either,
            digest_only: location.digest_only,
            tag_only: location.tag_only,
        })
    }

    /// What a repository is called here.
    pub(super) fn repository(&self, name: &str) -> String {
        format!("{}{}", self.prefix, name.strip_prefix(&self.strip).unwrap_or(name))
    }

    /// The host alone, without its port.
    pub(super) fn host(&self) -> &str {
        match self.authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|c| c.is_ascii_digit()) => host,
            _ => &self.authority,
        }
    }

    /// Whether something else than verified https may be spoken here.
    pub(super) fn lenient(&self) -> bool {
        self.policy != SchemePolicy::Https
    }
}

/// Checks `host[:port]` and gives the host alone, without the brackets of an IPv6 address.
fn check_authority(authority: &str, written: &str) -> Result<String, RegistryError> {
    let invalid = |reason: &str| RegistryError::invalid("registry host", written, reason);
    let plain = |c: u8| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c);
    if authority.is_empty() || !authority.bytes().all(plain) {
        return Err(invalid("expected host or host:port"));
    }
    let parsed: Authority = authority.parse().map_err(|_| invalid("expected host or host:port"))?;
    let host = parsed.host();
    let port = authority.get(host.len()..).unwrap_or_default();
    if host.is_empty() || (!port.is_empty() && parsed.port_u16().is_none_or(|port| port == 0)) {
        return Err(invalid("the port is not a number from 1 to 65535"));
    }
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// Whether a host (without port and brackets) is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_insecure_and_others_are_not() {
        for (host, policy) in [
            ("localhost", SchemePolicy::Either),
            ("localhost:5000", SchemePolicy::Either),
            ("127.0.0.1:5000", SchemePolicy::Either),
            ("127.9.9.9", SchemePolicy::Either),
            ("[::1]:5000", SchemePolicy::Either),
            ("128.0.0.1", SchemePolicy::Https),
            ("localhost.example.test", SchemePolicy::Https),
            ("127.0.0.1.example.test", SchemePolicy::Https),
            ("registry.example.test:5000", SchemePolicy::Https),
        ] {
            assert_eq!(Endpoint::registry(host, false).map(|e| e.policy).ok(), Some(policy), "{host}");
        }
        let told = Endpoint::registry("registry.example.test", true).map(|e| e.policy);
        assert_eq!(told.ok(), Some(SchemePolicy::Either));
    }

    #[test]
    fn hosts_that_could_smuggle_something_are_refused() {
        for host in [
            "",
            "a/b",
            "user@example.test",
            "a b",
            "example.test:",
            "example.test:x",
            "example.test:99999",
            "?",
        ] {
            assert!(matches!(Endpoint::registry(host, false), Err(RegistryError::Invalid { .. })), "{host}");
        }
    }

    #[test]
    fn mirrors_may_have_a_scheme_and_a_prefix() {
        let parse = |text: &str| Endpoint::at(&text.into()).map(|e| (e.authority, e.prefix, e.policy)).ok();
        let at =
            |authority: &str, prefix: &str, policy| Some((authority.to_owned(), prefix.to_owned(), policy));
        assert_eq!(parse("m.example.test"), at("m.example.test", "", SchemePolicy::Https));
        assert_eq!(parse("https://m.example.test/hub/"), at("m.example.test", "hub/", SchemePolicy::Https));
        assert_eq!(parse("http://m.example.test:81"), at("m.example.test:81", "", SchemePolicy::Http));
        assert_eq!(parse("127.0.0.1:5000"), at("127.0.0.1:5000", "", SchemePolicy::Either));
        assert_eq!(parse("ftp://m.example.test"), None);
        assert_eq!(parse("m.example.test/../x"), None);
        let moved = Location { strip: "team/a".into(), ..Location::from("m.example.test/cache") };
        let renamed = Endpoint::at(&moved).map(|e| (e.repository("team/a/app"), e.repository("b")));
        assert_eq!(renamed.ok(), Some(("cache/app".to_owned(), "cache/b".to_owned())));
    }

    #[test]
    fn docker_names_lead_to_their_registry_and_keep_their_name_for_credentials() {
        let endpoint = Endpoint::registry("docker.io", false).ok();
        let (name, at) = ENDPOINTS[0];
        assert_eq!(endpoint.map(|e| (e.name, e.authority)), Some((name.to_owned(), at.to_owned())));
    }
}
