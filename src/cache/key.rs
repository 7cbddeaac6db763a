//! What goes into a cache key.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::{ChainId, Digest, Hasher};

/// Raised whenever the meaning of keys or of what steps produce changes: old records then miss.
pub const GENERATION: &str = "rbuild-key-2";

/// The digest of a step's inputs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CacheKey(pub Digest);

/// Everything that determines a step's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyInputs {
    /// The step's definition as data (instruction, arguments, environment, user...).
    pub definition: Value,
    /// The layers it stands on.
    pub parent: ChainId,
    /// What it reads besides them, in order of mention.
    pub inputs: Vec<Input>,
}

/// One thing a step reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What it is, in the user's words: `context: src`, `stage build: /out`.
    pub name: String,
    /// Digest over the selected files: paths, types, effective modes and owners, contents.
    pub digest: Digest,
}

impl KeyInputs {
    /// The key. Every field is framed by its length, so that no two different inputs meet.
    pub fn key(&self) -> CacheKey {
        let mut hasher = Hasher::new();
        hasher.field(GENERATION.as_bytes());
        hasher.field(self.definition.to_string().as_bytes());
        hasher.field(self.parent.0.raw());
        for input in &self.inputs {
            hasher.field(input.digest.raw());
        }
        CacheKey(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn inputs() -> KeyInputs {
        KeyInputs {
            definition: json!({"run": ["/bin/sh", "-c", "true"]}),
            parent: ChainId::scratch(),
            inputs: vec![Input { name: "context: a".into(), digest: Digest::of(b"a") }],
        }
    }

    #[test]
    fn each_part_changes_the_key_and_names_do_not() {
        let base = inputs().key();
        let mut other = inputs();
        other.definition = json!({"run": ["/bin/sh", "-c", "false"]});
        assert_ne!(other.key(), base);
        let mut other = inputs();
        other.parent = ChainId(Digest::of(b"x"));
        assert_ne!(other.key(), base);
        let mut other = inputs();
        other.inputs[0].digest = Digest::of(b"b");
        assert_ne!(other.key(), base);
        let mut other = inputs();
        other.inputs[0].name = "context: renamed".into();
        assert_eq!(other.key(), base);
    }
}
