//! The tables of `docs/conformance.md` name tests and cases that exist.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, all: &mut String) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("source"));
        }
    }
}

#[test]
fn every_test_named_in_the_conformance_table_exists() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/conformance.md")).expect("docs/conformance.md");
    let cases: Vec<String> = fs::read_dir(root.join("testdata/conformance"))
        .expect("cases")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let mut code = String::new();
    sources(&root.join("src"), &mut code);
    sources(&root.join("tests"), &mut code);
    let (mut named, mut missing) = (0, Vec::new());
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let Some(tests) = line.trim_matches('|').rsplit('|').next() else { continue };
        for name in tests.split('`').skip(1).step_by(2) {
            named += 1;
            let known = match name.strip_suffix('*') {
                Some(prefix) => cases.iter().any(|case| case.starts_with(prefix)),
                None if name.contains('-') => cases.iter().any(|case| case == name),
                None => code.contains(&format!("fn {name}(")) || cases.iter().any(|case| case == name),
            };
            if !known {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(named > 100, "only {named} names were found");
    assert!(missing.is_empty(), "docs/conformance.md names what does not exist: {missing:?}");
}

/// The cases, and of those the ones in which rbuild means to differ from the peer.
fn deviations(cases: &Path) -> (usize, Vec<String>) {
    let (mut count, mut names) = (0, Vec::new());
    for entry in fs::read_dir(cases).expect("cases").flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("expect.json")) else { continue };
        count += 1;
        let expected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let Some(deviation) = expected.get("deviation") else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(deviation["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{name}: no reason");
        for (field, value) in deviation["expect"].as_object().expect("expect") {
            assert_ne!(expected.get(field), Some(value), "{name}: {field} is what the peer made");
        }
        names.push(name);
    }
    names.sort();
    (count, names)
}

#[test]
fn every_deviation_is_listed_with_its_reason_and_none_is_counted_as_agreement() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (count, mut names) = deviations(&root.join("testdata/conformance"));
    let text = fs::read_to_string(root.join("docs/conformance.md")).expect("docs/conformance.md");
    let (_, section) = text.split_once("\n## Where rbuild differs on purpose\n").expect("the section");
    let section = section.split("\n## ").next().expect("a section");
    let mut listed: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .flat_map(|line| line.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
        .collect();
    listed.sort_unstable();
    names.sort();
    assert_eq!(listed, names, "docs/conformance.md lists other deviations than there are");
    let numbers = format!("{count} cases: {} agree, {} differ on purpose", count - names.len(), names.len());
    assert!(text.contains(&numbers), "docs/conformance.md lacks: {numbers}");
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md");
    assert!(
        readme.contains(&format!("{count} small Dockerfiles")),
        "README.md has another number than {count}"
    );
}
