//! Where AWS's tools keep credentials: variables, then the profiles of two files.

use std::path::PathBuf;

use crate::registry::Secret;

use super::cache_objects::Surroundings;

/// A key with its secret, and the token beside it.
type Credentials = (Option<(String, Secret)>, Option<Secret>);

/// The credentials that AWS's tools would use; none where nothing is set up. Ways to get some that are not supported
/// are an error that names them.
pub(super) fn credentials(around: &Surroundings<'_>) -> Result<Credentials, String> {
    let var = |name: &str| (around.variable)(name).filter(|value| !value.is_empty());
    if let (Some(id), Some(secret)) = (var("AWS_ACCESS_KEY_ID"), var("AWS_SECRET_ACCESS_KEY")) {
        return Ok((Some((id, Secret(secret))), var("AWS_SESSION_TOKEN").map(Secret)));
    }
    let files = Files::read(around);
    let get = |key: &str| files.get(key);
    if let (Some(id), Some(secret)) = (get("aws_access_key_id"), get("aws_secret_access_key")) {
        return Ok((Some((id, Secret(secret))), get("aws_session_token").map(Secret)));
    }
    let profile = &files.profile;
    let in_profile = ["role_arn", "credential_process", "sso_session", "sso_start_url"];
    if let Some(key) = in_profile.into_iter().find(|key| get(key).is_some()) {
        return Err(format!("{key} in the profile {profile:?} is not supported: {ADVICE}"));
    }
    let variables = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    if let Some(name) = variables.into_iter().find(|name| var(name).is_some()) {
        return Err(format!("credentials by {name} are not supported: {ADVICE}"));
    }
    match var("AWS_PROFILE") {
        Some(profile) => Err(format!("there is no key in the profile {profile:?} that AWS_PROFILE names")),
        None => Ok((None, None)),
    }
}

const ADVICE: &str = "give a key by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN \
                      (`aws configure export-credentials --format env` prints them)";

/// The region of the profile.
pub(super) fn region(around: &Surroundings<'_>) -> Option<String> {
    Files::read(around).get("region")
}

struct Files {
    profile: String,
    /// Name and value, of the more important file first.
    values: Vec<(String, String)>,
}

impl Files {
    fn read(around: &Surroundings<'_>) -> Self {
        let var = |name: &str| (around.variable)(name).filter(|value| !value.is_empty());
        let home = var("HOME").map(PathBuf::from);
        let place = |name: &str, usual: &str| {
            var(name).map(PathBuf::from).or_else(|| home.as_ref().map(|home| home.join(".aws").join(usual)))
        };
        let profile = var("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
        let text = |path: Option<PathBuf>| path.and_then(|path| (around.file)(&path)).unwrap_or_default();
        let mut values = section(&text(place("AWS_SHARED_CREDENTIALS_FILE", "credentials")), &profile);
        let config = text(place("AWS_CONFIG_FILE", "config"));
        values.extend(section(&config, &format!("profile {profile}")));
        if profile == "default" {
            values.extend(section(&config, "default"));
        }
        Files { profile, values }
    }

    fn get(&self, key: &str) -> Option<String> {
        self.values.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }
}

/// What a section of an INI file has. Lines that are indented belong to the setting before and are passed over.
fn section(text: &str, name: &str) -> Vec<(String, String)> {
    let (mut inside, mut found) = (false, Vec::new());
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = title.split_whitespace().collect::<Vec<_>>().join(" ") == name;
        } else if inside
            && !line.starts_with([' ', '\t'])
            && let Some((key, value)) = trimmed.split_once('=')
        {
            found.push((key.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Result<(String, Option<String>), String> {
        let lookup = |all: &[(&str, &str)], name: &str| {
            all.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let around = Surroundings {
            variable: &|name| lookup(variables, name),
            file: &|path| lookup(files, path.to_str().unwrap_or_default()),
        };
        let (key, token) = credentials(&around)?;
        let region = region(&around).map_or_else(String::new, |region| format!(" {region}"));
        let key = key.map_or_else(|| "none".to_owned(), |(id, secret)| format!("{id}:{}", secret.0));
        Ok((key + &region, token.map(|token| token.0)))
    }

    const CREDENTIALS: &str = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key= S\n  nested = x\n\n[ci]\nAWS_ACCESS_KEY_ID=C\naws_secret_access_key=T\naws_session_token=tok=en\n";
    const CONFIG: &str = "[default]\nregion=r1\n[profile ci]\nregion = r2\n[profile sso]\nsso_session = x\n[profile role]\nrole_arn = x\n";

    #[test]
    fn variables_come_before_profiles() {
        let files = [("/h/.aws/credentials", CREDENTIALS), ("/h/.aws/config", CONFIG)];
        let home = ("HOME", "/h");
        let one = |key: &str, token: Option<&str>| Ok((key.to_owned(), token.map(str::to_owned)));
        assert_eq!(found(&[home], &files), one("A:S r1", None));
        assert_eq!(found(&[home, ("AWS_PROFILE", "ci")], &files), one("C:T r2", Some("tok=en")));
        let own =
            [home, ("AWS_ACCESS_KEY_ID", "V"), ("AWS_SECRET_ACCESS_KEY", "W"), ("AWS_SESSION_TOKEN", "X")];
        assert_eq!(found(&own, &files), one("V:W r1", Some("X")));
        assert_eq!(found(&[home], &[]), one("none", None));
        let moved = [("AWS_SHARED_CREDENTIALS_FILE", "/c"), ("AWS_CONFIG_FILE", "/d")];
        assert_eq!(found(&moved, &[("/c", CREDENTIALS), ("/d", CONFIG)]), one("A:S r1", None));
    }

    #[test]
    fn other_ways_to_sign_in_are_refused_by_name() {
        let files = [("/h/.aws/config", CONFIG)];
        let home = ("HOME", "/h");
        for (variable, word) in [
            (("AWS_PROFILE", "sso"), "sso_session"),
            (("AWS_PROFILE", "role"), "role_arn"),
            (("AWS_PROFILE", "none"), "no key in the profile \"none\""),
            (("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ] {
            let error = found(&[home, variable], &files).err().unwrap_or_default();
            assert!(error.contains(word), "{variable:?}: {error}");
        }
    }
}
