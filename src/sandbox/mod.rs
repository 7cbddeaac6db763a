//! A process in an isolated root file system: a description goes in, an exit status comes out.
//!
//! Owns namespaces, mounts, capabilities, system call filtering and the processes themselves.
//! Promises that nothing a process does reaches outside its root and mounts, that no mount point
//! made for it appears in what it leaves behind, and that its whole tree of processes dies with it,
//! with a cancellation, a timeout, or the death of this process. Must never know images or layers.

pub mod apparmor;
mod cgroup;
mod child;
mod chroot;
mod clone;
mod confine;
mod emulation;
mod fallback;
mod identity;
mod init;
mod lifeline;
mod lines;
mod mounts;
mod native;
mod network;
mod oci;
mod prepare;
mod private;
mod probe;
mod program;
mod request;
mod seccomp;
mod signals;
mod spec;
mod streams;
mod supervisor;
mod sys;
mod syscalls;
mod terminal;
pub mod userns;

pub use apparmor::AppArmor;
pub use chroot::Chroot;
pub use confine::{Confinement, landlock_abi};
pub use emulation::obstacle;
pub use native::Native;
pub use network::{Forward, NetworkFailure, NetworkHelper, UserNetwork, outward_address};
pub use oci::OciRuntime;
pub use prepare::{CAPABILITY_NAMES, DEFAULT_CAPABILITIES};
pub use private::PrivateIds;
pub use probe::{Facts, overlay_works, private_ids_work, probe};
pub use request::{Memory, Place, Request};
pub use signals::Signals;
pub use spec::{
    Container, EtcFiles, Exit, Limits, Mount, MountKind, Network, OutputSink, ProcessSpec, ProcessUser,
    RootFs, Sandbox, SandboxError, Security, SourceRights, Stdio, Ulimit, Whose,
};
pub use syscalls::{is_ignored, leave};

#[cfg(test)]
mod tests;
