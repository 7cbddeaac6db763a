//! `rbuild run`: a process on an image of the store, in the sandbox that builds use.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::event::Stream;
use crate::fs::has_user_attributes;
use crate::image::{Platform, ResolvedImage, from_store};
use crate::layer;
use crate::sandbox::{
    Container, EtcFiles, Exit, Forward, Limits, Mount, MountKind, OutputSink, ProcessSpec, ProcessUser,
    RootFs, SandboxError, Security, Signals, Stdio, Ulimit,
};
use crate::snapshot::{Chain, LiveRoots, PlainRoot, Tree};
use crate::steps::accounts;
use crate::steps::network::Connection;
use crate::steps::run::mount_points;

use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::meant::{Meant, meant};
use crate::plan::RunNetwork;

/// What `rbuild run` is asked for.
#[derive(Clone, Debug, Default)]
pub struct RunRequest {
    /// Image name.
    pub image: String,
    /// Replaces CMD.
    pub command: Vec<String>,
    /// Replaces ENTRYPOINT, and leaves CMD out; an empty one stands for none.
    pub entrypoint: Option<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// Replaces WORKDIR.
    pub workdir: Option<String>,
    /// Replaces USER.
    pub user: Option<String>,
    /// Network.
    pub network: RunNetwork,
    /// Give the process a terminal.
    pub terminal: bool,
    /// Replaces the image's ID as host name.
    pub hostname: Option<String>,
    /// More mounts.
    pub mounts: Vec<RunMount>,
    /// Lines for `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
    /// Limits by control groups.
    pub limits: Limits,
    /// Resource limits: name, soft and hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Which image of an index; that of this machine by default.
    pub platform: Option<Platform>,
    /// Ports of this machine that lead to the process. Only on the default network.
    pub ports: Vec<Forward>,
    /// Capabilities as a set of bits; Docker's where none is given.
    pub capabilities: Option<u64>,
    /// The root file system cannot be written to.
    pub read_only: bool,
    /// A small init is the first process.
    pub init: bool,
    /// Signals for the process.
    pub signals: Option<Arc<Signals>>,
}

/// A mount that is asked for. Targets are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMount {
    /// A file or directory of this machine.
    Bind {
        /// Its path, absolute.
        source: PathBuf,
        /// Where it is mounted.
        target: Vec<u8>,
        /// Whether writing is refused.
        readonly: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where it is mounted.
        target: Vec<u8>,
        /// Most bytes.
        size: Option<u64>,
    },
}

impl RunMount {
    fn target(&self) -> &[u8] {
        match self {
            RunMount::Bind { target, .. } | RunMount::Tmpfs { target, .. } => target,
        }
    }

    /// Whether it is mounted on a file.
    fn is_file(&self) -> bool {
        matches!(self, RunMount::Bind { source, .. } if !source.is_dir())
    }

    fn to_mount(&self) -> Mount {
        let kind = match self {
            RunMount::Bind { source, readonly, .. } => {
                MountKind::Bind { source: source.clone(), inside: Vec::new(), readonly: *readonly }
            }
            RunMount::Tmpfs { size, .. } => MountKind::Tmpfs { size: *size, mode: 0o1777 },
        };
        Mount::new(self.target().to_vec(), kind)
    }
}

/// What has to be there before anything is mounted, as far as the image lacks it: mount points, and the
/// directories that VOLUME names.
fn missing_points(tree: &Tree, request: &RunRequest, image: &ResolvedImage) -> Vec<(Vec<u8>, bool)> {
    let volumes = image.config.config.volumes.keys().map(|path| (path.as_bytes(), false));
    let mounts = request.mounts.iter().map(|mount| (mount.target(), mount.is_file()));
    // Elsewhere it is made when the process starts.
    let workdir = request.workdir.as_ref().unwrap_or(&image.config.config.working_dir);
    let workdir = (request.read_only && workdir.starts_with('/')).then_some((workdir.as_bytes(), false));
    let all = volumes.chain(mounts).chain(workdir).filter_map(|(path, is_file)| {
        let real = tree.resolve(path).ok().filter(|real| !real.is_empty() && tree.lookup(real).is_none())?;
        Some((real, is_file))
    });
    all.collect()
}

