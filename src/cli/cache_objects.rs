//! `type=s3`, `azblob` and `gha` of `--cache-from` and `--cache-to`: BuildKit's options, and the variables and files that
//! stand in for them.

use std::path::PathBuf;
use std::time::Duration;

use crate::build::{CacheLocation, Failure, FailureKind, ObjectLayout, ObjectSpec};
use crate::objects::{ActionsOptions, AzureOptions, S3Options, Service};
use crate::registry::Secret;

use super::aws_files;
use super::cache::Options;
use super::values;

/// Objects of S3 are renewed after so many seconds, as in BuildKit.
const TOUCH_AFTER: u64 = 24 * 3600;
/// Characters of a scope: keys of GitHub's service have 512.
const LONGEST_SCOPE: usize = 256;

/// Options of S3.
const S3_KEYS: &[&str] = &[
    "bucket",
    "region",
    "endpoint_url",
    "use_path_style",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "upload_parallelism",
    "touch_refresh",
    "retry_mode",
    "retry_max_attempts",
    "disable_accept_encoding",
];
const AZURE_KEYS: &[&str] = &[
    "account_url",
    "account_name",
    "container",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "name",
    "secret_access_key",
    "upload_parallelism",
    "retry_max_attempts",
];
const ACTIONS_KEYS: &[&str] = &[
    "scope",
    "url",
    "url_v2",
    "token",
    "timeout",
    "version",
    "repository",
    "ghtoken",
    "upload_parallelism",
    "retry_max_attempts",
];

/// The options that say where a cache of a type is; `None` for types that are no object stores.
pub(super) fn keys(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "s3" => Some(S3_KEYS),
        "azblob" => Some(AZURE_KEYS),
        "gha" => Some(ACTIONS_KEYS),
        _ => None,
    }
}

/// What is looked at besides the options.
pub(super) struct Surroundings<'a> {
    /// A variable of the environment that is not empty.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file; `None` where there is none.
    pub file: &'a dyn Fn(&PathBuf) -> Option<String>,
}

impl Surroundings<'_> {
    fn var(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }
}

/// The cache that the options describe.
pub(super) fn location(options: &Options, around: &Surroundings<'_>) -> Result<CacheLocation, Failure> {
    let reading = Reading { options, around };
    let (service, layout) = match options.kind.as_str() {
        "s3" => reading.s3()?,
        "azblob" => reading.azure()?,
        _ => reading.actions()?,
    };
    let attempts = reading.number("retry_max_attempts")?;
    let patience = options.get("timeout").map(values::duration).transpose();
    let patience = patience.map_err(|error| options.bad(format!("timeout: {error}")))?;
    Ok(CacheLocation::Objects(ObjectSpec { service, layout, attempts, patience }))
}

struct Reading<'a> {
    options: &'a Options,
    around: &'a Surroundings<'a>,
}

