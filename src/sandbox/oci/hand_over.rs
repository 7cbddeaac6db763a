//! The child's way to the runtime. As everything in the child, nothing in here allocates, locks or
//! unwinds.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::c_char;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::super::child::{At as _, Failure, Stage, Streams, missing_is_fine, streams_in_place};
use super::super::mounts::{bind, make_point, make_points, mount_dev, mount_one, mount_proc, write_secrets};
use super::super::prepare::Plan;
use super::super::syscalls::{self, MOUNT_ATTR_RDONLY};

/// A call of the runtime, ready to be made.
pub(in super::super) struct Call {
    program: CString,
    _strings: Vec<CString>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// A directory of this machine in which mounts are made.
    points: CString,
    /// Names in it, one for each mount of the plan.
    targets: Vec<CString>,
    /// The working directory to make, relative to the root.
    cwd: Option<CString>,
}

impl Call {
    pub(super) fn new(
        program: CString,
        argv: Vec<CString>,
        env: Vec<CString>,
        points: CString,
        targets: Vec<CString>,
        cwd: Option<CString>,
    ) -> Self {
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
        let strings = argv.into_iter().chain(env).collect();
        Call { program, _strings: strings, argv: argv_pointers, env: env_pointers, points, targets, cwd }
    }
}

/// Mounts what the runtime shall find and becomes the runtime.
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
    lock_control_groups().at(Stage::Runtime)?;
    let points = open_dir(&call.points).at(Stage::Mounts)?;
    mount_dev(plan, points.as_fd())?;
    for (path, is_file) in &plan.dev_points {
        make_point(points.as_fd(), path, *is_file).at(Stage::Dev)?;
    }
    for (source, target) in &plan.etc {
        // Not left to the runtime, which would make the target of a link that leads nowhere.
        bind(plan, source, root, target, 0, false).or_else(missing_is_fine).at(Stage::Etc)?;
    }
    write_secrets(plan).at(Stage::Mounts)?;
    for ((_, _, mount), point) in plan.mounts.iter().zip(&call.targets) {
        mount_one(plan, points.as_fd(), point, mount).at(Stage::Mounts)?;
    }
    if let Some(cwd) = &call.cwd {
        make_points(root, cwd, true).at(Stage::Cwd)?;
    }
    streams_in_place(plan, streams).at(Stage::Streams)?;
    syscalls::reset_signals();
    Err((Stage::Runtime, syscalls::exec(&call.program, &call.argv, &call.env)))
}

fn open_dir(path: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// The runtime stays in the control group it starts in, whose limits hold for what it runs too.
fn lock_control_groups() -> Result<(), Errno> {
    let changed =
        open_dir(c"/sys/fs/cgroup").and_then(|dir| syscalls::mount_setattr(dir.as_fd(), MOUNT_ATTR_RDONLY, true));
    // Nothing may be mounted there.
    changed.or_else(|errno| if matches!(errno, Errno::NOENT | Errno::INVAL) { Ok(()) } else { Err(errno) })
}
