//! What the steps of a build print, as it is remembered: lines in the order in which they came.
//!
//! A line is `PLATFORM.STEP<tab>STREAM<tab>MILLISECONDS<tab>TEXT`: positions in the build's record, 1 or 2, and the time
//! since the step began. All of it is one zstd frame. The file has no name until the build has ended.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};

use crate::event::Stream;
use crate::store::Store;

/// Bytes that are kept of one build, before they are compressed.
const MOST: u64 = 128 << 20;

/// A log that grows.
#[derive(Default)]
pub(super) struct Log {
    encoder: Option<zstd::Encoder<'static, File>>,
    bytes: u64,
    /// A disk that takes no more, or too much was printed.
    ended: bool,
}

impl Log {
    /// Adds a line. What cannot be kept is left out, and the rest with it.
    pub fn add(&mut self, store: &Store, place: (usize, usize), stream: Stream, millis: u64, line: &[u8]) {
        if self.ended {
            return;
        }
        self.bytes = self.bytes.saturating_add(line.len() as u64 + 16);
        let stream = if stream == Stream::Stdout { 1 } else { 2 };
        let head = format!("{}.{}\t{stream}\t{millis}\t", place.0, place.1);
        let too_long = self.bytes > MOST;
        let text: &[u8] = if too_long { b"[... more output is not kept ...]" } else { line };
        self.ended = self.write(store, &[head.as_bytes(), text, b"\n"]).is_err() || too_long;
    }

    fn write(&mut self, store: &Store, parts: &[&[u8]]) -> io::Result<()> {
        if self.encoder.is_none() {
            let mut encoder = zstd::Encoder::new(tempfile::tempfile_in(store.scratch_path())?, 1)?;
            encoder.include_checksum(true)?;
            self.encoder = Some(encoder);
        }
        match &mut self.encoder {
            Some(encoder) => parts.iter().try_for_each(|part| encoder.write_all(part)),
            None => Ok(()),
        }
    }

    /// The compressed file; `None` where nothing was printed or it cannot be kept.
    pub fn finish(self) -> Option<File> {
        self.encoder?.finish().ok()
    }
}

/// A line that a step printed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Position of the platform in the build's record.
    pub platform: usize,
    /// Position of the step among the platform's.
    pub step: usize,
    /// 1 is standard output, 2 standard error.
    pub stream: u8,
    /// Milliseconds since the step began.
    pub millis: u64,
    /// As the process wrote it, without secrets.
    pub line: Vec<u8>,
}

/// Reads the lines of a log. What is no line is left out.
pub fn read_log(log: impl Read) -> impl Iterator<Item = io::Result<LogLine>> {
    // A little more than is ever written: a file that says otherwise is damaged.
    let mut lines = BufReader::new(log.take(MOST + (64 << 10))).split(b'\n');
    std::iter::from_fn(move || {
        loop {
            match lines.next()? {
                Err(error) => return Some(Err(error)),
                Ok(line) => {
                    if let Some(line) = parse(&line) {
                        return Some(Ok(line));
                    }
                }
            }
        }
    })
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let mut cells = line.splitn(4, |c| *c == b'\t');
    let mut text = || std::str::from_utf8(cells.next()?).ok();
    let (place, stream, millis) = (text()?, text()?, text()?);
    let (platform, step) = place.split_once('.')?;
    Some(LogLine {
        platform: platform.parse().ok()?,
        step: step.parse().ok()?,
        stream: stream.parse().ok()?,
        millis: millis.parse().ok()?,
        line: cells.next()?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let mut log = Log::default();
        log.add(&store, (0, 3), Stream::Stdout, 12, b"a\tb \xff");
        log.add(&store, (1, 0), Stream::Stderr, 0, b"");
        let mut file = log.finish().ok_or("nothing was kept")?;
        io::Seek::rewind(&mut file)?;
        let lines: Vec<LogLine> = read_log(zstd::Decoder::new(file)?).collect::<io::Result<_>>()?;
        let line = |platform, step, stream, millis, line: &[u8]| LogLine {
            platform,
            step,
            stream,
            millis,
            line: line.to_vec(),
        };
        assert_eq!(lines, [line(0, 3, 1, 12, b"a\tb \xff"), line(1, 0, 2, 0, b"")]);
        assert!(Log::default().finish().is_none());
        Ok(())
    }

    #[test]
    fn of_endless_output_the_beginning_is_kept() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let mut log = Log { bytes: MOST - 40, ..Log::default() };
        for _ in 0..1000 {
            log.add(&store, (0, 0), Stream::Stdout, 0, b"0123456789");
        }
        let mut file = log.finish().ok_or("nothing was kept")?;
        io::Seek::rewind(&mut file)?;
        let lines: Vec<LogLine> = read_log(zstd::Decoder::new(file)?).collect::<io::Result<_>>()?;
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].line, b"[... more output is not kept ...]");
        Ok(())
    }
}
