//! Layers that no image needs are not packed: they stay in the store as files, and become blobs when an
//! image wants them. And what layers hide of those below them, in directories and by their entries alone.

#[path = "support/layers.rs"]
mod layers;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Lab, Who, base, has, is_root, skip, user_of};

/// Two layers of more than a MiB in a stage of which the image takes one file.
const DOCKERFILE: &str = "FROM busybox AS make
COPY big /src/
RUN cat /src/big /src/big > /twice && mkdir -m 711 /d && ln /twice /d/name && echo small > /small
FROM busybox AS image
COPY --from=make /small /small
";

fn ready(test: &str) -> bool {
    let reason = match () {
        () if base("busybox").is_none() => "tests/setup has not made the base images",
        () if !has("skopeo") || !has("umoci") => "skopeo and umoci are not installed",
        () if !is_root() => "only root can unpack images with their owners",
        () => return true,
    };
    skip(test, reason);
    false
}

fn context(lab: &Lab) -> PathBuf {
    let big: String = (0..200_000u64).map(|n| format!("{}\n", n * 7919 % 1_000_003)).collect();
    lab.context(&[("Dockerfile", DOCKERFILE), ("big", &big)])
}

/// Layers of the store that have no blob.
fn bare(lab: &Lab) -> usize {
    let mut count = 0;
    for fan in fs::read_dir(lab.store().join("layers")).expect("layers").flatten() {
        for layer in fs::read_dir(fan.path()).expect("layers").flatten() {
            let text = fs::read_to_string(layer.path()).expect("layer");
            count += usize::from(text.contains("\"blobs\":[]"));
        }
    }
    count
}

fn steps_cached(err: &str) -> usize {
    err.lines().filter(|line| line.ends_with(" CACHED")).count()
}

fn diff_ids(image: &support::Image) -> serde_json::Value {
    image.config["rootfs"]["diff_ids"].clone()
}

fn users() -> Vec<Who> {
    let there = |who: &Who| *who == Who::Caller || user_of(*who).is_some();
    [Who::Caller, Who::Rootless, Who::SingleId].into_iter().filter(there).collect()
}

#[test]
fn a_stage_of_which_the_image_takes_files_is_not_packed_until_it_is_the_image() {
    if !ready("a_stage_of_which_the_image_takes_files_is_not_packed_until_it_is_the_image") {
        return;
    }
    for who in users() {
        let lab = Lab::as_user(who);
        let context = context(&lab);
        let first = lab.build_image(&context, &[]);
        assert_eq!(first.text("/small"), "small\n");
        assert_eq!((bare(&lab), steps_cached(&first.build.err)), (2, 0), "{who:?}");
        let again = lab.build_image(&context, &[]);
        assert_eq!((bare(&lab), steps_cached(&again.build.err)), (2, 3), "{who:?}: {}", again.build.err);
        assert_eq!(again.manifest, first.manifest);
        let fsck = lab.run(["fsck"]);
        assert_eq!(fsck.code, 0, "{}{}", fsck.out, fsck.err);
        let made = lab.build_image(&context, &["--target", "make"]);
        assert_eq!((bare(&lab), steps_cached(&made.build.err)), (0, 2), "{who:?}: {}", made.build.err);
        let other = Lab::as_user(who);
        let direct = other.build_image(&context, &["--target", "make"]);
        assert_eq!(bare(&other), 0);
        assert_eq!(made.owner("/d"), "711 0:0");
        assert_eq!(made.text("/d/name"), direct.text("/twice"));
        assert_eq!(diff_ids(&made).as_array().map(Vec::len), Some(3));
        // The steps were executed at different times.
        assert_eq!(diff_ids(&made)[0], diff_ids(&direct)[0]);
    }
}

