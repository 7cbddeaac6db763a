//! Where the files to build come from: archives, standard input, git repositories, downloads.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::scene::Scene;
use super::server::FileServer;
use super::support::{Done, done, tool};

/// A tree with a part to build, files to ignore, and a link that leads out of it.
const FILES: [(&str, &str); 6] = [
    ("Dockerfile", "FROM scratch\nCOPY . /all\n"),
    ("a", "outer"),
    ("ignored", "x"),
    (".dockerignore", "ignored\n"),
    ("part/Dockerfile", "FROM scratch\nCOPY a /a\n"),
    ("part/a", "inner"),
];

fn tar(dir: &Path, archive: &Path, flags: &str) {
    tool("tar", &["-C".as_ref(), dir.as_os_str(), flags.as_ref(), archive.as_os_str(), ".".as_ref()]);
}

/// Runs the executor with an archive on standard input.
fn with_input(scene: &Scene, flags: &[&str], input: &[u8]) -> Done {
    use std::os::unix::process::CommandExt as _;
    let mut command = scene.lab.rbuild();
    command.arg0("executor").args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("rbuild starts");
    // A build that fails early leaves the rest unread.
    let _ = child.stdin.take().expect("stdin").write_all(input);
    done(child.wait_with_output().expect("rbuild ends"))
}

/// The files of an image, from an archive that `--tar-path` wrote.
fn files_of(scene: &Scene, name: &str) -> String {
    let dir = scene.lab.out(&format!("{name}.files"));
    fs::create_dir(&dir).expect("mkdir");
    let built = scene.lab.run([
        "build",
        "-o",
        &dir.display().to_string(),
        &format!("{}/{name}", scene.lab.path().display()),
    ]);
    assert_eq!(built.code, 0, "{}", built.err);
    let list =
        tool("find", &[dir.as_os_str(), "-type".as_ref(), "f".as_ref(), "-printf".as_ref(), "%P ".as_ref()]);
    let mut names: Vec<&str> = list.out.split_whitespace().filter(|name| !name.contains(".git/")).collect();
    names.sort_unstable();
    names.join(" ")
}

/// Builds and gives the names of the image's files.
fn built(scene: &Scene, name: &str, ended: &Done) -> Result<String, String> {
    if ended.code != 0 {
        return Err(ended.err.clone());
    }
    let dir = scene.lab.path().join(name);
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("Dockerfile"), format!("FROM {name}:1\n")).expect("write");
    Ok(files_of(scene, name))
}

#[test]
fn archives_are_built_from_files_and_standard_input() {
    let Some(scene) = Scene::new("archives_are_built_from_files_and_standard_input") else { return };
    let tree = scene.lab.context(&FILES);
    std::os::unix::fs::symlink("/etc", tree.join("out")).expect("a link");
    std::os::unix::fs::symlink("part", tree.join("link")).expect("a link");
    let (plain, packed) = (scene.lab.path().join("c.tar"), scene.lab.path().join("c.tar.gz"));
    tar(&tree, &plain, "-cf");
    tar(&tree, &packed, "-czf");
    let bytes = fs::read(&packed).expect("the archive");
    let other = scene.lab.path().join("Other");
    fs::write(&other, "FROM scratch\nCOPY a /from-other\n").expect("write");
    let whole = "all/.dockerignore all/Dockerfile all/a all/part/Dockerfile all/part/a";
    for (name, context, more, wanted) in [
        ("plain", "tar://c.tar", &[][..], Ok(whole)),
        ("packed", &format!("tar://{}", packed.display()), &[], Ok(whole)),
        ("stdin", "tar://stdin", &[], Ok(whole)),
        ("part", "tar://c.tar", &["--context-sub-path=part"], Ok("a")),
        ("linked", "tar://c.tar", &["--context-sub-path=/link/"], Ok("a")),
        ("other", "tar://c.tar", &["--dockerfile=Other"], Ok("from-other")),
        ("named", "tar://stdin", &["-f", "part/Dockerfile"], Ok("a")),
        ("outside", "tar://c.tar", &["--context-sub-path=out"], Err("outside the context")),
        ("upwards", "tar://c.tar", &["--context-sub-path=../.."], Err("outside the context")),
        ("lacking", "tar://c.tar", &["--context-sub-path=none"], Err("No such file")),
        ("missing", "tar://none.tar", &[], Err("none.tar")),
        ("directory", "tar:///", &[], Err("")),
        ("no-archive", "tar://Other", &[], Err("standard input")),
    ] {
        let destination = format!("{name}:1");
        let flags = ["--no-push", "-c", context, "-d", &destination];
        let ended = with_input(&scene, &[&flags, more].concat(), &bytes);
        let found = built(&scene, name, &ended);
        match wanted {
            Ok(files) => assert_eq!(found.as_deref(), Ok(files), "{name}"),
            Err(word) => {
                assert_eq!(ended.code, 4, "{name}: {}", ended.err);
                assert!(ended.err.contains(word), "{name}: {}", ended.err);
            }
        }
    }
}

#[test]
fn repositories_are_built_as_kaniko_names_them() {
    let Some(scene) = Scene::new("repositories_are_built_as_kaniko_names_them") else { return };
    let served = scene.lab.path().join("served");
    fs::create_dir(&served).expect("mkdir");
    let tree = scene.lab.context(&FILES);
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&tree).env("HOME", scene.lab.path()).args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t",
        ]);
        let done = done(command.args(words).output().expect("git"));
        assert_eq!(done.code, 0, "{words:?}: {}", done.err);
        done.out.trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "one"]);
    let first = git(&["rev-parse", "HEAD"]);
    fs::write(tree.join("b"), "new").expect("write");
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "two"]);
    git(&["branch", "side"]);
    git(&["tag", "v1", &first]);
    // Kaniko takes repositories whatever their paths end with.
    git(&["clone", "-q", "--bare", ".", &served.join("project").display().to_string()]);
    git(&["-C", &served.join("project").display().to_string(), "update-server-info"]);
    let server = FileServer::start(&served);
    let host = server.url("project").replace("http://", "git://");
    let (one, two) = (
        "all/.dockerignore all/Dockerfile all/a all/part/Dockerfile all/part/a",
        "all/.dockerignore all/Dockerfile all/a all/b all/part/Dockerfile all/part/a",
    );
    for (name, context, more, wanted) in [
        ("default", host.clone(), &[][..], two),
        ("branch", format!("{host}#refs/heads/side"), &[], two),
        ("tag", format!("{host}#refs/tags/v1"), &[], one),
        ("commit", format!("{host}#{first}"), &[], one),
        ("branch-and-commit", format!("{host}#refs/heads/main#{first}"), &[], one),
        ("by-flag", host.clone(), &["--git=branch=side", "--git", "single-branch=true"], two),
        ("part-of-it", host.clone(), &["--context-sub-path", "part"], "a"),
    ] {
        let destination = format!("{name}:1");
        let flags = ["--no-push", "--context", &context, "--destination", &destination];
        let ended = scene.executor_with([&flags, more].concat(), |command| {
            command.env("GIT_PULL_METHOD", "http").env("GIT_TOKEN", "s3cret");
        });
        assert_eq!(built(&scene, name, &ended).as_deref(), Ok(wanted), "{name}");
        assert!(!ended.err.contains("s3cret"), "{name}: {}", ended.err);
    }
}
