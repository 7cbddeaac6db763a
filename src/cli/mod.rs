//! Flags into requests, events into text, failures into exit codes.
//!
//! The only room that knows the command line, the environment and the terminal. Arguments are read in
//! two steps: as typed ([`args`]), then checked and completed ([`build`]). Must never decide how
//! anything is built.

mod args;
mod attest;
mod aws_files;
mod build;
mod builds;
mod cache;
mod cache_command;
mod cache_objects;
mod capabilities;
mod check;
mod ci;
mod copy;
mod deferred;
mod dry_run;
mod empty;
mod environment;
mod flags;
mod help;
mod image_filters;
mod images;
mod inspect_fields;
mod isolation;
mod kaniko;
mod listing;
mod mistakes;
mod mounts;
mod outputs;
mod ports;
mod registry;
mod render;
mod results;
mod run;
mod run_args;
mod sbom;
mod secret;
mod secret_scan;
mod sign;
mod sources;
mod store;
mod template;
mod values;
mod verify;
mod version;
mod words;

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::build::{Engine, EngineOptions, Failure, FailureKind, RegistryAccess};
use crate::cancel::Cancel;
use crate::fs::IdMap;
use crate::progress::{self, Mode, Renderer};
use crate::registry::{Notices, Settings, SourceNetwork};
use crate::sandbox::userns::{EnterRequest, Entered, IdMode, RealUser, enter};
use crate::sandbox::{AppArmor, Signals, is_ignored};
use crate::steps::remote::RemoteOptions;
use crate::store::Store;
use crate::visible::{visible, visible_json};

use args::{Cli, Command, Userns};
use environment::Environment;
use isolation::Isolation;
use registry::RegistryFlags;

/// The kubelet's usual threshold, `nodefs.available<10%`.
const EVICTED_BELOW: u8 = 10;

/// Everything a command works with.
struct Session {
    env: Environment,
    mode: IdMode,
    user: RealUser,
    /// Why this machine can execute no step, if so.
    no_sandbox: Option<String>,
    cancel: Cancel,
    root: std::path::PathBuf,
    registries: Option<std::path::PathBuf>,
    /// What flags say about registries, beyond their settings.
    registry_flags: RegistryFlags,
    /// Signals are taken care of.
    watching: AtomicBool,
}

/// The program.
pub fn main() -> u8 {
    let env = Environment::read();
    let done = command_line().and_then(|cli| match cli.command {
        Command::Completion { shell } => write_out_bytes(&args::completion(shell)).map(|()| 0),
        Command::Version(args) => version::version(&args),
        Command::Help { words } => help::help(&words),
        _ => start(&cli, &env).and_then(|started| dispatch(cli, env.clone(), started)),
    });
    match done {
        Ok(code) | Err(Stop::Outer(code)) => code,
        Err(Stop::Failed(failure)) => {
            render::failure(&failure, &env);
            // Lower ones may be those of the command.
            let args: Vec<_> = std::env::args_os().collect();
            match words::command(&args) {
                "run" if failure.kind != FailureKind::Interrupted => run::FAILED,
                _ => exit_code(failure.kind),
            }
        }
    }
}

/// What is asked for, or the end: an answer that needs nothing else, or a mistake.
fn command_line() -> Result<Cli, Stop> {
    let reading = words::read(std::env::args_os())?;
    if let Some(note) = &reading.note {
        tell(&format!("rbuild: {note}"));
    }
    if let Some(answer) = &reading.answer {
        print(answer)?;
        return Err(Stop::Outer(0));
    }
    let args = flags::settle(reading.args)?;
    let mut cli = Cli::try_parse_from(&args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => answer(&error, 0),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if words::command(&args).is_empty() => {
            answer(&error, 2)
        }
        _ => Stop::Failed(mistakes::failure(&error, words::command(&args))),
    })?;
    empty::drop_empty(&mut cli);
    Ok(cli)
}

/// Prints help. A reader that has gone away is no error.
fn answer(error: &clap::Error, code: u8) -> Stop {
    let _ = error.print();
    Stop::Outer(code)
}

