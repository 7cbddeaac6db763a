//! Renderers of build events: plain, tty, rawjson, quiet.
//!
//! Owns how progress looks; every renderer draws the same stream of events. Everything goes to
//! standard error, so that standard output stays for results. Must never influence a build.

mod plain;
mod rawjson;
mod text;
mod tty;

use std::io::{self, Write as _};
use std::sync::Arc;

use crate::event::{Event, EventSink};

/// Which renderer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Lines that stay.
    Plain,
    /// A window that moves.
    Tty,
    /// One JSON object a line.
    RawJson,
    /// Nothing.
    Quiet,
    /// Warnings only.
    Warnings,
}

/// A renderer, with an end.
pub trait Renderer: EventSink {
    /// Puts the terminal in order; nothing is drawn afterwards.
    fn finish(&self);
}

/// Makes a renderer.
pub fn renderer(mode: Mode, colour: bool) -> Arc<dyn Renderer> {
    match mode {
        Mode::Plain => Arc::new(plain::Plain::to_stderr(colour)),
        Mode::Tty => Arc::new(tty::Tty::new(colour)),
        Mode::RawJson => Arc::new(rawjson::RawJson::to_stderr()),
        Mode::Quiet => Arc::new(Nothing { warnings: false }),
        Mode::Warnings => Arc::new(Nothing { warnings: true }),
    }
}

struct Nothing {
    warnings: bool,
}

impl EventSink for Nothing {
    fn event(&self, event: Event) {
        if let (true, Event::Warning { message, location, rule }) = (self.warnings, event) {
            // A closed terminal is no reason to fail.
            let _ = writeln!(io::stderr(), "{}", text::warning(&message, location.as_deref(), rule, false));
        }
    }
}

impl Renderer for Nothing {
    fn finish(&self) {}
}
