//! Lines that stay, in the manner of `docker build --progress=plain`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, EventSink, Outcome, VertexId, VertexKind};
use crate::visible::{self, visible, visible_line};

use super::{Renderer, text};

/// Writes every event as a line.
pub(super) struct Plain {
    state: Mutex<State>,
    colour: bool,
}

struct State {
    out: Box<dyn Write + Send>,
    vertexes: BTreeMap<VertexId, Vertex>,
    next: usize,
    /// Number of the vertex that printed last.
    last: Option<usize>,
}

struct Vertex {
    name: String,
    kind: VertexKind,
    number: Option<usize>,
    begun: Option<Instant>,
    bytes: BTreeMap<String, u64>,
}

impl Plain {
    pub fn to_stderr(colour: bool) -> Self {
        Self::new(Box::new(io::stderr()), colour)
    }

    fn new(out: Box<dyn Write + Send>, colour: bool) -> Self {
        let state = State { out, vertexes: BTreeMap::new(), next: 1, last: None };
        Plain { state: Mutex::new(state), colour }
    }
}

impl State {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    /// Gives a vertex its number when it first has something to say, and repeats its title when
    /// another one spoke in between.
    fn speak(&mut self, id: VertexId) -> Option<usize> {
        let vertex = self.vertexes.get_mut(&id)?;
        let (number, new) = match vertex.number {
            Some(number) => (number, false),
            None => {
                vertex.number = Some(self.next);
                self.next += 1;
                (self.next - 1, true)
            }
        };
        if new || self.last != Some(number) {
            let title = format!("#{number} {}", vertex.name);
            if self.last.is_some() {
                self.line("");
            }
            self.line(&title);
            self.last = Some(number);
        }
        Some(number)
    }

    fn finished(&mut self, id: VertexId, outcome: &Outcome, elapsed: Duration) {
        let quiet = self.vertexes.get(&id).is_none_or(|vertex| {
            vertex.kind == VertexKind::Internal && *outcome == Outcome::Done
                || *outcome == Outcome::Canceled && vertex.number.is_none()
        });
        if quiet {
            return;
        }
        let Some(number) = self.speak(id) else { return };
        let vertex = self.vertexes.get(&id);
        let moved: u64 = vertex.map_or(0, |vertex| vertex.bytes.values().sum());
        let out = vertex.is_some_and(|vertex| vertex.kind == VertexKind::Export);
        if moved > 0 {
            let verb = if out { "sent" } else { "fetched" };
            self.line(&format!("#{number} {verb} {}", text::size(moved)));
        }
        let end = match outcome {
            Outcome::Done => format!("DONE {}", text::elapsed(elapsed)),
            Outcome::Cached => "CACHED".to_owned(),
            Outcome::Failed(message) => format!("ERROR: {}", visible(message)),
            Outcome::Canceled => "CANCELED".to_owned(),
        };
        self.line(&format!("#{number} {end}"));
    }
}

impl EventSink for Plain {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Added { vertex, kind, name } => {
                let name = visible_line(&name).into_owned();
                let new = Vertex { name, kind, number: None, begun: None, bytes: BTreeMap::new() };
                state.vertexes.insert(vertex, new);
            }
            Event::Started { vertex } => {
                if let Some(vertex) = state.vertexes.get_mut(&vertex) {
                    vertex.begun = Some(Instant::now());
                }
            }
            Event::Log { vertex, line, .. } => {
                let begun = state.vertexes.get(&vertex).and_then(|vertex| vertex.begun);
                let Some(number) = state.speak(vertex) else { return };
                let at = begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
                state.line(&format!("#{number} {at:.3} {}", visible::output(&line, true)));
            }
            Event::Progress { vertex, item, current, .. } => {
                if let Some(vertex) = state.vertexes.get_mut(&vertex) {
                    vertex.bytes.insert(item, current);
                }
            }
            Event::Finished { vertex, outcome, elapsed } => state.finished(vertex, &outcome, elapsed),
            Event::Warning { message, location, rule } => {
                let line = text::warning(&message, location.as_deref(), rule, self.colour);
                state.line(&line);
            }
            Event::Summary(summary) => {
                let line = text::summary(&summary, self.colour);
                state.line(&format!("\n{line}"));
            }
        }
    }
}

impl Renderer for Plain {
    fn finish(&self) {
        let _ = self.state.lock().unwrap_or_else(PoisonError::into_inner).out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Events, Stream};
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn steps_are_numbered_as_they_speak_and_titles_come_back() {
        let page = Page::default();
        let plain = Arc::new(Plain::new(Box::new(page.clone()), false));
        let events = Events::new(plain);
        let hidden = events.add(VertexKind::Internal, "load metadata");
        let first = events.add(VertexKind::Step, "[1/2] FROM busybox");
        let second = events.add(VertexKind::Step, "[2/2] RUN make");
        for vertex in [hidden, first, second] {
            events.send(Event::Started { vertex });
        }
        let done =
            |vertex, outcome| Event::Finished { vertex, outcome, elapsed: Duration::from_millis(1_240) };
        events.send(done(hidden, Outcome::Done));
        events.send(done(first, Outcome::Cached));
        events.send(Event::Log { vertex: second, stream: Stream::Stdout, line: b"cc -o x".to_vec() });
        events.send(done(second, Outcome::Failed("exit code: 2".into())));
        let text =
            String::from_utf8_lossy(&page.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["#1 [1/2] FROM busybox", "#1 CACHED", "", "#2 [2/2] RUN make"]);
        assert!(lines[4].starts_with("#2 0.") && lines[4].ends_with(" cc -o x"), "{}", lines[4]);
        assert_eq!(lines[5], "#2 ERROR: exit code: 2");
    }

    #[test]
    fn nothing_that_others_wrote_drives_the_terminal() {
        let page = Page::default();
        let events = Events::new(Arc::new(Plain::new(Box::new(page.clone()), false)));
        let evil = "\x1b]52;c;eA==\x07\u{202e}\n#9 DONE";
        let vertex = events.add(VertexKind::Step, format!("RUN {evil}"));
        events.send(Event::Started { vertex });
        events.send(Event::Log { vertex, stream: Stream::Stdout, line: evil.as_bytes().to_vec() });
        let (message, location) = (evil.to_owned(), Some(evil.to_owned()));
        events.send(Event::Warning { message, location, rule: None });
        let outcome = Outcome::Failed(evil.into());
        events.send(Event::Finished { vertex, outcome, elapsed: Duration::ZERO });
        let text =
            String::from_utf8_lossy(&page.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned();
        assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text:?}");
        assert!(text.starts_with("#1 RUN \\u{1b}]52;c;eA==\\u{7}\\u{202e} #9 DONE\n"), "{text}");
    }
}
