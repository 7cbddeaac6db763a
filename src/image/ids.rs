//! Images by their IDs, and images that have nothing else.
//!
//! An image that was built without a name has a record under its ID: it is found and listed like others until the
//! record is collected, as results that nobody uses are.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::store::{
    Edge, ParsedRecord, RecordKind, Recorded, RecordedAsJson, Room, Store, StoreError, parse_record,
};

use super::draft::Draft;
use super::manifest::{Descriptor, Document};
use super::platform::Platform;
use super::read::{ReadError, ResolvedImage, from_store, named};
use super::reference::Reference;

/// The fewest digits that are taken for an ID.
const FEWEST: usize = 4;

/// An image of the store without a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unnamed {
    /// The digest of its config, or of its index if it is for several platforms.
    pub id: Digest,
    /// Its manifest or index.
    pub manifest: Digest,
}

impl RecordedAsJson for Unnamed {
    const KIND: RecordKind = RecordKind::Image;

    fn edges(&self) -> Vec<Edge> {
        vec![Edge::Document(self.manifest)]
    }

    fn note(&self) -> String {
        format!("image {} without a name", self.id.short())
    }
}

/// The record that keeps an image without a name.
pub fn key(id: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(b"image without a name");
    hasher.field(id.raw());
    hasher.finish()
}

/// Why a text means no image.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The store or an image cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Several images have IDs that begin so.
    #[error("several images have an ID that begins with {digits}: {}", ids.join(", "))]
    Ambiguous {
        /// What was given.
        digits: String,
        /// Their IDs.
        ids: Vec<String>,
    },
}

impl From<StoreError> for FindError {
    fn from(error: StoreError) -> Self {
        FindError::Read(error.into())
    }
}

/// Keeps an image that has no name. Costs one read where it is kept already.
pub fn keep_unnamed(store: &Store, id: &Digest, manifest: &Digest) -> Result<(), StoreError> {
    let image = Unnamed { id: *id, manifest: *manifest };
    if store.record::<Unnamed>(&key(id))?.as_ref() == Some(&image) {
        return Ok(());
    }
    store.put_record(&key(id), &image)
}

/// As [`keep_unnamed`], unless a name means this image already: then it is kept as long as that.
pub fn keep_unless_named(store: &Store, id: &Digest, manifest: &Digest) -> Result<(), StoreError> {
    if named_ids(store, None)?.contains(&id.hex()) {
        return Ok(());
    }
    keep_unnamed(store, id, manifest)
}

/// The image that stands for a name in lists: the one for `platform`, or else the first of its index.
pub fn shown(
    store: &Store,
    name: &Reference,
    platform: &Platform,
) -> Result<Option<ResolvedImage>, ReadError> {
    let error = match from_store(store, name, platform) {
        Err(error @ ReadError::Platform { .. }) => error,
        other => return other,
    };
    let bytes = named(store, name)?.map(|top| store.peek_blob(&top.digest)).transpose()?.flatten();
    let Ok(Document::Index(index)) = Document::parse(&bytes.unwrap_or_default()) else { return Err(error) };
    let images = index.manifests.iter().filter(|image| !image.is_companion());
    let mut found = images.map(|image| Reference::of_digest(image.digest));
    found.find_map(|image| from_store(store, &image, platform).ok().flatten()).map(Some).ok_or(error)
}

/// Forgets an image that has no name; `false` where there is none with this ID.
pub fn forget_unnamed(store: &Store, id: &Digest) -> Result<bool, StoreError> {
    store.remove_record(&key(id))
}

/// Forgets the image of a name that was removed if that was its last one: as in Docker it goes with it, also where
/// it was built again without a name. Whether it was kept without one.
pub fn forget_with_last_name(store: &Store, id: &Digest) -> Result<bool, StoreError> {
    Ok(!named_ids(store, None)?.contains(&id.hex()) && forget_unnamed(store, id)?)
}

