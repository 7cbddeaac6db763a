//! Private IDs where this machine has them: decided once, by trying, before the first process runs.
//!
//! Nothing that an image or a Dockerfile contains takes part in the decision. A process that cannot be
//! set up with private IDs fails; it is never run again as this machine's root.

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::spec::SandboxError;

/// Whether private IDs are used, as soon as that is known.
#[derive(Debug, Default)]
pub(super) struct Fallback {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `Err` has the reason.
    decided: Option<Result<(), String>>,
    told: bool,
}

impl Fallback {
    /// The answer; the first caller probes while the others wait. An error means that the machine gave
    /// no answer, which is not a reason to do without.
    pub(super) fn decide(
        &self,
        probe: impl FnOnce() -> Result<(), SandboxError>,
    ) -> Result<bool, SandboxError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.decided.is_none() {
            state.decided = Some(match probe() {
                Ok(()) => Ok(()),
                Err(error) if is_lasting(&error, namespaces_are_forbidden()) => Err(error.to_string()),
                Err(error) => return Err(error.hinted(UNDECIDED)),
            });
        }
        Ok(matches!(state.decided, Some(Ok(()))))
    }

    /// The reason for doing without, once.
    pub(super) fn notice(&self) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Err(reason)) = &state.decided else { return None };
        let text = format!(
            "root in RUN is root of this machine, with Docker's restrictions: {reason} (--userns=host says so)"
        );
        (!std::mem::replace(&mut state.told, true)).then_some(text)
    }
}

const UNDECIDED: &str = "; rbuild was finding out whether this machine has private users for RUN, and does not take this \
                         for a no. Try again, or build with --userns=host";

/// Whether the kernel or a file system said that it cannot do this, or does not allow it. A lack of memory,
/// processes or descriptors, which others can bring about, says nothing of the kind.
fn is_lasting(error: &SandboxError, forbidden: bool) -> bool {
    let SandboxError::Setup { source, .. } = error else { return false };
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(
            Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::OPNOTSUPP
            | Errno::NODEV
            | Errno::NOTTY
            | Errno::OVERFLOW
            | Errno::ROFS,
        ) => true,
        // The limit of namespaces: a machine that allows none has 0.
        Some(Errno::NOSPC | Errno::USERS) => forbidden,
        _ => false,
    }
}

fn namespaces_are_forbidden() -> bool {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    limit.is_ok_and(|limit| limit.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(errno: Errno) -> SandboxError {
        SandboxError::setup("try", errno)
    }

    #[test]
    fn the_first_answer_stays() -> Result<(), SandboxError> {
        let fallback = Fallback::default();
        assert!(!fallback.decide(|| Err(failing(Errno::INVAL)))?);
        assert!(!fallback.decide(|| Ok(()))?);
        assert!(fallback.notice().is_some_and(|text| text.contains("try")));
        assert_eq!(fallback.notice(), None);
        let other = Fallback::default();
        assert!(other.decide(|| Ok(()))?);
        assert!(other.decide(|| Err(failing(Errno::INVAL)))?);
        assert_eq!(other.notice(), None);
        Ok(())
    }

    #[test]
    fn what_others_can_bring_about_is_an_error_and_no_answer() -> Result<(), SandboxError> {
        for errno in [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::NOSPC, Errno::INTR] {
            let fallback = Fallback::default();
            assert!(fallback.decide(|| Err(failing(errno))).is_err(), "{errno}");
            assert_eq!(fallback.notice(), None);
            assert!(fallback.decide(|| Ok(()))?, "{errno}");
        }
        assert!(is_lasting(&failing(Errno::NOSPC), true));
        Ok(())
    }
}
