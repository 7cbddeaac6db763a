//! AST, arguments, target and base configs to a graph of steps. Pure: no I/O, no clock, no
//! environment; the same input gives the same plan.
//!
//! Owns what instructions mean for each other: variable scope, stages, what is reachable, how a base's
//! config is inherited and changed, what history says. Where a base image's config is needed and
//! unknown, the answer is which ones; the caller gets them and asks again. Must never look at files.

mod chmod;
mod config;
mod definition;
mod duration;
mod epoch;
mod error;
mod graph;
mod render;
mod resolve;
mod scope;
mod stage;

pub use chmod::Chmod;
pub use epoch::{Epoch, EpochSource, epoch};
pub use error::{PlanError, PlanWarning};
pub use graph::{
    Base, BaseId, CopyOrigin, CopyStep, Device, FromStep, HOST_GATEWAY, InlineFile, Plan, RemoteSource,
    RunMount, RunMountKind, RunNetwork, RunStep, Script, Sharing, StageHistory, StagePlan, Step, StepId,
    StepKind, WorkdirStep,
};
pub use render::{dot, json, text};
pub use resolve::{BaseConfigs, ContextKind, Entitlements, ImageRequest, PlanInput, Planned, plan};

#[cfg(test)]
mod tests;
