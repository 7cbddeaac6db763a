//! `--userns=private`: root in RUN is unprivileged on the host, and images come out the same.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::{Lab, base, bases_or_skip, is_root, lacks_mapped_owners, skip};

/// `None`, saying why, where it cannot be tried.
fn lab(test: &str) -> Option<Lab> {
    if !bases_or_skip(test) {
        return None;
    }
    if !is_root() {
        skip(test, "needs root");
        return None;
    }
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    let ended = lab.build(&context, &["--userns=private", "--network=none"]);
    if lacks_mapped_owners(test, &ended) {
        return None;
    }
    assert_eq!(ended.code, 0, "{}", ended.err);
    Some(lab)
}

const OWNERS: &str = "FROM busybox AS other
RUN mkdir /o && echo o > /o/f && chown -R 7:8 /o
FROM busybox
RUN mkdir -m 750 /d && echo x > /d/f && chown 1000:70000 /d/f && chmod 6755 /d/f && chown 4000000:3 /d
RUN ln -s f /d/link && chown -h 11:12 /d/link && mkfifo /d/fifo && chown 13:14 /d/fifo
RUN echo y >> /d/g && chown 5:6 /d/g && mv /home/app /home/moved && chmod 711 /home/moved && touch /home/moved/by-root
RUN --mount=type=cache,target=/c,uid=5 --mount=type=tmpfs,target=/t --mount=type=secret,id=s,uid=9 \\
    --mount=type=bind,from=other,source=/o,target=/b \\
    stat -c '%n %u:%g %a' /c /t /run/secrets/s /b/f /etc/hosts > /seen && echo z > /c/z && echo z > /t/z
RUN --network=none busybox nc -w 1 -l -p 80; ip addr show lo | grep -q 127.0.0.1
USER app
WORKDIR /w/w
RUN id > /tmp/id && ! touch /d/no 2>/dev/null
";

#[test]
fn owners_are_the_same_as_without() {
    let Some(lab) = lab("owners_are_the_same_as_without") else { return };
    let secret = lab.out("secret");
    fs::write(&secret, "x").expect("write");
    let secret = format!("--secret=id=s,src={}", secret.display());
    let context = lab.context(&[("Dockerfile", OWNERS)]);
    let of = |mode: &str| {
        let userns = format!("--userns={mode}");
        let image = lab.build_image(&context, &[&userns, &secret, "--no-cache"]);
        let paths = [
            "/d",
            "/d/f",
            "/d/g",
            "/d/link",
            "/d/fifo",
            "/home/moved",
            "/home/moved/by-root",
            "/w/w",
            "/bin/sh",
        ];
        let owners: Vec<String> = paths.iter().map(|path| format!("{path} {}", image.owner(path))).collect();
        (owners.join("\\n"), image.text("/seen"), image.text("/tmp/id"))
    };
    let private = of("private");
    assert_eq!(private, of("host"));
    assert!(private.0.contains("/d/f 6755 1000:70000"), "{}", private.0);
    assert!(private.1.contains("/b/f 7:8 644") && private.1.contains("/etc/hosts 0:0 644"), "{}", private.1);
}

#[test]
fn root_inside_is_nobody_outside() {
    let test = "root_inside_is_nobody_outside";
    let Some(lab) = lab(test) else { return };
    let marker = (4_000_000 + std::process::id()).to_string();
    let context = lab.context(&[("Dockerfile", &format!("FROM busybox\nRUN sleep {marker}\n"))]);
    let mut command = lab.rbuild();
    command.args(["build", "--userns=private"]).args(lab.bases()).arg(&context);
    let mut child = command.spawn().expect("spawn");
    let uid = wait_for_uid(&marker);
    let _ = child.kill();
    let _ = child.wait();
    assert!(uid >= 1 << 31, "the process runs as {uid}");
}

