//! The document in which results of steps travel: small records, merged by union.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::digest::{ChainId, DiffId, Digest};
use crate::image::Descriptor;
use crate::image::layer_compression;
use crate::image::media_type::is_foreign;
use crate::layer::BlobInfo;

use super::failure::CacheError;

/// What a manifest that holds a cache says that it is.
pub const ARTIFACT_TYPE: &str = "application/vnd.rbuild.cache.v1";
/// The type of the document, which is the manifest's config.
pub const DOCUMENT_TYPE: &str = "application/vnd.rbuild.cache.v1+json";
/// The field of an image config that holds the records of its layers.
pub const INLINE_FIELD: &str = "rbuild.cache.v1";
/// Raised when older readers would misunderstand a document.
const VERSION: u32 = 1;
/// Bytes of a document that are read; [`MOST_ENTRIES`] fit several times.
pub const MAX_DOCUMENT_SIZE: u64 = 64 << 20;
/// Entries of one document: its manifest names a layer for each, and registries limit manifests to 4 MiB.
pub const MOST_ENTRIES: usize = 8_000;
/// Results kept for one key: two machines may execute the same step at the same time.
const MOST_VARIANTS: usize = 4;
/// An entry's time of use is renewed no more often, in seconds: a build in which nothing changed leaves the
/// document as it is.
const TOUCH_AFTER: i64 = 24 * 3600;

/// Results of steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheDocument {
    version: u32,
    /// Results, by key.
    #[serde(default)]
    pub entries: Vec<Entry>,
    /// Facts about chains of layers.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// Documents, by the tags they are under, whose content is part of this one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub merged: BTreeSet<String>,
}

/// A step's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The digest of the step's inputs.
    pub key: Digest,
    /// The layers that the step stands on; part of what the key is made of.
    pub parent: ChainId,
    /// The layer it made.
    pub diff_id: DiffId,
    /// That layer's blob.
    pub layer: LayerBlob,
    /// Seconds since 1970 when the step was executed.
    pub created: i64,
    /// Seconds since 1970 when a build last had this result, to the day.
    pub used: i64,
    /// The step's name, for people.
    pub step: String,
    /// Who vouches for all of it but `used`: a signature in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// A layer's blob as manifests list it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerBlob {
    /// The media type of a layer.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What is known of a chain of layers without having its files: the digest of the files that a step takes
/// from it, or the IDs that a name means in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The digest of the question.
    pub key: Digest,
    /// The answer.
    pub value: String,
    /// As [`Entry::used`].
    pub used: i64,
    /// As [`Entry::signature`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// How old and how large a cache may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Seconds since an entry was last used.
    pub max_age: Option<i64>,
    /// Bytes of all layers.
    pub max_size: Option<u64>,
    /// Seconds since an entry's step was executed: results of earlier builds that are older are dropped.
    pub lifetime: Option<i64>,
}

impl Default for CacheDocument {
    fn default() -> Self {
        CacheDocument::new(Vec::new(), Vec::new())
    }
}

impl LayerBlob {
    /// The blob as the store describes blobs.
    pub fn info(&self) -> BlobInfo {
        let compression = layer_compression(&self.media_type).unwrap_or_default();
        BlobInfo { digest: self.digest, size: self.size, compression }
    }

    /// The blob as manifests describe blobs.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.size)
    }
}

impl From<&Descriptor> for LayerBlob {
    fn from(layer: &Descriptor) -> Self {
        LayerBlob { media_type: layer.media_type.clone(), digest: layer.digest, size: layer.size }
    }
}

impl Entry {
    /// The layers with this one on top.
    pub fn result(&self) -> ChainId {
        self.parent.push(self.diff_id)
    }

    fn check(&self) -> Result<(), String> {
        let LayerBlob { media_type, size, .. } = &self.layer;
        if layer_compression(media_type).is_none() || is_foreign(media_type) {
            return Err(format!("the layer of {:?} has the media type {media_type:?}", self.step));
        }
        if *size == 0 || *size > 1 << 50 {
            return Err(format!("the layer of {:?} has {size} bytes", self.step));
        }
        Ok(())
    }
}

impl CacheDocument {
    /// A document of these results.
    pub fn new(entries: Vec<Entry>, answers: Vec<Answer>) -> Self {
        CacheDocument { version: VERSION, entries, answers, merged: BTreeSet::new() }
    }

