//! Pushing to a real registry on loopback, and everything that moves images.

#[path = "support/registry.rs"]
mod registry;
mod support;
#[path = "support/tokens.rs"]
mod tokens;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use registry::{Setup, TestRegistry, USER};
use support::{Done, Lab, base, has, skip};
use tokens::TokenService;

fn start(test: &str, setup: Setup) -> Option<TestRegistry> {
    if base("busybox").is_none() {
        skip(test, "tests/setup has not made the base images");
        return None;
    }
    if !has("skopeo") {
        skip(test, "skopeo is not installed");
        return None;
    }
    let registry = TestRegistry::with(setup).expect("a registry that starts");
    if registry.is_none() {
        skip(test, "docker-registry is not installed");
    }
    registry
}

fn ok(done: Done) -> String {
    assert_eq!(done.code, 0, "{}", done.err);
    done.out
}

/// `(... sent; blobs: 1 uploaded, 2 mounted, 3 there already)` as numbers.
fn counts(line: &str) -> (u32, u32, u32) {
    let number = |word: &str| {
        let before = line.split(word).next().unwrap_or_default().trim_end();
        before.rsplit([' ', ',', ':']).next().and_then(|text| text.parse().ok()).expect(line)
    };
    (number("uploaded"), number("mounted"), number("there already"))
}

fn digest(line: &str) -> String {
    let at = line.find("sha256:").expect(line);
    line[at..at + 71].to_owned()
}

fn build(lab: &Lab, name: &str, dockerfile: &str) {
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let mut args = vec!["build".to_owned(), "--progress=plain".into(), "-t".into(), name.to_owned()];
    args.extend(lab.bases());
    args.push(context.display().to_string());
    ok(lab.run(&args));
}

#[test]
fn a_base_from_a_layout_is_pushed_also_where_no_step_needs_its_files() {
    let Some(registry) = start("push of a base alone", Setup::default()) else { return };
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nLABEL a=b\n")]);
    let name = format!("{}/team/app:1", registry.host());
    ok(lab.build(&context, &["-t", &name, "--push"]));
}

fn skopeo(args: &[&str]) -> serde_json::Value {
    let output = Command::new("skopeo").args(args).output().expect("skopeo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn only_what_is_new_travels_and_comes_back_the_same() {
    let test = "only_what_is_new_travels_and_comes_back_the_same";
    let Some(server) = start(test, Setup::default()) else { return };
    let (lab, host) = (Lab::new(), server.host().to_owned());
    let layout = base("busybox").expect("checked").display().to_string();
    let base = format!("docker://{host}/base/busybox:1");
    ok(lab.run(["copy", &format!("oci:{layout}:latest"), &base]));
    let name = format!("{host}/team/app:1");
    build(&lab, &name, &format!("FROM {host}/base/busybox:1\nRUN echo new > /new\n"));

    // The base lies in another repository of the same registry: it is mounted.
    let line = ok(lab.run(["push", &name]));
    assert_eq!(counts(&line), (2, 1, 0), "{line}");
    let pushed = digest(&line);

    let raw = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(raw["Digest"], pushed.as_str());
    // The new layer, the config and the manifest, and not a byte more.
    let manifest = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    let size = |part: &serde_json::Value| part["size"].as_u64().unwrap_or_default();
    let document: u64 =
        line.split("size: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("size");
    let new = size(&manifest["config"]) + size(&manifest["layers"][1]) + document;
    let sent =
        line.split('(').nth(1).and_then(|rest| rest.strip_suffix(" there already)\n")).unwrap_or_default();
    let sent: f64 = sent.split("kB").next().and_then(|number| number.parse().ok()).expect(&line);
    assert!((sent * 1000.0 - new as f64).abs() < 10.0, "{new}: {line}");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false", &format!("docker://{name}")])
        .arg(format!("oci:{}:x", lab.out("copy").display()))
        .status()
        .expect("skopeo");
    assert!(copied.success());

    // Again: nothing. One more layer: that and the config.
    assert_eq!(counts(&ok(lab.run(["push", &name]))), (0, 0, 0));
    let next = format!("{host}/team/app:2");
    build(&lab, &next, &format!("FROM {host}/base/busybox:1\nRUN echo new > /new\nRUN echo two > /two\n"));
    assert_eq!(counts(&ok(lab.run(["push", &next]))), (2, 0, 2));

    let other = Lab::new();
    let pulled = ok(other.run(["pull", &name]));
    assert_eq!(digest(&pulled), pushed);
    let refs = fs::read_dir(other.store().join("refs")).expect("refs").count();
    assert_eq!(refs, 1);
    let again = ok(other.run(["pull", "-q", &format!("{host}/team/app@{pushed}")]));
    assert_eq!(digest(&again), pushed);

    // All tags of a repository at once, to an empty one.
    for tag in ["a", "b"] {
        ok(lab.run(["tag", &name, &format!("{host}/many/app:{tag}")]));
    }
    let lines = ok(lab.run(["push", "-a", &format!("{host}/many/app")]));
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert_eq!(lines.lines().next().map(counts), Some((0, 3, 0)), "{lines}");
    let missing = lab.run(["push", &format!("{host}/none:1")]);
    assert_eq!(missing.code, 2, "{}", missing.err);
}

#[test]
fn large_layers_arrive_whole() {
    let test = "large_layers_arrive_whole";
    let Some(server) = start(test, Setup::default()) else { return };
    let (lab, host) = (Lab::new(), server.host().to_owned());
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY big /\n")]);
    let mut state = 1u64;
    let noise = (0..2_000_000).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11).to_le_bytes()
    });
    fs::write(context.join("big"), noise.collect::<Vec<u8>>()).expect("write");
    let name = format!("{host}/big:1");
    ok(lab.run(["build", "-t", &name, &context.display().to_string()]));
    let pushed = digest(&ok(lab.run(["push", &name])));
    let other = Lab::new();
    assert_eq!(digest(&ok(other.run(["pull", &name]))), pushed);
}

