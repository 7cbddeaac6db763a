//! What is remembered of a build, and what it knows of those before it.
//!
//! A [`History`] stands between a build and whoever shows it: it takes the events and passes them on, learns how steps
//! are looked up, and tells why a step has no result that an earlier build had. When the build has ended it becomes one
//! file of the store. A build in which nothing is executed reads nothing for it. Promises that no failure here is one of
//! the build, and that values of secrets and of arguments that look like secrets are in no record.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cache::{Closest, GENERATION, Import, Lookup, Records};
use crate::cancel::Cancel;
use crate::digest::{Digest, Hasher};
use crate::event::{Event, EventSink, Events, Outcome, VertexId, VertexKind};
use crate::explain::{
    self, BuildRecord, Cause, Earlier, Explainer, PlatformRecord, Shown, Status, StepOutcome, StepRecord,
    Variable,
};
use crate::image::Platform;
use crate::lint::looks_secret;
use crate::plan::{Base, Plan, Step, StepKind};
use crate::remote::without_credentials;
use crate::solve::{Answered, Miss, Question, Witness};
use crate::steps::mount::Secret;
use crate::steps::redact::Forms;
use crate::store::{RememberedBuild, Store};

use super::caching::Solution;
use super::failure::{Failure, FailureKind};
use super::history_log::Log;
use super::prepare::Prepared;
use super::request::{BuildOutcome, BuildRequest};

/// Builds of a kind that are compared, the newest first.
const MOST_COMPARED: usize = 8;
/// Warnings that are kept.
const MOST_WARNINGS: usize = 50;
/// Bytes of a Dockerfile that are kept.
const MOST_TEXT: usize = 1 << 20;
/// Bytes of a head that are read, unpacked.
const MOST_HEAD: u64 = 256 << 20;
/// From this size on a head is compressed.
const LONG_HEAD: usize = 16 << 10;

/// A build that is being remembered.
pub(super) struct History {
    store: Store,
    begun: Instant,
    name: RememberedBuild,
    kind: Digest,
    cancel: Cancel,
    /// What must not be shown.
    hidden: Forms,
    next: Arc<dyn EventSink>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    build: BuildRecord,
    /// There is something worth remembering.
    prepared: bool,
    /// Steps by their vertexes, and how many of the last platform's have one.
    places: BTreeMap<VertexId, (usize, usize)>,
    placed: usize,
    log: Log,
    listings: HashMap<Digest, Arc<Vec<u8>>>,
    /// For each platform, once something was missed.
    earlier: BTreeMap<usize, Vec<Earlier>>,
    import: Option<Arc<Import>>,
}

/// The events of a build and the one who learns of its look-ups.
pub(super) struct Recorded {
    pub events: Events,
    pub history: Arc<History>,
}

