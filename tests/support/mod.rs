//! What the behaviour tests share: the binary, its bases, independent readers, and honest skipping.
#![allow(dead_code, missing_docs)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The program under test.
pub const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// Compiles a static program from `testdata/`; says so where there is no compiler.
pub fn compiled(test: &str, source: &str, program: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(source);
    let compiler = ["musl-gcc", "cc"].into_iter().find(|compiler| has(compiler));
    let done = compiler.is_some_and(|compiler| {
        let mut command = Command::new(compiler);
        command.args(["-static", "-O1", "-o"]).arg(program).arg(source);
        command.status().is_ok_and(|status| status.success())
    });
    if !done {
        skip(test, "there is no C compiler (tests/setup installs musl-gcc)");
    }
    done
}

/// Says what is skipped and why, in a form that the test run counts.
pub fn skip(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
    eprintln!("SKIPPED {test}: {why}");
    if let Some(file) = std::env::var_os("RBUILD_SKIP_LOG") {
        use std::io::Write as _;
        if let Ok(mut file) = fs::OpenOptions::new().create(true).append(true).open(file) {
            let _ = writeln!(file, "{test}: {why}");
        }
    }
}

pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .any(|dir| dir.join(program).is_file())
    })
}

pub fn is_root() -> bool {
    fs::metadata("/proc/self").map(|meta| meta.uid()).is_ok_and(|uid| uid == 0)
}

/// An OCI layout made by `tests/setup`.
pub fn base(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-bases").join(name);
    path.join("index.json").exists().then_some(path)
}

/// How a build is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// As the user running the tests (root in CI).
    Caller,
    /// As an ordinary user with subordinate ids.
    Rootless,
    /// As an ordinary user without any.
    SingleId,
}

/// The user `tests/setup` prepared for a mode: name and numeric id.
pub fn user_of(who: Who) -> Option<(&'static str, u32)> {
    let name = match who {
        Who::Caller => return None,
        Who::Rootless => "rbuild-sub",
        Who::SingleId => "rbuild-one",
    };
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    Some((name, line.split(':').nth(2)?.parse().ok()?))
}

/// Whether there are base images; says so where there are none.
pub fn bases_or_skip(test: &str) -> bool {
    if base("busybox").is_none() {
        skip(test, "tests/setup has not made the base images");
    }
    base("busybox").is_some()
}

/// The modes this machine can be tested in.
pub fn modes(test: &str) -> Vec<Who> {
    let mut all = vec![Who::Caller];
    for who in [Who::Rootless, Who::SingleId] {
        if is_root() && user_of(who).is_some() && has("setpriv") {
            all.push(who);
        } else {
            skip(test, &format!("there is no user for {who:?} (see tests/setup)"));
        }
    }
    all
}

/// Whether a build with `--userns=private` failed because this kernel cannot do it; says so.
pub fn lacks_mapped_owners(test: &str, ended: &Done) -> bool {
    let lacks = ended.err.contains("Linux 6.15 or newer is needed");
    if lacks {
        skip(test, "this kernel does not stack layers with mapped owners");
    }
    lacks
}

/// Runs a shell script as a second ordinary user of the machine, one that has nothing to do with
/// rbuild; `None`, and says so, where that cannot be done. By way of `su`: a program that only
/// changes its IDs may keep groups and capabilities.
pub fn neighbour(test: &str, script: &str, input: &str) -> Option<Done> {
    use std::io::Write as _;
    if !is_root() || !has("su") {
        skip(test, "only root can become another user");
        return None;
    }
    let check = "[ \"$(id -u) $(id -G)\" = '65534 65534' ] && \
                 grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status || exit 99\n";
    let mut command = Command::new("su");
    command.args(["-s", "/bin/sh", "nobody", "-c", &format!("{check}{script}")]).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("su");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let done = done(child.wait_with_output().expect("su"));
    let _ = writer.join();
    assert_ne!(done.code, 99, "su left more than user 65534 has: {}", done.err);
    Some(done)
}

