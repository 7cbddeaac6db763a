use std::error::Error;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::registry::fault_server::{FaultServer, outward_address, reply};
use crate::store::Store;

use super::*;

type Outcome = Result<(), Box<dyn Error>>;

/// When every commit of these tests was made.
const TIME: i64 = 1_600_000_000;

fn git(dir: &Path, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let mut command = Command::new("git");
    command.args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"]);
    command.args(arguments).current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CEILING_DIRECTORIES", "/");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "a").env(format!("GIT_{role}_EMAIL"), "a@example.test");
        command.env(format!("GIT_{role}_DATE"), format!("{TIME} +0000"));
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A repository with a submodule, several refs and awkward files.
struct Setup {
    dir: tempfile::TempDir,
    store: Store,
    cancel: Cancel,
    first: String,
    main: String,
    other: String,
    tag: String,
}

impl Setup {
    fn new() -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let (sub, work) = (dir.path().join("sub"), dir.path().join("work"));
        for path in [&sub, &work] {
            fs::create_dir(path)?;
            git(path, &["init", "-q"])?;
        }
        fs::write(sub.join("inner.txt"), "inner")?;
        git(&sub, &["add", "."])?;
        git(&sub, &["commit", "-qm", "sub"])?;

        fs::write(work.join("a.txt"), "one")?;
        git(&work, &["add", "."])?;
        git(&work, &["commit", "-qm", "first"])?;
        let first = git(&work, &["rev-parse", "HEAD"])?;
        git(&work, &["tag", "light"])?;
        git(&work, &["tag", "-a", "-m", "annotated", "v1"])?;
        let tag = git(&work, &["rev-parse", "v1"])?;

        fs::write(work.join("a.txt"), "two")?;
        fs::create_dir_all(work.join("dir/deep"))?;
        fs::write(work.join("dir/deep/x"), "x")?;
        fs::write(work.join("run.sh"), "#!/bin/sh\n")?;
        fs::set_permissions(work.join("run.sh"), fs::Permissions::from_mode(0o755))?;
        symlink("dir", work.join("link"))?;
        symlink("..", work.join("out"))?;
        symlink("/etc", work.join("etc"))?;
        let modules = format!("file://{}", sub.display());
        git(&work, &["submodule", "--quiet", "add", &modules, "mod"])?;
        git(&work, &["add", "."])?;
        git(&work, &["commit", "-qm", "second"])?;
        let main = git(&work, &["rev-parse", "HEAD"])?;
        git(&work, &["checkout", "-q", "-b", "other", &first])?;
        fs::write(work.join("a.txt"), "three")?;
        git(&work, &["commit", "-qam", "third"])?;
        let other = git(&work, &["rev-parse", "HEAD"])?;
        git(&work, &["checkout", "-q", "-f", "main"])?;
        git(&work, &["update-ref", "refs/pull/1/head", &other])?;
        git(&work, &["branch", "both", &main])?;
        git(&work, &["tag", "both", &first])?;
        git(dir.path(), &["clone", "-q", "--mirror", "work", "bare.git"])?;
        let store = Store::open(&dir.path().join("store"))?;
        Ok(Setup { dir, store, cancel: Cancel::new()?, first, main, other, tag })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A source of the bare repository, by file.
    fn source(&self, rest: &str) -> Result<GitSource, RemoteError> {
        let url = GitUrl::parse(&format!("file://{}{rest}", self.path("bare.git").display()))?;
        Ok(GitSource { keep_git_dir: url.keep_git_dir.unwrap_or(false), url, auth: None })
    }

    fn resolve(&self, source: &GitSource) -> Result<Resolved, RemoteError> {
        client().resolve(&self.store, source, &self.cancel)
    }

    fn check_out(&self, source: &GitSource) -> Result<(Checkout, tempfile::TempDir), Box<dyn Error>> {
        let resolved = self.resolve(source)?;
        let dir = tempfile::tempdir_in(self.dir.path())?;
        let checkout = client().checkout(&self.store, source, &resolved, dir.path(), &self.cancel)?;
        Ok((checkout, dir))
    }

    fn fail(&self, rest: &str) -> Result<String, Box<dyn Error>> {
        let error = match self.source(rest) {
            Ok(source) => self.check_out(&source).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        error.ok_or_else(|| format!("{rest} did not fail").into())
    }
}

fn client() -> Git {
    Git::new(GitOptions { search_path: std::env::var_os("PATH"), ..GitOptions::default() })
}

fn mode(path: &Path) -> Result<u32, std::io::Error> {
    Ok(fs::symlink_metadata(path)?.mode() & 0o7777)
}

#[test]
fn names_resolve_to_commits() -> Outcome {
    let setup = Setup::new()?;
    let short = |sha: &str| format!("#{}", &sha[..10]);
    for (rest, commit, reference) in [
        ("", &setup.main, Some("refs/heads/main")),
        ("#main", &setup.main, Some("refs/heads/main")),
        ("#refs/heads/other", &setup.other, Some("refs/heads/other")),
        ("#heads/other", &setup.other, Some("refs/heads/other")),
        ("?branch=other", &setup.other, Some("refs/heads/other")),
        ("#light", &setup.first, Some("refs/tags/light")),
        ("#v1", &setup.first, Some("refs/tags/v1")),
        ("?tag=v1", &setup.first, Some("refs/tags/v1")),
        ("#both", &setup.main, Some("refs/heads/both")),
        ("?tag=both", &setup.first, Some("refs/tags/both")),
        ("#refs/pull/1/head", &setup.other, Some("refs/pull/1/head")),
        ("#HEAD", &setup.main, None),
        (&format!("#{}", setup.other), &setup.other, None),
        (&format!("?commit={}", setup.other), &setup.other, None),
        (&short(&setup.first), &setup.first, None),
    ] {
        let found = setup.resolve(&setup.source(rest)?).map_err(|error| format!("{rest}: {error}"))?;
        assert_eq!((&found.commit, found.reference.as_deref()), (commit, reference), "{rest}");
    }
    assert_eq!(setup.resolve(&setup.source("#v1")?)?.object, setup.tag);
    for rest in ["#nothing", "#refs/heads/v1", "?tag=main", "#0000000", "#ma?n"] {
        let text = setup.fail(rest)?;
        assert!(text.contains("does not contain ref") || text.contains("invalid ref"), "{text}");
    }
    Ok(())
}

#[test]
fn checksums_bind_refs() -> Outcome {
    let setup = Setup::new()?;
    for rest in [
        format!("?ref=main&commit={}", setup.main),
        format!("?ref=main&checksum={}", &setup.main[..8]),
        format!("?ref=v1&checksum={}", setup.first),
        format!("?ref=v1&checksum={}", setup.tag),
        format!("?checksum={}", &setup.main[..8]),
        format!("?ref=main&commit={}&fetch-by-commit=true", setup.first),
    ] {
        setup.check_out(&setup.source(&rest)?).map_err(|error| format!("{rest}: {error}"))?;
    }
    let text = setup.fail(&format!("?ref=main&checksum={}", setup.first))?;
    let expected = format!("expected checksum to match {}, got {}", setup.first, setup.main);
    assert!(text.ends_with(&expected), "{text}");
    let text = setup.fail(&format!("?ref={}&checksum=abcdef", setup.main))?;
    assert!(text.contains("expected checksum to match abcdef"), "{text}");
    let text = setup.fail("?ref=v1&checksum=0000000")?;
    assert!(text.contains(&format!("got {} or {}", setup.tag, setup.first)), "{text}");
    Ok(())
}

#[test]
fn a_tree_is_checked_out_with_submodules_and_plain_modes() -> Outcome {
    let setup = Setup::new()?;
    let (checkout, _dir) = setup.check_out(&setup.source("")?)?;
    let tree = &checkout.tree;
    assert_eq!((&checkout.commit, checkout.commit_time), (&setup.main, TIME));
    assert_eq!(fs::read_to_string(tree.join("a.txt"))?, "two");
    assert_eq!(fs::read_to_string(tree.join("mod/inner.txt"))?, "inner");
    assert_eq!(fs::read_link(tree.join("etc"))?, Path::new("/etc"));
    assert!(!tree.join(".git").exists() && fs::symlink_metadata(tree.join("mod/.git")).is_err());
    assert_eq!(mode(&tree.join("a.txt"))?, 0o644);
    assert_eq!(mode(&tree.join("run.sh"))?, 0o755);
    assert_eq!((mode(&tree.join("dir"))?, mode(tree)?), (0o755, 0o755));
    assert!(fs::metadata(tree.join("a.txt"))?.mtime() > TIME);
    assert_eq!(tree.parent().map(|dir| fs::read_dir(dir).map(Iterator::count)).transpose()?, Some(1));
    let (without, _dir) = setup.check_out(&setup.source("?submodules=false")?)?;
    assert!(without.tree.join("mod").is_dir() && !without.tree.join("mod/inner.txt").exists());
    let (older, _dir) = setup.check_out(&setup.source("#v1")?)?;
    assert_eq!(fs::read_to_string(older.tree.join("a.txt"))?, "one");
    Ok(())
}

#[test]
fn times_can_be_the_commits() -> Outcome {
    let setup = Setup::new()?;
    let (checkout, _dir) = setup.check_out(&setup.source("?mtime=commit")?)?;
    for name in ["", "a.txt", "dir", "dir/deep/x", "link", "mod/inner.txt", "mod"] {
        assert_eq!(fs::symlink_metadata(checkout.tree.join(name))?.mtime(), TIME, "{name}");
    }
    Ok(())
}

#[test]
fn a_subdirectory_is_the_tree_and_never_leads_out() -> Outcome {
    let setup = Setup::new()?;
    for (rest, name) in [("#main:dir", "deep/x"), ("#:/dir/deep/", "x"), ("#:mod", "inner.txt")] {
        let (checkout, dir) = setup.check_out(&setup.source(rest)?)?;
        assert!(checkout.tree.join(name).is_file(), "{rest}");
        assert!(!checkout.tree.join(".git").exists());
        assert_eq!(fs::read_dir(dir.path())?.count(), 1);
    }
    for (rest, reason) in [
        ("#:out", "leads through a link"),
        ("#:etc", "leads through a link"),
        ("#:out/work", "leads through a link"),
        ("#:link", "leads through a link"),
        ("#:link/deep", "leads through a link"),
        ("#:nothing", "does not exist"),
        ("#:a.txt", "is not a directory"),
        ("#:../x", "must not contain"),
        ("#:.git", "invalid subdir"),
    ] {
        let text = setup.fail(rest)?;
        assert!(text.contains(reason), "{rest}: {text}");
    }
    Ok(())
}

#[test]
fn a_kept_git_directory_works_and_knows_nothing_of_this_machine() -> Outcome {
    let setup = Setup::new()?;
    for (rest, name, refs) in [
        ("?keep-git-dir=true", "refs/heads/main", &setup.main),
        ("?keep-git-dir=true&ref=v1", "refs/tags/v1", &setup.tag),
        (&format!("?keep-git-dir=true&ref={}", setup.other), "HEAD", &setup.other),
    ] {
        let (checkout, dir) = setup.check_out(&setup.source(rest)?)?;
        let tree = &checkout.tree;
        assert_eq!(&git(tree, &["rev-parse", name])?, refs, "{rest}");
        assert_eq!(git(tree, &["rev-parse", "HEAD"])?, checkout.commit);
        assert_eq!(git(tree, &["status", "--porcelain"])?, "");
        let remote = git(tree, &["config", "remote.origin.url"])?;
        assert_eq!(remote, format!("file://{}", setup.path("bare.git").display()));
        assert_eq!(git(tree, &["fsck", "--no-progress"])?, "");
        for path in [
            ".git/FETCH_HEAD",
            ".git/logs",
            ".git/hooks",
            ".git/objects/info/alternates",
            ".git/modules/mod/hooks",
        ] {
            assert!(!tree.join(path).exists(), "{path}");
        }
        let config = fs::read_to_string(tree.join(".git/config"))?;
        assert!(!config.contains(&*dir.path().to_string_lossy()), "{config}");
    }
    let (with, _dir) = setup.check_out(&setup.source("?keep-git-dir=true")?)?;
    assert_eq!(git(&with.tree.join("mod"), &["status", "--porcelain"])?, "");
    let (sub, _dir) = setup.check_out(&setup.source("?keep-git-dir=true#:dir")?)?;
    assert!(!sub.tree.join(".git").exists());
    Ok(())
}

#[test]
fn what_is_here_is_not_fetched_again_and_what_moved_is() -> Outcome {
    let setup = Setup::new()?;
    let source = setup.source("#main")?;
    let resolved = setup.resolve(&source)?;
    let (_, _dir) = setup.check_out(&setup.source("?ref=main&submodules=false")?)?;
    fs::rename(setup.path("bare.git"), setup.path("gone.git"))?;
    let by_commit = setup.source(&format!("?submodules=false&commit={}", setup.main))?;
    let (again, _dir) = setup.check_out(&by_commit)?;
    assert_eq!(again.commit, resolved.commit);
    let text = setup.fail("#main")?;
    assert!(text.starts_with("cannot read file://") && text.contains("does not"), "{text}");
    fs::rename(setup.path("gone.git"), setup.path("bare.git"))?;
    // A branch that was rewritten, and one that took the place of a directory of refs.
    git(&setup.path("bare.git"), &["update-ref", "refs/heads/main", &setup.other])?;
    git(&setup.path("bare.git"), &["update-ref", "refs/heads/other/deep", &setup.first]).unwrap_err();
    git(&setup.path("bare.git"), &["update-ref", "-d", "refs/heads/other"])?;
    git(&setup.path("bare.git"), &["update-ref", "refs/heads/other/deep", &setup.first])?;
    let (moved, _dir) = setup.check_out(&source)?;
    assert_eq!(fs::read_to_string(moved.tree.join("a.txt"))?, "three");
    setup.check_out(&setup.source("#other/deep")?)?;
    Ok(())
}

#[test]
fn keys_name_what_the_files_depend_on() -> Outcome {
    let setup = Setup::new()?;
    let key = |rest: &str| -> Result<String, Box<dyn Error>> {
        let source = setup.source(rest)?;
        Ok(source.cache_key(&setup.resolve(&source)?))
    };
    assert_eq!(key("#light")?, key("#v1")?);
    assert_eq!(key("#light")?, format!("commit={}", setup.first));
    for rest in
        ["#light:dir", "?ref=light&submodules=0", "?ref=light&mtime=commit", "?ref=light&keep-git-dir"]
    {
        assert_ne!(key("#light")?, key(rest)?, "{rest}");
    }
    Ok(())
}

/// A repository that git reads over http as plain files: no single commits, nothing shallow.
fn serve(setup: &Setup) -> Result<FaultServer, Box<dyn Error>> {
    let root = setup.path("bare.git");
    git(&root, &["update-server-info"])?;
    let server = FaultServer::start(move |_, request, stream| {
        if let Some(rest) = request.path.strip_prefix("/moved.git") {
            let host = request.header("host").unwrap_or_default().replace("127.0.0.1", "localhost");
            return reply(stream, 301, &[("Location", &format!("http://{host}/bare.git{rest}"))], b"");
        }
        let path = request.path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/bare.git/").map(|path| fs::read(root.join(path))) {
            Some(Ok(bytes)) => reply(stream, 200, &[], &bytes),
            _ => reply(stream, 404, &[], b""),
        }
    })?;
    Ok(server)
}

fn http_source(address: &str, auth: Option<GitAuth>) -> Result<GitSource, RemoteError> {
    let url = GitUrl::parse(address)?;
    Ok(GitSource { keep_git_dir: url.keep_git_dir.unwrap_or(false), url, auth })
}

#[test]
fn servers_without_shallow_fetches_give_the_whole() -> Outcome {
    let setup = Setup::new()?;
    let server = serve(&setup)?;
    for rest in ["?submodules=false", "?ref=v1&keep-git-dir", "?ref=other", "#v1:"] {
        let source = http_source(&format!("http://{}/bare.git{rest}", server.host()), None)?;
        setup.check_out(&source).map_err(|error| format!("{rest}: {error}"))?;
    }
    let old = format!("http://{}/bare.git?commit={}", server.host(), setup.first);
    let (checkout, _dir) = setup.check_out(&http_source(&old, None)?)?;
    assert_eq!(fs::read_to_string(checkout.tree.join("a.txt"))?, "one");
    // What a repository from elsewhere names as a file of this machine is not read.
    let whole = http_source(&format!("http://{}/bare.git", server.host()), None)?;
    let text = setup.check_out(&whole).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("submodules") && text.contains("transport 'file' not allowed"), "{text}");
    Ok(())
}

