//! Images that other tools made, made here by hand: what is read, and what is refused by name.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rbuild::digest::Digest;
use serde_json::{Value, json};
use support::{Lab, base, is_root, skip};

const OCI: &str = "application/vnd.oci.image";
const DOCKER: &str = "application/vnd.docker";

/// A layer's tar, how it is stored, and its media type.
struct Layer {
    tar: Vec<u8>,
    blob: Vec<u8>,
    media_type: String,
}

fn entry(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_mtime(7);
    header.set_size(content.len() as u64);
    if link.is_empty() {
        tar.append_data(&mut header, name, content).expect("entry");
    } else {
        tar.append_link(&mut header, name, link).expect("link");
    }
}

fn files(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        if name.ends_with('/') {
            entry(&mut tar, name, tar::EntryType::Directory, "", b"");
        } else if let Some(target) = content.strip_prefix("-> ") {
            entry(&mut tar, name, tar::EntryType::Link, target, b"");
        } else {
            entry(&mut tar, name, tar::EntryType::Regular, "", content.as_bytes());
        }
    }
    tar.into_inner().expect("tar")
}

fn plain(tar: Vec<u8>) -> Layer {
    Layer { blob: tar.clone(), tar, media_type: format!("{OCI}.layer.v1.tar") }
}

fn gzip(tar: Vec<u8>, media_type: &str) -> Layer {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar).expect("gzip");
    Layer { blob: encoder.finish().expect("gzip"), tar, media_type: media_type.to_owned() }
}

fn zstd(tar: Vec<u8>) -> Layer {
    let blob = zstd::encode_all(&tar[..], 1).expect("zstd");
    Layer { blob, tar, media_type: format!("{OCI}.layer.v1.tar+zstd") }
}

/// A layout of one image; `edit` changes its manifest.
fn layout(
    dir: &Path,
    family: &str,
    platform: (&str, &str),
    layers: &[Layer],
    edit: fn(&mut Value),
) -> PathBuf {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("layout");
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("blob");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    let types = match family {
        DOCKER => {
            [format!("{DOCKER}.container.image.v1+json"), format!("{DOCKER}.distribution.manifest.v2+json")]
        }
        _ => [format!("{OCI}.config.v1+json"), format!("{OCI}.manifest.v1+json")],
    };
    let ids: Vec<String> = layers.iter().map(|layer| Digest::of(&layer.tar).to_string()).collect();
    let config = json!({
        "os": platform.0, "architecture": platform.1, "rootfs": {"type": "layers", "diff_ids": ids},
        "config": {"Env": ["PATH=/bin"]},
    });
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": types[1], "config": put(&types[0], config.to_string().as_bytes()),
        "layers": layers.iter().map(|layer| put(&layer.media_type, &layer.blob)).collect::<Vec<_>>(),
    });
    edit(&mut manifest);
    let top = put(&types[1], manifest.to_string().as_bytes());
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("layout");
    fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [top]}).to_string())
        .expect("index");
    dir.to_owned()
}

fn host() -> (&'static str, &'static str) {
    ("linux", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })
}

/// Builds on a layout and gives the files of the result.
fn build(lab: &Lab, base: &Path, dockerfile: &str) -> (support::Done, PathBuf) {
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let out = lab.out(&format!("files-{}", fs::read_dir(lab.out("")).expect("out").count()));
    let from = format!("base=oci-layout://{}", base.display());
    let output = format!("type=local,dest={}", out.display());
    let done = lab.run([
        "build".as_ref(),
        "--progress=plain".as_ref(),
        "--build-context".as_ref(),
        from.as_ref(),
        "-o".as_ref(),
        output.as_ref(),
        context.as_os_str(),
    ]);
    (done, out)
}

