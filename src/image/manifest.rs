//! Manifests, indexes and descriptors of both families (OCI image-spec; Docker schema 2).
//!
//! Own structs rather than a crate's, because what is hashed must be canonical: fields in the order
//! of the specification's Go types, maps ordered, and fields rbuild does not know kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

use super::config::null_as_default;
use super::media_type::{Family, is_foreign};
use super::platform::Platform;

/// The largest manifest or index accepted, in bytes: what many registries allow.
pub const MAX_MANIFEST_SIZE: u64 = 4 << 20;
/// The largest image config accepted, in bytes.
pub const MAX_CONFIG_SIZE: u64 = 8 << 20;

/// Indexes may nest; deeper than this is an attack or a loop.
pub const MAX_INDEX_DEPTH: u32 = 4;

/// Marks a descriptor in an index that is not an image but refers to one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Why bytes are no manifest or index.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MAX_MANIFEST_SIZE`].
    #[error("the manifest has {0} bytes; at most {MAX_MANIFEST_SIZE} are allowed")]
    TooLarge(u64),
    /// Not JSON, or not of the shape the specification prescribes.
    #[error("the manifest is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// `schemaVersion` is neither 1 nor 2.
    #[error("the manifest has schemaVersion {0}; only 2 is supported")]
    SchemaVersion(u64),
    /// What registries held before 2016.
    #[error(
        "the image has a manifest of Docker's schema 1, which is not supported: push it again with a newer tool"
    )]
    Schema1,
    /// A layer that registries do not hold.
    #[error(
        "layer {0} is non-distributable (foreign, {1}): its content is not in the image, but at {2}; \
         rbuild does not fetch from there"
    )]
    Foreign(Digest, String, String),
    /// It could be read as a manifest and as an index: one digest would name two images.
    #[error("the manifest is ambiguous: it has both \"manifests\" and \"config\" or \"layers\"")]
    Ambiguous,
    /// Of a type that is no image.
    #[error("unsupported media type {0:?}")]
    MediaType(String),
}

/// A reference to a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the blob is.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Other places that have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// For manifests in an index: the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    /// The type of an artifact manifest.
    #[serde(default, rename = "artifactType", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the three required fields.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            rest: Map::new(),
        }
    }

    /// The descriptor of `bytes`.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Whether it is an attestation or another companion of an image, by annotation or platform.
    pub fn is_companion(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }

    /// Whether it names an index.
    pub fn is_index(&self) -> bool {
        Family::of_index(&self.media_type).is_some()
    }
}

/// A platform as descriptors write it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    /// GOARCH name.
    pub architecture: String,
    /// GOOS name.
    pub os: String,
    /// Version of the operating system.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system.
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
    /// CPU variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl DescriptorPlatform {
    /// The normalised platform.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }
}

impl From<&Platform> for DescriptorPlatform {
    fn from(platform: &Platform) -> Self {
        DescriptorPlatform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..Default::default()
        }
    }
}

/// An image manifest: one config, and layers from the lowest up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u64,
    /// Its own type; old OCI manifests leave it out.
    #[serde(default, rename = "mediaType", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact it is, where it is no image.
    #[serde(default, rename = "artifactType", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A list of manifests, usually one a platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Always 2.
    #[serde(rename = "schemaVersion")]
    pub schema_version: u64,
    /// Its own type; old OCI indexes leave it out.
    #[serde(default, rename = "mediaType", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact it is.
    #[serde(default, rename = "artifactType", skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What a manifest digest may turn out to name.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Box<Index>),
}

