//! The order of lines where several steps speak at once. Pure: events and times in, text out.
//!
//! As BuildKit's plain progress, it stays with one step for seconds and marks that it turns to another one with
//! `#N ...`. Other steps' lines wait meanwhile. Unlike there, a step's title appears as soon as it executes, and
//! a step that prints nothing is mentioned from time to time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{Event, Outcome, VertexId, VertexKind};
use crate::visible::{self, visible, visible_line};

use super::ci::{Annotation, Ci, Level};
use super::text;

/// So long at least lines of one step stay together while others wait.
const STAY: Duration = Duration::from_secs(5);
/// So long a step may be silent before it is mentioned, each time.
const SILENCE: Duration = Duration::from_secs(30);
/// The same part of a transfer is not reported more often, and not at all if it takes less than a second.
const NEWS: Duration = Duration::from_secs(5);
/// Bytes of waiting lines for which a step gets its turn at once.
const WAITING: usize = 256 * 1024;

/// Lines in order.
pub(super) struct Mux {
    vertexes: BTreeMap<VertexId, Vertex>,
    numbers: usize,
    /// Whose lines come as they are.
    current: Option<VertexId>,
    since: Duration,
    /// Something was written, so that a blank line divides it from what follows.
    begun: bool,
    /// The vertex whose output came last, and the lines after it.
    last_output: Option<(VertexId, usize)>,
    colour: bool,
    output_colour: bool,
    groups: Option<Groups>,
    out: Vec<u8>,
}

/// Groups in the log of a service, one for the lines of each turn of a step that executes.
struct Groups {
    ci: Ci,
    /// When the build began, in seconds since 1970.
    begun: u64,
    count: usize,
    /// The name and the title of the group that is open.
    open: Option<(String, String)>,
}

struct Vertex {
    name: String,
    kind: VertexKind,
    number: Option<usize>,
    begun: Option<Duration>,
    /// Why it has no result that an earlier build had; until it was said.
    why: Option<String>,
    /// It takes its time, so that silence is worth a word.
    executing: bool,
    heard: Duration,
    waiting: Vec<u8>,
    waiting_since: Duration,
    parts: BTreeMap<String, Part>,
}

struct Part {
    current: u64,
    told: Duration,
    done: bool,
}

impl Mux {
    /// With groups for `ci`, where `begun` is the time in seconds since 1970.
    pub fn with_groups(mut self, ci: Ci, begun: u64) -> Self {
        self.groups = Some(Groups { ci, begun, count: 0, open: None });
        self
    }

    pub fn new(colour: bool, output_colour: bool) -> Self {
        Mux {
            vertexes: BTreeMap::new(),
            numbers: 0,
            current: None,
            since: Duration::ZERO,
            begun: false,
            last_output: None,
            colour,
            output_colour,
            groups: None,
            out: Vec::new(),
        }
    }

    /// What is to be written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether the end of this step's output is what was written last, but for a few lines.
    pub fn ends_with_output_of(&self, step: &str) -> bool {
        let name = visible_line(step);
        self.last_output.is_some_and(|(vertex, lines_after)| {
            lines_after <= 4 && self.vertexes.get(&vertex).is_some_and(|vertex| vertex.name == name)
        })
    }

    /// Whether time alone can make something appear.
    pub fn needs_time(&self) -> bool {
        self.vertexes.values().any(|vertex| vertex.executing || !vertex.waiting.is_empty())
    }

    fn line(&mut self, text: &str) {
        match &self.groups {
            Some(groups) => self.out.extend_from_slice(groups.ci.harmless(text).as_bytes()),
            None => self.out.extend_from_slice(text.as_bytes()),
        }
        self.end_line();
    }

    /// A line that is meant for the service.
    fn command(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.end_line();
    }

    fn end_line(&mut self) {
        self.out.push(b'\n');
        self.begun = true;
        if let Some((_, after)) = &mut self.last_output {
            *after += 1;
        }
    }

    fn open_group(&mut self, title: &str, now: Duration) {
        let Some(groups) = &mut self.groups else { return };
        groups.count += 1;
        let name = format!("rbuild_{}", groups.count);
        let line = groups.ci.open(&name, title, groups.begun + now.as_secs());
        groups.open = Some((name, title.to_owned()));
        self.command(&line);
    }

    fn close_group(&mut self, now: Duration) {
        let Some(groups) = &mut self.groups else { return };
        let Some((name, title)) = groups.open.take() else { return };
        let line = groups.ci.close(&name, &title, groups.begun + now.as_secs());
        self.command(&line);
    }

    fn number(&mut self, id: VertexId) -> Option<usize> {
        let vertex = self.vertexes.get_mut(&id)?;
        if vertex.number.is_none() {
            self.numbers += 1;
            vertex.number = Some(self.numbers);
        }
        vertex.number
    }

