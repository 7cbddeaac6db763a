//! `containers-storage:` with the programs that own it, as root and as an ordinary user.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Done, Lab, Who, base, done, has, is_root, skip, user_of};

const TOOLS: [&str; 3] = ["skopeo", "podman", "buildah"];

/// A storage of its own in a lab.
struct Storage<'a> {
    lab: &'a Lab,
    config: PathBuf,
}

impl<'a> Storage<'a> {
    fn new(lab: &'a Lab) -> Self {
        let (home, config) = (lab.path().join("home"), lab.path().join("storage.conf"));
        let at = |name: &str| home.join("containers").join(name).display().to_string();
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {root:?}\nrunroot = {:?}\nrootless_storage_path = {root:?}\n",
            at("run"),
            root = at("root")
        );
        fs::write(&config, text).expect("storage.conf");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("chmod");
        Storage { lab, config }
    }

    /// A directory that has this program only, and what maps user IDs.
    fn path_with(&self, tools: &[&str]) -> PathBuf {
        let dir = self.lab.path().join(format!("bin-{}", tools.concat()));
        fs::create_dir_all(&dir).expect("bin");
        for tool in tools.iter().chain(&["newuidmap", "newgidmap", "setpriv"]) {
            let found = ["/usr/bin", "/usr/local/bin", "/usr/sbin"].map(|dir| Path::new(dir).join(tool));
            if let Some(found) = found.iter().find(|path| path.exists()) {
                let _ = symlink(found, dir.join(tool));
            }
        }
        dir
    }

    fn command(&self, tools: &[&str], args: &[&str]) -> Command {
        let mut command = self.lab.rbuild();
        command.env("CONTAINERS_STORAGE_CONF", &self.config).env("PATH", self.path_with(tools));
        command.current_dir(self.lab.path().join("home")).args(args);
        command
    }

    fn run(&self, tools: &[&str], args: &[&str]) -> Done {
        done(self.command(tools, args).output().expect("rbuild"))
    }

    /// podman with this storage, as the lab's user.
    fn podman(&self, args: &[&str]) -> Command {
        let mut command = match user_of(self.lab.who) {
            None => Command::new("podman"),
            Some((name, _)) => {
                let mut command = Command::new("setpriv");
                command.args([
                    "--reuid",
                    name,
                    "--regid",
                    name,
                    "--init-groups",
                    "--inh-caps=-all",
                    "podman",
                ]);
                command
            }
        };
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let home = self.lab.path().join("home");
        command.env("HOME", &home).env("CONTAINERS_STORAGE_CONF", &self.config).current_dir(home);
        command.stdin(Stdio::null()).args(args);
        command
    }

    fn digest_and_id(&self, name: &str) -> (String, String) {
        let format = ["image", "inspect", "--format", "{{.Digest}} {{.Id}}", name];
        let text = ok(done(self.podman(&format).output().expect("podman")));
        let (digest, id) = text.trim().split_once(' ').expect("two words");
        (digest.to_owned(), id.to_owned())
    }
}

fn ok(done: Done) -> String {
    assert_eq!(done.code, 0, "{}", done.err);
    done.out
}

fn ready(test: &str) -> bool {
    if base("busybox").is_none() {
        skip(test, "tests/setup has not made the base images");
        return false;
    }
    match TOOLS.iter().find(|tool| !has(tool)) {
        Some(tool) => skip(test, &format!("{tool} is not installed")),
        None => return true,
    }
    false
}

/// An image with files of several owners in the lab's store; its digest.
fn build(lab: &Lab) -> String {
    let context = lab.context(&[("Dockerfile", "FROM busybox\nCOPY --chown=7:8 f /f\n"), ("f", "content\n")]);
    let mut args = vec!["build".to_owned(), "-q".into(), "-t".into(), "app:1".into()];
    args.extend(lab.bases());
    args.push(context.display().to_string());
    ok(lab.run(&args));
    let archive = lab.out("app.tar").display().to_string();
    ok(lab.run(["copy", "-q", "store:app:1", &format!("oci-archive:{archive}")])).trim().to_owned()
}

