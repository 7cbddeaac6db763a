//! Finding the `<<NAME` words of an instruction.

use std::ops::Range;

/// A `<<NAME` word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// The whole word, descriptor and quotes included.
    pub(super) range: Range<usize>,
    /// The terminator, unquoted.
    pub(super) name: String,
    /// No part of the name was quoted.
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) fd: u32,
    /// Blanks between `<<-` and the name, which BuildKit does not read as a here-document.
    pub(super) apart: Option<Range<usize>>,
}

/// The here-documents a text announces, in order. A word counts only if it begins with `<<`, a file
/// descriptor aside: `cat<<EOF`, `<<<text`, `"<<EOF"` and `$((1 << 2))` do not. Text with an unclosed
/// quote announces none; the shell will say what it thinks of it.
pub(super) fn find(text: &str) -> Vec<Token> {
    let mut scan = Scan { text, at: 0, braces_close: true, arithmetic_closes: true };
    let mut tokens = Vec::new();
    while scan.skip_blanks() {
        let start = scan.at;
        let mark = Mark::read(scan.rest());
        let name_at = start + mark.as_ref().map_or(0, |mark| mark.length);
        scan.at = name_at;
        if scan.skip_word().is_none() {
            return Vec::new();
        }
        let Some(mark) = mark else { continue };
        let name = text.get(name_at..scan.at).unwrap_or("");
        if name.contains('<') {
            continue;
        }
        let (name, expand) = unquote(name);
        if !name.is_empty() {
            let Mark { strip_tabs, fd, blanks, .. } = mark;
            let apart = (strip_tabs && blanks > 0).then(|| name_at - blanks..name_at);
            tokens.push(Token { range: start..scan.at, name, expand, strip_tabs, fd, apart });
        }
    }
    tokens
}

/// `2<<-` and the blanks after it.
struct Mark {
    length: usize,
    /// How many bytes of it are blanks at its end.
    blanks: usize,
    strip_tabs: bool,
    fd: u32,
}

impl Mark {
    fn read(text: &str) -> Option<Mark> {
        let after_fd = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let fd = text.get(..text.len() - after_fd.len())?.parse().unwrap_or(0);
        let after = after_fd.strip_prefix("<<")?;
        let strip_tabs = after.starts_with('-');
        let after = after.strip_prefix('-').unwrap_or(after);
        let name = after.trim_start_matches([' ', '\t']);
        Some(Mark { length: text.len() - name.len(), blanks: after.len() - name.len(), strip_tabs, fd })
    }
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// False once a `${` was found without its `}`: none after it has one either.
    braces_close: bool,
    /// The same of `$((` and `))`.
    arithmetic_closes: bool,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    /// Moves to the next word; false at the end.
    fn skip_blanks(&mut self) -> bool {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.at < self.text.len()
    }

    /// Moves past a word; `None` if a quote in it is never closed.
    fn skip_word(&mut self) -> Option<()> {
        loop {
            let rest = self.rest();
            match rest.chars().next() {
                None => return Some(()),
                Some(c) if c.is_whitespace() => return Some(()),
                Some(quote @ ('\'' | '"')) => self.at += quoted(rest, quote)?,
                Some('\\') => self.skip_escaped(),
                Some('$') => self.skip_dollar(),
                Some(c) => self.at += c.len_utf8(),
            }
        }
    }

    fn skip_escaped(&mut self) {
        self.at += self.rest().chars().take(2).map(char::len_utf8).sum::<usize>();
    }

    fn skip_dollar(&mut self) {
        let rest = self.rest();
        if self.arithmetic_closes && rest.starts_with("$((") {
            match rest.find("))") {
                Some(end) => {
                    self.at += end + 2;
                    return;
                }
                None => self.arithmetic_closes = false,
            }
        }
        if self.braces_close && rest.starts_with("${") {
            match braced(rest) {
                Some(length) => {
                    self.at += length;
                    return;
                }
                None => self.braces_close = false,
            }
        }
        self.at += 1;
    }
}

/// Length of a quoted text, quotes included.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some(at + 1);
        }
        if c == '\\' && quote == '"' {
            chars.next();
        }
    }
    None
}

/// Length of `${...}` at the start of a text, nested ones included.
fn braced(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut previous = '\0';
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '{' if previous == '$' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        previous = c;
    }
    None
}

/// The name without quotes and escapes, and whether it had no quotes.
fn unquote(text: &str) -> (String, bool) {
    let mut name = String::new();
    let mut quote = None;
    let mut plain = true;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                plain = false;
            }
            (Some(open), c) if c == open => quote = None,
            (None, '\\') => name.extend(chars.next()),
            (Some('"'), '\\') => match chars.next_if(|next| matches!(next, '"' | '$' | '\\')) {
                Some(next) => name.push(next),
                None => name.push('\\'),
            },
            _ => name.push(c),
        }
    }
    (name, plain)
}

#[cfg(test)]
mod tests {
    use super::find;

    fn names(text: &str) -> Vec<(String, bool, bool, u32)> {
        find(text).into_iter().map(|t| (t.name, t.expand, t.strip_tabs, t.fd)).collect()
    }

    #[test]
    fn finds_the_words_a_shell_would_take_for_heredocs() {
        let plain = |name: &str| vec![(name.to_owned(), true, false, 0)];
        for (text, expected) in [
            ("<<EOF", plain("EOF")),
            ("cat <<EOF > x", plain("EOF")),
            ("cat << EOF", plain("EOF")),
            ("<<-EOF", vec![("EOF".to_owned(), true, true, 0)]),
            ("<<- EOF", vec![("EOF".to_owned(), true, true, 0)]),
            ("<<'EOF'", vec![("EOF".to_owned(), false, false, 0)]),
            ("<<\"EOF\"", vec![("EOF".to_owned(), false, false, 0)]),
            ("<<E'O'F", vec![("EOF".to_owned(), false, false, 0)]),
            ("<<'one two'", vec![("one two".to_owned(), false, false, 0)]),
            ("<<eo\\'f", plain("eo'f")),
            ("<<$EOF", plain("$EOF")),
            ("<<${EOF:-x y}", plain("${EOF:-x y}")),
            ("3<<EOF", vec![("EOF".to_owned(), true, false, 3)]),
            ("<<EOF;", plain("EOF;")),
            ("echo ${arr[0]} <<EOF", plain("EOF")),
            ("x=$(cat <<EOF", plain("EOF")),
            ("echo $((1 << 2)) <<EOF", plain("EOF")),
            ("echo ${x:- <<A} <<EOF", plain("EOF")),
            ("echo ${x <<EOF", plain("EOF")),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
        assert_eq!(
            names("cat <<A > a && cat <<-'B' > b"),
            [("A".to_owned(), true, false, 0), ("B".to_owned(), false, true, 0)]
        );
    }

    #[test]
    fn leaves_alone_what_only_looks_like_one() {
        for text in [
            "cat<<EOF",
            "<<<EOF",
            "cat <<< EOF",
            "\"<<EOF\"",
            "'<<EOF'",
            "\\<<EOF",
            "<<",
            "<<''",
            "<<A<B",
            "echo 'open <<EOF",
            "echo $((1<<2)) $(( 1 << 2 ))",
            "a <EOF",
        ] {
            assert_eq!(names(text), [], "{text}");
        }
    }
}
