use std::io::Write;

use tempfile::TempDir;

use super::*;

/// A working directory with files, and a place for archives.
struct Desk(TempDir);

impl Desk {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        for (name, text) in files {
            let path = dir.path().join("cwd").join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        fs::create_dir_all(dir.path().join("cwd")).expect("mkdir");
        Desk(dir)
    }

    fn open(&self, path: &str, dockerfile: Option<&str>, stdin: &[u8]) -> Result<MainContext, String> {
        let spec = ContextSpec {
            path: path.into(),
            dockerfile: dockerfile.map(Into::into),
            dockerfile_text: None,
            fetched: FetchedContext::default(),
            downloaded: None,
            cwd: self.0.path().join("cwd"),
        };
        let cancel = Cancel::new().expect("a descriptor");
        open_main(&spec, &mut &stdin[..], &self.0.path().join("scratch"), &cancel)
            .map_err(|error| error.to_string())
    }

    fn dockerfile(&self, path: &str, dockerfile: Option<&str>, stdin: &[u8]) -> (String, String) {
        let main = self.open(path, dockerfile, stdin).unwrap_or_else(|error| panic!("{error}"));
        (main.dockerfile_name, String::from_utf8(main.dockerfile).expect("text"))
    }
}

fn files(context: &LocalContext) -> Vec<String> {
    context.list(b"", None).expect("lists").iter().map(|info| paths::show(&info.path)).collect()
}

fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

fn own(pair: (&str, &str)) -> (String, String) {
    (pair.0.to_owned(), pair.1.to_owned())
}

#[test]
fn the_dockerfile_is_found_by_its_names_in_the_context() {
    let desk = Desk::with(&[("a/Dockerfile", "upper"), ("a/dockerfile", "lower"), ("b/dockerfile", "lower")]);
    assert_eq!(desk.dockerfile("a", None, b""), own(("a/Dockerfile", "upper")));
    assert_eq!(desk.dockerfile("b/", None, b""), own(("b/dockerfile", "lower")));
    let here = Desk::with(&[("Dockerfile", "here")]);
    assert_eq!(here.dockerfile(".", None, b""), own(("Dockerfile", "here")));
}

#[test]
fn a_given_dockerfile_counts_from_the_working_directory_and_may_be_a_link() {
    let desk = Desk::with(&[("x.df", "outside"), ("ctx/x.df", "inside"), ("ctx/y.df", "y")]);
    std::os::unix::fs::symlink("x.df", desk.0.path().join("cwd/link")).expect("symlink");
    assert_eq!(desk.dockerfile("ctx", Some("x.df"), b""), own(("x.df", "outside")));
    assert_eq!(desk.dockerfile("ctx", Some("ctx/x.df"), b""), own(("ctx/x.df", "inside")));
    assert_eq!(desk.dockerfile("ctx", Some("link"), b""), own(("link", "outside")));
    assert_eq!(desk.dockerfile("ctx", Some("-"), b"piped"), own(("-", "piped")));
    let error = desk.open("ctx", Some("y.df"), b"").expect_err("not in the working directory");
    assert!(error.contains("there is ctx/y.df; use it with `-f ctx/y.df`"), "{error}");
}

#[test]
fn the_ignore_file_beside_the_dockerfile_wins_entirely() {
    let desk = Desk::with(&[
        ("ctx/a", ""),
        ("ctx/b", ""),
        ("ctx/.dockerignore", "a\n.dockerignore\n"),
        ("x.df", ""),
        ("y.df", ""),
        ("y.df.dockerignore", "b\n"),
    ]);
    let open = |dockerfile: &str| {
        let main = desk.open("ctx", Some(dockerfile), b"FROM x").expect("opens");
        (files(&main.context), main.ignore_file)
    };
    assert_eq!(open("x.df"), (vec!["b".to_owned()], Some("ctx/.dockerignore".to_owned())));
    assert_eq!(open("-"), (vec!["b".to_owned()], Some("ctx/.dockerignore".to_owned())));
    let (shown, file) = open("y.df");
    assert_eq!(shown, [".dockerignore", "a"]);
    assert_eq!(file.as_deref(), Some("y.df.dockerignore"));
}

