//! Contexts, Dockerfiles and times that come from elsewhere, and odd ways to name them.

#[path = "support/server.rs"]
mod server;
mod support;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use server::FileServer;
use support::{Done, Lab, bases_or_skip, done, has, skip};

/// A tar of a directory's files, with times that were set there.
fn pack(dir: &Path, to: &Path) {
    let packed = Command::new("tar").arg("-czf").arg(to).arg("-C").arg(dir).arg(".").status();
    assert!(packed.is_ok_and(|status| status.success()));
}

fn touch(path: &Path, time: &str) {
    let done = Command::new("touch").args(["-d", time]).arg(path).status();
    assert!(done.is_ok_and(|status| status.success()));
}

fn with_input(lab: &Lab, args: &[String], input: &[u8]) -> Done {
    let mut command = lab.rbuild();
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rbuild");
    child.stdin.take().expect("stdin").write_all(input).expect("write");
    done(child.wait_with_output().expect("rbuild"))
}

const PRINT: &str = "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo \"<$SOURCE_DATE_EPOCH>\" > /epoch\n";

/// What the image of [`PRINT`] says, and when it was made.
fn epoch_of(lab: &Lab, context: &Path, more: &[&str]) -> (String, String) {
    let image = lab.build_image(context, more);
    (image.text("/epoch").trim().to_owned(), image.config["created"].as_str().unwrap_or_default().to_owned())
}

struct Served {
    lab: Lab,
    dated: FileServer,
    undated: FileServer,
}

/// Two servers of `f`, an archive and a repository; files are of 2001, the newest in the archive of 2010, the
/// commit of 2015, and one of the servers says 2020.
fn served(test: &str) -> Option<Served> {
    if !bases_or_skip(test) {
        return None;
    }
    if !has("git") {
        skip(test, "git is not installed");
        return None;
    }
    let lab = Lab::new();
    let root = lab.context(&[("tree/Dockerfile", PRINT), ("tree/new", "n"), ("tree/old", "o"), ("f", "f")]);
    for (name, time) in
        [("tree/Dockerfile", "2001"), ("tree/new", "2010"), ("tree/old", "2001"), ("f", "2001")]
    {
        touch(&root.join(name), &format!("{time}-01-01T00:00:00Z"));
    }
    pack(&root.join("tree"), &root.join("a.tar.gz"));
    let git = |args: &[&str]| {
        let date = "2015-01-01T00:00:00Z";
        let done = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "init.defaultBranch=main"])
            .args(args)
            .current_dir(&root)
            .envs([("GIT_COMMITTER_DATE", date), ("GIT_AUTHOR_DATE", date)])
            .output()
            .expect("git");
        assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "-q", "work"]);
    fs::copy(root.join("tree/Dockerfile"), root.join("work/Dockerfile")).expect("copy");
    git(&["-C", "work", "add", "-A"]);
    git(&["-C", "work", "commit", "-qm", "one"]);
    git(&["clone", "-q", "--bare", "work", "repo.git"]);
    git(&["-C", "repo.git", "update-server-info"]);
    let (dated, undated) = (FileServer::start(&root), FileServer::undated(&root));
    Some(Served { lab, dated, undated })
}

const Y2010: (&str, &str) = ("<1262304000>", "2010-01-01T00:00:00Z");
const Y2015: (&str, &str) = ("<1420070400>", "2015-01-01T00:00:00Z");
const Y2020: (&str, &str) = ("<1577836800>", "2020-01-01T00:00:00Z");

