//! What can be wrong with an image that exists already.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::image::manifest::ManifestError;
use crate::store::StoreError;

use super::super::manifest::MAX_INDEX_DEPTH;

/// Why an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The path is no image in a form rbuild knows.
    #[error(
        "{} is not an image layout: {reason} (expected an OCI layout, or a tar made by `docker save`, \
         `podman save` or `rbuild`)", path.display()
    )]
    NotALayout {
        /// The path.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Several images and nothing to choose by.
    #[error("{place} holds several images; name one of: {}", names.join(", "))]
    SeveralImages {
        /// Where.
        place: String,
        /// What there is.
        names: Vec<String>,
    },
    /// Nothing there.
    #[error("{place} holds no image")]
    NoImage {
        /// Where.
        place: String,
    },
    /// No image of this name.
    #[error("{place} has no image {wanted:?}; it has: {}", if names.is_empty() { "none".into() } else { names.join(", ") })]
    NotFound {
        /// Where.
        place: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        names: Vec<String>,
    },
    /// The image exists, but not for this platform.
    #[error("{place} has no image for {wanted}; it has: {}", if have.is_empty() { "none".into() } else { have.join(", ") })]
    Platform {
        /// Where.
        place: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        have: Vec<String>,
    },
    /// A blob that a manifest refers to is not there.
    #[error("{place} is incomplete: blob {digest} is missing")]
    MissingBlob {
        /// Where.
        place: String,
        /// Which.
        digest: Digest,
    },
    /// A blob is not what its name says.
    #[error("{place} is corrupt: blob {expected} has digest {actual}")]
    Mismatch {
        /// Where.
        place: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A blob has another size than its descriptor says.
    #[error("{place} is corrupt: blob {digest} should have {expected} bytes and has {actual}")]
    Size {
        /// Where.
        place: String,
        /// Which.
        digest: Digest,
        /// What was promised.
        expected: u64,
        /// What came; one more than promised where reading stopped there.
        actual: String,
    },
    /// A manifest, index or config is unusable.
    #[error("{place}: {what}: {source}")]
    Document {
        /// Where.
        place: String,
        /// Which.
        what: String,
        /// Why.
        source: ManifestError,
    },
    /// Manifest and config disagree.
    #[error("{place}: the manifest lists {layers} layers, but the config {diff_ids}")]
    LayerCount {
        /// Where.
        place: String,
        /// Of the manifest.
        layers: usize,
        /// Of the config.
        diff_ids: usize,
    },
    /// Indexes nested too deeply.
    #[error("{place}: indexes are nested deeper than {MAX_INDEX_DEPTH} levels")]
    TooDeep {
        /// Where.
        place: String,
    },
    /// Too many entries of its indexes would have to be looked into.
    #[error("{place}: too many images without a platform")]
    TooMany {
        /// Where.
        place: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
