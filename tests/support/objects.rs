//! An object store for tests: S3, Azure's Blob Storage and the cache service of GitHub's Actions, in memory. It checks
//! every signature by code of its own and does no harm itself; that is the proxy's (`proxy.rs`).

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub const SECRET_KEY: &str = "secret/with+signs";
pub const SESSION: &str = "session/token==";
pub const REGION: &str = "eu-test-1";
pub const BUCKET: &str = "bucket";
pub const ACCOUNT: &str = "account";
/// Base64 of the account's key.
pub const ACCOUNT_KEY: &str = "YWNjb3VudCBrZXkgb2YgdGhlIHRlc3Rz";
pub const TOKEN: &str = "runtime-token";
/// Names in one page of a list.
const PAGE: usize = 2;

/// Serves until the process ends.
pub struct ObjectServer {
    host: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By `s3/BUCKET/KEY`, `az/CONTAINER/KEY` or `gha/KEY`.
    objects: BTreeMap<String, Object>,
    containers: Vec<String>,
    /// Blocks of Azure that are in no list yet.
    blocks: BTreeMap<(String, String), Vec<u8>>,
    /// Entries of Actions by number: key and version.
    entries: Vec<(String, String)>,
    log: Vec<String>,
    refused: Vec<String>,
    /// Signed addresses for downloads that are refused from now on.
    expired: usize,
    /// Entries that are not visible before this many further questions.
    slow: usize,
    clock: i64,
}

#[derive(Clone)]
struct Object {
    bytes: Vec<u8>,
    modified: i64,
    /// Of Actions: the order in which entries were finished; `None` is not finished.
    finished: Option<usize>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl ObjectServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(Mutex::new(State { containers: Vec::new(), ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || {
                    let _ = serve(&stream, &state);
                });
            }
        });
        ObjectServer { host, state }
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> &str {
        &self.host
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests since the last call: `METHOD PATH?QUERY`.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Requests whose signature was wrong, with why.
    pub fn refused(&self) -> Vec<String> {
        self.state().refused.clone()
    }

    /// Names of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Changes what is there.
    pub fn change(&self, mut change: impl FnMut(&str, &mut Vec<u8>)) {
        self.state().objects.iter_mut().for_each(|(key, object)| change(key, &mut object.bytes));
    }

    pub fn remove(&self, unwanted: impl Fn(&str) -> bool) {
        self.state().objects.retain(|key, _| !unwanted(key));
    }

    pub fn clear(&self) {
        let mut state = self.state();
        *state = State::default();
    }

    /// Makes all objects as old as this.
    pub fn age(&self, modified: i64) {
        self.state().objects.values_mut().for_each(|object| object.modified = modified);
    }

    /// Objects that are older than a day.
    pub fn old(&self) -> usize {
        let yesterday = seconds() - 86_400;
        self.state().objects.values().filter(|object| object.modified < yesterday).count()
    }

    /// The next signed addresses for downloads have run out when they are used.
    pub fn expire(&self, count: usize) {
        self.state().expired = count;
    }

    /// Somebody reserves an entry and never finishes it.
    pub fn reserve(&self, key: &str) {
        let mut state = self.state();
        let object = Object { bytes: Vec::new(), modified: 0, finished: None };
        state.objects.insert(format!("gha/{key}"), object);
    }
}

fn seconds() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or_default()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 2104, from its text.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8, message: &[u8]| {
        let mut all: Vec<u8> = block.iter().map(|byte| byte ^ pad).collect();
        all.extend(message);
        Sha256::digest(&all).to_vec()
    };
    padded(0x5c, &padded(0x36, message))
}

fn decode(text: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits: Vec<u8> = bytes.by_ref().take(2).collect();
            let text = String::from_utf8_lossy(&digits).into_owned();
            out.push(u8::from_str_radix(&text, 16).unwrap_or(b'?'));
        } else {
            out.push(byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    fn query(&self) -> BTreeMap<String, String> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect()
    }
}

