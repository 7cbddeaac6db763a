//! What is signed, and how signatures are written down.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::attest::{PAYLOAD_TYPE, STATEMENT_TYPE};
use crate::digest::Digest;

use super::key::{Signer, Verifier};

/// Media type of a payload under cosign's tag.
pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with its signature.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Media type of a bundle, and the artifact type of its manifest.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The annotation that says what a bundle has.
pub const BUNDLE_CONTENT: &str = "dev.sigstore.bundle.content";
/// The annotation with the predicate type of a bundle's statement.
pub const BUNDLE_PREDICATE: &str = "dev.sigstore.bundle.predicateType";
/// Predicate type of a statement that says nothing but that somebody signed.
pub const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
const SIGNATURE_TYPE: &str = "cosign container image signature";

/// The tag under which cosign looks for signatures.
pub fn signature_tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

/// The payload of a simple signature.
pub fn simple_signing(repository: &str, image: &Digest) -> Vec<u8> {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": image.to_string()},
            "type": SIGNATURE_TYPE,
        },
        "optional": null,
    });
    payload.to_string().into_bytes()
}

/// Whether a payload is about `image`, and its signature (base64 of DER) is the key's.
pub fn simply_signed(payload: &[u8], signature: &str, image: &Digest, key: &Verifier) -> bool {
    let Ok(signature) = STANDARD.decode(signature) else { return false };
    let Ok(said) = serde_json::from_slice::<Value>(payload) else { return false };
    let critical = &said["critical"];
    let about = critical["image"]["docker-manifest-digest"] == image.to_string().as_str();
    about && critical["type"] == SIGNATURE_TYPE && key.verifies(payload, &signature)
}

/// The config of the manifest that has simple signatures as its layers: an image's, as registries want it.
pub fn signature_config(layers: &[Digest]) -> Value {
    json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z", "history": [], "os": "",
        "rootfs": {"type": "layers", "diff_ids": layers}, "config": {},
    })
}

/// The statement by which cosign signs an image in a bundle.
pub fn image_statement(image: &Digest) -> Value {
    json!({
        "_type": STATEMENT_TYPE,
        "subject": [{"digest": {"sha256": image.hex()}}],
        "predicateType": COSIGN_SIGN,
        "predicate": {},
    })
}

/// A bundle with a signed statement.
pub fn bundle(statement: &[u8], key: &Signer) -> Value {
    let signature = STANDARD.encode(key.sign(&encoded(PAYLOAD_TYPE, statement)));
    json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key.verifier().hint()}},
        "dsseEnvelope": {
            "payload": STANDARD.encode(statement),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": signature}],
        },
    })
}

/// The statement of a bundle, if one of its signatures is the key's.
pub fn opened(bundle: &[u8], key: &Verifier) -> Option<Value> {
    let bundle: Value = serde_json::from_slice(bundle).ok()?;
    let envelope = &bundle["dsseEnvelope"];
    let kind = envelope["payloadType"].as_str().filter(|kind| *kind == PAYLOAD_TYPE)?;
    let payload = STANDARD.decode(envelope["payload"].as_str()?).ok()?;
    let message = encoded(kind, &payload);
    let signed = envelope["signatures"].as_array()?.iter().any(|one| {
        let signature = one["sig"].as_str().and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|signature| key.verifies(&message, &signature))
    });
    signed.then(|| serde_json::from_slice(&payload).ok()).flatten()
}

/// What DSSE signs: type and payload with their lengths.
fn encoded(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}
