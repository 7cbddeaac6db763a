//! Cache keys, and the records found under them.
//!
//! A [`CacheKey`] is the digest of a [`KeyInputs`]: what the step is, the content identity of what it
//! stands on, and the content digests of what it reads. Never time, host paths or modification times.
//! The inputs are kept beside the result, so that a miss can be explained by comparing them with
//! those of an earlier build. Records also travel: a [`CacheDocument`] with the layers that it names lies in
//! a registry, a directory or an object store ([`CachePlace`]), and an [`Import`] looks steps up there. Nothing that comes
//! from there is believed before it is verified. Must never decide what a step means; that is `plan/`'s and
//! `steps/`'.

mod content;
mod directory;
mod document;
mod failure;
mod found;
mod import;
mod key;
mod object_fetch;
mod objects;
mod place;
mod record;
mod repository;
mod sealed;
mod signature;

pub use content::PlaceContent;
pub use directory::DirectoryCache;
pub use document::{Answer, Bounds, CacheDocument, Entry, INLINE_FIELD, LayerBlob};
pub use failure::CacheError;
pub use found::{InlineEntry, InlineRecords};
pub use import::{CacheSource, Closest, Hit, Import, Lookup};
pub use key::{CacheKey, GENERATION, Input, KeyInputs};
pub use objects::{ObjectCache, ObjectLayout};
pub use place::{CachePlace, Export, Exported, ReadCache};
pub use record::{Record, Records};
pub use repository::RepositoryCache;
pub use signature::{SignRecord, VerifyRecord};
