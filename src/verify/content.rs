//! Where two files begin to differ, and what is to be seen there.

use std::io::{self, Read};

use serde::Serialize;

use super::guess::{self, Guess};

/// Bytes of both files that are looked at as a whole.
const WHOLE: usize = 8 << 20;
/// Bytes of an excerpt before and from the first difference on.
const BEFORE: usize = 16;
const AFTER: usize = 24;

/// The first difference of two contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContentDifference {
    /// Offset of the first byte that differs; the length of the shorter one where that is a beginning
    /// of the other.
    pub offset: u64,
    /// What the first has there, as text or hexadecimal.
    pub old: String,
    /// What the second has there.
    pub new: String,
    /// What it probably is.
    pub guess: Option<Guess>,
}

/// Both contents as far as they are kept, and where they differ.
pub(super) struct Pair {
    pub offset: u64,
    pub old: Vec<u8>,
    pub new: Vec<u8>,
    /// Whether `old` and `new` are everything.
    pub whole: bool,
}

/// Compares two streams of the file at `path`.
pub(super) fn compare(path: &[u8], old: impl Read, new: impl Read) -> io::Result<Option<ContentDifference>> {
    let (mut old_stream, mut new_stream) = (old, new);
    let mut old = Vec::new();
    let mut new = Vec::new();
    old_stream.by_ref().take(WHOLE as u64).read_to_end(&mut old)?;
    new_stream.by_ref().take(WHOLE as u64).read_to_end(&mut new)?;
    let whole = old.len() < WHOLE && new.len() < WHOLE;
    if let Some(offset) = first_difference(&old, &new) {
        let excerpts = (excerpt(&old, offset), excerpt(&new, offset));
        let pair = Pair { offset: offset as u64, old, new, whole };
        return Ok(Some(found(path, &pair, excerpts)));
    }
    let mut base = old.len() as u64;
    // Files of this size: window by window, the beginnings stay for the guess.
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        old_stream.by_ref().take(1 << 20).read_to_end(&mut a)?;
        new_stream.by_ref().take(1 << 20).read_to_end(&mut b)?;
        if let Some(at) = first_difference(&a, &b) {
            let excerpts = (excerpt(&a, at), excerpt(&b, at));
            let pair = Pair { offset: base + at as u64, old, new, whole: false };
            return Ok(Some(found(path, &pair, excerpts)));
        }
        if a.is_empty() {
            return Ok(None);
        }
        base += a.len() as u64;
    }
}

fn found(path: &[u8], pair: &Pair, (old, new): (String, String)) -> ContentDifference {
    ContentDifference { offset: pair.offset, old, new, guess: guess::guess(path, pair) }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    match a.iter().zip(b).position(|(x, y)| x != y) {
        Some(at) => Some(at),
        None => (a.len() != b.len()).then(|| a.len().min(b.len())),
    }
}

/// Some bytes around a place: as text where all of them are, else in hexadecimal.
fn excerpt(content: &[u8], at: usize) -> String {
    let from = at.saturating_sub(BEFORE);
    let to = content.len().min(at + AFTER);
    let Some(bytes) = content.get(from..to) else { return String::new() };
    if at >= content.len() {
        return "(end of file)".into();
    }
    let is_text = bytes.iter().all(|byte| byte.is_ascii_graphic() || b" \t\n\r".contains(byte));
    if is_text {
        return format!("{:?}", String::from_utf8_lossy(bytes));
    }
    let mut out = String::new();
    for (position, byte) in bytes.iter().enumerate() {
        if from + position == at {
            out.push('|');
        } else if position > 0 {
            out.push(' ');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_in_files_of_every_size() -> io::Result<()> {
        let at =
            |old: &[u8], new: &[u8]| compare(b"f", old, new).map(|found| found.map(|found| found.offset));
        assert_eq!(at(b"abc", b"abc")?, None);
        assert_eq!(at(b"abc", b"abd")?, Some(2));
        assert_eq!(at(b"abc", b"abcd")?, Some(3));
        let big = vec![7; WHOLE + (2 << 20)];
        assert_eq!(at(&big, &big)?, None);
        let mut other = big.clone();
        other[WHOLE + (1 << 20) + 5] = 8;
        assert_eq!(at(&big, &other)?, Some((WHOLE + (1 << 20) + 5) as u64));
        assert_eq!(at(&big, &big[1..])?, Some((big.len() - 1) as u64));
        assert_eq!(excerpt(b"a\x00b", 1), "61|00 62");
        assert_eq!(excerpt(b"ab", 2), "(end of file)");
        Ok(())
    }
}
