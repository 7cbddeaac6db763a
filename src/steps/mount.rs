//! `RUN --mount`: from what a step asks for to mounts of the sandbox.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::context::{FileInfo, FileKind};
use crate::digest::{Digest, Hasher};
use crate::fs::paths::join;
use crate::layer::{self, LayerError, OnDiskIds};
use crate::plan::{RunMount, RunMountKind, RunStep, Sharing};
use crate::sandbox::{Mount, MountKind};
use crate::snapshot::{Chain, PlainRoot, ResolveError, SnapshotError, Snapshots, Tree};
use crate::store::{CacheDir, StoreError, TempDir};

use super::copy::{self, CopyError, Selected};
use super::place::Destination;
use super::ssh::{Forward, KeyAgent};

/// So many directories one private cache may have at the same time.
const MAX_PRIVATE: usize = 1000;
/// Pause between two looks at a locked cache.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why a mount cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A required secret was not given.
    #[error("secret {0}: not found; pass it with --secret id={0},src=FILE or --secret id={0},env=VARIABLE")]
    NoSecret(String),
    /// A required agent was not given.
    #[error("no SSH agent {0:?} is forwarded; pass it with --ssh {0}")]
    NoSsh(String),
    /// Forwarding an agent failed.
    #[error("cannot forward the SSH agent {id:?}: {source}")]
    Ssh {
        /// Its name.
        id: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The target's path cannot be followed.
    #[error("invalid mount target {target:?}: {source}")]
    Target {
        /// As written, absolute.
        target: String,
        /// Why.
        source: ResolveError,
    },
    /// A link where a file or directory was a moment before: mounting it would mount what it names on
    /// this machine.
    #[error("mount source {0:?} is a symbolic link by now: it was replaced while the build ran")]
    Replaced(String),
    /// All private copies of a cache are in use.
    #[error("too many steps use the private cache {0:?} at once")]
    TooManyPrivate(String),
    /// The build was stopped while waiting.
    #[error("canceled")]
    Canceled,
    /// The files of the source.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Layers or store.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl From<StoreError> for MountError {
    fn from(error: StoreError) -> Self {
        MountError::Snapshot(error.into())
    }
}

impl From<LayerError> for MountError {
    fn from(error: LayerError) -> Self {
        MountError::Snapshot(error.into())
    }
}

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
    /// Context files copied for bind mounts, by digest.
    copies: Mutex<HashMap<Digest, Arc<TempDir>>>,
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
    /// Stops waiting for locked caches.
    pub cancel: &'a Cancel,
}

