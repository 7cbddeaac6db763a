//! Locks: what a build reads tomorrow is what it read today.

#[path = "support/registry.rs"]
mod registry;
#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use registry::TestRegistry;
use server::FileServer;
use support::{Done, Lab, has, skip};

/// A registry, a web server with a file and a repository, and a Dockerfile that uses all of them.
struct Sources {
    lab: Lab,
    registry: TestRegistry,
    web: FileServer,
    root: PathBuf,
    context: PathBuf,
}

fn git(root: &Path, args: &[&str]) -> String {
    let date = "2015-01-01T00:00:00Z";
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "init.defaultBranch=main"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(root)
        .envs([("GIT_COMMITTER_DATE", date), ("GIT_AUTHOR_DATE", date)])
        .output()
        .expect("git");
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn ok(done: &Done) {
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
}

impl Sources {
    fn new(test: &str) -> Option<Self> {
        if !has("git") {
            skip(test, "git is not installed");
            return None;
        }
        let Some(registry) = TestRegistry::start().expect("a registry") else {
            skip(test, "docker-registry is not installed");
            return None;
        };
        let lab = Lab::new();
        let root = lab.context(&[("f", "one"), ("work/in-git", "one")]);
        git(&root, &["init", "-q", "work"]);
        let (web, host) = (FileServer::start(&root), registry.host().to_owned());
        let text = format!(
            "ARG BASE=base\n\
             FROM {host}/team/$BASE:1 AS first\n\
             COPY --from={host}/team/tool:1 /f /tool\n\
             FROM first AS second\n\
             ADD {f} /f\n\
             ADD {repo}#main /git/\n\
             FROM {host}/team/mounted:1 AS unused\n\
             RUN --mount=type=bind,from={host}/team/from:1,target=/x true\n\
             FROM second\n\
             COPY --from=named /f /named\n",
            f = web.url("f"),
            repo = web.url("repo.git"),
        );
        let context = lab.context(&[("Dockerfile", &text)]);
        let sources = Sources { lab, registry, web, root, context };
        sources.commit("one");
        for name in ["base", "tool", "mounted", "from", "named"] {
            sources.push(name, "one", &[]);
        }
        Some(sources)
    }

    /// Gives a tag of the registry another image.
    fn push(&self, name: &str, content: &str, more: &[&str]) {
        let context = self.lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", content)]);
        let image = format!("{}/team/{name}:1", self.registry.host());
        let mut command = self.rbuild();
        command.args(["--root", "pushing", "build", "--push", "-t", &image]).args(more).arg(context);
        ok(&support::done(command.output().expect("rbuild")));
    }

    /// Moves the branch on.
    fn commit(&self, content: &str) {
        fs::write(self.root.join("work/in-git"), content).expect("write");
        git(&self.root, &["-C", "work", "add", "-A"]);
        git(&self.root, &["-C", "work", "commit", "-qm", content]);
        let _ = fs::remove_dir_all(self.root.join("repo.git"));
        git(&self.root, &["clone", "-q", "--bare", "work", "repo.git"]);
        git(&self.root, &["-C", "repo.git", "update-server-info"]);
    }

    fn move_all(&self) {
        for name in ["base", "tool", "mounted", "from", "named"] {
            self.push(name, "two", &[]);
        }
        self.commit("two");
    }

    fn rbuild(&self) -> Command {
        let mut command = self.lab.rbuild();
        command.env("SOURCE_DATE_EPOCH", "1");
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        let named = format!("--build-context=named=docker-image://{}/team/named:1", self.registry.host());
        let mut command = self.rbuild();
        command.args(args).arg(named).arg(".").current_dir(&self.context);
        support::done(command.output().expect("rbuild"))
    }

    /// The image ID of a build in a store of its own or a known one.
    fn build(&self, store: &str, more: &[&str]) -> String {
        let store = &self.lab.path().join(store).display().to_string();
        let done = self.run(&[&["--root", store, "build", "-q"], more].concat());
        ok(&done);
        done.out.trim().to_owned()
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.context.join("Dockerfile.lock")).expect("the lock")
    }
}

