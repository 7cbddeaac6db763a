//! `rbuild prune`, `rbuild du` and `rbuild fsck`.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;

use crate::build::{Failure, FailureKind};
use crate::gc::{
    self, CheckOptions, CheckReport, Collected, Filter, Kind, KindUsage, Policy, Space, Survey, ThingUsage,
    Usage,
};
use crate::image::ids;
use crate::store::{Room, Store, StoreError};
use crate::visible::visible_line;

use super::listing::{self, Form};
use super::{Session, Stop, print, print_json, values};

/// How long a collection or check waits for another one.
const WAIT: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// As many digits of an ID as images show.
const SHORT: usize = 12;
/// So many of the things that could not be removed are told one by one.
const TOLD: usize = 20;

#[derive(Args, Debug, Default)]
pub(super) struct PruneArgs {
    /// Everything that no image name leads to, however young, and cache mounts
    #[arg(short = 'a', long)]
    all: bool,
    /// until=DURATION, id=DIGITS or type=regular|exec.cachemount|source.git.checkout|source.local|build.history
    #[arg(long = "filter", value_name = "NAME=VALUE")]
    filters: Vec<String>,
    /// Only until the store takes no more than this
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<String>,
    /// Only until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<String>,
    /// So much may stay in any case
    #[arg(long, value_name = "SIZE", visible_alias = "keep-storage")]
    reserved_space: Option<String>,
    /// Do not ask (nothing is ever asked)
    #[arg(short = 'f', long)]
    force: bool,
    /// Only images without a name, and nothing of the cache
    #[arg(long, hide = true)]
    images: bool,
    /// List everything that is removed
    #[arg(long)]
    verbose: bool,
    /// Show what would go, and keep it
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub(super) struct DuArgs {
    /// table, json, or a Go template for each row
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// List every item
    #[arg(short = 'v', long)]
    verbose: bool,
}

#[derive(Args, Debug)]
pub(super) struct FsckArgs {
    /// Remove what is broken, so that the next build makes it anew
    #[arg(long)]
    repair: bool,
    /// Do not read blobs of the right size
    #[arg(long)]
    fast: bool,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// `rbuild prune`
pub(super) fn prune(session: &Session, args: &PruneArgs) -> Result<u8, Stop> {
    let mut policy = policy(args)?;
    session.watch_signals()?;
    let store = session.store_to_clean()?;
    if args.images {
        policy.filters = unnamed_only(&store, &policy)?;
        if policy.filters.is_empty() {
            print(&summary(&Collected::default(), args.dry_run))?;
            return Ok(0);
        }
    }
    let done = gc::collect(&store, &policy, args.dry_run, WAIT, &session.cancel);
    let (survey, collected) = done.map_err(Failure::from)?;
    if args.verbose {
        print(&gone(&survey, &collected))?;
    }
    print(&summary(&collected, args.dry_run))?;
    if session.cancel.is_cancelled() {
        return Err(Failure::new(FailureKind::Interrupted, "canceled").into());
    }
    match not_removed(collected.failures) {
        Some(failure) => Err(failure.into()),
        None => Ok(0),
    }
}

/// The filters of `image prune`: what keeps images without a name. What only they lead to goes along, and what the
/// cache leads to stays.
fn unnamed_only(store: &Store, policy: &Policy) -> Result<Vec<Filter>, Failure> {
    if !policy.filters.is_empty() || policy.space != Space::default() {
        let message = "`image prune` has no other filter than until=, and no limits of space";
        return Err(Failure::new(FailureKind::Unsupported, message)
            .help("`rbuild builder prune` has them, for the build cache"));
    }
    let images = ids::unnamed(store)?;
    Ok(images.iter().map(|image| Filter::Id(ids::key(&image.id).hex())).collect())
}

/// What could not be removed and why; `None` where there is no such thing.
fn not_removed(failures: Vec<StoreError>) -> Option<Failure> {
    let more = failures.len().saturating_sub(TOLD);
    let mut failures = failures.into_iter();
    let mut failure = Failure::from(failures.next()?);
    for error in failures.take(TOLD - 1) {
        failure.message.push_str(&format!("\n{error}"));
    }
    if more > 0 {
        failure.message.push_str(&format!("\nand {more} more that could not be removed"));
    }
    Some(failure)
}

fn policy(args: &PruneArgs) -> Result<Policy, Failure> {
    let size =
        |text: &Option<String>| text.as_deref().map_or(Ok(0), |text| values::size(text).map_err(usage));
    let space = Space {
        max_used: size(&args.max_used_space)?,
        min_free: size(&args.min_free_space)?,
        reserved: size(&args.reserved_space)?,
    };
    let mut policy = Policy { all: args.all, space, ..Policy::default() };
    for text in &args.filters {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| usage(format!("invalid filter {text:?}, expected NAME=VALUE")))?;
        match name {
            "until" | "unused-for" => policy.unused_for = Some(values::duration(value).map_err(usage)?),
            "id" if !value.is_empty() => {
                let digits = value.strip_prefix("sha256:").unwrap_or(value);
                policy.filters.push(Filter::Id(digits.to_owned()));
            }
            "type" => policy.filters.push(Filter::Type(kind(value)?)),
            _ => {
                let message = format!("unknown filter {text:?}; known are until=, id= and type=");
                return Err(Failure::new(FailureKind::Unsupported, message));
            }
        }
    }
    Ok(policy)
}

fn kind(text: &str) -> Result<Kind, Failure> {
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let names = Kind::ALL.map(Kind::name).join(", ");
        usage(format!("unknown type {text:?}; it is one of {names}"))
    })
}

