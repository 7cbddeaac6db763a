//! Whether the disk below the store is full.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::fs::{disk_space, is_full, shown_size};

use super::open::Store;

/// A program that has just met a full disk leaves less than this.
const LITTLE: u64 = 64 * 1024;

/// A store that nothing can be written to any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} of the store {} {how} ({} free)", root.display(), shown_size(*free))]
pub struct FullDisk {
    root: PathBuf,
    free: u64,
    what: &'static str,
    how: &'static str,
}

impl Store {
    /// What keeps the store from growing: no space, no inodes, or a quota. `None` if it can grow. Writes to
    /// the disk to find out: quotas show in no other way.
    pub fn full_disk(&self) -> Option<FullDisk> {
        let free = disk_space(self.root()).map_or(u64::MAX, |(_, free)| free);
        let full = |what, how| Some(FullDisk { root: self.root().to_owned(), free, what, how });
        if free < LITTLE {
            return full("the disk", "is full");
        }
        let path = self.temp_path();
        // What has no pattern takes its space also where the file system compresses.
        let written = fs::write(&path, super::open::noise(LITTLE as usize));
        let made = fs::remove_file(&path).is_ok();
        match written {
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                full("the quota on the disk", "is used up")
            }
            Err(error) if is_full(&error) && made => full("the disk", "is full"),
            Err(error) if is_full(&error) => full("the disk", "has no inodes left"),
            _ => None,
        }
    }
}
