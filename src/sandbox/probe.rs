//! What this machine allows, for `rbuild info` and for choosing how snapshots are made.

use std::fs;
use std::path::{Path, PathBuf};

use super::spec::{ProcessSpec, ProcessUser, RootFs, Sandbox as _, SandboxError, Security, Stdio};
use super::{Exit, Native, Network, OutputSink, PrivateIds};
use crate::cancel::Cancel;
use crate::event::Stream;

/// Facts about this machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// Whether the kernel filters system calls.
    pub seccomp: bool,
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroups: &'static str,
}

/// Looks around.
pub fn probe() -> Facts {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let seccomp = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    let v1 = Path::new("/sys/fs/cgroup/memory").exists();
    let cgroups = match (unified, hybrid, v1) {
        (true, ..) => "v2",
        (_, true, _) => "hybrid",
        (.., true) => "v1",
        _ => "none",
    };
    Facts { kernel, seccomp, cgroups }
}

/// Tries a real overlay with its upper directory below `dir`; the error says what failed.
pub fn overlay_works(dir: &Path, single_id: bool) -> Result<(), String> {
    works(dir, &Native::new(single_id), true).map_err(|error| error.to_string())
}

/// Tries private IDs, on an overlay or, where there is none, on a plain directory. For root.
pub fn private_ids_work(dir: &Path) -> Result<(), String> {
    private_ids(dir, &PrivateIds::default()).map_err(|error| error.to_string())
}

/// The same with IDs that are then used.
pub(super) fn private_ids(dir: &Path, ids: &PrivateIds) -> Result<(), SandboxError> {
    let sandbox = Native::with_ids(ids.clone());
    let tried = works(dir, &sandbox, true);
    if tried.is_err() && works(dir, &Native::new(false), true).is_err_and(|error| error.is_no_overlay()) {
        return works(dir, &sandbox, false);
    }
    tried
}

/// Runs a program that is not there: getting as far as that means that everything before it works.
fn works(dir: &Path, sandbox: &Native, on_overlay: bool) -> Result<(), SandboxError> {
    let failed = |error| SandboxError::setup("make a directory", error);
    let dir = tempfile::tempdir_in(dir).map_err(failed)?;
    let make = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).map(|()| path).map_err(failed)
    };
    let (upper, work, scratch) = (make("upper")?, make("work")?, make("scratch")?);
    let root = match on_overlay {
        true => RootFs::Overlay { lowers: Vec::new(), upper, work },
        false => {
            for point in ["proc", "sys", "dev", "etc"] {
                fs::create_dir(upper.join(point)).map_err(failed)?;
            }
            RootFs::Directory(upper)
        }
    };
    let cancel = Cancel::new().map_err(|error| SandboxError::setup("make a pipe", error))?;
    match sandbox.run(&nothing(root, scratch), &Silent, &cancel) {
        Err(SandboxError::Exec { .. }) | Ok(Exit::Code(_)) => Ok(()),
        Err(error) => Err(error),
        Ok(other) => Err(SandboxError::Invalid(format!("unexpected end: {other:?}"))),
    }
}

struct Silent;

impl OutputSink for Silent {
    fn line(&self, _: Stream, _: &[u8]) {}
}

fn nothing(root: RootFs, scratch: PathBuf) -> ProcessSpec {
    ProcessSpec {
        argv: vec![b"/nothing".to_vec()],
        env: Vec::new(),
        cwd: b"/".to_vec(),
        user: ProcessUser::default(),
        hostname: "probe".into(),
        root,
        mounts: Vec::new(),
        network: Network::Host,
        security: Security::Sandbox,
        extra_hosts: Vec::new(),
        resolv_conf: Vec::new(),
        etc: super::EtcFiles::ReadOnly,
        shm_size: 0,
        ulimits: Vec::new(),
        limits: super::Limits::default(),
        timeout: None,
        scratch,
        stdio: Stdio::Lines,
        container: Default::default(),
    }
}
