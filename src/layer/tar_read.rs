//! A tar stream to entries, with limits on everything an archive can exaggerate.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::context::sparse::{Part, SparseMap, SparseRecords, Stretch};

use super::error::LayerError;
use super::tar_write::{BLOCK, padding};

/// Longest name, link or set of pax records that is read into memory.
const MAX_EXTENSION: u64 = 1 << 20;

/// A header with its extensions applied.
#[derive(Debug, Clone)]
pub struct Header {
    /// Name as stored.
    pub path: Vec<u8>,
    /// Link target as stored.
    pub link: Vec<u8>,
    /// Type flag (POSIX pax, `typeflag`); `0` where the header has NUL.
    pub flag: u8,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in whole seconds since 1970, rounded towards the past.
    pub mtime: i64,
    /// Bytes of content, holes included; 0 for links, directories and devices.
    pub size: u64,
    /// Major number of a device.
    pub major: u32,
    /// Minor number of a device.
    pub minor: u32,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset of the content in the stream.
    pub offset: u64,
    /// Whether the stream holds only parts of the content.
    pub sparse: bool,
}

/// Reads headers and contents one after the other.
pub(super) struct TarReader<R> {
    inner: R,
    position: u64,
    /// Content and padding of the current entry not read yet.
    left: u64,
    pad: u64,
    /// What of a sparse file was not read yet, the next at the end.
    stretches: Vec<Stretch>,
    /// Sparse files are read; else they are errors.
    sparse: bool,
    /// A block of zeroes was seen.
    ended: bool,
}

/// What the entries before a header say of it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: SparseRecords,
}

/// How an archive ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With two blocks of zeroes or more.
    Proper,
    /// Without them.
    Missing,
    /// With something else behind them.
    Garbage,
}

fn invalid(text: impl Into<String>) -> LayerError {
    LayerError::Invalid(text.into())
}

impl<R: Read> TarReader<R> {
    /// Layers: what is in them lies in the stream byte by byte, and sparse files are errors.
    pub fn new(inner: R) -> Self {
        TarReader { inner, position: 0, left: 0, pad: 0, stretches: Vec::new(), sparse: false, ended: false }
    }

    /// Also reads sparse files, with zeros for their holes, if `sparse` is set.
    pub fn with_sparse(self, sparse: bool) -> Self {
        TarReader { sparse, ..self }
    }

