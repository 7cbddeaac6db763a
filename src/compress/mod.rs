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

/// How a layer is to be compressed once its bytes leave the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packing {
    /// The algorithm.
    pub compression: CompressionAlgorithm,
    /// Its level; `None` is the algorithm's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
}
