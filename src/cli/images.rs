//! Verbs about images of the store.

use clap::Args;
use serde_json::{Value, json};

use crate::build::{Failure, FailureKind, Meant, meant, no_image, without_name};
use crate::export::{self, Dest};
use crate::image::ids;
use crate::image::inspect::{
    ImageSummary, history_rows, inspect_json, list_images, name_in_store, names_of, stored, unnamed_images,
};
use crate::image::{Family, Platform, Reference, ResolvedImage, from_store};
use crate::store::Store;

use super::args::{SaveArgs, SaveFormat};
use super::image_filters::Filters;
use super::inspect_fields;
use super::listing::{self, Column, Form, flexible, whole};
use super::registry::{AccessArgs, transfer};
use super::{Session, Stop, print, print_json, tell, template, values};

#[derive(Args, Debug)]
pub(super) struct ImagesArgs {
    /// Images without a name as well
    #[arg(short = 'a', long)]
    all: bool,
    /// Print image IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show digests of manifests
    #[arg(long)]
    digests: bool,
    /// Do not cut IDs and names
    #[arg(long)]
    no_trunc: bool,
    /// Only some: reference=PATTERN, dangling=true|false, label=NAME[=VALUE], before=IMAGE, since=IMAGE
    #[arg(short = 'f', long = "filter", value_name = "NAME=VALUE")]
    pub filters: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print JSON, one object a line, with sizes in bytes
    #[arg(long)]
    json: bool,
    /// Only images of this repository, or with this name; * stands for anything but /
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct InspectArgs {
    /// json, or a Go template such as '{{.Config.Env}}'
    #[arg(short = 'f', long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print the manifest or index itself
    #[arg(long)]
    raw: bool,
    /// Of an index, the image for this platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// What is inspected; rbuild has images only
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<String>,
    #[command(flatten)]
    pub(super) access: AccessArgs,
    /// Names or IDs of images of the store, or places such as docker://NAME and oci-archive:FILE
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// Show instructions whole
    #[arg(long)]
    no_trunc: bool,
    /// Print IDs only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Sizes and times for people; --human=false prints bytes and dates
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new())]
    human: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Name or ID of the image
    image: String,
}

