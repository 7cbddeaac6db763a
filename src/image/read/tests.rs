//! Layouts and archives made by hand, broken in every way that has a message of its own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::image::manifest::{DescriptorPlatform, MAX_INDEX_DEPTH, canonical};
use crate::image::{History, Image, LayerRef, assemble};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&dir.path().join("store"))?;
        fs::create_dir_all(dir.path().join("layout/blobs/sha256"))?;
        fs::write(dir.path().join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Fixture { dir, store })
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.layout().join("blobs/sha256").join(digest.hex())
    }

    /// An image in a store of its own, whose blobs are copied to the layout.
    fn image(&self, architecture: &str) -> Result<Descriptor> {
        let layer = [0u8; 1024];
        let mut image = Image {
            layers: vec![LayerRef {
                diff_id: DiffId::empty(),
                digest: Digest::of(&layer),
                size: 1024,
                compression: crate::compress::CompressionAlgorithm::Uncompressed,
                annotations: Default::default(),
            }],
            ..Image::default()
        };
        image.config.os = "linux".into();
        image.config.architecture = architecture.into();
        image.config.history = vec![History::default()];
        let own = Store::open(&self.dir.path().join("own"))?;
        let assembled = assemble(&own, &image, Family::Oci)?;
        fs::write(self.blob(&Digest::of(&layer)), layer)?;
        for digest in [assembled.descriptor.digest, assembled.config_digest] {
            fs::copy(own.blob_path(&digest), self.blob(&digest))?;
        }
        Ok(assembled.descriptor)
    }

    fn write_index(&self, manifests: Vec<Descriptor>) -> Result {
        Ok(fs::write(self.layout().join("index.json"), canonical(&Index::new(manifests))?)?)
    }

    fn open(&self) -> std::result::Result<Box<dyn ImageSource>, ReadError> {
        open_layout(&self.layout(), &self.store)
    }

    fn resolve(&self, selector: &str) -> std::result::Result<ResolvedImage, ReadError> {
        self.open()?.resolve(&Selector::parse(selector), &amd64())
    }
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn tagged(descriptor: &Descriptor, tag: &str) -> Descriptor {
    let mut named = descriptor.clone();
    named.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    named
}

#[test]
fn images_are_found_by_tag_digest_and_platform() -> Result {
    let fixture = Fixture::new()?;
    let (amd, arm) = (fixture.image("amd64")?, fixture.image("arm64")?);
    fixture.write_index(vec![tagged(&amd, "1"), tagged(&arm, "2")])?;
    assert_eq!(fixture.resolve("2")?.manifest_digest, arm.digest);
    assert_eq!(fixture.resolve(&amd.digest.to_string())?.manifest_digest, amd.digest);
    let several = fixture.resolve("");
    assert!(matches!(several, Err(ReadError::SeveralImages { names, .. }) if names == ["1", "2"]));
    let unknown = fixture.resolve("3");
    assert!(matches!(unknown, Err(ReadError::NotFound { names, .. }) if names == ["1", "2"]));
    let unknown = fixture.resolve(&Digest::of(b"?").to_string());
    assert!(matches!(unknown, Err(ReadError::NotFound { .. })));

    // Several platforms under one name, flat and in a nested index.
    fixture.write_index(vec![tagged(&arm, "1"), tagged(&amd, "1")])?;
    assert_eq!(fixture.resolve("1")?.manifest_digest, amd.digest);
    let nested = canonical(&Index::new(vec![arm.clone(), amd.clone()]))?;
    let nested_descriptor = Descriptor::of(Family::Oci.index(), &nested);
    fs::write(fixture.blob(&nested_descriptor.digest), &nested)?;
    fixture.write_index(vec![nested_descriptor])?;
    assert_eq!(fixture.resolve("")?.manifest_digest, amd.digest);
    assert_eq!(fixture.resolve(&arm.digest.to_string())?.manifest_digest, arm.digest);
    let wrong = fixture.open()?.resolve(&Selector::Only, &Platform::new("linux", "s390x", ""));
    assert!(matches!(wrong, Err(ReadError::Platform { have, .. }) if have == ["linux/arm64", "linux/amd64"]));

    fixture.write_index(Vec::new())?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::NoImage { .. })));
    Ok(())
}

#[test]
fn attestations_do_not_count_as_images() -> Result {
    let fixture = Fixture::new()?;
    let amd = fixture.image("amd64")?;
    let mut attestation = fixture.image("arm64")?;
    attestation.platform = Some(DescriptorPlatform {
        os: "unknown".into(),
        architecture: "unknown".into(),
        ..DescriptorPlatform::default()
    });
    fixture.write_index(vec![attestation, amd.clone()])?;
    assert_eq!(fixture.resolve("")?.manifest_digest, amd.digest);
    Ok(())
}

