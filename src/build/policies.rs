//! Policies of a build: read before everything else, asked about the contexts of this machine, and asked about the
//! digest of an image.

use std::path::PathBuf;

use crate::context::{ContextKind, FileSource as _, MainContext};
use crate::digest::Digest;
use crate::image::{Platform, Reference};
use crate::remote::{self, SourceKind};
use crate::sources::Rules;
use crate::sources::policy::{MOST_CONVERSIONS, Policies, circle};

use super::bases::{Bases, Resolved};
use super::failure::{Failure, FailureKind};
use super::request::BuildRequest;

/// Reads the policies that a request names.
pub(super) fn load(rules: &Rules, request: &BuildRequest) -> Result<(), Failure> {
    let mut policies = Policies::default();
    for path in &request.sources.source_policies {
        let name = path.display().to_string();
        policies.add_json(&name, &request.cwd.join(path)).map_err(|message| {
            Failure::new(FailureKind::Usage, message).help("docs/policy.md describes source policies")
        })?;
    }
    if !policies.is_empty() {
        rules.obey(policies);
    }
    Ok(())
}

/// Asks about the contexts of this machine, which BuildKit calls local sources.
pub(super) fn check_local(rules: &Rules, request: &BuildRequest) -> Result<(), Failure> {
    let here = |text: &str| {
        text == "-"
            || request.cwd.join(text).exists()
            || matches!(remote::context_source(text), Ok(SourceKind::None))
    };
    let mut all = Vec::new();
    if here(&request.context) {
        all.extend(["local://context".to_owned(), "local://dockerfile".to_owned()]);
    }
    for (name, value) in &request.build_contexts {
        let lower = value.to_ascii_lowercase();
        if lower.starts_with("oci-layout://") {
            all.push(value.to_string());
        } else if !lower.starts_with("docker-image://") && here(value) {
            all.push(format!("local://{name}"));
        }
    }
    for identifier in all {
        rules.local(&identifier).map_err(|forbidden| Failure::forbidden(forbidden, FailureKind::Context))?;
    }
    Ok(())
}

/// Fails where buildx would evaluate a Rego policy, which it finds beside the Dockerfile: a build that passed over it
/// could read what it forbids.
pub(super) fn refuse_rego(request: &BuildRequest, main: &MainContext) -> Result<(), Failure> {
    let name = format!("{}.rego", main.dockerfile_name);
    let is_there = match &main.dockerfile_path {
        Some(path) => {
            let mut path = path.clone().into_os_string();
            path.push(".rego");
            PathBuf::from(path).exists()
        }
        None => {
            main.kind != ContextKind::DockerfileOnly
                && matches!(main.context.resolve(name.as_bytes()), Ok(Some(_)))
        }
    };
    if !is_there || request.sources.without_rego {
        return Ok(());
    }
    let message = format!("{name} is a Rego policy, and Rego policies are not supported");
    Err(Failure::new(FailureKind::Unsupported, message).help(
        "--policy=disabled=true builds without it, as with buildx; --source-policy reads BuildKit's policies in JSON",
    ))
}

impl Bases {
    /// Finds what a name means. Policies are asked again when its digest is known, and may send the build elsewhere.
    pub(super) fn find_reference(&self, name: &str, platform: &Platform) -> Result<Resolved, Failure> {
        let mut name = name.to_owned();
        for _ in 0..=MOST_CONVERSIONS {
            let (found, reference) = self.find_once(&name, platform)?;
            match self.replaced(&reference, found.top)? {
                Some(other) => name = other.to_string(),
                None => return Ok(Resolved { named: Some(reference), ..found }),
            }
        }
        Err(Failure::forbidden(circle(&name), FailureKind::Base))
    }

    /// May the image that a name resolved to be used? `Some` is another image that takes its place.
    fn replaced(&self, reference: &Reference, top: Digest) -> Result<Option<Reference>, Failure> {
        let judged = self.rules.image_is(reference, top);
        judged.map_err(|forbidden| Failure::forbidden(forbidden, FailureKind::Base))
    }
}
