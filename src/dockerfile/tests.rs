//! The language as a whole. What one file alone does is tested in that file.

mod accepted;
mod differential;
mod properties;
mod refused;
mod warnings;

use super::*;

/// Parses a text that must be right.
fn good(text: &str) -> Dockerfile {
    match parse("Dockerfile", text.as_bytes()) {
        Ok(file) => file,
        Err(errors) => panic!("{text}\n{errors}"),
    }
}

/// The kind of the first instruction of a stage.
fn kind(instruction: &str) -> InstructionKind {
    let mut file = good(&format!("FROM x\n{instruction}\n"));
    file.stages.remove(0).instructions.remove(0).kind
}

/// The messages of a wrong text, with their help.
fn bad(text: &str) -> Vec<String> {
    match parse("Dockerfile", text.as_bytes()) {
        Ok(file) => panic!("{text}\nshould be refused: {file:#?}"),
        Err(errors) => errors
            .iter()
            .map(|error| {
                let at = error.source.location(error.span.start);
                let help = error.help.as_ref().map(|help| format!(" [{help}]")).unwrap_or_default();
                format!("{}:{}: {}{help}", at.line, at.column, error.message)
            })
            .collect(),
    }
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}
