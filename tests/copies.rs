//! Where overlayfs cannot be mounted, as in a container whose files lie on one: steps run in copies of
//! their root file system, and images come out the same.

#[path = "support/overlay.rs"]
mod overlay;
mod support;

use std::fs;
use std::path::Path;

use overlay::Mounted;
use support::{Lab, base, is_root, skip};

const DOCKERFILE: &str = "FROM busybox AS other
RUN mkdir /o && echo o > /o/f && chown -R 7:8 /o
FROM busybox
RUN mkdir -m 750 /d && echo x > /d/f && chown 1000:2000 /d/f && echo l > /d/l && ln /d/l /d/hard && ln -s f /d/link && mkfifo /d/p
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
