//! How `PATH` or `-` on the command line becomes a context, a Dockerfile and ignore rules.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::decompress::{Compression, decompress, peek};
use super::extract::extract;
use super::ignore::{IgnoreError, IgnoreRules};
use super::local::{LocalContext, nearest_names};

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The directory cannot be opened.
    #[error("unable to prepare context: {}: {source}", path.display())]
    OpenRoot {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the context cannot be read.
    #[error("cannot read {path:?} of the build context: {source}")]
    Read {
        /// Its path in the context.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file was written to while it was read.
    #[error("{0:?} changed while it was read; run the build again when nothing writes to it")]
    Changed(String),
    /// A wildcard Go would refuse.
    #[error("syntax error in pattern {0:?}")]
    BadPattern(String),
    /// The directory part of a wildcard pattern is not there.
    #[error("{pattern:?} matches nothing: there is no directory {parent:?}")]
    MissingParent {
        /// The pattern.
        pattern: String,
        /// Its literal part.
        parent: String,
    },
    /// No Dockerfile.
    #[error("failed to read dockerfile: {looked_for}: no such file or directory{hint}")]
    NoDockerfile {
        /// What was looked for.
        looked_for: String,
        /// A sentence with neighbours, or nothing.
        hint: String,
    },
    /// The Dockerfile cannot be read.
    #[error("failed to read dockerfile {}: {source}", path.display())]
    Dockerfile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A broken ignore file.
    #[error(transparent)]
    Ignore(#[from] IgnoreError),
    /// Standard input was asked for twice.
    #[error("invalid argument: can't use stdin for both build context and dockerfile")]
    StdinTwice,
    /// Standard input could not be used.
    #[error("cannot read the build context from standard input: {0}")]
    Stdin(io::Error),
    /// A kind of context that is not there yet.
    #[error("{kind} build contexts are not supported yet: {text}")]
    Unsupported {
        /// `git`, `http`.
        kind: &'static str,
        /// As given.
        text: String,
    },
}

impl ContextError {
    /// A file that cannot be read.
    pub fn read(path: &[u8], source: io::Error) -> Self {
        ContextError::Read { path: String::from_utf8_lossy(path).into_owned(), source }
    }

    /// A bad wildcard.
    pub fn bad_pattern(pattern: &[u8]) -> Self {
        ContextError::BadPattern(String::from_utf8_lossy(pattern).into_owned())
    }

    pub(super) fn open_root(path: &Path, source: io::Error) -> Self {
        ContextError::OpenRoot { path: path.to_owned(), source }
    }
}

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct ContextSpec {
    /// `PATH` or `-`.
    pub path: String,
    /// `-f`.
    pub dockerfile: Option<String>,
    /// Directory that relative paths refer to.
    pub cwd: PathBuf,
}

/// The main context, opened.
#[derive(Debug)]
pub struct MainContext {
    /// Its files.
    pub context: LocalContext,
    /// The name messages show.
    pub dockerfile_name: String,
    /// The Dockerfile's bytes.
    pub dockerfile: Vec<u8>,
}

/// Opens what the user asked for. `scratch` is an empty directory for a context that comes as a
/// stream; it must live as long as the context.
pub fn open_main(
    spec: &ContextSpec,
    stdin: &mut (dyn Read + Send),
    scratch: &Path,
) -> Result<MainContext, ContextError> {
    if let Some(kind) = remote_kind(&spec.path) {
        return Err(ContextError::Unsupported { kind, text: without_credentials(&spec.path) });
    }
    if spec.path == "-" {
        if spec.dockerfile.as_deref() == Some("-") {
            return Err(ContextError::StdinTwice);
        }
        return from_stream(spec, stdin, scratch);
    }
    let root = spec.cwd.join(&spec.path);
    let meta =
        fs::metadata(&root).map_err(|source| ContextError::open_root(Path::new(&spec.path), source))?;
    if !meta.is_dir() {
        let source = io::ErrorKind::NotADirectory.into();
        return Err(ContextError::open_root(Path::new(&spec.path), source));
    }
    match &spec.dockerfile {
        Some(file) if file == "-" => {
            let mut dockerfile = Vec::new();
            stdin.read_to_end(&mut dockerfile).map_err(ContextError::Stdin)?;
            let rules = ignore_rules(&root, None)?;
            let context = LocalContext::open(&root, rules)?;
            Ok(MainContext { context, dockerfile_name: "Dockerfile".into(), dockerfile })
        }
        Some(file) if remote_kind(file).is_some() => {
            Err(ContextError::Unsupported { kind: "http", text: without_credentials(file) })
        }
        Some(file) => with_dockerfile(&root, &spec.cwd.join(file), file),
        None => {
            let found = find_default(&root)?;
            let shown =
                found.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            with_dockerfile(&root, &found, &shown)
        }
    }
}

fn with_dockerfile(root: &Path, path: &Path, shown: &str) -> Result<MainContext, ContextError> {
    let dockerfile = fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            ContextError::NoDockerfile { looked_for: shown.to_owned(), hint: neighbours(path) }
        }
        _ => ContextError::Dockerfile { path: PathBuf::from(shown), source },
    })?;
    let context = LocalContext::open(root, ignore_rules(root, Some(path))?)?;
    Ok(MainContext { context, dockerfile_name: shown.to_owned(), dockerfile })
}

