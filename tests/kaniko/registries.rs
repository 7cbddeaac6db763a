//! Registries: credentials, certificates, mirrors, and the cache in one.

use std::fs;
use std::path::Path;

use rbuild::digest::Digest;
use serde_json::Value;

use super::registry::Setup;
use super::scene::Scene;
use super::support::has;

const DOCKERFILE: &str =
    "FROM BASE\nCOPY a /a\nRUN cat /a > /b\nRUN head -c 16 /dev/urandom | md5sum > /random\n";

#[test]
fn results_come_from_the_cache_only_where_it_is_asked_for() {
    let Some(scene) = Scene::new("results_come_from_the_cache_only_where_it_is_asked_for") else { return };
    let context = scene.context(&[("Dockerfile", DOCKERFILE), ("a", "x")]);
    let name = scene.name("team/cached:1");
    let build = |store: &str, more: &[&str]| {
        let digest = scene.lab.out("digest");
        let path = digest.display().to_string();
        let flags = ["--context", &context, "--destination", &name, "--digest-file", &path];
        let ended = scene.executor_with([&flags, more].concat(), |command| {
            command.env("RBUILD_ROOT", scene.lab.path().join(store));
        });
        assert_eq!(ended.code, 0, "{more:?}: {}", ended.err);
        (fs::read_to_string(digest).expect("the digest"), ended.err)
    };
    let (first, _) = build("one", &["--cache=true"]);
    assert!(scene.registry.log().contains("team/cached/cache/manifests/rbuild"));
    // Another machine, then the same one again.
    for store in ["two", "two", "one"] {
        assert_eq!(build(store, &["--cache", "--cache-copy-layers"]).0, first, "{store}");
    }
    for more in [
        &[][..],
        &["--cache=false"],
        &["--cache", "--cache-run-layers=false"],
        &["--cache", "--cache-run-layers=0"],
    ] {
        let (digest, log) = build("one", more);
        assert_ne!(digest, first, "{more:?}: {log}");
    }
    // In a repository of its own, and in a layout.
    let (repository, layout) = (scene.name("caches/all"), scene.lab.out("cache"));
    for place in [repository.clone(), format!("oci:{}", layout.display())] {
        let flag = format!("--cache-repo={place}");
        let (first, _) = build("three", &["--cache", &flag, "--no-push-cache"]);
        assert!(!layout.exists() || place == repository);
        let (again, _) = build("three", &["--cache", &flag]);
        assert_eq!(again, first);
        assert_eq!(build(&format!("four-{}", place.len()), &["--cache", &flag]).0, first, "{place}");
        fs::remove_dir_all(scene.lab.path().join("three")).expect("a store");
    }
    assert!(layout.join("index.json").exists());
}

/// Makes all results of a cache in a layout a second old that is long gone.
fn age(layout: &Path) {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let json =
        |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON") };
    let put = |value: &Value| {
        let bytes = value.to_string().into_bytes();
        let digest = Digest::of(&bytes).to_string();
        fs::write(blob(&digest), &bytes).expect("write");
        (Value::from(digest), Value::from(bytes.len()))
    };
    let mut index = json(&layout.join("index.json"));
    let top = &mut index["manifests"][0];
    let mut manifest = json(&blob(top["digest"].as_str().expect("a digest")));
    let mut document = json(&blob(manifest["config"]["digest"].as_str().expect("a digest")));
    for entry in document["entries"].as_array_mut().expect("entries") {
        entry["created"] = Value::from(1_000_000_000);
    }
    (manifest["config"]["digest"], manifest["config"]["size"]) = put(&document);
    (top["digest"], top["size"]) = put(&manifest);
    fs::write(layout.join("index.json"), index.to_string()).expect("write");
}

#[test]
fn results_live_as_long_as_they_may() {
    let Some(scene) = Scene::new("results_live_as_long_as_they_may") else { return };
    let context = scene.context(&[("Dockerfile", DOCKERFILE), ("a", "x")]);
    let layout = scene.lab.out("cache");
    let place = format!("--cache-repo=oci:{}", layout.display());
    let cached = |store: &str, more: &[&str]| {
        let ended =
            scene.executor_with([&["-c", &context, "--no-push", "--cache"], more].concat(), |command| {
                command.env("RBUILD_ROOT", scene.lab.path().join(store));
            });
        assert_eq!(ended.code, 0, "{}", ended.err);
        ended.err.lines().filter(|line| line.ends_with(" CACHED")).count()
    };
    assert_eq!(cached("one", &[&place]), 0);
    age(&layout);
    assert_eq!(cached("two", &[&place, "--cache-ttl=999999h", "--no-push-cache"]), 3);
    // Two weeks are usual.
    assert_eq!(cached("three", &[&place, "--no-push-cache"]), 0);
    assert_eq!(cached("two", &[]), 0);
    assert_eq!(cached("two", &[]), 3);
    // What is too old makes place for what is new.
    assert_eq!(cached("four", &[&place, "--cache-ttl=24h"]), 0);
    assert_eq!(cached("five", &[&place, "--cache-ttl=24h"]), 3);
}

