//! `--context`, `--context-sub-path`, `--dockerfile` and `--git`: where the files to build are.

use std::path::{Path, PathBuf};

use crate::build::{Failure, FailureKind};
use crate::context::{UserPath, read_limited};

use super::super::flags::boolean;
use super::Variables;
use super::line::Line;

/// Where the files are when nobody says so.
const DEFAULT: &str = "/workspace/";

/// Hosts of Azure's blobs, behind the name of the account.
const AZURE: [&str; 4] = [
    ".blob.core.windows.net",
    ".blob.core.cloudapi.de",
    ".blob.core.chinacloudapi.cn",
    ".blob.core.usgovcloudapi.net",
];

/// The build context.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// For [`crate::build::BuildRequest::context`].
    pub context: UserPath,
    /// The archive that takes the place of standard input.
    pub archive: Option<PathBuf>,
    /// The part of an archive that is built.
    pub subdir: Option<UserPath>,
    /// The Dockerfile's name.
    pub dockerfile: UserPath,
    /// Its text, where it is no file of the context.
    pub dockerfile_text: Option<Vec<u8>>,
}

fn usage(message: String) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

fn unsupported(message: String, help: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, message).help(help)
}

impl Source {
    /// Reads the flags. Paths are relative to `cwd`.
    pub fn of(line: &Line, variables: &Variables, cwd: &Path) -> Result<Self, Failure> {
        let given = line.one("context").unwrap_or(DEFAULT);
        let subdir = line.one("context-sub-path").map(UserPath::from);
        let dockerfile = line.one("dockerfile").unwrap_or("Dockerfile");
        let fetched = |context: String, archive: Option<PathBuf>, subdir: Option<UserPath>| {
            // As in Kaniko, a file of the working directory comes first.
            let dockerfile_text = local_dockerfile(dockerfile, cwd)?;
            let (context, dockerfile) = (context.into(), dockerfile.into());
            Ok(Source { context, archive, subdir, dockerfile, dockerfile_text })
        };
        match given.split_once("://") {
            None => Self::directory(given, subdir, dockerfile, cwd),
            Some(("dir", path)) => Self::directory(path, subdir, dockerfile, cwd),
            Some(("tar", "stdin")) => fetched("-".into(), None, subdir),
            Some(("tar", path)) => fetched("-".into(), Some(cwd.join(path)), subdir),
            Some(("git", rest)) => {
                fetched(git_address(rest, line, variables, subdir.as_deref())?, None, None)
            }
            Some(("https", rest)) if is_azure(rest) => Err(unsupported(
                format!("--context {given}: Azure Blob Storage is not supported yet"),
                "download the archive first and name it: --context tar://FILE",
            )),
            Some(("https", _)) => fetched(given.to_owned(), None, subdir),
            Some((scheme @ ("gs" | "s3"), _)) => Err(unsupported(
                format!("--context {scheme}:// is not supported yet"),
                "download the archive first and name it: --context tar://FILE",
            )),
            Some((scheme, _)) => Err(usage(format!("--context has no form {scheme}://"))
                .help("there are dir://, tar://, git:// and https://")),
        }
    }

    fn directory(
        path: &str,
        subdir: Option<UserPath>,
        dockerfile: &str,
        cwd: &Path,
    ) -> Result<Self, Failure> {
        let mut context = PathBuf::from(path);
        if let Some(subdir) = subdir {
            context.push(subdir.trim_start_matches('/'));
        }
        let is_here = dockerfile.contains("://") || cwd.join(dockerfile).exists();
        let file = if is_here { dockerfile.into() } else { context.join(dockerfile).into() };
        let context = context.into();
        Ok(Source { context, archive: None, subdir: None, dockerfile: file, dockerfile_text: None })
    }
}

/// The Dockerfile for files that come from elsewhere, if it is a file of this machine.
fn local_dockerfile(name: &str, cwd: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let path = cwd.join(name);
    if name.contains("://") || !path.is_file() {
        return Ok(None);
    }
    let file = std::fs::File::open(&path).map_err(|error| {
        Failure::new(FailureKind::Context, format!("cannot read the Dockerfile {name}: {error}"))
    })?;
    Ok(Some(read_limited(file, name)?))
}

