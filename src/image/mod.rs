//! Images: config, history, manifest, index; building them and reading them.
//!
//! Owns the JSON of the OCI image specification (and Docker's extensions of it). Promises a canonical
//! form: what is written twice from the same values is the same bytes. Config fields that rbuild does
//! not know pass through unchanged. Must never touch layer bytes.

pub mod config;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
