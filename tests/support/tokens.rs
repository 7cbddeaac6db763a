//! A token service for tests: gives whom it knows what they ask for, signed as docker-registry wants.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Runs until the process ends.
pub struct TokenService {
    address: String,
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TokenService {
    /// Starts a service that knows one user. `None` where there is no `openssl`.
    pub fn start(user: &str, password: &str) -> io::Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"])
            .arg("-keyout")
            .arg(dir.path().join("key.pem"))
            .arg("-out")
            .arg(dir.path().join("cert.pem"))
            .stdin(Stdio::null())
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            return Ok(None);
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}/token", listener.local_addr()?);
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let (place, log) = (dir.path().to_owned(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &basic, &place, &log);
            }
        });
        Ok(Some(TokenService { address, dir, asked }))
    }

    /// Its address and certificate, as the registry wants them.
    pub fn setup(&self) -> (String, PathBuf) {
        (self.address.clone(), self.dir.path().join("cert.pem"))
    }

    /// The queries it got.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(mut stream: TcpStream, basic: &str, dir: &Path, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut known = false;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ") {
            known |= name.eq_ignore_ascii_case("authorization") && value == basic;
        }
    }
    let query = request.split_whitespace().nth(1).and_then(|path| path.split_once('?'));
    let query = query.map(|(_, query)| query.to_owned()).unwrap_or_default();
    log.lock().unwrap_or_else(PoisonError::into_inner).push(query.clone());
    let (status, body) = if known {
        let token = token(&query, dir)?;
        ("200 OK", format!(r#"{{"token":"{token}","expires_in":300}}"#))
    } else {
        ("401 Unauthorized", r#"{"details":"incorrect username or password"}"#.to_owned())
    };
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A signed claim to all that the query asks for (distribution, "Token Authentication
/// Implementation").
fn token(query: &str, dir: &Path) -> io::Result<String> {
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<serde_json::Value> = scopes
        .map(|scope| scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
        .filter_map(|scope| {
            let (rest, actions) = scope.rsplit_once(':')?;
            let (kind, name) = rest.split_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(serde_json::json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let pem = std::fs::read_to_string(dir.join("cert.pem"))?;
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let head = serde_json::json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let claims = serde_json::json!({
        "iss": "test-issuer", "sub": "tester", "aud": "test-registry", "jti": "1",
        "exp": now + 300, "nbf": now - 30, "iat": now - 30, "access": access,
    });
    let signed = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(dir.join("key.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(signed.as_bytes())?;
    }
    let signature = child.wait_with_output()?.stdout;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
