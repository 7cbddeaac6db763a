//! Signatures of records: who vouches that a step's inputs give this layer.
//!
//! A digest shows that a layer is the one that its record names, and nothing shows that the record names the right
//! one. Whoever may write to a cache can swap two layers. A signature of the whole record closes that hole for
//! those who know the key. How keys work is `attest/`'s.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::document::{Answer, CacheDocument, Entry};

/// Signs bytes. The same bytes have the same signature.
pub type SignRecord = dyn Fn(&[u8]) -> Vec<u8> + Send + Sync;

/// Whether the second bytes are a signature of the first.
pub type VerifyRecord = dyn Fn(&[u8], &[u8]) -> bool + Send + Sync;

/// Something that is signed as a whole.
pub(super) trait Signed {
    /// All that the signature is about, without ambiguity.
    fn text(&self) -> Vec<u8>;
    fn signature(&mut self) -> &mut Option<String>;
    fn given(&self) -> Option<&String>;

    fn sign(&mut self, sign: &SignRecord) {
        let signature = STANDARD.encode(sign(&self.text()));
        *self.signature() = Some(signature);
    }

    fn is_signed(&self, verify: &VerifyRecord) -> bool {
        let signature = self.given().and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|signature| verify(&self.text(), &signature))
    }
}

impl Signed for Entry {
    fn text(&self) -> Vec<u8> {
        let Entry { key, parent, diff_id, layer, created, step, .. } = self;
        let about = ("rbuild cache entry 1", key, parent, diff_id, layer, created, step);
        serde_json::to_vec(&about).unwrap_or_default()
    }

    fn signature(&mut self) -> &mut Option<String> {
        &mut self.signature
    }

    fn given(&self) -> Option<&String> {
        self.signature.as_ref()
    }
}

impl Signed for Answer {
    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(&("rbuild cache answer 1", &self.key, &self.value)).unwrap_or_default()
    }

    fn signature(&mut self) -> &mut Option<String> {
        &mut self.signature
    }

    fn given(&self) -> Option<&String> {
        self.signature.as_ref()
    }
}

impl CacheDocument {
    /// Signs all records. A record that `there` has with the same content keeps the time that it has there, so that a
    /// build in which nothing changed leaves the cache as it is.
    pub(super) fn sign(&mut self, there: &CacheDocument, sign: &SignRecord) {
        let known: std::collections::HashMap<_, _> =
            there.entries.iter().map(|entry| ((entry.key, entry.diff_id), entry)).collect();
        for entry in &mut self.entries {
            entry.sign(sign);
            let Some(old) = known.get(&(entry.key, entry.diff_id)) else { continue };
            let mut again = Entry { created: old.created, ..entry.clone() };
            again.sign(sign);
            if again.signature == old.signature {
                *entry = again;
            }
        }
        self.answers.iter_mut().for_each(|answer| answer.sign(sign));
    }

    /// Drops what is not signed, and gives the number of dropped records.
    pub fn keep_signed(&mut self, verify: &VerifyRecord) -> usize {
        let before = self.entries.len() + self.answers.len();
        self.entries.retain(|entry| entry.is_signed(verify));
        self.answers.retain(|answer| answer.is_signed(verify));
        before - self.entries.len() - self.answers.len()
    }
}
