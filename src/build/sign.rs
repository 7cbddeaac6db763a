//! Signing images and checking their signatures, wherever they are.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::attest::attach::{EMPTY_CONFIG, REFERENCE_DIGEST};
use crate::attest::sign::{
    self, BUNDLE, BUNDLE_CONTENT, BUNDLE_PREDICATE, COSIGN_SIGN, SIGNATURE_ANNOTATION, SIMPLE_SIGNING,
    Signer, Verifier,
};
use crate::attest::{MAX_STATEMENT, PAYLOAD_TYPE, PREDICATE_ANNOTATION};
use crate::digest::Digest;
use crate::export::{self, ExportImage};
use crate::image::manifest::canonical;
use crate::image::{Descriptor, Document, Family, Manifest, Reference};
use crate::registry::{Content, PushReport, RegistryError, StoreContent};

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::{Source, Transfer};

/// A bundle has its statement in base64.
const MAX_BUNDLE: u64 = 2 * MAX_STATEMENT;
/// Signatures of one image that are looked at; more is an attack or a mistake.
const MOST: usize = 1_000;

/// What a key vouches for.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What the name means: an index or a manifest.
    pub top: Descriptor,
    /// The image for the platform asked for.
    pub image: Descriptor,
    /// How many signatures are the key's.
    pub signatures: usize,
    /// Statements about the image that the key vouches for: signed themselves, or part of a signed index.
    pub statements: Vec<Value>,
    /// Why some of what is attached to the image could not be read. Anybody who may write there can attach something,
    /// so it takes nothing away from the rest.
    pub unread: Vec<String>,
}

