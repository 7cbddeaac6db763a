//! Values with a grammar of their own: sizes, durations, pairs, `-o`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use crate::build::{HOST_GATEWAY, Limits};
use crate::context::UserPath;
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

/// `HOST:IP[,HOST:IP...]`.
pub(super) fn add_hosts(texts: &[String]) -> Result<Vec<(String, String)>, String> {
    texts.iter().flat_map(|text| text.split(',')).map(add_host).collect()
}

/// `HOST:IP` or `HOST=IP`; IPv6 with or without brackets.
fn add_host(text: &str) -> Result<(String, String), String> {
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
    for text in texts.iter().flat_map(|text| text.split([' ', ','])) {
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
            "pids-limit" => limits.pids = Some(value.parse().map_err(|_| bad())?),
            other => {
                let hint = suggest(other, RESOURCES)
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                return Err(format!("unknown resource {other:?}, known are {}{hint}", RESOURCES.join(", ")));
            }
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
        // No limit of both is what there is without.
        (None, Some(-1)) => Ok(Limits { memory_swap: None, ..limits }),
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

/// Names of `--resource`.
const RESOURCES: [&str; 8] = [
    "memory",
    "memory-swap",
    "cpu-shares",
    "cpu-period",
    "cpu-quota",
    "cpuset-cpus",
    "cpuset-mems",
    "pids-limit",
];

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
