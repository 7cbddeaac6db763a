//! Pulling from a real registry.

#[path = "support/registry.rs"]
mod registry;

use std::error::Error;
use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rbuild::cancel::Cancel;
use rbuild::digest::Digest;
use rbuild::registry::{BlobReader, Credentials, Fault, Registry, RegistryError, RegistryOptions, Roots};
use rbuild::store::Store;
use registry::{Setup, TestRegistry};

type Outcome = Result<(), Box<dyn Error>>;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an image of one layer and gives manifest, layer and their digests.
fn push_image(server: &TestRegistry, layer: &[u8]) -> Result<(Vec<u8>, Digest), Box<dyn Error>> {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config_digest = server.push_blob("team/app", config)?;
    let digest = server.push_blob("team/app", layer)?;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
        config.len(),
        layer.len()
    );
    server.push_manifest("team/app", "1.0", MANIFEST_TYPE, manifest.as_bytes())?;
    Ok((manifest.into_bytes(), digest))
}

fn layer() -> Vec<u8> {
    (0..3_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn an_image_arrives_as_it_was_pushed() -> Outcome {
    let Some(server) = TestRegistry::start()? else { return Ok(()) };
    let layer = layer();
    let (manifest, digest) = push_image(&server, &layer)?;
    let (cancel, dir) = (Cancel::new()?, tempfile::tempdir()?);
    let store = Store::open(&dir.path().join("store"))?;
    let registry = Registry::new(server.host(), &RegistryOptions::default())?;

    let head = registry.head_manifest("team/app", "1.0", &cancel)?.ok_or("it was pushed")?;
    assert_eq!((head.digest, head.size), (Some(Digest::of(&manifest)), Some(manifest.len() as u64)));
    for reference in ["1.0", &Digest::of(&manifest).to_string()] {
        let found = registry.manifest("team/app", reference, &cancel)?;
        assert_eq!((&found.bytes, found.media_type.as_str()), (&manifest, MANIFEST_TYPE));
    }

    let last = AtomicU64::new(0);
    let progress = |bytes| last.store(bytes, Ordering::Relaxed);
    registry.pull_blob("team/app", &digest, layer.len() as u64, &store, &progress, &cancel)?;
    assert_eq!(last.into_inner(), layer.len() as u64);
    assert_eq!(store.read_blob(&digest)?.as_deref(), Some(layer.as_slice()));

    let mut streamed = Vec::new();
    registry.open_blob("team/app", &digest, layer.len() as u64, &cancel)?.read_to_end(&mut streamed)?;
    assert!(streamed == layer);
    Ok(())
}

#[test]
fn what_is_missing_is_told_in_the_registrys_words() -> Outcome {
    let Some(server) = TestRegistry::start()? else { return Ok(()) };
    let cancel = Cancel::new()?;
    let registry = Registry::new(server.host(), &RegistryOptions::default())?;
    assert_eq!(registry.head_manifest("team/none", "1.0", &cancel)?, None);
    let error = registry.manifest("team/none", "1.0", &cancel).err().ok_or("it is not there")?;
    let text = error.to_string();
    assert!(error.is_not_found() && text.contains("MANIFEST_UNKNOWN"), "{text}");
    let blob =
        registry.open_blob("team/none", &Digest::of(b"x"), 1, &cancel).err().ok_or("it is not there")?;
    assert!(blob.is_not_found(), "{blob}");
    Ok(())
}

#[test]
fn a_blob_spoiled_in_the_registry_is_refused() -> Outcome {
    let Some(server) = TestRegistry::start()? else { return Ok(()) };
    let layer = layer();
    let (_, digest) = push_image(&server, &layer)?;
    let mut spoiled = layer.clone();
    spoiled[1_000_000] ^= 1;
    std::fs::write(server.blob_file(&digest), spoiled)?;
    let (cancel, dir) = (Cancel::new()?, tempfile::tempdir()?);
    let store = Store::open(&dir.path().join("store"))?;
    let registry = Registry::new(server.host(), &RegistryOptions::default())?;
    let size = layer.len() as u64;
    let pulled = registry.pull_blob("team/app", &digest, size, &store, &|_| {}, &cancel);
    assert!(matches!(pulled, Err(RegistryError::Mismatch { .. })), "{pulled:?}");
    assert!(!store.has_blob(&digest));
    let mut reader = registry.open_blob("team/app", &digest, size, &cancel)?;
    let error = std::io::copy(&mut reader, &mut std::io::sink()).err().ok_or("the bytes are wrong")?;
    assert!(matches!(BlobReader::cause(error), Ok(RegistryError::Mismatch { .. })));
    Ok(())
}

#[test]
fn a_password_opens_a_closed_registry() -> Outcome {
    let Some(server) = TestRegistry::with(Setup { password: true, ..Setup::default() })? else {
        return Ok(());
    };
    let (manifest, _) = push_image(&server, b"layer")?;
    let (cancel, dir) = (Cancel::new()?, tempfile::tempdir()?);
    let credentials = Credentials::DockerConfig(dir.path().to_owned());
    let options = RegistryOptions { credentials, ..RegistryOptions::default() };
    let closed = Registry::new(server.host(), &options)?.manifest("team/app", "1.0", &cancel);
    let text = closed.err().ok_or("it is closed")?.to_string();
    assert!(text.contains("401") && text.contains("rbuild login") && text.contains("config.json"), "{text}");
    server.sign_in(dir.path())?;
    let found = Registry::new(server.host(), &options)?.manifest("team/app", "1.0", &cancel)?;
    assert_eq!(found.bytes, manifest);
    Ok(())
}

#[test]
fn https_works_with_a_known_authority_and_unverified_on_loopback() -> Outcome {
    let Some(server) = TestRegistry::with(Setup { tls: true, ..Setup::default() })? else { return Ok(()) };
    let (manifest, _) = push_image(&server, b"layer")?;
    let cancel = Cancel::new()?;
    let unverified = Registry::new(server.host(), &RegistryOptions::default())?;
    assert_eq!(unverified.manifest("team/app", "1.0", &cancel)?.bytes, manifest);

    // A mirror written with https:// is verified even on loopback; the registry behind it is closed.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mirrors = vec![format!("https://{}", server.host()).into()];
    let roots = Roots::File(server.certificate());
    let trusting = RegistryOptions { mirrors: mirrors.clone(), roots, ..RegistryOptions::default() };
    assert_eq!(Registry::new(&nobody, &trusting)?.manifest("team/app", "1.0", &cancel)?.bytes, manifest);
    let doubting = RegistryOptions { mirrors, roots: Roots::Bundled, ..RegistryOptions::default() };
    let refused = Registry::new(&nobody, &doubting)?.manifest("team/app", "1.0", &cancel);
    assert!(
        matches!(&refused, Err(RegistryError::Unreachable(found)) if found.fault == Fault::Refused),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn many_threads_share_one_client() -> Outcome {
    let Some(server) = TestRegistry::start()? else { return Ok(()) };
    let blobs: Vec<Vec<u8>> = (0..12u8).map(|n| vec![n; 300_000 + usize::from(n)]).collect();
    let digests =
        blobs.iter().map(|blob| server.push_blob("team/app", blob)).collect::<Result<Vec<_>, _>>()?;
    let (cancel, dir) = (Cancel::new()?, tempfile::tempdir()?);
    let store = Store::open(&dir.path().join("store"))?;
    let registry = Registry::new(server.host(), &RegistryOptions::default())?;
    std::thread::scope(|scope| {
        let pull = |(blob, digest): (&Vec<u8>, Digest)| {
            let (registry, store, cancel, size) = (registry.clone(), &store, &cancel, blob.len() as u64);
            scope.spawn(move || registry.pull_blob("team/app", &digest, size, store, &|_| {}, cancel))
        };
        let pulls: Vec<_> = blobs.iter().zip(digests.iter().copied()).map(pull).collect();
        pulls.into_iter().try_for_each(|pull| pull.join().unwrap_or(Err(RegistryError::Cancelled)))
    })?;
    assert!(digests.iter().all(|digest| store.has_blob(digest)));
    Ok(())
}

#[test]
fn a_mirror_serves_what_the_registry_has() -> Outcome {
    let Some(origin) = TestRegistry::start()? else { return Ok(()) };
    let (manifest, digest) = push_image(&origin, b"layer")?;
    let mirror = TestRegistry::with(Setup { proxy_of: Some(origin.host().to_owned()), ..Setup::default() })?;
    let Some(mirror) = mirror else { return Ok(()) };
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let options = RegistryOptions { mirrors: vec![mirror.host().into()], ..RegistryOptions::default() };
    let registry = Registry::new(&nobody, &options)?;
    let cancel = Cancel::new()?;
    assert_eq!(registry.manifest("team/app", "1.0", &cancel)?.bytes, manifest);
    assert_eq!(registry.blob("team/app", &digest, 5, &cancel)?, b"layer");
    Ok(())
}
