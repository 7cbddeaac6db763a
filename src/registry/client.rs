//! A registry and its mirrors: choosing the scheme, signing in, asking, and understanding refusals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ureq::http::header::{HeaderValue, RANGE, RETRY_AFTER};
use ureq::http::{Method, Uri};

use crate::cancel::Cancel;

use super::auth::Auth;
use super::config::{Endpoint, Location, RegistryOptions, Roots, SchemePolicy};
use super::error::{Refusal, RegistryError, Rejected, read_error_body};
use super::retry::{Clock, RetryPolicy, SystemClock, parse_retry_after};
use super::roots::{HostCertificates, Trust};
use super::transport::{Incoming, Outgoing, Session, Transport};

/// Explanations are short; what is longer is a web page.
const ERROR_BODY_LIMIT: usize = 64 << 10;

/// Attempts at a mirror: the registry itself is there to fall back on.
const MIRROR_ATTEMPTS: u32 = 2;

/// One registry, with the mirrors asked before it.
///
/// Clones share connections, tokens and what was learned about the endpoints. All methods may be
/// called from several threads at once; each call uses a connection of its own while it lasts.
/// Switching the `Cancel` of one call cuts the connections of concurrent calls too, which then try
/// again unless they were cancelled themselves.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    name: String,
    mirrors: Vec<Host>,
    /// What they lack is not asked for elsewhere.
    mirrors_only: bool,
    origin: Host,
    retry: RetryPolicy,
    clock: Arc<dyn Clock>,
}

/// One endpoint and everything known about it.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    transport: Transport,
    pub(super) auth: Auth,
    /// `Some(true)` once the endpoint is known to speak https.
    tls: Mutex<Option<bool>>,
    /// A mirror that could not be reached.
    down: AtomicBool,
    /// As in the options.
    alias: Option<String>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.0.name).finish()
    }
}

impl Registry {
    /// A client for the registry `host` (`host[:port]`, as image names begin). Connects to nothing
    /// yet. Fails on options that cannot be used.
    pub fn new(host: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        Self::with_clock(host, options, Arc::new(SystemClock))
    }

    pub(super) fn with_clock(
        host: &str,
        options: &RegistryOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RegistryError> {
        let mirror = |mirror: &Location| Host::new(Endpoint::at(mirror)?, options);
        let origin = match &options.location {
            Some(location) => Endpoint::at(location)?,
            None => Endpoint::registry(host, options.insecure)?,
        };
        Ok(Registry(Arc::new(Inner {
            name: host.to_owned(),
            mirrors: options.mirrors.iter().map(mirror).collect::<Result<_, _>>()?,
            mirrors_only: options.mirrors_only && !options.mirrors.is_empty(),
            origin: Host::new(origin, options)?,
            retry: options.retry.clone(),
            clock,
        })))
    }

    /// The host as it was given.
    pub fn host(&self) -> &str {
        &self.0.name
    }

    /// What tells the time.
    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// Runs an operation against the registry itself, never a mirror, with retries. `progressed`
    /// says, after a failed attempt, whether it came further than those before: then the count of
    /// attempts begins anew.
    pub(super) fn write<T>(
        &self,
        cancel: &Cancel,
        progressed: &dyn Fn() -> bool,
        mut attempt: impl FnMut(&Host, Session) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let Inner { origin, retry, clock, .. } = &*self.0;
        retry.run_on(&**clock, cancel, progressed, || attempt(origin, origin.session(cancel)))
    }

    /// Runs an operation against the registry itself once.
    pub(super) fn once<T>(
        &self,
        cancel: &Cancel,
        attempt: impl FnOnce(&Host, Session) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let origin = &self.0.origin;
        attempt(origin, origin.session(cancel))
    }

    /// Runs a reading operation against the mirrors and then the registry, each with retries. Each
    /// attempt gets a session of its own, and may keep it. `by_digest` tells reading by digest from
    /// reading by tag, which some mirrors are not trusted with.
    pub(super) fn read<T>(
        &self,
        by_digest: bool,
        cancel: &Cancel,
        attempt: impl Fn(&Host, Session) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let inner = &*self.0;
        let run = |host: &Host, policy: &RetryPolicy| {
            policy.run(&*inner.clock, cancel, || attempt(host, host.session(cancel)))
        };
        let at_mirror =
            RetryPolicy { attempts: inner.retry.attempts.min(MIRROR_ATTEMPTS), ..inner.retry.clone() };
        let mut refused = None;
        for mirror in &inner.mirrors {
            let left = if by_digest { mirror.endpoint.tag_only } else { mirror.endpoint.digest_only };
            let down = mirror.down.load(Ordering::Relaxed) && !inner.mirrors_only;
            if down || left {
                continue;
            }
            match run(mirror, &at_mirror) {
                Ok(value) => return Ok(value),
                // Trouble on our side is no better at the next host.
                Err(
                    error
                    @ (RegistryError::Cancelled | RegistryError::Store(_) | RegistryError::Write { .. }),
                ) => {
                    return Err(error);
                }
                Err(error) => {
                    if error.is_connection_failure() {
                        mirror.down.store(true, Ordering::Relaxed);
                    }
                    refused = Some(error);
                }
            }
        }
        if let Some(error) = refused.filter(|_| inner.mirrors_only) {
            return Err(error);
        }
        run(&inner.origin, &inner.retry)
    }
}

/// A request for something of a repository.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// The repository, without the endpoint's prefix.
    pub(super) repository: &'a str,
    /// Below the repository: `manifests/latest`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'static str>,
    /// Only the bytes from here on, where not 0; a registry may send all the same.
    pub(super) from: u64,
}

