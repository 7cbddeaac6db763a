//! Dockerfile text to AST, with a source span on every node. Pure: no I/O, no clock, no environment.
//!
//! Owns the language: lines and continuations, heredocs, directives, flags, JSON form, instructions,
//! and the one implementation of variable expansion. Promises that no input panics and that the work
//! is linear in its length. Must never look at files, variables' values or the network.

pub mod ast;
pub mod source;
pub mod words;

pub use ast::*;
pub use source::{Location, Source, Span};
