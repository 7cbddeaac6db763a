//! Root file systems: what a stack of layers looks like, and how it becomes something to mount.
//!
//! Owns the merged view of a chain ([`Tree`]), which needs no unpacked files, and the layer
//! directories that a `RUN` mounts ([`Chain::lowers`]), made only when something asks for them.
//! Promises that a frozen snapshot never changes. Must never interpret Dockerfile words.

mod cell;
mod chain;
mod changes;
mod error;
mod live;
mod plain;
mod reading;
mod snapshots;
mod stored;
mod tree;

pub use cell::{Fetch, Finished, LayerCell, Make};
pub use chain::Chain;
pub use error::SnapshotError;
pub use live::{LiveRoot, LiveRoots};
pub use plain::PlainRoot;
pub use reading::{FileReader, WantedFile};
pub use snapshots::Snapshots;
pub use tree::{Node, NodeKind, ResolveError, Tree, path_order};