impl Host {
    pub(super) fn new(mut endpoint: Endpoint, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let mut own = HostCertificates::find(&options.certificates, [&endpoint.name, &endpoint.authority])?;
        own.add(&options.given, [&endpoint.name, &endpoint.authority]);
        if endpoint.nearby && !own.authorities.is_empty() {
            // Whoever names an authority wants the certificate looked at.
            endpoint.policy = SchemePolicy::Https;
        }
        own.authorities.extend(endpoint.ca.clone());
        let known = match endpoint.policy {
            SchemePolicy::Https => Some(true),
            SchemePolicy::Http => Some(false),
            SchemePolicy::Either => None,
        };
        let roots = match own.authorities.is_empty() {
            false => Roots::And(options.roots.clone().into(), own.authorities),
            true => options.roots.clone(),
        };
        let trust = Trust { roots, verify: !endpoint.lenient(), identity: own.identity };
        Ok(Host {
            transport: Transport::new(options, trust, Some(&endpoint.authority))?,
            alias: options.alias.clone(),
            auth: Auth::new(&options.credentials, &endpoint, &options.repository),
            tls: Mutex::new(known),
            down: AtomicBool::new(false),
            endpoint,
        })
    }

    /// Begins an attempt.
    pub(super) fn session(&self, cancel: &Cancel) -> Session {
        self.transport.session(cancel)
    }

    /// Asks, signs in if told to, and gives the answer if it is a success.
    pub(super) fn call(&self, session: &Session, call: &Call<'_>) -> Result<Incoming, RegistryError> {
        let repository = self.endpoint.repository(call.repository);
        let scope = format!("repository:{repository}:pull");
        self.call_with(session, call, &scope)
    }

    /// As [`Host::call`], with the token scope given.
    pub(super) fn call_with(
        &self,
        session: &Session,
        call: &Call<'_>,
        scope: &str,
    ) -> Result<Incoming, RegistryError> {
        let url =
            self.url(session, &format!("{}/{}", self.endpoint.repository(call.repository), call.path))?;
        let mut outgoing = Outgoing {
            accept: call.accept.map(HeaderValue::from_static),
            ..Outgoing::new(call.method.clone(), url, self.endpoint.lenient())
        };
        if call.from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", call.from));
            outgoing.headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let incoming =
            self.exchange(session, &mut outgoing, scope, &mut |outgoing| session.send(outgoing))?;
        if (200..300).contains(&incoming.status) {
            return Ok(incoming);
        }
        Err(refusal(session, incoming, |refused| self.hint(call, refused)))
    }

    /// Sends a request to the registry, signing in if told to. `send` may be called twice.
    pub(super) fn exchange(
        &self,
        session: &Session,
        outgoing: &mut Outgoing,
        scope: &str,
        send: &mut dyn FnMut(&Outgoing) -> Result<Incoming, RegistryError>,
    ) -> Result<Incoming, RegistryError> {
        outgoing.authorization = self.auth.header(session, scope)?;
        let incoming = send(outgoing)?;
        // A 401 of a host we were redirected to is not about our credentials.
        if incoming.status != 401 || !incoming.same_origin {
            return Ok(incoming);
        }
        let better = self.auth.answer(session, &incoming, scope, outgoing.authorization.as_ref())?;
        if better.is_none() {
            return Ok(incoming);
        }
        incoming.drain();
        outgoing.authorization = better;
        send(outgoing)
    }

