//! As much of the shell's language as rules about `RUN` need: which simple commands a script holds.

use std::iter::Peekable;
use std::str::Chars;

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Command {
    /// Its words without quotes. Assignments and redirections before it and words that only introduce it
    /// (`sudo`, `then`, `!`) are left out.
    pub(super) words: Vec<String>,
    /// `sudo` stands before it, and not to become another user than root.
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

    /// What `sh -c` is given.
    fn script(&self) -> Option<&str> {
        let is_flag =
            |word: &&String| word.starts_with('-') && !word.starts_with("--") && word.ends_with('c');
        let at = self.words.iter().position(|word| is_flag(&word))?;
        let shell = is_shell(self.name()) && self.words[1..at].iter().all(|word| word.starts_with('-'));
        self.words.get(at + 1).filter(|_| shell).map(String::as_str)
    }
}

/// Words after which another command begins, or that say nothing of what is run.
const INTRODUCERS: [&str; 16] = [
    "env", "exec", "command", "time", "nice", "nohup", "then", "do", "else", "if", "elif", "while", "until",
    "!", "{", "(",
];

/// Scripts in scripts deeper than this are words.
const DEPTH: usize = 3;

/// The simple commands of a script in order. Loops and conditions give the commands inside them, and so does
/// the argument of `sh -c`; other text in quotes, `$(...)` or backticks is part of a word.
pub(super) fn commands(script: &str) -> Vec<Command> {
    nested(script, DEPTH)
}

fn nested(script: &str, depth: usize) -> Vec<Command> {
    let mut out = Vec::new();
    for command in simple(script) {
        let inner = command.script().filter(|_| depth > 0);
        match inner.map(|inner| nested(inner, depth - 1)) {
            Some(inner) if !inner.is_empty() => {
                out.extend(inner.into_iter().enumerate().map(|(at, inner)| Command {
                    sudo: inner.sudo || command.sudo,
                    joint: if at == 0 { command.joint } else { inner.joint },
                    ..inner
                }));
            }
            _ => out.push(command),
        }
    }
    out
}

/// Whether a program is a shell.
pub(super) fn is_shell(program: &str) -> bool {
    matches!(program.rsplit('/').next().unwrap_or(program), "sh" | "bash" | "ash" | "dash" | "zsh")
}

fn simple(script: &str) -> Vec<Command> {
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
        let (rest, sudo) = introduced(&words);
        if !rest.is_empty() || sudo.is_some() {
            self.out.push(Command { words: rest.to_vec(), sudo: sudo == Some(true), joint: self.joint });
            self.joint = joint;
        } else if self.joint == "\n" {
            self.joint = joint;
        }
    }
}

/// A command without what introduces it, and whether a `sudo` among that is for root.
fn introduced(words: &[String]) -> (&[String], Option<bool>) {
    let mut sudo = None;
    let mut rest = words;
    while let Some((first, after)) = rest.split_first() {
        if first == "sudo" {
            let (command, root) = after_sudo(after);
            (rest, sudo) = (command, Some(root));
            continue;
        }
        // `</dev/null` has its file in the same word, `<` in the next one.
        let redirection = first.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(['<', '>'])
            && !first.contains("<<");
        if !(redirection || is_assignment(first) || INTRODUCERS.contains(&first.as_str())) {
            break;
        }
        rest = if redirection && first.ends_with(['<', '>']) { after.get(1..).unwrap_or(&[]) } else { after };
    }
    (rest, sudo)
}

/// What follows the options of `sudo`, and whether it is run as root.
fn after_sudo(mut rest: &[String]) -> (&[String], bool) {
    const WITH_VALUE: &str = "CDRTUghprtu";
    let mut root = true;
    while let Some((first, after)) = rest.split_first() {
        if !first.starts_with('-') {
            break;
        }
        let next = after.first().map(String::as_str);
        let short = first.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        let taking =
            short.and_then(|letters| letters.find(|c| WITH_VALUE.contains(c)).map(|at| (letters, at)));
        let (user, takes_next) = match (first.split_once('='), taking) {
            (Some(("--user" | "--group", user)), _) => (Some(user), false),
            (None, _) if matches!(first.as_str(), "--user" | "--group") => (next, true),
            (_, Some((letters, at))) => {
                let value = &letters[at + 1..];
                let given = if value.is_empty() { next } else { Some(value) };
                (given.filter(|_| letters[at..].starts_with(['u', 'g'])), value.is_empty())
            }
            _ => (None, false),
        };
        root &= user.is_none_or(|user| matches!(user, "root" | "0" | "#0"));
        rest = if takes_next { after.get(1..).unwrap_or(&[]) } else { after };
    }
    (rest, root)
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
    }

    #[test]
    fn scripts_in_arguments_of_shells_are_read() {
        for (script, expected) in [
            ("a && sh -c 'b; c d' && e", vec!["[a]", "&&[b]", ";[c|d]", "&&[e]"]),
            ("/bin/bash -exc \"a\nb\"", vec!["[a]", "\n[b]"]),
            ("bash -e -c 'a'", vec!["[a]"]),
            ("bash x.sh -c 'a'", vec!["[bash|x.sh|-c|a]"]),
            ("sh -c \"$X\"", vec!["[$X]"]),
            ("sh -c", vec!["[sh|-c]"]),
            ("sh -c ''", vec!["[sh|-c|]"]),
            ("</dev/null 2> f X=1 a", vec!["[a]"]),
        ] {
            assert_eq!(shown(script), expected, "{script}");
        }
    }

    #[test]
    fn sudo_is_for_root_unless_it_names_another_user() {
        for (script, command, root) in [
            ("sudo a", "a", true),
            ("sudo -u root a", "a", true),
            ("X=1 sudo -E -H Y=2 a", "a", true),
            ("sudo -S -p x a", "a", true),
            ("sudo sh -c 'a b'", "a", true),
            ("sudo -u x a", "a", false),
            ("sudo -ux a", "a", false),
            ("sudo -EHu x a", "a", false),
            ("sudo --user=x a", "a", false),
            ("sudo --user x a", "a", false),
            ("sudo -g x a", "a", false),
            ("a", "a", false),
            ("sudo", "", true),
            ("sudo -u", "", true),
        ] {
            let found = commands(script);
            assert_eq!((found[0].name(), found[0].sudo), (command, root), "{script}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_script_panics(script in "[a-z'\"\\\\$()&|;#<> \n]{0,40}") {
            let _ = commands(&script);
        }
    }
}
