//! The rules of BuildKit's linter: when they fire, as tried with BuildKit itself.

use super::*;

#[test]
fn each_rule_fires_where_the_reference_fires_and_nowhere_else() {
    for (text, expected) in [
        ("FROM x\nRUN y\nCMD [\"z\"]\n", ""),
        ("FROM x AS Abc\n", "StageNameCasing@1"),
        ("FROM x as abc\n", "FromAsCasing@1"),
        ("from x as abc\n", ""),
        ("FROM x AS scratch\n", "ReservedStageName@1"),
        ("FROM x AS context\n", "ReservedStageName@1"),
        ("FROM x AS a\nFROM x AS a\n", "DuplicateStageName@2"),
        // The line on which the instruction ends.
        ("FROM x\nRUN a \\\n\n\n  b\n", "NoEmptyContinuation@5"),
        ("FROM x\nRUN a \\\n\n", "NoEmptyContinuation@3"),
        ("FROM x\nRUN a \\\n# ok\n  b\n", ""),
        ("FROM x\nRUN a\nrun b\nRUN c\n", "ConsistentInstructionCasing@3"),
        ("from x\nrun a\nRUN b\n", "ConsistentInstructionCasing@3"),
        ("FROM x\nRun a\n", "ConsistentInstructionCasing@2"),
        ("FROM x\nrun a\n", "ConsistentInstructionCasing@2"),
        // What stands before the first FROM has no say and no fault.
        ("arg A\narg B\nFROM x\n", ""),
        ("FROM x\nCMD a\n", "JSONArgsRecommended@2"),
        ("FROM x\nENTRYPOINT a\n", "JSONArgsRecommended@2"),
        ("FROM x\nCMD ['a']\n", "JSONArgsRecommended@2"),
        ("FROM x\nSHELL [\"s\"]\nCMD a\n", ""),
        ("FROM x AS a\nSHELL [\"s\"]\nFROM a\nCMD a\n", ""),
        ("FROM x\nONBUILD CMD a\n", ""),
        ("FROM x\nMAINTAINER me\n", "MaintainerDeprecated@2"),
        ("FROM x\nCMD [\"a\"]\nCMD [\"b\"]\n", "MultipleInstructionsDisallowed@2"),
        ("FROM x\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n", "MultipleInstructionsDisallowed@2"),
        ("FROM x\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n", "MultipleInstructionsDisallowed@2"),
        ("FROM x\nCMD [\"a\"]\nFROM x\nCMD [\"b\"]\n", ""),
        ("FROM x\nENV a b\nLABEL c d\n", "LegacyKeyValueFormat@2 LegacyKeyValueFormat@3"),
        ("FROM x\nONBUILD ENV a b\n", ""),
        ("FROM $A\n", "InvalidDefaultArgInFrom@1 UndefinedArgInFrom@1"),
        ("ARG A=x\nFROM $A\n", ""),
        ("ARG A\nFROM ${A:-x}\n", ""),
        ("ARG A\nFROM $A\n", "InvalidDefaultArgInFrom@2"),
        ("ARG A=x\nFROM --platform=$P $A\n", "UndefinedArgInFrom@2"),
        ("FROM --platform=$TARGETPLATFORM x\n", "RedundantTargetPlatform@1"),
        ("FROM --platform=${TARGETPLATFORM:-y} x\n", "RedundantTargetPlatform@1"),
        ("FROM --platform=$BUILDPLATFORM x\n", ""),
        ("FROM --platform=$TARGETOS/amd64 x\n", ""),
        ("FROM --platform=linux/amd64 x\n", "FromPlatformFlagConstDisallowed@1"),
        ("FROM --platform=linux/amd64 x AS on-amd64\n", ""),
        ("FROM x\nWORKDIR a\n", "WorkdirRelativePath@2"),
        ("FROM x\nWORKDIR /a\nWORKDIR b\n", ""),
        ("FROM x\nWORKDIR a\nWORKDIR b\n", "WorkdirRelativePath@2"),
        ("FROM x AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", ""),
        ("FROM x\nONBUILD WORKDIR b\n", ""),
        ("FROM x\nENV A=$B\n", "UndefinedVar@2"),
        ("FROM x\nCOPY ${B:-c} /\n", "UndefinedVar@2"),
        ("FROM x\nLABEL a=$HOME_DIR b=$PATH\n", ""),
        ("FROM unknown\nLABEL a=$HOME_DIR\n", ""),
        ("FROM scratch\nLABEL a=$PATH b=$HOME_DIR\n", "UndefinedVar@2"),
        ("FROM x\nARG B\nLABEL a=$B\n", ""),
        ("FROM x AS a\nARG B\nFROM a\nLABEL a=$B\n", ""),
        ("ARG B=1\nFROM x\nLABEL a=$B\n", "UndefinedVar@3"),
        ("FROM x\nARG A=$TARGETARCH\n", "UndefinedVar@2"),
        ("FROM x\nCOPY <<E /a\n$B\nE\n", "UndefinedVar@2"),
        ("FROM x\nCOPY <<\"E\" /a\n$B\nE\n", ""),
        ("FROM x\nRUN echo $B\nCMD [\"$B\"]\nEXPOSE $B\n", ""),
        ("FROM x\nVOLUME $B\nUSER $C\nSTOPSIGNAL $D\n", "UndefinedVar@2 UndefinedVar@3 UndefinedVar@4"),
        ("FROM x\nARG TOKEN\nENV my_Password=1\n", "SecretsUsedInArgOrEnv@2 SecretsUsedInArgOrEnv@3"),
        ("FROM x\nENV TOKENS=1 api-key=2 public_key=3 KEY_FILE=4\n", ""),
        ("ARG SECRET=1\nFROM x\n", ""),
        ("FROM x\nEXPOSE 80/TCP\n", "ExposeProtoCasing@2"),
        ("FROM x\nEXPOSE 80/tcp 90\n", ""),
        ("FROM x\nEXPOSE 127.0.0.1:80:80\n", "ExposeInvalidFormat@2"),
        ("FROM x\nEXPOSE 88:80/UDP\n", "ExposeProtoCasing@2 ExposeInvalidFormat@2"),
        ("FROM x\nEXPOSE :80\n", ""),
        ("FROM x\nEXPOSE ::80\n", ""),
        ("FROM x\nEXPOSE [::1]:80:80\n", "ExposeInvalidFormat@2"),
        // Two of one line, in BuildKit's order.
        ("FROM x\nENV PATH $B\n", "UndefinedVar@2 LegacyKeyValueFormat@2"),
        ("FROM x\nENV TOKEN $B\n", "UndefinedVar@2 LegacyKeyValueFormat@2 SecretsUsedInArgOrEnv@2"),
        ("FROM x\nLABEL a $B\n", "UndefinedVar@2 LegacyKeyValueFormat@2"),
        ("FROM x\nARG TOKEN=$B\n", "SecretsUsedInArgOrEnv@2 UndefinedVar@2"),
        ("FROM x\nmaintainer me\n", "MaintainerDeprecated@2 ConsistentInstructionCasing@2"),
        ("FROM x as A\n", "StageNameCasing@1 FromAsCasing@1"),
        ("FROM x AS a\nFROM x as A\n", "StageNameCasing@2 FromAsCasing@2 DuplicateStageName@2"),
        (
            "FROM x AS scratch\nFROM x as Scratch\nfrom $A\n",
            "ReservedStageName@1 StageNameCasing@2 FromAsCasing@2 \
            ReservedStageName@2 DuplicateStageName@2 ConsistentInstructionCasing@3 InvalidDefaultArgInFrom@3 UndefinedArgInFrom@3",
        ),
        // Defaults that cannot be expanded say nothing about the name of a base.
        ("ARG A=${B:x}\nFROM x:$A\n", ""),
        ("FROM x\nCOPY ignored /\n", "CopyIgnoredFile@2"),
        // Experimental rules wait to be asked for.
        ("# what\nFROM x AS y\n", ""),
    ] {
        let expected: Vec<&str> = expected.split_whitespace().collect();
        assert_eq!(Setup::new().found(text), expected, "{text}");
    }
}