#[test]
fn credentials_reach_the_repository_and_nothing_else() -> Outcome {
    let setup = Setup::new()?;
    let server = serve(&setup)?;
    let token = GitAuth::Token { user: None, token: "hunter2".into() };
    let named = GitAuth::Token { user: Some("me".into()), token: "hunter2".into() };
    for (at, auth, expected) in [
        ("", Some(token.clone()), "basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg=="),
        ("", Some(named), "basic bWU6aHVudGVyMg=="),
        ("", Some(GitAuth::Header("Bearer hunter2".into())), "Bearer hunter2"),
        ("me:hunter2@", None, "basic bWU6aHVudGVyMg=="),
        ("other:thing@", Some(token.clone()), "basic eC1hY2Nlc3MtdG9rZW46aHVudGVyMg=="),
    ] {
        let before = server.requests().len();
        let source =
            http_source(&format!("http://{at}{}/bare.git?keep-git-dir&submodules=0", server.host()), auth)?;
        let (checkout, _dir) = setup.check_out(&source)?;
        let seen = server.requests();
        assert!(seen.len() > before);
        assert!(seen.iter().skip(before).all(|request| request.header("authorization") == Some(expected)));
        let remote = git(&checkout.tree, &["config", "remote.origin.url"])?;
        assert_eq!(remote, format!("http://{}/bare.git", server.host()));
    }
    let found = Command::new("grep").args(["-rlE", "hunter2|aHVudGVyMg"]).arg(setup.store.root()).output()?;
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");

    let before = server.requests().len();
    let moved = http_source(&format!("http://me:hunter2@{}/moved.git", server.host()), Some(token))?;
    let text = setup.resolve(&moved).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("has moved") && !text.contains("hunter2"), "{text}");
    assert!(server.requests().iter().skip(before).all(|request| request.path.starts_with("/moved.git")));
    let open = http_source(&format!("http://{}/moved.git", server.host()), None)?;
    assert_eq!(setup.resolve(&open)?.commit, setup.main);
    Ok(())
}

