//! AppArmor for steps: which profile, and how a process takes it on.
//!
//! What the machine has is read from files below `/sys`, once and only when a step is executed; what follows
//! from it is decided by [`decide`].

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::fs::open_resolved_c;

use super::spec::{CONFINEMENT_STAGE, ProcessSpec, SandboxError, Security};

/// The profile that steps run under where it is loaded.
const DEFAULT: &str = "rbuild-default";
/// Its text, for `apparmor_parser`.
pub const PROFILE: &str = include_str!("rbuild-default.apparmor");
/// The file system type of /proc (linux/magic.h).
const PROC_MAGIC: i64 = 0x9fa0;

/// What the caller wants of AppArmor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// rbuild's profile where it is loaded.
    #[default]
    Default,
    /// No profile; a process keeps what rbuild itself runs under.
    Unconfined,
    /// This profile, or an error.
    Profile(String),
}

impl AppArmor {
    /// Checks that a profile that was asked for is there, as far as this user can see.
    pub fn check(&self) -> Result<(), String> {
        match self {
            AppArmor::Profile(_) => decide(self, &look(Path::new("/sys"))).map(drop),
            AppArmor::Default | AppArmor::Unconfined => Ok(()),
        }
    }
}

/// What the kernel shows of AppArmor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not compiled in, not switched on, or hidden by the surrounding container.
    Off,
    /// It is on, and has these profiles: lines of a name and a mode.
    On(String),
    /// It is on. Only root sees the profiles.
    Hidden,
}

/// Looks at the files of a `/sys`.
pub fn look(sys: &Path) -> State {
    let enabled = fs::read_to_string(sys.join("module/apparmor/parameters/enabled")).unwrap_or_default();
    let shown = sys.join("kernel/security/apparmor");
    if !enabled.starts_with('Y') || !shown.is_dir() {
        return State::Off;
    }
    fs::read_to_string(shown.join("profiles")).map_or(State::Hidden, State::On)
}

impl State {
    /// The mode of a loaded profile, such as `enforce`.
    fn mode(&self, profile: &str) -> Option<&str> {
        let State::On(profiles) = self else { return None };
        let lines = profiles.lines().filter_map(|line| line.rsplit_once(" ("));
        lines.filter(|(name, _)| *name == profile).map(|(_, mode)| mode.trim_end_matches(')')).next()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.mode(DEFAULT)) {
            (State::Off, _) => f.write_str("no AppArmor"),
            (State::Hidden, _) => {
                write!(
                    f,
                    "AppArmor; RUN is confined by {DEFAULT} if root has loaded it (only root sees that)"
                )
            }
            (State::On(_), Some(mode)) => write!(f, "AppArmor; RUN is confined by {DEFAULT} ({mode})"),
            (State::On(_), None) => write!(
                f,
                "AppArmor; {DEFAULT} is not loaded. Install it with: rbuild info --apparmor-profile \
                 | sudo tee /etc/apparmor.d/{DEFAULT} | sudo apparmor_parser -r"
            ),
        }
    }
}

/// A profile to take on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Its name.
    pub name: String,
    /// What is written to the kernel.
    order: CString,
    /// Whether the caller named it. Otherwise a kernel that does not know it is no error.
    is_asked: bool,
    /// Whether it was seen to be loaded.
    is_loaded: bool,
}

impl Profile {
    fn new(name: &str, is_asked: bool, state: &State) -> Result<Self, String> {
        let order = CString::new(format!("exec {name}"))
            .map_err(|_| format!("the AppArmor profile {name:?} contains a NUL byte"))?;
        let is_loaded = state.mode(name).is_some();
        Ok(Profile { name: name.to_owned(), order, is_asked, is_loaded })
    }

    /// Whether a runtime, which fails where the kernel does not know it, may be given it.
    pub(super) fn is_certain(&self) -> bool {
        self.is_asked || self.is_loaded
    }
}

