//! `rbuild builds` and `rbuild explain`: what the store remembers of builds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::build::{Failure, FailureKind, LogLine, read_log, read_record};
use crate::explain::{self, BuildRecord, Shown, StepOutcome, StepRecord};
use crate::progress::whole_seconds;
use crate::progress::width::columns;
use crate::store::{RememberedBuild, Store};
use crate::visible::{self, visible_line};

use super::listing::{self, Column, Form, flexible, whole};
use super::{Session, Stop, print, print_json, store, tell, template};

#[derive(Subcommand, Debug)]
pub(super) enum BuildsCommand {
    /// List builds, the newest first
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show a build: its Dockerfile, arguments, steps and results
    #[command(visible_alias = "inspect")]
    Show(ShowArgs),
    /// Print what the steps of a build printed
    Logs(LogsArgs),
    /// Forget builds
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

#[derive(Args, Debug, Default)]
pub(super) struct ListArgs {
    /// table, json, or a Go template for each build
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// text, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print the Dockerfile as it was, and nothing else
    #[arg(long)]
    dockerfile: bool,
    /// The build: its ID or the beginning of it; ^1 is the one before the last. Without, the last
    #[arg(value_name = "BUILD")]
    build: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    /// Only of these steps: a step (2/4, build 2/4), the number of a line, or a stage
    #[arg(long, value_name = "STEP|LINE|STAGE")]
    step: Option<String>,
    /// text, or json: an object for each line
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The build: its ID or the beginning of it; ^1 is the one before the last. Without, the last
    #[arg(value_name = "BUILD")]
    build: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// All builds
    #[arg(short = 'a', long)]
    all: bool,
    /// Builds, as for `builds show`
    #[arg(value_name = "BUILD")]
    builds: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// The build: its ID or the beginning of it; ^1 is the one before the last. Without, the last
    #[arg(long, value_name = "BUILD")]
    build: Option<String>,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Only these steps: a step (2/4, build 2/4), the number of a line, or a stage
    #[arg(value_name = "STEP|LINE|STAGE")]
    step: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// `rbuild builds`
pub(super) fn builds(session: &Session, command: Option<&BuildsCommand>) -> Result<u8, Stop> {
    match command {
        None => list(session, &ListArgs::default()),
        Some(BuildsCommand::Ls(args)) => list(session, args),
        Some(BuildsCommand::Show(args)) => show(session, args),
        Some(BuildsCommand::Logs(args)) => logs(session, args),
        Some(BuildsCommand::Rm(args)) => remove(session, args),
    }
}

const COLUMNS: [Column; 5] = [
    whole("BUILD ID", "ID"),
    flexible("NAME", "Name"),
    whole("STATUS", "Status"),
    whole("CREATED", "CreatedSince"),
    whole("DURATION", "Duration"),
];

fn list(session: &Session, args: &ListArgs) -> Result<u8, Stop> {
    let form = Form::parse(args.format.as_deref())?;
    let store = session.store_to_clean()?;
    let all = store.builds().map_err(Failure::from)?;
    if args.quiet {
        return print(&all.iter().map(|build| format!("{}\n", build.id)).collect::<String>()).map(|()| 0);
    }
    let rows: Vec<Value> =
        all.iter().filter_map(|build| Some(row(build, &read_record(&store, build)?))).collect();
    listing::write(&COLUMNS, &rows, &form, true)?;
    Ok(0)
}

fn row(build: &RememberedBuild, record: &BuildRecord) -> Value {
    let count = |outcome: StepOutcome| steps(record).filter(|step| step.outcome == outcome).count();
    json!({
        "ID": build.id,
        "Name": name(record),
        "Status": record.status.title(),
        "CreatedAt": began(record),
        "CreatedSince": store::ago(Some(UNIX_EPOCH + Duration::from_millis(build.begun))),
        "Duration": duration(record.took),
        "Milliseconds": record.took,
        "Cached": count(StepOutcome::Cached),
        "Executed": count(StepOutcome::Executed),
        "Image": record.image,
    })
}

fn steps(record: &BuildRecord) -> impl Iterator<Item = &StepRecord> {
    record.platforms.iter().flat_map(|platform| &platform.steps)
}

/// What a build is called: the image's name, or where it was built from.
fn name(record: &BuildRecord) -> String {
    let place = match record.names.first() {
        Some(name) => name.clone(),
        None => record.context.clone(),
    };
    match &record.target {
        Some(target) => format!("{place} ({target})"),
        None => place,
    }
}

fn began(record: &BuildRecord) -> String {
    crate::time::rfc3339(record.begun.div_euclid(1000), 0)
}

fn duration(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        _ => whole_seconds(millis / 1000),
    }
}

/// The build that a word means.
fn find(store: &Store, word: Option<&str>) -> Result<RememberedBuild, Failure> {
    let all = store.builds()?;
    let none = || {
        usage("the store remembers no build")
            .help("builds are remembered as they end; `rbuild builds` lists them")
    };
    let word = word.unwrap_or("^0");
    if let Some(back) = word.strip_prefix('^') {
        let back: usize = back
            .parse()
            .map_err(|_| usage(format!("invalid build {word:?}; ^1 is the one before the last")))?;
        let count = all.len();
        let few = || usage(format!("the store remembers {count} builds, and {word} is none of them"));
        return all.into_iter().nth(back).ok_or_else(|| if count == 0 { none() } else { few() });
    }
    let mut found = all.iter().filter(|build| !word.is_empty() && build.id.starts_with(word));
    match (found.next(), found.next()) {
        (Some(build), None) => Ok(build.clone()),
        (Some(_), Some(_)) => Err(usage(format!("{word} means several builds")).help("give more of its ID")),
        _ if all.is_empty() => Err(none()),
        _ => Err(usage(format!("the store remembers no build {word:?}")).help("`rbuild builds` lists them")),
    }
}

fn read(store: &Store, build: &RememberedBuild) -> Result<BuildRecord, Failure> {
    read_record(store, build).ok_or_else(|| {
        Failure::new(FailureKind::Store, format!("the record of build {} cannot be read", build.id))
            .help("`rbuild fsck` says what is wrong with it")
    })
}

/// The record as data, with its ID.
fn to_json(build: &RememberedBuild, record: &BuildRecord) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    value["id"] = json!(build.id);
    value
}

