//! Finding the credentials for a registry in Docker's configuration, or in that of other tools.

use std::fmt;
use std::io;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::config::{CredentialSource, Credentials};
use super::error::clean;
use super::settings::is_out_of_reach;

/// What was found, and where, so that a refusal can say what was tried.
pub(super) enum Found {
    /// The caller gave no configuration.
    NotAsked,
    /// The configurations have none for this registry.
    Nothing { places: String },
    /// They could not be read.
    Unusable { place: String, reason: String },
    /// A name and a password.
    Password { place: String, user: String, password: String },
    /// A refresh token.
    Identity { place: String, token: String },
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe("the registry"))
    }
}

impl Found {
    /// What was tried, as the hint of a refusal.
    pub(super) fn describe(&self, registry: &str) -> String {
        let login = format!("sign in with `rbuild login {registry}`");
        match self {
            Found::NotAsked => "it was asked without credentials".to_owned(),
            Found::Nothing { places } => {
                format!("it was asked without credentials, as {places} has none for {registry}; {login}")
            }
            Found::Unusable { place, reason } => {
                format!("the credentials in {place} cannot be used: {reason}")
            }
            Found::Password { place, user, .. } if place.is_empty() => {
                format!("it was asked as user {user:?} with the password given")
            }
            Found::Password { place, user, .. } => {
                format!("it was asked as user {user:?} from {place}; {login}")
            }
            Found::Identity { place, .. } => {
                format!("it was asked with the identity token from {place}; {login}")
            }
        }
    }

    /// `Basic` credentials, if this is a name and a password.
    pub(super) fn basic(&self) -> Option<String> {
        let Found::Password { user, password, .. } = self else { return None };
        Some(format!("Basic {}", encode(user, password)))
    }
}

/// `user:password` as `config.json` and the `Basic` scheme write it.
pub(super) fn encode(user: &str, password: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

/// Looks for the credentials of `registry`, or of its part that `repository` lies in. May run the
/// credential helper that a configuration names for it. The first configuration that has some
/// decides; one that cannot be used is forgiven where another can.
pub(super) fn find(credentials: &Credentials, registry: &str, repository: &str) -> Found {
    let sources = match credentials {
        Credentials::None => return Found::NotAsked,
        Credentials::Given { user, password } => {
            return Found::Password {
                place: String::new(),
                user: user.clone(),
                password: password.0.clone(),
            };
        }
        Credentials::DockerConfig(dir) => vec![CredentialSource::File(dir.join("config.json"))],
        Credentials::Sources(sources) if sources.is_empty() => return Found::NotAsked,
        Credentials::Sources(sources) => sources.clone(),
    };
    let (mut places, mut unusable) = (Vec::new(), None);
    for source in &sources {
        match find_in(source, registry, repository) {
            Found::Nothing { places: place } => places.push(place),
            found @ Found::Unusable { .. } => {
                unusable.get_or_insert(found);
            }
            found => return found,
        }
    }
    unusable.unwrap_or_else(|| Found::Nothing { places: places.join(" or ") })
}

fn find_in(source: &CredentialSource, registry: &str, repository: &str) -> Found {
    let (place, content) = match source {
        CredentialSource::Text { name, json } => (name.clone(), json.0.clone().into_bytes()),
        CredentialSource::File(path) => {
            let place = path.display().to_string();
            match std::fs::read(path) {
                Ok(content) => (place, content),
                Err(error) if is_out_of_reach(&error) => {
                    let why = match error.kind() {
                        io::ErrorKind::PermissionDenied => " (not readable)",
                        _ => "",
                    };
                    return Found::Nothing { places: format!("{place}{why}") };
                }
                Err(error) => return Found::Unusable { place, reason: error.to_string() },
            }
        }
    };
    let (key, content) = narrow(&content, registry, repository);
    match docker_credential::get_credential_from_reader(content.as_slice(), &key) {
        // A helper that has nothing may answer with nothing: that is no name.
        Ok(DockerCredential::UsernamePassword(user, password)) if user.is_empty() && password.is_empty() => {
            Found::Nothing { places: place }
        }
        Ok(DockerCredential::IdentityToken(token)) if token.is_empty() => Found::Nothing { places: place },
        Ok(DockerCredential::UsernamePassword(user, password)) => Found::Password { place, user, password },
        Ok(DockerCredential::IdentityToken(token)) => Found::Identity { place, token },
        Err(error) => failure(place, error),
    }
}

fn failure(place: String, error: CredentialRetrievalError) -> Found {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => Found::Nothing { places: place },
        // Helpers report an unknown registry as a failure; the text is part of their protocol.
        CredentialRetrievalError::HelperFailure { stdout, .. }
            if stdout.contains("credentials not found in native keychain") =>
        {
            Found::Nothing { places: place }
        }
        CredentialRetrievalError::HelperFailure { helper, stdout, stderr } => {
            let said = if stdout.trim().is_empty() { stderr } else { stdout };
            Found::Unusable { place, reason: format!("{helper} failed: {}", clean(&said)) }
        }
        CredentialRetrievalError::HelperCommunicationError => {
            let reason = "the credential helper it names cannot be run; is it on PATH?".to_owned();
            Found::Unusable { place, reason }
        }
        CredentialRetrievalError::ConfigReadError => {
            Found::Unusable { place, reason: "it is not a valid Docker configuration".to_owned() }
        }
        other => Found::Unusable { place, reason: other.to_string() },
    }
}

