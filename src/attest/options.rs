//! `--provenance` and `--attest`, with buildx's words (moby/buildkit, `docs/attestations/slsa-provenance.md`).

use super::provenance::DEFAULT_FILE;

/// Which attestations a build makes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AttestOptions {
    /// How the image was built.
    pub provenance: Option<ProvenanceOptions>,
    /// Which packages it has.
    pub sbom: Option<SbomOptions>,
    /// Where attestations go.
    pub attach_as: AttachAs,
}

impl AttestOptions {
    /// Whether outputs that hold images carry attestations although nothing is pushed.
    pub fn is_asked_for(&self) -> bool {
        self.sbom.is_some() || self.provenance.as_ref().is_some_and(|options| !options.inline_only)
    }
}

/// How attestations are attached to images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachAs {
    /// As BuildKit does it: entries of an index above the image.
    #[default]
    Index,
    /// As OCI referrers: the image stays as it is, without an index.
    Referrers,
}

/// How much provenance says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Materials and times; nothing that could be confidential.
    Min,
    /// Arguments, steps, source and layers as well.
    #[default]
    Max,
}

/// Versions of SLSA's provenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlsaVersion {
    /// `https://slsa.dev/provenance/v1`
    #[default]
    V1,
    /// `https://slsa.dev/provenance/v0.2`
    V02,
}

/// Parameters of provenance.
#[derive(Clone, Debug, PartialEq)]
pub struct ProvenanceOptions {
    /// How much it says.
    pub mode: Mode,
    /// Its form.
    pub version: SlsaVersion,
    /// Who built, as a URI.
    pub builder_id: String,
    /// Name of the file beside outputs that are files.
    pub file: String,
    /// Claims that building again gives the same bytes. Only to be set after that was checked.
    pub reproducible: bool,
    /// It is an error if not all that the build read is known.
    pub complete_materials: bool,
    /// Only in outputs that hold images.
    pub inline_only: bool,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        ProvenanceOptions {
            mode: Mode::Max,
            version: SlsaVersion::V1,
            builder_id: String::new(),
            file: DEFAULT_FILE.to_owned(),
            reproducible: false,
            complete_materials: false,
            inline_only: false,
        }
    }
}

impl ProvenanceOptions {
    /// What a push carries where nothing is said.
    pub fn of_push() -> Self {
        ProvenanceOptions { mode: Mode::Min, inline_only: true, ..Self::default() }
    }
}

/// Forms of a bill of materials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SbomFormat {
    /// SPDX 2.3
    #[default]
    Spdx,
    /// CycloneDX 1.6
    CycloneDx,
}

/// Parameters of a bill of materials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SbomOptions {
    /// Its form.
    pub format: SbomFormat,
}

/// Why a value of `--attest` or `--provenance` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// A mistake.
    #[error("{0}")]
    Invalid(String),
    /// Known to BuildKit and not here.
    #[error("{0} is not supported yet")]
    Unsupported(String),
}

/// One `--attest`, split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// `provenance` or `sbom`.
    pub kind: String,
    /// Switched off.
    pub disabled: bool,
    /// The other parameters, in order.
    pub parameters: Vec<(String, String)>,
}

impl Attestation {
    /// The fields of `--attest`: `type=KIND,disabled=BOOL,KEY=VALUE...`.
    pub fn parse(fields: &[String]) -> Result<Self, AttestError> {
        let (mut kind, mut disabled, mut parameters) = (String::new(), false, Vec::new());
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                let message = format!("invalid attestation parameter {field:?}: write KEY=VALUE");
                return Err(AttestError::Invalid(message));
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "type" => value.clone_into(&mut kind),
                "disabled" => disabled = boolean(key, value)?,
                _ => parameters.push((key.trim().to_owned(), value.to_owned())),
            }
        }
        match kind.as_str() {
            "provenance" | "sbom" => Ok(Attestation { kind, disabled, parameters }),
            "" => Err(AttestError::Invalid("an attestation needs type=provenance or type=sbom".into())),
            other => {
                let message = format!("unknown attestation type {other:?}; it is provenance or sbom");
                Err(AttestError::Invalid(message))
            }
        }
    }

    /// A value of `--provenance` or `--sbom`, whose fields are given: a truth value, or parameters.
    pub fn short(kind: &str, fields: &[String]) -> Result<Self, AttestError> {
        if let [only] = fields {
            if only.is_empty() {
                return Ok(Attestation { kind: kind.to_owned(), disabled: false, parameters: Vec::new() });
            }
            if let Some(on) = truth(only) {
                return Ok(Attestation { kind: kind.to_owned(), disabled: !on, parameters: Vec::new() });
            }
        }
        let kind = format!("type={kind}");
        Self::parse(&std::iter::once(kind).chain(fields.iter().cloned()).collect::<Vec<_>>())
    }

    /// The parameters of provenance, and how it is attached where that is said.
    pub fn provenance(&self) -> Result<(ProvenanceOptions, Option<AttachAs>), AttestError> {
        let (mut options, mut attach) = (ProvenanceOptions::default(), None);
        for (key, value) in &self.parameters {
            match key.as_str() {
                "mode" => {
                    options.mode = match value.as_str() {
                        "min" => Mode::Min,
                        "max" | "full" => Mode::Max,
                        other => return Err(choice("mode", other, "min or max")),
                    }
                }
                "version" => {
                    options.version = match value.as_str() {
                        "v1" => SlsaVersion::V1,
                        "v0.2" => SlsaVersion::V02,
                        other => return Err(choice("version", other, "v1 or v0.2")),
                    }
                }
                "builder-id" => value.clone_into(&mut options.builder_id),
                "filename" => options.file = file_name(value)?,
                "complete-materials" => options.complete_materials = boolean(key, value)?,
                "inline-only" => options.inline_only = boolean(key, value)?,
                "reproducible" => options.reproducible = boolean(key, value)?,
                "attach-as" | "attest-as" => attach = Some(attach_as(value)?),
                "capture-usage" if !boolean(key, value)? => {}
                "capture-usage" => return Err(AttestError::Unsupported("capture-usage=true".into())),
                other => {
                    let message = format!(
                        "unknown parameter {other:?} of provenance; known are mode, version, builder-id, filename, \
                         reproducible, complete-materials, inline-only and attest-as"
                    );
                    return Err(AttestError::Invalid(message));
                }
            }
        }
        Ok((options, attach))
    }
}

