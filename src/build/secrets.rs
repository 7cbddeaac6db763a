//! Secrets in the layers and the config of an image.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::event::{Event, Events};
use crate::image::ContainerConfig;
use crate::plan::{Plan, StageHistory, Step};
use crate::secrets::{self, Finding, Findings, scan_layer};
use crate::snapshot::{LayerCell, Snapshots};
use crate::solve::Solved;
use crate::verify::Report;

use super::bill::scan_failure;
use super::engine::Engine;
use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::request::{BuildRequest, OutputKind};
use super::result::final_chain;
use super::transfer::Transfer;

/// When the layers that a build makes are scanned for secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretScan {
    /// If they are pushed, or written to an archive or layout.
    #[default]
    WhenLeaving,
    /// In every build that makes an image.
    Always,
    /// Never.
    Never,
}

/// Warnings of one build.
const MOST: usize = 20;

impl BuildRequest {
    pub(super) fn looks_for_secrets(&self) -> bool {
        let leaves =
            |kind: OutputKind| matches!(kind, OutputKind::Oci | OutputKind::OciDir | OutputKind::Docker);
        let wanted = match self.secret_scan {
            SecretScan::Never => self.fail_on_secrets,
            SecretScan::Always => true,
            SecretScan::WhenLeaving => {
                self.fail_on_secrets || self.outputs.iter().any(|output| output.push || leaves(output.kind))
            }
        };
        wanted && self.makes_image()
    }
}

/// A secret, and the step that put it there.
struct Shipped<'a> {
    step: Option<&'a Step>,
    text: String,
}

impl Shipped<'_> {
    fn location(&self) -> Option<String> {
        let step = self.step?;
        Some(format!("{}:{}", step.source.name(), step.source.location(step.span.start).line))
    }
}

impl Engine {
    /// Warns of secrets in what a build adds to its bases, or fails if the request says so. `results` has the plan
    /// of each platform. Layers that were scanned before are not read again.
    pub(super) fn look_for_secrets<'a>(
        &self,
        request: &BuildRequest,
        results: impl Iterator<Item = (&'a Plan, &'a Solved)>,
        events: &Events,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let (mut shipped, mut more, mut seen) = (Vec::new(), 0, BTreeSet::new());
        let all = request.fail_on_secrets || request.secret_scan == SecretScan::Always;
        for (plan, solved) in results {
            more += self.add_secrets(plan, solved, all, &mut shipped, cancel)?;
        }
        // Platforms mostly ship the same.
        shipped.retain(|one| seen.insert((one.location(), one.text.clone())));
        let Some(first) = shipped.first() else { return Ok(()) };
        if request.fail_on_secrets {
            return Err(failure(first, shipped.len() + more));
        }
        for one in shipped.iter().take(MOST) {
            events.send(Event::Warning { message: one.text.clone(), location: one.location(), rule: None });
        }
        match more + shipped.len().saturating_sub(MOST) {
            0 => {}
            1 => events.warn("this image ships 1 more secret"),
            more => events.warn(format!("this image ships {more} more secrets")),
        }
        Ok(())
    }

    /// Adds the secrets of one platform; the number of those that were not kept. Layers that a cache elsewhere has
    /// are fetched for it only if `all` is wanted.
    fn add_secrets<'a>(
        &self,
        plan: &'a Plan,
        solved: &Solved,
        all: bool,
        shipped: &mut Vec<Shipped<'a>>,
        cancel: &Cancel,
    ) -> Result<usize, Failure> {
        let Some(stage) = plan.stages.get(plan.target) else { return Ok(0) };
        let step_of = |line: &StageHistory| line.step.and_then(|id| plan.steps.get(id.0));
        let chain = final_chain(plan, solved);
        let own: Vec<_> = stage.history.iter().filter(|line| line.step.is_some()).collect();
        let base = chain.cells().len().saturating_sub(own.len());
        let mut more = 0;
        for (line, layer) in own.iter().zip(base..) {
            let absent = |cell: &Arc<LayerCell>| cell.lacking(&self.store).is_some();
            if !all && chain.cells().get(layer).is_some_and(absent) {
                continue;
            }
            let findings = scan_layer(&self.snapshots, &chain, layer, cancel).map_err(scan_failure)?;
            more += findings.more;
            let by = made_by(&line.created_by);
            shipped.extend(findings.found.into_iter().map(|Finding { path, line: at, kind }| {
                let text = format!("layer {} ships {kind}: /{path}:{at}{by}", layer + 1);
                Shipped { step: step_of(line), text }
            }));
        }
        for (kind, place) in in_config(&stage.config.config) {
            shipped.push(Shipped { step: None, text: format!("the image's config ships {kind}: {place}") });
        }
        for line in &stage.history {
            // What ENV and LABEL say is in the config as well.
            let word = line.created_by.split(' ').next().unwrap_or_default();
            if let (Some(kind), false) = (secrets::in_text(&line.created_by), matches!(word, "ENV" | "LABEL"))
            {
                let text = format!("the image's history ships {kind}, in the arguments of {word}");
                shipped.push(Shipped { step: step_of(line), text });
            }
        }
        Ok(more)
    }
}

