//! Verbs that move images between places: load, copy, index; and what refers to them: referrers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::build::{Failure, FailureKind, IndexChange, Loaded, Place, ReferrerList, Transfer};
use crate::image::{Descriptor, Platform, Reference};
use crate::visible::visible_line;

use super::registry::{AccessArgs, platform, transfer};
use super::{Session, Stop, print, print_json, tell, values};

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
oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], docker-daemon:NAME (a running Docker or Podman),
containers-storage:NAME (Podman, Buildah and CRI-O; by skopeo, podman or buildah).";

#[derive(Args, Debug)]
#[command(after_help = PLACES)]
pub(super) struct CopyArgs {
    /// Copy all platforms of an index, not only one
    #[arg(long, conflicts_with = "platform")]
    pub all: bool,
    /// Platform to copy, such as linux/arm64; that of this machine by default
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Copy what refers to the image too: signatures, bills of materials and the like
    #[arg(long)]
    pub referrers: bool,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Where the image is
    pub source: String,
    /// Where it goes
    pub target: String,
}

#[derive(Args, Debug)]
#[command(after_help = PLACES)]
pub(super) struct ReferrersArgs {
    /// List only what is of this type, such as application/spdx+json
    #[arg(long, value_name = "TYPE")]
    pub artifact_type: Option<String>,
    /// Of an index, ask about the image for this platform instead
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// How the list is written
    #[arg(long, value_enum, default_value = "table")]
    pub format: ListFormat,
    #[command(flatten)]
    pub access: AccessArgs,
    /// The image or artifact: a name (of its registry) or a place
    #[arg(value_name = "NAME")]
    pub image: String,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListFormat {
    Table,
    Json,
}

/// Characters of an artifact type in the table: a media type has no more (RFC 6838, section 4.2).
const LONGEST_TYPE: usize = 255;

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
            Loaded::Named(name) if args.quiet => print(&format!("{}\n", name.familiar()))?,
            Loaded::Image(digest) | Loaded::Artifact(digest) if args.quiet => print(&format!("{digest}\n"))?,
            Loaded::Named(name) => print(&format!("Loaded image: {}\n", name.familiar()))?,
            Loaded::Image(id) => print(&format!("Loaded image ID: {id}\n"))?,
            Loaded::Artifact(digest) => print(&format!("Loaded artifact: {digest}\n"))?,
        }
    }
    Ok(0)
}

/// Archives are read by position, so standard input goes into a file first.
fn load_stdin(transfer: &Transfer<'_>) -> Result<Vec<Loaded>, Failure> {
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
    let to = Place::parse(&args.target, &cwd)?;
    if let Place::Registry(name) | Place::Store(name) | Place::Engine(name) | Place::Containers(name) = &to
        && name.digest.is_some()
    {
        return Err(usage("the target's digest is known only afterwards; give it a tag").into());
    }
    if args.all && matches!(to, Place::DockerArchive(..) | Place::Engine(_) | Place::Containers(_)) {
        let what = args.target.split(':').next().unwrap_or_default();
        return Err(usage(format!("{what}: holds one platform; leave --all out")).into());
    }
    let wanted = if args.all { None } else { Some(platform(args.platform.as_deref(), session)?) };
    let (descriptor, referrers) = transfer(session, &args.access, wanted, |transfer| {
        let from = transfer.source(&args.source, &cwd)?;
        if args.referrers {
            return transfer.copy_with_referrers(&from, &to);
        }
        Ok((transfer.copy(&from, &to)?, 0))
    })?;
    if args.referrers && !args.access.quiet {
        tell(&format!(
            "rbuild: {referrers} {} copied with it",
            if referrers == 1 { "referrer" } else { "referrers" }
        ));
    }
    print(&format!("{}\n", descriptor.digest))?;
    Ok(0)
}

/// `rbuild referrers`
pub(super) fn referrers(session: &Session, args: &ReferrersArgs) -> Result<u8, Stop> {
    let wanted = args.platform.as_deref().map(Platform::parse).transpose();
    let wanted = wanted.map_err(|error| usage(error.to_string()))?;
    let kind = args.artifact_type.as_deref();
    let cwd = std::env::current_dir()?;
    let (place, list) = transfer(session, &args.access, wanted, |transfer| {
        // Referrers are in registries, so a bare name means its registry even where the store knows it.
        let place = transfer.source_or_name(&args.image, &cwd, true)?;
        let list = transfer.referrers(&place, kind)?;
        Ok((place, list))
    })?;
    match args.format {
        ListFormat::Json => print_json(&format!("{:#}\n", referrers_json(&place, &list)))?,
        ListFormat::Table => print(&referrers_table(&place, &list))?,
    }
    Ok(0)
}

fn referrers_json(place: &Place, list: &ReferrerList) -> serde_json::Value {
    let row = |entry: &Descriptor| {
        json!({
            "name": place.beside(&entry.digest), "digest": entry.digest.to_string(),
            "mediaType": entry.media_type, "artifactType": entry.artifact_type, "size": entry.size,
            "annotations": entry.annotations,
        })
    };
    let subject = &list.subject;
    json!({
        "subject": {
            "name": place.beside(&subject.digest), "digest": subject.digest.to_string(),
            "mediaType": subject.media_type, "size": subject.size,
        },
        "referrers": list.referrers.iter().map(row).collect::<Vec<_>>(),
    })
}

fn referrers_table(place: &Place, list: &ReferrerList) -> String {
    // Lists are written by others, and terminals obey.
    let clean = |text: &str| visible_line(text).into_owned();
    let short = |text: &str| match text.char_indices().nth(LONGEST_TYPE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    let rows: Vec<[String; 4]> = (list.referrers.iter())
        .map(|entry| {
            let annotations = entry.annotations.iter().map(|(key, value)| format!("{key}={value}"));
            [
                place.beside(&entry.digest),
                short(&clean(entry.artifact_type.as_deref().unwrap_or("-"))),
                values::human(entry.size),
                clean(&annotations.collect::<Vec<_>>().join(", ")),
            ]
        })
        .collect();
    let width = |at: usize, title: &str| {
        rows.iter().map(|row| row[at].chars().count()).chain([title.len()]).max().unwrap_or_default()
    };
    let (name, kind, size) = (width(0, "NAME"), width(1, "ARTIFACT TYPE"), width(2, "SIZE"));
    let line = |row: [&str; 4]| {
        let [a, b, c, d] = row;
        // `format!` pads up to 65535 only, and a path may be longer.
        let blanks = |text: &str, width: usize| " ".repeat(width.saturating_sub(text.chars().count()));
        let (after_a, after_b, before_c) = (blanks(a, name), blanks(b, kind), blanks(c, size));
        format!("{a}{after_a}  {b}{after_b}  {before_c}{c}  {d}").trim_end().to_owned() + "\n"
    };
    let head = line(["NAME", "ARTIFACT TYPE", "SIZE", "ANNOTATIONS"]);
    rows.iter().fold(head, |out, row| out + &line(row.each_ref().map(String::as_str)))
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
    transfer.source_or_name(text, cwd, false)
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
