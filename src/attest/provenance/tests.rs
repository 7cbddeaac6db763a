use super::*;
use crate::digest::Digest;
use crate::image::Platform;
use crate::plan::{BaseConfigs, Entitlements, PlanInput, Planned, RunNetwork};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const TEXT: &str = "FROM scratch\nARG TOKEN\nCOPY a /a\nRUN --network=none --mount=type=secret,id=key,required --mount=type=ssh echo $TOKEN\n";

fn planned(args: &[(&str, &str)]) -> Result<Plan> {
    plan_of(TEXT, args)
}

fn plan_of(text: &str, args: &[(&str, &str)]) -> Result<Plan> {
    let dockerfile = crate::dockerfile::parse("Dockerfile", text.as_bytes()).map_err(|_| "parse")?;
    let platform = Platform::new("linux", "amd64", "");
    let input = PlanInput {
        target: None,
        stage: None,
        build_args: args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        epoch: None,
        labels: Vec::new(),
        contexts: BTreeMap::new(),
        platform: platform.clone(),
        platform_given: true,
        several_platforms: false,
        build_platform: platform,
        network: RunNetwork::Default,
        allow: Entitlements::default(),
    };
    match crate::plan::plan(&dockerfile, &input, &BaseConfigs::default()).map_err(|_| "plan")? {
        Planned::Ready(plan) => Ok(*plan),
        Planned::NeedsImages(_) => Err("images".into()),
    }
}

fn facts(plan: &Plan) -> Facts<'_> {
    let layer = Descriptor::of("application/vnd.oci.image.layer.v1.tar", b"layer");
    let step = StepFacts { created: 0, cached: true, layers: vec![layer] };
    Facts {
        plan,
        steps: vec![step; plan.steps.len()],
        materials: vec![
            Material { uri: "https://b".into(), algorithm: "sha256", hex: Digest::of(b"b").hex() },
            Material::commit("https://a#main".into(), &"a".repeat(40)),
            Material { uri: "https://b".into(), algorithm: "sha256", hex: Digest::of(b"b").hex() },
        ],
        context: None,
        dockerfile: "Dockerfile".into(),
        source: TEXT,
        locals: vec!["context".into(), "dockerfile".into()],
        args: [("build-arg:TOKEN", "t0ps3cret"), ("label:l", "v"), ("target", "x")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        secrets: Vec::new(),
        builder_platform: "linux/amd64".into(),
        times: [(0, 5), (1, 0)],
        invocation: Some("one".into()),
    }
}

#[test]
fn min_says_what_was_read_and_nothing_private() -> Result {
    let plan = planned(&[("TOKEN", "t0ps3cret")])?;
    let options = ProvenanceOptions { mode: Mode::Min, ..ProvenanceOptions::default() };
    let statement = statement(&facts(&plan), &options);
    assert_eq!(statement.predicate_type, SLSA_V1);
    let text = statement.predicate.to_string();
    for private in ["t0ps3cret", "TOKEN", "key", "label:"] {
        assert!(!text.contains(private), "{private}: {text}");
    }
    let definition = &statement.predicate["buildDefinition"];
    assert_eq!(definition["externalParameters"]["request"]["args"], json!({"target": "x"}));
    let uris: Vec<&Value> =
        definition["resolvedDependencies"].as_array().ok_or("none")?.iter().map(|one| &one["uri"]).collect();
    assert_eq!(uris, ["https://a#main", "https://b", "file:Dockerfile"]);
    assert_eq!(definition["resolvedDependencies"][0]["digest"], json!({"sha1": "a".repeat(40)}));
    let run = &statement.predicate["runDetails"];
    assert_eq!(run["metadata"]["startedOn"], "1970-01-01T00:00:00.000000005Z");
    assert_eq!(
        run["metadata"]["buildkit_completeness"],
        json!({"request": false, "resolvedDependencies": false})
    );
    assert_eq!(run["metadata"]["buildkit_reproducible"], false);
    assert_eq!(run["metadata"]["buildkit_hermetic"], false);
    Ok(())
}

