//! Images into the storage of Podman, Buildah and CRI-O and out of it, by one of their programs.
//!
//! The storage is a library's, not a format: only what links that library may touch it. skopeo takes an
//! image over byte by byte; podman and buildah read an OCI archive, which keeps the digest of what has
//! OCI media types. Layers lie unpacked in there, so what comes out is compressed anew: config and image
//! ID stay, the manifest's digest does not.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::child;
use crate::export::{self, ExportImage};
use crate::image::{Descriptor, Reference};
use crate::store::TempDir;

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::request::EngineAddress;
use super::transfer::{Source, Transfer, bare};

/// How `containers-storage:` is reached.
#[derive(Clone, Debug, Default)]
pub struct StorageTools {
    /// Where skopeo, podman and buildah are looked for, as in `PATH`.
    pub search_path: Option<OsString>,
    /// User and group ID of the ordinary user who is root in the namespace of this process; the storage is
    /// theirs.
    pub rootless: Option<(u32, u32)>,
}

/// What is handed over, in a directory of its own.
const ARCHIVE: &str = "image.tar";

/// How much of what a program said goes into an error: lines, and characters of them.
const MOST_LINES: usize = 8;
const MOST_WORDS: usize = 2000;

/// A way into the storage.
enum Tool {
    Skopeo(PathBuf),
    Podman(PathBuf),
    Buildah(PathBuf),
    /// Podman's service, by Docker's API.
    Service(EngineAddress),
}