#[test]
fn a_repository_elsewhere_cannot_lead_to_this_machine() -> Outcome {
    let Some(address) = outward_address() else { return Ok(()) };
    let setup = Setup::new()?;
    let here = serve(&setup)?;
    let to = here.host();
    let root = setup.path("bare.git");
    let server = FaultServer::start_at(address, move |_, request, stream| {
        let (own, path) = (request.header("host").unwrap_or_default(), request.path.as_str());
        if let Some(rest) = path.strip_prefix("/evil.git") {
            return reply(stream, 301, &[("Location", &format!("http://{to}/bare.git{rest}"))], b"");
        }
        if let Some(rest) = path.strip_prefix("/moved.git") {
            return reply(stream, 301, &[("Location", &format!("http://{own}/bare.git{rest}"))], b"");
        }
        let path = path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/bare.git/").map(|path| fs::read(root.join(path))) {
            Some(Ok(bytes)) => reply(stream, 200, &[], &bytes),
            _ => reply(stream, 404, &[], b""),
        }
    })?;
    let evil = http_source(&format!("http://{}/evil.git", server.host()), None)?;
    let text = setup.resolve(&evil).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("this machine"), "{text}");
    assert_eq!(here.requests().len(), 0);
    // One that only moved is found, and read from where it is.
    let moved = http_source(&format!("http://{}/moved.git?submodules=0", server.host()), None)?;
    let (checkout, _dir) = setup.check_out(&moved)?;
    assert_eq!(checkout.commit, setup.main);
    Ok(())
}

