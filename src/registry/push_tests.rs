//! Pushing to servers that misbehave.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use super::bench::{Bench, Outcome, refusal};
use super::fault_server::{FaultServer, Received, head, reply};
use super::origins::{Origin, note};
use super::*;
use crate::digest::Digest;
use crate::image::{Descriptor, Family};

/// What the model does wrong with a request.
#[derive(Clone, Copy, Debug)]
enum Trouble {
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
struct Model {
    uploads: BTreeMap<String, String>,
    blobs: BTreeMap<String, String>,
    manifests: BTreeMap<String, String>,
    /// Repositories from which can be mounted; they have every blob.
    others: Vec<String>,
    /// What is said of every piece: the status, and `Range`.
    says: Option<(u16, &'static str)>,
}

type Shared = Arc<Mutex<Model>>;

fn start(
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

const SMALL: &str = "a small layer";

fn large() -> String {
    "0123456789abcdef".repeat(200)
}

/// An image with a small and a large layer in the bench's store.
fn image(bench: &Bench) -> Result<Descriptor, Box<dyn std::error::Error>> {
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

fn push(bench: &Bench, top: &Descriptor) -> Result<PushReport, RegistryError> {
    // One at a time, so that requests come in a known order.
    let options = PushOptions { parallel: 1, small: 100, piece: 1000 };
    let content = StoreContent::new(&bench.store, &RegistryAccess::default());
    bench.registry.push("a/b", Some("1"), top, &content, &options, &|_| {}, &bench.cancel)
}

/// Pushes with trouble and checks that all arrived.
fn arrives(
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
fn once(method: &'static str, trouble: Trouble) -> impl Fn(usize, &Received) -> Option<Trouble> {
    let left = Mutex::new(true);
    move |_, request| {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        (request.method == method && std::mem::take(&mut *left)).then_some(trouble)
    }
}

#[test]
fn an_image_goes_in_few_requests_and_the_tag_comes_last() -> Outcome {
    let (server, report, slept) = arrives(|_, _| None)?;
    let manifest = report.sent_bytes - (large().len() + SMALL.len() + 2) as u64;
    assert!(manifest > 100 && manifest < 1000, "{manifest}");
    assert_eq!((report.uploaded, report.existed, report.mounted), (3, 0, 0));
    assert!(slept.is_empty());
    let requests = server.requests();
    let methods: Vec<&str> = requests.iter().map(|request| request.method.as_str()).collect();
    let small = ["HEAD", "POST", "PUT"];
    let large = ["HEAD", "POST", "PATCH", "PUT"];
    let expected = [&["HEAD", "HEAD"][..], &small, &large, &small, &["PUT"]].concat();
    assert_eq!(methods, expected);
    assert!(requests.last().is_some_and(|last| last.path == "/v2/a/b/manifests/1"));
    let whole = requests.iter().find(|request| request.method == "PATCH").ok_or("no PATCH")?;
    assert_eq!(whole.header("content-range"), None);
    Ok(())
}

#[test]
fn what_is_there_is_not_sent_again() -> Outcome {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    push(&bench, &top)?;
    let before = server.requests().len();
    let again = push(&bench, &top)?;
    assert_eq!((again.sent_bytes, again.uploaded), (0, 0));
    assert_eq!(server.requests().len(), before + 1);
    // Another tag needs the manifest only; without it, the blobs are looked for.
    model.lock().unwrap_or_else(PoisonError::into_inner).manifests.remove("1");
    let tagged = push(&bench, &top)?;
    assert_eq!(tagged.sent_bytes, top.size);
    model.lock().unwrap_or_else(PoisonError::into_inner).manifests.clear();
    let found = push(&bench, &top)?;
    assert_eq!((found.existed, found.uploaded, found.sent_bytes), (3, 0, top.size));
    Ok(())
}

#[test]
fn an_index_whose_images_only_the_registry_has_is_pushed() -> Outcome {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let child = image(&bench)?;
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": Family::Oci.index(), "manifests": [child]});
    let index = index.to_string();
    bench.store.put_blob(index.as_bytes())?;
    let top = Descriptor::of(Family::Oci.index(), index.as_bytes());
    push(&bench, &child)?;
    std::fs::remove_file(bench.store.blob_path(&child.digest))?;
    assert_eq!(push(&bench, &top)?.sent_bytes, top.size);
    let mut model = model.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(model.manifests.get("1"), Some(&index));
    model.manifests.clear();
    drop(model);
    assert!(push(&bench, &top).is_err_and(|error| error.to_string().contains("no registry is known")));
    Ok(())
}

#[test]
fn blobs_of_another_repository_are_mounted_and_the_rest_is_sent() -> Outcome {
    let model = Shared::default();
    model.lock().unwrap_or_else(PoisonError::into_inner).others.push("base/x".into());
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let from = |repository: &str, content: &str| {
        let origin = Origin { host: server.host(), repository: repository.to_owned() };
        note(&bench.store, &Digest::of(content.as_bytes()), &origin)
    };
    from("base/x", &large())?;
    from("gone/y", SMALL)?;
    let report = push(&bench, &top)?;
    assert_eq!((report.mounted, report.uploaded), (1, 2));
    // The refused mount opened an upload, which was used.
    assert_eq!(server.requests().iter().filter(|request| request.method == "POST").count(), 3);
    Ok(())
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() -> Outcome {
    let (server, report, slept) = arrives(once("PATCH", Trouble::Drop(1234)))?;
    assert_eq!(slept, [300]);
    let requests = server.requests();
    let patches: Vec<_> = requests.iter().filter(|request| request.method == "PATCH").collect();
    let ranges: Vec<_> = patches.iter().filter_map(|patch| patch.header("content-range")).collect();
    assert_eq!(ranges, ["1234-3199"]);
    assert_eq!(report.uploaded, 3);
    Ok(())
}

#[test]
fn pieces_get_smaller_where_nothing_of_a_large_one_is_kept() -> Outcome {
    let (server, ..) = arrives(once("PATCH", Trouble::Drop(0)))?;
    let requests = server.requests();
    let ranges: Vec<_> = requests.iter().filter_map(|patch| patch.header("content-range")).collect();
    assert_eq!(ranges, ["0-999", "1000-1999", "2000-2999", "3000-3199"]);
    let (server, _, slept) = arrives(|_, request| {
        (request.body.len() > 500 && request.method == "PATCH").then_some(Trouble::Status(413))
    })?;
    assert!(slept.is_empty());
    assert!(server.requests().iter().any(|request| request.header("content-range") == Some("0-399")));
    Ok(())
}

/// Of registries that keep the bytes and count them wrongly: always the first, one too many, those of the
/// first piece, those of the last piece alone, nothing of sense.
#[test]
fn the_digest_counts_and_not_what_is_said_of_pieces() -> Outcome {
    for says in [(202, "0-0"), (202, "0-3200"), (202, "0-9"), (202, "2000-2999"), (200, "0-"), (200, "x")] {
        for limit in [usize::MAX, 1000] {
            let model = Shared::default();
            model.lock().unwrap_or_else(PoisonError::into_inner).says = Some(says);
            let server = start(&model, move |_, request| {
                (request.method == "PATCH" && request.body.len() > limit).then_some(Trouble::Status(413))
            })?;
            let bench = Bench::new(&server)?;
            let top = image(&bench)?;
            push(&bench, &top).map_err(|error| format!("{says:?} {limit}: {error}"))?;
            let model = model.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(model.blobs.get(&Digest::of(large().as_bytes()).to_string()), Some(&large()));
        }
    }
    Ok(())
}

#[test]
fn a_blob_that_is_there_after_all_is_not_sent_again() -> Outcome {
    for status in [Some(400), Some(409), Some(500), Some(504), None] {
        let finishes = |request: &Received| request.method == "PUT" && request.path.contains("/uploads/");
        let trouble = move |_: usize, request: &Received| {
            (finishes(request) && request.body.is_empty()).then_some(Trouble::Done(status))
        };
        let (server, _, slept) = arrives(trouble)?;
        assert!(slept.is_empty(), "{status:?} {slept:?}");
        assert_eq!(server.requests().iter().filter(|request| request.method == "PATCH").count(), 1);
    }
    Ok(())
}

#[test]
fn a_registry_that_is_still_at_work_is_asked_and_not_told_again() -> Outcome {
    let broken = Mutex::new(false);
    let (server, _, slept) = arrives(move |_, request| {
        let finishes =
            request.method == "PUT" && request.path.contains("/uploads/") && request.body.is_empty();
        let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
        (finishes && !std::mem::replace(&mut *broken, true)).then_some(Trouble::Drop(0))
    })?;
    // It never finished: then all is sent anew, to another place.
    assert_eq!(slept, [1000, 2000, 4000, 8000, 15_000, 30_000, 300]);
    let finishes = |request: &&Received| request.method == "PUT" && request.path.contains("/uploads/");
    let paths: Vec<String> = server.requests().iter().filter(finishes).map(|r| r.path.clone()).collect();
    let mut unique = paths.clone();
    unique.dedup();
    assert_eq!(unique, paths, "an upload was finished twice");
    Ok(())
}

#[test]
fn a_forgotten_upload_begins_anew() -> Outcome {
    for method in ["PATCH", "PUT"] {
        let (_, report, _) = arrives(once(method, Trouble::Forget))?;
        assert_eq!(report.uploaded, 3);
    }
    Ok(())
}

#[test]
fn passing_trouble_is_waited_out_at_every_step() -> Outcome {
    for method in ["HEAD", "POST", "PATCH", "PUT"] {
        for trouble in [Trouble::Status(500), Trouble::Status(503), Trouble::Drop(0), Trouble::Endless] {
            let (_, _, slept) = arrives(once(method, trouble))?;
            assert_eq!(slept, [300], "{method} {trouble:?}");
        }
        let (_, _, slept) = arrives(once(method, Trouble::TooMany))?;
        assert_eq!(slept, [2000], "{method}");
    }
    Ok(())
}

fn fails(
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

#[test]
fn a_registry_that_stored_something_else_is_not_believed() -> Outcome {
    let (_, error) = fails(|_, request| {
        (request.method == "PUT" && request.path.contains("manifests")).then_some(Trouble::WrongDigest)
    })?;
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    Ok(())
}

#[test]
fn refusals_name_the_request_and_what_to_do() -> Outcome {
    for (method, status, words) in [
        ("POST", 401, "rbuild login"),
        ("POST", 403, "may not push"),
        ("POST", 405, "read-only"),
        ("PATCH", 413, "limits the size"),
        ("PUT", 429, "wait a while"),
    ] {
        let (_, error) =
            fails(move |_, request| (request.method == method).then_some(Trouble::Status(status)))?;
        let text = error.to_string();
        let asked = words != "rbuild login" || text.contains("without credentials");
        assert!(asked && (status == 401 || text.contains(words)), "{text}");
        for part in ["no, thank you", "NOPE", method, "/v2/a/b/blobs/uploads/"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    Ok(())
}

#[test]
fn lasting_trouble_ends_the_push() -> Outcome {
    let (server, error) = fails(|_, request| (request.method == "PATCH").then_some(Trouble::Drop(0)))?;
    assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
    assert_eq!(server.requests().iter().filter(|request| request.method == "PATCH").count(), 5);
    Ok(())
}

#[test]
fn a_slow_upload_has_new_patience_with_every_step_it_makes() -> Outcome {
    // Each PATCH brings 300 bytes and breaks: more failures than attempts, but never in vain.
    let (_, _, slept) = arrives(|_, request| {
        (request.method == "PATCH" && request.body.len() > 300).then_some(Trouble::Drop(300))
    })?;
    assert!(slept.len() > 8 && slept.iter().all(|slept| *slept <= 600), "{slept:?}");
    Ok(())
}

#[test]
fn a_damaged_store_is_told_from_a_bad_registry() -> Outcome {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let spoiled = large().replace("0123", "3210");
    std::fs::write(bench.store.blob_path(&Digest::of(large().as_bytes())), spoiled)?;
    let text = push(&bench, &top).err().ok_or("it is damaged")?.to_string();
    assert!(text.contains("the store") && text.contains("digest"), "{text}");
    std::fs::write(bench.store.blob_path(&Digest::of(large().as_bytes())), "short")?;
    let text = push(&bench, &top).err().ok_or("it is damaged")?.to_string();
    assert!(text.contains("5 bytes instead of 3200"), "{text}");
    Ok(())
}

#[test]
fn a_layer_that_is_not_here_streams_from_where_it_is() -> Outcome {
    let origin = FaultServer::start(|_, _, stream| reply(stream, 200, &[], large().as_bytes()))?;
    let model = Shared::default();
    let server = start(&model, once("PATCH", Trouble::Drop(1000)))?;
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let digest = Digest::of(large().as_bytes());
    std::fs::remove_file(bench.store.blob_path(&digest))?;
    let text = push(&bench, &top).err().ok_or("nobody has it")?.to_string();
    assert!(text.contains("no registry is known"), "{text}");
    note(&bench.store, &digest, &Origin { host: origin.host(), repository: "far/away".into() })?;
    assert_eq!(push(&bench, &top)?.uploaded, 2);
    assert!(!bench.store.has_blob(&digest));
    assert!(origin.count("/v2/far/away/blobs/") >= 1);
    let model = model.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(model.blobs.get(&digest.to_string()), Some(&large()));
    Ok(())
}

#[test]
fn a_cancelled_push_ends_at_once() -> Outcome {
    let model = Shared::default();
    let server = FaultServer::start(|_, request, stream| match request.method.as_str() {
        "HEAD" => head(stream, 404, &[], Some(0)),
        _ => std::io::Read::read(stream, &mut [0]).map(|_| ()),
    })?;
    drop(model);
    let bench = Bench::new(&server)?;
    let top = image(&bench)?;
    let cancel = bench.cancel.clone();
    let switch = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        cancel.cancel();
    });
    let begun = std::time::Instant::now();
    let error = push(&bench, &top).err().ok_or("it was cancelled")?;
    assert!(error.is_cancelled(), "{error}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(300));
    switch.join().map_err(|_| "the switch panicked")?;
    Ok(())
}
