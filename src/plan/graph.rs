//! The graph: steps as data, with edges to what they need.

use std::fmt;
use std::sync::Arc;

use crate::dockerfile::{Source, Span};
use crate::image::{ImageConfig, Platform};

use super::chmod::Chmod;
use super::error::PlanWarning;

/// Position of a step in [`Plan::steps`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StepId(pub usize);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Steps; each comes after all it depends on.
    pub steps: Vec<Step>,
    /// Stages that are built, in order of the file.
    pub stages: Vec<StagePlan>,
    /// Position in `stages` of the target.
    pub target: usize,
    /// What is worth telling.
    pub warnings: Vec<PlanWarning>,
    /// `SOURCE_DATE_EPOCH` as an argument or global ARG, in seconds.
    pub source_date_epoch: Option<i64>,
    /// Host name inside RUN.
    pub hostname: String,
}

impl Plan {
    /// Whether no step can reach anything outside: none has a network, and none somebody's SSH agent.
    pub fn is_closed(&self) -> bool {
        self.steps.iter().all(|step| match &step.kind {
            StepKind::Run(run) => {
                let agent = |mount: &RunMount| matches!(mount.kind, RunMountKind::Ssh { .. });
                run.network == RunNetwork::None && !run.mounts.iter().any(agent)
            }
            _ => true,
        })
    }
}

/// One stage.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// Position in the file.
    pub index: usize,
    /// Its name, lower-cased.
    pub name: Option<String>,
    /// Its last step; `None` for `FROM scratch` without any.
    pub last: Option<StepId>,
    /// The config its image gets, without times, layers and this build's history.
    pub config: ImageConfig,
    /// History of this build, the base's left out; of stages it is built on as well.
    pub history: Vec<StageHistory>,
    /// Platform of its image.
    pub platform: Platform,
    /// `BUILDKIT_SBOM_SCAN_STAGE` as the stage, else the global scope, has it.
    pub sbom_stage: Option<String>,
    /// `BUILDKIT_SBOM_SCAN_CONTEXT`, as for [`StagePlan::sbom_stage`].
    pub sbom_context: Option<String>,
}

impl StagePlan {
    /// Labels the image with the platform it was asked for, as BuildKit does. A base's variant and version of
    /// the system stay where they are not contradicted.
    pub(super) fn set_platform(&mut self, platform: &Platform) {
        let config = &mut self.config;
        let same = (&config.os, &config.architecture) == (&platform.os, &platform.architecture);
        config.os.clone_from(&platform.os);
        config.architecture.clone_from(&platform.architecture);
        if !same || !platform.variant.is_empty() {
            config.variant.clone_from(&platform.variant);
        }
        if !same {
            config.os_version.clear();
        }
        self.platform = platform.clone();
    }
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageHistory {
    /// The instruction as BuildKit words it.
    pub created_by: String,
    /// The step that makes its layer; `None` for an empty layer.
    pub step: Option<StepId>,
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its position.
    pub id: StepId,
    /// Groups steps that follow one another: the stage's position in the file, or a number behind
    /// all stages for an image that is only copied from.
    pub stage: usize,
    /// The stage's name, for `--no-cache-filter`.
    pub stage_name: Option<String>,
    /// The step it builds on.
    pub parent: Option<StepId>,
    /// As shown: `[build 2/4] RUN make`.
    pub name: String,
    /// Where it is written.
    pub source: Arc<Source>,
    /// Where exactly.
    pub span: Span,
    /// What it does.
    pub kind: StepKind,
}

/// Kinds of steps.
#[derive(Clone, Debug)]
pub enum StepKind {
    /// A base.
    From(FromStep),
    /// `RUN`.
    Run(RunStep),
    /// `COPY` and `ADD`.
    Copy(CopyStep),
    /// `WORKDIR`.
    Workdir(WorkdirStep),
}

/// A base image.
#[derive(Clone, Debug)]
pub struct FromStep {
    /// Which.
    pub base: Base,
    /// What its files are for.
    pub platform: Platform,
}

/// An image that was found for a plan, as whoever found it counts. Its name would not do: one name may be
/// requested for several platforms, and the image found may be for yet another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BaseId(pub usize);

/// Kinds of bases that need work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// An image or image-like named context.
    Image {
        /// Which one.
        id: BaseId,
        /// The name it was requested under.
        name: String,
    },
    /// Nothing: `FROM scratch`.
    Scratch,
}

/// `RUN`.
#[derive(Clone, Debug)]
pub struct RunStep {
    /// The whole command.
    pub argv: Vec<String>,
    /// ENV and ARG, in order.
    pub env: Vec<(String, String)>,
    /// Proxy variables, which never count for the cache.
    pub proxy_env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// `USER` in force; resolved when it runs.
    pub user: String,
    /// `--network`, or the build's.
    pub network: RunNetwork,
    /// Inline scripts.
    pub scripts: Vec<Script>,
    /// `--mount`, in order of writing.
    pub mounts: Vec<RunMount>,
    /// `--security=insecure`.
    pub insecure: bool,
    /// `--device`.
    pub devices: Vec<Device>,
    /// The platform its programs are for.
    pub platform: Platform,
}

