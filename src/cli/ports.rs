//! `-p` of `rbuild run`: ports of this machine that lead to the container.

use std::net::{IpAddr, TcpListener, UdpSocket};

use crate::build::{Failure, FailureKind, Forward};

fn usage(text: &str) -> Failure {
    Failure::new(FailureKind::Usage, format!("-p: {text:?} is no port to publish"))
        .help("write PORT:PORT, such as 8080:80, with ADDRESS: before it or /udp behind it")
}

/// All that the values name. Where no port of this machine is named, one that is free at the moment is taken, and
/// reported by `tell`.
pub(super) fn all(texts: &[String], tell: impl Fn(&str)) -> Result<Vec<Forward>, Failure> {
    let mut all = Vec::new();
    for text in texts {
        for (outside, forward) in parse(text)? {
            let forward = match outside {
                true => forward,
                false => {
                    let taken = free(&forward).map_err(|error| {
                        let message = format!("-p {text}: no port of this machine is free: {error}");
                        Failure::new(FailureKind::Sandbox, message)
                    })?;
                    tell(&format!("port {} is {}", forward.inside, shown(&taken)));
                    taken
                }
            };
            all.push(forward);
        }
    }
    Ok(all)
}

fn shown(forward: &Forward) -> String {
    let kind = if forward.udp { "/udp" } else { "" };
    match forward.address {
        Some(IpAddr::V6(address)) => format!("[{address}]:{}{kind}", forward.outside),
        Some(address) => format!("{address}:{}{kind}", forward.outside),
        None => format!("localhost:{}{kind}", forward.outside),
    }
}

/// A port that nobody has at the moment.
fn free(forward: &Forward) -> std::io::Result<Forward> {
    let at = (forward.address.unwrap_or(IpAddr::from([0, 0, 0, 0])), 0);
    let taken = match forward.udp {
        true => UdpSocket::bind(at)?.local_addr()?,
        false => TcpListener::bind(at)?.local_addr()?,
    };
    Ok(Forward { outside: taken.port(), ..*forward })
}

/// `[[ADDRESS:][PORT[-PORT]]:]PORT[-PORT][/tcp|/udp]`; with each, whether it names a port of this machine.
fn parse(text: &str) -> Result<Vec<(bool, Forward)>, Failure> {
    let wrong = || usage(text);
    let (rest, kind) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match kind.to_ascii_lowercase().as_str() {
        "tcp" => false,
        "udp" => true,
        other => {
            let message = format!("-p {text}: ports of {other} cannot be published, only tcp and udp");
            return Err(Failure::new(FailureKind::Unsupported, message));
        }
    };
    let (before, inside) =
        rest.rsplit_once(':').map_or((None, rest), |(before, inside)| (Some(before), inside));
    let (address, outside) = match before {
        None => (None, ""),
        Some(before) => match before.rsplit_once(':') {
            Some((address, outside)) => {
                let bare = address
                    .strip_prefix('[')
                    .and_then(|address| address.strip_suffix(']'))
                    .unwrap_or(address);
                (Some(bare.parse::<IpAddr>().map_err(|_| wrong())?), outside)
            }
            None => (None, before),
        },
    };
    let inside = range(inside).ok_or_else(wrong)?;
    if outside.is_empty() {
        let forward = |inside| (false, Forward { address, outside: 0, inside, udp });
        return Ok(inside.map(forward).collect());
    }
    let outside = range(outside).ok_or_else(wrong)?;
    if outside.len() != inside.len() {
        return Err(usage(text).help("both ranges have as many ports"));
    }
    Ok(outside
        .zip(inside)
        .map(|(outside, inside)| (true, Forward { address, outside, inside, udp }))
        .collect())
}

/// `PORT` or `PORT-PORT`.
fn range(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = port(first)?..=port(last)?;
    (!range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let forward = |address: Option<&str>, outside, inside, udp| {
            let address = address.map(|address| address.parse().expect("address"));
            (outside != 0, Forward { address, outside, inside, udp })
        };
        for (text, wanted) in [
            ("8080:80", vec![forward(None, 8080, 80, false)]),
            ("127.0.0.1:8080:80", vec![forward(Some("127.0.0.1"), 8080, 80, false)]),
            ("[::1]:8080:80/tcp", vec![forward(Some("::1"), 8080, 80, false)]),
            ("53:53/udp", vec![forward(None, 53, 53, true)]),
            ("80", vec![forward(None, 0, 80, false)]),
            ("127.0.0.1::80", vec![forward(Some("127.0.0.1"), 0, 80, false)]),
            ("8000-8001:80-81", vec![forward(None, 8000, 80, false), forward(None, 8001, 81, false)]),
        ] {
            assert_eq!(parse(text).ok(), Some(wanted), "{text}");
        }
        for text in ["", "x", "0", "70000:1", "1:2:3", "1-3:1-2", "3-1:3-1", "host:1:2", ":", "80/icmp"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_that_is_not_named_is_taken_and_reported() {
        let said = std::cell::RefCell::new(String::new());
        let all =
            all(&["127.0.0.1::80".to_owned()], |text| said.borrow_mut().push_str(text)).expect("a port");
        assert!(all[0].outside > 0 && said.borrow().contains(&all[0].outside.to_string()));
    }
}
