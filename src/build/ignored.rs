//! Whether an ignore file leaves a source of `COPY` nothing to copy.

use std::path::Path;

use crate::context::ignore::IgnoreRules;
use crate::context::{FileSource, LocalContext};

/// Whether the context's ignore rules exclude all that a source selects. `path` is cleaned and relative to the
/// context; it may have wildcards, and be `.`.
///
/// As in BuildKit a path need not be there to be ignored: rules alone decide where they can. Files are looked at
/// where they cannot: below a directory in which something is re-included, and for wildcards.
pub(super) fn leaves_nothing(context: &LocalContext, path: &str) -> bool {
    let rules = context.rules();
    if rules.is_empty() {
        return false;
    }
    if path == "." {
        return rules.matches_every_name() && (!rules.has_negations() || is_hidden(context, path));
    }
    let wild = path.contains(['*', '?', '[', '\\']);
    if wild && !path.contains("**") {
        let select =
            |context: &LocalContext| context.glob(path.as_bytes()).is_ok_and(|found| !found.is_empty());
        if select(context) {
            return false;
        }
        if unfiltered(context.root()).is_some_and(|all| select(&all)) {
            return true;
        }
    }
    let mut walker = rules.walker();
    for part in path.split('/') {
        walker = walker.enter(part.as_bytes());
    }
    if !walker.dir_matches() {
        return false;
    }
    if !rules.has_negations() {
        return true;
    }
    !wild && (walker.can_prune() || is_hidden(context, path))
}

/// Whether nothing of a path is in the context.
fn is_hidden(context: &LocalContext, path: &str) -> bool {
    match path {
        "." => context.list(b"", None).is_ok_and(|all| all.is_empty()),
        path => context.resolve(path.as_bytes()).is_ok_and(|found| found.is_none()),
    }
}

fn unfiltered(root: &Path) -> Option<LocalContext> {
    LocalContext::open(root, IgnoreRules::none()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(files: &[&str], rules: &str, paths: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let rules = IgnoreRules::parse(".dockerignore", rules.as_bytes()).unwrap();
        let context = LocalContext::open(dir.path(), rules).unwrap();
        paths.iter().filter(|path| leaves_nothing(&context, path)).map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn rules_decide_without_files_where_they_can() {
        for (rules, paths, expected) in [
            ("", &["a", "."][..], &[][..]),
            ("a\n", &["a", "a/b", "b", "ab", "."], &["a", "a/b"]),
            ("any\n", &["."], &[]),
            ("*\n", &["a", "."], &["a", "."]),
            ("**\n", &["."], &["."]),
            ("**/*\n", &["."], &["."]),
            ("a/*\n", &["a", "a/b"], &["a/b"]),
            ("*.md\n", &["README.md", "*.md", "d/x.md"], &["README.md", "*.md"]),
            ("**/*.md\n", &["d/x.md"], &["d/x.md"]),
            ("d\n", &["d/*.c", "e/*.c"], &["d/*.c"]),
            // What is re-included, and what is not.
            ("*.md\n!README.md\n", &["README.md", "x.md"], &["x.md"]),
            ("a\n!b\n", &["a", "b"], &["a"]),
            ("a\n!a/b\n", &["a/b", "a/b/c", "a/c"], &["a/c"]),
            ("a\n!a\n", &["a"], &[]),
            ("!a\n", &["a", "b", "."], &[]),
        ] {
            assert_eq!(ignored(&[], rules, paths), expected, "{rules:?}");
        }
    }

    #[test]
    fn files_decide_where_something_is_included_again() {
        for (files, rules, paths, expected) in [
            (&["a/b", "a/c"][..], "a\n!a/b\n", &["a", "a/b", "a/c"][..], &["a/c"][..]),
            (&["a/c"], "a\n!a/b\n", &["a", "."], &["a"]),
            (&["a", "b"], "*\n!b\n", &["a", "b", "."], &["a"]),
            (&["a"], "*\n!b\n", &["."], &["."]),
            (&["d/e/f"], "*\n!d/e\n", &["d", "d/e", "d/e/f", "d/g"], &["d/g"]),
            (&["x.md", "README.md"], "*.md\n!README.md\n", &["*.md", "x*.md"], &["x*.md"]),
            (&["d/a.o", "d/b.c"], "**/*.o\n!keep.o\n", &["d/*.o", "d/*", "d"], &["d/*.o"]),
        ] {
            assert_eq!(ignored(files, rules, paths), expected, "{files:?} {rules:?}");
        }
    }

    #[test]
    fn wildcards_are_judged_by_what_they_select() {
        for (files, rules, paths, expected) in [
            // BuildKit compares the wildcard with the pattern as if it were a name.
            (&["a.txt", "ab.txt"][..], "?.txt\n", &["*.txt", "?.txt"][..], &["?.txt"][..]),
            (&["a.log"], "a.log\n", &["*.log", "a*", "[ab].log"], &["*.log", "a*", "[ab].log"]),
            (&["a.log", "b.log"], "a.log\n", &["*.log", "a*"], &["a*"]),
            (&["d/a.c"], "d\n", &["*/a.c", "d/*"], &["*/a.c", "d/*"]),
            (&[], "!b\n", &["*"], &[]),
        ] {
            assert_eq!(ignored(files, rules, paths), expected, "{files:?} {rules:?}");
        }
    }
}
