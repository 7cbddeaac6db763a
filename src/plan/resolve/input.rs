//! What a plan is made from, and what comes of asking for one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dockerfile::{Source, Span};
use crate::image::{ImageConfig, Platform};
use crate::plan::RunNetwork;

use super::super::graph::{BaseId, Plan};

/// What a build is asked for, as far as the plan depends on it.
#[derive(Clone, Debug)]
pub struct PlanInput {
    /// `--target`.
    pub target: Option<String>,
    /// A stage, by its position, that is planned in place of the target. Arguments stay those of the target.
    pub stage: Option<usize>,
    /// `--build-arg`; the last of one name counts.
    pub build_args: Vec<(String, String)>,
    /// What stands for the value that the Dockerfile itself gives `SOURCE_DATE_EPOCH`, where that refers to a
    /// source.
    pub epoch: Option<String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, ContextKind>,
    /// Platform of the image.
    pub platform: Platform,
    /// It was asked for: the image is labelled with it, whatever its base is for.
    pub platform_given: bool,
    /// Others are planned besides it: steps are named with the platform.
    pub several_platforms: bool,
    /// Platform of this machine.
    pub build_platform: Platform,
    /// `--network`.
    pub network: RunNetwork,
    /// `--allow`.
    pub allow: Entitlements,
}

/// What a build may do beyond the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entitlements {
    /// `network.host`: RUN --network=host.
    pub network_host: bool,
    /// `security.insecure`: RUN --security=insecure.
    pub insecure: bool,
    /// `device`: any device.
    pub any_device: bool,
    /// `device=NAME`: these.
    pub devices: Vec<String>,
}

impl Entitlements {
    /// Everything, for what looks at a build and runs nothing.
    pub fn all() -> Self {
        Entitlements { network_host: true, insecure: true, any_device: true, devices: Vec::new() }
    }

    /// Whether a device may be used, by its full name or its class.
    pub fn device(&self, name: &str) -> bool {
        let class = name.split('=').next().unwrap_or(name);
        self.any_device || self.devices.iter().any(|allowed| allowed == name || allowed == class)
    }
}

/// What a named context holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextKind {
    /// Files.
    Files,
    /// An image.
    Image,
    /// Nothing (`docker-image://scratch`).
    Scratch,
}

/// An image whose config must be known.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// Reference, or name of an image-like context.
    pub name: String,
    /// Platform wanted.
    pub platform: Platform,
    /// Where it is named.
    pub source: Arc<Source>,
    /// Where exactly.
    pub span: Span,
}

/// Images that were found, by the name and the platform they were requested for. What was found may be for
/// another platform.
#[derive(Clone, Debug, Default)]
pub struct BaseConfigs {
    ids: BTreeMap<(String, Platform), BaseId>,
    configs: BTreeMap<(String, Platform), ImageConfig>,
}

impl BaseConfigs {
    /// Adds the answer to a request.
    pub fn insert(&mut self, name: &str, platform: &Platform, id: BaseId, config: ImageConfig) {
        let key = (name.to_owned(), platform.clone());
        self.ids.insert(key.clone(), id);
        self.configs.insert(key, config);
    }

    /// The answer to a request.
    pub fn get(&self, name: &str, platform: &Platform) -> Option<(BaseId, &ImageConfig)> {
        let key = (name.to_owned(), platform.clone());
        Some((*self.ids.get(&key)?, self.configs.get(&key)?))
    }

    /// All configs, by the request.
    pub fn configs(&self) -> &BTreeMap<(String, Platform), ImageConfig> {
        &self.configs
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Planned {
    /// Get these and ask again.
    NeedsImages(Vec<ImageRequest>),
    /// The whole plan.
    Ready(Box<Plan>),
}
