//! A proxy before a test registry: it counts the bytes that pass, and does harm where it is told to.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to a request or to its answer.
#[derive(Clone, Debug)]
pub enum Harm {
    /// The answer ends after half of the body it announced.
    Cut,
    /// The answer announces and carries half of the body.
    Shorter,
    /// The answer announces and carries one byte too many.
    Longer,
    /// One bit of the answer's body is another.
    Spoil,
    /// The answer stops in the middle for so long, then goes on.
    Pause(Duration),
    /// A refusal with this status and these headers; the registry never sees the request.
    Refuse(u16, &'static str),
    /// The answer names another digest.
    OtherDigest,
    /// The answer never ends.
    Endless,
    /// The client is sent to the same path at this host.
    Elsewhere(String),
    /// Half of the request's body reaches the registry, then the connection is gone.
    CutRequest,
    /// One bit of the request's body is another.
    SpoilRequest,
    /// The registry does all, the answer says that it has this range.
    OtherRange(&'static str),
}

/// Which requests are harmed.
#[derive(Clone, Debug)]
pub struct Rule {
    pub method: &'static str,
    /// A part of path and query.
    pub part: String,
    pub harm: Harm,
    /// Requests that fit and pass unharmed first.
    pub after: usize,
    /// How many are harmed then.
    pub times: usize,
}

/// A request that passed.
#[derive(Clone, Debug)]
pub struct Passed {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    /// Bytes of its body.
    pub sent: u64,
    /// Whether it was harmed.
    pub harmed: bool,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    passed: Vec<Passed>,
}

/// Stands before a registry until dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    method: String,
    path: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

struct Answer {
    status: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Proxy {
    /// Listens on loopback and speaks to the registry at `upstream` (`127.0.0.1:port`).
    pub fn start(upstream: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (state, stop) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (state, stop, upstream) = (state.clone(), stop.clone(), upstream.to_owned());
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (state, upstream) = (state.clone(), upstream.clone());
                    std::thread::spawn(move || {
                        let _ = serve(&stream, &state, &upstream);
                        let _ = stream.shutdown(Shutdown::Write);
                        // Closing with unread input would reset the connection and lose the answer.
                        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                        let _ = io::copy(&mut &stream, &mut io::sink());
                    });
                }
            }
        });
        Ok(Proxy { address, state, stop, thread: Some(thread) })
    }

    /// `127.0.0.1:port`, as image names begin.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Harms requests from now on by these rules and no others; the first that fits counts.
    pub fn harm(&self, rules: Vec<Rule>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rules = rules;
    }

    /// What passed since the last call.
    pub fn passed(&self) -> Vec<Passed> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).passed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn decide(state: &Mutex<State>, request: &Request) -> Option<Harm> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut harm = None;
    for rule in &mut state.rules {
        if rule.method != request.method || !request.path.contains(&rule.part) {
            continue;
        }
        if rule.after > 0 {
            rule.after -= 1;
        } else if rule.times > 0 {
            rule.times -= 1;
            harm = Some(rule.harm.clone());
            break;
        }
    }
    state.passed.push(Passed {
        method: request.method.clone(),
        path: request.path.clone(),
        range: request.header("content-range").or(request.header("range")).map(str::to_owned),
        sent: request.body.len() as u64,
        harmed: harm.is_some(),
    });
    harm
}

fn serve(stream: &TcpStream, state: &Mutex<State>, upstream: &str) -> io::Result<()> {
    let Some(mut request) = receive(stream)? else { return Ok(()) };
    let harm = decide(state, &request);
    match &harm {
        Some(Harm::Refuse(status, headers)) => {
            let body = r#"{"errors":[{"code":"UNKNOWN","message":"out of order"}]}"#;
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n");
            return (&mut &*stream).write_all(format!("{head}{headers}\r\n{body}").as_bytes());
        }
        Some(Harm::Elsewhere(host)) => {
            let path = &request.path;
            let head = format!(
                "HTTP/1.1 307 X\r\nConnection: close\r\nContent-Length: 0\r\nLocation: http://{host}{path}\r\n\r\n"
            );
            return (&mut &*stream).write_all(head.as_bytes());
        }
        Some(Harm::CutRequest) => {
            let mut up = TcpStream::connect(upstream)?;
            let length = request.body.len();
            request.body.truncate(length / 2);
            forward(&mut up, &request, length)?;
            // The registry has to take what came before it learns that there is no more.
            std::thread::sleep(Duration::from_millis(100));
            return stream.shutdown(Shutdown::Both);
        }
        Some(Harm::SpoilRequest) => {
            let middle = request.body.len() / 2;
            if let Some(byte) = request.body.get_mut(middle) {
                *byte ^= 1;
            }
        }
        _ => {}
    }
    let mut up = TcpStream::connect(upstream)?;
    forward(&mut up, &request, request.body.len())?;
    let answer = answer(up, request.method == "HEAD")?;
    send(stream, answer, harm.as_ref())
}

