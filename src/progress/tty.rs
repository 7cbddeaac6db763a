//! A window at the bottom of the terminal: what runs now, with its last lines of output. What has ended scrolls up
//! as one line each; a run of steps from the cache as one line in all.

use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

use crate::cancel::Cancel;
use crate::event::{Event, EventSink, Outcome, VertexKind};

use super::board::{Board, Vertex};
use super::screen::Screen;
use super::text;
use super::width::cut;
use super::window::{Look, Size, window};
use super::{Renderer, Style};

/// Time between frames.
const FRAME: Duration = Duration::from_millis(80);
/// So many steps from the cache in a row are shown one by one.
const ONE_BY_ONE: usize = 3;

/// Draws on standard error.
pub(super) struct Tty {
    shared: Arc<Shared>,
    /// Draws; `None` before anything has begun.
    artist: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    picture: Mutex<Picture>,
    wake: Condvar,
    begun: Instant,
    cancel: Cancel,
}

/// The state of the drawing. Pure but for the terminal's size, which is given.
pub(super) struct Picture {
    board: Board,
    screen: Screen,
    lasting: Vec<Lasting>,
    look: Look,
    done: bool,
}

/// What scrolls up.
enum Lasting {
    /// The name of a step.
    Cached(String),
    /// An ended vertex: its mark and name, and the time it took.
    Ended(String, String, Outcome),
    /// Why what has just ended was not cached.
    Why(String),
    /// Whole lines.
    Text(String),
}

impl Picture {
    pub fn new(look: Look) -> Self {
        Picture { board: Board::default(), screen: Screen::default(), lasting: Vec::new(), look, done: false }
    }

    /// Takes an event.
    pub fn take(&mut self, event: Event, now: Duration) {
        match event {
            Event::Warning { message, location, rule } => {
                let line = text::warning(&message, location.as_deref(), rule, self.look.colour);
                self.lasting.push(Lasting::Text(line));
            }
            Event::Summary(summary) => {
                self.lasting.push(Lasting::Text(text::summary(&summary, self.look.colour)));
            }
            other => {
                if let Some((vertex, outcome, elapsed)) = self.board.take(other, now) {
                    self.ended(vertex, outcome, elapsed);
                }
            }
        }
    }

    fn ended(&mut self, vertex: Vertex, outcome: Outcome, elapsed: Duration) {
        match outcome {
            Outcome::Canceled => {}
            Outcome::Done if vertex.kind == VertexKind::Internal => {}
            Outcome::Cached => self.lasting.push(Lasting::Cached(vertex.name)),
            outcome => {
                let (moved, _) = vertex.moved();
                let mut time = text::elapsed(elapsed);
                if moved > 0 {
                    time = format!("{}, {time}", text::size(moved));
                }
                self.lasting.push(Lasting::Ended(vertex.name, time, outcome));
                self.lasting.extend(vertex.why.map(Lasting::Why));
            }
        }
    }

    /// The bytes of the next frame, `None` where nothing changes.
    pub fn frame(&mut self, now: Duration, size: Size, stopping: bool) -> Option<String> {
        let mut lines = Vec::new();
        let mut cached = Vec::new();
        for one in std::mem::take(&mut self.lasting) {
            if let Lasting::Cached(name) = one {
                cached.push(name);
                continue;
            }
            self.cached(&mut cached, size, &mut lines);
            match one {
                Lasting::Ended(name, time, outcome) => lines.push(self.line(&name, &time, &outcome, size)),
                Lasting::Why(why) => {
                    let ((dim, off), width) = (self.look.dim(), size.columns.saturating_sub(1));
                    lines.push(format!("{dim}{}{off}", cut(&format!("  not cached: {why}"), width)));
                }
                Lasting::Text(text) => lines.push(text),
                Lasting::Cached(_) => {}
            }
        }
        self.cached(&mut cached, size, &mut lines);
        let window = if self.done { Vec::new() } else { window(&self.board, now, size, self.look, stopping) };
        self.screen.frame(&lines, window, size.columns)
    }

