//! What builds show: at terminals, in logs, for programs.

#[path = "support/screen.rs"]
mod screen;
mod support;

use std::process::Command;

use support::{Done, Lab, base, bases_or_skip};

use screen::AtTerminal;

/// A build of a Dockerfile, ready to start.
fn build(lab: &Lab, dockerfile: &str, more: &[&str]) -> Command {
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let mut command = lab.rbuild();
    command.arg("build").args(lab.bases()).args(more).arg(context);
    command
}

fn plain(lab: &Lab, dockerfile: &str) -> Done {
    support::done(build(lab, dockerfile, &["--progress=plain"]).output().expect("rbuild"))
}

fn lab(test: &str) -> Option<Lab> {
    bases_or_skip(test).then(Lab::new)
}

#[test]
fn a_silent_step_shows_while_it_runs() {
    let Some(lab) = lab("a_silent_step_shows_while_it_runs") else { return };
    let mut command = build(&lab, "FROM busybox\nRUN sleep 1\nRUN printf 'go on? '; sleep 1\n", &[]);
    command.env("TERM", "xterm");
    let mut terminal = AtTerminal::start(command, 60, 20);
    assert!(terminal.until(|screen| screen.contains("RUN sleep 1") && screen.contains("1 running")));
    assert!(terminal.until(|screen| screen.contains("│ go on?")), "{:#?}", terminal.pictures);
    let (code, last) = terminal.end();
    assert_eq!(code, 0, "{last}");
    assert!(last.contains("built") && !last.contains("running") && !last.contains('│'), "{last}");
}

#[test]
fn a_terminal_without_a_cursor_gets_plain_lines_without_colours() {
    let Some(lab) = lab("a_terminal_without_a_cursor_gets_plain_lines_without_colours") else { return };
    for term in [Some("dumb"), None] {
        let mut command = build(&lab, "FROM busybox\nRUN printf '\\033[31mred\\n'\n", &["--no-cache"]);
        if let Some(term) = term {
            command.env("TERM", term);
        }
        let mut terminal = AtTerminal::start(command, 80, 24);
        let (code, last) = terminal.end();
        assert_eq!(code, 0, "{last}");
        let all = String::from_utf8_lossy(&terminal.bytes).into_owned();
        assert!(all.contains("RUN printf") && all.contains(" red\r\n") && all.contains("built"), "{all}");
        assert!(!all.contains('\x1b'), "{all:?}");
    }
    let mut command = build(&lab, "FROM busybox\n", &["--progress=tty"]);
    command.env("TERM", "dumb");
    let (code, last) = AtTerminal::start(command, 80, 24).end();
    assert!(code == 2 && last.contains("TERM is dumb") && last.contains("--progress=plain"), "{last}");
}

#[test]
fn both_streams_of_a_step_keep_their_order() {
    let Some(lab) = lab("both_streams_of_a_step_keep_their_order") else { return };
    let dockerfile = "FROM busybox\nRUN for n in 1 2 3 4 5 6 7; do echo out $n; echo err $n >&2; done\n";
    let done = plain(&lab, dockerfile);
    let lines: Vec<&str> = done
        .err
        .lines()
        .filter_map(|line| line.split_once(".").and_then(|(_, rest)| rest.get(4..)))
        .collect();
    let wanted: Vec<String> = (1..=7).flat_map(|n| [format!("out {n}"), format!("err {n}")]).collect();
    assert!(lines.windows(wanted.len()).any(|lines| lines == wanted), "{}", done.err);
    // Programs are told which is which.
    let raw = support::done(
        build(&lab, dockerfile, &["--progress=rawjson", "--no-cache"]).output().expect("rbuild"),
    );
    for stream in [1, 2] {
        assert!(raw.err.contains(&format!("\"stream\":{stream},")), "{}", raw.err);
    }
}

