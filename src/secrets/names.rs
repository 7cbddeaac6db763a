//! Which files are looked at, by their paths and sizes.

use crate::fs::paths::split;

/// What a file is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Assignments of environment variables: passwords and keys by the name of the variable.
    Environment,
    /// A file that a tool keeps its credentials in.
    Credentials(Tool),
    /// Perhaps a private key.
    Key,
    /// Text of the image's own: tokens and keys.
    Text,
}

/// Tools that keep credentials in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// `.npmrc`, `.yarnrc.yml`
    Npm,
    /// `.pypirc`, `pip.conf`, `.my.cnf`: `password = ...`, and addresses with passwords.
    Passwords,
    /// `.netrc`
    Netrc,
    /// `.docker/config.json`, `.dockercfg`
    Docker,
    /// `.aws/credentials`
    Aws,
    /// `.git-credentials`, `.git/config`
    Git,
    /// `.pgpass`
    Postgres,
    /// `.kube/config`
    Kube,
    /// `.cargo/credentials.toml`, `.gem/credentials`, `.config/gh/hosts.yml`
    Tokens,
}

/// Larger files are not looked at.
const MAX_CREDENTIALS: u64 = 1 << 20;
const MAX_KEY: u64 = 64 << 10;
const MAX_TEXT: u64 = 1 << 20;
/// A shorter file has no room for a secret.
const SMALLEST: u64 = 8;

/// Names below which everything is an example, or the work of others.
const EXAMPLES: &[&[u8]] = &[
    b"test",
    b"tests",
    b"__tests__",
    b"testdata",
    b"testing",
    b"spec",
    b"fixtures",
    b"example",
    b"examples",
    b"sample",
    b"samples",
    b"doc",
    b"docs",
    b"man",
];
const OTHERS: &[&[u8]] = &[
    b"node_modules",
    b"site-packages",
    b"dist-packages",
    b"vendor",
    b"third_party",
    b"gems",
    b".cargo",
    b"pkg",
];
/// Where distributions and toolchains put their files.
const SYSTEM: &[&[u8]] = &[
    b"usr/share/",
    b"usr/include/",
    b"usr/lib/",
    b"usr/lib64/",
    b"usr/libexec/",
    b"lib/",
    b"lib64/",
    b"usr/bin/",
    b"usr/sbin/",
    b"bin/",
    b"sbin/",
    b"var/lib/dpkg/",
    b"var/lib/apt/",
    b"var/lib/rpm/",
    b"lib/apk/",
    b"var/cache/",
    b"usr/local/lib/",
    b"usr/local/go/",
    b"usr/local/include/",
    b"usr/local/share/",
    b"etc/ssl/certs/",
    b"etc/ca-certificates/",
    b"etc/pki/",
];
/// Endings of what is no text of one's own.
const BINARY: &[&[u8]] = &[
    b"so", b"a", b"o", b"pyc", b"class", b"jar", b"png", b"jpg", b"jpeg", b"gif", b"ico", b"svg", b"woff",
    b"woff2", b"ttf", b"gz", b"xz", b"zst", b"bz2", b"zip", b"tar", b"whl", b"wasm", b"map", b"pdf", b"mo",
    b"md", b"rst", b"html", b"css", b"crt", b"cer", b"pub", b"lock",
];

/// How a file is looked at; `None` where it is not.
pub(super) fn class(path: &[u8], size: u64) -> Option<Class> {
    if !(SMALLEST..=MAX_CREDENTIALS).contains(&size) {
        return None;
    }
    let (dir, name) = split(path);
    let parts = || dir.split(|c| *c == b'/');
    let in_examples = path.starts_with(b"usr/share/") || parts().any(|part| EXAMPLES.contains(&part));
    if in_examples {
        return None;
    }
    if let Some(tool) = tool(dir, name) {
        return Some(Class::Credentials(tool));
    }
    if is_environment(name) {
        return Some(Class::Environment);
    }
    let extension = name.iter().rposition(|c| *c == b'.').map(|at| name[at + 1..].to_ascii_lowercase());
    let extension = extension.as_deref().unwrap_or_default();
    let in_others = parts().any(|part| OTHERS.contains(&part));
    let is_key = matches!(extension, b"pem" | b"key" | b"p8" | b"ppk" | b"asc")
        || name.starts_with(b"id_")
        || name.starts_with(b"ssh_host_");
    if is_key && size <= MAX_KEY && !in_others && extension != b"pub" {
        return Some(Class::Key);
    }
    let is_system = SYSTEM.iter().any(|prefix| path.starts_with(prefix));
    let is_text = size <= MAX_TEXT && !BINARY.contains(&extension) && !in_others && !is_system;
    is_text.then_some(Class::Text)
}

fn tool(dir: &[u8], name: &[u8]) -> Option<Tool> {
    let (_, parent) = split(dir);
    Some(match (parent, name) {
        (_, b".npmrc" | b".yarnrc.yml" | b".yarnrc") => Tool::Npm,
        (_, b".pypirc" | b"pip.conf" | b".my.cnf") => Tool::Passwords,
        (_, b".netrc" | b"_netrc") => Tool::Netrc,
        (b".docker", b"config.json") | (_, b".dockercfg" | b".dockerconfigjson") => Tool::Docker,
        (b".aws", b"credentials" | b"config") => Tool::Aws,
        (_, b".git-credentials") | (b".git", b"config") => Tool::Git,
        (_, b".pgpass") => Tool::Postgres,
        (b".kube", b"config") => Tool::Kube,
        (b".cargo", b"credentials" | b"credentials.toml")
        | (b".gem", b"credentials")
        | (b"gh", b"hosts.yml") => Tool::Tokens,
        _ => return None,
    })
}

/// `.env` and its variants; templates that are meant to be copied are none.
fn is_environment(name: &[u8]) -> bool {
    let templates: &[&[u8]] =
        &[b"example", b"sample", b"template", b"dist", b"defaults", b"tpl", b"schema", b"test"];
    let is_template =
        || name.split(|c| matches!(c, b'.' | b'-' | b'_')).any(|part| templates.contains(&part));
    let fits = name == b".env" || name.starts_with(b".env.") || (name.ends_with(b".env") && name.len() > 4);
    fits && !is_template()
}
