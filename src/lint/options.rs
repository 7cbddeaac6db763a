//! `skip=A,B;error=true;experimental=C`: which rules are reported, and whether they fail a build.
//!
//! The grammar of `# check=`, of the build argument that replaces it, and of a comment right above an
//! instruction, which concerns that instruction alone.

use super::rule::{Level, Rule, rule};

/// The build argument that takes the place of the directive.
pub const CHECK_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What a `check=` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// `skip=`.
    pub skip: Names,
    /// `experimental=`: rules that are not reported unless they are named.
    pub experimental: Names,
    /// `error=true`: findings of BuildKit's rules fail the build.
    pub error: bool,
    /// What stands behind `//`: why the rules are skipped, for those who read the file.
    pub reason: Option<String>,
}

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// `all`.
    All,
    /// By name; empty is none.
    Some(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Names::Some(Vec::new())
    }
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Names::All,
            list => Names::Some(list.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn hold(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::Some(names) => names.iter().any(|known| known == name),
        }
    }

    fn named(&self) -> &[String] {
        match self {
            Names::All => &[],
            Names::Some(names) => names,
        }
    }
}

/// A `check=` that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Neither of the three options.
    #[error("invalid check option {0:?}")]
    Option(String),
    /// `error=` takes a boolean.
    #[error("failed to parse check option {0:?}: {1:?} is neither true nor false")]
    Boolean(String, String),
}

impl CheckOptions {
    /// Reads options; nothing at all is no option.
    ///
    /// # Errors
    /// Unknown options, options without `=`, and an `error=` that is neither true nor false.
    pub fn parse(text: &str) -> Result<Self, CheckError> {
        let mut options = CheckOptions::default();
        if text.trim().is_empty() {
            return Ok(options);
        }
        for part in text.trim().split(';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(CheckError::Option(part.to_owned()));
            };
            match key.trim() {
                "skip" => options.skip = Names::parse(value),
                "experimental" => options.experimental = Names::parse(value),
                "error" => {
                    options.error = boolean(value.trim())
                        .ok_or_else(|| CheckError::Boolean(part.to_owned(), value.trim().to_owned()))?;
                }
                key => return Err(CheckError::Option(key.to_owned())),
            }
        }
        Ok(options)
    }

    /// Reads the value of a directive or of a comment above an instruction: the options end at the first
    /// blank. `# check=skip=CdInRun // the next RUN needs it` has a reason behind them.
    ///
    /// # Errors
    /// As [`CheckOptions::parse`].
    pub fn parse_written(text: &str) -> Result<Self, CheckError> {
        let (options, rest) = text.split_once(' ').unwrap_or((text, ""));
        let reason = rest.trim_start().strip_prefix("//").map(|reason| reason.trim().to_owned());
        Ok(CheckOptions { reason, ..CheckOptions::parse(options)? })
    }

    /// Whether a rule is reported where `own` stands right above the instruction. One that was asked for in another
    /// way than by `experimental=` is reported unless it is skipped.
    pub(super) fn report(&self, rule: &Rule, asked: bool, own: Option<&CheckOptions>) -> bool {
        let own_holds = |list: fn(&CheckOptions) -> &Names| own.is_some_and(|own| list(own).hold(rule.name));
        if rule.experimental && !asked {
            return self.experimental.hold(rule.name) || own_holds(|options| &options.experimental);
        }
        !self.skip.hold(rule.name) && !own_holds(|options| &options.skip)
    }

    /// Names that no rule has, or that are no experimental rule where one is asked for.
    pub(super) fn unknown(&self) -> Vec<&str> {
        let experimental = |name: &&String| !rule(name).is_some_and(|rule| rule.experimental);
        let skipped = self.skip.named().iter().filter(|name| rule(name).is_none());
        let asked = self.experimental.named().iter().filter(experimental);
        skipped.chain(asked).map(String::as_str).filter(|name| !name.is_empty()).collect()
    }
}

/// As Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The text of the first `check=` in a block of comments.
pub(super) fn in_comments(comments: &[String]) -> Option<&str> {
    comments.iter().find_map(|comment| {
        let (key, value) = comment.split_once('=')?;
        key.trim().eq_ignore_ascii_case("check").then(|| value.trim())
    })
}

/// Whether findings of a level can fail a build.
pub(super) fn can_fail(rule: &Rule) -> bool {
    rule.level == Level::Warning
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Names {
        Names::Some(list.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn options_are_read_as_the_reference_reads_them() {
        for (text, expected) in [
            ("", CheckOptions::default()),
            ("skip=all", CheckOptions { skip: Names::All, ..CheckOptions::default() }),
            ("skip=A, B", CheckOptions { skip: names(&["A", "B"]), ..CheckOptions::default() }),
            ("error=true", CheckOptions { error: true, ..CheckOptions::default() }),
            (
                "skip=A;error=1;experimental=all",
                CheckOptions { skip: names(&["A"]), error: true, experimental: Names::All, reason: None },
            ),
            (
                " error = T ; skip = A ",
                CheckOptions { skip: names(&["A"]), error: true, ..CheckOptions::default() },
            ),
        ] {
            assert_eq!(CheckOptions::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn written_options_end_at_the_first_blank_and_keep_their_reason() {
        let options = |skip: &[&str], error, reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            Ok(CheckOptions { skip: names(skip), error, reason, ..CheckOptions::default() })
        };
        for (text, expected) in [
            ("skip=A // because: of b", options(&["A"], false, Some("because: of b"))),
            ("skip=A   //because", options(&["A"], false, Some("because"))),
            ("skip=A;error=true // x", options(&["A"], true, Some("x"))),
            ("skip=A //", options(&["A"], false, Some(""))),
            ("skip=A B", options(&["A"], false, None)),
            ("skip=A, B", options(&["A", ""], false, None)),
            ("skip=A//b", options(&["A//b"], false, None)),
            ("skip=A; error=true", Err(CheckError::Option(String::new()))),
        ] {
            assert_eq!(CheckOptions::parse_written(text), expected, "{text}");
        }
        let all = CheckOptions::parse_written("skip=all;experimental=B;error=1 // x").unwrap();
        assert_eq!((all.skip, all.experimental, all.error), (Names::All, names(&["B"]), true));
    }

    #[test]
    fn mistakes_in_options_are_named() {
        for (text, expected) in [
            ("foo", "invalid check option \"foo\""),
            ("skip=A;", "invalid check option \"\""),
            ("skips=A", "invalid check option \"skips\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": \"maybe\" is neither true nor false",
            ),
        ] {
            let error = CheckOptions::parse(text).unwrap_err();
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn names_that_no_rule_has_are_found() {
        let options = CheckOptions::parse(
            "skip=StageNameCasing,Typo;experimental=InvalidDefinitionDescription,CdInRun",
        );
        assert_eq!(options.unwrap().unknown(), ["Typo", "CdInRun"]);
    }
}
