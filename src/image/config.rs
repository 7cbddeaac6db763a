//! The image config (OCI image-spec config.md, with Docker's extensions).
//!
//! Field order is that of BuildKit, maps are ordered, and unknown fields are kept in
//! `rest`, so that the same values always give the same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::DiffId;

/// A whole image config.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339 time of creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// `MAINTAINER`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// GOARCH name.
    #[serde(default)]
    pub architecture: String,
    /// CPU variant, such as `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// GOOS name.
    #[serde(default)]
    pub os: String,
    /// `os.version` of the base.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// `os.features` of the base.
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
    /// What a container of this image runs with.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it came to be, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub history: Vec<History>,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The `config` object. `None` and an empty list differ: `CMD []` stores an empty list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// `USER`, as written.
    #[serde(default, rename = "User", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`, `port/proto`.
    #[serde(
        default,
        rename = "ExposedPorts",
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `ENV`, `name=value` in order of first mention.
    #[serde(
        default,
        rename = "Env",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    #[serde(default, rename = "Entrypoint", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    #[serde(default, rename = "Cmd", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Docker: the probe.
    #[serde(default, rename = "Healthcheck", skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker's legacy mark, which BuildKit sets with every CMD.
    #[serde(default, rename = "ArgsEscaped", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// `VOLUME`.
    #[serde(
        default,
        rename = "Volumes",
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub volumes: BTreeMap<String, Value>,
    /// `WORKDIR`.
    #[serde(default, rename = "WorkingDir", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Docker: triggers for images built from this one.
    #[serde(
        default,
        rename = "OnBuild",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub on_build: Vec<String>,
    /// `LABEL`.
    #[serde(
        default,
        rename = "Labels",
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`, as written.
    #[serde(default, rename = "StopSignal", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Docker: `SHELL`.
    #[serde(default, rename = "Shell", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Docker's `Healthcheck` object. Durations are nanoseconds; zero is left out and means "inherit".
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", text]`.
    #[serde(
        default,
        rename = "Test",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub test: Vec<String>,
    /// Between probes.
    #[serde(default, rename = "Interval", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one probe.
    #[serde(default, rename = "Timeout", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Grace at the start.
    #[serde(default, rename = "StartPeriod", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between probes during the grace.
    #[serde(default, rename = "StartInterval", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that count as unhealthy.
    #[serde(default, rename = "Retries", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// `rootfs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        RootFs { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One line of history. Entries without `empty_layer` equal the layers in number and order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Author in force.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Who made the entry.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The entry made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Unknown fields.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
