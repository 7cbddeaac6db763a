//! Failures as people read them: what, where, the last output, what to do.

use std::io::Write as _;

use crate::build::Failure;
use crate::dockerfile::render_error;
use crate::visible::{self, visible, visible_line};

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
        let step = visible_line(failure.step.as_deref().unwrap_or("the step"));
        out.push_str(&format!("\n{bold}Last output of {step}:{off}\n"));
        for line in &failure.tail {
            out.push_str(&format!("{dim}  | {off}{}\n", visible::output(line.as_bytes(), colour)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::FailureKind;
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
