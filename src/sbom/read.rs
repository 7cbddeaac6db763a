//! What one file says, by the reader of its class.

use crate::snapshot::FileReader;

use super::classify::{Class, classify};
use super::elf::{self, Elf};
use super::origin::Distribution;
use super::package::Package;
use super::scan::Task;
use super::text::Found;
use super::{apk, cargo, composer, dotnet, dpkg, gem, golang, java, lock, npm, python, rpm};

/// Bytes of databases, and of the other text files, that are read.
const MAX_DATABASE: u64 = 256 << 20;
const MAX_TEXT: u64 = 32 << 20;
/// Larger programs and archives are not looked into: those of a packed layer are held in memory.
const MAX_BINARY: u64 = 1 << 30;
/// What a file turned out to say.
pub(super) enum Parsed {
    Found(Found),
    Licenses(Vec<String>),
    Distribution(Option<Distribution>),
}

/// What one file says; `None` where it turns out to say nothing. A package without a name is a problem, and no package.
pub(super) fn read(task: &Task, file: &mut FileReader<'_>) -> std::io::Result<Option<Parsed>> {
    let mut parsed = read_as_written(task, file)?;
    if let Some(Parsed::Found(found)) = &mut parsed {
        let before = found.packages.len();
        found.packages.retain(|package| !package.name.trim().is_empty());
        if found.packages.len() < before {
            found.problems.push("it lists a package without a name".to_owned());
        }
    }
    Ok(parsed)
}

fn read_as_written(task: &Task, file: &mut FileReader<'_>) -> std::io::Result<Option<Parsed>> {
    if task.class == Class::RpmLog {
        let problem = "rpm's write-ahead log is not read: packages that were installed last may be missing";
        return Ok(Some(Parsed::Found(Found::problem(problem))));
    }
    let limit = if task.class.is_database() { MAX_DATABASE } else { MAX_TEXT };
    if matches!(task.class, Class::Java | Class::Binary) {
        return binary(task, file).map(|found| found.map(Parsed::Found));
    }
    let bytes = file.read_all(limit)?;
    let found = match task.class {
        Class::OsRelease => return Ok(Some(Parsed::Distribution(Distribution::parse(&bytes)))),
        Class::Copyright => return Ok(Some(Parsed::Licenses(dpkg::copyright(&bytes)))),
        Class::DpkgStatus => dpkg::status(&bytes, false),
        Class::DpkgStatusD => dpkg::status(&bytes, true),
        Class::Apk => apk::installed(&bytes),
        Class::Rpm => rpm::installed(&bytes),
        Class::Python => python::metadata(&bytes),
        Class::PackageJson => npm::package_json(&bytes),
        Class::PackageLock => lock::package_lock(&bytes),
        Class::YarnLock => lock::yarn(&bytes),
        Class::Gem => gem::specification(&bytes),
        Class::Composer => composer::installed(&bytes),
        Class::Dotnet => dotnet::deps(&bytes),
        Class::Java | Class::Binary | Class::RpmLog => return Ok(None),
    };
    Ok(Some(Parsed::Found(found)))
}

/// The packages that a file of an image names, and what is wrong with it, by its path (without a leading slash) and its
/// content.
pub fn packages_of(path: &[u8], content: &[u8]) -> (Vec<Package>, Vec<String>) {
    let size = content.len() as u64;
    let Some(class) = classify(path, 0o755, size) else { return Default::default() };
    match read(&Task::of(path, size, class), &mut FileReader::of(content)) {
        Ok(Some(Parsed::Found(found))) => (found.packages, found.problems),
        Ok(_) => Default::default(),
        Err(error) => (Vec::new(), vec![error.to_string()]),
    }
}

fn binary(task: &Task, file: &mut FileReader<'_>) -> std::io::Result<Option<Found>> {
    let is_java = task.class == Class::Java;
    let head = file.read_at(0, 16)?;
    let is_archive = is_java && head.starts_with(b"PK");
    if !is_archive && !elf::is_elf(&head) {
        return Ok(None);
    }
    if file.size() > MAX_BINARY {
        return Ok(Some(Found::problem(format!("it has {} bytes and was not looked into", file.size()))));
    }
    if is_java {
        return Ok(Some(java::archive(&task.path, file)));
    }
    let Some(elf) = Elf::read(file)? else { return Ok(None) };
    match golang::build_info(file, &elf)? {
        Some(found) => Ok(Some(found)),
        None => cargo::auditable(file, &elf),
    }
}
