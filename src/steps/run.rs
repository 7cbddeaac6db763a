//! `RUN`: one process on an overlay, and the upper directory it leaves.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::event::{Event, Events, Stream, UNFINISHED, VertexId};
use crate::fs::IdMap;
use crate::layer::{self, Entry, EntryKind, LayerIndex, Metadata};
use crate::plan::RunStep;
use crate::sandbox::{
    EtcFiles, Exit, Mount, MountKind, OutputSink, ProcessSpec, ProcessUser, RootFs, Sandbox, SandboxError,
    Security, Stdio, Whose,
};
use crate::snapshot::{Chain, PlainRoot, SnapshotError, Snapshots, Tree};
use crate::store::{FullDisk, SnapshotId, Store, StoreError};
use crate::visible;

use super::device::{self, DeviceError};
use super::identity::IdentityError;
use super::log::StepLog;
use super::mount::{Maker, MountError, MountInput, Mounted, Secret};
use super::redact::Forms;
use super::why::Scene;

pub use super::settings::{DEFAULT_SHM, RunSettings};

/// Lines of output kept for the error message of a failing step.
const TAIL_LINES: usize = 20;

/// Why a `RUN` gave no layer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program ended with a failure.
    #[error("RUN failed: {how}")]
    Exit {
        /// `exit code: 1`, `signal: 9 (SIGKILL)`, `timed out after 10s`.
        how: String,
        /// The code the program gave, or 128 + signal.
        code: i32,
        /// Its last lines.
        tail: Vec<String>,
        /// The file with all of its output, where that is more.
        log: Option<PathBuf>,
        /// What may be behind it, if that can be told.
        hint: Option<String>,
    },
    /// The user interrupted, or another step failed.
    #[error("canceled")]
    Canceled,
    /// `USER` names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An ID that the process, or a mounted file, cannot have here.
    #[error("{0}")]
    Unmapped(String),
    /// The store's file system does not do what the mode needs.
    #[error("{0}")]
    Store(String),
    /// The programs are for another machine.
    #[error("{0}")]
    Foreign(String),
    /// A `--mount` is not available.
    #[error(transparent)]
    Mount(MountError),
    /// A `--device` is not available.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The sandbox could not be set up.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The program or the sandbox failed, and the store's disk is full.
    #[error("{disk}: {failure}")]
    FullDisk {
        /// The disk.
        disk: FullDisk,
        /// What failed.
        failure: Box<RunError>,
    },
    /// The root file system could not be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl RunError {
    /// The last lines of the program's output, and the file with all of it where that is more.
    pub fn into_output(self) -> (Vec<String>, Option<PathBuf>) {
        match self {
            RunError::Exit { tail, log, .. } => (tail, log),
            RunError::FullDisk { failure, .. } => failure.into_output(),
            _ => (Vec::new(), None),
        }
    }
}

impl From<MountError> for RunError {
    fn from(error: MountError) -> Self {
        match error {
            MountError::Canceled => RunError::Canceled,
            MountError::Snapshot(error) => RunError::Snapshot(error),
            other => RunError::Mount(other),
        }
    }
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        RunError::Snapshot(error.into())
    }
}

impl From<layer::LayerError> for RunError {
    fn from(error: layer::LayerError) -> Self {
        RunError::Snapshot(error.into())
    }
}

/// What a successful `RUN` leaves.
pub struct Ran {
    /// The frozen upper directory.
    pub snapshot: SnapshotId,
    /// Its entries, content digests missing.
    pub entries: LayerIndex,
    /// Where the entries' content is read from.
    pub content: layer::UpperContent,
}

/// A step and everything around it that does not depend on how its root file system is made.
pub struct Job<'a> {
    /// The step.
    pub step: &'a RunStep,
    /// What its mounts show, in their order.
    pub inputs: &'a [MountInput],
    /// The layers it runs on.
    pub parent: &'a Chain,
    /// Layers and store.
    pub snapshots: &'a Snapshots,
    /// What runs processes.
    pub sandbox: &'a dyn Sandbox,
    /// Settings of the build.
    pub settings: &'a RunSettings,
    /// Where output goes.
    pub report: &'a Report,
}

