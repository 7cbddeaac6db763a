//! The requests of an upload: where they go, what they carry, and where their answers lead.

use std::sync::atomic::Ordering;

use ureq::http::header::{HeaderName, HeaderValue, LOCATION};
use ureq::http::uri::Scheme;
use ureq::http::{Method, Uri};

use super::blob::BlobReader;
use super::client::Host;
use super::content::unreadable;
use super::error::RegistryError;
use super::piece::{Counted, no_place};
use super::transport::{Incoming, Outgoing, Payload, Session, resolve, same_origin};
use super::upload::{Transfer, Uploads};

/// Redirects followed by an upload.
const MOST_REDIRECTS: u32 = 3;

/// The body of a request.
pub(super) enum Piece<'a> {
    None,
    Whole(&'a [u8]),
    Part { transfer: &'a Transfer<'a>, offset: u64, length: u64 },
}

impl Uploads<'_> {
    /// Sends a request of an upload, with credentials where it goes to the registry. The body is
    /// opened anew each time it has to be sent.
    pub(super) fn exchange(
        &self,
        host: &Host,
        session: &Session,
        method: Method,
        url: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        piece: Option<Piece<'_>>,
    ) -> Result<Incoming, RegistryError> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut outgoing = Outgoing {
                headers: headers.to_vec(),
                ..Outgoing::new(method.clone(), url.clone(), host.endpoint.lenient())
            };
            let mut send = |outgoing: &Outgoing| match &piece {
                None => session.send(outgoing),
                Some(piece) => self.send(session, outgoing, piece),
            };
            let ours = same_origin(&url, &host.url(session, "")?);
            let answer = if ours {
                host.exchange(session, &mut outgoing, &self.scope(host), &mut send)?
            } else {
                send(&outgoing)?
            };
            if !matches!(answer.status, 307 | 308) {
                return Ok(answer);
            }
            url = self.next_place(host, &url, &answer)?.ok_or_else(|| no_place(&answer))?;
            answer.drain();
        }
        let target = super::transport::target(&method, &url);
        Err(RegistryError::protocol(&target, "it redirects in circles"))
    }

    fn send(
        &self,
        session: &Session,
        outgoing: &Outgoing,
        piece: &Piece<'_>,
    ) -> Result<Incoming, RegistryError> {
        let (transfer, offset, length) = match piece {
            Piece::None => return session.send_payload(outgoing, Payload::Bytes(&[])),
            Piece::Whole(bytes) => {
                self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                return session.send_payload(outgoing, Payload::Bytes(bytes));
            }
            Piece::Part { length: 0, .. } => return session.send_payload(outgoing, Payload::Bytes(&[])),
            Piece::Part { transfer, offset, length } => (transfer, *offset, *length),
        };
        let mut reader = Counted {
            reader: self.content.open(transfer.blob, offset, self.cancel)?,
            uploads: self,
            offset,
            left: length,
            progress: transfer.progress,
            failure: None,
        };
        let payload = Payload::Stream { length, reader: &mut reader };
        let answer = session.send_payload(outgoing, payload);
        match reader.failure.take().filter(|_| answer.is_err()) {
            None => answer,
            Some(_) if self.cancel.is_cancelled() => Err(RegistryError::Cancelled),
            Some(error) => Err(BlobReader::cause(error)
                .unwrap_or_else(|error| unreadable(self.content.place(), transfer.blob, error.to_string()))),
        }
    }

    pub(super) fn scope(&self, host: &Host) -> String {
        format!("repository:{}:pull,push", host.endpoint.repository(self.repository))
    }

    /// Where an answer's `Location` leads. A registry behind a proxy that ends TLS often writes http
    /// there; that is read as the scheme it was asked with.
    pub(super) fn next_place(
        &self,
        host: &Host,
        from: &Uri,
        answer: &Incoming,
    ) -> Result<Option<Uri>, RegistryError> {
        let Some(location) = answer.header(&LOCATION) else { return Ok(None) };
        let invalid = || RegistryError::protocol(&answer.target, "it names no valid place for the upload");
        let place = resolve(from, location).ok_or_else(invalid)?;
        if from.scheme() != Some(&Scheme::HTTPS) || place.scheme() == Some(&Scheme::HTTPS) {
            return Ok(Some(place));
        }
        if place.host() == from.host() && (place.port().is_none() || place.port_u16() == from.port_u16()) {
            let path = place.path_and_query().map_or("/", |path| path.as_str());
            let authority = from.authority().map_or("", |authority| authority.as_str());
            return format!("https://{authority}{path}").parse().map(Some).map_err(|_| invalid());
        }
        if host.endpoint.lenient() {
            return Ok(Some(place));
        }
        Err(RegistryError::protocol(&answer.target, "it wants the upload sent over plain http"))
    }
}
