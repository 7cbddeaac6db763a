//! Becoming root in a user namespace, for ordinary users: before any thread exists, the program runs
//! itself again inside one, and the outer process waits.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, getegid, geteuid};

use crate::fs::IdMap;

use super::spec::SandboxError;
use super::{clone, program, syscalls};

/// Tells the inner process what it is; checked against its parent, so that a stray variable does
/// no harm.
const MARK: &str = "_RBUILD_USERNS";

/// How user and group IDs of images relate to those of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdMode {
    /// Root: they are the same, as far as its user namespace has them.
    Root,
    /// Subordinate IDs stand for them.
    SubIds,
    /// Only one ID is mapped: by rbuild, or in the namespace in which it was started.
    SingleId,
}

/// Where the caller finds itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entered {
    /// In the process that will do the work.
    Here(IdMode, RealUser),
    /// In the process that will do the work, without the rights to execute steps, and why.
    Unable(IdMode, RealUser, String),
    /// In the outer process; the inner one ended with this code.
    Child(i32),
}

/// Who started the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RealUser {
    /// Outside any namespace of ours.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What [`enter`] looks at. Filled in by `cli/`, which alone reads the environment.
#[derive(Clone, Debug, Default)]
pub struct EnterRequest {
    /// Value of the mark, if the environment has it.
    pub mark: Option<String>,
    /// Directories where `newuidmap` is looked for.
    pub path: Option<OsString>,
    /// The user's login name, if known.
    pub user_name: Option<String>,
    /// Whether steps may be executed.
    pub runs_steps: bool,
    /// Whether root needs no namespaces.
    pub needs_none: bool,
}

impl EnterRequest {
    /// The environment variable to read [`EnterRequest::mark`] from.
    pub fn mark_variable() -> &'static str {
        MARK
    }
}

/// Puts the process into a user namespace if it needs one. Must be called before there are threads.
///
/// Where no namespace can be made, the process stays as it is: most commands and most steps need none.
pub fn enter(request: &EnterRequest) -> Result<Entered, SandboxError> {
    // Whoever started rbuild may ignore it, and the kernel then collects children before rbuild can.
    syscalls::reset_signal(libc::SIGCHLD);
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    if let Some((mode, user)) = request.mark.as_deref().and_then(read_mark) {
        program::restore_name();
        return Ok(Entered::Here(mode, user));
    }
    let user = RealUser { uid, gid };
    if uid == 0 && super::prepare::permitted() & CAP_SYS_ADMIN != 0 {
        if request.runs_steps && !cfg!(target_feature = "crt-static") {
            leave_reach_of_steps()?;
        }
        // Whoever became root of a namespace with one ID can do as little as those for whom rbuild makes one.
        let mode = if IdMap::current().is_single() { IdMode::SingleId } else { IdMode::Root };
        return Ok(Entered::Here(mode, user));
    }
    if uid == 0 && request.needs_none {
        return Ok(Entered::Here(without_namespace(uid), user));
    }
    let ranges = subordinate(request, uid);
    let mode = if ranges.is_some() { IdMode::SubIds } else { IdMode::SingleId };
    Ok(match run_inside(user, mode, ranges) {
        Ok(code) => Entered::Child(code),
        Err(SandboxError::Setup { stage, source, hint }) => {
            Entered::Unable(without_namespace(uid), user, format!("cannot {stage}: {source}{hint}"))
        }
        Err(error) => Entered::Unable(without_namespace(uid), user, error.to_string()),
    })
}

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What files may belong to outside of any namespace of ours: root of a container usually keeps the
/// capabilities that concern them, others have their own ID only.
fn without_namespace(uid: u32) -> IdMode {
    const CAP_CHOWN: u64 = 1 << 0;
    const CAP_DAC_OVERRIDE: u64 = 1 << 1;
    const CAP_FOWNER: u64 = 1 << 3;
    let needed = CAP_CHOWN | CAP_DAC_OVERRIDE | CAP_FOWNER;
    if uid == 0 && super::prepare::permitted() & needed == needed { IdMode::Root } else { IdMode::SingleId }
}

/// If a step executes this program as root of this machine, the dynamic linker and the libraries are the
/// image's. A static program runs no code but its own, which is given no rights there to do anything.
fn leave_reach_of_steps() -> Result<(), SandboxError> {
    if program::is_out_of_reach() {
        program::restore_name();
        return Ok(());
    }
    let error = program::execute_out_of_reach(|_| ());
    Err(SandboxError::setup("execute rbuild from a read-only mount", error))
}

