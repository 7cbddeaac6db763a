//! Asking registries, while a build goes on, whether they will take what it makes.
//!
//! A build that cannot be pushed is ended when that is known, and not after an hour of work. Nothing waits
//! for the answers: a build that is done before them goes on to push.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use crate::cancel::Cancel;
use crate::image::Reference;
use crate::registry::RegistryAccess;

use super::failure::{Failure, FailureKind};

/// Questions under way, and the switch that a refusal or the user ends the build with.
pub(super) struct Asking {
    build: Cancel,
    /// Ends the questions.
    end: Cancel,
    refusal: Arc<Mutex<Option<Failure>>>,
    /// Waits for the user's switch.
    follower: Option<JoinHandle<()>>,
}

impl Asking {
    /// Asks for each repository, in a thread each. `cancel` is the user's switch. Where the system has no
    /// thread or descriptor left, nobody is asked.
    pub fn begin(access: &RegistryAccess, repositories: &[Reference], cancel: &Cancel) -> Self {
        let (Ok(build), Ok(end)) = (Cancel::new(), Cancel::new()) else { return Self::nothing(cancel) };
        let mut asking = Asking { build, end, refusal: Arc::default(), follower: None };
        if repositories.is_empty() || !asking.follow(cancel) {
            return Self::nothing(cancel);
        }
        for name in repositories {
            let (access, name, end) = (access.clone(), name.clone(), asking.end.clone());
            let (build, refusal) = (asking.build.clone(), asking.refusal.clone());
            let ask = move || {
                // A configuration that is wrong fails the push, in its own words.
                let Ok(registry) = access.open(&name.domain, &name.path) else { return };
                let Some(error) = registry.push_refusal(&name.path, &end) else { return };
                let message = format!("cannot push {}: {error}", name.familiar_repository());
                let failure = Failure::new(FailureKind::Output, message);
                refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                build.cancel();
            };
            // Nobody waits for it: looking up a name cannot be cut off. Without a thread nobody asks.
            let _ = std::thread::Builder::new().name("may-push".into()).spawn(ask);
        }
        asking
    }

    /// No questions: the build has the user's switch.
    fn nothing(cancel: &Cancel) -> Self {
        let (build, end) = (cancel.clone(), cancel.clone());
        Asking { build, end, refusal: Arc::default(), follower: None }
    }

    /// Ends the build when the user does; false where there can be no thread for that.
    fn follow(&mut self, cancel: &Cancel) -> bool {
        let (user, build, end) = (cancel.clone(), self.build.clone(), self.end.clone());
        let follow = move || {
            let (stop, done) = (user.fd(), end.fd());
            let mut fds = [PollFd::new(&stop, PollFlags::IN), PollFd::new(&done, PollFlags::IN)];
            while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
            if user.is_cancelled() {
                build.cancel();
            }
        };
        let thread = std::thread::Builder::new().name("may-push-cancel".into()).spawn(follow);
        self.follower = thread.ok();
        self.follower.is_some()
    }

    /// What the build has to be ended by.
    pub fn cancel(&self) -> &Cancel {
        &self.build
    }

    /// A build's result, or the refusal that ended it.
    pub fn ended<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        let refusal = self.refusal.clone();
        drop(self);
        let refusal = refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.map_err(|failure| match failure.kind {
            FailureKind::Interrupted => refusal.unwrap_or(failure),
            _ => failure,
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Without a follower the switches are the user's.
        let Some(follower) = self.follower.take() else { return };
        self.end.cancel();
        let _ = follower.join();
    }
}

/// Whether a registry refused a tag because tags stay where they are: in the words of Google's Artifact Registry,
/// Amazon's ECR and Harbor. The protocol has no code for it.
pub(super) fn is_immutable(message: &str) -> bool {
    let words =
        ["enabled tag immutability", "because the repository is immutable", "configured as immutable"];
    words.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_tags_that_stay_are_known_by_their_words() {
        for message in [
            "cannot push r.test/a:1: The repository has enabled tag immutability. The tag 1 already exists",
            "The image tag '1' cannot be overwritten because the repository is immutable.",
            "Failed to process request due to 'a:1' configured as immutable.",
        ] {
            assert!(is_immutable(message), "{message}");
        }
        assert!(!is_immutable("cannot push r.test/immutable:1: denied"));
    }
}
