//! What instructions do beyond one image: mounts in every mode, secrets, remote sources, linked layers,
//! several platforms. The images themselves are compared with a peer's in `tests/conformance.rs`.

#[path = "support/server.rs"]
mod server;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use server::FileServer;
use support::{Lab, bases_or_skip, has, is_root, modes, skip};

const MOUNTS: &str = r#"FROM busybox AS a
RUN mkdir -p /x/y && echo hi > /x/y/z && ln -s /x/y /lnk && rm -rf /home
FROM busybox
WORKDIR /app
RUN mkdir /o
RUN --mount=target=. ls > /o/context; touch new 2>/dev/null && echo writable >> /o/context; true
RUN --mount=type=bind,target=/c,rw echo w > /c/new && cat /c/new /c/top > /o/rw
RUN --mount=from=a,source=/lnk/z,target=/q/f,rw echo more >> /q/f; cat /q/f > /o/stage-file
RUN --mount=type=bind,from=a,target=/home ls /home/x/y > /o/over-deleted
RUN --mount=type=cache,target=/cc,id=k echo one > /cc/one
RUN --mount=type=cache,target=/other,id=k,ro cat /other/one > /o/cache; touch /other/x 2>/dev/null || echo ro >> /o/cache
RUN --mount=type=cache,target=/seeded,from=a,source=/x cat /seeded/y/z > /o/seeded
RUN --mount=type=tmpfs,target=/t/u,size=1m touch /t/u/f && df /t/u | awk 'NR==2{print $2}' > /o/tmpfs
RUN --mount=type=secret,id=s --mount=type=secret,id=s,target=/etc/pw,mode=0444 cmp /run/secrets/s /etc/pw && stat -c %a /etc/pw /run/secrets/s > /o/secret
RUN --mount=type=secret,id=s,env=PW [ -n "$PW" ] && [ ! -e /run/secrets/s ] && echo env > /o/secret-env
RUN --mount=type=secret,id=absent [ ! -e /run/secrets/absent ] && echo absent > /o/absent
RUN --mount=target=/c --mount=type=tmpfs,target=/c/sub ls /c/sub > /o/nested
RUN --mount=type=cache,target=/cc,id=k --mount=type=tmpfs,target=/cc/deep/er ls /cc > /o/made
RUN ls -d /q /t /c /cc /run/secrets /seeded 2>/dev/null > /o/left; true
"#;

#[test]
fn mounts_show_the_same_in_every_mode() {
    let test = "mounts_show_the_same_in_every_mode";
    if !bases_or_skip(test) {
        return;
    }
    for who in modes(test) {
        let lab = Lab::as_user(who);
        let context = lab.context(&[
            ("Dockerfile", MOUNTS),
            ("top", "top\n"),
            ("sub/f", "data\n"),
            (".dockerignore", "secret*\n"),
        ]);
        let secret = lab.context(&[("value", "correct horse\n")]).join("value");
        let out = lab.out("files");
        let done = lab.build(
            &context,
            &["--secret", &format!("id=s,src={}", secret.display()), "-o", &out.display().to_string()],
        );
        assert_eq!(done.code, 0, "{who:?}\n{}", done.err);
        let read = |name: &str| fs::read_to_string(out.join("o").join(name)).expect(name);
        for (name, expected) in [
            ("context", "Dockerfile\nsub\ntop\n"),
            ("rw", "w\ntop\n"),
            ("stage-file", "hi\nmore\n"),
            ("over-deleted", "z\n"),
            ("cache", "one\nro\n"),
            ("seeded", "hi\n"),
            ("tmpfs", "1024\n"),
            ("secret", "444\n400\n"),
            ("secret-env", "env\n"),
            ("absent", "absent\n"),
            ("nested", ""),
            ("made", "deep\none\n"),
            // What mounts were put on is gone again.
            ("left", ""),
        ] {
            assert_eq!(read(name), expected, "{who:?}: {name}");
        }
        assert!(!context.join("new").exists(), "{who:?}: a step wrote into the context");
    }
}

