//! Reports as `--call=check` writes them, as text and as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::dockerfile::{Source, Span};
use crate::visible::{visible, visible_line};

use super::Report;
use super::finding::{self, Finding};
use super::rule::Level;

/// Why the file could not be built as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    /// What is wrong.
    pub message: String,
    /// Where, if it is somewhere in the file.
    pub span: Option<Span>,
}

/// Lines as BuildKit's locations have them: one range for each line of a span.
pub(super) fn location(source: &Source, span: Span) -> Value {
    let (first, last) = finding::lines(source, span);
    let ranges: Vec<Value> =
        (first..=last).map(|line| json!({"start": {"line": line}, "end": {"line": line}})).collect();
    json!({ "ranges": ranges })
}

/// Data that is bytes in BuildKit's structures.
pub(super) fn bytes(source: &Source) -> String {
    STANDARD.encode(source.text())
}

/// The JSON form. `warnings`, `sources` and `buildError` are as in BuildKit (which writes `null` for
/// no warnings, and into `sources` also how the file came to its daemon); `hints` are findings of rbuild's
/// own rules.
pub fn json(report: &Report, source: &Source, error: Option<&BuildError>) -> Value {
    let of = |hints: bool| -> Vec<Value> {
        let wanted = report.findings.iter().filter(|one| (one.rule.level != Level::Warning) == hints);
        wanted.map(|one| entry(source, one)).collect()
    };
    let mut out = json!({
        "warnings": of(false),
        "sources": [{
            "filename": file_name(source),
            "data": bytes(source),
            "language": "Dockerfile",
        }],
    });
    let hints = of(true);
    if !hints.is_empty() {
        out["hints"] = Value::Array(hints);
    }
    if let Some(error) = error {
        out["buildError"] = json!({ "message": error.message });
        if let Some(span) = error.span {
            out["buildError"]["location"] = location(source, span);
        }
    }
    out
}

/// The last part of the path; standard input has the default name.
fn file_name(source: &Source) -> &str {
    match source.name().rsplit('/').next() {
        None | Some("-" | "") => "Dockerfile",
        Some(name) => name,
    }
}

fn entry(source: &Source, finding: &Finding) -> Value {
    let mut entry = json!({ "ruleName": finding.rule.name, "description": finding.rule.description });
    match finding.rule.url() {
        Some(url) => entry["url"] = json!(url),
        None => entry["explain"] = json!(finding.rule.command()),
    }
    entry["detail"] = json!(finding.detail);
    entry["location"] = location(source, finding.span);
    if finding.rule.level == Level::Info {
        entry["level"] = json!("info");
    }
    entry
}

/// The text form: a summary line, then every finding with the lines it is about. A check that ended at a mistake,
/// `failed`, does not claim to be complete without warnings.
pub fn text(report: &Report, source: &Source, failed: bool) -> String {
    let warnings = report.warnings().count();
    let mut out = match warnings {
        0 if failed => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for finding in &report.findings {
        let mark = match finding.rule.level {
            Level::Warning => "WARNING",
            Level::Hint => "HINT",
            Level::Info => "INFO",
        };
        out.push_str(&format!(
            "\n{mark}: {} - {}\n{}\n",
            finding.rule.name,
            finding.rule.url().unwrap_or_else(|| finding.rule.command()),
            visible(&finding.detail)
        ));
        out.push_str(&excerpt(source, finding.span));
    }
    out
}

/// Marked lines with their neighbours.
fn excerpt(source: &Source, span: Span) -> String {
    const RULER: &str = "--------------------\n";
    let (first, last) = finding::lines(source, span);
    let around = if first == last { 2 } else { 1 };
    let shown = first.saturating_sub(around).max(1)..=(last + around).min(source.line_count());
    let mut out = format!("{}:{first}\n{RULER}", visible_line(source.name()));
    for line in shown {
        let mark = if (first..=last).contains(&line) { ">>>" } else { "   " };
        out.push_str(&format!(" {line:3} | {mark} {}\n", visible(source.line(line))));
    }
    out.push_str(RULER);
    out
}
