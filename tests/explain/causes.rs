//! What is said of a step that an earlier build had, cause by cause, as a transcript.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::server::FileServer;
use crate::support::{Lab, bases_or_skip};
use crate::{causes_of, masked};

/// A transcript that is made anew; `RBUILD_RENEW=1` replaces the one that is expected.
struct Transcript {
    lab: Lab,
    text: String,
}

const COPY: &[(&str, &str)] = &[
    ("Dockerfile", "FROM scratch\nCOPY src /src\nWORKDIR /w\n"),
    ("src/a.rs", "a\n"),
    ("src/run.sh", "#!\n"),
];

impl Transcript {
    /// Builds, edits and builds again; notes why steps were executed.
    fn case(&mut self, title: &str, files: &[(&str, &str)], edit: impl FnOnce(&Path)) {
        self.with_flags(title, files, &[], &[], edit);
    }

    fn with_flags(
        &mut self,
        title: &str,
        files: &[(&str, &str)],
        first: &[&str],
        second: &[&str],
        edit: impl FnOnce(&Path),
    ) {
        let context = self.lab.context(files);
        self.build(&context, first);
        edit(&context);
        self.again(title, &context, second);
    }

    fn build(&self, context: &Path, flags: &[&str]) {
        let done = self.lab.build(context, flags);
        assert_eq!(done.code, 0, "{}", done.err);
    }

    fn again(&mut self, title: &str, context: &Path, flags: &[&str]) {
        let done = self.lab.build(context, flags);
        assert_eq!(done.code, 0, "{title}: {}", done.err);
        let _ = writeln!(self.text, "{title}");
        let lab = self.lab.path().display().to_string();
        for cause in causes_of(&done) {
            let _ = writeln!(self.text, "  {}", masked(&cause.replace(&lab, "LAB")));
        }
        self.text.push('\n');
    }

