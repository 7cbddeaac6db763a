//! The client of OCI registries: reading manifests and blobs from one host.
//!
//! Owns the distribution protocol: schemes, sign-in, redirects, mirrors, retries, time limits, and
//! the words in which a registry's refusal reaches the user. Promises that bytes which leave this
//! room are those their digest names, that never more is read than was announced, that credentials
//! reach only the registry they are for and the token service it names, and that a cancelled call
//! ends at once (while looking up a name or connecting: within the limit for that). Must never
//! interpret a manifest, read the environment, or know the store's layout.

mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod credentials;
mod error;
mod proxy;
mod pull;
mod retry;
mod transport;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
pub(crate) mod fault_server;
#[cfg(test)]
mod sign_in_tests;

pub use blob::BlobReader;
pub use client::Registry;
pub use config::{Credentials, ENDPOINTS, RegistryOptions, Roots, Timeouts};
pub use error::{Fault, Refusal, RegistryError, Rejected, Target, Unreachable};
pub use proxy::ProxyOptions;
pub use pull::{FetchedManifest, MANIFEST_LIMIT, ManifestHead};
pub use retry::RetryPolicy;

// What plain downloads (`remote`) share: connections, redirects, retries.
pub(crate) use client::refusal;
pub(crate) use retry::{Clock, SystemClock};
pub(crate) use transport::{Incoming, Outgoing, Session, Transport};
