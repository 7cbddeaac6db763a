//! The sandbox with real processes on a busybox root.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::event::Stream;

use super::*;

#[derive(Default)]
struct Seen(Mutex<Vec<(Stream, String)>>);

impl OutputSink for Seen {
    fn line(&self, stream: Stream, line: &[u8]) {
        let text = String::from_utf8_lossy(line).into_owned();
        self.0.lock().expect("lock").push((stream, text));
    }
}

impl Seen {
    fn out(&self) -> Vec<String> {
        let seen = self.0.lock().expect("lock");
        seen.iter().filter(|(stream, _)| *stream == Stream::Stdout).map(|(_, line)| line.clone()).collect()
    }
}

struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// `None`, saying why, where the sandbox cannot be tried.
    fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED {test}: needs root");
            return None;
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let Some(busybox) = busybox else {
            println!("SKIPPED {test}: busybox-static is not installed");
            return None;
        };
        let dir = tempfile::tempdir().expect("tempdir");
        let lower = dir.path().join("lower");
        for name in ["lower/bin", "lower/tmp", "upper", "work"] {
            fs::create_dir_all(dir.path().join(name)).expect("mkdir");
        }
        fs::copy(busybox, lower.join("bin/busybox")).expect("copy");
        for applet in [
            "sh", "ls", "cat", "id", "echo", "sleep", "mount", "env", "stat", "readlink", "ip", "umask",
            "unshare", "touch", "rm", "mkdir", "grep", "kill", "hostname", "wc", "df", "ps", "nc",
        ] {
            symlink("busybox", lower.join("bin").join(applet)).expect("link");
        }
        Some(Lab { dir })
    }

    fn spec(&self, script: &str) -> ProcessSpec {
        let scratch = tempfile::Builder::new().tempdir_in(self.dir.path()).expect("scratch").keep();
        let path = |name: &str| self.dir.path().join(name);
        ProcessSpec {
            argv: vec![b"/bin/sh".to_vec(), b"-c".to_vec(), script.as_bytes().to_vec()],
            env: vec![(b"PATH".to_vec(), b"/bin".to_vec()), (b"A".to_vec(), b"b c".to_vec())],
            cwd: b"/".to_vec(),
            user: ProcessUser { uid: 0, gid: 0, groups: vec![0] },
            hostname: "box".into(),
            root: RootFs::Overlay { lowers: vec![path("lower")], upper: path("upper"), work: path("work") },
            mounts: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            extra_hosts: vec![("db".into(), "10.0.0.9".into())],
            resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
            etc: EtcFiles::ReadOnly,
            shm_size: 1 << 20,
            ulimits: Vec::new(),
            limits: Limits::default(),
            timeout: Some(Duration::from_secs(60)),
            scratch,
            stdio: Stdio::Lines,
            container: Default::default(),
        }
    }

    fn run_spec(&self, spec: &ProcessSpec) -> (Result<Exit, SandboxError>, Vec<String>) {
        let seen = Seen::default();
        let cancel = Cancel::new().expect("cancel");
        let exit = Native::new(false).run(spec, &seen, &cancel);
        // The kernel leaves a directory of mode 0 in the work directory; the next run needs a clean one.
        let work = self.dir.path().join("work");
        let _ = fs::remove_dir_all(&work);
        let _ = fs::create_dir(&work);
        (exit, seen.out())
    }

    fn run(&self, script: &str) -> Vec<String> {
        let (exit, out) = self.run_spec(&self.spec(script));
        assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?} {out:?}");
        out
    }

    fn upper(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, base: &Path, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).expect("read").flatten() {
                out.push(entry.path().strip_prefix(base).expect("below").to_owned());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), base, out);
                }
            }
        }
        let upper = self.dir.path().join("upper");
        let mut out = Vec::new();
        walk(&upper, &upper, &mut out);
        out.sort();
        out
    }
}

#[test]
fn exit_codes_and_signals_come_back() {
    let Some(lab) = Lab::new("exit codes") else { return };
    assert!(matches!(lab.run_spec(&lab.spec("exit 7")).0, Ok(Exit::Code(7))));
    // PID 1 ignores signals it has no handler for, so the signal must come from the kernel.
    let (exit, _) = lab.run_spec(&lab.spec("true"));
    assert!(matches!(exit, Ok(Exit::Code(0))));
}

