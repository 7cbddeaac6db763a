//! Files that get the digest of the image and its names.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::build::{BuildOutcome, Failure, FailureKind};
use crate::image::Reference;
use crate::image::reference::DEFAULT_DOMAIN;

use super::super::results::ResultFile;
use super::Variables;
use super::job::DOCKER_INDEX;
use super::line::Line;

/// Places that were looked at before the build.
pub(super) struct Files {
    digest: Option<ResultFile>,
    name: Option<ResultFile>,
    name_and_tag: Option<ResultFile>,
    /// Google Cloud Build's: one JSON object for each name that was pushed.
    images: Option<ResultFile>,
}

impl Files {
    /// Looks at the places, and makes missing directories. What an earlier build left there goes.
    pub fn check(line: &Line, variables: &Variables) -> Result<Self, Failure> {
        let flag = |name: &str| match line.one(name) {
            Some(address) if address.starts_with("https://") => {
                let message = format!("--{name} {address}: sending it to an address is not supported yet");
                Err(Failure::new(FailureKind::Unsupported, message).help("name a file"))
            }
            path => place(path.map(Path::new)),
        };
        let images = variables.get("BUILDER_OUTPUT").map(|dir| PathBuf::from(dir).join("images"));
        let files = Files {
            digest: flag("digest-file")?,
            name: flag("image-name-with-digest-file")?,
            name_and_tag: flag("image-name-tag-with-digest-file")?,
            images: place(images.as_deref())?,
        };
        for file in [&files.digest, &files.name, &files.name_and_tag, &files.images].into_iter().flatten() {
            file.clear()?;
        }
        Ok(files)
    }

    /// Whether the digest of the manifest has to be known.
    pub fn want_digest(&self) -> bool {
        [&self.digest, &self.name, &self.name_and_tag, &self.images].into_iter().any(Option::is_some)
    }

    /// Writes what is asked for.
    pub fn write(self, outcome: &BuildOutcome, pushed: bool) -> Result<(), Failure> {
        if !self.want_digest() {
            return Ok(());
        }
        let descriptor = outcome.image.as_ref().and_then(|image| image.descriptor.as_ref());
        let Some(digest) = descriptor.map(|descriptor| descriptor.digest) else {
            return Err(Failure::new(FailureKind::Output, "the image has no digest"));
        };
        let names: Vec<Reference> =
            outcome.names.iter().filter_map(|name| Reference::parse(name).ok()).collect();
        let lines = |tagged: bool| {
            let line = |name: &Reference| format!("{}@{digest}\n", shown(name, tagged));
            names.iter().map(line).collect::<String>()
        };
        let write = |file: Option<ResultFile>, text: String| match file {
            Some(file) => file.write(text.as_bytes()),
            None => Ok(()),
        };
        write(self.digest, digest.to_string())?;
        write(self.name, lines(false))?;
        write(self.name_and_tag, lines(true))?;
        let image = |name: &Reference| {
            format!("{}\n", json!({"name": shown(name, true), "digest": digest.to_string()}))
        };
        match pushed {
            true => write(self.images, names.iter().map(image).collect()),
            false => Ok(()),
        }
    }
}

fn place(path: Option<&Path>) -> Result<Option<ResultFile>, Failure> {
    if let Some(dir) = path.and_then(Path::parent).filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|error| {
            Failure::new(FailureKind::Output, format!("cannot make {}: {error}", dir.display()))
        })?;
    }
    ResultFile::check(path)
}

/// A name as Kaniko writes it.
fn shown(name: &Reference, tagged: bool) -> String {
    let domain = if name.domain == DEFAULT_DOMAIN { DOCKER_INDEX } else { &name.domain };
    match name.tag.as_ref().filter(|_| tagged) {
        Some(tag) => format!("{domain}/{}:{tag}", name.path),
        None => format!("{domain}/{}", name.path),
    }
}
