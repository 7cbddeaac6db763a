//! Statements beside their image: BuildKit's attestation manifests (moby/buildkit,
//! `docs/attestations/attestation-storage.md`), and OCI referrers (image specification 1.1, `subject`).

use serde_json::{Map, json};

use crate::image::manifest::{DescriptorPlatform, ManifestError, canonical};
use crate::image::{Descriptor, Family, Manifest, referrer};
use crate::store::{Store, StoreError};

use super::statement::{MAX_STATEMENT, PAYLOAD_TYPE, PREDICATE_ANNOTATION, Statement, Subject};

/// What the entry of an index is that is no image.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The image that such an entry belongs to.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// The value of [`REFERENCE_TYPE`].
pub const ATTESTATION_MANIFEST: &str = "attestation-manifest";
/// The config of artifacts, which have none.
pub const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// The form of an attestation manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An artifact with a subject, listed in the index.
    Artifact,
    /// What BuildKit wrote before 2026 (`oci-artifact=false`): a manifest with the config of an image, without a
    /// subject.
    Legacy,
    /// Found by its subject alone.
    Referrer,
}

/// Why statements could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// More than readers take.
    #[error("the attestation {0} has {1} bytes; at most {MAX_STATEMENT} are allowed")]
    TooLarge(String, u64),
    /// A value has no JSON form.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes statements about `subjects` and their manifest into the store. The descriptor is the entry of the index, or
/// of the list of referrers. `image` is the manifest of the image.
pub fn attach(
    store: &Store,
    image: &Descriptor,
    statements: &[Statement],
    subjects: &[Subject],
    form: Form,
) -> Result<Descriptor, AttachError> {
    let mut layers = Vec::new();
    for statement in statements {
        let bytes = canonical(&statement.about(subjects))?;
        let size = bytes.len() as u64;
        if size > MAX_STATEMENT {
            return Err(AttachError::TooLarge(statement.predicate_type.clone(), size));
        }
        store.put_blob(&bytes)?;
        let mut layer = Descriptor::of(PAYLOAD_TYPE, &bytes);
        layer.annotations.insert(PREDICATE_ANNOTATION.into(), statement.predicate_type.clone());
        layers.push(layer);
    }
    let config = match form {
        Form::Artifact | Form::Referrer => {
            let mut config = Descriptor::of(EMPTY_CONFIG, b"{}");
            store.put_blob(b"{}")?;
            config.data = Some("e30=".into());
            config
        }
        Form::Legacy => {
            let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
            let config = json!({
                "architecture": "unknown", "os": "unknown", "config": {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            });
            let bytes = canonical(&config)?;
            store.put_blob(&bytes)?;
            Descriptor::of(Family::Oci.config(), &bytes)
        }
    };
    let artifact_type = match form {
        Form::Artifact => Some(referrer::ATTESTATION_MANIFEST),
        Form::Referrer => Some(PAYLOAD_TYPE),
        Form::Legacy => None,
    };
    let subject = Descriptor::new(&image.media_type, image.digest, image.size);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Family::Oci.manifest().to_owned(),
        artifact_type: artifact_type.map(str::to_owned),
        config,
        layers,
        subject: artifact_type.map(|_| subject),
        annotations: Default::default(),
        rest: Map::new(),
    };
    let bytes = canonical(&manifest)?;
    store.put_blob(&bytes)?;
    let mut entry = Descriptor::of(Family::Oci.manifest(), &bytes);
    if form == Form::Referrer {
        entry.artifact_type = Some(PAYLOAD_TYPE.into());
        return Ok(entry);
    }
    entry.annotations.insert(REFERENCE_DIGEST.into(), image.digest.to_string());
    entry.annotations.insert(REFERENCE_TYPE.into(), ATTESTATION_MANIFEST.into());
    entry.platform = Some(DescriptorPlatform {
        architecture: "unknown".into(),
        os: "unknown".into(),
        ..DescriptorPlatform::default()
    });
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

    fn attached(form: Form) -> Result<(Descriptor, Value, Value)> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let image = Descriptor::of(Family::Oci.manifest(), b"image");
        let statement = Statement {
            predicate_type: "https://spdx.dev/Document".into(),
            predicate: json!({"a": 1}),
            file: "sbom.json".into(),
            inline_only: false,
        };
        let subject = Subject { name: "pkg:docker/a@1".into(), digest: image.digest };
        let entry = attach(&store, &image, &[statement], &[subject], form)?;
        let manifest: Value = serde_json::from_slice(&store.read_blob(&entry.digest)?.ok_or("manifest")?)?;
        let layer = crate::digest::Digest::parse(manifest["layers"][0]["digest"].as_str().ok_or("layer")?)?;
        let statement = serde_json::from_slice(&store.read_blob(&layer)?.ok_or("statement")?)?;
        Ok((entry, manifest, statement))
    }

    #[test]
    fn an_entry_of_an_index_is_what_buildkit_writes() -> Result {
        let (entry, manifest, statement) = attached(Form::Artifact)?;
        let image = Descriptor::of(Family::Oci.manifest(), b"image");
        assert_eq!(entry.annotations[REFERENCE_TYPE], "attestation-manifest");
        assert_eq!(entry.annotations[REFERENCE_DIGEST], image.digest.to_string());
        assert!(entry.is_companion());
        assert_eq!(json!(entry)["platform"], json!({"architecture": "unknown", "os": "unknown"}));
        assert_eq!(manifest["artifactType"], referrer::ATTESTATION_MANIFEST);
        assert_eq!(manifest["subject"]["digest"], image.digest.to_string());
        assert_eq!(manifest["config"]["mediaType"], EMPTY_CONFIG);
        assert_eq!(manifest["config"]["data"], "e30=");
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], PAYLOAD_TYPE);
        assert_eq!(layer["annotations"], json!({PREDICATE_ANNOTATION: "https://spdx.dev/Document"}));
        assert_eq!(statement["_type"], super::super::STATEMENT_TYPE);
        assert_eq!(
            statement["subject"],
            json!([{"name": "pkg:docker/a@1", "digest": {"sha256": image.digest.hex()}}])
        );
        assert_eq!(statement["predicate"], json!({"a": 1}));
        Ok(())
    }

    #[test]
    fn the_legacy_form_looks_like_an_image() -> Result {
        let (entry, manifest, _) = attached(Form::Legacy)?;
        assert!(entry.is_companion());
        assert_eq!(manifest["config"]["mediaType"], Family::Oci.config());
        assert_eq!((&manifest["subject"], &manifest["artifactType"]), (&Value::Null, &Value::Null));
        Ok(())
    }

    #[test]
    fn a_referrer_has_a_subject_and_no_platform() -> Result {
        let (entry, manifest, _) = attached(Form::Referrer)?;
        assert_eq!((entry.platform, entry.annotations.len()), (None, 0));
        assert_eq!(entry.artifact_type.as_deref(), Some(PAYLOAD_TYPE));
        assert!(manifest["subject"]["digest"].is_string());
        Ok(())
    }
}
