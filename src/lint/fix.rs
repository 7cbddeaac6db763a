//! Findings that can be set right by themselves.

use super::finding::{Edit, Finding};
use super::{LintInput, check};

/// Fixing a line's keyword can call for the next word's; chains are shorter than this.
const ROUNDS: usize = 5;

/// The source with the edits of findings applied. A finding whose edits overlap with those of an earlier
/// one, or lie outside the source, is left alone; so is one without edits.
pub fn apply_fixes(source: &str, findings: &[Finding]) -> String {
    let mut chosen: Vec<&Edit> = Vec::new();
    for finding in findings {
        let fits = finding.edits.iter().all(|edit| {
            source.get(edit.span.start..edit.span.end).is_some()
                && !chosen.iter().any(|other| overlap(edit, other))
        });
        if fits {
            chosen.extend(&finding.edits);
        }
    }
    chosen.sort_by_key(|edit| edit.span);
    let mut fixed = String::with_capacity(source.len());
    let mut at = 0;
    for edit in chosen {
        fixed.push_str(source.get(at..edit.span.start).unwrap_or(""));
        fixed.push_str(&edit.text);
        at = edit.span.end.max(at);
    }
    fixed.push_str(source.get(at..).unwrap_or(""));
    fixed
}

fn overlap(a: &Edit, b: &Edit) -> bool {
    a.span == b.span || (a.span.start < b.span.end && b.span.start < a.span.end)
}

/// A text after all that could be fixed was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The text.
    pub text: String,
    /// What was fixed: the rule's name and the line (from 1) where it was found, in order.
    pub applied: Vec<(&'static str, usize)>,
}

/// Fixes a file until nothing is left to fix. Should a fix ever give a text that does not parse, the text
/// before it is the result.
pub fn fix(dockerfile: &crate::dockerfile::Dockerfile, input: &LintInput<'_>) -> Fixed {
    let name = dockerfile.source.name().to_owned();
    let mut fixed = Fixed { text: dockerfile.source.text().to_owned(), applied: Vec::new() };
    let mut current = dockerfile.clone();
    for _ in 0..ROUNDS {
        let Ok(report) = check(&current, input) else { break };
        let text = apply_fixes(&fixed.text, &report.findings);
        if text == fixed.text {
            break;
        }
        let Ok(parsed) = crate::dockerfile::parse(&name, text.as_bytes()) else { break };
        for finding in report.findings.iter().filter(|finding| !finding.edits.is_empty()) {
            let entry = (finding.rule.name, finding.lines(&current.source).0);
            if !fixed.applied.contains(&entry) {
                fixed.applied.push(entry);
            }
        }
        fixed.text = text;
        current = parsed;
    }
    fixed
}
