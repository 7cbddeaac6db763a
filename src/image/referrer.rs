//! Manifests that refer to another one: signatures, bills of materials, attestations (OCI image
//! specification 1.1, `subject`).

use super::manifest::{Descriptor, Document};
use super::media_type::Family;
use super::read::{IMAGE_NAME, REF_NAME};

/// `artifactType` of BuildKit's attestation manifests.
pub const ATTESTATION_MANIFEST: &str = "application/vnd.docker.attestation.manifest.v1+json";

impl Document {
    /// The manifest in whose list of referrers clients keep this one where the registry does not. Attestations that an
    /// index lists are found there.
    pub fn listed_under(&self) -> Option<&Descriptor> {
        self.subject().filter(|_| self.artifact_type() != Some(ATTESTATION_MANIFEST))
    }

    /// The manifest that this one refers to.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Document::Manifest(manifest) => manifest.subject.as_ref(),
            Document::Index(index) => index.subject.as_ref(),
        }
    }

    /// Its media type, also where it does not say one.
    pub fn media_type(&self) -> &str {
        let (own, default) = match self {
            Document::Manifest(manifest) => (&manifest.media_type, Family::Oci.manifest()),
            Document::Index(index) => (&index.media_type, Family::Oci.index()),
        };
        if own.is_empty() { default } else { own }
    }

    /// What it says that it is: its own `artifactType`, else, of a manifest, the type of its config, as
    /// the distribution specification ("Listing Referrers") prescribes.
    pub fn artifact_type(&self) -> Option<&str> {
        let given = |text: &&str| !text.is_empty();
        match self {
            Document::Manifest(manifest) => manifest
                .artifact_type
                .as_deref()
                .filter(given)
                .or(Some(manifest.config.media_type.as_str()).filter(given)),
            Document::Index(index) => index.artifact_type.as_deref().filter(given),
        }
    }

    /// Whether it is a manifest of something else than an image: its config is no image's.
    pub fn is_artifact(&self) -> bool {
        match self {
            Document::Manifest(manifest) => !Family::is_config(&manifest.config.media_type),
            Document::Index(_) => false,
        }
    }

    /// The entry that lists of referrers have for this document, whose bytes are given: with its
    /// artifact type and its annotations. Names are left out: in a layout they would name it.
    pub fn listed(&self, bytes: &[u8]) -> Descriptor {
        let annotations = match self {
            Document::Manifest(manifest) => &manifest.annotations,
            Document::Index(index) => &index.annotations,
        };
        let mut entry = Descriptor::of(self.media_type(), bytes);
        entry.artifact_type = self.artifact_type().map(str::to_owned);
        entry.annotations = annotations.clone();
        entry.annotations.retain(|key, _| key != REF_NAME && key != IMAGE_NAME);
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    fn read(more: &str, config: &str) -> Result<(Document, Descriptor), super::super::ManifestError> {
        let text = format!(
            r#"{{"schemaVersion":2{more},"config":{{"mediaType":"{config}","digest":"{DIGEST}","size":2}},"layers":[]}}"#
        );
        let document = Document::parse(text.as_bytes())?;
        let listed = document.listed(text.as_bytes());
        Ok((document, listed))
    }

    #[test]
    fn an_entry_says_what_the_manifest_is() -> Result<(), super::super::ManifestError> {
        let empty = "application/vnd.oci.empty.v1+json";
        let subject = format!(r#","subject":{{"mediaType":"x","digest":"{DIGEST}","size":7}}"#);
        let named = format!(r#","artifactType":"a/b"{subject},"annotations":{{"k":"v","{REF_NAME}":"1"}}"#);
        let (document, listed) = read(&named, empty)?;
        assert!(document.is_artifact());
        assert_eq!(document.subject().map(|subject| subject.size), Some(7));
        assert_eq!(listed.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(listed.annotations.keys().collect::<Vec<_>>(), ["k"]);
        assert_eq!(listed.media_type, Family::Oci.manifest());

        let (document, listed) = read("", "application/vnd.example.config")?;
        assert!(document.is_artifact() && document.subject().is_none());
        assert_eq!(listed.artifact_type.as_deref(), Some("application/vnd.example.config"));

        for family in [Family::Oci, Family::Docker] {
            assert!(!read(&subject, family.config())?.0.is_artifact());
        }
        let index = Document::parse(br#"{"schemaVersion":2,"manifests":[]}"#)?;
        assert_eq!((index.artifact_type(), index.is_artifact()), (None, false));
        Ok(())
    }
}
