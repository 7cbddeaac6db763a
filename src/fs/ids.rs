//! Which user and group IDs this process can give to files: those that its user namespace maps.

use std::fs;
use std::sync::OnceLock;

use rustix::fs::CWD;

/// What the kernel shows for owners that are not mapped, and what stands for them on disk.
const OVERFLOW: u32 = 65_534;
/// `/proc/self/ns/user` of every process that is in no user namespace (linux/proc_ns.h).
const INITIAL: &[u8] = b"user:[4026531837]";

/// The IDs of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// IDs from `first` on, and which ones of the namespace outside they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    outside: u32,
    count: u32,
}

impl IdMap {
    /// That of this process. It is read once, when it is first needed.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<IdMap> = OnceLock::new();
        CURRENT.get_or_init(|| {
            let namespace = rustix::fs::readlinkat(CWD, c"/proc/self/ns/user", Vec::new());
            if namespace.is_ok_and(|name| name.as_bytes() == INITIAL) {
                return Self::full();
            }
            // Without /proc nothing is known, and the kernel says what it cannot do.
            let read =
                |file: &str| fs::read_to_string(file).map_or_else(|_| Self::all(), |text| parse(&text));
            IdMap { users: read("/proc/self/uid_map"), groups: read("/proc/self/gid_map") }
        })
    }

    fn all() -> Vec<Range> {
        vec![Range { first: 0, outside: 0, count: u32::MAX }]
    }

    fn full() -> Self {
        IdMap { users: Self::all(), groups: Self::all() }
    }

    /// Whether every ID is mapped, to itself.
    pub fn is_full(&self) -> bool {
        *self == Self::full()
    }

    /// Whether there is one user only, or one group only.
    pub fn is_single(&self) -> bool {
        count(&self.users) <= 1 || count(&self.groups) <= 1
    }

    /// Whether files can belong to a user.
    pub fn has_user(&self, id: u32) -> bool {
        has(&self.users, id)
    }

    /// Whether files can belong to a group.
    pub fn has_group(&self, id: u32) -> bool {
        has(&self.groups, id)
    }

    /// The user on disk of files that belong to one who is not mapped: `nobody`, or where that is not
    /// mapped either, the highest there is.
    pub fn user_on_disk(&self, id: u32) -> u32 {
        on_disk(&self.users, id)
    }

    /// The same for groups.
    pub fn group_on_disk(&self, id: u32) -> u32 {
        on_disk(&self.groups, id)
    }

    /// The users as text: `0-65536`.
    pub fn users(&self) -> String {
        show(&self.users)
    }

    /// The groups as text.
    pub fn groups(&self) -> String {
        show(&self.groups)
    }

    /// All that decides which owner on disk stands for which owner in an image.
    pub fn identity(&self) -> String {
        let text = |ranges: &[Range]| {
            let each =
                ranges.iter().map(|range| format!("{}:{}:{}", range.first, range.outside, range.count));
            each.collect::<Vec<_>>().join(",")
        };
        format!("{}/{}", text(&self.users), text(&self.groups))
    }
}

fn parse(text: &str) -> Vec<Range> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(Range { first: next()?, outside: next()?, count: next()? })
    };
    text.lines().filter_map(line).collect()
}

fn count(ranges: &[Range]) -> u64 {
    ranges.iter().map(|range| u64::from(range.count)).sum()
}

fn has(ranges: &[Range], id: u32) -> bool {
    ranges.iter().any(|range| id.checked_sub(range.first).is_some_and(|at| at < range.count))
}

fn on_disk(ranges: &[Range], id: u32) -> u32 {
    if has(ranges, id) {
        return id;
    }
    let highest =
        ranges.iter().filter_map(|range| range.first.checked_add(range.count.checked_sub(1)?)).max();
    if has(ranges, OVERFLOW) { OVERFLOW } else { highest.unwrap_or(0) }
}

fn show(ranges: &[Range]) -> String {
    let mut sorted: Vec<Range> = ranges.iter().copied().filter(|range| range.count > 0).collect();
    sorted.sort_by_key(|range| range.first);
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for range in sorted {
        let (first, end) = (u64::from(range.first), u64::from(range.first) + u64::from(range.count));
        match joined.last_mut() {
            Some((_, last)) if *last == first => *last = end,
            _ => joined.push((first, end)),
        }
    }
    let one = |(first, end): &(u64, u64)| match end - 1 {
        last if last == *first => first.to_string(),
        last => format!("{first}-{last}"),
    };
    joined.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> IdMap {
        IdMap { users: parse(text), groups: parse(text) }
    }

    #[test]
    fn subordinate_ids_follow_the_users_own() {
        let sub = map("         0       1000          1\n         1     100000      65536\n");
        assert!(sub.has_user(0) && sub.has_user(65_536) && !sub.has_user(65_537));
        assert_eq!(
            (sub.users(), sub.user_on_disk(33), sub.group_on_disk(70_000)),
            ("0-65536".into(), 33, 65_534)
        );
        assert!(!sub.is_full() && !sub.is_single());
        assert_eq!(sub.identity(), "0:1000:1,1:100000:65536/0:1000:1,1:100000:65536");
    }

    #[test]
    fn small_namespaces_have_their_highest_id_stand_for_others() {
        assert_eq!(map("0 200000 6").user_on_disk(1000), 5);
        assert_eq!(map("0 200000 1").user_on_disk(1000), 0);
        assert!(map("0 200000 1").is_single());
        assert_eq!(map("0 5 2\n7 9 1\n").users(), "0-1, 7");
        assert_eq!(map("").user_on_disk(3), 0);
    }

    #[test]
    fn outside_of_user_namespaces_there_is_every_id_but_the_last_number() {
        let full = map("0 0 4294967295");
        assert!(full.is_full() && full.has_user(u32::MAX - 1) && !full.has_user(u32::MAX));
        assert!(!map("0 1 4294967294").is_full());
    }
}
