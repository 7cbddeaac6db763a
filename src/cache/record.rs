//! Records: what a step gave, under the key of its inputs.

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, Hasher};
use crate::store::{Edge, RecordKind, Recorded, RecordedAsJson, Store, StoreError};

use super::key::{CacheKey, Input, KeyInputs};

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
        self.store.record(&key.0)
    }

    /// Keeps a record.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        self.store.put_record(&record.inputs.key().0, record)
    }

    /// Keeps the list of what an input digest was made of, unless it is here already. `name` says what was
    /// listed.
    pub fn put_pre_image(&self, digest: &Digest, name: &str, listing: &[u8]) -> Result<(), StoreError> {
        let key = Self::pre_image_key(digest);
        if self.store.record::<PreImage>(&key)?.is_some() {
            return Ok(());
        }
        let of = Self::alias_of(listing);
        match zstd::encode_all(listing, 1) {
            Ok(packed) => self.store.put_record(&key, &PreImage { name: name.to_owned(), packed, of }),
            Err(_) => Ok(()),
        }
    }

    /// The digest whose list a list stands for, if it is no list itself.
    pub fn alias_of(listing: &[u8]) -> Option<Digest> {
        std::str::from_utf8(listing).ok().and_then(alias_of)
    }

    /// What stands for the list of a digest that was made of another digest and something more.
    pub fn alias(of: &Digest) -> Vec<u8> {
        format!("{ALIAS}{of}\n").into_bytes()
    }

    /// What an input digest was made of: one line for each file.
    pub fn pre_image(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let listing = self.unpacked(digest)?;
        match listing.as_deref().and_then(Self::alias_of) {
            Some(of) => self.unpacked(&of),
            None => Ok(listing),
        }
    }

    fn unpacked(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let listing = self.store.record::<PreImage>(&Self::pre_image_key(digest))?;
        Ok(listing.and_then(|listing| zstd::decode_all(&*listing.packed).ok()))
    }

    /// The key under which [`Records::put_pre_image`] keeps a list.
    pub(crate) fn pre_image_key(digest: &Digest) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(b"pre-image");
        hasher.field(digest.raw());
        hasher.finish()
    }

    /// A digest remembered under a digest of what determines it.
    pub fn memo(&self, key: &Digest) -> Result<Option<Digest>, StoreError> {
        Ok(self.store.record::<Memo>(key)?.map(|memo| memo.0))
    }

    /// Remembers a digest.
    pub fn put_memo(&self, key: &Digest, value: &Digest) -> Result<(), StoreError> {
        self.store.put_record(key, &Memo(*value))
    }

    /// The layer that a recipe gives.
    pub fn recipe(&self, key: &Digest) -> Result<Option<DiffId>, StoreError> {
        Ok(self.store.record::<Recipe>(key)?.map(|recipe| recipe.0))
    }

    /// Remembers the layer that a recipe gives.
    pub fn put_recipe(&self, key: &Digest, layer: &DiffId) -> Result<(), StoreError> {
        self.store.put_record(key, &Recipe(*layer))
    }
}

impl RecordedAsJson for Record {
    const KIND: RecordKind = RecordKind::Step;

    fn edges(&self) -> Vec<Edge> {
        let layer = Edge::Layer(self.diff_id, Some(self.inputs.parent.push(self.diff_id)));
        let listing = |input: &Input| Edge::Record(Records::pre_image_key(&input.digest));
        std::iter::once(layer).chain(self.inputs.inputs.iter().map(listing)).collect()
    }

    fn note(&self) -> String {
        self.step.clone()
    }
}

/// Begins a list that is another one.
const ALIAS: &str = "as ";

/// The digest whose list a list stands for.
fn alias_of(listing: &str) -> Option<Digest> {
    Digest::parse(listing.strip_prefix(ALIAS)?.trim_end()).ok()
}

/// What a digest of an input was made of.
struct PreImage {
    name: String,
    /// Compressed with zstd.
    packed: Vec<u8>,
    /// The digest whose list it stands for.
    of: Option<Digest>,
}

impl Recorded for PreImage {
    const KIND: RecordKind = RecordKind::Listing;

    fn edges(&self) -> Vec<Edge> {
        self.of.iter().map(|of| Edge::Record(Records::pre_image_key(of))).collect()
    }

    fn note(&self) -> String {
        format!("files of {}", self.name)
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.packed.clone()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(PreImage { name: String::new(), packed: bytes.to_vec(), of: None })
    }
}

/// A digest that was computed before.
struct Memo(Digest);

impl Recorded for Memo {
    const KIND: RecordKind = RecordKind::Memo;

    fn edges(&self) -> Vec<Edge> {
        Vec::new()
    }

    fn note(&self) -> String {
        "digest of files".into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.raw().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        raw_digest(bytes).map(Memo)
    }
}

/// The layer that a list of entries gives.
struct Recipe(DiffId);

impl Recorded for Recipe {
    const KIND: RecordKind = RecordKind::Recipe;

    /// Its files may lie on any chain: where it has no blob, the record is a miss.
    fn edges(&self) -> Vec<Edge> {
        vec![Edge::Layer(self.0, None)]
    }

    fn note(&self) -> String {
        "recipe of a layer".into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.0.0.raw().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        raw_digest(bytes).map(|digest| Recipe(DiffId(digest)))
    }
}

/// What told memos from other values when records had no kinds.
const OLD_MARK: &[u8] = b"memo:";

fn raw_digest(bytes: &[u8]) -> Option<Digest> {
    let raw = bytes.strip_prefix(OLD_MARK).unwrap_or(bytes);
    <[u8; 32]>::try_from(raw).ok().map(Digest::from_raw)
}

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
        store.put_record_bytes(&key.0, b"{\"diff_id\":")?;
        assert_eq!(records.get(&key)?, None);
        Ok(())
    }

    #[test]
    fn pre_images_come_back_as_they_were() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let records = Records::new(Store::open(dir.path())?);
        let digest = Digest::of(b"files");
        records.put_pre_image(&digest, "context: .", b"f 644 0:0 a\n")?;
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
        assert_eq!((records.memo(&key)?, records.recipe(&key)?), (Some(value), None));
        records.put_recipe(&key, &DiffId(value))?;
        assert_eq!((records.memo(&key)?, records.recipe(&key)?), (None, Some(DiffId(value))));
        store.put_record_bytes(&key, &[OLD_MARK, value.raw()].concat())?;
        assert_eq!((records.memo(&key)?, records.recipe(&key)?), (Some(value), Some(DiffId(value))));
        Ok(())
    }
}