impl Reading<'_> {
    fn get(&self, key: &str) -> Option<String> {
        self.options.get(key).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// An option, or the variable that stands in for it.
    fn needed(&self, key: &str, variable: &str) -> Result<String, Failure> {
        self.get(key).or_else(|| self.around.var(variable)).ok_or_else(|| {
            let (flag, kind) = (self.options.flag, &self.options.kind);
            usage(format!("{flag}: type={kind} needs {key}=... or {variable}"))
        })
    }

    fn number(&self, key: &str) -> Result<Option<u32>, Failure> {
        let Some(text) = self.options.get(key) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number > 0);
        number.map(Some).ok_or_else(|| self.options.bad(format!("{key}={text} is no positive number")))
    }

    fn layout(&self, prefix: &str, [blobs, documents]: [&str; 2]) -> Result<ObjectLayout, Failure> {
        let get = |key: &str, default: &str| self.options.get(key).unwrap_or(default).to_owned();
        let (blobs, documents) = (get("blobs_prefix", blobs), get("manifests_prefix", documents));
        let name = get("name", "buildkit");
        let names: Vec<&str> = name.split(';').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Err(self.options.bad(format!("name={name} has no name")));
        }
        let touch = self.options.get("touch_refresh").map(values::duration).transpose();
        let touch = touch.map_err(|error| self.options.bad(format!("touch_refresh: {error}")))?;
        let touch = touch.unwrap_or(Duration::from_secs(TOUCH_AFTER)).as_secs();
        Ok(ObjectLayout {
            blobs: format!("{prefix}{blobs}"),
            documents: names.iter().map(|name| format!("{prefix}{documents}{name}.rbuild/")).collect(),
            parallel: self.number("upload_parallelism")?.and_then(|number| number.try_into().ok()),
            touch_after: i64::try_from(touch).unwrap_or(i64::MAX),
        })
    }

    fn s3(&self) -> Result<(Service, ObjectLayout), Failure> {
        let options = self.options;
        match options.get("retry_mode") {
            None | Some("standard") => {}
            Some("adaptive") => {
                let message = format!("{}: retry_mode=adaptive is not supported", options.flag);
                return Err(Failure::new(FailureKind::Unsupported, message).help("leave it out"));
            }
            Some(other) => {
                return Err(options.bad(format!("retry_mode {other:?} is neither standard nor adaptive")));
            }
        }
        // That header is never signed, so both values are right.
        options.boolean("disable_accept_encoding", true)?;
        let given = |key: &str| self.get(key).map(Secret);
        let (key, session_token) = match (self.get("access_key_id"), given("secret_access_key")) {
            (Some(id), Some(secret)) => (Some((id, secret)), given("session_token")),
            (None, None) => aws_files::credentials(self.around).map_err(|error| options.bad(error))?,
            _ => {
                return Err(options.bad("access_key_id and secret_access_key belong together".into()));
            }
        };
        let region = match self.get("region").or_else(|| self.around.var("AWS_REGION")) {
            Some(region) => region,
            None => aws_files::region(self.around)
                .or_else(|| self.around.var("AWS_DEFAULT_REGION"))
                .map_or_else(|| self.needed("region", "AWS_REGION"), Ok)?,
        };
        let endpoint = self.get("endpoint_url");
        let s3 = S3Options {
            bucket: self.needed("bucket", "AWS_BUCKET")?,
            region,
            path_style: options.boolean("use_path_style", false)?,
            endpoint: endpoint
                .or_else(|| self.around.var("AWS_ENDPOINT_URL_S3"))
                .or_else(|| self.around.var("AWS_ENDPOINT_URL")),
            key,
            session_token,
        };
        Ok((Service::S3(s3), self.layout(&self.get("prefix").unwrap_or_default(), ["blobs/", "manifests/"])?))
    }

    fn azure(&self) -> Result<(Service, ObjectLayout), Failure> {
        let account_url = self.needed("account_url", "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL")?;
        let host = account_url.split("://").nth(1).unwrap_or_default();
        let first = host.split(['.', ':', '/']).next().unwrap_or_default().to_owned();
        let variable = |name: &str| self.around.var(&format!("BUILDKIT_AZURE_STORAGE_{name}"));
        let azure = AzureOptions {
            account: self.get("account_name").or_else(|| variable("ACCOUNT_NAME")).unwrap_or(first),
            container: self
                .get("container")
                .or_else(|| variable("CONTAINER"))
                .unwrap_or_else(|| "buildkit-cache".to_owned()),
            key: self.get("secret_access_key").map(Secret),
            account_url: Secret(account_url),
        };
        if azure.key.is_none() && !azure.account_url.0.contains("sig=") {
            let message = format!(
                "{}: type=azblob needs secret_access_key=KEY, or an account_url with a shared access signature",
                self.options.flag
            );
            return Err(usage(message).help("identities of Azure (managed ones, az login) are not supported"));
        }
        let prefix = self.options.get("prefix").map(str::to_owned).or_else(|| variable("PREFIX"));
        let layout = self.layout(&slashed(&prefix.unwrap_or_default()), ["blobs/", "manifests/"])?;
        let slashes = |text: String| text.trim_start_matches('/').to_owned();
        Ok((Service::Azure(azure), ObjectLayout { blobs: slashes(layout.blobs), ..layout }))
    }

    fn actions(&self) -> Result<(Service, ObjectLayout), Failure> {
        let flag = self.options.flag;
        for key in ["repository", "ghtoken"] {
            if self.options.get(key).is_some() {
                let message = format!("{flag} type=gha: {key} is not supported");
                return Err(Failure::new(FailureKind::Unsupported, message)
                    .help("leave it out: in BuildKit it only saves requests"));
            }
        }
        if let Some(version) = self.options.get("version").filter(|version| *version != "2") {
            let message = format!("{flag} type=gha: version={version} of the service is not supported");
            return Err(Failure::new(FailureKind::Unsupported, message)
                .help("version 2 is what GitHub has; leave version out"));
        }
        let url = self.get("url_v2").or_else(|| self.around.var("ACTIONS_RESULTS_URL"));
        let old = self.get("url").or_else(|| self.around.var("ACTIONS_CACHE_URL"));
        let Some(url) = url else {
            let message = format!("{flag}: type=gha needs url_v2=... or ACTIONS_RESULTS_URL");
            return Err(usage(message).help(match old {
                Some(_) => "url and ACTIONS_CACHE_URL are of version 1 of the service, which GitHub has turned off",
                None => "a step of a workflow gets it from crazy-max/ghaction-github-runtime or actions/github-script",
            }));
        };
        let token = Secret(self.needed("token", "ACTIONS_RUNTIME_TOKEN")?);
        let scope = self.get("scope").unwrap_or_else(|| "buildkit".to_owned());
        if scope.len() > LONGEST_SCOPE || scope.contains(',') || scope.chars().any(char::is_control) {
            let message = format!("scope {scope:?} has a comma, or more than {LONGEST_SCOPE} characters");
            return Err(self.options.bad(message));
        }
        let layout = ObjectLayout {
            blobs: "rbuild-blob-1-".into(),
            documents: vec![format!("rbuild-index-1-{scope}#")],
            parallel: self.number("upload_parallelism")?.and_then(|number| number.try_into().ok()),
            touch_after: i64::MAX,
        };
        Ok((Service::Actions(ActionsOptions { url, token }), layout))
    }
}

/// A prefix that ends with a slash, if there is one.
fn slashed(prefix: &str) -> String {
    match prefix.trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    }
}

fn usage(message: String) -> Failure {
    Failure::new(FailureKind::Usage, message)
}
