//! Contexts that lie elsewhere: git repositories and downloads become directories first.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Cancel;
use crate::context::{self, ContextSpec, MainContext, UserPath};
use crate::event::{Event, Events, Outcome, VertexId, VertexKind};
use crate::plan::RemoteSource;
use crate::remote::{self, GitUrl, HttpFile, HttpUrl, RemoteError, SourceKind};
use crate::steps::remote::{Found, Remotes};
use crate::store::{Store, TempDir};

use super::failure::{Failure, FailureKind};
use super::named_context::{self, NamedContext};
use super::request::BuildRequest;

/// Opens contexts, bringing them here first where need be.
pub(super) struct Fetcher<'a> {
    store: &'a Store,
    remotes: Arc<Remotes>,
    events: &'a Events,
    cancel: &'a Cancel,
    scratch: Vec<TempDir>,
}

impl<'a> Fetcher<'a> {
    pub fn new(store: &'a Store, remotes: Remotes, events: &'a Events, cancel: &'a Cancel) -> Self {
        Fetcher { store, remotes: Arc::new(remotes), events, cancel, scratch: Vec::new() }
    }

    /// What steps fetch with, and the directories that must live as long as the build.
    pub fn finish(self) -> (Arc<Remotes>, Vec<TempDir>) {
        (self.remotes, self.scratch)
    }

    fn directory(&mut self) -> Result<PathBuf, Failure> {
        let dir = self.store.temp_dir()?;
        let path = dir.path().to_owned();
        self.scratch.push(dir);
        Ok(path)
    }

