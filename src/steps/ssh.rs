//! `RUN --mount=type=ssh`: a socket for the step that leads to an agent outside.
//!
//! The agent's own socket is never mounted: a step gets a fresh one with the owner and mode it asked
//! for, and nothing of it is left when the step ends.

use std::fs::{self, File};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// An agent of the build's own that offers the keys of `--ssh ID=KEY`.
#[derive(Debug)]
pub struct KeyAgent {
    process: Child,
    socket: PathBuf,
}

impl KeyAgent {
    /// Starts `ssh-agent` with its socket in `dir` and gives it the keys.
    pub fn start(dir: &Path, keys: &[PathBuf]) -> io::Result<Self> {
        let socket = dir.join("agent");
        let missing = |error: io::Error, program: &str| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(format!(
                "{program} is not installed; it is needed for --ssh with key files. Start an agent yourself and \
                 pass its socket"
            )),
            _ => error,
        };
        let process = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| missing(error, "ssh-agent"))?;
        let agent = KeyAgent { process, socket };
        let begun = Instant::now();
        while UnixStream::connect(&agent.socket).is_err() {
            if begun.elapsed() > Duration::from_secs(5) {
                return Err(io::Error::other("ssh-agent does not answer"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        let added = Command::new("ssh-add")
            .arg("-q")
            .args(keys)
            .env("SSH_AUTH_SOCK", &agent.socket)
            .env("SSH_ASKPASS_REQUIRE", "never")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .map_err(|error| missing(error, "ssh-add"))?;
        if !added.status.success() {
            let said = String::from_utf8_lossy(&added.stderr).trim().to_owned();
            return Err(io::Error::other(format!("ssh-add refused the keys: {said}")));
        }
        Ok(agent)
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A socket that leads to another one for as long as the value lives.
#[derive(Debug)]
pub struct Forward {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forward {
    /// Listens at `dir/name` and forwards every connection to `agent`.
    pub fn start(dir: &Path, name: &str, agent: &Path, mode: u32, uid: u32, gid: u32) -> io::Result<Self> {
        let path = dir.join(name);
        // Paths of sockets are short; the one through the descriptor always is.
        let handle = File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        if (uid, gid) != (0, 0) {
            chown(&path, Some(uid), Some(gid))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, agent) = (stop.clone(), agent.to_owned());
        let work = move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { return };
                // Without an agent the client sees a closed connection, as ssh expects it.
                let Ok(server) = UnixStream::connect(&agent) else { continue };
                relay(client, server);
            }
        };
        let thread = thread::Builder::new().name("ssh".into()).spawn(work)?;
        Ok(Forward { path, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is to stop.
        let dir = self.path.parent().and_then(|dir| File::open(dir).ok());
        if let (Some(dir), Some(name)) = (dir, self.path.file_name()) {
            let _ =
                UnixStream::connect(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), name.to_string_lossy()));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Carries bytes both ways until both sides have closed.
fn relay(client: UnixStream, server: UnixStream) {
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    for (mut from, mut to) in [(client, server), (server_again, client_again)] {
        let _ = thread::Builder::new().name("ssh".into()).spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn what_is_said_to_the_socket_reaches_the_agent_and_the_answer_comes_back() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let agent = dir.path().join("real");
        let listener = UnixListener::bind(&agent)?;
        let serve = thread::spawn(move || -> io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            let mut question = Vec::new();
            stream.read_to_end(&mut question)?;
            stream.write_all(b"answer")?;
            Ok(question)
        });
        let forward = Forward::start(dir.path(), "given", &agent, 0o600, 0, 0)?;
        let mut client = UnixStream::connect(forward.path())?;
        client.write_all(b"question")?;
        client.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        assert_eq!(answer, "answer");
        assert_eq!(serve.join().expect("the agent ends")?, b"question");
        let mode = fs::metadata(forward.path())?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(forward);
        Ok(())
    }
}
