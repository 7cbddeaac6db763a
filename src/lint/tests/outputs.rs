//! Texts and JSON, as BuildKit writes them.

use serde_json::json;

use super::*;
use crate::dockerfile::Span;

#[test]
fn a_check_without_findings_says_so() {
    let source = file("FROM x\n").source;
    let report = Setup::new().check("FROM x\n");
    assert_eq!(text(&report, &source, false), "Check complete, no warnings found.\n");
    let expected = json!({
        "warnings": [],
        "sources": [{"filename": "Dockerfile", "data": "RlJPTSB4Cg==", "language": "Dockerfile"}],
    });
    assert_eq!(super::json(&report, &source, None), expected);
}

#[test]
fn findings_are_shown_with_their_lines() {
    let dockerfile = "# check=error=true\nfrom x\ncmd x\n# c\n\narg b\n";
    let report = Setup::new().check(dockerfile);
    let expected = "\
Check complete, 1 warning has been found!

WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
JSON arguments recommended for cmd to prevent unintended behavior related to OS signals
dir/Dockerfile:3
--------------------
   1 |     # check=error=true
   2 |     from x
   3 | >>> cmd x
   4 |     # c
   5 |     
--------------------
";
    assert_eq!(text(&report, &file(dockerfile).source, false), expected);
}

