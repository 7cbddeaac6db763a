//! Why steps were executed: a build compared with an earlier one of the same Dockerfile, target and platform.
//!
//! A [`BuildRecord`] has what each step was looked up by; the store keeps such records, and `build/` makes them. The
//! first cause of a miss is named and not its consequences: a step that was executed because one before it was names
//! what made that one different. Pure: from records and lists of files to words and data. Never claims that
//! something changed that did not; where the difference is not known, it says so. Values of arguments that look like
//! secrets are never in a record.

mod align;
mod cause;
mod definition;
mod earlier;
mod files;
mod inputs;
mod record;
mod story;
mod text;

pub use cause::{Cause, CauseKind, InputChange};
pub use earlier::{Earlier, Explainer};
pub use files::{FileChange, What};
pub use record::{BuildRecord, PlatformRecord, Shown, Status, StepOutcome, StepRecord, Variable};
pub use story::{Selection, select, story};
pub use text::normal;
