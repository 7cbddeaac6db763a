//! Signatures with a key, in cosign's forms: simple signing under the tag `sha256-HEX.sig` (cosign, `specs/SIGNATURE_SPEC.md`),
//! and sigstore bundles of DSSE envelopes (sigstore protobuf-specs, bundle v0.3; DSSE `protocol.md`).
//!
//! Keys are ECDSA on P-256 or Ed25519. Keyless signing needs an identity provider and a transparency log, and is not done.

mod envelope;
mod key;

pub use envelope::{
    BUNDLE, BUNDLE_CONTENT, BUNDLE_PREDICATE, COSIGN_SIGN, SIGNATURE_ANNOTATION, SIMPLE_SIGNING, bundle,
    image_statement, opened, signature_config, signature_tag, simple_signing, simply_signed,
};
pub use key::{KeyError, Signer, Verifier};

#[cfg(test)]
mod tests;
