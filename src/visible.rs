//! Text of others (files, images, registries, programs) on its way to a terminal.
//!
//! Such text must not drive the terminal (escape sequences set the clipboard, forge lines, hide output),
//! nor show another order of characters than the file has (CVE-2021-42574). Everything that rbuild prints
//! passes through here, in the place that prints it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character moves the cursor, changes how others are shown, or cannot be seen. Line ends and tabs
/// are no such characters.
fn is_special(c: char) -> bool {
    let unseen = matches!(c,
        // Soft hyphen, Mongolian vowel separator, spaces and joiners without width, invisible operators.
        '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
        // Marks, embeddings, overrides and isolates of the direction of writing.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        // Ends of lines and paragraphs that editors do not agree on; annotations; tags.
        | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    unseen || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// The text with every such character written out, as in `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.contains("\r\n") {
        return Cow::Owned(visible(&text.replace("\r\n", "\n")).into_owned());
    }
    written_out(text, |c| is_special(c).then(|| c.escape_unicode().to_string()))
}

/// The same on one line: a title, a name, a cell of a table.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    written_out(text, |c| match c {
        '\n' | '\t' => Some(" ".to_owned()),
        c => is_special(c).then(|| c.escape_unicode().to_string()),
    })
}

/// A JSON document that stays the same document: there, such characters stand in strings only.
pub fn visible_json(text: &str) -> Cow<'_, str> {
    written_out(text, |c| {
        is_special(c).then(|| {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().fold(String::new(), |mut out, unit| {
                let _ = write!(out, "\\u{unit:04x}");
                out
            })
        })
    })
}

/// Whether all of a text is what anybody may print anywhere. Most text is, and needs no closer look.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// `replacement` leaves the printable characters of ASCII alone.
fn written_out(text: &str, replacement: impl Fn(char) -> Option<String>) -> Cow<'_, str> {
    if is_plain(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let Some(first) = text.char_indices().find(|(_, c)| replacement(*c).is_some()).map(|(at, _)| at) else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..first]);
    for c in text[first..].chars() {
        match replacement(c) {
            Some(written) => out.push_str(&written),
            None => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A line of a program's output without what would move the cursor; colours stay where they are wanted.
pub fn output(line: &[u8], colour: bool) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(line);
    if is_plain(line) {
        return text;
    }
    // A progress bar redraws its line: what it shows last is what counts.
    let text = text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("");
    let mut out = String::with_capacity(text.len());
    let mut coloured = false;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.peek() == Some(&'[') => {
                rest.next();
                let sequence = sequence(&mut rest);
                if colour && is_colour(&sequence) {
                    out.push_str("\x1b[");
                    out.push_str(&sequence);
                    coloured = true;
                }
            }
            '\t' => out.push('\t'),
            c if c.is_control() => {}
            c if is_special(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    Cow::Owned(out)
}

/// What follows `ESC [`, up to its last character.
fn sequence(rest: &mut impl Iterator<Item = char>) -> String {
    let mut sequence = String::new();
    for c in rest {
        sequence.push(c);
        if ('@'..='~').contains(&c) {
            break;
        }
    }
    sequence
}

/// Numbers and an `m`. Others that end so set the keyboard's mode (`>4m`).
fn is_colour(sequence: &str) -> bool {
    let numbers = sequence.strip_suffix('m');
    numbers.is_some_and(|numbers| numbers.chars().all(|c| c.is_ascii_digit() || matches!(c, ';' | ':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_cannot_move_the_cursor() {
        assert_eq!(output(b"a\x1b[2Jb\x07c", true), "abc");
        assert_eq!(output(b"\x1b[31mred", true), "\x1b[31mred\x1b[0m");
        assert_eq!(output(b"\x1b[31mred\x1b[0m", false), "red");
        assert_eq!(output(b"10%\r50%\r100%", true), "100%");
        assert_eq!(output(b"\x1b]0;title\x07x", true), "]0;titlex");
        assert_eq!(output(b"\x1b[>4m\x1b[?m\x1b[\x1b]52;cm", true), "52;cm");
        assert_eq!(output("a\u{202e}b\u{9b}2J".as_bytes(), true), "a\\u{202e}b2J");
    }

    #[test]
    fn words_of_others_cannot_drive_the_terminal_or_hide() {
        assert_eq!(visible("\u{e9}\ta\n\x1b[2J\u{9b}b\r"), "\u{e9}\ta\n\\u{1b}[2J\\u{9b}b\\u{d}");
        assert_eq!(visible("a\u{202e}b\u{200b}c\u{e0041}"), "a\\u{202e}b\\u{200b}c\\u{e0041}");
        assert_eq!(visible("a\r\nb\r"), "a\nb\\u{d}");
        assert_eq!(visible_line("a\n\tb\x07"), "a  b\\u{7}");
        assert!(matches!(visible("plain \u{65e5}\u{672c} \u{1f600}"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_what_it_is() {
        for text in ["\u{202e}\u{9b}", "\u{e0041}x", "plain"] {
            let json = serde_json::to_string(text).unwrap();
            let shown = visible_json(&json).into_owned();
            assert!(shown.chars().all(|c| !is_special(c)), "{shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
