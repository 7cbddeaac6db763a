//! The child's way to the runtime. As everything in the child, nothing in here allocates, locks or
//! unwinds.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use libc::c_char;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::child::{At as _, Failure, Stage, Streams, missing_is_fine, streams_in_place};
use super::super::clone::{Cloned, clone_process};
use super::super::mounts::{
    attach_inside, bind, make_point, make_points, mount_dev, mount_one, mount_proc, new_fs, write_secrets,
};
use super::super::prepare::Plan;
use super::super::sys::bind_sys;
use super::super::syscalls::{
    self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
};

/// The descriptor that takes the failing stage.
const ERROR: i32 = 3;

/// A call of the runtime, ready to be made.
pub(in super::super) struct Call {
    program: CString,
    _strings: Vec<CString>,
    /// Has the runtime make the container.
    create: Vec<*const c_char>,
    /// Has it start the container.
    start: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// Where the runtime writes the number of the container's first process.
    pid_file: CString,
    /// A directory of this machine in which mounts are made.
    points: CString,
    /// Names in it, one for each mount of the plan.
    targets: Vec<CString>,
    /// The working directory to make, relative to the root.
    cwd: Option<CString>,
    /// Whether the container shows the machine's `/sys`.
    shares_sys: bool,
}

/// What a call is made of.
pub(super) struct Words {
    pub create: Vec<CString>,
    pub start: Vec<CString>,
    pub env: Vec<CString>,
}

impl Call {
    pub(super) fn new(
        program: CString,
        words: Words,
        pid_file: CString,
        points: CString,
        targets: Vec<CString>,
        cwd: Option<CString>,
        shares_sys: bool,
    ) -> Self {
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (create, start) = (pointers(&words.create), pointers(&words.start));
        let env = pointers(&words.env);
        let strings = words.create.into_iter().chain(words.start).chain(words.env).collect();
        Call { program, _strings: strings, create, start, env, pid_file, points, targets, cwd, shares_sys }
    }
}

/// Makes the mounts that the runtime expects, and stays until the container ends.
pub(in super::super) fn hand_over(
    plan: &Plan,
    call: &Call,
    streams: &Streams<'_>,
    root: BorrowedFd<'_>,
) -> Result<Errno, Failure> {
    // Directories that a runtime makes are for everybody.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let machine = open_dir(c"/").at(Stage::Root)?;
    // That of the runtime's PID namespace, where it looks itself up.
    mount_proc(machine.as_fd())?;
    lock_control_groups(machine.as_fd()).at(Stage::Runtime)?;
    let points = open_dir(&call.points).at(Stage::Mounts)?;
    if call.shares_sys {
        bind_sys(points.as_fd()).at(Stage::Sys)?;
    }
    mount_dev(plan, points.as_fd(), None)?;
    for (path, is_file) in &plan.dev_points {
        make_point(points.as_fd(), path, *is_file).at(Stage::Dev)?;
    }
    for (source, target) in &plan.etc {
        // Not left to the runtime, which would make the target of a link that leads nowhere.
        bind(plan, source, root, target, plan.etc_attributes, false)
            .or_else(missing_is_fine)
            .at(Stage::Etc)?;
    }
    write_secrets(plan).at(Stage::Mounts)?;
    for ((_, _, mount), point) in plan.mounts.iter().zip(&call.targets) {
        mount_one(plan, points.as_fd(), point, mount).at(Stage::Mounts)?;
    }
    if let Some(cwd) = &call.cwd {
        make_points(root, cwd, true).at(Stage::Cwd)?;
    }
    let null = if is_null(streams.stdin) { own_null().at(Stage::Streams)? } else { None };
    let stdin = null.as_ref().map_or(streams.stdin, |null| null.as_fd());
    streams_in_place(plan, &Streams { stdin, ..*streams }).at(Stage::Streams)?;
    syscalls::reset_signals();
    // This process goes on: locks and pipes of the parent must not live on in it. The descriptors opened above are
    // closed as well; nothing returns from here, so none of them is closed a second time.
    syscalls::keep_only(&[(streams.error.as_raw_fd(), ERROR)]).at(Stage::Streams)?;
    let (stage, number) = match syscalls::close_on_exec_from_3().at(Stage::Streams) {
        Ok(()) => attend(plan, call),
        Err((stage, errno)) => (stage, errno.raw_os_error()),
    };
    tell(stage, number)
}

/// Writes down how it ended and ends.
fn tell(stage: Stage, number: i32) -> ! {
    // SAFETY: `keep_only` put it there, before any caller of this, and nothing closes it.
    let error = unsafe { BorrowedFd::borrow_raw(ERROR) };
    let mut message = [0u8; 5];
    message[0] = stage as u8;
    message[1..].copy_from_slice(&number.to_le_bytes());
    let _ = rustix::io::write(error, &message);
    syscalls::exit_now(127)
}

