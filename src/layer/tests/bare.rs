//! Layers that are digested first and packed later.

use crate::cancel::Cancel;

use super::*;

/// Files of more than one block, with their content on disk.
fn on_disk() -> Result<(tempfile::TempDir, Vec<Entry>), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let mut entries = vec![entry(b"d", EntryKind::Dir)];
    std::fs::create_dir(dir.path().join("d"))?;
    for (name, size) in [("d/a", 3_000_000), ("d/b", 0), ("d/c", 70_000)] {
        let bytes: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        std::fs::write(dir.path().join(name), bytes)?;
        entries.push(entry(name.as_bytes(), EntryKind::File { size: u64::from(size), digest: None }));
    }
    entries.push(entry(b"d/d", EntryKind::Hardlink(b"d/a".to_vec())));
    Ok((dir, entries))
}

#[test]
fn a_layer_that_is_digested_first_is_packed_to_the_same_blob_later() -> Result<(), Box<dyn std::error::Error>>
{
    let (files, entries) = on_disk()?;
    let content = FrozenContent::open(files.path())?;
    for compression in
        [CompressionAlgorithm::Gzip, CompressionAlgorithm::Zstd, CompressionAlgorithm::Uncompressed]
    {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (one, two) = (Store::open(one.path())?, Store::open(two.path())?);
        let whole = write_layer(&one, entries.clone(), &content, &options(compression))?;
        let (diff_id, index) = digest_layer(&two, entries.clone(), &content, &options(compression))?;
        assert_eq!((diff_id, &index), (whole.diff_id, &whole.index));
        assert_eq!(load_layer(&two, &diff_id)?.map(|record| record.blobs), Some(vec![]));
        let blob = pack_layer(&two, &diff_id, &index, files.path(), &options(compression), &Cancel::new()?)?;
        assert_eq!(blob, whole.blob);
        assert_eq!(load_layer(&two, &diff_id)?, load_layer(&one, &diff_id)?);
        // What has blobs keeps them.
        digest_layer(&two, entries.clone(), &content, &options(compression))?;
        assert_eq!(load_layer(&two, &diff_id)?.map(|record| record.blobs), Some(vec![blob]));
    }
    Ok(())
}

#[test]
fn files_that_are_not_those_of_the_digest_are_not_packed() -> Result<(), Box<dyn std::error::Error>> {
    let (files, entries) = on_disk()?;
    let store = tempfile::tempdir()?;
    let store = Store::open(store.path())?;
    let gzip = options(CompressionAlgorithm::Gzip);
    let content = FrozenContent::open(files.path())?;
    let (diff_id, index) = digest_layer(&store, entries, &content, &gzip)?;
    std::fs::write(files.path().join("d/c"), vec![7; 70_000])?;
    let damage = || match pack_layer(&store, &diff_id, &index, files.path(), &gzip, &Cancel::new()?) {
        Err(LayerError::Damaged { why, .. }) => Ok(why),
        other => Err(io::Error::other(format!("{other:?}"))),
    };
    assert!(damage()?.contains("they give"));
    std::fs::write(files.path().join("d/c"), "short")?;
    assert!(damage()?.contains("it shrank"));
    std::fs::write(files.path().join("d/c"), vec![7; 80_000])?;
    assert!(damage()?.contains("it was written to"));
    std::fs::remove_file(files.path().join("d/c"))?;
    assert!(damage()?.contains("No such file"));
    assert_eq!(load_layer(&store, &diff_id)?.map(|record| record.blobs), Some(vec![]));
    Ok(())
}

#[test]
fn packing_stops_when_asked_to_and_leaves_nothing() -> Result<(), Box<dyn std::error::Error>> {
    let (files, entries) = on_disk()?;
    let root = tempfile::tempdir()?;
    let store = Store::open(root.path())?;
    let gzip = options(CompressionAlgorithm::Gzip);
    let (diff_id, index) = digest_layer(&store, entries, &FrozenContent::open(files.path())?, &gzip)?;
    let cancel = Cancel::new()?;
    cancel.cancel();
    let stopped = pack_layer(&store, &diff_id, &index, files.path(), &gzip, &cancel);
    assert!(matches!(stopped, Err(LayerError::Canceled)), "{stopped:?}");
    assert_eq!(store.list(crate::store::Room::Blobs)?.items.len(), 0);
    Ok(())
}
