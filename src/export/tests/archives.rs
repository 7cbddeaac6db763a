use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::fixture::*;
use crate::compress::CompressionAlgorithm::{Gzip, Uncompressed, Zstd};
use crate::digest::Digest;
use crate::export::{Dest, ExportError, docker, oci, save};
use crate::image::inspect::name_in_store;
use crate::image::manifest::{DescriptorPlatform, canonical};
use crate::image::{Descriptor, Family, Index, Platform, ReadError, Reference, Selector, open_layout};
use crate::store::Store;

fn file(path: &Path) -> Dest {
    Dest::File(path.to_owned())
}

#[test]
fn an_oci_archive_has_the_fixed_order_and_modes_and_the_same_bytes_each_time() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let image = image(&store, "amd64", Uncompressed, Family::Oci)?;
    let images = [export_image(&image, &["app:1", "r.example/app:2"])?];
    let path = dir.path().join("a.tar");
    oci::write_archive(&store, &images, &file(&path), &go_on()?)?;
    let again = dir.path().join("b.tar");
    oci::write_archive(&store, &images, &file(&again), &go_on()?)?;
    assert!(fs::read(&path)? == fs::read(&again)?);

    let mut tar = ::tar::Archive::new(fs::File::open(&path)?);
    let mut seen = Vec::new();
    for entry in tar.entries()? {
        let entry = entry?;
        let header = entry.header();
        assert_eq!((header.uid()?, header.gid()?, header.mtime()?), (0, 0, 0));
        seen.push((String::from_utf8(entry.path_bytes().into_owned())?, header.mode()?));
    }
    let mut blobs: Vec<Digest> = image.layers.iter().map(|layer| layer.digest).collect();
    blobs.extend([image.config_digest, image.descriptor.digest]);
    blobs.sort();
    let mut expected = vec![("blobs/".to_owned(), 0o755), ("blobs/sha256/".to_owned(), 0o755)];
    expected.extend(blobs.iter().map(|digest| (format!("blobs/sha256/{}", digest.hex()), 0o444)));
    expected.extend([("index.json".to_owned(), 0o644), ("oci-layout".to_owned(), 0o444)]);
    assert_eq!(seen, expected);
    Ok(())
}

#[test]
fn every_form_gives_back_the_image_that_went_in() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    for (number, (top, family)) in
        [(Gzip, Family::Oci), (Zstd, Family::Docker), (Uncompressed, Family::Docker)].into_iter().enumerate()
    {
        let image = image(&store, "amd64", top, family)?;
        let images = [export_image(&image, &["app:1"])?];
        let at = |name: &str| dir.path().join(format!("{number}-{name}"));
        oci::write_archive(&store, &images, &file(&at("oci.tar")), &go_on()?)?;
        oci::write_directory(&store, &images, &at("oci"), &go_on()?)?;
        docker::write_archive(&store, &images, &file(&at("docker.tar")), &go_on()?)?;
        let packed = zstd::encode_all(fs::File::open(at("docker.tar"))?, 1)?;
        fs::write(at("docker.tar.zst"), packed)?;
        only_docker(&at("docker.tar"), &at("only-docker.tar"))?;
        for form in ["oci.tar", "oci", "docker.tar", "docker.tar.zst", "only-docker.tar"] {
            let other = Store::open(&at(&format!("store-{form}")))?;
            let source = open_layout(&at(form), &other)?;
            for selector in ["", "1", "app:1", "docker.io/library/app:1"] {
                let found = source.resolve(&Selector::parse(selector), &amd64())?;
                assert_eq!(found.manifest.config.digest, image.config_digest, "{form} {selector}");
                assert_eq!(found.layer_refs().len(), 2);
                if form != "only-docker.tar" {
                    assert_eq!(found.manifest_digest, image.descriptor.digest, "{form}");
                }
                for layer in &found.layers {
                    source.copy_blob_into(&other, layer)?;
                }
            }
            for layer in &image.layers {
                assert!(other.has_blob(&layer.digest), "{form}");
            }
        }
    }
    Ok(())
}

/// The archive as tools without OCI layouts write it.
fn only_docker(from: &Path, to: &Path) -> Result {
    let mut tar = ::tar::Archive::new(fs::File::open(from)?);
    let mut out = ::tar::Builder::new(fs::File::create(to)?);
    for entry in tar.entries()? {
        let entry = entry?;
        let header = entry.header().clone();
        if !matches!(&*entry.path_bytes(), b"oci-layout" | b"index.json") {
            out.append(&header, entry)?;
        }
    }
    Ok(out.finish()?)
}

