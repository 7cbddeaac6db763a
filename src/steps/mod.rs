//! What each kind of step does to a root file system: run, copy, add, workdir.
//!
//! A step here is a function from layers and inputs to the entries of one new layer (or, for `RUN`,
//! to a frozen upper directory). Cache look-ups, order and events belong to `solve/`. Must never
//! reach outside the root file system it is given.

pub mod add;
pub mod agent;
pub mod copy;
mod copy_content;
pub mod device;
mod download;
pub mod identity;
mod log;
pub mod mount;
pub mod network;
pub mod overlays;
pub mod place;
pub mod recipe;
pub mod redact;
pub mod remote;
pub mod run;
mod settings;
pub mod ssh;
pub mod tree_source;
mod why;
pub mod workdir;

use crate::snapshot::{Chain, NodeKind, SnapshotError, Snapshots, Tree};

use identity::Accounts;

/// Reads the accounts of a root file system, links inside it followed.
pub fn accounts(snapshots: &Snapshots, chain: &Chain, tree: &Tree) -> Result<Accounts, SnapshotError> {
    Ok(Accounts {
        passwd: small_file(snapshots, chain, tree, b"etc/passwd")?,
        group: small_file(snapshots, chain, tree, b"etc/group")?,
    })
}

/// A file's bytes; empty where it is missing, no regular file, or larger than accounts ever are.
fn small_file(
    snapshots: &Snapshots,
    chain: &Chain,
    tree: &Tree,
    path: &[u8],
) -> Result<Vec<u8>, SnapshotError> {
    let Ok(path) = tree.resolve(path) else { return Ok(Vec::new()) };
    let Some(node) = tree.lookup(&path) else { return Ok(Vec::new()) };
    match node.kind {
        NodeKind::File { size, .. } if size <= identity::MAX_FILE => {
            snapshots.read_file(chain, node, &path, identity::MAX_FILE)
        }
        _ => Ok(Vec::new()),
    }
}