/// The key under which the configuration knows the registry, and the configuration without the
/// entries of others. Keys are host names or, from older tools, addresses with a scheme and a path;
/// containers' tools also have keys for a part of a registry, of which the longest is meant; Docker's
/// own registry goes by several names below the domain of its image names. Helpers want the key as
/// it is written.
fn narrow(config: &[u8], registry: &str, repository: &str) -> (String, Vec<u8>) {
    let unchanged = || (registry.to_owned(), config.to_vec());
    let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(config) else { return unchanged() };
    let mut best: Option<(usize, String)> = None;
    for section in ["credHelpers", "auths"] {
        let Some(entries) = json.get(section).and_then(serde_json::Value::as_object) else { continue };
        for key in entries.keys() {
            let Some(weight) = weight(key, registry, repository) else { continue };
            if best.as_ref().is_none_or(|(known, _)| weight > *known) {
                best = Some((weight, key.clone()));
            }
        }
    }
    let key = best.map_or_else(|| usual_key(registry), |(_, key)| key);
    if let Some(auths) = json.get_mut("auths").and_then(serde_json::Value::as_object_mut) {
        auths.retain(|known, _| *known == key);
        if let Some(entry) = auths.get_mut(&key).and_then(serde_json::Value::as_object_mut)
            && !settle(entry)
        {
            auths.remove(&key);
        }
    }
    match serde_json::to_vec(&json) {
        Ok(bytes) => (key, bytes),
        Err(_) => unchanged(),
    }
}

/// The key that Docker's tools give a helper for a registry that no configuration names: for Docker's own
/// registry the address of its first version.
fn usual_key(registry: &str) -> String {
    match super::config::ENDPOINTS.iter().any(|(name, _)| *name == registry) {
        true => format!("https://index.{registry}/v1/"),
        false => registry.to_owned(),
    }
}

/// Makes an entry of `auths` say one thing only, as Docker reads it: `auth`, where it says anything, goes
/// before `username` and `password`; line ends in it and NULs behind the password count for nothing.
/// False where the entry says nothing. What cannot be decoded stays, for the message.
fn settle(entry: &mut serde_json::Map<String, serde_json::Value>) -> bool {
    let text = |entry: &serde_json::Map<String, serde_json::Value>, key: &str| {
        entry.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let token = !text(entry, "identitytoken").is_empty();
    let auth: String = text(entry, "auth").chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let pair = if auth.is_empty() {
        (text(entry, "username"), text(entry, "password"))
    } else {
        let Some(decoded) = decode(&auth) else { return true };
        let Some((user, password)) = decoded.split_once(':') else { return true };
        (user.to_owned(), password.trim_matches('\0').to_owned())
    };
    for key in ["auth", "username", "password"] {
        entry.remove(key);
    }
    if !token {
        entry.remove("identitytoken");
    }
    let named = pair != (String::new(), String::new());
    if named {
        entry.insert("auth".to_owned(), encode(&pair.0, &pair.1).into());
    }
    named || token
}

fn decode(auth: &str) -> Option<String> {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(auth).ok()?).ok()
}

/// Whether a key is that of a registry as a whole, in whatever form.
pub(super) fn names(key: &str, registry: &str) -> bool {
    weight(key, registry, "").is_some()
}

/// How closely a key is about a repository; `None` where it is about something else.
fn weight(key: &str, registry: &str, repository: &str) -> Option<usize> {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_matches('/');
    let served_by_domain =
        super::config::ENDPOINTS.iter().any(|(name, _)| *name == registry && below(host, name));
    if !host.eq_ignore_ascii_case(registry) && !served_by_domain {
        return None;
    }
    if key.contains("://") || matches!(path, "" | "v1" | "v2") {
        return Some(usize::from(key == registry));
    }
    let rest = repository.strip_prefix(path)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(path.len() + 1)
}

