//! Which files of an image say something about packages, by their paths alone.

use crate::fs::paths::split;

use super::java;

/// What a file is for a bill of materials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// `os-release`.
    OsRelease,
    /// dpkg's list.
    DpkgStatus,
    /// The list of one package in a distroless image.
    DpkgStatusD,
    /// The copyright file of a Debian package.
    Copyright,
    /// apk's list.
    Apk,
    /// rpm's list.
    Rpm,
    /// What of rpm's list is not in it yet.
    RpmLog,
    /// Metadata of a Python distribution.
    Python,
    /// A node module.
    PackageJson,
    /// npm's lock file.
    PackageLock,
    /// Yarn's lock file.
    YarnLock,
    /// A gem's specification.
    Gem,
    /// Composer's list.
    Composer,
    /// What a .NET application needs.
    Dotnet,
    /// A Java archive.
    Java,
    /// Perhaps a program.
    Binary,
}

impl Class {
    /// Whether one file lists the packages of the whole image, so that a layer replaces it to add some.
    pub(super) fn is_database(self) -> bool {
        matches!(self, Class::DpkgStatus | Class::Apk | Class::Rpm)
    }
}

/// The smallest ELF file with a section.
const SMALLEST_BINARY: u64 = 128;

/// What a regular file is, if it matters. `path` has no leading slash.
pub fn classify(path: &[u8], mode: u32, size: u64) -> Option<Class> {
    let (dir, name) = split(path);
    let class = match name {
        b"os-release" if matches!(dir, b"etc" | b"usr/lib") => Class::OsRelease,
        b"status" if dir == b"var/lib/dpkg" => Class::DpkgStatus,
        b"installed" if matches!(dir, b"lib/apk/db" | b"usr/lib/apk/db") => Class::Apk,
        b"rpmdb.sqlite" | b"Packages.db" | b"Packages" if is_rpm(dir) => Class::Rpm,
        b"rpmdb.sqlite-wal" if is_rpm(dir) && size > 0 => Class::RpmLog,
        b"copyright" if split(dir).0 == b"usr/share/doc" => Class::Copyright,
        b"METADATA" if dir.ends_with(b".dist-info") => Class::Python,
        b"PKG-INFO" if dir.ends_with(b".egg-info") || (dir.ends_with(b"/EGG-INFO")) => Class::Python,
        b"package.json" if is_module(dir) => Class::PackageJson,
        b"package-lock.json" | b"npm-shrinkwrap.json" if !is_in_modules(dir) => Class::PackageLock,
        b"yarn.lock" if !is_in_modules(dir) => Class::YarnLock,
        b"installed.json" if dir == b"vendor/composer" || dir.ends_with(b"/vendor/composer") => {
            Class::Composer
        }
        _ if dir == b"var/lib/dpkg/status.d" && !name.ends_with(b".md5sums") => Class::DpkgStatusD,
        _ if name.ends_with(b".egg-info") => Class::Python,
        _ if name.ends_with(b".gemspec") && is_specification(dir) => Class::Gem,
        _ if name.ends_with(b".deps.json") => Class::Dotnet,
        _ if java::is_archive(name) => Class::Java,
        _ if size >= SMALLEST_BINARY && (mode & 0o111 != 0 || name.ends_with(b".so")) => Class::Binary,
        _ => return None,
    };
    Some(class)
}

/// Where distributions keep rpm's database.
fn is_rpm(dir: &[u8]) -> bool {
    matches!(dir, b"var/lib/rpm" | b"usr/lib/sysimage/rpm" | b"usr/share/rpm")
}

/// `node_modules/NAME` or `node_modules/@SCOPE/NAME`.
fn is_module(dir: &[u8]) -> bool {
    let (parent, _) = split(dir);
    let (grand, scope) = split(parent);
    let is_modules = |dir: &[u8]| dir == b"node_modules" || dir.ends_with(b"/node_modules");
    is_modules(parent) || (scope.starts_with(b"@") && is_modules(grand))
}

fn is_in_modules(dir: &[u8]) -> bool {
    dir.split(|c| *c == b'/').any(|part| part == b"node_modules")
}

fn is_specification(dir: &[u8]) -> bool {
    dir.ends_with(b"/specifications") || dir.ends_with(b"/specifications/default")
}
