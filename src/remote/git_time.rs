//! The time of the commit that a work tree of this machine is at.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::child::collect;
use crate::sandbox::Confinement;

use super::git_program::DEFAULT_PATH;

/// When HEAD of the git work tree around `dir` was committed, in seconds since 1970. `None` where there
/// is no work tree, no commit yet, or no git program in `search_path` (as `PATH` has it).
///
/// The repository's own settings may be anybody's: only an object is read, nothing is fetched, and the
/// owner of the files does not matter, so that every user gets the same time. Git can read whatever the
/// repository leads it to, change nothing, and talk to nobody.
pub fn head_time(dir: &Path, search_path: Option<&OsStr>) -> Option<i64> {
    let search_path = search_path.unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut command = Command::new("git");
    command
        .args(["--no-optional-locks", "-c", "safe.directory=*", "-c", "core.fsmonitor=false"])
        .args(["cat-file", "commit", "HEAD"])
        .current_dir(dir)
        .env_clear()
        .env("PATH", search_path)
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let limits = Confinement::of_program(search_path, &["git"]).reading(["/"]);
    let mut child = limits.spawn(&mut command).ok()?;
    let output = collect(child.stdout.take());
    let status = child.wait().ok()?;
    committed(&output?.join().ok().filter(|_| status.success())?)
}

/// The time in a commit object: `committer NAME <MAIL> SECONDS ZONE`.
fn committed(object: &[u8]) -> Option<i64> {
    let header = object.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = header.into_iter().find_map(|line| line.strip_prefix(b"committer "))?;
    let end = line.iter().rposition(|byte| *byte == b'>')?;
    std::str::from_utf8(line.get(end + 1..)?).ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_committer() {
        let object = b"tree 1\nauthor A <a> 5 +0000\ncommitter X <y> Z <b> 1700000000 -0330\n\ncommitter q <c> 7 +0000\n";
        assert_eq!(committed(object), Some(1_700_000_000));
        assert_eq!(committed(b"tree 1\n\ncommitter q <c> 7 +0000\n"), None);
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(head_time(dir.path(), None), None);
    }
}