fn receive(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let headers = read_headers(&mut reader)?;
    let mut request = Request { method, path, headers, body: Vec::new() };
    if request.header("transfer-encoding").is_some() {
        return Err(io::Error::other("requests in chunks are not expected"));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut request.body)?;
    Ok(Some(request))
}

fn read_headers(reader: &mut impl io::BufRead) -> io::Result<Vec<String>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            return Ok(headers);
        }
        let line = line.trim_end().to_owned();
        if !line.to_ascii_lowercase().starts_with("connection:") {
            headers.push(line);
        }
    }
}

/// HTTP/1.0 keeps the answer in one piece, with its end at the end of the connection.
fn forward(up: &mut TcpStream, request: &Request, length: usize) -> io::Result<()> {
    let mut head = format!("{} {} HTTP/1.0\r\n", request.method, request.path);
    for line in request.headers.iter().filter(|line| !line.to_ascii_lowercase().starts_with("content-length"))
    {
        head.push_str(&format!("{line}\r\n"));
    }
    head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
    up.write_all(head.as_bytes())?;
    up.write_all(&request.body)
}

fn answer(up: TcpStream, head_only: bool) -> io::Result<Answer> {
    let mut reader = BufReader::new(up);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first.trim_end().split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    let headers = read_headers(&mut reader)?;
    let mut body = Vec::new();
    if !head_only {
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer { status, headers, body })
}

fn send(mut stream: &TcpStream, mut answer: Answer, harm: Option<&Harm>) -> io::Result<()> {
    let whole = answer.body.len();
    let mut announced = Some(whole);
    match harm {
        Some(Harm::Shorter) => {
            answer.body.truncate(whole / 2);
            announced = Some(whole / 2);
        }
        Some(Harm::Longer) => {
            answer.body.push(b'x');
            announced = Some(whole + 1);
        }
        Some(Harm::Spoil) => {
            if let Some(byte) = answer.body.get_mut(whole / 2) {
                *byte ^= 1;
            }
        }
        Some(Harm::Endless) => announced = None,
        Some(Harm::OtherDigest) => {
            let other = format!("Docker-Content-Digest: sha256:{}", "0".repeat(64));
            answer.headers.retain(|line| !line.to_ascii_lowercase().starts_with("docker-content-digest"));
            answer.headers.push(other);
        }
        Some(Harm::OtherRange(range)) => {
            answer.headers.retain(|line| !line.to_ascii_lowercase().starts_with("range"));
            answer.headers.push(format!("Range: {range}"));
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
    for line in &answer.headers {
        // An answer to HEAD announces the length of a body that does not follow.
        let length = line.to_ascii_lowercase().starts_with("content-length");
        if !length || (whole == 0 && announced == Some(0)) {
            head.push_str(&format!("{line}\r\n"));
        } else if let Some(announced) = announced {
            head.push_str(&format!("Content-Length: {announced}\r\n"));
        }
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    let (first, second) = answer.body.split_at(answer.body.len() / 2);
    stream.write_all(first)?;
    match harm {
        Some(Harm::Cut) => return stream.shutdown(Shutdown::Both),
        Some(Harm::Pause(time)) => std::thread::sleep(*time),
        _ => {}
    }
    stream.write_all(second)?;
    if !matches!(harm, Some(Harm::Endless)) {
        return Ok(());
    }
    loop {
        stream.write_all(&[b'x'; 65536])?;
    }
}
