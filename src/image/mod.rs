//! Images: config, history, manifest, index; building them and reading them.
//!
//! Owns the JSON of the OCI image specification (and Docker's extensions of it). Promises a canonical
//! form: what is written twice from the same values is the same bytes. Config fields that rbuild does
//! not know pass through unchanged. Must never touch layer bytes.

pub mod build;
pub mod choose;
pub mod config;
pub mod draft;
pub mod ids;
pub mod inspect;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod read;
pub mod reference;
pub mod referrer;

pub use build::{AssembleError, Assembled, Image, LayerRef, assemble};
pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use manifest::{Descriptor, Document, Index, Manifest, ManifestError};
pub use media_type::{Family, layer_compression};
pub use platform::{InvalidPlatform, Platform};
pub use read::{ImageSource, ReadError, ResolvedImage, Selector, from_store, open_layout};
pub use reference::{Reference, ReferenceError};