/// `PPID:MODE:UID:GID`, valid only for a child of that process.
fn read_mark(mark: &str) -> Option<(IdMode, RealUser)> {
    let mut fields = mark.split(':');
    let parent: i32 = fields.next()?.parse().ok()?;
    let mode = match fields.next()? {
        "sub" => IdMode::SubIds,
        "one" => IdMode::SingleId,
        _ => return None,
    };
    let user = RealUser { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? };
    (self::parent() == Some(parent) && geteuid().is_root()).then_some((mode, user))
}

fn parent() -> Option<i32> {
    rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get())
}

struct Subordinate {
    newuidmap: PathBuf,
    newgidmap: PathBuf,
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
}

/// Subordinate IDs and the programs that hand them out, if this user has both.
fn subordinate(request: &EnterRequest, uid: u32) -> Option<Subordinate> {
    let path = request.path.as_ref()?;
    let find = |name: &str| std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let (newuidmap, newgidmap) = (find("newuidmap")?, find("newgidmap")?);
    let read =
        |file: &str| ranges(&fs::read_to_string(file).unwrap_or_default(), uid, request.user_name.as_deref());
    let (uids, gids) = (read("/etc/subuid"), read("/etc/subgid"));
    (!uids.is_empty() && !gids.is_empty()).then_some(Subordinate { newuidmap, newgidmap, uids, gids })
}

/// Ranges of `/etc/subuid` (`NAME-OR-UID:START:COUNT`) that belong to a user.
fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let mine = |who: &str| Some(who) == name || who.parse() == Ok(uid);
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (mine(who) && count > 0).then_some((start, count))
        })
        .collect()
}

/// Arguments of newuidmap behind the pid: root is the user itself, then the ranges follow.
fn map_arguments(own: u32, ranges: &[(u32, u32)]) -> Vec<String> {
    let mut arguments = vec!["0".to_owned(), own.to_string(), "1".to_owned()];
    let mut next = 1u32;
    for (start, count) in ranges {
        let count = (*count).min(u32::MAX - next);
        arguments.extend([next.to_string(), start.to_string(), count.to_string()]);
        next += count;
    }
    arguments
}

/// The inner process's pid, for the signal handler.
static INNER: AtomicI32 = AtomicI32::new(0);

fn run_inside(user: RealUser, mode: IdMode, ranges: Option<Subordinate>) -> Result<i32, SandboxError> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| SandboxError::setup("make a pipe", errno));
    let ((ready_read, ready_write), (go_read, go_write)) = (pipe()?, pipe()?);
    let outer = std::process::id();
    // SAFETY: enter's contract is that there is one thread.
    let Some(inner) = (unsafe { clone::fork() }).map_err(|errno| SandboxError::setup("fork", errno))? else {
        drop((ready_read, go_write));
        let code = inner_process(user, mode, outer, &ready_write, &go_read);
        syscalls::exit_now(code);
    };
    drop((ready_write, go_read));
    let mut byte = [0u8; 1];
    let entered = matches!(rustix::io::read(&ready_read, &mut byte), Ok(1)) && byte[0] == b'y';
    if !entered {
        wait(inner);
        return Err(SandboxError::Setup {
            stage: "create a user namespace".into(),
            source: Errno::PERM.into(),
            hint: forbidden_hint(),
        });
    }
    let mapped = match &ranges {
        Some(ranges) => map_with_programs(inner, user, ranges),
        None => map_single(inner, user),
    };
    if let Err(error) = mapped {
        drop(go_write);
        wait(inner);
        return Err(error);
    }
    INNER.store(inner, Ordering::SeqCst);
    forward_signals();
    let _ = rustix::io::write(&go_write, b"g");
    Ok(wait(inner))
}

/// What usually forbids user namespaces, by what this machine says.
fn forbidden_hint() -> String {
    let value = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let mut hints = Vec::new();
    if value("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        hints.push("sysctl kernel.unprivileged_userns_clone is 0");
    }
    if value("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        hints.push("sysctl user.max_user_namespaces is 0");
    }
    if value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        hints.push("AppArmor restricts them: sysctl kernel.apparmor_restrict_unprivileged_userns is 1");
    }
    if hints.is_empty() {
        hints.push("a seccomp profile or security module of the surrounding container may forbid them");
    }
    format!(
        "; {}. Allow user namespaces (in Docker: --security-opt seccomp=unconfined), or run rbuild as root with \
         CAP_SYS_ADMIN",
        hints.join("; ")
    )
}

