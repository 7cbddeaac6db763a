//! One JSON object a line, in the shape of BuildKit's `SolveStatus`: its own types decode it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::event::{Event, EventSink, Outcome, Stream, VertexId, VertexKind};
use crate::lint::RULES;
use crate::visible::visible_json;

use super::Renderer;
use super::clock::{Clock, TICK};

/// Bytes of output that one object has at most, unless one line is longer.
const FULL: usize = 16 * 1024;

/// Writes events as JSON lines.
pub(super) struct RawJson {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

struct State {
    out: Box<dyn Write + Send>,
    vertexes: BTreeMap<VertexId, Vertex>,
    /// Warnings need a vertex to be shown by; BuildKit's have that which read the Dockerfile.
    first: Option<VertexId>,
    /// Lines that are written as one object, as BuildKit does it with what it reads at once.
    lines: Option<Lines>,
    /// A thread writes lines that wait.
    has_clock: bool,
}

/// Lines of one stream that came one after the other.
struct Lines {
    vertex: VertexId,
    stream: Stream,
    data: Vec<u8>,
    since: Instant,
    timestamp: String,
}

struct Vertex {
    digest: String,
    name: String,
    inputs: Vec<String>,
    started: Option<String>,
    parts: BTreeMap<String, Part>,
}

struct Part {
    started: String,
    current: u64,
    total: Option<u64>,
    completed: bool,
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Vertexes have running numbers here and digests in the format.
fn digest(vertex: VertexId, name: &str) -> String {
    Digest::of(format!("{} {name}", vertex.0).as_bytes()).to_string()
}

impl RawJson {
    pub fn to_stderr() -> Self {
        RawJson { state: Arc::new(Mutex::new(State::new(Box::new(io::stderr())))), clock: Clock::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vertex {
    fn json(&self) -> Value {
        let mut value = json!({"digest": self.digest, "name": self.name});
        if !self.inputs.is_empty() {
            value["inputs"] = json!(self.inputs);
        }
        if let Some(started) = &self.started {
            value["started"] = json!(started);
        }
        value
    }

    fn status(&self, id: &str, part: &Part) -> Value {
        let time = now();
        let mut value = json!({
            "id": id, "vertex": self.digest, "current": part.current, "total": part.total.unwrap_or(0),
            "timestamp": time, "started": part.started,
        });
        if part.completed {
            value["completed"] = json!(time);
        }
        value
    }
}

impl State {
    fn new(out: Box<dyn Write + Send>) -> Self {
        State { out, vertexes: BTreeMap::new(), first: None, lines: None, has_clock: false }
    }

    fn take(&mut self, event: Event) {
        if let Event::Log { vertex, stream, line } = event {
            return self.line(vertex, stream, &line);
        }
        if let Some(status) = self.status(event) {
            self.write_lines();
            let mut line = visible_json(&status.to_string()).into_owned();
            line.push('\n');
            // A closed pipe is no reason to fail.
            let _ = self.out.write_all(line.as_bytes());
        }
    }

    fn line(&mut self, vertex: VertexId, stream: Stream, line: &[u8]) {
        let is_next = |lines: &Lines| {
            (lines.vertex, lines.stream) == (vertex, stream) && lines.data.len() + line.len() < FULL
        };
        if !self.lines.as_ref().is_some_and(is_next) {
            self.write_lines();
        }
        let begin = || Lines { vertex, stream, data: Vec::new(), since: Instant::now(), timestamp: now() };
        let lines = self.lines.get_or_insert_with(begin);
        lines.data.extend_from_slice(line);
        lines.data.push(b'\n');
        if !self.has_clock || lines.since.elapsed() >= TICK {
            self.write_lines();
        }
    }

    fn write_lines(&mut self) {
        let Some(lines) = self.lines.take() else { return };
        let stream = if lines.stream == Stream::Stdout { 1 } else { 2 };
        // Digests, base64 and times need no quoting.
        let mut out = format!(
            "{{\"logs\":[{{\"vertex\":\"{}\",\"stream\":{stream},\"timestamp\":\"{}\",\"data\":\"",
            self.id(lines.vertex),
            lines.timestamp
        );
        STANDARD.encode_string(&lines.data, &mut out);
        out.push_str("\"}]}\n");
        let _ = self.out.write_all(out.as_bytes());
    }

    fn id(&self, vertex: VertexId) -> String {
        self.vertexes.get(&vertex).map_or_else(String::new, |vertex| vertex.digest.clone())
    }

    fn added(&mut self, id: VertexId, kind: VertexKind, name: String, inputs: &[VertexId]) -> Value {
        let inputs = inputs.iter().map(|input| self.id(*input)).filter(|digest| !digest.is_empty()).collect();
        let (digest, parts) = (digest(id, &name), BTreeMap::new());
        let vertex = Vertex { digest, name, inputs, started: None, parts };
        let value = vertex.json();
        if kind == VertexKind::Internal || self.first.is_none() {
            self.first.get_or_insert(id);
        }
        self.vertexes.insert(id, vertex);
        json!({"vertexes": [value]})
    }

    fn progress(&mut self, id: VertexId, item: String, current: u64, total: Option<u64>) -> Option<Value> {
        let vertex = self.vertexes.get_mut(&id)?;
        let new = Part { started: now(), current, total, completed: false };
        let part = vertex.parts.entry(item.clone()).or_insert(new);
        (part.current, part.total) = (current, total);
        part.completed = total.is_some_and(|total| current >= total);
        let part = vertex.parts.get(&item)?;
        Some(json!({"statuses": [vertex.status(&item, part)]}))
    }

    fn finished(&mut self, id: VertexId, outcome: Outcome) -> Option<Value> {
        let vertex = self.vertexes.get_mut(&id)?;
        let mut value = vertex.json();
        value["completed"] = json!(now());
        match outcome {
            Outcome::Done => {}
            Outcome::Cached => {
                value["started"] = value["completed"].clone();
                value["cached"] = json!(true);
            }
            Outcome::Failed(message) => value["error"] = json!(message),
            Outcome::Canceled => value["error"] = json!("context canceled"),
        }
        let mut open: Vec<(String, Part)> = Vec::new();
        for (item, part) in std::mem::take(&mut vertex.parts) {
            if !part.completed {
                open.push((item, Part { completed: true, ..part }));
            }
        }
        let mut status = json!({"vertexes": [value]});
        if !open.is_empty() {
            status["statuses"] = open.iter().map(|(item, part)| vertex.status(item, part)).collect();
        }
        Some(status)
    }

    fn warning(&self, message: &str, location: Option<&str>, rule: Option<&str>) -> Value {
        let known = rule.and_then(|name| RULES.iter().find(|rule| rule.name == name));
        let place = location.and_then(place);
        let line = place.map_or_else(String::new, |(_, line, _)| format!(" (line {line})"));
        let short = rule.map_or_else(|| message.to_owned(), |rule| format!("{rule}: {message}{line}"));
        let mut value = json!({"level": 1, "short": STANDARD.encode(short)});
        if let Some(first) = self.first {
            value["vertex"] = json!(self.id(first));
        }
        if let Some(rule) = known {
            value["detail"] = json!([STANDARD.encode(rule.description)]);
            value["url"] = json!(rule.url());
        }
        if let Some((file, line, column)) = place {
            let at = json!({"line": line, "character": column});
            value["sourceInfo"] = json!({"filename": file});
            value["range"] = json!([{"start": at, "end": at}]);
        }
        json!({"warnings": [value]})
    }

    fn status(&mut self, event: Event) -> Option<Value> {
        Some(match event {
            Event::Added { vertex, kind, name, inputs } => self.added(vertex, kind, name, &inputs),
            Event::Started { vertex } => {
                let vertex = self.vertexes.get_mut(&vertex)?;
                vertex.started = Some(now());
                json!({"vertexes": [vertex.json()]})
            }
            Event::Missed { vertex, why, cause } => {
                json!({"rbuild.miss": {"vertex": self.id(vertex), "why": why, "cause": *cause}})
            }
            Event::Log { .. } | Event::Executing { .. } | Event::Unfinished { .. } | Event::Delivered(_) => {
                return None;
            }
            Event::Progress { vertex, item, current, total } => {
                self.progress(vertex, item, current, total)?
            }
            Event::Finished { vertex, outcome, .. } => self.finished(vertex, outcome)?,
            Event::Warning { message, location, rule } => self.warning(&message, location.as_deref(), rule),
            Event::Summary(summary) => json!({"rbuild.summary": {
                "names": summary.names,
                "id": summary.id.map(|id| id.to_string()),
                "digest": summary.manifest.map(|digest| digest.to_string()),
                "size": summary.size,
                "layers": summary.layers,
                "cached": summary.cached,
                "steps": summary.steps,
                "seconds": summary.elapsed.as_secs_f64(),
                "details": summary.details,
            }}),
        })
    }
}

/// File, line and column of `Dockerfile:3:7`. Columns count from 0 in BuildKit's ranges.
fn place(location: &str) -> Option<(&str, u32, u32)> {
    let (rest, last) = location.rsplit_once(':')?;
    let last: u32 = last.parse().ok()?;
    match rest.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?))) {
        Some((file, line)) => Some((file, line, last.saturating_sub(1))),
        None => Some((rest, last, 0)),
    }
}

impl EventSink for RawJson {
    fn event(&self, event: Event) {
        // Only what executes prints.
        if matches!(event, Event::Executing { .. }) {
            let state = self.state.clone();
            let look = move || state.lock().unwrap_or_else(PoisonError::into_inner).write_lines();
            self.state().has_clock = self.clock.start(look);
        }
        self.state().take(event);
    }
}

impl Renderer for RawJson {
    fn finish(&self) {
        self.clock.stop();
        let mut state = self.state();
        state.has_clock = false;
        state.write_lines();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn state() -> State {
        State::new(Box::new(io::sink()))
    }

    fn added(state: &mut State, number: u32, inputs: &[u32]) -> Value {
        let inputs = inputs.iter().map(|number| VertexId(*number)).collect();
        let (vertex, kind) = (VertexId(number), VertexKind::Step);
        let event = Event::Added { vertex, kind, name: format!("step {number}"), inputs };
        state.status(event).unwrap_or_default()
    }

    #[test]
    fn vertexes_name_their_inputs() {
        let mut state = state();
        let first = added(&mut state, 0, &[]);
        let second = added(&mut state, 1, &[0]);
        assert_eq!(second["vertexes"][0]["inputs"], json!([first["vertexes"][0]["digest"]]));
        assert_eq!(first["vertexes"][0].get("inputs"), None);
    }

    #[test]
    fn transfers_end() {
        let mut state = state();
        added(&mut state, 0, &[]);
        let vertex = VertexId(0);
        let mut report = |item: &str, current, total| {
            let event = Event::Progress { vertex, item: item.into(), current, total };
            state.status(event).unwrap_or_default()["statuses"][0].clone()
        };
        assert_eq!(report("a", 1, Some(2)).get("completed"), None);
        assert!(report("a", 2, Some(2))["completed"].is_string());
        assert_eq!(report("b", 7, None)["total"], json!(0));
        let event = Event::Finished { vertex, outcome: Outcome::Done, elapsed: Duration::ZERO };
        let end = state.status(event).unwrap_or_default();
        assert_eq!(end["statuses"][0]["id"], json!("b"));
        assert!(end["statuses"][0]["completed"].is_string() && end["vertexes"][0]["completed"].is_string());
    }

    #[test]
    fn warnings_have_buildkits_form() {
        let mut state = state();
        added(&mut state, 0, &[]);
        let event = Event::Warning {
            message: "stage name 'A' should be lowercase".into(),
            location: Some("dir/Dockerfile:3:7".into()),
            rule: Some("StageNameCasing"),
        };
        let warning = state.status(event).unwrap_or_default()["warnings"][0].clone();
        let text = |value: &Value| {
            String::from_utf8(STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()).ok()
        };
        let short = text(&warning["short"]).unwrap_or_default();
        assert_eq!(short, "StageNameCasing: stage name 'A' should be lowercase (line 3)");
        let detail = text(&warning["detail"][0]).unwrap_or_default();
        assert_eq!(detail, "Stage names should be lowercase");
        assert_eq!(warning["sourceInfo"]["filename"], json!("dir/Dockerfile"));
        assert_eq!(warning["range"][0]["start"], json!({"line": 3, "character": 6}));
        assert!(warning["url"].as_str().is_some_and(|url| url.ends_with("stage-name-casing/")));
        assert!(warning["vertex"].is_string());
    }
}
