//! Attestations at the outputs of a build: which output carries which, and in what form.

use std::io::{self, Read};

use crate::attest::attach::Form;
use crate::attest::{AttachAs, Subject};
use crate::digest::{Digest, Hasher};
use crate::export::RootTree;
use crate::image::Reference;
use crate::layer::{Entry, EntryKind};

use super::failure::{Failure, FailureKind};
use super::request::{BuildRequest, OutputKind, OutputSpec};
use super::result::{Attaching, Built};

/// Refuses outputs that cannot carry what was asked for.
pub(super) fn check(request: &BuildRequest) -> Result<(), Failure> {
    if request.sign.is_some() && !request.outputs.iter().any(|output| output.push) {
        let message = "--sign signs what is pushed, and nothing is pushed";
        return Err(
            Failure::new(FailureKind::Usage, message).help("add --push, or sign later with `rbuild sign`")
        );
    }
    if !request.attest.is_asked_for() {
        return Ok(());
    }
    let usage = |message: &str, help: &str| Err(Failure::new(FailureKind::Usage, message).help(help));
    if request.outputs.iter().any(|output| output.makes_image() && output.oci_types == Some(false)) {
        return usage("attestations need OCI media types", "leave oci-mediatypes=false out");
    }
    let holds = |output: &OutputSpec| {
        output.push || !output.makes_image() || matches!(output.kind, OutputKind::Oci | OutputKind::OciDir)
    };
    let referrers = request.attest.attach_as == AttachAs::Referrers;
    if referrers && (request.outputs.is_empty() || !request.outputs.iter().all(holds)) {
        return usage(
            "attest-as=referrers needs an output that holds referrers",
            "push the image, or write type=oci; the store and docker archives keep attestations in an index only",
        );
    }
    Ok(())
}

/// How the image of the store carries its attestations, if it does.
pub(super) fn of_store<'a>(request: &BuildRequest, names: &'a [Reference]) -> Option<Attaching<'a>> {
    let legacy = request.outputs.iter().any(|output| output.legacy_attestations);
    let form = if legacy { Form::Legacy } else { Form::Artifact };
    let wanted = request.attests_images() && request.attest.attach_as == AttachAs::Index;
    wanted.then_some(Attaching { names, form, inline_only: true })
}

/// How this output carries attestations; `None` where it has none. Without being asked only pushed images do, and, as in
/// BuildKit, layouts that have an index for another reason.
pub(super) fn attaching<'a>(
    request: &BuildRequest,
    spec: &OutputSpec,
    built: &[Built],
    names: &'a [Reference],
) -> Option<Attaching<'a>> {
    let attest = &request.attest;
    let asked = built.iter().flat_map(|one| &one.statements).any(|statement| !statement.inline_only);
    let has_index = spec.is_layout() && (built.len() > 1 || asked);
    let inline_only = spec.push || spec.attestation_inline || has_index;
    let form = match (attest.attach_as, spec.legacy_attestations) {
        (AttachAs::Referrers, _) => Form::Referrer,
        (AttachAs::Index, true) => Form::Legacy,
        (AttachAs::Index, false) => Form::Artifact,
    };
    let wanted = built.iter().flat_map(|one| &one.statements);
    let any = wanted.filter(|statement| inline_only || !statement.inline_only).count() > 0;
    any.then_some(Attaching { names, form, inline_only })
}

/// The names of files with attestations, and their contents: all about the files of `tree`. `several` platforms share
/// their directory.
pub(super) fn files(
    spec: &OutputSpec,
    one: &Built,
    several: bool,
    tree: &dyn RootTree,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let wanted: Vec<_> = one.statements.iter().filter(|statement| !statement.inline_only).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let read = |error: io::Error| Failure::new(FailureKind::Output, error.to_string());
    let mut subjects = Vec::new();
    for entry in tree.entries().map_err(read)? {
        let digest = match entry.kind {
            EntryKind::File { digest: Some(digest), .. } => digest,
            EntryKind::File { digest: None, .. } | EntryKind::Hardlink(_) => {
                let mut hasher = Hasher::new();
                io::copy(&mut tree.open(&entry.path).map_err(read)?, &mut hasher).map_err(read)?;
                hasher.finish()
            }
            _ => continue,
        };
        subjects.push(Subject { name: String::from_utf8_lossy(&entry.path).into_owned(), digest });
    }
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for statement in wanted {
        let mut name = format!("{}{}", spec.attestation_prefix, statement.file);
        if several {
            let platform = one.platform.to_string().replace('/', "_");
            name = match name.rsplit_once('.') {
                Some((stem, end)) => format!("{stem}.{platform}.{end}"),
                None => format!("{name}.{platform}"),
            };
        }
        if files.iter().any(|(known, _)| *known == name) {
            let message = format!("two attestations have the file name {name:?}");
            return Err(Failure::new(FailureKind::Usage, message).help("give one another with filename="));
        }
        files.push((name, statement.file_content(&subjects)));
    }
    Ok(files)
}

/// The files of an image with more of them at the top.
pub(super) struct WithFiles {
    pub files: Box<dyn RootTree>,
    /// Names and contents.
    pub extra: Vec<(String, Vec<u8>)>,
    pub mtime: i64,
}

impl RootTree for WithFiles {
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = self.files.entries()?;
        for (name, content) in &self.extra {
            let path = name.clone().into_bytes();
            if entries.iter().any(|entry| entry.path == path) {
                let message = format!("the image has a file {name:?}, which is the name of an attestation");
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            let kind = EntryKind::File { size: content.len() as u64, digest: Some(Digest::of(content)) };
            let meta = crate::layer::Metadata { mode: 0o600, mtime: self.mtime, ..Default::default() };
            entries.push(Entry { path, kind, meta, offset: 0 });
        }
        Ok(entries)
    }

    fn open(&self, path: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        match self.extra.iter().find(|(name, _)| name.as_bytes() == path) {
            Some((_, content)) => Ok(Box::new(io::Cursor::new(content.clone()))),
            None => self.files.open(path),
        }
    }
}
