//! Being refused, before and while pushing.

use std::sync::PoisonError;

use super::bench::{Bench, Outcome, refusal};
use super::fault_server::{FaultServer, reply};
use super::push_bench::{Shared, image, push, start};
use super::*;

#[test]
fn only_a_clear_refusal_of_an_upload_says_that_a_push_is_not_allowed() -> Outcome {
    for (status, refused) in [
        (200, false),
        (201, false),
        (202, false),
        (400, false),
        (401, true),
        (403, true),
        (404, false),
        (405, false),
        (429, false),
        (500, false),
        (503, false),
    ] {
        let server = FaultServer::start(move |_, _, stream| refusal(stream, status, &[]))?;
        let bench = Bench::new(&server)?;
        let found = bench.registry.push_refusal("a/b", &bench.cancel).map(|error| error.to_string());
        assert_eq!(found.is_some(), refused, "{status}: {found:?}");
        assert!(found.is_none_or(|text| text.contains("no, thank you")), "{status}");
        // Whoever has trouble is not asked twice, nor waited for.
        assert_eq!((server.requests().len(), bench.clock.slept().len()), (1, 0), "{status}");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let bench = Bench::with(&nobody, RegistryOptions::default())?;
    assert!(bench.registry.push_refusal("a/b", &bench.cancel).is_none());
    Ok(())
}

#[test]
fn an_upload_that_was_begun_to_ask_is_given_up() -> Outcome {
    let server = FaultServer::start(|_, request, stream| match request.method.as_str() {
        "POST" => reply(stream, 202, &[("Location", "/v2/a/b/blobs/uploads/7?state=x")], b""),
        _ => reply(stream, 204, &[], b""),
    })?;
    let bench = Bench::new(&server)?;
    assert!(bench.registry.push_refusal("a/b", &bench.cancel).is_none());
    let asked: Vec<_> =
        server.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    assert_eq!(asked, ["POST /v2/a/b/blobs/uploads/", "DELETE /v2/a/b/blobs/uploads/7?state=x"]);
    Ok(())
}

/// The error of a push whose manifest gets this answer.
fn refused_with(status: u16, body: &'static str) -> Result<String, Box<dyn std::error::Error>> {
    let model = Shared::default();
    let server = start(&model, |_, _| None)?;
    let inner = server.host();
    let outer = FaultServer::start(move |_, request, stream| {
        if request.method == "PUT" && request.path.contains("/manifests/") {
            return reply(stream, status, &[], body.as_bytes());
        }
        reply(stream, 307, &[("Location", &format!("http://{inner}{}", request.path))], b"")
    })?;
    let bench = Bench::new(&outer)?;
    let error = push(&bench, &image(&bench)?).err().ok_or("it was refused")?;
    assert!(model.lock().unwrap_or_else(PoisonError::into_inner).manifests.is_empty());
    Ok(error.to_string())
}

#[test]
fn a_refused_manifest_says_what_may_help() -> Outcome {
    const TYPES: &str = "oci-mediatypes=false";
    for (status, code, expected, unexpected) in [
        (415, "", TYPES, "push again"),
        (400, "MANIFEST_INVALID", TYPES, "push again"),
        (400, "UNSUPPORTED", TYPES, "push again"),
        (400, "TAG_INVALID", "TAG_INVALID", TYPES),
        (404, "MANIFEST_BLOB_UNKNOWN", "push again", "created first"),
        (400, "BLOB_UNKNOWN", "push again", TYPES),
        (404, "NAME_UNKNOWN", "created first", TYPES),
        (403, "DENIED", "may not push", TYPES),
    ] {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no, thank you"}}]}}"#);
        let body: &'static str = if code.is_empty() { "" } else { body.leak() };
        let text = refused_with(status, body)?;
        assert!(text.contains(expected) && !text.contains(unexpected), "{status} {code}: {text}");
    }
    Ok(())
}
