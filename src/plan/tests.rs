//! Plans of small Dockerfiles.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::dockerfile::parse;
use crate::image::{ContainerConfig, ImageConfig, Platform};
use crate::plan::RunNetwork;

use super::*;

fn input() -> PlanInput {
    let platform = Platform::new("linux", "amd64", "");
    PlanInput {
        target: None,
        stage: None,
        build_args: Vec::new(),
        epoch: None,
        labels: Vec::new(),
        contexts: BTreeMap::new(),
        platform: platform.clone(),
        platform_given: false,
        several_platforms: false,
        build_platform: platform,
        network: RunNetwork::Default,
        allow: Entitlements::default(),
    }
}

fn image(config: ContainerConfig) -> ImageConfig {
    ImageConfig { os: "linux".into(), architecture: "amd64".into(), config, ..ImageConfig::default() }
}

fn with_bases(
    text: &str,
    input: &PlanInput,
    bases: &[(&str, ContainerConfig)],
) -> Result<Planned, PlanError> {
    let dockerfile = parse("Dockerfile", text.as_bytes())?;
    let mut configs = BaseConfigs::default();
    let amd64 = Platform::new("linux", "amd64", "");
    for (position, (name, config)) in bases.iter().enumerate() {
        configs.insert(name, &amd64, BaseId(position), image(config.clone()));
    }
    plan(&dockerfile, input, &configs)
}

/// A plan whose only base is an empty `b`.
fn planned(text: &str, input: &PlanInput) -> Plan {
    match with_bases(text, input, &[("b", ContainerConfig::default())]) {
        Ok(Planned::Ready(plan)) => *plan,
        other => panic!("{text}: {other:?}"),
    }
}

fn error(text: &str) -> PlanError {
    match with_bases(text, &input(), &[("b", ContainerConfig::default())]) {
        Err(error) => error,
        Ok(_) => panic!("{text} was planned"),
    }
}

fn target(plan: &Plan) -> &StagePlan {
    &plan.stages[plan.target]
}

fn runs(plan: &Plan) -> Vec<&RunStep> {
    plan.steps
        .iter()
        .filter_map(|step| match &step.kind {
            StepKind::Run(run) => Some(run),
            _ => None,
        })
        .collect()
}

fn variable<'a>(run: &'a RunStep, name: &str) -> Option<&'a str> {
    run.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

#[test]
fn the_later_of_arg_and_env_wins_and_only_env_is_kept_as_the_reference_builds() {
    for (text, seen, kept) in [
        ("FROM b\nENV A=1\nARG A=2\nRUN x", Some("2"), Some("A=1")),
        ("FROM b\nARG A=2\nENV A=1\nRUN x", Some("1"), Some("A=1")),
        ("FROM b\nARG A=2\nENV B=$A\nRUN x", Some("2"), None),
        ("FROM b\nARG A\nRUN x", None, None),
        ("ARG A=g\nFROM b\nRUN x", None, None),
        ("ARG A=g\nFROM b\nARG A\nRUN x", Some("g"), None),
        ("ARG A=g\nFROM b\nARG A=s\nRUN x", Some("s"), None),
        ("FROM b AS p\nARG A=p\nFROM p\nRUN x", Some("p"), None),
        ("FROM b AS p\nARG A=p\nFROM b\nRUN x", None, None),
    ] {
        let plan = planned(text, &input());
        assert_eq!(variable(runs(&plan)[0], "A"), seen, "{text}");
        let env = &target(&plan).config.config.env;
        assert_eq!(env.iter().find(|pair| pair.starts_with("A=")).map(String::as_str), kept, "{text}");
    }
}

#[test]
fn build_arguments_override_defaults_that_are_then_not_even_read() {
    let mut with = input();
    with.build_args =
        vec![("A".into(), "given".into()), ("HTTP_PROXY".into(), "p".into()), ("Unusd".into(), "1".into())];
    let plan = planned("FROM b\nARG A=${nope:?needed}\nARG Unused\nRUN x", &with);
    let run = runs(&plan)[0];
    assert_eq!(variable(run, "A"), Some("given"));
    assert_eq!(run.proxy_env, [("HTTP_PROXY".into(), "p".into()), ("http_proxy".into(), "p".into())]);
    assert!(!run.env.iter().any(|(name, _)| name.eq_ignore_ascii_case("http_proxy")));
    let history = &target(&plan).history;
    assert_eq!(
        history.last().map(|line| line.created_by.as_str()),
        Some("RUN |2 A=given Unused= /bin/sh -c x # buildkit")
    );
    let warning = plan.warnings.iter().find(|warning| warning.message.contains("Unusd"));
    assert!(warning.is_some_and(|warning| warning.message.contains("did you mean \"Unused\"")));
}

