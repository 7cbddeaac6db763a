use std::error::Error;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::digest::Digest;
use crate::registry::fault_server::{FaultServer, Received, head, outward_address, reply};
use crate::registry::{Clock, SourceNetwork};
use crate::store::Store;

use super::*;

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Default)]
struct Impatient(Mutex<Vec<Duration>>);

impl Clock for Impatient {
    fn sleep(&self, duration: Duration, _: &Cancel) {
        if let Ok(mut slept) = self.0.lock() {
            slept.push(duration);
        }
    }

    fn chance(&self) -> f64 {
        1.0
    }
}

struct Setup {
    store: Store,
    client: HttpClient,
    clock: Arc<Impatient>,
    cancel: Cancel,
    _dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let clock = Arc::<Impatient>::default();
        let client = HttpClient::with_clock(&HttpOptions::default(), clock.clone())?;
        let store = Store::open(&dir.path().join("store"))?;
        Ok(Setup { store, client, clock, cancel: Cancel::new()?, _dir: dir })
    }

    fn fetch(&self, request: &HttpRequest) -> Result<HttpFile, RemoteError> {
        self.client.fetch(&self.store, request, &|_, _| (), &self.cancel)
    }

    fn get(&self, url: &str) -> Result<HttpFile, RemoteError> {
        self.fetch(&request(url)?)
    }

    /// The text of the failure.
    fn fail(&self, request: &HttpRequest) -> String {
        self.fetch(request).err().map(|error| error.to_string()).unwrap_or_default()
    }
}

fn request(url: &str) -> Result<HttpRequest, RemoteError> {
    Ok(HttpRequest { url: HttpUrl::parse(url)?, checksum: None, auth: None })
}

fn url(server: &FaultServer, path: &str) -> String {
    format!("http://{}{path}", server.host())
}

#[test]
fn a_file_is_stored_and_described() -> Outcome {
    let server = FaultServer::start(|_, _, stream| {
        reply(stream, 200, &[("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")], b"hello")
    })?;
    let setup = Setup::new()?;
    let told = AtomicU64::new(0);
    let request = request(&url(&server, "/dir/a%20b.txt?x=1"))?;
    let progress = |done, total| {
        assert_eq!(total, Some(5));
        told.store(done, Ordering::Relaxed);
    };
    let file = setup.client.fetch(&setup.store, &request, &progress, &setup.cancel)?;
    assert_eq!((file.digest, file.size, file.name.as_str()), (Digest::of(b"hello"), 5, "a b.txt"));
    assert_eq!(file.last_modified, Some(1_445_412_480));
    assert_eq!(std::fs::read(&file.path)?, b"hello");
    assert_eq!(told.load(Ordering::Relaxed), 5);
    let seen = server.requests();
    assert_eq!(seen[0].path, "/dir/a%20b.txt?x=1");
    assert_eq!(seen[0].header("accept-encoding"), Some("identity"));
    Ok(())
}

#[test]
fn an_unchanged_file_is_not_sent_again() -> Outcome {
    let server = FaultServer::start(|_, request, stream| {
        let date = ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT");
        let unchanged = request.header("if-none-match").is_some_and(|tag| tag.contains("one"))
            || request.header("if-modified-since") == Some(date.1);
        match (request.path.as_str(), unchanged) {
            (_, true) => reply(stream, 304, &[], b""),
            ("/strong", _) => reply(stream, 200, &[("ETag", "\"one\""), date], b"content"),
            ("/weak", _) => reply(stream, 200, &[("ETag", "W/\"one\"")], b"content"),
            _ => reply(stream, 200, &[date], b"content"),
        }
    })?;
    for (path, condition) in
        [("/strong", "if-none-match"), ("/weak", "if-none-match"), ("/dated", "if-modified-since")]
    {
        let setup = Setup::new()?;
        let first = setup.get(&url(&server, path))?;
        let second = setup.get(&url(&server, path))?;
        assert_eq!(first, second);
        let seen = server.requests();
        let of_path: Vec<&Received> = seen.iter().filter(|request| request.path == path).collect();
        assert!(of_path[0].header(condition).is_none());
        assert!(of_path[1].header(condition).is_some(), "{path}");
    }
    Ok(())
}

