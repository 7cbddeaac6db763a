//! `RUN`: one process on an overlay, and the upper directory it leaves.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::event::{Event, Events, Stream, VertexId};
use crate::layer::{self, LayerIndex};
use crate::plan::RunStep;
use crate::sandbox::{
    Exit, Mount, MountKind, Network, OutputSink, ProcessSpec, ProcessUser, RootFs, Sandbox, SandboxError,
    Security, Stdio, Ulimit,
};
use crate::snapshot::{Chain, PlainRoot, SnapshotError, Snapshots};
use crate::store::{SnapshotId, StoreError};

use super::identity::IdentityError;

/// Lines of output kept for the error message of a failing step.
const TAIL_LINES: usize = 20;

/// What a `RUN` needs besides its step: the same for all steps of a build.
#[derive(Clone, Debug, Default)]
pub struct RunSettings {
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// Limit for one step.
    pub timeout: Option<Duration>,
    /// Host name inside.
    pub hostname: String,
    /// Set by the first step that found out that overlayfs cannot be mounted.
    pub no_overlay: Arc<AtomicBool>,
}

/// Why a `RUN` gave no layer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program ended with a failure.
    #[error("process {command:?} did not complete successfully: {how}")]
    Exit {
        /// The command as shown.
        command: String,
        /// `exit code: 1`, `signal: 9 (SIGKILL)`, `timed out after 10s`.
        how: String,
        /// The code the program gave, or 128 + signal.
        code: i32,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The user interrupted, or another step failed.
    #[error("canceled")]
    Canceled,
    /// `USER` names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The sandbox could not be set up.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The root file system could not be had.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
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

/// Runs a step on `parent`: on an overlay, or, where none can be mounted, on a copy of its files.
pub fn execute(
    step: &RunStep,
    parent: &Chain,
    snapshots: &Snapshots,
    sandbox: &dyn Sandbox,
    settings: &RunSettings,
    report: &Report,
) -> Result<Ran, RunError> {
    let snapshot = if settings.no_overlay.load(Ordering::Relaxed) {
        on_a_copy(step, parent, snapshots, sandbox, settings, report)?
    } else {
        match on_an_overlay(step, parent, snapshots, sandbox, settings, report) {
            Err(RunError::Sandbox(error)) if error.is_no_overlay() => {
                if !settings.no_overlay.swap(true, Ordering::Relaxed) {
                    report.events.warn(format!("every RUN copies its root file system: {error}"));
                }
                on_a_copy(step, parent, snapshots, sandbox, settings, report)?
            }
            other => other?,
        }
    };
    let tree = snapshots.tree(parent)?;
    let (entries, content) = layer::diff_upper(&snapshots.store().snapshot_dir(&snapshot), &*tree)?;
    Ok(Ran { snapshot, entries: LayerIndex { entries }, content })
}

fn on_an_overlay(
    step: &RunStep,
    parent: &Chain,
    snapshots: &Snapshots,
    sandbox: &dyn Sandbox,
    settings: &RunSettings,
    report: &Report,
) -> Result<SnapshotId, RunError> {
    let store = snapshots.store();
    let lowers = snapshots.lowers(parent)?;
    let dir = store.temp_dir()?;
    let scratch = store.temp_dir()?;
    let (upper, work) = (dir.path().join("fs"), dir.path().join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    let root = RootFs::Overlay { lowers, upper, work: work.clone() };
    let spec = process_spec(step, parent, snapshots, settings, root, scratch.path())?;
    let exit = run_process(&spec, sandbox, report)?;
    check_exit(exit, step, settings, report)?;
    // The kernel leaves a directory of mode 0 inside; nobody may ever mount over it again.
    store.remove_dir(&work)?;
    Ok(store.freeze_snapshot(dir)?)
}

fn on_a_copy(
    step: &RunStep,
    parent: &Chain,
    snapshots: &Snapshots,
    sandbox: &dyn Sandbox,
    settings: &RunSettings,
    report: &Report,
) -> Result<SnapshotId, RunError> {
    let plain = PlainRoot::make(snapshots, parent)?;
    let scratch = snapshots.store().temp_dir()?;
    let root = RootFs::Directory(plain.path());
    let spec = process_spec(step, parent, snapshots, settings, root, scratch.path())?;
    let exit = run_process(&spec, sandbox, report)?;
    check_exit(exit, step, settings, report)?;
    Ok(plain.freeze(snapshots)?)
}

/// A program that cannot be executed counts as one that ended with the shell's code for that.
fn run_process(spec: &ProcessSpec, sandbox: &dyn Sandbox, report: &Report) -> Result<Exit, RunError> {
    match sandbox.run(spec, report, &report.cancel) {
        Err(SandboxError::Exec { source }) => {
            let program = spec.argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
            report.line(Stream::Stderr, format!("exec {}: {source}", program.unwrap_or_default()).as_bytes());
            Ok(Exit::Code(if source.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
        }
        other => Ok(other?),
    }
}

fn process_spec(
    step: &RunStep,
    parent: &Chain,
    snapshots: &Snapshots,
    settings: &RunSettings,
    root: RootFs,
    scratch: &Path,
) -> Result<ProcessSpec, RunError> {
    let user = resolve_user(&step.user, parent, snapshots)?;
    let mut env: Vec<(Vec<u8>, Vec<u8>)> = step
        .env
        .iter()
        .chain(&step.proxy_env)
        .map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()))
        .collect();
    if !env.iter().any(|(name, _)| name == b"HOME") {
        env.push((b"HOME".to_vec(), user.home.clone().into_bytes()));
    }
    let mounts = step.scripts.iter().map(|script| Mount {
        target: script.path.clone().into_bytes(),
        kind: MountKind::File { content: script.content.clone().into_bytes(), mode: 0o755, uid: 0, gid: 0 },
    });
    Ok(ProcessSpec {
        argv: step.argv.iter().map(|arg| arg.clone().into_bytes()).collect(),
        env,
        cwd: step.cwd.clone().into_bytes(),
        user: ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups },
        hostname: settings.hostname.clone(),
        root,
        mounts: mounts.collect(),
        network: if step.network == crate::build::RunNetwork::None { Network::None } else { Network::Host },
        security: Security::Sandbox,
        extra_hosts: settings.extra_hosts.clone(),
        resolv_conf: settings.resolv_conf.clone(),
        shm_size: settings.shm_size,
        ulimits: settings.ulimits.clone(),
        timeout: settings.timeout,
        scratch: scratch.to_owned(),
        stdio: Stdio::Lines,
    })
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

fn check_exit(exit: Exit, step: &RunStep, settings: &RunSettings, report: &Report) -> Result<(), RunError> {
    let (how, code) = match exit {
        Exit::Code(0) => return Ok(()),
        Exit::Code(code) => (format!("exit code: {code}"), code),
        Exit::Signal(signal) => (format!("killed by signal {signal}"), 128 + signal),
        Exit::TimedOut => {
            let limit = settings.timeout.unwrap_or_default();
            (format!("timed out after {}s", limit.as_secs()), 124)
        }
        Exit::Canceled => return Err(RunError::Canceled),
    };
    Err(RunError::Exit { command: step.argv.join(" "), how, code, tail: report.tail() })
}

fn make_dir(path: &Path) -> Result<(), RunError> {
    std::fs::create_dir(path).map_err(|source| layer::LayerError::io("create", path, source).into())
}

/// Hands a step's output on as events and remembers its end.
pub struct Report {
    events: Events,
    vertex: VertexId,
    /// Stops the step.
    pub cancel: Cancel,
    tail: Mutex<VecDeque<String>>,
}

impl Report {
    /// Reports as `vertex`.
    pub fn new(events: Events, vertex: VertexId, cancel: Cancel) -> Self {
        Report { events, vertex, cancel, tail: Mutex::default() }
    }

    /// The last lines of output.
    pub fn tail(&self) -> Vec<String> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl OutputSink for Report {
    fn line(&self, stream: Stream, line: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(String::from_utf8_lossy(line).into_owned());
        self.events.send(Event::Log { vertex: self.vertex, stream, line: line.to_vec() });
    }
}

/// A shared report.
pub type SharedReport = Arc<Report>;
