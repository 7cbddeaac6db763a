//! The engine's front door: a [`BuildRequest`] goes in, a [`BuildOutcome`] comes out.
//!
//! Nothing above this floor knows how a build works; nothing below it knows what a command line is.
//! Owns the order of things: context, Dockerfile, plan, bases, solve, image, outputs, names. Promises
//! that a name points at an image only after all of it is in the store and all outputs are written.

mod bases;
mod check;
mod engine;
mod failure;
mod outputs;
mod request;
mod run;

pub use bases::RegistryAccess;
pub use check::{Checked, FixedFile};
pub use engine::{Engine, EngineOptions};
pub use failure::{Failure, FailureKind};
pub use request::{
    BuildOutcome, BuildRequest, CompressionAlgorithm, CompressionChoice, OutputKind, OutputSpec, PullPolicy,
    RunNetwork,
};
pub use run::RunRequest;