    /// The stream that is read.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// The next entry; `None` at the end. What was not read of the last one is skipped.
    pub fn next(&mut self) -> Result<Option<Header>, LayerError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                self.ended = true;
                return Ok(None);
            }
            check_sum(&block)?;
            let size = number(&block[124..136])?;
            match block[156] {
                b'L' => extensions.name = Some(trim_nul(self.extension(size)?)),
                b'K' => extensions.link = Some(trim_nul(self.extension(size)?)),
                b'x' => parse_records(&self.extension(size)?, &mut extensions)?,
                // Global records apply to all entries; images have no use for any of them.
                b'g' => drop(self.extension(size)?),
                _ => return self.header(&block, size, extensions).map(Some),
            }
        }
    }

    fn header(
        &mut self,
        block: &[u8; BLOCK],
        size: u64,
        extensions: Extensions,
    ) -> Result<Header, LayerError> {
        let Extensions { name, link, mut records, sparse } = extensions;
        let mut take = |key: &[u8]| records.remove(key);
        let decimal = |value: Option<Vec<u8>>| -> Result<Option<i64>, LayerError> {
            let Some(value) = value else { return Ok(None) };
            let text = String::from_utf8_lossy(&value).into_owned();
            // Times may carry fractions; layers keep whole seconds, rounded towards the past.
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let seconds: i64 =
                whole.parse().map_err(|_| invalid(format!("bad number {text:?} in pax record")))?;
            let below = whole.starts_with('-') && fraction.bytes().any(|c| c != b'0');
            Ok(Some(seconds - i64::from(below)))
        };
        let path = take(b"path").or(name).unwrap_or_else(|| ustar_name(block));
        let link = take(b"linkpath").or(link).unwrap_or_else(|| text(&block[157..257]).to_vec());
        let id = |value: i64| u32::try_from(value).map_err(|_| invalid("owner out of range"));
        let uid = match decimal(take(b"uid"))? {
            Some(uid) => id(uid)?,
            None => small(&block[108..116])?,
        };
        let gid = match decimal(take(b"gid"))? {
            Some(gid) => id(gid)?,
            None => small(&block[116..124])?,
        };
        let mtime = decimal(take(b"mtime"))?.map_or_else(|| signed(&block[136..148]), Ok)?;
        let flag = if matches!(block[156], 0 | b'S') { b'0' } else { block[156] };
        let size = match decimal(take(b"size"))? {
            Some(size) => u64::try_from(size).map_err(|_| invalid("negative size"))?,
            None => size,
        };
        // Links and directories have no content, whatever their size field says.
        let size = if matches!(flag, b'1'..=b'6') { 0 } else { size };
        let device = block.get(257..262) == Some(b"ustar");
        let (major, minor) =
            if device { (small(&block[329..337])?, small(&block[337..345])?) } else { (0, 0) };
        let xattrs = records
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)))
            .collect();
        self.left = size;
        self.pad = padding(size) as u64;
        let mode = u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0);
        let map = self.sparse_map(block, flag, &sparse)?;
        let path = sparse.name().filter(|_| map.is_some()).map_or(path, <[u8]>::to_vec);
        Ok(Header {
            path,
            link,
            flag,
            mode,
            uid,
            gid,
            mtime,
            size: map.as_ref().map_or(size, SparseMap::size),
            major,
            minor,
            xattrs,
            offset: self.position,
            sparse: map.is_some(),
        })
    }

    /// The holes of the entry that begins, if it has any; its content is read with them from here on.
    fn sparse_map(
        &mut self,
        block: &[u8; BLOCK],
        flag: u8,
        records: &SparseRecords,
    ) -> Result<Option<SparseMap>, LayerError> {
        let old = block[156] == b'S';
        if !old && !records.is_sparse().map_err(damaged)? {
            return Ok(None);
        }
        if !self.sparse {
            return Err(invalid("GNU sparse files are not supported in layers"));
        }
        if matches!(flag, b'1'..=b'6') {
            return Err(invalid("a sparse file that is no file"));
        }
        let stored = self.left;
        let map = if old { self.old_map(block)? } else { records.map(self, stored).map_err(damaged)? };
        self.stretches = map.stretches();
        self.stretches.reverse();
        Ok(Some(map))
    }

    /// The map of GNU's oldest form: in the header, and in blocks behind it that its size leaves out.
    fn old_map(&mut self, block: &[u8; BLOCK]) -> Result<SparseMap, LayerError> {
        if block.get(257..265) != Some(b"ustar  \0") {
            return Err(invalid("a sparse file whose header is not GNU's"));
        }
        let mut parts = Vec::new();
        let mut add = |table: &[u8]| -> Result<(), LayerError> {
            let (rows, _) = table.as_chunks::<24>();
            // The first empty row ends the table.
            for row in rows.iter().take_while(|row| row[0] != 0) {
                parts.push(Part { offset: number(&row[..12])?, length: number(&row[12..])? });
            }
            Ok(())
        };
        add(&block[386..482])?;
        let mut more = block[482] != 0;
        let mut blocks = 0;
        while more {
            blocks += BLOCK as u64;
            let next = self.block()?.filter(|_| blocks <= MAX_EXTENSION);
            let next = next.ok_or_else(|| invalid("a sparse file whose map does not end"))?;
            add(&next[..504])?;
            more = next[504] != 0;
        }
        SparseMap::new(number(&block[483..495])?, parts, self.left).map_err(damaged)
    }

    /// Steps over the zeros of a sparse file that come next, and says how many they are.
    pub fn take_hole(&mut self) -> u64 {
        match self.stretches.last() {
            Some(Stretch::Hole(length)) => {
                let length = *length;
                self.stretches.pop();
                length
            }
            _ => 0,
        }
    }

    /// After the last entry: reads to the end of the stream and says whether the archive was ended as
    /// POSIX wants it, by two blocks of zeroes with nothing but zeroes behind them.
    pub fn check_end(&mut self) -> Result<End, LayerError> {
        let mut buffer = [0u8; 64 * 1024];
        let mut zeroes = if self.ended { BLOCK as u64 } else { 0 };
        let mut clean = true;
        loop {
            match self.inner.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    clean &= buffer[..count].iter().all(|byte| *byte == 0);
                    zeroes += count as u64;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Stream(error)),
            }
        }
        Ok(match (clean, zeroes >= 2 * BLOCK as u64) {
            (false, _) => End::Garbage,
            (true, true) => End::Proper,
            (true, false) => End::Missing,
        })
    }

    /// Reads to the very end of the stream, behind the archive's own end, so that a hash of the
    /// stream covers all of it.
    pub fn drain(&mut self) -> Result<(), LayerError> {
        let copied = io::copy(&mut self.inner, &mut io::sink()).map_err(LayerError::Stream)?;
        self.position += copied;
        Ok(())
    }

    /// Bytes of the stream read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, LayerError> {
        let mut block = [0u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(invalid("the archive ends in the middle of a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Stream(error)),
            }
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > MAX_EXTENSION {
            return Err(invalid(format!("an extended header of {size} bytes")));
        }
        self.left = size;
        self.pad = padding(size) as u64;
        let mut body = Vec::new();
        self.by_ref().take(size).read_to_end(&mut body).map_err(LayerError::Stream)?;
        if body.len() as u64 != size {
            return Err(invalid("the archive ends in the middle of an extended header"));
        }
        Ok(body)
    }

    fn skip(&mut self) -> Result<(), LayerError> {
        self.stretches.clear();
        let rest = self.left + self.pad;
        if rest > 0 {
            let skipped =
                io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink()).map_err(LayerError::Stream)?;
            if skipped != rest {
                return Err(invalid("the archive ends in the middle of a file"));
            }
            self.position += rest;
            (self.left, self.pad) = (0, 0);
        }
        Ok(())
    }
}

