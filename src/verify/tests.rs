//! A sound image, and all the ways to break it that have a message of their own.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write as _};

use serde_json::{Value, json};

use super::*;
use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::registry::{Content, RegistryError};
use crate::store::Store;

type Blobs = BTreeMap<Digest, Vec<u8>>;

/// Blobs under names that need not be true.
struct Memory(Blobs);

impl Memory {
    fn get(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.0.get(&blob.digest).cloned().ok_or_else(|| RegistryError::Source {
            what: format!("blob {}", blob.digest),
            place: self.place(),
            reason: "it is not there".into(),
        })
    }
}

impl Content for Memory {
    fn place(&self) -> String {
        "memory".into()
    }

    fn document(&self, descriptor: &Descriptor, _: &Cancel) -> Result<Vec<u8>, RegistryError> {
        let bytes = self.get(descriptor)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(RegistryError::Source {
                what: "document".into(),
                place: self.place(),
                reason: "its content does not match its digest".into(),
            });
        }
        Ok(bytes)
    }

    fn open(
        &self,
        blob: &Descriptor,
        _: u64,
        _: &Cancel,
    ) -> Result<Box<dyn Read + Send + '_>, RegistryError> {
        Ok(Box::new(Cursor::new(self.get(blob)?)))
    }

    fn fetch(&self, _: &Store, _: &Descriptor, _: &dyn Fn(u64), _: &Cancel) -> Result<(), RegistryError> {
        Ok(())
    }

    fn repositories(&self, _: &Digest, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn referrers(&self, _: &Digest, _: Option<&str>, _: &Cancel) -> Result<Vec<Descriptor>, RegistryError> {
        Ok(Vec::new())
    }
}

/// One tar entry, whatever it says.
fn entry(name: &str, flag: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.as_mut_bytes()[156] = flag;
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn dir(name: &str) -> Vec<u8> {
    entry(name, b'5', "", b"")
}

fn file(name: &str) -> Vec<u8> {
    entry(name, b'0', "", b"x")
}

fn white(name: &str) -> Vec<u8> {
    entry(name, b'0', "", b"")
}

fn attribute(name: &str, key: &str) -> Vec<u8> {
    let record = format!("{key}=y\n");
    let mut length = record.len() + 2;
    length += length.to_string().len() - 1;
    let body = format!("{length} {record}");
    [entry("pax", b'x', "", body.as_bytes()), file(name)].concat()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("in memory");
    encoder.finish().expect("in memory")
}

type Edit = fn(&mut Value);

/// What is done to the sound image before the digests above it are taken.
#[derive(Clone)]
enum Damage {
    None,
    /// Entries of the upper layer.
    Entries(Vec<Vec<u8>>),
    /// Bytes of the upper layer's tar.
    Tar(fn(&mut Vec<u8>)),
    /// The upper layer's blob, under its true digest.
    Blob(fn(&mut Vec<u8>)),
    Config(Edit),
    Manifest(Edit),
    Index(Edit),
    /// What the content finds under the digests of layer, config and manifest.
    Found(fn(&mut Blobs, [Digest; 3])),
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn lower() -> Vec<u8> {
    [dir("etc/"), file("etc/passwd"), entry("lib", b'2', "usr/lib", b""), vec![0; 1024]].concat()
}

fn upper() -> Vec<Vec<u8>> {
    vec![
        dir("./"),
        dir("etc/"),
        white("etc/.wh.passwd"),
        dir("opt/"),
        file("opt/a"),
        entry("opt/b", b'1', "opt/a", b""),
        attribute("opt/c", "SCHILY.xattr.user.note"),
    ]
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

fn report(damage: &Damage) -> Report {
    let mut tar = match damage {
        Damage::Entries(entries) => entries.concat(),
        _ => upper().concat(),
    };
    tar.extend_from_slice(&[0; 1024]);
    if let Damage::Tar(edit) = damage {
        edit(&mut tar);
    }
    let mut blob = gzip(&tar);
    if let Damage::Blob(edit) = damage {
        edit(&mut blob);
    }
    let mut config = json!({
        "created": "2024-01-02T03:04:05.6Z", "architecture": "amd64", "os": "linux",
        "config": {
            "Env": ["PATH=/bin"], "Cmd": ["sh"], "WorkingDir": "/", "Labels": {"a": "b"},
            "ExposedPorts": {"80/tcp": {}, "1000-1010/udp": {}}, "Volumes": {"/v": {}},
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5},
        },
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&lower()).to_string(), Digest::of(&tar).to_string()]},
        "history": [{"created_by": "a"}, {"created_by": "b", "empty_layer": true}, {"created_by": "c"}],
    });
    if let Damage::Config(edit) = damage {
        edit(&mut config);
    }
    let config = config.to_string().into_bytes();
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [
            descriptor("application/vnd.oci.image.layer.v1.tar", &lower()),
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &blob),
        ],
        "annotations": {"a": "b"},
    });
    if let Damage::Manifest(edit) = damage {
        edit(&mut manifest);
    }
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry],
    });
    if let Damage::Index(edit) = damage {
        edit(&mut index);
    }
    let index = index.to_string().into_bytes();
    let top = Descriptor::of("application/vnd.oci.image.index.v1+json", &index);
    let digests = [&blob, &config, &manifest].map(|bytes| Digest::of(bytes));
    let mut blobs: Blobs = [lower(), blob, config, manifest, index]
        .into_iter()
        .map(|bytes| (Digest::of(&bytes), bytes))
        .collect();
    if let Damage::Found(edit) = damage {
        edit(&mut blobs, digests);
    }
    validate(&Memory(blobs), &[top], &Cancel::new().expect("cancel"))
}

