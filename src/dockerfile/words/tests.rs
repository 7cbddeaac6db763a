use proptest::prelude::*;

use super::*;

fn vars() -> BTreeMap<String, String> {
    [
        ("A", "one"),
        ("B", "two"),
        ("EMPTY", ""),
        ("P", "/usr/local/lib/archive.tar.gz"),
        ("SP", "a b"),
        ("PORTS", "80 443/tcp"),
        ("STARS", "x*y?z"),
        ("WIN", "c:\\dir\\file"),
        ("REP", "abcabc"),
        ("DOLLAR", "$A"),
        ("QUOTED", "'q'"),
        ("ÜML", "ü"),
        ("_u1", "under"),
        ("LINES", "first\nsecond"),
        ("GROUP", "$1-${0}"),
        ("NEEDLE", "b*c"),
    ]
    .iter()
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .collect()
}

/// Input and what it gives; `Err` holds part of the message.
type Row = (&'static str, Result<&'static str, &'static str>);

fn check(escape: char, rows: &[Row]) {
    let vars = vars();
    for (text, expected) in rows {
        let got = Expander::new(escape).word(text, &vars);
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got.text, *expected, "{text}"),
            (Err(error), Err(part)) => {
                assert!(error.message.contains(part), "{text}: {error}");
                assert!(error.offset <= text.len(), "{text}");
            }
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn quotes_and_escapes() {
    check(
        '\\',
        &[
            ("", Ok("")),
            ("plain", Ok("plain")),
            ("two words  kept", Ok("two words  kept")),
            ("'single'", Ok("single")),
            ("\"double\"", Ok("double")),
            ("a'b'c\"d\"e", Ok("abcde")),
            ("''", Ok("")),
            ("\"\"", Ok("")),
            ("'a\"b'", Ok("a\"b")),
            ("\"a'b\"", Ok("a'b")),
            ("'$A'", Ok("$A")),
            ("'a\\b'", Ok("a\\b")),
            ("'a\\'b", Ok("a\\b")),
            ("it\\'s", Ok("it's")),
            ("a\\tb", Ok("atb")),
            ("\"a\\tb\"", Ok("a\\tb")),
            ("a\\\\b", Ok("a\\b")),
            ("\"a\\\\b\"", Ok("a\\b")),
            ("\"a\\\"b\"", Ok("a\"b")),
            ("\\$A", Ok("$A")),
            ("\"\\$A\"", Ok("$A")),
            ("\\\\$A", Ok("\\one")),
            ("\\\\\\$A", Ok("\\$A")),
            ("a\\ b", Ok("a b")),
            ("a\\", Ok("a")),
            ("a`b", Ok("a`b")),
            ("'open", Err("single quote")),
            ("\"open", Err("double quote")),
            ("\"open\\", Err("double quote")),
            ("\"open\\\"", Err("double quote")),
            ("a'b'c'", Err("single quote")),
            ("ünï", Ok("ünï")),
            ("\\ü", Ok("ü")),
            ("\"line\nbreak\"", Ok("line\nbreak")),
        ],
    );
}

#[test]
fn plain_variables() {
    check(
        '\\',
        &[
            ("$A", Ok("one")),
            ("${A}", Ok("one")),
            ("x$A", Ok("xone")),
            ("$A$B", Ok("onetwo")),
            ("${A}B", Ok("oneB")),
            ("$AB", Ok("")),
            ("$A.B", Ok("one.B")),
            ("$A-x", Ok("one-x")),
            ("$_u1", Ok("under")),
            ("$ÜML", Ok("ü")),
            ("${ÜML}", Ok("ü")),
            ("\"$A\"", Ok("one")),
            ("\"$SP\"", Ok("a b")),
            ("$SP", Ok("a b")),
            ("$EMPTY", Ok("")),
            ("$NONE", Ok("")),
            ("${NONE}", Ok("")),
            ("$DOLLAR", Ok("$A")),
            ("$QUOTED", Ok("'q'")),
            ("$WIN", Ok("c:\\dir\\file")),
            ("$", Ok("$")),
            ("a$", Ok("a$")),
            ("$ A", Ok("$ A")),
            ("$.", Ok("$.")),
            ("$%", Ok("$%")),
            ("\"$\"", Ok("$")),
            ("$'A'", Ok("$A")),
            ("$1", Ok("")),
            ("$12x", Ok("x")),
            ("$0", Ok("")),
            ("$@|$*|$#|$?|$-|$!", Ok("|||||")),
            ("$$A", Ok("A")),
            ("${@}", Ok("")),
            ("${12}", Ok("")),
            ("${A", Err("never closed")),
            ("${", Err("never closed")),
            ("x${A:", Err("never closed")),
            ("${}", Err("bad substitution")),
            ("${:-x}", Err("bad substitution")),
            ("${{A}}", Err("bad substitution")),
            ("${ A}", Err("bad substitution")),
            ("${/a/b}", Err("bad substitution")),
            ("${A B}", Err("unsupported modifier ` `")),
            ("${A=x}", Err("unsupported modifier `=`")),
            ("${A:=x}", Err("unsupported modifier `:=`")),
            ("${A:0:2}", Err("unsupported modifier `:0`")),
            ("${A^^}", Err("unsupported modifier `^`")),
            ("${A[0]}", Err("unsupported modifier `[`")),
            ("${#A}", Err("unsupported modifier `A`")),
        ],
    );
}

#[test]
fn defaults_alternatives_and_demands() {
    check(
        '\\',
        &[
            ("${A:-x}", Ok("one")),
            ("${EMPTY:-x}", Ok("x")),
            ("${NONE:-x}", Ok("x")),
            ("${A-x}", Ok("one")),
            ("${EMPTY-x}", Ok("")),
            ("${NONE-x}", Ok("x")),
            ("${A:+x}", Ok("x")),
            ("${EMPTY:+x}", Ok("")),
            ("${NONE:+x}", Ok("")),
            ("${A+x}", Ok("x")),
            ("${EMPTY+x}", Ok("x")),
            ("${NONE+x}", Ok("")),
            ("${A:?x}", Ok("one")),
            ("${A?x}", Ok("one")),
            ("${EMPTY?x}", Ok("")),
            ("${EMPTY:?gone $A}", Err("EMPTY: gone one")),
            ("${NONE:?need it}", Err("NONE: need it")),
            ("${NONE?need it}", Err("NONE: need it")),
            ("${NONE?}", Err("NONE: is not allowed to be unset")),
            ("${NONE:?}", Err("NONE: is not allowed to be unset")),
            ("${EMPTY:?}", Err("EMPTY: is not allowed to be empty")),
            ("${NONE:-}", Ok("")),
            ("${NONE:-a b}", Ok("a b")),
            ("${NONE:-$B}", Ok("two")),
            ("${NONE:-${EMPTY:-${A}}}", Ok("one")),
            ("${NONE:-'}'}", Ok("}")),
            ("${NONE:-\"}\"}", Ok("}")),
            ("${NONE:-\\}}", Ok("}")),
            ("${NONE:-\"$A b\"}", Ok("one b")),
            ("\"${NONE:-\"in\"}\"", Ok("in")),
            ("${NONE:-'$A'}", Ok("$A")),
            ("${NONE:-a:b}", Ok("a:b")),
            ("${NONE:--}", Ok("-")),
            ("${NONE:-{}}", Ok("{}")),
            ("${A:+${B:+both}}", Ok("both")),
            ("${A:-${NONE:?never asked}}", Ok("one")),
            ("${NONE:+${NONE:?never asked}}", Ok("")),
            ("${A:-${}}", Err("bad substitution")),
            ("${NONE:-x", Err("never closed")),
            ("${NONE:-'x}", Err("single quote")),
            ("${NONE:-${B}", Err("never closed")),
        ],
    );
}

#[test]
fn prefixes_and_suffixes() {
    check(
        '\\',
        &[
            ("${P#/}", Ok("usr/local/lib/archive.tar.gz")),
            ("${P#*/}", Ok("usr/local/lib/archive.tar.gz")),
            ("${P##*/}", Ok("archive.tar.gz")),
            ("${P%/*}", Ok("/usr/local/lib")),
            ("${P%%/*}", Ok("")),
            ("${P%.*}", Ok("/usr/local/lib/archive.tar")),
            ("${P%%.*}", Ok("/usr/local/lib/archive")),
            ("${P#no}", Ok("/usr/local/lib/archive.tar.gz")),
            ("${P%no}", Ok("/usr/local/lib/archive.tar.gz")),
            ("${REP#a?}", Ok("cabc")),
            ("${REP##*b}", Ok("c")),
            ("${REP#*b}", Ok("cabc")),
            ("${REP%b*}", Ok("abca")),
            ("${REP%%b*}", Ok("a")),
            ("${REP%?}", Ok("abcab")),
            ("${REP#*}", Ok("abcabc")),
            ("${REP##*}", Ok("")),
            ("${REP%*}", Ok("abcabc")),
            ("${REP%%*}", Ok("")),
            ("${REP#}", Ok("abcabc")),
            ("${REP##}", Ok("abcabc")),
            ("${REP%%}", Ok("abcabc")),
            ("${REP#*a*b}", Ok("cabc")),
            ("${REP##*a*b}", Ok("c")),
            ("${REP%b*c*}", Ok("abca")),
            ("${REP%%b*b?}", Ok("a")),
            ("${REP#[a]}", Ok("abcabc")),
            ("${STARS#x\\*}", Ok("y?z")),
            ("${STARS#x?y\\?}", Ok("z")),
            ("${STARS%\\?z}", Ok("x*y")),
            ("${WIN##*\\\\}", Ok("file")),
            ("${WIN%\\\\*}", Ok("c:\\dir")),
            ("${WIN#\"c:\\d\"}", Ok("ir\\file")),
            ("${WIN#c:\\d}", Err("`\\d` means nothing")),
            ("${REP#a\\", Err("never closed")),
            ("${NONE#x}", Ok("")),
            ("${ÜML#?}", Ok("")),
            ("${ÜML%ü}", Ok("")),
            ("${LINES#*\n}", Ok("second")),
            ("${LINES##*}", Ok("")),
            ("${REP#${NONE:-a}}", Ok("bcabc")),
            ("${REP%$NEEDLE}", Ok("abca")),
            ("${REP#'a'}", Ok("bcabc")),
            ("${REP#\"#\"}", Ok("abcabc")),
            ("${P:#x}", Err("unsupported modifier `:#`")),
            ("${P:%x}", Err("unsupported modifier `:%`")),
        ],
    );
}

#[test]
fn replacements() {
    check(
        '\\',
        &[
            ("${REP/b/X}", Ok("aXcabc")),
            ("${REP//b/X}", Ok("aXcaXc")),
            ("${REP/b/}", Ok("acabc")),
            ("${REP//b/}", Ok("acac")),
            ("${REP/z/X}", Ok("abcabc")),
            ("${REP/b*/X}", Ok("aX")),
            ("${REP/a?c/X}", Ok("Xabc")),
            ("${REP//a?c/X}", Ok("XX")),
            ("${REP//?/.}", Ok("......")),
            ("${REP//*/X}", Ok("X")),
            ("${P//\\//:}", Ok(":usr:local:lib:archive.tar.gz")),
            ("${P/\\/usr/}", Ok("/local/lib/archive.tar.gz")),
            ("${REP/b/$A}", Ok("aonecabc")),
            ("${REP//b/$GROUP}", Ok("a$1-${0}ca$1-${0}c")),
            ("${REP//b/\\$1}", Ok("a\\$1ca\\$1c")),
            ("${REP/b/a/b}", Ok("aa/bcabc")),
            ("${REP/$NEEDLE/X}", Ok("aX")),
            ("${REP//$NONE/X}", Ok("XaXbXcXaXbXcX")),
            ("${REP/$NONE/X}", Ok("Xabcabc")),
            ("${REP///}", Ok("abcabc")),
            ("${STARS/\\*/-}", Ok("x-y?z")),
            ("${SP/ /_}", Ok("a_b")),
            ("${NONE/a/b}", Ok("")),
            ("${EMPTY//a/b}", Ok("")),
            ("${REP//b}", Err("replacement is missing")),
            ("${REP/b/x", Err("never closed")),
            ("${REP/\\b/x}", Err("`\\b` means nothing")),
            ("${ÜML/ü/u}", Ok("u")),
            ("${LINES/\n/ }", Ok("first second")),
        ],
    );
}

#[test]
fn backtick_as_escape_character_frees_the_backslash() {
    check(
        '`',
        &[
            ("c:\\dir\\$A", Ok("c:\\dir\\one")),
            ("`$A", Ok("$A")),
            ("``", Ok("`")),
            ("a`", Ok("a")),
            ("\"`$A`\"\"", Ok("$A\"")),
            ("\"c:\\\"", Ok("c:\\")),
            ("'`'", Ok("`")),
            ("${NONE:-`}}", Ok("}")),
            ("${STARS#x`*}", Ok("y?z")),
            ("${WIN##*\\\\}", Ok("file")),
            ("${P//`//:}", Ok(":usr:local:lib:archive.tar.gz")),
        ],
    );
}

#[test]
fn words_split_where_blanks_are_unquoted_after_expansion() {
    let vars = vars();
    for (text, expected) in [
        ("", vec![]),
        ("  ", vec![]),
        ("a", vec!["a"]),
        ("a b\tc", vec!["a", "b", "c"]),
        ("$PORTS", vec!["80", "443/tcp"]),
        ("x$PORTS", vec!["x80", "443/tcp"]),
        ("\"$PORTS\"", vec!["80 443/tcp"]),
        ("'a b'", vec!["a b"]),
        ("a\\ b", vec!["a b"]),
        ("a' 'b c", vec!["a b", "c"]),
        ("${NONE:-1 2}", vec!["1", "2"]),
        ("$NONE", vec![]),
        ("\"\"", vec![]),
        ("$EMPTY x", vec!["x"]),
        ("80-90/udp", vec!["80-90/udp"]),
    ] {
        let got = Expander::new('\\').words(text, &vars);
        assert_eq!(got, Ok(expected.into_iter().map(str::to_owned).collect()), "{text}");
    }
    assert!(Expander::new('\\').words("'a", &vars).is_err());
}

#[test]
fn heredoc_bodies_keep_quotes_and_expand_variables() {
    let vars = vars();
    for (body, expected) in [
        ("a='$A'\nb=\"$B\"\n", "a='one'\nb=\"two\"\n"),
        ("\\$A \\\\ \\x\n", "$A \\ x\n"),
        ("it's\n", "it's\n"),
        ("`date`\n", "`date`\n"),
        ("${NONE:-'d'}\n", "'d'\n"),
        ("${NONE:-\"a}b\"}\n", "\"ab\"}\n"),
        ("no\\\nline\n", "no\nline\n"),
        ("price: $ 5 $\n", "price: $ 5 $\n"),
    ] {
        for escape in ['\\', '`'] {
            let got = Expander::new(escape).heredoc(body, &vars).map(|got| got.text);
            assert_eq!(got, Ok(expected.to_owned()), "{body}");
        }
    }
    assert!(Expander::new('\\').heredoc("${A", &vars).is_err());
}

#[test]
fn unset_lists_names_whose_absence_matters() {
    let vars = vars();
    for (text, expected) in [
        ("$A ${EMPTY}", vec![]),
        ("$X ${Y} $X", vec!["X", "Y"]),
        ("${X:-d} ${Y+a} ${Z-}", vec![]),
        ("${X#p} ${Y%p} ${Z/a/b}", vec!["X", "Y", "Z"]),
        ("${X:-$Y}", vec!["Y"]),
        ("${A:-$Y}", vec![]),
        ("${X:+$Y}", vec![]),
        ("'$X' \\$Y", vec![]),
        ("$@ $? $1", vec!["1"]),
        ("${A#$X}", vec!["X"]),
    ] {
        let got = Expander::new('\\').word(text, &vars).map(|got| got.unset);
        assert_eq!(got, Ok(expected.into_iter().map(str::to_owned).collect()), "{text}");
    }
}

#[test]
fn errors_point_at_what_is_wrong() {
    for (text, offset) in [
        ("ab'cd", 2),
        ("é\"cd", 2),
        ("ab${X", 2),
        ("ab${X:-${Y}", 2),
        ("a ${X:?m}", 2),
        ("a${X^}", 4),
        ("a${X#\\q}", 5),
    ] {
        let error = Expander::new('\\').word(text, &vars()).unwrap_err();
        assert_eq!(error.offset, offset, "{text}: {error}");
    }
}

#[test]
fn deep_nesting_is_refused_and_not_overflowed() {
    let deep = |levels: usize| format!("{}x{}", "${N:-".repeat(levels), "}".repeat(levels));
    let expander = Expander::new('\\');
    assert_eq!(expander.word(&deep(100), &vars()).map(|got| got.text), Ok("x".to_owned()));
    let error = expander.word(&deep(100_000), &vars()).unwrap_err();
    assert!(error.message.contains("nest deeper"), "{error}");
    let quoted = "\"${N:-".repeat(100_000);
    assert!(expander.word(&quoted, &vars()).is_err());
}

#[test]
fn an_expansion_without_bounds_is_stopped() {
    let mut vars = vars();
    vars.insert("BIG".to_owned(), "x".repeat(1 << 20));
    let expander = Expander::new('\\');
    assert!(expander.word(&"$BIG".repeat(60), &vars).is_ok());
    for text in ["$BIG".repeat(70), "\"$BIG$BIG\"".repeat(40), "${BIG//x/$BIG}".to_owned()] {
        let error = expander.word(&text, &vars).unwrap_err();
        assert!(error.message.contains("grows past"), "{error}");
    }
}

/// The obvious matcher, to hold the fast one against.
fn naive(pattern: &[char], value: &[char]) -> bool {
    match pattern.split_first() {
        None => value.is_empty(),
        Some(('*', rest)) => (0..=value.len()).any(|skip| naive(rest, &value[skip..])),
        Some(('?', rest)) => !value.is_empty() && naive(rest, &value[1..]),
        Some((c, rest)) => value.first() == Some(c) && naive(rest, &value[1..]),
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*", escape in prop_oneof![Just('\\'), Just('`')]) {
        let expander = Expander::new(escape);
        for error in [
            expander.word(&text, &vars()).err(),
            expander.words(&text, &vars()).err(),
            expander.heredoc(&text, &vars()).err(),
        ].into_iter().flatten() {
            prop_assert!(text.is_char_boundary(error.offset));
        }
    }

    #[test]
    fn dense_syntax_never_panics(text in "[${}:#%/?+\\-A'\"\\\\* `ü]{0,60}") {
        let _ = Expander::new('\\').word(&text, &vars());
        let _ = Expander::new('`').words(&text, &vars());
        let _ = Expander::new('\\').heredoc(&text, &vars());
    }

    #[test]
    fn single_quotes_keep_everything(text in "[^']*") {
        let got = Expander::new('\\').word(&format!("'{text}'"), &vars());
        prop_assert_eq!(got.map(|got| got.text), Ok(text));
    }

    #[test]
    fn trimming_agrees_with_the_obvious_matcher(pattern in "[ab*?]{0,6}", value in "[ab]{0,8}") {
        let mut vars = BTreeMap::new();
        vars.insert("V".to_owned(), value.clone());
        let expand = |text: String| Expander::new('\\').word(&text, &vars).map(|got| got.text);
        let wanted: Vec<char> = pattern.chars().collect();
        let chars: Vec<char> = value.chars().collect();
        let ends: Vec<usize> = (0..=chars.len()).filter(|end| naive(&wanted, &chars[..*end])).collect();
        let starts: Vec<usize> = (0..=chars.len()).filter(|start| naive(&wanted, &chars[*start..])).collect();
        let from = |start: Option<&usize>| value[start.copied().unwrap_or(0)..].to_owned();
        let until = |end: Option<&usize>| value[..end.copied().unwrap_or(value.len())].to_owned();
        // A pattern that begins with the operator would read as the greedy form, so none does here.
        prop_assert_eq!(expand(format!("${{V#{pattern}}}")), Ok(from(ends.first())));
        prop_assert_eq!(expand(format!("${{V##{pattern}}}")), Ok(from(ends.last())));
        prop_assert_eq!(expand(format!("${{V%{pattern}}}")), Ok(until(starts.last())));
        prop_assert_eq!(expand(format!("${{V%%{pattern}}}")), Ok(until(starts.first())));
    }
}