/// A device of the Container Device Interface: `vendor.com/class=name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Whether it is an error that this machine has none of that name.
    pub required: bool,
}

/// `RUN --mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    /// Absolute path inside; `None` for a secret that only becomes a variable.
    pub target: Option<String>,
    /// What is mounted.
    pub kind: RunMountKind,
}

/// Types of `RUN --mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMountKind {
    /// Files of a context, stage or image.
    Bind {
        /// Where they are; `None` is an empty directory.
        origin: Option<CopyOrigin>,
        /// Absolute path in there.
        source: String,
        /// May be written to; what is written is lost.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// `BUILDKIT_CACHE_MOUNT_NS`.
        namespace: String,
        /// What it holds at first.
        origin: Option<CopyOrigin>,
        /// Absolute path in there.
        source: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Mode of the directory when it is made.
        mode: Option<u32>,
        /// Its owner.
        uid: Option<u32>,
        /// Its group.
        gid: Option<u32>,
        /// Cannot be written to.
        readonly: bool,
    },
    /// A file system in memory.
    Tmpfs {
        /// Most bytes.
        size: Option<u64>,
    },
    /// A secret as a file, a variable or both.
    Secret {
        /// Its name.
        id: String,
        /// Variable that gets its value.
        env: Option<String>,
        /// Fail where it was not given.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// An SSH agent's socket.
    Ssh {
        /// Its name.
        id: String,
        /// Fail where it was not given.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// Any number of steps.
    #[default]
    Shared,
    /// Another directory where it is in use.
    Private,
    /// One step after the other.
    Locked,
}

impl RunMount {
    /// Where files of a bind mount, or the first content of a cache mount, come from.
    pub fn origin(&self) -> Option<(&CopyOrigin, &str)> {
        match &self.kind {
            RunMountKind::Bind { origin, source, .. } | RunMountKind::Cache { origin, source, .. } => {
                origin.as_ref().map(|origin| (origin, source.as_str()))
            }
            _ => None,
        }
    }
}

/// An inline script of `RUN <<EOF`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Where it appears.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug)]
pub struct CopyStep {
    /// Where files come from.
    pub origin: CopyOrigin,
    /// Paths and patterns, expanded.
    pub sources: Vec<String>,
    /// Inline files.
    pub inline: Vec<InlineFile>,
    /// Absolute destination.
    pub dest: String,
    /// Written as a directory.
    pub dest_is_dir: bool,
    /// `--chown`, unresolved.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// URLs and git repositories, expanded.
    pub remote: Vec<RemoteSource>,
    /// How many of `sources` are written before each of `remote`.
    pub remote_after: Vec<usize>,
    /// Local archives are unpacked.
    pub extract: bool,
    /// Downloaded archives are unpacked.
    pub extract_remote: bool,
    /// `--exclude`, not expanded.
    pub exclude: Vec<String>,
    /// `--parents`: paths are kept.
    pub parents: bool,
    /// `--link`: the layer does not depend on what is below it.
    pub link: bool,
}

/// Where a copy takes files from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyOrigin {
    /// The build context (`""`) or a named one.
    Context(String),
    /// The result of a step, and what it is called.
    Step(StepId, String),
}

impl fmt::Display for CopyOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyOrigin::Context(name) if name.is_empty() => f.write_str("the build context"),
            CopyOrigin::Context(name) => write!(f, "build context {name:?}"),
            CopyOrigin::Step(_, name) => write!(f, "{name}"),
        }
    }
}

/// A source of `ADD` that lies elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSource {
    /// A URL or git address.
    pub url: String,
    /// `--checksum`: of the content, or the commit.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
}

/// A file written in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its content, expanded.
    pub content: String,
}

/// `WORKDIR`.
#[derive(Clone, Debug)]
pub struct WorkdirStep {
    /// Absolute and clean.
    pub path: String,
    /// `USER` in force: the owner of what is made.
    pub user: String,
}

impl Step {
    /// Steps whose results it needs.
    pub fn dependencies(&self) -> impl Iterator<Item = StepId> {
        self.parent.into_iter().chain(self.sources())
    }

    /// Steps whose files it reads besides its parent's.
    pub fn sources(&self) -> impl Iterator<Item = StepId> {
        let copied = match &self.kind {
            StepKind::Copy(CopyStep { origin: CopyOrigin::Step(id, _), .. }) => Some(*id),
            _ => None,
        };
        let mounts = match &self.kind {
            StepKind::Run(run) => run.mounts.as_slice(),
            _ => &[],
        };
        let mounted = mounts.iter().filter_map(|mount| match mount.origin() {
            Some((CopyOrigin::Step(id, _), _)) => Some(*id),
            _ => None,
        });
        copied.into_iter().chain(mounted)
    }
}

/// The address that `--add-host` takes for the machine that builds.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Network of RUN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RunNetwork {
    /// The builder's choice.
    #[default]
    Default,
    /// The host's.
    Host,
    /// Loopback only.
    None,
}
