//! A place on an overlay, where overlayfs cannot be mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::Lab;

/// A mount that goes with the test.
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// An empty overlay on this directory, which is made, where one can be mounted.
    pub fn overlay(lab: &Lab, merged: &Path) -> Option<Self> {
        let place = lab.out("overlay");
        for dir in ["lower", "upper", "work"]
            .map(|name| place.join(name))
            .iter()
            .map(PathBuf::as_path)
            .chain([merged])
        {
            fs::create_dir_all(dir).expect("directory");
        }
        let at = |name: &str| place.join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let mounted =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(merged).status();
        mounted.is_ok_and(|status| status.success()).then_some(Mounted(merged.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}
