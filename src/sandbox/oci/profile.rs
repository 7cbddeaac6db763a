//! The system call filter of [`super::super::seccomp`] in the words of the runtime specification.
//!
//! Two answers differ, since the format cannot say otherwise: a `personality` that is not allowed is
//! `ENOSYS` instead of `EPERM`, and calls of another architecture are what the runtime makes of them.

use serde_json::{Value, json};

use super::super::seccomp::{self, CLONE_NAMESPACES, PERSONALITIES, REFUSED_FAMILIES};

/// Calls as old as the table of the filter that are not in it. Names that an architecture or a
/// runtime does not know are skipped by it.
const REFUSED: &[&str] = &[
    "_sysctl",
    "acct",
    "add_key",
    "afs_syscall",
    "bpf",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "getpmsg",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "lsm_get_self_attr",
    "lsm_list_modules",
    "lsm_set_self_attr",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "putpmsg",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "security",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "tuxcall",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "vhangup",
    "vserver",
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "SCMP_ARCH_AARCH64";

fn allow(names: &[&str], tests: Value) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": tests })
}

fn refuse(names: &[&str], tests: Value) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM, "args": tests })
}

/// A test of the first argument.
fn test(how: &str, value: u32, second: u32) -> Value {
    json!([{ "index": 0, "value": value, "valueTwo": second, "op": how }])
}

/// The kernel reads 32 bits of an address family, runtimes compare 64: without a mask, a bit in the upper
/// half would get a refused family through.
fn family_test(mask: u32, family: u32) -> Value {
    test("SCMP_CMP_MASKED_EQ", mask, family)
}

/// All families but the refused ones, as masks and what is left behind them. Tests of two rules never hold
/// together: which one counts would be up to the runtime.
fn other_families() -> Vec<(u32, u32)> {
    let mut open = vec![(0, 0)];
    let mut out = Vec::new();
    while let Some((mask, value)) = open.pop() {
        if !REFUSED_FAMILIES.iter().any(|family| family & mask == value) {
            out.push((mask, value));
        } else if mask != u32::MAX {
            let bit = 1 << (31 - mask.leading_ones());
            open.extend([(mask | bit, value), (mask | bit, value | bit)]);
        }
    }
    out
}

/// The whole profile. What it does not name, newer calls and `clone3`, is `ENOSYS`.
pub(super) fn seccomp() -> Value {
    let mut rules = vec![
        allow(&seccomp::allowed_names(), json!([])),
        refuse(REFUSED, json!([])),
        allow(&["clone"], test("SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES, 0)),
    ];
    let sockets = seccomp::socket_names();
    rules.extend(REFUSED_FAMILIES.iter().map(|family| refuse(&sockets, family_test(u32::MAX, *family))));
    rules.extend(
        other_families().into_iter().map(|(mask, family)| allow(&sockets, family_test(mask, family))),
    );
    let bits = (0..u32::BITS).map(|bit| 1 << bit).filter(|bit| CLONE_NAMESPACES & bit != 0);
    rules.extend(bits.map(|bit| refuse(&["clone"], test("SCMP_CMP_MASKED_EQ", bit, bit))));
    let personalities = PERSONALITIES.iter();
    rules.extend(personalities.map(|value| allow(&["personality"], test("SCMP_CMP_EQ", *value, 0))));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::ENOSYS,
        "architectures": [ARCHITECTURE],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_both_allowed_and_refused() {
        let allowed = seccomp::allowed_names();
        assert!(allowed.contains(&"read") && allowed.contains(&"mseal"));
        for name in REFUSED.iter().chain(&["clone", "clone3", "socket", "socketpair", "personality"]) {
            assert!(!allowed.contains(name), "{name}");
        }
    }

    #[test]
    fn one_rule_decides_about_each_address_family_whatever_the_upper_half() {
        let profile = seccomp();
        let rules: Vec<&Value> = profile["syscalls"].as_array().expect("rules").iter().collect();
        for name in ["socket", "socketpair"] {
            let of_call: Vec<_> = rules
                .iter()
                .filter(|rule| rule["names"].as_array().expect("names").contains(&json!(name)))
                .collect();
            for family in (0..64).chain([1 << 20, 1 << 31, u32::MAX]) {
                let wanted = if [15, 38, 40].contains(&family) { "SCMP_ACT_ERRNO" } else { "SCMP_ACT_ALLOW" };
                for argument in [u64::from(family), 1 << 32 | u64::from(family)] {
                    let actions: Vec<_> = of_call
                        .iter()
                        .filter(|rule| {
                            let test = &rule["args"][0];
                            assert_eq!(test["op"], "SCMP_CMP_MASKED_EQ");
                            test["value"].as_u64().map(|mask| mask & argument) == test["valueTwo"].as_u64()
                        })
                        .map(|rule| &rule["action"])
                        .collect();
                    assert_eq!(actions, [wanted], "{name} {argument:#x}");
                }
            }
        }
    }
}
