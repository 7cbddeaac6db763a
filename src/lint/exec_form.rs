//! The JSON form of commands that need no shell.

use crate::dockerfile::{Dockerfile, Instruction, Span};

use super::finding::Edit;

/// What a shell does itself, so that there may be no program of that name, or it would do something else.
const SHELL_WORDS: [&str; 42] = [
    ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "elif", "else",
    "esac", "eval", "exec", "exit", "export", "fg", "fi", "for", "function", "hash", "if", "jobs", "local",
    "read", "readonly", "return", "set", "shift", "source", "then", "times", "trap", "type", "ulimit",
    "umask", "unset", "until", "while",
];

/// The JSON form of a `CMD` or `ENTRYPOINT`, where its text is words alone and stands on one line.
pub(super) fn edit(dockerfile: &Dockerfile, instruction: &Instruction, text: &str) -> Option<Edit> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c));
    let first = words.first()?;
    if !words.iter().all(plain) || first.contains('=') || SHELL_WORDS.contains(first) || *first == "wait" {
        return None;
    }
    let written = dockerfile.source.slice(instruction.span);
    let at = written.len().checked_sub(text.len())?;
    if !written.is_char_boundary(at) || written.get(at..) != Some(text) {
        return None;
    }
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let start = instruction.span.start + at;
    Some(Edit::new(Span::new(start, instruction.span.end), format!("[{}]", quoted.join(", "))))
}
