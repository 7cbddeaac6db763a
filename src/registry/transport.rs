//! Requests to one endpoint: redirects, bodies, answers, and cutting them off on cancellation.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use ureq::http::uri::Scheme;
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, AsSendBody, Body, BodyReader, SendBody};

use crate::cancel::Cancel;

use super::config::RegistryOptions;
use super::error::{RegistryError, Target, Unreachable, clean};
use super::fault::classify;
use super::pools::{Agents, Settings};
use super::proxy::Proxies;
use super::roots::Trust;
use super::watch::Watch;

/// A redirect more than this is a loop.
const MOST_REDIRECTS: usize = 10;

/// Reading the rest of an unwanted answer keeps its connection usable; beyond this it is cheaper to
/// open another.
const DRAIN_LIMIT: u64 = 32 << 10;

/// The connections of one endpoint.
pub(crate) struct Transport {
    settings: Arc<Settings>,
    current: Mutex<Arc<Agents>>,
}

impl Transport {
    /// `home` is the `host[:port]` that all requests begin at, where there is one.
    pub(crate) fn new(
        options: &RegistryOptions,
        trust: Trust,
        home: Option<&str>,
    ) -> Result<Self, RegistryError> {
        HeaderValue::from_str(&options.user_agent)
            .map_err(|_| RegistryError::invalid("user agent", &options.user_agent, "not a header value"))?;
        let settings = Arc::new(Settings {
            user_agent: options.user_agent.clone(),
            timeouts: options.timeouts.clone(),
            proxies: options.proxy.as_ref().map(Proxies::new).unwrap_or_default(),
            trust,
            network: options.network,
            home: home.map(str::to_ascii_lowercase),
            seen: Arc::default(),
        });
        let current = Mutex::new(Arc::new(Agents::new(&settings)));
        Ok(Transport { settings, current })
    }

    /// Begins an attempt, whose connections are cut when `cancel` is switched.
    pub(crate) fn session(&self, cancel: &Cancel) -> Session {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_closed() {
            *current = Arc::new(Agents::new(&self.settings));
        }
        let agents = current.clone();
        drop(current);
        let watch = Watch::new(cancel.clone(), agents.clone());
        Session { agents, cancel: cancel.clone(), _watch: watch }
    }
}

/// One attempt: its requests share connections and end together when it is cancelled.
pub(crate) struct Session {
    agents: Arc<Agents>,
    cancel: Cancel,
    _watch: Option<Watch>,
}

/// A request about to be sent.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) url: Uri,
    pub(crate) accept: Option<HeaderValue>,
    /// Sent to the host of `url` only, wherever it redirects.
    pub(crate) authorization: Option<HeaderValue>,
    /// A form, for token services.
    pub(crate) form: Option<String>,
    /// Whether a redirect may lead from https to http.
    pub(crate) lenient: bool,
    /// Whether the answer may take as long as a registry takes to finish a blob.
    pub(crate) patient: bool,
    /// More headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Outgoing {
    /// A request without credentials and body.
    pub(crate) fn new(method: Method, url: Uri, lenient: bool) -> Self {
        let patient = method == Method::PUT;
        Outgoing {
            method,
            url,
            accept: None,
            authorization: None,
            form: None,
            lenient,
            patient,
            headers: Vec::new(),
        }
    }
}