/// Output goes straight to this process's streams, so nothing arrives here.
struct Unused;

impl OutputSink for Unused {
    fn line(&self, _: Stream, _: &[u8]) {}
}

impl Engine {
    /// Runs a process and gives its exit code. `notice` gets what the user should know of how.
    pub fn run(
        &self,
        request: &RunRequest,
        notice: &dyn Fn(String),
        cancel: &Cancel,
    ) -> Result<i32, Failure> {
        self.store.cancel_by(cancel);
        if let Some(reason) = &self.options.no_sandbox {
            let error = SandboxError::Unavailable(reason.clone());
            return Err(Failure::new(FailureKind::Sandbox, error.to_string()));
        }
        let usage = |text: String| Failure::new(FailureKind::Usage, text);
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        let name = match meant(&self.store, &request.image, &platform)? {
            Meant::Named(name) => Some(name),
            Meant::Id(names) => names.into_iter().next(),
            Meant::Elsewhere(_) | Meant::NoSuchId => None,
        };
        let image = name.map(|name| from_store(&self.store, &name, &platform)).transpose()?.flatten();
        let Some(image) = image else {
            return Err(usage(format!("no image {} in the store", request.image))
                .help("build it with `rbuild -t NAME .`; `rbuild images` lists what is there"));
        };
        let chain = self.snapshots.stored_chain(&image.stored_layers(), cancel)?;
        let network = match request.ports.as_slice() {
            [] => self.network(),
            ports => self.network_with(ports.to_vec()).map_err(|why| {
                Failure::new(FailureKind::Sandbox, format!("cannot publish ports: {why}"))
                    .help("with --network host the program listens on this machine's own ports")
            })?,
        };
        network.begin(request.network);
        let connect = || {
            let (resolv_conf, hosts) = (&self.options.resolv_conf, &request.extra_hosts);
            let connected = network.connect(request.network, resolv_conf, hosts, notice);
            connected.map_err(|why| Failure::new(FailureKind::Sandbox, why))
        };
        let scratch = self.store.temp_dir()?;
        if self.sandbox.needs_files() {
            let root = LiveRoots::default().take(&self.snapshots, &chain)?;
            let files = RootFs::Directory(root.path());
            let spec = self.process(request, &image, &chain, connect()?, files, scratch.path())?;
            let ended = self.sandbox.run(&spec, &Unused, cancel);
            return self.ended(ended, &spec, notice);
        }
        let dir = self.store.temp_dir()?;
        let (upper, work) = (dir.path().join("fs"), dir.path().join("work"));
        for path in [&upper, &work] {
            std::fs::create_dir(path).map_err(|source| layer::LayerError::io("create", path, source))?;
        }
        let tree = self.snapshots.tree(&chain)?;
        let missing = missing_points(&tree, request, &image);
        let mut lowers = self.snapshots.lowers(&chain)?;
        if !missing.is_empty() {
            let points = mount_points(&tree, &missing, scratch.path(), self.snapshots.ids());
            lowers.insert(0, points.map_err(|error| Failure::new(FailureKind::Store, error.to_string()))?);
        }
        let root = RootFs::Overlay { lowers, upper, work };
        let spec = self.process(request, &image, &chain, connect()?, root, scratch.path())?;
        let overlays = has_user_attributes(scratch.path()).unwrap_or(false);
        let tried = overlays.then(|| self.sandbox.run(&spec, &Unused, cancel));
        let ended = match tried {
            Some(ended) if !ended.as_ref().is_err_and(SandboxError::is_no_overlay) => ended,
            _ => {
                let points = [&[(b"etc/hostname".to_vec(), true)], missing.as_slice()].concat();
                let plain = PlainRoot::make(&self.snapshots, &chain, &points)?;
                let again = self.store.temp_dir()?;
                let root = RootFs::Directory(plain.path());
                let spec = self.process(request, &image, &chain, connect()?, root, again.path())?;
                self.sandbox.run(&spec, &Unused, cancel)
            }
        };
        self.ended(ended, &spec, notice)
    }

