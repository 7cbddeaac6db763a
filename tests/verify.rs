//! Verbs that judge images, and builds that have to come out the same.

mod bills;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Lab, Who, bases_or_skip, done, has, skip, user_of};

#[test]
fn every_image_that_is_built_here_is_valid() {
    if !bases_or_skip("every_image_that_is_built_here_is_valid") {
        return;
    }
    let lab = Lab::new();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/build");
    let mut count = 0;
    for case in fs::read_dir(cases).expect("cases").flatten() {
        let args = fs::read_to_string(case.path().join("args")).unwrap_or_default();
        let mut args: Vec<&str> = args.split_whitespace().collect();
        let archive = lab.out(&format!("{}.tar", case.file_name().display()));
        let forms = [
            "type=oci",
            "type=docker",
            "type=oci,compression=zstd,force-compression=true",
            "type=oci,compression=estargz,force-compression=true",
            "type=oci,compression=uncompressed",
        ];
        let output = format!("{},dest={}", forms[count % forms.len()], archive.display());
        args.extend(["-t", "case", "-o", &output]);
        let built = lab.build(&case.path(), &args);
        assert_eq!(built.code, 0, "{}: {}", case.path().display(), built.err);
        for source in [format!("oci-archive:{}", archive.display()), "case".into()] {
            let judged = lab.run(["validate", "-q", &source]);
            assert_eq!(judged.code, 0, "{source}:\n{}{}", judged.out, judged.err);
        }
        count += 1;
    }
    assert!(count >= 25, "only {count} cases");
}

#[test]
fn a_damaged_archive_is_told_with_its_places() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "text")]);
    let dir = lab.out("layout");
    let built = lab.build(&context, &["-o", &format!("type=oci,tar=false,dest={}", dir.display())]);
    assert_eq!(built.code, 0, "{}", built.err);
    let blobs = fs::read_dir(dir.join("blobs/sha256")).expect("blobs").flatten();
    let layer =
        blobs.map(|blob| blob.path()).find(|path| fs::read(path).is_ok_and(|b| b.starts_with(&[0x1f])));
    let layer = layer.expect("a layer");
    let mut bytes = fs::read(&layer).expect("layer");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::remove_file(&layer).expect("remove");
    fs::write(&layer, bytes).expect("write");
    let source = format!("oci-layout:{}", dir.display());
    let judged = lab.run(["validate", "--format=json", &source]);
    assert_eq!(judged.code, 1, "{}", judged.err);
    let report: Value = serde_json::from_str(&judged.out).expect("JSON");
    assert_eq!(report["valid"], false);
    let text = report["problems"].to_string();
    assert!(text.contains("layers[0]") && text.contains("the blob has digest"), "{text}");
    let judged = lab.run(["validate", &source]);
    assert!(judged.out.contains("problem") && judged.code == 1, "{}", judged.out);
    fs::write(dir.join("index.json"), "{").expect("write");
    let judged = lab.run(["validate", &source]);
    assert!(judged.code == 1 && judged.out.contains("malformed"), "{}{}", judged.out, judged.err);
    assert_eq!(lab.run(["validate", "oci-layout:/nonexistent"]).code, 5);
}

#[test]
fn two_images_are_compared_by_their_files() {
    let lab = Lab::new();
    let one = lab.context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("a", "same"),
        ("b", "old"),
        ("d/gone", "x"),
    ]);
    let two = lab.context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\nCOPY --chmod=700 a /a\n"),
        ("a", "same"),
        ("b", "newer"),
        ("d/new", "y"),
    ]);
    for (context, name) in [(&one, "one"), (&two, "two")] {
        fs::remove_file(context.join("Dockerfile.x")).ok();
        let built = lab.build(context, &["-t", name]);
        assert_eq!(built.code, 0, "{}", built.err);
    }
    let changes = lab.run(["diff", "one", "two"]);
    assert_eq!(changes.code, 0, "{}", changes.err);
    let lines: Vec<&str> = changes.out.lines().filter(|line| !line.contains("Dockerfile")).collect();
    assert_eq!(lines, ["M /a 4B (mode)", "M /b 3B -> 5B (content)", "D /d/gone 1B", "A /d/new 1B"]);
    let changes = lab.run(["diff", "--format=json", "one", "two"]);
    let json: Value = serde_json::from_str(&changes.out).expect("JSON");
    let row = json.as_array().expect("list").iter().find(|row| row["path"] == "b").expect("b");
    assert_eq!(
        (row["change"].as_str(), row["old_size"].as_u64(), row["new_size"].as_u64()),
        (Some("modified"), Some(3), Some(5))
    );
    assert_eq!(lab.run(["diff", "one", "one"]).out, "");
    assert_eq!(lab.run(["diff", "one", "none"]).code, 2);
}

