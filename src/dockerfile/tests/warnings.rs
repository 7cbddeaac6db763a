//! Legal and yet worth telling, as far as the parser alone sees it.

use super::*;

/// Rule and first line of every warning.
fn rules(text: &str) -> Vec<(&'static str, usize)> {
    let file = good(text);
    file.warnings.iter().map(|w| (w.rule, file.source.location(w.span.start).line)).collect()
}

#[test]
fn rules_fire_where_they_should() {
    for (text, expected) in [
        ("FROM x\nRUN y\nCMD [\"z\"]\n", vec![]),
        ("FROM x AS Abc\n", vec![("StageNameCasing", 1)]),
        ("FROM x as abc\n", vec![("FromAsCasing", 1)]),
        ("from x AS abc\n", vec![("FromAsCasing", 1)]),
        ("FROM x As abc\n", vec![("FromAsCasing", 1)]),
        ("from x as abc\n", vec![]),
        ("From x as abc\n", vec![]),
        ("FROM x\nRUN a \\\n\n  b\n", vec![("NoEmptyContinuation", 3)]),
        ("FROM x\nRUN a \\\n# ok\n  b\n", vec![]),
        ("FROM x\nRUN\nRUN --network=none\n", vec![("EmptyCommand", 2), ("EmptyCommand", 3)]),
        ("FROM x\nCMD\nENTRYPOINT # c\n", vec![("EmptyCommand", 2)]),
        ("FROM x\nRUN <<E\nE\nCMD []\n", vec![]),
        ("FROM x\nCMD ['a']\n", vec![("MalformedJsonForm", 2)]),
        ("FROM x\nRUN [\"a\",]\n", vec![("MalformedJsonForm", 2)]),
        ("FROM x\nRUN [ -f a ] && b\n", vec![]),
    ] {
        assert_eq!(rules(text), expected, "{text}");
    }
}