impl Transfer<'_> {
    /// Puts an image of the store into the storage under `name`. Gives the descriptor it has there.
    pub(super) fn store_in_containers(
        &self,
        top: &Descriptor,
        name: &Reference,
    ) -> Result<Descriptor, Failure> {
        let what = format!("cannot copy to containers-storage:{}", name.familiar());
        let tool = self.storage_tool(FailureKind::Output, &what)?;
        let dir = self.store.temp_dir()?;
        let archive = dir.path().join(ARCHIVE);
        let written = |form: &Place| self.write(top, &[], form, &archive, Some(name.clone()));
        let run = |program: &Path, arguments: &[&str]| {
            self.run_tool(program, arguments, dir.path(), FailureKind::Output, &what)
        };
        match tool {
            Tool::Skopeo(program) => {
                self.as_directory(top, &dir)?;
                let target = format!("containers-storage:{name}");
                let flags = ["--insecure-policy", "copy", "--quiet", "--preserve-digests"];
                run(&program, &[&flags[..], &["dir:image", &target]].concat())?;
                Ok(bare(top))
            }
            Tool::Podman(program) => {
                let descriptor = written(&Place::OciArchive(archive.clone(), None))?;
                run(&program, &["load", "--quiet", "--input", ARCHIVE])?;
                Ok(descriptor)
            }
            Tool::Buildah(program) => {
                let descriptor = written(&Place::OciArchive(archive.clone(), None))?;
                run(&program, &["pull", "--quiet", &format!("oci-archive:{ARCHIVE}")])?;
                Ok(descriptor)
            }
            Tool::Service(engine) => {
                let descriptor = written(&Place::DockerArchive(archive.clone(), None))?;
                super::load::into_engine(&[engine], &archive, self.cancel)?;
                Ok(descriptor)
            }
        }
    }

    /// Opens an image of the storage, by way of a temporary copy.
    pub(super) fn open_containers(&self, name: &Reference) -> Result<Source, Failure> {
        let what = format!("cannot get containers-storage:{}", name.familiar());
        let tool = self.storage_tool(FailureKind::Base, &what)?;
        let dir = self.store.temp_dir()?;
        let archive = dir.path().join(ARCHIVE);
        let full = name.to_string();
        let run = |program: &Path, arguments: &[&str]| {
            let done = self.run_tool(program, arguments, dir.path(), FailureKind::Base, &what);
            done.map_err(|failure| match (failure.kind, name.domain.as_str()) {
                (FailureKind::Base, domain) if domain != "localhost" => failure
                    .help("`podman images` lists what is there; images that Podman built are localhost/NAME"),
                _ => failure,
            })
        };
        let path = match tool {
            Tool::Skopeo(program) => {
                let source = format!("containers-storage:{full}");
                run(&program, &["--insecure-policy", "copy", "--quiet", &source, "oci:image:image"])?;
                dir.path().join("image")
            }
            Tool::Podman(program) => {
                run(&program, &["save", "--quiet", "--format", "oci-archive", "--output", ARCHIVE, &full])?;
                archive
            }
            Tool::Buildah(program) => {
                run(&program, &["push", "--quiet", &full, &format!("oci-archive:{ARCHIVE}")])?;
                archive
            }
            Tool::Service(engine) => {
                super::load::from_engine(&[engine], &full, &archive, self.cancel)?;
                archive
            }
        };
        Ok(Source { _held: Some(dir), ..self.open(&Place::OciArchive(path, None))? })
    }

    /// The first that there is. A service serves a storage of its own choice, so programs, which take the
    /// one the user's settings name, come first.
    fn storage_tool(&self, kind: FailureKind, what: &str) -> Result<Tool, Failure> {
        let path = self.storage.search_path.as_deref().unwrap_or_default();
        let find = |name: &str| {
            let dirs = std::env::split_paths(path).filter(|dir| dir.is_absolute());
            dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
        };
        let program = (find("skopeo").map(Tool::Skopeo))
            .or_else(|| find("podman").map(Tool::Podman))
            .or_else(|| find("buildah").map(Tool::Buildah));
        let podmans = |engine: &&EngineAddress| matches!(engine, EngineAddress::Unix(path) if path.ends_with("podman/podman.sock") && path.exists());
        let service = || self.engines.iter().find(podmans).cloned().map(Tool::Service);
        program.or_else(service).ok_or_else(|| {
            let message = format!(
                "{what}: neither skopeo, podman nor buildah is on PATH, and Podman's API socket is not there"
            );
            Failure::new(kind, message).help("install one of them, or hand an archive over: oci-archive:FILE")
        })
    }

    /// The image as skopeo's `dir:` has it: `manifest.json`, and blobs named by the digits of their
    /// digests. No manifest has to be converted for it.
    fn as_directory(&self, top: &Descriptor, dir: &TempDir) -> Result<(), Failure> {
        let (layout, image) = (dir.path().join("layout"), dir.path().join("image"));
        let images = [ExportImage { descriptor: bare(top), names: Vec::new(), created: None }];
        export::oci::write_directory(self.store, &images, &layout, self.cancel)?;
        let blobs = layout.join("blobs/sha256");
        let linked = || -> std::io::Result<()> {
            std::fs::create_dir(&image)?;
            std::fs::write(image.join("version"), "Directory Transport Version: 1.1\n")?;
            std::fs::rename(blobs.join(top.digest.hex()), image.join("manifest.json"))?;
            for blob in std::fs::read_dir(&blobs)? {
                let blob = blob?;
                std::fs::rename(blob.path(), image.join(blob.file_name()))?;
            }
            Ok(())
        };
        linked().map_err(|error| {
            Failure::new(FailureKind::Store, format!("cannot write {}: {error}", image.display()))
        })
    }

    /// Runs a program in `dir`, so that no path of this machine has to be written in an address.
    fn run_tool(
        &self,
        program: &Path,
        arguments: &[&str],
        dir: &Path,
        kind: FailureKind,
        what: &str,
    ) -> Result<(), Failure> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(dir).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some((uid, gid)) = self.storage.rootless {
            // So these programs mark the namespace that they make themselves: they take this one instead.
            command.env("_CONTAINERS_USERNS_CONFIGURED", "done");
            command.env("_CONTAINERS_ROOTLESS_UID", uid.to_string());
            command.env("_CONTAINERS_ROOTLESS_GID", gid.to_string());
        }
        let failed = |why: &str| {
            let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
            Failure::new(kind, format!("{what}: {name}: {why}"))
        };
        let io = |error: std::io::Error| failed(&error.to_string());
        let mut running = command.spawn().map_err(io)?;
        let words = child::collect(running.stderr.take());
        let status = child::wait(&mut running, self.cancel).map_err(io)?;
        let words = words.and_then(|thread| thread.join().ok()).unwrap_or_default();
        match status {
            None => Err(Failure::new(FailureKind::Interrupted, "canceled")),
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed(&last_words(&words).unwrap_or_else(|| status.to_string()))),
        }
    }
}

/// The last lines that a program said, as one, without what could drive a terminal.
fn last_words(said: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(MOST_LINES)..).unwrap_or_default().join("; ");
    let text: String = last.chars().filter(|c| !c.is_control()).take(MOST_WORDS).collect();
    (!text.is_empty()).then_some(text)
}