#[test]
fn the_epoch_may_be_that_of_the_context_or_of_a_named_one() {
    let test = "the_epoch_may_be_that_of_the_context_or_of_a_named_one";
    let Some(Served { lab, dated, undated }) = served(test) else { return };
    let of = |(text, time): (&str, &str)| (text.to_owned(), time.to_owned());
    let (context, arg) = ("--build-arg=SOURCE_DATE_EPOCH=context", "--build-arg=SOURCE_DATE_EPOCH=Src");
    for (url, expected) in
        [(dated.url("a.tar.gz"), Y2020), (undated.url("a.tar.gz"), Y2010), (dated.url("repo.git"), Y2015)]
    {
        assert_eq!(epoch_of(&lab, Path::new(&url), &[context]), of(expected), "{url}");
        let here = lab.context(&[("Dockerfile", PRINT)]);
        let named = format!("--build-context=src={url}");
        assert_eq!(epoch_of(&lab, &here, &[arg, &named]), of(expected), "named {url}");
        // As the default of the Dockerfile, it is what stages see, and less than their own default.
        let text = format!("ARG WHERE=src\nARG SOURCE_DATE_EPOCH=$WHERE\n{PRINT}");
        let here = lab.context(&[("Dockerfile", &text)]);
        assert_eq!(epoch_of(&lab, &here, &[&named]), of(expected), "global {url}");
        let own = lab.context(&[(
            "Dockerfile",
            &text.replace("ARG SOURCE_DATE_EPOCH\n", "ARG SOURCE_DATE_EPOCH=own\n"),
        )]);
        assert_eq!(epoch_of(&lab, &own, &[&named]).0, "<own>", "global {url}");
    }
    // A plain download has the time of its server, or none.
    let here = lab.context(&[("Dockerfile", PRINT)]);
    let file = |server: &FileServer| format!("--build-context=src={}", server.url("f"));
    assert_eq!(epoch_of(&lab, &here, &[arg, &file(&dated)]), of(Y2020));
    assert_eq!(epoch_of(&lab, &here, &[arg, &file(&undated)]).0, "<>");
}

#[test]
fn a_local_directory_and_an_image_have_no_epoch_and_an_archive_has_one() {
    let test = "a_local_directory_and_an_image_have_no_epoch_and_an_archive_has_one";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let here = lab.context(&[("Dockerfile", PRINT), ("d/f", "f")]);
    let local = format!("--build-context=src={}", here.join("d").display());
    for args in [
        &["--build-arg=SOURCE_DATE_EPOCH=context"][..],
        &["--build-arg=SOURCE_DATE_EPOCH=src", &local],
        &["--build-arg=SOURCE_DATE_EPOCH=busybox"],
    ] {
        let image = lab.build_image(&here, args);
        assert_eq!(image.text("/epoch").trim(), "<>", "{args:?}");
        assert!(image.build.err.contains("has no time of its own"), "{}", image.build.err);
    }
    // In the environment, as buildx passes it on; an argument comes first.
    let mut command = lab.rbuild();
    command.env("SOURCE_DATE_EPOCH", "context").arg("build").args(lab.bases()).arg(&here);
    assert_eq!(command.output().expect("rbuild").status.code(), Some(0));
    let tree = lab.context(&[("Dockerfile", PRINT), ("f", "f")]);
    touch(&tree.join("Dockerfile"), "2001-01-01T00:00:00Z");
    touch(&tree.join("f"), "2010-01-01T00:00:00Z");
    let archive = lab.out("context.tar.gz");
    pack(&tree, &archive);
    let files = lab.out("files");
    let mut args = vec!["build".to_owned(), format!("-o{}", files.display())];
    args.extend(lab.bases());
    args.extend(["--build-arg=SOURCE_DATE_EPOCH=context".to_owned(), "-".to_owned()]);
    let built = with_input(&lab, &args, &fs::read(&archive).expect("read"));
    assert_eq!(built.code, 0, "{}", built.err);
    assert_eq!(fs::read_to_string(files.join("epoch")).expect("epoch").trim(), Y2010.0);
}

#[test]
fn downloads_and_local_files_are_placed_in_the_order_they_are_written_in() {
    let lab = Lab::new();
    let server = FileServer::start(&lab.context(&[("f", "served\n"), ("g", "served\n")]));
    let (f, g) = (server.url("f"), server.url("g"));
    let text = format!("FROM scratch\nADD {f} f /a/\nADD f {f} /b/\nADD f {f} d {g} f /c/\n");
    let context = lab.context(&[("Dockerfile", &text), ("f", "local\n"), ("d/f", "dir\n"), ("d/g", "dir\n")]);
    let image = lab.build_image(&context, &[]);
    for (path, content) in [("/a/f", "local"), ("/b/f", "served"), ("/c/f", "local"), ("/c/g", "served")] {
        assert_eq!(image.text(path).trim(), content, "{path}");
    }
}

