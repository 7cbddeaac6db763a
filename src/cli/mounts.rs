//! `-v`, `--mount` and `--tmpfs` of `rbuild run`.

use std::path::{Path, PathBuf};

use crate::build::{Failure, FailureKind, RunMount};
use crate::suggest::suggest;

use super::values;

const KEYS: [&str; 12] = [
    "type",
    "source",
    "src",
    "target",
    "destination",
    "dst",
    "readonly",
    "ro",
    "tmpfs-size",
    "tmpfs-mode",
    "bind-propagation",
    "consistency",
];

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// All of them, in the order of the flags.
pub(super) fn all(volumes: &[String], mounts: &[String], tmpfs: &[String]) -> Result<Vec<RunMount>, Failure> {
    let volumes = volumes.iter().map(|text| volume(text));
    let mounts = mounts.iter().map(|text| mount(text));
    let tmpfs = tmpfs.iter().map(|text| memory(text));
    volumes.chain(mounts).chain(tmpfs).collect()
}

/// A path of this machine that is there.
fn source(text: &str, flag: &str) -> Result<PathBuf, Failure> {
    let is_path = text.starts_with('/') || text.starts_with('.') || text.contains('/');
    if !is_path {
        let message = format!("{flag}: rbuild has no volumes, and {text:?} is no path");
        return Err(Failure::new(FailureKind::Unsupported, message)
            .help(format!("name a directory of this machine, such as ./{text}")));
    }
    std::path::absolute(text).and_then(std::fs::canonicalize).map_err(|error| {
        usage(format!("{flag}: cannot mount {text}: {error}")).help("make the directory or file first")
    })
}

fn target(text: &str, flag: &str) -> Result<Vec<u8>, Failure> {
    if !Path::new(text).is_absolute() || text == "/" {
        return Err(usage(format!("{flag}: the target {text:?} is no absolute path below /")));
    }
    Ok(text.as_bytes().to_vec())
}

/// `SOURCE:TARGET[:OPTION,...]`.
fn volume(text: &str) -> Result<RunMount, Failure> {
    let mut parts = text.split(':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        return Err(usage(format!("--volume {text:?} has no target")).help("write SOURCE:TARGET"));
    };
    let mut readonly = false;
    for option in parts.flat_map(|options| options.split(',')) {
        match option {
            "ro" => readonly = true,
            // Labels are never set, and mounts of the container are its own.
            "rw" | "z" | "Z" | "" | "cached" | "delegated" | "consistent" => readonly &= option != "rw",
            other => {
                let message = format!("--volume: the option {other:?} is not supported");
                return Err(Failure::new(FailureKind::Unsupported, message).help("there are ro and rw"));
            }
        }
    }
    let (source, target) = (source(from, "--volume")?, target(to, "--volume")?);
    Ok(RunMount::Bind { source, target, readonly })
}

/// `type=bind,source=...,target=...` or `type=tmpfs,target=...`.
fn mount(text: &str) -> Result<RunMount, Failure> {
    let (mut kind, mut from, mut to, mut readonly, mut size) = ("", None, None, false, None);
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        match (key, value) {
            ("type", Some(value)) => kind = value,
            ("source" | "src", Some(value)) => from = Some(value),
            ("target" | "destination" | "dst", Some(value)) => to = Some(value),
            ("readonly" | "ro", value) => {
                readonly = super::flags::boolean(value.unwrap_or("true"))
                    .ok_or_else(|| usage(format!("--mount: {field:?} is neither true nor false")))?;
            }
            ("tmpfs-size", Some(value)) => size = Some(values::size(value).map_err(usage)?),
            ("consistency", Some(_)) => {}
            (other, _) => {
                let near =
                    suggest(other, KEYS).map_or_else(String::new, |near| format!("; did you mean {near}?"));
                let message = format!("--mount: the option {other:?} is not supported{near}");
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .help("there are type, source, target, readonly and tmpfs-size"));
            }
        }
    }
    let to = to.ok_or_else(|| usage(format!("--mount {text:?} has no target")).help("write target=PATH"))?;
    let to = target(to, "--mount")?;
    match (kind, from) {
        ("tmpfs", _) => Ok(RunMount::Tmpfs { target: to, size }),
        ("bind", Some(from)) => Ok(RunMount::Bind { source: source(from, "--mount")?, target: to, readonly }),
        ("bind", None) => Err(usage(format!("--mount {text:?} has no source")).help("write source=PATH")),
        _ => Err(Failure::new(FailureKind::Unsupported, format!("--mount: type={kind} is not supported"))
            .help("there are type=bind and type=tmpfs; rbuild has no volumes")),
    }
}

/// `TARGET[:size=SIZE,...]`.
fn memory(text: &str) -> Result<RunMount, Failure> {
    let (to, options) = text.split_once(':').unwrap_or((text, ""));
    let mut size = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(values::size(value).map_err(usage)?),
            // What it is in any case.
            None if matches!(option, "rw" | "nosuid" | "nodev") => {}
            _ => {
                let message = format!("--tmpfs: the option {option:?} is not supported");
                return Err(Failure::new(FailureKind::Unsupported, message).help("there is size=SIZE"));
            }
        }
    }
    Ok(RunMount::Tmpfs { target: target(to, "--tmpfs")?, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(flag: &str, text: &str) -> Result<RunMount, String> {
        let texts = [text.to_owned()];
        let (volumes, mounts, tmpfs): (&[_], &[_], &[_]) = match flag {
            "-v" => (&texts, &[], &[]),
            "--mount" => (&[], &texts, &[]),
            _ => (&[], &[], &texts),
        };
        let all = all(volumes, mounts, tmpfs).map_err(|failure| failure.message)?;
        all.into_iter().next().ok_or_else(|| "nothing".into())
    }

    #[test]
    fn mounts_are_read_as_in_docker() {
        let bind = |readonly| RunMount::Bind { source: "/usr".into(), target: b"/x".to_vec(), readonly };
        let tmpfs = |size| RunMount::Tmpfs { target: b"/x".to_vec(), size };
        for (flag, text, wanted) in [
            ("-v", "/usr:/x", bind(false)),
            ("-v", "/usr:/x:ro,z", bind(true)),
            ("--mount", "type=bind,src=/usr,dst=/x,readonly", bind(true)),
            ("--mount", "type=bind,source=/usr,target=/x,ro=false", bind(false)),
            ("--mount", "type=tmpfs,destination=/x,tmpfs-size=1m", tmpfs(Some(1 << 20))),
            ("--tmpfs", "/x", tmpfs(None)),
            ("--tmpfs", "/x:rw,size=64k", tmpfs(Some(1 << 16))),
        ] {
            assert_eq!(one(flag, text), Ok(wanted), "{flag} {text}");
        }
    }

    #[test]
    fn what_cannot_be_mounted_is_named() {
        for (flag, text, words) in [
            ("-v", "data:/x", "no volumes"),
            ("-v", "/usr", "no target"),
            ("-v", "/usr:x", "no absolute path"),
            ("-v", "/usr:/", "no absolute path"),
            ("-v", "/no/such:/x", "cannot mount /no/such"),
            ("-v", "/usr:/x:shared", "\"shared\" is not supported"),
            ("--mount", "type=volume,source=a,target=/x", "type=volume"),
            ("--mount", "type=bind,target=/x", "no source"),
            ("--mount", "type=bind,sorce=/usr,target=/x", "did you mean source?"),
            ("--tmpfs", "/x:exec", "\"exec\" is not supported"),
        ] {
            let message = one(flag, text).err().unwrap_or_default();
            assert!(message.contains(words), "{flag} {text}: {message}");
        }
    }
}
