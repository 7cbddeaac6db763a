//! `RUN --device`: devices as the Container Device Interface describes them.
//!
//! A device is named `vendor.com/class=name`; files below `/etc/cdi` and `/var/run/cdi` say which
//! nodes, files and variables stand for it (CDI specification 0.5 to 1.0). `name` may be `all`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::plan::Device;
use crate::sandbox::{Mount, MountKind};

/// Where descriptions lie; the later directory wins.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Why a device is not available.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No description names it.
    #[error(
        "device {0:?} is not known on this machine: no CDI description in /etc/cdi or /var/run/cdi names it{1}"
    )]
    Unknown(String, String),
    /// A description cannot be read.
    #[error("cannot read the CDI description {path}: {why}")]
    Bad {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

/// What devices bring along.
#[derive(Debug, Default)]
pub struct Devices {
    /// Device nodes and files.
    pub mounts: Vec<Mount>,
    /// Variables.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Deserialize)]
struct Spec {
    kind: String,
    #[serde(default)]
    devices: Vec<SpecDevice>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Deserialize)]
struct SpecDevice {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Deserialize, Default)]
struct Edits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default, rename = "deviceNodes")]
    nodes: Vec<Node>,
    #[serde(default)]
    mounts: Vec<SpecMount>,
    #[serde(default)]
    hooks: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Node {
    path: String,
    #[serde(default, rename = "hostPath")]
    host: Option<String>,
}

#[derive(Deserialize)]
struct SpecMount {
    #[serde(rename = "hostPath")]
    host: String,
    #[serde(rename = "containerPath")]
    inside: String,
    #[serde(default)]
    options: Vec<String>,
}

/// Finds devices; those that are not required and not there are left out.
pub fn find(wanted: &[Device]) -> Result<Devices, DeviceError> {
    if wanted.is_empty() {
        return Ok(Devices::default());
    }
    find_in(wanted, &DIRECTORIES.map(PathBuf::from))
}

fn find_in(wanted: &[Device], directories: &[PathBuf]) -> Result<Devices, DeviceError> {
    let (specs, others) = read(directories)?;
    let mut devices = Devices::default();
    for device in wanted {
        let (kind, name) = device.name.split_once('=').unwrap_or((&device.name, "all"));
        let mut found = false;
        for spec in specs.iter().filter(|spec| spec.kind == kind) {
            let fitting = spec.devices.iter().filter(|known| name == "all" || known.name == name);
            let mut any = false;
            for known in fitting {
                any = true;
                devices.add(&known.edits, &device.name)?;
            }
            if any {
                devices.add(&spec.edits, &device.name)?;
            }
            found |= any;
        }
        if !found && device.required {
            let hint = match others.as_slice() {
                [] => String::new(),
                files => format!(
                    "; {} is YAML, which is not supported yet: write the description as JSON",
                    files.join(", ")
                ),
            };
            return Err(DeviceError::Unknown(device.name.clone(), hint));
        }
    }
    Ok(devices)
}

/// Descriptions in JSON, and the names of those in YAML.
fn read(directories: &[PathBuf]) -> Result<(Vec<Spec>, Vec<String>), DeviceError> {
    let (mut specs, mut others) = (Vec::new(), Vec::new());
    for dir in directories {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for path in files {
            let shown = path.display().to_string();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => specs.push(read_one(&path, &shown)?),
                Some("yaml" | "yml") => others.push(shown),
                _ => {}
            }
        }
    }
    Ok((specs, others))
}

fn read_one(path: &Path, shown: &str) -> Result<Spec, DeviceError> {
    let bad = |why: String| DeviceError::Bad { path: shown.to_owned(), why };
    let text = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))
}

impl Devices {
    fn add(&mut self, edits: &Edits, device: &str) -> Result<(), DeviceError> {
        if !edits.hooks.is_empty() {
            return Err(DeviceError::Bad {
                path: device.to_owned(),
                why: "it asks for hooks, which are not supported yet".into(),
            });
        }
        for pair in &edits.env {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.env.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        }
        for node in &edits.nodes {
            let source = PathBuf::from(node.host.as_ref().unwrap_or(&node.path));
            self.mounts.push(Mount::new(node.path.clone().into_bytes(), MountKind::Device { source }));
        }
        for mount in &edits.mounts {
            let readonly = mount.options.iter().any(|option| option == "ro");
            let kind = MountKind::Bind { source: PathBuf::from(&mount.host), inside: Vec::new(), readonly };
            self.mounts.push(Mount::new(mount.inside.clone().into_bytes(), kind));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, required: bool) -> Device {
        Device { name: name.into(), required }
    }

    #[test]
    fn devices_come_from_descriptions_and_missing_ones_are_named() {
        let dir = tempfile::tempdir().expect("directory");
        let text = r#"{"cdiVersion":"0.6.0","kind":"acme.com/pen","devices":[
            {"name":"red","containerEdits":{"env":["INK=red"],"deviceNodes":[{"path":"/dev/pen","hostPath":"/dev/null"}]}}]}"#;
        std::fs::write(dir.path().join("acme.json"), text).expect("write");
        let dirs = [dir.path().to_owned()];
        let found = find_in(&[device("acme.com/pen=red", true)], &dirs).expect("found");
        assert_eq!(found.env, [(b"INK".to_vec(), b"red".to_vec())]);
        assert_eq!(found.mounts.len(), 1);
        let error = find_in(&[device("acme.com/pen=blue", true)], &dirs).expect_err("no such device");
        assert!(error.to_string().contains("acme.com/pen=blue"), "{error}");
        assert!(find_in(&[device("acme.com/pen=blue", false)], &dirs).expect("optional").mounts.is_empty());
        std::fs::write(dir.path().join("other.yaml"), "kind: x").expect("write");
        let error = find_in(&[device("acme.com/pen=blue", true)], &dirs).expect_err("no such device");
        assert!(error.to_string().contains("YAML"), "{error}");
    }
}