#[test]
fn a_locked_build_gives_the_same_image_when_everything_has_moved() {
    let Some(sources) = Sources::new("a_locked_build_gives_the_same_image_when_everything_has_moved") else {
        return;
    };
    let done = sources.run(&["lock"]);
    ok(&done);
    assert!(done.out.contains("wrote ") && done.out.contains("(7 sources)"), "{}", done.out);
    let text = sources.lock();
    let host = sources.registry.host();
    let names: Vec<&str> = text.lines().filter(|line| line.starts_with("name = ")).collect();
    let wanted: Vec<String> = ["base", "from", "mounted", "named", "tool"]
        .iter()
        .map(|name| format!("name = \"{host}/team/{name}:1\""))
        .collect();
    assert_eq!(names, wanted);
    let commit = git(&sources.root, &["-C", "work", "rev-parse", "HEAD"]);
    assert!(text.contains(&format!("ref = \"main\"\nresolved = \"refs/heads/main\"\ncommit = \"{commit}\"")));
    assert!(text.contains(&format!("url = \"{}\"\nchecksum = \"sha256:", sources.web.url("f"))));
    let first = sources.build("one", &["--locked"]);
    ok(&sources.run(&["lock", "--check"]));
    assert_eq!(sources.lock(), text, "--check writes nothing");

    sources.move_all();
    let again = sources.run(&["lock"]);
    assert!(again.code == 0 && again.out.contains("up to date"), "{}{}", again.out, again.err);
    // In a store that knows nothing, the image of the lock is fetched; with --no-lock the new one.
    assert_eq!(sources.build("two", &["--locked"]), first);
    assert_eq!(sources.build("two", &[]), first);
    assert_eq!(sources.build("two", &["--pull"]), first);
    assert_ne!(sources.build("two", &["--no-lock"]), first);
    // The new meaning of the tags is in the store now; the lock counts all the same, and asks nobody.
    sources.web.log();
    assert_eq!(sources.build("two", &["--frozen"]), first);
    assert_eq!(sources.web.log(), Vec::<String>::new());

    // What a URL was before cannot be fetched any more: that is an error, and not the new content.
    fs::write(sources.root.join("f"), "two").expect("write");
    let store = sources.lab.path().join("fresh").display().to_string();
    let changed = sources.run(&["--root", &store, "build"]);
    assert!(changed.code == 11 && changed.err.contains("/f has changed"), "{}", changed.err);
    assert_eq!(sources.build("two", &[]), first);

    let check = sources.run(&["lock", "--check", "--update", "--format=json"]);
    assert_eq!(check.code, 11, "{}", check.err);
    let report: serde_json::Value = serde_json::from_str(&check.out).expect("JSON");
    assert_eq!(report["upToDate"], false);
    let changes = report["changes"].as_array().expect("changes");
    assert_eq!(changes.len(), 7, "{}", check.out);
    assert!(changes.iter().all(|change| change["change"] == "moved"), "{}", check.out);
    assert_eq!(sources.lock(), text);

    ok(&sources.run(&["lock", &format!("--update={host}/team/tool:1")]));
    let one = sources.lock();
    let differing = |other: &str| one.lines().zip(other.lines()).filter(|(a, b)| a != b).count();
    assert_eq!(differing(&text), 1, "{one}");
    assert_ne!(sources.build("two", &[]), first);
    ok(&sources.run(&["lock", "--update"]));
    assert!(differing(&sources.lock()) >= 5);
    assert_eq!(sources.build("two", &["--locked"]), sources.build("three", &["--no-lock"]));
    let missing = sources.run(&["lock", "--update=nothing:1"]);
    assert!(missing.code == 2 && missing.err.contains("no entry for nothing:1"), "{}", missing.err);
}

