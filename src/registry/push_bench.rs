//! A registry in memory for tests of pushes, with faults on request.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use super::bench::{Bench, refusal};
use super::fault_server::{FaultServer, Received, head, reply};
use super::*;
use crate::digest::Digest;
use crate::image::{Descriptor, Family};

/// What the model does wrong with a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// Ends the connection after taking this many bytes of the body.
    Drop(usize),
    /// Answers with this status and does nothing.
    Status(u16),
    /// 429 with `Retry-After: 2`.
    TooMany,
    /// Does all and says that the digest is another.
    WrongDigest,
    /// Answers 500 with a body that never ends.
    Endless,
    /// Has forgotten all uploads.
    Forget,
    /// Does all and answers with this status, or not at all.
    Done(Option<u16>),
}

/// A registry in memory: what was uploaded so far, and what is complete.
#[derive(Default)]
pub(super) struct Model {
    pub(super) uploads: BTreeMap<String, String>,
    pub(super) blobs: BTreeMap<String, String>,
    pub(super) manifests: BTreeMap<String, String>,
    /// Repositories from which can be mounted; they have every blob.
    pub(super) others: Vec<String>,
    /// What is said of every piece: the status, and `Range`.
    pub(super) says: Option<(u16, &'static str)>,
}

pub(super) type Shared = Arc<Mutex<Model>>;

pub(super) fn start(
    model: &Shared,
    trouble: impl Fn(usize, &Received) -> Option<Trouble> + Send + Sync + 'static,
) -> std::io::Result<FaultServer> {
    let model = model.clone();
    FaultServer::start(move |number, request, stream| {
        let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
        let mut request = request.clone();
        match trouble(number, &request) {
            Some(Trouble::Status(status)) => return refusal(stream, status, &[]),
            Some(Trouble::TooMany) => return refusal(stream, 429, &[("Retry-After", "2")]),
            Some(Trouble::Forget) => model.uploads.clear(),
            Some(Trouble::Done(status)) => {
                let (path, query) = request.path.split_once('?').unwrap_or_default();
                let content = model.uploads.remove(path).unwrap_or_default() + &request.body;
                let digest = query.rsplit("digest=").next().unwrap_or_default();
                model.blobs.insert(digest.to_owned(), content);
                return status.map_or(Ok(()), |status| refusal(stream, status, &[]));
            }
            Some(Trouble::Drop(kept)) => {
                request.body.truncate(kept);
                if request.method == "PATCH" {
                    let place = request.path.split('?').next().unwrap_or_default();
                    model.uploads.entry(place.to_owned()).or_default().push_str(&request.body);
                }
                return Ok(());
            }
            Some(Trouble::WrongDigest) => {
                let other = Digest::of(b"something else").to_string();
                return reply(stream, 201, &[("Docker-Content-Digest", &other)], b"");
            }
            Some(Trouble::Endless) => {
                head(stream, 500, &[], None)?;
                while stream.write_all(&[b'x'; 4096]).is_ok() {}
                return Ok(());
            }
            None => {}
        }
        model.answer(&request, stream)
    })
}

impl Model {
    fn answer(&mut self, request: &Received, stream: &mut TcpStream) -> std::io::Result<()> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parameter = |name: &str| {
            let found =
                query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_owned())
        };
        let end = path.rsplit('/').next().unwrap_or_default();
        match (request.method.as_str(), path) {
            ("HEAD", path) if path.contains("/blobs/") => {
                head(stream, if self.blobs.contains_key(end) { 200 } else { 404 }, &[], Some(0))
            }
            ("HEAD", path) if path.contains("/manifests/") => match self.manifests.get(end) {
                Some(bytes) => {
                    let digest = Digest::of(bytes.as_bytes()).to_string();
                    head(stream, 200, &[("Docker-Content-Digest", &digest)], Some(bytes.len()))
                }
                None => head(stream, 404, &[], Some(0)),
            },
            ("POST", path) => {
                if let Some(digest) = parameter("mount")
                    && self.others.contains(&parameter("from").unwrap_or_default())
                {
                    self.blobs.insert(digest, String::new());
                    return reply(stream, 201, &[], b"");
                }
                let place = format!("{path}{}", self.uploads.len());
                self.uploads.insert(place.clone(), String::new());
                reply(stream, 202, &[("Location", &format!("{place}?state=1"))], b"")
            }
            ("PUT", path) if path.contains("/manifests/") => {
                let digest = Digest::of(request.body.as_bytes()).to_string();
                self.manifests.insert(end.to_owned(), request.body.clone());
                self.manifests.insert(digest.clone(), request.body.clone());
                reply(stream, 201, &[("Docker-Content-Digest", &digest)], b"")
            }
            (method, path) => {
                let Some(upload) = self.uploads.get_mut(path) else { return refusal(stream, 404, &[]) };
                let from = request.header("content-range").and_then(|range| range.split('-').next());
                let from = from.and_then(|from| from.parse().ok());
                if method != "GET" && from.is_some_and(|from: usize| from != upload.len()) {
                    return refusal(stream, 416, &[]);
                }
                upload.push_str(&request.body);
                let range = format!("0-{}", upload.len().saturating_sub(1));
                if let (Some((status, range)), "PATCH") = (self.says, method) {
                    return reply(stream, status, &[("Location", &request.path), ("Range", range)], b"");
                }
                let headers = [("Location", request.path.as_str()), ("Range", range.as_str())];
                match method {
                    "GET" => reply(stream, 204, &headers, b""),
                    "PATCH" => reply(stream, 202, &headers, b""),
                    _ => {
                        let content = self.uploads.remove(path).unwrap_or_default();
                        let digest = Digest::of(content.as_bytes()).to_string();
                        if parameter("digest").as_deref() != Some(&digest) {
                            return refusal(stream, 400, &[]);
                        }
                        self.blobs.insert(digest, content);
                        reply(stream, self.says.map_or(201, |_| 200), &[], b"")
                    }
                }
            }
        }
    }
}