/// Reads the current entry's content.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let limit = |length: u64| usize::try_from(length).unwrap_or(usize::MAX).min(buf.len());
        let (most, hole) = match self.stretches.last() {
            Some(Stretch::Hole(length)) => (limit(*length), true),
            Some(Stretch::Stored(length)) => (limit(*length), false),
            None => (limit(self.left), false),
        };
        let count = if hole {
            buf[..most].fill(0);
            most
        } else {
            self.read_stored(&mut buf[..most])?
        };
        if let Some(Stretch::Hole(length) | Stretch::Stored(length)) = self.stretches.last_mut() {
            *length -= count as u64;
            if *length == 0 {
                self.stretches.pop();
            }
        }
        Ok(count)
    }
}

impl<R: Read> TarReader<R> {
    fn read_stored(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buf)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends in the middle of a file",
            ));
        }
        self.left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

/// What is wrong with a map of holes, or with the stream it is read from.
fn damaged(error: io::Error) -> LayerError {
    match error.kind() {
        io::ErrorKind::InvalidData => invalid(error.to_string()),
        _ => LayerError::Stream(error),
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

fn trim_nul(bytes: Vec<u8>) -> Vec<u8> {
    text(&bytes).to_vec()
}

fn ustar_name(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = text(&block[345..500]);
    // GNU's old format keeps times where ustar has the prefix.
    if prefix.is_empty() || block.get(257..263) != Some(b"ustar\0") {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), LayerError> {
    let promised = number(&block[148..156])?;
    let sum = |byte_value: fn(u8) -> i64| -> i64 {
        let field = 148..156;
        block
            .iter()
            .enumerate()
            .map(|(at, byte)| if field.contains(&at) { 32 } else { byte_value(*byte) })
            .sum()
    };
    let promised = i64::try_from(promised).unwrap_or(-1);
    if promised == sum(i64::from) || promised == sum(|byte| i64::from(byte.cast_signed())) {
        return Ok(());
    }
    Err(invalid("bad header checksum"))
}

/// Octal, or GNU's base 256.
fn number(field: &[u8]) -> Result<u64, LayerError> {
    let value = signed(field)?;
    u64::try_from(value).map_err(|_| invalid("negative number in a header"))
}

fn signed(field: &[u8]) -> Result<i64, LayerError> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x3f) };
        let mut value = first;
        for byte in &field[1..] {
            value = value.checked_mul(256).map_or(i128::MAX, |v| v + i128::from(*byte));
            if value.unsigned_abs() > u128::from(u64::MAX) {
                return Err(invalid("number out of range in a header"));
            }
        }
        return i64::try_from(value).map_err(|_| invalid("number out of range in a header"));
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(digits).map_err(|_| invalid("bad number in a header"))?;
    i64::from_str_radix(text, 8).map_err(|_| invalid(format!("bad number {text:?} in a header")))
}

fn small(field: &[u8]) -> Result<u32, LayerError> {
    u32::try_from(number(field)?).map_err(|_| invalid("number out of range in a header"))
}

fn parse_records(mut body: &[u8], extensions: &mut Extensions) -> Result<(), LayerError> {
    let bad = || invalid("malformed pax record");
    while !body.is_empty() {
        let space = body.iter().take(12).position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length: usize =
            std::str::from_utf8(&body[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        let record =
            body.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        extensions.sparse.take(key, value).map_err(damaged)?;
        extensions.records.insert(key.to_vec(), value.to_vec());
        body = &body[length..];
    }
    Ok(())
}
