//! Which addresses sources may be at, and where one server may lead to another.
//!
//! Whoever runs a registry or web server chooses where its redirects, token services and upload places
//! lead, and what its names resolve to. Addresses of this machine and its link are not for them to
//! choose: services there often trust whoever can reach them. Names are judged by the addresses that a
//! connection is about to be made to, so an answer of the name service that changes later helps nobody.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::config::is_loopback;

/// Where sources of a build may be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceNetwork {
    /// Anywhere. A server that is elsewhere cannot lead to this machine or its link.
    #[default]
    Any,
    /// Not on this machine or its link, also where the build names it.
    Remote,
    /// At public addresses only: private networks are out of reach too.
    Public,
    /// Nowhere: no connection is made and no name looked up. What `--offline` is; no setting has it.
    #[serde(skip)]
    Nowhere,
}

/// Why nothing is reached by [`SourceNetwork::Nowhere`].
pub const OFFLINE: &str = "--offline forbids every connection";

/// Addresses that cloud providers serve credentials and settings of the machine at, beside those that
/// are link-local.
const METADATA: &[IpAddr] = &[
    // Alibaba Cloud, Azure, Oracle Cloud's older machines.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// The same, by the first 32 bits: Amazon (also for pods), Google, Scaleway.
const METADATA_NETWORKS: &[[u16; 2]] = &[[0xfd00, 0xec2], [0xfd20, 0xce], [0xfd00, 0x42]];

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, NAT64 or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0 | 1, _, _, _, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether an address is this machine, its link, or a provider's service about the machine.
pub fn is_local(address: IpAddr) -> bool {
    let address = plain(address);
    METADATA.contains(&address)
        || match address {
            // "This network" is this machine to Linux.
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0,
            IpAddr::V6(v6) => {
                let [first, second, ..] = v6.segments();
                v6.is_loopback()
                    || v6.is_unspecified()
                    || first & 0xffc0 == 0xfe80
                    || METADATA_NETWORKS.contains(&[first, second])
            }
        }
}

/// Whether an address is one of a private network, or none that a single host of the internet has: what IANA's
/// registries of special addresses do not call globally reachable (RFC 6890).
fn is_private(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => match v4.octets() {
            // Shared by customers of a provider; benchmarks; multicast and reserved.
            [100, b, ..] if b & 0xc0 == 64 => true,
            [198, 18 | 19, ..] | [224..=255, ..] => true,
            // Protocols, examples, relays of 6to4.
            [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => true,
            _ => v4.is_private(),
        },
        IpAddr::V6(v6) => match v6.segments() {
            // Private, site-local, multicast.
            [first, ..]
                if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 || first & 0xff00 == 0xff00 =>
            {
                true
            }
            // Protocols with Teredo and ORCHID, examples, segment routing, discarded.
            [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => true,
            [0x3fff, second, ..] if second < 0x1000 => true,
            [0x5f00, ..] | [0x100, 0, 0, 0, ..] => true,
            _ => false,
        },
    }
}

impl SourceNetwork {
    /// Whether a source may be at an address; `led` where another server led there.
    pub fn allows(self, address: IpAddr, led: bool) -> bool {
        match self {
            SourceNetwork::Any => !led || !is_local(address),
            SourceNetwork::Remote => !is_local(address),
            SourceNetwork::Public => !is_local(address) && !is_private(address),
            SourceNetwork::Nowhere => false,
        }
    }

    /// Whether every address is allowed.
    pub fn allows_all(self, led: bool) -> bool {
        self == SourceNetwork::Any && !led
    }

    /// Why an address is out of reach.
    pub fn refusal(self, host: &str, address: IpAddr, led: bool) -> String {
        if self == SourceNetwork::Nowhere {
            return OFFLINE.to_owned();
        }
        let kind = if is_local(address) { "this machine or its link" } else { "a private network" };
        let at = match host.parse::<IpAddr>() {
            Ok(written) if address == written => host.to_owned(),
            _ => format!("{host}, which is {address},"),
        };
        match led && self == SourceNetwork::Any {
            true => format!(
                "{at} belongs to {kind}; a server elsewhere led there, which only the build itself may"
            ),
            false => format!("{at} belongs to {kind}; --source-network={self} forbids it"),
        }
    }
}

impl std::str::FromStr for SourceNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(SourceNetwork::Any),
            "remote" => Ok(SourceNetwork::Remote),
            "public" => Ok(SourceNetwork::Public),
            _ => Err("expected any, remote or public".to_owned()),
        }
    }
}