impl Job<'_> {
    /// Runs it: on an overlay, or, where none can be mounted, on a copy of the files.
    pub fn execute(&self) -> Result<Ran, RunError> {
        let platform = &self.step.platform;
        if let Some(obstacle) = crate::sandbox::obstacle(&platform.os, &platform.architecture) {
            return Err(RunError::Foreign(obstacle));
        }
        self.settings.network.begin(self.step.network);
        let (overlays, warn) = (&self.settings.overlays, &|text: String| self.report.events.warn(text));
        let (snapshot, kept) = if self.sandbox.needs_files() {
            (self.on_files()?, None)
        } else if overlays.work(self.snapshots, warn)? {
            match self.on_an_overlay() {
                Err(RunError::Sandbox(error)) if error.is_no_overlay() => {
                    overlays.failed(self.snapshots, &error, warn)?;
                    self.on_a_copy()?
                }
                other => (other?, None),
            }
        } else {
            self.on_a_copy()?
        };
        let tree = self.snapshots.tree(self.parent)?;
        let owners = match self.snapshots.ids() {
            layer::OnDiskIds::Keep => layer::Owners::OnDisk,
            layer::OnDiskIds::AllToSelf => {
                let user = resolve_user(&self.step.user, self.parent, self.snapshots)?;
                layer::Owners::Recorded(user.uid, user.gid, kept.as_ref())
            }
            layer::OnDiskIds::ContentsOnly => {
                return Err(RunError::Sandbox(SandboxError::Unavailable(
                    "its layers were unpacked without owners and modes".into(),
                )));
            }
        };
        let dir = self.snapshots.store().snapshot_dir(&snapshot);
        let (entries, content) = layer::diff_upper(&dir, &self.snapshots.below(self.parent, &tree), owners)?;
        Ok(Ran { snapshot, entries: LayerIndex { entries }, content })
    }

    fn on_an_overlay(&self) -> Result<SnapshotId, RunError> {
        let store = self.snapshots.store();
        let mut lowers = self.snapshots.lowers(self.parent)?;
        let dir = store.temp_dir()?;
        let scratch = store.temp_dir()?;
        let (upper, work) = (dir.path().join("fs"), dir.path().join("work"));
        make_dir(&upper)?;
        make_dir(&work)?;
        let tree = self.snapshots.tree(self.parent)?;
        let mounted = self.mounts(&tree, scratch.path(), false)?;
        if !mounted.missing.is_empty() {
            lowers.insert(0, mount_points(&tree, &mounted.missing, scratch.path(), self.snapshots.ids())?);
        }
        let root = RootFs::Overlay { lowers, upper, work: work.clone() };
        self.process(&mounted, root, scratch.path())?;
        // The kernel leaves a directory of mode 0 inside; nobody may ever mount over it again.
        store.remove_dir(&work)?;
        Ok(store.freeze_snapshot(dir)?)
    }

    fn on_a_copy(&self) -> Result<(SnapshotId, Option<BTreeSet<Vec<u8>>>), RunError> {
        let scratch = self.snapshots.store().temp_dir()?;
        let tree = self.snapshots.tree(self.parent)?;
        let mounted = self.mounts(&tree, scratch.path(), true)?;
        let plain = PlainRoot::make(self.snapshots, self.parent, &mounted.missing)?;
        self.process(&mounted, RootFs::Directory(plain.path()), scratch.path())?;
        let (snapshot, kept) = plain.freeze(self.snapshots)?;
        Ok((snapshot, Some(kept)))
    }

    /// On files that go on from step to step; the sandbox puts everything in its place itself.
    fn on_files(&self) -> Result<SnapshotId, RunError> {
        let scratch = self.snapshots.store().temp_dir()?;
        let tree = self.snapshots.tree(self.parent)?;
        let mounted = self.mounts(&tree, scratch.path(), true)?;
        let mut root = self.settings.roots.take(self.snapshots, self.parent)?;
        root.settle();
        self.process(&mounted, RootFs::Directory(root.path()), scratch.path())?;
        let snapshot = root.freeze(self.snapshots)?;
        self.settings.roots.keep(root);
        Ok(snapshot)
    }

    fn mounts(&self, tree: &Tree, scratch: &Path, no_overlay: bool) -> Result<Mounted, RunError> {
        let maker = Maker {
            snapshots: self.snapshots,
            tree,
            settings: &self.settings.mounts,
            scratch,
            no_overlay,
            sandbox: self.sandbox,
            cancel: &self.report.cancel,
        };
        let mut mounted = maker.make(self.step, self.inputs)?;
        mounted.missing.extend(name_service_points(tree));
        Ok(mounted)
    }

    fn process(&self, mounted: &Mounted, root: RootFs, scratch: &Path) -> Result<(), RunError> {
        let spec = self.spec(mounted, root, scratch)?;
        self.report.hide(self.settings.mounts.secrets.values());
        let ended = run_process(&spec, self.sandbox, self.report);
        let ended = ended.and_then(|exit| check_exit(exit, self.settings, self.report));
        ended.map_err(|error| self.blame_disk(named(self.explained(error), &self.step.user)))
    }

    /// With what the root file system says about a program that could not be found or executed.
    fn explained(&self, mut error: RunError) -> RunError {
        if let RunError::Exit { code: 126 | 127, tail, hint: hint @ None, .. } = &mut error
            && let Ok(tree) = self.snapshots.tree(self.parent)
        {
            let search = self.step.env.iter().rev().find(|(name, _)| name == "PATH");
            let scene = Scene {
                tree: &tree,
                chain: self.parent,
                snapshots: self.snapshots,
                search: search.map_or("", |(_, value)| value),
                cwd: &self.step.cwd,
            };
            *hint = scene.explain(tail);
        }
        error
    }

    /// Programs have many ways to fail on a full disk, and few say so. To be called while their files are
    /// still there.
    fn blame_disk(&self, error: RunError) -> RunError {
        if !matches!(error, RunError::Exit { .. } | RunError::Sandbox(_)) {
            return error;
        }
        match self.snapshots.store().full_disk() {
            Some(disk) => RunError::FullDisk { disk, failure: Box::new(error) },
            None => error,
        }
    }

    fn spec(&self, mounted: &Mounted, root: RootFs, scratch: &Path) -> Result<ProcessSpec, RunError> {
        let (step, settings) = (self.step, self.settings);
        let user = resolve_user(&step.user, self.parent, self.snapshots)?;
        let mut env: Vec<(Vec<u8>, Vec<u8>)> = step
            .env
            .iter()
            .chain(&step.proxy_env)
            .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()))
            .collect();
        let devices = device::find(&step.devices)?;
        for (name, value) in mounted.env.iter().chain(&devices.env) {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        if !env.iter().any(|(name, _)| name == b"HOME") {
            env.push((b"HOME".to_vec(), user.home.clone().into_bytes()));
        }
        let scripts = step.scripts.iter().map(|script| {
            let content = script.content.clone().into_bytes();
            let kind = MountKind::File { content, mode: 0o755, uid: 0, gid: 0 };
            Mount::new(script.path.clone().into_bytes(), kind)
        });
        // That a network helper is missing stays so for days.
        let notice = |text: String| {
            if self.snapshots.store().first_today(&text) {
                self.report.events.warn(text);
            }
        };
        let (resolv_conf, extra_hosts) = (&settings.resolv_conf, &settings.extra_hosts);
        let connected = settings.network.connect(step.network, resolv_conf, extra_hosts, &notice);
        let connection = connected.map_err(SandboxError::Invalid)?;
        Ok(ProcessSpec {
            argv: step.argv.iter().map(|arg| arg.clone().into_bytes()).collect(),
            env,
            cwd: step.cwd.clone().into_bytes(),
            user: ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups },
            hostname: settings.hostname.clone(),
            root,
            mounts: scripts.chain(mounted.mounts.iter().cloned()).chain(devices.mounts).collect(),
            network: connection.network,
            security: if step.insecure { Security::Insecure } else { Security::Sandbox },
            extra_hosts: connection.extra_hosts,
            resolv_conf: connection.resolv_conf,
            etc: EtcFiles::ReadOnly,
            shm_size: settings.shm_size,
            ulimits: settings.ulimits.clone(),
            limits: settings.limits.clone(),
            timeout: settings.timeout,
            scratch: scratch.to_owned(),
            stdio: if self.report.events.separates_streams() { Stdio::Lines } else { Stdio::Merged },
            container: Default::default(),
        })
    }
}

