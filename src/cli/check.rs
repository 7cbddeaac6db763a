//! `rbuild check`, and `build` with `--check` or `--call`.

use std::io::Write as _;
use std::path::Path;

use clap::{Args, ValueEnum};

use crate::build::{Checked, Failure, FailureKind};
use crate::cancel::CancelRead;
use crate::dockerfile::Source;
use crate::event::Events;
use crate::fs::new_file_beside;
use crate::lint;
use crate::progress::Mode;

use super::args::BuildArgs;
use super::{Session, Stop, build, exit_code, print, print_json, render, tell};

/// What `build` can be asked for instead of a build.
#[derive(Args, Debug, Default)]
pub(super) struct CallArgs {
    /// Do something else with the Dockerfile: check, outline or targets, with ,format=json for JSON
    #[arg(long, value_name = "METHOD[,format=FORMAT]", help_heading = "Checks")]
    pub call: Option<String>,
    /// Check the Dockerfile and build nothing: --call=check
    #[arg(long, help_heading = "Checks")]
    pub check: bool,
}

// A comment for users would become the command's help.
#[derive(Args, Debug)]
#[command(mut_arg("context", |arg| arg.required(false).default_value(".")))]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub build: BuildArgs,
    /// Set right what can be, in the file itself
    #[arg(long, help_heading = "Checks")]
    pub fix: bool,
    /// Print the documentation of a rule and check nothing
    #[arg(long, value_name = "RULE", help_heading = "Checks")]
    pub explain: Option<String>,
    /// How findings are written
    #[arg(long, value_enum, default_value = "text", help_heading = "Checks")]
    pub format: Format,
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Check,
    Outline,
    Targets,
}

/// A question about a Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    format: Format,
    /// `ignorestatus=true`: findings are no failure.
    ignore_status: bool,
    fix: bool,
}

fn usage(message: String) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

impl CallArgs {
    /// What is asked; `None` is a build.
    pub(super) fn parse(&self) -> Result<Option<Call>, Failure> {
        let call = self.call.as_deref().map(parse_call).transpose()?.flatten();
        match (self.check, call) {
            (false, call) => Ok(call),
            (true, None) if self.call.is_none() => Ok(Some(Call::new(Method::Check))),
            (true, Some(call)) if call.method == Method::Check => Ok(Some(call)),
            (true, _) => Err(usage("--check and --call ask for different things".to_owned())),
        }
    }
}

impl Call {
    fn new(method: Method) -> Self {
        Call { method, format: Format::Text, ignore_status: false, fix: false }
    }
}

/// `METHOD[,format=FORMAT][,ignorestatus=BOOL]`.
fn parse_call(text: &str) -> Result<Option<Call>, Failure> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let mut call = match name.strip_prefix("method=").unwrap_or(name) {
        "" | "build" => None,
        "check" | "lint" => Some(Call::new(Method::Check)),
        "outline" => Some(Call::new(Method::Outline)),
        "targets" => Some(Call::new(Method::Targets)),
        other => {
            let message = format!("--call={other} is not supported; it is build, check, outline or targets");
            return Err(Failure::new(FailureKind::Unsupported, message));
        }
    };
    for part in parts {
        let Some(call) = &mut call else {
            return Err(usage(format!("--call=build takes no options, got {part:?}")));
        };
        match part.split_once('=') {
            Some(("format", "json")) => call.format = Format::Json,
            Some(("format", "text")) => call.format = Format::Text,
            Some(("ignorestatus", "true" | "1")) => call.ignore_status = true,
            Some(("ignorestatus", "false" | "0")) => call.ignore_status = false,
            _ => {
                return Err(usage(format!(
                    "invalid option {part:?} of --call; it is format=json or format=text"
                )));
            }
        }
    }
    Ok(call)
}

/// `rbuild check`.
pub(super) fn check(session: &Session, args: CheckArgs) -> Result<u8, Stop> {
    if let Some(rule) = &args.explain {
        return print(&lint::explain(rule).map_err(usage)?).map(|()| 0);
    }
    super::dry_run::refuse(&args.build, "a check")?;
    let call = args.build.call.parse()?.unwrap_or(Call::new(Method::Check));
    if args.fix && call.method != Method::Check {
        return Err(usage("--fix goes with checks only".to_owned()).into());
    }
    let format = if args.format == Format::Json { Format::Json } else { call.format };
    answer(session, &args.build, Call { format, fix: args.fix, ..call })
}