fn receive(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut request = Request { method, path, query, headers, body: Vec::new() };
    let length = request.header("content-length").parse().unwrap_or(0);
    reader.take(length).read_to_end(&mut request.body)?;
    if (request.body.len() as u64) < length {
        return Ok(None);
    }
    Ok(Some(request))
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let Some(request) = receive(stream)? else { return Ok(()) };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.log.push(format!("{} {}?{}", request.method, request.path, request.query));
    state.clock = state.clock.max(seconds());
    let answer = if request.path.starts_with("/twirp/") {
        actions(&mut state, &request)
    } else if request.path.starts_with("/signed/") {
        signed(&mut state, &request)
    } else if !request.header("x-ms-version").is_empty() {
        azure(&mut state, &request)
    } else {
        s3(&mut state, &request)
    };
    drop(state);
    let mut head = format!(
        "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for line in &answer.headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        stream.write_all(&answer.body)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn plain(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), body: Vec::new() }
}

fn xml_error(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
    );
    Answer { status, headers: vec!["Content-Type: application/xml".into()], body: body.into_bytes() }
}

fn date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).expect("a time").to_zoned(jiff::tz::TimeZone::UTC);
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn give(object: &Object, range: &str) -> Answer {
    let modified = format!("Last-Modified: {}", date(object.modified));
    let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    match from.filter(|from| *from < object.bytes.len()) {
        Some(from) => Answer { status: 206, headers: vec![modified], body: object.bytes[from..].to_vec() },
        None => Answer { status: 200, headers: vec![modified], body: object.bytes.clone() },
    }
}

/// What is wrong with a signature of AWS, version 4.
fn s3_fault(request: &Request) -> Option<String> {
    let header = request.header("authorization");
    let Some(rest) = header.strip_prefix("AWS4-HMAC-SHA256 ") else { return Some("not signed".into()) };
    let part = |name: &str| {
        let found = rest.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    };
    let (credential, names, signature) = (part("Credential"), part("SignedHeaders"), part("Signature"));
    let mut words = credential.split('/');
    let (key, day) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let scope: Vec<&str> = words.collect();
    if key != ACCESS_KEY || scope != [REGION, "s3", "aws4_request"] {
        return Some(format!("the credential is {credential}"));
    }
    let signed: Vec<&str> = names.split(';').collect();
    for (name, _) in &request.headers {
        let must = name.starts_with("x-amz-") || name == "host" || name == "range";
        if must && !signed.contains(&name.as_str()) {
            return Some(format!("{name} is not signed"));
        }
    }
    if !request.header("x-amz-security-token").is_empty() && request.header("x-amz-security-token") != SESSION
    {
        return Some("another session".into());
    }
    let content = request.header("x-amz-content-sha256");
    if content != sha256(&request.body) {
        return Some("XAmzContentSHA256Mismatch".into());
    }
    let mut query: Vec<&str> = request.query.split('&').filter(|pair| !pair.is_empty()).collect();
    query.sort_unstable();
    let lines: String = signed.iter().map(|name| format!("{name}:{}\n", request.header(name))).collect();
    let canonical =
        format!("{}\n{}\n{}\n{lines}\n{names}\n{content}", request.method, request.path, query.join("&"));
    let time = request.header("x-amz-date");
    if !time.starts_with(day) {
        return Some("another day".into());
    }
    let text =
        format!("AWS4-HMAC-SHA256\n{time}\n{day}/{REGION}/s3/aws4_request\n{}", sha256(canonical.as_bytes()));
    let key = hmac(format!("AWS4{SECRET_KEY}").as_bytes(), day.as_bytes());
    let key = hmac(&hmac(&hmac(&key, REGION.as_bytes()), b"s3"), b"aws4_request");
    (hex(&hmac(&key, text.as_bytes())) != signature).then(|| format!("the signature of {canonical:?}"))
}

