//! Verbs that judge images: validate, diff, verify-reproducible.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::build::{Failure, FailureKind, Reproduced};
use crate::image::{Platform, ResolvedImage, from_store};
use crate::layer::OnDiskIds;
use crate::snapshot::Snapshots;
use crate::verify::{
    Change, Comparison, ContentDifference, EntryDifference, FieldDifference, FileChange, LayerChange,
    compare_files,
};
use crate::visible::visible_line;

use super::args::BuildArgs;
use super::registry::{AccessArgs, transfer};
use super::values::human;
use super::{Session, Stop, build, print, print_json};

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum ReportFormat {
    #[default]
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(super) struct ValidateArgs {
    /// How the result is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReportFormat,
    /// Also look for keys, tokens and passwords in all layers; each is a problem
    #[arg(long)]
    pub secrets: bool,
    #[command(flatten)]
    pub access: AccessArgs,
    /// A name (of the store, else of its registry), or docker://NAME, store:NAME, oci-layout:DIR[:TAG],
    /// oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    pub source: String,
}

/// `rbuild validate`
pub(super) fn validate(session: &Session, args: &ValidateArgs) -> Result<u8, Stop> {
    let cwd = std::env::current_dir()?;
    let report = transfer(session, &args.access, None, |transfer| {
        let place = transfer.source_or_name(&args.source, &cwd, false)?;
        let mut report = transfer.validate(&place)?;
        if args.secrets {
            let snapshots = Snapshots::new(transfer.store.clone(), super::sbom::on_disk(session));
            transfer.secrets(&snapshots, &place, &args.source, &mut report)?;
        }
        Ok(report)
    })?;
    let count = report.problems.len() + report.more;
    if args.format == ReportFormat::Json {
        let problems: Vec<_> = report
            .problems
            .iter()
            .map(|problem| json!({ "place": problem.place, "message": problem.message }))
            .collect();
        let result = json!({
            "source": args.source, "valid": report.is_clean(), "documents": report.documents,
            "layers": report.layers, "entries": report.entries, "problems": problems, "unlisted": report.more,
        });
        print_json(&format!("{result:#}\n"))?;
    } else {
        let mut out = String::new();
        for problem in &report.problems {
            out.push_str(&format!("{}: {}\n", visible_line(&problem.place), visible_line(&problem.message)));
        }
        if report.more > 0 {
            out.push_str(&format!("... and {} more\n", report.more));
        }
        let read = format!(
            "{} documents, {} layers, {} entries read",
            report.documents, report.layers, report.entries
        );
        out.push_str(&match count {
            0 => format!("{}: no problems ({read})\n", args.source),
            1 => format!("{}: 1 problem ({read})\n", args.source),
            count => format!("{}: {count} problems ({read})\n", args.source),
        });
        print(&out)?;
    }
    Ok(u8::from(!report.is_clean()))
}

#[derive(Args, Debug)]
pub(super) struct DiffArgs {
    /// How the result is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReportFormat,
    /// Files whose time alone differs count as well
    #[arg(long)]
    pub times: bool,
    /// Platform to look at where a name means several; that of this machine by default
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Name of the first image
    pub old: String,
    /// Name of the second image
    pub new: String,
}

/// `rbuild diff`
pub(super) fn diff(session: &Session, args: &DiffArgs) -> Result<u8, Stop> {
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    let platform = match &args.platform {
        Some(text) => Platform::parse(text).map_err(|error| usage(error.to_string()))?,
        None => Platform::host(),
    };
    session.watch_signals()?;
    let store = session.store()?;
    let find = |text: &str| -> Result<ResolvedImage, Failure> {
        let name = super::images::find(&store, text)?;
        from_store(&store, &name, &platform)?.ok_or_else(|| {
            usage(format!("no image {} in the store", name.familiar()))
                .help("`rbuild images` lists what is there")
        })
    };
    let (old, new) = (find(&args.old)?, find(&args.new)?);
    let snapshots = Snapshots::new(store.clone(), OnDiskIds::AllToSelf);
    let changes = compare_files(&store, &snapshots, &old, &new, args.times).map_err(Failure::from)?;
    if args.format == ReportFormat::Json {
        let json = serde_json::to_string_pretty(&changes);
        print_json(&format!("{}\n", json.map_err(std::io::Error::from)?))?;
    } else {
        print(&changes.iter().map(change_line).collect::<String>())?;
    }
    Ok(0)
}

fn change_line(change: &FileChange) -> String {
    let letter = match change.change {
        Change::Added => 'A',
        Change::Deleted => 'D',
        Change::Modified => 'M',
    };
    let size = match (change.old_size, change.new_size) {
        (Some(old), Some(new)) if old != new => format!(" {} -> {}", human(old), human(new)),
        (_, Some(size)) | (Some(size), None) => format!(" {}", human(size)),
        (None, None) => String::new(),
    };
    let fields = match change.fields.is_empty() {
        true => String::new(),
        false => format!(" ({})", change.fields.join(", ")),
    };
    format!("{letter} /{}{size}{fields}\n", visible_line(&change.path))
}

#[derive(Args, Debug)]
pub(super) struct ReproduceArgs {
    /// How the result is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReportFormat,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `rbuild verify-reproducible`
pub(super) fn reproduce(session: &Session, args: &ReproduceArgs) -> Result<u8, Stop> {
    let (result, files) = build::with_engine(session, &args.build, |engine, request, events| {
        engine.verify_reproducible(request, events, &session.cancel)
    })?;
    build::report(session, &args.build, &result.outcome, files)?;
    if args.format == ReportFormat::Json {
        let images: Vec<_> = result
            .images
            .iter()
            .map(|(platform, comparison)| json!({ "platform": platform, "differences": comparison }))
            .collect();
        let all = json!({
            "reproducible": result.is_same(), "first": result.first.digest.to_string(),
            "second": result.second.digest.to_string(), "images": images,
        });
        print_json(&format!("{all:#}\n"))?;
    } else if !args.build.quiet {
        print(&explain(&result))?;
    }
    Ok(u8::from(!result.is_same()))
}

fn explain(result: &Reproduced) -> String {
    let digest = result.second.digest;
    if result.is_same() {
        return format!("reproducible: both builds gave {digest}\n");
    }
    let mut out =
        format!("not reproducible: the first build gave {}, the second {digest}\n", result.first.digest);
    for (platform, comparison) in &result.images {
        if result.images.len() > 1 && !comparison.is_same() {
            out.push_str(&format!("\n{platform}\n"));
        }
        explain_image(comparison, &mut out);
    }
    out
}

fn explain_image(comparison: &Comparison, out: &mut String) {
    for layer in &comparison.layers {
        let what = match layer.summary {
            LayerChange::OnlyInFirst => ": only the first build made it",
            LayerChange::OnlyInSecond => ": only the second build made it",
            LayerChange::Compression => ": the same files, compressed in another way",
            LayerChange::Order => ": the same files in another order",
            LayerChange::Entries => "",
        };
        out.push_str(&format!("\nlayer {}, {}{what}\n", layer.layer, layer.created_by.replace('\n', " ")));
        for entry in &layer.entries {
            explain_entry(entry, out);
        }
        if layer.more > 0 {
            out.push_str(&format!("  ... and {} more\n", layer.more));
        }
    }
    let mut times = false;
    for (what, fields) in [("config", &comparison.config), ("manifest", &comparison.manifest)] {
        for field in fields {
            out.push_str(&format!("\n{what} {}\n", values(field)));
            times |= field.field.ends_with("/created");
        }
    }
    if times {
        out.push_str("  hint: set SOURCE_DATE_EPOCH, or build with --reproducible\n");
    }
}

fn values(field: &FieldDifference) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
    format!("{}: {} -> {}", field.field, value(&field.old), value(&field.new))
}

fn explain_entry(entry: &EntryDifference, out: &mut String) {
    let alone = match entry.change {
        Change::Added => " (only in the second build)",
        Change::Deleted => " (only in the first build)",
        Change::Modified => "",
    };
    out.push_str(&format!("  /{}{alone}\n", visible_line(&entry.path)));
    for field in &entry.fields {
        // The digests of contents say nothing to people; where they begin to differ does.
        if field.field != "content" {
            out.push_str(&format!("    {}\n", values(field)));
        } else if entry.content.is_none() {
            out.push_str("    content differs\n");
        }
    }
    if let Some(content) = &entry.content {
        explain_content(content, out);
    } else if entry.fields.len() == 1 && entry.fields.iter().any(|field| field.field == "mtime") {
        out.push_str("    hint: set SOURCE_DATE_EPOCH, or build with --reproducible\n");
    }
}

fn explain_content(content: &ContentDifference, out: &mut String) {
    out.push_str(&format!(
        "    content from byte {} on:\n      {}\n      {}\n",
        content.offset, content.old, content.new
    ));
    if let Some(guess) = &content.guess {
        out.push_str(&format!("    probably {}\n    hint: {}\n", guess.kind, guess.hint));
    }
}