/// Where links in the place of `/etc/hosts` and `/etc/resolv.conf`, or above them, lead to nothing.
fn name_service_points(tree: &Tree) -> impl Iterator<Item = (Vec<u8>, bool)> {
    let files: [&[u8]; 2] = [b"etc/hosts", b"etc/resolv.conf"];
    let kernel: [&[u8]; 3] = [b"dev/", b"proc/", b"sys/"];
    files.into_iter().filter_map(move |file| {
        let real = tree.resolve(file).ok().filter(|real| real != file && tree.lookup(real).is_none())?;
        (!kernel.iter().any(|dir| real.starts_with(dir))).then_some((real, true))
    })
}

/// A layer with mount points that the root file system lacks, to be put on top of it: whatever was
/// deleted below cannot hide them, and directories above them look as they do without it.
pub(crate) fn mount_points(
    tree: &Tree,
    missing: &[(Vec<u8>, bool)],
    scratch: &Path,
    ids: layer::OnDiskIds,
) -> Result<PathBuf, RunError> {
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for (path, is_file) in missing {
        let above = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(at, _)| (&path[..at], false));
        for (path, is_file) in above.chain([(path.as_slice(), *is_file)]) {
            let made = Metadata { mode: if is_file { 0o644 } else { 0o755 }, ..Metadata::default() };
            let meta = tree.lookup(path).map_or(made, |node| node.meta.clone());
            let kind = if is_file { EntryKind::File { size: 0, digest: None } } else { EntryKind::Dir };
            // A path that is a point and lies above another one is a directory.
            let entry = Entry { path: path.to_vec(), kind, meta, offset: 0 };
            if !is_file || !entries.contains_key(path) {
                entries.insert(path.to_vec(), entry);
            }
        }
    }
    let dir = scratch.join("points");
    make_dir(&dir)?;
    let entries: Vec<Entry> = entries.into_values().collect();
    layer::write_files(&entries, &layer::NoContent, &dir, ids)?;
    Ok(dir)
}

