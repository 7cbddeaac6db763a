//! What comes out: pushed images, archives, layouts, and files with the digest.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::scene::Scene;
use super::support::{self, done, has, skip, tool};

const DOCKERFILE: &str = "FROM BASE\nRUN echo made > /made\n";

#[test]
fn the_image_goes_wherever_it_is_asked_for_and_has_one_digest() {
    let Some(scene) = Scene::new("the_image_goes_wherever_it_is_asked_for_and_has_one_digest") else {
        return;
    };
    let context = scene.context(&[("Dockerfile", DOCKERFILE)]);
    let (one, two) = (scene.name("team/app:1"), scene.name("other/app:2"));
    let path = |name: &str| scene.lab.out(name).display().to_string();
    let ended = scene.executor_with(
        [
            format!("--context={context}"),
            format!("--destination={one}"),
            format!("-d={two}"),
            format!("--digest-file={}", path("made/by/kaniko/digest")),
            format!("--image-name-with-digest-file={}", path("names")),
            format!("--image-name-tag-with-digest-file={}", path("tags")),
            format!("--tar-path={}", path("a,b.tar")),
            format!("--oci-layout-path={}", path("layout")),
            "--label=a=b".to_owned(),
            "--push-retry=3".to_owned(),
            "--skip-push-permission-check".to_owned(),
        ],
        |command| {
            command.env("BUILDER_OUTPUT", scene.lab.out("builder"));
        },
    );
    assert_eq!(ended.code, 0, "{}", ended.err);
    let read = |name: &str| fs::read_to_string(scene.lab.out(name)).unwrap_or_default();
    let digest = read("made/by/kaniko/digest");
    for name in [&one, &two] {
        let pushed = scene.inspect(name);
        assert_eq!(pushed["Digest"], Value::from(digest.as_str()), "{name}");
        assert_eq!(pushed["Labels"]["a"], "b");
        // Alone, without attestations, as Kaniko pushes it.
        let raw = ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")];
        let raw: Value = serde_json::from_str(&tool("skopeo", &raw.map(AsRef::as_ref)).out).expect("JSON");
        assert_eq!(raw["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    }
    let (repository, other) = (scene.name("team/app"), scene.name("other/app"));
    assert_eq!(read("names"), format!("{repository}@{digest}\n{other}@{digest}\n"));
    assert_eq!(read("tags"), format!("{one}@{digest}\n{two}@{digest}\n"));
    let first = read("builder/images");
    let first: Value = serde_json::from_str(first.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(
        (&first["name"], &first["digest"]),
        (&Value::from(one.as_str()), &Value::from(digest.as_str()))
    );
    let index: Value = serde_json::from_str(&read("layout/index.json")).expect("JSON");
    assert_eq!(index["manifests"][0]["digest"], Value::from(digest.as_str()));
    let archive = format!("docker-archive:{}:{one}", path("a,b.tar").replace(',', "\\,"));
    let copy = scene.lab.out("copy.tar");
    fs::copy(scene.lab.out("a,b.tar"), &copy).expect("a copy");
    let archive = archive.replace(&path("a,b.tar").replace(',', "\\,"), &copy.display().to_string());
    let config: Value =
        serde_json::from_str(&tool("skopeo", &["inspect", "--config", &archive].map(AsRef::as_ref)).out)
            .expect("JSON");
    assert_eq!(config["config"]["Labels"]["a"], "b");
}

#[test]
fn one_layer_is_pushed_where_the_base_was_never_unpacked() {
    let Some(scene) = Scene::new("one_layer_is_pushed_where_the_base_was_never_unpacked") else { return };
    let context =
        scene.context(&[("Dockerfile", "FROM BASE\nCOPY Dockerfile /a\nCOPY Dockerfile /b\nWORKDIR /w\n")]);
    let layers = |name: &str, more: &[&str]| {
        let name = scene.name(name);
        let ended = scene.executor([&["-c", &context, "-d", &name], more].concat());
        assert_eq!(ended.code, 0, "{}", ended.err);
        scene.inspect(&name)["Layers"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(layers("one/app:1", &["--single-snapshot"]), 2);
    assert_eq!(layers("all/app:1", &["--single-snapshot=false"]), 4);
}

#[test]
fn nothing_is_pushed_unless_it_is_asked_for() {
    let Some(scene) = Scene::new("nothing_is_pushed_unless_it_is_asked_for") else { return };
    let context = scene.context(&[("Dockerfile", DOCKERFILE)]);
    let name = scene.name("never/app:1");
    let digest = scene.lab.out("digest");
    let flags =
        ["--context", &context, "--destination", &name, "--digest-file", &digest.display().to_string()];
    let ended = scene.executor_with(flags, |command| {
        command.env("KANIKO_NO_PUSH", "true");
    });
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(!scene.registry.log().contains("never/app"));
    assert!(fs::read_to_string(&digest).expect("the digest").starts_with("sha256:"));
    for (flags, code, word) in [
        (&["--context", &context][..], 2, "there is no --destination"),
        (&["--no-push", "--image-name-with-digest-file", "x"], 2, "needs --destination"),
        (&["--no-push", "-c", &context, "--digest-file=https://host.test/x"], 8, "not supported yet"),
        (&["--no-push", "-c", &context, "--verbosity=loud"], 2, "--verbosity=loud"),
        (&["--no-push", "-c", &context, "--log-format=xml"], 2, "--log-format=xml"),
        (&["--no-push", "-c", &context, "--push-retry=-1"], 2, "--push-retry=-1"),
        (&["--no-push", "-c", &context, "--registry-map=x"], 2, "REGISTRY=MIRROR"),
        (&["--no-push", "-c", &context, "--registry-certificate=a=/none"], 2, "/none"),
        (&["--no-push", "-c", &context, "--registry-client-cert=a=/none"], 2, "behind a comma"),
        (&["--no-push", "-c", &context, "--cache", "--cache-ttl=soon"], 2, "--cache-ttl"),
        (&["--no-push", "-c", &context, "--destination=Up:1"], 2, "--destination Up:1"),
        (&["--no-push", "-c", "/none"], 4, "/none"),
    ] {
        let ended = scene.executor(flags);
        assert_eq!(ended.code, code, "{flags:?}: {}", ended.err);
        assert!(ended.err.contains(word), "{flags:?}: {}", ended.err);
    }
    let help = scene.executor(["--help"]);
    assert!(help.code == 0 && help.out.contains("--context-sub-path VALUE"), "{}", help.out);
    assert!(scene.executor(["version"]).out.contains("rbuild"));
    // The same by the command's name, with rbuild's own flags before it.
    let root = scene.lab.path().join("another-store").display().to_string();
    let ended = scene.lab.run(["--root", &root, "kaniko", "--no-push", "-c", &context, "-d", "app:1"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(scene.lab.run(["--root", &root, "images"]).out.contains("app"));
}

#[test]
fn files_that_cannot_be_replaced_are_written_in_place() {
    let test = "files_that_cannot_be_replaced_are_written_in_place";
    if !support::is_root() || !has("unshare") {
        return skip(test, "only root mounts over a file");
    }
    let Some(scene) = Scene::new(test) else { return };
    let context = scene.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    // As Kubernetes mounts /dev/termination-log; longer than a digest, to see that nothing stays.
    let (log, kept) = (scene.lab.path().join("termination-log"), scene.lab.path().join("kept"));
    for path in [&log, &kept] {
        fs::write(path, "x".repeat(200)).expect("write");
    }
    let script = format!(
        "mount --bind {kept} {log} && exec \"$0\" kaniko --no-push -c {context} --digest-file {log}",
        kept = kept.display(),
        log = log.display()
    );
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-c", &script, support::RBUILD]);
    outer.env("RBUILD_ROOT", scene.lab.store()).env("HOME", scene.lab.path());
    let ended = done(outer.output().expect("unshare"));
    assert_eq!(ended.code, 0, "{}", ended.err);
    let digest = fs::read_to_string(&kept).expect("the file");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
}
