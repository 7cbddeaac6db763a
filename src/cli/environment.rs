//! The environment, read once.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use crate::build::{Failure, FailureKind};
use crate::progress::{Ci, Style};
use crate::registry::{ContainersFiles, CredentialSource, Credentials, ProxyOptions, Roots, Secret};
use crate::sandbox::userns::EnterRequest;

/// What rbuild looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub userns_mark: Option<String>,
    pub path: Option<OsString>,
    pub user_name: Option<String>,
    pub home: Option<PathBuf>,
    pub rbuild_root: Option<PathBuf>,
    pub isolation: Option<String>,
    pub oci_runtime: Option<String>,
    pub data_home: Option<PathBuf>,
    pub docker_config: Option<PathBuf>,
    docker_auth_config: Option<String>,
    registry_auth_file: Option<PathBuf>,
    config_home: Option<PathBuf>,
    pub source_date_epoch: Option<String>,
    pub default_platform: Option<String>,
    pub progress: Option<String>,
    pub ssh_auth_sock: Option<PathBuf>,
    pub source_policy: Option<PathBuf>,
    pub docker_host: Option<String>,
    pub metadata_warnings: bool,
    /// `BUILDX_NO_DEFAULT_ATTESTATIONS`: nothing is attested that was not asked for.
    pub no_default_attestations: Option<String>,
    /// Of an encrypted key.
    pub cosign_password: Option<String>,
    pub runtime_dir: Option<PathBuf>,
    /// This is a container of a pod.
    pub kubernetes: bool,
    pub colour: bool,
    pub stderr_is_terminal: bool,
    /// The service that this is a job of.
    pub ci: Option<Ci>,
    /// Where that service has checked out the repository.
    pub ci_root: Option<PathBuf>,
    /// The file that becomes the summary page of a job of GitHub's.
    pub step_summary: Option<PathBuf>,
    /// `TERM` is `dumb` or missing: the cursor cannot be moved.
    pub terminal_is_dumb: bool,
    unicode: bool,
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
    ssl_cert_file: Option<PathBuf>,
    ssl_cert_dirs: Vec<PathBuf>,
}