/// A program that cannot be executed counts as one that ended with the shell's code for that.
fn run_process(spec: &ProcessSpec, sandbox: &dyn Sandbox, report: &Report) -> Result<Exit, RunError> {
    let ended = sandbox.run(spec, report, &report.cancel);
    if let Some(notice) = sandbox.notice() {
        report.events.warn(notice);
    }
    match ended {
        Err(SandboxError::Exec { source }) => {
            let program = spec.argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
            report.line(Stream::Stderr, format!("exec {}: {source}", program.unwrap_or_default()).as_bytes());
            Ok(Exit::Code(if source.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
        }
        other => Ok(other?),
    }
}

/// Says where an ID that there is not comes from.
fn named(error: RunError, user: &str) -> RunError {
    let RunError::Sandbox(SandboxError::Unmapped { whose, .. }) = &error else { return error };
    let user = if user.is_empty() { "root" } else { user };
    let origin = match whose {
        Whose::User | Whose::Group => format!("USER {user}"),
        Whose::Supplementary => format!("USER {user}, by /etc/group of the image"),
        Whose::MountUser(target) | Whose::MountGroup(target) => format!("--mount for {target}"),
    };
    RunError::Unmapped(format!("{origin}: {error}"))
}

/// Root needs no look-up, and most builds run as root: the accounts are read only for others.
fn resolve_user(
    user: &str,
    parent: &Chain,
    snapshots: &Snapshots,
) -> Result<super::identity::RunUser, RunError> {
    let tree = snapshots.tree(parent)?;
    Ok(super::accounts(snapshots, parent, &tree)?.run_user(user)?)
}

fn check_exit(exit: Exit, settings: &RunSettings, report: &Report) -> Result<(), RunError> {
    let (how, code) = match exit {
        Exit::Code(0) => return Ok(()),
        Exit::Code(code) => (format!("exit code: {code}"), code),
        Exit::Signal(signal) => (format!("killed by signal {signal}"), 128 + signal),
        Exit::OutOfMemory { code, limit } => {
            (format!("out of memory: killed at the limit of {} (--memory)", human(limit)), code)
        }
        Exit::TooManyProcesses { code, limit } => {
            (format!("exit code: {code}, after hitting the limit of {limit} processes (--pids-limit)"), code)
        }
        Exit::TimedOut => {
            let limit = settings.timeout.unwrap_or_default();
            (format!("timed out after {}s", limit.as_secs()), 124)
        }
        Exit::Canceled => return Err(RunError::Canceled),
    };
    let tail = report.tail();
    let hint = unmapped_hint(&tail, IdMap::current());
    Err(RunError::Exit { how, code, tail, log: report.keep_log(), hint })
}

/// The kernel answers `Invalid argument` where an owner, user or group is not mapped, and programs pass that
/// on, with the name of what they tried.
fn unmapped_hint(tail: &[String], map: &IdMap) -> Option<String> {
    const ABOUT_IDS: [&str; 6] = ["chown", "owner", "chgrp", "setuid", "setgid", "setgroups"];
    let about_ids =
        |line: &String| line.contains("Invalid argument") && ABOUT_IDS.iter().any(|word| line.contains(word));
    if map.is_full() || map.is_single() || !tail.iter().any(about_ids) {
        return None;
    }
    Some(format!(
        "RUN has the user IDs {} and the group IDs {} here, and can give files no others; larger ranges in /etc/subuid and \
         /etc/subgid, or for the user namespace in which rbuild was started, have more",
        map.users(),
        map.groups()
    ))
}

/// Bytes in the largest binary unit that gives a whole number.
fn human(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fitting.map_or_else(|| format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}

fn make_dir(path: &Path) -> Result<(), RunError> {
    std::fs::create_dir(path).map_err(|source| layer::LayerError::io("create", path, source).into())
}

/// What output must not show, and what of each stream waits for the rest of its line.
#[derive(Debug, Default)]
struct Hidden {
    forms: Forms,
    held: [Vec<u8>; 2],
}

impl Hidden {
    fn held(&mut self, stream: Stream) -> &mut Vec<u8> {
        &mut self.held[usize::from(stream == Stream::Stderr)]
    }
}

/// Hands a step's output on as events and remembers its end.
pub struct Report {
    events: Events,
    vertex: VertexId,
    /// Stops the step.
    pub cancel: Cancel,
    store: Store,
    output: Mutex<Output>,
    hidden: Mutex<Hidden>,
}

/// What a step has printed.
struct Output {
    tail: VecDeque<Vec<u8>>,
    log: StepLog,
}

impl Report {
    /// Reports as `vertex`.
    pub fn new(events: Events, vertex: VertexId, cancel: Cancel, store: Store) -> Self {
        let output = Output { tail: VecDeque::new(), log: StepLog::new(store.scratch_path().to_owned()) };
        Report { events, vertex, cancel, store, output: Mutex::new(output), hidden: Mutex::default() }
    }

    /// From now on no line shows any of these values.
    pub fn hide<'s>(&self, secrets: impl Iterator<Item = &'s Secret>) {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner).forms = Forms::of(secrets);
    }

    /// The last lines of output.
    pub fn tail(&self) -> Vec<String> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.tail.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Keeps all output in the store if the last lines are not all of it. Where that does not work, the last
    /// lines have to do.
    fn keep_log(&self) -> Option<PathBuf> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.log.lines() <= TAIL_LINES {
            return None;
        }
        self.store.keep_log(|file| output.log.write_to(file)).ok()
    }

    fn show(&self, stream: Stream, line: Vec<u8>) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if output.tail.len() == TAIL_LINES { output.tail.pop_front() } else { None };
        let mut last = oldest.unwrap_or_default();
        last.clear();
        last.extend_from_slice(&line);
        output.tail.push_back(last);
        output.log.push(&line);
        drop(output);
        self.events.send(Event::Log { vertex: self.vertex, stream, line });
    }
}

