//! What a base that was not found may be instead.

use crate::plan::ImageRequest;
use crate::suggest::suggest;

use super::failure::{Failure, FailureKind};

/// Explains a base that was not found: the name of a stage is misspelt, or the machine has no network.
pub(super) fn explained(mut failure: Failure, request: &ImageRequest, stages: &[&str]) -> Failure {
    if failure.kind == FailureKind::Interrupted {
        return failure;
    }
    let is_plain = !request.name.contains(['/', ':', '@', '.']);
    if let Some(near) = suggest(&request.name.to_lowercase(), stages.iter().copied()).filter(|_| is_plain) {
        let message =
            format!("there is no stage {:?}, nor an image of that name: {}", request.name, failure.message);
        failure.message = message;
        return failure.help(format!("did you mean the stage {near:?}?"));
    }
    if failure.help.is_none() && failure.message.contains("no such host") {
        return failure.help(
            "is this machine online? HTTPS_PROXY names a proxy, registries.toml mirrors; --pull=never uses only what \
             the store has",
        );
    }
    failure
}
