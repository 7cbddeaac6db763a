//! `--isolation`, `--runtime` and `--security-opt`: what RUN is executed by, and what confines it.

use std::path::Path;

use crate::build::{Failure, FailureKind};
use crate::sandbox::{AppArmor, OciRuntime};

use super::environment::Environment;

/// The OCI runtime asked for; `None` is rbuild's own sandbox.
pub(super) fn runtime(
    isolation: Option<&str>,
    name: Option<&str>,
    env: &Environment,
) -> Result<Option<OciRuntime>, Failure> {
    match isolation.or(env.isolation.as_deref()).unwrap_or("default") {
        "oci" => find(name.or(env.oci_runtime.as_deref()), env).map(Some),
        "default" | "rootless" | "native" | "" if name.is_some() => {
            Err(usage("--runtime needs --isolation=oci"))
        }
        "default" | "rootless" | "native" | "" => Ok(None),
        other @ ("chroot" | "hyperv" | "process") => {
            let text = format!("--isolation={other} is not supported");
            Err(Failure::new(FailureKind::Unsupported, text).help("use native or oci"))
        }
        other => Err(usage(&format!("invalid isolation {other:?}; it is native or oci"))),
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
        match runtime(Some(isolation), name, env) {
            Ok(runtime) => format!("{:?}", runtime.map(|runtime| runtime.program().to_owned())),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn types_are_taken_or_refused_by_name() {
        let env = Environment::default();
        for own in ["default", "rootless", "native"] {
            assert_eq!(message(own, None, &env), "None");
            assert!(message(own, Some("crun"), &env).contains("needs --isolation=oci"));
        }
        for other in ["chroot", "hyperv", "process", "odd"] {
            assert!(message(other, None, &env).contains(other));
        }
        assert!(message("oci", Some("nothing"), &env).contains("nothing is not in PATH"));
        assert!(message("oci", Some("/no/thing"), &env).contains("/no/thing"));
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
        let found = runtime(None, None, &env).expect("runtime").expect("one");
        assert!(found.program().ends_with("runc"));
    }
}