/// Docker's ID of what the store has under a digest: that of the config, or of an index itself. `None` where this
/// is no image. Marks nothing as used.
pub fn id_of(store: &Store, digest: &Digest) -> Result<Option<Digest>, StoreError> {
    let bytes = store.peek_blob(digest)?.unwrap_or_default();
    if let Some(draft) = Draft::parse(&bytes) {
        return Ok(Some(draft.config().digest));
    }
    Ok(match Document::parse(&bytes) {
        Ok(Document::Manifest(manifest)) => Some(manifest.config.digest),
        Ok(Document::Index(_)) => Some(*digest),
        Err(_) => None,
    })
}

/// The IDs of all images that have a name, other than `but`.
fn named_ids(store: &Store, but: Option<&str>) -> Result<BTreeSet<String>, StoreError> {
    let mut ids = BTreeSet::new();
    for (name, _) in store.references()?.into_iter().filter(|(name, _)| Some(name.as_str()) != but) {
        let descriptor =
            store.reference(&name)?.and_then(|bytes| serde_json::from_slice::<Descriptor>(&bytes).ok());
        let id = descriptor.map(|descriptor| id_of(store, &descriptor.digest)).transpose()?.flatten();
        ids.extend(id.map(|id| id.hex()));
    }
    Ok(ids)
}

/// Keeps the image that `name` means, which will mean the image of `next`, unless it has another name: as in
/// Docker it stays, without a name. The other is no longer one without.
pub(super) fn name_moves(store: &Store, name: &str, next: &Digest) -> Result<(), StoreError> {
    let next_id = id_of(store, next)?;
    if let Some(id) = next_id {
        forget_unnamed(store, &id)?;
    }
    let old = store.reference(name)?.and_then(|bytes| serde_json::from_slice::<Descriptor>(&bytes).ok());
    let Some(old) = old.filter(|old| old.digest != *next) else { return Ok(()) };
    match id_of(store, &old.digest)? {
        Some(id) if Some(id) != next_id && !named_ids(store, Some(name))?.contains(&id.hex()) => {
            keep_unnamed(store, &id, &old.digest)
        }
        _ => Ok(()),
    }
}

/// All images without a name that are whole. One that got a name later is none of them.
pub fn unnamed(store: &Store) -> Result<Vec<Unnamed>, StoreError> {
    let named = named_ids(store, None)?;
    let mut all = Vec::new();
    for item in store.list(Room::Records)?.items {
        let bytes = item.read()?.unwrap_or_default();
        let ParsedRecord::Whole(head, content) = parse_record(&bytes) else { continue };
        if head.kind != Some(RecordKind::Image) || head.version != RecordKind::Image.version() {
            continue;
        }
        all.extend(Unnamed::from_bytes(content).filter(|image| !named.contains(&image.id.hex())));
    }
    all.retain(|image| store.peek_blob(&image.manifest).is_ok_and(|bytes| bytes.is_some()));
    all.sort_by_key(|image| image.id.hex());
    Ok(all)
}

/// The digits of a text that may be an ID, short or long, with or without `sha256:`.
fn digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = digits.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    (is_hex && (FEWEST..=64).contains(&digits.len())).then_some(digits)
}

/// Whether digits mean an image: its ID may be cut short, other digests of it may not.
fn means(id: &Digest, others: impl IntoIterator<Item = Digest>, digits: &str) -> bool {
    id.hex().starts_with(digits) || others.into_iter().any(|other| other.hex() == digits)
}

