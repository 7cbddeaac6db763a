use proptest::prelude::*;

use super::*;

fn rules(text: &str) -> IgnoreRules {
    IgnoreRules::parse(".dockerignore", text.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_table_of_patterns_holds() {
    let table = include_str!("../../testdata/ignore/table.txt");
    let mut rows = 0;
    for (index, row) in table.lines().enumerate() {
        if row.is_empty() || row.starts_with("//") {
            continue;
        }
        let mut columns = row.split('\t');
        let (Some(expected), Some(path)) = (columns.next(), columns.next()) else {
            panic!("table.txt:{}: needs expectation, path, patterns", index + 1)
        };
        let file = columns.collect::<Vec<_>>().join("\n");
        let found = match IgnoreRules::parse("f", file.as_bytes()) {
            Err(_) => "error",
            Ok(rules) if rules.matched(path.as_bytes()).ignored => "ignored",
            Ok(_) => "kept",
        };
        assert_eq!(found, expected, "table.txt:{}: {row}", index + 1);
        rows += 1;
    }
    assert!(rows >= 150, "only {rows} rows were read");
}

#[test]
fn the_verdict_names_the_deciding_line() {
    let rules = rules("# all but the docs\n**\n\n!docs/*.md\ndocs/secret.md\n");
    let rule = |path: &str| rules.matched(path.as_bytes()).rule.map(|rule| (rule.line, rule.pattern));
    assert_eq!(rule("src/main.c"), Some((2, "**".to_owned())));
    assert_eq!(rule("docs/a.md"), Some((4, "!docs/*.md".to_owned())));
    assert_eq!(rule("docs/secret.md"), Some((5, "docs/secret.md".to_owned())));
    assert_eq!(IgnoreRules::none().matched(b"a").rule, None);
}

#[test]
fn the_root_itself_is_never_ignored() {
    assert!(!rules("**\n*\n.\n").matched(b"").ignored);
}

#[test]
fn bad_lines_are_reported_with_file_and_line() {
    let error =
        |text: &[u8]| IgnoreRules::parse("x.dockerignore", text).map(|_| ()).map_err(|e| e.to_string());
    let message = error(b"ok\n  a[  \n").expect_err("must fail");
    assert!(message.starts_with("x.dockerignore:2: cannot read the pattern \"a[\""), "{message}");
    assert!(error(b"!").is_err_and(|m| m.starts_with("x.dockerignore:1: `!`")));
    assert!(error(b"a\n! \t").is_err_and(|m| m.contains(":2:")));
    assert!(error(b"!/").is_err());
}

#[test]
fn names_and_patterns_may_be_any_bytes() {
    let rules = IgnoreRules::parse("f", b"a\xff*\n[^\xc3\xa9]\xfe").expect("valid");
    assert!(rules.matched(b"a\xff\xfe").ignored);
    assert!(!rules.matched(b"a\xfd").ignored);
    assert!(rules.matched(b"x\xfe").ignored);
    assert!(rules.matched(b"\x80\xfe").ignored, "a stray byte is one character");
    assert!(!rules.matched("é".as_bytes()).ignored);
}

#[test]
fn unicode_blanks_and_carriage_returns_are_trimmed() {
    let rules = rules("\u{feff}\u{a0}a \r\n\u{2003}!\u{3000}a/b\u{85}\n");
    assert!(rules.matched(b"a").ignored);
    assert_eq!(rules.matched(b"a/b").rule.map(|r| r.line), Some(2));
}

#[test]
fn a_directory_is_pruned_unless_a_later_negation_reaches_into_it() {
    let prunes = |text: &str, dir: &str| {
        let rules = rules(text);
        let mut walker = rules.walker();
        for part in dir.split('/') {
            walker = walker.enter(part.as_bytes());
        }
        walker.can_prune()
    };
    assert!(prunes("node_modules", "node_modules"));
    assert!(prunes("node_modules", "node_modules/deep"));
    assert!(!prunes("node_modules", "src"));
    assert!(!prunes("a\n!a/b/c", "a"));
    assert!(!prunes("a\n!a/b/c", "a/b"));
    assert!(prunes("a\n!a/b/c", "a/x"));
    assert!(prunes("!a/b\na", "a"), "an earlier negation is overruled");
    assert!(prunes("**\n!src", "node_modules"));
    assert!(!prunes("**\n!src", "src"));
    assert!(!prunes("*\n!*/keep", "any"));
    assert!(prunes("*\n!*/keep", "any/dir"), "the wildcard reaches one level only");
    assert!(!prunes("*\n!**/keep", "any/dir/deep"));
    assert!(prunes("**/.git\n!docs/**\n**/.git", "docs/.git"));
}

#[test]
fn selecting_patterns_know_where_nothing_can_match() {
    let set = PatternSet::new(["src/**/*.rs", "doc"]).expect("valid");
    assert!(!set.walker().nothing_matches_below());
    assert!(!set.walker().enter(b"src").nothing_matches_below());
    assert!(!set.walker().enter(b"doc").nothing_matches_below());
    assert!(set.walker().enter(b"target").nothing_matches_below());
}

#[test]
fn pattern_sets_take_the_same_syntax() {
    let set = PatternSet::new(["*.txt", "", "!keep.txt"]).expect("valid");
    assert!(set.matches(b"a.txt"));
    assert!(!set.matches(b"keep.txt"));
    assert!(PatternSet::new(["["]).is_err());
    assert!(PatternSet::new(["!"]).is_err());
}

#[test]
fn patterns_longer_than_a_machine_word_work() {
    let long = "x/".repeat(200) + "*.c";
    assert!(rules(&long).matched(("x/".repeat(200) + "a.c").as_bytes()).ignored);
    assert!(!rules(&long).matched(("x/".repeat(199) + "a.c").as_bytes()).ignored);
}

/// The reference's rules written as plainly as possible: from the top down, each path inherits what
/// its parent matched; a rule that would change nothing is not asked; the last that matched decides.
fn slow_ignored(lines: &[String], path: &str) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    let mut matched = vec![false; lines.len()];
    let mut ignored = false;
    for count in 1..=names.len() {
        let prefix: Vec<char> = names[..count].join("/").chars().collect();
        ignored = false;
        for (line, matched) in lines.iter().zip(&mut matched) {
            let (negated, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, line.as_str()),
            };
            let pattern: Vec<char> = pattern.chars().collect();
            *matched = *matched || (negated == ignored && slow_pattern(&pattern, &prefix));
            if *matched {
                ignored = !negated;
            }
        }
    }
    ignored
}

