//! The client against servers that misbehave.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bench::{Bench, MANIFEST, MANIFEST_TYPE, Outcome, refusal};
use super::fault_server::{FaultServer, Received, head, reply};
use super::*;
use crate::cancel::Cancel;
use crate::digest::Digest;

/// Sends a part of the body, then nothing until the client has gone.
fn stall(_: usize, _: &Received, stream: &mut TcpStream) -> std::io::Result<()> {
    head(stream, 200, &[], Some(4))?;
    stream.write_all(b"bl")?;
    stream.read(&mut [0]).map(|_| ())
}

#[test]
fn the_registry_says_how_long_to_wait() -> Outcome {
    let server = FaultServer::start(|number, _, stream| match number {
        0 => refusal(stream, 429, &[("Retry-After", "0")]),
        1 => refusal(stream, 503, &[("Retry-After", "3")]),
        _ => reply(stream, 200, &[MANIFEST_TYPE], MANIFEST),
    })?;
    let bench = Bench::new(&server)?;
    bench.manifest("latest")?;
    assert_eq!(bench.clock.slept(), [0, 3000]);
    Ok(())
}

#[test]
fn server_trouble_is_waited_out_but_not_forever() -> Outcome {
    let passing = FaultServer::start(|number, _, stream| match number {
        0 | 1 => reply(stream, 500, &[], b"oops"),
        _ => reply(stream, 200, &[], b"blob"),
    })?;
    let bench = Bench::new(&passing)?;
    bench.pull(b"blob")?;
    assert_eq!(bench.clock.slept(), [300, 600]);

    let lasting = FaultServer::start(|_, _, stream| reply(stream, 502, &[], b"upstream is down"))?;
    let bench = Bench::new(&lasting)?;
    let text = bench.pull(b"blob").err().ok_or("it always fails")?.to_string();
    assert!(text.contains("502") && text.contains("upstream is down"), "{text}");
    assert_eq!(lasting.requests().len(), 5);
    Ok(())
}

