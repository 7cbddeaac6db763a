//! Who processes believe to be where there is one ID only: the rules of credentials(7), without a
//! kernel behind them.

use std::collections::HashMap;
use std::sync::Arc;

use libc::c_long;
use rustix::io::Errno;

/// Leaves an ID as it is.
const KEEP: u32 = u32::MAX;

/// Real, effective and saved ID.
type Triple = [u32; 3];

/// Capabilities by number (linux/capability.h), as far as anything here depends on them.
const CAP_CHOWN: u64 = 1 << 0;
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
const CAP_SETPCAP: u64 = 1 << 8;

/// Bits of `PR_SET_SECUREBITS` (linux/securebits.h). The bit above each of them locks it.
const NO_ROOT: u32 = 1 << 0;
const NO_SETUID_FIXUP: u32 = 1 << 2;
const KEEP_CAPS: u32 = 1 << 4;
const KEEP_CAPS_LOCKED: u32 = 1 << 5;
const SECURE_LOCKS: u32 = 0xaaaa_aaaa;

/// The credentials of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    user: Triple,
    group: Triple,
    groups: Arc<[u32]>,
    /// Capabilities. Bits that the sandbox takes away are not missing here: the kernel sees to those.
    permitted: u64,
    effective: u64,
    secure: u32,
    /// Tells a program from the one that the process executes next.
    program: u64,
}

/// Root's.
impl Default for Credentials {
    fn default() -> Self {
        Credentials {
            user: [0; 3],
            group: [0; 3],
            groups: Arc::default(),
            permitted: u64::MAX,
            effective: u64::MAX,
            secure: 0,
            program: 0,
        }
    }
}

/// What a getter gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The call's result.
    Value(i64),
    /// To be stored where each argument points.
    Three(Triple),
    /// Supplementary groups.
    Groups(Arc<[u32]>),
}

impl Credentials {
    fn has(&self, capability: u64) -> bool {
        self.effective & capability != 0
    }

    /// Whether an owner may be asked for.
    pub(super) fn may_give(&self, uid: u32, gid: u32) -> bool {
        let own_group = gid == KEEP || self.group[1] == gid || self.groups.contains(&gid);
        self.has(CAP_CHOWN) || ((uid == KEEP || uid == self.user[1]) && own_group)
    }

    /// What `execve` of an ordinary program makes of them, if there was one since they were remembered.
    pub(super) fn after_exec(mut self, program: u64) -> Self {
        if self.program == program {
            return self;
        }
        self.program = program;
        self.secure &= !KEEP_CAPS;
        let [real, effective, _] = self.user;
        self.user[2] = effective;
        self.group[2] = self.group[1];
        let root = |id: u32| id == 0 && self.secure & NO_ROOT == 0;
        self.permitted = if root(real) || root(effective) { u64::MAX } else { 0 };
        self.effective = if root(effective) { self.permitted } else { 0 };
        self
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
        let (old, capability) = match call {
            libc::SYS_setuid | libc::SYS_setreuid | libc::SYS_setresuid => (self.user, CAP_SETUID),
            libc::SYS_setgid | libc::SYS_setregid | libc::SYS_setresgid => (self.group, CAP_SETGID),
            _ => return None,
        };
        let capable = self.has(capability);
        let changed = match call {
            libc::SYS_setuid | libc::SYS_setgid => set_one(old, args[0], capable),
            libc::SYS_setreuid | libc::SYS_setregid => set_two(old, args[0], args[1], capable),
            _ => set_three(old, args, capable),
        };
        Some(changed.map(|new| {
            if capability == CAP_SETGID {
                self.group = new;
            } else {
                self.user = new;
                self.fix_capabilities(old);
            }
        }))
    }

    /// What leaving and becoming root does to capabilities (capabilities(7), "Effect of user ID changes").
    fn fix_capabilities(&mut self, old: Triple) {
        if self.secure & NO_SETUID_FIXUP != 0 {
            return;
        }
        if old.contains(&0) && !self.user.contains(&0) && self.secure & KEEP_CAPS == 0 {
            (self.permitted, self.effective) = (0, 0);
        }
        match (old[1], self.user[1]) {
            (0, 0) => {}
            (0, _) => self.effective = 0,
            (_, 0) => self.effective = self.permitted,
            _ => {}
        }
    }

    /// Replaces the supplementary groups.
    pub(super) fn set_groups(&mut self, groups: Vec<u32>) -> Result<(), Errno> {
        if !self.has(CAP_SETGID) {
            return Err(Errno::PERM);
        }
        self.groups = groups.into();
        Ok(())
    }

    /// `PR_SET_KEEPCAPS`.
    pub(super) fn keep_capabilities(&mut self, keep: bool) -> Result<(), Errno> {
        if self.secure & KEEP_CAPS_LOCKED != 0 {
            return Err(Errno::PERM);
        }
        self.secure = if keep { self.secure | KEEP_CAPS } else { self.secure & !KEEP_CAPS };
        Ok(())
    }

