use proptest::prelude::*;

use super::*;

const BAD: Result<bool, BadPattern> = Err(BadPattern);

#[test]
fn patterns_match_as_go_documents() {
    let table: &[(&str, &str, Result<bool, BadPattern>)] = &[
        ("", "", Ok(true)),
        ("", "a", Ok(false)),
        ("a", "", Ok(false)),
        ("main.go", "main.go", Ok(true)),
        ("main.go", "main_go", Ok(false)),
        ("*", "", Ok(true)),
        ("*", ".hidden", Ok(true)),
        ("*", "a/b", Ok(false)),
        ("**", "a/b", Ok(false)),
        ("**/b", "a/b", Ok(true)),
        ("**/c", "a/b/c", Ok(false)),
        ("*.go", "main.go", Ok(true)),
        ("*.go", "cmd/main.go", Ok(false)),
        ("*/*.go", "cmd/main.go", Ok(true)),
        ("m*n", "main", Ok(true)),
        ("m*n*n", "man", Ok(false)),
        ("a*b*c", "aXbYbZc", Ok(true)),
        ("a*b*c", "aXbYcZ", Ok(false)),
        ("?", "", Ok(false)),
        ("?", "/", Ok(false)),
        ("?", "é", Ok(true)),
        ("??", "é", Ok(false)),
        ("a?c", "abc", Ok(true)),
        ("[abc]", "b", Ok(true)),
        ("[abc]", "d", Ok(false)),
        ("[a-c]x", "bx", Ok(true)),
        ("[^a-c]x", "bx", Ok(false)),
        ("[^a-c]x", "dx", Ok(true)),
        ("[c-a]", "b", Ok(false)),
        ("[^c-a]", "b", Ok(true)),
        ("[α-ω]", "λ", Ok(true)),
        ("[!a]", "b", Ok(false)),
        ("[!a]", "!", Ok(true)),
        ("[[]x", "[x", Ok(true)),
        ("[*]", "*", Ok(true)),
        ("[*]", "x", Ok(false)),
        ("[\\]]", "]", Ok(true)),
        ("[\\-a]", "-", Ok(true)),
        ("a]", "a]", Ok(true)),
        ("a^b", "a^b", Ok(true)),
        ("\\*", "*", Ok(true)),
        ("\\*", "x", Ok(false)),
        ("\\a", "a", Ok(true)),
        ("\\é", "é", Ok(true)),
        ("a{b,c}", "a{b,c}", Ok(true)),
        ("a{b,c}", "ab", Ok(false)),
        ("a[^x]b", "a/b", Ok(true)),
        ("a[/]b", "a/b", Ok(true)),
        ("[", "x", BAD),
        ("[]", "x", BAD),
        ("[]a]", "]", BAD),
        ("[^]", "x", BAD),
        ("[a", "a", BAD),
        ("[a-]", "a", BAD),
        ("[-a]", "a", BAD),
        ("[a-b-c]", "a", BAD),
        ("[\\", "a", BAD),
        ("a\\", "a", BAD),
        ("a\\", "zzz", BAD),
        ("nomatch*[", "x", BAD),
        ("x/*/[", "y", BAD),
    ];
    for (pattern, name, expected) in table {
        assert_eq!(match_path(pattern.as_bytes(), name.as_bytes()), *expected, "{pattern:?} on {name:?}");
    }
}

#[test]
fn a_star_takes_the_leftmost_fit_and_never_goes_back() {
    // A matcher with backtracking would let the star take "qyq" and the class the slash.
    assert_eq!(match_path(b"*[^x]y*z", b"qyq/yz"), Ok(false));
    assert_eq!(match_path(b"*[^x]y*z", b"q/yz"), Ok(true));
}