/// There and back with each program.
fn round_trips(lab: &Lab) {
    let storage = Storage::new(lab);
    let digest = build(lab);
    for tool in TOOLS {
        let name = format!("reg.example.test/team/app:{tool}");
        let place = format!("containers-storage:{name}");
        let line = ok(storage.run(&[tool], &["copy", "-q", "store:app:1", &place]));
        assert_eq!(line.trim(), digest, "{tool}");
        let (known, id) = storage.digest_and_id(&name);
        assert_eq!(known, digest, "{tool}");

        let back = format!("back:{tool}");
        ok(storage.run(&[tool], &["copy", "-q", &place, &format!("store:{back}")]));
        let images = ok(lab.run(["images", "--json"]));
        let row = images.lines().find(|line| line.contains(&format!("\"{tool}\""))).expect("a row");
        assert!(row.contains(&id), "{tool}: the image ID stays: {row}");
        let seen = ok(lab.run(["run", "--network=none", &back, "sh", "-c", "cat /f; stat -c %u:%g /f"]));
        assert_eq!(seen, "content\n7:8\n", "{tool}");
    }
    let images = lab.path().join("home/containers/root/vfs-images/images.json");
    assert!(images.exists(), "the storage is where its settings say");

    let missing = storage.run(&["skopeo"], &["copy", "containers-storage:none:1", "store:x:1"]);
    assert_eq!(missing.code, 5, "{}", missing.err);
    for part in ["cannot get containers-storage:none:1", "skopeo", "localhost/NAME"] {
        assert!(missing.err.contains(part), "{part}: {}", missing.err);
    }
}

#[test]
fn images_go_there_and_back_with_each_program() {
    let test = "images_go_there_and_back_with_each_program";
    if ready(test) {
        round_trips(&Lab::new());
    }
}

#[test]
fn ordinary_users_have_a_storage_of_their_own() {
    let test = "ordinary_users_have_a_storage_of_their_own";
    if !ready(test) {
        return;
    }
    if !is_root() || user_of(Who::Rootless).is_none() {
        return skip(test, "needs root and the user that tests/setup makes");
    }
    round_trips(&Lab::as_user(Who::Rootless));
}

#[test]
fn dockers_media_types_are_kept_by_skopeo() {
    let test = "dockers_media_types_are_kept_by_skopeo";
    if !ready(test) {
        return;
    }
    let lab = Lab::new();
    let storage = Storage::new(&lab);
    let oci = build(&lab);
    let archive = format!("docker-archive:{}", lab.out("d.tar").display());
    let docker = ok(lab.run(["copy", "-q", "store:app:1", &archive])).trim().to_owned();
    assert_ne!(docker, oci);
    let line = ok(storage.run(&["skopeo"], &["copy", "-q", &archive, "containers-storage:localhost/d:1"]));
    assert_eq!(line.trim(), docker);
    assert_eq!(storage.digest_and_id("localhost/d:1").0, docker);
    // podman reads an OCI archive, so that it is told that the digest is another.
    let line = ok(storage.run(&["podman"], &["copy", "-q", &archive, "containers-storage:localhost/d:2"]));
    assert_ne!(line.trim(), docker);
    // The image has the same ID, so the storage keeps one with two manifests.
    let digests = ["image", "inspect", "--format", "{{.RepoDigests}}", "localhost/d:2"];
    let digests = ok(done(storage.podman(&digests).output().expect("podman")));
    assert!(digests.contains(&format!("localhost/d@{}", line.trim())), "{digests}");
}