/// All names that a text means in the store: the name it is, else every name of the image whose ID it is or begins.
/// An image without a name is one by its digest. Names come first, as in docker.
pub fn find(store: &Store, text: &str, platform: &Platform) -> Result<Vec<Reference>, FindError> {
    if let Ok(name) = Reference::parse(text) {
        let name = name.with_default_tag();
        if named(store, &name)?.is_some() {
            return Ok(vec![name]);
        }
    }
    let Some(digits) = digits(text) else { return Ok(Vec::new()) };
    let mut found: Vec<(Digest, Reference)> = Vec::new();
    for (name, _) in store.references()? {
        let Ok(name) = Reference::parse(&name) else { continue };
        let Some(top) = named(store, &name).ok().flatten() else { continue };
        let config = shown(store, &name, platform).ok().flatten();
        let config = config.map(|image| (image.manifest.config.digest, image.manifest_digest));
        let manifest = config.map(|(_, manifest)| manifest);
        let id = config.map_or(top.digest, |(config, _)| config);
        let others = manifest.into_iter().chain([top.digest]);
        if means(&id, others, digits) {
            found.push((id, name));
        }
    }
    for image in unnamed(store)? {
        let name = Reference::of_digest(image.manifest);
        let packed = named(store, &name).ok().flatten().map(|named| named.digest);
        if means(&image.id, packed.into_iter().chain([image.manifest]), digits) {
            // Reading the record marks it as used.
            store.record::<Unnamed>(&key(&image.id))?;
            found.push((image.id, name));
        }
    }
    let ids: BTreeSet<String> = found.iter().map(|(id, _)| id.to_string()).collect();
    if ids.len() > 1 {
        return Err(FindError::Ambiguous { digits: digits.to_owned(), ids: ids.into_iter().collect() });
    }
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Family, Image, LayerRef, assemble, inspect::name_in_store};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn image(store: &Store, env: &str) -> Result<(Digest, Descriptor), Box<dyn std::error::Error>> {
        let tar = [0u8; 1024];
        let layer = LayerRef {
            diff_id: crate::digest::DiffId::empty(),
            digest: store.put_blob(&tar)?,
            size: 1024,
            compression: crate::build::CompressionAlgorithm::Uncompressed,
            annotations: Default::default(),
        };
        let mut image = Image { layers: vec![layer], ..Image::default() };
        (image.config.os, image.config.architecture) = ("linux".into(), "amd64".into());
        image.config.config.env = vec![env.into()];
        let assembled = assemble(store, &image, Family::Oci)?;
        Ok((assembled.config_digest, assembled.descriptor))
    }

    #[test]
    fn images_are_found_by_name_and_by_id_long_and_short() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let platform = Platform::new("linux", "amd64", "");
        let (id, descriptor) = image(&store, "A=1")?;
        let (other, unnamed_descriptor) = image(&store, "A=2")?;
        let name = Reference::parse("app:1")?;
        name_in_store(&store, &name, &descriptor)?;
        keep_unnamed(&store, &other, &unnamed_descriptor.digest)?;
        let hex = id.hex();
        for text in ["app:1", &hex, &hex[..12], &format!("sha256:{hex}"), &format!("sha256:{}", &hex[..6])] {
            assert_eq!(find(&store, text, &platform)?, std::slice::from_ref(&name), "{text}");
        }
        let found = find(&store, &other.hex()[..10], &platform)?;
        assert_eq!(found, [Reference::of_digest(unnamed_descriptor.digest)]);
        assert_eq!(found[0].familiar(), unnamed_descriptor.digest.to_string());
        assert!(from_store(&store, &found[0], &platform)?.is_some());
        for text in ["nothing", "abc", "sha256:", &"0".repeat(64)] {
            assert_eq!(find(&store, text, &platform)?, [], "{text}");
        }
        assert_eq!(unnamed(&store)?.len(), 1);
        // With a name it is one of the others.
        name_in_store(&store, &Reference::parse("late:1")?, &unnamed_descriptor)?;
        assert_eq!(unnamed(&store)?, []);
        assert!(!forget_unnamed(&store, &other)?);
        // Once its name means another image, it has none again; not so an image with two names.
        name_in_store(&store, &Reference::parse("late:1")?, &descriptor)?;
        assert_eq!(unnamed(&store)?.iter().map(|image| image.id).collect::<Vec<_>>(), [other]);
        name_in_store(&store, &Reference::parse("late:1")?, &unnamed_descriptor)?;
        assert_eq!(unnamed(&store)?, []);
        assert!(!forget_unnamed(&store, &id)?);
        Ok(())
    }

    #[test]
    fn an_id_that_several_images_begin_with_is_refused() -> Outcome {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let platform = Platform::new("linux", "amd64", "");
        let (_, descriptor) = image(&store, "A=1")?;
        let hex = |tail: &str| Digest::from_hex(&format!("{}{tail}", "ab".repeat(31))).unwrap();
        keep_unnamed(&store, &hex("01"), &descriptor.digest)?;
        keep_unnamed(&store, &hex("02"), &descriptor.digest)?;
        assert!(matches!(find(&store, &"ab".repeat(31), &platform), Err(FindError::Ambiguous { .. })));
        Ok(())
    }
}
