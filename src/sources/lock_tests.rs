//! The format of a lock: what is written reads as the same, and what is wrong is named with its place.

use std::collections::BTreeMap;
use std::error::Error;

use proptest::collection::btree_map;
use proptest::prelude::*;

use super::lock::*;
use crate::digest::Digest;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_raw)
}

fn any_image() -> impl Strategy<Value = LockedImage> {
    let platforms = btree_map("[a-z]{2,6}/[a-z0-9\"\\\\]{2,6}", any_digest(), 0..4);
    (any_digest(), platforms).prop_map(|(digest, platforms)| LockedImage { digest, platforms })
}

fn any_git() -> impl Strategy<Value = LockedGit> {
    let reference = proptest::option::of("refs/[a-z]{1,5}/\\PC{0,8}");
    ("[0-9a-f]{40}", reference).prop_map(|(commit, reference)| LockedGit { commit, reference })
}

prop_compose! {
    fn any_lock()(
        dockerfile in "[A-Za-z.\"\\\\é]{1,12}",
        images in btree_map("\\PC{1,30}", any_image(), 0..5),
        git in btree_map(("\\PC{1,30}", ".{0,10}"), any_git(), 0..5),
        files in btree_map(".{1,40}", any_digest(), 0..5),
        syntax in btree_map("\\PC{1,30}", any_digest(), 0..2),
    ) -> Lock {
        Lock { dockerfile, images, git, files, syntax }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same(lock in any_lock()) {
        let text = lock.render();
        let again = Lock::parse(&text);
        prop_assert_eq!(again.as_ref(), Ok(&lock), "{}", text);
        prop_assert_eq!(again.map(|lock| lock.render()), Ok(text));
    }

    #[test]
    fn changes_lead_from_one_lock_to_the_other(old in any_lock(), new in any_lock()) {
        prop_assert_eq!(old.changes(&old), Vec::new());
        let count = |lock: &Lock| lock.len();
        let changes = old.changes(&new);
        let gone = changes.iter().filter(|change| change.to.is_none()).count();
        let come = changes.iter().filter(|change| change.from.is_none()).count();
        prop_assert_eq!(count(&old) + come - gone, count(&new));
    }
}

const GOOD: &str = "version = 1\ndockerfile = \"Dockerfile\"\n";

#[test]
fn mistakes_are_named_with_their_place() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let image = |name: &str| format!("[[image]]\nname = \"{name}\"\ndigest = \"{digest}\"\n");
    for (text, message, at) in [
        (String::new(), "has no `version`", None),
        ("dockerfile = \"D\"\n".into(), "has no `version`", None),
        ("version = 2\nnew = 1\n".into(), "version is not supported", Some("2")),
        ("version = \"1\"\n".into(), "is not supported", Some("\"1\"")),
        ("version = 1\n".into(), "missing field `dockerfile`", Some("")),
        ("version = 1\ndockerfile = \"a/b\"\n".into(), "expected the file name", Some("\"a/b\"")),
        (format!("{GOOD}nothing = 1\n"), "unknown field `nothing`", Some("nothing")),
        (format!("{GOOD}[[image]]\nname = \"a\"\n"), "missing field `digest`", Some("")),
        (format!("{GOOD}[[image]]\nname = \"a\"\ndigest = \"b\"\n"), "expected sha256:", Some("\"b\"")),
        (format!("{GOOD}{}{}", image("a:1"), image("a:1")), "two entries for \"a:1\"", Some("\"a:1\"")),
        (format!("{GOOD}{}", image("")), "needs a name", Some("\"\"")),
        (
            format!("{GOOD}[[git]]\nurl = \"u\"\ncommit = \"abc\"\n"),
            "expected a full commit",
            Some("\"abc\""),
        ),
        (
            format!("{GOOD}[[git]]\nurl = \"u\"\nresolved = \"main\"\ncommit = \"{}\"\n", "0".repeat(40)),
            "full name of a ref",
            Some("\"main\""),
        ),
        (
            format!("{GOOD}[[http]]\nurl = \"u\"\nchecksum = \"md5:1\"\n"),
            "expected sha256:",
            Some("\"md5:1\""),
        ),
        (format!("{GOOD}x ="), "", Some("")),
    ] {
        let error = Lock::parse(&text).expect_err(&text);
        assert!(error.message.contains(message), "{text}: {error:?}");
        let found = error.span.map(|span| text.get(span).unwrap_or_default().to_owned());
        match at {
            None => assert_eq!(found, None, "{text}"),
            Some(at) => {
                assert!(found.as_deref().is_some_and(|found| found.contains(at)), "{text}: {found:?}")
            }
        }
    }
}

#[test]
fn files_that_are_no_locks_are_refused_before_they_are_read() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("Dockerfile.lock");
    assert_eq!(read(&path), Ok(None));
    std::fs::write(&path, "x")?;
    std::fs::File::options().write(true).open(&path)?.set_len(100 << 20)?;
    let error = read(&path).expect_err("100 MiB");
    assert!(error.message.contains("104857600 bytes") && error.message.contains("4194304"), "{error:?}");
    let error = read(dir.path()).expect_err("a directory");
    assert!(error.message.contains("no regular file"), "{error:?}");
    let error = text(b"version = 1\n# \xc3\xa9\xff".to_vec()).expect_err("not UTF-8");
    assert_eq!(error.message, "is not UTF-8: line 2, column 4");
    Ok(())
}

#[test]
fn entries_are_forgotten_by_any_form_of_their_name() -> Result {
    let digest = Digest::of(b"x");
    let image = LockedImage { digest, platforms: BTreeMap::new() };
    let name = "docker.io/library/alpine:3";
    let git = LockedGit { commit: "0".repeat(40), reference: None };
    let lock = Lock {
        dockerfile: "Dockerfile".into(),
        images: BTreeMap::from([(name.to_owned(), image)]),
        git: BTreeMap::from([(("https://h.test/r.git".to_owned(), "v1".to_owned()), git)]),
        files: BTreeMap::from([("http://h.test/f".to_owned(), digest)]),
        syntax: BTreeMap::new(),
    };
    for wanted in [
        name,
        "alpine:3",
        "alpine",
        "docker.io/library/alpine",
        "https://h.test/r.git",
        "https://h.test/r.git#v1",
        "http://h.test/f",
    ] {
        assert_eq!(lock.clone().forget(wanted), 1, "{wanted}");
    }
    for wanted in ["alpine:4", "alp", "http://h.test", "v1", ""] {
        assert_eq!(lock.clone().forget(wanted), 0, "{wanted}");
    }
    Ok(())
}
