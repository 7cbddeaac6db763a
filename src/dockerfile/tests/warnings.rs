//! Legal and yet worth telling.

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
        ("from x as abc\n", vec![]),
        ("FROM x AS scratch\n", vec![("ReservedStageName", 1)]),
        ("FROM x AS context\n", vec![("ReservedStageName", 1)]),
        ("FROM x AS a\nFROM x AS A\n", vec![("StageNameCasing", 2), ("DuplicateStageName", 2)]),
        ("FROM x\nRUN a \\\n\n  b\n", vec![("NoEmptyContinuation", 3)]),
        ("FROM x\nRUN a \\\n# ok\n  b\n", vec![]),
        ("FROM x\nRUN a\nrun b\nRUN c\n", vec![("ConsistentInstructionCasing", 3)]),
        ("from x\nrun a\nRUN b\n", vec![("ConsistentInstructionCasing", 3)]),
        ("FROM x\nRun a\n", vec![("ConsistentInstructionCasing", 2)]),
        ("FROM x\nrun a\n", vec![("ConsistentInstructionCasing", 2)]),
        ("FROM x\nCMD a\n", vec![("JSONArgsRecommended", 2)]),
        ("FROM x\nENTRYPOINT a\n", vec![("JSONArgsRecommended", 2)]),
        ("FROM x\nSHELL [\"s\"]\nCMD a\n", vec![]),
        ("FROM x\nSHELL [\"s\"]\nFROM y\nCMD a\n", vec![("JSONArgsRecommended", 4)]),
        ("FROM x\nCMD ['a']\n", vec![("JSONArgsRecommended", 2)]),
        ("FROM x\nRUN [\"a\",]\n", vec![("JSONArgsRecommended", 2)]),
        ("FROM x\nRUN [ -f a ] && b\n", vec![]),
        ("FROM x\nMAINTAINER me\n", vec![("MaintainerDeprecated", 2)]),
        (
            "FROM x\nCMD [\"a\"]\nCMD [\"b\"]\nCMD [\"c\"]\n",
            vec![("MultipleInstructionsDisallowed", 2), ("MultipleInstructionsDisallowed", 3)],
        ),
        ("FROM x\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n", vec![("MultipleInstructionsDisallowed", 2)]),
        ("FROM x\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n", vec![("MultipleInstructionsDisallowed", 2)]),
        ("FROM x\nCMD [\"a\"]\nFROM x\nCMD [\"b\"]\n", vec![]),
        ("FROM x\nENV a b\nLABEL c d\n", vec![("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)]),
        ("FROM x\nONBUILD ENV a b\n", vec![("LegacyKeyValueFormat", 2)]),
    ] {
        assert_eq!(rules(text), expected, "{text}");
    }
}
