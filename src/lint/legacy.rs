//! `ENV key value`, `LABEL key value` and `MAINTAINER`: what newer forms have replaced.

use crate::dockerfile::{Dockerfile, Instruction, KeyValue, Word};

use super::finding::{Edit, Findings, Place};
use super::rule as rules;

/// The legacy form of `ENV` and `LABEL`.
pub(super) fn pairs(
    dockerfile: &Dockerfile,
    instruction: &Instruction,
    pairs: &[KeyValue],
    findings: &mut Findings<'_>,
) {
    let name = &instruction.keyword.text;
    for pair in pairs.iter().filter(|pair| pair.legacy) {
        let detail =
            format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
        let edits = pair_edit(dockerfile, pair).into_iter().collect();
        findings.add_with(&rules::LEGACY_KEY_VALUE_FORMAT, Place::of(instruction), detail, edits);
    }
}

/// `key value` as `key="value"`. Values with quotes and escapes of their own would need a second look.
fn pair_edit(dockerfile: &Dockerfile, pair: &KeyValue) -> Option<Edit> {
    let (key, value) = (as_written(dockerfile, &pair.key)?, as_written(dockerfile, &pair.value)?);
    let plain_key = key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'));
    if !plain_key || !is_quotable(value) {
        return None;
    }
    let bare = value.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:,@%+$={}".contains(c));
    let text = if bare { format!("{key}={value}") } else { format!("{key}=\"{value}\"") };
    Some(Edit::new(pair.key.span.to(pair.value.span), text))
}

/// `MAINTAINER`.
pub(super) fn maintainer(instruction: &Instruction, name: &Word, findings: &mut Findings<'_>) {
    let edits = maintainer_edit(findings.dockerfile, instruction, name).into_iter().collect();
    let detail = "Maintainer instruction is deprecated in favor of using label";
    findings.add_with(&rules::MAINTAINER_DEPRECATED, Place::of(instruction), detail, edits);
}

fn maintainer_edit(dockerfile: &Dockerfile, instruction: &Instruction, name: &Word) -> Option<Edit> {
    let written = as_written(dockerfile, name)?;
    let text = written.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(written);
    if !is_quotable(text) || text.contains('$') {
        return None;
    }
    let upper = !instruction.keyword.text.contains(|c: char| c.is_ascii_lowercase());
    let keyword = if upper { "LABEL" } else { "label" };
    let text = format!("{keyword} org.opencontainers.image.authors=\"{text}\"");
    Some(Edit::new(instruction.keyword.span.to(name.span), text))
}

/// Whether a text means the same between double quotes as it does bare.
fn is_quotable(text: &str) -> bool {
    !text.is_empty() && !text.contains(['"', '\'', '\\', '`', '\n', '\r'])
}

/// A word's text if it stands in the source as it is, on one line.
fn as_written<'a>(dockerfile: &Dockerfile, word: &'a Word) -> Option<&'a str> {
    (dockerfile.source.slice(word.span) == word.text).then_some(word.text.as_str())
}
