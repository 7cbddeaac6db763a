//! From the command line's `PATH | -` to a context, its Dockerfile and its ignore rules.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::cancel::Cancel;

use super::archive::{TAR_BLOCK, is_tar, unpack};
use super::error::ContextError;
use super::file::FileSource as _;
use super::ignore::IgnoreRules;
use super::local::LocalContext;
use super::nearest::closest;
use super::paths;
use super::text::{is_missing, limited, read_inside, read_named};
use super::user_path::UserPath;
use crate::compress::{Compression, decompress, read_head};

/// The names tried when none is given, in this order.
const DEFAULT_NAMES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// What the command line says of the context.
#[derive(Debug, Clone)]
pub struct ContextSpec {
    /// The positional argument: a directory, or `-` for standard input.
    pub path: UserPath,
    /// The value of `-f`: a file relative to `cwd` (inside the archive if the context is one), or
    /// `-` for standard input.
    pub dockerfile: Option<UserPath>,
    /// The Dockerfile itself, where `dockerfile` is a name elsewhere (a URL).
    pub dockerfile_text: Option<Vec<u8>>,
    /// How a context is taken that is no local directory.
    pub fetched: FetchedContext,
    /// Where standard input is a download, its time in seconds since 1970: if it is no archive, it is the
    /// Dockerfile, whatever `dockerfile` names, and the only file of the context.
    pub downloaded: Option<i64>,
    /// The directory that relative paths start from.
    pub cwd: PathBuf,
}

/// How a context is taken that is no local directory: an archive, a download or a git repository.
#[derive(Debug, Clone, Default)]
pub struct FetchedContext {
    /// Only this directory of it, which a link in it may lead to, but not out of it. Git addresses name theirs
    /// themselves.
    pub subdir: Option<UserPath>,
    /// Its ignore files count, as in Kaniko. In BuildKit nobody looks at them.
    pub ignore_files: bool,
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
    /// The Dockerfile itself, where it is a file of this machine.
    pub dockerfile_path: Option<PathBuf>,
    /// The ignore file whose rules are in force, for messages.
    pub ignore_file: Option<String>,
    /// The time of the newest file of an archive, in seconds since 1970.
    pub newest_file: Option<i64>,
}

/// Opens the context and reads the Dockerfile and the ignore file.
///
/// `stdin` is read only if the context or the Dockerfile is `-`. An archive is unpacked into
/// `scratch`, which is made if missing and must be empty; the caller removes it after the build.
/// `cancel` ends waiting for a pipe that `-f` names; `stdin` must know it itself.
pub fn open_main(
    spec: &ContextSpec,
    stdin: &mut (dyn Read + Send),
    scratch: &Path,
    cancel: &Cancel,
) -> Result<MainContext, ContextError> {
    if &*spec.path == "-" {
        return match spec.dockerfile.as_deref() {
            Some("-") if spec.dockerfile_text.is_none() => Err(ContextError::BothStdin),
            _ => open_stdin(spec, stdin, scratch),
        };
    }
    let context = open_fetched(&local_directory(&spec.path, &spec.cwd)?)?;
    let mut dockerfile_path = None;
    let (dockerfile_name, dockerfile) = match &spec.dockerfile {
        Some(name) if &**name == "-" => ("-".to_owned(), read_stdin(stdin)?),
        Some(name) if spec.dockerfile_text.is_some() => {
            (without_credentials(name), spec.dockerfile_text.clone().unwrap_or_default())
        }
        Some(name) => {
            dockerfile_path = Some(spec.cwd.join(name));
            given_dockerfile(name, spec, context.root(), cancel)?
        }
        None => {
            let (name, shown, text) = default_dockerfile(&spec.path, &context)?;
            dockerfile_path = Some(context.root().join(name));
            (shown, text)
        }
    };
    let (rules, ignore_file) = ignore_rules(spec, &dockerfile_name, dockerfile_path.as_deref(), &context)?;
    let context = context.with_rules(rules);
    let (kind, newest_file) = (ContextKind::Directory, None);
    Ok(MainContext { context, kind, dockerfile_name, dockerfile, dockerfile_path, ignore_file, newest_file })
}

/// Opens a directory that was fetched from elsewhere (a git repository's tree). `-f` names a file in
/// it; ignore files count for nothing, since nothing is sent (BuildKit does not read them either).
pub fn open_tree(tree: &Path, spec: &ContextSpec) -> Result<MainContext, ContextError> {
    take_tree(tree, spec, ContextKind::Directory, None)
}

