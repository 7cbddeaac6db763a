//! Images whose layers are not compressed yet.

use crate::compress::{CompressionAlgorithm, Packing};
use crate::image::draft::{draft, note_packed, packed};

use super::*;

impl Bench {
    /// An image under a name whose layers are there as files only.
    fn draft(&self, name: &str, layers: &[DiffId]) -> Result<Descriptor> {
        let mut config = ImageConfig { author: name.into(), ..ImageConfig::default() };
        config.rootfs.diff_ids = layers.to_vec();
        let listed = layers.iter().map(|diff_id| LayerRef {
            diff_id: *diff_id,
            digest: diff_id.0,
            size: 1024,
            compression: CompressionAlgorithm::Uncompressed,
            annotations: Default::default(),
        });
        let packing =
            vec![Some(Packing { compression: CompressionAlgorithm::Gzip, level: None }); layers.len()];
        let image = Image { config, layers: listed.collect(), packing, ..Image::default() };
        let store = self.store()?;
        let descriptor = draft(&store, &image)?.descriptor;
        name_in_store(&store, &Reference::parse(name)?, &descriptor)?;
        Ok(descriptor)
    }
}

#[test]
fn a_name_keeps_layers_that_are_files_only() -> Result {
    let bench = Bench::new()?;
    let (layer, _) = bench.files_only("kept")?;
    bench.files_only("other")?;
    bench.draft("app:1", &[layer])?;
    bench.age_all(DAY * 1000)?;
    bench.prune(&all())?;
    bench.prune(&Policy { space: Space { max_used: 1, ..Space::default() }, ..all() })?;
    assert_eq!((bench.count(Room::Layers)?, bench.count(Room::Index)?), (1, 1));
    assert_eq!((bench.count(Room::Chains)?, bench.count(Room::Snapshots)?), (1, 1));
    // The config and the draft.
    assert_eq!(bench.count(Room::Blobs)?, 2);
    assert_eq!(bench.problems()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_name_keeps_the_manifest_that_its_draft_became() -> Result {
    let bench = Bench::new()?;
    let (layer, _) = bench.files_only("kept")?;
    let named = bench.draft("app:1", &[layer])?;
    let manifest = bench.image("other:1", &[bench.layer("blob")?])?;
    bench.store()?.remove_reference(&Reference::parse("other:1")?.with_default_tag().to_string())?;
    note_packed(&bench.store()?, &named.digest, &manifest)?;
    bench.age_all(DAY * 1000)?;
    bench.prune(&all())?;
    // Config and draft; manifest, config and layer.
    assert_eq!((bench.count(Room::Blobs)?, bench.count(Room::Records)?), (5, 1));
    bench.store()?.remove_reference(&Reference::parse("app:1")?.with_default_tag().to_string())?;
    bench.prune(&all())?;
    for room in Room::ALL {
        assert_eq!(bench.count(room)?, 0, "{room:?}");
    }
    Ok(())
}

#[test]
fn what_gets_a_name_while_another_goes_stays_with_its_files() -> Result {
    let bench = Bench::new()?;
    let (layer, _) = bench.files_only("kept")?;
    let descriptor = bench.draft("old:1", &[layer])?;
    bench.age_all(DAY * 1000)?;
    let tags = bench.store()?;
    name_in_store(&tags, &Reference::parse("new:1")?, &descriptor)?;
    // A collection that looked before does not know the new name.
    for name in ["old:1", "new:1"] {
        tags.remove_reference(&Reference::parse(name)?.with_default_tag().to_string())?;
    }
    let collected = bench.prune(&all())?;
    assert!(collected.in_use > 0);
    assert_eq!((bench.count(Room::Layers)?, bench.count(Room::Index)?), (1, 1));
    assert_eq!((bench.count(Room::Chains)?, bench.count(Room::Snapshots)?), (1, 1));
    assert_eq!(bench.count(Room::Blobs)?, 2);
    Ok(())
}

#[test]
fn a_named_image_without_the_files_of_a_layer_is_damage() -> Result {
    let bench = Bench::new()?;
    let (layer, _) = bench.files_only("kept")?;
    bench.draft("app:1", &[layer])?;
    assert_eq!(bench.problems()?, Vec::<String>::new());
    for item in bench.store()?.list(Room::Chains)?.items {
        std::fs::remove_file(item.path)?;
    }
    let problems = bench.problems()?;
    assert!(problems.iter().any(|problem| problem.contains("app:1")), "{problems:?}");
    Ok(())
}

#[test]
fn a_record_that_leads_from_a_draft_to_another_image_counts_as_none() -> Result {
    let bench = Bench::new()?;
    let (layer, _) = bench.files_only("own")?;
    let named = bench.draft("app:1", &[layer])?;
    let other = bench.image("other:1", &[bench.layer("blob")?])?;
    note_packed(&bench.store()?, &named.digest, &other)?;
    assert_eq!(packed(&bench.store()?, &named.digest)?, None);
    Ok(())
}
