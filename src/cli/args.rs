//! The command line as typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::registry::SourceNetwork;

use super::attest::AttestArgs;
use super::builds::{BuildsCommand, ExplainArgs};
use super::cache_command::CacheArgs;
use super::check::{CallArgs, CheckArgs};
use super::copy::{CopyArgs, IndexCommand, LoadArgs, ReferrersArgs};
use super::deferred::Deferred;
use super::dry_run::DryRunArgs;
use super::empty::path;
use super::images::{HistoryArgs, ImagesArgs, InspectArgs, RmiArgs};
use super::registry::{LoginArgs, PullArgs, PushArgs};
use super::run_args::RunArgs;
use super::sbom::SbomArgs;
use super::secret_scan::SecretScanArgs;
use super::sign::{SignArgs, VerifyArgs};
use super::sources::{LockArgs, SourceArgs, VendorArgs};
use super::store::{DuArgs, FsckArgs, PruneArgs};
use super::verify::{DiffArgs, ReproduceArgs, ValidateArgs};

const AFTER: &str = "\
`rbuild [OPTIONS] PATH` is short for `rbuild build [OPTIONS] PATH`, so `alias docker=rbuild` works for builds.

Exit codes: 0 done, 1 a step failed, 2 wrong usage, 3 mistake in the Dockerfile, 4 build context,
5 base image, 6 output, 7 store, 8 not supported yet, 9 sandbox, 10 a step would run (--dry-run), 11 lock,
12 a secret in a layer (--fail-on-secrets), 130 interrupted.";