#[test]
fn history_is_worded_as_the_reference_words_it() {
    let text = "FROM b\nLABEL a=1 b=\"x y\"\nEXPOSE 80 53/UDP\nVOLUME /v\nWORKDIR /w\nWORKDIR /\nCMD [\"a\", \"b c\"]\n\
                CMD echo \"hi\"\nHEALTHCHECK --interval=90s CMD [\"t\"]\nUSER u\nSHELL [\"/bin/bash\", \"-c\"]\n\
                STOPSIGNAL 9\nRUN x\nCOPY --chown=1 --chmod=755 a b/ /d/\nMAINTAINER me\nONBUILD RUN y";
    let plan = planned(text, &input());
    let history: Vec<&str> = target(&plan).history.iter().map(|line| line.created_by.as_str()).collect();
    assert_eq!(
        history,
        [
            "LABEL a=1 b=x y",
            "EXPOSE [53/udp 80/tcp]",
            "VOLUME [/v]",
            "WORKDIR /w",
            "WORKDIR /",
            "CMD [\"a\" \"b c\"]",
            "CMD [\"/bin/sh\" \"-c\" \"echo \\\"hi\\\"\"]",
            "HEALTHCHECK {Test:[CMD t] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            "USER u",
            "SHELL [/bin/bash -c]",
            "STOPSIGNAL 9",
            "RUN /bin/bash -c x # buildkit",
            "COPY --chown=1 --chmod=755 a b/ /d/ # buildkit",
            "MAINTAINER me",
        ]
    );
    let layers = target(&plan).history.iter().filter(|line| line.step.is_some()).count();
    assert_eq!(layers, 3);
}

#[test]
fn only_what_the_target_needs_is_planned_and_asked_for() {
    let text = "FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM c AS three\nCOPY --from=one /x /\nCOPY --from=img /y /";
    let asked = |target: &str| {
        let mut with = input();
        with.target = Some(target.to_owned());
        match with_bases(text, &with, &[]) {
            Ok(Planned::NeedsImages(requests)) => {
                requests.into_iter().map(|request| request.name).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked("two"), ["b"]);
    assert_eq!(asked("1"), ["b"]);
    let mut all = asked("three");
    all.sort();
    assert_eq!(all, ["a", "c", "img"]);
}

#[test]
fn triggers_of_a_base_may_ask_for_more_images() {
    let on_build = vec!["COPY --from=tools /t /t".to_owned(), "RUN /t".to_owned()];
    let base = ContainerConfig { on_build, ..ContainerConfig::default() };
    let text = "FROM base\nRUN after";
    let Ok(Planned::NeedsImages(requests)) = with_bases(text, &input(), &[("base", base.clone())]) else {
        panic!("nothing was asked for");
    };
    assert_eq!(requests[0].name, "tools");
    let bases = [("base", base), ("tools", ContainerConfig::default())];
    let Ok(Planned::Ready(plan)) = with_bases(text, &input(), &bases) else { panic!("not planned") };
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "[1/4] FROM base",
            "FROM tools",
            "[2/4] ONBUILD COPY --from=tools /t /t",
            "[3/4] ONBUILD RUN /t",
            "[4/4] RUN after"
        ]
    );
    assert!(target(&plan).config.config.on_build.is_empty());
}

#[test]
fn entrypoint_clears_a_cmd_that_this_stage_did_not_set() {
    let base = ContainerConfig { cmd: Some(vec!["old".into()]), ..ContainerConfig::default() };
    for (text, cmd) in [
        ("FROM base\nENTRYPOINT [\"e\"]", None),
        ("FROM base\nCMD [\"c\"]\nENTRYPOINT [\"e\"]", Some("c")),
        ("FROM base\nENTRYPOINT [\"e\"]\nCMD [\"c\"]", Some("c")),
        ("FROM base\nUSER x", Some("old")),
        ("FROM base\nCMD []", None),
    ] {
        let Ok(Planned::Ready(plan)) = with_bases(text, &input(), &[("base", base.clone())]) else {
            panic!("{text}")
        };
        let config = &target(&plan).config.config;
        assert_eq!(config.cmd.as_ref().and_then(|cmd| cmd.first()).map(String::as_str), cmd, "{text}");
    }
}

