//! Looking steps up in caches elsewhere, and bringing their layers when something needs them.
//!
//! Each cache's records are read by a thread of its own, from the beginning of the build on; a step waits
//! for them only after the store had no record. A layer is fetched when its files or bytes are needed, and
//! becomes a record of the store once its content has proved to be right. A cache whose layer does not come,
//! or is another than its record says, is not asked any more; what was built on it is built again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, Follower};
use crate::digest::{ChainId, Digest};
use crate::event::{Event, Events, Outcome, Stream, VertexId, VertexKind};
use crate::layer;
use crate::registry::origins;
use crate::snapshot::{Fetch, LayerCell};
use crate::store::Store;

use super::document::{Answer, CacheDocument, Entry};
use super::failure::CacheError;
use super::key::KeyInputs;
use super::place::{CachePlace, ReadCache};
use super::record::{Record, Records};
use super::signature::{Signed, VerifyRecord};

/// How often somebody who waits for records asks whether the build was given up.
const ASK: Duration = Duration::from_millis(50);

/// A step's result from somewhere else.
pub struct Hit {
    /// Its layer, which comes when it is needed.
    pub cell: Arc<LayerCell>,
    /// Seconds since 1970 when the step was executed.
    pub created: i64,
    /// The cache it is from, as the user named it.
    pub source: String,
}

/// Results of steps that the store does not have. Looking up may wait, and ends where `cancel` is switched.
pub trait Lookup: Send + Sync {
    /// The result of a step with these inputs.
    fn find(&self, inputs: &KeyInputs, cancel: &Cancel) -> Option<Hit>;

    /// What there is instead of the result of the step of this name: for each cache, its name and the closest
    /// record that it has.
    fn closest(&self, step: &str, parent: Option<ChainId>, cancel: &Cancel) -> Vec<(String, Closest)>;

    /// What is known of a chain of layers, by the digest of the question.
    fn answer(&self, key: &Digest, cancel: &Cancel) -> Option<String>;
}

/// A record that is not the one looked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Closest {
    /// Of the same step on the same layers, with other files or arguments.
    OtherInputs,
    /// Of the same step on other layers.
    OtherLayers,
    /// There is none of this step.
    None,
    /// The cache has nothing at all, or cannot be read.
    Empty,
}

/// A cache that is read.
pub struct CacheSource {
    /// The cache.
    pub place: Arc<dyn CachePlace>,
    /// What signatures of its records must pass.
    pub verify: Option<Arc<VerifyRecord>>,
}

/// The caches that a build reads, in the order in which they are asked.
pub struct Import {
    shared: Arc<Shared>,
    sources: Vec<Arc<Source>>,
    readers: Vec<JoinHandle<()>>,
    /// Results from before this time, in seconds since 1970, do not count.
    oldest: Option<i64>,
    /// Ends reading with the build.
    follower: Follower,
}

struct Shared {
    store: Store,
    records: Records,
    events: Events,
    cancel: Cancel,
    /// Failures that make the build begin anew.
    lost: Mutex<Vec<String>>,
    /// Blobs that were not what their records say.
    bad: Mutex<BTreeSet<Digest>>,
    fetchers: Mutex<Vec<JoinHandle<()>>>,
}

struct Source {
    place: Arc<dyn CachePlace>,
    verify: Option<Arc<VerifyRecord>>,
    /// Somebody was told of records without a right signature.
    told: AtomicBool,
    index: Mutex<Reading>,
    ready: Condvar,
    given_up: AtomicBool,
}

enum Reading {
    Waiting,
    Ended(Arc<Known>),
}