/// Tokens in environment variables and labels: their kinds, and where they are.
fn in_config(config: &ContainerConfig) -> Vec<(&'static str, String)> {
    let variables = config.env.iter().filter_map(|variable| {
        let kind = secrets::in_text(variable)?;
        let name = variable.split_once('=').map_or("", |(name, _)| name);
        Some((kind, format!("environment variable {name}")))
    });
    let labels = config
        .labels
        .iter()
        .filter_map(|(name, value)| Some((secrets::in_text(value)?, format!("label {name}"))));
    variables.chain(labels).collect()
}

/// The instruction that made a layer; nothing where it has a secret in itself.
fn made_by(created_by: &str) -> String {
    let by = created_by.trim_end_matches(" # buildkit");
    match by {
        "" => String::new(),
        _ if secrets::in_text(by).is_some() => String::new(),
        _ => format!(", made by {by}"),
    }
}

fn failure(first: &Shipped<'_>, count: usize) -> Failure {
    let others = match count {
        1 => String::new(),
        2 => ", and 1 more secret".to_owned(),
        count => format!(", and {} more secrets", count - 1),
    };
    let place = first.step.map(|step| (step.source.clone(), step.span));
    let help = "mount it with RUN --mount=type=secret, or keep the file out with .dockerignore; what a later layer \
                removes is shipped all the same";
    Failure { place, ..Failure::new(FailureKind::Secrets, format!("{}{others}", first.text)) }.help(help)
}

impl Transfer<'_> {
    /// Scans all layers of an image, those of its base as well, and its config. Findings become problems of the
    /// report.
    pub fn secrets(
        &self,
        snapshots: &Snapshots,
        place: &Place,
        shown: &str,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let (image, chain) = self.chain_with_layers(snapshots, place, shown)?;
        let lines: Vec<_> = image.config.history.iter().filter(|line| !line.empty_layer).collect();
        for (layer, diff_id) in image.diff_ids.iter().enumerate() {
            let Findings { found, more } =
                scan_layer(snapshots, &chain, layer, self.cancel).map_err(scan_failure)?;
            let by = made_by(lines.get(layer).map_or("", |line| line.created_by.as_str()));
            for Finding { path, line, kind } in found {
                let place = format!("layer {} ({})", layer + 1, diff_id.0.short());
                report.add(place, format!("ships {kind}: /{path}:{line}{by}"));
            }
            report.more += more;
        }
        for (kind, place) in in_config(&image.config.config) {
            report.add("config", format!("ships {kind}: {place}"));
        }
        for (at, line) in image.config.history.iter().enumerate() {
            let word = line.created_by.split(' ').next().unwrap_or_default();
            if let (Some(kind), false) = (secrets::in_text(&line.created_by), matches!(word, "ENV" | "LABEL"))
            {
                report.add(format!("config: history[{at}]"), format!("ships {kind}"));
            }
        }
        Ok(())
    }
}
