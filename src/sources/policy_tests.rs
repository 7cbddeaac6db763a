//! Source policies: the cases of `testdata/policies/source-policies.json`, and what is wrong with a policy.

use std::error::Error;

use serde_json::Value;

use super::policy::json::SourcePolicy;
use super::policy::{Policies, Source};
use crate::remote::{GitUrl, HttpUrl};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn source(value: &Value) -> Source {
    let attrs = value["attrs"].as_object().into_iter().flatten();
    Source {
        identifier: value["identifier"].as_str().unwrap_or_default().to_owned(),
        attrs: attrs
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
    }
}

#[test]
fn policies_decide_as_buildkits() -> Result {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../testdata/policies/source-policies.json"))?;
    assert!(cases.len() >= 30);
    for case in &cases {
        let name = case["name"].as_str().unwrap_or_default();
        let mut policies = Policies::default();
        for policy in case["policies"].as_array().into_iter().flatten() {
            policies.add(SourcePolicy::parse("policy.json", &policy.to_string())?);
        }
        let before = source(&case["source"]);
        match (policies.evaluate(&before), case["denied"].as_str()) {
            (Ok(after), None) => assert_eq!(after.unwrap_or(before), source(&case["becomes"]), "{name}"),
            (Err(error), Some(words)) => assert!(error.message.contains(words), "{name}: {}", error.message),
            (other, expected) => panic!("{name}: {other:?}, and not {expected:?}"),
        }
    }
    Ok(())
}

#[test]
fn mistakes_in_a_policy_are_named_with_their_place() {
    let rule = |text: &str| format!("{{\"rules\":[{{\"selector\":{{}}}},{text}]}}");
    for (text, message) in [
        ("".to_owned(), "p.json:1:0: EOF"),
        ("{\n \"rulez\": []}".to_owned(), "p.json:2:8: unknown field `rulez`"),
        ("{\"version\":2}".to_owned(), "p.json: version 2 is not supported"),
        (rule("{}"), "missing field `selector`"),
        (rule(r#"{"action":"BLOCK","selector":{}}"#), "\"BLOCK\" is none of ALLOW, DENY, CONVERT"),
        (rule(r#"{"action":7,"selector":{}}"#), "7 is none of"),
        (rule(r#"{"action":"CONVERT","selector":{}}"#), "p.json: rule 2: CONVERT needs updates"),
        (rule(r#"{"selector":{"identifier":"a**b"}}"#), "rule 2: invalid wildcard \"a**b\""),
        (rule(r#"{"selector":{"identifier":"(","match_type":"REGEX"}}"#), "rule 2: \"(\" is not a regular"),
        (
            rule(r#"{"selector":{"constraints":[{"key":"k","value":"[","condition":"MATCHES"}]}}"#),
            "rule 2: \"[\" is not a regular",
        ),
    ] {
        let error = SourcePolicy::parse("p.json", &text).err().unwrap_or_default();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[test]
fn a_conversion_that_grows_ends() {
    let growing = format!(
        r#"{{"rules":[{{"action":"CONVERT","selector":{{"identifier":"^.*$","match_type":"REGEX"}},"updates":{{"identifier":"{}"}}}}]}}"#,
        "${0}".repeat(1000)
    );
    let mut policies = Policies::default();
    policies.add(SourcePolicy::parse("p.json", &growing).unwrap_or_else(|error| panic!("{error}")));
    let error = policies.evaluate(&Source::new("https://a.test/f")).err().map(|error| error.message);
    assert!(
        error.is_some_and(|text| text.contains("p.json: rule 1 converts a source to an identifier of more"))
    );
    let long = growing.replace("${0}", "${0}${0}");
    assert!(
        SourcePolicy::parse("p.json", &long).is_err_and(|error| error.contains("rule 1: an identifier has"))
    );
}

#[test]
fn sources_have_buildkits_identifiers() -> Result {
    for (url, identifier) in [
        ("https://github.com/moby/buildkit.git", "git://github.com/moby/buildkit.git"),
        ("https://u:p@h.test:8443/r.git#v1:dir", "git://h.test:8443/r.git#v1:dir"),
        ("git@github.com:moby/buildkit.git#main", "git://github.com/moby/buildkit.git#main"),
        ("ssh://git@h.test:22/r.git", "git://h.test:22/r.git"),
        ("https://h.test/r.git?subdir=d", "git://h.test/r.git#:d"),
    ] {
        let parsed = GitUrl::parse(url)?;
        let made = Source::git(&parsed);
        assert_eq!(made.identifier, identifier);
        assert_eq!(made.to_git(&parsed, &made).as_ref(), Some(&parsed), "{url}");
    }
    let before = GitUrl::parse("git@h.test:r.git#main")?;
    let from = Source::git(&before);
    let moved = Source { identifier: "git://mirror.test/r.git#v1".into(), ..from.clone() };
    let after = moved.to_git(&before, &from).ok_or("no repository")?;
    assert_eq!(
        (after.to_string().as_str(), after.reference.as_deref()),
        ("https://mirror.test/r.git", Some("v1"))
    );
    let file = Source::file(&HttpUrl::parse("https://u:p@h.test/f?a=b")?, Some("sha256:00"));
    assert_eq!(file.identifier, "https://h.test/f?a=b");
    Ok(())
}