fn show(session: &Session, args: &ShowArgs) -> Result<u8, Stop> {
    let store = session.store_to_clean()?;
    let build = find(&store, args.build.as_deref())?;
    let record = read(&store, &build)?;
    if args.dockerfile {
        if record.text.is_empty() {
            return Err(usage(format!("the Dockerfile of build {} was not kept", build.id)).into());
        }
        return print(&record.text).map(|()| 0);
    }
    match args.format.as_deref().unwrap_or_default() {
        "" | "text" => print(&shown(&build, &record))?,
        "json" => print_json(&format!("{:#}\n", to_json(&build, &record)))?,
        format => print(&format!("{}\n", template::parse(format)?.render(&to_json(&build, &record))?))?,
    }
    Ok(0)
}

fn shown(build: &RememberedBuild, record: &BuildRecord) -> String {
    let mut out = String::new();
    let mut line = |title: &str, text: &str| {
        if !text.is_empty() {
            out.push_str(&format!("{:<12}{}\n", format!("{title}:"), visible_line(text)));
        }
    };
    let argument = |one: &crate::explain::Variable| match &one.value {
        Shown::Plain(value) => format!("{}={value}", one.name),
        Shown::Hidden { .. } => format!("{}=****", one.name),
    };
    line("Build", &build.id);
    line("Status", record.status.title());
    line("Error", record.error.as_deref().unwrap_or_default().lines().next().unwrap_or_default());
    line("Context", &record.context);
    line("Dockerfile", &record.dockerfile);
    line("Target", record.target.as_deref().unwrap_or_default());
    let platforms: Vec<&str> = record.platforms.iter().map(|one| one.platform.as_str()).collect();
    line("Platform", &platforms.join(", "));
    line("Arguments", &record.build_args.iter().map(argument).collect::<Vec<_>>().join(" "));
    line("Created", &began(record));
    line("Duration", &duration(record.took));
    line("Names", &record.names.join(", "));
    line("Image", record.image.as_deref().unwrap_or_default());
    line("Manifest", record.manifest.as_deref().unwrap_or_default());
    for platform in &record.platforms {
        out.push('\n');
        if record.platforms.len() > 1 {
            out.push_str(&format!("{}\n", platform.platform));
        }
        let width = platform.steps.iter().map(|step| columns(&visible_line(&step.name))).max();
        let width = width.unwrap_or(0).min(60);
        for step in &platform.steps {
            let name: String = visible_line(&step.name).chars().take(60).collect();
            let gap = " ".repeat(width.saturating_sub(columns(&name)));
            out.push_str(format!("{name}{gap}  {}", outcome(step)).trim_end());
            out.push('\n');
        }
    }
    for warning in &record.warnings {
        out.push_str(&format!("\nwarning: {}", visible_line(warning)));
    }
    if !record.warnings.is_empty() {
        out.push('\n');
    }
    out
}

fn outcome(step: &StepRecord) -> String {
    let time = duration(step.took);
    let why =
        step.cause.as_ref().map_or_else(String::new, |cause| format!("  {}", visible_line(&cause.line())));
    match (step.outcome, step.from.as_deref()) {
        (StepOutcome::Base, _) => "base".into(),
        (StepOutcome::Cached, None | Some("store")) => "cached".into(),
        (StepOutcome::Cached, Some(place)) => format!("cached  at {}", visible_line(place)),
        (StepOutcome::Executed, _) => format!("{time:<6}{why}"),
        (StepOutcome::Failed, _) => format!("{time:<6}  failed{why}"),
        (StepOutcome::NotReached, _) => "not reached".into(),
    }
}

