//! Going through a layer, once: what was found is kept under its diff ID.

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::digest::{DiffId, Digest};
use crate::layer::{EntryKind, LayerError};
use crate::snapshot::{Chain, SnapshotError, Snapshots, WantedFile};
use crate::store::{Edge, RecordKind, Recorded};

use super::files;
use super::names::{self, Class};

/// Changes with what counts as a secret: older results are not used then.
const RULES: &str = "secrets 1";
/// Files of a layer that are looked at, the smallest first; and findings that are kept.
const MAX_FILES: usize = 50_000;
const MAX_FINDINGS: usize = 200;

/// A secret in a layer, without the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file, without a leading slash; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What it looks like, with its article.
    pub kind: String,
}

/// What a layer holds, by path and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// The findings.
    pub found: Vec<Finding>,
    /// Findings beyond those.
    pub more: usize,
}

impl Recorded for Findings {
    const KIND: RecordKind = RecordKind::Secrets;

    fn edges(&self) -> Vec<Edge> {
        Vec::new()
    }

    fn note(&self) -> String {
        format!("secrets in a layer: {}", self.found.len() + self.more)
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

fn key(diff_id: &DiffId) -> Digest {
    Digest::of(format!("{RULES} {diff_id}").as_bytes())
}

/// What the layer at `position` ships. A layer that was looked at before costs one file read.
pub fn scan_layer(
    snapshots: &Snapshots,
    chain: &Chain,
    position: usize,
    cancel: &Cancel,
) -> Result<Findings, SnapshotError> {
    let Some(cell) = chain.cells().get(position) else { return Ok(Findings::default()) };
    let store = snapshots.store();
    let key = key(&cell.finished()?.diff_id);
    if let Some(known) = store.record::<Findings>(&key)? {
        return Ok(known);
    }
    let index = cell.complete_entries(store)?;
    let mut candidates: Vec<(Class, WantedFile<'_>)> = index
        .entries
        .iter()
        .filter_map(|entry| {
            let EntryKind::File { size, .. } = entry.kind else { return None };
            let class = names::class(&entry.path, size)?;
            Some((class, WantedFile { path: &entry.path, offset: entry.offset, size }))
        })
        .collect();
    if candidates.len() > MAX_FILES {
        candidates.sort_by_key(|(_, file)| file.size);
        candidates.truncate(MAX_FILES);
    }
    let wanted: Vec<WantedFile<'_>> = candidates.iter().map(|(_, file)| *file).collect();
    let mut findings = Findings::default();
    snapshots.read_files(chain, position, &wanted, &mut |at, file| {
        if cancel.is_cancelled() {
            return;
        }
        let (class, wanted) = candidates[at];
        // A file that cannot be read is found by whoever writes the layer.
        let Ok(content) = file.read_all(wanted.size) else { return };
        for (line, kind) in files::find(class, &content) {
            let path = String::from_utf8_lossy(wanted.path).into_owned();
            findings.found.push(Finding { path, line, kind: kind.to_owned() });
        }
    })?;
    if cancel.is_cancelled() {
        return Err(LayerError::Canceled.into());
    }
    findings.found.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    findings.more = findings.found.len().saturating_sub(MAX_FINDINGS);
    findings.found.truncate(MAX_FINDINGS);
    store.put_record(&key, &findings)?;
    Ok(findings)
}
