//! Keeps the values of secrets out of everything that is shown or logged.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::mount::Secret;

/// Shorter values would blot out ordinary text.
const SHORTEST: usize = 5;
const SHOWN: &[u8] = b"****";

/// The forms a secret may show up in: as it is, each of its lines, base64, percent-encoded. The
/// longest first, so that no part of one is left over.
pub fn forms<'s>(secrets: impl Iterator<Item = &'s Secret>) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for Secret { value, .. } in secrets {
        let trimmed = value.trim_ascii();
        let lines = value.split(|c| *c == b'\n').map(<[u8]>::trim_ascii);
        for part in [&**value, trimmed].into_iter().chain(lines) {
            all.push(part.to_vec());
            for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
                all.push(engine.encode(part).into_bytes());
            }
            all.push(percent(part));
        }
    }
    all.retain(|form| form.len() >= SHORTEST && !form.contains(&b'\n'));
    all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all.dedup();
    all
}

fn percent(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            other => out.extend_from_slice(format!("%{other:02X}").as_bytes()),
        }
    }
    out
}

/// A line without any of the forms.
pub fn line<'l>(line: &'l [u8], forms: &[Vec<u8>]) -> Cow<'l, [u8]> {
    let mut shown = Cow::Borrowed(line);
    for form in forms {
        if let Some(replaced) = replace(&shown, form) {
            shown = Cow::Owned(replaced);
        }
    }
    shown
}

fn replace(text: &[u8], form: &[u8]) -> Option<Vec<u8>> {
    let find = |from: usize| {
        text.get(from..)?.windows(form.len()).position(|window| window == form).map(|at| from + at)
    };
    let mut at = find(0)?;
    let mut out = Vec::with_capacity(text.len());
    let mut done = 0;
    loop {
        out.extend_from_slice(&text[done..at]);
        out.extend_from_slice(SHOWN);
        done = at + form.len();
        match find(done) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.extend_from_slice(&text[done..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: &str, text: &str) -> String {
        let secret = Secret { value: secret.as_bytes().into(), invalidates: false };
        String::from_utf8_lossy(&line(text.as_bytes(), &forms([&secret].into_iter()))).into_owned()
    }

    #[test]
    fn a_secret_is_hidden_in_all_its_forms() {
        assert_eq!(shown("hunter22\n", "the password is hunter22, hunter22!"), "the password is ****, ****!");
        assert_eq!(shown("hunter22", "aHVudGVyMjI="), "****");
        assert_eq!(shown("a b/c&d", "x=a%20b%2Fc%26d"), "x=****");
        assert_eq!(shown("line one\nline two\n", "it says line two here"), "it says **** here");
    }

    #[test]
    fn what_is_too_short_to_be_told_from_text_is_left_alone() {
        assert_eq!(shown("ab", "about"), "about");
        assert_eq!(shown("", "about"), "about");
    }
}