#[test]
fn instructions_of_several_lines_are_marked_whole() {
    let dockerfile = "FROM x\nENV a \\\n  b\nRUN x <<E\nsd\nE\n";
    let report = Setup::new().check(dockerfile);
    let shown = text(&report, &file(dockerfile).source, false);
    let expected = "   1 |     FROM x\n   2 | >>> ENV a \\\n   3 | >>>   b\n   4 |     RUN x <<E\n-";
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn json_locations_have_a_range_for_each_line() {
    let dockerfile = "FROM x\nENV a \\\n  b\n";
    let source = file(dockerfile).source;
    let report = Setup::new().check(dockerfile);
    let error = BuildError { message: "no".to_owned(), span: Some(Span::new(0, 6)) };
    let json = super::json(&report, &source, Some(&error));
    let range = |line: usize| json!({"start": {"line": line}, "end": {"line": line}});
    let expected = json!([{
        "ruleName": "LegacyKeyValueFormat",
        "description": "Legacy key/value format with whitespace separator should not be used",
        "url": "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
        "detail": "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
        "location": {"ranges": [range(2), range(3)]},
    }]);
    assert_eq!(json["warnings"], expected);
    assert_eq!(json["buildError"], json!({"message": "no", "location": {"ranges": [range(1)]}}));
}

#[test]
fn our_own_findings_stand_apart() {
    let dockerfile = "FROM x:1\nRUN sudo a\nRUN npm ci\n";
    let source = file(dockerfile).source;
    let report = Setup::hints().check(dockerfile);
    let json = super::json(&report, &source, None);
    assert_eq!(json["warnings"], json!([]));
    assert_eq!(json["hints"][0]["ruleName"], "SudoInRun");
    assert_eq!(json["hints"][0]["explain"], "rbuild check --explain SudoInRun");
    assert_eq!(json["hints"][1]["level"], "info");
    let shown = text(&report, &source, false);
    assert!(shown.starts_with("Check complete, no warnings found.\n\nHINT: SudoInRun - "), "{shown}");
    assert!(shown.contains("\nINFO: CacheMountMissing - "), "{shown}");
}

const MANY: &str = "\
# BASE the base image to use
ARG BASE=x
# VERSION is the version
# second line
ARG VERSION=1
ARG LATER=$VERSION-x EMPTY=
ARG UNUSED=1
ARG NOVAL
FROM $BASE AS build
ARG VERSION
ARG NOVAL
# FOO the foo
ARG FOO=$VERSION BAR=b
ARG TARGETARCH
RUN --mount=type=secret,id=tok --mount=type=secret,required=true,target=/x/tok2 --mount=type=ssh y
RUN --mount=type=ssh,id=foo,required --mount=type=cache,target=/c --mount=type=cache,id=cc,target=/d y
# final is the last stage
# more
FROM x AS final
ARG LATER
RUN --mount=type=secret,id=tok,required \\
  --mount=type=bind,from=build,target=/d y
FROM final
ARG NEVER=x
";

#[test]
fn outlines_hold_what_the_target_and_its_stages_take() {
    let setup = Setup::new();
    let expected = "\
BUILD ARG   VALUE   DESCRIPTION
BASE        x       the base image to use
VERSION     1       is the version
LATER       1-x     
NOVAL               
FOO         1       the foo
BAR         b       
NEVER       x       

SECRET   REQUIRED
tok2     true
tok      true

SSH       REQUIRED
default   
foo       true

CACHE MOUNT
/c
cc

";
    assert_eq!(outline(&file(MANY), &setup.input()).text(), expected);
}

#[test]
fn outlines_of_a_target_show_the_values_of_this_build() {
    let setup = Setup { target: Some("build"), ..Setup::new() }.arg("FOO", "zz").arg("VERSION", "7");
    let dockerfile = file(MANY);
    let outline = outline(&dockerfile, &setup.input());
    assert!(outline.text().starts_with("TARGET: build\n\nBUILD ARG"), "{}", outline.text());
    let values: Vec<(&str, &str)> =
        outline.args.iter().map(|arg| (arg.name.as_str(), arg.value.as_str())).collect();
    assert_eq!(values, [("BASE", "x"), ("VERSION", "7"), ("NOVAL", ""), ("FOO", "zz"), ("BAR", "b")]);
    let json = outline.json(&dockerfile.source);
    let at = |line: usize| json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
    assert_eq!(json["name"], "build");
    assert_eq!(
        json["args"][0],
        json!({"name": "BASE", "description": "the base image to use", "value": "x", "location": at(2)})
    );
    assert_eq!(json["args"][2], json!({"name": "NOVAL", "location": at(11)}));
    assert_eq!(json["secrets"][1], json!({"name": "tok2", "required": true, "location": at(15)}));
    assert_eq!(json["ssh"][0], json!({"name": "default", "location": at(15)}));
    assert_eq!(json["cache"][0], json!({"ID": "/c", "location": at(16)}));
}

#[test]
fn outlines_describe_the_target() {
    let text = "# last is the end\nFROM x AS last\n";
    let shown = outline(&file(text), &Setup::new().input()).text();
    assert_eq!(shown, "TARGET:      last\nDESCRIPTION: is the end\n\n");
}

#[test]
fn outlines_show_what_others_are_made_of() {
    for (text, expected) in [
        ("ARG A=1\nARG B=$A\nARG C=$B\nFROM x:$C\n", "A=1 B=1 C=1"),
        ("ARG A=1\nARG B=${A:-2}\nFROM x\nARG A=5\nARG B\n", "B=1 A=5"),
        ("ARG A=1\nFROM x AS a\nARG B=$A\nFROM a\n", "B="),
        ("ARG A=1\nFROM x\nARG A=2 A\n", "A=2"),
        ("FROM x\nARG TARGETARCH=2\nARG TARGETARCH\n", "TARGETARCH=2"),
        ("ARG A=1\nFROM x:$A AS a\nARG A=2\nFROM a\n", "A=1"),
        ("ARG A=1\nARG B=$A\nFROM x:$B AS a\nARG A=2\nFROM a AS b\nFROM b\n", "A=1 B=1"),
        ("ARG A=1\nFROM x:$A AS a\nARG A=2\nFROM a\nARG A=3\n", "A=3"),
    ] {
        let found = outline(&file(text), &Setup::new().input());
        let args: Vec<String> = found.args.iter().map(|arg| format!("{}={}", arg.name, arg.value)).collect();
        assert_eq!(args.join(" "), expected, "{text}");
    }
}

#[test]
fn descriptions_may_stand_above_a_blank_line() {
    let text = "# one\n#\n#-----\n# a builds b\n#-----\n\nFROM x AS a\n";
    assert!(targets_text(&file(text)).contains("a (default) builds b\n"));
}

#[test]
fn what_stands_before_a_mistake_is_checked() {
    let text = "FROM x as y\nENV a b\nRUN c \\\n\n d\nFOO\nENV e f\nRUN g \\\n\n h\n";
    let errors = parse("Dockerfile", text.as_bytes()).unwrap_err();
    let before = errors.before().expect("a stage");
    let report = check(before, &Setup::new().input()).unwrap();
    let found: Vec<String> = report
        .findings
        .iter()
        .map(|one| format!("{}@{}", one.rule.name, one.lines(&before.source).0))
        .collect();
    assert_eq!(found.join(" "), "FromAsCasing@1 LegacyKeyValueFormat@2 NoEmptyContinuation@5");
    assert!(parse("Dockerfile", b"FOO\nFROM x as y\n").unwrap_err().before().is_none());
}

#[test]
fn targets_are_listed_with_the_default() {
    let text = "FROM x AS one\nFROM --platform=linux/amd64 y\n# last is the end\nFROM one AS last\n";
    let expected = "\
TARGET         DESCRIPTION
one            
               
last (default) is the end
";
    let dockerfile = file(text);
    assert_eq!(targets_text(&dockerfile), expected);
    let at = |line: usize| json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
    let expected = json!({
        "targets": [
            {"name": "one", "base": "x", "location": at(1)},
            {"base": "y", "platform": "linux/amd64", "location": at(2)},
            {"name": "last", "description": "is the end", "base": "one", "default": true, "location": at(4)},
        ],
        "sources": [base64_of(text)],
    });
    assert_eq!(targets_json(&dockerfile), expected);
    assert_eq!(targets_text(&file("FROM x\n")), "TARGET    DESCRIPTION\n(default) \n");
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn long_files_take_no_time_to_speak_of() {
    let stages: String = (0..1_000).map(|at| format!("FROM x as A{at}\nrun a \\\n\n b\nENV a b\n")).collect();
    let dockerfile = file(&stages);
    let begun = std::time::Instant::now();
    let setup = Setup::hints();
    let report = setup.check(&stages);
    assert!(report.findings.len() >= 4_000, "{}", report.findings.len());
    let _ = fix(&dockerfile, &setup.input());
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}
