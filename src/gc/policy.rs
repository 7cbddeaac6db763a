//! What a collection may take, and when it stops.

use std::time::Duration;

use crate::store::{Item, Room};

const HOUR: Duration = Duration::from_secs(3600);
/// How long results of steps stay that no image name leads to.
const RESULTS: Duration = HOUR.saturating_mul(24 * 7);
/// How long what was read from elsewhere stays; BuildKit's first rule has the same figure.
const SOURCES: Duration = HOUR.saturating_mul(48);

/// Kinds of things, by the names that `docker buildx prune --filter type=` gives them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Images, layers and cache records.
    Regular,
    /// Directories of cache mounts.
    CacheMount,
    /// Copies of git repositories.
    Git,
    /// What is known of build contexts.
    Local,
    /// Builds that are remembered.
    Build,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Regular, Kind::CacheMount, Kind::Git, Kind::Local, Kind::Build];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Regular => "regular",
            Kind::CacheMount => "exec.cachemount",
            Kind::Git => "source.git.checkout",
            Kind::Local => "source.local",
            Kind::Build => "build.history",
        }
    }

    /// The kind of the things in a room.
    pub fn of(room: Room) -> Self {
        match room {
            Room::Mounts => Kind::CacheMount,
            Room::Git => Kind::Git,
            Room::Stat => Kind::Local,
            Room::Builds => Kind::Build,
            _ => Kind::Regular,
        }
    }
}

/// Narrows a collection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filter {
    /// Things whose name begins so.
    Id(String),
    /// Things of this kind.
    Type(Kind),
}

/// Limits for the size of a store, in bytes; 0 is no limit. As in BuildKit, the store is brought
/// below `max_used` and so far down that `min_free` bytes of the disk are free, but not below
/// `reserved`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Space {
    /// The store may have so many.
    pub max_used: u64,
    /// So many bytes of the disk must be free.
    pub min_free: u64,
    /// The store may always keep so many.
    pub reserved: u64,
}

impl Space {
    /// Whether any limit is set.
    pub fn is_set(&self) -> bool {
        *self != Space::default()
    }

    /// To how many bytes a store of `total` is brought where the disk has `free` left; `None` is all
    /// that may go.
    pub fn keep(&self, total: u64, free: u64) -> Option<u64> {
        if !self.is_set() {
            return None;
        }
        let mut keep = if self.max_used > 0 { Some(self.max_used) } else { None };
        let lacking = self.min_free.saturating_sub(free);
        if lacking > 0 {
            let below = total.saturating_sub(lacking);
            keep = Some(keep.map_or(below, |keep| keep.min(below)));
        }
        // With enough free and nothing else asked for, only the reservation speaks.
        let nothing_asked = if self.reserved > 0 && self.min_free == 0 { 0 } else { total };
        Some(keep.unwrap_or(nothing_asked).max(self.reserved))
    }
}

/// What a collection may take. Things that an image name leads to stay in any case.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Everything, cache mounts too, however young.
    pub all: bool,
    /// Only what was not used for so long.
    pub unused_for: Option<Duration>,
    /// Narrowing: of filters of one sort one must fit, of each sort.
    pub filters: Vec<Filter>,
    /// Only as much as these limits want, what was unused longest first.
    pub space: Space,
}

impl Policy {
    /// For how long a thing of this room must have been unused.
    pub(super) fn age(&self, room: Room) -> Duration {
        match (self.unused_for, room) {
            (Some(age), _) => age,
            (None, _) if self.all || self.space.is_set() || !self.filters.is_empty() => Duration::ZERO,
            (None, Room::Git | Room::Stat) => SOURCES,
            (None, _) => RESULTS,
        }
    }

    /// Whether a thing is among those meant, whatever its age.
    pub(super) fn means(&self, item: &Item) -> bool {
        if item.room == Room::Refs {
            return false;
        }
        // A cache mount is somebody's work over many builds: it goes when it is meant.
        if item.room == Room::Mounts && !self.all && self.filters.is_empty() {
            return false;
        }
        let (mut ids, mut kinds) = (None, None);
        for filter in &self.filters {
            match filter {
                Filter::Id(id) => *ids.get_or_insert(false) |= item.name.starts_with(id.as_str()),
                Filter::Type(kind) => *kinds.get_or_insert(false) |= *kind == Kind::of(item.room),
            }
        }
        ids.unwrap_or(true) && kinds.unwrap_or(true)
    }
}