#[test]
fn experimental_rules_fire_where_they_are_asked_for() {
    for (text, expected) in [
        ("# what\nFROM x AS y\n", "InvalidDefinitionDescription@2"),
        ("# y the stage\nFROM x AS y\n", ""),
        ("# y the stage\n# more\nFROM x AS y\n", "InvalidDefinitionDescription@3"),
        // An empty comment ends a block, a blank line does not.
        ("# what\n#\nFROM x AS y\n", ""),
        ("# what\n\nFROM x AS y\n", "InvalidDefinitionDescription@3"),
        // An indented one describes nothing.
        ("  # y one\nFROM x AS y\n", "InvalidDefinitionDescription@2"),
        ("# what\nFROM x\n", ""),
        ("# what\nARG A\nFROM x\n", "InvalidDefinitionDescription@2"),
        ("FROM x\n# B it\nARG A B\n", ""),
    ] {
        let found = Setup::new().arg(CHECK_ARG, "experimental=all").found(text);
        assert_eq!(found, expected.split_whitespace().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn ignored_files_are_those_of_the_context() {
    for (text, expected) in [
        ("FROM x\nCOPY ignored /\n", "CopyIgnoredFile@2"),
        ("FROM x\nADD ignored /\n", "CopyIgnoredFile@2"),
        ("FROM x\nCOPY --parents ./ignored/./b /\n", "CopyIgnoredFile@2"),
        ("FROM x\nCOPY --exclude=*.c /ignored /\n", "CopyIgnoredFile@2"),
        ("FROM x\nENV I=ignored\nCOPY $I/a /\n", "CopyIgnoredFile@3"),
        ("FROM x\nADD a/../ignored/b c /\n", "CopyIgnoredFile@2"),
        ("FROM x\nCOPY . /\nADD http://h/ignored git@h:ignored /\n", ""),
        ("FROM x AS a\nFROM x\nCOPY --from=a ignored /\n", ""),
        ("FROM x\nCOPY --from=context ignored /\n", ""),
        ("FROM x\nCOPY <<ignored /\nignored\n", ""),
        ("FROM unknown\nCOPY ${B}ignored /\n", ""),
    ] {
        let setup = Setup { contexts: vec!["context".to_owned()], ..Setup::new() };
        assert_eq!(setup.found(text), expected.split_whitespace().collect::<Vec<_>>(), "{text}");
    }
    let report = Setup::new().check("FROM x\nADD ignored/ /\n");
    assert_eq!(
        report.findings[0].detail,
        "Attempting to Add file \"ignored\" that is excluded by .dockerignore"
    );
}

#[test]
fn details_say_what_the_reference_says() {
    for (text, expected) in [
        ("FROM x AS Abc\n", "Stage name 'Abc' should be lowercase"),
        ("FROM x as abc\n", "'as' and 'FROM' keywords' casing do not match"),
        ("FROM x\nRUN a \\\n\n b\n", "Empty continuation line"),
        ("FROM x\nrun a\n", "Command 'run' should match the case of the command majority (uppercase)"),
        ("FROM x AS a\nFROM x AS a\n", "Duplicate stage name \"a\", stage names should be unique"),
        ("FROM x AS scratch\n", "Stage name should not use the same name as reserved stage \"scratch\""),
        (
            "from x\ncmd a\n",
            "JSON arguments recommended for cmd to prevent unintended behavior related to OS signals",
        ),
        ("FROM x\nMAINTAINER a\n", "Maintainer instruction is deprecated in favor of using label"),
        ("ARG BASE=x\nFROM x:${BASEE:-1}\n", "FROM argument 'BASEE' is not declared (did you mean BASE?)"),
        (
            "FROM x\nWORKDIR a\n",
            "Relative workdir \"a\" can have unexpected results if the base image changes",
        ),
        ("FROM x\nENV a=$PATHH\n", "Usage of undefined variable '$PATHH' (did you mean $PATH?)"),
        (
            "FROM x\nCMD [\"a\"]\nCMD [\"a\"]\n",
            "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
        ),
        ("FROM x\nENV a b\n", "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format"),
        (
            "FROM --platform=$TARGETPLATFORM x\n",
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        ("FROM x\nARG TOKEN\n", "Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\")"),
        ("ARG A\nFROM $A\n", "Default value for ARG $A results in empty or invalid base image name"),
        (
            "FROM --platform=linux/arm64 x\n",
            "FROM --platform flag should not use constant value \"linux/arm64\"",
        ),
        ("FROM x\nEXPOSE 80/TCP\n", "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase"),
        (
            "FROM x\nEXPOSE 1:2\n",
            "EXPOSE instruction should not define an IP address or host-port mapping, found '1:2'",
        ),
    ] {
        let report = Setup::new().check(text);
        let details: Vec<&str> = report.findings.iter().map(|one| one.detail.as_str()).collect();
        assert_eq!(details, [expected], "{text}");
    }
}

#[test]
fn a_base_of_another_platform_is_reported_at_from_and_at_copy() {
    let mut setup = Setup::new();
    let key = ("arm".to_owned(), setup.platform.clone());
    let image = ImageConfig { os: "linux".into(), architecture: "arm64".into(), ..ImageConfig::default() };
    setup.bases.insert(key, image);
    let report = setup.check("FROM arm\nFROM x\nCOPY --from=arm a /\n");
    let details: Vec<&str> = report.findings.iter().map(|one| one.detail.as_str()).collect();
    let expected =
        "Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build";
    assert_eq!(details, [expected, expected]);
}

#[test]
fn stages_the_target_does_not_need_are_left_out_unless_all_are_wanted() {
    let text = "FROM x AS a\nENV a b\nFROM x AS b\nENV a b\nFROM x AS c\nCOPY --from=a /y /\nENV a b\n";
    let setup = |target, all_stages| Setup { target, all_stages, ..Setup::new() };
    let lines = |setup: Setup| {
        setup.found(text).iter().map(|one| one.replace("LegacyKeyValueFormat@", "")).collect::<Vec<_>>()
    };
    assert_eq!(lines(setup(None, false)), ["2", "7"]);
    assert_eq!(lines(setup(Some("b"), false)), ["4"]);
    assert_eq!(lines(setup(None, true)), ["2", "4", "7"]);
}

#[test]
fn directives_and_comments_silence_rules() {
    for (text, expected) in [
        ("# check=skip=all\nFROM x as y\nrun a\n", ""),
        ("# check=skip=FromAsCasing\nFROM x as y\nrun a\n", "ConsistentInstructionCasing@3"),
        ("FROM x\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d\n", "LegacyKeyValueFormat@4"),
        ("# why\n# check=skip=all\nFROM x as y\nENV c d\n", "LegacyKeyValueFormat@4"),
        ("# check=skip=all\n# escape=\\\nFROM x as y\n", ""),
        ("# check=experimental=all\n# what\nFROM x as y\n", "FromAsCasing@3 InvalidDefinitionDescription@3"),
        ("# check=skip=CopyIgnoredFile;experimental=CopyIgnoredFile\nFROM x\nCOPY ignored /\n", ""),
        ("# check=skip=LegacyKeyValueFormat // b c\nFROM x\nENV a b\n", ""),
        ("FROM x\n# check=skip=LegacyKeyValueFormat // b c\nENV a b\n", ""),
        ("FROM x\n# check=skip=LegacyKeyValueFormat\n\nENV a b\n", ""),
        ("FROM x\n# check=skip=LegacyKeyValueFormat\n#\nENV a b\n", "LegacyKeyValueFormat@4"),
        ("# check=skip=A, LegacyKeyValueFormat\nFROM x\nENV a b\n", "LegacyKeyValueFormat@3"),
    ] {
        let found = Setup::new().found(text);
        assert_eq!(found, expected.split_whitespace().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn error_true_fails_for_rules_of_buildkit_that_are_not_skipped() {
    for (text, fails) in [
        ("# check=error=true\nFROM x as y\n", true),
        ("# check=error=true;skip=FromAsCasing\nFROM x as y\n", false),
        ("# check=skip=FromAsCasing;error=true // why\nFROM x as y\n", false),
        ("# check=skip=FromAsCasing;error=true // why\nFROM x as Y\n", true),
        ("# check=error=true\nFROM x\nRUN sudo a\n", false),
        ("FROM x as y\n", false),
    ] {
        let report = Setup::hints().check(text);
        assert_eq!(report.fails, fails, "{text}");
    }
    let report = Setup::new().check("# check=error=true\nFROM x as y\nrun a\nrun b\n");
    assert_eq!(
        report.violation(),
        "lint violation found for rules: FromAsCasing, ConsistentInstructionCasing"
    );
}

#[test]
fn the_build_argument_replaces_the_directive() {
    let text = "# check=error=true;skip=FromAsCasing\nFROM x as y\n";
    let report = Setup::new().arg(CHECK_ARG, "").check(text);
    assert!(!report.fails && report.findings.len() == 1);
    let setup = Setup::new().arg(CHECK_ARG, "foo");
    let error = check(&file(text), &setup.input()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option \"foo\""
    );
    let error = check(&file("# check=error=maybe\nFROM x\n"), &Setup::new().input()).unwrap_err();
    assert!(error.to_string().starts_with("failed to parse check options: "), "{error}");
    assert!(error.span.is_some());
}
