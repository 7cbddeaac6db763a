//! How full a file system is.

use std::io;
use std::path::Path;

/// Bytes of the file system that holds `path`: all there are, and those an ordinary user may still
/// fill.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}
