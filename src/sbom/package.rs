//! One package, and its names in other systems: package URL and CPE.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What manages a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// Debian and what is made of it.
    Deb,
    /// Alpine.
    Apk,
    /// Red Hat, SUSE and what is made of them.
    Rpm,
    /// Python distributions.
    Python,
    /// Node modules.
    Npm,
    /// Ruby gems.
    Gem,
    /// Go modules.
    Go,
    /// Rust crates.
    Cargo,
    /// Java archives.
    Maven,
    /// .NET libraries.
    Nuget,
    /// PHP libraries.
    Composer,
}

impl Ecosystem {
    /// The type of its package URLs (purl-spec, `types`).
    pub fn purl_type(self) -> &'static str {
        match self {
            Ecosystem::Deb => "deb",
            Ecosystem::Apk => "apk",
            Ecosystem::Rpm => "rpm",
            Ecosystem::Python => "pypi",
            Ecosystem::Npm => "npm",
            Ecosystem::Gem => "gem",
            Ecosystem::Go => "golang",
            Ecosystem::Cargo => "cargo",
            Ecosystem::Maven => "maven",
            Ecosystem::Nuget => "nuget",
            Ecosystem::Composer => "composer",
        }
    }
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// What manages it.
    pub ecosystem: Ecosystem,
    /// What its name belongs to: a distribution, an npm scope, a Maven group, the path of a Go module's host.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its version; empty where nothing states one.
    pub version: String,
    /// Qualifiers of its package URL, such as `arch`.
    pub qualifiers: BTreeMap<&'static str, String>,
    /// Licenses as they are stated, not checked.
    pub licenses: Vec<String>,
    /// Who maintains it.
    pub supplier: Option<String>,
    /// Its web page.
    pub homepage: Option<String>,
    /// The files it was found in, without a leading slash.
    pub found_in: Vec<String>,
    /// Position of the layer that brought it, from 0.
    pub layer: usize,
}

impl Package {
    /// A package of which nothing else is known yet.
    pub fn new(ecosystem: Ecosystem, name: impl Into<String>, version: impl Into<String>) -> Self {
        Package {
            ecosystem,
            namespace: None,
            name: name.into(),
            version: version.into(),
            qualifiers: BTreeMap::new(),
            licenses: Vec::new(),
            supplier: None,
            homepage: None,
            found_in: Vec::new(),
            layer: 0,
        }
    }

    /// Name and namespace as its manager writes them.
    pub fn full_name(&self) -> String {
        match (&self.namespace, self.ecosystem) {
            (Some(space), Ecosystem::Npm | Ecosystem::Go | Ecosystem::Composer) => {
                format!("{space}/{}", self.name)
            }
            (Some(space), Ecosystem::Maven) => format!("{space}:{}", self.name),
            _ => self.name.clone(),
        }
    }

    /// Adds a license that is stated, once.
    pub(super) fn license(&mut self, license: &str) {
        let license = license.trim();
        if !license.is_empty() && !self.licenses.iter().any(|known| known == license) {
            self.licenses.push(license.to_owned());
        }
    }

    /// The package URL (purl-spec).
    pub fn purl(&self) -> String {
        let mut out = format!("pkg:{}/", self.ecosystem.purl_type());
        // Some types are case insensitive, and say so in the specification.
        let fold = |text: &str| match self.ecosystem {
            Ecosystem::Python => text.to_lowercase().replace('_', "-"),
            Ecosystem::Deb | Ecosystem::Apk | Ecosystem::Composer => text.to_lowercase(),
            _ => text.to_owned(),
        };
        if let Some(namespace) = &self.namespace {
            let space = fold(namespace);
            for part in space.split('/').filter(|part| !part.is_empty()) {
                let _ = write!(out, "{}/", encode(part, false));
            }
        }
        out.push_str(&encode(&fold(&self.name), false));
        if !self.version.is_empty() {
            let _ = write!(out, "@{}", encode(&self.version, false));
        }
        for (at, (key, value)) in self.qualifiers.iter().enumerate() {
            let _ = write!(out, "{}{key}={}", if at == 0 { '?' } else { '&' }, encode(value, true));
        }
        out
    }

    /// A CPE 2.3 name (NIST IR 7695) that vulnerability databases may use: a guess, as packages do not state theirs.
    pub fn cpe(&self) -> String {
        let vendor = match (self.ecosystem, &self.namespace) {
            (Ecosystem::Maven, Some(group)) => {
                let mut parts = group.split('.');
                let first = parts.next().unwrap_or_default();
                let second = parts.next().unwrap_or(first);
                if matches!(first, "com" | "org" | "net" | "io" | "de" | "dev") { second } else { first }
                    .to_owned()
            }
            (Ecosystem::Go, Some(space)) => space.rsplit('/').next().unwrap_or(space).to_owned(),
            (Ecosystem::Npm, Some(scope)) => scope.trim_start_matches('@').to_owned(),
            (Ecosystem::Composer, Some(space)) => space.clone(),
            _ => self.name.clone(),
        };
        let version = if self.version.is_empty() { "*".to_owned() } else { formatted(&self.version) };
        format!("cpe:2.3:a:{}:{}:{version}:*:*:*:*:*:*:*", formatted(&vendor), formatted(&self.name))
    }
}

/// Percent-encodes for a package URL.
fn encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) || (keep_slash && byte == b'/') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A value in the formatted string binding of CPE: lower case, punctuation behind a backslash.
fn formatted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.to_lowercase().chars() {
        match c {
            'a'..='z' | '0'..='9' | '_' | '-' | '.' => out.push(c),
            c if c.is_ascii_graphic() => out.extend(['\\', c]),
            _ => out.push('_'),
        }
    }
    if out.is_empty() { "*".to_owned() } else { out }
}