/// A tree that came from elsewhere, as a context.
fn take_tree(
    tree: &Path,
    spec: &ContextSpec,
    kind: ContextKind,
    newest_file: Option<i64>,
) -> Result<MainContext, ContextError> {
    let tree = match &spec.fetched.subdir {
        Some(subdir) => directory_inside(tree, subdir)?,
        None => tree.to_owned(),
    };
    let context = open_fetched(&tree)?;
    let (dockerfile_name, dockerfile) = dockerfile_of(&context, spec)?;
    let (mut rules, mut ignore_file) = (IgnoreRules::none(), None);
    if spec.fetched.ignore_files {
        for name in [format!("{dockerfile_name}.dockerignore"), ".dockerignore".to_owned()] {
            let inside = paths::clean(name.as_bytes());
            if let Some(found) = rules_in(&context, &inside, &name)? {
                (rules, ignore_file) = (found, Some(name));
                break;
            }
        }
    }
    let context = context.with_rules(rules);
    let dockerfile_path = None;
    Ok(MainContext { context, kind, dockerfile_name, dockerfile, dockerfile_path, ignore_file, newest_file })
}

/// A directory of a tree that came from elsewhere, whose links lead anywhere.
fn directory_inside(tree: &Path, subdir: &UserPath) -> Result<PathBuf, ContextError> {
    let wanted = tree.join(subdir.trim_start_matches('/'));
    let failed = |source| ContextError::Read { path: PathBuf::from(subdir.to_string()), source };
    let root = tree.canonicalize().map_err(failed)?;
    let found = wanted.canonicalize().map_err(failed)?;
    if !found.starts_with(&root) {
        return Err(failed(io::Error::other("it lies outside the context")));
    }
    match found.is_dir() {
        true => Ok(found),
        false => Err(failed(io::ErrorKind::NotADirectory.into())),
    }
}

/// Opens a directory without any rules, such as one that was fetched from elsewhere as a named context.
pub fn open_fetched(tree: &Path) -> Result<LocalContext, ContextError> {
    LocalContext::open(tree, IgnoreRules::none())
        .map_err(|source| ContextError::Read { path: tree.to_owned(), source })
}

/// Unpacks a tar, compressed or not, into `dest`, which is made. Gives the time of the newest file.
pub fn unpack_archive(archive: impl Read + Send, dest: &Path) -> Result<Option<i64>, ContextError> {
    make_empty_directory(dest).map_err(|source| ContextError::Read { path: dest.to_owned(), source })?;
    let (_, content) = decompress(archive).map_err(ContextError::Stdin)?;
    unpack(content, dest)
}

fn dockerfile_of(context: &LocalContext, spec: &ContextSpec) -> Result<(String, Vec<u8>), ContextError> {
    match (&spec.dockerfile_text, &spec.dockerfile) {
        (Some(text), name) => {
            Ok((without_credentials(name.as_deref().unwrap_or("Dockerfile")), text.clone()))
        }
        (None, name) => dockerfile_inside(context, name.as_ref()),
    }
}

/// Opens a local directory as a named context, under the rules of its own `.dockerignore`.
pub fn open_named(path: &UserPath, cwd: &Path) -> Result<LocalContext, ContextError> {
    let context = open_fetched(&local_directory(path, cwd)?)?;
    let rules = rules_in(&context, b".dockerignore", &under(path, ".dockerignore"))?.unwrap_or_default();
    Ok(context.with_rules(rules))
}

/// The directory that `path` means.
fn local_directory(path: &UserPath, cwd: &Path) -> Result<PathBuf, ContextError> {
    let root = cwd.join(path);
    match fs::metadata(&root) {
        Ok(metadata) if metadata.is_dir() => return Ok(root),
        Ok(_) => return Err(ContextError::ContextNotADirectory { path: path.to_string() }),
        Err(error) if !is_missing(&error) => return Err(ContextError::Read { path: root, source: error }),
        Err(_) => {}
    }
    if let Some(kind) = remote_kind(path) {
        return Err(ContextError::Remote { kind, url: without_credentials(path) });
    }
    let nearest = nearest_file(&root, path);
    Err(ContextError::ContextMissing { path: path.to_string(), nearest })
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
fn given_dockerfile(
    name: &UserPath,
    spec: &ContextSpec,
    root: &Path,
    cancel: &Cancel,
) -> Result<(String, Vec<u8>), ContextError> {
    let file = spec.cwd.join(name);
    if let Some(text) = read_named(&file, name, cancel)? {
        return Ok((name.to_string(), text));
    }
    if let Some(kind) = remote_kind(name) {
        return Err(ContextError::RemoteDockerfile { kind, url: without_credentials(name) });
    }
    let in_context = root.join(name);
    let nearest = match in_context.is_file() {
        true => Some(under(&spec.path, name)),
        false => nearest_file(&file, name),
    };
    Err(ContextError::NoDockerfile { looked_for: vec![name.to_string()], nearest })
}

/// The Dockerfile's name in the context, that to be shown, and the text.
fn default_dockerfile(
    shown: &str,
    context: &LocalContext,
) -> Result<(&'static str, String, Vec<u8>), ContextError> {
    for name in DEFAULT_NAMES {
        let shown = under(shown, name);
        if let Some(text) = read_inside(context, name.as_bytes(), &shown)? {
            return Ok((name, shown, text));
        }
    }
    let looked_for = DEFAULT_NAMES.map(|name| under(shown, name)).to_vec();
    let nearest = likely_dockerfile(&names_in(context.root())).map(|name| under(shown, &name));
    Err(ContextError::NoDockerfile { looked_for, nearest })
}

/// The rules beside the Dockerfile if it has its own, else those of the context's root.
fn ignore_rules(
    spec: &ContextSpec,
    dockerfile_name: &str,
    dockerfile: Option<&Path>,
    context: &LocalContext,
) -> Result<(IgnoreRules, Option<String>), ContextError> {
    if let Some(dockerfile) = dockerfile {
        let shown = format!("{dockerfile_name}.dockerignore");
        let mut file = dockerfile.as_os_str().to_owned();
        file.push(".dockerignore");
        if let Some(rules) = rules_beside(Path::new(&file), &shown, context)? {
            return Ok((rules, Some(shown)));
        }
    }
    let shown = under(&spec.path, ".dockerignore");
    match rules_in(context, b".dockerignore", &shown)? {
        Some(rules) => Ok((rules, Some(shown))),
        None => Ok((IgnoreRules::none(), None)),
    }
}

/// The rules beside a Dockerfile. If that lies in the context, links may lead anywhere in it; elsewhere they
/// stay in the Dockerfile's directory.
fn rules_beside(
    file: &Path,
    shown: &str,
    context: &LocalContext,
) -> Result<Option<IgnoreRules>, ContextError> {
    let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return Ok(None) };
    if parent == context.root() {
        return rules_in(context, name.as_bytes(), shown);
    }
    if fs::symlink_metadata(file).is_err_and(|error| is_missing(&error)) {
        return Ok(None);
    }
    let failed = |path: &Path, source| ContextError::Read { path: path.to_owned(), source };
    let parent = parent.canonicalize().map_err(|error| failed(parent, error))?;
    let root = context.root().canonicalize().map_err(|error| failed(context.root(), error))?;
    match parent.strip_prefix(&root) {
        Ok(below) => rules_in(context, below.join(name).as_os_str().as_bytes(), shown),
        Err(_) => rules_in(&open_fetched(&parent)?, name.as_bytes(), shown),
    }
}

