//! Images that are named before their layers are compressed: a build without an output leaves layers as files
//! or plain tars, and whatever moves the image compresses them, to the bytes that an output would have had.

#[path = "support/cases.rs"]
mod cases;
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cases::{Random, Small, fsck, leftovers, unreachable_snapshots};
use support::{Done, Lab, Who, bases_or_skip, is_root, skip, user_of};

/// A layer that a RUN mounts, one that a RUN leaves, one that nothing reads, and a small one.
const DOCKERFILE: &str = "FROM busybox
COPY big /src/
RUN cat /src/big /src/big > /twice && mkdir -m 711 /d && ln /twice /d/name && touch -d @1700000000 /twice /d
COPY big small /plain/
COPY small /small
ENV A=b
";

fn context(lab: &Lab) -> PathBuf {
    let big: String = (0..200_000u64).map(|n| format!("{}\n", n * 7919 % 1_000_003)).collect();
    lab.context(&[("Dockerfile", DOCKERFILE), ("big", &big), ("small", "small\n")])
}

fn ok(done: Done) -> String {
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    done.out
}

fn build(lab: &Lab, context: &Path, more: &[&str]) -> Done {
    let mut command = lab.rbuild();
    command.env("SOURCE_DATE_EPOCH", "1700000000").args(["build", "--progress=plain"]).args(lab.bases());
    support::done(command.args(more).arg(context).output().expect("rbuild"))
}

/// The archive that a build with an output writes, in a store of its own.
fn at_once(who: Who, context: &Path, more: &[&str]) -> Vec<u8> {
    let lab = Lab::as_user(who);
    let archive = lab.out("at-once.tar");
    let output = format!("type=oci,dest={}", archive.display());
    ok(build(&lab, context, &[&["-t", "app:1", "-o", &output], more].concat()));
    fs::read(archive).expect("archive")
}

fn saved(lab: &Lab, name: &str) -> Vec<u8> {
    let archive = lab.out("saved.tar");
    ok(lab.run(["save", "--format", "oci", "-o", &archive.display().to_string(), name]));
    fs::read(archive).expect("archive")
}

/// What the store says is the digest of an image's manifest.
fn digest(lab: &Lab, tag: &str) -> String {
    let rows = ok(lab.run(["images", "--json"]));
    let rows = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).expect("JSON"));
    let row = rows.into_iter().find(|row| row["Tag"] == tag).expect("listed");
    row["Digest"].as_str().expect("a digest or none").to_owned()
}

fn whole(lab: &Lab) {
    ok(fsck(lab));
    assert_eq!(leftovers(lab), Vec::<String>::new());
    assert_eq!(unreachable_snapshots(lab), Vec::<String>::new());
}

fn users() -> Vec<Who> {
    let there = |who: &Who| *who == Who::Caller || user_of(*who).is_some();
    [Who::Caller, Who::Rootless, Who::SingleId].into_iter().filter(there).collect()
}

#[test]
fn a_named_image_is_the_same_before_and_after_its_layers_are_compressed() {
    if !bases_or_skip("a_named_image_is_the_same_before_and_after_its_layers_are_compressed") {
        return;
    }
    for who in users() {
        let lab = Lab::as_user(who);
        let context = context(&lab);
        let (id, metadata) = (lab.out("id"), lab.out("metadata"));
        let files =
            ["--iidfile", &id.display().to_string(), "--metadata-file", &metadata.display().to_string()];
        ok(build(&lab, &context, &[&["-t", "app:1"], &files[..]].concat()));
        let id = fs::read_to_string(id).expect("ID");
        let metadata: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(metadata).expect("metadata")).expect("JSON");
        assert_eq!(metadata["containerimage.config.digest"], id.as_str());
        assert_eq!(metadata.get("containerimage.digest"), None);
        assert_eq!(digest(&lab, "1"), "<none>", "{who:?}");
        let before = ok(lab.run(["inspect", "app:1"]));
        assert!(before.contains(&id) && before.contains("\"RepoDigests\": []"), "{before}");
        whole(&lab);
        assert_eq!(ok(lab.run(["run", "app:1", "cat", "/small", "/plain/small"])), "small\nsmall\n");
        ok(lab.run(["tag", "app:1", "app:2"]));
        ok(lab.run(["rmi", "app:1"]));
        ok(lab.run(["prune", "-a"]));
        whole(&lab);
        ok(lab.run(["tag", "app:2", "app:1"]));
        ok(lab.run(["rmi", "app:2"]));
        let expected = at_once(who, &context, &[]);
        assert!(saved(&lab, "app:1") == expected, "{who:?}: another archive");
        let known = digest(&lab, "1");
        assert!(known.starts_with("sha256:"), "{known}");
        assert!(ok(lab.run(["inspect", "app:1"])).contains(&known));
        // Once: the next time there is nothing to do.
        let blobs = fs::read_dir(lab.store().join("blobs/sha256")).expect("blobs").count();
        assert!(saved(&lab, "app:1") == expected);
        assert_eq!(fs::read_dir(lab.store().join("blobs/sha256")).expect("blobs").count(), blobs);
        ok(lab.run(["prune", "-a"]));
        assert!(saved(&lab, "app:1") == expected && digest(&lab, "1") == known);
        whole(&lab);
    }
}

