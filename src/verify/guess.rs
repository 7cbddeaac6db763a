//! What usually makes two builds of one Dockerfile differ, and what to do about it.

use serde::Serialize;

use super::content::Pair;

/// A probable cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guess {
    /// What differs.
    pub kind: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// Files that record when or where something ran, by path.
const PLACES: [(&str, &str, &str); 16] = [
    (
        "var/log/",
        "a log",
        "remove it in the same RUN, or keep it out with --mount=type=tmpfs,target=/var/log",
    ),
    (
        "var/lib/apt/lists/",
        "package lists of apt",
        "remove /var/lib/apt/lists/* in the same RUN, and pin a snapshot",
    ),
    ("var/cache/apt/", "a cache of apt", "use --mount=type=cache,target=/var/cache/apt, or apt-get clean"),
    ("var/cache/debconf/", "a cache of debconf", "remove /var/cache/debconf/*-old in the same RUN"),
    ("var/cache/ldconfig/", "the cache of ldconfig", "remove /var/cache/ldconfig/aux-cache in the same RUN"),
    ("var/cache/fontconfig/", "a cache of fontconfig", "remove /var/cache/fontconfig in the same RUN"),
    ("var/lib/dpkg/", "the records of dpkg", "pin the versions of the packages, from a snapshot"),
    ("var/lib/rpm/", "the records of rpm", "pin the versions of the packages, and SOURCE_DATE_EPOCH for rpm"),
    (
        "usr/lib/sysimage/rpm/",
        "the records of rpm",
        "pin the versions of the packages, and SOURCE_DATE_EPOCH for rpm",
    ),
    ("lib/apk/db/", "the records of apk", "pin the versions of the packages"),
    (
        "etc/shadow",
        "the day of a password's last change",
        "set it with chage -d 0, or pass SOURCE_DATE_EPOCH to useradd",
    ),
    ("etc/machine-id", "the machine's ID", "empty /etc/machine-id in the same RUN"),
    ("etc/ssh/ssh_host_", "a host key", "make host keys when the container starts, never in the image"),
    (
        "etc/ssl/private/",
        "a key made during the build",
        "make keys when the container starts, never in the image",
    ),
    ("root/.cache/", "a cache", "use --mount=type=cache for it, or remove it in the same RUN"),
    ("tmp/", "a temporary file", "remove it in the same RUN, or use --mount=type=tmpfs,target=/tmp"),
];

/// The most probable cause of a difference.
pub(super) fn guess(path: &[u8], pair: &Pair) -> Option<Guess> {
    let path = String::from_utf8_lossy(path);
    by_format(&path, pair).or_else(|| by_place(&path)).or_else(|| by_text(pair))
}

fn some(kind: &'static str, hint: &'static str) -> Option<Guess> {
    Some(Guess { kind, hint })
}

fn by_place(path: &str) -> Option<Guess> {
    let row = PLACES.iter().find(|(place, ..)| path.starts_with(place))?;
    some(row.1, row.2)
}

fn by_format(path: &str, pair: &Pair) -> Option<Guess> {
    let both = |magic: &[u8]| pair.old.starts_with(magic) && pair.new.starts_with(magic);
    if both(b"\x1f\x8b") {
        return match pair.offset {
            4..=7 => some("the time in a gzip header", "compress with gzip -n"),
            _ => some("the content of a gzip file", "make what it holds reproducible first, and use gzip -n"),
        };
    }
    if path.ends_with(".pyc") {
        return match pair.offset {
            // PEP 552: magic, flags, then the source's time or hash.
            4..=11 => some(
                "the time of the source in Python byte code",
                "set PYTHONDONTWRITEBYTECODE=1, or compile with --invalidation-mode unchecked-hash",
            ),
            _ => some(
                "Python byte code",
                "set PYTHONDONTWRITEBYTECODE=1, or PYTHONHASHSEED=0 while it is compiled",
            ),
        };
    }
    if both(b"!<arch>\n") {
        return some(
            "times or owners in an ar archive",
            "use ar D (deterministic mode): ARFLAGS=rcD, ranlib -D",
        );
    }
    if both(b"PK\x03\x04") {
        return some(
            "times of entries in a zip, jar or wheel",
            "set SOURCE_DATE_EPOCH for the tool, use zip -X with fixed times, or strip-nondeterminism",
        );
    }
    if both(b"\x7fELF") {
        return elf(pair);
    }
    if both(b"SQLite format 3\0") {
        return some("an SQLite database", "make it in one go and VACUUM it, or when the container starts");
    }
    let tar = |bytes: &[u8]| bytes.get(257..262) == Some(b"ustar");
    if tar(&pair.old) && tar(&pair.new) {
        return some(
            "times or owners in a tar",
            "use tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner",
        );
    }
    None
}

