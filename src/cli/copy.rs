//! Verbs that move images between places: load, copy, index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::build::{Failure, FailureKind, IndexChange, Place, Transfer};
use crate::image::{Descriptor, Platform, Reference};

use super::registry::{AccessArgs, platform, transfer};
use super::{Session, Stop, print, values};

#[derive(Args, Debug)]
pub(super) struct LoadArgs {
    /// The archive, or a layout directory; - is standard input
    #[arg(short = 'i', long, value_name = "FILE", default_value = "-")]
    pub input: String,
    /// Print names only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

const PLACES: &str = "\
Places: docker://NAME (a registry), store:NAME (the store), oci:DIR[:TAG] or oci-layout:DIR[:TAG],
oci-archive:FILE[:NAME], docker-archive:FILE[:NAME].";

#[derive(Args, Debug)]
#[command(after_help = PLACES)]
pub(super) struct CopyArgs {
    /// Copy all platforms of an index, not only one
    #[arg(long, conflicts_with = "platform")]
    pub all: bool,
    /// Platform to copy, such as linux/arm64; that of this machine by default
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Where the image is
    pub source: String,
    /// Where it shall be
    pub target: String,
}

#[derive(Subcommand, Debug)]
pub(super) enum IndexCommand {
    /// Make an index of images of the store or of registries
    Create(CreateArgs),
    /// Set annotations or platforms in an index of the store
    Annotate(AnnotateArgs),
}

#[derive(Args, Debug)]
#[command(after_help = PLACES)]
pub(super) struct CreateArgs {
    /// Annotate the index
    #[arg(long = "annotation", value_name = "NAME=VALUE")]
    pub annotations: Vec<String>,
    /// Push the index and all it refers to
    #[arg(long)]
    pub push: bool,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Name of the index
    pub name: String,
    /// Images: names (of the store, else of their registry) or places
    #[arg(required = true)]
    pub sources: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct AnnotateArgs {
    /// Set an annotation
    #[arg(long = "annotation", value_name = "NAME=VALUE")]
    pub annotations: Vec<String>,
    /// State this platform for the manifest
    #[arg(long, value_name = "PLATFORM", requires = "manifest")]
    pub platform: Option<String>,
    /// Name of the index
    pub name: String,
    /// One of its manifests, by digest or platform; the index itself where it is not given
    pub manifest: Option<String>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

fn new_name(text: &str) -> Result<Reference, Failure> {
    Reference::parse_new_name(text).map_err(|error| usage(error.to_string()))
}

fn annotations(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    texts.iter().map(|text| values::pair(text, "--annotation").map_err(usage)).collect()
}

fn silent(quiet: bool) -> AccessArgs {
    AccessArgs { quiet, ..AccessArgs::default() }
}

/// `rbuild load`
pub(super) fn load(session: &Session, args: &LoadArgs) -> Result<u8, Stop> {
    let path = std::env::current_dir()?.join(&args.input);
    let loaded = transfer(session, &silent(args.quiet), None, |transfer| {
        if args.input == "-" { load_stdin(transfer) } else { transfer.load(&path) }
    })?;
    for image in loaded {
        match image {
            Ok(name) if args.quiet => print(&format!("{}\n", name.familiar()))?,
            Ok(name) => print(&format!("Loaded image: {}\n", name.familiar()))?,
            Err(descriptor) => {
                print(&format!("Loaded image without name: {}\n", descriptor.digest))?;
                let file = if args.input == "-" { "FILE" } else { &args.input };
                let digest = descriptor.digest;
                eprintln!("rbuild: name it with `rbuild copy oci-archive:{file}@{digest} store:NAME`");
            }
        }
    }
    Ok(0)
}

/// Archives are read by position, so standard input goes into a file first.
fn load_stdin(transfer: &Transfer<'_>) -> Result<Vec<Result<Reference, Descriptor>>, Failure> {
    if rustix::termios::isatty(std::io::stdin()) {
        return Err(usage("there is no archive on standard input").help("give one with -i FILE"));
    }
    let dir = transfer.store.temp_dir()?;
    let path = dir.path().join("archive");
    let copied = std::fs::File::create_new(&path)
        .and_then(|mut file| std::io::copy(&mut std::io::stdin().lock(), &mut file));
    copied.map_err(|error| {
        Failure::new(FailureKind::Store, format!("cannot keep standard input in {}: {error}", path.display()))
    })?;
    transfer.load(&path)
}

/// `rbuild copy`
pub(super) fn copy(session: &Session, args: &CopyArgs) -> Result<u8, Stop> {
    let cwd = std::env::current_dir()?;
    let (from, to) = (Place::parse(&args.source, &cwd)?, Place::parse(&args.target, &cwd)?);
    if let Place::Registry(name) | Place::Store(name) = &to
        && name.digest.is_some()
    {
        return Err(usage("the target's digest is known only afterwards; give it a tag").into());
    }
    if args.all && matches!(to, Place::DockerArchive(..)) {
        return Err(usage("a docker archive holds one platform; leave --all out").into());
    }
    let wanted = if args.all { None } else { Some(platform(args.platform.as_deref(), session)?) };
    let descriptor = transfer(session, &args.access, wanted, |transfer| transfer.copy(&from, &to))?;
    print(&format!("{}\n", descriptor.digest))?;
    Ok(0)
}

/// `rbuild index`
pub(super) fn index(session: &Session, command: &IndexCommand) -> Result<u8, Stop> {
    let digest = match command {
        IndexCommand::Create(args) => create(session, args)?,
        IndexCommand::Annotate(args) => annotate(session, args)?,
    };
    print(&format!("{digest}\n"))?;
    Ok(0)
}

fn create(session: &Session, args: &CreateArgs) -> Result<crate::digest::Digest, Stop> {
    let cwd: PathBuf = std::env::current_dir()?;
    let (name, annotations) = (new_name(&args.name)?, annotations(&args.annotations)?);
    transfer(session, &args.access, None, |transfer| {
        let places = args.sources.iter().map(|text| source(transfer, text, &cwd));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let descriptor = transfer.create_index(&name, &places, &annotations)?;
        if args.push {
            transfer.publish(&name, &descriptor, false)?;
        }
        Ok(descriptor.digest)
    })
}

fn source(transfer: &Transfer<'_>, text: &str, cwd: &Path) -> Result<Place, Failure> {
    Place::parse_name(text, cwd, |name| transfer.stored(name).is_ok())
}

fn annotate(session: &Session, args: &AnnotateArgs) -> Result<crate::digest::Digest, Stop> {
    let name = new_name(&args.name)?;
    if args.annotations.is_empty() && args.platform.is_none() {
        return Err(usage("nothing to change; give --annotation or --platform").into());
    }
    let stated = args.platform.as_deref().map(Platform::parse).transpose();
    let change = IndexChange {
        manifest: args.manifest.clone(),
        annotations: annotations(&args.annotations)?,
        platform: stated.map_err(|error| usage(error.to_string()))?,
    };
    transfer(session, &silent(true), None, |transfer| Ok(transfer.annotate_index(&name, &change)?.digest))
}