#[derive(Default)]
struct Known {
    entries: BTreeMap<Digest, Vec<Entry>>,
    answers: BTreeMap<Digest, Answer>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Import {
    /// Begins to read the records of all places. Steps that were executed before `oldest`, in seconds since 1970,
    /// are not found.
    pub fn start(
        places: Vec<CacheSource>,
        oldest: Option<i64>,
        store: &Store,
        events: &Events,
        cancel: &Cancel,
    ) -> std::io::Result<Self> {
        let follower = cancel.follower()?;
        let shared = Arc::new(Shared {
            store: store.clone(),
            records: Records::new(store.clone()),
            events: events.clone(),
            cancel: follower.cancel().clone(),
            lost: Mutex::default(),
            bad: Mutex::default(),
            fetchers: Mutex::default(),
        });
        let (mut sources, mut readers) = (Vec::new(), Vec::new());
        for CacheSource { place, verify } in places {
            let source = Arc::new(Source {
                place,
                verify,
                told: AtomicBool::new(false),
                index: Mutex::new(Reading::Waiting),
                ready: Condvar::new(),
                given_up: AtomicBool::new(false),
            });
            let (own, read) = (shared.clone(), source.clone());
            let thread = std::thread::Builder::new().name("cache".into());
            match thread.spawn(move || read.read(&own)) {
                Ok(reader) => readers.push(reader),
                Err(_) => source.read(&shared),
            }
            sources.push(source);
        }
        Ok(Import { shared, sources, readers, oldest, follower })
    }

    /// What went wrong with layers since the last call. The build has to begin anew then: steps may stand on
    /// what is not there.
    pub fn take_lost(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.lost))
    }

    /// Blobs that turned out not to be what records say.
    pub fn bad_blobs(&self) -> BTreeSet<Digest> {
        lock(&self.shared.bad).clone()
    }
}

impl Drop for Import {
    /// When the build is over nothing of it goes on.
    fn drop(&mut self) {
        self.follower.cancel().cancel();
        let fetchers = std::mem::take(&mut *lock(&self.shared.fetchers));
        for thread in self.readers.drain(..).chain(fetchers) {
            let _ = thread.join();
        }
    }
}

impl Lookup for Import {
    fn find(&self, inputs: &KeyInputs, cancel: &Cancel) -> Option<Hit> {
        let key = inputs.key().0;
        self.sources.iter().find_map(|source| {
            let known = source.known(cancel)?;
            let bad = lock(&self.shared.bad);
            // The key is made of the parent too: a record with another one was tampered with.
            let young = |entry: &Entry| self.oldest.is_none_or(|oldest| entry.created >= oldest);
            let fits = |entry: &&Entry| {
                entry.parent == inputs.parent
                    && young(entry)
                    && !bad.contains(&entry.layer.digest)
                    && source.trusts(*entry, &self.shared)
            };
            let entry = known.entries.get(&key)?.iter().find(fits)?.clone();
            drop(bad);
            Some(self.hit(source, entry, inputs))
        })
    }

    fn closest(&self, step: &str, parent: Option<ChainId>, cancel: &Cancel) -> Vec<(String, Closest)> {
        let closest = |source: &Arc<Source>| {
            let Some(known) = source.known(cancel).filter(|known| !known.entries.is_empty()) else {
                return Closest::Empty;
            };
            // Where a step stands among others may differ.
            let words = |name: &str| name.split_once("] ").map_or(name, |(_, words)| words).to_owned();
            let wanted = words(step);
            let all = known.entries.values().flatten().filter(|entry| words(&entry.step) == wanted);
            let rank = |entry: &Entry| match parent == Some(entry.parent) {
                true => Closest::OtherInputs,
                false => Closest::OtherLayers,
            };
            all.map(rank).min().unwrap_or(Closest::None)
        };
        self.sources.iter().map(|source| (source.place.name().to_owned(), closest(source))).collect()
    }

    fn answer(&self, key: &Digest, cancel: &Cancel) -> Option<String> {
        self.sources.iter().find_map(|source| {
            let known = source.known(cancel)?;
            let answer = known.answers.get(key).filter(|answer| source.trusts(*answer, &self.shared))?;
            Some(answer.value.clone())
        })
    }
}

