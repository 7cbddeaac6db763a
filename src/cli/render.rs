//! Failures as people read them: what, where, the last output, what to do.

use std::io::Write as _;

use crate::build::Failure;
use crate::dockerfile::render_error;
use crate::progress::visible;

use super::environment::Environment;

/// Prints a failure to standard error; the only place that does.
pub(super) fn failure(failure: &Failure, env: &Environment) {
    // Where nobody can be told, the exit code still says it.
    let _ = std::io::stderr().write_all(text(failure, env.colour).as_bytes());
}

fn text(failure: &Failure, colour: bool) -> String {
    let (bold, red, dim, off) =
        if colour { ("\x1b[1m", "\x1b[31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "", "") };
    let mut out = String::new();
    if !failure.tail.is_empty() {
        let step = failure.step.as_deref().unwrap_or("the step");
        out.push_str(&format!("\n{bold}Last output of {step}:{off}\n"));
        for line in &failure.tail {
            out.push_str(&format!("{dim}  | {off}{}\n", visible(&line.replace('\x1b', "^["))));
        }
        out.push('\n');
    }
    let (message, help) = (visible(&failure.message), failure.help.as_deref().map(visible));
    match &failure.place {
        Some((source, span)) => {
            out.push_str(&render_error(source, *span, &message, help.as_deref(), colour));
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
        None => {
            out.push_str(&format!("{red}{bold}error{off}{bold}: {message}{off}\n"));
            if let Some(help) = help {
                out.push_str(&format!("{bold}help{off}: {help}\n"));
            }
        }
    }
    out
}