fn s3(state: &mut State, request: &Request) -> Answer {
    if let Some(fault) = s3_fault(request) {
        state.refused.push(format!("{} {}: {fault}", request.method, request.path));
        let mismatch = fault == "XAmzContentSHA256Mismatch";
        return if mismatch { xml_error(400, &fault) } else { xml_error(403, "SignatureDoesNotMatch") };
    }
    let path = decode(request.path.trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    if bucket != BUCKET {
        return xml_error(404, "NoSuchBucket");
    }
    let name = format!("s3/{bucket}/{key}");
    let clock = state.clock;
    match request.method.as_str() {
        "GET" if key.is_empty() => list_s3(state, &request.query(), &format!("s3/{bucket}/")),
        "GET" | "HEAD" => match state.objects.get(&name) {
            Some(object) => give(object, request.header("range")),
            None => xml_error(404, "NoSuchKey"),
        },
        "PUT" if !request.header("x-amz-copy-source").is_empty() => {
            let source = format!("s3/{}", decode(request.header("x-amz-copy-source")));
            if request.header("x-amz-metadata-directive") != "REPLACE" {
                return xml_error(400, "InvalidRequest");
            }
            let Some(mut object) = state.objects.get(&source).cloned() else {
                return xml_error(404, "NoSuchKey");
            };
            object.modified = clock;
            state.objects.insert(name, object);
            Answer { body: b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>".to_vec(), ..plain(200) }
        }
        "PUT" => {
            let object = Object { bytes: request.body.clone(), modified: clock, finished: None };
            state.objects.insert(name, object);
            plain(200)
        }
        "DELETE" => {
            state.objects.remove(&name);
            plain(204)
        }
        _ => xml_error(405, "MethodNotAllowed"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn list_s3(state: &State, query: &BTreeMap<String, String>, bucket: &str) -> Answer {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    if get("list-type") != "2" {
        return xml_error(400, "InvalidArgument");
    }
    let (prefix, after) = (get("prefix"), get("continuation-token"));
    let keys = state.objects.iter().filter_map(|(key, object)| Some((key.strip_prefix(bucket)?, object)));
    let mut found: Vec<_> = keys.filter(|(key, _)| key.starts_with(&prefix) && **key > *after).collect();
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let mut body = String::from(
        "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
    );
    for (key, object) in &found {
        let time = jiff::Timestamp::from_second(object.modified).expect("a time");
        body.push_str(&format!(
            "<Contents><Key>{}</Key><LastModified>{time}</LastModified><Size>{}</Size></Contents>",
            escape(key),
            object.bytes.len()
        ));
    }
    body.push_str(&format!("<IsTruncated>{more}</IsTruncated>"));
    if let Some((last, _)) = found.last().filter(|_| more) {
        body.push_str(&format!("<NextContinuationToken>{}</NextContinuationToken>", escape(last)));
    }
    body.push_str("</ListBucketResult>");
    Answer { body: body.into_bytes(), ..plain(200) }
}

/// What is wrong with a signature of Azure.
fn azure_fault(request: &Request) -> Option<String> {
    let given = request.header("authorization");
    let mut headers: Vec<String> = request
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-ms-"))
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    headers.sort();
    let query: String = request.query().iter().map(|(name, value)| format!("\n{name}:{value}")).collect();
    let length = match request.header("content-length") {
        "0" => "",
        other => other,
    };
    let text = [
        request.method.as_str(),
        request.header("content-encoding"),
        request.header("content-language"),
        length,
        request.header("content-md5"),
        request.header("content-type"),
        request.header("date"),
        request.header("if-modified-since"),
        request.header("if-match"),
        request.header("if-none-match"),
        request.header("if-unmodified-since"),
        request.header("range"),
    ]
    .join("\n");
    let text = format!("{text}\n{}/{ACCOUNT}{}{query}", headers.concat(), request.path);
    let key = STANDARD.decode(ACCOUNT_KEY).expect("base64");
    let wanted = format!("SharedKey {ACCOUNT}:{}", STANDARD.encode(hmac(&key, text.as_bytes())));
    (given != wanted).then(|| format!("the signature of {text:?}"))
}

fn azure(state: &mut State, request: &Request) -> Answer {
    if let Some(fault) = azure_fault(request) {
        state.refused.push(format!("{} {}: {fault}", request.method, request.path));
        return xml_error(403, "AuthenticationFailed");
    }
    let path = decode(request.path.trim_start_matches('/'));
    // The account comes first, as in the emulator.
    let path = path.strip_prefix(&format!("{ACCOUNT}/")).unwrap_or(&path).to_owned();
    let (container, key) = path.split_once('/').unwrap_or((&path, ""));
    let query = request.query();
    let known = state.containers.iter().any(|one| one == container);
    if key.is_empty() && request.method == "PUT" {
        if known {
            return xml_error(409, "ContainerAlreadyExists");
        }
        state.containers.push(container.to_owned());
        return plain(201);
    }
    if !known {
        return xml_error(404, "ContainerNotFound");
    }
    if key.is_empty() {
        return list_azure(state, &query, &format!("az/{container}/"));
    }
    put_or_give(state, request, &format!("az/{container}/{key}"), &query, None)
}

/// What Azure's addresses do, signed or not.
fn put_or_give(
    state: &mut State,
    request: &Request,
    name: &str,
    query: &BTreeMap<String, String>,
    finished: Option<usize>,
) -> Answer {
    let modified = state.clock;
    match (request.method.as_str(), query.get("comp").map(String::as_str)) {
        ("PUT", Some("block")) => {
            let id = query.get("blockid").cloned().unwrap_or_default();
            state.blocks.insert((name.to_owned(), id), request.body.clone());
            plain(201)
        }
        ("PUT", Some("blocklist")) => {
            let text = String::from_utf8_lossy(&request.body).into_owned();
            let ids = text.split("<Latest>").skip(1).filter_map(|part| part.split('<').next());
            let bytes: Vec<u8> = ids
                .flat_map(|id| state.blocks.remove(&(name.to_owned(), id.to_owned())).unwrap_or_default())
                .collect();
            state.objects.insert(name.to_owned(), Object { bytes, modified, finished });
            plain(201)
        }
        ("PUT", None) if request.header("x-ms-blob-type") == "BlockBlob" => {
            let object = Object { bytes: request.body.clone(), modified, finished };
            state.objects.insert(name.to_owned(), object);
            plain(201)
        }
        ("GET" | "HEAD", None) => match state.objects.get(name) {
            Some(object) => give(object, request.header("range")),
            None => xml_error(404, "BlobNotFound"),
        },
        ("DELETE", None) => plain(if state.objects.remove(name).is_some() { 202 } else { 404 }),
        _ => xml_error(400, "InvalidHeaderValue"),
    }
}

fn list_azure(state: &State, query: &BTreeMap<String, String>, container: &str) -> Answer {
    let get = |name: &str| query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (get("prefix"), get("marker"));
    let keys = state.objects.iter().filter_map(|(key, object)| Some((key.strip_prefix(container)?, object)));
    let mut found: Vec<_> = keys.filter(|(key, _)| key.starts_with(&prefix) && **key > *after).collect();
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let mut body =
        String::from("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>");
    for (key, object) in &found {
        body.push_str(&format!(
            "<Blob><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified></Properties></Blob>",
            escape(key),
            date(object.modified)
        ));
    }
    let next = found.last().filter(|_| more).map_or_else(String::new, |(key, _)| escape(key));
    body.push_str(&format!("</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"));
    Answer { body: body.into_bytes(), ..plain(200) }
}

fn message(status: u16, value: &Value) -> Answer {
    let headers = vec!["Content-Type: application/json".into()];
    Answer { status, headers, body: value.to_string().into_bytes() }
}

fn actions(state: &mut State, request: &Request) -> Answer {
    if request.header("authorization") != format!("Bearer {TOKEN}") {
        state.refused.push(format!("{}: the token", request.path));
        return message(401, &json!({ "code": "unauthenticated", "msg": "invalid token" }));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let (key, version) = (text("key"), text("version"));
    if version.len() != 64
        || key.is_empty()
        || key.len() > 512
        || request.header("content-type") != "application/json"
    {
        return message(400, &json!({ "code": "invalid_argument", "msg": "no key or version" }));
    }
    let name = format!("gha/{key}");
    let host = request.header("host").to_owned();
    match request.path.rsplit('/').next().unwrap_or_default() {
        "CreateCacheEntry" => {
            if state.objects.contains_key(&name) {
                return message(
                    409,
                    &json!({ "code": "already_exists", "msg": "cache entry already exists" }),
                );
            }
            state.objects.insert(name, Object { bytes: Vec::new(), modified: state.clock, finished: None });
            state.entries.push((key, version));
            let url = format!("http://{host}/signed/{}?sig=up&se=later", state.entries.len() - 1);
            message(200, &json!({ "ok": true, "signed_upload_url": url }))
        }
        "FinalizeCacheEntryUpload" => {
            let size = text("size_bytes").parse().unwrap_or(usize::MAX);
            let order = state.objects.values().filter(|object| object.finished.is_some()).count();
            match state.objects.get_mut(&name) {
                Some(object) if object.bytes.len() == size => {
                    object.finished = Some(order);
                    message(200, &json!({ "ok": true, "entry_id": "7" }))
                }
                _ => message(200, &json!({ "ok": false })),
            }
        }
        "GetCacheEntryDownloadURL" => {
            let prefixes: Vec<String> = body["restore_keys"]
                .as_array()
                .map(|all| all.iter().filter_map(|one| Some(format!("gha/{}", one.as_str()?))).collect())
                .unwrap_or_default();
            let finished = state.objects.iter().filter(|(_, object)| object.finished.is_some());
            let newest = finished
                .filter(|(key, _)| **key == name || prefixes.iter().any(|prefix| key.starts_with(prefix)))
                .max_by_key(|(key, object)| (**key == name, object.finished));
            let Some(key) = newest.map(|(key, _)| key.trim_start_matches("gha/").to_owned()) else {
                return message(200, &json!({ "ok": false, "signed_download_url": "", "matched_key": "" }));
            };
            let number = state.entries.iter().position(|(known, of)| *known == key && *of == version);
            let Some(number) = number else { return message(200, &json!({ "ok": false })) };
            let sign = if state.expired > 0 { "expired" } else { "down" };
            state.expired = state.expired.saturating_sub(1);
            let url = format!("http://{host}/signed/{number}?sig={sign}&se=later");
            message(200, &json!({ "ok": true, "signed_download_url": url, "matched_key": key }))
        }
        _ => message(404, &json!({ "code": "bad_route", "msg": "no such call" })),
    }
}

/// Addresses that carry their permission with them.
fn signed(state: &mut State, request: &Request) -> Answer {
    let number: usize = request.path.trim_start_matches("/signed/").parse().unwrap_or(usize::MAX);
    let mut query = request.query();
    let wanted = if request.method == "PUT" { "up" } else { "down" };
    if query.remove("sig").as_deref() != Some(wanted) || query.remove("se").is_none() {
        return xml_error(403, "AuthenticationFailed");
    }
    if !request.header("authorization").is_empty() {
        state.refused.push(format!("{}: a token for whom it is not", request.path));
        return xml_error(400, "InvalidAuthenticationInfo");
    }
    let Some((key, _)) = state.entries.get(number).cloned() else { return xml_error(404, "BlobNotFound") };
    let name = format!("gha/{key}");
    let finished = state.objects.get(&name).and_then(|object| object.finished);
    put_or_give(state, request, &name, &query, finished)
}