fn rules_in(context: &LocalContext, path: &[u8], shown: &str) -> Result<Option<IgnoreRules>, ContextError> {
    match read_inside(context, path, shown)? {
        Some(text) => Ok(Some(IgnoreRules::parse(shown, &text)?)),
        None => Ok(None),
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
        let newest_file = unpack(content, scratch)?;
        // BuildKit applies no ignore file to an archive: it holds what was meant to be sent.
        return take_tree(scratch, spec, ContextKind::Archive, newest_file);
    }
    if compression != Compression::None {
        return Err(ContextError::StdinNotTar { compression: compression.name() });
    }
    let text = read_stdin(&mut content)?;
    match (spec.downloaded, &spec.dockerfile) {
        // As in BuildKit, a download that is no archive is the Dockerfile, and the one file of the context.
        (Some(time), _) => write_download(scratch, &text, time)?,
        (None, Some(name)) => return Err(ContextError::TwoDockerfiles(name.to_string())),
        (None, None) => {}
    }
    let context = open()?;
    let given = spec.dockerfile_text.as_ref().map(|_| dockerfile_of(&context, spec)).transpose()?;
    let (dockerfile_name, dockerfile) = given.unwrap_or_else(|| ("-".to_owned(), text));
    Ok(MainContext {
        context,
        kind: ContextKind::DockerfileOnly,
        dockerfile_name,
        dockerfile,
        dockerfile_path: None,
        ignore_file: None,
        newest_file: None,
    })
}

/// What BuildKit calls a download that is a context of one file.
const DOWNLOAD_NAME: &str = "context";

fn write_download(scratch: &Path, text: &[u8], time: i64) -> Result<(), ContextError> {
    let path = scratch.join(DOWNLOAD_NAME);
    let time = UNIX_EPOCH + Duration::from_secs(time.try_into().unwrap_or(0));
    let written = fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
        .and_then(|()| fs::File::options().write(true).open(&path)?.set_modified(time));
    written.map_err(|source| ContextError::Read { path, source })
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
fn dockerfile_inside(
    context: &LocalContext,
    given: Option<&UserPath>,
) -> Result<(String, Vec<u8>), ContextError> {
    let names: Vec<UserPath> =
        given.map_or_else(|| DEFAULT_NAMES.map(UserPath::from).to_vec(), |name| vec![name.clone()]);
    let inside = |name: &UserPath| paths::clean(AsRef::<Path>::as_ref(name).as_os_str().as_bytes());
    for name in &names {
        if let Some(text) = read_inside(context, &inside(name), name)? {
            return Ok((name.to_string(), text));
        }
    }
    let nearest = match given {
        Some(name) => context.nearest(&inside(name)).first().map(|path| paths::show(path)),
        None => likely_dockerfile(&context.visible_names(b"")),
    };
    Err(ContextError::NoDockerfile { looked_for: names.iter().map(ToString::to_string).collect(), nearest })
}

fn read_stdin(stdin: &mut (dyn Read + Send)) -> Result<Vec<u8>, ContextError> {
    let text = limited(stdin, "standard input")?;
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

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
