//! The engine's front door: a [`BuildRequest`] goes in, a [`BuildOutcome`] comes out.
//!
//! Nothing above this floor knows how a build works; nothing below it knows what a command line is.

pub mod request;

pub use request::*;
