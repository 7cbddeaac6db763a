//! The header of an installed package: an index of tags and a store of their values, big endian (rpm's manual,
//! "Header format").

use super::super::package::{Ecosystem, Package};
use super::super::text::lossy;
use super::{MAX_HEADER, u32_be};

const NAME: usize = 1000;
const VERSION: usize = 1001;
const RELEASE: usize = 1002;
const EPOCH: usize = 1003;
const VENDOR: usize = 1011;
const LICENSE: usize = 1014;
const URL: usize = 1020;
const ARCH: usize = 1022;
const SOURCE_RPM: usize = 1044;
const MODULARITY_LABEL: usize = 5096;

/// Types of values.
const INT32: usize = 4;
const STRING: usize = 6;
const I18N_STRING: usize = 9;

/// Bytes of an entry: tag, type, offset, count.
const ENTRY: usize = 16;
/// Entries that rpm accepts (`HEADER_TAGS_MAX`).
const MAX_ENTRIES: usize = 0xffff;

struct Header<'a> {
    index: &'a [u8],
    store: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (entries, size) = (u32_be(bytes, 0)?, u32_be(bytes, 4)?);
        if !(1..=MAX_ENTRIES).contains(&entries) || size > MAX_HEADER {
            return None;
        }
        let (index, rest) = bytes.get(8..)?.split_at_checked(entries * ENTRY)?;
        Some(Header { index, store: rest.get(..size)? })
    }

    /// The value of a tag: its type, and the store from its place on.
    fn find(&self, tag: usize) -> Option<(usize, &'a [u8])> {
        let entry = self.index.chunks_exact(ENTRY).find(|entry| u32_be(entry, 0) == Some(tag))?;
        Some((u32_be(entry, 4)?, self.store.get(u32_be(entry, 8)?..)?))
    }

    fn text(&self, tag: usize) -> Option<String> {
        let (kind, value) = self.find(tag)?;
        if !matches!(kind, STRING | I18N_STRING) {
            return None;
        }
        let end = value.iter().position(|byte| *byte == 0)?;
        let text = lossy(&value[..end]);
        let text = text.trim();
        (!text.is_empty() && text != "(none)").then(|| text.to_owned())
    }

    fn number(&self, tag: usize) -> Option<usize> {
        let (kind, value) = self.find(tag)?;
        u32_be(value, 0).filter(|_| kind == INT32)
    }
}

/// The package of a header; `None` for a public key, which rpm keeps as a package.
pub(super) fn package(bytes: &[u8]) -> Result<Option<Package>, String> {
    let header = Header::parse(bytes).ok_or("the header of a package is cut off or damaged")?;
    let name = header.text(NAME).ok_or("a package has no name")?;
    if name == "gpg-pubkey" {
        return Ok(None);
    }
    let missing = |what: &str| format!("package {name:?} has no {what}");
    let version = header.text(VERSION).ok_or_else(|| missing("version"))?;
    let release = header.text(RELEASE).ok_or_else(|| missing("release"))?;
    let mut package = Package::new(Ecosystem::Rpm, name, format!("{version}-{release}"));
    let qualifiers = [
        ("arch", header.text(ARCH)),
        ("epoch", header.number(EPOCH).map(|epoch| epoch.to_string())),
        ("upstream", header.text(SOURCE_RPM)),
        ("rpmmod", header.text(MODULARITY_LABEL)),
    ];
    package.qualifiers.extend(qualifiers.into_iter().filter_map(|(key, value)| Some((key, value?))));
    if let Some(license) = header.text(LICENSE) {
        package.license(&license);
    }
    package.supplier = header.text(VENDOR);
    package.homepage = header.text(URL);
    Ok(Some(package))
}