fn find_default(root: &Path) -> Result<PathBuf, ContextError> {
    for name in ["Dockerfile", "dockerfile"] {
        let path = root.join(name);
        if path.exists() {
            return Ok(path);
        }
    }
    let path = root.join("Dockerfile");
    Err(ContextError::NoDockerfile { looked_for: "Dockerfile".into(), hint: neighbours(&path) })
}

/// `; did you mean ...?` for a file that is missing.
fn neighbours(path: &Path) -> String {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return String::new() };
    let Ok(entries) = fs::read_dir(dir) else { return String::new() };
    let name = name.as_encoded_bytes();
    let names: Vec<Vec<u8>> =
        entries.flatten().map(|entry| entry.file_name().as_encoded_bytes().to_vec()).collect();
    let begins = |candidate: &Vec<u8>| {
        candidate.len() > name.len()
            && candidate[..name.len()].eq_ignore_ascii_case(name)
            && !candidate.ends_with(b".dockerignore")
    };
    let mut near = nearest_names(name, &names);
    near.extend(names.iter().filter(|candidate| begins(candidate)).cloned());
    match near.first() {
        Some(name) => format!(" (found {:?} beside it: use -f)", String::from_utf8_lossy(name)),
        None => String::new(),
    }
}

/// `<Dockerfile>.dockerignore` wins over the context's own file; nothing is merged.
fn ignore_rules(root: &Path, dockerfile: Option<&Path>) -> Result<IgnoreRules, ContextError> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside.into_iter().chain([root.join(".dockerignore")]) {
        match fs::read(&path) {
            Ok(text) => {
                let name =
                    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
                return Ok(IgnoreRules::parse(&name, &text)?);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ContextError::Dockerfile { path, source }),
        }
    }
    Ok(IgnoreRules::none())
}

/// Rules of a named local context: its own ignore file.
pub fn open_named(root: &Path) -> Result<LocalContext, ContextError> {
    LocalContext::open(root, ignore_rules(root, None)?)
}

/// Enough of a stream to see a tar header.
const SNIFF: usize = 512;

fn from_stream(
    spec: &ContextSpec,
    stdin: &mut (dyn Read + Send),
    scratch: &Path,
) -> Result<MainContext, ContextError> {
    let (head, whole) = peek(stdin, SNIFF).map_err(ContextError::Stdin)?;
    let packed = Compression::detect(&head) != Compression::None;
    if !packed && !looks_like_tar(&head) {
        let mut dockerfile = Vec::new();
        let mut whole = whole;
        whole.read_to_end(&mut dockerfile).map_err(ContextError::Stdin)?;
        let context = LocalContext::open(scratch, IgnoreRules::none())?;
        return Ok(MainContext { context, dockerfile_name: "Dockerfile".into(), dockerfile });
    }
    let (_, plain) = decompress(whole).map_err(ContextError::Stdin)?;
    extract(plain, scratch).map_err(ContextError::Stdin)?;
    let name = spec.dockerfile.clone().unwrap_or_else(|| "Dockerfile".into());
    let clamped = super::glob::clean_path(name.as_bytes());
    let path = scratch.join(super::walk::os_path(&clamped));
    // A link in the archive must not name a file of this machine.
    let real = fs::canonicalize(&path).ok().filter(|real| real.starts_with(scratch));
    match real {
        Some(real) => with_dockerfile(scratch, &real, &name),
        None => Err(ContextError::NoDockerfile { looked_for: name, hint: " in the archive".into() }),
    }
}

fn looks_like_tar(head: &[u8]) -> bool {
    head.len() == SNIFF && (head.get(257..262) == Some(b"ustar") || head.iter().all(|c| *c == 0))
}

fn remote_kind(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    let git = lower.starts_with("git@") || lower.starts_with("git://") || lower.starts_with("ssh://");
    let http = lower.starts_with("http://") || lower.starts_with("https://");
    let path = lower.split(['#', '?']).next().unwrap_or_default();
    match (git, http) {
        (true, _) => Some("git"),
        (_, true) if path.ends_with(".git") => Some("git"),
        (_, true) => Some("http"),
        _ => None,
    }
}

/// A URL as it may be shown (CVE-2023-26054: credentials in build records).
fn without_credentials(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => text.to_owned(),
    }
}
