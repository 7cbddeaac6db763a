//! Secrets in layers: found where bytes leave, never printed, and few false alarms.

use serde_json::Value;

use crate::support::{Lab, bases_or_skip};

/// A token with the checksum of its shape that opens nothing, in pieces so that no scanner takes it for one.
fn token() -> String {
    ["ghp", "_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"].concat()
}

const PASSWORD: &str = "c0rrect-h0rse";

fn leaking(lab: &Lab) -> std::path::PathBuf {
    let config = format!("[a]\nb = 1\ntoken = \"{}\"\n", token());
    lab.context(&[
        (
            "Dockerfile",
            "FROM scratch AS base\nCOPY app.toml /srv/\nFROM base\nCOPY env /srv/.env\nCOPY ok /ok\n",
        ),
        ("app.toml", &config),
        ("env", &format!("PORT=1\nDB_PASSWORD={PASSWORD}\n")),
        ("ok", "nothing to see here\n"),
    ])
}

fn says_no_secret(text: &str) {
    assert!(!text.contains(&token()) && !text.contains(PASSWORD), "{text}");
}

#[test]
fn a_layer_that_leaves_with_a_secret_is_warned_of() {
    let lab = Lab::new();
    let context = leaking(&lab);
    let archive = lab.out("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let lines = [
        "layer 1 ships a GitHub token: /srv/app.toml:3, made by COPY app.toml /srv/",
        "layer 2 ships a password or key: /srv/.env:2, made by COPY env /srv/.env",
    ];
    let warned = |args: &[&str]| {
        let made = lab.build(&context, args);
        assert_eq!(made.code, 0, "{}", made.err);
        says_no_secret(&made.err);
        lines.map(|line| made.err.contains(line))
    };
    assert_eq!(warned(&["-t", "app"]), [false; 2], "nothing leaves");
    assert_eq!(warned(&["-t", "app", "--scan-secrets=always"]), [true; 2]);
    // The second time everything is cached, and what was found is known.
    for _ in 0..2 {
        assert_eq!(warned(&["-o", &output]), [true; 2]);
    }
    assert_eq!(warned(&["-o", &output, "--scan-secrets=never"]), [false; 2]);
    let source = format!("oci-archive:{}", archive.display());
    let judged = lab.run(["validate", "--secrets", "--format=json", &source]);
    assert_eq!(judged.code, 1, "{}", judged.err);
    says_no_secret(&judged.out);
    let report: Value = serde_json::from_str(&judged.out).expect("JSON");
    let problems = report["problems"].as_array().expect("problems");
    assert_eq!(problems.len(), 2, "{report}");
    assert!(
        problems[1]["message"]
            .as_str()
            .is_some_and(|text| text.contains("/srv/.env:2, made by COPY env /srv/.env"))
    );
    assert_eq!(lab.run(["validate", &source]).code, 0);
}

#[test]
fn nothing_leaves_and_nothing_gets_a_name_with_fail_on_secrets() {
    let lab = Lab::new();
    let context = leaking(&lab);
    let archive = lab.out("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    for args in [&["--fail-on-secrets", "-t", "app", "-o", &output][..], &["--fail-on-secrets", "-t", "app"]]
    {
        let refused = lab.build(&context, args);
        assert_eq!(refused.code, 12, "{}", refused.err);
        says_no_secret(&refused.err);
        for part in ["/srv/app.toml:3", "and 1 more secret", "Dockerfile:2", "--mount=type=secret"] {
            assert!(refused.err.contains(part), "{part}: {}", refused.err);
        }
        assert!(!archive.exists());
        assert_eq!(lab.run(["inspect", "app"]).code, 2);
    }
    let clean = lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "text of no interest\n")]);
    let built = lab.build(&clean, &["--fail-on-secrets", "-t", "app", "-o", &output]);
    assert_eq!(built.code, 0, "{}", built.err);
}

#[test]
fn a_token_in_the_config_is_shipped_as_well() {
    let lab = Lab::new();
    let text =
        format!("FROM scratch\nENV A=1 GH={0}\nLABEL l={0}\nCOPY ok /ok\nARG T={0}\nCOPY ok /$T\n", token());
    let context = lab.context(&[("Dockerfile", &text), ("ok", "nothing to see here\n")]);
    let built =
        lab.build(&context, &["--scan-secrets=always", "-t", "app", "--platform=linux/amd64,linux/arm64"]);
    assert_eq!(built.code, 0, "{}", built.err);
    says_no_secret(built.err.split("ships").skip(1).collect::<String>().as_str());
    for part in [
        "the image's config ships a GitHub token: environment variable GH",
        "the image's config ships a GitHub token: label l",
        "the image's history ships a GitHub token, in the arguments of COPY",
    ] {
        assert_eq!(built.err.matches(part).count(), 1, "{part}: {}", built.err);
    }
    let judged = lab.run(["validate", "--secrets", "app"]);
    assert!(judged.code == 1 && judged.out.contains("ships a GitHub token: label l"), "{}", judged.out);
    says_no_secret(&judged.out);
}

#[test]
fn a_secret_that_a_later_layer_removes_is_shipped_all_the_same() {
    let test = "a_secret_that_a_later_layer_removes_is_shipped_all_the_same";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[
        ("Dockerfile", "FROM busybox\nCOPY npmrc /root/.npmrc\nRUN rm /root/.npmrc\n"),
        ("npmrc", "//registry/:_authToken=3f9a7c2e-11aa-4d5b\n"),
    ]);
    let refused = lab.build(&context, &["--fail-on-secrets"]);
    assert!(refused.code == 12 && refused.err.contains("/root/.npmrc:1"), "{}", refused.err);
}

#[test]
fn a_distribution_ships_no_secrets() {
    if !bases_or_skip("a_distribution_ships_no_secrets") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM debian\nLABEL a=b\n")]);
    assert_eq!(lab.build(&context, &["-t", "app"]).code, 0);
    let judged = lab.run(["validate", "-q", "--secrets", "app"]);
    assert_eq!(judged.code, 0, "{}{}", judged.out, judged.err);
}
