//! `--cache-from` and `--cache-to`.

use std::path::PathBuf;

use crate::build::{
    CacheBounds, CacheLocation, CacheTarget, CompressionChoice, Failure, FailureKind, RecordKey, TrustedKey,
};
use crate::digest::Digest;
use crate::suggest::suggest;

use super::args::BuildArgs;
use super::cache_objects::{self, Surroundings};
use super::environment::Environment;
use super::{outputs, sign, values};

/// Types that others have and that are not there.
const LATER: [&str; 2] = ["gcs", "webdav"];
const TYPES: &str = "registry, local, inline, s3, azblob and gha";
const FROM_KEYS: &[&str] = &["type", "ref", "src", "tag", "digest", "verify"];
const TO_KEYS: &[&str] = &[
    "type",
    "ref",
    "dest",
    "tag",
    "mode",
    "ignore-error",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "max-age",
    "max-size",
    "reset",
    "sign",
];
/// The build argument that stands for `--cache-to type=inline`.
const INLINE_ARGUMENT: &str = "BUILDKIT_INLINE_CACHE";

fn usage(message: String) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// All sources.
pub(super) fn sources(args: &BuildArgs) -> Result<Vec<CacheLocation>, Failure> {
    let mut all = Vec::new();
    for text in &args.cache_from {
        for option in Options::parse("--cache-from", text, FROM_KEYS)? {
            let location = option.source("src")?;
            if location == CacheLocation::Inline {
                let message = "--cache-from: the inline cache of an image is read by the image's name";
                return Err(usage(message.into()).help("write --cache-from NAME"));
            }
            all.push(location);
        }
    }
    Ok(all)
}

/// The one cache that an argument names: as `--cache-from` and `--cache-to` do, or by the path of a directory.
pub(super) fn location(text: &str) -> Result<CacheLocation, Failure> {
    if text.starts_with(['/', '.']) && !text.contains('=') {
        return Ok(CacheLocation::Local { path: text.into(), tag: "latest".into(), digest: None });
    }
    let keys = [FROM_KEYS, &["dest"]].concat();
    let mut options = Options::parse("the cache", text, &keys)?;
    let (Some(option), true) = (options.pop(), options.is_empty()) else {
        return Err(usage(format!("{text:?} names several caches")));
    };
    let location = option.source(if option.get("dest").is_some() { "dest" } else { "src" })?;
    if location == CacheLocation::Inline {
        let message = "the cache: the inline cache of an image is read by the image's name";
        return Err(usage(message.into()));
    }
    Ok(location)
}

/// All targets, with the one that [`INLINE_ARGUMENT`] asks for.
pub(super) fn targets(args: &BuildArgs) -> Result<Vec<CacheTarget>, Failure> {
    let mut all = Vec::new();
    for text in &args.cache_to {
        for option in Options::parse("--cache-to", text, TO_KEYS)? {
            all.push(option.target()?);
        }
    }
    let given = args.input.build_args.iter().rev().find_map(|text| {
        text.split_once('=').filter(|(name, _)| *name == INLINE_ARGUMENT).map(|(_, value)| value)
    });
    let inline = match given {
        None | Some("") => false,
        Some(value) => {
            outputs::boolean(value).map_err(|error| usage(format!("{INLINE_ARGUMENT}: {error}")))?
        }
    };
    if inline && !all.iter().any(|target| target.location == CacheLocation::Inline) {
        all.push(CacheTarget::new(CacheLocation::Inline));
    }
    Ok(all)
}

/// The fields of one cache.
pub(super) struct Options {
    pub flag: &'static str,
    pub kind: String,
    fields: Vec<(String, String)>,
}

