//! What this machine allows, for `rbuild info` and for choosing how snapshots are made.

use std::fs;
use std::path::Path;

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
    works(dir, &Native::new(single_id))
}

/// The same with users that are nobody on this machine. For root.
pub fn private_ids_work(dir: &Path) -> Result<(), String> {
    works(dir, &Native::with_ids(PrivateIds::default()))
}

fn works(dir: &Path, sandbox: &Native) -> Result<(), String> {
    struct Nobody;
    impl OutputSink for Nobody {
        fn line(&self, _: Stream, _: &[u8]) {}
    }
    let make = |name: &str| {
        let path = dir.join(name);
        fs::create_dir(&path).map(|()| path).map_err(|error| error.to_string())
    };
    let (upper, work, scratch) = (make("upper")?, make("work")?, make("scratch")?);
    let spec = ProcessSpec {
        argv: vec![b"/nothing".to_vec()],
        env: Vec::new(),
        cwd: b"/".to_vec(),
        user: ProcessUser::default(),
        hostname: "probe".into(),
        root: RootFs::Overlay { lowers: Vec::new(), upper, work },
        mounts: Vec::new(),
        network: Network::Host,
        security: Security::Sandbox,
        extra_hosts: Vec::new(),
        resolv_conf: Vec::new(),
        shm_size: 0,
        ulimits: Vec::new(),
        limits: super::Limits::default(),
        timeout: None,
        scratch,
        stdio: Stdio::Lines,
    };
    let cancel = Cancel::new().map_err(|error| error.to_string())?;
    // Getting as far as the program that is not there means that everything before it worked.
    match sandbox.run(&spec, &Nobody, &cancel) {
        Err(SandboxError::Exec { .. }) | Ok(Exit::Code(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(other) => Err(format!("unexpected end: {other:?}")),
    }
}
