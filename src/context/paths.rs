//! Context paths: relative byte strings, `/`-separated, without a leading slash; `""` is the root.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use crate::fs::paths::split;

/// The context path that a user's source text means: `.` and empty components vanish, `..` is
/// clamped at the root, a leading slash means the root.
pub fn clean(text: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in components(text) {
        match part {
            b"." => {}
            b".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    kept.join(&b'/')
}

/// The names between the slashes; empty ones are left out.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty())
}

/// `dir/name`, or `name` in the root.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    if name.is_empty() {
        return dir.to_vec();
    }
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// `path` as seen from the directory `base`; `None` if it does not lie there.
pub fn relative<'a>(path: &'a [u8], base: &[u8]) -> Option<&'a [u8]> {
    if base.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(base)? {
        [] => Some(b""),
        [b'/', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Orders paths component by component, so that a directory comes right before what lies in it.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    // A slash sorts below every byte a name may hold; names never hold NUL.
    let rank = |&byte: &u8| if byte == b'/' { 0 } else { byte };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

/// The path for error texts.
pub fn show(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

/// The path as the operating system takes it, relative to a directory handle: `.` for the root.
pub(super) fn for_system(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_texts_become_context_paths() {
        for (text, path) in [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("./a//b/", "a/b"),
            ("/a/./b", "a/b"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("a/..", ""),
        ] {
            assert_eq!(clean(text.as_bytes()), path.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_directory_sorts_right_before_what_lies_in_it() {
        let mut paths: Vec<&[u8]> = vec![b"a.txt", b"a/b", b"a-b", b"a", b"a/b/c", b""];
        paths.sort_by(|a, b| compare(a, b));
        assert_eq!(paths, [&b""[..], b"a", b"a/b", b"a/b/c", b"a-b", b"a.txt"]);
    }

    #[test]
    fn relative_paths_respect_component_borders() {
        assert_eq!(relative(b"a/b/c", b"a/b"), Some(&b"c"[..]));
        assert_eq!(relative(b"a/bc", b"a/b"), None);
        assert_eq!(relative(b"a", b"a"), Some(&b""[..]));
        assert_eq!(relative(b"a", b""), Some(&b"a"[..]));
    }
}
