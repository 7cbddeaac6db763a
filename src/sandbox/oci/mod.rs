//! A sandbox whose processes are run by an OCI runtime: crun, runc, or another with their command
//! line.
//!
//! The runtime runs in PID and mount namespaces of its own, whose first process is our child. What
//! it is to mount is mounted there before it starts, by the code that [`super::Native`] uses, so it
//! only binds directories. It makes the container and starts it, and the child waits for the
//! container's end. When the child ends, or is killed, everything the runtime made is gone:
//! processes and mounts with the namespaces, its files with the scratch directory. It makes no
//! control groups.

mod bundle;
mod hand_over;
mod profile;

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cancel::Cancel;

use super::apparmor::{AppArmor, Profile, Profiles};
use super::native;
use super::prepare::{self, DEFAULT_PATH, Plan, c_path, c_string};
use super::spec::{Exit, Network, OutputSink, ProcessSpec, Sandbox, SandboxError, Stdio};

use hand_over::Words;
pub(super) use hand_over::{Call, hand_over};

/// Runtimes looked for by name, the best first.
const KNOWN: [(&str, Kind); 4] =
    [("crun", Kind::Crun), ("runc", Kind::Runc), ("youki", Kind::Youki), ("runsc", Kind::Runsc)];
/// The container's name: its state directory is its own, so it needs no other.
const ID: &str = "rbuild";

/// How a runtime is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Crun,
    /// runc, and whatever has its options.
    Runc,
    Runsc,
    Youki,
}

/// A program that runs containers from bundles, as the runtime specification of OCI defines them.
#[derive(Clone, Debug)]
pub struct OciRuntime {
    program: PathBuf,
    kind: Kind,
    permitted: u64,
    profiles: Arc<Profiles>,
}

impl OciRuntime {
    /// The runtime at a path. Its file name tells how it is called; an unknown one is called as runc.
    pub fn at(program: PathBuf) -> Self {
        let name = program.file_name().unwrap_or_default().as_bytes();
        let known = KNOWN.iter().find(|(known, _)| name.starts_with(known.as_bytes()));
        let kind = known.map_or(Kind::Runc, |(_, kind)| *kind);
        let profiles = Arc::default();
        OciRuntime { program, kind, permitted: prepare::permitted(), profiles }
    }

    /// Has processes confined by AppArmor as asked for.
    pub fn confined_by(self, asked: AppArmor) -> Self {
        OciRuntime { profiles: Arc::new(Profiles::new(asked)), ..self }
    }

    /// The runtimes with usual names in the directories of a `PATH`, the best first.
    pub fn find(path: Option<&OsStr>) -> Vec<Self> {
        KNOWN.iter().filter_map(|(name, _)| Self::named(name, path)).collect()
    }

    /// The runtime of a name in the directories of a `PATH`.
    pub fn named(name: &str, path: Option<&OsStr>) -> Option<Self> {
        let mut dirs = std::env::split_paths(path?);
        let file = dirs.find_map(|dir| Some(dir.join(name)).filter(|file| file.is_file()))?;
        Some(Self::at(file))
    }

    /// Where it lies.
    pub fn program(&self) -> &Path {
        &self.program
    }

    fn plan(&self, spec: &ProcessSpec) -> Result<Plan, SandboxError> {
        let mut plan = prepare::plan(spec, self.permitted, false, false, None)?;
        let places = Places::make(&spec.scratch)?;
        let mut config = bundle::config(spec, &plan, &places, self.permitted)?;
        if let Some(profile) = self.profiles.of(spec)?.filter(Profile::is_certain) {
            config["process"]["apparmorProfile"] = profile.name.into();
        }
        let text = serde_json::to_vec(&config)
            .map_err(|error| SandboxError::Invalid(format!("the bundle cannot be written: {error}")))?;
        places.write("config.json", &text)?;
        let targets = places.make_points(&plan)?;
        let mut create = vec!["create".into(), "--bundle".into(), places.bundle.clone().into()];
        create.extend(["--pid-file".into(), places.pid.clone().into(), ID.into()]);
        let words = Words {
            create: self.command(spec, &places, create)?,
            start: self.command(spec, &places, vec!["start".into(), ID.into()])?,
            env: vec![c_string(&[b"PATH=", DEFAULT_PATH].concat(), "PATH")?],
        };
        // Made before the runtime runs, with the rights that it has in images; what lies in a mount
        // is left to the runtime, which makes it there.
        let mounted = spec.mounts.iter().any(|mount| is_inside(&spec.cwd, &mount.target));
        let cwd = spec.cwd.strip_prefix(b"/").filter(|cwd| !cwd.is_empty() && !mounted);
        let cwd = cwd.map(|cwd| c_string(cwd, "the working directory")).transpose()?;
        let points = c_path(&places.points)?;
        plan.namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
        let program = c_path(&self.program)?;
        let shares_sys = bundle::shares_sys(spec);
        plan.runtime =
            Some(Call::new(program, words, c_path(&places.pid)?, points, targets, cwd, shares_sys));
        Ok(plan)
    }

