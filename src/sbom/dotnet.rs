//! .NET libraries: the `.deps.json` beside each application.

use serde_json::Value;

use super::package::{Ecosystem, Package};
use super::text::Found;

/// Reads the libraries: packages, and the projects that the application itself is made of are left out.
pub(super) fn deps(bytes: &[u8]) -> Found {
    // Some are written with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Found::problem(format!("it is no JSON: {error}")),
    };
    let mut found = Found::default();
    for (key, library) in value["libraries"].as_object().into_iter().flatten() {
        let kind = library["type"].as_str().unwrap_or_default();
        if let (Some((name, version)), "package" | "runtimepack") = (key.split_once('/'), kind) {
            let name = name.strip_prefix("runtimepack.").unwrap_or(name);
            found.packages.push(Package::new(Ecosystem::Nuget, name, version));
        }
    }
    found
}
