//! Warnings that need more than one instruction to see.

use std::collections::HashMap;

use super::ast::{CommandLine, Instruction, InstructionKind, Stage, Warning};
use super::json;
use super::source::Span;

/// Looks at whole stages and adds what it finds.
pub(super) fn stages(global_args: &[Instruction], stages: &[Stage], warnings: &mut Vec<Warning>) {
    keyword_casing(global_args, stages, warnings);
    duplicate_names(stages, warnings);
    for stage in stages {
        overridden(stage, warnings);
        single_instructions(stage, warnings);
    }
}

fn warn(warnings: &mut Vec<Warning>, rule: &'static str, span: Span, message: String) {
    warnings.push(Warning { rule, message, span });
}

/// Keywords as written, `FROM` included.
fn keywords<'a>(
    global_args: &'a [Instruction],
    stages: &'a [Stage],
) -> impl Iterator<Item = (&'a str, Span)> {
    let keyword =
        |instruction: &'a Instruction| (instruction.keyword.text.as_str(), instruction.keyword.span);
    let in_stages = stages.iter().flat_map(move |stage| {
        let from = stage.from.original.split_whitespace().next().unwrap_or("FROM");
        let span = Span::new(stage.from.span.start, stage.from.span.start + from.len());
        std::iter::once((from, span)).chain(stage.instructions.iter().map(keyword))
    });
    global_args.iter().map(keyword).chain(in_stages)
}

fn is_lower(keyword: &str) -> bool {
    !keyword.contains(|c: char| c.is_ascii_uppercase())
}

fn is_upper(keyword: &str) -> bool {
    !keyword.contains(|c: char| c.is_ascii_lowercase())
}

fn keyword_casing(global_args: &[Instruction], stages: &[Stage], warnings: &mut Vec<Warning>) {
    let count =
        |is: fn(&str) -> bool| keywords(global_args, stages).filter(|(keyword, _)| is(keyword)).count();
    let lower = count(is_lower) > count(is_upper);
    for (keyword, span) in keywords(global_args, stages) {
        let (wrong, case) = if lower { (!is_lower(keyword), "lower") } else { (!is_upper(keyword), "upper") };
        if wrong {
            let message = format!("keyword `{keyword}` should be {case} case, as most of this file");
            warn(warnings, "ConsistentInstructionCasing", span, message);
        }
    }
}

fn duplicate_names(stages: &[Stage], warnings: &mut Vec<Warning>) {
    let mut seen = HashMap::new();
    for stage in stages {
        let Some(name) = &stage.from.name else { continue };
        if let Some(earlier) = seen.insert(name.text.as_str(), stage.index) {
            let message = format!(
                "stage name `{}` is taken by stage {earlier} already; from here on it means this stage",
                name.text
            );
            warn(warnings, "DuplicateStageName", name.span, message);
        }
    }
}

/// Of CMD, ENTRYPOINT and HEALTHCHECK only the last one of a stage counts.
fn overridden(stage: &Stage, warnings: &mut Vec<Warning>) {
    let mut last: [(&str, Option<Span>); 3] = [("CMD", None), ("ENTRYPOINT", None), ("HEALTHCHECK", None)];
    for instruction in &stage.instructions {
        let (name, slot) = match instruction.kind {
            InstructionKind::Cmd(_) => &mut last[0],
            InstructionKind::Entrypoint(_) => &mut last[1],
            InstructionKind::Healthcheck(_) => &mut last[2],
            _ => continue,
        };
        if let Some(earlier) = slot.replace(instruction.span) {
            let message = format!("this {name} has no effect: a later {name} of the same stage replaces it");
            warn(warnings, "MultipleInstructionsDisallowed", earlier, message);
        }
    }
}

fn single_instructions(stage: &Stage, warnings: &mut Vec<Warning>) {
    let mut shell_chosen = false;
    for instruction in &stage.instructions {
        match &instruction.kind {
            InstructionKind::Shell(_) => shell_chosen = true,
            InstructionKind::Maintainer(_) => {
                let message =
                    "MAINTAINER is deprecated; use LABEL org.opencontainers.image.authors=".to_owned();
                warn(warnings, "MaintainerDeprecated", instruction.span, message);
            }
            // Text that was meant as JSON has got its own warning.
            InstructionKind::Cmd(CommandLine::Shell(text))
            | InstructionKind::Entrypoint(CommandLine::Shell(text))
                if !shell_chosen && !json::looks_meant(text) =>
            {
                let message = format!(
                    "{} in shell form keeps signals from the program; use the JSON form",
                    instruction.keyword.text.to_ascii_uppercase()
                );
                warn(warnings, "JSONArgsRecommended", instruction.span, message);
            }
            _ => {}
        }
    }
}
