//! A network for processes that is not this machine's: a network namespace of their own, connected
//! to the outside by a program in user space (pasta or slirp4netns). What listens on this machine's
//! loopback or on abstract sockets is out of reach from there.
//!
//! A keeper process holds the network namespace and a PID namespace in which the program runs. It
//! ends when this process does, whatever the reason, and the kernel then ends the program too.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::clone::{Cloned, clone_process};
use super::private::PrivateIds;
use super::syscalls;

/// How long a helper may take to configure the namespace.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at the namespace's routes.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Addresses inside: the same for both helpers, those that slirp4netns has by default.
const ADDRESS: &str = "10.0.2.100";
const GATEWAY: &str = "10.0.2.2";
const DEVICE: &str = "eth0";
const NETMASK: &str = "255.255.255.0";
const NAME_SERVER: &str = "10.0.2.3";
/// An address that belongs to nobody (RFC 5737): asking for the route to it sends nothing.
const ANYWHERE: &str = "198.51.100.1:9";

/// A port of this machine that leads to one of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Address of this machine; all of them where none is given.
    pub address: Option<IpAddr>,
    /// Port of this machine.
    pub outside: u16,
    /// Port of the namespace.
    pub inside: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl Forward {
    /// As pasta takes it: `[ADDRESS/]PORT:PORT`.
    fn of_pasta(&self) -> String {
        let address = self.address.map(|address| format!("{address}/")).unwrap_or_default();
        format!("{address}{}:{}", self.outside, self.inside)
    }
}

/// A program that connects a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkHelper {
    /// Its path.
    pub program: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pasta,
    Slirp4netns,
}

impl NetworkHelper {
    /// Those found in the directories of a `PATH`, the best first.
    pub fn find(path: Option<&OsStr>) -> Vec<Self> {
        let dirs: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        [("pasta", Kind::Pasta), ("slirp4netns", Kind::Slirp4netns)]
            .into_iter()
            .filter_map(|(name, kind)| {
                let program = dirs.iter().map(|dir| dir.join(name)).find(|file| file.is_file())?;
                Some(NetworkHelper { program, kind })
            })
            .collect()
    }

    fn command(&self, namespace: &Path, forwards: &[Forward]) -> Command {
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Pasta => {
                command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw"]);
                // Nothing else is forwarded, neither from outside nor to this machine's loopback.
                for (direction, udp) in [("-t", false), ("-u", true)] {
                    let mut ports = forwards.iter().filter(|forward| forward.udp == udp).peekable();
                    if ports.peek().is_none() {
                        command.args([direction, "none"]);
                    }
                    for port in ports {
                        command.args([direction, &port.of_pasta()]);
                    }
                }
                command.args(["-T", "none", "-U", "none"]);
                command.args(["-a", ADDRESS, "-n", NETMASK, "-g", GATEWAY, "--dns-forward", NAME_SERVER]);
                if is_initial_user_namespace() {
                    // As anybody else it could not enter the namespace; it drops its capabilities itself.
                    command.args(["--runas", "0:0"]);
                }
                command.args(["--ns-ifname", DEVICE, "--netns-only", "--netns"]).arg(namespace);
            }
            Kind::Slirp4netns => {
                command.args(["--configure", "--mtu=65520", "--disable-host-loopback"]);
                command.args(["--enable-sandbox", "--enable-seccomp", "--netns-type=path"]);
                command.arg(namespace).arg(DEVICE);
            }
        }
        command
    }
}

/// Why there is no network of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkFailure {
    /// This machine has none for its user: no helper is installed, or none works here.
    Unavailable(String),
    /// Memory, processes, descriptors or time were lacking. Others can bring that about, so it says nothing about
    /// what the machine has.
    Undecided(String),
}

impl fmt::Display for NetworkFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkFailure::Unavailable(why) | NetworkFailure::Undecided(why) => f.write_str(why),
        }
    }
}

/// Whether a helper could not be started for want of what others may have used up.
fn is_passing(error: &io::Error) -> bool {
    const WANTS: [Errno; 5] = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::INTR];
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    errno.is_some_and(|errno| WANTS.contains(&errno))
        || matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::OutOfMemory)
}

/// The same of the last words of a helper, which are the C library's.
fn names_a_want(words: &str) -> bool {
    ["Resource temporarily unavailable", "Cannot allocate memory", "Too many open files"]
        .iter()
        .any(|text| words.contains(text))
}

/// Whether IDs in here are those of the machine.
pub(super) fn is_initial_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// A connected network namespace. It ends, and the program with it, when this is dropped.
#[derive(Debug)]
pub struct UserNetwork {
    namespace: Arc<OwnedFd>,
    program: PathBuf,
    helper: Option<Child>,
    /// Must end after the helper was collected, which it waits for.
    keeper: Option<Keeper>,
}

