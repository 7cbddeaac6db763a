//! What refers to images: listed, and copied along, between registries with and without the referrers
//! API, and layouts.

#[path = "support/memory.rs"]
mod memory;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use memory::MemoryRegistry;
use rbuild::digest::Digest;
use registry::TestRegistry;
use serde_json::{Value, json};
use support::{Done, Lab, has, skip};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.example.signature";

fn start(test: &str) -> Option<TestRegistry> {
    if !has("skopeo") {
        skip(test, "skopeo is not installed");
        return None;
    }
    let registry = TestRegistry::start().expect("a registry that starts");
    if registry.is_none() {
        skip(test, "docker-registry is not installed");
    }
    registry
}

fn ok(done: Done) -> String {
    assert_eq!(done.code, 0, "{}", done.err);
    done.out
}

/// An image of one file in the store.
fn image(lab: &Lab, name: &str) -> String {
    let context =
        lab.context(&[("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n"), ("f", "x")]);
    ok(lab.run(["build", "-q", "--platform=linux/amd64", "-t", name, &context.display().to_string()]));
    let line = ok(lab.run(["copy", "-q", &format!("store:{name}"), &at("oci-archive", lab, "unused.tar")]));
    line.trim().to_owned()
}

fn at(kind: &str, lab: &Lab, name: &str) -> String {
    format!("{kind}:{}", lab.out(name).display())
}

/// Writes a layout with one artifact that refers to `subject` (digest and size), made by hand; its digest.
fn artifact(dir: &Path, kind: &str, content: &str, subject: Option<(&str, usize)>) -> (String, usize) {
    artifact_with(dir, kind, "text/x-anything", content, subject)
}

/// The same with a blob of another type.
fn artifact_with(
    dir: &Path,
    kind: &str,
    blob_type: &str,
    content: &str,
    subject: Option<(&str, usize)>,
) -> (String, usize) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("mkdir");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("blob");
        (digest.to_string(), bytes.len())
    };
    let (config, layer) = (put(b"{}"), put(content.as_bytes()));
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": {"mediaType": EMPTY, "digest": config.0, "size": config.1},
        "layers": [{"mediaType": blob_type, "digest": layer.0, "size": layer.1}],
        "annotations": {"org.example.content": content},
    });
    if let Some((digest, size)) = subject {
        manifest["subject"] = json!({"mediaType": MANIFEST, "digest": digest, "size": size});
    }
    let made = put(manifest.to_string().as_bytes());
    let entry = json!({"mediaType": MANIFEST, "digest": made.0, "size": made.1});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(dir.join("index.json"), index.to_string()).expect("index");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
    made
}

/// Makes an artifact and puts it into a repository, by rbuild.
fn attach(lab: &Lab, repository: &str, kind: &str, content: &str, subject: (&str, usize)) -> (String, usize) {
    let dir = lab.out(&format!("artifact-{content}"));
    let made = artifact(&dir, kind, content, Some(subject));
    let place = format!("oci:{}", dir.display());
    let copied = ok(lab.run(["copy", "-q", &place, &format!("docker://{repository}:{content}")]));
    assert_eq!(copied.trim(), made.0);
    made
}

fn referrers(lab: &Lab, place: &str, more: &[&str]) -> Vec<Value> {
    let text = ok(lab.run([&["referrers", "-q", "--format=json", place], more].concat()));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    value["referrers"].as_array().expect("a list").clone()
}

fn digests(entries: &[Value]) -> Vec<&str> {
    let mut all: Vec<&str> = entries.iter().filter_map(|entry| entry["digest"].as_str()).collect();
    all.sort_unstable();
    all
}

fn sorted<const N: usize>(mut all: [&str; N]) -> [&str; N] {
    all.sort_unstable();
    all
}