    /// Reads a document. `place` is for messages.
    pub fn parse(place: &str, bytes: &[u8]) -> Result<Self, CacheError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |reason: String| CacheError::Malformed { place: place.to_owned(), reason };
        let Versioned { version } =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if version != VERSION {
            return Err(CacheError::Version { place: place.to_owned(), version });
        }
        let document: CacheDocument =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if document.entries.len() > 2 * MOST_ENTRIES {
            return Err(malformed(format!("it has {} entries", document.entries.len())));
        }
        document.entries.iter().try_for_each(Entry::check).map_err(malformed)?;
        Ok(document)
    }

    /// Its bytes. Equal content gives equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Structs of strings and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The blobs of all layers, each once.
    pub fn layers(&self) -> BTreeSet<&LayerBlob> {
        self.entries.iter().map(|entry| &entry.layer).collect()
    }

    /// Adds the content of another document. Where both have a result, its time of use is the later one.
    pub fn merge(&mut self, other: CacheDocument) {
        let mut places: HashMap<(Digest, DiffId), usize> =
            self.entries.iter().enumerate().map(|(at, entry)| ((entry.key, entry.diff_id), at)).collect();
        for entry in other.entries {
            match places.get(&(entry.key, entry.diff_id)).and_then(|at| self.entries.get_mut(*at)) {
                Some(known) => {
                    let used = later(known.used, entry.used);
                    match (&known.signature, &entry.signature) {
                        (None, None) => known.created = known.created.min(entry.created),
                        // What is signed stays together.
                        (None, Some(_)) => *known = entry,
                        (Some(_), Some(_)) if entry.created < known.created => *known = entry,
                        (Some(_), _) => {}
                    }
                    known.used = used;
                }
                None => {
                    places.insert((entry.key, entry.diff_id), self.entries.len());
                    self.entries.push(entry);
                }
            }
        }
        let mut places: HashMap<Digest, usize> =
            self.answers.iter().enumerate().map(|(at, answer)| (answer.key, at)).collect();
        for answer in other.answers {
            match places.get(&answer.key).and_then(|at| self.answers.get_mut(*at)) {
                Some(known) => {
                    let used = later(known.used, answer.used);
                    if known.signature.is_none() && answer.signature.is_some() {
                        *known = answer;
                    }
                    known.used = used;
                }
                None => {
                    places.insert(answer.key, self.answers.len());
                    self.answers.push(answer);
                }
            }
        }
        self.merged.extend(other.merged);
    }

    /// Gives results and answers the content that `right` has for them.
    pub(super) fn take_content_of(&mut self, right: &CacheDocument) {
        let layers: HashMap<(Digest, DiffId), &Entry> =
            right.entries.iter().map(|entry| ((entry.key, entry.diff_id), entry)).collect();
        for entry in &mut self.entries {
            match layers.get(&(entry.key, entry.diff_id)) {
                Some(right) if right.signature.is_some() => {
                    *entry = Entry { used: entry.used, ..(*right).clone() };
                }
                Some(right) if entry.signature.is_none() => {
                    (entry.layer, entry.parent) = (right.layer.clone(), right.parent);
                }
                // A signature of somebody else is worth more.
                _ => {}
            }
        }
        let values: HashMap<Digest, &Answer> =
            right.answers.iter().map(|answer| (answer.key, answer)).collect();
        for answer in &mut self.answers {
            if let Some(right) = values.get(&answer.key)
                && (right.signature.is_some() || answer.signature.is_none())
            {
                *answer = Answer { used: answer.used, ..(*right).clone() };
            }
        }
    }

    /// Puts it in its order, without what is too old or too much. What newer entries stand on stays.
    pub fn tidy(&mut self, bounds: Bounds, now: i64) {
        self.entries.sort_by_key(|entry| (entry.key, entry.created, entry.diff_id));
        let mut variants = (None, 0);
        self.entries.retain(|entry| {
            variants = if variants.0 == Some(entry.key) {
                (variants.0, variants.1 + 1)
            } else {
                (Some(entry.key), 1)
            };
            variants.1 <= MOST_VARIANTS
        });
        let used = self.effective_use();
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|at| (std::cmp::Reverse(used.get(*at).copied()), *at));
        let (mut kept, mut blobs, mut size) = (BTreeSet::new(), BTreeSet::new(), 0_u64);
        for at in order.into_iter().take(MOST_ENTRIES) {
            let (Some(entry), Some(used)) = (self.entries.get(at), used.get(at)) else { continue };
            if bounds.max_age.is_some_and(|age| *used < now.saturating_sub(age)) {
                break;
            }
            if blobs.insert(entry.layer.digest) {
                size = size.saturating_add(entry.layer.size);
            }
            if bounds.max_size.is_some_and(|most| size > most) {
                break;
            }
            kept.insert(at);
        }
        let mut at = 0;
        self.entries.retain(|_| {
            at += 1;
            kept.contains(&(at - 1))
        });
        self.answers.sort_by_key(|answer| std::cmp::Reverse(answer.used));
        self.answers.truncate(MOST_ENTRIES);
        self.answers.retain(|answer| bounds.max_age.is_none_or(|age| answer.used >= now.saturating_sub(age)));
        self.answers.sort_by_key(|answer| answer.key);
    }

    /// When each entry was last of use, by itself or to one that stands on its layer.
    fn effective_use(&self) -> Vec<i64> {
        let makers: HashMap<ChainId, usize> =
            self.entries.iter().enumerate().map(|(at, entry)| (entry.result(), at)).collect();
        let mut used: Vec<i64> = self.entries.iter().map(|entry| entry.used).collect();
        for at in 0..self.entries.len() {
            let newest = used[at];
            let mut below = self.entries[at].parent;
            while let Some(maker) = makers.get(&below).copied().filter(|maker| used[*maker] < newest) {
                used[maker] = newest;
                below = self.entries[maker].parent;
            }
        }
        used
    }

    /// The entries by key. Of several results of one step, the one that most others stand on comes first.
    pub fn by_key(self) -> BTreeMap<Digest, Vec<Entry>> {
        let mut uses: HashMap<ChainId, usize> = HashMap::new();
        for entry in &self.entries {
            *uses.entry(entry.parent).or_default() += 1;
        }
        let mut all: BTreeMap<Digest, Vec<Entry>> = BTreeMap::new();
        for entry in self.entries {
            all.entry(entry.key).or_default().push(entry);
        }
        for variants in all.values_mut() {
            variants.sort_by_key(|entry| {
                let uses = uses.get(&entry.result()).copied().unwrap_or_default();
                (std::cmp::Reverse(uses), entry.created, entry.diff_id)
            });
        }
        all
    }
}

