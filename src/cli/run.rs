//! `rbuild run` and `rbuild info`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use crate::build::{Engine, Failure, FailureKind, Meant, RunNetwork, RunRequest, Signals, meant, no_image};
use crate::fs::{IdMap, file_system_name, has_user_attributes};
use crate::image::Platform;
use crate::sandbox::userns::IdMode;
use crate::sandbox::{
    NetworkHelper, OciRuntime, SandboxError, UserNetwork, apparmor, landlock_abi, overlay_works,
    private_ids_work, probe,
};

use crate::visible::visible_line;

use super::args::InfoArgs;
use super::environment::Environment;
use super::isolation::Isolation;
use super::registry::{AccessArgs, transfer};
use super::run_args::RunArgs;
use super::{
    Session, Stop, build, capabilities, interrupted, isolation, mounts, ports, print, print_json, tell,
    template, values,
};

/// Docker's exit code for failures that are not the command's own.
pub(super) const FAILED: u8 = 125;

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// Runs a command in an image; gives its exit code.
pub(super) fn run(session: &Session, args: RunArgs) -> Result<u8, Stop> {
    let both = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(usage("the input device is not a TTY").help("leave -t out").into());
    }
    let workdir = args.workdir.clone().filter(|dir| !dir.is_empty());
    if let Some(dir) = workdir.as_deref().filter(|dir| !dir.starts_with('/')) {
        let dir = visible_line(dir);
        let message = format!("the working directory '{dir}' is invalid, it needs to be an absolute path");
        return Err(usage(message).into());
    }
    let isolation = isolation::choice(args.isolation.as_deref(), None, &session.env)?;
    if let Isolation::Oci(_) = isolation {
        return Err(usage("rbuild run uses its own sandbox: --isolation is auto, native or chroot").into());
    }
    let platform = args.platform.as_deref().map(Platform::parse).transpose();
    let network = build::network(&args.network)?;
    if !args.publish.is_empty() && network != RunNetwork::Default {
        let message = format!("-p has no effect with --network {}", args.network);
        return Err(usage(message).help("leave one of them out").into());
    }
    let signals = Arc::new(Signals::new()?);
    let request = RunRequest {
        env: environment(&args)?,
        network,
        ports: ports::all(&args.publish, |text| tell(&format!("rbuild: {text}")))?,
        capabilities: capabilities::set(&args.cap_add, &args.cap_drop)?,
        read_only: args.read_only,
        init: args.init,
        signals: Some(signals.clone()),
        terminal: args.tty || both,
        hostname: args.hostname.filter(|name| !name.is_empty()),
        mounts: mounts::all(&args.volumes, &args.mounts, &args.tmpfs)?,
        extra_hosts: values::add_hosts(&args.add_hosts).map_err(usage)?,
        limits: values::limits(&args.limits).map_err(usage)?,
        ulimits: args
            .ulimits
            .iter()
            .map(|text| values::ulimit(text))
            .collect::<Result<_, _>>()
            .map_err(usage)?,
        shm_size: args.shm_size.as_deref().map(values::size).transpose().map_err(usage)?,
        platform: platform.map_err(|error| usage(error.to_string()))?,
        image: args.image,
        command: args.command,
        entrypoint: args.entrypoint,
        workdir,
        user: args.user,
    };
    session.watch_signals_for(Some(signals))?;
    fetch(session, &request, &args.pull)?;
    let apparmor = isolation::apparmor(&args.security_opts)?;
    let engine = session.engine_with(args.userns, isolation, apparmor)?;
    let code = engine.run(&request, &|text| tell(&format!("rbuild: {text}")), &session.cancel)?;
    if session.cancel.is_cancelled() {
        return Ok(interrupted());
    }
    Ok(u8::try_from(code & 0xff).unwrap_or(1))
}