    /// The exit code of a process.
    fn ended(
        &self,
        ended: Result<Exit, SandboxError>,
        spec: &ProcessSpec,
        notice: &dyn Fn(String),
    ) -> Result<i32, Failure> {
        if let Some(text) = self.sandbox.notice() {
            notice(text);
        }
        match ended {
            Ok(Exit::Code(code)) => Ok(code),
            Ok(Exit::Signal(signal)) => Ok(128 + signal),
            Ok(Exit::OutOfMemory { code, .. } | Exit::TooManyProcesses { code, .. }) => Ok(code),
            Ok(Exit::Canceled | Exit::TimedOut) => Ok(130),
            Err(SandboxError::Exec { source }) => {
                let program = spec.argv.first().map(|name| String::from_utf8_lossy(name).into_owned());
                // As a shell has it, and docker.
                let code = if source.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                notice(format!("cannot run {}: {source}", program.unwrap_or_default()));
                Ok(code)
            }
            Err(error) => Err(Failure::new(FailureKind::Sandbox, error.to_string())),
        }
    }

    fn process(
        &self,
        request: &RunRequest,
        image: &ResolvedImage,
        chain: &Chain,
        connection: Connection,
        root: RootFs,
        scratch: &std::path::Path,
    ) -> Result<ProcessSpec, Failure> {
        let config = &image.config.config;
        let mut argv = match &request.entrypoint {
            Some(program) => {
                Some(program.clone()).filter(|program| !program.is_empty()).into_iter().collect()
            }
            None => config.entrypoint.clone().unwrap_or_default(),
        };
        if request.command.is_empty() && request.entrypoint.is_none() {
            argv.extend(config.cmd.clone().unwrap_or_default());
        }
        argv.extend(request.command.iter().cloned());
        if argv.is_empty() {
            let why = match &request.entrypoint {
                Some(_) => "an empty --entrypoint leaves the image's CMD out too: name a command",
                None => "the image has no CMD or ENTRYPOINT: name a command",
            };
            return Err(Failure::new(FailureKind::Usage, why));
        }
        let tree = self.snapshots.tree(chain)?;
        let user = request.user.as_deref().unwrap_or(&config.user);
        let user = accounts(&self.snapshots, chain, &tree)?
            .run_user(user)
            .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
        let hostname = request.hostname.clone().unwrap_or_else(|| image.manifest_digest.short());
        let split = |pair: &String| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.as_bytes().to_vec(), value.as_bytes().to_vec())
        };
        let mut env: Vec<(Vec<u8>, Vec<u8>)> = config.env.iter().map(split).collect();
        for (name, value) in &request.env {
            env.retain(|(known, _)| known != name.as_bytes());
            env.push((name.clone().into_bytes(), value.clone().into_bytes()));
        }
        let mut default = |name: &[u8], value: &str| {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_vec(), value.as_bytes().to_vec()));
            }
        };
        default(b"HOSTNAME", &hostname);
        default(b"HOME", &user.home);
        if request.terminal {
            default(b"TERM", "xterm");
        }
        let cwd = match request.workdir.as_deref().unwrap_or(&config.working_dir) {
            "" => "/",
            dir => dir,
        };
        Ok(ProcessSpec {
            argv: argv.into_iter().map(String::into_bytes).collect(),
            env,
            cwd: cwd.as_bytes().to_vec(),
            user: ProcessUser { uid: user.uid, gid: user.gid, groups: user.groups },
            hostname,
            root,
            mounts: request.mounts.iter().map(RunMount::to_mount).collect(),
            network: connection.network,
            security: Security::Sandbox,
            extra_hosts: connection.extra_hosts,
            resolv_conf: connection.resolv_conf,
            etc: EtcFiles::Own,
            shm_size: request.shm_size.unwrap_or(64 << 20),
            ulimits: request
                .ulimits
                .iter()
                .map(|(name, soft, hard)| Ulimit { name: name.clone(), soft: *soft, hard: *hard })
                .collect(),
            limits: request.limits.clone(),
            timeout: None,
            scratch: scratch.to_owned(),
            stdio: if request.terminal { Stdio::Terminal } else { Stdio::Inherit },
            container: Container {
                capabilities: request.capabilities,
                read_only: request.read_only,
                init: request.init,
                signals: request.signals.clone(),
            },
        })
    }
}