/// What an upload sends.
pub(crate) enum Payload<'a> {
    /// Bytes at hand; none is a body of length 0.
    Bytes(&'a [u8]),
    /// A reader, which must give exactly `length` bytes or fail.
    Stream { length: u64, reader: &'a mut dyn Read },
}

/// An answer whose body has not been read.
pub(crate) struct Incoming {
    pub(crate) target: Target,
    pub(crate) status: u16,
    pub(super) headers: HeaderMap,
    /// Whether the host asked is the one that answered.
    pub(super) same_origin: bool,
    body: Body,
}

impl Session {
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Sends a request and follows where it leads. Any status is an answer.
    pub(crate) fn send(&self, outgoing: &Outgoing) -> Result<Incoming, RegistryError> {
        let mut url = outgoing.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let incoming = self.send_once(outgoing, &url, None)?;
            let followed = matches!(incoming.status, 301 | 302 | 303 | 307 | 308) && outgoing.form.is_none();
            let location = incoming.header(&LOCATION).filter(|_| followed).map(str::to_owned);
            let Some(location) = location else { return Ok(incoming) };
            let next = resolve(&url, &location).ok_or_else(|| {
                RegistryError::protocol(&incoming.target, "it redirects to no valid address")
            })?;
            if url.scheme() == Some(&Scheme::HTTPS)
                && next.scheme() == Some(&Scheme::HTTP)
                && !outgoing.lenient
            {
                let reason = "it redirects from https to plain http; if that is intended, pass --insecure-registry for this host";
                return Err(RegistryError::protocol(&incoming.target, reason));
            }
            incoming.drain();
            url = next;
        }
        Err(RegistryError::protocol(&target(&outgoing.method, &outgoing.url), "it redirects in circles"))
    }

    /// Sends a request and gives the first answer, even if it leads elsewhere.
    pub(crate) fn send_unredirected(&self, outgoing: &Outgoing) -> Result<Incoming, RegistryError> {
        self.send_once(outgoing, &outgoing.url, None)
    }

    /// Sends a request with a body and gives the first answer, even if it leads elsewhere.
    pub(crate) fn send_payload(
        &self,
        outgoing: &Outgoing,
        payload: Payload<'_>,
    ) -> Result<Incoming, RegistryError> {
        self.send_once(outgoing, &outgoing.url, Some(payload))
    }

    fn send_once(
        &self,
        outgoing: &Outgoing,
        url: &Uri,
        payload: Option<Payload<'_>>,
    ) -> Result<Incoming, RegistryError> {
        if self.cancel.is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        let target = target(&outgoing.method, url);
        let led = self.agents.is_led(&outgoing.url, url);
        self.agents.check(&target, url, led)?;
        let same_origin = same_origin(url, &outgoing.url);
        let mut request = Request::builder().method(outgoing.method.clone()).uri(url.clone());
        if let Some(accept) = &outgoing.accept {
            request = request.header(ureq::http::header::ACCEPT, accept);
        }
        if let Some(authorization) = outgoing.authorization.as_ref().filter(|_| same_origin) {
            request = request.header(AUTHORIZATION, authorization);
        }
        if outgoing.form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        for (name, value) in &outgoing.headers {
            request = request.header(name, value);
        }
        // Another caller's cancellation may have closed the connections that this session shares.
        let Some(agent) = self.agents.get(url, led)? else {
            let closed = std::io::Error::from(std::io::ErrorKind::NotConnected);
            return Err(self.failure(&target, closed.into()));
        };
        let broken = |error: ureq::http::Error| RegistryError::protocol(&target, error.to_string());
        let commit = outgoing.patient.then_some(self.agents.settings.timeouts.commit);
        let answer = match (payload, &outgoing.form) {
            (Some(Payload::Bytes(bytes)), _) => run(&agent, request.body(bytes).map_err(broken)?, commit),
            (Some(Payload::Stream { length, reader }), _) => {
                let body = SendBody::from_reader(reader);
                run(&agent, request.header(CONTENT_LENGTH, length).body(body).map_err(broken)?, commit)
            }
            (None, Some(form)) => run(&agent, request.body(form.as_str()).map_err(broken)?, commit),
            (None, None) => run(&agent, request.body(()).map_err(broken)?, commit),
        };
        let answer = answer.map_err(|error| self.failure(&target, error))?;
        let (parts, body) = answer.into_parts();
        Ok(Incoming { target, status: parts.status.as_u16(), headers: parts.headers, same_origin, body })
    }

    /// A failure of the network in our words; `Cancelled` where we caused it.
    pub(crate) fn failure(&self, target: &Target, error: ureq::Error) -> RegistryError {
        if self.cancel.is_cancelled() {
            return RegistryError::Cancelled;
        }
        match error {
            ureq::Error::Protocol(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
                RegistryError::protocol(target, clean(&error.to_string()))
            }
            error => {
                let (fault, detail) = classify(&error);
                let detail = clean(&detail);
                RegistryError::Unreachable(Box::new(Unreachable { target: target.clone(), fault, detail }))
            }
        }
    }
}

