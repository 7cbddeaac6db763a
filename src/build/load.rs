//! Archives into a running engine and out of it, through Docker's API.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::cancel::Cancel;

use super::failure::{Failure, FailureKind};
use super::request::EngineAddress;

/// Longest answer that is read.
const ANSWER_LIMIT: u64 = 1 << 20;

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Sends an archive to the first engine that answers, and gives what it says.
pub(super) fn into_engine(
    engines: &[EngineAddress],
    archive: &Path,
    cancel: &Cancel,
) -> Result<String, Failure> {
    send(connect(engines, FailureKind::Output, "cannot load the image")?, archive, cancel)
}

/// Has the first engine that answers write one of its images into a file, as `docker save` does.
pub(super) fn from_engine(
    engines: &[EngineAddress],
    name: &str,
    archive: &Path,
    cancel: &Cancel,
) -> Result<(), Failure> {
    let failed =
        |why: String| Failure::new(FailureKind::Base, format!("cannot get {name} from the engine: {why}"));
    let io = |error: io::Error| failed(error.to_string());
    let mut stream = connect(engines, FailureKind::Base, &format!("cannot get {name}"))?;
    // To 1.0, answers come in one piece.
    let request = format!("GET /images/get?names={name} HTTP/1.0\r\nHost: engine\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut reader = BufReader::new(stream);
    let code = head(&mut reader).map_err(io)?;
    if !(200..300).contains(&code) {
        let mut body = Vec::new();
        reader.take(ANSWER_LIMIT).read_to_end(&mut body).map_err(io)?;
        let said = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let said = said.and_then(|said| Some(said.get("message")?.as_str()?.to_owned()));
        return Err(failed(said.unwrap_or_else(|| format!("status {code}"))));
    }
    let mut file = File::create_new(archive).map_err(io)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Interrupted, "canceled"));
        }
        match reader.read(&mut buffer).map_err(io)? {
            0 => return Ok(()),
            count => file.write_all(&buffer[..count]).map_err(io)?,
        }
    }
}

/// The status of an answer whose head is read to its end.
fn head(reader: &mut impl io::BufRead) -> io::Result<u16> {
    let mut reader = reader.take(ANSWER_LIMIT);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    Ok(status.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0))
}

fn connect(engines: &[EngineAddress], kind: FailureKind, what: &str) -> Result<Box<dyn Connection>, Failure> {
    let mut tried = Vec::new();
    for engine in engines {
        let connected: io::Result<Box<dyn Connection>> = match engine {
            EngineAddress::Unix(path) => UnixStream::connect(path).map(|stream| Box::new(stream) as _),
            EngineAddress::Tcp(address) => TcpStream::connect(address).map(|stream| Box::new(stream) as _),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push(format!("{}: {error}", shown(engine))),
        }
    }
    let message = format!("{what}: no engine answers ({})", tried.join("; "));
    Err(Failure::new(kind, message)
        .help("start Docker or Podman's API socket, set DOCKER_HOST, write an archive with -o type=docker,dest=FILE, \
               or `rbuild copy store:NAME containers-storage:NAME` (Podman without a socket)"))
}

fn shown(engine: &EngineAddress) -> String {
    match engine {
        EngineAddress::Unix(path) => path.display().to_string(),
        EngineAddress::Tcp(address) => address.clone(),
    }
}

fn send(mut stream: Box<dyn Connection>, archive: &Path, cancel: &Cancel) -> Result<String, Failure> {
    let failed = |error: io::Error| {
        Failure::new(FailureKind::Output, format!("cannot load the image into the engine: {error}"))
    };
    let mut file = File::open(archive).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let head = format!(
        "POST /images/load?quiet=1 HTTP/1.1\r\nHost: engine\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(failed)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        if cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Interrupted, "canceled"));
        }
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            // An engine that refuses answers early and closes; its answer says why.
            count if stream.write_all(&buffer[..count]).is_err() => break,
            _ => {}
        }
    }
    answer(stream)
}

