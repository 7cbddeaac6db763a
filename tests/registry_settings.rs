//! Files and variables that say how registries are reached, many of them written for other programs.

#[path = "support/registry.rs"]
mod registry;
#[path = "support/socks.rs"]
mod socks;
mod support;

use std::fs;
use std::path::Path;

use registry::{Setup, TestRegistry};
use socks::SocksProxy;
use support::{Done, Lab, bases_or_skip, done, has, skip};

fn start(test: &str, setup: Setup) -> Option<TestRegistry> {
    if !bases_or_skip(test) {
        return None;
    }
    if setup.tls && !has("openssl") {
        skip(test, "openssl is not installed");
        return None;
    }
    let registry = TestRegistry::with(setup).expect("a registry that starts");
    if registry.is_none() {
        skip(test, "docker-registry is not installed");
    }
    registry
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
    fs::write(path, text).expect("write");
}

fn ok(done: Done) -> Done {
    assert_eq!(done.code, 0, "{}", done.err);
    done
}

/// Puts an image into a registry.
fn fill(lab: &Lab, host: &str) {
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN echo new > /new\n")]);
    ok(lab.build(&context, &["--push", "-t", &format!("{host}/app:1")]));
}

fn run(lab: &Lab, variables: &[(&str, &str)], args: &[&str]) -> Done {
    let mut command = lab.rbuild();
    command.envs(variables.iter().copied()).args(args);
    done(command.output().expect("rbuild"))
}

#[test]
fn what_containers_files_contain_fails_no_local_build_and_is_a_warning_where_it_counts() {
    let test = "what_containers_files_contain_fails_no_local_build_and_is_a_warning_where_it_counts";
    let Some(server) = start(test, Setup::default()) else { return };
    let (lab, host) = (Lab::new(), server.host());
    fill(&lab, host);
    let conf = lab.path().join("home/.config/containers/registries.conf");
    let drop_in = lab.path().join("home/.config/containers/registries.conf.d/1.conf");
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let pull = || lab.run(["pull", &format!("{host}/app:1")]);
    let odd = format!(
        "[[registry]]\nlocation = {host:?}\nflavour = \"new\"\n[[registry.mirror]]\nlocation = \"m.test\"\npull-from-mirror = \"some-day\"\n"
    );
    // What it is, whether a pull still works, and what it mentions.
    for (text, works, words) in [
        (odd.as_str(), true, &["flavour", "some-day", "registries.conf"][..]),
        ("[[registry]]\nprefix = \"*.x.test\"\nlocation = \"y.test\"\n", true, &[]),
        ("[registries.search]\nregistries = [\"x.test\"]\n", true, &[]),
        ("[aliases]\napp = \"corp.test/app\"\n", true, &[]),
        ("credential-helpers = [\"secretservice\"]\n", true, &["credential-helpers"]),
        ("registry = 3\n", true, &["registry of"]),
        ("[[registry]\n", false, &["registries.conf"]),
    ] {
        for path in [&conf, &drop_in] {
            write(path, text);
            let local = ok(lab.build(&context, &[]));
            assert!(!local.err.to_lowercase().contains("warning"), "{text}: {}", local.err);
            let pulled = pull();
            assert_eq!(pulled.code == 0, works, "{text}: {}", pulled.err);
            assert_eq!(pulled.err.contains("warning"), works && !words.is_empty(), "{text}: {}", pulled.err);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            for word in words.iter().filter(|word| **word != "registries.conf") {
                assert_eq!(pulled.err.matches(word).count(), 1, "{text}: {word}: {}", pulled.err);
            }
            assert_eq!(pulled.err.contains(&*name), !words.is_empty(), "{text}: {}", pulled.err);
            fs::remove_file(path).expect("rm");
        }
    }
    // A build that uses the registry tells it too, once for base and push.
    write(&conf, &odd);
    let context = lab.context(&[("Dockerfile", &format!("FROM {host}/app:1\nRUN true\n"))]);
    let built = ok(lab.build(&context, &["--pull", "--push", "-t", &format!("{host}/app:2")]));
    assert_eq!(built.err.matches("flavour").count(), 1, "{}", built.err);
}

#[test]
fn wildcards_mirrors_for_tags_and_blocked_registries_of_version_1_have_their_effect() {
    let test = "wildcards_mirrors_for_tags_and_blocked_registries_of_version_1_have_their_effect";
    let Some(server) = start(test, Setup::default()) else { return };
    let (lab, host) = (Lab::new(), server.host());
    fill(&lab, host);
    let conf = lab.path().join("home/.config/containers/registries.conf");
    let pull = |name: &str| lab.run(["pull", name]);
    write(&conf, &format!("[[registry]]\nprefix = \"*.wide.test\"\nlocation = {host:?}\ninsecure = true\n"));
    let digest = ok(pull("a.wide.test/app:1")).out.split_whitespace().last().unwrap_or_default().to_owned();
    let origin = "[[registry]]\nlocation = \"127.0.0.1:9\"\n[[registry.mirror]]\ninsecure = true\n";
    let mirror = |only: &str| format!("{origin}location = {host:?}\npull-from-mirror = {only:?}\n");
    for (only, by_tag, by_digest) in [("all", 0, 0), ("tag-only", 0, 5), ("digest-only", 5, 0)] {
        write(&conf, &mirror(only));
        let lab = |name: &str| {
            let fresh = Lab::new();
            let copy = fresh.path().join("home/.config/containers/registries.conf");
            write(&copy, &fs::read_to_string(&conf).expect("read"));
            fresh.run(["pull", name]).code
        };
        // Blobs are asked for by digest; the origin, where nobody listens, is the only other place.
        let expected = if only == "tag-only" { 5 } else { by_tag };
        assert_eq!(lab("127.0.0.1:9/app:1"), expected, "{only} by tag");
        assert_eq!(lab(&format!("127.0.0.1:9/app@{digest}")), by_digest, "{only} by digest");
    }
    write(&conf, &format!("[registries.block]\nregistries = [{host:?}]\n"));
    let blocked = pull(&format!("{host}/app:1"));
    assert!(blocked.code == 5 && blocked.err.contains("is blocked by"), "{}", blocked.err);
}

