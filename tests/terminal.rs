//! `rbuild run` with a terminal: the process finds it under its name.

mod support;

use std::io::{BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Lab, bases_or_skip, done, has, modes, skip};

#[test]
fn a_terminal_has_its_name_inside_and_is_the_console() {
    let test = "a_terminal_has_its_name_inside_and_is_the_console";
    if !bases_or_skip(test) {
        return;
    }
    if !has("script") {
        return skip(test, "script (package bsdutils) is not installed");
    }
    let inside = "tty; stat -c %u /dev/pts/0; test -c /dev/console && echo to-console > /dev/console; \
                  echo to-tty > /dev/tty; echo to-stdout > /dev/stdout; ls -1 /dev/pts; exit 7";
    for who in modes(test) {
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", "FROM busybox\n")]);
        let ended = lab.build(&context, &["-t", "app:1"]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        for (user, users) in [("0", "root"), ("1000", "another user")] {
            let run = lab.rbuild();
            let mut words = vec![run.get_program().to_string_lossy().into_owned()];
            words.extend(run.get_args().map(|word| word.to_string_lossy().into_owned()));
            words.extend(
                ["run", "-t", "--network=none", "--user", user, "app:1", "sh", "-c"].map(String::from),
            );
            words.push(format!("'{inside}'"));
            let mut command = Command::new("script");
            command
                .args(["-qec", &words.join(" "), "/dev/null"])
                .envs(run.get_envs().filter_map(|(k, v)| Some((k, v?))));
            // An input that ends would be a key to the process; this one stays open and empty.
            let (input, _open) = std::io::pipe().expect("a pipe");
            let ended = done(command.stdin(input).output().expect("script"));
            let lines: Vec<&str> = ended.out.lines().map(str::trim_end).collect();
            let wanted = ["/dev/pts/0", user, "to-console", "to-tty", "to-stdout", "0", "ptmx"];
            assert_eq!((ended.code, &lines[..]), (7, &wanted[..]), "{who:?}, {users}: {}", ended.err);
        }
    }
}

fn image(lab: &Lab) {
    let context = lab.context(&[("Dockerfile", "FROM busybox\n")]);
    let ended = lab.build(&context, &["-t", "app:1"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
}

fn send(child: &Child, signal: &str) {
    Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().expect("kill");
}

/// Starts a script in a container, and waits for its first line.
fn start(lab: &Lab, flags: &[&str], script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut run = lab.rbuild();
    run.args(["run", "--network=none"]).args(flags).args(["app:1", "sh", "-c", script]);
    let mut child = run.stdout(Stdio::piped()).spawn().expect("rbuild");
    let mut out = BufReader::new(child.stdout.take().expect("output"));
    assert_eq!(line(&mut out), "ready");
    (child, out)
}

fn line(out: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

#[test]
fn signals_are_the_commands_own_and_end_what_does_not_handle_them() {
    let test = "signals_are_the_commands_own_and_end_what_does_not_handle_them";
    if !bases_or_skip(test) {
        return;
    }
    for who in modes(test) {
        let lab = Lab::as_user(who);
        image(&lab);
        for flags in [&[][..], &["--init"]] {
            for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129), ("USR1", 138)] {
                let (mut child, _out) = start(&lab, flags, "echo ready; exec sleep 100000");
                send(&child, signal);
                assert_eq!(child.wait().expect("ends").code(), Some(code), "{who:?} {flags:?} {signal}");
            }
            // The second is the command's as well.
            let script = "trap 'n=x$n; echo got $n; [ $n = xx ] && exit 5' TERM; echo ready; while :; do sleep 0.05; done";
            let (mut child, mut out) = start(&lab, flags, script);
            for wanted in ["got x", "got xx"] {
                send(&child, "TERM");
                assert_eq!(line(&mut out), wanted, "{who:?} {flags:?}");
            }
            assert_eq!(child.wait().expect("ends").code(), Some(5));
        }
        // What is ignored has to be insisted on.
        for flags in [&[][..], &["--init"]] {
            let (mut child, _out) =
                start(&lab, flags, "trap '' INT; echo ready; while :; do sleep 0.05; done");
            while child.try_wait().expect("a state").is_none() {
                send(&child, "INT");
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(child.wait().expect("ends").code(), Some(130), "{who:?} {flags:?}");
        }
    }
}

/// An init is a copy of rbuild, and may have the IDs of the command beside it.
#[test]
fn an_init_gives_nothing_of_rbuild_away() {
    let test = "an_init_gives_nothing_of_rbuild_away";
    if !bases_or_skip(test) {
        return;
    }
    let canary = "canary-of-the-caller";
    let look = "for f in /proc/1/fd/*; do echo \"fd ${f##*/}\"; done; tr '\\0' ' ' < /proc/1/cmdline; echo; \
        cat /proc/1/environ /proc/1/maps; head -c 1 /proc/1/mem; (: > /proc/1/fd/8); ls -l /proc/1/exe /proc/1/cwd; true";
    for who in modes(test) {
        let lab = Lab::as_user(who);
        image(&lab);
        for flags in [&["--init"][..], &["--init", "--userns=host"], &["--init", "-u", "1000"]] {
            let mut run = lab.rbuild();
            run.env("OF_THE_CALLER", canary).args(["run", "--network=none"]).args(flags);
            let done = support::done(run.args(["app:1", "sh", "-c", look]).output().expect("rbuild"));
            let all = format!("{}{}", done.out, done.err);
            assert_eq!(done.code, 0, "{who:?} {flags:?} {all}");
            let fds: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
            assert!(!fds.is_empty(), "{who:?} {flags:?} {all}");
            assert!(fds.iter().all(|fd| ["*", "0", "1", "2"].contains(fd)), "{who:?} {flags:?} {fds:?}");
            // All that is left of the words of rbuild.
            assert!(all.lines().any(|line| line.trim_matches(' ') == "init"), "{who:?} {flags:?} {all}");
            assert!(!all.contains(canary), "{who:?} {flags:?} {all}");
            assert!(!all.contains("r-xp") && !all.contains("-> /"), "{who:?} {flags:?} {all}");
        }
    }
}

#[test]
fn three_interrupts_at_a_terminal_end_what_ignores_them() {
    let test = "three_interrupts_at_a_terminal_end_what_ignores_them";
    if !bases_or_skip(test) {
        return;
    }
    if !has("script") {
        return skip(test, "script (package bsdutils) is not installed");
    }
    let lab = Lab::new();
    image(&lab);
    let run = lab.rbuild();
    let program = run.get_program().to_string_lossy().into_owned();
    for (flags, ignored) in
        [("", "sleep 100000"), ("--init", "sh -c 'trap \"\" INT; while :; do sleep 0.05; done'")]
    {
        let line = format!("{program} run -t --network=none {flags} app:1 {ignored}");
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).envs(run.get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("script");
        let mut keys = child.stdin.take().expect("input");
        // Before the command has its terminal the key is rbuild's own, and ends it at once with the same code.
        while child.try_wait().expect("a state").is_none() {
            let _ = keys.write_all(b"\x03");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(child.wait().expect("ends").code(), Some(130), "{flags}");
    }
}

#[test]
fn published_ports_lead_to_the_command() {
    let test = "published_ports_lead_to_the_command";
    if !bases_or_skip(test) {
        return;
    }
    if !has("pasta") {
        return skip(test, "pasta (package passt) is not installed");
    }
    for who in modes(test) {
        let lab = Lab::as_user(who);
        image(&lab);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|own| own.local_addr()).expect("a port").port();
        let mut run = lab.rbuild();
        run.args(["run", "-p", &format!("127.0.0.1:{port}:8080")]);
        run.args(["app:1", "sh", "-c", "while :; do nc -l -p 8080 -e echo hello; done"]);
        let mut child = run.stderr(Stdio::piped()).spawn().expect("rbuild");
        // Until the command listens, connections end without a word.
        let mut said = String::new();
        while said.is_empty() && child.try_wait().expect("a state").is_none() {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                let _ = stream.read_to_string(&mut said);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        send(&child, "TERM");
        let ended = done(child.wait_with_output().expect("ends"));
        if ended.err.contains("Failed to open tun") {
            skip(test, "this user may not open /dev/net/tun");
            continue;
        }
        assert_eq!((said.as_str(), ended.code), ("hello\n", 143), "{who:?}: {}", ended.err);
        // A port that somebody has cannot be published: that is no reason to go on without it.
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let refused = lab.run(["run", "-p", &format!("127.0.0.1:{port}:8080"), "app:1", "true"]);
        assert!(
            refused.code == 125 && refused.err.contains("cannot publish ports"),
            "{who:?}: {}",
            refused.err
        );
    }
}