/// Builds OCI images from Dockerfiles: no daemon, no root, one binary.
#[derive(Parser, Debug)]
#[command(name = "rbuild", version, after_help = AFTER, disable_help_subcommand = true, args_override_self = true)]
pub(super) struct Cli {
    /// Where images, layers and the cache are kept [env: RBUILD_ROOT]
    #[arg(long, global = true, value_name = "DIR", value_parser = path())]
    pub root: Option<PathBuf>,
    /// Mirrors and ways to reach registries, instead of the usual registries.toml
    #[arg(long, global = true, value_name = "FILE", value_parser = path())]
    pub registries: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Build an image from a Dockerfile
    Build(Deferred<BuildArgs>),
    /// Build as told by flags of Kaniko's executor; `rbuild kaniko --help` lists them
    #[command(disable_help_flag = true)]
    Kaniko {
        /// Flags of Kaniko
        #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Show what a build would do, as text, dot or JSON
    Plan(Deferred<PlanArgs>),
    /// Tell why each step of a build was executed or cached
    Explain(Deferred<ExplainArgs>),
    /// List builds, show them and what they printed
    Builds {
        #[command(subcommand)]
        command: Option<BuildsCommand>,
    },
    /// Look into caches in registries and directories, check and move them
    Cache(Deferred<CacheArgs>),
    /// Check a Dockerfile, and set right what can be
    Check(Deferred<CheckArgs>),
    /// Run a command in an image, in the foreground
    #[command(disable_help_flag = true)]
    Run(Deferred<RunArgs>),
    /// List the images of the store
    Images(Deferred<ImagesArgs>),
    /// Show everything about images as JSON
    Inspect(Deferred<InspectArgs>),
    /// Show how an image came to be
    History(Deferred<HistoryArgs>),
    /// Write images to an archive; of an index, the image for this machine
    Save(Deferred<SaveArgs>),
    /// Give an image another name
    Tag {
        /// Name or ID it has
        source: String,
        /// Name it gets
        target: String,
    },
    /// Remove names of images
    Rmi(Deferred<RmiArgs>),
    /// Send an image of the store to its registry
    Push(Deferred<PushArgs>),
    /// Fetch an image from its registry into the store
    Pull(Deferred<PullArgs>),
    /// Read the images of an archive into the store
    Load(Deferred<LoadArgs>),
    /// Copy an image between registries, layouts, archives and the store
    Copy(Deferred<CopyArgs>),
    /// List what refers to an image: signatures, bills of materials, attestations
    Referrers(Deferred<ReferrersArgs>),
    /// Make and change indexes: several images under one name
    Index {
        #[command(subcommand)]
        command: IndexCommand,
    },
    /// Keep credentials for a registry
    Login(Deferred<LoginArgs>),
    /// Forget the credentials for a registry
    Logout {
        /// The registry
        #[arg(value_name = "HOST[:PORT]")]
        registry: Option<String>,
    },
    /// Sign an image in its registry or layout with a key, in cosign's forms
    Sign(Deferred<SignArgs>),
    /// Check the signature of an image, and what is claimed about how it was built
    Verify(Deferred<VerifyArgs>),
    /// List the packages of an image, as a table, SPDX or CycloneDX
    Sbom(Deferred<SbomArgs>),
    /// Check every rule of an image's formats, down to the bytes of its layers
    Validate(Deferred<ValidateArgs>),
    /// List the files in which two images of the store differ
    Diff(Deferred<DiffArgs>),
    /// Build twice without the cache and explain every difference
    VerifyReproducible(Deferred<ReproduceArgs>),
    /// Pin what a Dockerfile's sources resolve to, in Dockerfile.lock
    Lock(Deferred<LockArgs>),
    /// Gather everything that a locked build reads, for building without a network
    Vendor(Deferred<VendorArgs>),
    /// Remove from the store what is not needed
    Prune(Deferred<PruneArgs>),
    /// Show what the store takes
    Du(Deferred<DuArgs>),
    /// Check the store for damage
    Fsck(Deferred<FsckArgs>),
    /// Show what this machine allows and how rbuild uses it
    Info(Deferred<InfoArgs>),
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version(Deferred<VersionArgs>),
    /// Explain a command, its flags, or a topic
    Help {
        /// A command or a topic; without, both are listed
        #[arg(value_name = "COMMAND|TOPIC")]
        words: Vec<String>,
    },
}

/// What `build` and `plan` have in common.
#[derive(Args, Debug, Default)]
pub(super) struct InputArgs {
    /// Directory with the files to build from, or - for a tar or Dockerfile on standard input
    #[arg(value_name = "PATH | -")]
    pub context: OsString,
    /// The Dockerfile: a path, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", help_heading = "Input")]
    pub file: Option<OsString>,
    /// Set a build argument; without value it is taken from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]", help_heading = "Input")]
    pub build_args: Vec<String>,
    /// A named context: a directory, an archive, oci-layout://PATH[:TAG] or docker-image://NAME
    #[arg(long = "build-context", value_name = "NAME=VALUE", help_heading = "Input")]
    pub build_contexts: Vec<OsString>,
    /// Stop at this stage
    #[arg(long, value_name = "STAGE", help_heading = "Input")]
    pub target: Option<String>,
    /// Platforms of the image, such as linux/arm64; several give an index
    #[arg(long, value_name = "PLATFORM", help_heading = "Input")]
    pub platform: Vec<String>,
    /// Look base images up again: true, or always, missing, never
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_missing_value = "always", help_heading = "Base images")]
    pub pull: Option<String>,
    /// A registry without https or with a certificate nobody signed
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]", help_heading = "Base images")]
    pub insecure_registries: Vec<String>,
    /// Where bases, contexts and sources of ADD may be: any, remote (not this machine) or public
    #[arg(
        long = "source-network",
        value_name = "WHERE",
        default_value = "any",
        help_heading = "Base images"
    )]
    pub source_network: SourceNetwork,
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Network of RUN: default, host or none
    #[arg(long, value_name = "MODE", default_value = "default", help_heading = "RUN")]
    pub network: String,
    /// Set metadata
    #[arg(long = "label", value_name = "NAME=VALUE", help_heading = "Output")]
    pub labels: Vec<String>,
}

