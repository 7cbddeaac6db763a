//! What a build did, kept for its summary: which step took how long, what made the time, where the results went.
//!
//! It stands in front of a renderer and sees the same events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::event::{Event, EventSink, Outcome, Summary, VertexId, VertexKind};

use super::{Renderer, text};

/// Builds that take less time need no account of it.
const WORTH: Duration = Duration::from_secs(10);
/// What takes less than this part of the time is not mentioned.
const SHARE: f64 = 0.1;
/// From this part of the time on, a hint is worth following.
const HINT: f64 = 0.25;

/// A line of the account.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// As shown, e.g. `[build 2/4] RUN make`.
    pub name: String,
    /// What kind of work it was.
    pub kind: VertexKind,
    /// How it ended; `None` where it did not.
    pub outcome: Option<Outcome>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Gives the path by which a service knows a file.
pub type Locate = fn(&str) -> String;

/// Keeps the account.
pub struct Ledger {
    inner: Arc<dyn Renderer>,
    locate: Option<Locate>,
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    rows: BTreeMap<VertexId, (Row, Vec<VertexId>)>,
    delivered: Vec<String>,
    summary: Option<Summary>,
}

impl Ledger {
    /// In front of `inner`.
    pub fn new(inner: Arc<dyn Renderer>) -> Self {
        Ledger { inner, locate: None, account: Mutex::default() }
    }

    /// With other paths for the files that warnings name.
    pub fn locating(mut self, locate: Option<Locate>) -> Self {
        self.locate = locate;
        self
    }

    fn located(&self, event: Event) -> Event {
        match (event, self.locate) {
            (Event::Warning { message, location: Some(location), rule }, Some(locate)) => {
                let location = match location.rsplit_once(':') {
                    Some((file, line)) => format!("{}:{line}", locate(file)),
                    None => location,
                };
                Event::Warning { message, location: Some(location), rule }
            }
            (event, _) => event,
        }
    }

    /// What was done, in the order in which it became known, without what is internal.
    pub fn rows(&self) -> Vec<Row> {
        let account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = account.rows.values().map(|(row, _)| row);
        rows.filter(|row| row.kind != VertexKind::Internal).cloned().collect()
    }

    /// The summary, if the build came so far.
    pub fn summary(&self) -> Option<Summary> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).summary.clone()
    }
}

impl EventSink for Ledger {
    fn event(&self, event: Event) {
        let event = self.account.lock().unwrap_or_else(PoisonError::into_inner).take(event);
        self.inner.event(self.located(event));
    }

    fn separates_streams(&self) -> bool {
        self.inner.separates_streams()
    }
}

impl Renderer for Ledger {
    fn finish(&self) {
        self.inner.finish();
    }

    fn shows_end_of(&self, step: &str) -> bool {
        self.inner.shows_end_of(step)
    }
}

impl Account {
    fn take(&mut self, event: Event) -> Event {
        match event {
            Event::Added { vertex, kind, ref name, ref inputs } => {
                let row = Row { name: name.clone(), kind, outcome: None, elapsed: Duration::ZERO };
                self.rows.insert(vertex, (row, inputs.clone()));
            }
            Event::Finished { vertex, ref outcome, elapsed } => {
                if let Some((row, _)) = self.rows.get_mut(&vertex) {
                    (row.outcome, row.elapsed) = (Some(outcome.clone()), elapsed);
                }
            }
            Event::Delivered(ref what) => self.delivered.push(what.clone()),
            Event::Summary(mut summary) => {
                summary.details = std::mem::take(&mut self.delivered);
                summary.details.extend(self.times(summary.elapsed));
                self.summary = Some(summary.clone());
                return Event::Summary(summary);
            }
            _ => {}
        }
        event
    }

    /// The time that a vertex cost whoever waits for it.
    fn cost(row: &Row) -> Duration {
        match (row.kind, &row.outcome) {
            (VertexKind::Internal, _) | (_, None | Some(Outcome::Cached | Outcome::Canceled)) => {
                Duration::ZERO
            }
            _ => row.elapsed,
        }
    }

    /// What made the time, the critical path, and one hint.
    fn times(&self, total: Duration) -> Vec<String> {
        let mut out = Vec::new();
        if total < WORTH {
            return out;
        }
        let share = |row: &Row| Self::cost(row).as_secs_f64() / total.as_secs_f64();
        let mut most: Vec<&Row> =
            self.rows.values().map(|(row, _)| row).filter(|row| share(row) >= SHARE).collect();
        most.sort_by_key(|row| std::cmp::Reverse(row.elapsed));
        if !most.is_empty() {
            let shown = most.iter().take(3).map(|row| {
                let percent = (share(row) * 100.0).min(100.0);
                format!("{percent:.0}% {} ({})", short(&row.name), text::elapsed(row.elapsed))
            });
            out.push(format!("time: {}", shown.collect::<Vec<_>>().join(", ")));
        }
        let (path, time) = self.critical_path();
        if path.len() > 1 {
            let names: Vec<String> = path.iter().map(|row| place(&row.name)).collect();
            out.push(format!("critical path: {} ({})", names.join(" > "), text::elapsed(time)));
        }
        let hint = most.iter().filter(|row| share(row) >= HINT).find_map(|row| hint(&row.name));
        out.extend(hint);
        out
    }

