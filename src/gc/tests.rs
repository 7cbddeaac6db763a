//! What is kept and what goes.

mod damage;
mod drafts;
mod records;

use std::fs::File;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use crate::cache::{Input, KeyInputs, Record, Records};
use crate::cancel::Cancel;
use crate::digest::{ChainId, DiffId, Digest};
use crate::image::inspect::name_in_store;
use crate::image::{Descriptor, Family, Image, ImageConfig, LayerRef, Reference, assemble};
use crate::layer::{BlobInfo, Entry, EntryKind, NoContent, WriteOptions, write_layer};
use crate::store::{Room, SnapshotKind, Store};

use super::*;

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const DAY: Duration = Duration::from_secs(86_400);

/// A store that no process has open, so that nothing in it is in use.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self> {
        Ok(Bench { dir: tempfile::tempdir()? })
    }

    fn store(&self) -> Result<Store> {
        Ok(Store::open(self.dir.path())?)
    }

    /// A layer with one directory of that name, as a build writes it.
    fn layer(&self, name: &str) -> Result<(DiffId, BlobInfo)> {
        let meta = crate::layer::Metadata { mode: 0o755, ..Default::default() };
        let entry = Entry { path: name.as_bytes().to_vec(), kind: EntryKind::Dir, meta, offset: 0 };
        let options =
            WriteOptions { compression: Default::default(), level: None, threads: 1, clamp_mtime: None };
        let layer = write_layer(&self.store()?, vec![entry], &NoContent, &options)?;
        Ok((layer.diff_id, layer.blob))
    }

    /// A step in the cache with its layer and the list of what it read.
    fn step(&self, name: &str) -> Result<Record> {
        let (diff_id, _) = self.layer(name)?;
        let digest = Digest::of(name.as_bytes());
        let records = Records::new(self.store()?);
        records.put_pre_image(&digest, name, name.as_bytes())?;
        let inputs = KeyInputs {
            definition: serde_json::json!({ "run": name }),
            parent: ChainId::scratch(),
            inputs: vec![Input { name: "context".into(), digest }],
        };
        let record = Record { diff_id, inputs, step: format!("RUN {name}"), created: 1 };
        records.put(&record)?;
        Ok(record)
    }

    /// An image of these layers under a name.
    fn image(&self, name: &str, layers: &[(DiffId, BlobInfo)]) -> Result<Descriptor> {
        let mut config =
            ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..Default::default() };
        config.rootfs.diff_ids = layers.iter().map(|(diff_id, _)| *diff_id).collect();
        config.author = name.into();
        let layers = layers
            .iter()
            .map(|(diff_id, blob)| LayerRef {
                diff_id: *diff_id,
                digest: blob.digest,
                size: blob.size,
                compression: blob.compression,
                annotations: Default::default(),
            })
            .collect();
        let store = self.store()?;
        let image = Image { config, layers, ..Image::default() };
        let descriptor = assemble(&store, &image, Family::Oci)?.descriptor;
        name_in_store(&store, &Reference::parse(name)?, &descriptor)?;
        Ok(descriptor)
    }

    /// An unpacked layer on top of `chain`.
    fn unpacked(&self, chain: ChainId) -> Result<String> {
        let store = self.store()?;
        let dir = store.temp_dir()?;
        std::fs::create_dir(dir.path().join("fs"))?;
        let id = store.freeze_snapshot(dir)?;
        store.put_chain_snapshot(&chain, &SnapshotKind::plain(), &id)?;
        Ok(id.to_string())
    }

    /// Makes the things of a room that `choose` likes look unused for so long.
    fn age(&self, room: Room, by: Duration, choose: impl Fn(&str) -> bool) -> Result {
        for item in self.store()?.list(room)?.items.iter().filter(|item| choose(&item.name)) {
            File::open(&item.path)?.set_modified(SystemTime::now() - by)?;
        }
        Ok(())
    }

    fn age_all(&self, by: Duration) -> Result {
        Room::ALL.into_iter().try_for_each(|room| self.age(room, by, |_| true))
    }

    fn prune(&self, policy: &Policy) -> Result<Collected> {
        Ok(collect(&self.store()?, policy, false, Duration::ZERO, &Cancel::new()?)?.1)
    }

    fn count(&self, room: Room) -> Result<usize> {
        Ok(self.store()?.list(room)?.items.len())
    }

    fn problems(&self) -> Result<Vec<String>> {
        let report = check(&self.store()?, &CheckOptions::default(), &Cancel::new()?)?;
        Ok(report.findings.into_iter().map(|finding| finding.what).collect())
    }
}

fn all() -> Policy {
    Policy { all: true, ..Policy::default() }
}