#[test]
fn the_epoch_may_come_from_a_stage_that_is_one_remote_source() {
    let test = "the_epoch_may_come_from_a_stage_that_is_one_remote_source";
    let Some(Served { lab, dated, undated }) = served(test) else { return };
    let of = |(text, time): (&str, &str)| (text.to_owned(), time.to_owned());
    let build = |add: &str, more: &[&str]| {
        let text =
            format!("ARG SOURCE_DATE_EPOCH=Source\nFROM scratch AS source\nARG NAME=none\n{add}\n{PRINT}");
        epoch_of(&lab, &lab.context(&[("Dockerfile", &text)]), more)
    };
    for (add, expected) in [
        (format!("ADD {} /", dated.url("f")), Y2020),
        (format!("ADD {} /", undated.url("a.tar.gz")), Y2010),
        (format!("ADD {} /", undated.url("repo.git")), Y2015),
    ] {
        assert_eq!(build(&add, &[]), of(expected), "{add}");
    }
    let named = format!("ADD {} /", dated.url("${NAME}.tar.gz"));
    assert_eq!(build(&named, &["--build-arg=NAME=a"]), of(Y2020));
    let sum = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let text = |add: &str| format!("FROM scratch AS source\n{add}\n{PRINT}");
    for (add, word) in [
        (format!("ADD --checksum={sum} {} /", dated.url("f")), "sha256:"),
        ("COPY f /".to_owned(), "it has COPY"),
        ("ADD f /".to_owned(), "no remote source"),
        ("".to_owned(), "it has no ADD"),
        (format!("ADD {0} {0} /", dated.url("f")), "not exactly one"),
        (format!("ADD {0} /\nADD {0} /", dated.url("f")), "a second ADD"),
    ] {
        let context = lab.context(&[("Dockerfile", &text(&add)), ("f", "f")]);
        let failed = lab.build(&context, &["--build-arg=SOURCE_DATE_EPOCH=source"]);
        assert!(failed.code != 0 && failed.err.contains(word), "{add}: {}", failed.err);
        assert!(failed.err.contains("Dockerfile:"), "{add}: {}", failed.err);
    }
    let other = text(&format!("ADD {} /", dated.url("f"))).replace("FROM scratch", "FROM busybox");
    let failed =
        lab.build(&lab.context(&[("Dockerfile", &other)]), &["--build-arg=SOURCE_DATE_EPOCH=source"]);
    assert!(failed.code == 3 && failed.err.contains("its base is not scratch"), "{}", failed.err);
    for value in ["1.5", "nobody", "0"] {
        let failed = lab.build(
            &lab.context(&[("Dockerfile", PRINT)]),
            &[&format!("--build-arg=SOURCE_DATE_EPOCH={value}"), "-otype=cacheonly"],
        );
        assert_eq!(failed.code, if value == "0" { 0 } else { 3 }, "{value}: {}", failed.err);
        assert_eq!(failed.err.contains("invalid SOURCE_DATE_EPOCH"), value != "0", "{}", failed.err);
    }
    // What only looks at the Dockerfile asks nobody.
    let gone = format!("ARG SOURCE_DATE_EPOCH=source\n{}", text("ADD http://127.0.0.1:9/gone /"));
    let context = lab.context(&[("Dockerfile", &gone)]).display().to_string();
    let mut args = vec!["check".to_owned()];
    args.extend(lab.bases());
    args.push(context);
    let checked = lab.run(&args);
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
}

#[test]
fn a_dockerfile_may_be_named_beside_a_context_on_a_server() {
    let test = "a_dockerfile_may_be_named_beside_a_context_on_a_server";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let root = lab.context(&[
        ("tree/sub/other", "FROM busybox\nCOPY f /other\n"),
        ("tree/f", "packed\n"),
        ("plain", "FROM busybox\nCOPY context /own\nRUN stat -c '%a %Y' /own > /time\n"),
        ("elsewhere", "FROM busybox\nCOPY f /given\n"),
    ]);
    pack(&root.join("tree"), &root.join("context.tar.gz"));
    let server = FileServer::start(&root);
    let (archive, plain) = (server.url("context.tar.gz"), server.url("plain"));
    // An empty port is the usual one only for those who listen there, so here it is just understood.
    let build = |file: &str, url: &str, input: &str| {
        let files: PathBuf =
            lab.out(&format!("files-{}", fs::read_dir(lab.path().join("out")).map_or(0, Iterator::count)));
        let mut args = vec!["build".to_owned(), "-f".into(), file.into(), format!("-o{}", files.display())];
        args.extend(lab.bases());
        args.push(url.to_owned());
        let built = with_input(&lab, &args, input.as_bytes());
        assert_eq!(built.code, 0, "{file} {url}: {}", built.err);
        files
    };
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text(build("sub/other", &archive, "").join("other")), "packed\n");
    let given = "FROM busybox\nCOPY f /given\n";
    assert_eq!(text(build("-", &archive, given).join("given")), "packed\n");
    let absolute = root.join("elsewhere").display().to_string();
    assert_eq!(text(build(&absolute, &archive, "").join("given")), "packed\n");
    assert_eq!(text(build(&server.url("elsewhere"), &archive, "").join("given")), "packed\n");
    // What is no archive is the Dockerfile, whatever -f names, and the one file of the context.
    for name in ["Dockerfile", "other/name"] {
        let files = build(name, &plain, "");
        assert_eq!(text(files.join("time")), "600 1577836800\n", "{name}");
        assert!(text(files.join("own")).contains("COPY context"), "{name}");
    }
    let empty_port = lab.run(["build", "http://127.0.0.1:/nothing"]);
    assert!(!empty_port.err.contains("expected http://"), "{}", empty_port.err);
}

