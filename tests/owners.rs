//! Owners of files where the machine, the user or the file system cannot have all of them: nothing is lost
//! in silence, and what cannot be done is refused by name.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Done, Image, Lab, Who, base, bases_or_skip, done, has, is_root, modes, skip, user_of};

/// How RUN gets its IDs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    User(Who, &'static str),
    /// Root of a user namespace with so many IDs.
    Namespace(u32),
}

fn all_modes(test: &str) -> Vec<Mode> {
    if !bases_or_skip(test) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for who in modes(test) {
        all.push(Mode::User(who, "--userns=auto"));
        if who == Who::Caller && is_root() {
            all.push(Mode::User(who, "--userns=host"));
        }
    }
    if is_root() && has("unshare") {
        all.extend([1, 5, 6, 100].map(Mode::Namespace));
    } else {
        skip(test, "user namespaces of several sizes need root and unshare");
    }
    all
}

impl Mode {
    fn lab(self) -> Lab {
        match self {
            Mode::User(who, _) => Lab::as_user(who),
            Mode::Namespace(_) => Lab::new(),
        }
    }

    fn has_one_id(self) -> bool {
        matches!(self, Mode::User(Who::SingleId, _) | Mode::Namespace(1))
    }

    /// The IDs there are, as messages have them; `None` where it is all of them.
    fn range(self) -> Option<String> {
        match self {
            Mode::Namespace(count) => Some(format!("0-{}", count - 1)),
            Mode::User(Who::Rootless, _) => Some("0-65536".into()),
            Mode::User(..) => None,
        }
    }

    fn build(self, lab: &Lab, context: &Path, more: &[&str]) -> Done {
        match self {
            Mode::User(_, userns) => lab.build(context, &[more, &[userns]].concat()),
            Mode::Namespace(count) => {
                let mut command = in_namespace(lab, count);
                command.args(["build", "--progress=plain"]).args(lab.bases()).args(more).arg(context);
                run_in_namespace(command, count)
            }
        }
    }

