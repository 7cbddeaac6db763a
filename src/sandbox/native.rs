//! The parent's side: make the child, watch it, carry its output, collect its end.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::cancel::Cancel;
use crate::event::Stream;

use super::apparmor::{self, AppArmor, Profiles};
use super::cgroup::{Cgroup, Hits};
use super::child::{self, Listening, STAGES, Stage, Streams};
use super::chroot::{self, Shared};
use super::clone::Helpers;
use super::fallback::Fallback;
use super::lifeline;
use super::lines::Lines;
use super::prepare::{self, Plan};
use super::private::PrivateIds;
use super::probe;
use super::signals::{Delivery, Signals};
use super::spec::{
    Exit, Limits, MountKind, Network, OutputSink, ProcessSpec, Sandbox, SandboxError, Security,
};
use super::streams::{Relay, Wiring, pipe};
use super::supervisor::{self, Duty, NodeMounts};
use super::syscalls;
use super::terminal::Terminal;

/// rbuild's own sandbox: namespaces, overlayfs, capabilities and a system call filter, without help
/// from any other program.
#[derive(Debug)]
pub struct Native {
    permitted: u64,
    single_id: bool,
    legacy: bool,
    ids: Option<PrivateIds>,
    fallback: Option<Fallback>,
    profiles: Profiles,
}

impl Native {
    /// `single_id` says that the user namespace knows one user and one group only.
    pub fn new(single_id: bool) -> Self {
        Native {
            permitted: prepare::permitted(),
            single_id,
            legacy: false,
            ids: None,
            fallback: None,
            profiles: Profiles::default(),
        }
    }

    /// For root: processes run with these IDs instead of this machine's.
    pub fn with_ids(ids: PrivateIds) -> Self {
        Native { ids: Some(ids), ..Native::new(false) }
    }

    /// The same for processes that have a network of their own and need nothing of this machine's root, as
    /// long as the kernel and the file systems make it possible.
    pub fn with_ids_where_possible(ids: PrivateIds) -> Self {
        Native { fallback: Some(Fallback::default()), ..Native::with_ids(ids) }
    }

    /// Has processes confined by AppArmor as asked for.
    pub fn confined_by(self, asked: AppArmor) -> Self {
        Native { profiles: Profiles::new(asked), ..self }
    }

    /// The IDs for a process. Where they are optional, this machine's ability is probed before the first
    /// process of all runs, so that none can have an influence on the answer.
    fn ids_for(&self, spec: &ProcessSpec) -> Result<Option<&PrivateIds>, SandboxError> {
        let ids = self.ids_or_not(&spec.scratch)?;
        // On this machine's network, low ports and raw sockets would be refused; devices would belong to
        // nobody.
        let loses = matches!(spec.network, Network::Host)
            || spec.security == Security::Insecure
            || spec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Device { .. }));
        Ok(ids.filter(|_| self.fallback.is_none() || !loses))
    }

    fn ids_or_not(&self, scratch: &Path) -> Result<Option<&PrivateIds>, SandboxError> {
        let (Some(ids), Some(fallback)) = (&self.ids, &self.fallback) else { return Ok(self.ids.as_ref()) };
        Ok(fallback.decide(|| probe::private_ids(scratch, ids))?.then_some(ids))
    }

    fn run_with(
        &self,
        spec: &ProcessSpec,
        ids: Option<&PrivateIds>,
        output: &dyn OutputSink,
        cancel: &Cancel,
    ) -> Result<Exit, SandboxError> {
        let mut plan = prepare::plan(spec, self.permitted, self.single_id, self.legacy, ids)?;
        plan.profile = self.profiles.of(spec)?;
        execute(spec, &plan, output, cancel).map_err(|error| apparmor::explain(error, plan.profile.as_ref()))
    }

    /// As on a kernel that does not take overlay layers one by one.
    #[cfg(test)]
    pub(super) fn with_option_strings() -> Self {
        Native { legacy: true, ..Native::new(false) }
    }
}

impl Sandbox for Native {
    fn run(
        &self,
        spec: &ProcessSpec,
        output: &dyn OutputSink,
        cancel: &Cancel,
    ) -> Result<Exit, SandboxError> {
        self.run_with(spec, self.ids_for(spec)?, output, cancel)
    }

    fn shows_owners_of(&self, path: &Path, scratch: &Path) -> bool {
        match self.ids_or_not(scratch) {
            Ok(ids) => ids.is_none_or(|ids| ids.can_map(path)),
            // Whoever runs the process gets the same error.
            Err(_) => false,
        }
    }

    fn notice(&self) -> Option<String> {
        self.fallback.as_ref()?.notice()
    }

