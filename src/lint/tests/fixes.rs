//! Edits.

use proptest::prelude::*;

use super::*;

fn fixed(text: &str) -> String {
    fix(&file(text), &Setup::hints().input()).text
}

#[test]
fn what_can_be_fixed_is_fixed() {
    for (text, expected) in [
        ("FROM x:1\nrun a\nRun b\n", "FROM x:1\nRUN a\nRUN b\n"),
        ("from x:1 AS Y\nrun a\n", "from x:1 as y\nrun a\n"),
        // The keyword follows the file, and AS follows the keyword.
        ("from x:1 as Y\nRUN a\nRUN b\n", "FROM x:1 AS y\nRUN a\nRUN b\n"),
        ("FROM x:1 As Build-1\n", "FROM x:1 AS build-1\n"),
        ("FROM x:1\nENV a b\nLABEL c d e\n", "FROM x:1\nENV a=b\nLABEL c=\"d e\"\n"),
        ("FROM x:1\nENV PATH $PATH:/a\n", "FROM x:1\nENV PATH=$PATH:/a\n"),
        ("FROM x:1\nENV a = b\n", "FROM x:1\nENV a=\"= b\"\n"),
        (
            "FROM x:1\nMAINTAINER A B <a@b>\n",
            "FROM x:1\nLABEL org.opencontainers.image.authors=\"A B <a@b>\"\n",
        ),
        ("FROM x:1\nMAINTAINER \"me\"\n", "FROM x:1\nLABEL org.opencontainers.image.authors=\"me\"\n"),
        ("FROM x:1\nEXPOSE 80/TCP 53/Udp 1\n", "FROM x:1\nEXPOSE 80/tcp 53/udp 1\n"),
        ("FROM x:1\nRUN a \\\n\n  b \\\n \n  c\n", "FROM x:1\nRUN a \\\n  b \\\n  c\n"),
        ("FROM scratch\nCMD a -b c.d\n", "FROM scratch\nCMD [\"a\", \"-b\", \"c.d\"]\n"),
        ("FROM x\nCMD a\n", "FROM x\nCMD [\"a\"]\n"),
        ("FROM x:1\nENTRYPOINT /a  b\n", "FROM x:1\nENTRYPOINT [\"/a\", \"b\"]\n"),
        (
            "FROM x:1\nRUN apt-get update && apt-get install a && \\\n apt-get install -y b && apt-get install c\n",
            "FROM x:1\nRUN apt-get update && apt-get install -y a && \\\n apt-get install -y b && apt-get install -y c\n",
        ),
    ] {
        assert_eq!(fixed(text), expected, "{text}");
    }
}

#[test]
fn what_could_mean_something_else_is_left_alone() {
    for text in [
        // Quotes and escapes of a legacy value are removed, those of a pair too, but not alike.
        "FROM x:1\nENV a \"b c\"\n",
        "FROM x:1\nENV a b\\ c\n",
        "FROM x:1\nENV a b \\\n c\n",
        "FROM x:1\nMAINTAINER $me\n",
        "FROM x:1\nEXPOSE $P/TCP\n",
        // A blank line of a here-document is content.
        "FROM x:1\nRUN <<E\na\n\nE\n",
        "FROM scratch\nCMD a && b\n",
        "FROM scratch\nCMD a $B\n",
        "FROM scratch\nCMD A=1 b\n",
        "FROM scratch\nCMD exec a\n",
        "FROM scratch\nCMD a 'b c'\n",
        // An unknown base may have an entrypoint, which would get other arguments.
        "FROM unknown:1\nCMD a\n",
        "FROM scratch\nENTRYPOINT a\nCMD b\n",
        "FROM x:1\nRUN echo 'apt-get install' && apt-get update && apt-get install a\n",
        "# check=skip=all\nFROM x:1 as Y\nrun a\n",
    ] {
        assert_eq!(fixed(text), text, "{text}");
    }
}

#[test]
fn fixes_are_named_with_their_lines() {
    let done = fix(&file("FROM x:1 AS Y\nENV a b\n"), &Setup::hints().input());
    assert_eq!(done.applied, [("StageNameCasing", 1), ("LegacyKeyValueFormat", 2)]);
}

#[test]
fn overlapping_edits_are_not_mixed() {
    use crate::dockerfile::Span;
    let finding =
        |edits: Vec<Edit>| Finding { rule: RULES[0], detail: String::new(), span: Span::default(), edits };
    let edit = |start, end, text: &str| Edit { span: Span::new(start, end), text: text.to_owned() };
    let findings = [
        finding(vec![edit(4, 6, "X")]),
        finding(vec![edit(0, 1, "Y"), edit(5, 7, "Z")]),
        finding(vec![edit(1, 2, "W")]),
        finding(vec![edit(90, 91, "out")]),
    ];
    assert_eq!(apply_fixes("abcdefgh", &findings), "aWcdXgh");
}

/// Lines of which most can be fixed, and some cannot.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "(RUN|run|Run) [a-c]{1,3}( \\\\\n){0,2}",
        "(ENV|env|LABEL) [a-c]{1,2} [a-c \"\\\\$'=]{1,6}",
        "(ENV|env) [a-c]{1,2}=[a-c]{0,2}",
        "(CMD|cmd|ENTRYPOINT) [a-c=\\[\"'; ]{1,8}",
        "(EXPOSE|expose) [0-9]{1,3}/(TCP|tcp|Udp)",
        "(MAINTAINER|maintainer) [a-c\" <>$]{1,6}",
        "(FROM|from|From) x:1( (as|AS|As) [a-cA-C]{1,2})?",
        "RUN (apt-get|apt) (update|install|install -y|-q install) [a-c]{0,2}( && apt-get install d)?",
        "RUN a \\\\\n\n( \\\\\n)?\n  b",
        "RUN <<E\n[a-c\n]{0,6}\nE",
        Just("# check=skip=LegacyKeyValueFormat".to_owned()),
        Just(String::new()),
    ]
}

proptest! {
    #[test]
    fn fixed_text_parses_and_stays_as_it_is(lines in prop::collection::vec(line(), 0..12)) {
        let text = format!("FROM scratch\n{}\n", lines.join("\n"));
        if let Ok(dockerfile) = parse("f", text.as_bytes()) {
            let setup = Setup::hints();
            let once = fix(&dockerfile, &setup.input()).text;
            let again = parse("f", once.as_bytes());
            prop_assert!(again.is_ok(), "{text}\nbecame\n{once}");
            if let Ok(again) = again {
                prop_assert_eq!(fix(&again, &setup.input()).text, once);
            }
        }
    }

    #[test]
    fn no_text_panics(text in "(FROM|RUN|ENV|COPY|ARG|EXPOSE|CMD|#|x|y|\\$|=|\"|'|\\\\|<<E|/| |\n){0,40}") {
        if let Ok(dockerfile) = parse("f", text.as_bytes()) {
            let setup = Setup::hints();
            let report = check(&dockerfile, &setup.input());
            if let Ok(report) = report {
                let _ = super::text(&report, &dockerfile.source, false);
                let _ = json(&report, &dockerfile.source, None);
            }
            let _ = outline(&dockerfile, &setup.input()).text();
        }
    }
}
