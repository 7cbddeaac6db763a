//! The whole output of a step, as far as it is reasonable to keep: its beginning and its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::path::PathBuf;

/// Bytes of the beginning.
const BEGINNING: usize = 16 << 20;
/// Bytes of the end of what is longer.
const END: usize = 1 << 20;
/// Bytes that wait in memory; most steps say less in all.
const BUFFER: usize = 256 << 10;

/// Collects lines. Nothing is written to a disk before there is much of it.
#[derive(Debug)]
pub(super) struct StepLog {
    dir: PathBuf,
    buffer: Vec<u8>,
    file: Option<File>,
    written: usize,
    end: VecDeque<u8>,
    left_out: u64,
    lines: usize,
}

impl StepLog {
    /// A log whose bulk goes to a nameless file in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        StepLog {
            dir,
            buffer: Vec::new(),
            file: None,
            written: 0,
            end: VecDeque::new(),
            left_out: 0,
            lines: 0,
        }
    }

    /// Lines so far.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// Adds a line. A disk that takes no more costs lines of the log and nothing else.
    pub fn push(&mut self, line: &[u8]) {
        self.lines += 1;
        if self.written + self.buffer.len() + line.len() < BEGINNING
            && self.left_out == 0
            && self.end.is_empty()
        {
            self.buffer.extend_from_slice(line);
            self.buffer.push(b'\n');
            if self.buffer.len() >= BUFFER {
                self.spill();
            }
            return;
        }
        self.end.extend(line);
        self.end.push_back(b'\n');
        let over = self.end.len().saturating_sub(END);
        self.end.drain(..over);
        self.left_out += over as u64;
    }

    fn spill(&mut self) {
        if self.file.is_none() {
            self.file = tempfile::tempfile_in(&self.dir).ok();
        }
        let done = self.file.as_mut().is_some_and(|file| file.write_all(&self.buffer).is_ok());
        if done {
            self.written += self.buffer.len();
        } else {
            self.left_out += self.buffer.len() as u64;
        }
        self.buffer.clear();
    }

    /// Writes all that was kept.
    pub fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.rewind()?;
            io::copy(file, out)?;
        }
        out.write_all(&self.buffer)?;
        if self.left_out > 0 {
            writeln!(out, "\n[... {} bytes of output are not kept ...]", self.left_out)?;
        }
        let (first, second) = self.end.as_slices();
        out.write_all(first)?;
        out.write_all(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(log: &mut StepLog) -> String {
        let mut out = Vec::new();
        log.write_to(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn short_output_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = StepLog::new(dir.path().to_owned());
        log.push(b"one");
        log.push(b"two");
        assert_eq!((written(&mut log).as_str(), log.lines()), ("one\ntwo\n", 2));
    }

    #[test]
    fn of_long_output_the_beginning_and_the_end_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = StepLog::new(dir.path().to_owned());
        let line = vec![b'x'; 999];
        log.push(b"the first");
        for _ in 0..20_000 {
            log.push(&line);
        }
        log.push(b"the last");
        let text = written(&mut log);
        assert!(text.starts_with("the first\nxxx") && text.ends_with("xxx\nthe last\n"));
        assert!(text.contains("bytes of output are not kept"));
        assert!(text.len() > BEGINNING && text.len() < BEGINNING + END + 100, "{}", text.len());
    }
}
