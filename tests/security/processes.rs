//! What a RUN step finds when it looks around.

use super::*;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

/// Descriptors, working directory and environment are the step's own, whatever rbuild inherited.
#[test]
fn cve_2024_21626_nothing_of_the_builder_is_left_open() {
    for who in modes("cve_2024_21626_nothing_of_the_builder_is_left_open") {
        let range = Range::new(who);
        let look = "FROM busybox\nENV A=b\nRUN for f in /proc/$$/fd/*; do echo ${f##*/}; done > /fds; \
            readlink /proc/$$/cwd > /cwd; tr '\\0' '\\n' < /proc/$$/environ | sort > /env\n";
        let context = range.lab.context(&[("Dockerfile", look)]);
        let out = range.lab.out("files");
        let mut rbuild = range.lab.rbuild();
        rbuild.env("LEAK", CANARY).arg("build").args(range.lab.bases()).arg("-o").arg(&out).arg(&context);
        let mut command = Command::new("sh");
        command.args(["-c", "exec 7<\"$0\" 9<\"$0/canary\"; exec \"$@\""]).arg(&range.outside);
        command.arg(rbuild.get_program()).args(rbuild.get_args()).env_clear();
        command.envs(rbuild.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let done = support::done(command.current_dir(&range.outside).output().expect("sh"));
        assert_eq!(done.code, 0, "{who:?} {}", done.err);
        range.safe(&format!("{who:?}"), &done, &[&out]);
        let read = |name: &str| fs::read_to_string(out.join(name)).expect(name);
        // 3 is the shell's own, for what it redirects or lists.
        let open: Vec<String> = read("fds").lines().map(str::to_owned).collect();
        assert!(["0", "1", "2"].iter().all(|fd| open.iter().any(|found| found == fd)), "{who:?} {open:?}");
        assert!(
            open.iter().all(|fd| matches!(fd.as_str(), "0" | "1" | "2" | "3" | "10")),
            "{who:?} {open:?}"
        );
        assert_eq!(read("cwd"), "/\n");
        let names: Vec<String> =
            read("env").lines().map(|line| line.split('=').next().unwrap_or_default().to_owned()).collect();
        assert!(
            names.iter().all(|name| matches!(
                name.as_str(),
                "A" | "HOME" | "PATH" | "HOSTNAME" | "PWD" | "SHLVL" | ""
            )),
            "{who:?} {names:?}"
        );
        for number in 0..16 {
            for dir in ["/proc/self/fd", "/proc/1/fd", "/dev/fd", "/proc/thread-self/fd"] {
                let text = format!(
                    "FROM busybox\nWORKDIR {dir}/{number}\nRUN cat canary ../canary ../../../../../../..@/canary; pwd; ls\n"
                );
                if number % 4 == 3 || dir == "/proc/self/fd" {
                    let (done, out) = range.files(&text, &[]);
                    range.safe(&format!("{who:?} {dir}/{number}"), &done, &[&out]);
                }
            }
        }
    }
}

/// Working directories that lead through links: made in the image, by the step and by WORKDIR alone.
#[test]
fn cve_2026_55686_working_directories_are_made_in_the_image() {
    for who in modes("cve_2026_55686_working_directories_are_made_in_the_image") {
        let range = Range::new(who);
        let link = range.outside();
        let up = format!("../../../../../../../../..{link}");
        let rows = [("l", b'2', link.as_str()), ("up", b'2', up.as_str()), ("f", b'2', "/l/canary")];
        let flags =
            range.hostile(&[tar_of(&rows)], |config| config["config"]["WorkingDir"] = json!("/up/../l"));
        let flags = [flags[0].as_str(), flags[1].as_str()];
        for (text, made) in [
            ("WORKDIR /l/new\nCOPY x .\nRUN pwd -P > /seen", "new/x"),
            ("WORKDIR /up/new\nADD x .\nRUN pwd -P > /seen", "new/x"),
            ("USER app\nWORKDIR /l/b\nUSER root\nRUN touch here", "b/here"),
            ("COPY x /l/\nCOPY --chown=7:8 --chmod=4777 x /l/y", "y"),
            ("COPY x /up/deep/er/x", "deep/er/x"),
            ("COPY <<E /l/here\ntext\nE", "here"),
            ("COPY x /f", "canary"),
            ("WORKDIR /\nRUN mkdir -p @/b\nWORKDIR /l/b\nRUN echo text > here", "b/here"),
        ] {
            let (done, out) = range.files(&format!("FROM hostile\n{text}\n"), &flags);
            range.safe(&format!("{who:?} {text}"), &done, &[]);
            assert_eq!(done.code, 0, "{who:?} {text}: {}", done.err);
            let inside = out.join(link.trim_start_matches('/')).join(made);
            assert!(inside.exists(), "{who:?} {text}: {} is not in the image", inside.display());
        }
    }
}

/// Capabilities, groups and flags of a step, whatever the caller had.
#[test]
fn cve_2022_24769_cve_2022_27651_cve_2022_29162_cve_2023_25173_rights_are_the_default_ones() {
    let test = "cve_2022_24769_cve_2022_27651_cve_2022_29162_cve_2023_25173_rights_are_the_default_ones";
    for who in modes(test) {
        let range = Range::new(who);
        let text = "FROM busybox\nRUN grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status > /root-caps\n\
                    USER app\nRUN grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status > /tmp/user-caps; id -G > /tmp/groups\n";
        let context = range.lab.context(&[("Dockerfile", text)]);
        let out = range.lab.out("files");
        let mut rbuild = range.lab.rbuild();
        rbuild.arg("build").args(range.lab.bases()).arg("-o").arg(&out).arg(&context);
        let done = if who == Who::Caller && is_root() && has("setpriv") {
            let mut command = Command::new("setpriv");
            command
                .args(["--inh-caps=+sys_admin,+chown", "--ambient-caps=+sys_admin,+chown"])
                .arg(rbuild.get_program())
                .args(rbuild.get_args());
            command.env_clear().envs(rbuild.get_envs().filter_map(|(key, value)| Some((key, value?))));
            support::done(command.output().expect("setpriv"))
        } else {
            support::done(rbuild.output().expect("rbuild"))
        };
        assert_eq!(done.code, 0, "{who:?} {}", done.err);
        let root = fs::read_to_string(out.join("root-caps")).expect("caps");
        for line in ["CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2"] {
            assert!(root.contains(line), "{who:?}: {line} in\n{root}");
        }
        let bounding = root.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).expect("CapBnd");
        let bounding = u64::from_str_radix(bounding, 16).expect("a number");
        // Docker's default: neither SYS_ADMIN, SYS_MODULE, SYS_PTRACE, SYS_RAWIO nor NET_ADMIN.
        assert_eq!(bounding & !0xa804_25fb, 0, "{who:?}: {bounding:x}");
        let user = fs::read_to_string(out.join("tmp/user-caps")).expect("caps");
        assert!(user.lines().all(|line| line.ends_with("0000000000000000")), "{who:?}: {user}");
        if who != Who::SingleId {
            assert_eq!(fs::read_to_string(out.join("tmp/groups")).expect("groups"), "1000 2000\n", "{who:?}");
        }
    }
}