#[derive(Args, Debug)]
pub(super) struct RmiArgs {
    /// Also where an ID means several names
    #[arg(short = 'f', long)]
    force: bool,
    /// Keep what the image was built on (always done)
    #[arg(long = "no-prune")]
    no_prune: bool,
    /// Names or IDs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// What names and IDs mean in the store, for verbs that take one image.
pub(super) fn find(store: &Store, text: &str) -> Result<Reference, Failure> {
    find_all(store, text)?.into_iter().next().ok_or_else(|| no_image(text))
}

fn find_all(store: &Store, text: &str) -> Result<Vec<Reference>, Failure> {
    Ok(match meant(store, text, &Platform::host())? {
        Meant::Named(name) => vec![name],
        Meant::Id(names) => names,
        Meant::Elsewhere(_) | Meant::NoSuchId => Vec::new(),
    })
}

pub(super) fn image(store: &Store, text: &str, platform: &Platform) -> Result<ResolvedImage, Failure> {
    let name = find(store, text)?;
    from_store(store, &name, platform)?.ok_or_else(|| no_image(text))
}

const REPOSITORY: Column = flexible("REPOSITORY", "Repository");
const TAG: Column = flexible("TAG", "Tag");

/// The digest that an image is pulled by; there is none before its layers are compressed.
fn digest_of(image: &ImageSummary) -> String {
    image.manifest_digest.map_or_else(|| "<none>".to_owned(), |digest| digest.to_string())
}

/// `rbuild images`
pub(super) fn images(session: &Session, args: &ImagesArgs) -> Result<u8, Stop> {
    let store = session.store()?;
    let platform = Platform::host();
    let list = list_images(&store, &platform).map_err(Failure::from)?;
    let filters = Filters::parse(args, &store)?;
    let mut found: Vec<ImageSummary> = Vec::new();
    if filters.dangling != Some(true) {
        found.extend(list.images);
    }
    if args.all || filters.dangling == Some(true) {
        found.extend(unnamed_images(&store, &platform).map_err(Failure::from)?);
    }
    found.retain(|image| filters.fit(&store, image));
    // The newest first, as in docker; names decide among those of one time.
    found.sort_by(|one, other| other.created.cmp(&one.created).then(one.name.cmp(&other.name)));
    let id = |image: &ImageSummary| match args.no_trunc {
        true => image.config_digest.to_string(),
        false => image.config_digest.short(),
    };
    if args.quiet {
        let mut seen = std::collections::BTreeSet::new();
        let unique = found.iter().filter(|image| seen.insert(image.config_digest.hex()));
        print(&unique.map(|image| format!("{}\n", id(image))).collect::<String>())?;
    } else if args.json {
        let rows = found.iter().map(|image| {
            json!({
                "Repository": image.name.familiar_repository(), "Tag": image.name.tag.clone().unwrap_or_default(),
                "ID": image.config_digest.to_string(), "Digest": digest_of(image),
                "CreatedAt": image.created, "Size": image.size,
            })
        });
        print_json(&rows.map(|row| format!("{row}\n")).collect::<String>())?;
    } else {
        let now = listing::now();
        let rows: Vec<Value> = found.iter().map(|image| row(image, id(image), now)).collect();
        let digest = args.digests.then_some(whole("DIGEST", "Digest"));
        let more = [whole("IMAGE ID", "ID"), whole("CREATED", "CreatedSince"), whole("SIZE", "Size")];
        let columns: Vec<Column> = [REPOSITORY, TAG].into_iter().chain(digest).chain(more).collect();
        listing::write(&columns, &rows, &Form::parse(args.format.as_deref())?, !args.no_trunc)?;
    }
    for (name, error) in &list.broken {
        tell(&format!("rbuild: {name}: {error}"));
    }
    Ok(0)
}

/// A row with the fields of `docker images --format json`.
fn row(image: &ImageSummary, id: String, now: i64) -> Value {
    json!({
        "Repository": image.name.familiar_repository(),
        "Tag": image.name.tag.clone().unwrap_or_else(|| "<none>".into()),
        "ID": id,
        "Digest": digest_of(image),
        "CreatedAt": listing::date(&image.created),
        "CreatedSince": listing::ago(&image.created, now),
        "Size": values::human(image.size),
        "Platform": image.platform.to_string(),
    })
}

/// `rbuild inspect`
pub(super) fn inspect(session: &Session, args: &InspectArgs) -> Result<u8, Stop> {
    if let Some(kind) = args.kind.as_deref().filter(|kind| !matches!(*kind, "" | "image")) {
        let message = format!("rbuild has no objects of the type {kind:?}");
        return Err(Failure::new(FailureKind::Unsupported, message).help("images are all there is").into());
    }
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(format) => Some(template::parse(format)?),
    };
    let platform = match &args.platform {
        Some(text) => Platform::parse(text).map_err(|error| usage(error.to_string()))?,
        None => Platform::host(),
    };
    let mut all = Vec::new();
    let mut raw = String::new();
    for text in &args.images {
        let (mut value, document) = inspect_one(session, args, text, &platform)?;
        if args.format.as_deref().is_some_and(super::attest::is_shown) {
            super::attest::add(session, args, text, &platform, &mut value)?;
        }
        all.push(value);
        raw.push_str(&document);
        raw.push('\n');
    }
    if args.raw {
        print_json(&raw)?;
        return Ok(0);
    }
    match &template {
        Some(template) => {
            for value in &all {
                print(&format!("{}\n", template.render(&inspect_fields::complete(value))?))?;
            }
        }
        None if args.format.as_deref() == Some("json") => print_json(&format!("{}\n", json!(all)))?,
        None => print_json(&format!("{:#}\n", json!(all)))?,
    }
    Ok(0)
}

/// Whether a text names a place, and not an image of the store.
pub(super) fn is_elsewhere(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        matches!(
            scheme,
            "oci"
                | "oci-layout"
                | "oci-archive"
                | "docker-archive"
                | "docker-daemon"
                | "containers-storage"
                | "store"
        ) || scheme == "docker" && rest.starts_with("//")
    })
}

/// An image of the store by name or ID, or one at a place; with its manifest or index as text.
fn inspect_one(
    session: &Session,
    args: &InspectArgs,
    text: &str,
    platform: &Platform,
) -> Result<(Value, String), Stop> {
    if is_elsewhere(text) {
        let cwd = std::env::current_dir()?;
        let wanted = Some(platform.clone());
        let quiet = AccessArgs { insecure_registries: args.access.insecure_registries.clone(), quiet: true };
        let (looked, names) = transfer(session, &quiet, wanted, |transfer| {
            let looked = transfer.look(&transfer.source(text, &cwd)?)?;
            // An image of the store by its ID has the names that the store has for it.
            let names = match (&looked.name, text.starts_with("store:")) {
                (None, true) => names_of(transfer.store, &looked.top.digest)?,
                (name, _) => name.iter().cloned().collect(),
            };
            Ok((looked, names))
        })?;
        let mut value = inspect_json(&looked.image, &names);
        value["Manifest"] = json!(looked.top);
        return Ok((value, looked.document));
    }
    let store = session.store()?;
    let image = image(&store, text, platform)?;
    let names = names_of(&store, &image.manifest_digest).map_err(Failure::from)?;
    let document = match args.raw {
        true => {
            let top = stored(&store, &find(&store, text)?).map_err(Failure::from)?;
            let bytes =
                top.map(|top| store.read_blob(&top.digest)).transpose().map_err(Failure::from)?.flatten();
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        }
        false => String::new(),
    };
    Ok((inspect_json(&image, &names), document))
}

