//! `--secret` and `--ssh`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::build::{Failure, FailureKind, Secret, SshSource};
use crate::suggest::suggest;

use super::environment::Environment;

/// The reference's limit.
const LARGEST: u64 = 500 << 10;
const KEYS: [&str; 6] = ["type", "id", "src", "source", "env", "invalidate"];

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// `id=NAME[,src=FILE|,env=VARIABLE][,type=file|env]`; a bare `NAME` is not enough. Without a source
/// it is the variable of that name, or else the file.
pub(super) fn secrets(texts: &[String], cwd: &Path) -> Result<BTreeMap<String, Secret>, Failure> {
    let mut all = BTreeMap::new();
    for text in texts {
        let (id, secret) = secret(text, cwd)?;
        if all.insert(id.clone(), secret).is_some() {
            return Err(usage(format!("--secret id={id} is given twice")));
        }
    }
    Ok(all)
}

fn secret(text: &str, cwd: &Path) -> Result<(String, Secret), Failure> {
    let (mut kind, mut id, mut source, mut variable) = (None, None, None, None);
    let mut invalidates = false;
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            usage(format!("invalid field {field:?} in --secret: it must be a key=value pair"))
                .help("write --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE")
        })?;
        let value = value.to_owned();
        match key.trim().to_lowercase().as_str() {
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(usage(format!("unsupported secret type {value:?}; it is file or env"))),
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "invalidate" => match value.parse() {
                Ok(value) => invalidates = value,
                Err(_) => return Err(usage(format!("invalidate={value} in --secret: it is true or false"))),
            },
            other => {
                let hint =
                    suggest(other, KEYS).map_or(String::new(), |key| format!("; did you mean {key:?}?"));
                return Err(usage(format!("unexpected key {other:?} in --secret{hint}")));
            }
        }
    }
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = source.take();
    }
    let id = match id.or_else(|| base_name(source.as_deref()?)).filter(|id| !id.is_empty()) {
        Some(id) => id,
        None => return Err(usage(format!("--secret {text:?} has no id"))),
    };
    if source.is_none() && variable.is_none() {
        match Environment::variable(&id) {
            Some(_) if kind.as_deref() != Some("file") => variable = Some(id.clone()),
            _ => source = Some(id.clone()),
        }
    }
    let value = match (variable, source) {
        (Some(name), _) => Environment::variable(&name)
            .ok_or_else(|| usage(format!("secret {id}: the environment has no variable {name}")))?
            .into_bytes(),
        (None, source) => read(&id, &cwd.join(source.unwrap_or_default()))?,
    };
    Ok((id, Secret { value: value.into(), invalidates }))
}

fn base_name(path: &str) -> Option<String> {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned())
}

fn read(id: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: std::io::Error| usage(format!("secret {id}: cannot read {}: {error}", path.display()));
    let mut value = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_end(&mut value).map_err(failed)?;
    if value.len() as u64 > LARGEST {
        return Err(usage(format!("secret {id} is larger than {} KiB", LARGEST >> 10)));
    }
    Ok(value)
}

/// `default`, `ID=SOCKET` or `ID=KEY[,KEY]`. With `raw=true` the socket need not be an agent's: bytes are
/// forwarded as they come.
pub(super) fn ssh(
    texts: &[String],
    env: &Environment,
    cwd: &Path,
) -> Result<BTreeMap<String, SshSource>, Failure> {
    let mut all = BTreeMap::new();
    for text in texts {
        let (id, rest) = text.split_once('=').unwrap_or((text, ""));
        if id.is_empty() {
            return Err(usage(format!("--ssh {text:?} has no id")).help("write --ssh default"));
        }
        let mut raw = false;
        let mut paths: Vec<PathBuf> = Vec::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            match part.strip_prefix("raw=") {
                Some("true") => raw = true,
                Some("false") => raw = false,
                Some(other) => return Err(usage(format!("invalid value for raw: {other}"))),
                None => paths.push(expand_home(part, env, cwd)),
            }
        }
        let source = source(id, paths, raw, env)?;
        if all.insert(id.to_owned(), source).is_some() {
            return Err(usage(format!("--ssh {id} is given twice")));
        }
    }
    Ok(all)
}

fn expand_home(path: &str, env: &Environment, cwd: &Path) -> PathBuf {
    match (path.strip_prefix("~/"), &env.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => cwd.join(path),
    }
}

fn source(id: &str, paths: Vec<PathBuf>, raw: bool, env: &Environment) -> Result<SshSource, Failure> {
    if paths.is_empty() {
        let socket = env.ssh_auth_sock.clone().ok_or_else(|| {
            usage(format!("--ssh {id}: there is no agent, SSH_AUTH_SOCK is not set"))
                .help("start one with ssh-agent, or name key files: --ssh default=KEY")
        })?;
        return Ok(if raw { SshSource::Raw(socket) } else { SshSource::Agent(socket) });
    }
    let (mut sockets, mut keys) = (Vec::new(), Vec::new());
    for path in paths {
        let meta = std::fs::metadata(&path)
            .map_err(|error| usage(format!("--ssh {id}: cannot use {}: {error}", path.display())))?;
        if meta.file_type().is_socket() { sockets.push(path) } else { keys.push(path) }
    }
    match (sockets.pop(), sockets.is_empty(), keys.is_empty()) {
        (Some(socket), true, true) if raw => Ok(SshSource::Raw(socket)),
        (Some(socket), true, true) => Ok(SshSource::Agent(socket)),
        (None, _, false) if !raw => Ok(SshSource::Keys(keys)),
        (None, _, false) => Err(usage(format!("--ssh {id}: raw=true needs a socket"))),
        _ => Err(usage(format!("--ssh {id}: give one socket, or key files, not both"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join("key"), "value").expect("write");
        let get = |text: &str| secret(text, dir.path());
        let (id, value) = get("id=a,src=key").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((id.as_str(), &*value.value), ("a", &b"value"[..]));
        assert_eq!(get("type=file,src=key").map(|(id, _)| id).ok().as_deref(), Some("key"));
        assert_eq!(get("id=key").map(|(_, value)| value.value.to_vec()).ok().as_deref(), Some(&b"value"[..]));
        assert!(get("id=p,env=PATH").is_ok_and(|(_, value)| !value.value.is_empty()));
        assert!(get("type=env,id=p,src=PATH").is_ok_and(|(_, value)| !value.invalidates));
        assert!(get("id=key,invalidate=true").is_ok_and(|(_, value)| value.invalidates));
        for (bad, word) in [
            ("id=a,src=missing", "missing"),
            ("id=a,env=RBUILD_NO_SUCH", "RBUILD_NO_SUCH"),
            ("key", "key=value"),
            ("id=a,sorce=x", "did you mean"),
            ("type=vault,id=a", "vault"),
            ("id=a,src=key,invalidate=perhaps", "true or false"),
        ] {
            assert!(
                get(bad).is_err_and(|error| error.message.contains(word) || error.help.is_some()),
                "{bad}"
            );
        }
        std::fs::write(dir.path().join("big"), vec![b'x'; 600 << 10]).expect("write");
        assert!(get("id=big,src=big").is_err_and(|error| error.message.contains("500 KiB")));
    }
}
