//! Which images a listing shows: `--filter` and patterns of names.

use serde_json::Value;

use crate::build::{Failure, FailureKind};
use crate::image::inspect::ImageSummary;
use crate::image::{Platform, Reference, ids};
use crate::store::Store;

use super::images::{ImagesArgs, image};

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// What `--filter` and the name ask for.
#[derive(Default)]
pub(super) struct Filters {
    patterns: Vec<String>,
    pub dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    before: Option<String>,
    since: Option<String>,
}

impl Filters {
    pub(super) fn parse(args: &ImagesArgs, store: &Store) -> Result<Self, Failure> {
        let mut filters = Filters { patterns: args.name.iter().cloned().collect(), ..Filters::default() };
        for text in &args.filters {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| usage(format!("invalid filter {text:?}")).help("write NAME=VALUE"))?;
            let created = || {
                image(store, value, &Platform::host()).map(|image| image.config.created.unwrap_or_default())
            };
            match name {
                "reference" => filters.patterns.push(value.to_owned()),
                "dangling" => {
                    let on = super::flags::boolean(value);
                    let on = on.ok_or_else(|| {
                        usage(format!("invalid filter {text:?}")).help("it is true or false")
                    })?;
                    filters.dangling = Some(on);
                }
                "label" => {
                    let (name, value) =
                        value.split_once('=').map_or((value, None), |(name, value)| (name, Some(value)));
                    filters.labels.push((name.to_owned(), value.map(str::to_owned)));
                }
                "before" => filters.before = Some(created()?),
                "since" => filters.since = Some(created()?),
                _ => {
                    let message = format!("unknown filter {name:?}");
                    return Err(Failure::new(FailureKind::Unsupported, message)
                        .help("there are reference=, dangling=, label=, before= and since="));
                }
            }
        }
        Ok(filters)
    }

    pub(super) fn fit(&self, store: &Store, image: &ImageSummary) -> bool {
        let named =
            self.patterns.is_empty() || self.patterns.iter().any(|pattern| is_like(&image.name, pattern));
        let old = self.before.as_ref().is_none_or(|before| image.created < *before);
        let new = self.since.as_ref().is_none_or(|since| image.created > *since);
        named && old && new && (self.labels.is_empty() || self.has_labels(store, image))
    }

    fn has_labels(&self, store: &Store, image: &ImageSummary) -> bool {
        let Ok(Some(image)) = ids::shown(store, &image.name, &Platform::host()) else { return false };
        let labels = serde_json::to_value(&image.config.config).unwrap_or_default();
        self.labels.iter().all(|(name, value)| match (&labels["Labels"][name.as_str()], value) {
            (Value::String(have), Some(want)) => have == want,
            (have, None) => have.is_string(),
            _ => false,
        })
    }
}

/// Whether a name fits `REPOSITORY[:TAG]` with wildcards.
fn is_like(name: &Reference, pattern: &str) -> bool {
    if name.digest.is_some() && name.tag.is_none() {
        return false;
    }
    let whole = name.familiar();
    let repository = name.familiar_repository();
    let last = repository.rsplit('/').next().unwrap_or_default().to_owned();
    let tag = name.tag.clone().unwrap_or_default();
    let normal = Reference::parse(pattern).map(|pattern| match pattern.tag {
        Some(_) => pattern.familiar(),
        None => pattern.familiar_repository(),
    });
    let pattern = normal.as_deref().unwrap_or(pattern);
    [&whole, &repository, &format!("{last}:{tag}"), &last].into_iter().any(|text| glob(pattern, text))
}

/// `*` for anything but `/`, `?` for one character.
fn glob(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), first) => {
            glob(&pattern[1..], text)
                || first.is_some_and(|c| c != '/' && glob(pattern, &text[c.len_utf8()..]))
        }
        (Some('?'), Some(c)) if c != '/' => glob(&pattern[1..], &text[c.len_utf8()..]),
        (Some(one), Some(other)) if one == other => glob(&pattern[one.len_utf8()..], &text[one.len_utf8()..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filtered_as_docker_does() {
        let name = |text: &str| Reference::parse(text).unwrap();
        for (text, pattern, fits) in [
            ("app:1", "app", true),
            ("app:1", "app:1", true),
            ("app:1", "app:2", false),
            ("app:1", "ap*", true),
            ("registry.example.com/team/app:1", "registry.example.com/team/app", true),
            ("registry.example.com/team/app:1", "registry.example.com/*/app", true),
            ("app:1", "other", false),
            ("docker.io/library/app:1", "docker.io/library/app", true),
        ] {
            assert_eq!(is_like(&name(text), pattern), fits, "{text} {pattern}");
        }
    }
}
