//! Walking an image from its top descriptor down, and checking all of it.

use std::collections::BTreeSet;
use std::io::{self, Read};

use serde_json::Value;

use crate::cancel::Cancel;
use crate::compress::Compression;
use crate::compress::CompressionAlgorithm;
use crate::digest::{DiffId, Digest, Hasher};
use crate::image::manifest::{MAX_CONFIG_SIZE, MAX_INDEX_DEPTH, MAX_MANIFEST_SIZE};
use crate::image::media_type::is_foreign;
use crate::image::{Descriptor, Family, Platform, layer_compression};
use crate::layer::{Scanned, scan_tar};
use crate::registry::Content;

use super::config;
use super::document::{Object, descriptor};
use super::layer::{Below, Layer};
use super::report::Report;

/// Layers of one image: what overlayfs can stack (linux, `OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

/// Checks everything below these descriptors: indexes, manifests, configs, layers. What cannot be
/// read is a problem like any other; only [`Cancel`] ends it early.
pub fn validate(content: &dyn Content, tops: &[Descriptor], cancel: &Cancel) -> Report {
    let mut walk = Walk { content, cancel, report: Report::default(), done: BTreeSet::new() };
    for (at, top) in tops.iter().enumerate() {
        let place = if tops.len() == 1 { "image".to_owned() } else { format!("index.json: manifests[{at}]") };
        let value = serde_json::to_value(top).unwrap_or_default();
        if let Some(top) = descriptor(&value, &place, &mut walk.report) {
            walk.top(&top, &place, 0);
        }
    }
    walk.report
}

struct Walk<'a> {
    content: &'a dyn Content,
    cancel: &'a Cancel,
    report: Report,
    /// Documents that were checked.
    done: BTreeSet<Digest>,
}

fn named(what: &str, digest: &Digest) -> String {
    format!("{what} {}", digest.short())
}