fn below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::super::config::{ENDPOINTS, Secret};
    use super::*;

    fn look_up(config: &str, registry: &str) -> Result<String, io::Error> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("config.json"), config)?;
        let found = find(&Credentials::DockerConfig(dir.path().to_owned()), registry, "team/app");
        Ok(match found {
            Found::NotAsked => "not asked".into(),
            Found::Nothing { .. } => "nothing".into(),
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
            assert_eq!(look_up(&config, "reg.example.test")?, "u p", "{key}");
            assert_eq!(look_up(&config, "example.test")?, "nothing", "{key}");
            assert_eq!(look_up(&config, "reg.example.test:5000")?, "nothing", "{key}");
        }
        let token = r#"{"auths":{"reg.example.test":{"identitytoken":"t","auth":"dTpw"}}}"#;
        assert_eq!(look_up(token, "reg.example.test")?, "identity t");
        let (name, _) = ENDPOINTS[0];
        let legacy = format!(r#"{{"auths":{{"https://index.{name}/v1/":{{"auth":"dTpw"}}}}}}"#);
        assert_eq!(look_up(&legacy, name)?, "u p");
        let other = format!(r#"{{"auths":{{"https://evil{name}/v1/":{{"auth":"dTpw"}}}}}}"#);
        assert_eq!(look_up(&other, name)?, "nothing");
        Ok(())
    }

    #[test]
    fn the_closest_part_of_a_registry_decides() -> Result<(), io::Error> {
        // "eDp5" is x:y
        let part = |key: &str| {
            format!(r#"{{"auths":{{"reg.example.test":{{"auth":"dTpw"}},"{key}":{{"auth":"eDp5"}}}}}}"#)
        };
        for (key, found) in [
            ("reg.example.test/team", "x y"),
            ("reg.example.test/team/app", "x y"),
            ("reg.example.test/tea", "u p"),
            ("reg.example.test/other", "u p"),
        ] {
            assert_eq!(look_up(&part(key), "reg.example.test")?, found, "{key}");
        }
        let only = r#"{"auths":{"reg.example.test/other":{"auth":"eDp5"}}}"#;
        assert_eq!(look_up(only, "reg.example.test")?, "nothing");
        Ok(())
    }

    #[test]
    fn sources_are_asked_in_order_and_broken_ones_are_forgiven() -> Result<(), io::Error> {
        let dir = tempfile::tempdir()?;
        let text = |json: &str| CredentialSource::Text { name: "TEXT".into(), json: Secret(json.into()) };
        let good = text(r#"{"auths":{"reg.example.test":{"auth":"dTpw"}}}"#);
        let missing = CredentialSource::File(dir.path().join("none.json"));
        let look = |sources: Vec<CredentialSource>| {
            find(&Credentials::Sources(sources), "reg.example.test", "a").describe("reg.example.test")
        };
        assert!(look(vec![missing.clone(), text("{"), good]).contains("\"u\" from TEXT"));
        assert!(look(vec![missing.clone(), text("{")]).contains("TEXT cannot be used"));
        let nothing = look(vec![missing, text("{}")]);
        assert!(nothing.contains("none.json or TEXT has none"), "{nothing}");
        Ok(())
    }

    #[test]
    fn entries_mean_what_they_mean_to_docker() -> Result<(), io::Error> {
        // "dTpw" is u:p, "dTpwAAA=" has NULs at its end, "Og==" is a colon.
        for (entry, found) in [
            (r#"{"username":"u","password":"p","auth":""}"#, "u p"),
            (r#"{"username":"u","password":"p"}"#, "u p"),
            (r#"{"username":"","password":"","auth":"dTpw"}"#, "u p"),
            (r#"{"username":"stale","password":"old","auth":"dTpw"}"#, "u p"),
            (r#"{"auth":"dTpw\n"}"#, "u p"),
            (r#"{"auth":"dT\r\npw"}"#, "u p"),
            (r#"{"auth":"dTpwAAA="}"#, "u p"),
            (r#"{"auth":"Og=="}"#, "nothing"),
            (r#"{"username":"","password":""}"#, "nothing"),
            (r#"{"auth":""}"#, "nothing"),
            ("{}", "nothing"),
            (r#"{"identitytoken":"t"}"#, "identity t"),
            (r#"{"identitytoken":"","auth":"dTpw"}"#, "u p"),
        ] {
            let config = format!(r#"{{"auths":{{"reg.example.test":{entry}}}}}"#);
            assert_eq!(look_up(&config, "reg.example.test")?, found, "{entry}");
        }
        Ok(())
    }

    #[test]
    fn helpers_are_asked_as_docker_asks_them() -> Result<(), io::Error> {
        let (name, _) = ENDPOINTS[0];
        let (key, config) = narrow(br#"{"credsStore":"x"}"#, name, "a");
        assert_eq!(
            (key, config.as_slice()),
            (format!("https://index.{name}/v1/"), &br#"{"credsStore":"x"}"#[..])
        );
        assert_eq!(narrow(br#"{"credsStore":"x"}"#, "reg.example.test", "a").0, "reg.example.test");
        let named = format!(r#"{{"credHelpers":{{"{name}":"x"}}}}"#);
        assert_eq!(narrow(named.as_bytes(), name, "a").0, name);
        Ok(())
    }

    #[test]
    fn what_cannot_be_used_says_why() -> Result<(), io::Error> {
        assert!(look_up("{", "reg.example.test")?.contains("not a valid Docker configuration"));
        let missing = r#"{"credsStore":"there-is-no-such-helper"}"#;
        assert!(look_up(missing, "reg.example.test")?.contains("cannot be run"));
        assert_eq!(look_up("{}", "reg.example.test")?, "nothing");
        Ok(())
    }

    #[test]
    fn secrets_do_not_show_in_debug_output_or_hints() {
        let found = Found::Password { place: "c".into(), user: "u".into(), password: "hunter2".into() };
        assert!(!format!("{found:?}").contains("hunter2"));
        assert!(!found.describe("reg.example.test").contains("hunter2"));
    }
}