/// The engine's answer: a line of JSON for each thing it says, possibly in chunks.
fn answer(stream: Box<dyn Connection>) -> Result<String, Failure> {
    let failed =
        |why: String| Failure::new(FailureKind::Output, format!("the engine refused the image: {why}"));
    let mut reader = BufReader::new(stream.take(ANSWER_LIMIT));
    let mut status = String::new();
    reader.read_line(&mut status).map_err(|error| failed(error.to_string()))?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).unwrap_or(0);
    let mut body = Vec::new();
    let _ = reader.read_to_end(&mut body);
    let text = String::from_utf8_lossy(&body);
    let (mut said, mut error) = (Vec::new(), None);
    for line in text.lines() {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line.trim()) else { continue };
        let get = |key: &str| value.get(key).and_then(|text| text.as_str()).map(str::to_owned);
        said.extend(get("stream").map(|text| text.trim().to_owned()));
        error = error.or_else(|| get("error")).or_else(|| get("message"));
    }
    match error {
        Some(error) => Err(failed(error)),
        None if (200..300).contains(&code) => Ok(said.join("\n")),
        None => Err(failed(format!("status {code}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn engine(answer: &'static str) -> (tempfile::TempDir, EngineAddress, std::thread::JoinHandle<usize>) {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let serve = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut got = Vec::new();
            let mut buffer = [0; 1024];
            while !got.ends_with(b"archive") {
                let count = stream.read(&mut buffer).expect("read");
                got.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(answer.as_bytes()).expect("answer");
            got.len()
        });
        (dir, EngineAddress::Unix(path), serve)
    }

    #[test]
    fn the_engines_own_words_come_back() {
        let archive = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(archive.path(), "archive").expect("write");
        let cancel = Cancel::new().expect("cancel");
        let (_dir, address, serve) = engine(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n{\"stream\":\"Loaded image: a:1\\n\"}\r\n0\r\n\r\n",
        );
        let missing = EngineAddress::Unix("/nonexistent/socket".into());
        let said = into_engine(&[missing.clone(), address], archive.path(), &cancel);
        assert_eq!(said.ok().as_deref(), Some("Loaded image: a:1"));
        assert!(serve.join().expect("ends") > 100);
        let (_dir, address, serve) = engine("HTTP/1.1 500 Error\r\n\r\n{\"message\":\"no space\"}\n");
        let error = into_engine(&[address], archive.path(), &cancel).expect_err("refused");
        assert!(error.message.contains("no space"), "{error}");
        drop(serve.join());
        let error = into_engine(&[missing], archive.path(), &cancel).expect_err("nobody there");
        assert!(error.message.contains("/nonexistent/socket"), "{error}");
    }

    #[test]
    fn an_engine_gives_images_or_says_why_not() {
        let serve = |answer: &'static str| {
            let dir = tempfile::tempdir().expect("directory");
            let listener = UnixListener::bind(dir.path().join("sock")).expect("bind");
            let address = EngineAddress::Unix(dir.path().join("sock"));
            let thread = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut request = [0; 1024];
                let count = stream.read(&mut request).expect("read");
                stream.write_all(answer.as_bytes()).expect("answer");
                String::from_utf8_lossy(&request[..count]).into_owned()
            });
            (dir, address, thread)
        };
        let cancel = Cancel::new().expect("cancel");
        let out = tempfile::tempdir().expect("directory");
        let (_dir, address, thread) =
            serve("HTTP/1.0 200 OK\r\nContent-Type: application/x-tar\r\n\r\na\r\n\r\nb");
        from_engine(&[address], "a/b:1", &out.path().join("x"), &cancel).expect("image");
        assert_eq!(std::fs::read(out.path().join("x")).expect("file"), b"a\r\n\r\nb");
        assert!(thread.join().expect("ends").starts_with("GET /images/get?names=a/b:1 HTTP/1.0\r\n"));
        let (_dir, address, _thread) = serve("HTTP/1.0 404 Not Found\r\n\r\n{\"message\":\"no such image\"}");
        let error = from_engine(&[address], "a", &out.path().join("y"), &cancel).expect_err("refused");
        assert!(error.message.contains("no such image"), "{error}");
    }
}
