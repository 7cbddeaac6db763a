//! The collection that happens by itself: at most once a day, after a build, where the store is large.

use std::time::{Duration, SystemTime};

use crate::cancel::Cancel;
use crate::store::{Store, StoreError};

use super::collect::{Collected, select, sweep};
use super::policy::{Filter, Kind, Policy, Space};
use super::survey::Survey;

const DAY: Duration = Duration::from_secs(24 * 3600);
const GB: u64 = 1_000_000_000;
/// Below this nothing is collected, as in BuildKit's first rule.
const SMALL: u64 = 512 * 1_000_000;
/// The store may take so many percent of its disk, at most [`MOST`]; so many percent of the disk must
/// stay free; and a store of so many percent, at most [`RESERVED`], is left alone. The figures are those
/// BuildKit takes where nothing is configured.
const PERCENT: (u64, u64, u64) = (80, 20, 10);
const MOST: u64 = 100 * GB;
const RESERVED: u64 = 10 * GB;

/// Whether a day has passed since the last collection. Costs one look at one file.
pub fn is_due(store: &Store) -> bool {
    match store.last_collection() {
        Some(last) => SystemTime::now().duration_since(last).is_ok_and(|idle| idle > DAY),
        // The day begins with the first build.
        None => {
            let _ = store.collector(Duration::ZERO);
            false
        }
    }
}

/// The limits for a disk of `total` bytes.
fn limits(total: u64) -> Space {
    let percent = |part: u64| total / 100 * part;
    Space {
        max_used: percent(PERCENT.0).min(MOST),
        min_free: percent(PERCENT.1),
        reserved: percent(PERCENT.2).min(RESERVED),
    }
}

/// What goes by itself, in this order: what was read from elsewhere and not used for two days; results
/// not used for sixty; then the oldest, until the store keeps its limits. Cache mounts count with the
/// sources, as in BuildKit.
fn rules(space: Space) -> [Policy; 3] {
    let days = |count: u32| Some(DAY.saturating_mul(count));
    let sources = [Kind::CacheMount, Kind::Git, Kind::Local].map(Filter::Type).to_vec();
    [
        Policy { unused_for: days(2), filters: sources, ..Policy::default() },
        Policy { unused_for: days(60), ..Policy::default() },
        Policy { space, ..Policy::default() },
    ]
}

/// Collects if that is due and nobody else does. Gives what went, if anything was looked at.
pub fn automatic(store: &Store, cancel: &Cancel) -> Result<Option<Collected>, StoreError> {
    if !is_due(store) {
        return Ok(None);
    }
    let Ok(collector) = store.collector(Duration::ZERO) else { return Ok(None) };
    collector.note_collection();
    let space = crate::fs::disk_space(store.root()).map(|(total, _)| limits(total)).unwrap_or_default();
    let mut all = Collected::default();
    for policy in rules(space) {
        // Each rule sees what the one before has left.
        let survey = Survey::take(store, true)?;
        if survey.total() < SMALL {
            break;
        }
        let chosen = select(&survey, &policy, SystemTime::now(), super::collect::free_space(store));
        let done = sweep(&collector, &survey, &chosen, cancel);
        for (room, removed) in done.removed {
            let entry = all.removed.entry(room).or_default();
            entry.count += removed.count;
            entry.bytes += removed.bytes;
        }
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_size_of_the_disk_up_to_a_point() {
        let small = limits(10 * GB);
        assert_eq!((small.max_used, small.min_free, small.reserved), (8 * GB, 2 * GB, GB));
        let large = limits(4000 * GB);
        assert_eq!((large.max_used, large.min_free, large.reserved), (100 * GB, 800 * GB, 10 * GB));
    }

    #[test]
    fn a_new_store_is_due_only_after_a_day() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        assert!(!is_due(&store) && !is_due(&store));
        let mark = std::fs::File::options().write(true).open(dir.path().join("collect"))?;
        mark.set_modified(SystemTime::now() - DAY - Duration::from_secs(60))?;
        assert!(is_due(&store));
        let cancel = Cancel::new()?;
        // A process that another test starts holds the lock too, until it becomes its program.
        let collected = (0..250).find_map(|_| match automatic(&store, &cancel) {
            Ok(None) => {
                std::thread::sleep(Duration::from_millis(20));
                None
            }
            other => Some(other),
        });
        assert!(collected.is_some_and(|collected| collected.is_ok()));
        assert!(!is_due(&store));
        Ok(())
    }
}