#[test]
fn what_makes_a_build_differ_is_explained() {
    if !bases_or_skip("what_makes_a_build_differ_is_explained") {
        return;
    }
    let lab = Lab::new();
    let verify = |dockerfile: &str, more: &[&str]| {
        let context = lab.context(&[("Dockerfile", dockerfile)]);
        let mut args: Vec<String> = vec!["verify-reproducible".into(), "--progress=plain".into()];
        args.extend(lab.bases());
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.push(context.display().to_string());
        lab.run(&args)
    };
    let good = "FROM busybox\nRUN mkdir -p /d && echo x > /d/f\nWORKDIR /w\nCOPY Dockerfile /c\n";
    let same = verify(good, &["--reproducible", "-t", "same"]);
    assert_eq!(same.code, 0, "{}{}", same.out, same.err);
    assert!(same.out.contains("reproducible: both builds gave sha256:"), "{}", same.out);
    assert_eq!(lab.run(["inspect", "same"]).code, 0);

    let times = verify(good, &[]);
    assert_eq!(times.code, 1, "{}{}", times.out, times.err);
    for words in ["/d/f", "mtime: ", "/created: ", "--reproducible"] {
        assert!(times.out.contains(words), "{words:?} is not in:\n{}", times.out);
    }

    let bad = "FROM busybox\nRUN sleep 1 && mkdir /r && date +%s > /r/stamp && echo x | gzip > /r/x.gz\n\
               RUN cat /proc/sys/kernel/random/uuid > /r/id; mkdir -p /var/log; date > /var/log/x.log\n\
               RUN touch /r/$(cat /proc/sys/kernel/random/uuid)\n";
    let found = verify(bad, &["--reproducible"]);
    assert_eq!(found.code, 1, "{}{}", found.out, found.err);
    for words in [
        "layer 2, RUN",
        "/r/stamp",
        "content from byte",
        "probably a date or time",
        "/r/id",
        "probably a random name or number",
        "/var/log/x.log",
        "probably a log",
        "layer 4, RUN",
        "(only in the first build)",
        "(only in the second build)",
    ] {
        assert!(found.out.contains(words), "{words:?} is not in:\n{}", found.out);
    }
    let json = verify(bad, &["--reproducible", "--format=json"]);
    let json: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["reproducible"], false);
    assert_eq!(json["images"][0]["differences"]["layers"][0]["layer"], 2);
    assert_eq!(lab.run(["verify-reproducible", "-"]).code, 2);
    let both = verify(good, &["-o", "-"]);
    assert_eq!((both.code, both.out.as_str()), (2, ""), "{}", both.err);
}

/// A context whose times are those of the moment.
fn sources(lab: &Lab) -> PathBuf {
    let dockerfile = "FROM busybox\nARG SOURCE_DATE_EPOCH\nCOPY --chmod=u=rwX,go=rX . /src\n\
                      RUN echo at $SOURCE_DATE_EPOCH > /made && ls -l / | wc -l > /dev/null && mkdir -p /a/b\n\
                      FROM scratch AS other\nCOPY Dockerfile /o\n\
                      FROM busybox\nWORKDIR /w\nCOPY --from=0 /src /made /\nCOPY --from=other /o /o\n\
                      ADD d.tar /x/\nRUN --network=none echo done > /done\n";
    let context = lab.context(&[("Dockerfile", dockerfile), ("f", "text"), ("sub/g", "text")]);
    let mut tar = tar::Builder::new(fs::File::create(context.join("d.tar")).expect("tar"));
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_mtime(1_800_000_000);
    tar.append_data(&mut header, "inside", &b"x"[..]).expect("entry");
    tar.finish().expect("tar");
    context
}

