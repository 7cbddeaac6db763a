//! A terminal for a program: what it shows from first to last.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A program at work in a terminal.
pub struct AtTerminal {
    pub child: Child,
    master: File,
    screen: vt100::Parser,
    /// Every picture that differed from the one before.
    pub pictures: Vec<String>,
    /// All that was written.
    pub bytes: Vec<u8>,
}

impl AtTerminal {
    /// Starts a program whose three streams are a terminal of this size.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("pty");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&*name, flags, Mode::empty()).expect("terminal");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).expect("size");
        let end = || slave.try_clone().expect("dup");
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("program");
        drop((command, slave));
        let nonzero = |size| std::num::NonZero::new(size).expect("size");
        let screen = vt100::Parser::new(nonzero(rows), nonzero(columns), 0);
        AtTerminal { child, master: master_file(master), screen, pictures: Vec::new(), bytes: Vec::new() }
    }

    pub fn screen(&self) -> String {
        self.screen.screen().contents()
    }

    /// Reads until the screen satisfies `wanted`, or the program has closed the terminal.
    pub fn until(&mut self, wanted: impl Fn(&str) -> bool) -> bool {
        let mut buffer = [0u8; 16 * 1024];
        loop {
            let shown = self.screen();
            if self.pictures.last() != Some(&shown) {
                self.pictures.push(shown.clone());
            }
            if wanted(&shown) {
                return true;
            }
            match self.master.read(&mut buffer) {
                // Linux gives EIO when nobody has the other end open.
                Ok(0) | Err(_) => return false,
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    self.screen.process(&buffer[..count]);
                }
            }
        }
    }

    /// Reads to the end; the exit code and the last picture.
    pub fn end(&mut self) -> (i32, String) {
        self.until(|_| false);
        let status = self.child.wait().expect("end");
        (status.code().unwrap_or(-1), self.screen())
    }
}

fn master_file(master: OwnedFd) -> File {
    master.into()
}
