//! The parts of ELF files (System V ABI, chapter 4) in which programs say what they were made of.

use std::io;

use crate::snapshot::FileReader;

/// More sections than any linker makes are not looked through.
const MAX_SECTIONS: u64 = 4096;
const MAX_SEGMENTS: u64 = 1024;

/// An ELF file.
#[derive(Debug)]
pub(super) struct Elf {
    wide: bool,
    big: bool,
    sections: Vec<Section>,
    segments: Vec<Segment>,
}

/// A section.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) offset: u64,
    pub(super) size: u64,
    name_at: u64,
}

/// A segment that is loaded.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) size: u64,
    pub(super) writable: bool,
}

/// Whether a file begins as ELF files do.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF") && matches!(head.get(4), Some(1 | 2)) && matches!(head.get(5), Some(1 | 2))
}

impl Elf {
    /// Reads the headers. Offsets that lead out of the file give fewer sections, never an error.
    pub(super) fn read(file: &mut FileReader<'_>) -> io::Result<Option<Self>> {
        let head = file.read_at(0, 64)?;
        if !is_elf(&head) || head.len() < 52 {
            return Ok(None);
        }
        let mut elf =
            Elf { wide: head[4] == 2, big: head[5] == 2, sections: Vec::new(), segments: Vec::new() };
        let (ph_at, sh_at, counts) = if elf.wide {
            (elf.word(&head, 0x20), elf.word(&head, 0x28), 0x36)
        } else {
            (elf.word(&head, 0x1c), elf.word(&head, 0x20), 0x2a)
        };
        let half = |at| u64::from(elf.half(&head, at));
        let (ph_size, ph_count, sh_size, sh_count, names) =
            (half(counts), half(counts + 2), half(counts + 4), half(counts + 6), half(counts + 8));
        elf.read_segments(file, ph_at, ph_size, ph_count.min(MAX_SEGMENTS))?;
        elf.read_sections(file, sh_at, sh_size, sh_count.min(MAX_SECTIONS), names)?;
        Ok(Some(elf))
    }

    fn read_segments(&mut self, file: &mut FileReader<'_>, at: u64, size: u64, count: u64) -> io::Result<()> {
        let least = if self.wide { 56 } else { 32 };
        if size < least {
            return Ok(());
        }
        let table = file.read_at(at, (size * count) as usize)?;
        for entry in table.chunks_exact(size as usize) {
            // PT_LOAD
            if self.int(entry, 0) != 1 {
                continue;
            }
            let segment = if self.wide {
                let (offset, address, size) =
                    (self.word(entry, 8), self.word(entry, 16), self.word(entry, 32));
                Segment { offset, address, size, writable: self.int(entry, 4) & 2 != 0 }
            } else {
                let (offset, address, size) =
                    (self.word(entry, 4), self.word(entry, 8), self.word(entry, 16));
                Segment { offset, address, size, writable: self.int(entry, 24) & 2 != 0 }
            };
            self.segments.push(segment);
        }
        Ok(())
    }

    fn read_sections(
        &mut self,
        file: &mut FileReader<'_>,
        at: u64,
        size: u64,
        count: u64,
        names: u64,
    ) -> io::Result<()> {
        let least = if self.wide { 64 } else { 40 };
        if size < least {
            return Ok(());
        }
        let table = file.read_at(at, (size * count) as usize)?;
        for entry in table.chunks_exact(size as usize) {
            let (offset, bytes) = if self.wide {
                (self.word(entry, 0x18), self.word(entry, 0x20))
            } else {
                (self.word(entry, 0x10), self.word(entry, 0x14))
            };
            let name_at = u64::from(self.int(entry, 0));
            self.sections.push(Section { name: Vec::new(), offset, size: bytes, name_at });
        }
        let Some(names) = self.sections.get(names as usize).cloned() else { return Ok(()) };
        let names = file.read_at(names.offset, names.size.min(1 << 20) as usize)?;
        for section in &mut self.sections {
            let name = names.get(section.name_at as usize..).unwrap_or_default();
            section.name = name.iter().take_while(|byte| **byte != 0).copied().collect();
        }
        Ok(())
    }

    /// The section of a name.
    pub(super) fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The first segment that is loaded and writable.
    pub(super) fn data(&self) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.writable)
    }

    /// Where an address of the loaded program lies in the file, and how many bytes follow.
    pub(super) fn place(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().find_map(|segment| {
            let into = address.checked_sub(segment.address).filter(|into| *into < segment.size)?;
            Some((segment.offset.checked_add(into)?, segment.size - into))
        })
    }

    fn half(&self, bytes: &[u8], at: usize) -> u16 {
        let raw = bytes.get(at..at + 2).and_then(|raw| raw.try_into().ok()).unwrap_or_default();
        if self.big { u16::from_be_bytes(raw) } else { u16::from_le_bytes(raw) }
    }

    fn int(&self, bytes: &[u8], at: usize) -> u32 {
        let raw = bytes.get(at..at + 4).and_then(|raw| raw.try_into().ok()).unwrap_or_default();
        if self.big { u32::from_be_bytes(raw) } else { u32::from_le_bytes(raw) }
    }

    /// A number as wide as addresses are.
    fn word(&self, bytes: &[u8], at: usize) -> u64 {
        if !self.wide {
            return u64::from(self.int(bytes, at));
        }
        let raw = bytes.get(at..at + 8).and_then(|raw| raw.try_into().ok()).unwrap_or_default();
        if self.big { u64::from_be_bytes(raw) } else { u64::from_le_bytes(raw) }
    }
}