/// Brings an image that is not in the store.
fn fetch(session: &Session, request: &RunRequest, policy: &str) -> Result<(), Stop> {
    let always = match policy {
        "always" => true,
        "missing" | "" => false,
        "never" => return Ok(()),
        other => {
            let message = format!("invalid pull policy {other:?}; it is always, missing or never");
            return Err(usage(message).into());
        }
    };
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let store = session.store()?;
    let meaning = meant(&store, &request.image, &platform)?;
    drop(store);
    let (name, known) = match meaning {
        // There is nothing to look up again.
        Meant::Id(_) => return Ok(()),
        Meant::NoSuchId => return Err(no_image(&request.image).into()),
        Meant::Named(_) if !always => return Ok(()),
        Meant::Named(name) => (name, true),
        Meant::Elsewhere(name) => (name, false),
    };
    tell(&format!(
        "rbuild: {} is {}",
        name.familiar(),
        if known { "looked up again" } else { "not in the store: pulling it" }
    ));
    let access = AccessArgs::default();
    transfer(session, &access, Some(platform), |transfer| transfer.pull(&name))?;
    Ok(())
}

/// The variables of files, then those of flags.
fn environment(args: &RunArgs) -> Result<Vec<(String, String)>, Failure> {
    let mut all = Vec::new();
    for path in &args.env_files {
        let text = std::fs::read_to_string(path)
            .map_err(|error| usage(format!("cannot read the variables of {}: {error}", path.display())))?;
        for line in
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            all.extend(variable(line, "--env-file")?);
        }
    }
    for text in &args.env {
        all.extend(variable(text, "--env")?);
    }
    Ok(all)
}

/// `NAME=VALUE`, or `NAME` of this program's own environment if it is there.
fn variable(text: &str, flag: &str) -> Result<Option<(String, String)>, Failure> {
    match text.split_once('=') {
        Some(("", _)) => Err(usage(format!("{flag} needs NAME=VALUE, got {text:?}"))),
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        None if text.is_empty() => Err(usage(format!("{flag} is empty")).help("write NAME=VALUE")),
        None => Ok(Environment::variable(text).map(|value| (text.to_owned(), value))),
    }
}

/// What the default network of RUN is. Asking is starting: what a helper needs shows no other way.
fn network(helpers: &[NetworkHelper]) -> String {
    if helpers.is_empty() {
        return "RUN uses the host's network: neither pasta (package passt) nor slirp4netns is installed"
            .into();
    }
    match UserNetwork::start(helpers, None) {
        Ok(network) => format!("RUN has its own, by {}", network.program().display()),
        Err(error) => format!("RUN uses the host's network: {error}"),
    }
}

/// What `--isolation=oci` could use.
fn runtimes(found: &[OciRuntime]) -> String {
    let paths: Vec<String> = found.iter().map(|runtime| runtime.program().display().to_string()).collect();
    if paths.is_empty() { "none for --isolation=oci".into() } else { paths.join(", ") }
}

/// What AppArmor and SELinux do for RUN.
fn security_modules(sys: &Path) -> String {
    let selinux = match std::fs::read_to_string(sys.join("fs/selinux/enforce")) {
        Ok(mode) if mode.trim() == "1" => "SELinux (enforcing); RUN keeps the label of rbuild",
        Ok(_) => "SELinux (permissive); RUN keeps the label of rbuild",
        Err(_) => "no SELinux",
    };
    format!("{}; {selinux}", apparmor::look(sys))
}

/// What Landlock does for rbuild itself.
fn landlock(abi: Option<u32>) -> String {
    match abi {
        Some(abi) => format!("ABI {abi}; confines what unpacks layers and archives"),
        None => "not in use: it is not enabled, or the kernel is older than Linux 5.19".into(),
    }
}

/// What `rbuild info` reports where steps cannot be executed.
fn unable(session: &Session, engine: &Engine, reason: &str) -> Result<u8, Stop> {
    let ids = match session.mode {
        IdMode::Root => "root: image owners are kept as they are".to_owned(),
        _ => format!(
            "user {} without a user namespace: image owners are recorded in layers only",
            session.user.uid
        ),
    };
    let sandbox = match isolation::rung(Isolation::Auto, Some(reason), session.mode)? {
        isolation::Rung { chroot: true, .. } => format!(
            "{}: RUN shares this container's processes, network and host name ({reason}, for namespaces)",
            engine.sandbox()
        ),
        _ => format!("none: {}", SandboxError::Unavailable(reason.to_owned())),
    };
    print(&format!(
        "Version:    {}\nStore:      {}\nIDs:        {ids}\nSandbox:    {sandbox}\nKernel:     {}\n",
        env!("CARGO_PKG_VERSION"),
        engine.store().root().display(),
        probe().kernel,
    ))?;
    Ok(0)
}

