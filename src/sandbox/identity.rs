//! Who processes believe to be where there is one ID only: the rules of credentials(7), without a
//! kernel behind them.

use std::collections::{HashMap, HashSet};
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

/// A number that a process has as its limit of file locks, which the kernel has ignored since Linux 2.4.25. It
/// hands the limit to children and keeps it when the process executes a program or loses its parent. Nobody but
/// root of the machine can raise the hard limit, so each change gets a smaller number than the last.
pub(super) type Badge = u64;

/// The credentials of the processes that changed theirs, by their badges. Without a known badge a process is
/// root, in the groups that the step began with.
///
/// What a step can make it hold is bounded: some 10 MiB.
#[derive(Debug)]
pub(super) struct Identities {
    known: HashMap<Badge, Credentials>,
    /// Of processes without a known badge.
    first: Credentials,
    /// Of all known credentials together.
    groups: usize,
    /// With so many it is time to look for those that no process has any more.
    crowded: usize,
    /// Smaller than all badges so far, except those of processes that lowered their limit.
    last: Badge,
}

impl Default for Identities {
    fn default() -> Self {
        Identities {
            known: HashMap::new(),
            first: Credentials::default(),
            groups: 0,
            crowded: 0,
            last: Badge::MAX,
        }
    }
}

impl Identities {
    const MOST: usize = 32_768;
    const MOST_GROUPS: usize = 1 << 20;
    /// Below this, nobody looks for unused ones.
    const FEW: usize = 256;

    /// For processes that begin with these supplementary groups.
    pub(super) fn beginning_in(groups: &[u32]) -> Self {
        Identities {
            first: Credentials { groups: groups.into(), ..Credentials::default() },
            ..Self::default()
        }
    }

    pub(super) fn of(&self, badge: Badge) -> Credentials {
        self.known.get(&badge).cloned().unwrap_or_else(|| self.first.clone())
    }

    /// Gives a new badge to wear instead of the old one; `ENOMEM` if it is too much for one step. `worn` finds
    /// the badges of all processes.
    pub(super) fn add(
        &mut self,
        old: Badge,
        who: Credentials,
        worn: impl FnOnce() -> Result<HashSet<Badge>, Errno>,
    ) -> Result<Badge, Errno> {
        if self.known.len() >= self.crowded.max(Self::FEW) || !self.has_room(who.groups.len()) {
            let worn = worn()?;
            self.known.retain(|badge, _| worn.contains(badge));
            self.known.shrink_to_fit();
            self.groups = self.known.values().map(|who| who.groups.len()).sum();
            self.crowded = 2 * self.known.len();
        }
        if !self.has_room(who.groups.len()) {
            return Err(Errno::NOMEM);
        }
        let free = |badge: &Badge| !self.known.contains_key(badge);
        let new = (0..self.last.min(old)).rev().find(free).ok_or(Errno::NOMEM)?;
        if old >= self.last {
            self.last = new;
        }
        self.groups += who.groups.len();
        self.known.insert(new, who);
        Ok(new)
    }

    fn has_room(&self, groups: usize) -> bool {
        self.known.len() < Self::MOST && self.groups + groups <= Self::MOST_GROUPS
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

    const NONE: fn() -> Result<HashSet<Badge>, Errno> = || Ok(HashSet::new());

    #[test]
    fn each_change_gets_a_smaller_badge() {
        let mut table = Identities::default();
        let user = |id| Credentials { user: [id; 3], ..Credentials::default() };
        assert_eq!(table.of(Badge::MAX), Credentials::default());
        let joe = table.add(Badge::MAX, user(7), NONE).expect("a badge");
        let jane = table.add(Badge::MAX, user(8), NONE).expect("a badge");
        let ann = table.add(joe, user(9), NONE).expect("a badge");
        assert!(joe < Badge::MAX && jane < Badge::MAX && ann < joe && ann != jane);
        assert_eq!([joe, jane, ann].map(|badge| table.of(badge).user[0]), [7, 8, 9]);
    }

    #[test]
    fn a_lowered_limit_uses_up_no_badges_of_others() {
        let mut table = Identities::default();
        let who = Credentials::default();
        assert_eq!(table.add(2, who.clone(), NONE), Ok(1));
        assert_eq!(table.add(2, who.clone(), NONE), Ok(0));
        assert_eq!(table.add(2, who.clone(), NONE), Err(Errno::NOMEM));
        assert_eq!(table.add(Badge::MAX, who, NONE), Ok(Badge::MAX - 1));
    }

    #[test]
    fn badges_that_nobody_wears_are_forgotten() {
        let mut table = Identities::default();
        let crowd = Credentials { groups: (0..65_536).collect(), ..Credentials::default() };
        let first = table.add(Badge::MAX, crowd.clone(), NONE).expect("a badge");
        for _ in 0..10_000 {
            assert!(table.add(Badge::MAX, crowd.clone(), || Ok([first].into())).is_ok());
        }
        assert_eq!(table.of(first), crowd);
        assert!(table.known.len() <= 16 && table.groups <= Identities::MOST_GROUPS);
        let mut table = Identities::default();
        for _ in 0..100_000 {
            assert!(table.add(Badge::MAX, Credentials::default(), NONE).is_ok());
        }
        assert!(table.known.len() <= Identities::FEW && table.known.capacity() < 4 * Identities::FEW);
    }

    #[test]
    fn identities_are_remembered_up_to_a_limit() {
        let mut table = Identities::default();
        let mut worn = HashSet::new();
        let crowd = Credentials { groups: (0..65_536).collect(), ..Credentials::default() };
        for _ in 0..16 {
            worn.insert(table.add(Badge::MAX, crowd.clone(), || Ok(worn.clone())).expect("a badge"));
        }
        assert_eq!(table.add(Badge::MAX, crowd.clone(), || Ok(worn.clone())), Err(Errno::NOMEM));
        // Forgetting all of them because nobody can look would make everybody root.
        assert_eq!(table.add(Badge::MAX, crowd.clone(), || Err(Errno::MFILE)), Err(Errno::MFILE));
        assert!(worn.iter().all(|badge| table.of(*badge) == crowd));
        let joe = Credentials { user: [7; 3], ..Credentials::default() };
        let badge = table.add(Badge::MAX, joe.clone(), || Ok(worn.clone())).expect("a badge");
        assert_eq!(table.of(badge), joe);
        let (mut table, mut worn) = (Identities::default(), HashSet::new());
        let mut more = || {
            let badge = table.add(Badge::MAX, Credentials::default(), || Ok(worn.clone()))?;
            worn.insert(badge);
            Ok::<_, Errno>(badge)
        };
        assert_eq!((0..100_000).find(|_| more().is_err()), Some(Identities::MOST));
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
