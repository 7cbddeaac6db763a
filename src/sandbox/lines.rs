//! Output of a process, line by line.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::event::Stream;

use super::spec::OutputSink;

/// Longest piece of output handed on as one line.
const LINE_LIMIT: usize = 64 * 1024;
const READ_BUFFER: usize = 64 * 1024;

/// Cuts a stream into lines.
pub(super) struct Lines {
    stream: Stream,
    pending: Vec<u8>,
    /// Parts of the line were handed on already.
    cut: bool,
    buffer: Vec<u8>,
}

impl Lines {
    pub fn new(stream: Stream) -> Self {
        Lines { stream, pending: Vec::new(), cut: false, buffer: vec![0; READ_BUFFER] }
    }

    /// Reads once; `false` at the end.
    pub fn read(&mut self, fd: &OwnedFd, output: &dyn OutputSink) -> bool {
        let count = match rustix::io::read(fd, &mut self.buffer[..]) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(Errno::INTR) => return true,
            Err(_) => return false,
        };
        for piece in self.buffer[..count].split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.pending.pop();
                if self.pending.last() == Some(&b'\r') {
                    self.pending.pop();
                }
                output.line(self.stream, &self.pending);
                self.pending.clear();
                self.cut = false;
            } else if self.pending.len() >= LINE_LIMIT {
                output.part(self.stream, &self.pending);
                self.pending.clear();
                self.cut = true;
            }
        }
        if !self.pending.is_empty() {
            output.unfinished(self.stream, &self.pending);
        }
        true
    }

    pub fn flush(&mut self, output: &dyn OutputSink) {
        if !self.pending.is_empty() || self.cut {
            output.line(self.stream, &self.pending);
            self.pending.clear();
            self.cut = false;
        }
    }
}