#[test]
fn a_docker_archive_names_its_images_and_layers() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let amd = image(&store, "amd64", Gzip, Family::Docker)?;
    let arm = image(&store, "arm64", Gzip, Family::Docker)?;
    let path = dir.path().join("d.tar");
    let images = [export_image(&amd, &["app:1", "r.example/app:2"])?, export_image(&arm, &[])?];
    docker::write_archive(&store, &images, &file(&path), &go_on()?)?;
    let mut top: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for entry in ::tar::Archive::new(fs::File::open(&path)?).entries()? {
        let entry = entry?;
        let name = entry.path()?.display().to_string();
        if !name.starts_with("blobs") {
            top.insert(name, serde_json::from_reader(entry)?);
        }
    }
    assert_eq!(top.keys().collect::<Vec<_>>(), ["index.json", "manifest.json", "oci-layout", "repositories"]);
    let items = &top["manifest.json"];
    assert_eq!(items[0]["RepoTags"], serde_json::json!(["app:1", "r.example/app:2"]));
    assert_eq!(items[0]["Config"], format!("blobs/sha256/{}", amd.config_digest.hex()));
    assert_eq!(items[0]["Layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(items[1]["RepoTags"], serde_json::Value::Null);
    assert_eq!(top["repositories"]["app"]["1"], amd.layers[1].digest.hex());
    assert_eq!(top["index.json"]["manifests"].as_array().map(Vec::len), Some(3));
    Ok(())
}

#[test]
fn a_damaged_or_missing_blob_leaves_nothing_at_the_destination() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let out = dir.path().join("out");
    fs::create_dir(&out)?;
    fs::write(out.join("old.tar"), "old")?;
    let image = image(&store, "amd64", Gzip, Family::Docker)?;
    let images = [export_image(&image, &["app:1"])?];
    oci::write_directory(&store, &images, &out.join("old"), &go_on()?)?;
    let before = (names_in(&out)?, names_in(&out.join("old/blobs/sha256"))?);
    let other = super::fixture::image(&store, "s390x", Gzip, Family::Docker)?;
    let images = [export_image(&other, &["app:1"])?];
    let layer = other.layers[1].digest;
    let attempt = |expected: fn(&ExportError) -> bool| -> Result {
        for result in [
            oci::write_archive(&store, &images, &file(&out.join("new.tar")), &go_on()?),
            oci::write_archive(&store, &images, &file(&out.join("old.tar")), &go_on()?),
            docker::write_archive(&store, &images, &file(&out.join("new.tar")), &go_on()?),
            oci::write_directory(&store, &images, &out.join("new"), &go_on()?),
            oci::write_directory(&store, &images, &out.join("old"), &go_on()?),
        ] {
            let error = result.err().ok_or("a damaged image was exported")?;
            assert!(expected(&error) && error.to_string().contains(&layer.to_string()), "{error}");
        }
        assert_eq!((names_in(&out)?, names_in(&out.join("old/blobs/sha256"))?), before);
        assert_eq!(fs::read(out.join("old.tar"))?, b"old");
        Ok(())
    };
    damage(&store, &layer)?;
    attempt(|error| matches!(error, ExportError::Corrupt { .. }))?;
    fs::write(store.blob_path(&layer), "short")?;
    attempt(|error| matches!(error, ExportError::Corrupt { .. }))?;
    fs::remove_file(store.blob_path(&layer))?;
    attempt(|error| matches!(error, ExportError::MissingBlob { .. }))?;
    Ok(())
}

#[test]
fn an_existing_layout_keeps_its_images_and_other_directories_are_refused() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let [amd, arm] = ["amd64", "arm64"].map(|architecture| image(&store, architecture, Gzip, Family::Oci));
    let (amd, arm) = (amd?, arm?);
    let layout = dir.path().join("layout");
    fs::create_dir(&layout)?;
    oci::write_directory(&store, &[export_image(&amd, &["app:1", "app:2"])?], &layout, &go_on()?)?;
    oci::write_directory(&store, &[export_image(&arm, &["app:2", "other:1"])?], &layout, &go_on()?)?;
    let source = open_layout(&layout, &store)?;
    for (name, expected) in [("app:1", &amd), ("app:2", &arm), ("other:1", &arm)] {
        let found = source.resolve(&Selector::parse(name), &amd64())?;
        assert_eq!(found.manifest_digest, expected.descriptor.digest, "{name}");
    }
    assert_eq!(source.names().len(), 3);
    assert!(matches!(
        source.resolve(&Selector::Only, &Platform::new("linux", "s390x", "")),
        Err(ReadError::SeveralImages { .. })
    ));
    let blob = layout.join("blobs/sha256").join(amd.config_digest.hex());
    assert_eq!(fs::metadata(&blob)?.permissions().mode() & 0o777, 0o444);

    let good = fs::read(&blob)?;
    fs::remove_file(&blob)?;
    fs::write(&blob, vec![b'x'; good.len()])?;
    oci::write_directory(&store, &[export_image(&amd, &["app:1"])?], &layout, &go_on()?)?;
    assert_eq!(fs::read(&blob)?, good);

    let home = dir.path().join("home");
    fs::create_dir(&home)?;
    fs::write(home.join("precious"), "")?;
    let images = [export_image(&amd, &["app:1"])?];
    assert!(matches!(
        oci::write_directory(&store, &images, &home, &go_on()?),
        Err(ExportError::NotALayout { .. })
    ));
    assert_eq!(names_in(&home)?, ["precious"]);
    let precious = home.join("precious");
    assert!(matches!(
        oci::write_directory(&store, &images, &precious, &go_on()?),
        Err(ExportError::NotADirectory { .. })
    ));
    assert!(matches!(
        oci::write_archive(&store, &images, &file(&home), &go_on()?),
        Err(ExportError::IsDirectory { .. })
    ));
    assert!(matches!(
        oci::write_archive(&store, &images, &file(&home.join("no/a.tar")), &go_on()?),
        Err(ExportError::NoParent { .. })
    ));
    Ok(())
}