impl Options {
    /// `type=...,key=value`, or names of caches in registries.
    fn parse(flag: &'static str, text: &str, known: &[&str]) -> Result<Vec<Self>, Failure> {
        let parts = outputs::csv(text).map_err(|error| usage(format!("{flag}: {error}")))?;
        if parts.iter().all(|part| !part.contains('=')) {
            let short = |part: &String| Options {
                flag,
                kind: "registry".into(),
                fields: vec![("ref".into(), part.trim().to_owned())],
            };
            return Ok(parts.iter().map(short).collect());
        }
        let (mut kind, mut fields) = (None, Vec::new());
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| usage(format!("{flag}: invalid field {part:?}, expected KEY=VALUE")))?;
            match key.trim().to_lowercase() {
                key if key == "type" => kind = Some(value.to_owned()),
                key => fields.push((key, value.to_owned())),
            }
        }
        let kind = kind.ok_or_else(|| usage(format!("{flag}: type=... is missing in {text:?}")))?;
        if LATER.contains(&kind.as_str()) {
            let message = format!("{flag} type={kind} is not supported yet");
            return Err(Failure::new(FailureKind::Unsupported, message).help(format!("use one of {TYPES}")));
        }
        let objects = cache_objects::keys(&kind);
        if objects.is_none() && !["registry", "local", "inline"].contains(&kind.as_str()) {
            return Err(usage(format!("{flag}: unknown type {kind:?}; it is one of {TYPES}")));
        }
        for (key, _) in &fields {
            if objects.is_some_and(|keys| keys.contains(&key.as_str())) {
                continue;
            }
            if !known.contains(&key.as_str()) {
                let all = known.iter().chain(objects.unwrap_or_default()).copied();
                let hint =
                    suggest(key, all).map_or_else(String::new, |key| format!("; did you mean {key:?}?"));
                return Err(usage(format!("{flag}: unknown option {key:?}{hint}")));
            }
            if !fits(&kind, key) {
                return Err(usage(format!("{flag}: the option {key:?} does not go with type={kind}")));
            }
        }
        Ok(vec![Options { flag, kind, fields }])
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn needed(&self, key: &str) -> Result<&str, Failure> {
        self.get(key)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| usage(format!("{}: type={} needs {key}=...", self.flag, self.kind)))
    }

    pub fn bad(&self, error: String) -> Failure {
        usage(format!("{}: {error}", self.flag))
    }

    pub fn boolean(&self, key: &str, default: bool) -> Result<bool, Failure> {
        let value = self.get(key).map(outputs::boolean).transpose();
        Ok(value.map_err(|error| self.bad(format!("{key}: {error}")))?.unwrap_or(default))
    }

    fn location(&self, path_key: &str) -> Result<CacheLocation, Failure> {
        match self.kind.as_str() {
            "registry" => Ok(CacheLocation::Registry { reference: self.needed("ref")?.to_owned() }),
            "local" => {
                let digest = self
                    .get("digest")
                    .map(|text| Digest::parse(text).map_err(|error| self.bad(format!("digest: {error}"))));
                Ok(CacheLocation::Local {
                    path: PathBuf::from(self.needed(path_key)?),
                    tag: self.get("tag").filter(|tag| !tag.is_empty()).unwrap_or("latest").to_owned(),
                    digest: digest.transpose()?,
                })
            }
            "inline" => Ok(CacheLocation::Inline),
            _ => cache_objects::location(
                self,
                &Surroundings {
                    variable: &Environment::variable,
                    file: &|path| std::fs::read_to_string(path).ok(),
                },
            ),
        }
    }

    /// A cache that is read, and the key that has to have signed it.
    fn source(&self, path_key: &str) -> Result<CacheLocation, Failure> {
        let location = self.location(path_key)?;
        let Some(key) = self.get("verify") else { return Ok(location) };
        let key = TrustedKey(sign::public_key(key)?);
        Ok(CacheLocation::Signed { location: Box::new(location), key })
    }

    fn target(&self) -> Result<CacheTarget, Failure> {
        let mut target = CacheTarget::new(self.location("dest")?);
        target.mode = match self.get("mode") {
            None | Some("min") => crate::build::CacheMode::Min,
            Some("max") if self.kind == "inline" => {
                return Err(self
                    .bad("mode=max does not go with type=inline: only the image's layers are there".into()));
            }
            Some("max") => crate::build::CacheMode::Max,
            Some(other) => return Err(self.bad(format!("mode {other:?} is neither min nor max"))),
        };
        for key in ["image-manifest", "oci-mediatypes"] {
            if !self.boolean(key, true)? {
                let message =
                    format!("{} {key}=false is not supported: a cache is an OCI manifest", self.flag);
                return Err(Failure::new(FailureKind::Unsupported, message));
            }
        }
        target.ignore_error = self.boolean("ignore-error", false)?;
        target.reset = self.boolean("reset", false)?;
        let password = || Environment::variable("COSIGN_PASSWORD");
        let key = self.get("sign").map(|key| sign::record_key(key, password())).transpose()?;
        target.sign = key.map(RecordKey);
        target.compression = self.compression()?;
        target.bounds = CacheBounds {
            max_age: self.age()?,
            max_size: self
                .get("max-size")
                .map(|text| values::size(text).map_err(|error| self.bad(format!("max-size: {error}"))))
                .transpose()?,
            lifetime: None,
        };
        Ok(target)
    }

    fn age(&self) -> Result<Option<i64>, Failure> {
        let seconds = self.get("max-age").map(age).transpose();
        seconds.map_err(|error| self.bad(format!("max-age: {error}")))
    }

    fn compression(&self) -> Result<Option<CompressionChoice>, Failure> {
        let algorithm = match self.get("compression") {
            Some("estargz") => {
                let message = format!(
                    "{} compression=estargz is not supported: its layers are not those of the steps",
                    self.flag
                );
                return Err(Failure::new(FailureKind::Unsupported, message));
            }
            given => given.map(outputs::compression).transpose().map_err(|error| self.bad(error))?,
        };
        let level = self
            .get("compression-level")
            .map(|text| text.parse().map_err(|_| self.bad(format!("invalid compression-level {text:?}"))));
        let level = level.transpose()?;
        let force = self.boolean("force-compression", false)?;
        let given = algorithm.is_some() || level.is_some() || force;
        let algorithm = algorithm.unwrap_or_default();
        Ok(given.then_some(CompressionChoice { algorithm, level, force, estargz: false }))
    }
}

