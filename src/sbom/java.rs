//! Java archives: what Maven and manifests say about them, and about the archives in them.

use std::collections::BTreeMap;
use std::io;

use crate::snapshot::FileReader;

use super::package::{Ecosystem, Package};
use super::text::{Found, lossy};
use super::zip;

/// Archives in archives in archives.
const MAX_DEPTH: usize = 4;
/// Bytes of one member that is unpacked.
const MAX_MEMBER: u64 = 64 << 20;
const MAX_TEXT: u64 = 1 << 20;
/// Bytes and archives that are unpacked of all that one file holds.
const MAX_TOTAL: u64 = 512 << 20;
const MAX_ARCHIVES: usize = 10_000;
const MAX_POMS: usize = 10_000;

/// Whether a name is that of a Java archive.
pub(super) fn is_archive(name: &[u8]) -> bool {
    let extension = name.rsplit(|c| *c == b'.').next().unwrap_or_default();
    [&b"jar"[..], b"war", b"ear", b"hpi", b"jpi", b"kar", b"par", b"sar", b"rar"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known) && extension.len() < name.len())
}

struct Walk {
    found: Found,
    left: u64,
    archives: usize,
}

/// Reads an archive with all that it holds.
pub(super) fn archive(path: &[u8], file: &mut FileReader<'_>) -> Found {
    let mut walk = Walk { found: Found::default(), left: MAX_TOTAL, archives: 0 };
    if let Err(error) = walk.archive(path, file, 0) {
        walk.found.problems.push(error.to_string());
    }
    walk.found
}

impl Walk {
    fn archive(&mut self, path: &[u8], file: &mut FileReader<'_>, depth: usize) -> io::Result<()> {
        let members = zip::members(file)?;
        let mut poms: Vec<Package> = Vec::new();
        let mut manifest = BTreeMap::new();
        for member in &members {
            let is_pom =
                member.name.starts_with(b"META-INF/maven/") && member.name.ends_with(b"/pom.properties");
            if is_pom && poms.len() < MAX_POMS {
                let text = self.member(file, member, MAX_TEXT);
                poms.extend(text.and_then(|text| pom(&text)));
            } else if member.name == b"META-INF/MANIFEST.MF" {
                manifest =
                    self.member(file, member, MAX_TEXT).map(|text| main_section(&text)).unwrap_or_default();
            }
        }
        if poms.is_empty() {
            poms.extend(named(path, &manifest));
        }
        let own = stem(path);
        for mut package in poms {
            // Of several artifacts, a manifest describes the one that the archive is named after.
            if own.starts_with(&package.name)
                && let Some(license) = manifest.get("Bundle-License")
            {
                package.license(license.split(';').next().unwrap_or_default());
            }
            self.found.packages.push(package);
        }
        for member in members.iter().filter(|member| is_archive(&member.name)) {
            self.nested(file, member, depth);
        }
        Ok(())
    }

    fn nested(&mut self, file: &mut FileReader<'_>, member: &zip::Member, depth: usize) {
        self.archives += 1;
        if depth >= MAX_DEPTH || self.archives > MAX_ARCHIVES {
            let name = lossy(&member.name).into_owned();
            return self
                .problem(format!("{name} in it is not read: archives are nested too deeply, or too many"));
        }
        let Some(content) = self.member(file, member, MAX_MEMBER) else { return };
        let inner = self.archive(&member.name, &mut FileReader::of(&content), depth + 1);
        if let Err(error) = inner {
            self.problem(format!("{} in it: {error}", lossy(&member.name)));
        }
    }

    fn member(&mut self, file: &mut FileReader<'_>, member: &zip::Member, limit: u64) -> Option<Vec<u8>> {
        match zip::read(file, member, limit.min(self.left)) {
            Ok(content) => {
                self.left -= content.len() as u64;
                Some(content)
            }
            Err(error) => {
                self.problem(format!("{} in it: {error}", lossy(&member.name)));
                None
            }
        }
    }

    fn problem(&mut self, text: String) {
        if self.found.problems.len() < 20 {
            self.found.problems.push(text);
        }
    }
}

fn pom(bytes: &[u8]) -> Option<Package> {
    let text = lossy(bytes);
    let field = |wanted: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == wanted && !value.trim().is_empty()).then(|| value.trim().to_owned())
        })
    };
    let name = field("artifactId")?;
    Some(Package {
        namespace: field("groupId"),
        ..Package::new(Ecosystem::Maven, name, field("version").unwrap_or_default())
    })
}

/// The main section of a manifest (JAR File Specification): up to the first empty line, long lines continued.
fn main_section(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = lossy(bytes);
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().take_while(|line| !line.trim().is_empty()) {
        if let Some(rest) = line.strip_prefix(' ') {
            if let Some((_, value)) = fields.last_mut() {
                value.push_str(rest);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    fields.into_iter().collect()
}

/// An archive's name without directories and extension.
fn stem(path: &[u8]) -> String {
    let name = lossy(path.rsplit(|c| *c == b'/').next().unwrap_or_default()).into_owned();
    name.rsplit_once('.').map_or(name.clone(), |(stem, _)| stem.to_owned())
}

/// An archive without Maven's files: by its manifest, and its name.
fn named(path: &[u8], manifest: &BTreeMap<String, String>) -> Option<Package> {
    let stem = stem(path);
    let digit = stem
        .char_indices()
        .find(|(at, c)| *c == '-' && stem[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    let (by_name, by_version) = digit.map_or((stem.as_str(), ""), |(at, _)| (&stem[..at], &stem[at + 1..]));
    let field = |names: &[&str]| {
        names
            .iter()
            .filter_map(|name| manifest.get(*name))
            .find(|value| !value.is_empty() && !value.contains("${"))
    };
    let version = match by_version {
        "" => field(&["Implementation-Version", "Bundle-Version", "Specification-Version"])
            .cloned()
            .unwrap_or_default(),
        version => version.to_owned(),
    };
    let symbolic = field(&["Bundle-SymbolicName", "Automatic-Module-Name"]);
    let group = field(&["Implementation-Vendor-Id"]).cloned().or_else(|| {
        // A reversed domain, of which the last part is usually the artifact.
        let name = symbolic?.split(';').next()?.trim();
        let (group, last) = name.rsplit_once('.')?;
        Some(if by_name.ends_with(last) || last == by_name { group } else { name }.to_owned())
    });
    (!by_name.is_empty())
        .then(|| Package { namespace: group, ..Package::new(Ecosystem::Maven, by_name, version) })
}
