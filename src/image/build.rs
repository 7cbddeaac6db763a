//! Making an image: config and layers in, manifest out.

use std::collections::BTreeMap;

use serde_json::Map;

use crate::compress::{CompressionAlgorithm, Packing};
use crate::digest::{DiffId, Digest};
use crate::store::{Store, StoreError};

use super::config::{History, ImageConfig, RootFs};
use super::manifest::{
    Descriptor, DescriptorPlatform, MAX_CONFIG_SIZE, MAX_MANIFEST_SIZE, Manifest, ManifestError, canonical,
};
use super::media_type::Family;
use super::platform::Platform;

/// A layer as a manifest needs it. The blob need not be in the store: a base's layer may be known by
/// its descriptor only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// Of the uncompressed tar.
    pub diff_id: DiffId,
    /// Of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// How the blob is compressed.
    pub compression: CompressionAlgorithm,
    /// Annotations of its descriptor.
    pub annotations: BTreeMap<String, String>,
}

/// An image as values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// The config. Its `rootfs` is filled from `layers` when the image is assembled.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// How layers are to be compressed that are listed as plain tars until then, by layer. Empty where all
    /// are listed as they are.
    pub packing: Vec<Option<Packing>>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// An image as bytes; config and manifest are in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Assembled {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// What names it: type, digest, size and platform.
    pub descriptor: Descriptor,
    /// Docker's image ID.
    pub config_digest: Digest,
    /// The layers' descriptors, lowest first.
    pub layers: Vec<Descriptor>,
    /// The family of its media types.
    pub family: Family,
}

/// Why an image could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The history would be misread by other tools.
    #[error("the history lists {history} layers, but the image has {layers}")]
    History {
        /// Entries without `empty_layer`.
        history: usize,
        /// Layers.
        layers: usize,
    },
    /// No registry would take it.
    #[error("the image's {what} has {size} bytes; at most {limit} are allowed")]
    TooLarge {
        /// `config` or `manifest`.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A value has no JSON form.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes the config and the manifest of `image` into the store.
///
/// Fails if the history (unless empty) and the layers disagree in number; see
/// [`normalize_history`] for bases where they do.
pub fn assemble(store: &Store, image: &Image, family: Family) -> Result<Assembled, AssembleError> {
    let (config, manifest) = documents(image, family)?;
    let bytes = canonical(&manifest)?;
    limit("manifest", &bytes, MAX_MANIFEST_SIZE)?;
    let config_digest = store.put_blob(&config)?;
    store.put_blob(&bytes)?;
    Ok(assembled(image, bytes, family.manifest(), config_digest, manifest.layers, family))
}

/// The config's bytes, and the manifest.
pub(super) fn documents(image: &Image, family: Family) -> Result<(Vec<u8>, Manifest), AssembleError> {
    let history = image.config.history.iter().filter(|entry| !entry.empty_layer).count();
    if !image.config.history.is_empty() && history != image.layers.len() {
        return Err(AssembleError::History { history, layers: image.layers.len() });
    }
    let mut config = image.config.clone();
    config.rootfs =
        RootFs { diff_ids: image.layers.iter().map(|layer| layer.diff_id).collect(), ..RootFs::default() };
    let config = canonical(&config)?;
    limit("config", &config, MAX_CONFIG_SIZE)?;
    let layers: Vec<Descriptor> = image
        .layers
        .iter()
        .map(|layer| Descriptor {
            // Docker's manifests have none.
            annotations: match family {
                Family::Oci => layer.annotations.clone(),
                Family::Docker => BTreeMap::new(),
            },
            ..Descriptor::new(family.layer(layer.compression), layer.digest, layer.size)
        })
        .collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: family.manifest().to_owned(),
        artifact_type: None,
        config: Descriptor::of(family.config(), &config),
        layers,
        subject: None,
        annotations: image.annotations.clone(),
        rest: Map::new(),
    };
    Ok((config, manifest))
}

/// An image whose documents are in the store.
pub(super) fn assembled(
    image: &Image,
    manifest: Vec<u8>,
    media_type: &str,
    config_digest: Digest,
    layers: Vec<Descriptor>,
    family: Family,
) -> Assembled {
    let mut descriptor = Descriptor::of(media_type, &manifest);
    descriptor.platform = Some(DescriptorPlatform {
        os_version: image.config.os_version.clone(),
        os_features: image.config.os_features.clone(),
        ..DescriptorPlatform::from(&Platform::new(
            &image.config.os,
            &image.config.architecture,
            &image.config.variant,
        ))
    });
    Assembled { manifest, descriptor, config_digest, layers, family }
}

fn limit(what: &'static str, bytes: &[u8], limit: u64) -> Result<(), AssembleError> {
    let size = bytes.len() as u64;
    if size > limit {
        return Err(AssembleError::TooLarge { what, size, limit });
    }
    Ok(())
}

