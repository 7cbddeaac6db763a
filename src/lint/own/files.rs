//! What `COPY` and `ADD` bring in.

use crate::dockerfile::{Copy, CopySource, InstructionKind, Word};
use crate::lint::finding::{Findings, Place};
use crate::lint::rule as rules;
use crate::lint::walk::is_remote;

use super::StageView;

/// Files that hold secrets by their very name.
const SECRET_NAMES: [&str; 16] = [
    ".env",
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
];

pub(super) fn check(stage: &StageView<'_>, findings: &mut Findings<'_>) {
    for instruction in stage.instructions {
        let place = Place::of(instruction);
        match &instruction.kind {
            InstructionKind::Copy(copy) => secrets(copy, place, findings),
            InstructionKind::Add(copy) => {
                secrets(copy, place, findings);
                plain_add(copy, place, findings);
            }
            _ => {}
        }
    }
}

fn paths(copy: &Copy) -> impl Iterator<Item = &Word> {
    copy.sources.iter().filter_map(|source| match source {
        CopySource::Path(word) => Some(word),
        CopySource::Heredoc(_) => None,
    })
}

fn secrets(copy: &Copy, place: Place<'_>, findings: &mut Findings<'_>) {
    if copy.flags.from.is_some() {
        return;
    }
    for path in paths(copy).map(|word| word.text.as_str()).filter(|path| !is_remote(path) && is_secret(path))
    {
        let detail = format!(
            "{path:?} usually holds secrets, which stay readable in the image; use RUN --mount=type=secret"
        );
        findings.add(&rules::SECRET_FILE_COPIED, place, detail);
    }
}

fn is_secret(path: &str) -> bool {
    let lower = path.trim_end_matches('/').to_ascii_lowercase();
    let mut parts = lower.rsplit('/');
    let (name, parent) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let public = ["pub", "cert", "ca", "chain", "bundle", "example", "sample", "template", "dist", "test"];
    if name.split(['.', '-', '_']).any(|part| public.contains(&part)) || name.contains("cacert") {
        return false;
    }
    let key_file = [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".ppk", ".kdbx"]
        .iter()
        .any(|end| name.ends_with(end) && !name.starts_with('*'));
    SECRET_NAMES.contains(&name)
        || name.starts_with(".env.")
        || key_file
        || matches!(name, ".ssh" | ".aws" | ".gnupg" | ".kube")
        || (name == "config.json" && parent == ".docker")
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
