//! What a text means that names an image on the command line or in a Dockerfile.
//!
//! One rule for all of them, which is docker's: an image that the store has by this name, else the image of the
//! store whose ID it is or begins, else a name for a registry. What can only be an ID never goes to a registry.

use std::path::Path;

use crate::image::ids::{self, FindError};
use crate::image::inspect::stored;
use crate::image::reference::is_id_only;
use crate::image::{Platform, Reference};
use crate::store::Store;

use super::failure::{Failure, FailureKind};
use super::place::Place;
use super::transfer::Transfer;

/// What a text means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meant {
    /// An image that the store has by this name.
    Named(Reference),
    /// The image of the store that has this ID: its names, or its digest alone where it has none. Never empty.
    Id(Vec<Reference>),
    /// A name that the store does not have.
    Elsewhere(Reference),
    /// An ID that no image of the store has.
    NoSuchId,
}

/// Decides what a text means. `platform` chooses among the images of an index. Fails with
/// [`FailureKind::Usage`] for a text that is neither name nor ID, or that several IDs begin with.
pub fn meant(store: &Store, text: &str, platform: &Platform) -> Result<Meant, Failure> {
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    let found = ids::find(store, text, platform).map_err(|error| match error {
        FindError::Read(error) => error.into(),
        error @ FindError::Ambiguous { .. } => usage(error.to_string()).help("give more digits"),
    })?;
    let name = Reference::parse(text).map(Reference::with_default_tag);
    Ok(match (found.as_slice(), name) {
        ([one], Ok(name)) if *one == name => Meant::Named(name),
        ([_, ..], _) => Meant::Id(found),
        ([], _) if is_id_only(text) => Meant::NoSuchId,
        ([], Ok(name)) => Meant::Elsewhere(name),
        ([], Err(error)) => return Err(usage(error.to_string())),
    })
}

/// The failure for a text that means no image of the store.
pub fn no_image(text: &str) -> Failure {
    Failure::new(FailureKind::Usage, format!("no image {text} in the store"))
        .help("`rbuild images -a` lists what is there")
}

/// A reference to the image of an ID that carries no name: what is written elsewhere gets none either.
pub fn without_name(store: &Store, names: &[Reference]) -> Result<Reference, Failure> {
    let Some(name) = names.first() else { return Err(no_image("")) };
    let found = stored(store, name)?.ok_or_else(|| no_image(&name.familiar()))?;
    Ok(Reference::of_digest(found.digest))
}

impl Transfer<'_> {
    /// The place of an image that is read, written as for [`Place::parse`]; after `store:` may be an ID.
    pub fn source(&self, text: &str, cwd: &Path) -> Result<Place, Failure> {
        let Some(rest) = text.strip_prefix("store:") else { return Place::parse(text, cwd) };
        let rest = rest.trim_start_matches('/');
        if rest.is_empty() {
            return Place::parse(text, cwd);
        }
        match self.meant(rest)? {
            Meant::Named(name) | Meant::Elsewhere(name) => Ok(Place::Store(name)),
            Meant::Id(names) => Ok(Place::Store(without_name(self.store, &names)?)),
            Meant::NoSuchId => Err(no_image(rest)),
        }
    }

    /// As [`Transfer::source`], where a text without transport is a name or an ID: an image of the store, else one
    /// of its registry. With `at_registry` a name means its registry even where the store has it.
    pub fn source_or_name(&self, text: &str, cwd: &Path, at_registry: bool) -> Result<Place, Failure> {
        if Place::has_transport(text) {
            return self.source(text, cwd);
        }
        match self.meant(text)? {
            Meant::Named(name) if at_registry => Ok(Place::Registry(name)),
            Meant::Named(name) => Ok(Place::Store(name)),
            Meant::Elsewhere(name) => Ok(Place::Registry(name)),
            Meant::Id(names) => Ok(Place::Store(without_name(self.store, &names)?)),
            Meant::NoSuchId => Err(no_image(text)),
        }
    }

    /// The name of an image of the store that is sent somewhere under that name, which an ID is not.
    pub fn name_to_push(&self, text: &str) -> Result<Reference, Failure> {
        match self.meant(text)? {
            Meant::Named(name) | Meant::Elsewhere(name) => Ok(name),
            Meant::NoSuchId => Err(no_image(text)),
            Meant::Id(names) => {
                let message = format!("{text} is the ID of an image, which is pushed under a name");
                let named: Vec<String> =
                    names.iter().filter(|name| !name.stands_for_digest()).map(Reference::familiar).collect();
                let help = match named.as_slice() {
                    [] => format!("give it one with `rbuild tag {text} REGISTRY/NAME:TAG`, and push that"),
                    names => format!("its names are {}", names.join(", ")),
                };
                Err(Failure::new(FailureKind::Usage, message).help(help))
            }
        }
    }

    fn meant(&self, text: &str) -> Result<Meant, Failure> {
        meant(self.store, text, &self.platform.clone().unwrap_or_else(Platform::host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn what_is_no_image_of_the_store_is_a_name_an_id_or_a_mistake() -> Result<(), Box<dyn std::error::Error>>
    {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path())?;
        let platform = Platform::new("linux", "amd64", "");
        let manifest = store.put_blob(br#"{"schemaVersion":2}"#)?;
        for tail in ["01", "02"] {
            let id = Digest::from_hex(&format!("{}{tail}", "ab".repeat(31))).ok_or("hex")?;
            ids::keep_unnamed(&store, &id, &manifest)?;
        }
        let meant = |text: &str| meant(&store, text, &platform);
        let whole = format!("{}01", "ab".repeat(31));
        assert_eq!(meant(&whole)?, Meant::Id(vec![Reference::of_digest(manifest)]));
        for text in ["abab", "sha256:abababab"] {
            let failure = meant(text).err().ok_or("several")?;
            assert_eq!(failure.kind, FailureKind::Usage, "{text}");
            assert!(failure.message.contains("several images"), "{}", failure.message);
        }
        for text in ["cafe", "app", "registry.example.com/app:1"] {
            let name = Reference::parse(text)?.with_default_tag();
            assert_eq!(meant(text)?, Meant::Elsewhere(name), "{text}");
        }
        for text in ["sha256:cafe", "sha256:", &"0".repeat(64)] {
            assert_eq!(meant(text)?, Meant::NoSuchId, "{text}");
        }
        for text in ["", "a b", "UPPER", "sha256:xyz:1"] {
            assert_eq!(meant(text).err().map(|failure| failure.kind), Some(FailureKind::Usage), "{text}");
        }
        Ok(())
    }
}