#[test]
fn a_changed_file_is_sent_again() -> Outcome {
    let server = FaultServer::start(|number, _, stream| {
        let (tag, body) = if number == 0 { ("\"one\"", "old") } else { ("\"two\"", "new") };
        reply(stream, 200, &[("ETag", tag)], body.as_bytes())
    })?;
    let setup = Setup::new()?;
    assert_eq!(setup.get(&url(&server, "/x"))?.digest, Digest::of(b"old"));
    let file = setup.get(&url(&server, "/x"))?;
    assert_eq!((file.digest, file.last_modified), (Digest::of(b"new"), None));
    Ok(())
}

#[test]
fn the_same_strong_etag_is_enough_though_the_server_ignores_conditions() -> Outcome {
    let server = FaultServer::start(|number, _, stream| {
        let body = if number == 0 { "first" } else { "never read" };
        reply(stream, 200, &[("ETag", "\"one\"")], body.as_bytes())
    })?;
    let setup = Setup::new()?;
    setup.get(&url(&server, "/x"))?;
    assert_eq!(setup.get(&url(&server, "/x"))?.digest, Digest::of(b"first"));
    Ok(())
}

#[test]
fn a_lost_blob_is_fetched_without_conditions() -> Outcome {
    let server = FaultServer::start(|_, request, stream| {
        let status = if request.header("if-none-match").is_some() { 304 } else { 200 };
        reply(stream, status, &[("ETag", "\"one\"")], if status == 200 { b"x" } else { b"" })
    })?;
    let setup = Setup::new()?;
    let first = setup.get(&url(&server, "/x"))?;
    std::fs::remove_file(&first.path)?;
    assert_eq!(setup.get(&url(&server, "/x"))?, first);
    assert!(first.path.exists());
    Ok(())
}

#[test]
fn checksums_are_verified_and_spare_the_request() -> Outcome {
    let server = FaultServer::start(|_, _, stream| reply(stream, 200, &[("ETag", "\"e\"")], b"hello"))?;
    let setup = Setup::new()?;
    let mut asked = request(&url(&server, "/x"))?;
    let right = Digest::of(b"hello").to_string();
    let wrong = Digest::of(b"other").to_string();
    asked.checksum = Some(Checksum::parse(&wrong)?);
    let expected = format!("digest mismatch for {}: {right} (expected: {wrong})", url(&server, "/x"));
    assert_eq!(setup.fail(&asked), expected);
    assert!(!setup.store.has_blob(&Digest::of(b"hello")), "wrong bytes are not kept");
    assert_eq!(server.requests().len(), 1, "wrong bytes are not asked for twice");
    asked.checksum = Some(Checksum::parse(&right)?);
    let file = setup.fetch(&asked)?;
    let count = server.requests().len();
    assert_eq!(setup.fetch(&asked)?, file);
    assert_eq!(server.requests().len(), count, "known content needs no request");
    // Another algorithm: the server is asked whether it still holds, then the copy is hashed.
    let sha512 = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";
    asked.checksum = Some(Checksum::parse(sha512)?);
    assert_eq!(setup.fetch(&asked)?, file);
    let count = server.requests().len();
    assert_eq!(setup.fetch(&asked)?, file);
    assert_eq!(server.requests().len(), count);
    asked.checksum = Some(Checksum::parse(&wrong)?);
    assert!(setup.fail(&asked).contains("digest mismatch"));
    Ok(())
}