impl Walk<'_> {
    /// An index or a manifest, whichever the descriptor says.
    fn top(&mut self, top: &Descriptor, place: &str, depth: u32) {
        if self.cancel.is_cancelled() || !self.done.insert(top.digest) {
            return;
        }
        if depth > MAX_INDEX_DEPTH {
            return self
                .report
                .add(place, format!("indexes are nested deeper than {MAX_INDEX_DEPTH} levels"));
        }
        let is_index = top.is_index();
        if !is_index && Family::of_manifest(&top.media_type).is_none() {
            let message = format!("{:?} is neither a manifest nor an index", top.media_type);
            return self.report.add(place, message);
        }
        let name = named(if is_index { "index" } else { "manifest" }, &top.digest);
        let Some(value) = self.document(top, &name, MAX_MANIFEST_SIZE) else { return };
        self.header(&value, top, &name);
        if is_index { self.index(&value, &name, depth) } else { self.manifest(&value, top, &name) }
    }

    /// Reads and verifies a JSON document.
    fn document(&mut self, wanted: &Descriptor, place: &str, limit: u64) -> Option<Value> {
        if wanted.size > limit {
            let message = format!("has {} bytes; at most {limit} are allowed", wanted.size);
            self.report.add(place, message);
            return None;
        }
        let bytes = match self.content.document(wanted, self.cancel) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.report.add(place, error.to_string());
                return None;
            }
        };
        self.report.documents += 1;
        if bytes.len() as u64 != wanted.size {
            let message = format!("has {} bytes, but its descriptor says {}", bytes.len(), wanted.size);
            self.report.add(place, message);
        }
        match serde_json::from_slice(&bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report.add(place, format!("is no JSON: {error}"));
                None
            }
        }
    }

    /// What manifests and indexes have in common.
    fn header(&mut self, value: &Value, top: &Descriptor, place: &str) {
        let report = &mut self.report;
        let Some(object) = Object::of(value, place, report) else { return };
        match object.get("schemaVersion").and_then(Value::as_u64) {
            Some(2) => {}
            Some(other) => report.add(object.at("schemaVersion"), format!("is {other}, not 2")),
            None => report.add(place, "schemaVersion is missing or no number"),
        }
        match object.text("mediaType", report) {
            // OCI lets it be left out; Docker's engines need it to know what they have.
            None if top.media_type.contains("docker") => report.add(place, "mediaType is missing"),
            Some(own) if own != top.media_type => {
                let said = &top.media_type;
                report.add(object.at("mediaType"), format!("is {own:?}, but its descriptor says {said:?}"));
            }
            _ => {}
        }
        let (wrong, what) = if top.is_index() {
            (["config", "layers"], "an index")
        } else {
            (["manifests", "fsLayers"], "a manifest")
        };
        for name in wrong {
            if object.fields.contains_key(name) {
                report.add(place, format!("{what} must not have {name}"));
            }
        }
        object.text_map("annotations", report);
        object.text("artifactType", report);
        if let Some(subject) = object.get("subject") {
            descriptor(subject, &object.at("subject"), report);
        }
    }

    fn index(&mut self, value: &Value, place: &str, depth: u32) {
        let Some(object) = Object::of(value, place, &mut self.report) else { return };
        if object.get("manifests").is_none() {
            return self.report.add(place, "manifests is missing");
        }
        let list = object.list("manifests", &mut self.report);
        let mut children: Vec<(String, Descriptor)> = Vec::new();
        for (at, child) in list.into_iter().flatten().enumerate() {
            let place = object.at(&format!("manifests[{at}]"));
            let Some(child) = descriptor(child, &place, &mut self.report) else { continue };
            self.child(&place, &child, &children);
            children.push((place, child));
        }
        for (place, child) in &children {
            self.top(child, place, depth + 1);
        }
    }

    fn child(&mut self, place: &str, child: &Descriptor, before: &[(String, Descriptor)]) {
        let report = &mut self.report;
        if let Some((first, _)) = before.iter().find(|(_, known)| known.digest == child.digest) {
            report.add(place, format!("is the same as {first}"));
        }
        if child.is_companion() {
            return;
        }
        let Some(platform) = &child.platform else {
            if !child.is_index() {
                report.add(place, "platform is missing: nobody can choose this image");
            }
            return;
        };
        let same = |known: &Descriptor| known.platform.as_ref() == Some(platform) && !known.is_companion();
        if let Some((first, _)) = before.iter().find(|(_, known)| same(known)) {
            report.add(place, format!("is for {}, as {first} is", platform.platform()));
        }
    }

    fn manifest(&mut self, value: &Value, top: &Descriptor, place: &str) {
        let Some(object) = Object::of(value, place, &mut self.report) else { return };
        let Some(config) = object.get("config") else {
            return self.report.add(place, "config is missing");
        };
        let Some(config) = descriptor(config, &object.at("config"), &mut self.report) else { return };
        if object.get("layers").is_none() {
            self.report.add(place, "layers is missing");
        }
        let mut layers = Vec::new();
        let list = object.list("layers", &mut self.report);
        for (at, layer) in list.into_iter().flatten().enumerate() {
            let place = object.at(&format!("layers[{at}]"));
            layers.push(descriptor(layer, &place, &mut self.report).map(|layer| (place, layer)));
        }
        if layers.len() > MAX_LAYERS {
            let message = format!("has {} layers; overlayfs stacks at most {MAX_LAYERS}", layers.len());
            self.report.add(place, message);
        }
        let family = Family::of_manifest(&top.media_type).unwrap_or_default();
        // An attestation has the config of an image, and statements for layers.
        let is_image = Family::Oci.retype(&config.media_type).is_ok() && !top.is_companion();
        if !is_image {
            // Charts, signatures, attestations: their blobs are what their makers say.
            if top.platform.is_some() && !top.is_companion() {
                let message = format!("{:?} is no image config", config.media_type);
                self.report.add(object.at("config"), message);
            }
            let all = layers.iter().flatten().map(|(place, layer)| (place.as_str(), layer));
            let config_place = object.at("config");
            for (place, blob) in std::iter::once((config_place.as_str(), &config)).chain(all) {
                self.blob(blob, place, |reader| io::copy(reader, &mut io::sink()).map(drop));
            }
            return;
        }
        self.same_family(family, &config.media_type, family.config(), &object.at("config"));
        let place = named("config", &config.digest);
        let Some(value) = self.config_document(&config, &place) else { return };
        let facts = config::check(&value, &place, layers.len(), &mut self.report);
        self.platform(top, facts.platform.as_ref(), &place);
        self.layers(&layers, &facts.diff_ids, family);
    }

    fn config_document(&mut self, config: &Descriptor, place: &str) -> Option<Value> {
        let limit = MAX_CONFIG_SIZE;
        if config.size > limit {
            self.report.add(place, format!("has {} bytes; at most {limit} are allowed", config.size));
            return None;
        }
        let mut bytes = Vec::new();
        let read = |reader: &mut (dyn Read + Send)| reader.take(limit + 1).read_to_end(&mut bytes).map(drop);
        // What is not the config that was promised says nothing about the image.
        if !self.blob(config, place, read) {
            return None;
        }
        self.report.documents += 1;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report.add(place, format!("is no JSON: {error}"));
                None
            }
        }
    }

    fn same_family(&mut self, family: Family, found: &str, expected: &str, place: &str) {
        if found != expected {
            let whose = if family == Family::Oci { "an OCI" } else { "a Docker" };
            self.report.add(
                place,
                format!("{found:?} does not belong into {whose} manifest; that has {expected:?}"),
            );
        }
    }

    fn platform(&mut self, top: &Descriptor, stated: Option<&Platform>, place: &str) {
        let (Some(wanted), Some(stated)) = (&top.platform, stated) else { return };
        let wanted = wanted.platform();
        if wanted != *stated {
            self.report.add(place, format!("is for {stated}, but the index lists it for {wanted}"));
        }
    }

    fn layers(
        &mut self,
        layers: &[Option<(String, Descriptor)>],
        diff_ids: &[Option<DiffId>],
        family: Family,
    ) {
        let mut below = Below::default();
        for (at, layer) in layers.iter().enumerate() {
            let Some((place, layer)) = layer else { continue };
            if self.cancel.is_cancelled() {
                return;
            }
            let Some(compression) = layer_compression(&layer.media_type) else {
                self.report.add(place, format!("{:?} is no layer", layer.media_type));
                continue;
            };
            if is_foreign(&layer.media_type) {
                self.report.add(place, "is a non-distributable (foreign) layer, which no registry holds");
                continue;
            }
            self.same_family(family, &layer.media_type, family.layer(compression), place);
            let diff_id = diff_ids.get(at).copied().flatten();
            self.layer(place, layer, at, compression, diff_id, &mut below);
        }
    }

    fn layer(
        &mut self,
        descriptor_place: &str,
        layer: &Descriptor,
        at: usize,
        compression: CompressionAlgorithm,
        diff_id: Option<DiffId>,
        below: &mut Below,
    ) {
        let place = format!("layer {} ({})", at + 1, layer.digest.short());
        let mut checked = Layer::new(&place, below);
        let mut found = Report::default();
        let mut result: Option<(Compression, Scanned)> = None;
        let read = |reader: &mut (dyn Read + Send)| -> io::Result<()> {
            let (compression, mut plain) = crate::compress::decompress(reader)?;
            let scanned = scan_tar(&mut plain, |header| checked.entry(header, &mut found));
            result = Some((compression, scanned));
            Ok(())
        };
        self.blob(layer, descriptor_place, read);
        self.report.layers += 1;
        self.report.entries += checked.count;
        let Some((actual, scanned)) = result else { return };
        let expected = match compression {
            CompressionAlgorithm::Gzip => Compression::Gzip,
            CompressionAlgorithm::Zstd => Compression::Zstd,
            CompressionAlgorithm::Uncompressed => Compression::None,
        };
        if actual != expected {
            let message = format!("the blob is {}, but its type says {}", actual.name(), expected.name());
            self.report.add(descriptor_place, message);
        }
        match (scanned.diff_id, diff_id) {
            (Some(actual), Some(expected)) if actual != expected => {
                let message = format!("the content has diff ID {actual}, but the config says {expected}");
                self.report.add(&place, message);
            }
            _ => {}
        }
        checked.finish(&scanned, &mut found);
        self.report.more += found.more;
        for problem in found.problems {
            self.report.add(problem.place, problem.message);
        }
        let changes = checked.changes();
        below.apply(changes);
    }

    /// Reads a blob to its end, whatever `read` leaves, and checks digest and size; says whether it is
    /// the one that was promised.
    fn blob(
        &mut self,
        blob: &Descriptor,
        place: &str,
        read: impl FnOnce(&mut (dyn Read + Send)) -> io::Result<()>,
    ) -> bool {
        let opened = match self.content.open(blob, 0, self.cancel) {
            Ok(opened) => opened,
            Err(error) => {
                self.report.add(place, error.to_string());
                return false;
            }
        };
        let mut counted = Counted { inner: opened, hasher: Hasher::new(), size: 0, cancel: self.cancel };
        let result = read(&mut counted);
        let rest = io::copy(&mut counted, &mut io::sink());
        if let Err(error) = result.and(rest.map(drop)) {
            self.report.add(place, format!("cannot be read: {error}"));
        }
        if counted.size != blob.size {
            let message =
                format!("the blob has {} bytes, but its descriptor says {}", counted.size, blob.size);
            self.report.add(place, message);
        }
        let actual = counted.hasher.finish();
        if actual != blob.digest {
            self.report.add(place, format!("the blob has digest {actual}, not {}", blob.digest));
        }
        actual == blob.digest
    }
}

struct Counted<'a, R> {
    inner: R,
    hasher: Hasher,
    size: u64,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("canceled"));
        }
        let count = self.inner.read(buf)?;
        self.hasher.update(&buf[..count]);
        self.size += count as u64;
        Ok(count)
    }
}
