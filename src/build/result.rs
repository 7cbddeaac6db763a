//! From solved steps to images: config, history, layers, manifests, and an index over platforms.

use std::collections::BTreeMap;

use crate::attest::attach::Form;
use crate::attest::{self, Statement, Subject};
use crate::cancel::Cancel;
use crate::compress::{CompressionAlgorithm, Packing};
use crate::digest::DiffId;
use crate::digest::Digest;
use crate::image::draft::DRAFT;
use crate::image::manifest::{DescriptorPlatform, canonical};
use crate::image::{
    self, Assembled, Descriptor, Family, History, Image, ImageConfig, Index, LayerRef, Platform, Reference,
};
use crate::layer::{self, BlobInfo, WriteOptions};
use crate::plan::{Plan, StepId};
use crate::snapshot::{Chain, Finished};
use crate::solve::Solved;

use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::request::{Annotation, AnnotationKind, BuildRequest, BuiltImage, CompressionChoice};
use super::squash;

/// What history entries of BuildKit carry.
const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// One platform's image.
pub(super) struct Built {
    /// As values, one for each way in which layers are compressed; that of the image itself comes first. None
    /// where no image is wanted.
    pub images: Vec<(CompressionChoice, Image)>,
    /// Its layers.
    pub chain: Chain,
    /// The platform it was built for.
    pub platform: Platform,
    /// That platform was asked for: the image is listed under it, whatever its config has beyond it.
    pub platform_given: bool,
    /// What is claimed about it; each output writes them in its way.
    pub statements: Vec<Statement>,
}

/// How an output attaches statements to its images.
pub(super) struct Attaching<'a> {
    /// Names of the image, which the statements are about.
    pub names: &'a [Reference],
    /// How.
    pub form: Form,
    /// Also those that nobody asked for.
    pub inline_only: bool,
}

impl Built {
    /// The image with its layers compressed in one of the ways that were asked for.
    pub fn image(&self, compression: CompressionChoice) -> Option<&Image> {
        self.images.iter().find(|(choice, _)| *choice == compression).map(|(_, image)| image)
    }

    /// As an index lists it, where it is not the config that says so.
    fn listed(&self, config: &ImageConfig) -> Option<DescriptorPlatform> {
        let mut listed = DescriptorPlatform::from(&self.platform);
        // Only Windows chooses images by its version.
        if self.platform.os == "windows" {
            listed.os_version.clone_from(&config.os_version);
            listed.os_features.clone_from(&config.os_features);
        }
        self.platform_given.then_some(listed)
    }
}

/// Images with their manifests, in one family of media types.
pub(super) struct Package {
    /// One for each platform.
    pub images: Vec<Assembled>,
    /// The index over them, or the only manifest.
    pub top: Descriptor,
    /// Manifests that refer to one of the images and are in no index.
    pub referrers: Vec<Descriptor>,
}

impl Package {
    /// Docker's image ID; over several platforms, the digest of their index.
    pub fn id(&self, with_index: bool) -> Digest {
        if with_index { self.top.digest } else { self.config_digest() }
    }

    fn config_digest(&self) -> Digest {
        self.images.first().map_or(self.top.digest, |image| image.config_digest)
    }

    /// What the image goes by.
    pub fn into_image(self, with_index: bool) -> BuiltImage {
        let (id, config_digest) = (self.id(with_index), self.config_digest());
        let descriptor = Some(self.top).filter(|top| top.media_type != DRAFT);
        BuiltImage { id, config_digest, descriptor }
    }
}