/// The profile of a step, or the reason why there is none that was asked for.
fn decide(asked: &AppArmor, state: &State) -> Result<Option<Profile>, String> {
    match (asked, state) {
        (AppArmor::Unconfined, _) | (AppArmor::Default, State::Off) => Ok(None),
        (AppArmor::Default, State::On(_)) if state.mode(DEFAULT).is_none() => Ok(None),
        (AppArmor::Default, _) => Profile::new(DEFAULT, false, state).map(Some),
        (AppArmor::Profile(name), State::Off) => {
            Err(format!("the AppArmor profile {name} cannot be used: AppArmor is not enabled here"))
        }
        (AppArmor::Profile(name), State::On(_)) if state.mode(name).is_none() => Err(format!(
            "the AppArmor profile {name} is not loaded; load it with apparmor_parser, or use \
             --security-opt apparmor=unconfined"
        )),
        (AppArmor::Profile(name), _) => Profile::new(name, true, state).map(Some),
    }
}

/// The profile of all steps of a build, looked up when the first is executed.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    asked: AppArmor,
    decided: OnceLock<Result<Option<Profile>, String>>,
}

impl Profiles {
    pub(super) fn new(asked: AppArmor) -> Self {
        Profiles { asked, decided: OnceLock::new() }
    }

    pub(super) fn of(&self, spec: &ProcessSpec) -> Result<Option<Profile>, SandboxError> {
        if spec.security == Security::Insecure {
            return Ok(None);
        }
        let decided = self.decided.get_or_init(|| decide(&self.asked, &look(Path::new("/sys"))));
        decided.clone().map_err(SandboxError::Invalid)
    }
}

/// The process's own /proc, to be opened before anything can be mounted over it.
pub(super) fn open_proc(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let proc = super::mounts::open_inside(root, c"proc")?;
    // A file system that an image could fill would take the order and do nothing (CVE-2019-16884).
    if rustix::fs::fstatfs(&proc)?.f_type == PROC_MAGIC { Ok(proc) } else { Err(Errno::NOTSUP) }
}

/// Has the kernel put the next program that this thread executes under a profile. `proc` is a /proc.
/// Neither allocates, locks nor unwinds.
pub(super) fn confine_next_program(proc: BorrowedFd<'_>, profile: &Profile) -> Result<(), Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let open = |path| open_resolved_c(proc, path, OFlags::WRONLY, Mode::empty(), resolve);
    let written = match open(c"thread-self/attr/apparmor/exec") {
        // Before Linux 5.8 there is one file for all security modules.
        Err(Errno::NOENT) => open(c"thread-self/attr/exec"),
        opened => opened,
    }
    .and_then(|file| rustix::io::write(&file, profile.order.to_bytes()));
    match written {
        // Not loaded, or not for rbuild to choose: whatever rbuild itself runs under stays.
        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) if !profile.is_asked => Ok(()),
        written => written.map(drop),
    }
}

