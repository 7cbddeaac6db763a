//! rbuild: a daemonless OCI image builder that interprets Dockerfiles.
//!
//! Data travels one way, and each module below owns one stretch of the road:
//!
//! ```text
//! argv -> BuildRequest -> Dockerfile (AST) -> Plan -> solve (cache | execute) -> Layers -> Image -> Export
//! ```
//!
//! `ARCHITECTURE.md` in the repository lists the tiers and says which module may import which.

pub mod attest;
pub mod build;
pub mod cache;
pub mod cancel;
mod child;
pub mod cli;
pub mod compress;
pub mod context;
pub mod digest;
pub mod dockerfile;
pub mod event;
pub mod explain;
pub mod export;
pub mod fs;
pub mod gc;
pub mod image;
pub mod layer;
pub mod lint;
mod memory;
pub mod objects;
pub mod plan;
pub mod progress;
pub mod registry;
pub mod remote;
pub mod sandbox;
pub mod sbom;
pub mod secrets;
pub mod size;
pub mod snapshot;
pub mod solve;
pub mod sources;
pub mod steps;
pub mod store;
pub mod suggest;
mod threads;
pub mod time;
pub mod verify;
pub mod visible;
