//! Layers: lists of file-system changes, their tar form, their digests, their compressed blobs.
//!
//! Owns the translation between three forms of one thing: an overlay upper directory or a list of
//! files, the entries of a layer, and the tar stream that images carry. Promises deterministic bytes:
//! the same entries give the same digests whatever the thread count, machine or clock. Must never
//! look at a Dockerfile, and never extract by following a link.

pub mod entry;

pub use entry::{Entry, EntryKind, LayerIndex, Metadata};
