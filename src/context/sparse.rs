//! Sparse files in tar archives: which parts of a file an archive holds. Between them are zeros.
//!
//! GNU tar's manual ("Storing Sparse Files") has three forms by pax records: 0.0 with a record for every
//! number, 0.1 with one for all of them, and 1.0, where the numbers precede the content. What is taken
//! for one of them, and what for damage, is as in Go's archive/tar, which BuildKit reads with.

use std::io::{self, Read};

/// Longest list of parts that is read: as much as any other extension of a header.
const MAX_MAP: u64 = 1 << 20;
const BLOCK: usize = 512;
/// Digits of the largest number.
const MAX_DIGITS: usize = 20;

/// A part of a file that the archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What a file is made of, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stretch {
    /// So many zeros that the archive does not hold.
    Hole(u64),
    /// So many bytes of the archive.
    Stored(u64),
}

/// A file with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparseMap {
    size: u64,
    parts: Vec<Part>,
}

/// What the pax records of an entry say of a sparse file.
#[derive(Clone, Debug, Default)]
pub struct SparseRecords {
    version: [Option<Vec<u8>>; 2],
    name: Option<Vec<u8>>,
    size: Option<u64>,
    blocks: Option<u64>,
    numbers: Vec<u64>,
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sparse file: {text}"))
}

fn number(digits: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("a bad number"))
}

impl SparseMap {
    /// A file of `size` bytes of which the archive holds `parts`, all in all `stored` bytes. An error of
    /// the kind `InvalidData` where the parts overlap, are not in order or lie beyond the file's end, or
    /// where the archive holds more or less.
    pub fn new(size: u64, parts: Vec<Part>, stored: u64) -> io::Result<Self> {
        if i64::try_from(size).is_err() {
            return Err(invalid("its size is out of range"));
        }
        let mut end = 0;
        let mut sum = 0u64;
        for part in &parts {
            if part.offset < end {
                return Err(invalid("its parts overlap or are not in order"));
            }
            let past = part.offset.checked_add(part.length).filter(|past| *past <= size);
            end = past.ok_or_else(|| invalid("a part lies beyond its end"))?;
            sum += part.length;
        }
        if sum != stored {
            return Err(invalid("the archive does not hold what its parts need"));
        }
        Ok(SparseMap { size, parts })
    }

    /// The file's size in bytes, with its holes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file from its beginning to its end; nothing in it is empty.
    pub fn stretches(&self) -> Vec<Stretch> {
        let mut all = Vec::new();
        let mut at = 0;
        let end = Part { offset: self.size, length: 0 };
        for part in self.parts.iter().chain([&end]) {
            if part.offset > at {
                all.push(Stretch::Hole(part.offset - at));
            }
            if part.length > 0 {
                all.push(Stretch::Stored(part.length));
            }
            at = part.offset + part.length;
        }
        all
    }
}