fn slow_pattern(pattern: &[char], path: &[char]) -> bool {
    if let ['*', '*', suffix @ ..] = pattern
        && !suffix.iter().any(|c| "*?[]\\".contains(*c))
    {
        let whole = suffix.first() == Some(&'/') && path == &suffix[1..];
        return path.ends_with(suffix) || whole;
    }
    slow_translated(pattern, path)
}

fn slow_translated(pattern: &[char], path: &[char]) -> bool {
    let one = |accept: bool, rest: &[char]| accept && slow_translated(rest, &path[1..]);
    match pattern {
        [] => path.is_empty(),
        ['*', '*', rest @ ..] => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            rest.is_empty()
                || slow_translated(rest, path)
                || (0..path.len()).any(|i| path[i] == '/' && slow_translated(rest, &path[i + 1..]))
        }
        ['*', rest @ ..] => {
            let run = path.iter().take_while(|c| **c != '/').count();
            (0..=run).any(|taken| slow_translated(rest, &path[taken..]))
        }
        ['?', rest @ ..] => one(path.first().is_some_and(|c| *c != '/'), rest),
        ['[', '^', low, '-', high, ']', rest @ ..] => {
            one(path.first().is_some_and(|c| !(low..=high).contains(&c)), rest)
        }
        ['[', low, '-', high, ']', rest @ ..] => {
            one(path.first().is_some_and(|c| (low..=high).contains(&c)), rest)
        }
        ['\\', literal, rest @ ..] => one(path.first() == Some(literal), rest),
        [literal, rest @ ..] => one(path.first() == Some(literal), rest),
    }
}

fn line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", ".x", "é"]).prop_map(str::to_owned),
        2 => Just("*".to_owned()),
        3 => Just("**".to_owned()),
        1 => Just("?".to_owned()),
        1 => prop::sample::select(vec!["[a-b]", "[^a-b]", "\\*", "\\a"]).prop_map(str::to_owned),
    ];
    let component = prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat());
    (any::<bool>(), prop::collection::vec(component, 1..4))
        .prop_map(|(negated, parts)| if negated { format!("!{}", parts.join("/")) } else { parts.join("/") })
}

fn path_text() -> impl Strategy<Value = String> {
    let name = prop::collection::vec(prop::sample::select(vec!["a", "b", ".x", "é", "*"]), 1..4)
        .prop_map(|pieces| pieces.concat());
    prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn the_automaton_agrees_with_the_plain_reading(lines in prop::collection::vec(line(), 1..5), path in path_text()) {
        let rules = rules(&lines.join("\n"));
        prop_assert_eq!(rules.matched(path.as_bytes()).ignored, slow_ignored(&lines, &path), "{:?} on {}", lines, path);
    }

    #[test]
    fn nothing_below_a_pruned_directory_would_have_been_kept(
        lines in prop::collection::vec(line(), 1..5),
        dir in path_text(),
        below in path_text(),
    ) {
        let rules = rules(&lines.join("\n"));
        let mut walker = rules.walker();
        for name in dir.split('/') {
            walker = walker.enter(name.as_bytes());
        }
        prop_assert_eq!(walker.dir_matches(), slow_ignored(&lines, &dir));
        let path = format!("{dir}/{below}");
        let ignored = slow_ignored(&lines, &path);
        prop_assert!(ignored || !walker.can_prune(), "{:?}: {}", lines, path);
        prop_assert!(!ignored || !walker.nothing_matches_below(), "{:?}: {}", lines, path);
    }

    #[test]
    fn no_ignore_file_panics(text in prop::collection::vec(any::<u8>(), 0..60), path in prop::collection::vec(any::<u8>(), 0..20)) {
        if let Ok(rules) = IgnoreRules::parse("f", &text) {
            rules.matched(&path);
        }
    }
}