/// Answers a question about a Dockerfile.
pub(super) fn answer(session: &Session, args: &BuildArgs, call: Call) -> Result<u8, Stop> {
    build::refuse_later(args)?;
    let request = build::request(args, &session.env)?;
    session.watch_signals()?;
    let engine = session.engine()?;
    let stdin = &mut CancelRead::stdin(&session.cancel);
    let renderer = session.renderer(Mode::Warnings);
    let events = Events::new(renderer.clone());
    if call.method == Method::Targets {
        let result = engine.dockerfile(&request, stdin, &events, &session.cancel);
        renderer.finish();
        let dockerfile = result?;
        return write(call, || lint::targets_text(&dockerfile), || lint::targets_json(&dockerfile))
            .map(|()| 0);
    }
    if call.method == Method::Outline {
        let result = engine.outline(&request, stdin, &events, &session.cancel);
        renderer.finish();
        let (dockerfile, outline, out_of_reach) = result?;
        note_bases(&out_of_reach);
        return write(call, || outline.text(), || outline.json(&dockerfile.source)).map(|()| 0);
    }
    let result = engine.check(&request, call.fix, stdin, &events, &session.cancel);
    renderer.finish();
    match result {
        Ok(checked) => report(session, checked, call),
        Err(failure) => {
            // A file that does not parse is an answer too.
            if let (Format::Json, Some((source, _))) = (call.format, &failure.place) {
                let error = build_error(&failure, source);
                let json = lint::json(&lint::Report::default(), source, Some(&error));
                print_json(&format!("{json:#}\n"))?;
            }
            Err(failure.into())
        }
    }
}

fn write(
    call: Call,
    text: impl FnOnce() -> String,
    json: impl FnOnce() -> serde_json::Value,
) -> Result<(), Stop> {
    match call.format {
        Format::Text => print(&text()),
        Format::Json => print_json(&format!("{:#}\n", json())),
    }
}

/// Says in one line what is missing in an answer that was given without these images.
fn note_bases(out_of_reach: &[String]) {
    let Some((first, rest)) = out_of_reach.split_first() else { return };
    let more = match rest.len() {
        0 => String::new(),
        1 => " and 1 other image".to_owned(),
        count => format!(" and {count} other images"),
    };
    tell(&format!("note: cannot look at {first}{more} from here; what depends on their configs is left out"));
}

/// A failure as a report shows it. Places in other texts (a trigger of the base) are left out.
fn build_error(failure: &Failure, source: &Source) -> lint::BuildError {
    let here = failure.place.as_ref().filter(|(other, _)| other.text() == source.text());
    lint::BuildError { message: failure.message.clone(), span: here.map(|(_, span)| *span) }
}

fn report(session: &Session, checked: Checked, call: Call) -> Result<u8, Stop> {
    let Checked { dockerfile, report, failure, out_of_reach, fixed } = checked;
    if let Some(fixed) = &fixed {
        let Some(path) = &fixed.path else {
            return Err(usage("--fix needs a Dockerfile in a file of its own".to_owned()).into());
        };
        if !fixed.applied.is_empty() {
            rewrite(path, &fixed.text)?;
        }
        for (rule, line) in &fixed.applied {
            tell(&format!("fixed {rule} in line {line}"));
        }
    }
    let source = &dockerfile.source;
    let violation = report.fails.then(|| lint::BuildError { message: report.violation(), span: None });
    let error = failure.as_ref().map(|failure| build_error(failure, source)).or(violation);
    write(
        call,
        || lint::text(&report, source, failure.is_some()),
        || lint::json(&report, source, error.as_ref()),
    )?;
    note_bases(&out_of_reach);
    if let Some(failure) = failure {
        render::failure(&failure, &session.env);
        return Ok(if call.ignore_status { 0 } else { exit_code(failure.kind) });
    }
    if let (true, Format::Text) = (report.fails, call.format) {
        render::failure(&Failure::new(FailureKind::Dockerfile, report.violation()), &session.env);
    }
    Ok(u8::from(report.warnings().next().is_some() && !call.ignore_status))
}

/// Replaces a file as a whole, with the permissions it had; a link to it stays one.
fn rewrite(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(FailureKind::Output, format!("cannot write {}: {error}", path.display()))
    };
    let path = path.canonicalize().map_err(failed)?;
    let meta = std::fs::metadata(&path).map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(std::io::Error::other("it is no regular file")));
    }
    let written = new_file_beside(&path, 0o600).and_then(|mut file| {
        file.write_all(text)?;
        file.as_file().set_permissions(meta.permissions())?;
        Ok(file.persist(&path).map(drop)?)
    });
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_format() {
        let check = Call::new(Method::Check);
        let json = |call: Call| Call { format: Format::Json, ..call };
        for (text, expected) in [
            ("build", None),
            ("check", Some(check)),
            ("lint", Some(check)),
            ("check,format=json", Some(json(check))),
            ("check,format=text", Some(check)),
            ("outline", Some(Call::new(Method::Outline))),
            ("targets,format=json", Some(json(Call::new(Method::Targets)))),
            ("check,ignorestatus=true", Some(Call { ignore_status: true, ..check })),
        ] {
            let args = CallArgs { call: Some(text.to_owned()), check: false };
            assert_eq!(args.parse().ok(), Some(expected), "{text}");
        }
        for text in ["nothing", "check,format=xml", "check,json", "build,format=json", "subrequests.describe"]
        {
            let args = CallArgs { call: Some(text.to_owned()), check: false };
            assert!(args.parse().is_err(), "{text}");
        }
    }

    #[test]
    fn the_flag_and_the_call_must_agree() {
        let parse = |call: Option<&str>| CallArgs { call: call.map(str::to_owned), check: true }.parse();
        assert_eq!(parse(None).ok(), Some(Some(Call::new(Method::Check))));
        assert!(parse(Some("check,format=json")).is_ok());
        assert!(parse(Some("outline")).is_err() && parse(Some("build")).is_err());
    }
}