impl SparseRecords {
    /// Takes a record of an entry; those that are of other things do nothing.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let Some(key) = key.strip_prefix(b"GNU.sparse.") else { return Ok(()) };
        match key {
            b"major" => self.version[0] = Some(value.to_vec()),
            b"minor" => self.version[1] = Some(value.to_vec()),
            b"name" if !value.is_empty() => self.name = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"realsize" if self.size.is_none() => self.size = Some(number(value)?),
            b"numblocks" => self.blocks = Some(number(value)?),
            b"offset" | b"numbytes" => {
                if (key == b"offset") != self.numbers.len().is_multiple_of(2) {
                    return Err(invalid("its records are not in order"));
                }
                self.numbers.push(number(value)?);
            }
            b"map" if value.is_empty() => self.numbers.clear(),
            b"map" => self.numbers = value.split(|c| *c == b',').map(number).collect::<io::Result<_>>()?,
            _ => {}
        }
        Ok(())
    }

    /// Whether the entry is a sparse file. Versions that nobody knows are errors: their content would not
    /// be the file's.
    pub fn is_sparse(&self) -> io::Result<bool> {
        match self.version.each_ref().map(Option::as_deref) {
            [None, None] => Ok(!self.numbers.is_empty()),
            [Some(b"0"), Some(b"0" | b"1")] | [Some(b"1"), Some(b"0")] => Ok(true),
            version => {
                let shown = version.map(|part| String::from_utf8_lossy(part.unwrap_or(b"?")).into_owned());
                Err(invalid(&format!("version {} is not supported", shown.join("."))))
            }
        }
    }

    /// The file's name; the header has another, for programs that do not know of sparse files.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The map of a sparse file of which the archive holds `stored` bytes. In the form 1.0 its first
    /// blocks are the map: they are read from `content`, and what is left is the file.
    pub fn map(&self, content: &mut impl Read, stored: u64) -> io::Result<SparseMap> {
        let size = self.size.unwrap_or(stored);
        if self.version[0].as_deref() == Some(b"1") {
            let (parts, read) = read_map(content, stored)?;
            return SparseMap::new(size, parts, stored - read);
        }
        let (pairs, odd) = self.numbers.as_chunks::<2>();
        if !odd.is_empty() || self.blocks != Some(pairs.len() as u64) {
            return Err(invalid("its map is not complete"));
        }
        let parts = pairs.iter().map(|[offset, length]| Part { offset: *offset, length: *length });
        SparseMap::new(size, parts.collect(), stored)
    }
}

/// The map before the content: lines with the number of parts, then each one's offset and length, filled
/// up to a block. Also says how many bytes that were.
fn read_map(content: &mut impl Read, stored: u64) -> io::Result<(Vec<Part>, u64)> {
    let mut lines = Lines { content, stored: stored.min(MAX_MAP), read: 0, block: [0; BLOCK], at: BLOCK };
    let mut parts = Vec::new();
    for _ in 0..lines.number()? {
        parts.push(Part { offset: lines.number()?, length: lines.number()? });
    }
    Ok((parts, lines.read))
}

