//! What works where no namespace can be made: in a container with an engine's default profile, as its root and as
//! an ordinary user. Everything does that executes no program; root can execute programs as well.

#[path = "unprivileged/run.rs"]
mod run;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Done, Image, Lab, Who, bases_or_skip, compiled, done_in_time, modes};

/// A lab whose program can make no namespace.
struct Container {
    lab: Lab,
    helper: PathBuf,
}

impl Container {
    /// As root of the container, and as a user; empty where it cannot be tested.
    fn all(test: &str) -> Vec<Container> {
        if !bases_or_skip(test) {
            return Vec::new();
        }
        let mut all = Vec::new();
        for who in modes(test).into_iter().filter(|who| *who != Who::Rootless) {
            let lab = Lab::as_user(who);
            let helper = lab.path().join("container");
            if !compiled(test, "container/container.c", &helper) {
                return Vec::new();
            }
            fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("chmod");
            all.push(Container { lab, helper });
        }
        all
    }

    fn rbuild(&self) -> Command {
        let inner = self.lab.rbuild();
        let before: Vec<_> = inner.get_args().collect();
        let mut command = match before.split_last() {
            None => Command::new(&self.helper),
            Some((_, before)) => {
                let mut command = Command::new(inner.get_program());
                command.args(before).arg(&self.helper);
                command
            }
        };
        command.arg(before.last().copied().unwrap_or(inner.get_program()));
        command.env_clear();
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.stdin(Stdio::null()).current_dir(self.lab.path());
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        done_in_time(self.rbuild().args(args))
    }

    fn build(&self, context: &Path, more: &[&str]) -> Done {
        done_in_time(&mut self.building(context, more))
    }

    /// With something in rbuild's environment.
    fn build_marked(&self, context: &Path, more: &[&str]) -> Done {
        done_in_time(self.building(context, more).env("OUTSIDE_MARK", "outside"))
    }

