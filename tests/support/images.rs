//! Images made in memory, of many platforms: each has one layer with the file `/made`, which names it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rbuild::digest::Digest;
use serde_json::{Value, json};

use crate::memory::MemoryRegistry;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Blobs and manifests by digest.
#[derive(Default)]
pub struct Images {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, (&'static str, Vec<u8>)>,
}

/// `os`, `architecture` and `variant` of `linux/arm/v6`.
pub fn platform(text: &str) -> Value {
    let mut parts = text.split('/').filter(|part| !part.is_empty());
    let mut out = serde_json::Map::new();
    for key in ["os", "architecture", "variant"] {
        if let Some(part) = parts.next() {
            out.insert(key.to_owned(), part.into());
        }
    }
    out.into()
}

/// The reverse.
pub fn shown(platform: &Value) -> String {
    let parts = ["os", "architecture", "variant", "os.version"].map(|key| platform[key].as_str());
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}

/// An index entry with a platform.
pub fn at(mut entry: Value, text: &str) -> Value {
    entry["platform"] = platform(text);
    entry
}

impl Images {
    fn blob(&mut self, bytes: Vec<u8>) -> (String, usize) {
        let (digest, size) = (Digest::of(&bytes).to_string(), bytes.len());
        self.blobs.insert(digest.clone(), bytes);
        (digest, size)
    }

    fn document(&mut self, media_type: &'static str, value: &Value) -> Value {
        let bytes = value.to_string().into_bytes();
        let (digest, size) = (Digest::of(&bytes).to_string(), bytes.len());
        self.manifests.insert(digest.clone(), (media_type, bytes));
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// An image whose config has these fields and whose `/made` has this content.
    pub fn image(&mut self, config: Value, made: &str) -> Value {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(made.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "made", made.as_bytes()).expect("tar");
        let (layer, layer_size) = self.blob(tar.into_inner().expect("tar"));
        let mut config = config;
        config["rootfs"] = json!({"type": "layers", "diff_ids": [layer]});
        config["config"] = json!({});
        let (config, config_size) = self.blob(config.to_string().into_bytes());
        self.document(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size
                },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size
                }],
            }),
        )
    }

    /// An image that says it is for `text`, and an entry that does.
    pub fn honest(&mut self, text: &str) -> Value {
        at(self.image(platform(text), text), text)
    }

    /// An index of these entries.
    pub fn index(&mut self, entries: &[Value]) -> Value {
        self.document(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    }

    /// Writes a layout that holds `top` alone.
    pub fn layout(&self, dir: &Path, top: &Value) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("layout");
        let manifests = self.manifests.iter().map(|(digest, (_, bytes))| (digest, bytes));
        for (digest, bytes) in self.blobs.iter().chain(manifests) {
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("blob");
        }
        let index = json!({"schemaVersion": 2, "manifests": [top]});
        fs::write(dir.join("index.json"), index.to_string()).expect("index");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("marker");
    }

    /// Puts everything into a repository of a registry; gives a name for `top`.
    pub fn serve(&self, registry: &MemoryRegistry, repository: &str, top: &Value) -> String {
        for bytes in self.blobs.values() {
            registry.plant_blob(bytes);
        }
        for (media_type, bytes) in self.manifests.values() {
            registry.plant(repository, media_type, bytes);
        }
        format!("{}/{repository}@{}", registry.host(), top["digest"].as_str().unwrap_or_default())
    }
}
