//! What `images`, `history` and `inspect` show, as data; `cli/` renders it.

use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::store::Store;

use super::config::ImageConfig;
use super::draft::{self, DRAFT, Draft};
use super::manifest::{Descriptor, Document, MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE};
use super::platform::Platform;
use super::read::{ReadError, ResolvedImage, StoreBlobs, named, read_document};
use super::reference::Reference;

/// One line of `history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// RFC 3339 time; empty where the image does not say.
    pub created: String,
    /// The instruction.
    pub created_by: String,
    /// Bytes of its layer's blob; `None` for entries without a layer.
    pub size: Option<u64>,
    /// Its layer; `None` for entries without a layer.
    pub layer: Option<Digest>,
    /// Who made the entry.
    pub comment: String,
}

/// The history of an image, newest first as `docker history` shows it, with the layer of each entry.
/// Layers that the history does not account for come as rows of their own.
pub fn history_rows(config: &ImageConfig, layers: &[Descriptor]) -> Vec<HistoryRow> {
    let mut layers = layers.iter();
    let mut rows: Vec<HistoryRow> = config
        .history
        .iter()
        .map(|entry| {
            let layer = if entry.empty_layer { None } else { layers.next() };
            HistoryRow {
                created: entry.created.clone().unwrap_or_default(),
                created_by: entry.created_by.clone(),
                size: layer.map(|layer| layer.size),
                layer: layer.map(|layer| layer.digest),
                comment: entry.comment.clone(),
            }
        })
        .collect();
    rows.extend(layers.map(|layer| HistoryRow {
        created: String::new(),
        created_by: String::new(),
        size: Some(layer.size),
        layer: Some(layer.digest),
        comment: String::new(),
    }));
    rows.reverse();
    rows
}

/// One image of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSummary {
    /// Its name.
    pub name: Reference,
    /// Digest of the manifest for the platform asked for; `None` where it is not known yet.
    pub manifest_digest: Option<Digest>,
    /// Docker's image ID.
    pub config_digest: Digest,
    /// RFC 3339 time; empty where the image does not say.
    pub created: String,
    /// Bytes of all layers, compressed as far as they are.
    pub size: u64,
    /// Its platform.
    pub platform: Platform,
}

/// The named images of a store, sorted by name.
#[derive(Debug, Default)]
pub struct ImageList {
    /// Those that are complete.
    pub images: Vec<ImageSummary>,
    /// Names whose image is damaged, with the reason.
    pub broken: Vec<(String, ReadError)>,
}

/// Lists the named images of the store. Of an index, the image for `platform` is shown, or else its first. Names of artifacts are passed over.
pub fn list_images(store: &Store, platform: &Platform) -> Result<ImageList, ReadError> {
    let mut list = ImageList::default();
    for (name, _) in store.references()? {
        let Ok(reference) = Reference::parse(&name) else { continue };
        match super::ids::shown(store, &reference, platform) {
            Ok(Some(image)) => list.images.push(ImageSummary {
                name: reference,
                manifest_digest: (!image.is_draft()).then_some(image.manifest_digest),
                config_digest: image.manifest.config.digest,
                created: image.config.created.clone().unwrap_or_default(),
                size: layer_bytes(&image),
                platform: image.platform,
            }),
            Ok(None) => {}
            Err(_) if names_artifact(store, &reference) => {}
            Err(error) => list.broken.push((name, error)),
        }
    }
    Ok(list)
}

/// The images of the store that have no name, as [`list_images`] lists the others.
pub fn unnamed_images(store: &Store, platform: &Platform) -> Result<Vec<ImageSummary>, ReadError> {
    let mut all = Vec::new();
    for image in super::ids::unnamed(store)? {
        let name = Reference::of_digest(image.manifest);
        if let Ok(Some(found)) = super::ids::shown(store, &name, platform) {
            all.push(ImageSummary {
                name,
                manifest_digest: (!found.is_draft()).then_some(found.manifest_digest),
                config_digest: image.id,
                created: found.config.created.clone().unwrap_or_default(),
                size: layer_bytes(&found),
                platform: found.platform,
            });
        }
    }
    Ok(all)
}

fn names_artifact(store: &Store, name: &Reference) -> bool {
    let named = named(store, name).ok().flatten();
    named.is_some_and(|named| is_artifact(store, &named.digest, MAX_INDEX_DEPTH))
}

/// Whether this never was an image, such as a signature or an index of nothing else.
fn is_artifact(store: &Store, digest: &Digest, depth: u32) -> bool {
    let bytes = store.read_blob(digest).ok().flatten().unwrap_or_default();
    match Document::parse(&bytes) {
        Ok(Document::Index(index)) => {
            let artifact = |child: &Descriptor| is_artifact(store, &child.digest, depth - 1);
            depth > 0 && !index.manifests.is_empty() && index.manifests.iter().all(artifact)
        }
        Ok(document) => document.is_artifact(),
        Err(_) => false,
    }
}