impl Import {
    fn hit(&self, source: &Arc<Source>, entry: Entry, inputs: &KeyInputs) -> Hit {
        let (diff_id, created) = (entry.diff_id, entry.created);
        let blob = entry.layer.info();
        if let Some(origin) = source.place.origin() {
            // A push can take it from there without it ever being here.
            let _ = origins::note(&self.shared.store, &blob.digest, origin);
        }
        let record = Record { diff_id, inputs: inputs.clone(), step: entry.step.clone(), created };
        let lazy = Lazy {
            source: source.clone(),
            shared: self.shared.clone(),
            entry,
            record,
            phase: Mutex::new(Phase::Waiting),
            changed: Condvar::new(),
            proved: AtomicBool::new(false),
        };
        let source = source.place.name().to_owned();
        Hit { cell: LayerCell::remote(diff_id, blob, Arc::new(lazy)), created, source }
    }
}

impl Source {
    /// The records, once they are read; `None` where the cache is of no use.
    fn known(&self, cancel: &Cancel) -> Option<Arc<Known>> {
        let mut index = lock(&self.index);
        loop {
            if self.given_up.load(Ordering::SeqCst) || cancel.is_cancelled() {
                return None;
            }
            if let Reading::Ended(known) = &*index {
                return Some(known.clone());
            }
            index = self.ready.wait_timeout(index, ASK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a record is signed as it must be here. Signatures are looked at when a record is asked for.
    fn trusts(&self, record: &impl Signed, shared: &Shared) -> bool {
        let Some(verify) = &self.verify else { return true };
        let trusted = record.is_signed(&**verify);
        if !trusted && !self.told.swap(true, Ordering::SeqCst) {
            let name = self.place.name();
            shared.events.warn(format!(
                "records of the cache at {name} are not signed by the key that verify= names, and are not used"
            ));
        }
        trusted
    }

    fn read(&self, shared: &Shared) {
        let name = self.place.name();
        let events = &shared.events;
        let vertex = events.add(VertexKind::Transfer, format!("importing cache manifest from {name}"));
        events.send(Event::Started { vertex });
        let begun = Instant::now();
        let read = self.place.read(&shared.cancel);
        let (known, outcome) = self.judge(read, shared, vertex);
        *lock(&self.index) = Reading::Ended(Arc::new(known));
        self.ready.notify_all();
        events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
    }

    fn judge(
        &self,
        read: Result<ReadCache, CacheError>,
        shared: &Shared,
        vertex: VertexId,
    ) -> (Known, Outcome) {
        let name = self.place.name();
        let log = |line: String| {
            let line = line.into_bytes();
            shared.events.send(Event::Log { vertex, stream: Stream::Stdout, line });
        };
        match read {
            Ok(ReadCache { document, failures }) => {
                for failure in &failures {
                    shared.events.warn(format!("a part of the cache at {name} is not used: {failure}"));
                }
                log(format!("{} steps", document.entries.len()));
                (Known::of(document), Outcome::Done)
            }
            Err(error) if error.is_cancelled() => (Known::default(), Outcome::Canceled),
            Err(error) if error.is_not_found() => {
                log("nothing is there yet".into());
                (Known::default(), Outcome::Done)
            }
            Err(error) => {
                shared.events.warn(format!("the cache at {name} is not used: {error}"));
                (Known::default(), Outcome::Done)
            }
        }
    }
}

impl Known {
    fn of(document: CacheDocument) -> Self {
        let answers = document.answers.iter().map(|answer| (answer.key, answer.clone())).collect();
        Known { answers, entries: document.by_key() }
    }
}

/// The layer of a result, which comes when it is needed.
struct Lazy {
    source: Arc<Source>,
    shared: Arc<Shared>,
    entry: Entry,
    record: Record,
    phase: Mutex<Phase>,
    changed: Condvar,
    /// Its content has the diff ID.
    proved: AtomicBool,
}

#[derive(Clone)]
enum Phase {
    Waiting,
    Running,
    Ended(Result<(), String>),
}

impl Lazy {
    fn run(&self) {
        let layer = &self.entry.layer;
        let result = if self.shared.store.has_blob(&layer.digest) { Ok(()) } else { self.transfer() };
        let result = result.map_err(|error| self.give_up(&error));
        *lock(&self.phase) = Phase::Ended(result);
        self.changed.notify_all();
    }

    fn transfer(&self) -> Result<(), String> {
        let layer = &self.entry.layer;
        let (events, item) = (&self.shared.events, layer.digest.short());
        let name = format!("pull {item} from the cache at {}", self.source.place.name());
        let vertex = events.add(VertexKind::Transfer, name);
        events.send(Event::Started { vertex });
        let begun = Instant::now();
        let progress = |current| {
            let total = Some(layer.size);
            events.send(Event::Progress { vertex, item: item.clone(), current, total });
        };
        let fetched = self.source.place.fetch(layer, &self.shared.store, &progress, &self.shared.cancel);
        if fetched.as_ref().is_err_and(CacheError::is_damage) {
            lock(&self.shared.bad).insert(layer.digest);
        }
        let result = fetched.map_err(|error| error.to_string());
        let outcome = match &result {
            Ok(()) => Outcome::Done,
            Err(message) => Outcome::Failed(message.clone()),
        };
        events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
        result
    }

    /// Whether the content is the layer that the record says. Makes its list of files on the way.
    fn prove(&self) -> Result<(), String> {
        if self.proved.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (store, layer) = (&self.shared.store, &self.entry.layer);
        let opened = store.open_blob(&layer.digest).map_err(|error| error.to_string())?;
        let blob = opened.ok_or_else(|| format!("the store lost blob {}", layer.digest))?;
        if let Err(error) = layer::make_index(store, &self.entry.diff_id, blob) {
            lock(&self.shared.bad).insert(layer.digest);
            return Err(self.give_up(&error.to_string()));
        }
        self.is_right();
        Ok(())
    }

    /// Says that the cache is of no use any more.
    fn give_up(&self, why: &str) -> String {
        let name = self.source.place.name();
        let message = format!(
            "the cache at {name} did not give the layer of {} ({}): {why}",
            self.entry.step, self.entry.layer.digest
        );
        self.source.given_up.store(true, Ordering::SeqCst);
        self.source.ready.notify_all();
        lock(&self.shared.lost).push(message.clone());
        message
    }
}

impl Fetch for Lazy {
    fn begin(self: Arc<Self>) {
        let mut phase = lock(&self.phase);
        if !matches!(*phase, Phase::Waiting) {
            return;
        }
        *phase = Phase::Running;
        drop(phase);
        let this = self.clone();
        match std::thread::Builder::new().name("cache".into()).spawn(move || this.run()) {
            Ok(thread) => lock(&self.shared.fetchers).push(thread),
            Err(_) => self.run(),
        }
    }

    fn wait(self: Arc<Self>) -> Result<(), String> {
        self.clone().begin();
        let mut phase = lock(&self.phase);
        loop {
            match &*phase {
                Phase::Ended(result) => {
                    let result = result.clone();
                    drop(phase);
                    return result.and_then(|()| self.prove());
                }
                _ => phase = self.changed.wait(phase).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn has_ended(&self) -> bool {
        matches!(*lock(&self.phase), Phase::Ended(_))
    }

    /// From here on the store has the result by itself.
    fn is_right(&self) {
        if self.proved.swap(true, Ordering::SeqCst) {
            return;
        }
        let (store, blob) = (&self.shared.store, self.entry.layer.info());
        if layer::add_blob(store, &self.entry.diff_id, 0, &blob).is_ok() {
            let _ = self.shared.records.put(&self.record);
        }
    }

    fn is_trusted(&self) -> bool {
        self.proved.load(Ordering::SeqCst)
    }

    fn is_at_a_registry(&self) -> bool {
        self.source.place.origin().is_some()
    }
}