/// `rbuild history`
pub(super) fn history(session: &Session, args: &HistoryArgs) -> Result<u8, Stop> {
    let store = session.store()?;
    let image = image(&store, &args.image, &Platform::host())?;
    let now = listing::now();
    let digest = image.manifest.config.digest;
    let id = if args.no_trunc { digest.to_string() } else { digest.short() };
    let rows: Vec<Value> = history_rows(&image.config, &image.layers)
        .into_iter()
        .enumerate()
        .map(|(at, row)| {
            let size = row.size.unwrap_or_default();
            let mut by = row.created_by;
            if args.format.is_some() && !args.no_trunc && by.chars().count() > 45 {
                by = by.chars().take(44).chain(std::iter::once('…')).collect();
            }
            json!({
                "ID": if at == 0 { id.as_str() } else { "<missing>" },
                "CreatedAt": listing::date(&row.created),
                "CreatedSince": if args.human { listing::ago(&row.created, now) } else { row.created },
                "CreatedBy": by,
                "Size": if args.human { values::human(size) } else { size.to_string() },
                "Comment": row.comment,
            })
        })
        .collect();
    if args.quiet {
        print(
            &rows
                .iter()
                .map(|row| format!("{}\n", row["ID"].as_str().unwrap_or_default()))
                .collect::<String>(),
        )?;
        return Ok(0);
    }
    let columns = [
        whole("IMAGE", "ID"),
        whole("CREATED", "CreatedSince"),
        flexible("CREATED BY", "CreatedBy"),
        whole("SIZE", "Size"),
        flexible("COMMENT", "Comment"),
    ];
    listing::write(&columns, &rows, &Form::parse(args.format.as_deref())?, !args.no_trunc)?;
    Ok(0)
}

/// `rbuild save`
pub(super) fn save(session: &Session, args: &SaveArgs) -> Result<u8, Stop> {
    session.watch_signals()?;
    let store = session.store()?;
    let name = |text: &String| match meant(&store, text, &Platform::host())? {
        Meant::Named(name) => Ok(name),
        // As in docker, an image that is saved by its ID has no name in the archive.
        Meant::Id(names) => without_name(&store, &names),
        Meant::Elsewhere(_) | Meant::NoSuchId => Err(no_image(text)),
    };
    let names = args.images.iter().map(name).collect::<Result<Vec<_>, Failure>>()?;
    let cwd = std::env::current_dir()?;
    let family = if args.format == SaveFormat::Docker { Family::Docker } else { Family::Oci };
    let dest = Dest::parse(&args.output, &cwd);
    export::save(&store, &names, &dest, family, &Platform::host(), &session.cancel).map_err(Failure::from)?;
    Ok(0)
}

/// `rbuild tag`
pub(super) fn tag(session: &Session, source: &str, target: &str) -> Result<u8, Stop> {
    let store = session.store()?;
    let name = find(&store, source)?;
    let descriptor = stored(&store, &name).map_err(Failure::from)?.ok_or_else(|| no_image(source))?;
    let target = Reference::parse_new_name(target).map_err(|error| usage(error.to_string()))?;
    name_in_store(&store, &target, &descriptor).map_err(Failure::from)?;
    Ok(0)
}

/// `rbuild rmi`
pub(super) fn rmi(session: &Session, args: &RmiArgs) -> Result<u8, Stop> {
    let store = session.store()?;
    let mut missing = Vec::new();
    for text in &args.images {
        let names = find_all(&store, text)?;
        if names.is_empty() {
            missing.push(text.as_str());
        }
        if names.len() > 1 && !args.force {
            let list = names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", ");
            return Err(usage(format!("{text} has several names: {list}"))
                .help("name the one to remove, or remove all with --force")
                .into());
        }
        for name in names {
            remove(&store, &name)?;
        }
    }
    match missing.as_slice() {
        [] => Ok(0),
        _ if args.force => {
            tell(&format!("rbuild: no image {} in the store", missing.join(", ")));
            Ok(0)
        }
        _ => Err(no_image(&missing.join(", ")).into()),
    }
}

fn remove(store: &Store, name: &Reference) -> Result<(), Stop> {
    match name.digest {
        None => {
            let meant = stored(store, name).map_err(Failure::from)?;
            let id =
                meant.map(|top| ids::id_of(store, &top.digest)).transpose().map_err(Failure::from)?.flatten();
            store.remove_reference(&name.to_string()).map_err(Failure::from)?;
            print(&format!("Untagged: {}\n", name.familiar()))?;
            match id {
                Some(id) if ids::forget_with_last_name(store, &id).map_err(Failure::from)? => {
                    print(&format!("Deleted: {id}\n"))
                }
                _ => Ok(()),
            }
        }
        // By its digest it is one without a name, or an image below one that has a name.
        Some(manifest) => {
            let unnamed = ids::unnamed(store).map_err(Failure::from)?;
            let Some(image) = unnamed.iter().find(|image| image.manifest == manifest) else {
                let name = name.familiar();
                return Err(usage(format!("{name} has other names"))
                    .help("`rbuild images --digests` lists them")
                    .into());
            };
            ids::forget_unnamed(store, &image.id).map_err(Failure::from)?;
            print(&format!("Deleted: {}\n", image.id))
        }
    }
}
