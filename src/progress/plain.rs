//! Lines that stay, in the manner of `docker build --progress=plain`.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::event::{Event, EventSink};

use super::mux::Mux;
use super::{Renderer, Style};

/// Time between looks at what time alone makes appear, and the longest that a line waits for others to be
/// written with it.
const TICK: Duration = Duration::from_millis(50);
/// Bytes that are written at once.
const FULL: usize = 32 * 1024;

/// Writes every event as a line.
pub(super) struct Plain {
    shared: Arc<Shared>,
    clock: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    page: Mutex<Page>,
    wake: Condvar,
    begun: Instant,
}

struct Page {
    mux: Mux,
    out: Box<dyn Write + Send>,
    written: Instant,
    /// A thread writes what is left to it.
    has_clock: bool,
    done: bool,
}

impl Plain {
    pub fn to_stderr(style: Style) -> Self {
        let mut mux = Mux::new(style.colour, style.output_colour);
        if let Some(ci) = style.ci {
            let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            mux = mux.with_groups(ci, begun.as_secs());
        }
        let (out, now) = (Box::new(io::stderr()), Instant::now());
        let page = Page { mux, out, written: now, has_clock: false, done: false };
        let shared = Shared { page: Mutex::new(page), wake: Condvar::new(), begun: now };
        Plain { shared: Arc::new(shared), clock: Mutex::default() }
    }

    /// Only a step that executes can be silent or make others wait: a build from the cache needs no clock.
    fn start_clock(&self) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.is_none() {
            let shared = self.shared.clone();
            let work = move || shared.tick_until_done();
            *clock = std::thread::Builder::new().name("progress".into()).spawn(work).ok();
        }
    }
}

impl Shared {
    fn tick_until_done(&self) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        page.has_clock = true;
        while !page.done {
            page = self.wake.wait_timeout(page, TICK).map_or_else(|e| e.into_inner().0, |ok| ok.0);
            if page.mux.needs_time() {
                page.mux.tick(self.begun.elapsed());
            }
            page.write();
        }
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
        let mut page = self.shared.page.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut page = self.shared.page.lock().unwrap_or_else(PoisonError::into_inner);
        page.done = true;
        page.write();
        let _ = page.out.flush();
        drop(page);
        self.shared.wake.notify_all();
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(clock) = clock {
            let _ = clock.join();
        }
    }

    fn shows_end_of(&self, step: &str) -> bool {
        self.shared.page.lock().unwrap_or_else(PoisonError::into_inner).mux.ends_with_output_of(step)
    }
}