/// A build ID lies in a note: 4 bytes each of name size (4), size and type (3), then `GNU\0`.
fn elf(pair: &Pair) -> Option<Guess> {
    let at = usize::try_from(pair.offset).unwrap_or(usize::MAX);
    let window = pair.old.get(at.saturating_sub(64)..at).unwrap_or_default();
    if window.windows(8).any(|bytes| bytes == b"\x03\0\0\0GNU\0") {
        return some(
            "the build ID of an ELF program",
            "the program differs elsewhere too, or paths do: link with -Wl,--build-id=none or build in a fixed directory with -ffile-prefix-map",
        );
    }
    some(
        "a compiled program",
        "avoid __DATE__ and __TIME__ (gcc -Wdate-time), build in a fixed directory, and link in a fixed order",
    )
}

fn by_text(pair: &Pair) -> Option<Guess> {
    let (old, new) = (std::str::from_utf8(&pair.old).ok()?, std::str::from_utf8(&pair.new).ok()?);
    if pair.whole && same_lines(old, new) {
        return some("the order of lines", "sort them (LC_ALL=C sort), or list directories in a fixed order");
    }
    let at = usize::try_from(pair.offset).ok()?;
    let (old, new) = (line_at(old, at)?, line_at(new, at)?);
    if has_time(old) && has_time(new) {
        return some(
            "a date or time",
            "print SOURCE_DATE_EPOCH instead of the clock: date -d @$SOURCE_DATE_EPOCH",
        );
    }
    if same_but_random(old, new) {
        return some("a random name or number", "use a fixed name instead of mktemp, uuidgen or $RANDOM");
    }
    None
}

fn same_lines(old: &str, new: &str) -> bool {
    let sorted = |text: &str| {
        let mut lines: Vec<u64> = text.lines().map(hash).collect();
        lines.sort_unstable();
        lines
    };
    old != new && old.len() == new.len() && sorted(old) == sorted(new)
}

fn hash(line: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

fn line_at(text: &str, at: usize) -> Option<&str> {
    let bytes = text.as_bytes();
    let at = at.min(bytes.len());
    let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| at + end);
    text.get(start..end)
}

/// `12:34:56`, `2024-01-02`, `1700000000`, or a month's name beside a number.
fn has_time(line: &str) -> bool {
    let shape: String = line.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let seconds = shape.split(|c| c != '9').any(|run| (10..=19).contains(&run.len()));
    let months =
        ["Jan ", "Feb ", "Mar ", "Apr ", "May ", "Jun ", "Jul ", "Aug ", "Sep ", "Oct ", "Nov ", "Dec "];
    let date = ["99:99", "9999-99-99", "9999/99/99", "99/99/9999", "99.99.9999"];
    let month = months.iter().any(|month| shape.contains(month)) && shape.contains('9');
    seconds || month || date.iter().any(|form| shape.contains(form))
}

/// Whether two lines differ in one word of letters and digits of the same length only.
fn same_but_random(old: &str, new: &str) -> bool {
    let words = |line: &str| -> Vec<String> {
        line.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
    };
    let (old, new) = (words(old), words(new));
    let mut differing = old.iter().zip(&new).filter(|(a, b)| a != b);
    let Some((a, b)) = differing.next() else { return false };
    let random = |word: &str| {
        let kinds = [
            word.bytes().any(|byte| byte.is_ascii_digit()),
            word.bytes().any(|byte| byte.is_ascii_lowercase()),
            word.bytes().any(|byte| byte.is_ascii_uppercase()),
        ];
        word.len() >= 6 && (kinds.iter().filter(|kind| **kind).count() > 1 || word.len() >= 8 && kinds[0])
    };
    old.len() == new.len() && a.len() == b.len() && (random(a) || random(b))
}

