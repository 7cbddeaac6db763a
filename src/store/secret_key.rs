//! The key under which digests of secrets count for cache keys.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use super::open::{Store, StoreError};

impl Store {
    /// 32 random bytes that only this store has, made when they are first asked for: who finds a
    /// record cannot try out which secret it was made with.
    pub fn secret_key(&self) -> Result<[u8; 32], StoreError> {
        let path = self.root().join("secret-key");
        if let Some(key) = super::files::read(&path)?.and_then(|bytes| bytes.try_into().ok()) {
            return Ok(key);
        }
        let mut key = [0; 32];
        let source = std::path::Path::new("/dev/urandom");
        File::open(source)
            .and_then(|mut random| random.read_exact(&mut key))
            .map_err(StoreError::io("read", source))?;
        if self.only_looks() {
            return Ok(key);
        }
        let temporary = self.temp_path();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&key))
            .map_err(StoreError::io("write", &temporary))?;
        // The first of several processes wins; one that is not whole is replaced.
        match std::fs::hard_link(&temporary, &path) {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                match super::files::read(&path)?.and_then(|bytes| bytes.try_into().ok()) {
                    Some(other) => Ok(other),
                    None => self.rename_into_place(&temporary, &path).map(|()| key),
                }
            }
            Err(error) => Err(StoreError::io("write", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_stays_and_is_for_its_owner() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let key = store.secret_key()?;
        assert_ne!(key, [0; 32]);
        assert_eq!(store.secret_key()?, key);
        let path = dir.path().join("secret-key");
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "half")?;
        let new = store.secret_key()?;
        assert_ne!(new, key);
        assert_eq!(store.secret_key()?, new);
        Ok(())
    }
}
