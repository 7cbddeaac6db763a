//! Attestations: what they say, how they are attached, and that every reader copes with them.

#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use proxy::{Harm, Proxy, Rule};
use rbuild::digest::Digest;
use registry::TestRegistry;
use serde_json::{Value, json};
use support::{Done, Lab, bases_or_skip, done, has, is_root, skip};

const ACCEPT: &str =
    "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

fn start(test: &str) -> Option<TestRegistry> {
    if !has("skopeo") || !has("curl") {
        skip(test, "skopeo or curl is not installed");
        return None;
    }
    let registry = TestRegistry::start().expect("a registry that starts");
    if registry.is_none() {
        skip(test, "docker-registry is not installed");
    }
    registry
}

fn ok(done: Done) -> String {
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    done.out
}

/// As the user has it: with the attestations that a push has by default.
fn with_defaults(lab: &Lab, args: &[&str]) -> Done {
    let mut command = lab.rbuild();
    command.env_remove("BUILDX_NO_DEFAULT_ATTESTATIONS").args(args);
    done(command.output().expect("rbuild starts"))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn get(registry: &TestRegistry, path: &str) -> String {
    let url = format!("http://{}/v2/{path}", registry.host());
    ok(done(Command::new("curl").args(["-sSf", "-H", ACCEPT, &url]).output().expect("curl")))
}

fn simple(lab: &Lab) -> String {
    let text = "FROM scratch\nARG V=0\nCOPY f /f\nLABEL v=$V\n";
    lab.context(&[("Dockerfile", text), ("f", "x")]).display().to_string()
}

/// The statements of an attestation manifest in a repository.
fn statement(registry: &TestRegistry, repository: &str, entry: &Value) -> Value {
    let digest = entry["digest"].as_str().expect("digest");
    let manifest = json_of(&get(registry, &format!("{repository}/manifests/{digest}")));
    let layer = manifest["layers"][0]["digest"].as_str().expect("a layer");
    json_of(&get(registry, &format!("{repository}/blobs/{layer}")))
}

#[test]
fn a_push_carries_provenance_where_every_reader_finds_or_ignores_it() {
    let Some(registry) = start("a_push_carries_provenance") else { return };
    let lab = Lab::new();
    let (context, name) = (simple(&lab), format!("{}/app:1", registry.host()));
    let metadata = lab.out("metadata.json");
    let file = metadata.display().to_string();
    let args =
        ["build", "-q", "--push", "--metadata-file", &file, "--build-arg=V=s3cret", "-t", &name, &context];
    ok(with_defaults(&lab, &args));
    let text = get(&registry, "app/manifests/1");
    let index = json_of(&text);
    let (image, attestation) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(attestation["platform"], json!({"architecture": "unknown", "os": "unknown"}));
    assert_eq!(
        attestation["annotations"],
        json!({
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        })
    );
    let said = json_of(&fs::read_to_string(&metadata).expect("metadata"));
    assert_eq!(said["containerimage.digest"], Digest::of(text.as_bytes()).to_string());
    let statement = statement(&registry, "app", attestation);
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let hex = image["digest"].as_str().expect("digest").trim_start_matches("sha256:");
    assert_eq!(statement["subject"][0]["digest"], json!({"sha256": hex}));
    let subject = statement["subject"][0]["name"].as_str().expect("name").to_owned();
    assert!(subject.starts_with("pkg:docker/") && subject.contains("/app@1?platform="), "{subject}");
    // The least: no values of arguments or labels.
    assert!(!statement.to_string().contains("s3cret"), "{statement}");
    // Clients keep no list for what an index lists.
    assert_eq!(json_of(&get(&registry, "app/tags/list"))["tags"], json!(["1"]));

    let at = format!("docker://{name}");
    for (number, more) in [&["--all"][..], &[][..]].iter().enumerate() {
        let to = format!("oci:{}:{number}", lab.out("skopeo").display());
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--src-tls-verify=false"]).args(*more).args([&at, &to]);
        ok(done(skopeo.output().expect("skopeo")));
    }
    let other = Lab::new();
    let run = |args: &[&str]| ok(other.run(args));
    run(&["pull", "-q", &name]);
    run(&["validate", "-q", &name]);
    run(&["validate", "-q", &at]);
    let copied = format!("docker://{}/copy:1", registry.host());
    run(&["copy", "-q", "--all", &at, &copied]);
    assert_eq!(get(&registry, "copy/manifests/1"), text);
    let archive = other.out("saved.tar").display().to_string();
    run(&["save", "-o", &archive, &name]);
    run(&["load", "-q", "-i", &archive]);
    let from = other.context(&[("Dockerfile", &format!("FROM {name}\nCOPY g /g\n")), ("g", "y")]);
    run(&["build", "-q", "--pull=always", "-t", "derived", &from.display().to_string()]);
    run(&["fsck"]);
    let inspected = json_of(&ok(lab.run(["inspect", &name])));
    assert_eq!(inspected[0]["RepoTags"], json!([name]));
    let shown = json_of(&run(&["inspect", "--format", "{{json .Provenance}}", &at]));
    assert_eq!(shown["SLSA"], statement["predicate"]);
    let shown = json_of(&ok(lab.run(["inspect", "--format", "{{json .Provenance.SLSA}}", &name])));
    assert_eq!(shown, statement["predicate"]);
    if has("podman") && is_root() {
        let (root, runroot) = (lab.out("podman"), lab.out("podman-run"));
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(&root).arg("--runroot").arg(&runroot);
        podman.args(["--storage-driver=vfs", "pull", "-q", "--tls-verify=false", &name]);
        ok(done(podman.output().expect("podman")));
    } else {
        skip("a_push_carries_provenance", "podman is not usable");
    }
}

#[test]
fn nothing_is_attested_where_it_is_switched_off_or_nobody_asked() {
    let Some(registry) = start("nothing_is_attested") else { return };
    let lab = Lab::new();
    let context = simple(&lab);
    let name = format!("{}/off:1", registry.host());
    ok(with_defaults(&lab, &["build", "-q", "--push", "--provenance=false", "-t", &name, &context]));
    assert!(json_of(&get(&registry, "off/manifests/1"))["layers"].is_array());
    ok(lab.run(["build", "-q", "--push", "--provenance=mode=min", "-t", &name, &context]));
    assert!(json_of(&get(&registry, "off/manifests/1"))["manifests"].is_array());
    let layout = lab.out("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    ok(with_defaults(&lab, &["build", "-q", "-o", &output, &context]));
    let index = json_of(&fs::read_to_string(layout.join("index.json")).expect("index"));
    let kind = index["manifests"][0]["mediaType"].as_str().expect("type").to_owned();
    assert!(kind.ends_with("manifest.v1+json"), "{index}");
    let files = lab.out("files");
    ok(with_defaults(&lab, &["build", "-q", "-o", &files.display().to_string(), &context]));
    assert_eq!(fs::read_dir(&files).expect("files").count(), 1);
}

fn blob(layout: &Path, descriptor: &Value) -> Value {
    let hex = descriptor["digest"].as_str().expect("digest").trim_start_matches("sha256:").to_owned();
    json_of(&fs::read_to_string(layout.join("blobs/sha256").join(hex)).expect("blob"))
}

/// A layout of the lab's build with these arguments, and what its name means.
fn layout(lab: &Lab, args: &[&str], context: &str, name: &str) -> (std::path::PathBuf, Value) {
    let dir = lab.out(name);
    let output = format!("type=oci,tar=false,dest={}", dir.display());
    let mut all = vec!["build", "-q", "-o", &output];
    all.extend(args);
    all.push(context);
    ok(lab.run(&all));
    let index = json_of(&fs::read_to_string(dir.join("index.json")).expect("index"));
    (dir, index["manifests"][0].clone())
}

#[test]
fn the_image_is_the_same_with_attestations_and_the_same_build_attests_the_same() {
    let (lab, other) = (Lab::new(), Lab::new());
    let context = simple(&lab);
    let platforms = "--platform=linux/amd64,linux/arm64";
    let args = ["--reproducible", "--provenance=mode=max", platforms];
    let (dir, top) = layout(&lab, &args, &context, "with");
    let index = blob(&dir, &top);
    let entries = index["manifests"].as_array().expect("entries").clone();
    assert_eq!(entries.len(), 4);
    for (image, attestation) in entries[..2].iter().zip(&entries[2..]) {
        assert_eq!(attestation["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    }
    let (dir, without) = layout(&lab, &["--reproducible", platforms], &context, "without");
    assert_eq!(blob(&dir, &without)["manifests"], json!(entries[..2]));
    // Cached or not, in another store.
    for (lab, name) in [(&lab, "again"), (&other, "elsewhere")] {
        let (_, again) = layout(lab, &args, &context, name);
        assert_eq!(again["digest"], top["digest"], "{name}");
    }
    let archive = format!("oci:{}", lab.out("with").display());
    ok(lab.run(["validate", "-q", &archive]));
    let shown = ok(lab.run(["inspect", "--format={{json .Provenance}}", &archive]));
    let steps = &json_of(&shown)["SLSA"]["buildDefinition"]["internalParameters"]["buildConfig"];
    assert!(steps["llbDefinition"].as_array().is_some_and(|steps| steps.len() >= 2), "{shown}");
}

#[test]
fn a_layout_with_an_index_has_provenance_like_a_push() {
    let lab = Lab::new();
    let context = simple(&lab);
    for (number, (args, images, statements)) in [
        (&["--platform=linux/amd64,linux/arm64"][..], 2, 1),
        (&["--platform=linux/amd64,linux/arm64", "--provenance=false"], 2, 0),
        (&["--sbom=true"], 1, 2),
        (&["--platform=linux/arm64"], 1, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = lab.out(&format!("layout-{number}"));
        let output = format!("type=oci,tar=false,dest={}", dir.display());
        ok(with_defaults(&lab, &[&["build", "-q"], args, &["-o", &output, &context]].concat()));
        let index = json_of(&fs::read_to_string(dir.join("index.json")).expect("index"));
        let top = &index["manifests"][0];
        let entries = match blob(&dir, top)["manifests"].as_array() {
            Some(entries) => entries.clone(),
            None => vec![top.clone()],
        };
        let attached: Vec<&Value> =
            entries.iter().filter(|entry| entry["platform"]["os"] == "unknown").collect();
        assert_eq!(entries.len() - attached.len(), images, "{args:?}: {entries:?}");
        assert_eq!(attached.len(), if statements > 0 { images } else { 0 }, "{args:?}: {entries:?}");
        for entry in attached {
            assert_eq!(blob(&dir, entry)["layers"].as_array().map(Vec::len), Some(statements), "{args:?}");
        }
    }
}

#[test]
fn only_a_build_that_was_repeated_is_called_reproducible() {
    let lab = Lab::new();
    let context = simple(&lab);
    let claim = |args: &[&str], name: &str, code: i32| {
        let output = format!("type=oci,tar=false,dest={}", lab.out(name).display());
        let args = [args, &["-q", "--provenance=mode=min", "-o", &output, &context]].concat();
        let built = lab.run(&args);
        assert_eq!(built.code, code, "{}{}", built.out, built.err);
        let place = format!("oci:{}", lab.out(name).display());
        let field = "--format={{json .Provenance.SLSA.runDetails.metadata.buildkit_reproducible}}";
        ok(lab.run(["inspect", field, &place])).trim().to_owned()
    };
    assert_eq!(claim(&["build", "--reproducible"], "once", 0), "false");
    assert_eq!(claim(&["verify-reproducible", "--reproducible"], "twice", 0), "true");
    // Times differ from build to build.
    assert_eq!(claim(&["verify-reproducible"], "different", 1), "false");
}

#[test]
fn secrets_are_named_and_their_values_are_not() {
    if !bases_or_skip("secrets_are_named_and_their_values_are_not") {
        return;
    }
    let lab = Lab::new();
    let text = "FROM busybox\nARG T\nRUN --mount=type=secret,id=key true\nENV E=$T\n";
    let context = lab.context(&[("Dockerfile", text), ("key", "t0psecret\n")]);
    let (secret, output) = (
        format!("id=key,src={}", context.join("key").display()),
        format!("type=oci,tar=false,dest={}", lab.out("layout").display()),
    );
    let args = ["-q", "--provenance=true", "--secret", &secret, "--build-arg=T=t0psecret", "-o", &output];
    ok(lab.build(&context, &args));
    let place = format!("oci:{}", lab.out("layout").display());
    let shown = ok(lab.run(["inspect", "--format={{json .Provenance.SLSA.buildDefinition}}", &place]));
    assert!(!shown.contains("t0psecret") && shown.contains("(redacted)"), "{shown}");
    let definition = json_of(&shown);
    assert_eq!(
        definition["externalParameters"]["request"]["secrets"],
        json!([{"id": "key", "optional": true}])
    );
    let uri = definition["resolvedDependencies"][0]["uri"].as_str().expect("uri").to_owned();
    assert!(uri.starts_with("pkg:oci/busybox"), "{uri}");
}

#[test]
fn outputs_of_files_have_attestations_beside_them() {
    let lab = Lab::new();
    let context = simple(&lab);
    let files = lab.out("files");
    let output = format!("type=local,dest={},attestation-prefix=a-", files.display());
    ok(lab.run(["build", "-q", "--provenance=mode=min,version=v0.2", "-o", &output, &context]));
    let statement = json_of(&fs::read_to_string(files.join("a-provenance.json")).expect("file"));
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v0.2");
    let subject = json!([{"name": "f", "digest": {"sha256": Digest::of(b"x").hex()}}]);
    assert_eq!(statement["subject"], subject);
    assert_eq!(statement["predicate"]["metadata"]["reproducible"], false);
    let tar = lab.out("files.tar");
    let output = format!("type=tar,dest={}", tar.display());
    ok(lab.run(["build", "-q", "--provenance=filename=p.json", "-o", &output, &context]));
    let listed = ok(done(Command::new("tar").arg("-tf").arg(&tar).output().expect("tar")));
    assert!(listed.lines().any(|line| line == "p.json"), "{listed}");
}

#[test]
fn referrers_leave_the_image_without_an_index() {
    let Some(registry) = start("referrers_leave_the_image_without_an_index") else { return };
    let lab = Lab::new();
    let context = simple(&lab);
    let name = format!("{}/ref:1", registry.host());
    let provenance = "--provenance=mode=min,attest-as=referrers";
    ok(lab.run(["build", "-q", "--push", provenance, "-t", &name, &context]));
    assert!(json_of(&get(&registry, "ref/manifests/1"))["layers"].is_array());
    let at = format!("docker://{name}");
    let listed = ok(lab.run(["referrers", &at]));
    assert!(listed.contains("application/vnd.in-toto+json"), "{listed}");
    let shown = json_of(&ok(lab.run(["inspect", "--format={{json .Provenance}}", &at])));
    assert!(shown["SLSA"]["buildDefinition"].is_object(), "{shown}");
    let (dir, top) = layout(&lab, &[provenance], &context, "layout");
    assert!(blob(&dir, &top)["layers"].is_array());
    ok(lab.run(["referrers", &format!("oci:{}@{}", dir.display(), top["digest"].as_str().expect("digest"))]));
    let refused = lab.run(["build", "-q", provenance, "-t", "store-only", &context]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("attest-as=referrers"), "{}", refused.err);
}

#[test]
fn archives_for_docker_load_with_and_without_attestations() {
    let lab = Lab::new();
    let context = simple(&lab);
    let archive = lab.out("docker.tar");
    let output = format!("type=docker,dest={}", archive.display());
    ok(lab.run(["build", "-q", "--provenance=true", "-t", "arch:1", "-o", &output, &context]));
    let manifest = Command::new("tar").arg("-xOf").arg(&archive).arg("manifest.json").output().expect("tar");
    let manifest = json_of(&ok(done(manifest)));
    assert_eq!((manifest.as_array().map(Vec::len), &manifest[0]["RepoTags"]), (Some(1), &json!(["arch:1"])));
    let other = Lab::new();
    ok(other.run(["load", "-q", "-i", &archive.display().to_string()]));
    ok(other.run(["inspect", "arch:1"]));
    if has("skopeo") {
        let (from, to) = (format!("docker-archive:{}", archive.display()), lab.out("from-archive"));
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", &from, &format!("dir:{}", to.display())]);
        ok(done(skopeo.output().expect("skopeo")));
    }
    if has("podman") && is_root() {
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(lab.out("podman")).arg("--runroot").arg(lab.out("podman-run"));
        podman.args(["--storage-driver=vfs", "load", "-q", "-i"]).arg(&archive);
        ok(done(podman.output().expect("podman")));
    } else {
        skip("archives_for_docker_load", "podman is not usable");
    }
    for (args, word) in [
        (&["--provenance=reproducible=true"][..], "verify-reproducible"),
        (&["--provenance=mode=much"][..], "much"),
        (&["--attest=type=magic"][..], "magic"),
        (&["--provenance=true,complete-materials=true"][..], "KEY=VALUE"),
        (&["--provenance=complete-materials=true"][..], "not complete"),
    ] {
        let refused = lab.run([&["build", "-q"][..], args, &["-t", "x", &context]].concat());
        assert!(
            refused.code == 2 && refused.err.contains(word),
            "{args:?}: {} {}",
            refused.code,
            refused.err
        );
    }
}

fn key(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/keys").join(name).display().to_string()
}

/// Whether OpenSSL finds that a signature (base64 of DER) is one of the message.
fn openssl_verifies(lab: &Lab, message: &[u8], signature: &str) -> bool {
    use base64::Engine as _;
    let (data, file) = (lab.out("message"), lab.out("signature"));
    fs::write(&data, message).expect("message");
    let signature = base64::engine::general_purpose::STANDARD.decode(signature).expect("base64");
    fs::write(&file, signature).expect("signature");
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-verify", &key("p256.pub"), "-signature"]).arg(&file).arg(&data);
    openssl.output().expect("openssl").status.success()
}

#[test]
fn what_is_signed_is_verified_by_others_and_anywhere() {
    use base64::Engine as _;
    let test = "what_is_signed_is_verified_by_others_and_anywhere";
    let Some(registry) = start(test) else { return };
    if !has("openssl") {
        return skip(test, "openssl is not installed");
    }
    let lab = Lab::new();
    let (context, name) = (simple(&lab), format!("{}/signed:1", registry.host()));
    let (private, public) = (format!("key={}", key("p256.pem")), key("p256.pub"));
    let provenance = "--provenance=mode=min,builder-id=https://ci.test/1";
    ok(lab.run(["build", "-q", "--push", provenance, "--sign", &private, "-t", &name, &context]));
    let digest = Digest::of(get(&registry, "signed/manifests/1").as_bytes());

    // cosign's tag.
    let tag = format!("signed/manifests/sha256-{}.sig", digest.hex());
    let manifest = json_of(&get(&registry, &tag));
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json");
    let payload = get(&registry, &format!("signed/blobs/{}", layer["digest"].as_str().expect("digest")));
    let said = json_of(&payload);
    assert_eq!(said["critical"]["image"]["docker-manifest-digest"], digest.to_string());
    assert_eq!(said["critical"]["identity"]["docker-reference"], format!("{}/signed", registry.host()));
    let signature = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str().expect("signature");
    assert!(openssl_verifies(&lab, payload.as_bytes(), signature));
    assert!(!openssl_verifies(&lab, b"something else", signature));

    // The bundle, found as a referrer.
    let list = ok(lab.run(["referrers", "--format=json", &format!("docker://{name}")]));
    let referrers = json_of(&list);
    let found = referrers["referrers"].as_array().or_else(|| referrers.as_array()).expect("referrers");
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let entry = found.iter().find(|entry| entry["artifactType"] == kind).expect("a bundle");
    assert_eq!(entry["annotations"]["dev.sigstore.bundle.content"], "dsse-envelope");
    let path = format!("signed/manifests/{}", entry["digest"].as_str().expect("digest"));
    let blob = json_of(&get(&registry, &path))["layers"][0]["digest"].as_str().expect("digest").to_owned();
    let bundle = json_of(&get(&registry, &format!("signed/blobs/{blob}")));
    assert!(bundle["verificationMaterial"]["publicKey"]["hint"].is_string());
    let envelope = &bundle["dsseEnvelope"];
    let payload = envelope["payload"].as_str().expect("payload");
    let payload = base64::engine::general_purpose::STANDARD.decode(payload).expect("base64");
    let mut message = format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len()).into_bytes();
    message.extend(&payload);
    assert!(openssl_verifies(&lab, &message, envelope["signatures"][0]["sig"].as_str().expect("sig")));
    let statement = json_of(&String::from_utf8_lossy(&payload));
    assert_eq!(statement["predicateType"], "https://sigstore.dev/cosign/sign/v1");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], digest.hex());

    // rbuild's own look, also at what it says, and offline.
    let dockerfile = fs::read(Path::new(&context).join("Dockerfile")).expect("Dockerfile");
    let material = format!("file:Dockerfile@sha256:{}", Digest::of(&dockerfile).hex());
    let checks = ["--builder=https://ci.test/1", "--material", &material];
    let verify = |lab: &Lab, image: &str, more: &[&str]| {
        lab.run([&["verify", "-q", "--key", &public][..], more, &[image]].concat())
    };
    ok(verify(&lab, &name, &checks));
    let archive = format!("oci-archive:{}", lab.out("signed.tar").display());
    ok(lab.run(["copy", "-q", "--all", "--referrers", &format!("docker://{name}"), &archive]));
    drop(registry);
    ok(verify(&Lab::new(), &archive, &checks));
    for (more, word) in [
        (&["--builder=https://other.test"][..], "https://other.test"),
        (&["--source=https://git.test/x.git"], "a directory"),
        (&["--material=pkg:docker/evil@1"], "pkg:docker/evil@1"),
    ] {
        let refused = verify(&lab, &archive, more);
        assert!(refused.code == 1 && refused.out.contains(word), "{more:?}: {}{}", refused.out, refused.err);
    }
}

/// Lists a bundle for an image in a layout. Its manifest says how long it is; it is not there.
fn attach(layout: &Path, subject: &Value, size: u64) {
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2},
        "layers": [{"mediaType": kind, "digest": Digest::of(&size.to_le_bytes()), "size": size}],
        "subject": {"mediaType": subject["mediaType"], "digest": subject["digest"], "size": subject["size"]},
    });
    let bytes = manifest.to_string();
    let digest = Digest::of(bytes.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &bytes).expect("manifest");
    let mut index = json_of(&fs::read_to_string(layout.join("index.json")).expect("index.json"));
    index["manifests"].as_array_mut().expect("manifests").push(json!({
        "mediaType": manifest["mediaType"], "digest": digest, "size": bytes.len(), "artifactType": kind,
    }));
    fs::write(layout.join("index.json"), index.to_string()).expect("index.json");
}