#[test]
fn a_changed_secret_executes_steps_again_on_request() {
    let test = "a_changed_secret_executes_steps_again_on_request";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN true\nRUN --mount=type=secret,id=s wc -c < /run/secrets/s > /n\n";
    let context =
        lab.context(&[("Dockerfile", dockerfile), ("one", "battery staple 1"), ("two", "battery staple 22")]);
    let cached = |secret: &str, more: &str| {
        let secret = format!("id=s,src={}{more}", context.join(secret).display());
        let done = lab.build(&context, &["--secret", &secret]);
        assert_eq!(done.code, 0, "{}", done.err);
        done.err.matches(" CACHED").count()
    };
    assert_eq!(cached("one", ""), 0);
    assert_eq!(cached("two", ""), 2, "as in BuildKit, values do not count");
    assert_eq!(cached("one", ",invalidate=true"), 1);
    assert_eq!(cached("one", ",invalidate=true"), 2);
    assert_eq!(cached("two", ",invalidate=true"), 1);
    assert_eq!(cached("one", ",invalidate=true"), 2);
    let found = files_with(&lab.store(), &[b"battery staple 1".to_vec(), b"battery staple 22".to_vec()]);
    assert!(found.is_empty(), "{found:?}");
}

/// Every file below a directory that holds one of the needles.
fn files_with(dir: &Path, needles: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            found.extend(files_with(&path, needles));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            if needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == &needle[..])) {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_secret_is_nowhere_after_the_build() {
    let test = "a_secret_is_nowhere_after_the_build";
    if !bases_or_skip(test) {
        return;
    }
    let value = "Tr0ub4dor-and-3-more";
    for who in modes(test) {
        let lab = Lab::as_user(who);
        let text = "FROM busybox\nRUN --mount=type=secret,id=file cat /run/secrets/file; base64 /run/secrets/file\n\
                    RUN --mount=type=secret,id=file,env=TOKEN echo \"token is $TOKEN\" && echo done > /done\n\
                    RUN --mount=type=secret,id=file,env=TOKEN [ \"$FAIL\" ] || true\n";
        let context = lab.context(&[("Dockerfile", text)]);
        let mut command = lab.rbuild();
        command.env("SECRET_VALUE", value).args([
            "build",
            "--progress=plain",
            "--secret",
            "id=file,env=SECRET_VALUE",
        ]);
        let (image, metadata) = (lab.out("image.tar"), lab.out("metadata.json"));
        // Uncompressed, so that nothing can hide in an archive.
        command.args(["-o", &format!("type=oci,compression=uncompressed,dest={}", image.display())]);
        command.args(["--metadata-file", &metadata.display().to_string(), "-t", "secret:1"]);
        let done = support::done(command.args(lab.bases()).arg(&context).output().expect("rbuild"));
        assert_eq!(done.code, 0, "{who:?}\n{}", done.err);
        assert!(done.err.contains("token is ****"), "{}", done.err);
        let encoded = "VHIwdWI0ZG9yLWFuZC0zLW1vcmU";
        let needles: Vec<Vec<u8>> = [value, encoded].map(|text| text.as_bytes().to_vec()).to_vec();
        for needle in [value, encoded] {
            assert!(
                !done.err.contains(needle) && !done.out.contains(needle),
                "{who:?}: in the log\n{}",
                done.err
            );
        }
        let found = files_with(lab.path(), &needles);
        assert!(found.is_empty(), "{who:?}: {found:?}");
        // A failing step shows its last lines; not this one.
        let failing = lab.context(&[(
            "Dockerfile",
            "FROM busybox\nRUN --mount=type=secret,id=file,env=TOKEN echo \"it was $TOKEN\"; exit 3\n",
        )]);
        let mut command = lab.rbuild();
        command.env("SECRET_VALUE", value).args(["build", "--secret", "id=file,env=SECRET_VALUE"]);
        let done = support::done(command.args(lab.bases()).arg(&failing).output().expect("rbuild"));
        assert!(
            done.code == 1 && done.err.contains("it was ****") && !done.err.contains(value),
            "{}",
            done.err
        );
    }
}

#[test]
fn another_secret_value_does_not_run_a_step_again() {
    let test = "another_secret_value_does_not_run_a_step_again";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let context =
        lab.context(&[("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=s,env=S echo ok > /ok\n")]);
    let with = |value: &str| {
        let mut command = lab.rbuild();
        command.env("VALUE", value).args(["build", "--progress=plain", "--secret", "id=s,env=VALUE"]);
        support::done(command.args(lab.bases()).arg(&context).output().expect("rbuild"))
    };
    assert_eq!(with("first-value").code, 0);
    let again = with("second-value");
    assert!(again.code == 0 && again.err.contains("CACHED"), "{}", again.err);
}

#[test]
fn a_bind_mount_counts_by_content_and_only_what_is_selected() {
    let test = "a_bind_mount_counts_by_content_and_only_what_is_selected";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[
        ("Dockerfile", "FROM busybox\nRUN --mount=source=src,target=/s cat /s/f > /f\n"),
        ("src/f", "one\n"),
        ("other", "a"),
    ]);
    assert_eq!(lab.build(&context, &[]).code, 0);
    fs::write(context.join("other"), "b").expect("write");
    let unrelated = lab.build(&context, &[]);
    assert!(unrelated.err.contains("CACHED"), "{}", unrelated.err);
    fs::write(context.join("src/f"), "two\n").expect("write");
    let changed = lab.build(&context, &[]);
    assert!(changed.code == 0 && !changed.err.contains("CACHED"), "{}", changed.err);
}

