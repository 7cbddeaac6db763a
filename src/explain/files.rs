//! Two lists of files compared. The form of a list is that of
//! [`Selected::digest`](crate::steps::copy::Selected::digest).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    /// Its path in the context or stage.
    pub path: String,
    /// What differs; never empty.
    pub what: Vec<What>,
}

/// How a file differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "change")]
pub enum What {
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
    /// Other bytes.
    Content,
    /// Other permissions, in octal digits.
    Mode {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// Another owner, as `UID:GID`.
    Owner {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// It was a file of another kind.
    Kind {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// A link that leads elsewhere.
    Target {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// Extended attributes.
    Attributes,
}

impl FileChange {
    /// In words: `src/a.rs changed`, `mode of run.sh 0755 -> 0644`.
    pub fn text(&self) -> String {
        let path = &self.path;
        match self.what.first() {
            Some(What::New) => format!("{path} is new"),
            Some(What::Gone) => format!("{path} is gone"),
            Some(What::Content) | None => format!("{path} changed"),
            Some(What::Mode { old, new }) => format!("mode of {path} {old} -> {new}"),
            Some(What::Owner { old, new }) => format!("owner of {path} {old} -> {new}"),
            Some(What::Kind { old, new }) => format!("{path} was a {old} and is a {new}"),
            Some(What::Target { old, new }) => format!("link {path} {old} -> {new}"),
            Some(What::Attributes) => format!("extended attributes of {path} changed"),
        }
    }

    /// Whether it is only there or not there.
    pub(super) fn is_presence(&self) -> bool {
        matches!(self.what.first(), Some(What::New | What::Gone))
    }
}

/// A line of a list.
struct Row<'a> {
    kind: &'a str,
    mode: &'a str,
    owner: &'a str,
    detail: &'a str,
    attributes: &'a str,
    path: String,
}

/// First line of a list.
const HEAD: &str = "files 2";

/// The rows of a list by what identifies a file from list to list: the name of what was selected, and the path in it.
/// `None` where it is no list, or one of another version.
fn parse<'a>(pattern: &str, list: &'a str) -> Option<BTreeMap<(String, String), Row<'a>>> {
    let mut lines = list.lines();
    if lines.next() != Some(HEAD) {
        return None;
    }
    let plain = !pattern.contains(['*', '?', '[']);
    let pattern = pattern.trim_start_matches("./").trim_matches('/');
    let pattern = if pattern == "." { "" } else { pattern };
    let (mut rows, mut selected) = (BTreeMap::new(), String::new());
    for line in lines {
        if let Some(name) = line.strip_prefix("=\t").or(line.strip_prefix("~\t")) {
            // The same content may lie in several places; its list may be that of another one.
            selected = if plain && line.starts_with('=') { pattern.to_owned() } else { name.to_owned() };
            continue;
        }
        let cells: Vec<&str> = line.split('\t').collect();
        let [kind, mode, owner, detail, attributes, relative] = cells[..] else { return None };
        let path = match (selected.is_empty(), relative.is_empty()) {
            (_, true) => selected.clone(),
            (true, false) => relative.to_owned(),
            (false, false) => format!("{selected}/{relative}"),
        };
        let name = if plain { "" } else { selected.rsplit('/').next().unwrap_or_default() };
        let key = (name.to_owned(), relative.to_owned());
        rows.insert(key, Row { kind, mode, owner, detail, attributes, path });
    }
    Some(rows)
}

/// The files in which two lists differ, sorted by path: at most `most` of them, and how many there are in all.
/// `pattern` is what was selected by. `None` where a list cannot be read.
pub(super) fn compare(
    pattern: &str,
    old: &[u8],
    new: &[u8],
    most: usize,
) -> Option<(Vec<FileChange>, usize)> {
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let (old, new) = (parse(pattern, &old)?, parse(pattern, &new)?);
    let mut changes = Vec::new();
    for (key, row) in &new {
        let what = match old.get(key) {
            None => vec![What::New],
            Some(before) => differences(before, row),
        };
        if !what.is_empty() {
            changes.push(FileChange { path: row.path.clone(), what });
        }
    }
    let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
    changes.extend(gone.map(|(_, row)| FileChange { path: row.path.clone(), what: vec![What::Gone] }));
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    let all = changes.len();
    changes.truncate(most);
    Some((changes, all))
}

fn differences(old: &Row<'_>, new: &Row<'_>) -> Vec<What> {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    if old.kind != new.kind {
        let (old, new) = pair(kind(old.kind), kind(new.kind));
        return vec![What::Kind { old, new }];
    }
    let mut what = Vec::new();
    if old.detail != new.detail {
        what.push(match new.kind {
            "link" => {
                let (old, new) = pair(old.detail, new.detail);
                What::Target { old, new }
            }
            _ => What::Content,
        });
    }
    // Links have no permissions of their own.
    if old.mode != new.mode && new.kind != "link" {
        let (old, new) = (octal(old.mode), octal(new.mode));
        what.push(What::Mode { old, new });
    }
    if old.owner != new.owner {
        let (old, new) = pair(old.owner, new.owner);
        what.push(What::Owner { old, new });
    }
    if old.attributes != new.attributes {
        what.push(What::Attributes);
    }
    what
}

fn kind(word: &str) -> &str {
    match word {
        "dir" => "directory",
        "char" => "character device",
        "block" => "block device",
        "fifo" => "named pipe",
        other => other,
    }
}

fn octal(digits: &str) -> String {
    format!("{digits:0>4}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rows: &[&str]) -> Vec<u8> {
        let mut out = format!("{HEAD}\n");
        for row in rows {
            out.push_str(&row.replace(' ', "\t"));
            out.push('\n');
        }
        out.into_bytes()
    }

    fn texts(pattern: &str, old: &[&str], new: &[&str]) -> Vec<String> {
        let (changes, all) = compare(pattern, &list(old), &list(new), 100).expect("lists");
        assert_eq!(changes.len(), all);
        changes.iter().map(FileChange::text).collect()
    }

    #[test]
    fn what_became_of_a_file_is_told() {
        let old =
            ["= src", "file 644 0:0 aa  a", "file 755 0:0 bb  b", "link 777 0:0 x  l", "dir 755 0:0   d"];
        for (new, wanted) in [
            (
                ["= src", "file 644 0:0 ab  a", "file 755 0:0 bb  b", "link 777 0:0 x  l", "dir 755 0:0   d"],
                "src/a changed",
            ),
            (
                ["= src", "file 644 0:0 aa  a", "file 644 0:0 bb  b", "link 777 0:0 x  l", "dir 755 0:0   d"],
                "mode of src/b 0755 -> 0644",
            ),
            (
                ["= src", "file 644 0:0 aa  a", "file 755 1:0 bb  b", "link 777 0:0 x  l", "dir 755 0:0   d"],
                "owner of src/b 0:0 -> 1:0",
            ),
            (
                ["= src", "file 644 0:0 aa  a", "file 755 0:0 bb  b", "link 777 0:0 y  l", "dir 755 0:0   d"],
                "link src/l x -> y",
            ),
            (
                [
                    "= src",
                    "file 644 0:0 aa  a",
                    "file 755 0:0 bb  b",
                    "link 777 0:0 x  l",
                    "file 755 0:0 cc  d",
                ],
                "src/d was a directory and is a file",
            ),
            (
                [
                    "= src",
                    "file 644 0:0 aa ff a",
                    "file 755 0:0 bb  b",
                    "link 777 0:0 x  l",
                    "dir 755 0:0   d",
                ],
                "extended attributes of src/a changed",
            ),
        ] {
            assert_eq!(texts("src", &old, &new), [wanted]);
        }
    }

    #[test]
    fn files_are_called_as_in_the_context() {
        let (old, new) = (["= d", "file 644 0:0 aa  x"], ["= d", "file 644 0:0 bb  x", "file 644 0:0 bb  y"]);
        assert_eq!(texts("./d/", &old, &new), ["d/x changed", "d/y is new"]);
        assert_eq!(texts(".", &old, &new), ["x changed", "y is new"]);
        // What a list says of its place may be that of another directory with the same content.
        assert_eq!(texts("other", &old, &new), ["other/x changed", "other/y is new"]);
        let single = |digest: &str| ["= a/f".to_owned(), format!("file 644 0:0 {digest}  ")];
        let (old, new) = (single("aa"), single("bb"));
        let (old, new): (Vec<_>, Vec<_>) =
            (old.iter().map(|s| s.as_str()).collect(), new.iter().map(|s| s.as_str()).collect());
        assert_eq!(texts("a/f", &old, &new), ["a/f changed"]);
        assert_eq!(texts("a/*", &old, &new), ["a/f changed"]);
        assert_eq!(
            texts(
                "a/*",
                &["= a/f", "file 644 0:0 aa  "],
                &["= a/e", "file 644 0:0 aa  ", "= a/f", "file 644 0:0 aa  "]
            ),
            ["a/e is new"]
        );
    }

    #[test]
    fn lists_of_other_forms_are_not_guessed_at() {
        assert_eq!(compare(".", b"file 644 0:0 aa a\n", &list(&[]), 1), None);
        assert_eq!(compare(".", &list(&["file 1"]), &list(&[]), 1), None);
        assert_eq!(compare(".", b"\xff\xfe", b"", 1), None);
    }
}
