//! rpm's database of installed packages, in its three forms: SQLite (`rpmdb.sqlite`, since Fedora 33 and RHEL 9), ndb
//! (`Packages.db`, SUSE) and Berkeley DB (`Packages`, RHEL 8 and before).
//!
//! Each reader only finds the headers of packages in the file; [`header`] reads them. A reader never trusts an offset, a
//! length or a chain of pages: all are checked against the file, and a chain has no more pages than the file.

mod bdb;
mod header;
mod ndb;
mod sqlite;

#[cfg(test)]
mod tests;

use super::text::Found;

/// Packages of one database that are kept.
const MAX_PACKAGES: usize = 100_000;
/// Bytes of one header (`HEADER_DATA_MAX` of rpm).
const MAX_HEADER: usize = 256 << 20;

/// What a reader passes on: a header, or what is wrong with one. `false` ends the reading.
type Visit<'a> = dyn FnMut(Result<&[u8], String>) -> bool + 'a;

/// The packages of a database.
pub(super) fn installed(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    // Headers do not share bytes: together they are never longer than the file.
    let mut left = bytes.len();
    let mut visit = |header: Result<&[u8], String>| {
        let length = header.as_ref().map_or(0, |header| header.len());
        let Some(rest) = left.checked_sub(length) else {
            found.problems.push("its packages are longer than the file".to_owned());
            return false;
        };
        left = rest;
        match header.and_then(header::package) {
            Ok(package) => found.packages.extend(package),
            Err(problem) if found.problems.len() < 20 => found.problems.push(problem),
            Err(_) => {}
        }
        found.packages.len() < MAX_PACKAGES
    };
    let read = if bytes.starts_with(sqlite::MAGIC) {
        sqlite::read(bytes, &mut visit)
    } else if bytes.starts_with(ndb::MAGIC) {
        ndb::read(bytes, &mut visit)
    } else if bdb::is_one(bytes) {
        bdb::read(bytes, &mut visit)
    } else {
        Err("it is neither an SQLite, nor an ndb, nor a Berkeley DB file".to_owned())
    };
    if let Err(problem) = read {
        found.problems.push(format!("the rpm database was not read to its end: {problem}"));
    }
    found
}

/// A number of the file; `None` beyond its end.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_be(bytes: &[u8], at: usize) -> Option<usize> {
    bytes_at(bytes, at).map(|found| usize::from(u16::from_be_bytes(found)))
}

fn u32_be(bytes: &[u8], at: usize) -> Option<usize> {
    bytes_at(bytes, at).map(|found| u32::from_be_bytes(found) as usize)
}

fn u32_le(bytes: &[u8], at: usize) -> Option<usize> {
    bytes_at(bytes, at).map(|found| u32::from_le_bytes(found) as usize)
}