/// Builds a Dockerfile, and tells whether its last step, which has `--network=none`, ran.
fn last_step_ran(lab: &Lab, context: &Path, dockerfile: &str, flags: &[&str]) -> bool {
    fs::write(context.join("Dockerfile"), dockerfile).expect("write");
    let done = lab.build(context, flags);
    assert_eq!(done.code, 0, "{dockerfile}{}", done.err);
    let step = done.err.rfind("] RUN --network=none").expect("the step");
    !done.err[step..].contains("CACHED")
}

#[test]
fn mode_and_owner_of_a_mounted_directory_and_the_seed_of_a_cache_count() {
    let test = "mode_and_owner_of_a_mounted_directory_and_the_seed_of_a_cache_count";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("d/f", "f\n")]);
    let bind = "--mount=from=s,source=/d,target=/m";
    let seed = "--mount=type=cache,id=c,from=s,source=/d,target=/m";
    for (mount, change, again) in [
        (bind, "chmod 770 /d", true),
        (bind, "chown 5 /d", true),
        (bind, ": > /elsewhere", false),
        (seed, "echo 2 > /d/f", true),
        (seed, "chmod 600 /d/f", true),
        (seed, ": > /elsewhere", false),
    ] {
        let ran = |change: &str| {
            let stage = format!("FROM busybox AS s\nRUN mkdir /d && echo 1 > /d/f\nRUN {change}\n");
            let step = format!("FROM busybox\nRUN --network=none {mount} ls -ln /m > /o\n");
            last_step_ran(&lab, &context, &(stage + &step), &[])
        };
        ran("true");
        assert!(!ran("true"), "{mount}");
        assert_eq!(ran(change), again, "{mount}: {change}");
    }
    // Files are shown in place, or as a copy where a rule hides some.
    for (ignored, dir) in [("", "d"), ("", "."), ("other", "d"), ("other", ".")] {
        fs::write(context.join(".dockerignore"), ignored).expect("write");
        let mount = format!("--mount=source={dir},target=/m");
        let text = format!("FROM busybox\nRUN --network=none {mount} stat -c '{ignored}mode=%a' /m\n");
        fs::write(context.join("Dockerfile"), text).expect("write");
        for mode in [0o755, 0o711] {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(context.join(dir), permissions).expect("chmod");
            let done = lab.build(&context, &[]);
            assert!(done.err.contains(&format!("{ignored}mode={mode:o}")), "{ignored} {dir}: {}", done.err);
        }
    }
}

