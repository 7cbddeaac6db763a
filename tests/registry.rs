//! Bases from a real registry on loopback.

#[path = "support/registry.rs"]
mod registry;
mod support;

use std::process::Command;

use registry::TestRegistry;
use support::{Lab, base, has, skip};

/// A registry holding the busybox base as `base/busybox:1`, alone and inside an index.
fn with_base(test: &str) -> Option<TestRegistry> {
    let Some(layout) = base("busybox") else {
        skip(test, "tests/setup has not made the base images");
        return None;
    };
    if !has("skopeo") {
        skip(test, "skopeo is not installed");
        return None;
    }
    let Some(registry) = TestRegistry::start().expect("a registry that starts") else {
        skip(test, "docker-registry is not installed");
        return None;
    };
    let source = format!("oci:{}:latest", layout.display());
    let target = format!("docker://{}/base/busybox:1", registry.host());
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &source, &target])
        .status()
        .expect("skopeo");
    assert!(copied.success());
    Some(registry)
}

#[test]
fn a_base_is_pulled_once_and_then_only_asked_about() {
    let test = "a_base_is_pulled_once_and_then_only_asked_about";
    let Some(registry) = with_base(test) else { return };
    let lab = Lab::new();
    let host = registry.host().to_owned();
    let dockerfile = format!("FROM {host}/base/busybox:1\nRUN echo pulled > /p\n");
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let context = context.display().to_string();
    let first = lab.run(["build", "--progress=plain", &context]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.err.contains("fetched"), "{}", first.err);
    let second = lab.run(["build", "--progress=plain", &context]);
    assert_eq!(second.code, 0, "{}", second.err);
    assert!(!second.err.contains("fetched") && second.err.contains("CACHED"), "{}", second.err);
    drop(registry);
    // The registry is gone: what is here goes on serving, unless a fresh look was asked for.
    let offline = lab.run(["build", "--progress=plain", &context]);
    assert_eq!(offline.code, 0, "{}", offline.err);
    assert!(offline.err.contains("using the copy of"), "{}", offline.err);
    let never = lab.run(["build", "--progress=plain", "--pull=never", &context]);
    assert_eq!(never.code, 0, "{}", never.err);
    assert!(!never.err.contains("using the copy of"), "{}", never.err);
    let always = lab.run(["build", "--progress=plain", "--pull", &context]);
    assert_eq!(always.code, 5, "{}", always.err);
    assert!(always.err.contains("refused") && always.err.contains("Dockerfile:1"), "{}", always.err);
}

#[test]
fn images_are_copied_from_by_name_and_missing_ones_are_named() {
    let test = "images_are_copied_from_by_name_and_missing_ones_are_named";
    let Some(registry) = with_base(test) else { return };
    let lab = Lab::new();
    let host = registry.host().to_owned();
    let dockerfile = format!("FROM scratch\nCOPY --from={host}/base/busybox:1 /bin/busybox /bb\n");
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let image = lab.build_image(&context, &[]);
    assert!(image.exists("/bb") && !image.exists("/bin"));
    for (name, words) in [("base/busybox:nope", ["busybox:nope", "404"]), ("no/such:1", ["no/such:1", "404"])]
    {
        let context = lab.context(&[("Dockerfile", &format!("FROM {host}/{name}\n"))]);
        let ended = lab.run(["build", &context.display().to_string()]);
        assert_eq!(ended.code, 5, "{}", ended.err);
        assert!(words.iter().any(|word| ended.err.contains(word)), "{}", ended.err);
    }
}

#[test]
fn what_arrives_damaged_is_refused_and_not_kept() {
    let test = "what_arrives_damaged_is_refused_and_not_kept";
    let Some(registry) = with_base(test) else { return };
    let lab = Lab::new();
    let host = registry.host().to_owned();
    let manifest = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{host}/base/busybox:1")])
        .output()
        .expect("skopeo")
        .stdout;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let digest = manifest["layers"][0]["digest"].as_str().expect("digest").to_owned();
    let parsed = rbuild::digest::Digest::parse(&digest).expect("digest");
    let file = registry.blob_file(&parsed);
    let mut bytes = std::fs::read(&file).expect("blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, &bytes).expect("write");
    let context = lab.context(&[("Dockerfile", &format!("FROM {host}/base/busybox:1\nRUN true\n"))]);
    let context = context.display().to_string();
    let ended = lab.run(["build", "-t", "x", &context]);
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(ended.err.contains("digest"), "{}", ended.err);
    assert!(!lab.store().join("blobs/sha256").join(parsed.hex()).exists());
    bytes[middle] ^= 0xff;
    std::fs::write(&file, &bytes).expect("write");
    let mended = lab.run(["build", "-t", "x", &context]);
    assert_eq!(mended.code, 0, "{}", mended.err);
}

#[test]
fn layers_larger_than_the_disk_are_not_begun() {
    let test = "layers_larger_than_the_disk_are_not_begun";
    let Some(registry) = with_base(test) else { return };
    let (lab, host) = (Lab::new(), registry.host().to_owned());
    let blob = |bytes: &[u8]| registry.push_blob("huge", bytes).expect("a blob");
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{}}}]}}"#,
        blob(config),
        config.len(),
        blob(b"layer"),
        1u64 << 60
    );
    let kind = "application/vnd.oci.image.manifest.v1+json";
    registry.push_manifest("huge", "1", kind, manifest.as_bytes()).expect("a manifest");
    let context = lab.context(&[("Dockerfile", &format!("FROM {host}/huge:1\nRUN true\n"))]);
    let platform = "--platform=linux/amd64";
    for args in [
        vec!["build".to_owned(), platform.into(), context.display().to_string()],
        vec!["pull".to_owned(), platform.into(), format!("{host}/huge:1")],
    ] {
        let ended = lab.run(&args);
        assert_eq!(ended.code, 7, "{args:?}: {}", ended.err);
        assert!(ended.err.contains("no space left") && ended.err.contains("--root"), "{}", ended.err);
    }
}