impl History {
    /// Begins with a build.
    pub fn begin(store: &Store, request: &BuildRequest, events: &Events, cancel: &Cancel) -> Recorded {
        let begun = SystemTime::now();
        let kind = kind(request);
        let hidden = hidden(request);
        let since = begun.duration_since(UNIX_EPOCH).unwrap_or_default();
        let build = BuildRecord {
            keys: GENERATION.to_owned(),
            begun: i64::try_from(since.as_millis()).unwrap_or(0),
            context: without_credentials(&request.context),
            dockerfile: request
                .dockerfile
                .as_ref()
                .map_or("Dockerfile".into(), |name| without_credentials(name)),
            target: request.target.clone(),
            build_args: arguments(store, request, &hidden),
            no_cache: request.no_cache,
            cache_from: request.cache_from.iter().map(ToString::to_string).collect(),
            ..BuildRecord::default()
        };
        let history = Arc::new(History {
            store: store.clone(),
            begun: Instant::now(),
            name: RememberedBuild::new(store, begun, &kind),
            kind,
            cancel: cancel.clone(),
            hidden,
            next: events.sink(),
            state: Mutex::new(State { build, ..State::default() }),
        });
        Recorded { events: events.through(history.clone()), history }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is known before anything is solved.
    pub fn prepared(&self, prepared: &Prepared, import: Option<&Arc<Import>>) {
        let mut state = self.state();
        state.prepared = true;
        let text = prepared.dockerfile.text();
        let whole = text.len() <= MOST_TEXT;
        state.build.text = if whole { self.hide(text) } else { String::new() };
        state.build.ignore = prepared.ignore.map(|digest| digest.to_string());
        state.import = import.cloned();
    }

    /// Begins with the steps of a platform; again where a build has to begin anew.
    pub fn begin_platform(&self, platform: &Platform, plan: &Plan, prepared: &Prepared) {
        let bases = prepared.bases.share();
        let digest = |step: &Step| match &step.kind {
            StepKind::From(from) => match &from.base {
                Base::Image { id, name } => {
                    let digest = bases.meaning(*id).map(|digest| digest.to_string());
                    Some((name.clone(), digest.unwrap_or_default()))
                }
                Base::Scratch => None,
            },
            _ => None,
        };
        let steps = plan.steps.iter().map(|step| self.step(step, digest(step))).collect();
        let record = PlatformRecord { platform: platform.to_string(), steps };
        let mut state = self.state();
        state.placed = 0;
        match state.build.platforms.iter_mut().find(|known| known.platform == record.platform) {
            Some(known) => *known = record,
            None => state.build.platforms.push(record),
        }
    }

    fn step(&self, step: &Step, base: Option<(String, String)>) -> StepRecord {
        let (start, end) = (step.span.start, step.span.end);
        let text = step.source.text().get(start..end).unwrap_or_default();
        let is_base = matches!(step.kind, StepKind::From(_));
        StepRecord {
            name: self.hide(&step.name),
            stage: step.stage_name.clone().unwrap_or_else(|| step.stage.to_string()),
            hidden_text: self.hidden_text(text),
            text: self.hide(text),
            file: step.source.name().to_owned(),
            lines: (
                step.source.location(start).line,
                step.source.location(end.saturating_sub(1).max(start)).line,
            ),
            parent: step.parent.map(|id| id.0),
            sources: step.sources().map(|id| id.0).collect(),
            outcome: if is_base { StepOutcome::Base } else { StepOutcome::NotReached },
            base,
            ..StepRecord::default()
        }
    }

    /// What an instruction can be told by, where not all of it is shown.
    fn hidden_text(&self, text: &str) -> Option<String> {
        let is_hidden = !self.hidden.is_empty() && self.hide(text) != text;
        is_hidden.then(|| keyed(&self.store, &explain::normal(text)))
    }

    fn hide(&self, text: &str) -> String {
        if self.hidden.is_empty() {
            return text.to_owned();
        }
        String::from_utf8_lossy(&self.hidden.hide(text.as_bytes())).into_owned()
    }

    /// A definition without values that must not be shown.
    fn shown(&self, definition: &Value) -> Value {
        let mut shown = definition.clone();
        let step = if shown.get("step").is_some() { shown.get_mut("step") } else { Some(&mut shown) };
        if let Some(env) = step.and_then(|step| step.get_mut("env")).and_then(Value::as_array_mut) {
            for pair in env {
                let name = pair.get(0).and_then(Value::as_str).unwrap_or_default().to_owned();
                if let Some(value) = pair.get_mut(1).filter(|_| looks_secret(&name)) {
                    *value = json!({"hidden": keyed(&self.store, value.as_str().unwrap_or_default())});
                }
            }
        }
        if !self.hidden.is_empty() {
            self.hide_in(&mut shown);
        }
        shown
    }

    fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                let shown = self.hide(text);
                if shown != *text {
                    *value = json!({"hidden": keyed(&self.store, text), "text": shown});
                }
            }
            Value::Array(all) => all.iter_mut().for_each(|value| self.hide_in(value)),
            Value::Object(all) => all.values_mut().for_each(|value| self.hide_in(value)),
            _ => {}
        }
    }

    /// The layers that steps stand on, now that all are known.
    pub fn solved(&self, solutions: &[Solution<'_>]) {
        let mut state = self.state();
        for (record, solution) in state.build.platforms.iter_mut().zip(solutions) {
            for (step, planned) in record.steps.iter_mut().zip(&solution.plan.steps) {
                if step.layers.is_some() || step.definition.is_null() {
                    continue;
                }
                let parent = planned.parent.and_then(|id| solution.solved.states.get(id.0));
                step.layers = parent.and_then(|state| state.chain.known_id()?.ok());
            }
        }
    }

    /// Keeps the build. What cannot be written is forgotten.
    pub fn end(&self, result: &Result<BuildOutcome, Failure>) {
        let mut state = self.state();
        let state = &mut *state;
        let build = &mut state.build;
        build.took = millis(self.begun.elapsed());
        match result {
            Ok(outcome) => {
                build.names.clone_from(&outcome.names);
                build.image = outcome.image.as_ref().map(|image| image.id.to_string());
                let top = outcome.image.as_ref().and_then(|image| image.descriptor.as_ref());
                build.manifest = top.map(|top| top.digest.to_string());
            }
            Err(failure) => {
                // A mistake in the command line is no build.
                let begun = state.prepared
                    || matches!(
                        failure.kind,
                        FailureKind::Dockerfile | FailureKind::Base | FailureKind::OutOfReach
                    );
                if !begun {
                    return;
                }
                let canceled = failure.kind == FailureKind::Interrupted;
                build.status = if canceled { Status::Canceled } else { Status::Error };
                build.error = Some(self.hide(&failure.message));
            }
        }
        let Ok(mut head) = serde_json::to_vec(&*build) else { return };
        if head.len() > LONG_HEAD {
            head = zstd::encode_all(&*head, 1).unwrap_or(head);
        }
        let mut log = std::mem::take(&mut state.log).finish();
        let _ = self.store.remember_build(&self.name, &head, log.as_mut());
    }

    /// The causes of the misses of a platform, by the positions of steps.
    pub fn causes(&self, platform: &Platform) -> Vec<Option<Cause>> {
        let name = platform.to_string();
        let state = self.state();
        let record = state.build.platforms.iter().find(|record| record.platform == name);
        record.map(|record| record.steps.iter().map(|step| step.cause.clone()).collect()).unwrap_or_default()
    }

    /// Where the results of a platform's steps are, by the positions of steps.
    pub fn sources(&self, platform: &Platform) -> Vec<Option<String>> {
        let name = platform.to_string();
        let state = self.state();
        let record = state.build.platforms.iter().find(|record| record.platform == name);
        record.map(|record| record.steps.iter().map(|step| step.from.clone()).collect()).unwrap_or_default()
    }

    /// Builds before this one, as far as they concern a platform.
    fn find_earlier(&self, platform: &str) -> Vec<Earlier> {
        let all = self.store.builds().unwrap_or_default();
        let pruned = self.store.last_collection();
        let mut found = Vec::new();
        for build in all.iter().filter(|build| build.is_of(&self.kind)).take(MOST_COMPARED) {
            let Some(record) = read_record(&self.store, build) else { continue };
            let Some(platform) = record.platforms.iter().position(|known| known.platform == platform) else {
                continue;
            };
            let ended = u64::try_from(record.begun).unwrap_or(0).saturating_add(record.took);
            let since = pruned.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let since = since.filter(|since| since.as_millis() > u128::from(ended));
            let day = since.map(|since| i64::try_from(since.as_secs()).unwrap_or(0));
            let pruned = day.map(|day| crate::time::rfc3339(day, 0).chars().take(10).collect());
            found.push(Earlier { record, platform, pruned });
        }
        found
    }

    fn missed(&self, question: &Question<'_>, miss: Miss) {
        let at = question.step.id.0;
        let mut state = self.state();
        let state = &mut *state;
        let Some(platform) = state.build.platforms.len().checked_sub(1) else { return };
        if miss != Miss::NotAsked && !state.earlier.contains_key(&platform) {
            let name = state.build.platforms[platform].platform.clone();
            state.earlier.insert(platform, self.find_earlier(&name));
        }
        let records = Records::new(self.store.clone());
        let listings = |digest: &Digest| listing(&state.listings, &records, digest);
        let none = Vec::new();
        let keyed = |text: &str| keyed(&self.store, text);
        let explainer = Explainer {
            build: &state.build,
            steps: &state.build.platforms[platform].steps,
            earlier: state.earlier.get(&platform).unwrap_or(&none),
            listings: &listings,
            keyed: &keyed,
        };
        let mut cause = explainer.cause(at, miss);
        if !cause.is_news()
            && let Some(import) = &state.import
        {
            let closest = import.closest(&question.step.name, question.parent, &self.cancel);
            cause = Cause::not_in_caches(closest.into_iter().map(|(name, closest)| (name, words(closest))));
        }
        if let Some(step) = state.build.platforms[platform].steps.get_mut(at) {
            step.cause = Some(cause.clone());
        }
        if let Some(vertex) = question.vertex.filter(|_| cause.is_news()) {
            let data = Arc::new(serde_json::to_value(&cause).unwrap_or_default());
            self.next.event(Event::Missed { vertex, why: cause.line(), cause: data });
        }
    }
}