#[test]
fn output_is_cut_into_lines_and_told_apart() {
    let Some(lab) = Lab::new("output") else { return };
    let seen = Seen::default();
    let cancel = Cancel::new().expect("cancel");
    let spec = lab.spec("echo one; echo two >&2; echo -n tail");
    let exit = Native::new(false).run(&spec, &seen, &cancel);
    assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?}");
    let mut lines = seen.0.into_inner().expect("lines");
    lines.sort_by_key(|(_, line)| line.clone());
    let expected = [(Stream::Stdout, "one"), (Stream::Stdout, "tail"), (Stream::Stderr, "two")];
    assert_eq!(lines, expected.map(|(stream, line)| (stream, line.to_owned())));
}

#[test]
fn the_environment_is_exactly_what_was_asked_for() {
    let Some(lab) = Lab::new("environment") else { return };
    let out = lab.run("ls /proc/self/fd | wc -l; umask; hostname; id; cat /etc/hosts /etc/resolv.conf");
    // 0, 1, 2 and the one ls itself opens.
    assert_eq!(out[0], "4");
    assert_eq!(out[1], "0022");
    assert_eq!(out[2], "box");
    assert_eq!(out[3], "uid=0 gid=0 groups=0");
    let text = out.join("\n");
    assert!(text.contains("10.0.0.9\tdb") && text.contains("nameserver 192.0.2.1"));
    let mut spec = lab.spec("");
    spec.argv = vec![b"env".to_vec()];
    let (_, mut out) = lab.run_spec(&spec);
    out.sort();
    assert_eq!(out, ["A=b c", "PATH=/bin"]);
}

#[test]
fn files_of_etc_cannot_be_written_to_or_are_a_containers_own() {
    let Some(lab) = Lab::new("files of /etc") else { return };
    let out = lab
        .run("(echo x >> /etc/hosts) 2>/dev/null || echo no; echo mine > /etc/hostname; cat /etc/hostname");
    assert_eq!(out, ["no", "mine"]);
    assert_eq!(lab.upper(), [PathBuf::from("etc"), PathBuf::from("etc/hostname")]);
    let mut spec = lab.spec("cat /etc/hostname; echo mine > /etc/hosts; cat /etc/hosts");
    spec.etc = EtcFiles::Own;
    assert_eq!(lab.run_spec(&spec).1, ["box", "mine"]);
}

#[test]
fn privileges_are_those_of_dockers_default() {
    let Some(lab) = Lab::new("privileges") else { return };
    let out = lab.run("grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status").join("\n").replace('\t', " ");
    for expected in [
        "CapInh: 0000000000000000",
        "CapEff: 00000000a80425fb",
        "CapBnd: 00000000a80425fb",
        "Seccomp: 2",
        "NoNewPrivs: 0",
    ] {
        assert!(out.contains(expected), "{expected} not in {out}");
    }
    for script in [
        "unshare -m true",
        "mount -t tmpfs none /tmp",
        "echo 1 > /proc/sys/kernel/domainname",
        "echo x > /sys/kernel/uevent_seqnum",
        "cat /proc/kcore | grep -q .",
        "ls /sys/firmware/*",
        "ls /proc/acpi/* /proc/scsi/*",
    ] {
        let (exit, _) = lab.run_spec(&lab.spec(&format!("{script} 2>/dev/null")));
        assert!(matches!(exit, Ok(Exit::Code(code)) if code != 0), "{script}: {exit:?}");
    }
}

#[test]
fn a_user_without_root_has_no_capabilities_and_the_groups_asked_for() {
    let Some(lab) = Lab::new("user") else { return };
    let mut spec = lab.spec("id; grep CapEff /proc/self/status");
    spec.user = ProcessUser { uid: 1000, gid: 1001, groups: vec![1001, 2000] };
    let (exit, out) = lab.run_spec(&spec);
    assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?}");
    assert_eq!(out[0], "uid=1000 gid=1001 groups=1001,2000");
    assert!(out[1].ends_with("0000000000000000"), "{}", out[1]);
}

#[test]
fn only_what_the_process_wrote_is_left_behind() {
    let Some(lab) = Lab::new("leftovers") else { return };
    let mut spec = lab.spec("echo x > /new; cat /mnt/deep/file; echo y > /cache/dir/y; echo z > /t/z");
    fs::create_dir(lab.dir.path().join("cache")).expect("mkdir");
    spec.mounts = vec![
        Mount::new(b"/t".to_vec(), MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777 }),
        Mount::new(
            b"/mnt/deep/file".to_vec(),
            MountKind::File { content: b"hello\n".to_vec(), mode: 0o400, uid: 0, gid: 0 },
        ),
        Mount::new(
            b"/cache/dir".to_vec(),
            MountKind::Bind { source: lab.dir.path().join("cache"), inside: Vec::new(), readonly: false },
        ),
    ];
    let (exit, out) = lab.run_spec(&spec);
    assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?} {out:?}");
    assert_eq!(out, ["hello"]);
    assert_eq!(lab.upper(), [PathBuf::from("new")]);
    assert_eq!(fs::read_to_string(lab.dir.path().join("cache/y")).expect("y"), "y\n");
}

