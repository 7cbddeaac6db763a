//! Renderers of build events: plain, tty, rawjson, quiet.
//!
//! Owns how progress looks ([docs/ui.md](../../docs/ui.md)); every renderer draws the same stream of events.
//! Everything goes to standard error, so that standard output stays for results. What is drawn is decided by pure
//! code ([`mux`], [`window`], [`screen`]) from events and times; [`plain`] and [`tty`] have the clocks and write.
//! Must never influence a build.

mod board;
mod ci;
mod clock;
mod ledger;
mod mux;
mod plain;
mod rawjson;
mod screen;
mod text;
mod tty;
pub(crate) mod width;
mod window;

use std::io::{self, Write as _};
use std::sync::Arc;

pub use ci::{Annotation, Ci, Level};
pub use ledger::{Ledger, Locate, Row};
pub use text::{elapsed, whole_seconds};

use crate::cancel::Cancel;
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

/// What the reader of standard error can show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// Colours of rbuild's own.
    pub colour: bool,
    /// Colours in what steps print.
    pub output_colour: bool,
    /// Characters beyond ASCII.
    pub unicode: bool,
    /// The log is that of a service, which folds groups and shows annotations.
    pub ci: Option<Ci>,
}

/// A renderer, with an end.
pub trait Renderer: EventSink {
    /// Puts the terminal in order; nothing is drawn afterwards.
    fn finish(&self);

    /// Whether the last lines of a step's output are what stands at the end already.
    fn shows_end_of(&self, _step: &str) -> bool {
        false
    }
}

/// Makes a renderer. `cancel` is only looked at, to show that the build is being stopped.
pub fn renderer(mode: Mode, style: Style, cancel: &Cancel) -> Arc<dyn Renderer> {
    match mode {
        Mode::Plain => Arc::new(plain::Plain::to_stderr(style)),
        Mode::Tty => Arc::new(tty::Tty::new(style, cancel.clone())),
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

    fn separates_streams(&self) -> bool {
        false
    }
}

impl Renderer for Nothing {
    fn finish(&self) {}
}