#[derive(Args, Debug, Default)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Name of the image; may be repeated
    #[arg(short = 't', long = "tag", value_name = "NAME[:TAG]", help_heading = "Output")]
    pub tags: Vec<String>,
    /// Write the result: type=oci|docker|tar|local,dest=PATH; a path alone gets the files
    #[arg(short = 'o', long = "output", value_name = "OUTPUT", help_heading = "Output")]
    pub outputs: Vec<String>,
    /// Push the image to the registries of its names
    #[arg(long, help_heading = "Output")]
    pub push: bool,
    /// Load the image into a running Docker or Podman
    #[arg(long, help_heading = "Output")]
    pub load: bool,
    /// Annotate the image: [manifest|index|manifest-descriptor|index-descriptor[PLATFORM]:]KEY=VALUE
    #[arg(long = "annotation", value_name = "NAME=VALUE", help_heading = "Output")]
    pub annotations: Vec<String>,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE", value_parser = path(), help_heading = "Output")]
    pub iidfile: Option<PathBuf>,
    /// Write facts about the result to a file, as JSON
    #[arg(long = "metadata-file", value_name = "FILE", value_parser = path(), help_heading = "Output")]
    pub metadata_file: Option<PathBuf>,
    /// Print the image ID only
    #[arg(short = 'q', long, help_heading = "Output")]
    pub quiet: bool,
    /// How progress is shown: auto, plain, tty, quiet, warnings or rawjson [env: BUILDKIT_PROGRESS]
    #[arg(long, value_name = "TYPE", help_heading = "Output")]
    pub progress: Option<String>,
    /// Groups and annotations for the log of a service: auto (by its variables), none, github, gitlab, teamcity, azure
    #[arg(long, value_name = "SERVICE", help_heading = "Output")]
    pub ci: Option<String>,
    /// Execute every step again
    #[arg(long = "no-cache", help_heading = "Cache")]
    pub no_cache: bool,
    /// Execute the steps of these stages again
    #[arg(long = "no-cache-filter", value_name = "STAGE", value_delimiter = ',', help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,
    /// Also look steps up elsewhere: NAME, type=registry,ref=NAME or type=local,src=DIR
    #[arg(long = "cache-from", value_name = "CACHE", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Keep results for other machines: type=registry,ref=NAME, type=local,dest=DIR or type=inline; mode=min|max
    #[arg(long = "cache-to", value_name = "CACHE", help_heading = "Cache")]
    pub cache_to: Vec<String>,
    /// A secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long = "secret", value_name = "SECRET", help_heading = "RUN")]
    pub secrets: Vec<String>,
    /// An SSH agent for RUN --mount=type=ssh: default, or ID=SOCKET, or ID=KEY[,KEY]
    #[arg(long = "ssh", value_name = "ID[=SOCKET|KEY]", help_heading = "RUN")]
    pub ssh: Vec<String>,
    /// User namespace of RUN where root builds: private (root is unprivileged on the host), host (none), or auto,
    /// which is private where a step loses nothing by it
    #[arg(long, value_name = "MODE", value_enum, default_value = "auto", help_heading = "RUN")]
    pub userns: Userns,
    /// What RUN is executed by: native (namespaces), chroot (none, for root of a container), oci (an OCI runtime), or
    /// auto, the best of native and chroot that this machine allows [env: RBUILD_ISOLATION]
    #[arg(long, value_name = "TYPE", help_heading = "RUN")]
    pub isolation: Option<String>,
    /// The OCI runtime, by name or path; the first of crun, runc, youki, runsc [env: RBUILD_RUNTIME]
    #[arg(long, value_name = "NAME|PATH", help_heading = "RUN")]
    pub runtime: Option<String>,
    /// What confines RUN besides: apparmor=PROFILE, apparmor=unconfined
    #[arg(long = "security-opt", value_name = "OPTION", help_heading = "RUN")]
    pub security_opts: Vec<String>,
    /// What the Dockerfile may ask for: network.host, security.insecure, device[=NAME]
    #[arg(long = "allow", value_name = "ENTITLEMENT", help_heading = "RUN")]
    pub allow: Vec<String>,
    /// A line for /etc/hosts
    #[arg(long = "add-host", value_name = "HOST:IP", help_heading = "RUN")]
    pub add_hosts: Vec<String>,
    /// A resource limit
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", help_heading = "RUN")]
    pub ulimits: Vec<String>,
    /// Size of /dev/shm
    #[arg(long = "shm-size", value_name = "SIZE", help_heading = "RUN")]
    pub shm_size: Option<String>,
    /// Limit for each RUN, such as 10m
    #[arg(long, value_name = "DURATION", help_heading = "RUN")]
    pub timeout: Option<String>,
    /// How many steps may work at once
    #[arg(long, value_name = "N", help_heading = "RUN")]
    pub jobs: Option<usize>,
    /// Make the same image from the same files anywhere: times are SOURCE_DATE_EPOCH, else the time of
    /// the context's git commit, else 1970
    #[arg(long, help_heading = "Output")]
    pub reproducible: bool,
    /// Make one layer of those that the build adds to its base
    #[arg(long, help_heading = "Output")]
    pub squash: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub attest: AttestArgs,
    #[command(flatten)]
    pub secret_scan: SecretScanArgs,
    #[command(flatten)]
    pub call: CallArgs,
    #[command(flatten)]
    pub dry_run: DryRunArgs,
    #[command(flatten)]
    pub later: LaterArgs,
    #[command(flatten)]
    pub idle: IdleArgs,
}

/// Flags of `docker build` that mean nothing without a daemon, and are right as they are: no containers are left
/// behind, and no context is sent.
#[derive(Args, Debug, Default)]
pub(super) struct IdleArgs {
    #[arg(long, hide = true)]
    pub rm: bool,
    #[arg(long = "force-rm", hide = true)]
    pub force_rm: bool,
    #[arg(long, hide = true)]
    pub compress: bool,
    #[arg(long = "disable-content-trust", hide = true)]
    pub disable_content_trust: bool,
    #[arg(short = 'D', long, hide = true)]
    pub debug: bool,
}

