//! What of a store is needed, what may go, and whether all of it is whole.
//!
//! [`Survey`] reads the store into things and the references between them. [`select`] says what goes
//! under a [`Policy`]; [`collect`] takes it away, referrers first, so that whatever stops it, nothing
//! that is left refers to what is gone. [`check`] looks for damage. Builds go on meanwhile (see the
//! store's gate). Must never remove what an image name leads to.

mod automatic;
mod check;
mod collect;
mod content;
mod policy;
mod survey;
#[cfg(test)]
mod tests;
mod usage;

pub use automatic::{automatic, is_due};
pub use check::{CheckOptions, CheckReport, Finding, check};
pub use collect::{Collected, Removed, collect, select};
pub use policy::{Filter, Kind, Policy, Space};
pub use survey::{Survey, Thing};
pub use usage::{KindUsage, ThingUsage, Usage, usage};
