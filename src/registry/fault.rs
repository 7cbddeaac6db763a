//! The network's failures in our own terms.

use super::error::Fault;
use super::reach::OutOfReach;

/// The kind of a failure and the system's words for it.
pub(super) fn classify(error: &ureq::Error) -> (Fault, String) {
    use std::io::ErrorKind;
    let detail = error.to_string();
    let fault = match error {
        ureq::Error::HostNotFound => Fault::UnknownHost,
        ureq::Error::Timeout(_) => Fault::Timeout,
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => Fault::Proxy,
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::TlsRequired => Fault::Tls,
        ureq::Error::ConnectionFailed | ureq::Error::BodyStalled => Fault::Lost,
        ureq::Error::Io(io) => {
            let text = io.to_string();
            let fault = match io.kind() {
                _ if io.get_ref().is_some_and(|inner| inner.is::<OutOfReach>()) => Fault::OutOfReach,
                ErrorKind::ConnectionRefused => Fault::Refused,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
                    Fault::NoRoute
                }
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Fault::Timeout,
                // rustls reports what it cannot accept as invalid data, in its own words.
                ErrorKind::InvalidData if text.contains("certificate") => Fault::Certificate,
                ErrorKind::InvalidData => Fault::Tls,
                ErrorKind::UnexpectedEof if text.contains("handshake") => Fault::Tls,
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::NotConnected
                | ErrorKind::UnexpectedEof => Fault::Lost,
                // getaddrinfo's failures have no kind of their own.
                _ if text.contains("Temporary failure in name resolution") || text.contains("Try again") => {
                    Fault::NameService
                }
                _ if text.contains("lookup address") => Fault::UnknownHost,
                _ => Fault::Other,
            };
            return (fault, text);
        }
        _ => Fault::Other,
    };
    (fault, detail)
}
