//! The JSON form of arguments: `["a", "b"]`.

use serde_json::Value;

use super::ast::Word;
use super::error::{Outcome, Problem};
use super::text::View;

/// The strings of a JSON array, decoded. `None` where the text is not a JSON array from its first to its
/// last character: then it is meant for the shell, or as plain words.
///
/// # Errors
/// A JSON array that holds anything but strings.
pub(super) fn strings(arguments: View<'_>) -> Outcome<Option<Vec<Word>>> {
    let arguments = arguments.trim();
    if !arguments.as_str().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(arguments.as_str()) else { return Ok(None) };
    let mut places = string_places(arguments).into_iter();
    let mut words = Vec::with_capacity(values.len());
    for value in values {
        let Value::String(text) = value else {
            return Err(Problem::new(arguments.span(), "the JSON form takes an array of strings only")
                .help("put every element in double quotes"));
        };
        words.push(places.next().unwrap_or(arguments).word_as(text));
    }
    Ok(Some(words))
}

/// Whether a text that is no JSON array was likely meant as one.
pub(super) fn looks_meant(text: &str) -> bool {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    inner.is_some_and(|inner| {
        inner.trim_start().starts_with(['\'', '"', '\u{201c}']) && !(inner.starts_with(' ') && is_test(inner))
    })
}

/// Whether what stands in brackets is a test of the shell's: it has an operator, or the bracket's end, as a
/// word of its own.
fn is_test(inner: &str) -> bool {
    let operator = |word: &str| {
        matches!(word, "]" | "=" | "==" | "!=" | "=~" | "<" | ">" | "&&" | "||" | "-a" | "-o")
            || matches!(word, "-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge" | "-nt" | "-ot" | "-ef")
    };
    inner.split_whitespace().any(operator)
}

/// The string literals of a valid JSON array of strings, in order.
fn string_places(array: View<'_>) -> Vec<View<'_>> {
    let mut places = Vec::new();
    let mut open = None;
    let mut chars = array.as_str().char_indices();
    while let Some((at, c)) = chars.next() {
        match (open, c) {
            (None, '"') => open = Some(at),
            (Some(start), '"') => {
                places.push(array.sub(start..at + 1));
                open = None;
            }
            (Some(_), '\\') => {
                chars.next();
            }
            _ => {}
        }
    }
    places
}
