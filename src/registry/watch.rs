//! Cutting connections off when the user cancels.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::cancel::Cancel;

use super::pools::Agents;

/// A thread that cuts connections when the user cancels, since a thread blocked in a read cannot ask.
/// Ends when dropped.
pub(super) struct Watch {
    done: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `None` where the system has no thread or descriptor left; cancellation is then noticed
    /// between two reads only.
    pub(super) fn new(cancel: Cancel, agents: Arc<Agents>) -> Option<Self> {
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).ok()?);
        let ended = done.clone();
        let wait = move || {
            let (cancelled, ended) = (cancel.fd(), ended.as_fd());
            let mut fds = [PollFd::new(&cancelled, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
            while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
            if cancel.is_cancelled() {
                agents.close();
            }
        };
        let thread = std::thread::Builder::new().name("registry-cancel".into()).stack_size(64 << 10);
        Some(Watch { done, thread: Some(thread.spawn(wait).ok()?) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.done, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
