//! Parser directives: `# key=value` lines before anything else.

use super::ast::{Directives, Word};
use super::error::{Outcome, Problem};
use super::lines::{Line, Reader};
use super::source::Span;

/// Reads the head of a file. Gives the directives and the offset of the first line after them.
pub(super) fn read(text: &str) -> Outcome<(Directives, usize)> {
    let mut directives = Directives { escape: '\\', syntax: None, check: None };
    let head = scan(text, 0, "#")?;
    for found in head.found {
        match found.key {
            Key::Escape => directives.escape = escape(&found.value)?,
            Key::Syntax => directives.syntax = Some(found.value),
            Key::Check => directives.check = Some(found.value),
        }
    }
    if directives.syntax.is_none() {
        directives.syntax = after_shebang(text, Key::Syntax);
    }
    if directives.check.is_none() {
        directives.check = after_shebang(text, Key::Check);
    }
    if directives.syntax.is_none() {
        refuse_other_formats(text)?;
    }
    Ok((directives, head.end))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Syntax,
    Escape,
    Check,
}

struct Found {
    key: Key,
    value: Word,
}

struct Head {
    found: Vec<Found>,
    /// Offset of the first line that is no directive.
    end: usize,
}

/// Directive lines from `at` on, with `mark` as the comment sign.
fn scan(text: &str, at: usize, mark: &str) -> Outcome<Head> {
    let mut reader = Reader::new(text, at, '\\');
    let mut head = Head { found: Vec::new(), end: at };
    while let Some(line) = reader.next_line() {
        let Some(found) = directive(line, mark) else { break };
        if head.found.iter().any(|earlier| earlier.key == found.key) {
            let name = match found.key {
                Key::Syntax => "syntax",
                Key::Escape => "escape",
                Key::Check => "check",
            };
            return Err(Problem::new(line.span(), format!("only one {name} parser directive can be used"))
                .help("keep one of them and remove the other"));
        }
        head.found.push(found);
        head.end = reader.position();
    }
    Ok(head)
}

fn directive(line: Line<'_>, mark: &str) -> Option<Found> {
    let rest = line.text.trim_start().strip_prefix(mark)?;
    let (name, value) = rest.split_once('=')?;
    let key = match name.trim() {
        name if name.eq_ignore_ascii_case("syntax") => Key::Syntax,
        name if name.eq_ignore_ascii_case("escape") => Key::Escape,
        name if name.eq_ignore_ascii_case("check") => Key::Check,
        _ => return None,
    };
    if value.trim().is_empty() {
        return None;
    }
    let start = line.start + line.text.len() - value.trim_start().len();
    let value = value.trim();
    Some(Found { key, value: Word { text: value.to_owned(), span: Span::new(start, start + value.len()) } })
}

fn escape(value: &Word) -> Outcome<char> {
    match value.text.as_str() {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        other => {
            Err(Problem::new(value.span, format!("invalid escape character `{other}`: it must be ` or \\")))
        }
    }
}

/// A `#!` first line is skipped when the syntax and the checks are looked for (not the escape character).
fn after_shebang(text: &str, key: Key) -> Option<Word> {
    if !text.starts_with("#!") {
        return None;
    }
    let start = text.find('\n')? + 1;
    let head = scan(text, start, "#").ok()?;
    head.found.into_iter().find(|found| found.key == key).map(|found| found.value)
}

/// `// syntax=` and `{"syntax": ...}` name a frontend for a file that is no Dockerfile at all.
fn refuse_other_formats(text: &str) -> Outcome<()> {
    let start = if text.starts_with("#!") { text.find('\n').map_or(text.len(), |at| at + 1) } else { 0 };
    let slashes = scan(text, start, "//")?.found.into_iter().find(|found| found.key == Key::Syntax);
    let (frontend, span) = if let Some(found) = slashes {
        (found.value.text, found.value.span)
    } else if let Some(frontend) = json_syntax(text.get(start..).unwrap_or("")) {
        let line = Reader::new(text, start, '\\').next_line();
        (frontend, line.map_or(Span::default(), Line::span))
    } else {
        return Ok(());
    };
    let image = frontend.split_whitespace().next().unwrap_or("");
    Err(Problem::new(span, format!("this file asks for the frontend `{image}` and is not written as a Dockerfile"))
        .help("rbuild reads Dockerfiles itself and runs no frontend images; give it a Dockerfile, with `# syntax=` if any"))
}

fn json_syntax(text: &str) -> Option<String> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(value.get("syntax")?.as_str()?.to_owned())
}
