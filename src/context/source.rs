//! From the command line's `PATH | -` to a context, its Dockerfile and its ignore rules.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::archive::{TAR_BLOCK, is_tar, unpack};
use super::decompress::{Compression, decompress, read_head};
use super::error::ContextError;
use super::file::FileSource;
use super::ignore::IgnoreRules;
use super::local::LocalContext;
use super::nearest::closest;
use super::paths;

/// The names tried when none is given, in this order.
const DEFAULT_NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// What the command line says of the context.
#[derive(Debug, Clone)]
pub struct ContextSpec {
    /// The positional argument: a directory, or `-` for standard input.
    pub path: String,
    /// The value of `-f`: a file relative to `cwd` (inside the archive if the context is one), or
    /// `-` for standard input.
    pub dockerfile: Option<String>,
    /// The Dockerfile itself, where `dockerfile` is a name elsewhere (a URL).
    pub dockerfile_text: Option<Vec<u8>>,
    /// The directory that relative paths start from.
    pub cwd: PathBuf,
}

/// What a context was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextKind {
    /// A directory, read in place.
    Directory,
    /// A tar archive on standard input, unpacked.
    Archive,
    /// A bare Dockerfile on standard input; the context is empty.
    DockerfileOnly,
}

/// A context ready to build from.
#[derive(Debug)]
pub struct MainContext {
    /// The files.
    pub context: LocalContext,
    /// What the context was made from.
    pub kind: ContextKind,
    /// The Dockerfile's name for messages; `-` for standard input.
    pub dockerfile_name: String,
    /// The Dockerfile's text.
    pub dockerfile: Vec<u8>,
    /// The ignore file whose rules are in force, for messages.
    pub ignore_file: Option<String>,
}

/// Opens the context and reads the Dockerfile and the ignore file.
///
/// `stdin` is read only if the context or the Dockerfile is `-`. An archive is unpacked into
/// `scratch`, which is made if missing and must be empty; the caller removes it after the build.
pub fn open_main(
    spec: &ContextSpec,
    stdin: &mut (dyn Read + Send),
    scratch: &Path,
) -> Result<MainContext, ContextError> {
    if spec.path == "-" {
        return match spec.dockerfile.as_deref() {
            Some("-") => Err(ContextError::BothStdin),
            _ => open_stdin(spec, stdin, scratch),
        };
    }
    let root = local_directory(&spec.path, &spec.cwd)?;
    let (dockerfile_name, dockerfile) = match spec.dockerfile.as_deref() {
        Some("-") => ("-".to_owned(), read_stdin(stdin)?),
        Some(name) if spec.dockerfile_text.is_some() => {
            (without_credentials(name), spec.dockerfile_text.clone().unwrap_or_default())
        }
        Some(name) => given_dockerfile(name, spec, &root)?,
        None => default_dockerfile(&spec.path, &root)?,
    };
    let (rules, ignore_file) = ignore_rules(spec, &dockerfile_name, &root)?;
    let context =
        LocalContext::open(&root, rules).map_err(|source| ContextError::Read { path: root, source })?;
    Ok(MainContext { context, kind: ContextKind::Directory, dockerfile_name, dockerfile, ignore_file })
}

/// Opens a directory that was fetched from elsewhere (a git repository's tree). `-f` names a file in
/// it; ignore files count for nothing, since nothing is sent (the reference does not read them either).
pub fn open_tree(tree: &Path, spec: &ContextSpec) -> Result<MainContext, ContextError> {
    let context = open_fetched(tree)?;
    let (dockerfile_name, dockerfile) = dockerfile_of(&context, spec)?;
    let kind = ContextKind::Directory;
    Ok(MainContext { context, kind, dockerfile_name, dockerfile, ignore_file: None })
}

/// Opens a directory that was fetched from elsewhere as a named context.
pub fn open_fetched(tree: &Path) -> Result<LocalContext, ContextError> {
    LocalContext::open(tree, IgnoreRules::none())
        .map_err(|source| ContextError::Read { path: tree.to_owned(), source })
}

/// Unpacks a tar, compressed or not, into `dest`, which is made.
pub fn unpack_archive(archive: impl Read + Send, dest: &Path) -> Result<(), ContextError> {
    make_empty_directory(dest).map_err(|source| ContextError::Read { path: dest.to_owned(), source })?;
    let (_, content) = decompress(archive).map_err(ContextError::Stdin)?;
    unpack(content, dest)
}

fn dockerfile_of(context: &LocalContext, spec: &ContextSpec) -> Result<(String, Vec<u8>), ContextError> {
    match (&spec.dockerfile_text, &spec.dockerfile) {
        (Some(text), name) => {
            Ok((without_credentials(name.as_deref().unwrap_or("Dockerfile")), text.clone()))
        }
        (None, name) => dockerfile_inside(context, name.as_deref()),
    }
}

