//! Rust programs with the list that cargo-auditable puts into them.

use std::io::{self, Read as _};

use serde_json::Value;

use crate::snapshot::FileReader;

use super::elf::Elf;
use super::package::{Ecosystem, Package};
use super::text::Found;

/// Bytes of the list, compressed and not. The format's own readers stop at 8 MiB.
const MAX_PACKED: u64 = 8 << 20;
const MAX_LIST: u64 = 64 << 20;

/// Reads the section `.dep-v0`: JSON, compressed with zlib. What only takes part in building is left out.
pub(super) fn auditable(file: &mut FileReader<'_>, elf: &Elf) -> io::Result<Option<Found>> {
    let Some(section) = elf.section(b".dep-v0") else { return Ok(None) };
    if section.size > MAX_PACKED {
        return Ok(Some(Found::problem(format!("its list of crates has {} bytes", section.size))));
    }
    let packed = file.read_at(section.offset, section.size as usize)?;
    let mut json = Vec::new();
    if let Err(error) = flate2::read::ZlibDecoder::new(&*packed).take(MAX_LIST).read_to_end(&mut json) {
        return Ok(Some(Found::problem(format!("its list of crates cannot be decompressed: {error}"))));
    }
    Ok(Some(list(&json)))
}

fn list(json: &[u8]) -> Found {
    let value: Value = match serde_json::from_slice(json) {
        Ok(value) => value,
        Err(error) => return Found::problem(format!("its list of crates is no JSON: {error}")),
    };
    let mut found = Found::default();
    for entry in value["packages"].as_array().into_iter().flatten() {
        let (Some(name), Some(version)) = (entry["name"].as_str(), entry["version"].as_str()) else {
            continue;
        };
        if entry["kind"].as_str() != Some("build") {
            found.packages.push(Package::new(Ecosystem::Cargo, name, version));
        }
    }
    found
}
