//! Secrets that a layer ships: private keys, tokens of well-known shapes, and files that hold credentials.
//!
//! Owns the decision which files are looked at (by the layer's index: names and sizes first), what counts as a secret,
//! and what was found in a layer before. Promises that a finding never contains any part of the secret, and that
//! public keys, placeholders, documentation and test data are not reported. Must never change a layer.

mod files;
mod keys;
mod lines;
mod names;
mod scan;
mod tokens;

pub use scan::{Finding, Findings, scan_layer};

#[cfg(test)]
mod tests;

/// The kind of a token in a text that is not a file, such as a variable of an image's config.
pub fn in_text(text: &str) -> Option<&'static str> {
    files::find(names::Class::Text, text.as_bytes()).first().map(|(_, kind)| *kind)
}

/// What a file with this content under this path, without a leading slash, holds: line numbers from 1, and kinds. At
/// most 20 of each file.
pub fn find(path: &[u8], content: &[u8]) -> Vec<(usize, &'static str)> {
    match names::class(path, content.len() as u64) {
        Some(class) => files::find(class, content),
        None => Vec::new(),
    }
}
