//! The way through a whole file: directives, then statement after statement into stages.

use std::sync::Arc;

use super::ast::{Dockerfile, Instruction, InstructionKind, Stage, Warning};
use super::directives;
use super::error::{Outcome, ParseErrors, Problem};
use super::instruction::{self, Context, Parsed};
use super::lines::{Line, MAX_LINE, Reader, Statement};
use super::source::{Source, Span};

/// So many mistakes are reported at most; what follows them is rarely news.
const MAX_ERRORS: usize = 20;

/// Parses a Dockerfile. `name` is what messages call it, usually its path as the user gave it.
///
/// # Errors
/// Every mistake found, at most twenty. Instructions are judged one by one, so several mistakes show at
/// once.
pub fn parse(name: &str, text: &[u8]) -> Result<Dockerfile, ParseErrors> {
    let source = decode(name, text)?;
    let single = |problem| ParseErrors::one(&source, problem);
    check_lines(source.text()).map_err(single)?;
    let (directives, start) = directives::read(source.text()).map_err(single)?;
    let mut assembly = Assembly::default();
    let mut reader = Reader::new(source.text(), start, directives.escape);
    while let Some(statement) = reader.next_statement() {
        if assembly.problems.len() >= MAX_ERRORS {
            break;
        }
        assembly.statement(statement, &mut reader, directives.escape);
    }
    assembly.finish(source, directives)
}

/// An `ONBUILD` trigger of a base image's config, ready to be run after `FROM`.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// The trigger's text; the instruction's spans point into it.
    pub source: Arc<Source>,
    /// What it says. Never FROM, ONBUILD or MAINTAINER.
    pub instruction: Instruction,
}

/// Parses an `ONBUILD` trigger that an image's config holds. `name` is what messages call it; `escape`
/// is the escape character to read it with (`\` for what other builders stored).
///
/// # Errors
/// Mistakes in the instruction, anything but exactly one instruction, and instructions that may not be
/// triggers.
pub fn parse_trigger(name: &str, trigger: &str, escape: char) -> Result<Trigger, ParseErrors> {
    let source = Source::new(name, trigger);
    let parsed = trigger_instruction(source.text(), escape);
    match parsed {
        Ok(instruction) => Ok(Trigger { source, instruction }),
        Err(problem) => Err(ParseErrors::one(&source, problem)),
    }
}

fn trigger_instruction(text: &str, escape: char) -> Outcome<Instruction> {
    let everything = Span::new(0, text.trim_end().len());
    check_lines(text)?;
    let mut reader = Reader::new(text, 0, escape);
    let Some(statement) = reader.next_statement() else {
        return Err(Problem::new(everything, "the ONBUILD trigger is empty"));
    };
    let view = statement.text.view().trim();
    let keyword = view.split_blank().0;
    instruction::refuse_as_trigger(keyword.as_str(), keyword.span())?;
    let mut context = Context { reader: &mut reader, escape, warnings: &mut Vec::new() };
    let parsed = instruction::parse(view, statement.comments, &mut context)?;
    if let Some(second) = reader.next_statement() {
        let message = "an ONBUILD trigger holds exactly one instruction";
        return Err(Problem::new(second.text.view().trim().span(), message));
    }
    match parsed {
        Parsed::Instruction(instruction) => Ok(*instruction),
        Parsed::From(from) => Err(Problem::new(from.span, "FROM is not allowed as an ONBUILD trigger")),
    }
}

/// Text of a file: UTF-8 without its byte order mark.
fn decode(name: &str, text: &[u8]) -> Result<Arc<Source>, ParseErrors> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let text = text.strip_prefix(MARK).unwrap_or(text);
    let problem = match std::str::from_utf8(text) {
        Ok(text) => match text.find('\0') {
            None => return Ok(Source::new(name, text)),
            Some(at) => Problem::new(Span::new(at, at + 1), "the file holds a NUL byte"),
        },
        Err(error) => {
            let at = error.valid_up_to();
            let replaced = char::REPLACEMENT_CHARACTER.len_utf8();
            Problem::new(Span::new(at, at + replaced), "the file is not valid UTF-8 here")
        }
    };
    let problem = match text {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] => {
            problem.help("it looks like UTF-16; save it as UTF-8")
        }
        _ => problem.help("save the file as UTF-8 text"),
    };
    Err(ParseErrors::one(&Source::new(name, String::from_utf8_lossy(text)), problem))
}

