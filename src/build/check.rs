//! Questions about a Dockerfile that need no build: checks, outlines, targets.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use crate::cancel::Cancel;
use crate::context::{ContextKind, MainContext};
use crate::dockerfile::Dockerfile;
use crate::event::{Event, Events};
use crate::lint::{self, LintInput, Outline, Report};
use crate::plan::{BaseConfigs, Plan, PlanInput};

use super::bases::Bases;
use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::prepare::{Opened, plan_with_bases};
use super::request::BuildRequest;

/// A file that was checked.
#[derive(Debug)]
pub struct Checked {
    /// The file; the fixed one where fixing was asked for.
    pub dockerfile: Dockerfile,
    /// What was found.
    pub report: Report,
    /// What would keep a build from beginning: a mistake, or a base that is not available. Findings are those
    /// that do not depend on it.
    pub failure: Option<Failure>,
    /// What was fixed, if that was asked for.
    pub fixed: Option<FixedFile>,
}

/// A file to be written anew.
#[derive(Debug)]
pub struct FixedFile {
    /// Where it lies; `None` where it came from standard input or out of an archive.
    pub path: Option<PathBuf>,
    /// All of its new text, a byte order mark included.
    pub text: Vec<u8>,
    /// Rules and lines (from 1), in order.
    pub applied: Vec<(&'static str, usize)>,
}

impl Engine {
    /// Checks the stages that the request's target needs, or all if it names none. With `fix`, what can be
    /// set right is, and the rest is reported; nothing is written.
    ///
    /// # Errors
    /// A context or Dockerfile that cannot be read or parsed, and `check=` options that make no sense.
    pub fn check(
        &self,
        request: &BuildRequest,
        fix: bool,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Checked, Failure> {
        let opened = self.open_request(request, stdin, events, cancel)?;
        let bases = self.bases(request, &opened.named, events, cancel);
        let input = opened.first_input(request)?;
        let mut configs = BaseConfigs::default();
        let failure = plan_all(&opened.dockerfile, &input, &bases, &mut configs, cancel);
        let Opened { main, mut dockerfile, .. } = opened;
        with_lint_input(&main, &input, &configs, true, |lint_input| {
            let mut fixed = None;
            if fix {
                let done = lint::fix(&dockerfile, lint_input);
                fixed = Some(FixedFile {
                    path: (main.kind == ContextKind::Directory && main.dockerfile_name != "-")
                        .then(|| request.cwd.join(&main.dockerfile_name)),
                    text: with_mark(&main.dockerfile, &done.text),
                    applied: done.applied,
                });
                dockerfile = crate::dockerfile::parse(&main.dockerfile_name, done.text.as_bytes())
                    .map_err(crate::plan::PlanError::from)?;
            }
            let report = run(&dockerfile, lint_input)?;
            Ok(Checked { dockerfile, report, failure, fixed })
        })
    }

    /// What the request's target can be given, and the file that says so.
    ///
    /// # Errors
    /// As a build, up to its first step.
    pub fn outline(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(Dockerfile, Outline), Failure> {
        let opened = self.open_request(request, stdin, events, cancel)?;
        let bases = self.bases(request, &opened.named, events, cancel);
        let input = opened.first_input(request)?;
        let Opened { main, dockerfile, scratch: _scratch, .. } = opened;
        let mut configs = BaseConfigs::default();
        match plan_with_bases(&dockerfile, &input, &bases, &mut configs, cancel) {
            // What cannot be built here can be outlined all the same.
            Ok(_) => {}
            Err(failure) if failure.kind == FailureKind::Unsupported => {}
            Err(failure) => return Err(failure),
        }
        let outline = with_lint_input(&main, &input, &configs, false, |lint_input| {
            lint::outline(&dockerfile, lint_input)
        });
        Ok((dockerfile, outline))
    }

    /// The request's Dockerfile, parsed.
    ///
    /// # Errors
    /// A context or Dockerfile that cannot be read or parsed.
    pub fn dockerfile(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Dockerfile, Failure> {
        Ok(self.open_request(request, stdin, events, cancel)?.dockerfile)
    }
}

/// Learns the configs of all bases a check looks at. Gives the first failure there is.
fn plan_all(
    dockerfile: &Dockerfile,
    input: &PlanInput,
    bases: &Bases,
    configs: &mut BaseConfigs,
    cancel: &Cancel,
) -> Option<Failure> {
    if input.target.is_some() {
        return plan_with_bases(dockerfile, input, bases, configs, cancel).err();
    }
    let mut planned = BTreeSet::new();
    let mut first = None;
    for index in (0..dockerfile.stages.len()).rev() {
        if planned.contains(&index) {
            continue;
        }
        let input = PlanInput { stage: Some(index), ..input.clone() };
        match plan_with_bases(dockerfile, &input, bases, configs, cancel) {
            Ok(plan) => planned.extend(plan.stages.iter().map(|stage| stage.index)),
            Err(failure) => {
                // An unreachable registry answers no faster the second time.
                let stop = matches!(failure.kind, FailureKind::Base | FailureKind::Interrupted);
                first.get_or_insert(failure);
                if stop {
                    break;
                }
            }
        }
    }
    first
}

/// What BuildKit's rules and the planner find, over the plans of all platforms, each thing once.
#[derive(Default)]
pub(super) struct Warnings {
    seen: BTreeSet<(String, Option<String>)>,
    texts: Vec<String>,
    refused: Option<Failure>,
}

impl Warnings {
    /// Reports those of one plan.
    pub(super) fn of_plan(
        &mut self,
        main: &MainContext,
        dockerfile: &Dockerfile,
        input: &PlanInput,
        configs: &BaseConfigs,
        plan: &Plan,
        events: &Events,
    ) -> Result<(), Failure> {
        let report = with_lint_input(main, input, configs, false, |lint_input| run(dockerfile, lint_input))?;
        let source = &dockerfile.source;
        for finding in &report.findings {
            let location = Some(format!("{}:{}", source.name(), finding.lines(source).0));
            self.add(finding.detail.clone(), location, Some(finding.rule.name), events);
        }
        for warning in &plan.warnings {
            let place = warning.place.as_ref();
            let location =
                place.map(|(source, span)| format!("{}:{}", source.name(), source.location(span.start).line));
            self.add(warning.message.clone(), location, None, events);
        }
        if report.fails {
            self.refused.get_or_insert_with(|| violation(&report));
        }
        Ok(())
    }

    fn add(
        &mut self,
        message: String,
        location: Option<String>,
        rule: Option<&'static str>,
        events: &Events,
    ) {
        if self.seen.insert((message.clone(), location.clone())) {
            self.texts.push(message.clone());
            events.send(Event::Warning { message, location, rule });
        }
    }

    /// All texts; the failure where `error=true` forbids to build.
    pub(super) fn finish(self) -> Result<Vec<String>, Failure> {
        self.refused.map_or(Ok(self.texts), Err)
    }
}

/// The failure of a report with `error=true`.
fn violation(report: &Report) -> Failure {
    Failure::new(FailureKind::Dockerfile, report.violation())
        .help("set the Dockerfile right, or skip a rule with `# check=skip=NAME`")
}

fn run(dockerfile: &Dockerfile, input: &LintInput<'_>) -> Result<Report, Failure> {
    lint::check(dockerfile, input).map_err(|error| {
        let failure = Failure::new(FailureKind::Dockerfile, error.to_string())
            .help("it is skip=NAME,NAME|all, error=true and experimental=NAME,NAME|all, separated by `;`");
        match error.span {
            Some(span) => failure.at(&dockerfile.source, span),
            None => Failure { kind: FailureKind::Usage, ..failure },
        }
    })
}

fn with_lint_input<R>(
    main: &MainContext,
    input: &PlanInput,
    configs: &BaseConfigs,
    is_check: bool,
    then: impl FnOnce(&LintInput<'_>) -> R,
) -> R {
    let rules = main.context.rules();
    // Whether a directory with something re-included in it is there depends on the files.
    let decides = !rules.is_empty() && !rules.has_negations();
    let ignored = |path: &str| {
        // The root itself cannot be ignored, but all that is in it can.
        let path = if path == "." { "any" } else { path };
        rules.matched(path.as_bytes()).ignored
    };
    let contexts: Vec<String> = input.contexts.keys().cloned().collect();
    then(&LintInput {
        target: input.target.as_deref(),
        all_stages: is_check && input.target.is_none(),
        build_args: &input.build_args,
        platform: &input.platform,
        build_platform: &input.build_platform,
        contexts: &contexts,
        bases: configs.configs(),
        ignored: if decides { Some(&ignored) } else { None },
        hints: is_check,
    })
}

/// The text with the byte order mark that the file had.
fn with_mark(before: &[u8], text: &str) -> Vec<u8> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mark = if before.starts_with(MARK) { MARK } else { b"" };
    [mark, text.as_bytes()].concat()
}
