//! `rbuild sign`, `rbuild verify`, and the keys of `--sign`.

use std::io::Read as _;

use clap::Args;
use serde_json::{Value, json};

use crate::attest::provenance::SLSA_PREFIX;
use crate::attest::sign::{Signer, Verifier};
use crate::build::{Failure, FailureKind, Verified};

use super::environment::Environment;
use super::registry::{AccessArgs, platform, transfer};
use super::verify::ReportFormat;
use super::{Session, Stop, print, print_json};

/// Key files that are read, in bytes.
const MAX_KEY: u64 = 64 << 10;

#[derive(Args, Debug)]
pub(super) struct SignArgs {
    /// The private key: a PEM file, or env://NAME; an encrypted one takes COSIGN_PASSWORD
    #[arg(long, value_name = "FILE|env://NAME")]
    pub key: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
    /// A name at its registry, docker://NAME, or oci-layout:DIR[:TAG]
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The public key: a PEM file, or env://NAME
    #[arg(long, value_name = "FILE|env://NAME")]
    pub key: Option<String>,
    /// The image must have been built from this repository or context
    #[arg(long, value_name = "URI")]
    pub source: Option<String>,
    /// The image must have been built by this builder
    #[arg(long, value_name = "URI")]
    pub builder: Option<String>,
    /// The build must have read this, with that digest where one is given; may be repeated
    #[arg(long = "material", value_name = "URI[@sha256:DIGEST]")]
    pub materials: Vec<String>,
    /// Platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How the result is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: ReportFormat,
    #[command(flatten)]
    pub access: AccessArgs,
    /// A name at its registry, docker://NAME, store:NAME, oci-layout:DIR[:TAG] or oci-archive:FILE
    pub image: String,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

fn unsupported(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Unsupported, message)
}

/// The key of `--sign`.
pub(super) fn signer(text: Option<&str>, env: &Environment) -> Result<Option<Signer>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.split_once('=') {
        Some(("key", place)) => private_key(place, env).map(Some),
        _ if matches!(text, "true" | "keyless") => Err(no_keyless()),
        _ => {
            Err(usage(format!("invalid --sign {text:?}"))
                .help("write --sign key=FILE or --sign key=env://NAME"))
        }
    }
}

fn no_keyless() -> Failure {
    unsupported("keyless signing is not supported: it needs an identity provider and a transparency log")
        .help("give a key with --key FILE; `openssl` or `cosign generate-key-pair` makes one")
}

fn private_key(place: &str, env: &Environment) -> Result<Signer, Failure> {
    record_key(place, env.cosign_password.clone())
}

/// A private key, with the password of an encrypted one.
pub(super) fn record_key(place: &str, password: Option<String>) -> Result<Signer, Failure> {
    let bytes = key_bytes(place)?;
    let password = password.as_deref().map(str::as_bytes);
    Signer::from_pem(&bytes, password).map_err(|error| {
        let failure = usage(format!("cannot use the key {place}: {error}"));
        match error {
            crate::attest::sign::KeyError::NoPassword => failure.help("set COSIGN_PASSWORD"),
            _ => failure,
        }
    })
}

/// A public key.
pub(super) fn public_key(place: &str) -> Result<Verifier, Failure> {
    let key = Verifier::from_pem(&key_bytes(place)?);
    key.map_err(|error| usage(format!("cannot use the key {place}: {error}")))
}

/// The bytes of a key: of a file, or of a variable.
fn key_bytes(place: &str) -> Result<Vec<u8>, Failure> {
    if place.is_empty() {
        return Err(usage("the place of the key is empty")
            .help("it is a file, or env://NAME; if it comes from a variable, that one is not set"));
    }
    if let Some(name) = place.strip_prefix("env://") {
        let value = Environment::variable(name);
        return value.map(String::into_bytes).ok_or_else(|| usage(format!("the variable {name} is not set")));
    }
    if let Some((scheme, _)) = place.split_once("://") {
        return Err(unsupported(format!("keys at {scheme}:// are not supported"))
            .help("a key is a file, or the value of a variable: env://NAME"));
    }
    if place.starts_with("pkcs11:") {
        return Err(unsupported("keys of PKCS#11 tokens are not supported"));
    }
    let read = |error: std::io::Error| usage(format!("cannot read the key {place}: {error}"));
    let mut bytes = Vec::new();
    // A pipe is fine: shells make one of `<(command)`.
    let file = std::fs::File::open(place).map_err(read)?;
    file.take(MAX_KEY + 1).read_to_end(&mut bytes).map_err(read)?;
    Ok(bytes)
}

/// `rbuild sign`
pub(super) fn sign(session: &Session, args: &SignArgs) -> Result<u8, Stop> {
    let key = private_key(args.key.as_deref().ok_or_else(no_keyless)?, &session.env)?;
    let cwd = std::env::current_dir()?;
    let lines = transfer(session, &args.access, None, |transfer| {
        let mut lines = String::new();
        for image in &args.images {
            let place = transfer.source_or_name(image, &cwd, true)?;
            let (top, bundles) = transfer.sign(&place, &key)?;
            let attestations = match bundles.saturating_sub(1) {
                0 => String::new(),
                1 => " with 1 attestation".to_owned(),
                count => format!(" with {count} attestations"),
            };
            lines.push_str(&format!("{image}: signed {}{attestations}\n", top.digest));
        }
        Ok(lines)
    })?;
    print(&lines)?;
    Ok(0)
}