/// Why the program ends early.
enum Stop {
    /// The inner process did the work.
    Outer(u8),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Failed(Failure::new(FailureKind::Output, format!("cannot write: {error}")))
    }
}

/// Documented in `docs/cli.md`.
fn exit_code(kind: FailureKind) -> u8 {
    match kind {
        FailureKind::Build => 1,
        FailureKind::Usage => 2,
        FailureKind::Dockerfile => 3,
        FailureKind::Context => 4,
        FailureKind::Base | FailureKind::OutOfReach => 5,
        FailureKind::Output => 6,
        FailureKind::Store => 7,
        FailureKind::Unsupported => 8,
        FailureKind::Sandbox => 9,
        FailureKind::Lock => 11,
        FailureKind::Secrets => 12,
        FailureKind::Interrupted => interrupted(),
    }
}

/// The signal that asked the program to end.
static ENDED_BY: AtomicI32 = AtomicI32::new(0);

/// The exit code of what was interrupted: 128 and the number of the signal, as shells have it.
fn interrupted() -> u8 {
    match ENDED_BY.load(Ordering::Relaxed) {
        0 => 130,
        signal => u8::try_from(128 + signal).unwrap_or(130),
    }
}

/// Who works, and with which rights.
struct Started {
    mode: IdMode,
    user: RealUser,
    no_sandbox: Option<String>,
}

/// Enters a user namespace where that is needed. There is only one thread until it returns.
fn start(cli: &Cli, env: &Environment) -> Result<Started, Stop> {
    // In the namespace everybody is root, whose store is another.
    if uses_store(&cli.command) && env.userns_mark.is_none() {
        let uid = rustix::process::geteuid().as_raw();
        Store::refuse_foreign(&env.store_root(cli.root.as_deref(), uid)?).map_err(Failure::from)?;
    }
    let request = EnterRequest {
        mark: env.userns_mark.clone(),
        path: env.path.clone(),
        user_name: env.user_name.clone(),
        runs_steps: matches!(
            &cli.command,
            Command::Build(_) | Command::Run(_) | Command::VerifyReproducible(_) | Command::Kaniko { .. }
        ),
        needs_none: isolation::is_chroot(cli.command.isolation(), env),
    };
    match enter(&request) {
        Ok(Entered::Here(mode, user)) => Ok(Started { mode, user, no_sandbox: None }),
        Ok(Entered::Unable(mode, user, reason)) => Ok(Started { mode, user, no_sandbox: Some(reason) }),
        Ok(Entered::Child(code)) => Err(Stop::Outer(u8::try_from(code).unwrap_or(1))),
        Err(error) => Err(Failure::new(FailureKind::Sandbox, error.to_string()).into()),
    }
}

fn uses_store(command: &Command) -> bool {
    !matches!(command, Command::Login(_) | Command::Logout { .. })
}

fn dispatch(cli: Cli, env: Environment, started: Started) -> Result<u8, Stop> {
    let Started { mode, user, no_sandbox } = started;
    let cancel = Cancel::new()?;
    let root = env.store_root(cli.root.as_deref(), user.uid)?;
    let registries = cli.registries;
    let (registry_flags, watching) = (RegistryFlags::default(), AtomicBool::new(false));
    let session = Session { env, mode, user, no_sandbox, cancel, root, registries, registry_flags, watching };
    perform(cli.command, &session).map_err(|stop| match stop {
        Stop::Failed(failure) => Stop::Failed(failure.explain_full_disk(&session.root)),
        outer => outer,
    })
}

