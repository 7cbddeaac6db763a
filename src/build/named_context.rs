//! Values of `--build-context`: files, images, or nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::context::UserPath;

use super::failure::{Failure, FailureKind};

/// Tells directories of files from images among `--build-context` values.
pub(super) enum NamedContext {
    Files(PathBuf),
    /// Files from elsewhere: nothing was sent, so ignore files count for nothing.
    Fetched(PathBuf),
    Image(String),
    Scratch,
}

/// Classifies a `--build-context` value.
pub(super) fn classify(value: &UserPath, cwd: &Path) -> Result<NamedContext, Failure> {
    let lower = value.to_ascii_lowercase();
    if lower == "docker-image://scratch" {
        return Ok(NamedContext::Scratch);
    }
    if lower.starts_with("docker-image://") || lower.starts_with("oci-layout://") {
        return Ok(NamedContext::Image(value.to_string()));
    }
    for (prefix, kind) in [
        ("http://", "http"),
        ("https://", "http"),
        ("git@", "git"),
        ("git://", "git"),
        ("ssh://", "git"),
        ("target:", "bake target"),
        ("input:", "bake input"),
    ] {
        if lower.starts_with(prefix) {
            let message = format!("{kind} build contexts are not supported yet");
            return Err(Failure::new(FailureKind::Unsupported, message));
        }
    }
    let path = cwd.join(value);
    if path.is_file() {
        return Ok(NamedContext::Image(value.to_string()));
    }
    if path.is_dir() {
        return Ok(NamedContext::Files(path));
    }
    Err(Failure::new(
        FailureKind::Context,
        format!("build context {:?}: no such directory or archive", &**value),
    ))
}

/// The kinds of named contexts, as the plan wants them.
pub(super) fn plan_kinds(contexts: &BTreeMap<String, NamedContext>) -> PlanContexts {
    contexts
        .iter()
        .map(|(name, context)| {
            let kind = match context {
                NamedContext::Files(_) | NamedContext::Fetched(_) => crate::plan::ContextKind::Files,
                NamedContext::Image(_) => crate::plan::ContextKind::Image,
                NamedContext::Scratch => crate::plan::ContextKind::Scratch,
            };
            (name.clone(), kind)
        })
        .collect()
}

/// As the plan's input holds them.
type PlanContexts = BTreeMap<String, crate::plan::ContextKind>;
