//! `rbuild cache`: a look inside caches elsewhere, and moving them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::build::{
    CacheBounds, CacheCare, CacheEntry, CacheLocation, CacheTarget, CheckedLayer, Exported, Failure,
    FailureKind, FoundCache,
};
use crate::event::Events;
use crate::progress::Mode;
use crate::visible::visible_line;

use super::build::progress_mode;
use super::builds::Format;
use super::listing::{self, Column, Form, flexible, whole};
use super::registry::{AccessArgs, access};
use super::{Session, Stop, cache, print, print_json, store, tell, values};

const CACHES: &str = "\
A cache is a name in a registry, a directory (./DIR, /DIR), or what --cache-from and --cache-to take: type=TYPE,KEY=VALUE,...";

#[derive(Args, Debug)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Subcommand, Debug)]
enum CacheCommand {
    /// List the steps that a cache has
    #[command(visible_alias = "list", after_help = CACHES)]
    Ls(LsArgs),
    /// Show what a cache is made of, or all about some of its steps
    #[command(visible_alias = "inspect", after_help = CACHES)]
    Show(ShowArgs),
    /// Fetch every layer of a cache and compare it with its records
    #[command(after_help = CACHES)]
    Verify(VerifyCacheArgs),
    /// Drop the steps of a cache that are too old or too much
    #[command(after_help = CACHES)]
    Prune(PruneCacheArgs),
    /// Copy a cache into a directory, adding to what is there
    #[command(after_help = CACHES)]
    Export(ExportArgs),
    /// Copy a cache from a directory to another place, adding to what is there
    #[command(after_help = CACHES)]
    Import(ImportArgs),
}

#[derive(Args, Debug)]
struct LsArgs {
    /// table, json, or a Go template for each step
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// The cache
    cache: String,
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    access: AccessArgs,
    /// The cache
    cache: String,
    /// Only steps with this text in their name, or with a key that begins so
    step: Option<String>,
}

#[derive(Args, Debug)]
struct VerifyCacheArgs {
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    access: AccessArgs,
    /// The cache
    cache: String,
}

#[derive(Args, Debug)]
struct PruneCacheArgs {
    /// Drop what no build used for so long, such as 7d or 12h
    #[arg(long, value_name = "TIME", required_unless_present = "max_size")]
    max_age: Option<String>,
    /// Drop the oldest beyond this size of all layers, such as 2g
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// The cache
    cache: String,
}

#[derive(Args, Debug)]
struct ExportArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// The cache
    cache: String,
    /// The directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Args, Debug)]
struct ImportArgs {
    #[command(flatten)]
    access: AccessArgs,
    /// The directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The cache
    cache: String,
}

/// `rbuild cache`
pub(super) fn cache(session: &Session, args: &CacheArgs) -> Result<u8, Stop> {
    match &args.command {
        CacheCommand::Ls(args) => list(session, args),
        CacheCommand::Show(args) => show(session, args),
        CacheCommand::Verify(args) => verify(session, args),
        CacheCommand::Prune(args) => prune(session, args),
        CacheCommand::Export(args) => {
            let from = cache::location(&args.cache)?;
            copy(session, &args.access, &from, &CacheTarget::new(directory(&args.dir)))
        }
        CacheCommand::Import(args) => {
            let to = cache::location(&args.cache)?;
            copy(session, &args.access, &directory(&args.dir), &CacheTarget::new(to))
        }
    }
}

fn directory(path: &std::path::Path) -> CacheLocation {
    CacheLocation::Local { path: path.to_owned(), tag: "latest".into(), digest: None }
}

