//! Whether a push is allowed, and what a refused one means.

use ureq::http::Method;
use ureq::http::header::LOCATION;

use crate::cancel::Cancel;

use super::client::{Host, Registry, refusal};
use super::error::{Refusal, RegistryError};
use super::transport::{Incoming, Outgoing, Payload, Session, resolve, same_origin};

/// What all media types of OCI begin with.
const OCI: &str = "application/vnd.oci.";

impl Registry {
    /// Asks whether these credentials may push to `repository`, by an upload that is begun and given up: some
    /// token services give tokens to everybody, and only the registry itself knows. Asks once, without
    /// waiting for a registry that has trouble.
    ///
    /// Gives the refusal if there is a clear one (401 or 403). Anything else may still become a push.
    pub fn push_refusal(&self, repository: &str, cancel: &Cancel) -> Option<RegistryError> {
        let asked = self.once(cancel, |host, session| ask(host, &session, repository));
        asked.err().filter(|error| matches!(error.status(), Some(401 | 403)))
    }
}

fn ask(host: &Host, session: &Session, repository: &str) -> Result<(), RegistryError> {
    let name = host.endpoint.repository(repository);
    let uploads = host.url(session, &format!("{name}/blobs/uploads/"))?;
    let scope = format!("repository:{name}:pull,push");
    let mut send = |outgoing: &Outgoing| session.send_payload(outgoing, Payload::Bytes(&[]));
    let mut begin = Outgoing::new(Method::POST, uploads.clone(), host.endpoint.lenient());
    let answer = host.exchange(session, &mut begin, &scope, &mut send)?;
    if matches!(answer.status, 401 | 403) {
        return Err(refused_push(host, session, repository, answer));
    }
    let place = answer.header(&LOCATION).and_then(|location| resolve(&uploads, location));
    let begun = answer.status == 202;
    answer.drain();
    if let Some(place) = place.filter(|place| begun && same_origin(place, &uploads)) {
        // Registries that cannot do this, or not with a token for pushes, forget uploads after a while.
        let give_up = Outgoing {
            authorization: begin.authorization,
            ..Outgoing::new(Method::DELETE, place, host.endpoint.lenient())
        };
        if let Ok(answer) = session.send(&give_up) {
            answer.drain();
        }
    }
    Ok(())
}

/// What a registry's refusal of a push means.
pub(super) fn refused_push(
    host: &Host,
    session: &Session,
    repository: &str,
    answer: Incoming,
) -> RegistryError {
    let status = answer.status;
    let name = format!("{}/{}", host.endpoint.name, host.endpoint.repository(repository));
    let described = || host.auth.describe();
    refusal(session, answer, |refused| match (status, refused) {
        (_, Refusal::Unauthorized) => Some(format!("pushing to {name} needs a sign-in: {}", described())),
        (_, Refusal::Denied) => Some(format!("these credentials may not push to {name}: {}", described())),
        (405, _) => Some(format!("{} takes no pushes; is it a mirror or read-only?", host.endpoint.name)),
        (413, _) => {
            Some("the registry, or a proxy before it, limits the size of a request; raise the limit".into())
        }
        (_, Refusal::RateLimited) => Some("wait a while, then push again".into()),
        (_, Refusal::NotFound) => Some(format!("does the repository {name} have to be created first?")),
        _ => None,
    })
}

/// What the refusal of a manifest means.
pub(super) fn refused_manifest(
    host: &Host,
    session: &Session,
    repository: &str,
    media_type: &str,
    answer: Incoming,
) -> RegistryError {
    let mut error = refused_push(host, session, repository, answer);
    if let RegistryError::Rejected(refused) = &mut error {
        let code = refused.code.as_deref().unwrap_or_default();
        let about_type = matches!(code, "" | "MANIFEST_INVALID" | "UNSUPPORTED" | "UNKNOWN");
        match refused.status {
            400 | 404 if code.ends_with("BLOB_UNKNOWN") => {
                refused.hint =
                    Some("the registry lost a blob that was there a moment ago; push again".into());
            }
            400 | 406 | 415 | 422 if about_type && media_type.starts_with(OCI) => {
                refused.hint = Some(
                    "if the registry does not know OCI media types, build with \
                     --output type=image,push=true,oci-mediatypes=false"
                        .into(),
                );
            }
            _ => {}
        }
    }
    error
}
