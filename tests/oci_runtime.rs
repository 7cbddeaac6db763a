//! `--isolation=oci`: an OCI runtime runs the steps, and images come out the same.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Done, Lab, Who, base, done, has, is_root, skip, user_of};

/// Every runtime that is installed, for root and for an ordinary user.
fn everybody(test: &str, check: impl Fn(&Lab, &str)) {
    if base("busybox").is_none() {
        skip(test, "tests/setup has not made the base images");
        return;
    }
    let installed: Vec<&str> = ["crun", "runc"].into_iter().filter(|name| has(name)).collect();
    if installed.is_empty() {
        skip(test, "neither crun nor runc is installed");
    }
    for runtime in installed {
        check(&Lab::new(), runtime);
        if !is_root() {
            continue;
        }
        if user_of(Who::Rootless).is_none() {
            skip(test, "there is no ordinary user with subordinate IDs (tests/setup makes one)");
            continue;
        }
        check(&Lab::as_user(Who::Rootless), runtime);
    }
}

fn flags(runtime: &str) -> [String; 2] {
    ["--isolation=oci".into(), format!("--runtime={runtime}")]
}

fn build(lab: &Lab, context: &Path, more: &[&str]) -> Done {
    lab.build(context, &[&["--no-cache"], more].concat())
}