/// What a list of an input is: of this build, or of the store.
fn listing(
    known: &HashMap<Digest, Arc<Vec<u8>>>,
    records: &Records,
    digest: &Digest,
) -> Option<Arc<Vec<u8>>> {
    let Some(list) = known.get(digest) else {
        return records.pre_image(digest).ok().flatten().map(Arc::new);
    };
    match Records::alias_of(list) {
        Some(other) => listing(known, records, &other),
        None => Some(list.clone()),
    }
}

fn words(closest: Closest) -> &'static str {
    match closest {
        Closest::OtherInputs => "has a record of it with other files or arguments",
        Closest::OtherLayers => "has a record of it on other layers",
        Closest::None => "has no record of it",
        Closest::Empty => "has no records",
    }
}

impl Witness for History {
    fn looked_up(&self, question: &Question<'_>, answer: Answered<'_>) {
        {
            let mut state = self.state();
            let Some(platform) = state.build.platforms.last_mut() else { return };
            let Some(step) = platform.steps.get_mut(question.step.id.0) else { return };
            step.definition = self.shown(question.definition);
            step.inputs = question.inputs.to_vec();
            for input in &mut step.inputs {
                if input.name.contains("://") {
                    input.name = without_credentials(&input.name);
                }
                input.name = self.hide(&input.name);
            }
            step.layers = question.parent;
            step.cause = None;
            match answer {
                Answered::Store => step.from = Some("store".into()),
                Answered::Elsewhere(name) => step.from = Some(name.to_owned()),
                Answered::Missed(_) => step.from = None,
            }
        }
        if let Answered::Missed(miss) = answer {
            self.missed(question, miss);
        }
    }

