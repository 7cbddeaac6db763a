//! The bills of materials that a build attaches to its result.

use crate::attest::{SbomFormat, SbomOptions, Statement};
use crate::cancel::Cancel;
use crate::plan::{Plan, StagePlan};
use crate::sbom::{self, Document, Facts, Inventory, Subject};
use crate::snapshot::Chain;
use crate::solve::Solved;

use super::bill::scan_failure;
use super::engine::{Engine, now_seconds};
use super::failure::Failure;
use super::prepare::Prepared;
use super::request::BuildRequest;

impl Engine {
    /// The bills of materials that a request asks for: of the result, and of the stages that say so.
    pub(super) fn bills(
        &self,
        request: &BuildRequest,
        prepared: &Prepared,
        plan: &Plan,
        solved: &Solved,
        epoch: Option<i64>,
        cancel: &Cancel,
    ) -> Result<Vec<Statement>, Failure> {
        let (Some(options), Some(target)) = (&request.attest.sbom, plan.stages.get(plan.target)) else {
            return Ok(Vec::new());
        };
        let facts = Facts {
            created: epoch.unwrap_or_else(now_seconds),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut statements = Vec::new();
        for (position, stage) in plan.stages.iter().enumerate() {
            let is_target = position == plan.target;
            if !is_target && !is_scanned(stage, target) {
                continue;
            }
            let name = stage.name.clone().unwrap_or_else(|| stage.index.to_string());
            let chain = stage.last.and_then(|id| solved.states.get(id.0));
            let chain = chain.map_or_else(Chain::scratch, |state| state.chain.clone());
            let inventory =
                sbom::scan(&self.snapshots, &chain, &created_by(stage, chain.cells().len()), cancel)
                    .map_err(scan_failure)?;
            let tag = request.tags.first().map_or("image", String::as_str);
            let shown = if is_target { tag.to_owned() } else { format!("stage {name}") };
            let suffix = if is_target { String::new() } else { format!("-{name}") };
            let platform = stage.platform.to_string();
            statements.push(statement(*options, shown, platform, &suffix, &inventory, &facts));
        }
        let context = prepared.contexts.get("").filter(|_| target.sbom_context.as_deref().is_some_and(is_on));
        if let Some(context) = context {
            let inventory = sbom::scan_context(&**context, cancel)?;
            let platform = target.platform.to_string();
            let shown = "build context".to_owned();
            statements.push(statement(*options, shown, platform, "-context", &inventory, &facts));
        }
        Ok(statements)
    }
}

fn statement(
    options: SbomOptions,
    name: String,
    platform: String,
    suffix: &str,
    inventory: &Inventory,
    facts: &Facts,
) -> Statement {
    let subject = Subject { name, digest: None, id: None, platform };
    let document = Document::new(&subject, inventory, facts);
    let (predicate_type, predicate, end) = match options.format {
        SbomFormat::Spdx => ("https://spdx.dev/Document", document.spdx(), "spdx"),
        SbomFormat::CycloneDx => ("https://cyclonedx.org/bom", document.cyclonedx(), "cdx"),
    };
    let (file, predicate_type) = (format!("sbom{suffix}.{end}.json"), predicate_type.to_owned());
    Statement { predicate_type, predicate, file, inline_only: false }
}

/// Whether the packages of a stage below the target are listed as well: it says so itself, or the target or the
/// global scope names it (moby/buildkit, `docs/attestations/sbom.md`).
fn is_scanned(stage: &StagePlan, target: &StagePlan) -> bool {
    let own = stage.sbom_stage.as_deref().is_some_and(is_on);
    let named = target.sbom_stage.iter().chain(&stage.sbom_stage).flat_map(|list| list.split(','));
    let name = |text: &str| stage.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(text.trim()));
    own || named.into_iter().any(name)
}

fn is_on(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// The instruction of each layer of a stage; empty where a base does not say.
fn created_by(stage: &StagePlan, layers: usize) -> Vec<String> {
    let own: Vec<String> =
        stage.history.iter().filter(|line| line.step.is_some()).map(|line| line.created_by.clone()).collect();
    let base = layers.saturating_sub(own.len());
    let lines = stage.config.history.iter().filter(|line| !line.empty_layer);
    let mut all: Vec<String> = lines.map(|line| line.created_by.clone()).take(base).collect();
    all.resize(base, String::new());
    all.extend(own);
    all
}
