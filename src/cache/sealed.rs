//! Documents as objects: the digest of the document in the first line, then the document.

use crate::digest::Digest;

use super::document::CacheDocument;
use super::failure::CacheError;

/// Bytes of a sealed document.
pub(super) fn seal(document: &CacheDocument) -> Vec<u8> {
    let bytes = document.to_bytes();
    let mut sealed = format!("{}\n", Digest::of(&bytes)).into_bytes();
    sealed.extend(bytes);
    sealed
}

/// The document of sealed bytes. `place` is for messages.
pub(super) fn open(place: &str, sealed: &[u8]) -> Result<CacheDocument, CacheError> {
    let malformed =
        |reason: &str| CacheError::Malformed { place: place.to_owned(), reason: reason.to_owned() };
    let end = sealed.iter().take(128).position(|byte| *byte == b'\n');
    let (line, rest) = end.and_then(|end| sealed.split_at_checked(end)).unwrap_or_default();
    let bytes = rest.get(1..).unwrap_or_default();
    let digest = std::str::from_utf8(line).ok().and_then(|line| Digest::parse(line).ok());
    let digest = digest.ok_or_else(|| malformed("it does not begin with the digest of a document"))?;
    if Digest::of(bytes) != digest {
        return Err(malformed("its content is not what its digest says"));
    }
    CacheDocument::parse(place, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_is_opened() {
        let sealed = seal(&CacheDocument::default());
        assert_eq!(open("x", &sealed).ok(), Some(CacheDocument::default()));
        for cut in 0..sealed.len() {
            assert!(matches!(open("x", &sealed[..cut]), Err(CacheError::Malformed { .. })), "{cut}");
            let mut spoiled = sealed.clone();
            spoiled[cut] ^= 1;
            assert!(matches!(open("x", &spoiled), Err(CacheError::Malformed { .. })), "{cut}");
        }
    }
}
