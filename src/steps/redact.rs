//! Keeps the values of secrets out of everything that is shown or logged.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;

use crate::visible;

use super::mount::Secret;

/// Shorter values would blot out ordinary text.
const SHORTEST: usize = 5;
const SHOWN: &[u8] = b"****";

/// Line lengths of `base64` and `openssl base64`.
const WRAPPED: [usize; 2] = [76, 64];

/// Longer forms are searched for one by one: the automaton takes some twenty times the bytes of its forms.
const LONG: usize = 4096;

/// What is looked for in output.
#[derive(Debug, Default)]
pub struct Forms {
    search: Option<AhoCorasick>,
    long: Vec<Finder<'static>>,
}

impl Forms {
    /// Whether there is nothing to hide.
    pub fn is_empty(&self) -> bool {
        self.search.is_none() && self.long.is_empty()
    }

    /// The forms the secrets may show up in: as they are, each of their lines, base64 (also wrapped, and in the
    /// middle of other text, as in `user:SECRET`), percent-encoded.
    pub fn of<'s>(secrets: impl Iterator<Item = &'s Secret>) -> Self {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for Secret { value, .. } in secrets {
            let trimmed = value.trim_ascii();
            let lines = value.split(|c| *c == b'\n').map(<[u8]>::trim_ascii);
            for part in [&**value, trimmed].into_iter().chain(lines) {
                all.push(part.to_vec());
                percent(part, &mut all);
                base64(part, &mut all);
            }
        }
        all.retain(|form| form.len() >= SHORTEST && !form.contains(&b'\n'));
        all.sort_unstable();
        all.dedup();
        let (mut long, short): (Vec<_>, Vec<_>) = all.into_iter().partition(|form| form.len() > LONG);
        let search = (!short.is_empty()).then(|| AhoCorasick::new(&short).ok()).flatten();
        if search.is_none() {
            // No automaton holds them (2 GiB of forms): slower, but nothing is shown.
            long.extend(short);
        }
        let long = long.iter().map(|form| Finder::new(form).into_owned()).collect();
        Forms { search, long }
    }

    /// Bytes of the longest form.
    fn longest(&self) -> usize {
        let short = self.search.as_ref().map_or(0, AhoCorasick::max_pattern_len);
        self.long.iter().map(|form| form.needle().len()).fold(short, usize::max)
    }

    /// A line without any of the forms.
    pub fn hide<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        // Forms may overlap each other; what lies under any of them is hidden.
        let short = self.search.iter().flat_map(|search| search.find_overlapping_iter(line));
        let mut found: Vec<Range<usize>> = short.map(|found| found.range()).collect();
        for form in &self.long {
            found.extend(form.find_iter(line).map(|at| at..at + form.needle().len()));
        }
        if found.is_empty() {
            return Cow::Borrowed(line);
        }
        found.sort_unstable_by_key(|range| (range.start, range.end));
        let mut out = Vec::with_capacity(line.len());
        let mut done = 0;
        for range in found {
            if range.start >= done {
                out.extend_from_slice(&line[done..range.start]);
                out.extend_from_slice(SHOWN);
            }
            done = done.max(range.end);
        }
        out.extend_from_slice(&line[done..]);
        Cow::Owned(out)
    }

    /// What is shown of a line that a program printed: the same, and none of the forms appears where only bytes that
    /// never reach a terminal stood between its own.
    pub fn hide_shown<'l>(&self, line: &'l [u8]) -> Cow<'l, [u8]> {
        let hidden = self.hide(line);
        if self.is_empty() {
            return hidden;
        }
        let hides_more = match self.hide(visible::output(&hidden, false).as_bytes()) {
            Cow::Owned(shown) => Some(shown),
            Cow::Borrowed(_) => None,
        };
        hides_more.map_or(hidden, Cow::Owned)
    }

    /// The part of a line that has not ended which can be shown already. `held` is what is not shown yet: its
    /// end may be the beginning of a form.
    pub fn hide_part(&self, held: &mut Vec<u8>, part: &[u8]) -> Vec<u8> {
        held.extend_from_slice(part);
        let mut shown = self.hide(held).into_owned();
        let kept = self.longest().saturating_sub(1).min(shown.len());
        *held = shown.split_off(shown.len() - kept);
        shown
    }
}

/// Base64 of a value alone, and what it is inside a longer text: there each byte's place in its group of three
/// decides the letters, and the letters at both ends depend on the neighbours.
fn base64(value: &[u8], all: &mut Vec<Vec<u8>>) {
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        let whole = engine.encode(value).into_bytes();
        for width in WRAPPED.into_iter().filter(|width| whole.len() > *width) {
            all.extend(whole.chunks(width).map(<[u8]>::to_vec));
        }
        all.push(whole);
    }
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for before in 0..3 {
            let encoded = engine.encode([&[0; 3][..before], value].concat()).into_bytes();
            let (first, end) = ([0, 2, 3][before], (before + value.len()) * 8 / 6);
            all.extend(encoded.get(first..end).map(<[u8]>::to_vec));
        }
    }
}