    /// Opens the main context, and tells its own time if it has one: that of a git context's commit,
    /// or of a download.
    pub fn main(
        &mut self,
        request: &BuildRequest,
        stdin: &mut (dyn Read + Send),
    ) -> Result<(MainContext, Option<i64>), Failure> {
        let mut spec = ContextSpec {
            path: request.context.clone(),
            dockerfile: request.dockerfile.clone(),
            dockerfile_text: request.dockerfile_text.clone(),
            fetched: request.fetched.clone(),
            downloaded: None,
            cwd: request.cwd.clone(),
        };
        if let Some(url) =
            spec.dockerfile.as_ref().filter(|_| &*spec.path != "-" && request.dockerfile_text.is_none())
        {
            spec.dockerfile_text = self.remote_dockerfile(url, &spec.cwd)?;
        }
        let is_here = &*spec.path == "-" || spec.cwd.join(&spec.path).exists();
        let kind = if is_here { SourceKind::None } else { context_source(&spec.path)? };
        if !matches!(kind, SourceKind::None) && spec.dockerfile_text.is_none() {
            spec.dockerfile_text = local_dockerfile(spec.dockerfile.as_ref(), stdin)?;
        }
        let scratch = self.directory()?;
        match kind {
            SourceKind::None => {
                let main = context::open_main(&spec, stdin, &scratch, self.cancel)
                    .map_err(|error| self.failure(error))?;
                Ok((main, None))
            }
            SourceKind::Git(url) => {
                let keep = request.build_args.iter().rev();
                let keep = keep.into_iter().find(|(name, _)| name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
                let keep = keep.is_some_and(|(_, value)| matches!(value.as_str(), "1" | "true"));
                let (tree, time) = self.checkout(url, keep, &scratch)?;
                Ok((context::open_tree(&tree, &spec)?, Some(time)))
            }
            SourceKind::Http(url) => {
                let file = self.download(&url)?;
                let mut stream = open(&file)?;
                let shown = remote::without_credentials(&spec.path);
                let downloaded = Some(file.last_modified.unwrap_or(0));
                let spec = ContextSpec { path: "-".into(), downloaded, ..spec };
                let main = context::open_main(&spec, &mut stream, &scratch, self.cancel)
                    .map_err(|error| Failure::new(FailureKind::Context, format!("{shown}: {error}")))?;
                Ok((main, file.last_modified))
            }
        }
    }

    /// `-f URL`
    fn remote_dockerfile(&self, text: &UserPath, cwd: &Path) -> Result<Option<Vec<u8>>, Failure> {
        if cwd.join(text).exists() {
            return Ok(None);
        }
        let SourceKind::Http(url) = context_source(text)? else { return Ok(None) };
        let file = self.download(&url)?;
        Ok(Some(context::read_limited(open(&file)?, &remote::without_credentials(text))?))
    }

    /// Opens a value of `--build-context`, and tells its own time: that of a commit, of a download, or of the
    /// newest file of a downloaded archive. A downloaded archive is unpacked; any other download is a directory with that one file.
    pub fn named(&mut self, value: &UserPath, cwd: &Path) -> Result<(NamedContext, Option<i64>), Failure> {
        if cwd.join(value).exists() {
            return Ok((named_context::classify(value, cwd)?, None));
        }
        match context_source(value)? {
            SourceKind::None => Ok((named_context::classify(value, cwd)?, None)),
            SourceKind::Git(url) => {
                let scratch = self.directory()?;
                let (tree, time) = self.checkout(url, false, &scratch)?;
                Ok((NamedContext::Fetched(tree), Some(time)))
            }
            SourceKind::Http(url) => {
                let file = self.download(&url)?;
                let scratch = self.directory()?.join("files");
                let mut newest = None;
                if crate::steps::add::is_archive(open(&file)?) {
                    newest = context::unpack_archive(open(&file)?, &scratch)?;
                } else {
                    let name = scratch.join(&file.name);
                    let copied = std::fs::create_dir(&scratch)
                        .and_then(|()| std::fs::copy(&file.path, &name))
                        .and_then(|_| std::fs::set_permissions(&name, private()));
                    copied.map_err(|error| {
                        Failure::new(FailureKind::Store, format!("cannot write {}: {error}", name.display()))
                    })?;
                }
                Ok((NamedContext::Fetched(scratch), file.last_modified.or(newest)))
            }
        }
    }

    /// The time of a remote source: of a commit, a download, or the newest file of a downloaded archive.
    pub fn time_of(&mut self, source: &RemoteSource) -> Result<Option<i64>, Failure> {
        let title = format!("resolve SOURCE_DATE_EPOCH of {}", remote::without_credentials(&source.url));
        let scratch = self.directory()?;
        let found = self.vertex(title, |vertex| {
            let item = remote::without_credentials(&source.url);
            let progress = |current, total| {
                self.events.send(Event::Progress { vertex, item: item.clone(), current, total });
            };
            let found = self.remotes.find(source, &progress, self.cancel)?;
            let Found::Commit { source, resolved, .. } = &found else { return Ok((found, None)) };
            let (_, time) = self.remotes.checkout(source, resolved, &scratch, self.cancel)?;
            Ok((found, Some(time)))
        })?;
        match found {
            (Found::File { file, .. }, _) => match file.last_modified {
                Some(time) => Ok(Some(time)),
                None => Ok(context::newest_file(open(&file)?)),
            },
            (Found::Commit { .. }, time) => Ok(time),
        }
    }

    /// Reading that was interrupted fails in the words of what was read.
    fn failure(&self, error: context::ContextError) -> Failure {
        if self.cancel.is_cancelled() { context::ContextError::Canceled.into() } else { error.into() }
    }

    fn checkout(&self, url: GitUrl, keep: bool, dir: &Path) -> Result<(PathBuf, i64), Failure> {
        let title = format!("load git source {url}");
        self.vertex(title, |_| {
            let (source, resolved) = self.remotes.resolve(&url, keep, self.cancel)?;
            let dir = dir.join("git");
            std::fs::create_dir(&dir).map_err(|source| RemoteError::Io {
                action: "create",
                path: dir.clone(),
                source,
            })?;
            self.remotes.checkout(&source, &resolved, &dir, self.cancel)
        })
    }

    fn download(&self, url: &HttpUrl) -> Result<HttpFile, Failure> {
        self.vertex(format!("load remote build context {url}"), |vertex| {
            let item = url.to_string();
            let progress = |current, total| {
                self.events.send(Event::Progress { vertex, item: item.clone(), current, total });
            };
            self.remotes.download(url, None, &progress, self.cancel)
        })
    }

    fn vertex<T>(
        &self,
        title: String,
        work: impl FnOnce(VertexId) -> Result<T, RemoteError>,
    ) -> Result<T, Failure> {
        vertex(self.events, title, work)
    }
}

/// Shows something that is fetched as a step.
pub(super) fn vertex<T>(
    events: &Events,
    title: String,
    work: impl FnOnce(VertexId) -> Result<T, RemoteError>,
) -> Result<T, Failure> {
    let vertex = events.add(VertexKind::Internal, title);
    events.send(Event::Started { vertex });
    let begun = Instant::now();
    let result = work(vertex);
    let outcome = match &result {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(error.to_string()),
    };
    events.send(Event::Finished { vertex, outcome, elapsed: begun.elapsed() });
    result.map_err(failure)
}

/// The Dockerfile for a context that lies elsewhere: on standard input, or at an absolute path. Any other
/// name is one of the context.
fn local_dockerfile(
    name: Option<&UserPath>,
    stdin: &mut (dyn Read + Send),
) -> Result<Option<Vec<u8>>, Failure> {
    let Some(name) = name else { return Ok(None) };
    if &**name == "-" {
        return Ok(Some(context::read_limited(stdin, "standard input")?));
    }
    let path: &Path = name.as_ref();
    if !path.is_absolute() {
        return Ok(None);
    }
    let file = File::open(path).map_err(|error| {
        Failure::new(FailureKind::Context, format!("cannot read the Dockerfile {name}: {error}"))
    })?;
    Ok(Some(context::read_limited(file, name)?))
}

fn private() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o600)
}

fn context_source(text: &str) -> Result<SourceKind, Failure> {
    remote::context_source(text).map_err(failure)
}

pub(super) fn failure(error: RemoteError) -> Failure {
    if let RemoteError::Forbidden(forbidden) = error {
        return Failure::forbidden(forbidden, FailureKind::Context);
    }
    let kind = if error.is_cancelled() { FailureKind::Interrupted } else { FailureKind::Context };
    Failure::new(kind, error.to_string())
}

fn open(file: &HttpFile) -> Result<Box<dyn Read + Send>, Failure> {
    if file.size == 0 {
        return Ok(Box::new(Cursor::new(Vec::new())));
    }
    let opened = File::open(&file.path).map_err(|error| {
        Failure::new(FailureKind::Store, format!("cannot read {}: {error}", file.path.display()))
    })?;
    Ok(Box::new(opened))
}