    /// Turns to a vertex: its number, its title, and what waited.
    fn turn_to(&mut self, id: VertexId, now: Duration) -> Option<usize> {
        let number = self.number(id)?;
        if self.current == Some(id) {
            return Some(number);
        }
        if let Some(old) = self.current.and_then(|old| self.vertexes.get(&old)).and_then(|old| old.number) {
            self.line(&format!("#{old} ..."));
        }
        self.close_group(now);
        if self.begun {
            self.line("");
        }
        let vertex = self.vertexes.get_mut(&id)?;
        let (title, waiting) = (format!("#{number} {}", vertex.name), std::mem::take(&mut vertex.waiting));
        let has_lines = vertex.executing || !waiting.is_empty();
        match self.groups.is_some() && has_lines {
            true => self.open_group(&title, now),
            false => self.line(&title),
        }
        if !waiting.is_empty() {
            self.out.extend_from_slice(&waiting);
            self.last_output = Some((id, 0));
        }
        (self.current, self.since) = (Some(id), now);
        Some(number)
    }

    /// A line of a vertex: at once, or when it has its turn.
    fn say(&mut self, id: VertexId, text: &str, now: Duration) {
        let is_free = self.current.is_none() || self.current == Some(id);
        let Some(vertex) = self.vertexes.get_mut(&id) else { return };
        vertex.heard = now;
        if !is_free && now.saturating_sub(self.since) < STAY && vertex.waiting.len() < WAITING {
            if vertex.waiting.is_empty() {
                vertex.waiting_since = now;
            }
            let text = self.groups.as_ref().map_or(text.into(), |groups| groups.ci.harmless(text));
            vertex.waiting.extend_from_slice(text.as_bytes());
            vertex.waiting.push(b'\n');
            return;
        }
        self.turn_to(id, now);
        self.line(text);
        self.last_output = Some((id, 0));
    }

    /// Takes an event.
    pub fn take(&mut self, event: Event, now: Duration) {
        match event {
            Event::Added { vertex, kind, name, .. } => {
                self.vertexes.insert(vertex, Vertex::new(visible_line(&name).into_owned(), kind));
            }
            Event::Started { vertex } => self.started(vertex, now),
            Event::Missed { vertex, why, .. } => {
                if let Some(vertex) = self.vertexes.get_mut(&vertex) {
                    vertex.why = Some(visible_line(&why).into_owned());
                }
            }
            Event::Executing { vertex } => self.executing(vertex, now),
            Event::Log { vertex, line, .. } => {
                let begun = self.vertexes.get(&vertex).and_then(|vertex| vertex.begun);
                let at = begun.map_or(0, |begun| (now.saturating_sub(begun).as_micros() + 500) / 1000);
                if let Some(number) = self.number(vertex) {
                    let line = visible::output(&line, self.output_colour);
                    self.say(vertex, &format!("#{number} {}.{:03} {line}", at / 1000, at % 1000), now);
                }
            }
            Event::Unfinished { vertex, .. } => {
                if let Some(vertex) = self.vertexes.get_mut(&vertex) {
                    vertex.heard = now;
                }
            }
            Event::Progress { vertex, item, current, total } => {
                self.progress(vertex, item, (current, total), now);
            }
            Event::Finished { vertex, outcome, elapsed } => self.finished(vertex, &outcome, elapsed, now),
            Event::Warning { message, location, rule } => {
                self.warning(&message, location.as_deref(), rule);
            }
            Event::Delivered(_) => {}
            Event::Summary(summary) => {
                let line = text::summary(&summary, self.colour);
                self.line(&format!("\n{line}"));
            }
        }
    }

    /// A warning, in the words of the service where it has some: those are shown in the log as well.
    fn warning(&mut self, message: &str, location: Option<&str>, rule: Option<&'static str>) {
        let place = location.and_then(|location| {
            let (file, line) = location.rsplit_once(':')?;
            Some((file, line.parse().ok()?))
        });
        let shown = visible(message);
        let annotation = Annotation { level: Level::Warning, message: &shown, title: rule, place };
        match self.groups.as_ref().and_then(|groups| groups.ci.annotation(&annotation)) {
            Some(line) => self.command(&line),
            None => self.line(&text::warning(message, location, rule, self.colour)),
        }
    }

    fn started(&mut self, id: VertexId, now: Duration) {
        let Some(vertex) = self.vertexes.get_mut(&id) else { return };
        (vertex.begun, vertex.heard) = (Some(now), now);
        match vertex.kind {
            // Whether a step executes or comes from the cache shows in a moment.
            VertexKind::Step | VertexKind::Internal => {}
            VertexKind::Transfer | VertexKind::Export => self.executing(id, now),
        }
    }

