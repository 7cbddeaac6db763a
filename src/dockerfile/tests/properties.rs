//! What holds for every text.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Every span a file holds.
fn spans(file: &Dockerfile) -> Vec<Span> {
    let mut spans: Vec<Span> = file.warnings.iter().map(|warning| warning.span).collect();
    spans.extend(
        [&file.directives.syntax, &file.directives.check].into_iter().flatten().map(|word| word.span),
    );
    for stage in &file.stages {
        spans.extend([stage.from.span, stage.from.image.span]);
        spans.extend([&stage.from.name, &stage.from.platform].into_iter().flatten().map(|word| word.span));
    }
    for instruction in file.global_args.iter().chain(file.stages.iter().flat_map(|stage| &stage.instructions))
    {
        instruction_spans(instruction, &mut spans);
    }
    spans
}

fn instruction_spans(instruction: &Instruction, spans: &mut Vec<Span>) {
    spans.extend([instruction.span, instruction.keyword.span]);
    match &instruction.kind {
        InstructionKind::Arg(args) => spans.extend(
            args.iter().flat_map(|arg| std::iter::once(&arg.name).chain(&arg.default)).map(|word| word.span),
        ),
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            spans.extend(pairs.iter().flat_map(|pair| [pair.key.span, pair.value.span]));
        }
        InstructionKind::Maintainer(word)
        | InstructionKind::Workdir(word)
        | InstructionKind::User(word)
        | InstructionKind::StopSignal(word) => spans.push(word.span),
        InstructionKind::Run(run) => {
            spans.extend(run.mounts.iter().map(|mount| mount.value.span));
            spans.extend(run.heredocs.iter().map(|heredoc| heredoc.span));
        }
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => {
            spans.push(copy.dest.span);
            spans.extend(copy.flags.spans.iter().map(|(_, span)| *span));
            spans.extend(copy.sources.iter().map(|source| match source {
                CopySource::Path(word) => word.span,
                CopySource::Heredoc(heredoc) => heredoc.span,
            }));
        }
        InstructionKind::Expose(words) | InstructionKind::Volume(words) => {
            spans.extend(words.iter().map(|word| word.span));
        }
        InstructionKind::Onbuild(onbuild) => instruction_spans(&onbuild.instruction, spans),
        InstructionKind::Cmd(_)
        | InstructionKind::Entrypoint(_)
        | InstructionKind::Shell(_)
        | InstructionKind::Healthcheck(_) => {}
    }
}

fn inside(source: &Source, span: Span) -> bool {
    source.text().get(span.start..span.end).is_some()
}

/// Parses, and checks what holds of the result whatever it is.
fn judge(text: &[u8]) {
    match parse("Dockerfile", text) {
        Ok(file) => {
            assert!(!file.stages.is_empty());
            for span in spans(&file) {
                assert!(inside(&file.source, span), "{span:?} in {:?}", file.source.text());
            }
        }
        Err(errors) => {
            for error in errors.iter() {
                assert!(inside(&error.source, error.span), "{error:?}");
                let shown =
                    render_error(&error.source, error.span, &error.message, error.help.as_deref(), false);
                assert!(shown.contains("Dockerfile:"), "{shown}");
            }
        }
    }
}

/// Lines that are nearly instructions, to get far into the parser.
fn line() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "LABEL",
        "ARG",
        "CMD",
        "ENTRYPOINT",
        "SHELL",
        "EXPOSE",
        "VOLUME",
        "USER",
        "WORKDIR",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ONBUILD",
        "ONBUILD RUN",
        "ONBUILD COPY",
        "MAINTAINER",
        "#",
        "# escape=`",
        "run",
        "",
        " ",
        "EOF",
        "\tEOF",
    ]);
    let piece = prop::sample::select(vec![
        "a",
        "b=c",
        "=",
        "[\"x\", \"y\"]",
        "[\"x\",",
        "['x']",
        "<<EOF",
        "<<-'EOF'",
        "<<",
        "--from=a",
        "--mount=type=cache,target=/x",
        "--link",
        "--",
        "--x",
        "\\",
        "`",
        "'",
        "\"",
        "$A",
        "${A:-b}",
        "é",
        "AS",
        "NONE",
        "CMD",
        "--interval=1s",
        "\t",
        "\u{a0}",
        "# x",
        "\u{2028}",
        "\r",
    ]);
    (keyword, prop::collection::vec(piece, 0..5))
        .prop_map(|(keyword, pieces)| format!("{keyword} {}", pieces.join(" ")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        judge(&bytes);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        judge(text.as_bytes());
    }

    #[test]
    fn nearly_right_text_never_panics_and_spans_stay_inside(
        lines in prop::collection::vec(line(), 0..12),
        dos in any::<bool>(),
        end in any::<bool>(),
    ) {
        let mut text = lines.join(if dos { "\r\n" } else { "\n" });
        if end {
            text.push('\n');
        }
        judge(text.as_bytes());
        judge(format!("FROM x\n{text}").as_bytes());
        let _ = parse_trigger("trigger", &text, '\\');
    }

    #[test]
    fn stored_triggers_read_back_as_written(lines in prop::collection::vec(line(), 1..4)) {
        let text = format!("FROM x\nONBUILD {}\nx\nEOF\nEOF\n", lines.join("\n"));
        let Ok(file) = parse("Dockerfile", text.as_bytes()) else { return Ok(()) };
        for instruction in &file.stages[0].instructions {
            let InstructionKind::Onbuild(onbuild) = &instruction.kind else { continue };
            let again = parse_trigger("trigger", &onbuild.trigger, file.directives.escape);
            prop_assert!(again.is_ok(), "{:?}: {}", onbuild.trigger, again.unwrap_err());
            prop_assert_eq!(&again.unwrap().instruction.original, &onbuild.instruction.original);
        }
    }
}

#[test]
fn large_inputs_take_time_linear_in_their_size() {
    let line = |piece: &str| piece.repeat(60_000 / piece.len());
    let hostile = [
        line("${"),
        line("$(("),
        line("'"),
        line("\""),
        line("<<a "),
        line("<<"),
        line("["),
        line("[\""),
        line("--a "),
        line("--mount=a "),
        line("\\"),
        line("a=b "),
        line("\"a\","),
    ];
    let started = Instant::now();
    for piece in &hostile {
        for keyword in ["RUN", "COPY", "ENV", "ARG", "CMD", "EXPOSE", "HEALTHCHECK", "ONBUILD RUN", "FROM"] {
            judge(format!("FROM x\n{keyword} {piece}\n").as_bytes());
        }
    }
    judge("RUN a \\\n".repeat(100_000).as_bytes());
    judge(format!("FROM x\n{}", "# c\n".repeat(200_000)).as_bytes());
    judge(format!("FROM x\n{}", "ENV a=b\n".repeat(50_000)).as_bytes());
    judge(format!("FROM x\nRUN <<E\n{}", "x\n".repeat(200_000)).as_bytes());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
