//! `--isolation`, `--runtime` and `--security-opt`: what RUN is executed by, and what confines it.
//!
//! Without a choice it is the best that this machine allows, found out before the first step of all.

use std::path::Path;

use crate::build::{Failure, FailureKind};
use crate::sandbox::userns::IdMode;
use crate::sandbox::{AppArmor, Chroot, OciRuntime};

use super::args::Userns;
use super::environment::Environment;

/// What RUN is to be executed by.
#[derive(Debug, Default)]
pub(super) enum Isolation {
    /// The best there is.
    #[default]
    Auto,
    /// rbuild's own sandbox, with namespaces.
    Native,
    /// chroot(2), without namespaces.
    Chroot,
    /// An OCI runtime.
    Oci(OciRuntime),
}

/// The isolation and the OCI runtime asked for.
pub(super) fn choice(
    isolation: Option<&str>,
    name: Option<&str>,
    env: &Environment,
) -> Result<Isolation, Failure> {
    match isolation.or(env.isolation.as_deref()).unwrap_or_default() {
        "oci" => find(name.or(env.oci_runtime.as_deref()), env).map(Isolation::Oci),
        "auto" | "default" | "rootless" | "native" | "chroot" | "" if name.is_some() => {
            Err(usage("--runtime needs --isolation=oci"))
        }
        "auto" | "default" | "" => Ok(Isolation::Auto),
        "rootless" | "native" => Ok(Isolation::Native),
        "chroot" => Ok(Isolation::Chroot),
        other @ ("hyperv" | "process") => {
            let text = format!("--isolation={other} is not supported");
            Err(Failure::new(FailureKind::Unsupported, text).help("use auto, native, chroot or oci"))
        }
        other => Err(usage(&format!("invalid isolation {other:?}; it is auto, native, chroot or oci"))),
    }
}

/// Whether chroot is asked for: then nobody needs a user namespace.
pub(super) fn is_chroot(isolation: Option<&str>, env: &Environment) -> bool {
    isolation.or(env.isolation.as_deref()) == Some("chroot")
}

/// What executes RUN.
#[derive(Debug, Default)]
pub(super) struct Rung {
    pub runtime: Option<OciRuntime>,
    pub chroot: bool,
    /// Nothing does, and why.
    pub none: Option<String>,
}

/// The rung of the ladder that RUN is executed on. `no_namespaces` is why there can be none; `mode` is what this
/// process can do about owners.
pub(super) fn rung(wanted: Isolation, no_namespaces: Option<&str>, mode: IdMode) -> Result<Rung, Failure> {
    let impossible = |name: &str, why: &str| {
        let text = format!("--isolation={name} is not possible here: {why}");
        Failure::new(FailureKind::Sandbox, text)
            .help("`rbuild info` shows what is, and what would allow more")
    };
    match (wanted, no_namespaces) {
        (Isolation::Oci(runtime), None) => Ok(Rung { runtime: Some(runtime), ..Rung::default() }),
        (Isolation::Oci(runtime), Some(why)) => {
            Ok(Rung { runtime: Some(runtime), none: Some(why.to_owned()), ..Rung::default() })
        }
        (Isolation::Chroot, _) => match possible(mode) {
            Ok(()) => Ok(Rung { chroot: true, ..Rung::default() }),
            Err(why) => Err(impossible("chroot", &why)),
        },
        (Isolation::Native, Some(why)) => Err(impossible("native", why)),
        (Isolation::Auto | Isolation::Native, None) => Ok(Rung::default()),
        (Isolation::Auto, Some(why)) => match possible(mode) {
            Ok(()) => Ok(Rung { chroot: true, ..Rung::default() }),
            Err(_) => Ok(Rung { none: Some(why.to_owned()), ..Rung::default() }),
        },
    }
}

/// Flags that need what chroot has not.
pub(super) fn check_chroot(userns: Userns, apparmor: &AppArmor) -> Result<(), Failure> {
    let flag = match (userns, apparmor) {
        (Userns::Private, _) => "--userns=private",
        (_, AppArmor::Profile(_)) => "--security-opt apparmor=PROFILE",
        _ => return Ok(()),
    };
    let text = format!("{flag} is not supported where RUN is executed by chroot");
    Err(Failure::new(FailureKind::Unsupported, text).help("build without it"))
}

fn possible(mode: IdMode) -> Result<(), String> {
    match mode {
        IdMode::SingleId => Err("files cannot be given the owners that images name; only root can".into()),
        IdMode::Root | IdMode::SubIds => Chroot::possible(),
    }
}

fn find(name: Option<&str>, env: &Environment) -> Result<OciRuntime, Failure> {
    let missing = |text: String| {
        Err(Failure::new(FailureKind::Sandbox, text)
            .help("install crun or runc, name another with --runtime, or build without --isolation=oci"))
    };
    let path = env.path.as_deref();
    match name {
        Some(name) if name.contains('/') => match std::path::absolute(name) {
            Ok(file) if Path::is_file(&file) => Ok(OciRuntime::at(file)),
            _ => missing(format!("there is no OCI runtime {name}")),
        },
        Some(name) => match OciRuntime::named(name, path) {
            Some(runtime) => Ok(runtime),
            None => missing(format!("the OCI runtime {name} is not in PATH")),
        },
        None => match OciRuntime::find(path).into_iter().next() {
            Some(runtime) => Ok(runtime),
            None => missing("no OCI runtime is in PATH: neither crun, runc, youki nor runsc".into()),
        },
    }
}

