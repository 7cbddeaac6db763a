//! A failed step as the failure of its build: its kind, and what to do about it.

use crate::cancel::Cancel;
use crate::fs::names_full_disk;
use crate::remote::RemoteError;
use crate::sandbox::SandboxError;
use crate::snapshot::SnapshotError;
use crate::solve::{SolveError, StepError};
use crate::steps::run::RunError;
use crate::store::Store;

use super::failure::{Failure, FailureKind, full_store_help};

/// What the user is told about a failed step, and what to do about it.
pub(super) fn explained(error: SolveError, store: &Store, cancel: &Cancel) -> Failure {
    let SolveError { step, place, error } = error;
    let full_store = || full_store_help(store.root());
    let (kind, help) = match &error {
        _ if error.is_canceled() && cancel.is_cancelled() => (FailureKind::Interrupted, None),
        _ if error.is_no_space() => (FailureKind::Store, Some(full_store())),
        StepError::Run(RunError::Sandbox(
            SandboxError::Setup { .. } | SandboxError::Runtime { .. } | SandboxError::Unavailable(_),
        )) => (FailureKind::Sandbox, None),
        StepError::Run(RunError::Exit { how, code, tail, hint, .. }) => {
            let says_full = tail.iter().any(|line| names_full_disk(line));
            let hint = hint.clone().or_else(|| exit_help(how, *code));
            (FailureKind::Build, if says_full { Some(program_full_help(store)) } else { hint })
        }
        StepError::Run(RunError::Store(_)) => (FailureKind::Store, None),
        StepError::Base(message)
        | StepError::Snapshot(SnapshotError::Fetch(message))
        | StepError::Run(RunError::Snapshot(SnapshotError::Fetch(message)))
            if names_full_disk(message) =>
        {
            (FailureKind::Store, None)
        }
        StepError::Base(_) => (FailureKind::Base, None),
        StepError::Remote(RemoteError::Forbidden(forbidden)) => {
            let failure = Failure::forbidden(forbidden.clone(), FailureKind::Context);
            (failure.kind, failure.help)
        }
        StepError::Remote(_) => (FailureKind::Context, None),
        StepError::Snapshot(SnapshotError::Fetch(_))
        | StepError::Run(RunError::Snapshot(SnapshotError::Fetch(_))) => (FailureKind::Base, None),
        StepError::Snapshot(_) | StepError::Run(RunError::Snapshot(_)) => (FailureKind::Store, None),
        _ => (FailureKind::Build, None),
    };
    let message = error.to_string();
    let (tail, log) = match error {
        StepError::Run(error) => error.into_output(),
        _ => (Vec::new(), None),
    };
    Failure { place, step: Some(step), help, tail, log, ..Failure::new(kind, message) }
}

/// A program said so, and there is space now: it has removed its files, or what was full was memory.
fn program_full_help(store: &Store) -> String {
    format!(
        "the program ran out of space, in the root file system or in a tmpfs such as /dev/shm (--shm-size); {}",
        full_store_help(store.root())
    )
}

/// What usual codes usually mean, where `how` does not name a limit that was hit.
fn exit_help(how: &str, code: i32) -> Option<String> {
    if ["(--memory)", "(--pids-limit)"].iter().any(|limit| how.ends_with(limit)) {
        return None;
    }
    let text = match code {
        126 => "126: the command was found but could not be executed",
        127 => "127: the command was not found in the image",
        137 => "137: the process was killed (SIGKILL), often because memory ran out",
        139 => "139: the program crashed (SIGSEGV)",
        _ => return None,
    };
    Some(text.into())
}
