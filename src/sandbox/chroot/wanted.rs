//! Which of the kernel's files a path names: those that a copy cannot stand for. Nothing in here acts.

use std::ffi::CStr;

/// What a process wants of the kernel's file systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Wanted {
    /// A path in the directory of the process that asks; empty is the directory.
    Own(Vec<u8>),
    /// The same of the process with this number.
    Of(u32, Vec<u8>),
    /// A path in `/proc` that is the same for all processes; empty is `/proc`.
    Proc(Vec<u8>),
    /// A path in `/sys`; empty is `/sys`.
    Sys(Vec<u8>),
    /// A new terminal.
    NewTerminal,
    /// The terminal with this number.
    Terminal(u32),
}

/// For opening a path. `None` is the kernel's matter: also what leads there by links of the image or by `..`.
pub(in crate::sandbox) fn to_open(path: &[u8]) -> Option<Wanted> {
    let parts = parts(path)?;
    match parts.as_slice() {
        [b"proc", b"mounts"] => Some(Wanted::Own(b"mounts".to_vec())),
        [b"proc", b"net", rest @ ..] => Some(Wanted::Own(join(b"net", rest))),
        [b"proc", rest @ ..] => Some(in_proc(rest)),
        [b"sys", rest @ ..] => Some(Wanted::Sys(rest.join(&b'/'))),
        [b"dev", b"fd", rest @ ..] => Some(Wanted::Own(join(b"fd", rest))),
        [b"dev", b"stdin"] => Some(Wanted::Own(b"fd/0".to_vec())),
        [b"dev", b"stdout"] => Some(Wanted::Own(b"fd/1".to_vec())),
        [b"dev", b"stderr"] => Some(Wanted::Own(b"fd/2".to_vec())),
        [b"dev", b"ptmx"] | [b"dev", b"pts", b"ptmx"] => Some(Wanted::NewTerminal),
        [b"dev", b"pts", name] => number(name).map(Wanted::Terminal),
        _ => None,
    }
}

/// Whether a path may be a link to one of them: most paths are none, but all that are opened are asked about.
pub(in crate::sandbox) fn behind_link(path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return Some(target.to_vec());
    }
    if !path.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    let above = path.iter().rposition(|c| *c == b'/').map_or(&b""[..], |at| &path[..at]);
    for part in above.split(|c| *c == b'/').chain(target.split(|c| *c == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some([b"/", parts.join(&b'/').as_slice()].concat())
}

/// For reading the target of a link. Links that copies have too are the kernel's matter.
pub(in crate::sandbox) fn to_read_link(path: &[u8]) -> Option<Wanted> {
    match parts(path)?.as_slice() {
        [b"proc", rest @ ..] => Some(in_proc(rest)).filter(|wanted| match wanted {
            Wanted::Own(rest) => !rest.is_empty(),
            Wanted::Of(..) => true,
            _ => false,
        }),
        _ => None,
    }
}

/// One of the kernel's file systems, if a path names where it is mounted elsewhere.
pub(in crate::sandbox) fn top_of_kernel(path: &[u8]) -> Option<&'static CStr> {
    match parts(path)?.as_slice() {
        [b"proc"] => Some(c"/proc"),
        [b"sys"] => Some(c"/sys"),
        [b"dev", b"pts"] => Some(c"/dev/pts"),
        _ => None,
    }
}

fn in_proc(rest: &[&[u8]]) -> Wanted {
    match rest {
        [b"self" | b"thread-self", rest @ ..] => Wanted::Own(rest.join(&b'/')),
        [name, below @ ..] => match number(name) {
            Some(pid) => Wanted::Of(pid, below.join(&b'/')),
            None => Wanted::Proc(rest.join(&b'/')),
        },
        [] => Wanted::Proc(Vec::new()),
    }
}

/// The names of an absolute path without `..`.
fn parts(path: &[u8]) -> Option<Vec<&[u8]>> {
    let path = path.strip_prefix(b"/")?;
    // Most paths lead elsewhere, and this is asked for each of them.
    let first = path.iter().find(|c| **c != b'/')?;
    if !matches!(first, b'p' | b's' | b'd' | b'.') {
        return None;
    }
    let parts: Vec<&[u8]> = path.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    (!parts.contains(&&b".."[..])).then_some(parts)
}

fn join(first: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    [&[first], rest].concat().join(&b'/')
}

fn number(name: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(name).ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(rest: &str) -> Option<Wanted> {
        Some(Wanted::Own(rest.as_bytes().to_vec()))
    }

    #[test]
    fn paths_below_proc_sys_and_dev_are_recognised_however_they_are_written() {
        for path in ["/proc/self/exe", "//proc/./self//exe", "/proc/thread-self/exe"] {
            assert_eq!(to_open(path.as_bytes()), own("exe"), "{path}");
            assert_eq!(to_read_link(path.as_bytes()), own("exe"), "{path}");
        }
        assert_eq!(to_open(b"/dev/fd/63"), own("fd/63"));
        assert_eq!(to_open(b"/dev/stdout"), own("fd/1"));
        assert_eq!(to_open(b"/proc/mounts"), own("mounts"));
        assert_eq!(to_open(b"/proc/12/status"), Some(Wanted::Of(12, b"status".to_vec())));
        assert_eq!(to_open(b"/proc"), Some(Wanted::Proc(Vec::new())));
        assert_eq!(to_open(b"/proc/sys/vm/swappiness"), Some(Wanted::Proc(b"sys/vm/swappiness".to_vec())));
        assert_eq!(to_open(b"/dev/pts/7"), Some(Wanted::Terminal(7)));
        assert_eq!(to_open(b"/sys/class"), Some(Wanted::Sys(b"class".to_vec())));
    }

    #[test]
    fn everything_else_is_the_kernels() {
        for path in ["", "proc/self/exe", "/process", "/usr", "/dev/null", "/dev/pts/x", "/proc/../etc", "/"]
        {
            assert_eq!(to_open(path.as_bytes()), None, "{path}");
        }
        for path in ["/dev/fd", "/dev/stdin", "/proc/mounts", "/proc/self", "/proc/cpuinfo", "/proc"] {
            assert_eq!(to_read_link(path.as_bytes()), None, "{path}");
        }
        assert_eq!(to_open(b"/proc/-1"), Some(Wanted::Proc(b"-1".to_vec())));
    }

    #[test]
    fn the_kernels_file_systems_are_known_by_their_tops() {
        assert_eq!(top_of_kernel(b"/dev/pts/"), Some(c"/dev/pts"));
        assert_eq!(top_of_kernel(b"//proc"), Some(c"/proc"));
        assert_eq!(top_of_kernel(b"/proc/self"), None);
        assert_eq!(top_of_kernel(b"/dev"), None);
    }

    #[test]
    fn links_are_followed_by_their_text() {
        let behind = |path: &str, target: &str| behind_link(path.as_bytes(), target.as_bytes());
        assert_eq!(behind("/log/error.log", "/dev/stderr"), Some(b"/dev/stderr".to_vec()));
        assert_eq!(behind("/etc/mtab", "../proc/self/mounts"), Some(b"/proc/self/mounts".to_vec()));
        assert_eq!(behind("/a/b", "../../../../dev/stdin"), Some(b"/dev/stdin".to_vec()));
        assert_eq!(behind("log", "../dev/stdin"), None);
        assert_eq!(behind("log", "/dev/stdin"), Some(b"/dev/stdin".to_vec()));
    }
}
