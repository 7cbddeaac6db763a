//! The engine's front door: a [`BuildRequest`] goes in, a [`BuildOutcome`] comes out.
//!
//! Nothing above this tier knows how a build works; nothing below it knows what a command line is.
//! Owns the order of things: context, Dockerfile, plan, bases, solve, image, outputs, names. Promises
//! that a name points at an image only after all of it is in the store and all outputs are written.

mod attestations;
mod attested;
mod base_help;
mod bases;
mod bill;
mod cache_care;
mod cache_content;
mod cache_places;
mod cache_spec;
mod caching;
mod check;
mod containers;
mod contexts;
mod download;
mod dry_run;
mod engine;
mod epoch;
mod failure;
mod history;
mod history_log;
mod ignored;
mod indexes;
mod load;
mod loading;
mod locking;
mod look;
mod meant;
mod named_context;
mod outputs;
mod permission;
mod pinned;
mod place;
mod policies;
mod prepare;
mod provenance;
mod pulled;
mod referrers;
mod reproduce;
mod request;
mod result;
mod run;
mod sbom;
mod secrets;
mod sign;
mod solve_failure;
mod space;
mod squash;
mod transfer;
mod validate;
mod vendoring;

pub use crate::attest::{AttachAs, AttestOptions, ProvenanceOptions};
pub use crate::cache::{Bounds as CacheBounds, CacheDocument, Entry as CacheEntry, Exported, ObjectLayout};
pub use crate::compress::CompressionAlgorithm;
pub use crate::plan::{HOST_GATEWAY, RunNetwork};
pub use crate::registry::RegistryAccess;
pub use attested::Attested;
pub use cache_care::{CacheCare, CheckedLayer, FoundCache, PrunedCache};
pub use cache_spec::{CacheLocation, CacheMode, CacheTarget, ObjectSpec, RecordKey, TrustedKey};
pub use check::{Checked, FixedFile};
pub use containers::StorageTools;
pub use dry_run::{DryRun, DryStep, Outlook, Pull};
pub use engine::{Engine, EngineOptions, Userns};
pub use failure::{Failure, FailureKind};
pub use history::read_record;
pub use history_log::{LogLine, read_log};
pub use indexes::IndexChange;
pub use loading::Loaded;
pub use locking::{LockOptions, Locked};
pub use look::Looked;
pub use meant::{Meant, meant, no_image, without_name};
pub use place::Place;
pub use referrers::ReferrerList;
pub use reproduce::Reproduced;
pub use request::{
    Annotation, AnnotationKind, BuildOutcome, BuildRequest, BuiltImage, CompressionChoice, EngineAddress,
    OutputKind, OutputSpec, PullPolicy,
};
pub use run::{RunMount, RunRequest};
pub use secrets::SecretScan;
pub use sign::Verified;

pub use crate::sandbox::{Forward, Limits, Signals};
pub use crate::sources::{Change, LockUse, Locking, SourceOptions};
pub use crate::steps::mount::{Secret, SshSource};
pub use transfer::Transfer;
pub use vendoring::Vendored;
