//! Whether the disk below the store is full.

use std::fs;
use std::io::{self, Write as _};
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
        let file = fs::File::create_new(&path);
        let written = file.and_then(|mut file| file.write_all(&super::open::noise(LITTLE as usize)));
        let made = fs::remove_file(&path).is_ok();
        written.err().and_then(|error| lack(&error, made)).and_then(|(what, how)| full(what, how))
    }
}

/// What is missing, by the answer to a write to a file that could be made or could not.
fn lack(error: &io::Error, made: bool) -> Option<(&'static str, &'static str)> {
    match made {
        _ if error.kind() == io::ErrorKind::QuotaExceeded => Some(("the quota on the disk", "is used up")),
        _ if !is_full(error) => None,
        true => Some(("the disk", "is full")),
        false => Some(("the disk", "has no inodes left")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_inodes_and_quotas_are_told_apart() {
        let told =
            |kind: io::ErrorKind, made| lack(&kind.into(), made).map(|(what, how)| format!("{what} {how}"));
        assert_eq!(told(io::ErrorKind::StorageFull, true).as_deref(), Some("the disk is full"));
        assert_eq!(told(io::ErrorKind::StorageFull, false).as_deref(), Some("the disk has no inodes left"));
        for made in [true, false] {
            let quota = told(io::ErrorKind::QuotaExceeded, made);
            assert_eq!(quota.as_deref(), Some("the quota on the disk is used up"));
            assert_eq!(told(io::ErrorKind::PermissionDenied, made), None);
        }
    }
}
