//! Ruby gems: the specifications that are installed with each.

use super::package::{Ecosystem, Package};
use super::text::{Found, lossy};

/// Reads a `.gemspec` as RubyGems writes it on installation: assignments of literals.
pub(super) fn specification(bytes: &[u8]) -> Found {
    let text = lossy(bytes);
    let (mut name, mut version, mut licenses, mut homepage) = (None, None, Vec::new(), None);
    for line in text.lines() {
        let Some((_, assignment)) = line.trim_start().split_once("s.") else { continue };
        let Some((field, value)) = assignment.split_once('=') else { continue };
        match field.trim() {
            "name" => name = name.or(strings(value).into_iter().next()),
            "version" => version = version.or(strings(value).into_iter().next()),
            "license" | "licenses" => licenses = strings(value),
            "homepage" => homepage = strings(value).into_iter().next(),
            _ => {}
        }
    }
    let (Some(name), Some(version)) = (name, version) else {
        return Found::problem("it states no name or no version");
    };
    let mut package = Package::new(Ecosystem::Gem, name, version);
    licenses.iter().for_each(|license| package.license(license));
    package.homepage = homepage;
    Found::one(package)
}

/// The string literals of a line.
fn strings(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['"', '\'']) {
        let quote = if rest[start..].starts_with('"') { '"' } else { '\'' };
        let inner = &rest[start + 1..];
        let Some(end) = inner.find(quote) else { break };
        all.push(inner[..end].to_owned());
        rest = &inner[end + 1..];
    }
    all
}
