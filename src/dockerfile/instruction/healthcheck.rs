//! `HEALTHCHECK`.

use super::super::ast::{CommandLine, Healthcheck, Word};
use super::super::duration;
use super::super::error::{Outcome, Problem};
use super::super::flags::{Kind, Known};
use super::{Arguments, Context, command_line};
use crate::suggest::suggest;

const FLAGS: Known = &[
    ("interval", Kind::Once),
    ("timeout", Kind::Once),
    ("start-period", Kind::Once),
    ("start-interval", Kind::Once),
    ("retries", Kind::Once),
];

/// The shortest duration an engine accepts, in nanoseconds.
const MINIMUM: i64 = 1_000_000;

pub(super) fn parse(arguments: &Arguments<'_>, context: &mut Context<'_, '_>) -> Outcome<Healthcheck> {
    let flags = &arguments.flags;
    flags.check("HEALTHCHECK", FLAGS)?;
    arguments.required("NONE, or CMD and a command")?;
    let (form, rest) = arguments.text.split_blank();
    if form.as_str().eq_ignore_ascii_case("NONE") {
        if !rest.is_empty() {
            return Err(Problem::new(rest.span(), "HEALTHCHECK NONE takes no arguments"));
        }
        // Its flags are not even looked at (BuildKit's parseHealthcheck).
        return Ok(Healthcheck::None);
    }
    if !form.as_str().eq_ignore_ascii_case("CMD") {
        let problem = Problem::new(form.span(), format!("unknown form `{}` of HEALTHCHECK", form.as_str()));
        return Err(match suggest(form.as_str(), ["CMD", "NONE"]) {
            Some(near) => problem.help(format!("did you mean {near}?")),
            None => problem.help("write HEALTHCHECK CMD command, or HEALTHCHECK NONE"),
        });
    }
    let command = command_line(arguments, rest, context)?;
    if matches!(&command, CommandLine::Shell(text) if text.is_empty())
        || command == CommandLine::Exec(Vec::new())
    {
        return Err(Problem::new(arguments.span, "HEALTHCHECK CMD lacks its command"));
    }
    Ok(Healthcheck::Cmd {
        command,
        interval: duration_flag(flags.text("interval"), "interval")?,
        timeout: duration_flag(flags.text("timeout"), "timeout")?,
        start_period: duration_flag(flags.text("start-period"), "start-period")?,
        start_interval: duration_flag(flags.text("start-interval"), "start-interval")?,
        retries: retries(flags.text("retries"))?,
    })
}

fn duration_flag(value: Option<Word>, name: &str) -> Outcome<Option<i64>> {
    let Some(value) = value else { return Ok(None) };
    match duration::parse(&value.text) {
        None => Err(Problem::new(value.span, format!("`{}` is not a duration", value.text))
            .help(format!("durations are written --{name}=30s, 1m30s or 500ms"))),
        Some(0) => Ok(Some(0)),
        Some(nanoseconds) if nanoseconds < MINIMUM => {
            Err(Problem::new(value.span, format!("--{name} cannot be shorter than 1ms")))
        }
        Some(nanoseconds) => Ok(Some(nanoseconds)),
    }
}

fn retries(value: Option<Word>) -> Outcome<Option<u32>> {
    let Some(value) = value else { return Ok(None) };
    match value.text.parse::<i32>() {
        Ok(count) => match u32::try_from(count) {
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(Problem::new(value.span, format!("--retries cannot be negative ({count})"))),
        },
        Err(_) => Err(Problem::new(value.span, format!("`{}` is not a number of retries", value.text))),
    }
}
