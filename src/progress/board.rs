//! What is known of a build so far, folded from its events. Pure: times are those since the renderer began.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::{Event, Outcome, VertexId, VertexKind};
use crate::visible::visible_line;

/// Lines of output kept of a running step.
pub(super) const TAIL: usize = 6;
/// Bytes kept of such a line: no terminal is wider.
const LINE: usize = 2048;

/// All vertexes that have not ended, and the count of steps.
#[derive(Default)]
pub(super) struct Board {
    running: BTreeMap<VertexId, Vertex>,
    steps: usize,
    ended: usize,
    failed: bool,
}

/// A vertex that waits or works.
pub(super) struct Vertex {
    /// Safe to show, on one line.
    pub name: String,
    pub kind: VertexKind,
    /// Why it has no result that an earlier build had.
    pub why: Option<String>,
    /// When it began; `None` while it waits.
    pub begun: Option<Duration>,
    /// Its last lines, as the process wrote them.
    pub tail: VecDeque<Vec<u8>>,
    /// What there is of the next line.
    pub unfinished: Vec<u8>,
    /// Bytes of each of its parts, done and in all.
    pub bytes: BTreeMap<String, (u64, Option<u64>)>,
    /// When bytes were first reported.
    pub bytes_since: Duration,
}

impl Board {
    /// Takes what concerns running vertexes; gives the one that has ended.
    pub fn take(&mut self, event: Event, now: Duration) -> Option<(Vertex, Outcome, Duration)> {
        match event {
            Event::Added { vertex, kind, name, .. } => {
                self.steps += usize::from(kind == VertexKind::Step);
                self.running.insert(vertex, Vertex::new(visible_line(&name).into_owned(), kind));
            }
            Event::Started { vertex } => {
                if let Some(vertex) = self.running.get_mut(&vertex) {
                    vertex.begun = Some(now);
                }
            }
            Event::Log { vertex, line, .. } => {
                if let Some(vertex) = self.running.get_mut(&vertex) {
                    vertex.add_line(line);
                }
            }
            Event::Unfinished { vertex, line } => {
                if let Some(vertex) = self.running.get_mut(&vertex) {
                    vertex.unfinished = line;
                }
            }
            Event::Progress { vertex, item, current, total } => {
                if let Some(vertex) = self.running.get_mut(&vertex) {
                    if vertex.bytes.is_empty() {
                        vertex.bytes_since = now;
                    }
                    vertex.bytes.insert(item, (current, total));
                }
            }
            Event::Finished { vertex, outcome, elapsed } => {
                let vertex = self.running.remove(&vertex)?;
                self.ended += usize::from(vertex.kind == VertexKind::Step);
                self.failed |= matches!(outcome, Outcome::Failed(_));
                return Some((vertex, outcome, elapsed));
            }
            Event::Missed { vertex, why, .. } => {
                if let Some(vertex) = self.running.get_mut(&vertex) {
                    vertex.why = Some(visible_line(&why).into_owned());
                }
            }
            Event::Executing { .. } | Event::Warning { .. } | Event::Delivered(_) | Event::Summary(_) => {}
        }
        None
    }

    /// Those at work for at least `patience`, the longest first.
    pub fn at_work(&self, now: Duration, patience: Duration) -> Vec<&Vertex> {
        let mut all: Vec<&Vertex> = self
            .running
            .values()
            .filter(|vertex| vertex.begun.is_some_and(|begun| now.saturating_sub(begun) >= patience))
            .collect();
        all.sort_by_key(|vertex| vertex.begun);
        all
    }

    /// Whether a vertex has failed, which stops the others.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Steps that have ended, and steps in all.
    pub fn counts(&self) -> (usize, usize) {
        (self.ended, self.steps)
    }
}

impl Vertex {
    fn new(name: String, kind: VertexKind) -> Self {
        Vertex {
            name,
            kind,
            why: None,
            begun: None,
            tail: VecDeque::new(),
            unfinished: Vec::new(),
            bytes: BTreeMap::new(),
            bytes_since: Duration::ZERO,
        }
    }

    fn add_line(&mut self, mut line: Vec<u8>) {
        // What a progress bar shows last is at the end; of other long lines, the beginning is more telling.
        if line.len() > LINE && !line.contains(&b'\r') {
            line.truncate(LINE);
        }
        self.unfinished.clear();
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// Bytes done, and in all where every part knows that.
    pub fn moved(&self) -> (u64, Option<u64>) {
        let done = self.bytes.values().map(|(current, _)| current).sum();
        let total = self.bytes.values().map(|(_, total)| *total).sum();
        (done, total)
    }
}