#[test]
fn what_is_built_on_such_an_image_is_what_it_is_on_a_compressed_one() {
    if !bases_or_skip("what_is_built_on_such_an_image_is_what_it_is_on_a_compressed_one") {
        return;
    }
    for who in users() {
        let (lab, other) = (Lab::as_user(who), Lab::as_user(who));
        let base = context(&lab);
        let text = "FROM app:1\nRUN cat /twice /plain/big > /all && touch -d @1700000000 /all\nCOPY --from=app:1 /d /e\n";
        let child = lab.context(&[("Dockerfile", text)]);
        ok(build(&lab, &base, &["-t", "app:1"]));
        ok(build(&other, &base, &["-t", "app:1"]));
        assert!(digest(&other, "1") == "<none>");
        saved(&other, "app:1");
        let archive = |lab: &Lab, name: &str, compression: &str| {
            let archive = lab.out(name);
            let output = format!("type=oci,compression={compression},dest={}", archive.display());
            ok(build(lab, &child, &["-t", "child:1", "-o", &output]));
            fs::read(archive).expect("archive")
        };
        // The base's layers are compressed as the base says, whatever the child says.
        ok(build(&lab, &child, &["-t", "child:0"]));
        assert_eq!((digest(&lab, "0").as_str(), digest(&lab, "1").as_str()), ("<none>", "<none>"));
        assert!(archive(&lab, "zstd.tar", "zstd") == archive(&other, "zstd.tar", "zstd"), "{who:?}");
        ok(lab.run(["rmi", "child:1"]));
        ok(lab.run(["rmi", "app:1"]));
        ok(lab.run(["prune", "-a"]));
        let expected = archive(&other, "gzip.tar", "gzip");
        ok(lab.run(["tag", "child:0", "child:1"]));
        assert!(saved(&lab, "child:1") == expected, "{who:?}");
        whole(&lab);
    }
}

