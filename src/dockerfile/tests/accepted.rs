//! What right text means.

use super::*;

fn shell(command: &CommandLine) -> &str {
    match command {
        CommandLine::Shell(text) => text,
        CommandLine::Exec(words) => panic!("exec form: {words:?}"),
    }
}

fn run(instruction: &str) -> Run {
    match kind(instruction) {
        InstructionKind::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

fn copy(instruction: &str) -> Copy {
    match kind(instruction) {
        InstructionKind::Copy(copy) | InstructionKind::Add(copy) => copy,
        other => panic!("{other:?}"),
    }
}

fn sources(copy: &Copy) -> Vec<String> {
    copy.sources
        .iter()
        .map(|source| match source {
            CopySource::Path(word) => word.text.clone(),
            CopySource::Heredoc(heredoc) => format!("<<{}", heredoc.name),
        })
        .collect()
}

#[test]
fn directives_are_read_before_anything_else() {
    for (text, escape, syntax, check) in [
        ("FROM x\n", '\\', None, None),
        ("# escape=`\nFROM x\n", '`', None, None),
        ("#escape = `  \nFROM x\n", '`', None, None),
        ("  # ESCAPE=`\nFROM x\n", '`', None, None),
        ("# escape=\\\nFROM x\n", '\\', None, None),
        ("# syntax=docker/dockerfile:1\r\n# escape=`\r\nFROM x\r\n", '`', Some("docker/dockerfile:1"), None),
        ("# check=skip=all;error=true\nFROM x\n", '\\', None, Some("skip=all;error=true")),
        ("\n# escape=`\nFROM x\n", '\\', None, None),
        ("# comment\n# escape=`\nFROM x\n", '\\', None, None),
        ("# other=1\n# escape=`\nFROM x\n", '\\', None, None),
        ("# escape\n# escape=`\nFROM x\n", '\\', None, None),
        ("# escape=\n# escape=`\nFROM x\n", '\\', None, None),
        ("FROM x\n# escape=`\n", '\\', None, None),
        ("#!/usr/bin/env rbuild\n# syntax=a/b extra\nFROM x\n", '\\', Some("a/b extra"), None),
        ("#!/x\n# escape=`\n# check=skip=A\nFROM x\n", '\\', None, Some("skip=A")),
        ("\u{feff}# escape=`\nFROM x\n", '`', None, None),
    ] {
        let file = good(text);
        assert_eq!(file.directives.escape, escape, "{text}");
        assert_eq!(file.directives.syntax.as_ref().map(|word| word.text.as_str()), syntax, "{text}");
        assert_eq!(file.directives.check.as_ref().map(|word| word.text.as_str()), check, "{text}");
        for word in [&file.directives.syntax, &file.directives.check].into_iter().flatten() {
            assert_eq!(file.source.slice(word.span), word.text);
        }
    }
}

#[test]
fn continuations_join_without_newline_or_blank() {
    for (text, expected) in [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a\\\nb", "ab"),
        ("RUN a \\  \t\nb", "a b"),
        ("RUN a \\\n# gone\n  # gone too\\\n b", "a  b"),
        ("RUN a \\\n\n   \nb", "a b"),
        ("RUN a \\\\\nENV x=1", "a \\\\"),
        ("RUN a \\\\\\\nENV x=1", "a \\\\\\"),
        ("RUN a \\", "a"),
        ("RUN a \\\n", "a"),
        ("RUN \\\n\\\na", "a"),
        ("RUN a # not a comment \\\n b", "a # not a comment  b"),
        ("RUN 'a\\\nb'", "'ab'"),
        ("RUN a \\\r\n b\r\n", "a  b"),
        ("   RUN   a   b  ", "a   b"),
        ("RUN\ta", "a"),
        ("RUN a \\ b", "a \\ b"),
    ] {
        assert_eq!(shell(&run(text).command), expected, "{text:?}");
    }
    let file = good("# escape=`\nFROM x\nRUN a `\n b\nRUN dir c:\\\nRUN ok\n");
    let commands: Vec<_> = file.stages[0].instructions.iter().map(|i| i.original.as_str()).collect();
    assert_eq!(commands, ["RUN a  b", "RUN dir c:\\", "RUN ok"]);
}

#[test]
fn original_is_the_instruction_as_written_and_joined() {
    let file = good("FROM x\n  run apt-get update \\\n  && x  \nRUN cat <<A\nbody\nA\n");
    let originals: Vec<_> = file.stages[0].instructions.iter().map(|i| i.original.as_str()).collect();
    assert_eq!(originals, ["run apt-get update   && x", "RUN cat <<A"]);
    let spans: Vec<_> = file.stages[0].instructions.iter().map(|i| file.source.slice(i.span)).collect();
    assert_eq!(spans, ["run apt-get update \\\n  && x", "RUN cat <<A\nbody\nA"]);
    assert_eq!(file.stages[0].instructions[0].keyword.text, "run");
}

#[test]
fn comments_above_belong_to_the_instruction_from_an_empty_one_on() {
    let file = good(
        "# check=skip=x\n# old\n#\n# one\n#  two\nFROM x\n# far\n\n  # indented\n# near\n\nARG a\nRUN x\n",
    );
    assert_eq!(file.stages[0].from.comments, ["one", "two"]);
    assert_eq!(file.stages[0].instructions[0].comments, ["far", "# indented", "near"]);
    assert!(file.stages[0].instructions[1].comments.is_empty());
}

#[test]
fn from_has_image_platform_and_name() {
    let file = good("ARG V=1\nFROM --platform=$P img:${V}\tas  Build-1.x\nFROM build-1.x\n");
    assert_eq!(file.global_args.len(), 1);
    let from = &file.stages[0].from;
    assert_eq!(from.image.text, "img:${V}");
    assert_eq!(from.platform.as_ref().map(|word| word.text.as_str()), Some("$P"));
    assert_eq!(file.stages[0].name(), Some("build-1.x"));
    assert_eq!(file.source.slice(from.name.as_ref().unwrap().span), "Build-1.x");
    assert_eq!(file.stages[1].index, 1);
    assert_eq!(file.stages[1].name(), None);
}

#[test]
fn exec_form_is_a_valid_json_array_of_strings_and_all_else_is_shell_form() {
    for (text, expected) in [
        ("[\"a\", \"b c\"]", Some(vec!["a", "b c"])),
        (" [ \"a\" ] ", Some(vec!["a"])),
        ("[]", Some(vec![])),
        ("[\"c:\\\\x\", \"\\u00e9\", \"\\\"\"]", Some(vec!["c:\\x", "é", "\""])),
        ("[\"a\",]", None),
        ("['a']", None),
        ("[\"a\"] tail", None),
        ("[\"a\"", None),
        ("[ -f x ] && y", None),
        ("a", None),
    ] {
        let InstructionKind::Cmd(command) = kind(&format!("CMD {text}")) else { panic!() };
        match expected {
            Some(words) => assert_eq!(
                command,
                CommandLine::Exec(words.into_iter().map(str::to_owned).collect()),
                "{text}"
            ),
            None => assert_eq!(shell(&command), text.trim(), "{text}"),
        }
    }
    let InstructionKind::Entrypoint(command) = kind("ENTRYPOINT [\"a\", \\\n \"b\"]") else { panic!() };
    assert_eq!(command, CommandLine::Exec(vec!["a".into(), "b".into()]));
    let InstructionKind::Shell(words) = kind("SHELL [\"/bin/bash\", \"-c\"]") else { panic!() };
    assert_eq!(words, ["/bin/bash", "-c"]);
}

#[test]
fn run_takes_its_flags_off_the_command() {
    let run = run(
        "RUN --mount=type=cache,target=/x --mount=Type=bind,rw,from=\"a b\" --network=none --security=insecure --device=v/c=n make --all",
    );
    assert_eq!(shell(&run.command), "make --all");
    assert_eq!(run.network.unwrap().text, "none");
    assert_eq!(run.security.unwrap().text, "insecure");
    assert_eq!(texts(&run.devices), ["v/c=n"]);
    let some = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    assert_eq!(run.mounts[0].options, [some("type", "cache"), some("target", "/x")]);
    assert_eq!(run.mounts[0].value.text, "type=cache,target=/x");
    assert_eq!(run.mounts[1].options, [some("type", "bind"), ("rw".into(), None), some("from", "a b")]);
}

#[test]
fn two_dashes_end_the_flags() {
    assert_eq!(shell(&run("RUN -- --version").command), "--version");
    assert_eq!(shell(&run("RUN --network=none -- --version").command), "--version");
    assert_eq!(shell(&run("RUN -x").command), "-x");
    assert_eq!(shell(&run("RUN x -- y").command), "x -- y");
}

#[test]
fn copy_and_add_know_their_flags() {
    let c = copy(
        "COPY --from=build --chown=a:b --chmod=u=rw --link --parents=TRUE --exclude=*.md --exclude=x a b c/",
    );
    let text = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
    assert_eq!(text(&c.flags.from).as_deref(), Some("build"));
    assert_eq!(text(&c.flags.chown).as_deref(), Some("a:b"));
    assert_eq!(text(&c.flags.chmod).as_deref(), Some("u=rw"));
    assert!(c.flags.link && c.flags.parents);
    assert_eq!(texts(&c.flags.exclude), ["*.md", "x"]);
    assert_eq!(sources(&c), ["a", "b"]);
    assert_eq!(c.dest.text, "c/");
    let names: Vec<_> = c.flags.spans.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["from", "chown", "chmod", "link", "parents", "exclude", "exclude"]);
    let a = copy("ADD --checksum=sha256:0 --keep-git-dir --unpack=false --link=false u /d");
    assert_eq!(text(&a.flags.checksum).as_deref(), Some("sha256:0"));
    assert_eq!((a.flags.keep_git_dir, a.flags.unpack, a.flags.link), (Some(true), Some(false), false));
    assert_eq!((copy("ADD u /d").flags.keep_git_dir, copy("ADD u /d").flags.unpack), (None, None));
}

#[test]
fn copy_takes_words_between_blanks_or_json() {
    assert_eq!(sources(&copy("COPY \"a b\" c")), ["\"a", "b\""]);
    assert_eq!(sources(&copy("COPY [\"a b\", \"$c\", \"/d e/\"]")), ["a b", "$c"]);
    assert_eq!(copy("COPY [\"a b\", \"/d e/\"]").dest.text, "/d e/");
    assert_eq!(sources(&copy("COPY a \\\n  b\\\n  c d")), ["a", "b", "c"]);
}

#[test]
fn copy_words_carry_their_own_place() {
    let file = good("FROM x\nCOPY a\\\nb [c \\\n  d/\nCOPY [\"e\\u0066\", \"/g\"]\n");
    let place = |instruction: usize| match &file.stages[0].instructions[instruction].kind {
        InstructionKind::Copy(copy) => {
            let words = copy.sources.iter().filter_map(|source| match source {
                CopySource::Path(word) => Some(word),
                CopySource::Heredoc(_) => None,
            });
            words.chain([&copy.dest]).map(|word| file.source.slice(word.span)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(place(0), ["a\\\nb", "[c", "d/"]);
    assert_eq!(place(1), ["\"e\\u0066\"", "\"/g\""]);
}

#[test]
fn a_place_inside_a_word_is_found_where_the_text_is_unchanged() {
    let file = good("FROM x\nENV a=b${ c=d\\\n${\n");
    let InstructionKind::Env(pairs) = &file.stages[0].instructions[0].kind else { panic!() };
    let place = |pair: usize, offset| file.source.slice(pairs[pair].value.span_at(&file.source, offset));
    assert_eq!(place(0, 1), "${");
    assert_eq!(place(0, 99), "b${");
    assert_eq!(place(1, 1), "d\\\n${");
}

#[test]
fn heredoc_bodies_are_verbatim_and_in_order() {
    let run =
        run("RUN cat <<A > a && cat <<-'B' > b\n# no comment \\\n\n\ttab\nB\nA\n\t\tone\n\ttwo \\\n\tB\n");
    assert_eq!(shell(&run.command), "cat <<A > a && cat <<-'B' > b");
    let got: Vec<_> = run
        .heredocs
        .iter()
        .map(|h| (h.name.as_str(), h.body.as_str(), h.expand, h.strip_tabs, h.fd))
        .collect();
    assert_eq!(
        got,
        [("A", "# no comment \\\n\n\ttab\nB\n", true, false, 0), ("B", "one\ntwo \\\n", false, true, 0),]
    );
    assert_eq!(shell(&self::run("RUN <<EOF\nx\nEOF").command), "<<EOF");
    assert_eq!(self::run("RUN 3<<EOF cat\nx\nEOF\n").heredocs[0].fd, 3);
    assert_eq!(self::run("RUN <<EOF\nEOF\n").heredocs[0].body, "");
}

#[test]
fn heredocs_follow_the_joined_instruction() {
    let file = good("FROM x\nRUN cat <<A \\\n  # gone\n  && echo\nbody\nA\nRUN y\n");
    assert_eq!(file.stages[0].instructions.len(), 2);
    let InstructionKind::Run(run) = &file.stages[0].instructions[0].kind else { panic!() };
    assert_eq!(run.heredocs[0].body, "body\n");
    assert_eq!(file.source.slice(run.heredocs[0].span), "body\nA");
}

#[test]
fn heredocs_in_files_with_dos_line_ends_keep_them_as_buildkit_does() {
    let text = "RUN <<-EOF\r\n\ta\r\n\r\nb\r\nEOF\r\n";
    let heredoc = &run(text).heredocs[0];
    assert_eq!((heredoc.body.as_str(), heredoc.raw.as_str()), ("a\r\n\r\nb\r\n", "\ta\r\n\r\nb\r\n"));
}

#[test]
fn copy_takes_heredocs_as_sources_among_others() {
    let c = copy("COPY <<a.txt plain << \"b c\" /dest/\nA $X\na.txt\nB\nb c\n");
    assert_eq!(sources(&c), ["<<a.txt", "plain", "<<b c"]);
    assert_eq!(c.dest.text, "/dest/");
    let CopySource::Heredoc(second) = &c.sources[2] else { panic!() };
    assert_eq!((second.body.as_str(), second.expand), ("B\n", false));
    let same = copy("ADD <<E <<E /d/\n1\nE\n2\nE\n");
    let bodies: Vec<_> = same
        .sources
        .iter()
        .filter_map(|s| if let CopySource::Heredoc(h) = s { Some(h.body.as_str()) } else { None })
        .collect();
    assert_eq!(bodies, ["1\n", "2\n"]);
}

#[test]
fn only_run_copy_and_add_have_heredocs_and_not_in_json_form() {
    assert!(run("RUN [\"cat\", \"<<EOF\"]").heredocs.is_empty());
    assert!(matches!(kind("CMD cat <<EOF"), InstructionKind::Cmd(_)));
    assert!(matches!(kind("LABEL a=<<EOF"), InstructionKind::Label(_)));
}

#[test]
fn env_and_label_take_pairs_or_one_legacy_pair() {
    let pairs = |text: &str| match kind(text) {
        InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
            pairs.into_iter().map(|pair| (pair.key.text, pair.value.text, pair.legacy)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let new = |key: &str, value: &str| (key.to_owned(), value.to_owned(), false);
    let old = |key: &str, value: &str| (key.to_owned(), value.to_owned(), true);
    for (text, expected) in [
        ("ENV a=b", vec![new("a", "b")]),
        (
            "ENV a=b c=\"d e\" f=g\\ h i='j k'",
            vec![new("a", "b"), new("c", "\"d e\""), new("f", "g\\ h"), new("i", "'j k'")],
        ),
        ("ENV a=", vec![new("a", "")]),
        ("ENV a=b=c", vec![new("a", "b=c")]),
        ("ENV $k=v \"a b\"=c", vec![new("$k", "v"), new("\"a b\"", "c")]),
        ("ENV a=\"x\\\"y z\" b=1", vec![new("a", "\"x\\\"y z\""), new("b", "1")]),
        ("ENV a=1 \\\n    b=2", vec![new("a", "1"), new("b", "2")]),
        ("ENV a b", vec![old("a", "b")]),
        ("ENV  a \t b  c=d ", vec![old("a", "b  c=d")]),
        ("ENV a \"b c\"", vec![old("a", "\"b c\"")]),
        ("ENV PATH $PATH:/x", vec![old("PATH", "$PATH:/x")]),
        ("LABEL a.b=c", vec![new("a.b", "c")]),
        ("LABEL text=\"one \\\ntwo\"", vec![new("text", "\"one two\"")]),
        ("LABEL name value here", vec![old("name", "value here")]),
    ] {
        assert_eq!(pairs(text), expected, "{text}");
    }
}

#[test]
fn arg_takes_names_with_or_without_default() {
    let InstructionKind::Arg(args) = kind("ARG a b= c=\"x y\" d=$a 'e'=f") else { panic!() };
    let got: Vec<_> = args
        .iter()
        .map(|arg| (arg.name.text.as_str(), arg.default.as_ref().map(|word| word.text.as_str())))
        .collect();
    assert_eq!(
        got,
        [("a", None), ("b", Some("")), ("c", Some("\"x y\"")), ("d", Some("$a")), ("'e'", Some("f"))]
    );
}

#[test]
fn single_word_instructions_keep_the_rest_of_the_line() {
    for (text, expected) in [
        ("WORKDIR /a b", "/a b"),
        ("WORKDIR \"/a b\"", "\"/a b\""),
        ("USER $U:${G:-x}", "$U:${G:-x}"),
        ("STOPSIGNAL SIGRTMIN+3", "SIGRTMIN+3"),
        ("MAINTAINER A B <a@b>", "A B <a@b>"),
    ] {
        let word = match kind(text) {
            InstructionKind::Workdir(word)
            | InstructionKind::User(word)
            | InstructionKind::StopSignal(word)
            | InstructionKind::Maintainer(word) => word,
            other => panic!("{other:?}"),
        };
        assert_eq!(word.text, expected);
    }
}

#[test]
fn expose_and_volume_take_several_words() {
    let InstructionKind::Expose(ports) = kind("EXPOSE 80 443/tcp  $P 8000-8010/udp") else { panic!() };
    assert_eq!(texts(&ports), ["80", "443/tcp", "$P", "8000-8010/udp"]);
    let InstructionKind::Volume(paths) = kind("VOLUME /a $b") else { panic!() };
    assert_eq!(texts(&paths), ["/a", "$b"]);
    let InstructionKind::Volume(paths) = kind("VOLUME [\"/a b\", \"/c\"]") else { panic!() };
    assert_eq!(texts(&paths), ["/a b", "/c"]);
}

#[test]
fn healthcheck_reads_its_durations() {
    assert!(matches!(kind("HEALTHCHECK none"), InstructionKind::Healthcheck(Healthcheck::None)));
    let InstructionKind::Healthcheck(Healthcheck::Cmd {
        command,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    }) = kind(
        "HEALTHCHECK --interval=1m30s --timeout=0 --start-period=1.5s --start-interval=1ms --retries=3 cmd curl  -f x || exit 1",
    )
    else {
        panic!()
    };
    assert_eq!(shell(&command), "curl  -f x || exit 1");
    assert_eq!(interval, Some(90_000_000_000));
    assert_eq!(timeout, Some(0));
    assert_eq!(start_period, Some(1_500_000_000));
    assert_eq!(start_interval, Some(1_000_000));
    assert_eq!(retries, Some(3));
    let InstructionKind::Healthcheck(Healthcheck::Cmd { command, interval, .. }) =
        kind("HEALTHCHECK CMD [\"a\"]")
    else {
        panic!()
    };
    assert_eq!((command, interval), (CommandLine::Exec(vec!["a".into()]), None));
}

#[test]
fn onbuild_keeps_its_text_and_knows_its_instruction() {
    let InstructionKind::Onbuild(onbuild) = kind("ONBUILD  copy --from=a \\\n b c") else { panic!() };
    assert_eq!(onbuild.trigger, "copy --from=a  b c");
    assert!(matches!(onbuild.instruction.kind, InstructionKind::Copy(_)));
    let text = "ONBUILD COPY <<-A <<B /x/\n\ta\n\tA\nb\nB";
    let InstructionKind::Onbuild(onbuild) = kind(text) else { panic!() };
    assert_eq!(onbuild.trigger, "COPY <<-A <<B /x/\n\ta\n\tA\nb\nB");
    let trigger = parse_trigger("base", &onbuild.trigger, '\\').unwrap();
    let (InstructionKind::Copy(direct), InstructionKind::Copy(stored)) =
        (&onbuild.instruction.kind, &trigger.instruction.kind)
    else {
        panic!()
    };
    let heredocs = |copy: &Copy| {
        copy.sources
            .iter()
            .filter_map(|source| match source {
                CopySource::Heredoc(heredoc) => Some((heredoc.name.clone(), heredoc.body.clone())),
                CopySource::Path(_) => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(heredocs(direct), heredocs(stored));
    assert_eq!(heredocs(stored), [("A".into(), "a\n".into()), ("B".into(), "b\n".into())]);
}

#[test]
fn every_real_file_is_accepted() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/real");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        let file = parse(&path.display().to_string(), &text);
        assert!(file.is_ok(), "{}", file.unwrap_err());
        count += 1;
    }
    assert!(count >= 12, "only {count} files");
}