#[test]
fn what_is_no_layout_is_refused_with_what_is_missing() -> Result {
    let fixture = Fixture::new()?;
    let refused = |expected: &str| -> Result {
        match fixture.open() {
            Err(ReadError::NotALayout { reason, .. }) if reason.contains(expected) => Ok(()),
            Err(other) => Err(format!("{expected}: {other}").into()),
            Ok(_) => Err(format!("{expected}: opened").into()),
        }
    };
    refused("no index.json")?;
    fixture.write_index(Vec::new())?;
    fs::write(fixture.layout().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#)?;
    refused("version 2.0.0")?;
    fs::write(fixture.layout().join("oci-layout"), "")?;
    refused("version none")?;
    fs::remove_file(fixture.layout().join("oci-layout"))?;
    refused("no oci-layout")?;

    let path = fixture.dir.path().join("file");
    for content in [&b""[..], b"no tar at all", &[0u8; 1024], b"\x1f\x8b broken", b"BZh9 broken"] {
        fs::write(&path, content)?;
        assert!(open_layout(&path, &fixture.store).is_err());
    }
    assert!(matches!(open_layout(Path::new("/nonexistent"), &fixture.store), Err(ReadError::Io { .. })));
    Ok(())
}

#[test]
fn blobs_that_are_not_what_they_should_be_are_refused() -> Result {
    let fixture = Fixture::new()?;
    let amd = fixture.image("amd64")?;
    fixture.write_index(vec![amd.clone()])?;
    let good = fixture.resolve("")?;
    let config = good.manifest.config.digest;
    let bytes = fs::read(fixture.blob(&config))?;

    let mut changed = bytes.clone();
    changed[3] ^= 1;
    fs::write(fixture.blob(&config), &changed)?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::Mismatch { expected, .. }) if expected == config));
    fs::write(fixture.blob(&config), &bytes[1..])?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::Size { .. })));
    fs::remove_file(fixture.blob(&config))?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::MissingBlob { digest, .. }) if digest == config));
    fs::create_dir(fixture.blob(&config))?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::Io { .. })));
    fs::remove_dir(fixture.blob(&config))?;
    fs::write(fixture.blob(&config), &bytes)?;

    let source = fixture.open()?;
    let layer = &good.layers[0];
    for content in [vec![1u8; 1024], vec![0u8; 1023], vec![0u8; 1025]] {
        fs::write(fixture.blob(&layer.digest), content)?;
        let refused = source.copy_blob_into(&fixture.store, layer);
        assert!(matches!(refused, Err(ReadError::Mismatch { .. } | ReadError::Size { .. })));
        assert!(!fixture.store.has_blob(&layer.digest));
    }
    Ok(())
}

#[test]
fn manifests_that_disagree_with_their_config_or_name_no_image_are_refused() -> Result {
    let fixture = Fixture::new()?;
    fixture.write_index(vec![fixture.image("amd64")?])?;
    let good = fixture.resolve("")?;
    let put = |manifest: &Manifest| -> Result {
        let bytes = canonical(manifest)?;
        fs::write(fixture.blob(&Digest::of(&bytes)), &bytes)?;
        fixture.write_index(vec![Descriptor::of(Family::Oci.manifest(), &bytes)])
    };
    let mut manifest = good.manifest.clone();
    manifest.layers.push(manifest.layers[0].clone());
    put(&manifest)?;
    let refused = fixture.resolve("");
    assert!(matches!(refused, Err(ReadError::LayerCount { layers: 2, diff_ids: 1, .. })));
    let mut manifest = good.manifest.clone();
    manifest.config.media_type = "application/vnd.example.chart".into();
    put(&manifest)?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::Document { .. })));

    // An index that names itself cannot exist, but a long chain can.
    let mut descriptor = good.descriptor();
    for _ in 0..=MAX_INDEX_DEPTH {
        let bytes = canonical(&Index::new(vec![descriptor]))?;
        fs::write(fixture.blob(&Digest::of(&bytes)), &bytes)?;
        descriptor = Descriptor::of(Family::Oci.index(), &bytes);
    }
    fixture.write_index(vec![descriptor])?;
    assert!(matches!(fixture.resolve(""), Err(ReadError::TooDeep { .. })));
    Ok(())
}

/// A tar as `docker save` wrote it: one directory a layer, links for layers that repeat.
fn docker_archive(path: &Path, manifest: &str, config: &[u8], gzipped: &[u8]) -> Result {
    let mut tar = ::tar::Builder::new(fs::File::create(path)?);
    let mut add = |name: &str, content: &[u8]| {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content)
    };
    add("config.json", config)?;
    add("one/layer.tar", &[0u8; 1024])?;
    add("zipped.tar", gzipped)?;
    add("manifest.json", manifest.as_bytes())?;
    for (name, target) in [
        ("two/layer.tar", "../one/layer.tar"),
        ("loop", "loop"),
        ("out", "../../../etc/passwd"),
        ("absolute", "/etc/passwd"),
    ] {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, name, target)?;
    }
    Ok(tar.finish()?)
}

