//! What a step may ask an ssh agent for: the keys there are, and signatures. It may not add or remove keys,
//! lock the agent or load libraries into it, as with BuildKit.
//!
//! The protocol (draft-ietf-sshm-ssh-agent): messages of four bytes of length, one of type, and content;
//! each request gets one answer.

use std::io::{self, Read, Write};

/// Longest message, as OpenSSH has it.
pub const LONGEST: usize = 256 * 1024;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
const EXTENSION: u8 = 27;
/// Ties a connection to a server's key. It can only restrict what keys may be used for.
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

/// Whether a request, without its length, may reach the agent.
pub fn is_harmless(request: &[u8]) -> bool {
    match request.split_first() {
        Some((&(REQUEST_IDENTITIES | SIGN_REQUEST), _)) => true,
        Some((&EXTENSION, content)) => {
            let name = content.split_at_checked(4).and_then(|(length, rest)| {
                let length = u32::from_be_bytes(length.try_into().ok()?);
                rest.get(..usize::try_from(length).ok()?)
            });
            name == Some(SESSION_BIND)
        }
        _ => false,
    }
}

/// Carries requests of a client to an agent, and its answers back, until either side ends. A harmful
/// request is answered with a failure; the agent never sees it.
pub fn carry(mut client: impl Read + Write, mut agent: impl Read + Write) -> io::Result<()> {
    while let Some(request) = message(&mut client)? {
        if !is_harmless(&request) {
            send(&mut client, &[FAILURE])?;
            continue;
        }
        send(&mut agent, &request)?;
        let Some(answer) = message(&mut agent)? else { return Ok(()) };
        send(&mut client, &answer)?;
    }
    Ok(())
}

/// The next message, without its length; `None` at the end of the stream. Memory grows with what arrives,
/// not with what is announced.
fn message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = Vec::new();
    from.take(4).read_to_end(&mut length)?;
    let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(None) };
    let length = u32::from_be_bytes(length);
    if length == 0 || length as usize > LONGEST {
        return Err(io::Error::other("not a message of an ssh agent"));
    }
    let mut message = Vec::new();
    from.take(length.into()).read_to_end(&mut message)?;
    Ok((message.len() == length as usize).then_some(message))
}

fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    // In one piece: an agent may be slow to look for the rest.
    to.write_all(&[&length.to_be_bytes()[..], message].concat())
}