#[test]
fn what_is_not_in_the_lock_is_named_with_its_line() {
    let Some(sources) = Sources::new("what_is_not_in_the_lock_is_named_with_its_line") else { return };
    let host = sources.registry.host();
    let missing = sources.run(&["build", "--locked"]);
    assert!(missing.code == 11 && missing.err.contains("there is no Dockerfile.lock"), "{}", missing.err);
    ok(&sources.run(&["lock"]));
    sources.push("other", "other", &[]);
    let before = fs::read_to_string(sources.context.join("Dockerfile")).expect("read");
    let f = sources.web.url("f");
    for (line, message) in [
        (
            format!("COPY --from={host}/team/other:1 /f /o\n"),
            format!("{host}/team/other:1 is not in Dockerfile.lock"),
        ),
        (format!("ADD {f}?v=2 /o\n"), format!("{f}?v=2 is not in Dockerfile.lock")),
        (
            format!("ADD {} /o/\n", sources.web.url("repo.git")),
            format!("{} is not in Dockerfile.lock", sources.web.url("repo.git")),
        ),
        (
            format!("ADD --checksum=sha256:{} {f} /o\n", "0".repeat(64)),
            format!("{f} is asked for as sha256:000"),
        ),
    ] {
        fs::write(sources.context.join("Dockerfile"), before.clone() + &line).expect("write");
        sources.web.log();
        let done = sources.run(&["build", "--locked", "--progress=plain"]);
        assert!(done.code == 11 && done.err.contains(&message), "{line}: {}", done.err);
        assert!(done.err.contains("Dockerfile:11:"), "{line}: {}", done.err);
        assert_eq!(sources.web.log(), Vec::<String>::new(), "nothing is fetched before it is known");
        if !line.contains("--checksum") {
            let done = sources.run(&["build", "--progress=plain"]);
            assert!(done.code == 0 && done.err.contains(&message), "{line}: {}", done.err);
            let check = sources.run(&["lock", "--check"]);
            assert!(check.code == 11 && check.out.starts_with("+ "), "{line}: {}{}", check.out, check.err);
        }
    }
    // A lock made for other arguments lacks what these choose.
    fs::write(sources.context.join("Dockerfile"), before).expect("write");
    let done = sources.run(&["build", "--locked", "--build-arg=BASE=other"]);
    assert!(done.code == 11 && done.err.contains("Dockerfile:2:"), "{}", done.err);
    ok(&sources.run(&["lock", "--build-arg=BASE=other"]));
    ok(&sources.run(&["build", "--locked", "--build-arg=BASE=other"]));
}

#[test]
fn an_index_is_locked_with_all_its_platforms() {
    let Some(sources) = Sources::new("an_index_is_locked_with_all_its_platforms") else { return };
    let platforms = "--platform=linux/amd64,linux/arm64";
    sources.push("many", "one", &[platforms]);
    let host = sources.registry.host().to_owned();
    let text = format!("FROM {host}/team/many:1\nCOPY Dockerfile /\n");
    fs::write(sources.context.join("Dockerfile"), text).expect("write");
    ok(&sources.run(&["lock"]));
    let text = sources.lock();
    let table = text.split("[image.platforms]").nth(1).expect("platforms");
    assert!(table.contains("\"linux/amd64\" = ") && table.contains("\"linux/arm64\" = "), "{text}");
    let first = sources.build("one", &["--locked", platforms]);
    sources.push("many", "two", &[platforms]);
    assert_eq!(sources.build("two", &["--locked", platforms]), first);
    assert_eq!(sources.build("two", &["--frozen", platforms]), first);
    // A hand that edits digests is caught.
    let line = text.lines().find(|line| line.starts_with("\"linux/arm64\"")).expect("arm64");
    let other = text.lines().find(|line| line.starts_with("\"linux/amd64\"")).expect("amd64");
    let swapped = text.replace(line, &other.replace("amd64", "arm64"));
    fs::write(sources.context.join("Dockerfile.lock"), swapped).expect("write");
    let store = sources.lab.path().join("three").display().to_string();
    let done = sources.run(&["--root", &store, "build", "--locked", platforms]);
    assert!(done.code == 11 && done.err.contains("the lock has"), "{}", done.err);
}

