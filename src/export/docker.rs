//! Docker archives: `type=docker`.
//!
//! One tar that is an OCI layout and has `manifest.json` and `repositories` besides, as `docker
//! save` writes it since 25. Engines before that, podman and skopeo read `manifest.json`, whose
//! layers may be compressed (zstd needs Docker 23).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::image::manifest::canonical;
use crate::image::{Manifest, Reference};
use crate::store::Store;

use super::dest::Dest;
use super::error::ExportError;
use super::layout::{ExportImage, Layout};

/// One image of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    /// Familiar names; null for an image without.
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes images as an archive for `docker load`. Each descriptor must be that of a manifest, not of
/// an index: the form knows no platforms.
pub fn write_archive(
    store: &Store,
    images: &[ExportImage],
    dest: &Dest,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    write(store, Layout::collect(store, images)?, images, dest, cancel)
}

/// Writes an archive whose layout holds `whole`, which may be an index over platforms, and whose
/// `manifest.json` names `chosen` of it: engines that read the layout get all platforms, older ones
/// the chosen one.
pub fn write_platforms(
    store: &Store,
    whole: &ExportImage,
    chosen: &ExportImage,
    dest: &Dest,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let layout = Layout::collect(store, std::slice::from_ref(whole))?;
    write(store, layout, std::slice::from_ref(chosen), dest, cancel)
}

fn write(
    store: &Store,
    mut layout: Layout,
    images: &[ExportImage],
    dest: &Dest,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let mut items: Vec<(Digest, Item)> = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let digest = image.descriptor.digest;
        let Some(manifest) = layout.manifests.get(&digest) else {
            return Err(crate::image::ManifestError::MediaType(image.descriptor.media_type.clone()).into());
        };
        let names: Vec<Reference> = image
            .names
            .iter()
            .map(|name| Reference { digest: None, ..name.clone() }.with_default_tag())
            .collect();
        note_repositories(&mut repositories, &names, manifest);
        let tags = names.iter().map(Reference::familiar);
        match items.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, item)) => item.repo_tags.get_or_insert_default().extend(tags),
            None => items.push((
                digest,
                Item {
                    config: blob_path(&manifest.config.digest),
                    repo_tags: (!names.is_empty()).then(|| tags.collect()),
                    layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
                },
            )),
        }
    }
    let items: Vec<&Item> = items.iter().map(|(_, item)| item).collect();
    let items = canonical(&items)?;
    layout.extra.insert("manifest.json", items);
    if !repositories.is_empty() {
        layout.extra.insert("repositories", canonical(&repositories)?);
    }
    layout.write_archive(store, dest, cancel)
}

/// `repositories` maps a tag to the image's topmost layer, so an image without layers has no place.
fn note_repositories(
    repositories: &mut BTreeMap<String, BTreeMap<String, String>>,
    names: &[Reference],
    manifest: &Manifest,
) {
    let Some(top) = manifest.layers.last() else { return };
    for name in names {
        if let Some(tag) = &name.tag {
            let tags = repositories.entry(name.familiar_repository()).or_default();
            tags.insert(tag.clone(), top.digest.hex());
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