#[test]
fn a_failed_command_is_shown_once_and_whole_with_its_last_lines_and_log() {
    let Some(lab) = lab("a_failed_command_is_shown_once_and_whole_with_its_last_lines_and_log") else {
        return;
    };
    let mut run = "RUN : begin-marker; \\\n".to_owned();
    for n in 0..30 {
        run.push_str(&format!("  echo number-{n}-$((1 + 1)); \\\n"));
    }
    let dockerfile = format!("FROM busybox\n{run}  : end-marker; exit 7\n");
    let done = plain(&lab, &dockerfile);
    assert_eq!(done.code, 1, "{}", done.err);
    // In the step's title, and in the source.
    assert_eq!(done.err.matches("begin-marker").count(), 2, "{}", done.err);
    assert_eq!(done.err.matches("end-marker").count(), 2, "{}", done.err);
    assert_eq!(done.err.matches("number-29-2").count(), 1, "{}", done.err);
    assert!(done.err.contains("error: RUN failed: exit code: 7\n"), "{}", done.err);
    let log = |err: &str| {
        let path = err.lines().find_map(|line| line.strip_prefix("all of its output: "))?;
        std::fs::read_to_string(path).ok()
    };
    let all = log(&done.err).unwrap_or_else(|| panic!("{}", done.err));
    assert_eq!((all.lines().next(), all.lines().count()), (Some("number-0-2"), 30));

    let mut command = build(&lab, &dockerfile, &[]);
    command.env("TERM", "xterm");
    let (code, last) = AtTerminal::start(command, 100, 120).end();
    assert_eq!(code, 1, "{last}");
    assert_eq!(last.matches("number-29-2").count(), 1, "{last}");
    assert_eq!(last.matches("end-marker").count(), 1, "{last}");
    assert!(last.contains("Last output of [2/2]:") && last.contains("all of its output: "), "{last}");

    let short = plain(&lab, "FROM busybox\nRUN echo only; exit 3\n");
    assert!(short.code == 1 && log(&short.err).is_none(), "{}", short.err);
}

#[test]
fn an_interrupted_build_leaves_one_line() {
    let Some(lab) = lab("an_interrupted_build_leaves_one_line") else { return };
    let dockerfile = "FROM busybox AS a\nRUN sleep 1000\nFROM busybox AS b\nRUN echo said; sleep 1001\nFROM busybox\n\
                      COPY --from=a / /a\nCOPY --from=b / /b\n";
    let mut command = build(&lab, dockerfile, &[]);
    command.env("TERM", "xterm");
    let mut terminal = AtTerminal::start(command, 80, 24);
    assert!(terminal.until(|screen| screen.contains("│ said") && screen.contains("RUN sleep 1000")));
    let pid = terminal.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    let (code, last) = terminal.end();
    assert_eq!(code, 130, "{last}");
    let lines: Vec<&str> = last.lines().filter(|line| !line.trim().is_empty()).collect();
    let (end, before) = lines.split_last().expect("a line");
    assert!(
        end.starts_with("rbuild: interrupted after ") && end.ends_with("; finished steps are cached"),
        "{last}"
    );
    assert!(before.iter().all(|line| line.starts_with('✔')), "{last}");
}

#[test]
fn warnings_and_graphs_in_rawjson_are_buildkits() {
    let Some(lab) = lab("warnings_and_graphs_in_rawjson_are_buildkits") else { return };
    assert!(base("busybox").is_some());
    let dockerfile = "FROM busybox as b\nRUN true\nFROM busybox\nCOPY --from=b /bin /x\n";
    let done = support::done(build(&lab, dockerfile, &["--progress=rawjson"]).output().expect("rbuild"));
    assert_eq!(done.code, 0, "{}", done.err);
    let mut warnings = 0;
    let mut inputs = 0;
    for line in done.err.lines() {
        let status: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        for warning in status["warnings"].as_array().into_iter().flatten() {
            warnings += 1;
            assert!(
                warning["detail"].as_array().is_some_and(|all| all.iter().all(serde_json::Value::is_string))
            );
            assert!(warning["url"].is_string() && warning["range"][0]["start"]["line"] == 1, "{line}");
        }
        for vertex in status["vertexes"].as_array().into_iter().flatten() {
            inputs += vertex["inputs"].as_array().map_or(0, Vec::len);
        }
    }
    assert!(warnings > 0 && inputs > 0, "{}", done.err);
}