#[test]
fn a_submodule_of_a_repository_elsewhere_cannot_be_on_this_machine() -> Outcome {
    let Some(address) = outward_address() else { return Ok(()) };
    let setup = Setup::new()?;
    let here = serve(&setup)?;
    let (work, root) = (setup.path("work"), setup.path("bare.git"));
    let module = format!("http://{}/bare.git", here.host());
    git(&work, &["config", "--file", ".gitmodules", "submodule.mod.url", &module])?;
    git(&work, &["commit", "-qam", "leads here"])?;
    git(&work, &["push", "-q", root.to_str().ok_or("a path")?, "HEAD:refs/heads/leads"])?;
    git(&root, &["update-server-info"])?;
    let server = FaultServer::start_at(address, move |_, request, stream| {
        let path = request.path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/bare.git/").map(|path| fs::read(root.join(path))) {
            Some(Ok(bytes)) => reply(stream, 200, &[], &bytes),
            _ => reply(stream, 404, &[], b""),
        }
    })?;
    let source = http_source(&format!("http://{}/bare.git?ref=leads", server.host()), None)?;
    let text = setup.check_out(&source).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("this machine"), "{text}");
    assert_eq!(here.requests().len(), 0);
    Ok(())
}

#[test]
fn a_missing_repository_or_program_is_said_plainly() -> Outcome {
    let setup = Setup::new()?;
    let server =
        FaultServer::start(|_, _, stream| reply(stream, 401, &[("WWW-Authenticate", "Basic")], b""))?;
    let source = http_source(&format!("http://user:hunter2@{}/x.git", server.host()), None)?;
    let text = setup.resolve(&source).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.starts_with(&format!("cannot read http://{}/x.git: git: ", server.host())), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let nowhere = Git::new(GitOptions { search_path: Some("/nonexistent".into()), ..GitOptions::default() });
    let error = nowhere.resolve(&setup.store, &setup.source("")?, &setup.cancel);
    assert!(matches!(error, Err(RemoteError::NoGit)), "{error:?}");
    Ok(())
}

