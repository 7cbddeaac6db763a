//! What a download must hash to.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha384, Sha512};

use crate::digest::{Digest, Hasher};

use super::error::RemoteError;

/// The checksum a download must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checksum(Kind);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Sha256(Digest),
    Sha384(String),
    Sha512(String),
}

impl Checksum {
    /// Parses `sha256:`, `sha384:` or `sha512:` followed by lower-case hex digits, the forms that
    /// `ADD --checksum` takes.
    pub fn parse(text: &str) -> Result<Self, RemoteError> {
        let invalid = || RemoteError::Checksum { value: text.to_owned() };
        let (algorithm, hex) = text.split_once(':').ok_or_else(invalid)?;
        let fits =
            |length| hex.len() == length && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        match algorithm {
            "sha256" => Digest::from_hex(hex).map(|digest| Checksum(Kind::Sha256(digest))),
            "sha384" => fits(96).then(|| Checksum(Kind::Sha384(hex.to_owned()))),
            "sha512" => fits(128).then(|| Checksum(Kind::Sha512(hex.to_owned()))),
            _ => None,
        }
        .ok_or_else(invalid)
    }

    /// A hasher that can tell whether bytes have this checksum.
    pub(super) fn hasher(&self) -> ChecksumHasher {
        match self.0 {
            Kind::Sha256(_) => ChecksumHasher::Sha256(Hasher::new()),
            Kind::Sha384(_) => ChecksumHasher::Sha384(Sha384::new()),
            Kind::Sha512(_) => ChecksumHasher::Sha512(Sha512::new()),
        }
    }

    /// The checksum of all that `reader` gives, by this one's algorithm.
    pub fn of(&self, mut reader: impl Read) -> io::Result<Checksum> {
        let mut hasher = self.hasher();
        io::copy(&mut reader, &mut hasher)?;
        Ok(hasher.finish())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Sha256(digest) => write!(f, "{digest}"),
            Kind::Sha384(hex) => write!(f, "sha384:{hex}"),
            Kind::Sha512(hex) => write!(f, "sha512:{hex}"),
        }
    }
}

/// Computes a checksum from what is written to it.
pub(super) enum ChecksumHasher {
    Sha256(Hasher),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl ChecksumHasher {
    pub(super) fn finish(self) -> Checksum {
        Checksum(match self {
            ChecksumHasher::Sha256(hasher) => Kind::Sha256(hasher.finish()),
            ChecksumHasher::Sha384(hasher) => Kind::Sha384(hex(&hasher.finalize())),
            ChecksumHasher::Sha512(hasher) => Kind::Sha512(hex(&hasher.finalize())),
        })
    }
}

impl io::Write for ChecksumHasher {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            ChecksumHasher::Sha256(hasher) => hasher.update(buf),
            ChecksumHasher::Sha384(hasher) => hasher.update(buf),
            ChecksumHasher::Sha512(hasher) => hasher.update(buf),
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