/// Limits of each RUN.
#[derive(Args, Debug, Default)]
pub(super) struct LimitArgs {
    /// Memory of each RUN, such as 512m
    #[arg(short = 'm', long, value_name = "SIZE", help_heading = "RUN")]
    pub memory: Option<String>,
    /// Memory and swap together; -1 is no limit
    #[arg(long = "memory-swap", value_name = "SIZE", allow_hyphen_values = true, help_heading = "RUN")]
    pub memory_swap: Option<String>,
    /// How many CPUs each RUN may use, such as 1.5
    #[arg(long, value_name = "N", help_heading = "RUN")]
    pub cpus: Option<String>,
    /// Weight of CPU time against other groups
    #[arg(short = 'c', long = "cpu-shares", value_name = "N", help_heading = "RUN")]
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time in each period
    #[arg(long = "cpu-quota", value_name = "MICROSECONDS", allow_hyphen_values = true, help_heading = "RUN")]
    pub cpu_quota: Option<i64>,
    /// The period in microseconds
    #[arg(long = "cpu-period", value_name = "MICROSECONDS", help_heading = "RUN")]
    pub cpu_period: Option<u64>,
    /// CPUs each RUN may use, such as 0-2,5
    #[arg(long = "cpuset-cpus", value_name = "CPUS", help_heading = "RUN")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes each RUN may use
    #[arg(long = "cpuset-mems", value_name = "NODES", help_heading = "RUN")]
    pub cpuset_mems: Option<String>,
    /// How many processes and threads each RUN may have
    #[arg(long = "pids-limit", value_name = "N", help_heading = "RUN")]
    pub pids_limit: Option<u64>,
    /// Control group in which those of RUN are made
    #[arg(long = "cgroup-parent", value_name = "PATH", help_heading = "RUN")]
    pub cgroup_parent: Option<String>,
    /// Several limits at once: memory=SIZE,cpu-shares=N,...
    #[arg(long = "resource", value_name = "NAME=VALUE", help_heading = "RUN")]
    pub resources: Vec<String>,
}

/// Flags of `docker buildx build` that are not there yet: they fail by name instead of doing nothing.
#[derive(Args, Debug, Default)]
pub(super) struct LaterArgs {
    #[arg(long, hide = true)]
    pub builder: Option<String>,
}

impl LaterArgs {
    /// The first flag that was used, and what to do without it.
    pub fn used(&self) -> Option<(&'static str, &'static str)> {
        let other = self.builder.as_deref().is_some_and(|name| !matches!(name, "default" | "rbuild"));
        let rows = [("--builder", other, "rbuild has no builders: it builds by itself")];
        rows.into_iter().find(|(_, used, _)| *used).map(|(flag, _, help)| (flag, help))
    }
}

#[derive(Args, Debug)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// How the plan is written
    #[arg(long, value_enum, default_value = "text", help_heading = "Output")]
    pub format: PlanFormat,
}

