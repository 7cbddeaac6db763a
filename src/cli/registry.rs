//! Verbs that speak to registries: push, pull, login, logout.

use std::io::{BufRead as _, Read as _, Write as _};

use clap::Args;

use crate::build::{Failure, FailureKind, RegistryAccess, StorageTools, Transfer};
use crate::event::Events;
use crate::image::{Platform, Reference};
use crate::progress::Mode;
use crate::registry::login::{self, Kept};
use crate::registry::{Credentials, GivenCertificates, Location, RegistryError, Secret};
use crate::sandbox::userns::IdMode;

use super::build::progress_mode;
use super::{Session, Stop, print, tell};

/// The registry that names without one belong to.
use crate::image::reference::{DEFAULT_DOMAIN, is_id_only};

/// What all verbs that may speak to a registry have in common.
#[derive(Args, Debug, Default)]
pub(super) struct AccessArgs {
    /// A registry without https or with a certificate nobody signed
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
    /// Show no progress
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// What flags say about registries beyond their settings; fields as in [`RegistryAccess`].
#[derive(Clone, Debug, Default)]
pub(super) struct RegistryFlags {
    pub insecure_except: Option<Vec<String>>,
    pub mirrors: Vec<(String, Location)>,
    pub mirrors_only: bool,
    pub given: Vec<GivenCertificates>,
    pub attempts: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct PushArgs {
    /// Push every tag of the repository
    #[arg(short = 'a', long = "all-tags")]
    pub all_tags: bool,
    /// Sign what is pushed: key=FILE or key=env://NAME
    #[arg(long, value_name = "key=KEY")]
    pub sign: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Name of an image of the store
    #[arg(value_name = "NAME[:TAG]")]
    pub image: String,
}

#[derive(Args, Debug)]
pub(super) struct PullArgs {
    /// Platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub image: String,
}

#[derive(Args, Debug)]
pub(super) struct LoginArgs {
    /// User name
    #[arg(short = 'u', long = "username", value_name = "USER")]
    pub user: Option<String>,
    /// Password; others can see it in the list of processes
    #[arg(short = 'p', long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long = "password-stdin")]
    pub password_stdin: bool,
    /// A registry without https or with a certificate nobody signed
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    pub insecure_registries: Vec<String>,
    /// The registry
    #[arg(value_name = "HOST[:PORT]")]
    pub registry: Option<String>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

pub(super) fn named(text: &str) -> Result<Reference, Failure> {
    if is_id_only(text) {
        let message = format!("{text} is an image ID, which registries do not know");
        return Err(
            usage(message).help("pull by a name, NAME:TAG, or the digest of a manifest, NAME@sha256:...")
        );
    }
    let parsed = Reference::parse(text).map_err(|error| usage(error.to_string()))?;
    Ok(parsed.with_default_tag())
}

pub(super) fn platform(text: Option<&str>, session: &Session) -> Result<Platform, Failure> {
    match text.or(session.env.default_platform.as_deref()) {
        Some(text) => Platform::parse(text).map_err(|error| usage(error.to_string())),
        None => Ok(Platform::host()),
    }
}

/// The access that the configuration and the flags give.
pub(super) fn access(session: &Session, insecure: &[String]) -> Result<RegistryAccess, Failure> {
    let mut access = session.registries()?;
    access.insecure.extend(insecure.iter().cloned());
    Ok(access)
}

/// Runs `work` with everything transfers need, showing their progress.
pub(super) fn transfer<T>(
    session: &Session,
    args: &AccessArgs,
    platform: Option<Platform>,
    work: impl FnOnce(&Transfer<'_>) -> Result<T, Failure>,
) -> Result<T, Stop> {
    // What is lost on the way is no progress: quiet copies tell it too.
    let mode = if args.quiet { Mode::Warnings } else { progress_mode(None, false, &session.env)? };
    let mut access = access(session, &args.insecure_registries)?;
    let engines = super::build::engines(&session.env)?;
    let rootless = (session.mode != IdMode::Root).then_some((session.user.uid, session.user.gid));
    session.watch_signals()?;
    let store = session.store()?;
    let renderer = session.renderer(mode);
    let events = Events::new(renderer.clone());
    access.notices = access.notices.to(&events);
    let transfer = Transfer {
        store: &store,
        access: &access,
        platform,
        engines,
        storage: StorageTools { search_path: session.env.path.clone(), rootless },
        events: &events,
        cancel: &session.cancel,
    };
    let result = work(&transfer);
    renderer.finish();
    Ok(result?)
}

/// `rbuild push`
pub(super) fn push(session: &Session, args: &PushArgs) -> Result<u8, Stop> {
    let key = super::sign::signer(args.sign.as_deref(), &session.env)?;
    let lines = transfer(session, &args.access, None, |transfer| {
        let name = transfer.name_to_push(&args.image)?;
        if name.digest.is_some() || (args.all_tags && args.image.ends_with(&format!(":{}", tag_of(&name)))) {
            return Err(usage("give a name and a tag, or --all-tags and a name without tag"));
        }
        let mut names = Vec::new();
        if args.all_tags {
            for (known, _) in transfer.store.references()? {
                let known = Reference::parse(&known).ok();
                names.extend(known.filter(|known| known.repository() == name.repository()));
            }
            if names.is_empty() {
                let message = format!("no image {} in the store", name.familiar_repository());
                return Err(usage(message).help("`rbuild images` lists what is there"));
            }
        } else {
            names.push(name.clone());
        }
        let mut lines = String::new();
        for name in &names {
            let descriptor = transfer.stored(name)?;
            let report = transfer.publish_with(name, &descriptor, &[], key.as_ref(), false)?;
            if args.access.quiet {
                lines.push_str(&format!("{}\n", name.familiar()));
                continue;
            }
            lines.push_str(&format!(
                "{}: digest: {} size: {} ({} sent; blobs: {} uploaded, {} mounted, {} there already)\n",
                name.familiar(),
                report.digest,
                descriptor.size,
                super::values::human(report.sent_bytes),
                report.uploaded,
                report.mounted,
                report.existed,
            ));
        }
        Ok(lines)
    })?;
    print(&lines)?;
    Ok(0)
}

fn tag_of(name: &Reference) -> &str {
    name.tag.as_deref().unwrap_or_default()
}

/// `rbuild pull`
pub(super) fn pull(session: &Session, args: &PullArgs) -> Result<u8, Stop> {
    let name = named(&args.image)?;
    let platform = platform(args.platform.as_deref(), session)?;
    let descriptor = transfer(session, &args.access, Some(platform), |transfer| transfer.pull(&name))?;
    let quiet = if args.access.quiet { String::new() } else { format!("{} ", name.familiar()) };
    print(&format!("{quiet}{}\n", descriptor.digest))?;
    Ok(0)
}

/// `host[:port]`, as image names begin, from what users write.
fn host(text: Option<&str>) -> Result<String, Failure> {
    let text = text.unwrap_or(DEFAULT_DOMAIN);
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    let path = bare.get(host.len()..).unwrap_or_default().trim_matches('/');
    if host.is_empty() || !matches!(path, "" | "v1" | "v2") {
        return Err(usage(format!("{text:?} is no registry; give host[:port]")));
    }
    // The name that image names have is the name of its registry, in whatever form it comes.
    let known = host == DEFAULT_DOMAIN || host == format!("index.{DEFAULT_DOMAIN}");
    Ok(if known { DEFAULT_DOMAIN.to_owned() } else { host.to_owned() })
}

/// `rbuild login`
pub(super) fn login(session: &Session, args: &LoginArgs) -> Result<u8, Stop> {
    let registry = host(args.registry.as_deref())?;
    let dir = config_dir(session)?;
    let (user, password) = ask(args)?;
    let credentials = Credentials::Given { user: user.clone(), password: Secret(password.clone()) };
    let access = RegistryAccess { credentials, ..access(session, &args.insecure_registries)? };
    session.watch_signals()?;
    let checked = access.open(&registry, "").and_then(|client| client.check_sign_in(&session.cancel));
    checked.map_err(|error| match error {
        RegistryError::Cancelled => Failure::new(FailureKind::Interrupted, "canceled"),
        error => Failure::new(FailureKind::Base, format!("cannot sign in to {registry}: {error}")),
    })?;
    match login::keep(&dir, &registry, &user, &password).map_err(kept)? {
        Kept::InTheClear(path) => tell(&format!(
            "rbuild: the password is kept unencrypted in {}; a credential helper (credsStore) avoids that",
            path.display()
        )),
        Kept::Helper(_) => {}
    }
    print(&format!("Signed in to {registry} as {user}\n"))?;
    Ok(0)
}

/// `rbuild logout`
pub(super) fn logout(session: &Session, registry: Option<&str>) -> Result<u8, Stop> {
    let registry = host(registry)?;
    let dir = config_dir(session)?;
    if login::forget(&dir, &registry).map_err(kept)? {
        print(&format!("Signed out of {registry}\n"))?;
    } else {
        print(&format!("Not signed in to {registry}\n"))?;
    }
    Ok(0)
}

fn kept(error: RegistryError) -> Failure {
    Failure::new(FailureKind::Output, error.to_string())
}

fn config_dir(session: &Session) -> Result<std::path::PathBuf, Failure> {
    let dir = session.env.docker_config.clone();
    dir.ok_or_else(|| usage("there is no place for credentials: set HOME or DOCKER_CONFIG"))
}

fn ask(args: &LoginArgs) -> Result<(String, String), Stop> {
    if args.password_stdin {
        let user = args.user.clone().ok_or_else(|| usage("--password-stdin needs --username"))?;
        let mut password = String::new();
        std::io::stdin().read_to_string(&mut password)?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        return Ok((user, not_empty(password)?));
    }
    if args.password.is_some() {
        tell("rbuild: a password on the command line can be seen by others; --password-stdin hides it");
    }
    let terminal = rustix::termios::isatty(std::io::stdin());
    if !terminal && (args.user.is_none() || args.password.is_none()) {
        let failure = usage("there is no terminal to ask for a name and a password");
        return Err(failure.help("give --username and --password-stdin").into());
    }
    let user = match &args.user {
        Some(user) => user.clone(),
        None => prompt("Username: ", false)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None => prompt("Password: ", true)?,
    };
    Ok((user, not_empty(password)?))
}

fn not_empty(password: String) -> Result<String, Stop> {
    if password.is_empty() { Err(usage("the password is empty").into()) } else { Ok(password) }
}

/// Asks at the terminal; what is secret is not shown.
fn prompt(question: &str, secret: bool) -> Result<String, Stop> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    eprint!("{question}");
    std::io::stderr().flush()?;
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
    if secret {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &silent).map_err(std::io::Error::from)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if secret {
        tcsetattr(&stdin, OptionalActions::Now, &before).map_err(std::io::Error::from)?;
        tell("");
    }
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_hosts_in_whatever_form() {
        for (given, expected) in [
            (Some("reg.example.test"), Some("reg.example.test")),
            (Some("https://reg.example.test:5000/v2/"), Some("reg.example.test:5000")),
            (Some("reg.example.test/team"), None),
            (Some("https://"), None),
            (None, Some(DEFAULT_DOMAIN)),
        ] {
            assert_eq!(host(given).ok().as_deref(), expected, "{given:?}");
        }
        let old = format!("https://index.{DEFAULT_DOMAIN}/v1/");
        assert_eq!(host(Some(&old)).ok().as_deref(), Some(DEFAULT_DOMAIN));
    }
}