#[test]
fn read_only_mounts_refuse_writing() {
    let Some(lab) = Lab::new("read-only") else { return };
    let mut spec = lab.spec("echo x > /ro/x 2>/dev/null");
    fs::create_dir(lab.dir.path().join("ro")).expect("mkdir");
    let kind = MountKind::Bind { source: lab.dir.path().join("ro"), inside: Vec::new(), readonly: true };
    spec.mounts = vec![Mount::new(b"/ro".to_vec(), kind)];
    assert!(matches!(lab.run_spec(&spec).0, Ok(Exit::Code(1))));
}

#[test]
fn mount_targets_cannot_be_the_root_or_lead_out() {
    let Some(lab) = Lab::new("targets") else { return };
    for target in [&b"/"[..], b"/a/../..", b"relative"] {
        let mut spec = lab.spec("true");
        spec.mounts = vec![Mount::new(target.to_vec(), MountKind::Tmpfs { size: None, mode: 0o755 })];
        assert!(matches!(lab.run_spec(&spec).0, Err(SandboxError::Invalid(_))));
    }
}

#[test]
fn links_in_the_image_cannot_move_a_mount_outside() {
    let Some(lab) = Lab::new("links") else { return };
    let outside = lab.dir.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    symlink(&outside, lab.dir.path().join("lower/evil")).expect("link");
    symlink("../../../../../../..", lab.dir.path().join("lower/up")).expect("link");
    let mut spec = lab.spec("true");
    let kind = MountKind::Tmpfs { size: None, mode: 0o777 };
    spec.mounts = vec![Mount::new(b"/evil/x".to_vec(), kind)];
    let _ = lab.run_spec(&spec);
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
    spec = lab.spec("true");
    spec.cwd = b"/evil/made".to_vec();
    let _ = lab.run_spec(&spec);
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
    spec = lab.spec("ls /; touch /up/here");
    let _ = lab.run_spec(&spec);
    assert!(!Path::new("/here").exists());
}

#[test]
fn the_working_directory_is_made_and_lies_inside() {
    let Some(lab) = Lab::new("cwd") else { return };
    let mut spec = lab.spec("readlink -f .");
    spec.cwd = b"/a/b".to_vec();
    assert_eq!(lab.run_spec(&spec).1, ["/a/b"]);
    for escape in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/1/root/../.."] {
        let mut spec = lab.spec("ls -d /bin/busybox; readlink -f .");
        spec.cwd = escape.as_bytes().to_vec();
        let (exit, out) = lab.run_spec(&spec);
        assert!(exit.is_err() || out.last().is_some_and(|cwd| cwd == "/"), "{escape}: {exit:?} {out:?}");
    }
}

#[test]
fn network_none_has_loopback_and_nothing_else() {
    let Some(lab) = Lab::new("network") else { return };
    let mut spec = lab.spec("ip -o link; ip addr show lo | grep -c 'inet 127.0.0.1'");
    spec.network = Network::None;
    let (exit, out) = lab.run_spec(&spec);
    assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?} {out:?}");
    assert!(out.iter().filter(|line| line.contains("link/")).count() <= 1 || out.len() == 2, "{out:?}");
    assert_eq!(out.last().map(String::as_str), Some("1"));
}

#[test]
fn everything_dies_with_a_cancellation_a_timeout_or_the_end() {
    let Some(lab) = Lab::new("killing") else { return };
    let cancel = Cancel::new().expect("cancel");
    let spec = lab.spec("sleep 1000 & sleep 1000");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            cancel.cancel();
        });
        let exit = Native::new(false).run(&spec, &Seen::default(), &cancel);
        assert!(matches!(exit, Ok(Exit::Canceled)), "{exit:?}");
    });
    let _ = fs::remove_dir_all(lab.dir.path().join("work"));
    let _ = fs::create_dir(lab.dir.path().join("work"));
    let mut spec = lab.spec("sleep 1000");
    spec.timeout = Some(Duration::from_millis(300));
    assert!(matches!(lab.run_spec(&spec).0, Ok(Exit::TimedOut)));
    // What was left in the background neither lives on nor holds the run up.
    assert!(lab.run("sleep 1000 & echo done") == ["done"]);
}