#[test]
fn what_is_not_there_is_not_asked_for_again() -> Outcome {
    let server = FaultServer::start(|_, _, stream| {
        reply(stream, 404, &[], br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
    })?;
    let bench = Bench::new(&server)?;
    assert_eq!(bench.registry.head_manifest("a/b", "gone", &bench.cancel)?, None);
    let error = bench.manifest("gone").err().ok_or("it is not there")?;
    assert!(error.is_not_found());
    let text = error.to_string();
    assert!(text.contains("manifest unknown") && text.contains("no gone of a/b"), "{text}");
    assert_eq!(server.requests().len(), 2);
    Ok(())
}

#[test]
fn a_head_tells_digest_type_and_size() -> Outcome {
    let digest = Digest::of(MANIFEST);
    let server = FaultServer::start(move |_, request, stream| {
        assert_eq!(request.method, "HEAD");
        let digest = digest.to_string();
        head(stream, 200, &[MANIFEST_TYPE, ("Docker-Content-Digest", &digest)], Some(MANIFEST.len()))
    })?;
    let bench = Bench::new(&server)?;
    let found = bench.registry.head_manifest("a/b", "latest", &bench.cancel)?.ok_or("it is there")?;
    assert_eq!((found.digest, found.size), (Some(digest), Some(MANIFEST.len() as u64)));
    assert_eq!(found.media_type, MANIFEST_TYPE.1);
    let accept = server.requests().first().and_then(|request| request.header("accept").map(str::to_owned));
    let accept = accept.unwrap_or_default();
    for part in ["image.index.v1", "image.manifest.v1", "manifest.list.v2", "manifest.v2"] {
        assert!(accept.contains(part), "{part} in {accept}");
    }
    Ok(())
}

#[test]
fn a_transfer_that_breaks_off_begins_anew() -> Outcome {
    let server = FaultServer::start(|number, _, stream| match number {
        0 => {
            head(stream, 200, &[], Some(4))?;
            stream.write_all(b"bl")
        }
        // No length announced: only the expected size tells that this is not the end.
        1 => {
            head(stream, 200, &[], None)?;
            stream.write_all(b"blo")
        }
        _ => reply(stream, 200, &[], b"blob"),
    })?;
    let bench = Bench::new(&server)?;
    let told = Mutex::new(Vec::new());
    let progress = |bytes| told.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    bench.registry.pull_blob("a/b", &Digest::of(b"blob"), 4, &bench.store, &progress, &bench.cancel)?;
    assert!(bench.has(b"blob"));
    let told = told.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(told.iter().filter(|bytes| **bytes == 0).count(), 3);
    assert_eq!(told.last(), Some(&4));
    Ok(())
}

/// Breaks off after `blob`, then answers the request for the rest with this.
fn broken_off(
    rest: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> std::io::Result<FaultServer> {
    FaultServer::start(move |number, request, stream| match (number, request.header("range")) {
        (0, None) => {
            head(stream, 200, &[], Some(8))?;
            stream.write_all(b"blob")
        }
        (1, Some("bytes=4-")) => rest(stream),
        (_, None) => reply(stream, 200, &[], b"blobrest"),
        _ => refusal(stream, 400, &[]),
    })
}

#[test]
fn only_the_rest_of_a_broken_transfer_is_asked_for() -> Outcome {
    let server = broken_off(|stream| reply(stream, 206, &[("Content-Range", "bytes 4-7/8")], b"rest"))?;
    let bench = Bench::new(&server)?;
    bench.pull(b"blobrest")?;
    assert!(bench.has(b"blobrest"));
    assert_eq!((server.requests().len(), bench.clock.slept().len()), (2, 1));
    Ok(())
}

#[test]
fn registries_that_send_no_parts_or_wrong_ones_send_all() -> Outcome {
    type Rest = fn(&mut TcpStream) -> std::io::Result<()>;
    let cases: [(Rest, usize); 5] = [
        (|stream| reply(stream, 200, &[], b"blobrest"), 2),
        (|stream| refusal(stream, 416, &[]), 3),
        (|stream| reply(stream, 206, &[("Content-Range", "bytes 3-7/8")], b"brest"), 3),
        (|stream| reply(stream, 206, &[], b"rest"), 3),
        (|stream| reply(stream, 206, &[("Content-Range", "bytes 4-7/8")], b"RUST"), 3),
    ];
    for (number, (rest, requests)) in cases.into_iter().enumerate() {
        let server = broken_off(rest)?;
        let bench = Bench::new(&server)?;
        bench.pull(b"blobrest")?;
        assert!(bench.has(b"blobrest") && !bench.has(b"blobRUST"), "{number}");
        assert_eq!((server.requests().len(), bench.clock.slept().len()), (requests, 1), "{number}");
    }
    let longer = broken_off(|stream| reply(stream, 206, &[("Content-Range", "bytes 4-8/9")], b"rest!"))?;
    let bench = Bench::new(&longer)?;
    assert!(matches!(bench.pull(b"blobrest"), Err(RegistryError::Size { truncated: false, .. })));
    Ok(())
}

#[test]
fn corrupted_bytes_never_reach_the_store() -> Outcome {
    let server = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b"blub"))?;
    let bench = Bench::new(&server)?;
    assert!(matches!(bench.pull(b"blob"), Err(RegistryError::Mismatch { .. })));
    assert!(!bench.has(b"blob") && !bench.has(b"blub"));
    assert_eq!(server.requests().len(), 2);
    let mut reader = bench.registry.open_blob("a/b", &Digest::of(b"blob"), 4, &bench.cancel)?;
    let error = reader.read_to_end(&mut Vec::new()).err().ok_or("the bytes are wrong")?;
    assert!(matches!(BlobReader::cause(error), Ok(RegistryError::Mismatch { .. })));
    Ok(())
}

#[test]
fn a_manifest_must_be_what_was_asked_for_and_announced() -> Outcome {
    let other = Digest::of(b"other").to_string();
    let announced = other.clone();
    let server = FaultServer::start(move |_, request, stream| {
        let digest: &[(&str, &str)] =
            if request.path.ends_with("latest") { &[("Docker-Content-Digest", &announced)] } else { &[] };
        reply(stream, 200, digest, MANIFEST)
    })?;
    let bench = Bench::new(&server)?;
    assert!(matches!(bench.manifest("latest"), Err(RegistryError::Mismatch { .. })));
    assert!(matches!(bench.manifest(&other), Err(RegistryError::Mismatch { .. })));
    let found = bench.manifest(&Digest::of(MANIFEST).to_string())?;
    assert_eq!((found.bytes.as_slice(), found.media_type.as_str()), (MANIFEST, MANIFEST_TYPE.1));
    Ok(())
}