/// Has the container made, looks after its root, starts it, and ends with its code if it has one.
fn attend(plan: &Plan, call: &Call) -> (Stage, i32) {
    match container(plan, call) {
        Ok(failure) => failure,
        Err((stage, errno)) => (stage, errno.raw_os_error()),
    }
}

fn container(plan: &Plan, call: &Call) -> Result<(Stage, i32), Failure> {
    let ended = run(call, &call.create).at(Stage::Runtime)?;
    if ended != 0 {
        return Ok((Stage::RuntimeEnded, ended));
    }
    let mut digits = [0u8; 16];
    let file =
        rustix::fs::openat(CWD, call.pid_file.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .at(Stage::Runtime)?;
    let length = rustix::io::read(&file, &mut digits).at(Stage::Runtime)?;
    let digits = digits.get(..length).unwrap_or_default().trim_ascii();
    let number = digits
        .iter()
        .fold(0i32, |number, c| number.wrapping_mul(10).wrapping_add(i32::from(c.wrapping_sub(b'0'))));
    if plan.masked {
        let ended = forbid_devices(digits).at(Stage::Masking)?;
        if ended != 0 {
            return Ok((Stage::Masking, ended));
        }
    }
    let ended = run(call, &call.start).at(Stage::Runtime)?;
    if ended != 0 {
        return Ok((Stage::RuntimeEnded, ended));
    }
    loop {
        // What the runtime leaves becomes this process's, the first of its PID namespace.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == number => {
                match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => syscalls::exit_now(code),
                    (None, signal) => return Ok((Stage::Signalled, signal.unwrap_or(libc::SIGKILL))),
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err((Stage::Runtime, errno)),
        }
    }
}

/// Runs the runtime to its end and gives its code.
fn run(call: &Call, argv: &[*const c_char]) -> Result<i32, Errno> {
    // SAFETY: the child becomes another program at once, or ends.
    let cloned = unsafe {
        match clone_process(0) {
            Ok(Cloned::Child) => {
                let errno = syscalls::exec(&call.program, argv, &call.env);
                tell(Stage::Runtime, errno.raw_os_error())
            }
            other => other,
        }
    };
    collect(cloned?)
}

fn collect(cloned: Cloned) -> Result<i32, Errno> {
    let Cloned::Parent(pidfd, _) = cloned else { syscalls::exit_now(1) };
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(status) => return Ok(status.and_then(|status| status.exit_status()).unwrap_or(1)),
        }
    }
}

/// Takes device nodes in the container's root their meaning, as in the own sandbox: some runtimes
/// drop what the mount says, and no device group would stop the nodes of an image. Gives 0 or an errno.
fn forbid_devices(pid: &[u8]) -> Result<i32, Errno> {
    // SAFETY: the child makes plain system calls and ends.
    let cloned = unsafe {
        match clone_process(0) {
            Ok(Cloned::Child) => {
                let done = forbid_devices_in(pid);
                syscalls::exit_now(done.err().map_or(0, Errno::raw_os_error))
            }
            other => other,
        }
    };
    collect(cloned?)
}

fn forbid_devices_in(pid: &[u8]) -> Result<(), Errno> {
    let mut path = [0u8; 40];
    let mut at = 0;
    for part in [b"/proc/", pid, b"/ns/mnt\0"] {
        path.get_mut(at..at + part.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(part);
        at += part.len();
    }
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::INVAL)?;
    let namespace = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    syscalls::mount_setattr(open_dir(c"/")?.as_fd(), MOUNT_ATTR_NODEV, false)
}

fn is_null(stream: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3))
}

/// A null device that belongs to nobody else: some runtimes give it to the user of the container.
/// Ordinary users cannot make one, and nothing of theirs can give the machine's away.
fn own_null() -> Result<Option<OwnedFd>, Errno> {
    let fs = new_fs(c"tmpfs", &[], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)?;
    let device = rustix::fs::makedev(1, 3);
    match rustix::fs::mknodat(&fs, c"null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), device) {
        Err(Errno::PERM) => return Ok(None),
        made => made?,
    }
    rustix::fs::openat(&fs, c"null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(Some)
}

fn open_dir(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// The runtime stays in the control group it starts in, whose limits hold for what it runs too.
fn lock_control_groups(machine: BorrowedFd<'_>) -> Result<(), Errno> {
    let lock = |dir: OwnedFd| syscalls::mount_setattr(dir.as_fd(), MOUNT_ATTR_RDONLY, true);
    open_dir(c"/sys/fs/cgroup").and_then(lock).or_else(nothing_mounted)?;
    // Some refuse to work where both versions have controllers, even if they are to touch neither.
    let cover = new_fs(c"tmpfs", &[], MOUNT_ATTR_RDONLY)?;
    attach_inside(cover.as_fd(), machine, c"sys/fs/cgroup/unified").or_else(nothing_mounted)
}

fn nothing_mounted(errno: Errno) -> Result<(), Errno> {
    if matches!(errno, Errno::NOENT | Errno::INVAL) { Ok(()) } else { Err(errno) }
}