    fn building(&self, context: &Path, more: &[&str]) -> Command {
        let mut command = self.rbuild();
        command.args(["build", "--progress=plain", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"]);
        command.args(self.lab.bases()).args(more).arg(context);
        command
    }
}

const WITHOUT_RUN: &str = "FROM busybox AS made
WORKDIR /made/here
COPY --chown=70000:5 --chmod=4750 big /made/big
COPY --chmod=000 f /made/closed
FROM busybox
COPY --from=made --chown=7:8 /made /copied
COPY --from=made /bin/busybox /again
COPY dir /dir
ADD archive.tar /added/
COPY <<EOF /here
text
EOF
ENV A=b
CMD [\"true\"]
";

fn files(container: &Container) -> PathBuf {
    let big = "0123456789abcdef".repeat(1 << 17);
    let files =
        [("Dockerfile", WITHOUT_RUN), ("big", &big), ("f", "x"), ("dir/sub/f", "x"), ("for-tar/in", "x")];
    let context = container.lab.context(&files);
    let mut tar = Command::new("tar");
    tar.args(["--owner=12345:12345", "--group=5:5", "-cf"]).arg(context.join("archive.tar"));
    let status = tar.arg("-C").arg(context.join("for-tar")).arg("in").status().expect("tar");
    assert!(status.success());
    fs::remove_dir_all(context.join("for-tar")).expect("rm");
    context
}

#[test]
fn a_build_without_run_needs_no_namespace_and_gives_the_same_image() {
    let mut digests = Vec::new();
    for container in Container::all("a_build_without_run_needs_no_namespace_and_gives_the_same_image") {
        let context = files(&container);
        let archive = container.lab.out("image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let ended = container.build(&context, &["-t", "app:1", "-o", "type=image", "-o", &output]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let image = Image::read(&archive, container.lab.path(), ended);
        assert_eq!(image.owner("/copied/big"), "4750 7:8");
        assert_eq!(image.owner("/copied/closed"), "0 7:8");
        assert_eq!(image.owner("/added/in"), "644 12345:5");
        let again = container.build(&context, &["-q", "-t", "app:1"]);
        assert_eq!(again.code, 0, "{}", again.err);
        digests.push(again.out);

        // Where namespaces are, the same files give the same image.
        let outside = Lab::new();
        let mut args = vec!["build", "-q", "-t", "app:1", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
        let bases = outside.bases();
        args.extend(bases.iter().map(String::as_str));
        let context = context.display().to_string();
        args.push(&context);
        let ended = outside.run(&args);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(digests.last(), Some(&ended.out));
    }
}

#[test]
fn commands_that_execute_nothing_need_no_namespace() {
    for container in Container::all("commands_that_execute_nothing_need_no_namespace") {
        let context = files(&container);
        let ended = container.build(&context, &["-t", "app:1"]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let (place, bases) = (context.display().to_string(), container.lab.bases());
        let planned =
            |verb| [&[verb], &bases.iter().map(String::as_str).collect::<Vec<_>>()[..], &[&place]].concat();
        let saved = container.lab.out("saved.tar").display().to_string();
        let layout = format!("oci:{}:1", container.lab.out("layout").display());
        let target = container.lab.out("files").display().to_string();
        let commands: &[&[&str]] = &[
            &["info"],
            &planned("check"),
            &planned("plan"),
            &["images"],
            &["inspect", "app:1"],
            &["history", "app:1"],
            &["tag", "app:1", "app:2"],
            &["save", "-o", &saved, "app:2"],
            &["load", "-i", &saved],
            &["copy", "store:app:1", &layout],
            &["validate", "app:1"],
            &["diff", "app:1", "app:2"],
            &["du"],
            &["rmi", "app:2"],
            &["prune", "-a"],
            &["fsck"],
        ];
        for command in commands {
            let ended = container.run(command);
            assert_eq!(ended.code, 0, "{command:?}: {}{}", ended.out, ended.err);
        }
        let ended = container.build(&context, &["-o", &target]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(fs::read_to_string(Path::new(&target).join("here")).expect("file"), "text\n");
    }
}

#[test]
fn a_run_says_why_it_cannot_be_executed_and_what_to_do() {
    let test = "a_run_says_why_it_cannot_be_executed_and_what_to_do";
    for container in Container::all(test).into_iter().filter(|one| one.lab.who != Who::Caller) {
        let context = container.lab.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
        let ended = container.build(&context, &[]);
        assert_eq!(ended.code, 9, "{}", ended.err);
        for part in ["RUN cannot be executed on this machine", "user namespace", "seccomp", "Dockerfile:2"] {
            assert!(ended.err.contains(part), "{part}: {}", ended.err);
        }
        let ended = container.build(&context, &["--isolation=chroot"]);
        assert_eq!(ended.code, 9, "{}", ended.err);
        assert!(ended.err.contains("--isolation=chroot is not possible here"), "{}", ended.err);
        let info = container.run(&["info"]);
        assert!(info.out.contains("RUN cannot be executed on this machine"), "{}", info.out);

        let context = container.lab.context(&[("Dockerfile", "FROM busybox\nCMD true\n")]);
        assert_eq!(container.build(&context, &["-t", "app:1"]).code, 0);
        let ended = container.run(&["run", "app:1"]);
        assert_eq!(ended.code, 125, "{}", ended.err);
        assert!(ended.err.contains("RUN cannot be executed on this machine"), "{}", ended.err);
    }
}

/// Docker's root in a container has the IDs and the rights of files that root outside has.
#[test]
fn a_run_that_is_cached_needs_no_namespace() {
    let test = "a_run_that_is_cached_needs_no_namespace";
    for container in Container::all(test).into_iter().filter(|one| one.lab.who == Who::Caller) {
        let dockerfile = "FROM busybox\nRUN echo made > /made\nCOPY f /f\n";
        let context = container.lab.context(&[("Dockerfile", dockerfile), ("f", "x")]);
        let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "app:1"];
        assert_eq!(container.lab.build(&context, &epoch).code, 0);
        fs::write(context.join("f"), "changed").expect("write");
        let out = container.lab.out("files").display().to_string();
        let ended = container.build(&context, &["-o", &out]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(fs::read_to_string(Path::new(&out).join("made")).expect("file"), "made\n");
    }
}
