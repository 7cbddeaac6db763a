//! What a user meets: mistakes, interruptions, the cache, outputs, verbs.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Lab, Who, base, bases_or_skip, done, has, is_root, skip, user_of};

const HELLO: &[(&str, &str)] =
    &[("Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a > /b\n"), ("a", "one\n")];

#[test]
fn mistakes_are_explained_and_have_their_exit_codes() {
    if !bases_or_skip("mistakes_are_explained_and_have_their_exit_codes") {
        return;
    }
    let lab = Lab::new();
    let rows: &[(&str, &[&str], i32, &[&str])] = &[
        (
            "FROM busybox\nCOPY sorce.txt /\n",
            &[],
            1,
            &["\"sorce.txt\" not found in the build context", "source.txt", "Dockerfile:2"],
        ),
        ("FROM busybox\nCOPY secret.log /\n", &[], 1, &["secret.log", ".dockerignore excludes it", "line 1"]),
        ("FROM busybox\nCOPY --chwon=1 a /\n", &[], 3, &["chwon", "chown", "Dockerfile:2"]),
        (
            "FROM busybox\nRUN echo before; echo on-stderr >&2; exit 42\n",
            &[],
            1,
            &["exit code: 42", "before", "on-stderr", "Dockerfile:2"],
        ),
        ("FROM busybox\nRUN no-such-command\n", &[], 1, &["127", "not found"]),
        ("FROM busybox\nRUN [\"/no/such/program\"]\n", &[], 1, &["exec /no/such/program", "exit code: 127"]),
        ("FROM scratch\nRUN true\n", &[], 1, &["exec /bin/sh", "exit code: 127"]),
        ("FROM busybox AS build\n", &["--target=biuld"], 3, &["biuld", "did you mean", "build"]),
        (
            "FROM busybox AS first\nCOPY --from=later /a /\nFROM busybox AS later\n",
            &["--target=first"],
            3,
            &["later", "before"],
        ),
        ("FROM busybox\nSHELL [\"/bin/sh\", ]\n", &[], 3, &["SHELL", "JSON", "Dockerfile:2"]),
        ("FROM 127.0.0.1:1/no/such:image\n", &[], 5, &["127.0.0.1:1", "refused"]),
        ("FROM busybox\nFORM busybox\n", &[], 3, &["FORM", "FROM"]),
        ("RUN true\n", &[], 3, &["FROM"]),
        ("", &[], 3, &["empty"]),
        (
            "FROM busybox\nRUN --mount=type=cahce,target=/x true\n",
            &[],
            3,
            &["unsupported mount type", "did you mean", "cache"],
        ),
        (
            "FROM busybox\nRUN --mount=type=secret,id=s,required true\n",
            &[],
            1,
            &["secret s: not found", "--secret"],
        ),
        ("FROM busybox\nRUN --mount=from=nowhre,target=/x true\n", &["--pull=never"], 5, &["nowhre"]),
        ("FROM busybox\nRUN --security=insecure true\n", &[], 3, &["--allow security.insecure"]),
        (
            "FROM busybox\nRUN --device=acme.com/pen=red x\n",
            &["--allow=device"],
            1,
            &["acme.com/pen=red", "CDI"],
        ),
        ("FROM busybox\nRUN --mount=source=nope,target=/x true\n", &[], 1, &["\"/nope\" not found"]),
        ("FROM busybox\nADD http://127.0.0.1:1/x /\n", &[], 4, &["127.0.0.1:1/x"]),
        ("FROM busybox\nADD --checksum=wat http://127.0.0.1:1/x /\n", &[], 3, &["invalid checksum"]),
        ("FROM busybox\nCOPY --parents nope/x /\n", &[], 1, &["nope/x", "not found"]),
        ("FROM busybox\nCOPY --exclude=[ a /\n", &[], 1, &["cannot read the pattern"]),
        ("FROM busybox\nCOPY http://127.0.0.1:1/x /\n", &[], 3, &["use ADD"]),
        ("FROM busybox\nUSER ghost\nRUN true\n", &[], 1, &["unable to find user ghost"]),
        ("FROM busybox\nCOPY --chown=ghost a /\n", &[], 1, &["unable to find user ghost"]),
        ("FROM busybox\nCOPY a b /one-name\n", &[], 1, &["must be a directory and end with a /"]),
        ("FROM busybox\n", &["--no-such-flag"], 2, &["--no-such-flag"]),
        ("FROM busybox\n", &["--push"], 2, &["a push needs a name"]),
        ("FROM busybox\n", &["--cache-to=type=webdav"], 8, &["--cache-to type=webdav is not supported yet"]),
        ("FROM busybox\n", &["--cache-to=type=gha"], 2, &["ACTIONS_RESULTS_URL"]),
        ("FROM busybox\n", &["--cache-from=Upper"], 2, &["--cache-from", "Upper"]),
        ("FROM busybox\n", &["--platform=linux/wat/x/y"], 2, &["linux/wat/x/y"]),
        ("FROM busybox\n", &["--secret=id=a,src=/no/such"], 2, &["/no/such"]),
        ("FROM busybox\n", &["--memory-swap=1g"], 2, &["--memory"]),
        ("FROM busybox\n", &["--allow=security.insecur"], 2, &["did you mean"]),
        ("FROM busybox\n", &["-t", "Upper:Case"], 2, &["Upper:Case", "lower"]),
        ("FROM busybox\n", &["-o", "type=oci,dst=x"], 2, &["dst", "dest"]),
        ("FROM busybox\n", &["-f", "Nope"], 4, &["Nope"]),
        (
            "# syntax=example.test/other:1\nFROM busybox\n",
            &[],
            8,
            &["example.test/other:1", "--build-arg BUILDKIT_SYNTAX=docker/dockerfile", "Dockerfile:1"],
        ),
        ("# syntax=h.test/docker/dockerfile-x\nFROM busybox\n", &[], 8, &["h.test/docker/dockerfile-x"]),
        (
            "# syntax=docker/dockerfile:1\nFROM busybox\n",
            &["--build-arg=BUILDKIT_SYNTAX=example.test/other"],
            8,
            &["example.test/other", "--build-arg BUILDKIT_SYNTAX"],
        ),
        (
            "# syntax=example.test/x\nFROM nothing\n",
            &["--build-arg=BUILDKIT_SYNTAX=docker/dockerfile", "--pull=never"],
            5,
            &["nothing"],
        ),
        (
            "# syntax=h.test:5000/a/docker/dockerfile:1@sha256:0 x\nFROM nothing\n",
            &["--pull=never"],
            5,
            &["nothing"],
        ),
        ("FROM busybox\nCOPY a /x/.wh.a\n", &[], 1, &["/x/.wh.a", "mark deletions", "Dockerfile:2"]),
        (
            "FROM busybox\nRUN mkdir /x && : > /x/.wh.\n",
            &[],
            1,
            &["/x/.wh.", "mark deletions", "Dockerfile:2"],
        ),
        ("FROM busybox\nWORKDIR /.wh..wh..opq/a\n", &[], 1, &["/.wh..wh..opq", "mark deletions"]),
    ];
    for (dockerfile, args, code, words) in rows {
        let files = [
            ("Dockerfile", *dockerfile),
            ("source.txt", ""),
            ("a", ""),
            ("b", ""),
            ("secret.log", ""),
            (".dockerignore", "*.log\n"),
        ];
        let context = lab.context(&files);
        let out = lab.out("partial.tar");
        let output = format!("type=oci,dest={}", out.display());
        let mut all = vec!["-o", output.as_str()];
        if args.contains(&"-o") {
            all.clear();
        }
        all.extend(*args);
        let ended = lab.build(&context, &all);
        let text = format!("{}{}", ended.out, ended.err);
        assert_eq!(ended.code, *code, "{dockerfile:?} {args:?}\n{text}");
        for word in *words {
            assert!(text.contains(word), "{word:?} not in the output of {dockerfile:?} {args:?}\n{text}");
        }
        assert!(!out.exists(), "{dockerfile:?} left a partial output");
        assert!(!text.contains("panicked"), "{text}");
    }
    let missing = lab.run(["build", "/no/such/directory"]);
    assert_eq!(missing.code, 4, "{}", missing.err);
    // After all that, the same store builds.
    assert_eq!(lab.build(&lab.context(HELLO), &[]).code, 0);
}

