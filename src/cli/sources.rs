//! Flags about where a build's sources come from, and `rbuild lock`.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::build::{
    BuildRequest, Change, Engine, Failure, FailureKind, LockOptions, LockUse, Locked, Locking, SourceOptions,
};
use crate::cancel::CancelRead;
use crate::event::Events;
use crate::image::Reference;

use super::args::{BuildArgs, InputArgs};
use super::empty::path;
use super::environment::Environment;
use super::{Session, Stop, build, exit_code, print, print_json};

/// Flags that say what sources a build may read.
#[derive(Args, Debug, Default, Clone)]
pub(super) struct SourceArgs {
    /// Fail unless Dockerfile.lock is there and pins every source
    #[arg(long, help_heading = "Sources")]
    pub locked: bool,
    /// --locked and --offline
    #[arg(long, help_heading = "Sources")]
    pub frozen: bool,
    /// Do not look at Dockerfile.lock
    #[arg(long = "no-lock", help_heading = "Sources")]
    pub no_lock: bool,
    /// The lock, instead of the one beside the Dockerfile
    #[arg(long = "lock-file", value_name = "FILE", value_parser = path(), help_heading = "Sources")]
    pub lock_file: Option<PathBuf>,
    /// Fetch nothing: bases, contexts and sources of ADD are those of the store
    #[arg(long, help_heading = "Sources")]
    pub offline: bool,
    /// A directory of `rbuild vendor`, from which sources are taken first
    #[arg(long, value_name = "DIR", value_parser = path(), help_heading = "Sources")]
    pub vendor: Option<PathBuf>,
    /// A source policy in JSON: ALLOW, DENY and CONVERT rules [env: EXPERIMENTAL_BUILDKIT_SOURCE_POLICY]
    #[arg(long = "source-policy", value_name = "FILE", value_parser = path(), help_heading = "Sources")]
    pub source_policies: Vec<PathBuf>,
    /// Rego policies as in buildx are not supported; disabled=true builds although there is a Dockerfile.rego
    #[arg(long = "policy", value_name = "disabled=true", help_heading = "Sources")]
    pub rego: Vec<String>,
}

impl SourceArgs {
    /// What they mean together.
    pub fn options(&self, env: &Environment) -> Result<SourceOptions, Failure> {
        let locked = self.locked || self.frozen;
        let usage = |message: &str| Failure::new(FailureKind::Usage, message);
        if self.no_lock && locked {
            return Err(usage("--no-lock contradicts --locked and --frozen"));
        }
        if self.no_lock && self.lock_file.is_some() {
            return Err(usage("--no-lock contradicts --lock-file"));
        }
        if self.lock_file.as_deref().is_some_and(|file| file.as_os_str() == "-") {
            return Err(usage("--lock-file names a file; a lock is not read from standard input"));
        }
        let mut without_rego = false;
        for field in self.rego.iter().flat_map(|policy| policy.split(',')) {
            match field.trim() {
                "disabled=true" => without_rego = true,
                "disabled=false" | "" => {}
                other => {
                    let message = format!("--policy {other}: Rego policies are not supported");
                    return Err(Failure::new(FailureKind::Unsupported, message).help(
                        "--source-policy reads BuildKit's policies in JSON; docs/policy.md compares them",
                    ));
                }
            }
        }
        Ok(SourceOptions {
            lock: match (locked, self.no_lock) {
                (true, _) => LockUse::Required,
                (false, true) => LockUse::Ignored,
                (false, false) => LockUse::IfThere,
            },
            lock_file: self.lock_file.clone().filter(|file| !file.as_os_str().is_empty()),
            offline: self.offline || self.frozen,
            vendor: self.vendor.clone().filter(|dir| !dir.as_os_str().is_empty()),
            source_policies: env
                .source_policy
                .iter()
                .chain(self.source_policies.iter().filter(|file| !file.as_os_str().is_empty()))
                .cloned()
                .collect(),
            without_rego,
            locking: Locking::No,
        })
    }
}

/// How the answer is written.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LockFormat {
    #[default]
    Text,
    Json,
}

// A comment for users would become the command's help.
#[derive(Args, Debug)]
#[command(mut_arg("context", |arg| arg.required(false).default_value(".")))]
pub(super) struct LockArgs {
    #[command(flatten)]
    pub input: InputArgs,
    /// Look sources up anew: those named, as --update=NAME, or all
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        help_heading = "Lock"
    )]
    pub update: Vec<String>,
    /// Write nothing; exit code 11 if the lock would change
    #[arg(long, help_heading = "Lock")]
    pub check: bool,
    /// How changes are listed
    #[arg(long, value_enum, default_value = "text", help_heading = "Lock")]
    pub format: LockFormat,
    /// A secret for signing in at git and http servers: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long = "secret", value_name = "SECRET", help_heading = "Lock")]
    pub secrets: Vec<String>,
    /// An SSH agent for git: default, or ID=SOCKET, or ID=KEY[,KEY]
    #[arg(long = "ssh", value_name = "ID[=SOCKET|KEY]", help_heading = "Lock")]
    pub ssh: Vec<String>,
}

// A comment for users would become the command's help.
#[derive(Args, Debug)]
#[command(mut_arg("context", |arg| arg.required(false).default_value(".")))]
pub(super) struct VendorArgs {
    /// Where the sources go: a new directory, or one of an earlier `rbuild vendor`
    #[arg(value_name = "DIR", value_parser = path())]
    pub dir: PathBuf,
    #[command(flatten)]
    pub input: InputArgs,
    /// A secret for signing in at git and http servers: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long = "secret", value_name = "SECRET", help_heading = "Input")]
    pub secrets: Vec<String>,
    /// An SSH agent for git: default, or ID=SOCKET, or ID=KEY[,KEY]
    #[arg(long = "ssh", value_name = "ID[=SOCKET|KEY]", help_heading = "Input")]
    pub ssh: Vec<String>,
}