impl OutputSink for Report {
    fn line(&self, stream: Stream, line: &[u8]) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::take(hidden.held(stream));
        let whole: Cow<'_, [u8]> = if held.is_empty() { line.into() } else { [&held, line].concat().into() };
        let shown = hidden.forms.hide_shown(&whole).into_owned();
        drop(hidden);
        self.show(stream, shown);
    }

    fn part(&self, stream: Stream, part: &[u8]) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = std::mem::take(hidden.held(stream));
        let shown = match hidden.forms.is_empty() {
            true => part.to_vec(),
            // What a terminal would not show cannot stand between two halves of a form.
            false => hidden.forms.hide_part(&mut held, visible::output(part, false).as_bytes()),
        };
        *hidden.held(stream) = held;
        drop(hidden);
        self.show(stream, shown);
    }

    fn warn(&self, text: String) {
        self.events.warn(text);
    }

    fn unfinished(&self, stream: Stream, line: &[u8]) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        // Half a secret cannot be told from other text.
        if !hidden.forms.is_empty() || !hidden.held(stream).is_empty() {
            return;
        }
        drop(hidden);
        let line = line[line.len().saturating_sub(UNFINISHED)..].to_vec();
        self.events.send(Event::Unfinished { vertex: self.vertex, line });
    }
}

/// A shared report.
pub type SharedReport = Arc<Report>;