#[test]
fn an_image_is_the_same_whether_its_layers_were_packed_at_once_or_later() {
    if !ready("an_image_is_the_same_whether_its_layers_were_packed_at_once_or_later") {
        return;
    }
    for compression in ["gzip", "zstd", "uncompressed", "estargz"] {
        let fixed = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--target", "make"];
        let (later, at_once) = (Lab::new(), Lab::new());
        let context = context(&later);
        later.build_image(&context, &fixed[..2]);
        assert_eq!(bare(&later), 2);
        let image = |lab: &Lab, name: &str| {
            let dest = lab.out(name);
            let output = format!("type=oci,compression={compression},dest={}", dest.display());
            let mut args = vec!["build".to_owned(), "-q".into(), "-o".into(), output];
            args.extend(lab.bases());
            args.extend(fixed.iter().map(|arg| (*arg).to_owned()));
            args.push(context.display().to_string());
            let done = lab.run(&args);
            assert_eq!(done.code, 0, "{}", done.err);
            done.out
        };
        assert_eq!(image(&later, "later.tar"), image(&at_once, "at-once.tar"), "{compression}");
    }
}

fn remove_all(dir: &Path) {
    for entry in fs::read_dir(dir).expect("directory").flatten() {
        fs::remove_dir_all(entry.path()).expect("removed");
    }
}

#[test]
fn a_layer_whose_files_are_gone_is_made_again_and_named_by_fsck() {
    if !ready("a_layer_whose_files_are_gone_is_made_again_and_named_by_fsck") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    lab.build_image(&context, &[]);
    remove_all(&lab.store().join("chains"));
    let fsck = lab.run(["fsck"]);
    assert_ne!(fsck.code, 0);
    assert!(fsck.out.contains("whose files are not in the store"), "{}", fsck.out);
    let image = lab.build_image(&context, &[]);
    // Without the files a record counts for nothing, whether or not anybody took it away.
    // The last step's own layer has a blob, and what it copies is the same.
    assert_eq!(steps_cached(&image.build.err), 1, "{}", image.build.err);
    assert_eq!(image.text("/small"), "small\n");
    lab.run(["fsck", "--repair"]);
    let fsck = lab.run(["fsck"]);
    assert_eq!(fsck.code, 0, "{}", fsck.out);
    assert_eq!(steps_cached(&lab.build_image(&context, &[]).build.err), 3);
}

#[test]
fn prune_takes_files_only_after_the_record_that_needs_them() {
    if !ready("prune_takes_files_only_after_the_record_that_needs_them") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    lab.build_image(&context, &[]);
    // The RUN layer has 2.6 MB, that of the COPY half: something has to go, and not all.
    let prune = lab.run(["prune", "-f", "--max-used-space", "5500000"]);
    assert_eq!(prune.code, 0, "{}", prune.err);
    let fsck = lab.run(["fsck"]);
    assert_eq!(fsck.code, 0, "{}", fsck.out);
    let image = lab.build_image(&context, &["--target", "make"]);
    assert_eq!(image.text("/small"), "small\n");
    let prune = lab.run(["prune", "-af"]);
    assert_eq!(prune.code, 0, "{}", prune.err);
    assert_eq!(fs::read_dir(lab.store().join("snapshots")).expect("snapshots").count(), 0);
}