impl Document {
    /// Parses a manifest or an index; the fields decide which, and the media type must agree.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(default, rename = "schemaVersion")]
            schema_version: u64,
            #[serde(default, rename = "mediaType")]
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        if bytes.len() as u64 > MAX_MANIFEST_SIZE {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        let shape: Shape = serde_json::from_slice(bytes)?;
        if shape.schema_version == 1 {
            return Err(ManifestError::Schema1);
        }
        if shape.schema_version != 2 {
            return Err(ManifestError::SchemaVersion(shape.schema_version));
        }
        let is_index = shape.manifests.is_some();
        if is_index && (shape.config.is_some() || shape.layers.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        if let Some(media_type) = shape.media_type.filter(|text| !text.is_empty()) {
            let family =
                if is_index { Family::of_index(&media_type) } else { Family::of_manifest(&media_type) };
            family.ok_or(ManifestError::MediaType(media_type))?;
        }
        Ok(if is_index {
            Document::Index(Box::new(serde_json::from_slice(bytes)?))
        } else {
            Document::Manifest(Box::new(serde_json::from_slice(bytes)?))
        })
    }
}

impl Manifest {
    /// Parses a manifest; an index is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        match Document::parse(bytes)? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(index) => Err(ManifestError::MediaType(index.media_type)),
        }
    }

    /// Refuses layers whose content is elsewhere.
    pub fn check_foreign(&self) -> Result<(), ManifestError> {
        match self.layers.iter().find(|layer| is_foreign(&layer.media_type)) {
            None => Ok(()),
            Some(layer) => {
                let urls =
                    if layer.urls.is_empty() { "no known place".into() } else { layer.urls.join(", ") };
                Err(ManifestError::Foreign(layer.digest, layer.media_type.clone(), urls))
            }
        }
    }

    /// The same image in another family: the bytes of config and layers stay, their types change.
    pub fn retyped(&self, family: Family) -> Result<Manifest, ManifestError> {
        let mut manifest = self.clone();
        manifest.media_type = family.manifest().to_owned();
        manifest.config.media_type = family.retype(&self.config.media_type)?.to_owned();
        for layer in &mut manifest.layers {
            layer.media_type = family.retype(&layer.media_type)?.to_owned();
        }
        Ok(manifest)
    }
}

impl Index {
    /// An index of the OCI family.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Index {
            schema_version: 2,
            media_type: Family::Oci.index().to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            rest: Map::new(),
        }
    }

    /// Its images: all but what is there for another entry's sake.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|descriptor| !descriptor.is_companion())
    }

    /// The platforms that its images state.
    pub fn stated(&self) -> impl Iterator<Item = Platform> {
        self.images().filter_map(|descriptor| descriptor.platform.as_ref().map(DescriptorPlatform::platform))
    }

    /// The images that state a platform which serves `wanted`, the best first.
    pub fn serving(&self, wanted: &Platform) -> Vec<&Descriptor> {
        let rank = |image: &Descriptor| wanted.rank(&image.platform.as_ref()?.platform());
        let mut fitting: Vec<_> = self.images().filter_map(|image| Some((rank(image)?, image))).collect();
        fitting.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        fitting.into_iter().map(|(_, image)| image).collect()
    }

    /// The platforms of its images, for messages.
    pub fn platforms(&self) -> Vec<String> {
        self.images()
            .map(|descriptor| match &descriptor.platform {
                Some(platform) => platform.platform().to_string(),
                None => "(no platform given)".to_owned(),
            })
            .collect()
    }
}

