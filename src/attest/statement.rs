//! In-toto statements (in-toto attestation framework, `spec/v1/statement.md`).

use serde_json::{Value, json};

use crate::digest::Digest;

/// The media type of a statement in JSON.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// `_type` of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The annotation by which readers find a statement without fetching it.
pub const PREDICATE_ANNOTATION: &str = "in-toto.io/predicate-type";
/// The largest statement that is read or written, in bytes. BuildKit's limit is the same.
pub const MAX_STATEMENT: u64 = 40 << 20;

/// A claim about an image, before it is known which image: subjects are added where it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// What kind of claim it is: a URI such as `https://spdx.dev/Document`.
    pub predicate_type: String,
    /// The claim.
    pub predicate: Value,
    /// The name of its file beside outputs that are files, such as `provenance.json`.
    pub file: String,
    /// Only for outputs that hold images: nobody asked for a file.
    pub inline_only: bool,
}

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// A package URL, or the path of a file.
    pub name: String,
    /// The digest of the manifest, or of the file.
    pub digest: Digest,
}

impl Statement {
    /// The whole statement about `subjects`.
    pub fn about(&self, subjects: &[Subject]) -> Value {
        let subjects: Vec<Value> = subjects
            .iter()
            .map(|subject| json!({"name": subject.name, "digest": {"sha256": subject.digest.hex()}}))
            .collect();
        json!({
            "_type": STATEMENT_TYPE,
            "predicateType": self.predicate_type,
            "subject": subjects,
            "predicate": self.predicate,
        })
    }

    /// As a file beside an output.
    pub fn file_content(&self, subjects: &[Subject]) -> Vec<u8> {
        format!("{:#}", self.about(subjects)).into_bytes()
    }
}