/// What package managers and bootstrappers make of them.
#[test]
fn device_nodes_are_made_and_cannot_be_opened() {
    let Some(lab) = lab("device_nodes_are_made_and_cannot_be_opened") else { return };
    let dockerfile = "FROM busybox\nRUN mkdir /d && mknod /d/null c 1 3 && mknod -m 600 /d/loop b 7 0 && mknod /d/p p \
        && umask 077 && cd /d && mknod rel c 5 0 && ln -s /d /l && mknod /l/z c 1 5 && mknod /dev/disk b 8 0\n\
        RUN [ -c /d/null ] && ! (echo x > /d/null) && ! cat /d/z && ! mknod /d/null c 1 3 && ! mknod /no/x c 1 3\n\
        RUN --mount=type=cache,target=/c ! mknod /c/x c 1 3 && ! mknod /sys/x c 1 3\n\
        RUN mknod /dev/disk b 8 0 && ! cat /dev/disk\n\
        USER 1000\nRUN ! mknod /tmp/x c 1 3\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let of = |mode: &str| {
        let userns = format!("--userns={mode}");
        let image = lab.build_image(&context, &[&userns, "--network=none", "--no-cache"]);
        ["/d/null", "/d/loop", "/d/p", "/d/rel", "/d/z"].map(|path| image.owner(path))
    };
    let private = of("private");
    assert_eq!(private, ["644 0:0", "600 0:0", "644 0:0", "600 0:0", "600 0:0"]);
}

/// What a process makes its root is its own choice: cache mounts are directories of this machine.
#[test]
fn another_root_gets_no_device_nodes_on_this_machine() {
    let Some(lab) = lab("another_root_gets_no_device_nodes_on_this_machine") else { return };
    let dockerfile = "FROM busybox
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t for dir in /c /c/deep /t; do \\
    mkdir -p $dir/dev && cp /bin/busybox $dir/mknod && \\
    ! chroot $dir /mknod /node b 7 0 && ! chroot $dir /mknod /dev/node c 1 3 && \\
    ! ls -d $dir/node $dir/dev/node || exit 1; done
RUN --mount=type=cache,target=/dev/c ! mknod /dev/c/node b 7 0 && [ ! -e /dev/c/node ]
RUN mkdir /r && cp /bin/busybox /r/mknod && chroot /r /mknod /null c 1 3 && [ -c /r/null ]
";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let image = lab.build_image(&context, &["--userns=private", "--network=none"]);
    assert_eq!(image.owner("/r/null"), "644 0:0");
}

/// Steps that would lose something by it are this machine's root.
#[test]
fn the_default_is_private_where_nothing_is_lost() {
    let Some(lab) = lab("the_default_is_private_where_nothing_is_lost") else { return };
    let map = "awk '{print $2}' /proc/self/uid_map";
    let dockerfile = format!(
        "# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN --network=none echo \"none $({map})\" >> /m\n\
         RUN --network=host echo \"host $({map})\" >> /m\n\
         RUN --network=none --security=insecure echo \"insecure $({map})\" >> /m\n"
    );
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let image = lab.build_image(&context, &["--allow=network.host", "--allow=security.insecure"]);
    assert_eq!(image.text("/m"), "none 2147483648\nhost 0\ninsecure 0\n");
}

/// Root of the machine is for those who ask for it: no line of a Dockerfile or an image leads there.
#[test]
fn ids_that_private_users_do_not_have_are_refused_and_change_no_mode() {
    let Some(lab) = lab("ids_that_private_users_do_not_have_are_refused_and_change_no_mode") else { return };
    let group = "RUN --network=none printf 'root:x:0:\\nevil:x:2147483647:root\\n' > /etc/group\n\
                 RUN --network=none cat /proc/self/uid_map";
    let secret = lab.out("secret");
    fs::write(&secret, "x").expect("write");
    let secret = format!("--secret=id=s,src={}", secret.display());
    for (lines, origin) in [
        ("USER 2147483647\nRUN --network=none id", "USER 2147483647: user ID 2147483647"),
        ("USER 0:2147483647\nRUN --network=none id", "USER 0:2147483647: group ID 2147483647"),
        (group, "/etc/group of the image: supplementary group ID 2147483647"),
        (
            "RUN --network=none --mount=type=cache,target=/c,uid=2147483647 id",
            "--mount for /c: user ID 2147483647",
        ),
        (
            "RUN --network=none --mount=type=secret,id=s,gid=4294967294 id",
            "--mount for /run/secrets/s: group ID 4294967294",
        ),
    ] {
        let context = lab.context(&[("Dockerfile", &format!("FROM busybox\n{lines}\n"))]);
        for mode in ["--userns=auto", "--userns=private"] {
            let ended = lab.build(&context, &[mode, &secret, "--no-cache"]);
            assert_eq!(ended.code, 1, "{lines}: {}", ended.err);
            for part in [origin, "0-2147483646", "--userns=host"] {
                assert!(ended.err.contains(part), "{lines}: no {part:?} in {}", ended.err);
            }
            assert!(!ended.err.contains("root of this machine"), "{}", ended.err);
            assert!(!ended.err.contains("4294967295"), "the map of the machine's root: {}", ended.err);
        }
        let ended = lab.build(&context, &["--userns=host", &secret, "--no-cache"]);
        assert_eq!(ended.code, 0, "{lines}: {}", ended.err);
    }
}