    fn image(self, lab: &Lab, context: &Path, more: &[&str]) -> Image {
        let archive = lab.out("image.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let ended = self.build(lab, context, &[more, &["-o", &output]].concat());
        assert_eq!(ended.code, 0, "{self:?}: {}", ended.err);
        Image::read(&archive, lab.path(), ended)
    }
}

/// The program, waiting for its IDs.
fn in_namespace(lab: &Lab, count: u32) -> Command {
    let rbuild = lab.rbuild();
    let mut command = Command::new("unshare");
    // With one ID it must be as `unshare -r` makes it: setgroups is not allowed.
    let flags: &[&str] = if count == 1 { &["-r", "-m"] } else { &["-U", "-m"] };
    command.args(flags).args(["sh", "-c", "read ready; exec \"$@\"", "sh"]).arg(rbuild.get_program());
    command.env_clear();
    for (name, value) in rbuild.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.current_dir(lab.path());
    command
}

fn run_in_namespace(mut command: Command, count: u32) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("unshare");
    if count > 1 {
        let own = fs::read_link("/proc/self/ns/user").expect("namespace");
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        while fs::read_link(proc.join("ns/user")).expect("namespace") == own {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for file in ["uid_map", "gid_map"] {
            fs::write(proc.join(file), format!("0 0 {count}")).expect(file);
        }
    }
    writeln!(child.stdin.take().expect("stdin"), "ready").expect("write");
    done(child.wait_with_output().expect("rbuild"))
}

const BEYOND: &str = "FROM busybox
COPY --chown=70000:1000650000 f /a
COPY --chown=70000:5 --chmod=750 f /before
COPY --chown=70000:70001 dir /d
RUN echo x >> /a && mv /before /after && touch /new && chmod 711 /d && mv /d/f /d/g
RUN [ \"$(stat -c %u /new)\" = 0 ] && [ \"$(cat /a)\" = \"$(printf 'content\\nx')\" ] && echo y >> /after && rm /d/sub/f
";

/// 70000 is more than a usual range of subordinate IDs has; 1000650000 is what OpenShift gives to containers.
#[test]
fn owners_that_are_not_mapped_stay_in_layers() {
    for mode in all_modes("owners_that_are_not_mapped_stay_in_layers") {
        let lab = mode.lab();
        let files = [("Dockerfile", BEYOND), ("f", "content\n"), ("dir/f", "x"), ("dir/sub/f", "x")];
        let image = mode.image(&lab, &lab.context(&files), &["--network=none"]);
        for (path, owner) in [
            ("/a", "644 70000:1000650000"),
            ("/after", "750 70000:5"),
            ("/d", "711 70000:70001"),
            ("/d/g", "644 70000:70001"),
            ("/d/sub", "755 70000:70001"),
            ("/new", "644 0:0"),
        ] {
            assert_eq!(image.owner(path), owner, "{mode:?} {path}");
        }
    }
}

#[test]
fn bases_with_owners_that_are_not_mapped_are_unpacked_and_changed() {
    let test = "bases_with_owners_that_are_not_mapped_are_unpacked_and_changed";
    let all = all_modes(test);
    if all.is_empty() {
        return;
    }
    let first = Lab::new();
    let layout = first.out("layout");
    let dockerfile = "FROM busybox\nCOPY --chown=70000:1000650000 f d /x/\nCOPY --chown=70000:5 f /y\n";
    let context = first.context(&[("Dockerfile", dockerfile), ("f", "x"), ("d/g", "x")]);
    std::os::unix::fs::symlink("f", context.join("d/link")).expect("link");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let ended = first.build(&context, &["-o", &output]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    for mode in all {
        let lab = mode.lab();
        let copy = lab.path().join("big");
        let status = Command::new("cp").arg("-r").arg(&layout).arg(&copy).status().expect("cp");
        assert!(status.success());
        let dockerfile =
            "FROM big\nRUN echo more >> /x/f && mv /x/g /x/h && touch -h /x/link\nRUN chown 3:2 /y\n";
        let base = format!("big=oci-layout://{}", copy.display());
        let context = lab.context(&[("Dockerfile", dockerfile)]);
        let more = ["--network=none", "--build-context", &base];
        let image = mode.image(&lab, &context, &more);
        for path in ["/x/f", "/x/h"] {
            assert_eq!(image.owner(path), "644 70000:1000650000", "{mode:?} {path}");
        }
        // The only thing that could tell a link's owner is the path below it.
        if !mode.has_one_id() {
            assert_eq!(image.owner("/x/link"), "777 70000:1000650000", "{mode:?}");
        }
        assert_eq!(image.owner("/y"), "644 3:2", "{mode:?}");
    }
}

#[test]
fn ids_that_run_does_not_have_are_refused_by_name() {
    for mode in all_modes("ids_that_run_does_not_have_are_refused_by_name") {
        let lab = mode.lab();
        let secret = lab.out("secret");
        fs::write(&secret, "x").expect("write");
        let secret = format!("--secret=id=s,src={}", secret.display());
        let more = ["--network=none", &secret, "--no-cache"];
        let group = "RUN printf 'root:x:0:\\nmany:x:70000:root\\n' > /etc/group\nRUN true";
        for (lines, origin, what) in [
            ("USER 70000:5\nRUN id", "USER 70000:5", "user ID 70000"),
            ("USER 4:70000\nRUN id", "USER 4:70000", "group ID 70000"),
            (group, "/etc/group of the image", "supplementary group ID 70000"),
            ("RUN --mount=type=cache,target=/c,uid=70000 true", "--mount for /c", "uid=70000"),
            ("RUN --mount=type=secret,id=s,gid=70000 true", "--mount for /run/secrets/s", "gid=70000"),
        ] {
            let context = lab.context(&[("Dockerfile", &format!("FROM busybox\n{lines}\n"))]);
            let ended = mode.build(&lab, &context, &more);
            match mode.range().filter(|_| !mode.has_one_id()) {
                None => assert_eq!(ended.code, 0, "{mode:?} {lines}: {}", ended.err),
                Some(range) => {
                    assert_eq!(ended.code, 1, "{mode:?} {lines}: {}", ended.err);
                    for part in [origin, what, &range, "/etc/subuid"] {
                        assert!(ended.err.contains(part), "{mode:?} {lines}: no {part:?} in {}", ended.err);
                    }
                }
            }
        }
        let context =
            lab.context(&[("Dockerfile", "FROM busybox\nRUN touch /x && chown 100000:100000 /x\n")]);
        let ended = mode.build(&lab, &context, &more);
        match mode.range().filter(|_| !mode.has_one_id()) {
            None => assert_eq!(ended.code, 0, "{mode:?}: {}", ended.err),
            Some(range) => {
                let hint = format!("RUN has the user IDs {range} and");
                assert!(ended.code == 1 && ended.err.contains(&hint), "{mode:?}: {}", ended.err);
            }
        }
    }
}

/// What `rbuild info` advises to users with one ID: the same store is then used with other owners on disk.
#[test]
fn snapshots_are_used_only_with_the_ids_they_were_made_with() {
    let test = "snapshots_are_used_only_with_the_ids_they_were_made_with";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() || user_of(Who::Rootless).is_none() || !has("setpriv") {
        return skip(test, "there is no ordinary user with subordinate IDs (tests/setup makes one)");
    }
    let lab = Lab::as_user(Who::Rootless);
    // The second stage takes files of a layer that is in the store as files only.
    let prepare = "FROM busybox AS bare
RUN mkdir /d && head -c 2000000 /dev/zero > /d/big && chown 33:34 /d/big
FROM busybox
COPY --from=bare /d /d
RUN touch /a && chown 33:34 /a
";
    let ask = format!(
        "{prepare}RUN --mount=type=cache,target=/c stat -c '%n %u:%g' /a /d/big /home/app > /seen; cp -a /a /c\n"
    );
    let context = lab.context(&[("Dockerfile", prepare)]);
    // Without newuidmap there is one ID.
    let mut command = lab.rbuild();
    let user: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = Command::new(command.get_program());
    command.args(&user[..user.len() - 1]).args(["/usr/bin/env", "PATH=/none"]).arg(&user[user.len() - 1]);
    command.env("RBUILD_ROOT", lab.store()).env("HOME", lab.path().join("home"));
    command.args(["build", "--network=none"]).args(lab.bases()).arg(&context);
    let ended = done(command.output().expect("rbuild"));
    assert_eq!(ended.code, 0, "{}", ended.err);
    let info = done(command.output().expect("rbuild"));
    assert!(info.err.contains("cached"), "{}", info.err);
    for (dockerfile, file) in [(&ask[..], "/seen"), (&ask.replace("touch /a", "touch /a /b"), "/seen")] {
        let context = lab.context(&[("Dockerfile", dockerfile)]);
        let image = lab.build_image(&context, &["--network=none"]);
        assert_eq!(image.text(file), "/a 33:34\n/d/big 33:34\n/home/app 1000:1000\n");
        assert_eq!(image.owner("/d/big"), "644 33:34");
    }
    let checked = lab.run(["fsck"]);
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
}

/// A file system without extended attributes of users, as older kernels' tmpfs and NFS are.
struct Bare(PathBuf);

impl Bare {
    fn mount(place: &Path, who: Who) -> Option<Self> {
        fs::create_dir_all(place).expect("directory");
        let mounted = Command::new("mount").args(["-t", "ramfs", "ramfs"]).arg(place).status();
        mounted.is_ok_and(|status| status.success()).then_some(())?;
        if let Some((_, uid)) = user_of(who) {
            std::os::unix::fs::chown(place, Some(uid), Some(uid)).expect("chown");
        }
        Some(Bare(place.to_owned()))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const REPLACED: &str = "FROM busybox
COPY --chown=33:34 f /a
RUN mkdir /d && touch /d/old /b && chown 5:6 /b && echo x >> /a
RUN rm -r /d /home && mkdir /d /home && echo y > /d/new && mv /b /moved
";

#[test]
fn stores_without_extended_attributes_get_copies_or_words() {
    let test = "stores_without_extended_attributes_get_copies_or_words";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() {
        return skip(test, "needs root");
    }
    for who in modes(test) {
        let lab = Lab::as_user(who);
        let Some(_bare) = Bare::mount(&lab.store(), who) else {
            return skip(test, "ramfs cannot be mounted here");
        };
        let context = lab.context(&[("Dockerfile", REPLACED), ("f", "content\n")]);
        if who == Who::SingleId {
            let ended = lab.build(&context, &["--network=none"]);
            assert_eq!(ended.code, 7, "{}", ended.err);
            for part in ["(ramfs)", "extended attributes", "--root", "/etc/subuid"] {
                assert!(ended.err.contains(part), "no {part:?} in {}", ended.err);
            }
            // Without RUN nothing has to be written down.
            let context =
                lab.context(&[("Dockerfile", "FROM busybox\nCOPY --chown=33:34 f /a\n"), ("f", "x")]);
            assert_eq!(lab.build_image(&context, &[]).owner("/a"), "644 33:34");
            continue;
        }
        let image = lab.build_image(&context, &["--network=none"]);
        assert!(
            image.build.err.contains("every RUN copies its root file system: the store"),
            "{}",
            image.build.err
        );
        assert!(!image.exists("/home/app") && !image.exists("/d/old"));
        assert_eq!(image.text("/d/new"), "y\n");
        assert_eq!((image.owner("/a"), image.owner("/moved")), ("644 33:34".into(), "644 5:6".into()));
        assert!(lab.run(["info"]).out.contains("copies: every RUN copies"));
    }
}

/// Layers say that a directory hides what is below it with an attribute, where there are any.
#[test]
fn opaque_directories_of_bases_hide_what_is_below_without_extended_attributes() {
    let test = "opaque_directories_of_bases_hide_what_is_below_without_extended_attributes";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() {
        return skip(test, "needs root");
    }
    let lab = Lab::new();
    let layout = lab.out("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let dockerfile = "FROM busybox\nRUN rm -r /home && mkdir /home && echo x > /home/only\n";
    let ended = lab.build(&lab.context(&[("Dockerfile", dockerfile)]), &["--network=none", "-o", &output]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let base = format!("made=oci-layout://{}", layout.display());
    let other = Lab::new();
    let Some(_bare) = Bare::mount(&other.store(), Who::Caller) else {
        return skip(test, "ramfs cannot be mounted here");
    };
    let context =
        other.context(&[("Dockerfile", "FROM made\nRUN ls -A /home > /seen && touch /home/more\n")]);
    let image = other.build_image(&context, &["--network=none", "--build-context", &base]);
    assert_eq!(image.text("/seen"), "only\n");
    let names: Vec<_> =
        fs::read_dir(image.at("/home")).expect("list").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// One ID, and no overlayfs either: what a step changes in place keeps its owner.
#[test]
fn with_one_id_changed_and_moved_files_keep_their_owners() {
    let test = "with_one_id_changed_and_moved_files_keep_their_owners";
    if !bases_or_skip(test) || base("busybox").is_none() {
        return;
    }
    if !is_root() || user_of(Who::SingleId).is_none() {
        return skip(test, "there is no ordinary user without subordinate IDs (tests/setup makes one)");
    }
    let dockerfile = "FROM busybox
COPY --chown=33:34 f /changed
COPY --chown=33:34 f /before
RUN echo x >> /changed && mv /before /after && echo > /new && mv /new /changed2
COPY --chown=33:34 f /same/f
COPY --chown=33:34 f /again/f
COPY --chown=33:34 f /deep/er/est/f
RUN chmod 700 /same && rm -r /again && mkdir /again && rm -r /deep && mkdir -p /deep/er/est && : > /deep/er/est/f
";
    for on_overlay in [true, false] {
        let lab = Lab::as_user(Who::SingleId);
        let place = if on_overlay { None } else { overlay(&lab) };
        if !on_overlay && place.is_none() {
            return skip(test, "overlayfs cannot be mounted here");
        }
        let context = lab.context(&[("Dockerfile", dockerfile), ("f", "content\n")]);
        let archive = lab.out("image.tar");
        let mut command = lab.rbuild();
        if let Some((_, root)) = &place {
            command.args(["--root", root]);
        }
        command.args(["build", "--progress=plain", "--network=none"]).args(lab.bases());
        command.arg(format!("--output=type=oci,dest={}", archive.display())).arg(&context);
        let ended = done(command.output().expect("rbuild"));
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert_eq!(ended.err.contains("every RUN copies"), !on_overlay, "{}", ended.err);
        let image = Image::read(&archive, lab.path(), ended);
        for (path, owner) in [
            ("/changed", "644 33:34"),
            ("/after", "644 33:34"),
            ("/changed2", "644 0:0"),
            ("/same", "700 33:34"),
            ("/same/f", "644 33:34"),
            // Made anew: nothing of what had these names before.
            ("/again", "755 0:0"),
            ("/deep/er", "755 0:0"),
            ("/deep/er/est", "755 0:0"),
            ("/deep/er/est/f", "644 0:0"),
        ] {
            assert_eq!(image.owner(path), owner, "{path}, on an overlay: {on_overlay}");
        }
    }
}

/// A place on an overlay, where no other can be mounted, for a store.
fn overlay(lab: &Lab) -> Option<(Bare, String)> {
    let place = lab.path().join("overlay");
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(place.join(name)).expect("directory");
    }
    let at = |name: &str| place.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let mounted = Command::new("mount").args(["-t", "overlay", "o", "-o", &options, &at("merged")]).status();
    mounted.is_ok_and(|status| status.success()).then_some(())?;
    let (_, uid) = user_of(lab.who)?;
    std::os::unix::fs::chown(at("merged"), Some(uid), Some(uid)).expect("chown");
    Some((Bare(at("merged").into()), at("merged")))
}
