//! One JSON object a line, in the shape of BuildKit's `SolveStatus`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::event::{Event, EventSink, Outcome, Stream, VertexId};
use crate::visible::visible_json;

use super::Renderer;

/// Writes events as JSON lines.
pub(super) struct RawJson {
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    vertexes: BTreeMap<VertexId, (String, Option<String>)>,
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
        RawJson { state: Mutex::new(State { out: Box::new(io::stderr()), vertexes: BTreeMap::new() }) }
    }
}

impl State {
    fn vertex(&self, vertex: VertexId) -> Option<Value> {
        let (name, started) = self.vertexes.get(&vertex)?;
        let mut value = json!({"digest": digest(vertex, name), "name": name});
        if let Some(started) = started {
            value["started"] = json!(started);
        }
        Some(value)
    }

    fn id(&self, vertex: VertexId) -> String {
        self.vertexes.get(&vertex).map_or_else(String::new, |(name, _)| digest(vertex, name))
    }

    fn status(&mut self, event: Event) -> Option<Value> {
        Some(match event {
            Event::Added { vertex, name, .. } => {
                self.vertexes.insert(vertex, (name, None));
                json!({"vertexes": [self.vertex(vertex)?]})
            }
            Event::Started { vertex } => {
                if let Some((_, started)) = self.vertexes.get_mut(&vertex) {
                    *started = Some(now());
                }
                json!({"vertexes": [self.vertex(vertex)?]})
            }
            Event::Log { vertex, stream, mut line } => {
                line.push(b'\n');
                let stream = if stream == Stream::Stdout { 1 } else { 2 };
                let data = STANDARD.encode(line);
                json!({"logs": [{"vertex": self.id(vertex), "stream": stream, "data": data, "timestamp": now()}]})
            }
            Event::Progress { vertex, item, current, total } => json!({"statuses": [{
                "id": item, "vertex": self.id(vertex), "current": current, "total": total.unwrap_or(0), "timestamp": now(),
            }]}),
            Event::Finished { vertex, outcome, .. } => {
                let mut value = self.vertex(vertex)?;
                value["completed"] = json!(now());
                match outcome {
                    Outcome::Done => {}
                    Outcome::Cached => value["cached"] = json!(true),
                    Outcome::Failed(message) => value["error"] = json!(message),
                    Outcome::Canceled => value["error"] = json!("canceled"),
                }
                json!({"vertexes": [value]})
            }
            Event::Warning { message, location, rule } => {
                let short = rule.map_or(message.clone(), |rule| format!("{rule}: {message}"));
                json!({"warnings": [{"level": 1, "short": STANDARD.encode(short), "detail": location}]})
            }
            Event::Summary(summary) => json!({"rbuild.summary": {
                "names": summary.names,
                "digest": summary.manifest.map(|digest| digest.to_string()),
                "size": summary.size,
                "layers": summary.layers,
                "cached": summary.cached,
                "steps": summary.steps,
                "seconds": summary.elapsed.as_secs_f64(),
            }}),
        })
    }
}

impl EventSink for RawJson {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = state.status(event) {
            let _ = writeln!(state.out, "{}", visible_json(&status.to_string()));
        }
    }
}

impl Renderer for RawJson {
    fn finish(&self) {}
}