    /// Asks for `/v2/`, signing in if told to. Fails where the credentials are not accepted.
    pub(super) fn sign_in(&self, session: &Session) -> Result<(), RegistryError> {
        let url = self.url(session, "")?;
        let mut outgoing = Outgoing::new(Method::GET, url, self.endpoint.lenient());
        let incoming = self.exchange(session, &mut outgoing, "", &mut |outgoing| session.send(outgoing))?;
        if incoming.status == 200 {
            incoming.drain();
            return Ok(());
        }
        Err(refusal(session, incoming, |refused| match refused {
            Refusal::Unauthorized | Refusal::Denied => Some(self.auth.describe()),
            Refusal::NotFound => Some(format!("is {} a registry?", self.endpoint.name)),
            _ => None,
        }))
    }

    pub(super) fn hint(&self, call: &Call<'_>, refused: Refusal) -> Option<String> {
        let alias = self.alias.as_deref().filter(|_| call.path.starts_with("manifests/"));
        let hint = self.hint_about(call, refused);
        match alias.filter(|_| matches!(refused, Refusal::NotFound | Refusal::Unauthorized | Refusal::Denied))
        {
            Some(alias) => hint.map(|hint| format!("{hint}; {alias}")),
            None => hint,
        }
    }

    fn hint_about(&self, call: &Call<'_>, refused: Refusal) -> Option<String> {
        let name = &self.endpoint.name;
        match refused {
            Refusal::NotFound => match call.path.split_once('/') {
                Some(("manifests", reference)) => Some(format!(
                    "{name} has no {reference} of {}; check the name and the tag",
                    call.repository
                )),
                _ => None,
            },
            Refusal::Unauthorized | Refusal::Denied => Some(format!(
                "the repository {} may not exist, or needs a sign-in: {}",
                call.repository,
                self.auth.describe()
            )),
            Refusal::RateLimited => Some("wait a while, or sign in for a higher limit".to_owned()),
            Refusal::Unavailable | Refusal::Other => None,
        }
    }

    /// The address of something below `/v2/`.
    pub(super) fn url(&self, session: &Session, path: &str) -> Result<Uri, RegistryError> {
        let scheme = if self.speaks_tls(session)? { "https" } else { "http" };
        let text = format!("{scheme}://{}/v2/{path}", self.endpoint.authority);
        text.parse().map_err(|_| RegistryError::invalid("registry address", &text, "it is no valid URL"))
    }

    /// Finds out once whether an insecure registry speaks https. Whatever answers https at all, with
    /// any status, does; only then is http tried. Nothing secret is sent.
    fn speaks_tls(&self, session: &Session) -> Result<bool, RegistryError> {
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = *known {
            return Ok(tls);
        }
        let Err(over_tls) = self.ping(session, "https") else {
            *known = Some(true);
            return Ok(true);
        };
        if over_tls.is_cancelled() {
            return Err(over_tls);
        }
        self.ping(session, "http")?;
        *known = Some(false);
        Ok(false)
    }

    fn ping(&self, session: &Session, scheme: &str) -> Result<(), RegistryError> {
        let text = format!("{scheme}://{}/v2/", self.endpoint.authority);
        let url = text
            .parse()
            .map_err(|_| RegistryError::invalid("registry address", &text, "it is no valid URL"))?;
        let outgoing = Outgoing::new(Method::GET, url, true);
        session.send_unredirected(&outgoing)?.drain();
        Ok(())
    }
}

/// Turns an answer that is no success into an error with the registry's own words.
pub(crate) fn refusal(
    session: &Session,
    incoming: Incoming,
    hint: impl FnOnce(Refusal) -> Option<String>,
) -> RegistryError {
    let (target, status) = (incoming.target.clone(), incoming.status);
    let now = SystemTime::now();
    let retry_after = incoming.header(&RETRY_AFTER).and_then(|value| parse_retry_after(value, now));
    let body = match incoming.read_up_to(session, ERROR_BODY_LIMIT) {
        Ok(body) => body,
        Err(RegistryError::Cancelled) => return RegistryError::Cancelled,
        Err(_) => Vec::new(),
    };
    let (code, message) = read_error_body(&body);
    let hint = hint(Refusal::of(status));
    RegistryError::Rejected(Box::new(Rejected { target, status, code, message, retry_after, hint }))
}