impl Maker<'_> {
    /// Makes all mounts of a step; `inputs` are in the order of its mounts.
    pub fn make(&self, step: &RunStep, inputs: &[MountInput]) -> Result<Mounted, MountError> {
        let mut mounted = Mounted::default();
        for (number, mount) in step.mounts.iter().enumerate() {
            let input = inputs.get(number).unwrap_or(&MountInput::Nothing);
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
                mounted.mounts.push(Mount { target: join(b"", &[b"/", &real[..]].concat()), kind });
            }
        }
        Ok(mounted)
    }

    fn is_file(&self, kind: &MountKind) -> bool {
        match kind {
            MountKind::Bind { source, inside, .. } => inside.is_empty() && !source.is_dir(),
            MountKind::Overlay { is_dir, .. } => !is_dir,
            MountKind::Tmpfs { .. } => false,
            MountKind::File { .. } | MountKind::Secret { .. } | MountKind::Device { .. } => true,
        }
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
                    // The variable is there all the same, as in the reference.
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
                let agent = match source {
                    SshSource::Agent(socket) => socket.clone(),
                    SshSource::Keys(keys) => {
                        let agent = self.key_agent(id, keys)?;
                        let socket = agent.0.socket().to_owned();
                        mounted.held.push(Held::Agent(agent));
                        socket
                    }
                };
                let name = format!("ssh{number}");
                let forward =
                    Forward::start(self.scratch, &name, &agent, *mode, *uid, *gid).map_err(failed)?;
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

    fn bind(
        &self,
        number: usize,
        input: &MountInput,
        writable: bool,
        mounted: &mut Mounted,
    ) -> Result<MountKind, MountError> {
        match input {
            MountInput::Nothing => {
                let source = self.make_dir(&format!("nothing{number}"))?;
                Ok(MountKind::Bind { source, inside: Vec::new(), readonly: !writable })
            }
            MountInput::Files { selected, digest } => self.files(number, selected, digest, writable, mounted),
            MountInput::Layers { chain, place, .. } if self.no_overlay => {
                let plain = PlainRoot::make(self.snapshots, chain, &[])?;
                let source = plain.path().join(os_path(&place.path));
                mounted.held.push(Held::Plain(plain));
                Ok(MountKind::Bind { source, inside: Vec::new(), readonly: !writable })
            }
            MountInput::Layers { chain, place, .. } => Ok(MountKind::Overlay {
                lowers: self.snapshots.lowers(chain)?,
                upper: self.upper(number, writable)?,
                inside: place.path.clone(),
                is_dir: place.is_dir(),
            }),
        }
    }

    /// In place where the directory shows just what the step may see; else a copy, which steps of one
    /// build share.
    fn files(
        &self,
        number: usize,
        selected: &Selected,
        digest: &Digest,
        writable: bool,
        mounted: &mut Mounted,
    ) -> Result<MountKind, MountError> {
        let Some(selection) = selected.selections.first() else {
            return self.bind(number, &MountInput::Nothing, writable, mounted);
        };
        let seen_as_they_are = selection.files.iter().all(|file| (file.uid, file.gid) == (0, 0));
        let whole = selected.source.whole_directory().filter(|_| seen_as_they_are && selection.is_dir);
        if let Some(root) = whole
            && !(writable && self.no_overlay)
        {
            // Somebody may put a link in the place of a directory until this is mounted.
            let (source, inside) = (root.to_owned(), selected.place.clone());
            return Ok(if writable {
                let upper = self.upper(number, true)?;
                MountKind::Overlay { lowers: vec![source], upper, inside, is_dir: true }
            } else {
                MountKind::Bind { source, inside, readonly: true }
            });
        }
        let is_link = |file: &FileInfo| matches!(file.kind, FileKind::Symlink { .. });
        if !selection.is_dir && selection.files.iter().any(is_link) {
            return Err(MountError::Replaced(selected.pattern.clone()));
        }
        let copy = self.copied(selected, digest, writable)?;
        let files = copy.path().join("fs");
        let source = if selection.is_dir { files } else { files.join(os_path(&selection.name)) };
        mounted.held.push(Held::Copy(copy));
        Ok(MountKind::Bind { source, inside: Vec::new(), readonly: !writable })
    }

    fn copied(
        &self,
        selected: &Selected,
        digest: &Digest,
        writable: bool,
    ) -> Result<Arc<TempDir>, MountError> {
        if writable {
            let dir = self.snapshots.store().temp_dir()?;
            materialize(selected, dir.path(), self.snapshots.ids(), false)?;
            return Ok(Arc::new(dir));
        }
        let mut copies = self.settings.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(digest) {
            return Ok(copy.clone());
        }
        let dir = self.snapshots.store().temp_dir()?;
        materialize(selected, dir.path(), self.snapshots.ids(), false)?;
        let dir = Arc::new(dir);
        copies.insert(*digest, dir.clone());
        Ok(dir)
    }

    fn cache(&self, mount: &RunMount, input: &MountInput) -> Result<CacheDir, MountError> {
        let RunMountKind::Cache { id, namespace, sharing, mode, uid, gid, source, .. } = &mount.kind else {
            return Err(MountError::TooManyPrivate(String::new()));
        };
        let key = cache_key(namespace, id, source, input, (*mode, *uid, *gid));
        let store = self.snapshots.store();
        let mut number = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(MountError::Canceled);
            }
            let exclusive = *sharing != Sharing::Shared;
            let fill = |dir: &Path| self.seed(dir, input, (*mode, *uid, *gid));
            if let Some(dir) = store.cache_dir(&key, number, exclusive, fill)? {
                return Ok(dir);
            }
            match sharing {
                Sharing::Private if number + 1 >= MAX_PRIVATE => {
                    return Err(MountError::TooManyPrivate(id.clone()));
                }
                Sharing::Private => number += 1,
                Sharing::Shared | Sharing::Locked => std::thread::sleep(LOCK_PAUSE),
            }
        }
    }

    /// The first content of a cache.
    fn seed(
        &self,
        dir: &Path,
        input: &MountInput,
        (mode, uid, gid): (Option<u32>, Option<u32>, Option<u32>),
    ) -> Result<(), MountError> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |source| LayerError::io("prepare", dir, source);
        let top = match input {
            MountInput::Nothing => None,
            MountInput::Files { selected, .. } => {
                copy_into(selected, dir, self.snapshots.ids(), false)?;
                None
            }
            MountInput::Layers { chain, place, .. } => {
                let tree = self.snapshots.complete_tree(chain)?;
                let source: Arc<dyn crate::context::FileSource> = Arc::new(
                    super::tree_source::TreeSource::new(self.snapshots.clone(), chain.clone(), tree),
                );
                let path = String::from_utf8_lossy(&place.path).into_owned();
                let selected = copy::select_path(&path, "the cache's source", source, None)?;
                copy_into(&selected, dir, self.snapshots.ids(), true)?;
                (!place.path.is_empty()).then_some((place.mode, place.uid, place.gid))
            }
        };
        let (top_mode, top_uid, top_gid) = top.unwrap_or((0o755, 0, 0));
        let owner = (uid.unwrap_or(top_uid), gid.unwrap_or(top_gid));
        if self.snapshots.ids() == OnDiskIds::Keep && owner != (0, 0) {
            std::os::unix::fs::chown(dir, Some(owner.0), Some(owner.1)).map_err(failed)?;
        }
        let mode = std::fs::Permissions::from_mode(mode.unwrap_or(top_mode) & 0o7777);
        std::fs::set_permissions(dir, mode).map_err(failed)?;
        Ok(())
    }
}

