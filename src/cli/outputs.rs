//! `-o` and `--annotation`.

use crate::build::{
    Annotation, AnnotationKind, CompressionAlgorithm, CompressionChoice, OutputKind, OutputSpec,
};
use crate::image::Platform;
use crate::suggest::suggest;

const OUTPUT_TYPES: [&str; 7] = ["image", "registry", "docker", "oci", "local", "tar", "cacheonly"];

/// What is wrong with a value.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// It is a mistake.
    Wrong(String),
    /// It means something that rbuild does not do yet.
    Unsupported(String),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Wrong(message) | Refused::Unsupported(message) => f.write_str(message),
        }
    }
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Refused::Wrong(message)
    }
}

impl From<&str> for Refused {
    fn from(message: &str) -> Self {
        Refused::Wrong(message.to_owned())
    }
}

/// Options of BuildKit's exporters that are not there yet.
const UNSUPPORTED_KEYS: [&str; 8] = [
    "unpack",
    "mode",
    "registry.insecure",
    "dangling-name-prefix",
    "context",
    "store",
    "buildinfo",
    "inline-only",
];

const OUTPUT_KEYS: [&str; 22] = [
    "type",
    "push-by-digest",
    "name-canonical",
    "store",
    "dest",
    "tar",
    "name",
    "push",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "rewrite-timestamp",
    "platform-split",
    "keep-special",
    "oci-artifact",
    "attestation-inline",
    "attestation-prefix",
    "annotation",
    "annotation-index",
    "annotation-manifest-descriptor",
    "annotation-index-descriptor",
];

/// `-o`: `type=...,dest=...`, or a path alone for files.
pub(super) fn output(text: &str) -> Result<OutputSpec, Refused> {
    if !text.contains('=') {
        let kind = if text == "-" { OutputKind::Tar } else { OutputKind::Local };
        return Ok(OutputSpec::new(kind, text));
    }
    let (mut kind, mut dest, mut tar) = (None, None, true);
    let (mut algorithm, mut level, mut force) = (None, None, false);
    let mut estargz = false;
    let mut spec = OutputSpec::new(OutputKind::Image, "");
    for part in csv(text)? {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid output option {part:?}"))?;
        match key.trim().to_lowercase().as_str() {
            "type" => kind = Some(value.to_owned()),
            "dest" if value.is_empty() => {
                return Err(format!("the dest of the output {text:?} is empty: write dest=PATH").into());
            }
            "dest" => dest = Some(value.to_owned()),
            "tar" => tar = boolean(value)?,
            "name" => spec.names.extend(value.split(',').map(str::to_owned)),
            "compression" if value == "estargz" => {
                (algorithm, estargz) = (Some(CompressionAlgorithm::Gzip), true);
            }
            "compression" => (algorithm, estargz) = (Some(compression(value)?), false),
            "compression-level" => {
                level = Some(value.parse().map_err(|_| format!("invalid compression-level {value:?}"))?)
            }
            "force-compression" => force = boolean(value)?,
            "oci-mediatypes" => spec.oci_types = Some(boolean(value)?),
            "rewrite-timestamp" => spec.rewrite_timestamp = Some(boolean(value)?),
            "platform-split" => spec.split = Some(boolean(value)?),
            "keep-special" => spec.keep_special = boolean(value)?,
            "oci-artifact" => spec.legacy_attestations = !boolean(value)?,
            "attestation-inline" => spec.attestation_inline = boolean(value)?,
            "attestation-prefix" => spec.attestation_prefix = file_prefix(value)?,
            "push" => spec.push = boolean(value)?,
            "push-by-digest" => spec.by_digest = boolean(value)?,
            // Names are always normalised, and an image pushed by digest has no other.
            "name-canonical" => {
                boolean(value)?;
            }
            // Images are never unpacked before something runs in them.
            "unpack" | "store" if boolean(value) == Ok(false) => {}
            "store" if boolean(value) == Ok(true) => {}
            key if key.starts_with("annotation") => spec.annotations.push(output_annotation(key, value)?),
            key if UNSUPPORTED_KEYS.contains(&key) => {
                return Err(Refused::Unsupported(format!("output option {key:?} is not supported yet")));
            }
            other => {
                let hint = suggest(other, OUTPUT_KEYS)
                    .map_or_else(String::new, |key| format!("; did you mean {key:?}?"));
                return Err(format!(
                    "unknown output option {other:?}, known are {}{hint}",
                    OUTPUT_KEYS.join(", ")
                )
                .into());
            }
        }
    }
    spec.kind = match kind.as_deref() {
        Some("oci") if tar => OutputKind::Oci,
        Some("oci") => OutputKind::OciDir,
        Some("docker") if dest.is_none() => OutputKind::Load,
        Some("docker") => OutputKind::Docker,
        Some("local") => OutputKind::Local,
        Some("tar") => OutputKind::Tar,
        Some("image") => OutputKind::Image,
        Some("cacheonly") => OutputKind::CacheOnly,
        Some("registry") => {
            spec.push = true;
            OutputKind::Image
        }
        Some(other) => {
            let hint = suggest(other, OUTPUT_TYPES)
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            let known = OUTPUT_TYPES.join(", ");
            return Err(format!("unknown output type {other:?}, known are {known}{hint}").into());
        }
        None => return Err(format!("an output needs type=, one of {}", OUTPUT_TYPES.join(", ")).into()),
    };
    spec.dest = match dest {
        Some(dest) => dest,
        None if spec.kind == OutputKind::Local || spec.kind == OutputKind::OciDir => {
            return Err("this output needs dest=PATH".into());
        }
        None if matches!(spec.kind, OutputKind::Oci | OutputKind::Tar) => "-".into(),
        None => String::new(),
    };
    if (spec.push || spec.by_digest) && spec.kind != OutputKind::Image {
        return Err("push goes with type=image or type=registry only".into());
    }
    if spec.keep_special && spec.kind != OutputKind::Local {
        return Err("keep-special goes with type=local only: the other types keep everything".into());
    }
    if estargz && spec.oci_types == Some(false) {
        return Err(
            "compression=estargz needs annotations of layers, which oci-mediatypes=false has none of".into(),
        );
    }
    let changes = algorithm.is_some() || level.is_some() || force;
    spec.compression = changes.then(|| CompressionChoice {
        algorithm: algorithm.unwrap_or_default(),
        level,
        force,
        estargz,
    });
    Ok(spec)
}

