//! Lists of referrers: of registries that keep them, of those that do not, and of strange ones.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::bench::{Bench, Outcome, refusal};
use super::fault_server::{FaultServer, Received, head, reply};
use super::*;
use crate::digest::Digest;
use crate::image::{Descriptor, Document, Family};

const INDEX_TYPE: (&str, &str) = ("Content-Type", "application/vnd.oci.image.index.v1+json");
const KIND: &str = "application/vnd.example+json";

fn subject() -> Digest {
    Digest::of(b"the subject")
}

fn entry(content: &str, kind: &str) -> Descriptor {
    let mut entry = Descriptor::of(Family::Oci.manifest(), content.as_bytes());
    entry.artifact_type = Some(kind.to_owned());
    entry
}

fn index(entries: &[Descriptor]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": Family::Oci.index(), "manifests": entries})
        .to_string()
        .into_bytes()
}

fn ask(bench: &Bench, kind: Option<&str>) -> Result<Referrers, RegistryError> {
    bench.registry.referrers("a/b", &subject(), kind, &bench.cancel)
}

/// The list that a server answers with, or the error's words.
fn asked(
    kind: Option<&str>,
    answer: impl Fn(usize, &Received, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<(Result<Referrers, String>, FaultServer), Box<dyn std::error::Error>> {
    let server = FaultServer::start(answer)?;
    let bench = Bench::new(&server)?;
    Ok((ask(&bench, kind).map_err(|error| error.to_string()), server))
}

#[test]
fn pages_are_followed_and_filters_of_the_registry_are_believed() -> Outcome {
    let (list, server) = asked(Some(KIND), |number, _, stream| {
        // A registry behind a proxy may not know the port it is reached at.
        let next = format!("<http://127.0.0.1:1/v2/a/b/referrers/{}?last=1>; rel=\"next\"", subject());
        let types = [("OCI-Filters-Applied", "artifactType"), INDEX_TYPE, ("Link", next.as_str())];
        match number {
            // An entry without a type, of a registry that says that it has filtered.
            0 => reply(stream, 200, &types, &index(&[Descriptor::of("x", b"1")])),
            _ => reply(stream, 200, &types[1..2], &index(&[entry("2", KIND), entry("3", "other")])),
        }
    })?;
    let list = list?;
    let digests: Vec<_> = list.manifests.iter().map(|entry| entry.digest).collect();
    assert_eq!(digests, [Digest::of(b"1"), Digest::of(b"2")]);
    assert!(!list.by_tag);
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    let first = format!("/v2/a/b/referrers/{}", subject());
    assert_eq!(
        paths,
        [format!("{first}?artifactType=application/vnd.example%2Bjson"), format!("{first}?last=1")]
    );
    assert!(server.requests()[0].header("accept").is_some_and(|accept| accept.contains("image.index")));
    Ok(())
}

#[test]
fn a_registry_without_the_api_is_asked_for_the_tag() -> Outcome {
    let tag = format!("/v2/a/b/manifests/sha256-{}", subject().hex());
    for status in [404, 400, 405, 501, 200] {
        let place = tag.clone();
        let (list, server) = asked(Some(KIND), move |_, request, stream| {
            if request.path == place {
                return reply(stream, 200, &[INDEX_TYPE], &index(&[entry("1", KIND), entry("2", "other")]));
            }
            // A web page for whatever is asked is no list either.
            reply(stream, status, &[("Content-Type", "text/html")], b"<html>")
        })?;
        let list = list?;
        assert!(list.by_tag && list.manifests == [entry("1", KIND)], "{status}: {list:?}");
        assert_eq!(server.count("/referrers/"), 1);
    }
    let (list, _server) = asked(None, |_, _, stream| refusal(stream, 404, &[]))?;
    assert_eq!(list?, Referrers { manifests: Vec::new(), by_tag: true });
    Ok(())
}

#[test]
fn strange_answers_are_errors_and_not_empty_lists() -> Outcome {
    let link = |to: &'static str| {
        move |_: usize, _: &Received, stream: &mut TcpStream| {
            reply(stream, 200, &[INDEX_TYPE, ("Link", to)], &index(&[]))
        }
    };
    let (list, server) = asked(None, link("</v2/a/b/referrers/x?again>; rel=next"))?;
    assert!(list.is_err_and(|error| error.contains("do not end")));
    assert_eq!(server.requests().len(), 2);
    let (list, _server) = asked(None, link("<http://elsewhere.test/v2/>; rel=next"))?;
    assert!(list.is_err_and(|error| error.contains("same registry")));
    let (list, _server) = asked(None, |_, _, stream| reply(stream, 200, &[INDEX_TYPE], b"{}"))?;
    assert!(list.is_err_and(|error| error.contains("unusable answer")));
    let (list, server) = asked(None, |_, _, stream| refusal(stream, 403, &[]))?;
    assert!(list.is_err_and(|error| error.contains("403")));
    assert_eq!(server.requests().len(), 1);
    let (list, _server) = asked(None, |_, request, stream| match request.path.contains("/referrers/") {
        true => refusal(stream, 404, &[]),
        false => reply(stream, 200, &[], br#"{"schemaVersion":2,"config":{}}"#),
    })?;
    assert!(list.is_err_and(|error| error.contains("no index")));
    // An index all the same, though with what this client cannot name.
    let (list, _server) = asked(None, |_, request, stream| match request.path.contains("/referrers/") {
        true => refusal(stream, 404, &[]),
        false => {
            reply(stream, 200, &[], br#"{"schemaVersion":2,"manifests":[{"digest":"sha512:00","size":1}]}"#)
        }
    })?;
    assert!(list.is_err_and(|error| error.contains("sha512:00")));
    let (list, _server) = asked(None, |number, _, stream| match number {
        0 => reply(stream, 200, &[INDEX_TYPE, ("Link", "</v2/gone>; rel=next")], &index(&[])),
        _ => refusal(stream, 404, &[]),
    })?;
    assert!(list.is_err_and(|error| error.contains("goes on at /v2/gone")));
    // Few entries, and each as large as a page may be.
    let mut large = entry("1", KIND);
    large.annotations.insert("k".to_owned(), "x".repeat(4_000_000));
    let large = index(&[large]);
    let many: Vec<_> = (0..10_001).map(|at: u32| Descriptor::of("x", &at.to_be_bytes())).collect();
    let many = index(&many);
    let (list, _server) = asked(None, move |_, _, stream| reply(stream, 200, &[INDEX_TYPE], &many))?;
    assert!(list.is_err_and(|error| error.contains("more than 10000 referrers")));
    let (list, server) = asked(None, move |number, _, stream| {
        reply(stream, 200, &[INDEX_TYPE, ("Link", &format!("<?n={number}>; rel=next"))], &large)
    })?;
    assert!(list.is_err_and(|error| error.contains("67108864 bytes")));
    assert_eq!(server.requests().len(), 17);
    Ok(())
}

#[test]
fn every_link_counts_and_pages_may_overlap() -> Outcome {
    let (list, server) = asked(None, |number, _, stream| {
        let links = [INDEX_TYPE, ("Link", "</x>; rel=prev"), ("Link", "<?n=2>; rel=next")];
        match number {
            0 => reply(stream, 200, &links, &index(&[entry("1", KIND), entry("2", KIND)])),
            _ => reply(stream, 200, &links[..2], &index(&[entry("2", KIND), entry("3", KIND)])),
        }
    })?;
    assert_eq!(list?.manifests, [entry("1", KIND), entry("2", KIND), entry("3", KIND)]);
    let second = format!("/v2/a/b/referrers/{}?n=2", subject());
    assert_eq!(server.requests().last().map(|request| request.path.as_str()), Some(second.as_str()));
    let (list, _server) = asked(None, |_, _, stream| {
        reply(stream, 200, &[INDEX_TYPE, ("Link", "</v2/ü>; rel=next")], &index(&[]))
    })?;
    assert!(list.is_err_and(|error| error.contains("no valid address")));
    Ok(())
}

/// A registry in memory, which has all blobs.
#[derive(Default)]
struct Model {
    manifests: BTreeMap<String, Vec<u8>>,
    /// It lists referrers, on pages that do not end.
    api: bool,
    /// Writes of the list that somebody else undoes: with what is there then.
    undo: Vec<Vec<u8>>,
}

impl Model {
    fn answer(&mut self, request: &Received, stream: &mut TcpStream) -> std::io::Result<()> {
        let end = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        let body = request.body.as_bytes().to_vec();
        match request.method.as_str() {
            "PUT" if request.path.contains("/manifests/") => {
                let speaks = Document::parse(&body).is_ok_and(|found| found.subject().is_some());
                let told = [("OCI-Subject", "sha256:x")];
                let digest = Digest::of(&body).to_string();
                let listed = end.starts_with("sha256-");
                self.manifests.insert(digest, body.clone());
                self.manifests.insert(end.clone(), body);
                if listed && let Some(other) = self.undo.pop() {
                    self.manifests.insert(end, other);
                }
                reply(stream, 201, if speaks && self.api { &told } else { &[] }, b"")
            }
            "GET" if request.path.contains("/referrers/") => match self.api {
                true => reply(stream, 200, &[INDEX_TYPE, ("Link", "<?again>; rel=next")], &index(&[])),
                false => refusal(stream, 404, &[]),
            },
            method => match self.manifests.get(&end) {
                _ if request.path.contains("/blobs/") => head(stream, 200, &[], Some(0)),
                None => refusal(stream, 404, &[]),
                Some(bytes) => {
                    let digest = Digest::of(bytes).to_string();
                    let headers = [("Docker-Content-Digest", digest.as_str())];
                    head(stream, 200, &headers, Some(bytes.len()))?;
                    if method == "GET" { std::io::Write::write_all(stream, bytes) } else { Ok(()) }
                }
            },
        }
    }

    fn list(&self) -> Vec<Descriptor> {
        let bytes = self.manifests.get(&fallback_tag(&subject()));
        match bytes.map(|bytes| Document::parse(bytes)) {
            Some(Ok(Document::Index(index))) => index.manifests,
            _ => Vec::new(),
        }
    }
}

type Shared = Arc<Mutex<Model>>;

fn locked(model: &Shared) -> std::sync::MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(model: &Shared) -> Result<(FaultServer, Bench), Box<dyn std::error::Error>> {
    let model = model.clone();
    let server = FaultServer::start(move |_, request, stream| locked(&model).answer(request, stream))?;
    let bench = Bench::new(&server)?;
    Ok((server, bench))
}

/// Pushes an artifact that refers to [`subject`].
fn push(bench: &Bench, name: &str) -> Result<Descriptor, Box<dyn std::error::Error>> {
    let empty = Descriptor::of("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": Family::Oci.manifest(), "artifactType": KIND, "config": empty,
        "layers": [empty], "subject": {"mediaType": "x", "digest": subject().to_string(), "size": 3},
        "annotations": {"name": name},
    })
    .to_string();
    bench.store.put_blob(b"{}")?;
    bench.store.put_blob(manifest.as_bytes())?;
    let top = Descriptor::of(Family::Oci.manifest(), manifest.as_bytes());
    let content = StoreContent::new(&bench.store, &RegistryAccess::default());
    let options = PushOptions::default();
    bench.registry.push("a/b", None, &top, &content, &options, &|_| {}, &bench.cancel)?;
    Ok(top)
}

#[test]
fn a_registry_that_lists_is_left_to_it() -> Outcome {
    let model = Shared::default();
    locked(&model).api = true;
    let (server, bench) = start(&model)?;
    push(&bench, "one")?;
    assert_eq!((server.count("sha256-"), server.count("/referrers/")), (0, 0));
    // There already, perhaps from a client that did not look at the answer. One page says enough.
    push(&bench, "one")?;
    assert_eq!((server.count("sha256-"), server.count("/referrers/")), (0, 1));
    Ok(())
}

#[test]
fn elsewhere_the_list_grows_by_each_and_keeps_the_others() -> Outcome {
    let model = Shared::default();
    let (server, bench) = start(&model)?;
    let foreign = entry("somebody else's", "other");
    locked(&model).manifests.insert(fallback_tag(&subject()), index(std::slice::from_ref(&foreign)));
    let (one, two) = (push(&bench, "one")?, push(&bench, "two")?);
    let list = locked(&model).list();
    assert_eq!(list.len(), 3);
    assert_eq!(list[0], foreign);
    for (entry, (pushed, name)) in list[1..].iter().zip([(&one, "one"), (&two, "two")]) {
        assert_eq!((entry.digest, entry.size), (pushed.digest, pushed.size));
        assert_eq!(entry.media_type, Family::Oci.manifest());
        assert_eq!(entry.artifact_type.as_deref(), Some(KIND));
        assert_eq!(entry.annotations.get("name").map(String::as_str), Some(name));
    }
    let writes =
        || server.requests().iter().filter(|r| r.method == "PUT" && r.path.contains("sha256-")).count();
    assert_eq!(writes(), 2);
    push(&bench, "two")?;
    assert_eq!((writes(), locked(&model).list().len()), (2, 3));
    // A push that broke off between the manifest and the list.
    locked(&model).manifests.remove(&fallback_tag(&subject()));
    push(&bench, "two")?;
    assert_eq!(locked(&model).list().len(), 1);
    Ok(())
}

#[test]
fn an_entry_that_others_overwrote_is_put_back() -> Outcome {
    let model = Shared::default();
    let (_server, bench) = start(&model)?;
    let others = [entry("a", "x"), entry("b", "x")];
    locked(&model).undo = vec![index(&others), index(&others[..1])];
    push(&bench, "one")?;
    assert_eq!(locked(&model).list().len(), 3);
    assert_eq!(bench.clock.slept().len(), 3);
    // Somebody who never stops.
    locked(&model).undo = vec![index(&others); 100];
    let error = push(&bench, "two").err().ok_or("lost")?.to_string();
    assert!(error.contains("lost the entry") && error.contains("sha256-"), "{error}");
    Ok(())
}