#[test]
fn mirrors_come_before_the_registry_and_in_its_place() {
    let Some(scene) = Scene::new("mirrors_come_before_the_registry_and_in_its_place") else { return };
    let host = scene.registry.host().to_owned();
    let build = |dockerfile: &str, more: &[&str], variables: &[(&str, &str)]| {
        let context = scene.lab.context(&[("Dockerfile", dockerfile)]).display().to_string();
        let flags = ["--no-push", "--context", &context];
        scene.executor_with([&flags, more].concat(), |command| {
            command.envs(variables.iter().copied());
            // Nothing of an earlier build is here.
            command.env("RBUILD_ROOT", tempfile::tempdir_in(scene.lab.path()).expect("a directory").keep());
        })
    };
    let (mirror, map) =
        (format!("--registry-mirror={host}/base"), format!("--registry-map=nowhere.invalid={host}"));
    for (dockerfile, more, variables) in [
        ("FROM nowhere.invalid/base/busybox:1\n", &[map.as_str()][..], &[][..]),
        (
            "FROM nowhere.invalid/base/busybox:1\n",
            &[],
            &[("KANIKO_REGISTRY_MAP", format!("a=b;nowhere.invalid={host}"))],
        ),
        (
            "FROM nowhere.invalid/base/busybox:1\n",
            &["--registry-map", &format!("nowhere.invalid=http://127.0.0.1:1;nowhere.invalid={host}")],
            &[],
        ),
        (
            "FROM nowhere.invalid/base/busybox:1\n",
            &[&map, "--skip-default-registry-fallback", "--image-download-retry=1"],
            &[],
        ),
    ] {
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let ended = build(dockerfile, more, &variables);
        assert_eq!(ended.code, 0, "{more:?}: {}", ended.err);
    }
    // The mirror's word is final, whatever the registry would have said.
    let ended = build("FROM nowhere.invalid/base/none:1\n", &[&map, "--skip-default-registry-fallback"], &[]);
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(ended.err.contains(&host), "{}", ended.err);
    // Docker's names: `library/busybox` below the mirror's prefix.
    let ended = build("FROM busybox:1\n", &[&mirror, "--skip-default-registry-fallback"], &[]);
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(scene.registry.log().contains("/v2/base/library/busybox/manifests/1"));
}

#[test]
fn credentials_and_certificates_are_those_that_flags_name() {
    let test = "credentials_and_certificates_are_those_that_flags_name";
    let Some(scene) = Scene::new(test) else { return };
    if !has("openssl") {
        return super::support::skip(test, "openssl is not installed");
    }
    let setup = Setup { password: true, tls: true, introduction: true, ..Setup::default() };
    let registry =
        super::registry::TestRegistry::with(setup).expect("a registry").expect("there is one already");
    let home = scene.lab.path().join("kaniko-home");
    fs::create_dir_all(home.join(".docker")).expect("mkdir");
    registry.sign_in(&home.join(".docker")).expect("a configuration");
    let context = scene.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let host = registry.host();
    let name = format!("{host}/team/app:1");
    let pem = |path: std::path::PathBuf| path.display().to_string();
    let certificate = format!("--registry-certificate={host}={}", pem(registry.certificate()));
    let client =
        format!("--registry-client-cert={host}={},{}", pem(registry.certificate()), pem(registry.key()));
    let dir = format!("--kaniko-dir={}", home.display());
    let push = |flags: &[&str], variable: &str| {
        let common = ["--context", &context, "--destination", &name];
        scene.executor_with([&common, flags].concat(), |command| {
            command.env("KANIKO_DIR", variable);
        })
    };
    for flags in [vec![certificate.as_str(), &client, &dir], vec![&client, &dir, "--skip-tls-verify"]] {
        let ended = push(&flags, "");
        assert_eq!(ended.code, 0, "{flags:?}: {}", ended.err);
    }
    let by_variable = push(&[&certificate, &client], &home.display().to_string());
    assert_eq!(by_variable.code, 0, "{}", by_variable.err);
    let without_password = push(&[&certificate, &client], "");
    assert_ne!(without_password.code, 0);
    assert!(without_password.err.contains("credentials"), "{}", without_password.err);
    let without_introduction = push(&[&certificate, &dir], "");
    assert_ne!(without_introduction.code, 0, "{}", without_introduction.err);
}