fn care<T>(
    session: &Session,
    args: &AccessArgs,
    work: impl FnOnce(&CacheCare<'_>) -> Result<T, Failure>,
) -> Result<T, Stop> {
    let mode = if args.quiet { Mode::Warnings } else { progress_mode(None, false, &session.env)? };
    let mut access = access(session, &args.insecure_registries)?;
    session.watch_signals()?;
    let (store, cwd) = (session.store()?, std::env::current_dir()?);
    let renderer = session.renderer(mode);
    let events = Events::new(renderer.clone());
    access.notices = access.notices.to(&events);
    let care =
        CacheCare { store: &store, access: &access, cwd: &cwd, events: &events, cancel: &session.cancel };
    let result = work(&care);
    renderer.finish();
    Ok(result?)
}

fn read(session: &Session, args: &AccessArgs, text: &str) -> Result<FoundCache, Stop> {
    let location = cache::location(text)?;
    let mut found = care(session, args, |care| care.read(&location))?;
    for failure in &found.failures {
        tell(&format!("rbuild: a part of the cache at {} cannot be read: {failure}", found.name));
    }
    // The newest first; those of one build in the order in which they were executed.
    found.document.entries.sort_by_key(|entry| {
        (std::cmp::Reverse(entry.used), std::cmp::Reverse(entry.created), entry.step.clone(), entry.key)
    });
    Ok(found)
}

const COLUMNS: [Column; 5] = [
    flexible("STEP", "Step"),
    whole("LAYER", "ShortLayer"),
    whole("SIZE", "HumanSize"),
    whole("CREATED", "CreatedSince"),
    whole("USED", "UsedSince"),
];

fn list(session: &Session, args: &LsArgs) -> Result<u8, Stop> {
    let form = Form::parse(args.format.as_deref())?;
    let found = read(session, &args.access, &args.cache)?;
    let rows: Vec<Value> = found.document.entries.iter().map(row).collect();
    listing::write(&COLUMNS, &rows, &form, true)?;
    Ok(0)
}

fn row(entry: &CacheEntry) -> Value {
    json!({
        "Step": entry.step,
        "Key": entry.key,
        "Parent": entry.parent,
        "DiffID": entry.diff_id,
        "Layer": entry.layer.digest,
        "ShortLayer": entry.layer.digest.short(),
        "MediaType": entry.layer.media_type,
        "Size": entry.layer.size,
        "HumanSize": values::human(entry.layer.size),
        "CreatedAt": crate::time::rfc3339(entry.created, 0),
        "CreatedSince": since(entry.created),
        "UsedAt": crate::time::rfc3339(entry.used, 0),
        "UsedSince": since(entry.used),
    })
}

fn since(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    store::ago(UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
}

fn show(session: &Session, args: &ShowArgs) -> Result<u8, Stop> {
    let found = read(session, &args.access, &args.cache)?;
    let wanted = |entry: &&CacheEntry| {
        let Some(word) = &args.step else { return true };
        let key = entry.key.to_string();
        entry.step.contains(word.as_str())
            || key.starts_with(word.as_str())
            || entry.key.hex().starts_with(word)
    };
    let entries: Vec<&CacheEntry> = found.document.entries.iter().filter(wanted).collect();
    if let Some(word) = args.step.as_ref().filter(|_| entries.is_empty()) {
        let message = format!("the cache at {} has no step {word:?}", found.name);
        return Err(Failure::new(FailureKind::Usage, message)
            .help("`rbuild cache ls` lists its steps")
            .into());
    }
    let layers: BTreeMap<_, u64> =
        entries.iter().map(|entry| (entry.layer.digest, entry.layer.size)).collect();
    let size: u64 = layers.values().sum();
    let (created, used) = (entries.iter().map(|entry| entry.created), entries.iter().map(|entry| entry.used));
    let (oldest, newest) = (created.min(), used.max());
    if args.format == Format::Json {
        let all: Vec<Value> = entries.into_iter().map(row).collect();
        let document = json!({
            "name": found.name, "steps": all.len(), "layers": layers.len(), "size": size,
            "answers": found.document.answers.len(),
            "oldest": oldest.map(|time| crate::time::rfc3339(time, 0)),
            "newest": newest.map(|time| crate::time::rfc3339(time, 0)),
            "failures": found.failures, "entries": all,
        });
        return print_json(&format!("{document:#}\n")).map(|()| 0);
    }
    let mut out = format!(
        "Cache:    {}\nSteps:    {}\nLayers:   {} ({})\nAnswers:  {}\n",
        visible_line(&found.name),
        entries.len(),
        layers.len(),
        values::human(size),
        found.document.answers.len()
    );
    if let (Some(oldest), Some(newest)) = (oldest, newest) {
        out.push_str(&format!("Oldest:   {}\nUsed:     {}\n", since(oldest), since(newest)));
    }
    for entry in entries.iter().filter(|_| args.step.is_some()) {
        out.push_str(&text(entry));
    }
    print(&out).map(|()| 0)
}

fn text(entry: &CacheEntry) -> String {
    let time = |seconds| format!("{} ({})", crate::time::rfc3339(seconds, 0), since(seconds));
    let blob = &entry.layer;
    let lines = [
        ("Step", entry.step.clone()),
        ("Key", entry.key.to_string()),
        ("Parent", entry.parent.to_string()),
        ("Diff ID", entry.diff_id.to_string()),
        ("Layer", blob.digest.to_string()),
        ("Type", blob.media_type.clone()),
        ("Size", format!("{} ({} bytes)", values::human(blob.size), blob.size)),
        ("Created", time(entry.created)),
        ("Used", time(entry.used)),
    ];
    let shown = lines.map(|(name, value)| format!("{:<10}{}\n", format!("{name}:"), visible_line(&value)));
    format!("\n{}", shown.concat())
}

fn verify(session: &Session, args: &VerifyCacheArgs) -> Result<u8, Stop> {
    let location = cache::location(&args.cache)?;
    let (found, checked) = care(session, &args.access, |care| care.verify(&location))?;
    let damaged: Vec<&CheckedLayer> = checked.iter().filter(|layer| layer.problem.is_some()).collect();
    let (name, steps) = (&found.name, found.document.entries.len());
    match args.format {
        Format::Json => {
            let row = |layer: &CheckedLayer| {
                json!({
                    "layer": layer.layer.digest, "size": layer.layer.size, "diffId": layer.diff_id,
                    "steps": layer.steps, "problem": layer.problem,
                })
            };
            let layers: Vec<Value> = checked.iter().map(row).collect();
            let document =
                json!({ "name": name, "steps": steps, "failures": found.failures, "layers": layers });
            print_json(&format!("{document:#}\n"))?;
        }
        Format::Text => {
            for layer in &damaged {
                let problem = visible_line(layer.problem.as_deref().unwrap_or_default()).into_owned();
                let made = layer.steps.iter().map(|step| visible_line(step).into_owned());
                print(&format!("{}: {problem}\n", layer.layer.digest))?;
                print(&made.map(|step| format!("  of {step}\n")).collect::<String>())?;
            }
            for failure in &found.failures {
                print(&format!("{}\n", visible_line(failure)))?;
            }
        }
    }
    if damaged.is_empty() && found.failures.is_empty() {
        if args.format == Format::Text {
            print(&format!("{}: {steps} steps, {} layers, all right\n", visible_line(name), checked.len()))?;
        }
        return Ok(0);
    }
    let message = match found.failures.len() {
        0 => format!("{} of {} layers of the cache at {name} are wrong", damaged.len(), checked.len()),
        parts => format!(
            "{} of {} layers of the cache at {name} are wrong, and {parts} of its parts cannot be read",
            damaged.len(),
            checked.len()
        ),
    };
    let failure = Failure::new(FailureKind::Base, message);
    Err(failure
        .help("builds notice it and execute the steps; a --cache-to after that replaces the layers")
        .into())
}

fn prune(session: &Session, args: &PruneCacheArgs) -> Result<u8, Stop> {
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    let age = args.max_age.as_deref().map(cache::age).transpose();
    let size = args.max_size.as_deref().map(values::size).transpose();
    let bounds = CacheBounds {
        max_age: age.map_err(|error| usage(format!("--max-age: {error}")))?,
        max_size: size.map_err(|error| usage(format!("--max-size: {error}")))?,
        lifetime: None,
    };
    let target = CacheTarget { bounds, ..CacheTarget::new(cache::location(&args.cache)?) };
    let pruned = care(session, &args.access, |care| care.prune(&target))?;
    let kept = pruned.exported.entries;
    let dropped = pruned.before.saturating_sub(kept);
    print(&format!("{}: {dropped} steps dropped, {kept} kept\n", visible_line(&pruned.name)))?;
    Ok(0)
}

fn copy(session: &Session, args: &AccessArgs, from: &CacheLocation, to: &CacheTarget) -> Result<u8, Stop> {
    let (name, exported) = care(session, args, |care| care.copy(from, to))?;
    let Exported { entries, sent, mounted, sent_bytes, unchanged } = exported;
    let name = visible_line(&name).into_owned();
    match unchanged {
        true => print(&format!("{name}: {entries} steps, nothing new\n"))?,
        false => print(&format!(
            "{name}: {entries} steps ({sent_bytes} bytes sent; layers: {sent} new, {mounted} mounted)\n"
        ))?,
    }
    Ok(0)
}