#[cfg(test)]
mod tests {
    use crate::verify::content::compare;

    fn kind(path: &str, old: &[u8], new: &[u8]) -> &'static str {
        let found = compare(path.as_bytes(), old, new).expect("reads").expect("differs");
        found.guess.map_or("", |guess| guess.kind)
    }

    #[test]
    fn usual_causes_are_recognised() {
        let elf = |id: &[u8]| [b"\x7fELF\x02\x01\x01\0", &[0; 40][..], b"\x03\0\0\0GNU\0", id].concat();
        let tar = |time: &[u8]| [&[b'n'; 136][..], time, &[0; 120][..], b"ustar\0"].concat();
        for (path, old, new, expected) in [
            (
                "a.gz",
                b"\x1f\x8b\x08\0\x01\x02\x03\x04x".to_vec(),
                b"\x1f\x8b\x08\0\x05\x02\x03\x04x".to_vec(),
                "gzip header",
            ),
            (
                "a.gz",
                b"\x1f\x8b\x08\0\0\0\0\0\0\x03x".to_vec(),
                b"\x1f\x8b\x08\0\0\0\0\0\0\x03y".to_vec(),
                "content of a gzip",
            ),
            (
                "x.pyc",
                b"mag\n\0\0\0\0\x01time".to_vec(),
                b"mag\n\0\0\0\0\x02time".to_vec(),
                "time of the source",
            ),
            (
                "x.pyc",
                b"mag\n\0\0\0\0timesizea".to_vec(),
                b"mag\n\0\0\0\0timesizeb".to_vec(),
                "Python byte code",
            ),
            ("l.a", b"!<arch>\nx/ 1700000000".to_vec(), b"!<arch>\nx/ 1700000001".to_vec(), "ar archive"),
            ("l.jar", b"PK\x03\x04a".to_vec(), b"PK\x03\x04b".to_vec(), "zip, jar"),
            ("bin/p", elf(b"aaaa"), elf(b"bbbb"), "build ID"),
            ("bin/p", b"\x7fELFa".to_vec(), b"\x7fELFb".to_vec(), "compiled program"),
            ("a.tar", tar(b"1"), tar(b"2"), "in a tar"),
            ("x.db", b"SQLite format 3\0a".to_vec(), b"SQLite format 3\0b".to_vec(), "SQLite"),
            ("var/log/dpkg.log", b"a".to_vec(), b"b".to_vec(), "a log"),
            ("var/lib/apt/lists/x", b"a".to_vec(), b"b".to_vec(), "lists of apt"),
            ("etc/shadow", b"u:!:19000:".to_vec(), b"u:!:19001:".to_vec(), "last change"),
            ("f", b"built 2024-01-02".to_vec(), b"built 2024-01-03".to_vec(), "date or time"),
            ("f", b"x\nat 10:00:01\n".to_vec(), b"x\nat 10:00:02\n".to_vec(), "date or time"),
            ("f", b"Mon Jan  1\n".to_vec(), b"Tue Jan  2\n".to_vec(), "date or time"),
            ("f", b"1700000000".to_vec(), b"1700000001".to_vec(), "date or time"),
            ("f", b"in /work/tmp.aB3dE6".to_vec(), b"in /work/tmp.xY3zE6".to_vec(), "random name"),
            ("f", b"b\na\nc\n".to_vec(), b"a\nb\nc\n".to_vec(), "order of lines"),
        ] {
            let found = kind(path, &old, &new);
            assert!(found.contains(expected), "{path}: {expected:?}: {found:?}");
        }
        assert_eq!(kind("f", b"one", b"two"), "");
    }
}
