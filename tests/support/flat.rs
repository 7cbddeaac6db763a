//! Reads an OCI layout by itself (no code of rbuild) and says what an image adds to its base, in the form
//! of `testdata/conformance/*/expect.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// What is wrong with an image, as text for people.
pub type Wrong = String;

fn wrong(error: impl std::fmt::Display) -> Wrong {
    error.to_string()
}

/// An OCI layout directory: its config and its layers, from the lowest.
pub struct Layout {
    dir: PathBuf,
    pub config: Value,
    layers: Vec<Value>,
}

impl Layout {
    pub fn read(dir: &Path) -> Result<Self, Wrong> {
        let index: Value =
            serde_json::from_slice(&fs::read(dir.join("index.json")).map_err(wrong)?).map_err(wrong)?;
        let mut layout = Layout { dir: dir.to_owned(), config: Value::Null, layers: Vec::new() };
        let manifest = layout.json(&index["manifests"][0])?;
        layout.config = layout.json(&manifest["config"])?;
        layout.layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let ids = layout.diff_ids().len();
        if ids != layout.layers.len() {
            return Err(format!("{ids} diff_ids, but {} layers", layout.layers.len()));
        }
        Ok(layout)
    }

    pub fn diff_ids(&self) -> Vec<String> {
        let ids = self.config.pointer("/rootfs/diff_ids").and_then(Value::as_array);
        ids.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    pub fn history(&self) -> Vec<Value> {
        let entries = self.config["history"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .map(|entry| {
                json!([
                    entry["created_by"].as_str().unwrap_or_default(),
                    entry["empty_layer"].as_bool().unwrap_or(false)
                ])
            })
            .collect()
    }

    fn blob(&self, descriptor: &Value) -> Result<Vec<u8>, Wrong> {
        let digest = descriptor["digest"].as_str().ok_or("a descriptor without digest")?;
        let bytes = fs::read(self.dir.join("blobs").join(digest.replace(':', "/"))).map_err(wrong)?;
        if sha256(&bytes) != digest {
            return Err(format!("blob {digest} has digest {}", sha256(&bytes)));
        }
        if descriptor["size"].as_u64() != Some(bytes.len() as u64) {
            return Err(format!("blob {digest} has {} bytes", bytes.len()));
        }
        Ok(bytes)
    }

    fn json(&self, descriptor: &Value) -> Result<Value, Wrong> {
        serde_json::from_slice(&self.blob(descriptor)?).map_err(wrong)
    }

    /// The tar of a layer.
    pub fn layer(&self, number: usize) -> Result<Vec<u8>, Wrong> {
        let mut bytes = self.blob(&self.layers[number])?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(wrong)?;
            bytes = plain;
        }
        let id = &self.diff_ids()[number];
        if sha256(&bytes) == *id { Ok(bytes) } else { Err(format!("layer {number} is not {id}")) }
    }
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The files of an image. Names of one file have one number.
#[derive(Clone, Default)]
pub struct Tree {
    names: BTreeMap<String, usize>,
    files: Vec<Map<String, Value>>,
}

impl Tree {
    /// Applies the layers of `layout` from number `first` on.
    pub fn apply(&mut self, layout: &Layout, first: usize) -> Result<(), Wrong> {
        for number in first..layout.layers.len() {
            self.layer(&layout.layer(number)?).map_err(|error| format!("layer {number}: {error}"))?;
        }
        Ok(())
    }

    fn layer(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let mut new = Vec::new();
        let mut archive = tar::Archive::new(bytes);
        for entry in archive.entries().map_err(wrong)? {
            let mut entry = entry.map_err(wrong)?;
            let path = clean(&entry.path_bytes())?;
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if path.is_empty() {
            } else if name == ".wh..wh..opq" {
                self.forget(parent, |old| !new.iter().any(|new| new == old));
            } else if let Some(hidden) = name.strip_prefix(".wh.") {
                let hidden = if parent.is_empty() { hidden.to_owned() } else { format!("{parent}/{hidden}") };
                self.forget(&hidden, |_| true);
                self.names.remove(&hidden);
            } else {
                let file = self.file(&mut entry)?;
                let replaces = self.names.get(&path).is_some_and(|old| !self.is_directory(*old));
                if replaces || !self.is_directory(file) {
                    self.forget(&path, |_| true);
                }
                self.names.insert(path.clone(), file);
                new.push(path);
            }
        }
        Ok(())
    }

    fn is_directory(&self, file: usize) -> bool {
        self.files[file]["type"] == "dir"
    }

    fn forget(&mut self, path: &str, which: impl Fn(&str) -> bool) {
        let below = if path.is_empty() { String::new() } else { format!("{path}/") };
        self.names.retain(|name, _| !(name.starts_with(&below) && which(name)));
    }

    fn file(&mut self, entry: &mut tar::Entry<'_, &[u8]>) -> Result<usize, Wrong> {
        if entry.header().entry_type() == tar::EntryType::Link {
            let target = clean(&entry.link_name_bytes().ok_or("a hard link without target")?)?;
            return self.names.get(&target).copied().ok_or(format!("a hard link to the missing {target:?}"));
        }
        let facts = facts(entry)?;
        self.files.push(facts);
        Ok(self.files.len() - 1)
    }

    /// Every path with its facts; second and later names of a file say which is the first.
    pub fn listing(&self) -> BTreeMap<&str, Map<String, Value>> {
        let mut first: BTreeMap<usize, &str> = BTreeMap::new();
        let entries = self.names.iter().map(|(name, file)| {
            let mut facts = self.files[*file].clone();
            let owner = *first.entry(*file).or_insert(name);
            if owner != name {
                facts.insert("link".into(), owner.into());
            }
            (name.as_str(), facts)
        });
        entries.collect()
    }
}

fn facts(entry: &mut tar::Entry<'_, &[u8]>) -> Result<Map<String, Value>, Wrong> {
    let header = entry.header();
    let (uid, gid) = (header.uid().map_err(wrong)?, header.gid().map_err(wrong)?);
    let mode = format!("{:04o}", header.mode().map_err(wrong)? & 0o7777);
    let (kind, mtime) = (header.entry_type(), header.mtime().map_err(wrong)?);
    let name = match kind {
        tar::EntryType::Directory => "dir",
        tar::EntryType::Symlink => "symlink",
        tar::EntryType::Regular | tar::EntryType::Continuous => "file",
        tar::EntryType::Fifo => "fifo",
        tar::EntryType::Char => "char",
        tar::EntryType::Block => "block",
        other => return Err(format!("an entry of type {other:?}")),
    };
    let mut facts = Map::new();
    facts.insert("type".into(), name.into());
    facts.insert("mode".into(), mode.into());
    facts.insert("uid".into(), uid.into());
    facts.insert("gid".into(), gid.into());
    facts.insert("mtime".into(), mtime.into());
    if let "char" | "block" = name {
        let numbers = (header.device_major().map_err(wrong)?, header.device_minor().map_err(wrong)?);
        facts.insert("device".into(), json!([numbers.0.unwrap_or(0), numbers.1.unwrap_or(0)]));
    }
    if name == "symlink" {
        facts.remove("mode");
        let target = entry.link_name_bytes().unwrap_or_default();
        facts.insert("target".into(), String::from_utf8_lossy(&target).into());
    }
    let (xattrs, precise) = extensions(entry)?;
    if let Some(seconds) = precise {
        facts.insert("mtime".into(), seconds.into());
    }
    if !xattrs.is_empty() {
        facts.insert("xattrs".into(), xattrs.into());
    }
    if name == "file" {
        let mut body = Vec::new();
        entry.read_to_end(&mut body).map_err(wrong)?;
        facts.insert("size".into(), body.len().into());
        facts.insert("sha256".into(), sha256(&body).trim_start_matches("sha256:").into());
        if body.len() <= 400 {
            facts.insert("text".into(), String::from_utf8_lossy(&body).into());
        }
    }
    Ok(facts)
}

/// What a pax header adds: extended attributes (values in hexadecimal) and the time of change.
fn extensions(entry: &mut tar::Entry<'_, &[u8]>) -> Result<(Map<String, Value>, Option<i64>), Wrong> {
    let (mut found, mut mtime) = (Map::new(), None);
    for extension in entry.pax_extensions().map_err(wrong)?.into_iter().flatten() {
        let extension = extension.map_err(wrong)?;
        if extension.key() == Ok("mtime") {
            let text = extension.value().map_err(wrong)?;
            mtime = text.parse::<f64>().ok().map(|seconds| seconds.floor() as i64);
        } else if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
            let hex: String = extension.value_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            found.insert(name.into(), hex.into());
        }
    }
    found.sort_keys();
    Ok((found, mtime))
}

/// A path without leading, doubled and trailing slashes.
fn clean(path: &[u8]) -> Result<String, Wrong> {
    let path = String::from_utf8_lossy(path);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.starts_with('/') || parts.contains(&"..") {
        return Err(format!("the unsafe name {path:?}"));
    }
    Ok(parts.join("/"))
}

/// A base image: what an image made from it has from it.
#[derive(Default)]
pub struct Base {
    diff_ids: Vec<String>,
    history: usize,
    tree: Tree,
}

impl Base {
    pub fn read(dir: &Path) -> Result<Self, Wrong> {
        let layout = Layout::read(dir)?;
        let mut tree = Tree::default();
        tree.apply(&layout, 0)?;
        Ok(Base { diff_ids: layout.diff_ids(), history: layout.history().len(), tree })
    }