#[test]
fn a_cancelled_git_ends_at_once() -> Outcome {
    let setup = Setup::new()?;
    let server = FaultServer::start(|_, _, _| {
        std::thread::sleep(Duration::from_secs(600));
        Ok(())
    })?;
    let source = http_source(&format!("http://{}/x.git", server.host()), None)?;
    let cancel = setup.cancel.clone();
    let switch = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.cancel();
    });
    let begun = Instant::now();
    assert!(setup.resolve(&source).is_err_and(|error| error.is_cancelled()));
    assert!(begun.elapsed() < Duration::from_secs(300));
    switch.join().map_err(|_| "the switch panicked")?;
    Ok(())
}

#[test]
fn hooks_and_filters_of_a_repository_do_not_run() -> Outcome {
    let setup = Setup::new()?;
    let work = setup.path("work");
    fs::write(work.join(".gitattributes"), "* filter=evil\n*.txt diff=evil merge=evil\n")?;
    fs::write(work.join("big.bin"), "version https://git-lfs.github.com/spec/v1\n")?;
    git(&work, &["add", "."])?;
    git(&work, &["commit", "-qm", "filters"])?;
    git(&work, &["push", "-q", &setup.path("bare.git").to_string_lossy(), "main"])?;
    let (checkout, _dir) = setup.check_out(&setup.source("?submodules=0")?)?;
    assert!(fs::read_to_string(checkout.tree.join("big.bin"))?.starts_with("version"));
    Ok(())
}