#[test]
fn max_has_steps_source_layers_and_names_of_secrets() -> Result {
    let plan = planned(&[("TOKEN", "plain")])?;
    let statement = statement(&facts(&plan), &ProvenanceOptions::default());
    let definition = &statement.predicate["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:TOKEN"], "t0ps3cret");
    assert_eq!(request["secrets"], json!([{"id": "key"}]));
    assert_eq!(request["ssh"], json!([{"id": "default", "optional": true}]));
    let config = &definition["internalParameters"]["buildConfig"];
    let steps = config["llbDefinition"].as_array().ok_or("no steps")?;
    assert_eq!(steps.len(), plan.steps.len());
    assert_eq!(config["digestMapping"].as_object().ok_or("none")?.len(), steps.len());
    let run = steps.last().ok_or("none")?;
    let env = &run["op"]["Op"]["exec"]["meta"]["env"];
    assert!(env.as_array().ok_or("no env")?.contains(&json!("TOKEN=plain")), "{env}");
    assert_eq!(run["op"]["Op"]["exec"]["network"], 2);
    assert_eq!(run["cached"], true);
    let metadata = &statement.predicate["runDetails"]["metadata"]["buildkit_metadata"];
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(TEXT);
    assert_eq!(metadata["source"]["infos"][0]["data"], text);
    let last = format!("step{}", plan.steps.len() - 1);
    assert_eq!(metadata["source"]["locations"][&last]["locations"][0]["ranges"][0]["start"]["line"], 4);
    assert!(metadata["layers"][format!("{last}:0")][0][0]["digest"].is_string());
    Ok(())
}

#[test]
fn values_of_secrets_never_appear() -> Result {
    let plan = planned(&[("TOKEN", "x-t0ps3cret-y")])?;
    let with = Facts { secrets: vec!["t0ps3cret\n".into(), "\n".into()], ..facts(&plan) };
    let text = statement(&with, &ProvenanceOptions::default()).predicate.to_string();
    assert!(!text.contains("t0ps3cret") && text.contains("x-(redacted)-y"), "{text}");
    Ok(())
}

#[test]
fn a_remote_context_without_network_is_complete_and_hermetic() -> Result {
    // An agent is a way out.
    let (open, plan) = (planned(&[])?, plan_of(&TEXT.replace("--mount=type=ssh ", ""), &[])?);
    let made = statement(&Facts { locals: Vec::new(), ..facts(&open) }, &ProvenanceOptions::default());
    assert_eq!(made.predicate["runDetails"]["metadata"]["buildkit_hermetic"], false);
    let with = Facts {
        locals: Vec::new(),
        context: Some(Material::commit("https://git/x#v1".into(), &"b".repeat(40))),
        ..facts(&plan)
    };
    let made = statement(&with, &ProvenanceOptions::default()).predicate;
    assert_eq!(made["runDetails"]["metadata"]["buildkit_hermetic"], true);
    let source = &made["buildDefinition"]["externalParameters"]["configSource"];
    let wanted = json!({"uri": "https://git/x#v1", "digest": {"sha1": "b".repeat(40)}, "path": "Dockerfile"});
    assert_eq!(*source, wanted);
    assert!(!made.to_string().contains("file:Dockerfile"));
    Ok(())
}

#[test]
fn version_0_2_has_its_own_fields() -> Result {
    let plan = planned(&[])?;
    let options = ProvenanceOptions {
        version: SlsaVersion::V02,
        builder_id: "https://ci".into(),
        ..ProvenanceOptions::default()
    };
    let statement = statement(&facts(&plan), &options);
    assert_eq!(statement.predicate_type, SLSA_V02);
    let made = &statement.predicate;
    assert_eq!(made["builder"]["id"], "https://ci");
    assert_eq!(made["invocation"]["configSource"]["entryPoint"], "Dockerfile");
    assert_eq!(made["materials"].as_array().map(Vec::len), Some(3));
    assert_eq!(made["metadata"]["completeness"]["environment"], true);
    assert!(made["metadata"][METADATA_V02]["source"].is_object());
    assert!(made["buildConfig"]["llbDefinition"].is_array());
    Ok(())
}

#[test]
fn without_an_invocation_the_same_build_says_the_same() -> Result {
    let plan = planned(&[])?;
    let with = |cached| {
        let step = StepFacts { created: 0, cached, layers: Vec::new() };
        let facts = Facts { invocation: None, steps: vec![step; plan.steps.len()], ..facts(&plan) };
        statement(&facts, &ProvenanceOptions::default())
    };
    assert_eq!(with(true), with(false));
    Ok(())
}
