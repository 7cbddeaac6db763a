//! Running the `git` program: with an environment of our own, credentials out of sight, and an end
//! when the caller gives up.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::child::{collect, wait};
use crate::registry::{Clock as _, OFFLINE, ProxyOptions, Roots, SourceNetwork, SystemClock};
use crate::sandbox::{Confinement, landlock_abi};
use base64::Engine as _;

use super::error::RemoteError;
use super::git_reach::{Bound, Place};
use super::git_url::{GitUrl, Transport};
use super::url::without_credentials;

/// Where `git` and `ssh` are looked for when the caller names no path (as Docker's default).
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long to wait before trying again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Words of git, curl and ssh about troubles that may pass.
const PASSING: &[&str] = &[
    "Temporary failure in name resolution",
    "Connection reset",
    "Connection timed out",
    "early EOF",
    "Empty reply from server",
    "unexpected disconnect",
    "returned error: 429",
    "returned error: 500",
    "returned error: 502",
    "returned error: 503",
    "returned error: 504",
];

/// The first version that takes settings from `GIT_CONFIG_COUNT`.
const OLDEST: (u32, u32) = (2, 31);

/// What to do where the program that was found starts one that may not be used.
const ELSEWHERE: &str = "\nrbuild lets git use the system's directories and those beside its own, and nothing else; \
     where `git` is a script that starts another, put the directory of the other first on PATH";

/// Settings of every call. Nothing of a repository may run programs, nothing may ask.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.logAllRefUpdates", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("credential.helper", ""),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // Packs appear by one rename, loose objects one by one: a killed fetch must leave no half commit.
    ("fetch.unpackLimit", "1"),
    ("safe.directory", "*"),
    ("checkout.workers", "0"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
];

/// Who asks for a repository. Passed to git in its environment, never on a command line or disk.
#[derive(Clone, PartialEq, Eq)]
pub enum GitAuth {
    /// A token or password (secret `GIT_AUTH_TOKEN`).
    Token {
        /// The user's name; `x-access-token` where unset.
        user: Option<String>,
        /// The token.
        token: String,
    },
    /// The whole value of the header `Authorization` (secret `GIT_AUTH_HEADER`).
    Header(String),
}

impl fmt::Debug for GitAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GitAuth::Token { .. } => "Token(..)",
            GitAuth::Header(_) => "Header(..)",
        })
    }
}

/// How git is run.
#[derive(Clone, Debug)]
pub struct GitOptions {
    /// Where programs are looked for, as `PATH` has it; unset means the usual places.
    pub search_path: Option<OsString>,
    /// The proxies to go through.
    pub proxy: Option<ProxyOptions>,
    /// Which certificate authorities are trusted. Only a file matters here; git has its own otherwise.
    pub roots: Roots,
    /// The socket of an ssh agent. Without one ssh has no keys: those of the user who builds are not
    /// for a Dockerfile to use.
    pub ssh_agent: Option<PathBuf>,
    /// The host keys ssh accepts. Without it any key is accepted, as moby/buildkit does.
    pub known_hosts: Option<PathBuf>,
    /// Which addresses may be asked.
    pub network: SourceNetwork,
}

impl Default for GitOptions {
    fn default() -> Self {
        GitOptions {
            search_path: None,
            proxy: None,
            roots: Roots::System,
            ssh_agent: None,
            known_hosts: None,
            network: SourceNetwork::default(),
        }
    }
}

/// Runs git for one repository.
pub(super) struct Program<'a> {
    pub(super) options: &'a GitOptions,
    pub(super) url: &'a GitUrl,
    pub(super) auth: Option<&'a GitAuth>,
    /// What is connected to: the repository, or one of its submodules.
    pub(super) place: Place,
    /// An empty directory.
    pub(super) home: &'a Path,
    /// What every call may touch.
    pub(super) limits: &'a Confinement,
    pub(super) cancel: &'a Cancel,
}

/// One call of git.
#[derive(Clone, Default)]
pub(super) struct Call {
    arguments: Vec<OsString>,
    git_dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    directory: Option<PathBuf>,
    reads: Option<PathBuf>,
    writes: Option<PathBuf>,
    reach: Reach,
}

