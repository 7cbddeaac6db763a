//! The ways in which rbuild executes RUN.

use std::path::PathBuf;

use crate::context::Context;
use crate::dockerfile::Kinds;
use crate::overlay::Mounted;
use crate::support::{Done, Lab, Who, base, done, has, skip, user_of};

pub struct Mode {
    pub name: &'static str,
    who: Who,
    flags: &'static [&'static str],
    /// Whether the store lies on an overlay, as in a container without a volume: RUN works on copies.
    copies: bool,
}

pub const MODES: [Mode; 7] = [
    Mode { name: "root", who: Who::Caller, flags: &[], copies: false },
    Mode { name: "host", who: Who::Caller, flags: &["--userns=host"], copies: false },
    Mode { name: "copies", who: Who::Caller, flags: &[], copies: true },
    Mode { name: "sub", who: Who::Rootless, flags: &[], copies: false },
    Mode { name: "one", who: Who::SingleId, flags: &[], copies: false },
    Mode { name: "crun", who: Who::Caller, flags: &["--isolation=oci", "--runtime=crun"], copies: false },
    Mode {
        name: "sub-crun",
        who: Who::Rootless,
        flags: &["--isolation=oci", "--runtime=crun"],
        copies: false,
    },
];

impl Mode {
    /// What a sequence may contain whose image this mode can build just as BuildKit does. Copies part the names of a
    /// file and rename directories that an overlay does not; with one ID a process sees no owners, and other users write as root does; only for root
    /// does a context show root's files.
    pub fn kinds_beside_buildkit(&self) -> Kinds {
        Kinds {
            mounts_of_context: self.who == Who::Caller,
            hard_links: !self.copies,
            subtle: !self.copies && self.who != Who::SingleId,
            users: self.who != Who::SingleId,
        }
    }
}

/// A store in which `busybox` and `debian` are known, for one mode.
pub struct Builder {
    pub mode: &'static Mode,
    pub lab: Lab,
    _overlay: Option<Mounted>,
}

impl Builder {
    /// `None`, and says so, where this machine lacks what the mode needs.
    pub fn new(test: &str, mode: &'static Mode) -> Option<Self> {
        let lacks = |what: String| {
            skip(test, &what);
            None
        };
        if mode.who != Who::Caller && user_of(mode.who).is_none() {
            return lacks(format!("there is no user for {:?} (see tests/setup)", mode.who));
        }
        if mode.flags.contains(&"--runtime=crun") && !has("crun") {
            return lacks("crun is not installed".into());
        }
        let lab = Lab::as_user(mode.who);
        let overlay = if mode.copies {
            match Mounted::overlay(&lab, &lab.store()) {
                Some(overlay) => Some(overlay),
                None => return lacks("overlayfs cannot be mounted here".into()),
            }
        } else {
            None
        };
        let builder = Builder { mode, lab, _overlay: overlay };
        builder.tag_bases();
        Some(builder)
    }

    fn tag_bases(&self) {
        for name in ["busybox", "debian"].into_iter().filter(|name| base(name).is_some()) {
            let context = self.lab.context(&[("Dockerfile", &format!("FROM {name}\n"))]);
            let done = self.lab.build(&context, &["-q", "-t", name]);
            assert!(done.code == 0, "{name} cannot be tagged: {}", done.err);
        }
    }

    /// A directory with these files and this Dockerfile, which belong to the user of the mode.
    pub fn context(&self, files: &Context, dockerfile: &str) -> PathBuf {
        let dir = self.lab.context(&[]);
        let owner = user_of(self.mode.who).map_or(0, |(_, id)| id);
        files.write(&dir, owner);
        std::os::unix::fs::chown(&dir, Some(owner), Some(owner)).expect("chown");
        std::fs::write(dir.join("Dockerfile"), dockerfile).expect("Dockerfile");
        dir
    }

    /// Builds `context` into an OCI layout at `out`, which goes first.
    pub fn build(&self, context: &std::path::Path, out: &std::path::Path, more: &[&str]) -> Done {
        let _ = std::fs::remove_dir_all(out);
        let mut command = self.lab.rbuild();
        command
            .args(["build", "--progress=plain", "--pull=never", "--network=none"])
            .args(self.mode.flags)
            .args(more);
        command.arg("-o").arg(format!("type=oci,tar=false,dest={}", out.display())).arg(context);
        done(command.output().expect("rbuild starts"))
    }
}
