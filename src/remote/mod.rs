//! Files from elsewhere: over http(s), and from git repositories.
//!
//! Owns what an address means, the download with its revalidation, and all dealings with the `git`
//! program. Promises that credentials reach only the host they are for, that none of them is written
//! to disk, to a command line or into an error, that a checked-out tree holds nothing from outside
//! its repository, and that a cancelled call ends at once. Must never read the environment, decide
//! where a file goes in an image, or unpack anything.

mod checksum;
mod error;
mod git;
mod git_cache;
mod git_checkout;
mod git_program;
mod git_reach;
mod git_time;
mod git_url;
mod http;
mod http_memo;
mod url;

#[cfg(test)]
mod git_limits_tests;
#[cfg(test)]
mod git_tests;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod url_tests;

pub use checksum::Checksum;
pub use error::{Forbidden, ForbiddenBy, RemoteError};
pub use git::{Git, GitSource, Resolved};
pub use git_checkout::Checkout;
pub use git_program::{GitAuth, GitOptions};
pub use git_time::head_time;
pub use git_url::{FileTimes, GitUrl, is_commit};
pub use http::{HttpAuth, HttpClient, HttpFile, HttpOptions, HttpRequest, kept};
pub use url::{HttpUrl, SourceKind, add_source, context_source, without_credentials};
