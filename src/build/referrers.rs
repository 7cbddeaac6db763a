//! Images together with what refers to them: signatures, bills of materials, attestations.

use std::collections::BTreeSet;

use crate::digest::Digest;
use crate::image::manifest::MAX_INDEX_DEPTH;
use crate::image::{Descriptor, Document, Family, Reference};
use crate::registry::{Content, RegistryError};

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::{Transfer, parse};

/// Referrers of referrers are followed so far.
const MOST_LEVELS: u32 = 8;
/// Entries of lists that are looked at for one image, whether they turn out to be referrers or not; more is
/// an attack or a mistake.
const MOST: usize = 1_000;
/// Bytes of the manifests of all referrers of one image; their annotations are kept until all are found.
const MOST_BYTES: u64 = 64 << 20;

/// What [`Transfer::referrers`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferrerList {
    /// The manifest or index that was asked about.
    pub subject: Descriptor,
    /// Those that refer to it, as the place lists them.
    pub referrers: Vec<Descriptor>,
}

impl Transfer<'_> {
    /// Lists what refers to the manifest or index at a place; only what is of `artifact_type` where given.
    /// With a platform, of the image for it.
    pub fn referrers(&self, place: &Place, artifact_type: Option<&str>) -> Result<ReferrerList, Failure> {
        listable(place)?;
        let source = self.open(place)?;
        let subject = self.select(&source)?;
        let referrers = self.listed(&*source.content, &subject.digest, artifact_type)?;
        Ok(ReferrerList { subject, referrers })
    }

    /// As [`Transfer::copy`], with everything that refers to what is copied, and what refers to that. Gives
    /// how many manifests that were. In a registry they come after the image and before its tag: who sees the
    /// image sees its signatures. In a layout they are entries without a name.
    pub fn copy_with_referrers(&self, from: &Place, to: &Place) -> Result<(Descriptor, usize), Failure> {
        listable(from)?;
        let source = self.open(from)?;
        let top = self.select(&source)?;
        let content = &*source.content;
        match to {
            Place::Registry(name) => {
                let found = self.all_referrers(content, &top)?;
                // Some registries take no referrer before its subject; the tag comes last for those who look.
                let unnamed = [&top].into_iter().filter(|_| !found.is_empty()).chain(&found);
                for one in unnamed {
                    let name = Reference { tag: None, digest: Some(one.digest), ..name.clone() };
                    self.send(content, one, &name, true)?;
                }
                self.send(content, &top, name, false)?;
                Ok((top, found.len()))
            }
            Place::Layout(path, _) | Place::OciArchive(path, _) => {
                let found = self.all_referrers(content, &top)?;
                if !found.is_empty() && Family::of_manifest(&top.media_type) == Some(Family::Docker) {
                    let message = format!(
                        "--referrers: {} has Docker's media types and gets another digest in an OCI layout, so that \
                         its referrers would refer to nothing there",
                        top.digest
                    );
                    return Err(Failure::new(FailureKind::Unsupported, message)
                        .help("copy to a registry, or without --referrers"));
                }
                for one in [&top].into_iter().chain(&found) {
                    self.fetch(
                        content,
                        one,
                        format!("copying to {} {}", path.display(), one.digest.short()),
                    )?;
                }
                let name = to.name().or_else(|| from.name());
                Ok((self.write(&top, &found, to, path, name)?, found.len()))
            }
            _ => Err(holds_none(to)),
        }
    }

    pub(super) fn listed(
        &self,
        content: &dyn Content,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Failure> {
        content.referrers(subject, artifact_type, self.cancel).map_err(|error| {
            self.failure(FailureKind::Base, "list the referrers of", &subject.to_string(), &error)
        })
    }

    /// Everything that refers to `top`, of manifests below it, or of something found before; each once,
    /// subjects before what refers to them.
    fn all_referrers(&self, content: &dyn Content, top: &Descriptor) -> Result<Vec<Descriptor>, Failure> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        let (mut looked, mut bytes) = (0, 0);
        let mut subjects = Vec::new();
        self.subjects(content, top, &mut seen, &mut subjects, 0)?;
        for level in 0..=MOST_LEVELS {
            let mut next = Vec::new();
            for subject in &subjects {
                let mut entries = self.listed(content, subject, None)?;
                entries.retain(|entry| !seen.contains(&entry.digest));
                if level == MOST_LEVELS && !entries.is_empty() {
                    let why = format!("they refer to each other more than {MOST_LEVELS} times over");
                    return Err(too_many(top, &why));
                }
                looked += entries.len();
                if looked > MOST {
                    return Err(too_many(top, &format!("there are more than {MOST}")));
                }
                for entry in entries {
                    if seen.contains(&entry.digest) {
                        continue;
                    }
                    let Some(referrer) = self.referrer(content, subject, &entry)? else { continue };
                    bytes += referrer.size;
                    if bytes > MOST_BYTES {
                        let why = format!("their manifests have more than {MOST_BYTES} bytes");
                        return Err(too_many(top, &why));
                    }
                    self.subjects(content, &referrer, &mut seen, &mut next, 0)?;
                    found.push(referrer);
                }
            }
            subjects = next;
        }
        Ok(found)
    }

    /// The digests of a manifest or index and of the manifests below it.
    fn subjects(
        &self,
        content: &dyn Content,
        descriptor: &Descriptor,
        seen: &mut BTreeSet<Digest>,
        subjects: &mut Vec<Digest>,
        depth: u32,
    ) -> Result<(), Failure> {
        if depth > MAX_INDEX_DEPTH || !seen.insert(descriptor.digest) {
            return Ok(());
        }
        subjects.push(descriptor.digest);
        if Family::of_manifest(&descriptor.media_type).is_some() {
            return Ok(());
        }
        let bytes = content.document(descriptor, self.cancel).map_err(|error| {
            self.failure(FailureKind::Base, "read", &descriptor.digest.to_string(), &error)
        })?;
        if let Document::Index(index) = parse(&content.place(), &bytes)? {
            for child in &index.manifests {
                self.subjects(content, child, seen, subjects, depth + 1)?;
            }
        }
        Ok(())
    }

    /// The descriptor of a listed referrer, after looking at it. Lists that clients keep may name what
    /// was deleted since, or anything else: that is told and left out.
    fn referrer(
        &self,
        content: &dyn Content,
        subject: &Digest,
        entry: &Descriptor,
    ) -> Result<Option<Descriptor>, Failure> {
        let left_out = |why: &str| {
            let (digest, place) = (entry.digest, content.place());
            self.events.warn(format!(
                "{place} lists {digest} as a referrer of {subject}, but {why}; it is left out"
            ));
            Ok(None)
        };
        let bytes = match content.document(entry, self.cancel) {
            Ok(bytes) => bytes,
            Err(RegistryError::Rejected(answer)) if answer.status == 404 => {
                return left_out("does not have it");
            }
            Err(error) => {
                return Err(self.failure(FailureKind::Base, "read", &entry.digest.to_string(), &error));
            }
        };
        let document = match Document::parse(&bytes) {
            Ok(document) => document,
            Err(error) => return left_out(&error.to_string()),
        };
        match document.subject() {
            Some(found) if found.digest == *subject => Ok(Some(document.listed(&bytes))),
            _ => left_out("that refers to something else"),
        }
    }
}

fn too_many(top: &Descriptor, why: &str) -> Failure {
    Failure::new(FailureKind::Base, format!("the referrers of {} are not copied: {why}", top.digest))
}

/// Refuses places that know no referrers.
fn listable(place: &Place) -> Result<(), Failure> {
    match place {
        Place::Registry(_) | Place::Store(_) | Place::Layout(..) | Place::OciArchive(..) => Ok(()),
        Place::DockerArchive(..) | Place::Engine(_) | Place::Containers(_) => Err(holds_none(place)),
    }
}

fn holds_none(place: &Place) -> Failure {
    let message = match place {
        Place::Store(_) => {
            "referrers cannot be copied to store: (it keeps what has a name, and they have none)".to_owned()
        }
        _ => format!("{}: holds no referrers", place.transport()),
    };
    Failure::new(FailureKind::Unsupported, message).help(
        "referrers can be in docker://NAME, oci:DIR and oci-archive:FILE, and are read from store:NAME too",
    )
}
