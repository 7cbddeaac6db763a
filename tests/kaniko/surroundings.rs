//! Containers that are small or strange: somebody else's home, odd places for temporary files, read-only roots, process
//! number 1, nearly full disks.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::scene::Scene;
use super::support::{self, Done, base, done, has, skip};

/// A user without an entry in `/etc/passwd`, as OpenShift chooses them.
const STRANGER: u32 = 1_234_567;

/// Whether this user may make mounts in namespaces of its own.
fn can_mount(test: &str) -> bool {
    let can = support::is_root() && has("unshare") && has("setpriv");
    if !can {
        skip(test, "only root makes mounts and becomes another user");
    }
    can
}

/// Runs a script in mounts of its own; `$RBUILD` is the program.
fn in_own_mounts(scene: &Scene, script: &str, change: impl FnOnce(&mut Command)) -> Done {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", script]).env_clear().stdin(Stdio::null()).current_dir("/");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("RBUILD", support::RBUILD);
    command.env("HOME", scene.lab.path().join("home")).env("RBUILD_ROOT", scene.lab.store());
    change(&mut command);
    done(command.output().expect("unshare"))
}

#[test]
fn a_user_that_nobody_knows_builds_and_pushes() {
    let test = "a_user_that_nobody_knows_builds_and_pushes";
    if !can_mount(test) {
        return;
    }
    let Some(scene) = Scene::new(test) else { return };
    fs::set_permissions(scene.lab.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    // The checkout may lie where other users cannot go.
    let program = scene.lab.path().join("other/executor");
    fs::create_dir(scene.lab.path().join("other")).expect("mkdir");
    fs::copy(support::RBUILD, &program).expect("copy");
    let (home, own) = (scene.lab.path().join("home"), scene.lab.path().join("own"));
    for file in ["containers/auth.json", "containers/registries.conf", "rbuild/registries.toml"] {
        let path = home.join(".config").join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, "secret").expect("write");
    }
    fs::create_dir(home.join(".docker")).expect("mkdir");
    fs::write(home.join(".docker/config.json"), "secret").expect("write");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::create_dir(&own).expect("mkdir");
    chown(&own, Some(STRANGER), Some(0)).expect("chown");
    let context = scene.context(&[("Dockerfile", "FROM BASE\nCOPY Dockerfile /\n")]);
    let name = scene.name("stranger/app:1");
    let run = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &STRANGER.to_string(), "--regid", "0", "--clear-groups", "--inh-caps=-all"]);
        command.arg(&program).args(flags).env_clear().envs(variables.iter().copied()).current_dir("/");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        done(command.output().expect("setpriv"))
    };
    let (home, store) = (home.display().to_string(), own.join("store").display().to_string());
    let flags = ["--context", &context, "--destination", &name];
    for variables in [&[("HOME", home.as_str()), ("RBUILD_ROOT", &store)][..], &[("RBUILD_ROOT", &store)]] {
        let ended = run(&flags, variables);
        assert_eq!(ended.code, 0, "{variables:?}: {}", ended.err);
    }
    assert!(scene.inspect(&name)["Digest"].is_string());
    // Without a place for the store it says what to set.
    for variables in [&[][..], &[("HOME", home.as_str())], &[("HOME", "/")]] {
        let ended = run(&flags, variables);
        assert!(ended.code == 2 || ended.code == 7, "{variables:?}: {}: {}", ended.code, ended.err);
        assert!(ended.err.contains("RBUILD_ROOT"), "{variables:?}: {}", ended.err);
    }
}

#[test]
fn a_build_needs_nothing_but_its_store() {
    let test = "a_build_needs_nothing_but_its_store";
    if !can_mount(test) {
        return;
    }
    let Some(scene) = Scene::new(test) else { return };
    let (store, temporary) = (scene.lab.store(), scene.lab.path().join("temporary"));
    fs::create_dir_all(&store).expect("mkdir");
    fs::create_dir(&temporary).expect("mkdir");
    let context = scene.context(&[("Dockerfile", "FROM BASE\nCOPY Dockerfile /d\nRUN cat /d > /e\n")]);
    let script = format!(
        "mount -t tmpfs -o size=512m tmpfs {store}\n\
         mount -t tmpfs -o size=4k,nr_inodes=2,noexec tmpfs {temporary}\n\
         echo full > {temporary}/file 2> /dev/null || :\n\
         mount -o remount,bind,ro /\n\
         for dir in {temporary} /nowhere/at/all /proc; do\n\
         TMPDIR=$dir $RBUILD kaniko --no-push -c {context} -d app:1\n\
         done\n\
         $RBUILD images\n",
        store = store.display(),
        temporary = temporary.display()
    );
    let ended = in_own_mounts(&scene, &script, |_| ());
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.contains("app"), "{}", ended.out);
}

#[test]
fn a_disk_on_which_pods_are_evicted_is_told_before() {
    let test = "a_disk_on_which_pods_are_evicted_is_told_before";
    if !can_mount(test) {
        return;
    }
    let Some(scene) = Scene::new(test) else { return };
    let store = scene.lab.store();
    fs::create_dir_all(&store).expect("mkdir");
    let context = scene.context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /d\n")]);
    let script = format!(
        "mount -t tmpfs -o size=32m tmpfs {store}\n\
         $RBUILD kaniko --no-push -c {context}\n\
         echo filling >&2\n\
         head -c 30m /dev/zero > {store}/filler\n\
         $RBUILD kaniko --no-push -c {context}\n",
        store = store.display()
    );
    let pod = |command: &mut Command| {
        command.env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    };
    let ended = in_own_mounts(&scene, &script, pod);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let (before, after) = ended.err.split_once("filling").expect("two builds");
    let warning = "Kubernetes evicts pods below 10%";
    assert!(!before.contains(warning) && after.contains(warning), "{}", ended.err);
    // Elsewhere nobody is evicted.
    let ended = in_own_mounts(&scene, &script, |_| ());
    assert!(ended.code == 0 && !ended.err.contains(warning), "{}", ended.err);
}

/// The first child of a process, once it has one.
fn child_of(parent: u32) -> Option<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

#[test]
fn process_number_one_ends_when_it_is_asked_to() {
    let test = "process_number_one_ends_when_it_is_asked_to";
    if !can_mount(test) || base("busybox").is_none() {
        return;
    }
    let Some(scene) = Scene::new(test) else { return };
    let begun = scene.lab.path().join("begun");
    let context = scene.context(&[("Dockerfile", "FROM BASE\nRUN echo it has begun && sleep 1000\n")]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", support::RBUILD]);
    command.args(["kaniko", "--no-push", "-c", &context, "--log-format=text"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("RBUILD_ROOT", scene.lab.store());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&begun).expect("a file"));
    let mut outer = command.spawn().expect("unshare");
    let log = || fs::read_to_string(&begun).unwrap_or_default();
    let wait_for = |what: &str, so: &mut dyn FnMut() -> bool| {
        let from = Instant::now();
        while !so() {
            assert!(from.elapsed() < Duration::from_secs(300), "{what}: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for("the step does not begin", &mut || log().lines().any(|line| line.ends_with("it has begun")));
    let inner = child_of(outer.id()).expect("rbuild");
    // SAFETY: a signal to a process that this test has started.
    unsafe { libc::kill(inner, libc::SIGTERM) };
    let mut status = None;
    wait_for("it does not end", &mut || {
        status = outer.try_wait().expect("unshare");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(143), "{}", log());
    assert!(log().contains("interrupted"), "{}", log());
}