#[test]
fn an_unreadable_file_fails_only_if_it_is_selected() {
    let test = "an_unreadable_file_fails_only_if_it_is_selected";
    if !bases_or_skip(test) {
        return;
    }
    if is_root() && user_of(Who::Rootless).is_none() {
        return skip(test, "root reads everything, and there is no ordinary user (tests/setup makes one)");
    }
    let lab = if is_root() { Lab::as_user(Who::Rootless) } else { Lab::new() };
    let context =
        lab.context(&[("Dockerfile", "FROM busybox\nCOPY open /\n"), ("open", "o"), ("closed", "c")]);
    fs::set_permissions(context.join("closed"), fs::Permissions::from_mode(0o000)).expect("chmod");
    assert_eq!(lab.build(&context, &[]).code, 0);
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY . /\n").expect("write");
    let ended = lab.build(&context, &[]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("closed") && ended.err.contains("ermission denied"), "{}", ended.err);
}

#[test]
fn the_cache_looks_at_content_and_nothing_else() {
    if !bases_or_skip("the_cache_looks_at_content_and_nothing_else") {
        return;
    }
    let lab = Lab::new();
    let dockerfile = "FROM busybox\nRUN echo first > /first\nCOPY --chmod=644 src /src\nARG V=1\nRUN echo $V > /v\nCOPY tail /tail\n";
    let context = lab.context(&[("Dockerfile", dockerfile), ("src/a", "a"), ("tail", "t")]);
    let cached = |more: &[&str]| {
        let ended = lab.build(&context, more);
        assert_eq!(ended.code, 0, "{}", ended.err);
        ended.err.matches("CACHED").count()
    };
    let id = |file: &str| {
        let path = lab.out(file).display().to_string();
        assert_eq!(lab.build(&context, &["--iidfile", &path]).code, 0);
        fs::read_to_string(path).expect("iidfile")
    };
    assert_eq!(cached(&[]), 0);
    assert_eq!(cached(&[]), 4);
    assert_eq!(id("first"), id("second"), "a build in which nothing changed gave another image");
    // New times, another umask under --chmod, another place: the same content.
    fs::write(context.join("src/a"), "a").expect("write");
    fs::set_permissions(context.join("src/a"), fs::Permissions::from_mode(0o664)).expect("chmod");
    assert_eq!(cached(&[]), 4);
    let moved = lab.path().join("elsewhere");
    fs::rename(&context, &moved).expect("rename");
    assert_eq!(lab.build(&moved, &[]).err.matches("CACHED").count(), 4);
    fs::rename(&moved, &context).expect("rename");
    // A new argument leaves what stands before its ARG alone.
    let ended = lab.build(&context, &["--build-arg", "V=2"]);
    assert_eq!(ended.err.matches("CACHED").count(), 2, "{}", ended.err);
    // A changed file rebuilds what follows it.
    fs::write(context.join("src/a"), "b").expect("write");
    assert_eq!(cached(&[]), 1);
    // Going back finds what was there.
    fs::write(context.join("src/a"), "a").expect("write");
    assert_eq!(cached(&[]), 4);
    assert_eq!(cached(&["--no-cache"]), 0);
}

