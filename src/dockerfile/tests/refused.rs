//! Messages for wrong text.

use super::*;

/// One message per row; the text goes after a `FROM`, so its first line is line 2.
fn check(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let messages = bad(&format!("FROM x\n{text}\n"));
        assert_eq!(messages.len(), 1, "{text}: {messages:#?}");
        assert!(messages[0].contains(expected), "{text}: {}", messages[0]);
    }
}

#[test]
fn files_without_a_stage_say_so() {
    for (text, expected) in [
        ("", "1:1: the Dockerfile is empty"),
        ("\n  \n", "1:1: the Dockerfile is empty"),
        ("# only a comment\n\n", "holds no instructions"),
        ("# escape=`\n", "holds no instructions"),
        ("ARG a\n", "no build stage: the file has no FROM"),
        ("RUN x\nCOPY a b\n", "1:1: RUN before the first FROM"),
        ("ARG a\nENV b=c\nFROM x\n", "2:1: ENV before the first FROM"),
    ] {
        let messages = bad(text);
        assert_eq!(messages.len(), 1, "{text}: {messages:#?}");
        assert!(messages[0].contains(expected), "{text}: {}", messages[0]);
    }
}

#[test]
fn bytes_that_are_no_text_are_located() {
    for (bytes, expected) in [
        (&b"FROM x\nRUN \xff\n"[..], "Dockerfile:2:5: the file is not valid UTF-8 here"),
        (b"FROM x\nRUN a\0b\n", "Dockerfile:2:6: the file holds a NUL byte"),
        (b"\xff\xfeF\0R\0", "Dockerfile:1:1: the file is not valid UTF-8 here"),
    ] {
        let errors = parse("Dockerfile", bytes).unwrap_err();
        assert_eq!(errors.to_string(), expected);
    }
    let utf16 = parse("Dockerfile", b"F\0R\0O\0M\0").unwrap_err();
    assert!(utf16.first().help.as_ref().unwrap().contains("UTF-16"));
}

#[test]
fn lines_have_a_greatest_length() {
    let line = |length: usize| format!("FROM x\nRUN {}\n", "a".repeat(length - 4));
    good(&line(65_535));
    assert!(bad(&line(65_536))[0].contains("2:1: line longer than 65535 bytes (65536)"));
    let body = format!("FROM x\nRUN <<E\n{}\nE\n", "a".repeat(65_536));
    assert!(bad(&body)[0].contains("3:1: line longer"));
}

#[test]
fn wrong_directives_are_refused() {
    for (text, expected) in [
        ("# escape=x\nFROM x\n", "1:10: invalid escape character `x`"),
        ("# escape=\\\\\nFROM x\n", "invalid escape character `\\\\`"),
        ("# escape=`\n# ESCAPE=\\\nFROM x\n", "2:1: only one escape parser directive"),
        ("# syntax=a\n# syntax=b\nFROM x\n", "2:1: only one syntax parser directive"),
        ("# check=a\n# check=b\nFROM x\n", "2:1: only one check parser directive"),
        ("// syntax=some/thing\nhello\n", "1:11: this file asks for the frontend `some/thing`"),
        ("#!/bin/x\n// syntax=some/thing\n", "frontend `some/thing`"),
        ("{\"syntax\": \"some/json cmd\", \"x\": 1}\n", "frontend `some/json`"),
    ] {
        let messages = bad(text);
        assert!(messages[0].contains(expected), "{text}: {}", messages[0]);
    }
}

#[test]
fn unknown_keywords_get_a_suggestion() {
    check(&[
        ("FORM y", "2:1: unknown instruction `FORM` [did you mean FROM?]"),
        ("COPPY a b", "did you mean COPY?"),
        ("&& make", "unknown instruction `&&` [a line that continues"),
        ("healtcheck NONE", "did you mean HEALTHCHECK?"),
    ]);
}