/// What a name means in the store, whole: an index over several platforms is not narrowed to one. Of an
/// image whose manifest is not known yet, its draft. `None` where nothing has the name.
pub fn stored(store: &Store, name: &Reference) -> Result<Option<Descriptor>, ReadError> {
    let Some(named) = named(store, name)? else { return Ok(None) };
    let digest = named.digest;
    let bytes = read_document(&StoreBlobs(store), &digest, named.size, MAX_MANIFEST_SIZE)?;
    if named.is_draft && Draft::parse(&bytes).is_some() {
        return Ok(Some(Descriptor::of(DRAFT, &bytes)));
    }
    let document = Document::parse(&bytes).map_err(|source| ReadError::Document {
        place: super::read::BlobSource::place(&StoreBlobs(store)),
        what: format!("manifest {digest}"),
        source,
    })?;
    Ok(Some(Descriptor::of(document.media_type(), &bytes)))
}

/// The names of the store that mean this manifest: directly, or as the only image of an index, which has attestations
/// beside it.
pub fn names_of(store: &Store, manifest: &Digest) -> Result<Vec<Reference>, ReadError> {
    let mut names = Vec::new();
    for (name, _) in store.references()? {
        let Ok(reference) = Reference::parse(&name) else { continue };
        let Some(named) = named(store, &reference)? else { continue };
        if named.digest == *manifest || is_only_image(store, &named.digest, manifest) {
            names.push(reference);
        }
    }
    Ok(names)
}

fn is_only_image(store: &Store, index: &Digest, manifest: &Digest) -> bool {
    let bytes = store.read_blob(index).ok().flatten().unwrap_or_default();
    let Ok(Document::Index(index)) = Document::parse(&bytes) else { return false };
    let mut images = index.images();
    images.next().is_some_and(|image| image.digest == *manifest) && images.next().is_none()
}

/// What `docker image inspect` prints for one image, as far as it holds without an engine: no
/// storage driver, no parent, no last tag time.
pub fn inspect_json(image: &ResolvedImage, names: &[Reference]) -> Value {
    let mut out = Map::new();
    let config = &image.config;
    let mut digests: Vec<String> = names
        .iter()
        .map(|name| format!("{}@{}", name.familiar_repository(), image.manifest_digest))
        .collect();
    digests.sort();
    digests.dedup();
    if image.is_draft() {
        digests.clear();
    }
    let tags: Vec<String> = names.iter().filter(|name| name.tag.is_some()).map(Reference::familiar).collect();
    out.insert("Id".into(), json!(image.manifest.config.digest));
    out.insert("RepoTags".into(), json!(tags));
    out.insert("RepoDigests".into(), json!(digests));
    out.insert("Comment".into(), json!(config.history.last().map_or("", |entry| entry.comment.as_str())));
    out.insert("Created".into(), json!(config.created.as_deref().unwrap_or_default()));
    out.insert("Author".into(), json!(config.author));
    out.insert("Config".into(), json!(config.config));
    out.insert("Architecture".into(), json!(config.architecture));
    if !config.variant.is_empty() {
        out.insert("Variant".into(), json!(config.variant));
    }
    out.insert("Os".into(), json!(config.os));
    if !config.os_version.is_empty() {
        out.insert("OsVersion".into(), json!(config.os_version));
    }
    out.insert("Size".into(), json!(layer_bytes(image)));
    out.insert("RootFS".into(), json!({ "Type": "layers", "Layers": image.diff_ids }));
    if !image.is_draft() {
        out.insert("Descriptor".into(), json!(image.descriptor()));
    }
    Value::Object(out)
}

/// Points a name of the store at an image. Only then does the store show it, and collection keeps
/// what it refers to.
pub fn name_in_store(store: &Store, name: &Reference, descriptor: &Descriptor) -> Result<(), ReadError> {
    let bytes = super::manifest::canonical(descriptor).map_err(|source| ReadError::Document {
        place: super::read::BlobSource::place(&StoreBlobs(store)),
        what: format!("record of {name}"),
        source,
    })?;
    use_all(store, &descriptor.digest, MAX_INDEX_DEPTH);
    let name = name.clone().with_default_tag().to_string();
    super::ids::name_moves(store, &name, &descriptor.digest)?;
    Ok(store.put_reference(&name, &bytes)?)
}