#[test]
fn a_program_that_cannot_be_executed_says_why() {
    let Some(lab) = Lab::new("exec") else { return };
    let mut spec = lab.spec("");
    spec.argv = vec![b"no-such-program".to_vec()];
    let (exit, _) = lab.run_spec(&spec);
    assert!(
        matches!(&exit, Err(SandboxError::Exec { source }) if source.raw_os_error() == Some(libc::ENOENT)),
        "{exit:?}"
    );
    fs::write(lab.dir.path().join("lower/bin/text"), "no shebang\n").expect("write");
    fs::set_permissions(lab.dir.path().join("lower/bin/text"), fs::Permissions::from_mode(0o755))
        .expect("chmod");
    let mut spec = lab.spec("");
    spec.argv = vec![b"/bin/text".to_vec()];
    let (exit, _) = lab.run_spec(&spec);
    assert!(
        matches!(&exit, Err(SandboxError::Exec { source }) if source.raw_os_error() == Some(libc::ENOEXEC)),
        "{exit:?}"
    );
}

#[test]
fn hundreds_of_layers_can_be_stacked() {
    let Some(lab) = Lab::new("layers") else { return };
    let mut lowers: Vec<PathBuf> = (0..300)
        .map(|number| {
            let dir = lab.dir.path().join(format!("layer-{number:03}"));
            fs::create_dir(&dir).expect("mkdir");
            fs::write(dir.join(format!("f{number}")), "").expect("write");
            dir
        })
        .collect();
    lowers.push(lab.dir.path().join("lower"));
    let mut spec = lab.spec("ls / | grep -c ^f");
    let path = |name: &str| lab.dir.path().join(name);
    spec.root = RootFs::Overlay { lowers, upper: path("upper"), work: path("work") };
    let (exit, out) = lab.run_spec(&spec);
    assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?}");
    assert_eq!(out, ["300"]);
}

#[test]
fn device_nodes_can_be_made_and_not_opened() {
    let Some(lab) = Lab::new("devices") else { return };
    for place in ["/node", "/dev/node", "/tmp/node", "/dev/shm/node"] {
        // Character device 1:3 would be /dev/null, whose opening succeeds wherever nodes work.
        let script = format!("/bin/busybox mknod {place} c 1 3 && ! echo x 2>/dev/null > {place}");
        let (exit, _) = lab.run_spec(&lab.spec(&script));
        assert!(matches!(exit, Ok(Exit::Code(0))), "{place}: {exit:?}");
    }
    let out = lab.run(
        "echo x > /dev/null && /bin/busybox head -c 2 /dev/zero | wc -c && ls /dev/tty /dev/urandom | wc -l",
    );
    assert_eq!(out, ["2", "2"]);
    let exit = Native::with_option_strings();
    let cancel = Cancel::new().expect("cancel");
    let spec = lab.spec("/bin/busybox mknod /again c 1 3 && ! echo x 2>/dev/null > /again");
    assert!(matches!(exit.run(&spec, &Seen::default(), &cancel), Ok(Exit::Code(0))));
}

#[test]
fn older_kernels_get_their_layers_in_one_string() {
    let Some(lab) = Lab::new("option string") else { return };
    let odd = lab.dir.path().join("odd:name,with\\signs");
    fs::create_dir(&odd).expect("mkdir");
    fs::write(odd.join("seen"), "").expect("write");
    let mut spec = lab.spec("ls /seen && echo new > /new");
    let path = |name: &str| lab.dir.path().join(name);
    let lowers = vec![odd, path("lower")];
    spec.root = RootFs::Overlay { lowers, upper: path("upper"), work: path("work") };
    let cancel = Cancel::new().expect("cancel");
    let exit = Native::with_option_strings().run(&spec, &Seen::default(), &cancel);
    assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?}");
    assert_eq!(lab.upper(), [PathBuf::from("new")]);
}

#[test]
fn limits_are_set() {
    let Some(lab) = Lab::new("limits") else { return };
    let mut spec = lab.spec("ulimit -n; df /dev/shm | grep -c 1024");
    spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 123, hard: 456 }];
    assert_eq!(lab.run_spec(&spec).1, ["123", "1"]);
}

