//! The time that `SOURCE_DATE_EPOCH` refers to, where that is a source.

use std::collections::BTreeMap;

use crate::event::Events;
use crate::plan::{Epoch, EpochSource};

use super::contexts::Fetcher;
use super::failure::Failure;

/// Whether the time matters, and may be asked for elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Times {
    Resolved,
    Unknown,
}

/// Times of sources that are here already, in seconds since 1970.
pub(super) struct OwnTimes {
    pub context: Option<i64>,
    /// By name, in lower case.
    pub named: BTreeMap<String, Option<i64>>,
}

/// The text that takes the place of a value which refers to a source: seconds, or nothing where the source
/// has no time. `None` for other values.
pub(super) fn resolve(
    epoch: &Epoch,
    own: &OwnTimes,
    times: Times,
    fetch: &mut Fetcher<'_>,
    events: &Events,
) -> Result<Option<String>, Failure> {
    let time = match &epoch.of {
        EpochSource::Seconds(_) | EpochSource::None => return Ok(None),
        EpochSource::Context => own.context,
        EpochSource::Named(name) => own.named.get(name).copied().flatten(),
        EpochSource::Stage { .. } if times == Times::Unknown => return Ok(Some(String::new())),
        EpochSource::Stage { remote, place } => {
            fetch.time_of(remote).map_err(|failure| failure.at(&place.0, place.1))?
        }
    };
    if time.is_none() && times == Times::Resolved {
        events.warn(format!(
            "SOURCE_DATE_EPOCH={}: the source has no time of its own, so none is set",
            epoch.value
        ));
    }
    Ok(Some(time.map(|time| time.to_string()).unwrap_or_default()))
}
