//! Layers: lists of file-system changes, their tar form, their digests, their compressed blobs.
//!
//! Owns the translation between three forms of one thing: an overlay upper directory or a list of
//! files, the entries of a layer, and the tar stream that images carry. Promises deterministic bytes:
//! the same entries give the same digests whatever the thread count, machine or clock. Must never
//! look at a Dockerfile, and never extract by following a link.

mod block_cache;
mod confined;
mod cut;
mod deflate;
mod deflate_end;
mod diff;
pub mod entry;
mod error;
pub mod estargz;
mod index;
mod listing;
mod materialize;
mod pack;
mod packing;
mod plain;
mod scan;
mod stream;
mod tar_read;
mod tar_write;
mod unpack;
mod unpack_dir;
mod unpack_entry;
mod write;

pub use diff::{NoParent, Owners, ParentKind, ParentNode, ParentView, UpperContent, diff_upper, modified};
pub use entry::{Entry, EntryKind, LayerIndex, Metadata, content_size};
pub use error::LayerError;
pub use estargz::{Converted, to_estargz};
pub use materialize::{write_files, write_files_checked};
pub use packing::{check_files, pack_layer, recompress};
pub use scan::{Scanned, scan_tar};
pub use tar_read::{End, Header as TarHeader};
pub use unpack::{
    Limits, OnDiskIds, UnpackOptions, Unpacked, make_index, open_plain, read_file, read_index, rebuild_index,
    unpack,
};
pub use write::{
    BlobInfo, ContentSource, FrozenContent, FrozenFile, KnownContent, Layer, LayerRecord, NoContent,
    WriteOptions, add_blob, digest_layer, load_index, load_layer, parse_index, store_index, write_layer,
};

#[cfg(test)]
mod block_tests;
#[cfg(test)]
mod estargz_tests;
#[cfg(test)]
mod tests;
