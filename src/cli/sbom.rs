//! `rbuild sbom`: the packages of an image.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::build::{Failure, FailureKind};
use crate::layer::OnDiskIds;
use crate::progress::width::columns;
use crate::sandbox::userns::IdMode;
use crate::sbom::{Document, Facts, Inventory, Subject};
use crate::snapshot::Snapshots;
use crate::visible::visible_line;

use super::empty::path;
use super::registry::{AccessArgs, platform, transfer};
use super::results::ResultFile;
use super::{Session, Stop, listing, print, print_json, tell};

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SbomFormat {
    /// Aligned columns
    Table,
    /// SPDX 2.3, JSON
    Spdx,
    /// CycloneDX 1.6, JSON
    Cyclonedx,
}

#[derive(Args, Debug)]
pub(super) struct SbomArgs {
    /// How the list is written; table, or spdx with --output
    #[arg(long, value_enum)]
    format: Option<SbomFormat>,
    /// Write to a file instead of standard output
    #[arg(short = 'o', long, value_name = "FILE", value_parser = path())]
    pub(super) output: Option<PathBuf>,
    /// Of an index, the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// A name or ID (of the store, else of its registry), or docker://NAME, store:NAME, oci:DIR[:TAG],
    /// oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    image: String,
}

/// `rbuild sbom`
pub(super) fn sbom(session: &Session, args: &SbomArgs) -> Result<u8, Stop> {
    let platform = platform(args.platform.as_deref(), session)?;
    let created = created(session)?;
    let output = ResultFile::check(args.output.as_deref())?;
    let cwd = std::env::current_dir()?;
    let (subject, inventory) = transfer(session, &args.access, Some(platform), |transfer| {
        let place = transfer.source_or_name(&args.image, &cwd, false)?;
        let snapshots = Snapshots::new(transfer.store.clone(), on_disk(session));
        transfer.inventory(&snapshots, &place, &args.image)
    })?;
    for note in &inventory.notes {
        tell(&format!("rbuild: /{}: {}", visible_line(&note.path), visible_line(&note.text)));
    }
    let default = if args.output.is_some() { SbomFormat::Spdx } else { SbomFormat::Table };
    let facts = Facts { created, version: env!("CARGO_PKG_VERSION").to_owned() };
    let text = render(args.format.unwrap_or(default), &subject, &inventory, &facts);
    match output {
        Some(file) => file.write(text.as_bytes())?,
        None if args.format.is_none_or(|format| format == SbomFormat::Table) => print(&text)?,
        None => print_json(&text)?,
    }
    Ok(0)
}

/// How the directories of layers in the store keep owners.
pub(super) fn on_disk(session: &Session) -> OnDiskIds {
    match session.mode {
        IdMode::SingleId => OnDiskIds::AllToSelf,
        _ => OnDiskIds::Keep,
    }
}

/// SOURCE_DATE_EPOCH, else now.
fn created(session: &Session) -> Result<i64, Failure> {
    match session.env.source_date_epoch.as_deref() {
        None => Ok(listing::now()),
        Some(text) => text.trim().parse().map_err(|_| {
            Failure::new(FailureKind::Usage, format!("SOURCE_DATE_EPOCH={text:?} is no number of seconds"))
        }),
    }
}

fn render(format: SbomFormat, subject: &Subject, inventory: &Inventory, facts: &Facts) -> String {
    let document = Document::new(subject, inventory, facts);
    let json = |value: Value| format!("{value:#}\n");
    match format {
        SbomFormat::Spdx => json(document.spdx()),
        SbomFormat::Cyclonedx => json(document.cyclonedx()),
        SbomFormat::Table => table(inventory),
    }
}

fn table(inventory: &Inventory) -> String {
    let mut rows = vec![["TYPE", "NAME", "VERSION", "LAYER", "LICENSES"].map(str::to_owned)];
    rows.extend(inventory.packages.iter().map(|package| {
        [
            package.ecosystem.purl_type().to_owned(),
            visible_line(&package.full_name()).into_owned(),
            visible_line(&package.version).into_owned(),
            (package.layer + 1).to_string(),
            visible_line(&package.licenses.join(", ")).into_owned(),
        ]
    }));
    // Names come from images, and one of a megabyte would make every row as wide.
    let width = |column: usize| {
        rows.iter().map(|row| columns(&row[column]).min(listing::WIDEST)).max().unwrap_or_default()
    };
    let widths = [0, 1, 2, 3].map(width);
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width.saturating_sub(columns(cell)) + 3));
        }
        line.push_str(&row[4]);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sbom::{Ecosystem, Package};

    #[test]
    fn a_version_of_any_length_is_shown_and_widens_no_other_row() {
        let long = "9".repeat(70_000);
        let packages =
            vec![Package::new(Ecosystem::Python, "a", &long), Package::new(Ecosystem::Python, "b", "1")];
        let inventory = Inventory { packages, ..Inventory::default() };
        let table = table(&inventory);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains(&long));
        assert!(lines[0].len() < 400 && lines[2].len() < 400, "{}", lines[2].len());
    }
}
