//! Questions about a Dockerfile that need no build: checks, outlines, targets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use crate::cancel::Cancel;
use crate::context::MainContext;
use crate::dockerfile::Dockerfile;
use crate::event::{Event, Events};
use crate::image::Platform;
use crate::lint::{self, LintInput, Outline, Report};
use crate::plan::{self, BaseConfigs, Entitlements, Plan, PlanInput, Planned};

use super::bases::Bases;
use super::engine::Engine;
use super::epoch::Times;
use super::failure::{Failure, FailureKind};
use super::ignored;
use super::prepare::{NotOpened, Opened};
use super::request::{BuildRequest, PullPolicy};

/// A file that was checked.
#[derive(Debug)]
pub struct Checked {
    /// The file; the fixed one where fixing was asked for.
    pub dockerfile: Dockerfile,
    /// What was found.
    pub report: Report,
    /// What would keep a build from beginning: a mistake, or a base that does not exist. Findings are those
    /// that do not depend on it.
    pub failure: Option<Failure>,
    /// Names of bases that could not be looked at. Findings that depend on their configs are left out.
    pub out_of_reach: Vec<String>,
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
    /// set right is, and the rest is reported; nothing is written. Of a file that does not parse, what stands
    /// before the first mistake is checked.
    ///
    /// # Errors
    /// A context or Dockerfile that cannot be read, one with nothing before a mistake, and `check=` options
    /// that make no sense.
    pub fn check(
        &self,
        request: &BuildRequest,
        fix: bool,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Checked, Failure> {
        let request = &looked_at(request);
        let opened = match self.open_request(request, Times::Unknown, stdin, events, cancel) {
            Ok(opened) => opened,
            Err(NotOpened { failure, before: Some(before) }) => {
                return check_before(*before, request, failure);
            }
            Err(NotOpened { failure, before: None }) => return Err(failure),
        };
        let input = opened.first_input(request)?;
        let mut bases = self.known_bases(request, &opened, events, cancel);
        let failure = plan_all(&input, &mut bases);
        let KnownBases { configs, out_of_reach, .. } = bases;
        let Opened { main, mut dockerfile, remotes, .. } = opened;
        let lock = remotes.rules().lock().map(|loaded| &loaded.lock.images);
        let is_locked = |name: &str| lock.is_some_and(|images| images.contains_key(name));
        let locked = lock.is_some().then_some(&is_locked as &dyn Fn(&str) -> bool);
        with_lint_input(&main, &input, &configs, locked, true, |lint_input| {
            let mut fixed = None;
            if fix {
                let done = lint::fix(&dockerfile, lint_input);
                fixed = Some(FixedFile {
                    path: main.dockerfile_path.clone(),
                    text: with_mark(&main.dockerfile, &done.text),
                    applied: done.applied,
                });
                dockerfile = crate::dockerfile::parse(&main.dockerfile_name, done.text.as_bytes())
                    .map_err(crate::plan::PlanError::from)?;
            }
            let report = run(&dockerfile, lint_input)?;
            Ok(Checked { dockerfile, report, failure, out_of_reach, fixed })
        })
    }

    /// What the request's target can be given, and the file that says so. Variables of bases that could not be
    /// looked at, which come last, have no values.
    ///
    /// # Errors
    /// As a build, up to its first step.
    pub fn outline(
        &self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(Dockerfile, Outline, Vec<String>), Failure> {
        let request = &looked_at(request);
        let opened = self.open_request(request, Times::Unknown, stdin, events, cancel)?;
        let input = opened.first_input(request)?;
        let mut bases = self.known_bases(request, &opened, events, cancel);
        match bases.plan(&input) {
            // What cannot be built here can be outlined all the same.
            Ok(_) => {}
            Err(failure) if failure.kind == FailureKind::Unsupported => {}
            Err(failure) => return Err(failure),
        }
        let KnownBases { configs, out_of_reach, .. } = bases;
        let Opened { main, dockerfile, scratch: _scratch, .. } = opened;
        let outline = with_lint_input(&main, &input, &configs, None, false, |lint_input| {
            lint::outline(&dockerfile, lint_input)
        });
        Ok((dockerfile, outline, out_of_reach))
    }

    fn known_bases<'a>(
        &self,
        request: &BuildRequest,
        opened: &'a Opened,
        events: &Events,
        cancel: &'a Cancel,
    ) -> KnownBases<'a> {
        let bases = |policy| self.bases(request, opened, policy, events, cancel);
        KnownBases {
            dockerfile: &opened.dockerfile,
            bases: bases(request.pull),
            stored: bases(PullPolicy::Never),
            configs: BaseConfigs::default(),
            out_of_reach: Vec::new(),
            cancel,
        }
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
        Ok(self.open_request(request, Times::Unknown, stdin, events, cancel)?.dockerfile)
    }
}

