//! As much of the shell's language as rules about `RUN` need: which simple commands a script holds.

use std::iter::Peekable;
use std::str::Chars;

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Command {
    /// Its words without quotes. Assignments before it and words that only introduce it (`sudo`, `then`,
    /// `!`) are left out.
    pub(super) words: Vec<String>,
    /// `sudo` stands before it.
    pub(super) sudo: bool,
    /// What stands between it and the command before: `""` for the first, `"\n"`, `";"`, `"&&"`...
    pub(super) joint: &'static str,
}

impl Command {
    /// The program.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word))
    }

    /// The arguments.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        self.words.iter().skip(1).map(String::as_str)
    }

    /// Whether a word is among the arguments.
    pub(super) fn has(&self, argument: &str) -> bool {
        self.arguments().any(|word| word == argument)
    }

    /// The arguments that are no options.
    pub(super) fn operands(&self) -> impl Iterator<Item = &str> {
        self.arguments().filter(|word| !word.starts_with('-'))
    }
}

/// Words after which another command begins, or that say nothing of what is run.
const INTRODUCERS: [&str; 17] = [
    "sudo", "env", "exec", "command", "time", "nice", "nohup", "then", "do", "else", "if", "elif", "while",
    "until", "!", "{", "(",
];

/// The simple commands of a script in order. Loops and conditions give the commands inside them; what
/// stands in quotes, `$(...)` or backticks is part of a word.
pub(super) fn commands(script: &str) -> Vec<Command> {
    let mut scanner = Scanner {
        chars: script.chars().peekable(),
        out: Vec::new(),
        words: Vec::new(),
        word: None,
        joint: "",
    };
    scanner.run();
    scanner.out
}

struct Scanner<'a> {
    chars: Peekable<Chars<'a>>,
    out: Vec<Command>,
    words: Vec<String>,
    word: Option<String>,
    joint: &'static str,
}

impl Scanner<'_> {
    fn run(&mut self) {
        let mut before = '\n';
        while let Some(c) = self.chars.next() {
            match c {
                '\\' => self.escaped(),
                '\'' | '"' => self.quoted(c),
                '$' if self.chars.peek() == Some(&'(') => self.substitution(),
                '#' if self.word.is_none() && before.is_whitespace() => self.comment(),
                // `2>&1` is one redirection.
                '&' if self.word.as_deref().is_some_and(|word| word.ends_with(['>', '<'])) => self.push(c),
                '\n' | ';' | '&' | '|' => self.operator(c),
                '(' | ')' => self.end(";"),
                c if c.is_whitespace() => self.end_word(),
                c => self.push(c),
            }
            before = c;
        }
        self.end("");
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn escaped(&mut self) {
        match self.chars.next() {
            Some('\n') | None => {}
            Some(c) => self.push(c),
        }
    }

    fn quoted(&mut self, quote: char) {
        self.word.get_or_insert_default();
        while let Some(c) = self.chars.next() {
            match c {
                c if c == quote => return,
                '\\' if quote == '"' => self.escaped(),
                c => self.push(c),
            }
        }
    }

    fn substitution(&mut self) {
        self.push('$');
        let mut depth = 0_usize;
        while let Some(c) = self.chars.next() {
            self.push(c);
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn comment(&mut self) {
        while self.chars.next_if(|c| *c != '\n').is_some() {}
    }

    fn operator(&mut self, c: char) {
        let double = c != '\n' && self.chars.next_if_eq(&c).is_some();
        self.end(match (c, double) {
            ('&', true) => "&&",
            ('|', true) => "||",
            ('&', false) => "&",
            ('|', false) => "|",
            ('\n', _) => "\n",
            _ => ";",
        });
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    /// Ends the command; `joint` stands before the next one.
    fn end(&mut self, joint: &'static str) {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        let mut sudo = false;
        let mut rest = words.as_slice();
        while let Some((first, after)) = rest.split_first() {
            let option_of_sudo = sudo && first.starts_with('-');
            if !(is_assignment(first) || option_of_sudo || INTRODUCERS.contains(&first.as_str())) {
                break;
            }
            sudo |= first == "sudo";
            rest = after;
        }
        if !rest.is_empty() || sudo {
            self.out.push(Command { words: rest.to_vec(), sudo, joint: self.joint });
            self.joint = joint;
        } else if self.joint == "\n" {
            self.joint = joint;
        }
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(script: &str) -> Vec<String> {
        commands(script).iter().map(|one| format!("{}[{}]", one.joint, one.words.join("|"))).collect()
    }

    #[test]
    fn scripts_fall_into_simple_commands() {
        for (script, expected) in [
            ("a b", vec!["[a|b]"]),
            ("a && b || c; d | e & f", vec!["[a]", "&&[b]", "||[c]", ";[d]", "|[e]", "&[f]"]),
            ("a\n\n# no\nb # x\n", vec!["[a]", "\n[b]"]),
            ("a 'b c' \"d;e\" f\\ g", vec!["[a|b c|d;e|f g]"]),
            ("X=1 Y=2 sudo -E a", vec!["[a]"]),
            ("if a; then b; fi", vec!["[a]", ";[b]", ";[fi]"]),
            ("(a; b)", vec!["[a]", ";[b]"]),
            ("a $(b; c) d", vec!["[a|$(b; c)|d]"]),
            ("a >/dev/null 2>&1", vec!["[a|>/dev/null|2>&1]"]),
            ("a \\\n b", vec!["[a|b]"]),
            ("a#b", vec!["[a#b]"]),
            ("", vec![]),
            ("'", vec!["[]"]),
        ] {
            assert_eq!(shown(script), expected, "{script}");
        }
        assert!(commands("sudo -u x apt")[0].sudo);
    }

    proptest::proptest! {
        #[test]
        fn no_script_panics(script in "[a-z'\"\\\\$()&|;#<> \n]{0,40}") {
            let _ = commands(&script);
        }
    }
}
