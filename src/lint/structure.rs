//! Rules about how the file is written, whatever its variables hold.

use std::collections::BTreeSet;

use crate::dockerfile::{Dockerfile, Instruction, InstructionKind, Span, Stage, Warning};

use super::finding::{Edit, Findings, Place};
use super::legacy;
use super::rule as rules;

/// Reports what the parser saw, and the rules of whole stages.
pub(super) fn check(findings: &mut Findings<'_>) {
    let dockerfile = findings.dockerfile;
    let places = places(dockerfile);
    // Findings of one line come in BuildKit's order: a stage's name before its AS, then what instructions say
    // by themselves, then what they say together.
    let (after, before): (Vec<_>, Vec<_>) =
        dockerfile.warnings.iter().partition(|warning| warning.rule == "FromAsCasing");
    for warning in before.into_iter().chain(after) {
        parsed(warning, &places, findings);
    }
    for stage in &dockerfile.stages {
        descriptions(stage, findings);
        for instruction in &stage.instructions {
            if let InstructionKind::Maintainer(name) = &instruction.kind {
                legacy::maintainer(instruction, name, findings);
            }
        }
    }
    for instruction in &dockerfile.global_args {
        argument_description(instruction, findings);
    }
    stage_names(findings);
    casing(findings);
}

/// An instruction with its place; `FROM` is none.
type Stood<'a> = (Place<'a>, Option<&'a Instruction>);

/// All instructions in order, `FROM` included.
fn places(dockerfile: &Dockerfile) -> Vec<Stood<'_>> {
    let of = |instruction| (Place::of(instruction), Some(instruction));
    let stages = dockerfile.stages.iter().flat_map(|stage| {
        std::iter::once((Place::from(&stage.from), None)).chain(stage.instructions.iter().map(of))
    });
    dockerfile.global_args.iter().map(of).chain(stages).collect()
}

/// The instruction that a span belongs to. A blank line at the end of a file belongs to one that has ended
/// before it.
fn place_of<'a>(places: &[Stood<'a>], span: Span) -> Stood<'a> {
    let after = places.partition_point(|(place, _)| place.span.start <= span.start);
    after.checked_sub(1).and_then(|at| places.get(at)).copied().unwrap_or((Place::at(span), None))
}

fn parsed(warning: &Warning, places: &[Stood<'_>], findings: &mut Findings<'_>) {
    let dockerfile = findings.dockerfile;
    let (place, instruction) = place_of(places, warning.span);
    let source = &dockerfile.source;
    match warning.rule {
        "NoEmptyContinuation" => {
            let head = head(place.span, instruction);
            let last = Span::new(source.line_start(super::finding::lines(source, head).1), head.end);
            // The reference shows the line where the instruction ends.
            let shown = if last.start < warning.span.start { warning.span } else { last };
            let place = Place { span: shown, ..place };
            findings.add_with(
                &rules::NO_EMPTY_CONTINUATION,
                place,
                &*warning.message,
                blank_lines(dockerfile, head),
            );
        }
        "StageNameCasing" => {
            let lower = source.slice(warning.span).to_lowercase();
            let edits = vec![Edit::new(warning.span, lower)];
            findings.add_with(&rules::STAGE_NAME_CASING, place, &*warning.message, edits);
        }
        "FromAsCasing" => {
            let written = source.slice(warning.span);
            let lower = source.slice(place.span).starts_with(|c: char| c.is_ascii_lowercase());
            let text = if lower { written.to_ascii_lowercase() } else { written.to_ascii_uppercase() };
            findings.add_with(
                &rules::FROM_AS_CASING,
                place,
                &*warning.message,
                vec![Edit::new(warning.span, text)],
            );
        }
        "EmptyCommand" => findings.add(&rules::EMPTY_COMMAND, place, &*warning.message),
        "MalformedJsonForm" => findings.add(&rules::MALFORMED_JSON_FORM, place, &*warning.message),
        "HeredocDashSpace" => {
            let edits = vec![Edit::new(warning.span, "")];
            findings.add_with(&rules::HEREDOC_DASH_SPACE, place, &*warning.message, edits);
        }
        _ => {}
    }
}

/// An instruction without the bodies of its here-documents.
fn head(span: Span, instruction: Option<&Instruction>) -> Span {
    let body = instruction.and_then(first_body);
    body.map_or(span, |body| Span::new(span.start, body.start.saturating_sub(1).max(span.start)))
}

fn first_body(instruction: &Instruction) -> Option<Span> {
    use crate::dockerfile::CopySource;
    match &instruction.kind {
        InstructionKind::Run(run) => run.heredocs.first().map(|heredoc| heredoc.span),
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => {
            copy.sources.iter().find_map(|source| match source {
                CopySource::Heredoc(heredoc) => Some(heredoc.span),
                CopySource::Path(_) => None,
            })
        }
        InstructionKind::Onbuild(onbuild) => first_body(&onbuild.instruction),
        _ => None,
    }
}

/// Removes the blank lines of a span.
fn blank_lines(dockerfile: &Dockerfile, span: Span) -> Vec<Edit> {
    let source = &dockerfile.source;
    let (first, last) = super::finding::lines(source, span);
    (first..=last)
        .filter(|line| source.line(*line).trim().is_empty())
        .map(|line| Edit::new(Span::new(source.line_start(line), source.line_start(line + 1)), ""))
        .collect()
}

/// A keyword with the place of its instruction.
struct Keyword<'a> {
    text: &'a str,
    span: Span,
    place: Place<'a>,
}

