//! Verbs that judge images: validate, diff, verify-reproducible.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::build::Place;

use super::registry::{AccessArgs, transfer};
use super::{Session, Stop, print};

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
        let place = Place::parse_name(&args.source, &cwd, |name| transfer.stored(name).is_ok())?;
        transfer.validate(&place)
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
        print(&format!("{result:#}\n"))?;
    } else {
        let mut out = String::new();
        for problem in &report.problems {
            out.push_str(&format!("{}: {}\n", problem.place, problem.message));
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