#[test]
fn mistakes_name_their_place_and_what_to_do() {
    for (text, line, word) in [
        ("FROM b\nCOPY --from=0 /a /", 2, "circular"),
        ("FROM b AS x\nCOPY --from=x /a /", 2, "circular"),
        ("FROM b AS x\nCOPY --from=y /a /\nFROM b AS y\nCOPY --from=x /a /", 2, "before"),
        ("FROM b\nCOPY --from=7 /a /", 2, "invalid stage index 7"),
        ("FROM b\nCOPY --from=$X /a /", 2, "not supported for --from"),
        ("FROM ${NOPE}", 1, "should not be blank"),
        ("FROM --platform=nonsense/x/y/z b", 1, "nonsense"),
        ("FROM b\nENV A=${B:?missing}", 2, "missing"),
        ("FROM b\nEXPOSE 99999", 2, "99999"),
        ("FROM b\nSTOPSIGNAL SIGNOPE", 2, "SIGNOPE"),
        ("FROM b\nCOPY --chmod=9999 a /", 2, "chmod"),
        ("FROM b\nRUN --network=wat x", 2, "wat"),
        ("FROM b\nRUN --network=host x", 2, "--network"),
        ("FROM b\nCOPY https://example.test/x /", 2, "COPY"),
    ] {
        let error = error(text);
        let place = error.place.clone().map(|(source, span)| source.location(span.start).line);
        assert_eq!(place, Some(line), "{text}: {error:?}");
        let whole = format!("{} {}", error.message, error.help.clone().unwrap_or_default());
        assert!(whole.contains(word), "{text}: {whole}");
    }
}