/// Manifests for all platforms, and an index where there are several.
pub(super) fn package(
    engine: &Engine,
    built: &[Built],
    compression: CompressionChoice,
    family: Family,
    annotations: &[Annotation],
    with_index: bool,
    attaching: Option<&Attaching<'_>>,
) -> Result<Package, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(FailureKind::Output, error.to_string());
    let (mut images, mut attested) = (Vec::new(), Vec::new());
    for one in built {
        let Some(image) = one.image(compression) else { continue };
        let fitting = |kind| matching(annotations, kind, Some(&one.platform));
        let image = Image { annotations: fitting(AnnotationKind::Manifest), ..image.clone() };
        let assembled = match image.packing.iter().any(Option::is_some) {
            true => image::draft::draft(&engine.store, &image),
            false => image::assemble(&engine.store, &image, family),
        };
        let mut assembled = assembled.map_err(|error| failed(&error))?;
        if let Some(listed) = one.listed(&image.config) {
            assembled.descriptor.platform = Some(listed);
        }
        assembled.descriptor.annotations.extend(fitting(AnnotationKind::ManifestDescriptor));
        if let Some(attaching) = attaching {
            attested.extend(attach(engine, one, &assembled.descriptor, attaching)?);
        }
        images.push(assembled);
    }
    let (entries, referrers): (Vec<_>, Vec<_>) = attested.into_iter().partition(Descriptor::is_companion);
    let with_index = with_index || !entries.is_empty();
    let of_index = |kind| matching(annotations, kind, None);
    if !with_index {
        let Some(only) = images.first() else { return Err(failed(&"there is no image")) };
        let asked = [AnnotationKind::Index, AnnotationKind::IndexDescriptor];
        if asked.iter().any(|kind| !of_index(*kind).is_empty()) {
            return Err(Failure::new(
                FailureKind::Usage,
                "index annotations are not supported for a single platform export",
            ));
        }
        let top = only.descriptor.clone();
        return Ok(Package { images, top, referrers });
    }
    let listed = images.iter().map(|image| image.descriptor.clone());
    let mut index = Index::new(listed.chain(entries).collect());
    family.index().clone_into(&mut index.media_type);
    index.annotations = of_index(AnnotationKind::Index);
    let bytes = canonical(&index).map_err(|error| failed(&error))?;
    engine.store.put_blob(&bytes)?;
    let mut top = Descriptor::of(family.index(), &bytes);
    top.annotations = of_index(AnnotationKind::IndexDescriptor);
    Ok(Package { images, top, referrers })
}

/// Writes the statements about one image; `None` where there are none.
fn attach(
    engine: &Engine,
    one: &Built,
    image: &Descriptor,
    attaching: &Attaching<'_>,
) -> Result<Option<Descriptor>, Failure> {
    let wanted = |statement: &&Statement| attaching.inline_only || !statement.inline_only;
    let statements: Vec<Statement> = one.statements.iter().filter(wanted).cloned().collect();
    if statements.is_empty() {
        return Ok(None);
    }
    let subject = |name| Subject { name, digest: image.digest };
    let named = |name: &Reference| subject(attest::image_purl("docker", name, Some(&one.platform)));
    let mut subjects: Vec<Subject> = attaching.names.iter().map(named).collect();
    if subjects.is_empty() {
        subjects.push(subject("_".to_owned()));
    }
    let attached = attest::attach::attach(&engine.store, image, &statements, &subjects, attaching.form);
    attached.map(Some).map_err(|error| Failure::new(FailureKind::Output, error.to_string()))
}

fn matching(
    annotations: &[Annotation],
    kind: AnnotationKind,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    annotations
        .iter()
        .filter(|annotation| annotation.kind == kind)
        .filter(|annotation| match (&annotation.platform, platform) {
            (Some(wanted), Some(platform)) => wanted == platform,
            (Some(_), None) => false,
            (None, _) => true,
        })
        .map(|annotation| (annotation.key.clone(), annotation.value.clone()))
        .collect()
}

impl Engine {
    /// Config and layers of the target, in the compression asked for. Unless `whole`, layers that are not
    /// compressed yet stay so. With `squash` those of the build become one.
    pub(super) fn image(
        &self,
        plan: &Plan,
        solved: &Solved,
        now: i64,
        epoch: Option<i64>,
        compression: CompressionChoice,
        (whole, squash): (bool, bool),
        cancel: &Cancel,
    ) -> Result<Image, Failure> {
        let Some(stage) = plan.stages.get(plan.target) else {
            return Err(Failure::new(FailureKind::Build, "the plan has no target"));
        };
        let chain = final_chain(plan, solved);
        let mut config = stage.config.clone();
        let own = stage.history.iter().filter(|line| line.step.is_some()).count();
        let base_layers = chain.cells().len().saturating_sub(own);
        // What has no layer before it is as old as the first that follows, and not as this build: with
        // every step cached it is the image that it was.
        let executed = |id: StepId| solved.states.get(id.0).map(|state| state.created);
        let first = stage.history.iter().find_map(|line| line.step.and_then(executed));
        let started = crate::time::rfc3339(epoch.or(first).unwrap_or(now), 0);
        image::build::normalize_history(&mut config.history, base_layers, Some(&started));
        // An instruction without a layer is as old as the layer before it, as in BuildKit: a
        // build in which every step was cached gives the image it gave before.
        let mut created = config.history.iter().rev().find_map(|line| line.created.clone());
        for line in &stage.history {
            if let Some(seconds) = epoch.or(line.step.and_then(executed)) {
                created = Some(crate::time::rfc3339(seconds, 0));
            }
            config.history.push(History {
                created: Some(created.clone().unwrap_or_else(|| started.clone())),
                created_by: line.created_by.clone(),
                comment: HISTORY_COMMENT.into(),
                empty_layer: line.step.is_none(),
                ..History::default()
            });
        }
        let squash = squash && own > 1;
        if squash {
            let from = config.history.len().saturating_sub(stage.history.len());
            squash::mark_history(config.history.get_mut(from..).unwrap_or_default());
        }
        let time = config.history.last().and_then(|line| line.created.clone());
        config.created = Some(time.unwrap_or(started));
        let (mut layers, mut packing) = (Vec::new(), Vec::new());
        let listed = if squash { base_layers } else { chain.cells().len() };
        for position in 0..listed {
            let ours = position >= base_layers || compression.force;
            let (layer, later) = self.layer(&chain, position, compression, (ours, whole), cancel)?;
            layers.push(layer);
            packing.push(later);
        }
        if squash {
            layers.push(squash::layer(self, &chain, base_layers, compression)?);
            packing.push(None);
        }
        Ok(Image { config, layers, packing, annotations: BTreeMap::new() })
    }