#[test]
fn bodies_without_end_are_cut_off() -> Outcome {
    let server = FaultServer::start(|_, _, stream| {
        head(stream, 200, &[], None)?;
        loop {
            stream.write_all(&[b'x'; 65536])?;
        }
    })?;
    let bench = Bench::new(&server)?;
    assert!(matches!(bench.pull(b"blob"), Err(RegistryError::Size { truncated: false, .. })));
    let text = bench.manifest("latest").err().ok_or("it is too large")?.to_string();
    assert!(text.contains("larger than"), "{text}");
    assert_eq!(server.requests().len(), 2);
    Ok(())
}

#[test]
fn an_announced_length_must_be_that_of_the_descriptor() -> Outcome {
    let server = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b"blob"))?;
    let bench = Bench::new(&server)?;
    for size in [0, 3, 5, u64::MAX] {
        assert!(matches!(bench.pull_announced(b"blob", size), Err(RegistryError::Size { .. })), "{size}");
    }
    bench.pull(b"blob")?;
    Ok(())
}

#[test]
fn an_empty_blob_is_a_blob() -> Outcome {
    let server = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b""))?;
    let bench = Bench::new(&server)?;
    bench.pull(b"")?;
    assert!(bench.has(b""));
    Ok(())
}

#[test]
fn cancelling_ends_a_stalled_transfer_at_once() -> Outcome {
    let silent = FaultServer::start(|_, _, stream| stream.read(&mut [0]).map(|_| ()))?;
    for server in [FaultServer::start(stall)?, silent] {
        let bench = Bench::new(&server)?;
        let begun = Instant::now();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while server.requests().is_empty() && begun.elapsed() < Duration::from_secs(300) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                std::thread::sleep(Duration::from_millis(50));
                bench.cancel.cancel();
            });
            bench.pull(b"blob")
        });
        assert!(matches!(result, Err(RegistryError::Cancelled)), "{result:?}");
        assert!(begun.elapsed() < Duration::from_secs(300), "{:?}", begun.elapsed());
        assert!(!bench.has(b"blob"));
        assert!(bench.manifest("latest").is_err_and(|error| error.is_cancelled()));
    }
    Ok(())
}

#[test]
fn a_client_works_again_after_another_callers_cancellation() -> Outcome {
    let server = FaultServer::start(|number, request, stream| match number {
        0 => stall(number, request, stream),
        _ => reply(stream, 200, &[], b"blob"),
    })?;
    let bench = Bench::new(&server)?;
    let gone = Cancel::new()?;
    let mut reader = bench.registry.open_blob("a/b", &Digest::of(b"blob"), 4, &gone)?;
    reader.read_exact(&mut [0; 2])?;
    gone.cancel();
    let error = reader.read_to_end(&mut Vec::new()).err().ok_or("it was cancelled")?;
    assert!(matches!(BlobReader::cause(error), Ok(RegistryError::Cancelled)));
    bench.pull(b"blob")?;
    Ok(())
}

#[test]
fn one_callers_cancellation_only_delays_the_others() -> Outcome {
    let server = FaultServer::start(|number, request, stream| match number {
        0 | 1 => stall(number, request, stream),
        _ => reply(stream, 200, &[], b"blob"),
    })?;
    let bench = Bench::new(&server)?;
    let gone = Cancel::new()?;
    let _reader = bench.registry.open_blob("a/b", &Digest::of(b"blob"), 4, &gone)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while server.requests().len() < 2 && begun.elapsed() < Duration::from_secs(300) {
                std::thread::sleep(Duration::from_millis(5));
            }
            gone.cancel();
        });
        bench.pull(b"blob")
    })?;
    assert_eq!(bench.clock.slept().len(), 1);
    Ok(())
}

#[test]
fn an_unknown_certificate_says_what_to_do() -> Outcome {
    let dir = tempfile::tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let openssl = |words: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args(words.split(' ')).current_dir(dir.path());
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        command
    };
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem";
    if !openssl(request).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: openssl cannot make a certificate here");
        return Ok(());
    }
    let mut server = openssl(&format!("s_server -accept {port} -cert cert.pem -key key.pem -www")).spawn()?;
    let begun = Instant::now();
    while TcpStream::connect(&port).is_err() && begun.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let endpoint = config::Endpoint::at(&format!("https://{port}").into())?;
    let options = RegistryOptions { roots: Roots::Bundled, ..RegistryOptions::default() };
    let host = client::Host::new(endpoint, &options)?;
    let call = client::Call {
        method: ureq::http::Method::GET,
        repository: "a",
        path: "manifests/x",
        accept: None,
        from: 0,
    };
    let result = host.call(&host.session(&Cancel::new()?), &call);
    server.kill()?;
    server.wait()?;
    let error = result.err().ok_or("nobody knows this certificate")?;
    assert!(
        matches!(&error, RegistryError::Unreachable(found) if found.fault == Fault::Certificate),
        "{error:?}"
    );
    assert!(error.to_string().contains("--insecure-registry"), "{error}");
    Ok(())
}

