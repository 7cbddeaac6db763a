//! Command lines that cannot be parsed: what is wrong and what to do, in rbuild's words.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::build::{Failure, FailureKind};
use crate::visible::visible_line;

/// Flags of other builders, and what there is instead.
const FOREIGN: &[(&[&str], &str)] = &[
    (&["--destination", "-d"], "the name of the image is -t NAME; --push sends it to its registry"),
    (&["--dockerfile"], "the Dockerfile is -f FILE"),
    (&["--context", "-c"], "the directory to build is the argument without a flag: rbuild build DIR"),
    (&["--context-sub-path"], "name the directory itself as the argument"),
    (&["--no-push", "--no-push-cache"], "nothing is pushed unless --push asks for it: leave it out"),
    (
        &[
            "--cache",
            "--cache-dir",
            "--cache-repo",
            "--cache-ttl",
            "--layers",
            "--cache-copy-layers",
            "--cache-run-layers",
        ],
        "steps are always cached, in the store (--root); --no-cache turns that off",
    ),
    (
        &[
            "--cleanup",
            "--single-snapshot",
            "--snapshot-mode",
            "--snapshotMode",
            "--use-new-run",
            "--force",
            "--force-build-metadata",
        ],
        "it is about how kaniko works inside; leave it out, or write `rbuild kaniko` with all of kaniko's flags",
    ),
    (
        &["--tarPath", "--tar-path", "--oci-layout-path", "--image-fs-extract-retry"],
        "write the image with -o type=oci,dest=FILE or -o type=docker,dest=FILE",
    ),
    (
        &["--digest-file", "--image-name-with-digest-file", "--image-name-tag-with-digest-file"],
        "--metadata-file FILE gets the digest and the names, --iidfile FILE the image ID",
    ),
    (
        &[
            "--insecure",
            "--insecure-pull",
            "--skip-tls-verify",
            "--skip-tls-verify-pull",
            "--skip-tls-verify-registry",
            "--tls-verify",
        ],
        "name the registry: --insecure-registry HOST[:PORT]",
    ),
    (
        &["--registry-mirror", "--registry-map"],
        "mirrors are in registries.toml: `rbuild help registries.toml`",
    ),
    (
        &["--registry-certificate", "--cert-dir"],
        "a registry's certificate is `ca` in registries.toml: `rbuild help registries.toml`",
    ),
    (
        &["--verbosity", "--log-format", "--log-timestamp", "--logfile"],
        "--progress=plain shows all output, --progress=rawjson as JSON",
    ),
    (
        &["--customPlatform", "--custom-platform", "--arch", "--os", "--variant"],
        "the platform is --platform OS/ARCH[/VARIANT]",
    ),
    (&["--format"], "the media types are -o type=image,oci-mediatypes=true|false"),
    (&["--manifest"], "several --platform give an index under the name of -t"),
    (
        &["--squash-all"],
        "layers of the base stay as they are: --squash makes one of those that the build adds",
    ),
    (
        &["--volume", "-v"],
        "directories for RUN are --build-context NAME=DIR with RUN --mount=type=bind,from=NAME, or RUN --mount=type=cache",
    ),
    (&["--env"], "use --build-arg NAME=VALUE with ARG, or ENV in the Dockerfile"),
    (&["--build-arg-file", "--argfile"], "give each as --build-arg NAME=VALUE"),
    (&["--ignorefile"], "the ignore file is DOCKERFILE.dockerignore or .dockerignore in the context"),
    (
        &["--timestamp", "--source-date-epoch"],
        "the time of the image is SOURCE_DATE_EPOCH in the environment, or --reproducible",
    ),
    (
        &["--authfile", "--creds"],
        "credentials are those of `rbuild login`; REGISTRY_AUTH_FILE names another file",
    ),
    (
        &["--cap-add", "--cap-drop"],
        "RUN has Docker's default capabilities; RUN --security=insecure has all (--allow security.insecure)",
    ),
    (
        &["--dns", "--dns-option", "--dns-search"],
        "RUN uses this machine's resolver; --add-host NAME:IP adds single names",
    ),
    (
        &[
            "--unsetenv",
            "--unsetlabel",
            "--identity-label",
            "--annotation-file",
            "--omit-history",
            "--created-annotation",
        ],
        "rbuild has nothing like it",
    ),
    (
        &["--from"],
        "the base is in the Dockerfile: FROM $BASE with --build-arg BASE=NAME, or --build-context NAME=docker-image://OTHER",
    ),
    (
        &["--http-proxy"],
        "RUN gets the proxy of --build-arg HTTP_PROXY or of Docker's config.json, and no other: leave it out",
    ),
    (&["--stdin"], "the Dockerfile or a tar comes on standard input with - as the directory"),
    (&["--print"], "what a Dockerfile takes is --call=outline, its stages --call=targets"),
    (&["--detach"], "rbuild has no daemon that could go on: use your shell's &"),
    (
        &["--server-config", "--config"],
        "rbuild reads no such file; `rbuild help environment` lists what it reads",
    ),
    (&["--json"], "write --format json"),
];

