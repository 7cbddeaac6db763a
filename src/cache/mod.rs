//! Cache keys, and the records found under them.
//!
//! A [`CacheKey`] is the digest of a [`KeyInputs`]: what the step is, the content identity of what it
//! stands on, and the content digests of what it reads. Never time, host paths or modification times.
//! The inputs are kept beside the result, so that a miss can be explained by comparing them with
//! those of an earlier build. Must never decide what a step means; that is `plan/`'s and `steps/`'.

mod key;
mod record;

pub use key::{CacheKey, Input, KeyInputs};
pub use record::{Record, Records};
