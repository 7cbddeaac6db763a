//! What all `RUN`s of a build share, and what of it counts for the cache.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Input;
use crate::digest::Hasher;
use crate::sandbox::{Limits, Ulimit};
use crate::snapshot::LiveRoots;

use super::mount::MountSettings;
use super::network::BuildNetwork;
use super::overlays::Overlays;

/// Docker's default for `/dev/shm`, in bytes.
pub const DEFAULT_SHM: u64 = 64 << 20;

/// What a `RUN` needs besides its step: the same for all steps of a build.
#[derive(Clone, Debug, Default)]
pub struct RunSettings {
    /// `--add-host`; an address may be [`crate::plan::HOST_GATEWAY`].
    pub extra_hosts: Vec<(String, String)>,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--memory`, `--cpus` and the like.
    pub limits: Limits,
    /// Limit for one step.
    pub timeout: Option<Duration>,
    /// Host name inside.
    pub hostname: String,
    /// Whether steps run on overlays or on copies.
    pub overlays: Arc<Overlays>,
    /// Root file systems made of files, where nothing can be mounted.
    pub roots: Arc<LiveRoots>,
    /// What `--mount` works with.
    pub mounts: Arc<MountSettings>,
    /// The network of steps that ask for none in particular.
    pub network: Arc<BuildNetwork>,
}

impl RunSettings {
    /// Settings that a step can see, as parts of its cache key. Of `--add-host` it is the names only:
    /// addresses differ from machine to machine.
    pub fn inputs(&self) -> Vec<Input> {
        let limits = self.ulimits.iter().map(|one| format!("{}={}:{}", one.name, one.soft, one.hard));
        let hosts = self.extra_hosts.iter().map(|(name, _)| name.clone());
        let size = (self.shm_size != DEFAULT_SHM).then(|| self.shm_size.to_string());
        let all: [(&str, Vec<String>); 3] = [
            ("--ulimit", limits.collect()),
            ("--shm-size", size.into_iter().collect()),
            ("--add-host", hosts.collect()),
        ];
        let given = all.into_iter().filter(|(_, values)| !values.is_empty());
        given
            .map(|(flag, values)| {
                let mut hasher = Hasher::new();
                values.iter().for_each(|value| hasher.field(value.as_bytes()));
                Input { name: flag.to_owned(), digest: hasher.finish() }
            })
            .collect()
    }
}
