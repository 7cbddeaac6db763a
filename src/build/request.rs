//! What a build is asked to do, with every default already applied.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::compress::{CompressionAlgorithm, Packing};
use crate::context::{FetchedContext, UserPath};
use crate::digest::Digest;
use crate::image::{Descriptor, Platform};
use crate::plan::RunNetwork;
use crate::registry::SourceNetwork;
use crate::sandbox::Limits;
use crate::sources::SourceOptions;
use crate::steps::mount::{Secret, SshSource};

use super::cache_spec::{CacheLocation, CacheTarget};
use super::secrets::SecretScan;
use crate::attest::AttestOptions;
use crate::attest::sign::Signer;

/// A build, as data. Made by `cli/` from flags, or by a library user directly.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// `PATH` or `-`.
    pub context: UserPath,
    /// `-f`: a path relative to `cwd`, or `-`; `None` looks for `Dockerfile`.
    pub dockerfile: Option<UserPath>,
    /// The Dockerfile itself, where the caller has read it; `dockerfile` is its name then.
    pub dockerfile_text: Option<Vec<u8>>,
    /// How a context is taken that is no local directory.
    pub fetched: FetchedContext,
    /// Directory that relative paths refer to.
    pub cwd: PathBuf,
    /// `-t`, as given, in order.
    pub tags: Vec<String>,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, in order; a name without a value has been looked up by the caller already and
    /// is left out where the caller's environment lacks it.
    pub build_args: Vec<(String, String)>,
    /// `--label`, in order.
    pub labels: Vec<(String, String)>,
    /// `--build-context name=value`, in order.
    pub build_contexts: Vec<(String, UserPath)>,
    /// `--platform`, as given; empty is that of the machine. Several give an index.
    pub platforms: Vec<String>,
    /// `--annotation`, in order; a later one of the same kind and key wins.
    pub annotations: Vec<Annotation>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter`: stage names.
    pub no_cache_filter: Vec<String>,
    /// `--cache-from`, in the order in which they are asked.
    pub cache_from: Vec<CacheLocation>,
    /// `--cache-to`, in order.
    pub cache_to: Vec<CacheTarget>,
    /// Seconds after which the result of a step counts no more; `None` is no limit.
    pub cache_lifetime: Option<i64>,
    /// `--pull`.
    pub pull: PullPolicy,
    /// `--network` for RUN.
    pub network: RunNetwork,
    /// `--allow`.
    pub allow: crate::plan::Entitlements,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`, by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// `--add-host name:ip`, split; the address may be [`crate::plan::HOST_GATEWAY`].
    pub add_hosts: Vec<(String, String)>,
    /// `--ulimit name=soft[:hard]`, split.
    pub ulimits: Vec<(String, u64, u64)>,
    /// `--memory`, `--cpus` and the like.
    pub limits: Limits,
    /// `--shm-size` in bytes.
    pub shm_size: Option<u64>,
    /// Registries spoken to over plain http or without certificate checks, as `host[:port]`.
    pub insecure_registries: Vec<String>,
    /// Where bases, contexts and sources of ADD may be; the configuration may forbid more.
    pub source_network: SourceNetwork,
    /// `--locked`, `--offline` and the like.
    pub sources: SourceOptions,
    /// `-o`, in order; empty keeps the image in the store only.
    pub outputs: Vec<OutputSpec>,
    /// Registries are not asked at the beginning whether they will take what the build makes.
    pub skip_push_check: bool,
    /// A tag that its registry does not let anybody move is left as it is, and the push counts as done.
    pub keep_immutable_tags: bool,
    /// The digest of the manifest is asked for: layers are compressed even where no output needs that.
    pub wants_manifest: bool,
    /// The image's ID is asked for, so an image is made even if no output needs one.
    pub wants_id: bool,
    /// `SOURCE_DATE_EPOCH` in seconds, when set.
    pub source_date_epoch: Option<i64>,
    /// `--squash`: the layers of the build, above those of the base, become one.
    pub squash: bool,
    /// `--reproducible`: without an epoch from elsewhere, that of the context is taken (the commit of
    /// its git work tree, else 0), and files of contexts get it as their time.
    pub reproducible: bool,
    /// `BUILDKIT_MULTI_PLATFORM=1`, or an output that says so: an index even for one platform.
    pub multi_platform: bool,
    /// Where engines listen that `--load` may speak to, in order of preference.
    pub engines: Vec<EngineAddress>,
    /// Which attestations the result carries.
    pub attest: AttestOptions,
    /// When the layers that the build makes are looked through for secrets.
    pub secret_scan: SecretScan,
    /// A secret in one of them fails the build before anything leaves; they are looked through then.
    pub fail_on_secrets: bool,
    /// Signs what is pushed, and its attestations.
    pub sign: Option<Signer>,
    /// How many steps may run at once; `None` is the number of processors.
    pub jobs: Option<usize>,
    /// Limit for the whole of one RUN; `None` is no limit.
    pub step_timeout: Option<Duration>,
}

