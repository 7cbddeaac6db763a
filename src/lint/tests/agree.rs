//! What a `FROM` line means is worked out twice: by the planner, and by the linter, which needs no plan. They
//! must agree, or a check asks for other images than a build.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::dockerfile::{InstructionKind, parse};
use crate::image::Platform;
use crate::lint::LintInput;
use crate::lint::stages::{Base, Stages};
use crate::plan::RunNetwork;
use crate::plan::{BaseConfigs, ContextKind, Entitlements, PlanInput, Planned, plan};

type Images = BTreeSet<(String, Platform)>;

/// Images that a build of the target, or of one stage, asks for first; `None` where it cannot be planned.
fn planned(text: &str, input: &PlanInput) -> Option<Images> {
    match plan(&parse("Dockerfile", text.as_bytes()).ok()?, input, &BaseConfigs::default()) {
        Ok(Planned::NeedsImages(requests)) => {
            Some(requests.into_iter().map(|request| (request.name, request.platform)).collect())
        }
        Ok(Planned::Ready(_)) => Some(Images::new()),
        Err(_) => None,
    }
}

/// Images that the linter takes the same to be built on, or to copy from.
fn linted(text: &str, input: &PlanInput) -> Option<Images> {
    let dockerfile = parse("Dockerfile", text.as_bytes()).ok()?;
    let contexts: Vec<String> = input.contexts.keys().cloned().collect();
    let lint = LintInput {
        target: input.target.as_deref(),
        all_stages: false,
        build_args: &input.build_args,
        platform: &input.platform,
        build_platform: &input.build_platform,
        contexts: &contexts,
        bases: &BTreeMap::new(),
        ignored: None,
        locked: None,
        hints: false,
    };
    let stages = Stages::new(&dockerfile, &lint);
    let target = input.stage.unwrap_or_else(|| stages.target());
    let mut images = Images::new();
    for (index, _) in stages.reachable(target).iter().enumerate().filter(|(_, needed)| **needed) {
        let line = &stages.froms[index];
        let platform = line.platform.clone().unwrap_or_else(|| input.platform.clone());
        if let Base::Image(name) = &line.base {
            images.insert((name.clone(), platform));
        }
        for instruction in &dockerfile.stages[index].instructions {
            let InstructionKind::Copy(copy) = &instruction.kind else { continue };
            let Some(from) = &copy.flags.from else { continue };
            let context = contexts.contains(&from.text);
            if !context && stages.copied(index, &from.text).is_none() {
                images.insert((from.text.clone(), input.platform.clone()));
            }
        }
    }
    Some(images)
}

fn word() -> impl Strategy<Value = String> {
    let whole = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "A",
        "base-a",
        "base-prod",
        "default",
        "scratch",
        "ctx",
        "x:1",
        "${X}",
        "$Y",
        "base-${X}",
        "base-$TARGETSTAGE",
        "${TARGETSTAGE}",
        "${X:-a}",
        "${Y:+b}",
        "${TARGETARCH}",
        "img-$TARGETOS",
        "${BUILDARCH}$X",
        "\"$X\"",
        "${X%a}",
        "${Z:-$X}",
        "1",
        "0",
    ]);
    whole.prop_map(str::to_owned)
}

fn argument() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["X", "Y", "Z", "TARGETSTAGE", "TARGETARCH", "BUILDPLATFORM"]);
    (name, prop::option::of(word())).prop_map(|(name, value)| match value {
        Some(value) => format!("ARG {name}={value}\n"),
        None => format!("ARG {name}\n"),
    })
}

fn stage() -> impl Strategy<Value = String> {
    let platform = prop::option::weighted(
        0.3,
        prop::sample::select(vec!["linux/arm64", "$BUILDPLATFORM", "$TARGETPLATFORM", "linux/$TARGETARCH"]),
    );
    let name = prop::option::weighted(
        0.6,
        prop::sample::select(vec!["a", "b", "B", "base-a", "base-prod", "prod", "default"]),
    );
    let from = prop::sample::select(vec!["a", "b", "base-prod", "0", "1", "other", "ctx"]);
    (platform, word(), name, prop::option::weighted(0.3, from)).prop_map(|(platform, base, name, from)| {
        let mut line = "FROM".to_owned();
        line.extend(platform.map(|platform| format!(" --platform={platform}")));
        line.push_str(&format!(" {base}"));
        line.extend(name.map(|name| format!(" AS {name}")));
        line.extend(from.map(|from| format!("\nCOPY --from={from} /f /g")));
        line + "\n"
    })
}

proptest! {
    #[test]
    fn planner_and_linter_agree_on_what_stages_are_built_on(
        arguments in prop::collection::vec(argument(), 0..4),
        stages in prop::collection::vec(stage(), 1..5),
        given in prop::collection::vec((prop::sample::select(vec!["X", "Y", "TARGETSTAGE"]), word()), 0..3),
        target in prop::option::of(prop::sample::select(vec!["prod", "a", "B", "0", "1"])),
        context in any::<bool>(),
        number in prop::option::of(0..5_usize),
    ) {
        let text = arguments.concat() + &stages.concat();
        let amd64 = Platform::new("linux", "amd64", "");
        let contexts = context.then(|| ("ctx".to_owned(), ContextKind::Files));
        let input = PlanInput {
            target: target.map(str::to_owned),
            stage: number.filter(|number| *number < stages.len()),
            build_args: given.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            epoch: None,
            labels: Vec::new(),
            contexts: contexts.into_iter().collect(),
            platform: Platform::new("linux", "arm", "v7"),
            platform_given: true,
            several_platforms: false,
            build_platform: amd64,
            network: RunNetwork::Default,
            allow: Entitlements::default(),
        };
        if let Some(planned) = planned(&text, &input) {
            prop_assert_eq!(Some(planned), linted(&text, &input), "{}", text);
        }
    }
}

#[test]
fn a_target_stage_is_the_targets_name_for_every_stage_that_is_checked() {
    for (text, target, expected) in [
        ("FROM scratch AS base-prod\nFROM base-${TARGETSTAGE} AS prod\n", None, None),
        ("FROM scratch AS base-prod\nFROM base-${TARGETSTAGE} AS Prod\n", None, None),
        ("FROM scratch AS base-default\nFROM base-${TARGETSTAGE}\n", None, None),
        ("FROM scratch AS base-x\nFROM base-${TARGETSTAGE} AS x\nFROM scratch AS y\n", Some("x"), None),
        ("FROM scratch AS base-1\nFROM base-${TARGETSTAGE} AS x\nFROM scratch AS y\n", Some("1"), None),
        ("FROM scratch AS base-x\nFROM base-${TARGETSTAGE} AS x\nFROM scratch AS y\n", None, Some("base-y")),
    ] {
        let platform = Platform::new("linux", "amd64", "");
        for number in [None, Some(0), Some(1)] {
            let input = PlanInput {
                target: target.map(str::to_owned),
                stage: number,
                build_args: Vec::new(),
                epoch: None,
                labels: Vec::new(),
                contexts: BTreeMap::new(),
                platform: platform.clone(),
                platform_given: false,
                several_platforms: false,
                build_platform: platform.clone(),
                network: RunNetwork::Default,
                allow: Entitlements::default(),
            };
            let planned = planned(text, &input).expect("it can be planned");
            // Only the second stage has anything to ask for, and with the third as the target it is not built.
            let asked = expected.filter(|_| number == Some(1));
            assert_eq!(planned.iter().map(|(name, _)| name.as_str()).next(), asked, "{text} {number:?}");
            assert_eq!(linted(text, &input), Some(planned), "{text} {number:?}");
        }
    }
}
