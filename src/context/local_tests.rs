use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::context::ignore::PatternSet;

/// A directory with the given files (their content is their own path); a trailing slash makes a
/// directory.
fn tree(entries: &[&str]) -> TempDir {
    let dir = TempDir::new().expect("temporary directory");
    for entry in entries {
        let path = dir.path().join(entry);
        if entry.ends_with('/') {
            fs::create_dir_all(path).expect("mkdir");
            continue;
        }
        fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
        fs::write(path, entry).expect("write");
    }
    dir
}

fn context(dir: &TempDir, ignore: &str) -> LocalContext {
    let rules = IgnoreRules::parse(".dockerignore", ignore.as_bytes()).expect("rules");
    LocalContext::open(dir.path(), rules).expect("opens")
}

fn names(listing: &[FileInfo]) -> Vec<String> {
    listing.iter().map(|info| paths::show(&info.path)).collect()
}

fn listed(context: &LocalContext, path: &str) -> Vec<String> {
    names(&context.list(path.as_bytes(), None).unwrap_or_else(|e| panic!("{e}")))
}

fn globbed(context: &LocalContext, pattern: &str) -> Vec<String> {
    let found = context.glob(pattern.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    found.iter().map(|path| paths::show(path)).collect()
}

#[test]
fn a_listing_is_sorted_by_components_with_parents_first() {
    let dir = tree(&["a/b", "a.txt", "a-b/c", "z/", "a/a/x"]);
    assert_eq!(listed(&context(&dir, ""), ""), ["a", "a/a", "a/a/x", "a/b", "a-b", "a-b/c", "a.txt", "z"]);
    assert_eq!(listed(&context(&dir, ""), "a"), ["a/a", "a/a/x", "a/b"]);
    assert_eq!(listed(&context(&dir, ""), "a/b"), ["a/b"]);
}

#[test]
fn a_listing_carries_what_the_system_knows() {
    let dir = tree(&["f", "d/"]);
    fs::set_permissions(dir.path().join("f"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    symlink("/nowhere", dir.path().join("l")).expect("symlink");
    fs::hard_link(dir.path().join("f"), dir.path().join("g")).expect("link");
    let listing = context(&dir, "").list(b"", None).expect("lists");
    let info = |path: &[u8]| listing.iter().find(|info| info.path == path).expect("listed");
    assert_eq!(
        (info(b"f").mode, info(b"f").nlink, &info(b"f").kind),
        (0o4751, 2, &FileKind::File { size: 1 })
    );
    assert_eq!((info(b"f").ino, info(b"f").dev), (info(b"g").ino, info(b"g").dev));
    assert_eq!(info(b"l").kind, FileKind::Symlink { target: b"/nowhere".to_vec() });
    assert!(info(b"d").is_dir() && info(b"f").mtime.0 > 1_600_000_000);
}

#[test]
fn names_of_any_bytes_are_listed_and_opened() {
    let dir = tree(&[]);
    let name = b"\xff\n \xc3";
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), "x").expect("write");
    let context = context(&dir, "");
    assert_eq!(context.list(b"", None).expect("lists")[0].path, name);
    let mut text = String::new();
    context.open(name).expect("opens").read_to_string(&mut text).expect("reads");
    assert_eq!(text, "x");
}

#[test]
fn ignored_directories_are_never_opened() {
    let dir =
        tree(&["src/main.c", "node_modules/a/b/c", "node_modules/d", ".git/objects/x", "docs/a/b/c.md"]);
    let context = context(&dir, "node_modules\n.git\ndocs\n!docs/*.md\n");
    assert_eq!(listed(&context, ""), ["src", "src/main.c"]);
    // The root, src, and docs, where `!docs/*.md` might have found something; not docs/a.
    assert_eq!(context.directories_read(), 3);
}

#[test]
fn a_negation_brings_files_back_with_the_directories_above_them() {
    let dir = tree(&["d/keep/f", "d/keep/g", "d/other/f", "d/x", "e/f"]);
    let context = context(&dir, "**\n!d/keep/f\n");
    assert_eq!(listed(&context, ""), ["d", "d/keep", "d/keep/f"]);
    assert_eq!(context.directories_read(), 3);
    assert!(context.stat(b"d").expect("stats").is_some());
    assert!(context.stat(b"d/other").expect("stats").is_none());
    assert!(context.stat(b"e").expect("stats").is_none());
    assert!(context.stat(b"d/keep/g").expect("stats").is_none());
    assert!(context.open(b"d/keep/g").is_err());
    assert!(context.open(b"d/keep/f").is_ok());
}

#[test]
fn excluded_patterns_count_from_the_directory_listed() {
    let dir = tree(&["src/a.c", "src/a.md", "src/sub/b.md", "src/sub/keep.md", "a.md"]);
    let excluded = PatternSet::new(["**/*.md", "!sub/keep.md"]).expect("valid");
    let list = |path: &str| names(&context(&dir, "").list(path.as_bytes(), Some(&excluded)).expect("lists"));
    assert_eq!(list("src"), ["src/a.c", "src/sub", "src/sub/keep.md"]);
    assert_eq!(list("a.md"), Vec::<String>::new(), "a file given by name is excluded by it");
    assert_eq!(list("src/a.c"), ["src/a.c"]);
    let whole = PatternSet::new(["sub"]).expect("valid");
    let context = context(&dir, "");
    assert_eq!(names(&context.list(b"src", Some(&whole)).expect("lists")), ["src/a.c", "src/a.md"]);
    assert_eq!(context.directories_read(), 1);
}

#[test]
fn a_selection_holds_matches_what_lies_below_and_the_directories_above() {
    let dir = tree(&["a/src/x.rs", "a/src/y.c", "a/doc/z.rs/f", "b/c/d", "b/drop.rs", "t/u/v", "top.rs"]);
    let context = context(&dir, "b/drop.rs\n");
    let select = |path: &str, wanted: &[&str], excluded: &[&str]| {
        let wanted = PatternSet::new(wanted).expect("valid");
        let excluded = PatternSet::new(excluded).expect("valid");
        names(&context.select(path.as_bytes(), &wanted, Some(&excluded)).expect("selects"))
    };
    assert_eq!(
        select("", &["**/*.rs"], &[]),
        ["a", "a/doc", "a/doc/z.rs", "a/doc/z.rs/f", "a/src", "a/src/x.rs", "top.rs"]
    );
    assert_eq!(select("", &["**/*.rs"], &["a/doc"]), ["a", "a/src", "a/src/x.rs", "top.rs"]);
    assert_eq!(select("a", &["src"], &["**/*.c"]), ["a/src", "a/src/x.rs"]);
    assert_eq!(select("", &["none/**"], &[]), Vec::<String>::new());
    let before = context.directories_read();
    assert_eq!(select("", &["b/**"], &[]), ["b", "b/c", "b/c/d"]);
    assert_eq!(context.directories_read() - before, 3, "the root, b and b/c");
}

#[test]
fn links_in_a_walk_are_listed_and_not_entered() {
    let dir = tree(&["real/f"]);
    symlink("real", dir.path().join("link")).expect("symlink");
    symlink("/", dir.path().join("real/root")).expect("symlink");
    assert_eq!(listed(&context(&dir, ""), ""), ["link", "real", "real/f", "real/root"]);
    assert!(context(&dir, "").open(b"link/f").is_err(), "listings hold no such path");
    assert!(context(&dir, "").stat(b"link/f").expect("stats").is_none());
}

#[test]
fn sources_are_followed_through_links_but_stay_in_the_context() {
    let dir = tree(&["etc/passwd", "a/b/f", "secret/f"]);
    let link = |target: &str, name: &str| symlink(target, dir.path().join(name)).expect("symlink");
    link("/etc", "absolute");
    link("../../../../../../etc/passwd", "climbing");
    link("a/b", "inner");
    link("../../etc/passwd", "a/b/back");
    link("nowhere", "dangling");
    link("loop2", "loop1");
    link("loop1", "loop2");
    link("secret", "to-ignored");
    let context = context(&dir, "secret\n");
    let resolve =
        |path: &str| context.resolve(path.as_bytes()).map(|info| info.map(|info| paths::show(&info.path)));
    let lands = |path: &str| resolve(path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(lands("absolute/passwd").as_deref(), Some("etc/passwd"));
    assert_eq!(lands("climbing").as_deref(), Some("etc/passwd"));
    assert_eq!(lands("inner/f").as_deref(), Some("a/b/f"));
    assert_eq!(lands("inner/back").as_deref(), Some("etc/passwd"));
    assert_eq!(lands("").as_deref(), Some("."));
    assert_eq!(lands("dangling"), None);
    assert_eq!(lands("etc/passwd/x"), None);
    assert_eq!(lands("to-ignored/f"), None);
    assert!(matches!(resolve("loop1"), Err(ContextError::LinkLoop { .. })));
}

#[test]
fn wildcards_find_what_matches_in_walk_order() {
    let dir = tree(&["a.txt", ".b.txt", "c.md", "d/a.txt", "d/e/a.txt", "d.txt/x.txt", "e/f/g.txt"]);
    let context = context(&dir, "");
    assert_eq!(globbed(&context, "*.txt"), [".b.txt", "a.txt", "d.txt"]);
    assert_eq!(globbed(&context, "*/a.txt"), ["d/a.txt"]);
    assert_eq!(globbed(&context, "d/*"), ["d/a.txt", "d/e"]);
    assert_eq!(globbed(&context, "/./d/../d/*.txt"), ["d/a.txt"]);
    assert_eq!(globbed(&context, "?/?/*"), ["d/e/a.txt", "e/f/g.txt"]);
    assert_eq!(globbed(&context, "d[^x]a.txt"), ["d/a.txt"], "a class may take a slash");
    assert_eq!(globbed(&context, "*.nothing"), Vec::<String>::new());
    assert_eq!(globbed(&context, "a.txt/*"), Vec::<String>::new());
    assert!(matches!(context.glob(b"missing/*"), Err(ContextError::NotFound { .. })));
    assert!(matches!(context.glob(b"[a"), Err(ContextError::Wildcard { .. })));
}

#[test]
fn wildcards_read_only_the_directories_they_need() {
    let dir = tree(&["a/src/x.c", "b/src/y.c", "b/deep/deep/deep", "c/other/z", "d.txt"]);
    let context = context(&dir, "c\n");
    assert_eq!(globbed(&context, "*/src/*.c"), ["a/src/x.c", "b/src/y.c"]);
    // The root and both src directories: their parents' middle level is a plain name.
    assert_eq!(context.directories_read(), 3);
}

#[test]
fn wildcards_see_only_what_the_rules_show() {
    let dir = tree(&["a/keep", "a/drop", "b/drop", "c"]);
    let context = context(&dir, "*\n!a/keep\n!c\n");
    assert_eq!(globbed(&context, "*"), ["a", "c"]);
    assert_eq!(globbed(&context, "*/*"), ["a/keep"]);
}

#[test]
fn wildcards_start_behind_links_but_do_not_follow_matches() {
    let dir = tree(&["real/f", "x/"]);
    symlink("../real", dir.path().join("x/link")).expect("symlink");
    let context = context(&dir, "");
    assert_eq!(globbed(&context, "x/link/*"), ["real/f"]);
    assert_eq!(globbed(&context, "x/*"), ["x/link"]);
    assert_eq!(globbed(&context, "x/*/f"), Vec::<String>::new());
}

#[test]
fn special_files_are_not_opened_and_sockets_not_listed() {
    let dir = tree(&["f"]);
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("mkfifo");
    let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("sock")).expect("bind");
    let context = context(&dir, "");
    assert_eq!(listed(&context, ""), ["f", "fifo"]);
    assert_eq!(globbed(&context, "*"), ["f", "fifo"]);
    assert!(matches!(context.open(b"fifo"), Err(ContextError::NotAFile { kind: "a fifo", .. })));
    assert!(matches!(context.open(b"sock"), Err(ContextError::NotAFile { .. })));
    assert!(matches!(context.open(b""), Err(ContextError::NotAFile { .. })));
    assert!(matches!(context.open(b"gone"), Err(ContextError::NotFound { .. })));
}

#[test]
fn unreadable_directories_matter_only_if_selected() {
    let dir = tree(&["open/f", "shut/f"]);
    fs::set_permissions(dir.path().join("shut"), fs::Permissions::from_mode(0o000)).expect("chmod");
    if fs::read_dir(dir.path().join("shut")).is_ok() {
        println!("SKIPPED: this user may read every directory");
        return;
    }
    assert_eq!(listed(&context(&dir, "shut"), ""), ["open", "open/f"]);
    assert_eq!(listed(&context(&dir, "shut\n!**/g"), ""), ["open", "open/f"]);
    let error = context(&dir, "").list(b"", None).expect_err("selected").to_string();
    assert!(error.starts_with("cannot list the directory shut (in the build context "), "{error}");
}

#[test]
fn a_deep_tree_does_not_run_out_of_handles() {
    let dir = tree(&[&"d/".repeat(1500)]);
    assert_eq!(listed(&context(&dir, ""), "").len(), 1500);
}

#[test]
fn attributes_are_listed_when_asked_for() {
    let dir = tree(&["f"]);
    let path = dir.path().join("f");
    if rustix::fs::lsetxattr(&path, "user.note", b"hello", rustix::fs::XattrFlags::empty()).is_err() {
        println!("SKIPPED: the file system of the temporary directory has no user.* attributes");
        return;
    }
    let plain = context(&dir, "").list(b"", None).expect("lists");
    assert!(plain[0].xattrs.is_empty());
    let full = context(&dir, "").with_xattrs().list(b"", None).expect("lists");
    assert_eq!(full[0].xattrs, [(b"user.note".to_vec(), b"hello".to_vec())]);
}

#[test]
fn a_missing_path_is_explained() {
    let dir = tree(&["src/Main.go", "README.md", "secret/key", "package.json"]);
    symlink("secret/key", dir.path().join("link")).expect("symlink");
    let context = context(&dir, "*.tmp\nsecret\n");
    let nearest = |path: &str| {
        context.nearest(path.as_bytes()).iter().map(|path| paths::show(path)).collect::<Vec<_>>()
    };
    assert_eq!(nearest("src/main.go"), ["src/Main.go"]);
    assert_eq!(nearest("SRC/MAIN.GO"), ["src/Main.go"]);
    assert_eq!(nearest("pakage.json"), ["package.json"]);
    assert_eq!(nearest("secrets"), Vec::<String>::new(), "what is ignored is not suggested");
    assert_eq!(nearest("src/unlike"), Vec::<String>::new());
    let ignored = |path: &str| match context.why_missing(path.as_bytes()) {
        Missing::Ignored { file, rule } => (file, rule.line, rule.pattern),
        Missing::NotThere { nearest } => panic!("{nearest:?}"),
    };
    assert_eq!(ignored("secret/key"), (".dockerignore".to_owned(), 2, "secret".to_owned()));
    assert_eq!(ignored("link").1, 2, "the link's target is ignored");
    assert_eq!(context.why_missing(b"readme.md"), Missing::NotThere { nearest: vec![b"README.md".to_vec()] });
}

/// Every path below `dir`, found without any of the code under test.
fn everything(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("lists") {
        let entry = entry.expect("entry");
        let name = entry.file_name().into_string().expect("test names are UTF-8");
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.file_type().expect("type").is_dir() {
            everything(&entry.path(), &path, into);
        }
        into.insert(path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_walk_shows_what_judging_every_path_shows(
        files in prop::collection::vec("[abc](/[abc]){0,3}", 1..12),
        lines in prop::collection::vec("!?([abc]|\\*|\\*\\*)(/([abc*]|\\*\\*)){0,2}", 0..5),
        pattern in "([abc*?]|\\[ab\\])(/([abc*]|\\[\\^c\\])){0,2}",
    ) {
        let dir = TempDir::new().expect("temporary directory");
        for file in &files {
            let path = dir.path().join(file);
            // A file may already stand where this one needs a directory; then it is left out.
            if path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok()) && !path.exists() {
                let _ = fs::write(path, "");
            }
        }
        let context = context(&dir, &lines.join("\n"));
        let mut all = BTreeSet::new();
        everything(dir.path(), "", &mut all);
        let shown: BTreeSet<&String> =
            all.iter().filter(|path| !context.rules.matched(path.as_bytes()).ignored).collect();
        let with_parents: BTreeSet<String> = all
            .iter()
            .filter(|path| shown.iter().any(|s| s == path || s.starts_with(&format!("{path}/"))))
            .cloned()
            .collect();
        let listing = listed(&context, "");
        prop_assert!(listing.windows(2).all(|w| paths::compare(w[0].as_bytes(), w[1].as_bytes()).is_lt()));
        prop_assert_eq!(&listing.iter().cloned().collect::<BTreeSet<_>>(), &with_parents, "{:?}", lines);
        for path in &all {
            let there = context.stat(path.as_bytes()).expect("stats").is_some();
            prop_assert_eq!(there, with_parents.contains(path), "{} under {:?}", path, lines);
        }
        let fits = |path: &str| crate::context::glob::match_path(pattern.as_bytes(), path.as_bytes()) == Ok(true);
        let shadowed = |path: &str| path.match_indices('/').any(|(slash, _)| fits(&path[..slash]));
        let expected: Vec<String> = listing.iter().filter(|path| fits(path) && !shadowed(path)).cloned().collect();
        let literal_base = pattern.split('/').take_while(|part| !has_wildcard(part.as_bytes())).count() > 0;
        if literal_base {
            return Ok(());
        }
        prop_assert_eq!(globbed(&context, &pattern), expected, "{} under {:?}", pattern, lines);
    }
}