/// What a step may have written is in the image: two images with the same layers ran the same.
fn same_as_native(lab: &Lab, runtime: &str, dockerfile: &str, more: &[&str]) {
    let context = lab.context(&[("Dockerfile", dockerfile), ("file", "content\n")]);
    let layers = |isolation: &[&str]| {
        let mut all = vec!["--no-cache", "--reproducible", "--network=none"];
        all.extend(isolation.iter().chain(more));
        let image = lab.build_image(&context, &all);
        (image.manifest["layers"].clone(), image.manifest["config"].clone(), image)
    };
    let own = layers(&["--isolation=native"]);
    let [isolation, name] = flags(runtime);
    let other = layers(&[&isolation, &name]);
    let logs = format!("{runtime} {:?}\n{}\n{}", lab.who, own.2.build.err, other.2.build.err);
    assert_eq!((&own.0, &own.1), (&other.0, &other.1), "{logs}");
    let left = fs::read_dir(lab.store().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the runtime left something");
}

const SURROUNDINGS: &str = "FROM busybox
RUN mkdir -m 750 /d && echo x > /d/f && chown 1000:2000 /d/f && chmod 6755 /d/f && ln -s f /d/link && mkfifo /d/p
RUN grep -E '^(Cap|NoNewPrivs|Seccomp:|Umask|Groups|Uid|Gid)' /proc/self/status > /status && id > /id
RUN env > /env; hostname > /hostname; cat /etc/hosts > /hosts; ulimit -n > /nofile; pwd > /pwd; echo $$ > /pid
RUN ls -1 / /dev /etc > /names; stat -c '%N %u:%g %a' /dev/fd /dev/stdin > /links; df -k /dev/shm | awk 'NR==2{print $2}' > /shm
RUN cat /proc/sys/kernel/hostname > /dev/null; ! echo x 2>/dev/null > /proc/sys/kernel/hostname
RUN wc -c < /proc/timer_list > /masked 2>&1; ls /sys/firmware >> /masked 2>&1; ip addr show lo | grep inet > /lo
RUN ! mount -t tmpfs none /tmp 2> /refused; ! unshare -U true 2>> /refused; ! hostname other 2>> /refused
RUN mknod /tmp/null c 1 3 2> /dev/null; ! cat /tmp/null 2> /dev/null; ! cat /dev/other 2> /dev/null; rm -f /tmp/null
RUN mknod /dev/null2 c 1 3 2> /dev/null; ! cat /dev/null2 2> /dev/null
RUN stat -c %F /dev/stdin > /stdin; stat -L -c %t:%T /proc/self/fd/0 >> /stdin; cat >> /stdin; ls /proc/self/fd > /descriptors
USER app
WORKDIR /w/w
RUN id > /tmp/id; grep Cap /proc/self/status > /tmp/caps; ! touch /d/no 2> /dev/null; pwd > /tmp/pwd
USER 1234:extra
RUN id > /tmp/id2
USER root
RUN cd / && rm -rf /home/app && mv /w /moved && : > /etc/made
";

#[test]
fn steps_see_the_same_and_leave_the_same() {
    everybody("steps_see_the_same_and_leave_the_same", |lab, runtime| {
        same_as_native(lab, runtime, SURROUNDINGS, &["--ulimit=nofile=200:300", "--shm-size=1m"]);
    });
}

const MOUNTS: &str = "FROM busybox AS other
RUN mkdir -p /o/in && echo o > /o/f && chown 7:8 /o/f
FROM busybox
COPY file /under/file
RUN --mount=type=cache,target=/c/deep,uid=5,mode=0700 --mount=type=tmpfs,target=/t --mount=type=tmpfs,target=/t/in \\
    --mount=type=bind,from=other,source=/o,target=/b --mount=type=bind,target=/dev/ctx \\
    --mount=type=secret,id=s,uid=9,mode=0440 --mount=type=bind,source=file,target=/under/file \\
    stat -c '%n %u:%g %a %F' /c/deep /t /t/in /run/secrets/s /b/f /dev/ctx/file /under/file > /seen && \\
    echo x > /c/deep/x && echo x > /t/x && cat /run/secrets/s | wc -c >> /seen && ! echo x 2> /dev/null > /b/new
RUN --mount=type=cache,target=/c/deep cat /c/deep/x > /kept; test ! -e /run/secrets/s
RUN --mount=type=bind,from=other,source=/o,target=/b,rw echo x > /b/new; ls /b >> /seen
RUN --mount=type=secret,id=s,env=TOKEN test \"$TOKEN\" = hidden
RUN <<EOF
echo heredoc > /heredoc
EOF
RUN ls -R /b /c /t /under > /after 2>&1; true
";

#[test]
fn mounts_are_there_and_leave_nothing() {
    everybody("mounts_are_there_and_leave_nothing", |lab, runtime| {
        let secret = lab.path().join("secret");
        fs::write(&secret, "hidden").expect("write");
        let secret = format!("--secret=id=s,src={}", secret.display());
        same_as_native(lab, runtime, MOUNTS, &[&secret]);
    });
}

#[test]
fn insecure_steps_have_everything() {
    everybody("insecure_steps_have_everything", |lab, runtime| {
        let dockerfile = "# syntax=docker/dockerfile:1-labs\nFROM busybox
RUN --security=insecure grep -E 'Cap|Seccomp:' /proc/self/status > /status && mount -t tmpfs none /tmp && ls /dev > /dev-names
";
        same_as_native(lab, runtime, dockerfile, &["--allow=security.insecure"]);
    });
}

#[test]
fn failures_are_told_as_without() {
    everybody("failures_are_told_as_without", |lab, runtime| {
        let [isolation, name] = flags(runtime);
        for (step, code, message) in [
            ("RUN echo out; echo err >&2; exit 7", 1, "exit code: 7"),
            ("RUN [\"no-such-program\"]", 1, "exit code: 127"),
            ("RUN [\"/etc/passwd\"]", 1, "exit code: 126"),
            ("RUN sh -c 'kill -KILL $$' || exit $?", 1, "exit code: 137"),
            ("RUN --mount=type=secret,id=missing,required true", 1, "missing"),
        ] {
            let context = lab.context(&[("Dockerfile", &format!("FROM busybox\n{step}\n"))]);
            let other = build(lab, &context, &[&isolation, &name, "--network=none"]);
            let own = build(lab, &context, &["--network=none"]);
            assert_eq!(other.code, code, "{runtime} {:?} {step}: {}", lab.who, other.err);
            assert!(other.err.contains(message), "{runtime} {step}: {}", other.err);
            assert_eq!(own.code, code, "{}", own.err);
            assert!(own.err.contains(message), "{step}: {}", own.err);
        }
        let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN sleep 60\n")]);
        let late = build(lab, &context, &[&isolation, &name, "--network=none", "--timeout=1s"]);
        assert!(late.code == 1 && late.err.contains("timed out after 1s"), "{}", late.err);
    });
}

#[test]
fn the_network_of_the_build_is_joined() {
    everybody("the_network_of_the_build_is_joined", |lab, runtime| {
        let [isolation, name] = flags(runtime);
        let context = lab
            .context(&[("Dockerfile", "FROM busybox\nRUN ls -1 /sys/class/net && cat /etc/resolv.conf\n")]);
        let seen = |more: &[&str]| {
            let done = build(lab, &context, more);
            assert_eq!(done.code, 0, "{runtime} {:?}: {}", lab.who, done.err);
            let lines = done.err.lines().filter_map(|line| {
                let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
                let (time, text) = rest.split_once(' ')?;
                let printed = number.parse::<u32>().is_ok() && time.parse::<f32>().is_ok();
                // Containers that come and go beside the tests.
                (printed && !text.starts_with("veth")).then(|| text.to_owned())
            });
            lines.collect::<Vec<String>>()
        };
        assert_eq!(seen(&[&isolation, &name]), seen(&[]));
        let host = ["--network=host", "--allow=network.host"];
        assert_eq!(seen(&[&isolation, &name, host[0], host[1]]), seen(&host));
    });
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    everybody("an_interrupted_build_leaves_nothing", |lab, runtime| {
        let marker = (5_000_000 + std::process::id()).to_string();
        let context = lab.context(&[("Dockerfile", &format!("FROM busybox\nRUN sleep {marker}\n"))]);
        let mut command = lab.rbuild();
        command.args(["build", "--network=none"]).args(flags(runtime)).args(lab.bases()).arg(&context);
        let child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
        wait_until(|| sleeps(&marker));
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.expect("kill").success());
        let ended = done(child.wait_with_output().expect("output"));
        assert_eq!(ended.code, 130, "{runtime} {:?}: {}", lab.who, ended.err);
        wait_until(|| !sleeps(&marker));
        assert_eq!(fs::read_dir(lab.store().join("tmp")).map_or(0, Iterator::count), 0);
    });
}

