//! One instruction: its keyword, flags, here-documents and arguments.

use super::ast::{CommandLine, From, Heredoc, Instruction, InstructionKind, Onbuild, Warning, Word};
use super::error::{Outcome, Problem};
use super::flags::Flags;
use super::lines::Reader;
use super::source::Span;
use super::text::View;
use super::{heredoc, json};
use crate::suggest::suggest;

mod copy;
mod from;
mod healthcheck;
mod pairs;
mod run;

/// Every keyword, upper case.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What a statement turned out to be.
#[derive(Debug)]
pub(super) enum Parsed {
    From(From),
    Instruction(Box<Instruction>),
}

/// What every instruction's parser may use.
pub(super) struct Context<'c, 'a> {
    /// Where bodies of here-documents are read from.
    pub(super) reader: &'c mut Reader<'a>,
    pub(super) escape: char,
    pub(super) warnings: &'c mut Vec<Warning>,
}

impl Context<'_, '_> {
    fn warn(&mut self, rule: &'static str, span: Span, message: impl Into<String>) {
        self.warnings.push(Warning { rule, message: message.into(), span });
    }
}

/// The arguments of an instruction, taken apart as far as is the same for all.
struct Arguments<'a> {
    /// Upper-case keyword.
    keyword: &'static str,
    flags: Flags,
    /// What follows the flags, trimmed.
    text: View<'a>,
    heredocs: Vec<Attached>,
    /// The whole instruction.
    span: Span,
}

/// A here-document with its word.
struct Attached {
    token: heredoc::Token,
    heredoc: Heredoc,
}

impl Arguments<'_> {
    /// For instructions without flags.
    fn no_flags(&self) -> Outcome<()> {
        self.flags.check(self.keyword, &[])
    }

    fn required(&self, what: &str) -> Outcome<()> {
        if self.text.is_empty() {
            return Err(Problem::new(self.span, format!("{} requires {what}", self.keyword)));
        }
        Ok(())
    }

    /// The whole rest as one word.
    fn single(&self, what: &str) -> Outcome<Word> {
        self.no_flags()?;
        self.required(what)?;
        Ok(self.text.word())
    }
}

/// Parses a statement; `text` is trimmed and not empty.
pub(super) fn parse(text: View<'_>, comments: Vec<String>, context: &mut Context<'_, '_>) -> Outcome<Parsed> {
    let (keyword, rest) = text.split_blank();
    let Some(known) = KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(keyword.as_str())) else {
        return Err(unknown_keyword(keyword));
    };
    let (flags, arguments) = Flags::split(rest, context.escape)?;
    let heredocs = match *known {
        "RUN" | "COPY" | "ADD" if json::strings(arguments).is_ok_and(|json| json.is_none()) => {
            read_heredocs(arguments, context)?
        }
        _ => Vec::new(),
    };
    let span = heredocs.iter().fold(text.span(), |span, attached| span.to(attached.heredoc.span));
    let arguments = Arguments { keyword: known, flags, text: arguments, heredocs, span };
    let original = text.as_str().to_owned();
    if *known == "FROM" {
        return from::parse(arguments, keyword, original, comments, context).map(Parsed::From);
    }
    let (kind, span) = match *known {
        "ONBUILD" => onbuild(&arguments, context)?,
        _ => (kind(arguments, context)?, span),
    };
    let keyword = keyword.word();
    Ok(Parsed::Instruction(Box::new(Instruction { span, keyword, original, comments, kind })))
}

fn unknown_keyword(keyword: View<'_>) -> Problem {
    let shown: String = keyword.as_str().chars().take(40).collect();
    let problem = Problem::new(keyword.span(), format!("unknown instruction `{shown}`"));
    match suggest(keyword.as_str(), KEYWORDS) {
        Some(near) => problem.help(format!("did you mean {near}?")),
        None => {
            problem.help("a line that continues the one above needs the escape character at that line's end")
        }
    }
}

fn read_heredocs(arguments: View<'_>, context: &mut Context<'_, '_>) -> Outcome<Vec<Attached>> {
    if !arguments.as_str().contains("<<") {
        return Ok(Vec::new());
    }
    let mut attached = Vec::new();
    for token in heredoc::find(arguments.as_str()) {
        let word = arguments.sub(token.range.clone()).span();
        if let Some(blanks) = &token.apart {
            let message =
                format!("BuildKit reads no here-document where blanks stand between <<- and {}", token.name);
            context.warn("HeredocDashSpace", arguments.sub(blanks.clone()).span(), message);
        }
        let body = context.reader.heredoc(&token.name, token.strip_tabs, word)?;
        let heredoc = Heredoc {
            name: token.name.clone(),
            body: body.text,
            raw: body.raw,
            expand: token.expand,
            strip_tabs: token.strip_tabs,
            fd: token.fd,
            span: body.span,
        };
        attached.push(Attached { token, heredoc });
    }
    Ok(attached)
}

