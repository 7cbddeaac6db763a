//! Records: what a step gave, under the key of its inputs.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, Hasher};
use crate::store::{Store, StoreError};

use super::key::{CacheKey, KeyInputs};

/// A step's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The layer it made.
    pub diff_id: DiffId,
    /// The inputs the key was made of.
    pub inputs: KeyInputs,
    /// The step's name when it ran, for explanations.
    pub step: String,
    /// Seconds since 1970 when it ran.
    pub created: i64,
}

/// The records of a store.
#[derive(Clone, Debug)]
pub struct Records {
    store: Store,
}

impl Records {
    /// Those in `store`.
    pub fn new(store: Store) -> Self {
        Records { store }
    }

    /// The record of a key. What cannot be read or parsed is a miss.
    pub fn get(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = self.store.record(&key.0)? else { return Ok(None) };
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Keeps a record.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        let Ok(bytes) = serde_json::to_vec(record) else { return Ok(()) };
        self.store.put_record(&record.inputs.key().0, &bytes)
    }

    /// Keeps the list of what an input digest was made of, unless it is here already.
    pub fn put_pre_image(&self, digest: &Digest, listing: &[u8]) -> Result<(), StoreError> {
        let key = Self::pre_image_key(digest);
        if self.store.record(&key)?.is_some() {
            return Ok(());
        }
        match zstd::encode_all(listing, 1) {
            Ok(packed) => self.store.put_record(&key, &packed),
            Err(_) => Ok(()),
        }
    }

    /// What an input digest was made of: one line for each file.
    pub fn pre_image(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let packed = self.store.record(&Self::pre_image_key(digest))?;
        Ok(packed.and_then(|bytes| zstd::decode_all(&*bytes).ok()))
    }

    /// The key under which [`Records::put_pre_image`] keeps a list.
    pub(crate) fn pre_image_key(digest: &Digest) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(b"pre-image");
        hasher.field(digest.raw());
        hasher.finish()
    }

    /// A small value remembered under a digest of what determines it.
    pub fn memo(&self, key: &Digest) -> Result<Option<Digest>, StoreError> {
        let bytes = self.store.record(key)?;
        let raw = bytes.as_deref().and_then(|bytes| bytes.strip_prefix(MEMO_MARK));
        Ok(raw.and_then(|raw| <[u8; 32]>::try_from(raw).ok()).map(Digest::from_raw))
    }

    /// Remembers a small value.
    pub fn put_memo(&self, key: &Digest, value: &Digest) -> Result<(), StoreError> {
        self.store.put_record(key, &[MEMO_MARK, value.raw()].concat())
    }
}

/// Tells a memo from the other values of 32 bytes that are kept as records.
const MEMO_MARK: &[u8] = b"memo:";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::ChainId;

    #[test]
    fn a_garbled_record_is_a_miss() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let records = Records::new(store.clone());
        let inputs =
            KeyInputs { definition: serde_json::json!({}), parent: ChainId::scratch(), inputs: vec![] };
        let record = Record { diff_id: DiffId::empty(), inputs, step: "RUN x".into(), created: 1 };
        records.put(&record)?;
        let key = record.inputs.key();
        assert_eq!(records.get(&key)?, Some(record));
        store.put_record(&key.0, b"{\"diff_id\":")?;
        assert_eq!(records.get(&key)?, None);
        Ok(())
    }

    #[test]
    fn pre_images_come_back_as_they_were() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let records = Records::new(Store::open(dir.path())?);
        let digest = Digest::of(b"files");
        records.put_pre_image(&digest, b"f 644 0:0 a\n")?;
        assert_eq!(records.pre_image(&digest)?.as_deref(), Some(&b"f 644 0:0 a\n"[..]));
        Ok(())
    }

    #[test]
    fn memos_are_no_recipes_of_layers() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let records = Records::new(store.clone());
        let (key, value) = (Digest::of(b"key"), Digest::of(b"value"));
        records.put_memo(&key, &value)?;
        assert_eq!(records.memo(&key)?, Some(value));
        assert_ne!(store.record(&key)?.map(|bytes| bytes.len()), Some(32));
        Ok(())
    }
}