fn perform(command: Command, session: &Session) -> Result<u8, Stop> {
    match command {
        Command::Build(args) => build::build(session, *args.0),
        Command::Kaniko { words } => kaniko::kaniko(session, &words),
        Command::Check(args) => check::check(session, *args.0),
        Command::Plan(args) => build::plan(session, *args.0),
        Command::Explain(args) => builds::explain(session, &args),
        Command::Builds { command } => builds::builds(session, command.as_ref()),
        Command::Cache(args) => cache_command::cache(session, &args),
        Command::Run(args) => run::run(session, *args.0),
        Command::Images(args) => images::images(session, &args),
        Command::Inspect(args) => images::inspect(session, &args),
        Command::History(args) => images::history(session, &args),
        Command::Save(args) => images::save(session, &args),
        Command::Tag { source, target } => images::tag(session, &source, &target),
        Command::Rmi(args) => images::rmi(session, &args),
        Command::Push(args) => registry::push(session, &args),
        Command::Pull(args) => registry::pull(session, &args),
        Command::Load(args) => copy::load(session, &args),
        Command::Copy(args) => copy::copy(session, &args),
        Command::Referrers(args) => copy::referrers(session, &args),
        Command::Index { command } => copy::index(session, &command),
        Command::Login(args) => registry::login(session, &args),
        Command::Logout { registry } => registry::logout(session, registry.as_deref()),
        Command::Sign(args) => sign::sign(session, &args),
        Command::Verify(args) => sign::verify(session, &args),
        Command::Sbom(args) => sbom::sbom(session, &args),
        Command::Validate(args) => verify::validate(session, &args),
        Command::Diff(args) => verify::diff(session, &args),
        Command::VerifyReproducible(args) => verify::reproduce(session, &args),
        Command::Lock(args) => sources::lock(session, *args.0),
        Command::Vendor(args) => sources::vendor(session, *args.0),
        Command::Prune(args) => store::prune(session, &args),
        Command::Du(args) => store::du(session, &args),
        Command::Fsck(args) => store::fsck(session, &args),
        Command::Info(args) => run::info(session, &args),
        Command::Completion { .. } | Command::Version(_) | Command::Help { .. } => Ok(0),
    }
}

impl Session {
    /// The same with another environment and flags about registries, before it watches signals.
    fn with(&self, env: Environment, registry_flags: RegistryFlags) -> Self {
        Session {
            env,
            mode: self.mode,
            user: self.user,
            no_sandbox: self.no_sandbox.clone(),
            cancel: self.cancel.clone(),
            root: self.root.clone(),
            registries: self.registries.clone(),
            registry_flags,
            watching: AtomicBool::new(false),
        }
    }

    /// Everything the user configured about registries.
    fn registries(&self) -> Result<RegistryAccess, Failure> {
        let flags = self.registry_flags.clone();
        let (own, containers) = (self.env.registry_settings(), self.env.containers_files());
        let settings = Settings::read(self.registries.as_deref(), &own, &containers)
            .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
        Ok(RegistryAccess {
            insecure: Vec::new(),
            insecure_except: flags.insecure_except,
            mirrors: flags.mirrors,
            mirrors_only: flags.mirrors_only,
            given: flags.given,
            attempts: flags.attempts,
            credentials: self.env.credentials(self.user.uid),
            proxy: self.env.proxy(),
            settings,
            network: SourceNetwork::Any,
            roots: self.env.roots(),
            certificates: self.env.certificates(),
            notices: Notices::default(),
        })
    }

    fn engine(&self) -> Result<Engine, Stop> {
        self.engine_with(Userns::Host, Isolation::Auto, AppArmor::default())
    }

    /// An engine whose RUN gets a user namespace and an AppArmor profile as asked for, and is run by
    /// `runtime` if there is one. Ordinary users are in a user namespace already, and so is root of a rootless
    /// container.
    fn engine_with(&self, userns: Userns, isolation: Isolation, apparmor: AppArmor) -> Result<Engine, Stop> {
        let rung = isolation::rung(isolation, self.no_sandbox.as_deref(), self.mode)?;
        if rung.chroot {
            isolation::check_chroot(userns, &apparmor)?;
        }
        let engine = Engine::open(EngineOptions {
            root: self.root.clone(),
            userns: match userns {
                Userns::Auto if !IdMap::current().is_full() => crate::build::Userns::Host,
                _ if rung.chroot || rung.none.is_some() => crate::build::Userns::Host,
                userns if self.mode == IdMode::Root => userns.into(),
                _ => crate::build::Userns::Host,
            },
            single_id: self.mode == IdMode::SingleId,
            no_sandbox: rung.none,
            chroot: rung.chroot,
            runtime: rung.runtime,
            apparmor,
            resolv_conf: environment::resolv_conf(),
            network_helpers: self.env.path.clone(),
            evicted_below: self.env.kubernetes.then_some(EVICTED_BELOW),
            registries: self.registries()?,
            remotes: RemoteOptions {
                proxy: self.env.proxy(),
                search_path: self.env.path.clone(),
                known_hosts: self.env.home.as_ref().map(|home| home.join(".ssh/known_hosts")),
                ssh_agent: None,
                network: SourceNetwork::Any,
                roots: self.env.roots(),
            },
        })?;
        tell_narrowed(engine.store());
        Ok(engine)
    }

