//! Where something of the kernel is missing, images come out the same. overlayfs cannot be mounted in a
//! container whose files lie on one: steps run in copies of their root file system. Old container runtimes refuse
//! `openat2`: paths are resolved by hand.

#[allow(dead_code)]
#[path = "disk/inject.rs"]
mod inject;
#[path = "support/overlay.rs"]
mod overlay;
mod support;

use std::fs;
use std::path::Path;

use overlay::Mounted;
use support::{Lab, Who, base, is_root, modes, skip};

const DOCKERFILE: &str = "FROM busybox AS other
RUN mkdir /o && echo o > /o/f && chown -R 7:8 /o
FROM busybox
RUN mkdir -m 750 /d && echo x > /d/f && chown 1000:2000 /d/f && echo l > /d/l && ln /d/l /d/hard && ln -s f /d/link && mkfifo /d/p
RUN echo more >> /d/hard && stat -c %Y /etc > /time
RUN rm /bin/sleep && echo changed > /etc/motd && chmod 6755 /d/f && mv /home/app /home/moved
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s --mount=target=/context \\
    --mount=type=bind,from=other,source=/o,target=/b,rw \\
    cat /b/f /context/file /run/secrets/s > /seen && echo z | tee /c/z /t/z /b/new
COPY --from=other --chown=5 /o /copied
RUN mkdir -p /n/a/b /n/c && ln -s /n/socket /dev/log && (syslogd -n -O /dev/null & until [ -S /n/socket ]; do sleep 0.1; done; kill $!; wait)
RUN chmod 620 /n/socket && touch /n/c/f
RUN chmod 700 /n/a/b
RUN touch /n/c/t && rm /n/c/t && touch -d @1000000000 /n/c
RUN touch -d @1000000000 /n/a && find /n -exec stat -c '%n %F %a' {} \\; | sort > /listing
USER app
WORKDIR /w
RUN id > /tmp/id; ! touch /d/no 2> /dev/null
";

#[test]
fn images_are_the_same_without_overlayfs() {
    let test = "images_are_the_same_without_overlayfs";
    if base("busybox").is_none() {
        return skip(test, "tests/setup has not made the base images");
    }
    if !is_root() {
        return skip(test, "needs root");
    }
    let lab = Lab::new();
    let Some(overlay) = Mounted::overlay(&lab, &lab.out("overlay/merged")) else {
        return skip(test, "overlayfs cannot be mounted here");
    };
    let merged = &overlay.0;
    let context = lab.context(&[("Dockerfile", DOCKERFILE), ("file", "content\n"), ("secret", "hidden\n")]);
    let digest = |root: &Path| {
        let mut command = lab.rbuild();
        let secret = format!("id=s,src={}", context.join("secret").display());
        command.arg("--root").arg(root).args([
            "build",
            "-q",
            "--reproducible",
            "--network=none",
            "--secret",
            &secret,
        ]);
        let done = support::done(command.args(lab.bases()).arg(&context).output().expect("rbuild"));
        assert_eq!(done.code, 0, "{}: {}", root.display(), done.err);
        let info = support::done(lab.rbuild().arg("--root").arg(root).arg("info").output().expect("rbuild"));
        (done.out, info.out.contains("copies: every RUN copies"))
    };
    let (with, copies) = digest(&lab.store());
    assert!(!copies, "overlayfs works here");
    let (without, copies) = digest(&merged.join("store"));
    assert!(copies, "overlayfs works on overlayfs here");
    assert_eq!(with, without);
}