impl fmt::Display for SourceNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceNetwork::Any => "any",
            SourceNetwork::Remote => "remote",
            SourceNetwork::Public => "public",
            SourceNetwork::Nowhere => "nowhere",
        })
    }
}

/// A host without its port and brackets.
pub(super) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The address that a host is written as, in any form the C library reads: `127.1`, `0x7f000001`.
pub fn written_address(host: &str) -> Option<IpAddr> {
    let host = bare(host).trim_end_matches('.');
    if let Ok(address) = host.split('%').next()?.parse() {
        return Some(address);
    }
    let numeric = !host.is_empty() && host.bytes().all(|c| c.is_ascii_hexdigit() || b".xX".contains(&c));
    if !numeric || !host.bytes().next().is_some_and(|c| c.is_ascii_digit()) {
        return None;
    }
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
    let mut bits = 0u32;
    for (at, part) in first.iter().enumerate() {
        bits |= part.checked_shl(24 - 8 * u32::try_from(at).ok()?).filter(|_| *part < 256)?;
    }
    let room = 32 - 8 * u32::try_from(first.len()).ok()?;
    let fits = room == 32 || u64::from(*last) < 1 << room;
    fits.then(|| IpAddr::V4(Ipv4Addr::from_bits(bits | last)))
}

/// The addresses of a host, as a connection would use them.
pub fn addresses(host: &str, port: u16) -> std::io::Result<Vec<IpAddr>> {
    Ok((bare(host), port).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Where names led so far.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<String, Led>>);

#[derive(Clone, Copy, Debug)]
struct Led {
    /// To nothing but this machine, ever.
    here: bool,
    /// To nothing of this machine, at least once.
    elsewhere: bool,
}

impl Seen {
    fn note(&self, host: &str, found: &ResolvedSocketAddrs) {
        let here = found.iter().all(|address| is_local(address.ip()));
        let elsewhere = !found.iter().any(|address| is_local(address.ip()));
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let led = seen.entry(host.to_ascii_lowercase()).or_insert(Led { here, elsewhere });
        led.here &= here;
        led.elsewhere |= elsewhere;
    }

    fn of(&self, host: &str) -> Option<Led> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&host.to_ascii_lowercase()).copied()
    }

    /// Whether a host is on this machine, however often its name was looked up: from there another
    /// server on this machine is nothing new.
    pub(super) fn is_local(&self, host: &str) -> bool {
        let host = bare(host);
        match written_address(host) {
            Some(address) => is_local(address),
            None => self.of(host).map_or_else(|| is_loopback(host), |led| led.here),
        }
    }
}

/// Looks names up, and leaves out the addresses that are not allowed.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) network: SourceNetwork,
    /// Another server led here.
    pub(super) led: bool,
    pub(super) seen: Arc<Seen>,
    pub(super) inner: DefaultResolver,
}

