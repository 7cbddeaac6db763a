//! Checks, outlines and targets as a user meets them. Everything here is built on scratch.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use support::{Done, Lab};

const NOTE: &str = "note: cannot look at nosuch:1 from here; what depends on their configs is left out\n";

fn call(lab: &Lab, dockerfile: &str, args: &[&str]) -> Done {
    let context = lab.context(&[("Dockerfile", dockerfile), ("a", "a"), (".dockerignore", "ignored\n")]);
    let path = context.display().to_string();
    lab.run(args.iter().copied().chain([path.as_str()]))
}

#[test]
fn a_check_that_fails_does_not_call_itself_complete() {
    let lab = Lab::new();
    for (dockerfile, code) in [("FROM scratch\nFOO\n", 3), ("FROM scratch\nADD a.txt /\nFOO\n", 3)] {
        let done = call(&lab, dockerfile, &["check"]);
        assert_eq!(done.code, code, "{}", done.err);
        assert!(
            !done.out.contains("Check complete") && done.err.contains("unknown instruction"),
            "{}",
            done.out
        );
    }
}

#[test]
fn findings_of_buildkits_rules_are_failures_and_hints_are_not() {
    let lab = Lab::new();
    for (dockerfile, args, code, words) in [
        ("FROM scratch\nCOPY a /\n", &["check"][..], 0, &["Check complete, no warnings found."][..]),
        (
            "FROM scratch\nADD a.txt /\n",
            &["check"],
            0,
            &["HINT: AddInsteadOfCopy - rbuild check --explain AddInsteadOfCopy\n"],
        ),
        ("FROM scratch\nENV a b\n", &["check"], 1, &["1 warning has been found", ">>> ENV a b"]),
        ("FROM scratch\nENV a b\n", &["build", "--check"], 1, &["LegacyKeyValueFormat"]),
        ("FROM scratch\nENV a b\n", &["--check"], 1, &["LegacyKeyValueFormat"]),
        (
            "FROM scratch\nENV a b\n",
            &["build", "--call=check,ignorestatus=true"],
            0,
            &["LegacyKeyValueFormat"],
        ),
        ("# check=skip=all\nFROM scratch\nENV a b\n", &["check"], 0, &["no warnings"]),
        ("FROM scratch\nENV a b\n", &["check", "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all"], 0, &[]),
        (
            "FROM scratch\nCOPY ignored /\n",
            &["check"],
            1,
            &["CopyIgnoredFile", "Attempting to Copy file \"ignored\" that is excluded by .dockerignore"],
        ),
        (
            "# check=skip=CopyIgnoredFile // b\nFROM scratch\nCOPY ignored /\n",
            &["check"],
            0,
            &["no warnings"],
        ),
        // What stands before a mistake is shown beside it.
        ("FROM scratch as a\nFOO\n", &["check"], 3, &["FromAsCasing", "unknown instruction"]),
        ("FROM scratch as a\nFOO\n", &["check", "--call=check,ignorestatus=true"], 0, &["FromAsCasing"]),
        // Bases that are not available are no failure.
        ("FROM nosuch:1\nENV a b\n", &["check", "--pull=never"], 1, &["LegacyKeyValueFormat", NOTE]),
        (
            "FROM nosuch:1\nCOPY --from=no:2 $A /\n",
            &["check", "--pull=never"],
            0,
            &["nosuch:1 and 1 other image"],
        ),
        ("FROM nosuch:1\nENV a=$B\n", &["check", "--pull=never"], 0, &["no warnings", NOTE]),
        (
            "FROM localhost:1/nosuch\nENV a=$B\n",
            &["check"],
            0,
            &["no warnings", "cannot look at localhost:1/nosuch "],
        ),
        (
            "FROM nosuch:1\nARG A=7\n",
            &["build", "--call=outline", "--pull=never"],
            0,
            &["A           7", NOTE],
        ),
        ("FROM nosuch:1\nFROM scratch\nSTOPSIGNAL x\n", &["check", "--pull=never"], 3, &["invalid signal"]),
        ("# check=error=true\nFROM scratch\nENV a b\n", &["check"], 1, &["lint violation found for rules"]),
        ("# check=nonsense\nFROM scratch\n", &["check"], 3, &["invalid check option \"nonsense\""]),
        ("FROM scratch\nSTOPSIGNAL $A\nENV a b\n", &["check"], 3, &["UndefinedVar", "invalid signal"]),
        ("FROM scratch\n", &["build", "--call=subrequests.describe"], 8, &["--call=subrequests.describe"]),
        ("FROM scratch\n", &["check", "--call=targets", "--fix"], 2, &["--fix"]),
        ("FROM scratch AS one\n", &["build", "--call=targets"], 0, &["one (default)"]),
        ("FROM scratch\nARG A=7\n", &["build", "--call=outline"], 0, &["A           7"]),
        // TARGETSTAGE is the target's, whatever stage is looked at; no registry is asked for `base-0`.
        ("FROM scratch AS base-p\nFROM base-${TARGETSTAGE} AS p\n", &["check"], 0, &["no warnings found"]),
        ("FROM scratch AS base-p\nFROM base-${TARGETSTAGE} AS p\n", &["build", "--call=outline"], 0, &[]),
        (
            "FROM scratch AS base-default\nFROM base-${TARGETSTAGE}\nCOPY a /\n",
            &["check"],
            0,
            &["no warnings found"],
        ),
        (
            "FROM scratch AS base-q\nFROM base-${TARGETSTAGE} AS q\nFROM scratch AS p\n",
            &["check", "--target=q"],
            0,
            &["no warnings found"],
        ),
    ] {
        let ended = call(&lab, dockerfile, args);
        let text = format!("{}{}", ended.out, ended.err);
        assert_eq!(ended.code, code, "{dockerfile:?} {args:?}\n{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} not in the output of {dockerfile:?} {args:?}\n{text}");
        }
    }
}