#[test]
fn an_ignored_dockerfile_is_still_read() {
    let desk = Desk::with(&[("Dockerfile", "FROM x"), (".dockerignore", "*\n")]);
    let main = desk.open(".", None, b"").expect("opens");
    assert_eq!((main.dockerfile.as_slice(), files(&main.context).len()), (&b"FROM x"[..], 0));
}

#[test]
fn a_bad_ignore_file_is_named_with_its_line() {
    let desk = Desk::with(&[("c/Dockerfile", ""), ("c/.dockerignore", "ok\n[\n")]);
    let error = desk.open("c", None, b"").expect_err("bad pattern");
    assert!(error.starts_with("c/.dockerignore:2:"), "{error}");
}

#[test]
fn named_contexts_have_their_own_ignore_file() {
    let desk = Desk::with(&[("n/a", ""), ("n/b", ""), ("n/.dockerignore", ".*\nb")]);
    let context = open_named(&"n".into(), &desk.0.path().join("cwd")).expect("opens");
    assert_eq!(files(&context), ["a"]);
}

#[test]
fn a_missing_dockerfile_is_explained() {
    let error = |names: &[&str], dockerfile| {
        let rows: Vec<_> = names.iter().map(|name| (*name, "")).collect();
        Desk::with(&rows).open(".", dockerfile, b"").expect_err("no Dockerfile")
    };
    assert_eq!(error(&["x"], None), "no Dockerfile: looked for Dockerfile and dockerfile");
    for (name, hint) in [
        ("DockerFile", "there is DockerFile; use it with `-f DockerFile`"),
        ("Containerfile", "there is Containerfile;"),
        ("Dockerfile.prod", "there is Dockerfile.prod;"),
        ("Dokcerfile", "there is Dokcerfile;"),
    ] {
        let error = error(&[name, "Dockerfile.dockerignore"], None);
        assert!(error.contains(hint), "{error}");
    }
    assert!(error(&["build/App.df"], Some("build/app.df")).contains("-f build/App.df"));
    assert!(error(&["d/x"], Some("d")).contains("is a directory"));
}