    /// The chain of vertexes, each of which waited for the one before, that took the longest, and its time.
    fn critical_path(&self) -> (Vec<&Row>, Duration) {
        let mut best: BTreeMap<VertexId, (Duration, Option<VertexId>)> = BTreeMap::new();
        for (id, (row, inputs)) in &self.rows {
            // What a vertex needs was announced before it.
            let before = inputs.iter().filter(|input| *input < id);
            let longest = before.filter_map(|input| Some((best.get(input)?.0, *input))).max();
            let (time, from) = longest.map_or((Duration::ZERO, None), |(time, input)| (time, Some(input)));
            best.insert(*id, (time + Self::cost(row), from));
        }
        let last = best.iter().max_by_key(|(_, (time, _))| *time);
        let Some((end, (time, _))) = last else { return (Vec::new(), Duration::ZERO) };
        let (mut path, mut at) = (Vec::new(), Some(*end));
        while let Some(id) = at {
            path.extend(self.rows.get(&id).map(|(row, _)| row).filter(|row| !Self::cost(row).is_zero()));
            at = best.get(&id).and_then(|(_, from)| *from);
        }
        path.reverse();
        (path, *time)
    }
}

/// A name in a sentence: one line, cut.
fn short(name: &str) -> String {
    const MOST: usize = 60;
    let line = name.lines().next().unwrap_or_default();
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

/// `[build 2/4]` of a step; other names as they are.
fn place(name: &str) -> String {
    match name.find(']') {
        Some(end) if name.starts_with('[') => name[..=end].to_owned(),
        _ => short(name),
    }
}

/// Programs that fetch packages, and where they keep what they have fetched.
const CACHES: [(&str, &str); 9] = [
    ("npm ", "/root/.npm"),
    ("yarn ", "/usr/local/share/.cache/yarn"),
    ("pip install", "/root/.cache/pip"),
    ("cargo build", "/usr/local/cargo/registry"),
    ("go build", "/root/.cache/go-build"),
    ("go mod", "/go/pkg/mod"),
    ("mvn ", "/root/.m2"),
    ("gradle", "/root/.gradle"),
    ("composer install", "/root/.composer/cache"),
];

/// What would make a slow step faster.
fn hint(name: &str) -> Option<String> {
    let run = name.contains("] RUN ") && !name.contains("type=cache");
    let (program, dir) = CACHES.iter().find(|(program, _)| run && name.contains(program))?;
    let program = program.trim();
    Some(format!(
        "hint: RUN --mount=type=cache,target={dir} keeps what `{program}` has fetched for the next build"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(rows: &[(u32, &str, &[u32], u64, Outcome)]) -> Account {
        let mut account = Account::default();
        for (id, name, inputs, seconds, outcome) in rows {
            let (vertex, kind) = (VertexId(*id), VertexKind::Step);
            let inputs = inputs.iter().map(|id| VertexId(*id)).collect();
            account.take(Event::Added { vertex, kind, name: (*name).into(), inputs });
            let elapsed = Duration::from_secs(*seconds);
            account.take(Event::Finished { vertex, outcome: outcome.clone(), elapsed });
        }
        account
    }

    #[test]
    fn the_time_is_explained_by_shares_the_longest_chain_and_one_hint() {
        let account = account(&[
            (0, "[a 1/2] FROM x", &[], 90, Outcome::Cached),
            (1, "[a 2/2] RUN npm ci\nmore", &[0], 60, Outcome::Done),
            (2, "[b 2/2] RUN make", &[0], 20, Outcome::Done),
            (3, "[c 2/3] COPY --from=a / /", &[1], 1, Outcome::Done),
            (4, "[c 3/3] RUN pip install x", &[2, 3], 30, Outcome::Done),
        ]);
        assert_eq!(
            account.times(Duration::from_secs(100)),
            [
                "time: 60% [a 2/2] RUN npm ci (1m00s), 30% [c 3/3] RUN pip install x (30.0s), 20% [b 2/2] RUN make (20.0s)",
                "critical path: [a 2/2] > [c 2/3] > [c 3/3] (1m31s)",
                "hint: RUN --mount=type=cache,target=/root/.npm keeps what `npm` has fetched for the next build",
            ]
        );
        assert_eq!(account.times(Duration::from_secs(9)), [""; 0]);
    }

    #[test]
    fn results_are_listed_also_of_short_builds() {
        let mut account = account(&[(0, "[1/1] COPY . .", &[], 1, Outcome::Done)]);
        account.take(Event::Delivered("wrote out.tar".into()));
        let Event::Summary(summary) = account.take(Event::Summary(Summary::default())) else {
            panic!("another event")
        };
        assert_eq!(summary.details, ["wrote out.tar"]);
        assert_eq!(hint("[1/1] RUN --mount=type=cache,target=/x npm ci"), None);
        assert_eq!(hint("[1/1] COPY npm /"), None);
    }
}
