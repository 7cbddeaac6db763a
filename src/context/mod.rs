//! Where a build's files come from: directories, streams, ignore rules, content digests.
//!
//! Owns the view of a context that `COPY` and `ADD` see. Promises that only selected files are read,
//! that ignored directories are not opened, and that no link leads out of the context. Must never
//! copy a context to a side place (a stream excepted) nor write into it.

mod decompress;
mod digest;
mod extract;
mod glob;
mod ignore;
mod local;
mod source;
mod walk;

pub use decompress::{Compression, decompress};
pub use digest::{FileStatCache, Known, StatCache, file_digests};
pub use glob::{BadPattern, Glob, clean_path, has_wildcard, match_path};
pub use ignore::{IgnoreError, IgnoreRules, RuleRef};
pub use local::{FileSource, LocalContext, Missing, PatternSet, nearest_names};
pub use source::{ContextError, ContextSpec, MainContext, open_main, open_named};
pub use walk::{FileInfo, FileKind};
