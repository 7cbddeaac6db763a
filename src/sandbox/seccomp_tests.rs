use super::*;

/// Interprets the filter as the kernel does.
fn run(program: &[sock_filter], arch: u32, number: u32, arg0: u32) -> u32 {
    run_with(program, arch, number, &[arg0; 4])
}

fn run_with(program: &[sock_filter], arch: u32, number: u32, args: &[u32; 4]) -> u32 {
    let (mut at, mut value) = (0usize, 0u32);
    loop {
        let step = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            LOAD => {
                value = match step.k {
                    OFFSET_NUMBER => number,
                    OFFSET_ARCH => arch,
                    argument => args[((argument - OFFSET_ARG0) / 8) as usize],
                }
            }
            AND => value &= step.k,
            JUMP_EQUAL => at += jump(value == step.k),
            JUMP_GREATER_EQUAL => at += jump(value >= step.k),
            JUMP_ANY_BIT => at += jump(value & step.k != 0),
            0x05 => at += step.k as usize,
            RETURN => return step.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[test]
fn the_filter_answers_like_the_table() {
    let program = default_filter();
    assert!(program.len() < 400, "{}", program.len());
    let call = |number: c_long, arg0: u32| run(&program, AUDIT_ARCH, number as u32, arg0);
    let (eperm, enosys) = (ERRNO | libc::EPERM as u32, ERRNO | libc::ENOSYS as u32);
    for number in allowed() {
        assert_eq!(call(c_long::from(number), 0), ALLOW, "{number}");
    }
    for refused in numbers![SYS_mount SYS_umount2 SYS_bpf SYS_unshare SYS_setns SYS_reboot SYS_swapon
        SYS_init_module SYS_kexec_load SYS_add_key SYS_keyctl SYS_request_key SYS_userfaultfd
        SYS_perf_event_open SYS_open_by_handle_at SYS_pivot_root SYS_quotactl SYS_acct
        SYS_settimeofday SYS_clock_settime SYS_io_uring_setup SYS_io_uring_enter
        SYS_fsopen SYS_move_mount SYS_open_tree SYS_mount_setattr SYS_syslog SYS_vhangup
        SYS_lookup_dcookie SYS_move_pages SYS_mbind SYS_get_mempolicy SYS_kcmp SYS_nfsservctl
        SYS_pidfd_getfd SYS_process_madvise]
    {
        assert_eq!(call(*refused, 0), eperm, "{refused}");
    }
    assert_eq!(call(libc::SYS_clone3, 0), enosys);
    assert_eq!(call(libc::SYS_clone, 0x1200011), ALLOW);
    assert_eq!(call(libc::SYS_clone, 0x1000_0000), eperm);
    for number in [libc::SYS_socket, libc::SYS_socketpair] {
        for family in (0..50).chain([u32::MAX]) {
            let wanted = if [15, 38, 40].contains(&family) { eperm } else { ALLOW };
            assert_eq!(call(number, family), wanted, "{number} {family}");
        }
    }
    assert_eq!(call(libc::SYS_personality, 0), ALLOW);
    assert_eq!(call(libc::SYS_personality, 0xffff_ffff), ALLOW);
    assert_eq!(call(libc::SYS_personality, 0x40000), eperm);
    assert_eq!(call(9999, 0), enosys);
    assert_eq!(run(&program, 0x4000_0003, 1, 0), enosys);
    assert_eq!(run(&program, AUDIT_ARCH, X32 | 1, 0), enosys);
}

#[test]
fn without_namespaces_a_step_may_be_offline_asked_and_kept_from_others() {
    let eperm = ERRNO | libc::EPERM as u32;
    for (offline, guarded, answers) in [(false, true, false), (true, false, true)] {
        let program = chroot_filter(offline, guarded, answers);
        let call = |number: c_long, arg0: u32| run(&program, AUDIT_ARCH, number as u32, arg0);
        assert_eq!(call(libc::SYS_openat, 0), if answers { ASK } else { ALLOW });
        assert_eq!(call(libc::SYS_ptrace, 0), if guarded { ALLOW } else { eperm });
        assert_eq!(call(libc::SYS_execve, 0), if answers { ASK } else { ALLOW });
        let internet = if offline { ERRNO | libc::EAFNOSUPPORT as u32 } else { ALLOW };
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
            assert_eq!(call(libc::SYS_socket, family as u32), internet);
        }
        assert_eq!(call(libc::SYS_socket, libc::AF_UNIX as u32), ALLOW);
        assert_eq!(call(libc::SYS_mount, 0), eperm);
    }
}

#[test]
fn with_one_id_identities_and_owners_are_asked_about() {
    for all in [false, true] {
        let program = single_id_filter(all);
        let call = |number: c_long| run(&program, AUDIT_ARCH, number as u32, 0);
        assert_eq!(call(libc::SYS_setresuid), ASK);
        assert_eq!(call(libc::SYS_setfsuid), ERRNO);
        assert_eq!(call(libc::SYS_fchownat), ASK);
        assert_eq!(call(libc::SYS_capset), ASK);
        let prctl = |option: u32| run(&program, AUDIT_ARCH, libc::SYS_prctl as u32, option);
        assert_eq!((prctl(8), prctl(28), prctl(15), prctl(4)), (ASK, ASK, ALLOW, ALLOW));
        assert_eq!(call(libc::SYS_read), ALLOW);
        assert_eq!(call(libc::SYS_mount) == ALLOW, all);
    }
}

#[test]
fn without_a_mount_that_keeps_devices_closed_only_harmless_ones_are_made() {
    for answers in [false, true] {
        let program = chroot_filter(false, true, answers);
        let refused = if answers { ASK } else { ERRNO | libc::EPERM as u32 };
        for (call, argument) in MAKING_NODES {
            let make = |mode: u32, device: u64| {
                let mut args = [7; 4];
                (args[*argument as usize], args[*argument as usize + 1]) = (mode, device as u32);
                run_with(&program, AUDIT_ARCH, *call as u32, &args)
            };
            for (major, minor) in HARMLESS_DEVICES {
                let device = libc::makedev(major, minor);
                assert_eq!(make(libc::S_IFCHR | 0o644, device), ALLOW, "{major}:{minor}");
                assert_eq!(make(libc::S_IFBLK | 0o644, device), refused, "{major}:{minor}");
            }
            for (major, minor) in [(1, 1), (8, 0), (5, 1), (1, 259), (257, 3)] {
                assert_eq!(make(libc::S_IFCHR, libc::makedev(major, minor)), refused, "{major}:{minor}");
            }
            for kind in [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK] {
                assert_eq!(make(kind | 0o666, libc::makedev(8, 0)), ALLOW, "{kind}");
            }
        }
    }
}