    fn listed(&self, digest: &Digest, listing: &Arc<Vec<u8>>) {
        self.state().listings.insert(*digest, listing.clone());
    }
}

impl EventSink for History {
    fn event(&self, event: Event) {
        match &event {
            Event::Added { vertex, kind: VertexKind::Step, .. } => {
                let mut state = self.state();
                if let Some(platform) = state.build.platforms.len().checked_sub(1) {
                    let place = (platform, state.placed);
                    state.places.insert(*vertex, place);
                    state.placed += 1;
                }
            }
            Event::Started { vertex } => {
                let began = millis(self.begun.elapsed());
                self.with_step(*vertex, |step| step.began = began);
            }
            Event::Finished { vertex, outcome, elapsed } => {
                let took = millis(*elapsed);
                self.with_step(*vertex, |step| {
                    step.took = took;
                    step.outcome = match outcome {
                        _ if step.outcome == StepOutcome::Base => StepOutcome::Base,
                        Outcome::Done => StepOutcome::Executed,
                        Outcome::Cached => StepOutcome::Cached,
                        Outcome::Failed(_) => StepOutcome::Failed,
                        Outcome::Canceled => StepOutcome::NotReached,
                    };
                });
            }
            Event::Log { vertex, stream, line } => {
                let mut state = self.state();
                if let Some((platform, step)) = state.places.get(vertex).copied() {
                    let began = state.build.platforms.get(platform).and_then(|all| all.steps.get(step));
                    let began = began.map_or(0, |step| step.began);
                    let since = millis(self.begun.elapsed()).saturating_sub(began);
                    let line = self.hidden.hide_shown(line);
                    state.log.add(&self.store, (platform, step), *stream, since, &line);
                }
            }
            Event::Warning { message, location, .. } => {
                let mut state = self.state();
                if state.build.warnings.len() < MOST_WARNINGS {
                    let place = location.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
                    let text = self.hide(&format!("{message}{place}"));
                    state.build.warnings.push(text);
                }
            }
            _ => {}
        }
        self.next.event(event);
    }

    fn separates_streams(&self) -> bool {
        self.next.separates_streams()
    }
}

impl History {
    fn with_step(&self, vertex: VertexId, change: impl FnOnce(&mut StepRecord)) {
        let mut state = self.state();
        let Some((platform, step)) = state.places.get(&vertex).copied() else { return };
        if let Some(step) = state.build.platforms.get_mut(platform).and_then(|all| all.steps.get_mut(step)) {
            change(step);
        }
    }
}

