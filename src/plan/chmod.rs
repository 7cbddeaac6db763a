//! `--chmod`: octal, or symbolic as in BSD's chmod(1) with a umask of 0, which is what BuildKit's
//! package (dchapes/mode) follows: unlike GNU's, `=` takes setuid and setgid away from directories too.

use std::fmt;

/// A parsed mode change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chmod {
    written: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// What `a`, or nobody, stands for: all but the sticky bit.
const EVERYBODY: u32 = 0o6777;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    /// Bits of user (0o4700), group (0o2070), others (0o7) and sticky this clause may touch.
    who: u32,
    operator: char,
    letters: String,
}

impl Chmod {
    /// Parses a value; the error is BuildKit's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written = text.to_owned();
        let octal = || {
            format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777")
        };
        if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| octal())?;
            return if mode <= 0o7777 {
                Ok(Chmod { written, kind: Kind::Octal(mode) })
            } else {
                Err(octal())
            };
        }
        let clauses: Option<Vec<Vec<Clause>>> = text.split(',').map(clauses).collect();
        let clauses = clauses.ok_or_else(octal)?.into_iter().flatten().collect();
        Ok(Chmod { written, kind: Kind::Symbolic(clauses) })
    }

    /// Whether it was written as a number.
    pub fn is_octal(&self) -> bool {
        matches!(self.kind, Kind::Octal(_))
    }

    /// The mode of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match &self.kind {
            Kind::Octal(mode) => *mode,
            Kind::Symbolic(clauses) => {
                let executable = mode & 0o111 != 0;
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir, executable))
            }
        }
    }
}

impl fmt::Display for Chmod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// `WHO OP LETTERS (OP LETTERS)*`.
fn clauses(text: &str) -> Option<Vec<Clause>> {
    let operators_at = text.find(['+', '-', '='])?;
    let (who, mut rest) = text.split_at(operators_at);
    let who = who.chars().try_fold(0, |bits, letter| {
        Some(
            bits | match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o0007,
                'a' => EVERYBODY,
                _ => return None,
            },
        )
    })?;
    let mut out = Vec::new();
    while let Some(operator) = rest.chars().next() {
        let letters_end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let letters = &rest[1..letters_end];
        if !letters.chars().all(|letter| "rwxXstugo".contains(letter)) {
            return None;
        }
        // The sticky bit belongs to nobody in particular, but least of all to the others alone. Where
        // nobody is named it stands alone: `=rt` is `+t`.
        let sticky = letters.contains('t') && (who == 0 || who & !0o7 != 0);
        let touched = if sticky { who | 0o1000 } else { who };
        let who = if touched == 0 { EVERYBODY } else { touched };
        let parts = copies_apart(letters).into_iter();
        out.extend(parts.map(|letters| Clause { who, operator, letters }));
        rest = &rest[letters_end..];
    }
    Some(out)
}

/// `rgw` as `r`, `g`, `w`: modes are copied one after the other. At least one part, maybe empty.
fn copies_apart(letters: &str) -> Vec<String> {
    let is_copy = |letter: &char| "ugo".contains(*letter);
    let letters: Vec<char> = letters.chars().collect();
    if letters.is_empty() {
        return vec![String::new()];
    }
    letters.chunk_by(|a, b| !is_copy(a) && !is_copy(b)).map(|part| part.iter().collect()).collect()
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool, executable: bool) -> u32 {
        let copied = |shift: u32| {
            let bits = mode >> shift & 7;
            bits << 6 | bits << 3 | bits
        };
        let bits = match self.letters.as_str() {
            "u" => copied(6),
            "g" => copied(3),
            "o" => copied(0),
            letters => letters.chars().fold(0, |bits, letter| {
                bits | match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if is_dir || executable => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => 0,
                }
            }),
        };
        let bits = bits & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => {
                let copies = matches!(self.letters.as_str(), "u" | "g" | "o");
                let cleared = if copies { self.who & 0o777 } else { self.who };
                mode & !cleared | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_follow_chmod() {
        let rows = [
            ("755", 0o644, false, 0o755),
            ("0", 0o777, false, 0),
            ("4755", 0o644, false, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("u=g", 0o4755, false, 0o4555),
            ("o=", 0o777, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("o+t", 0o777, true, 0o777),
            ("u+t", 0o777, true, 0o1777),
            ("o=rx", 0o1777, true, 0o1775),
            ("u-x+w", 0o555, false, 0o655),
            ("go-rwx", 0o755, true, 0o700),
            ("g=", 0o2750, true, 0o700),
            ("a=rX", 0o6755, true, 0o555),
            ("=t", 0o2750, true, 0o3750),
            ("=rt", 0o750, false, 0o1750),
            ("u=ug", 0o750, false, 0o550),
        ];
        for (text, mode, is_dir, expected) in rows {
            let chmod = Chmod::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(chmod.apply(mode, is_dir), expected, "{text} on {mode:o}");
        }
        for bad in ["", "999", "8", "10000", "u", "rwx", "u=q", "z+x", "u+x,", "0x1f"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }
}