/// The program that starts the step cannot be reached from the step, let alone written to.
#[test]
fn cve_2019_5736_the_builder_cannot_be_overwritten() {
    for who in modes("cve_2019_5736_the_builder_cannot_be_overwritten") {
        let range = Range::new(who);
        let rows = [("bin/again", b'0', "#!/proc/self/exe\n"), ("bin/link", b'2', "/proc/self/exe")];
        let flags = range.hostile(&[tar_of(&rows)], |_| {});
        let program = range.lab.path().join("copy-of-rbuild");
        fs::copy(support::RBUILD, &program).expect("copy");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).expect("chmod");
        let before = Digest::of(&fs::read(&program).expect("program"));
        let attack = "for p in /proc/[0-9]*; do readlink $p/exe; head -c 4 $p/exe | tail -c 3; (echo evil > $p/exe) 2>/dev/null; done";
        for step in [
            format!("RUN chmod 755 /bin/again; {attack}; /bin/again; true"),
            "RUN [\"/proc/self/exe\", \"build\"]".to_owned(),
            "RUN [\"/bin/link\", \"--version\"]".to_owned(),
            format!("SHELL [\"/proc/self/exe\", \"sh\", \"-c\"]\nRUN {attack}"),
            format!("RUN (while :; do {attack}; done) & sleep 1; {attack}; true"),
        ] {
            let context = range.lab.context(&[("Dockerfile", &format!("FROM hostile\n{step}\n"))]);
            let lab = range.lab.rbuild();
            let mut words: Vec<&std::ffi::OsStr> =
                std::iter::once(lab.get_program()).chain(lab.get_args()).collect();
            words.pop();
            words.push(program.as_os_str());
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["build", "--progress=plain"]).args(&flags).arg(&context);
            command.env_clear().envs(lab.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let done = support::done(command.current_dir(range.lab.path()).output().expect("rbuild"));
            range.safe(&format!("{who:?} {step}"), &done, &[]);
            assert!(
                done.code == 0 || step.starts_with("RUN [") || step.starts_with("SHELL"),
                "{who:?} {}",
                done.err
            );
        }
        assert_eq!(Digest::of(&fs::read(&program).expect("program")), before, "{who:?}");
    }
}

