//! Other users of the machine: what they can reach of a store, and what they plant for those who write.

use super::*;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

/// Everything below a directory, links not followed.
fn all(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            found.extend(all(&path));
        }
        found.push(path);
    }
    found
}

/// What the second user reaches of these, whatever it could do there.
fn reached(test: &str, paths: &[PathBuf]) -> Option<String> {
    let script = "while IFS= read -r path; do\n\
                  if [ -e \"$path\" ] || [ -L \"$path\" ] || cat \"$path\" >/dev/null 2>&1; then echo \"$path\"; fi\n\
                  case $path in */busybox.setuid) \"$path\" id -u;; esac\n\
                  done 2>/dev/null; true";
    let names = paths.iter().map(|path| format!("{}\n", path.display()));
    Some(support::neighbour(test, script, &names.collect::<String>())?.out)
}

/// A tar with a device node that everybody may open.
fn node() -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path("null").expect("path");
    header.set_entry_type(tar::EntryType::Char);
    header.set_device_major(1).expect("major");
    header.set_device_minor(3).expect("minor");
    header.set_mode(0o666);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    header.set_size(0);
    header.set_cksum();
    [header.as_bytes().as_slice(), &[0; 1024]].concat()
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_there() {
        assert!(Instant::now() < end, "waited two minutes for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Setuid programs, device nodes, files of mode 0600 in blobs, cache mounts, records, names, and the socket
/// that leads to an agent, while a step runs and after.
#[test]
fn cve_2021_41091_cve_2021_41103_a_store_is_out_of_reach_for_other_users() {
    let test = "cve_2021_41091_cve_2021_41103_a_store_is_out_of_reach_for_other_users";
    let dockerfile = "FROM busybox\nADD nodes.tar /nodes/\nCOPY --chmod=0600 secret /secret\n\
        RUN cp /bin/busybox /busybox.setuid && chmod 4755 /busybox.setuid\n\
        RUN --mount=type=cache,target=/c,mode=0777 --mount=type=ssh,mode=0666 touch /c/ready; i=0; \
        while [ ! -e /c/stop ] && [ $i -lt 1200 ]; do sleep 0.1; i=$((i+1)); done\n";
    for who in modes(test) {
        let userns: &[&str] = match (who, is_root()) {
            (Who::Caller, true) => &["auto", "private", "host"],
            _ => &["auto"],
        };
        for userns in userns {
            let lab = Lab::as_user(who);
            // Nothing but the store itself keeps others out.
            fs::set_permissions(lab.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
            let context = lab.context(&[("Dockerfile", dockerfile), ("secret", CANARY)]);
            fs::write(context.join("nodes.tar"), node()).expect("tar");
            let agent = UnixListener::bind(lab.path().join("agent")).expect("agent");
            if let Some((_, uid)) = user_of(who) {
                chown(lab.path().join("agent"), Some(uid), Some(uid)).expect("chown");
            }
            let ssh = format!("--ssh=default={}", lab.path().join("agent").display());
            let flags = ["-t", "secret:1", &ssh, &format!("--userns={userns}")];
            let (during, done) = std::thread::scope(|scope| {
                let build = scope.spawn(|| lab.build(&context, &flags));
                let mounts = lab.store().join("mounts");
                let ready = || all(&mounts).into_iter().find(|path| path.ends_with("fs/ready"));
                wait_for("the step", || ready().is_some() || build.is_finished());
                let paths = all(&lab.store());
                let socket = |path: &PathBuf| {
                    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
                };
                let sockets = paths.iter().filter(|path| socket(path)).count();
                let during = reached(test, &paths).map(|reached| (reached, sockets));
                if let Some(ready) = ready() {
                    fs::write(ready.with_file_name("stop"), "").expect("stop");
                }
                (during, build.join().expect("build"))
            });
            drop(agent);
            if *userns == "private" && support::lacks_mapped_owners(test, &done) {
                continue;
            }
            assert_eq!(done.code, 0, "{who:?} {userns}: {}", done.err);
            let Some((reached_during, sockets)) = during else { return };
            let after = all(&lab.store());
            let kind = |path: &PathBuf| fs::symlink_metadata(path).expect("metadata");
            assert_eq!(sockets, 1, "{who:?} {userns}: the socket of the agent");
            assert!(after.iter().any(|path| kind(path).mode() & 0o4000 != 0), "{who:?}: no setuid file");
            if is_root() && who == Who::Caller {
                let node = |path: &PathBuf| kind(path).file_type().is_char_device();
                assert!(after.iter().any(node), "{userns}: no device node");
            }
            for place in ["refs/", "records/", "blobs/sha256/", "mounts/"] {
                let place = lab.store().join(place);
                assert!(after.iter().any(|path| path.starts_with(&place) && !path.is_dir()), "{place:?}");
            }
            assert_eq!(reached_during, "", "{who:?} {userns}: reached while a step runs");
            assert_eq!(reached(test, &after).expect("su"), "", "{who:?} {userns}: reached");
        }
    }
}

/// Whoever uses the store of another user trusts it with the permissions of their own.
#[test]
fn a_store_of_another_user_is_refused_by_name_and_its_links_are_not_followed() {
    let test = "a_store_of_another_user_is_refused_by_name_and_its_links_are_not_followed";
    for who in modes(test) {
        let Some((name, uid)) = user_of(who) else { continue };
        let (theirs, root) = (Lab::as_user(who), Lab::new());
        assert_eq!(theirs.run(["images"]).code, 0);
        for file in ["lock", "gate"] {
            fs::remove_file(theirs.store().join(file)).expect(file);
            symlink(theirs.path().join(format!("made-by-{file}")), theirs.store().join(file)).expect("link");
        }
        let store = theirs.store().display().to_string();
        let done = root.run(["--root", &store, "images"]);
        assert_eq!(done.code, 7, "{}", done.err);
        assert!(
            done.err.contains(&format!("{name} (uid {uid})")) && done.err.contains("--root"),
            "{}",
            done.err
        );
        // Their owner is told of the links.
        let done = theirs.run(["images"]);
        assert!(done.code == 7 && done.err.contains("is a link"), "{}", done.err);
        for file in ["lock", "gate"] {
            assert!(!theirs.path().join(format!("made-by-{file}")).exists());
        }
        // A volume of root's where everybody may write, as container platforms make them.
        let volume = theirs.path().join("volume");
        fs::create_dir(&volume).expect("volume");
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).expect("chmod");
        let done = theirs.run(["--root", &volume.display().to_string(), "images"]);
        assert!(done.code == 7 && done.err.contains("root (uid 0)"), "{who:?}: {}", done.err);
        let advice = volume.join("rbuild").display().to_string();
        assert!(done.err.contains(&advice), "{}", done.err);
        assert_eq!(theirs.run(["--root", &advice, "images"]).code, 0);
        let meta = fs::metadata(&advice).expect("store");
        assert_eq!((meta.mode() & 0o777, meta.uid()), (0o700, uid));
        assert_eq!(fs::metadata(&volume).expect("volume").mode() & 0o7777, 0o2777);
        // Directories that somebody put where a store is going to be, and still has open.
        for planted in ["records", "builds"] {
            let place = root.path().join(format!("planted-{planted}"));
            fs::create_dir_all(place.join(planted)).expect("planted");
            fs::write(place.join("version"), "1").expect("version");
            chown(place.join(planted), Some(uid), Some(uid)).expect("chown");
            let done = root.run(["--root", &place.display().to_string(), "images"]);
            assert!(
                done.code == 7 && done.err.contains(&format!("{planted} belongs to {name}")),
                "{}",
                done.err
            );
        }
    }
}

/// A store made by an older version, or opened by hand.
#[test]
fn a_store_that_others_could_use_is_closed_with_a_notice_and_fsck_finds_open_directories() {
    let lab = Lab::new();
    assert_eq!(lab.run(["images"]).code, 0);
    let chmod =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    let mode = |path: &Path| fs::metadata(path).expect("metadata").mode() & 0o7777;
    for (wide, word) in [(0o755, "read"), (0o775, "change")] {
        chmod(&lab.store(), wide);
        chmod(&lab.store().join("blobs"), wide);
        let done = lab.run(["images"]);
        assert!(done.err.contains(&format!("could {word} the store")), "{}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        assert_eq!((mode(&lab.store()), mode(&lab.store().join("blobs"))), (0o700, 0o700));
        assert_eq!(lab.run(["images"]).err, "");
    }
    fs::create_dir(lab.store().join("logs")).expect("logs");
    for room in ["tmp", "snapshots", "blobs", "logs"] {
        let room = lab.store().join(room);
        chmod(&room, 0o711);
        let done = lab.run(["fsck"]);
        assert!(done.code == 7 && done.out.contains("other users may enter it"), "{}{}", done.out, done.err);
        lab.run(["fsck", "--repair"]);
        assert_eq!((mode(&room), lab.run(["fsck"]).code), (0o700, 0));
    }
}

/// Links with the names that temporaries used to have: the name, a dot and the process's number.
#[test]
fn nothing_is_written_through_links_planted_where_temporaries_come() {
    if !support::bases_or_skip("nothing_is_written_through_links_planted_where_temporaries_come") {
        return;
    }
    let range = Range::new(Who::Caller);
    let victim = range.outside.join("canary");
    let text = "from scratch\nCopy x /x\n";
    let context =
        range.lab.context(&[("Dockerfile", text), ("x", ""), (".docker/config.json", "{}"), ("out/", "")]);
    let next = std::process::id() + 1;
    for pid in next..next + 3000 {
        for name in ["Dockerfile", ".docker/.config.json", "out/id", "out/meta", "out/image"] {
            symlink(&victim, context.join(format!("{name}.{pid}"))).expect("link");
            symlink(&victim, context.join(format!("{name}.partial-{pid}-0"))).expect("link");
        }
    }
    let place = |name: &str| context.join(name).display().to_string();
    for name in ["out/id", "out/meta", "out/image", "out/saved", "out/copied"] {
        symlink(&victim, context.join(name)).expect("link");
    }
    let done = range.lab.run(["check", "--fix", &context.display().to_string()]);
    range.safe("check --fix", &done, &[]);
    let fixed = fs::read_to_string(context.join("Dockerfile")).expect("Dockerfile");
    assert!(fixed != text && fixed.contains("copy x"), "{fixed}{}", done.err);
    let (id, meta, image) = (place("out/id"), place("out/meta"), place("out/image"));
    let image = format!("type=oci,dest={image}");
    let flags = ["-t", "planted:1", "--iidfile", &id, "--metadata-file", &meta, "-o", &image];
    let done = range.build(&context, &flags);
    assert_eq!(done.code, 0, "{}", done.err);
    range.safe("build", &done, &[]);
    let (saved, copied) = (place("out/saved"), place("out/copied"));
    for arguments in [
        ["save", "planted:1", "-o", &saved].as_slice(),
        &["copy", "store:planted:1", &format!("oci-archive:{copied}")],
    ] {
        let done = range.lab.run(arguments.iter().copied());
        assert_eq!(done.code, 0, "{}", done.err);
        range.safe(arguments[0], &done, &[]);
    }
    for name in [&id, &meta, &place("out/image"), &saved, &copied] {
        assert!(fs::symlink_metadata(name).expect("result").is_file(), "{name} is still a link");
    }
}