#[test]
fn a_wrong_context_is_explained() {
    let desk = Desk::with(&[("app/Dockerfile", ""), ("file", "")]);
    let error = |path: &str| desk.open(path, None, b"").expect_err("no context");
    assert_eq!(error("App"), "the build context \"App\" does not exist; did you mean \"app\"?");
    assert_eq!(error("unlike"), "the build context \"unlike\" does not exist");
    assert!(error("file").contains("is not a directory") && error("file").contains("-f file"));
    for (url, kind) in [
        ("https://user:secret@example.com/a.git#main", "git"),
        ("https://user:secret@example.com/a.tar.gz", "http"),
        ("git@example.com:a/b", "git"),
        ("ssh://git@example.com/a/b", "git"),
        ("me@host:repo", "git"),
    ] {
        let error = error(url);
        assert!(error.starts_with(&format!("{kind} contexts are not supported yet")), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn what_lies_in_the_scratch_directory_never_becomes_context() {
    let desk = Desk::with(&[]);
    fs::create_dir(desk.0.path().join("scratch")).expect("mkdir");
    fs::write(desk.0.path().join("scratch/left"), "").expect("write");
    assert!(desk.open("-", None, b"FROM x").is_err_and(|error| error.contains("not empty")));
}

#[test]
fn a_dockerfile_from_a_url_is_refused_by_name() {
    let desk = Desk::with(&[("x", "")]);
    let error = desk.open(".", Some("https://u:pw@example.com/Dockerfile"), b"").expect_err("a URL");
    assert!(error.starts_with("-f takes a file, not https://example.com/Dockerfile\n"), "{error}");
    let error = desk.open(".", Some("git@example.com:team/repo"), b"").expect_err("a repository");
    let advice = "-f takes a file or the URL of one, not git@example.com:team/repo\n  give the repository as";
    assert!(error.starts_with(advice), "{error}");
}

#[test]
fn standard_input_is_used_once() {
    let desk = Desk::with(&[]);
    assert!(desk.open("-", Some("-"), b"FROM x").is_err_and(|error| error.contains("cannot both")));
    assert!(desk.open("-", Some("x"), b"FROM x").is_err_and(|error| error.contains("`-f x` names another")));
    assert!(desk.open("-", None, b"").is_err_and(|error| error.contains("empty")));
    let local = Desk::with(&[("Dockerfile", "FROM x")]);
    struct Untouched;
    impl Read for Untouched {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("nobody asked for standard input")
        }
    }
    let cwd = local.0.path().join("cwd");
    let spec = ContextSpec {
        path: ".".into(),
        dockerfile: None,
        dockerfile_text: None,
        fetched: FetchedContext::default(),
        downloaded: None,
        cwd,
    };
    let cancel = Cancel::new().expect("a descriptor");
    open_main(&spec, &mut Untouched, &local.0.path().join("scratch"), &cancel).expect("opens");
    assert!(!local.0.path().join("scratch").exists());
}

#[test]
fn a_dockerfile_on_standard_input_has_an_empty_context() {
    for text in ["FROM scratch\n".to_owned(), "# comment\n".repeat(200)] {
        let desk = Desk::with(&[("beside", "")]);
        let main = desk.open("-", None, text.as_bytes()).expect("opens");
        assert_eq!((main.kind, main.dockerfile), (ContextKind::DockerfileOnly, text.into_bytes()));
        assert_eq!(files(&main.context), Vec::<String>::new());
    }
}

#[test]
fn an_archive_on_standard_input_is_the_context_whatever_compresses_it() {
    let tar = tar_of(&[("Dockerfile", "FROM x"), ("src/a", "a"), (".dockerignore", "src")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).expect("in memory");
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tar).expect("in memory");
    for stream in [
        tar.clone(),
        gzip.finish().expect("in memory"),
        bzip2.finish().expect("in memory"),
        zstd::encode_all(tar.as_slice(), 1).expect("in memory"),
    ] {
        let main = Desk::with(&[]).open("-", None, &stream);
        // The temporary directory is gone by now; what was read of it is what counts.
        let main = main.expect("opens");
        assert_eq!((main.kind, main.dockerfile.as_slice()), (ContextKind::Archive, &b"FROM x"[..]));
    }
    let desk = Desk::with(&[]);
    let main = desk.open("-", None, &tar).expect("opens");
    assert_eq!(files(&main.context), [".dockerignore", "Dockerfile", "src", "src/a"], "unfiltered");
}

#[test]
fn the_dockerfile_of_an_archive_is_looked_for_inside_it() {
    let desk = || Desk::with(&[("outside", "secret")]);
    let tar = tar_of(&[("build/x.df", "inside")]);
    assert_eq!(desk().dockerfile("-", Some("build/x.df"), &tar), own(("build/x.df", "inside")));
    let error = desk().open("-", Some("build/X.df"), &tar).expect_err("case differs");
    assert!(error.contains("there is build/x.df"), "{error}");
    assert!(desk().open("-", None, &tar).is_err_and(|error| error.contains("looked for Dockerfile")));

    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    builder.append_link(&mut header, "Dockerfile", "/etc/passwd").expect("in memory");
    let tar = builder.into_inner().expect("in memory");
    let error = desk().open("-", None, &tar).expect_err("leads out of the archive");
    assert!(error.contains("no file of the build context"), "{error}");
}

#[test]
fn compressed_data_that_is_no_archive_is_refused() {
    let stream = zstd::encode_all(&b"FROM scratch"[..], 1).expect("in memory");
    let error = Desk::with(&[]).open("-", None, &stream).expect_err("not a tar");
    assert!(error.contains("standard input is zstd data, but not a tar archive"), "{error}");
}