/// `--security-opt`, as Docker spells it. The last word about AppArmor counts.
pub(super) fn apparmor(options: &[String]) -> Result<AppArmor, Failure> {
    let mut apparmor = AppArmor::default();
    for option in options {
        // Docker still takes the colon of its first versions.
        let (name, value) = option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, ""));
        apparmor = match (name, value) {
            ("apparmor", "") => return Err(usage(&format!("--security-opt {option} needs a profile"))),
            ("apparmor", "unconfined") => AppArmor::Unconfined,
            ("apparmor", profile) => AppArmor::Profile(profile.to_owned()),
            // No labels are set.
            ("label", "disable") => apparmor,
            ("label", _) => return Err(unsupported(option, "RUN keeps the SELinux label of rbuild")),
            ("seccomp" | "systempaths", _) => {
                let help =
                    "RUN --security=insecure with --allow security.insecure has no filter and hides nothing";
                return Err(unsupported(option, help));
            }
            _ => {
                return Err(unsupported(
                    option,
                    "apparmor=PROFILE, apparmor=unconfined and label=disable are",
                ));
            }
        };
    }
    Ok(apparmor)
}

fn unsupported(option: &str, help: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, format!("--security-opt {option} is not supported")).help(help)
}

fn usage(text: &str) -> Failure {
    Failure::new(FailureKind::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(isolation: &str, name: Option<&str>, env: &Environment) -> String {
        match choice(Some(isolation), name, env) {
            Ok(Isolation::Oci(runtime)) => format!("{:?}", runtime.program()),
            Ok(other) => format!("{other:?}"),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn types_are_taken_or_refused_by_name() {
        let env = Environment::default();
        let own = [("auto", "Auto"), ("default", "Auto"), ("rootless", "Native"), ("native", "Native")];
        for (own, meant) in own.into_iter().chain([("chroot", "Chroot")]) {
            assert_eq!(message(own, None, &env), meant);
            assert!(message(own, Some("crun"), &env).contains("needs --isolation=oci"));
        }
        for other in ["hyperv", "process", "odd"] {
            assert!(message(other, None, &env).contains(other));
        }
        assert!(message("oci", Some("nothing"), &env).contains("nothing is not in PATH"));
        assert!(message("oci", Some("/no/thing"), &env).contains("/no/thing"));
    }

    #[test]
    fn a_choice_that_is_not_possible_is_an_error_and_no_choice_is_not() {
        let why = Some("there are no namespaces");
        let error = rung(Isolation::Native, why, IdMode::SingleId).err().map(|failure| failure.message);
        assert!(error.is_some_and(|text| text.contains("=native") && text.contains("no namespaces")));
        let error = rung(Isolation::Chroot, None, IdMode::SingleId).err().map(|failure| failure.message);
        assert!(error.is_some_and(|text| text.contains("=chroot") && text.contains("owners")));
        let found = rung(Isolation::Auto, why, IdMode::SingleId).expect("an answer");
        assert!(!found.chroot && found.none.as_deref() == why);
        assert!(rung(Isolation::Auto, None, IdMode::SingleId).is_ok_and(|found| found.none.is_none()));
    }

    #[test]
    fn security_options_are_taken_or_refused_by_name() {
        let parse = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            apparmor(&options).map_err(|failure| failure.message)
        };
        assert_eq!(parse(&[]), Ok(AppArmor::Default));
        assert_eq!(parse(&["label=disable"]), Ok(AppArmor::Default));
        assert_eq!(parse(&["apparmor=a", "apparmor=unconfined"]), Ok(AppArmor::Unconfined));
        for one in ["apparmor=docker-default", "apparmor:docker-default"] {
            assert_eq!(parse(&[one, "label=disable"]), Ok(AppArmor::Profile("docker-default".into())));
        }
        let others = [
            "apparmor",
            "apparmor=",
            "label",
            "label=type:x_t",
            "label=level:s0:c1,c2",
            "label=user:u",
            "seccomp=unconfined",
            "no-new-privileges",
            "x",
            "",
        ];
        for other in others {
            assert!(parse(&[other]).is_err_and(|error| error.contains(other)), "{other}");
        }
    }

    #[test]
    fn the_first_runtime_in_the_path_is_taken() {
        let dir = tempfile::tempdir().expect("directory");
        let mut env = Environment::default();
        env.path = Some(dir.path().into());
        assert!(message("oci", None, &env).contains("no OCI runtime"));
        for name in ["runc", "crun"] {
            std::fs::write(dir.path().join(name), "").expect("write");
        }
        assert!(message("oci", None, &env).contains("/crun"));
        assert!(message("oci", Some("runc"), &env).contains("/runc"));
        (env.oci_runtime, env.isolation) = (Some("runc".into()), Some("oci".into()));
        let Isolation::Oci(found) = choice(None, None, &env).expect("runtime") else { panic!("another one") };
        assert!(found.program().ends_with("runc"));
    }
}
