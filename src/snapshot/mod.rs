//! Root file systems: what a stack of layers looks like, and how it becomes something to mount.
//!
//! Owns the merged view of a chain ([`Tree`]), which needs no unpacked files, and the layer
//! directories that a `RUN` mounts ([`Chain::lowers`]), made only when something asks for them.
//! Promises that a frozen snapshot never changes. Must never interpret Dockerfile words.

mod chain;
mod plain;
mod tree;

pub use chain::{Chain, Fetch, Finished, LayerCell, Make, SnapshotError, Snapshots};
pub use plain::PlainRoot;
pub use tree::{Node, NodeKind, ResolveError, Tree, path_order};