#[test]
fn a_sound_image_has_no_problems() {
    let report = report(&Damage::None);
    assert_eq!(report.problems, []);
    assert_eq!((report.documents, report.layers, report.entries), (3, 2, 10));
}

fn check_all(cases: &[(Damage, &str, &str)]) {
    for (at, (damage, place, message)) in cases.iter().enumerate() {
        let report = report(damage);
        let found = report
            .problems
            .iter()
            .any(|problem| problem.place.contains(place) && problem.message.contains(message));
        assert!(found, "case {at}: {place:?}: {message:?} is not in {:#?}", report.problems);
        // A mistake in one place must not be told as many.
        assert!(report.problems.len() <= 3, "case {at}: {:#?}", report.problems);
    }
}

#[test]
fn damaged_layers_are_told_by_entry() {
    use Damage::{Blob, Entries, Tar};
    let with = |more: Vec<Vec<u8>>| Entries(upper().into_iter().chain(more).collect());
    check_all(&[
        (with(vec![file("/abs")]), "/abs", "absolute name"),
        (with(vec![file("a/../b")]), "a/../b", "contains .."),
        (with(vec![file("")]), "layer 2", "has no name"),
        (with(vec![file("opt/a")]), "opt/a", "comes twice: as entry 5 and as entry 8"),
        (with(vec![dir("opt/")]), "opt", "comes twice"),
        (with(vec![file("new/x"), dir("new/")]), "new", "comes after new/x, which lies in it"),
        (with(vec![file("gone/x")]), "gone/x", "lies in gone, which no layer has"),
        (with(vec![file("opt/a/x")]), "opt/a/x", "which is no directory"),
        (with(vec![file("lib/x")]), "lib/x", "a symbolic link in a layer below"),
        (with(vec![file("lib/deep/er/x")]), "lib/deep/er/x", "lies in lib, which is a symbolic link"),
        (with(vec![file("etc/passwd/deep/x")]), "etc/passwd/deep/x", "etc/passwd, which is a file"),
        (with(vec![white("opt/.wh.")]), "opt/.wh.", "names nothing"),
        (with(vec![white(".wh..wh..opq")]), "opq", "makes the whole root opaque"),
        (with(vec![white("etc/.wh..wh.plnk")]), "plnk", "AUFS"),
        (with(vec![file(".wh.etc")]), ".wh.etc", "no empty regular file"),
        (with(vec![white(".wh.nothing")]), "nothing", "no layer below has"),
        (with(vec![white(".wh.lib"), file("lib")]), "lib", "both removed by a whiteout and made"),
        (with(vec![white("etc/.wh.passwd")]), "etc/.wh.passwd", "comes twice"),
        (with(vec![entry("h", b'1', "etc/passwd", b"")]), "h", "no earlier entry of this layer"),
        (with(vec![entry("h", b'1', "/opt/a", b"")]), "h", "the absolute name"),
        (with(vec![entry("h", b'1', "opt", b"")]), "h", "to a directory"),
        (with(vec![entry("h", b'1', "h", b"")]), "h", "to itself"),
        (with(vec![entry("l", b'2', "", b"")]), "l", "a symbolic link to nothing"),
        (with(vec![entry("n", b'3', "", b"")]), "n", "device 0:0"),
        (with(vec![entry("u", b'Z', "", b"")]), "u", "unknown type 'Z'"),
        (with(vec![entry("s", b'S', "", b"")]), "layer 2", "sparse"),
        (with(vec![attribute("x", "SCHILY.xattr.trusted.overlay.opaque")]), "x", "an overlay's own"),
        (with(vec![attribute("x", "size")]), "layer 2", "bad number"),
        (with(vec![entry("pax", b'x', "", b"99 a=b\n"), file("x")]), "layer 2", "malformed pax record"),
        (Tar(|tar| tar.truncate(tar.len() - 1024)), "layer 2", "has no end"),
        (Tar(|tar| tar.truncate(1600)), "layer 2", "middle of"),
        (Tar(|tar| tar.extend_from_slice(b"more")), "layer 2", "something follows the end"),
        (Tar(|tar| tar[600] ^= 1), "layer 2", "checksum"),
        (Blob(|blob| blob.truncate(blob.len() - 4)), "layer 2", "unexpected end"),
        (Blob(|blob| blob.extend_from_slice(b"more")), "layer 2", "unexpected end of file"),
        (
            Blob(|blob| *blob = zstd::encode_all(&gunzip(blob)[..], 1).expect("zstd")),
            "layers[1]",
            "is zstd, but",
        ),
    ]);
}

