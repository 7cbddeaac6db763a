//! Compressed streams, told apart by their first bytes and never by their names.

use std::io::{self, BufReader, Cursor, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, or not in a way known here.
    None,
    /// gzip, of any number of members.
    Gzip,
    /// bzip2, of any number of streams.
    Bzip2,
    /// xz, of any number of streams.
    Xz,
    /// zstd, of any number of frames.
    Zstd,
}

/// How many bytes [`Compression::sniff`] wants to see.
pub const MAGIC_LENGTH: usize = 10;

impl Compression {
    /// The compression of a stream that begins with `head` (at least [`MAGIC_LENGTH`] bytes of it,
    /// unless the stream is shorter).
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1F, 0x8B, 0x08, ..] => Compression::Gzip,
            // The magic alone is text: a Dockerfile may begin with it. A block or the stream's end,
            // each with a number of its own, must follow.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Compression::Bzip2,
            [0xFD, b'7', b'z', b'X', b'Z', 0x00, ..] => Compression::Xz,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Compression::Zstd,
            // A skippable frame may come first (RFC 8878, 3.1.2); pzstd writes one.
            [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "uncompressed",
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        }
    }
}

/// Finds out how `reader` is compressed and gives its content. Errors of the content come from the
/// returned reader; an uncompressed stream is passed on byte for byte.
pub fn decompress<'r, R: Read + Send + 'r>(
    mut reader: R,
) -> io::Result<(Compression, Box<dyn Read + Send + 'r>)> {
    let head = read_head(&mut reader, MAGIC_LENGTH)?;
    let compression = Compression::sniff(&head);
    let whole = Cursor::new(head).chain(reader);
    let content: Box<dyn Read + Send + 'r> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(whole))),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(whole))),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(buffered(whole), true)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffered(whole))?),
    };
    Ok((compression, content))
}

fn buffered<R: Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(64 * 1024, reader)
}

/// Reads `length` bytes, fewer only at the end of the stream.
pub(crate) fn read_head(reader: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(length);
    reader.take(length as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn bzip2(data: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(data).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).expect("in memory")
    }

    /// `xz -0` of "hello ", made by xz 5.4.
    const XZ_HELLO: &[u8] = include_bytes!("../../testdata/context/hello.xz");

    fn content(stream: &[u8]) -> (Compression, Vec<u8>) {
        let (compression, mut reader) = decompress(stream).expect("begins well");
        let mut content = Vec::new();
        reader.read_to_end(&mut content).expect("reads");
        (compression, content)
    }

    #[test]
    fn every_compression_is_recognised_by_content_and_read() {
        assert_eq!(content(b"FROM scratch\n"), (Compression::None, b"FROM scratch\n".to_vec()));
        assert_eq!(content(&gzip(b"data")), (Compression::Gzip, b"data".to_vec()));
        assert_eq!(content(&bzip2(b"data")), (Compression::Bzip2, b"data".to_vec()));
        assert_eq!(content(XZ_HELLO), (Compression::Xz, b"hello ".to_vec()));
        assert_eq!(content(&zstd(b"data")), (Compression::Zstd, b"data".to_vec()));
        assert_eq!(content(&bzip2(b"")), (Compression::Bzip2, Vec::new()));
        assert_eq!(content(b""), (Compression::None, Vec::new()));
    }

    #[test]
    fn streams_of_several_parts_are_read_to_their_end() {
        for (one, two) in
            [(gzip(b"one "), gzip(b"two")), (bzip2(b"one "), bzip2(b"two")), (zstd(b"one "), zstd(b"two"))]
        {
            assert_eq!(content(&[one, two].concat()).1, b"one two");
        }
        assert_eq!(content(&[XZ_HELLO, XZ_HELLO].concat()).1, b"hello hello ");
        let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd(b"data")].concat();
        assert_eq!(content(&skippable), (Compression::Zstd, b"data".to_vec()));
    }

    #[test]
    fn text_that_begins_like_bzip2_is_text() {
        assert_eq!(
            content(b"BZh9 is not a Dockerfile"),
            (Compression::None, b"BZh9 is not a Dockerfile".to_vec())
        );
    }

    #[test]
    fn a_cut_stream_is_an_error_not_a_short_content() {
        for whole in [gzip(&[7; 5000]), bzip2(&[7; 5000]), zstd(&[7; 5000]), XZ_HELLO.to_vec()] {
            let cut = &whole[..whole.len() - 5];
            let (_, mut reader) = decompress(cut).expect("begins well");
            assert!(reader.read_to_end(&mut Vec::new()).is_err(), "{:?}", Compression::sniff(cut));
        }
    }

    #[test]
    fn one_byte_at_a_time_is_enough() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let take = buffer.len().min(1);
                self.0.read(&mut buffer[..take])
            }
        }
        let stream = gzip(b"data");
        let (compression, mut reader) = decompress(Slow(&stream)).expect("begins well");
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("reads");
        assert_eq!((compression, text.as_str()), (Compression::Gzip, "data"));
    }
}
