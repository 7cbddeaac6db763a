//! A pseudo-terminal between a process and the user's own terminal.
//!
//! The process makes it in the devpts of its own root, so that its name there is right (`tty`, `/dev/console`), and
//! sends rbuild the other end.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
    tcsetwinsize,
};

const BUFFER: usize = 16 * 1024;

/// The builder's end of a pseudo-terminal. Dropping it gives the user's terminal its settings back.
pub(super) struct Terminal {
    master: OwnedFd,
    saved: Option<Termios>,
    input_open: bool,
}

impl Terminal {
    /// Takes the end that the process sends; `None` if it ends before.
    pub fn receive(socket: &OwnedFd) -> Option<Self> {
        let master = receive(socket)?;
        let mut terminal = Terminal { master, saved: None, input_open: true };
        terminal.make_raw();
        terminal.copy_size();
        Some(terminal)
    }

    /// Keys go to the process as they are typed.
    fn make_raw(&mut self) {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return;
        }
        let Ok(settings) = tcgetattr(stdin) else { return };
        let mut raw = settings.clone();
        raw.make_raw();
        if tcsetattr(stdin, OptionalActions::Now, &raw).is_ok() {
            self.saved = Some(settings);
        }
    }

    fn copy_size(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// What to wait for: the process's output, then the user's input.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = vec![PollFd::new(&self.master, PollFlags::IN)];
        if self.input_open {
            let stdin: BorrowedFd<'static> = rustix::stdio::stdin();
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        fds
    }

    /// Carries what is ready. Whether the user typed nothing but the key that the terminal turns into an interrupt.
    pub fn relay(&mut self, ready: &[bool]) -> bool {
        self.copy_size();
        if ready.first() == Some(&true) {
            copy(self.master.as_fd(), rustix::stdio::stdout(), |_| {});
        }
        if ready.get(1) != Some(&true) {
            return false;
        }
        // As the process has set it: a program that reads keys by itself gets this one too.
        let settings = tcgetattr(&self.master).ok();
        let key = settings.filter(|settings| settings.local_modes.contains(LocalModes::ISIG));
        let key = key.map(|settings| settings.special_codes[SpecialCodeIndex::VINTR]);
        let mut interrupts = false;
        let look =
            |typed: &[u8]| interrupts = !typed.is_empty() && typed.iter().all(|byte| Some(*byte) == key);
        self.input_open = copy(rustix::stdio::stdin(), self.master.as_fd(), look);
        interrupts
    }

    /// Carries what is left when the process has ended.
    pub fn drain(&mut self) {
        while copy(self.master.as_fd(), rustix::stdio::stdout(), |_| {}) {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.saved {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, settings);
        }
    }
}

/// Makes a terminal in the devpts at `pts` and sends its other end through `socket`: the process's side, which
/// allocates nothing.
pub(super) fn make(pts: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(pts, c"ptmx", flags, Mode::empty())?;
    unlockpt(&master)?;
    let own = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    send(socket, master.as_fd())?;
    Ok(own)
}

/// Sends a descriptor through a socket. Allocates nothing.
pub(super) fn send(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"t")], &mut control, SendFlags::empty()).map(drop)
}

/// Takes a descriptor out of a socket; `None` where nobody sends one any more.
pub(super) fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, buffers, &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other.ok()?,
        }
    };
    if received.bytes == 0 {
        return None;
    }
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

/// Copies once, and shows what it copies; `false` when there is nothing more.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut look: impl FnMut(&[u8])) -> bool {
    let mut buffer = [0u8; BUFFER];
    let Ok(count) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..count];
    look(rest);
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    count > 0
}