#[test]
fn limits_and_host_names_that_a_step_sees_count_and_addresses_do_not() {
    let test = "limits_and_host_names_that_a_step_sees_count_and_addresses_do_not";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[]);
    let text = "FROM busybox\nRUN --network=none ulimit -n > /o\n";
    let ran = |flags: &[&str]| last_step_ran(&lab, &context, text, flags);
    ran(&[]);
    for (flags, again) in [
        (&["--ulimit=nofile=78"][..], true),
        (&["--ulimit=nofile=78:79"], true),
        (&["--ulimit=nofile=78:79"], false),
        (&["--shm-size=2m"], true),
        (&["--shm-size=64m"], false),
        (&["--add-host=a:10.0.0.1"], true),
        (&["--add-host=a:10.0.0.2"], false),
        (&["--add-host=b:10.0.0.2"], true),
        (&[], false),
    ] {
        assert_eq!(ran(flags), again, "{flags:?}");
    }
}

#[test]
fn a_linked_layer_is_the_same_on_another_base() {
    let test = "a_linked_layer_is_the_same_on_another_base";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let layer = |step: &str| {
        let text = format!("FROM busybox\nRUN echo {step} > /base\nCOPY --link f /a/b/\n");
        let context = lab.context(&[("Dockerfile", &text), ("f", "content\n")]);
        lab.build_image(&context, &[])
    };
    let (first, second) = (layer("one"), layer("two"));
    let top =
        |image: &support::Image| image.manifest["layers"].as_array().and_then(|all| all.last().cloned());
    assert_eq!(top(&first), top(&second));
    let step = second.build.err.find("COPY --link").expect("the step");
    assert!(second.build.err[step..].contains("CACHED"), "{}", second.build.err);
    assert_eq!(second.text("/a/b/f"), "content\n");
}

#[test]
fn downloads_are_asked_about_and_not_fetched_again() {
    let test = "downloads_are_asked_about_and_not_fetched_again";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let files = lab.context(&[("dir/f.txt", "downloaded\n")]);
    let server = FileServer::start(&files);
    let digest = "e8b1e2ff33d1bdc1e7d4e3e4dbbd6b8fd71cdee44cc1b1f1fcc5c1f9bfa4b9d7";
    let text = format!("FROM busybox\nADD {} /d/\n", server.url("dir/f.txt?version=1"));
    let context = lab.context(&[("Dockerfile", &text)]);
    let secrets = lab.context(&[("token", "t0ken-value\n")]).join("token");
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", secrets.display());
    let image = lab.build_image(&context, &["--secret", &secret]);
    assert_eq!(image.text("/d/f.txt"), "downloaded\n");
    assert_eq!(image.owner("/d/f.txt"), "600 0:0");
    let first = server.log();
    assert!(first.iter().any(|line| line.starts_with("200 /dir/f.txt")), "{first:?}");
    let again = lab.build(&context, &["--secret", &secret]);
    assert!(again.code == 0 && again.err.contains("CACHED"), "{}", again.err);
    let asked = server.log();
    assert!(asked.iter().all(|line| line.starts_with("304 ")), "{asked:?}");
    fs::write(files.join("dir/f.txt"), "changed\n").expect("write");
    let changed = lab.build_image(&context, &[]);
    assert_eq!(changed.text("/d/f.txt"), "changed\n");
    let wrong = format!("FROM busybox\nADD --checksum=sha256:{digest} {} /d/\n", server.url("dir/f.txt"));
    let wrong = lab.build(&lab.context(&[("Dockerfile", &wrong)]), &[]);
    assert!(wrong.code != 0 && wrong.err.contains("digest mismatch"), "{}", wrong.err);
}

