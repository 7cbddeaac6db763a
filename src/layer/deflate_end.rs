//! Where a deflate stream's last block begins and ends, found without inflating (RFC 1951).
//!
//! The compressor marks the last block of all it gives as the last of the stream. To put a further
//! stream behind it, that mark must be found and taken away, and the exact end be known, which need
//! not be a whole byte.

/// Bits of a code looked up at once. Longer codes are rare and decoded bit by bit.
const BITS: u32 = 11;
const LONGEST: usize = 15;
const MASK: u64 = (1 << BITS) - 1;

/// What a table says of the next bits: how many are used up, how many extra bits follow, how many
/// bytes they stand for, and what comes next.
const EXTRA_SHIFT: u32 = 5;
const MATCH: u32 = 1 << 9;
const END_OF_BLOCK: u32 = 1 << 10;
const BYTES_SHIFT: u32 = 16;
/// Neither literal nor match: the entry of a code that is not there or longer than the table.
const NONE: u32 = 0;

/// RFC 1951, 3.2.5: lengths of the codes 257 to 285 and their extra bits.
const LENGTHS: [u16; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195,
    227, 258,
];
const LENGTH_EXTRA: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
/// RFC 1951, 3.2.7: the order in which lengths of code lengths are sent.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The last block of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LastBlock {
    /// The bit that marks it as the last, counted from the stream's first.
    pub mark: usize,
    /// The first bit behind it.
    pub end: usize,
    /// Bytes the whole stream stands for.
    pub size: usize,
}

/// Finds the last block; `None` if this is no whole deflate stream.
pub(super) fn last_block(stream: &[u8]) -> Option<LastBlock> {
    let mut bits = Bits { stream, next: 0, held: 0, count: 0 };
    let (mut literals, mut distances) = (Code::new(), Code::new());
    let mut size = 0;
    loop {
        let mark = bits.position();
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => size += bits.skip_stored()?,
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                literals.set(&lengths, literal_entry)?;
                literals.join_literals();
                distances.set(&[5; 30], distance_entry)?;
                size += bits.skip_codes(&literals, &distances)?;
            }
            2 => {
                bits.read_codes(&mut literals, &mut distances)?;
                size += bits.skip_codes(&literals, &distances)?;
            }
            _ => return None,
        }
        if last {
            return Some(LastBlock { mark, end: bits.position(), size });
        }
    }
}

struct Bits<'a> {
    stream: &'a [u8],
    next: usize,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    fn position(&self) -> usize {
        self.next * 8 - self.count as usize
    }

    /// Holds at least 56 bits, or all that are left.
    #[inline(always)]
    fn fill(&mut self) {
        if let Some(word) = self.stream.get(self.next..).and_then(|rest| rest.first_chunk::<8>()) {
            self.held |= u64::from_le_bytes(*word) << self.count;
            self.next += ((63 - self.count) >> 3) as usize;
            self.count |= 56;
            return;
        }
        while self.count < 56 {
            let Some(byte) = self.stream.get(self.next) else { return };
            self.held |= u64::from(*byte) << self.count;
            self.next += 1;
            self.count += 8;
        }
    }

    #[inline(always)]
    fn drop_bits(&mut self, count: u32) -> Option<()> {
        self.count = self.count.checked_sub(count)?;
        self.held >>= count;
        Some(())
    }

    fn take(&mut self, count: u32) -> Option<usize> {
        self.fill();
        let value = self.held & ((1 << count) - 1);
        self.drop_bits(count)?;
        Some(value as usize)
    }

    fn skip_stored(&mut self) -> Option<usize> {
        let start = self.position().div_ceil(8);
        let header = self.stream.get(start..)?.first_chunk::<4>()?;
        let size = usize::from(u16::from_le_bytes([header[0], header[1]]));
        (self.held, self.count, self.next) = (0, 0, start + 4 + size);
        (self.next <= self.stream.len()).then_some(size)
    }

    /// Reads the two codes of a block (RFC 1951, 3.2.7).
    fn read_codes(&mut self, literals: &mut Code, distances: &mut Code) -> Option<()> {
        let (literal_count, distance_count) = (self.take(5)? + 257, self.take(5)? + 1);
        let sent = self.take(4)? + 4;
        let mut lengths = [0u8; 19];
        for place in &ORDER[..sent] {
            lengths[*place] = self.take(3)? as u8;
        }
        // This code is needed for a moment only: the place for that of the distances will do.
        distances.set(&lengths, |_| 0)?;
        let mut all = [0u8; 288 + 32];
        let total = literal_count + distance_count;
        let mut at = 0;
        while at < total {
            self.fill();
            let symbol = distances.symbol(self)?;
            let (value, times) = match symbol {
                0..=15 => (symbol as u8, 1),
                16 => (*all.get(at.checked_sub(1)?)?, self.take(2)? + 3),
                17 => (0, self.take(3)? + 3),
                _ => (0, self.take(7)? + 11),
            };
            all.get_mut(at..at + times)?.fill(value);
            at += times;
        }
        if at != total || literal_count > 288 {
            return None;
        }
        literals.set(&all[..literal_count], literal_entry)?;
        literals.join_literals();
        distances.set(&all[literal_count..total], distance_entry)
    }

    /// Skips the codes of a block and gives the number of bytes they stand for.
    fn skip_codes(&mut self, literals: &Code, distances: &Code) -> Option<usize> {
        let mut size = 0;
        loop {
            self.fill();
            let mut entry = literals.table[(self.held & MASK) as usize];
            if entry == NONE {
                entry = literal_entry(literals.symbol(self)?);
            } else {
                self.drop_bits(entry & 31)?;
            }
            size += (entry >> BYTES_SHIFT) as usize;
            if entry & (MATCH | END_OF_BLOCK) == 0 {
                continue;
            }
            if entry & END_OF_BLOCK != 0 {
                return Some(size);
            }
            let extra = (entry >> EXTRA_SHIFT) & 15;
            size += (self.held & ((1 << extra) - 1)) as usize;
            self.drop_bits(extra)?;
            let mut entry = distances.table[(self.held & MASK) as usize];
            if entry == NONE {
                entry = distance_entry(distances.symbol(self)?);
            } else {
                self.drop_bits(entry & 31)?;
            }
            self.drop_bits((entry >> EXTRA_SHIFT) & 15)?;
        }
    }
}

