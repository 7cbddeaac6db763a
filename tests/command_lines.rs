//! Command lines as users of docker, buildx, podman, buildah and kaniko type them, in `command_lines.txt`: each works,
//! works with another meaning and says so, or is refused by a sentence that says what to do.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Lab, base, bases_or_skip};

const TABLE: &str = include_str!("command_lines.txt");

/// Words of a line; single quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => {
                all.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            }
            c => word.push(c),
        }
    }
    all.extend((!word.is_empty()).then_some(word));
    all
}

/// A store with images and a directory to build.
fn scene() -> Lab {
    let lab = Lab::new();
    fs::create_dir(lab.path().join("other")).expect("other");
    fs::write(lab.path().join("Dockerfile"), "FROM scratch AS last\nCOPY Dockerfile /\nCMD [\"x\"]\n")
        .expect("file");
    fs::write(lab.path().join("other/Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").expect("file");
    fs::write(lab.path().join("env"), "A=1\n").expect("file");
    for tag in ["app:1", "app:3", "app:9", "app:gone"] {
        assert_eq!(lab.run(["build", "-q", "-t", tag, "."]).code, 0);
    }
    let context = lab.context(&[("Dockerfile", "FROM busybox\n")]);
    assert_eq!(lab.build(&context, &["-t", "app:2"]).code, 0);
    assert_eq!(lab.run(["save", "-o", "saved.tar", "app:1"]).code, 0);
    lab
}

#[test]
fn what_users_of_other_tools_type_works_or_says_what_to_do() {
    if !bases_or_skip("what_users_of_other_tools_type_works_or_says_what_to_do") {
        return;
    }
    assert!(base("busybox").is_some());
    let lab = scene();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in TABLE.lines().filter(|row| !row.is_empty() && !row.starts_with('#')) {
        let mut fields = row.split(" | ");
        let code: i32 = fields.next().and_then(|code| code.trim().parse().ok()).expect("exit code");
        let line = fields.next().expect("command line");
        let done = lab.run(words(line));
        count += 1;
        let shown = format!("{}{}", done.out, done.err);
        if done.code != code {
            wrong.push(format!("{line}: {} instead of {code}\n{shown}", done.code));
        }
        if let Some(missing) = fields.find(|words| !shown.contains(words.trim())) {
            wrong.push(format!("{line}: does not say {missing:?}\n{shown}"));
        }
        // The program's own exit code says nothing about rbuild.
        if code != 0
            && !line.starts_with("run ")
            && (shown.contains("Usage:") || !done.err.contains("error: "))
        {
            wrong.push(format!("{line}: is no explanation\n{shown}"));
        }
    }
    assert!(count >= 250, "{count} command lines");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn images_are_named_by_their_ids() {
    if !bases_or_skip("images_are_named_by_their_ids") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nCMD echo hello\n")]);
    // Built again, it is the same image.
    let flags = ["-q", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let built = lab.build(&context, &flags);
    let id = built.out.trim();
    assert!(built.code == 0 && id.len() == 71, "{}", built.err);
    // `docker run $(docker build -q .)`.
    let ran = lab.run(["run", "--rm", id]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello\n"), "{}", ran.err);
    let short = &id[7..19];
    assert!(!lab.run(["images"]).out.contains(short));
    let listed = lab.run(["images", "-a"]).out;
    assert!(listed.lines().any(|line| line.starts_with("<none>") && line.contains(short)), "{listed}");
    assert_eq!(lab.run(["images", "-q", "-f", "dangling=true"]).out.trim(), short);
    for name in [id, &id[7..], short, &format!("sha256:{}", &id[7..15])] {
        let inspected = lab.run(["inspect", "-f", "{{.Id}}", name]);
        assert_eq!((inspected.code, inspected.out.trim()), (0, id), "{name}: {}", inspected.err);
        assert_eq!(lab.run(["history", "-q", name]).code, 0);
    }
    assert_eq!(lab.run(["save", "-o", "id.tar", short]).code, 0);
    assert_eq!(lab.run(["tag", short, "app:1"]).code, 0);
    assert_eq!(lab.run(["run", "app:1"]).out, "hello\n");
    // With a name it is dangling no more.
    assert_eq!(lab.run(["images", "-q", "-f", "dangling=true"]).out, "");
    // Built again without a name, it is the same image: as in Docker, it goes with its last name.
    assert_eq!(lab.build(&context, &flags).out.trim(), id);
    assert_eq!(lab.run(["tag", short, "app:2"]).code, 0);
    assert_eq!(lab.build(&context, &flags).out.trim(), id);
    assert_eq!(lab.run(["rmi", "app:2"]).out, "Untagged: app:2\n");
    let gone = lab.run(["rmi", short]).out;
    assert_eq!(gone, format!("Untagged: app:1\nDeleted: {id}\n"));
    assert_eq!(lab.run(["images", "-aq"]).out, "");
    assert_eq!(lab.build(&context, &flags).out.trim(), id);
    assert_eq!(lab.run(["images", "-q", "-f", "dangling=true"]).out.trim(), short);
    assert_eq!(lab.run(["rmi", short]).out, format!("Deleted: {id}\n"));
    assert_eq!(lab.run(["images", "-aq"]).out, "");
    assert_eq!(lab.run(["inspect", short]).code, 2);
}

#[test]
fn images_without_a_name_are_pruned_and_others_stay() {
    if !bases_or_skip("images_without_a_name_are_pruned_and_others_stay") {
        return;
    }
    let lab = Lab::new();
    let named = lab.context(&[("Dockerfile", "FROM busybox\nENV A=1\n")]);
    let unnamed = lab.context(&[("Dockerfile", "FROM busybox\nCOPY Dockerfile /\n")]);
    assert_eq!(lab.build(&named, &["-t", "app:1"]).code, 0);
    assert_eq!(lab.build(&unnamed, &[]).code, 0);
    assert_eq!(lab.run(["images", "-aq"]).out.lines().count(), 2);
    let records = || lab.run(["du", "-v"]).out.lines().take_while(|line| !line.is_empty()).count();
    let before = records();
    for words in [&["image", "prune", "-a", "--filter", "until=1h"][..], &["image", "prune", "--dry-run"]] {
        assert_eq!(lab.run(words).code, 0, "{words:?}");
        assert_eq!(lab.run(["images", "-aq"]).out.lines().count(), 2, "{words:?}");
    }
    assert_eq!(lab.run(["image", "prune", "-a", "--filter", "type=regular"]).code, 8);
    // The note that keeps the image, its manifest and its config go. The second time there is no such image, and
    // the cache stays all the same.
    for _ in 0..2 {
        assert_eq!(lab.run(["image", "prune", "-af"]).code, 0);
        assert_eq!(lab.run(["images", "-aq"]).out.lines().count(), 1);
        assert_eq!(records(), before - 3);
    }
    assert_eq!(lab.build(&unnamed, &[]).code, 0);
    assert_eq!(lab.run(["images", "-aq"]).out.lines().count(), 2);
    assert_eq!(lab.run(["prune", "-a"]).code, 0);
    assert_eq!(lab.run(["images", "-aq"]).out.lines().count(), 1);
    assert_eq!(lab.run(["fsck"]).code, 0);
}

#[test]
fn a_closed_pipe_is_no_reason_to_panic() {
    let lab = Lab::new();
    for args in [&["completion", "bash"][..], &["completion", "elvish"], &["help", "build"], &["--help"]] {
        let mut command = lab.rbuild();
        command.args(args).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().expect("rbuild");
        drop(child.stdout.take());
        let done = support::done(child.wait_with_output().expect("end"));
        assert!(!done.err.contains("panicked"), "{args:?}: {}", done.err);
        assert_ne!(done.code, 101, "{args:?}");
    }
}

#[test]
fn run_mounts_limits_and_names_as_docker_does() {
    if !bases_or_skip("run_mounts_limits_and_names_as_docker_does") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nENV A=image\nVOLUME /data/deep\nUSER 0\n")]);
    assert_eq!(lab.build(&context, &["-t", "app:1"]).code, 0);
    let shared = lab.path().join("shared");
    fs::create_dir(&shared).expect("shared");
    fs::write(shared.join("f"), "from outside\n").expect("file");
    fs::write(lab.path().join("vars"), "# comment\nB=file\nC=file\nFROM_ENV\n").expect("file");
    let run = |flags: &[&str], command: &str| {
        let mut call = lab.rbuild();
        call.arg("run").args(["--network", "none", "--rm"]).args(flags).args(["app:1", "sh", "-c", command]);
        support::done(call.env("FROM_ENV", "environment").env("OTHER", "other").output().expect("rbuild"))
    };
    let rows: &[(&[&str], &str, i32, &str)] = &[
        (&["-v", "./shared:/m/x"], "cat /m/x/f; echo new > /m/x/g", 0, "from outside\n"),
        (&["-v", "./shared:/m:ro"], "echo no > /m/f || echo refused", 0, "refused\n"),
        (
            &["--mount", "type=bind,src=./shared/f,dst=/deep/er/f,readonly"],
            "cat /deep/er/f",
            0,
            "from outside\n",
        ),
        (&["--mount", "type=tmpfs,target=/t,tmpfs-size=1m"], "grep -c ' /t tmpfs' /proc/mounts", 0, "1\n"),
        (&["--tmpfs", "/t:size=1m"], "touch /t/a && ls /t", 0, "a\n"),
        (
            &["--env-file", "vars", "-e", "C=flag", "-e", "OTHER"],
            "echo $A $B $C $FROM_ENV $OTHER",
            0,
            "image file flag environment other\n",
        ),
        (&["-h", "box"], "hostname; echo $HOSTNAME", 0, "box\nbox\n"),
        (&["-h", "box", "-e", "HOSTNAME=other"], "echo $HOSTNAME", 0, "other\n"),
        (
            &["--cap-drop=ALL", "--cap-add=chown"],
            "grep CapEff /proc/self/status",
            0,
            "CapEff:\t0000000000000001\n",
        ),
        (&["--cap-drop=CAP_CHOWN"], "touch /f; chown 1 /f || echo refused", 0, "refused\n"),
        (
            &["--read-only", "-w", "/new/dir", "--tmpfs", "/t"],
            "pwd; touch /t/a /f || echo refused",
            0,
            "/new/dir\nrefused\n",
        ),
        (&["--init"], "[ $$ != 1 ] && exit 7", 7, ""),
        (&["--init"], "kill -9 $$", 137, ""),
        // What has lost its parent is collected.
        (
            &["--init"],
            "(sleep 0 &); i=0; while grep -q '^State:.Z' /proc/[0-9]*/status && [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done; \
             [ $i -lt 600 ]",
            0,
            "",
        ),
        (&["--hostname=box2", "--name", "ignored"], "cat /etc/hostname", 0, "box2\n"),
        (&["--add-host", "db:192.0.2.7,web:192.0.2.8"], "grep -cE '192.0.2.(7|8)' /etc/hosts", 0, "2\n"),
        (&["--ulimit", "nofile=99:99"], "ulimit -n", 0, "99\n"),
        (&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", 0, "1024\n"),
        (&[], "ls -d /data/deep && touch /data/deep/a", 0, "/data/deep\n"),
        (&["--platform", "linux/amd64", "--pull", "never"], "exit 7", 7, ""),
    ];
    for (flags, command, code, out) in rows {
        let done = run(flags, command);
        assert_eq!((done.code, done.out.as_str()), (*code, *out), "{flags:?}: {}", done.err);
    }
    assert_eq!(fs::read_to_string(shared.join("g")).ok().as_deref(), Some("new\n"));
    for (args, code) in [
        (&["run", "app:1", "no-such-program"][..], 127),
        (&["run", "--init", "app:1", "no-such-program"], 127),
        (&["run", "app:1", "/etc"], 126),
        (&["run", "--no-such-flag", "app:1"], 125),
        (&["run", "--pull=never", "nothing:1"], 125),
        (&["run", "-d", "app:1"], 125),
        (&["run", "-v", "data:/x", "app:1"], 125),
        (&["run", "-w", "rel", "app:1", "true"], 125),
        (&["run", "--entrypoint", "", "app:1", "sh", "-c", "exit 7"], 7),
        (&["run", "--entrypoint", "", "app:1"], 125),
        (&["run", "--entrypoint", "sh", "app:1", "-c", "exit 8"], 8),
        (&["run", "--entrypoint=sh", "app:1", "-ec", "exit 9; --help"], 9),
        (&["run", "--net", "none", "app:1", "test", "-n", "-w"], 0),
    ] {
        let done = lab.run(args);
        assert_eq!(done.code, code, "{args:?}: {}", done.err);
    }
    // What follows the image is the container's, also where rbuild has such flags.
    for flags in [["-e", "X=1"], ["--help", "--root"], ["--", "--tty=false"]] {
        let words = ["run", "--network=none", "--entrypoint=echo", "app:1", "-"];
        let done = lab.run(words.iter().chain(&flags));
        assert_eq!(done.out, format!("- {}\n", flags.join(" ")), "{}", done.err);
    }
}

/// The file of the store that has this name.
fn file_in(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = file_in(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|found| found.to_string_lossy().contains(name)) {
            return Some(path);
        }
    }
    None
}

#[test]
fn an_id_means_an_image_of_the_store_wherever_an_image_is_named() {
    if !bases_or_skip("an_id_means_an_image_of_the_store_wherever_an_image_is_named") {
        return;
    }
    let lab = Lab::new();
    let ok = |args: &[&str]| {
        let done = lab.run(args);
        assert_eq!(done.code, 0, "{args:?}: {}", done.err);
        done.out
    };
    let base = lab.context(&[("Dockerfile", "FROM busybox\nCOPY hello /\n"), ("hello", "hello\n")]);
    let built = lab.build(&base, &["-q"]).out;
    let id = built.trim();
    let short = &id[7..19];
    for name in [id, &id[7..], short, &format!("sha256:{short}")] {
        let text = format!(
            "FROM {name} AS base\nFROM base\nCOPY --from={name} /hello /copied\n\
             RUN --mount=from={name},target=/m cat /m/hello /hello /copied > /all\nCMD cat /all\n"
        );
        let context = lab.context(&[("Dockerfile", &text)]);
        let built = ok(&["build", "-q", "--pull", &context.display().to_string()]);
        assert_eq!(ok(&["run", "--pull=always", built.trim()]), "hello\nhello\nhello\n", "{name}");
        ok(&["validate", name]);
        ok(&["inspect", &format!("store:{name}")]);
        let layout = lab.out(&format!("layout-{}", name.len()));
        ok(&["copy", &format!("store:{name}"), &format!("oci:{}", layout.display())]);
        let index = fs::read_to_string(layout.join("index.json")).expect("index");
        assert!(!index.contains("ref.name"), "{index}");
        let pushed = lab.run(["push", name]);
        assert_eq!(pushed.code, 2, "{}", pushed.err);
        assert!(pushed.err.contains("rbuild tag"), "{}", pushed.err);
    }
    // What can only be an ID does not go to a registry, whatever the store has.
    let none = format!("sha256:{}", "0".repeat(64));
    let context = lab.context(&[("Dockerfile", &format!("FROM {none}\n"))]);
    let context = context.display().to_string();
    for args in [
        &["build", context.as_str()][..],
        &["run", &none],
        &["run", &none[7..]],
        &["validate", &none],
        &["push", &none],
        &["inspect", &format!("store:{none}")],
        &["copy", &format!("store:{none}"), "oci:none"],
    ] {
        let done = lab.run(args);
        assert!(done.code != 0 && done.err.contains("in the store"), "{args:?}: {}", done.err);
    }
    assert!(lab.run(["pull", short]).code != 0);
    assert!(lab.run(["pull", &none]).err.contains("is an image ID"));
    assert!(lab.run(["tag", short, "sha256:1"]).err.contains("beginning of an image ID"));
    // Its names say what to push.
    ok(&["tag", short, "app:1"]);
    assert!(lab.run(["push", short]).err.contains("app:1"));
    // An archive that was saved by an ID has no name, and what has no name is kept without one.
    ok(&["save", "-o", "id.tar", short]);
    let other = Lab::new();
    let archive = lab.path().join("id.tar").display().to_string();
    for again in [false, true] {
        let loaded = other.run(["load", "-i", &archive]);
        assert_eq!(loaded.out, format!("Loaded image ID: {id}\n"), "{again}: {}", loaded.err);
        assert_eq!(other.run(["images", "-aq", "--no-trunc"]).out.trim(), id);
    }
    assert_eq!(other.run(["load", "-q", "-i", &archive]).out.trim(), id);
    assert_eq!(other.run(["run", short, "cat", "/hello"]).out, "hello\n");
    // It is checked as images with a name are.
    assert_eq!(other.run(["fsck"]).code, 0);
    fs::remove_file(file_in(&other.store(), &id[7..]).expect("its config")).expect("removed");
    let checked = other.run(["fsck"]);
    assert_eq!(checked.code, 7);
    let found = format!("{}{}", checked.out, checked.err);
    assert!(found.contains("without a name"), "{found}");
    assert_eq!(other.run(["fsck", "--repair"]).code, 0);
    assert_eq!(other.run(["images", "-aq"]).out, "");
}

#[test]
fn images_for_other_platforms_are_listed_and_named_by_their_ids() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let context = context.display().to_string();
    for (platforms, name) in [
        ("linux/s390x", None),
        ("linux/s390x,linux/riscv64", None),
        ("linux/s390x,linux/ppc64le", Some("app:1")),
    ] {
        let mut args = vec!["build", "-q", "--platform", platforms, context.as_str()];
        args.extend(name.iter().flat_map(|name| ["-t", *name]));
        let built = lab.run(&args);
        assert_eq!(built.code, 0, "{}", built.err);
        let listed = lab.run(["images", "-a", "--no-trunc", "--format", "{{.ID}} {{.Platform}}"]);
        let line = listed.out.lines().find(|line| name.is_some() || line.contains(built.out.trim()));
        assert!(
            line.is_some_and(|line| line.contains("linux/s390x")),
            "{platforms}: {}{}",
            listed.out,
            listed.err
        );
        assert_eq!(listed.err, "");
        for id in listed.out.lines().filter_map(|line| line.split(' ').next()) {
            let tagged = lab.run(["tag", id, "other:1"]);
            assert_eq!(tagged.code, 0, "{id}: {}", tagged.err);
            assert_eq!(lab.run(["rmi", "other:1"]).code, 0);
        }
    }
}

#[test]
fn mistakes_in_a_dockerfile_are_named_with_their_place_and_what_to_do() {
    let lab = Lab::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in include_str!("mistakes.txt").lines().filter(|row| !row.starts_with('#')) {
        let mut fields = row.split('¦').map(str::trim);
        let code: i32 = fields.next().and_then(|code| code.parse().ok()).expect("exit code");
        let text = fields.next().expect("Dockerfile").replace("\\n", "\n");
        fs::write(lab.path().join("Dockerfile"), &text).expect("file");
        let done = lab.run(["build", "--pull=never", "."]);
        count += 1;
        if done.code != code {
            wrong.push(format!("{text}: {} instead of {code}\n{}", done.code, done.err));
        }
        for words in fields.filter(|words| !words.is_empty() && !done.err.contains(words)) {
            wrong.push(format!("{text}: does not say {words:?}\n{}", done.err));
        }
    }
    assert!(count >= 60, "{count} mistakes");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