#[test]
fn authorities_and_our_own_certificate_come_from_variables_and_certs_d() {
    let test = "authorities_and_our_own_certificate_come_from_variables_and_certs_d";
    let Some(server) = start(test, Setup { tls: true, introduction: true, ..Setup::default() }) else {
        return;
    };
    let Some(open) = start(test, Setup { tls: true, ..Setup::default() }) else { return };
    let (lab, host) = (Lab::new(), server.host());
    fill(&lab, open.host());
    // Only a scheme makes a registry on this machine one whose certificate counts.
    let file = lab.path().join("registries.toml");
    write(&file, &format!("[registry.\"nobody.test\"]\nmirrors = [\"https://{}\"]\n", open.host()));
    let flag = file.display().to_string();
    let pull = |variables: &[(&str, &str)]| {
        run(&Lab::new(), variables, &["--registries", &flag, "pull", "nobody.test/app:1"])
    };
    let certificate = open.certificate().display().to_string();
    let dir = lab.path().join("authorities");
    write(&dir.join("README"), "no certificate");
    fs::copy(open.certificate(), dir.join("any-name")).expect("copy");
    let dirs = format!("/nonexistent:{}", dir.display());
    assert_ne!(pull(&[]).code, 0);
    assert_ne!(pull(&[("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")]).code, 0);
    ok(pull(&[("SSL_CERT_FILE", &certificate)]));
    ok(pull(&[("SSL_CERT_DIR", &dirs)]));
    ok(pull(&[("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", &dirs)]));

    let certs = lab.path().join(format!("home/.config/containers/certs.d/{host}"));
    let push = || lab.run(["push", &format!("{host}/app:1")]);
    ok(lab.run(["tag", &format!("{}/app:1", open.host()), &format!("{host}/app:1")]));
    assert_ne!(push().code, 0);
    fs::create_dir_all(&certs).expect("mkdir");
    fs::copy(server.certificate(), certs.join("client.cert")).expect("copy");
    let half = push();
    assert!(half.code != 0 && half.err.contains("client.cert: the key"), "{}", half.err);
    fs::copy(server.key(), certs.join("client.key")).expect("copy");
    ok(push());
    // An authority there is asked for, also on this machine.
    fs::copy(open.certificate(), certs.join("ca.crt")).expect("copy");
    let doubted = push();
    assert!(doubted.code != 0 && doubted.err.contains("certificate is not trusted"), "{}", doubted.err);
    fs::copy(server.certificate(), certs.join("ca.crt")).expect("copy");
    ok(push());
}

#[test]
fn socks_proxies_are_gone_through_by_name() {
    let test = "socks_proxies_are_gone_through_by_name";
    let Some(server) = start(test, Setup::default()) else { return };
    let lab = Lab::new();
    fill(&lab, server.host());
    let proxy = SocksProxy::start(server.host(), Some(("user", "p@ss")));
    let pull = |variable: &str, scheme: &str, password: &str| {
        let value = format!("{scheme}://user:{password}@{}", proxy.host());
        let args = ["pull", "--insecure-registry=reg.test:81", "reg.test:81/app:1"];
        run(&Lab::new(), &[(variable, &value)], &args)
    };
    for (variable, scheme) in [("ALL_PROXY", "socks5"), ("all_proxy", "socks5h")] {
        let pulled = pull(variable, scheme, "p%40ss");
        let log = proxy.log();
        assert!(!log.is_empty() && log.iter().all(|line| line == "reg.test:81"), "{log:?}: {}", pulled.err);
        ok(pulled);
    }
    let refused = pull("ALL_PROXY", "socks5", "wrong");
    assert_eq!((refused.code, proxy.log().first().map(String::as_str)), (5, Some("refused")));
    assert!(!refused.err.contains("wrong"), "{}", refused.err);
}

#[test]
fn a_proxy_that_nothing_goes_through_fails_nothing() {
    let test = "a_proxy_that_nothing_goes_through_fails_nothing";
    let Some(server) = start(test, Setup::default()) else { return };
    let (lab, host) = (Lab::new(), server.host());
    fill(&lab, host);
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    for value in ["http://proxy.test:http", "socks4://proxy.test", "::", "ftp://proxy.test", "http://"] {
        for name in ["HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
            let mut args = vec!["build".to_owned()];
            args.extend(lab.bases());
            args.push(context.display().to_string());
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            ok(run(&lab, &[(name, value)], &args));
            ok(run(&lab, &[(name, value)], &["push", &format!("{host}/app:1")]));
        }
        let used = run(&lab, &[("ALL_PROXY", value)], &["pull", "reg.invalid/app:1"]);
        assert!(used.code == 5 && used.err.contains("invalid proxy"), "{value}: {}", used.err);
    }
}
