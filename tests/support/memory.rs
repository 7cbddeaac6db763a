//! A registry in memory that lists referrers, as distribution specification 1.1 has it: one on each page.
//! Debian's `docker-registry` knows nothing of that.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rbuild::digest::Digest;
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Serves until the process ends.
pub struct MemoryRegistry {
    host: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By `REPOSITORY/manifests/REFERENCE`: media type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// Lists of referrers that are given out as they are, by subject.
    lies: BTreeMap<String, Vec<u8>>,
    log: Vec<String>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    media_type: String,
    body: Vec<u8>,
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

impl MemoryRegistry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        MemoryRegistry { host, state }
    }

    /// `127.0.0.1:port`, as image names begin.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Lines `METHOD PATH` of all requests so far.
    pub fn log(&self) -> Vec<String> {
        self.state.lock().expect("state").log.clone()
    }

    /// Puts whatever it is where a manifest belongs, under its digest.
    pub fn plant(&self, repository: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        let (key, value) =
            (format!("{repository}/manifests/{digest}"), (media_type.to_owned(), bytes.to_vec()));
        self.state.lock().expect("state").manifests.insert(key, value);
        digest
    }

    /// Puts a blob where every repository has it.
    pub fn plant_blob(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes).to_string();
        self.state.lock().expect("state").blobs.insert(digest, bytes.to_vec());
    }

    /// From now on claims that these are the referrers of a digest.
    pub fn lie(&self, subject: &str, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.state.lock().expect("state").lies.insert(subject.to_owned(), index.to_string().into_bytes());
    }

    /// Tags and digests of a repository's manifests.
    pub fn references(&self, repository: &str) -> Vec<String> {
        let prefix = format!("{repository}/manifests/");
        let state = self.state.lock().expect("state");
        state.manifests.keys().filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned())).collect()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let Some(request) = read(&stream) else { return };
    let (status, mut headers, body) = {
        let mut state = state.lock().expect("state");
        state.log.push(format!("{} {}", request.method, request.path));
        state.answer(&request)
    };
    headers.push(("Content-Length", body.len().to_string()));
    let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
    for (key, value) in headers {
        head.push_str(&format!("{key}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&body);
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    // A client that tries https first.
    if *reader.fill_buf().ok()?.first()? == 0x16 {
        return None;
    }
    let (mut lines, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let mut media_type = String::new();
    for (key, value) in lines.iter().skip(1).filter_map(|line| line.split_once(':')) {
        match key.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "content-type" => media_type = value.trim().to_owned(),
            _ => {}
        }
    }
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(key, value)| (key.to_owned(), value.replace("%2B", "+"))).collect();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_owned(), query, media_type, body })
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path.trim_start_matches("/v2/").to_owned();
        let none = || (404, Vec::new(), br#"{"errors":[{"code":"UNKNOWN"}]}"#.to_vec());
        let end = path.rsplit('/').next().unwrap_or_default().to_owned();
        match request.method.as_str() {
            _ if path.is_empty() => (200, Vec::new(), b"{}".to_vec()),
            "GET" | "HEAD" if path.contains("/blobs/sha256:") => match self.blobs.get(&end) {
                Some(bytes) => (200, Vec::new(), bytes.clone()),
                None => none(),
            },
            "GET" | "HEAD" if path.contains("/manifests/") => match self.manifests.get(&path) {
                Some((kind, bytes)) => {
                    let digest = Digest::of(bytes).to_string();
                    (
                        200,
                        vec![("Content-Type", kind.clone()), ("Docker-Content-Digest", digest)],
                        bytes.clone(),
                    )
                }
                None => none(),
            },
            "GET" if path.contains("/referrers/") => self.referrers(request, &path, &end),
            "PUT" if path.contains("/manifests/") => self.put(request, &path, &end),
            "POST" => {
                let place = format!("/v2/{path}{}", self.uploads.len() + self.blobs.len());
                self.uploads.insert(place.clone(), Vec::new());
                (202, vec![("Location", place)], Vec::new())
            }
            "PATCH" | "PUT" => {
                let Some(upload) = self.uploads.get_mut(&request.path) else { return none() };
                upload.extend(&request.body);
                let range = ("Range", format!("0-{}", upload.len().saturating_sub(1)));
                if request.method == "PATCH" {
                    return (202, vec![("Location", request.path.clone()), range], Vec::new());
                }
                let bytes = self.uploads.remove(&request.path).unwrap_or_default();
                let digest = Digest::of(&bytes).to_string();
                if request.query.get("digest") != Some(&digest) {
                    return (400, Vec::new(), Vec::new());
                }
                self.blobs.insert(digest, bytes);
                (201, Vec::new(), Vec::new())
            }
            _ => none(),
        }
    }

    fn put(&mut self, request: &Request, path: &str, end: &str) -> Answer {
        let manifest = (request.media_type.clone(), request.body.clone());
        let digest = Digest::of(&request.body).to_string();
        let repository = path.strip_suffix(end).unwrap_or_default();
        self.manifests.insert(format!("{repository}{digest}"), manifest.clone());
        self.manifests.insert(path.to_owned(), manifest);
        let mut headers = vec![("Docker-Content-Digest", digest)];
        let document: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        headers.extend(document["subject"]["digest"].as_str().map(|of| ("OCI-Subject", of.to_owned())));
        (201, headers, Vec::new())
    }

    fn referrers(&self, request: &Request, path: &str, subject: &str) -> Answer {
        if let Some(lie) = self.lies.get(subject) {
            return (200, vec![("Content-Type", INDEX.to_owned())], lie.clone());
        }
        let repository = path.split("/referrers/").next().unwrap_or_default();
        let prefix = format!("{repository}/manifests/sha256:");
        let mut found = Vec::new();
        for (_, (kind, bytes)) in self.manifests.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
            if document["subject"]["digest"] != subject {
                continue;
            }
            let own = document.get("artifactType").unwrap_or(&document["config"]["mediaType"]);
            if request.query.get("artifactType").is_some_and(|wanted| own != wanted.as_str()) {
                continue;
            }
            found.push(json!({
                "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len(),
                "artifactType": own, "annotations": document.get("annotations").unwrap_or(&json!({})),
            }));
        }
        let mut headers = vec![("Content-Type", INDEX.to_owned())];
        if request.query.contains_key("artifactType") {
            headers.push(("OCI-Filters-Applied", "artifactType".to_owned()));
        }
        let at: usize = request.query.get("page").and_then(|text| text.parse().ok()).unwrap_or(0);
        if at + 1 < found.len() {
            let kept = request.query.get("artifactType").map(|kind| format!("&artifactType={kind}"));
            let next =
                format!("<{}?page={}{}>", request.path, at + 1, kept.unwrap_or_default().replace('+', "%2B"));
            headers.push(("Link", format!("{next}; rel=\"next\"")));
        }
        let page: Vec<_> = found.into_iter().skip(at).take(1).collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": page});
        (200, headers, index.to_string().into_bytes())
    }
}