/// Whether `sleep MARKER` runs.
fn sleeps(marker: &str) -> bool {
    fs::read_dir("/proc").expect("/proc").flatten().any(|entry| {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|c| *c == 0).collect();
        words.first() == Some(&&b"sleep"[..]) && words.contains(&marker.as_bytes())
    })
}

fn wait_until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(300), "it never happened");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_runtime_that_fails_is_quoted() {
    let test = "a_runtime_that_fails_is_quoted";
    if base("busybox").is_none() {
        skip(test, "tests/setup has not made the base images");
        return;
    }
    let lab = Lab::new();
    let context = lab.context(&[
        ("Dockerfile", "FROM busybox\nRUN true\n"),
        (
            "broken",
            "#!/bin/sh\nwhile [ \"$1\" != --log ]; do shift; done\n\
             echo '{\"level\":\"error\",\"msg\":\"no such luck\"}' > \"$2\"\nexit 1\n",
        ),
    ]);
    let broken = context.join("broken");
    let status = Command::new("chmod").arg("755").arg(&broken).status();
    assert!(status.expect("chmod").success());
    let flag = format!("--runtime={}", broken.display());
    let failed = build(&lab, &context, &["--isolation=oci", &flag, "--network=none"]);
    let whole = format!("{}: no such luck", broken.display());
    assert!(failed.code == 9 && failed.err.contains(&whole), "{} {}", failed.code, failed.err);
    let missing = build(&lab, &context, &["--isolation=oci", "--runtime=no-such-runtime"]);
    assert!(missing.code == 9 && missing.err.contains("no-such-runtime is not in PATH"), "{}", missing.err);
}

#[test]
fn what_does_not_go_together_is_named() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\n")]);
    for (more, code, message) in [
        (&["--runtime=crun"][..], 2, "--runtime needs --isolation=oci"),
        (&["--isolation=hyperv"], 8, "--isolation=hyperv is not supported"),
        (&["--isolation=odd"], 2, "invalid isolation \"odd\""),
    ] {
        let refused = build(&lab, &context, more);
        assert!(refused.code == code && refused.err.contains(message), "{more:?}: {}", refused.err);
    }
    if has("crun") && is_root() {
        let refused = build(&lab, &context, &["--isolation=oci", "--runtime=crun", "--userns=private"]);
        assert!(refused.code == 8 && refused.err.contains("--userns=private"), "{}", refused.err);
        if user_of(Who::SingleId).is_some() {
            let lab = Lab::as_user(Who::SingleId);
            let refused =
                build(&lab, &lab.context(&[("Dockerfile", "FROM scratch\n")]), &["--isolation=oci"]);
            assert!(refused.code == 8 && refused.err.contains("one user ID only"), "{}", refused.err);
        }
    }
}
