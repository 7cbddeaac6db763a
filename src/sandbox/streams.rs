//! The standard streams of a process: what it gets, and what becomes of the other ends.
//!
//! Pipes and terminals made here belong to the user of the process, as container engines have it: only
//! so can it open `/dev/stdout` and `/dev/stderr` by name. What belongs to rbuild's caller keeps its owner
//! and is not handed in, but for the input: a process reads from that just as much as it needs.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::isatty;

use crate::event::Stream;

use super::prepare::Plan;
use super::spec::{SandboxError, Stdio};

const BUFFER: usize = 64 * 1024;

/// Both ends of the standard streams of a process.
pub(super) struct Wiring {
    /// Input, output and errors, for the process.
    pub child_ends: [OwnedFd; 3],
    /// What is read line by line.
    pub output: Vec<(Stream, OwnedFd)>,
    pub relays: Vec<Relay>,
    /// Where the terminal that the process makes arrives, and the end that the process sends it through.
    pub terminal: Option<(OwnedFd, OwnedFd)>,
}

/// Who owns the streams, as rbuild sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamOwner {
    pub uid: u32,
    pub gid: u32,
}

impl StreamOwner {
    /// Not the group of the process, as runc has it: a terminal must keep its own.
    pub(super) fn give(self, fd: &OwnedFd, group: bool) {
        // Where rbuild has not the right, the streams work all the same; only opening them by name does not.
        let gid = group.then(|| Gid::from_raw(self.gid));
        let _ = fchown(fd, Some(Uid::from_raw(self.uid)), gid);
    }
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| SandboxError::setup("make a pipe", errno))
}

fn owned_pipe(plan: &Plan) -> Result<(OwnedFd, OwnedFd), SandboxError> {
    let (read, write) = pipe()?;
    if let Some(owner) = plan.stream_owner {
        owner.give(&write, true);
    }
    Ok((read, write))
}

fn copy(fd: impl AsFd) -> Result<OwnedFd, SandboxError> {
    fd.as_fd().try_clone_to_owned().map_err(|error| SandboxError::setup("copy a stream", error))
}

impl Wiring {
    pub(super) fn make(stdio: Stdio, plan: &Plan) -> Result<Self, SandboxError> {
        match stdio {
            Stdio::Lines => Self::lines(plan, false),
            Stdio::Merged => Self::lines(plan, true),
            Stdio::Inherit => Self::inherit(plan),
            Stdio::Terminal => Self::terminal(),
        }
    }

    fn terminal() -> Result<Self, SandboxError> {
        let null = || File::open("/dev/null").map_err(|error| SandboxError::setup("open /dev/null", error));
        let flags = SocketFlags::CLOEXEC;
        let sockets = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| SandboxError::setup("make a socket", errno))?;
        let child_ends = [null()?.into(), null()?.into(), null()?.into()];
        Ok(Wiring { child_ends, output: Vec::new(), relays: Vec::new(), terminal: Some(sockets) })
    }

    fn lines(plan: &Plan, merged: bool) -> Result<Self, SandboxError> {
        let null = File::open("/dev/null").map_err(|error| SandboxError::setup("open /dev/null", error))?;
        let (out_read, out_write) = owned_pipe(plan)?;
        let mut output = vec![(Stream::Stdout, out_read)];
        let err_write = if merged {
            copy(&out_write)?
        } else {
            let (err_read, err_write) = owned_pipe(plan)?;
            output.push((Stream::Stderr, err_read));
            err_write
        };
        Ok(Wiring {
            child_ends: [null.into(), out_write, err_write],
            output,
            relays: Vec::new(),
            terminal: None,
        })
    }

    fn inherit(plan: &Plan) -> Result<Self, SandboxError> {
        let (own_out, own_err) = (rustix::stdio::stdout(), rustix::stdio::stderr());
        let mut relays = Vec::new();
        let mut end = |own: BorrowedFd<'static>| {
            if is_open_to_all(own) {
                return copy(own);
            }
            let (read, write) = owned_pipe(plan)?;
            relays.push(Relay::start(read, own)?);
            Ok(write)
        };
        let out = end(own_out)?;
        // One pipe for both keeps the order of what is written to them.
        let err = if is_same(own_out, own_err) { copy(&out)? } else { end(own_err)? };
        let child_ends = [copy(rustix::stdio::stdin())?, out, err];
        Ok(Wiring { child_ends, output: Vec::new(), relays, terminal: None })
    }
}

/// Whether it is a device such as `/dev/null`, which anybody may open.
fn is_open_to_all(fd: BorrowedFd<'_>) -> bool {
    let is_device =
        fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice);
    is_device && !isatty(fd)
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// A thread that carries what a process writes to a stream of rbuild's caller.
pub(super) struct Relay {
    thread: JoinHandle<()>,
}

impl Relay {
    fn start(from: OwnedFd, to: BorrowedFd<'static>) -> Result<Self, SandboxError> {
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || carry(&from, to))
            .map_err(|error| SandboxError::setup("start a thread", error))?;
        Ok(Relay { thread })
    }

    /// Waits until all that was written has arrived.
    pub(super) fn finish(self) {
        let _ = self.thread.join();
    }
}

/// Ends when nobody can write any more, or when nobody reads any more: then the pipe is closed, which the
/// process notices as usual.
fn carry(from: &OwnedFd, to: BorrowedFd<'_>) {
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let mut rest = match rustix::io::read(from, &mut buffer[..]) {
            Ok(0) => return,
            Ok(count) => &buffer[..count],
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                // The caller shares it with somebody who made it so.
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
                }
                Err(_) => return,
            }
        }
    }
}
