//! Signing in for good: checking credentials and keeping them where Docker keeps its own.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::cancel::Cancel;
use crate::fs::new_file_beside;

use super::client::Registry;
use super::config::ENDPOINTS;
use super::credentials;
use super::error::{RegistryError, clean};

/// Where credentials were put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// In the file, encoded but not encrypted.
    InTheClear(PathBuf),
    /// With this program.
    Helper(String),
}

impl Registry {
    /// Makes sure that the registry accepts the client's credentials, by asking for `/v2/`.
    pub fn check_sign_in(&self, cancel: &Cancel) -> Result<(), RegistryError> {
        self.write(cancel, &|| false, |host, session| host.sign_in(&session))
    }
}

/// Keeps credentials for `registry` as Docker does: with the credential helper that `config.json` in
/// `dir` names, else in that file. The file is replaced at once and whole, readable for its owner
/// only; what else it says stays.
pub fn keep(dir: &Path, registry: &str, user: &str, password: &str) -> Result<Kept, RegistryError> {
    let mut config = Config::read(dir)?;
    let key = key_of(registry);
    let kept = match config.helper(&key) {
        Some(helper) => {
            let secret = json!({ "ServerURL": key, "Username": user, "Secret": password });
            run_helper(&helper, "store", &secret.to_string())?;
            config.auths()?.insert(key, json!({}));
            Kept::Helper(helper)
        }
        None => {
            config.auths()?.insert(key, json!({ "auth": credentials::encode(user, password) }));
            Kept::InTheClear(config.path.clone())
        }
    };
    config.write()?;
    Ok(kept)
}

/// Forgets the credentials of `registry`; `false` where there were none.
pub fn forget(dir: &Path, registry: &str) -> Result<bool, RegistryError> {
    let mut config = Config::read(dir)?;
    let key = key_of(registry);
    let known: Vec<String> = match config.root.get("auths").and_then(Value::as_object) {
        Some(auths) => auths.keys().filter(|key| credentials::names(key, registry)).cloned().collect(),
        None => Vec::new(),
    };
    if let Some(helper) = config.helper(&key) {
        match run_helper(&helper, "erase", &key) {
            Ok(()) => {}
            // What was never kept cannot be erased.
            Err(RegistryError::Helper { reason, .. }) if reason.contains("not found") => {}
            Err(error) => return Err(error),
        }
    }
    if known.is_empty() {
        return Ok(false);
    }
    let auths = config.auths()?;
    for key in &known {
        auths.shift_remove(key);
    }
    config.write()?;
    Ok(true)
}

/// What Docker calls a registry in its configuration. Its own has an old name there.
fn key_of(registry: &str) -> String {
    match ENDPOINTS.iter().find(|(name, _)| *name == registry) {
        Some((name, _)) => format!("https://index.{name}/v1/"),
        None => registry.to_owned(),
    }
}

struct Config {
    path: PathBuf,
    root: Map<String, Value>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self, RegistryError> {
        let path = dir.join("config.json");
        let fail = |reason: String| RegistryError::File { path: path.clone(), reason };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(error) => return Err(fail(error.to_string())),
        };
        let text = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes.as_slice() };
        match serde_json::from_slice(text) {
            Ok(Value::Object(root)) => Ok(Config { path, root }),
            Ok(_) => Err(fail("it is not a JSON object".to_owned())),
            Err(error) => Err(fail(error.to_string())),
        }
    }

    /// The helper for a key: its own, else the one for all.
    fn helper(&self, key: &str) -> Option<String> {
        let own = self.root.get("credHelpers").and_then(|helpers| helpers.get(key));
        let helper = own.or_else(|| self.root.get("credsStore"))?.as_str()?;
        (!helper.is_empty()).then(|| helper.to_owned())
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, RegistryError> {
        let path = self.path.clone();
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        let reason = || "its \"auths\" is not a JSON object".to_owned();
        auths.as_object_mut().ok_or_else(|| RegistryError::File { path, reason: reason() })
    }

    fn write(&self) -> Result<(), RegistryError> {
        // Where the file is a link, what it names is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let fail = |source| RegistryError::Write { path: path.clone(), source };
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        let mut text = serde_json::to_vec_pretty(&self.root).map_err(|error| fail(error.into()))?;
        text.push(b'\n');
        let written = new_file_beside(&path, 0o600).and_then(|mut file| {
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            Ok(file.persist(&path).map(drop)?)
        });
        written.map_err(fail)
    }
}

/// Runs `docker-credential-NAME` (docker-credential-helpers, "Development").
fn run_helper(name: &str, verb: &str, input: &str) -> Result<(), RegistryError> {
    let program = format!("docker-credential-{name}");
    let fail = |reason: String| RegistryError::Helper { program: program.clone(), reason };
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    if !name.bytes().all(plain) {
        return Err(fail("that is no name of a program".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(format!("it cannot be run ({error}); is it on PATH?")))?;
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        let said = if output.stdout.trim_ascii().is_empty() { &output.stderr } else { &output.stdout };
        return Err(fail(clean(&String::from_utf8_lossy(said))));
    }
    given.map_err(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn credentials_are_kept_as_docker_keeps_them_and_forgotten() -> Outcome {
        let dir = tempfile::tempdir()?;
        let dir = dir.path().join("new");
        let path = dir.join("config.json");
        assert_eq!(keep(&dir, "reg.example.test", "u", "p")?, Kept::InTheClear(path.clone()));
        let text = fs::read_to_string(&path)?;
        assert!(text.contains("\"auth\": \"dTpw\""), "{text}");
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        fs::write(&path, r#"{"detachKeys":"ctrl-x","auths":{"https://reg.example.test/v1/":{}},"z":[1]}"#)?;
        keep(&dir, "other.example.test", "u", "p")?;
        assert!(forget(&dir, "reg.example.test")?);
        assert!(!forget(&dir, "reg.example.test")?);
        let json: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let expected = json!({ "detachKeys": "ctrl-x", "auths": { "other.example.test": { "auth": "dTpw" } }, "z": [1] });
        assert_eq!(json, expected);
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        let victim = dir.join("victim");
        fs::write(&victim, "precious")?;
        std::os::unix::fs::symlink(&victim, dir.join(format!(".config.json.{}", std::process::id())))?;
        keep(&dir, "planted.example.test", "u", "p")?;
        assert_eq!(fs::read_to_string(&victim)?, "precious");
        assert!(forget(&dir, "planted.example.test")?);
        let (name, _) = ENDPOINTS[0];
        keep(&dir, name, "u", "p")?;
        assert!(fs::read_to_string(&path)?.contains(&format!("https://index.{name}/v1/")));
        assert!(forget(&dir, name)?);
        Ok(())
    }

    #[test]
    fn what_is_not_a_configuration_is_left_alone() -> Outcome {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.json");
        for text in ["{", "[]", r#"{"auths":[]}"#] {
            fs::write(&path, text)?;
            assert!(keep(dir.path(), "reg.example.test", "u", "p").is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path)?, text);
        }
        fs::write(&path, r#"{"credsStore":"../evil"}"#)?;
        assert!(keep(dir.path(), "reg.example.test", "u", "p").is_err());
        fs::write(&path, r#"{"credsStore":"there-is-no-such-helper"}"#)?;
        let error = keep(dir.path(), "reg.example.test", "u", "p").err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("docker-credential-there-is-no-such-helper")));
        Ok(())
    }
}
