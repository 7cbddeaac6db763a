//! How streams are compressed: the algorithms that layers are written with, and streams of any kind
//! that are recognised by their first bytes.

mod decompress;

pub(crate) use decompress::read_head;
pub use decompress::{Compression, MAGIC_LENGTH, decompress};

/// Layer compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionAlgorithm {
    /// gzip.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
    /// None.
    Uncompressed,
}