/// What stands before a file name: it cannot lead elsewhere.
fn file_prefix(value: &str) -> Result<String, String> {
    match value.contains('/') {
        true => Err(format!("invalid attestation-prefix {value:?}: it is part of a file name and has no /")),
        false => Ok(value.to_owned()),
    }
}

/// Fields between commas; one in double quotes may hold commas itself.
pub(super) fn csv(text: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(format!("a quote in {text:?} is never closed"));
    }
    fields.push(field);
    Ok(fields)
}

/// `annotation[-KIND][.PLATFORM].KEY` as BuildKit's exporters take it.
fn output_annotation(name: &str, value: &str) -> Result<Annotation, String> {
    let bad = || format!("invalid output option {name:?} (write annotation.KEY=VALUE)");
    let rest = name.strip_prefix("annotation").ok_or_else(bad)?;
    let (kind, rest) = match rest.strip_prefix('-') {
        None => (AnnotationKind::Manifest, rest),
        Some(rest) => {
            let end = rest.find(['.', '[']).ok_or_else(bad)?;
            (annotation_kind(&rest[..end])?, &rest[end..])
        }
    };
    let (platform, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((platform, rest)) => (Some(Platform::parse(platform).map_err(|error| error.to_string())?), rest),
        None => (None, rest),
    };
    let key = rest.strip_prefix('.').filter(|key| !key.is_empty()).ok_or_else(bad)?;
    Ok(Annotation { kind, platform, key: key.to_owned(), value: value.to_owned() })
}

fn annotation_kind(text: &str) -> Result<AnnotationKind, String> {
    Ok(match text {
        "manifest" => AnnotationKind::Manifest,
        "index" => AnnotationKind::Index,
        "manifest-descriptor" => AnnotationKind::ManifestDescriptor,
        "index-descriptor" => AnnotationKind::IndexDescriptor,
        other => {
            return Err(format!(
                "unknown annotation type {other:?}; it is manifest, index, manifest-descriptor or index-descriptor"
            ));
        }
    })
}

