//! `--cache-from` and `--cache-to` as data.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::attest::sign::{Signer, Verifier};
use crate::cache::{Bounds, ObjectLayout};
use crate::digest::Digest;
use crate::objects::Service;

use super::request::CompressionChoice;

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheLocation {
    /// A tag, or the digest of a manifest, in a registry.
    Registry {
        /// The name as given.
        reference: String,
    },
    /// An OCI layout.
    Local {
        /// The directory: a path relative to the request's `cwd`.
        path: PathBuf,
        /// The tag in the layout.
        tag: String,
        /// One manifest, where a cache is read.
        digest: Option<Digest>,
    },
    /// An object store.
    Objects(ObjectSpec),
    /// A cache of which only records count that this key has signed. Only read.
    Signed {
        /// The cache.
        location: Box<CacheLocation>,
        /// The key.
        key: TrustedKey,
    },
    /// The image itself. Only written: it is read as a registry is.
    Inline,
}

/// A cache in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSpec {
    /// The service.
    pub service: Service,
    /// Where in it.
    pub layout: ObjectLayout,
    /// Attempts at a request; `None` is the usual number.
    pub attempts: Option<u32>,
    /// The longest wait for one answer, and the longest that the service may ask for; `None` is the usual one.
    pub patience: Option<Duration>,
}

impl fmt::Display for CacheLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheLocation::Registry { reference } => f.write_str(reference),
            CacheLocation::Local { path, .. } => write!(f, "{}", path.display()),
            CacheLocation::Objects(spec) => {
                write!(f, "{}/{}", spec.service.shown(), spec.layout.documents.join(";"))
            }
            CacheLocation::Signed { location, .. } => location.fmt(f),
            CacheLocation::Inline => f.write_str("inline"),
        }
    }
}

/// A public key that records must be signed by.
#[derive(Clone, Debug)]
pub struct TrustedKey(pub Verifier);

impl PartialEq for TrustedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.hint() == other.0.hint()
    }
}

impl Eq for TrustedKey {}

/// A private key that signs records.
#[derive(Clone, Debug)]
pub struct RecordKey(pub Signer);

impl PartialEq for RecordKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.verifier().hint() == other.0.verifier().hint()
    }
}

impl Eq for RecordKey {}

/// How much of a build goes into a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// The steps whose layers are in the image.
    #[default]
    Min,
    /// All steps of all stages.
    Max,
}

/// One `--cache-to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where.
    pub location: CacheLocation,
    /// What.
    pub mode: CacheMode,
    /// A failure is a warning only.
    pub ignore_error: bool,
    /// How layers are compressed; with `force` also those that are compressed already.
    pub compression: Option<CompressionChoice>,
    /// Limits of the whole cache.
    pub bounds: Bounds,
    /// What is there is replaced.
    pub reset: bool,
    /// Signs the records.
    pub sign: Option<RecordKey>,
}

impl CacheTarget {
    /// Whether the image itself is the cache.
    pub fn is_inline(&self) -> bool {
        self.location == CacheLocation::Inline
    }

    /// A target with every default.
    pub fn new(location: CacheLocation) -> Self {
        CacheTarget {
            location,
            mode: CacheMode::Min,
            ignore_error: false,
            compression: None,
            bounds: Bounds::default(),
            reset: false,
            sign: None,
        }
    }
}