#[test]
fn outputs_that_need_no_compressed_layers_leave_the_name_as_it_is_without() {
    if !bases_or_skip("outputs_that_need_no_compressed_layers_leave_the_name_as_it_is_without") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    let local = format!("type=local,dest={}", lab.out("files").display());
    for output in [local.as_str(), "type=cacheonly", "type=image,name=app:1"] {
        ok(build(&lab, &context, &["-t", "app:1", "-o", output]));
        assert_eq!(digest(&lab, "1"), "<none>", "{output}");
        ok(lab.run(["rmi", "app:1"]));
        ok(lab.run(["prune", "-a"]));
    }
    assert_eq!(fs::read_to_string(lab.out("files").join("plain/small")).expect("file"), "small\n");
    let expected = at_once(Who::Caller, &context, &[]);
    for output in ["type=image,compression=gzip", "type=image,oci-mediatypes=true"] {
        ok(build(&lab, &context, &["-t", "app:1", "-o", output]));
        assert!(saved(&lab, "app:1") == expected, "{output}");
    }
    // The ID over several platforms is the digest of the index.
    ok(build(&lab, &context, &["-t", "app:2", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"]));
    assert!(digest(&lab, "2").starts_with("sha256:"));
}

/// Layers in every form compress to the same bytes, at every level.
#[test]
fn a_choice_of_compression_is_remembered_with_the_name() {
    if !bases_or_skip("a_choice_of_compression_is_remembered_with_the_name") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    let local =
        format!("type=local,dest={},compression=zstd,compression-level=7", lab.out("files").display());
    ok(build(&lab, &context, &["-t", "app:1", "-o", &local]));
    assert_eq!(digest(&lab, "1"), "<none>");
    let other = Lab::new();
    let archive = other.out("zstd.tar");
    let output = format!("type=oci,compression=zstd,compression-level=7,dest={}", archive.display());
    ok(build(&other, &context, &["-t", "app:1", "-o", &output]));
    assert!(saved(&lab, "app:1") == fs::read(archive).expect("archive"));
}

#[test]
fn a_push_of_such_an_image_sends_what_a_build_with_push_sends() {
    let test = "a_push_of_such_an_image_sends_what_a_build_with_push_sends";
    if !bases_or_skip(test) {
        return;
    }
    let Some(server) = registry::TestRegistry::start().expect("a registry that starts") else {
        return skip(test, "docker-registry is not installed");
    };
    let (lab, other) = (Lab::new(), Lab::new());
    let context = context(&lab);
    let name = |tag: &str| format!("{}/app:{tag}", server.host());
    ok(build(&lab, &context, &["-t", &name("later"), "-t", &name("copied")]));
    let digest_of = |line: &str| line[line.find("sha256:").expect("digest")..][..71].to_owned();
    // Two at once, of one image.
    let pushes = ["later", "copied"].map(|tag| {
        let mut push = lab.rbuild();
        push.args(["push", &name(tag)]).stdout(Stdio::piped()).stderr(Stdio::piped());
        push.spawn().expect("rbuild")
    });
    let later = pushes.map(|push| digest_of(&ok(support::done(push.wait_with_output().expect("ends")))));
    ok(build(&other, &context, &["-t", &name("at-once"), "--push"]));
    let metadata = other.out("metadata");
    let more = ["-t", &name("at-once"), "--push", "--metadata-file", &metadata.display().to_string()];
    ok(build(&other, &context, &more));
    let metadata = fs::read_to_string(metadata).expect("metadata");
    for digest in later {
        assert!(metadata.contains(&digest), "{digest}: {metadata}");
    }
    let layout = lab.out("layout");
    ok(build(&lab, &context, &["-t", "app:1"]));
    ok(lab.run(["copy", "store:app:1", &format!("oci:{}", layout.display())]));
    ok(lab.run(["validate", &format!("oci:{}", layout.display())]));
    ok(lab.run(["validate", "store:app:1"]));
    whole(&lab);
}

#[test]
fn killed_while_layers_are_compressed_the_image_stays_and_the_next_try_is_right() {
    if !bases_or_skip("killed_while_layers_are_compressed_the_image_stays_and_the_next_try_is_right") {
        return;
    }
    const KILLS: u64 = 12;
    let lab = Lab::new();
    let context = context(&lab);
    let expected = at_once(Who::Caller, &context, &[]);
    let begun = std::time::Instant::now();
    ok(build(&lab, &context, &["-t", "app:1"]));
    saved(&lab, "app:1");
    let takes = begun.elapsed().as_micros() as u64;
    let mut random = Random::seeded();
    for kill in 0..KILLS {
        ok(lab.run(["rmi", "app:1"]));
        ok(lab.run(["prune", "-a"]));
        ok(build(&lab, &context, &["-t", "app:1"]));
        let archive = lab.out("killed.tar");
        let mut save = lab.rbuild();
        save.args(["save", "--format", "oci", "-o", &archive.display().to_string(), "app:1"]);
        let mut running = save.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("rbuild");
        std::thread::sleep(Duration::from_micros(random.below(takes)));
        let _ = running.kill();
        let _ = running.wait();
        ok(fsck(&lab));
        if kill % 2 == 0 {
            ok(lab.run(["prune", "-a"]));
        }
        assert!(saved(&lab, "app:1") == expected, "kill {kill}");
        whole(&lab);
    }
}

#[test]
fn layers_are_compressed_beside_collection() {
    if !bases_or_skip("layers_are_compressed_beside_collection") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    let expected = at_once(Who::Caller, &context, &[]);
    for _ in 0..3 {
        ok(build(&lab, &context, &["-t", "app:1", "-t", "app:2"]));
        let archives = [1, 2].map(|number| lab.out(&format!("beside-{number}.tar")));
        let saves = [1, 2].map(|number| {
            let mut save = lab.rbuild();
            let name = format!("app:{number}");
            save.args(["save", "--format", "oci", "-o", &archives[number - 1].display().to_string(), &name]);
            save.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("rbuild")
        });
        let mut prunes = 0;
        let mut saves = saves.map(Some);
        while saves.iter().any(Option::is_some) {
            ok(lab.run(["prune", "-a"]));
            prunes += 1;
            for save in &mut saves {
                if save.as_mut().is_some_and(|save| save.try_wait().expect("wait").is_some()) {
                    ok(support::done(save.take().expect("save").wait_with_output().expect("ends")));
                }
            }
        }
        assert!(prunes > 0);
        let same = |path: &PathBuf, name: &str| {
            let bytes = fs::read(path).expect("archive");
            // The archives differ in the name alone.
            assert_eq!(bytes.len(), expected.len(), "{name}");
            assert!(saved(&lab, "app:1") == expected);
        };
        same(&archives[0], "app:1");
        same(&archives[1], "app:2");
        whole(&lab);
        ok(lab.run(["rmi", "app:1", "app:2"]));
        ok(lab.run(["prune", "-a"]));
    }
}

#[test]
fn a_disk_that_runs_full_while_layers_are_compressed_harms_nothing() {
    let test = "a_disk_that_runs_full_while_layers_are_compressed_harms_nothing";
    if !bases_or_skip(test) {
        return;
    }
    if !is_root() {
        return skip(test, "only root can mount a small file system");
    }
    let lab = Lab::new();
    let Some(disk) = Small::mount(&lab.store(), "64m") else {
        return skip(test, "this machine does not let tests mount a tmpfs");
    };
    let context = context(&lab);
    let expected = at_once(Who::Caller, &context, &[]);
    ok(build(&lab, &context, &["-t", "app:1"]));
    // Some space for the first layers, not for all.
    let filler = lab.store().join("tmp/filler");
    let mut size = 64 << 20;
    while size >= 4096 {
        let more = vec![1; size];
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&filler).expect("filler");
        if std::io::Write::write_all(&mut file, &more).is_err() {
            size /= 2;
        }
    }
    let length = fs::metadata(&filler).expect("filler").len();
    let file = fs::OpenOptions::new().write(true).open(&filler).expect("filler");
    file.set_len(length - 200_000).expect("truncate");
    let archive = lab.out("full.tar");
    let save = lab.run(["save", "--format", "oci", "-o", &archive.display().to_string(), "app:1"]);
    assert!(save.code != 0 && save.err.to_lowercase().contains("no space"), "{} {}", save.code, save.err);
    assert!(!archive.exists());
    fs::remove_file(&filler).ok();
    disk.grow("128m");
    whole(&lab);
    assert!(saved(&lab, "app:1") == expected);
    whole(&lab);
}

#[test]
fn damage_to_such_an_image_is_found_and_another_form_of_a_layer_is_enough() {
    if !bases_or_skip("damage_to_such_an_image_is_found_and_another_form_of_a_layer_is_enough") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    ok(build(&lab, &context, &["-t", "app:1"]));
    let expected = saved(&lab, "app:1");
    // The blobs that were made are lost; the files are still there.
    let sizes = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    for blob in fs::read_dir(lab.store().join("blobs/sha256")).expect("blobs").flatten() {
        let head = fs::read(blob.path()).expect("blob");
        if head.starts_with(&[0x1f, 0x8b]) && sizes(&blob.path()) < 1_000_000 && sizes(&blob.path()) > 300_000
        {
            fs::write(blob.path(), &head[..1000]).expect("damage");
        }
    }
    assert_ne!(fsck(&lab).code, 0);
    lab.run(["fsck", "--repair"]);
    ok(fsck(&lab));
    assert!(saved(&lab, "app:1") == expected, "compressed again from the files");
    // Without any form of a layer there is no image.
    let lab = Lab::new();
    ok(build(&lab, &context, &["-t", "app:1"]));
    let snapshots = fs::read_dir(lab.store().join("snapshots")).expect("snapshots").flatten();
    let twice = snapshots.map(|dir| dir.path().join("fs/twice")).find(|path| path.exists()).expect("file");
    let mut bytes = fs::read(&twice).expect("file");
    bytes[0] ^= 1;
    fs::write(&twice, bytes).expect("damage");
    let found = fsck(&lab);
    assert!(found.code != 0 && found.out.contains("app:1"), "{}", found.out);
    let save = lab.run(["save", "-o", &lab.out("damaged.tar").display().to_string(), "app:1"]);
    assert!(save.code != 0 && save.err.contains("damaged"), "{}", save.err);
    lab.run(["fsck", "--repair"]);
    ok(fsck(&lab));
    assert_eq!(ok(lab.run(["images", "-q"])), "");
    ok(build(&lab, &context, &["-t", "app:1"]));
    assert!(saved(&lab, "app:1") == expected);
}

/// Who has other IDs by now cannot mount the files; their content is enough.
#[test]
fn files_of_another_kind_of_user_are_compressed_and_unpacked_again() {
    if !bases_or_skip("files_of_another_kind_of_user_are_compressed_and_unpacked_again") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    ok(build(&lab, &context, &["-t", "app:1"]));
    for fan in fs::read_dir(lab.store().join("chains")).expect("chains").flatten() {
        for note in fs::read_dir(fan.path()).expect("chains").flatten() {
            let name = note.file_name().to_string_lossy().into_owned();
            fs::rename(note.path(), note.path().with_file_name(format!("{name}.0123456789ab")))
                .expect("rename");
        }
    }
    ok(fsck(&lab));
    ok(lab.run(["prune", "-a"]));
    let size = 2 * fs::metadata(context.join("big")).expect("big").len();
    assert_eq!(ok(lab.run(["run", "app:1", "wc", "-c", "/d/name"])), format!("{size} /d/name\n"));
    assert!(saved(&lab, "app:1") == at_once(Who::Caller, &context, &[]));
    ok(fsck(&lab));
}
