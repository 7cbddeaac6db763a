//! The client of OCI registries: reading manifests and blobs from one host, and pushing them to it.
//!
//! Owns the distribution protocol: schemes, sign-in, redirects, mirrors, retries, time limits, and
//! the words in which a registry's refusal reaches the user; the files that configure all this. Promises that bytes which leave this
//! room are those their digest names, that never more is read than was announced, that credentials
//! reach only the registry they are for and the token service it names, and that a cancelled call
//! ends at once (while looking up a name or connecting: within the limit for that). A manifest
//! is read only to find what it refers to and refers to. Must never read the environment, or know the store's layout.

mod access;
pub mod answers;
mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod content;
mod credentials;
mod error;
mod fault;
pub mod login;
pub mod origins;
mod parts;
mod permission;
mod piece;
mod pools;
mod proxy;
mod pull;
mod push;
mod reach;
mod referrers;
mod retry;
mod roots;
mod settings;
mod transport;
mod upload;
mod upload_request;
mod watch;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
pub(crate) mod fault_server;
#[cfg(test)]
mod permission_tests;
#[cfg(test)]
mod push_bench;
#[cfg(test)]
mod push_tests;
#[cfg(test)]
mod reach_tests;
#[cfg(test)]
mod referrers_tests;
#[cfg(test)]
mod sign_in_tests;

pub use access::{Notices, RegistryAccess};
pub use blob::BlobReader;
pub use client::Registry;
pub use config::{
    CredentialSource, Credentials, ENDPOINTS, GivenCertificates, Location, RegistryOptions, Roots, Secret,
    Timeouts,
};
pub use content::{Content, LayoutContent, RegistryContent, StoreContent};
pub use error::{Fault, Refusal, RegistryError, Rejected, Target, Unreachable};
pub use proxy::ProxyOptions;
pub use pull::{FetchedManifest, MANIFEST_LIMIT, ManifestHead};
pub use push::{BlobState, PushOptions, PushProgress, PushReport};
pub use reach::{OFFLINE, SourceNetwork, addresses, is_local, written_address};
pub use referrers::{Referrers, fallback_tag};
pub use retry::RetryPolicy;
pub use settings::{ContainersFiles, Settings};

// What plain downloads (`remote`) and object stores (`objects`) share: connections, redirects, retries.
pub(crate) use client::refusal;
pub(crate) use error::read_error_body;
pub(crate) use retry::{Clock, SystemClock, parse_retry_after};
pub(crate) use roots::Trust;
pub(crate) use transport::{Incoming, Outgoing, Payload, Session, Transport};
