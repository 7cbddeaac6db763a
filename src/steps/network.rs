//! The network of RUN where nothing else is asked for: one for all steps of a build, made when the
//! first of them needs it.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::plan::{HOST_GATEWAY, RunNetwork};
use crate::plan::{Step, StepKind};
use crate::sandbox::{
    Forward, Network, NetworkFailure, NetworkHelper, PrivateIds, UserNetwork, outward_address,
};

type Starting = JoinHandle<Result<UserNetwork, NetworkFailure>>;

/// Starts the network of a build at most once, and ends it when dropped.
#[derive(Debug, Default)]
pub struct BuildNetwork {
    search_path: Option<OsString>,
    helpers: OnceLock<Vec<NetworkHelper>>,
    ids: Option<PrivateIds>,
    /// Ports of this machine that lead inside.
    forwards: Vec<Forward>,
    /// A step of the build is going to use it.
    expected: AtomicBool,
    starting: Mutex<Option<Starting>>,
    started: OnceLock<Result<UserNetwork, NetworkFailure>>,
}

/// What a process gets.
#[derive(Debug)]
pub struct Connection {
    /// For its description.
    pub network: Network,
    /// Content of its `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
    /// Names for its `/etc/hosts`.
    pub extra_hosts: Vec<(String, String)>,
}

impl BuildNetwork {
    /// With the helper programs of a `PATH`; without any, processes are on this machine's network.
    /// `ids` are those that the processes have, where they are not this machine's.
    pub fn new(search_path: Option<OsString>, ids: Option<PrivateIds>) -> Self {
        BuildNetwork { search_path, ids, ..Self::default() }
    }

    /// For processes that can only be on this machine's network, which somebody else says.
    pub fn shared() -> Self {
        BuildNetwork {
            started: OnceLock::from(Err(NetworkFailure::Unavailable(String::new()))),
            ..Self::default()
        }
    }

    /// As [`BuildNetwork::new`], with ports of this machine that lead inside. There is no other network then: fails
    /// where it cannot be made, with why.
    pub fn forwarding(
        search_path: Option<OsString>,
        ids: Option<PrivateIds>,
        forwards: Vec<Forward>,
    ) -> Result<Self, String> {
        let network = BuildNetwork { search_path, ids, forwards, ..Self::default() };
        network.started(&|_| {}).map_err(NetworkFailure::to_string)?;
        Ok(network)
    }

    /// Says which steps the build has. Where one of them needs it, it is there before the first step of all
    /// runs: no step can bring it about that the machine's network stands in for those that follow.
    pub fn expect<'s>(&self, steps: impl IntoIterator<Item = &'s Step>) {
        let uses =
            |step: &Step| matches!(&step.kind, StepKind::Run(run) if run.network == RunNetwork::Default);
        if steps.into_iter().any(uses) {
            self.expected.store(true, Ordering::Relaxed);
        }
    }

    fn is_expected(&self) -> bool {
        self.expected.load(Ordering::Relaxed) && !self.helpers().is_empty()
    }

    fn ids(&self) -> Option<&PrivateIds> {
        self.ids.as_ref().filter(|ids| ids.is_possible())
    }

    fn helpers(&self) -> &[NetworkHelper] {
        self.helpers.get_or_init(|| NetworkHelper::find(self.search_path.as_deref()))
    }

    /// Starts it in the background if `wanted` needs it and nobody did so yet: other preparations
    /// go on meanwhile.
    pub fn begin(&self, wanted: RunNetwork) {
        let needed = wanted == RunNetwork::Default || self.expected.load(Ordering::Relaxed);
        if !needed || self.started.get().is_some() || self.helpers().is_empty() {
            return;
        }
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if starting.is_none() && self.started.get().is_none() {
            let (helpers, ids) = (self.helpers().to_vec(), self.ids().cloned());
            let start = move || UserNetwork::start(&helpers, ids.as_ref());
            // Without a thread it is started by the first one that waits for it.
            *starting = std::thread::Builder::new().name("network".into()).spawn(start).ok();
        }
    }

    /// The network as `wanted`, complete. `notice` is called once where the host's network has to
    /// stand in. An error means that the machine gave no answer, which is no reason for that.
    pub fn connect(
        &self,
        wanted: RunNetwork,
        resolv_conf: &[u8],
        extra_hosts: &[(String, String)],
        notice: &dyn Fn(String),
    ) -> Result<Connection, String> {
        let own = match wanted {
            RunNetwork::Default => match self.started(notice) {
                Ok(own) => Some(own),
                Err(NetworkFailure::Unavailable(_)) => None,
                Err(NetworkFailure::Undecided(why)) => {
                    return Err(format!(
                        "a network of RUN's own could not be made: {why}. Something was lacking for the moment, and \
                         rbuild does not take this machine's network instead. Try again, or choose --network=host \
                         or none"
                    ));
                }
            },
            RunNetwork::Host | RunNetwork::None => {
                if self.is_expected() {
                    let _ = self.started(notice);
                }
                None
            }
        };
        let network = match (wanted, own) {
            (RunNetwork::None, _) => Network::None,
            (_, Some(own)) => Network::Joined(own.namespace()),
            (_, None) => Network::Host,
        };
        let gateway = match network {
            Network::Host => IpAddr::V4(Ipv4Addr::LOCALHOST),
            // What serves the neighbourhood may be reached, loopback services not. A machine without
            // neighbours has no address that leads to it.
            _ => outward_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        };
        let host = |(name, address): &(String, String)| {
            let address = if address == HOST_GATEWAY { gateway.to_string() } else { address.clone() };
            (name.clone(), address)
        };
        Ok(Connection {
            resolv_conf: own.map_or_else(|| resolv_conf.to_vec(), |own| own.resolv_conf(resolv_conf)),
            extra_hosts: extra_hosts.iter().map(host).collect(),
            network,
        })
    }

    fn started(&self, notice: &dyn Fn(String)) -> Result<&UserNetwork, &NetworkFailure> {
        let start = || {
            let thread = self.starting.lock().unwrap_or_else(PoisonError::into_inner).take();
            let started = match thread.map(JoinHandle::join) {
                Some(Ok(started)) => started,
                _ => UserNetwork::forwarding(self.helpers(), self.ids(), &self.forwards),
            };
            started.inspect_err(|failure| {
                if let NetworkFailure::Unavailable(why) = failure {
                    notice(format!(
                        "RUN uses this machine's network, its loopback services included: {why} (install passt or \
                         slirp4netns, or choose --network=host or none)"
                    ));
                }
            })
        };
        self.started.get_or_init(start).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn without_helpers_there_is_one_notice() {
        let network = BuildNetwork::default();
        let said = RefCell::new(Vec::new());
        let notice = |text: String| said.borrow_mut().push(text);
        let hosts = [("up".to_owned(), HOST_GATEWAY.to_owned()), ("db".to_owned(), "192.0.2.7".to_owned())];
        for wanted in [RunNetwork::Host, RunNetwork::None] {
            let _ = network.connect(wanted, b"x", &hosts, &notice);
        }
        assert_eq!(said.borrow().len(), 0);
        for _ in 0..2 {
            network.begin(RunNetwork::Default);
            let made = network.connect(RunNetwork::Default, b"x", &hosts, &notice).expect("a network");
            assert!(matches!(made.network, Network::Host));
            assert_eq!(made.resolv_conf, b"x");
            assert_eq!(made.extra_hosts[0].1, "127.0.0.1");
            assert_eq!(made.extra_hosts[1].1, "192.0.2.7");
        }
        assert_eq!(said.borrow().len(), 1);
        assert!(said.borrow()[0].contains("passt"));
    }
}