/// `rbuild vendor`
pub(super) fn vendor(session: &Session, args: VendorArgs) -> Result<u8, Stop> {
    if args.input.sources.no_lock {
        let message = "rbuild vendor gathers what the lock pins: --no-lock makes no sense";
        return Err(Failure::new(FailureKind::Usage, message).into());
    }
    let dir = args.dir;
    if dir.as_os_str().is_empty() {
        return Err(Failure::new(FailureKind::Usage, "the directory to write is missing").into());
    }
    let done =
        with_sources(session, args.input, args.secrets, args.ssh, |engine, request, stdin, events| {
            engine.vendor(request, &dir, stdin, events, &session.cancel)
        })?;
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let parts = [count(done.images, "image"), count(done.trees, "git tree"), count(done.files, "file")];
    print(&format!(
        "wrote {} ({}, {})\n",
        dir.display(),
        parts.join(", "),
        crate::fs::shown_size(done.bytes)
    ))?;
    Ok(0)
}

/// Does something with the sources of a build, as far as a build goes before its first step.
fn with_sources<T>(
    session: &Session,
    input: InputArgs,
    secrets: Vec<String>,
    ssh: Vec<String>,
    work: impl FnOnce(&Engine, &BuildRequest, &mut (dyn Read + Send), &Events) -> Result<T, Failure>,
) -> Result<T, Stop> {
    let build = BuildArgs { input, secrets, ssh, ..BuildArgs::default() };
    let request = build::request(&build, &session.env)?;
    let mode = build::progress_mode(None, false, &session.env)?;
    session.watch_signals()?;
    let engine = session.engine()?;
    let renderer = session.renderer(mode);
    let events = Events::new(renderer.clone());
    let result = work(&engine, &request, &mut CancelRead::stdin(&session.cancel), &events);
    renderer.finish();
    Ok(result?)
}

impl LockArgs {
    fn options(&self) -> Result<LockOptions, Failure> {
        let names: Vec<String> = self.update.iter().filter(|name| !name.is_empty()).cloned().collect();
        let context = self.input.context.to_string_lossy();
        if self.update.iter().any(String::is_empty)
            && !std::path::Path::new(&*context).exists()
            && Reference::parse(&context).is_ok()
        {
            let message = format!("there is no directory {context:?}");
            return Err(Failure::new(FailureKind::Usage, message)
                .help(format!("to update the entry of that name, write --update={context}")));
        }
        let update = match (self.update.is_empty(), names.len() < self.update.len()) {
            (true, _) => Locking::Keep,
            (false, true) => Locking::All,
            (false, false) => Locking::Some(names),
        };
        Ok(LockOptions { update, check: self.check })
    }
}

/// `rbuild lock`
pub(super) fn lock(session: &Session, args: LockArgs) -> Result<u8, Stop> {
    let options = args.options()?;
    if args.input.sources.no_lock || args.input.sources.locked || args.input.sources.frozen {
        let message = "rbuild lock makes a lock: --no-lock, --locked and --frozen are for builds";
        return Err(Failure::new(FailureKind::Usage, message)
            .help("`rbuild lock --check` compares one")
            .into());
    }
    let (format, check) = (args.format, args.check);
    let locked =
        with_sources(session, args.input, args.secrets, args.ssh, |engine, request, stdin, events| {
            engine.lock(request, &options, stdin, events, &session.cancel)
        })?;
    match format {
        LockFormat::Text => print(&text(&locked, check))?,
        LockFormat::Json => print_json(&format!("{:#}\n", document(&locked)))?,
    }
    Ok(if check && locked.differs { exit_code(FailureKind::Lock) } else { 0 })
}

fn document(locked: &Locked) -> serde_json::Value {
    let change = |change: &Change| {
        let word = match (&change.from, &change.to) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "moved",
        };
        json!({
            "change": word, "kind": change.kind, "name": change.name, "from": change.from, "to": change.to,
        })
    };
    json!({
        "lockFile": locked.path.to_string_lossy(),
        "upToDate": !locked.differs,
        "sources": locked.sources,
        "changes": locked.changes.iter().map(change).collect::<Vec<_>>(),
    })
}

fn text(locked: &Locked, check: bool) -> String {
    let mut out = String::new();
    for Change { kind, name, from, to } in &locked.changes {
        out.push_str(&match (from, to) {
            (None, Some(to)) => format!("+ {kind} {name} {to}\n"),
            (Some(from), None) => format!("- {kind} {name} {from}\n"),
            (from, to) => format!(
                "~ {kind} {name} {} -> {}\n",
                from.as_deref().unwrap_or_default(),
                to.as_deref().unwrap_or_default()
            ),
        });
    }
    let path = locked.path.display();
    let count = match locked.sources {
        1 => "1 source".to_owned(),
        count => format!("{count} sources"),
    };
    out.push_str(&match (locked.differs, check, locked.is_new) {
        (false, ..) => format!("{path} is up to date ({count})\n"),
        (true, true, true) => format!("there is no {path}; `rbuild lock` writes it ({count})\n"),
        (true, true, false) => format!("{path} is not up to date; `rbuild lock` writes it ({count})\n"),
        (true, false, true) => format!("wrote {path} ({count})\n"),
        (true, false, false) => format!("updated {path} ({count})\n"),
    });
    out
}
