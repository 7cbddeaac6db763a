//! Pools of connections, one for each way in which a target can be reached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ureq::Agent;
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;

use super::config::Timeouts;
use super::error::{Fault, RegistryError, Target, Unreachable};
use super::proxy::Proxies;
use super::reach::{Guard, OFFLINE, Seen, SourceNetwork, bare, written_address};
use super::roots::{self, Trust};

/// How every connection of an endpoint is made.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) user_agent: String,
    pub(super) timeouts: Timeouts,
    pub(super) proxies: Proxies,
    pub(super) trust: Trust,
    pub(super) network: SourceNetwork,
    /// The host that all requests begin at, where there is one: what leads away from it was led.
    pub(super) home: Option<String>,
    pub(super) seen: Arc<Seen>,
}

/// The connection pools: one for each way a target can be reached, made when first needed.
pub(super) struct Agents {
    pub(super) settings: Arc<Settings>,
    pools: Mutex<Pools>,
}

#[derive(Default)]
struct Pools {
    by_way: HashMap<Way, Agent>,
    closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Way {
    tls: bool,
    proxied: bool,
    /// A server elsewhere led here.
    led: bool,
}

impl Agents {
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        Agents { settings: settings.clone(), pools: Mutex::default() }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Cuts all connections and refuses new ones.
    pub(super) fn close(&self) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.closed = true;
        for (_, agent) in pools.by_way.drain() {
            agent.shutdown();
        }
    }

    /// Whether a server that is not on this machine leads to `url`; `begin` is where the caller began.
    pub(super) fn is_led(&self, begin: &Uri, url: &Uri) -> bool {
        let place = |uri: &Uri| uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
        let Some(home) = self.settings.home.clone().or_else(|| place(begin)) else { return true };
        let host = home.parse().map(|home: Authority| home.host().to_owned()).unwrap_or_default();
        place(url).is_none_or(|place| place != home) && !self.settings.seen.is_local(&host)
    }

    /// Refuses addresses that are written out; names are judged when they are looked up. Through a proxy
    /// nothing else can be judged.
    pub(super) fn check(&self, target: &Target, url: &Uri, led: bool) -> Result<(), RegistryError> {
        let (network, host) = (self.settings.network, bare(url.host().unwrap_or_default()));
        let refused = |detail: String| {
            let (target, fault) = (target.clone(), Fault::OutOfReach);
            Err(RegistryError::Unreachable(Box::new(Unreachable { target, fault, detail })))
        };
        if network == SourceNetwork::Nowhere {
            return refused(OFFLINE.to_owned());
        }
        match written_address(host).filter(|address| !network.allows(*address, led)) {
            None => Ok(()),
            Some(address) => refused(network.refusal(host, address, led)),
        }
    }

    /// The pool for a target; `None` once closed.
    pub(super) fn get(&self, uri: &Uri, led: bool) -> Result<Option<Agent>, RegistryError> {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let proxy = self.settings.proxies.find(tls, host, port)?;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.closed {
            return Ok(None);
        }
        let way = Way { tls, proxied: proxy.is_some(), led };
        if let Some(agent) = pools.by_way.get(&way) {
            return Ok(Some(agent.clone()));
        }
        let agent = self.settings.agent(way, proxy.as_ref())?;
        pools.by_way.insert(way, agent.clone());
        Ok(Some(agent))
    }
}

impl Settings {
    fn agent(&self, way: Way, proxy: Option<&ureq::Proxy>) -> Result<Agent, RegistryError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy.cloned())
            .user_agent(self.user_agent.as_str())
            // A transfer coding would change the bytes that digests refer to.
            .accept_encoding("identity")
            .timeout_resolve(Some(self.timeouts.resolve))
            .timeout_connect(Some(self.timeouts.connect))
            .timeout_recv_response(Some(self.timeouts.response))
            .timeout_per_read(Some(self.timeouts.idle))
            .timeout_per_write(Some(self.timeouts.idle))
            .max_idle_connections(32)
            .max_idle_connections_per_host(16);
        if way.tls {
            let Trust { roots, verify, identity } = &self.trust;
            let tls = TlsConfig::builder().disable_verification(!verify);
            let roots = if *verify { roots::load(roots)? } else { RootCerts::WebPki };
            let identity = identity.as_ref().map(roots::client_certificate).transpose()?;
            config = config.tls_config(tls.root_certs(roots).client_cert(identity).build());
        }
        if proxy.is_some() {
            return Ok(Agent::new_with_config(config.build()));
        }
        let (network, led, seen) = (self.network, way.led, self.seen.clone());
        let guard = Guard { network, led, seen, inner: DefaultResolver::default() };
        Ok(Agent::with_parts(config.build(), DefaultConnector::default(), guard))
    }
}
