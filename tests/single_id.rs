//! A user without subordinate IDs: package managers and other users inside.

mod support;

use std::fs;

use support::{Lab, Who, base, is_root, skip, user_of};

/// `None`, saying why, where it cannot be tried.
fn lab(test: &str, image: &str) -> Option<Lab> {
    if base(image).is_none() {
        skip(test, &format!("tests/setup has not made the {image} base"));
        return None;
    }
    if user_of(Who::SingleId).is_none() || !is_root() {
        skip(test, "there is no ordinary user without subordinate IDs (tests/setup makes one)");
        return None;
    }
    Some(Lab::as_user(Who::SingleId))
}

#[test]
fn owners_are_written_down_and_reach_the_image() {
    let Some(lab) = lab("owners_are_written_down_and_reach_the_image", "busybox") else { return };
    let dockerfile = "FROM busybox
RUN echo x > /f && chown 1000:70000 /f && chmod 6755 /f && mkdir -p /d/e && chown -R app:extra /d
RUN ln -s f /link && chown 12:13 /link && chown -h 5:5 /link && cd /d && touch r && chown 3:4 ./e/../r && mv r moved
RUN echo more >> /home/app/new && touch /home/app && rm -f /d/none && cp /d/moved /copy
RUN mknod /null c 1 3 && mknod -m 600 /disk b 8 1 && mkfifo /fifo && [ -p /fifo ]
RUN ! chown 1 /missing 2>/dev/null && ! chown 1 /f/under 2>/dev/null && chown 1 /dev/null
";
    let image = lab.build_image(&lab.context(&[("Dockerfile", dockerfile)]), &["--network=none"]);
    for (path, owner) in [
        // Through the link it was given to 12:13, which takes the bits away.
        ("/f", "755 12:13"),
        ("/d", "755 1000:2000"),
        ("/d/e", "755 1000:2000"),
        ("/d/moved", "644 3:4"),
        ("/copy", "644 0:0"),
        ("/home/app", "755 1000:1000"),
        ("/home/app/new", "644 0:0"),
        ("/link", "777 0:0"),
    ] {
        assert_eq!(image.owner(path), owner, "{path}");
    }
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let node = |path: &str| fs::symlink_metadata(image.at(path)).expect("node");
    assert!(node("/null").file_type().is_char_device() && node("/null").rdev() == 0x103);
    assert!(node("/disk").file_type().is_block_device() && node("/disk").rdev() == 0x801);
    assert!(node("/fifo").file_type().is_fifo());
    // The records themselves are nowhere.
    let tar = lab.out("files.tar");
    lab.build_image(
        &lab.context(&[("Dockerfile", dockerfile)]),
        &["--network=none", "-o", &format!("type=tar,dest={}", tar.display())],
    );
    let bytes = fs::read(&tar).expect("read");
    assert!(!bytes.windows(11).any(|window| window == b"user.rbuild"));
}

