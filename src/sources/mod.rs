//! Which sources a build may read, and what they resolve to: locks, policies, builds without a network.
//!
//! Owns the format of `Dockerfile.lock` and the rules that every base, named context, git address and download
//! passes before anything is asked for it. Promises that what a rule forbids is forbidden before the first byte,
//! and that what a lock pins is what is read. Must never fetch anything itself, and knows no Dockerfile: whoever
//! asks adds the place.

pub mod lock;
pub mod policy;
mod rules;
pub mod vendor;

#[cfg(test)]
mod lock_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod rules_tests;

pub use lock::{Change, Lock, LockError, LockedGit, LockedImage};
pub use rules::{
    LoadedLock, LockUse, Locking, Rules, SourceOptions, WantedFile, WantedGit, WantedImage, offline,
};
pub use vendor::Vendor;