fn gunzip(blob: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(blob).read_to_end(&mut out).expect("gzip");
    out
}

#[test]
fn damaged_configs_are_told_by_field() {
    use Damage::Config;
    check_all(&[
        (Config(|c| c["os"] = json!("")), "os", "is empty"),
        (
            Config(|c| drop(c.as_object_mut().expect("object").remove("architecture"))),
            "config",
            "architecture is missing",
        ),
        (Config(|c| c["created"] = json!("yesterday")), "created", "no time of RFC 3339"),
        (Config(|c| c["created"] = json!("2024-01-02 03:04:05Z")), "created", "no time of RFC 3339"),
        (Config(|c| c["rootfs"]["type"] = json!("layer")), "rootfs: type", "not \"layers\""),
        (
            Config(|c| drop(c.as_object_mut().expect("object").remove("rootfs"))),
            "config",
            "rootfs is missing",
        ),
        (Config(|c| c["rootfs"]["diff_ids"][0] = json!("sha256:1")), "diff_ids[0]", "is no digest"),
        (
            Config(|c| drop(c["rootfs"]["diff_ids"].as_array_mut().expect("list").pop())),
            "diff_ids",
            "there are 1 diff IDs, but the manifest has 2 layers",
        ),
        (
            Config(|c| {
                let other = c["rootfs"]["diff_ids"][1].clone();
                c["rootfs"]["diff_ids"][0] = other;
            }),
            "layer 1",
            "the content has diff ID",
        ),
        (Config(|c| c["history"][1]["empty_layer"] = json!(false)), "history", "lists 3 layers"),
        (Config(|c| c["history"][0]["empty_layer"] = json!("no")), "history[0]", "not true or false"),
        (Config(|c| c["history"][0]["created"] = json!("x")), "history[0]", "RFC 3339"),
        (Config(|c| c["config"]["Env"][0] = json!("PATH")), "Env", "has no ="),
        (Config(|c| c["config"]["Env"] = json!(["A=1", "A=2"])), "Env", "A is set more than once"),
        (Config(|c| c["config"]["Env"] = json!(["=1"])), "Env", "has no name"),
        (Config(|c| c["config"]["Env"] = json!("A=1")), "Env", "is a text, not a list"),
        (Config(|c| c["config"]["Cmd"] = json!([1])), "Cmd[0]", "is a number, not a text"),
        (Config(|c| c["config"]["Cmd"] = json!(["a\0b"])), "Cmd", "NUL"),
        (Config(|c| c["config"]["WorkingDir"] = json!("a")), "WorkingDir", "not absolute"),
        (Config(|c| c["config"]["Labels"]["a"] = json!(1)), "Labels: \"a\"", "is a number, not a text"),
        (Config(|c| c["config"]["ExposedPorts"] = json!({"http": {}})), "ExposedPorts", "is not PORT"),
        (Config(|c| c["config"]["Volumes"] = json!({"/v": 1})), "Volumes", "not an empty object"),
        (Config(|c| c["config"]["Healthcheck"]["Test"] = json!(["curl"])), "Test", "begins with \"curl\""),
        (Config(|c| c["config"]["Healthcheck"]["Retries"] = json!(-1)), "Retries", "whole number"),
        (Config(|c| c["architecture"] = json!("arm64")), "config", "but the index lists it for linux/amd64"),
        (Config(|c| *c = json!([])), "config", "is a list, not an object"),
    ]);
}

