//! One ignore pattern as a small automaton.
//!
//! Running it character by character has two uses that a yes-or-no matcher lacks: the state reached
//! after a directory is kept and shared by everything in it, and an empty state says that nothing
//! below that directory can match, which is what allows pruning.

use super::lex::{self, BadPattern, Class, Lexeme, Unit};

const SLASH: Unit = b'/' as Unit;

/// A compiled pattern. Position `i` of a [`Positions`] means "step `i` comes next"; the position
/// after the last step means that everything read so far matches.
#[derive(Debug, Clone)]
pub(super) struct Automaton {
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    Char(Unit),
    /// One character but a slash.
    AnyChar,
    Class(Class),
    /// Any run without a slash.
    Run,
    /// Any run at all.
    Rest,
    /// Nothing, or a run that ends in a slash. Always followed by [`Step::InDirs`].
    Dirs,
    /// The run of [`Step::Dirs`] has begun.
    InDirs,
}

/// The positions an automaton may be in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Positions {
    /// Positions 0 to 127, enough for nearly all patterns without touching the heap.
    low: u128,
    high: Vec<u128>,
}

impl Automaton {
    /// Compiles a cleaned pattern without its `!`.
    ///
    /// `**` follows BuildKit's translation: it swallows a slash after it; at the end it matches
    /// anything, elsewhere nothing or whole directories. A pattern that begins with `**` and is
    /// otherwise plain text is a suffix, so that `**.log` (unlike `**.log*`) matches `a.log`.
    pub(super) fn compile(pattern: &[u8]) -> Result<Self, BadPattern> {
        let lexemes = lex::lex(pattern)?;
        if lexemes.iter().any(|lexeme| matches!(lexeme, Lexeme::Class(class) if class.has_reversed_range())) {
            return Err(BadPattern);
        }
        let mut steps = Vec::with_capacity(lexemes.len() + 1);
        if let [Lexeme::Star, Lexeme::Star, suffix @ ..] = lexemes.as_slice()
            && suffix.iter().all(is_plain)
            && !matches!(suffix, [Lexeme::Char { unit: SLASH, .. }, ..])
        {
            steps.push(Step::Rest);
            steps.extend(suffix.iter().filter_map(plain_step));
            return Ok(Automaton { steps });
        }
        let mut rest = lexemes.as_slice();
        while let Some((lexeme, after)) = rest.split_first() {
            rest = after;
            match lexeme {
                Lexeme::Star => match rest {
                    [Lexeme::Star, after @ ..] => {
                        rest = match after {
                            [Lexeme::Char { unit: SLASH, escaped: false }, after @ ..] => after,
                            after => after,
                        };
                        match rest {
                            [] => steps.push(Step::Rest),
                            _ => steps.extend([Step::Dirs, Step::InDirs]),
                        }
                    }
                    _ => steps.push(Step::Run),
                },
                Lexeme::AnyChar => steps.push(Step::AnyChar),
                Lexeme::Class(class) => steps.push(Step::Class(class.clone())),
                Lexeme::Char { unit, .. } => steps.push(Step::Char(*unit)),
            }
        }
        Ok(Automaton { steps })
    }

    /// Before anything was read.
    pub(super) fn start(&self) -> Positions {
        let mut positions = Positions::default();
        self.enter(&mut positions, 0);
        positions
    }

    /// Reads `text`, continuing from `positions`.
    pub(super) fn read(&self, positions: &Positions, text: &[u8]) -> Positions {
        let mut current = positions.clone();
        for unit in lex::units(text) {
            if current.is_empty() {
                break;
            }
            current = self.read_unit(&current, unit);
        }
        current
    }

    /// Whether everything read so far matches.
    pub(super) fn accepts(&self, positions: &Positions) -> bool {
        positions.contains(self.steps.len())
    }

    fn read_unit(&self, positions: &Positions, unit: Unit) -> Positions {
        let mut next = Positions::default();
        positions.each(|position| {
            let Some(step) = self.steps.get(position) else { return };
            match step {
                Step::Char(expected) if *expected == unit => self.enter(&mut next, position + 1),
                Step::AnyChar if unit != SLASH => self.enter(&mut next, position + 1),
                Step::Class(class) if class.holds(unit) => self.enter(&mut next, position + 1),
                Step::Run if unit != SLASH => self.enter(&mut next, position),
                Step::Rest => self.enter(&mut next, position),
                Step::Dirs => self.run_on(&mut next, position + 1, unit),
                Step::InDirs => self.run_on(&mut next, position, unit),
                _ => {}
            }
        });
        next
    }

    /// Stays inside the run of a `**`, and may leave it after a slash.
    fn run_on(&self, positions: &mut Positions, inside: usize, unit: Unit) {
        positions.insert(inside);
        if unit == SLASH {
            self.enter(positions, inside + 1);
        }
    }

    /// Adds a position and those reachable from it without reading anything.
    fn enter(&self, positions: &mut Positions, mut position: usize) {
        loop {
            positions.insert(position);
            position += match self.steps.get(position) {
                Some(Step::Run | Step::Rest) => 1,
                Some(Step::Dirs) => 2,
                _ => return,
            };
        }
    }
}

fn is_plain(lexeme: &Lexeme) -> bool {
    // The reference takes a bare `]` for a reason to use a regular expression; so it is not plain.
    matches!(lexeme, Lexeme::Char { unit, escaped: false } if *unit != Unit::from(b']'))
}

fn plain_step(lexeme: &Lexeme) -> Option<Step> {
    match lexeme {
        Lexeme::Char { unit, .. } => Some(Step::Char(*unit)),
        _ => None,
    }
}

impl Positions {
    /// No continuation can match.
    pub(super) fn is_empty(&self) -> bool {
        self.low == 0 && self.high.iter().all(|&word| word == 0)
    }

    fn insert(&mut self, position: usize) {
        let bit = 1u128 << (position % 128);
        match position / 128 {
            0 => self.low |= bit,
            word => {
                if self.high.len() < word {
                    self.high.resize(word, 0);
                }
                if let Some(slot) = self.high.get_mut(word - 1) {
                    *slot |= bit;
                }
            }
        }
    }

    fn contains(&self, position: usize) -> bool {
        let word = match position / 128 {
            0 => self.low,
            word => self.high.get(word - 1).copied().unwrap_or(0),
        };
        word >> (position % 128) & 1 == 1
    }

    fn each(&self, mut visit: impl FnMut(usize)) {
        for (index, &word) in std::iter::once(&self.low).chain(&self.high).enumerate() {
            let mut left = word;
            while left != 0 {
                visit(index * 128 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}