#[test]
fn flags_are_checked_by_instruction() {
    check(&[
        (
            "COPY --form=a b c",
            "2:6: unknown flag --form for COPY [did you mean --from? COPY takes --from, --chown",
        ),
        ("COPY --keep-git-dir a b", "unknown flag --keep-git-dir for COPY"),
        ("ADD --from=a b c", "unknown flag --from for ADD"),
        ("ADD --parents a b", "unknown flag --parents for ADD"),
        ("RUN --mout=type=bind x", "did you mean --mount?"),
        ("RUN --FROM=x y", "unknown flag --FROM for RUN"),
        ("CMD --version", "unknown flag --version for CMD [CMD takes no flags"),
        ("ENTRYPOINT --x y", "ENTRYPOINT takes no flags"),
        ("ENV --x a=b", "unknown flag --x for ENV"),
        ("ARG --x a", "unknown flag --x for ARG"),
        ("LABEL --x a=b", "unknown flag --x for LABEL"),
        ("USER --x a", "unknown flag --x for USER"),
        ("WORKDIR --x a", "unknown flag --x for WORKDIR"),
        ("EXPOSE --x 1", "unknown flag --x for EXPOSE"),
        ("VOLUME --x /a", "unknown flag --x for VOLUME"),
        ("SHELL --x [\"a\"]", "unknown flag --x for SHELL"),
        ("STOPSIGNAL --x 9", "unknown flag --x for STOPSIGNAL"),
        ("MAINTAINER --x me", "unknown flag --x for MAINTAINER"),
        ("ONBUILD --x RUN a", "unknown flag --x for ONBUILD"),
        ("FROM --platfrom=a b", "did you mean --platform?"),
        ("COPY --from=a --from=b c d", "2:15: duplicate flag --from"),
        ("COPY --link --link=false c d", "duplicate flag --link"),
        ("RUN --network=a --network=b c", "duplicate flag --network"),
        ("COPY --from b c", "2:6: --from needs a value"),
        ("COPY --link= b c", "--link takes true or false, not ``"),
        ("COPY --link=yes b c", "--link takes true or false, not `yes`"),
        ("RUN --mount x", "--mount needs a value"),
        ("COPY --chown='a b c", "2:14: this quote is never closed"),
        ("RUN --mount=type=bind,,rw x", "--mount has an option without a name"),
        ("RUN --mount=type=bind, target=x y", "--mount has an option without a name"),
    ]);
}

#[test]
fn from_takes_one_or_three_words() {
    check(&[
        ("FROM", "2:1: FROM takes an image"),
        ("FROM a b", "2:6: FROM takes an image"),
        ("FROM a as", "the stage name after AS is missing"),
        ("FROM a is b", "write `FROM image AS name`"),
        ("FROM a # comment", "a comment must stand on a line of its own"),
        ("FROM a AS b c", "FROM takes an image"),
        ("FROM a AS 1b", "2:11: invalid stage name `1b`"),
        ("FROM a AS 0", "invalid stage name `0`"),
        ("FROM a AS -b", "invalid stage name"),
        ("FROM a AS b/c", "invalid stage name"),
        ("FROM a AS $b", "invalid stage name"),
        ("FROM a AS é", "invalid stage name"),
    ]);
}