#[test]
fn bytes_that_are_not_utf8_are_single_characters() {
    assert_eq!(match_path(b"a?b", b"a\xffb"), Ok(true));
    assert_eq!(match_path(b"a\xffb", b"a\xffb"), Ok(true));
    assert_eq!(match_path(b"a\xffb", b"a\xfeb"), Ok(false));
    assert_eq!(match_path(b"a[^x]b", b"a\xffb"), Ok(true));
    assert_eq!(match_path(b"[\xff]", b"\xff"), BAD);
    // Stars step byte by byte, so they can cut a character in two.
    assert_eq!(match_path("*??".as_bytes(), "☺".as_bytes()), Ok(true));
}

#[test]
fn wildcards_are_recognised_unless_escaped() {
    for (text, wild) in [
        ("a*", true),
        ("a?", true),
        ("a[b]", true),
        ("a\\*", false),
        ("a\\\\*", true),
        ("a]b", false),
        ("\\", false),
    ] {
        assert_eq!(has_wildcard(text.as_bytes()), wild, "{text}");
    }
}

/// The documented meaning, by trying everything. It goes back where Go does not, so the patterns it
/// is compared on hold no class that takes a slash.
fn slow_match(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', rest @ ..] => {
            slow_match(rest, name)
                || matches!(name, [first, others @ ..] if *first != '/' && slow_match(pattern, others))
        }
        ['?', rest @ ..] => matches!(name, [first, others @ ..] if *first != '/' && slow_match(rest, others)),
        ['\\', literal, rest @ ..] => {
            matches!(name, [first, others @ ..] if first == literal && slow_match(rest, others))
        }
        ['[', low, '-', high, ']', rest @ ..] => {
            matches!(name, [first, others @ ..] if (low..=high).contains(&first) && slow_match(rest, others))
        }
        [literal, rest @ ..] => {
            matches!(name, [first, others @ ..] if first == literal && slow_match(rest, others))
        }
    }
}

fn pattern_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", ".", "é"]).prop_map(str::to_owned),
        3 => Just("*".to_owned()),
        1 => Just("?".to_owned()),
        1 => prop::sample::select(vec!["[a-b]", "[b-c]", "[c-é]", "\\*", "\\a"]).prop_map(str::to_owned),
        2 => Just("/".to_owned()),
    ];
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

fn name_text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", ".", "é", "*", "/"]), 0..10)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_matcher_agrees_with_trying_everything(pattern in pattern_text(), name in name_text()) {
        let slow = slow_match(
            &pattern.chars().collect::<Vec<_>>(),
            &name.chars().collect::<Vec<_>>(),
        );
        // A star that cuts a character in two exists only in Go's bytewise walk.
        prop_assume!(!(name.contains('é') && pattern.contains('*') && pattern.contains('?')));
        prop_assert_eq!(match_path(pattern.as_bytes(), name.as_bytes()), Ok(slow), "{} on {}", pattern, name);
    }

    #[test]
    fn no_input_panics(pattern in prop::collection::vec(any::<u8>(), 0..20), name in prop::collection::vec(any::<u8>(), 0..20)) {
        let _ = match_path(&pattern, &name);
        has_wildcard(&pattern);
        prop_assert_eq!(PathGlob::new(&pattern).is_ok(), Glob::new(&pattern).is_ok());
    }

    #[test]
    fn matching_level_by_level_finds_what_matching_whole_paths_finds(
        pattern in pattern_text(),
        class in prop::sample::select(vec!["", "[^a]", "[^x]b"]),
        parts in prop::collection::vec("[abc.]{1,3}", 1..4),
    ) {
        let pattern = format!("{class}{pattern}");
        let glob = PathGlob::new(pattern.as_bytes()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let whole = match_path(pattern.as_bytes(), parts.join("/").as_bytes());
        let mut fit = Fit::MayHold;
        let mut shadowed = false;
        for depth in 0..parts.len() {
            if fit != Fit::MayHold {
                shadowed |= fit == Fit::Match;
                fit = Fit::No;
                break;
            }
            fit = glob.judge(parts[..=depth].join("/").as_bytes(), parts[depth].as_bytes(), depth);
        }
        prop_assume!(!shadowed);
        prop_assert_eq!(Ok(fit == Fit::Match), whole, "{} on {:?}", pattern, parts);
    }
}
