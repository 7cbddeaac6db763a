//! Locks: finding the one that counts for a build, and making one.

use std::collections::BTreeSet;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::context::{ContextKind, FileKind, FileSource as _, MainContext, Opened as OpenedFile};
use crate::dockerfile::{Source, Span};
use crate::event::Events;
use crate::fs::new_file_beside;
use crate::image::Reference;
use crate::plan::{BaseConfigs, Entitlements, Plan, PlanInput, RemoteSource, Step, StepKind};
use crate::sources::lock::{self, MAX_SIZE};
use crate::sources::{Change, LoadedLock, Lock, LockError, LockUse, Locking, Rules, SourceOptions};
use crate::steps::remote::Remotes;

use super::bases::Bases;
use super::contexts;
use super::engine::Engine;
use super::epoch::Times;
use super::failure::{Failure, FailureKind};
use super::prepare::{Opened, plan_with_bases, platforms};
use super::request::BuildRequest;

/// How a lock is made.
#[derive(Clone, Debug, Default)]
pub struct LockOptions {
    /// What of an existing lock is looked up anew. Never [`Locking::No`].
    pub update: Locking,
    /// The file is compared, and not written.
    pub check: bool,
}

/// A lock that was made.
#[derive(Clone, Debug)]
pub struct Locked {
    /// Where it lies.
    pub path: PathBuf,
    /// There was none before.
    pub is_new: bool,
    /// How many sources it pins.
    pub sources: usize,
    /// How it differs from what was there. Empty where nothing was written.
    pub changes: Vec<Change>,
    /// The text differs, be it in nothing but its order.
    pub differs: bool,
}

/// Where a lock is, and what it is called.
enum Place {
    /// A file of this machine, named by the user.
    Given(PathBuf, String),
    /// The file of the usual name beside a Dockerfile of this machine, and the directory that links must not lead out
    /// of: both may be a stranger's.
    Beside { path: PathBuf, name: String, within: PathBuf },
    /// A file of the context, which lies elsewhere: links lead nowhere out of it.
    InContext(String),
}

/// The name of a Dockerfile as its lock has it.
fn own_name(main: &MainContext) -> &str {
    let name = main.dockerfile_name.as_str();
    name.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("Dockerfile")
}

fn place(request: &BuildRequest, main: Option<&MainContext>) -> Option<Place> {
    if let Some(given) = &request.sources.lock_file {
        return Some(Place::Given(request.cwd.join(given), given.display().to_string()));
    }
    let main = main?;
    let name = format!("{}.lock", main.dockerfile_name);
    if let Some(dockerfile) = &main.dockerfile_path {
        let mut path = dockerfile.clone().into_os_string();
        path.push(".lock");
        let path: PathBuf = PathBuf::from(path).components().collect();
        let root = main.context.root();
        let beside = path.parent().unwrap_or(root);
        let within = if beside.starts_with(root) { root } else { beside }.to_owned();
        return Some(Place::Beside { path, name, within });
    }
    let is_here = main.kind != ContextKind::DockerfileOnly
        && matches!(main.context.resolve(main.dockerfile_name.as_bytes()), Ok(Some(_)));
    is_here.then_some(Place::InContext(name))
}

impl Place {
    fn name(&self) -> &str {
        match self {
            Place::Given(_, name) | Place::Beside { name, .. } | Place::InContext(name) => name,
        }
    }

    /// The file, where it is one of this machine.
    fn path(&self) -> Option<&Path> {
        match self {
            Place::Given(path, _) | Place::Beside { path, .. } => Some(path),
            Place::InContext(_) => None,
        }
    }

    /// Refuses a link that leads elsewhere: reading would print a stranger's choice of files, and writing replace it.
    fn refuse_way_out(&self) -> Result<(), LockError> {
        let Place::Beside { path, within, .. } = self else { return Ok(()) };
        if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) {
            return Ok(());
        }
        let real = |path: &Path| path.canonicalize().ok();
        match real(path).zip(real(within)) {
            Some((target, within)) if target.starts_with(&within) => Ok(()),
            _ => {
                let message = format!("is a link that leads to no file in {}", within.display());
                Err(LockError { message, span: None })
            }
        }
    }

    fn read(&self, main: Option<&MainContext>) -> Result<Option<Vec<u8>>, LockError> {
        self.refuse_way_out()?;
        match (self, main) {
            (Place::Given(path, _) | Place::Beside { path, .. }, _) => lock::read(path),
            (Place::InContext(name), Some(main)) => read_in_context(main, name),
            (Place::InContext(_), None) => Ok(None),
        }
    }

    /// The lock that lies here; `None` where there is none.
    fn load(&self, main: Option<&MainContext>) -> Result<Option<LoadedLock>, Failure> {
        let name = self.name();
        let whole = |error: &LockError| Failure::new(FailureKind::Lock, format!("{name} {}", error.message));
        let bytes = self.read(main).map_err(|error| whole(&error))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let text = lock::text(bytes).map_err(|error| whole(&error).help(ANEW))?;
        match Lock::parse(&text) {
            Ok(lock) => Ok(Some(LoadedLock { name: name.to_owned(), lock })),
            Err(error) => Err(match &error.span {
                None => whole(&error).help(ANEW),
                Some(span) => Failure::new(FailureKind::Lock, error.message)
                    .help(ANEW)
                    .at(&Source::new(name, text), Span::new(span.start, span.end)),
            }),
        }
    }
}