/// Opens a local directory as a named context, under the rules of its own `.dockerignore`.
pub fn open_named(path: &str, cwd: &Path) -> Result<LocalContext, ContextError> {
    let root = local_directory(path, cwd)?;
    let shown = under(path, ".dockerignore");
    let rules = rules_in(&root.join(".dockerignore"), &shown)?.unwrap_or_default();
    LocalContext::open(&root, rules).map_err(|source| ContextError::Read { path: root, source })
}

/// The directory that `path` means.
fn local_directory(path: &str, cwd: &Path) -> Result<PathBuf, ContextError> {
    let root = cwd.join(path);
    match fs::metadata(&root) {
        Ok(metadata) if metadata.is_dir() => return Ok(root),
        Ok(_) => return Err(ContextError::ContextNotADirectory { path: path.to_owned() }),
        Err(error) if !is_missing(&error) => return Err(ContextError::Read { path: root, source: error }),
        Err(_) => {}
    }
    if let Some(kind) = remote_kind(path) {
        return Err(ContextError::Remote { kind, url: without_credentials(path) });
    }
    let nearest = nearest_file(&root, path);
    Err(ContextError::ContextMissing { path: path.to_owned(), nearest })
}

/// "git" or "http" if `path` is a URL of that kind.
fn remote_kind(path: &str) -> Option<&'static str> {
    let lower = path.to_ascii_lowercase();
    let is_git_path = lower.split(['#', '?']).next().is_some_and(|path| path.ends_with(".git"));
    // `user@host:path`, as ssh and scp take it.
    let is_scp = path.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'));
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return Some(if is_git_path { "git" } else { "http" });
    }
    let git_prefix =
        ["git://", "ssh://", "git@", "github.com/"].iter().any(|prefix| lower.starts_with(prefix));
    (git_prefix || is_scp).then_some("git")
}

/// The URL without `user:password@`, which must not reach a terminal or log.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => format!("{scheme}://{}", rest.get(at + 1..).unwrap_or_default()),
        None => url.to_owned(),
    }
}

/// The Dockerfile that `-f` names, relative to the working directory.
fn given_dockerfile(name: &str, spec: &ContextSpec, root: &Path) -> Result<(String, Vec<u8>), ContextError> {
    let file = spec.cwd.join(name);
    if let Some(text) = read_dockerfile(&file, name)? {
        return Ok((name.to_owned(), text));
    }
    if remote_kind(name).is_some() {
        return Err(ContextError::RemoteDockerfile { url: without_credentials(name) });
    }
    let in_context = root.join(name);
    let nearest = match in_context.is_file() {
        true => Some(under(&spec.path, name)),
        false => nearest_file(&file, name),
    };
    Err(ContextError::NoDockerfile { looked_for: vec![name.to_owned()], nearest })
}

fn default_dockerfile(context: &str, root: &Path) -> Result<(String, Vec<u8>), ContextError> {
    for name in DEFAULT_NAMES {
        let shown = under(context, name);
        if let Some(text) = read_dockerfile(&root.join(name), &shown)? {
            return Ok((shown, text));
        }
    }
    let looked_for = DEFAULT_NAMES.map(|name| under(context, name)).to_vec();
    let nearest = likely_dockerfile(&names_in(root)).map(|name| under(context, &name));
    Err(ContextError::NoDockerfile { looked_for, nearest })
}

/// Reads a Dockerfile outside any context's confinement: its path is the user's own. Symlinks are
/// followed, pipes (`-f <(...)`) are read. `None` if there is no such file.
fn read_dockerfile(file: &Path, shown: &str) -> Result<Option<Vec<u8>>, ContextError> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => {
            Err(ContextError::DockerfileNotAFile { path: shown.to_owned(), kind: "a directory" })
        }
        Ok(_) => fs::read(file)
            .map(Some)
            .map_err(|source| ContextError::Read { path: PathBuf::from(shown), source }),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(ContextError::Read { path: PathBuf::from(shown), source }),
    }
}

/// The rules beside the Dockerfile if it has its own, else those of the context's root.
fn ignore_rules(
    spec: &ContextSpec,
    dockerfile_name: &str,
    root: &Path,
) -> Result<(IgnoreRules, Option<String>), ContextError> {
    if dockerfile_name != "-" {
        let shown = format!("{dockerfile_name}.dockerignore");
        if let Some(rules) = rules_in(&spec.cwd.join(&shown), &shown)? {
            return Ok((rules, Some(shown)));
        }
    }
    let shown = under(&spec.path, ".dockerignore");
    match rules_in(&root.join(".dockerignore"), &shown)? {
        Some(rules) => Ok((rules, Some(shown))),
        None => Ok((IgnoreRules::none(), None)),
    }
}