#[test]
fn layers_of_every_form_are_read() {
    let lab = Lab::new();
    let empty = vec![0; 1024];
    let gz = format!("{OCI}.layer.v1.tar+gzip");
    let docker = format!("{DOCKER}.image.rootfs.diff.tar.gzip");
    let first = || files(&[("d/", ""), ("d/a", "one")]);
    let second = || files(&[("d/", ""), ("d/b", "two"), ("d/c", "-> d/b")]);
    let cases: [(&str, &str, Vec<Layer>); 5] = [
        ("plain", OCI, vec![plain(first()), plain(second())]),
        ("gzip", OCI, vec![gzip(first(), &gz), gzip(second(), &gz)]),
        ("zstd", OCI, vec![zstd(first()), zstd(second())]),
        ("docker", DOCKER, vec![gzip(first(), &docker), gzip(second(), &docker)]),
        ("empty", OCI, vec![plain(empty.clone()), plain(first()), gzip(empty, &gz), plain(second())]),
    ];
    for (name, family, layers) in cases {
        let base = layout(&lab.path().join(name), family, host(), &layers, |_| {});
        let (done, out) = build(&lab, &base, "FROM base\nCOPY --from=base /d /e\n");
        assert_eq!(done.code, 0, "{name}: {}", done.err);
        for path in ["d/a", "e/a"] {
            assert_eq!(fs::read_to_string(out.join(path)).expect(path), "one", "{name}");
        }
        for path in ["d/b", "d/c", "e/c"] {
            assert_eq!(fs::read_to_string(out.join(path)).expect(path), "two", "{name}");
        }
        let place = format!("oci-layout:{}", base.display());
        let done = lab.run(["validate", &place]);
        assert_eq!(done.code, 0, "{name}: {}{}", done.out, done.err);
        let archive = lab.out(&format!("{name}.tar"));
        let done = lab.run(["copy", &place, &format!("docker-archive:{}:x:1", archive.display())]);
        assert_eq!(done.code, 0, "{name}: {}", done.err);
        let done = lab.run(["load", "-q", "-i", &archive.display().to_string()]);
        assert_eq!((done.code, done.out.as_str()), (0, "x:1\n"), "{name}: {}", done.err);
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let lab = Lab::new();
    let foreign: fn(&mut Value) = |manifest| {
        manifest["layers"][0]["mediaType"] =
            json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        manifest["layers"][0]["urls"] = json!(["https://layers.example.test/1"]);
    };
    let schema1: fn(&mut Value) = |manifest| manifest["schemaVersion"] = json!(1);
    let chart: fn(&mut Value) = |manifest| manifest["config"]["mediaType"] = json!("application/vnd.x.chart");
    for (name, edit, words) in [
        ("foreign", foreign, vec!["non-distributable", "https://layers.example.test/1"]),
        ("schema1", schema1, vec!["schema 1"]),
        ("chart", chart, vec!["application/vnd.x.chart"]),
    ] {
        let base = layout(&lab.path().join(name), OCI, host(), &[plain(files(&[("a", "x")]))], edit);
        let (done, _) = build(&lab, &base, "FROM base\nCOPY --from=base /a /b\n");
        assert_eq!(done.code, 5, "{name}: {}", done.err);
        assert!(words.iter().all(|word| done.err.contains(word)), "{name}: {}", done.err);
        if name == "chart" {
            // It is no base, but may be moved.
            continue;
        }
        let place = format!("oci-layout:{}", base.display());
        for args in [vec!["copy", &place, "store:x"], vec!["load", "-i", base.to_str().expect("path")]] {
            let done = lab.run(&args);
            assert_ne!(done.code, 0, "{name} {args:?}");
            assert!(words.iter().all(|word| done.err.contains(word)), "{name} {args:?}: {}", done.err);
        }
    }
}

#[test]
fn other_platforms_are_told_and_cannot_run() {
    let lab = Lab::new();
    for (platform, words) in
        [(("linux", "s390x"), "InvalidBaseImagePlatform"), (("windows", "amd64"), "InvalidBaseImagePlatform")]
    {
        let dir = lab.path().join(platform.1).join(platform.0);
        let base = layout(&dir, OCI, platform, &[plain(files(&[("a", "x")]))], |_| {});
        let (done, out) = build(&lab, &base, "FROM base\nCOPY --from=base /a /b\n");
        assert_eq!(done.code, 0, "{platform:?}: {}", done.err);
        assert!(done.err.contains(words), "{platform:?}: {}", done.err);
        assert_eq!(fs::read_to_string(out.join("b")).expect("b"), "x");
        if platform.0 == "windows" {
            let (done, _) = build(&lab, &base, "FROM base\nRUN echo\n");
            assert_ne!(done.code, 0);
            assert!(done.err.contains("windows cannot be executed on Linux"), "{}", done.err);
        }
    }
}

#[test]
fn hard_links_to_layers_below_are_followed() {
    let test = "hard_links_to_layers_below_are_followed";
    let Some(busybox) = base("busybox") else {
        return skip(test, "tests/setup has not made the base images");
    };
    let lab = Lab::new();
    let lower = plain(files(&[("d/", ""), ("d/a", "deep")]));
    let upper = plain(files(&[("l", "-> d/a"), ("m", "-> l")]));
    let base = layout(&lab.path().join("links"), OCI, host(), &[lower, upper], |_| {});
    let (done, out) = build(&lab, &base, "FROM base\nCOPY --from=base /l /m /e/\n");
    assert_eq!(done.code, 0, "{}", done.err);
    for path in ["d/a", "l", "m", "e/l", "e/m"] {
        assert_eq!(fs::read_to_string(out.join(path)).expect(path), "deep", "{path}");
    }
    let context = lab.context(&[(
        "Dockerfile",
        "FROM base AS b\nFROM busybox\nRUN --mount=type=bind,from=b,target=/b cat /b/l /b/m /b/d/a > /got\n",
    )]);
    let out = lab.out("run");
    let done = lab.run([
        "build",
        "--build-context",
        &format!("base=oci-layout://{}", base.display()),
        "--build-context",
        &format!("busybox=oci-layout://{}", busybox.display()),
        "-o",
        &out.display().to_string(),
        &context.display().to_string(),
    ]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(fs::read_to_string(out.join("got")).expect("got"), "deepdeepdeep");

    let nowhere = plain(files(&[("l", "-> gone")]));
    let base = layout(&lab.path().join("nowhere"), OCI, host(), &[nowhere], |_| {});
    let (done, _) = build(&lab, &base, "FROM base\nCOPY --from=base /l /e\n");
    assert_ne!(done.code, 0);
}

#[test]
fn a_run_stands_on_130_layers() {
    let test = "a_run_stands_on_130_layers";
    let Some(busybox) = base("busybox") else {
        return skip(test, "tests/setup has not made the base images");
    };
    if !is_root() {
        return skip(test, "measured as root");
    }
    let lab = Lab::new();
    let mut lines = String::from("FROM busybox\n");
    for number in 0..129 {
        lines.push_str(&format!("COPY <<E /f{number}\n{number}\nE\n"));
    }
    lines.push_str("RUN cat /f0 /f64 /f128 > /sum && rm /f1\n");
    let context = lab.context(&[("Dockerfile", &lines)]);
    let archive = lab.out("many.tar");
    let done = lab.run([
        "build",
        "--build-context",
        &format!("busybox=oci-layout://{}", busybox.display()),
        "-t",
        "many",
        "-o",
        &format!("type=oci,dest={}", archive.display()),
        &context.display().to_string(),
    ]);
    assert_eq!(done.code, 0, "{}", done.err);
    let done = lab.run(["run", "many", "cat", "/sum"]);
    assert_eq!((done.code, done.out.as_str()), (0, "0\n64\n128\n"), "{}", done.err);
    let done = lab.run(["validate", &format!("oci-archive:{}", archive.display())]);
    assert_eq!(done.code, 0, "{}", done.out);
}