    /// Digests of the contents of files that have so many bytes or more, each with one of its paths.
    pub fn contents(&self, least: u64) -> BTreeMap<String, String> {
        let listing = self.tree.listing();
        let large =
            listing.iter().filter(|(_, facts)| facts.get("size").and_then(Value::as_u64) >= Some(least));
        large
            .filter_map(|(path, facts)| Some((facts.get("sha256")?.as_str()?.to_owned(), (*path).to_owned())))
            .collect()
    }
}

/// What the image in `dir` adds to `base`, in the form of `expect.json`.
pub fn describe(dir: &Path, base: &Base) -> Result<Value, Wrong> {
    let layout = Layout::read(dir)?;
    if !layout.diff_ids().starts_with(&base.diff_ids) {
        return Err("the layers of the base are not the lowest layers".into());
    }
    let mut tree = base.tree.clone();
    tree.apply(&layout, base.diff_ids.len())?;
    let (before, after) = (base.tree.listing(), tree.listing());
    let same = |a: &Map<String, Value>, b: &Map<String, Value>| {
        let keys = a.keys().chain(b.keys()).filter(|key| *key != "mtime");
        keys.into_iter().all(|key| a.get(key) == b.get(key))
    };
    let changed: Map<String, Value> = after
        .iter()
        .filter(|(path, facts)| !before.get(*path).is_some_and(|old| same(old, facts)))
        .map(|(path, facts)| ((*path).to_owned(), Value::Object(facts.clone())))
        .collect();
    let removed: Vec<&str> = before
        .keys()
        .filter(|path| !after.contains_key(*path))
        .filter(|path| path.rsplit_once('/').is_none_or(|(parent, _)| after.contains_key(parent)))
        .copied()
        .collect();
    let history: Vec<Value> = layout.history().into_iter().skip(base.history).collect();
    let mut found = json!({
        "layers": layout.layers.len() - base.diff_ids.len(),
        "history": history,
        "config": config(&layout.config["config"]),
        "removed": removed,
        "tree": changed,
    });
    if let Some(author) = layout.config["author"].as_str().filter(|author| !author.is_empty()) {
        found["author"] = author.into();
    }
    Ok(found)
}

/// The fields that say something; absent, null and empty ones mean the same.
fn config(config: &Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
    };
    let fields = config.as_object().cloned().unwrap_or_default();
    Value::Object(fields.into_iter().filter(|(_, value)| !empty(value)).collect())
}
