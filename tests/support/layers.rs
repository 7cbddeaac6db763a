//! Base images with hand-made layers.

use std::fs;
use std::path::Path;

use rbuild::digest::Digest;
use serde_json::{Value, json};

use crate::support::base;

/// A tar of rows as they are, however wrong: name, type (`0` file, `1` hard link, `2` link, `3` device,
/// `5` directory, `6` fifo), and content or target.
pub fn tar_of(rows: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, text) in rows {
        let mut header = tar::Header::new_ustar();
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        raw[156] = *kind;
        if matches!(kind, b'1' | b'2') {
            raw[157..157 + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_mode(if *kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        let content = if *kind == b'0' { text.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// A layout of busybox with more layers.
pub fn on_busybox(dir: &Path, layers: &[Vec<u8>], edit: impl Fn(&mut Value)) {
    let from = base("busybox").expect("busybox");
    let blob = |digest: &Value| {
        let digest = digest.as_str().expect("digest").replace(':', "/");
        fs::read(from.join("blobs").join(digest)).expect("blob")
    };
    let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let index = parse(&fs::read(from.join("index.json")).expect("index"));
    let mut manifest = parse(&blob(&index["manifests"][0]["digest"]));
    let mut config = parse(&blob(&manifest["config"]["digest"]));
    fs::create_dir_all(dir.join("blobs/sha256")).expect("layout");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).expect("blob");
        (json!(digest.to_string()), json!(bytes.len()))
    };
    for layer in manifest["layers"].as_array().expect("layers") {
        put(&blob(&layer["digest"]));
    }
    for layer in layers {
        let (digest, size) = put(layer);
        config["rootfs"]["diff_ids"].as_array_mut().expect("ids").push(digest.clone());
        let media = "application/vnd.oci.image.layer.v1.tar";
        let descriptor = json!({"mediaType": media, "digest": digest, "size": size});
        manifest["layers"].as_array_mut().expect("layers").push(descriptor);
    }
    config.as_object_mut().expect("config").remove("history");
    edit(&mut config);
    let (digest, size) = put(config.to_string().as_bytes());
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest, size);
    let (digest, size) = put(manifest.to_string().as_bytes());
    let media = "application/vnd.oci.image.manifest.v1+json";
    let index =
        json!({"schemaVersion": 2, "manifests": [{"mediaType": media, "digest": digest, "size": size}]});
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("layout");
    fs::write(dir.join("index.json"), index.to_string()).expect("index");
}
