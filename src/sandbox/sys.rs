//! `/sys` of a step. As everything in the child, nothing in here allocates, locks or unwinds.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::mounts::{attach_inside, clone_tree, cover, new_fs, open_inside};
use super::syscalls::{self, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

const ATTRIBUTES: u64 = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
const PATH_MAX: usize = 4096;

/// Mounts `/sys` in a directory that has one.
pub(super) fn mount_sys(root: BorrowedFd<'_>) -> Result<(), Errno> {
    match new_fs(c"sysfs", &[], ATTRIBUTES) {
        Ok(sys) => attach_inside(sys.as_fd(), root, c"sys"),
        Err(Errno::PERM) => bind_sys(root),
        Err(errno) => Err(errno),
    }
}

/// What a user namespace gets that does not own the network namespace: the machine's `/sys`, read-only.
///
/// The file systems mounted in it (securityfs, debugfs, tracefs, bpffs, control groups, ...) are covered, as a
/// new sysfs has none of them. The kernel does not let a user namespace leave them out: mounts that it did not
/// make are locked together.
pub(super) fn bind_sys(root: BorrowedFd<'_>) -> Result<(), Errno> {
    let tree = clone_tree(CWD, c"/sys", true)?;
    syscalls::mount_setattr(tree.as_fd(), ATTRIBUTES, true)?;
    attach_inside(tree.as_fd(), root, c"sys")?;
    // The list is of the mounts below the machine's /sys, so covering the copy does not change it while it is
    // read. Nothing is added from outside either: the mount namespace is private by now.
    let list =
        rustix::fs::openat(CWD, c"/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut lines = Lines::default();
    let mut piece = [0u8; 4096];
    loop {
        let length = match rustix::io::read(&list, &mut piece) {
            Err(Errno::INTR) => continue,
            length => length?,
        };
        if length == 0 {
            return Ok(());
        }
        for byte in piece.get(..length).unwrap_or_default() {
            if let Some(path) = lines.take(*byte)? {
                cover_one(root, path)?;
            }
        }
    }
}

fn cover_one(root: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    match open_inside(root, path) {
        Ok(point) => cover(&point),
        // Below one that is covered already, or that is about to be: what root of this namespace, with all its
        // capabilities, cannot reach lies behind another mount (debugfs is for the machine's root only).
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Reads `/proc/PID/mountinfo` (proc_pid_mountinfo(5)) byte by byte, as long as its lines may be.
struct Lines {
    /// How many words of this line have ended.
    words: usize,
    /// The word that is being read, up to [`PATH_MAX`] of its bytes.
    word: [u8; PATH_MAX],
    length: usize,
    /// Where this line's file system is mounted, relative to the root, with a NUL byte at its end.
    point: [u8; PATH_MAX],
    point_length: usize,
    /// The last word was the hyphen before the kind of file system.
    at_kind: bool,
    is_sysfs: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Lines {
            words: 0,
            word: [0; PATH_MAX],
            length: 0,
            point: [0; PATH_MAX],
            point_length: 0,
            at_kind: false,
            is_sysfs: false,
        }
    }
}

impl Lines {
    const POINT: usize = 4;

    /// Takes one more byte. Gives a mount point at the end of a line if the step must not see what is mounted
    /// there.
    fn take(&mut self, byte: u8) -> Result<Option<&CStr>, Errno> {
        if !matches!(byte, b' ' | b'\n') {
            if let Some(place) = self.word.get_mut(self.length) {
                *place = byte;
            }
            self.length += 1;
            return Ok(None);
        }
        self.end_word()?;
        if byte == b' ' {
            return Ok(None);
        }
        let hidden = self.is_hidden();
        (self.words, self.is_sysfs) = (0, false);
        if !hidden {
            return Ok(None);
        }
        let path = self.point.get(..=self.point_length).ok_or(Errno::NAMETOOLONG)?;
        CStr::from_bytes_with_nul(path).map(Some).map_err(|_| Errno::INVAL)
    }

    fn end_word(&mut self) -> Result<(), Errno> {
        let word = self.word.get(..self.length);
        if self.words == Self::POINT {
            self.point_length = unescape(word.ok_or(Errno::NAMETOOLONG)?, &mut self.point)?;
        }
        if self.at_kind {
            self.is_sysfs = word == Some(b"sysfs");
        }
        // Optional words come before it, none of which is a hyphen.
        self.at_kind = self.words > Self::POINT && !self.at_kind && word == Some(b"-");
        self.words += 1;
        self.length = 0;
        Ok(())
    }

    /// More of sysfs is no more than sysfs shows.
    fn is_hidden(&self) -> bool {
        let point = self.point.get(..self.point_length).unwrap_or_default();
        point.starts_with(b"sys/") && !self.is_sysfs
    }
}

/// Takes the slash at the beginning and the escapes of special characters away. Gives the length without the
/// NUL byte that is added.
fn unescape(mut word: &[u8], into: &mut [u8; PATH_MAX]) -> Result<usize, Errno> {
    word = word.strip_prefix(b"/").unwrap_or(word);
    let mut length = 0;
    while let Some((first, rest)) = word.split_first() {
        let (byte, rest) = match (first, rest) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), rest)
            }
            _ => (*first, rest),
        };
        *into.get_mut(length).ok_or(Errno::NAMETOOLONG)? = byte;
        length += 1;
        word = rest;
    }
    *into.get_mut(length).ok_or(Errno::NAMETOOLONG)? = 0;
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(list: &str) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for byte in list.bytes() {
            if let Some(path) = lines.take(byte).expect("a list") {
                found.push(path.to_str().expect("text").to_owned());
            }
        }
        found
    }

    #[test]
    fn mounts_in_sys_are_found() {
        let list = "23 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                    31 23 0:7 / /sys/kernel/security rw shared:8 master:2 - securityfs securityfs rw\n\
                    32 23 0:8 / /sys/kernel/mm/a\\040b\\134 rw - tmpfs - rw\n\
                    33 23 0:9 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                    34 33 0:10 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    35 23 0:11 / /sys/fs/bpf rw - bpf bpf rw\n\
                    36 23 0:21 /devices/virtual/net /sys/devices/virtual/net rw - sysfs sysfs rw\n\
                    37 23 0:12 / /sysroot rw - ext4 /dev/sda rw\n\
                    38 23 0:13 /sysfs /sys/fs/fuse rw - fuse.sysfs sysfs rw\n";
        assert_eq!(
            hidden(list),
            [
                "sys/kernel/security",
                "sys/kernel/mm/a b\\",
                "sys/fs/cgroup",
                "sys/fs/cgroup/memory",
                "sys/fs/bpf",
                "sys/fs/fuse"
            ]
        );
    }

    /// Options of an overlay may name hundreds of directories.
    #[test]
    fn only_the_length_of_mount_points_is_limited() {
        let long = "l".repeat(100_000);
        let list = format!(
            "9 1 0:5 / / rw - overlay overlay rw,lowerdir={long}\n31 23 0:7 / /sys/a rw - tmpfs {long} rw\n"
        );
        assert_eq!(hidden(&list), ["sys/a"]);
        let mut lines = Lines::default();
        let list = format!("9 1 0:5 / /sys/{long} rw - tmpfs tmpfs rw\n");
        assert!(list.bytes().any(|byte| lines.take(byte) == Err(Errno::NAMETOOLONG)));
    }
}