#[test]
fn a_link_as_destination_is_replaced_and_a_device_written_to() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let images = [export_image(&image(&store, "amd64", Gzip, Family::Oci)?, &["app:1"])?];
    let (real, link) = (dir.path().join("real.tar"), dir.path().join("link.tar"));
    fs::write(&real, "old")?;
    std::os::unix::fs::symlink(&real, &link)?;
    oci::write_archive(&store, &images, &file(&link), &go_on()?)?;
    // What it leads to may be somebody else's choice.
    assert_eq!(fs::read_to_string(&real)?, "old");
    assert!(fs::symlink_metadata(&link)?.is_file());
    oci::write_archive(&store, &images, &file(Path::new("/dev/null")), &go_on()?)?;
    use std::os::unix::fs::FileTypeExt as _;
    assert!(fs::symlink_metadata("/dev/null")?.file_type().is_char_device());
    Ok(())
}

#[test]
fn saving_keeps_whole_indexes_as_oci_and_picks_a_platform_for_docker() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let [amd, arm] = ["amd64", "arm64"].map(|architecture| image(&store, architecture, Gzip, Family::Oci));
    let (amd, arm) = (amd?, arm?);
    let bytes = canonical(&Index::new(vec![amd.descriptor.clone(), arm.descriptor.clone()]))?;
    store.put_blob(&bytes)?;
    let index = Descriptor::of(Family::Oci.index(), &bytes);
    let (multi, single) = (Reference::parse("multi:1")?, Reference::parse("single")?);
    name_in_store(&store, &multi, &index)?;
    name_in_store(&store, &single, &amd.descriptor)?;
    let (oci, docker) = (dir.path().join("oci.tar"), dir.path().join("docker.tar"));
    let names = [multi.clone(), single];
    let arm64 = Platform::new("linux", "arm64", "");

    save(&store, &names, &file(&oci), Family::Oci, &amd64(), &go_on()?)?;
    let source = open_layout(&oci, &store)?;
    let found = source.resolve(&Selector::parse("multi:1"), &arm64)?;
    assert_eq!(found.manifest_digest, arm.descriptor.digest);

    save(&store, &names, &file(&docker), Family::Docker, &amd64(), &go_on()?)?;
    let source = open_layout(&docker, &store)?;
    let found = source.resolve(&Selector::Only, &amd64())?;
    assert_eq!(found.manifest.config.digest, amd.config_digest);
    assert_eq!(found.manifest.media_type, Family::Docker.manifest());
    assert_eq!(source.names().len(), 2);

    let s390x = Platform::new("linux", "s390x", "");
    let refused = save(&store, &names, &file(&docker), Family::Docker, &s390x, &go_on()?);
    assert!(matches!(refused, Err(ExportError::Platform { .. })));
    let unknown = [Reference::parse("nowhere")?];
    let refused = save(&store, &unknown, &file(&docker), Family::Oci, &amd64(), &go_on()?);
    assert!(matches!(refused, Err(ExportError::NoImage { .. })));

    fs::remove_file(store.blob_path(&arm.layers[1].digest))?;
    save(&store, &[multi], &file(&oci), Family::Oci, &amd64(), &go_on()?)?;
    let found = open_layout(&oci, &store)?.resolve(&Selector::Only, &amd64())?;
    assert_eq!(found.manifest_digest, amd.descriptor.digest);
    assert_eq!(amd.descriptor.platform, Some(DescriptorPlatform::from(&amd64())));
    Ok(())
}

#[test]
fn cancelling_leaves_nothing() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("store"))?;
    let images = [export_image(&image(&store, "amd64", Gzip, Family::Docker)?, &["app:1"])?];
    let stop = go_on()?;
    stop.cancel();
    for result in [
        oci::write_archive(&store, &images, &file(&dir.path().join("out")), &stop),
        oci::write_directory(&store, &images, &dir.path().join("out"), &stop),
        docker::write_archive(&store, &images, &file(&dir.path().join("out")), &stop),
    ] {
        assert!(matches!(result, Err(ExportError::Canceled)), "{result:?}");
    }
    assert_eq!(names_in(dir.path())?, ["store"]);
    Ok(())
}
