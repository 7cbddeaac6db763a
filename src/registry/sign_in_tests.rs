//! Signing in, and to whom credentials go.

use std::sync::{Mutex, PoisonError};

use super::bench::{Bench, MANIFEST, MANIFEST_TYPE, Outcome, refusal, signed_in};
use super::fault_server::{FaultServer, reply};
use crate::digest::Digest;

/// Sends the client to `/token` of the same host, which gives the token `t1`, `t2`...; `lives` says
/// which of them the registry accepts.
fn with_tokens(lives: fn(&str) -> bool) -> std::io::Result<FaultServer> {
    let given = Mutex::new(0);
    FaultServer::start(move |_, request, stream| {
        if request.path.starts_with("/token") {
            let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
            *given += 1;
            return reply(stream, 200, &[], format!(r#"{{"token":"t{given}"}}"#).as_bytes());
        }
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(lives) {
            let content: &[u8] = if request.path.contains("/blobs/") { b"blob" } else { MANIFEST };
            return reply(stream, 200, &[MANIFEST_TYPE], content);
        }
        let host = request.header("host").unwrap_or_default();
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="reg""#);
        refusal(stream, 401, &[("WWW-Authenticate", &challenge)])
    })
}

#[test]
fn one_token_serves_all_requests_for_a_repository() -> Outcome {
    let server = with_tokens(|_| true)?;
    let bench = Bench::new(&server)?;
    assert_eq!(bench.manifest("latest")?.digest, Digest::of(MANIFEST));
    bench.pull(b"blob")?;
    let requests = server.requests();
    let paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    let blob = format!("/v2/a/b/blobs/{}", Digest::of(b"blob"));
    let token = "/token?service=reg&scope=repository%3Aa%2Fb%3Apull";
    assert_eq!(paths, ["/v2/a/b/manifests/latest", token, "/v2/a/b/manifests/latest", &blob]);
    Ok(())
}

#[test]
fn a_token_that_is_no_longer_accepted_is_replaced_once() -> Outcome {
    let server = with_tokens(|token| token == "t3")?;
    let bench = Bench::new(&server)?;
    let error = bench.manifest("latest").err().ok_or("t1 is not accepted")?;
    assert_eq!(error.status(), Some(401));
    // t1 was refused; the next call begins with it, gets t2, and fails; then comes t3.
    assert_eq!(bench.manifest("latest").err().and_then(|error| error.status()), Some(401));
    bench.manifest("latest")?;
    assert_eq!(server.count("/token"), 3);
    Ok(())
}

#[test]
fn threads_that_need_the_same_token_share_it() -> Outcome {
    let server = with_tokens(|_| true)?;
    let bench = Bench::new(&server)?;
    let failed = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..8).map(|_| scope.spawn(|| bench.pull(b"blob").is_err())).collect();
        pulls.into_iter().filter_map(|pull| pull.join().ok()).filter(|failed| *failed).count()
    });
    assert_eq!(failed, 0);
    assert_eq!(server.count("/token"), 1);
    Ok(())
}

#[test]
fn basic_credentials_are_sent_when_asked_for_and_then_at_once() -> Outcome {
    let server = FaultServer::start(|_, request, stream| match request.header("authorization") {
        Some("Basic dTpw") => reply(stream, 200, &[MANIFEST_TYPE], MANIFEST),
        _ => refusal(stream, 401, &[("WWW-Authenticate", "Basic realm=\"x\"")]),
    })?;
    let (_dir, options) = signed_in(&server.host(), r#"{"auth":"dTpw"}"#)?;
    let bench = Bench::with(&server.host(), options)?;
    bench.manifest("one")?;
    bench.manifest("two")?;
    let sent: Vec<bool> =
        server.requests().iter().map(|request| request.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true]);
    Ok(())
}

