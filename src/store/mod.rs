//! The only room that knows the on-disk layout of a store.
//!
//! ```text
//! ROOT/
//!   version              "1": a store of another version is refused, never converted silently
//!   lock                 flock: shared while the store is open
//!   gate                 flock: shared to mark something as used, alone to remove something unused
//!   spare                space for opening the store to clean it when the disk is full
//!   collect              flock: alone while collecting or checking; its time: the last collection
//!   blobs/sha256/HEX     verified blobs: compressed layers, configs, manifests, indexes
//!   layers/HH/HEX.json   by diff ID: the layer's blobs
//!   index/HH/HEX         by diff ID: the entries of the layer
//!   chains/HH/HEX        by chain ID: the snapshot that holds its topmost layer; HEX.KIND where
//!                        owners on disk are not those in images
//!   snapshots/ID/fs      one layer's directory in overlayfs form
//!   records/HH/HEX       by cache key: typed, versioned results; see `record.rs`
//!   blocks               which compressed block of a layer lies where in which blob
//!   refs/NAME            image names (percent-encoded), each holding a manifest or index descriptor
//!   mounts/HEX.N/fs      directories of cache mounts; HEX.N.lock is held by the steps that use one
//!   stat/HEX             stat caches of build contexts
//!   git/HEX/             copies of git repositories, each with a locked file
//!   builds/TIME-ID-KIND  builds that are remembered; see `builds.rs`
//!   logs/TIME.log        what failed steps printed; the newest few
//!   told/HEX             empty; its time: when people were told the text with this digest
//!   tmp/ID/              private directories of running processes, each with a locked file
//! ```
//!
//! Nobody but the owner of `ROOT` may enter it (mode 0700), nor any directory the store makes.
//!
//! Promises: a side effect becomes visible by one atomic rename and is immutable from then on; a
//! killed process leaves only things under `tmp/`, which the next process clears. What is unreadable
//! or short is treated as absent. What a process has seen stays while it lives. Modification times say
//! when something was last used. Must never interpret what it stores beyond this; `gc/` does.

mod arrivals;
mod blobs;
mod blocks;
mod builds;
mod collect;
mod files;
mod gate;
mod inventory;
mod logs;
mod mounts;
mod open;
mod private;
mod record;
mod secret_key;
mod snapshots;
mod space;
mod temp;

pub use arrivals::ArrivingBlob;
pub use blobs::{BlobWriter, IngestError};
pub use builds::{RememberedBuild, damage_of_build};
pub use collect::{Collector, Fate};
pub use inventory::{Item, Listing, Room};
pub use mounts::CacheDir;
pub use open::{Store, StoreError};
pub use record::{Edge, ParsedRecord, RecordHead, RecordKind, Recorded, RecordedAsJson, parse_record};
pub use snapshots::{SnapshotId, SnapshotKind};
pub use space::FullDisk;
pub use temp::TempDir;
