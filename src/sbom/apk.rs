//! apk's list of packages, `/lib/apk/db/installed`.

use super::package::{Ecosystem, Package};
use super::text::{Found, lossy};

/// Reads the list: lines of a letter, a colon and a value; an empty line ends a package (apk-tools, `database.c`).
pub(super) fn installed(bytes: &[u8]) -> Found {
    let text = lossy(bytes);
    let mut found = Found::default();
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        found.problems.push("it ends within a line: it may be cut off".into());
    }
    for block in text.split("\n\n") {
        let field = |letter: char| {
            let lines = block.lines();
            lines
                .filter_map(|line| line.strip_prefix(letter)?.strip_prefix(':'))
                .next()
                .filter(|v| !v.is_empty())
        };
        let Some(name) = field('P') else {
            if block.lines().any(|line| !line.trim().is_empty()) {
                found.problems.push("it has a package without a name".into());
            }
            continue;
        };
        let Some(version) = field('V') else {
            found.problems.push(format!("package {name:?} has no version: the file may be cut off"));
            continue;
        };
        let mut package = Package::new(Ecosystem::Apk, name, version);
        if let Some(arch) = field('A') {
            package.qualifiers.insert("arch", arch.to_owned());
        }
        if let Some(origin) = field('o').filter(|origin| *origin != name) {
            package.qualifiers.insert("upstream", origin.to_owned());
        }
        if let Some(license) = field('L') {
            package.license(license);
        }
        package.supplier = field('m').map(str::to_owned);
        package.homepage = field('U').map(str::to_owned);
        found.packages.push(package);
    }
    found
}