impl Command {
    /// `--isolation` of a command that executes something.
    pub fn isolation(&self) -> Option<&str> {
        match self {
            Command::Build(args) => args.0.isolation.as_deref(),
            Command::VerifyReproducible(args) => args.0.build.isolation.as_deref(),
            Command::Run(args) => args.0.isolation.as_deref(),
            _ => None,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Userns {
    #[default]
    Auto,
    Host,
    Private,
}

impl From<Userns> for crate::build::Userns {
    fn from(userns: Userns) -> Self {
        match userns {
            Userns::Auto => Self::Auto,
            Userns::Host => Self::Host,
            Userns::Private => Self::Private,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanFormat {
    Text,
    Dot,
    Json,
}

#[derive(Args, Debug)]
pub(super) struct VersionArgs {
    /// json, or a Go template such as '{{.Client.Version}}'
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct InfoArgs {
    /// Print the AppArmor profile of RUN, for apparmor_parser
    #[arg(long)]
    pub apparmor_profile: bool,
    /// json, or a Go template such as '{{.Kernel}}'
    #[arg(short = 'f', long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct SaveArgs {
    /// File to write, or - for standard output
    #[arg(short = 'o', long, value_name = "FILE", default_value = "-")]
    pub output: String,
    /// docker (also readable as OCI) or oci
    #[arg(long, value_enum, default_value = "docker")]
    pub format: SaveFormat,
    /// Names or IDs of images
    #[arg(required = true)]
    pub images: Vec<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SaveFormat {
    Docker,
    Oci,
}

/// A completion script. Flags of a build are flags of the program itself too, as `rbuild -t x .` has no command.
pub(super) fn completion(shell: clap_complete::Shell) -> Vec<u8> {
    let mut root = Cli::command();
    let known: Vec<String> = root.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    let build = BuildArgs::augment_args(clap::Command::new("build"));
    for arg in build.get_arguments().filter(|arg| !arg.is_positional()) {
        if !known.contains(&arg.get_id().to_string()) {
            root = root.arg(with_values(arg.clone()));
        }
    }
    root = root.mut_subcommand("build", |known| {
        let about = known.get_about().cloned().unwrap_or_default();
        build.about(about).mut_args(with_values)
    });
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut root, "rbuild", &mut out);
    out
}

/// Names the values of flags whose values are checked elsewhere.
fn with_values(arg: clap::Arg) -> clap::Arg {
    let values: &[&str] = match arg.get_id().as_str() {
        "ci" => &["auto", "none", "github", "gitlab", "teamcity", "azure"],
        "progress" => &["auto", "plain", "tty", "quiet", "warnings", "rawjson"],
        "network" => &["default", "host", "none"],
        "call" => &["build", "check", "outline", "targets"],
        "isolation" => &["auto", "native", "chroot", "oci"],
        "pull" => &["always", "missing", "never", "true", "false"],
        "allow" => &["network.host", "security.insecure", "device"],
        _ => return arg,
    };
    arg.value_parser(clap::builder::PossibleValuesParser::new(values.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(failure: crate::build::Failure) -> clap::Error {
        clap::Error::raw(clap::error::ErrorKind::InvalidSubcommand, failure.message)
    }

    fn parse(text: &str) -> Result<Cli, clap::Error> {
        let words = std::iter::once("rbuild").chain(text.split_whitespace()).map(std::ffi::OsString::from);
        let reading = crate::cli::words::read(words).map_err(refused)?;
        Cli::try_parse_from(crate::cli::flags::settle(reading.args).map_err(refused)?)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn build_is_what_is_meant_without_a_command() {
        for text in ["-t a:1 .", "build -t a:1 .", "buildx build -t a:1 .", "--root /x -t a:1 ."] {
            let cli = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let Command::Build(Deferred(args)) = cli.command else { panic!("{text}") };
            assert_eq!((args.tags, args.input.context), (vec!["a:1".to_owned()], ".".into()));
        }
        assert!(matches!(parse("-").map(|cli| cli.command), Ok(Command::Build(_))));
    }

    #[test]
    fn every_later_flag_fails_by_name() {
        let text = "--builder b";
        let cli = parse(&format!("build {text} .")).unwrap_or_else(|error| panic!("{text}: {error}"));
        let Command::Build(args) = cli.command else { panic!("{text}") };
        let flag = args.later.used().map(|(flag, _)| flag);
        let word = text.split([' ', '=']).next().unwrap_or_default();
        assert_eq!(flag, Some(word), "{text}");
        let cli =
            parse("build --provenance=false --sbom=0 --attest type=sbom,disabled=true --builder default .");
        let Ok(Cli { command: Command::Build(args), .. }) = cli else { panic!("refused") };
        assert_eq!(args.later.used(), None);
    }

    #[test]
    fn words_of_docker_for_pruning_are_understood() {
        for text in ["prune -af", "builder prune --keep-storage 1g", "buildx prune --filter until=24h -f"] {
            let cli = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(matches!(cli.command, Command::Prune(_)), "{text}");
        }
        assert!(matches!(parse("buildx du --verbose").map(|cli| cli.command), Ok(Command::Du(_))));
    }

    #[test]
    fn of_a_repeated_flag_the_last_counts() {
        let cli = parse("build --network host --network none --target a --target b -t x -t y --rm -D .");
        let Ok(Cli { command: Command::Build(args), .. }) = cli else { panic!("{cli:?}") };
        assert_eq!((args.input.network.as_str(), args.input.target.as_deref()), ("none", Some("b")));
        assert_eq!(args.tags, ["x", "y"]);
    }

    #[test]
    fn completion_knows_the_flags_of_a_build_without_its_command() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = String::from_utf8(completion(shell)).unwrap();
            assert!(script.contains("no-cache-filter") && script.contains("rawjson"), "{shell}");
        }
        let bash = String::from_utf8(completion(clap_complete::Shell::Bash)).unwrap();
        // The line with the commands is that of the program itself.
        let own = bash.lines().find(|line| line.contains("opts=") && line.contains(" images "));
        assert!(own.is_some_and(|line| line.contains("--no-cache ")), "{own:?}");
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert!(parse("build --no-such-flag .").is_err());
        assert!(parse("imagse").is_err());
    }
}
