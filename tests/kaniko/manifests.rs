//! The examples for Kubernetes: the page has them all, and their flags exist.

use std::fs;
use std::path::Path;

use super::support::Lab;

#[test]
fn examples_for_kubernetes_are_on_the_page_and_have_flags_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/kubernetes.md")).expect("the page");
    let lab = Lab::new();
    let mut count = 0;
    for entry in fs::read_dir(root.join("examples/kubernetes")).expect("the examples").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(page.contains(&format!("(../examples/kubernetes/{name})")), "{name} is not on the page");
        let text = fs::read_to_string(entry.path()).expect("an example");
        let flags = text.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        let mut flags: Vec<String> = flags.map(|flag| format!("--{flag}")).collect();
        assert!(flags.iter().any(|flag| flag.starts_with("--destination=")), "{name}: {flags:?}");
        let restricted = name.contains("restricted") || name.contains("openshift");
        assert_eq!(text.contains("runAsNonRoot: true"), restricted, "{name}");
        assert!(restricted || text.contains("runAsUser: 0"), "{name}");
        // Read before anything else is done.
        flags.push("--help".to_owned());
        let done = lab.run([vec!["kaniko".to_owned()], flags].concat());
        assert_eq!(done.code, 0, "{name}: {}", done.err);
        count += 1;
    }
    assert_eq!(count, page.matches("(../examples/kubernetes/").count(), "the page has one that is not there");
}