/// A tag never means an image whose signature was refused, and what is signed is what was sent.
#[test]
fn the_tag_comes_after_the_signatures() {
    let Some(registry) = start("the_tag_comes_after_the_signatures") else { return };
    let proxy = Proxy::start(registry.host()).expect("a proxy");
    let lab = Lab::new();
    let (context, private) = (simple(&lab), format!("key={}", key("p256.pem")));
    let mut name = String::new();
    // The first manifest by digest is the image's, the next one the bundle's.
    for (at, (part, after)) in [(".sig", 0), ("/manifests/sha256:", 1)].into_iter().enumerate() {
        for verb in ["build", "push"] {
            name = format!("{}/late-{verb}-{at}:1", proxy.host());
            ok(lab.run(["build", "-q", "-t", &name, &context]));
            let place = format!("docker://{name}");
            let build = ["build", "-q", "--push", "--sign", &private, "-t", &name, &context];
            let push = ["push", "-q", "--sign", &private, &name];
            let args = if verb == "build" { &build[..] } else { &push };
            let (part, harm) = (part.to_owned(), Harm::Refuse(403, ""));
            proxy.harm(vec![Rule { method: "PUT", part: part.clone(), harm, after, times: 100 }]);
            let refused = lab.run(args);
            assert_ne!(refused.code, 0, "{args:?} {part}: {}{}", refused.out, refused.err);
            assert_eq!(lab.run(["inspect", &place]).code, 5, "{args:?} {part}");
            proxy.harm(Vec::new());
        }
    }
    ok(lab.run(["push", "-q", "--sign", &private, &name]));
    ok(lab.run(["verify", "-q", "--key", &key("p256.pub"), &name]));
}

