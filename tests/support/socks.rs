//! A SOCKS5 proxy for tests, which knows where each name leads and writes down what it is asked for.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Serves until the process ends.
pub struct SocksProxy {
    host: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl SocksProxy {
    /// Connects everybody to `target`, whatever they ask for. With `sign_in`, a name and a password.
    pub fn start(target: &str, sign_in: Option<(&'static str, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let (target, seen) = (target.to_owned(), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (target, seen) = (target.clone(), seen.clone());
                std::thread::spawn(move || serve(stream, &target, sign_in, &seen));
            }
        });
        SocksProxy { host, log }
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Lines `NAME:PORT` or `refused`, and forgets them.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().expect("the log"))
    }
}

fn take<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(stream: &mut TcpStream) -> io::Result<String> {
    let [length] = take(stream)?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn serve(
    mut stream: TcpStream,
    target: &str,
    sign_in: Option<(&str, &str)>,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let [_, methods] = take(&mut stream)?;
    io::copy(&mut (&mut stream).take(methods.into()), &mut io::sink())?;
    stream.write_all(&[5, if sign_in.is_some() { 2 } else { 0 }])?;
    if let Some((user, password)) = sign_in {
        take::<1>(&mut stream)?;
        let given = (text(&mut stream)?, text(&mut stream)?);
        let right = given == (user.to_owned(), password.to_owned());
        stream.write_all(&[1, u8::from(!right)])?;
        if !right {
            log.lock().expect("the log").push("refused".to_owned());
            return Ok(());
        }
    }
    let [_, _, _, kind] = take(&mut stream)?;
    // A name (3), or an address that somebody looked up.
    let name = match kind {
        3 => text(&mut stream)?,
        _ => format!("{:?}", take::<4>(&mut stream)?),
    };
    let port = u16::from_be_bytes(take(&mut stream)?);
    log.lock().expect("the log").push(format!("{name}:{port}"));
    let mut server = TcpStream::connect(target)?;
    stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80])?;
    let (mut from, mut to) = (stream.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    io::copy(&mut server, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}
