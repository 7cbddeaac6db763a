//! A pseudo-terminal between a process and the user's own terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

const BUFFER: usize = 16 * 1024;

/// The builder's end of a pseudo-terminal. Dropping it gives the user's terminal its settings back.
pub(super) struct Terminal {
    master: OwnedFd,
    saved: Option<Termios>,
    input_open: bool,
}

impl Terminal {
    /// A terminal, and three copies of the process's end.
    pub fn open() -> io::Result<(Self, [OwnedFd; 3])> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&*name, flags, Mode::empty())?;
        let mut terminal = Terminal { master, saved: None, input_open: true };
        terminal.make_raw();
        terminal.copy_size();
        Ok((terminal, [slave.try_clone()?, slave.try_clone()?, slave]))
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

    /// Carries what is ready.
    pub fn relay(&mut self, ready: &[bool]) {
        self.copy_size();
        if ready.first() == Some(&true) {
            copy(self.master.as_fd(), rustix::stdio::stdout());
        }
        if ready.get(1) == Some(&true) && !copy(rustix::stdio::stdin(), self.master.as_fd()) {
            self.input_open = false;
        }
    }

    /// Carries what is left when the process has ended.
    pub fn drain(&mut self) {
        while copy(self.master.as_fd(), rustix::stdio::stdout()) {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.saved {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, settings);
        }
    }
}

/// Copies once; `false` when there is nothing more.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; BUFFER];
    let Ok(count) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = &buffer[..count];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    count > 0
}