/// What the things of a room are called.
fn title(room: Room) -> &'static str {
    match room {
        Room::Refs => "image names",
        Room::Records => "cache records",
        Room::Chains => "layer notes",
        Room::Layers => "layer descriptions",
        Room::Index => "layer file lists",
        Room::Snapshots => "unpacked layers",
        Room::Blobs => "blobs",
        Room::Mounts => "cache mounts",
        Room::Git => "git repositories",
        Room::Stat => "context notes",
        Room::Builds => "build history",
    }
}

fn gone(survey: &Survey, collected: &Collected) -> String {
    let mut out = format!("{:<14} {:<20} {:>8}  {}\n", "ID", "TYPE", "SIZE", "DESCRIPTION");
    for (at, bytes) in &collected.gone {
        let Some(thing) = survey.things.get(*at) else { continue };
        let (id, size) = (short(&thing.item.name), values::human(*bytes));
        out.push_str(&format!("{id:<14} {:<20} {size:>8}  {}\n", title(thing.item.room), line(&thing.note)));
    }
    out
}

fn short(name: &str) -> &str {
    name.get(..SHORT).unwrap_or(name)
}

fn line(note: &str) -> String {
    visible_line(note).chars().take(100).collect()
}

fn summary(collected: &Collected, dry_run: bool) -> String {
    let mut out = String::new();
    for (room, removed) in &collected.removed {
        let size = values::human(removed.bytes);
        out.push_str(&format!("{:<20} {:>7} {size:>9}\n", title(*room), removed.count));
    }
    if collected.strays > 0 {
        out.push_str(&format!("{:<20} {:>7}\n", "stray files", collected.strays));
    }
    if collected.in_use > 0 {
        out.push_str(&format!("Kept, as running builds use them: {}\n", collected.in_use));
    }
    let total = if dry_run { "Would free" } else { "Total" };
    out.push_str(&format!("{total}: {}\n", values::human(collected.bytes())));
    out
}

/// `rbuild du`
pub(super) fn du(session: &Session, args: &DuArgs) -> Result<u8, Stop> {
    let store = session.store_to_clean()?;
    let usage = gc::usage(&store).map_err(Failure::from)?;
    match args.format.as_deref().unwrap_or_default() {
        "" | "table" => print(&usage_table(&usage, args.verbose))?,
        "json" => print_json(&format!("{:#}\n", usage_json(&usage, args.verbose)))?,
        format => {
            let form = Form::parse(Some(format))?;
            let json = usage_json(&usage, args.verbose);
            let rows = json[if args.verbose { "Things" } else { "Types" }].as_array().cloned();
            listing::write(&[], &rows.unwrap_or_default(), &form, false)?;
        }
    }
    Ok(0)
}

fn usage_table(usage: &Usage, verbose: bool) -> String {
    let mut out = String::new();
    if verbose {
        let head = ["ID", "TYPE", "SIZE", "SHARED", "RECLAIMABLE", "LAST USED", "DESCRIPTION"];
        out.push_str(&thing_row(head.map(str::to_owned)));
        for thing in &usage.things {
            let yes = |value: bool| if value { "true" } else { "false" }.to_owned();
            out.push_str(&thing_row([
                short(&thing.id).to_owned(),
                title(thing.room).to_owned(),
                values::human(thing.size),
                yes(thing.shared),
                yes(thing.reclaimable),
                ago(Some(thing.used)),
                line(&thing.note),
            ]));
        }
        out.push('\n');
    }
    let head = ["TYPE", "COUNT", "SIZE", "SHARED", "RECLAIMABLE", "LAST USED"];
    out.push_str(&kind_row(head.map(str::to_owned)));
    let rows = usage.kinds.iter().map(|(room, kind)| (title(*room), *kind));
    for (title, kind) in rows.chain([("total", usage.total())]) {
        out.push_str(&kind_row([
            title.to_owned(),
            kind.count.to_string(),
            values::human(kind.size),
            values::human(kind.shared),
            values::human(kind.reclaimable),
            ago(kind.used),
        ]));
    }
    out
}

fn thing_row([id, kind, size, shared, reclaimable, used, note]: [String; 7]) -> String {
    let row = format!("{id:<14} {kind:<20} {size:>8}  {shared:<7} {reclaimable:<12} {used:<16} {note}");
    format!("{}\n", row.trim_end())
}