impl Environment {
    /// Reads all of it.
    pub fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let either = |name: &str| text(&name.to_lowercase()).or_else(|| text(&name.to_uppercase()));
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let terminal = std::io::stderr().is_terminal();
        let dumb = text("TERM").is_none_or(|term| term == "dumb");
        let forced = ["FORCE_COLOR", "CLICOLOR_FORCE"]
            .iter()
            .any(|name| text(name).is_some_and(|value| value != "0" && value != "false"));
        let is_on =
            |name: &str| text(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
        let ci = if is_on("GITHUB_ACTIONS") {
            Some(Ci::GitHub)
        } else if is_on("GITLAB_CI") {
            Some(Ci::GitLab)
        } else if text("TEAMCITY_VERSION").is_some() {
            Some(Ci::TeamCity)
        } else if is_on("TF_BUILD") {
            Some(Ci::Azure)
        } else {
            None
        };
        Environment {
            userns_mark: text(EnterRequest::mark_variable()),
            path: std::env::var_os("PATH"),
            user_name: text("USER").or_else(|| text("LOGNAME")).or_else(login_name),
            docker_config: path("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker"))),
            docker_auth_config: text("DOCKER_AUTH_CONFIG"),
            registry_auth_file: path("REGISTRY_AUTH_FILE"),
            config_home: path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config"))),
            home,
            rbuild_root: path("RBUILD_ROOT"),
            isolation: text("RBUILD_ISOLATION"),
            oci_runtime: text("RBUILD_RUNTIME"),
            data_home: path("XDG_DATA_HOME"),
            source_date_epoch: text("SOURCE_DATE_EPOCH"),
            default_platform: text("DOCKER_DEFAULT_PLATFORM"),
            progress: text("BUILDKIT_PROGRESS"),
            ssh_auth_sock: path("SSH_AUTH_SOCK"),
            source_policy: path("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"),
            docker_host: text("DOCKER_HOST"),
            metadata_warnings: text("BUILDX_METADATA_WARNINGS")
                .is_some_and(|value| matches!(value.as_str(), "1" | "true")),
            no_default_attestations: text("BUILDX_NO_DEFAULT_ATTESTATIONS"),
            cosign_password: std::env::var("COSIGN_PASSWORD").ok(),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            kubernetes: text("KUBERNETES_SERVICE_HOST").is_some(),
            colour: text("NO_COLOR").is_none() && (forced || terminal && !dumb),
            stderr_is_terminal: terminal,
            ci,
            ci_root: path("GITHUB_WORKSPACE")
                .or_else(|| path("CI_PROJECT_DIR"))
                .or_else(|| path("BUILD_SOURCESDIRECTORY")),
            step_summary: path("GITHUB_STEP_SUMMARY"),
            terminal_is_dumb: dumb,
            unicode: ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| text(name)).is_none_or(|locale| {
                let locale = locale.to_lowercase();
                locale.contains("utf-8") || locale.contains("utf8")
            }),
            http_proxy: either("http_proxy").or_else(|| either("all_proxy")),
            https_proxy: either("https_proxy").or_else(|| either("all_proxy")),
            no_proxy: either("no_proxy"),
            ssl_cert_file: path("SSL_CERT_FILE"),
            ssl_cert_dirs: std::env::var_os("SSL_CERT_DIR")
                .map(|dirs| std::env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty()).collect())
                .unwrap_or_default(),
        }
    }

    /// What standard error can show. What steps print keeps its colours in a file or pipe, where a viewer may know
    /// them.
    pub fn style(&self) -> Style {
        let output_colour = self.colour || !self.stderr_is_terminal;
        Style { colour: self.colour, output_colour, unicode: self.unicode, ci: None }
    }

    /// Where the store lies: the flag, `RBUILD_ROOT`, or the user's usual place.
    pub fn store_root(&self, flag: Option<&Path>, real_uid: u32) -> Result<PathBuf, Failure> {
        if let Some(root) = flag {
            return Ok(root.to_owned());
        }
        if let Some(root) = &self.rbuild_root {
            return Ok(root.clone());
        }
        if real_uid == 0 {
            return Ok("/var/lib/rbuild".into());
        }
        let data =
            self.data_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".local/share")));
        data.map(|data| data.join("rbuild")).ok_or_else(|| {
            Failure::new(FailureKind::Usage, "there is no place for the store: HOME is not set")
                .help("give one with --root or RBUILD_ROOT")
        })
    }

    /// Proxies for registries.
    pub fn proxy(&self) -> Option<ProxyOptions> {
        (self.http_proxy.is_some() || self.https_proxy.is_some()).then(|| ProxyOptions {
            http: self.http_proxy.clone(),
            https: self.https_proxy.clone(),
            no_proxy: self.no_proxy.clone().unwrap_or_default(),
        })
    }

    /// Where credentials for registries may be: what a variable names, then Docker's place before those of
    /// containers' tools, whose logins without a session's directory go below `/run`.
    pub fn credentials(&self, uid: u32) -> Credentials {
        let text = self.docker_auth_config.as_ref().map(|json| CredentialSource::Text {
            name: "DOCKER_AUTH_CONFIG".into(),
            json: Secret(json.clone()),
        });
        let file = |path: PathBuf| CredentialSource::File(path);
        let explicit = self.registry_auth_file.clone().map(file);
        let docker = self.docker_config.as_ref().map(|dir| file(dir.join("config.json")));
        let session = match &self.runtime_dir {
            Some(dir) => dir.join("containers/auth.json"),
            None => format!("/run/containers/{uid}/auth.json").into(),
        };
        let config = self.config_home.as_ref().map(|dir| file(dir.join("containers/auth.json")));
        let usual = docker.into_iter().chain([file(session)]).chain(config);
        Credentials::Sources(explicit.into_iter().chain(text).chain(usual).collect())
    }

    /// The proxies that Docker's `config.json` gives every build (`proxies.default`), as build
    /// arguments. A file that is not there or makes no sense gives none.
    pub fn config_proxies(&self) -> Vec<(String, String)> {
        let Some(dir) = &self.docker_config else { return Vec::new() };
        let Ok(text) = std::fs::read(dir.join("config.json")) else { return Vec::new() };
        let Ok(config) = serde_json::from_slice::<serde_json::Value>(&text) else { return Vec::new() };
        [
            ("httpProxy", "HTTP_PROXY"),
            ("httpsProxy", "HTTPS_PROXY"),
            ("noProxy", "NO_PROXY"),
            ("ftpProxy", "FTP_PROXY"),
            ("allProxy", "ALL_PROXY"),
        ]
        .iter()
        .filter_map(|(key, name)| {
            let value = config.pointer(&format!("/proxies/default/{key}"))?.as_str()?;
            (!value.is_empty()).then(|| ((*name).to_owned(), value.to_owned()))
        })
        .collect()
    }

    /// Files that say how to reach registries; the first that exists counts.
    pub fn registry_settings(&self) -> Vec<PathBuf> {
        let own = self.config_home.iter().map(|dir| dir.join("rbuild/registries.toml"));
        own.chain(["/etc/rbuild/registries.toml".into()]).collect()
    }

    /// Where containers' tools have theirs.
    pub fn containers_files(&self) -> ContainersFiles {
        ContainersFiles {
            user: self.config_home.as_ref().map(|dir| dir.join("containers")),
            system: Some("/etc/containers".into()),
        }
    }

    /// The certificate authorities that programs should trust.
    pub fn roots(&self) -> Roots {
        match (&self.ssl_cert_file, self.ssl_cert_dirs.is_empty()) {
            (None, true) => Roots::System,
            (file, _) => Roots::Variables { file: file.clone(), dirs: self.ssl_cert_dirs.clone() },
        }
    }

    /// Where containers' tools and Docker, also without root, have certificates for single registries.
    pub fn certificates(&self) -> Vec<PathBuf> {
        let of_user = |name: &str| self.config_home.as_ref().map(|dir| dir.join(name));
        let own = [of_user("containers/certs.d"), of_user("docker/certs.d")].into_iter().flatten();
        own.chain(["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()]).collect()
    }

    /// A variable of the caller, for `--build-arg NAME`.
    pub fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// The user's name by number, for `/etc/subuid`.
fn login_name() -> Option<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').next().map(str::to_owned)
}

/// This machine's resolver. systemd's stub listens on this machine's loopback only, which a RUN on
/// the host's network can reach; a sandbox of its own network could not, so the real list is taken.
pub(super) fn resolv_conf() -> Vec<u8> {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let plain = read("/etc/resolv.conf");
    let text = String::from_utf8_lossy(&plain);
    let mut servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    if servers.by_ref().all(|server| server.trim() == "127.0.0.53") && text.contains("127.0.0.53") {
        let real = read("/run/systemd/resolve/resolv.conf");
        if !real.is_empty() {
            return real;
        }
    }
    plain
}