impl UserNetwork {
    /// Makes a namespace and connects it with the first helper that works. The error is that of the
    /// last one, or of one that may work another time. Processes with other IDs than this machine's need to say
    /// which.
    pub fn start(helpers: &[NetworkHelper], ids: Option<&PrivateIds>) -> Result<Self, NetworkFailure> {
        Self::forwarding(helpers, ids, &[])
    }

    /// As [`UserNetwork::start`], with ports of this machine that lead inside. Only pasta does that.
    pub fn forwarding(
        helpers: &[NetworkHelper],
        ids: Option<&PrivateIds>,
        forwards: &[Forward],
    ) -> Result<Self, NetworkFailure> {
        let missing = match forwards {
            [] => "neither pasta nor slirp4netns is installed",
            _ => "pasta (package passt) is not installed",
        };
        let mut last = NetworkFailure::Unavailable(missing.to_owned());
        let able = |helper: &&NetworkHelper| forwards.is_empty() || helper.kind == Kind::Pasta;
        for helper in helpers.iter().filter(able) {
            match Self::start_with(helper, ids, forwards) {
                Ok(network) => return Ok(network),
                Err(error) => {
                    let text = format!("{}: {error}", helper.program.display());
                    last = match last {
                        _ if is_passing(&error) => NetworkFailure::Undecided(text),
                        NetworkFailure::Undecided(_) => last,
                        NetworkFailure::Unavailable(_) => NetworkFailure::Unavailable(text),
                    };
                }
            }
        }
        Err(last)
    }

    fn start_with(
        helper: &NetworkHelper,
        ids: Option<&PrivateIds>,
        forwards: &[Forward],
    ) -> io::Result<Self> {
        let keeper = Keeper::start(ids.map(PrivateIds::network).transpose()?)?;
        let path = PathBuf::from(format!("/proc/{}/ns/net", keeper.pid));
        let namespace = Arc::new(OwnedFd::from(File::open(&path)?));
        let mut log = File::from(rustix::fs::memfd_create("network", rustix::fs::MemfdFlags::CLOEXEC)?);
        let mut command = helper.command(&path, forwards);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = keeper.spawn(command)?;
        let program = helper.program.clone();
        let pid = keeper.pid;
        let mut network = UserNetwork { namespace, program, helper: Some(child), keeper: Some(keeper) };
        let Some(ended) = network.wait_for_routes(pid)? else { return Ok(network) };
        let words = last_words(&mut log);
        let is_killed = ended.signal().is_some_and(|signal| signal == libc::SIGKILL);
        match is_killed || names_a_want(&words) {
            // By the kernel, which had no memory left, unless somebody does such things.
            true => Err(io::Error::new(io::ErrorKind::OutOfMemory, words)),
            false => Err(io::Error::other(words)),
        }
    }

    /// The namespace, for [`super::Network::Joined`].
    pub fn namespace(&self) -> Arc<OwnedFd> {
        self.namespace.clone()
    }

    /// The program that connects it.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A `resolv.conf` for processes in the namespace: this machine's with another server.
    pub fn resolv_conf(&self, host: &[u8]) -> Vec<u8> {
        resolv_conf(host)
    }