/// Makes a base's history agree with its number of layers, as BuildKit does: entries
/// too many are marked empty from the oldest on, and for layers without an entry one is added at the
/// end, with the time `created`. Call it before this build's own entries are appended.
pub fn normalize_history(history: &mut Vec<History>, layers: usize, created: Option<&str>) {
    let mut with_layer = history.iter().filter(|entry| !entry.empty_layer).count();
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        if with_layer <= layers {
            break;
        }
        entry.empty_layer = true;
        with_layer -= 1;
    }
    let missing = History {
        created: created.map(str::to_owned),
        comment: "layer without history in the base image".to_owned(),
        ..History::default()
    };
    history.extend(std::iter::repeat_n(missing, layers.saturating_sub(with_layer)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

    #[test]
    fn a_base_with_a_wrong_history_is_put_right() {
        let entry = |name: &str, empty_layer| History {
            created_by: name.to_owned(),
            empty_layer,
            ..History::default()
        };
        let mut history = vec![entry("a", false), entry("b", true), entry("c", false), entry("d", false)];
        normalize_history(&mut history, 2, None);
        let empty: Vec<bool> = history.iter().map(|entry| entry.empty_layer).collect();
        assert_eq!(empty, [true, true, false, false]);
        normalize_history(&mut history, 4, Some("t"));
        assert_eq!(history.len(), 6);
        assert!(history[4..].iter().all(|entry| entry.created.as_deref() == Some("t") && !entry.empty_layer));
        let before = history.clone();
        normalize_history(&mut history, 4, None);
        assert_eq!(history, before);
    }

    fn layer(content: &[u8]) -> LayerRef {
        LayerRef {
            diff_id: DiffId(Digest::of(content)),
            digest: Digest::of(content),
            size: content.len() as u64,
            compression: CompressionAlgorithm::Uncompressed,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn an_assembled_image_refers_to_what_the_store_holds() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let mut image = Image { layers: vec![layer(b"x"), layer(b"y")], ..Image::default() };
        image.config.os = "linux".into();
        image.config.architecture = "arm".into();
        image.config.variant = "v7".into();
        for family in [Family::Oci, Family::Docker] {
            let assembled = assemble(&store, &image, family)?;
            assert_eq!(store.read_blob(&assembled.descriptor.digest)?.as_ref(), Some(&assembled.manifest));
            let manifest = Manifest::parse(&assembled.manifest)?;
            assert_eq!(manifest.config.digest, assembled.config_digest);
            let config = store.read_blob(&assembled.config_digest)?.unwrap_or_default();
            let config: ImageConfig = serde_json::from_slice(&config)?;
            assert_eq!(config.rootfs.diff_ids, [layer(b"x").diff_id, layer(b"y").diff_id]);
            let platform = assembled.descriptor.platform.map(|platform| platform.platform().to_string());
            assert_eq!(platform.as_deref(), Some("linux/arm/v7"));
            assert_eq!(assemble(&store, &image, family)?.manifest, assembled.manifest);
        }
        Ok(())
    }

    #[test]
    fn a_history_of_another_length_is_refused() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let mut image = Image { layers: vec![layer(b"x")], ..Image::default() };
        image.config.history = vec![History::default(), History::default()];
        let refused = assemble(&store, &image, Family::Oci);
        assert!(matches!(refused, Err(AssembleError::History { history: 2, layers: 1 })));
        Ok(())
    }

    #[test]
    fn configs_keep_what_they_do_not_know_and_the_difference_of_null_and_empty() -> Result {
        let text = r#"{"created":"2020-01-01T00:00:00.5Z","architecture":"amd64","os":"linux","config":{"Env":["A=<&>"],"Cmd":[],"Hostname":"h"},"rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x","z":1}],"moby.buildkit.cache.v0":"e30=","b":{"y":1,"x":2}}"#;
        let config: ImageConfig = serde_json::from_str(text)?;
        assert_eq!(config.config.cmd, Some(Vec::new()));
        assert_eq!(config.config.entrypoint, None);
        assert_eq!(String::from_utf8(canonical(&config)?)?, text);
        let nulls = r#"{"architecture":"a","os":"b","config":{"Env":null,"Cmd":null,"Labels":null,"Healthcheck":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config: ImageConfig = serde_json::from_str(nulls)?;
        assert_eq!(config.config, Default::default());
        Ok(())
    }

    proptest! {
        #[test]
        fn configs_survive_their_canonical_form(
            env in prop::collection::vec("\\PC{0,8}", 0..3),
            cmd in prop::option::of(prop::collection::vec("\\PC{0,8}", 0..3)),
            labels in prop::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..3),
            interval in any::<i64>(),
            created in prop::option::of("\\PC{0,8}"),
            empty_layer in any::<bool>(),
        ) {
            let mut config = ImageConfig { created: created.clone(), ..ImageConfig::default() };
            config.config.env = env;
            config.config.cmd = cmd;
            config.config.labels = labels;
            config.config.healthcheck = Some(super::super::Healthcheck { interval, ..Default::default() });
            config.history = vec![History { created, empty_layer, ..History::default() }];
            let bytes = canonical(&config).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let back: ImageConfig =
                serde_json::from_slice(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(&back, &config);
            let again = canonical(&back).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(again, bytes);
        }
    }
}