#[test]
fn credentials_stay_with_their_host() -> Outcome {
    let elsewhere = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b"x"))?;
    let target = url(&elsewhere, "/stolen");
    let server = FaultServer::start(move |_, request, stream| match request.path.as_str() {
        "/away" => reply(stream, 302, &[("Location", &target)], b""),
        "/near" => reply(stream, 301, &[("Location", "/here")], b""),
        _ => reply(stream, 200, &[], b"x"),
    })?;
    let setup = Setup::new()?;
    for (auth, expected) in [
        (HttpAuth::Bearer("t0ken\n".into()), "Bearer t0ken"),
        (HttpAuth::Header("Basic abc".into()), "Basic abc"),
    ] {
        let mut asked = request(&url(&server, "/near"))?;
        asked.auth = Some(auth);
        setup.fetch(&asked)?;
        asked.url = HttpUrl::parse(&url(&server, "/away"))?;
        setup.fetch(&asked)?;
        let seen = server.requests();
        assert!(seen.iter().rev().take(3).all(|request| request.header("authorization") == Some(expected)));
    }
    let in_address = format!("http://user:p%40ss@{}/near", server.host());
    setup.get(&in_address)?;
    let seen = server.requests();
    assert_eq!(seen.last().and_then(|last| last.header("authorization")), Some("Basic dXNlcjpwQHNz"));
    assert_eq!(elsewhere.requests().len(), 2);
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_none()));
    let mut broken = request(&url(&server, "/x"))?;
    broken.auth = Some(HttpAuth::Bearer("a\nsecret".into()));
    let text = setup.fail(&broken);
    assert!(text.contains("credential") && !text.contains("secret"), "{text}");
    Ok(())
}

#[test]
fn redirects_end_and_lead_to_http_only() -> Outcome {
    let server = FaultServer::start(|_, request, stream| match request.path.as_str() {
        "/circle" => reply(stream, 302, &[("Location", "/circle")], b""),
        _ => reply(stream, 302, &[("Location", "file:///etc/passwd")], b""),
    })?;
    let setup = Setup::new()?;
    assert!(setup.fail(&request(&url(&server, "/circle"))?).contains("redirects in circles"));
    assert_eq!(server.count("/circle"), 11);
    assert!(setup.fail(&request(&url(&server, "/file"))?).contains("no valid address"));
    Ok(())
}

#[test]
fn a_truncated_body_is_fetched_again_and_never_kept() -> Outcome {
    let server = FaultServer::start(|number, _, stream| {
        head(stream, 200, &[("ETag", "\"e\"")], Some(10))?;
        stream.write_all(if number == 0 { b"01234" } else { b"0123456789" })
    })?;
    let setup = Setup::new()?;
    assert_eq!(setup.get(&url(&server, "/x"))?.digest, Digest::of(b"0123456789"));
    assert_eq!(server.requests().len(), 2);
    assert!(!setup.store.has_blob(&Digest::of(b"01234")));
    let always = FaultServer::start(|_, _, stream| {
        head(stream, 200, &[], Some(10))?;
        stream.write_all(b"01234")
    })?;
    let text = setup.fail(&request(&url(&always, "/x"))?);
    assert!(text.starts_with(&url(&always, "/x")), "{text}");
    assert_eq!(always.requests().len(), 5);
    Ok(())
}