    fn executing(&mut self, id: VertexId, now: Duration) {
        let Some(vertex) = self.vertexes.get_mut(&id) else { return };
        (vertex.executing, vertex.heard) = (true, now);
        if self.current.is_none() {
            self.turn_to(id, now);
        } else if self.current != Some(id) {
            // Known by name from now on, without a turn.
            self.title(id);
        }
        let why = self.vertexes.get_mut(&id).and_then(|vertex| vertex.why.take());
        if let (Some(why), Some(number)) = (why, self.number(id)) {
            self.line(&format!("#{number} not cached: {why}"));
        }
    }

    /// A vertex's title between the lines of another one.
    fn title(&mut self, id: VertexId) {
        let Some(number) = self.number(id) else { return };
        let title = self.vertexes.get(&id).map(|vertex| format!("#{number} {}", vertex.name));
        self.line(&title.unwrap_or_default());
    }

    fn progress(&mut self, id: VertexId, item: String, (current, total): (u64, Option<u64>), now: Duration) {
        let Some(vertex) = self.vertexes.get_mut(&id) else { return };
        vertex.heard = now;
        let begun = vertex.begun.unwrap_or(now);
        let name = visible_line(&item).into_owned();
        let part = vertex.parts.entry(item).or_insert(Part { current: 0, told: begun, done: false });
        part.current = current;
        let done = total.is_some_and(|total| current >= total);
        let worth = if done {
            now.saturating_sub(begun) >= Duration::from_secs(1)
        } else {
            now.saturating_sub(part.told) >= NEWS
        };
        if part.done || !worth {
            part.done |= done;
            return;
        }
        (part.told, part.done) = (now, done);
        let Some(number) = self.number(id) else { return };
        let of = total.map_or_else(String::new, |total| format!(" / {}", text::size(total)));
        let end = if done { " done" } else { "" };
        let time = text::elapsed(now.saturating_sub(begun));
        self.say(id, &format!("#{number} {name} {}{of} {time}{end}", text::size(current)), now);
    }

    fn finished(&mut self, id: VertexId, outcome: &Outcome, elapsed: Duration, now: Duration) {
        let Some(vertex) = self.vertexes.get_mut(&id) else { return };
        vertex.executing = false;
        let silent = vertex.number.is_none()
            && (*outcome == Outcome::Canceled
                || vertex.kind == VertexKind::Internal && *outcome == Outcome::Done);
        if silent {
            return;
        }
        let moved: u64 = vertex.parts.values().map(|part| part.current).sum();
        let verb = if vertex.kind == VertexKind::Export { "sent" } else { "fetched" };
        // What was named and has nothing more to say ends between the lines of another one.
        let briefly = self.current.is_some_and(|current| current != id)
            && vertex.number.is_some()
            && vertex.waiting.is_empty()
            && *outcome == Outcome::Done;
        let number = if briefly { self.number(id) } else { self.turn_to(id, now) };
        let Some(number) = number else { return };
        if moved > 0 {
            self.line(&format!("#{number} {verb} {}", text::size(moved)));
        }
        let end = match outcome {
            Outcome::Done => format!("DONE {}", text::elapsed(elapsed)),
            Outcome::Cached => "CACHED".to_owned(),
            Outcome::Failed(message) => format!("ERROR: {}", visible(message)),
            Outcome::Canceled => "CANCELED".to_owned(),
        };
        self.line(&format!("#{number} {end}"));
        if !briefly {
            self.close_group(now);
            self.current = None;
            self.next(now);
        }
    }

    /// Turns to the vertex whose lines wait longest.
    fn next(&mut self, now: Duration) {
        let waiting = self.vertexes.iter().filter(|(_, vertex)| !vertex.waiting.is_empty());
        let oldest = waiting.min_by_key(|(_, vertex)| vertex.waiting_since).map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.turn_to(id, now);
        }
    }

    /// What time alone makes appear.
    pub fn tick(&mut self, now: Duration) {
        if self.current.is_none() || now.saturating_sub(self.since) >= STAY {
            self.next(now);
        }
        let silent: Vec<VertexId> = self
            .vertexes
            .iter()
            .filter(|(_, vertex)| vertex.executing && now.saturating_sub(vertex.heard) >= SILENCE)
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            let Some(number) = self.number(id) else { continue };
            let Some(vertex) = self.vertexes.get_mut(&id) else { continue };
            vertex.heard = now;
            let time = text::whole_seconds(now.saturating_sub(vertex.begun.unwrap_or(now)).as_secs());
            self.line(&format!("#{number} still running after {time}, no output for the last 30s"));
        }
    }
}

impl Vertex {
    fn new(name: String, kind: VertexKind) -> Self {
        Vertex {
            name,
            kind,
            number: None,
            begun: None,
            why: None,
            executing: false,
            heard: Duration::ZERO,
            waiting: Vec::new(),
            waiting_since: Duration::ZERO,
            parts: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
