//! `rbuild build --dry-run`.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::build::{BuildRequest, DryRun, DryStep, Engine, Failure, FailureKind, Outlook, Pull};
use crate::cancel::CancelRead;
use crate::event::Events;
use crate::fs::shown_size;
use crate::progress::width::columns;
use crate::visible::visible_line;

use super::args::BuildArgs;
use super::results::ResultFile;
use super::{Session, Stop, build, print, print_json};

/// The exit code where something would be executed.
const WOULD_RUN: u8 = 10;
/// The widest column of steps.
const WIDEST: usize = 72;

/// Asks what a build would do.
#[derive(Args, Debug, Default)]
pub(super) struct DryRunArgs {
    /// Execute, fetch and write nothing: list what would run, what is cached and where, and what would be pulled.
    /// Exit code 10 if a step would run
    #[arg(
        long = "dry-run",
        value_enum,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        help_heading = "Cache"
    )]
    pub dry_run: Option<DryRunFormat>,
}

/// How the list is written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DryRunFormat {
    Text,
    Json,
}

/// Fails where the flag stands beside something that does not build.
pub(super) fn refuse(args: &BuildArgs, what: &str) -> Result<(), Failure> {
    if args.dry_run.dry_run.is_none() {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Usage, format!("--dry-run does not go with {what}"))
        .help("`rbuild build --dry-run` says what a build would do"))
}

/// Answers with a list and an exit code.
pub(super) fn dry_run(session: &Session, args: &BuildArgs, format: DryRunFormat) -> Result<u8, Stop> {
    let work = |engine: &Engine, request: &BuildRequest, events: &Events| {
        engine.dry_run(request, &mut CancelRead::stdin(&session.cancel), events, &session.cancel)
    };
    for file in [&args.iidfile, &args.metadata_file] {
        ResultFile::check(file.as_deref())?;
    }
    let found = build::with_looking_engine(session, args, work)?;
    match format {
        _ if args.quiet => {}
        DryRunFormat::Text => print(&text(&found))?,
        DryRunFormat::Json => print_json(&format!("{:#}\n", to_json(&found)))?,
    }
    Ok(if found.would_run() > 0 { WOULD_RUN } else { 0 })
}

fn text(found: &DryRun) -> String {
    let mut out = String::new();
    let all = found.platforms.iter().flat_map(|(_, steps)| steps);
    let width = all.map(|step| columns(&visible_line(&step.name))).max().unwrap_or(0).min(WIDEST);
    for (platform, steps) in &found.platforms {
        if found.platforms.len() > 1 {
            out.push_str(&format!("{platform}\n"));
        }
        for step in steps {
            let name = visible_line(&step.name);
            let gap = " ".repeat(width.saturating_sub(columns(&name)));
            out.push_str(&format!("{name}{gap}  {}\n", visible_line(&outlook(step))));
        }
    }
    let (would_run, cached) = (found.would_run(), found.cached());
    let pulled = match found.pulled() {
        0 => "nothing".to_owned(),
        bytes => shown_size(bytes),
    };
    out.push_str(&format!(
        "\n{would_run} of {} steps would run, {cached} cached; {pulled} would be pulled\n",
        would_run + cached
    ));
    out
}

fn outlook(step: &DryStep) -> String {
    let pull = step.pull.as_ref().map(pulled);
    match (&step.outlook, pull) {
        (Outlook::Base, Some(pull)) => pull,
        (Outlook::Base, None) => "base".into(),
        (Outlook::Cached(None), None) => "cached".into(),
        (Outlook::Cached(None), Some(pull)) => format!("cached; {pull}"),
        (Outlook::Cached(Some(name)), None) => format!("cached at {name}"),
        (Outlook::Cached(Some(name)), Some(pull)) => format!("cached at {name}; {pull}"),
        (Outlook::WouldRun(why), _) => format!("would run: {why}"),
    }
}

fn pulled(pull: &Pull) -> String {
    let layers = if pull.layers == 1 { "1 layer".to_owned() } else { format!("{} layers", pull.layers) };
    let verb = if pull.from_registry { "pulled" } else { "read" };
    format!("would be {verb}: {layers}, {}", shown_size(pull.bytes))
}

fn to_json(found: &DryRun) -> Value {
    let platforms: Vec<Value> = found
        .platforms
        .iter()
        .map(|(platform, steps)| {
            json!({"platform": platform.to_string(), "steps": steps.iter().map(step_json).collect::<Vec<_>>()})
        })
        .collect();
    json!({
        "platforms": platforms, "wouldRun": found.would_run(), "cached": found.cached(),
        "pullBytes": found.pulled(),
    })
}

fn step_json(step: &DryStep) -> Value {
    let mut value = json!({"name": step.name, "stage": step.stage, "file": step.file, "line": step.line});
    match &step.outlook {
        Outlook::Base => value["outcome"] = json!("base"),
        Outlook::Cached(from) => {
            value["outcome"] = json!("cached");
            value["from"] = json!(from.as_deref().unwrap_or("store"));
        }
        Outlook::WouldRun(why) => {
            value["outcome"] = json!("would-run");
            value["why"] = json!(why);
        }
    }
    if let Some(pull) = &step.pull {
        value["pull"] = json!({"layers": pull.layers, "bytes": pull.bytes, "registry": pull.from_registry});
    }
    value
}
