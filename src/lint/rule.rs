//! Every rule by name. Names, descriptions and details of the first group are those of BuildKit's linter,
//! so that directives, filters and dashboards made for it keep working; the second group is rbuild's own.

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A rule of BuildKit's linter: reported by builds as well, and made a failure by `error=true`.
    Warning,
    /// A rule of rbuild: reported by checks only, never a failure.
    Hint,
    /// As [`Level::Hint`], and a matter of taste or speed.
    Info,
}

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in `# check=skip=NAME`.
    pub name: &'static str,
    /// What is wrong wherever it fires.
    pub description: &'static str,
    /// How much it matters.
    pub level: Level,
    /// Fires only where `experimental=` asks for it; `skip=` does not concern it.
    pub experimental: bool,
}

impl Rule {
    /// Where Docker's documentation explains the rule; `None` for rbuild's own, and for the one without a page.
    pub fn url(&self) -> Option<String> {
        let page = kebab(self.name);
        (self.level == Level::Warning && self.name != "InvalidBaseImagePlatform")
            .then(|| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
    }

    /// The command that explains the rule without a network.
    pub fn command(&self) -> String {
        format!("rbuild check --explain {}", self.name)
    }
}

/// `JSONArgsRecommended` to `json-args-recommended`.
pub(super) fn kebab(name: &str) -> String {
    let mut out = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && letters[at - 1].is_ascii_lowercase();
        let before_lower = letters.get(at + 1).is_some_and(char::is_ascii_lowercase);
        if letter.is_ascii_uppercase() && at > 0 && (after_lower || before_lower) {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// Defines the rules and the list of them all.
macro_rules! rules {
    ($($id:ident = $level:ident $experimental:literal $name:literal $description:literal;)*) => {
        $(pub(super) static $id: Rule = Rule {
            name: $name,
            description: $description,
            level: Level::$level,
            experimental: $experimental,
        };)*
        /// Every rule, BuildKit's first.
        pub static RULES: &[&Rule] = &[$(&$id),*];
    };
}

rules! {
    STAGE_NAME_CASING = Warning false "StageNameCasing" "Stage names should be lowercase";
    FROM_AS_CASING = Warning false "FromAsCasing"
        "The 'as' keyword should match the case of the 'from' keyword";
    NO_EMPTY_CONTINUATION = Warning false "NoEmptyContinuation"
        "Empty continuation lines will become errors in a future release";
    CONSISTENT_INSTRUCTION_CASING = Warning false "ConsistentInstructionCasing"
        "All commands within the Dockerfile should use the same casing (either upper or lower)";
    DUPLICATE_STAGE_NAME = Warning false "DuplicateStageName" "Stage names should be unique";
    RESERVED_STAGE_NAME = Warning false "ReservedStageName"
        "Reserved words should not be used as stage names";
    JSON_ARGS_RECOMMENDED = Warning false "JSONArgsRecommended"
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals";
    MAINTAINER_DEPRECATED = Warning false "MaintainerDeprecated"
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author";
    UNDEFINED_ARG_IN_FROM = Warning false "UndefinedArgInFrom" "FROM command must use declared ARGs";
    WORKDIR_RELATIVE_PATH = Warning false "WorkdirRelativePath"
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes";
    UNDEFINED_VAR = Warning false "UndefinedVar" "Variables should be defined before their use";
    MULTIPLE_INSTRUCTIONS_DISALLOWED = Warning false "MultipleInstructionsDisallowed"
        "Multiple instructions of the same type should not be used in the same stage";
    LEGACY_KEY_VALUE_FORMAT = Warning false "LegacyKeyValueFormat"
        "Legacy key/value format with whitespace separator should not be used";
    INVALID_BASE_IMAGE_PLATFORM = Warning false "InvalidBaseImagePlatform"
        "Base image platform does not match expected target platform";
    REDUNDANT_TARGET_PLATFORM = Warning false "RedundantTargetPlatform"
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior";
    SECRETS_USED_IN_ARG_OR_ENV = Warning false "SecretsUsedInArgOrEnv"
        "Sensitive data should not be used in the ARG or ENV commands";
    INVALID_DEFAULT_ARG_IN_FROM = Warning false "InvalidDefaultArgInFrom"
        "Default value for global ARG results in an empty or invalid base image name";
    FROM_PLATFORM_FLAG_CONST_DISALLOWED = Warning false "FromPlatformFlagConstDisallowed"
        "FROM --platform flag should not use a constant value";
    COPY_IGNORED_FILE = Warning false "CopyIgnoredFile"
        "Attempting to Copy file that is excluded by .dockerignore";
    INVALID_DEFINITION_DESCRIPTION = Warning true "InvalidDefinitionDescription"
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.";
    EXPOSE_PROTO_CASING = Warning false "ExposeProtoCasing"
        "Protocol in EXPOSE instruction should be lowercase";
    EXPOSE_INVALID_FORMAT = Warning false "ExposeInvalidFormat"
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release";

    ADD_INSTEAD_OF_COPY = Hint false "AddInsteadOfCopy" "COPY should be used for plain local files";
    APK_INDEX_LEFT = Hint false "ApkIndexLeft" "apk add should not leave its package index in the image";
    APT_ASSUME_YES = Hint false "AptAssumeYes" "apt-get should not wait for an answer that nobody gives";
    APT_CACHE_LEFT = Hint false "AptCacheLeft" "apt's package lists should not stay in the image";
    APT_UPDATE_ALONE = Hint false "AptUpdateAlone"
        "apt-get update and install should be in the same RUN";
    CACHE_MOUNT_MISSING = Info false "CacheMountMissing"
        "A package manager's downloads can be kept between builds by a cache mount";
    CD_IN_RUN = Hint false "CdInRun" "The directory of a RUN ends with it";
    COPY_BEFORE_DEPENDENCIES = Hint false "CopyBeforeDependencies"
        "Dependencies should be installed before all of the sources are copied";
    EMPTY_COMMAND = Hint false "EmptyCommand" "RUN, CMD and ENTRYPOINT should be given a command";
    HEREDOC_DASH_SPACE = Hint false "HeredocDashSpace"
        "The name of a here-document should follow <<- at once";
    HEREDOC_WITHOUT_ERREXIT = Hint false "HeredocWithoutErrexit"
        "A failing command in the middle of a RUN heredoc should fail the build";
    INVALID_CHECK_OPTION = Hint false "InvalidCheckOption" "A check directive should name rules that exist";
    MALFORMED_JSON_FORM = Hint false "MalformedJsonForm"
        "Arguments that look like a JSON array should be one";
    PIP_WITHOUT_NO_CACHE_DIR = Hint false "PipWithoutNoCacheDir"
        "pip should not leave its downloads in the image";
    SECRET_FILE_COPIED = Hint false "SecretFileCopied" "Files with secrets should not be copied into an image";
    STAGE_REFERENCE_CASING = Hint false "StageReferenceCasing"
        "FROM should name stages in lower case, as BuildKit does";
    SUDO_IN_RUN = Hint false "SudoInRun" "sudo should not stand in a RUN of root's";
    UNLOCKED_BASE = Hint true "UnlockedBase" "Base images should be in the Dockerfile's lock";
    UNPINNED_BASE = Hint false "UnpinnedBase" "Base images should have a tag other than latest, or a digest";
    UNUSED_STAGE = Hint false "UnusedStage" "A stage should have a name or be used";
}

/// The rule of a name, which is case-sensitive.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_after_the_rules() {
        for (name, expected) in [
            ("StageNameCasing", "stage-name-casing"),
            ("JSONArgsRecommended", "json-args-recommended"),
            ("UndefinedArgInFrom", "undefined-arg-in-from"),
            ("CdInRun", "cd-in-run"),
        ] {
            assert_eq!(kebab(name), expected);
        }
        let url = STAGE_NAME_CASING.url();
        assert_eq!(url.as_deref(), Some("https://docs.docker.com/go/dockerfile/rule/stage-name-casing/"));
        assert_eq!(CD_IN_RUN.url(), None);
    }

    #[test]
    fn every_rule_is_in_the_index_and_our_own_have_a_page() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules");
        let index = std::fs::read_to_string(docs.join("README.md")).unwrap();
        for rule in RULES {
            assert!(index.contains(rule.name), "{} is not in the index", rule.name);
            if rule.level == Level::Warning {
                continue;
            }
            let page = docs.join(format!("{}.md", kebab(rule.name)));
            let page = std::fs::read_to_string(&page).unwrap_or_else(|_| panic!("{}", page.display()));
            for part in [rule.name, "## Why", "## Bad", "## Good", &format!("check=skip={}", rule.name)] {
                assert!(page.contains(part), "{}: {part}", rule.name);
            }
        }
    }
}