#[test]
fn damaged_manifests_and_indexes_are_told_by_field() {
    use Damage::{Found, Index, Manifest};
    check_all(&[
        (Manifest(|m| m["schemaVersion"] = json!(1)), "schemaVersion", "is 1, not 2"),
        (Manifest(|m| m["mediaType"] = json!("a/b")), "mediaType", "but its descriptor says"),
        (Manifest(|m| m["manifests"] = json!([])), "manifest", "must not have manifests"),
        (Manifest(|m| m["annotations"]["n"] = json!(1)), "annotations: \"n\"", "is a number, not a text"),
        (Manifest(|m| m["layers"][0]["size"] = json!(7)), "layers[0]", "but its descriptor says 7"),
        (Manifest(|m| m["layers"][0]["size"] = json!(-7)), "layers[0]", "no number of bytes"),
        (Manifest(|m| m["layers"][0]["digest"] = json!("md5:1")), "layers[0]: digest", "is not sha256:"),
        (Manifest(|m| m["layers"][0]["mediaType"] = json!("layer")), "layers[0]", "is no media type"),
        (Manifest(|m| m["layers"][0]["mediaType"] = json!("a/b")), "layers[0]", "is no layer"),
        (Manifest(|m| m["layers"][0]["annotations"] = json!({"a": true})), "layers[0]", "not a text"),
        (Manifest(|m| m["layers"][0]["data"] = json!("AAAA")), "layers[0]: data", "is not the blob"),
        (Manifest(|m| m["layers"][0]["urls"] = json!(["x"])), "layers[0]: urls", "no absolute address"),
        (
            Manifest(|m| m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar")),
            "layers[0]",
            "does not belong into an OCI manifest",
        ),
        (
            Manifest(|m| {
                let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar";
                m["layers"][0]["mediaType"] = json!(foreign);
            }),
            "layers[0]",
            "non-distributable",
        ),
        (Manifest(|m| m["config"] = json!(null)), "manifest", "config is missing"),
        (Manifest(|m| m["layers"] = json!({})), "layers", "is an object, not a list"),
        (Manifest(|m| m["config"]["mediaType"] = json!("application/x.chart")), "config", "no image config"),
        (
            Manifest(|m| m["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json")),
            "config",
            "does not belong into an OCI manifest",
        ),
        (
            Index(|i| drop(i["manifests"][0].as_object_mut().expect("object").remove("platform"))),
            "manifests[0]",
            "platform is missing",
        ),
        (Index(|i| i["manifests"][0]["platform"]["os"] = json!("")), "platform: os", "is empty"),
        (
            Index(|i| {
                let same = i["manifests"][0].clone();
                i["manifests"].as_array_mut().expect("list").push(same);
            }),
            "manifests[1]",
            "is the same as",
        ),
        (Index(|i| i["layers"] = json!([])), "index", "must not have layers"),
        (
            Index(|i| drop(i.as_object_mut().expect("object").remove("manifests"))),
            "index",
            "manifests is missing",
        ),
        (Index(|i| i["manifests"][0]["size"] = json!(1)), "manifest", "but its descriptor says 1"),
        (Index(|i| i["manifests"][0]["mediaType"] = json!("a/b")), "manifests[0]", "neither a manifest nor"),
        (Found(|blobs, [layer, ..]| drop(blobs.remove(&layer))), "layers[1]", "is not there"),
        (Found(|blobs, [_, config, _]| drop(blobs.insert(config, b"{}".to_vec()))), "config", "has digest"),
        (
            Found(|blobs, [.., manifest]| drop(blobs.insert(manifest, b"{}".to_vec()))),
            "manifest",
            "does not match",
        ),
    ]);
}

#[test]
fn several_images_for_one_platform_cannot_be_told_apart() {
    let twice = |index: &mut Value| {
        let mut other = index["manifests"][0].clone();
        other["digest"] = json!(Digest::of(b"other").to_string());
        index["manifests"].as_array_mut().expect("list").push(other);
    };
    let report = report(&Damage::Index(twice));
    assert!(report.problems.iter().any(|problem| problem.message.contains("is for linux/amd64, as")));
}
