//! What a lock allows, pins and refuses.

use std::collections::BTreeMap;
use std::error::Error;

use super::*;
use crate::digest::Digest;
use crate::event::Events;
use crate::image::Reference;
use crate::remote::ForbiddenBy;
use crate::remote::{GitUrl, HttpUrl};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn rules(lock_use: LockUse, lock: Option<Lock>) -> Rules {
    let rules = Rules::new(SourceOptions { lock: lock_use, ..SourceOptions::default() }, &Events::none());
    if let Some(lock) = lock {
        rules.honour(LoadedLock { name: "Dockerfile.lock".into(), lock });
    }
    rules
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn sample() -> Lock {
    let image = LockedImage { digest: Digest::of(b"index"), platforms: BTreeMap::new() };
    let git = LockedGit { commit: COMMIT.into(), reference: Some("refs/heads/main".into()) };
    Lock {
        dockerfile: "Dockerfile".into(),
        images: BTreeMap::from([("docker.io/library/alpine:3".into(), image)]),
        git: BTreeMap::from([(("https://h.test/r.git".into(), "main".into()), git)]),
        files: BTreeMap::from([("http://h.test/f".into(), Digest::of(b"f"))]),
        syntax: BTreeMap::new(),
    }
}

#[test]
fn what_is_locked_is_pinned() -> Result {
    let rules = rules(LockUse::Required, Some(sample()));
    let image = rules.image(&Reference::parse("alpine:3")?)?;
    assert_eq!(image.pin.map(|pin| pin.digest), Some(Digest::of(b"index")));
    let git = rules.git(GitUrl::parse("https://h.test/r.git#main:dir")?)?.url;
    assert_eq!((git.checksum.as_deref(), git.fetch_by_commit), (Some(COMMIT), true));
    assert_eq!((git.reference.as_deref(), git.subdir.as_deref()), (Some("refs/heads/main"), Some("dir")));
    let file = rules.file(&HttpUrl::parse("http://h.test/f")?, None)?;
    assert_eq!(file.checksum, Some(Digest::of(b"f").to_string()));
    rules.saw_file(&file, Digest::of(b"f"))?;
    assert_eq!(rules.saw_file(&file, Digest::of(b"g")).map_err(|error| error.by), Err(ForbiddenBy::Lock));
    Ok(())
}

#[test]
fn what_is_not_locked_is_refused_only_where_a_lock_is_required() -> Result {
    let (image, git) = (Reference::parse("alpine:4")?, GitUrl::parse("https://h.test/r.git")?);
    let file = HttpUrl::parse("http://h.test/g")?;
    for (lock_use, lock, allowed) in [
        (LockUse::Required, Some(sample()), false),
        (LockUse::Required, None, false),
        (LockUse::IfThere, Some(sample()), true),
        (LockUse::IfThere, None, true),
        (LockUse::Ignored, None, true),
    ] {
        let rules = rules(lock_use, lock);
        assert_eq!(rules.image(&image).is_ok(), allowed, "{lock_use:?}");
        assert_eq!(rules.git(git.clone()).is_ok(), allowed, "{lock_use:?}");
        assert_eq!(rules.file(&file, None).is_ok(), allowed, "{lock_use:?}");
    }
    let error = rules(LockUse::Required, Some(sample())).image(&image).expect_err("not locked");
    assert_eq!(error.message, "docker.io/library/alpine:4 is not in Dockerfile.lock");
    Ok(())
}

#[test]
fn what_says_otherwise_than_the_lock_is_refused() -> Result {
    let rules = rules(LockUse::IfThere, Some(sample()));
    let other = Digest::of(b"other");
    let mut lock = sample();
    let name = format!("docker.io/library/alpine:3@{other}");
    lock.images.insert(name.clone(), LockedImage { digest: Digest::of(b"x"), platforms: BTreeMap::new() });
    let image = self::rules(LockUse::IfThere, Some(lock)).image(&Reference::parse(&name)?);
    assert!(image.is_err_and(|error| error.message.contains("is asked for as")));
    let git = rules.git(GitUrl::parse("https://h.test/r.git?ref=main&checksum=ffff")?);
    assert!(git.is_err_and(|error| error.by == ForbiddenBy::Lock));
    rules.git(GitUrl::parse("https://h.test/r.git?ref=main&checksum=0123")?)?;
    let url = HttpUrl::parse("http://h.test/f")?;
    assert!(rules.file(&url, Some(&other.to_string())).is_err());
    // Another algorithm says nothing about the lock's; both count.
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert_eq!(rules.file(&url, Some(&sha512))?.checksum, Some(sha512));
    Ok(())
}

#[test]
fn a_context_that_no_lock_can_pin_is_pinned_by_its_commit() -> Result {
    let rules = rules(LockUse::Required, None);
    rules.git(GitUrl::parse(&format!("https://h.test/r.git#{COMMIT}"))?)?;
    rules.git(GitUrl::parse(&format!("https://h.test/r.git?checksum={COMMIT}"))?)?;
    assert!(rules.git(GitUrl::parse("https://h.test/r.git#main")?).is_err());
    assert!(rules.git(GitUrl::parse(&format!("https://h.test/r.git?ref=main&checksum={COMMIT}"))?).is_err());
    Ok(())
}