/// Keywords of stages as written, `FROM` included; BuildKit leaves out what stands before.
fn keywords(dockerfile: &Dockerfile) -> Vec<Keyword<'_>> {
    let mut all = Vec::new();
    for stage in &dockerfile.stages {
        let from = &stage.from;
        let text = from.original.split_whitespace().next().unwrap_or("FROM");
        let span = Span::new(from.span.start, from.span.start + text.len());
        all.push(Keyword { text, span, place: Place::from(from) });
        all.extend(stage.instructions.iter().map(|instruction| Keyword {
            text: &instruction.keyword.text,
            span: instruction.keyword.span,
            place: Place::of(instruction),
        }));
    }
    all
}

fn casing(findings: &mut Findings<'_>) {
    let dockerfile = findings.dockerfile;
    let all = keywords(dockerfile);
    let is_lower = |text: &str| !text.contains(|c: char| c.is_ascii_uppercase());
    let is_upper = |text: &str| !text.contains(|c: char| c.is_ascii_lowercase());
    let lower = all.iter().filter(|keyword| is_lower(keyword.text)).count()
        > all.iter().filter(|keyword| is_upper(keyword.text)).count();
    for keyword in all {
        let wrong = if lower { !is_lower(keyword.text) } else { !is_upper(keyword.text) };
        if !wrong {
            continue;
        }
        let (case, right) = if lower {
            ("lowercase", keyword.text.to_ascii_lowercase())
        } else {
            ("uppercase", keyword.text.to_ascii_uppercase())
        };
        let detail =
            format!("Command '{}' should match the case of the command majority ({case})", keyword.text);
        let literal = dockerfile.source.slice(keyword.span).eq_ignore_ascii_case(&right);
        let edits = if literal { vec![Edit::new(keyword.span, right)] } else { Vec::new() };
        findings.add_with(&rules::CONSISTENT_INSTRUCTION_CASING, keyword.place, detail, edits);
    }
}

fn stage_names(findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for stage in &findings.dockerfile.stages {
        let Some(name) = stage.name() else { continue };
        let place = Place::from(&stage.from);
        if matches!(name, "scratch" | "context") {
            let detail = format!("Stage name should not use the same name as reserved stage {name:?}");
            findings.add(&rules::RESERVED_STAGE_NAME, place, detail);
        }
        if !seen.insert(name) {
            let detail = format!("Duplicate stage name {name:?}, stage names should be unique");
            findings.add(&rules::DUPLICATE_STAGE_NAME, place, detail);
        }
    }
}

fn descriptions(stage: &Stage, findings: &mut Findings<'_>) {
    if let Some(name) = stage.name() {
        describe("FROM", &[name], &stage.from.comments, Place::from(&stage.from), findings);
    }
    for instruction in &stage.instructions {
        argument_description(instruction, findings);
    }
}

fn argument_description(instruction: &Instruction, findings: &mut Findings<'_>) {
    let InstructionKind::Arg(declarations) = &instruction.kind else { return };
    let names: Vec<&str> = declarations.iter().map(|declaration| declaration.name.text.as_str()).collect();
    describe("ARG", &names, &instruction.comments, Place::of(instruction), findings);
}

/// The comment right above must begin with the name of what it describes.
fn describe(
    keyword: &str,
    names: &[&str],
    comments: &[String],
    place: Place<'_>,
    findings: &mut Findings<'_>,
) {
    let Some(last) = comments.last() else { return };
    if last.split(' ').next().is_some_and(|word| names.contains(&word)) {
        return;
    }
    let example = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    let detail = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    findings.add(&rules::INVALID_DEFINITION_DESCRIPTION, place, detail);
}
