//! `rbuild run` with a terminal: the process finds it under its name.

mod support;

use std::process::Command;

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
