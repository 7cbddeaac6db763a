//! Lines that stay, in the manner of `docker build --progress=plain`.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::event::{Event, EventSink};

use super::clock::{Clock, TICK};
use super::mux::Mux;
use super::{Renderer, Style};

/// Bytes that are written at once.
const FULL: usize = 32 * 1024;

/// Writes every event as a line.
pub(super) struct Plain {
    shared: Arc<Shared>,
    clock: Clock,
}

struct Shared {
    page: Mutex<Page>,
    begun: Instant,
}

struct Page {
    mux: Mux,
    out: Box<dyn Write + Send>,
    written: Instant,
    /// A thread writes what is left to it.
    has_clock: bool,
}

impl Plain {
    pub fn to_stderr(style: Style) -> Self {
        let mut mux = Mux::new(style.colour, style.output_colour);
        if let Some(ci) = style.ci {
            let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            mux = mux.with_groups(ci, begun.as_secs());
        }
        let (out, now) = (Box::new(io::stderr()), Instant::now());
        let page = Page { mux, out, written: now, has_clock: false };
        Plain { shared: Arc::new(Shared { page: Mutex::new(page), begun: now }), clock: Clock::default() }
    }

    /// Only a step that executes can be silent or make others wait: a build from the cache needs no clock.
    fn start_clock(&self) {
        let shared = self.shared.clone();
        let is_started = self.clock.start(move || shared.look());
        self.shared.page().has_clock = is_started;
    }
}

impl Shared {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let mut page = self.page();
        if page.mux.needs_time() {
            page.mux.tick(self.begun.elapsed());
        }
        page.write();
    }
}

impl Page {
    fn write(&mut self) {
        let text = self.mux.out();
        if !text.is_empty() {
            // A closed terminal is no reason to fail.
            let _ = self.out.write_all(text);
            text.clear();
            self.written = Instant::now();
        }
    }
}

impl EventSink for Plain {
    fn event(&self, event: Event) {
        if matches!(event, Event::Executing { .. } | Event::Progress { .. }) {
            self.start_clock();
        }
        let is_output = matches!(event, Event::Log { .. });
        let mut page = self.shared.page();
        page.mux.take(event, self.shared.begun.elapsed());
        // Of much output, many lines are written at once.
        let later =
            is_output && page.has_clock && page.mux.out().len() < FULL && page.written.elapsed() < TICK;
        if !later {
            page.write();
        }
    }

    fn separates_streams(&self) -> bool {
        false
    }
}

impl Renderer for Plain {
    fn finish(&self) {
        self.clock.stop();
        let mut page = self.shared.page();
        page.has_clock = false;
        page.write();
        let _ = page.out.flush();
    }

    fn shows_end_of(&self, step: &str) -> bool {
        self.shared.page().mux.ends_with_output_of(step)
    }
}
