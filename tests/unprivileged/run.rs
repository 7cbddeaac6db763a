//! RUN where root of a container has neither namespaces nor mounts: by chroot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Container;
use super::support::{Lab, Who, base, compiled, done, skip};

/// As root of the container.
fn container(test: &str) -> Option<Container> {
    Container::all(test).into_iter().find(|one| one.lab.who == Who::Caller)
}

const DOCKERFILE: &str = "FROM busybox AS other
RUN mkdir /o && echo o > /o/f && chown -R 7:8 /o
FROM busybox
RUN mkdir -m 750 /d && echo x > /d/f && chown 1000:2000 /d/f && echo l > /d/l && ln /d/l /d/hard && ln -s f /d/link && mkfifo /d/p
RUN echo more >> /d/hard && cat /d/l > /seen-l && chmod 600 /etc/group && chmod 644 /etc/group
RUN rm /bin/sleep && echo changed > /etc/motd && chmod 6755 /d/f && mv /home/app /home/moved && mknod /d/null c 1 3 && mknod -m 640 /d/disk b 7 0
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s,mode=0440 --mount=target=/context \\
    --mount=type=bind,from=other,source=/o,target=/b,rw --mount=type=secret,id=s,env=SECRET \\
    cat /b/f /context/file /run/secrets/s > /seen && echo \"$SECRET\" >> /seen && echo z | tee /c/z /t/z /b/new
COPY --from=other --chown=5 /o /copied
RUN tar -cf /t.tar -C /copied . && mkdir /from-tar && tar -xf /t.tar -C /from-tar && rm /t.tar
RUN --mount=target=/context /context/hostile capability /d/l
RUN mkdir -p /n/a/b /n/c && touch /n/c/f && chmod 700 /n/a/b && touch -d @1000000000 /n/c
RUN echo 'j:x:77:78::/:/bin/sh' >> /etc/passwd && echo 'g:x:78:' >> /etc/group && chown j:g /seen && rm -rf /var/spool && mkdir -p /var/spool/new
RUN echo out > /dev/stdout; cat /proc/self/comm /etc/hosts > /comm; readlink /proc/self/exe >> /comm; ls /dev/fd/ > /dev/null; hostname > /name
USER app
WORKDIR /w
RUN id > /tmp/id; cat /proc/self/comm >> /tmp/id; ! touch /d/no 2> /dev/null
";

fn context(lab: &Lab, test: &str, dockerfile: &str) -> Option<PathBuf> {
    let context = lab.context(&[("Dockerfile", dockerfile), ("file", "content\n"), ("secret", "hidden\n")]);
    compiled(test, "container/hostile.c", &context.join("hostile")).then_some(context)
}

