//! Verbs about images of the store.

use serde_json::json;

use crate::build::{Failure, FailureKind};
use crate::export::{self, Dest};
use crate::image::inspect::{history_rows, inspect_json, list_images, name_in_store, names_of, stored};
use crate::image::{Family, Platform, Reference, ResolvedImage, from_store};
use crate::store::Store;
use crate::visible::visible_line;

use super::args::{ImagesArgs, SaveArgs, SaveFormat};
use super::{Session, Stop, print, print_json, tell, values};

fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text)
        .map(Reference::with_default_tag)
        .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

fn image(store: &Store, text: &str) -> Result<(Reference, ResolvedImage), Failure> {
    let name = reference(text)?;
    match from_store(store, &name, &Platform::host())? {
        Some(image) => Ok((name, image)),
        None => Err(no_image(&name)),
    }
}

fn no_image(name: &Reference) -> Failure {
    Failure::new(FailureKind::Usage, format!("no image {} in the store", name.familiar()))
        .help("`rbuild images` lists what is there")
}

/// `rbuild images`
pub(super) fn images(session: &Session, args: &ImagesArgs) -> Result<u8, Stop> {
    let store = session.store()?;
    let list = list_images(&store, &Platform::host()).map_err(Failure::from)?;
    let mut out = String::new();
    if !args.quiet && !args.json {
        out.push_str(&format!(
            "{:<40} {:<20} {:<14} {:<20} {}\n",
            "REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"
        ));
    }
    for item in &list.images {
        let created = visible_line(item.created.get(..19).unwrap_or(&item.created)).replace('T', " ");
        let tag = item.name.tag.clone().unwrap_or_default();
        if args.quiet {
            out.push_str(&format!("{}\n", item.config_digest));
        } else if args.json {
            let digest =
                item.manifest_digest.map_or_else(|| "<none>".to_owned(), |digest| digest.to_string());
            let row = json!({
                "Repository": item.name.familiar_repository(), "Tag": tag, "ID": item.config_digest.to_string(),
                "Digest": digest, "CreatedAt": item.created, "Size": item.size,
            });
            out.push_str(&format!("{row}\n"));
        } else {
            out.push_str(&format!(
                "{:<40} {:<20} {:<14} {:<20} {}\n",
                item.name.familiar_repository(),
                tag,
                item.config_digest.short(),
                created,
                values::human(item.size)
            ));
        }
    }
    if args.json {
        print_json(&out)?
    } else {
        print(&out)?
    }
    for (name, error) in &list.broken {
        tell(&format!("rbuild: {name}: {error}"));
    }
    Ok(0)
}

/// `rbuild inspect`
pub(super) fn inspect(session: &Session, text: &str) -> Result<u8, Stop> {
    let store = session.store()?;
    let (_, image) = image(&store, text)?;
    let names = names_of(&store, &image.manifest_digest).map_err(Failure::from)?;
    print_json(&format!("{:#}\n", json!([inspect_json(&image, &names)])))?;
    Ok(0)
}

/// `rbuild history`
pub(super) fn history(session: &Session, text: &str, whole: bool) -> Result<u8, Stop> {
    let store = session.store()?;
    let (_, image) = image(&store, text)?;
    let mut out = format!("{:<20} {:<60} {:>10}  {}\n", "CREATED", "CREATED BY", "SIZE", "COMMENT");
    for row in history_rows(&image.config, &image.layers) {
        let created = visible_line(row.created.get(..19).unwrap_or(&row.created)).replace('T', " ");
        // Images of others say this, and terminals obey.
        let mut by = visible_line(&row.created_by).into_owned();
        if !whole && by.chars().count() > 60 {
            by = by.chars().take(59).chain(std::iter::once('…')).collect();
        }
        let size = row.size.map_or_else(|| "0B".to_owned(), values::human);
        out.push_str(&format!("{created:<20} {by:<60} {size:>10}  {}\n", visible_line(&row.comment)));
    }
    print(&out)?;
    Ok(0)
}

/// `rbuild save`
pub(super) fn save(session: &Session, args: &SaveArgs) -> Result<u8, Stop> {
    session.watch_signals()?;
    let store = session.store()?;
    let names = args
        .images
        .iter()
        .map(|text| image(&store, text).map(|(name, _)| name))
        .collect::<Result<Vec<_>, _>>()?;
    let cwd = std::env::current_dir()?;
    let family = if args.format == SaveFormat::Docker { Family::Docker } else { Family::Oci };
    let dest = Dest::parse(&args.output, &cwd);
    export::save(&store, &names, &dest, family, &Platform::host(), &session.cancel).map_err(Failure::from)?;
    Ok(0)
}

/// `rbuild tag`
pub(super) fn tag(session: &Session, source: &str, target: &str) -> Result<u8, Stop> {
    let store = session.store()?;
    let name = reference(source)?;
    let descriptor = stored(&store, &name).map_err(Failure::from)?.ok_or_else(|| no_image(&name))?;
    let target = Reference::parse_new_name(target)
        .map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    name_in_store(&store, &target, &descriptor).map_err(Failure::from)?;
    Ok(0)
}

/// `rbuild rmi`
pub(super) fn rmi(session: &Session, texts: &[String]) -> Result<u8, Stop> {
    let store = session.store()?;
    let mut missing = Vec::new();
    for text in texts {
        let name = reference(text)?;
        if store.remove_reference(&name.to_string()).map_err(Failure::from)? {
            print(&format!("Untagged: {}\n", name.familiar()))?;
        } else {
            missing.push(name.familiar());
        }
    }
    if missing.is_empty() {
        return Ok(0);
    }
    Err(Failure::new(FailureKind::Usage, format!("no image {} in the store", missing.join(", "))).into())
}
