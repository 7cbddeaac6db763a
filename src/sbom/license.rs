//! License names as they are stated to identifiers of the SPDX License List.

/// Identifiers that packages commonly state, as the SPDX License List 3.25 spells them.
const KNOWN: &[&str] = &[
    "0BSD",
    "AFL-2.1",
    "AFL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "APSL-2.0",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-1.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSD-4-Clause-UC",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDDL-1.0",
    "CDDL-1.1",
    "CPL-1.0",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "GFDL-1.2-only",
    "GFDL-1.2-or-later",
    "GFDL-1.3-only",
    "GFDL-1.3-or-later",
    "GPL-1.0-only",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "IJG",
    "ISC",
    "JSON",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "Libpng",
    "MIT",
    "MIT-0",
    "MPL-1.1",
    "MPL-2.0",
    "MS-PL",
    "NCSA",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PHP-3.01",
    "PSF-2.0",
    "PostgreSQL",
    "Python-2.0",
    "Ruby",
    "SGI-B-2.0",
    "Sleepycat",
    "TCL",
    "UPL-1.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Vim",
    "W3C",
    "WTFPL",
    "X11",
    "ZPL-2.1",
    "Zlib",
    "bzip2-1.0.6",
    "curl",
    "libtiff",
];

/// Exceptions that may follow `WITH`.
const EXCEPTIONS: &[&str] = &[
    "Autoconf-exception-2.0",
    "Autoconf-exception-3.0",
    "Bison-exception-2.2",
    "Classpath-exception-2.0",
    "GCC-exception-2.0",
    "GCC-exception-3.1",
    "LLVM-exception",
    "Libtool-exception",
    "OpenJDK-assembly-exception-1.0",
    "Linux-syscall-note",
];