/// The record of a build; `None` where it is forgotten, damaged or of a form that this version does not know.
pub fn read_record(store: &Store, build: &RememberedBuild) -> Option<BuildRecord> {
    let head = store.build_head(build).ok().flatten()?;
    match head.first() {
        Some(b'{') => serde_json::from_slice(&head).ok(),
        _ => {
            let mut text = Vec::new();
            zstd::Decoder::new(&*head).ok()?.take(MOST_HEAD).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What builds are compared by: the Dockerfile's place and the target, whatever is in them.
fn kind(request: &BuildRequest) -> Digest {
    let place = |text: &Path| -> Vec<u8> {
        let is_elsewhere =
            text.to_str().is_some_and(|text| text == "-" || text.contains("://") || text.starts_with("git@"));
        let path = if is_elsewhere { text.to_owned() } else { clean(&request.cwd.join(text)) };
        path.into_os_string().into_encoded_bytes()
    };
    let context: &Path = request.context.as_ref();
    let dockerfile = match &request.dockerfile {
        Some(name) => place(name.as_ref()),
        None => place(&context.join("Dockerfile")),
    };
    let mut hasher = Hasher::new();
    hasher.field(b"builds of one kind 1");
    hasher.field(&place(context));
    hasher.field(&dockerfile);
    hasher.field(request.target.as_deref().unwrap_or_default().as_bytes());
    hasher.finish()
}

/// A path without `.` and `..`, which is good enough to tell one from another.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

/// Values that are in no record: those of secrets, of arguments that look like one, and credentials in the addresses
/// that arguments are.
fn hidden(request: &BuildRequest) -> Forms {
    let hidden = |(name, value): &(String, String)| match looks_secret(name) {
        true => vec![value.clone()],
        false => passwords(value),
    };
    let values = request.build_args.iter().flat_map(hidden).filter(|value| !value.is_empty());
    let arguments: Vec<Secret> =
        values.map(|value| Secret { value: value.into_bytes().into(), invalidates: false }).collect();
    if request.secrets.is_empty() && arguments.is_empty() {
        return Forms::default();
    }
    Forms::of(request.secrets.values().chain(&arguments))
}

/// The secret parts of the addresses in a text: `PASSWORD` of `scheme://USER:PASSWORD@HOST`, `TOKEN` of
/// `scheme://TOKEN@HOST`.
fn passwords(text: &str) -> Vec<String> {
    let authorities = text.split("://").skip(1).map(|rest| {
        let end = rest.find(|c: char| matches!(c, '/' | '?' | '#') || c.is_whitespace());
        &rest[..end.unwrap_or(rest.len())]
    });
    let user = authorities.filter_map(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    user.map(|user| user.split_once(':').map_or(user, |(_, password)| password).to_owned()).collect()
}

/// The build arguments, each once: the last one given counts.
fn arguments(store: &Store, request: &BuildRequest, hidden: &Forms) -> Vec<Variable> {
    let mut all: Vec<Variable> = Vec::new();
    for (name, value) in request.build_args.iter().rev() {
        if all.iter().any(|known| known.name == *name) {
            continue;
        }
        let is_hidden = looks_secret(name) || hidden.hide(value.as_bytes()) != value.as_bytes();
        let value = match is_hidden {
            true => Shown::Hidden { hidden: keyed(store, value) },
            false => Shown::Plain(without_credentials(value)),
        };
        all.push(Variable { name: name.clone(), value });
    }
    all.reverse();
    all
}

/// What a value can be told by, by nobody who lacks the store.
fn keyed(store: &Store, value: &str) -> String {
    let secret = Secret { value: value.as_bytes().into(), invalidates: false };
    let key = store.secret_key().ok();
    key.map(|key| secret.keyed_digest("text of a build", &key).short()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_parts_of_addresses_are_found() {
        for (text, found) in [
            ("https://me:pass@h.test/x", &["pass"][..]),
            ("https://token@h.test", &["token"]),
            ("a=https://a:b@h c=ssh://x:y:z@h?q", &["b", "y:z"]),
            ("https://u:p@ss@h.test/a@b", &["p@ss"]),
            ("https://h.test/a:b@c", &[]),
            ("a@b:c", &[]),
            ("://@", &[""]),
            ("", &[]),
        ] {
            assert_eq!(passwords(text), found, "{text}");
        }
    }
}
