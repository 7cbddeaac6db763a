//! The lines at the bottom of a terminal: what works now, with its last lines of output, and a line of totals.
//! Pure: from a board, a time and a size to lines.

use std::time::Duration;

use crate::visible;

use super::board::{Board, TAIL, Vertex};
use super::text;
use super::width::{columns, cut};

/// A step that ends sooner is never shown as working.
pub(super) const PATIENCE: Duration = Duration::from_millis(150);
/// Columns of a title that facts about bytes leave at least.
const TITLE: usize = 20;

/// The size of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Which characters and colours are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    pub colour: bool,
    /// Marks and rules beyond ASCII.
    pub unicode: bool,
}

impl Look {
    pub fn dim(self) -> (&'static str, &'static str) {
        if self.colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") }
    }

    pub fn green(self) -> (&'static str, &'static str) {
        if self.colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") }
    }

    pub fn red(self) -> (&'static str, &'static str) {
        if self.colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") }
    }

    pub fn done(self) -> &'static str {
        if self.unicode { "✔" } else { "+" }
    }

    pub fn failed(self) -> &'static str {
        if self.unicode { "✘" } else { "x" }
    }

    fn working(self, now: Duration) -> &'static str {
        const DOTS: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
        const BARS: [&str; 4] = ["|", "/", "-", "\\"];
        let turn = usize::try_from(now.as_millis() / 100).unwrap_or_default();
        if self.unicode { DOTS[turn % DOTS.len()] } else { BARS[turn % BARS.len()] }
    }

    fn rule(self) -> &'static str {
        if self.unicode { "│" } else { "|" }
    }
}

/// The window: nothing where nothing takes its time. No line is wider than the terminal, and one row stays free
/// for the cursor.
pub(super) fn window(board: &Board, now: Duration, size: Size, look: Look, stopping: bool) -> Vec<String> {
    let working = board.at_work(now, PATIENCE);
    if working.is_empty() {
        return Vec::new();
    }
    // The last column is left free: some terminals begin a new row as soon as it is filled.
    let width = size.columns.saturating_sub(1).max(10);
    let rows = size.rows.saturating_sub(2).max(1);
    let shown = if working.len() <= rows { working.len() } else { rows.saturating_sub(1).max(1) };
    let tails = tails(
        &working[..shown],
        rows - shown.min(rows) - usize::from(shown < working.len()).min(rows - shown.min(rows)),
    );
    let mut lines = Vec::new();
    for (vertex, tail) in working.iter().zip(tails) {
        lines.push(title(vertex, now, width, look));
        lines.extend(output(vertex, tail, width, look));
    }
    let (dim, off) = look.dim();
    if shown < working.len() && rows > 1 {
        lines.push(format!("  {dim}{}{off}", cut(&format!("and {} more", working.len() - shown), width - 2)));
    }
    let status = cut(&status(board, working.len(), now, stopping), width);
    lines.push(format!("{dim}{status}{off}"));
    lines
}

/// How many lines of output each gets: as many as it has, and the same for all where there is no room.
fn tails(working: &[&Vertex], mut room: usize) -> Vec<usize> {
    let has = |vertex: &Vertex| (vertex.tail.len() + usize::from(!vertex.unfinished.is_empty())).min(TAIL);
    let mut tails = vec![0; working.len()];
    for _ in 0..TAIL {
        for (tail, vertex) in tails.iter_mut().zip(working) {
            if room > 0 && *tail < has(vertex) {
                *tail += 1;
                room -= 1;
            }
        }
    }
    tails
}

fn title(vertex: &Vertex, now: Duration, width: usize, look: Look) -> String {
    let begun = vertex.begun.unwrap_or(now);
    let time = text::elapsed(now.saturating_sub(begun));
    let mark = look.working(now);
    let room = width.saturating_sub(3 + time.len());
    let facts = facts(vertex, now, room.saturating_sub(TITLE));
    let name = cut(&vertex.name, room.saturating_sub(if facts.is_empty() { 0 } else { columns(&facts) + 2 }));
    let gap = if facts.is_empty() { "" } else { "  " };
    let blanks = room.saturating_sub(columns(&name) + gap.len() + columns(&facts));
    let (cyan, reset) = if look.colour { ("\x1b[36m", "\x1b[0m") } else { ("", "") };
    let (dim, off) = look.dim();
    format!("{cyan}{mark}{reset} {name}{gap}{dim}{facts}{off}{} {dim}{time}{off}", " ".repeat(blanks))
}

/// Bytes done and in all, rate, time left: what fits of it.
fn facts(vertex: &Vertex, now: Duration, room: usize) -> String {
    if vertex.bytes.is_empty() {
        return String::new();
    }
    let (done, total) = vertex.moved();
    let mut all = vec![match total {
        Some(total) => format!("{} / {}", text::size(done), text::size(total)),
        None => text::size(done),
    }];
    let seconds = now.saturating_sub(vertex.bytes_since).as_secs_f64();
    if seconds >= 0.5 && done > 0 {
        let rate = done as f64 / seconds;
        all.push(format!("{}/s", text::size(rate as u64)));
        if let Some(left) = total.map(|total| total.saturating_sub(done)).filter(|left| *left > 0) {
            all.push(format!("{} left", text::whole_seconds((left as f64 / rate).min(1e7) as u64)));
        }
    }
    while all.len() > 1 && columns(&all.join(", ")) > room {
        all.pop();
    }
    if columns(&all[0]) > room
        && let Some(total) = total.filter(|total| *total > 0)
    {
        return format!("{}%", done.min(total) * 100 / total);
    }
    all.join(", ")
}

/// The last lines of a step's output, below its title.
fn output(vertex: &Vertex, count: usize, width: usize, look: Look) -> Vec<String> {
    let unfinished = Some(&vertex.unfinished).filter(|line| !line.is_empty());
    let all: Vec<&Vec<u8>> = vertex.tail.iter().chain(unfinished).collect();
    let (dim, off) = look.dim();
    let rule = look.rule();
    all[all.len().saturating_sub(count)..]
        .iter()
        .map(|line| {
            let line = visible::output(line, look.colour).replace('\t', "    ");
            format!("  {dim}{rule}{off} {}", cut(&line, width.saturating_sub(4)))
        })
        .collect()
}

fn status(board: &Board, working: usize, now: Duration, stopping: bool) -> String {
    let (ended, steps) = board.counts();
    let time = text::elapsed(now);
    if stopping && board.failed() {
        return format!("a step failed, stopping ({working} running)");
    }
    if stopping {
        return format!("interrupted, stopping ({working} running); Ctrl-C again stops at once");
    }
    match steps {
        0 => format!("{time}, {working} running"),
        _ => format!("{ended}/{steps} steps done, {working} running, {time}"),
    }
}
