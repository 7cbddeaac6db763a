//! A window at the bottom of the terminal: what runs now, with its last lines of output; what has
//! ended scrolls up as one line each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::tcgetwinsize;

use crate::event::{Event, EventSink, Outcome, Summary, VertexId, VertexKind};
use crate::visible::{self, visible_line};

use super::{Renderer, text};

/// Lines of output shown below a running step.
const TAIL: usize = 6;
/// A step that ends sooner is never shown as running.
const PATIENCE: Duration = Duration::from_millis(150);

/// Draws with indicatif.
pub(super) struct Tty {
    bars: MultiProgress,
    state: Mutex<State>,
    colour: bool,
}

#[derive(Default)]
struct State {
    vertexes: BTreeMap<VertexId, Vertex>,
    done: bool,
}

struct Vertex {
    name: String,
    kind: VertexKind,
    begun: Option<Instant>,
    bar: Option<ProgressBar>,
    tail: VecDeque<String>,
    bytes: BTreeMap<String, (u64, Option<u64>)>,
}

impl Tty {
    pub fn new(colour: bool) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15));
        Tty { bars, state: Mutex::default(), colour }
    }

    fn style(&self) -> ProgressStyle {
        let template = if self.colour {
            "{spinner:.cyan} {elapsed:>3.dim} {msg}"
        } else {
            "{spinner} {elapsed:>3} {msg}"
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
    }

    fn print(&self, line: &str) {
        let _ = self.bars.println(line);
    }

    /// Gives a running vertex its place in the window.
    fn show(&self, vertex: &mut Vertex) {
        let late = vertex.begun.is_some_and(|begun| begun.elapsed() >= PATIENCE);
        if vertex.bar.is_none() && (late || !vertex.tail.is_empty() || !vertex.bytes.is_empty()) {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(self.style());
            if let Some(begun) = vertex.begun {
                bar.set_elapsed(begun.elapsed());
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            vertex.bar = Some(bar);
        }
        if let Some(bar) = &vertex.bar {
            bar.set_message(vertex.message(self.colour));
        }
    }

    fn finished(&self, vertex: &mut Vertex, outcome: &Outcome, elapsed: Duration) {
        if let Some(bar) = vertex.bar.take() {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        let (green, red, dim, off) =
            if self.colour { ("\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "", "") };
        let time = text::elapsed(elapsed);
        let line = match outcome {
            Outcome::Done if vertex.kind == VertexKind::Internal => return,
            Outcome::Canceled => return,
            Outcome::Done => format!("{green}✔{off} {} {dim}{time}{off}", vertex.name),
            Outcome::Cached => format!("{dim}✔ {} CACHED{off}", vertex.name),
            Outcome::Failed(_) => format!("{red}✘ {}{off} {dim}{time}{off}", vertex.name),
        };
        self.print(&line);
    }

    fn summary(&self, summary: &Summary) {
        self.print(&text::summary(summary, self.colour));
    }
}

impl Vertex {
    fn message(&self, colour: bool) -> String {
        let (dim, off) = if colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        // Room for the spinner, the time, and the mark before a line of output.
        let width =
            tcgetwinsize(rustix::stdio::stderr()).map_or(80, |size| usize::from(size.ws_col)).max(20) - 8;
        let mut out = cut(&self.name, width);
        if !self.bytes.is_empty() {
            let current: u64 = self.bytes.values().map(|(current, _)| current).sum();
            let total: u64 = self.bytes.values().filter_map(|(_, total)| *total).sum();
            out.push_str(&format!("  {}", text::size(current)));
            if total > 0 {
                out.push_str(&format!(" / {} ({}%)", text::size(total), current * 100 / total.max(1)));
            }
            if let Some(begun) = self.begun {
                let seconds = begun.elapsed().as_secs_f64();
                if seconds > 0.5 {
                    out.push_str(&format!(", {}/s", text::size((current as f64 / seconds) as u64)));
                }
            }
        }
        for line in &self.tail {
            out.push_str(&format!("\n      {dim}│ {}{off}", cut(line, width)));
        }
        out
    }
}

/// As much of a line as fits. Colours are counted as text, so a coloured line may be cut early.
fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut out: String = line.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

impl EventSink for Tty {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.done {
            return;
        }
        match event {
            Event::Added { vertex, kind, name } => {
                let new = Vertex {
                    name: visible_line(&name).into_owned(),
                    kind,
                    begun: None,
                    bar: None,
                    tail: VecDeque::new(),
                    bytes: BTreeMap::new(),
                };
                state.vertexes.insert(vertex, new);
            }
            Event::Started { vertex } => {
                if let Some(vertex) = state.vertexes.get_mut(&vertex) {
                    vertex.begun = Some(Instant::now());
                }
            }
            Event::Log { vertex, line, .. } => {
                let Some(vertex) = state.vertexes.get_mut(&vertex) else { return };
                if vertex.tail.len() == TAIL {
                    vertex.tail.pop_front();
                }
                vertex.tail.push_back(visible::output(&line, self.colour).replace('\t', "    "));
                self.show(vertex);
            }
            Event::Progress { vertex, item, current, total } => {
                let Some(vertex) = state.vertexes.get_mut(&vertex) else { return };
                vertex.bytes.insert(item, (current, total));
                self.show(vertex);
            }
            Event::Finished { vertex, outcome, elapsed } => {
                if let Some(vertex) = state.vertexes.get_mut(&vertex) {
                    self.finished(vertex, &outcome, elapsed);
                }
            }
            Event::Warning { message, location, rule } => {
                self.print(&text::warning(&message, location.as_deref(), rule, self.colour));
            }
            Event::Summary(summary) => self.summary(&summary),
        }
        // A step that says nothing still shows once it takes its time.
        for vertex in state.vertexes.values_mut() {
            if vertex.begun.is_some() && vertex.kind == VertexKind::Step && vertex.bar.is_some() {
                self.show(vertex);
            }
        }
    }
}

impl Renderer for Tty {
    fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done = true;
        for vertex in state.vertexes.values_mut() {
            if let Some(bar) = vertex.bar.take() {
                bar.finish_and_clear();
            }
        }
        let _ = self.bars.clear();
    }
}