/// The file system of the context need not be able to show other owners.
#[test]
fn contexts_that_cannot_be_mounted_with_other_owners_are_copied() {
    let test = "contexts_that_cannot_be_mounted_with_other_owners_are_copied";
    let Some(lab) = lab(test) else { return };
    let context = lab.path().join("ramfs");
    fs::create_dir(&context).expect("mkdir");
    let mount = |args: &[&str]| {
        let status = std::process::Command::new(args[0]).args(&args[1..]).arg(&context).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "ramfs", "ramfs"]) {
        return skip(test, "ramfs cannot be mounted here");
    }
    let dockerfile = "FROM busybox\nRUN --mount=type=bind,target=/m ls /m > /seen && awk '{print $2}' /proc/self/uid_map >> /seen\n\
                      RUN --mount=type=bind,target=/m,rw touch /m/new && [ -e /m/new ]\n";
    fs::write(context.join("Dockerfile"), dockerfile).expect("write");
    let archive = lab.out("image.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let ended = lab.build(&context, &["--network=none", "-o", &output]);
    let left = context.join("new").exists();
    mount(&["umount", "-l"]);
    assert_eq!((ended.code, left), (0, false), "{}", ended.err);
    let image = support::Image::read(&archive, lab.path(), ended);
    assert_eq!(image.text("/seen"), "Dockerfile\n2147483648\n");
}

/// The real user of a running `sleep MARKER`.
fn wait_for_uid(marker: &str) -> u32 {
    let begun = Instant::now();
    loop {
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = command.split(|c| *c == 0).collect();
            if words.first() != Some(&&b"sleep"[..]) || !words.contains(&marker.as_bytes()) {
                continue;
            }
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            if let Some(uid) = line.and_then(|line| line.split_whitespace().next()?.parse().ok()) {
                return uid;
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "the step never ran");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The number of setxattr(2), which perl has no name for.
const SETXATTR: u32 = if cfg!(target_arch = "aarch64") { 5 } else { 188 };

#[test]
fn file_capabilities_work_and_stay() {
    let test = "file_capabilities_work_and_stay";
    let Some(lab) = lab(test) else { return };
    if base("debian").is_none() {
        return skip(test, "tests/setup has not made the Debian base");
    }
    // Revision 2, effective, cap_net_raw permitted: 0x02000001, 1 << 13 (linux/capability.h).
    let set = format!(
        "perl -e '$v = pack(\"V5\", 0x02000001, 1 << 13, 0, 0, 0); $p = \"/capped\"; $n = \"security.capability\"; \
         syscall({SETXATTR}, $p, $n, $v, 20, 0) == 0 or die $!'"
    );
    let dockerfile = format!(
        "FROM debian\nRUN cp /bin/grep /capped && {set}\nRUN mv /capped /moved\nUSER 1000\n\
         RUN /moved CapEff /proc/self/status > /tmp/caps\n"
    );
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let image = lab.build_image(&context, &["--userns=private", "--network=none"]);
    assert_eq!(image.text("/tmp/caps").trim(), "CapEff:\t0000000000002000");
    let value = std::process::Command::new("getfattr")
        .args(["--only-values", "-n", "security.capability", "--absolute-names"])
        .arg(image.at("/moved"))
        .output();
    if let Ok(value) = value {
        assert_eq!(value.stdout.len(), 20, "revision 2, as images have it");
    }
}
