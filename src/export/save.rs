//! `rbuild save`: named images of the store in one archive.

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::manifest::{DescriptorPlatform, canonical};
use crate::image::{Descriptor, Document, Family, Platform, ReadError, Reference, ResolvedImage, from_store};
use crate::store::Store;

use super::dest::Dest;
use super::error::ExportError;
use super::layout::{ExportImage, Layout};
use super::{docker, oci};

/// Writes images of the store into one archive of the given family.
///
/// A multi-platform image is saved whole as OCI if all of it is in the store; otherwise, and always
/// for the docker family, which knows no platforms, the image for `platform`. Manifests of the other
/// family are re-typed, which changes their digest but not the image ID or any layer.
pub fn save(
    store: &Store,
    names: &[Reference],
    dest: &Dest,
    family: Family,
    platform: &Platform,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let mut images: Vec<ExportImage> = Vec::new();
    for name in names {
        let missing = || ExportError::NoImage { name: name.clone().with_default_tag().familiar() };
        let digest = super::pack(store, name, cancel)?.ok_or_else(missing)?;
        let image = find(store, name, &digest, family, platform)?;
        let known = images.iter_mut().find(|known| known.descriptor.digest == image.descriptor.digest);
        let Some(known) = known else {
            images.push(image);
            continue;
        };
        for name in image.names {
            if !known.names.contains(&name) {
                known.names.push(name);
            }
        }
    }
    match family {
        Family::Oci => oci::write_archive(store, &images, dest, cancel),
        Family::Docker => docker::write_archive(store, &images, dest, cancel),
    }
}

fn find(
    store: &Store,
    name: &Reference,
    digest: &Digest,
    family: Family,
    platform: &Platform,
) -> Result<ExportImage, ExportError> {
    let name = name.clone().with_default_tag();
    let missing = || ExportError::NoImage { name: name.familiar() };
    let names = if name.tag.is_some() { vec![name.clone()] } else { Vec::new() };
    if family == Family::Oci
        && let Some(descriptor) = whole_index(store, digest)?
    {
        return Ok(ExportImage { descriptor, names, created: None });
    }
    let image = match from_store(store, &Reference::of_digest(*digest), platform) {
        Err(source @ ReadError::Platform { .. }) => {
            return Err(ExportError::Platform { name: name.familiar(), source: Box::new(source) });
        }
        other => other?.ok_or_else(missing)?,
    };
    let descriptor = in_family(store, &image, family)?;
    Ok(ExportImage { descriptor, names, created: image.config.created.clone() })
}

/// The descriptor of an index of which nothing is missing; `None` for anything else.
fn whole_index(store: &Store, digest: &crate::digest::Digest) -> Result<Option<Descriptor>, ExportError> {
    let Some(bytes) = store.read_blob(digest)? else { return Ok(None) };
    let Ok(Document::Index(index)) = Document::parse(&bytes) else { return Ok(None) };
    let media_type = if index.media_type.is_empty() { Family::Oci.index() } else { &index.media_type };
    let descriptor = Descriptor::new(media_type, *digest, bytes.len() as u64);
    let image = ExportImage { descriptor: descriptor.clone(), names: Vec::new(), created: None };
    match Layout::collect(store, &[image]) {
        Ok(_) => Ok(Some(descriptor)),
        Err(ExportError::MissingBlob { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn in_family(store: &Store, image: &ResolvedImage, family: Family) -> Result<Descriptor, ExportError> {
    let mut descriptor = image.descriptor();
    if Family::of_manifest(&descriptor.media_type) != Some(family) {
        let bytes = canonical(&image.manifest.retyped(family)?)?;
        store.put_blob(&bytes)?;
        descriptor = Descriptor::of(family.manifest(), &bytes);
    }
    descriptor.platform = Some(DescriptorPlatform::from(&image.platform));
    Ok(descriptor)
}
