//! Failures as people read them: what, where, the last output, what to do.

use std::io::Write as _;

use crate::build::{Failure, FailureKind};
use crate::dockerfile::{render_error, render_failed};
use crate::visible::{self, visible, visible_line};

use super::environment::Environment;

/// Prints a failure to standard error; the only place that does.
pub(super) fn failure(failure: &Failure, env: &Environment) {
    // Where nobody can be told, the exit code still says it.
    let text = super::ci::failure(failure, text(failure, env.colour), env);
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn text(failure: &Failure, colour: bool) -> String {
    let (bold, red, dim, off) =
        if colour { ("\x1b[1m", "\x1b[31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "", "") };
    if failure.kind == FailureKind::Interrupted {
        return format!("rbuild: {}\n", visible(&failure.message));
    }
    let mut out = String::new();
    if !failure.tail.is_empty() {
        // The instruction itself comes below, whole.
        let step = visible_line(failure.step.as_deref().unwrap_or("the step"));
        let step = match step.find(']') {
            Some(end) if step.starts_with('[') => &step[..=end],
            _ => &step,
        };
        out.push_str(&format!("\n{bold}Last output of {step}:{off}\n"));
        for line in &failure.tail {
            out.push_str(&format!("{dim}  | {off}{}\n", visible::output(line.as_bytes(), colour)));
        }
        out.push('\n');
    }
    if failure.tail.is_empty() && failure.step.is_some() {
        // The lines above are the step's.
        out.push('\n');
    }
    let (message, help) = (visible(&failure.message), failure.help.as_deref().map(visible));
    match &failure.place {
        Some((source, span)) => {
            let render = if failure.kind == FailureKind::Dockerfile { render_error } else { render_failed };
            out.push_str(&render(source, *span, &message, help.as_deref(), colour));
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
    if let Some(log) = &failure.log {
        out.push_str(&format!(
            "{bold}all of its output{off}: {}\n",
            visible_line(&log.display().to_string())
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{Source, Span};

    #[test]
    fn failures_show_text_of_others_without_its_effect() {
        let evil = "\x1b]52;c;eA==\x07\x1b[2J\u{202e}";
        let source = Source::new(format!("d{evil}/Dockerfile"), format!("RUN {evil}echo\n"));
        for place in [None, Some((source, Span::new(0, 3)))] {
            let failure = Failure {
                place,
                step: Some(format!("[1/2] RUN {evil}")),
                tail: vec![evil.to_owned(), format!("\x1b[31mred{evil}")],
                ..Failure::new(FailureKind::Build, evil).help(evil)
            };
            let shown = text(&failure, false);
            assert!(!shown.contains(['\x1b', '\x07', '\u{202e}']), "{shown:?}");
            assert!(shown.contains("\\u{202e}"), "{shown}");
        }
    }
}