#[test]
fn identity_tokens_are_exchanged_by_form() -> Outcome {
    let server = with_tokens(|_| true)?;
    let (_dir, options) = signed_in(&server.host(), r#"{"identitytoken":"r&1"}"#)?;
    let bench = Bench::with(&server.host(), options)?;
    bench.manifest("latest")?;
    let requests = server.requests();
    let token = requests.iter().find(|request| request.path == "/token").ok_or("no token was asked for")?;
    assert_eq!(token.method, "POST");
    assert!(token.body.contains("refresh_token=r%261") && token.body.contains("grant_type=refresh_token"));
    assert!(token.header("authorization").is_none());
    Ok(())
}

#[test]
fn a_refused_sign_in_tells_what_was_tried_and_no_secret() -> Outcome {
    let server =
        FaultServer::start(|_, _, stream| refusal(stream, 401, &[("WWW-Authenticate", "Basic realm=x")]))?;
    // hunter2 is the password.
    let (dir, options) = signed_in(&server.host(), r#"{"auth":"am9lOmh1bnRlcjI="}"#)?;
    let bench = Bench::with(&server.host(), options)?;
    let text = bench.manifest("latest").err().ok_or("it is refused")?.to_string();
    let config = dir.path().join("config.json");
    for part in ["no, thank you", "NOPE", "\"joe\"", "rbuild login", &config.display().to_string()] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("am9l"), "{text}");
    assert_eq!(server.requests().len(), 2);
    Ok(())
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() -> Outcome {
    let elsewhere = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b"blob"))?;
    let location = format!("http://{}/data?signature=hunter2", elsewhere.host());
    let server = FaultServer::start(move |_, request, stream| match request.header("authorization") {
        Some(_) => reply(stream, 307, &[("Location", &location)], b""),
        None => refusal(stream, 401, &[("WWW-Authenticate", "Basic realm=x")]),
    })?;
    let (_dir, options) = signed_in(&server.host(), r#"{"auth":"dTpw"}"#)?;
    let bench = Bench::with(&server.host(), options)?;
    bench.pull(b"blob")?;
    let arrived = elsewhere.requests();
    assert_eq!(arrived.len(), 1);
    assert!(arrived.iter().all(|request| request.header("authorization").is_none()));
    Ok(())
}

#[test]
fn another_host_cannot_ask_for_the_registrys_credentials() -> Outcome {
    let elsewhere =
        FaultServer::start(|_, _, stream| refusal(stream, 401, &[("WWW-Authenticate", "Basic realm=x")]))?;
    let location = format!("http://{}/data?signature=hunter2", elsewhere.host());
    let server = FaultServer::start(move |_, _, stream| reply(stream, 302, &[("Location", &location)], b""))?;
    let (_dir, options) = signed_in(&server.host(), r#"{"auth":"dTpw"}"#)?;
    let bench = Bench::with(&server.host(), options)?;
    let text = bench.pull(b"blob").err().ok_or("it is refused")?.to_string();
    assert!(text.contains("401") && !text.contains("hunter2"), "{text}");
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(server.requests().len(), 1);
    Ok(())
}

#[test]
fn redirects_within_the_registry_keep_the_credentials_and_circles_end() -> Outcome {
    let server = FaultServer::start(|_, request, stream| match request.header("authorization") {
        None => refusal(stream, 401, &[("WWW-Authenticate", "Basic realm=x")]),
        Some(_) if request.path == "/data" => reply(stream, 200, &[], b"blob"),
        Some(_) if request.path.contains("/blobs/") => reply(stream, 302, &[("Location", "/data")], b""),
        Some(_) => reply(stream, 302, &[("Location", "/round")], b""),
    })?;
    let (_dir, options) = signed_in(&server.host(), r#"{"auth":"dTpw"}"#)?;
    let bench = Bench::with(&server.host(), options)?;
    bench.pull(b"blob")?;
    let text = bench.manifest("latest").err().ok_or("it never ends")?.to_string();
    assert!(text.contains("circles"), "{text}");
    Ok(())
}