fn check_lines(text: &str) -> Outcome<()> {
    let mut reader = Reader::new(text, 0, '\\');
    while let Some(line) = reader.next_line() {
        if line.text.len() > MAX_LINE {
            return Err(too_long(line));
        }
    }
    Ok(())
}

fn too_long(line: Line<'_>) -> Problem {
    let message = format!("line longer than {MAX_LINE} bytes ({})", line.text.len());
    Problem::new(line.span(), message)
        .help("split it with continuations, or put the data in a file of its own")
}

/// The instructions that begin before a place.
fn up_to(mut dockerfile: Dockerfile, end: usize) -> Dockerfile {
    let is_before = |span: Span| span.start < end;
    dockerfile.global_args.retain(|instruction| is_before(instruction.span));
    dockerfile.stages.retain(|stage| is_before(stage.from.span));
    for stage in &mut dockerfile.stages {
        stage.instructions.retain(|instruction| is_before(instruction.span));
    }
    dockerfile.warnings.retain(|warning| is_before(warning.span));
    dockerfile
}

#[derive(Default)]
struct Assembly {
    global_args: Vec<Instruction>,
    stages: Vec<Stage>,
    warnings: Vec<Warning>,
    problems: Vec<Problem>,
    /// A FROM was seen, be it a wrong one.
    in_stage: bool,
    /// The complaint about instructions before FROM was made.
    order_reported: bool,
    anything: bool,
}

impl Assembly {
    fn statement(&mut self, statement: Statement, reader: &mut Reader<'_>, escape: char) {
        self.anything = true;
        let view = statement.text.view().trim();
        if let Some(span) = statement.blank {
            let message = "Empty continuation line".to_owned();
            self.warnings.push(Warning { rule: "NoEmptyContinuation", message, span });
        }
        let mut context = Context { reader, escape, warnings: &mut self.warnings };
        match instruction::parse(view, statement.comments, &mut context) {
            Ok(Parsed::From(from)) => {
                self.in_stage = true;
                self.stages.push(Stage { index: self.stages.len(), from, instructions: Vec::new() });
            }
            Ok(Parsed::Instruction(instruction)) => self.instruction(*instruction),
            Err(problem) => {
                self.in_stage |= view.split_blank().0.as_str().eq_ignore_ascii_case("FROM");
                self.problems.push(problem);
            }
        }
    }

    fn instruction(&mut self, instruction: Instruction) {
        if let Some(stage) = self.stages.last_mut() {
            stage.instructions.push(instruction);
        } else if matches!(instruction.kind, InstructionKind::Arg(_)) {
            self.global_args.push(instruction);
        } else if !self.in_stage && !self.order_reported {
            self.order_reported = true;
            let keyword = instruction.keyword;
            let message = format!("{} before the first FROM", keyword.text.to_ascii_uppercase());
            self.problems.push(
                Problem::new(keyword.span, message)
                    .help("a stage begins with FROM; only ARG, comments and directives may stand before it"),
            );
        }
    }

    fn finish(
        mut self,
        source: Arc<Source>,
        directives: super::ast::Directives,
    ) -> Result<Dockerfile, ParseErrors> {
        if self.problems.is_empty() && self.stages.is_empty() {
            self.problems.push(self.no_stage(&source));
        }
        let errors = ParseErrors::new(&source, self.problems);
        let Assembly { global_args, stages, mut warnings, .. } = self;
        warnings.sort_by_key(|warning| warning.span.start);
        let dockerfile = Dockerfile { source, directives, global_args, stages, warnings };
        match errors {
            None => Ok(dockerfile),
            Some(errors) => {
                let end = errors.first().span.start;
                Err(errors.after(Some(up_to(dockerfile, end)).filter(|before| !before.stages.is_empty())))
            }
        }
    }

    fn no_stage(&self, source: &Source) -> Problem {
        let end = source.text().trim_end().len();
        if self.anything {
            return Problem::new(Span::new(end, end), "no build stage: the file has no FROM")
                .help("a stage begins with FROM; ARG alone builds nothing");
        }
        if end == 0 {
            return Problem::new(Span::default(), "the Dockerfile is empty")
                .help("it needs at least one FROM");
        }
        Problem::new(Span::new(end, end), "the file holds no instructions").help("it needs at least one FROM")
    }
}