fn kind(arguments: Arguments<'_>, context: &mut Context<'_, '_>) -> Outcome<InstructionKind> {
    Ok(match arguments.keyword {
        "ARG" => InstructionKind::Arg(pairs::args(&arguments, context.escape)?),
        "ENV" => InstructionKind::Env(pairs::key_values(&arguments, context.escape)?),
        "LABEL" => InstructionKind::Label(pairs::key_values(&arguments, context.escape)?),
        "MAINTAINER" => InstructionKind::Maintainer(arguments.single("a name")?),
        "RUN" => InstructionKind::Run(run::parse(arguments, context)?),
        "COPY" => InstructionKind::Copy(copy::parse(arguments, copy::COPY, context)?),
        "ADD" => InstructionKind::Add(copy::parse(arguments, copy::ADD, context)?),
        "WORKDIR" => InstructionKind::Workdir(arguments.single("exactly one argument, a path")?),
        "USER" => InstructionKind::User(arguments.single("exactly one argument, user[:group]")?),
        "STOPSIGNAL" => InstructionKind::StopSignal(arguments.single("exactly one argument, a signal")?),
        "CMD" => InstructionKind::Cmd(command(&arguments, context)?),
        "ENTRYPOINT" => InstructionKind::Entrypoint(command(&arguments, context)?),
        "SHELL" => InstructionKind::Shell(shell(&arguments)?),
        "EXPOSE" => InstructionKind::Expose(expose(&arguments)?),
        "VOLUME" => InstructionKind::Volume(volume(&arguments, context)?),
        "HEALTHCHECK" => InstructionKind::Healthcheck(healthcheck::parse(&arguments, context)?),
        other => return Err(Problem::new(arguments.span, format!("{other} cannot stand here"))),
    })
}

/// Shell form or exec form, whatever follows the flags.
fn command_line(
    arguments: &Arguments<'_>,
    text: View<'_>,
    context: &mut Context<'_, '_>,
) -> Outcome<CommandLine> {
    if let Some(words) = json::strings(text)? {
        return Ok(CommandLine::Exec(words.into_iter().map(|word| word.text).collect()));
    }
    warn_if_meant_as_json(arguments, text, context);
    Ok(CommandLine::Shell(text.as_str().to_owned()))
}

fn warn_if_meant_as_json(arguments: &Arguments<'_>, text: View<'_>, context: &mut Context<'_, '_>) {
    if json::looks_meant(text.as_str()) {
        let message = format!(
            "The argument of {} looks like a JSON array but is not valid JSON, so it is taken as plain text; JSON needs double quotes and no trailing comma",
            arguments.keyword
        );
        context.warn("MalformedJsonForm", text.span(), message);
    }
}

/// `CMD` and `ENTRYPOINT`.
fn command(arguments: &Arguments<'_>, context: &mut Context<'_, '_>) -> Outcome<CommandLine> {
    arguments.no_flags()?;
    warn_if_empty(arguments, context);
    command_line(arguments, arguments.text, context)
}

/// An instruction without its command gives the shell an empty one, as BuildKit has it.
fn warn_if_empty(arguments: &Arguments<'_>, context: &mut Context<'_, '_>) {
    if arguments.text.is_empty() {
        let keyword = arguments.keyword;
        let clear = if keyword == "RUN" {
            String::new()
        } else {
            format!("; write `{keyword} []` to clear an inherited one")
        };
        let message = format!("{keyword} without a command has the shell do nothing{clear}");
        context.warn("EmptyCommand", arguments.span, message);
    }
}

fn shell(arguments: &Arguments<'_>) -> Outcome<Vec<String>> {
    arguments.no_flags()?;
    arguments.required("at least one argument")?;
    match json::strings(arguments.text)? {
        Some(words) if words.is_empty() => {
            Err(Problem::new(arguments.text.span(), "SHELL requires at least one argument"))
        }
        Some(words) => Ok(words.into_iter().map(|word| word.text).collect()),
        None => Err(Problem::new(arguments.text.span(), "SHELL requires its arguments in JSON form")
            .help("for example SHELL [\"/bin/bash\", \"-c\"]")),
    }
}

fn expose(arguments: &Arguments<'_>) -> Outcome<Vec<Word>> {
    arguments.no_flags()?;
    arguments.required("at least one port")?;
    Ok(arguments.text.blank_separated().into_iter().map(View::word).collect())
}

fn volume(arguments: &Arguments<'_>, context: &mut Context<'_, '_>) -> Outcome<Vec<Word>> {
    arguments.no_flags()?;
    arguments.required("at least one path")?;
    let words = match json::strings(arguments.text)? {
        Some(words) => words,
        None => {
            warn_if_meant_as_json(arguments, arguments.text, context);
            arguments.text.blank_separated().into_iter().map(View::word).collect()
        }
    };
    if words.is_empty() {
        return Err(Problem::new(arguments.span, "VOLUME requires at least one path"));
    }
    match words.iter().find(|word| word.text.trim().is_empty()) {
        Some(empty) => Err(Problem::new(empty.span, "a VOLUME path cannot be empty")),
        None => Ok(words),
    }
}

/// Instructions that are refused as triggers, and why.
pub(super) fn refuse_as_trigger(keyword: &str, span: Span) -> Outcome<()> {
    let message = match keyword.to_ascii_uppercase().as_str() {
        "ONBUILD" => "ONBUILD cannot hold another ONBUILD",
        "FROM" => "FROM is not allowed as an ONBUILD trigger",
        "MAINTAINER" => "MAINTAINER is not allowed as an ONBUILD trigger",
        _ => return Ok(()),
    };
    Err(Problem::new(span, message))
}

fn onbuild(arguments: &Arguments<'_>, context: &mut Context<'_, '_>) -> Outcome<(InstructionKind, Span)> {
    arguments.no_flags()?;
    arguments.required("an instruction")?;
    let text = arguments.text;
    let keyword = text.split_blank().0;
    refuse_as_trigger(keyword.as_str(), keyword.span())?;
    let before = context.reader.position();
    let Parsed::Instruction(instruction) = parse(text, Vec::new(), context)? else {
        return Err(Problem::new(keyword.span(), "FROM is not allowed as an ONBUILD trigger"));
    };
    let mut trigger = text.as_str().to_owned();
    let bodies = context.reader.read_since(before);
    if !bodies.is_empty() {
        trigger.push('\n');
        trigger.push_str(bodies.replace("\r\n", "\n").trim_end_matches(['\r', '\n']));
    }
    let span = arguments.span.to(instruction.span);
    Ok((InstructionKind::Onbuild(Onbuild { trigger, instruction }), span))
}