/// Flags of docker's other commands, and what there is instead.
const ELSEWHERE: &[(&str, &[&str], &str)] = &[
    ("run", &["-d", "--detach"], "rbuild keeps no containers: run it in the background of your shell with &"),
    (
        "run",
        &["-P", "--publish-all", "--expose"],
        "-p PORT publishes a port at a free one of this machine, -p PORT:PORT at one you choose",
    ),
    (
        "run",
        &["--privileged", "--device"],
        "the command has Docker's default rights; --cap-add adds single capabilities",
    ),
    (
        "run",
        &["--gpus"],
        "rbuild gives containers no devices: in builds, RUN --device=NAME uses a GPU that a CDI file describes",
    ),
    (
        "run",
        &["--dns", "--dns-option", "--dns-search"],
        "the command uses this machine's resolver; --add-host NAME:IP adds single names",
    ),
    (
        "run",
        &["-l", "--label", "--label-file"],
        "rbuild keeps no containers that a label could mark: leave it out",
    ),
    (
        "run",
        &[
            "--restart",
            "--health-cmd",
            "--stop-signal",
            "--stop-timeout",
            "--cidfile",
            "--log-driver",
            "--log-opt",
        ],
        "rbuild keeps no containers: it runs one in the foreground and forgets it",
    ),
    (
        "run",
        &["--link", "--volumes-from", "--network-alias", "--ip", "--mac-address"],
        "a container of rbuild has no neighbours; --add-host names other machines",
    ),
    (
        "run",
        &["--pid", "--ipc", "--uts", "--cgroupns", "--volume-driver", "--runtime", "--gidmap", "--uidmap"],
        "rbuild has one kind of container; --userns is about its users",
    ),
    (
        "push",
        &["--platform"],
        "rbuild copy --platform PLATFORM store:NAME docker://NAME sends one image of several",
    ),
    (
        "save",
        &["--platform"],
        "rbuild copy --platform PLATFORM store:NAME oci-archive:FILE writes one image of several",
    ),
    (
        "load",
        &["--platform"],
        "all images of the archive are read; rbuild copy --platform PLATFORM reads one",
    ),
    ("pull", &["-a", "--all-tags"], "name each tag"),
    ("push", &["--disable-content-trust"], "rbuild knows no content trust: leave it out"),
    ("pull", &["--disable-content-trust"], "rbuild knows no content trust: leave it out"),
    ("images", &["--tree"], "`rbuild inspect --raw NAME` shows what an index holds"),
    ("du", &["--filter"], "`rbuild du --verbose` lists everything, with --format for other forms"),
];

/// The failure for what clap found. `command` is the first word.
pub(super) fn failure(error: &clap::Error, command: &str) -> Failure {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let whole = if command.is_empty() { "rbuild".to_owned() } else { format!("rbuild {command}") };
    let more = format!("`{}` explains every flag", whole.replacen("rbuild", "rbuild help", 1));
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    match error.kind() {
        ErrorKind::UnknownArgument if arg.starts_with('-') => {
            unknown_flag(&arg, command, context(ContextKind::SuggestedArg), &more)
        }
        ErrorKind::UnknownArgument if matches!(command, "build" | "check" | "plan" | "lock") => {
            usage(format!("one directory is built, and there is another argument: `{}`", visible_line(&arg)))
                .help("quote what belongs together; flags that take a value need it right behind them")
        }
        ErrorKind::UnknownArgument => {
            usage(format!("unexpected argument `{}` for `{whole}`", visible_line(&arg))).help(more)
        }
        ErrorKind::MissingRequiredArgument
            if matches!(command, "build" | "check" | "plan" | "lock" | "verify-reproducible") =>
        {
            usage("the directory to build is missing".into())
                .help(format!("for the current directory: {whole} ."))
        }
        ErrorKind::MissingRequiredArgument => usage(format!("`{whole}` needs {arg}")).help(more),
        ErrorKind::InvalidValue => invalid_value(&arg, &context, &more),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let list = more.replace("explains every flag", "lists them");
            usage(format!("`{whole}` needs another word")).help(list)
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let near = context(ContextKind::SuggestedSubcommand)
                .map_or(more.clone(), |near| format!("did you mean `{near}`?"));
            usage(format!("`{whole}` has no command `{}`", visible_line(&word))).help(near)
        }
        _ => usage(first_line(error)).help(more),
    }
}

fn unknown_flag(arg: &str, command: &str, near: Option<String>, more: &str) -> Failure {
    let name = arg.split(['=', ' ']).next().unwrap_or(arg);
    let shown = visible_line(name);
    let foreign = FOREIGN.iter().find(|(names, _)| names.contains(&name));
    if let (Some((_, instead)), true) =
        (foreign, matches!(command, "build" | "check" | "plan" | "lock" | "verify-reproducible"))
    {
        return Failure::new(FailureKind::Unsupported, format!("there is no flag {shown}")).help(*instead);
    }
    let elsewhere = ELSEWHERE.iter().find(|(verb, names, _)| *verb == command && names.contains(&name));
    if let Some((.., instead)) = elsewhere {
        return Failure::new(FailureKind::Unsupported, format!("`rbuild {command}` has no flag {shown}"))
            .help(*instead);
    }
    let failure = Failure::new(FailureKind::Usage, format!("unknown flag {shown} for `rbuild {command}`"));
    match (near, name) {
        (Some(near), _) => {
            failure.help(format!("did you mean {}?", near.split(['=', ' ']).next().unwrap_or_default()))
        }
        (None, "--json") => failure.help("write --format json"),
        _ => failure.help(more),
    }
}

fn invalid_value(arg: &str, context: &dyn Fn(ContextKind) -> Option<String>, more: &str) -> Failure {
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let flag = arg.split(['=', ' ', '[']).next().unwrap_or(arg);
    if value.is_empty() {
        return Failure::new(FailureKind::Usage, format!("{flag} needs a value")).help(more);
    }
    let known =
        context(ContextKind::ValidValue).map_or(String::new(), |known| format!("; it is one of {known}"));
    let message = format!("invalid value {:?} for {flag}{known}", value);
    match context(ContextKind::SuggestedValue) {
        Some(near) => Failure::new(FailureKind::Usage, message).help(format!("did you mean {near}?")),
        None => Failure::new(FailureKind::Usage, message).help(more),
    }
}

/// What clap says, without its own heading and usage.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
