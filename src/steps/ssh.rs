//! `RUN --mount=type=ssh`: a socket for the step that leads to an agent outside.
//!
//! The agent's own socket is never mounted: a step gets a fresh one with the owner and mode it asked
//! for, and nothing of it is left when the step ends.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::agent;

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

/// Connections of one step that are served at a time; others wait to be accepted.
const MOST: usize = 64;

/// What a forwarded socket leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// An agent, which is asked for keys and signatures only.
    Agent,
    /// Anything: bytes are forwarded as they come.
    Anything,
}

/// A socket that leads to another one for as long as the value lives.
#[derive(Debug)]
pub struct Forward {
    path: PathBuf,
    places: Arc<Places>,
    thread: Option<JoinHandle<()>>,
}

/// How many connections are served, and whether there are to be no more.
#[derive(Debug, Default)]
struct Places {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Places {
    /// Waits for a place; `None` when there are to be no more connections.
    fn take(self: &Arc<Self>) -> Option<Place> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .changed
            .wait_while(state, |(taken, stopped)| *taken >= MOST && !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if state.1 {
            return None;
        }
        state.0 += 1;
        Some(Place(self.clone()))
    }

    fn change(&self, change: impl FnOnce(&mut (usize, bool))) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// One connection's place, free again when it is dropped.
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.change(|(taken, _)| *taken -= 1);
    }
}

impl Forward {
    /// Listens at `dir/name` and forwards every connection to the socket `server`.
    pub fn start(
        dir: &Path,
        name: &str,
        (server, behind): (&Path, Behind),
        mode: u32,
        uid: u32,
        gid: u32,
    ) -> io::Result<Self> {
        let path = dir.join(name);
        // Paths of sockets are short; the one through the descriptor always is.
        let handle = File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        if (uid, gid) != (0, 0) {
            chown(&path, Some(uid), Some(gid))?;
        }
        let places = Arc::new(Places::default());
        let (of_thread, server) = (places.clone(), server.to_owned());
        let work = move || accept(&listener, &of_thread, &server, behind);
        let thread = thread::Builder::new().name("ssh".into()).spawn(work)?;
        Ok(Forward { path, places, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.places.change(|(_, stopped)| *stopped = true);
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

fn accept(listener: &UnixListener, places: &Arc<Places>, server: &Path, behind: Behind) {
    loop {
        let accepted = listener.accept();
        let Some(place) = places.take() else { return };
        let Ok((client, _)) = accepted else {
            // Out of descriptors, for instance: the next one may have more luck.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        let server = server.to_owned();
        let serve = move || {
            // Without an agent the client sees a closed connection, as ssh expects it.
            if let Ok(server) = UnixStream::connect(&server) {
                relay(&client, &server, behind);
            }
            drop((client, place));
        };
        let _ = thread::Builder::new().name("ssh".into()).spawn(serve);
    }
}

/// Serves one connection until either side is gone.
fn relay(client: &UnixStream, server: &UnixStream, behind: Behind) {
    let server = While { server, client };
    if behind == Behind::Agent {
        // What is no request of this protocol ends the connection.
        let _ = agent::carry(client, server);
        return;
    }
    thread::scope(|scope| {
        let back = thread::Builder::new().name("ssh".into()).spawn_scoped(scope, || {
            let _ = io::copy(&mut While { ..server }, &mut &*client);
            let _ = client.shutdown(Shutdown::Write);
        });
        if back.is_ok() {
            let _ = io::copy(&mut &*client, &mut &*server.server);
            let _ = server.server.shutdown(Shutdown::Write);
        }
    });
}

/// The server's side of a connection. Nothing more is read from it once the client is gone: an agent may
/// wait for its user, a step does not.
struct While<'a> {
    server: &'a UnixStream,
    client: &'a UnixStream,
}

impl Read for While<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            // No event is asked for of the client: those of its end always come.
            let mut fds =
                [PollFd::new(self.server, PollFlags::IN), PollFd::new(self.client, PollFlags::empty())];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
                Ok(_) => {}
            }
            if !fds[1].revents().is_empty() {
                return Ok(0);
            }
            if !fds[0].revents().is_empty() {
                return (&*self.server).read(into);
            }
        }
    }
}