    /// `PR_SET_SECUREBITS`.
    pub(super) fn set_secure_bits(&mut self, bits: u32) -> Result<(), Errno> {
        let locked = (self.secure & SECURE_LOCKS) >> 1;
        let unlocks = self.secure & SECURE_LOCKS & !bits != 0;
        if locked & (self.secure ^ bits) != 0 || unlocks || !self.has(CAP_SETPCAP) {
            return Err(Errno::PERM);
        }
        self.secure = bits;
        Ok(())
    }

    /// `capset`.
    pub(super) fn set_capabilities(&mut self, effective: u64, permitted: u64) -> Result<(), Errno> {
        if permitted & !self.permitted != 0 || effective & !permitted != 0 {
            return Err(Errno::PERM);
        }
        (self.effective, self.permitted) = (effective, permitted);
        Ok(())
    }
}

fn set_one(old: Triple, id: u32, capable: bool) -> Result<Triple, Errno> {
    match capable {
        true => Ok([id; 3]),
        false if id == old[0] || id == old[2] => Ok([old[0], id, old[2]]),
        false => Err(Errno::PERM),
    }
}

fn set_two(old: Triple, real: u32, effective: u32, capable: bool) -> Result<Triple, Errno> {
    let allowed =
        (real == KEEP || real == old[0] || real == old[1]) && (effective == KEEP || old.contains(&effective));
    if !capable && !allowed {
        return Err(Errno::PERM);
    }
    let new_real = if real == KEEP { old[0] } else { real };
    let new_effective = if effective == KEEP { old[1] } else { effective };
    let saves = real != KEEP || (effective != KEEP && effective != old[0]);
    Ok([new_real, new_effective, if saves { new_effective } else { old[2] }])
}

