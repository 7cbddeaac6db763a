//! Dockerfile text to AST, with a source span on every node. Pure: no I/O, no clock, no environment.
//!
//! Owns the language: lines and continuations, heredocs, directives, flags, JSON form, instructions,
//! and the one implementation of variable expansion. Promises that no input panics and that the work
//! is linear in its length. Must never look at files, variables' values or the network.

pub mod ast;
mod directives;
mod duration;
mod error;
mod flags;
mod heredoc;
mod instruction;
mod json;
mod lines;
mod parser;
mod render;
pub mod source;
#[cfg(test)]
mod tests;
mod text;
pub mod words;

pub use ast::*;
pub use error::{ParseError, ParseErrors};
pub use parser::{Trigger, parse, parse_trigger};
pub use render::{render_error, render_failed};
pub use source::{Location, Source, Span};
pub use words::{Expanded, Expander, Variables, WordError};
