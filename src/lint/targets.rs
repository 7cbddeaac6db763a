//! `--call=targets`: the stages that a build can be asked for.

use serde_json::{Value, json};

use crate::dockerfile::{Dockerfile, Span};

use super::report::{bytes, location};
use super::table::table;

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name; empty where it has none.
    pub name: String,
    /// What the comment above says that begins with the name.
    pub description: String,
    /// What a build without `--target` makes.
    pub default: bool,
    /// The base, as written.
    pub base: String,
    /// `--platform`, as written; empty where there is none.
    pub platform: String,
    /// The `FROM`.
    pub span: Span,
}

/// The rest of the first comment line that begins with a name and a blank.
pub(super) fn description(comments: &[String], name: &str) -> String {
    let rest = |comment: &String| Some(comment.strip_prefix(name)?.strip_prefix(' ')?.trim().to_owned());
    if name.is_empty() { String::new() } else { comments.iter().find_map(rest).unwrap_or_default() }
}

/// All stages in order.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let last = dockerfile.stages.len().saturating_sub(1);
    let of = |stage: &crate::dockerfile::Stage| {
        let name = stage.name().unwrap_or_default();
        Target {
            name: name.to_owned(),
            description: description(&stage.from.comments, name),
            default: stage.index == last,
            base: stage.from.image.text.clone(),
            platform: stage.from.platform.as_ref().map(|word| word.text.clone()).unwrap_or_default(),
            span: stage.from.span,
        }
    };
    dockerfile.stages.iter().map(of).collect()
}

/// The text form.
pub fn targets_text(dockerfile: &Dockerfile) -> String {
    let targets = targets(dockerfile);
    let names: Vec<String> = targets
        .iter()
        .map(|target| match (target.default, target.name.as_str()) {
            (true, "") => "(default)".to_owned(),
            (true, name) => format!("{name} (default)"),
            (false, name) => name.to_owned(),
        })
        .collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(names.iter().zip(&targets).map(|(name, target)| vec![name.as_str(), &target.description]));
    table(&rows, 1)
}

/// The JSON form.
pub fn targets_json(dockerfile: &Dockerfile) -> Value {
    let source = &dockerfile.source;
    let entry = |target: &Target| {
        let mut entry = serde_json::Map::new();
        for (key, value) in [
            ("name", &target.name),
            ("description", &target.description),
            ("base", &target.base),
            ("platform", &target.platform),
        ] {
            if !value.is_empty() {
                entry.insert(key.to_owned(), json!(value));
            }
        }
        if target.default {
            entry.insert("default".to_owned(), json!(true));
        }
        entry.insert("location".to_owned(), location(source, target.span));
        Value::Object(entry)
    };
    let all: Vec<Value> = targets(dockerfile).iter().map(entry).collect();
    json!({ "targets": all, "sources": [bytes(source)] })
}
