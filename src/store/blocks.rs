//! Which compressed blocks lie where in which blob: one table, only ever appended to or replaced.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use super::open::{Store, StoreError};
use super::private::{failed, open_file};

impl Store {
    /// The table of blocks, in the form `layer/` gave it; `None` where there is none.
    pub fn block_table(&self) -> Result<Option<Vec<u8>>, StoreError> {
        super::files::read(&self.block_table_path())
    }

    /// Adds to the table of blocks in one write. A process that is killed may leave a part: readers
    /// check what they find.
    pub fn append_block_table(&self, rows: &[u8]) -> Result<(), StoreError> {
        let path = self.block_table_path();
        let file = open_file(&path, OpenOptions::new().create(true).append(true));
        file.and_then(|mut file| file.write_all(rows)).map_err(failed("write", &path))
    }

    /// Replaces the table of blocks. What another process adds meanwhile may be lost.
    pub fn put_block_table(&self, content: &[u8]) -> Result<(), StoreError> {
        self.write_atomically(&self.block_table_path(), content)
    }

    fn block_table_path(&self) -> PathBuf {
        self.root().join("blocks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_grows_and_is_replaced_whole() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        assert_eq!(store.block_table()?, None);
        store.append_block_table(b"one")?;
        store.append_block_table(b"two")?;
        assert_eq!(store.block_table()?.as_deref(), Some(&b"onetwo"[..]));
        store.put_block_table(b"new")?;
        assert_eq!(store.block_table()?.as_deref(), Some(&b"new"[..]));
        Ok(())
    }
}