#[test]
fn a_stage_that_came_out_the_same_rebuilds_nothing_that_copies_from_it() {
    if !bases_or_skip("a_stage_that_came_out_the_same_rebuilds_nothing_that_copies_from_it") {
        return;
    }
    let lab = Lab::new();
    let dockerfile = "FROM busybox AS build\nCOPY input /input\nRUN wc -c < /input > /out\n\
                      FROM busybox\nCOPY --from=build /out /out\nRUN cat /out > /seen\n";
    let context = lab.context(&[("Dockerfile", dockerfile), ("input", "123")]);
    assert_eq!(lab.build(&context, &[]).code, 0);
    fs::write(context.join("input"), "456").expect("write");
    let ended = lab.build(&context, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let cached: Vec<&str> = ended.err.lines().filter(|line| line.ends_with("CACHED")).collect();
    assert_eq!(cached.len(), 2, "{}", ended.err);
}

#[test]
fn an_interrupted_build_leaves_nothing_and_the_next_one_works() {
    if !bases_or_skip("an_interrupted_build_leaves_nothing_and_the_next_one_works") {
        return;
    }
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let lab = Lab::new();
        let marker = format!("{}", 1_000_000 + std::process::id());
        let dockerfile = format!("FROM busybox\nRUN sleep {marker}\n");
        let context = lab.context(&[("Dockerfile", &dockerfile)]);
        let out = lab.out("x.tar");
        let mut command = lab.rbuild();
        command
            .arg("build")
            .args(lab.bases())
            .arg("-o")
            .arg(format!("type=oci,dest={}", out.display()))
            .arg(&context);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().expect("spawn");
        wait_for(|| running(&marker));
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().expect("kill");
        let ended = done(child.wait_with_output().expect("wait"));
        assert_eq!(ended.code, code, "{signal}: {}", ended.err);
        assert!(ended.err.contains("interrupted"), "{}", ended.err);
        wait_for(|| !running(&marker));
        assert!(!out.exists());
        assert_eq!(lab.build(&lab.context(HELLO), &[]).code, 0);
    }
}