fn is_azure(address: &str) -> bool {
    let host = address.split(['/', '?', ':']).next().unwrap_or_default();
    AZURE.iter().any(|suffix| host.ends_with(suffix))
}

/// `git://REPOSITORY[#REF][#COMMIT]` as an address that rbuild knows. Kaniko speaks http to all of them, takes no
/// submodules unless told to, and leaves `.git` in the context.
fn git_address(
    text: &str,
    line: &Line,
    variables: &Variables,
    subdir: Option<&str>,
) -> Result<String, Failure> {
    let (mut branch, mut submodules) = (None, false);
    for option in line.many("git") {
        let (name, value) =
            option.split_once('=').ok_or_else(|| usage(format!("--git {option}: expected NAME=VALUE")))?;
        let on = || boolean(value).ok_or_else(|| usage(format!("--git {option}: {name} is true or false")));
        match name {
            "branch" => branch = Some(value).filter(|value| !value.is_empty()),
            "recurse-submodules" => submodules = on()?,
            // Only the commit that is built is ever fetched.
            "single-branch" => drop(on()?),
            "insecure-skip-tls" if on()? => {
                return Err(unsupported(
                    "--git insecure-skip-tls=true is not supported".to_owned(),
                    "add the server's certificate authority to the system, or name its file in SSL_CERT_FILE",
                ));
            }
            "insecure-skip-tls" => {}
            _ => {
                return Err(usage(format!("--git has no option {name:?}"))
                    .help("there are branch, single-branch, recurse-submodules and insecure-skip-tls"));
            }
        }
    }
    let mut parts = text.split('#');
    let repository = parts.next().unwrap_or_default();
    let (reference, commit) = (parts.next().filter(|part| !part.is_empty()), parts.next());
    let commit = commit.filter(|part| !part.is_empty()).or(reference.filter(|text| is_hash(text)));
    if repository.contains('?') {
        return Err(usage(format!(
            "--context git://{repository}: what is wanted comes behind #, not behind ?"
        )));
    }
    let method = match variables.get("GIT_PULL_METHOD").as_deref() {
        Some("http") => "http",
        _ => "https",
    };
    let user =
        match (variables.get("GIT_TOKEN"), variables.get("GIT_USERNAME"), variables.get("GIT_PASSWORD")) {
            (Some(token), ..) => Some(escaped(&token)),
            (None, None, None) => None,
            (None, user, password) => Some(format!(
                "{}:{}",
                escaped(&user.unwrap_or_default()),
                escaped(&password.unwrap_or_default())
            )),
        };
    let repository = match (&user, repository.split_once('@')) {
        (Some(user), Some((_, bare))) if !bare.is_empty() => format!("{user}@{bare}"),
        (Some(user), _) => format!("{user}@{repository}"),
        (None, _) => repository.to_owned(),
    };
    let mut address =
        format!("git+{method}://{repository}?keep-git-dir=1&submodules={}", u8::from(submodules));
    if let Some(wanted) = commit.or(branch).or(reference) {
        address.push_str(&format!("&ref={}", escaped(wanted)));
    }
    if let Some(subdir) = subdir {
        address.push_str(&format!("&subdir={}", escaped(subdir)));
    }
    Ok(address)
}