fn git(dir: &Path, args: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env("GIT_COMMITTER_DATE", "2020-01-01T00:00:00Z")
        .env("GIT_AUTHOR_DATE", "2020-01-01T00:00:00Z")
        .output()
        .expect("git");
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn repositories_are_contexts_and_sources() {
    let test = "repositories_are_contexts_and_sources";
    if !bases_or_skip(test) {
        return;
    }
    if !has("git") {
        return skip(test, "git is not installed");
    }
    let lab = Lab::new();
    let work = lab.context(&[
        ("Dockerfile", "FROM busybox\nCOPY . /src\n"),
        ("sub/Dockerfile", "FROM busybox\nCOPY . /sub\nCOPY --from=tools /sub/f /tool\n"),
        ("sub/f", "in git\n"),
        (".dockerignore", "sub\n"),
    ]);
    git(&work, &["init", "-q"]);
    git(&work, &["add", "-A"]);
    git(&work, &["commit", "-qm", "one"]);
    git(&work, &["tag", "v1"]);
    let served = lab.context(&[]);
    git(&served, &["clone", "-q", "--bare", &work.display().to_string(), "repo.git"]);
    git(&served.join("repo.git"), &["update-server-info"]);
    let server = FileServer::start(&served);
    let url = server.url("repo.git");
    // An ignore file in a repository keeps nothing back: nothing is sent.
    let whole = lab.build_image(Path::new(&url), &[]);
    assert_eq!(whole.text("/src/sub/f"), "in git\n");
    assert!(!whole.exists("/src/.git"));
    let tools = format!("tools={url}#v1");
    let part = lab.build_image(Path::new(&format!("{url}#main:sub")), &["--build-context", &tools]);
    assert_eq!((part.text("/sub/f"), part.text("/tool")), ("in git\n".into(), "in git\n".into()));
    let epoch = lab.build_image(Path::new(&url), &["--build-arg", "SOURCE_DATE_EPOCH=context"]);
    assert_eq!(epoch.config["created"].as_str(), Some("2020-01-01T00:00:00Z"));
    let text = format!("FROM busybox\nADD --keep-git-dir=true {url}#v1 /repo\n");
    let added = lab.build_image(&lab.context(&[("Dockerfile", &text)]), &[]);
    assert!(added.exists("/repo/.git/HEAD") && added.text("/repo/sub/f") == "in git\n");
}

#[test]
fn archives_and_dockerfiles_may_lie_on_a_server() {
    let test = "archives_and_dockerfiles_may_lie_on_a_server";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let files = lab.context(&[
        ("context/Dockerfile", "FROM busybox\nCOPY f /f\n"),
        ("context/other", "FROM busybox\nCOPY f /other\n"),
        ("context/f", "packed\n"),
        ("plain", "FROM busybox\nRUN echo made > /made\n"),
        ("here", "FROM busybox\nCOPY local /l\n"),
    ]);
    let done = Command::new("tar")
        .args(["-czf", "context.tar.gz", "-C", "context", "."])
        .current_dir(&files)
        .status();
    assert!(done.is_ok_and(|status| status.success()));
    let server = FileServer::start(&files);
    let url = |path: &str| server.url(path);
    assert_eq!(lab.build_image(Path::new(&url("context.tar.gz")), &[]).text("/f"), "packed\n");
    assert_eq!(
        lab.build_image(Path::new(&url("context.tar.gz")), &["-f", "other"]).text("/other"),
        "packed\n"
    );
    assert_eq!(lab.build_image(Path::new(&url("plain")), &[]).text("/made"), "made\n");
    let context = lab.context(&[("local", "local\n")]);
    assert_eq!(lab.build_image(&context, &["-f", &url("here")]).text("/l"), "local\n");
    let missing = lab.run(["build", &url("nothing-here")]);
    assert!(missing.code == 4 && missing.err.contains("404"), "{}", missing.err);
}

#[test]
fn several_platforms_give_an_index() {
    let test = "several_platforms_give_an_index";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
                FROM scratch\nCOPY --from=build /arch /\nARG TARGETPLATFORM\nLABEL platform=$TARGETPLATFORM\n";
    let context = lab.context(&[("Dockerfile", text)]);
    let (archive, files) = (lab.out("index.tar"), lab.out("files"));
    let done = lab.build(
        &context,
        &[
            "--platform=linux/amd64,linux/arm64",
            "--platform=linux/arm/v7",
            "--annotation=index:org.example.a=b",
            "--annotation=manifest[linux/arm64]:org.example.c=d",
            "-o",
            &format!("type=oci,dest={}", archive.display()),
            "-o",
            &files.display().to_string(),
        ],
    );
    assert_eq!(done.code, 0, "{}", done.err);
    let read = |path: &str| {
        let done =
            Command::new("tar").args(["-xOf", &archive.display().to_string(), path]).output().expect("tar");
        serde_json::from_slice::<serde_json::Value>(&done.stdout).expect(path)
    };
    let blob = |digest: &serde_json::Value| {
        read(&digest.as_str().unwrap_or_default().replace("sha256:", "blobs/sha256/"))
    };
    let index = blob(&read("index.json")["manifests"][0]["digest"]);
    assert_eq!(index["annotations"]["org.example.a"], "b");
    let manifests = index["manifests"].as_array().expect("manifests");
    let platforms: Vec<String> = manifests
        .iter()
        .map(|entry| format!("{}{}", entry["platform"]["architecture"], entry["platform"]["variant"]))
        .collect();
    assert_eq!(platforms, ["\"amd64\"null", "\"arm64\"null", "\"arm\"\"v7\""]);
    for (position, (name, annotated)) in
        [("linux/amd64", false), ("linux/arm64", true), ("linux/arm/v7", false)].iter().enumerate()
    {
        let manifest = blob(&manifests[position]["digest"]);
        assert_eq!(manifest["annotations"]["org.example.c"] == "d", *annotated, "{name}");
        let config = blob(&manifest["config"]["digest"]);
        assert_eq!(config["config"]["Labels"]["platform"], *name);
        let arch = fs::read_to_string(files.join(name.replace('/', "_")).join("arch")).expect("arch");
        assert_eq!(arch.trim(), name.split('/').nth(1).unwrap_or_default());
    }
}

#[test]
fn foreign_programs_need_an_emulator_and_say_so() {
    let test = "foreign_programs_need_an_emulator_and_say_so";
    if !bases_or_skip(test) {
        return;
    }
    if Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        return skip(test, "an emulator is registered");
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nRUN true\n")]);
    let done = lab.run(["build", "--platform=linux/s390x", &context.display().to_string()]);
    assert!(done.code == 1 && done.err.contains("qemu-user-static"), "{}", done.err);
}

#[test]
fn limits_hold_and_are_named_when_they_strike() {
    let test = "limits_hold_and_are_named_when_they_strike";
    if !bases_or_skip(test) {
        return;
    }
    let writable = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/cgroup.subtree_control"]
        .iter()
        .any(|path| rustix::fs::access(*path, rustix::fs::Access::WRITE_OK).is_ok());
    if !is_root() || !writable {
        return skip(test, "control groups cannot be written here");
    }
    let lab = Lab::new();
    let forks = "FROM busybox\nRUN for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait\n";
    let done = lab.build(&lab.context(&[("Dockerfile", forks)]), &["--pids-limit=6"]);
    assert!(done.code == 1 && done.err.contains("--pids-limit"), "{}", done.err);
    let hog = "FROM busybox\nRUN awk 'BEGIN{s=\"xxxxxxxxxx\"; for(i=0;i<26;i++) s=s s; print length(s)}'\n";
    let done = lab.build(&lab.context(&[("Dockerfile", hog)]), &["--memory=16m"]);
    assert!(
        done.code == 1
            && done.err.contains("out of memory: killed at the limit of 16 MiB")
            && !done.err.contains("137:"),
        "{}",
        done.err
    );
    let fine = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let done = lab.build(&fine, &["-m", "64m", "--cpus=0.5", "--cpuset-cpus=0", "--cpu-shares=512"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let left = fs::read_dir("/sys/fs/cgroup/pids").into_iter().flatten().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("rbuild-")).count();
    assert_eq!(left, 0, "control groups were left behind");
}
