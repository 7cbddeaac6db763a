//! What a validation found.

/// Problems told of one image; more are only counted. A damaged layer can have one for each entry.
const MAX_PROBLEMS: usize = 1000;

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: the document or layer, and the field or path inside.
    pub place: String,
    /// What is wrong, in plain words.
    pub message: String,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Broken rules, in the order of reading.
    pub problems: Vec<Problem>,
    /// Problems beyond those listed.
    pub more: usize,
    /// Indexes, manifests and configs that were read.
    pub documents: usize,
    /// Layers that were read.
    pub layers: usize,
    /// Entries in these layers.
    pub entries: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes a problem.
    pub fn add(&mut self, place: impl Into<String>, message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { place: place.into(), message: message.into() });
        } else {
            self.more += 1;
        }
    }
}
