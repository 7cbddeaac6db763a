use super::*;

fn vars() -> BTreeMap<String, String> {
    [("A", "1")].iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[test]
fn smoke() {
    assert_eq!(Expander::new('\\').word("x${A}", &vars()).unwrap().text, "x1");
}
