//! The attestations of an image, wherever both are.

use std::io::Read as _;

use serde_json::Value;

use crate::attest::attach::{ATTESTATION_MANIFEST, REFERENCE_DIGEST, REFERENCE_TYPE};
use crate::attest::{MAX_STATEMENT, PAYLOAD_TYPE};
use crate::digest::Digest;
use crate::image::{Descriptor, Document};
use crate::registry::Content;

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::{Source, Transfer, parse};

/// Statements of one image that are read; more is an attack or a mistake.
const MOST: usize = 256;

/// The statements about one image, unsigned.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The index or manifest at the place.
    pub top: Descriptor,
    /// The manifest of the image.
    pub image: Descriptor,
    /// In-toto statements.
    pub statements: Vec<Value>,
}

impl Transfer<'_> {
    /// Reads the statements about the image for the transfer's platform: those of the index it is listed in, and those
    /// that are its referrers.
    pub fn attested(&self, place: &Place) -> Result<Attested, Failure> {
        let source = self.open(place)?;
        let image = self.select(&source)?;
        let mut manifests = self.attestation_manifests(&source, &image)?;
        manifests.extend(self.listed(&*source.content, &image.digest, Some(PAYLOAD_TYPE))?);
        let statements = self.read_statements(&source, &image, manifests)?;
        Ok(Attested { top: source.top.clone(), image, statements })
    }

    /// The statements about an image that are part of the index it is listed in.
    pub(super) fn statements_of_index(
        &self,
        source: &Source,
        image: &Descriptor,
    ) -> Result<Vec<Value>, Failure> {
        self.read_statements(source, image, self.attestation_manifests(source, image)?)
    }

    fn read_statements(
        &self,
        source: &Source,
        image: &Descriptor,
        manifests: Vec<Descriptor>,
    ) -> Result<Vec<Value>, Failure> {
        let mut statements = Vec::new();
        for manifest in manifests {
            let Document::Manifest(manifest) = self.document(&*source.content, &manifest)? else { continue };
            for layer in manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD_TYPE) {
                if statements.len() == MOST {
                    let message = format!("{} has more than {MOST} attestations", image.digest);
                    return Err(Failure::new(FailureKind::Base, message));
                }
                let bytes = self.small_blob(&*source.content, layer, MAX_STATEMENT)?;
                let statement = serde_json::from_slice(&bytes).map_err(|error| {
                    let message = format!("the attestation {} is no JSON: {error}", layer.digest);
                    Failure::new(FailureKind::Base, message)
                })?;
                statements.push(statement);
            }
        }
        Ok(statements)
    }

    fn attestation_manifests(&self, source: &Source, image: &Descriptor) -> Result<Vec<Descriptor>, Failure> {
        let content = &*source.content;
        let mut all = Vec::new();
        if let Document::Index(index) = self.document(content, &source.top)? {
            let digest = image.digest.to_string();
            let about = |entry: &&Descriptor| {
                entry.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == ATTESTATION_MANIFEST)
                    && entry.annotations.get(REFERENCE_DIGEST) == Some(&digest)
            };
            all.extend(index.manifests.iter().filter(about).cloned());
        }
        Ok(all)
    }

    pub(super) fn document(
        &self,
        content: &dyn Content,
        descriptor: &Descriptor,
    ) -> Result<Document, Failure> {
        let bytes = content.document(descriptor, self.cancel).map_err(|error| {
            self.failure(FailureKind::Base, "read", &descriptor.digest.to_string(), &error)
        })?;
        parse(&content.place(), &bytes)
    }

    /// A blob of at most `limit` bytes, verified.
    pub(super) fn small_blob(
        &self,
        content: &dyn Content,
        blob: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, Failure> {
        let wrong = |why: String| {
            let message = format!("cannot read {} of {}: {why}", blob.digest, content.place());
            Failure::new(FailureKind::Base, message)
        };
        if blob.size > limit {
            return Err(wrong(format!("it has {} bytes; at most {limit} are read", blob.size)));
        }
        let opened = content.open(blob, 0, self.cancel).map_err(|error| wrong(error.to_string()))?;
        let mut bytes = Vec::new();
        opened.take(limit + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
        if bytes.len() as u64 > limit {
            return Err(wrong(format!("it has more than the {} bytes that its descriptor names", blob.size)));
        }
        if bytes.len() as u64 != blob.size || Digest::of(&bytes) != blob.digest {
            return Err(wrong("its content does not have that digest".into()));
        }
        Ok(bytes)
    }
}
