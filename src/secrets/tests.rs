//! What counts as a secret, and what does not. The secrets here open nothing: they were made up, with the checksums
//! that their shapes want.

use proptest::strategy::Strategy as _;

use super::{find, in_text};

/// The body of a key that is none: digits of base 64 without a meaning.
fn body(lines: usize) -> String {
    let mut state = 7u32;
    let mut digit = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(state >> 26) as usize],
        )
    };
    (0..lines).map(|_| (0..64).map(|_| digit()).collect::<String>() + "\n").collect()
}

fn pem(label: &str, lines: usize) -> String {
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", body(lines))
}

fn kinds(path: &str, content: &str) -> Vec<(usize, &'static str)> {
    find(path.as_bytes(), content.as_bytes())
}

/// A token with the checksum of its shape, in pieces so that no scanner takes this file for one with secrets.
fn github() -> String {
    ["ghp", "_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17"].concat()
}

#[test]
fn private_keys_are_found_with_their_line() {
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY"] {
        let found = kinds("app/server.key", &format!("# mine\n{}", pem(label, 3)));
        assert!(matches!(found[..], [(2, _)]), "{label}: {found:?}");
    }
    let json = format!("{{\n\"private_key\": \"{}\"}}", pem("PRIVATE KEY", 3).replace('\n', "\\n"));
    assert_eq!(kinds("app/account.json", &json), [(2, "a private key")]);
    assert_eq!(
        kinds("etc/ssh/ssh_host_rsa_key", &pem("OPENSSH PRIVATE KEY", 3)),
        [(1, "an SSH private key")]
    );
}