#[test]
fn files_of_a_layer_that_is_still_being_digested_are_copied() {
    if !ready("files_of_a_layer_that_is_still_being_digested_are_copied") {
        return;
    }
    let lab = Lab::new();
    let text = "FROM busybox AS make
RUN head -c 30000000 /dev/urandom > /large && head -c 8000000 /dev/urandom > /middle && ln /middle /name \
 && mkdir /d && echo small > /d/small && ln -s /d/small /link && cat /middle | sha256sum > /sum
FROM busybox
COPY --from=make /d /d
COPY --from=make /name /sum /
COPY --from=make /link /linked
RUN [ \"$(cat /name | sha256sum)\" = \"$(cat /sum)\" ]
FROM busybox AS both
COPY --from=make /large /name /
COPY --from=1 /d /d
";
    let context = lab.context(&[("Dockerfile", text)]);
    let image = lab.build_image(&context, &[]);
    assert_eq!(image.text("/d/small"), "small\n");
    assert_eq!(fs::metadata(image.at("/large")).map(|meta| meta.len()).ok(), Some(30_000_000));
    let again = lab.build_image(&context, &[]);
    assert_eq!(steps_cached(&again.build.err), 7, "{}", again.build.err);
    assert_eq!(again.manifest, image.manifest);
}

#[test]
fn where_only_files_are_wanted_no_image_is_made_as_in_buildkit() {
    if !ready("where_only_files_are_wanted_no_image_is_made_as_in_buildkit") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    let build = |more: &[&str]| {
        let mut args = vec!["build".to_owned()];
        args.extend(lab.bases());
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.extend(["--target".into(), "make".into(), context.display().to_string()]);
        let done = lab.run(&args);
        assert_eq!(done.code, 0, "{}", done.err);
        done
    };
    let files = format!("type=local,dest={}", lab.out("files").display());
    for output in ["type=cacheonly", &files] {
        let done = build(&["-q", "-o", output]);
        assert_eq!((done.out.as_str(), bare(&lab)), ("\n", 2), "{output}");
    }
    assert_eq!(fs::read_to_string(lab.out("files/small")).ok().as_deref(), Some("small\n"));
    // What goes to standard output is alone there.
    assert!(build(&["-q", "-o", "-"]).out.ends_with('\0'));
    let done = build(&["-o", "type=cacheonly"]);
    assert!(done.err.contains("built no image  2 of 2 steps cached"), "{}", done.err);
    let meta = lab.out("meta.json");
    build(&["-o", "type=cacheonly", "--metadata-file", &meta.display().to_string()]);
    assert_eq!(fs::read_to_string(&meta).ok().as_deref(), Some("{}\n"));
    // Whoever asks for the ID or gives a name gets an image. Nobody asked for its bytes.
    let id = lab.out("id");
    build(&["-o", "type=cacheonly", "--iidfile", &id.display().to_string()]);
    let id = fs::read_to_string(id).expect("an ID");
    assert_eq!(build(&["-q", "-o", &files, "-t", "named:1"]).out.trim(), id);
    assert_eq!(lab.run(["images", "-q", "--no-trunc"]).out.trim(), id);
    assert_eq!(bare(&lab), 2);
}

#[test]
fn another_compression_executes_nothing_again() {
    if !ready("another_compression_executes_nothing_again") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    let output = |name: &str| format!("type=oci,compression={name},dest={}", lab.out(name).display());
    for (name, target) in [("zstd", "make"), ("gzip", "make"), ("uncompressed", "image"), ("estargz", "make")]
    {
        let done = lab.build(&context, &["-o", &output(name), "--target", target]);
        assert_eq!(done.code, 0, "{}", done.err);
        let expected = if name == "zstd" { 0 } else { 2 };
        assert_eq!(steps_cached(&done.err), expected, "{name}: {}", done.err);
    }
}

#[test]
fn damaged_files_are_never_in_an_image() {
    if !ready("damaged_files_are_never_in_an_image") {
        return;
    }
    let lab = Lab::new();
    let context = context(&lab);
    lab.build_image(&context, &[]);
    let snapshots = fs::read_dir(lab.store().join("snapshots")).expect("snapshots").flatten();
    let twice = snapshots.map(|entry| entry.path().join("fs/twice")).find(|path| path.exists());
    let twice = twice.expect("the file of the RUN");
    let mut bytes = fs::read(&twice).expect("read");
    bytes[1000] ^= 1;
    fs::write(&twice, bytes).expect("write");
    let wanted = format!("type=oci,dest={}", lab.out("image.tar").display());
    let done = lab.build(&context, &["-o", &wanted, "--target", "make"]);
    assert_eq!(done.code, 7, "{}", done.err);
    assert!(done.err.contains("are damaged") && done.err.contains("--no-cache"), "{}", done.err);
    assert!(!lab.out("image.tar").exists());
    let fsck = lab.run(["fsck"]);
    assert_ne!(fsck.code, 0);
    assert!(fsck.out.contains("are damaged: they give"), "{}", fsck.out);
    assert_eq!(lab.run(["fsck", "--repair"]).code, 0);
    assert_eq!(lab.run(["fsck"]).code, 0);
    let image = lab.build_image(&context, &["--target", "make"]);
    assert_eq!(steps_cached(&image.build.err), 1, "{}", image.build.err);
    assert_eq!(image.text("/twice"), image.text("/src/big").repeat(2));
}

#[test]
fn packing_stops_when_interrupted_and_goes_on_the_next_time() {
    if !ready("packing_stops_when_interrupted_and_goes_on_the_next_time") {
        return;
    }
    let lab = Lab::new();
    let text = "FROM busybox AS make\nRUN head -c 300000000 /dev/urandom > /large\n\
                FROM busybox\nCOPY --from=make /etc/passwd /p\n";
    let context = lab.context(&[("Dockerfile", text)]);
    lab.build_image(&context, &[]);
    assert_eq!(bare(&lab), 1);
    let mut command = lab.rbuild();
    let output = format!("type=oci,dest={}", lab.out("stopped.tar").display());
    command.args(["build", "-q", "--target", "make", "-o", &output]).args(lab.bases()).arg(&context);
    let child = command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn();
    let child = child.expect("rbuild starts");
    let begun = std::time::Instant::now();
    while !is_being_packed(&lab) {
        assert!(begun.elapsed() < std::time::Duration::from_secs(300), "nothing is packed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let id = child.id().to_string();
    support::tool("kill", &["-INT".as_ref(), id.as_ref()]);
    let done = support::done(child.wait_with_output().expect("rbuild ends"));
    assert_eq!((done.code, bare(&lab)), (130, 1), "{}", done.err);
    assert_eq!(lab.run(["fsck"]).code, 0);
    let image = lab.build_image(&context, &["--target", "make"]);
    assert_eq!((steps_cached(&image.build.err), bare(&lab)), (1, 0), "{}", image.build.err);
}

/// Whether a blob is being written.
fn is_being_packed(lab: &Lab) -> bool {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = list(&lab.store().join("tmp")).flat_map(|own| list(&own));
    files.filter_map(|file| file.metadata().ok()).any(|meta| meta.is_file() && meta.len() > 100_000)
}

/// Whether a directory is being filled with the files of a layer.
fn is_being_made(lab: &Lab, file: &str) -> bool {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    list(&lab.store().join("tmp")).flat_map(|own| list(&own)).any(|dir| dir.join("fs").join(file).exists())
}

#[test]
fn a_file_that_changes_while_a_layer_is_left_unpacked_fails_the_build_by_name() {
    if !ready("a_file_that_changes_while_a_layer_is_left_unpacked_fails_the_build_by_name") {
        return;
    }
    let lab = Lab::new();
    let text = "FROM busybox AS make\nCOPY src /src\nFROM busybox\nCOPY --from=make /src/f2 /two\n";
    let big = "x".repeat(50_000_000);
    let context = lab.context(&[("Dockerfile", text), ("src/f0", &big), ("src/f1", &big), ("src/f2", &big)]);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_being_made(&lab, "src/f0") && !ended.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let file = fs::OpenOptions::new().write(true).open(context.join("src/f2")).expect("open");
            std::os::unix::fs::FileExt::write_at(&file, b"y", 49_000_000).expect("write");
        });
        let done = lab.build(&context, &["-t", "changing:1"]);
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        done
    });
    // What was copied is what was digested, or the build says so.
    assert!(done.code == 0 || done.err.contains("src/f2\" changed while it was read"), "{}", done.err);
    println!("the build ended with {}", done.code);
    let fsck = lab.run(["fsck"]);
    assert_eq!(fsck.code, 0, "{}", fsck.out);
    let image = lab.build_image(&context, &[]);
    assert_eq!(image.text("/two"), fs::read_to_string(context.join("src/f2")).expect("file"));
}

