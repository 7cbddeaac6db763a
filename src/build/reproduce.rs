//! Building twice to see whether the result is the same.

use std::io;
use std::time::Duration;

use crate::attest::AttestOptions;
use crate::cancel::Cancel;
use crate::event::Events;
use crate::image::read::StoreBlobs;
use crate::image::{Descriptor, Document, Manifest, ResolvedImage};
use crate::verify::{self, Comparison};

use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::request::{BuildOutcome, BuildRequest, OutputKind};

/// Without a fixed epoch both builds must not fall into the same second, which would hide every time
/// that they write.
const APART: Duration = Duration::from_millis(1100);

/// What two builds of one request made.
#[derive(Clone, Debug)]
pub struct Reproduced {
    /// The second build; it is the one that is named and written.
    pub outcome: BuildOutcome,
    /// The first build's manifest or index.
    pub first: Descriptor,
    /// That of the second.
    pub second: Descriptor,
    /// For each platform, how its images differ.
    pub images: Vec<(String, Comparison)>,
}

impl Reproduced {
    /// Whether both builds gave the same bytes.
    pub fn is_same(&self) -> bool {
        self.first.digest == self.second.digest
    }
}

/// The same build, of which nothing remains but what it leaves in the store.
fn without_results(request: &BuildRequest) -> BuildRequest {
    let mut out = BuildRequest {
        tags: Vec::new(),
        cache_to: Vec::new(),
        attest: AttestOptions::default(),
        sign: None,
        ..request.clone()
    };
    // As it is part of the image.
    out.cache_to.extend(request.cache_to.iter().filter(|target| target.is_inline()).cloned());
    for output in &mut out.outputs {
        output.kind = OutputKind::CacheOnly;
        output.push = false;
        // As the image itself has its layers, whatever other outputs want.
        output.compression = Some(request.compression());
    }
    out
}

impl Engine {
    /// Builds twice, every step executed, and compares the images. Tags and outputs are those of the
    /// second build; where provenance is asked for, of a third one from the cache, which claims what was found.
    pub fn verify_reproducible(
        &self,
        request: &BuildRequest,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<Reproduced, Failure> {
        if &*request.context == "-" || request.dockerfile.as_deref() == Some("-") {
            let message = "standard input cannot be read twice: give a directory and a Dockerfile";
            return Err(Failure::new(FailureKind::Usage, message));
        }
        if request.outputs_on_stdout() > 0 {
            let message = "the report goes to standard output: give outputs a file as their dest";
            return Err(Failure::new(FailureKind::Usage, message));
        }
        let mut second =
            BuildRequest { no_cache: true, wants_id: true, wants_manifest: true, ..request.clone() };
        let attested = BuildRequest { no_cache: false, ..second.clone() };
        let first = without_results(&second);
        // What is claimed is known only when both have been compared.
        let claims = request.attests_images() || request.attest.is_asked_for();
        if claims {
            second = first.clone();
        }
        let one = self.build(&first, &mut io::empty(), events, cancel)?;
        if request.source_date_epoch.is_none() && !request.reproducible {
            std::thread::sleep(APART);
        }
        let two = self.build(&second, &mut io::empty(), events, cancel)?;
        let (Some(first), Some(second)) = (one.image, two.image.clone()) else {
            return Err(Failure::new(FailureKind::Build, "there is no image to compare"));
        };
        let (Some(first), Some(second)) = (first.descriptor, second.descriptor) else {
            return Err(Failure::new(FailureKind::Build, "there is no manifest to compare"));
        };
        let (old, new) = (self.images_of(&first)?, self.images_of(&second)?);
        let mut images = Vec::new();
        for (old, new) in old.iter().zip(&new) {
            images.push((new.platform.to_string(), verify::compare(&self.store, old, new)?));
        }
        let mut reproduced = Reproduced { first, second, outcome: two, images };
        if claims {
            let mut attested = attested;
            if let Some(provenance) = &mut attested.attest.provenance {
                provenance.reproducible = reproduced.is_same();
            }
            reproduced.outcome = self.build(&attested, &mut io::empty(), events, cancel)?;
        }
        Ok(reproduced)
    }

    /// The image of a manifest, or all of an index, from the store.
    fn images_of(&self, top: &Descriptor) -> Result<Vec<ResolvedImage>, Failure> {
        let missing = |top: &Descriptor| {
            Failure::new(FailureKind::Store, format!("the store has no blob {}", top.digest))
        };
        let bytes = self.store.read_blob(&top.digest)?.ok_or_else(|| missing(top))?;
        let bad = |error: crate::image::ManifestError| Failure::new(FailureKind::Store, error.to_string());
        match Document::parse(&bytes).map_err(bad)? {
            Document::Index(index) => {
                let images = index.manifests.iter().filter(|child| !child.is_companion());
                let lists = images.map(|child| self.images_of(child)).collect::<Result<Vec<_>, _>>()?;
                Ok(lists.into_iter().flatten().collect())
            }
            Document::Manifest(manifest) => {
                let Manifest { config, .. } = *manifest;
                let config_bytes = self.store.read_blob(&config.digest)?.ok_or_else(|| missing(&config))?;
                use crate::image::read::BlobSource as _;
                let place = StoreBlobs(&self.store).place();
                Ok(vec![ResolvedImage::new(&place, bytes, config_bytes)?])
            }
        }
    }
}
