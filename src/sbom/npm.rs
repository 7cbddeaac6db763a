//! Node modules: the `package.json` of each, and lock files where nothing is installed.

use serde_json::Value;

use super::package::{Ecosystem, Package};
use super::text::Found;

/// `@scope/name` to both.
pub(super) fn package(name: &str, version: &str) -> Package {
    match name.split_once('/') {
        Some((scope, name)) if scope.starts_with('@') => {
            Package { namespace: Some(scope.to_owned()), ..Package::new(Ecosystem::Npm, name, version) }
        }
        _ => Package::new(Ecosystem::Npm, name, version),
    }
}

/// Reads a `package.json`.
pub(super) fn package_json(bytes: &[u8]) -> Found {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Found::problem(format!("it is no JSON: {error}")),
    };
    let text =
        |value: &Value| value.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    // Directories of modules have files without a name that only set how they are loaded.
    let (Some(name), Some(version)) = (text(&value["name"]), text(&value["version"])) else {
        return Found::default();
    };
    let mut package = package(&name, &version);
    let mut license = |value: &Value| {
        if let Some(license) = text(value).or_else(|| text(&value["type"])) {
            package.license(&license);
        }
    };
    license(&value["license"]);
    value["licenses"].as_array().into_iter().flatten().for_each(&mut license);
    let author = &value["author"];
    package.supplier = text(author).or_else(|| text(&author["name"]));
    package.homepage = text(&value["homepage"]);
    Found::one(package)
}
