//! The flags of `rbuild run`.

use std::path::PathBuf;

use clap::Args;

use super::args::{LimitArgs, Userns};

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Keep a terminal open between you and the command
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Pass standard input on (always done)
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Remove what the command wrote when it ends (always done)
    #[arg(long)]
    pub rm: bool,
    /// Set a variable; without value it is taken from the environment
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the variables of a file, one a line
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,
    /// Mount a directory or file of this machine
    #[arg(short = 'v', long = "volume", value_name = "SOURCE:TARGET[:ro]")]
    pub volumes: Vec<String>,
    /// Mount: type=bind,source=PATH,target=PATH[,readonly] or type=tmpfs,target=PATH[,tmpfs-size=SIZE]
    #[arg(long = "mount", value_name = "MOUNT")]
    pub mounts: Vec<String>,
    /// An empty file system in memory
    #[arg(long = "tmpfs", value_name = "TARGET[:size=SIZE]")]
    pub tmpfs: Vec<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// A line for /etc/hosts
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,
    /// Platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// When the image is fetched from its registry: missing, always or never
    #[arg(long, value_name = "POLICY", default_value = "missing")]
    pub pull: String,
    /// A name for the container; nothing can ask for it, as none is kept
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A resource limit
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub ulimits: Vec<String>,
    /// Size of /dev/shm
    #[arg(long = "shm-size", value_name = "SIZE")]
    pub shm_size: Option<String>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Working directory
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// User, or user:group
    #[arg(short = 'u', long, value_name = "USER")]
    pub user: Option<String>,
    /// Program to run instead of the image's
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// default, host or none
    #[arg(long, alias = "net", value_name = "MODE", default_value = "default")]
    pub network: String,
    /// What the command is executed by: auto, native (namespaces) or chroot (none) [env: RBUILD_ISOLATION]
    #[arg(long, value_name = "TYPE")]
    pub isolation: Option<String>,
    /// What confines the command besides: apparmor=PROFILE, apparmor=unconfined
    #[arg(long = "security-opt", value_name = "OPTION")]
    pub security_opts: Vec<String>,
    /// private (root is unprivileged on the host), host (none), or auto
    #[arg(long, value_name = "MODE", value_enum, default_value = "auto")]
    pub userns: Userns,
    /// Make a port of this machine lead to one of the command: 8080:80, 127.0.0.1:8080:80, 53:53/udp, 80
    #[arg(short = 'p', long = "publish", value_name = "[[ADDRESS:]PORT:]PORT")]
    pub publish: Vec<String>,
    /// Give the command a capability besides Docker's default ones
    #[arg(long = "cap-add", value_name = "NAME")]
    pub cap_add: Vec<String>,
    /// Take a capability from the command; ALL takes all that --cap-add does not name
    #[arg(long = "cap-drop", value_name = "NAME")]
    pub cap_drop: Vec<String>,
    /// Make the root file system read-only; what is mounted can be written to
    #[arg(long = "read-only")]
    pub read_only: bool,
    /// Run a small init that passes signals on and collects processes that lost their parents
    #[arg(long)]
    pub init: bool,
    /// Name or ID of the image
    pub image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}