#[test]
fn json_goes_to_standard_output_alone() {
    let lab = Lab::new();
    for (dockerfile, args, key) in [
        ("FROM scratch\nENV a b\n", &["check", "--format=json"][..], "warnings"),
        ("FROM scratch\nFOO\n", &["build", "--call=check,format=json"], "buildError"),
        ("FROM scratch\n", &["build", "--call=targets,format=json"], "targets"),
        ("FROM scratch\nARG A\n", &["build", "--call=outline,format=json"], "args"),
    ] {
        let ended = call(&lab, dockerfile, args);
        let json: serde_json::Value =
            serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}\n{}", ended.out));
        assert!(json.get(key).is_some(), "{key}: {json}");
    }
}

#[test]
fn json_has_findings_before_a_mistake_and_notes_stay_out() {
    let lab = Lab::new();
    for (dockerfile, args) in [
        ("FROM scratch as a\nFOO\n", &["check", "--format=json"][..]),
        ("FROM nosuch:1 as a\n", &["check", "--format=json", "--pull=never"]),
    ] {
        let ended = call(&lab, dockerfile, args);
        let json: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON alone");
        assert_eq!(json["warnings"][0]["ruleName"], "FromAsCasing", "{json}");
        assert_eq!(json.get("buildError").is_some(), dockerfile.contains("FOO"), "{json}");
    }
}

#[test]
fn rules_are_explained_without_a_file() {
    let lab = Lab::new();
    for (rule, code, words) in [
        ("CdInRun", 0, "## Why"),
        ("StageNameCasing", 0, "Reported where: A stage name is not lower case."),
        ("CdinRun", 2, "did you mean CdInRun?"),
    ] {
        let ended = lab.run(["check", "--explain", rule]);
        assert_eq!(ended.code, code, "{}", ended.err);
        assert!(format!("{}{}", ended.out, ended.err).contains(words), "{}{}", ended.out, ended.err);
    }
}

#[test]
fn error_true_stops_a_build_before_it_begins() {
    let lab = Lab::new();
    let ended = call(&lab, "# check=error=true\nFROM scratch AS a\nENV a b\nCOPY missing /\n", &["build"]);
    assert_eq!(ended.code, 3, "{}", ended.err);
    assert!(ended.err.contains("lint violation found for rules: LegacyKeyValueFormat"), "{}", ended.err);
    assert!(!ended.err.contains("missing"), "{}", ended.err);
    // Stages that the target does not need break no rule of this build.
    let unused = "# check=error=true\nFROM scratch AS a\nENV a b\nFROM scratch\nCOPY a /\n";
    assert_eq!(call(&lab, unused, &["build"]).code, 0);
}

#[test]
fn fixes_are_written_into_the_file() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "\u{feff}FROM scratch as Y\r\nENV a b c\r\nWORKDIR x\r\n")]);
    let file = context.join("Dockerfile");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
    let path = context.display().to_string();
    let ended = lab.run(["check", "--fix", &path]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("fixed LegacyKeyValueFormat in line 2"), "{}", ended.err);
    assert!(ended.out.contains("WorkdirRelativePath") && !ended.out.contains("Legacy"), "{}", ended.out);
    let fixed = fs::read_to_string(&file).expect("read");
    assert_eq!(fixed, "\u{feff}FROM scratch AS y\r\nENV a=\"b c\"\r\nWORKDIR x\r\n");
    assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(&context).expect("list").count(), 1);
}