impl BuildRequest {
    /// Whether the result becomes an image. Where only its files are wanted, or nothing, it does not, as
    /// in BuildKit.
    pub fn makes_image(&self) -> bool {
        let given = self.wants_id || !self.tags.is_empty() || self.outputs.is_empty();
        given || self.outputs.iter().any(OutputSpec::makes_image)
    }

    /// How the layers of the image are compressed that tags and the ID mean: as for the first output that
    /// makes an image. Without any, an output may say it all the same.
    pub fn compression(&self) -> CompressionChoice {
        let making = self.outputs.iter().find(|output| output.makes_image());
        let saying = || self.outputs.iter().find(|output| output.compression.is_some());
        making.or_else(saying).map(OutputSpec::compression).unwrap_or_default()
    }

    /// All the ways in which layers are to be compressed, each once; that of the image itself comes first.
    pub fn compressions(&self) -> Vec<CompressionChoice> {
        let mut all = vec![self.compression()];
        for output in self.outputs.iter().filter(|output| output.makes_image()) {
            if !all.contains(&output.compression()) {
                all.push(output.compression());
            }
        }
        all
    }

    /// Whether the image's compressed layers and its manifest are wanted, and not only its name and ID.
    pub fn wants_bytes(&self) -> bool {
        let attested = self.attest.is_asked_for() && self.makes_image();
        self.wants_manifest || attested || self.outputs.iter().any(OutputSpec::wants_bytes)
    }

    /// Whether images in the store and in registries carry attestations: they were asked for, or there is an output
    /// that has them without being asked.
    pub fn attests_images(&self) -> bool {
        let of_itself = |one: &OutputSpec| one.push || self.platforms.len() > 1 && one.is_layout();
        self.attest.is_asked_for() || self.attest.provenance.is_some() && self.outputs.iter().any(of_itself)
    }

    /// Whether the image carries the records of its layers.
    pub fn has_inline_cache(&self) -> bool {
        self.cache_to.iter().any(CacheTarget::is_inline)
    }

    /// Outputs that go to standard output.
    pub fn outputs_on_stdout(&self) -> usize {
        self.outputs.iter().filter(|output| output.dest == "-").count()
    }
}

/// An annotation of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// What is annotated.
    pub kind: AnnotationKind,
    /// Only for this platform.
    pub platform: Option<Platform>,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What an annotation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationKind {
    /// The manifest.
    Manifest,
    /// The index over platforms.
    Index,
    /// The manifest's descriptor in the index.
    ManifestDescriptor,
    /// The index's descriptor in a layout.
    IndexDescriptor,
}

/// Where an engine with Docker's API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineAddress {
    /// A socket.
    Unix(PathBuf),
    /// `host:port`, unencrypted.
    Tcp(String),
}

/// When a tag is looked up again in its registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PullPolicy {
    /// One HEAD request for each tag; the local copy if it is the same, or if the registry cannot
    /// be reached (with a warning).
    #[default]
    Missing,
    /// As `Missing`, but an unreachable registry is an error.
    Always,
    /// Never speak to a registry.
    Never,
}

/// One `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// What is written.
    pub kind: OutputKind,
    /// Where: a path relative to the request's `cwd`, or `-` for standard output where allowed.
    pub dest: String,
    /// Compression of layers this build makes, and of all with `force`.
    pub compression: Option<CompressionChoice>,
    /// `name=`: names for this output instead of the tags.
    pub names: Vec<String>,
    /// `annotation.KEY=VALUE` and its forms; they come on top of the request's.
    pub annotations: Vec<Annotation>,
    /// `oci-mediatypes=`; `None` is the kind's own choice.
    pub oci_types: Option<bool>,
    /// `platform-split=`: a directory for each platform; `None` splits where there are several.
    pub split: Option<bool>,
    /// `keep-special=`: files keep set-user-ID and set-group-ID bits, and device nodes are made.
    pub keep_special: bool,
    /// `push=true`, `type=registry`, `--push`: to the registries of its names.
    pub push: bool,
    /// `push-by-digest=true`: under no tag.
    pub by_digest: bool,
    /// `rewrite-timestamp=`: file times later than the epoch become the epoch.
    pub rewrite_timestamp: Option<bool>,
    /// `oci-artifact=false`: attestations in the form that BuildKit wrote before 2026.
    pub legacy_attestations: bool,
    /// `attestation-inline=true`: an image carries also what was not asked for.
    pub attestation_inline: bool,
    /// `attestation-prefix=`: before the names of files with attestations.
    pub attestation_prefix: String,
}

