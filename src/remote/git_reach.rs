//! Where git connects. It looks names up and follows redirects on its own, so wherever an address is not
//! the build's own word, names are looked up here, and git is bound to the addresses that were found good.

use std::cell::OnceCell;
use std::net::IpAddr;

use ureq::http::Method;

use crate::cancel::Cancel;
use crate::registry::{
    Outgoing, RegistryOptions, Transport as HttpTransport, Trust, addresses, is_local, written_address,
};

use super::error::RemoteError;
use super::git_program::GitOptions;
use super::git_url::{GitUrl, Transport};

/// A repository that git is about to connect to.
pub(super) struct Place {
    transport: Transport,
    /// As git gets it.
    remote: String,
    host: String,
    port: u16,
    /// Another repository elsewhere led here.
    led: bool,
    moved: OnceCell<String>,
}

/// What binds git to addresses.
#[derive(Default)]
pub(super) struct Bound {
    pub(super) settings: Vec<(String, String)>,
    /// Options of ssh, quoted for a shell.
    pub(super) ssh: String,
}

impl Place {
    /// The repository that the build names.
    pub(super) fn named(url: &GitUrl) -> Self {
        Self::of(url.transport, &url.remote, url.host(), false)
    }

    /// The repository of a submodule, which only a path of this machine is not.
    pub(super) fn submodule(remote: &str, led: bool) -> Result<Option<Self>, RemoteError> {
        if let Ok(url) = GitUrl::parse(remote) {
            return Ok(Some(Self::of(url.transport, remote, url.host(), led)));
        }
        let before = remote.split('/').next().unwrap_or_default();
        match before.split_once(':') {
            // git's short form of ssh without a user.
            Some((host, path))
                if !path.starts_with(':')
                    && !remote.contains("://")
                    && !host.is_empty()
                    && host.bytes().all(is_plain) =>
            {
                Ok(Some(Self::of(Transport::Ssh, remote, host, led)))
            }
            None if remote.starts_with(['/', '.']) => Ok(None),
            _ => Err(RemoteError::address(remote, "the address of a submodule is of no known form")),
        }
    }

