//! What is kept for people: logs of failed steps, the newest few, and what they were told today.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::fs::{make_private_dir, new_file_beside};

use super::files::entries;
use super::open::{Store, StoreError};

/// So many are kept.
const KEPT: usize = 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Keeps what `write` writes as a log and gives its path; the oldest logs go.
    pub fn keep_log(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<PathBuf, StoreError> {
        let dir = self.root().join("logs");
        match make_private_dir(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("create", &dir)(error));
            }
            _ => {}
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // By name in the order of time, and never two the same.
        let name = format!(
            "{:013}-{}-{:04}.log",
            since.as_millis(),
            std::process::id(),
            since.subsec_nanos() % 10_000
        );
        let path = dir.join(name);
        let mut file = new_file_beside(&path, 0o600).map_err(StoreError::io("create", &path))?;
        write(file.as_file_mut()).map_err(StoreError::io("write", &path))?;
        file.persist(&path).map_err(|error| StoreError::io("write", &path)(error.error))?;
        self.forget_logs(&dir);
        Ok(path)
    }

    /// Whether nobody was told this in the last 24 hours; from now on somebody was. Where that cannot be noted, it is
    /// told again.
    pub fn first_today(&self, text: &str) -> bool {
        let dir = self.root().join("told");
        let path = dir.join(Digest::of(text.as_bytes()).hex());
        let told = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let age = told.and_then(|told| SystemTime::now().duration_since(told).ok());
        if age.is_some_and(|age| age < DAY) {
            return false;
        }
        if !self.only_looks() {
            let _ = make_private_dir(&dir);
            let _ = fs::write(&path, "");
        }
        true
    }

    fn forget_logs(&self, dir: &std::path::Path) {
        let mut logs: Vec<PathBuf> =
            entries(dir).unwrap_or_default().into_iter().map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        let old = logs.len().saturating_sub(KEPT);
        for path in &logs[..old] {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_told_today_is_not_told_again() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        assert!(store.first_today("a") && !store.first_today("a") && store.first_today("b"));
        let path = dir.path().join("told").join(Digest::of(b"a").hex());
        let old = SystemTime::now() - DAY - Duration::from_secs(1);
        fs::File::options().write(true).open(&path)?.set_modified(old)?;
        assert!(store.first_today("a") && !store.first_today("a"));
        Ok(())
    }

    #[test]
    fn the_newest_logs_are_kept() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let mut paths = Vec::new();
        for number in 0..KEPT + 3 {
            paths.push(store.keep_log(|file| write!(file, "{number}"))?);
        }
        let there = paths.iter().filter(|path| path.exists()).count();
        assert_eq!(there, KEPT);
        assert_eq!(fs::read_to_string(paths.last().ok_or("none")?)?, format!("{}", KEPT + 2));
        Ok(())
    }
}