/// The error of a lookup that found only addresses that are not allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct OutOfReach(pub(super) String);

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let host = bare(uri.host().unwrap_or_default());
        // A name that was elsewhere before and is here now is the oldest trick.
        let led = self.led || self.seen.of(host).is_some_and(|led| led.elsewhere);
        self.seen.note(host, &found);
        let allowed = |address: &&SocketAddr| self.network.allows(address.ip(), led);
        let mut kept = self.empty();
        found.iter().filter(allowed).for_each(|address| kept.push(*address));
        match found.iter().next() {
            Some(first) if kept.is_empty() => {
                let why = OutOfReach(self.network.refusal(host, first.ip(), led));
                Err(ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why)))
            }
            _ => Ok(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_known_in_every_form() {
        for (host, local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("127.1", true),
            ("2130706433", true),
            ("0x7f000001", true),
            ("017700000001", true),
            ("0177.0.0.1", true),
            ("0x7f.0.0.1", true),
            ("0", true),
            ("0.0.0.0", true),
            ("169.254.169.254", true),
            ("0xa9fea9fe", true),
            ("100.100.100.200", true),
            ("168.63.129.16", true),
            ("::1", true),
            ("::", true),
            ("[::1]", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:a9fe:a9fe", true),
            ("::127.0.0.1", true),
            ("64:ff9b::7f00:1", true),
            ("2002:7f00:1::", true),
            ("fe80::1", true),
            ("fe80::1%eth0", true),
            ("fd00:ec2::254", true),
            ("fd00:ec2::23", true),
            ("fd20:ce::254", true),
            ("[fd00:42::42]", true),
            ("10.0.0.1", false),
            ("8.8.8.8", false),
            ("128.0.0.1", false),
            ("2001:db8::1", false),
            ("fd00::1", false),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(written_address(host).map(is_local), Some(local), "{host}");
        }
        for name in
            ["localhost", "example.test", "127.0.0.1.example.test", "1.2.3.4.5", "256.256.256.256", "", "abc"]
        {
            assert_eq!(written_address(name), None, "{name}");
        }
    }

    #[test]
    fn each_network_has_its_addresses() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for (address, any, led, remote, public) in [
            ("127.0.0.1", true, false, false, false),
            ("169.254.169.254", true, false, false, false),
            ("::ffff:127.0.0.1", true, false, false, false),
            ("10.1.2.3", true, true, true, false),
            ("100.64.0.1", true, true, true, false),
            ("fd12::1", true, true, true, false),
            ("224.0.0.1", true, true, true, false),
            ("192.0.2.7", true, true, true, false),
            ("198.51.100.1", true, true, true, false),
            ("203.0.113.9", true, true, true, false),
            ("192.0.0.8", true, true, true, false),
            ("240.0.0.1", true, true, true, false),
            ("2001:db8::1", true, true, true, false),
            ("2001:0:1::1", true, true, true, false),
            ("3fff::1", true, true, true, false),
            ("64:ff9b::a01:203", true, true, true, false),
            ("192.1.0.1", true, true, true, true),
            ("198.20.0.1", true, true, true, true),
            ("2001:4860:4860::8888", true, true, true, true),
            ("93.184.216.34", true, true, true, true),
            ("2606:4700::1111", true, true, true, true),
        ] {
            let got = [
                SourceNetwork::Any.allows(at(address), false),
                SourceNetwork::Any.allows(at(address), true),
                SourceNetwork::Remote.allows(at(address), false),
                SourceNetwork::Public.allows(at(address), false),
            ];
            assert_eq!(got, [any, led, remote, public], "{address}");
        }
    }

    #[test]
    fn a_name_that_once_led_elsewhere_is_not_on_this_machine() {
        let found = |text: &str| {
            let mut all = DefaultResolver::default().empty();
            text.parse().into_iter().for_each(|address| all.push(address));
            all
        };
        let (here, elsewhere) = (found("127.0.0.1:80"), found("93.184.216.34:80"));
        let seen = Seen::default();
        assert!(seen.is_local("localhost") && seen.is_local("[::1]") && !seen.is_local("registry.test"));
        seen.note("registry.test", &here);
        assert!(seen.is_local("Registry.test"));
        seen.note("registry.test", &elsewhere);
        seen.note("registry.test", &here);
        assert!(!seen.is_local("registry.test"));
    }
}
