//! `registries.toml`, and the `registries.conf` of containers' tools where there is none.

mod containers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{Location, RegistryOptions};
use super::error::RegistryError;
use super::reach::SourceNetwork;

pub use containers::ContainersFiles;

/// How registries, or parts of them, are to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<Entry>,
    aliases: Vec<Alias>,
    source_network: SourceNetwork,
    /// For whoever asks any registry.
    notices: Vec<String>,
    /// Files of other tools that cannot be read, and why.
    broken: Vec<(PathBuf, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// `host[:port]`, `host/part/of/it`, or `*.domain`, which may have a path too.
    prefix: String,
    /// The file that it is from.
    path: PathBuf,
    /// Whether the file is one of containers' tools, whose prefixes may leave out a port.
    foreign: bool,
    /// Itself, where something is said about how to reach it.
    location: Option<Location>,
    blocked: bool,
    mirrors: Vec<Location>,
    /// What was not understood.
    problems: Vec<String>,
    /// Nothing was understood, so that other entries count.
    inert: bool,
}

/// Another name that containers' tools give a name without a registry. Dockerfiles mean Docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Alias {
    /// What Docker takes the short name for.
    of: String,
    target: String,
    path: PathBuf,
}

impl Alias {
    /// Whether somebody chose it; distributions come with long lists of the others.
    fn is_chosen(&self) -> bool {
        !self.path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("shortnames.conf"))
    }
}

/// Whether a file that need not be there is not, as far as this user can see.
pub(super) fn is_out_of_reach(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

impl Settings {
    /// Reads `explicit`, which must exist, or else the first of `candidates` that does, or else the files
    /// of containers' tools. Mistakes in those are no errors before a registry is asked.
    pub fn read(
        explicit: Option<&Path>,
        candidates: &[PathBuf],
        containers: &ContainersFiles,
    ) -> Result<Self, RegistryError> {
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
        Ok(containers.read())
    }

    /// Parses either form: `registry` is a table in `registries.toml` and a list in version 2 of
    /// `registries.conf`. `path` is for messages, and relative paths of certificates start there.
    pub fn parse(path: &Path, text: &str) -> Result<Self, RegistryError> {
        let fail = |reason: String| RegistryError::File { path: path.to_owned(), reason };
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
        let listed = table.get("registry").is_some_and(toml::Value::is_array);
        // A containers' file without any registry says other things, which are no mistakes.
        let named = path.extension().is_some_and(|extension| extension == "conf");
        if listed || named || table.contains_key("registries") {
            return containers::parse(path, text).map_err(fail);
        }
        let parsed: Own = toml::Value::Table(table).try_into().map_err(|error| fail(error.to_string()))?;
        let entries = own_entries(&parsed, path).map_err(fail)?;
        Ok(Settings { entries, source_network: parsed.source_network, ..Settings::default() })
    }

    /// Adds what a later file says, which replaces what is said about the same prefixes.
    fn add(&mut self, more: Settings) {
        self.entries.retain(|entry| !more.entries.iter().any(|new| new.prefix == entry.prefix));
        self.aliases.retain(|alias| !more.aliases.iter().any(|new| new.of == alias.of));
        self.entries.extend(more.entries);
        self.aliases.extend(more.aliases);
        self.notices.extend(more.notices);
    }

    /// Where sources of builds may be.
    pub fn source_network(&self) -> SourceNetwork {
        self.source_network
    }

    /// Puts what is said about a repository into `options`, and gives what was not understood about it.
    /// Fails where it is blocked, and where a file that may block it cannot be read.
    pub fn apply(
        &self,
        host: &str,
        repository: &str,
        options: &mut RegistryOptions,
    ) -> Result<Vec<String>, RegistryError> {
        if let Some((path, reason)) = self.broken.first() {
            return Err(RegistryError::File { path: path.clone(), reason: reason.clone() });
        }
        let mut notices = self.notices.clone();
        let whole = format!("{host}/{repository}");
        if let Some(alias) = self.aliases.iter().find(|alias| alias.of == whole && alias.target != whole) {
            let Alias { target, path, .. } = alias;
            let told = format!(
                "{} has {target} for this name; a name without a registry is Docker's, so write that name",
                path.display()
            );
            notices.extend(alias.is_chosen().then(|| format!("{whole}: {told}")));
            options.alias = Some(told);
        }
        let mut found: Vec<_> = self.entries.iter().filter(|entry| entry.covers(host, &whole)).collect();
        let longest = found.iter().filter(|entry| !entry.inert).map(|entry| entry.prefix.len()).max();
        found.retain(|entry| entry.inert || Some(entry.prefix.len()) == longest);
        for entry in found {
            let about = |problem: &String| format!("{}: {}: {problem}", entry.path.display(), entry.prefix);
            notices.extend(entry.problems.iter().map(about));
            if !entry.inert {
                entry.apply(host, options)?;
            }
        }
        Ok(notices)
    }
}

impl Entry {
    fn apply(&self, host: &str, options: &mut RegistryOptions) -> Result<(), RegistryError> {
        if self.blocked {
            return Err(RegistryError::Blocked { name: self.prefix.clone(), path: self.path.clone() });
        }
        let at = |location: &Location| match self.foreign {
            true => containers::placed(location, &self.prefix, host),
            false => Ok(location.clone()),
        };
        for mirror in &self.mirrors {
            options.mirrors.push(at(mirror)?);
        }
        if let Some(location) = &self.location {
            let mut location = at(location)?;
            location.insecure |= options.insecure;
            options.location = Some(location);
        }
        Ok(())
    }

    fn covers(&self, host: &str, whole: &str) -> bool {
        let ends =
            |rest: &str| rest.is_empty() || rest.starts_with('/') || (self.foreign && rest.starts_with(':'));
        let Some(domain) = self.prefix.strip_prefix('*') else {
            return whole.strip_prefix(&self.prefix).is_some_and(ends);
        };
        // A path may follow the domain, which itself can begin at any dot of the host.
        domain.starts_with('.')
            && host.match_indices('.').any(|(at, _)| {
                at > 0 && whole.get(at..).and_then(|rest| rest.strip_prefix(domain)).is_some_and(ends)
            })
    }
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

fn own_entries(parsed: &Own, path: &Path) -> Result<Vec<Entry>, String> {
    let folder = path.parent().unwrap_or(Path::new(""));
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
            path: path.to_owned(),
            location: said.then(|| own.location(name, folder)),
            mirrors: own.mirrors.iter().map(mirror).collect(),
            ..Entry::default()
        })
    };
    parsed.registry.iter().map(entry).collect()
}
