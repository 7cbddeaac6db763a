//! Names and values: `ARG`, `ENV`, `LABEL`.

use super::super::ast::{ArgDecl, KeyValue};
use super::super::error::{Outcome, Problem};
use super::super::text::View;
use super::Arguments;

pub(super) fn args(arguments: &Arguments<'_>, escape: char) -> Outcome<Vec<ArgDecl>> {
    arguments.no_flags()?;
    arguments.required("at least one name")?;
    arguments
        .text
        .shell_words(escape)
        .into_iter()
        .map(|word| {
            let (name, default) = match word.as_str().find('=') {
                Some(at) => (word.sub(0..at), Some(word.from(at + 1).word())),
                None => (word, None),
            };
            if name.is_empty() {
                return Err(blank_name("ARG", word));
            }
            Ok(ArgDecl { name: name.word(), default })
        })
        .collect()
}

fn blank_name(keyword: &str, word: View<'_>) -> Problem {
    Problem::new(word.span(), format!("{keyword} names cannot be blank"))
        .help("there is nothing before the `=`; blanks around `=` are not allowed")
}

pub(super) fn key_values(arguments: &Arguments<'_>, escape: char) -> Outcome<Vec<KeyValue>> {
    let keyword = arguments.keyword;
    arguments.no_flags()?;
    arguments.required("at least one name=value")?;
    let words = arguments.text.shell_words(escape);
    if !words.first().is_some_and(|first| first.as_str().contains('=')) {
        return legacy(arguments).map(|pair| vec![pair]);
    }
    words
        .into_iter()
        .map(|word| {
            let Some(at) = word.as_str().find('=') else {
                return Err(Problem::new(word.span(), format!("`{}` has no `=`", word.as_str()))
                    .help(format!("{keyword} takes name=value pairs; quote a value that holds blanks")));
            };
            let key = word.sub(0..at);
            if key.is_empty() {
                return Err(blank_name(keyword, word));
            }
            Ok(KeyValue { key: key.word(), value: word.from(at + 1).word(), legacy: false })
        })
        .collect()
}

/// `ENV KEY rest of the line`.
fn legacy(arguments: &Arguments<'_>) -> Outcome<KeyValue> {
    let (key, value) = arguments.text.split_blank();
    let keyword = arguments.keyword;
    if value.is_empty() {
        return Err(Problem::new(arguments.text.span(), format!("{keyword} {} has no value", key.as_str()))
            .help(format!(
                "write {keyword} {}=value; `{}=` sets it to nothing",
                key.as_str(),
                key.as_str()
            )));
    }
    Ok(KeyValue { key: key.word(), value: value.word(), legacy: true })
}