    fn of(transport: Transport, remote: &str, authority: &str, led: bool) -> Self {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, None),
        };
        let usual = match transport {
            Transport::Http => 80,
            Transport::Https => 443,
            Transport::Ssh => 22,
            Transport::Git => 9418,
            Transport::File => 0,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.unwrap_or(usual);
        Place { transport, remote: remote.to_owned(), host, port, led, moved: OnceCell::new() }
    }

    fn is_http(&self) -> bool {
        matches!(self.transport, Transport::Http | Transport::Https)
    }

    /// Whether it is on this machine, from where nothing on this machine is out of reach.
    pub(super) fn is_local(&self) -> bool {
        if self.transport == Transport::File || self.host.eq_ignore_ascii_case("localhost") {
            return true;
        }
        match written_address(&self.host) {
            Some(address) => is_local(address),
            None => addresses(&self.host, self.port).is_ok_and(|all| all.iter().copied().all(is_local)),
        }
    }

    /// Whether git must not follow redirects: it would not ask whether it may. Where the build names an
    /// address of this machine, it may.
    fn is_still(&self) -> bool {
        let here =
            self.host.eq_ignore_ascii_case("localhost") || written_address(&self.host).is_some_and(is_local);
        self.is_http() && !here
    }

    /// What git is started with.
    pub(super) fn bind(&self, options: &GitOptions) -> Result<Bound, RemoteError> {
        let mut bound = Bound::default();
        if self.transport == Transport::File {
            return Ok(bound);
        }
        if self.is_still() {
            bound.settings.push(("http.followRedirects".into(), "false".into()));
        }
        if let Some(moved) = self.moved.get() {
            bound.settings.push((format!("url.{moved}.insteadOf"), self.remote.clone()));
            let there = GitUrl::parse(moved)?;
            Self::of(there.transport, moved, there.host(), !self.is_local()).pin(options, &mut bound)?;
        }
        self.pin(options, &mut bound)?;
        Ok(bound)
    }

    fn pin(&self, options: &GitOptions, bound: &mut Bound) -> Result<(), RemoteError> {
        if options.network.allows_all(self.led) {
            return Ok(());
        }
        let failed = |reason| RemoteError::Unreachable { url: self.remote.clone(), reason };
        let refused = |address| failed(options.network.refusal(&self.host, address, self.led));
        if let Some(address) = written_address(&self.host) {
            return if options.network.allows(address, self.led) { Ok(()) } else { Err(refused(address)) };
        }
        let tls = self.transport == Transport::Https;
        let proxied = options.proxy.as_ref().is_some_and(|proxy| proxy.serves(tls, &self.host, self.port));
        if self.is_http() && proxied {
            // The proxy looks the name up, and connects from where it is.
            return Ok(());
        }
        let found = addresses(&self.host, self.port).map_err(|error| failed(error.to_string()))?;
        let allowed = found.iter().find(|address| options.network.allows(**address, self.led));
        let address = match (allowed, found.first()) {
            (Some(address), _) => *address,
            (None, Some(address)) => return Err(refused(*address)),
            (None, None) => return Err(failed("the host has no address".to_owned())),
        };
        self.bind_to(address, bound).ok_or_else(|| failed("its host has no usual name".to_owned()))
    }

    fn bind_to(&self, address: IpAddr, bound: &mut Bound) -> Option<()> {
        let bracketed = match address {
            IpAddr::V4(_) => address.to_string(),
            IpAddr::V6(_) => format!("[{address}]"),
        };
        let (host, port) = (&self.host, self.port);
        match self.transport {
            Transport::Http | Transport::Https => {
                bound.settings.push(("http.curloptResolve".into(), format!("{host}:{port}:{bracketed}")));
            }
            Transport::Git => {
                let authority = self.remote.split_once("://")?.1.split('/').next()?;
                let base = format!("git://{bracketed}:{port}/");
                bound.settings.push((format!("url.{base}.insteadOf"), format!("git://{authority}/")));
            }
            Transport::Ssh => {
                host.bytes().all(is_plain).then_some(())?;
                let known = if port == 22 { host.clone() } else { format!("[{host}]:{port}") };
                bound.ssh = format!(" -o HostName={address} -o 'HostKeyAlias={known}'");
            }
            Transport::File => {}
        }
        Some(())
    }

    /// After git met a redirect: finds out where the repository is. False where git may not be started
    /// again.
    pub(super) fn find(&self, options: &GitOptions, cancel: &Cancel) -> Result<bool, RemoteError> {
        if !self.is_still() || self.moved.get().is_some() {
            return Ok(false);
        }
        let (proxy, network) = (options.proxy.clone(), options.network);
        let settings = RegistryOptions { proxy, network, ..RegistryOptions::default() };
        let transport = HttpTransport::new(&settings, Trust::of(options.roots.clone()), None)?;
        let ask = format!("{}/info/refs?service=git-upload-pack", self.remote.trim_end_matches('/'));
        let url = ask.parse().map_err(|_| RemoteError::address(&self.remote, "it is no valid URL"))?;
        let answer = transport.session(cancel).send(&Outgoing::new(Method::GET, url, false))?;
        let Some(base) = answer.target.url.strip_suffix("/info/refs") else { return Ok(false) };
        let moved = base != self.remote.trim_end_matches('/');
        Ok(moved && self.moved.set(base.to_owned()).is_ok())
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::SourceNetwork;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn options(network: SourceNetwork) -> GitOptions {
        GitOptions { network, ..GitOptions::default() }
    }

    #[test]
    fn submodules_cannot_lead_from_elsewhere_to_this_machine() -> Outcome {
        for remote in [
            "http://127.0.0.1:8080/x.git",
            "http://localhost:8080/x.git",
            "https://0x7f000001/x.git",
            "http://169.254.169.254/latest",
            "http://[::ffff:127.0.0.1]/x.git",
            "ssh://git@localhost/x.git",
            "git@127.0.0.1:x.git",
            "localhost:x.git",
            "git://127.1/x.git",
        ] {
            let place = Place::submodule(remote, true)?.ok_or("a path")?;
            let error = place.bind(&options(SourceNetwork::Any)).map(drop).err().ok_or(remote)?;
            assert!(error.to_string().contains("this machine"), "{remote}: {error}");
            let place = Place::submodule(remote, false)?.ok_or("a path")?;
            assert!(place.bind(&options(SourceNetwork::Any)).is_ok(), "{remote}");
            assert!(place.bind(&options(SourceNetwork::Remote)).is_err(), "{remote}");
        }
        for strange in ["ext::sh -c id", "file2:///x", "-x"] {
            assert!(Place::submodule(strange, true).is_err(), "{strange}");
        }
        assert!(Place::submodule("/srv/x.git", true)?.is_none());
        Ok(())
    }

    #[test]
    fn git_is_bound_to_the_address_that_was_found_good() -> Outcome {
        let address: IpAddr = "93.184.216.34".parse()?;
        for (remote, key, value, ssh) in [
            ("https://h.test/x.git", "http.curloptResolve", "h.test:443:93.184.216.34", ""),
            ("git://h.test:99/x.git", "url.git://93.184.216.34:99/.insteadOf", "git://h.test:99/", ""),
            ("git@h.test:x.git", "", "", " -o HostName=93.184.216.34 -o 'HostKeyAlias=h.test'"),
            (
                "ssh://git@h.test:2222/x.git",
                "",
                "",
                " -o HostName=93.184.216.34 -o 'HostKeyAlias=[h.test]:2222'",
            ),
        ] {
            let place = Place::submodule(remote, true)?.ok_or("a path")?;
            let mut bound = Bound::default();
            place.bind_to(address, &mut bound).ok_or("not bound")?;
            let found =
                bound.settings.first().map_or(("", ""), |(key, value)| (key.as_str(), value.as_str()));
            assert_eq!((found, bound.ssh.as_str()), ((key, value), ssh), "{remote}");
        }
        Ok(())
    }
}