struct Lines<'a, R> {
    content: &'a mut R,
    /// Most bytes that there are to read.
    stored: u64,
    read: u64,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> io::Result<u64> {
        let mut digits = Vec::with_capacity(MAX_DIGITS);
        loop {
            match self.byte()? {
                b'\n' => return number(&digits),
                _ if digits.len() == MAX_DIGITS => return Err(invalid("a bad number")),
                byte => digits.push(byte),
            }
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        if self.at == BLOCK {
            self.read += BLOCK as u64;
            if self.read > self.stored {
                return Err(invalid("its map does not end"));
            }
            self.content.read_exact(&mut self.block)?;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(size: u64, parts: &[(u64, u64)], stored: u64) -> io::Result<SparseMap> {
        let parts = parts.iter().map(|(offset, length)| Part { offset: *offset, length: *length });
        SparseMap::new(size, parts.collect(), stored)
    }

    fn records(rows: &[(&str, &str)]) -> io::Result<SparseRecords> {
        let mut records = SparseRecords::default();
        for (key, value) in rows {
            records.take(format!("GNU.sparse.{key}").as_bytes(), value.as_bytes())?;
        }
        Ok(records)
    }

    #[test]
    fn maps_that_make_no_file_are_refused() {
        for (size, parts, stored, reason) in [
            (10, &[(0, 4), (3, 2)][..], 6, "overlap"),
            (10, &[(5, 1), (0, 1)], 2, "order"),
            (10, &[(8, 3)], 3, "beyond"),
            (10, &[(11, 0)], 0, "beyond"),
            (10, &[(5, u64::MAX)], 0, "beyond"),
            (10, &[(u64::MAX, u64::MAX)], 0, "beyond"),
            (1 << 63, &[], 0, "range"),
            (10, &[(0, 4)], 3, "does not hold"),
            (10, &[(0, 4)], 5, "does not hold"),
        ] {
            let error = map(size, parts, stored).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(reason)), "{parts:?}: {error:?}");
        }
    }

    #[test]
    fn a_file_is_its_holes_and_parts_in_order() -> io::Result<()> {
        use Stretch::{Hole, Stored};
        let of =
            |size, parts: &[(u64, u64)], stored| Ok::<_, io::Error>(map(size, parts, stored)?.stretches());
        assert_eq!(of(0, &[], 0)?, []);
        assert_eq!(of(9, &[], 0)?, [Hole(9)]);
        assert_eq!(of(9, &[(9, 0)], 0)?, [Hole(9)]);
        assert_eq!(of(9, &[(0, 2), (2, 1), (5, 4)], 7)?, [Stored(2), Stored(1), Hole(2), Stored(4)]);
        Ok(())
    }

    #[test]
    fn the_forms_are_told_by_their_records() -> io::Result<()> {
        for (rows, content, stored) in [
            (&[("size", "9"), ("numblocks", "1"), ("offset", "4"), ("numbytes", "2")][..], "", 2),
            (&[("major", "0"), ("minor", "1"), ("realsize", "9"), ("numblocks", "1"), ("map", "4,2")], "", 2),
            (&[("major", "1"), ("minor", "0"), ("realsize", "9"), ("name", "n")], "1\n4\n2\n", 514),
        ] {
            let records = records(rows)?;
            assert!(records.is_sparse()?);
            let mut block = content.as_bytes().to_vec();
            block.resize(BLOCK, 0);
            assert_eq!(records.map(&mut &block[..], stored)?, map(9, &[(4, 2)], 2)?, "{rows:?}");
        }
        assert!(!records(&[("size", "9")])?.is_sparse()?);
        Ok(())
    }

    #[test]
    fn records_that_are_wrong_are_refused() {
        let no_map = |rows: &[(&str, &str)], content: &[u8]| {
            let read = records(rows).and_then(|records| {
                records.is_sparse()?;
                records.map(&mut &content[..], content.len() as u64)
            });
            assert!(read.is_err(), "{rows:?}: {read:?}");
        };
        no_map(&[("major", "2"), ("minor", "0")], b"");
        no_map(&[("major", "1")], b"");
        no_map(&[("offset", "1"), ("offset", "1")], b"");
        no_map(&[("numbytes", "1")], b"");
        no_map(&[("size", "-1")], b"");
        no_map(&[("size", "9"), ("numblocks", "2"), ("map", "1,0")], b"");
        no_map(&[("size", "9"), ("numblocks", "1"), ("map", "1,0,4")], b"");
        no_map(&[("size", "9"), ("map", "1,0")], b"");
        let one = [("major", "1"), ("minor", "0"), ("realsize", "9")];
        no_map(&one, &[b'1'; 4096]);
        no_map(&one, &[&b"1\n4\n"[..], &[0; 508]].concat());
        no_map(&one, &[&b"-1\n"[..], &[0; 509]].concat());
        no_map(&one, b"1\n4\n2\n");
        no_map(&one, &b"9999999999\n".repeat(200_000));
    }

    proptest! {
        #[test]
        fn what_is_accepted_adds_up(
            size in 0u64..2000,
            parts in prop::collection::vec((0u64..2000, 0u64..500), 0..6),
        ) {
            let stored = parts.iter().map(|(_, length)| length).sum();
            if let Ok(map) = map(size, &parts, stored) {
                let mut sums = [0, 0];
                for stretch in map.stretches() {
                    match stretch {
                        Stretch::Hole(length) => sums[0] += length,
                        Stretch::Stored(length) => sums[1] += length,
                    }
                }
                prop_assert_eq!((sums[0] + sums[1], sums[1]), (map.size(), stored));
            }
        }

        #[test]
        fn no_map_before_content_panics(text in "[0-9\\n]{0,600}", stored in 0u64..2000) {
            let mut records = SparseRecords::default();
            for (key, value) in [("major", "1"), ("minor", "0"), ("realsize", "5000")] {
                records.take(format!("GNU.sparse.{key}").as_bytes(), value.as_bytes())?;
            }
            let _ = records.map(&mut text.as_bytes().chain(io::repeat(b'\n')), stored);
        }
    }
}