fn rules_in(file: &Path, shown: &str) -> Result<Option<IgnoreRules>, ContextError> {
    match fs::read(file) {
        Ok(text) => Ok(Some(IgnoreRules::parse(shown, &text)?)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(source) => Err(ContextError::Read { path: PathBuf::from(shown), source }),
    }
}

/// A context on standard input: an archive, or a Dockerfile alone.
fn open_stdin(
    spec: &ContextSpec,
    stdin: &mut (dyn Read + Send),
    scratch: &Path,
) -> Result<MainContext, ContextError> {
    let (compression, mut content) = decompress(stdin).map_err(ContextError::Stdin)?;
    let head = read_head(&mut content, TAR_BLOCK).map_err(ContextError::Stdin)?;
    make_empty_directory(scratch)
        .map_err(|source| ContextError::Read { path: scratch.to_owned(), source })?;
    let whole_is_tar = is_tar(&head);
    let mut content = Cursor::new(head).chain(content);
    let open = || {
        LocalContext::open(scratch, IgnoreRules::none())
            .map_err(|source| ContextError::Read { path: scratch.to_owned(), source })
    };
    if whole_is_tar {
        unpack(content, scratch)?;
        // The reference applies no ignore file to an archive: it holds what was meant to be sent.
        let context = open()?;
        let (dockerfile_name, dockerfile) = dockerfile_of(&context, spec)?;
        let kind = ContextKind::Archive;
        return Ok(MainContext { context, kind, dockerfile_name, dockerfile, ignore_file: None });
    }
    if compression != Compression::None {
        return Err(ContextError::StdinNotTar { compression: compression.name() });
    }
    let text = read_stdin(&mut content)?;
    if let Some(name) = &spec.dockerfile {
        return Err(ContextError::TwoDockerfiles(name.to_owned()));
    }
    Ok(MainContext {
        context: open()?,
        kind: ContextKind::DockerfileOnly,
        dockerfile_name: "-".to_owned(),
        dockerfile: text,
        ignore_file: None,
    })
}

/// Makes `scratch`. What lies there already would become part of the context.
fn make_empty_directory(scratch: &Path) -> io::Result<()> {
    fs::create_dir_all(scratch)?;
    match fs::read_dir(scratch)?.next() {
        Some(_) => Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the directory is not empty")),
        None => Ok(()),
    }
}

/// The Dockerfile of an unpacked archive; links are followed inside it only.
fn dockerfile_inside(context: &LocalContext, given: Option<&str>) -> Result<(String, Vec<u8>), ContextError> {
    let names: Vec<&str> = given.map_or(DEFAULT_NAMES.to_vec(), |name| vec![name]);
    for name in &names {
        let Some(info) = context.resolve(&paths::clean(name.as_bytes()))? else { continue };
        let mut text = Vec::new();
        let read = context.open(&info.path)?.read_to_end(&mut text);
        read.map_err(|source| ContextError::Io {
            action: "read",
            root: context.root().to_owned(),
            path: info.path,
            source,
        })?;
        return Ok(((*name).to_owned(), text));
    }
    let nearest = match given {
        Some(name) => context.nearest(&paths::clean(name.as_bytes())).first().map(|path| paths::show(path)),
        None => likely_dockerfile(&context.visible_names(b"")),
    };
    Err(ContextError::NoDockerfile {
        looked_for: names.iter().map(|name| (*name).to_owned()).collect(),
        nearest,
    })
}

fn read_stdin(stdin: &mut (dyn Read + Send)) -> Result<Vec<u8>, ContextError> {
    let mut text = Vec::new();
    stdin.read_to_end(&mut text).map_err(ContextError::Stdin)?;
    if text.is_empty() {
        return Err(ContextError::StdinEmpty);
    }
    Ok(text)
}

/// A name among `names` that someone may have given to a Dockerfile.
fn likely_dockerfile(names: &[Vec<u8>]) -> Option<String> {
    let rank = |name: &[u8]| {
        let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
        match lower.as_str() {
            _ if lower.ends_with(".dockerignore") => None,
            "dockerfile" => Some(0),
            "containerfile" => Some(1),
            _ if lower.starts_with("dockerfile.") || lower.ends_with(".dockerfile") => Some(2),
            _ => closest(b"Dockerfile", [name]).map(|_| 3),
        }
    };
    let best = names.iter().filter_map(|name| Some((rank(name)?, name))).min()?;
    Some(String::from_utf8_lossy(best.1).into_owned())
}

/// A file beside the missing `file` with nearly its name, written as `shown` is.
fn nearest_file(file: &Path, shown: &str) -> Option<String> {
    let (parent, name) = (file.parent()?, file.file_name()?);
    let names = names_in(parent);
    let nearest = closest(name.as_bytes(), names.iter().map(Vec::as_slice))?;
    let nearest = String::from_utf8_lossy(nearest).into_owned();
    let directory = Path::new(shown).parent().filter(|dir| !dir.as_os_str().is_empty());
    Some(directory.map_or(nearest.clone(), |dir| dir.join(&nearest).to_string_lossy().into_owned()))
}

fn names_in(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names.into_iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// `name` in the directory `context`, written as the user would: without a leading `./`.
fn under(context: &str, name: &str) -> String {
    let joined = Path::new(context).join(name);
    let plain = joined.strip_prefix(".").unwrap_or(&joined);
    plain.to_string_lossy().into_owned()
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
