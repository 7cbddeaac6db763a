//! The layers of a base while they come, and whoever waits for them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::event::{Event, Outcome, VertexKind};
use crate::snapshot::Fetch;

use super::bases::{Bases, Resolved};

/// The layers of one image.
pub(super) struct Download {
    bases: Arc<Bases>,
    found: Arc<Resolved>,
    name: String,
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Default)]
enum Phase {
    #[default]
    Waiting,
    Running,
    Ended(Result<(), String>),
}

impl Download {
    pub fn new(bases: Arc<Bases>, found: Arc<Resolved>, name: String) -> Self {
        Download { bases, found, name, phase: Mutex::default(), changed: Condvar::new() }
    }

    /// Whether it has ended and not brought the image.
    pub fn has_failed(&self) -> bool {
        matches!(*self.phase(), Phase::Ended(Err(_)))
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let events = &self.bases.events;
        let vertex = events.add(VertexKind::Transfer, format!("pull {}", self.name));
        events.send(Event::Started { vertex });
        let begun = std::time::Instant::now();
        let result = self.bases.fetch(&self.found, vertex);
        let outcome = match &result {
            Ok(()) => Outcome::Done,
            Err(message) => Outcome::Failed(message.clone()),
        };
        events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
        *self.phase() = Phase::Ended(result);
        self.changed.notify_all();
    }
}

impl Fetch for Download {
    fn begin(self: Arc<Self>) {
        let mut phase = self.phase();
        if !matches!(*phase, Phase::Waiting) {
            return;
        }
        *phase = Phase::Running;
        drop(phase);
        let this = self.clone();
        match std::thread::Builder::new().name("pull".into()).spawn(move || this.run()) {
            Ok(thread) => {
                self.bases.downloads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
            }
            Err(_) => self.run(),
        }
    }

    fn wait(self: Arc<Self>) -> Result<(), String> {
        self.clone().begin();
        let mut phase = self.phase();
        loop {
            match &*phase {
                Phase::Ended(result) => return result.clone(),
                _ => phase = self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn has_ended(&self) -> bool {
        matches!(*self.phase(), Phase::Ended(_))
    }

    fn is_at_a_registry(&self) -> bool {
        self.found.is_at_a_registry()
    }
}
