//! `registries.toml`, and the `registries.conf` of containers' tools where there is none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{Location, RegistryOptions};
use super::error::RegistryError;
use super::reach::SourceNetwork;

/// How registries, or parts of them, are to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    path: PathBuf,
    entries: Vec<Entry>,
    source_network: SourceNetwork,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// `host[:port]`, `host/part/of/it`, or `*.domain`.
    prefix: String,
    /// Itself, where something is said about how to reach it.
    location: Option<Location>,
    blocked: bool,
    mirrors: Vec<Location>,
}

/// Whether a file that need not be there is not, as far as this user can see.
pub(super) fn is_out_of_reach(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

impl Settings {
    /// Reads `explicit`, which must exist, or else the first of `candidates` that does.
    pub fn read(explicit: Option<&Path>, candidates: &[PathBuf]) -> Result<Self, RegistryError> {
        if let Some(path) = explicit {
            let text = std::fs::read_to_string(path)
                .map_err(|error| RegistryError::File { path: path.to_owned(), reason: error.to_string() })?;
            return Self::parse(path, &text);
        }
        for path in candidates {
            match std::fs::read_to_string(path) {
                Ok(text) => return Self::parse(path, &text),
                // In the home of somebody else it may be out of reach, as under `docker run -u`.
                Err(error) if is_out_of_reach(&error) => {}
                Err(error) => {
                    return Err(RegistryError::File { path: path.clone(), reason: error.to_string() });
                }
            }
        }
        Ok(Settings::default())
    }

    /// Parses either form: `registry` is a table in `registries.toml` and a list in version 2 of
    /// `registries.conf`. `path` is for messages, and relative paths of certificates start there.
    pub fn parse(path: &Path, text: &str) -> Result<Self, RegistryError> {
        let fail = |reason: String| RegistryError::File { path: path.to_owned(), reason };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
        if table.contains_key("registries") {
            return Err(fail("version 1 of registries.conf is not supported".to_owned()));
        }
        let listed = table.get("registry").is_some_and(toml::Value::is_array);
        // A containers' file without any registry says other things, which are no mistakes.
        let foreign = listed || path.extension().is_some_and(|extension| extension == "conf");
        let value = toml::Value::Table(table);
        let mut source_network = SourceNetwork::default();
        let entries = if foreign {
            let parsed: Containers = value.try_into().map_err(|error| fail(error.to_string()))?;
            parsed.registry.iter().map(entry_of_containers).collect::<Result<_, _>>()
        } else {
            let parsed: Own = value.try_into().map_err(|error| fail(error.to_string()))?;
            source_network = parsed.source_network;
            own_entries(&parsed, path.parent().unwrap_or(Path::new("")))
        };
        Ok(Settings { path: path.to_owned(), entries: entries.map_err(fail)?, source_network })
    }

    /// Where sources of builds may be.
    pub fn source_network(&self) -> SourceNetwork {
        self.source_network
    }

    /// Puts what is said about a repository into `options`. Fails where it is blocked.
    pub fn apply(
        &self,
        host: &str,
        repository: &str,
        options: &mut RegistryOptions,
    ) -> Result<(), RegistryError> {
        let whole = format!("{host}/{repository}");
        let found = self.entries.iter().filter(|entry| covers(&entry.prefix, host, &whole));
        let Some(entry) = found.max_by_key(|entry| entry.prefix.len()) else { return Ok(()) };
        if entry.blocked {
            return Err(RegistryError::Blocked { name: entry.prefix.clone(), path: self.path.clone() });
        }
        options.mirrors.extend(entry.mirrors.iter().cloned());
        if let Some(location) = &entry.location {
            let mut location = location.clone();
            location.insecure |= options.insecure;
            options.location = Some(location);
        }
        Ok(())
    }
}

fn covers(prefix: &str, host: &str, whole: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        let name = host.split(':').next().unwrap_or_default();
        return domain.starts_with('.') && name.ends_with(domain);
    }
    whole.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `registries.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Own {
    #[serde(default)]
    source_network: SourceNetwork,
    #[serde(default)]
    registry: BTreeMap<String, OwnEntry>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct OwnEntry {
    mirrors: Vec<String>,
    insecure: bool,
    http: bool,
    ca: Option<PathBuf>,
}

impl OwnEntry {
    fn location(&self, address: &str, folder: &Path) -> Location {
        Location {
            address: address.to_owned(),
            insecure: self.insecure,
            http: self.http,
            ca: self.ca.as_ref().map(|ca| folder.join(ca)),
            ..Location::default()
        }
    }
}

fn own_entries(parsed: &Own, folder: &Path) -> Result<Vec<Entry>, String> {
    // A mirror is reached as the file says under the mirror's own name.
    let mirror = |address: &String| {
        let host = address.split_once("://").map_or(address.as_str(), |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        parsed.registry.get(host).map_or_else(|| address.clone().into(), |own| own.location(address, folder))
    };
    let entry = |(name, own): (&String, &OwnEntry)| {
        if name.contains('/') {
            return Err(format!("[registry.{name:?}]: expected host[:port]"));
        }
        let said = own.insecure || own.http || own.ca.is_some();
        Ok(Entry {
            prefix: name.clone(),
            location: said.then(|| own.location(name, folder)),
            blocked: false,
            mirrors: own.mirrors.iter().map(mirror).collect(),
        })
    };
    parsed.registry.iter().map(entry).collect()
}

/// `registries.conf`, version 2. It says more than this, for other tools.
#[derive(Deserialize)]
struct Containers {
    #[serde(default)]
    registry: Vec<ContainersEntry>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct ContainersEntry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror: Vec<ContainersMirror>,
    mirror_by_digest_only: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct ContainersMirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

fn entry_of_containers(entry: &ContainersEntry) -> Result<Entry, String> {
    let prefix = if entry.prefix.is_empty() { &entry.location } else { &entry.prefix };
    if prefix.is_empty() {
        return Err("a [[registry]] has neither prefix nor location".to_owned());
    }
    let wildcard = prefix.starts_with('*');
    if wildcard && !entry.location.is_empty() {
        return Err(format!("prefix {prefix:?} with a location is not supported"));
    }
    let strip = prefix.split_once('/').map_or("", |(_, path)| path);
    let at = |address: &str, insecure: bool| Location {
        address: address.to_owned(),
        strip: strip.to_owned(),
        insecure,
        ..Location::default()
    };
    let moved = !entry.location.is_empty() && entry.location != *prefix;
    // Insecurity is said of a host; of a part of one that stays where it is, too.
    let here = if entry.location.is_empty() { prefix } else { &entry.location };
    if wildcard && entry.insecure {
        return Err(format!("prefix {prefix:?} with insecure is not supported"));
    }
    let mut mirrors = Vec::new();
    for mirror in &entry.mirror {
        let digest_only = match mirror.pull_from_mirror.as_str() {
            "" | "all" => entry.mirror_by_digest_only,
            "digest-only" => true,
            other => return Err(format!("pull-from-mirror = {other:?} is not supported")),
        };
        mirrors.push(Location { digest_only, ..at(&mirror.location, mirror.insecure) });
    }
    Ok(Entry {
        prefix: prefix.clone(),
        location: (moved || entry.insecure).then(|| at(here, entry.insecure)),
        blocked: entry.blocked,
        mirrors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), RegistryError>;

    fn applied(text: &str, host: &str, repository: &str) -> Result<RegistryOptions, RegistryError> {
        let mut options = RegistryOptions::default();
        Settings::parse(Path::new("/etc/x/registries.toml"), text)?.apply(host, repository, &mut options)?;
        Ok(options)
    }

    #[test]
    fn mirrors_and_ways_to_reach_a_host_are_read() -> Outcome {
        let text = r#"
            [registry."reg.example.test"]
            mirrors = ["m.example.test:5000/cache", "https://n.example.test"]
            ca = "own.pem"
            [registry."m.example.test:5000"]
            http = true
        "#;
        let options = applied(text, "reg.example.test", "a/b")?;
        let [first, second] = options.mirrors.as_slice() else { panic!("{options:?}") };
        assert!(first.http && first.address == "m.example.test:5000/cache");
        assert_eq!(second, &Location::from("https://n.example.test"));
        let location = options.location.unwrap_or_default();
        assert_eq!(location.ca.as_deref(), Some(Path::new("/etc/x/own.pem")));
        assert_eq!(applied(text, "other.example.test", "a")?.mirrors, []);
        assert!(applied(text, "m.example.test:5000", "a")?.location.is_some_and(|location| location.http));
        Ok(())
    }

    #[test]
    fn containers_registries_are_read() -> Outcome {
        let text = r#"
            unqualified-search-registries = ["reg.example.test"]
            [[registry]]
            prefix = "reg.example.test/team"
            location = "inner.example.test/moved"
            [[registry.mirror]]
            location = "m.example.test/cache"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry]]
            location = "bad.example.test"
            blocked = true
            [[registry]]
            prefix = "*.local.test"
            [[registry.mirror]]
            location = "m.example.test"
            [[registry]]
            location = "plain.example.test"
            insecure = true
        "#;
        let options = applied(text, "reg.example.test", "team/app")?;
        let moved = options.location.unwrap_or_default();
        assert_eq!((moved.address.as_str(), moved.strip.as_str()), ("inner.example.test/moved", "team"));
        assert!(options.mirrors.iter().all(|mirror| mirror.insecure && mirror.digest_only));
        assert_eq!(applied(text, "reg.example.test", "teams")?.location, None);
        assert!(matches!(applied(text, "bad.example.test", "a"), Err(RegistryError::Blocked { .. })));
        assert_eq!(applied(text, "a.local.test:5000", "a")?.mirrors.len(), 1);
        assert_eq!(applied(text, "local.test", "a")?.mirrors.len(), 0);
        assert!(applied(text, "plain.example.test", "a")?.location.is_some_and(|at| at.insecure));
        Ok(())
    }

    #[test]
    fn sources_can_be_kept_off_this_machine() -> Outcome {
        let read = |text: &str| Settings::parse(Path::new("/etc/x/registries.toml"), text);
        assert_eq!(read("source-network = \"remote\"")?.source_network(), SourceNetwork::Remote);
        assert_eq!(read("")?.source_network(), SourceNetwork::Any);
        Ok(())
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("[registry.\"a.test\"]\nmirror = []", "mirror"),
            ("[registry.\"a.test/b\"]\n", "a.test/b"),
            ("[registries.search]\nregistries = []", "version 1"),
            ("[[registry]]\ninsecure = true", "location"),
            (
                "[[registry]]\nlocation = \"a.test\"\n[[registry.mirror]]\npull-from-mirror = \"tag-only\"",
                "tag-only",
            ),
            ("nonsense", "nonsense"),
            ("source-network = \"none\"", "remote"),
        ] {
            let error = applied(text, "a.test", "b").err().map(|error| error.to_string());
            assert!(error.as_deref().is_some_and(|error| error.contains(word)), "{text}: {error:?}");
        }
    }
}
