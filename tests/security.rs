//! What hurt other builders, tried on this one: each test is named by the numbers it stands for, and
//! `docs/security.md` has the table. Everything hostile aims at one directory outside of all images,
//! contexts and stores, which must stay as it is and never be seen.

#[path = "support/layers.rs"]
mod layers;
#[path = "support/server.rs"]
mod server;
mod support;

#[path = "security/exports.rs"]
mod exports;
#[path = "security/images.rs"]
mod images;
#[path = "security/mounts.rs"]
mod mounts;
#[path = "security/neighbours.rs"]
mod neighbours;
#[path = "security/processes.rs"]
mod processes;
#[path = "security/races.rs"]
mod races;
#[path = "security/sources.rs"]
mod sources;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use layers::{on_busybox, tar_of};
use rbuild::digest::Digest;
use serde_json::{Value, json};
use support::{Done, Lab, Who, base, has, is_root, skip, user_of};

/// What stands in the file that nobody may read.
const CANARY: &str = "canary-5b1d2f-sings";

/// The modes this machine can be tested in; none without base images.
fn modes(test: &str) -> Vec<Who> {
    if support::bases_or_skip(test) { support::modes(test) } else { Vec::new() }
}

/// A lab, and a directory outside that everybody may write to, so that only confinement protects it.
struct Range {
    lab: Lab,
    outside: PathBuf,
    before: Vec<(PathBuf, Vec<u8>)>,
}

impl Range {
    fn new(who: Who) -> Self {
        let lab = Lab::as_user(who);
        let outside = lab.path().join("outside");
        fs::create_dir_all(outside.join("b/c")).expect("outside");
        for (name, text) in [
            ("canary", CANARY),
            ("b/f", ""),
            ("passwd", "evil:x:4242:4242:canary-5b1d2f-sings:/canary-5b1d2f-sings:/bin/sh\n"),
            ("group", "evil:x:4242:\n"),
            ("Dockerfile", "FROM scratch\nLABEL canary-5b1d2f-sings=1\nCOPY . /\n"),
            ("resolv.conf", CANARY),
        ] {
            fs::write(outside.join(name), text).expect("outside");
            fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o666)).expect("chmod");
        }
        for dir in ["", "b", "b/c"] {
            fs::set_permissions(outside.join(dir), fs::Permissions::from_mode(0o777)).expect("chmod");
        }
        let before = tree(&outside);
        Range { lab, outside, before }
    }

    /// Its path as text.
    fn outside(&self) -> String {
        self.outside.display().to_string()
    }

    /// `@` in Dockerfiles and links is the directory outside.
    fn fill(&self, text: &str) -> String {
        text.replace('@', &self.outside())
    }

    fn build(&self, context: &Path, more: &[&str]) -> Done {
        self.lab.build(context, more)
    }

    /// Builds a Dockerfile on its own into a directory.
    fn files(&self, dockerfile: &str, more: &[&str]) -> (Done, PathBuf) {
        let context = self.lab.context(&[("Dockerfile", &self.fill(dockerfile)), ("x", "harmless\n")]);
        let out = tempfile::Builder::new().prefix("files-").tempdir_in(self.lab.out("")).expect("out").keep();
        fs::remove_dir(&out).expect("out");
        let mut flags = vec!["-o".to_owned(), out.display().to_string()];
        flags.extend(more.iter().map(|flag| self.fill(flag)));
        let done = self.build(&context, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        (done, out)
    }

    /// busybox with more layers and a changed config; the flag that makes `FROM hostile` mean it.
    fn hostile(&self, layers: &[Vec<u8>], config: impl Fn(&mut Value)) -> [String; 2] {
        let dir = tempfile::Builder::new().prefix("base-").tempdir_in(self.lab.path()).expect("base").keep();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        on_busybox(&dir, layers, config);
        ["--build-context".to_owned(), format!("hostile=oci-layout://{}", dir.display())]
    }

    /// Nothing outside was written, made or removed, and none of it is in `places` or was printed.
    #[track_caller]
    fn safe(&self, case: &str, done: &Done, places: &[&Path]) {
        assert!(tree(&self.outside) == self.before, "{case}: the outside changed\n{}", done.err);
        let printed = done.out.contains(CANARY) || done.err.contains(CANARY);
        assert!(!printed, "{case}: the outside was read\n{}{}", done.out, done.err);
        assert!(!done.err.contains("panicked") && (0..=130).contains(&done.code), "{case}: {}", done.err);
        assert_ne!(done.code, 101, "{case}");
        for place in places.iter().copied().chain([self.lab.store().as_path()]) {
            let found = holding(place, CANARY.as_bytes());
            assert!(found.is_empty(), "{case}: the outside was read into {found:?}");
        }
    }
}

/// All paths below a directory with their content and modes, sorted.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
        use std::os::unix::fs::MetadataExt as _;
        let facts = format!("{:o} {}:{} ", meta.mode(), meta.uid(), meta.gid()).into_bytes();
        if meta.is_dir() {
            found.extend(tree(&path));
            found.push((path, facts));
        } else {
            let content = fs::read(&path).unwrap_or_default();
            found.push((path, [facts, content].concat()));
        }
    }
    found.sort();
    found
}

/// Files below `place` that hold `needle`; links are not followed.
fn holding(place: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let Ok(meta) = fs::symlink_metadata(place) else { return Vec::new() };
    if meta.is_dir() {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        return entries.flat_map(|entry| holding(&entry.path(), needle)).collect();
    }
    let found = meta.is_file()
        && fs::read(place).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle));
    if found { vec![place.to_owned()] } else { Vec::new() }
}
