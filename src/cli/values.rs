//! Values with a grammar of their own: sizes, durations, pairs, `-o`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use crate::build::{
    Annotation, AnnotationKind, CompressionAlgorithm, CompressionChoice, HOST_GATEWAY, Limits, OutputKind,
    OutputSpec,
};
use crate::context::UserPath;
use crate::image::Platform;
use crate::plan::Entitlements;
use crate::suggest::suggest;

use super::args::LimitArgs;

/// `64m`, `1GiB`, `1024`: bytes, in Docker's binary units.
pub(super) fn size(text: &str) -> Result<u64, String> {
    crate::size::bytes(text).ok_or_else(|| format!("invalid size: {text:?}"))
}

/// `90`, `1m30s`, `2h`: whole seconds where no unit is given.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("invalid duration: {text:?} (write for example 90s, 10m or 1h30m)");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..end].parse().map_err(|_| bad())?;
        let unit = rest[end..].chars().next().ok_or_else(bad)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(bad()),
        };
        total = number.checked_mul(factor).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = &rest[end + 1..];
    }
    if total == 0 { Err(bad()) } else { Ok(Duration::from_secs(total)) }
}

/// `NAME=VALUE`.
pub(super) fn pair(text: &str, flag: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{flag} needs NAME=VALUE, got {text:?}")),
    }
}

/// `NAME=VALUE`; an empty path would mean the current directory, which nobody asked for.
pub(super) fn build_context(given: &OsStr) -> Result<(String, UserPath), String> {
    let text = given.to_string_lossy();
    let (name, _) = pair(&text, "--build-context")?;
    // A path may be any bytes.
    let value = given
        .as_bytes()
        .iter()
        .position(|byte| *byte == b'=')
        .map_or(&[][..], |at| &given.as_bytes()[at + 1..]);
    let value = UserPath::from(OsStr::from_bytes(value).to_owned());
    let path = value.strip_prefix("oci-layout://").unwrap_or(&value);
    if path.is_empty() || path.starts_with([':', '@']) {
        return Err(format!("--build-context {text:?} names no directory, archive or image"));
    }
    Ok((name, value))
}

/// `NAME=VALUE`, or `NAME` for a label without a value.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text {
        "" => Err("--label is empty: write NAME=VALUE".to_owned()),
        text if text.contains('=') => pair(text, "--label"),
        text => Ok((text.to_owned(), String::new())),
    }
}

/// `HOST:IP` or `HOST=IP`; IPv6 with or without brackets.
pub(super) fn add_host(text: &str) -> Result<(String, String), String> {
    let bad = || format!("bad format for add-host: {text:?} (write HOST:IP)");
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let known = address == HOST_GATEWAY || address.parse::<std::net::IpAddr>().is_ok();
    if host.is_empty() || !known {
        return Err(bad());
    }
    Ok((host.to_owned(), address.to_owned()))
}

/// `--allow`: `network.host`, `security.insecure`, `device`, `device=NAME`.
pub(super) fn entitlements(texts: &[String]) -> Result<Entitlements, String> {
    let mut all = Entitlements::default();
    for text in texts.iter().flat_map(|text| text.split(' ')) {
        match text.split_once('=').unwrap_or((text, "")) {
            ("network.host", "") => all.network_host = true,
            ("security.insecure", "") => all.insecure = true,
            ("device", "") => all.any_device = true,
            ("device", name) => all.devices.push(name.to_owned()),
            (other, _) => {
                let known = ["network.host", "security.insecure", "device"];
                let hint =
                    suggest(other, known).map_or(String::new(), |near| format!("; did you mean {near}?"));
                return Err(format!("invalid entitlement {text:?}, known are {}{hint}", known.join(", ")));
            }
        }
    }
    Ok(all)
}

/// Limits of RUN from their flags.
pub(super) fn limits(args: &LimitArgs) -> Result<Limits, String> {
    let mut limits = Limits {
        memory: args.memory.as_deref().map(size).transpose()?,
        memory_swap: args.memory_swap.as_deref().map(swap).transpose()?,
        cpu_shares: args.cpu_shares,
        cpu_quota: args.cpu_quota,
        cpu_period: args.cpu_period,
        cpuset_cpus: args.cpuset_cpus.clone(),
        cpuset_mems: args.cpuset_mems.clone(),
        pids: args.pids_limit,
        parent: args.cgroup_parent.clone(),
    };
    for field in args.resources.iter().flat_map(|text| text.split(',')) {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("--resource needs NAME=VALUE, got {field:?}"))?;
        let bad = || format!("invalid value for {key}: {value}");
        match key {
            "memory" => limits.memory = Some(size(value)?),
            "memory-swap" => limits.memory_swap = Some(swap(value)?),
            "cpu-shares" => limits.cpu_shares = Some(value.parse().map_err(|_| bad())?),
            "cpu-period" => limits.cpu_period = Some(value.parse().map_err(|_| bad())?),
            "cpu-quota" => limits.cpu_quota = Some(value.parse().map_err(|_| bad())?),
            "cpuset-cpus" => limits.cpuset_cpus = Some(value.to_owned()),
            "cpuset-mems" => limits.cpuset_mems = Some(value.to_owned()),
            other => return Err(format!("unknown resource {other:?}")),
        }
    }
    if let Some(cpus) = &args.cpus {
        if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            return Err("--cpus and --cpu-quota or --cpu-period cannot be used together".into());
        }
        let count: f64 = cpus.parse().map_err(|_| format!("invalid number of CPUs: {cpus:?}"))?;
        if !(0.01..=10_000.0).contains(&count) {
            return Err(format!("invalid number of CPUs: {cpus:?}"));
        }
        limits.cpu_period = Some(100_000);
        limits.cpu_quota = Some((count * 100_000.0) as i64);
    }
    match (limits.memory, limits.memory_swap) {
        (None, Some(_)) => Err("--memory-swap needs --memory as well".into()),
        (Some(memory), Some(swap)) if swap > 0 && u64::try_from(swap).is_ok_and(|swap| swap < memory) => {
            Err("--memory-swap is memory and swap together: it cannot be less than --memory".into())
        }
        _ => Ok(limits),
    }
}

fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    i64::try_from(size(text)?).map_err(|_| format!("invalid size: {text:?}"))
}

/// `NAME=SOFT[:HARD]`; -1 is no limit.
pub(super) fn ulimit(text: &str) -> Result<(String, u64, u64), String> {
    let bad = || format!("invalid ulimit: {text:?} (write for example nofile=1024:2048)");
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| if text == "-1" { Ok(u64::MAX) } else { text.parse().map_err(|_| bad()) };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok((name.to_owned(), soft, hard))
}

const OUTPUT_KEYS: [&str; 17] = [
    "type",
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
    "annotation",
    "annotation-index",
    "annotation-manifest-descriptor",
    "annotation-index-descriptor",
    "unpack",
];

/// `-o`: `type=...,dest=...`, or a path alone for files.
pub(super) fn output(text: &str) -> Result<OutputSpec, String> {
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
                return Err(format!("the dest of the output {text:?} is empty: write dest=PATH"));
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
            key @ ("unpack"
            | "mode"
            | "attestation-prefix"
            | "oci-artifact"
            | "registry.insecure"
            | "dangling-name-prefix"
            | "context"
            | "store") => {
                return Err(format!("output option {key:?} is not supported yet"));
            }
            other => {
                let hint = suggest(other, OUTPUT_KEYS)
                    .map_or_else(String::new, |key| format!("; did you mean {key:?}?"));
                return Err(format!(
                    "unknown output option {other:?}, known are {}{hint}",
                    OUTPUT_KEYS.join(", ")
                ));
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
            return Err(format!(
                "unknown output type {other:?}; it is oci, docker, image, local, tar or cacheonly"
            ));
        }
        None => return Err("an output needs type=oci, docker, image, local, tar or cacheonly".into()),
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

/// A size for people, in decimal units as Docker shows it.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ if value < 10.0 => format!("{value:.2}{}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1}{}", UNITS[unit]),
        _ => format!("{value:.0}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_in_docker() {
        assert_eq!(
            (size("64m"), size("1GiB"), size("1024"), size("1.5k")),
            (Ok(64 << 20), Ok(1 << 30), Ok(1024), Ok(1536))
        );
        assert!(size("x").is_err() && size("-1").is_err() && size("1q").is_err());
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(
            duration("").is_err()
                && duration("1").is_ok()
                && duration("1x").is_err()
                && duration("m").is_err()
        );
        assert_eq!(
            (human(999), human(1_500), human(123_456_789)),
            ("999B".into(), "1.50kB".into(), "123MB".into())
        );
    }

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
            assert!(output(bad).is_err_and(|error| error.contains(word)), "{bad}");
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

    #[test]
    fn named_contexts_have_a_name_and_a_place() {
        assert_eq!(build_context("a=.".as_ref()), Ok(("a".into(), ".".into())));
        for bad in ["a", "=x", "a=", "a=oci-layout://", "a=oci-layout://:tag"] {
            assert!(build_context(bad.as_ref()).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_limits_are_checked() {
        assert_eq!(add_host("a:1.2.3.4"), Ok(("a".into(), "1.2.3.4".into())));
        assert_eq!(add_host("a=[::1]"), Ok(("a".into(), "::1".into())));
        assert_eq!(add_host("a:::1"), Ok(("a".into(), "::1".into())));
        assert!(add_host("a").is_err() && add_host("a:b").is_err());
        assert_eq!(add_host("a:host-gateway"), Ok(("a".into(), "host-gateway".into())));
        assert_eq!(ulimit("nofile=1:2"), Ok(("nofile".into(), 1, 2)));
        assert_eq!(ulimit("core=-1"), Ok(("core".into(), u64::MAX, u64::MAX)));
        assert!(ulimit("nofile=3:2").is_err() && ulimit("nofile").is_err());
    }
}
