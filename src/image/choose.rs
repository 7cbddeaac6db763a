//! From an index to the image that serves a platform best. One way for stores, layouts and registries.

use std::cell::Cell;

use super::config::ImageConfig;
use super::manifest::{
    Descriptor, DescriptorPlatform, Document, Index, MAX_INDEX_DEPTH, Manifest, ManifestError,
};
use super::media_type::Family;
use super::platform::Platform;

/// Manifests and configs read to choose one image; more is an attack or a mistake.
const MAX_DOCUMENTS: u32 = 256;

/// The documents of an image are read as different things from registries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A manifest or an index.
    Manifest,
    /// The config of an image.
    Config,
}

/// The image for a platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// As the index lists it, or as it was asked for.
    pub descriptor: Descriptor,
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
}

/// Why no image was chosen.
#[derive(Debug)]
pub enum ChooseError<E> {
    /// A document could not be read.
    Read(E),
    /// A document is unusable.
    Document {
        /// Which: `manifest DIGEST` or `config DIGEST`.
        what: String,
        /// Why.
        source: ManifestError,
    },
    /// There are images, but none for the platform. Theirs are listed.
    Platform(Vec<String>),
    /// Indexes nested deeper than [`MAX_INDEX_DEPTH`].
    TooDeep,
    /// Too many documents would have to be read.
    TooMany,
}

impl<E> ChooseError<E> {
    /// What to tell of it, or the error of whoever read.
    pub fn explained(self, platform: &Platform) -> Result<String, E> {
        Ok(match self {
            ChooseError::Read(error) => return Err(error),
            ChooseError::Document { what, source } => format!("{what}: {source}"),
            ChooseError::Platform(have) if have.is_empty() => {
                format!("no match for platform {platform} in manifest; it has no image")
            }
            ChooseError::Platform(have) => {
                format!("no match for platform {platform} in manifest; it has {}", have.join(", "))
            }
            ChooseError::TooDeep => format!("indexes are nested deeper than {MAX_INDEX_DEPTH} levels"),
            ChooseError::TooMany => format!("more than {MAX_DOCUMENTS} documents would have to be read"),
        })
    }
}

/// Follows `top` through indexes to the image that serves `platform` best. An image that is in no index is
/// taken as it is: whoever asked compares its platform.
///
/// Entries that state a platform come first. Only if none of them fits are those without one looked into, as
/// containerd does it: the platform of an image is then what its config says.
pub fn choose<E>(
    top: &Descriptor,
    platform: &Platform,
    read: impl Fn(&Descriptor, Part) -> Result<Vec<u8>, E>,
) -> Result<Chosen, ChooseError<E>> {
    let search = Search { platform, read: &read, left: Cell::new(MAX_DOCUMENTS) };
    search.follow(top, 0).map(|found| found.0)
}

struct Search<'a, E> {
    platform: &'a Platform,
    read: &'a dyn Fn(&Descriptor, Part) -> Result<Vec<u8>, E>,
    left: Cell<u32>,
}

impl<E> Search<'_, E> {
    /// The image and, if an index said so, the platform it is for.
    fn follow(&self, at: &Descriptor, depth: u32) -> Result<(Chosen, Option<Platform>), ChooseError<E>> {
        if depth > MAX_INDEX_DEPTH {
            return Err(ChooseError::TooDeep);
        }
        let bytes = self.read(at, Part::Manifest)?;
        let document = Document::parse(&bytes)
            .map_err(|source| ChooseError::Document { what: format!("manifest {}", at.digest), source })?;
        match document {
            Document::Index(index) => self.index(&index, depth),
            Document::Manifest(manifest) => {
                Ok((Chosen { descriptor: at.clone(), manifest: *manifest, bytes }, None))
            }
        }
    }

    fn index(&self, index: &Index, depth: u32) -> Result<(Chosen, Option<Platform>), ChooseError<E>> {
        for entry in index.serving(self.platform) {
            let stated = entry.platform.as_ref().map(DescriptorPlatform::platform);
            match self.follow(entry, depth + 1) {
                Ok((chosen, own)) => return Ok((chosen, own.or(stated))),
                // An index may promise more than it has.
                Err(ChooseError::Platform(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut have: Vec<String> = index.stated().map(|platform| platform.to_string()).collect();
        let (mut best, mut undetermined): (Option<(u32, Chosen, Platform)>, _) = (None, None);
        for entry in index.images().filter(|entry| entry.platform.is_none()) {
            let (chosen, own) = match self.follow(entry, depth + 1) {
                Ok((chosen, Some(stated))) => (chosen, stated),
                Ok((chosen, None)) => match self.config_platform(&chosen.manifest)? {
                    Some(own) => (chosen, own),
                    None => {
                        have.push("(no platform given)".to_owned());
                        undetermined = Some(chosen);
                        continue;
                    }
                },
                Err(ChooseError::Platform(inner)) => {
                    have.extend(inner);
                    continue;
                }
                // Anything may be listed without a platform.
                Err(ChooseError::Document { source: ManifestError::MediaType(_), .. }) => continue,
                Err(error) => return Err(error),
            };
            have.push(own.to_string());
            let Some(rank) = self.platform.rank(&own) else { continue };
            if best.as_ref().is_none_or(|(best, ..)| rank > *best) {
                best = Some((rank, chosen, own));
            }
            // There is none better.
            if rank == u32::MAX {
                break;
            }
        }
        match (best, undetermined) {
            (Some((_, chosen, own)), _) => Ok((chosen, Some(own))),
            // A single image that says nothing anywhere is like one without an index.
            (None, Some(chosen)) if have.len() == 1 => Ok((chosen, None)),
            _ => Err(ChooseError::Platform(have)),
        }
    }

    /// What a config says; `None` where it says nothing, or is none of an image.
    fn config_platform(&self, manifest: &Manifest) -> Result<Option<Platform>, ChooseError<E>> {
        if !Family::is_config(&manifest.config.media_type) {
            return Ok(None);
        }
        let bytes = self.read(&manifest.config, Part::Config)?;
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|error| ChooseError::Document {
            what: format!("config {}", manifest.config.digest),
            source: error.into(),
        })?;
        let silent = config.os.is_empty() || config.architecture.is_empty();
        Ok((!silent).then(|| Platform::new(&config.os, &config.architecture, &config.variant)))
    }

    fn read(&self, descriptor: &Descriptor, part: Part) -> Result<Vec<u8>, ChooseError<E>> {
        let left = self.left.get().checked_sub(1).ok_or(ChooseError::TooMany)?;
        self.left.set(left);
        (self.read)(descriptor, part).map_err(ChooseError::Read)
    }
}