    fn describe(&self) -> String {
        let ids = match (&self.ids, self.single_id) {
            (Some(_), _) if self.fallback.is_some() => "all users and groups, private ones where possible",
            (Some(_), _) => "all users and groups, private ones",
            (None, true) => "one user and group",
            (None, false) => "all users and groups",
        };
        format!("native (namespaces, overlayfs, capabilities, seccomp; {ids})")
    }
}

/// Carries a plan out.
pub(super) fn execute(
    spec: &ProcessSpec,
    plan: &Plan,
    output: &dyn OutputSink,
    cancel: &Cancel,
) -> Result<Exit, SandboxError> {
    let cgroup = if spec.limits.is_none() { None } else { Some(Cgroup::make(&spec.limits)?) };
    let mut running = Running::start(spec, plan, cgroup.as_ref())?;
    let result = running.watch(spec, output, cancel);
    let exit = running.reap(result)?;
    Ok(match cgroup {
        Some(cgroup) => {
            let hits = cgroup.hits();
            if let (Exit::Code(0), true, Some(limit)) = (exit, hits.memory, spec.limits.memory) {
                // A pipeline ends as its last program does.
                output.warn(format!(
                    "a process was killed at the limit of memory ({}, --memory), though the command ended well: what it \
                     made may be incomplete",
                    crate::fs::shown_size(limit)
                ));
            }
            blame_limits(exit, hits, &spec.limits)
        }
        None => exit,
    })
}

/// A failure after a limit was hit is the limit's.
fn blame_limits(exit: Exit, hits: Hits, limits: &Limits) -> Exit {
    let code = match exit {
        Exit::Code(code) if code != 0 => code,
        Exit::Signal(signal) => 128 + signal,
        other => return other,
    };
    match (hits, limits.memory, limits.pids) {
        (Hits { memory: true, .. }, Some(limit), _) => Exit::OutOfMemory { code, limit },
        (Hits { processes: true, .. }, _, Some(limit)) => Exit::TooManyProcesses { code, limit },
        _ => exit,
    }
}

/// A child and the ends of its pipes.
struct Running {
    pidfd: OwnedFd,
    output: Vec<(Stream, OwnedFd)>,
    error: OwnedFd,
    relays: Vec<Relay>,
    terminal: Option<Terminal>,
    supervisor: Option<Supervision>,
    /// Without a PID namespace: while it is open, the process's init lets it live.
    life: Option<OwnedFd>,
}

/// A thread that answers the child's calls until `stop` is closed.
pub(super) struct Supervision {
    thread: JoinHandle<()>,
    stop: OwnedFd,
}