#[test]
fn instructions_want_their_arguments() {
    check(&[
        ("RUN []", "RUN [] names no command"),
        ("RUN [\"a\", 1]", "2:5: the JSON form takes an array of strings only"),
        ("CMD [1]", "array of strings only"),
        ("CMD [[\"a\"]]", "array of strings only"),
        ("CMD [null]", "array of strings only"),
        ("SHELL", "SHELL requires at least one argument"),
        ("SHELL []", "SHELL requires at least one argument"),
        ("SHELL /bin/sh -c", "2:7: SHELL requires its arguments in JSON form"),
        ("SHELL ['/bin/sh']", "JSON form"),
        ("COPY", "COPY requires a source and a destination"),
        ("COPY a", "2:6: COPY requires a source and a destination, but only one is given"),
        ("COPY []", "COPY requires a source and a destination"),
        ("COPY [\"a\"]", "only one is given"),
        ("COPY [\"a\", 2]", "array of strings only"),
        ("ADD a", "ADD requires a source and a destination"),
        ("ENV", "ENV requires at least one name=value"),
        ("ENV a", "2:5: ENV a has no value [write ENV a=value"),
        ("ENV a=b c", "2:9: `c` has no `=`"),
        ("ENV =b", "ENV names cannot be blank"),
        ("ENV a=b =c", "2:9: ENV names cannot be blank"),
        ("LABEL", "LABEL requires at least one"),
        ("LABEL a", "LABEL a has no value"),
        ("LABEL a=b c", "`c` has no `=`"),
        ("ARG", "ARG requires at least one name"),
        ("ARG =x", "ARG names cannot be blank"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("USER", "USER requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("MAINTAINER", "MAINTAINER requires a name"),
        ("EXPOSE", "EXPOSE requires at least one port"),
        ("VOLUME", "VOLUME requires at least one path"),
        ("VOLUME []", "VOLUME requires at least one path"),
        ("VOLUME [\"/a\", \" \"]", "2:15: a VOLUME path cannot be empty"),
    ]);
}

#[test]
fn healthcheck_has_limits() {
    check(&[
        ("HEALTHCHECK", "HEALTHCHECK requires NONE, or CMD"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "HEALTHCHECK CMD lacks its command"),
        ("HEALTHCHECK CMD []", "HEALTHCHECK CMD lacks its command"),
        ("HEALTHCHECK curl x", "unknown form `curl` of HEALTHCHECK"),
        ("HEALTHCHECK CDM x", "did you mean CMD?"),
        (
            "HEALTHCHECK --interval=5 CMD x",
            "2:24: `5` is not a duration [durations are written --interval=30s",
        ),
        ("HEALTHCHECK --timeout=1us CMD x", "--timeout cannot be shorter than 1ms"),
        ("HEALTHCHECK --start-period=-1s CMD x", "--start-period cannot be shorter than 1ms"),
        ("HEALTHCHECK --start-interval=x CMD x", "not a duration"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative"),
        ("HEALTHCHECK --retries=many CMD x", "not a number of retries"),
        ("HEALTHCHECK --interval=1s --interval=2s CMD x", "duplicate flag --interval"),
        ("HEALTHCHECK --retry=1 CMD x", "unknown flag --retry"),
    ]);
}

#[test]
fn heredocs_want_their_end_and_their_place() {
    check(&[
        ("RUN <<EOF\nx", "2:5: unterminated heredoc: no line says just `EOF`"),
        ("RUN <<EOF\nx\n EOF\nEOF \nEOFX", "unterminated heredoc"),
        (
            "RUN cat <<EOF; ls\nx\nEOF",
            "no line says just `EOF;` [the terminator is everything up to the next blank; put a blank after `<<EOF`",
        ),
        ("RUN <<-EOF\n  EOF", "unterminated heredoc"),
        ("COPY <<A <<B /x\na\nA\n", "no line says just `B`"),
        ("COPY a <<EOF\nx\nEOF", "COPY cannot have the heredoc `EOF` as its destination"),
        ("COPY <<EOF\nx\nEOF", "COPY cannot have the heredoc `EOF` as its destination"),
        ("ONBUILD RUN <<EOF\nx", "unterminated heredoc"),
    ]);
}

#[test]
fn onbuild_refuses_what_cannot_be_triggered() {
    check(&[
        ("ONBUILD", "ONBUILD requires an instruction"),
        ("ONBUILD ONBUILD RUN x", "2:9: ONBUILD cannot hold another ONBUILD"),
        ("ONBUILD FROM x", "FROM is not allowed as an ONBUILD trigger"),
        ("ONBUILD maintainer x", "MAINTAINER is not allowed as an ONBUILD trigger"),
        ("ONBUILD COPY a", "2:14: COPY requires a source and a destination"),
        ("ONBUILD RNU x", "unknown instruction `RNU` [did you mean RUN?]"),
    ]);
    for (trigger, expected) in [
        ("", "the ONBUILD trigger is empty"),
        ("# x", "the ONBUILD trigger is empty"),
        ("RUN a\nRUN b", "base:2:1: an ONBUILD trigger holds exactly one instruction"),
        ("FROM x", "FROM is not allowed"),
        ("ONBUILD RUN x", "cannot hold another"),
        ("COPY a", "base:1:6: COPY requires"),
    ] {
        let error = parse_trigger("base", trigger, '\\').unwrap_err().to_string();
        assert!(error.contains(expected), "{trigger}: {error}");
    }
}

#[test]
fn several_mistakes_are_told_at_once_and_in_order() {
    let messages = bad("FROM x\nSHELL\nENV a\nRUN fine\nFORM y\n");
    let lines: Vec<_> = messages.iter().map(|message| &message[..2]).collect();
    assert_eq!(lines, ["2:", "3:", "5:"]);
    let errors = parse("f", b"FROM x\nSHELL\nENV a\nVOLUME\n").unwrap_err();
    assert_eq!(errors.to_string(), "f:2:1: SHELL requires at least one argument (and 2 more errors)");
    assert_eq!(bad(&format!("FROM x\n{}", "nonsense\n".repeat(100))).len(), 20);
}

#[test]
fn a_wrong_from_does_not_orphan_what_follows() {
    assert_eq!(bad("FROM\nRUN x\n").len(), 1);
}

#[test]
fn mistakes_after_continuations_point_at_their_own_line() {
    let messages = bad("FROM x\nENV a=1 \\\n  # note\n  b=2 \\\n  cee\n");
    assert!(messages[0].starts_with("5:3: `cee` has no `=`"), "{messages:?}");
}