    /// What shows the progress of a command.
    fn renderer(&self, mode: Mode) -> Arc<dyn Renderer> {
        progress::renderer(mode, self.env.style(), &self.cancel)
    }

    /// As [`Session::renderer`], for the log of a service.
    fn renderer_for(&self, mode: Mode, ci: Option<progress::Ci>) -> Arc<dyn Renderer> {
        let style = progress::Style { ci, ..self.env.style() };
        progress::renderer(mode, style, &self.cancel)
    }

    /// The store alone.
    fn store(&self) -> Result<Store, Stop> {
        let store = Store::open(&self.root).map_err(Failure::from)?;
        tell_narrowed(&store);
        store.cancel_by(&self.cancel);
        Ok(store)
    }

    /// The store, also where the disk is full.
    fn store_to_clean(&self) -> Result<Store, Stop> {
        let store = Store::open_to_clean(&self.root).map_err(Failure::from)?;
        tell_narrowed(&store);
        store.cancel_by(&self.cancel);
        Ok(store)
    }

    /// The first Ctrl-C stops in order, the second at once. What the caller ignores (nohup does SIGHUP, a shell
    /// without job control SIGINT for a command in the background) stays ignored.
    fn watch_signals(&self) -> Result<(), Stop> {
        self.watch_signals_for(None)
    }

    /// As [`Session::watch_signals`]; as long as a process runs that takes signals, it gets them instead.
    fn watch_signals_for(&self, process: Option<Arc<Signals>>) -> Result<(), Stop> {
        if self.watching.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
        let own = [SIGINT, SIGTERM, SIGHUP];
        let more: &[i32] = if process.is_some() { &[SIGQUIT, SIGUSR1, SIGUSR2] } else { &[] };
        let wanted = own.iter().chain(more).copied().filter(|signal| !is_ignored(*signal));
        let mut signals = signal_hook::iterator::Signals::new(wanted)?;
        let cancel = self.cancel.clone();
        let watch = move || {
            for signal in signals.forever() {
                if process.as_ref().is_some_and(|process| process.send(signal)) || !own.contains(&signal) {
                    continue;
                }
                ENDED_BY.store(signal, Ordering::Relaxed);
                if cancel.is_cancelled() {
                    std::process::exit(128 + signal);
                }
                cancel.cancel();
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(watch)?;
        Ok(())
    }
}

/// Says that a store was open to other users until now.
fn tell_narrowed(store: &Store) {
    let Some(mode) = store.narrowed() else { return };
    let (root, could) = (store.root().display(), if mode & 0o022 == 0 { "read" } else { "change" });
    let _ = writeln!(
        io::stderr(),
        "rbuild: other users could {could} the store {root} (mode {mode:04o}); from now on only its owner can"
    );
}

/// Prints text for people, in which nothing drives the terminal; a reader that has gone away is no error.
fn print(text: &str) -> Result<(), Stop> {
    write_out(&visible(text))
}

/// Prints a JSON document, or several.
fn print_json(text: &str) -> Result<(), Stop> {
    write_out(&visible_json(text))
}

fn write_out(text: &str) -> Result<(), Stop> {
    write_out_bytes(text.as_bytes())
}

fn write_out_bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A line beside the result, on standard error. A terminal that has gone is no reason to fail.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(text));
}
