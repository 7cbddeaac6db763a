//! `--cap-add` and `--cap-drop` of `rbuild run`.

use crate::build::{Failure, FailureKind};
use crate::sandbox::{CAPABILITY_NAMES, DEFAULT_CAPABILITIES};
use crate::suggest::suggest;

/// What the filter of system calls keeps from being of any use.
const FILTERED: [&str; 11] = [
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_PACCT",
    "SYS_BOOT",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "SYSLOG",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The set that is left of the default one, or becomes of it; `None` where nothing is asked for. As in docker, `ALL`
/// comes first and single ones after it, and what is dropped by name is dropped whatever is added.
pub(super) fn set(add: &[String], drop: &[String]) -> Result<Option<u64>, Failure> {
    if add.is_empty() && drop.is_empty() {
        return Ok(None);
    }
    let split = |texts: &[String]| -> Vec<String> {
        texts.iter().flat_map(|text| text.split(',')).map(normal).collect()
    };
    let (add, drop) = (split(add), split(drop));
    let mut set = if drop.iter().any(|name| name == "ALL") { 0 } else { DEFAULT_CAPABILITIES };
    for name in &add {
        let filtered = name == "ALL" || FILTERED.contains(&name.as_str());
        if filtered {
            let message = format!("--cap-add {name} is not supported");
            return Err(Failure::new(FailureKind::Unsupported, message)
                .help("rbuild's filter of system calls is the same for all containers and would keep it from being of use"));
        }
        set |= bit(name, "--cap-add")?;
    }
    for name in drop.iter().filter(|name| *name != "ALL") {
        set &= !bit(name, "--cap-drop")?;
    }
    Ok(Some(set))
}

fn normal(name: &str) -> String {
    let name = name.trim().to_uppercase();
    name.strip_prefix("CAP_").map_or_else(|| name.clone(), str::to_owned)
}

fn bit(name: &str, flag: &str) -> Result<u64, Failure> {
    if let Some(number) = CAPABILITY_NAMES.iter().position(|known| *known == name) {
        return Ok(1 << number);
    }
    let failure = Failure::new(FailureKind::Usage, format!("{flag}: there is no capability {name:?}"));
    Err(match suggest(name, CAPABILITY_NAMES) {
        Some(near) => failure.help(format!("did you mean {near}?")),
        None => failure.help("such as NET_ADMIN, SYS_PTRACE or ALL"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_made_as_docker_makes_them() {
        let set = |add: &[&str], drop: &[&str]| {
            let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            set(&own(add), &own(drop)).map_err(|failure| (failure.kind, failure.help.unwrap_or_default()))
        };
        assert_eq!(set(&[], &[]), Ok(None));
        assert_eq!(set(&["net_admin"], &[]), Ok(Some(DEFAULT_CAPABILITIES | 1 << 12)));
        assert_eq!(set(&["CAP_CHOWN,CAP_KILL"], &["ALL"]), Ok(Some(1 | 1 << 5)));
        assert_eq!(set(&["CHOWN"], &["chown"]), Ok(Some(DEFAULT_CAPABILITIES & !1)));
        let refused = set(&["SYS_ADMIN"], &[]).map_err(|(kind, _)| kind);
        assert_eq!(refused, Err(FailureKind::Unsupported));
        let unknown = set(&["NET_ADMN"], &[]);
        assert!(unknown.is_err_and(|(_, help)| help.contains("NET_ADMIN")));
        for name in FILTERED {
            assert!(CAPABILITY_NAMES.contains(&name), "{name}");
        }
    }
}