/// Sends a request; with `commit`, the answer may take that long.
fn run<S: AsSendBody>(
    agent: &Agent,
    request: Request<S>,
    commit: Option<Duration>,
) -> Result<Response<Body>, ureq::Error> {
    match commit {
        None => agent.run(request),
        Some(_) => {
            let patient = agent.configure_request(request);
            agent.run(patient.timeout_recv_response(commit).timeout_per_read(commit).build())
        }
    }
}

impl Incoming {
    /// A header, where it is there and text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The announced length of the body.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(&ureq::http::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// Reads the body up to `limit` bytes; one more byte is read to tell a longer one.
    pub(crate) fn read_up_to(self, session: &Session, limit: usize) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let read = self.body.into_reader().take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| session.failure(&self.target, error.into()))?;
        // A connection we cut ourselves may look like the end of the body.
        if session.cancel.is_cancelled() {
            return Err(RegistryError::Cancelled);
        }
        Ok(bytes)
    }

    pub(crate) fn into_reader(self) -> BodyReader<'static> {
        self.body.into_reader()
    }

    /// Reads and forgets a short body, so that the connection can be used again.
    pub(crate) fn drain(self) {
        let _ = std::io::copy(&mut self.body.into_reader().take(DRAIN_LIMIT), &mut std::io::sink());
    }
}

/// A request as it may be shown.
pub(super) fn target(method: &Method, url: &Uri) -> Target {
    let scheme = url.scheme_str().unwrap_or("http");
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    Target { method: method.as_str().to_owned(), url: format!("{scheme}://{host}{}", url.path()) }
}

/// Whether two addresses belong to the same server: scheme, host and port.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        (tls, uri.host().map(str::to_ascii_lowercase), port)
    };
    origin(a) == origin(b)
}

/// Where a `Location` leads from `base`; `None` for anything but http and https.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?.trim();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else if location.is_empty() || location.split(['/', '?']).next()?.contains(':') {
        return None;
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = text.parse().ok()?;
    // Names and passwords in addresses are an old way to disguise a host.
    (uri.host().is_some_and(|host| !host.is_empty()) && !uri.authority()?.as_str().contains('@'))
        .then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_resolve_and_strange_ones_do_not() {
        let base: Uri = "https://reg.example.test:5000/v2/a/blobs/x?q=1".parse().unwrap_or_default();
        for (location, expected) in [
            ("https://cdn.example.test/b?sig=1#f", Some("https://cdn.example.test/b?sig=1")),
            ("//cdn.example.test/b", Some("https://cdn.example.test/b")),
            ("/b", Some("https://reg.example.test:5000/b")),
            ("b", Some("https://reg.example.test:5000/v2/a/blobs/b")),
            ("?n=2", Some("https://reg.example.test:5000/v2/a/blobs/x?n=2")),
            ("", None),
            ("ftp://cdn.example.test/", None),
            ("file:///etc/passwd", None),
            ("javascript:x", None),
            ("https:///b", None),
            ("https://reg.example.test:5000@evil.example.test/", None),
        ] {
            assert_eq!(
                resolve(&base, location).map(|uri| uri.to_string()).as_deref(),
                expected,
                "{location}"
            );
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| match (a.parse(), b.parse()) {
            (Ok(a), Ok(b)) => same_origin(&a, &b),
            _ => false,
        };
        assert!(same("https://example.test/a", "https://EXAMPLE.test:443/b"));
        assert!(!same("https://example.test/", "http://example.test/"));
        assert!(!same("https://example.test/", "https://example.test:444/"));
        assert!(!same("https://example.test/", "https://sub.example.test/"));
    }

    #[test]
    fn shown_requests_hide_queries_and_passwords() {
        let url: Uri =
            "https://user:hunter2@cdn.example.test:1/b?X-Signature=hunter2".parse().unwrap_or_default();
        assert_eq!(target(&Method::GET, &url).to_string(), "GET https://cdn.example.test:1/b");
    }
}