/// The same request where nothing is run: no step needs a permission.
fn looked_at(request: &BuildRequest) -> BuildRequest {
    BuildRequest { allow: Entitlements::all(), ..request.clone() }
}

/// Bases as far as they can be looked at from here.
struct KnownBases<'a> {
    dockerfile: &'a Dockerfile,
    bases: Bases,
    /// The same without a network, for what comes after the first that is out of reach: whoever is offline does
    /// not want to wait for every base.
    stored: Bases,
    configs: BaseConfigs,
    out_of_reach: Vec<String>,
    cancel: &'a Cancel,
}

impl KnownBases<'_> {
    /// Asks for a plan until every config it needs is known; `None` if one cannot be.
    fn plan(&mut self, input: &PlanInput) -> Result<Option<Plan>, Failure> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::new(FailureKind::Interrupted, "canceled"));
            }
            let requests = match plan::plan(self.dockerfile, input, &self.configs)? {
                Planned::Ready(plan) => return Ok(Some(*plan)),
                Planned::NeedsImages(requests) => requests,
            };
            let bases = if self.out_of_reach.is_empty() { &self.bases } else { &self.stored };
            let failures = bases.resolve_each(&requests, &mut self.configs);
            if failures.is_empty() {
                continue;
            }
            for (name, failure) in failures {
                if failure.kind != FailureKind::OutOfReach {
                    return Err(failure);
                }
                if !self.out_of_reach.contains(&name) {
                    self.out_of_reach.push(name);
                }
            }
            return Ok(None);
        }
    }
}

/// Learns the configs of all bases a check looks at. Gives the first failure there is.
fn plan_all(input: &PlanInput, bases: &mut KnownBases<'_>) -> Option<Failure> {
    if input.target.is_some() {
        return bases.plan(input).err();
    }
    let mut planned = BTreeSet::new();
    let mut first = None;
    for index in (0..bases.dockerfile.stages.len()).rev() {
        if planned.contains(&index) {
            continue;
        }
        match bases.plan(&PlanInput { stage: Some(index), ..input.clone() }) {
            Ok(plan) => {
                planned.extend(plan.into_iter().flat_map(|plan| plan.stages).map(|stage| stage.index))
            }
            Err(failure) => {
                let stop = failure.kind == FailureKind::Interrupted;
                first.get_or_insert(failure);
                if stop {
                    break;
                }
            }
        }
    }
    first
}

/// What BuildKit's rules find before the mistake that keeps a file from being parsed. rbuild's own look at files
/// as a whole.
fn check_before(
    dockerfile: Dockerfile,
    request: &BuildRequest,
    failure: Failure,
) -> Result<Checked, Failure> {
    let host = Platform::host();
    let platform = request.platforms.first().and_then(|text| Platform::parse(text).ok());
    let input = LintInput {
        target: None,
        all_stages: true,
        build_args: &request.build_args,
        platform: platform.as_ref().unwrap_or(&host),
        build_platform: &host,
        contexts: &request.build_contexts.iter().map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>(),
        bases: &BTreeMap::new(),
        ignored: None,
        locked: None,
        hints: false,
    };
    let report = run(&dockerfile, &input)?;
    Ok(Checked { dockerfile, report, failure: Some(failure), out_of_reach: Vec::new(), fixed: None })
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
        let report =
            with_lint_input(main, input, configs, None, false, |lint_input| run(dockerfile, lint_input))?;
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
    locked: Option<&dyn Fn(&str) -> bool>,
    is_check: bool,
    then: impl FnOnce(&LintInput<'_>) -> R,
) -> R {
    let ignored = |path: &str| ignored::leaves_nothing(&main.context, path);
    let contexts: Vec<String> = input.contexts.keys().cloned().collect();
    then(&LintInput {
        target: input.target.as_deref(),
        all_stages: is_check && input.target.is_none(),
        build_args: &input.build_args,
        platform: &input.platform,
        build_platform: &input.build_platform,
        contexts: &contexts,
        bases: configs.configs(),
        ignored: if main.context.rules().is_empty() { None } else { Some(&ignored) },
        locked,
        hints: is_check,
    })
}

/// The text with the byte order mark that the file had.
fn with_mark(before: &[u8], text: &str) -> Vec<u8> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mark = if before.starts_with(MARK) { MARK } else { b"" };
    [mark, text.as_bytes()].concat()
}