#[test]
fn owners_that_are_not_mapped_are_kept_by_files_of_a_layer_without_a_blob() {
    let test = "owners_that_are_not_mapped_are_kept_by_files_of_a_layer_without_a_blob";
    if !ready(test) {
        return;
    }
    if user_of(Who::Rootless).is_none() {
        return skip(test, "there is no user with subordinate IDs (tests/setup makes one)");
    }
    let lab = Lab::as_user(Who::Rootless);
    let big = "x".repeat(2_000_000);
    let text = "FROM busybox AS make\nCOPY --chown=2000000000:7 big /big\nFROM busybox\nRUN echo > /x\n";
    let context = lab.context(&[("Dockerfile", text), ("big", &big)]);
    let left = lab.build(&context, &["--target", "make", "-o", "type=cacheonly"]);
    assert_eq!((left.code, bare(&lab)), (0, 1), "{}", left.err);
    let image = lab.build_image(&context, &["--target", "make"]);
    assert_eq!((steps_cached(&image.build.err), image.owner("/big")), (1, "644 2000000000:7".into()));
}

#[test]
fn names_are_looked_up_in_a_layer_that_is_not_packed() {
    if !ready("names_are_looked_up_in_a_layer_that_is_not_packed") {
        return;
    }
    for who in users() {
        let lab = Lab::as_user(who);
        let big: String = (0..300_000u64).map(|n| format!("{}\n", n * 7919 % 1_000_003)).collect();
        let text = "FROM scratch AS make\nCOPY files /\nCOPY --chown=somebody:some Dockerfile /d\n\
                    FROM busybox\nCOPY --from=make /d /d\n";
        let context = lab.context(&[
            ("Dockerfile", text),
            ("files/etc/passwd", "somebody:x:12:13::/:/bin/sh\n"),
            ("files/etc/group", "some:x:14:\n"),
            ("files/big", &big),
        ]);
        let image = lab.build_image(&context, &[]);
        assert_eq!((image.owner("/d").as_str(), bare(&lab)), ("644 12:14", 1), "{who:?}");
    }
}