/// Networks by each helper that is installed and works here.
fn networks(test: &str) -> Vec<UserNetwork> {
    let path = std::env::var_os("PATH");
    let helpers = NetworkHelper::find(path.as_deref());
    let mut networks = Vec::new();
    for helper in &helpers {
        match UserNetwork::start(std::slice::from_ref(helper), None) {
            Ok(network) => networks.push(network),
            Err(error) => println!("SKIPPED {test}: {error}"),
        }
    }
    if helpers.is_empty() {
        println!("SKIPPED {test}: neither pasta nor slirp4netns is installed");
    }
    networks
}

#[test]
fn a_network_of_ones_own_has_addresses_and_routes() {
    let test = "a_network_of_ones_own_has_addresses_and_routes";
    let Some(lab) = Lab::new(test) else { return };
    for network in networks(test) {
        let mut spec = lab.spec("ip -o addr show eth0; ip route; ls /sys/class/net; ip addr show lo");
        spec.network = Network::Joined(network.namespace());
        let (exit, out) = lab.run_spec(&spec);
        assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?} {out:?}");
        let text = out.join("\n");
        for expected in ["inet 10.0.2.100/24", "default via 10.0.2.2 dev eth0", "inet 127.0.0.1"] {
            assert!(text.contains(expected), "{expected:?} not in {text}");
        }
        let devices: Vec<&String> =
            out.iter().filter(|line| ["eth0", "lo"].contains(&line.as_str())).collect();
        assert_eq!(devices, ["eth0", "lo"], "{text}");
    }
}

#[test]
fn a_network_of_ones_own_does_not_reach_this_machines_loopback() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let test = "a_network_of_ones_own_does_not_reach_this_machines_loopback";
    let Some(lab) = Lab::new(test) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listener");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let name = format!("rbuild-probe-{port}");
    let address = SocketAddr::from_abstract_name(&name).expect("address");
    let _socket = UnixListener::bind_addr(&address).expect("abstract socket");
    let script = format!(
        "for at in 127.0.0.1 127.0.0.53 10.0.2.2 10.0.2.3 10.0.2.100 ::1; do
           nc -w 1 $at {port} </dev/null >/dev/null 2>&1 && echo reached $at
         done
         grep -o {name} /proc/net/unix
         true"
    );
    let mut spec = lab.spec(&script);
    // The probe itself works: on the host's network both are there.
    assert_eq!(lab.run_spec(&spec).1.join(" "), format!("reached 127.0.0.1 {name}"));
    for network in networks(test) {
        spec.scratch = tempfile::Builder::new().tempdir_in(lab.dir.path()).expect("scratch").keep();
        spec.network = Network::Joined(network.namespace());
        let (exit, out) = lab.run_spec(&spec);
        assert!(matches!(exit, Ok(Exit::Code(0))), "{exit:?}");
        assert_eq!(out, [""; 0], "by {}", network.program().display());
    }
}

#[test]
fn a_helper_that_fails_says_why_and_leaves_nothing() {
    let test = "a_helper_that_fails_says_why_and_leaves_nothing";
    let Some(lab) = Lab::new(test) else { return };
    let program = lab.dir.path().join("pasta");
    fs::write(&program, "#!/bin/sh\necho warming up\necho no such luck >&2\nexit 1\n").expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let helpers = NetworkHelper::find(Some(lab.dir.path().as_os_str()));
    let Err(NetworkFailure::Unavailable(error)) = UserNetwork::start(&helpers, None) else {
        panic!("a helper that does not work here");
    };
    assert!(error.contains("pasta") && error.ends_with("no such luck"), "{error}");
}

#[test]
fn a_helper_that_lacks_memory_or_processes_is_not_taken_for_one_that_does_not_work() {
    let test = "a_helper_that_lacks_memory_or_processes_is_not_taken_for_one_that_does_not_work";
    let Some(lab) = Lab::new(test) else { return };
    let program = lab.dir.path().join("pasta");
    for script in [
        "echo 'Failed to clone process: Resource temporarily unavailable' >&2; exit 1",
        "echo 'malloc: Cannot allocate memory' >&2; exit 1",
        "kill -9 $$",
    ] {
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut helpers = NetworkHelper::find(Some(lab.dir.path().as_os_str()));
        // One that does not work says nothing about the one before it.
        let broken = lab.dir.path().join("slirp4netns");
        fs::write(&broken, "#!/bin/sh\nexit 1\n").expect("write");
        fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("chmod");
        helpers.extend(NetworkHelper::find(Some(lab.dir.path().as_os_str())).into_iter().skip(1));
        let started = UserNetwork::start(&helpers, None);
        assert!(matches!(started, Err(NetworkFailure::Undecided(_))), "{script}: {started:?}");
    }
}