/// Other spellings, in lower case.
const SPELLINGS: &[(&str, &str)] = &[
    ("apache 2.0", "Apache-2.0"),
    ("apache license 2.0", "Apache-2.0"),
    ("apache license, version 2.0", "Apache-2.0"),
    ("apache software license", "Apache-2.0"),
    ("apache 2", "Apache-2.0"),
    ("apache2", "Apache-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-3-clauses", "BSD-3-Clause"),
    ("expat", "MIT"),
    ("mit license", "MIT"),
    ("mit/x11", "MIT"),
    ("mpl 2.0", "MPL-2.0"),
    ("mozilla public license 2.0 (mpl 2.0)", "MPL-2.0"),
    ("isc license (iscl)", "ISC"),
    ("python software foundation license", "PSF-2.0"),
    ("psf", "PSF-2.0"),
    ("unlicense", "Unlicense"),
    ("zlib/libpng", "Zlib"),
    ("agpl-3", "AGPL-3.0-only"),
    ("agpl-3+", "AGPL-3.0-or-later"),
    ("gpl-1", "GPL-1.0-only"),
    ("gpl-1+", "GPL-1.0-or-later"),
    ("gpl-2", "GPL-2.0-only"),
    ("gpl-2+", "GPL-2.0-or-later"),
    ("gpl-3", "GPL-3.0-only"),
    ("gpl-3+", "GPL-3.0-or-later"),
    ("gplv2", "GPL-2.0-only"),
    ("gplv2+", "GPL-2.0-or-later"),
    ("gplv3", "GPL-3.0-only"),
    ("gplv3+", "GPL-3.0-or-later"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-2.0+", "GPL-2.0-or-later"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("gpl-3.0+", "GPL-3.0-or-later"),
    ("lgpl-2", "LGPL-2.0-only"),
    ("lgpl-2+", "LGPL-2.0-or-later"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-2.1+", "LGPL-2.1-or-later"),
    ("lgplv2+", "LGPL-2.0-or-later"),
    ("lgplv2.1+", "LGPL-2.1-or-later"),
    ("lgpl-3", "LGPL-3.0-only"),
    ("lgpl-3+", "LGPL-3.0-or-later"),
    ("lgpl-2.0", "LGPL-2.0-only"),
    ("lgpl-2.0+", "LGPL-2.0-or-later"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("lgpl-3.0+", "LGPL-3.0-or-later"),
    ("gfdl-1.2", "GFDL-1.2-only"),
    ("gfdl-1.3", "GFDL-1.3-only"),
    ("gfdl-1.2+", "GFDL-1.2-or-later"),
    ("gfdl-1.3+", "GFDL-1.3-or-later"),
    ("http://www.apache.org/licenses/license-2.0.txt", "Apache-2.0"),
    ("https://www.apache.org/licenses/license-2.0.txt", "Apache-2.0"),
    ("http://www.apache.org/licenses/license-2.0.html", "Apache-2.0"),
    ("http://www.apache.org/licenses/license-2.0", "Apache-2.0"),
    ("apache-2", "Apache-2.0"),
    ("mpl-2", "MPL-2.0"),
    ("cc0", "CC0-1.0"),
    ("boost-1.0", "BSL-1.0"),
];

/// The identifier of a license that is stated, if it is on the list.
pub(super) fn identifier(stated: &str) -> Option<&'static str> {
    let stated = stated.trim();
    let folded = stated.to_lowercase();
    KNOWN
        .iter()
        .copied()
        .find(|known| known.eq_ignore_ascii_case(stated))
        .or_else(|| SPELLINGS.iter().find(|(spelling, _)| *spelling == folded).map(|(_, id)| *id))
}

/// A license expression (SPDX 2.3, annex D) with identifiers as the list has them; `None` where it is none, or has
/// others.
pub(super) fn expression(stated: &str) -> Option<String> {
    if let Some(id) = identifier(stated) {
        return Some(id.to_owned());
    }
    let spaced = stated.replace('(', " ( ").replace(')', " ) ");
    let (mut out, mut depth, mut wants_operand, mut with) = (String::new(), 0u32, true, false);
    for word in spaced.split_whitespace() {
        let operator = ["AND", "OR", "WITH"].into_iter().find(|known| known.eq_ignore_ascii_case(word));
        match (word, operator) {
            ("(", _) if wants_operand && !with => depth += 1,
            (")", _) if !wants_operand && depth > 0 => depth -= 1,
            (_, Some(operator)) if !wants_operand => {
                (wants_operand, with) = (true, operator == "WITH");
                out.push_str(&format!(" {operator} "));
                continue;
            }
            (word, None) if wants_operand => {
                let known = if with {
                    EXCEPTIONS.iter().copied().find(|known| known.eq_ignore_ascii_case(word))?
                } else {
                    identifier(word)?
                };
                (wants_operand, with) = (false, false);
                out.push_str(known);
                continue;
            }
            _ => return None,
        }
        out.push_str(word);
    }
    (!wants_operand && depth == 0).then_some(out)
}

/// A name for what is on no list, unique by its text.
pub(super) fn reference(stated: &str) -> String {
    let mut name = String::from("LicenseRef-");
    for c in stated.chars().take(60) {
        name.push(if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' });
    }
    let plain =
        stated.len() <= 60 && stated.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-');
    if !plain {
        name.push_str(&format!("-{:08x}", crc32fast::hash(stated.as_bytes())));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_become_those_of_the_list_or_nothing() {
        for (stated, wanted) in [
            ("MIT", Some("MIT")),
            ("mit", Some("MIT")),
            ("Expat", Some("MIT")),
            ("GPL-2+", Some("GPL-2.0-or-later")),
            ("MIT OR Apache-2.0", Some("MIT OR Apache-2.0")),
            ("(MIT and bsd-3-clause) or Zlib", Some("(MIT AND BSD-3-Clause) OR Zlib")),
            ("GPL-2.0-only WITH Classpath-exception-2.0", Some("GPL-2.0-only WITH Classpath-exception-2.0")),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT)", None),
            ("MIT MIT", None),
            ("My own", None),
            ("", None),
        ] {
            assert_eq!(expression(stated).as_deref(), wanted, "{stated}");
        }
    }

    #[test]
    fn references_differ_where_texts_do() {
        assert_eq!(reference("Foo-1.0"), "LicenseRef-Foo-1.0");
        assert_ne!(reference("a b"), reference("a/b"));
        assert!(reference("ü").chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.'));
    }
}
