//! Cancellation: one switch that threads ask and poll loops wait on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A switch that goes from "go on" to "stop" once. Clones share it.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stop: AtomicBool,
    fd: OwnedFd,
}

impl Cancel {
    /// A switch in the "go on" position. Fails only when the process is out of file descriptors.
    pub fn new() -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Cancel(Arc::new(Inner { stop: AtomicBool::new(false), fd })))
    }

    /// Asks everybody to stop. Idempotent.
    pub fn cancel(&self) {
        if !self.0.stop.swap(true, Ordering::SeqCst) {
            // The counter is never read, so one write keeps the descriptor readable for good.
            let _ = rustix::io::write(&self.0.fd, &1u64.to_ne_bytes());
        }
    }

    /// Whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.stop.load(Ordering::SeqCst)
    }

    /// Becomes readable when a stop is asked for; for use with `poll`. Do not read from it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_shows_in_every_clone() {
        let Ok(cancel) = Cancel::new() else { return };
        let other = cancel.clone();
        assert!(!other.is_cancelled());
        cancel.cancel();
        assert!(other.is_cancelled());
    }
}