fn set_three(old: Triple, wanted: Triple, capable: bool) -> Result<Triple, Errno> {
    if !capable && !wanted.iter().all(|id| *id == KEEP || old.contains(id)) {
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

/// The credentials of all living processes that ever changed theirs. Others have those of the nearest
/// process above that did, or are root.
///
/// What a step can make it hold is bounded: some 10 MiB.
#[derive(Debug, Default)]
pub(super) struct ProcessTable {
    known: HashMap<u32, (u64, Credentials)>,
    /// Of all known processes together.
    groups: usize,
    /// With so many it is time to look for those that have ended.
    crowded: usize,
}

impl ProcessTable {
    const MOST_PROCESSES: usize = 32_768;
    const MOST_GROUPS: usize = 1 << 20;
    /// Below this, nobody looks for processes that have ended.
    const FEW: usize = 256;

    /// Of the first in `line`, which leads from a process up to its ancestors.
    pub(super) fn of(&self, line: impl IntoIterator<Item = Process>) -> Credentials {
        let known = |(pid, start): Process| {
            self.known.get(&pid).filter(|(known, _)| *known == start).map(|(_, who)| who.clone())
        };
        line.into_iter().find_map(known).unwrap_or_default()
    }

    /// Remembers a change; `ENOMEM` if it is too much for one step. `lives` tells whether a process has not
    /// ended.
    pub(super) fn set(
        &mut self,
        (pid, start): Process,
        who: Credentials,
        lives: impl Fn(Process) -> bool,
    ) -> Result<(), Errno> {
        // Not forgotten if there is no room for the new ones: it must not become whoever is above it.
        let old = self.known.remove(&pid);
        self.groups -= old.as_ref().map_or(0, |(_, who)| who.groups.len());
        let added = who.groups.len();
        if self.known.len() >= self.crowded.max(Self::FEW) || !self.has_room(added) {
            self.known.retain(|pid, (start, _)| lives((*pid, *start)));
            self.known.shrink_to_fit();
            self.groups = self.known.values().map(|(_, who)| who.groups.len()).sum();
            self.crowded = 2 * self.known.len();
        }
        let fits = self.has_room(added);
        if let Some((start, who)) = if fits { Some((start, who)) } else { old } {
            self.groups += who.groups.len();
            self.known.insert(pid, (start, who));
        }
        if fits { Ok(()) } else { Err(Errno::NOMEM) }
    }

    fn has_room(&self, groups: usize) -> bool {
        self.known.len() < Self::MOST_PROCESSES && self.groups + groups <= Self::MOST_GROUPS
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
        let mut table = ProcessTable::default();
        let joe = Credentials { user: [7; 3], ..Credentials::default() };
        assert_eq!(table.set((10, 100), joe.clone(), |_| true), Ok(()));
        assert_eq!(table.of([(11, 110), (10, 100), (1, 1)]), joe);
        assert_eq!(table.of([(11, 110), (10, 999), (1, 1)]), Credentials::default());
    }

    #[test]
    fn processes_that_have_ended_are_forgotten() {
        let mut table = ProcessTable::default();
        let crowd = Credentials { groups: (0..65_536).collect(), ..Credentials::default() };
        for pid in 2..10_000 {
            // One that lives, and one that has just ended.
            assert_eq!(table.set((pid, 1), crowd.clone(), |(other, _)| other == 2), Ok(()), "{pid}");
        }
        assert_eq!(table.of([(2, 1)]), crowd);
        assert!(table.known.len() <= 16 && table.groups <= ProcessTable::MOST_GROUPS);
        let mut table = ProcessTable::default();
        for pid in 2..100_000 {
            assert_eq!(table.set((pid, 1), Credentials::default(), |_| false), Ok(()));
        }
        assert!(table.known.len() <= ProcessTable::FEW && table.known.capacity() < 4 * ProcessTable::FEW);
    }

    #[test]
    fn living_processes_are_remembered_up_to_a_limit() {
        let mut table = ProcessTable::default();
        let crowd = Credentials { groups: (0..65_536).collect(), ..Credentials::default() };
        for pid in 0..16 {
            assert_eq!(table.set((pid, 1), crowd.clone(), |_| true), Ok(()));
        }
        assert_eq!(table.set((99, 1), crowd.clone(), |_| true), Err(Errno::NOMEM));
        // Who is refused stays who it is; instead of its older groups, new ones fit.
        let joe = Credentials { user: [7; 3], ..Credentials::default() };
        assert_eq!(table.set((98, 1), joe.clone(), |_| true), Ok(()));
        assert_eq!(
            table.set((98, 1), Credentials { user: [8; 3], ..crowd.clone() }, |_| true),
            Err(Errno::NOMEM)
        );
        assert_eq!(table.of([(98, 1)]), joe);
        assert_eq!(table.set((3, 1), crowd, |_| true), Ok(()));
        let mut table = ProcessTable::default();
        let ended = (0..100_000).find(|pid| table.set((*pid, 1), Credentials::default(), |_| true).is_err());
        assert_eq!(ended, Some(ProcessTable::MOST_PROCESSES as u32));
    }

    /// As `setpriv --reuid --regid` does it, and what is left of it for the next program.
    #[test]
    fn kept_capabilities_outlive_the_user_but_not_the_program() {
        let mut who = Credentials::default();
        assert_eq!(who.keep_capabilities(true), Ok(()));
        assert_eq!(who.set(libc::SYS_setresuid, [6; 3]), Some(Ok(())));
        // They are permitted, and do not count until they are raised.
        assert_eq!(who.set(libc::SYS_setresgid, [12; 3]), Some(Err(Errno::PERM)));
        assert_eq!(who.set_capabilities(CAP_SETGID, CAP_SETGID | CAP_SETUID), Ok(()));
        assert_eq!(who.set(libc::SYS_setresgid, [12; 3]), Some(Ok(())));
        assert_eq!(who.set_groups(Vec::new()), Ok(()));
        assert_eq!(who.set(libc::SYS_setuid, [0; 3]), Some(Err(Errno::PERM)));
        assert_eq!(who.set_capabilities(u64::MAX, u64::MAX), Err(Errno::PERM));
        let mut next = who.after_exec(1);
        assert_eq!(next.set(libc::SYS_setgid, [0; 3]), Some(Err(Errno::PERM)));
        assert_eq!(next.set_capabilities(CAP_SETGID, CAP_SETGID), Err(Errno::PERM));
        assert!(!next.may_give(0, 0));
    }

    #[test]
    fn without_keeping_them_capabilities_end_with_the_user() {
        let mut who = Credentials::default();
        assert_eq!(who.set(libc::SYS_setresuid, [6; 3]), Some(Ok(())));
        assert_eq!(who.set_capabilities(CAP_SETGID, CAP_SETGID), Err(Errno::PERM));
        assert_eq!(who.set_secure_bits(NO_SETUID_FIXUP), Err(Errno::PERM));
        let mut who = Credentials::default();
        let locked = KEEP_CAPS_LOCKED | NO_SETUID_FIXUP;
        assert_eq!(who.set_secure_bits(locked), Ok(()));
        assert_eq!(who.keep_capabilities(true), Err(Errno::PERM));
        assert_eq!(who.set_secure_bits(NO_SETUID_FIXUP), Err(Errno::PERM));
        assert_eq!(who.set(libc::SYS_setresuid, [6; 3]), Some(Ok(())));
        assert_eq!(who.set(libc::SYS_setresgid, [6; 3]), Some(Ok(())));
        let next = who.after_exec(1);
        assert_eq!((next.permitted, next.effective), (0, 0));
    }

    #[test]
    fn the_effective_user_decides_about_capabilities() {
        let mut who = Credentials::default();
        assert_eq!(who.set(libc::SYS_setreuid, [KEEP, 7, 0]), Some(Ok(())));
        assert_eq!(who.set_groups(Vec::new()), Err(Errno::PERM));
        assert_eq!(who.set(libc::SYS_setreuid, [KEEP, 0, 0]), Some(Ok(())));
        assert_eq!(who.set_groups(Vec::new()), Ok(()));
        assert_eq!(who.set(libc::SYS_setreuid, [KEEP, 7, 0]), Some(Ok(())));
        // The next program cannot go back by the saved ID, but the real one is still root's.
        let mut next = who.after_exec(1);
        assert_eq!(next.user, [0, 7, 7]);
        assert_eq!(next.set(libc::SYS_setuid, [0; 3]), Some(Ok(())));
        assert!(next.may_give(1, 1));
    }
}
