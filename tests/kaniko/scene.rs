//! A registry with the base of all builds, and a store that they share.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::registry::{Setup, TestRegistry};
use super::support::{Done, Lab, RBUILD, base, compiled, done, has, is_root, skip, tool};

/// A registry with the bases of the cases, and a store that all builds share.
pub struct Scene {
    pub lab: Lab,
    pub registry: TestRegistry,
    /// Runs a program as root of a container with an engine's default settings has it.
    container: Option<PathBuf>,
}

impl Scene {
    pub fn new(test: &str) -> Option<Self> {
        Self::with(test, Setup::default())
    }

    /// A scene whose executor can make neither namespaces nor mounts, as in Kaniko's containers.
    pub fn in_container(test: &str) -> Option<Self> {
        let mut scene = Self::new(test)?;
        let helper = scene.lab.path().join("container");
        if !is_root() {
            skip(test, "only root is root of a container");
            return None;
        }
        if !compiled(test, "container/container.c", &helper) {
            return None;
        }
        scene.container = Some(helper);
        Some(scene)
    }

    pub fn with(test: &str, setup: Setup) -> Option<Self> {
        let Some(layout) = base("busybox") else {
            skip(test, "tests/setup has not made the base images");
            return None;
        };
        if !has("skopeo") || !has("umoci") {
            skip(test, "skopeo and umoci are not installed");
            return None;
        }
        let Some(registry) = TestRegistry::with(setup).expect("a registry that starts") else {
            skip(test, "docker-registry is not installed");
            return None;
        };
        let scene = Scene { lab: Lab::new(), registry, container: None };
        symlink(RBUILD, scene.lab.path().join("executor")).expect("a link");
        let source = format!("oci:{}:latest", layout.display());
        let target = format!("docker://{}", scene.base());
        let insecure = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
        let words = insecure.iter().copied().chain([source.as_str(), target.as_str()]);
        tool("skopeo", &words.map(OsStr::new).collect::<Vec<_>>());
        Some(scene)
    }

    pub fn base(&self) -> String {
        format!("{}/base/busybox:1", self.registry.host())
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    /// Runs the executor by its own name.
    pub fn executor<S: AsRef<OsStr>>(&self, flags: impl IntoIterator<Item = S>) -> Done {
        self.executor_with(flags, |_| ())
    }

    pub fn executor_with<S: AsRef<OsStr>>(
        &self,
        flags: impl IntoIterator<Item = S>,
        change: impl FnOnce(&mut Command),
    ) -> Done {
        let (plain, link) = (self.lab.rbuild(), self.lab.path().join("executor"));
        let mut command = Command::new(self.container.as_ref().unwrap_or(&link));
        if self.container.is_some() {
            command.arg(&link);
        }
        command.args(flags).env_clear().stdin(Stdio::null()).current_dir(self.lab.path());
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        change(&mut command);
        done(command.output().expect("rbuild starts"))
    }

    /// A context whose Dockerfile stands on the base.
    pub fn context(&self, files: &[(&str, &str)]) -> String {
        let files: Vec<(&str, String)> =
            files.iter().map(|(name, text)| (*name, text.replace("BASE", &self.base()))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        self.lab.context(&files).display().to_string()
    }

    pub fn inspect(&self, name: &str) -> Value {
        let words = ["inspect", "--tls-verify=false", &format!("docker://{name}")];
        serde_json::from_str(&tool("skopeo", &words.map(OsStr::new)).out).expect("JSON from skopeo")
    }
}
