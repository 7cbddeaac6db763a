//! `--provenance`, `--sbom` and `--attest`.

use clap::Args;
use serde_json::{Value, json};

use crate::attest::provenance::SLSA_PREFIX;
use crate::attest::{AttestError, Attestation};
use crate::build::{AttestOptions, Failure, FailureKind, Place, ProvenanceOptions};
use crate::image::Platform;

use super::environment::Environment;
use super::images::{InspectArgs, find, is_elsewhere};
use super::registry::{AccessArgs, transfer};
use super::{Session, Stop, flags, outputs};

/// Predicate type of SPDX documents.
const SPDX: &str = "https://spdx.dev/Document";

/// What is claimed about the result.
#[derive(Args, Debug, Default)]
pub(super) struct AttestArgs {
    /// State how the image was built: true, false, or mode=min|max,version=v1|v0.2,...
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Attestations")]
    pub provenance: Option<String>,
    /// List the packages of the image: true, false, or format=spdx|cyclonedx
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Attestations")]
    pub sbom: Option<String>,
    /// An attestation: type=provenance,KEY=VALUE or type=sbom,KEY=VALUE
    #[arg(long, value_name = "ATTESTATION", help_heading = "Attestations")]
    pub attest: Vec<String>,
    /// Sign what is pushed: key=FILE or key=env://NAME; an encrypted key takes COSIGN_PASSWORD
    #[arg(long, value_name = "key=KEY", help_heading = "Attestations")]
    pub sign: Option<String>,
}

/// What is asked for, and what a push has without being asked.
pub(super) fn options(args: &AttestArgs, env: &Environment) -> Result<AttestOptions, Failure> {
    let all = all(args)?;
    let mut options = AttestOptions::default();
    match of_kind(&all, "provenance") {
        Some(one) if one.disabled => {}
        Some(one) => {
            let (provenance, attach) = one.provenance().map_err(refused)?;
            if provenance.reproducible {
                let message = "reproducible=true is claimed only after it was checked";
                return Err(Failure::new(FailureKind::Usage, message)
                    .help("`rbuild verify-reproducible` checks it, and its provenance says so"));
            }
            options.provenance = Some(provenance);
            options.attach_as = attach.unwrap_or_default();
        }
        None => options.provenance = by_default(env)?.then(ProvenanceOptions::of_push),
    }
    if let Some(one) = of_kind(&all, "sbom").filter(|one| !one.disabled) {
        let (sbom, attach) = one.sbom().map_err(refused)?;
        options.sbom = Some(sbom);
        options.attach_as = attach.unwrap_or(options.attach_as);
    }
    Ok(options)
}

/// All attestations that are written, in buildx's order: of a kind, the last counts.
fn all(args: &AttestArgs) -> Result<Vec<Attestation>, Failure> {
    let fields = |text: &str| outputs::csv(text).map_err(|message| Failure::new(FailureKind::Usage, message));
    let mut all = Vec::new();
    for text in &args.attest {
        all.push(Attestation::parse(&fields(text)?).map_err(refused)?);
    }
    for (kind, text) in [("provenance", &args.provenance), ("sbom", &args.sbom)] {
        if let Some(text) = text {
            all.push(Attestation::short(kind, &fields(text)?).map_err(refused)?);
        }
    }
    Ok(all)
}

fn of_kind<'a>(all: &'a [Attestation], kind: &str) -> Option<&'a Attestation> {
    all.iter().rev().find(|one| one.kind == kind)
}

fn by_default(env: &Environment) -> Result<bool, Failure> {
    let Some(text) = &env.no_default_attestations else { return Ok(true) };
    match flags::boolean(text) {
        Some(off) => Ok(!off),
        None => {
            let message = format!("invalid BUILDX_NO_DEFAULT_ATTESTATIONS {text:?}; it is true or false");
            Err(Failure::new(FailureKind::Usage, message))
        }
    }
}

/// Whether a format of `inspect` asks for attestations, which nothing else reads.
pub(super) fn is_shown(format: &str) -> bool {
    format.contains(".Provenance") || format.contains(".SBOM")
}

/// Adds `Provenance` and `SBOM` to what `inspect` shows, with buildx's field names.
pub(super) fn add(
    session: &Session,
    args: &InspectArgs,
    text: &str,
    platform: &Platform,
    value: &mut Value,
) -> Result<(), Stop> {
    let place = match is_elsewhere(text) {
        true => Place::parse(text, &std::env::current_dir()?)?,
        false => Place::Store(find(&session.store()?, text)?),
    };
    let quiet = AccessArgs { insecure_registries: args.access.insecure_registries.clone(), quiet: true };
    let attested = transfer(session, &quiet, Some(platform.clone()), |transfer| transfer.attested(&place))?;
    let of = |prefix: &str| {
        let kind = |one: &&Value| one["predicateType"].as_str().is_some_and(|kind| kind.starts_with(prefix));
        attested.statements.iter().find(kind).map(|one| one["predicate"].clone())
    };
    value["Provenance"] = of(SLSA_PREFIX).map_or(json!({}), |predicate| json!({"SLSA": predicate}));
    value["SBOM"] = of(SPDX).map_or(json!({}), |predicate| json!({"SPDX": predicate}));
    Ok(())
}

fn refused(error: AttestError) -> Failure {
    match error {
        AttestError::Invalid(_) => Failure::new(FailureKind::Usage, error.to_string()),
        AttestError::Unsupported(_) => Failure::new(FailureKind::Unsupported, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::{AttachAs, Mode};

    #[allow(clippy::field_reassign_with_default)]
    fn of(provenance: Option<&str>, attest: &[&str], off: Option<&str>) -> Result<AttestOptions, String> {
        let args = AttestArgs {
            provenance: provenance.map(str::to_owned),
            sbom: None,
            sign: None,
            attest: attest.iter().map(|text| (*text).to_owned()).collect(),
        };
        let mut env = Environment::default();
        env.no_default_attestations = off.map(str::to_owned);
        options(&args, &env).map_err(|failure| failure.message)
    }

    #[test]
    fn a_push_has_provenance_unless_it_is_switched_off() {
        let default = of(None, &[], None);
        assert!(default.is_ok_and(|options| options.provenance == Some(ProvenanceOptions::of_push())));
        for (provenance, attest, off) in [
            (Some("false"), &[][..], None),
            (None, &["type=provenance,disabled=true"][..], None),
            (None, &[][..], Some("1")),
            (Some("0"), &["type=provenance,mode=max"][..], None),
        ] {
            assert_eq!(of(provenance, attest, off), Ok(AttestOptions::default()));
        }
        assert!(of(None, &[], Some("perhaps")).is_err_and(|message| message.contains("perhaps")));
    }

    #[test]
    fn what_is_asked_for_counts_also_where_the_default_is_off() {
        let asked = of(None, &["type=provenance,mode=min,attest-as=referrers"], Some("true"));
        assert!(asked.is_ok_and(|options| options.is_asked_for()
            && options.attach_as == AttachAs::Referrers
            && options.provenance.is_some_and(|provenance| provenance.mode == Mode::Min)));
        let mistakes = [(Some("mode=most"), "most"), (Some("reproducible=true"), "checked")];
        for (provenance, word) in mistakes {
            assert!(of(provenance, &[], None).is_err_and(|message| message.contains(word)));
        }
    }
}
