//! `RUN --mount`: from what a step asks for to mounts of the sandbox.

mod cache;
mod error;
mod files;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cancel::Cancel;
use crate::context::FileInfo;
use crate::digest::Digest;
use crate::fs::IdMap;
use crate::fs::paths::join;
use crate::layer::{LayerError, OnDiskIds};
use crate::plan::{RunMount, RunMountKind, RunStep};
use crate::sandbox::{Mount, MountKind, Sandbox, SourceRights};
use crate::snapshot::{Chain, PlainRoot, Snapshots, Tree};
use crate::store::{CacheDir, TempDir};

use super::copy::Selected;
use super::ssh::{Behind, Forward, KeyAgent};

pub use self::error::MountError;
pub use self::files::plain_destination;

/// What a mount with an origin shows, found before the step's key is made.
pub enum MountInput {
    /// Nothing: no origin, or an empty one.
    Nothing,
    /// Files of a context.
    Files {
        /// What was selected.
        selected: Selected,
        /// Its digest.
        digest: Digest,
    },
    /// Files of a stage or image.
    Layers {
        /// Its layers.
        chain: Chain,
        /// What the source leads to.
        place: FileInfo,
        /// Digest of what is there.
        digest: Digest,
    },
}

/// A secret: its value is read when a step asks for it, and never written anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its bytes.
    pub value: Arc<[u8]>,
    /// Steps that mount it are executed again when it is another one (`invalidate=true`).
    pub invalidates: bool,
}

impl Secret {
    /// What stands for the value in cache keys. Without `key` nobody can try out values until one fits.
    pub fn keyed_digest(&self, id: &str, key: &[u8; 32]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&(id.len() as u64).to_le_bytes());
        hasher.update(id.as_bytes());
        hasher.update(&self.value);
        Digest::from_raw(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.value.len())
    }
}

/// What `--ssh` forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshSource {
    /// The socket of an agent.
    Agent(PathBuf),
    /// A socket that anything may be behind (`raw=true`).
    Raw(PathBuf),
    /// Private keys, offered by an agent of the build's own.
    Keys(Vec<PathBuf>),
}

/// What mounts of all steps of a build share.
#[derive(Default)]
pub struct MountSettings {
    /// `--secret`.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`.
    pub ssh: BTreeMap<String, SshSource>,
    /// Context files copied for bind mounts, by digest and mode of the directory.
    copies: Mutex<HashMap<(Digest, Option<u32>), Arc<TempDir>>>,
    agents: Mutex<HashMap<String, Arc<(KeyAgent, TempDir)>>>,
}

impl std::fmt::Debug for MountSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountSettings").field("secrets", &self.secrets.keys()).finish_non_exhaustive()
    }
}

impl MountSettings {
    /// With these secrets and agents.
    pub fn new(secrets: BTreeMap<String, Secret>, ssh: BTreeMap<String, SshSource>) -> Self {
        MountSettings { secrets, ssh, ..Self::default() }
    }
}

/// Mounts of one step, and what has to live as long as it runs.
#[derive(Default)]
pub struct Mounted {
    /// For the sandbox.
    pub mounts: Vec<Mount>,
    /// Variables that mounts set.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Mount points the root file system lacks: real path, and whether it is a file.
    pub missing: Vec<(Vec<u8>, bool)>,
    held: Vec<Held>,
}

/// Kept for its drop.
#[expect(dead_code, reason = "dropping the values is what they are kept for")]
enum Held {
    Cache(CacheDir),
    Copy(Arc<TempDir>),
    Plain(PlainRoot),
    Forward(Forward),
    Agent(Arc<(KeyAgent, TempDir)>),
}

/// User and group that a mount asks for.
fn owner(kind: &RunMountKind) -> Option<(u32, u32)> {
    match kind {
        RunMountKind::Cache { uid, gid, .. } => Some((uid.unwrap_or(0), gid.unwrap_or(0))),
        RunMountKind::Secret { uid, gid, .. } | RunMountKind::Ssh { uid, gid, .. } => Some((*uid, *gid)),
        _ => None,
    }
}