/// Shells and supervisors that ignore SIGCHLD pass that on to what they start.
#[test]
fn builds_work_where_the_ends_of_children_are_ignored() {
    let test = "builds_work_where_the_ends_of_children_are_ignored";
    if !bases_or_skip(test) {
        return;
    }
    for who in support::modes(test) {
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
        let rbuild = lab.rbuild();
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' CHLD; exec \"$@\"", "sh"])
            .arg(rbuild.get_program())
            .args(rbuild.get_args());
        command.env_clear().envs(rbuild.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.arg("build").args(lab.bases()).arg(&context).current_dir(lab.path());
        let ended = done(command.output().expect("sh"));
        assert_eq!(ended.code, 0, "{who:?}: {}", ended.err);
    }
}

#[test]
fn a_killed_build_takes_its_processes_along_and_its_leftovers_are_cleared() {
    if !bases_or_skip("a_killed_build_takes_its_processes_along_and_its_leftovers_are_cleared") {
        return;
    }
    let lab = Lab::new();
    let marker = format!("{}", 2_000_000 + std::process::id());
    let context = lab.context(&[("Dockerfile", &format!("FROM busybox\nRUN sleep {marker}\n"))]);
    let mut child = lab.rbuild().arg("build").args(lab.bases()).arg(&context).spawn().expect("spawn");
    wait_for(|| running(&marker));
    child.kill().expect("kill -9");
    let _ = child.wait();
    wait_for(|| !running(&marker));
    assert_eq!(lab.build(&lab.context(HELLO), &[]).code, 0);
    let left = fs::read_dir(lab.store().join("tmp")).expect("tmp").count();
    assert_eq!(left, 0, "temporaries are left in the store");
}

#[test]
fn the_network_of_run_works_and_ends_with_the_build() {
    let test = "the_network_of_run_works_and_ends_with_the_build";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let info = lab.run(["info"]).out;
    if !info.contains("RUN has its own") {
        return skip(test, &format!("no helper works here: {info}"));
    }
    // Nothing is started for a build that has nothing to run.
    let cached = "FROM busybox\nRUN ip -o addr show eth0 >/a && cat /etc/resolv.conf /etc/hosts >>/a\n";
    let context = lab.context(&[("Dockerfile", cached)]);
    let image = lab.build_image(&context, &["--add-host=up:host-gateway", "--add-host=db:192.0.2.9"]);
    let text = image.text("/a");
    for expected in ["10.0.2.100", "nameserver 10.0.2.3", "192.0.2.9\tdb"] {
        assert!(text.contains(expected), "{expected:?} not in {text}");
    }
    assert!(!text.contains("127.0.0.1\tup"), "{text}");
    // A killed build takes the helper along.
    let marker = format!("{}", 3_000_000 + std::process::id());
    let context = lab.context(&[("Dockerfile", &format!("FROM busybox\nRUN sleep {marker}\n"))]);
    let mut child = lab.rbuild().arg("build").args(lab.bases()).arg(&context).spawn().expect("spawn");
    wait_for(|| running(&marker));
    let helpers = children(child.id());
    assert!(helpers.len() >= 3, "a step, a keeper and a helper, not {helpers:?}");
    child.kill().expect("kill -9");
    let _ = child.wait();
    wait_for(|| helpers.iter().all(|pid| !alive(*pid)));
}

fn parent_and_state(pid: u32) -> Option<(u32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_and_state(*pid).is_some_and(|(above, _)| above == parent)).collect()
}

fn alive(pid: u32) -> bool {
    parent_and_state(pid).is_some_and(|(_, state)| state != 'Z')
}

fn running(marker: &str) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|c| *c == 0).collect();
        words.first() == Some(&&b"sleep"[..]) && words.contains(&marker.as_bytes())
    })
}

fn wait_for(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(300), "waited a minute in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_full_disk_is_named_and_survived() {
    let test = "a_full_disk_is_named_and_survived";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() {
        return skip(test, "only root can mount a small file system");
    }
    let lab = Lab::new();
    let small = lab.path().join("small");
    fs::create_dir(&small).expect("mkdir");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip(test, "tmpfs cannot be mounted here");
    }
    let root = small.join("store");
    let context = lab.context(&[("Dockerfile", "FROM busybox\nCOPY big /big\n"), ("big", "")]);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let noise: Vec<u8> = (0..16u32 << 20)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    fs::write(context.join("big"), noise).expect("write");
    let mut args = vec!["--root".to_owned(), root.display().to_string(), "build".into()];
    args.extend(lab.bases());
    let full = lab.run(args.iter().cloned().chain([context.display().to_string()]));
    let text = full.err.clone();
    fs::write(context.join("big"), "small").expect("write");
    let next = lab.run(args.iter().cloned().chain([context.display().to_string()]));
    let _ = Command::new("umount").arg("-l").arg(&small).status();
    assert_eq!(full.code, 7, "{text}");
    assert!(text.contains("disk is full") || text.contains("No space left"), "{text}");
    assert_eq!(next.code, 0, "{}", next.err);
}