    /// Both helpers tell in their own way, or not at all, when they are ready. The default route is
    /// the last thing that each of them sets. Gives how the helper ended, if it did.
    fn wait_for_routes(&mut self, keeper: u32) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + START_LIMIT;
        let table =
            |name: &str| std::fs::read_to_string(format!("/proc/{keeper}/net/{name}")).unwrap_or_default();
        while Instant::now() < until {
            if has_default_route(&table("route"), &table("ipv6_route")) {
                return Ok(None);
            }
            if let Some(helper) = &mut self.helper
                && let Some(ended) = helper.try_wait()?
            {
                return Ok(Some(ended));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for UserNetwork {
    fn drop(&mut self) {
        // The kernel takes tens of milliseconds to dismantle a network device; nobody waits for it.
        if let (Some(mut helper), Some(keeper)) = (self.helper.take(), self.keeper.take()) {
            let end = move || {
                // Errors mean that it is gone already.
                let _ = helper.kill();
                let _ = helper.wait();
                drop(keeper);
            };
            // Without a thread they end when this process does.
            let _ = std::thread::Builder::new().name("network end".into()).spawn(end);
        }
    }
}

/// Text of `/proc/PID/net/route` and `ipv6_route` (proc(5)).
fn has_default_route(ipv4: &str, ipv6: &str) -> bool {
    let fourth = |line: &str| line.split_whitespace().nth(1) == Some("00000000");
    let sixth = |line: &str| {
        let mut fields = line.split_whitespace();
        fields.nth(1) == Some("00") && fields.next_back().is_some_and(|device| device != "lo")
    };
    ipv4.lines().skip(1).any(fourth) || ipv6.lines().any(sixth)
}

fn resolv_conf(host: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(host);
    let mut out = format!("nameserver {NAME_SERVER}\n");
    let kept = |line: &&str| {
        ["search", "domain", "options"].contains(&line.split_whitespace().next().unwrap_or_default())
    };
    for line in text.lines().filter(kept) {
        out.push_str(line);
        out.push('\n');
    }
    out.into_bytes()
}

fn last_words(log: &mut File) -> String {
    const MOST: u64 = 64 << 10;
    let mut text = Vec::new();
    let read = log.seek(SeekFrom::Start(0)).and_then(|_| log.take(MOST).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let last = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !line.contains("syslog") && !line.starts_with("WARNING"));
    match (read, last) {
        (Ok(_), Some(line)) => line.to_owned(),
        _ => "it ended without a word".into(),
    }
}

/// This machine's address in the network it is connected to: what listens there can be reached from
/// a [`UserNetwork`], as from any neighbour. `None` without such a network.
pub fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(ANYWHERE).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// The process that holds the namespaces.
#[derive(Debug)]
struct Keeper {
    pid: u32,
    pidfd: OwnedFd,
    /// The keeper ends when this is closed.
    life: Option<OwnedFd>,
}

impl Keeper {
    /// Holds `network`, or a new one.
    fn start(network: Option<OwnedFd>) -> io::Result<Self> {
        let (life_read, life) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ready, ready_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let own = if network.is_none() { libc::CLONE_NEWNET } else { 0 };
        // SAFETY: the child runs `keep`, which neither allocates, locks nor unwinds, and never returns.
        let cloned = unsafe {
            match clone_process(libc::CLONE_NEWPID | own) {
                Ok(Cloned::Child) => keep(network.as_ref(), &life_read, &ready_write),
                other => other,
            }
        };
        let Cloned::Parent(pidfd, pid) = cloned? else { syscalls::exit_now(1) };
        drop((life_read, ready_write));
        let keeper = Keeper { pid, pidfd, life: Some(life) };
        match rustix::io::read(&ready, &mut [0u8; 1]) {
            Ok(1) => Ok(keeper),
            _ => Err(io::Error::other("the network namespace could not be set up")),
        }
    }

    /// Starts a program in the keeper's PID namespace, on the network of this process.
    fn spawn(&self, mut command: Command) -> io::Result<Child> {
        let pidfd = self.pidfd.as_fd();
        // The PID namespace for children is a thread's own: this thread ends with its only child made.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("connect".into());
            let spawned = thread.spawn_scoped(scope, move || {
                let path = format!("/proc/{}/ns/pid", self.pid);
                let namespace = File::open(path)?;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
                // Still the same keeper, not another process with its number.
                rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::CONT)?;
                command.spawn()
            })?;
            spawned.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it ended")))
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.life = None;
        let _ = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// The keeper's life. Without capabilities it is harmless, and helpers that dropped theirs may look
/// at it.
fn keep(network: Option<&OwnedFd>, life: &OwnedFd, ready: &OwnedFd) -> ! {
    const LIFE: i32 = 3;
    const READY: i32 = 4;
    let set_up = || -> Result<(), rustix::io::Errno> {
        match network {
            Some(network) => move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?,
            None => syscalls::loopback_up()?,
        }
        // Locks and pipes of the parent must not live on in here.
        syscalls::keep_only(&[(life.as_raw_fd(), LIFE), (ready.as_raw_fd(), READY)])?;
        rustix::process::setsid()?;
        syscalls::set_capabilities(0)
    };
    if set_up().is_ok() && syscalls::write_byte(READY, 0).is_ok() {
        syscalls::wait_for_end(LIFE);
    }
    syscalls::exit_now(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_recognised() {
        let head = "Iface\tDestination\tGateway\n";
        assert!(!has_default_route(head, ""));
        assert!(!has_default_route(&format!("{head}tap0\t0002000A\t00000000\n"), ""));
        assert!(has_default_route(&format!("{head}tap0\t00000000\t0202000A\n"), ""));
        let zero = "0".repeat(32);
        let line = |device: &str| format!("{zero} 00 {zero} 00 {zero} 00000400 1 0 00000003 {device}\n");
        assert!(!has_default_route(head, &line("lo")));
        assert!(has_default_route(head, &line("eth0")));
    }

    #[test]
    fn search_domains_and_options_stay() {
        let host = b"# made by x\nnameserver 127.0.0.53\nsearch a.example b.example\noptions edns0\n";
        let text = String::from_utf8(resolv_conf(host)).expect("text");
        assert_eq!(text, "nameserver 10.0.2.3\nsearch a.example b.example\noptions edns0\n");
    }

    #[test]
    fn helpers_are_found_in_order() {
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(NetworkHelper::find(Some(dir.path().as_os_str())), []);
        for name in ["slirp4netns", "pasta"] {
            std::fs::write(dir.path().join(name), "").expect("write");
        }
        let found = NetworkHelper::find(Some(dir.path().as_os_str()));
        let kinds: Vec<Kind> = found.iter().map(|helper| helper.kind).collect();
        assert_eq!(kinds, [Kind::Pasta, Kind::Slirp4netns]);
    }
}