impl Supervision {
    /// With a thread that ends when its descriptor has no other end.
    pub(super) fn new(work: impl FnOnce(&OwnedFd) + Send + 'static) -> Result<Self, SandboxError> {
        let (stop_read, stop) = pipe()?;
        let thread = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || work(&stop_read))
            .map_err(|error| SandboxError::setup("start a thread", error))?;
        Ok(Supervision { thread, stop })
    }

    fn start(
        listener: OwnedFd,
        duty: Duty,
        mounts: NodeMounts,
        groups: Vec<u32>,
    ) -> Result<Self, SandboxError> {
        Self::new(move |stop| supervisor::supervise(&listener, stop, duty, mounts, &groups))
    }

    fn end(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

impl Running {
    fn start(spec: &ProcessSpec, plan: &Plan, cgroup: Option<&Cgroup>) -> Result<Self, SandboxError> {
        let (go_read, go_write) = pipe()?;
        let (error_read, error_write) = pipe()?;
        let (listener_read, listener_write) = pipe()?;
        let Wiring { child_ends, output, relays, terminal } = Wiring::make(spec.stdio, plan)?;
        let streams = Streams {
            stdin: child_ends[0].as_fd(),
            stdout: child_ends[1].as_fd(),
            stderr: child_ends[2].as_fd(),
            go: go_read.as_fd(),
            error: error_write.as_fd(),
            listener: listener_write.as_fd(),
            terminal: terminal.as_ref().map(|(_, end)| end.as_fd()),
        };
        let number_of_go = std::os::fd::AsRawFd::as_raw_fd(&go_write);
        let live = || {
            // The parent's end must not keep the pipe open in here, or its death would not show.
            syscalls::close(number_of_go);
            child::live(plan, &streams)
        };
        let (pidfd, helpers, supervisor) = match &plan.chroot {
            Some(inside) => {
                let (pidfd, supervisor) = chroot::start(inside, &Shared(&live))?;
                (pidfd, Helpers::default(), supervisor)
            }
            None => {
                // SAFETY: `live` neither allocates, locks nor unwinds, and never returns.
                let cloned = unsafe { lifeline::clone_step(plan.namespaces, &live) };
                let (pidfd, helpers) = cloned.map_err(namespace_error)?;
                (pidfd, helpers, None)
            }
        };
        drop(child_ends);
        drop((error_write, listener_write));
        let terminal = terminal.map(|(own, _)| own);
        let mut running =
            Running { pidfd, output, error: error_read, relays, terminal: None, supervisor, life: None };
        if let Some(error) = cgroup.and_then(|cgroup| cgroup.add(running.pidfd.as_fd()).err()) {
            // Without a word from here the child ends by itself; it is collected either way.
            drop(go_write);
            let _ = running.reap(Ok(None));
            return Err(error);
        }
        // A failure here means that the child is gone already; the error pipe tells why.
        let _ = rustix::io::write(&go_write, b"g");
        // While it sets itself up.
        drop(helpers);
        running.terminal = terminal.as_ref().and_then(Terminal::receive);
        if let Some(duty) = plan.asks
            && let Err(error) = running.supervise(&listener_read, &go_write, duty, &spec.user.groups)
        {
            drop(go_write);
            return running.reap(Err(error)).map(|_| running);
        }
        running.life = plan.chroot.is_some().then_some(go_write);
        Ok(running)
    }

    /// Fetches the descriptor where the child's filter asks, and has it answered.
    fn supervise(
        &mut self,
        number: &OwnedFd,
        go: &OwnedFd,
        duty: Duty,
        groups: &[u32],
    ) -> Result<(), SandboxError> {
        let mut bytes = [0u8; Listening::LENGTH];
        if rustix::io::read(number, &mut bytes) != Ok(Listening::LENGTH) {
            // It ended before: the error pipe tells why.
            return Ok(());
        }
        let told = Listening::from_bytes(&bytes);
        let listener = syscalls::copy_descriptor(self.pidfd.as_fd(), told.descriptor)
            .map_err(|errno| SandboxError::setup("supervise system calls", errno))?;
        self.supervisor = Some(Supervision::start(listener, duty, told.mounts, groups.to_vec())?);
        let _ = rustix::io::write(go, b"g");
        Ok(())
    }

    /// Carries output until the process ends, is cancelled or runs out of time.
    fn watch(
        &mut self,
        spec: &ProcessSpec,
        output: &dyn OutputSink,
        cancel: &Cancel,
    ) -> Result<Option<Exit>, SandboxError> {
        let deadline = spec.timeout.map(|timeout| Instant::now() + timeout);
        let mut lines: Vec<Lines> = self.output.iter().map(|(stream, _)| Lines::new(*stream)).collect();
        let mut open: Vec<bool> = vec![true; self.output.len()];
        let mut given_up = None;
        let (signals, mut delivery) = (spec.container.signals.as_deref(), Delivery::new(spec.container.init));
        let _taken = signals.map(Taken::begin);
        loop {
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            let watch_cancel = given_up.is_none();
            let cancel_fd = cancel.fd();
            if watch_cancel {
                fds.push(PollFd::from_borrowed_fd(cancel_fd, PollFlags::IN));
            }
            let first_output = fds.len();
            let which: Vec<usize> = (0..open.len()).filter(|at| open[*at]).collect();
            for at in &which {
                fds.push(PollFd::new(&self.output[*at].1, PollFlags::IN));
            }
            let signals_at = fds.len();
            fds.extend(signals.map(|signals| PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)));
            let terminal_at = fds.len();
            if let Some(terminal) = &self.terminal {
                fds.extend(terminal.poll_fds());
            }
            let wait = remaining(deadline.filter(|_| given_up.is_none()));
            match poll(&mut fds, wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(SandboxError::setup("wait for the process", errno)),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            for (position, at) in which.iter().enumerate() {
                if ready[first_output + position] && !lines[*at].read(&self.output[*at].1, output) {
                    open[*at] = false;
                }
            }
            let mut ends = None;
            if let Some(terminal) = &mut self.terminal
                && terminal.relay(ready.get(terminal_at..).unwrap_or_default())
                && delivery.typed(self.pidfd.as_fd())
            {
                ends = Some(libc::SIGINT);
            }
            if terminal_at > signals_at && ready[signals_at] {
                let mut all = std::iter::from_fn(|| signals?.take());
                ends = ends.or(all.find(|signal| delivery.deliver(self.pidfd.as_fd(), *signal)));
            }
            if let Some(signal) = ends.filter(|_| given_up.is_none()) {
                given_up = Some(Exit::Signal(signal));
                self.kill();
            }
            let ended = ready[0];
            if watch_cancel && ready[1] {
                given_up = Some(Exit::Canceled);
                self.kill();
            } else if given_up.is_none() && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                given_up = Some(Exit::TimedOut);
                self.kill();
            }
            if ended {
                // The whole process namespace is dead: what is in the pipes is all there will be.
                for (at, line) in lines.iter_mut().enumerate() {
                    while open[at] && line.read(&self.output[at].1, output) {}
                    line.flush(output);
                }
                if let Some(terminal) = &mut self.terminal {
                    terminal.drain();
                }
                return Ok(given_up);
            }
        }
    }

    fn kill(&mut self) {
        if self.life.take().is_none() {
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Collects the child and turns its end, or its message, into a result.
    fn reap(&mut self, watched: Result<Option<Exit>, SandboxError>) -> Result<Exit, SandboxError> {
        if watched.is_err() {
            self.kill();
        }
        let status = loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                Ok(status) => break status,
                Err(errno) => return Err(SandboxError::setup("collect the process", errno)),
            }
        };
        self.terminal = None;
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.end();
        }
        if let Some(exit) = watched? {
            return Ok(exit);
        }
        // Not when it was stopped: whoever reads may have stopped as well.
        self.relays.drain(..).for_each(Relay::finish);
        let mut message = [0u8; 5];
        if matches!(rustix::io::read(&self.error, &mut message), Ok(5)) {
            return end_of_runtime(&message).unwrap_or_else(|| Err(failure(&message)));
        }
        let status = status.ok_or_else(|| SandboxError::Invalid("the process vanished".into()))?;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ok(Exit::Code(code)),
            (_, Some(signal)) => Ok(Exit::Signal(signal)),
            _ => Ok(Exit::Signal(libc::SIGKILL)),
        }
    }
}