/// The later of two times, if it is so by more than a little.
fn later(known: i64, new: i64) -> i64 {
    if new > known.saturating_add(TOUCH_AFTER) { new } else { known }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(key: &str, parent: ChainId, diff: &str, used: i64) -> Entry {
        Entry {
            key: Digest::of(key.as_bytes()),
            parent,
            diff_id: DiffId(Digest::of(diff.as_bytes())),
            layer: LayerBlob {
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
                digest: Digest::of(format!("blob {diff}").as_bytes()),
                size: 100,
            },
            created: used,
            used,
            step: format!("RUN {key}"),
            signature: None,
        }
    }

    fn document(entries: Vec<Entry>) -> CacheDocument {
        CacheDocument::new(entries, Vec::new())
    }

    fn keys(document: &CacheDocument) -> BTreeSet<Digest> {
        document.entries.iter().map(|entry| entry.key).collect()
    }

    #[test]
    fn what_newer_entries_stand_on_is_kept_by_age_and_by_size() {
        let day = 24 * 3600;
        let old = entry("old", ChainId::scratch(), "old", 0);
        let base = entry("base", ChainId::scratch(), "base", 0);
        let top = entry("top", base.result(), "top", 10 * day);
        for bounds in [
            Bounds { max_age: Some(5 * day), ..Bounds::default() },
            Bounds { max_size: Some(200), ..Bounds::default() },
        ] {
            let mut all = document(vec![old.clone(), base.clone(), top.clone()]);
            all.tidy(bounds, 11 * day);
            assert_eq!(keys(&all), BTreeSet::from([base.key, top.key]), "{bounds:?}");
        }
    }

    #[test]
    fn a_result_that_others_stand_on_comes_first() {
        let lonely = entry("k", ChainId::scratch(), "a", 1);
        let used = entry("k", ChainId::scratch(), "b", 2);
        let next = entry("next", used.result(), "c", 2);
        let found = document(vec![lonely, used.clone(), next]).by_key();
        assert_eq!(found.get(&used.key).and_then(|all| all.first()), Some(&used));
    }

    #[test]
    fn what_is_no_document_of_this_version_is_refused_with_the_reason() {
        let whole = document(vec![entry("k", ChainId::scratch(), "a", 1)]).to_bytes();
        assert!(CacheDocument::parse("x", &whole).is_ok());
        let cut = &whole[..whole.len() / 2];
        assert!(matches!(CacheDocument::parse("x", cut), Err(CacheError::Malformed { .. })));
        let newer = String::from_utf8_lossy(&whole).replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            CacheDocument::parse("x", newer.as_bytes()),
            Err(CacheError::Version { version: 2, .. })
        ));
        let alien = String::from_utf8_lossy(&whole).replace(".layer.v1.tar+gzip", ".config.v1+json");
        assert!(matches!(CacheDocument::parse("x", alien.as_bytes()), Err(CacheError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn merging_loses_nothing_whatever_the_order(
            a in prop::collection::vec(0_u8..20, 0..12),
            b in prop::collection::vec(0_u8..20, 0..12),
        ) {
            let make = |numbers: &[u8]| {
                let entries = numbers.iter().map(|n| entry(&n.to_string(), ChainId::scratch(), &n.to_string(), 5));
                let mut all = document(Vec::new());
                all.merge(document(entries.collect()));
                all
            };
            let (mut one, mut two) = (make(&a), make(&b));
            one.merge(make(&b));
            two.merge(make(&a));
            one.tidy(Bounds::default(), 5);
            two.tidy(Bounds::default(), 5);
            prop_assert_eq!(one.to_bytes(), two.to_bytes());
            let wanted: BTreeSet<Digest> =
                a.iter().chain(&b).map(|n| Digest::of(n.to_string().as_bytes())).collect();
            prop_assert_eq!(keys(&one), wanted);
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = CacheDocument::parse("x", &bytes);
        }
    }
}