/// What a symbol of the literal and length code means; its own bits are not counted.
fn literal_entry(symbol: usize) -> u32 {
    match symbol {
        0..=255 => 1 << BYTES_SHIFT,
        256 => END_OF_BLOCK,
        _ => {
            let place = (symbol - 257).min(LENGTHS.len() - 1);
            let extra = u32::from(LENGTH_EXTRA[place]);
            u32::from(LENGTHS[place]) << BYTES_SHIFT | extra << EXTRA_SHIFT | MATCH
        }
    }
}

fn distance_entry(symbol: usize) -> u32 {
    let extra = (symbol as u32 / 2).saturating_sub(1).min(13);
    extra << EXTRA_SHIFT | MATCH
}

/// A Huffman code (RFC 1951, 3.2.2).
struct Code {
    table: Vec<u32>,
    /// Codes of each length.
    counts: [u16; LONGEST + 1],
    /// Symbols ordered by code.
    symbols: Vec<u16>,
}

impl Code {
    fn new() -> Self {
        Code { table: vec![NONE; 1 << BITS], counts: [0; LONGEST + 1], symbols: Vec::new() }
    }

    /// Takes the code with these lengths; `None` if there is no such code.
    fn set(&mut self, lengths: &[u8], meaning: impl Fn(usize) -> u32) -> Option<()> {
        self.counts = [0; LONGEST + 1];
        for length in lengths {
            *self.counts.get_mut(usize::from(*length))? += 1;
        }
        self.counts[0] = 0;
        let (mut places, mut codes) = ([0u16; LONGEST + 2], [0u32; LONGEST + 2]);
        for length in 1..=LONGEST {
            places[length + 1] = places[length] + self.counts[length];
            codes[length + 1] = (codes[length] + u32::from(self.counts[length])) << 1;
            if codes[length + 1] > 1 << (length + 1) {
                return None;
            }
        }
        self.symbols.clear();
        self.symbols.resize(usize::from(places[LONGEST + 1]), 0);
        self.table.fill(NONE);
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let bits = usize::from(*length);
            self.symbols[usize::from(places[bits])] = symbol as u16;
            places[bits] += 1;
            let code = codes[bits];
            codes[bits] += 1;
            if u32::from(*length) <= BITS {
                // Codes come with their highest bit first, everything else with the lowest.
                let first = (code.reverse_bits() >> (32 - u32::from(*length))) as usize;
                let entry = meaning(symbol) | u32::from(*length);
                self.table.iter_mut().skip(first).step_by(1 << bits).for_each(|slot| *slot = entry);
            }
        }
        Some(())
    }

    /// Lets an entry stand for a run of literals, and a match behind it, where all of their codes
    /// fit: nothing but the number of bytes matters here.
    fn join_literals(&mut self) {
        const LITERAL: u32 = 1 << BYTES_SHIFT;
        let single = |entry: u32| entry & !31 == LITERAL;
        for at in (0..self.table.len()).rev() {
            let first = self.table[at];
            if !single(first) {
                continue;
            }
            let used = first & 31;
            // The entry behind has a lower place and is still that of one symbol alone.
            let second = self.table[at >> used];
            let both = used + (second & 31);
            if second != NONE && both <= BITS {
                self.table[at] = ((second & !31) + LITERAL) | both;
            }
        }
    }

    /// Decodes one symbol bit by bit; the bits must have been filled.
    fn symbol(&self, bits: &mut Bits<'_>) -> Option<usize> {
        let (mut code, mut first, mut place) = (0, 0, 0);
        for length in 1..=LONGEST {
            code |= (bits.held & 1) as usize;
            bits.drop_bits(1)?;
            let count = usize::from(self.counts[length]);
            if code < first + count {
                return self.symbols.get(place + code - first).map(|symbol| usize::from(*symbol));
            }
            place += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}
