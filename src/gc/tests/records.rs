//! What each kind of record keeps, and what a check says where that is gone.

use crate::store::{Edge, RecordKind, Recorded};

use super::*;

/// A record of any kind: only what it refers to matters here.
struct Any<const KIND: usize>(Vec<Edge>);

impl<const KIND: usize> Recorded for Any<KIND> {
    const KIND: RecordKind = RecordKind::ALL[KIND];

    fn edges(&self) -> Vec<Edge> {
        self.0.clone()
    }

    fn note(&self) -> String {
        String::new()
    }

    fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    fn from_bytes(_: &[u8]) -> Option<Self> {
        None
    }
}

/// A young record that refers to `edge`, in a store in which all else is old.
fn keep(bench: &Bench, edge: Edge) -> Result {
    bench.age_all(DAY * 100)?;
    bench.store()?.put_record(&Digest::of(b"young"), &Any::<0>(vec![edge]))?;
    bench.prune(&Policy::default())?;
    Ok(())
}

#[test]
fn a_record_keeps_its_layer_with_list_and_blob() -> Result {
    let bench = Bench::new()?;
    let (layer, other) = (bench.layer("kept")?, bench.layer("other")?);
    let chain = ChainId::of(&[layer.0]);
    bench.unpacked(chain)?;
    keep(&bench, Edge::Layer(layer.0, Some(chain)))?;
    let store = bench.store()?;
    assert!(store.layer(&layer.0)?.is_some() && store.layer_index(&layer.0)?.is_some());
    assert!(store.has_blob(&layer.1.digest) && !store.has_blob(&other.1.digest));
    // The blob is enough.
    assert_eq!(bench.count(Room::Snapshots)?, 0);
    Ok(())
}

#[test]
fn a_record_keeps_the_files_of_a_layer_without_a_blob() -> Result {
    let bench = Bench::new()?;
    let (layer, chain) = bench.files_only("kept")?;
    bench.files_only("other")?;
    keep(&bench, Edge::Layer(layer, Some(chain)))?;
    assert_eq!((bench.count(Room::Chains)?, bench.count(Room::Snapshots)?), (1, 1));
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_record_keeps_a_blob_a_document_with_all_below_it_and_other_records() -> Result {
    let bench = Bench::new()?;
    let image = bench.image("a:1", &[bench.layer("a")?])?;
    bench.store()?.remove_reference(&Reference::parse("a:1")?.with_default_tag().to_string())?;
    let blob = bench.store()?.put_blob(b"blob")?;
    let other = Digest::of(b"other");
    bench.store()?.put_record(&other, &Any::<2>(vec![Edge::Blob(blob)]))?;
    bench.age_all(DAY * 100)?;
    let edges = vec![Edge::Document(image.digest), Edge::Record(other)];
    bench.store()?.put_record(&Digest::of(b"young"), &Any::<1>(edges))?;
    bench.prune(&Policy::default())?;
    assert!(bench.store()?.has_blob(&blob));
    // Manifest, config, layer, and that blob.
    assert_eq!((bench.count(Room::Blobs)?, bench.count(Room::Records)?), (4, 2));
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_record_that_leads_nowhere_is_damage_unless_it_may() -> Result {
    let bench = Bench::new()?;
    let digest = Digest::of(b"gone");
    let chain = Some(ChainId(digest));
    for edge in [Edge::Layer(DiffId(digest), None), Edge::Layer(DiffId(digest), chain), Edge::Blob(digest), {
        Edge::Document(digest)
    }] {
        bench.store()?.put_record(&Digest::of(b"record"), &Any::<4>(vec![edge]))?;
        assert_eq!(bench.problems()?.len(), 1, "{edge:?}");
    }
    bench.store()?.put_record(&Digest::of(b"record"), &Any::<4>(vec![Edge::Record(digest)]))?;
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn each_kind_refers_to_what_it_needs() -> Result {
    let bench = Bench::new()?;
    let record = bench.step("x")?;
    let chain = record.inputs.parent.push(record.diff_id);
    let listing = Edge::Record(Records::pre_image_key(&record.inputs.inputs[0].digest));
    assert_eq!(record.edges(), [Edge::Layer(record.diff_id, Some(chain)), listing]);
    let store = bench.store()?;
    let records = Records::new(store.clone());
    let edges_of = |key: &Digest| -> Result<Vec<Edge>> {
        let bytes = store.record_bytes(key)?.ok_or("no record")?;
        match crate::store::parse_record(&bytes) {
            crate::store::ParsedRecord::Whole(head, _) => Ok(head.edges),
            other => Err(format!("{other:?}").into()),
        }
    };
    let key = Digest::of(b"key");
    records.put_memo(&key, &key)?;
    assert_eq!(edges_of(&key)?, []);
    records.put_recipe(&key, &record.diff_id)?;
    assert_eq!(edges_of(&key)?, [Edge::Layer(record.diff_id, None)]);
    let origin = crate::registry::origins::Origin { host: "r.example".into(), repository: "a".into() };
    crate::registry::origins::note(&store, &key, &origin)?;
    assert_eq!(edges_of(&crate::registry::origins::key(&key))?, []);
    Ok(())
}

/// Stores from before records had kinds: what they keep shows in their form.
#[test]
fn old_records_keep_what_they_kept() -> Result {
    let bench = Bench::new()?;
    let record = bench.step("x")?;
    let key = record.inputs.key().0;
    bench.store()?.put_record_bytes(&key, &serde_json::to_vec(&record)?)?;
    let file = bench.store()?.put_blob(b"downloaded")?;
    let download = serde_json::json!({"digest": file, "size": 10, "verified": []}).to_string();
    bench.store()?.put_record_bytes(&Digest::of(b"download"), download.as_bytes())?;
    let image = bench.image("a:1", &[bench.layer("a")?])?;
    bench.store()?.remove_reference(&Reference::parse("a:1")?.with_default_tag().to_string())?;
    let pulled = serde_json::json!({"top": image.digest, "manifest": image.digest}).to_string();
    bench.store()?.put_record_bytes(&Digest::of(b"pulled"), pulled.as_bytes())?;
    bench.age_all(DAY * 100)?;
    bench.age(Room::Records, DAY, |_| true)?;
    bench.prune(&Policy::default())?;
    assert_eq!(Records::new(bench.store()?).get(&record.inputs.key())?, Some(record));
    // A layer, a file, and an image of three blobs.
    assert_eq!(bench.count(Room::Blobs)?, 5);
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

impl Bench {
    /// A layer with one file that is here unpacked only.
    pub(super) fn files_only(&self, name: &str) -> Result<(DiffId, ChainId)> {
        let store = self.store()?;
        let dir = store.temp_dir()?;
        let fs = dir.path().join("fs");
        std::fs::create_dir(&fs)?;
        std::fs::write(fs.join(name), "content")?;
        let kind = EntryKind::File { size: 7, digest: None };
        let entry = Entry { path: name.into(), kind, meta: Default::default(), offset: 0 };
        let options =
            WriteOptions { compression: Default::default(), level: None, threads: 1, clamp_mtime: None };
        let content = crate::layer::FrozenContent::open(&fs)?;
        let (diff_id, _) = crate::layer::digest_layer(&store, vec![entry], &content, &options)?;
        let id = store.freeze_snapshot(dir)?;
        let chain = ChainId::of(&[diff_id]);
        store.put_chain_snapshot(&chain, &SnapshotKind::plain(), &id)?;
        Ok((diff_id, chain))
    }
}