#[test]
fn where_overlays_cannot_be_mounted_root_file_systems_are_copied() {
    let test = "where_overlays_cannot_be_mounted_root_file_systems_are_copied";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() {
        return skip(test, "only root can mount the overlay that the store is to lie on");
    }
    let lab = Lab::new();
    for name in ["low", "up", "work", "over"] {
        fs::create_dir(lab.path().join(name)).expect("mkdir");
    }
    let path = |name: &str| lab.path().join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", path("low"), path("up"), path("work"));
    let mounted =
        Command::new("mount").args(["-t", "overlay", "-o", &options, "none", &path("over")]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return skip(test, "overlayfs cannot be mounted here");
    }
    let dockerfile = "FROM busybox\nRUN mkdir /d && echo 1 > /d/one && echo 2 > /d/two && echo k > /kept\n\
                      RUN rm /d/one && echo more >> /kept && ln /kept /linked && chown 7:8 /d\n\
                      RUN rm -r /d && echo file > /d && ls / > /list\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let root = format!("{}/store", path("over"));
    let archive = lab.out("copied.tar");
    let output = format!("type=tar,dest={}", archive.display());
    let mut args = vec![
        "--root".to_owned(),
        root.clone(),
        "build".into(),
        "--progress=plain".into(),
        "-o".into(),
        output,
    ];
    args.extend(lab.bases());
    args.push(context.display().to_string());
    let ended = lab.run(&args);
    let info = lab.run(["--root", &root, "info"]).out;
    let _ = Command::new("umount").arg("-l").arg(path("over")).status();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("every RUN copies its root file system"), "{}", ended.err);
    assert!(info.contains("Snapshots:  copies"), "{info}");
    let read = |file: &str| support::tool("tar", &["-xOf".as_ref(), archive.as_os_str(), file.as_ref()]).out;
    assert_eq!((read("d"), read("kept")), ("file\n".into(), "k\nmore\n".into()));
    let names = support::tool("tar", &["-tvf".as_ref(), archive.as_os_str()]).out;
    assert!(names.contains("linked link to kept") || names.contains("kept link to linked"), "{names}");
    assert!(
        !names.contains("d/two") && !names.contains(" proc/") && !names.contains("etc/resolv.conf"),
        "{names}"
    );
}

#[test]
fn contexts_and_dockerfiles_may_come_on_standard_input() {
    use std::io::Write as _;
    use std::process::Stdio;
    if !bases_or_skip("contexts_and_dockerfiles_may_come_on_standard_input") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(HELLO);
    let pipe = |args: &[&str], input: &[u8]| {
        let mut command = lab.rbuild();
        command.arg("build").args(lab.bases()).args(args).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("spawn");
        child.stdin.take().expect("stdin").write_all(input).expect("write");
        done(child.wait_with_output().expect("wait"))
    };
    let text = b"FROM busybox\nRUN true\n";
    assert_eq!(pipe(&["-"], text).code, 0);
    let directory = context.display().to_string();
    assert_eq!(pipe(&["-f", "-", &directory], b"FROM busybox\nCOPY a /\n").code, 0);
    let archive =
        Command::new("tar").args(["-C", &directory, "-czf", "-", "."]).output().expect("tar").stdout;
    assert_eq!(pipe(&["-"], &archive).code, 0);
    assert_eq!(pipe(&["-f", "-", "-"], text).code, 4);
}

