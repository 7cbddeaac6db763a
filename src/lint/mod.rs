//! The linter: what is legal in a Dockerfile and yet worth telling, and the outputs about a file
//! that need no build. Pure: no I/O, no clock, no environment.
//!
//! Owns every rule's name, text and condition (a few are seen by the parser alone and only collected here),
//! which of them `# check=` silences, and the edits that set them right. Two kinds of rules: those of
//! BuildKit's linter, under its names and conditions, which builds report as well; and rbuild's own, which
//! checks alone report and which never fail anything. Values of variables are computed as the planner does,
//! but without its answers: a file can be checked that cannot be built here.

mod exec_form;
mod finding;
mod fix;
mod from;
mod legacy;
mod near;
mod options;
mod outline;
mod own;
mod pages;
mod ports;
mod report;
mod rule;
mod scope;
mod shell;
mod stages;
mod structure;
mod table;
mod targets;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;

use crate::dockerfile::{Dockerfile, Span};
use crate::image::{ImageConfig, Platform};

use finding::Findings;
use stages::Stages;

pub use finding::{Edit, Finding};
pub use fix::{Fixed, apply_fixes, fix};
pub use options::{CHECK_ARG, CheckError, CheckOptions, Names};
pub use outline::{Outline, OutlineArg, OutlineMount, outline};
pub use pages::explain;
pub use report::{BuildError, json, text};
pub use rule::{Level, RULES, Rule, rule};
pub use targets::{Target, targets, targets_json, targets_text};
pub use walk::looks_secret;

/// What findings depend on beside the file.
pub struct LintInput<'a> {
    /// `--target`.
    pub target: Option<&'a str>,
    /// Look at every stage and not only at those the target needs.
    pub all_stages: bool,
    /// `--build-arg`; the last of one name counts.
    pub build_args: &'a [(String, String)],
    /// Platform of the image.
    pub platform: &'a Platform,
    /// Platform of this machine.
    pub build_platform: &'a Platform,
    /// Names of `--build-context`.
    pub contexts: &'a [String],
    /// Configs of base images by name and platform, as far as they are known. Variables in a stage whose
    /// base is not known are never called undefined.
    pub bases: &'a BTreeMap<(String, Platform), ImageConfig>,
    /// Whether the ignore file excludes all that a source of `COPY`, a cleaned path that may have wildcards,
    /// selects of the context; `None` where nothing is ignored.
    pub ignored: Option<&'a dyn Fn(&str) -> bool>,
    /// Whether the lock of the file has an image, by its normalised name; `None` where there is no lock.
    pub locked: Option<&'a dyn Fn(&str) -> bool>,
    /// Report rbuild's own rules.
    pub hints: bool,
}

impl<'a> LintInput<'a> {
    fn build_arg(&self, name: &str) -> Option<&'a str> {
        let args: &'a [(String, String)] = self.build_args;
        args.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// In the order of the source.
    pub findings: Vec<Finding>,
    /// `error=true` is in force and a rule of BuildKit's has fired: the build must not begin.
    pub fails: bool,
}

impl Report {
    /// Findings of BuildKit's rules.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.rule.level == Level::Warning)
    }

    /// What a build fails with where [`Report::fails`].
    pub fn violation(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for finding in self.warnings() {
            if !names.contains(&finding.rule.name) {
                names.push(finding.rule.name);
            }
        }
        format!("lint violation found for rules: {}", names.join(", "))
    }
}

/// Options that cannot be read, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse {origin}: {error}")]
pub struct InvalidOptions {
    /// `check options`, or the build argument.
    pub origin: String,
    /// What is wrong.
    pub error: CheckError,
    /// The directive, unless the build argument is wrong.
    pub span: Option<Span>,
}

/// Checks a file.
///
/// # Errors
/// A `check=` directive, or the build argument in its place, that cannot be read.
pub fn check(dockerfile: &Dockerfile, input: &LintInput<'_>) -> Result<Report, InvalidOptions> {
    let mut findings = Findings::new(dockerfile, options(dockerfile, input)?, input.hints);
    let stages = Stages::new(dockerfile, input);
    findings.check_options();
    structure::check(&mut findings);
    from::check(&stages, &mut findings);
    let target = stages.target();
    let wanted =
        if input.all_stages { vec![true; dockerfile.stages.len()] } else { stages.reachable(target) };
    walk::walk(&stages, &wanted, &mut findings);
    if input.hints {
        own::check(&stages, &mut findings);
    }
    let (findings, fails) = findings.finish();
    Ok(Report { findings, fails })
}

/// The build argument takes the place of the whole directive.
fn options(dockerfile: &Dockerfile, input: &LintInput<'_>) -> Result<CheckOptions, InvalidOptions> {
    let directive = dockerfile.directives.check.as_ref();
    let (parsed, origin, span) = match (input.build_arg(CHECK_ARG), directive) {
        (Some(text), _) => (CheckOptions::parse(text), format!("build-arg:{CHECK_ARG}"), None),
        (None, Some(word)) => {
            (CheckOptions::parse_written(&word.text), "check options".to_owned(), Some(word.span))
        }
        (None, None) => return Ok(CheckOptions::default()),
    };
    parsed.map_err(|error| InvalidOptions { origin, error, span })
}