impl Attestation {
    /// The parameters of a bill of materials, and how it is attached where that is said.
    pub fn sbom(&self) -> Result<(SbomOptions, Option<AttachAs>), AttestError> {
        let (mut options, mut attach) = (SbomOptions::default(), None);
        for (key, value) in &self.parameters {
            match key.as_str() {
                "format" => {
                    options.format = match value.as_str() {
                        "spdx" => SbomFormat::Spdx,
                        "cyclonedx" => SbomFormat::CycloneDx,
                        other => return Err(choice("format", other, "spdx or cyclonedx")),
                    }
                }
                "attach-as" | "attest-as" => attach = Some(attach_as(value)?),
                "generator" => {
                    let message =
                        format!("generator={value} of an SBOM (rbuild scans by itself without one)");
                    return Err(AttestError::Unsupported(message));
                }
                other => {
                    let message =
                        format!("unknown parameter {other:?} of sbom; known are format and attest-as");
                    return Err(AttestError::Invalid(message));
                }
            }
        }
        Ok((options, attach))
    }
}

/// `attest-as=`
pub fn attach_as(value: &str) -> Result<AttachAs, AttestError> {
    match value {
        "index" => Ok(AttachAs::Index),
        "referrers" => Ok(AttachAs::Referrers),
        other => Err(choice("attest-as", other, "index or referrers")),
    }
}

/// The last part of a path, as BuildKit takes it.
fn file_name(value: &str) -> Result<String, AttestError> {
    let name = value.rsplit('/').next().unwrap_or_default();
    if matches!(name, "" | "." | "..") || name.contains('\0') {
        return Err(AttestError::Invalid(format!("invalid filename {value:?}")));
    }
    Ok(name.to_owned())
}

fn choice(key: &str, value: &str, known: &str) -> AttestError {
    AttestError::Invalid(format!("invalid {key} {value:?}; it is {known}"))
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn boolean(key: &str, value: &str) -> Result<bool, AttestError> {
    truth(value).ok_or_else(|| choice(key, value, "true or false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn words_of_buildx_are_understood() -> Result<(), AttestError> {
        let of = |text: &str| Attestation::short("provenance", &fields(text));
        assert!(of("false")?.disabled && !of("true")?.disabled && !of("")?.disabled);
        let (options, attach) =
            of("mode=min,version=v0.2,builder-id=https://ci,filename=a/p.json")?.provenance()?;
        assert_eq!((options.mode, options.version), (Mode::Min, SlsaVersion::V02));
        assert_eq!((options.builder_id.as_str(), options.file.as_str()), ("https://ci", "p.json"));
        assert_eq!(attach, None);
        let (options, _) = of("true")?.provenance()?;
        assert_eq!((options.mode, options.version), (Mode::Max, SlsaVersion::V1));
        let whole = Attestation::parse(&fields("type=provenance,inline-only=1,attest-as=referrers"))?;
        let (options, attach) = whole.provenance()?;
        assert!(options.inline_only);
        assert_eq!(attach, Some(AttachAs::Referrers));
        assert!(Attestation::parse(&fields("type=sbom,disabled=true"))?.disabled);
        Ok(())
    }

    #[test]
    fn a_bill_of_materials_has_a_format_and_no_generator() -> Result<(), AttestError> {
        let of = |text: &str| Attestation::short("sbom", &fields(text)).and_then(|one| one.sbom());
        assert_eq!(of("true")?, (SbomOptions::default(), None));
        let (options, attach) = of("format=cyclonedx,attest-as=referrers")?;
        assert_eq!((options.format, attach), (SbomFormat::CycloneDx, Some(AttachAs::Referrers)));
        assert!(
            matches!(of("generator=scanner"), Err(AttestError::Unsupported(text)) if text.contains("scanner"))
        );
        assert!(matches!(of("format=text"), Err(AttestError::Invalid(_))));
        assert!(matches!(of("mode=max"), Err(AttestError::Invalid(_))));
        Ok(())
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("type=provenance,mode=most", "most"),
            ("type=provenance,version=v2", "v2"),
            ("type=provenance,nonsense=1", "nonsense"),
            ("type=provenance,filename=..", "filename"),
            ("type=provenance,capture-usage=true", "capture-usage"),
            ("type=provenance,attest-as=tree", "tree"),
            ("type=provenance,mode", "KEY=VALUE"),
            ("type=wat", "wat"),
            ("mode=max", "type="),
        ] {
            let parsed = Attestation::parse(&fields(text)).and_then(|one| one.provenance());
            let message = parsed.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(message.contains(word), "{text}: {message:?}");
        }
    }
}