/// The digest of a reproducible build under these circumstances.
fn digest(lab: &Lab, context: &Path, shell: &str, more: &[&str]) -> String {
    let file = lab.out("id");
    let _ = fs::remove_file(&file);
    let program = lab.rbuild();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{shell}; exec \"$@\"")).arg("sh").arg(program.get_program());
    command.args(program.get_args()).args(["build", "-q", "--reproducible", "--metadata-file"]).arg(&file);
    command.args(lab.bases()).args(more).arg(context);
    command.env_clear().current_dir(lab.path());
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let built = done(command.output().expect("sh"));
    assert_eq!(built.code, 0, "{}", built.err);
    let json: Value = serde_json::from_slice(&fs::read(file).expect("metadata")).expect("JSON");
    json["containerimage.digest"].as_str().expect("digest").to_owned()
}

#[test]
fn reproducible_builds_are_the_same_everywhere() {
    let test = "reproducible_builds_are_the_same_everywhere";
    if !bases_or_skip(test) {
        return;
    }
    let first = Lab::new();
    let expected = digest(&first, &sources(&first), "umask 022", &["--jobs=8"]);
    // Another store, checkout, second, umask, zone and language.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = Lab::new();
    let context = sources(&second);
    let shell = "umask 077; export TZ=Asia/Tokyo LC_ALL=C.UTF-8 LANG=de_DE";
    assert_eq!(digest(&second, &context, shell, &["--jobs=1"]), expected);
    // Files that are older than the epoch are no different.
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
    fs::File::open(context.join("f")).and_then(|file| file.set_modified(old)).expect("time");
    assert_eq!(digest(&second, &context, "true", &["--no-cache"]), expected);
    // What was cached without the flag must not be taken.
    let third = Lab::new();
    let context = sources(&third);
    assert_eq!(third.build(&context, &[]).code, 0);
    assert_eq!(digest(&third, &context, "true", &[]), expected);
    for who in [Who::Rootless, Who::SingleId] {
        if user_of(who).is_none() || who == Who::Rootless && !has("newuidmap") {
            skip(test, "there are no ordinary users for it (tests/setup makes them)");
            continue;
        }
        let other = Lab::as_user(who);
        let context = sources(&other);
        support::tool("chmod", &["-R".as_ref(), "a+rX".as_ref(), context.as_os_str()]);
        assert_eq!(digest(&other, &context, "true", &["--jobs=3"]), expected, "{who:?}");
    }
}

#[test]
fn jobs_times_and_places_do_not_show_in_reproducible_builds() {
    let test = "jobs_times_and_places_do_not_show_in_reproducible_builds";
    if !bases_or_skip(test) {
        return;
    }
    let mut seen = Vec::new();
    for (jobs, seconds) in [("1", 1u64), ("2", 1_000_000_000), ("4", 1_700_000_000), ("16", 4_000_000_000)] {
        let lab = Lab::new();
        let context = sources(&lab);
        // Directories have times of their own, and the archive's bytes are the same anyway.
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for name in ["f", "sub/g", "sub", "Dockerfile", "d.tar", ""] {
            let set = fs::File::open(context.join(name)).and_then(|file| file.set_modified(time));
            set.expect("time");
        }
        let store = lab.path().join("a/store/that/lies/deeper").join(jobs);
        let shell = format!("export RBUILD_ROOT={}", store.display());
        let jobs = format!("--jobs={jobs}");
        seen.push(digest(&lab, &context, &shell, &[&jobs, "--no-cache"]));
        assert!(store.join("blobs").exists());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
}

#[test]
fn the_time_of_a_reproducible_image_is_that_of_the_commit() {
    let test = "the_time_of_a_reproducible_image_is_that_of_the_commit";
    if !has("git") {
        return skip(test, "git is not installed");
    }
    let lab = Lab::new();
    let context = lab.context(&[("c/Dockerfile", "FROM scratch\nCOPY f /f\n"), ("c/f", "x")]);
    let created = |env: &str| {
        digest(&lab, &context.join("c"), env, &["-t", "timed"]);
        let json: Value = serde_json::from_str(&lab.run(["inspect", "timed"]).out).expect("JSON");
        json[0]["Created"].as_str().expect("time").to_owned()
    };
    assert_eq!(created("true"), "1970-01-01T00:00:00Z");
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e"]).args(args).current_dir(&context);
        let made = command.env("GIT_COMMITTER_DATE", "1700000000 +0300").output().expect("git");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one", "--date=1600000000 +0000"]);
    assert_eq!(created("true"), "2023-11-14T22:13:20Z");
    assert_eq!(created("export SOURCE_DATE_EPOCH=86400"), "1970-01-02T00:00:00Z");
}