/// A dynamically linked builder that a step executes has the image's code in it.
#[test]
fn cve_2019_5736_the_dynamic_linker_of_an_image_cannot_change_the_builder() {
    let test = "cve_2019_5736_the_dynamic_linker_of_an_image_cannot_change_the_builder";
    for who in modes(test) {
        let range = Range::new(who);
        let program = range.lab.path().join("copy-of-rbuild");
        let bytes = fs::read(support::RBUILD).expect("program");
        let Some(linker) = interpreter(&bytes) else { return skip(test, "the program is static") };
        fs::write(&program, &bytes).expect("copy");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        if let Some((_, uid)) = support::user_of(who) {
            std::os::unix::fs::chown(&program, Some(uid), Some(uid)).expect("chown");
        }
        let before = tree(range.lab.path()).into_iter().find(|(path, _)| *path == program);
        let text = format!("FROM scratch\nCOPY evil {linker}\nRUN [\"/proc/self/exe\"]\n");
        let context = range.lab.context(&[("Dockerfile", &text)]);
        if !support::compiled(test, "survivor/survivor.c", &context.join("evil")) {
            return;
        }
        for mode in ["--userns=host", "--userns=auto", "--network=none"] {
            let lab = range.lab.rbuild();
            let words: Vec<_> = std::iter::once(lab.get_program()).chain(lab.get_args()).collect();
            let words = [&words[..words.len() - 1], &[program.as_os_str()]].concat();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).args(["build", "--no-cache", "--progress=plain", mode]).arg(&context);
            command.env_clear().envs(lab.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let done = support::done(command.current_dir(range.lab.path()).output().expect("rbuild"));
            assert_eq!(done.code, 0, "{who:?} {mode}: {}", done.err);
            // The mount is read-only: EROFS whoever asks, so also when nothing executes the file any more.
            assert!(done.err.contains("chmod 30"), "{who:?} {mode}: {}", done.err);
            assert!(!done.err.contains("open 0"), "{who:?} {mode}: {}", done.err);
        }
        let after = tree(range.lab.path()).into_iter().find(|(path, _)| *path == program);
        assert!(before.is_some() && before == after, "{who:?}");
    }
}

