//! How much of a line a terminal's row takes: columns, not characters.

use std::iter::Peekable;
use std::str::Chars;

use unicode_width::UnicodeWidthChar as _;

/// Asks for a coloured picture of the character before it; terminals disagree about the width of the result.
const EMOJI_STYLE: char = '\u{fe0f}';

/// Columns that a text without line ends takes. Sequences for colours take none.
pub fn columns(text: &str) -> usize {
    let mut rest = text.chars().peekable();
    let mut all = 0;
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            skip_sequence(&mut rest, |_| {});
        } else {
            all += c.width().unwrap_or(0);
        }
    }
    all
}

/// As much of a line as fits into `width` columns, with an ellipsis where something is missing. Colours stay, and
/// end with the line.
pub fn cut(line: &str, width: usize) -> String {
    if columns(line) <= width && !line.contains(EMOJI_STYLE) {
        return line.to_owned();
    }
    let room = if columns(line) <= width { width } else { width.saturating_sub(1) };
    let (mut out, mut used, mut coloured) = (String::with_capacity(line.len().min(4 * width + 16)), 0, false);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' => {
                out.push(c);
                coloured = true;
                skip_sequence(&mut rest, |c| out.push(c));
            }
            EMOJI_STYLE => {}
            c => {
                let next = c.width().unwrap_or(0);
                if used + next > room {
                    out.push('…');
                    break;
                }
                used += next;
                out.push(c);
            }
        }
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

/// Passes what follows an escape, `[...` to its last letter, to `each`.
fn skip_sequence(rest: &mut Peekable<Chars<'_>>, mut each: impl FnMut(char)) {
    if rest.peek() != Some(&'[') {
        return;
    }
    rest.next();
    each('[');
    for c in rest.by_ref() {
        each(c);
        if ('@'..='~').contains(&c) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_combining_characters_and_colours_are_counted_as_terminals_do() {
        for (text, width) in
            [("abc", 3), ("日本語", 6), ("e\u{301}a", 2), ("\x1b[31mred\x1b[0m", 3), ("🙂", 2), ("", 0)]
        {
            assert_eq!(columns(text), width, "{text:?}");
        }
    }

    #[test]
    fn lines_are_cut_at_columns() {
        for (text, width, wanted) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abcde…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
            ("\x1b[31mabcdef", 3, "\x1b[31mab…\x1b[0m"),
            ("\u{2764}\u{fe0f} x", 5, "\u{2764} x"),
            ("abc", 0, "…"),
        ] {
            let shown = cut(text, width);
            assert_eq!(shown, wanted);
            assert!(columns(&shown) <= width.max(1));
        }
    }
}
