//! Bills of materials: which packages the layers of an image hold, and which layer brought each of them.
//!
//! Owns the readers of package databases and of what programs say about themselves, and the documents made of it
//! (SPDX 2.3, CycloneDX 1.6). Decides by the layers' indexes which files matter, and reads only those, in one pass a
//! layer. Never executes anything, never uses the network, and never gives up on an image for one file: what cannot
//! be read becomes a note with its path.

mod apk;
mod cargo;
mod classify;
mod composer;
mod cyclonedx;
mod document;
mod dotnet;
mod dpkg;
mod elf;
mod gem;
mod golang;
mod java;
mod license;
mod lock;
mod npm;
mod origin;
mod package;
mod python;
mod read;
mod rpm;
mod scan;
mod spdx;
mod text;
mod zip;

pub use classify::{Class, classify};
pub use document::{Document, Facts, Subject};
pub use package::{Ecosystem, Package};
pub use read::packages_of;
pub use scan::{FileRecord, Inventory, LayerOrigin, Note, scan, scan_context};

#[cfg(test)]
mod tests;
