//! `registries.conf` of containers' tools, in both of its versions, with drop-in directories.
//!
//! These files are written for other programs, and a build that asks no registry must not fail because of
//! them. What rbuild does not understand is kept beside the entry that it belongs to, and reported when that
//! entry is used. A file that cannot be read at all may block registries, so it fails whatever asks one.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::image::Reference;

use super::super::config::Location;
use super::super::error::RegistryError;
use super::{Alias, Entry, Settings, is_out_of_reach};

/// Where these files lie.
#[derive(Clone, Debug, Default)]
pub struct ContainersFiles {
    /// The user's directory, such as `~/.config/containers`.
    pub user: Option<PathBuf>,
    /// The machine's directory, such as `/etc/containers`.
    pub system: Option<PathBuf>,
}

impl ContainersFiles {
    /// The user's file replaces the machine's file and drop-ins; without it the user's drop-ins follow
    /// the machine's.
    pub(super) fn read(&self) -> Settings {
        let main = |dir: &Option<PathBuf>| {
            let path = dir.as_ref()?.join("registries.conf");
            Some((read(&path)?, path))
        };
        let (main, dirs) = match main(&self.user) {
            Some(own) => (Some(own), vec![&self.user]),
            None => (main(&self.system), vec![&self.system, &self.user]),
        };
        let mut settings = Settings::default();
        let drop_ins = dirs.into_iter().flatten().flat_map(|dir| drop_ins(&dir.join("registries.conf.d")));
        for (text, path) in main.into_iter().chain(drop_ins) {
            match text.and_then(|text| parse(&path, &text)) {
                Ok(more) => settings.add(more),
                Err(reason) => settings.broken.push((path, reason)),
            }
        }
        settings
    }
}

/// The text of a file; `None` where there is none that this user can see.
fn read(path: &Path) -> Option<Result<String, String>> {
    match std::fs::read_to_string(path) {
        Err(error) if is_out_of_reach(&error) => None,
        text => Some(text.map_err(|error| error.to_string())),
    }
}

fn drop_ins(dir: &Path) -> Vec<(Result<String, String>, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    paths.into_iter().filter_map(|path| Some((read(&path)?, path))).collect()
}

/// Parses one file. Fails where it is no TOML.
pub(super) fn parse(path: &Path, text: &str) -> Result<Settings, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let mut settings = Settings::default();
    let mut ignored = Vec::new();
    for (key, value) in &table {
        match (key.as_str(), value) {
            ("registry", Value::Array(all)) => {
                settings.entries.extend(all.iter().filter_map(|one| entry(path, one, &mut ignored)));
            }
            ("registries", Value::Table(lists)) => settings.entries.extend(first_version(path, lists)),
            ("aliases", Value::Table(all)) => {
                settings.aliases.extend(all.iter().filter_map(|(name, value)| alias(path, name, value)));
            }
            // Names without a registry are Docker's, as everywhere in Dockerfiles.
            ("unqualified-search-registries" | "short-name-mode", _) => {}
            ("credential-helpers", Value::Array(all)) => {
                let other = all.iter().any(|helper| helper.as_str() != Some("containers-auth.json"));
                ignored.extend(other.then(|| "credential-helpers".to_owned()));
            }
            ("registry" | "registries" | "aliases" | "credential-helpers", _) => ignored.push(key.clone()),
            // Of later versions and other programs.
            _ => {}
        }
    }
    let notice = |what: String| format!("{} of {} is not understood and has no effect", what, path.display());
    settings.notices = ignored.into_iter().map(notice).collect();
    Ok(settings)
}

/// Version 1: lists of hosts. What it searches is not asked for.
fn first_version(path: &Path, lists: &Table) -> Vec<Entry> {
    let hosts = |kind: &str| {
        let list = lists.get(kind).and_then(|table| table.get("registries")).and_then(Value::as_array);
        let hosts = list.into_iter().flatten().filter_map(Value::as_str);
        hosts.map(|host| host.trim_end_matches('/').to_owned()).collect::<Vec<_>>()
    };
    let entry = |prefix: String| Entry { prefix, path: path.to_owned(), foreign: true, ..Entry::default() };
    let blocked = hosts("block").into_iter().map(|host| Entry { blocked: true, ..entry(host) });
    let insecure = hosts("insecure").into_iter().map(|host| Entry {
        location: Some(Location { insecure: true, ..Location::from(host.as_str()) }),
        ..entry(host)
    });
    blocked.chain(insecure).collect()
}

fn alias(path: &Path, name: &str, value: &Value) -> Option<Alias> {
    // An empty value takes an alias of an earlier file back, and so is one for the name itself.
    let value = value.as_str().filter(|value| !value.is_empty()).unwrap_or(name);
    let (of, target) = (Reference::parse(name).ok()?, Reference::parse(value).ok()?);
    Some(Alias { of: of.repository(), target: target.repository(), path: path.to_owned() })
}

/// What is read of one table, and what is not.
struct Fields<'a> {
    table: &'a Table,
    problems: Vec<String>,
}

impl<'a> Fields<'a> {
    fn new(table: &'a Table, known: &[&str]) -> Self {
        let unknown = table.keys().filter(|key| !known.contains(&key.as_str()));
        Fields { table, problems: unknown.map(|key| format!("{key} is not understood")).collect() }
    }

