//! Berkeley DB's hash tables, as far as rpm uses them: the values of `Packages` are too large for a page, so each is a
//! chain of overflow pages (`src/dbinc/db_page.h` of Berkeley DB).

use super::{MAX_HEADER, Visit, bytes_at};

const HASH_MAGIC: u32 = 0x0006_1561;
/// Where it is in the first page.
const MAGIC_AT: usize = 12;
/// Kinds of pages and of entries in them.
const HASH_UNSORTED: u8 = 2;
const OVERFLOW: u8 = 7;
const HASH: u8 = 13;
const OFF_PAGE: u8 = 3;
/// Bytes before the entries of a page.
const PAGE_HEADER: usize = 26;

/// Numbers in the byte order of the machine that wrote the file.
#[derive(Clone, Copy)]
struct Order {
    is_big: bool,
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let found = bytes_at(bytes, at)?;
        Some(if self.is_big { u32::from_be_bytes(found) } else { u32::from_le_bytes(found) })
    }

    fn u16(self, bytes: &[u8], at: usize) -> Option<usize> {
        let found = bytes_at(bytes, at)?;
        Some(usize::from(if self.is_big { u16::from_be_bytes(found) } else { u16::from_le_bytes(found) }))
    }
}

fn order(bytes: &[u8]) -> Option<Order> {
    let orders = [Order { is_big: false }, Order { is_big: true }];
    orders.into_iter().find(|order| order.u32(bytes, MAGIC_AT) == Some(HASH_MAGIC))
}

/// Whether it is a hash table of Berkeley DB.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    order(bytes).is_some()
}

pub(super) fn read(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), String> {
    let order = order(bytes).ok_or("it is not a hash table")?;
    let size = order.u32(bytes, 20).unwrap_or(0) as usize;
    if !size.is_power_of_two() || !(512..=65_536).contains(&size) {
        return Err(format!("its pages have {size} bytes"));
    }
    // Byte 24 names an encryption, which rpm does not use.
    if bytes.get(24) != Some(&0) {
        return Err("it is encrypted".to_owned());
    }
    let mut file = File { bytes, order, size, left: bytes.len() };
    let last = order.u32(bytes, 32).unwrap_or(0);
    for number in 0..=last {
        let page = file.page(number).ok_or_else(|| format!("page {number} of {last} is cut off"))?;
        if !matches!(page.get(25), Some(&(HASH_UNSORTED | HASH))) {
            continue;
        }
        let entries = order.u16(page, 20).unwrap_or(0);
        // Keys and values take turns.
        for entry in (1..entries).step_by(2) {
            let Some(at) = order.u16(page, PAGE_HEADER + 2 * entry) else {
                return Err(format!("page {number} is damaged"));
            };
            // A value that fits into the page is not a package: under the key 0 is the number of the last one.
            if page.get(at) != Some(&OFF_PAGE) {
                continue;
            }
            let value = file.value(page, at);
            let value =
                value.as_deref().ok_or_else(|| format!("a package in page {number} is cut off or damaged"));
            if !visit(value) {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct File<'a> {
    bytes: &'a [u8],
    order: Order,
    size: usize,
    /// Bytes that may still be read: a damaged file may lead in circles.
    left: usize,
}

impl<'a> File<'a> {
    fn page(&self, number: u32) -> Option<&'a [u8]> {
        let begin = (number as usize).checked_mul(self.size)?;
        self.bytes.get(begin..begin.checked_add(self.size)?)
    }

    /// The bytes of a value that lies in overflow pages.
    fn value(&mut self, page: &[u8], at: usize) -> Option<Vec<u8>> {
        let (mut next, length) = (self.order.u32(page, at + 4)?, self.order.u32(page, at + 8)? as usize);
        self.left = self.left.checked_sub(length).filter(|_| length <= MAX_HEADER)?;
        let mut value = Vec::with_capacity(length);
        while value.len() < length {
            let page = self.page(next).filter(|page| next != 0 && page.get(25) == Some(&OVERFLOW))?;
            let content = &page[PAGE_HEADER..];
            let wanted = (length - value.len()).min(content.len());
            value.extend_from_slice(&content[..wanted]);
            next = self.order.u32(page, 16)?;
        }
        Some(value)
    }
}
