//! A real registry for tests: Debian's `docker-registry` on a free loopback port, stopped on drop.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rbuild::digest::Digest;

/// The user that a registry with [`Setup::password`] accepts, and the password.
pub const USER: (&str, &str) = ("tester", "secret");

/// [`USER`] as a line of an htpasswd file; the registry takes bcrypt only.
const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// What kind of registry to start.
#[derive(Default)]
pub struct Setup {
    /// Asks for the name and password of [`USER`].
    pub password: bool,
    /// Speaks https with a certificate made for 127.0.0.1 (needs `openssl`).
    pub tls: bool,
    /// With `tls`: asks for a client certificate too, which can only be its own.
    pub introduction: bool,
    /// Asks for tokens of the service at this address (`http://...`) that are signed with the key of
    /// this certificate.
    pub tokens_of: Option<(String, PathBuf)>,
    /// Fetches what it lacks from this registry, as a mirror does.
    pub proxy_of: Option<String>,
}

/// A running registry.
pub struct TestRegistry {
    process: Child,
    dir: tempfile::TempDir,
    host: String,
    tls: bool,
    password: bool,
}

impl TestRegistry {
    /// Starts a registry without password and TLS. `None`, with a line saying why, where the machine
    /// has no `docker-registry`.
    pub fn start() -> io::Result<Option<Self>> {
        Self::with(Setup::default())
    }

    /// As [`TestRegistry::start`], of another kind.
    pub fn with(setup: Setup) -> io::Result<Option<Self>> {
        let Some(program) = find("docker-registry") else {
            println!("SKIPPED: docker-registry is not installed (Debian package docker-registry)");
            return Ok(None);
        };
        if setup.tls && find("openssl").is_none() {
            println!("SKIPPED: openssl is not installed, so no certificate can be made");
            return Ok(None);
        }
        // Another process may take the port between our look and the registry's; then look again.
        let mut last = None;
        for _ in 0..5 {
            match Self::try_start(&program, &setup) {
                Ok(registry) => return Ok(Some(registry)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("docker-registry was not started")))
    }

    fn try_start(program: &Path, setup: &Setup) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        if setup.tls {
            make_certificate(dir.path())?;
        }
        let host = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = dir.path().join("config.yml");
        fs::write(dir.path().join("htpasswd"), HTPASSWD)?;
        fs::write(&config, configuration(dir.path(), &host, setup))?;
        let log = File::create(dir.path().join("log"))?;
        let process = Command::new(program)
            .arg("serve")
            .arg(&config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut registry = TestRegistry { process, dir, host, tls: setup.tls, password: setup.password };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(300) {
            if self.process.try_wait()?.is_some() {
                break;
            }
            // Whoever answers must be ours: a registry that finds its port taken ends at once.
            let answered = TcpStream::connect(&self.host).is_ok();
            std::thread::sleep(Duration::from_millis(10));
            if answered && self.process.try_wait()?.is_none() {
                return Ok(());
            }
        }
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        Err(io::Error::other(format!("docker-registry did not start: {log}")))
    }

    /// `127.0.0.1:port`, as image names begin.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The certificate of a registry with [`Setup::tls`].
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// The key of [`TestRegistry::certificate`].
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// Writes a Docker configuration that knows [`USER`] into `dir`.
    pub fn sign_in(&self, dir: &Path) -> io::Result<()> {
        let (user, password) = USER;
        let entry = format!(r#"{{"username":"{user}","password":"{password}"}}"#);
        fs::write(dir.join("config.json"), format!(r#"{{"auths":{{"{}":{entry}}}}}"#, self.host))
    }

    /// Puts a blob into a repository.
    pub fn push_blob(&self, repository: &str, content: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(content);
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"")?;
        let location = begun.ok_or_else(|| io::Error::other("the registry named no place for the upload"))?;
        let path = location.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
        let joint = if path.contains('?') { '&' } else { '?' };
        self.send("PUT", &format!("/{path}{joint}digest={digest}"), "application/octet-stream", content)?;
        Ok(digest)
    }

    /// Puts a manifest into a repository, under a tag or its digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        content: &[u8],
    ) -> io::Result<Digest> {
        self.send("PUT", &format!("/v2/{repository}/manifests/{reference}"), media_type, content)?;
        Ok(Digest::of(content))
    }

    /// All that the registry logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where a blob's bytes lie, for tests that spoil them.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let fan = hex.get(..2).unwrap_or_default();
        self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(fan).join(&hex).join("data")
    }

    /// Sends a request and gives the `Location` of the answer.
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> io::Result<Option<String>> {
        let scheme = if self.tls { "https" } else { "http" };
        let tls = ureq::tls::TlsConfig::builder().disable_verification(true).build();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .tls_config(tls)
            .build()
            .into();
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("{scheme}://{}{path}", self.host));
        if !media_type.is_empty() {
            request = request.header("Content-Type", media_type);
        }
        if self.password {
            use base64::Engine as _;
            let (user, password) = USER;
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            request = request.header("Authorization", format!("Basic {pair}"));
        }
        let mut answer =
            agent.run(request.body(body).map_err(io::Error::other)?).map_err(io::Error::other)?;
        if !answer.status().is_success() {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            return Err(io::Error::other(format!("{method} {path}: {}: {text}", answer.status())));
        }
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        Ok(location.map(str::to_owned))
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(dir: &Path, host: &str, setup: &Setup) -> String {
    let dir = dir.display();
    let mut text = format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {dir}/data\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n"
    );
    if setup.tls {
        text.push_str(&format!("  tls:\n    certificate: {dir}/cert.pem\n    key: {dir}/key.pem\n"));
        if setup.introduction {
            text.push_str(&format!("    clientcas:\n      - {dir}/cert.pem\n"));
        }
    }
    if setup.password {
        text.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {dir}/htpasswd\n"));
    }
    if let Some((realm, certificate)) = &setup.tokens_of {
        let certificate = certificate.display();
        text.push_str(&format!(
            "auth:\n  token:\n    realm: {realm}\n    service: test-registry\n    issuer: test-issuer\n    rootcertbundle: {certificate}\n"
        ));
    }
    if let Some(origin) = &setup.proxy_of {
        text.push_str(&format!("proxy:\n  remoteurl: http://{origin}\n"));
    }
    text
}

fn make_certificate(dir: &Path) -> io::Result<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=rbuild-test", "-addext", "subjectAltName=IP:127.0.0.1"])
        // Without this the certificate is an authority, which is not accepted as a server's own.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .stdin(Stdio::null())
        .output()?;
    if made.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("openssl: {}", String::from_utf8_lossy(&made.stderr))))
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}
