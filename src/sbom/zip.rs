//! Zip archives (PKWARE APPNOTE), as far as Java archives need it: the central directory, stored and deflated members.

use std::io::{self, Read as _};

use crate::snapshot::FileReader;

/// Members of one archive that are looked through.
const MAX_MEMBERS: usize = 200_000;
/// Bytes of a central directory.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The record at the end, with the longest comment.
const END: usize = 22;
const MAX_COMMENT: usize = 65_535;

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    /// Bytes when unpacked, as the archive says.
    pub(super) size: u64,
    method: u16,
    packed: u64,
    header: u64,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("it is no whole zip archive: {what}"))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|raw| raw.try_into().ok()).map(u16::from_le_bytes).unwrap_or_default()
}

fn int(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 4)
        .and_then(|raw| raw.try_into().ok())
        .map(u32::from_le_bytes)
        .unwrap_or_default()
        .into()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|raw| raw.try_into().ok()).map(u64::from_le_bytes).unwrap_or_default()
}

/// Lists the members.
pub(super) fn members(file: &mut FileReader<'_>) -> io::Result<Vec<Member>> {
    let tail_at = file.size().saturating_sub((END + MAX_COMMENT) as u64);
    let tail = file.read_at(tail_at, END + MAX_COMMENT)?;
    let last = tail.len().checked_sub(END).ok_or_else(|| damaged("it is too short"))?;
    let end = (0..=last).rev().find(|at| tail[*at..].starts_with(b"PK\x05\x06"));
    let end = end.ok_or_else(|| damaged("its directory is missing"))?;
    let (mut size, mut offset) = (int(&tail, end + 12), int(&tail, end + 16));
    let mut directory_end = tail_at + end as u64;
    // Zip64: a locator stands before the record.
    if let Some(locator) = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) {
        let record_at = long(&tail, locator + 8);
        let record = file.read_at(record_at, 56)?;
        if record.starts_with(b"PK\x06\x06") {
            (size, offset) = (long(&record, 40), long(&record, 48));
            directory_end = record_at;
        }
    }
    // Something may stand before the archive, such as a script that starts it: all offsets are that much larger.
    let start = directory_end.checked_sub(size).ok_or_else(|| damaged("its directory lies outside"))?;
    let shift = start.checked_sub(offset).ok_or_else(|| damaged("its directory lies outside"))?;
    if size > MAX_DIRECTORY {
        return Err(damaged("its directory is too large"));
    }
    let directory = file.read_at(start, size as usize)?;
    let (mut members, mut at) = (Vec::new(), 0);
    while directory[at.min(directory.len())..].starts_with(b"PK\x01\x02") && members.len() < MAX_MEMBERS {
        let entry = &directory[at..];
        let lengths = [28, 30, 32].map(|at| usize::from(short(entry, at)));
        let Some(name) = entry.get(46..46 + lengths[0]) else { break };
        members.push(Member {
            name: name.to_vec(),
            size: int(entry, 24),
            method: short(entry, 10),
            packed: int(entry, 20),
            header: int(entry, 42).saturating_add(shift),
        });
        at += 46 + lengths.iter().sum::<usize>();
    }
    Ok(members)
}

/// The content of a member: at most `limit` bytes of it, whatever the archive says.
pub(super) fn read(file: &mut FileReader<'_>, member: &Member, limit: u64) -> io::Result<Vec<u8>> {
    if member.size > limit || member.packed > limit {
        return Err(damaged(&format!("a member has more than {limit} bytes")));
    }
    let header = file.read_at(member.header, 30)?;
    if !header.starts_with(b"PK\x03\x04") {
        return Err(damaged("a member is not where the directory says"));
    }
    let skip = 30 + u64::from(short(&header, 26)) + u64::from(short(&header, 28));
    let packed = file.read_at(member.header.saturating_add(skip), member.packed as usize)?;
    match member.method {
        0 => Ok(packed),
        8 => {
            let mut content = Vec::new();
            flate2::read::DeflateDecoder::new(&*packed).take(limit + 1).read_to_end(&mut content)?;
            if content.len() as u64 > limit {
                return Err(damaged(&format!("a member has more than {limit} bytes")));
            }
            Ok(content)
        }
        method => Err(damaged(&format!("a member is compressed by method {method}"))),
    }
}