    fn command(
        &self,
        spec: &ProcessSpec,
        places: &Places,
        order: Vec<OsString>,
    ) -> Result<Vec<CString>, SandboxError> {
        let mut all: Vec<OsString> = vec![self.program.clone().into()];
        all.extend(["--root".into(), places.state.clone().into()]);
        all.extend(["--log".into(), places.log.clone().into()]);
        all.extend(["--log-format".into(), "json".into()]);
        let more: &[&str] = match self.kind {
            // Limits are set by the group in which the runtime itself runs.
            Kind::Crun => &["--cgroup-manager=disabled"],
            // Errors about control groups, which it cannot write, are none.
            Kind::Runc => &["--rootless=true"],
            Kind::Youki => &[],
            Kind::Runsc if matches!(spec.network, Network::None) => {
                &["--ignore-cgroups", "--overlay2=none", "--oci-seccomp", "--network=none"]
            }
            Kind::Runsc => &["--ignore-cgroups", "--overlay2=none", "--oci-seccomp", "--network=host"],
        };
        all.extend(more.iter().map(OsString::from));
        all.into_iter().chain(order).map(|word| c_string(word.as_bytes(), "a path")).collect()
    }

    /// Puts what the runtime says in its log in place of numbers.
    fn judge(&self, ended: Result<Exit, SandboxError>, log: &Path) -> Result<Exit, SandboxError> {
        if !matches!(ended, Ok(Exit::Code(1..)) | Err(SandboxError::Runtime { .. })) {
            return ended;
        }
        let said = last_error(&fs::read_to_string(log).unwrap_or_default());
        match (ended, said) {
            (Ok(exit), said) => said.and_then(|text| exec_error(&text)).map_or(Ok(exit), Err),
            (Err(SandboxError::Runtime { message, .. }), said) => {
                let message = said.unwrap_or(message);
                let runtime = self.program.display().to_string();
                Err(exec_error(&message).unwrap_or(SandboxError::Runtime { runtime, message }))
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl Sandbox for OciRuntime {
    fn run(
        &self,
        spec: &ProcessSpec,
        output: &dyn OutputSink,
        cancel: &Cancel,
    ) -> Result<Exit, SandboxError> {
        if spec.stdio == Stdio::Terminal {
            return Err(SandboxError::Invalid("an OCI runtime gets no terminal".into()));
        }
        let plan = self.plan(spec)?;
        let ended = native::execute(spec, &plan, output, cancel);
        self.judge(ended, &Places::of(&spec.scratch).log)
    }

    fn describe(&self) -> String {
        format!("{} (OCI runtime)", self.program.display())
    }
}

/// What lies where in the scratch directory.
struct Places {
    bundle: PathBuf,
    /// The runtime's own files.
    state: PathBuf,
    log: PathBuf,
    pid: PathBuf,
    /// Where mounts are made before the runtime binds them.
    points: PathBuf,
}

impl Places {
    fn of(scratch: &Path) -> Self {
        let bundle = scratch.join("oci");
        Places {
            state: bundle.join("state"),
            log: bundle.join("log.json"),
            pid: bundle.join("pid"),
            points: bundle.join("points"),
            bundle,
        }
    }

    fn make(scratch: &Path) -> Result<Self, SandboxError> {
        let places = Self::of(scratch);
        for dir in [
            &places.bundle,
            &places.state,
            &places.points,
            &places.points.join("dev"),
            &places.points.join("sys"),
        ] {
            fs::create_dir(dir)
                .map_err(|error| SandboxError::setup(format!("create {}", dir.display()), error))?;
        }
        Ok(places)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), SandboxError> {
        let path = self.bundle.join(name);
        fs::write(&path, content)
            .map_err(|error| SandboxError::setup(format!("write {}", path.display()), error))
    }

    /// Where the mount of this number is made.
    fn point(&self, number: usize) -> PathBuf {
        self.points.join(number.to_string())
    }

    fn make_points(&self, plan: &Plan) -> Result<Vec<CString>, SandboxError> {
        let mut names = Vec::new();
        for (number, (_, is_dir, _)) in plan.mounts.iter().enumerate() {
            let point = self.point(number);
            let made = if *is_dir { fs::create_dir(&point) } else { fs::write(&point, b"") };
            made.map_err(|error| SandboxError::setup("create mount points", error))?;
            names.push(c_string(number.to_string().as_bytes(), "a name")?);
        }
        Ok(names)
    }
}

fn is_inside(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The last complaint in a log of JSON lines. A program that ends badly is none of the runtime's.
fn last_error(log: &str) -> Option<String> {
    let message = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let level = entry["level"].as_str()?.to_ascii_lowercase();
        let text = entry["msg"].as_str().or_else(|| entry.pointer("/fields/message")?.as_str())?;
        matches!(level.as_str(), "error" | "fatal").then(|| text.trim().to_owned())
    };
    log.lines().rev().find_map(message)
}

/// A program that is not there or cannot be executed is the step's mistake, not the runtime's.
fn exec_error(message: &str) -> Option<SandboxError> {
    let text = message.to_ascii_lowercase();
    let about_program = ["executable", "exec ", "exec:"].iter().any(|word| text.contains(word));
    let kind = if !about_program {
        return None;
    } else if text.contains("not found") || text.contains("no such file") {
        libc::ENOENT
    } else if text.contains("permission denied") {
        libc::EACCES
    } else if text.contains("exec format") {
        libc::ENOEXEC
    } else {
        return None;
    };
    Some(SandboxError::Exec { source: io::Error::from_raw_os_error(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_known_by_their_names() {
        let kind = |path: &str| OciRuntime::at(path.into()).kind;
        assert_eq!(kind("/opt/crun-1.20"), Kind::Crun);
        assert_eq!(kind("/usr/bin/runc"), Kind::Runc);
        assert_eq!(kind("/usr/bin/runsc"), Kind::Runsc);
        assert_eq!(kind("/opt/mine"), Kind::Runc);
    }

    #[test]
    fn complaints_are_told_from_other_entries() {
        assert_eq!(last_error("not JSON\n{\"level\":\"warning\",\"msg\":\"w\"}\n"), None);
        let log = "{\"msg\":\"first\",\"level\":\"error\"}\n{\"msg\":\"later \",\"level\":\"error\"}\n\
                   {\"level\":\"info\",\"msg\":\"i\"}\n";
        assert_eq!(last_error(log).as_deref(), Some("later"));
        let nested = "{\"level\":\"ERROR\",\"fields\":{\"message\":\"deep\"}}";
        assert_eq!(last_error(nested).as_deref(), Some("deep"));
    }

    #[test]
    fn programs_that_cannot_be_executed_are_the_steps_mistake() {
        let number = |text: &str| match exec_error(text) {
            Some(SandboxError::Exec { source }) => source.raw_os_error(),
            _ => None,
        };
        assert_eq!(number("executable file `x` not found in $PATH: No such file"), Some(libc::ENOENT));
        assert_eq!(number("exec: \"/x\": permission denied: unknown"), Some(libc::EACCES));
        assert_eq!(number("mount `proc` to `/proc`: Operation not permitted"), None);
    }

    #[test]
    fn directories_are_inside_themselves_and_not_inside_namesakes() {
        assert!(is_inside(b"/a/b", b"/a") && is_inside(b"/a", b"/a"));
        assert!(!is_inside(b"/ab", b"/a"));
    }
}