impl OutputSpec {
    /// Whether it is an OCI layout with OCI media types, which can hold attestations beside an image.
    pub fn is_layout(&self) -> bool {
        matches!(self.kind, OutputKind::Oci | OutputKind::OciDir) && self.oci_types != Some(false)
    }

    /// An output of a kind with every default.
    pub fn new(kind: OutputKind, dest: impl Into<String>) -> Self {
        OutputSpec {
            kind,
            dest: dest.into(),
            compression: None,
            names: Vec::new(),
            annotations: Vec::new(),
            oci_types: None,
            split: None,
            keep_special: false,
            push: false,
            by_digest: false,
            rewrite_timestamp: None,
            legacy_attestations: false,
            attestation_inline: false,
            attestation_prefix: String::new(),
        }
    }

    /// Whether it is an image, and not only its files or nothing.
    pub fn makes_image(&self) -> bool {
        match self.kind {
            OutputKind::Oci
            | OutputKind::OciDir
            | OutputKind::Docker
            | OutputKind::Load
            | OutputKind::Image => true,
            OutputKind::Local | OutputKind::Tar | OutputKind::CacheOnly => false,
        }
    }

    /// Whether it reads the files of the result.
    pub(super) fn reads_files(&self) -> bool {
        matches!(self.kind, OutputKind::Local | OutputKind::Tar)
    }

    /// Whether it needs compressed layers, or says how they are to be: a name in the store does not.
    fn wants_bytes(&self) -> bool {
        match self.kind {
            OutputKind::Image => self.push || self.compression.is_some() || self.oci_types == Some(false),
            _ => self.makes_image(),
        }
    }

    /// How its layers are compressed.
    pub fn compression(&self) -> CompressionChoice {
        self.compression.unwrap_or_default()
    }
}

/// Kinds of output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputKind {
    /// OCI layout in a tar.
    Oci,
    /// OCI layout as a directory (`type=oci,tar=false`).
    OciDir,
    /// `docker load` archive.
    Docker,
    /// Into a running engine (`--load`, `type=docker` without `dest`).
    Load,
    /// The files of the image in a directory.
    Local,
    /// The files of the image in a tar.
    Tar,
    /// The store, which gets every image anyway (`type=image`).
    Image,
    /// Nothing (`type=cacheonly`).
    CacheOnly,
}

/// `compression=`, `compression-level=`, `force-compression=`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompressionChoice {
    /// Algorithm.
    pub algorithm: CompressionAlgorithm,
    /// Level; `None` is the algorithm's default.
    pub level: Option<u32>,
    /// Recompress the base's layers as well.
    pub force: bool,
    /// `estargz`: gzip whose files can be fetched one by one. Layers get entries of its own, and so
    /// other diff IDs.
    pub estargz: bool,
}

impl CompressionChoice {
    /// How one layer is compressed.
    pub(super) fn packing(self) -> Packing {
        Packing { compression: self.algorithm, level: self.level }
    }
}

/// What a successful build made.
#[derive(Clone, Debug)]
pub struct BuildOutcome {
    /// The image; `None` where the request makes none.
    pub image: Option<BuiltImage>,
    /// Normalised names.
    pub names: Vec<String>,
    /// For the summary line.
    pub summary: crate::event::Summary,
    /// Warnings the build gave, for `--metadata-file`.
    pub warnings: Vec<String>,
    /// An output was written to standard output, where nothing else may be said then.
    pub on_stdout: bool,
    /// Nothing came from outside: the build was offline, and no step had a network or an SSH agent.
    pub hermetic: bool,
}

/// What a built image goes by.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// Digest of the image's config: Docker's image ID. With several platforms, the digest of their
    /// index, as BuildKit has it.
    pub id: Digest,
    /// Digest of the config; that of the first platform where there are several.
    pub config_digest: Digest,
    /// The manifest's descriptor, or that of the index over several platforms. `None` where layers are not
    /// compressed yet, as nothing wanted their bytes.
    pub descriptor: Option<Descriptor>,
}