/// The canonical bytes of anything that is hashed.
pub fn canonical(value: &impl Serialize) -> Result<Vec<u8>, ManifestError> {
    Ok(serde_json::to_vec(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    fn manifest_text(digest: &str, size: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{digest}","size":{size}}},"layers":[]}}"#,
            Family::Oci.config()
        )
    }

    #[test]
    fn malformed_manifests_are_refused() {
        let good = manifest_text(&format!("sha256:{HEX}"), "1");
        assert!(Manifest::parse(good.as_bytes()).is_ok());
        let deep =
            good.replace("\"layers\"", &format!("\"x\":{}{},\"layers\"", "[".repeat(200), "]".repeat(200)));
        for bad in [
            String::new(),
            "null".into(),
            "[]".into(),
            good[..good.len() - 1].into(),
            format!("{good}x"),
            deep,
            manifest_text("sha256:../../etc/passwd", "1"),
            manifest_text(&format!("sha256:{}", HEX.to_uppercase()), "1"),
            manifest_text(&format!("sha256:{HEX}"), "-1"),
            manifest_text(&format!("sha256:{HEX}"), "1.5"),
            manifest_text(&format!("sha256:{HEX}"), "\"1\""),
            good.replace("\"schemaVersion\":2", "\"schemaVersion\":1"),
            good.replace("\"schemaVersion\":2,", ""),
            good.replace("\"layers\":[]", "\"layers\":[],\"manifests\":[]"),
            good.replace("{\"schema", "{\"mediaType\":\"text/plain\",\"schema"),
            good.replace("{\"schema", &format!("{{\"mediaType\":\"{}\",\"schema", Family::Oci.index())),
            format!("{good}{}", " ".repeat(MAX_MANIFEST_SIZE as usize)),
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(300)]);
        }
    }

    #[test]
    fn retyping_changes_types_only_and_back_again() -> Result<(), ManifestError> {
        use crate::compress::CompressionAlgorithm::{Gzip, Uncompressed, Zstd};
        let mut manifest = Manifest::parse(manifest_text(&format!("sha256:{HEX}"), "7").as_bytes())?;
        manifest.media_type = Family::Oci.manifest().into();
        let layers = [Gzip, Zstd, Uncompressed].map(|compression| Family::Oci.layer(compression));
        let foreign = Family::Oci.retype("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")?;
        for media_type in layers.into_iter().chain([foreign]) {
            manifest.layers.push(Descriptor::of(media_type, media_type.as_bytes()));
        }
        let docker = manifest.retyped(Family::Docker)?;
        let bytes = String::from_utf8_lossy(&canonical(&docker)?).into_owned();
        assert!(!bytes.contains("oci") && bytes.contains("diff.tar.zstd"), "{bytes}");
        assert_eq!(docker.retyped(Family::Docker)?, docker);
        assert_eq!(docker.retyped(Family::Oci)?, manifest);
        manifest.layers.push(Descriptor::of("application/vnd.in-toto+json", b"x"));
        assert!(matches!(manifest.retyped(Family::Docker), Err(ManifestError::MediaType(_))));
        Ok(())
    }

    #[test]
    fn an_index_serves_its_images_but_never_its_attestations() {
        let entry = |platform: &str, content: &[u8]| {
            let mut descriptor = Descriptor::of(Family::Oci.manifest(), content);
            descriptor.platform = Platform::parse(platform).ok().as_ref().map(DescriptorPlatform::from);
            descriptor
        };
        let amd64 = Platform::new("linux", "amd64", "");
        let mut attestation = entry("linux/amd64", b"a");
        attestation.annotations.insert(REFERENCE_TYPE.into(), "attestation-manifest".into());
        let index = Index::new(vec![
            attestation,
            entry("unknown/unknown", b"b"),
            entry("linux/arm64", b"c"),
            entry("linux/amd64", b"d"),
        ]);
        let serving = |platform: &Platform| -> Vec<Digest> {
            index.serving(platform).iter().map(|found| found.digest).collect()
        };
        assert_eq!(serving(&amd64), [Digest::of(b"d")]);
        assert_eq!(serving(&Platform::new("linux", "s390x", "")), []);
        assert_eq!(index.platforms(), ["linux/arm64", "linux/amd64"]);
    }

    fn descriptors() -> impl Strategy<Value = Descriptor> {
        (
            any::<[u8; 32]>(),
            any::<u64>(),
            prop::collection::btree_map("[a-z.]{0,6}", "\\PC{0,6}", 0..3),
            prop::option::of("[a-z0-9]{1,6}"),
            prop::collection::vec("\\PC{0,6}", 0..2),
            prop::option::of(any::<i64>()),
        )
            .prop_map(|(raw, size, annotations, architecture, urls, extra)| {
                let mut descriptor =
                    Descriptor::new(Family::Docker.layer(Default::default()), Digest::from_raw(raw), size);
                descriptor.annotations = annotations;
                descriptor.platform =
                    architecture.map(|name| DescriptorPlatform::from(&Platform::new("linux", &name, "v9")));
                descriptor.urls = urls;
                descriptor.rest =
                    extra.map(|number| ("x-extra".to_owned(), number.into())).into_iter().collect();
                descriptor
            })
    }

    proptest! {
        #[test]
        fn manifests_and_indexes_survive_their_canonical_form(
            config in descriptors(),
            layers in prop::collection::vec(descriptors(), 0..4),
            annotations in prop::collection::btree_map("\\PC{0,6}", "\\PC{0,6}", 0..3),
        ) {
            let mut index = Index::new(layers.clone());
            index.annotations = annotations.clone();
            let manifest = Manifest {
                schema_version: 2,
                media_type: Family::Docker.manifest().to_owned(),
                artifact_type: None,
                subject: Some(config.clone()),
                config,
                layers,
                annotations,
                rest: [("y".to_owned(), Value::Null)].into_iter().collect(),
            };
            let bytes = canonical(&manifest).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let back = Manifest::parse(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(&back, &manifest);
            let again = canonical(&back).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(again, bytes);
            let bytes = canonical(&index).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let back = Document::parse(&bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(back, Document::Index(Box::new(index)));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Document::parse(&bytes);
        }
    }
}