/// A context on a file system that maps no owners: root in RUN is this machine's, with one notice, and
/// nothing is copied for it.
#[test]
fn what_cannot_be_mapped_is_mounted_all_the_same() {
    let test = "what_cannot_be_mapped_is_mounted_all_the_same";
    if base("busybox").is_none() {
        return skip(test, "tests/setup has not made the base images");
    }
    if !is_root() {
        return skip(test, "needs root");
    }
    let lab = Lab::new();
    let Some(overlay) = Mounted::overlay(&lab, &lab.out("overlay/merged")) else {
        return skip(test, "overlayfs cannot be mounted here");
    };
    let dockerfile = "FROM busybox\nRUN mkdir /d && echo x > /d/f\nRUN --mount=target=/c cat /c/file > /seen && rm /d/f\nRUN true\n";
    fs::write(overlay.0.join("Dockerfile"), dockerfile).expect("Dockerfile");
    fs::write(overlay.0.join("file"), "content\n").expect("file");
    let image = lab.build_image(&overlay.0, &["--network=none"]);
    assert_eq!(image.text("/seen"), "content\n");
    assert!(!image.build.err.contains("copies its root"), "{}", image.build.err);
    assert!(
        image.build.err.matches("root in RUN is root of this machine").count() <= 1,
        "{}",
        image.build.err
    );
}

/// Everything that opens paths by `openat2`: contexts, layouts, layers, mounts, `/dev`, devices and owners that
/// somebody else makes.
const RESOLVED: &str = "FROM busybox AS other
RUN mkdir -p /o/p && echo o > /o/p/f && ln -s ../o/p/. /o/up && ln -s /o/p /o/absolute && chown -h 7:8 /o/p/f /o/up
FROM busybox
COPY link/file dir/.. /copied/
COPY --from=other /o/up/f /o/absolute /up/
RUN mkdir /t && ln -s t /links && ln -s ../../links/deep /home/l
RUN --mount=type=cache,target=/links/deep/er --mount=type=tmpfs,target=/home/l/x --mount=target=/context,source=dir \\
    --mount=type=bind,from=other,source=/o/absolute,target=/b,rw --mount=type=secret,id=s,target=/dev/own/secret \\
    cat /b/f /context/file /dev/own/secret > /seen && echo new > /b/new && ls /t/deep >> /seen
RUN { ! mknod /node c 7 8 || mknod /t/node b 7 8; } && ! mknod /gone/node c 7 8 && chown -R 3:4 /t && chown 5 /dev/../links/../seen
WORKDIR /links/w
RUN pwd > f
";

#[test]
fn images_are_the_same_without_openat2() {
    let test = "images_are_the_same_without_openat2";
    if !inject::can_inject(test) {
        return;
    }
    for who in modes(test) {
        let lab = Lab::as_user(who);
        let context =
            lab.context(&[("Dockerfile", RESOLVED), ("dir/file", "content\n"), ("secret", "hidden\n")]);
        std::os::unix::fs::symlink("dir", context.join("link")).expect("link");
        let secret = format!("id=s,src={}", context.join("secret").display());
        let users: &[&str] =
            if who == Who::Caller { &["--userns=auto", "--userns=host"] } else { &["--userns=auto"] };
        for userns in users {
            let build = |refusal: Option<&str>| {
                let name = format!("{}-{}", userns.len(), refusal.unwrap_or("none"));
                let mut command = lab.rbuild();
                command.arg("--root").arg(lab.path().join("home").join(&name)).args(["build", "-q"]);
                command.args(["--reproducible", "--network=none", userns, "--secret", &secret]);
                command.args(lab.bases()).arg(&context);
                let Some(error) = refusal else { return support::done(command.output().expect("rbuild")) };
                let log = lab.path().join(&name);
                let inject = format!("inject=openat2:error={error}");
                let mut command = inject::watched(&command, &log, &["-e", "trace=openat2", "-e", &inject]);
                let done = support::done(command.output().expect("strace"));
                let refused = inject::injected(&log).len();
                assert!((2..200).contains(&refused), "asked {refused} times");
                done
            };
            let expected = build(None);
            assert_eq!(expected.code, 0, "{who:?} {userns}: {}", expected.err);
            let errors: &[&str] = if who == Who::Caller { &["ENOSYS", "EPERM"] } else { &["EPERM"] };
            for error in errors {
                let found = build(Some(error));
                assert_eq!(
                    (found.code, &found.out),
                    (0, &expected.out),
                    "{who:?} {userns} {error}: {}",
                    found.err
                );
            }
        }
    }
}