#[test]
fn results_go_where_they_were_asked_to() {
    if !bases_or_skip("results_go_where_they_were_asked_to") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(HELLO);
    let (iid, meta, dir) = (lab.out("iid"), lab.out("meta.json"), lab.out("files"));
    let ended = lab.build(
        &context,
        &[
            "-q",
            "-t",
            "app:1",
            "-t",
            "other/app",
            "--iidfile",
            &iid.display().to_string(),
            "--metadata-file",
            &meta.display().to_string(),
            "-o",
            &dir.display().to_string(),
        ],
    );
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.err, "");
    let id = fs::read_to_string(&iid).expect("iidfile");
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id:?}");
    assert_eq!(ended.out, format!("{id}\n"));
    let meta: serde_json::Value = serde_json::from_slice(&fs::read(&meta).expect("metadata")).expect("JSON");
    assert_eq!(meta["containerimage.config.digest"], id.as_str());
    assert_eq!(meta["image.name"], "docker.io/library/app:1,docker.io/other/app:latest");
    assert_eq!(fs::read_to_string(dir.join("b")).expect("b"), "one\n");

    let images = lab.run(["images"]).out;
    assert!(images.contains("app ") && images.contains("other/app"), "{images}");
    assert_eq!(lab.run(["run", "app:1", "cat", "/b"]).out, "one\n");
    assert_eq!(lab.run(["run", "app:1", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(
        lab.run(["run", "-e", "X=y", "-w", "/tmp", "-u", "app", "app:1", "sh", "-c", "echo $X $PWD; id -un"])
            .out,
        "y /tmp\napp\n"
    );
    let inspected: serde_json::Value =
        serde_json::from_str(&lab.run(["inspect", "app:1"]).out).expect("JSON");
    assert_eq!(inspected[0]["Id"], id.as_str());
    assert!(lab.run(["history", "app:1"]).out.contains("RUN /bin/sh -c cat /a > /b"));
    assert_eq!(lab.run(["tag", "app:1", "copy:2"]).code, 0);
    assert_eq!(lab.run(["rmi", "app:1", "other/app"]).code, 0);
    assert_eq!(lab.run(["run", "--pull=never", "app:1", "true"]).code, 125);
    assert_eq!(lab.run(["run", "copy:2", "cat", "/a"]).out, "one\n");
    let info = lab.run(["info"]).out;
    assert!(info.contains("Snapshots:  overlayfs") && info.contains("Seccomp:    yes"), "{info}");
}

#[test]
fn plans_are_shown_without_building() {
    if !bases_or_skip("plans_are_shown_without_building") {
        return;
    }
    let lab = Lab::new();
    let dockerfile =
        "FROM busybox AS a\nRUN exit 1\nFROM busybox AS unused\nFROM busybox\nCOPY --from=a /x /\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let plan = |format: &str| {
        let mut args = vec!["plan".to_owned(), "--format".into(), format.into()];
        args.extend(lab.bases());
        args.push(context.display().to_string());
        let ended = lab.run(args);
        assert_eq!(ended.code, 0, "{}", ended.err);
        ended.out
    };
    assert!(plan("text").contains("COPY --from=a /x /") && !plan("text").contains("unused"));
    assert!(plan("dot").starts_with("digraph"));
    let json: serde_json::Value = serde_json::from_str(&plan("json")).expect("JSON");
    assert_eq!(json["steps"].as_array().map(Vec::len), Some(4));
}

#[test]
fn archives_are_read_by_other_tools_and_by_rbuild_itself() {
    let test = "archives_are_read_by_other_tools_and_by_rbuild_itself";
    if !bases_or_skip(test) {
        return;
    }
    if !has("skopeo") {
        return skip(test, "skopeo is not installed");
    }
    let lab = Lab::new();
    let context = lab.context(HELLO);
    for (kind, transport, more) in [
        ("oci", "oci-archive", ""),
        ("oci", "oci-archive", ",compression=zstd"),
        ("oci", "oci-archive", ",compression=uncompressed"),
        ("docker", "docker-archive", ""),
    ] {
        let path = lab.out(&format!("{kind}{}.tar", more.len()));
        let output = format!("type={kind},dest={}{more}", path.display());
        let ended = lab.build(&context, &["-t", "app:1", "-o", &output]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let source = format!("{transport}:{}", path.display());
        let target = format!("dir:{}", lab.out(&format!("dir-{kind}-{}", more.len())).display());
        support::tool(
            "skopeo",
            &["--insecure-policy".as_ref(), "copy".as_ref(), "-q".as_ref(), source.as_ref(), target.as_ref()],
        );
        // And back again as a base.
        let child = lab.context(&[("Dockerfile", "FROM again\nRUN cat /b\n")]);
        let again = format!("again={}", path.display());
        let ended = lab.build(&child, &["--build-context", &again]);
        assert_eq!(ended.code, 0, "{kind}{more}: {}", ended.err);
    }
}

#[test]
fn the_same_inputs_and_epoch_give_the_same_image_for_root_and_others() {
    let test = "the_same_inputs_and_epoch_give_the_same_image_for_root_and_others";
    if !bases_or_skip(test) {
        return;
    }
    let files = [
        ("Dockerfile", "FROM busybox\nWORKDIR /w\nCOPY . .\nRUN echo x > y && mkdir z\n"),
        ("a", "a"),
        ("d/b", "b"),
    ];
    let digest = |who: Who| {
        let lab = Lab::as_user(who);
        let context = lab.context(&files);
        let mut command = lab.rbuild();
        command.env("SOURCE_DATE_EPOCH", "1700000000").arg("build").arg("-q").args(lab.bases()).arg(&context);
        let ended = done(command.output().expect("output"));
        assert_eq!(ended.code, 0, "{}", ended.err);
        ended.out
    };
    let first = digest(Who::Caller);
    assert_eq!(first, digest(Who::Caller));
    if user_of(Who::Rootless).is_some() && is_root() {
        assert_eq!(first, digest(Who::Rootless));
    } else {
        skip(test, "there is no ordinary user to compare with (tests/setup makes one as root)");
    }
}

#[test]
fn one_user_id_is_enough_for_builds_as_root_inside() {
    let test = "one_user_id_is_enough_for_builds_as_root_inside";
    if !bases_or_skip(test) {
        return;
    }
    if user_of(Who::SingleId).is_none() || !is_root() {
        return skip(test, "there is no ordinary user without subordinate IDs (tests/setup makes one)");
    }
    let lab = Lab::as_user(Who::SingleId);
    let ended = lab.build(&lab.context(HELLO), &["-t", "app:1"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(lab.run(["run", "app:1", "cat", "/b"]).out, "one\n");
    assert!(lab.run(["info"]).out.contains("one ID only"));
}

#[test]
fn apt_works_inside_a_debian_base() {
    let test = "apt_works_inside_a_debian_base";
    if base("debian").is_none() {
        return skip(test, "tests/setup has not made the Debian base");
    }
    let dockerfile = "FROM debian\nRUN apt-get update && apt-get install -y --no-install-recommends hello\nRUN hello > /said\n";
    for (who, network) in
        [(Who::Caller, "default"), (Who::Caller, "host"), (Who::Rootless, "default"), (Who::Rootless, "host")]
    {
        if who == Who::Rootless && (user_of(who).is_none() || !is_root()) {
            skip(test, "there is no ordinary user with subordinate IDs");
            continue;
        }
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", dockerfile)]);
        let ended = lab.build(&context, &["--network", network, "-t", "deb:1"]);
        assert_eq!(ended.code, 0, "{who:?} {network}: {}", ended.err);
        assert_eq!(lab.run(["run", "deb:1", "cat", "/said"]).out, "Hello, world!\n");
    }
}

#[test]
fn a_build_in_which_everything_is_cached_gives_the_image_it_gave_though_nothing_below_has_a_time() {
    let lab = Lab::new();
    let text = "FROM scratch\nENV a=b\nLABEL c=d\nCOPY Dockerfile /d\nENV e=f\n";
    let context = lab.context(&[("Dockerfile", text)]);
    let build = || {
        let done = lab.run(["build", "-q", &context.display().to_string()]);
        assert_eq!(done.code, 0, "{}", done.err);
        done.out
    };
    let first = build();
    // Times have whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(build(), first);
}

/// The compressions of an image's layers in a layout, lowest first, and the digest of its config.
fn layers_of(layout: &Path) -> (Vec<String>, String) {
    let read = |path: String| -> serde_json::Value {
        serde_json::from_slice(&fs::read(layout.join(path)).expect("a file")).expect("JSON")
    };
    let top = read("index.json".into())["manifests"][0]["digest"].as_str().unwrap_or_default().to_owned();
    let manifest = read(top.replace("sha256:", "blobs/sha256/"));
    let layers = manifest["layers"].as_array().expect("layers").iter().map(|layer| {
        let of_estargz = layer["annotations"].to_string().contains("stargz");
        let media_type = layer["mediaType"].as_str().unwrap_or_default();
        let kind = media_type.rsplit(['.', '+']).next().unwrap_or_default();
        if of_estargz { "estargz".to_owned() } else { kind.to_owned() }
    });
    (layers.collect(), manifest["config"]["digest"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn each_output_has_its_own_compression() {
    let lab = Lab::new();
    let base = lab.out("base");
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f")]);
    let output = format!("type=oci,tar=false,dest={}", base.display());
    let made = lab.run(["build", "-o", &output, &context.display().to_string()]);
    assert_eq!(made.code, 0, "{}", made.err);
    let context = lab.context(&[("Dockerfile", "FROM base\nCOPY g /g\n"), ("g", "g")]);
    let wanted = [
        ("plain", "", ["gzip", "gzip"]),
        ("zstd", ",compression=zstd", ["gzip", "zstd"]),
        ("forced", ",compression=zstd,force-compression=true", ["zstd", "zstd"]),
        ("tar", ",compression=uncompressed", ["gzip", "tar"]),
        ("star", ",compression=estargz", ["gzip", "estargz"]),
        ("leveled", ",compression=zstd,compression-level=9", ["gzip", "zstd"]),
    ];
    // In any order, and again with everything cached.
    for (round, by) in [0, 1, 3, 3].into_iter().enumerate() {
        let mut order = wanted;
        order.rotate_left(by);
        let mut args = vec!["build".to_owned(), "-t".into(), format!("own:{round}")];
        args.push(format!("--build-context=base=oci-layout://{}", base.display()));
        for (name, options, _) in order {
            let dest = lab.out(&format!("{round}-{name}"));
            args.push(format!("-otype=oci,tar=false,dest={}{options}", dest.display()));
        }
        args.push(context.display().to_string());
        let done = lab.run(&args);
        assert_eq!(done.code, 0, "{}", done.err);
        let (_, id) = layers_of(&lab.out(&format!("{round}-plain")));
        for (name, _, layers) in order {
            let (found, config) = layers_of(&lab.out(&format!("{round}-{name}")));
            assert_eq!(found, layers, "{round} {name}");
            // Layers of estargz have more entries.
            assert_eq!(config == id, name != "star", "{round} {name}");
        }
        // A tag means the image of the first output.
        let own = lab.out(&format!("own-{round}"));
        let to = format!("oci:{}", own.display());
        let copied = lab.run(["copy", &format!("store:own:{round}"), &to]);
        assert_eq!(copied.code, 0, "{}", copied.err);
        assert_eq!(layers_of(&own), layers_of(&lab.out(&format!("{round}-{}", order[0].0))));
    }
}

#[test]
fn outputs_cannot_want_the_same_layers_with_different_times() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f")]);
    let context = context.display().to_string();
    let output = |name: &str, more: &str| format!("-otype=oci,dest={}{more}", lab.out(name).display());
    let (kept, plain) = (output("a", ",rewrite-timestamp=false"), output("b", ""));
    let also_kept = output("b", ",rewrite-timestamp=false");
    let build = |outputs: [&str; 2], epoch: &str| {
        let mut command = lab.rbuild();
        command.env("SOURCE_DATE_EPOCH", epoch).args(["build", outputs[0], outputs[1], &context]);
        support::done(command.output().expect("rbuild"))
    };
    let refused = build([&plain, &kept], "1");
    assert!(refused.code == 2 && refused.err.contains("rewrite-timestamp"), "{}", refused.err);
    for (outputs, epoch) in [([&kept, &also_kept], "1"), ([&kept, &plain], "")] {
        let done = build(outputs.map(String::as_str), epoch);
        assert_eq!(done.code, 0, "{}", done.err);
    }
}

const OPENS: &str = "echo out > /dev/stdout && echo err > /dev/stderr && echo both | tee /log";

/// By the names that official images link their log files to, in a step and in `rbuild run`, for root and
/// for others, whoever root is outside.
#[test]
fn programs_open_their_output_by_name() {
    let test = "programs_open_their_output_by_name";
    for who in support::modes(test) {
        let lab = Lab::as_user(who);
        let dockerfile =
            format!("FROM busybox\nRUN ln -s /dev/stderr /log\nRUN {OPENS}\nUSER app\nRUN {OPENS}\n");
        let context = lab.context(&[("Dockerfile", &dockerfile)]);
        let kinds: &[&str] =
            if who == Who::Caller && is_root() { &["auto", "private", "host"] } else { &["auto"] };
        for kind in kinds {
            let mode = format!("{who:?}, {kind}");
            let userns = format!("--userns={kind}");
            let built = lab.build(&context, &[&userns, "--network=none", "--no-cache", "-t", "app:1"]);
            if *kind == "private" && built.code == 9 {
                skip(test, "there are no private user namespaces here");
                continue;
            }
            assert_eq!(built.code, 0, "{mode}: {}", built.err);
            for user in ["root", "app", "1234:5"] {
                let ran = lab.run(["run", &userns, "-u", user, "app:1", "sh", "-c", OPENS]);
                assert_eq!((ran.code, &*ran.out), (0, "out\nboth\n"), "{mode}, {user}: {}", ran.err);
                // Before it there may be a notice of the network.
                assert!(ran.err.ends_with("err\nboth\n"), "{mode}, {user}: {}", ran.err);
            }
        }
    }
}

#[test]
fn what_run_writes_arrives_in_order_and_in_files_that_stay_the_callers() {
    use std::os::unix::fs::MetadataExt as _;
    if !bases_or_skip("what_run_writes_arrives_in_order_and_in_files_that_stay_the_callers") {
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nUSER app\n")]);
    assert_eq!(lab.build(&context, &["-t", "app:1"]).code, 0);
    let path = lab.out("log");
    let file = fs::File::create(&path).expect("log");
    let before = file.metadata().expect("metadata");
    let script =
        "for n in 1 2 3; do echo o$n; echo e$n >&2; echo n$n > /dev/stdout; done; printf '\\200no end'";
    let mut command = lab.rbuild();
    command.args(["run", "app:1", "sh", "-c", script]);
    let status = command.stdout(file.try_clone().expect("file")).stderr(file).status().expect("rbuild");
    assert!(status.success());
    assert_eq!(fs::read(&path).expect("log"), b"o1\ne1\nn1\no2\ne2\nn2\no3\ne3\nn3\n\x80no end");
    let after = fs::metadata(&path).expect("metadata");
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
    // A reader that has enough ends a program that would go on for ever.
    let mut child = lab
        .rbuild()
        .args(["run", "app:1", "yes"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("rbuild");
    let mut some = [0u8; 4];
    std::io::Read::read_exact(&mut child.stdout.take().expect("stdout"), &mut some).expect("output");
    assert_eq!(&some, b"y\ny\n");
    assert!(!child.wait().expect("end").success());
}