#[test]
fn broken_locks_and_locks_of_other_files_end_a_build() {
    let lab = Lab::new();
    let good = "version = 1\ndockerfile = \"Dockerfile\"\n";
    let entry = format!("[[http]]\nurl = \"http://h.test/f\"\nchecksum = \"sha256:{}\"\n", "0".repeat(64));
    let cases: &[(&[u8], &str)] = &[
        (b"", "Dockerfile.lock has no `version`"),
        (b"version = 1\n\xff", "Dockerfile.lock is not UTF-8: line 2, column 1"),
        (b"version = 9\n", "Dockerfile.lock:1:11"),
        (b"version = 1\ndockerfile = \"Dockerfile\"\n[[image\n", "Dockerfile.lock:3:"),
        (
            b"version = 1\ndockerfile = \"app.Dockerfile\"\n",
            "is the lock of another Dockerfile: of app.Dockerfile",
        ),
    ];
    let twice = format!("{good}{entry}{entry}");
    let cases = cases.iter().copied().chain([(twice.as_bytes(), "two entries for \"http://h.test/f\"")]);
    for (bytes, message) in cases {
        let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
        let path = context.join("Dockerfile.lock");
        fs::write(&path, bytes).expect("write");
        let directory = context.display().to_string();
        let done = lab.run(["build", &directory]);
        assert!(done.code == 11 && done.err.contains(message), "{message}: {}", done.err);
        assert!(done.err.contains("help"), "{}", done.err);
        assert_eq!(lab.run(["lock", "--check", &directory]).code, 11, "{message}");
        assert_eq!(fs::read(&path).expect("read"), bytes);
        assert_eq!(lab.run(["build", "--no-lock", &directory]).code, 0, "{message}");
        ok(&lab.run(["lock", "--update", &directory]));
        ok(&lab.run(["build", "--locked", &directory]));
    }
    let context =
        lab.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"), ("Dockerfile.lock", "")]);
    let file = fs::File::options().write(true).open(context.join("Dockerfile.lock")).expect("open");
    file.set_len(100 << 20).expect("a large file");
    let done = lab.run(["build", &context.display().to_string()]);
    assert!(done.code == 11 && done.err.contains("has 104857600 bytes; a lock has at most"), "{}", done.err);
}

/// Who gives a context away chooses what its links lead to.
#[test]
fn a_lock_that_leads_out_of_the_context_is_neither_read_nor_written() {
    let lab = Lab::new();
    let outside = lab.context(&[
        ("secret", "first line of a secret\n"),
        ("good.lock", "version = 1\ndockerfile = \"Dockerfile\"\n"),
    ]);
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n"), ("locks/own.lock", "")]);
    let directory = context.display().to_string();
    let link = context.join("Dockerfile.lock");
    for target in ["secret", "good.lock", "missing"] {
        let target = outside.join(target);
        std::os::unix::fs::symlink(&target, &link).expect("link");
        let before = fs::read(&target).ok();
        for args in
            [&["build"][..], &["build", "--locked"], &["lock"], &["lock", "--check"], &["lock", "--update"]]
        {
            let done = lab.run([args, &[&directory]].concat());
            assert!(
                done.code == 11 && done.err.contains("is a link that leads to no file in"),
                "{args:?}: {}",
                done.err
            );
            assert!(!done.err.contains("first line"), "{args:?}: {}", done.err);
        }
        assert_eq!(fs::read(&target).ok(), before);
        ok(&lab.run(["build", "--no-lock", &directory]));
        fs::remove_file(&link).expect("remove");
    }
    // Inside it may lead anywhere, and stays a link.
    std::os::unix::fs::symlink("locks/own.lock", &link).expect("link");
    ok(&lab.run(["lock", "--update", &directory]));
    ok(&lab.run(["build", "--locked", &directory]));
    assert!(fs::symlink_metadata(&link).expect("link").is_symlink());
    assert!(fs::read_to_string(context.join("locks/own.lock")).expect("lock").contains("version = 1"));
    // A lock that was named and is not there is a mistake, without --locked too.
    for args in [&["build"][..], &["build", "--locked"], &["vendor", "vendored"], &["build", "--dry-run"]] {
        let done = lab.run([args, &["--lock-file=typo.lock", &directory]].concat());
        assert!(done.code == 11 && done.err.contains("typo.lock"), "{args:?}: {}", done.err);
    }
    assert!(!lab.path().join("vendored").exists());
    assert_eq!(lab.run(["lock", "--lock-file=-", &directory]).code, 2);
}