/// `rbuild verify`
pub(super) fn verify(session: &Session, args: &VerifyArgs) -> Result<u8, Stop> {
    let place = args.key.as_deref().ok_or_else(|| {
        unsupported("keyless verification is not supported").help("give the public key with --key FILE")
    })?;
    refuse_empty(args)?;
    let key = public_key(place)?;
    let cwd = std::env::current_dir()?;
    let platform = platform(args.platform.as_deref(), session)?;
    let verified = transfer(session, &args.access, Some(platform), |transfer| {
        transfer.verify(&transfer.source_or_name(&args.image, &cwd, true)?, &key)
    })?;
    let problems = problems(&verified, args);
    let provenance = provenance(&verified).count();
    if args.format == ReportFormat::Json {
        let result = json!({
            "image": args.image, "digest": verified.top.digest, "manifest": verified.image.digest,
            "verified": problems.is_empty(), "signatures": verified.signatures,
            "statements": verified.statements, "problems": problems, "unread": verified.unread,
        });
        print_json(&format!("{result:#}\n"))?;
    } else if problems.is_empty() {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        print(&format!(
            "{}: verified {} ({}, {}, {provenance} of them provenance)\n",
            args.image,
            verified.top.digest,
            count(verified.signatures, "signature"),
            count(verified.statements.len(), "attestation"),
        ))?;
    } else {
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{}: {problem}\n", args.image)).collect();
        print(&lines.concat())?;
    }
    Ok(u8::from(!problems.is_empty()))
}

/// An empty expectation, such as of a variable that is not set, must not look as if it was met. Elsewhere an empty
/// value counts as not given; here that would be the attacker's wish.
fn refuse_empty(args: &VerifyArgs) -> Result<(), Failure> {
    let given = [("--source", args.source.as_ref()), ("--builder", args.builder.as_ref())];
    let materials = args.materials.iter().map(|material| ("--material", Some(material)));
    for (flag, value) in given.into_iter().chain(materials) {
        if value.is_some_and(|value| value.trim().is_empty()) {
            return Err(usage(format!("{flag} has an empty value, which nothing can be compared with"))
                .help("leave it out, or set the variable that it comes from"));
        }
    }
    Ok(())
}

fn provenance(verified: &Verified) -> impl Iterator<Item = &Value> {
    let kind = |one: &&Value| one["predicateType"].as_str().is_some_and(|kind| kind.starts_with(SLSA_PREFIX));
    verified.statements.iter().filter(kind).map(|one| &one["predicate"])
}

/// What is missing. One provenance must say all that is asked for.
fn problems(verified: &Verified, args: &VerifyArgs) -> Vec<String> {
    let mut all = Vec::new();
    if verified.signatures == 0 {
        all.push("there is no signature by this key".to_owned());
    }
    all.extend(unmet(verified, args));
    // What could not be read may be what is missing.
    if !all.is_empty() {
        all.extend(verified.unread.iter().cloned());
    }
    all
}

/// What of the expectations no provenance says.
fn unmet(verified: &Verified, args: &VerifyArgs) -> Vec<String> {
    if args.source.is_none() && args.builder.is_none() && args.materials.is_empty() {
        return Vec::new();
    }
    let mut least: Option<Vec<String>> = None;
    for predicate in provenance(verified) {
        let found = differences(predicate, args);
        if least.as_ref().is_none_or(|least| found.len() < least.len()) {
            least = Some(found);
        }
    }
    least.unwrap_or_else(|| vec!["there is no signed provenance".to_owned()])
}

fn differences(predicate: &Value, args: &VerifyArgs) -> Vec<String> {
    let either = |one: &str, other: &str| predicate.pointer(one).or_else(|| predicate.pointer(other));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut all = Vec::new();
    if let Some(wanted) = &args.source {
        let source = text(either(
            "/buildDefinition/externalParameters/configSource/uri",
            "/invocation/configSource/uri",
        ));
        if source != *wanted && source.split('#').next() != Some(wanted) {
            let source = if source.is_empty() { "a directory".to_owned() } else { source };
            all.push(format!("it was built from {source}, not from {wanted}"));
        }
    }
    if let Some(wanted) = &args.builder {
        let builder = text(either("/runDetails/builder/id", "/builder/id"));
        if builder != *wanted {
            all.push(format!("it was built by {builder:?}, not by {wanted}"));
        }
    }
    let read = either("/buildDefinition/resolvedDependencies", "/materials").and_then(Value::as_array);
    let read = read.map(Vec::as_slice).unwrap_or_default();
    for wanted in &args.materials {
        let (uri, digest) = match wanted.rsplit_once("@sha256:") {
            Some((uri, hex)) => (uri, Some(hex)),
            None => (wanted.as_str(), None),
        };
        let is = |one: &&Value| {
            one["uri"].as_str() == Some(uri)
                && digest.is_none_or(|digest| one["digest"]["sha256"].as_str() == Some(digest))
        };
        if !read.iter().any(|one| is(&one)) {
            all.push(format!("{wanted} is not among its materials"));
        }
    }
    all
}