/// A value as programs write it into URLs: they differ in what they leave as it is beside letters, digits and `-_.~`,
/// in the case of the digits, and in blanks.
fn percent(value: &[u8], all: &mut Vec<Vec<u8>>) {
    // RFC 3986; Python's quote(); JavaScript's encodeURIComponent() and encodeURI().
    for kept in ["", "/", "!*'()", "!*'();,/?:@&=+$#"] {
        for upper in [true, false] {
            for blank in ["%20", "+"] {
                let mut out = Vec::with_capacity(value.len());
                for byte in value {
                    match byte {
                        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                            out.push(*byte)
                        }
                        byte if kept.as_bytes().contains(byte) => out.push(*byte),
                        b' ' => out.extend_from_slice(blank.as_bytes()),
                        other if upper => out.extend_from_slice(format!("%{other:02X}").as_bytes()),
                        other => out.extend_from_slice(format!("%{other:02x}").as_bytes()),
                    }
                }
                all.push(out);
                if !value.contains(&b' ') {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: &str, text: &str) -> String {
        let secret = Secret { value: secret.as_bytes().into(), invalidates: false };
        String::from_utf8_lossy(&Forms::of([&secret].into_iter()).hide(text.as_bytes())).into_owned()
    }

    #[test]
    fn a_secret_is_hidden_in_all_its_forms() {
        assert_eq!(shown("hunter22\n", "the password is hunter22, hunter22!"), "the password is ****, ****!");
        assert_eq!(shown("hunter22", "aHVudGVyMjI="), "****");
        for encoded in
            ["a%20b%2Fc%26d", "a%20b%2fc%26d", "a+b%2Fc%26d", "a%20b/c%26d", "a+b/c%26d", "a%20b/c&d"]
        {
            assert_eq!(shown("a b/c&d", &format!("x={encoded}")), "x=****");
        }
        assert_eq!(shown("line one\nline two\n", "it says line two here"), "it says **** here");
    }

    #[test]
    fn what_a_terminal_leaves_out_splits_no_secret() {
        let secret = Secret { value: b"hunter22-secret".as_slice().into(), invalidates: false };
        let forms = Forms::of([&secret].into_iter());
        for between in ["\0", "\x08", "\x1b[2K", "\x1b[31m", "\u{9b}", "\x7f", "\0\x07\x1b[1;2H"] {
            let line = format!("a hunter{between}22-secret b");
            let shown = forms.hide_shown(line.as_bytes());
            assert_eq!(String::from_utf8_lossy(&shown), "a **** b", "{between:?}");
        }
        // Where nothing is hidden the line stays as it was.
        let line = b"\x1b[31mhunter\x1b[0m 22\0";
        assert_eq!(forms.hide_shown(line).as_ref(), line);
    }

    #[test]
    fn base64_around_a_secret_hides_it_too() {
        for user in ["", "u", "us", "use", "user"] {
            for behind in ["", "\n", "@x", "@xy"] {
                let text = format!("{user}:hunter22-secret{behind}");
                for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
                    let shown = shown("hunter22-secret", &format!("Basic {}", engine.encode(&text)));
                    assert!(shown.contains("****"), "{text:?} {shown}");
                    // What is left shows whole letters of the neighbours, and bits of the secret's ends.
                    let left = shown.trim_start_matches("Basic ").replace("****", "").len();
                    assert!(left <= (user.len() + 1 + behind.len()) * 4 / 3 + 6, "{text:?} {shown}");
                }
            }
        }
    }

    #[test]
    fn long_secrets_are_hidden_line_by_line_also_in_wrapped_base64() {
        let key: String = (0..40).map(|n| format!("line number {n} of the key\n")).collect();
        for line in key.lines() {
            assert_eq!(shown(&key, line), "****");
        }
        for width in WRAPPED {
            for line in STANDARD.encode(&key).as_bytes().chunks(width).filter(|line| line.len() >= SHORTEST) {
                assert_eq!(shown(&key, &String::from_utf8_lossy(line)), "****");
            }
        }
    }

    #[test]
    fn forms_that_overlap_leave_nothing_of_each_other() {
        let secrets = ["abcdefgh", "fghijkl", "klmno"]
            .map(|value| Secret { value: value.as_bytes().into(), invalidates: false });
        let forms = Forms::of(secrets.iter());
        assert_eq!(forms.hide(b"x abcdefghijklmno y").as_ref(), b"x **** y");
        assert_eq!(forms.hide(b"klmnoklmno").as_ref(), b"********");
    }

    #[test]
    fn a_secret_is_hidden_wherever_a_line_is_cut() {
        let secret = Secret { value: b"hunter22-secret".as_slice().into(), invalidates: false };
        let forms = Forms::of([&secret].into_iter());
        let line = b"before hunter22-secret between aHVudGVyMjItc2VjcmV0 behind";
        for first in 0..line.len() {
            for second in first..line.len() {
                let mut held = Vec::new();
                let mut shown = forms.hide_part(&mut held, &line[..first]);
                shown.extend(forms.hide_part(&mut held, &line[first..second]));
                held.extend_from_slice(&line[second..]);
                shown.extend_from_slice(&forms.hide(&held));
                assert_eq!(String::from_utf8_lossy(&shown), "before **** between **** behind");
            }
        }
    }

    #[test]
    fn long_values_are_hidden_in_all_their_forms() {
        let secret: String = (0..LONG).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
        for form in [secret.clone(), STANDARD.encode(&secret), URL_SAFE_NO_PAD.encode(&secret)] {
            assert_eq!(shown(&secret, &format!("x {form} y")), "x **** y");
        }
    }

    #[test]
    fn what_is_too_short_to_be_told_from_text_is_left_alone() {
        assert_eq!(shown("ab", "about"), "about");
        assert_eq!(shown("", "about"), "about");
    }
}