/// What to do about a lock that cannot be read.
const ANEW: &str =
    "restore it from version control, or make it anew with `rbuild lock --update`; --no-lock builds without";

fn read_in_context(main: &MainContext, name: &str) -> Result<Option<Vec<u8>>, LockError> {
    let whole = |message: String| LockError { message, span: None };
    let failed = |error: &dyn std::fmt::Display| whole(format!("cannot be read: {error}"));
    let Ok(Some(info)) = main.context.resolve(name.as_bytes()) else { return Ok(None) };
    let FileKind::File { size } = info.kind else { return Err(whole("is no regular file".into())) };
    if size > MAX_SIZE {
        return Err(whole(format!("has {size} bytes; a lock has at most {MAX_SIZE}")));
    }
    let OpenedFile::File(file) = main.context.open(&info.path).map_err(|error| failed(&error))? else {
        return Err(whole("is no regular file".into()));
    };
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    Ok(Some(bytes))
}

/// Makes the lock count that `--lock-file` names, which pins the context too.
pub(super) fn load_given(rules: &Rules, request: &BuildRequest) -> Result<(), Failure> {
    let options = &request.sources;
    if options.lock == LockUse::Ignored || options.lock_file.is_none() {
        return Ok(());
    }
    load(rules, request, None)
}

/// Makes the lock beside the Dockerfile count, and checks that the one that counts is this Dockerfile's.
pub(super) fn load_beside(rules: &Rules, request: &BuildRequest, main: &MainContext) -> Result<(), Failure> {
    if request.sources.lock == LockUse::Ignored {
        return Ok(());
    }
    if request.sources.lock_file.is_none() {
        load(rules, request, Some(main))?;
    }
    let Some(loaded) = rules.lock() else {
        if request.sources.lock != LockUse::Required {
            return Ok(());
        }
        let message = match place(request, Some(main)) {
            Some(place) => format!("there is no {}, and only what it pins may be read", place.name()),
            None => "the Dockerfile has no lock, and only what one pins may be read".to_owned(),
        };
        return Err(Failure::new(FailureKind::Lock, message)
            .help("`rbuild lock` writes it beside the Dockerfile; --lock-file names another place"));
    };
    let (own, other) = (own_name(main), &loaded.lock.dockerfile);
    if own == other {
        return Ok(());
    }
    let message = format!("{} is the lock of another Dockerfile: of {other}, not of {own}", loaded.name);
    Err(Failure::new(FailureKind::Lock, message)
        .help("`rbuild lock --update` makes one for this Dockerfile; --no-lock builds without"))
}

fn load(rules: &Rules, request: &BuildRequest, main: Option<&MainContext>) -> Result<(), Failure> {
    let options = &request.sources;
    if options.locking == Locking::All {
        return Ok(());
    }
    let Some(place) = place(request, main) else { return Ok(()) };
    let Some(mut loaded) = place.load(main)? else {
        // A build is not to go without a lock because of a typing mistake.
        return match (&place, &options.locking) {
            (Place::Given(_, name), Locking::No) => {
                let message = format!("there is no lock {name}");
                Err(Failure::new(FailureKind::Lock, message)
                    .help("`rbuild lock` with the same --lock-file writes it; --no-lock builds without"))
            }
            _ => Ok(()),
        };
    };
    if let Locking::Some(names) = &options.locking {
        for wanted in names {
            if loaded.lock.forget(wanted) == 0 {
                let message = format!("{} has no entry for {wanted}", loaded.name);
                return Err(Failure::new(FailureKind::Usage, message).help(
                    "name an image, repository or URL as the lock has it; without a name, all are updated",
                ));
            }
        }
    }
    rules.honour(loaded);
    Ok(())
}

/// Whether the rules allow all that steps will fetch, before the first of them does.
pub(super) fn check_plan(plan: &Plan, remotes: &Remotes) -> Result<(), Failure> {
    for (step, source) in remote_sources(plan) {
        remotes.check(source).map_err(|error| contexts::failure(error).at(&step.source, step.span))?;
    }
    Ok(())
}

pub(super) fn remote_sources(plan: &Plan) -> impl Iterator<Item = (&Step, &RemoteSource)> {
    plan.steps.iter().flat_map(|step| {
        let remote = match &step.kind {
            StepKind::Copy(copy) => copy.remote.as_slice(),
            _ => &[],
        };
        remote.iter().map(move |source| (step, source))
    })
}