/// The dynamic linker that a 64-bit program asks for.
fn interpreter(elf: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        elf.get(at..at + size)
            .map(|bytes| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    let header = (0..count).map(|at| table + at * size).find(|at| number(*at, 4) == Some(PT_INTERP))?;
    let (at, length) = (number(header + 8, 8)? as usize, number(header + 32, 8)? as usize);
    String::from_utf8(elf.get(at..at + length)?.split_last()?.1.to_vec()).ok()
}

/// Sockets without a name in the file system are out of reach where the network is the step's own.
#[test]
fn cve_2020_15257_abstract_sockets_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt as _;
    for who in modes("cve_2020_15257_abstract_sockets_are_out_of_reach") {
        let range = Range::new(who);
        let name = format!("rbuild-canary-{}-{who:?}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("address");
        let _listener = UnixListener::bind_addr(&address).expect("listener");
        let text = format!("FROM busybox\nRUN ! grep {name} /proc/net/unix && wc -l < /proc/net/unix\n");
        let (done, _) = range.files(&text, &["--network=none"]);
        assert_eq!(done.code, 0, "{who:?}: {}", done.err);
        let host = fs::read_to_string("/proc/net/unix").expect("sockets");
        assert!(host.contains(&name), "the listener does not show even here");
    }
}

/// What an image says of volumes copies nothing into them from here.
#[test]
fn cve_2022_23648_volumes_copy_nothing() {
    for who in modes("cve_2022_23648_volumes_copy_nothing") {
        let range = Range::new(who);
        let flags = range.hostile(&[], |config| {
            config["config"]["Volumes"] =
                json!({"/../../../../../../../../../": {}, "/v/../../..": {}, "": {}});
        });
        let text = "FROM hostile\nVOLUME /../../../../../../..@ [\"/v\", \"@\"]\nRUN ls -R @ /v /canary; cat @/canary; echo evil > @/canary; true\n";
        let (done, out) = range.files(text, &[&flags[0], &flags[1], "-t", "volumes"]);
        range.safe(&format!("{who:?} build"), &done, &[&out]);
        assert_eq!(done.code, 0, "{who:?}: {}", done.err);
        let look = range.fill("cat @/canary; echo evil > @/canary; ls /v; true");
        let done = range.lab.run(["run", "volumes", "sh", "-c", &look]);
        range.safe(&format!("{who:?} run"), &done, &[]);
    }
}

/// What gives protection up needs the caller's word on every way there.
#[test]
fn cve_2024_23653_privileges_need_permission() {
    for who in modes("cve_2024_23653_privileges_need_permission") {
        let range = Range::new(who);
        let trigger = range.hostile(&[], |config| {
            config["config"]["OnBuild"] = json!(["RUN --security=insecure touch /done"]);
        });
        let network = range.hostile(&[], |config| {
            config["config"]["OnBuild"] = json!(["RUN --network=host touch /done"]);
        });
        for (text, flags) in [
            ("FROM busybox\nRUN --security=insecure touch /done\n", None),
            ("FROM busybox\nRUN --network=host touch /done\n", None),
            (
                "FROM busybox AS a\nRUN --security=insecure touch /done\nFROM busybox\nCOPY --from=a /done /done\n",
                None,
            ),
            ("FROM hostile\nRUN true\n", Some(&trigger)),
            ("FROM hostile\nRUN true\n", Some(&network)),
            (
                "# syntax=docker/dockerfile:1-labs\nFROM busybox\nRUN --security=insecure <<E\ntouch /done\nE\n",
                None,
            ),
        ] {
            let flags: Vec<&str> = flags.iter().flat_map(|flags| flags.iter().map(String::as_str)).collect();
            let (done, out) = range.files(text, &flags);
            assert!(done.code != 0 && !out.join("done").exists(), "{who:?} {text}: {}", done.err);
            assert!(done.err.contains("--allow"), "{who:?} {text}: {}", done.err);
        }
    }
}

/// What a step does to owners, modes and times of the devices in its `/dev`, and of what hides kernel files, it does to
/// nothing of this machine, whoever builds.
#[test]
fn the_devices_of_a_step_are_not_those_of_the_machine() {
    let test = "the_devices_of_a_step_are_not_those_of_the_machine";
    let mut ways: Vec<(Who, Vec<&str>)> = modes(test).into_iter().map(|who| (who, vec![])).collect();
    if is_root() && !ways.is_empty() {
        ways.push((Who::Caller, vec!["--userns=host"]));
        ways.push((Who::Caller, vec!["--userns=host", "--allow=security.insecure"]));
        let runtimes = ["--runtime=crun", "--runtime=runc"].into_iter().filter(|flag| has(&flag[10..]));
        ways.extend(runtimes.map(|runtime| (Who::Caller, vec!["--isolation=oci", runtime])));
    }
    let state = || {
        ["null", "full", "zero", "tty"].map(|name| {
            let meta = fs::metadata(format!("/dev/{name}")).expect("a device");
            (meta.uid(), meta.gid(), meta.mode())
        })
    };
    let before = state();
    // Not the null device itself: if this fails, the machine is to remain usable.
    let script = "chmod 640 /dev/full; chown 5:6 /dev/full; chmod 640 /dev/zero; chmod 666 /proc/keys; \
                  chown 0:0 /proc/keys; echo x >/dev/null && head -c 3 /dev/zero >/zeros && cat /dev/full | head -c 2 >/two";
    for (who, flags) in ways {
        let lab = Lab::as_user(who);
        let run =
            if flags.contains(&"--allow=security.insecure") { "RUN --security=insecure" } else { "RUN" };
        let context =
            lab.context(&[("Dockerfile", &format!("FROM busybox\n{run} {script}\nUSER 1234\nRUN id\n"))]);
        let image = lab.build_image(&context, &[&["--network=none"], &flags[..]].concat());
        assert_eq!(image.text("/zeros"), "\0\0\0", "{who:?} {flags:?}");
        assert_eq!(state(), before, "{who:?} {flags:?}");
    }
}

/// Sockets of the kernel's cipher interface, by which a page of any readable file could be changed: refused
/// by the filter, whether this kernel has them or not.
#[test]
fn cve_2026_31431_cipher_sockets_are_refused() {
    let test = "cve_2026_31431_cipher_sockets_are_refused";
    let Some(compiler) = ["musl-gcc", "cc"].into_iter().find(|name| has(name)) else {
        return skip(test, "there is no C compiler (tests/setup installs musl-gcc)");
    };
    let mut ways: Vec<(Who, Vec<&str>)> = modes(test).into_iter().map(|who| (who, vec![])).collect();
    if ways.iter().any(|(who, _)| *who == Who::Caller) {
        ways.extend(
            ["--runtime=crun", "--runtime=runc"]
                .into_iter()
                .filter(|flag| has(&flag[10..]))
                .map(|runtime| (Who::Caller, vec!["--isolation=oci", runtime])),
        );
    }
    for (who, flags) in ways {
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY probes /\nRUN [\"/probes\"]\n")]);
        let mut compile = Command::new(compiler);
        compile.args(["-static", "-O1", "-o"]).arg(context.join("probes"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/probes/probes.c");
        assert!(compile.arg(source).status().expect("compiler").success());
        let done = lab.build(&context, &[&["--network=none"], &flags[..]].concat());
        for probe in ["alg-socket", "alg-socket-upper-half", "alg-socketpair"] {
            assert!(
                done.err.contains(&format!(" {probe} denied 1\n")),
                "{who:?} {flags:?} {probe}: {}",
                done.err
            );
        }
    }
}

/// `/dev` has Docker's size; memory file systems without a size share what the kernel gives one: half of all.
#[test]
fn memory_file_systems_of_a_step_are_bounded() {
    /// Sizes are rounded up to whole pages.
    const PAGES: u64 = 256;
    for who in modes("memory_file_systems_of_a_step_are_bounded") {
        let lab = Lab::as_user(who);
        let text = "FROM busybox\nRUN --mount=type=tmpfs,target=/a --mount=type=tmpfs,target=/b \\\n\
            --mount=type=tmpfs,target=/c,size=1m for dir in /dev /a /b /c; do \\\n\
            df -k -P $dir | awk -v dir=$dir 'NR == 2 { print dir, $2 }'; done > /sizes && \\\n\
            awk '/^MemTotal/ { print \"all\", $2 }' /proc/meminfo >> /sizes\n";
        let context = lab.context(&[("Dockerfile", text)]);
        let image = lab.build_image(&context, &["--network=none"]);
        let sizes = image.text("/sizes");
        let of = |name: &str| -> u64 {
            let line = sizes.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name} in {sizes}"))
        };
        assert_eq!((of("/dev"), of("/c")), (65_536, 1024), "{who:?}");
        assert!(of("/a") == of("/b") && of("/a") + of("/b") <= of("all") / 2 + PAGES, "{who:?} {sizes}");
    }
}