#[test]
fn a_password_is_kept_used_and_forgotten() {
    let test = "a_password_is_kept_used_and_forgotten";
    let Some(server) = start(test, Setup { password: true, ..Setup::default() }) else { return };
    signs_in(&server);
}

#[test]
fn tokens_are_asked_for_with_all_that_is_needed() {
    let test = "tokens_are_asked_for_with_all_that_is_needed";
    let Some(service) = TokenService::start(USER.0, USER.1).expect("a token service") else {
        return skip(test, "openssl is not installed");
    };
    let setup = Setup { tokens_of: Some(service.setup()), ..Setup::default() };
    let Some(server) = start(test, setup) else { return };
    signs_in(&server);
    let asked = service.asked();
    let mount = asked.iter().find(|query| query.matches("scope=").count() == 2).expect("a mount");
    assert!(mount.contains("two%3Apull%2Cpush") && mount.contains("app%3Apull"), "{mount}");
    // One token for the mount, one for the rest of each push; not one for each request.
    let pushes = asked.iter().filter(|query| query.contains("push")).count();
    assert!(pushes <= 8, "{asked:?}");
}

/// The same story with either kind of sign-in.
fn signs_in(server: &TestRegistry) {
    let (lab, host) = (Lab::new(), server.host().to_owned());
    let (user, password) = USER;
    let name = format!("{host}/app:1");
    build(&lab, &name, "FROM busybox\nRUN echo new > /new\n");
    let refused = lab.run(["push", &name]);
    assert_eq!(refused.code, 6, "{}", refused.err);
    for part in ["without credentials", "config.json", "rbuild login", "cannot push", "status 401"] {
        assert!(refused.err.contains(part), "{part}: {}", refused.err);
    }
    let wrong = lab.run(["login", "-u", user, "-p", "wrong", &host]);
    assert_eq!(wrong.code, 5, "{}", wrong.err);
    assert!(wrong.err.contains("401") && !wrong.err.contains("wrong\""), "{}", wrong.err);
    let config = lab.path().join("home/.docker/config.json");
    assert!(!config.exists());

    let mut login = lab.rbuild();
    login.args(["login", "-u", user, "--password-stdin", &host]).stdin(std::process::Stdio::piped());
    login.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = login.spawn().expect("rbuild");
    let mut stdin = child.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut stdin, format!("{password}\n").as_bytes()).expect("write");
    drop(stdin);
    let output = child.wait_with_output().expect("rbuild");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unencrypted"));
    assert!(config.exists());

    let line = ok(lab.run(["push", &name]));
    assert_eq!(counts(&line).0, 3, "{line}");
    let second = format!("{host}/two:1");
    ok(lab.run(["tag", &name, &second]));
    assert_eq!(counts(&ok(lab.run(["push", &second]))), (0, 3, 0));
    let other = Lab::new();
    let mut pull = other.rbuild();
    let text = fs::read_to_string(&config).expect("config");
    let pulled = pull.args(["pull", &name]).env("DOCKER_AUTH_CONFIG", &text).output().expect("rbuild");
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let auth = other.path().join("auth.json");
    fs::write(&auth, &text).expect("write");
    let mut pull = other.rbuild();
    let pulled = pull.args(["pull", &second]).env("REGISTRY_AUTH_FILE", &auth).output().expect("rbuild");
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));

    assert!(ok(lab.run(["logout", &host])).contains("Signed out"));
    assert!(ok(lab.run(["logout", &host])).contains("Not signed in"));
    assert_eq!(lab.run(["push", &name]).code, 6);
}

