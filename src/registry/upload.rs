//! Uploading one blob or manifest (distribution specification, "Push").
//!
//! A blob goes in one request if it is small, else as a PATCH that is continued where the registry
//! says it stopped. As long as all goes well, everything goes in a single PATCH, which every registry
//! understands; only after trouble in pieces.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ureq::http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue};
use ureq::http::{Method, Uri};

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::Descriptor;

use super::client::{Call, Host, Registry};
use super::content::{Content, unreadable};
use super::error::RegistryError;
use super::permission::{refused_manifest, refused_push};
use super::piece::{check_digest, no_place, received, with_query};
use super::pull::manifest_path;
use super::push::{BlobState, PushOptions};
use super::transport::{Incoming, Outgoing, Payload, Session};
use super::upload_request::Piece;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The least size of a piece a registry asks for.
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");

/// Sent by registries that keep lists of referrers, for a manifest with a subject.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Pieces smaller than this are not worth trying.
const SMALLEST_PIECE: u64 = 256 << 10;

/// How often a blob's upload is begun anew because the registry lost it.
const MOST_RESTARTS: u32 = 3;

/// When to ask whether a blob is there after its last request got no answer, in seconds from time to time.
const ASK_AFTER: &[u64] = &[1, 2, 4, 8, 15, 30];

/// What all uploads of one push share.
pub(super) struct Uploads<'a> {
    pub(super) registry: &'a Registry,
    pub(super) repository: &'a str,
    pub(super) content: &'a dyn Content,
    pub(super) options: &'a PushOptions,
    pub(super) cancel: &'a Cancel,
    /// Another upload failed: the others need not go on.
    pub(super) stop: AtomicBool,
    /// Bytes of bodies handed to the network, repeated ones counted again.
    pub(super) sent: AtomicU64,
}

/// One blob on its way.
pub(super) struct Transfer<'a> {
    pub(super) blob: &'a Descriptor,
    pub(super) progress: &'a (dyn Fn(u64) + 'a),
    /// Where the upload goes on, and how much the registry has, as far as is known.
    place: Option<(Uri, u64)>,
    /// The largest piece sent at once; all that is left where nothing is said.
    piece: Option<u64>,
    /// Whether any of it was sent: if the registry then has it, it came from us.
    began: bool,
    restarts: u32,
}