    /// The story of the last build.
    fn story(&mut self, title: &str, word: &str) {
        let done = self.lab.run(["explain", word]);
        assert_eq!(done.code, 0, "{}", done.err);
        let _ = writeln!(self.text, "{title}");
        for line in masked(&done.out).lines() {
            // Times, and the names of contexts.
            let line = match line.trim_start().split_once("Dockerfile:") {
                Some((_, rest)) => format!("  Dockerfile:{}", rest.split(", ").next().unwrap_or_default()),
                None => line.to_owned(),
            };
            let _ = writeln!(self.text, "{}", format!("  {line}").trim_end());
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("write");
}

fn dockerfile(text: &'static str) -> impl FnOnce(&Path) {
    move |context| write(&context.join("Dockerfile"), text)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

#[test]
fn the_first_cause_of_each_miss_is_named() {
    if !bases_or_skip("the_first_cause_of_each_miss_is_named") {
        return;
    }
    let mut all = Transcript { lab: Lab::new(), text: String::new() };
    of_files(&mut all);
    of_arguments(&mut all);
    of_instructions(&mut all);
    of_surroundings(&mut all);
    of_the_cache(&mut all);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/explain/causes.txt");
    if std::env::var_os("RBUILD_RENEW").is_some() {
        write(&path, &all.text);
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (found, wanted) in all.text.split("\n\n").zip(expected.split("\n\n")) {
        assert_eq!(found, wanted);
    }
    assert_eq!(all.text.len(), expected.len());
}

fn of_files(all: &mut Transcript) {
    all.case("a file has another content", COPY, |c| write(&c.join("src/a.rs"), "b\n"));
    all.case("a file is new", COPY, |c| write(&c.join("src/b.rs"), "b\n"));
    all.case("a file is gone", COPY, |c| fs::remove_file(c.join("src/a.rs")).expect("rm"));
    all.case("a file has other permissions", COPY, |c| mode(&c.join("src/run.sh"), 0o755));
    all.case("a file became a directory", COPY, |c| {
        fs::remove_file(c.join("src/a.rs")).expect("rm");
        fs::create_dir(c.join("src/a.rs")).expect("mkdir");
    });
    let linked: &[(&str, &str)] =
        &[("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/x", "x"), ("src/y", "x")];
    let context = all.lab.context(linked);
    symlink("x", context.join("src/link")).expect("link");
    all.build(&context, &[]);
    fs::remove_file(context.join("src/link")).expect("rm");
    symlink("y", context.join("src/link")).expect("link");
    all.again("a link leads elsewhere", &context, &[]);
    all.case("several files changed", COPY, |c| {
        write(&c.join("src/a.rs"), "b\n");
        mode(&c.join("src/run.sh"), 0o755);
        write(&c.join("src/z"), "z\n");
    });
    all.story("the whole story of that COPY", "2/3");
    all.case("a file that no step reads changed", COPY, |c| write(&c.join("other"), "x"));
    all.case("an ignore file leaves a file out", COPY, |c| write(&c.join(".dockerignore"), "src/run.sh\n"));
    let wild: &[(&str, &str)] =
        &[("Dockerfile", "FROM scratch\nCOPY src/*.json a/b /d/\n"), ("src/x.json", "1"), ("a/b", "b")];
    all.case("a wildcard selects a new file", wild, |c| write(&c.join("src/lock.json"), "1"));
    all.case("a file that is named itself changed", wild, |c| write(&c.join("a/b"), "c"));
    let twice: &[(&str, &str)] =
        &[("Dockerfile", "FROM scratch\nCOPY one /x\nCOPY two /y\n"), ("one/f", "same"), ("two/f", "same")];
    all.case("of two directories with the same files one changed", twice, |c| write(&c.join("two/f"), "new"));
    let mount: &[(&str, &str)] = &[
        ("Dockerfile", "FROM busybox\nRUN --mount=target=/c,source=src cat /c/a > /a\n"),
        ("src/a", "1"),
        ("src/deep/b", "1"),
    ];
    all.case("a file that is mounted changed", mount, |c| write(&c.join("src/deep/b"), "2"));
    let stages: &[(&str, &str)] = &[
        (
            "Dockerfile",
            "FROM scratch AS a\nCOPY src /src\nFROM scratch\nWORKDIR /w\nCOPY --from=a /src /out\n",
        ),
        ("src/a", "1"),
    ];
    all.case("a file changed that another stage copies", stages, |c| write(&c.join("src/a"), "2"));
}

fn of_arguments(all: &mut Transcript) {
    let run: &[(&str, &str)] = &[("Dockerfile", "FROM busybox\nARG V=1\nRUN echo $V > /v\n")];
    all.with_flags(
        "a build argument has another value",
        run,
        &["--build-arg=V=2"],
        &["--build-arg=V=3"],
        |_| {},
    );
    all.with_flags("a build argument is given", run, &[], &["--build-arg=V=two words"], |_| {});
    all.case(
        "the default of an argument is another",
        run,
        dockerfile("FROM busybox\nARG V=9\nRUN echo $V > /v\n"),
    );
    let token: &[(&str, &str)] =
        &[("Dockerfile", "FROM busybox\nARG API_TOKEN\nRUN test -n \"$API_TOKEN\"\n")];
    let flags = ["--build-arg=API_TOKEN=hunter22-one", "--build-arg=API_TOKEN=hunter22-two"];
    all.with_flags("an argument that looks like a secret", token, &flags[..1], &flags[1..], |_| {});
    assert!(!all.text.contains("hunter22"), "{}", all.text);
    let copied: &[(&str, &str)] = &[("Dockerfile", "FROM scratch\nARG DIR=one\nCOPY a /$DIR/\n"), ("a", "a")];
    all.with_flags("an argument in a destination", copied, &[], &["--build-arg=DIR=two"], |_| {});
    let source: &[(&str, &str)] =
        &[("Dockerfile", "FROM scratch\nARG DIR=one\nCOPY $DIR /x\n"), ("one/a", "a"), ("two/a", "b")];
    all.with_flags("an argument in a source", source, &[], &["--build-arg=DIR=two"], |_| {});
    all.case(
        "a variable of ENV is another",
        &[("Dockerfile", "FROM busybox\nENV X=1 Y=1\nRUN echo $X\n")],
        dockerfile("FROM busybox\nENV X=1 Y=2\nRUN echo $X\n"),
    );
    all.case(
        "a variable of ENV is new",
        &[("Dockerfile", "FROM busybox\nRUN echo $X\n")],
        dockerfile("FROM busybox\nENV X=1\nRUN echo $X\n"),
    );
}

fn of_instructions(all: &mut Transcript) {
    // Layers with the same content, times of change included, would make the step behind them cached.
    let make: &[(&str, &str)] = &[("Dockerfile", "FROM busybox\nRUN echo make >/log\nWORKDIR /w\n")];
    all.case(
        "the instruction changed",
        make,
        dockerfile("FROM busybox\nRUN echo make all >/log\nWORKDIR /w\n"),
    );
    all.case(
        "an instruction is new",
        make,
        dockerfile("FROM busybox\nRUN true\nRUN echo make >/log\nWORKDIR /w\n"),
    );
    let three: &[(&str, &str)] =
        &[("Dockerfile", "FROM scratch\nWORKDIR /a\nCOPY f /b\nWORKDIR /c\n"), ("f", "f")];
    all.case("an instruction was removed", three, dockerfile("FROM scratch\nCOPY f /b\nWORKDIR /c\n"));
    all.case("the order changed", three, dockerfile("FROM scratch\nCOPY f /b\nWORKDIR /a\nWORKDIR /c\n"));
    all.case("only blanks and comments changed", three, |c| {
        write(&c.join("Dockerfile"), "FROM scratch\n\n# here\nWORKDIR   /a\nCOPY f \\\n  /b\nWORKDIR /c\n");
    });
    all.case(
        "files are left out by a flag",
        &[("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/a", "a"), ("src/b", "b")],
        dockerfile("FROM scratch\nCOPY --exclude=b src /src\n"),
    );
    all.case(
        "a file in the Dockerfile changed",
        &[("Dockerfile", "FROM scratch\nCOPY <<E /x\none\nE\n")],
        dockerfile("FROM scratch\nCOPY <<E /x\ntwo\nE\n"),
    );
    all.case(
        "a script in the Dockerfile changed",
        &[("Dockerfile", "FROM busybox\nRUN <<E\necho one\nE\n")],
        dockerfile("FROM busybox\nRUN <<E\necho two\nE\n"),
    );
}

fn of_surroundings(all: &mut Transcript) {
    all.case(
        "the user is another",
        &[("Dockerfile", "FROM busybox\nUSER 1\nRUN true\n")],
        dockerfile("FROM busybox\nUSER 2\nRUN true\n"),
    );
    all.case(
        "the working directory is another",
        &[("Dockerfile", "FROM busybox\nWORKDIR /tmp\nRUN true\n")],
        dockerfile("FROM busybox\nWORKDIR /etc\nRUN true\n"),
    );
    all.case(
        "the shell is another",
        &[("Dockerfile", "FROM busybox\nRUN true\n")],
        dockerfile("FROM busybox\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN true\n"),
    );
    let run: &[(&str, &str)] = &[("Dockerfile", "FROM busybox\nRUN true\n")];
    all.with_flags("the network is another", run, &[], &["--network=none"], |_| {});
    all.with_flags("a limit is given", run, &[], &["--ulimit=nofile=512:512"], |_| {});
    let copy: &[(&str, &str)] = &[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "a")];
    let epochs = ["--build-arg=SOURCE_DATE_EPOCH=1", "--build-arg=SOURCE_DATE_EPOCH=2"];
    all.with_flags("the time of files is another", copy, &epochs[..1], &epochs[1..], |_| {});
    let based: &[(&str, &str)] = &[("Dockerfile", "FROM own:1\nCOPY a /\n"), ("a", "a")];
    let own = all.lab.context(&[("Dockerfile", "FROM scratch\nCOPY v /\n"), ("v", "1")]);
    all.build(&own, &["-t", "own:1"]);
    let context = all.lab.context(based);
    all.build(&context, &["--pull=never"]);
    write(&own.join("v"), "2");
    all.build(&own, &["-t", "own:1"]);
    all.again("the base is another image", &context, &["--pull=never"]);
    all.build(&own, &["-t", "own:2"]);
    write(&own.join("v"), "3");
    all.build(&own, &["-t", "own:3"]);
    let named: &[(&str, &str)] = &[("Dockerfile", "ARG N=2\nFROM own:$N\nCOPY a /\n"), ("a", "a")];
    let flags = ["--pull=never", "--build-arg=N=3"];
    all.with_flags("the base is named by an argument", named, &flags[..1], &flags, |_| {});
    let secret: &[(&str, &str)] = &[("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=key true\n")];
    let file = all.lab.path().join("key");
    let flag = format!("--secret=id=key,src={},invalidate=true", file.display());
    write(&file, "hunter22-one");
    let change = |_: &Path| write(&file, "hunter22-two");
    all.with_flags("a secret is another", secret, &[&flag], &[&flag], change);
    assert!(!all.text.contains("hunter22"));
    let root: PathBuf = all.lab.path().join("served");
    fs::create_dir(&root).expect("mkdir");
    write(&root.join("f"), "one");
    let server = FileServer::start(&root);
    let added = format!("FROM scratch\nADD {} /\n", server.url("f"));
    let context = all.lab.context(&[("Dockerfile", &added)]);
    all.build(&context, &[]);
    write(&root.join("f"), "another");
    let from = all.text.len();
    all.again("what an address has is something else", &context, &[]);
    let told = all.text.split_off(from).replace(&server.url(""), "http://SERVER/");
    all.text.push_str(&told);
}

fn of_the_cache(all: &mut Transcript) {
    let context = all.lab.context(COPY);
    all.build(&context, &[]);
    all.again("the cache is not to be used", &context, &["--no-cache"]);
    let stages: &[(&str, &str)] =
        &[("Dockerfile", "FROM scratch AS a\nCOPY f /f\nFROM scratch\nCOPY --from=a /f /g\n"), ("f", "f")];
    all.with_flags("a stage is to be executed again", stages, &[], &["--no-cache-filter=a"], |_| {});
    let context = all
        .lab
        .context(&[("Dockerfile", "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /u\nRUN true\n")]);
    all.build(&context, &[]);
    let other =
        all.lab.context(&[("Dockerfile", "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /u\n")]);
    all.build(&other, &["--no-cache"]);
    all.again("another build made the step before anew", &context, &[]);

    let context = all.lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "not yet built")]);
    all.again("it was never built", &context, &[]);
    let cache = all.lab.out("cache").display().to_string();
    let (to, from) =
        (format!("--cache-to=type=local,dest={cache}"), format!("--cache-from=type=local,src={cache}"));
    all.build(&context, &[&to]);
    let next = all.lab.context(&[("Dockerfile", "FROM scratch\nCOPY a /\nWORKDIR /new\n"), ("a", "other")]);
    all.again("neither the store nor a cache has it", &next, &[&from]);

    let context = all.lab.context(COPY);
    all.build(&context, &[]);
    for room in ["layers", "index", "blobs/sha256", "snapshots", "chains"] {
        let dir = all.lab.store().join(room);
        fs::remove_dir_all(&dir).expect("rm");
        fs::create_dir(&dir).expect("mkdir");
    }
    all.again("its layer was removed by hand", &context, &[]);
    let context = all.lab.context(COPY);
    write(&context.join("src/a.rs"), "only here\n");
    all.build(&context, &[]);
    let records = all.lab.store().join("records");
    fs::remove_dir_all(&records).expect("rm");
    fs::create_dir(&records).expect("mkdir");
    all.again("its record was removed by hand", &context, &[]);
    assert_eq!(all.lab.run(["prune", "--filter=type=regular"]).code, 0);
    all.again("its result was pruned", &context, &[]);
}
