//! What both kinds of documents need: their subject, their time, and names that follow from the content.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::digest::Digest;
use crate::time::rfc3339;

use super::scan::Inventory;
use super::{cyclonedx, spdx};

/// What a document is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Name of the image, as people write it.
    pub name: String,
    /// Digest of its manifest; `None` where there is none yet.
    pub digest: Option<Digest>,
    /// Digest of its config, which is what Docker calls its ID; `None` where there is none yet.
    pub id: Option<Digest>,
    /// Its platform, such as `linux/amd64`.
    pub platform: String,
}

/// What a document says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Seconds since 1970.
    pub created: i64,
    /// Version of the tool.
    pub version: String,
}

/// An inventory on its way to a document. The same inventory and facts give the same bytes.
pub struct Document<'a> {
    pub(super) subject: &'a Subject,
    pub(super) inventory: &'a Inventory,
    pub(super) facts: &'a Facts,
}

impl<'a> Document<'a> {
    /// A document about `subject`.
    pub fn new(subject: &'a Subject, inventory: &'a Inventory, facts: &'a Facts) -> Self {
        Document { subject, inventory, facts }
    }

    /// SPDX 2.3 as JSON.
    pub fn spdx(&self) -> Value {
        spdx::render(self)
    }

    /// CycloneDX 1.6 as JSON.
    pub fn cyclonedx(&self) -> Value {
        cyclonedx::render(self)
    }

    pub(super) fn created(&self) -> String {
        rfc3339(self.facts.created, 0)
    }

    /// A UUID made of all that the document says (RFC 9562, version 8).
    pub(super) fn uuid(&self, kind: &str) -> String {
        let Document { subject, inventory, facts } = self;
        let said = format!(
            "{kind}\n{subject:?}\n{facts:?}\n{:?}\n{:?}\n{:?}\n{:?}",
            inventory.packages, inventory.files, inventory.layers, inventory.notes
        );
        let mut raw = [0u8; 16];
        raw.copy_from_slice(&Digest::of(said.as_bytes()).raw()[..16]);
        raw[6] = raw[6] & 0x0f | 0x80;
        raw[8] = raw[8] & 0x3f | 0x80;
        let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// Identifiers of the packages, in their order: unique, and the same for the same package in other images.
    pub(super) fn ids(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let packages = self.inventory.packages.iter();
        packages
            .map(|package| {
                let hash = &Digest::of(package.purl().as_bytes()).hex()[..16];
                let clean = |text: &str| -> String {
                    text.chars()
                        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
                        .collect()
                };
                let id = format!("{}-{}-{hash}", package.ecosystem.purl_type(), clean(&package.name));
                let count = seen.entry(id.clone()).or_default();
                *count += 1;
                if *count == 1 { id } else { format!("{id}-{count}") }
            })
            .collect()
    }

    /// The package URL of the image.
    pub(super) fn purl(&self) -> Option<String> {
        let digest = self.subject.digest?;
        let name = self.subject.name.split('@').next().unwrap_or_default();
        let last = name.rsplit('/').next().unwrap_or_default();
        let last = last.split(':').next().unwrap_or_default().to_lowercase();
        (!last.is_empty()).then(|| format!("pkg:oci/{last}@sha256%3A{}", digest.hex()))
    }

    /// What identifies the image, where that is known.
    pub(super) fn version(&self) -> Option<String> {
        self.subject.digest.or(self.subject.id).map(|digest| digest.to_string())
    }

    /// Which layer brought something, for people.
    pub(super) fn layer_text(&self, layer: usize) -> String {
        let Some(origin) = self.inventory.layers.get(layer) else { return String::new() };
        let by = if origin.created_by.is_empty() {
            String::new()
        } else {
            format!(" made by: {}", origin.created_by)
        };
        format!("layer {} ({}){by}", layer + 1, origin.diff_id)
    }
}