fn run_mounts(text: &str) -> Vec<RunMount> {
    let plan = planned(&format!("FROM b\nWORKDIR /w\nARG T=/v\nRUN {text} true"), &input());
    match &plan.steps.last().expect("a step").kind {
        StepKind::Run(run) => run.mounts.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn mounts_get_the_references_defaults() {
    let target = |text: &str| run_mounts(text)[0].target.clone();
    for (text, expected) in [
        ("--mount=target=/a", Some("/a")),
        ("--mount=type=bind,dst=a/../b", Some("/w/b")),
        ("--mount=type=cache,target=$T/x", Some("/v/x")),
        ("--mount=type=secret,id=a/b", Some("/run/secrets/b")),
        ("--mount=type=secret,target=/q/pw", Some("/q/pw")),
        ("--mount=type=secret,id=a,env=PW", None),
        ("--mount=type=secret,id=a,env=PW,target=/f", Some("/f")),
        ("--mount=type=ssh", Some("/run/buildkit/ssh_agent.0")),
    ] {
        assert_eq!(target(text).as_deref(), expected, "{text}");
    }
    let id = |text: &str| match &run_mounts(text)[0].kind {
        RunMountKind::Cache { id, .. } | RunMountKind::Secret { id, .. } => id.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(id("--mount=type=cache,target=/a/./b/"), "/a/b");
    assert_eq!(id("--mount=type=cache,target=a"), "a");
    assert_eq!(id("--mount=type=secret,target=/q/pw"), "pw");
    let two = run_mounts("--mount=type=ssh --mount=type=ssh,id=x");
    assert_eq!(two[1].target.as_deref(), Some("/run/buildkit/ssh_agent.1"));
    assert!(matches!(
        &run_mounts("--mount=target=/a,rw")[0].kind,
        RunMountKind::Bind { writable: true, source, .. } if source == "/"
    ));
}

#[test]
fn mounts_that_make_no_sense_are_refused_with_the_reason() {
    for (mount, word) in [
        ("type=wat,target=/x", "unsupported mount type"),
        ("type=cache,target=/", "invalid mount target"),
        ("type=bind,target=/x,mode=0755", "mode not allowed"),
        ("type=cache,target=/x,size=1m", "size not allowed"),
        ("type=tmpfs,target=/x,sharing=locked", "sharing not allowed"),
        ("type=bind,target=/x,required", "required not allowed"),
        ("type=secret,id=a,from=b", "from not allowed"),
        ("type=secret", "one of source, target required"),
        ("type=secret,id=a,src=b", "both source and id"),
        ("type=cache,target=/x,sharing=often", "unsupported sharing value"),
        ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
        ("type=tmpfs,target=/x,size=big", "invalid value for size"),
        ("target=/x,tarjet=/y", "unexpected key"),
        ("target=/x,dst=/y", "duplicate key"),
        ("target=/x,from=$B", "variable expansion is not supported"),
        ("target=/x,from", "must be a key=value pair"),
    ] {
        let error = error(&format!("FROM b\nARG B=b\nRUN --mount={mount} true"));
        assert!(error.message.contains(word), "{mount}: {}", error.message);
    }
}

#[test]
fn what_needs_consent_names_the_flag_that_gives_it() {
    for (text, flag) in [
        ("RUN --security=insecure x", "--allow security.insecure"),
        ("RUN --network=host x", "--allow network.host"),
        ("RUN --device=acme.com/pen=red x", "--allow device=acme.com/pen=red"),
    ] {
        let error = error(&format!("FROM b\n{text}"));
        assert!(error.help.as_deref().is_some_and(|help| help.contains(flag)), "{text}: {:?}", error.help);
    }
    let mut with = input();
    with.allow = Entitlements {
        network_host: true,
        insecure: true,
        any_device: false,
        devices: vec!["acme.com/pen".into()],
    };
    let text = "FROM b\nRUN --security=insecure --network=host --device=acme.com/pen=red,required=false x";
    let Ok(Planned::Ready(plan)) = with_bases(text, &with, &[("b", ContainerConfig::default())]) else {
        panic!("not planned")
    };
    let StepKind::Run(run) = &plan.steps[1].kind else { panic!("no RUN") };
    assert!(run.insecure && run.network == RunNetwork::Host);
    assert_eq!(run.devices, [Device { name: "acme.com/pen=red".into(), required: false }]);
}

#[test]
fn a_secrets_mount_counts_for_the_key_and_a_caches_name_does_not() {
    let definition = |text: &str| {
        let plan = planned(&format!("FROM b\nRUN {text} true"), &input());
        plan.steps.last().map(Step::definition).expect("a step")
    };
    let cache = definition("--mount=type=cache,target=/a,id=one");
    assert_eq!(cache, definition("--mount=type=cache,target=/a,id=two,sharing=locked"));
    assert_ne!(cache, definition("--mount=type=cache,target=/a,id=one,ro"));
    assert_ne!(definition("--mount=type=secret,id=a"), definition("--mount=type=secret,id=b"));
    assert_eq!(definition("--mount=type=secret,id=a"), definition("--mount=type=secret,id=a,required"));
}

#[test]
fn remote_sources_are_for_add_only_and_checksums_for_remote_sources() {
    let copy = |text: &str| match planned(&format!("FROM b\nARG SUM=abcdef12\n{text}"), &input())
        .steps
        .pop()
        .map(|step| step.kind)
    {
        Some(StepKind::Copy(copy)) => copy,
        other => panic!("{other:?}"),
    };
    let add = copy("ADD --keep-git-dir --checksum=$SUM git@example.test:a/b.git#v1:dir /x/");
    assert_eq!(add.remote[0].checksum.as_deref(), Some("abcdef12"));
    assert_eq!(add.remote[0].keep_git_dir, Some(true));
    assert!(!add.extract_remote && add.sources.is_empty());
    let add = copy("ADD --unpack local.tar https://example.test/x.tar /x/");
    assert!(add.extract && add.extract_remote && add.sources == ["local.tar"]);
    assert!(!copy("ADD --unpack=false a.tar /x").extract);
    for (text, word) in [
        ("COPY https://example.test/x /", "can't be a URL"),
        ("ADD --checksum=sha256:00 a /", "requires an HTTP(S) or Git source"),
        ("ADD --checksum=sha256:00 https://a.test/a https://a.test/b /", "multiple sources"),
        ("ADD --checksum=wat https://a.test/a /", "checksum"),
        ("ADD https://example.test/a.git?wat=1 /", "wat"),
    ] {
        let error = error(&format!("FROM b\n{text}"));
        assert!(error.message.contains(word), "{text}: {}", error.message);
    }
}

#[test]
fn a_named_context_stands_for_stages_and_images() {
    let mut with = input();
    with.contexts.insert("src".into(), ContextKind::Files);
    with.contexts.insert("docker.io/library/b:latest".into(), ContextKind::Image);
    let text = "FROM b\nCOPY --from=src /f /";
    let Ok(Planned::NeedsImages(requests)) = with_bases(text, &with, &[]) else {
        panic!("nothing was asked for")
    };
    assert_eq!(requests[0].name, "docker.io/library/b:latest");
    let bases = [("docker.io/library/b:latest", ContainerConfig::default())];
    let Ok(Planned::Ready(plan)) = with_bases(text, &with, &bases) else { panic!("not planned") };
    let StepKind::Copy(copy) = &plan.steps[1].kind else { panic!("no copy") };
    assert_eq!(copy.origin, CopyOrigin::Context("src".into()));
}

#[test]
fn definitions_hold_what_matters_and_nothing_else() {
    let definition = |text: &str| planned(text, &input()).steps[1].definition();
    assert_eq!(definition("FROM b\nRUN x"), definition("# c\nFROM b\n\nRUN    x"));
    assert_ne!(definition("FROM b\nRUN x"), definition("FROM b\nRUN y"));
    assert_ne!(definition("FROM b\nRUN x"), definition("FROM b\nENV A=1\nRUN x"));
    assert_ne!(definition("FROM b\nRUN x"), definition("FROM b\nUSER u\nRUN x"));
    assert_ne!(definition("FROM b\nRUN x"), definition("FROM b\nRUN --network=none x"));
    assert_eq!(definition("FROM b\nCOPY a /d"), definition("FROM b\nCOPY ./a /x/../d"));
}

#[test]
fn definitions_are_those_that_stores_have_records_under() {
    let allowed = PlanInput { allow: Entitlements { insecure: true, ..Entitlements::default() }, ..input() };
    let definition = |text: &str| planned(text, &allowed).steps[1].definition();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(
        definition("FROM b\nRUN x"),
        serde_json::json!({
            "run": ["/bin/sh", "-c", "x"], "env": [["PATH", path]], "cwd": "/", "user": "",
            "network": "Default", "scripts": [],
        })
    );
    assert_eq!(
        definition(
            "FROM b\nRUN --network=none --security=insecure --mount=type=tmpfs,target=/t,size=5 \
             --mount=type=cache,target=/c,readonly --mount=type=secret,id=s,uid=7 --mount=target=/b,rw <<X\ny\nX\n"
        ),
        serde_json::json!({
            "run": ["/bin/sh", "-c", "y\n"], "env": [["PATH", path]], "cwd": "/", "user": "",
            "network": "None", "scripts": [], "security": "insecure",
            "mounts": [
                ["/t", {"tmpfs": 5}],
                ["/c", {"cache": "/", "mode": null, "uid": null, "gid": null, "readonly": true}],
                ["/run/secrets/s", {"secret": "s", "env": null, "mode": 0o400, "uid": 7, "gid": 0}],
                ["/b", {"bind": true}],
            ],
        })
    );
    assert_eq!(
        definition("FROM b\nCOPY --chown=1:2 --chmod=u+x --parents --link a b /d/"),
        serde_json::json!({
            "copy": "/d", "directory": true, "chown": "1:2", "chmod": "u+x", "extract": false, "rules": 2,
            "parents": true,
        })
    );
    assert_eq!(definition("FROM b\nCOPY --link a /d/")["link"], true);
    assert_eq!(definition("FROM b\nWORKDIR /w"), serde_json::json!({"workdir": "/w", "user": ""}));
}

proptest! {
    #[test]
    fn what_parses_never_makes_the_planner_panic_and_plans_are_the_same_twice(
        lines in proptest::collection::vec(
            prop_oneof![
                "FROM (b|scratch|s[0-9]|\\$A)( AS s[0-9])?",
                "(RUN|CMD|ENTRYPOINT) [a-z$ ]{1,8}",
                "COPY (--from=(s[0-9]|[0-9]|b) )?[a-z*]{1,4} [a-z/.]{1,6}",
                "(ENV|LABEL|ARG) [a-c]=[a-z$\\{\\}:-]{0,6}",
                "(WORKDIR|USER|VOLUME|EXPOSE|STOPSIGNAL) [a-z0-9$/:.]{1,6}",
                "ONBUILD (RUN x|COPY a /|ENV a=b)",
                "ARG A=b",
            ], 1..12)
    ) {
        let text = lines.join("\n");
        let once = with_bases(&text, &input(), &[("b", ContainerConfig::default())]);
        let twice = with_bases(&text, &input(), &[("b", ContainerConfig::default())]);
        prop_assert_eq!(format!("{:?}", once), format!("{:?}", twice));
        if let Ok(Planned::Ready(plan)) = once {
            for (position, step) in plan.steps.iter().enumerate() {
                prop_assert_eq!(step.id.0, position);
                prop_assert!(step.dependencies().all(|needed| needed < step.id));
            }
            let _ = (super::text(&plan), dot(&plan), json(&plan));
        }
    }
}

#[test]
fn a_chain_of_stages_that_nobody_would_write_is_an_error() {
    let chain = |count: usize, next: &dyn Fn(usize) -> String| {
        let stages: String = (0..count).map(next).collect();
        format!("FROM scratch AS s0\nCOPY x /\n{stages}")
    };
    let built_on = |n: usize| format!("FROM s{n} AS s{}\n", n + 1);
    let copied = |n: usize| format!("FROM scratch AS s{}\nCOPY --from=s{n} / /\n", n + 1);
    for next in [&built_on as &dyn Fn(usize) -> String, &copied] {
        assert!(error(&chain(20_000, next)).message.contains("more than 500 stages"));
        assert_eq!(planned(&chain(100, next), &input()).stages.len(), 101);
    }
}