#[test]
fn a_helper_keeps_credentials_where_one_is_configured() {
    let test = "a_helper_keeps_credentials_where_one_is_configured";
    let Some(server) = start(test, Setup { password: true, ..Setup::default() }) else { return };
    let (lab, host) = (Lab::new(), server.host().to_owned());
    let (user, password) = USER;
    let bin = lab.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    let kept = lab.path().join("kept");
    let helper = bin.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {kept} ;;\nget) cat > /dev/null; cat {kept} ;;\nerase) cat > /dev/null; rm {kept} ;;\nesac\n",
        kept = kept.display()
    );
    fs::write(&helper, script).expect("write");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("chmod");
    let docker = lab.path().join("home/.docker");
    fs::create_dir(&docker).expect("mkdir");
    fs::write(docker.join("config.json"), r#"{"credsStore":"test"}"#).expect("write");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let run = |args: &[&str]| {
        let output = lab.rbuild().args(args).env("PATH", &path).output().expect("rbuild");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&["login", "-u", user, "-p", password, &host]);
    assert!(!said.contains("unencrypted"), "{said}");
    assert!(fs::read_to_string(&kept).expect("kept").contains(password));
    assert!(!fs::read_to_string(docker.join("config.json")).expect("config").contains("auth\""));
    build(&lab, &format!("{host}/app:1"), "FROM busybox\nRUN true\n");
    run(&["push", &format!("{host}/app:1")]);
    run(&["logout", &host]);
    assert!(!kept.exists());
}

#[test]
fn own_authorities_and_mirrors_come_from_the_configuration() {
    let test = "own_authorities_and_mirrors_come_from_the_configuration";
    let Some(server) = start(test, Setup { tls: true, ..Setup::default() }) else { return };
    let Some(other) = start(test, Setup { tls: true, ..Setup::default() }) else { return };
    let (lab, host) = (Lab::new(), server.host().to_owned());
    let name = format!("{host}/app:1");
    build(&lab, &name, "FROM busybox\nRUN echo new > /new\n");
    let file = lab.path().join("registries.toml");
    let write = |ca: std::path::PathBuf| {
        let nobody = "[registry.\"nobody.test\"]\nmirrors = [\"MIRROR\"]\n".replace("MIRROR", &host);
        fs::write(&file, format!("[registry.{host:?}]\nca = {ca:?}\n{nobody}")).expect("write");
    };
    let flag = file.display().to_string();
    write(other.certificate());
    let doubted = lab.run(["--registries", &flag, "push", &name]);
    assert_eq!(doubted.code, 6, "{}", doubted.err);
    assert!(doubted.err.contains("certificate"), "{}", doubted.err);
    write(server.certificate());
    let pushed = digest(&ok(lab.run(["--registries", &flag, "push", &name])));
    let puller = Lab::new();
    let pulled = ok(puller.run(["pull", "--registries", &flag, "nobody.test/app:1"]));
    assert_eq!(digest(&pulled), pushed);
    // From the usual place, and in a build.
    let home = puller.path().join("home/.config/rbuild");
    fs::create_dir_all(&home).expect("mkdir");
    fs::copy(&file, home.join("registries.toml")).expect("copy");
    let context = puller.context(&[("Dockerfile", "FROM nobody.test/app:1\nRUN test -f /new\n")]);
    ok(puller.run(["build", "--pull", "--progress=plain", &context.display().to_string()]));
    fs::write(&file, "[registry.\"x\"]\nmirors = []\n").expect("write");
    let mistaken = lab.run(["--registries", &flag, "push", &name]);
    assert_eq!(mistaken.code, 2, "{}", mistaken.err);
    assert!(mistaken.err.contains("mirors"), "{}", mistaken.err);
}