    fn text(&mut self, key: &str) -> &'a str {
        match self.table.get(key) {
            None => "",
            Some(Value::String(text)) => text.trim_end_matches('/'),
            Some(_) => {
                self.problems.push(format!("{key} is no text"));
                ""
            }
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.table.get(key) {
            None => false,
            Some(Value::Boolean(flag)) => *flag,
            Some(_) => {
                self.problems.push(format!("{key} is neither true nor false"));
                false
            }
        }
    }
}

const OF_REGISTRY: &[&str] =
    &["prefix", "location", "insecure", "blocked", "mirror", "mirror-by-digest-only"];
const OF_MIRROR: &[&str] = &["location", "insecure", "pull-from-mirror"];

fn entry(path: &Path, value: &Value, ignored: &mut Vec<String>) -> Option<Entry> {
    let Some(table) = value.as_table() else {
        ignored.push("a registry that is no table".to_owned());
        return None;
    };
    let mut fields = Fields::new(table, OF_REGISTRY);
    let (prefix, location) = (fields.text("prefix"), fields.text("location"));
    let prefix = if prefix.is_empty() { location } else { prefix };
    if prefix.is_empty() {
        ignored.push("a [[registry]] without prefix and location".to_owned());
        return None;
    }
    let mut entry =
        Entry { prefix: prefix.to_owned(), path: path.to_owned(), foreign: true, ..Entry::default() };
    let (insecure, digests) = (fields.flag("insecure"), fields.flag("mirror-by-digest-only"));
    entry.blocked = fields.flag("blocked");
    let repository = without_tag(prefix);
    if repository != prefix {
        fields.problems.push(format!("{prefix} names one image, which has no effect"));
        repository.clone_into(&mut entry.prefix);
        (entry.inert, entry.problems) = (true, fields.problems);
        return Some(entry);
    }
    let strip = prefix.split_once('/').map_or("", |(_, path)| path);
    let at = |address: &str, insecure: bool| Location {
        address: address.to_owned(),
        strip: if address.is_empty() { String::new() } else { strip.to_owned() },
        insecure,
        ..Location::default()
    };
    for mirror in fields.table.get("mirror").and_then(Value::as_array).into_iter().flatten() {
        match mirror_of(mirror, digests) {
            Ok(((address, insecure), (digest_only, tag_only))) => {
                entry.mirrors.push(Location { digest_only, tag_only, ..at(&address, insecure) });
            }
            Err(problem) => fields.problems.push(problem),
        }
    }
    if location.contains("://") {
        fields.problems.push(format!("location {location:?} has a scheme"));
    } else if (!location.is_empty() && location != prefix) || insecure {
        // Of a wildcard without a location, each host stays where it is.
        let stays = location.is_empty() && prefix.starts_with('*');
        let address = if location.is_empty() { prefix } else { location };
        entry.location = Some(at(if stays { "" } else { address }, insecure));
    }
    entry.problems = fields.problems;
    Some(entry)
}

/// A prefix may name an image of a repository, which only its last component can do.
fn without_tag(prefix: &str) -> &str {
    let prefix = prefix.split('@').next().unwrap_or_default();
    let slash = prefix.rfind('/').unwrap_or(prefix.len());
    let tag = prefix.get(slash..).and_then(|last| last.find(':')).map(|at| slash + at);
    prefix.get(..tag.unwrap_or(prefix.len())).unwrap_or(prefix)
}

/// A mirror's address, whether it is insecure, and whether it serves digests or tags alone.
type Mirror = ((String, bool), (bool, bool));

fn mirror_of(value: &Value, digests: bool) -> Result<Mirror, String> {
    let table = value.as_table().ok_or("a mirror is no table")?;
    let mut fields = Fields::new(table, OF_MIRROR);
    let (address, insecure) = (fields.text("location").to_owned(), fields.flag("insecure"));
    let only = match fields.text("pull-from-mirror") {
        "" => (digests, false),
        "all" => (false, false),
        "digest-only" => (true, false),
        "tag-only" => (false, true),
        other => {
            return Err(format!("pull-from-mirror = {other:?} is not understood, so {address} is not asked"));
        }
    };
    if address.is_empty() {
        return Err("a mirror has no location".to_owned());
    }
    match fields.problems.first() {
        Some(problem) => Err(format!("mirror {address}: {problem}, so it is not asked")),
        None => Ok(((address, insecure), only)),
    }
}

/// Where an entry's location leads for one host: a port that the prefix does not contain stays.
pub(super) fn placed(location: &Location, prefix: &str, host: &str) -> Result<Location, RegistryError> {
    let mut placed = location.clone();
    if placed.address.is_empty() {
        host.clone_into(&mut placed.address);
        return Ok(placed);
    }
    let named = prefix.split('/').next().unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|_| !named.contains(':'));
    let Some(port) = port.filter(|_| !prefix.contains('/')) else { return Ok(placed) };
    if placed.address.contains('/') {
        let reason = format!("a location with a path has no place for the port of {host}");
        return Err(RegistryError::invalid("location", &placed.address, reason));
    }
    placed.address = format!("{}:{port}", placed.address);
    Ok(placed)
}
