//! Values with a grammar of their own: sizes, durations, pairs, `-o`.

use std::time::Duration;

use crate::build::{CompressionAlgorithm, CompressionChoice, OutputKind, OutputSpec};
use crate::dockerfile::suggest;
use crate::plan::Entitlements;

/// `64m`, `1GiB`, `1024`: bytes, in Docker's binary units.
pub(super) fn size(text: &str) -> Result<u64, String> {
    crate::plan::size::bytes(text).ok_or_else(|| format!("invalid size: {text:?}"))
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

/// `HOST:IP` or `HOST=IP`; IPv6 with or without brackets.
pub(super) fn add_host(text: &str) -> Result<(String, String), String> {
    let bad = || format!("bad format for add-host: {text:?} (write HOST:IP)");
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if address == "host-gateway" {
        return Err("--add-host with host-gateway is not supported yet".into());
    }
    if host.is_empty() || address.parse::<std::net::IpAddr>().is_err() {
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

const OUTPUT_KEYS: [&str; 6] =
    ["type", "dest", "tar", "compression", "compression-level", "force-compression"];

/// `-o`: `type=...,dest=...`, or a path alone for files.
pub(super) fn output(text: &str) -> Result<OutputSpec, String> {
    if !text.contains('=') {
        let kind = if text == "-" { OutputKind::Tar } else { OutputKind::Local };
        return Ok(OutputSpec { kind, dest: text.to_owned(), compression: None });
    }
    let (mut kind, mut dest, mut tar) = (None, None, true);
    let (mut algorithm, mut level, mut force) = (None, None, false);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid output option {part:?}"))?;
        match key.trim().to_lowercase().as_str() {
            "type" => kind = Some(value.to_owned()),
            "dest" => dest = Some(value.to_owned()),
            "tar" => tar = boolean(value)?,
            "compression" => algorithm = Some(compression(value)?),
            "compression-level" => {
                level = Some(value.parse().map_err(|_| format!("invalid compression-level {value:?}"))?)
            }
            "force-compression" => force = boolean(value)?,
            "name" | "push" | "rewrite-timestamp" | "oci-mediatypes" | "annotation" | "platform-split"
            | "mode" => {
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
    let kind = match kind.as_deref() {
        Some("oci") if tar => OutputKind::Oci,
        Some("oci") => OutputKind::OciDir,
        Some("docker") => OutputKind::Docker,
        Some("local") => OutputKind::Local,
        Some("tar") => OutputKind::Tar,
        Some(later @ ("image" | "registry" | "cacheonly")) => {
            return Err(format!(
                "output type={later} is not supported yet; the store keeps every image, see -t"
            ));
        }
        Some(other) => return Err(format!("unknown output type {other:?}; it is oci, docker, local or tar")),
        None => return Err("an output needs type=oci, docker, local or tar".into()),
    };
    let dest = match dest {
        Some(dest) => dest,
        None if kind == OutputKind::Local || kind == OutputKind::OciDir => {
            return Err("this output needs dest=PATH".into());
        }
        None => "-".into(),
    };
    let changes = algorithm.is_some() || level.is_some() || force;
    let compression =
        changes.then(|| CompressionChoice { algorithm: algorithm.unwrap_or_default(), level, force });
    Ok(OutputSpec { kind, dest, compression })
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    }
}

fn compression(text: &str) -> Result<CompressionAlgorithm, String> {
    match text {
        "gzip" => Ok(CompressionAlgorithm::Gzip),
        "zstd" => Ok(CompressionAlgorithm::Zstd),
        "uncompressed" => Ok(CompressionAlgorithm::Uncompressed),
        "estargz" => Err("compression=estargz is not supported yet".into()),
        other => Err(format!("unknown compression {other:?}; it is gzip, zstd or uncompressed")),
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
        assert_eq!(kind("type=docker"), Ok((OutputKind::Docker, "-".into())));
        let zstd =
            output("type=oci,dest=x,compression=zstd,compression-level=9").map(|spec| spec.compression);
        let wanted =
            CompressionChoice { algorithm: CompressionAlgorithm::Zstd, level: Some(9), force: false };
        assert_eq!(zstd, Ok(Some(wanted)));
        for (bad, word) in [
            ("type=image", "image"),
            ("type=oci,dst=x", "did you mean"),
            ("type=oci,compression=estargz", "estargz"),
            ("type=wat,dest=x", "wat"),
            ("dest=x", "type="),
            ("type=local", "dest"),
            ("type=oci,dest=x,push=true", "push"),
        ] {
            assert!(output(bad).is_err_and(|error| error.contains(word)), "{bad}");
        }
    }

    #[test]
    fn hosts_and_limits_are_checked() {
        assert_eq!(add_host("a:1.2.3.4"), Ok(("a".into(), "1.2.3.4".into())));
        assert_eq!(add_host("a=[::1]"), Ok(("a".into(), "::1".into())));
        assert_eq!(add_host("a:::1"), Ok(("a".into(), "::1".into())));
        assert!(add_host("a").is_err() && add_host("a:b").is_err() && add_host("a:host-gateway").is_err());
        assert_eq!(ulimit("nofile=1:2"), Ok(("nofile".into(), 1, 2)));
        assert_eq!(ulimit("core=-1"), Ok(("core".into(), u64::MAX, u64::MAX)));
        assert!(ulimit("nofile=3:2").is_err() && ulimit("nofile").is_err());
    }
}