/// Signals go to a process as long as this lives.
struct Taken<'a>(&'a Signals);

impl<'a> Taken<'a> {
    fn begin(signals: &'a Signals) -> Self {
        signals.set_open(true);
        Taken(signals)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.set_open(false);
    }
}

fn remaining(deadline: Option<Instant>) -> Option<Timespec> {
    let left = deadline?.saturating_duration_since(Instant::now());
    Some(Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    })
}

fn namespace_error(errno: Errno) -> SandboxError {
    let hint = match errno {
        Errno::PERM => {
            "; creating namespaces is not allowed here (is this a container without the needed \
                        privileges, or are user namespaces restricted?)"
        }
        Errno::NOSPC | Errno::USERS => "; the limit of namespaces is reached (see /proc/sys/user)",
        Errno::NOSYS => "; this kernel or a filter of the surrounding container does not know the call",
        _ => "",
    };
    SandboxError::Setup { stage: "create namespaces".into(), source: errno.into(), hint: hint.into() }
}

fn parse(message: &[u8; 5]) -> (usize, i32) {
    (usize::from(message[0]), i32::from_le_bytes([message[1], message[2], message[3], message[4]]))
}

/// How an OCI runtime or its container ended, if that is what the child tells.
fn end_of_runtime(message: &[u8; 5]) -> Option<Result<Exit, SandboxError>> {
    match parse(message) {
        (stage, signal) if stage == Stage::Signalled as usize => Some(Ok(Exit::Signal(signal))),
        (stage, code) if stage == Stage::RuntimeEnded as usize => Some(Err(SandboxError::Runtime {
            runtime: "the OCI runtime".into(),
            message: format!("it failed with exit code {code}"),
        })),
        _ => None,
    }
}

fn failure(message: &[u8; 5]) -> SandboxError {
    let (stage, errno) = parse(message);
    let source = io::Error::from_raw_os_error(errno);
    let name = STAGES.get(stage).copied().unwrap_or("an unknown step");
    if stage == Stage::Exec as usize {
        return SandboxError::Exec { source };
    }
    let hint = match (stage, source.raw_os_error()) {
        (s, Some(libc::EINVAL | libc::ENODEV | libc::EPERM)) if s == Stage::Overlay as usize => {
            "; overlayfs does not work here: the store may itself lie on an overlay (choose another place with \
             --root), or the kernel is too old (Linux 5.12 or newer is needed, 6.7 or newer for more than about 100 layers)"
        }
        (s, Some(libc::EPERM)) if s == Stage::Proc as usize => {
            "; the surrounding container hides parts of /proc, and the kernel then refuses a fresh one. Start it with \
             --security-opt systempaths=unconfined (Docker) or procMount: Unmasked (Kubernetes)"
        }
        _ => "",
    };
    SandboxError::Setup { stage: name.to_owned(), source, hint: hint.to_owned() }
}
