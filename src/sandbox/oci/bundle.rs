//! The bundle's `config.json`, by the runtime specification of OCI, version 1.0.

use std::ffi::{CStr, CString};
use std::path::Path;

use serde_json::{Value, json};

use super::super::mounts::{MASKED, READ_ONLY};
use super::super::network::is_initial_user_namespace;
use super::super::prepare::{CAPABILITY_NAMES, DEFAULT_CAPABILITIES, Plan};
use super::super::spec::{MountKind, Network, ProcessSpec, SandboxError, Security};
use super::{Places, profile};

const UMASK: u32 = 0o022;

/// The whole file. `permitted` are the capabilities of this process.
pub(super) fn config(
    spec: &ProcessSpec,
    plan: &Plan,
    places: &Places,
    permitted: u64,
) -> Result<Value, SandboxError> {
    let sandboxed = spec.security == Security::Sandbox;
    let inside = |path: &CStr| format!("/{}", path.to_string_lossy());
    let mut linux = json!({ "namespaces": namespaces(&spec.network) });
    if sandboxed {
        let counters = plan.counters.iter().map(CString::as_c_str);
        let hidden: Vec<String> = MASKED.into_iter().chain(counters).map(inside).collect();
        linux["maskedPaths"] = json!(hidden);
        linux["readonlyPaths"] = json!(READ_ONLY.map(inside));
        linux["seccomp"] = profile::seccomp();
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": { "path": utf8(plan.root_point.to_bytes(), "a path")?, "readonly": false },
        "hostname": spec.hostname,
        "process": process(spec, if sandboxed { permitted & DEFAULT_CAPABILITIES } else { permitted })?,
        "mounts": mounts(spec, places)?,
        "linux": linux,
    }))
}

fn utf8(bytes: &[u8], what: &str) -> Result<String, SandboxError> {
    let text = String::from_utf8(bytes.to_vec());
    text.map_err(|_| SandboxError::Invalid(format!("{what} is not UTF-8, which OCI runtimes need")))
}

fn path_text(path: &Path) -> Result<String, SandboxError> {
    utf8(path.as_os_str().as_encoded_bytes(), "a path")
}

fn process(spec: &ProcessSpec, capabilities: u64) -> Result<Value, SandboxError> {
    let args: Vec<String> = spec.argv.iter().map(|arg| utf8(arg, "an argument")).collect::<Result<_, _>>()?;
    let pair = |(name, value): &(Vec<u8>, Vec<u8>)| utf8(&[name, &b"="[..], value].concat(), "a variable");
    let env: Vec<String> = spec.env.iter().map(pair).collect::<Result<_, _>>()?;
    let limits = spec.ulimits.iter().map(|limit| {
        json!({ "type": format!("RLIMIT_{}", limit.name.to_uppercase()), "soft": limit.soft, "hard": limit.hard })
    });
    let numbered =
        CAPABILITY_NAMES.iter().enumerate().filter(|(number, _)| capabilities & (1 << number) != 0);
    let bounding: Vec<String> = numbered.map(|(_, name)| format!("CAP_{name}")).collect();
    // Only root has them; others get at them through programs that are set to.
    let effective: &[String] = if spec.user.uid == 0 { &bounding } else { &[] };
    Ok(json!({
        "terminal": false,
        "user": {
            "uid": spec.user.uid,
            "gid": spec.user.gid,
            "umask": UMASK,
            "additionalGids": spec.user.groups,
        },
        "args": args,
        "env": env,
        "cwd": utf8(&spec.cwd, "the working directory")?,
        "capabilities": {
            "bounding": bounding,
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": limits.collect::<Vec<_>>(),
        // Programs that are set to another user work in images.
        "noNewPrivileges": false,
    }))
}

/// The network namespace, unless it is a new one, is that which the runtime starts in, and so is that
/// of IPC, which is made for it.
fn namespaces(network: &Network) -> Value {
    let mut kinds = vec!["pid", "mount", "uts", "cgroup"];
    if matches!(network, Network::None) {
        kinds.push("network");
    }
    kinds.iter().map(|kind| json!({ "type": kind })).collect()
}

/// A user namespace that does not own the network gets this machine's view.
pub(super) fn shares_sys(spec: &ProcessSpec) -> bool {
    !is_initial_user_namespace() && matches!(spec.network, Network::Host)
}

fn mounts(spec: &ProcessSpec, places: &Places) -> Result<Value, SandboxError> {
    let sys = if shares_sys(spec) {
        mount(
            "/sys",
            "bind",
            &path_text(&places.points.join("sys"))?,
            &["rbind", "nosuid", "noexec", "nodev", "ro"],
        )
    } else {
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    let dev: &[&str] = match spec.security {
        Security::Sandbox => &["rbind", "nosuid", "nodev"],
        Security::Insecure => &["rbind", "nosuid"],
    };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        sys,
        // With everything in it. The nodes in it are mounts of their own, the only ones that open.
        mount("/dev", "bind", &path_text(&places.points.join("dev"))?, dev),
    ];
    let mut asked: Vec<_> = spec.mounts.iter().collect();
    // As the plan numbers them.
    asked.sort_by(|a, b| a.target.cmp(&b.target));
    for (number, asked) in asked.into_iter().enumerate() {
        let mut options = vec!["rbind", "nosuid"];
        options.extend(match &asked.kind {
            MountKind::Device { .. } => &[][..],
            MountKind::Bind { readonly: false, .. }
            | MountKind::Tmpfs { .. }
            | MountKind::Overlay { upper: Some(_), .. } => &["nodev"],
            MountKind::Bind { .. } | MountKind::File { .. } | MountKind::Overlay { .. } => &["nodev", "ro"],
            MountKind::Secret { .. } => &["nodev", "noexec", "ro"],
        });
        let target = utf8(&asked.target, "a mount target")?;
        all.push(mount(&target, "bind", &path_text(&places.point(number))?, &options));
    }
    Ok(all.into())
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}
