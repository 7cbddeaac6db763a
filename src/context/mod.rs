//! Where a build's files come from.
//!
//! Owns: local directories and standard input as contexts, `.dockerignore` rules, COPY wildcards,
//! the listing of a tree, content digests of files, and telling compressed streams apart by content.
//! Promises: reads in place and only what is asked for (ignored directories are never entered unless
//! a rule can bring something below them back); listings are sorted; nothing outside the context's
//! root is reached through a link in it.
//! Never: writes into a context, follows a symlink while walking, or reads the environment.

mod archive;
mod digest;
mod error;
mod file;
pub mod glob;
pub mod ignore;
mod lex;
mod local;
mod nearest;
mod nfa;
mod pack;
pub mod paths;
mod source;
pub mod sparse;
mod stat_cache;
mod text;
mod tree;
mod user_path;
mod walk;

pub use archive::{TAR_BLOCK, is_tar, newest_file};
pub use digest::{FileState, StatCache, StatKey, file_digests};
pub use error::ContextError;
pub use file::{FileInfo, FileKind, FileSource, Missing, Opened, Xattrs};
pub use local::LocalContext;
pub use pack::pack_tree;
pub use source::{
    ContextKind, ContextSpec, FetchedContext, MainContext, open_fetched, open_main, open_named, open_tree,
    unpack_archive,
};
pub use stat_cache::FileStatCache;
pub use text::limited as read_limited;
pub use user_path::UserPath;
