//! What can go wrong with a context, in the user's words.

use std::io;
use std::path::PathBuf;

use super::glob::BadPattern;
use super::ignore::IgnoreError;
use super::paths;

/// Why a context, or something in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The system refused an operation on a file of the context.
    #[error("cannot {action} {}: {source}", place(.root, .path))]
    Io {
        /// What was tried, as a verb: "read", "list the directory".
        action: &'static str,
        /// The context's root.
        root: PathBuf,
        /// The context path.
        path: Vec<u8>,
        /// The system's answer.
        source: io::Error,
    },
    /// A file's size, time or identity is no longer what it was when it was listed.
    #[error("{} changed while it was being read; build again when nothing writes to it", place(.root, .path))]
    Changed {
        /// The context's root.
        root: PathBuf,
        /// The context path.
        path: Vec<u8>,
    },
    /// Links that lead to each other, or too many of them.
    #[error("{} leads through more than {limit} symbolic links; they probably form a circle", place(.root, .path))]
    LinkLoop {
        /// The context's root.
        root: PathBuf,
        /// The context path that was asked for.
        path: Vec<u8>,
        /// How many links are followed.
        limit: usize,
    },
    /// The path is not in the context, or is ignored.
    #[error("{} is not in the build context", place(.root, .path))]
    NotFound {
        /// The context's root.
        root: PathBuf,
        /// The context path.
        path: Vec<u8>,
    },
    /// Only regular files can be read.
    #[error("{} is {kind}, not a regular file", place(.root, .path))]
    NotAFile {
        /// The context's root.
        root: PathBuf,
        /// The context path.
        path: Vec<u8>,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A COPY wildcard is malformed.
    #[error("cannot read the wildcard {pattern:?}: {source}")]
    Wildcard {
        /// The source as written.
        pattern: String,
        /// What is wrong with it.
        source: BadPattern,
    },
    /// An ignore file is malformed.
    #[error(transparent)]
    Ignore(#[from] IgnoreError),
    /// A file outside the context (Dockerfile, ignore file, the context itself) cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard input cannot be read, or is not what it began as.
    #[error("cannot read the context from standard input: {0}")]
    Stdin(#[source] io::Error),
    /// Standard input is empty.
    #[error("standard input is empty; `-` expects a Dockerfile or a tar archive of the context there")]
    StdinEmpty,
    /// Standard input is compressed, but no tar archive.
    #[error(
        "standard input is {compression} data, but not a tar archive; `-` expects a Dockerfile or a tar archive"
    )]
    StdinNotTar {
        /// The compression found.
        compression: &'static str,
    },
    /// An archive holds an entry that a context cannot hold, or is damaged.
    #[error("cannot unpack the context archive: {entry}: {reason}")]
    Archive {
        /// The entry's name, or where in the archive the trouble is.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// The context is a URL of a kind that is not supported.
    #[error(
        "{kind} contexts are not supported yet: {url}\n  fetch it first and pass the directory, or pipe a tar archive to `-`"
    )]
    Remote {
        /// "git" or "http".
        kind: &'static str,
        /// The text given, credentials removed.
        url: String,
    },
    /// `-f` names what is elsewhere.
    #[error(
        "-f takes a file{}, not {url}\n  {}",
        if *kind == "git" { " or the URL of one" } else { "" },
        if *kind == "git" { "give the repository as the build context" } else { "fetch it first, or pipe it to `-f -`" }
    )]
    RemoteDockerfile {
        /// "git" or "http".
        kind: &'static str,
        /// The text given, credentials removed.
        url: String,
    },
    /// There is nothing at the context's path.
    #[error("the build context {path:?} does not exist{}", hint(.nearest))]
    ContextMissing {
        /// As the user wrote it.
        path: String,
        /// A neighbour with nearly that name.
        nearest: Option<String>,
    },
    /// The context is a file.
    #[error(
        "the build context {path:?} is not a directory\n  to build with this Dockerfile, use `-f {path}` and name a directory as the context; to use an archive, pipe it: `- < {path}`"
    )]
    ContextNotADirectory {
        /// As the user wrote it.
        path: String,
    },
    /// No Dockerfile was found.
    #[error("no Dockerfile: looked for {}{}", .looked_for.join(" and "), flag_hint(.nearest))]
    NoDockerfile {
        /// The paths that were tried.
        looked_for: Vec<String>,
        /// A file that may be meant, as `-f` takes it.
        nearest: Option<String>,
    },
    /// A Dockerfile or ignore file is a directory or a special file.
    #[error("{path:?} is {kind}, not a file")]
    NotReadable {
        /// The path tried.
        path: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A Dockerfile or ignore file of a context is a link to nothing in it.
    #[error(
        "{path:?} is a link to {target:?}, and no file of the build context is there; name a Dockerfile elsewhere with `-f`"
    )]
    LeadsOut {
        /// The path tried.
        path: String,
        /// Where the link leads.
        target: String,
    },
    /// A Dockerfile or ignore file has no end in sight.
    #[error("{path:?} is larger than {} MiB, the limit for Dockerfiles and ignore files", limit >> 20)]
    TooLarge {
        /// The path tried.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The user asked to stop.
    #[error("canceled")]
    Canceled,
    /// Context and Dockerfile are both to be read from standard input.
    #[error("the context and the Dockerfile cannot both come from standard input: `-` and `-f -` were given")]
    BothStdin,
    /// `-f NAME` was given, but standard input is a Dockerfile itself.
    #[error("standard input holds a Dockerfile, and `-f {0}` names another; drop one of them")]
    TwoDockerfiles(String),
}

fn place(root: &std::path::Path, path: &[u8]) -> String {
    if path.is_empty() {
        return root.display().to_string();
    }
    format!("{} (in the build context {})", paths::show(path), root.display())
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

fn flag_hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("\n  there is {name}; use it with `-f {name}`")).unwrap_or_default()
}