#[test]
fn a_misspelt_stage_comes_before_anything_about_networks() {
    let Some(lab) = lab("a_misspelt_stage_comes_before_anything_about_networks") else { return };
    for dockerfile in [
        "FROM busybox AS builder\nFROM busybox\nCOPY --from=bulder / /x\n",
        "FROM busybox AS builder\nFROM bulider\n",
        "FROM busybox AS builder\nFROM busybox\nRUN --mount=from=buidler,target=/x true\n",
    ] {
        let done = plain(&lab, dockerfile);
        assert_eq!(done.code, 5, "{}", done.err);
        let error = done.err.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(error.starts_with("error: there is no stage "), "{}", done.err);
        assert!(done.err.contains("did you mean the stage \"builder\"?"), "{}", done.err);
    }
}

#[test]
fn what_could_not_be_executed_is_looked_up_in_the_image() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(lab) = lab("what_could_not_be_executed_is_looked_up_in_the_image") else { return };
    let mut foreign = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x16\0".to_vec();
    foreign.resize(120, 0);
    let context = lab.context(&[
        ("crlf", "#!/bin/sh\r\necho hi\r\n"),
        ("plain", "#!/bin/sh\n"),
        ("script", "#!/usr/bin/pyhton\n"),
    ]);
    std::fs::write(context.join("foreign"), foreign).expect("file");
    for name in ["crlf", "script", "foreign"] {
        std::fs::set_permissions(context.join(name), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    for (run, words) in [
        ("/x/crlf", "Windows line ends"),
        ("/x/plain", "--chmod=755"),
        ("/x/script", "script for /usr/bin/pyhton, which is not in the image"),
        ("[\"/x/foreign\"]", "program for s390x"),
        ("[\"/x/crlf\"]", "Windows line ends"),
        ("slepe 1", "did you mean sleep?"),
        ("apt-get update", "the image is not based on Debian"),
        ("no-such-program", "there is no program no-such-program in the image"),
        ("cd /x && ./plain", "--chmod=755"),
    ] {
        let dockerfile = format!("FROM busybox\nCOPY . /x\nWORKDIR /x\nRUN {run}\n");
        std::fs::write(context.join("Dockerfile"), dockerfile).expect("Dockerfile");
        let done = lab.build(&context, &[]);
        assert!(done.code == 1 && done.err.contains(words), "{run}: {}", done.err);
    }
}

#[test]
fn stages_with_the_same_base_share_its_download() {
    if !bases_or_skip("stages_with_the_same_base_share_its_download") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[(
        "Dockerfile",
        "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\nFROM busybox\nCOPY --from=one /1 /\n\
         COPY --from=two /2 /\nRUN cat /1 /2\n",
    )]);
    let built = lab.build(&context, &[]);
    assert_eq!(built.code, 0, "{}", built.err);
    let pulls = built.err.lines().filter(|line| line.ends_with(" pull busybox")).count();
    assert_eq!(pulls, 1, "{}", built.err);
}

/// The variables by which services are known, and a build in one of them.
fn build_in(lab: &Lab, variables: &[(&str, &str)], args: &[&str]) -> Done {
    let mut build = lab.rbuild();
    build.arg("build").args(lab.bases()).args(args).envs(variables.iter().copied());
    support::done(build.output().expect("rbuild"))
}

