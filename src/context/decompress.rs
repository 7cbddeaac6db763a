//! Reading a stream whatever it is compressed with.

use std::io::{self, BufReader, Chain, Cursor, Read};

/// How a stream is compressed, by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not at all, as far as the first bytes tell.
    None,
    /// gzip, one member or many.
    Gzip,
    /// bzip2, one stream or many.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

/// Longest magic number that is looked at.
const MAGIC: usize = 6;

impl Compression {
    /// Tells the compression by the first bytes of a stream.
    pub fn detect(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame, as zstd:chunked and pzstd put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// A stream whose first bytes were looked at and put back.
pub type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads up to `count` bytes and gives them together with the whole stream.
pub fn peek<R: Read>(mut reader: R, count: usize) -> io::Result<(Vec<u8>, Peeked<R>)> {
    let mut head = Vec::with_capacity(count);
    reader.by_ref().take(count as u64).read_to_end(&mut head)?;
    let whole = Cursor::new(head.clone()).chain(reader);
    Ok((head, whole))
}

/// The plain bytes of a stream, and how it was compressed.
pub fn decompress<'a, R: Read + Send + 'a>(
    reader: R,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let (head, whole) = peek(reader, MAGIC)?;
    let compression = Compression::detect(&head);
    let plain: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => {
            Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 17, whole)))
        }
        Compression::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(whole)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(whole, true)),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole)?),
    };
    Ok((compression, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn every_compression_reads_back() -> io::Result<()> {
        let text = b"some text that is long enough to be packed ".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text)?;
        let mut two_members = gzip.finish()?;
        two_members.extend(two_members.clone());
        let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bzip.write_all(&text)?;
        for (packed, times) in
            [(text.clone(), 1), (two_members, 2), (bzip.finish()?, 1), (zstd::encode_all(&text[..], 1)?, 1)]
        {
            let mut plain = Vec::new();
            decompress(&packed[..])?.1.read_to_end(&mut plain)?;
            assert_eq!(plain, text.repeat(times));
        }
        Ok(())
    }

    #[test]
    fn short_streams_are_plain() -> io::Result<()> {
        let (compression, mut plain) = decompress(&b"a"[..])?;
        let mut out = Vec::new();
        plain.read_to_end(&mut out)?;
        assert_eq!((compression, out), (Compression::None, b"a".to_vec()));
        Ok(())
    }
}