/// Says what this machine allows and how it is used.
/// What of the container's memory rbuild makes.
fn memory() -> String {
    let Some(limit) = crate::memory::limit() else { return "not limited".to_owned() };
    let threads = crate::threads::workers();
    let many = if threads == 1 { "thread compresses" } else { "threads compress" };
    format!("limited to {}; {threads} {many} a layer", crate::fs::shown_size(limit))
}

pub(super) fn info(session: &Session, args: &InfoArgs) -> Result<u8, Stop> {
    if args.apparmor_profile {
        print(apparmor::PROFILE)?;
        return Ok(0);
    }
    let engine = session.engine()?;
    let facts = probe();
    if let Some(reason) = &session.no_sandbox {
        return unable(session, &engine, reason);
    }
    let ids = match session.mode {
        IdMode::Root if !IdMap::current().is_full() => format!(
            "root of a user namespace with the user IDs {} and the group IDs {}: other owners are written down (see \
             docs/security.md)",
            IdMap::current().users(),
            IdMap::current().groups()
        ),
        IdMode::Root => {
            let scratch = engine.store().temp_dir().map_err(crate::build::Failure::from)?;
            match private_ids_work(scratch.path()) {
                Ok(()) => "root: image owners are kept as they are; root in RUN is unprivileged on the host, but for steps on \
                           this machine's network, insecure ones and those with devices"
                    .to_owned(),
                Err(error) => format!(
                    "root: image owners are kept as they are; root in RUN is root of this machine, with Docker's \
                     restrictions ({error})"
                ),
            }
        }
        IdMode::SubIds => format!("rootless, user {} with subordinate IDs", session.user.uid),
        IdMode::SingleId => format!(
            "rootless, user {} with one ID only: other owners are written down, not real (see docs/security.md); \
             add ranges to /etc/subuid and /etc/subgid and install newuidmap to lift this",
            session.user.uid
        ),
    };
    let scratch = engine.store().temp_dir().map_err(crate::build::Failure::from)?;
    let overlay = match overlay_works(scratch.path(), session.mode == IdMode::SingleId) {
        Ok(()) if !has_user_attributes(scratch.path()).unwrap_or(true) => format!(
            "copies: every RUN copies its root file system (the store's file system, {}, has no extended attributes of \
             users)",
            file_system_name(scratch.path())
        ),
        Ok(()) => "overlayfs".to_owned(),
        Err(error) => format!("copies: every RUN copies its root file system ({error})"),
    };
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let rows = [
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Store", engine.store().root().display().to_string()),
        ("IDs", ids),
        ("Snapshots", overlay),
        ("Sandbox", "native".to_owned()),
        ("Runtimes", runtimes(&OciRuntime::find(session.env.path.as_deref()))),
        ("Seccomp", yes_no(facts.seccomp).to_owned()),
        ("LSM", security_modules(Path::new("/sys"))),
        ("Landlock", landlock(landlock_abi())),
        ("Cgroups", facts.cgroups.to_string()),
        ("Memory", memory()),
        ("Kernel", facts.kernel.to_string()),
        ("Network", network(&NetworkHelper::find(session.env.path.as_deref()))),
    ];
    match args.format.as_deref().unwrap_or_default() {
        "" => {
            let lines = rows.iter().map(|(name, value)| format!("{:<11} {value}\n", format!("{name}:")));
            print(&lines.collect::<String>())?;
        }
        format => {
            let mut all: serde_json::Map<String, serde_json::Value> =
                rows.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            all.insert("OSType".into(), std::env::consts::OS.into());
            all.insert("Architecture".into(), std::env::consts::ARCH.into());
            all.insert("ServerVersion".into(), env!("CARGO_PKG_VERSION").into());
            let all = serde_json::Value::Object(all);
            match format {
                "json" => print_json(&format!("{all}\n"))?,
                format => print(&format!("{}\n", template::parse(format)?.render(&all)?))?,
            }
        }
    }
    Ok(0)
}
