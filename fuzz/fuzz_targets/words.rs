//! Any text as a word: no panic, errors inside the text, and quoting that protects.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::Expander;

fuzz_target!(|text: &str| {
    let vars: BTreeMap<String, String> = [("A", "one"), ("E", ""), ("P", "/a/b.c"), ("S", "a b")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for escape in ['\\', '`'] {
        let expander = Expander::new(escape);
        for error in [
            expander.word(text, &vars).err(),
            expander.words(text, &vars).err(),
            expander.heredoc(text, &vars).err(),
        ]
        .into_iter()
        .flatten()
        {
            assert!(text.is_char_boundary(error.offset), "{error:?}");
        }
        if !text.contains('\'') {
            let quoted = expander.word(&format!("'{text}'"), &vars);
            assert_eq!(quoted.map(|expanded| expanded.text).as_deref(), Ok(text));
        }
    }
});
