//! Object stores: named byte strings in S3 and what is compatible with it, in Azure's blobs, and in the cache service
//! of GitHub's Actions.
//!
//! Owns how such services are addressed and signed for, over the blocking client that registries use. Promises that an
//! answer is retried only where that may help, that nothing secret is part of a message, and that a cancelled call
//! ends at once. What the bytes mean is `cache/`'s. Must never read the environment.

mod actions;
mod azure;
mod azure_sign;
mod body;
mod encode;
mod error;
mod http;
mod s3;
mod sigv4;
mod xml;

use crate::cancel::Cancel;

pub use actions::ActionsOptions;
pub use azure::AzureOptions;
pub use body::{OpenObject, Upload};
pub use error::ObjectError;
pub use http::HttpSettings;
pub use s3::S3Options;

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// Its whole name.
    pub key: String,
    /// Seconds since 1970 when it was written; `None` where the service does not say.
    pub modified: Option<i64>,
}

/// What became of an object that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there now.
    New,
    /// Something else had the name already, and the service does not replace it.
    Taken,
}

/// A service that keeps objects by their keys.
pub trait ObjectStore: Send + Sync {
    /// Opens an object for reading, from the byte `from` on; `None` where there is none.
    fn open(&self, key: &str, from: u64, cancel: &Cancel) -> Result<Option<OpenObject>, ObjectError>;

    /// Whether there is an object.
    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectHead>, ObjectError>;

    /// Writes an object. Where the service keeps what it has, [`Written::Taken`]; elsewhere it is replaced.
    fn put(&self, key: &str, upload: &Upload<'_>, cancel: &Cancel) -> Result<Written, ObjectError>;

    /// Makes an object count as written now, where the service can.
    fn touch(&self, key: &str, cancel: &Cancel) -> Result<(), ObjectError>;

    /// Whether [`ObjectStore::touch`] does anything.
    fn can_touch(&self) -> bool;

    /// Objects whose keys begin with `prefix`: all of them, or of a service that is not [complete], the newest.
    ///
    /// [complete]: ObjectStore::lists_all
    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectHead>, ObjectError>;

    /// Whether [`ObjectStore::list`] gives all, and objects can be removed. Otherwise it gives the newest only.
    fn lists_all(&self) -> bool;

    /// Removes an object. One that is not there is no failure.
    fn delete(&self, key: &str, cancel: &Cancel) -> Result<(), ObjectError>;
}

/// A service, and how to sign in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A bucket of S3.
    S3(S3Options),
    /// A container of Azure's Blob Storage.
    Azure(AzureOptions),
    /// The cache of a repository at GitHub.
    Actions(ActionsOptions),
}

impl Service {
    /// Makes a client. Connects to nothing yet.
    pub fn open(&self, settings: &HttpSettings) -> Result<Box<dyn ObjectStore>, ObjectError> {
        Ok(match self {
            Service::S3(options) => Box::new(s3::S3::new(options, settings)?),
            Service::Azure(options) => Box::new(azure::Azure::new(options, settings)?),
            Service::Actions(options) => Box::new(actions::Actions::new(options, settings)?),
        })
    }

    /// What writing there is called, as in BuildKit.
    pub fn export_title(&self) -> &'static str {
        match self {
            Service::S3(_) => "exporting cache to Amazon S3",
            Service::Azure(_) => "exporting cache to Azure Blob Storage",
            Service::Actions(_) => "exporting to GitHub Actions Cache",
        }
    }

    /// The service and the part of it, without anything secret, for messages.
    pub fn shown(&self) -> String {
        match self {
            Service::S3(options) => format!("s3://{}", options.bucket),
            Service::Azure(options) => options.shown(),
            Service::Actions(_) => "gha".to_owned(),
        }
    }
}
