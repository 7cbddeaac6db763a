//! dpkg's list of packages: `status`, and one file a package in distroless images.

use super::package::{Ecosystem, Package};
use super::text::{Found, lossy, paragraphs};

/// Reads `/var/lib/dpkg/status`, or a file of `status.d`, whose packages have no `Status`.
pub(super) fn status(bytes: &[u8], each_is_installed: bool) -> Found {
    let text = lossy(bytes);
    let mut found = Found::default();
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        found.problems.push("it ends within a line: it may be cut off".into());
    }
    for paragraph in paragraphs(&text) {
        let Some(name) = paragraph.get("Package") else { continue };
        // deb-control: want, flag and state; what only left its configuration is not installed.
        let state = paragraph.get("Status").and_then(|status| status.split_whitespace().nth(2));
        let is_installed = match state {
            Some(state) => {
                matches!(
                    state,
                    "installed" | "unpacked" | "half-configured" | "triggers-awaited" | "triggers-pending"
                )
            }
            None => each_is_installed,
        };
        if state.is_none() && !each_is_installed {
            found.problems.push(format!("package {name:?} has no status: the file may be cut off"));
        }
        if !is_installed {
            continue;
        }
        let Some(version) = paragraph.get("Version") else {
            found.problems.push(format!("package {name:?} has no version: the file may be cut off"));
            continue;
        };
        let mut package = Package::new(Ecosystem::Deb, name, version);
        if let Some(arch) = paragraph.get("Architecture") {
            package.qualifiers.insert("arch", arch.to_owned());
        }
        if let Some(source) = paragraph.get("Source") {
            // `name (version)` where the versions differ.
            let (source, version) = source.split_once(" (").unwrap_or((source, ""));
            let version = version.trim_end_matches(')');
            let upstream = if version.is_empty() { source.to_owned() } else { format!("{source}@{version}") };
            package.qualifiers.insert("upstream", upstream);
        }
        package.supplier = paragraph.get("Maintainer").map(str::to_owned);
        package.homepage = paragraph.get("Homepage").map(str::to_owned);
        found.packages.push(package);
    }
    found
}

/// Licenses that `/usr/share/doc/PACKAGE/copyright` states: by the machine-readable format (DEP-5), else the common
/// licenses that it refers to.
pub(super) fn copyright(bytes: &[u8]) -> Vec<String> {
    let text = lossy(bytes);
    let mut licenses: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let name = name.trim().trim_end_matches([',', '.', ';', ')', '\'', '"', '`']);
        if !name.is_empty() && name.len() <= 100 && !licenses.iter().any(|known| known == name) {
            licenses.push(name.to_owned());
        }
    };
    if text.trim_start().starts_with("Format:") {
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("License:") {
                add(rest);
            }
        }
    } else {
        for rest in text.split("/usr/share/common-licenses/").skip(1) {
            add(rest.split(|c: char| c.is_whitespace() || "'\"`)>,".contains(c)).next().unwrap_or_default());
        }
    }
    licenses.sort();
    licenses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_is_listed() {
        let text = b"Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n\
            Source: src (9)\nDescription: x\n Package: not\n\nPackage: b\nStatus: deinstall ok config-files\n\
            Version: 1\n\nPackage: c\nStatus: hold ok installed\nVersion: 4\n";
        let found = status(text, false);
        let names: Vec<_> = found.packages.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(names, [("a", "1:2-3"), ("c", "4")]);
        assert_eq!(found.packages[0].qualifiers["upstream"], "src@9");
        assert!(found.problems.is_empty());
    }

    #[test]
    fn a_cut_database_is_noted_wherever_it_was_cut() {
        let text = b"Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok installed\n\
            Version: 2\n";
        for cut in 1..text.len() {
            let found = status(&text[..cut], false);
            let whole = text[cut - 1] == b'\n'
                && (cut == text.len() || text[..cut].ends_with(b"1\n") || text[..cut].ends_with(b"\n\n"));
            assert_eq!(found.problems.is_empty(), whole, "cut at {cut}: {found:?}");
        }
    }

    #[test]
    fn licenses_come_from_both_forms_of_copyright_files() {
        let dep5 = b"Format: https://x\n\nFiles: *\nLicense: GPL-2+\n text\n\nLicense: Expat\n text\nLicense: GPL-2+\n";
        assert_eq!(copyright(dep5), ["Expat", "GPL-2+"]);
        assert_eq!(
            copyright(b"see `/usr/share/common-licenses/GPL-2'. And /usr/share/common-licenses/LGPL-2.1.\n"),
            ["GPL-2", "LGPL-2.1"]
        );
    }
}
