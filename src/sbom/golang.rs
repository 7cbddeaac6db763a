//! Go programs: the modules that the linker writes into each (Go, `debug/buildinfo`).

use std::io;

use crate::snapshot::FileReader;

use super::elf::Elf;
use super::package::{Ecosystem, Package};
use super::text::{Found, lossy};

const MAGIC: &[u8] = b"\xff Go buildinf:";
const HEADER: usize = 32;
/// Without sections the mark is looked for at the start of the data.
const SEARCHED: usize = 1 << 20;
/// Bytes of the list of modules.
const MAX_INFO: u64 = 16 << 20;

/// Reads what a program says about its modules; `None` for one that is not made by Go.
pub(super) fn build_info(file: &mut FileReader<'_>, elf: &Elf) -> io::Result<Option<Found>> {
    let Some((header, at)) = header(file, elf)? else { return Ok(None) };
    let strings = if header[15] & 2 != 0 {
        // Since Go 1.18 both strings follow the header.
        let mut at = at + HEADER as u64;
        let version = inline(file, &mut at)?;
        version.zip(inline(file, &mut at)?)
    } else {
        let (width, big) = (usize::from(header[14]), header[15] & 1 != 0);
        if !matches!(width, 4 | 8) {
            return Ok(Some(Found::problem("its Go build information is damaged")));
        }
        let version = pointed(file, elf, number(&header[16..16 + width], big), width, big)?;
        let info = pointed(file, elf, number(&header[16 + width..16 + 2 * width], big), width, big)?;
        version.map(|version| (version, info.unwrap_or_default()))
    };
    let Some((version, info)) = strings.filter(|(version, _)| !version.is_empty()) else {
        return Ok(Some(Found::problem("its Go build information is damaged")));
    };
    Ok(Some(modules(&lossy(&version), &info)))
}

fn header(file: &mut FileReader<'_>, elf: &Elf) -> io::Result<Option<(Vec<u8>, u64)>> {
    let (offset, size) = match (elf.section(b".go.buildinfo"), elf.data()) {
        (Some(section), _) => (section.offset, section.size),
        // Stripped of its section table.
        (None, Some(data)) if elf.section(b".text").is_none() => (data.offset, data.size),
        _ => return Ok(None),
    };
    let bytes = file.read_at(offset, size.min(SEARCHED as u64) as usize)?;
    // The linker aligns it to 16 bytes.
    let found = bytes.chunks(16).position(|chunk| chunk.starts_with(MAGIC)).map(|at| at * 16);
    Ok(found.and_then(|at| Some((bytes.get(at..at + HEADER)?.to_vec(), offset + at as u64))))
}

/// A string with its length in front, as a varint.
fn inline(file: &mut FileReader<'_>, at: &mut u64) -> io::Result<Option<Vec<u8>>> {
    let head = file.read_at(*at, 10)?;
    let (mut length, mut used) = (0u64, None);
    for (position, byte) in head.iter().enumerate() {
        length |= u64::from(byte & 0x7f).checked_shl(7 * position as u32).unwrap_or(0);
        if byte & 0x80 == 0 {
            used = Some(position + 1);
            break;
        }
    }
    let Some(used) = used.filter(|_| length <= MAX_INFO) else { return Ok(None) };
    let bytes = file.read_at(*at + used as u64, length as usize)?;
    *at += used as u64 + length;
    Ok((bytes.len() as u64 == length).then_some(bytes))
}

/// A Go string header at an address: address and length of its bytes.
fn pointed(
    file: &mut FileReader<'_>,
    elf: &Elf,
    address: u64,
    width: usize,
    big: bool,
) -> io::Result<Option<Vec<u8>>> {
    let Some((at, _)) = elf.place(address) else { return Ok(None) };
    let header = file.read_at(at, 2 * width)?;
    if header.len() < 2 * width {
        return Ok(None);
    }
    let (data, length) = (number(&header[..width], big), number(&header[width..], big));
    let Some((at, left)) = elf.place(data).filter(|_| length <= MAX_INFO) else { return Ok(None) };
    Ok(Some(file.read_at(at, length.min(left) as usize)?))
}

fn number(bytes: &[u8], big: bool) -> u64 {
    let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    if big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
}

/// The toolchain's version and the lines between the marks: `mod`, `dep`, and `=>` for what replaces the last one.
fn modules(version: &str, info: &[u8]) -> Found {
    let mut found = Found::default();
    let go = version.split_whitespace().next().unwrap_or_default();
    found.packages.push(Package::new(Ecosystem::Go, "stdlib", go.strip_prefix("go").unwrap_or(go)));
    // 16 bytes on both sides mark it in memory.
    let info = match info.len() {
        33.. if info[info.len() - 17] == b'\n' => &info[16..info.len() - 16],
        _ => info,
    };
    let text = lossy(info);
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (kind, path, version) = (fields.next(), fields.next(), fields.next().unwrap_or_default());
        let Some(path) = path.filter(|path| !path.is_empty()) else { continue };
        match kind {
            Some("mod" | "dep") => found.packages.push(module(path, version)),
            // A directory of the machine it was built on is no module of its own.
            Some("=>") if !path.starts_with(['.', '/']) => {
                if let Some(last) = found.packages.last_mut() {
                    *last = module(path, version);
                }
            }
            _ => {}
        }
    }
    found
}

fn module(path: &str, version: &str) -> Package {
    let version = if version == "(devel)" { "" } else { version };
    let (namespace, name) = match path.rsplit_once('/') {
        Some((space, name)) => (Some(space.to_owned()), name),
        None => (None, path),
    };
    Package { namespace, ..Package::new(Ecosystem::Go, name, version) }
}