#[test]
fn images_are_copied_between_all_places() {
    let test = "images_are_copied_between_all_places";
    let Some(server) = start(test, Setup::default()) else { return };
    let Some(second) = start(test, Setup::default()) else { return };
    let lab = Lab::new();
    let (host, far) = (server.host().to_owned(), second.host().to_owned());
    build(&lab, "app:1", "FROM busybox\nRUN echo new > /new\n");
    let copy = |from: &str, to: &str| digest(&ok(lab.run(["copy", "-q", from, to])));
    let at = |kind: &str, name: &str| format!("{kind}:{}", lab.out(name).display());
    let original = copy("store:app:1", &format!("docker://{host}/app:1"));
    // From registry to registry, without the store.
    let blobs = || fs::read_dir(lab.store().join("blobs/sha256")).expect("blobs").count();
    let before = blobs();
    assert_eq!(copy(&format!("docker://{host}/app:1"), &format!("docker://{far}/x/app:2")), original);
    assert_eq!(blobs(), before);
    let raw = skopeo(&["inspect", "--tls-verify=false", &format!("docker://{far}/x/app:2")]);
    assert_eq!(raw["Digest"], original.as_str());
    assert_eq!(copy(&format!("docker://{far}/x/app:2"), &at("oci", "layout")), original);
    assert_eq!(copy(&at("oci-layout", "layout"), &at("oci-archive", "a.tar")), original);
    let docker = copy(&at("oci-archive", "a.tar"), &format!("{}:app:3", at("docker-archive", "d.tar")));
    assert_ne!(docker, original);
    let inspected = skopeo(&["inspect", &at("docker-archive", "d.tar")]);
    assert_eq!(inspected["Layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(copy(&at("oci", "layout"), "store:back:1"), original);

    let other = Lab::new();
    let archive = lab.out("d.tar").display().to_string();
    assert_eq!(ok(other.run(["load", "-i", &archive])), "Loaded image: app:3\n");
    ok(other.run(["inspect", "app:3"]));
    let piped = Command::new("sh")
        .arg("-c")
        .arg(format!("cat {archive} | {} --root {} load", support::RBUILD, other.path().join("s2").display()))
        .output()
        .expect("sh");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "Loaded image: app:3\n");
    for (from, code, word) in [
        ("docker-daemon:no-such-image:1", 5, "no-such-image:1"),
        ("containerd:app", 8, "containerd: is not supported"),
        ("store:none", 2, "no image none"),
        ("oci:none", 5, "none"),
        ("nonsense", 2, "transport"),
    ] {
        let done = lab.run(["copy", from, "store:x"]);
        assert_eq!(done.code, code, "{from}: {}", done.err);
        assert!(done.err.contains(word), "{from}: {}", done.err);
    }
}

#[test]
fn indexes_are_made_changed_pushed_and_copied_whole() {
    let test = "indexes_are_made_changed_pushed_and_copied_whole";
    let Some(server) = start(test, Setup::default()) else { return };
    let Some(second) = start(test, Setup::default()) else { return };
    let (lab, host, far) = (Lab::new(), server.host().to_owned(), second.host().to_owned());
    let context =
        lab.context(&[("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n"), ("f", "x")]);
    for arch in ["amd64", "arm64"] {
        let (platform, name) = (format!("linux/{arch}"), format!("{far}/app:{arch}"));
        ok(lab.run(["build", "--platform", &platform, "-t", &name, &context.display().to_string()]));
        ok(lab.run(["push", &name]));
    }
    // One from the store, one known by its descriptor only: its layer streams from the far registry.
    let maker = Lab::new();
    ok(maker.run(["pull", "--platform=linux/amd64", &format!("{far}/app:amd64")]));
    let name = format!("{host}/multi:1");
    let (one, two) = (format!("{far}/app:amd64"), format!("docker://{far}/app:arm64"));
    let made = ok(maker.run(["index", "create", "--annotation", "a=b", "--push", &name, &one, &two]));
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    let platforms: Vec<_> = raw["manifests"]
        .as_array()
        .expect("list")
        .iter()
        .map(|m| m["platform"]["architecture"].clone())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    assert_eq!(raw["annotations"]["a"], "b");

    let changed = ok(maker.run(["index", "annotate", "--annotation", "c=d", &name, "linux/arm64"]));
    assert_ne!(made, changed);
    let line = ok(maker.run(["push", &name]));
    assert_eq!((digest(&line), counts(&line)), (digest(&changed), (0, 0, 0)));
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    assert_eq!(raw["manifests"][1]["annotations"]["c"], "d");

    // Whole, and only what is for one platform.
    let whole = ok(lab.run(["copy", "--all", &format!("docker://{name}"), "store:whole:1"]));
    assert_eq!(digest(&whole), digest(&changed));
    // Another name for it means all of it.
    let again = format!("{far}/again:1");
    ok(lab.run(["tag", "whole:1", &again]));
    assert_eq!(digest(&ok(lab.run(["push", &again]))), digest(&whole));
    let archive = lab.out("whole.tar").display().to_string();
    ok(lab.run(["copy", "--all", "store:whole:1", &format!("oci-archive:{archive}")]));
    let other = Lab::new();
    assert_eq!(ok(other.run(["load", "-q", "-i", &archive])), "whole:1\n");
    assert_eq!(
        digest(&ok(other.run(["copy", "--all", "store:whole:1", &format!("docker://{far}/w:1")]))),
        digest(&whole)
    );
    let arm = ok(lab.run(["copy", "--platform=linux/arm64", &format!("docker://{name}"), "store:arm:1"]));
    assert_eq!(digest(&arm), raw["manifests"][1]["digest"]);
    let none = lab.run(["pull", "--platform=linux/s390x", &name]);
    assert_eq!(none.code, 5, "{}", none.err);
    assert!(none.err.contains("linux/s390x") && none.err.contains("linux/arm64"), "{}", none.err);
}

#[test]
fn a_build_that_may_not_be_pushed_ends_before_its_work_is_done() {
    let test = "a_build_that_may_not_be_pushed_ends_before_its_work_is_done";
    let Some(server) = start(test, Setup { password: true, ..Setup::default() }) else { return };
    let Some(open) = start(test, Setup::default()) else { return };
    let lab = Lab::new();
    let name = format!("{}/team/app:1", server.host());
    let long = lab.context(&[("Dockerfile", "FROM busybox\nRUN sleep 600; echo $((5 * 120)) seconds\n")]);
    for flags in [&["--push", "-t", &name][..], &["-o", &format!("type=image,push=true,name={name}")]] {
        let ended = lab.build(&long, flags);
        assert_eq!(ended.code, 6, "{}", ended.err);
        assert!(ended.err.contains("needs a sign-in") && ended.err.contains("401"), "{}", ended.err);
        assert!(!ended.err.contains("600 seconds"), "{}", ended.err);
    }
    // Who may push leaves nothing behind by asking, also where the build itself fails.
    let failing = lab.context(&[("Dockerfile", "FROM busybox\nRUN sleep 1; false\n")]);
    let ended = lab.build(&failing, &["--push", "-t", &format!("{}/new/app:1", open.host())]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    let short = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    server
        .sign_in(&{
            let docker = lab.path().join("home/.docker");
            fs::create_dir_all(&docker).expect("mkdir");
            docker
        })
        .expect("config");
    let pushed = lab.build(&short, &["--push", "-t", &name]);
    assert_eq!(pushed.code, 0, "{}", pushed.err);
}

#[test]
fn registries_that_do_not_know_oci_types_get_dockers() {
    let test = "registries_that_do_not_know_oci_types_get_dockers";
    let Some(server) = start(test, Setup::default()) else { return };
    let (lab, name) = (Lab::new(), format!("{}/app:1", server.host()));
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let output = format!("type=image,push=true,oci-mediatypes=false,name={name}");
    let built = lab.build(&context, &["-o", &output]);
    assert_eq!(built.code, 0, "{}", built.err);
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    let docker = "application/vnd.docker.";
    let types =
        [&raw, &raw["config"], &raw["layers"][0], &raw["layers"][1]].map(|part| part["mediaType"].clone());
    assert!(types.iter().all(|kind| kind.as_str().is_some_and(|kind| kind.starts_with(docker))), "{types:?}");
}