fn skopeo_raw(name: &str) -> Value {
    let output = Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .expect("skopeo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// An image with an SBOM, a signature of it, and a signature of the SBOM, in `repository:1`.
struct Signed {
    image: String,
    sbom: String,
    signature: String,
    of_sbom: String,
}

fn signed(lab: &Lab, repository: &str) -> Signed {
    let image = image(lab, "app:1");
    ok(lab.run(["copy", "-q", "store:app:1", &format!("docker://{repository}:1")]));
    let sbom = attach(lab, repository, SBOM, "sbom", (&image, 1));
    let signature = attach(lab, repository, SIGNATURE, "signature", (&image, 1));
    let of_sbom = attach(lab, repository, SIGNATURE, "of-sbom", (&sbom.0, sbom.1));
    Signed { image, sbom: sbom.0, signature: signature.0, of_sbom: of_sbom.0 }
}

#[test]
fn referrers_are_listed_and_copied_where_the_api_is_missing() {
    let test = "referrers_are_listed_and_copied_where_the_api_is_missing";
    let Some(server) = start(test) else { return };
    let Some(second) = start(test) else { return };
    let (lab, host, far) = (Lab::new(), server.host().to_owned(), second.host().to_owned());
    let repository = format!("{host}/team/app");
    let made = signed(&lab, &repository);

    // What other clients read: the index under the tag.
    let tag = made.image.replace(':', "-");
    let index = skopeo_raw(&format!("{repository}:{tag}"));
    let entries = index["manifests"].as_array().expect("a list");
    assert_eq!(digests(entries), sorted([&made.sbom, &made.signature]));
    let sbom = entries.iter().find(|entry| entry["digest"] == made.sbom.as_str()).expect("the SBOM");
    assert_eq!((&sbom["mediaType"], &sbom["artifactType"]), (&json!(MANIFEST), &json!(SBOM)));
    assert_eq!(sbom["annotations"]["org.example.content"], "sbom");

    let name = format!("{repository}:1");
    assert_eq!(digests(&referrers(&lab, &name, &[])), sorted([&made.sbom, &made.signature]));
    let filtered = referrers(&lab, &name, &["--artifact-type", SBOM]);
    assert_eq!(digests(&filtered), [made.sbom.as_str()]);
    assert_eq!(filtered[0]["name"], format!("docker://{repository}@{}", made.sbom));
    assert_eq!(filtered[0]["size"], sbom["size"]);
    let table = ok(lab.run(["referrers", "-q", &name]));
    let line = table.lines().find(|line| line.contains(&made.sbom)).expect("a line");
    for part in [&repository, SBOM, "org.example.content=sbom"] {
        assert!(line.contains(part), "{part}: {table}");
    }
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(referrers(&lab, filtered[0]["name"].as_str().expect("name"), &[]).len() == 1);

    // To another registry without the API, and from there through a layout and an archive back.
    let copy = |from: &str, to: &str| {
        let done = lab.run(["copy", "--referrers", from, to]);
        assert!(done.err.contains("3 referrers copied"), "{}", done.err);
        assert_eq!(ok(done).trim(), made.image);
    };
    copy(&format!("docker://{name}"), &format!("docker://{far}/a/b:1"));
    copy(&format!("docker://{far}/a/b:1"), &format!("{}:1", at("oci", &lab, "layout")));
    copy(&at("oci", &lab, "layout"), &at("oci-archive", &lab, "all.tar"));
    copy(&at("oci-archive", &lab, "all.tar"), &format!("docker://{far}/back:1"));
    for repository in ["a/b", "back"] {
        let name = format!("{far}/{repository}:1");
        assert_eq!(digests(&referrers(&lab, &name, &[])), sorted([&made.sbom, &made.signature]));
        let of_sbom = format!("{far}/{repository}@{}", made.sbom);
        assert_eq!(digests(&referrers(&lab, &of_sbom, &[])), [made.of_sbom.as_str()]);
    }
    // Again: the lists stay as they are.
    copy(&format!("docker://{name}"), &format!("docker://{far}/a/b:1"));
    assert_eq!(referrers(&lab, &format!("{far}/a/b:1"), &[]).len(), 2);
    assert_eq!(referrers(&lab, &at("oci", &lab, "layout"), &[]).len(), 2);
}

#[test]
fn layouts_hold_referrers_as_other_tools_do() {
    let test = "layouts_hold_referrers_as_other_tools_do";
    let Some(server) = start(test) else { return };
    let lab = Lab::new();
    let repository = format!("{}/app", server.host());
    let made = signed(&lab, &repository);
    let layout = lab.out("layout");
    let source = format!("docker://{repository}:1");
    ok(lab.run(["copy", "-q", "--referrers", &source, &format!("oci:{}:1", layout.display())]));
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("index")).expect("JSON");
    let entries = index["manifests"].as_array().expect("a list");
    assert_eq!(digests(entries), sorted([&made.image, &made.sbom, &made.signature, &made.of_sbom]));
    for entry in entries {
        let tag = &entry["annotations"]["org.opencontainers.image.ref.name"];
        let is_image = entry["digest"] == made.image.as_str();
        assert_eq!((tag == "1", entry["artifactType"].is_string()), (is_image, !is_image), "{entry}");
    }
    // skopeo finds the image by its tag, umoci too.
    let inspected = Command::new("skopeo")
        .args(["inspect", &format!("oci:{}:1", layout.display())])
        .output()
        .expect("skopeo");
    assert!(inspected.status.success(), "{}", String::from_utf8_lossy(&inspected.stderr));
    assert!(String::from_utf8_lossy(&inspected.stdout).contains(&made.image));
    ok(lab.run(["validate", &format!("oci-layout:{}", layout.display())]));

    // Another image beside them; its own referrers are none.
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /other\n"), ("f", "x")]);
    ok(lab.run(["build", "-q", "-t", "other:1", &context.display().to_string()]));
    ok(lab.run(["copy", "-q", "store:other:1", &format!("oci:{}:2", layout.display())]));
    assert!(referrers(&lab, &format!("oci:{}:2", layout.display()), &[]).is_empty());
    assert_eq!(referrers(&lab, &format!("oci:{}:1", layout.display()), &[]).len(), 2);
}

#[test]
fn the_api_is_used_where_there_is_one() {
    let test = "the_api_is_used_where_there_is_one";
    let Some(server) = start(test) else { return };
    let (lab, modern) = (Lab::new(), MemoryRegistry::start());
    let repository = format!("{}/app", modern.host());
    let made = signed(&lab, &repository);
    // The registry keeps the lists: no tag was made.
    assert!(modern.references("app").iter().all(|reference| !reference.starts_with("sha256-")));
    let name = format!("{repository}:1");
    assert_eq!(digests(&referrers(&lab, &name, &[])), sorted([&made.sbom, &made.signature]));
    assert_eq!(digests(&referrers(&lab, &name, &["--artifact-type", SBOM])), [made.sbom.as_str()]);
    let old = format!("{}/app:1", server.host());
    ok(lab.run(["copy", "-q", "--referrers", &format!("docker://{name}"), &format!("docker://{old}")]));
    assert_eq!(digests(&referrers(&lab, &old, &[])), sorted([&made.sbom, &made.signature]));
    // And from tags to the API: the image by its digest, what refers to it, and the image's tag last.
    let new = MemoryRegistry::start();
    let target = format!("docker://{}/x:1", new.host());
    ok(lab.run(["copy", "-q", "--referrers", &format!("docker://{old}"), &target]));
    assert_eq!(digests(&referrers(&lab, &target, &[])), sorted([&made.sbom, &made.signature]));
    let puts: Vec<_> =
        new.log().into_iter().filter(|line| line.starts_with("PUT /v2/x/manifests/")).collect();
    assert_eq!(puts.len(), 5, "{puts:?}");
    assert_eq!(puts[0], format!("PUT /v2/x/manifests/{}", made.image), "{puts:?}");
    assert_eq!(puts.last().map(String::as_str), Some("PUT /v2/x/manifests/1"));
}

#[test]
fn indexes_bring_the_referrers_of_all_they_hold() {
    let test = "indexes_bring_the_referrers_of_all_they_hold";
    let Some(server) = start(test) else { return };
    let Some(second) = start(test) else { return };
    let lab = Lab::new();
    let (repository, far) = (format!("{}/multi", server.host()), format!("{}/multi", second.host()));
    let context =
        lab.context(&[("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n"), ("f", "x")]);
    let name = format!("{repository}:1");
    let built = lab.run([
        "build",
        "-q",
        "--platform=linux/amd64,linux/arm64",
        "-t",
        &name,
        "--push",
        &context.display().to_string(),
    ]);
    ok(built);
    let index = skopeo_raw(&name);
    let of = |at: usize| index["manifests"][at]["digest"].as_str().expect("digest").to_owned();
    let whole = ok(lab.run([
        "copy",
        "-q",
        "--all",
        &format!("docker://{name}"),
        &format!("{}:x", at("oci", &lab, "i")),
    ]));
    let on_index = attach(&lab, &repository, SIGNATURE, "index", (whole.trim(), 1));
    let on_arm = attach(&lab, &repository, SIGNATURE, "arm", (&of(1), 1));

    let target = format!("docker://{far}:one");
    let one = ["copy", "--referrers", "--platform=linux/arm64", &format!("docker://{name}"), &target]
        .map(str::to_owned);
    let done = lab.run(&one);
    assert!(done.err.contains("1 referrer copied"), "{}", done.err);
    assert_eq!(digests(&referrers(&lab, &target, &[])), [on_arm.0.as_str()]);
    let all = format!("docker://{far}:all");
    let done = lab.run(["copy", "--referrers", "--all", &format!("docker://{name}"), &all]);
    assert!(done.err.contains("2 referrers copied"), "{}", done.err);
    assert_eq!(digests(&referrers(&lab, &all, &[])), [on_index.0.as_str()]);
    assert_eq!(digests(&referrers(&lab, &all, &["--platform=linux/arm64"])), [on_arm.0.as_str()]);
    assert!(referrers(&lab, &all, &["--platform=linux/amd64"]).is_empty());
}

#[test]
fn artifacts_are_copied_like_images_and_refused_where_only_images_can_be() {
    let test = "artifacts_are_copied_like_images_and_refused_where_only_images_can_be";
    let Some(server) = start(test) else { return };
    let lab = Lab::new();
    let dir = lab.out("artifact");
    let (made, _) = artifact(&dir, "application/vnd.example", "free", None);
    let source = format!("oci:{}", dir.display());
    let remote = format!("docker://{}/artifact:1", server.host());
    let places = [remote.as_str(), "store:artifact:1"].map(str::to_owned);
    let places =
        places.into_iter().chain([at("oci", &lab, "to") + ":1", at("oci-archive", &lab, "to.tar") + ":a:1"]);
    let mut from = source.clone();
    for place in places {
        assert_eq!(ok(lab.run(["copy", "-q", &from, &place])).trim(), made, "{from} {place}");
        from = place;
    }
    assert_eq!(
        skopeo_raw(&format!("{}/artifact:1", server.host()))["artifactType"],
        "application/vnd.example"
    );
    // The store keeps it through a collection, and does not take it for a broken image.
    ok(lab.run(["prune", "-a", "--force"]));
    let images = lab.run(["images"]);
    assert!(!images.err.contains("artifact") && !images.out.contains("artifact"), "{images:?}");
    ok(lab.run(["tag", "artifact:1", "artifact:2"]));
    ok(lab.run(["rmi", "artifact:2"]));
    ok(lab.run(["fsck"]));
    assert_eq!(ok(lab.run(["copy", "-q", "store:artifact:1", &at("oci", &lab, "again")])).trim(), made);
    let name = format!("{}/pushed:1", server.host());
    ok(lab.run(["copy", "-q", "store:artifact:1", &format!("store:{name}")]));
    assert!(ok(lab.run(["push", &name])).contains(&made));

    for target in [
        at("docker-archive", &lab, "no.tar") + ":a:1",
        "docker-daemon:a:1".into(),
        "containers-storage:a:1".into(),
    ] {
        let refused = lab.run(["copy", &source, &target]);
        let transport = target.split(':').next().unwrap_or_default();
        assert_eq!(refused.code, 8, "{target}: {}", refused.err);
        assert!(refused.err.contains(&format!("{transport}: holds images only")), "{}", refused.err);
        assert!(
            refused.err.contains(EMPTY) || refused.err.contains("application/vnd.example"),
            "{}",
            refused.err
        );
        let refused = lab.run(["copy", "--referrers", &source, &target]);
        assert_eq!(refused.code, 8, "{target}: {}", refused.err);
        assert!(refused.err.contains(&format!("{transport}: holds no referrers")), "{}", refused.err);
        let refused = lab.run(["referrers", &target]);
        assert_eq!(refused.code, 8, "{target}: {}", refused.err);
    }
    let refused = lab.run(["copy", "--referrers", &source, "store:x:1"]);
    assert_eq!(refused.code, 8, "{}", refused.err);
    assert!(refused.err.contains("cannot be copied to store:"), "{}", refused.err);
}

#[test]
fn lists_that_are_wrong_are_told_and_passed_over() {
    let test = "lists_that_are_wrong_are_told_and_passed_over";
    let Some(server) = start(test) else { return };
    let lab = Lab::new();
    let repository = format!("{}/app", server.host());
    let made = signed(&lab, &repository);
    let tag = made.image.replace(':', "-");
    let mut index = skopeo_raw(&format!("{repository}:{tag}"));
    let entries = index["manifests"].as_array_mut().expect("a list");
    // What would be a circle, if digests allowed one: the image as its own referrer. And the SBOM's
    // signature as one of the image.
    let image = skopeo_raw(&format!("{repository}:1")).to_string().len();
    entries.push(json!({"mediaType": MANIFEST, "digest": made.image, "size": image}));
    entries.push(json!({"mediaType": MANIFEST, "digest": made.of_sbom, "size": 1}));
    let kind = "application/vnd.oci.image.index.v1+json";
    server.push_manifest("app", &tag, kind, index.to_string().as_bytes()).expect("the list");
    // Deleted by somebody who left the list alone.
    let deleted = Command::new("skopeo")
        .args(["delete", "--tls-verify=false", &format!("docker://{repository}@{}", made.signature)])
        .output()
        .expect("skopeo");
    assert!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    let modern = MemoryRegistry::start();
    let target = format!("docker://{}/app:1", modern.host());
    let done = lab.run(["copy", "--referrers", &format!("docker://{repository}:1"), &target]);
    assert!(done.err.contains("2 referrers copied"), "{}", done.err);
    for (digest, why) in [(&made.signature, "does not have it"), (&made.of_sbom, "refers to something else")]
    {
        let told = done.err.lines().any(|line| line.contains(digest.as_str()) && line.contains(why));
        assert!(told, "{digest} {why}: {}", done.err);
    }
    assert_eq!(digests(&referrers(&lab, &target, &[])), [made.sbom.as_str()]);
    // A list with something deleted in it can still grow.
    let more = attach(&lab, &repository, SIGNATURE, "more", (&made.image, 1));
    assert!(digests(&referrers(&lab, &format!("{repository}:1"), &[])).contains(&more.0.as_str()));
}

#[test]
fn the_store_gives_what_has_a_name_and_push_keeps_lists_too() {
    let test = "the_store_gives_what_has_a_name_and_push_keeps_lists_too";
    let Some(server) = start(test) else { return };
    let (lab, host) = (Lab::new(), server.host().to_owned());
    let repository = format!("{host}/app");
    let made = signed(&lab, &repository);
    let pushed = format!("{host}/pushed:sbom");
    ok(lab.run(["copy", "-q", &format!("docker://{repository}@{}", made.sbom), &format!("store:{pushed}")]));
    ok(lab.run(["push", &pushed]));
    let list = skopeo_raw(&format!("{host}/pushed:{}", made.image.replace(':', "-")));
    assert_eq!(digests(list["manifests"].as_array().expect("a list")), [made.sbom.as_str()]);
    assert_eq!(digests(&referrers(&lab, "store:app:1", &[])), [made.sbom.as_str()]);
    let done = lab.run(["copy", "--referrers", "store:app:1", &format!("docker://{host}/whole:1")]);
    assert!(done.err.contains("1 referrer copied"), "{}", done.err);
    assert_eq!(digests(&referrers(&lab, &format!("{host}/whole:1"), &[])), [made.sbom.as_str()]);
}

#[test]
fn a_chain_without_end_is_refused() {
    let test = "a_chain_without_end_is_refused";
    if start(test).is_none() {
        return;
    }
    let (lab, modern, target) = (Lab::new(), MemoryRegistry::start(), MemoryRegistry::start());
    let repository = format!("{}/app", modern.host());
    let image = image(&lab, "app:1");
    ok(lab.run(["copy", "-q", "store:app:1", &format!("docker://{repository}:1")]));
    let (from, to) = (format!("docker://{repository}:1"), format!("docker://{}/app:1", target.host()));
    let mut last = (image, 1);
    for level in 1..=8 {
        last = attach(&lab, &repository, SIGNATURE, &format!("level-{level}"), (&last.0, last.1));
    }
    let done = lab.run(["copy", "--referrers", &from, &to]);
    assert!(done.err.contains("8 referrers copied"), "{}", done.err);
    attach(&lab, &repository, SIGNATURE, "level-9", (&last.0, last.1));
    let refused = lab.run(["copy", "--referrers", &from, &to]);
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert!(refused.err.contains("more than 8 times over"), "{}", refused.err);
}

#[test]
fn pushers_at_the_same_time_lose_nothing() {
    let test = "pushers_at_the_same_time_lose_nothing";
    let Some(server) = start(test) else { return };
    let lab = Lab::new();
    let repository = format!("{}/app", server.host());
    let image = image(&lab, "app:1");
    ok(lab.run(["copy", "-q", "store:app:1", &format!("docker://{repository}:1")]));
    // The registry cannot take the same blob from several at once: this brings the one they share.
    let mut made = vec![attach(&lab, &repository, SIGNATURE, "first", (&image, 1)).0];
    let mut running = Vec::new();
    for number in 0..4 {
        let dir = lab.out(&format!("a{number}"));
        made.push(artifact(&dir, SIGNATURE, &number.to_string(), Some((&image, 1))).0);
        let place = format!("oci:{}", dir.display());
        let mut command = lab.rbuild();
        command.args(["copy", "-q", &place, &format!("docker://{repository}:a{number}")]);
        running.push(command.stdout(Stdio::null()).spawn().expect("rbuild"));
    }
    for mut child in running {
        assert!(child.wait().expect("ends").success());
    }
    let list = referrers(&lab, &format!("{repository}:1"), &[]);
    made.sort();
    assert_eq!(digests(&list), made);
}

#[test]
fn lists_that_lie_neither_drive_the_terminal_nor_keep_anybody_busy() {
    let (lab, liar) = (Lab::new(), MemoryRegistry::start());
    let repository = format!("{}/app", liar.host());
    let image = image(&lab, "app:1");
    let name = format!("docker://{repository}:1");
    ok(lab.run(["copy", "-q", "store:app:1", &name]));
    let entry = |digest: &str| json!({"mediaType": MANIFEST, "digest": digest, "size": 1});
    let mut odd = entry(&image);
    odd["artifactType"] = json!(format!("a/\u{1b}[2J\u{202e}{}", "x".repeat(70_000)));
    odd["annotations"] = json!({"k\u{9b}": "two\nlines"});
    liar.lie(&image, &[odd]);
    let table = ok(lab.run(["referrers", &name]));
    assert_eq!((table.lines().count(), table.contains("a/\\u{1b}[2J\\u{202e}xx")), (2, true), "{table}");
    assert!(
        table.contains("x…") && table.ends_with("  k\\u{9b}=two lines\n") && table.len() < 2000,
        "{table}"
    );
    assert!(!table.contains(|c: char| c.is_control() && c != '\n'));

    // A manifest that is none, and one that cannot be shown as it calls itself.
    let (broken, kind) = (liar.plant("app", MANIFEST, b"no manifest"), "x/\u{1b}[31m");
    let made = attach(&lab, &repository, kind, "real", (&image, 1));
    liar.lie(&image, &[entry(&broken), entry(&made.0)]);
    let done = lab.run(["copy", "--referrers", &name, &at("oci", &lab, "copy")]);
    assert!(done.err.contains("1 referrer copied"), "{}", done.err);
    let quiet = lab.run(["copy", "-q", "--referrers", &name, &at("oci", &lab, "copy")]);
    assert_eq!(quiet.out.trim(), image);
    for err in [&done.err, &quiet.err] {
        assert!(err.lines().any(|line| line.contains(&broken) && line.contains("left out")), "{err}");
    }
    let refused = lab.run(["copy", &format!("docker://{repository}@{}", made.0), "docker-daemon:a:1"]);
    assert!(refused.err.contains("is x/\\u{1b}[31m"), "{}", refused.err);

    // Nothing of a list that is too long is asked for.
    let missing: Vec<Value> =
        (0..1001).map(|at: u32| entry(&Digest::of(&at.to_be_bytes()).to_string())).collect();
    liar.lie(&image, &missing);
    let before = liar.log().len();
    let refused = lab.run(["copy", "--referrers", &name, &at("oci", &lab, "none")]);
    assert_eq!(refused.code, 5, "{}", refused.err);
    assert!(refused.err.contains("there are more than 1000"), "{}", refused.err);
    assert!(liar.log().len() < before + 10);
}

#[test]
fn artifacts_whose_types_sound_like_foreign_layers_arrive_whole() {
    let (lab, registry) = (Lab::new(), MemoryRegistry::start());
    for (number, blob_type) in [
        "application/vnd.example.foreign.data",
        "application/vnd.example.nondistributable.v1",
        "text/x-anything",
    ]
    .iter()
    .enumerate()
    {
        let content = format!("content of {number}");
        artifact_with(&lab.out(&format!("a{number}")), "a/b", blob_type, &content, None);
        let name = format!("docker://{}/team/artifact:{number}", registry.host());
        let from = at("oci", &lab, &format!("a{number}"));
        ok(lab.run(["copy", "--insecure-registry", registry.host(), &from, &name]));
        let back = at("oci", &lab, &format!("back{number}"));
        ok(lab.run(["copy", "--insecure-registry", registry.host(), &name, &back]));
        let blob = lab.out(&format!("back{number}/blobs/sha256/{}", Digest::of(content.as_bytes()).hex()));
        assert_eq!(fs::read_to_string(blob).ok().as_deref(), Some(content.as_str()), "{blob_type}");
    }
}