/// Whom a call talks to.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Reach {
    /// Nobody: it works on what is here.
    #[default]
    Nobody,
    /// Another repository of this machine.
    Local,
    /// The remote repository. Only these calls get credentials.
    Remote,
}

impl Call {
    pub(super) fn new<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        Call { arguments, ..Call::default() }
    }

    /// Another call in the same place.
    pub(super) fn again<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Self {
        Call { arguments: Self::new(arguments).arguments, ..self.clone() }
    }

    /// In this repository.
    pub(super) fn git_dir(mut self, path: &Path) -> Self {
        self.git_dir = Some(path.to_owned());
        self
    }

    /// With its files here.
    pub(super) fn work_tree(mut self, path: &Path) -> Self {
        self.work_tree = Some(path.to_owned());
        self
    }

    /// Run from here. Without, from the work tree, or else an empty directory.
    pub(super) fn directory(mut self, path: &Path) -> Self {
        self.directory = Some(path.to_owned());
        self
    }

    /// Reads another repository of this machine.
    pub(super) fn local(mut self, path: &Path) -> Self {
        self.reach = Reach::Local;
        self.reads(path)
    }

    /// Talks to the remote repository.
    pub(super) fn remote(mut self) -> Self {
        self.reach = Reach::Remote;
        self
    }

    /// Reads what lies here.
    pub(super) fn reads(mut self, path: &Path) -> Self {
        self.reads = Some(path.to_owned());
        self
    }

    /// Writes here too, beside its repository and files.
    pub(super) fn writes(mut self, path: &Path) -> Self {
        self.writes = Some(path.to_owned());
        self
    }
}