/// A cache is one for each name and each way it was begun, as in the reference.
fn cache_key(
    namespace: &str,
    id: &str,
    source: &str,
    input: &MountInput,
    begun: (Option<u32>, Option<u32>, Option<u32>),
) -> Digest {
    let mut hasher = Hasher::new();
    for field in ["cache-mount", namespace, id, source] {
        hasher.field(field.as_bytes());
    }
    match input {
        MountInput::Nothing => {}
        MountInput::Files { digest, .. } | MountInput::Layers { digest, .. } => hasher.field(digest.raw()),
    }
    hasher.field(format!("{begun:?}").as_bytes());
    hasher.finish()
}

/// Copies what was selected into `dir/fs`.
fn materialize(selected: &Selected, dir: &Path, ids: OnDiskIds, keep_owner: bool) -> Result<(), MountError> {
    let target = dir.join("fs");
    std::fs::create_dir(&target).map_err(|source| LayerError::io("create", &target, source))?;
    copy_into(selected, &target, ids, keep_owner)
}

fn copy_into(selected: &Selected, dir: &Path, ids: OnDiskIds, keep_owner: bool) -> Result<(), MountError> {
    let dest = plain_destination(keep_owner);
    let layer = copy::layer(&Tree::empty(), &dest, std::slice::from_ref(selected), &[], &[])?;
    layer::write_files(&layer.entries, &layer.content, dir, ids)?;
    Ok(())
}

/// The root of an empty file system.
pub fn plain_destination(keep_owner: bool) -> Destination {
    Destination {
        path: b"/".to_vec(),
        directory: true,
        owner: None,
        keep_owner,
        chmod: None,
        made_up_time: 0,
    }
}

fn os_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(path))
}