/// The steps that a word means, or a failure that says what there is.
fn select(record: &BuildRecord, word: Option<&str>) -> Result<Vec<(usize, usize)>, Failure> {
    explain::select(record, word).map_err(|places| {
        let message = format!("the build has no step {:?}", word.unwrap_or_default());
        match places.is_empty() {
            true => usage(message).help("it ended before it had any step"),
            false => usage(message).help(format!("there are {}", places.join(", "))),
        }
    })
}

fn logs(session: &Session, args: &LogsArgs) -> Result<u8, Stop> {
    let store = session.store_to_clean()?;
    let build = find(&store, args.build.as_deref())?;
    let record = read(&store, &build)?;
    let chosen = match args.step.as_deref() {
        None => None,
        word => Some(select(&record, word)?),
    };
    let damaged = |error: std::io::Error| {
        Failure::new(FailureKind::Store, format!("the log of build {} cannot be read: {error}", build.id))
            .help("`rbuild fsck --repair` removes it")
    };
    let Some(log) = store.build_log(&build).map_err(Failure::from)? else { return Ok(0) };
    let (mut last, mut block) = (None, String::new());
    for line in read_log(log) {
        let line = line.map_err(damaged)?;
        let place = (line.platform, line.step);
        if chosen.as_ref().is_some_and(|chosen| !chosen.contains(&place)) {
            continue;
        }
        let step = record.platforms.get(line.platform).and_then(|platform| platform.steps.get(line.step));
        match args.format {
            Format::Json => block.push_str(&format!("{}\n", json_line(&line, step))),
            Format::Text => {
                if last != Some(place) {
                    let gap = if last.is_some() { "\n" } else { "" };
                    let name = step.map_or("", |step| step.name.as_str());
                    block.push_str(&format!("{gap}{}\n", visible_line(name)));
                }
                let text = visible::output(&line.line, session.env.colour);
                block.push_str(&format!("{}.{:03} {text}\n", line.millis / 1000, line.millis % 1000));
            }
        }
        last = Some(place);
        if block.len() > 1 << 16 {
            write(args.format, &std::mem::take(&mut block))?;
        }
    }
    write(args.format, &block)?;
    if last.is_none() && args.format == Format::Text {
        tell("no step of this build printed anything: steps from the cache are not executed");
    }
    Ok(0)
}

fn write(format: Format, text: &str) -> Result<(), Stop> {
    match format {
        // Each line is safe already, and may have its colors.
        Format::Text => super::write_out(text),
        Format::Json => print_json(text),
    }
}

fn json_line(line: &LogLine, step: Option<&StepRecord>) -> Value {
    json!({
        "step": step.map(|step| step.name.as_str()),
        "stream": if line.stream == 2 { "stderr" } else { "stdout" },
        "milliseconds": line.millis,
        "text": String::from_utf8_lossy(&line.line),
    })
}

fn remove(session: &Session, args: &RemoveArgs) -> Result<u8, Stop> {
    if args.all != args.builds.is_empty() {
        return Err(usage("name the builds to forget, or write --all").into());
    }
    let store = session.store_to_clean()?;
    let chosen = match args.all {
        true => store.builds().map_err(Failure::from)?,
        false => {
            // All of them before the first goes: ^1 means what it meant.
            let found = args.builds.iter().map(|word| find(&store, Some(word)));
            found.collect::<Result<Vec<_>, _>>()?
        }
    };
    for build in chosen {
        if store.forget_build(&build).map_err(Failure::from)? {
            print(&format!("{}\n", build.id))?;
        }
    }
    Ok(0)
}

/// `rbuild explain`
pub(super) fn explain(session: &Session, args: &ExplainArgs) -> Result<u8, Stop> {
    let store = session.store_to_clean()?;
    let build = find(&store, args.build.as_deref())?;
    let record = read(&store, &build)?;
    let chosen = select(&record, args.step.as_deref())?;
    if args.format == Format::Json {
        let mut value = to_json(&build, &record);
        let of = |at: usize| chosen.iter().filter(move |(platform, _)| *platform == at).map(|(_, id)| *id);
        let platforms: Vec<Value> = record
            .platforms
            .iter()
            .enumerate()
            .map(|(at, platform)| {
                let steps: Vec<_> = of(at).filter_map(|id| platform.steps.get(id)).collect();
                json!({"platform": platform.platform, "steps": steps})
            })
            .collect();
        value["platforms"] = json!(platforms);
        if let Some(all) = value.as_object_mut() {
            all.remove("text");
        }
        return print_json(&format!("{value:#}\n")).map(|()| 0);
    }
    let when = store::ago(Some(SystemTime::UNIX_EPOCH + Duration::from_millis(build.begun)));
    tell(&format!("build {} of {}, {when}", build.id, name(&record)));
    print(&explain::story(&record, &chosen))?;
    Ok(0)
}