impl Transfer<'_> {
    /// Signs what a place holds, in cosign's forms: in a registry under its tag and as a bundle that is a referrer, in
    /// a layout as a bundle. Attestations in the index and among the referrers become bundles too. Gives what was
    /// signed, and how many bundles there are.
    pub fn sign(&self, place: &Place, key: &Signer) -> Result<(Descriptor, usize), Failure> {
        if !matches!(place, Place::Registry(_) | Place::Layout(..)) {
            let message = format!("signatures cannot be kept in {}:", place.transport());
            return Err(Failure::new(FailureKind::Unsupported, message)
                .help("sign in a registry, docker://NAME, or in a layout, oci-layout:DIR"));
        }
        let source = self.open(place)?;
        let more = self.listed(&*source.content, &source.top.digest, Some(PAYLOAD_TYPE))?;
        let bundles = self.bundles(&*source.content, &source.top, &more, key)?;
        match place {
            Place::Registry(name) => self.send_signatures(name, &source.top, &bundles, key)?,
            Place::Layout(path, _) => {
                let image = |one: &Descriptor| ExportImage {
                    descriptor: one.clone(),
                    names: Vec::new(),
                    created: None,
                };
                let images: Vec<ExportImage> = bundles.iter().map(image).collect();
                export::oci::write_directory(self.store, &images, path, self.cancel)?;
            }
            _ => {}
        }
        Ok((source.top.clone(), bundles.len()))
    }

    /// Sends an image of the store, what is attached to it as referrers, and signatures of both by `key`. The tag comes
    /// last: whoever follows it finds all of them, and where one is refused it stays what it was. What is signed is
    /// what the store has, and not what the registry says that the tag means.
    pub fn publish_with(
        &self,
        name: &Reference,
        top: &Descriptor,
        attached: &[Descriptor],
        key: Option<&Signer>,
        by_digest: bool,
    ) -> Result<PushReport, Failure> {
        let tag_is_late = !by_digest && (key.is_some() || !attached.is_empty());
        let report = self.publish(name, top, by_digest || tag_is_late)?;
        for referrer in attached {
            self.publish(name, referrer, true)?;
        }
        if let Some(key) = key {
            self.sign_pushed(name, top, attached, key)?;
        }
        if tag_is_late {
            self.publish(name, top, false)?;
        }
        Ok(report)
    }

    /// Signs what was just pushed from the store, with its attestations. `more` are those that are referrers.
    fn sign_pushed(
        &self,
        name: &Reference,
        top: &Descriptor,
        more: &[Descriptor],
        key: &Signer,
    ) -> Result<(), Failure> {
        let bundles = self.bundles(&StoreContent::new(self.store, self.access), top, more, key)?;
        self.send_signatures(name, top, &bundles, key)
    }

    /// Bundles in the store: one that signs `top`, and one for each statement about it and its images.
    pub(super) fn bundles(
        &self,
        content: &dyn Content,
        top: &Descriptor,
        more: &[Descriptor],
        key: &Signer,
    ) -> Result<Vec<Descriptor>, Failure> {
        let statement = sign::image_statement(&top.digest).to_string();
        let mut all = vec![self.bundle(top, statement.as_bytes(), COSIGN_SIGN, key)?];
        let index = match self.document(content, top)? {
            Document::Index(index) => index.manifests,
            Document::Manifest(_) => Vec::new(),
        };
        for entry in index.iter().filter(|entry| entry.is_companion()).chain(more) {
            let Document::Manifest(manifest) = self.document(content, entry)? else { continue };
            let about = entry.annotations.get(REFERENCE_DIGEST).and_then(|text| Digest::parse(text).ok());
            let listed = index.iter().find(|one| Some(one.digest) == about).cloned();
            let Some(subject) = manifest.subject.clone().or(listed) else { continue };
            for layer in manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD_TYPE) {
                let statement = self.small_blob(content, layer, MAX_STATEMENT)?;
                let kind = layer.annotations.get(PREDICATE_ANNOTATION).cloned().unwrap_or_default();
                all.push(self.bundle(&subject, &statement, &kind, key)?);
            }
        }
        Ok(all)
    }

    fn bundle(
        &self,
        subject: &Descriptor,
        statement: &[u8],
        predicate_type: &str,
        key: &Signer,
    ) -> Result<Descriptor, Failure> {
        let bundle = sign::bundle(statement, key).to_string().into_bytes();
        self.store.put_blob(&bundle)?;
        let config = Descriptor::of(EMPTY_CONFIG, b"{}");
        self.store.put_blob(b"{}")?;
        let annotations = [(BUNDLE_CONTENT, "dsse-envelope"), (BUNDLE_PREDICATE, predicate_type)];
        let mut manifest = manifest(config, vec![Descriptor::of(BUNDLE, &bundle)]);
        manifest.artifact_type = Some(BUNDLE.to_owned());
        manifest.subject = Some(Descriptor::new(&subject.media_type, subject.digest, subject.size));
        manifest.annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let made = self.put(&manifest)?;
        Ok(Descriptor { artifact_type: manifest.artifact_type, annotations: manifest.annotations, ..made })
    }

    fn put(&self, manifest: &Manifest) -> Result<Descriptor, Failure> {
        let bytes =
            canonical(manifest).map_err(|error| Failure::new(FailureKind::Output, error.to_string()))?;
        self.store.put_blob(&bytes)?;
        Ok(Descriptor::of(Family::Oci.manifest(), &bytes))
    }

    fn send_signatures(
        &self,
        name: &Reference,
        top: &Descriptor,
        bundles: &[Descriptor],
        key: &Signer,
    ) -> Result<(), Failure> {
        let content = StoreContent::new(self.store, self.access);
        let tag = sign::signature_tag(&top.digest);
        let at = Reference { tag: Some(tag), digest: None, ..name.clone() };
        let payload = sign::simple_signing(&name.repository(), &top.digest);
        let mut layer = Descriptor::of(SIMPLE_SIGNING, &payload);
        layer.annotations.insert(SIGNATURE_ANNOTATION.into(), STANDARD.encode(key.sign(&payload)));
        self.store.put_blob(&payload)?;
        // Others may have signed before.
        let mut layers = self.signature_layers(&at)?;
        if !layers.contains(&layer) {
            layers.push(layer);
            let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
            let config = sign::signature_config(&digests).to_string().into_bytes();
            self.store.put_blob(&config)?;
            let made = self.put(&manifest(Descriptor::of(Family::Oci.config(), &config), layers))?;
            self.send(&content, &made, &at, false)?;
        }
        for bundle in bundles {
            let to = Reference { tag: None, digest: Some(bundle.digest), ..name.clone() };
            self.send(&content, bundle, &to, true)?;
        }
        Ok(())
    }

    /// The layers of the manifest under cosign's tag; none where there is none.
    fn signature_layers(&self, at: &Reference) -> Result<Vec<Descriptor>, Failure> {
        let fail = |error: RegistryError| {
            self.failure(FailureKind::Base, "get the signatures of", &at.familiar(), &error)
        };
        let registry = self.access.open(&at.domain, &at.path).map_err(fail)?;
        let tag = at.tag.as_deref().unwrap_or_default();
        match registry.manifest(&at.path, tag, self.cancel) {
            Ok(found) => Ok(Manifest::parse(&found.bytes).map(|found| found.layers).unwrap_or_default()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(fail(error)),
        }
    }

    /// Looks for signatures by a key, of what the place's name means or of the image for the transfer's platform. What
    /// nobody signed is not among the statements.
    pub fn verify(&self, place: &Place, key: &Verifier) -> Result<Verified, Failure> {
        let source = self.open(place)?;
        let image = self.select(&source)?;
        let top = source.top.clone();
        let (mut signatures, mut top_is_signed, mut statements) = (0, false, Vec::new());
        let mut unread = Vec::new();
        let subjects: BTreeSet<Digest> = [top.digest, image.digest].into();
        for subject in &subjects {
            let (mut found, opened) = self.opened_bundles(&source, subject, key, &mut unread)?;
            if let Place::Registry(name) = place {
                found += self.simple_signatures(&source, name, subject, key, &mut unread)?;
            }
            signatures += found;
            top_is_signed |= found > 0 && *subject == top.digest;
            statements.extend(opened);
        }
        if top_is_signed {
            let listed = self.statements_of_index(&source, &image)?;
            // Those that are signed bundles too are the same statements.
            statements.extend(listed.into_iter().filter(|one| !statements.contains(one)).collect::<Vec<_>>());
        }
        let names = |statement: &Value| {
            let about = statement["subject"].as_array().into_iter().flatten();
            about
                .filter_map(|one| one["digest"]["sha256"].as_str())
                .any(|hex| Digest::from_hex(hex).is_some_and(|digest| subjects.contains(&digest)))
        };
        statements.retain(names);
        Ok(Verified { top, image, signatures, statements, unread })
    }

    /// How many bundles sign a manifest, and the statements about it that bundles have.
    fn opened_bundles(
        &self,
        source: &Source,
        subject: &Digest,
        key: &Verifier,
        unread: &mut Vec<String>,
    ) -> Result<(usize, Vec<Value>), Failure> {
        let content = &*source.content;
        let (mut signatures, mut statements) = (0, Vec::new());
        let hex = subject.hex();
        for entry in self.listed(content, subject, Some(BUNDLE))?.iter().take(MOST) {
            let document = self.unless_stopped(self.document(content, entry), unread)?;
            let Some(Document::Manifest(manifest)) = document else { continue };
            for layer in manifest.layers.iter().filter(|layer| layer.media_type == BUNDLE) {
                let bytes = self.unless_stopped(self.small_blob(content, layer, MAX_BUNDLE), unread)?;
                let Some(bytes) = bytes else { continue };
                let Some(statement) = sign::opened(&bytes, key) else { continue };
                let mut about = statement["subject"].as_array().into_iter().flatten();
                if !about.any(|one| one["digest"]["sha256"] == hex.as_str()) {
                    continue;
                }
                match statement["predicateType"].as_str() {
                    Some(COSIGN_SIGN) => signatures += 1,
                    _ => statements.push(statement),
                }
            }
        }
        Ok((signatures, statements))
    }

    fn simple_signatures(
        &self,
        source: &Source,
        name: &Reference,
        subject: &Digest,
        key: &Verifier,
        unread: &mut Vec<String>,
    ) -> Result<usize, Failure> {
        let at = Reference { tag: Some(sign::signature_tag(subject)), digest: None, ..name.clone() };
        let mut count = 0;
        for layer in self.signature_layers(&at)?.iter().take(MOST) {
            let Some(signature) = layer.annotations.get(SIGNATURE_ANNOTATION) else { continue };
            if layer.media_type == SIMPLE_SIGNING {
                let payload = self.small_blob(&*source.content, layer, MAX_STATEMENT);
                let Some(payload) = self.unless_stopped(payload, unread)? else { continue };
                count += usize::from(sign::simply_signed(&payload, signature, subject, key));
            }
        }
        Ok(count)
    }

    /// `None` for what could not be read, which is noted; an error where the user ends it.
    fn unless_stopped<T>(
        &self,
        read: Result<T, Failure>,
        unread: &mut Vec<String>,
    ) -> Result<Option<T>, Failure> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(failure) if self.cancel.is_cancelled() => Err(failure),
            Err(failure) => {
                unread.push(failure.message);
                Ok(None)
            }
        }
    }
}

fn manifest(config: Descriptor, layers: Vec<Descriptor>) -> Manifest {
    Manifest {
        schema_version: 2,
        media_type: Family::Oci.manifest().to_owned(),
        artifact_type: None,
        config,
        layers,
        subject: None,
        annotations: Default::default(),
        rest: Map::new(),
    }
}
