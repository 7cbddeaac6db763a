//! The files and mount points that are made for one run.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::super::spec::{EtcFiles, Mount, ProcessSpec, SandboxError};
use super::{c_path, c_string};

/// This run's private directory.
pub(super) struct Scratch<'a> {
    pub dir: &'a Path,
}

impl Scratch<'_> {
    pub fn make_dir(&self, name: &str) -> Result<PathBuf, SandboxError> {
        let path = self.dir.join(name);
        fs::create_dir(&path)
            .map_err(|error| SandboxError::setup(format!("create {}", path.display()), error))?;
        Ok(path)
    }

    pub fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), SandboxError> {
        let wrote =
            fs::write(path, content).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
        wrote.map_err(|error| SandboxError::setup(format!("write {}", path.display()), error))
    }

    /// The files of `/etc` that are mounted and never committed.
    pub fn etc_files(&self, spec: &ProcessSpec) -> Result<Vec<(CString, CString)>, SandboxError> {
        let dir = self.make_dir("etc")?;
        let mut hosts =
            format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", spec.hostname);
        for (name, address) in &spec.extra_hosts {
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        let mut files = vec![("hosts", hosts.into_bytes())];
        if spec.etc == EtcFiles::Own {
            files.push(("hostname", format!("{}\n", spec.hostname).into_bytes()));
        }
        if !spec.resolv_conf.is_empty() {
            files.push(("resolv.conf", spec.resolv_conf.clone()));
        }
        let mut mounts = Vec::new();
        for (name, content) in files {
            let path = dir.join(name);
            self.write(&path, &content, 0o644)?;
            mounts.push((c_path(&path)?, c_string(format!("etc/{name}").as_bytes(), "a path")?));
        }
        Ok(mounts)
    }

    /// A lowest layer with every mount point, so that none is ever made in the upper one: there is
    /// nothing to clean up afterwards, and so nothing a process could redirect (CVE-2024-23652).
    pub fn stubs(&self, mounts: &[&Mount], etc: EtcFiles) -> Result<PathBuf, SandboxError> {
        let stub = self.make_dir("stub")?;
        let failed = |error| SandboxError::setup("create mount points", error);
        for dir in ["proc", "sys", "dev", "etc"] {
            fs::create_dir(stub.join(dir)).map_err(failed)?;
        }
        let own: &[&str] = if etc == EtcFiles::Own { &["etc/hostname"] } else { &[] };
        for file in ["etc/hosts", "etc/resolv.conf"].iter().chain(own) {
            self.write(&stub.join(file), b"", 0o644)?;
        }
        for mount in mounts {
            let Some(path) = below(&stub, &mount.target) else {
                let target = String::from_utf8_lossy(&mount.target).into_owned();
                return Err(SandboxError::Invalid(format!("{target:?} cannot be a mount target")));
            };
            let is_file = !mount.kind.on_directory();
            if path.exists() {
                continue;
            }
            let parent = path.parent().unwrap_or(&stub);
            // A device tree of our own covers anything below /dev; its mount points are made there.
            fs::create_dir_all(if is_file { parent } else { &path }).map_err(failed)?;
            if is_file {
                self.write(&path, b"", 0o644)?;
            }
        }
        Ok(stub)
    }
}

/// `root` joined with an absolute path inside it; `None` for the root itself or anything with `..`.
fn below(root: &Path, target: &[u8]) -> Option<PathBuf> {
    let relative = target.strip_prefix(b"/")?;
    let parts: Vec<&[u8]> =
        relative.split(|c| *c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.is_empty() || parts.contains(&&b".."[..]) {
        return None;
    }
    Some(parts.iter().fold(root.to_owned(), |path, part| path.join(std::ffi::OsStr::from_bytes(part))))
}