    fn line(&self, name: &str, time: &str, outcome: &Outcome, size: Size) -> String {
        let (dim, off) = self.look.dim();
        let (mark, (on, reset)) = match outcome {
            Outcome::Failed(_) => (self.look.failed(), self.look.red()),
            _ => (self.look.done(), self.look.green()),
        };
        let name = cut(name, size.columns.saturating_sub(4 + time.len()).max(10));
        format!("{on}{mark}{reset} {name} {dim}{time}{off}")
    }

    /// Steps from the cache that ended one after the other.
    fn cached(&self, names: &mut Vec<String>, size: Size, lines: &mut Vec<String>) {
        let ((dim, off), done) = (self.look.dim(), self.look.done());
        let names = std::mem::take(names);
        if let [first, .., last] = names.as_slice()
            && names.len() > ONE_BY_ONE
        {
            let text = format!("{done} {} steps CACHED: {} to {}", names.len(), place(first), place(last));
            lines.push(format!("{dim}{}{off}", cut(&text, size.columns.saturating_sub(1))));
            return;
        }
        for name in names {
            let name = cut(&name, size.columns.saturating_sub(10).max(10));
            lines.push(format!("{dim}{done} {name} CACHED{off}"));
        }
    }
}

/// `[build 2/4]` of a step's name.
fn place(name: &str) -> &str {
    name.find(']').filter(|_| name.starts_with('[')).map_or(name, |end| &name[..=end])
}

impl Tty {
    pub fn new(style: Style, cancel: Cancel) -> Self {
        let look = Look { colour: style.colour, unicode: style.unicode };
        let picture = Mutex::new(Picture::new(look));
        let shared = Shared { picture, wake: Condvar::new(), begun: Instant::now(), cancel };
        Tty { shared: Arc::new(shared), artist: Mutex::default() }
    }

    /// Nothing is drawn before something takes its time, so nothing is started before something begins.
    fn start(&self) {
        let mut artist = self.artist.lock().unwrap_or_else(PoisonError::into_inner);
        if artist.is_none() {
            let shared = self.shared.clone();
            let work = move || shared.draw_until_done();
            *artist = std::thread::Builder::new().name("progress".into()).spawn(work).ok();
        }
    }
}

impl Shared {
    fn draw_until_done(&self) {
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        while !picture.done {
            picture = self.wake.wait_timeout(picture, FRAME).map_or_else(|e| e.into_inner().0, |ok| ok.0);
            self.draw(&mut picture);
        }
    }

    fn draw(&self, picture: &mut Picture) {
        let frame = picture.frame(self.begun.elapsed(), size(), self.cancel.is_cancelled());
        if let Some(frame) = frame {
            // A terminal that has gone is no reason to fail.
            let _ = io::stderr().write_all(frame.as_bytes());
        }
    }
}

fn size() -> Size {
    match tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => Size { columns: 80, rows: 24 },
    }
}

impl EventSink for Tty {
    fn event(&self, event: Event) {
        if matches!(event, Event::Started { .. }) {
            self.start();
        }
        let mut picture = self.shared.picture.lock().unwrap_or_else(PoisonError::into_inner);
        if !picture.done {
            picture.take(event, self.shared.begun.elapsed());
        }
    }

    fn separates_streams(&self) -> bool {
        false
    }
}

impl Renderer for Tty {
    fn finish(&self) {
        let mut picture = self.shared.picture.lock().unwrap_or_else(PoisonError::into_inner);
        if !picture.done {
            picture.done = true;
            self.shared.draw(&mut picture);
        }
        drop(picture);
        self.shared.wake.notify_all();
        let artist = self.artist.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(artist) = artist {
            let _ = artist.join();
        }
    }
}

#[cfg(test)]
mod tests;