#[test]
fn refusals_show_the_servers_words() -> Outcome {
    let server = FaultServer::start(|_, _, stream| reply(stream, 404, &[], b"no \x1b[31mfile here\nmore\n"))?;
    let setup = Setup::new()?;
    let address = format!("http://user:hunter2@{}/x?signature=hunter2", server.host());
    let text = setup.fail(&request(&address)?);
    assert_eq!(text, format!("{}: not found (status 404): no  [31mfile here", url(&server, "/x")));
    assert_eq!(server.requests().len(), 1);
    let empty = FaultServer::start(|_, _, stream| reply(stream, 204, &[], b""))?;
    assert!(setup.fail(&request(&url(&empty, "/x"))?).contains("status 204"));
    let liar = FaultServer::start(|_, _, stream| reply(stream, 304, &[], b""))?;
    assert!(setup.fail(&request(&url(&liar, "/x"))?).contains("not modified"));
    Ok(())
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() -> Outcome {
    let server = FaultServer::start(|number, _, stream| match number {
        0 => reply(stream, 429, &[("Retry-After", "7")], b""),
        1 => reply(stream, 503, &[], b""),
        _ => reply(stream, 200, &[], b"x"),
    })?;
    let setup = Setup::new()?;
    setup.get(&url(&server, "/x"))?;
    let slept = setup.clock.0.lock().map(|slept| slept.clone()).unwrap_or_default();
    assert_eq!(slept, [Duration::from_secs(7), Duration::from_millis(600)]);
    Ok(())
}

#[test]
fn gzip_as_a_coding_is_taken_off() -> Outcome {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"plain text")?;
    let body = encoder.finish()?;
    let raw = Digest::of(&body);
    let server = FaultServer::start(move |_, request, stream| match request.path.as_str() {
        "/coded" => reply(stream, 200, &[("Content-Encoding", "gzip")], &body),
        "/broken" => reply(stream, 200, &[("Content-Encoding", "gzip")], b"plain"),
        _ => reply(stream, 200, &[("Content-Type", "application/gzip")], &body),
    })?;
    let setup = Setup::new()?;
    assert_eq!(setup.get(&url(&server, "/coded"))?.digest, Digest::of(b"plain text"));
    assert_eq!(setup.get(&url(&server, "/file.gz"))?.digest, raw);
    assert!(setup.fail(&request(&url(&server, "/broken"))?).contains("gzip"));
    Ok(())
}

#[test]
fn a_cancelled_download_ends_at_once() -> Outcome {
    let server = FaultServer::start(|_, _, stream| {
        head(stream, 200, &[], Some(1 << 20))?;
        stream.write_all(b"some")?;
        std::thread::sleep(Duration::from_secs(600));
        Ok(())
    })?;
    let setup = Setup::new()?;
    let begun = std::time::Instant::now();
    let cancel = setup.cancel.clone();
    let calls = AtomicUsize::new(0);
    let progress = |done, _| {
        calls.fetch_add(1, Ordering::Relaxed);
        if done > 0 {
            cancel.cancel();
        }
    };
    let result = setup.client.fetch(&setup.store, &request(&url(&server, "/x"))?, &progress, &setup.cancel);
    assert!(result.is_err_and(|error| error.is_cancelled()));
    assert!(begun.elapsed() < Duration::from_secs(300));
    Ok(())
}

#[test]
fn nobody_listening_is_said_plainly() -> Outcome {
    let setup = Setup::new()?;
    let text = setup.fail(&request("http://127.0.0.1:1/x")?);
    assert!(text.starts_with("http://127.0.0.1:1/x: connection refused"), "{text}");
    assert!(!text.contains("registry"), "{text}");
    Ok(())
}

#[test]
fn a_server_elsewhere_cannot_lead_to_this_machine() -> Outcome {
    let Some(address) = outward_address() else { return Ok(()) };
    let secret = FaultServer::start(|_, _, stream| reply(stream, 200, &[], b"secret"))?;
    let to = format!("http://{}/admin", secret.host());
    let lead =
        move |_: usize, _: &Received, stream: &mut TcpStream| reply(stream, 302, &[("Location", &to)], b"");
    let (elsewhere, here) = (FaultServer::start_at(address, lead.clone())?, FaultServer::start(lead)?);
    let setup = Setup::new()?;
    let text = setup.fail(&request(&format!("http://{}/file", elsewhere.host()))?);
    assert!(text.contains("this machine"), "{text}");
    assert_eq!(secret.requests().len(), 0);
    // What the build itself names may be there, and lead on.
    setup.get(&format!("http://{}/file", here.host()))?;
    assert_eq!(secret.requests().len(), 1);
    let options = HttpOptions { network: SourceNetwork::Remote, ..HttpOptions::default() };
    let client = HttpClient::new(&options)?;
    let named = request(&format!("http://{}/admin", secret.host()))?;
    let error = client.fetch(&setup.store, &named, &|_, _| (), &setup.cancel).err().ok_or("asked")?;
    assert!(error.to_string().contains("--source-network=remote"), "{error}");
    assert_eq!(secret.requests().len(), 1);
    Ok(())
}