pub(super) const SMALL: &str = "a small layer";

pub(super) fn large() -> String {
    "0123456789abcdef".repeat(200)
}

/// An image with a small and a large layer in the bench's store.
pub(super) fn image(bench: &Bench) -> Result<Descriptor, Box<dyn std::error::Error>> {
    let mut parts = Vec::new();
    for (kind, content) in [
        (Family::Oci.config(), "{}".to_owned()),
        (Family::Oci.layer(Default::default()), SMALL.to_owned()),
        (Family::Oci.layer(Default::default()), large()),
    ] {
        bench.store.put_blob(content.as_bytes())?;
        parts.push(serde_json::to_string(&Descriptor::of(kind, content.as_bytes()))?);
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{},{}]}}"#,
        Family::Oci.manifest(),
        parts[0],
        parts[1],
        parts[2]
    );
    bench.store.put_blob(manifest.as_bytes())?;
    Ok(Descriptor::of(Family::Oci.manifest(), manifest.as_bytes()))
}

pub(super) fn push(bench: &Bench, top: &Descriptor) -> Result<PushReport, RegistryError> {
    // One at a time, so that requests come in a known order.
    let options = PushOptions { parallel: 1, small: 100, piece: 1000 };
    let content = StoreContent::new(&bench.store, &RegistryAccess::default());
    bench.registry.push("a/b", Some("1"), top, &content, &options, &|_| {}, &bench.cancel)
}

/// Pushes with trouble and checks that all arrived.
pub(super) fn arrives(
    trouble: impl Fn(usize, &Received) -> Option<Trouble> + Send + Sync + 'static,
) -> Result<(FaultServer, PushReport, Vec<u64>), Box<dyn std::error::Error>> {
    let model = Shared::default();
    let server = start(&model, trouble)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let report = push(&bench, &top)?;
    let model = model.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(model.blobs.len(), 3);
    assert_eq!(model.blobs.get(&Digest::of(large().as_bytes()).to_string()), Some(&large()));
    assert!(model.manifests.contains_key("1"));
    Ok((server, report, bench.clock.slept()))
}

/// Trouble with the first request of a method only.
pub(super) fn once(method: &'static str, trouble: Trouble) -> impl Fn(usize, &Received) -> Option<Trouble> {
    let left = Mutex::new(true);
    move |_, request| {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        (request.method == method && std::mem::take(&mut *left)).then_some(trouble)
    }
}

pub(super) fn fails(
    trouble: impl Fn(usize, &Received) -> Option<Trouble> + Send + Sync + 'static,
) -> Result<(FaultServer, RegistryError), Box<dyn std::error::Error>> {
    let model = Shared::default();
    let server = start(&model, trouble)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let error = push(&bench, &top).err().ok_or("it cannot work")?;
    assert!(!model.lock().unwrap_or_else(PoisonError::into_inner).manifests.contains_key("1"));
    Ok((server, error))
}