#[test]
fn silence_ends_an_attempt_and_the_next_may_do() -> Outcome {
    let server = FaultServer::start(|number, request, stream| match number {
        0 => stall(number, request, stream),
        _ => reply(stream, 200, &[], b"blob"),
    })?;
    let timeouts = Timeouts { idle: Duration::from_millis(200), ..Timeouts::default() };
    let bench = Bench::with(&server.host(), RegistryOptions { timeouts, ..RegistryOptions::default() })?;
    bench.pull(b"blob")?;
    assert_eq!(bench.clock.slept().len(), 1);
    Ok(())
}

#[test]
fn a_slow_transfer_may_last_longer_than_any_limit() -> Outcome {
    let server = FaultServer::start(|_, _, stream| {
        head(stream, 200, &[], Some(8))?;
        for byte in b"slowblob" {
            stream.write_all(&[*byte])?;
            std::thread::sleep(Duration::from_millis(150));
        }
        Ok(())
    })?;
    let limit = Duration::from_millis(1000);
    let timeouts = Timeouts { idle: limit, response: limit, connect: limit, resolve: limit, commit: limit };
    let bench = Bench::with(&server.host(), RegistryOptions { timeouts, ..RegistryOptions::default() })?;
    bench.pull(b"slowblob")?;
    assert!(bench.clock.slept().is_empty());
    Ok(())
}

#[test]
fn nobody_listening_says_so() -> Outcome {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let bench = Bench::with(&port.to_string(), RegistryOptions::default())?;
    let error = bench.manifest("latest").err().ok_or("nobody listens")?;
    let text = error.to_string();
    assert!(text.contains("connection refused") && text.contains("port"), "{text}");
    assert!(matches!(error, RegistryError::Unreachable(found) if found.fault == Fault::Refused));
    assert!(bench.clock.slept().is_empty());
    Ok(())
}

#[test]
fn an_https_only_client_at_an_http_server_points_to_the_flag() -> Outcome {
    let server = FaultServer::start(|_, _, stream| reply(stream, 200, &[], MANIFEST))?;
    // A mirror with a scheme is taken at its word, even on loopback.
    let mirror = config::Endpoint::at(&format!("https://{}", server.host()).into())?;
    let host = client::Host::new(mirror, &RegistryOptions::default())?;
    let cancel = Cancel::new()?;
    let call = client::Call {
        method: ureq::http::Method::GET,
        repository: "a",
        path: "manifests/x",
        accept: None,
        from: 0,
    };
    let error = host.call(&host.session(&cancel), &call).err().ok_or("it speaks no TLS")?;
    assert!(error.to_string().contains("--insecure-registry"), "{error}");
    assert!(matches!(&error, RegistryError::Unreachable(found) if found.fault == Fault::Tls), "{error:?}");
    Ok(())
}

#[test]
fn mirrors_are_asked_first_and_forgiven() -> Outcome {
    let dead = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let empty = FaultServer::start(|_, _, stream| refusal(stream, 404, &[]))?;
    let full = FaultServer::start(|_, request, stream| match request.path.contains("/blobs/") {
        true => reply(stream, 200, &[], b"blob"),
        false => refusal(stream, 404, &[]),
    })?;
    let origin = FaultServer::start(|_, _, stream| reply(stream, 200, &[MANIFEST_TYPE], MANIFEST))?;
    let mirrors = vec![dead.into(), empty.host().into(), format!("http://{}/hub", full.host()).into()];
    let bench = Bench::with(&origin.host(), RegistryOptions { mirrors, ..RegistryOptions::default() })?;
    bench.pull(b"blob")?;
    bench.manifest("latest")?;
    assert_eq!((empty.requests().len(), origin.requests().len()), (2, 1));
    assert_eq!(full.count("/v2/hub/a/b/"), 2);
    Ok(())
}

#[test]
fn what_the_store_has_is_not_fetched() -> Outcome {
    let server = FaultServer::start(|_, _, stream| refusal(stream, 404, &[]))?;
    let bench = Bench::new(&server)?;
    bench.store.put_blob(b"blob")?;
    bench.pull(b"blob")?;
    assert!(server.requests().is_empty());
    Ok(())
}
