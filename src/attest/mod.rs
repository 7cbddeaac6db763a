//! Attestations: signed or unsigned claims about an image, as in-toto statements.
//!
//! Owns the form of statements ([`Statement`]), how they are attached to an image ([`attach`]: BuildKit's attestation
//! manifests and OCI referrers), and the claim about how an image was built ([`provenance`]: SLSA v1 and v0.2 with
//! BuildKit's fields). Promises that the manifest of the image itself is the same with and without attestations, and
//! that the same statements give the same bytes. Must never read the environment or a clock: whoever builds says what
//! time it is.
//!
//! Whoever has something to say about an image makes a [`Statement`] and adds it to the ones of its platform; the
//! outputs of a build do the rest.

pub mod attach;
pub mod options;
pub mod provenance;
pub mod sign;

mod purl;
mod statement;

pub use options::{
    AttachAs, AttestError, AttestOptions, Attestation, Mode, ProvenanceOptions, SbomFormat, SbomOptions,
    SlsaVersion,
};
pub use purl::image_purl;
pub use statement::{MAX_STATEMENT, PAYLOAD_TYPE, PREDICATE_ANNOTATION, STATEMENT_TYPE, Statement, Subject};