/// Marks all of an image as used, so that a collection which looked at the names before does not take
/// it. What is missing or no document is for others to find.
fn use_all(store: &Store, digest: &Digest, depth: u32) {
    let Ok(Some(bytes)) = store.read_blob(digest) else { return };
    if let Some(found) = Draft::parse(&bytes) {
        let config = store.read_blob(&found.config().digest).ok().flatten().unwrap_or_default();
        let config: ImageConfig = serde_json::from_slice(&config).unwrap_or_default();
        draft::use_layers(store, &found, &config.rootfs.diff_ids);
        let packed = draft::packed(store, digest).ok().flatten();
        return packed.iter().for_each(|manifest| use_all(store, &manifest.digest, depth));
    }
    match Document::parse(&bytes) {
        Ok(Document::Index(index)) if depth > 0 => {
            index.manifests.iter().for_each(|child| use_all(store, &child.digest, depth - 1));
        }
        Ok(Document::Manifest(manifest)) => {
            manifest.layers.iter().chain([&manifest.config]).for_each(|blob| {
                store.has_blob(&blob.digest);
            });
        }
        _ => {}
    }
}

fn layer_bytes(image: &ResolvedImage) -> u64 {
    image.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Family, History, Image, LayerRef, assemble, from_store};

    type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

    #[test]
    fn history_is_shown_newest_first_with_the_layer_of_each_entry() {
        let entry = |created_by: &str, empty_layer| History {
            created_by: created_by.to_owned(),
            empty_layer,
            ..History::default()
        };
        let config = ImageConfig {
            history: vec![entry("ADD", false), entry("ENV", true), entry("RUN", false)],
            ..ImageConfig::default()
        };
        let layers: Vec<Descriptor> =
            [&b"a"[..], b"bb", b"ccc"].iter().map(|bytes| Descriptor::of("x", bytes)).collect();
        let rows: Vec<(String, Option<u64>)> =
            history_rows(&config, &layers).into_iter().map(|row| (row.created_by, row.size)).collect();
        let row = |name: &str, size| (name.to_owned(), size);
        assert_eq!(rows, [row("", Some(3)), row("RUN", Some(2)), row("ENV", None), row("ADD", Some(1))]);
    }

    #[test]
    fn a_named_image_is_listed_and_inspected() -> Result {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let platform = Platform::new("linux", "amd64", "");
        let tar = [0u8; 1024];
        let layer = LayerRef {
            diff_id: crate::digest::DiffId::empty(),
            digest: store.put_blob(&tar)?,
            size: 1024,
            compression: crate::compress::CompressionAlgorithm::Uncompressed,
            annotations: Default::default(),
        };
        let mut image = Image { layers: vec![layer], ..Image::default() };
        image.config.os = "linux".into();
        image.config.architecture = "amd64".into();
        image.config.config.env = vec!["A=1".into()];
        let assembled = assemble(&store, &image, Family::Oci)?;
        let name = Reference::parse("app:1")?;
        name_in_store(&store, &name, &assembled.descriptor)?;
        store.put_reference("docker.io/library/broken:1", b"no json")?;

        let ImageList { images, broken } = list_images(&store, &platform)?;
        assert_eq!(images.len(), 1);
        assert_eq!((&images[0].name, images[0].size), (&name, 1024));
        assert_eq!(images[0].config_digest, assembled.config_digest);
        assert_eq!(broken.len(), 1);

        store.remove_reference("docker.io/library/broken:1")?;
        let empty = Descriptor::of("application/vnd.oci.empty.v1+json", b"{}");
        let artifact = json!({"schemaVersion": 2, "config": empty, "layers": []}).to_string();
        let child = Descriptor::of(Family::Oci.manifest(), artifact.as_bytes());
        let index = json!({"schemaVersion": 2, "manifests": [child]}).to_string();
        store.put_blob(artifact.as_bytes())?;
        store.put_blob(index.as_bytes())?;
        let (index, of_artifacts) =
            (Descriptor::of(Family::Oci.index(), index.as_bytes()), Reference::parse("index:1")?);
        name_in_store(&store, &of_artifacts, &index)?;
        assert_eq!(stored(&store, &of_artifacts)?, Some(index));
        let list = list_images(&store, &platform)?;
        assert_eq!((list.images.len(), list.broken.len()), (1, 0));
        store.remove_reference(&of_artifacts.to_string())?;
        assert_eq!(stored(&store, &of_artifacts)?, None);
        assert_eq!(names_of(&store, &assembled.descriptor.digest)?, std::slice::from_ref(&name));
        let resolved = from_store(&store, &name, &platform)?.ok_or("not found")?;
        let shown = inspect_json(&resolved, &[name]);
        assert_eq!(shown["Id"], json!(assembled.config_digest));
        assert_eq!(shown["RepoTags"], json!(["app:1"]));
        assert_eq!(shown["RepoDigests"], json!([format!("app@{}", assembled.descriptor.digest)]));
        assert_eq!(shown["Config"]["Env"], json!(["A=1"]));
        assert_eq!(shown["RootFS"]["Layers"], json!([crate::digest::DiffId::empty()]));
        Ok(())
    }
}
