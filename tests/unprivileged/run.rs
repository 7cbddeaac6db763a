//! RUN where root of a container has neither namespaces nor mounts: by chroot.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

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
RUN echo more >> /d/hard && cat /d/l > /seen-l
RUN rm /bin/sleep && echo changed > /etc/motd && chmod 6755 /d/f && mv /home/app /home/moved && mknod /d/null c 1 3
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=type=secret,id=s,mode=0440 --mount=target=/context \\
    --mount=type=bind,from=other,source=/o,target=/b,rw --mount=type=secret,id=s,env=SECRET \\
    cat /b/f /context/file /run/secrets/s > /seen && echo \"$SECRET\" >> /seen && echo z | tee /c/z /t/z /b/new && chmod 600 /etc/group && chmod 644 /etc/group
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
        let found = std::process::Command::new("grep").args(["-rl", "very hidden"]).arg(&dir).output();
        let found = done(found.expect("grep"));
        assert_eq!(found.out, "", "the secret is in {}", dir.display());
    }
}

#[test]
fn a_step_cannot_reach_what_is_outside_of_its_root() {
    let test = "a_step_cannot_reach_what_is_outside_of_its_root";
    let Some(container) = container(test) else { return };
    let text = "FROM busybox\nARG FILE PIDS\nRUN --mount=target=/c /c/hostile escape \"$FILE\"\n\
                RUN --mount=target=/c /c/hostile kill 1; \
                for file in environ root/etc/passwd mem fd/0 cwd; do cat /proc/1/$file; done; ls /proc/1/root/; true\n\
                RUN --mount=target=/c pid=$$; while [ $pid -gt 1 ]; do \
                pid=$(sed 's/.*) //' /proc/$pid/stat | cut -d' ' -f2); echo \"above: $pid\"; \
                [ $pid -gt 1 ] && /c/hostile kill $pid; cat /proc/$pid/environ; done; true\n";
    let Some(context) = context(&container.lab, test, text) else { return };
    let file = container.lab.out("outside");
    fs::write(&file, "outside\n").expect("write");
    let flag = format!("FILE={}", file.display());
    let info = container.run(&["info"]).out;
    if info.contains("no Landlock") || info.contains("Landlock without signals") {
        return skip(test, "this kernel has no Landlock, or one that lets signals pass");
    }
    let ended = container.build(&context, &["--build-arg", &flag]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    for what in ["read", "write", "remove", "make", "list", "execute"] {
        assert!(ended.err.contains(&format!("{what}: Permission denied")), "{what}: {}", ended.err);
    }
    assert_eq!(fs::read_to_string(&file).expect("file"), "outside\n");
    assert!(!ended.err.contains("signal: done"), "{}", ended.err);
    assert!(!ended.err.contains("trace: done"), "{}", ended.err);
    assert!(ended.err.contains("above: 1"), "{}", ended.err);
    assert!(!ended.err.contains("PATH="), "an environment was read: {}", ended.err);
    assert!(!ended.err.contains("root:x:"), "{}", ended.err);
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
    let found =
        std::process::Command::new("pgrep").args(["-f", "lingers-on daemon"]).output().expect("pgrep");
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
