//! The plan for people and programs: `rbuild plan`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::graph::{CopyOrigin, CopyStep, Plan, Step, StepKind};

/// By stage, with what each step needs from elsewhere.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    for (position, stage) in plan.stages.iter().enumerate() {
        let name = stage.name.clone().unwrap_or_else(|| format!("stage {}", stage.index));
        let mark = if position == plan.target { " (target)" } else { "" };
        let _ = writeln!(out, "{name}{mark}  {}", stage.platform);
        for step in plan.steps.iter().filter(|step| step.stage == stage.index) {
            let _ = writeln!(out, "  {:>3}  {}{}", step.id.0, step.name, needs(step));
        }
    }
    let others = plan.steps.iter().filter(|step| plan.stages.iter().all(|stage| stage.index != step.stage));
    for step in others {
        let _ = writeln!(out, "{:>5}  {}", step.id.0, step.name);
    }
    out
}

fn needs(step: &Step) -> String {
    match &step.kind {
        StepKind::Copy(CopyStep { origin: CopyOrigin::Step(id, _), .. }) => format!("  <- {}", id.0),
        _ => match step.parent {
            Some(parent) if parent.0 + 1 != step.id.0 => format!("  <- {}", parent.0),
            _ => String::new(),
        },
    }
}

/// Graphviz.
pub fn dot(plan: &Plan) -> String {
    let mut out = String::from("digraph build {\n  rankdir=LR;\n  node [shape=box, fontname=monospace];\n");
    let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    for step in &plan.steps {
        let _ = writeln!(out, "  s{} [label=\"{}\"];", step.id.0, quote(&step.name));
        if let Some(parent) = step.parent {
            let _ = writeln!(out, "  s{} -> s{};", parent.0, step.id.0);
        }
        if let StepKind::Copy(CopyStep { origin: CopyOrigin::Step(id, _), .. }) = &step.kind {
            let _ = writeln!(out, "  s{} -> s{} [style=dashed, label=\"files\"];", id.0, step.id.0);
        }
    }
    out.push_str("}\n");
    out
}

/// JSON: steps with typed edges, stages, target.
pub fn json(plan: &Plan) -> Value {
    let steps: Vec<Value> = plan.steps.iter().map(step_json).collect();
    let stages: Vec<Value> = plan
        .stages
        .iter()
        .map(|stage| {
            json!({
                "index": stage.index,
                "name": stage.name,
                "platform": stage.platform.to_string(),
                "last": stage.last.map(|id| id.0),
                "config": stage.config.config,
                "history": stage.history.iter().map(|line| json!({
                    "created_by": line.created_by,
                    "step": line.step.map(|id| id.0),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({"steps": steps, "stages": stages, "target": plan.target})
}

fn step_json(step: &Step) -> Value {
    let mut edges: Vec<Value> =
        step.parent.iter().map(|parent| json!({"type": "parent", "step": parent.0})).collect();
    if let StepKind::Copy(copy) = &step.kind {
        edges.push(match &copy.origin {
            CopyOrigin::Context(name) => json!({"type": "context", "name": name, "paths": copy.sources}),
            CopyOrigin::Step(id, _) => json!({"type": "copy-source", "step": id.0, "paths": copy.sources}),
        });
    }
    let at = step.source.location(step.span.start);
    json!({
        "id": step.id.0,
        "stage": step.stage,
        "name": step.name,
        "file": step.source.name(),
        "line": at.line,
        "definition": step.definition(),
        "edges": edges,
    })
}
