//! Where a layer's tar stream is cut into the blocks that are compressed on their own.
//!
//! Cuts depend on the files nearby alone: a file that changed moves the cuts around it and no others,
//! so that most blocks of a layer are those of the layer it had before. They are made only where a
//! layer's index can tell, so that a layer read back from its blob is cut the same.

/// Bounds of a block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// About the average; files of this size or more have blocks of their own.
    pub target: usize,
}

impl Sizes {
    /// No block that a file's end makes is smaller.
    fn min(self) -> usize {
        self.target / 4
    }

    /// No block is larger.
    pub(super) fn max(self) -> usize {
        self.target * 2
    }

    /// Whether to begin a block where the content of a file of `size` bytes begins. `filled` bytes
    /// are in the block already.
    pub(super) fn before_content(self, filled: usize, size: u64) -> bool {
        filled > 0 && (self.is_large(size) || size > (self.max() - filled.min(self.max())) as u64)
    }

    /// Whether to begin a block behind a file and its padding: likelier for larger files, so that
    /// blocks have the same size on average whatever the size of files.
    pub(super) fn after_content(self, filled: usize, path: &[u8], size: u64) -> bool {
        if filled < self.min() || self.is_large(size) {
            return false;
        }
        let spread = u64::from(crc32fast::hash(path)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        spread * (self.target as u64) < size << 32
    }

    /// Where a block inside a file's content ends at the latest, in bytes from `at`, the place in
    /// the file: large files are cut by places of their own, whatever is in front of them.
    pub(super) fn room_in_content(self, filled: usize, at: u64, size: u64) -> usize {
        let target = self.target as u64;
        let room = if self.is_large(size) { (target - at % target) as usize } else { usize::MAX };
        room.min(self.max() - filled)
    }

    fn is_large(self, size: u64) -> bool {
        size >= self.target as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { target: 1 << 20 };

    #[test]
    fn blocks_of_small_files_have_about_the_target_size() {
        for size in [700u64, 8000, 150_000] {
            let (mut filled, mut blocks, files) = (0, 0, 100_000_000 / size);
            for file in 0..files {
                filled += size as usize;
                if SIZES.after_content(filled, format!("src/dir/file{file}.js").as_bytes(), size) {
                    (filled, blocks) = (0, blocks + 1);
                }
            }
            assert!((60..110).contains(&blocks), "{size}: {blocks}");
        }
    }

    #[test]
    fn a_large_file_is_cut_by_its_own_places() {
        let size = 5 << 20;
        assert!(SIZES.before_content(512, size));
        assert_eq!(SIZES.room_in_content(0, 0, size), 1 << 20);
        assert_eq!(SIZES.room_in_content(100, (1 << 20) + 100, size), (1 << 20) - 100);
        assert!(!SIZES.after_content(1 << 19, b"a", size));
    }

    #[test]
    fn nothing_makes_a_block_too_large() {
        assert!(SIZES.before_content(SIZES.max() - 10, 11));
        assert!(!SIZES.before_content(SIZES.max() - 10, 10));
        assert_eq!(SIZES.room_in_content(SIZES.max() - 10, 0, 1000), 10);
    }
}
