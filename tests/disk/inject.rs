//! `strace` lets single system calls of a command fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{bases_or_skip, has, skip};

/// A program that still runs by then waits for something that never comes.
const LIMIT: &str = "300";

/// System calls that fail, and how.
pub const CALLS: [(&str, &[&str]); 27] = [
    ("write", &["EIO", "ENOSPC", "EDQUOT"]),
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT"]),
    ("writev", &["EIO", "ENOSPC"]),
    ("copy_file_range", &["EIO", "ENOSPC"]),
    ("sendfile", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "ENOSPC"]),
    ("fallocate", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO"]),
    ("fdatasync", &["EIO"]),
    ("syncfs", &["EIO"]),
    ("rename", &["EIO", "ENOSPC", "EDQUOT"]),
    ("renameat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("link", &["EIO", "ENOSPC"]),
    ("linkat", &["EIO", "ENOSPC"]),
    ("symlinkat", &["EIO", "ENOSPC"]),
    ("mkdir", &["EIO", "ENOSPC", "EDQUOT"]),
    ("mkdirat", &["EIO", "ENOSPC", "EDQUOT"]),
    ("openat", &["EIO", "EMFILE"]),
    ("openat2", &["EIO", "EMFILE"]),
    ("getdents64", &["EIO"]),
    ("read", &["EIO"]),
    ("pread64", &["EIO"]),
    ("statx", &["EIO"]),
    ("unlink", &["EIO"]),
    ("unlinkat", &["EIO"]),
    ("flock", &["EIO", "ENOLCK"]),
];

pub fn can_inject(test: &str) -> bool {
    if !has("strace") {
        skip(test, "strace is not installed");
        return false;
    }
    let probe = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    if !probe.is_ok_and(|done| done.status.success()) {
        skip(test, "strace may not trace here");
        return false;
    }
    bases_or_skip(test)
}

/// The same command, watched by `strace`.
pub fn watched(command: &Command, log: &Path, flags: &[&str]) -> Command {
    let mut strace = Command::new("timeout");
    strace.args(["-k", "5", LIMIT, "strace", "-f", "-qq", "-y", "-s", "16"]);
    // Faster, but then programs with the setuid bit get no privileges (`newuidmap` needs them).
    if command.get_program() != "setpriv" {
        strace.arg("--seccomp-bpf");
    }
    strace.arg("-o").arg(log).args(flags).arg(command.get_program()).args(command.get_args()).env_clear();
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.current_dir(command.get_current_dir().expect("a directory")).stdin(std::process::Stdio::null());
    strace
}

/// How often one thread makes each call, at most.
pub fn counts(log: &Path) -> BTreeMap<&'static str, usize> {
    let text = String::from_utf8_lossy(&fs::read(log).expect("log")).into_owned();
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        *seen.entry((pid, call)).or_default() += 1;
    }
    let most = |name: &str| seen.iter().filter(|((_, call), _)| *call == name).map(|(_, count)| *count).max();
    CALLS.iter().filter_map(|(name, _)| Some((*name, most(name)?))).collect()
}

/// The lines of the calls that failed.
pub fn injected(log: &Path) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    text.lines().filter(|line| line.ends_with("(INJECTED)")).map(str::to_owned).collect()
}