impl Engine {
    /// Makes the lock of a Dockerfile: of the request's target, or of all stages if it names none, for its
    /// platforms.
    ///
    /// # Errors
    /// As a build, up to its first step; a source that cannot be resolved.
    pub fn lock(
        &self,
        request: &BuildRequest,
        options: &LockOptions,
        stdin: &mut (dyn Read + Send),
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Locked, Failure> {
        let sources = SourceOptions {
            lock: LockUse::IfThere,
            locking: options.update.clone(),
            ..request.sources.clone()
        };
        let request = &BuildRequest { allow: Entitlements::all(), sources, ..request.clone() };
        self.store.cancel_by(cancel);
        let opened = self.open_request(request, Times::Unknown, stdin, events, cancel)?;
        let file = place(request, Some(&opened.main));
        let Some((file, path)) =
            file.and_then(|file| file.path().map(Path::to_owned).map(|path| (file, path)))
        else {
            let message = "the Dockerfile is no file of this machine, so there is no place for its lock";
            return Err(Failure::new(FailureKind::Usage, message).help("name one with --lock-file"));
        };
        file.refuse_way_out().map_err(|error| {
            let message = format!("{} {}", file.name(), error.message);
            Failure::new(FailureKind::Lock, message).help("name the lock itself with --lock-file")
        })?;
        let new = self.resolved(request, &opened, events, cancel)?;
        // What could not be read is written anew, which is what updating everything is for.
        let old = match (&options.update, file.load(None)) {
            (_, Ok(old)) => old.map(|loaded| loaded.lock),
            (Locking::All, Err(failure)) if !options.check => {
                events.warn(format!("{} is replaced: {}", file.name(), failure.message));
                None
            }
            (_, Err(failure)) => return Err(failure),
        };
        let text = new.render();
        let differs = file.read(None).ok().flatten().as_deref() != Some(text.as_bytes());
        if differs && !options.check {
            write(&path, &text)?;
        }
        let is_new = old.is_none();
        let changes = old.unwrap_or_default().changes(&new);
        Ok(Locked { path, is_new, sources: new.len(), changes, differs })
    }

    /// What all sources of a request resolve to.
    fn resolved(
        &self,
        request: &BuildRequest,
        opened: &Opened,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Lock, Failure> {
        let bases = self.bases(request, opened, request.pull, events, cancel);
        for plan in self.plans_of_all(request, opened, &bases, cancel)? {
            for (step, source) in remote_sources(&plan) {
                let here = |failure: Failure| failure.at(&step.source, step.span);
                let is_known = opened.remotes.is_pinned_file(source).map_err(contexts::failure);
                if !is_known.map_err(here)? {
                    opened.look_up(source, events, cancel).map_err(here)?;
                }
            }
        }
        let rules = opened.remotes.rules();
        let old = rules.lock().map(|loaded| &loaded.lock);
        if let Some(syntax) = &opened.dockerfile.directives.syntax
            && let Some(name) = syntax.text.split_whitespace().next()
            && let Ok(name) = Reference::parse(name).map(Reference::with_default_tag)
        {
            match old.and_then(|old| old.syntax.get(&name.to_string())) {
                Some(digest) => rules.saw_syntax(&name, *digest),
                // rbuild never reads it, so it can do without.
                None => match bases.allowed(&name).and_then(|wanted| bases.top_of(&wanted.reference)) {
                    Ok(digest) => rules.saw_syntax(&name, digest),
                    Err(failure) => {
                        events.warn(format!("the lock gets no `# syntax` entry: {}", failure.message));
                    }
                },
            }
        }
        Ok(Lock { dockerfile: own_name(&opened.main).to_owned(), ..rules.seen() })
    }

    /// Plans of the target or of all stages, for all platforms.
    pub(super) fn plans_of_all(
        &self,
        request: &BuildRequest,
        opened: &Opened,
        bases: &Bases,
        cancel: &Cancel,
    ) -> Result<Vec<Plan>, Failure> {
        let (mut plans, mut configs) = (Vec::new(), BaseConfigs::default());
        let first = opened.first_input(request)?;
        for platform in platforms(&request.platforms)? {
            let input = PlanInput { platform, ..first.clone() };
            if input.target.is_some() {
                plans.push(plan_with_bases(&opened.dockerfile, &input, bases, &mut configs, cancel)?);
                continue;
            }
            let mut planned = BTreeSet::new();
            for index in (0..opened.dockerfile.stages.len()).rev() {
                if planned.contains(&index) {
                    continue;
                }
                let input = PlanInput { stage: Some(index), ..input.clone() };
                let plan = plan_with_bases(&opened.dockerfile, &input, bases, &mut configs, cancel)?;
                planned.extend(plan.stages.iter().map(|stage| stage.index));
                plans.push(plan);
            }
        }
        Ok(plans)
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(FailureKind::Output, format!("cannot write {}: {error}", path.display()))
    };
    // A link to a lock stays one.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mode = std::fs::metadata(path).map_or(0o644, |meta| {
        use std::os::unix::fs::PermissionsExt as _;
        meta.permissions().mode() & 0o777
    });
    let written = new_file_beside(path, mode).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        Ok(file.persist(path).map(drop)?)
    });
    written.map_err(failed)
}
