//! How full a file system is.

use std::io;
use std::path::Path;

/// Bytes of the file system that holds `path`: all there are, and those an ordinary user may still
/// fill.
pub fn disk_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Whether a file system or a quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a text contains the system's words for a full disk, as programs print them.
pub fn names_full_disk(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("no space left on device") || text.contains("disk quota exceeded")
}

/// A size in decimal units.
pub fn shown_size(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}
