//! Private keys in PEM.

use super::tokens::is_placeholder;

/// What every label begins with.
pub(super) const BEGIN: &str = "-----BEGIN ";
/// Digits that the smallest key has: Ed25519 in PKCS #8.
const LEAST: usize = 64;
/// Lines of the largest.
const MOST_LINES: usize = 400;

/// What stands between `BEGIN` and the dashes.
const LABELS: &[(&str, &str)] = &[
    ("PRIVATE KEY", "a private key"),
    ("ENCRYPTED PRIVATE KEY", "an encrypted private key"),
    ("RSA PRIVATE KEY", "a private key"),
    ("EC PRIVATE KEY", "a private key"),
    ("DSA PRIVATE KEY", "a private key"),
    ("OPENSSH PRIVATE KEY", "an SSH private key"),
    ("PGP PRIVATE KEY BLOCK", "a PGP private key"),
];

/// A key that was found.
pub(super) struct Key {
    pub kind: &'static str,
    /// Bytes from its label to its end.
    pub length: usize,
}

/// The key that a text begins with, at its label. One without a body, or with one that is none, is not a key.
pub(super) fn read(text: &[u8]) -> Option<Key> {
    let rest = text.strip_prefix(BEGIN.as_bytes())?;
    let (label, kind) = LABELS.iter().find(|(label, _)| {
        rest.strip_prefix(label.as_bytes()).is_some_and(|rest| rest.starts_with(b"-----"))
    })?;
    let (begin, end) = (BEGIN.len() + label.len() + 5, format!("-----END {label}-----"));
    let mut lines = text[begin..].split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    // Keys in JSON and in source code have their line ends written out.
    if let Some(length) = memchr::memmem::find(first, end.as_bytes()) {
        let body = String::from_utf8_lossy(&first[..length]).replace("\\n", "").replace("\\r", "");
        let is_key = body.len() >= LEAST && body.bytes().all(is_digit) && !is_placeholder(&body);
        return is_key.then(|| Key { kind, length: begin + length + end.len() });
    }
    if !first.trim_ascii().is_empty() {
        return None;
    }
    let (mut digits, mut length) = (0, begin + first.len() + 1);
    for line in lines.take(MOST_LINES) {
        length += line.len() + 1;
        let line = line.trim_ascii();
        if line == end.as_bytes() {
            return (digits >= LEAST).then_some(Key { kind, length: length.min(text.len()) });
        }
        let is_header = line.is_empty() || line.windows(2).any(|two| two == b": ");
        if !is_header {
            if !line.iter().copied().all(is_digit) {
                return None;
            }
            digits += line.len();
        }
    }
    None
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}