/// A private directory tree for one test: a store, a place for outputs, a home.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub who: Who,
    program: PathBuf,
}

/// A job in the background of a script ignores SIGINT, under nohup SIGHUP, and so would the programs that tests
/// start: rbuild leaves ignored signals ignored.
fn listen_to_signals() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
            // SAFETY: sets the default action and no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    });
}

impl Lab {
    pub fn new() -> Self {
        Self::as_user(Who::Caller)
    }

    pub fn as_user(who: Who) -> Self {
        listen_to_signals();
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir().expect("a temporary directory");
        let mut program = PathBuf::from(RBUILD);
        if let Some((_, uid)) = user_of(who) {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
            // The checkout may lie where other users cannot go.
            program = dir.path().join("rbuild");
            fs::copy(RBUILD, &program).expect("copy of the program");
            let home = dir.path().join("home");
            fs::create_dir(&home).expect("home");
            std::os::unix::fs::chown(&home, Some(uid), Some(uid)).expect("chown");
            fs::create_dir(dir.path().join("out")).expect("out");
            std::os::unix::fs::chown(dir.path().join("out"), Some(uid), Some(uid)).expect("chown");
        } else {
            fs::create_dir(dir.path().join("out")).expect("out");
            fs::create_dir(dir.path().join("home")).expect("home");
        }
        Lab { dir, who, program }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("home/store")
    }

    /// The program with this lab's store and nothing of the caller's environment but PATH.
    pub fn rbuild(&self) -> Command {
        let mut command = match user_of(self.who) {
            None => Command::new(&self.program),
            Some((name, _)) => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", name, "--regid", name, "--init-groups", "--inh-caps=-all"]);
                command.arg(&self.program);
                command
            }
        };
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.env("HOME", self.dir.path().join("home")).env("RBUILD_ROOT", self.store());
        // Tests of images want to see the image itself under its tag; those of attestations remove it.
        command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        command.stdin(Stdio::null()).current_dir(self.dir.path());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        done(self.rbuild().args(args).output().expect("rbuild starts"))
    }

    /// A context directory with these files; a name ending in `/` is a directory.
    pub fn context(&self, files: &[(&str, &str)]) -> PathBuf {
        let dir =
            tempfile::Builder::new().prefix("ctx-").tempdir_in(self.dir.path()).expect("tempdir").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        for (name, content) in files {
            let path = dir.join(name);
            if name.ends_with('/') {
                fs::create_dir_all(&path).expect("mkdir");
                continue;
            }
            fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            fs::write(&path, content).expect("write");
        }
        dir
    }

    /// Flags that make `FROM busybox` and `FROM debian` mean the test bases.
    pub fn bases(&self) -> Vec<String> {
        let mut flags = Vec::new();
        for name in ["busybox", "debian"] {
            let Some(path) = base(name) else { continue };
            let path = match self.who {
                Who::Caller => path,
                _ => {
                    static COPYING: std::sync::Mutex<()> = std::sync::Mutex::new(());
                    let _one = COPYING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let copy = self.dir.path().join(format!("base-{name}"));
                    if !copy.exists() {
                        let status = Command::new("cp").arg("-r").arg(&path).arg(&copy).status().expect("cp");
                        assert!(status.success());
                    }
                    copy
                }
            };
            flags.push("--build-context".into());
            flags.push(format!("{name}=oci-layout://{}", path.display()));
        }
        flags
    }

    /// Builds `context` on the test bases.
    pub fn build(&self, context: &Path, more: &[&str]) -> Done {
        let mut args = vec!["build".to_owned(), "--progress=plain".into()];
        args.extend(self.bases());
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args.push(context.display().to_string());
        self.run(&args)
    }

    /// Builds `context` into an OCI archive and reads it with skopeo and umoci.
    pub fn build_image(&self, context: &Path, more: &[&str]) -> Image {
        let archive = self.out(&format!("image-{}.tar", unique()));
        let output = format!("type=oci,dest={}", archive.display());
        let done = self.build(context, &[&["-o", output.as_str()], more].concat());
        assert!(done.code == 0, "build failed with {}:\n{}", done.code, done.err);
        Image::read(&archive, self.path(), done)
    }
}

fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How a process ended and what it printed.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn done(output: Output) -> Done {
    Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// As long as any build of a test may take on a loaded machine.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs a program, and kills it where it does not end: a test that waits for ever says nothing.
pub fn done_in_time(command: &mut Command) -> Done {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let id = child.id().to_string();
    let (ended, waits) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let late = waits.recv_timeout(LONGEST) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
        }
        late
    });
    let output = child.wait_with_output().expect("output");
    drop(ended);
    let late = watch.join().expect("the thread");
    assert!(!late, "{command:?} did not end within {LONGEST:?}");
    done(output)
}

pub fn tool(program: &str, args: &[&OsStr]) -> Done {
    let done = done(Command::new(program).args(args).stdin(Stdio::null()).output().expect(program));
    assert!(done.code == 0, "{program} {args:?} failed:\n{}{}", done.out, done.err);
    done
}

/// An image as skopeo and umoci see it.
pub struct Image {
    pub archive: PathBuf,
    pub config: serde_json::Value,
    pub manifest: serde_json::Value,
    pub root: PathBuf,
    pub build: Done,
}

impl Image {
    pub fn read(archive: &Path, work: &Path, build: Done) -> Self {
        let n = unique();
        let layout = work.join(format!("layout-{n}"));
        let bundle = work.join(format!("bundle-{n}"));
        let source = format!("oci-archive:{}", archive.display());
        let target = format!("oci:{}:x", layout.display());
        let insecure = OsStr::new("--insecure-policy");
        tool("skopeo", &[insecure, "copy".as_ref(), "-q".as_ref(), source.as_ref(), target.as_ref()]);
        let raw = |flag: &str| {
            let text = tool("skopeo", &["inspect".as_ref(), flag.as_ref(), source.as_ref()]).out;
            serde_json::from_str(&text).expect("JSON from skopeo")
        };
        let (config, manifest): (serde_json::Value, serde_json::Value) = (raw("--config"), raw("--raw"));
        let image = format!("{}:x", layout.display());
        let mut args: Vec<&OsStr> = vec!["unpack".as_ref()];
        if !is_root() {
            args.push("--rootless".as_ref());
        }
        args.extend([OsStr::new("--image"), image.as_ref(), bundle.as_ref()]);
        tool("umoci", &args);
        Image { archive: archive.to_owned(), config, manifest, root: bundle.join("rootfs"), build }
    }

    /// The config blob itself, with the fields that OCI tools leave out.
    pub fn raw_config(&self) -> serde_json::Value {
        let digest = self.manifest["config"]["digest"]
            .as_str()
            .unwrap_or_default()
            .replace("sha256:", "blobs/sha256/");
        let text = tool("tar", &["-xOf".as_ref(), self.archive.as_os_str(), digest.as_ref()]).out;
        serde_json::from_str(&text).expect("JSON config")
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    pub fn text(&self, path: &str) -> String {
        let bytes = fs::read(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `MODE UID:GID`
    pub fn owner(&self, path: &str) -> String {
        let meta = fs::symlink_metadata(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        format!("{:o} {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid())
    }

    pub fn layers(&self) -> usize {
        self.manifest["layers"].as_array().map_or(0, Vec::len)
    }

    pub fn history(&self) -> Vec<String> {
        let entries = self.config["history"].as_array().cloned().unwrap_or_default();
        entries.iter().filter_map(|entry| Some(entry["created_by"].as_str()?.to_owned())).collect()
    }
}
