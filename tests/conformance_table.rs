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