#[test]
fn other_users_run_with_the_only_id() {
    let Some(lab) = lab("other_users_run_with_the_only_id", "busybox") else { return };
    let dockerfile = "FROM busybox
USER app
RUN [ \"$(id -u):$(id -g)\" = 1000:1000 ] && touch /tmp/mine && [ \"$(stat -c %u /tmp/mine)\" = 1000 ] && ! chown 5 /tmp/mine
USER 1234:5678
WORKDIR /w
RUN id > who && [ \"$HOME\" = / ]
RUN --mount=type=secret,id=s cat /run/secrets/s
USER root
RUN [ \"$(id -u)\" = 0 ] && chown 7:8 /tmp/mine && mkdir /tmp/root
";
    let secret = lab.out("secret");
    fs::write(&secret, "x").expect("write");
    let secret = format!("--secret=id=s,src={}", secret.display());
    let image = lab.build_image(&lab.context(&[("Dockerfile", dockerfile)]), &["--network=none", &secret]);
    assert_eq!(image.owner("/tmp/mine"), "644 7:8");
    assert_eq!(image.owner("/tmp/root"), "755 0:0");
    assert_eq!(image.owner("/w/who"), "644 1234:5678");
    assert!(image.text("/w/who").starts_with("uid=1234 gid=5678"), "{}", image.text("/w/who"));
}

#[test]
fn packages_that_change_owners_and_add_users_install() {
    let test = "packages_that_change_owners_and_add_users_install";
    let Some(lab) = lab(test, "debian") else { return };
    let context = lab.context(&[
        ("pkg/DEBIAN/control", "Package: probe\nVersion: 1\nArchitecture: all\nMaintainer: x <x@y.example>\nDescription: x\n"),
        ("pkg/DEBIAN/postinst", "#!/bin/sh\nset -e\ngroupadd -r probe\nuseradd -r -g probe -d /var/lib/probe probe\nchown -R probe:probe /var/lib/probe\nchown root:probe /usr/bin/probe\nchmod 2755 /usr/bin/probe\nmknod /var/lib/probe/null c 1 3\nsu -s /bin/sh probe -c 'id -un' > /who\n"),
        ("pkg/usr/bin/probe", "#!/bin/sh\n"),
        ("pkg/var/lib/probe/data", "x\n"),
        ("Dockerfile", "FROM debian\nCOPY pkg /pkg\nRUN chmod -R go-w /pkg && chmod 755 /pkg/DEBIAN/postinst && dpkg-deb --root-owner-group -b /pkg /p.deb && rm -r /pkg\nRUN apt-get install -y --no-install-recommends /p.deb\n"),
    ]);
    let image = lab.build_image(&context, &["--network=none"]);
    let passwd = image.text("/etc/passwd");
    let line = passwd.lines().find(|line| line.starts_with("probe:")).expect("the new user");
    let fields: Vec<&str> = line.split(':').collect();
    let owner = format!("{}:{}", fields[2], fields[3]);
    assert_eq!(image.owner("/var/lib/probe"), format!("755 {owner}"));
    assert_eq!(image.owner("/var/lib/probe/data"), format!("644 {owner}"));
    assert_eq!(image.owner("/usr/bin/probe"), format!("2755 0:{}", fields[3]));
    assert_eq!(image.text("/who"), "probe\n");
}

/// setpriv changes the user first and counts on its capabilities for the group.
#[test]
fn kept_capabilities_change_the_group_after_the_user() {
    let Some(lab) = lab("kept_capabilities_change_the_group_after_the_user", "debian") else { return };
    let dockerfile = "FROM debian
RUN touch /f && setpriv --reuid 7 --regid 8 --groups 9,10 sh -c 'id -u; id -g; id -G; chown 3:3 /f || echo kept' > /seen
RUN setpriv --reuid 7 --regid 8 --clear-groups setpriv --reuid 0 true || echo left >> /seen
RUN setpriv --reuid 7 --regid 8 --clear-groups setpriv --regid 0 true || echo left >> /seen
";
    let image = lab.build_image(&lab.context(&[("Dockerfile", dockerfile)]), &["--network=none"]);
    assert_eq!(image.text("/seen"), "7\n8\n8 9 10\nkept\nleft\nleft\n");
    assert_eq!(image.owner("/f"), "644 0:0");
}

/// Nothing leads from a daemon to the process that it got its identity from.
#[test]
fn daemons_stay_who_they_are_when_their_parent_ends() {
    let Some(lab) = lab("daemons_stay_who_they_are_when_their_parent_ends", "debian") else { return };
    let dockerfile = "FROM debian
RUN touch /f && setpriv --reuid 7 --regid 8 --groups 9 sh -c \\
    'setsid sh -c \"while kill -0 $$ 2>/dev/null; do sleep 0.02; done; (id -u; id -G; chown 3 /f || echo kept) > /new; mv /new /seen\" &' && \\
    until [ -e /seen ]; do sleep 0.02; done
RUN [ $(id -u) = 0 ] && prlimit --locks=50 setpriv --reuid 7 --clear-groups id -u >> /seen
";
    let image = lab.build_image(&lab.context(&[("Dockerfile", dockerfile)]), &["--network=none"]);
    assert_eq!(image.text("/seen"), "7\n8 9\nkept\n7\n");
}

/// More identities than are remembered without a look at which of them processes still have.
#[test]
fn thousands_of_processes_stay_who_they_are() {
    let test = "thousands_of_processes_stay_who_they_are";
    let Some(lab) = lab(test, "busybox") else { return };
    let dockerfile = "FROM busybox\nCOPY identities /\nRUN /identities 3000 > /seen\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    if !support::compiled(test, "identities.c", &context.join("identities")) {
        return;
    }
    let image = lab.build_image(&context, &["--network=none"]);
    assert_eq!(image.text("/seen"), "started 3000 wrong 0 0 root 1\n");
}