/// `7d`, `12h`: days, or what every duration is; in seconds.
pub(super) fn age(text: &str) -> Result<i64, String> {
    match text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()) {
        Some(days) => Ok(i64::from(days) * 24 * 3600),
        None => values::duration(text).map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
    }
}

/// Whether a type has an option.
fn fits(kind: &str, key: &str) -> bool {
    match key {
        "ref" => kind == "registry",
        "reset" => kind == "local" || cache_objects::keys(kind).is_some(),
        "src" | "dest" | "tag" | "digest" => kind == "local",
        "mode" | "ignore-error" => true,
        _ => kind != "inline",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(texts: &[&str]) -> Result<Vec<CacheLocation>, String> {
        let cache_from = texts.iter().map(|text| (*text).to_owned()).collect();
        sources(&BuildArgs { cache_from, ..BuildArgs::default() }).map_err(|failure| failure.message)
    }

    fn to(texts: &[&str]) -> Result<Vec<CacheTarget>, String> {
        let cache_to = texts.iter().map(|text| (*text).to_owned()).collect();
        targets(&BuildArgs { cache_to, ..BuildArgs::default() }).map_err(|failure| failure.message)
    }

    fn registry(name: &str) -> CacheLocation {
        CacheLocation::Registry { reference: name.into() }
    }

    fn local(path: &str, tag: &str) -> CacheLocation {
        CacheLocation::Local { path: path.into(), tag: tag.into(), digest: None }
    }

    #[test]
    fn sources_are_read_as_buildx_reads_them() {
        assert_eq!(from(&["a:1", "b,c"]), Ok(vec![registry("a:1"), registry("b"), registry("c")]));
        assert_eq!(from(&["type=registry,ref=a"]), Ok(vec![registry("a")]));
        assert_eq!(from(&["type=local,src=d"]), Ok(vec![local("d", "latest")]));
        assert_eq!(from(&["type=local,src=d,tag=t"]), Ok(vec![local("d", "t")]));
    }

    #[test]
    fn targets_have_their_options() {
        let text = "type=registry,ref=a,mode=max,ignore-error=true,image-manifest=true,oci-mediatypes=true,\
                    compression=zstd,compression-level=3,force-compression=true,max-age=7d,max-size=1g";
        let target = to(&[text]).map(|mut all| all.remove(0));
        let compression = CompressionChoice {
            algorithm: crate::build::CompressionAlgorithm::Zstd,
            level: Some(3),
            force: true,
            estargz: false,
        };
        assert_eq!(
            target,
            Ok(CacheTarget {
                mode: crate::build::CacheMode::Max,
                ignore_error: true,
                compression: Some(compression),
                bounds: CacheBounds { max_age: Some(7 * 24 * 3600), max_size: Some(1 << 30), lifetime: None },
                ..CacheTarget::new(registry("a"))
            })
        );
        assert_eq!(to(&["type=local,dest=d,reset=true"]).map(|all| all[0].reset), Ok(true));
        assert_eq!(to(&["type=inline"]), Ok(vec![CacheTarget::new(CacheLocation::Inline)]));
    }

    #[test]
    fn an_inline_cache_can_be_asked_for_by_a_build_argument() {
        let mut args = BuildArgs::default();
        args.input.build_args = vec!["BUILDKIT_INLINE_CACHE=1".into()];
        assert_eq!(targets(&args).map_err(|_| ()), Ok(vec![CacheTarget::new(CacheLocation::Inline)]));
        args.input.build_args.push("BUILDKIT_INLINE_CACHE=0".into());
        assert_eq!(targets(&args).map_err(|_| ()), Ok(Vec::new()));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (text, word) in [
            ("type=gcs", "type=gcs is not supported yet"),
            ("type=s3,region=r,bukcet=b", "did you mean \"bucket\""),
            ("type=s3,bucket=b,region=r,dest=d", "does not go with type=s3"),
            ("type=s3,bucket=b,region=r,access_key_id=a", "belong together"),
            ("type=s3,bucket=b,region=r,upload_parallelism=0", "no positive number"),
            ("type=s3,bucket=b,region=r,touch_refresh=x", "touch_refresh"),
            ("type=s3,bucket=b,region=r,retry_mode=adaptive", "retry_mode=adaptive is not supported"),
            ("type=s3,bucket=b,region=r,scope=x", "unknown option"),
            ("type=azblob", "account_url"),
            ("type=azblob,account_url=https://a.blob.test", "secret_access_key"),
            ("type=gha,url_v2=https://a.test/,token=t,scope=a,b", "invalid field"),
            ("type=gha,url_v2=https://a.test/,token=t,ghtoken=x", "ghtoken is not supported"),
            ("type=gha,url_v2=https://a.test/,token=t,version=1", "version=1"),
            ("type=wat", "unknown type"),
            ("ref=a", "type=... is missing"),
            ("type=registry", "needs ref"),
            ("type=registry,ref=a,mode=most", "neither min nor max"),
            ("type=registry,ref=a,mod=max", "did you mean \"mode\""),
            ("type=registry,ref=a,dest=d", "does not go with type=registry"),
            ("type=registry,ref=a,image-manifest=false", "image-manifest=false is not supported"),
            ("type=registry,ref=a,compression=estargz", "estargz is not supported"),
            ("type=registry,ref=a,max-size=x", "max-size"),
            ("type=registry,ref=a,max-age=x", "max-age"),
            ("type=local", "needs dest"),
            ("type=inline,mode=max", "mode=max"),
        ] {
            let message = to(&[text]).err().unwrap_or_default();
            assert!(message.contains(word), "{text}: {message}");
        }
        for (text, word) in [
            ("type=inline", "read by the image's name"),
            ("type=local,src=d,digest=x", "digest"),
            ("type=webdav", "type=webdav is not supported yet"),
            ("type=registry,ref=a,mode=max", "unknown option"),
        ] {
            let message = from(&[text]).err().unwrap_or_default();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