#[test]
fn steps_give_the_same_image_as_with_namespaces() {
    let test = "steps_give_the_same_image_as_with_namespaces";
    let Some(container) = container(test) else { return };
    let Some(context) = context(&container.lab, test, DOCKERFILE) else { return };
    let secret = format!("id=s,src={}", context.join("secret").display());
    let flags = ["-q", "--reproducible", "--network=none", "--secret", &secret];
    let inside = container.build(&context, &flags);
    assert_eq!(inside.code, 0, "{}", inside.err);
    let outside = Lab::new();
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let ended = outside.build(&context, &[&epoch[..], &flags].concat());
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(inside.out, ended.out);
    // Nothing of what was supplied is left anywhere.
    let left = fs::read_dir(container.lab.store().join("tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[test]
fn a_build_says_once_what_isolation_is_missing_and_info_why() {
    let Some(container) = container("a_build_says_once_what_isolation_is_missing_and_info_why") else {
        return;
    };
    let context = container.lab.context(&[("Dockerfile", "FROM busybox\nRUN true\nRUN echo > /x\n")]);
    let ended = container.build(&context, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(ended.err.matches("isolated by chroot").count(), 1, "{}", ended.err);
    assert!(!ended.err.contains("passt"), "{}", ended.err);
    let info = container.run(&["info"]).out;
    for part in ["chroot", "seccomp=unconfined", "user namespace"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    let ended = container.build(&context, &["--isolation=native"]);
    assert_eq!(ended.code, 9, "{}", ended.err);
    assert!(ended.err.contains("--isolation=native is not possible here"), "{}", ended.err);
    let context = container.lab.context(&[("Dockerfile", "FROM busybox\nRUN --security=insecure true\n")]);
    let ended = container.build(&context, &["--allow=security.insecure"]);
    assert!(ended.code != 0 && ended.err.contains("RUN --security=insecure needs"), "{}", ended.err);
}

#[test]
fn caches_are_kept_and_sockets_lead_out() {
    let Some(container) = container("caches_are_kept_and_sockets_lead_out") else { return };
    let socket = container.lab.out("agent");
    let _listening = UnixListener::bind(&socket).expect("a socket");
    let dockerfile = |step: u8| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/root/.cache/c --mount=type=ssh \
             test -S $SSH_AUTH_SOCK && echo {step} >> /root/.cache/c/list && cp /root/.cache/c/list /list\n\
             RUN --mount=type=cache,target=/root/.cache/c,ro cat /root/.cache/c/list | diff - /list && ! test -e /root/.cache\n"
        )
    };
    let ssh = format!("default={},raw=true", socket.display());
    let out = container.lab.out("files").display().to_string();
    let mut seen = String::new();
    for step in 1..=2 {
        let text = dockerfile(step).replace(" && ! test -e /root/.cache", "");
        let context = container.lab.context(&[("Dockerfile", &text)]);
        let _ = fs::remove_dir_all(&out);
        let ended = container.build(&context, &["--ssh", &ssh, "-o", &out]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        seen = fs::read_to_string(Path::new(&out).join("list")).expect("list");
        assert!(!Path::new(&out).join("root/.cache").exists(), "the mount point is left");
    }
    assert_eq!(seen, "1\n2\n");
}

/// A secret that gets another name is in no layer.
#[test]
fn a_secret_stays_in_no_layer_under_any_name() {
    let Some(container) = container("a_secret_stays_in_no_layer_under_any_name") else { return };
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=s ln /run/secrets/s /linked && \
                      mv /run/secrets /moved && ls -l /linked /moved/s\n";
    let context = container.lab.context(&[("Dockerfile", dockerfile), ("secret", "very hidden value\n")]);
    let secret = format!("id=s,src={}", context.join("secret").display());
    let out = container.lab.out("files").display().to_string();
    let ended = container.build(&context, &["--secret", &secret, "-o", &out]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("the secret /run/secrets/s was linked"), "{}", ended.err);
    for dir in [PathBuf::from(&out), container.lab.store()] {
        let found = Command::new("grep").args(["-rl", "very hidden"]).arg(&dir).output();
        let found = done(found.expect("grep"));
        assert_eq!(found.out, "", "the secret is in {}", dir.display());
    }
}

#[test]
fn a_step_cannot_reach_what_is_outside_of_its_root() {
    let test = "a_step_cannot_reach_what_is_outside_of_its_root";
    let Some(container) = container(test) else { return };
    let text = "FROM busybox\nARG FILE\nRUN --mount=target=/c /c/hostile escape \"$FILE\"\n\
                RUN --mount=target=/c /c/hostile race && /c/hostile again\n\
                RUN --mount=target=/c /c/hostile kill 1; \
                for file in environ root/etc/passwd mem fd/0 cwd cmdline; do cat /proc/1/$file; done; ls /proc/1/root/; true\n\
                RUN --mount=target=/c above=$PPID; for pid in $above $((above - 1)) $((above - 2)); do /c/hostile kill $pid; \
                for file in environ cmdline root/etc/passwd; do cat /proc/$pid/$file; done; done; echo looked\n";
    let Some(context) = context(&container.lab, test, text) else { return };
    let file = container.lab.out("outside");
    fs::write(&file, "outside\n").expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
    let flag = format!("FILE={}", file.display());
    let info = container.run(&["info"]).out;
    if info.contains("no Landlock") || info.contains("Landlock without signals") {
        return skip(test, "this kernel has no Landlock, or one that lets signals pass");
    }
    let ended = container.build_marked(&context, &["--build-arg", &flag]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(!ended.err.contains("FOUND"), "{}", ended.err);
    for what in ["chroot", "io_uring", "pidfd_getfd", "open_by_handle_at", "unshare", "mount"] {
        assert!(ended.err.contains(&format!("{what}: Operation not permitted")), "{what}: {}", ended.err);
    }
    assert_eq!(fs::read_to_string(&file).expect("file"), "outside\n");
    assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o640);
    for seen in ["signal: done", "trace: done", "PATH=", "root:x:", "--build-arg"] {
        assert!(!ended.err.contains(seen), "{seen}: {}", ended.err);
    }
    for done in ["raced well", "executed again", "looked"] {
        assert!(ended.err.contains(done), "{done}: {}", ended.err);
    }
}

/// What is not about the step's own processes is not there.
#[test]
fn a_step_sees_its_own_processes() {
    let test = "a_step_sees_its_own_processes";
    let Some(container) = container(test) else { return };
    let text = "FROM busybox\nRUN sleep 1000 & pid=$!; \
                until ps | grep -v grep | grep -q 'sleep 1000'; do :; done; ls /proc | grep -qx $pid || exit 1; \
                ls /proc | grep -qx 1 && exit 2; test -e /proc/1/stat && exit 3; \
                [ $(cat /proc/$pid/comm) = sleep ] || exit 4; cd /proc/$pid && [ $(cat comm) = sleep ] || exit 5; \
                [ $(ls /proc/self/fd | wc -l) -ge 3 ] || exit 6; [ \"$(cd /proc/self && cat comm)\" = cat ] || exit 7; \
                kill $pid; wait; ls /proc | grep -qx $pid && exit 8; ls /sys/class/net | grep -q lo\n";
    let context = container.lab.context(&[("Dockerfile", text)]);
    let ended = container.build(&context, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
}

/// The init of the step outlives rbuild and clears up.
#[test]
fn a_secret_does_not_outlive_a_killed_build() {
    let Some(container) = container("a_secret_does_not_outlive_a_killed_build") else { return };
    let text = "FROM busybox\nRUN --mount=type=secret,id=s sleep 1000\n";
    let context = container.lab.context(&[("Dockerfile", text), ("secret", "very hidden value\n")]);
    let secret = format!("id=s,src={}", context.join("secret").display());
    let mut command = container.building(&context, &["--secret", &secret]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild starts");
    let store = container.lab.store();
    let is_there = || {
        let found = Command::new("grep").args(["-rlsD", "skip", "very hidden"]).arg(&store).output();
        !found.expect("grep").stdout.is_empty()
    };
    let waits_until = |wanted: bool| {
        let begun = Instant::now();
        while is_there() != wanted {
            assert!(begun.elapsed() < Duration::from_secs(300), "waited for {wanted} in vain");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    waits_until(true);
    // Until its program runs, the step has no init that could do anything.
    while done(Command::new("pgrep").args(["-f", "^sleep 1000$"]).output().expect("pgrep")).out.is_empty() {
        assert!(child.try_wait().expect("wait").is_none(), "the build ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    waits_until(false);
}

#[test]
fn what_a_step_leaves_running_ends_with_it() {
    let test = "what_a_step_leaves_running_ends_with_it";
    let Some(container) = container(test) else { return };
    let text = "FROM busybox\nRUN --mount=target=/c cp /c/hostile /bin/lingers-on && lingers-on daemon && \
                (lingers-on daemon &) && sh -c 'trap \"\" TERM; while :; do sleep 1; done' & sleep 1\n";
    let Some(context) = context(&container.lab, test, text) else { return };
    let ended = container.build(&context, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let found = Command::new("pgrep").args(["-f", "lingers-on daemon"]).output().expect("pgrep");
    assert_eq!(done(found).out, "");
}

#[test]
fn without_a_network_there_are_no_sockets() {
    let Some(container) = container("without_a_network_there_are_no_sockets") else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let text = format!(
        "FROM busybox\nRUN --network=none nc -w 1 127.0.0.1 {port} < /dev/null 2> /error; cat /error\n\
         RUN nc -w 1 127.0.0.1 {port} < /dev/null\n"
    );
    let context = container.lab.context(&[("Dockerfile", &text)]);
    let ended = container.build(&context, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("not supported by protocol"), "{}", ended.err);
}

const PACKAGE: &str = "FROM debian
SHELL [\"/bin/bash\", \"-euc\"]
RUN mkdir -p /p/DEBIAN /p/usr/share/thing && echo content > /p/usr/share/thing/file \\
    && printf '%s\\n' 'Package: thing' 'Version: 1' 'Architecture: all' 'Maintainer: x <x@example.org>' 'Description: x' > /p/DEBIAN/control \\
    && printf '%s\\n' '#!/bin/sh' 'set -e' 'useradd --system --no-create-home thing' 'chown thing /usr/share/thing/file' 'ldconfig' > /p/DEBIAN/postinst \\
    && chmod 755 /p/DEBIAN/postinst && dpkg-deb --build /p /thing.deb && apt-get install -y /thing.deb && rm -r /p /thing.deb
RUN [[ $(stat -c %U /usr/share/thing/file) == thing ]] && dpkg -s thing | grep -q 'install ok installed'
RUN diff <(echo a; echo b) <(echo a; echo b) && cat <(echo via) > >(cat) && [[ $(readlink /proc/self/exe) == /usr/bin/readlink ]]
RUN for i in {1..20}; do /proc/self/exe --version >> /bash & perl -e 'exec qw(/proc/self/exe -v)' >> /perl & done; wait; \
    [[ $(grep -c '^GNU bash' /bash) == 20 && $(grep -c 'This is perl' /perl) == 20 ]]
RUN script -qec 'test -t 1 && stty size' /dev/null && su -s /bin/bash nobody -c 'cat /proc/self/comm <(echo sub)'
";

#[test]
fn packages_with_maintainer_scripts_are_installed_and_shells_have_their_devices() {
    let test = "packages_with_maintainer_scripts_are_installed_and_shells_have_their_devices";
    let Some(container) = container(test) else { return };
    if base("debian").is_none() {
        return skip(test, "tests/setup has not made the base images");
    }
    let context = container.lab.context(&[("Dockerfile", PACKAGE)]);
    let ended = container.build(&context, &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[test]
fn images_are_run_without_namespaces_too() {
    let Some(container) = container("images_are_run_without_namespaces_too") else { return };
    let context = container.lab.context(&[("Dockerfile", "FROM busybox\nRUN echo made > /made\n")]);
    assert_eq!(container.build(&context, &["-t", "app:1"]).code, 0);
    let ended =
        container.run(&["run", "--hostname", "there", "app:1", "sh", "-c", "cat /made; hostname; exit 7"]);
    assert_eq!((ended.code, ended.out.as_str()), (7, "made\nthere\n"), "{}", ended.err);
    let ended = container.run(&["run", "app:1", "sh", "-c", "kill -9 $$"]);
    assert_eq!(ended.code, 137, "{}", ended.err);
    let ended = container.run(&["run", "--isolation=native", "app:1", "true"]);
    assert_eq!(ended.code, 125, "{}", ended.err);
}
