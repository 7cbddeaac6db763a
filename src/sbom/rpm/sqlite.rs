//! SQLite's file format, as far as rpm needs it: the rows of the table `Packages`, whose second column is a header
//! (<https://www.sqlite.org/fileformat2.html>). The write-ahead log, which rpm leaves empty, is not read.

use super::{MAX_HEADER, Visit, u16_be, u32_be};

pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";
/// Kinds of pages of a table's tree.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// Trees are never deeper.
const MAX_DEPTH: usize = 20;
/// Bytes of a record's header that are looked at: rpm's have a few.
const MAX_RECORD_HEADER: usize = 4096;

struct File<'a> {
    bytes: &'a [u8],
    page: usize,
    /// Bytes of a page that hold content.
    usable: usize,
    /// Pages that may still be read: a damaged tree may lead in circles.
    left: usize,
}

/// A row: what it starts with, and its whole content.
type Row<'a, 'b> = dyn FnMut(Result<Vec<u8>, String>) -> bool + 'b;

pub(super) fn read(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), String> {
    let page = match u16_be(bytes, 16) {
        Some(1) => 65_536,
        Some(size) if size.is_power_of_two() && size >= 512 => size,
        _ => return Err("the size of its pages is not valid".to_owned()),
    };
    let reserved = bytes.get(20).copied().unwrap_or(0);
    let usable = page - usize::from(reserved);
    if usable < 480 {
        return Err("its pages have no place for content".to_owned());
    }
    let mut file = File { bytes, page, usable, left: bytes.len() / page + 1 };
    let mut root = None;
    file.tree(1, 0, &mut |row| {
        // type, name, tbl_name, rootpage, sql
        let Ok(row) = row else { return true };
        let Some(columns) = columns(&row) else { return true };
        let text = |at: usize| columns.get(at).map_or(&b""[..], |column| column.bytes);
        if text(0) == b"table" && text(1) == b"Packages" {
            root = columns.get(3).and_then(Column::number);
        }
        root.is_none()
    })?;
    let root = root.ok_or("it has no table of packages")?;
    file.left = bytes.len() / page + 1;
    file.tree(root, 0, &mut |row| {
        let row = match &row {
            Ok(row) => row,
            Err(problem) => return visit(Err(problem.clone())),
        };
        // hnum, blob
        let header = columns(row).and_then(|columns| columns.get(1).map(|column| column.bytes));
        visit(header.ok_or_else(|| "a row of its packages is damaged".to_owned()))
    })?;
    Ok(())
}

impl<'a> File<'a> {
    /// A page, from 1, where its content begins: the first has the file's header before it.
    fn page(&mut self, number: usize) -> Result<(&'a [u8], usize), String> {
        self.left = self.left.checked_sub(1).ok_or("its pages refer to each other in a circle")?;
        let begin = number.checked_sub(1).and_then(|before| before.checked_mul(self.page));
        let page = begin.and_then(|begin| self.bytes.get(begin..begin.checked_add(self.page)?));
        let page = page.ok_or_else(|| format!("page {number} is cut off"))?;
        Ok((page, if number == 1 { 100 } else { 0 }))
    }

    /// Passes on the rows below a page; whether to go on.
    fn tree(&mut self, number: usize, depth: usize, row: &mut Row<'_, '_>) -> Result<bool, String> {
        let damaged = || format!("page {number} is damaged");
        if depth > MAX_DEPTH {
            return Err(damaged());
        }
        let (page, start) = self.page(number)?;
        let kind = *page.get(start).ok_or_else(damaged)?;
        let cells = u16_be(page, start + 3).ok_or_else(damaged)?;
        let pointers = start + if kind == INTERIOR { 12 } else { 8 };
        for cell in 0..cells {
            let at = u16_be(page, pointers + 2 * cell).ok_or_else(damaged)?;
            let goes_on = match kind {
                INTERIOR => {
                    let below = u32_be(page, at).ok_or_else(damaged)?;
                    self.tree(below, depth + 1, row)?
                }
                LEAF => {
                    let payload = self.payload(page, at);
                    row(payload.map_err(|problem| format!("a row in page {number}: {problem}")))
                }
                _ => return Err(damaged()),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        if kind == INTERIOR {
            let last = u32_be(page, start + 8).ok_or_else(damaged)?;
            return self.tree(last, depth + 1, row);
        }
        Ok(true)
    }

    /// The content of a row, whose cell is at this place of its page, with its overflow pages.
    fn payload(&mut self, page: &'a [u8], at: usize) -> Result<Vec<u8>, String> {
        let damaged = || "its cell is damaged".to_owned();
        let (length, after) = varint(page, at).ok_or_else(damaged)?;
        let (_, begin) = varint(page, after).ok_or_else(damaged)?;
        let length =
            usize::try_from(length).ok().filter(|length| *length <= MAX_HEADER.min(self.bytes.len()));
        let length = length.ok_or_else(|| "it is longer than the file".to_owned())?;
        // How much of it is in the page ("Cell payload overflow pages").
        let (most, least) = (self.usable - 35, (self.usable - 12) * 32 / 255 - 23);
        let here = if length <= most {
            length
        } else {
            let surplus = least + (length - least) % (self.usable - 4);
            if surplus <= most { surplus } else { least }
        };
        let mut payload = page.get(begin..begin + here).ok_or_else(damaged)?.to_vec();
        let mut next = if here < length { u32_be(page, begin + here).ok_or_else(damaged)? } else { 0 };
        while payload.len() < length {
            let (page, _) = self.page(next)?;
            let wanted = (length - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(page.get(4..4 + wanted).ok_or_else(damaged)?);
            next = u32_be(page, 0).ok_or_else(damaged)?;
        }
        Ok(payload)
    }
}

/// A column: its serial type and bytes.
struct Column<'a> {
    kind: u64,
    bytes: &'a [u8],
}

impl Column<'_> {
    fn number(&self) -> Option<usize> {
        match self.kind {
            8 => Some(0),
            9 => Some(1),
            1..=4 => Some(self.bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))),
            _ => None,
        }
    }
}

/// The columns of a record ("Record Format").
fn columns(record: &[u8]) -> Option<Vec<Column<'_>>> {
    let (length, mut at) = varint(record, 0)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RECORD_HEADER)?;
    let (mut value, mut columns) = (length, Vec::new());
    while at < length {
        let (kind, next) = varint(record, at)?;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            _ => (kind - 12) / 2,
        };
        let end = value.checked_add(usize::try_from(size).ok()?)?;
        columns.push(Column { kind, bytes: record.get(value..end)? });
        (value, at) = (end, next);
    }
    Some(columns)
}

/// A number of one to nine bytes, and the place behind it.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0u64;
    for count in 0..8 {
        let byte = *bytes.get(at + count)?;
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + count + 1));
        }
    }
    Some((number << 8 | u64::from(*bytes.get(at + 8)?), at + 9))
}
