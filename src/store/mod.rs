//! The only room that knows the on-disk layout of a store.
//!
//! ```text
//! ROOT/
//!   version              "1": a store of another version is refused, never converted silently
//!   lock                 flock: shared while building, exclusive for collection
//!   blobs/sha256/HEX     verified blobs: compressed layers, configs, manifests, indexes
//!   layers/HH/HEX.json   by diff ID: the layer's blobs
//!   index/HH/HEX         by diff ID: the entries of the layer
//!   chains/HH/HEX        by chain ID: the snapshot that holds its topmost layer
//!   snapshots/ID/fs      one layer's directory in overlayfs form
//!   records/HH/HEX       by cache key: what a step gave
//!   blocks               which compressed block of a layer lies where in which blob
//!   refs/NAME            image names (percent-encoded), each holding a manifest or index descriptor
//!   mounts/HEX.N/fs      directories of cache mounts; HEX.N.lock is held by the steps that use one
//!   stat/HEX             stat caches of build contexts
//!   git/HEX/             copies of git repositories, each with a locked file
//!   tmp/ID/              private directories of running processes, each with a locked file
//! ```
//!
//! Promises: a side effect becomes visible by one atomic rename and is immutable from then on; a
//! killed process leaves only things under `tmp/`, which the next process clears. What is unreadable
//! or short is treated as absent. Must never interpret what it stores beyond this.

mod blobs;
mod blocks;
mod files;
mod mounts;
mod open;
mod snapshots;

pub use blobs::{BlobWriter, IngestError};
pub use mounts::CacheDir;
pub use open::{Store, StoreError, TempDir};
pub use snapshots::SnapshotId;
