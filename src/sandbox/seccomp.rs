//! Which system calls a `RUN` may make: the set that Docker's default profile allows together with
//! its default capabilities, as a small filter that searches by bisection. The profile is that of
//! moby/profiles, `seccomp/v0.2.3` (May 2026), compared call by call.
//!
//! Stricter than Docker: address families are compared as the kernel reads them, without the upper half
//! of the register, and for `socketpair` too; AF_KEY is refused.
//!
//! Not in the list and known: `EPERM`. Newer than the list: `ENOSYS`, so that programs fall back as
//! on an older kernel. `clone3` is `ENOSYS`, because a filter cannot see its flags. Programs of
//! another architecture than the kernel's own get `ENOSYS` for everything, which is stricter than
//! Docker.

use libc::{c_long, sock_filter};

use crate::fs::HARMLESS_DEVICES;

/// Highest number that the table below knows; what is beyond did not exist when it was written.
const NEWEST: u32 = 466;

macro_rules! numbers {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

macro_rules! named {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Calls with the names of their constants.
type Named = [(&'static str, c_long)];

const COMMON: &Named = named![
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_chroot
    SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range
    SYS_connect SYS_copy_file_range SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
    SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_faccessat
    SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark SYS_fchdir SYS_fchmod SYS_fchmodat
    SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock
    SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex
    SYS_futex_waitv SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64
    SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid
    SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit
    SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid
    SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel
    SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get SYS_ioprio_set
    SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr
    SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr
    SYS_madvise SYS_membarrier SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat
    SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open
    SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv
    SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_name_to_handle_at SYS_nanosleep
    SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal
    SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64
    SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_mrelease SYS_process_vm_readv
    SYS_process_vm_writev SYS_pselect6 SYS_ptrace SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read
    SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages
    SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction
    SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend
    SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler
    SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam
    SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop SYS_semtimedop
    SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address SYS_setfsgid
    SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid
    SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4
    SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs
    SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun
    SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime
    SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice
    SYS_wait4 SYS_waitid SYS_write SYS_writev
];

/// Numbers that are the same everywhere, of calls younger than libc's names. statmount and listmount show
/// the mounts that /proc shows.
const NEW_COMMON: &Named = &[
    ("SYS_cachestat", 451),
    ("SYS_fchmodat2", 452),
    ("SYS_map_shadow_stack", 453),
    ("SYS_futex_wake", 454),
    ("SYS_futex_wait", 455),
    ("SYS_futex_requeue", 456),
    ("SYS_statmount", 457),
    ("SYS_listmount", 458),
    ("SYS_mseal", 462),
    ("SYS_setxattrat", 463),
    ("SYS_getxattrat", 464),
    ("SYS_listxattrat", 465),
    ("SYS_removexattrat", 466),
];

#[cfg(target_arch = "x86_64")]
const ARCH_CALLS: &Named = named![
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create
    SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_getdents
    SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_modify_ldt
    SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_sendfile
    SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
    SYS_get_thread_area SYS_set_thread_area
];
#[cfg(target_arch = "aarch64")]
const ARCH_CALLS: &Named = &[];

/// Which libc has no name for. uretprobe is how a traced function returns, and nothing else.
#[cfg(target_arch = "x86_64")]
const UNNAMED: &Named = &[("SYS_io_pgetevents", 333), ("SYS_uretprobe", 335)];
#[cfg(target_arch = "aarch64")]
const UNNAMED: &Named = &[("SYS_io_pgetevents", 292)];

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

// linux/seccomp.h and linux/bpf_common.h.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// User notification.
const ASK: u32 = 0x7fc0_0000;
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARG0: u32 = 16;
/// x32 calls carry this bit in their number.
const X32: u32 = 0x4000_0000;

/// Namespace flags that `clone` may not have without CAP_SYS_ADMIN.
pub(super) const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// Address families of sockets that lead out of RUN or into the kernel: AF_KEY (15, the kernel's IPsec
/// keys), AF_ALG (38, CVE-2026-31431) and AF_VSOCK (40, the host of a virtual machine).
pub(super) const REFUSED_FAMILIES: [u32; 3] = [15, 38, 40];
/// Calls whose first argument is an address family.
const SOCKET_CALLS: &Named = named![SYS_socket SYS_socketpair];
/// Linux, Linux with 32-bit uname, both with a large address space, and the question.
pub(super) const PERSONALITIES: [u32; 5] = [0, 8, 0x20000, 0x20008, 0xffff_ffff];

fn op(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The filter for Docker's default set of capabilities.
pub(super) fn default_filter() -> Vec<sock_filter> {
    let mut program = head();
    program.extend(rest());
    program
}

/// Identities, which an only ID allows no other way than its own.
const IDENTITY: &[c_long] = numbers![
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setgroups SYS_getuid
    SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups
];
/// Which decide about what an identity may do.
const CAPABILITIES: &[c_long] = numbers![SYS_capset];
/// Identities that nobody looks at again.
const IGNORED: &[c_long] = numbers![SYS_setfsuid SYS_setfsgid];
#[cfg(target_arch = "x86_64")]
const OWNERS: &[c_long] = numbers![SYS_fchown SYS_fchownat SYS_chown SYS_lchown SYS_mknod SYS_mknodat];
#[cfg(target_arch = "aarch64")]
const OWNERS: &[c_long] = numbers![SYS_fchown SYS_fchownat SYS_mknodat];

#[cfg(target_arch = "x86_64")]
const NODES: &[c_long] = numbers![SYS_mknod SYS_mknodat];
#[cfg(target_arch = "aarch64")]
const NODES: &[c_long] = numbers![SYS_mknodat];

/// By which a process reaches files of the kernel's that are about itself.
#[cfg(target_arch = "x86_64")]
const OPENING: &[c_long] = numbers![
    SYS_openat SYS_open SYS_creat SYS_readlink SYS_readlinkat SYS_openat2 SYS_execve SYS_execveat SYS_uname SYS_statfs
];
#[cfg(target_arch = "aarch64")]
const OPENING: &[c_long] =
    numbers![SYS_openat SYS_readlinkat SYS_openat2 SYS_execve SYS_execveat SYS_uname SYS_statfs];
/// By which a process looks into others.
const OTHER_PROCESSES: &[c_long] = numbers![SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev];
/// Which make nodes, and the number of the argument that has the kind. The device is the one behind it.
#[cfg(target_arch = "x86_64")]
const MAKING_NODES: &[(c_long, u32)] = &[(libc::SYS_mknod, 1), (libc::SYS_mknodat, 2)];
#[cfg(target_arch = "aarch64")]
const MAKING_NODES: &[(c_long, u32)] = &[(libc::SYS_mknodat, 2)];

/// The filter for root where there is one ID only: calls about identities and owners are
/// asked about. With `all`, everything else is allowed.
pub(super) fn single_id_filter(all: bool) -> Vec<sock_filter> {
    let mut program = head();
    for (calls, action) in [(IGNORED, ERRNO), (IDENTITY, ASK), (CAPABILITIES, ASK), (OWNERS, ASK)] {
        for call in calls {
            program.push(op(JUMP_EQUAL, *call as u32, 0, 1));
            program.push(op(RETURN, action, 0, 0));
        }
    }
    // Other uses of prctl are many and are the kernel's.
    let asked = any_of(&[libc::PR_SET_KEEPCAPS as u32, libc::PR_SET_SECUREBITS as u32]);
    program.extend(choice(libc::SYS_prctl, &asked, ASK, ALLOW));
    program.extend(if all { vec![op(RETURN, ALLOW, 0, 0)] } else { rest() });
    program
}

/// The filter for a user beside root where there is one ID only: what groups it has is asked about. With `all`,
/// everything else is allowed.
pub(super) fn groups_filter(all: bool) -> Vec<sock_filter> {
    let mut program = head();
    program.push(op(JUMP_EQUAL, libc::SYS_getgroups as u32, 0, 1));
    program.push(op(RETURN, ASK, 0, 0));
    program.extend(if all { vec![op(RETURN, ALLOW, 0, 0)] } else { rest() });
    program
}

/// The default filter for processes that are not root of this machine: those calls are asked about with
/// which root makes device nodes.
pub(super) fn device_filter() -> Vec<sock_filter> {
    let mut program = head();
    for call in NODES {
        program.push(op(JUMP_EQUAL, *call as u32, 0, 1));
        program.push(op(RETURN, ASK, 0, 0));
    }
    program.extend(rest());
    program
}

/// The default filter for processes without namespaces. Without a network (`offline`) they get no sockets but those
/// that are files. What leads to other processes is refused where nothing else guards these (`guarded`).
/// What names files that belong to the kernel is asked about if anybody `answers`.
pub(super) fn chroot_filter(offline: bool, guarded: bool, answers: bool) -> Vec<sock_filter> {
    let mut program = head();
    for call in OPENING.iter().filter(|_| answers) {
        program.push(op(JUMP_EQUAL, *call as u32, 0, 1));
        program.push(op(RETURN, ASK, 0, 0));
    }
    let refused = if answers { ASK } else { ERRNO | libc::EPERM as u32 };
    for (call, argument) in MAKING_NODES {
        program.extend(devices(*call, *argument, refused));
    }
    if offline {
        for (_, call) in SOCKET_CALLS {
            let refuse = ERRNO | libc::EAFNOSUPPORT as u32;
            program.extend(choice(*call, &any_of(&[libc::AF_UNIX as u32]), ALLOW, refuse));
        }
    }
    if !guarded {
        for call in OTHER_PROCESSES {
            program.push(op(JUMP_EQUAL, *call as u32, 0, 1));
            program.push(op(RETURN, ERRNO | libc::EPERM as u32, 0, 0));
        }
    }
    program.extend(rest());
    program
}

/// Refuses sockets and allows everything else. It stands beside a filter that refuses other architectures.
pub(super) fn no_sockets() -> Vec<sock_filter> {
    vec![
        op(LOAD, OFFSET_NUMBER, 0, 0),
        op(JUMP_EQUAL, libc::SYS_socket as u32, 0, 1),
        op(RETURN, ERRNO | libc::EPERM as u32, 0, 0),
        op(RETURN, ALLOW, 0, 0),
    ]
}

/// Leaves the number of the call loaded.
fn head() -> Vec<sock_filter> {
    vec![
        op(LOAD, OFFSET_ARCH, 0, 0),
        op(JUMP_EQUAL, AUDIT_ARCH, 1, 0),
        op(RETURN, ERRNO | libc::ENOSYS as u32, 0, 0),
        op(LOAD, OFFSET_NUMBER, 0, 0),
        op(JUMP_GREATER_EQUAL, X32, 0, 1),
        op(RETURN, ERRNO | libc::ENOSYS as u32, 0, 0),
    ]
}

fn rest() -> Vec<sock_filter> {
    let mut program =
        vec![op(JUMP_EQUAL, libc::SYS_clone3 as u32, 0, 1), op(RETURN, ERRNO | libc::ENOSYS as u32, 0, 0)];
    program.extend(conditional(libc::SYS_clone, &[op(JUMP_ANY_BIT, CLONE_NAMESPACES, 0, 1)], false));
    for (_, call) in SOCKET_CALLS {
        program.extend(conditional(*call, &any_of(&REFUSED_FAMILIES), false));
    }
    program.extend(conditional(libc::SYS_personality, &any_of(&PERSONALITIES), true));
    program.extend(search(&ranges(&allowed())));
    program
}

/// Tests for [`conditional`] that hold for each of some values.
fn any_of(values: &[u32]) -> Vec<sock_filter> {
    let ahead = (0..values.len() as u8).rev();
    values
        .iter()
        .zip(ahead)
        .map(|(value, ahead)| op(JUMP_EQUAL, *value, ahead, u8::from(ahead == 0)))
        .collect()
}

fn conditional(call: c_long, tests: &[sock_filter], allow_if_true: bool) -> Vec<sock_filter> {
    let refuse = ERRNO | libc::EPERM as u32;
    let (if_true, if_false) = if allow_if_true { (ALLOW, refuse) } else { (refuse, ALLOW) };
    choice(call, tests, if_true, if_false)
}

/// `if number == call { load arg0; tests; ... }`. The tests jump to the first return when they hold,
/// to the second when not.
fn choice(call: c_long, tests: &[sock_filter], if_true: u32, if_false: u32) -> Vec<sock_filter> {
    let mut out = vec![op(JUMP_EQUAL, call as u32, 0, tests.len() as u8 + 3), op(LOAD, OFFSET_ARG0, 0, 0)];
    out.extend_from_slice(tests);
    out.push(op(RETURN, if_true, 0, 0));
    out.push(op(RETURN, if_false, 0, 0));
    out
}

/// Allows a call that makes a node, except for devices that are not harmless.
fn devices(call: c_long, argument: u32, otherwise: u32) -> Vec<sock_filter> {
    let load = |argument: u32| op(LOAD, OFFSET_ARG0 + 8 * argument, 0, 0);
    let harmless: Vec<u32> =
        HARMLESS_DEVICES.iter().map(|(major, minor)| libc::makedev(*major, *minor) as u32).collect();
    let mut tests = vec![load(argument), op(AND, libc::S_IFMT, 0, 0)];
    let numbers = harmless.len() as u8;
    // Past the comparisons of the number, to one of the two returns.
    tests.push(op(JUMP_EQUAL, libc::S_IFBLK, numbers + 3, 0));
    tests.push(op(JUMP_EQUAL, libc::S_IFCHR, 0, numbers + 1));
    tests.push(load(argument + 1));
    tests.extend(any_of(&harmless));
    let mut out = vec![op(JUMP_EQUAL, call as u32, 0, tests.len() as u8 + 2)];
    out.extend(tests);
    out.push(op(RETURN, ALLOW, 0, 0));
    out.push(op(RETURN, otherwise, 0, 0));
    out
}

/// Names of the calls whose first argument is an address family.
pub(super) fn socket_names() -> Vec<&'static str> {
    names(SOCKET_CALLS.iter())
}

/// Names of the calls that are allowed whatever their arguments, as libseccomp knows them.
pub(super) fn allowed_names() -> Vec<&'static str> {
    names(COMMON.iter().chain(NEW_COMMON).chain(ARCH_CALLS).chain(UNNAMED))
}

fn names(calls: impl Iterator<Item = &'static (&'static str, c_long)>) -> Vec<&'static str> {
    calls.map(|(name, _)| name.strip_prefix("SYS_").unwrap_or(name)).collect()
}

fn allowed() -> Vec<u32> {
    let lists = COMMON.iter().chain(NEW_COMMON).chain(ARCH_CALLS).chain(UNNAMED);
    let mut all: Vec<u32> = lists.map(|(_, number)| *number as u32).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// First numbers of alternating stretches: each with what happens from it on.
fn ranges(allowed: &[u32]) -> Vec<(u32, u32)> {
    let refuse = ERRNO | libc::EPERM as u32;
    let mut starts = vec![(0, if allowed.first() == Some(&0) { ALLOW } else { refuse })];
    for number in 1..=NEWEST {
        let action = if allowed.binary_search(&number).is_ok() { ALLOW } else { refuse };
        if starts.last().is_some_and(|(_, last)| *last != action) {
            starts.push((number, action));
        }
    }
    starts.push((NEWEST + 1, ERRNO | libc::ENOSYS as u32));
    starts
}

/// A tree of comparisons over the stretches.
fn search(stretches: &[(u32, u32)]) -> Vec<sock_filter> {
    match stretches {
        [] => Vec::new(),
        [(_, action)] => vec![op(RETURN, *action, 0, 0)],
        _ => {
            let middle = stretches.len() / 2;
            let (below, above) = stretches.split_at(middle);
            let low = search(below);
            let high = search(above);
            let mut out = Vec::with_capacity(low.len() + high.len() + 2);
            match u8::try_from(low.len()) {
                Ok(distance) => out.push(op(JUMP_GREATER_EQUAL, above[0].0, distance, 0)),
                Err(_) => {
                    // Conditional jumps reach 255 instructions; further goes by an unconditional one.
                    out.push(op(JUMP_GREATER_EQUAL, above[0].0, 0, 1));
                    out.push(op(0x05, low.len() as u32, 0, 0));
                }
            }
            out.extend(low);
            out.extend(high);
            out
        }
    }
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