#[test]
fn only_a_build_needs_permissions() {
    let test = "only_a_build_needs_permissions";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    for flag in ["--security=insecure", "--network=host", "--device=vendor.test/class=one"] {
        let context = lab.context(&[("Dockerfile", &format!("FROM busybox\nRUN {flag} true\n"))]);
        let run = |verb: &[&str]| {
            let mut args: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
            args.extend(lab.bases());
            args.push(context.display().to_string());
            lab.run(&args)
        };
        for verb in [&["check"][..], &["plan"], &["build", "--check"], &["build", "--call=outline"]] {
            let looked = run(verb);
            assert_eq!(looked.code, 0, "{verb:?} {flag}: {}{}", looked.out, looked.err);
        }
        let refused = run(&["build"]);
        assert!(refused.code != 0 && refused.err.contains("--allow"), "{flag}: {}", refused.err);
    }
}

/// A path of bytes that are no UTF-8, below a directory.
fn odd(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

#[test]
fn paths_and_names_of_a_context_may_be_any_bytes() {
    let test = "paths_and_names_of_a_context_may_be_any_bytes";
    if !bases_or_skip(test) {
        return;
    }
    let lab = Lab::new();
    let root = lab.context(&[]);
    let (context, named) = (odd(&root, b"ctx-\xff"), odd(&root, b"other-\xfe"));
    let file = odd(&root, b"Dockerfile-\xfd");
    for dir in [&context, &named] {
        fs::create_dir(dir).expect("mkdir");
    }
    let text = "FROM busybox\nCOPY . /all/\nCOPY --from=other . /other/\nRUN ls /all /other > /list\n";
    fs::write(context.join("Dockerfile"), text).expect("write");
    fs::write(&file, text).expect("write");
    fs::write(odd(&root, b"Dockerfile-\xfd.dockerignore"), b"left-\xfc\n").expect("write");
    for name in [&b"kept-\xfb"[..], b"left-\xfc"] {
        fs::write(odd(&context, name), "x").expect("write");
    }
    fs::write(odd(&named, b"n-\xfa"), "n").expect("write");
    let mut of_named = OsString::from("--build-context=other=");
    of_named.push(&named);
    let build = |dockerfile: Option<&Path>, name: &str| {
        let archive = lab.out(name);
        let mut command = lab.rbuild();
        command
            .arg("build")
            .args(lab.bases())
            .arg(&of_named)
            .arg(format!("-otype=tar,dest={}", archive.display()));
        command.args(dockerfile.map(|file| [OsStr::new("-f"), file.as_os_str()]).iter().flatten());
        let built = done(command.arg(&context).output().expect("rbuild"));
        assert_eq!(built.code, 0, "{}", built.err);
        let list =
            Command::new("tar").args(["--quoting-style=escape", "-tf"]).arg(&archive).output().expect("tar");
        String::from_utf8_lossy(&list.stdout).into_owned()
    };
    let all = build(None, "all.tar");
    for name in [r"all/kept-\373", r"all/left-\374", r"other/n-\372"] {
        assert!(all.contains(name), "{name}: {all}");
    }
    let less = build(Some(&file), "less.tar");
    assert!(less.contains(r"all/kept-\373") && !less.contains(r"left-\374"), "{less}");
    let gone = done(lab.rbuild().arg("build").arg(odd(&root, b"gone-\xff")).output().expect("rbuild"));
    assert!(gone.code == 4 && gone.err.contains("gone-\u{fffd}"), "{}", gone.err);
}