#[test]
fn what_only_looks_like_a_key_is_none() {
    for (path, content) in [
        ("app/server.pem", pem("PUBLIC KEY", 3)),
        ("app/server.pem", pem("CERTIFICATE", 30)),
        ("app/check.py", "if line == '-----BEGIN PRIVATE KEY-----':\n    pass\n".to_owned()),
        ("app/key.pem", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n".to_owned()),
        ("app/key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned()),
        ("usr/share/doc/openssl/key.pem", pem("PRIVATE KEY", 3)),
        ("usr/lib/python3/test/keycert.pem", pem("PRIVATE KEY", 3)),
        ("app/node_modules/tls/key.pem", pem("PRIVATE KEY", 3)),
        ("app/tests/key.pem", pem("PRIVATE KEY", 3)),
        ("app/README.md", pem("PRIVATE KEY", 3)),
    ] {
        assert_eq!(kinds(path, &content), [], "{path}");
    }
}

#[test]
fn tokens_need_the_checksum_of_their_shape() {
    let token = github();
    assert_eq!(kinds("app/ci.yml", &format!("a: 1\ntoken: {token}\n")), [(2, "a GitHub token")]);
    let wrong = format!("{}8", &token[..token.len() - 1]);
    assert_eq!(kinds("app/ci.yml", &format!("token: {wrong}\n")), []);
    assert_eq!(kinds("app/ci.yml", &format!("token: x{token}\n")), []);
    let slack = ["xoxb", "-2048579134622-4093571826503-Jd8sLq0ZrTb3Xw7YpKvN5mQe"].concat();
    assert_eq!(kinds("app/a.py", &format!("S = '{slack}'\n")), [(1, "a Slack token")]);
    assert_eq!(kinds("app/a.py", &format!("S = 'xoxb-{}'\n", "x".repeat(50))), []);
    let key = ["AGE-SECRET-KEY-1", "0GH7YQ7SWV77EFWFCQY2ZNP37CMEUGHXZGLDSMN6CK6W4P325XD3A0MW5N"].concat();
    assert_eq!(kinds("root/keys.txt", &format!("{key}\n")), [(1, "an age key")]);
    assert_eq!(kinds("root/keys.txt", &format!("{}\n", key.replace('Q', "P"))), []);
}

#[test]
fn environments_hold_secrets_by_the_name_of_the_variable() {
    let text = "# TOKEN=abcdefgh1\nPORT=8080\nDB_PASSWORD='k3yb0ard-Cat'\nAPI_TOKEN=\nSECRET=${FROM_OUTSIDE}\n\
        STRIPE_API_KEY=changeme\nMAX_TOKENS=40960000x\nexport SESSION_SECRET=\"Xk29_ssa!qq\"\nTOKEN_URL=https://a/b\n";
    assert_eq!(kinds("app/.env", text), [(3, "a password or key"), (8, "a password or key")]);
    assert_eq!(kinds("app/.env.production", text).len(), 2);
    for template in ["app/.env.example", "app/.env.sample", "app/env", "app/tests/.env"] {
        assert_eq!(kinds(template, text), [], "{template}");
    }
}

#[test]
fn files_in_which_tools_keep_credentials_are_read_as_the_tools_do() {
    let aws = ["wJalrXUtnFEMI", "/K7MDENG/bPxRfiCYzQ9TkaWm3L"].concat();
    for (path, secret, harmless) in [
        ("root/.npmrc", "//r/:_authToken=3f9a7c2e-11aa".to_owned(), "//r/:_authToken=${NPM_TOKEN}"),
        ("root/.pypirc", "[pypi]\npassword = Tr0ub4dor\n".to_owned(), "[pypi]\npassword = <your password>\n"),
        ("root/.netrc", "machine a login b password c0rrect".to_owned(), "machine a login b account c"),
        ("root/.git-credentials", "https://me:c0rrect-h0rse@host".to_owned(), "https://me@host/path"),
        (
            "root/.aws/credentials",
            format!("[default]\naws_secret_access_key = {aws}\n"),
            "[default]\nregion = eu-1\n",
        ),
        (
            "root/.docker/config.json",
            r#"{"auths":{"r":{"auth":"bWU6c2VjcmV0MQ=="}}}"#.to_owned(),
            r#"{"auths":{"r":{}}}"#,
        ),
        ("root/.pgpass", "h:5432:db:me:c0rrect\n".to_owned(), "# h:5432:db:me:pw\n"),
        (
            "root/.kube/config",
            "  client-key-data: LS0tLS1CRUdJTg==\n".to_owned(),
            "  client-key: /run/secrets/key\n",
        ),
        ("root/.cargo/credentials.toml", "token = \"cioABCDwxyz\"\n".to_owned(), "[registry]\n# no token\n"),
    ] {
        assert_eq!(kinds(path, &secret).len(), 1, "{path}");
        assert_eq!(kinds(path, harmless), [], "{path}");
    }
    let in_code = format!("client(aws_secret_access_key=\"{aws}\")\n");
    assert_eq!(kinds("app/s3.py", &in_code), [(1, "an AWS secret key")]);
    assert_eq!(kinds("app/s3.py", &in_code.replace("zQ9TkaWm3L", "EXAMPLEKEY")), []);
}

#[test]
fn what_is_no_text_or_too_large_is_passed_over() {
    let token = github();
    assert_eq!(kinds("app/data", &format!("\0 {token}")), []);
    assert_eq!(kinds("app/bundle.txt", &format!("{}\n{token}", "x\n".repeat(1 << 19))), []);
    assert!(find(b"app/\xff", b"\xff\xfe ghp_").is_empty());
}

#[test]
fn lines_of_generated_files_count_only_with_a_checksum() {
    let line = "x ".repeat(3000);
    let slack = ["xoxb", "-2048579134622-4093571826503-Jd8sLq0ZrTb3Xw7YpKvN5mQe"].concat();
    assert_eq!(kinds("app/min.js", &format!("1\n{line}{}", github())), [(2, "a GitHub token")]);
    assert_eq!(kinds("app/min.js", &format!("1\n{line}{slack}")), []);
    assert_eq!(kinds("app/min.js", &format!("1\nx {slack}")), [(2, "a Slack token")]);
}

#[test]
fn each_line_is_named_once_and_a_file_is_bounded() {
    let (token, key) = (github(), pem("PRIVATE KEY", 3));
    let text = format!("{key}a {token} {token}\r\n\n{key}{token}");
    let kinds_of_lines =
        [(1, "a private key"), (6, "a GitHub token"), (8, "a private key"), (13, "a GitHub token")];
    assert_eq!(kinds("app/all", &text), kinds_of_lines);
    assert_eq!(kinds("app/many", &format!("{token}\n").repeat(1000)).len(), 20);
    assert_eq!(in_text(&format!("TOKEN={token}")), Some("a GitHub token"));
    assert_eq!(in_text("TOKEN=abc"), None);
}

proptest::proptest! {
    /// Files come from anybody: whatever they hold, looking at them ends, and lines are those of the file.
    #[test]
    fn any_bytes_are_looked_at_without_harm(
        pieces in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::collection::vec(proptest::num::u8::ANY, 0..40),
                proptest::sample::select(vec![
                    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "\n", "ghp_", "SG.", "aws_secret_key=",
                    "password=", "://a:", "\"auths\":{", "export ", "machine password ", "=\"",
                ])
                .prop_map(|text| text.as_bytes().to_vec()),
            ],
            0..60,
        ),
        name in proptest::sample::select(vec![
            "a", ".env", "k.pem", ".npmrc", ".netrc", ".docker/config.json", ".pgpass", ".git/config", "pip.conf",
        ]),
    ) {
        let content = pieces.concat();
        let lines = content.iter().filter(|byte| **byte == b'\n').count() + 1;
        let found = find(name.as_bytes(), &content);
        proptest::prop_assert!(found.iter().all(|(line, _)| (1..=lines).contains(line)));
        proptest::prop_assert!(found.is_sorted_by(|one, next| one.0 < next.0));
    }
}
