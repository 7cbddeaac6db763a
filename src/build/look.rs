//! An image at any place, looked at without fetching more than its documents.

use crate::image::{Descriptor, Manifest, Reference, ResolvedImage};

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::Transfer;

/// What there is to know of an image without its layers.
pub struct Looked {
    /// Its name, where its place has names.
    pub name: Option<Reference>,
    /// What the name means: an index or a manifest.
    pub top: Descriptor,
    /// That index or manifest, as it is.
    pub document: String,
    /// The image for the platform asked for.
    pub image: ResolvedImage,
}

impl Transfer<'_> {
    /// Reads the documents of an image. Nothing is kept.
    pub fn look(&self, place: &Place) -> Result<Looked, Failure> {
        let source = self.open(place)?;
        let read = |descriptor: &Descriptor| {
            source.content.document(descriptor, self.cancel).map_err(|error| {
                Failure::new(FailureKind::Base, format!("cannot read {}: {error}", descriptor.digest))
            })
        };
        let document = read(&source.top)?;
        let chosen = self.select(&source)?;
        let manifest = read(&chosen)?;
        let parsed = Manifest::parse(&manifest).map_err(|error| {
            Failure::new(FailureKind::Base, format!("{} is not an image: {error}", source.content.place()))
        })?;
        let config = self.config(&*source.content, &parsed.config)?;
        let image = ResolvedImage::new(&source.content.place(), manifest, config)?;
        let name = match place {
            Place::Registry(_) | Place::Store(_) => place.name(),
            _ => None,
        };
        Ok(Looked {
            name,
            top: source.top.clone(),
            document: String::from_utf8_lossy(&document).into_owned(),
            image,
        })
    }
}