#[test]
fn a_server_in_trouble_is_asked_again() -> Outcome {
    let setup = Setup::new()?;
    let root = setup.path("bare.git");
    git(&root, &["update-server-info"])?;
    let server = FaultServer::start(move |number, request, stream| {
        let path = request.path.split('?').next().unwrap_or_default();
        match path.strip_prefix("/bare.git/").map(|path| fs::read(root.join(path))) {
            _ if number == 0 => reply(stream, 503, &[], b""),
            Some(Ok(bytes)) => reply(stream, 200, &[], &bytes),
            _ => reply(stream, 404, &[], b""),
        }
    })?;
    let source = http_source(&format!("http://{}/bare.git", server.host()), None)?;
    assert_eq!(setup.resolve(&source)?.commit, setup.main);
    Ok(())
}

#[test]
fn ssh_asks_nothing_and_has_the_keys_of_the_agent_only() -> Outcome {
    let setup = Setup::new()?;
    let programs = setup.path("programs");
    fs::create_dir(&programs)?;
    let ssh = programs.join("ssh");
    // It can write to nothing but git's streams.
    let script = "#!/bin/sh\nfor a; do printf '<%s> ' \"$a\"; done >&2\n\
         echo \"sock=$SSH_AUTH_SOCK home=$HOME\" >&2\n\
         echo 'u@h: Permission denied (publickey).' >&2; exit 255\n";
    fs::write(&ssh, script)?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755))?;
    let mut search_path = programs.into_os_string();
    search_path.push(":");
    search_path.push(std::env::var_os("PATH").unwrap_or_default());
    let options = GitOptions { search_path: Some(search_path), ..GitOptions::default() };
    let Some(SourceKind::Git(url)) = add_source("u@h.example.test:a/b.git").ok() else {
        return Err("not git".into());
    };
    let source = GitSource { url, keep_git_dir: false, auth: None };
    let run = |options: &GitOptions| {
        let error = Git::new(options.clone()).resolve(&setup.store, &source, &setup.cancel).err();
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    let said = run(&options);
    for part in ["BatchMode=yes", "IdentityFile=none", "IdentityAgent=none", "StrictHostKeyChecking=no"] {
        assert!(said.contains(&format!("<{part}>")), "{part}: {said}");
    }
    assert!(said.contains("u@h.example.test") && said.contains("sock= "), "{said}");
    assert!(said.contains("no ssh agent was passed"), "{said}");
    let known_hosts = Some(PathBuf::from("/a b/it's 100%"));
    let said = run(&GitOptions { ssh_agent: Some("/run/agent".into()), known_hosts, ..options });
    assert!(said.contains("sock=/run/agent ") && !said.contains("IdentityAgent"), "{said}");
    assert!(said.contains("<UserKnownHostsFile=\"/a b/it's 100%%\">"), "{said}");
    assert!(said.contains("StrictHostKeyChecking=yes"), "{said}");
    assert!(said.contains("Permission denied") && !said.contains("no ssh agent"), "{said}");
    Ok(())
}

#[test]
fn submodules_of_submodules_are_checked_out_whether_git_is_kept_or_not() -> Outcome {
    let setup = Setup::new()?;
    let outer = setup.path("outer");
    fs::create_dir(&outer)?;
    git(&outer, &["init", "-q"])?;
    let address = format!("file://{}", setup.path("bare.git").display());
    git(&outer, &["submodule", "--quiet", "add", &address, "middle"])?;
    git(&outer, &["commit", "-qm", "outer"])?;
    for keep_git_dir in [false, true] {
        let url = GitUrl::parse(&format!("file://{}", outer.display()))?;
        let (checkout, _dir) = setup.check_out(&GitSource { url, keep_git_dir, auth: None })?;
        let inner = checkout.tree.join("middle/mod/inner.txt");
        assert_eq!(fs::read_to_string(inner)?, "inner", "{keep_git_dir}");
        assert_eq!(checkout.tree.join("middle/mod/.git").exists(), keep_git_dir);
    }
    Ok(())
}
