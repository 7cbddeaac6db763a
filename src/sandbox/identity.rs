//! Who processes believe to be where there is one ID only: the rules of credentials(7), without a
//! kernel behind them.

use std::collections::HashMap;

use libc::c_long;
use rustix::io::Errno;

/// Leaves an ID as it is.
const KEEP: u32 = u32::MAX;

/// Real, effective and saved ID.
type Triple = [u32; 3];

/// The credentials of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    user: Triple,
    group: Triple,
    groups: Vec<u32>,
}

/// What a getter gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The call's result.
    Value(i64),
    /// To be stored where each argument points.
    Three(Triple),
    /// Supplementary groups.
    Groups(Vec<u32>),
}

impl Credentials {
    /// Whether it may do what only root may.
    pub(super) fn is_root(&self) -> bool {
        self.user[1] == 0
    }

    /// Whether an owner may be asked for by somebody who is not root.
    pub(super) fn may_give(&self, uid: u32, gid: u32) -> bool {
        let own_group = gid == KEEP || self.group[1] == gid || self.groups.contains(&gid);
        self.is_root() || ((uid == KEEP || uid == self.user[1]) && own_group)
    }

    /// Answers a call that asks.
    pub(super) fn get(&self, call: c_long) -> Option<Reply> {
        Some(match call {
            libc::SYS_getuid => Reply::Value(self.user[0].into()),
            libc::SYS_geteuid => Reply::Value(self.user[1].into()),
            libc::SYS_getgid => Reply::Value(self.group[0].into()),
            libc::SYS_getegid => Reply::Value(self.group[1].into()),
            libc::SYS_getresuid => Reply::Three(self.user),
            libc::SYS_getresgid => Reply::Three(self.group),
            libc::SYS_getgroups => Reply::Groups(self.groups.clone()),
            _ => return None,
        })
    }

    /// Does a call that changes; `args` are its arguments.
    pub(super) fn set(&mut self, call: c_long, args: [u32; 3]) -> Option<Result<(), Errno>> {
        let root = self.is_root();
        let ids = match call {
            libc::SYS_setuid | libc::SYS_setreuid | libc::SYS_setresuid => &mut self.user,
            libc::SYS_setgid | libc::SYS_setregid | libc::SYS_setresgid => &mut self.group,
            _ => return None,
        };
        let changed = match call {
            libc::SYS_setuid | libc::SYS_setgid => set_one(*ids, args[0], root),
            libc::SYS_setreuid | libc::SYS_setregid => set_two(*ids, args[0], args[1], root),
            _ => set_three(*ids, args, root),
        };
        Some(changed.map(|new| *ids = new))
    }

    /// Replaces the supplementary groups.
    pub(super) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.is_root() {
            return Err(Errno::PERM);
        }
        self.groups = groups;
        Ok(())
    }
}

fn set_one(old: Triple, id: u32, root: bool) -> Result<Triple, Errno> {
    match root {
        true => Ok([id; 3]),
        false if id == old[0] || id == old[2] => Ok([old[0], id, old[2]]),
        false => Err(Errno::PERM),
    }
}

fn set_two(old: Triple, real: u32, effective: u32, root: bool) -> Result<Triple, Errno> {
    let allowed =
        (real == KEEP || real == old[0] || real == old[1]) && (effective == KEEP || old.contains(&effective));
    if !root && !allowed {
        return Err(Errno::PERM);
    }
    let new_real = if real == KEEP { old[0] } else { real };
    let new_effective = if effective == KEEP { old[1] } else { effective };
    let saves = real != KEEP || (effective != KEEP && effective != old[0]);
    Ok([new_real, new_effective, if saves { new_effective } else { old[2] }])
}

fn set_three(old: Triple, wanted: Triple, root: bool) -> Result<Triple, Errno> {
    if !root && !wanted.iter().all(|id| *id == KEEP || old.contains(id)) {
        return Err(Errno::PERM);
    }
    let mut new = old;
    for (new, wanted) in new.iter_mut().zip(wanted) {
        if wanted != KEEP {
            *new = wanted;
        }
    }
    Ok(new)
}

/// A process: its number and when it started, since numbers come back.
pub(super) type Process = (u32, u64);

/// The credentials of all processes that ever changed theirs. Others have those of the nearest process
/// above that did, or are root.
#[derive(Debug, Default)]
pub(super) struct Census {
    known: HashMap<u32, (u64, Credentials)>,
}

impl Census {
    /// Of the first in `line`, which leads from a process up to its ancestors.
    pub(super) fn of(&self, line: impl IntoIterator<Item = Process>) -> Credentials {
        let known = |(pid, start): Process| {
            self.known.get(&pid).filter(|(known, _)| *known == start).map(|(_, who)| who.clone())
        };
        line.into_iter().find_map(known).unwrap_or_default()
    }

    /// Remembers a change.
    pub(super) fn set(&mut self, (pid, start): Process, who: Credentials) {
        self.known.insert(pid, (start, who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_privileges_cannot_be_regained() {
        let mut who = Credentials::default();
        assert_eq!(who.set_groups(vec![65_534]), Ok(()));
        assert_eq!(who.set(libc::SYS_setresgid, [65_534; 3]), Some(Ok(())));
        assert_eq!(who.set(libc::SYS_setresuid, [42; 3]), Some(Ok(())));
        assert_eq!(who.get(libc::SYS_getegid), Some(Reply::Value(65_534)));
        assert_eq!(who.get(libc::SYS_getresuid), Some(Reply::Three([42; 3])));
        assert_eq!(who.set(libc::SYS_setgid, [0; 3]), Some(Err(Errno::PERM)));
        assert_eq!(who.set(libc::SYS_setuid, [0; 3]), Some(Err(Errno::PERM)));
        assert_eq!(who.set(libc::SYS_setreuid, [KEEP, 0, 0]), Some(Err(Errno::PERM)));
        assert_eq!(who.set_groups(Vec::new()), Err(Errno::PERM));
        assert!(!who.may_give(0, 0) && who.may_give(42, 65_534) && who.may_give(KEEP, KEEP));
    }

    #[test]
    fn a_saved_id_leads_back() {
        let mut who = Credentials::default();
        assert_eq!(who.set(libc::SYS_setreuid, [KEEP, 7, 0]), Some(Ok(())));
        assert_eq!(who.user, [0, 7, 7]);
        assert_eq!(who.set(libc::SYS_setuid, [0; 3]), Some(Ok(())));
        assert_eq!(who.user, [0, 0, 7]);
        assert_eq!(who.set(libc::SYS_setresuid, [7, 0, KEEP]), Some(Ok(())));
        assert_eq!(who.user, [7, 0, 7]);
    }

    #[test]
    fn children_take_after_their_parents_and_numbers_may_come_back() {
        let mut census = Census::default();
        let joe = Credentials { user: [7; 3], ..Credentials::default() };
        census.set((10, 100), joe.clone());
        assert_eq!(census.of([(11, 110), (10, 100), (1, 1)]), joe);
        assert_eq!(census.of([(11, 110), (10, 999), (1, 1)]), Credentials::default());
    }
}