#[test]
fn what_a_name_leads_to_stays_whole_whatever_is_asked_for() -> Result {
    let bench = Bench::new()?;
    let layers = [bench.layer("a")?, bench.layer("b")?];
    bench.image("app:1", &layers)?;
    let chain = ChainId::of(&[layers[0].0, layers[1].0]);
    bench.unpacked(chain)?;
    bench.age_all(DAY * 1000)?;
    bench.prune(&all())?;
    bench.prune(&Policy { space: Space { max_used: 1, ..Space::default() }, ..all() })?;
    assert_eq!(bench.count(Room::Blobs)?, 4);
    assert_eq!((bench.count(Room::Layers)?, bench.count(Room::Index)?), (2, 2));
    assert_eq!((bench.count(Room::Chains)?, bench.count(Room::Snapshots)?), (1, 1));
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn with_all_nothing_stays_that_no_name_leads_to() -> Result {
    let bench = Bench::new()?;
    bench.step("x")?;
    bench.unpacked(ChainId::scratch())?;
    bench.image("app:1", &[bench.layer("a")?])?;
    bench.store()?.remove_reference(&Reference::parse("app:1")?.with_default_tag().to_string())?;
    bench.store()?.put_blob(b"downloaded")?;
    bench.store()?.cache_dir::<crate::store::StoreError>(&Digest::of(b"m"), 0, false, |_| Ok(()))?;
    std::fs::write(bench.store()?.stat_cache_path("/x".as_ref()), "x")?;
    std::fs::create_dir_all(bench.store()?.git_cache_path(&Digest::of(b"g")))?;
    let collected = bench.prune(&all())?;
    for room in Room::ALL {
        assert_eq!(bench.count(room)?, 0, "{room:?}");
    }
    assert!(collected.bytes() > 0 && collected.in_use == 0);
    Ok(())
}

/// Cache mounts whose lock is no file cannot be removed, not even by root.
#[test]
fn what_cannot_be_removed_is_told_and_keeps_nothing_else_from_going() -> Result {
    let bench = Bench::new()?;
    for name in ["x", "y"] {
        let key = Digest::of(name.as_bytes());
        bench.store()?.cache_dir::<crate::store::StoreError>(&key, 0, false, |_| Ok(()))?;
        let lock = bench.dir.path().join(format!("mounts/{}.0.lock", key.hex()));
        std::fs::remove_file(&lock)?;
        std::fs::create_dir(&lock)?;
    }
    bench.step("z")?;
    std::fs::write(bench.dir.path().join("records/stray"), "")?;
    let collected = bench.prune(&all())?;
    let told: Vec<String> = collected.failures.iter().map(ToString::to_string).collect();
    assert!(told.len() == 2 && told.iter().all(|text| text.contains("mounts/")), "{told:?}");
    assert_eq!((bench.count(Room::Mounts)?, bench.count(Room::Records)?, collected.strays), (2, 0, 1));
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_moved_name_frees_what_only_the_old_image_had() -> Result {
    let bench = Bench::new()?;
    let shared = bench.layer("shared")?;
    bench.image("app:1", &[shared.clone(), bench.layer("old")?])?;
    bench.image("app:1", &[shared, bench.layer("new")?, bench.layer("newer")?])?;
    bench.prune(&all())?;
    assert_eq!((bench.count(Room::Layers)?, bench.count(Room::Blobs)?), (3, 5));
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn every_image_of_a_named_index_stays() -> Result {
    let bench = Bench::new()?;
    let manifests =
        vec![bench.image("tmp:1", &[bench.layer("one")?])?, bench.image("tmp:2", &[bench.layer("two")?])?];
    let store = bench.store()?;
    let bytes = crate::image::manifest::canonical(&crate::image::Index::new(manifests))?;
    store.put_blob(&bytes)?;
    name_in_store(&store, &Reference::parse("both:1")?, &Descriptor::of(Family::Oci.index(), &bytes))?;
    for name in ["tmp:1", "tmp:2"] {
        store.remove_reference(&Reference::parse(name)?.with_default_tag().to_string())?;
    }
    drop(store);
    bench.prune(&all())?;
    assert_eq!(bench.count(Room::Blobs)?, 7);
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn without_flags_recent_results_stay_and_old_ones_go_with_all_they_lead_to() -> Result {
    let bench = Bench::new()?;
    let (old, young) = (bench.step("old")?, bench.step("young")?);
    bench.age_all(DAY * 8)?;
    let key = young.inputs.key().0.hex();
    bench.age(Room::Records, DAY, |name| name == key)?;
    bench.prune(&Policy::default())?;
    let store = bench.store()?;
    assert_eq!(store.record::<Record>(&old.inputs.key().0)?, None);
    assert!(store.record::<Record>(&young.inputs.key().0)?.is_some());
    // The record and the list of what it read.
    assert_eq!(store.list(Room::Records)?.items.len(), 2);
    assert!(store.layer(&young.diff_id)?.is_some() && store.layer(&old.diff_id)?.is_none());
    assert_eq!((bench.count(Room::Blobs)?, bench.count(Room::Index)?), (1, 1));
    Ok(())
}

#[test]
fn using_a_record_keeps_its_layer_however_old_the_layer_is() -> Result {
    let bench = Bench::new()?;
    let record = bench.step("x")?;
    bench.age_all(DAY * 100)?;
    assert!(Records::new(bench.store()?).get(&record.inputs.key())?.is_some());
    bench.prune(&Policy::default())?;
    assert!(bench.store()?.layer(&record.diff_id)?.is_some());
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn unpacked_layers_age_apart_from_the_cache_that_can_do_without_them() -> Result {
    let bench = Bench::new()?;
    let record = bench.step("x")?;
    bench.unpacked(ChainId::of(&[record.diff_id]))?;
    bench.age(Room::Chains, DAY * 8, |_| true)?;
    bench.prune(&Policy::default())?;
    assert_eq!((bench.count(Room::Chains)?, bench.count(Room::Snapshots)?), (0, 0));
    assert!(bench.store()?.layer(&record.diff_id)?.is_some());
    Ok(())
}

#[test]
fn an_unpacked_layer_that_no_chain_leads_to_goes_at_any_age() -> Result {
    let bench = Bench::new()?;
    bench.unpacked(ChainId::scratch())?;
    for item in bench.store()?.list(Room::Chains)?.items {
        std::fs::remove_file(item.path)?;
    }
    let kept = bench.unpacked(ChainId::scratch())?;
    bench.prune(&Policy::default())?;
    let left = bench.store()?.list(Room::Snapshots)?.items;
    assert_eq!(left.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), [kept.as_str()]);
    Ok(())
}

#[test]
fn sources_go_after_two_days_and_cache_mounts_only_when_they_are_meant() -> Result {
    let bench = Bench::new()?;
    std::fs::create_dir_all(bench.store()?.git_cache_path(&Digest::of(b"g")))?;
    bench.store()?.cache_dir::<crate::store::StoreError>(&Digest::of(b"m"), 0, false, |_| Ok(()))?;
    bench.step("x")?;
    bench.age_all(DAY * 3)?;
    bench.prune(&Policy::default())?;
    assert_eq!((bench.count(Room::Git)?, bench.count(Room::Mounts)?, bench.count(Room::Layers)?), (0, 1, 1));
    bench.prune(&Policy { filters: vec![Filter::Type(Kind::CacheMount)], ..Policy::default() })?;
    assert_eq!((bench.count(Room::Mounts)?, bench.count(Room::Layers)?), (0, 1));
    Ok(())
}

#[test]
fn until_says_how_long_something_must_have_been_unused() -> Result {
    let bench = Bench::new()?;
    bench.step("old")?;
    bench.age_all(DAY * 2)?;
    bench.step("young")?;
    bench.age(Room::Records, DAY / 2, |_| true)?;
    bench.prune(&Policy { unused_for: Some(DAY), ..all() })?;
    assert_eq!(bench.count(Room::Layers)?, 2, "both records were used half a day ago");
    bench.prune(&Policy { unused_for: Some(DAY / 4), ..all() })?;
    assert_eq!(bench.count(Room::Layers)?, 1, "the layer of one was used a moment ago");
    Ok(())
}

#[test]
fn an_id_takes_a_record_and_what_only_that_record_leads_to() -> Result {
    let bench = Bench::new()?;
    let (one, two) = (bench.step("one")?, bench.step("two")?);
    let id = Filter::Id(one.inputs.key().0.hex()[..10].to_owned());
    bench.prune(&Policy { filters: vec![id], ..Policy::default() })?;
    let store = bench.store()?;
    assert!(store.layer(&one.diff_id)?.is_none() && store.layer(&two.diff_id)?.is_some());
    assert_eq!(store.list(Room::Records)?.items.len(), 2);
    Ok(())
}

#[test]
fn limits_on_space_take_the_longest_unused_and_no_more_than_needed() -> Result {
    let bench = Bench::new()?;
    let records = ["a", "b", "c"].map(|name| bench.step(name));
    let mut keys = Vec::new();
    for record in records {
        keys.push(record?.inputs.key().0);
    }
    bench.age_all(DAY * 10)?;
    for (at, key) in keys.iter().enumerate() {
        let days = u32::try_from(3 - at)?;
        bench.age(Room::Records, DAY * days, |name| name == key.hex())?;
    }
    let total = Survey::take(&bench.store()?, true)?.total();
    let space = Space { max_used: total - 1, ..Space::default() };
    bench.prune(&Policy { space, ..Policy::default() })?;
    let store = bench.store()?;
    let left: Vec<bool> =
        keys.iter().map(|key| store.record::<Record>(key).is_ok_and(|found| found.is_some())).collect();
    assert_eq!(left, [false, true, true]);
    let now = Survey::take(&store, true)?.total();
    assert!(now < total && now > total / 2, "{now} of {total}");
    Ok(())
}

#[test]
fn limits_on_space_mean_what_they_mean_in_the_reference() {
    let keep = |max_used, min_free, reserved| Space { max_used, min_free, reserved }.keep(100, 10);
    assert_eq!(keep(0, 0, 0), None);
    assert_eq!(keep(60, 0, 0), Some(60));
    assert_eq!(keep(0, 0, 30), Some(30));
    assert_eq!(keep(60, 0, 70), Some(70));
    assert_eq!(keep(0, 40, 0), Some(70));
    assert_eq!(keep(60, 40, 0), Some(60));
    assert_eq!(keep(0, 5, 0), Some(100));
    assert_eq!(keep(0, 200, 20), Some(20));
}

#[test]
fn a_dry_run_tells_and_takes_nothing() -> Result {
    let bench = Bench::new()?;
    bench.step("x")?;
    let would = collect(&bench.store()?, &all(), true, Duration::ZERO, &Cancel::new()?)?.1;
    assert_eq!(bench.count(Room::Layers)?, 1);
    let did = bench.prune(&all())?;
    assert_eq!(would.removed, did.removed);
    assert_eq!(bench.count(Room::Layers)?, 0);
    Ok(())
}

#[test]
fn what_a_living_build_has_looked_up_stays_with_all_it_leads_to() -> Result {
    let bench = Bench::new()?;
    let record = bench.step("x")?;
    bench.step("y")?;
    bench.age_all(DAY * 100)?;
    let build = bench.store()?;
    assert!(Records::new(build.clone()).get(&record.inputs.key())?.is_some());
    let collected = bench.prune(&all())?;
    assert!(build.layer(&record.diff_id)?.is_some());
    assert_eq!((bench.count(Room::Layers)?, bench.count(Room::Blobs)?), (1, 1));
    assert!(collected.in_use > 0);
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn usage_counts_every_file_once_and_tells_what_could_go() -> Result {
    let bench = Bench::new()?;
    let shared = bench.layer("shared")?;
    bench.image("app:1", std::slice::from_ref(&shared))?;
    bench.image("app:2", std::slice::from_ref(&shared))?;
    bench.step("x")?;
    let usage = usage(&bench.store()?)?;
    let find = |id: String| usage.things.iter().find(|thing| thing.id == id && thing.room == Room::Blobs);
    let blob = find(shared.1.digest.hex()).ok_or("no blob")?;
    assert!(blob.shared && !blob.reclaimable);
    let step = usage.things.iter().find(|thing| thing.note == "RUN x").ok_or("no step")?;
    assert!(step.reclaimable);
    let total = usage.total();
    assert_eq!(total.size, usage.things.iter().map(|thing| thing.size).sum::<u64>());
    let collected = bench.prune(&all())?;
    assert_eq!(collected.bytes(), total.reclaimable);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the store holds and however it is pruned: names stay whole, and a check finds nothing.
    #[test]
    fn no_collection_leaves_anything_that_leads_nowhere(
        layers in 1usize..6,
        images in prop::collection::vec(prop::collection::vec(0usize..6, 0..4), 0..4),
        steps in prop::collection::vec((0usize..6, 0u32..20), 0..6),
        removed in prop::collection::vec(0usize..4, 0..3),
        all in any::<bool>(),
        days in prop::option::of(0u32..20),
        max_used in prop::option::of(0u64..60_000),
    ) {
        let run = || -> Result<Vec<String>> {
            let bench = Bench::new()?;
            let made = (0..layers).map(|n| bench.layer(&format!("l{n}"))).collect::<Result<Vec<_>>>()?;
            for (n, image) in images.iter().enumerate() {
                let chosen: Vec<_> = image.iter().map(|at| made[at % layers].clone()).collect();
                bench.image(&format!("i{n}:1"), &chosen)?;
            }
            for (at, _) in &steps {
                bench.step(&format!("l{}", at % layers))?;
            }
            for (at, days) in &steps {
                bench.age(Room::Records, DAY * *days, |name| name.bytes().next() == Some(b'0' + (at % 10) as u8))?;
            }
            for n in &removed {
                let name = Reference::parse(&format!("i{n}:1"))?.with_default_tag().to_string();
                bench.store()?.remove_reference(&name)?;
            }
            let space = Space { max_used: max_used.unwrap_or(0), ..Space::default() };
            let unused_for = days.map(|days| DAY * days);
            bench.prune(&Policy { all, unused_for, space, filters: Vec::new() })?;
            bench.problems()
        };
        let problems = run().map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert!(problems.is_empty(), "{problems:#?}");
    }
}