#[test]
fn a_docker_archive_with_links_and_compressed_layers_is_read() -> Result {
    let fixture = Fixture::new()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&[0u8; 1024])?;
    let gzipped = gzip.finish()?;
    let empty = DiffId::empty();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{empty}","{empty}","{empty}"]}}}}"#
    );
    let path = fixture.dir.path().join("old.tar");
    let manifest = |layers: &str| {
        format!(r#"[{{"Config":"config.json","RepoTags":["app:1","r.example/b:2"],"Layers":[{layers}]}}]"#)
    };
    let good = manifest(r#""one/layer.tar","./two/layer.tar","zipped.tar""#);
    docker_archive(&path, &good, config.as_bytes(), &gzipped)?;
    let source = open_layout(&path, &fixture.store)?;
    assert_eq!(source.names(), ["docker.io/library/app:1", "r.example/b:2"]);
    for selector in ["", "app:1", "2", "r.example/b:2"] {
        let found = source.resolve(&Selector::parse(selector), &amd64())?;
        assert_eq!(found.manifest.config.digest, Digest::of(config.as_bytes()));
        assert_eq!(found.layers[0].digest, empty.0);
        assert_eq!(found.layers[2].digest, Digest::of(&gzipped));
        for layer in &found.layers {
            source.copy_blob_into(&fixture.store, layer)?;
        }
    }
    assert!(fixture.store.has_blob(&Digest::of(&gzipped)));

    for bad in [
        manifest(r#""one/layer.tar""#),
        manifest(r#""one/layer.tar","one/layer.tar","gone.tar""#),
        manifest(r#""one/layer.tar","one/layer.tar","loop""#),
        manifest(r#""one/layer.tar","one/layer.tar","out""#),
        manifest(r#""one/layer.tar","one/layer.tar","absolute""#),
        manifest(r#""one/layer.tar","one/layer.tar","../../etc/passwd""#),
        good.replace("config.json", "gone.json"),
        "{}".to_owned(),
        "[".to_owned(),
    ] {
        docker_archive(&path, &bad, config.as_bytes(), &gzipped)?;
        assert!(open_layout(&path, &fixture.store).is_err(), "{bad}");
    }
    Ok(())
}

#[test]
fn the_store_resolves_names_and_digests() -> Result {
    let fixture = Fixture::new()?;
    let own = Store::open(&fixture.dir.path().join("own"))?;
    let amd = fixture.image("amd64")?;
    let name = Reference::parse("app")?;
    assert_eq!(from_store(&own, &name, &amd64())?, None);
    own.put_reference("docker.io/library/app:latest", &canonical(&amd)?)?;
    let found = from_store(&own, &name, &amd64())?.ok_or("not found")?;
    assert_eq!(found.manifest_digest, amd.digest);
    assert_eq!(found.layer_refs()[0].diff_id, DiffId::empty());
    let by_digest = Reference { digest: Some(amd.digest), tag: None, ..name.clone() };
    assert_eq!(from_store(&own, &by_digest, &amd64())?, Some(found));
    let unknown = Reference { digest: Some(Digest::of(b"?")), ..by_digest };
    assert_eq!(from_store(&own, &unknown, &amd64())?, None);
    own.put_reference("docker.io/library/app:latest", b"{")?;
    assert!(matches!(from_store(&own, &name, &amd64()), Err(ReadError::Document { .. })));
    Ok(())
}

proptest::proptest! {
    #[test]
    fn a_damaged_archive_is_an_error_or_an_image_but_never_a_panic(
        at in 0usize..9_000, with in proptest::prelude::any::<u8>(), cut in 0usize..9_000,
    ) {
        let Ok(fixture) = Fixture::new() else { return Ok(()) };
        let path = fixture.dir.path().join("a.tar");
        let manifest = r#"[{"Config":"config.json","RepoTags":["app:1"],"Layers":["one/layer.tar"]}]"#;
        let config = format!(r#"{{"os":"linux","rootfs":{{"diff_ids":["{}"]}}}}"#, DiffId::empty());
        let written = docker_archive(&path, manifest, config.as_bytes(), b"");
        proptest::prop_assert!(written.is_ok());
        let mut bytes = fs::read(&path)?;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(4_000)));
        fs::write(&path, bytes)?;
        if let Ok(source) = open_layout(&path, &fixture.store)
            && let Ok(found) = source.resolve(&Selector::Only, &amd64())
        {
            for layer in &found.layers {
                let _ = source.copy_blob_into(&fixture.store, layer);
            }
        }
    }
}
