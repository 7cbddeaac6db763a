//! What checks find and repair.

use crate::layer::{FrozenContent, digest_layer};

use super::*;

#[test]
fn damage_is_found_and_repair_takes_exactly_that() -> Result {
    let bench = Bench::new()?;
    let (damaged, whole) = (bench.step("damaged")?, bench.step("whole")?);
    let (image, good) = (bench.layer("image")?, bench.layer("good")?);
    bench.image("broken:1", std::slice::from_ref(&image))?;
    bench.image("good:1", &[good])?;
    let store = bench.store()?;
    let record: crate::layer::LayerRecord =
        serde_json::from_slice(&store.layer(&damaged.diff_id)?.unwrap_or_default())?;
    let blob = record.blobs.first().ok_or("no blob")?;
    let mut bytes = std::fs::read(store.blob_path(&blob.digest))?;
    *bytes.last_mut().ok_or("empty")? ^= 1;
    std::fs::write(store.blob_path(&blob.digest), bytes)?;
    std::fs::remove_file(store.blob_path(&image.1.digest))?;
    std::fs::write(bench.dir.path().join("stat/left"), "x")?;
    std::fs::write(bench.dir.path().join("refs/bad%2"), "x")?;
    store.put_record_bytes(&Digest::of(b"cut"), b"{\"diff_id\":")?;
    let chain = ChainId::of(&[damaged.diff_id]);
    let id = bench.unpacked(chain)?;
    std::fs::remove_dir_all(bench.dir.path().join("snapshots").join(id))?;
    drop(store);
    bench.age_strays()?;
    let problems = bench.problems()?;
    // Blob, two layers without one, their record, a chain, the image, half a record, two strays.
    assert_eq!(problems.len(), 9, "{problems:#?}");
    let repair = CheckOptions { repair: true, ..CheckOptions::default() };
    let report = check(&bench.store()?, &repair, &Cancel::new()?)?;
    assert!(report.is_clean() && report.findings.len() == 9);
    assert_eq!(bench.problems()?, Vec::<String>::new());
    let store = bench.store()?;
    assert!(
        store.record::<Record>(&whole.inputs.key().0)?.is_some() && store.layer(&whole.diff_id)?.is_some()
    );
    assert!(
        store.record::<Record>(&damaged.inputs.key().0)?.is_none()
            && store.layer(&damaged.diff_id)?.is_none()
    );
    assert_eq!(store.references()?.len(), 1);
    Ok(())
}

#[test]
fn a_fast_check_finds_short_blobs_without_reading_them() -> Result {
    let bench = Bench::new()?;
    let (_, blob) = bench.layer("x")?;
    let store = bench.store()?;
    std::fs::write(store.blob_path(&blob.digest), "short")?;
    let fast = CheckOptions { fast: true, ..CheckOptions::default() };
    let report = check(&store, &fast, &Cancel::new()?)?;
    assert!(report.findings.iter().any(|finding| finding.what.contains("bytes instead of")));
    assert_eq!(report.bytes_read, 0);
    Ok(())
}

#[test]
fn layers_left_in_their_registry_are_no_damage_and_what_is_known_of_them_stays() -> Result {
    let bench = Bench::new()?;
    let layer = bench.layer("far")?;
    bench.image("far:1", std::slice::from_ref(&layer))?;
    let store = bench.store()?;
    std::fs::remove_file(store.blob_path(&layer.1.digest))?;
    for item in store.list(Room::Layers)?.items {
        std::fs::remove_file(item.path)?;
    }
    assert_eq!(bench.problems()?.len(), 1);
    let origin = crate::registry::origins::Origin { host: "r.example".into(), repository: "a".into() };
    crate::registry::origins::note(&store, &layer.1.digest, &origin)?;
    drop(store);
    assert_eq!(bench.problems()?, Vec::<String>::new());
    bench.age_all(DAY * 100)?;
    bench.prune(&all())?;
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn damaged_files_of_a_layer_without_a_blob_are_found_and_repaired() -> Result {
    let bench = Bench::new()?;
    let store = bench.store()?;
    let dir = store.temp_dir()?;
    std::fs::create_dir(dir.path().join("fs"))?;
    let file = std::path::Path::new("fs/file");
    std::fs::write(dir.path().join(file), "content")?;
    let kind = EntryKind::File { size: 7, digest: None };
    let entry = Entry { path: b"file".to_vec(), kind, meta: Default::default(), offset: 0 };
    let options =
        WriteOptions { compression: Default::default(), level: None, threads: 1, clamp_mtime: None };
    let content = FrozenContent::open(&dir.path().join("fs"))?;
    let (diff_id, _) = digest_layer(&store, vec![entry], &content, &options)?;
    let id = store.freeze_snapshot(dir)?;
    store.put_chain_snapshot(&ChainId::of(&[diff_id]), &SnapshotKind::plain(), &id)?;
    let inputs = KeyInputs { definition: "x".into(), parent: ChainId::scratch(), inputs: Vec::new() };
    Records::new(store.clone()).put(&Record { diff_id, inputs, step: "RUN x".into(), created: 1 })?;
    assert_eq!(bench.problems()?, Vec::<String>::new());
    std::fs::write(store.snapshot_dir(&id).join("file"), "CONTENT")?;
    drop(store);
    let problems = bench.problems()?;
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems[0].contains("damaged: they give") && problems[1].contains("whose files are damaged"));
    let fast = CheckOptions { fast: true, ..CheckOptions::default() };
    assert!(check(&bench.store()?, &fast, &Cancel::new()?)?.is_clean());
    let repair = CheckOptions { repair: true, ..CheckOptions::default() };
    assert!(check(&bench.store()?, &repair, &Cancel::new()?)?.is_clean());
    assert_eq!(bench.problems()?, Vec::<String>::new());
    assert_eq!((bench.count(Room::Chains)?, bench.count(Room::Records)?), (0, 0));
    Ok(())
}

impl Bench {
    fn age_strays(&self) -> Result {
        for path in ["stat/left", "refs/bad%2"] {
            File::open(self.dir.path().join(path))?.set_modified(SystemTime::now() - DAY)?;
        }
        Ok(())
    }
}
