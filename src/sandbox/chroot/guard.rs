//! What keeps the processes of a step away from everything else, where no namespace does.
//!
//! Two layers of Landlock rules: the first, with the files that may be touched, is that of the thread that starts a
//! step, and of the step's init. The second one, of the step's program, adds that no process outside can be
//! signalled or traced, the init included, and no abstract socket outside reached.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _,
    Scope,
};

use super::super::confine::{landlock_abi, rules};
use super::super::spec::SandboxError;

const NEWEST: ABI = ABI::V7;
/// The first version that can keep signals inside.
const SIGNALS: u32 = 6;

/// Device nodes of the container that a step may open: what is behind `/dev/tty` and the terminals that it makes.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// The rules for one step.
#[derive(Debug)]
pub(in crate::sandbox) struct Guard {
    abi: Option<u32>,
    root: PathBuf,
}

impl Guard {
    pub(super) fn for_root(root: &Path) -> Self {
        Guard { abi: landlock_abi(), root: root.to_owned() }
    }

    /// Whether the content of files outside the root is out of reach whatever a process does.
    pub(super) fn confines_files(&self) -> bool {
        self.abi.is_some()
    }

    pub(super) fn describe(&self) -> &'static str {
        match self.abi {
            Some(abi) if abi >= SIGNALS => "Landlock",
            Some(_) => "Landlock without signals",
            None => "no Landlock",
        }
    }

    /// Limits this thread, and what it starts, for good.
    pub(super) fn confine_thread(&self) -> Result<(), SandboxError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            SandboxError::setup("confine the step", std::io::Error::other(error))
        };
        // Filters of system calls need it too, without CAP_SYS_ADMIN.
        rustix::thread::set_no_new_privs(true)
            .map_err(|errno| SandboxError::setup("give up new privileges", errno))?;
        if self.abi.is_none() {
            return Ok(());
        }
        let ruleset = self.ruleset(false).map_err(failed)?;
        ruleset.restrict_self().map(drop).map_err(|error| failed(error.into()))
    }

    /// The second layer, for the child to take on.
    pub(super) fn inner_rules(&self) -> Result<Option<OwnedFd>, SandboxError> {
        if self.abi.is_none() {
            return Ok(None);
        }
        let failed = |error| SandboxError::setup("confine the step", std::io::Error::other(error));
        Ok(self.ruleset(true).map_err(failed)?.into())
    }

    fn ruleset(&self, scoped: bool) -> Result<RulesetCreated, Box<dyn std::error::Error + Send + Sync>> {
        let all = AccessFs::from_all(NEWEST);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let write: BitFlags<AccessFs> = AccessFs::WriteFile | AccessFs::Truncate;
        let mut ruleset = Ruleset::default().handle_access(all)?;
        if scoped {
            ruleset = ruleset.scope(Scope::from_all(NEWEST))?;
        }
        let devices: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
        let ruleset = ruleset
            .create()?
            .add_rules(rules(std::slice::from_ref(&self.root), all))?
            .add_rules(rules(&["/proc".into()], read | write))?
            .add_rules(rules(&["/sys".into()], read))?
            .add_rules(rules(&devices, read | write | AccessFs::IoctlDev))?;
        Ok(ruleset)
    }
}