fn is_hash(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Percent-encoding of everything that means something in an address.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn source(text: &str, variables: &[(&str, &str)]) -> Result<Source, String> {
        let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        let line = Line::parse(&words).map_err(|failure| failure.message)?;
        let variables = Variables::of(variables);
        Source::of(&line, &variables, Path::new("/nowhere")).map_err(|failure| failure.message)
    }

    #[test]
    fn contexts_are_where_kaniko_finds_them() {
        for (flags, context, file) in [
            ("", "/workspace/", "/workspace/Dockerfile"),
            ("-c dir:///w", "/w", "/w/Dockerfile"),
            ("--context=app --dockerfile=build/File", "app", "app/build/File"),
            ("--context dir:///w --context-sub-path sub/", "/w/sub/", "/w/sub/Dockerfile"),
            ("--context /w -f https://host.test/D", "/w", "https://host.test/D"),
            ("--context tar://stdin -f D", "-", "D"),
            ("--context tar:///a/c.tar.gz", "-", "Dockerfile"),
            ("--context https://host.test/c.tar.gz", "https://host.test/c.tar.gz", "Dockerfile"),
        ] {
            let found = source(flags, &[]).unwrap_or_else(|error| panic!("{flags}: {error}"));
            assert_eq!((&*found.context, &*found.dockerfile), (context, file), "{flags}");
        }
        let archive = source("--context tar://c.tar --context-sub-path a/b", &[]).expect("a source");
        assert_eq!(archive.archive, Some("/nowhere/c.tar".into()));
        assert_eq!(archive.subdir.as_deref(), Some("a/b"));
    }

    #[test]
    fn git_repositories_are_taken_at_what_is_asked_for() {
        const HASH: &str = "0123456789012345678901234567890123456789";
        let common = "?keep-git-dir=1&submodules=0";
        for (flags, variables, address) in [
            ("git://host.test/p", &[][..], format!("git+https://host.test/p{common}")),
            (
                "git://host.test/p.git#refs/heads/a",
                &[],
                format!("git+https://host.test/p.git{common}&ref=refs/heads/a"),
            ),
            (
                &format!("git://h.test/p#refs/heads/a#{HASH}"),
                &[],
                format!("git+https://h.test/p{common}&ref={HASH}"),
            ),
            (
                &format!("git://h.test/p#{HASH} --git branch=b"),
                &[],
                format!("git+https://h.test/p{common}&ref={HASH}"),
            ),
            (
                "git://h.test/p#refs/heads/a --git branch=b",
                &[],
                format!("git+https://h.test/p{common}&ref=b"),
            ),
            (
                "git://T@h.test/p --context-sub-path a&b",
                &[],
                format!("git+https://T@h.test/p{common}&subdir=a%26b"),
            ),
            ("git://T@h.test/p", &[("GIT_TOKEN", "x@y")], format!("git+https://x%40y@h.test/p{common}")),
            (
                "git://h.test/p",
                &[("GIT_USERNAME", "u"), ("GIT_PASSWORD", "p:w")],
                format!("git+https://u:p%3Aw@h.test/p{common}"),
            ),
            (
                "git://h.test/p --git recurse-submodules=true --git single-branch=true",
                &[("GIT_PULL_METHOD", "http")],
                "git+http://h.test/p?keep-git-dir=1&submodules=1".to_owned(),
            ),
        ] {
            let found = source(&format!("--context {flags}"), variables)
                .unwrap_or_else(|error| panic!("{flags}: {error}"));
            assert_eq!(*found.context, *address, "{flags}");
            let known = crate::remote::context_source(&found.context);
            assert!(matches!(known, Ok(crate::remote::SourceKind::Git(_))), "{address}");
        }
    }

    #[test]
    fn places_that_cannot_be_read_are_named() {
        for (flags, word) in [
            ("--context gs://b/c.tar.gz", "gs://"),
            ("--context s3://b/c.tar.gz", "s3://"),
            ("--context https://me.blob.core.windows.net/c/x.tar.gz", "Azure"),
            ("--context ftp://x", "ftp://"),
            ("--context git://h.test/p --git insecure-skip-tls=true", "insecure-skip-tls"),
            ("--context git://h.test/p --git depth=1", "depth"),
            ("--context git://h.test/p --git branch", "NAME=VALUE"),
            ("--context git://h.test/p?ref=a", "behind #"),
        ] {
            let message = source(flags, &[]).err().unwrap_or_default();
            assert!(message.contains(word), "{flags}: {message}");
        }
    }
}