    /// A layer as the image lists it, and how it is to be compressed later, if at all. Layers of the base
    /// are not `ours`.
    fn layer(
        &self,
        chain: &Chain,
        position: usize,
        compression: CompressionChoice,
        (ours, whole): (bool, bool),
        cancel: &Cancel,
    ) -> Result<(LayerRef, Option<Packing>), Failure> {
        let Some(cell) = chain.cells().get(position) else {
            return Err(Failure::new(FailureKind::Build, "the image lacks a layer"));
        };
        let listed = |diff_id: DiffId, blob: BlobInfo| LayerRef {
            diff_id,
            digest: blob.digest,
            size: blob.size,
            compression: blob.compression,
            annotations: BTreeMap::new(),
        };
        let Finished { diff_id, blob } = cell.finished()?;
        let packing = match (ours, cell.wanted(), &blob) {
            // As the base has it.
            (false, None, Some(blob)) => return Ok((listed(diff_id, blob.clone()), None)),
            (false, Some(wanted), _) => wanted,
            _ => compression.packing(),
        };
        let fits = blob.as_ref().is_some_and(|blob| blob.compression == packing.compression);
        if (compression.estargz && ours) || !fits {
            cell.ensure_blob(&self.store)?;
        }
        if compression.estargz && ours {
            self.snapshots.blob(chain, position, &WriteOptions::packing(packing), cancel)?;
            return Ok((self.estargz(&diff_id, compression.level)?, None));
        }
        if let Some(blob) = blob.filter(|blob| blob.compression == packing.compression) {
            return Ok((listed(diff_id, blob), None));
        }
        if whole || !self.is_kept(chain, position)? {
            return Ok((listed(diff_id, self.snapshots.packed(chain, position, packing, cancel)?), None));
        }
        let size = layer::load_layer(&self.store, &diff_id)?.map_or(0, |layer| layer.uncompressed_size);
        let plain = BlobInfo { digest: diff_id.0, size, compression: CompressionAlgorithm::Uncompressed };
        Ok((listed(diff_id, plain), Some(packing)))
    }

    /// Whether the store finds the content of a layer again when this build has ended.
    fn is_kept(&self, chain: &Chain, position: usize) -> Result<bool, Failure> {
        let cells = chain.cells().get(..=position).unwrap_or_default();
        let Some(top) = cells.last() else { return Ok(false) };
        let Finished { diff_id, blob } = top.finished()?;
        match blob {
            Some(blob) => Ok(self.store.has_blob(&blob.digest)),
            None => Ok(self.snapshots.files_here(&diff_id, &Chain::of(cells.to_vec()).id()?)?.is_some()),
        }
    }

    fn estargz(&self, diff_id: &DiffId, level: Option<u32>) -> Result<LayerRef, Failure> {
        let layer::Converted { diff_id, blob, annotations } = layer::to_estargz(&self.store, diff_id, level)?;
        let BlobInfo { digest, size, compression } = blob;
        Ok(LayerRef { diff_id, digest, size, compression, annotations })
    }
}

/// How layers are written while the build goes on: as the image itself has them. Outputs that want them
/// otherwise have them compressed again.
pub(super) fn write_options(request: &BuildRequest, epoch: Option<i64>) -> WriteOptions {
    let as_they_are = request.outputs.iter().any(|output| output.rewrite_timestamp == Some(false));
    let clamp_mtime = epoch.filter(|_| !as_they_are);
    WriteOptions { clamp_mtime, ..WriteOptions::packing(request.compression().packing()) }
}

pub(super) fn final_chain(plan: &Plan, solved: &Solved) -> Chain {
    let last = plan.stages.get(plan.target).and_then(|stage| stage.last);
    let state = last.and_then(|id| solved.states.get(id.0));
    state.map_or_else(Chain::scratch, |state| state.chain.clone())
}