/// The forked process up to the exec: a new namespace, then this program again.
fn inner_process(
    user: RealUser,
    mode: IdMode,
    outer: u32,
    ready: &std::os::fd::OwnedFd,
    go: &std::os::fd::OwnedFd,
) -> i32 {
    let _ = syscalls::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    // SAFETY: this process has one thread and nothing shared.
    let made = unsafe {
        rustix::thread::unshare_unsafe(
            rustix::thread::UnshareFlags::NEWUSER | rustix::thread::UnshareFlags::NEWNS,
        )
    };
    if made.is_err() {
        let _ = rustix::io::write(ready, b"n");
        return 1;
    }
    let _ = rustix::io::write(ready, b"y");
    let mut byte = [0u8; 1];
    if !matches!(rustix::io::read(go, &mut byte), Ok(1)) {
        return 1;
    }
    if syscalls::set_identity(0, 0, &[], mode == IdMode::SubIds).is_err() {
        return 1;
    }
    // Changing the identity clears the death signal and the dumpable flag that /proc/self needs.
    let _ = syscalls::prctl(libc::PR_SET_DUMPABLE, 1);
    let _ = syscalls::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    if parent() != i32::try_from(outer).ok() {
        // It ended while there was no death signal.
        return 1;
    }
    let word = if mode == IdMode::SubIds { "sub" } else { "one" };
    let mark = format!("{outer}:{word}:{}:{}", user.uid, user.gid);
    let error = program::execute_out_of_reach(|command| {
        command.env(MARK, mark);
    });
    eprintln!("rbuild: cannot run itself in a user namespace: {error}");
    1
}

fn map_with_programs(inner: i32, user: RealUser, ranges: &Subordinate) -> Result<(), SandboxError> {
    for (program, own, list) in
        [(&ranges.newuidmap, user.uid, &ranges.uids), (&ranges.newgidmap, user.gid, &ranges.gids)]
    {
        let stage = || format!("map subordinate IDs with {}", program.display());
        let output = Command::new(program)
            .arg(inner.to_string())
            .args(map_arguments(own, list))
            .output()
            .map_err(|error| SandboxError::setup(stage(), error))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(SandboxError::setup(stage(), std::io::Error::other(text)));
        }
    }
    Ok(())
}

fn map_single(inner: i32, user: RealUser) -> Result<(), SandboxError> {
    let proc = Path::new("/proc").join(inner.to_string());
    let write = |file: &str, text: String| {
        fs::write(proc.join(file), text).map_err(|error| SandboxError::setup(format!("write {file}"), error))
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {} 1", user.uid))?;
    write("gid_map", format!("0 {} 1", user.gid))
}

fn wait(inner: i32) -> i32 {
    let Some(pid) = rustix::process::Pid::from_raw(inner) else { return 1 };
    // Until it is collected nobody else gets its number, so no signal is forwarded to a stranger.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(rustix::process::waitid(WaitId::Pid(pid), ended), Err(Errno::INTR)) {}
    INNER.store(0, Ordering::SeqCst);
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                return status
                    .exit_status()
                    .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0));
            }
            Err(Errno::INTR) => {}
            _ => return 1,
        }
    }
}

/// Hands signals on to the inner process. Those of the terminal's keys reach it anyway, and those that
/// the caller ignores (as under nohup) are ignored inside as well.
fn forward_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2] {
        if syscalls::is_ignored(signal) {
            continue;
        }
        // SAFETY: the handler only reads an atomic and calls kill, both safe in a signal handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = forward as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

extern "C" fn forward(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo.
    let by_kernel = unsafe { (*info).si_code > 0 };
    let inner = INNER.load(Ordering::SeqCst);
    if !by_kernel && inner > 0 {
        // SAFETY: kill with numbers.
        unsafe { libc::kill(inner, signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_or_number() {
        let text = "alice:100000:65536\n1000:200000:10\nbob:1:1\nbroken\nalice:x:1\n";
        assert_eq!(ranges(text, 1000, Some("alice")), [(100_000, 65_536), (200_000, 10)]);
        assert_eq!(ranges(text, 5, None), []);
    }

    #[test]
    fn maps_put_the_user_first_and_never_overflow() {
        let text = map_arguments(1000, &[(100_000, 65_536), (5, u32::MAX)]).join(" ");
        assert_eq!(text, format!("0 1000 1 1 100000 65536 65537 5 {}", u32::MAX - 65_537));
    }

    #[test]
    fn a_mark_of_another_process_is_ignored() {
        assert_eq!(read_mark("1:sub:0:0"), None);
        assert_eq!(read_mark("nonsense"), None);
    }
}
