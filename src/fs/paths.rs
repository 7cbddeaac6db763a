//! Paths as bytes: relative to some root, names between slashes.

/// The directory a path lies in (the root, `""`, for a single name) and its last name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|c| *c == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// `dir/name`, or `name` in the root. No name gives `dir/`, with which all that lies in it begins.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_splits_again() {
        for (dir, name, path) in [("", "a", "a"), ("a", "b", "a/b"), ("a/b", "c", "a/b/c"), ("a", "", "a/")] {
            assert_eq!(join(dir.as_bytes(), name.as_bytes()), path.as_bytes());
            assert_eq!(split(path.as_bytes()), (dir.as_bytes(), name.as_bytes()));
        }
    }
}
