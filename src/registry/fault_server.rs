//! A web server for tests that answers as badly as it is told to.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An address of this machine that its neighbours know, so that a server there is elsewhere to a client.
/// `None`, with a line saying so, where the machine has none.
pub(crate) fn outward_address() -> Option<IpAddr> {
    // Nothing is sent: the kernel chooses the address it would send from.
    let found = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("203.0.113.1:9").and_then(|()| socket.local_addr()));
    let address = found.ok().map(|found| found.ip()).filter(|address| !super::is_local(*address));
    if address.is_none() {
        println!("SKIPPED: this machine has no address but its own");
    }
    address
}

type Log = Arc<Mutex<Vec<Received>>>;

/// Answers on a loopback port until dropped. One request for each connection.
pub(crate) struct FaultServer {
    address: SocketAddr,
    log: Log,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FaultServer {
    /// Starts a server whose answers `answer` writes. The number is that of the request, from 0,
    /// pings of `/v2/` not counted (they are answered with 200).
    pub(crate) fn start(
        answer: impl Fn(usize, &Received, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), answer)
    }

    /// The same at another address of this machine.
    pub(crate) fn start_at(
        address: IpAddr,
        answer: impl Fn(usize, &Received, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let (log, stop) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let answer = Arc::new(answer);
        let thread = std::thread::spawn({
            let (log, stop) = (log.clone(), stop.clone());
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (log, answer) = (log.clone(), answer.clone());
                    std::thread::spawn(move || serve(stream, &log, &*answer));
                }
            }
        });
        Ok(FaultServer { address, log, stop, thread: Some(thread) })
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// All requests so far but pings.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Log,
    answer: &(dyn Fn(usize, &Received, &mut TcpStream) -> io::Result<()> + Send + Sync),
) {
    let Ok(Some(request)) = receive(&stream) else {
        let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nspeak http");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = io::copy(&mut stream, &mut io::sink());
        return;
    };
    if request.path == "/v2/" {
        let _ = reply(&mut stream, 200, &[], b"{}");
        return;
    }
    let number = {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(request.clone());
        log.len() - 1
    };
    let _ = answer(number, &request, &mut stream);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // Closing with unread input would reset the connection and lose the answer.
    let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(5)));
    let _ = io::copy(&mut stream, &mut io::sink());
}

/// `None` where the other side does not speak http.
fn receive(stream: &TcpStream) -> io::Result<Option<Received>> {
    const TLS_HANDSHAKE: u8 = 0x16;
    let mut reader = BufReader::new(stream);
    if reader.fill_buf()?.first().is_none_or(|first| *first == TLS_HANDSHAKE) {
        return Ok(None);
    }
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((key, value)) = line.split_once(':') {
            headers.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let mut request = Received { method, path, headers, body: String::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_string(&mut request.body)?;
    Ok(Some(request))
}

/// A well-formed answer.
pub(crate) fn reply(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    head(stream, status, headers, Some(body.len()))?;
    stream.write_all(body)
}

/// The head of an answer alone, announcing `length` bytes, or none.
pub(crate) fn head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
    if let Some(length) = length {
        text.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (key, value) in headers {
        text.push_str(&format!("{key}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())
}