impl Uploads<'_> {
    /// Makes sure that the repository has the blob.
    pub(super) fn blob(&self, blob: &Descriptor, progress: &dyn Fn(u64)) -> Result<BlobState, RegistryError> {
        let mut transfer = Transfer { blob, progress, place: None, piece: None, began: false, restarts: 0 };
        let furthest = AtomicU64::new(0);
        let reached = AtomicU64::new(0);
        let progressed = || {
            let reached = reached.load(Ordering::Relaxed);
            furthest.fetch_max(reached, Ordering::Relaxed) < reached
        };
        self.registry.write(self.cancel, &progressed, |host, session| {
            let result = self.attempt(host, &session, &mut transfer);
            reached.store(transfer.place.as_ref().map_or(0, |(_, offset)| *offset), Ordering::Relaxed);
            result
        })
    }

    fn attempt(
        &self,
        host: &Host,
        session: &Session,
        transfer: &mut Transfer<'_>,
    ) -> Result<BlobState, RegistryError> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(RegistryError::Cancelled);
            }
            if transfer.place.is_some() {
                self.resume(host, session, transfer)?;
            }
            if transfer.place.is_none()
                && let Some(done) = self.begin(host, session, transfer)?
            {
                return Ok(done);
            }
            let error = match self.send_rest(host, session, transfer) {
                Ok(()) => return Ok(BlobState::Uploaded),
                Err(error) => error,
            };
            let again = match error.status() {
                // The registry forgot the upload, or counts differently than we do.
                Some(404 | 416) => true,
                Some(413) => self.shrink(transfer),
                _ => false,
            };
            transfer.restarts += u32::from(again);
            if !again || transfer.restarts > MOST_RESTARTS {
                return Err(error);
            }
        }
    }

    /// Smaller pieces; false where they are as small as is sensible.
    fn shrink(&self, transfer: &mut Transfer<'_>) -> bool {
        let last = transfer.piece.unwrap_or(transfer.blob.size);
        let next = (last / 8).min(self.options.piece);
        transfer.piece = Some(next);
        next >= SMALLEST_PIECE.min(self.options.piece / 8)
    }

    /// Asks how far the upload came. Where nobody knows, it begins anew.
    fn resume(
        &self,
        host: &Host,
        session: &Session,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), RegistryError> {
        let Some((place, before)) = transfer.place.take() else { return Ok(()) };
        let answer = self.exchange(host, session, Method::GET, &place, &[], None)?;
        if !(200..300).contains(&answer.status) {
            let error = self.refused(host, session, answer);
            return if error.is_transient() || error.is_cancelled() {
                transfer.place = Some((place, before));
                Err(error)
            } else {
                Ok(())
            };
        }
        let offset = received(&answer).unwrap_or(0).min(transfer.blob.size);
        let place = self.next_place(host, &place, &answer)?.unwrap_or(place);
        answer.drain();
        if offset <= before {
            // Nothing of the last piece was kept, so a smaller one may do better.
            let last = transfer.piece.unwrap_or(u64::MAX);
            transfer.piece = Some(last.min(self.options.piece));
        }
        transfer.place = Some((place, offset));
        Ok(())
    }

    /// Looks whether the blob is there, or can be mounted; else opens an upload.
    fn begin(
        &self,
        host: &Host,
        session: &Session,
        transfer: &mut Transfer<'_>,
    ) -> Result<Option<BlobState>, RegistryError> {
        let digest = transfer.blob.digest;
        if self.exists(host, session, &digest)? {
            return Ok(Some(if transfer.began { BlobState::Uploaded } else { BlobState::Existed }));
        }
        let uploads =
            host.url(session, &format!("{}/blobs/uploads/", host.endpoint.repository(self.repository)))?;
        let sources = self.content.repositories(&digest, self.registry.host());
        let other = |source: &String| *source != self.repository;
        for source in sources.iter().filter(|source| !transfer.began && other(source)).take(2) {
            match self.mount(host, session, &uploads, &digest, source)? {
                Mounted::Yes => return Ok(Some(BlobState::Mounted)),
                Mounted::No => {}
                Mounted::Opened(place) => {
                    transfer.place = Some((place, 0));
                    return Ok(None);
                }
            }
        }
        let answer = self.exchange(host, session, Method::POST, &uploads, &[], Some(Piece::None))?;
        if answer.status != 202 {
            return Err(self.refused(host, session, answer));
        }
        let least = answer.header(&CHUNK_MIN_LENGTH).and_then(|text| text.trim().parse().ok());
        if let (Some(piece), Some(least)) = (transfer.piece, least) {
            transfer.piece = Some(piece.max(least));
        }
        let place = self.next_place(host, &uploads, &answer)?.ok_or_else(|| no_place(&answer))?;
        answer.drain();
        transfer.place = Some((place, 0));
        Ok(None)
    }

    /// Whether the repository has a blob. A registry that does not want to say is taken for a no.
    fn exists(&self, host: &Host, session: &Session, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let call =
            Call { method: Method::HEAD, repository: self.repository, path: &path, accept: None, from: 0 };
        match host.call_with(session, &call, &self.scope(host)) {
            Ok(answer) => {
                answer.drain();
                Ok(true)
            }
            Err(error) if matches!(error.status(), Some(400 | 404 | 405)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn mount(
        &self,
        host: &Host,
        session: &Session,
        uploads: &Uri,
        digest: &Digest,
        source: &str,
    ) -> Result<Mounted, RegistryError> {
        let from = host.endpoint.repository(source);
        let url = with_query(uploads, &format!("mount={digest}&from={from}"))?;
        let scope = format!("{} repository:{from}:pull", self.scope(host));
        let mut outgoing = Outgoing::new(Method::POST, url, host.endpoint.lenient());
        let answer = host.exchange(session, &mut outgoing, &scope, &mut |outgoing| {
            session.send_payload(outgoing, Payload::Bytes(&[]))
        });
        let answer = match answer {
            Ok(answer) => answer,
            // A token service that refuses the source: the blob itself may still be pushed.
            Err(error) if matches!(error.status(), Some(400..=404)) => return Ok(Mounted::No),
            Err(error) => return Err(error),
        };
        match answer.status {
            201 => {
                answer.drain();
                Ok(Mounted::Yes)
            }
            202 => {
                let place = self.next_place(host, uploads, &answer)?.ok_or_else(|| no_place(&answer))?;
                answer.drain();
                Ok(Mounted::Opened(place))
            }
            400..=405 => {
                answer.drain();
                Ok(Mounted::No)
            }
            _ => Err(self.refused(host, session, answer)),
        }
    }

    fn send_rest(
        &self,
        host: &Host,
        session: &Session,
        transfer: &mut Transfer<'_>,
    ) -> Result<(), RegistryError> {
        let size = transfer.blob.size;
        transfer.began = true;
        let small = size <= self.options.small && transfer.piece.is_none();
        while let Some((place, offset)) = transfer.place.clone().filter(|(_, at)| *at < size && !small) {
            let length = (size - offset).min(transfer.piece.unwrap_or(u64::MAX)).max(1);
            let mut headers = vec![(CONTENT_TYPE, OCTETS)];
            if length < size {
                let range = format!("{offset}-{}", offset + length - 1);
                headers.extend(HeaderValue::from_str(&range).ok().map(|range| (CONTENT_RANGE, range)));
            }
            let piece = Piece::Part { transfer, offset, length };
            let answer = self.exchange(host, session, Method::PATCH, &place, &headers, Some(piece))?;
            if !matches!(answer.status, 200..=204) {
                return Err(self.refused(host, session, answer));
            }
            // A success means that all of it was taken. What `Range` says then is wrong in many ways in
            // registries that keep the bytes well: always 0-0, one too many, that of the first piece or
            // of the last one alone. The digest of the last request tells.
            let place = self.next_place(host, &place, &answer)?.unwrap_or(place);
            answer.drain();
            transfer.place = Some((place, offset + length));
        }
        let Some((place, _)) = transfer.place.clone() else { return Ok(()) };
        let url = with_query(&place, &format!("digest={}", transfer.blob.digest))?;
        let piece = if small { Piece::Part { transfer, offset: 0, length: size } } else { Piece::None };
        let headers = [(CONTENT_TYPE, OCTETS)];
        let answer = self.exchange(host, session, Method::PUT, &url, &headers, Some(piece));
        self.finished(host, session, transfer, !small, answer)
    }

    /// What became of the last request of a blob. Without a clear answer the registry may have the blob
    /// all the same, or be about to: it is asked before anything is sent again, and never twice to finish
    /// the same upload at once.
    fn finished(
        &self,
        host: &Host,
        session: &Session,
        transfer: &mut Transfer<'_>,
        large: bool,
        answer: Result<Incoming, RegistryError>,
    ) -> Result<(), RegistryError> {
        let digest = transfer.blob.digest;
        match answer {
            Ok(answer) if matches!(answer.status, 200..=204) => {
                check_digest(&answer, &digest)?;
                answer.drain();
                Ok(())
            }
            Ok(answer) => {
                let waits: &[u64] = match answer.status {
                    // A proxy gave up waiting for the registry.
                    504 if large => ASK_AFTER,
                    400 | 409 | 500..=599 => &[],
                    _ => return Err(self.refused_bytes(host, session, answer, transfer)),
                };
                if self.appears(host, session, &digest, waits) {
                    answer.drain();
                    return Ok(());
                }
                if !waits.is_empty() {
                    transfer.place = None;
                }
                Err(self.refused_bytes(host, session, answer, transfer))
            }
            // A small blob needs no time; it is sent again after a look.
            Err(error) if large && error.is_transient() => {
                if self.appears(host, session, &digest, ASK_AFTER) {
                    return Ok(());
                }
                transfer.place = None;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for a blob now and after each of some waits, in seconds.
    fn appears(&self, host: &Host, session: &Session, digest: &Digest, waits: &[u64]) -> bool {
        let mut waits = waits.iter();
        loop {
            if self.exists(host, session, digest).unwrap_or(false) {
                return true;
            }
            let Some(wait) = waits.next().filter(|_| !self.cancel.is_cancelled()) else { return false };
            self.registry.clock().sleep(Duration::from_secs(*wait), self.cancel);
        }
    }

    /// Puts a manifest under a tag or its digest. All it refers to must be there already. Gives whether the
    /// registry said that it lists it among the referrers of its subject.
    pub(super) fn manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let path = manifest_path(self.repository, reference)?;
        let digest = Digest::of(bytes);
        let kind = HeaderValue::from_str(media_type)
            .map_err(|_| RegistryError::invalid("media type", media_type, "not a header value"))?;
        self.registry.write(self.cancel, &|| false, |host, session| {
            let path = format!("{}/{path}", host.endpoint.repository(self.repository));
            let url = host.url(&session, &path)?;
            let headers = [(CONTENT_TYPE, kind.clone())];
            let piece = Some(Piece::Whole(bytes));
            let answer = self.exchange(host, &session, Method::PUT, &url, &headers, piece)?;
            if !matches!(answer.status, 200..=204) {
                return Err(refused_manifest(host, &session, self.repository, media_type, answer));
            }
            check_digest(&answer, &digest)?;
            let listed = answer.header(&OCI_SUBJECT).is_some();
            answer.drain();
            Ok(listed)
        })
    }

    /// As [`Uploads::refused`]; where the registry found other bytes than the digest says, the fault
    /// is looked for at the source.
    fn refused_bytes(
        &self,
        host: &Host,
        session: &Session,
        answer: Incoming,
        transfer: &Transfer<'_>,
    ) -> RegistryError {
        let bad = answer.status == 400;
        let error = self.refused(host, session, answer);
        if !bad {
            return error;
        }
        let Ok(mut reader) = self.content.open(transfer.blob, 0, self.cancel) else { return error };
        let mut hasher = crate::digest::Hasher::new();
        match io::copy(&mut reader, &mut hasher) {
            Ok(_) if hasher.finish() != transfer.blob.digest => {
                let reason = "its content does not match its digest".to_owned();
                unreadable(self.content.place(), transfer.blob, reason)
            }
            _ => error,
        }
    }

    fn refused(&self, host: &Host, session: &Session, answer: Incoming) -> RegistryError {
        refused_push(host, session, self.repository, answer)
    }
}

enum Mounted {
    Yes,
    No,
    /// The registry opened an upload instead.
    Opened(Uri),
}
