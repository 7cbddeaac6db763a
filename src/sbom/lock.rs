//! Lock files of Node projects: `package-lock.json`, `npm-shrinkwrap.json`, `yarn.lock`.

use serde_json::Value;

use super::npm;
use super::text::{Found, lossy};

/// Deeper dependencies of version 1 are ignored.
const MAX_DEPTH: usize = 64;

/// Reads npm's lock file in any of its versions. What is only for development is left out.
pub(super) fn package_lock(bytes: &[u8]) -> Found {
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        Err(error) => return Found::problem(format!("it is no JSON: {error}")),
    };
    let mut found = Found::default();
    if let Some(packages) = value["packages"].as_object() {
        for (place, entry) in packages {
            let Some((_, name)) = place.rsplit_once("node_modules/") else { continue };
            // An alias states what it really is.
            add(entry["name"].as_str().unwrap_or(name), entry, &mut found);
        }
    } else {
        dependencies(&value["dependencies"], 0, &mut found);
    }
    found
}

fn dependencies(value: &Value, depth: usize, found: &mut Found) {
    for (name, entry) in value.as_object().into_iter().flatten().take_while(|_| depth < MAX_DEPTH) {
        add(name, entry, found);
        dependencies(&entry["dependencies"], depth + 1, found);
    }
}

fn add(name: &str, entry: &Value, found: &mut Found) {
    let is_dev = ["dev", "devOptional", "link"].iter().any(|key| entry[*key].as_bool() == Some(true));
    let Some(version) = entry["version"].as_str().filter(|_| !is_dev) else { return };
    let mut package = npm::package(name, version);
    if let Some(license) = entry["license"].as_str() {
        package.license(license);
    }
    found.packages.push(package);
}

/// Reads `yarn.lock` of version 1 and of Berry: a line of names with ranges, then indented fields.
pub(super) fn yarn(bytes: &[u8]) -> Found {
    let text = lossy(bytes);
    let mut found = Found::default();
    let mut name: Option<String> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with(' ') {
            let first =
                line.split(',').next().unwrap_or_default().trim().trim_end_matches(':').trim_matches('"');
            // The range begins behind the last `@` that is not that of a scope.
            name = first
                .get(1..)
                .and_then(|rest| rest.find('@'))
                .and_then(|at| first.get(..=at))
                .map(str::to_owned);
            continue;
        }
        let Some(rest) = line.strip_prefix("  version") else { continue };
        let version = rest.trim_start_matches(':').trim().trim_matches('"');
        if let Some(name) = name.take().filter(|_| !version.is_empty() && !version.contains("use.local")) {
            found.packages.push(npm::package(&name, version));
        }
    }
    found
}