/// `--annotation [TYPE[PLATFORM],TYPE:]KEY=VALUE`.
pub(super) fn annotations(text: &str) -> Result<Vec<Annotation>, String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("invalid annotation {text:?}, expected KEY=VALUE"))?;
    let (types, key) = name.split_once(':').unwrap_or(("manifest", name));
    if key.is_empty() {
        return Err(format!("invalid annotation {text:?}: the key is empty"));
    }
    types
        .split(',')
        .map(|one| {
            let (kind, platform) = match one.strip_suffix(']').and_then(|one| one.split_once('[')) {
                Some((kind, platform)) => {
                    (kind, Some(Platform::parse(platform).map_err(|error| error.to_string())?))
                }
                None => (one, None),
            };
            let kind = annotation_kind(kind)?;
            Ok(Annotation { kind, platform, key: key.to_owned(), value: value.to_owned() })
        })
        .collect()
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

pub(super) fn compression(text: &str) -> Result<CompressionAlgorithm, String> {
    match text {
        "gzip" => Ok(CompressionAlgorithm::Gzip),
        "zstd" => Ok(CompressionAlgorithm::Zstd),
        "uncompressed" => Ok(CompressionAlgorithm::Uncompressed),
        other => Err(format!("unknown compression {other:?}; it is gzip, estargz, zstd or uncompressed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_understood_or_refused_by_name() {
        let kind = |text: &str| output(text).map(|spec| (spec.kind, spec.dest));
        assert_eq!(kind("out"), Ok((OutputKind::Local, "out".into())));
        assert_eq!(kind("-"), Ok((OutputKind::Tar, "-".into())));
        assert_eq!(kind("type=oci,dest=a.tar"), Ok((OutputKind::Oci, "a.tar".into())));
        assert_eq!(kind("type=oci,dest=d,tar=false"), Ok((OutputKind::OciDir, "d".into())));
        assert_eq!(kind("type=docker,dest=-"), Ok((OutputKind::Docker, "-".into())));
        assert_eq!(kind("type=docker"), Ok((OutputKind::Load, String::new())));
        assert_eq!(kind("type=image,name=a:1,push=false"), Ok((OutputKind::Image, String::new())));
        assert!(output("type=local,dest=x,keep-special=true").is_ok_and(|spec| spec.keep_special));
        let zstd =
            output("type=oci,dest=x,compression=zstd,compression-level=9").map(|spec| spec.compression);
        let wanted = CompressionChoice {
            algorithm: CompressionAlgorithm::Zstd,
            level: Some(9),
            force: false,
            estargz: false,
        };
        assert_eq!(zstd, Ok(Some(wanted)));
        for (bad, word) in [
            ("type=oci,dst=x", "did you mean"),
            ("type=oci,compression=estargz,oci-mediatypes=false", "estargz"),
            ("type=wat,dest=x", "wat"),
            ("dest=x", "type="),
            ("type=local", "dest"),
            ("type=local,dest=", "is empty"),
            ("type=oci,tar=false,dest=", "is empty"),
            ("type=tar,dest=", "is empty"),
            ("type=docker,dest=", "is empty"),
            ("type=oci,dest=x,push=true", "push"),
            ("type=image,unpack=true", "unpack"),
            ("type=tar,dest=x,keep-special=true", "type=local"),
        ] {
            assert!(output(bad).is_err_and(|error| error.to_string().contains(word)), "{bad}");
        }
    }

    #[test]
    fn annotations_say_what_they_annotate() {
        let one = |kind, platform: Option<&str>, key: &str| Annotation {
            kind,
            platform: platform.map(|text| Platform::parse(text).expect("platform")),
            key: key.into(),
            value: "v".into(),
        };
        assert_eq!(annotations("a.b=v"), Ok(vec![one(AnnotationKind::Manifest, None, "a.b")]));
        let both = annotations("index,manifest[linux/arm64]:k=v");
        let wanted = vec![
            one(AnnotationKind::Index, None, "k"),
            one(AnnotationKind::Manifest, Some("linux/arm64"), "k"),
        ];
        assert_eq!(both, Ok(wanted));
        assert!(
            annotations("k").is_err() && annotations("wat:k=v").is_err() && annotations("index:=v").is_err()
        );
        let spec = output("type=oci,dest=x,annotation.a=v,\"annotation-index[linux/amd64].b=v\"");
        let wanted = vec![
            one(AnnotationKind::Manifest, None, "a"),
            one(AnnotationKind::Index, Some("linux/amd64"), "b"),
        ];
        assert_eq!(spec.map(|spec| spec.annotations), Ok(wanted));
    }
}
