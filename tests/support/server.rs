//! A small http server for tests: files of a directory, with ETags, counting what it is asked.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

/// Serves until the process ends.
pub struct FileServer {
    host: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl FileServer {
    /// Serves the files below `root`.
    pub fn start(root: &Path) -> Self {
        Self::with(root, Some("Wed, 01 Jan 2020 00:00:00 GMT"))
    }

    /// As [`FileServer::start`], without saying how old the files are.
    pub fn undated(root: &Path) -> Self {
        Self::with(root, None)
    }

    fn with(root: &Path, modified: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (root, seen) = (root.to_owned(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, seen) = (root.clone(), seen.clone());
                std::thread::spawn(move || serve(stream, &root, modified, &seen));
            }
        });
        FileServer { host, log }
    }

    /// `http://host:port/PATH`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.host)
    }

    /// Lines `STATUS PATH AUTHORIZATION`, and forgets them.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().expect("the log"))
    }
}

fn serve(stream: TcpStream, root: &Path, modified: Option<&str>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let Some(first) = lines.first() else { return };
        let path = first.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
        let header = |name: &str| {
            lines.iter().skip(1).find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let file: PathBuf = root.join(path.trim_start_matches('/'));
        let (status, body, etag) = match fs::read(&file) {
            Ok(body) => {
                let time = fs::metadata(&file).and_then(|meta| meta.modified()).ok();
                let stamp = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
                let etag = format!("\"{}-{}\"", body.len(), stamp.as_nanos());
                match header("if-none-match").as_deref() == Some(etag.as_str()) {
                    true => (304, Vec::new(), etag),
                    false => (200, body, etag),
                }
            }
            Err(_) => (404, b"no such file".to_vec(), "\"none\"".into()),
        };
        let authorization = header("authorization").unwrap_or_default();
        log.lock().expect("the log").push(format!("{status} {path} {authorization}").trim_end().to_owned());
        let length = body.len();
        let modified = modified.map_or_else(String::new, |time| format!("Last-Modified: {time}\r\n"));
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nETag: {etag}\r\n{modified}\r\n");
        let stream = reader.get_mut();
        let head_only = first.starts_with("HEAD");
        let wrote = stream.write_all(head.as_bytes());
        if wrote.and_then(|()| if head_only { Ok(()) } else { stream.write_all(&body) }).is_err() {
            return;
        }
    }
}