#[test]
fn vendoring_goes_on_where_it_was_interrupted_and_leaves_what_is_not_its_own() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let directory = context.display().to_string();
    let dir = lab.path().join("vendored");
    let place = dir.display().to_string();
    let vendor = || lab.run(["vendor", &place, &directory]);
    // Without a lock there is nothing to begin with.
    assert!(vendor().code == 11 && !dir.exists());
    ok(&lab.run(["lock", &directory]));
    ok(&vendor());
    ok(&lab.run(["build", "--frozen", "--vendor", &place, &directory]));
    let whole = fs::read(dir.join("index.json")).expect("index");
    // As a process leaves it that is killed at the beginning, or in the middle.
    let unfinished = String::from_utf8(whole.clone()).expect("text").replace(":\"1\"}", ":\"unfinished\"}");
    assert_ne!(unfinished.as_bytes(), whole);
    fs::remove_file(dir.join("index.json")).expect("remove");
    fs::remove_file(dir.join("oci-layout")).expect("remove");
    fs::remove_dir_all(dir.join("blobs")).expect("remove");
    fs::write(dir.join("index.json.abc.partial"), "{").expect("write");
    ok(&vendor());
    fs::write(dir.join("index.json"), unfinished).expect("write");
    fs::write(dir.join("blobs/sha256/blob.abc.partial"), "half").expect("write");
    fs::write(dir.join("blobs/sha256").join("0".repeat(64)), "old").expect("write");
    fs::write(dir.join("blobs/sha256/mine"), "mine").expect("write");
    let done = lab.run(["build", "--frozen", "--vendor", &place, &directory]);
    assert!(done.code == 5 && done.err.contains("incomplete"), "{}", done.err);
    ok(&vendor());
    assert_eq!(fs::read(dir.join("index.json")).expect("index"), whole);
    let left = |dir: &Path| {
        let names = fs::read_dir(dir).expect("read").map(|entry| entry.expect("entry").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(left(&dir), ["blobs", "index.json", "oci-layout"].map(String::from).into());
    assert_eq!(left(&dir.join("blobs/sha256")), ["mine".to_owned()].into());
    // One at a time.
    let held = fs::File::open(&dir).expect("open");
    held.lock().expect("lock");
    let done = vendor();
    assert!(done.code == 6 && done.err.contains("another `rbuild vendor`"), "{}", done.err);
    drop(held);
    // A link of the user's is followed, one in the directory is not: behind it, files would go.
    std::os::unix::fs::symlink(&dir, lab.path().join("link")).expect("link");
    ok(&lab.run(["vendor", "link", &directory]));
    let other = lab.context(&[("sha256/precious", "x")]);
    fs::write(other.join("sha256").join("0".repeat(64)), "precious").expect("write");
    for inner in ["blobs/sha256", "blobs"] {
        fs::rename(dir.join(inner), lab.path().join("aside")).expect("rename");
        let target = if inner == "blobs" { other.clone() } else { other.join("sha256") };
        std::os::unix::fs::symlink(target, dir.join(inner)).expect("link");
        let done = vendor();
        assert!(done.code == 6 && done.err.contains("is no directory"), "{inner}: {}", done.err);
        fs::remove_file(dir.join(inner)).expect("remove");
        fs::rename(lab.path().join("aside"), dir.join(inner)).expect("rename");
    }
    assert_eq!(left(&other.join("sha256")).len(), 2);
    let file = context.join("Dockerfile").display().to_string();
    let done = lab.run(["vendor", &file, &directory]);
    assert!(done.code == 2 && done.err.contains("is a file"), "{}", done.err);
    let done = lab.run(["build", "--vendor", "no-such-place", &directory]);
    assert!(done.code == 5 && done.err.contains("--vendor"), "{}", done.err);
}

#[test]
fn the_place_of_a_lock_is_beside_its_dockerfile_or_named() {
    let lab = Lab::new();
    let context = lab.context(&[("sub/app.Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")]);
    let directory = context.display().to_string();
    let file = context.join("sub/app.Dockerfile").display().to_string();
    ok(&lab.run(["lock", "-f", &file, &directory]));
    assert!(context.join("sub/app.Dockerfile.lock").exists());
    ok(&lab.run(["build", "--locked", "-f", &file, &directory]));
    ok(&lab.run(["lock", "-f", &file, "--lock-file", "elsewhere.lock", &directory]));
    assert!(lab.path().join("elsewhere.lock").exists());
    fs::remove_file(context.join("sub/app.Dockerfile.lock")).expect("remove");
    assert_eq!(lab.run(["build", "--locked", "-f", &file, &directory]).code, 11);
    ok(&lab.run(["build", "--locked", "--lock-file=elsewhere.lock", "-f", &file, &directory]));
    let stdin = Command::new("sh")
        .args([
            "-c",
            "printf 'FROM scratch\\nCOPY a /\\n' | \"$0\" --root \"$1\" lock -f - \"$2\"",
            support::RBUILD,
        ])
        .arg(lab.store())
        .arg(&context)
        .output()
        .expect("sh");
    let done = support::done(stdin);
    assert!(done.code == 2 && done.err.contains("--lock-file"), "{}", done.err);
    for flags in [&["--no-lock", "--locked"][..], &["--no-lock", "--frozen"], &["--no-lock", "--lock-file=x"]]
    {
        assert_eq!(lab.run([&["build"], flags, &[&directory]].concat()).code, 2, "{flags:?}");
    }
}

/// `rbuild` in a network namespace in which not even the loopback interface is up.
fn without_network(mut command: Command) -> Option<Command> {
    if !support::is_root() || !has("unshare") {
        return None;
    }
    let mut outer = Command::new("unshare");
    outer.arg("--net").arg(command.get_program()).args(command.get_args()).stdin(std::process::Stdio::null());
    outer.current_dir(command.get_current_dir().unwrap_or(Path::new("/"))).env_clear();
    for (name, value) in command.get_envs() {
        outer.envs(value.map(|value| (name, value)));
    }
    let works = Command::new("unshare").args(["--net", "true"]).status();
    command.stdin(std::process::Stdio::null());
    works.is_ok_and(|status| status.success()).then_some(outer)
}

#[test]
fn vendored_sources_build_the_same_image_without_a_network() {
    let test = "vendored_sources_build_the_same_image_without_a_network";
    let Some(sources) = Sources::new(test) else { return };
    // A submodule, a link and a mode, which the tree must keep.
    git(&sources.root, &["init", "-q", "inner"]);
    fs::write(sources.root.join("inner/deep"), "deep").expect("write");
    git(&sources.root, &["-C", "inner", "add", "-A"]);
    git(&sources.root, &["-C", "inner", "commit", "-qm", "inner"]);
    git(&sources.root, &["clone", "-q", "--bare", "inner", "inner.git"]);
    git(&sources.root, &["-C", "inner.git", "update-server-info"]);
    let work = sources.root.join("work");
    git(&work, &["submodule", "add", "-q", "../inner.git", "sub"]);
    git(&work, &["config", "-f", ".gitmodules", "submodule.sub.url", &sources.web.url("inner.git")]);
    std::os::unix::fs::symlink("sub/deep", work.join("link")).expect("link");
    fs::write(work.join("run.sh"), "#!/bin/sh\n").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(work.join("run.sh"), mode).expect("chmod");
    sources.commit("with a submodule");
    let dockerfile = sources.context.join("Dockerfile");
    let text = fs::read_to_string(&dockerfile).expect("read");
    let named = sources.web.url("repo.git#main");
    fs::write(&dockerfile, text + "COPY --from=tree /run.sh /link /tree/\n").expect("write");
    let tree = format!("--build-context=tree={named}");
    let tree = tree.as_str();

    let unlocked = sources.run(&["vendor", "vendored", tree]);
    assert!(unlocked.code == 11 && unlocked.err.contains("there is no Dockerfile.lock"), "{}", unlocked.err);
    ok(&sources.run(&["lock", tree]));
    let first = sources.build("online", &["--locked", tree]);
    let vendored = sources.lab.path().join("vendored").display().to_string();
    let done = sources.run(&["vendor", &vendored, tree]);
    ok(&done);
    assert!(done.out.contains("(5 images, 1 git tree, 1 file, "), "{}", done.out);
    let listing = || {
        let mut names: Vec<_> = fs::read_dir(sources.lab.path().join("vendored/blobs/sha256"))
            .expect("blobs")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        names.sort();
        names
    };
    let before = listing();
    ok(&sources.run(&["vendor", &vendored, tree]));
    assert_eq!(listing(), before, "written again, it is the same");

    // Without the layout, nothing is here; what would be fetched is named.
    let store = |name: &str| sources.lab.path().join(name).display().to_string();
    let missing = sources.run(&["--root", &store("none"), "build", "--frozen", tree]);
    assert!(missing.code == 4 || missing.code == 5, "{}", missing.err);
    assert!(missing.err.contains("would be fetched, and --offline forbids it"), "{}", missing.err);
    assert!(missing.err.contains("rbuild vendor"), "{}", missing.err);

    let named_image =
        format!("--build-context=named=docker-image://{}/team/named:1", sources.registry.host());
    let mut command = sources.rbuild();
    let frozen = [
        "--root",
        &store("offline"),
        "build",
        "-q",
        "--frozen",
        "--vendor",
        &vendored,
        "--network=none",
        "--metadata-file=hermetic.json",
    ];
    command.args(frozen).args([named_image.as_str(), tree, "."]).current_dir(&sources.context);
    // Servers that are gone are as good as no network, where there is no namespace to be had.
    sources.web.log();
    let done = match without_network(command) {
        Some(mut command) => support::done(command.output().expect("unshare")),
        None => {
            skip(test, "no network namespace can be made; only the servers' logs tell");
            sources.run(&[&frozen[..], &[tree]].concat())
        }
    };
    ok(&done);
    assert_eq!(done.out.trim(), first);
    assert_eq!(sources.web.log(), Vec::<String>::new());
    let facts = fs::read_to_string(sources.context.join("hermetic.json")).expect("metadata");
    assert!(facts.contains("\"rbuild.hermetic\": true"), "{facts}");
    sources.build("online", &["--locked", tree, "--metadata-file=online.json"]);
    let facts = fs::read_to_string(sources.context.join("online.json")).expect("metadata");
    assert!(!facts.contains("hermetic"), "{facts}");

    // A directory with other things in it is left alone.
    let other = sources.lab.context(&[("mine", "x")]);
    let refused = sources.run(&["vendor", &other.display().to_string(), tree]);
    assert!(refused.code == 2 && other.join("mine").exists(), "{}", refused.err);
    // A damaged blob is found.
    let blobs = sources.lab.path().join("vendored/blobs/sha256");
    for name in &before {
        let path = blobs.join(name);
        let mut bytes = fs::read(&path).expect("read");
        bytes.push(0);
        fs::write(&path, bytes).expect("write");
    }
    let damaged =
        sources.run(&["--root", &store("damaged"), "build", "--frozen", "--vendor", &vendored, tree]);
    assert!(damaged.code != 0, "{}", damaged.err);
}

#[test]
fn a_source_policy_decides_before_anything_is_fetched() {
    let Some(sources) = Sources::new("a_source_policy_decides_before_anything_is_fetched") else { return };
    let host = sources.registry.host();
    let policy = |rules: &str| {
        fs::write(sources.context.join("policy.json"), format!("{{\"rules\":[{rules}]}}")).expect("write");
    };
    let deny =
        |identifier: &str| format!(r#"{{"action":"DENY","selector":{{"identifier":"{identifier}"}}}}"#);
    let policed = ["build", "--progress=plain", "--source-policy=policy.json"];
    let (file, repo) = (sources.web.url("f"), sources.web.url("repo.git"));
    let place = repo.trim_start_matches("http://").to_owned();
    for (identifier, code, line) in [
        (format!("docker-image://{host}/team/base:*"), 5, "Dockerfile:2:"),
        (format!("docker-image://{host}/team/tool:1"), 5, "Dockerfile:3:"),
        (format!("docker-image://{host}/team/tool:1@sha256:*"), 5, "Dockerfile:3:"),
        (file.clone(), 4, "Dockerfile:5:"),
        (format!("git://{place}*"), 4, "Dockerfile:6:"),
        ("local://context".to_owned(), 4, ""),
        (format!("docker-image://{host}/team/named:1"), 5, "Dockerfile:10:"),
    ] {
        policy(&deny(&identifier));
        sources.web.log();
        let done = sources.run(&policed);
        let told = format!("is denied by policy policy.json: rule 1, DENY WILDCARD {identifier}");
        assert!(done.code == code && done.err.contains(&told), "{identifier}: {} {}", done.code, done.err);
        assert!(done.err.contains(line), "{identifier}: {}", done.err);
        assert_eq!(sources.web.log(), Vec::<String>::new(), "{identifier}");
    }
    // What is not part of the build is not asked about.
    policy(&deny(&format!("docker-image://{host}/team/mounted:1")));
    ok(&sources.run(&policed));
    // A conversion takes another image; the lock pins what it is converted to.
    let convert = format!(
        r#"{{"action":"CONVERT","selector":{{"identifier":"docker-image://{host}/team/tool:*"}},"updates":{{"identifier":"docker-image://{host}/team/other:$1"}}}}"#
    );
    policy(&convert);
    sources.push("other", "other", &[]);
    let plain = sources.build("one", &[]);
    let other = sources.build("one", &["--source-policy=policy.json"]);
    assert_ne!(other, plain);
    ok(&sources.run(&["lock", "--source-policy=policy.json"]));
    assert!(sources.lock().contains("/team/other:1\"") && !sources.lock().contains("/team/tool:1\""));
    fs::remove_file(sources.context.join("Dockerfile.lock")).expect("remove");
    // What a tag resolved to is judged as well, and converted. Dropping the digest again changes nothing.
    for (identifier, to, image) in [("tool:1@*", "other:1", &other), ("tool:*", "tool:1", &plain)] {
        policy(&format!(
            r#"{{"action":"CONVERT","selector":{{"identifier":"docker-image://{host}/team/{identifier}"}},"updates":{{"identifier":"docker-image://{host}/team/{to}"}}}}"#
        ));
        assert_eq!(&sources.build("one", &["--source-policy=policy.json"]), image, "{identifier}");
    }
    // The frontend is not fetched for a build, and for a lock only if it is allowed.
    let frontend = format!("# syntax={host}/docker/dockerfile:1\nFROM scratch\nCOPY f /f\n");
    let small = sources.lab.context(&[("Dockerfile", &frontend), ("f", "x")]);
    fs::write(small.join("policy.json"), format!("{{\"rules\":[{}]}}", deny("docker-image://*")))
        .expect("write");
    let mut command = sources.rbuild();
    command.args(["lock", "--source-policy=policy.json", "."]).current_dir(&small);
    let done = support::done(command.output().expect("rbuild"));
    let told =
        format!("no `# syntax` entry: source docker-image://{host}/docker/dockerfile:1 is denied by policy");
    assert!(done.code == 0 && done.err.contains(&told), "{}", done.err);
    // An image of the store is a source too, also by its ID.
    let id = sources.build("ids", &["--target=first"]);
    policy(&deny("docker-image://*"));
    let base = format!("--build-context=first=docker-image://{id}");
    let done = sources.run(&[
        "--root",
        &sources.lab.path().join("ids").display().to_string(),
        "build",
        "--source-policy=policy.json",
        &base,
    ]);
    assert!(done.code == 5 && done.err.contains("is denied by policy"), "{}", done.err);
    // What buildx would evaluate is refused by name.
    fs::write(sources.context.join("Dockerfile.rego"), "package docker\ndefault allow := false\n")
        .expect("write");
    for (args, code) in [
        (&["build"][..], 8),
        (&["build", "--policy=reset=true,filename=other.rego"], 8),
        (&["build", "--policy=disabled=true"], 0),
    ] {
        let done = sources.run(args);
        assert!(
            done.code == code && (code == 0 || done.err.contains("not supported")),
            "{args:?}: {}",
            done.err
        );
    }
    fs::remove_file(sources.context.join("Dockerfile.rego")).expect("remove");
    // A checksum that a policy adds is verified. The variable counts like the flag.
    policy(&format!(
        r#"{{"action":"CONVERT","selector":{{"identifier":"{file}"}},"updates":{{"attrs":{{"http.checksum":"sha256:{}"}}}}}}"#,
        "0".repeat(64)
    ));
    let named = format!("--build-context=named=docker-image://{host}/team/named:1");
    let mut command = sources.rbuild();
    command.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "policy.json").args(["build", &named, "."]);
    let done = support::done(command.current_dir(&sources.context).output().expect("rbuild"));
    assert!(done.code == 4 && done.err.contains("digest mismatch"), "{}", done.err);
    fs::write(sources.context.join("policy.json"), "{\"rules\":[\n{}]}").expect("write");
    let done = sources.run(&policed);
    assert!(done.code == 2 && done.err.contains("policy.json:2:2: missing field `selector`"), "{}", done.err);
    let done = sources.run(&["build", "--source-policy=none.json"]);
    assert!(done.code == 2 && done.err.contains("there is no policy none.json"), "{}", done.err);
}
