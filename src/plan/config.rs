//! Small rules about the values that instructions put into an image's config.

use crate::dockerfile::{self, CommandLine};
use crate::image::Healthcheck;

use super::duration;

/// Sets a variable in its old place, or at the end.
pub(super) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    let same = |known: &&mut String| known.split_once('=').map_or(known.as_str(), |(key, _)| key) == name;
    match env.iter_mut().find(same) {
        Some(old) => *old = pair,
        None => env.push(pair),
    }
}

/// A list of strings as Go's `%q` prints it, which is how history shows commands.
pub(super) fn quoted(argv: &[String]) -> String {
    let all: Vec<String> = argv.iter().map(|arg| go_quote(arg)).collect();
    format!("[{}]", all.join(" "))
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `80`, `53/udp`, `8000-8010/tcp`, with host parts read and dropped as BuildKit does (the
/// `ParsePortSpec` of its package nat).
pub(super) fn ports(text: &str) -> Result<Vec<String>, String> {
    let (host, container) = text.rsplit_once(':').unwrap_or(("", text));
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    // `80/` is `80/tcp`.
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (first, last) = port_range(range).ok_or_else(|| format!("invalid containerPort: {text}"))?;
    let (address, host_range) = host.rsplit_once(':').unwrap_or(("", host));
    check_address(address)?;
    if !host_range.is_empty() {
        let (from, to) = port_range(host_range).ok_or_else(|| format!("invalid hostPort: {host_range}"))?;
        if first != last && last - first != to - from {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {range} and {host_range}"
            ));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse::<u16>().ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

fn check_address(address: &str) -> Result<(), String> {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("invalid IP address: {address}"))
}

/// A signal's name with or without `SIG`, a real-time signal, or a number.
pub(super) fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 37] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "UNUSED", "EMT", "INFO",
    ];
    if let Ok(number) = text.parse::<i32>() {
        return number > 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if NAMES[..35].contains(&name) || matches!(name, "RTMIN" | "RTMAX") {
        return true;
    }
    let offset = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse::<u32>().ok());
    offset("RTMIN+").is_some_and(|n| (1..=15).contains(&n))
        || offset("RTMAX-").is_some_and(|n| (1..=14).contains(&n))
}

/// The config's form of a probe.
pub(super) fn healthcheck(check: &dockerfile::Healthcheck) -> Healthcheck {
    match check {
        dockerfile::Healthcheck::None => Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() },
        dockerfile::Healthcheck::Cmd {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        } => {
            let test = match command {
                CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
                CommandLine::Exec(argv) => {
                    std::iter::once("CMD".to_owned()).chain(argv.iter().cloned()).collect()
                }
            };
            Healthcheck {
                test,
                interval: interval.unwrap_or(0),
                timeout: timeout.unwrap_or(0),
                start_period: start_period.unwrap_or(0),
                start_interval: start_interval.unwrap_or(0),
                retries: i64::from(retries.unwrap_or(0)),
            }
        }
    }
}

/// As Go's `%+v` prints the probe.
pub(super) fn healthcheck_history(check: &Healthcheck) -> String {
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        duration::go(check.interval),
        duration::go(check.timeout),
        duration::go(check.start_period),
        duration::go(check.start_interval),
        check.retries
    )
}
