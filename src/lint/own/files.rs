//! What `COPY` and `ADD` bring in.

use crate::dockerfile::{Copy, CopySource, InstructionKind, Word};
use crate::lint::finding::{Findings, Place};
use crate::lint::rule as rules;
use crate::lint::walk::is_remote;

use super::StageView;

/// Files that hold secrets by their very name.
const SECRET_NAMES: [&str; 20] = [
    ".env",
    ".env.local",
    ".env.prod",
    ".env.production",
    ".npmrc",
    ".netrc",
    "_netrc",
    ".pypirc",
    ".git-credentials",
    ".htpasswd",
    ".pgpass",
    ".my.cnf",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "credentials",
    "credentials.json",
    "service-account.json",
    "service_account.json",
];

/// Words in names of files that everybody may read: keys to verify with, certificates, parameters, examples.
const PUBLIC_WORDS: [&str; 42] = [
    "apt",
    "archive",
    "bundle",
    "ca",
    "cacert",
    "cacerts",
    "cert",
    "certificate",
    "certs",
    "chain",
    "crl",
    "crt",
    "csr",
    "dh",
    "dhparam",
    "dhparams",
    "dist",
    "docker",
    "dummy",
    "example",
    "fullchain",
    "gpg",
    "insecure",
    "issuer",
    "key-ring",
    "keyring",
    "localhost",
    "pgp",
    "pub",
    "pubkey",
    "public",
    "release",
    "repo",
    "repomd",
    "root",
    "rpm",
    "sample",
    "selfsigned",
    "signing",
    "snakeoil",
    "test",
    "truststore",
];

pub(super) fn check(stage: &StageView<'_>, findings: &mut Findings<'_>) {
    for instruction in stage.instructions {
        let place = Place::of(instruction);
        match &instruction.kind {
            InstructionKind::Copy(copy) => secrets(stage, copy, place, findings),
            InstructionKind::Add(copy) => {
                secrets(stage, copy, place, findings);
                plain_add(copy, place, findings);
            }
            _ => {}
        }
    }
}

pub(super) fn paths(copy: &Copy) -> impl Iterator<Item = &Word> {
    copy.sources.iter().filter_map(|source| match source {
        CopySource::Path(word) => Some(word),
        CopySource::Heredoc(_) => None,
    })
}

fn secrets(stage: &StageView<'_>, copy: &Copy, place: Place<'_>, findings: &mut Findings<'_>) {
    if copy.flags.from.is_some() || is_public_place(&copy.dest.text) {
        return;
    }
    for path in paths(copy).map(|word| word.text.as_str()).filter(|path| !is_remote(path) && is_secret(path))
    {
        if verifies(stage, path) {
            continue;
        }
        let detail = format!(
            "{path:?} usually holds secrets, which stay readable in the image; use RUN --mount=type=secret"
        );
        findings.add(&rules::SECRET_FILE_COPIED, place, detail);
    }
}

/// Where systems keep keys and certificates that they trust.
fn is_public_place(dest: &str) -> bool {
    ["keyrings", "trusted.gpg", "rpm-gpg", "apk/keys", "ca-certificates", "ca-trust", "pki/anchors"]
        .iter()
        .any(|part| dest.contains(part))
}

/// Whether some `RUN` takes the file for a key that packages or signatures are verified with.
fn verifies(stage: &StageView<'_>, path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let uses =
        ["apt-key", "--import", "dearmor", "keyring", "trusted.gpg", "apk/keys", "update-ca-", "-importcert"];
    stage.runs.iter().any(|run| run.text.contains(name) && uses.iter().any(|part| run.text.contains(part)))
}

fn is_secret(path: &str) -> bool {
    let lower = path.trim_end_matches('/').to_ascii_lowercase();
    let mut parts = lower.rsplit('/');
    let (name, parent) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if SECRET_NAMES.contains(&name)
        || matches!(name, ".ssh" | ".aws" | ".gnupg" | ".kube")
        || (name == "config.json" && parent == ".docker")
    {
        return true;
    }
    if name.starts_with('*') || name.split(['.', '-', '_']).any(|part| PUBLIC_WORDS.contains(&part)) {
        return false;
    }
    // A .pem may as well be a certificate.
    let private_pem = || ["key", "priv", "server", "client"].iter().any(|part| name.contains(part));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    ends(&[".key", ".p12", ".pfx", ".jks", ".keystore", ".ppk", ".kdbx"])
        || (ends(&[".pem"]) && private_pem())
}

/// `ADD` does three things that `COPY` does not: unpack, download, clone. Here it does none of them.
fn plain_add(copy: &Copy, place: Place<'_>, findings: &mut Findings<'_>) {
    const ARCHIVES: [&str; 13] = [
        ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".gz", ".bz2", ".xz", ".zst", ".lzma", ".tar.lz",
        ".z",
    ];
    let flags = &copy.flags;
    if flags.checksum.is_some() || flags.keep_git_dir.is_some() || flags.unpack.is_some() {
        return;
    }
    let plain = |word: &Word| {
        let lower = word.text.to_ascii_lowercase();
        let name = lower.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        let is_directory = lower.ends_with('/') || matches!(name, "." | "..");
        // Without an ending nobody can tell what a file is.
        let named = name.trim_start_matches('.').contains('.');
        !is_remote(&lower)
            && !lower.contains(['$', '*', '?', '['])
            && !ARCHIVES.iter().any(|end| name.ends_with(end))
            && (is_directory || named)
    };
    let mut sources = copy.sources.iter();
    let all = sources.all(|source| match source {
        CopySource::Path(word) => plain(word),
        CopySource::Heredoc(_) => true,
    });
    if all {
        let detail = "ADD unpacks archives, downloads and clones; for plain files COPY says what is meant";
        findings.add(&rules::ADD_INSTEAD_OF_COPY, place, detail);
    }
}