/// A service that ends with the test.
struct Service(std::process::Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn podmans_service_serves_where_there_is_no_program() {
    let test = "podmans_service_serves_where_there_is_no_program";
    if !ready(test) {
        return;
    }
    let lab = Lab::new();
    let storage = Storage::new(&lab);
    build(&lab);
    let socket = lab.path().join("run/podman/podman.sock");
    fs::create_dir_all(socket.parent().expect("parent")).expect("mkdir");
    let address = format!("unix://{}", socket.display());
    let service = storage.podman(&["system", "service", "--time=0", &address]).stderr(Stdio::null()).spawn();
    let _service = Service(service.expect("podman"));
    let begun = Instant::now();
    while !socket.exists() && begun.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let run = |args: &[&str]| {
        let mut command = storage.command(&[], args);
        done(command.env("XDG_RUNTIME_DIR", lab.path().join("run")).output().expect("rbuild"))
    };
    ok(run(&["copy", "-q", "store:app:1", "containers-storage:localhost/served:1"]));
    let (_, id) = storage.digest_and_id("localhost/served:1");
    ok(run(&["copy", "-q", "containers-storage:localhost/served:1", "store:back:1"]));
    assert!(
        ok(lab.run(["images", "--json"])).lines().any(|line| line.contains("back") && line.contains(&id))
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let test = "what_cannot_be_is_refused_by_name";
    if !ready(test) {
        return;
    }
    let lab = Lab::new();
    let storage = Storage::new(&lab);
    build(&lab);
    let place = "containers-storage:app:1";
    for (args, code, words) in [
        (["copy", "store:app:1", place], 6, "neither skopeo, podman nor buildah is on PATH"),
        (["copy", place, "store:x:1"], 5, "neither skopeo, podman nor buildah is on PATH"),
        (
            ["copy", "store:app:1", "containers-storage:[vfs@/x]app:1"],
            8,
            "storage specifiers are not supported",
        ),
        (["copy", "store:app:1", "containers-storage:Upper"], 2, "Upper"),
    ] {
        let refused = storage.run(&[], &args);
        assert_eq!(refused.code, code, "{args:?}: {}", refused.err);
        assert!(refused.err.contains(words), "{args:?}: {}", refused.err);
    }
    let all = storage.run(&["skopeo"], &["copy", "--all", "store:app:1", place]);
    assert_eq!(all.code, 2, "{}", all.err);
    assert!(all.err.contains("containers-storage: holds one platform"), "{}", all.err);
    let pinned = format!("{place}@sha256:{}", "0".repeat(64));
    assert_eq!(storage.run(&["skopeo"], &["copy", "store:app:1", &pinned]).code, 2);

    // A program that fails says why; one that hangs ends with rbuild.
    let bin = lab.path().join("fake");
    fs::create_dir(&bin).expect("bin");
    let fake = |script: &str| {
        fs::write(bin.join("skopeo"), format!("#!/bin/sh\n{script}\n")).expect("script");
        fs::set_permissions(bin.join("skopeo"), fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut command = lab.rbuild();
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).args(["copy", "store:app:1", place]);
        command
    };
    let failed = done(fake("echo first >&2; echo no space >&2; exit 3").output().expect("rbuild"));
    assert_eq!(failed.code, 6, "{}", failed.err);
    assert!(failed.err.contains("skopeo: first; no space"), "{}", failed.err);
    let mark = lab.path().join("mark");
    let mut hanging = fake(&format!("echo $$ > {}; exec sleep 600", mark.display()))
        .stderr(Stdio::null())
        .spawn()
        .expect("rbuild");
    let begun = Instant::now();
    while fs::read_to_string(&mark).unwrap_or_default().is_empty()
        && begun.elapsed() < Duration::from_secs(300)
    {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid: u32 = fs::read_to_string(&mark).expect("mark").trim().parse().expect("pid");
    let signalled = Command::new("kill").args(["-INT", &hanging.id().to_string()]).status().expect("kill");
    assert!(signalled.success());
    assert_eq!(hanging.wait().expect("ends").code(), Some(130));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