/// Everything needed to make a step's mounts.
pub struct Maker<'a> {
    /// Layers and store.
    pub snapshots: &'a Snapshots,
    /// View of the step's root file system.
    pub tree: &'a Tree,
    /// Shared settings.
    pub settings: &'a MountSettings,
    /// A directory for this run alone.
    pub scratch: &'a Path,
    /// Overlays cannot be mounted.
    pub no_overlay: bool,
    /// What runs the step.
    pub sandbox: &'a dyn Sandbox,
    /// Stops waiting for locked caches.
    pub cancel: &'a Cancel,
}

impl Maker<'_> {
    /// Makes all mounts of a step; `inputs` are in the order of its mounts.
    pub fn make(&self, step: &RunStep, inputs: &[MountInput]) -> Result<Mounted, MountError> {
        let mut mounted = Mounted::default();
        for (number, mount) in step.mounts.iter().enumerate() {
            let input = inputs.get(number).unwrap_or(&MountInput::Nothing);
            self.check_owner(mount)?;
            if let Some(kind) = self.one(number, mount, input, &mut mounted)? {
                let target = mount.target.clone().unwrap_or_default();
                let is_file = self.is_file(&kind);
                let real = self
                    .tree
                    .resolve(target.as_bytes())
                    .map_err(|source| MountError::Target { target, source })?;
                if self.tree.lookup(&real).is_none() && !real.starts_with(b"dev/") {
                    mounted.missing.push((real.clone(), is_file));
                }
                let target = join(b"", &[b"/", &real[..]].concat());
                let rights = self.rights(&mount.kind, input);
                mounted.mounts.push(Mount { owner: owner(&mount.kind), rights, ..Mount::new(target, kind) });
            }
        }
        Ok(mounted)
    }

    /// Where nothing can be mounted, so that overlays cannot either, these are copies for this step already.
    fn rights(&self, kind: &RunMountKind, input: &MountInput) -> SourceRights {
        match (kind, input) {
            _ if !self.sandbox.needs_files() => SourceRights::Copy,
            (RunMountKind::Cache { readonly: false, .. }, _) => SourceRights::Lend,
            (RunMountKind::Bind { .. }, MountInput::Nothing | MountInput::Layers { .. })
            | (RunMountKind::Bind { writable: true, .. }, MountInput::Files { .. }) => SourceRights::Give,
            _ => SourceRights::Copy,
        }
    }

    fn is_file(&self, kind: &MountKind) -> bool {
        match kind {
            MountKind::Bind { source, inside, .. } => inside.is_empty() && !source.is_dir(),
            MountKind::Overlay { is_dir, .. } => !is_dir,
            MountKind::Tmpfs { .. } => false,
            MountKind::File { .. } | MountKind::Secret { .. } | MountKind::Device { .. } => true,
        }
    }

    /// Before something of this machine is given an owner that it cannot have.
    fn check_owner(&self, mount: &RunMount) -> Result<(), MountError> {
        let Some((uid, gid)) = owner(&mount.kind).filter(|_| self.snapshots.ids() == OnDiskIds::Keep) else {
            return Ok(());
        };
        let map = IdMap::current();
        let unmapped = |what: &'static str, id: u32, mapped: String| MountError::Unmapped {
            target: mount.target.clone().unwrap_or_default(),
            what,
            id,
            mapped,
        };
        if !map.has_user(uid) {
            return Err(unmapped("uid", uid, map.users()));
        }
        if !map.has_group(gid) {
            return Err(unmapped("gid", gid, map.groups()));
        }
        Ok(())
    }

    fn one(
        &self,
        number: usize,
        mount: &RunMount,
        input: &MountInput,
        mounted: &mut Mounted,
    ) -> Result<Option<MountKind>, MountError> {
        Ok(match &mount.kind {
            RunMountKind::Tmpfs { size } => Some(MountKind::Tmpfs { size: *size, mode: 0o1777 }),
            RunMountKind::Bind { writable, .. } => Some(self.bind(number, input, *writable, mounted)?),
            RunMountKind::Cache { readonly, .. } => {
                let dir = self.cache(mount, input)?;
                let source = dir.path().to_owned();
                mounted.held.push(Held::Cache(dir));
                Some(MountKind::Bind { source, inside: Vec::new(), readonly: *readonly })
            }
            RunMountKind::Secret { id, env, required, mode, uid, gid } => {
                let Some(secret) = self.settings.secrets.get(id) else {
                    if *required {
                        return Err(MountError::NoSecret(id.clone()));
                    }
                    // The variable is there all the same, as in BuildKit.
                    mounted.env.extend(env.iter().map(|name| (name.clone().into_bytes(), Vec::new())));
                    return Ok(None);
                };
                if let Some(name) = env {
                    mounted.env.push((name.clone().into_bytes(), secret.value.to_vec()));
                }
                let (mode, uid, gid) = (*mode, *uid, *gid);
                mount.target.as_ref().map(|_| MountKind::Secret {
                    content: secret.value.to_vec(),
                    mode,
                    uid,
                    gid,
                })
            }
            RunMountKind::Ssh { id, required, mode, uid, gid } => {
                let Some(source) = self.settings.ssh.get(id) else {
                    return if *required { Err(MountError::NoSsh(id.clone())) } else { Ok(None) };
                };
                let failed = |source| MountError::Ssh { id: id.clone(), source };
                let behind = match source {
                    SshSource::Raw(_) => Behind::Anything,
                    SshSource::Agent(_) | SshSource::Keys(_) => Behind::Agent,
                };
                let server = match source {
                    SshSource::Agent(socket) | SshSource::Raw(socket) => socket.clone(),
                    SshSource::Keys(keys) => {
                        let agent = self.key_agent(id, keys)?;
                        let socket = agent.0.socket().to_owned();
                        mounted.held.push(Held::Agent(agent));
                        socket
                    }
                };
                let name = format!("ssh{number}");
                let forward = Forward::start(self.scratch, &name, (&server, behind), *mode, *uid, *gid)
                    .map_err(failed)?;
                if !mounted.env.iter().any(|(name, _)| name == b"SSH_AUTH_SOCK") {
                    let target = mount.target.clone().unwrap_or_default();
                    mounted.env.push((b"SSH_AUTH_SOCK".to_vec(), target.into_bytes()));
                }
                let source = forward.path().to_owned();
                mounted.held.push(Held::Forward(forward));
                Some(MountKind::Bind { source, inside: Vec::new(), readonly: false })
            }
        })
    }

    fn key_agent(&self, id: &str, keys: &[PathBuf]) -> Result<Arc<(KeyAgent, TempDir)>, MountError> {
        let mut agents = self.settings.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(id) {
            return Ok(agent.clone());
        }
        let dir = self.snapshots.store().temp_dir()?;
        let agent = KeyAgent::start(dir.path(), keys)
            .map_err(|source| MountError::Ssh { id: id.to_owned(), source })?;
        let agent = Arc::new((agent, dir));
        agents.insert(id.to_owned(), agent.clone());
        Ok(agent)
    }

    fn make_dir(&self, name: &str) -> Result<PathBuf, MountError> {
        let path = self.scratch.join(name);
        std::fs::create_dir(&path).map_err(|source| LayerError::io("create", &path, source))?;
        Ok(path)
    }

    /// Directories for an overlay's changes, which are lost.
    fn upper(&self, number: usize, writable: bool) -> Result<Option<(PathBuf, PathBuf)>, MountError> {
        if !writable {
            return Ok(None);
        }
        Ok(Some((self.make_dir(&format!("upper{number}"))?, self.make_dir(&format!("work{number}"))?)))
    }
}