#[test]
fn services_get_groups_annotations_and_a_summary_page() {
    if !bases_or_skip("services_get_groups_annotations_and_a_summary_page") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[
        ("sub/Dockerfile", "FROM busybox\nWORKDIR rel\nRUN echo '::error::forged'; echo '##[error]forged'\n"),
        ("sub/Bad", "FROM busybox\nRUN echo '  ::error::forged'; echo '|<b>`'; exit 3\n"),
    ]);
    let (root, page) = (context.display().to_string(), context.join("page"));
    let sub = context.join("sub").display().to_string();
    let page_name = page.display().to_string();
    let github =
        [("GITHUB_ACTIONS", "true"), ("GITHUB_WORKSPACE", &*root), ("GITHUB_STEP_SUMMARY", &*page_name)];
    let commands = |text: &str| -> Vec<String> {
        let obeyed = |line: &&str| {
            line.trim_start().starts_with("::") || line.contains("##[") || line.contains("##vso[")
        };
        text.lines().filter(obeyed).map(str::to_owned).collect()
    };
    let good = build_in(&lab, &github, &["-t", "app:1", &sub]);
    assert_eq!(good.code, 0, "{}", good.err);
    let said = commands(&good.err);
    assert!(
        said.iter().any(|line| line.starts_with("::group::#") && line.contains("RUN echo")),
        "{}",
        good.err
    );
    assert!(said.iter().any(|line| line == "::endgroup::"), "{}", good.err);
    let warning = "::warning file=sub/Dockerfile,line=2,title=WorkdirRelativePath::";
    assert!(said.iter().any(|line| line.starts_with(warning)), "{}", good.err);
    assert!(!said.iter().any(|line| line.starts_with("::error") || line.contains("##[")), "{}", good.err);
    let bad = build_in(&lab, &github, &["-f", &format!("{sub}/Bad"), &sub]);
    assert_eq!(bad.code, 1, "{}", bad.err);
    let errors: Vec<String> =
        commands(&bad.err).into_iter().filter(|line| line.trim_start().starts_with("::error")).collect();
    assert!(
        errors.len() == 1 && errors[0].starts_with("::error file=sub/Bad,line=2,title=rbuild::"),
        "{}",
        bad.err
    );
    let page = std::fs::read_to_string(&page).expect("a page");
    assert!(page.contains("### Built <code>app&#58;1</code> in"), "{page}");
    assert!(page.contains("### ❌ Build failed") && page.contains("| ❌ failed |"), "{page}");
    assert!(!page.contains("<b>"), "{page}");
    // A page in a pipe that nobody reads keeps nobody waiting.
    let pipe = context.join("pipe").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let piped = [github[0], github[1], ("GITHUB_STEP_SUMMARY", &*pipe)];
    let done = build_in(&lab, &piped, &[&sub]);
    assert!(done.code == 0 && done.err.contains("cannot write the summary"), "{} {}", done.code, done.err);
    // Quiet is quiet, and none is none.
    assert_eq!(build_in(&lab, &github, &["-q", &sub]).err, "");
    for (variables, args, start) in [
        (&github[..], &["--ci=none"][..], ""),
        (&[("GITLAB_CI", "true")], &[], "\u{1b}[0Ksection_start:"),
        (&[("TEAMCITY_VERSION", "2026.1")], &[], "##teamcity[blockOpened name='"),
        (&[("TF_BUILD", "True")], &[], "##[group]"),
        (&[], &["--ci=azure"], "##[group]"),
    ] {
        let built = build_in(&lab, variables, &[&["--no-cache"], args, &[&sub]].concat());
        assert_eq!(built.code, 0, "{}", built.err);
        let has = |text: &str| built.err.lines().any(|line| line.starts_with(text));
        match start {
            "" => assert!(!has("::group") && has("warning: WorkdirRelativePath"), "{}", built.err),
            start => assert!(has(start), "{start}: {}", built.err),
        }
    }
    assert_eq!(build_in(&lab, &[], &["--ci=jenkins", &sub]).code, 2);
}

#[test]
fn the_end_of_a_build_says_where_its_results_are() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let context = context.display().to_string();
    let build = |args: &[&str]| {
        let built = lab.run([&["build", "--progress=plain"], args, &[&context]].concat());
        assert_eq!(built.code, 0, "{}", built.err);
        let lines: Vec<String> = built.err.lines().map(str::to_owned).collect();
        let from = lines.iter().rposition(String::is_empty).map_or(0, |at| at + 1);
        lines[from..].to_vec()
    };
    let last = build(&["-o", "type=oci,dest=out.tar", "-o", "files", "-t", "app:1"]);
    assert!(last.len() == 3 && last[0].starts_with("wrote out.tar (OCI archive, "), "{last:?}");
    assert!(last[1] == "wrote files (files)" && last[2].starts_with("built app:1 "), "{last:?}");
    // Nothing to say beyond the one line.
    let last = build(&["-t", "app:1"]);
    assert!(last.len() == 1 && last[0].starts_with("built app:1 "), "{last:?}");
    assert_eq!(lab.run(["build", "-q", "-o", "type=oci,dest=out.tar", &context]).err, "");
}
