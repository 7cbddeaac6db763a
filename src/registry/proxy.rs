//! Which requests go through a proxy.

use std::fmt;
use std::net::IpAddr;

use super::config::is_loopback;
use super::error::RegistryError;

/// Proxies, as the variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` describe them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyOptions {
    /// For plain http: `http://[user:password@]host[:port]`, which must allow CONNECT, or `socks5://...`,
    /// which looks names up itself, as `socks5h://...` does.
    pub http: Option<String>,
    /// For https, in the same form.
    pub https: Option<String>,
    /// Hosts reached directly, separated by commas: a name (with all names below it), `.name`
    /// (only those below it), an address, a network `10.0.0.0/8`, each optionally with `:port`, or `*`.
    pub no_proxy: String,
}

impl ProxyOptions {
    /// Whether a target is reached through a proxy.
    pub fn serves(&self, tls: bool, host: &str, port: u16) -> bool {
        let proxy = if tls { &self.https } else { &self.http };
        proxy.is_some() && !is_loopback(host) && !is_exempt(&self.no_proxy, host, port)
    }
}

impl fmt::Debug for ProxyOptions {
    /// Proxy addresses may contain a password, so only their presence shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyOptions")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Proxies, each checked when something is to go through it: one that nothing goes through fails nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies(ProxyOptions);

impl Proxies {
    pub(super) fn new(options: &ProxyOptions) -> Self {
        Proxies(options.clone())
    }

    /// The proxy for a target, if it is to be reached through one.
    pub(super) fn find(
        &self,
        tls: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<ureq::Proxy>, RegistryError> {
        if !self.0.serves(tls, host, port) {
            return Ok(None);
        }
        let proxy = if tls { &self.0.https } else { &self.0.http };
        proxy.as_deref().map(parse).transpose()
    }
}

fn parse(text: &str) -> Result<ureq::Proxy, RegistryError> {
    // What stands before the @ is a secret, so an error shows only the rest.
    let shown = text.rsplit('@').next().unwrap_or_default();
    let invalid = |reason: String| RegistryError::invalid("proxy", shown, reason);
    let expected = || invalid("expected http://host:port or socks5://host:port".to_owned());
    let proxy = ureq::Proxy::new(text).map_err(|_| expected())?;
    let authority = shown.split_once("://").map_or(shown, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    // A port that is no number would silently be the usual one.
    let port = authority.strip_prefix(proxy.host()).and_then(|rest| rest.strip_prefix(':'));
    if port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Err(expected());
    }
    match proxy.protocol() {
        ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https | ureq::ProxyProtocol::Socks5h => Ok(proxy),
        // As in Docker, the proxy looks names up: what this machine finds may be another host.
        ureq::ProxyProtocol::Socks5 => {
            let mut by_name =
                ureq::Proxy::builder(ureq::ProxyProtocol::Socks5h).host(proxy.host()).port(proxy.port());
            if let Some(user) = proxy.username() {
                by_name = by_name.username(user);
            }
            if let Some(password) = proxy.password() {
                by_name = by_name.password(password);
            }
            by_name.build().map_err(|_| expected())
        }
        other => Err(invalid(format!("{other} proxies are not supported"))),
    }
}

fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| covers(entry, &host, port))
}

fn covers(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let entry = entry.to_ascii_lowercase();
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some((network, bits)) = entry.split_once('/') {
            let (Ok(network), Ok(bits)) = (network.parse(), bits.parse()) else { return false };
            return in_network(address, network, bits);
        }
        if entry.parse() == Ok(address) {
            return true;
        }
    }
    let name = match entry.rsplit_once(':') {
        Some((name, wanted)) if !name.contains(':') || name.ends_with(']') => {
            if wanted.parse() != Ok(port) {
                return false;
            }
            name
        }
        _ => &entry,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').trim_start_matches('*');
    match name.strip_prefix('.') {
        Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
    }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (address ^ network).checked_shr(width - bits).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemptions_cover_names_networks_and_ports() {
        for (list, host, port, exempt) in [
            ("example.test", "example.test", 443, true),
            ("example.test", "reg.example.test", 443, true),
            ("example.test", "notexample.test", 443, false),
            (".example.test", "reg.example.test", 443, true),
            (".example.test", "example.test", 443, false),
            ("*.example.test", "reg.example.test", 443, true),
            ("Example.Test", "REG.example.test.", 443, true),
            ("example.test:5000", "example.test", 5000, true),
            ("example.test:5000", "example.test", 443, false),
            ("10.0.0.0/8", "10.9.8.7", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("0.0.0.0/0", "11.0.0.1", 443, true),
            ("10.0.0.0/99", "10.0.0.1", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("::/0", "10.0.0.1", 443, false),
            ("fd12::1", "fd12::1", 443, true),
            ("[fd12::1]:5000", "fd12::1", 5000, true),
            ("a.test, b.test", "b.test", 443, true),
            ("*", "anything.test", 443, true),
            ("", "anything.test", 443, false),
            (" , ", "anything.test", 443, false),
        ] {
            assert_eq!(is_exempt(list, host, port), exempt, "{list:?} {host} {port}");
        }
    }

    #[test]
    fn loopback_is_never_proxied() -> Result<(), RegistryError> {
        let proxies = Proxies::new(&ProxyOptions {
            http: Some("http://proxy.example.test:3128".into()),
            ..ProxyOptions::default()
        });
        assert!(proxies.find(false, "registry.example.test", 80)?.is_some());
        assert!(proxies.find(true, "registry.example.test", 443)?.is_none());
        assert!(proxies.find(false, "127.0.0.1", 5000)?.is_none());
        Ok(())
    }

    #[test]
    fn an_unusable_proxy_is_refused_when_it_is_needed_without_showing_its_password() {
        let options = |url: &str| ProxyOptions { https: Some(url.into()), ..ProxyOptions::default() };
        for url in [
            "socks4://user:hunter2@proxy.example.test",
            "ftp://user:hunter2@proxy.example.test",
            "http://user:hunter2@proxy.example.test:http",
        ] {
            let proxies = Proxies::new(&options(url));
            assert!(proxies.find(true, "localhost", 443).is_ok_and(|proxy| proxy.is_none()), "{url}");
            assert!(proxies.find(false, "a.test", 80).is_ok_and(|proxy| proxy.is_none()), "{url}");
            let text = proxies.find(true, "a.test", 443).err().map(|error| error.to_string());
            let text = text.unwrap_or_default();
            assert!(text.contains("proxy.example.test") && !text.contains("hunter2"), "{text}");
        }
        assert!(!format!("{:?}", options("http://user:hunter2@proxy.example.test")).contains("hunter2"));
    }

    #[test]
    fn socks_proxies_look_names_up_themselves() -> Result<(), RegistryError> {
        for url in ["socks5://u:p%40@proxy.example.test", "socks5h://u:p%40@proxy.example.test:1080"] {
            let proxy = parse(url)?;
            assert_eq!(
                (proxy.host(), proxy.port(), proxy.resolve_target()),
                ("proxy.example.test", 1080, false)
            );
            assert_eq!((proxy.username(), proxy.password()), (Some("u"), Some("p@")), "{url}");
        }
        Ok(())
    }
}
