//! Builds that tests repeat while something harms them, and what must hold afterwards.

#![allow(dead_code, missing_docs, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{self, Done, Lab};

/// Steps of a linear congruential generator (Knuth's constants); good enough to pick moments.
pub struct Random(pub u64);

impl Random {
    pub fn seeded() -> Self {
        let seed = std::env::var("RBUILD_CRASH_SEED").ok().and_then(|text| text.parse().ok());
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
        let seed = seed.unwrap_or(now);
        println!("RBUILD_CRASH_SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// A build that is repeated: what is built, and with which flags besides.
pub struct Case {
    pub name: &'static str,
    pub context: PathBuf,
    pub output: Option<&'static str>,
    pub flags: &'static [&'static str],
    /// What [`digest`] says of the right result, and how long the build takes in an empty store.
    pub digest: String,
    pub takes: Duration,
}

/// Name, Dockerfile, output up to the place where it goes, more flags.
pub type Row = (&'static str, &'static str, Option<&'static str>, &'static [&'static str]);

/// Builds every row in an empty store, on a context of some sixty files.
pub fn cases(lab: &Lab, rows: &[Row]) -> Vec<Case> {
    let files: Vec<(String, String)> =
        (0..60).map(|n| (format!("src/d{}/f{n}", n % 7), format!("{n}\n").repeat(200 * (n + 1)))).collect();
    let mut tree: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut cases = Vec::new();
    for (name, dockerfile, output, flags) in rows.iter().copied() {
        tree.push(("Dockerfile", dockerfile));
        let context = lab.context(&tree);
        tree.pop();
        support::tool("chmod", &["-R".as_ref(), "u=rwX,go=rX".as_ref(), context.as_os_str()]);
        let mut case = Case { name, context, output, flags, digest: String::new(), takes: Duration::ZERO };
        let clean = lab.out("clean-store");
        let begun = Instant::now();
        let done = support::done(command(lab, &case, &clean, 0).output().expect("rbuild"));
        assert!(done.code == 0, "{name}: {}", done.err);
        case.takes = begun.elapsed();
        case.digest = digest(lab, &case, 0);
        fs::remove_dir_all(&clean).expect("the clean store goes");
        cases.push(case);
    }
    cases
}

pub fn command(lab: &Lab, case: &Case, store: &Path, number: usize) -> Command {
    let mut command = lab.rbuild();
    command.env("RBUILD_ROOT", store).env("SOURCE_DATE_EPOCH", "1700000000");
    command.args(["build", "--progress=plain"]).args(lab.bases()).args(case.flags);
    command.arg("--metadata-file").arg(metadata(lab, number));
    if let Some(output) = case.output {
        command.arg("-o").arg(format!("{output}{}", lab.out(&format!("{}-{number}", case.name)).display()));
    }
    command.arg(&case.context);
    command
}

pub fn metadata(lab: &Lab, number: usize) -> PathBuf {
    lab.out(&format!("metadata-{number}"))
}

/// The digest of the manifest, without an output the image's ID; of a build that makes no image, the digest of
/// its files.
pub fn digest(lab: &Lab, case: &Case, number: usize) -> String {
    let text = fs::read_to_string(metadata(lab, number)).expect("metadata");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // Without an output the manifest is known only where all layers are compressed already.
    let known = case.output.map_or("containerimage.config.digest", |_| "containerimage.digest");
    if let Some(digest) = json[known].as_str() {
        return digest.to_owned();
    }
    let files = lab.out(&format!("{}-{number}", case.name));
    let sums = "cd \"$1\" && find . -type f -exec sha256sum {} + | sort | sha256sum";
    support::tool("sh", &["-ec".as_ref(), sums.as_ref(), "sh".as_ref(), files.as_os_str()]).out
}

pub fn fsck(lab: &Lab) -> Done {
    lab.run(["fsck"])
}

/// Whatever a process of the past may have left. Its children may need a moment to die.
pub fn leftovers(lab: &Lab) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let names = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(lab.store().join(dir)).into_iter().flatten().flatten();
            entries.map(|entry| format!("{dir}/{}", entry.file_name().to_string_lossy())).collect()
        };
        let mut left = names("tmp");
        left.extend(names("stat").into_iter().filter(|name| name.len() != "stat/".len() + 64));
        left.extend(names("").into_iter().filter(|name| name.starts_with("/version.")));
        if left.is_empty() || begun.elapsed() > Duration::from_secs(60) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
        lab.run(["images"]);
    }
}

/// Unpacked layers that no chain leads to.
pub fn unreachable_snapshots(lab: &Lab) -> Vec<String> {
    let chains = lab.store().join("chains");
    let files = fs::read_dir(chains).into_iter().flatten().flatten();
    let known: Vec<String> = files
        .flat_map(|dir| fs::read_dir(dir.path()).into_iter().flatten().flatten())
        .filter_map(|file| fs::read_to_string(file.path()).ok())
        .collect();
    let snapshots = fs::read_dir(lab.store().join("snapshots")).into_iter().flatten().flatten();
    snapshots
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|id| !known.contains(id))
        .collect()
}

/// A file system of its own for a lab's store; unmounted when dropped.
pub struct Small(pub PathBuf);

impl Small {
    pub fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).expect("mkdir");
        let options = format!("size={size},mode=755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "rbuild-test"]).arg(path);
        mount.output().is_ok_and(|done| done.status.success()).then(|| Small(path.to_owned()))
    }

    pub fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("mount");
        assert!(grown.success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