#[test]
fn a_directory_in_place_of_something_deleted_hides_the_layers_below() {
    const LOWER: [(&str, u8, &str); 6] = [
        ("x", b'5', ""),
        ("x/old", b'0', "old"),
        ("y", b'5', ""),
        ("y/old", b'0', "old"),
        ("z", b'5', ""),
        ("z/old", b'0', "old"),
    ];
    const UPPER: [(&str, u8, &str); 9] = [
        (".wh.x", b'0', ""),
        ("x", b'5', ""),
        ("x/new", b'0', "new"),
        ("y", b'5', ""),
        ("y", b'0', "a file for a moment"),
        ("y", b'5', ""),
        ("y/new", b'0', "new"),
        ("z/new", b'0', "new"),
        (".wh.z", b'0', ""),
    ];
    if !ready("a_directory_in_place_of_something_deleted_hides_the_layers_below") {
        return;
    }
    let dockerfile = "FROM layered AS run
RUN find /x /y /z -type f > /mounted && rm /x/new && rmdir /x
FROM busybox
COPY --from=layered /x /y /z /listed/
COPY --from=run /mounted /mounted
";
    for who in users() {
        let lab = Lab::as_user(who);
        let base = lab.context(&[]);
        layers::on_busybox(&base, &[layers::tar_of(&LOWER), layers::tar_of(&UPPER)], |_| {});
        let layered = format!("layered=oci-layout://{}", base.display());
        let context = lab.context(&[("Dockerfile", dockerfile)]);
        let image = lab.build_image(&context, &["--build-context", &layered, "--network=none"]);
        assert_eq!(image.text("/mounted"), "/x/new\n/y/new\n/z/new\n", "{who:?}");
        let listed = fs::read_dir(image.at("/listed")).expect("listed");
        let names: Vec<_> = listed.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["new"], "{who:?}");
    }
}
