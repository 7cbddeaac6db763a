//! Finding the credentials for a registry in Docker's configuration.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::config::Credentials;
use super::error::clean;

/// What was found, and where, so that a refusal can say what was tried.
pub(super) enum Found {
    /// The caller gave no configuration.
    NotAsked,
    /// The configuration has none for this registry.
    Nothing(PathBuf),
    /// They could not be read.
    Unusable { path: PathBuf, reason: String },
    /// A name and a password.
    Password { path: PathBuf, user: String, password: String },
    /// A refresh token.
    Identity { path: PathBuf, token: String },
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe("the registry"))
    }
}

impl Found {
    /// What was tried, as the hint of a refusal.
    pub(super) fn describe(&self, registry: &str) -> String {
        let login = format!("sign in with `docker login {registry}`");
        match self {
            Found::NotAsked => "it was asked without credentials".to_owned(),
            Found::Nothing(path) => {
                format!(
                    "it was asked without credentials, as {} has none for {registry}; {login}",
                    path.display()
                )
            }
            Found::Unusable { path, reason } => {
                format!("the credentials in {} cannot be used: {reason}", path.display())
            }
            Found::Password { path, user, .. } => {
                format!("it was asked as user {user:?} from {}; {login}", path.display())
            }
            Found::Identity { path, .. } => {
                format!("it was asked with the identity token from {}; {login}", path.display())
            }
        }
    }

    /// `Basic` credentials, if this is a name and a password.
    pub(super) fn basic(&self) -> Option<String> {
        use base64::Engine as _;
        let Found::Password { user, password, .. } = self else { return None };
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Some(format!("Basic {encoded}"))
    }
}

/// Looks for the credentials of `registry`. May run the credential helper that the configuration
/// names for it.
pub(super) fn find(credentials: &Credentials, registry: &str) -> Found {
    let Credentials::DockerConfig(dir) = credentials else { return Found::NotAsked };
    let path = dir.join("config.json");
    let content = match std::fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing(path),
        Err(error) => return Found::Unusable { path, reason: error.to_string() },
    };
    let key = key_for(&content, registry);
    match docker_credential::get_credential_from_reader(content.as_slice(), &key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => Found::Password { path, user, password },
        Ok(DockerCredential::IdentityToken(token)) => Found::Identity { path, token },
        Err(error) => failure(&path, error),
    }
}

fn failure(path: &Path, error: CredentialRetrievalError) -> Found {
    let path = path.to_owned();
    match error {
        CredentialRetrievalError::NoCredentialConfigured => Found::Nothing(path),
        // Helpers report an unknown registry as a failure; the text is part of their protocol.
        CredentialRetrievalError::HelperFailure { stdout, .. }
            if stdout.contains("credentials not found in native keychain") =>
        {
            Found::Nothing(path)
        }
        CredentialRetrievalError::HelperFailure { helper, stdout, stderr } => {
            let said = if stdout.trim().is_empty() { stderr } else { stdout };
            Found::Unusable { path, reason: format!("{helper} failed: {}", clean(&said)) }
        }
        CredentialRetrievalError::HelperCommunicationError => {
            let reason = "the credential helper it names cannot be run; is it on PATH?".to_owned();
            Found::Unusable { path, reason }
        }
        CredentialRetrievalError::ConfigReadError => {
            Found::Unusable { path, reason: "it is not a valid Docker configuration".to_owned() }
        }
        other => Found::Unusable { path, reason: other.to_string() },
    }
}

/// The key under which the configuration knows the registry. Keys are host names or, from older
/// tools, addresses with a scheme and a path; Docker's own registry goes by several names below the
/// domain of its image names. Helpers want the key as it is written.
fn key_for(config: &[u8], registry: &str) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(config) else { return registry.to_owned() };
    let keys = |section: &str| {
        let object = json.get(section).and_then(serde_json::Value::as_object);
        object.map(|entries| entries.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut keys = keys("credHelpers").into_iter().chain(keys("auths")).collect::<Vec<_>>();
    keys.sort_by_key(|key| key != registry);
    keys.into_iter().find(|key| names(key, registry)).unwrap_or_else(|| registry.to_owned())
}

fn names(key: &str, registry: &str) -> bool {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    let served_by_domain =
        super::config::ENDPOINTS.iter().any(|(name, _)| *name == registry && below(host, name));
    host.eq_ignore_ascii_case(registry) || served_by_domain
}

fn below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::super::config::ENDPOINTS;
    use super::*;

    fn find_in(config: &str, registry: &str) -> Result<String, io::Error> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("config.json"), config)?;
        let found = find(&Credentials::DockerConfig(dir.path().to_owned()), registry);
        Ok(match found {
            Found::NotAsked => "not asked".into(),
            Found::Nothing(_) => "nothing".into(),
            Found::Unusable { reason, .. } => format!("unusable: {reason}"),
            Found::Password { user, password, .. } => format!("{user} {password}"),
            Found::Identity { token, .. } => format!("identity {token}"),
        })
    }

    #[test]
    fn credentials_are_found_under_all_forms_of_their_key() -> Result<(), io::Error> {
        // "dTpw" is u:p
        for key in [
            "reg.example.test",
            "https://reg.example.test",
            "https://reg.example.test/v1/",
            "http://reg.example.test/v2/",
        ] {
            let config = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
            assert_eq!(find_in(&config, "reg.example.test")?, "u p", "{key}");
            assert_eq!(find_in(&config, "example.test")?, "nothing", "{key}");
            assert_eq!(find_in(&config, "reg.example.test:5000")?, "nothing", "{key}");
        }
        let token = r#"{"auths":{"reg.example.test":{"identitytoken":"t","auth":"dTpw"}}}"#;
        assert_eq!(find_in(token, "reg.example.test")?, "identity t");
        let (name, _) = ENDPOINTS[0];
        let legacy = format!(r#"{{"auths":{{"https://index.{name}/v1/":{{"auth":"dTpw"}}}}}}"#);
        assert_eq!(find_in(&legacy, name)?, "u p");
        let other = format!(r#"{{"auths":{{"https://evil{name}/v1/":{{"auth":"dTpw"}}}}}}"#);
        assert_eq!(find_in(&other, name)?, "nothing");
        Ok(())
    }

    #[test]
    fn what_cannot_be_used_says_why() -> Result<(), io::Error> {
        assert!(find_in("{", "reg.example.test")?.contains("not a valid Docker configuration"));
        let missing = r#"{"credsStore":"there-is-no-such-helper"}"#;
        assert!(find_in(missing, "reg.example.test")?.contains("cannot be run"));
        assert_eq!(find_in("{}", "reg.example.test")?, "nothing");
        Ok(())
    }

    #[test]
    fn secrets_do_not_show_in_debug_output_or_hints() {
        let found = Found::Password { path: "c".into(), user: "u".into(), password: "hunter2".into() };
        assert!(!format!("{found:?}").contains("hunter2"));
        assert!(!found.describe("reg.example.test").contains("hunter2"));
    }
}