fn kind_row([kind, count, size, shared, reclaimable, used]: [String; 6]) -> String {
    format!("{kind:<20} {count:>7} {size:>9} {shared:>9} {reclaimable:>12}  {used}\n")
}

pub(super) fn ago(used: Option<SystemTime>) -> String {
    let Some(idle) = used.map(|used| SystemTime::now().duration_since(used).unwrap_or_default()) else {
        return "never".into();
    };
    let seconds = idle.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / DAY.as_secs(), "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

fn usage_json(usage: &Usage, verbose: bool) -> serde_json::Value {
    let seconds =
        |used: SystemTime| used.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let kind = |name: &str, kind: &KindUsage| {
        json!({
            "Type": name, "Count": kind.count, "Size": kind.size, "Shared": kind.shared,
            "Reclaimable": kind.reclaimable, "LastUsedAt": kind.used.map(seconds),
        })
    };
    let thing = |thing: &ThingUsage| {
        json!({
            "ID": thing.id, "Type": title(thing.room), "Size": thing.size, "Shared": thing.shared,
            "Reclaimable": thing.reclaimable, "LastUsedAt": seconds(thing.used), "Description": thing.note,
        })
    };
    let kinds: Vec<_> = usage.kinds.iter().map(|(room, one)| kind(title(*room), one)).collect();
    let mut out = json!({ "Types": kinds, "Total": kind("total", &usage.total()) });
    if verbose {
        out["Things"] = usage.things.iter().map(thing).collect();
    }
    out
}

/// `rbuild fsck`
pub(super) fn fsck(session: &Session, args: &FsckArgs) -> Result<u8, Stop> {
    session.watch_signals()?;
    let store = session.store_to_clean()?;
    let options = CheckOptions { repair: args.repair, fast: args.fast, wait: WAIT };
    let report = gc::check(&store, &options, &session.cancel).map_err(Failure::from)?;
    if session.cancel.is_cancelled() {
        return Err(Failure::new(FailureKind::Interrupted, "canceled").into());
    }
    for finding in &report.findings {
        print(&format!("{}{}\n", finding.what, if finding.repaired { ": repaired" } else { "" }))?;
    }
    print(&verdict(&report, args.fast))?;
    if report.is_clean() {
        return Ok(0);
    }
    let message =
        format!("{} things in the store {} are broken", report.findings.len(), store.root().display());
    let help = match args.repair {
        true => {
            "what could not be removed belongs to another user or lies on a file system that is not writable"
        }
        false => "`rbuild fsck --repair` removes exactly these; the next build makes them anew",
    };
    Err(Failure::new(FailureKind::Store, message).help(help).into())
}

fn verdict(report: &CheckReport, fast: bool) -> String {
    let count = |room: Room| report.looked_at.get(&room).copied().unwrap_or_default();
    let read =
        if fast { "not read".to_owned() } else { format!("{} read", values::human(report.bytes_read)) };
    let (blobs, layers) = (count(Room::Blobs), count(Room::Layers));
    let (records, names) = (count(Room::Records), count(Room::Refs));
    let repaired = report.findings.iter().filter(|finding| finding.repaired).count();
    let end = match (report.findings.len(), repaired) {
        (0, _) => "the store is whole".to_owned(),
        (all, repaired) if all == repaired => format!("{all} broken, all removed"),
        (all, repaired) => format!("{all} broken, {repaired} removed"),
    };
    format!("{blobs} blobs ({read}), {layers} layers, {records} records, {names} names: {end}\n")
}

/// What happens by itself after a build. Its failures are nobody's; what it freed is reported where people
/// read.
pub(super) fn after_build(session: &Session, store: &Store, tell: bool) {
    if let Ok(Some(collected)) = gc::automatic(store, &session.cancel)
        && collected.bytes() > 0
        && tell
    {
        let freed = values::human(collected.bytes());
        // The build has ended well, whether or not anybody listens.
        let _ = writeln!(
            std::io::stderr(),
            "rbuild: freed {freed} of the store (at most once a day; see `rbuild du`)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Result<Policy, Failure> {
        let filters = texts.iter().map(|text| (*text).to_owned()).collect();
        policy(&PruneArgs { filters, ..PruneArgs::default() })
    }

    #[test]
    fn filters_are_understood_or_refused_by_name() {
        let known = filters(&["until=24h", "id=sha256:ab", "type=exec.cachemount"]);
        let wanted = Policy {
            unused_for: Some(DAY),
            filters: vec![Filter::Id("ab".into()), Filter::Type(Kind::CacheMount)],
            ..Policy::default()
        };
        assert_eq!(known.ok(), Some(wanted));
        for (bad, word) in [
            ("until=x", "duration"),
            ("type=frontend", "regular, exec.cachemount"),
            ("inuse=true", "unknown filter"),
            ("until", "NAME=VALUE"),
            ("id=", "unknown filter"),
        ] {
            assert!(filters(&[bad]).is_err_and(|failure| failure.message.contains(word)), "{bad}");
        }
    }
}