impl Write for While<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.server).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers each connection's first message and waits for its end.
    fn agent(path: &Path) -> io::Result<()> {
        let listener = UnixListener::bind(path)?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || -> io::Result<()> {
                    let mut stream = stream?;
                    let mut message = [0u8; 5];
                    while stream.read_exact(&mut message).is_ok() {
                        assert_eq!(message, [0, 0, 0, 1, 11], "what the agent got");
                        stream.write_all(&[0, 0, 0, 2, 12, 0])?;
                    }
                    Ok(())
                });
            }
        });
        Ok(())
    }

    /// Asks for the keys and gives the answer's bytes.
    fn ask(client: &mut UnixStream) -> io::Result<[u8; 6]> {
        client.write_all(&[0, 0, 0, 1, 11])?;
        let mut answer = [0u8; 6];
        client.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn a_step_asks_an_agent_for_keys_and_changes_nothing_in_it() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let real = dir.path().join("real");
        agent(&real)?;
        let forward = Forward::start(dir.path(), "given", (&real, Behind::Agent), 0o600, 0, 0)?;
        let mode = fs::metadata(forward.path())?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = UnixStream::connect(forward.path())?;
        assert_eq!(ask(&mut client)?, [0, 0, 0, 2, 12, 0]);
        // Add, remove, remove all, lock, unlock, add a card, an extension.
        for kind in [17, 18, 19, 22, 23, 20, 27] {
            client.write_all(&[0, 0, 0, 2, kind, 0])?;
            let mut answer = [0u8; 5];
            client.read_exact(&mut answer)?;
            assert_eq!(answer, [0, 0, 0, 1, 5], "{kind}");
        }
        assert_eq!(ask(&mut client)?, [0, 0, 0, 2, 12, 0]);
        client.write_all(&[0xff; 8])?;
        let mut rest = Vec::new();
        // The end of the connection, or a reset, since bytes of it were not read.
        let _ = client.read_to_end(&mut rest);
        assert!(rest.is_empty());
        drop(forward);
        Ok(())
    }

    #[test]
    fn bytes_of_other_sockets_go_through_as_they_come() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let real = dir.path().join("real");
        let listener = UnixListener::bind(&real)?;
        let serve = thread::spawn(move || -> io::Result<Vec<u8>> {
            let (mut stream, _) = listener.accept()?;
            let mut question = Vec::new();
            stream.read_to_end(&mut question)?;
            stream.write_all(b"answer")?;
            Ok(question)
        });
        let forward = Forward::start(dir.path(), "given", (&real, Behind::Anything), 0o600, 0, 0)?;
        let mut client = UnixStream::connect(forward.path())?;
        client.write_all(b"question")?;
        client.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        assert_eq!(answer, "answer");
        assert_eq!(serve.join().expect("the server ends")?, b"question");
        Ok(())
    }

    #[test]
    fn only_so_many_connections_are_served_at_a_time() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let real = dir.path().join("real");
        agent(&real)?;
        let forward = Forward::start(dir.path(), "given", (&real, Behind::Agent), 0o600, 0, 0)?;
        let mut clients: Vec<UnixStream> =
            (0..=MOST).map(|_| UnixStream::connect(forward.path())).collect::<Result<_, _>>()?;
        for client in &mut clients[..MOST] {
            ask(client)?;
        }
        clients[MOST].set_read_timeout(Some(Duration::from_millis(200)))?;
        assert!(ask(&mut clients[MOST]).is_err(), "one more is served");
        drop(clients.remove(0));
        let last = clients.last_mut().expect("clients");
        last.set_read_timeout(None)?;
        let mut answer = [0u8; 6];
        last.read_exact(&mut answer)?;
        assert_eq!(answer[4], 12);
        // With all places taken and more waiting, the end does not wait.
        let more: Vec<_> = (0..30).map(|_| UnixStream::connect(forward.path())).collect::<Result<_, _>>()?;
        drop(forward);
        drop(more);
        Ok(())
    }
}
