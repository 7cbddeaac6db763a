//! PHP libraries: `vendor/composer/installed.json`.

use serde_json::Value;

use super::package::{Ecosystem, Package};
use super::text::Found;

/// Reads Composer's list in both of its forms.
pub(super) fn installed(bytes: &[u8]) -> Found {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Found::problem(format!("it is no JSON: {error}")),
    };
    let list = value.as_array().or(value["packages"].as_array());
    let mut found = Found::default();
    for entry in list.into_iter().flatten() {
        let (Some(full), Some(version)) = (entry["name"].as_str(), entry["version"].as_str()) else {
            continue;
        };
        let (namespace, name) = match full.split_once('/') {
            Some((space, name)) => (Some(space.to_owned()), name),
            None => (None, full),
        };
        let mut package = Package { namespace, ..Package::new(Ecosystem::Composer, name, version) };
        for license in entry["license"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            package.license(license);
        }
        package.homepage = entry["homepage"].as_str().map(str::to_owned);
        found.packages.push(package);
    }
    found
}