/// Adds the profile's name to an error about it.
pub(super) fn explain(error: SandboxError, profile: Option<&Profile>) -> SandboxError {
    match (error, profile) {
        (SandboxError::Setup { stage, source, .. }, Some(profile)) if stage == CONFINEMENT_STAGE => {
            SandboxError::Setup {
                stage: format!("{stage} {}", profile.name),
                source,
                hint: "; check that it is loaded, or use --security-opt apparmor=unconfined".into(),
            }
        }
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn on(profiles: &str) -> State {
        State::On(profiles.to_owned())
    }

    fn decided(asked: &AppArmor, state: &State) -> Result<Option<String>, String> {
        decide(asked, state).map(|profile| profile.map(|profile| profile.name))
    }

    #[test]
    fn the_default_profile_is_used_where_it_is_loaded() {
        let loaded = on("docker-default (enforce)\nrbuild-default (complain)\n");
        let cases = [
            (State::Off, None),
            (on(""), None),
            (on("rbuild-default-2 (enforce)\nx//rbuild-default (enforce)\n"), None),
            (loaded.clone(), Some("rbuild-default")),
            (State::Hidden, Some("rbuild-default")),
        ];
        for (state, expected) in cases {
            assert_eq!(decided(&AppArmor::Default, &state), Ok(expected.map(str::to_owned)), "{state:?}");
            assert_eq!(decided(&AppArmor::Unconfined, &state), Ok(None), "{state:?}");
        }
        assert!(loaded.to_string().contains("rbuild-default (complain)"));
        assert!(on("").to_string().contains("apparmor_parser"));
    }

    #[test]
    fn a_profile_that_was_asked_for_is_used_or_an_error_that_names_it() {
        let asked = AppArmor::Profile("my profile".into());
        let loaded = on("my profile (enforce)\n");
        assert_eq!(decided(&asked, &loaded), Ok(Some("my profile".into())));
        // The kernel will say whether it is there.
        assert_eq!(decided(&asked, &State::Hidden), Ok(Some("my profile".into())));
        for state in [State::Off, on("other (enforce)\n")] {
            assert!(decided(&asked, &state).is_err_and(|error| error.contains("my profile")), "{state:?}");
        }
        assert!(decided(&AppArmor::Profile("a\0".into()), &State::Hidden).is_err());
    }

    #[test]
    fn the_state_is_read_from_sys() -> Outcome {
        let sys = tempfile::tempdir()?;
        assert_eq!(look(sys.path()), State::Off);
        let parameters = sys.path().join("module/apparmor/parameters");
        let shown = sys.path().join("kernel/security/apparmor");
        fs::create_dir_all(&parameters)?;
        fs::write(parameters.join("enabled"), "Y\n")?;
        // As in a container, which sees the module and not its files.
        assert_eq!(look(sys.path()), State::Off);
        fs::create_dir_all(&shown)?;
        assert_eq!(look(sys.path()), State::Hidden);
        fs::write(shown.join("profiles"), "rbuild-default (enforce)\n")?;
        assert_eq!(look(sys.path()), on("rbuild-default (enforce)\n"));
        fs::write(parameters.join("enabled"), "N\n")?;
        assert_eq!(look(sys.path()), State::Off);
        Ok(())
    }

    #[test]
    fn the_order_goes_to_the_files_of_the_calling_thread() -> Outcome {
        let proc = tempfile::tempdir()?;
        let attributes = proc.path().join("thread-self/attr");
        let dir = fs::File::open(proc.path())?;
        let order = |is_asked| {
            let profile = Profile::new("p", is_asked, &State::Hidden)?;
            confine_next_program(dir.as_fd(), &profile).map_err(|errno| errno.to_string())
        };
        assert_eq!(order(false), Ok(()));
        assert!(order(true).is_err());
        fs::create_dir_all(attributes.join("apparmor"))?;
        fs::write(attributes.join("exec"), "")?;
        order(true)?;
        assert_eq!(fs::read_to_string(attributes.join("exec"))?, "exec p");
        fs::write(attributes.join("apparmor/exec"), "")?;
        fs::write(attributes.join("exec"), "")?;
        order(true)?;
        assert_eq!(fs::read_to_string(attributes.join("apparmor/exec"))?, "exec p");
        assert_eq!(fs::read_to_string(attributes.join("exec"))?, "");
        // A link that leads elsewhere is no attribute.
        fs::remove_file(attributes.join("apparmor/exec"))?;
        std::os::unix::fs::symlink("/dev/null", attributes.join("apparmor/exec"))?;
        assert!(order(true).is_err());
        Ok(())
    }

    #[test]
    fn an_error_about_a_profile_names_it() -> Outcome {
        let failed = |stage: &str| SandboxError::setup(stage, Errno::NOENT);
        let profile = Profile::new("mine", true, &State::Hidden)?;
        assert!(explain(failed(CONFINEMENT_STAGE), Some(&profile)).to_string().contains("mine"));
        assert!(!explain(failed("other"), Some(&profile)).to_string().contains("mine"));
        Ok(())
    }

    #[test]
    fn a_directory_of_an_image_is_not_taken_for_proc() -> Outcome {
        let root = tempfile::tempdir()?;
        fs::create_dir(root.path().join("proc"))?;
        let dir = fs::File::open(root.path())?;
        assert!(matches!(open_proc(dir.as_fd()), Err(Errno::NOTSUP)));
        let machine = fs::File::open("/")?;
        assert!(open_proc(machine.as_fd()).is_ok());
        Ok(())
    }
}
