//! Places images are copied between, as users write them: `docker://`, `oci:` and the rest.

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::image::{Reference, Selector};

use super::failure::{Failure, FailureKind};

/// A place that an image is in, or is to come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `docker://NAME`: a registry.
    Registry(Reference),
    /// `store:NAME`: this store.
    Store(Reference),
    /// `oci:DIR[:NAME]`, `oci-layout:DIR[:NAME]`: a layout directory.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:NAME]`.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`.
    DockerArchive(PathBuf, Option<String>),
    /// `docker-daemon:NAME`: a running Docker or Podman.
    Engine(Reference),
    /// `containers-storage:NAME`: the storage of Podman, Buildah and CRI-O.
    Containers(Reference),
}

/// Transports of other tools, which users may try.
const FOREIGN: [&str; 4] = ["containerd", "dir", "sif", "ostree"];

impl Place {
    /// Parses `TRANSPORT:...`. Paths are relative to `cwd`.
    pub fn parse(text: &str, cwd: &Path) -> Result<Self, Failure> {
        let usage = |message: String| Failure::new(FailureKind::Usage, message);
        let known = "docker://NAME, store:NAME, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, docker-daemon:NAME \
                     or containers-storage:NAME";
        let Some((transport, rest)) = text.split_once(':') else {
            return Err(usage(format!("{text:?} names no transport")).help(format!("write {known}")));
        };
        if rest.trim_start_matches('/').is_empty() {
            return Err(usage(format!("{text:?} names no image")).help(format!("write {known}")));
        }
        let split = |rest: &str| {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            let (path, name) = split_path(rest, cwd);
            if path.as_os_str().is_empty() {
                return Err(usage(format!("{text:?} has no path")).help(format!("write {known}")));
            }
            Ok((cwd.join(path), name))
        };
        Ok(match transport {
            "docker" => {
                let name = rest.strip_prefix("//");
                let name = name.ok_or_else(|| usage(format!("write docker://{rest} instead of {text}")))?;
                Place::Registry(reference(name)?)
            }
            "store" => Place::Store(reference(rest.strip_prefix("//").unwrap_or(rest))?),
            "oci" | "oci-layout" => {
                let (path, name) = split(rest)?;
                Place::Layout(path, name)
            }
            "oci-archive" => {
                let (path, name) = split(rest)?;
                Place::OciArchive(path, name)
            }
            "docker-archive" => {
                let (path, name) = split(rest)?;
                Place::DockerArchive(path, name)
            }
            "docker-daemon" => Place::Engine(reference(rest.strip_prefix("//").unwrap_or(rest))?),
            "containers-storage" if rest.starts_with('[') => {
                let message = "containers-storage:[...]: storage specifiers are not supported";
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .help("choose the storage with CONTAINERS_STORAGE_CONF, and name the image only"));
            }
            "containers-storage" => Place::Containers(reference(rest.strip_prefix("//").unwrap_or(rest))?),
            foreign if FOREIGN.contains(&foreign) => {
                return Err(Failure::new(FailureKind::Unsupported, format!("{foreign}: is not supported"))
                    .help(format!("write {known}; archives can be handed from tool to tool")));
            }
            other => {
                return Err(usage(format!("unknown transport {other:?}")).help(format!("write {known}")));
            }
        })
    }

    /// Whether a text names a place, and not only an image.
    pub(super) fn has_transport(text: &str) -> bool {
        let transport = text.split(':').next().unwrap_or_default();
        let known = ["docker", "store", "oci", "oci-layout", "oci-archive", "docker-archive"];
        let foreign = FOREIGN.contains(&transport) && text.contains(':');
        // Nobody names a repository like this.
        let clear = ["oci-layout", "oci-archive", "docker-archive", "docker-daemon", "containers-storage"]
            .contains(&transport)
            && text.contains(':');
        // `store:app` could be the image `store` with the tag `app`; the transport is meant.
        text.starts_with("store:")
            || text.contains("://")
            || (known.contains(&transport) && text.contains('/'))
            || foreign
            || clear
    }

    /// The word before the colon, for messages.
    pub(super) fn transport(&self) -> &'static str {
        match self {
            Place::Registry(_) => "docker",
            Place::Store(_) => "store",
            Place::Layout(..) => "oci",
            Place::OciArchive(..) => "oci-archive",
            Place::DockerArchive(..) => "docker-archive",
            Place::Engine(_) => "docker-daemon",
            Place::Containers(_) => "containers-storage",
        }
    }

    /// The place of another manifest beside this one, as users may write it: `docker://REPOSITORY@DIGEST`.
    pub fn beside(&self, digest: &Digest) -> String {
        match self {
            Place::Store(name) if name.stands_for_digest() => format!("store:{digest}"),
            Place::Registry(name) | Place::Store(name) | Place::Engine(name) | Place::Containers(name) => {
                let slashes = if matches!(self, Place::Registry(_)) { "//" } else { "" };
                format!("{}:{slashes}{}@{digest}", self.transport(), name.familiar_repository())
            }
            Place::Layout(path, _) | Place::OciArchive(path, _) | Place::DockerArchive(path, _) => {
                format!("{}:{}@{digest}", self.transport(), path.display())
            }
        }
    }

    /// The name that the place gives its image, where it is a whole one.
    pub(super) fn name(&self) -> Option<Reference> {
        match self {
            Place::Registry(name) | Place::Store(name) | Place::Engine(name) | Place::Containers(name) => {
                Some(name.clone()).filter(|name| !name.stands_for_digest())
            }
            Place::Layout(_, name) | Place::OciArchive(_, name) | Place::DockerArchive(_, name) => {
                let name = name.as_ref().filter(|name| name.contains([':', '/']))?;
                Reference::parse(name).ok().map(Reference::with_default_tag)
            }
        }
    }
}

fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text)
        .map(Reference::with_default_tag)
        .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// `PATH[:NAME]` or `PATH[@DIGEST]`. A path that exists is taken whole; else the name begins at the
/// first colon after the last part of an existing path, or at the first of all.
fn split_path(text: &str, cwd: &Path) -> (PathBuf, Option<String>) {
    if cwd.join(text).exists() {
        return (text.into(), None);
    }
    let cuts = || text.match_indices([':', '@']).map(|(at, _)| at);
    let found = cuts().find(|at| cwd.join(&text[..*at]).exists()).or_else(|| cuts().next());
    match found {
        Some(at) => (text[..at].into(), Some(text[at + 1..].to_owned()).filter(|name| !name.is_empty())),
        None => (text.into(), None),
    }
}

/// Which image of a layout or archive is meant.
pub(super) fn selector(name: Option<&String>) -> Selector {
    name.map_or(Selector::Only, |name| Selector::parse(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn places_are_told_apart() -> Outcome {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("odd:name"))?;
        let parse = |text: &str| Place::parse(text, dir.path());
        let at = |path: &str| dir.path().join(path);
        let name = |text: &str| Reference::parse(text).map(Reference::with_default_tag);
        assert_eq!(parse("docker://app")?, Place::Registry(name("app")?));
        assert_eq!(parse("store:app:1")?, Place::Store(name("app:1")?));
        assert_eq!(parse("docker-daemon:app:1")?, Place::Engine(name("app:1")?));
        assert_eq!(parse("containers-storage:localhost/app")?, Place::Containers(name("localhost/app")?));
        assert_eq!(parse("oci:d")?, Place::Layout(at("d"), None));
        assert_eq!(parse("oci:d:1.0")?, Place::Layout(at("d"), Some("1.0".into())));
        assert_eq!(parse("oci:odd:name:1")?, Place::Layout(at("odd:name"), Some("1".into())));
        assert_eq!(parse("oci-layout:///x/y")?, Place::Layout("/x/y".into(), None));
        let digest = crate::digest::Digest::of(b"").to_string();
        assert_eq!(parse(&format!("oci:d@{digest}"))?, Place::Layout(at("d"), Some(digest)));
        let archive = parse("docker-archive:f.tar:reg.example.test/a:1")?;
        assert_eq!(archive.name(), Some(name("reg.example.test/a:1")?));
        assert_eq!(parse("oci-archive:f.tar:1")?.name(), None);
        for (text, kind) in [
            ("app", FailureKind::Usage),
            ("docker:app", FailureKind::Usage),
            ("docker://", FailureKind::Usage),
            ("ftp:x", FailureKind::Usage),
            ("containerd:app", FailureKind::Unsupported),
            ("containers-storage:[vfs@/x]app", FailureKind::Unsupported),
            ("containers-storage:", FailureKind::Usage),
        ] {
            assert_eq!(parse(text).err().map(|failure| failure.kind), Some(kind), "{text}");
        }
        for (text, has) in [
            ("here:1", false),
            ("oci:1", false),
            ("localhost:5000/app", false),
            ("oci:./d:1", true),
            ("oci-archive:f.tar", true),
            ("store:app", true),
            ("containerd:app", true),
        ] {
            assert_eq!(Place::has_transport(text), has, "{text}");
        }
        Ok(())
    }
}
