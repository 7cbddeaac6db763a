//! Another parser of the same language, where it knows as much as ours: files without here-documents.

use parse_dockerfile::{Command, Instruction as Theirs, JsonOrStringArray, Source as TheirSource};

use super::*;

/// An instruction in a form both parsers can be brought to.
fn ours(kind: &InstructionKind) -> String {
    let command = |command: &CommandLine| match command {
        CommandLine::Shell(text) => format!("shell {}", squeeze(text)),
        CommandLine::Exec(words) => format!("exec {words:?}"),
    };
    let copy = |name: &str, copy: &Copy| {
        let sources: Vec<_> = copy
            .sources
            .iter()
            .map(|source| match source {
                CopySource::Path(word) => word.text.as_str(),
                CopySource::Heredoc(_) => panic!("no here-documents here"),
            })
            .collect();
        let flags: Vec<_> = copy.flags.spans.iter().map(|(name, _)| *name).collect();
        format!("{name} {flags:?} {sources:?} {:?}", copy.dest.text)
    };
    match kind {
        InstructionKind::Arg(_) => "ARG".to_owned(),
        InstructionKind::Env(_) => "ENV".to_owned(),
        InstructionKind::Label(_) => "LABEL".to_owned(),
        InstructionKind::Maintainer(word) => format!("MAINTAINER {}", word.text),
        InstructionKind::Run(run) => format!("RUN {} {}", run.mounts.len(), command(&run.command)),
        InstructionKind::Copy(c) => copy("COPY", c),
        InstructionKind::Add(c) => copy("ADD", c),
        InstructionKind::Workdir(word) => format!("WORKDIR {}", word.text),
        InstructionKind::User(word) => format!("USER {}", word.text),
        InstructionKind::Cmd(c) => format!("CMD {}", command(c)),
        InstructionKind::Entrypoint(c) => format!("ENTRYPOINT {}", command(c)),
        InstructionKind::Shell(words) => format!("SHELL {words:?}"),
        InstructionKind::Expose(words) => format!("EXPOSE {:?}", texts(words)),
        InstructionKind::Volume(words) => format!("VOLUME {:?}", texts(words)),
        InstructionKind::StopSignal(word) => format!("STOPSIGNAL {}", word.text),
        InstructionKind::Healthcheck(_) => "HEALTHCHECK".to_owned(),
        InstructionKind::Onbuild(onbuild) => format!("ONBUILD {}", ours(&onbuild.instruction.kind)),
    }
}

fn theirs(instruction: &Theirs<'_>, escape: char) -> String {
    let command = |command: &Command<'_>| match command {
        // Their shell form is the source as it stands: comments and continuations still in it.
        Command::Shell(text) => format!("shell {}", squeeze(&joined(text.value, escape))),
        Command::Exec(words) => {
            format!("exec {:?}", words.value.iter().map(|word| word.value.as_ref()).collect::<Vec<_>>())
        }
        _ => panic!("unknown form"),
    };
    let copy = |name: &str, options: &[parse_dockerfile::Flag<'_>], src: &[TheirSource<'_>], dest: &str| {
        let sources: Vec<_> = src
            .iter()
            .map(|source| match source {
                TheirSource::Path(path) => path.value.as_ref(),
                other => panic!("{other:?}"),
            })
            .collect();
        let flags: Vec<_> = options.iter().map(|flag| flag.name.value.as_ref()).collect();
        format!("{name} {flags:?} {sources:?} {dest:?}")
    };
    match instruction {
        Theirs::Arg(_) => "ARG".to_owned(),
        Theirs::Env(_) => "ENV".to_owned(),
        Theirs::Label(_) => "LABEL".to_owned(),
        Theirs::Maintainer(i) => format!("MAINTAINER {}", i.name.value),
        Theirs::Run(i) => {
            let mounts = i.options.iter().filter(|flag| flag.name.value == "mount").count();
            format!("RUN {mounts} {}", command(&i.arguments))
        }
        Theirs::Copy(i) => copy("COPY", &i.options, &i.src, &i.dest.value),
        Theirs::Add(i) => copy("ADD", &i.options, &i.src, &i.dest.value),
        Theirs::Workdir(i) => format!("WORKDIR {}", i.arguments.value),
        Theirs::User(i) => format!("USER {}", i.arguments.value),
        Theirs::Cmd(i) => format!("CMD {}", command(&i.arguments)),
        Theirs::Entrypoint(i) => format!("ENTRYPOINT {}", command(&i.arguments)),
        Theirs::Shell(i) => {
            format!("SHELL {:?}", i.arguments.iter().map(|word| word.value.as_ref()).collect::<Vec<_>>())
        }
        Theirs::Expose(i) => {
            format!("EXPOSE {:?}", i.arguments.iter().map(|word| word.value.as_ref()).collect::<Vec<_>>())
        }
        Theirs::Volume(i) => {
            let words = match &i.arguments {
                JsonOrStringArray::Json(words) => &words.value,
                JsonOrStringArray::String(words) => words,
            };
            format!("VOLUME {:?}", words.iter().map(|word| word.value.as_ref()).collect::<Vec<_>>())
        }
        Theirs::Stopsignal(i) => format!("STOPSIGNAL {}", i.arguments.value),
        Theirs::Healthcheck(_) => "HEALTHCHECK".to_owned(),
        Theirs::Onbuild(i) => format!("ONBUILD {}", theirs(&i.instruction, escape)),
        other => panic!("{other:?}"),
    }
}

/// Continuations and the comments between them taken out.
fn joined(text: &str, escape: char) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
        .map(|line| line.trim_end().strip_suffix(escape).unwrap_or(line))
        .collect()
}

/// Blanks at joints are kept by one parser and not by the other.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn both_parsers_read_the_same_instructions() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/real");
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("<<") {
            continue;
        }
        let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let file = good(&text);
        let other = parse_dockerfile::parse(&text).unwrap();
        let mut mine = Vec::new();
        for stage in &file.stages {
            let name = stage.name().map(str::to_owned);
            mine.push(format!("FROM {} {name:?} {}", stage.from.image.text, stage.from.platform.is_some()));
            mine.extend(stage.instructions.iter().map(|instruction| ours(&instruction.kind)));
        }
        let mut seen_from = false;
        let mut their = Vec::new();
        for instruction in &other.instructions {
            match instruction {
                Theirs::From(from) => {
                    seen_from = true;
                    let name = from.as_.as_ref().map(|(_, name)| name.value.to_lowercase());
                    their.push(format!("FROM {} {name:?} {}", from.image.value, !from.options.is_empty()));
                }
                _ if !seen_from => {}
                other => their.push(theirs(other, file.directives.escape)),
            }
        }
        assert_eq!(mine, their, "{}", path.display());
        compared += mine.len();
    }
    assert!(compared > 100, "only {compared} instructions compared");
}
