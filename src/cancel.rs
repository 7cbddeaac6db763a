//! Cancellation: one switch that threads ask and poll loops wait on.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

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

/// A switch that follows another one, and can be switched alone. Dropped, it follows no longer.
#[derive(Debug)]
pub struct Follower {
    cancel: Cancel,
    done: Cancel,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Cancel {
    /// A switch for a part of the work, which may be given up while the rest goes on.
    pub fn follower(&self) -> io::Result<Follower> {
        let (cancel, done) = (Cancel::new()?, Cancel::new()?);
        let (leader, own, end) = (self.clone(), cancel.clone(), done.clone());
        let follow = move || {
            loop {
                let (first, second) = (leader.fd(), end.fd());
                let mut ready = [PollFd::new(&first, PollFlags::IN), PollFd::new(&second, PollFlags::IN)];
                match poll(&mut ready, None) {
                    Err(Errno::INTR) => {}
                    _ if leader.is_cancelled() => return own.cancel(),
                    _ => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("cancel".into()).spawn(follow)?;
        Ok(Follower { cancel, done, thread: Some(thread) })
    }
}

impl Follower {
    /// The switch.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.done.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A file, pipe or terminal whose reader stops waiting when it is cancelled. That is an error then.
#[derive(Debug)]
pub struct CancelRead<F> {
    file: F,
    cancel: Cancel,
}

impl<F: AsFd> CancelRead<F> {
    /// Reads from `file`.
    pub fn new(file: F, cancel: &Cancel) -> Self {
        CancelRead { file, cancel: cancel.clone() }
    }
}

impl CancelRead<BorrowedFd<'static>> {
    /// Reads from standard input, past any buffer of the standard library.
    pub fn stdin(cancel: &Cancel) -> Self {
        CancelRead::new(rustix::stdio::stdin(), cancel)
    }
}

impl<F: AsFd> Read for CancelRead<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("canceled"));
            }
            let stop = self.cancel.fd();
            let mut ready = [PollFd::new(&self.file, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) if ready[0].revents().is_empty() => continue,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            match rustix::io::read(&self.file, &mut *buffer) {
                // Another reader of the same pipe was faster, or a signal came.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other.map_err(Into::into),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_switched_with_its_leader_and_not_the_other_way() -> io::Result<()> {
        let leader = Cancel::new()?;
        let (one, two) = (leader.follower()?, leader.follower()?);
        one.cancel().cancel();
        assert!(!leader.is_cancelled() && !two.cancel().is_cancelled());
        leader.cancel();
        while !two.cancel().is_cancelled() {
            std::thread::yield_now();
        }
        Ok(())
    }

    #[test]
    fn a_reader_that_waits_for_a_pipe_is_woken() -> io::Result<()> {
        let cancel = Cancel::new()?;
        let (reader, writer) = rustix::pipe::pipe()?;
        let mut pipe = CancelRead::new(reader, &cancel);
        rustix::io::write(&writer, b"ab")?;
        let mut buffer = [0; 8];
        assert_eq!(pipe.read(&mut buffer)?, 2);
        let waiting = std::thread::spawn(move || pipe.read(&mut [0; 8]).is_err());
        cancel.cancel();
        assert!(waiting.join().unwrap_or(false));
        drop(writer);
        Ok(())
    }

    #[test]
    fn cancelling_shows_in_every_clone() {
        let Ok(cancel) = Cancel::new() else { return };
        let other = cancel.clone();
        assert!(!other.is_cancelled());
        cancel.cancel();
        assert!(other.is_cancelled());
    }
}
