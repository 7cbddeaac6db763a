//! Bases that a lock pins, and bases of builds without a network.

use crate::digest::Digest;
use crate::image::{Platform, Reference, ResolvedImage, from_store};
use crate::sources::{self, LockedImage, WantedImage};

use super::bases::{Bases, Origin, Resolved};
use super::failure::{Failure, FailureKind};
use super::request::PullPolicy;

impl Bases {
    /// May an image be looked up, and as what?
    pub(super) fn allowed(&self, reference: &Reference) -> Result<WantedImage, Failure> {
        self.rules.image(reference).map_err(|forbidden| Failure::forbidden(forbidden, FailureKind::Base))
    }

    /// The image that a lock pins. The registry is not asked what the tag means, and not asked at all where the
    /// store has the image.
    pub(super) fn find_pinned(
        &self,
        reference: &Reference,
        pin: &LockedImage,
        platform: &Platform,
    ) -> Result<Resolved, Failure> {
        let pinned = Reference { digest: Some(pin.digest), ..reference.clone() };
        self.rules.saw_image(reference, pin.clone());
        if let Some(found) = self.vendored(reference, Some(pin.digest), platform)? {
            return Ok(found);
        }
        let here = self.pinned_here(reference, &pinned, pin, platform)?;
        let (top, image) = match here {
            Some(image) => (pin.digest, image),
            None if self.rules.is_offline() => return Err(self.would_be_fetched(&pinned, platform)),
            None if self.policy == PullPolicy::Never => {
                let message = format!("{} is not in the store", pinned.familiar());
                return Err(Failure::new(FailureKind::OutOfReach, message)
                    .help("build without --pull=never to fetch it"));
            }
            None => self.look_up(&pinned, platform, None)?,
        };
        if let Some(manifest) = pin.manifest(platform).filter(|manifest| *manifest != image.manifest_digest) {
            let message = format!(
                "the lock has {manifest} for {} on {platform}, but {} there is {}",
                reference.familiar(),
                pin.digest,
                image.manifest_digest
            );
            let help = format!("`rbuild lock --update={}` makes the entry anew", reference.familiar());
            return Err(Failure::new(FailureKind::Lock, message).help(help));
        }
        self.in_registry(&pinned, (top, image))
    }

    /// The image of the vendored layout that a digest or, without one, a name means.
    pub(super) fn vendored(
        &self,
        reference: &Reference,
        digest: Option<Digest>,
        platform: &Platform,
    ) -> Result<Option<Resolved>, Failure> {
        let Some(vendor) = self.rules.vendor() else { return Ok(None) };
        let found = vendor.image(reference, digest.or(reference.digest), platform)?;
        Ok(found.map(|(top, image)| Resolved {
            image,
            top,
            origin: Origin::Layout(vendor.images()),
            named: None,
        }))
    }

    /// The pinned image, as far as the store has it without asking anybody.
    fn pinned_here(
        &self,
        reference: &Reference,
        pinned: &Reference,
        pin: &LockedImage,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, Failure> {
        for name in [pinned, reference] {
            if let Some((pulled, image)) = self.pulled(name, platform)?
                && pulled.top == pin.digest
            {
                return Ok(Some(image));
            }
        }
        let named = crate::image::inspect::stored(&self.store, reference)?;
        if named.is_some_and(|top| top.digest == pin.digest)
            && let Some(image) = from_store(&self.store, reference, platform)?
        {
            return Ok(Some(image));
        }
        let Some(manifest) = pin.manifest(platform).or(Some(pin.digest).filter(|_| pin.platforms.is_empty()))
        else {
            return Ok(None);
        };
        // Pulled or loaded under another name.
        let Some(bytes) = self.store.read_blob(&manifest)? else { return Ok(None) };
        let Ok(parsed) = crate::image::Manifest::parse(&bytes) else { return Ok(None) };
        let Some(config) = self.store.read_blob(&parsed.config.digest)? else { return Ok(None) };
        let Ok(image) = ResolvedImage::new(&pinned.familiar(), bytes, config) else { return Ok(None) };
        // What the index says is not here; a lock that was edited by hand may say anything.
        if !pin.platforms.is_empty() && !platform.accepts(&image.platform) {
            return Ok(None);
        }
        self.note_pulled(pinned, platform, pin.digest, &image)?;
        Ok(Some(image))
    }

    /// The digest of what a name means at its registry; nothing else is fetched.
    pub(super) fn top_of(&self, reference: &Reference) -> Result<Digest, Failure> {
        if let Some(digest) = reference.digest {
            return Ok(digest);
        }
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let registry = self.registry(&reference.domain, &reference.path)?;
        let found = registry.manifest(&reference.path, tag, &self.cancel);
        found.map(|found| found.digest).map_err(|error| self.registry_failure(reference, &error))
    }

    /// Why an image is not there in a build without a network.
    pub(super) fn would_be_fetched(&self, reference: &Reference, platform: &Platform) -> Failure {
        let what = format!("{} ({platform})", reference.familiar());
        Failure::forbidden(sources::offline(&what), FailureKind::Base)
    }

    /// The same of its layers.
    pub(super) fn lacks_layers(&self, reference: &Reference, image: &ResolvedImage) -> Failure {
        let missing: Vec<String> = image
            .layers
            .iter()
            .filter(|layer| !self.store.has_blob(&layer.digest))
            .map(|layer| layer.digest.short())
            .collect();
        let (layers, count) = (missing.join(", "), missing.len());
        let what = match count {
            1 => format!("layer {layers} of {}", reference.familiar()),
            _ => format!("{count} layers of {} ({layers})", reference.familiar()),
        };
        Failure::forbidden(sources::offline(&what), FailureKind::Base)
    }
}
