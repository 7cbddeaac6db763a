//! Exports: an image of the store, or its files, to somewhere the user asked for.
//!
//! Owns the forms of archives and directories that leave the store. Promises: output appears under
//! its name only when it is complete (temporary beside it, then rename), every blob is verified while
//! it is copied, and the same image gives the same bytes. Must never change the store beyond adding
//! blobs, nor follow a link that lies in a destination directory.

pub mod docker;
pub mod local;
pub mod oci;
pub mod tar;

mod dest;
mod error;
mod hashing;
mod layout;
mod occupied;
mod pack;
mod save;
mod tree;

pub use dest::{Dest, check_place};
pub use error::ExportError;
pub use layout::ExportImage;
pub use occupied::Replaced;
pub use pack::{is_draft, pack};
pub use save::save;
pub use tree::RootTree;

#[cfg(test)]
mod tests;