#[test]
fn without_a_fitting_signature_nothing_is_verified() {
    let lab = Lab::new();
    let context = simple(&lab);
    let (dir, top) = layout(&lab, &["--provenance=mode=min", "-t", "layout:1"], &context, "layout");
    let place = format!("oci:{}", dir.display());
    let public = key("p256.pub");
    let refused = lab.run(["verify", "-q", "--key", &public, "--builder=https://ci.test", &place]);
    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
    assert!(
        refused.out.contains("no signature") && refused.out.contains("no signed provenance"),
        "{}",
        refused.out
    );
    // cosign's encrypted form of the same key; the signature becomes part of the layout.
    let mut sign = lab.rbuild();
    sign.env("COSIGN_PASSWORD", "secret").args(["sign", "-q", "--key", &key("cosign.key"), &place]);
    let signed = ok(done(sign.output().expect("rbuild")));
    assert!(signed.contains(top["digest"].as_str().expect("digest")), "{signed}");
    let json = json_of(&ok(lab.run([
        "verify",
        "-q",
        "--format=json",
        "--key",
        &public,
        "--material=file:Dockerfile",
        &place,
    ])));
    assert_eq!((&json["verified"], &json["signatures"]), (&json!(true), &json!(1)), "{json}");
    // It is in the signed index and a signed bundle of its own, and one statement all the same.
    assert_eq!(json["statements"].as_array().map(Vec::len), Some(1), "{json}");
    // What a variable that is not set gives is not what was meant.
    for flag in ["--source=", "--builder=", "--builder= ", "--material="] {
        let refused = lab.run(["verify", "-q", "--key", &public, flag, &place]);
        assert!(
            refused.code == 2 && refused.err.contains("empty value"),
            "{flag}: {} {}",
            refused.code,
            refused.err
        );
    }
    for args in [&["verify", "-q", "--key=", &place][..], &["sign", "-q", "--key=", &place]] {
        let refused = lab.run(args);
        assert!(
            refused.code == 2 && refused.err.contains("is empty"),
            "{args:?}: {} {}",
            refused.code,
            refused.err
        );
    }
    for (args, code, word) in [
        (&["sign", "-q", &place][..], 8, "keyless"),
        (&["sign", "-q", "--key", &key("cosign.key"), &place], 2, "COSIGN_PASSWORD"),
        (&["sign", "-q", "--key", "awskms://x", &place], 8, "awskms"),
        (&["sign", "-q", "--key", "no-such-file", &place], 2, "no-such-file"),
        (&["sign", "-q", "--key", &key("p256.pub"), &place], 2, "PRIVATE KEY"),
        (&["verify", "-q", &place], 8, "keyless"),
        (&["verify", "-q", "--key", &key("p256.pem"), &place], 2, "PUBLIC KEY"),
        (&["build", "-q", "--sign", "key=x", "-t", "x", &context], 2, "cannot read the key"),
        (&["build", "-q", "--sign=keyless", "-t", "x", &context], 8, "keyless"),
    ] {
        let refused = lab.run(args);
        assert!(
            refused.code == code && refused.err.contains(word),
            "{args:?}: {} {}",
            refused.code,
            refused.err
        );
    }
    // What somebody else attached and nobody can read takes nothing away from what is signed.
    let index = fs::read_to_string(dir.join("index.json")).expect("index.json");
    attach(&dir, &top, 200 << 20);
    attach(&dir, &top, 2);
    ok(lab.run(["verify", "-q", "--key", &public, &place]));
    let other = "--builder=https://other.test";
    let json = lab.run(["verify", "-q", "--format=json", "--key", &public, other, &place]);
    let json = json_of(&json.out);
    assert!(json["unread"].as_array().is_some_and(|all| all.len() == 2), "{json}");
    let refused = lab.run(["verify", "-q", "--key", &public, other, &place]);
    assert!(refused.code == 1 && refused.out.contains("at most"), "{}{}", refused.out, refused.err);
    fs::write(dir.join("index.json"), index).expect("index.json");
    // A changed statement is found out by its digest, and a changed index by its signature.
    let blobs = dir.join("blobs/sha256");
    let index = blobs.join(top["digest"].as_str().expect("digest").trim_start_matches("sha256:"));
    let mut text = fs::read_to_string(&index).expect("index");
    text.push(' ');
    let changed = Digest::of(text.as_bytes());
    fs::write(blobs.join(changed.hex()), &text).expect("write");
    let entries = fs::read_to_string(dir.join("index.json")).expect("index.json");
    let mut entries = json_of(&entries);
    entries["manifests"][0]["digest"] = json!(changed.to_string());
    entries["manifests"][0]["size"] = json!(text.len());
    fs::write(dir.join("index.json"), entries.to_string()).expect("index.json");
    let refused = lab.run(["verify", "-q", "--key", &public, &place]);
    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
}
