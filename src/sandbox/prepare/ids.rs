//! IDs that a process, or files made for it, are to have: refused by name where its user namespace does
//! not have them.

use crate::fs::IdMap;

use super::super::private;
use super::super::spec::{MountKind, ProcessSpec, SandboxError, Whose};

/// What there is for processes.
enum Known {
    /// Any number stands for the only ID.
    Any,
    /// From 0 up to this one, not included.
    Below(u32),
    /// What this process has itself.
    Own(&'static IdMap),
}

impl Known {
    fn has(&self, whose: &Whose, id: u32) -> bool {
        match (self, whose) {
            (Known::Any, _) => id != u32::MAX,
            (Known::Below(end), _) => id < *end,
            (Known::Own(map), Whose::User | Whose::MountUser(_)) => map.has_user(id),
            (Known::Own(map), _) => map.has_group(id),
        }
    }

    fn refuse(&self, whose: Whose, id: u32) -> SandboxError {
        let (mapped, remedy) = match (self, &whose) {
            (Known::Any, _) => ("0-4294967294".into(), "choose a smaller one"),
            (Known::Below(end), _) => {
                (format!("0-{}", end - 1), "build with --userns=host, where RUN has those of this machine")
            }
            (Known::Own(map), _) if map.is_full() => ("0-4294967294".into(), "choose a smaller one"),
            (Known::Own(map), whose) => {
                let is_user = matches!(whose, Whose::User | Whose::MountUser(_));
                let mapped = if is_user { map.users() } else { map.groups() };
                (
                    mapped,
                    "larger ranges in /etc/subuid and /etc/subgid, or for the user namespace in which rbuild was started, have more",
                )
            }
        };
        SandboxError::Unmapped { whose, id, mapped, remedy }
    }
}

/// Looks at everything in the description that has an ID.
pub(super) fn check(spec: &ProcessSpec, single_id: bool, private: bool) -> Result<(), SandboxError> {
    let known = match (single_id, private) {
        (true, _) => Known::Any,
        (false, true) => Known::Below(private::COUNT),
        (false, false) => Known::Own(IdMap::current()),
    };
    let refuse_unknown = |whose: Whose, id: u32| match known.has(&whose, id) {
        true => Ok(()),
        false => Err(known.refuse(whose, id)),
    };
    refuse_unknown(Whose::User, spec.user.uid)?;
    refuse_unknown(Whose::Group, spec.user.gid)?;
    for group in spec.user.groups.iter().filter(|_| !single_id) {
        refuse_unknown(Whose::Supplementary, *group)?;
    }
    // With one ID all files are everybody's.
    for mount in spec.mounts.iter().filter(|_| !single_id) {
        let owner = match &mount.kind {
            MountKind::Secret { uid, gid, .. } | MountKind::File { uid, gid, .. } => Some((*uid, *gid)),
            _ => mount.owner,
        };
        let Some((uid, gid)) = owner else { continue };
        let target = String::from_utf8_lossy(&mount.target).into_owned();
        refuse_unknown(Whose::MountUser(target.clone()), uid)?;
        refuse_unknown(Whose::MountGroup(target), gid)?;
    }
    Ok(())
}
