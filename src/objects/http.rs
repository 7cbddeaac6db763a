//! Requests to object stores: attempts, refusals, bodies.

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ureq::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use ureq::http::{Method, Uri};

use crate::cancel::Cancel;
use crate::registry::{
    Clock, Incoming, Outgoing, Payload, ProxyOptions, RegistryError, RegistryOptions, Rejected, RetryPolicy,
    Roots, Session, SourceNetwork, SystemClock, Transport, Trust, parse_retry_after, read_error_body,
};

use super::body::{Counted, OpenObject, Upload};
use super::error::ObjectError;
use super::xml;

/// Refusals are short; what is longer is a web page.
const MOST_REFUSAL: usize = 64 << 10;
/// The largest list or other answer that is read whole, in bytes.
const MOST_ANSWER: usize = 16 << 20;

/// How services are reached.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// The proxies to go through.
    pub proxy: Option<ProxyOptions>,
    /// Which certificate authorities are trusted.
    pub roots: Roots,
    /// Which addresses may be asked.
    pub network: SourceNetwork,
    /// Attempts in all; `None` is the usual number.
    pub attempts: Option<u32>,
    /// The longest wait for an answer, and the longest wait that a service may ask for; `None` is the usual one.
    pub patience: Option<Duration>,
}

/// A client of one service.
pub(super) struct Http {
    transport: Transport,
    retry: RetryPolicy,
    clock: Arc<dyn Clock>,
}

/// A request, made anew for every attempt: signatures have a time.
pub(super) struct Ask {
    pub method: Method,
    pub url: Uri,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub authorization: Option<HeaderValue>,
}

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Sent<'a, 'b> {
    Nothing,
    Bytes(&'a [u8]),
    /// A part of an upload.
    Part {
        upload: &'a Upload<'b>,
        from: u64,
        length: u64,
    },
}

/// An answer that is not a refusal.
pub(super) struct Answer {
    pub incoming: Incoming,
    session: Session,
}

impl Http {
    pub fn new(settings: &HttpSettings) -> Result<Self, ObjectError> {
        let HttpSettings { proxy, roots, network, attempts, patience } = settings.clone();
        let mut options = RegistryOptions { proxy, network, ..RegistryOptions::default() };
        let mut retry = options.retry.clone();
        retry.attempts = attempts.unwrap_or(retry.attempts);
        if let Some(patience) = patience {
            retry.patience = patience;
            options.timeouts.response = options.timeouts.response.min(patience);
            options.timeouts.idle = options.timeouts.idle.min(patience);
            options.timeouts.commit = options.timeouts.commit.min(patience);
        }
        let transport = Transport::new(&options, Trust::of(roots), None)?;
        Ok(Http { transport, retry, clock: Arc::new(SystemClock) })
    }

    /// Sends a request until it is answered with a success, or with one of the statuses in `also`.
    pub fn run(
        &self,
        ask: &dyn Fn() -> Result<Ask, ObjectError>,
        sent: Sent<'_, '_>,
        also: &[u16],
        hint: &dyn Fn(u16, Option<&str>) -> Option<String>,
        cancel: &Cancel,
    ) -> Result<Answer, ObjectError> {
        let mut unusable = None;
        let answer = self.retry.run(&*self.clock, cancel, || {
            let ask = ask().map_err(|error| {
                let reason = error.to_string();
                unusable = Some(error);
                RegistryError::Invalid { what: "request", value: String::new(), reason }
            })?;
            let session = self.transport.session(cancel);
            let incoming = send(&session, &ask, sent)?;
            if (200..300).contains(&incoming.status) || also.contains(&incoming.status) {
                return Ok(Answer { incoming, session });
            }
            Err(refused(&session, incoming, hint))
        });
        answer.map_err(|error| unusable.unwrap_or_else(|| error.into()))
    }
}

fn send(session: &Session, ask: &Ask, sent: Sent<'_, '_>) -> Result<Incoming, RegistryError> {
    let outgoing = Outgoing {
        headers: ask.headers.clone(),
        authorization: ask.authorization.clone(),
        ..Outgoing::new(ask.method.clone(), ask.url.clone(), true)
    };
    match sent {
        // Without a body of length 0, some services wait for one.
        Sent::Nothing if ask.method == Method::PUT || ask.method == Method::POST => {
            session.send_payload(&outgoing, Payload::Bytes(&[]))
        }
        Sent::Nothing => session.send_unredirected(&outgoing),
        Sent::Bytes(bytes) => session.send_payload(&outgoing, Payload::Bytes(bytes)),
        Sent::Part { length: 0, .. } => session.send_payload(&outgoing, Payload::Bytes(&[])),
        Sent::Part { upload, from, length } => {
            let reader = (upload.open)(from)?;
            let mut reader = Counted { reader, left: length, done: from, progress: upload.progress };
            session.send_payload(&outgoing, Payload::Stream { length, reader: &mut reader })
        }
    }
}

fn refused(
    session: &Session,
    incoming: Incoming,
    hint: &dyn Fn(u16, Option<&str>) -> Option<String>,
) -> RegistryError {
    let (target, status) = (incoming.target.clone(), incoming.status);
    let asked = incoming.header(&RETRY_AFTER).and_then(|value| parse_retry_after(value, SystemTime::now()));
    let code_header = ["x-ms-error-code"]
        .into_iter()
        .find_map(|name| incoming.header(&HeaderName::from_static(name)).map(str::to_owned));
    let body = match incoming.read_up_to(session, MOST_REFUSAL) {
        Ok(body) => body,
        Err(RegistryError::Cancelled) => return RegistryError::Cancelled,
        Err(_) => Vec::new(),
    };
    let (mut code, mut message) = read_error_body(&body);
    let text = String::from_utf8_lossy(&body);
    if text.trim_start().starts_with('<') {
        let shown = |name| {
            let text = xml::text(&text, name)?;
            Some(crate::visible::visible_line(text.lines().next()?.trim()).chars().take(300).collect())
        };
        (code, message) = (shown("Code"), shown("Message"));
    }
    let code = code.or(code_header);
    let hint = hint(status, code.as_deref());
    RegistryError::Rejected(Box::new(Rejected { target, status, code, message, retry_after: asked, hint }))
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.incoming.status
    }

    /// The whole of a short answer, as text.
    pub fn text(self) -> Result<String, ObjectError> {
        let target = self.incoming.target.clone();
        let bytes = self.incoming.read_up_to(&self.session, MOST_ANSWER)?;
        if bytes.len() > MOST_ANSWER {
            return Err(ObjectError::NoAnswer(format!("{target}: the answer is too long")));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn drain(self) {
        self.incoming.drain();
    }

    /// The object that it carries. `from` is where it was asked to begin.
    pub fn open(self, from: u64) -> OpenObject {
        let from = if self.status() == 206 { from } else { 0 };
        let length = self.incoming.content_length();
        let reader = Box::new(self.incoming.into_reader().take(u64::MAX));
        OpenObject { length, from, reader, _session: self.session }
    }
}

/// A header whose value is text.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), ObjectError> {
    let invalid = || ObjectError::Invalid(format!("the value of the header {name} cannot be sent"));
    let name: HeaderName = name.parse().map_err(|_| invalid())?;
    Ok((name, HeaderValue::from_str(value).map_err(|_| invalid())?))
}

pub(super) fn uri(text: &str) -> Result<Uri, ObjectError> {
    text.parse()
        .map_err(|_| ObjectError::Invalid(format!("{:?} is no valid address", text.split('?').next())))
}