impl Program<'_> {
    /// The same for a submodule. Credentials stay those of the repository, for its addresses.
    pub(super) fn at(&self, place: Place) -> Program<'_> {
        let Program { options, url, auth, home, limits, cancel, .. } = *self;
        Program { options, url, auth, place, home, limits, cancel }
    }

    /// Runs git and gives what it printed. `action` names what failed.
    pub(super) fn run(&self, action: &'static str, call: Call) -> Result<Vec<u8>, RemoteError> {
        self.attempt(&call)?.map_err(|words| self.failure(action, &words))
    }

    /// As [`Program::run`], for a line of text.
    pub(super) fn line(&self, action: &'static str, call: Call) -> Result<String, RemoteError> {
        let output = self.run(action, call)?;
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// Runs git, again where a network trouble may pass. The inner error is what it said when it
    /// failed.
    pub(super) fn attempt(&self, call: &Call) -> Result<Result<Vec<u8>, String>, RemoteError> {
        let mut waits = PAUSES.iter();
        loop {
            let result = self.once(call)?;
            let Err(words) = &result else { return Ok(result) };
            let remote = call.reach == Reach::Remote;
            let redirected = remote && words.contains("returned error: 30") && self.authorization().is_none();
            if redirected && self.place.find(self.options, self.cancel)? {
                continue;
            }
            let passing = remote && PASSING.iter().any(|part| words.contains(part));
            let Some(wait) = waits.next().filter(|_| passing) else { return Ok(result) };
            SystemClock.sleep(*wait, self.cancel);
        }
    }

    fn once(&self, call: &Call) -> Result<Result<Vec<u8>, String>, RemoteError> {
        if self.cancel.is_cancelled() {
            return Err(RemoteError::Cancelled);
        }
        if call.reach == Reach::Remote && self.options.network == SourceNetwork::Nowhere {
            let (url, reason) = (self.url.to_string(), OFFLINE.to_owned());
            return Err(RemoteError::Unreachable { url, reason });
        }
        let mut command = self.command(call)?;
        let mut child = self.limits_of(call).spawn(&mut command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RemoteError::NoGit,
            _ => RemoteError::Io { action: "run", path: "git".into(), source: error },
        })?;
        let output = collect(child.stdout.take());
        let words = collect(child.stderr.take());
        let status = wait(&mut child, self.cancel).map_err(RemoteError::io("wait for", "git"))?;
        let [output, words] =
            [output, words].map(|thread| thread.and_then(|t| t.join().ok()).unwrap_or_default());
        match status {
            None => Err(RemoteError::Cancelled),
            Some(status) if status.success() => Ok(Ok(output)),
            Some(status) => {
                let words = String::from_utf8_lossy(&words).into_owned();
                Ok(Err(if words.trim().is_empty() { status.to_string() } else { words }))
            }
        }
    }

    /// An error with git's last words.
    pub(super) fn failure(&self, action: &'static str, words: &str) -> RemoteError {
        let lines: Vec<String> =
            words.lines().filter(|line| !line.trim().is_empty()).map(|line| self.redact(line)).collect();
        let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default();
        let mut output = last.join("; ");
        if self.url.is_ssh() && self.options.ssh_agent.is_none() && output.contains("Permission denied") {
            output.push_str("; no ssh agent was passed to the build");
        }
        if output.contains("returned error: 30") && self.authorization().is_some() {
            output.push_str("; the repository has moved, and credentials are sent to the given address only");
        }
        RemoteError::Git { action, url: self.url.to_string(), output }
    }

    /// Checks that git is there and new enough to be kept within bounds.
    pub(super) fn check_version(&self) -> Result<(), RemoteError> {
        let output = self.attempt(&Call::new(["version"]))?.map_err(|mut words| {
            if landlock_abi().is_some() && words.contains("ermission denied") {
                words.push_str(ELSEWHERE);
            }
            self.failure("run git for", &words)
        })?;
        let line = String::from_utf8_lossy(&output);
        let number = line.split_whitespace().nth(2).unwrap_or_default();
        let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
        let version: (u32, u32) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < OLDEST {
            let (major, minor) = OLDEST;
            return Err(RemoteError::Setting(format!(
                "git repositories need git {major}.{minor} or newer, found {number}"
            )));
        }
        Ok(())
    }

    fn command(&self, call: &Call) -> Result<Command, RemoteError> {
        let mut command = Command::new("git");
        command.args(&call.arguments).env_clear().process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let directory = call.directory.as_ref().or(call.work_tree.as_ref());
        command.current_dir(directory.map_or(self.home, PathBuf::as_path));
        let path = self.options.search_path.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        command.env("PATH", path).env("HOME", self.home).env("LC_ALL", "C");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_ATTR_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
        // Sample hooks and the like differ from system to system.
        command.env("GIT_TEMPLATE_DIR", "");
        // No repository around the store must have a say.
        let ceiling = directory.map_or(self.home, PathBuf::as_path);
        command.env("GIT_CEILING_DIRECTORIES", ceiling.parent().unwrap_or(ceiling));
        let file = call.reach == Reach::Local || self.url.transport == Transport::File;
        command
            .env("GIT_ALLOW_PROTOCOL", if file { "http:https:ssh:git:file" } else { "http:https:ssh:git" });
        command.envs(call.git_dir.as_ref().map(|path| ("GIT_DIR", path)));
        command.envs(call.work_tree.as_ref().map(|path| ("GIT_WORK_TREE", path)));
        let remote = call.reach == Reach::Remote;
        let bound = if remote { self.place.bind(self.options)? } else { Bound::default() };
        if remote {
            self.reach(&mut command, &bound)?;
        }
        self.configure(&mut command, bound, call.reach);
        Ok(command)
    }

    /// What one call may touch: it writes to its own repository and files, and reads what it is given.
    fn limits_of(&self, call: &Call) -> Confinement {
        let places = [&call.git_dir, &call.work_tree, &call.directory, &call.writes].into_iter().flatten();
        let limits = self.limits.clone().writing([self.home]).writing(places).reading(&call.reads);
        if call.reach != Reach::Remote {
            return limits;
        }
        let trusted = match &self.options.roots {
            Roots::File(path) => Some(path),
            _ => None,
        };
        // A repository of this machine may name others beside it as its submodules.
        let beside = Path::new(self.url.remote.strip_prefix("file://").unwrap_or_default()).parent();
        let limits = limits.reading(&self.options.known_hosts).reading(trusted).reading(beside);
        limits.online()
    }

    /// How the remote side is reached.
    fn reach(&self, command: &mut Command, bound: &Bound) -> Result<(), RemoteError> {
        command.env("GIT_SSH_COMMAND", self.ssh()? + &bound.ssh);
        if let Some(socket) = &self.options.ssh_agent {
            command.env("SSH_AUTH_SOCK", socket);
        }
        if let Some(proxy) = &self.options.proxy {
            command.envs(proxy.http.as_ref().map(|value| ("http_proxy", value)));
            command.envs(proxy.https.as_ref().map(|value| ("https_proxy", value)));
            command.env("no_proxy", &proxy.no_proxy);
        }
        if let Roots::File(path) = &self.options.roots {
            command.env("GIT_SSL_CAINFO", path);
        }
        Ok(())
    }

    fn ssh(&self) -> Result<String, RemoteError> {
        let mut ssh = "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15 \
             -o ServerAliveCountMax=4 -o IdentityFile=none"
            .to_owned();
        if self.options.ssh_agent.is_none() {
            ssh.push_str(" -o IdentityAgent=none");
        }
        match &self.options.known_hosts {
            None => ssh.push_str(" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"),
            Some(path) => {
                let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n']));
                let text = text.ok_or_else(|| {
                    RemoteError::Setting(format!("ssh cannot be given the path {}", path.display()))
                })?;
                let quoted = text.replace('%', "%%").replace('\'', "'\\''");
                ssh.push_str(&format!(
                    " -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null -o 'UserKnownHostsFile=\"{quoted}\"'"
                ));
            }
        }
        Ok(ssh)
    }

    /// Settings travel in the environment: git hands them on to its children for submodules.
    fn configure(&self, command: &mut Command, bound: Bound, reach: Reach) {
        let fixed = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut settings: Vec<(String, String)> = fixed.chain(bound.settings).collect();
        if let Some(value) = self.authorization().filter(|_| reach == Reach::Remote) {
            let scope = self.scope();
            settings.push((format!("http.{scope}.extraHeader"), format!("Authorization: {value}")));
            // After a redirect git would send the header to the new host.
            settings.push((format!("http.{scope}.followRedirects"), "false".to_owned()));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
    }

    /// Addresses that get the credentials: the repository itself, and for this one host all of its
    /// repositories, so that private submodules work (moby/buildkit, `tokenScope`).
    fn scope(&self) -> &str {
        const SHARED: &str = "https://github.com/";
        if self.url.remote.starts_with(SHARED) { SHARED } else { &self.url.remote }
    }

    /// The value of the header that says who asks.
    fn authorization(&self) -> Option<String> {
        if !matches!(self.url.transport, Transport::Http | Transport::Https) {
            return None;
        }
        let basic = |pair: &str| {
            format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()))
        };
        match self.auth {
            Some(GitAuth::Token { user, token }) => {
                let user = user.as_deref().unwrap_or("x-access-token");
                Some(basic(&format!("{user}:{}", token.trim())))
            }
            Some(GitAuth::Header(value)) => Some(value.trim().to_owned()),
            None => self.url.credentials.as_deref().map(basic),
        }
    }

    /// A line of git without credentials and control characters.
    fn redact(&self, line: &str) -> String {
        let mut secrets: Vec<String> = self.authorization().into_iter().collect();
        secrets
            .extend(secrets.first().and_then(|value| value.split_once(' ')).map(|(_, code)| code.to_owned()));
        if let Some(GitAuth::Token { token, .. }) = self.auth {
            secrets.push(token.trim().to_owned());
        }
        let password = self.url.credentials.as_deref().and_then(|pair| pair.split_once(':'));
        secrets.extend(password.map(|(_, password)| password.to_owned()));
        let mut text: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "***");
        }
        let shown = |word: &str| {
            let quote = word.find("://").map_or(0, |at| word[..at].rfind(['\'', '"']).map_or(0, |at| at + 1));
            let (before, address) = word.split_at(quote);
            format!("{before}{}", without_credentials(address))
        };
        text.split(' ').map(shown).collect::<Vec<_>>().join(" ").trim().to_owned()
    }
}
